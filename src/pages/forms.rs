//! Forms that pages send: read within a limit, and only if they were on one of our pages.

use actix_web::http::header::LOCATION;
use actix_web::web::{Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use subtle::ConstantTimeEq;

use super::layout::{PageError, Viewer};
use crate::config::Limits;
use crate::error::Error;
use crate::http::body;
use crate::http::problem::Problem;

/// Largest form without a file, in bytes: a mapping that was corrected is the largest.
const FORM_BYTES_MAX: usize = 4 << 20;
const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The fields of a form.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// A form on a page that `viewer` was shown.
    ///
    /// # Errors
    /// 403 without the token of the viewer's pages; as [`Form::of_anyone`].
    pub async fn of(
        viewer: &Viewer,
        request: &HttpRequest,
        payload: Payload,
        limits: &Limits,
    ) -> Result<Self, PageError> {
        let form = Self::of_anyone(request, payload, limits).await?;
        check_csrf(viewer, form.text("csrf"))?;
        Ok(form)
    }

    /// A form for those who have not signed in.
    ///
    /// # Errors
    /// 415 for another content type, 413 above `form_bytes_max`, 400 for what is no form.
    pub async fn of_anyone(
        request: &HttpRequest,
        payload: Payload,
        limits: &Limits,
    ) -> Result<Self, PageError> {
        if body::media_type(request)?.as_deref() != Some(MEDIA_TYPE) {
            let detail = format!("send a form as {MEDIA_TYPE}");
            return Err(Problem::unsupported_media_type(detail).into());
        }
        let limit = ("form_bytes_max", FORM_BYTES_MAX);
        let body = body::raw(request, payload, limits, limit).await?;
        let body = String::from_utf8(body).map_err(|_| unreadable())?;
        let fields = Query::<Vec<(String, String)>>::from_query(&body);
        Ok(Self(fields.map_err(|_| unreadable())?.into_inner()))
    }

    #[cfg(test)]
    pub fn from_pairs<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(fields.into_iter().map(owned).collect())
    }

    /// A field that was filled in.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    }
}

/// Whether a form was on one of our pages. The time that it takes says nothing about the token.
///
/// # Errors
/// 403.
pub fn check_csrf(viewer: &Viewer, sent: Option<&str>) -> Result<(), PageError> {
    let sent = sent.unwrap_or_default().as_bytes();
    let ours = viewer.csrf.as_deref();
    if ours.is_some_and(|ours| ours.as_bytes().ct_eq(sent).into()) {
        return Ok(());
    }
    let detail = "this form was open since before you signed in, or is not ours";
    let next = "Go back, load the page again, and send the form once more.";
    Err(PageError::from(Problem::forbidden(detail)).with_next(next))
}

/// Leads from a form to a page, so that loading the page again sends nothing again.
pub fn see(location: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((LOCATION, location))
        .finish()
}

fn unreadable() -> Error {
    Error::Malformed("the form cannot be read".into())
}

//! By what a CRM knows us: a token of the settings, or one that we ask for.

use anyhow::anyhow;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;
use tokio::sync::Mutex;

use super::api::{explain, read, reason};
use super::{CrmError, CrmKind, CrmSettings, Login};
use crate::error::Result;

/// The header that says who asks.
#[derive(Debug)]
pub(super) enum Access {
    Fixed(HeaderName, HeaderValue),
    Asked {
        login: Login,
        url: Url,
        /// The last token, until it is refused.
        present: Mutex<Option<HeaderValue>>,
    },
}

impl Access {
    pub fn new(kind: CrmKind, settings: &CrmSettings, base: &Url) -> Result<Self> {
        if let Some(login) = &settings.login {
            let url = base
                .join("services/oauth2/token")
                .map_err(|e| anyhow!("crm.{}.base_url: {e}", kind.as_str()))?;
            return Ok(Self::Asked {
                login: login.clone(),
                url,
                present: Mutex::default(),
            });
        }
        let token = settings.token.reveal();
        let (name, value) = match kind {
            CrmKind::HubSpot | CrmKind::Salesforce => {
                (AUTHORIZATION, secret(&format!("Bearer {token}")))
            }
            CrmKind::Pipedrive => (HeaderName::from_static("x-api-token"), secret(token)),
        };
        let value = value.ok_or_else(|| {
            anyhow!(
                "crm.{}.token has characters that no token has",
                kind.as_str()
            )
        })?;
        Ok(Self::Fixed(name, value))
    }

    /// A request that says who asks.
    pub async fn sign(
        &self,
        client: &Client,
        request: RequestBuilder,
    ) -> Result<RequestBuilder, CrmError> {
        match self {
            Self::Fixed(name, value) => Ok(request.header(name, value)),
            Self::Asked {
                login,
                url,
                present,
            } => {
                // Others wait here, and then have the same token.
                let mut present = present.lock().await;
                let token = match &*present {
                    Some(token) => token.clone(),
                    None => present.insert(ask(client, login, url).await?).clone(),
                };
                Ok(request.header(AUTHORIZATION, token))
            }
        }
    }

    /// Forgets a token that was refused; answers with whether there can be another one.
    pub async fn renew(&self) -> bool {
        match self {
            Self::Fixed(..) => false,
            Self::Asked { present, .. } => {
                *present.lock().await = None;
                true
            }
        }
    }
}

async fn ask(client: &Client, login: &Login, url: &Url) -> Result<HeaderValue, CrmError> {
    let mut form = url.clone();
    form.query_pairs_mut()
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", &login.client_id)
        .append_pair("client_secret", login.client_secret.reveal());
    let response = client
        .post(url.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.query().unwrap_or_default().to_owned())
        .send()
        .await
        .map_err(|e| CrmError::Unavailable(explain(&e)))?;
    let status = response.status();
    let body = read(response).await?;
    if status.is_server_error() {
        return Err(CrmError::Unavailable(reason(status, &body)));
    }
    body["access_token"]
        .as_str()
        .filter(|_| status.is_success())
        .and_then(|token| secret(&format!("Bearer {token}")))
        .ok_or_else(|| {
            let said = body["error_description"].as_str().map(Value::from);
            let body = said.map_or(body, |said| serde_json::json!({ "message": said }));
            CrmError::Misconfigured(format!("login: {}", reason(status, &body)))
        })
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

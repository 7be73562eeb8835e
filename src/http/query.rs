//! Query strings, read so that every mistake is named by its parameter.

use std::collections::BTreeMap;
use std::str::FromStr;

use actix_web::HttpRequest;
use actix_web::web::Query;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::error::{Error, FieldError, Result};

/// The parameters of a request. Take each one that is known, then [`Params::finish`].
pub struct Params {
    values: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Params {
    /// # Errors
    /// `Malformed` when it is no query string, `Invalid` when a parameter is given twice.
    pub fn of(request: &HttpRequest) -> Result<Self> {
        let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|e| Error::Malformed(format!("the query string cannot be read: {e}")))?;
        let mut values = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, value) in pairs.into_inner() {
            if values.insert(name.clone(), value).is_some() {
                errors.push(FieldError::new(name, "is given more than once"));
            }
        }
        Ok(Self { values, errors })
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        self.values.remove(name).filter(|value| !value.is_empty())
    }

    /// As it was given, also where it is empty.
    pub fn given(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// A value of a type that reads itself; `expected` says in words what it takes.
    pub fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.refuse(name, format!("`{}` is not {expected}", text.escape_debug()));
        }
        value
    }

    /// One of the names of an enum.
    pub fn one_of<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        match T::deserialize(StrDeserializer::<ValueError>::new(&text)) {
            Ok(value) => Some(value),
            Err(e) => {
                self.refuse(name, e.to_string());
                None
            }
        }
    }

    pub fn refuse(&mut self, name: &str, reason: impl Into<String>) {
        self.errors.push(FieldError::new(name, reason));
    }

    /// For addresses that people pass on, to which mail programs add parameters of their own.
    ///
    /// # Errors
    /// `Invalid` with each parameter that is wrong or given twice; unknown ones do no harm.
    pub fn finish_known(mut self) -> Result<()> {
        self.values.clear();
        self.finish()
    }

    /// # Errors
    /// `Invalid` with each parameter that is wrong, unknown, or given twice.
    pub fn finish(mut self) -> Result<()> {
        for name in self.values.into_keys() {
            self.errors
                .push(FieldError::new(name, "there is no such parameter"));
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(self.errors))
        }
    }
}

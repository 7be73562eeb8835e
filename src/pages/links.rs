//! Addresses with parameters: filters and sort live in them.

use super::format::href::encoded;

/// An address, built parameter by parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    path: String,
    params: Vec<(&'static str, String)>,
}

impl Link {
    pub fn to(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            params: Vec::new(),
        }
    }

    /// The same with a parameter, in place of what it had under this name.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut link = self.clone();
        link.params.retain(|(known, _)| *known != name);
        link.params.push((name, value.to_owned()));
        link
    }

    pub fn with_some(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// What follows the path: for the hidden fields of a form that changes one of them.
    pub fn params(&self) -> &[(&'static str, String)] {
        &self.params
    }

    pub fn href(&self) -> String {
        let params: Vec<String> = (self.params.iter())
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        match params.as_slice() {
            [] => self.path.clone(),
            params => format!("{}?{}", self.path, params.join("&")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_has_one_value() {
        let link = Link::to("/board")
            .with("owner", "A & B")
            .with_some("team", None);
        assert_eq!(link.href(), "/board?owner=A%20%26%20B");
        assert_eq!(link.with("owner", "C").href(), "/board?owner=C");
        assert_eq!(Link::to("/").href(), "/");
    }
}

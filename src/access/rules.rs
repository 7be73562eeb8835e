//! What each role may ask for, by the pattern of the route. A route that is not named here is for
//! managers, and under `/v1` for programs too: what is new is closed to reps until somebody opens it.

use super::Role;

/// Where a route belongs, and so how one gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// For everybody: the state of the service, its description, what is needed to sign in; and webhooks,
    /// which know their senders by their own signatures.
    Open,
    /// For programs: a key with the request, or a session.
    Api,
    /// For people: a session.
    Page,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// If the `{owner}` in the path is the rep's own.
    OwnQueue,
    /// If the `{id}` in the path is that of a deal of the rep.
    OwnDeal,
    /// If it asks for the rep's own deals by `owner=`.
    OwnFilter,
    Refused,
}

const OPEN: [&str; 7] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/openapi-3.0.json",
    "/docs",
    "/sign-in",
];
const OPEN_UNDER: [&str; 3] = ["/docs/", "/assets/", "/v1/webhooks/"];

impl Zone {
    pub fn of(pattern: &str) -> Self {
        let is_open =
            OPEN.contains(&pattern) || OPEN_UNDER.iter().any(|folder| pattern.starts_with(folder));
        if is_open {
            Self::Open
        } else if pattern.starts_with("/v1/") {
            Self::Api
        } else {
            Self::Page
        }
    }
}

/// Whether `role` may ask for a route outside the open zone.
pub fn verdict(role: &Role, is_reading: bool, pattern: &str) -> Verdict {
    match role {
        Role::Manager => Verdict::Allowed,
        Role::Api if Zone::of(pattern) == Zone::Api => Verdict::Allowed,
        Role::Api => Verdict::Refused,
        Role::Rep { .. } => of_rep(is_reading, pattern),
    }
}

fn of_rep(is_reading: bool, pattern: &str) -> Verdict {
    match pattern {
        "/" if is_reading => Verdict::Allowed,
        "/sign-out" => Verdict::Allowed,
        "/queue/{owner}" | "/v1/queues/{owner}" if is_reading => Verdict::OwnQueue,
        "/deals/{id}" => Verdict::OwnDeal,
        "/v1/deals/{id}" | "/v1/deals/{id}/scores" if is_reading => Verdict::OwnDeal,
        "/v1/deals/{id}/what-if" => Verdict::OwnDeal,
        "/v1/rankings" if is_reading => Verdict::OwnFilter,
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_in_their_zones() {
        for (pattern, zone) in [
            ("/healthz", Zone::Open),
            ("/docs/{_:.*}", Zone::Open),
            ("/v1/webhooks/{source}", Zone::Open),
            ("/sign-in", Zone::Open),
            ("/sign-out", Zone::Page),
            ("/v1/deals/{id}", Zone::Api),
            ("/deals/{id}", Zone::Page),
            ("/", Zone::Page),
            ("/anything/new", Zone::Page),
        ] {
            assert_eq!(Zone::of(pattern), zone, "{pattern}");
        }
    }

    #[test]
    fn a_rep_has_what_is_named_and_nothing_else() {
        let rep = Role::Rep {
            owner: "Ada".into(),
        };
        let get = |pattern| verdict(&rep, true, pattern);
        let post = |pattern| verdict(&rep, false, pattern);
        assert_eq!(get("/queue/{owner}"), Verdict::OwnQueue);
        assert_eq!(get("/v1/deals/{id}"), Verdict::OwnDeal);
        assert_eq!(post("/v1/deals/{id}/what-if"), Verdict::OwnDeal);
        assert_eq!(get("/v1/rankings"), Verdict::OwnFilter);
        for pattern in [
            "/board",
            "/models",
            "/v1/models",
            "/v1/insights/reps",
            "/v1/jobs/{id}",
        ] {
            assert_eq!(get(pattern), Verdict::Refused, "{pattern}");
        }
        for pattern in [
            "/v1/deals/{id}",
            "/v1/deals/{id}/events",
            "/v1/imports",
            "/v1/scores",
        ] {
            assert_eq!(post(pattern), Verdict::Refused, "{pattern}");
        }
    }

    #[test]
    fn a_program_has_the_api_and_no_pages() {
        assert_eq!(verdict(&Role::Api, false, "/v1/models"), Verdict::Allowed);
        assert_eq!(verdict(&Role::Api, true, "/board"), Verdict::Refused);
        assert_eq!(verdict(&Role::Manager, true, "/board"), Verdict::Allowed);
    }
}

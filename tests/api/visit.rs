//! Who signs in, and what they see: a browser without a window, and the keys that the command line makes.

use std::process::Output;
use std::time::{Duration, Instant};

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};

use crate::service::{Service, binary_in};

const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

pub fn keys(service: &Service, args: &[&str]) -> Output {
    let mut command = binary_in(service.dir());
    command.arg("keys").args(args).output().unwrap()
}

/// What a command wrote to standard output, without the end of the line.
#[track_caller]
pub fn keys_ok(service: &Service, args: &[&str]) -> String {
    let output = keys(service, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

pub fn manager_key(service: &Service) -> String {
    keys_ok(service, &["create", "--role", "manager", "--name", "Mia"])
}

pub fn rep_key(service: &Service, owner: &str) -> String {
    keys_ok(
        service,
        &["create", "--role", "rep", "--owner", owner, "--name", owner],
    )
}

/// Path and query of a link that signs in once.
pub fn link(service: &Service, name: &str) -> String {
    let link = keys_ok(service, &["link", name]);
    let (_, link) = link.split_once("/sign-in?").unwrap();
    format!("/sign-in?{link}")
}

/// A browser without a window: it keeps the cookie, and shows each redirect.
pub struct Visit<'a> {
    service: &'a Service,
    pub client: Client,
    pub cookie: Option<String>,
}

impl<'a> Visit<'a> {
    pub fn to(service: &'a Service) -> Self {
        let client = Client::builder().redirect(Policy::none());
        Self {
            service,
            client: client.build().unwrap(),
            cookie: None,
        }
    }

    pub async fn send(&mut self, method: Method, path: &str, form: &[(&str, &str)]) -> Response {
        let url = format!("{}{path}", self.service.base());
        let mut request = self.client.request(method.clone(), url);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        if method == Method::POST {
            let body: Vec<String> = form
                .iter()
                .map(|(k, v)| format!("{k}={}", encoded(v)))
                .collect();
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body.join("&"));
        }
        let response = request.send().await.unwrap();
        if let Some(cookie) = response.headers().get(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        response
    }

    /// As a manager.
    pub async fn signed_in(service: &'a Service) -> Self {
        let key = manager_key(service);
        let mut visit = Self::to(service);
        let signed_in = visit.post("/sign-in", &[("key", &key)]).await;
        assert_eq!(location(&signed_in), "/");
        visit
    }

    /// The text of a page that is there.
    pub async fn page(&mut self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    }

    /// Sends a form of a page, with its token, and gives where it leads.
    pub async fn submit(&mut self, page: &str, path: &str, form: &[(&str, &str)]) -> String {
        let csrf = self.csrf(page).await;
        let form: Vec<(&str, &str)> = [("csrf", &*csrf)].iter().chain(form).copied().collect();
        location(&self.post(path, &form).await).to_owned()
    }

    /// Sends files with the token of `/imports`; each part is a name, a file name and the content.
    pub async fn send_files(&mut self, parts: &[(&str, &str, &str)]) -> Response {
        let csrf = self.csrf("/imports").await;
        let mut body =
            format!("--x\r\ncontent-disposition: form-data; name=\"csrf\"\r\n\r\n{csrf}\r\n");
        for (name, file, content) in parts {
            body += &format!(
                "--x\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\r\n{content}\r\n"
            );
        }
        body += "--x--\r\n";
        let request = self.client.post(format!("{}/imports", self.service.base()));
        let request = request.header(COOKIE, self.cookie.as_deref().unwrap_or_default());
        let request = request.header("content-type", "multipart/form-data; boundary=x");
        request.body(body).send().await.unwrap()
    }

    /// Loads a page, as browsers without scripts do, until no job is under way on it.
    pub async fn until_done(&mut self, path: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let page = self.page(path).await;
            if !page.contains("data-job=") {
                return page;
            }
            assert!(page.contains("http-equiv=\"refresh\""), "{page}");
            assert!(Instant::now() < deadline, "{page}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.send(Method::GET, path, &[]).await
    }

    pub async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Response {
        self.send(Method::POST, path, form).await
    }

    /// The token of the forms on a page.
    pub async fn csrf(&mut self, path: &str) -> String {
        let page = self.get(path).await.text().await.unwrap();
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

pub fn location(response: &Response) -> &str {
    assert_eq!(response.status(), 303, "{response:?}");
    response.headers()[LOCATION].to_str().unwrap()
}

/// As browsers write the values of forms.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            b' ' => "+".into(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

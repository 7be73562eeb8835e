//! A headless Chromium, driven through chromedriver in the words of W3C WebDriver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::{Server, free_port};

/// The key under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Longest wait for a page, or for what its script does.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// As `./test` installs it.
const AXE: &str = "target/npm/node_modules/axe-core/axe.min.js";

/// One chromedriver serves the whole run.
static DRIVER: LazyLock<Driver> = LazyLock::new(Driver::start);

struct Driver {
    port: u16,
    _server: Server,
}

impl Driver {
    fn start() -> Self {
        for program in ["chromedriver", "chromium"] {
            let found = Command::new(program).arg("--version").output();
            assert!(
                found.is_ok_and(|output| output.status.success()),
                "BROWSER TESTS NEED `{program}`: ./test installs it (Debian: chromium, chromium-driver)"
            );
        }
        for _ in 0..20 {
            let port = free_port();
            let folder = tempfile::tempdir().unwrap().keep();
            let command = [
                "chromedriver",
                &format!("--port={port}"),
                "--log-level=SEVERE",
            ];
            // It would ignore SIGINT.
            let mut server = Server::stopped_by("TERM", &folder, &command);
            let deadline = Instant::now() + PATIENCE;
            while !server.has_ended() && Instant::now() < deadline {
                if is_ready(port) {
                    let _server = server;
                    return Self { port, _server };
                }
                std::thread::sleep(POLL);
            }
        }
        panic!("no chromedriver would start");
    }
}

/// Asks without a library: this also runs where no runtime is. Chromedriver leaves the connection open.
fn ask(port: u16, request: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let host = format!("Host: 127.0.0.1:{port}");
    write!(connection, "{request} HTTP/1.1\r\n{host}\r\n\r\n")?;
    let mut answer = BufReader::new(connection);
    let (mut line, mut length) = (String::new(), 0);
    while answer.read_line(&mut line)? > 2 {
        let header = line.to_lowercase();
        if let Some(bytes) = header.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

fn is_ready(port: u16) -> bool {
    ask(port, "GET /status").is_ok_and(|answer| answer.contains("\"ready\":true"))
}

/// A browser of a test's own, with a profile of its own, at one service.
pub struct Browser {
    client: Client,
    session: String,
    base: String,
    _profile: TempDir,
}

impl Browser {
    pub async fn at(base: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut args = vec![
            "--headless=new".to_owned(),
            "--window-size=1280,1000".into(),
            "--lang=en-GB".into(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--no-first-run".into(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        // Chromium refuses to sandbox what root runs.
        if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
            args.push("--no-sandbox".into());
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "timeouts": {"script": PATIENCE.as_millis() as u64},
            "goog:chromeOptions": {"args": args},
        }}});
        let client = Client::new();
        let url = format!("http://127.0.0.1:{}/session", DRIVER.port);
        let made = client.post(url).json(&wanted).send().await.unwrap();
        let made: Value = made.json().await.unwrap();
        let session = made["value"]["sessionId"].as_str();
        let session = session.unwrap_or_else(|| panic!("Chromium does not start: {made}"));
        Self {
            client,
            session: session.to_owned(),
            base: base.to_owned(),
            _profile: profile,
        }
    }

    /// What chromedriver answers to a command, or its complaint.
    async fn command(&self, method: Method, path: &str, body: Value) -> Result<Value, Value> {
        let url = format!(
            "http://127.0.0.1:{}/session/{}/{path}",
            DRIVER.port, self.session
        );
        let mut request = self.client.request(method.clone(), url);
        if method == Method::POST {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let is_done = answer.status().is_success();
        let mut answer: Value = answer.json().await.unwrap();
        let value = answer["value"].take();
        if is_done { Ok(value) } else { Err(value) }
    }

    pub async fn go(&self, path: &str) {
        let url = format!("{}{path}", self.base);
        let gone = self
            .command(Method::POST, "url", json!({ "url": url }))
            .await;
        gone.unwrap();
    }

    /// Path and query of the page that is shown.
    pub async fn path(&self) -> String {
        let url = self.command(Method::GET, "url", Value::Null).await.unwrap();
        let url = url.as_str().unwrap();
        url.strip_prefix(&self.base).unwrap_or(url).to_owned()
    }

    /// Runs the body of a function in the page. It may return a promise.
    pub async fn run(&self, script: &str, args: Value) -> Value {
        let body = json!({ "script": script, "args": args });
        let ran = self.command(Method::POST, "execute/sync", body).await;
        ran.unwrap_or_else(|e| panic!("{script}: {e}"))
    }

    /// Waits until an expression of the page is something, and gives that.
    pub async fn until(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            // While one page takes the place of another there is none.
            let body = json!({ "script": script, "args": [] });
            let found = self.command(Method::POST, "execute/sync", body).await;
            if let Ok(found) = &found
                && ![Value::Null, json!(false), json!(""), json!(0)].contains(found)
            {
                return found.clone();
            }
            if Instant::now() >= deadline {
                panic!(
                    "waited in vain for {expression}: {found:?}\n{}",
                    self.shown().await
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the page shows a text.
    pub async fn until_text(&self, text: &str) {
        let text = json!(text);
        self.until(&format!("document.body.innerText.includes({text})"))
            .await;
    }

    /// Waits until the address, path and query, holds a text.
    pub async fn until_path(&self, part: &str) {
        let part = json!(part);
        let here = "(location.pathname + location.search)";
        let is_loaded = "document.readyState === 'complete'";
        self.until(&format!("{here}.includes({part}) && {is_loaded}"))
            .await;
    }

    /// The element; waits until it is there.
    async fn element(&self, css: &str) -> String {
        let css_json = json!(css);
        self.until(&format!("document.querySelector({css_json}) !== null"))
            .await;
        let body = json!({"using": "css selector", "value": css});
        let found = self.command(Method::POST, "element", body).await;
        let found = found.unwrap_or_else(|e| panic!("{css}: {e}"));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn on_element(&self, css: &str, what: &str, body: Value) {
        let path = format!("element/{}/{what}", self.element(css).await);
        let done = self.command(Method::POST, &path, body).await;
        done.unwrap_or_else(|e| panic!("{what} {css}: {e}"));
    }

    /// Clicks as a person would: on what can be seen and reached.
    pub async fn click(&self, css: &str) {
        self.on_element(css, "click", json!({})).await;
    }

    /// Types into a field; of a file input, the path of the file.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.on_element(css, "value", json!({ "text": text })).await;
    }

    /// Chooses an option of a select by its value.
    pub async fn choose(&self, css: &str, value: &str) {
        let option = format!("{css} option[value={}]", json!(value));
        self.click(&option).await;
    }

    /// The text of an element; waits until it is there.
    pub async fn text(&self, css: &str) -> String {
        self.element(css).await;
        let script = "return document.querySelector(arguments[0]).innerText.trim()";
        let text = self.run(script, json!([css])).await;
        text.as_str().unwrap().to_owned()
    }

    /// The texts of all elements that are there now.
    pub async fn texts(&self, css: &str) -> Vec<String> {
        let script =
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())";
        serde_json::from_value(self.run(script, json!([css])).await).unwrap()
    }

    /// An attribute of an element; waits until it is there.
    pub async fn attribute(&self, css: &str, name: &str) -> Option<String> {
        self.element(css).await;
        let script = "return document.querySelector(arguments[0]).getAttribute(arguments[1])";
        let value = self.run(script, json!([css, name])).await;
        value.as_str().map(str::to_owned)
    }

    /// What the page is, for messages.
    async fn shown(&self) -> String {
        let text = self.run("return document.body?.innerText", json!([])).await;
        format!(
            "{}\n{}",
            self.path().await,
            text.as_str().unwrap_or_default()
        )
    }

    /// Fails on what axe-core calls serious or critical on the page that is shown.
    pub async fn assert_accessible(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE);
        let axe = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            panic!("ACCESSIBILITY WAS NOT CHECKED: ./test installs axe-core as {AXE}")
        });
        self.run(&axe, json!([])).await;
        let violations = self
            .run(
                "return axe.run(document, { resultTypes: ['violations'] }).then(found => found.violations
                   .filter(v => ['serious', 'critical'].includes(v.impact))
                   .map(v => `${v.impact} ${v.id}: ${v.help}\\n` + v.nodes.slice(0, 5).map(n =>
                     `    ${n.html.slice(0, 200)}\\n      ${n.failureSummary}`).join('\\n')))",
                json!([]),
            )
            .await;
        let violations: Vec<String> = serde_json::from_value(violations).unwrap();
        let path = self.path().await;
        assert!(violations.is_empty(), "{path}\n{}", violations.join("\n"));
    }

    /// The page as it looks, into a file.
    #[expect(dead_code, reason = "for who wants to see what a test saw")]
    pub async fn screenshot(&self, file: &Path) -> PathBuf {
        use base64::Engine;
        let picture = self.command(Method::GET, "screenshot", Value::Null).await;
        let picture = picture.unwrap();
        let picture = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap());
        std::fs::write(file, picture.unwrap()).unwrap();
        file.to_owned()
    }
}

impl Drop for Browser {
    /// Ends Chromium, also where a test has failed.
    fn drop(&mut self) {
        let _ = ask(DRIVER.port, &format!("DELETE /session/{}", self.session));
    }
}

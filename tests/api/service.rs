//! A running `dealrank serve` of a test's own: real binary, free port, its own data folder.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::{self, TestStore};

const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

pub struct Service {
    dir: TempDir,
    child: Child,
    base: String,
    client: Client,
}

/// What came back: status, and the body as JSON, or as text.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: String,
    pub body: Value,
}

impl Answer {
    /// The stable code of a problem; also checks that it is documented as one.
    #[track_caller]
    pub fn problem(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], status, "{self:?}");
        assert!(self.body["title"].is_string() && self.body["type"].is_string());
        self.body["code"].as_str().unwrap()
    }

    /// The names of the fields that a 422 complains about.
    #[track_caller]
    pub fn fields(&self) -> Vec<&str> {
        assert_eq!(self.problem(422), "invalid");
        let errors = self.body["errors"].as_array().unwrap();
        errors
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect()
    }

    pub fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }
}

/// `dealrank` in a folder, with the store and the cache that the suite runs on.
pub fn binary_in(folder: &Path) -> Command {
    let mut command = binary();
    command
        .current_dir(folder)
        .envs(servers::environment(folder));
    command
}

/// The binary without our environment. Whoever starts it will want to talk to it.
pub fn binary() -> Command {
    dealrank::tls::install_provider();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dealrank"));
    for (name, _) in std::env::vars() {
        if name.starts_with("DEALRANK_") {
            command.env_remove(name);
        }
    }
    command
}

impl Service {
    pub fn start() -> Self {
        Self::with_settings("")
    }

    pub fn with_settings(toml: &str) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("dealrank.toml"), toml).unwrap();
        Self::in_dir(dir)
    }

    /// On a store of the test's own.
    pub fn on(store: TestStore, toml: &str) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("dealrank.toml"), toml).unwrap();
        store.belong_to(dir.path());
        Self::in_dir(dir)
    }

    fn in_dir(dir: TempDir) -> Self {
        let (child, base) = spawn(dir.path(), &[]);
        let client = Client::new();
        Self {
            dir,
            child,
            base,
            client,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("var")
    }

    pub fn store(&self) -> TestStore {
        TestStore::of(self.dir())
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the service wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap()
    }

    /// Kills the process where it stands and starts another on the same data.
    /// Waits until the log says something.
    pub async fn until_log(&self, said: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log().contains(said) {
            assert!(Instant::now() < deadline, "no `{said}` in {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.restart();
    }

    /// Kills the process where it stands.
    pub fn crash(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts another process on the same data.
    pub fn restart(&mut self) {
        (self.child, self.base) = spawn(self.dir.path(), &[]);
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        until("the service ends", || self.child.try_wait().unwrap())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        answer(self.request(method, path).json(body).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, body).await
    }

    pub async fn post_raw(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.request(Method::POST, path);
        let request = request.header("content-type", content_type).body(body);
        answer(request.send().await.unwrap()).await
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.ok(200)
    }

    /// Waits until a job that was accepted is over.
    #[track_caller]
    pub fn finished(&self, accepted: Answer) -> impl Future<Output = Value> {
        let accepted = accepted.ok(202);
        let id = accepted["id"].as_str().unwrap().to_owned();
        async move {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let job = self.job(&id).await;
                if job["state"] == "done" || job["state"] == "failed" {
                    return job;
                }
                assert!(Instant::now() < deadline, "the job is not over: {job}");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    pub async fn import_csv(&self, csv: impl Into<reqwest::Body>) -> Value {
        let accepted = self.post_raw("/v1/imports", "text/csv", csv).await;
        self.finished(accepted).await
    }

    pub async fn import_documents(&self, deals: &[Value]) -> Value {
        let lines = ndjson(deals);
        let accepted = self
            .post_raw("/v1/imports", "application/x-ndjson", lines)
            .await;
        self.finished(accepted).await
    }

    /// Trains on a small history, which makes its model the champion. Returns its version.
    pub async fn train(&self) -> String {
        let imported = self.import_documents(&history(240)).await;
        assert_eq!(imported["state"], "done", "{imported}");
        let trained = self.post("/v1/models", &json!({})).await;
        let trained = self.finished(trained).await;
        assert_eq!(trained["state"], "done", "{trained}");
        trained["result"]["model_version"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone where a test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the service in `dir` and reads from its output where it listens.
pub fn spawn(dir: &Path, args: &[&str]) -> (Child, String) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let mut child = binary_in(dir)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let base = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("dealrank listens on ")?.to_owned()))
        .unwrap_or_else(|| panic!("{}", std::fs::read_to_string(dir.join("log")).unwrap()));
    (child, base)
}

pub async fn answer(response: Response) -> Answer {
    let status = response.status();
    assert!(
        response.headers().contains_key("x-request-id"),
        "{response:?}"
    );
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|v| v.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    Answer {
        status,
        content_type: content_type.unwrap_or_default(),
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}

/// Polls until there is something.
pub fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(POLL);
    }
}

pub fn deal(id: &str) -> Value {
    json!({"id": id, "stage": "demo", "created_at": "2026-03-01T00:00:00Z", "amount": 1000,
        "currency": "EUR", "attributes": {"source": "web", "employees": 40}})
}

/// Closed deals whose outcome depends on their source, and a few open ones at the end.
pub fn history(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| {
            let source = ["web", "fair", "partner"][i % 3];
            let owner = ["Ada", "Ben"][i % 2];
            let is_won = (i * 7 + i / 3) % 10 < [2, 5, 8][i % 3];
            let day = jiff::civil::date(2025, 1, 1) + jiff::Span::new().days((i % 400) as i64);
            let mut deal = json!({
                "id": format!("h-{i:04}"), "stage": "demo", "owner": owner,
                "pipeline": "new", "created_at": format!("{day}T00:00:00Z"),
                "amount": 1000 + (i * 37) % 900, "currency": "EUR",
                "attributes": {"source": source, "employees": (i * 13) % 50},
            });
            if i < count * 9 / 10 {
                let closed = day + jiff::Span::new().days(30);
                deal["outcome"] = json!(if is_won { "won" } else { "lost" });
                deal["closed_at"] = json!(format!("{closed}T00:00:00Z"));
            }
            deal
        })
        .collect()
}

pub fn ndjson(documents: &[Value]) -> String {
    documents.iter().map(|d| format!("{d}\n")).collect()
}

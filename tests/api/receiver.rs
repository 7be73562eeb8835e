//! A real HTTP server on a free port that takes what it is sent, and answers as a test wants.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub query: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".into())],
            body: body.to_string(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

type Script = Box<dyn FnMut(&Received) -> Reply + Send>;

struct State {
    inbox: Vec<Received>,
    script: Script,
}

/// The server; it ends with the value.
pub struct Receiver {
    base: String,
    state: Arc<Mutex<State>>,
    handle: ServerHandle,
}

impl Receiver {
    /// One that answers 200 to everything.
    pub fn start() -> Self {
        Self::with(|_| Reply::status(200))
    }

    pub fn with(script: impl FnMut(&Received) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            inbox: Vec::new(),
            script: Box::new(script),
        }));
        let data = Data::new(state.clone());
        let factory = move || {
            App::new()
                .app_data(data.clone())
                .default_service(web::to(take))
        };
        let (sender, handle) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let server = HttpServer::new(factory)
                    .workers(1)
                    .disable_signals()
                    .shutdown_timeout(0)
                    .listen(listener)
                    .unwrap()
                    .run();
                sender.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self {
            base,
            state,
            handle: handle.recv().unwrap(),
        }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn url(&self) -> String {
        format!("{}/hook", self.base)
    }

    /// Answers differently from now on.
    pub fn answer(&self, script: impl FnMut(&Received) -> Reply + Send + 'static) {
        self.state.lock().unwrap().script = Box::new(script);
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().inbox.clone()
    }

    /// Waits until `enough` holds of what has arrived.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let received = self.received();
            if enough(&received) {
                return received;
            }
            let bodies: Vec<_> = received
                .iter()
                .map(|r| String::from_utf8_lossy(&r.body))
                .collect();
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}: {bodies:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn count(&self, count: usize) -> Vec<Received> {
        self.until(&format!("{count} messages"), |r| r.len() >= count)
            .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The command is sent at once; nobody waits for its end.
        drop(self.handle.stop(false));
    }
}

async fn take(state: Data<Arc<Mutex<State>>>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let headers = request.headers().iter();
    let received = Received {
        at: Instant::now(),
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers
            .map(|(name, value)| {
                (
                    name.to_string(),
                    value.to_str().unwrap_or_default().to_owned(),
                )
            })
            .collect(),
        body: body.to_vec(),
    };
    let mut state = state.lock().unwrap();
    let reply = (state.script)(&received);
    state.inbox.push(received);
    let mut response = HttpResponse::build(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        response.insert_header((name, value));
    }
    response.body(reply.body)
}

//! Real servers on free ports: PostgreSQL and Redis. One of each serves the whole run, and tests that
//! kill one start it for themselves. And the choice on which of them the suite runs:
//!
//! - `DEALRANK_TEST_STORE`: `sqlite` (the default) or `postgres`;
//! - `DEALRANK_TEST_CACHE`: `none` (the default), `redis`, or `cluster`.
//!
//! Tests about one of the stores itself are named `embedded_...` or `shared_...`; where the suite runs on
//! the other one, they are left out.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use dealrank::ranking::{Accelerator, RedisSettings};
use dealrank::store::{CONNECTIONS_MAX, Store, StoreLocation};
use redis::aio::MultiplexedConnection;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Each store of a test has its connections.
const CONNECTIONS_OF_SERVER: &str = "max_connections=400";
const TEMPLATE: &str = "template_of_tests";

fn choice(variable: &str, known: &[&str]) -> String {
    let chosen = std::env::var(variable).unwrap_or_else(|_| known[0].into());
    assert!(known.contains(&&*chosen), "{variable}={chosen}: {known:?}");
    chosen
}

pub fn is_on_postgres() -> bool {
    choice("DEALRANK_TEST_STORE", &["sqlite", "postgres"]) == "postgres"
}

/// The address of the cache that the suite runs with.
pub fn cache_url() -> Option<String> {
    match &*choice("DEALRANK_TEST_CACHE", &["none", "redis", "cluster"]) {
        "redis" => Some(REDIS.url()),
        "cluster" => Some(CLUSTER.url()),
        _ => None,
    }
}

/// The accelerator that the suite runs with.
pub fn accelerator() -> Accelerator {
    match cache_url() {
        Some(url) => accelerator_at(&url),
        None => Accelerator::memory(),
    }
}

pub fn accelerator_at(url: &str) -> Accelerator {
    let settings = RedisSettings {
        check_every: Duration::from_millis(100),
        ..RedisSettings::new(url)
    };
    Accelerator::redis(settings).unwrap()
}

/// The store of a test: a file in its folder, or a database of its own.
#[derive(Debug, Clone)]
pub struct TestStore(pub StoreLocation);

impl TestStore {
    /// The one that `dealrank` uses when it runs in `folder`; always the same for the same folder.
    pub fn of(folder: &Path) -> Self {
        let mut stores = STORES.lock().unwrap();
        let store = stores.entry(folder.into());
        let new_store = || match is_on_postgres() {
            true => POSTGRES.new_store(),
            false => Self(StoreLocation::File(folder.join("var/dealrank.sqlite"))),
        };
        store.or_insert_with(new_store).clone()
    }

    /// Makes this the store of `folder`, whatever the suite runs on.
    pub fn belong_to(self, folder: &Path) {
        STORES.lock().unwrap().insert(folder.into(), self);
    }

    pub async fn open(&self) -> Store {
        if let StoreLocation::File(path) = &self.0 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        Store::at(&self.0, CONNECTIONS_MAX).await.unwrap()
    }

    /// Asks the database itself.
    pub async fn count(&self, query: &'static str) -> i64 {
        match &self.0 {
            StoreLocation::File(path) => {
                let mut connection = sqlite(path).await;
                let count = sqlx::query_scalar(query).fetch_one(&mut connection);
                count.await.unwrap()
            }
            StoreLocation::Postgres(url) => {
                let mut connection = PgConnection::connect(url.expose()).await.unwrap();
                let count = sqlx::query_scalar(query).fetch_one(&mut connection);
                count.await.unwrap()
            }
        }
    }

    /// A database in PostgreSQL, whatever the suite runs on.
    pub fn in_postgres() -> Self {
        POSTGRES.new_store()
    }

    /// Does something to the database itself.
    pub async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement);
        match &self.0 {
            StoreLocation::File(path) => {
                let mut connection = sqlite(path).await;
                sqlx::raw_sql(statement)
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            StoreLocation::Postgres(url) => {
                let mut connection = PgConnection::connect(url.expose()).await.unwrap();
                sqlx::raw_sql(statement)
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
        }
    }
}

async fn sqlite(path: &Path) -> SqliteConnection {
    let url = format!("sqlite://{}", path.display());
    SqliteConnection::connect(&url).await.unwrap()
}

/// The settings by which `dealrank` in `folder` uses the store and the cache that the suite runs on.
pub fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let mut environment = Vec::new();
    let settings = std::fs::read_to_string(folder.join("dealrank.toml")).unwrap_or_default();
    // A test that brings its own store means that one.
    if !settings.contains("database_url")
        && let StoreLocation::Postgres(url) = TestStore::of(folder).0
    {
        environment.push(("DEALRANK_DATABASE_URL", url.expose().to_owned()));
    }
    // A test that brings its own Redis means that one.
    if let Some(url) = cache_url().filter(|_| !settings.contains("redis_url")) {
        environment.push(("DEALRANK_REDIS_URL", url));
    }
    environment
}

static STORES: LazyLock<Mutex<HashMap<PathBuf, TestStore>>> = LazyLock::new(Mutex::default);
pub static POSTGRES: LazyLock<Postgres> = LazyLock::new(Postgres::start);
static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| blocking(async || Cluster::start(false).await));
static REDIS: LazyLock<Redis> = LazyLock::new(|| blocking(async || Redis::start().await));

/// Runs something on a thread and a runtime of its own: what all tests share belongs to none of theirs.
fn blocking<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(work())
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A process that ends with ours, however ours ends: a shell beside it sees our end of a pipe closed.
#[derive(Debug)]
pub struct Server {
    shell: Child,
    pid: u32,
}

impl Server {
    /// The folder goes once the server has ended well, which it does when we have ended.
    const SHELL: &str = r#"
        exec 3<&0 2>/dev/null
        signal=$1; folder=$2; shift 2
        "$@" </dev/null >/dev/null 2>&1 3<&- & server=$!
        echo $server
        { read -r _ <&3; kill -$signal $server; } & watch=$!
        wait $server && rm -rf "$folder"
        kill $watch"#;

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn start(folder: &Path, command: &[&str]) -> Self {
        Self::stopped_by("INT", folder, command)
    }

    /// A server that ends on another signal: what a shell starts in the background ignores SIGINT unless it
    /// says otherwise.
    pub fn stopped_by(signal: &str, folder: &Path, command: &[&str]) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", Self::SHELL, "sh", signal])
            .arg(folder)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut pid)
            .unwrap();
        let pid = pid.trim().parse().unwrap();
        Self { shell, pid }
    }

    pub fn id(&self) -> u32 {
        self.pid
    }

    pub fn has_ended(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// As a crash would: at once, without a farewell.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.shell.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A `redis-server`.
#[derive(Debug)]
pub struct Redis {
    pub port: u16,
    server: Server,
    folder: TempDir,
}

impl Redis {
    /// On a port that was free a moment ago; another one if somebody was faster.
    pub async fn start() -> Self {
        for _ in 0..20 {
            let port = free_port();
            let folder = tempfile::tempdir().unwrap();
            let server = Self::spawn(port, &folder);
            let mut redis = Self {
                port,
                server,
                folder,
            };
            if redis.answers().await {
                return redis;
            }
        }
        panic!("no redis-server would start");
    }

    fn spawn(port: u16, folder: &TempDir) -> Server {
        let (port, dir) = (port.to_string(), folder.path().to_str().unwrap());
        let command = [
            "redis-server",
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            dir,
        ];
        Server::start(folder.path(), &command)
    }

    /// Whether the server comes up, and not another one on its port.
    async fn answers(&mut self) -> bool {
        let mut pause = tokio::time::interval(POLL);
        while !self.server.has_ended() {
            pause.tick().await;
            if let Ok(mut connection) = connect(self.port).await {
                let info: String = redis::cmd("INFO")
                    .arg("server")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                return info.contains(&format!("process_id:{}\r", self.server.id()));
            }
        }
        false
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.server.kill();
    }

    pub async fn restart(&mut self) {
        self.server = Self::spawn(self.port, &self.folder);
        assert!(self.answers().await, "redis-server did not come back");
    }

    pub fn signal(&self, signal: &str) {
        self.server.signal(signal);
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        connect(self.port).await.unwrap()
    }

    pub fn accelerator(&self) -> Accelerator {
        accelerator_at(&self.url())
    }
}

async fn connect(port: u16) -> redis::RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    client.get_multiplexed_async_connection().await
}

/// A PostgreSQL with everything as it would be in earnest, `fsync` too.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    server: Server,
    folder: PathBuf,
    databases: AtomicUsize,
}

impl Postgres {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        if is_root() {
            let user = |option| -> u32 {
                let id = Command::new("id")
                    .args([option, "postgres"])
                    .output()
                    .unwrap();
                String::from_utf8(id.stdout)
                    .unwrap()
                    .trim()
                    .parse()
                    .unwrap()
            };
            chown(&folder, Some(user("-u")), Some(user("-g"))).unwrap();
        }
        let initdb = as_postgres(&program("initdb"));
        let made = Command::new(&initdb[0])
            .args(&initdb[1..])
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
            ])
            // A language's order of words, which is not the order of bytes.
            .args([
                "--locale=C.UTF-8",
                "--locale-provider=icu",
                "--icu-locale=en-US",
                "--pgdata",
            ])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        for _ in 0..20 {
            let port = free_port();
            let mut postgres = Self {
                port,
                server: Self::spawn(port, &folder),
                folder: folder.clone(),
                databases: AtomicUsize::new(0),
            };
            if postgres.is_ready() {
                postgres.make_template();
                return postgres;
            }
        }
        panic!("no PostgreSQL would start, see {}/log", folder.display());
    }

    fn spawn(port: u16, folder: &Path) -> Server {
        let (data, log) = (folder.join("data"), folder.join("log"));
        let (data, log) = (data.to_str().unwrap(), log.to_str().unwrap());
        let port = port.to_string();
        // A shell again, for the log; it becomes the server.
        let script = r#"log=$1; shift; exec "$@" 2>>"$log""#;
        let postgres = program("postgres");
        let mut command = as_postgres("sh");
        command
            .extend(["-c", script, "sh", log, &postgres, "-D", data, "-p", &port].map(Into::into));
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=64MB",
            "max_wal_size=256MB",
            CONNECTIONS_OF_SERVER,
        ] {
            command.extend(["-c".to_owned(), setting.to_owned()]);
        }
        Server::start(
            folder,
            &command.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    /// Waits until the server says so in its file; false if it ended.
    fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.server.has_ended() {
            let state = std::fs::read_to_string(self.folder.join("data/postmaster.pid"));
            let state = state.unwrap_or_default();
            let mut lines = state.lines();
            let is_ours = lines.next() == Some(&self.server.id().to_string());
            if is_ours && lines.any(|line| line.trim_end() == "ready") {
                return true;
            }
            assert!(
                Instant::now() < deadline,
                "see {}/log",
                self.folder.display()
            );
            std::thread::sleep(POLL);
        }
        false
    }

    /// Makes the tables once; copies of a database are made faster.
    fn make_template(&self) {
        self.create(TEMPLATE, "template0");
        let location = StoreLocation::Postgres(self.url(TEMPLATE).parse().unwrap());
        blocking(async || {
            let store = Store::at(&location, CONNECTIONS_MAX).await.unwrap();
            store.close().await;
        });
        // The store of each copy has an id of its own.
        blocking(async || {
            let store = TestStore(location);
            store
                .execute("DELETE FROM settings WHERE name = 'store_id'")
                .await;
        });
    }

    fn create(&self, database: &str, template: &str) {
        let create = format!("CREATE DATABASE {database} TEMPLATE {template}");
        let url = self.url("postgres");
        blocking(async || {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(create))
                .execute(&mut connection)
                .await
                .unwrap();
            connection.close().await.unwrap();
        });
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A database of its own, with all tables.
    pub fn new_store(&self) -> TestStore {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let database = format!("test_{number}");
        self.create(&database, TEMPLATE);
        TestStore(StoreLocation::Postgres(
            self.url(&database).parse().unwrap(),
        ))
    }
    /// A database in which nothing is.
    pub fn new_empty(&self) -> TestStore {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let database = format!("empty_{number}");
        self.create(&database, "template0");
        TestStore(StoreLocation::Postgres(
            self.url(&database).parse().unwrap(),
        ))
    }

    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Tries until it succeeds: processes of the server before may still be ending.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.server = Self::spawn(self.port, &self.folder);
            if self.is_ready() {
                return;
            }
            assert!(Instant::now() < deadline, "PostgreSQL did not come back");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.server.shell.stdin.take());
        let _ = self.server.shell.wait();
        // Where the server did not end well.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// PostgreSQL refuses to be run by root.
fn as_postgres(program: &str) -> Vec<String> {
    let mut command = Vec::new();
    if is_root() {
        let other = [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
        ];
        command.extend(other.map(String::from));
    }
    command.push(program.into());
    command
}

/// A program of PostgreSQL: Debian keeps most of them out of the path.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.map(|version| version.unwrap().path().join("bin")));
    }
    let mut programs = folders.into_iter().map(|folder| folder.join(name));
    let program = programs.find(|program| program.exists());
    let program = program.unwrap_or_else(|| panic!("{name} of PostgreSQL is not installed"));
    program.to_str().unwrap().into()
}

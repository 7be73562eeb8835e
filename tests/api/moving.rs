//! The embedded store as a whole: backed up while it is served, restored, moved to PostgreSQL, and
//! opened as the release before left it.

use std::path::Path;
use std::process::Output;

use dealrank::book::{Book, BookSettings};
use dealrank::ranking::{Accelerator, RankingPage, RankingQuery, Sort};
use dealrank::store::{CONNECTIONS_MAX, LedgerEntry, Store, StoreLocation, StoredDeal, Which};
use jiff::Timestamp;
use redis::AsyncCommands;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::{POSTGRES, Redis, TestStore};
use crate::service::{Service, binary, binary_in, deal};
use crate::world::{
    MODELS, all_pages, closed_deals, days, exchange, id, now, open_deal, open_deals, rng,
};

/// Everything that can be asked of a store.
#[derive(Debug, PartialEq)]
struct Answers {
    deals: Vec<StoredDeal>,
    ledgers: Vec<Vec<LedgerEntry>>,
    events: Vec<Vec<dealrank::store::StoredEvent>>,
    rankings: Vec<Vec<RankingPage>>,
    jobs: Vec<dealrank::store::Job>,
    models: Vec<dealrank::store::ModelSummary>,
    activations: Vec<dealrank::store::Activation>,
    champion: String,
}

async fn open(location: &StoreLocation) -> Book {
    let store = Store::at(location, CONNECTIONS_MAX).await.unwrap();
    let settings = BookSettings::default();
    let book = Book::open(store, Accelerator::memory(), exchange(), settings);
    book.await.unwrap()
}

async fn answers(book: &Book) -> Answers {
    let store = book.store();
    let deals = store.deals(Which::All, None, 10_000).await.unwrap();
    let (mut ledgers, mut events) = (Vec::new(), Vec::new());
    for stored in &deals {
        ledgers.push(book.ledger(&stored.deal.id, None, 1000).await.unwrap());
        events.push(store.events(&stored.deal.id).await.unwrap());
    }
    let mut rankings = Vec::new();
    for sort in [
        Sort::ExpectedValue,
        Sort::WinProbability,
        Sort::Amount,
        Sort::EvPerDay,
        Sort::Neglect,
    ] {
        let query = RankingQuery {
            sort,
            limit: 7,
            ..RankingQuery::default()
        };
        rankings.push(all_pages(book, &query).await);
    }
    Answers {
        deals,
        ledgers,
        events,
        rankings,
        jobs: store.jobs(100).await.unwrap(),
        models: store.models().await.unwrap(),
        activations: store.activations(100).await.unwrap(),
        champion: store.champion().await.unwrap().version,
    }
}

/// A store with a past: models that followed each other, deals that changed, closed and went.
async fn fill(book: &Book) {
    for model in &*MODELS {
        book.register(model, "trained", now()).await.unwrap();
    }
    let activate = async |model: usize| {
        let version = &MODELS[model].version;
        let silent = &dealrank::progress::silent;
        book.activate(version, now(), silent).await.unwrap();
    };
    activate(0).await;
    book.import(open_deals(51, 120), now()).await.unwrap();
    book.import(closed_deals(52, 30), now()).await.unwrap();
    // Orders of bytes and of languages differ in these.
    for name in ["Zoë", "zoe", "Äpfel", "a b", "a-b", "a_b", "A", "ß"] {
        let deal = open_deal(&mut rng(53), name);
        book.put(deal, later()).await.unwrap();
    }
    for number in 0..20 {
        let deal = id(&format!("d{number:05}"));
        let patch = match number % 3 {
            0 => json!({ "outcome": "won" }),
            1 => json!({ "amount": 1000 + number, "attributes": { "note": "naïve \u{1f600}" } }),
            _ => json!({ "owner": null }),
        };
        book.patch(&deal, patch, later()).await.unwrap();
    }
    book.erase(&id("d00050")).await.unwrap();
    activate(1).await;
    let job = book
        .store()
        .create_job("import", "a process", None, now())
        .await
        .unwrap();
    let outcome = Ok(json!({ "mapping": { "columns": {} } }));
    book.store()
        .finish_job(&job.id, outcome, now())
        .await
        .unwrap();
}

/// After all activities of random deals.
fn later() -> Timestamp {
    now() + days(100)
}

fn run(folder: &Path, args: &[&str]) -> Output {
    binary().current_dir(folder).args(args).output().unwrap()
}

#[track_caller]
fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn embedded_store_moves_to_postgres_and_answers_as_before() {
    let folder = TempDir::new().unwrap();
    let source = StoreLocation::File(folder.path().join("var/dealrank.sqlite"));
    std::fs::create_dir(folder.path().join("var")).unwrap();
    let book = open(&source).await;
    fill(&book).await;
    let before = answers(&book).await;
    book.store().close().await;
    drop(book);

    let target = POSTGRES.new_empty();
    let StoreLocation::Postgres(url) = &target.0 else {
        unreachable!("made so");
    };
    let moved = told(&run(
        folder.path(),
        &["migrate", "--json", "--to", url.expose()],
    ));
    let moved: Value = serde_json::from_str(&moved).unwrap();
    let deals = before.deals.len() as u64;
    assert!(
        moved
            .as_array()
            .unwrap()
            .contains(&json!({"table": "deals", "rows": deals})),
        "{moved}"
    );
    let book = open(&target.0).await;
    let after = answers(&book).await;
    assert_eq!(after.rankings, before.rankings);
    assert!(after == before, "the answers differ");

    // Numbers go on after those that were brought along.
    let written = book
        .put(open_deal(&mut rng(54), "later"), later())
        .await
        .unwrap();
    let revisions = before.deals.iter().map(|stored| stored.revision);
    assert!(written.deal.revision > revisions.max().unwrap());
    book.store()
        .create_job("import", "a process", None, now())
        .await
        .unwrap();
    let version = &MODELS[2].version;
    let silent = &dealrank::progress::silent;
    book.activate(version, now(), silent).await.unwrap();
    book.store().close().await;

    let again = run(folder.path(), &["migrate", "--to", url.expose()]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let reason = String::from_utf8(again.stderr).unwrap();
    assert!(reason.contains("not empty"), "{reason}");
}

#[tokio::test]
async fn embedded_store_is_backed_up_while_it_is_served_and_restored() {
    let service = Service::start();
    let version = service.train().await;
    let ranking = async |service: &Service| {
        let ranking = service.get("/v1/rankings?limit=200").await.ok(200);
        ranking["rows"].clone()
    };
    service.put("/v1/deals/kept", &deal("kept")).await.ok(201);
    let before = ranking(&service).await;
    let folder = service.dir().to_owned();
    let copy = told(&run(&folder, &["backup", "copy.sqlite", "--json"]));
    let copy: Value = serde_json::from_str(&copy).unwrap();
    assert_eq!((&copy["deals"], &copy["models"]), (&json!(241), &json!(1)));
    let again = run(&folder, &["backup", "copy.sqlite"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    service.put("/v1/deals/late", &deal("late")).await.ok(201);

    let served = run(&folder, &["restore", "copy.sqlite", "--force"]);
    assert_eq!(served.status.code(), Some(1), "{served:?}");
    let mut service = service;
    service.crash();
    let unforced = run(&folder, &["restore", "copy.sqlite"]);
    assert_eq!(unforced.status.code(), Some(1), "{unforced:?}");
    let mut damaged = std::fs::read(folder.join("copy.sqlite")).unwrap();
    let half = damaged.len() / 2;
    damaged[half..half + 8000].fill(0xa5);
    std::fs::write(folder.join("damaged.sqlite"), damaged).unwrap();
    let refused = run(&folder, &["restore", "damaged.sqlite", "--force"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    told(&run(&folder, &["restore", "copy.sqlite", "--force"]));

    service.crash_and_restart();
    assert_eq!(ranking(&service).await, before);
    service.get("/v1/deals/late").await.problem(404);
    let active = service.get("/v1/models/active").await.ok(200);
    assert_eq!(active["version"], version);
}

#[tokio::test]
async fn embedded_store_that_is_replaced_or_left_leaves_no_rankings_in_redis() {
    let redis = Redis::start().await;
    let toml = format!("redis_url = '{}'", redis.url());
    let mut service = Service::with_settings(&toml);
    service.train().await;
    let folder = service.dir().to_owned();
    let rankings = async || {
        let mut connection = redis.connection().await;
        let keys: Vec<String> = connection.keys("dealrank:{*").await.unwrap();
        keys
    };
    assert!(!rankings().await.is_empty());
    told(&run(&folder, &["backup", "copy.sqlite"]));
    service.crash();
    told(&run(&folder, &["restore", "copy.sqlite", "--force"]));
    assert_eq!(rankings().await, Vec::<String>::new());

    service.restart();
    service.get("/v1/rankings").await.ok(200);
    let fill = told(&run(&folder, &["cache", "rebuild"]));
    assert!(fill.contains("up to date"), "{fill}");
    service.crash();
    let StoreLocation::Postgres(url) = POSTGRES.new_empty().0 else {
        unreachable!("made so");
    };
    told(&run(&folder, &["migrate", "--to", url.expose()]));
    assert_eq!(rankings().await, Vec::<String>::new());
}

#[test]
fn shared_store_is_backed_up_by_its_own_tools() {
    let folder = TempDir::new().unwrap();
    POSTGRES.new_store().belong_to(folder.path());
    for args in [["backup", "copy"], ["restore", "copy"]] {
        let refused = binary_in(folder.path()).args(args).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let reason = String::from_utf8(refused.stderr).unwrap();
        assert!(reason.contains("PostgreSQL's own"), "{reason}");
    }
}

/// The tables of the first release, with a model that was replaced, deals of every outcome, and a ledger.
#[tokio::test]
async fn embedded_store_of_the_first_release_opens_with_everything() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.sqlite");
    std::fs::write(&path, "").unwrap();
    let old = TestStore(StoreLocation::File(path.clone()));
    let first_release = include_str!("../../migrations/sqlite/0001_store.sql");
    old.execute(first_release).await;
    // As sqlx notes what was done.
    let checksum = {
        use sha2::{Digest, Sha384};
        let sum = Sha384::digest(first_release.as_bytes());
        sum.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    old.execute(&format!(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (1, 'store', TRUE, x'{checksum}', 0);"
    ))
    .await;
    let quoted = |json: &Value| json.to_string().replace('\'', "''");
    for model in &MODELS[..2] {
        let (version, json) = (&model.version, model.to_json().replace('\'', "''"));
        old.execute(&format!(
            "INSERT INTO models VALUES ('{version}', '{json}', 'trained', 1)"
        ))
        .await;
    }
    let (first, second) = (&MODELS[0].version, &MODELS[1].version);
    let mut won = deal("won");
    won["outcome"] = json!("won");
    won["closed_at"] = json!("2026-04-01T00:00:00Z");
    let (open_json, won_json) = (quoted(&deal("open")), quoted(&won));
    let scorer = dealrank::scoring::Scorer::new(MODELS[1].clone().into(), exchange()).unwrap();
    let parsed = dealrank::ingest::document::parse(deal("open")).unwrap();
    let score = scorer.score(&parsed, now());
    let score_json = quoted(&serde_json::to_value(&score).unwrap());
    let p = score.win_probability.get();
    let at = now().as_microsecond();
    old.execute(&format!(
        "INSERT INTO deals (id, document, outcome, revision, updated_at)
             VALUES ('open', '{open_json}', 'open', 1, 5), ('won', '{won_json}', 'won', 2, 6);
         INSERT INTO events VALUES (1, 'open', 5, 'put', NULL, '{{\"type\":\"document\"}}'),
                                   (2, 'won', 6, 'put', 'e1', '{{\"type\":\"document\"}}');
         INSERT INTO generations VALUES (1, '{first}', 'retired', 3, 4, 2),
                                        (2, '{second}', 'active', 4, NULL, NULL);
         INSERT INTO scores (from_seq, deal_id, generation, model_version, scored_at, cause,
                 win_probability, expected_value, base_amount, grade)
             VALUES (3, 'open', 2, '{second}', {at}, 'put', {p}, {p} * 1000, 1000, 'A');
         INSERT INTO score_documents VALUES (3, '{score_json}');
         INSERT INTO jobs (id, kind, state, created_at) VALUES ('j', 'train', 'done', 7);
         UPDATE sequence SET value = 3;
         INSERT INTO settings VALUES ('store_id', 'abc');"
    ))
    .await;

    let book = open(&StoreLocation::File(path)).await;
    let store = book.store();
    assert_eq!(store.id(), "abc");
    assert_eq!(store.count_deals(Which::Closed).await.unwrap(), 1);
    let found = book.deal(&id("open")).await.unwrap();
    assert_eq!((found.revision, &found.score), (1, &Some(score.clone())));
    let ledger = book.ledger(&id("open"), None, 10).await.unwrap();
    assert_eq!(
        (ledger[0].is_current, &ledger[0].inputs_hash),
        (true, &None)
    );
    assert_eq!(store.events(&id("won")).await.unwrap().len(), 1);
    let pages = all_pages(&book, &RankingQuery::default()).await;
    assert_eq!(pages[0].rows[0].score, score);
    let activations = store.activations(10).await.unwrap();
    let versions: Vec<_> = activations.iter().map(|a| &a.model_version).collect();
    assert_eq!(versions, [second, first]);
    assert_eq!(&store.previous_champion().await.unwrap(), first);
    assert_eq!(store.jobs(10).await.unwrap()[0].id, "j");
    let written = book
        .put(open_deal(&mut rng(55), "new"), later())
        .await
        .unwrap();
    assert!(written.deal.revision > 3);
}

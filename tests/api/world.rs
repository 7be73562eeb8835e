//! A small company: deals, models, and a book of them in a folder of its own.

use std::sync::{Arc, LazyLock};

use dealrank::book::{Book, BookSettings};
use dealrank::domain::{Activity, AttributeValue, Deal, DealId, Exchange, FieldChange, Outcome};
use dealrank::ingest::Mapping;
use dealrank::model::Model;
use dealrank::progress::silent;
use dealrank::ranking::{Accelerator, RankingPage, RankingQuery, RankingRow};
use dealrank::training::{TrainOptions, train};
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rust_decimal::Decimal;
use tempfile::TempDir;

use crate::servers::{TestStore, accelerator};

pub const OWNERS: [&str; 4] = ["ana", "bob", "chloé", "owner:all"];
const PIPELINES: [&str; 2] = ["new business", "renewals"];
const STAGES: [&str; 3] = ["new", "demo", "proposal"];
const SOURCES: [&str; 3] = ["web", "partner", "event"];

/// The present of the tests.
pub fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

pub fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

pub fn id(text: &str) -> DealId {
    DealId::new(text).unwrap()
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn exchange() -> Arc<Exchange> {
    Arc::new(Exchange::only("EUR".parse().unwrap()))
}

fn any<'a>(rng: &mut impl Rng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

/// An open deal like many: some without amount, many with the same one, some in a currency that has
/// no rate.
pub fn open_deal(rng: &mut impl Rng, name: &str) -> Deal {
    let created_at = now() - days(rng.random_range(1..200));
    let mut deal = Deal {
        name: Some(format!("Deal {name}")),
        pipeline: rng.random_bool(0.9).then(|| any(rng, &PIPELINES).into()),
        stage: Some(any(rng, &STAGES).into()),
        owner: rng.random_bool(0.9).then(|| any(rng, &OWNERS).into()),
        amount: rng
            .random_bool(0.8)
            .then(|| Decimal::from(1000 * rng.random_range(0..5))),
        currency: rng
            .random_bool(0.9)
            .then(|| any(rng, &["EUR", "EUR", "EUR", "JPY"]).parse().unwrap()),
        created_at: rng.random_bool(0.95).then_some(created_at),
        expected_close_at: rng
            .random_bool(0.7)
            .then(|| now() + days(rng.random_range(-10..90))),
        ..Deal::new(id(name))
    };
    deal.attributes.insert(
        "source".into(),
        AttributeValue::Text(any(rng, &SOURCES).into()),
    );
    if rng.random_bool(0.5) {
        deal.activities.push(Activity {
            at: created_at + days(rng.random_range(0..60)),
            kind: "call".into(),
            direction: None,
            outcome: None,
        });
    }
    deal
}

pub fn open_deals(seed: u64, count: usize) -> Vec<Deal> {
    let mut rng = rng(seed);
    (0..count)
        .map(|i| open_deal(&mut rng, &format!("d{i:05}")))
        .collect()
}

/// Won or lost, sixty days after it began; partners bring better deals.
fn closed_deal(rng: &mut impl Rng, name: &str) -> Deal {
    let mut deal = open_deal(rng, name);
    let created_at = now() - days(rng.random_range(100..700));
    let closed_at = created_at + days(60);
    let is_partner = deal.attributes["source"] == AttributeValue::Text("partner".into());
    let is_won = rng.random_bool(if is_partner { 0.7 } else { 0.3 });
    deal.created_at = Some(created_at);
    deal.activities.clear();
    deal.history.push(FieldChange {
        at: created_at,
        field: "stage".into(),
        value: AttributeValue::Text("new".into()),
    });
    deal.outcome = if is_won { Outcome::Won } else { Outcome::Lost };
    deal.closed_at = Some(closed_at);
    deal
}

pub fn closed_deals(seed: u64, count: usize) -> Vec<Deal> {
    let mut rng = rng(seed);
    (0..count)
        .map(|i| closed_deal(&mut rng, &format!("closed{i}")))
        .collect()
}

fn model(seed: u64) -> Model {
    let deals = closed_deals(seed, 400);
    let options = TrainOptions {
        as_of: now(),
        trained_at: now() + SignedDuration::from_secs(seed as i64),
        mapping: Mapping::default(),
        exchange: (*exchange()).clone(),
    };
    train(&deals, &options, &silent).unwrap()
}

/// Three models that disagree.
pub static MODELS: LazyLock<[Model; 3]> = LazyLock::new(|| [1, 2, 3].map(model));

/// A book with its store, and a folder.
pub struct World {
    pub book: Book,
    pub store: TestStore,
    pub folder: TempDir,
}

impl World {
    pub async fn new(accelerator: Accelerator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = TestStore::of(folder.path());
        let book = open(&store, accelerator).await;
        for model in &*MODELS {
            book.register(model, "trained", now()).await.unwrap();
        }
        Self {
            book,
            store,
            folder,
        }
    }

    /// With the cache of the run, with the first model active and `deals` in it.
    pub async fn with(deals: Vec<Deal>) -> Self {
        let world = Self::new(accelerator()).await;
        world.activate(0).await;
        world.book.import(deals, now()).await.unwrap();
        world
    }

    pub async fn activate(&self, model: usize) {
        let version = &MODELS[model].version;
        self.book.activate(version, now(), &silent).await.unwrap();
    }

    /// Ends the book as a process would end, and opens it again.
    pub async fn reopen(self) -> Self {
        let Self {
            book,
            store,
            folder,
        } = self;
        book.store().close().await;
        drop(book);
        let book = open(&store, accelerator()).await;
        Self {
            book,
            store,
            folder,
        }
    }
}

async fn open(store: &TestStore, accelerator: Accelerator) -> Book {
    let settings = BookSettings::default();
    let book = Book::open(store.open().await, accelerator, exchange(), settings);
    book.await.unwrap()
}

/// All pages of a query.
pub async fn all_pages(book: &Book, query: &RankingQuery) -> Vec<RankingPage> {
    let mut pages: Vec<RankingPage> = Vec::new();
    loop {
        let cursor = pages.last().and_then(|page| page.next_cursor.clone());
        if !pages.is_empty() && cursor.is_none() {
            return pages;
        }
        let page = book.ranking(query, cursor.as_deref(), now()).await.unwrap();
        pages.push(page);
    }
}

/// All rows of a query.
pub async fn all_rows(book: &Book, query: &RankingQuery) -> Vec<RankingRow> {
    let pages = all_pages(book, query).await;
    pages.into_iter().flat_map(|page| page.rows).collect()
}

pub fn ids(rows: &[RankingRow]) -> Vec<&str> {
    rows.iter().map(|row| row.deal.id.as_str()).collect()
}

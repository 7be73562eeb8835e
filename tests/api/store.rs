//! The book on a store in process: what is kept, in which order, and what others see meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dealrank::book::{Book, BookSettings, ReceivedEvent};
use dealrank::domain::deal::Event;
use dealrank::domain::{Activity, AttributeValue, Deal, FieldChange, Outcome};
use dealrank::error::Error;
use dealrank::jobs::{ImportTask, TrainRequest};
use dealrank::model::{Clue, FindingGrade};
use dealrank::progress::{Progress, silent};
use dealrank::ranking::{Accelerator, RankingQuery, RankingRow, Sort};
use dealrank::scoring::Grade;
use dealrank::store::{JobState, Which};
use jiff::Timestamp;
use serde_json::json;

use crate::servers::{POSTGRES, TestStore};
use crate::world::{
    MODELS, OWNERS, World, all_pages, all_rows, closed_deals, days, exchange, id, ids, now,
    open_deal, open_deals, rng,
};

fn stage(at: Timestamp, stage: &str) -> Event {
    Event::Change(FieldChange {
        at,
        field: "stage".into(),
        value: AttributeValue::Text(stage.into()),
    })
}

fn received(id: &str, event: Event) -> ReceivedEvent {
    ReceivedEvent {
        id: Some(id.into()),
        event,
    }
}

#[tokio::test]
async fn everything_is_found_as_it_was_left() {
    let world = World::with(open_deals(1, 30)).await;
    world.book.erase(&id("d00003")).await.unwrap();
    let deal = world.book.deal(&id("d00007")).await.unwrap();
    let rows = all_rows(&world.book, &RankingQuery::default()).await;
    let ledger = world.book.ledger(&id("d00007"), None, 10).await.unwrap();

    let world = world.reopen().await;
    assert_eq!(world.book.deal(&id("d00007")).await.unwrap(), deal);
    assert_eq!(all_rows(&world.book, &RankingQuery::default()).await, rows);
    assert_eq!(rows.len(), 29);
    assert_eq!(
        world.book.ledger(&id("d00007"), None, 10).await.unwrap(),
        ledger
    );
    let scorer = world.book.scorer().await.unwrap().unwrap();
    assert_eq!(scorer.model().version, MODELS[0].version);
}

#[tokio::test]
async fn the_same_document_twice_changes_nothing() {
    let world = World::with(Vec::new()).await;
    let deal = open_deal(&mut rng(2), "d");
    let first = world.book.put(deal.clone(), now()).await.unwrap();
    assert!(first.is_created && first.is_changed);
    let again = world.book.put(deal.clone(), now()).await.unwrap();
    assert!(!again.is_created && !again.is_changed);
    assert_eq!(again.deal, first.deal);
    assert_eq!(world.store.count("SELECT count(*) FROM events").await, 1);

    let later = world.book.put(deal, now() + days(3)).await.unwrap();
    assert_eq!(later.deal.revision, first.deal.revision);
}

#[tokio::test]
async fn a_revision_is_scored_and_leaves_a_trace() {
    let world = World::with(Vec::new()).await;
    let mut deal = open_deal(&mut rng(3), "d");
    deal.amount = Some(1000.into());
    deal.currency = None;
    world.book.put(deal.clone(), now()).await.unwrap();
    let patch = json!({ "amount": "2000", "attributes": { "source": null } });
    let patched = world.book.patch(&id("d"), patch, now()).await.unwrap();
    let score = patched.deal.score.unwrap();
    assert_eq!(score.amount, Some(2000.0));
    assert!(!patched.deal.deal.attributes.contains_key("source"));

    let ledger = world.book.ledger(&id("d"), None, 10).await.unwrap();
    let causes: Vec<_> = ledger
        .iter()
        .map(|entry| (&*entry.cause, entry.is_current))
        .collect();
    assert_eq!(causes, [("patch", true), ("put", false)]);
    assert_eq!(ledger[0].score, score);
    assert_eq!(ledger[1].score.amount, Some(1000.0));
    let older = world
        .book
        .ledger(&id("d"), Some(ledger[0].seq), 10)
        .await
        .unwrap();
    assert_eq!(older, ledger[1..]);
    assert_eq!(world.book.score(&id("d")).await.unwrap(), Some(score));
}

#[tokio::test]
async fn an_event_counts_once_and_in_any_order() {
    let world = World::with(Vec::new()).await;
    let call = Event::Activity(Activity {
        at: now() - days(1),
        kind: "call".into(),
        direction: None,
        outcome: None,
    });
    let events = [
        received("e1", stage(now() - days(3), "demo")),
        received("e2", stage(now() - days(2), "proposal")),
        received("e3", call.clone()),
    ];
    for (name, order) in [("forward", [0, 1, 2]), ("backward", [2, 1, 0])] {
        world
            .book
            .put(open_deal(&mut rng(4), name), now())
            .await
            .unwrap();
        for index in order {
            for delivery in 0..2 {
                let event = events[index].clone();
                let appended = world
                    .book
                    .append(&id(name), vec![event], now())
                    .await
                    .unwrap();
                let expected = if delivery == 0 { (1, 0) } else { (0, 1) };
                assert_eq!((appended.applied, appended.duplicates), expected);
            }
        }
    }
    let mut forward = world.book.deal(&id("forward")).await.unwrap().deal;
    let backward = world.book.deal(&id("backward")).await.unwrap().deal;
    assert_eq!(forward.stage.as_deref(), Some("proposal"));
    forward.id = backward.id.clone();
    forward.name = backward.name.clone();
    assert_eq!(forward, backward);

    let unnamed = ReceivedEvent {
        id: None,
        event: call,
    };
    let appended = world
        .book
        .append(&id("forward"), vec![unnamed], now())
        .await
        .unwrap();
    assert_eq!((appended.applied, appended.duplicates), (0, 1));
}

#[tokio::test]
async fn of_events_with_a_bad_one_none_is_added() {
    let world = World::with(Vec::new()).await;
    let before = world
        .book
        .put(open_deal(&mut rng(5), "d"), now())
        .await
        .unwrap();
    let bad = Event::Change(FieldChange {
        at: now(),
        field: "amount".into(),
        value: AttributeValue::Text("much".into()),
    });
    let events = vec![
        received("e1", stage(now(), "won over")),
        received("e2", bad),
    ];
    let error = world
        .book
        .append(&id("d"), events, now())
        .await
        .unwrap_err();
    let Error::Invalid(fields) = error else {
        panic!("{error}")
    };
    assert_eq!(fields[0].field, "events[1].value");
    assert_eq!(world.book.deal(&id("d")).await.unwrap(), before.deal);
}

#[tokio::test]
async fn an_erased_deal_leaves_no_trace() {
    let world = World::with(open_deals(6, 5)).await;
    world.activate(1).await;
    let gone = id("d00002");
    let event = received("e", stage(now(), "demo"));
    world.book.append(&gone, vec![event], now()).await.unwrap();
    world.book.score(&gone).await.unwrap();

    world.book.erase(&gone).await.unwrap();
    let not_found = |error| matches!(error, Error::NotFound { kind: "deal", .. });
    assert!(not_found(world.book.deal(&gone).await.unwrap_err()));
    assert!(not_found(world.book.score(&gone).await.unwrap_err()));
    assert!(not_found(
        world.book.ledger(&gone, None, 1).await.unwrap_err()
    ));
    assert!(not_found(world.book.erase(&gone).await.unwrap_err()));
    let rows = all_rows(&world.book, &RankingQuery::default()).await;
    assert_eq!(rows.len(), 4);
    assert!(!ids(&rows).contains(&"d00002"));
    for query in [
        "SELECT count(*) FROM deals WHERE id = 'd00002'",
        "SELECT count(*) FROM events WHERE deal_id = 'd00002'",
        "SELECT count(*) FROM scores WHERE deal_id = 'd00002'",
        "SELECT count(*) FROM score_documents WHERE score LIKE '%d00002%'",
    ] {
        assert_eq!(world.store.count(query).await, 0, "{query}");
    }
}

#[tokio::test]
async fn a_closed_deal_leaves_the_ranking_and_keeps_its_history() {
    let world = World::with(open_deals(7, 3)).await;
    let closed = Event::Closed {
        at: now(),
        outcome: Outcome::Won,
    };
    let event = ReceivedEvent {
        id: None,
        event: closed,
    };
    let appended = world
        .book
        .append(&id("d00001"), vec![event], now())
        .await
        .unwrap();
    assert_eq!(appended.deal.score, None);
    let rows = all_rows(&world.book, &RankingQuery::default()).await;
    assert_eq!(rows.len(), 2);
    let ledger = world.book.ledger(&id("d00001"), None, 10).await.unwrap();
    assert_eq!(ledger.len(), 1);
    assert!(!ledger[0].is_current);
    assert_eq!(
        world.book.store().count_deals(Which::Closed).await.unwrap(),
        1
    );

    let reopened = world
        .book
        .patch(&id("d00001"), json!({ "outcome": "open" }), now())
        .await;
    assert!(reopened.unwrap().deal.score.is_some());
    assert_eq!(
        all_rows(&world.book, &RankingQuery::default()).await.len(),
        3
    );
}

#[tokio::test]
async fn without_a_model_deals_are_kept_and_not_ranked() {
    let world = World::new(Accelerator::memory()).await;
    world.book.import(open_deals(8, 3), now()).await.unwrap();
    assert_eq!(world.book.deal(&id("d00000")).await.unwrap().score, None);
    assert_eq!(world.book.score(&id("d00000")).await.unwrap(), None);
    let error = world
        .book
        .ranking(&RankingQuery::default(), None, now())
        .await;
    assert!(matches!(error, Err(Error::NoModel)));
    assert!(matches!(
        world.book.refresh(now(), None, &silent).await,
        Err(Error::NoModel)
    ));
    let unknown = world.book.activate("none", now(), &silent).await;
    assert!(matches!(
        unknown,
        Err(Error::NotFound { kind: "model", .. })
    ));

    world.activate(0).await;
    assert_eq!(
        all_rows(&world.book, &RankingQuery::default()).await.len(),
        3
    );
    let active: Vec<_> = world.book.store().models().await.unwrap();
    assert_eq!(active.iter().filter(|model| model.is_active).count(), 1);
}

#[tokio::test]
async fn an_import_counts_what_it_did() {
    let world = World::with(Vec::new()).await;
    let mut deals = open_deals(9, 1200);
    let imported = world.book.import(deals.clone(), now()).await.unwrap();
    assert_eq!(
        (imported.created, imported.changed, imported.unchanged),
        (1200, 0, 0)
    );
    let mut twin = deals[0].clone();
    twin.stage = Some("a new stage".into());
    deals[1].owner = Some("someone else".into());
    deals.push(twin);
    let imported = world.book.import(deals, now()).await.unwrap();
    assert_eq!(
        (imported.created, imported.changed, imported.unchanged),
        (0, 2, 1199)
    );
    let first = world.book.deal(&id("d00000")).await.unwrap();
    assert_eq!(first.deal.stage.as_deref(), Some("a new stage"));
}

#[tokio::test]
async fn a_deal_that_could_not_be_read_back_is_refused() {
    let world = World::with(Vec::new()).await;
    let mut deals = open_deals(20, 3);
    deals[1].name = Some("x".repeat(1_000_000));
    let error = world.book.put(deals[1].clone(), now()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Invalid(fields) if fields[0].field == "name"),
        "{error}"
    );
    let imported = world.book.import(deals, now()).await.unwrap();
    assert_eq!(imported.created, 2);
    assert_eq!(imported.refused[0].0, id("d00001"));
    assert_eq!(world.book.store().count_deals(Which::All).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_of_one_deal_do_not_lose_each_other() {
    let world = World::with(open_deals(10, 1)).await;
    let writes = (0..40).map(|i| {
        let book = world.book.clone();
        tokio::spawn(async move {
            let patch = json!({ "attributes": { (format!("a{i}")): i } });
            book.patch(&id("d00000"), patch, now()).await.unwrap();
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let deal = world.book.deal(&id("d00000")).await.unwrap();
    assert_eq!(deal.deal.attributes.len(), 41);
    let rows = all_rows(&world.book, &RankingQuery::default()).await;
    assert_eq!(Some(&rows[0].score), deal.score.as_ref());
}

/// The sort key as the documentation tells it, worked out by hand; `None` is unknown.
fn worth(row: &RankingRow, sort: Sort) -> Option<f64> {
    let whole_days = |from: Timestamp, to: Timestamp| (to.as_second() - from.as_second()) / 86_400;
    let deal = &row.deal;
    match sort {
        Sort::ExpectedValue => row.score.expected_value,
        Sort::WinProbability => Some(row.score.win_probability.get()),
        Sort::Amount => deal.base_amount,
        Sort::EvPerDay => {
            let days = whole_days(now(), deal.expected_close_at?).max(1);
            Some(row.score.expected_value? / days as f64)
        }
        Sort::Neglect => {
            let since = deal.last_activity_at.or(deal.created_at)?;
            Some(row.score.expected_value? * whole_days(since, now()).max(0) as f64)
        }
    }
}

type Filter = Box<dyn Fn(&RankingRow) -> bool>;

#[tokio::test]
async fn every_sort_and_filter_does_what_it_says() {
    let world = World::with(open_deals(11, 300)).await;
    let everything = RankingQuery {
        limit: 200,
        ..RankingQuery::default()
    };
    let rows = all_rows(&world.book, &everything).await;
    assert_eq!(rows.len(), 300);
    let is_stalled = |row: &RankingRow| {
        let entered_at = row.deal.stage_entered_at;
        entered_at.is_some_and(|at| at < now() - days(30))
    };
    let filters: [(RankingQuery, Filter); 7] = [
        (RankingQuery::default(), Box::new(|_| true)),
        (
            RankingQuery {
                owner: Some("ana".into()),
                ..Default::default()
            },
            Box::new(|row| row.deal.owner.as_deref() == Some("ana")),
        ),
        (
            RankingQuery {
                pipeline: Some("renewals".into()),
                ..Default::default()
            },
            Box::new(|row| row.deal.pipeline.as_deref() == Some("renewals")),
        ),
        (
            RankingQuery {
                stage: Some("demo".into()),
                ..Default::default()
            },
            Box::new(|row| row.deal.stage.as_deref() == Some("demo")),
        ),
        (
            RankingQuery {
                grade: Some(Grade::A),
                ..Default::default()
            },
            Box::new(|row| row.score.grade == Grade::A),
        ),
        (
            RankingQuery {
                min_amount: Some(2000.0),
                ..Default::default()
            },
            Box::new(|row| row.deal.base_amount.is_some_and(|amount| amount >= 2000.0)),
        ),
        (
            RankingQuery {
                stalled: true,
                owner: Some("bob".into()),
                ..Default::default()
            },
            Box::new(move |row| is_stalled(row) && row.deal.owner.as_deref() == Some("bob")),
        ),
    ];
    for sort in [
        Sort::ExpectedValue,
        Sort::WinProbability,
        Sort::Amount,
        Sort::EvPerDay,
        Sort::Neglect,
    ] {
        let mut expected: Vec<&RankingRow> = rows.iter().collect();
        expected.sort_by(|a, b| {
            let key = |row| worth(row, sort).unwrap_or(-1.0);
            key(b)
                .total_cmp(&key(a))
                .then_with(|| a.deal.id.cmp(&b.deal.id))
        });
        for (filter, holds) in &filters {
            let query = RankingQuery {
                sort,
                limit: 7,
                ..filter.clone()
            };
            let found = all_rows(&world.book, &query).await;
            let expected: Vec<&RankingRow> =
                expected.iter().copied().filter(|r| holds(r)).collect();
            assert!(!expected.is_empty());
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query:?}");
        }
    }
}

#[tokio::test]
async fn bad_questions_are_refused() {
    let world = World::with(open_deals(12, 10)).await;
    for (query, field) in [
        (
            RankingQuery {
                limit: 0,
                ..Default::default()
            },
            "limit",
        ),
        (
            RankingQuery {
                limit: 201,
                ..Default::default()
            },
            "limit",
        ),
        (
            RankingQuery {
                min_amount: Some(-1.0),
                ..Default::default()
            },
            "min_amount",
        ),
        (
            RankingQuery {
                min_amount: Some(f64::NAN),
                ..Default::default()
            },
            "min_amount",
        ),
    ] {
        let error = world.book.ranking(&query, None, now()).await.unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
    let query = RankingQuery {
        limit: 2,
        ..Default::default()
    };
    let page = world.book.ranking(&query, None, now()).await.unwrap();
    let cursor = page.next_cursor.unwrap();
    let other = RankingQuery {
        owner: Some("ana".into()),
        ..query.clone()
    };
    for (query, cursor) in [(&other, cursor.as_str()), (&query, "garbage"), (&query, "")] {
        let error = world
            .book
            .ranking(query, Some(cursor), now())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(fields) if fields[0].field == "cursor"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_cursor_outlives_its_model_for_a_while() {
    let world = World::with(open_deals(13, 10)).await;
    let query = RankingQuery {
        limit: 4,
        ..Default::default()
    };
    let expected = all_rows(&world.book, &query).await;
    let first = world.book.ranking(&query, None, now()).await.unwrap();
    let cursor = first.next_cursor.as_deref();
    world.activate(1).await;
    world.activate(2).await;

    let soon = now() + jiff::SignedDuration::from_mins(9);
    let second = world.book.ranking(&query, cursor, soon).await.unwrap();
    assert_eq!(second.model_version, MODELS[0].version);
    assert_eq!(second.rows, expected[4..8]);
    let late = now() + jiff::SignedDuration::from_mins(11);
    let error = world.book.ranking(&query, cursor, late).await.unwrap_err();
    assert!(matches!(error, Error::CursorExpired), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn paging_neither_repeats_nor_skips_while_scores_change() {
    let world = World::with(open_deals(14, 400)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (book, is_over) = (world.book.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut rng = rng(100 + writer);
                let mut written = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let name = format!("d{:05}", rand::RngExt::random_range(&mut rng, 0..400));
                    book.put(open_deal(&mut rng, &name), now()).await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    for sort in [Sort::ExpectedValue, Sort::Amount, Sort::Neglect] {
        for _ in 0..5 {
            let query = RankingQuery {
                sort,
                limit: 23,
                ..Default::default()
            };
            let rows = all_rows(&world.book, &query).await;
            let seen: BTreeSet<_> = ids(&rows).into_iter().collect();
            assert_eq!((rows.len(), seen.len()), (400, 400), "{sort:?}");
            assert!(rows.is_sorted_by(|a, b| {
                let key = |row| worth(row, sort).unwrap_or(-1.0);
                key(a) > key(b) || (key(a) == key(b) && a.deal.id < b.deal.id)
            }));
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_page_mixes_models_while_another_is_activated() {
    let world = World::new(Accelerator::memory()).await;
    activate_while_others_read_and_write(&world).await;
}

/// Every model in turn, until a reader has seen all of them.
pub async fn activate_while_others_read_and_write(world: &World) {
    world.activate(0).await;
    world
        .book
        .import(open_deals(15, 1500), now())
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (versions, seen_versions) = tokio::sync::watch::channel(BTreeSet::new());
    let reader = {
        let (book, is_over) = (world.book.clone(), is_over.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let query = RankingQuery {
                    limit: 100,
                    ..Default::default()
                };
                let pages = all_pages(&book, &query).await;
                let mut seen = BTreeSet::new();
                for page in &pages {
                    assert_eq!(page.model_version, pages[0].model_version);
                    for row in &page.rows {
                        assert_eq!(row.score.model_version, page.model_version);
                        assert!(seen.insert(row.deal.id.clone()), "{} twice", row.deal.id);
                    }
                }
                // The writer closes one deal and opens it again.
                assert!((1499..=1500).contains(&seen.len()), "{}", seen.len());
                versions.send_modify(|seen| {
                    seen.insert(pages[0].model_version.clone());
                });
            }
        })
    };
    let writer = {
        let (book, is_over) = (world.book.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut rng = rng(16);
            while !is_over.load(Ordering::Relaxed) {
                let name = format!("d{:05}", rand::RngExt::random_range(&mut rng, 1..1500));
                book.put(open_deal(&mut rng, &name), now()).await.unwrap();
                for outcome in ["lost", "open"] {
                    let patch = json!({ "outcome": outcome });
                    book.patch(&id("d00000"), patch, now()).await.unwrap();
                }
            }
        })
    };
    for model in [1, 2, 0].into_iter().cycle().take(300) {
        world.activate(model).await;
        // Whoever asks after an activation is answered by the new model.
        let page = world
            .book
            .ranking(&RankingQuery::default(), None, now())
            .await
            .unwrap();
        assert_eq!(page.model_version, MODELS[model].version);
        if seen_versions.borrow().len() == MODELS.len() {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    reader.await.unwrap();
    assert_eq!(seen_versions.borrow().len(), MODELS.len());

    // What was written while the rankings were built is in them as if written afterwards.
    let scorer = world.book.scorer().await.unwrap().unwrap();
    let rows = all_rows(&world.book, &RankingQuery::default()).await;
    assert_eq!(rows.len(), 1500);
    for row in rows {
        let deal = world.book.deal(&row.deal.id).await.unwrap();
        assert_eq!(row.score, scorer.score(&deal.deal, row.score.scored_at));
        assert_eq!(deal.score, Some(row.score));
    }
}

#[tokio::test]
async fn an_activation_reports_its_progress() {
    let world = World::with(open_deals(17, 2500)).await;
    let steps = std::sync::Mutex::new(Vec::new());
    let listen = |progress: Progress| steps.lock().unwrap().push((progress.done, progress.total));
    let version = &MODELS[1].version;
    let activated = world.book.activate(version, now(), &listen).await.unwrap();
    assert_eq!(activated.scored, 2500);
    assert_eq!(
        steps.into_inner().unwrap(),
        [(1000, 2500), (2000, 2500), (2500, 2500)]
    );
}

#[tokio::test]
async fn a_refresh_writes_only_what_time_has_moved() {
    let world = World::with(open_deals(18, 50)).await;
    let lines = "SELECT count(*) FROM scores";
    assert_eq!(world.store.count(lines).await, 50);
    let unmoved = world.book.refresh(now(), None, &silent).await.unwrap();
    assert_eq!((unmoved.scored, unmoved.changed), (50, 0));
    let moved = world
        .book
        .refresh(now() + days(20), None, &silent)
        .await
        .unwrap();
    assert_eq!(moved.scored, 50);
    assert_eq!(world.store.count(lines).await as u64, 50 + moved.changed);
    let scorer = world.book.scorer().await.unwrap().unwrap();
    for row in all_rows(&world.book, &RankingQuery::default()).await {
        let deal: Deal = world.book.deal(&row.deal.id).await.unwrap().deal;
        let fresh = scorer.score(&deal, now() + days(20));
        assert_eq!(row.score.win_probability, fresh.win_probability);
    }
}

#[tokio::test]
async fn a_job_tells_how_it_went() {
    let world = World::new(Accelerator::memory()).await;
    let store = world.book.store();
    let job = store
        .create_job("import", "one", None, now())
        .await
        .unwrap();
    assert_eq!(job.state, JobState::Queued);
    store.start_job(&job.id, now()).await.unwrap();
    let progress = Progress {
        phase: "read",
        done: 5,
        total: 10,
    };
    store.advance_job(&job.id, progress).await.unwrap();
    let running = store.job(&job.id).await.unwrap();
    assert_eq!(
        (running.state, running.done, running.total),
        (JobState::Running, 5, 10)
    );
    let result = json!({ "created": 10 });
    store
        .finish_job(&job.id, Ok(result.clone()), now())
        .await
        .unwrap();
    let done = store.job(&job.id).await.unwrap();
    assert_eq!((done.state, done.result), (JobState::Done, Some(result)));

    let left = store
        .create_job("train", "gone", None, now())
        .await
        .unwrap();
    let world = world.reopen().await;
    let store = world.book.store();
    assert_eq!(
        store
            .fail_interrupted_jobs("present", Some("gone"), now())
            .await
            .unwrap(),
        1
    );
    let left = store.job(&left.id).await.unwrap();
    assert_eq!(left.state, JobState::Failed);
    assert!(left.error.is_some());
    let newest_first: Vec<_> = store.jobs(10).await.unwrap();
    assert_eq!(
        newest_first
            .iter()
            .map(|job| &*job.kind)
            .collect::<Vec<_>>(),
        ["train", "import"]
    );
    assert!(matches!(
        store.job("none").await,
        Err(Error::NotFound { kind: "job", .. })
    ));
}

#[tokio::test]
async fn embedded_file_that_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(
        &path,
        "these are notes, and more of them than a header is long".repeat(99),
    )
    .unwrap();
    let error = dealrank::store::Store::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
}

#[tokio::test]
async fn each_owner_has_a_queue() {
    let world = World::with(open_deals(19, 200)).await;
    let all = all_rows(&world.book, &RankingQuery::default()).await;
    let mut of_owner: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &all {
        if let Some(owner) = &row.deal.owner {
            of_owner
                .entry(owner)
                .or_default()
                .push(row.deal.id.as_str());
        }
    }
    for owner in OWNERS {
        let query = RankingQuery {
            owner: Some(owner.into()),
            limit: 9,
            ..Default::default()
        };
        assert_eq!(ids(&all_rows(&world.book, &query).await), of_owner[owner]);
    }
    let nobody = RankingQuery {
        owner: Some("nobody".into()),
        ..Default::default()
    };
    assert!(all_rows(&world.book, &nobody).await.is_empty());
}

/// An activation, a refresh and an import go by the moment at which they began; meanwhile others
/// write.
#[tokio::test]
async fn long_work_does_not_take_a_deal_back_in_time() {
    let world = World::with(Vec::new()).await;
    let began_at = now();
    let mut deal = open_deal(&mut rng(30), "d");
    deal.amount = Some(1000.into());
    deal.currency = None;
    world.book.put(deal, now() - days(1)).await.unwrap();
    let patch = json!({ "amount": "2000" });
    let patched_at = began_at + days(1);
    world.book.patch(&id("d"), patch, patched_at).await.unwrap();
    let amount = async || {
        let rows = all_rows(&world.book, &RankingQuery::default()).await;
        (rows[0].deal.amount, rows[0].score.amount)
    };
    let patched = (Some(2000.into()), Some(2000.0));

    let version = &MODELS[1].version;
    world
        .book
        .activate(version, began_at, &silent)
        .await
        .unwrap();
    assert_eq!(amount().await, patched);
    world.book.refresh(began_at, None, &silent).await.unwrap();
    assert_eq!(amount().await, patched);
    let mut imported = world.book.deal(&id("d")).await.unwrap().deal;
    imported.amount = Some(3000.into());
    world.book.import(vec![imported], began_at).await.unwrap();
    assert_eq!(amount().await, (Some(3000.into()), Some(3000.0)));
}

#[tokio::test]
async fn the_same_model_on_another_day_leaves_no_old_score_in_the_cache() {
    let world = World::with(open_deals(31, 20)).await;
    for number in 0..20 {
        let id = id(&format!("d{number:05}"));
        world.book.score(&id).await.unwrap();
    }
    let version = &MODELS[0].version;
    let later = now() + days(60);
    world.book.activate(version, later, &silent).await.unwrap();
    for number in 0..20 {
        let id = id(&format!("d{number:05}"));
        let stored = world.book.deal(&id).await.unwrap().score;
        assert_eq!(world.book.score(&id).await.unwrap(), stored);
    }
}

#[tokio::test]
async fn an_import_tells_of_deals_that_cannot_be_stored() {
    let world = World::with(Vec::new()).await;
    let import = async |kind: &str| {
        let activities: Vec<_> = (0..6000)
            .map(|i| json!({ "at": "2026-01-01T00:00:00Z", "kind": format!("{kind} {i}") }))
            .collect();
        let deal =
            json!({ "id": "d", "stage": null, "created_at": null, "activities": activities });
        let path = world.folder.path().join(format!("{kind}.ndjson"));
        std::fs::write(&path, deal.to_string()).unwrap();
        let task = ImportTask::new(path, "deals.ndjson");
        let rejects = world.folder.path().join("rejects.csv");
        dealrank::jobs::import(&world.book, task, rejects, |_| {})
            .await
            .unwrap()
    };
    assert_eq!(import("call").await.stored, 1);
    let report = import("mail").await;
    assert_eq!((report.stored, report.rejected), (0, 1));
    assert!(
        report
            .notices
            .iter()
            .any(|n| n.contains("deal d was not stored")),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_training_finds_the_mapping_of_the_latest_import_however_long_ago() {
    let world = World::with(Vec::new()).await;
    for insert in [
        r#"INSERT INTO jobs (id, kind, state, created_at, result)
           VALUES ('import', 'import', 'done', 0, '{"mapping": {"columns": {"protected": ["source"]}}}')"#,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
         INSERT INTO jobs (id, kind, state, created_at) SELECT 'r' || i, 'refresh', 'done', 0 FROM n",
    ] {
        world.store.execute(insert).await;
    }
    world
        .book
        .import(closed_deals(32, 200), now())
        .await
        .unwrap();
    let trained = dealrank::jobs::train(&world.book, TrainRequest::default(), None, |_| {})
        .await
        .unwrap();
    let model = world.book.scorer_of(&trained.model_version).await.unwrap();
    let protected = model.model().dropped.iter().find(|d| d.column == "source");
    assert!(protected.unwrap().reason.contains("protected"));
}

/// What deals look like before they end is seen on the open ones.
#[tokio::test]
async fn a_training_on_the_store_leaves_out_what_only_closed_deals_have() {
    let world = World::with(Vec::new()).await;
    let mut deals = closed_deals(32, 200);
    for (index, deal) in deals.iter_mut().enumerate() {
        let contract = AttributeValue::Text(["a", "b", "c"][index % 3].into());
        deal.attributes.insert("contract".into(), contract);
    }
    let mut rng = rng(33);
    deals.extend((0..40).map(|index| open_deal(&mut rng, &format!("open {index}"))));
    world.book.import(deals, now()).await.unwrap();
    let trained = dealrank::jobs::train(&world.book, TrainRequest::default(), None, |_| {})
        .await
        .unwrap();
    assert_eq!(trained.deals, 200, "the open ones are not learned from");
    let scorer = world.book.scorer_of(&trained.model_version).await.unwrap();
    let findings = &scorer.model().findings;
    let contract = findings.iter().find(|f| f.column == "contract").unwrap();
    assert_eq!(contract.grade, FindingGrade::LeftOut);
    assert_eq!(contract.code, Clue::FilledAtClosing);
    assert!(
        contract.evidence.contains("0% of the 40 deals"),
        "{contract:?}"
    );
    let mut dropped = scorer.model().dropped.iter();
    assert!(dropped.any(|d| d.column == "contract"));
}

/// Two processes, as far as the store can tell.
#[tokio::test(flavor = "multi_thread")]
async fn shared_deals_are_written_by_several_without_losing_each_other() {
    let store = POSTGRES.new_store();
    let (one, other) = (book_on(&store).await, book_on(&store).await);
    for model in &MODELS[..2] {
        one.register(model, "trained", now()).await.unwrap();
    }
    for name in ["a", "b"] {
        let deal = open_deal(&mut rng(61), name);
        one.put(deal, now() + days(100)).await.unwrap();
    }
    let at = now() + days(101);
    let append = async |book: &Book, writer: i64| {
        for number in 0..15 {
            let event = Event::Activity(Activity {
                at: now() - days(writer) - jiff::SignedDuration::from_secs(number),
                kind: "call".into(),
                direction: None,
                outcome: None,
            });
            let name = ["a", "b"][number as usize % 2];
            // Each event comes from both: one of them is late.
            let event = received(&format!("{writer}-{number}"), event);
            book.append(&id(name), vec![event], at).await.unwrap();
        }
    };
    let version = &MODELS[0].version;
    let activate = one.activate(version, at, &silent);
    let (_, _, _, _, activated) = tokio::join!(
        append(&one, 1),
        append(&one, 2),
        append(&other, 1),
        append(&other, 2),
        activate
    );
    activated.unwrap();
    let events = "SELECT count(*) FROM events WHERE external_id IS NOT NULL";
    assert_eq!(store.count(events).await, 30);
    for (book, name) in [(&one, "a"), (&other, "b")] {
        let before = open_deal(&mut rng(61), name).activities.len();
        let stored = book.deal(&id(name)).await.unwrap();
        let appended = stored.deal.activities.len() - before;
        assert_eq!(appended, if name == "a" { 16 } else { 14 });
    }
    // Whoever did not hear of the new champion learns of it when it writes.
    let patch = json!({ "amount": 4321, "currency": "EUR" });
    let patched = other.patch(&id("a"), patch, at).await.unwrap();
    assert_eq!(&patched.deal.score.unwrap().model_version, version);
}

async fn book_on(store: &TestStore) -> Book {
    let settings = BookSettings::default();
    let book = Book::open(
        store.open().await,
        Accelerator::memory(),
        exchange(),
        settings,
    );
    book.await.unwrap()
}

//! The book on a real Redis that comes and goes: the same answers throughout.

use std::time::{Duration, Instant};

use dealrank::domain::Deal;
use dealrank::ranking::{Accelerator, AcceleratorHealth, RankingPage, RankingQuery};
use rand::RngExt;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde_json::{Value, json};

use crate::servers::{Redis, accelerator_at, free_port};
use crate::service::{self, Service};
use crate::store::activate_while_others_read_and_write;
use crate::world::{OWNERS, World, all_pages, all_rows, id, now, open_deal, open_deals, rng};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn until(world: &World, health: AcceleratorHealth) {
    tokio::time::timeout(PATIENCE, world.book.redis_is(health))
        .await
        .unwrap_or_else(|_| panic!("redis is not {health:?}"));
}

/// The questions that the accelerator may answer, and one that it may not.
fn questions() -> Vec<RankingQuery> {
    let all = RankingQuery {
        limit: 7,
        ..Default::default()
    };
    let mut questions = vec![all.clone()];
    for owner in OWNERS.into_iter().chain(["nobody"]) {
        questions.push(RankingQuery {
            owner: Some(owner.into()),
            ..all.clone()
        });
    }
    questions.push(RankingQuery {
        pipeline: Some("renewals".into()),
        ..all.clone()
    });
    questions.push(RankingQuery {
        stage: Some("demo".into()),
        ..all
    });
    questions
}

/// All pages of all questions, without the cursors: those differ by where they come from.
pub async fn answers(world: &World) -> Vec<Vec<RankingPage>> {
    let mut answers = Vec::new();
    for question in questions() {
        let mut pages = all_pages(&world.book, &question).await;
        for page in &mut pages {
            page.next_cursor = page.next_cursor.take().map(|_| "more".into());
        }
        answers.push(pages);
    }
    answers
}

async fn page_scripts(redis: &Redis) -> u64 {
    let mut connection = redis.connection().await;
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// The same random write to every world.
pub async fn write_somewhere(worlds: &[&World], rng: &mut rand_chacha::ChaCha8Rng) {
    let name = format!("d{:05}", rng.random_range(0..60));
    let deal: Deal = open_deal(rng, &name);
    let kind = rng.random_range(0..10);
    let models = rng.random_range(0..3);
    for world in worlds {
        match kind {
            0 => drop(world.book.erase(&id(&name)).await),
            1 => drop(
                world
                    .book
                    .patch(&id(&name), json!({ "outcome": "won" }), now())
                    .await,
            ),
            2 => world.activate(models).await,
            3 => {
                let deals = open_deals(models as u64, 20);
                world.book.import(deals, now()).await.unwrap();
            }
            _ => drop(world.book.put(deal.clone(), now()).await.unwrap()),
        }
    }
}

#[tokio::test]
async fn redis_memory_and_store_give_the_same_pages() {
    let redis = Redis::start().await;
    // Nobody listens there: this one is answered by the store.
    let nowhere = accelerator_at(&format!("redis://127.0.0.1:{}", free_port()));
    let in_redis = World::new(redis.accelerator()).await;
    let in_memory = World::new(Accelerator::memory()).await;
    let in_store = World::new(nowhere).await;
    let worlds = [&in_redis, &in_memory, &in_store];
    for world in worlds {
        world.activate(0).await;
    }
    let mut rng = rng(21);
    for round in 0..25 {
        for _ in 0..8 {
            write_somewhere(&worlds, &mut rng).await;
        }
        let expected = answers(&in_store).await;
        assert_eq!(answers(&in_memory).await, expected, "memory, round {round}");
        let before = page_scripts(&redis).await;
        assert_eq!(answers(&in_redis).await, expected, "redis, round {round}");
        assert!(page_scripts(&redis).await > before, "redis was not asked");
    }
    assert_eq!(in_redis.book.health().await.redis, AcceleratorHealth::Up);
    assert_eq!(
        in_memory.book.health().await.redis,
        AcceleratorHealth::Disabled
    );
    assert_eq!(in_store.book.health().await.redis, AcceleratorHealth::Down);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_page_mixes_models_while_another_is_activated_in_redis() {
    let redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    activate_while_others_read_and_write(&world).await;
    // A reader that finds the pointer ahead of the book must not take it for an outage.
    assert_eq!(world.book.health().await.redis_outages, 0);
    assert_eq!(world.book.health().await.redis, AcceleratorHealth::Up);
}

#[tokio::test]
async fn redis_dies_and_returns_empty() {
    let mut redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    let twin = World::new(Accelerator::memory()).await;
    for world in [&world, &twin] {
        world.activate(0).await;
        world.book.import(open_deals(22, 60), now()).await.unwrap();
    }
    let mut rng = rng(23);
    assert_eq!(world.book.health().await.redis_outages, 0);
    for outage in 1..=2 {
        redis.kill();
        for _ in 0..10 {
            assert_eq!(answers(&world).await, answers(&twin).await);
            write_somewhere(&[&world, &twin], &mut rng).await;
        }
        assert_eq!(world.book.health().await.redis, AcceleratorHealth::Down);
        assert_eq!(world.book.health().await.redis_outages, outage);

        redis.restart().await;
        until(&world, AcceleratorHealth::Up).await;
        let before = page_scripts(&redis).await;
        assert_eq!(answers(&world).await, answers(&twin).await);
        assert!(page_scripts(&redis).await > before, "redis was not asked");
        for _ in 0..10 {
            write_somewhere(&[&world, &twin], &mut rng).await;
        }
        assert_eq!(answers(&world).await, answers(&twin).await);
        assert_eq!(world.book.health().await.redis_outages, outage);
    }
}

#[tokio::test]
async fn redis_that_is_down_at_the_start_is_used_once_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let world = World::new(redis.accelerator()).await;
    world.activate(0).await;
    world.book.import(open_deals(24, 20), now()).await.unwrap();
    let expected = answers(&world).await;
    assert_eq!(world.book.health().await.redis, AcceleratorHealth::Down);
    assert_eq!(world.book.health().await.ranking_rebuilt_at, None);
    redis.restart().await;
    until(&world, AcceleratorHealth::Up).await;
    assert!(world.book.health().await.ranking_rebuilt_at.is_some());
    assert_eq!(answers(&world).await, expected);
}

#[tokio::test]
async fn whatever_happens_to_the_keys_is_seen_and_healed() {
    let redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    world.activate(0).await;
    world.book.import(open_deals(25, 60), now()).await.unwrap();
    let expected = answers(&world).await;
    let mut connection = redis.connection().await;
    for damage in [
        "everything",
        "pointer",
        "sizes",
        "owner:ana",
        "all",
        "one member",
    ] {
        let pointer = key(&mut connection, "*:pointer").await;
        let epoch: String = connection.get(&pointer).await.unwrap();
        let () = match damage {
            "everything" => redis::cmd("FLUSHALL")
                .query_async(&mut connection)
                .await
                .unwrap(),
            "pointer" => connection.set(&pointer, "g1-another").await.unwrap(),
            "one member" => {
                let all = key(&mut connection, &format!("*{epoch}:all")).await;
                connection.zrem(all, "d00007").await.unwrap()
            }
            name => {
                let key = key(&mut connection, &format!("*{epoch}:{name}")).await;
                connection.del(key).await.unwrap()
            }
        };
        assert_eq!(answers(&world).await, expected, "without {damage}");
        until(&world, AcceleratorHealth::Up).await;
        assert_eq!(answers(&world).await, expected, "healed of {damage}");
        let healed: String = connection.get(&pointer).await.unwrap();
        assert_ne!(healed, epoch, "nobody noticed: {damage}");
    }
}

#[tokio::test]
async fn redis_that_hangs_slows_one_answer_and_no_more() {
    let redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    world.activate(0).await;
    world.book.import(open_deals(26, 60), now()).await.unwrap();
    let expected = answers(&world).await;
    redis.signal("-STOP");
    let answered = tokio::time::timeout(PATIENCE, answers(&world)).await;
    assert_eq!(answered.expect("hangs with redis"), expected);
    let written = world.book.put(open_deal(&mut rng(27), "new"), now());
    tokio::time::timeout(PATIENCE, written)
        .await
        .expect("hangs with redis")
        .unwrap();
    redis.signal("-CONT");
    until(&world, AcceleratorHealth::Up).await;
    assert_eq!(
        all_rows(&world.book, &RankingQuery::default()).await.len(),
        61
    );
}

#[tokio::test]
async fn a_cached_score_is_the_present_one_and_expires() {
    let redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    world.activate(0).await;
    world.book.import(open_deals(28, 3), now()).await.unwrap();
    let mut connection = redis.connection().await;
    let deal = id("d00001");
    let first = world.book.score(&deal).await.unwrap().unwrap();
    let cached = key(&mut connection, "*:score:d00001").await;
    let ttl_seconds: i64 = connection.ttl(&cached).await.unwrap();
    assert!((1..=3600).contains(&ttl_seconds), "{ttl_seconds}");
    assert_eq!(
        world.book.score(&deal).await.unwrap().as_ref(),
        Some(&first)
    );

    let patch = json!({ "amount": 123_456, "currency": "EUR" });
    let patched = world.book.patch(&deal, patch, now()).await.unwrap();
    assert_ne!(patched.deal.score.as_ref(), Some(&first));
    for _ in 0..2 {
        assert_eq!(world.book.score(&deal).await.unwrap(), patched.deal.score);
    }
    world.activate(1).await;
    let by_another_model = world.book.score(&deal).await.unwrap().unwrap();
    assert_ne!(by_another_model.model_version, first.model_version);

    world.book.erase(&deal).await.unwrap();
    let left: Vec<String> = connection.keys("*d00001*").await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    assert!(world.book.score(&deal).await.is_err());
}

#[tokio::test]
async fn old_rankings_are_removed() {
    let redis = Redis::start().await;
    let world = World::new(redis.accelerator()).await;
    world.book.import(open_deals(29, 40), now()).await.unwrap();
    let mut connection = redis.connection().await;
    for model in [0, 1, 2] {
        world.activate(model).await;
    }
    let pointer = key(&mut connection, "*:pointer").await;
    let epoch: String = connection.get(&pointer).await.unwrap();
    let epochs = key(&mut connection, "*:epochs").await;
    // Removal follows the swap in the background.
    let removed = async {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        while connection.scard::<_, u64>(&epochs).await.unwrap() > 1 {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, removed)
        .await
        .expect("old rankings stay");
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    for key in keys {
        assert!(
            key == pointer || key == epochs || key.contains(&epoch),
            "{key} is left"
        );
    }
}

/// The one key of a pattern.
async fn key(connection: &mut MultiplexedConnection, pattern: &str) -> String {
    let keys: Vec<String> = connection.keys(pattern).await.unwrap();
    assert_eq!(keys.len(), 1, "{pattern}: {keys:?}");
    keys.into_iter().next().unwrap()
}

async fn redis_state(service: &Service, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    loop {
        pause.tick().await;
        let ready = service.get("/readyz").await.ok(200);
        if ready["redis"] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted} never came: {ready}");
    }
}

/// The whole ranking, and each deal of it on its own.
async fn worth(service: &Service) -> Vec<Value> {
    let ranking = service.get("/v1/rankings?limit=200").await.ok(200);
    let mut worth = Vec::new();
    for row in ranking["rows"].as_array().unwrap() {
        let id = row["score"]["deal_id"].as_str().unwrap();
        let deal = service.get(&format!("/v1/deals/{id}")).await.ok(200);
        worth.push(json!([
            id,
            row["score"]["expected_value"],
            deal["score"]["expected_value"]
        ]));
    }
    worth
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_outlives_its_redis_and_loses_nothing() {
    let mut redis = Redis::start().await;
    let url = format!("redis_url = \"redis://127.0.0.1:{}\"\n", redis.port);
    let service = Service::with_settings(&url);
    service.train().await;
    for index in 0..20 {
        let mut deal = service::deal(&format!("open-{index}"));
        deal["amount"] = json!(1000 + 10 * index);
        service.put(&format!("/v1/deals/open-{index}"), &deal).await;
    }
    redis_state(&service, "up").await;
    let before = worth(&service).await;
    assert!(before.len() > 20);

    redis.kill();
    assert_eq!(worth(&service).await, before);
    let mut late = service::deal("late");
    late["amount"] = json!(999_999);
    let written = service.put("/v1/deals/late", &late).await;
    assert_eq!(written.status, 201, "{written:?}");
    redis_state(&service, "down").await;
    let while_out = worth(&service).await;
    assert_eq!(while_out[0][0], "late");
    assert_eq!(while_out[1..], before[..]);

    redis.restart().await;
    redis_state(&service, "up").await;
    assert_eq!(worth(&service).await, while_out);
    let log = service.log();
    assert_eq!(log.matches("redis is out").count(), 1, "{log}");
    assert_eq!(log.matches("redis is back").count(), 1, "{log}");
}

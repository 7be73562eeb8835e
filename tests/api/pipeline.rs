//! The key metrics of a pipeline, against the same figures by SQL over the documents of the sample.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, FromRow};

use crate::insights::{quantile, sample};
use crate::service::Service;

const PERIOD: &str = "from=2025-10-01&to=2026-09-30";

/// Deals, stays in stages and first entries into stages as tables. Stages go as they are numbered.
const VIEWS: &str = "
CREATE TABLE rates (currency TEXT, rate REAL);
INSERT INTO rates VALUES ('EUR', 1), ('USD', 0.92), ('GBP', 1.17), ('CHF', 1.04);
CREATE TABLE places (stage TEXT, place INT);
INSERT INTO places VALUES ('Registration', 0), ('Qualification', 1), ('Discovery', 2), ('Proposal', 3), ('Negotiation', 4);
CREATE TABLE deals AS SELECT d ->> 'id' AS id, d ->> 'pipeline' AS pipeline, d ->> 'owner' AS owner,
    d ->> '$.attributes.source' AS source, coalesce(d ->> 'outcome', 'open') AS outcome,
    d ->> 'created_at' AS created_at, d ->> 'closed_at' AS closed_at,
    CAST(d ->> 'amount' AS REAL) * rate AS amount, d -> 'history' AS history
  FROM (SELECT value AS d FROM documents, json_each(documents.deals)) LEFT JOIN rates ON d ->> 'currency' = currency;
CREATE TABLE stays AS SELECT id, pipeline, owner, outcome, closed_at, h ->> 'value' AS stage, place,
    h ->> 'at' AS entered_at, coalesce(lead(h ->> 'at') OVER (PARTITION BY id ORDER BY h ->> 'at'), closed_at) AS left_at
  FROM (SELECT deals.*, value AS h FROM deals, json_each(deals.history))
  JOIN places ON places.stage = h ->> 'value' WHERE h ->> 'field' = 'stage';
CREATE TABLE entries AS SELECT first.*, (SELECT count(*) FROM stays AS later WHERE later.id = first.id
      AND later.place > first.place AND later.entered_at > first.entered_at) > 0 AS went_on
  FROM stays AS first WHERE NOT EXISTS (SELECT 1 FROM stays AS earlier WHERE earlier.id = first.id
      AND earlier.stage = first.stage AND earlier.entered_at < first.entered_at);
CREATE INDEX stays_by_id ON stays (id)";

async fn database(deals: &[Value]) -> SqlitePool {
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect("sqlite::memory:").await.unwrap();
    let documents = Value::from(deals.to_vec()).to_string();
    sqlx::query("CREATE TABLE documents AS SELECT ? AS deals")
        .bind(documents)
        .execute(&pool)
        .await
        .unwrap();
    sqlx::raw_sql(VIEWS).execute(&pool).await.unwrap();
    pool
}

/// All rows of a query; `{closed}` and its like stand for conditions on the period.
async fn rows<T>(pool: &SqlitePool, sql: &str) -> Vec<T>
where
    T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    let within = |column: &str| format!("{column} >= '2025-10-01' AND {column} < '2026-10-01'");
    let sql = sql
        .replace("{closed}", &within("closed_at"))
        .replace("{created}", &within("created_at"))
        .replace("{entered}", &within("entered_at"))
        .replace("{left}", &within("left_at"));
    let query = sqlx::query_as(AssertSqlSafe(sql));
    query.fetch_all(pool).await.unwrap()
}

#[track_caller]
fn close(found: &Value, expected: f64) {
    let value = found.as_f64().unwrap_or(f64::NAN);
    let scale = expected.abs().max(1.0);
    assert!(
        (value - expected).abs() < 1e-6 * scale,
        "{found}, {expected}"
    );
}

#[track_caller]
fn close_quartiles(found: &Value, days: &[(f64,)]) {
    let days: Vec<f64> = days.iter().map(|(days,)| *days).collect();
    assert_eq!(found["count"], days.len(), "{found}");
    for (name, q) in [("lower", 0.25), ("median", 0.5), ("upper", 0.75)] {
        close(&found[name], quantile(&days, q));
    }
}

#[tokio::test]
async fn the_summary_of_the_sample_is_what_sql_says() {
    let (settings, deals) = sample();
    let service = Service::with_settings(&settings);
    assert_eq!(service.import_documents(&deals).await["state"], "done");
    let pool = database(&deals).await;
    let found = service.get(&format!("/v1/pipeline/summary?{PERIOD}")).await;
    let found = found.ok(200);
    assert_eq!(found["base_currency"], "EUR");
    assert_eq!(
        found["period"],
        json!({"from": "2025-10-01", "to": "2026-09-30"})
    );

    let open = "SELECT count(*), count(amount), sum(amount), avg(amount) FROM deals WHERE outcome = 'open'";
    let [(count, valued, value, average)] = rows::<(i64, i64, f64, f64)>(&pool, open).await[..]
    else {
        panic!()
    };
    assert!(count > 100);
    assert_eq!(
        (&found["open"]["deals"], &found["open"]["valued_deals"]),
        (&json!(count), &json!(valued))
    );
    close(&found["open"]["value"], value);
    close(&found["open"]["average_value"], average);

    let ended = "SELECT count(*), sum(amount), avg(amount),
        avg((unixepoch(closed_at) - unixepoch(created_at)) / 86400.0)
        FROM deals WHERE outcome IN ('won', 'lost') AND {closed} GROUP BY outcome ORDER BY outcome DESC";
    let [won, lost] = rows::<(i64, f64, f64, f64)>(&pool, ended).await[..] else {
        panic!()
    };
    let closed = &found["closed"];
    assert_eq!(
        (&closed["won"], &closed["lost"]),
        (&json!(won.0), &json!(lost.0))
    );
    close(&closed["won_value"], won.1);
    close(&closed["lost_value"], lost.1);
    close(&closed["average_won_value"], won.2);
    close(&closed["won_cycle"]["mean"], won.3);
    close(&closed["lost_cycle"]["mean"], lost.3);
    close(
        &closed["win_rate"]["value"],
        won.0 as f64 / (won.0 + lost.0) as f64,
    );
    close(
        &closed["win_rate_by_value"]["value"],
        won.1 / (won.1 + lost.1),
    );
    let cycles = "SELECT (unixepoch(closed_at) - unixepoch(created_at)) / 86400.0 AS days
        FROM deals WHERE outcome = 'won' AND {closed} ORDER BY days";
    close_quartiles(&closed["won_cycle"], &rows(&pool, cycles).await);

    let by_month = "SELECT count(*), sum(created_at IS NOT NULL) FROM deals WHERE {created}
        GROUP BY substr(created_at, 1, 7) ORDER BY substr(created_at, 1, 7)";
    let created: Vec<i64> = rows::<(i64, i64)>(&pool, by_month)
        .await
        .iter()
        .map(|row| row.0)
        .collect();
    let series = found["series"].as_array().unwrap();
    let listed: Vec<i64> = series
        .iter()
        .map(|step| step["created"].as_i64().unwrap())
        .collect();
    assert_eq!(listed, created);
    assert_eq!(found["created"]["deals"], created.iter().sum::<i64>());
    let won_by_month = "SELECT count(*), sum(amount) FROM deals WHERE outcome = 'won' AND {closed}
        GROUP BY substr(closed_at, 1, 7) ORDER BY substr(closed_at, 1, 7)";
    for (step, (count, value)) in series
        .iter()
        .zip(rows::<(i64, f64)>(&pool, won_by_month).await)
    {
        assert_eq!(step["won"], count, "{step}");
        close(&step["won_value"], value);
    }

    let leads = "SELECT count(*), sum(went_on OR (outcome = 'won')), sum(NOT went_on AND outcome = 'lost')
        FROM deals JOIN (SELECT id, went_on, min(entered_at) FROM entries GROUP BY id) USING (id) WHERE {created}";
    let [(leads, converted, lost)] = rows::<(i64, i64, i64)>(&pool, leads).await[..] else {
        panic!()
    };
    let prospects = &found["prospects"];
    assert_eq!(
        (&prospects["leads"], &prospects["converted"]),
        (&json!(leads), &json!(converted))
    );
    assert_eq!(prospects["lost"], lost);
    close(
        &prospects["conversion"]["value"],
        converted as f64 / (converted + lost) as f64,
    );
}

#[tokio::test]
async fn stages_and_reps_of_the_sample_are_what_sql_says() {
    let (settings, deals) = sample();
    let service = Service::with_settings(&settings);
    assert_eq!(service.import_documents(&deals).await["state"], "done");
    let pool = database(&deals).await;
    let path = format!("/v1/pipeline/summary?{PERIOD}&pipeline=New%20Business");
    let found = service.get(&path).await.ok(200);
    let sql = "SELECT stage, count(*), sum(went_on), sum(NOT went_on AND outcome = 'won'),
        sum(NOT went_on AND outcome = 'lost'), sum(outcome != 'open'), sum(outcome = 'won')
        FROM entries WHERE pipeline = 'New Business' AND {entered} GROUP BY stage ORDER BY place";
    let stages = rows::<(String, i64, i64, i64, i64, i64, i64)>(&pool, sql).await;
    assert_eq!(found["stages"].as_array().unwrap().len(), 4);
    for (listed, stage) in found["stages"].as_array().unwrap().iter().zip(stages) {
        let (name, entered, went_on, won, lost, closed, won_in_the_end) = stage;
        assert_eq!(listed["stage"], name);
        let counts = ["entered", "went_on", "won", "lost"].map(|key| listed[key].as_i64().unwrap());
        assert_eq!(counts, [entered, went_on, won, lost], "{name}");
        let share = (went_on + won) as f64 / (went_on + won + lost) as f64;
        close(&listed["conversion"]["value"], share);
        close(
            &listed["won_in_the_end"]["value"],
            won_in_the_end as f64 / closed as f64,
        );
        let days = format!(
            "SELECT (unixepoch(left_at) - unixepoch(entered_at)) / 86400.0 AS days FROM stays
            WHERE pipeline = 'New Business' AND stage = '{name}' AND {{left}} ORDER BY days"
        );
        close_quartiles(&listed["days"], &rows(&pool, &days).await);
        let open = format!("SELECT count(*), coalesce(sum(amount), 0) FROM deals WHERE outcome = 'open' AND pipeline = 'New Business'
            AND (SELECT stage FROM stays WHERE stays.id = deals.id ORDER BY entered_at DESC LIMIT 1) = '{name}'");
        let [(count, value)] = rows::<(i64, f64)>(&pool, &open).await[..] else {
            panic!()
        };
        assert_eq!(listed["open_deals"], count, "{name}");
        close(&listed["open_value"], value);
    }

    let found = service
        .get(&format!(
            "/v1/insights/reps?{PERIOD}&pipeline=New%20Business"
        ))
        .await
        .ok(200);
    let sql = "SELECT owner, stage, sum(went_on OR outcome = 'won'), sum(went_on OR outcome != 'open') AS decided
        FROM entries WHERE pipeline = 'New Business' AND {entered} GROUP BY owner, stage
        HAVING decided > 0 ORDER BY owner, place";
    let expected: Vec<(String, String, i64, i64)> = rows(&pool, sql).await;
    let reps = found["reps"].as_array().unwrap();
    let mut listed = Vec::new();
    for rep in reps {
        for stage in rep["stages"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let count = |key: &str| stage[key].as_i64().unwrap();
            if count("decided") > 0 {
                listed.push((
                    text(&rep["owner"]),
                    text(&stage["stage"]),
                    count("converted"),
                    count("decided"),
                ));
            }
        }
    }
    assert!(expected.len() > 60, "{}", expected.len());
    assert_eq!(listed, expected);
    // Each is drawn from their own share towards the team's.
    for stage in reps
        .iter()
        .flat_map(|rep| rep["stages"].as_array().unwrap())
    {
        let number = |key: &str| stage[key].as_f64().unwrap();
        let (own, team) = (
            number("converted") / number("decided"),
            number("team_conversion"),
        );
        let shrunk = stage["conversion"]["value"].as_f64().unwrap();
        // The team's share is that with half a case more on either side.
        assert!(
            number("decided") == 0.0 || (shrunk - own) * (shrunk - team) <= 0.02,
            "{stage}"
        );
    }
}

/// Sixty deals that closed in the last months, each in the thirty days after its creation.
fn lately() -> Vec<Value> {
    let ago = |days: usize| {
        let at = Timestamp::now() - SignedDuration::from_hours(24 * days as i64);
        at.to_string()
    };
    let deal = |i: usize| {
        let owner = ["Ada", "Ben"][i % 2];
        json!({"id": format!("l-{i}"), "stage": "demo", "pipeline": "new", "owner": owner,
            "created_at": ago(2 * i + 40), "closed_at": ago(2 * i + 10), "amount": 1000, "currency": "EUR",
            "outcome": if i.is_multiple_of(3) { "won" } else { "lost" },
            "history": [{"at": ago(2 * i + 40), "field": "stage", "value": "demo"}]})
    };
    (0..60).map(deal).collect()
}

#[tokio::test]
async fn expected_values_are_those_of_the_ranking() {
    let service = Service::start();
    service.train().await;
    let imported = service.import_documents(&lately()).await;
    assert_eq!(imported["state"], "done", "{imported}");
    let ranking = service.get("/v1/rankings?limit=200").await.ok(200);
    let values: Vec<(f64, f64, String)> = ranking["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let number = |value: &Value| value.as_f64().unwrap();
            let owner = row["deal"]["owner"].as_str().unwrap().to_owned();
            (
                number(&row["score"]["expected_value"]),
                number(&row["score"]["win_probability"]),
                owner,
            )
        })
        .collect();
    let total: f64 = values.iter().map(|(value, ..)| value).sum();
    let found = service.get("/v1/pipeline/summary").await.ok(200);
    assert_eq!(found["model_version"], ranking["model_version"]);
    let expected = &found["open"]["expected_value"];
    close(&expected["value"], total);
    // The outcomes alone: p (1 - p) amount^2.
    let outcomes: f64 = values
        .iter()
        .map(|(value, p, _)| (1.0 - p) / p * value * value)
        .sum();
    let half = (expected["high"].as_f64().unwrap() - expected["low"].as_f64().unwrap()) / 2.0;
    assert!(
        half > 1.6 * outcomes.sqrt() && half < 4.0 * outcomes.sqrt(),
        "{half} {outcomes}"
    );
    let concentration = &found["concentration"];
    close(
        &concentration["top"][2]["share"],
        values[..3].iter().map(|(value, ..)| value).sum::<f64>() / total,
    );
    let of = |owner: &str| {
        values
            .iter()
            .filter(|row| row.2 == owner)
            .map(|row| row.0)
            .sum::<f64>()
            / total
    };
    close(
        &concentration["owner"]["herfindahl"],
        of("Ada").powi(2) + of("Ben").powi(2),
    );
    close(&concentration["owner"]["listed"][0]["share"], of("Ada"));

    let coverage = service
        .get("/v1/pipeline/coverage?target=1000000&owner=Ada")
        .await
        .ok(200);
    close(&coverage["expected_value"]["value"], of("Ada") * total);
    assert_eq!(coverage["filters"]["owner"], "Ada");
    let needed = &coverage["prospects"];
    let exact = coverage["missing"].as_f64().unwrap()
        / coverage["rates"]["average_won_value"].as_f64().unwrap()
        / coverage["rates"]["win_rate"]["value"].as_f64().unwrap();
    assert_eq!(needed["mean"], exact.ceil(), "{coverage}");
    assert!(
        needed["at_confidence"].as_u64() > needed["mean"].as_u64(),
        "{coverage}"
    );
    assert_eq!(coverage["verdict"], "short");

    let path = "/v1/pipeline/forecast?target=1";
    let forecast = service.get(path).await.ok(200);
    let mean = |part: &str| forecast[part]["mean"].as_f64().unwrap();
    let sum = forecast["won_value"].as_f64().unwrap() + mean("open") + mean("not_created");
    close(&forecast["total"]["mean"], sum);
    assert!(mean("open") < total && mean("open") > 0.0, "{forecast}");
    let weeks = forecast["weeks"].as_array().unwrap();
    assert!((13..=14).contains(&weeks.len()));
    close(&weeks[weeks.len() - 1]["mean"], sum);
    for pair in weeks.windows(2) {
        assert!(
            pair[0]["p90"].as_f64() <= pair[1]["p90"].as_f64(),
            "{pair:?}"
        );
    }
    let again = service.get(path).await.ok(200);
    assert_eq!(again["past"], forecast["past"]);
}

#[tokio::test]
async fn what_cannot_be_meant_is_named() {
    let service = Service::start();
    for (path, fields) in [
        (
            "pipeline/summary?from=2026-02-30&to=x&step=week",
            vec!["from", "to", "step"],
        ),
        ("pipeline/summary?from=2026-02-01&to=2026-01-31", vec!["to"]),
        (
            "pipeline/summary?from=1990-01-01&to=2026-01-31&target=1",
            vec!["from", "target"],
        ),
        (
            "pipeline/coverage?confidence=1&target=-1",
            vec!["target", "confidence"],
        ),
        (
            "pipeline/coverage?confidence=nan&target=nan",
            vec!["target", "confidence"],
        ),
        (
            "pipeline/forecast?from=2026-01-01&to=2028-12-31&ovner=x",
            vec!["from", "ovner"],
        ),
        ("insights/reps?from=1492-01-01", vec!["from"]),
    ] {
        let answer = service.get(&format!("/v1/{path}")).await;
        assert_eq!(answer.fields(), fields, "{path}");
    }
    // Nothing to count yet: null, and what to do about it.
    let coverage = service
        .get("/v1/pipeline/coverage?target=100")
        .await
        .ok(200);
    assert_eq!(
        (&coverage["verdict"], &coverage["prospects"]),
        (&json!("unknown"), &Value::Null)
    );
    let forecast = service.get("/v1/pipeline/forecast").await.ok(200);
    assert_eq!(
        (&forecast["total"], &forecast["chance"]),
        (&Value::Null, &Value::Null)
    );
    let codes: Vec<&str> = forecast["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["no_model", "no_deals", "no_target", "no_won_deals"]);
    let reps = service.get("/v1/insights/reps").await.ok(200);
    assert_eq!(reps["reps"], json!([]));
}

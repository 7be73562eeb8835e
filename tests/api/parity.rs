//! One way to score: the command line, a batch over HTTP, and stored deals agree to the last bit.

use std::collections::BTreeMap;
use std::path::Path;

use dealrank::ingest::{Mapping, Purpose, ReadOptions, document, read_deals};
use dealrank::progress::silent;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::files::send_form;
use crate::service::{Service, binary_in};
use crate::shared::{mapping_file, shared};

/// Probability bits by deal.
type Scores = BTreeMap<String, u64>;

fn bits(score: &Value) -> u64 {
    score["win_probability"].as_f64().unwrap().to_bits()
}

/// What `dealrank score` says of a file.
fn by_command_line(folder: &Path, csv: &Path) -> Scores {
    let out = folder.join("scores.csv");
    let status = binary_in(folder)
        .arg("score")
        .arg(csv)
        .args(["--model", "model.json", "-o"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success());
    let mut reader = csv::Reader::from_path(&out).unwrap();
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        (row[0].to_owned(), row[1].parse::<f64>().unwrap().to_bits())
    });
    rows.collect()
}

/// What `POST /v1/scores/batch` says of the same rows, as documents.
async fn by_batch(service: &Service, csv: &Path, mapping: &str) -> Scores {
    let options = ReadOptions {
        mapping: Some(Mapping::from_toml(mapping, "mapping.toml").unwrap()),
        ..ReadOptions::new(Purpose::Score, Timestamp::now())
    };
    let deals = read_deals(&[csv], &options, &silent).unwrap().deals;
    let mut scores = Scores::new();
    for deals in deals.chunks(2000) {
        let documents: Vec<Value> = deals.iter().map(document::write).collect();
        let body = json!({"deals": documents});
        let answer = service.post("/v1/scores/batch", &body).await.ok(200);
        for score in answer["scores"].as_array().unwrap() {
            let id = score["deal_id"].as_str().unwrap().to_owned();
            scores.insert(id, bits(score));
        }
    }
    scores
}

/// What the ranking says of the stored open deals.
async fn by_store(service: &Service) -> Scores {
    let mut scores = Scores::new();
    let mut path = "/v1/rankings?limit=200".to_owned();
    loop {
        let page = service.get(&path).await.ok(200);
        for row in page["rows"].as_array().unwrap() {
            let id = row["score"]["deal_id"].as_str().unwrap().to_owned();
            scores.insert(id, bits(&row["score"]));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/rankings?limit=200&cursor={cursor}"),
            None => return scores,
        }
    }
}

/// Imports, trains, and compares; returns how many stored deals were compared.
async fn assert_parity(csv: &Path, mapping: &str) -> usize {
    let service = Service::start();
    let file = std::fs::read(csv).unwrap();
    let parts = [
        ("mapping", "", mapping.as_bytes()),
        ("file", "deals.csv", file.as_slice()),
    ];
    let imported = service.finished(send_form(&service, &parts).await).await;
    assert_eq!(imported["state"], "done", "{imported}");
    let trained = service.post("/v1/models", &json!({})).await;
    let trained = service.finished(trained).await;
    assert_eq!(trained["state"], "done", "{trained}");
    let model = service.get("/v1/models/active/export?format=json").await;
    let model = model.ok(200);
    // As text, not through a `Value`, whose keys are sorted: the file is what is compared.
    let json = dealrank::model::Model::from_json(&model.to_string())
        .unwrap()
        .to_json();
    std::fs::write(service.dir().join("model.json"), json).unwrap();

    let command_line = by_command_line(service.dir(), csv);
    let batch = by_batch(&service, csv, mapping).await;
    assert_eq!(command_line, batch);
    let stored = by_store(&service).await;
    for (id, probability) in &stored {
        assert_eq!(command_line.get(id), Some(probability), "{id}");
    }
    stored.len()
}

#[tokio::test]
async fn every_path_gives_the_sample_the_same_probabilities() {
    let csv = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/deals.csv");
    let guess = dealrank::ingest::guess::guess_file(&csv, "deals.csv").unwrap();
    let mapping = guess.mapping.to_toml().unwrap();
    let compared = assert_parity(&csv, &mapping).await;
    assert!(compared > 300, "{compared} open deals");
}

#[tokio::test]
async fn every_path_gives_real_leads_the_same_probabilities() {
    let Some(leads) = shared("x_education/leads.csv") else {
        return;
    };
    // Three of ten leads are made open, to have stored scores to compare.
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("leads.csv");
    let mut reader = csv::Reader::from_path(leads).unwrap();
    let headers = reader.headers().unwrap().clone();
    let converted = headers.iter().position(|name| name == "Converted").unwrap();
    let mut writer = csv::Writer::from_path(&csv).unwrap();
    writer.write_record(&headers).unwrap();
    for (index, row) in reader.records().enumerate() {
        let row = row.unwrap();
        let is_open = matches!(index % 10, 7..=9);
        let cells = row.iter().enumerate();
        let cells = cells.map(|(column, cell)| match (column == converted, is_open) {
            (true, true) => "open",
            _ => cell,
        });
        writer.write_record(cells).unwrap();
    }
    writer.flush().unwrap();
    let mapping = std::fs::read_to_string(mapping_file("x_education.toml")).unwrap();
    let mapping = mapping.replace("lost = [\"0\"]", "lost = [\"0\"]\nopen = [\"open\"]");
    assert_eq!(assert_parity(&csv, &mapping).await, 2772);
}

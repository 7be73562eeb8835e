//! Files of deals over HTTP, good and bad.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::servers::is_on_postgres;
use crate::service::{Answer, Service, deal, history, ndjson};

const CSV: &str = "Deal ID,Stage,Amount,Create Date,Close Date,Outcome\n\
    1,Demo,100,2026-01-01,2026-02-01,Won\n\
    2,Demo,200,2026-01-02,2026-02-02,Lost\n\
    3,Demo,300,2026-01-03,,Open\n";

const MAPPING: &str = r#"
[deal]
id = "Deal ID"
stage = "Stage"
amount = "Amount"
created_at = "Create Date"
closed_at = "Close Date"
outcome = "Outcome"
[outcome]
won = ["Won"]
lost = ["Lost"]
open = ["Open"]
"#;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A form as browsers send it.
pub async fn send_form(service: &Service, parts: &[(&str, &str, &[u8])]) -> Answer {
    send_form_to(service, "/v1/imports", parts).await
}

pub async fn send_form_to(service: &Service, path: &str, parts: &[(&str, &str, &[u8])]) -> Answer {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = if file.is_empty() {
            String::new()
        } else {
            format!("; filename=\"{file}\"")
        };
        body.extend_from_slice(
            format!("--zzz\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--zzz--\r\n");
    service
        .post_raw(path, "multipart/form-data; boundary=zzz", body)
        .await
}

async fn mapped(service: &Service, csv: impl AsRef<[u8]>) -> Value {
    let parts = [
        ("mapping", "", MAPPING.as_bytes()),
        ("file", "deals.csv", csv.as_ref()),
    ];
    let accepted = send_form(service, &parts).await;
    service.finished(accepted).await
}

fn counts(job: &Value) -> (u64, u64, u64) {
    assert_eq!(job["state"], "done", "{job}");
    let count = |name: &str| job["result"][name].as_u64().unwrap();
    (count("read"), count("stored"), count("rejected"))
}

#[tokio::test]
async fn a_csv_is_understood_in_every_dress() {
    let service = Service::start();
    let crlf = CSV.replace('\n', "\r\n");
    let bom = format!("\u{feff}{CSV}");
    let semicolons = CSV.replace(',', ";");
    let quoted = CSV.replace("Demo", "\"Demo, the \"\"second\"\"\"");
    let zipped = gzip(CSV.as_bytes());
    let dresses: [(&str, &[u8]); 6] = [
        ("plain", CSV.as_bytes()),
        ("CRLF", crlf.as_bytes()),
        ("a byte order mark", bom.as_bytes()),
        ("semicolons", semicolons.as_bytes()),
        ("quoted commas", quoted.as_bytes()),
        ("gzip", &zipped),
    ];
    for (dress, csv) in dresses {
        let job = mapped(&service, csv).await;
        assert_eq!(counts(&job), (3, 3, 0), "{dress}: {job}");
        let deal = service.get("/v1/deals/2").await.ok(200);
        assert_eq!(deal["deal"]["outcome"], "lost", "{dress}");
        assert_eq!(deal["deal"]["amount"], "200", "{dress}");
    }
    let deal = service.get("/v1/deals/1").await.ok(200);
    assert_eq!(
        deal["deal"]["stage"], "Demo",
        "the last import has the last word"
    );
}

#[tokio::test]
async fn a_mapping_is_guessed_told_and_can_be_sent_back() {
    let service = Service::start();
    let job = service.import_csv(CSV).await;
    assert_eq!(counts(&job), (3, 3, 0));
    assert_eq!(job["result"]["mapping"]["deal"]["outcome"], "Outcome");
    assert!(!job["result"]["guessed"].as_array().unwrap().is_empty());
    let job = mapped(&service, CSV).await;
    assert_eq!(job["result"]["guessed"], Value::Null);
    assert_eq!(job["result"]["unchanged"], 3, "{job}");
}

#[tokio::test]
async fn bad_rows_are_counted_explained_and_kept_and_stop_nothing() {
    let service = Service::start();
    let csv = format!(
        "{CSV}4,Demo,-5,2026-01-04,,Open\n5,Demo,1,2026-99-99,,Open\n6,Demo,1,2026-01-04,,Maybe\n7,Demo,1,2026-01-04,,Open\n"
    );
    let job = mapped(&service, &csv).await;
    assert_eq!(counts(&job), (7, 4, 3));
    let rejects = job["result"]["rejects"].as_array().unwrap();
    let place = |r: &Value| {
        (
            r["line"].as_u64().unwrap(),
            r["column"].as_str().unwrap().to_owned(),
        )
    };
    let places: Vec<_> = rejects.iter().map(place).collect();
    assert_eq!(
        places,
        [
            (5, "Amount".into()),
            (6, "Create Date".into()),
            (7, "Outcome".into())
        ]
    );
    let path = format!("/v1/imports/{}/rejects", job["id"].as_str().unwrap());
    let file = service.get(&path).await;
    assert_eq!(file.content_type, "text/csv; charset=utf-8");
    let file = file.ok(200);
    let lines: Vec<&str> = file.as_str().unwrap().lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(
        lines[1].starts_with("5,Amount,") && lines[1].ends_with("4,Demo,-5,2026-01-04,,Open"),
        "{}",
        lines[1]
    );
    service.get("/v1/deals/7").await.ok(200);
    assert_eq!(service.get("/v1/deals/4").await.problem(404), "not_found");
}

#[tokio::test]
async fn broken_utf_8_costs_its_row_alone() {
    let service = Service::start();
    let mut csv = CSV.as_bytes().to_vec();
    csv.extend_from_slice(b"8,\xff\xfe,1,2026-01-04,,Open\n9,Demo,1,2026-01-04,,Open\n");
    let job = mapped(&service, &csv).await;
    assert_eq!(counts(&job), (5, 4, 1));
    assert_eq!(job["result"]["rejects"][0]["line"], 5);
}

#[tokio::test]
async fn of_rows_with_the_same_id_the_last_counts_and_it_is_said() {
    let service = Service::start();
    let job = mapped(
        &service,
        format!("{CSV}1,Demo,999,2026-01-01,2026-02-01,Won\n"),
    )
    .await;
    assert_eq!(counts(&job), (4, 3, 0));
    assert_eq!(job["result"]["duplicates"], 1);
    let deal = service.get("/v1/deals/1").await.ok(200);
    assert_eq!(deal["deal"]["amount"], "999");
}

#[tokio::test]
async fn strict_stops_at_the_first_bad_row_and_names_it() {
    let service = Service::start();
    let csv = format!("{CSV}4,Demo,minus,2026-01-04,,Open\n");
    let parts = [
        ("mapping", "", MAPPING.as_bytes()),
        ("file", "deals.csv", csv.as_bytes()),
    ];
    let accepted = send_form_to(&service, "/v1/imports?strict=true", &parts).await;
    let job = service.finished(accepted).await;
    assert_eq!(job["state"], "failed");
    let reason = job["error"].as_str().unwrap();
    assert!(
        reason.contains("line 5") && reason.contains("Amount"),
        "{reason}"
    );
}

#[tokio::test]
async fn files_that_are_wrong_as_a_whole_are_refused_before_any_work() {
    let service = Service::start();
    service.import_csv(CSV).await;
    let missing_column = CSV.replace("Amount", "Betrag");
    let truncated = &gzip(CSV.as_bytes())[..30];
    for (file, code, word) in [
        (&b""[..], "unusable", "empty"),
        (b"\n\n\n", "unusable", "empty"),
        (missing_column.as_bytes(), "invalid_input", "Amount"),
        (b"1,Demo,100\n2,Demo,200\n", "invalid_input", "Deal ID"),
        (b"\x00\x01\x02\x03\x00\x00", "invalid_input", "header"),
        (truncated, "malformed", ""),
    ] {
        let parts = [
            ("mapping", "", MAPPING.as_bytes()),
            ("file", "deals.csv", file),
        ];
        let answer = send_form(&service, &parts).await;
        let status = if code == "malformed" { 400 } else { 422 };
        assert_eq!(
            answer.problem(status),
            code,
            "{}",
            String::from_utf8_lossy(file)
        );
        assert!(answer.detail().contains(word), "{answer:?}");
    }
    let headless = "1,Demo,100\n2,Demo,200\n";
    let answer = service.post_raw("/v1/imports", "text/csv", headless).await;
    assert_eq!(answer.problem(422), "unusable");
    assert!(answer.detail().contains("header"), "{answer:?}");
    let answer = service.post_raw("/v1/imports", "text/csv", "").await;
    assert_eq!(answer.problem(400), "malformed");
    let answer = service.post_raw("/v1/imports", "image/png", "x").await;
    assert_eq!(answer.problem(415), "unsupported_media_type");
    let uploads = service.data_dir().join("uploads");
    // Of the first process on this folder, where the store is shared.
    let uploads = match is_on_postgres() {
        true => uploads.join("0/files"),
        false => uploads,
    };
    let uploads = std::fs::read_dir(uploads).unwrap();
    assert_eq!(uploads.count(), 0, "nothing of them stays on disk");
    assert_eq!(
        service.get("/v1/deals/2").await.ok(200)["deal"]["amount"],
        "200"
    );
}

#[tokio::test]
async fn mappings_and_forms_that_cannot_be_meant_are_refused() {
    let service = Service::start();
    let csv: (&str, &str, &[u8]) = ("file", "deals.csv", CSV.as_bytes());
    for (mapping, status, word) in [
        (&b"[deal\n"[..], 422, "line 1"),
        (b"[deal]\nsize = \"x\"\n", 422, "size"),
        (b"\xff\xff", 422, "UTF-8"),
        (
            b"[[join]]\nfile = \"/etc/passwd\"\ncolumn = \"Deal ID\"\nkey = \"x\"\n",
            422,
            "join",
        ),
    ] {
        let answer = send_form(&service, &[csv, ("mapping", "", mapping)]).await;
        answer.problem(status);
        assert!(answer.detail().contains(word), "{answer:?}");
    }
    let answer = send_form(&service, &[csv, csv]).await;
    assert_eq!(answer.fields(), ["file"]);
    let answer = send_form(&service, &[("../../etc", "", b"x"), csv]).await;
    assert_eq!(answer.fields(), ["../../etc"]);
    let answer = send_form(&service, &[]).await;
    assert_eq!(answer.fields(), ["file"]);
    let answer = service
        .post_raw("/v1/imports", "multipart/form-data", "x")
        .await;
    assert_eq!(answer.problem(400), "malformed");
    let answer = service
        .post_raw("/v1/imports?mapping=mine", "text/csv", CSV)
        .await;
    assert_eq!(answer.fields(), ["mapping"]);
}

#[tokio::test]
async fn an_upload_above_the_limit_is_refused_by_name() {
    let service = Service::with_settings("[limits]\nimport_bytes_max = 1000\n");
    let rows: String = (0..100)
        .map(|i| format!("{i},Demo,1,2026-01-01,,Open\n"))
        .collect();
    let answer = service
        .post_raw("/v1/imports", "text/csv", format!("{CSV}{rows}"))
        .await;
    assert_eq!(answer.problem(413), "too_large");
    assert!(answer.detail().contains("import_bytes_max"));
}

#[tokio::test]
async fn documents_are_imported_zipped_and_line_by_line() {
    let service = Service::start();
    let lines = format!(
        "{}\n{{\"id\": \"broken\"\n\n{}",
        deal("a"),
        ndjson(&[deal("b")])
    );
    let accepted = service
        .post_raw("/v1/imports", "application/gzip", gzip(lines.as_bytes()))
        .await;
    let job = service.finished(accepted).await;
    assert_eq!(counts(&job), (3, 2, 1));
    assert_eq!(job["result"]["rejects"][0]["line"], 2);
    assert_eq!(job["result"]["mapping"], Value::Null);
}

#[tokio::test]
async fn a_history_of_wins_alone_is_no_history_to_learn_from() {
    let service = Service::start();
    let wins: Vec<Value> = history(100)
        .into_iter()
        .filter(|d| d["outcome"] == "won")
        .collect();
    let job = service.import_documents(&wins).await;
    assert_eq!(counts(&job).2, 0);
    let accepted = service.post("/v1/models", &json!({})).await;
    let job = service.finished(accepted).await;
    assert_eq!(job["state"], "failed");
    assert!(job["error"].as_str().unwrap().contains("won"), "{job}");
    assert_eq!(service.get("/v1/models").await.ok(200)["models"], json!([]));
}

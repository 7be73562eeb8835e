//! `dealrank simulate`, as typed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn simulate(args: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dealrank"))
        .arg("simulate")
        .args(args)
        .arg("--out")
        .arg(out)
        .output()
        .expect("the binary runs")
}

/// The bytes of each file that the command writes.
fn files(args: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let dir = TempDir::new().unwrap();
    let output = simulate(args, dir.path());
    assert!(output.status.success(), "{output:?}");
    fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap();
    text
}

fn documents(ndjson: &str) -> Vec<Value> {
    ndjson
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Rows of a CSV file as column to cell.
fn rows(csv: &[u8]) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_reader(csv)
        .deserialize()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let args = ["--deals", "150", "--seed", "5", "--gzip", "--with-truth"];
    let first = files(&args);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["deals.csv", "deals.ndjson.gz", "truth.csv"]);
    assert!(first == files(&args), "two runs differ");

    let plain = files(&["--deals", "150", "--seed", "5"]);
    assert_eq!(
        unzip(&first["deals.ndjson.gz"]).as_bytes(),
        plain["deals.ndjson"]
    );
    let other = files(&["--deals", "150", "--seed", "6"]);
    assert!(plain["deals.csv"] != other["deals.csv"]);
}

#[test]
fn table_documents_and_truth_tell_of_the_same_deals() {
    let args = ["--deals", "400", "--seed", "8", "--with-truth"];
    let files = files(&[&args[..], &["--extra-columns", "20"]].concat());
    let documents = documents(std::str::from_utf8(&files["deals.ndjson"]).unwrap());
    let (table, truth) = (rows(&files["deals.csv"]), rows(&files["truth.csv"]));
    assert_eq!((documents.len(), table.len(), truth.len()), (400, 400, 400));
    let mut open_count = 0;
    for ((document, row), truth) in documents.iter().zip(&table).zip(&truth) {
        assert_eq!(document["id"], row["Deal ID"]);
        assert_eq!(row["Deal ID"], truth["deal_id"]);
        assert_eq!(document["stage"], row["Stage"]);
        assert_eq!(row.len(), 11 + 14 + 20);
        let outcome = match row["Stage"].as_str() {
            "Closed Won" => "won",
            "Closed Lost" => "lost",
            _ => "open",
        };
        assert_eq!(document["outcome"], outcome);
        assert_eq!(outcome == "open", row["Close Date"].is_empty());
        assert_eq!(outcome == "open", !truth["p_now"].is_empty());
        let p: f64 = truth["p_at_creation"].parse().unwrap();
        assert!(0.0 < p && p < 1.0);
        open_count += usize::from(outcome == "open");
    }
    assert!((10..200).contains(&open_count), "{open_count}");
}

#[test]
fn every_line_is_a_deal_document() {
    let files = files(&["--deals", "300", "--seed", "8"]);
    let text = std::str::from_utf8(&files["deals.ndjson"]).unwrap();
    let settings = dealrank::simulate::Settings {
        deals_count: 300,
        seed: 8,
        ..Default::default()
    };
    let deals = dealrank::simulate::pipeline(&settings).unwrap();
    let mut read_count = 0;
    for (document, simulated) in documents(text).into_iter().zip(deals) {
        for key in ["id", "stage", "created_at", "attributes", "history"] {
            assert!(!document[key].is_null(), "{key} of {document}");
        }
        let read = dealrank::ingest::document::parse(document).unwrap();
        assert_eq!(read, simulated.deal);
        read_count += 1;
    }
    assert_eq!(read_count, 300);
}

/// The bytes of gzip depend on the version of the compressor, so the text in it is compared.
#[test]
fn the_committed_sample_is_what_its_command_writes() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let readme = fs::read_to_string(data.join("README.md")).unwrap();
    let command = readme
        .lines()
        .find_map(|line| line.strip_prefix("dealrank simulate "))
        .expect("the README names the command");
    let command = command.replace("--out data", "");
    let args: Vec<&str> = command.split_whitespace().collect();
    let written = files(&args);
    let committed = |name: &str| fs::read(data.join(name)).unwrap();
    assert!(written["deals.csv"] == committed("deals.csv"), "deals.csv");
    assert!(
        unzip(&written["deals.ndjson.gz"]) == unzip(&committed("deals.ndjson.gz")),
        "deals.ndjson.gz"
    );
    let bytes: u64 = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 2_000_000, "{bytes}");
}

#[test]
fn nonsense_is_refused_before_anything_is_written() {
    for (args, word) in [
        (&["--deals", "0", "--seed", "1"][..], "--deals"),
        (&["--deals", "5"], "--seed"),
        (&["--deals", "5", "--seed", "one"], "--seed"),
        (&["--deals", "5", "--seed", "1", "--days", "3"], "--days"),
        (
            &["--deals", "5", "--seed", "1", "--as-of", "1.2.26"],
            "--as-of",
        ),
        (
            &["--deals", "5", "--seed", "1", "--as-of", "1066-10-14"],
            "as-of",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let output = simulate(args, dir.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(word), "{message}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("occupied");
    fs::write(&file, "").unwrap();
    let output = simulate(&["--deals", "5", "--seed", "1"], &file.join("below"));
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("occupied"), "{message}");
}

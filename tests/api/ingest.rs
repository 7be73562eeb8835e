//! Files of deals as they come: written by many programs, damaged, and real.

use std::io::Write;
use std::path::PathBuf;

use dealrank::domain::{AttributeValue, Deal, Outcome, Snapshot};
use dealrank::error::{Error, Result};
use dealrank::ingest::{
    Deals, DealsReader, Mapping, Purpose, ReadOptions, document, read_deals, rejects_path,
};
use dealrank::progress::silent;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::shared::{shared, shared_options};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// A folder with files, gone at the end of the test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn options(purpose: Purpose, mapping: &str) -> ReadOptions {
    ReadOptions {
        mapping: Some(Mapping::from_toml(mapping, "mapping.toml").unwrap()),
        ..ReadOptions::new(purpose, now())
    }
}

/// Reads `csv` for training.
fn read(csv: impl AsRef<[u8]>, mapping: &str) -> Result<Deals> {
    let files = Files::new();
    let path = files.add("deals.csv", csv);
    read_deals(&[path], &options(Purpose::Train, mapping), &silent)
}

fn reasons(deals: &Deals) -> Vec<String> {
    let rejects = deals.rejects.iter();
    rejects
        .map(|(_, r)| {
            format!(
                "{}:{}: {}",
                r.line,
                r.column.as_deref().unwrap_or("-"),
                r.reason
            )
        })
        .collect()
}

const SIMPLE: &str = "[deal]\nid = \"id\"\noutcome = \"status\"\namount = \"amount\"\n";

#[test]
fn a_row_becomes_a_deal() {
    let mapping = r#"
[deal]
id = "id"
outcome = "status"
name = "title"
pipeline = "pipe"
stage = "stage"
stage_entered_at = "since"
owner = "rep"
amount = "amount"
currency = "cur"
created_at = "created"
expected_close_at = "expected"
closed_at = "closed"
priority = "prio"
[default]
currency = "EUR"
owner = "nobody"
[outcome]
won = ["W"]
lost = ["L"]
open = ["", "O"]
[missing]
tokens = ["", "n/a"]
[aliases]
stage = { demo1 = "Demo" }
"#;
    let deals = read(
        "id,status,title,pipe,stage,since,rep,amount,cur,created,expected,closed,prio,size\n\
         7, w ,Acme,new,demo1,2026-02-02, Ann ,\"$1,200.50\",usd,2026-01-01,2026-03-01,2026-02-20,high, 12 \n\
         8,O,n/a,,Demo,,,0,,2026-01-01,2027-03-01,2026-02-20,,\n",
        mapping,
    )
    .unwrap();
    assert_eq!(reasons(&deals), [""; 0]);
    let [won, open] = &deals.deals[..] else {
        panic!("{deals:?}")
    };
    assert_eq!(won.id.as_str(), "7");
    assert_eq!(won.outcome, Outcome::Won);
    assert_eq!(won.stage.as_deref(), Some("Demo"));
    assert_eq!(
        (won.history.len(), won.history[0].at.to_string()),
        (1, "2026-02-02T00:00:00Z".into())
    );
    assert_eq!(won.owner.as_deref(), Some("Ann"));
    assert_eq!(won.amount.unwrap().to_string(), "1200.5");
    assert_eq!(won.currency.unwrap().as_str(), "USD");
    assert_eq!(won.closed_at.unwrap().to_string(), "2026-02-20T00:00:00Z");
    assert_eq!(won.attributes["size"], AttributeValue::Text("12".into()));
    assert_eq!(won.attributes.len(), 1);
    assert_eq!(open.name, None, "a missing token");
    assert_eq!(open.owner.as_deref(), Some("nobody"));
    assert_eq!(
        open.amount.unwrap().to_string(),
        "0",
        "an amount of 0 stays 0"
    );
    assert_eq!(open.currency.unwrap().as_str(), "EUR");
    assert_eq!(open.closed_at, None, "an open deal is not closed");
    assert_eq!(
        deals.notices,
        ["1 open deals have a closing time; it was not taken"]
    );
}

#[test]
fn every_way_of_writing_a_csv_gives_the_same_deals() {
    let plain = "id,status,amount,city\n1,won,10,\"Paris, FR\"\n2,lost,,Rome\n";
    let expected = read(plain, SIMPLE).unwrap().deals;
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let trailing: String = plain.lines().map(|line| format!("{line},\r\n")).collect();
    let variants: [(&str, Vec<u8>); 6] = [
        ("crlf", plain.replace('\n', "\r\n").into()),
        ("byte order mark", format!("\u{feff}{plain}").into()),
        ("no newline at the end", plain.trim_end().into()),
        ("gzip", gzipped),
        ("trailing comma", trailing.into()),
        (
            "semicolons",
            " id ;status;amount; city\n1;won;10;Paris, FR\n2;lost;;Rome\n".into(),
        ),
    ];
    for (what, csv) in variants {
        assert_eq!(read(csv, SIMPLE).unwrap().deals, expected, "{what}");
    }
}

#[test]
fn bad_rows_are_rejected_with_line_column_and_reason() {
    let csv = b"id,status,amount,created\n\
        1,won,10,2026-01-01\n\
        2,maybe,10,2026-01-01\n\
        3,won,-5,2026-01-01\n\
        4,won,much,2026-01-01\n\
        5,won,10,01/02/2026\n\
        6,won,10\n\
        7,won,10,2026-01-01,extra\n\
        ,won,10,2026-01-01\n\
        8,w\xf6n,10,2026-01-01\n\
        9,,10,2026-01-01\n\
        10,won,10,2027-01-01\n\
        11,\"lo\nst\",10,2026-01-01\n\
        12,LOST,10,2026-01-01\n";
    let mapping = format!(
        "{SIMPLE}created_at = \"created\"\n[outcome]\nwon = [\"won\"]\nlost = [\"lost\"]\n"
    );
    let deals = read(csv, &mapping).unwrap();
    let ids: Vec<&str> = deals.deals.iter().map(|deal| deal.id.as_str()).collect();
    assert_eq!(ids, ["1", "12"]);
    let said = reasons(&deals);
    let expected = [
        "3:status: `maybe` is in none of the lists",
        "4:amount: an amount may not be negative",
        "5:amount: `much` is not an amount",
        "6:created: `01/02/2026` is not an ISO date",
        "7:-: the row has 3 fields, but the header has 4",
        "8:-: the row has 5 fields, but the header has 4",
        "9:id: the id is empty",
        "10:status: is not UTF-8 text",
        "11:status: an empty cell is in none of the lists",
        "12:created: 2027-01-01T00:00:00Z is in the future",
        "13:status: `lo\\nst` is in none of the lists",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "`{said}` is not `{expected}`");
    }
}

#[test]
fn strict_stops_at_the_first_bad_row() {
    let files = Files::new();
    let path = files.add("deals.csv", "id,status,amount\n1,won,1\n2,won,x\n3,won,y\n");
    let mut options = options(Purpose::Train, SIMPLE);
    options.is_strict = true;
    match read_deals(&[path], &options, &silent) {
        Err(Error::Input {
            line: 3,
            column: Some(column),
            ..
        }) => assert_eq!(column, "amount"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rejects_are_written_beside_the_file() {
    let files = Files::new();
    let path = files.add("deals.csv", "id,status,amount\n1,won,1\n2,won,x\n");
    let mut options = options(Purpose::Train, SIMPLE);
    options.writes_rejects = true;
    let deals = read_deals(&[&path], &options, &silent).unwrap();
    assert_eq!(deals.rejected, 1);
    assert_eq!(deals.rejects_files, [rejects_path(&path)]);
    let written = std::fs::read_to_string(rejects_path(&path)).unwrap();
    assert_eq!(
        written,
        "line,column,reason,id,status,amount\n3,amount,`x` is not an amount,2,won,x\n"
    );
}

#[test]
fn a_file_without_its_header_is_recognised() {
    let error = read("1,won,10\n2,lost,5\n", SIMPLE)
        .unwrap_err()
        .to_string();
    for said in [
        "none of the mapped columns found",
        "`status` (outcome)",
        "found `1`, `won`, `10`",
    ] {
        assert!(error.contains(said), "no `{said}` in {error}");
    }
}

#[test]
fn a_column_that_vanished_is_named() {
    let files = Files::new();
    let path = files.add("deals.csv", "id,Status,amount\n1,won,10\n");
    let without_outcome = options(Purpose::Score, SIMPLE);
    assert_eq!(
        read_deals(&[&path], &without_outcome, &silent)
            .unwrap()
            .deals
            .len(),
        1
    );
    let error = read_deals(&[path], &options(Purpose::Train, SIMPLE), &silent)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1, column status") && error.contains("did you mean `Status`"),
        "{error}"
    );
    let path = files.add("other.csv", "id,status\n1,won\n");
    let error = read_deals(&[path], &without_outcome, &silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`amount` (amount)"), "{error}");
}

#[test]
fn attribute_columns_that_vanished_are_a_notice() {
    let mapping = format!("{SIMPLE}[columns]\ntype = {{ Size = \"number\" }}\n");
    let deals = read("id,status,amount\n1,won,10\n", &mapping).unwrap();
    assert!(deals.notices[0].contains("`Size`"), "{:?}", deals.notices);
}

#[test]
fn scoring_never_reads_the_outcome() {
    let csv =
        |status: &str, closed: &str| format!("id,stage,status,closed\n1,Demo,{status},{closed}\n");
    let mapping =
        "[deal]\nid = \"id\"\nstage = \"stage\"\noutcome = \"status\"\nclosed_at = \"closed\"\n";
    let score = |csv: String| {
        let files = Files::new();
        let path = files.add("deals.csv", csv);
        read_deals(&[path], &options(Purpose::Score, mapping), &silent)
            .unwrap()
            .deals
            .remove(0)
    };
    let open = score(csv("open", ""));
    for (status, closed) in [("won", "2026-01-01"), ("lost", "nonsense"), ("???", "")] {
        assert_eq!(score(csv(status, closed)), open);
    }
    assert!(!open.attributes.contains_key("status"));
}

#[test]
fn a_stage_column_that_is_the_outcome_tells_no_outcome_when_scoring() {
    let mapping = "[deal]\nid = \"id\"\nstage = \"stage\"\noutcome = \"stage\"\n[outcome]\nwon = [\"Won\"]\nlost = [\"Lost\"]\nopen = [\"Demo\"]\n";
    let files = Files::new();
    let path = files.add("deals.csv", "id,stage\n1,Won\n2,Demo\n3,Unheard-of\n");
    let deals = read_deals(&[path], &options(Purpose::Score, mapping), &silent)
        .unwrap()
        .deals;
    let stages: Vec<Option<&str>> = deals.iter().map(|deal| deal.stage.as_deref()).collect();
    assert_eq!(stages, [None, Some("Demo"), Some("Unheard-of")]);
}

#[test]
fn training_needs_an_outcome() {
    let error = read("id,amount\n1,2\n", "[deal]\nid = \"id\"\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("must name `outcome`"), "{error}");
    let files = Files::new();
    let path = files.add("deals.csv", "color,size\nred,1\nblue,2\n");
    let unmapped = ReadOptions::new(Purpose::Train, now());
    let error = read_deals(&[&path], &unmapped, &silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("looked at `color`, `size`"), "{error}");
    let score = ReadOptions::new(Purpose::Score, now());
    let deals = read_deals(&[path], &score, &silent).unwrap();
    let ids: Vec<&str> = deals.deals.iter().map(|deal| deal.id.as_str()).collect();
    assert_eq!(ids, ["1", "2"], "without an id, the number of the row");
}

#[test]
fn of_a_repeated_id_the_last_row_counts() {
    let deals = read("id,status,amount\n1,won,1\n2,won,2\n1,lost,3\n", SIMPLE).unwrap();
    let amounts: Vec<String> = deals
        .deals
        .iter()
        .map(|d| d.amount.unwrap().to_string())
        .collect();
    assert_eq!(amounts, ["3", "2"]);
    assert_eq!(
        deals.notices,
        ["1 rows repeat the id of an earlier row; the last one counts"]
    );
}

#[test]
fn rows_of_several_files_without_ids_stay_apart() {
    let files = Files::new();
    let paths = [
        files.add("a.csv", "status\nwon\n"),
        files.add("b.csv", "status\nlost\n"),
    ];
    let deals = read_deals(
        &paths,
        &options(Purpose::Train, "[deal]\noutcome = \"status\"\n"),
        &silent,
    )
    .unwrap();
    let ids: Vec<&str> = deals.deals.iter().map(|deal| deal.id.as_str()).collect();
    assert_eq!(ids, ["1", "2:1"]);
}

#[test]
fn empty_and_foreign_files_are_refused() {
    let files = Files::new();
    let error = |path: PathBuf| {
        read_deals(&[path], &options(Purpose::Train, SIMPLE), &silent)
            .unwrap_err()
            .to_string()
    };
    assert!(error(files.add("a.csv", "")).contains("is empty"));
    assert!(error(files.add("b.csv", b"PK\x03\x04")).contains("spreadsheet"));
    assert!(error(files.add("c.json", "[{}]")).contains("JSON array"));
    assert!(error(files.0.path().join("none.csv")).contains("there is no file"));
    assert!(error(files.0.path().to_owned()).contains("folder"));
    let header_only = read("id,status,amount\n", SIMPLE).unwrap();
    assert!(header_only.deals.is_empty() && header_only.notices[0].contains("no rows"));
}

#[test]
fn joined_columns_can_be_mapped_and_misses_are_counted() {
    let files = Files::new();
    files.add(
        "products.csv",
        "product,price,series\nGTX Pro,4821,GTX\nMG,55,MG\n",
    );
    let path = files.add(
        "deals.csv",
        "id,status,product\n1,won,GTXPro\n2,open,MG\n3,lost,???\n4,won,\n",
    );
    let mapping = r#"
[deal]
id = "id"
outcome = "status"
amount = "p.price"
[aliases]
product = { GTXPro = "GTX Pro" }
[[join]]
file = "products.csv"
column = "product"
key = "product"
prefix = "p."
"#;
    let deals = read_deals(&[path], &options(Purpose::Train, mapping), &silent).unwrap();
    let amounts: Vec<Option<String>> = deals
        .deals
        .iter()
        .map(|d| d.amount.map(|a| a.to_string()))
        .collect();
    assert_eq!(
        amounts,
        [Some("4821".into()), Some("55".into()), None, None]
    );
    assert_eq!(
        deals.deals[0].attributes["product"],
        AttributeValue::Text("GTXPro".into()),
        "raw"
    );
    assert_eq!(
        deals.deals[0].attributes["p.series"],
        AttributeValue::Text("GTX".into())
    );
    assert!(
        deals.notices[0].starts_with("1 rows have a `product`")
            && deals.notices[0].contains("`???`")
    );
}

#[test]
fn a_mapping_is_guessed_printed_and_read_back() {
    let files = Files::new();
    let path = files.add(
        "deals.csv",
        "Deal ID,Status,Amount,Created\n1,Won,10,2026-01-01\n2,Lost,5,2026-01-02\n",
    );
    let deals = read_deals(&[path], &ReadOptions::new(Purpose::Train, now()), &silent).unwrap();
    assert!(
        deals
            .guess
            .unwrap()
            .iter()
            .any(|line| line.contains("outcome = `Status`"))
    );
    let saved = deals.mapping.to_toml().unwrap();
    assert_eq!(Mapping::from_toml(&saved, "saved").unwrap(), deals.mapping);
    assert_eq!(
        deals.deals[0].created_at.unwrap().to_string(),
        "2026-01-01T00:00:00Z"
    );
}

#[test]
fn documents_and_rows_give_the_same_deals() {
    let from_csv = read("id,status,amount,Size\n1,won,10.50,12\n2,lost,,\n", SIMPLE)
        .unwrap()
        .deals;
    let lines: Vec<String> = from_csv
        .iter()
        .map(|deal| document::write(deal).to_string())
        .collect();
    let files = Files::new();
    let path = files.add("deals.ndjson", lines.join("\n"));
    let unmapped = ReadOptions::new(Purpose::Train, now());
    assert_eq!(
        read_deals(&[path], &unmapped, &silent).unwrap().deals,
        from_csv
    );
}

#[test]
fn an_upload_is_called_by_its_own_name() {
    let files = Files::new();
    let path = files.add("tmp123", "id,status,amount\n1,won\n");
    let reader = DealsReader::open_as(&path, "q1.csv", &options(Purpose::Import, SIMPLE)).unwrap();
    assert_eq!(reader.name(), "q1.csv");
    assert_eq!(reader.headers(), ["id", "status", "amount"]);
    let rows: Vec<_> = reader.map(|row| row.unwrap().is_ok()).collect();
    assert_eq!(rows, [false]);
}

#[test]
fn damaged_gzip_is_an_error_and_not_an_end() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let rows = "1,won,10\n".repeat(50_000);
    encoder
        .write_all(format!("id,status,amount\n{rows}").as_bytes())
        .unwrap();
    let whole = encoder.finish().unwrap();
    let error = read(&whole[..whole.len() / 2], SIMPLE).unwrap_err();
    assert!(
        matches!(&error, Error::Malformed(message) if message.contains("damaged")),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_are_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        csvish in "[a-c\",;\n\r\t{}:0-9é.-]{0,200}",
        extension in 0..3usize,
    ) {
        let files = Files::new();
        let extension = ["csv", "ndjson", "gz"][extension];
        let csvish = format!("id,status,amount\n{csvish}").into_bytes();
        for (index, content) in [bytes, csvish].iter().enumerate() {
            let path = files.add(&format!("{index}.{extension}"), content);
            for purpose in [Purpose::Train, Purpose::Score] {
                let _ = read_deals(&[&path], &ReadOptions::new(purpose, now()), &silent);
                let _ = read_deals(&[&path], &options(purpose, SIMPLE), &silent);
            }
        }
    }
}

/// JSON of any shape, made of the words that documents are made of.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "won|open|activity|change|closed|amount|stage|2026-01-01T00:00:00Z|9999-12-31|USD|-1|\\PC{0,6}"
            .prop_map(Into::into),
    ];
    let key = "id|stage|created_at|closed_at|amount|currency|attributes|history|activities|outcome|at|field|value|kind|type|x";
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(key, inner, 0..8)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_is_a_panic_and_what_is_taken_comes_back(document in any_json(), patch in any_json()) {
        let base = serde_json::json!({"id": "d", "stage": null, "created_at": null});
        let base = document::parse(base).unwrap();
        let _ = document::parse_event(document.clone(), now());
        let parsed = [document::parse_at(document, now()), document::patch(&base, patch, now())];
        for deal in parsed.into_iter().flatten() {
            prop_assert_eq!(document::parse(document::write(&deal)), Ok(deal));
        }
    }
}

fn count(deals: &[Deal], outcome: Outcome) -> usize {
    deals.iter().filter(|deal| deal.outcome == outcome).count()
}

#[test]
fn maven_deals_take_their_amount_from_the_list_price() {
    let Some(path) = shared("maven_crm/sales_pipeline.csv") else {
        return;
    };
    let deals = read_deals(
        &[&path],
        &shared_options(Purpose::Train, "maven_crm.toml"),
        &silent,
    )
    .unwrap();
    assert_eq!((deals.deals.len(), deals.rejected), (8_800, 0));
    assert_eq!(count(&deals.deals, Outcome::Open), 2_089);
    assert_eq!(count(&deals.deals, Outcome::Won), 4_238);
    assert!(deals.deals.iter().all(|deal| deal.amount.is_some()));
    assert_eq!(deals.notices, [""; 0]);
    let owners: std::collections::BTreeSet<_> =
        deals.deals.iter().map(|deal| &deal.owner).collect();
    assert_eq!(owners.len(), 30);

    let guessed = read_deals(&[path], &ReadOptions::new(Purpose::Train, now()), &silent).unwrap();
    assert_eq!(guessed.mapping.deal.outcome.as_deref(), Some("deal_stage"));
    assert_eq!(count(&guessed.deals, Outcome::Open), 2_089);
    let closed_at = guessed.mapping.deal.closed_at.as_deref();
    assert_eq!(closed_at, Some("close_date"));
}

#[test]
fn x_education_leads_are_read_whole() {
    let Some(path) = shared("x_education/leads.csv") else {
        return;
    };
    let deals = read_deals(
        &[&path],
        &shared_options(Purpose::Train, "x_education.toml"),
        &silent,
    )
    .unwrap();
    assert_eq!((deals.deals.len(), deals.rejected), (9_240, 0));
    assert_eq!(count(&deals.deals, Outcome::Won), 3_561);
    assert!(!deals.deals[0].attributes.contains_key("Tags"));
    assert_eq!(deals.deals[0].attributes.len(), 25);

    let guessed = read_deals(&[path], &ReadOptions::new(Purpose::Train, now()), &silent).unwrap();
    assert_eq!(guessed.mapping.deal.outcome.as_deref(), Some("Converted"));
    assert_eq!(guessed.mapping.columns.ignore, ["Lead Number"]);
}

#[test]
fn loan_deals_have_their_history() {
    let (Some(path), Some(events)) = (
        shared("loan_pipeline/deals.csv"),
        shared("loan_pipeline/events.csv.gz"),
    ) else {
        return;
    };
    let options = ReadOptions {
        events: Some(events),
        ..shared_options(Purpose::Train, "loan_pipeline.toml")
    };
    let deals = read_deals(&[path], &options, &silent).unwrap();
    assert_eq!(
        (deals.deals.len(), deals.rejected),
        (10_202, 0),
        "{:?}",
        deals.notices
    );
    let counts =
        [Outcome::Won, Outcome::Lost, Outcome::Open].map(|outcome| count(&deals.deals, outcome));
    assert_eq!(counts, [1_530, 7_819, 853]);
    let first = &deals.deals[0];
    let early = Snapshot::at(first, first.created_at.unwrap());
    assert_eq!(early.stage(), Some("A_SUBMITTED"));
    let activities: usize = deals.deals.iter().map(|deal| deal.activities.len()).sum();
    assert!(activities > 30_000, "{activities}");
    assert!(
        deals
            .notices
            .iter()
            .any(|notice| notice.contains("7167 events lie after")),
        "{:?}",
        deals.notices
    );
}

#[test]
fn tables_of_crm_exports_are_read() {
    let (Some(hubspot), Some(salesforce)) = (
        shared("crm_exports/hubspot/deal_data.csv"),
        shared("crm_exports/salesforce/sf_opportunity_data.csv"),
    ) else {
        return;
    };
    let deals = read_deals(
        &[hubspot],
        &shared_options(Purpose::Import, "hubspot_deals.toml"),
        &silent,
    )
    .unwrap();
    assert_eq!(
        (deals.deals.len(), deals.rejected),
        (44, 0),
        "{:?}",
        deals.rejects
    );
    let deals = read_deals(
        &[salesforce],
        &shared_options(Purpose::Train, "salesforce_opportunities.toml"),
        &silent,
    )
    .unwrap();
    assert_eq!(
        (deals.deals.len(), deals.rejected),
        (10, 0),
        "{:?}",
        deals.rejects
    );

    let Some(folder) = shared("crm_exports") else {
        return;
    };
    for vendor in ["hubspot", "salesforce"] {
        for file in std::fs::read_dir(folder.join(vendor)).unwrap() {
            let path = file.unwrap().path();
            // As for scoring: most of these tables hold other things than deals, without ids to
            // keep them by.
            let result = read_deals(&[&path], &ReadOptions::new(Purpose::Score, now()), &silent);
            assert!(result.is_ok(), "{}: {result:?}", path.display());
        }
    }
}

//! What the report says of held-out deals, through the command line.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::service::binary_in;

const MAPPING: &str = r#"
[deal]
id = "id"
amount = "amount"
created_at = "created"
outcome = "status"
[outcome]
won = ["won"]
lost = ["lost"]
[columns]
protected = ["gender"]
"#;

/// Deals of which half come through a partner, win often, and are mostly brought in by men.
fn csv(from: usize, to: usize, amount_factor: usize) -> String {
    let mut csv = String::from("id,amount,created,source,gender,status\n");
    for i in from..to {
        let chance = i * 7919 % 101;
        let is_partner = chance % 2 == 0;
        let is_won = i * 104_729 % 100 < if is_partner { 70 } else { 10 };
        let is_man = is_partner != i.is_multiple_of(5);
        let _ = writeln!(
            csv,
            "D{i},{},2025-{:02}-{:02},{},{},{}",
            (1 + i * 37 % 91) * 10 * amount_factor,
            1 + i * 12 / 2000,
            1 + i % 28,
            if is_partner { "partner" } else { "web" },
            if is_man { "m" } else { "f" },
            if is_won { "won" } else { "lost" },
        );
    }
    csv
}

fn dealrank(folder: &Path, args: &[&str]) -> String {
    let output = binary_in(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn trained() -> TempDir {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("mapping.toml", MAPPING);
    write("older.csv", &csv(0, 1500, 1));
    write("newer.csv", &csv(1500, 2000, 1));
    write("larger.csv", &csv(1500, 2000, 20));
    folder
}

#[test]
fn a_report_tells_what_a_ranking_is_worth_and_to_whom() {
    let folder = trained();
    let train = ["train", "older.csv", "--mapping", "mapping.toml", "--json"];
    let report: Value = serde_json::from_str(&dealrank(folder.path(), &train)).unwrap();
    let dropped = report["dropped"].as_array().unwrap().iter();
    let gender = dropped
        .into_iter()
        .find(|d| d["column"] == "gender")
        .unwrap();
    assert!(gender["reason"].as_str().unwrap().contains("protected"));
    let coefficients = report["coefficients"].as_array().unwrap();
    assert!(
        coefficients
            .iter()
            .all(|c| c["standard_error"].as_f64().unwrap() > 0.0)
    );
    assert!(report["held_out"]["backtest"].is_object(), "{report}");

    let evaluate = ["evaluate", "newer.csv", "--model", "model.json", "--json"];
    let e: Value = serde_json::from_str(&dealrank(folder.path(), &evaluate)).unwrap();
    let number = |pointer: &str| e.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert!(number("/pr_auc") > number("/base_rate"));
    // The won value is the sum over the won rows of the file.
    let won = csv(1500, 2000, 1);
    let won = won.lines().filter(|line| line.ends_with(",won"));
    let won: f64 = won
        .map(|line| line.split(',').nth(1).unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(number("/backtest/won_value"), won);
    let bins = e["reliability"].as_array().unwrap().iter();
    let of_bins: f64 = bins
        .map(|bin| bin["actual_won_value"].as_f64().unwrap())
        .sum();
    assert_eq!(of_bins, won);
    let orders: Vec<&str> = e["backtest"]["orders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worked| worked["order"].as_str().unwrap())
        .collect();
    let expected = [
        "expected_value",
        "amount",
        "probability",
        "first_in_first_out",
    ];
    assert_eq!(
        orders, expected,
        "a flat file knows no stages of the past and no activities"
    );
    let over_amount = &e["backtest"]["over_amount"][1];
    assert_eq!(over_amount["top"], 0.2);
    assert!(
        over_amount["share"]["low"].as_f64().unwrap() > 0.0,
        "{over_amount}"
    );
    assert!(e["verdict"].as_str().unwrap().contains("of the won value"));

    let fairness = &e["fairness"][0];
    assert_eq!(
        (&fairness["attribute"], &fairness["is_flagged"]),
        (&"gender".into(), &true.into())
    );
    assert_eq!(fairness["groups"].as_array().unwrap().len(), 2);
    let drift = e["drift"]["columns"].as_array().unwrap();
    assert!(
        drift.iter().all(|shift| shift["grade"] == "stable"),
        "{drift:?}"
    );
}

#[test]
fn drift_is_named_in_the_text() {
    let folder = trained();
    let train = ["train", "older.csv", "--mapping", "mapping.toml"];
    let text = dealrank(folder.path(), &train);
    for part in [
        "standard error",
        "left out:",
        "PR AUC",
        "gender (protected)",
        "over amount",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let evaluate = ["evaluate", "larger.csv", "--model", "model.json"];
    let text = dealrank(folder.path(), &evaluate);
    let mut lines = text
        .lines()
        .filter(|line| line.trim_start().starts_with("amount "));
    assert!(lines.any(|line| line.ends_with("shifted")), "{text}");
}

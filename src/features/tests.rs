use jiff::SignedDuration;
use proptest::prelude::*;

use super::kinds::{self, KindCount, Within};
use super::*;
use crate::domain::deal::Event;
use crate::domain::{AttributeValue, Deal, DealId, FieldChange, Outcome};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn day(day: &str) -> Timestamp {
    at(&format!("{day}T00:00:00Z"))
}

fn exchange() -> Exchange {
    Exchange::only("EUR".parse().unwrap())
}

fn read<'a>(deal: &'a Deal, name: &str, moment: &str) -> Reading<'a> {
    (feature(name).unwrap().read)(&Snapshot::at(deal, day(moment)), &exchange())
}

/// The readings of all these features.
fn read_all(deal: &Deal, moment: &str, names: &[&str]) -> Vec<Option<f64>> {
    let value = |name: &&str| match read(deal, name, moment) {
        Reading::Number(number) => Some(number),
        Reading::Missing => None,
        other => panic!("{name}: {other:?}"),
    };
    names.iter().map(value).collect()
}

fn words(text: &str) -> Reading<'_> {
    Reading::Text(text.into())
}

fn change(at: &str, field: &str, value: &str) -> FieldChange {
    FieldChange {
        at: day(at),
        field: field.into(),
        value: AttributeValue::Text(value.into()),
    }
}

fn activity(at: &str, kind: &str, direction: &str) -> Activity {
    Activity {
        at: day(at),
        kind: kind.into(),
        direction: Some(direction.into()),
        outcome: None,
    }
}

fn blank() -> Deal {
    Deal {
        created_at: Some(day("2026-01-01")),
        ..Deal::new(DealId::new("d").unwrap())
    }
}

#[test]
fn names_are_unique() {
    for (index, feature) in FEATURES.iter().enumerate() {
        assert!(FEATURES[..index].iter().all(|f| f.name != feature.name));
        assert!(!kinds::is_name_of_count(feature.name), "{}", feature.name);
    }
}

#[test]
fn days_are_whole_and_rounded_down() {
    let noon = at("2026-01-01T12:00:00Z");
    assert_eq!(days_between(noon, at("2026-01-02T11:59:59Z")), 0.0);
    assert_eq!(days_between(noon, at("2026-01-02T12:00:00Z")), 1.0);
    assert_eq!(days_between(noon, at("2026-01-01T11:00:00Z")), -1.0);
}

#[test]
fn activities_are_counted_in_their_window_and_direction() {
    let deal = Deal {
        activities: vec![
            activity("2026-01-02", "email", "outbound"),
            activity("2026-01-20", "email", "inbound"),
            activity("2026-01-25", "call", "outbound"),
            activity("2026-03-01", "email", "inbound"),
        ],
        ..blank()
    };
    let counts = [
        "activities",
        "activities_7d",
        "activities_30d",
        "activities_90d",
        "inbound_7d",
        "inbound_30d",
        "inbound_90d",
        "outbound_7d",
        "outbound_30d",
        "outbound_90d",
        "active_days",
    ];
    let seen = read_all(&deal, "2026-01-27", &counts);
    let expected = [3.0, 1.0, 3.0, 3.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0];
    assert_eq!(seen, expected.map(Some));
    let seen = read_all(&deal, "2026-02-22", &counts);
    let expected = [3.0, 0.0, 1.0, 3.0, 0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0];
    assert_eq!(seen, expected.map(Some));
    let since = [
        "days_since_activity",
        "days_since_inbound",
        "days_since_outbound",
        "age_days",
    ];
    let seen = read_all(&deal, "2026-01-27", &since);
    assert_eq!(seen, [2.0, 7.0, 2.0, 26.0].map(Some));
    let seen = read_all(&deal, "2026-01-03", &since);
    assert_eq!(seen, [Some(1.0), None, Some(1.0), Some(2.0)]);
    assert_eq!(read(&deal, "last_activity", "2026-01-27"), words("call"));
    assert_eq!(read(&deal, "last_activity", "2026-01-01"), Reading::Missing);
    let rate = read(&deal, "activities_per_30d", "2026-01-30");
    assert_eq!(rate, Reading::Number(3.0));
}

#[test]
fn many_activities_of_one_day_are_one_active_day() {
    let hours = (0..30).map(|hour| Activity {
        at: day("2026-01-02") + SignedDuration::from_hours(hour),
        ..activity("2026-01-02", "call", "outbound")
    });
    let deal = Deal {
        activities: hours.collect(),
        ..blank()
    };
    let seen = read_all(&deal, "2026-01-10", &["activities", "active_days"]);
    assert_eq!(seen, [Some(30.0), Some(2.0)]);
}

#[test]
fn stages_are_followed_forth_and_back() {
    let deal = Deal {
        history: vec![
            change("2026-01-01", "stage", "new"),
            change("2026-01-05", "stage", "demo"),
            change("2026-01-05", "stage", "demo"),
            change("2026-01-10", "stage", "offer"),
            change("2026-01-12", "stage", "demo"),
            change("2026-01-20", "stage", "offer"),
        ],
        activities: vec![
            activity("2026-01-11", "call", "outbound"),
            activity("2026-01-12", "call", "outbound"),
            activity("2026-01-14", "call", "outbound"),
        ],
        outcome: Outcome::Lost,
        closed_at: Some(day("2026-02-01")),
        ..blank()
    };
    let names = [
        "stages_entered",
        "distinct_stages",
        "stages_reentered",
        "days_in_stage",
        "activities_in_stage",
        "days_per_stage",
    ];
    let seen = |moment| read_all(&deal, moment, &names);
    assert_eq!(seen("2026-01-03"), [1.0, 1.0, 0.0, 2.0, 0.0, 2.0].map(Some));
    assert_eq!(
        seen("2026-01-11"),
        [3.0, 3.0, 0.0, 1.0, 1.0, 10.0 / 3.0].map(Some)
    );
    assert_eq!(seen("2026-01-15"), [4.0, 3.0, 1.0, 3.0, 2.0, 3.5].map(Some));
    assert_eq!(seen("2026-01-21"), [5.0, 3.0, 2.0, 1.0, 0.0, 4.0].map(Some));
    let before = |moment| read(&deal, "previous_stage", moment);
    assert_eq!(before("2026-01-03"), Reading::Missing);
    assert_eq!(before("2026-01-06"), words("new"));
    assert_eq!(before("2026-01-15"), words("offer"));
}

#[test]
fn a_deal_without_a_past_is_in_its_first_stage() {
    let deal = Deal {
        stage: Some("demo".into()),
        ..blank()
    };
    let names = [
        "stages_entered",
        "distinct_stages",
        "stages_reentered",
        "days_in_stage",
    ];
    let seen = read_all(&deal, "2026-01-11", &names);
    assert_eq!(seen, [1.0, 1.0, 0.0, 10.0].map(Some));
    assert_eq!(
        read(&deal, "previous_stage", "2026-01-11"),
        Reading::Missing
    );
}

#[test]
fn pushes_and_delays_of_the_expected_close_are_counted() {
    let close = |at, to: &str| change(at, "expected_close_at", &format!("{to}T00:00:00Z"));
    let deal = Deal {
        history: vec![
            close("2026-01-01", "2026-02-01"),
            close("2026-01-20", "2026-01-25"),
            close("2026-01-28", "2026-02-10"),
            close("2026-02-12", "2026-02-13"),
        ],
        outcome: Outcome::Lost,
        closed_at: Some(day("2026-03-01")),
        ..blank()
    };
    let names = [
        "days_to_expected_close",
        "days_overdue",
        "close_pushes",
        "close_push_days",
    ];
    let seen = |moment| read_all(&deal, moment, &names);
    assert_eq!(seen("2026-01-10"), [22.0, 0.0, 0.0, 0.0].map(Some));
    assert_eq!(seen("2026-01-27"), [-2.0, 2.0, 0.0, 0.0].map(Some));
    assert_eq!(seen("2026-02-11"), [-1.0, 1.0, 1.0, 16.0].map(Some));
    assert_eq!(seen("2026-02-15"), [-2.0, 2.0, 2.0, 19.0].map(Some));
    let unplanned = read_all(&blank(), "2026-01-10", &names);
    assert_eq!(unplanned, [None, None, Some(0.0), Some(0.0)]);
}

#[test]
fn amounts_and_owners_are_compared_with_the_first_ones() {
    let deal = Deal {
        history: vec![
            change("2026-01-01", "amount", "1000"),
            change("2026-01-01", "owner", "ann"),
            change("2026-01-05", "amount", "1000"),
            change("2026-01-10", "amount", "1500"),
            change("2026-01-15", "owner", "bob"),
            change("2026-01-20", "amount", "800"),
            change("2026-01-21", "owner", "ann"),
        ],
        outcome: Outcome::Lost,
        closed_at: Some(day("2026-03-01")),
        ..blank()
    };
    let names = ["amount_changes", "amount_ratio", "owner_changes"];
    let seen = |moment| read_all(&deal, moment, &names);
    assert_eq!(seen("2026-01-06"), [0.0, 1.0, 0.0].map(Some));
    assert_eq!(seen("2026-01-16"), [1.0, 1.5, 1.0].map(Some));
    assert_eq!(seen("2026-02-01"), [2.0, 0.8, 2.0].map(Some));
    let unknown = read_all(&blank(), "2026-02-01", &names);
    assert_eq!(unknown, [Some(0.0), None, Some(0.0)]);
}

#[test]
fn seasons_are_the_calendars() {
    let deal = blank();
    assert_eq!(read(&deal, "month", "2026-02-28"), words("February"));
    for (moment, days) in [
        ("2026-03-31", 0.0),
        ("2026-04-01", 90.0),
        ("2026-12-01", 30.0),
    ] {
        let left = read(&deal, "days_to_quarter_end", moment);
        assert_eq!(left, Reading::Number(days), "{moment}");
    }
}

#[test]
fn a_season_is_learned_only_from_more_than_one_year() {
    let spanning = |days: i64| {
        let last = day("2024-01-01") + SignedDuration::from_hours(24 * days);
        [last, day("2024-01-01"), day("2024-03-01")].into_iter()
    };
    assert!(Needs::Seasons.are_met(true, spanning(800)));
    assert!(!Needs::Seasons.are_met(true, spanning(729)));
    assert!(!Needs::Seasons.are_met(false, spanning(800)));
    assert!(Needs::Past.are_met(true, spanning(1)));
    assert!(!Needs::Past.are_met(false, spanning(800)));
}

#[test]
fn activities_are_counted_by_the_companys_own_kinds() {
    let deal = Deal {
        history: vec![
            change("2026-01-01", "stage", "new"),
            change("2026-02-10", "stage", "demo"),
        ],
        activities: vec![
            activity("2026-01-02", "site visit", "outbound"),
            activity("2026-02-01", "site visit", "outbound"),
            activity("2026-02-10", "call", "outbound"),
            activity("2026-02-11", "site visit", "outbound"),
        ],
        outcome: Outcome::Won,
        closed_at: Some(day("2026-03-01")),
        ..blank()
    };
    let count = |within, moment| {
        let kind = "site visit".to_owned();
        KindCount {
            kind,
            sort: None,
            within,
        }
        .read(&Snapshot::at(&deal, day(moment)))
    };
    for (moment, in_stage, recent) in [
        ("2026-01-20", 1.0, 1.0),
        ("2026-02-05", 2.0, 1.0),
        ("2026-02-20", 1.0, 2.0),
    ] {
        let numbers = (Reading::Number(in_stage), Reading::Number(recent));
        let seen = (
            count(Within::Stage, moment),
            count(Within::Days(30), moment),
        );
        assert_eq!(seen, numbers, "{moment}");
    }
    let mut unknown = deal.clone();
    unknown.history.clear();
    let kind = "call".to_owned();
    let within = Within::Stage;
    let seen = KindCount {
        kind,
        sort: None,
        within,
    }
    .read(&Snapshot::at(&unknown, day("2026-02-20")));
    assert_eq!(seen, Reading::Missing);
}

#[test]
fn a_kind_of_several_sorts_is_counted_by_sort() {
    let call = |direction: &str, outcome: Option<&str>| Activity {
        outcome: outcome.map(str::to_owned),
        ..activity("2026-01-02", "call", direction)
    };
    let deal = |activities: Vec<Activity>| Deal {
        activities,
        ..blank()
    };
    let mut deals: Vec<Deal> = (0..25)
        .map(|_| {
            deal(vec![
                call("outbound", Some("no_answer")),
                call("inbound", None),
            ])
        })
        .collect();
    // Too few to be counted.
    deals.push(deal(vec![call("outbound", Some("wrong number"))]));
    let snapshots: Vec<Snapshot> = deals
        .iter()
        .map(|deal| Snapshot::at(deal, day("2026-01-03")))
        .collect();
    let own: Vec<usize> = (0..deals.len()).collect();
    let counts = kinds::counts(&snapshots, &own, |_| false);
    let in_stage: Vec<&KindCount> = counts
        .iter()
        .filter(|count| count.within == Within::Days(30))
        .collect();
    let names: Vec<String> = in_stage.iter().map(|count| count.name()).collect();
    assert_eq!(
        names,
        [
            "activities_30d:call/inbound",
            "activities_30d:call/outbound/no_answer"
        ]
    );
    let read = |deal: usize| {
        in_stage
            .iter()
            .map(|c| c.read(&snapshots[deal]))
            .collect::<Vec<_>>()
    };
    assert_eq!(read(0), [Reading::Number(1.0), Reading::Number(1.0)]);
    assert_eq!(read(25), [Reading::Number(0.0), Reading::Number(0.0)]);
    // Where outcomes may have been written later, directions alone tell sorts apart.
    let counts = kinds::counts(&snapshots, &own, |kind| kind == "call");
    let blind = counts.iter().filter(|count| count.within == Within::Stage);
    let seen: Vec<(String, Reading)> = blind.map(|c| (c.name(), c.read(&snapshots[25]))).collect();
    let name = |sort: &str| format!("activities_in_stage:call/{sort}");
    assert_eq!(
        seen,
        [
            (name("outbound"), Reading::Missing),
            (name("inbound"), Reading::Missing)
        ]
    );
    let recent = counts
        .iter()
        .filter(|count| count.within == Within::Days(30));
    let read: Vec<Reading> = recent.map(|c| c.read(&snapshots[25])).collect();
    assert_eq!(read, [Reading::Number(1.0), Reading::Number(0.0)]);
    // Models that knew no sorts count all of a kind.
    let old = r#"{"kind":"call","within":{"days":30}}"#;
    let old: KindCount = serde_json::from_str(old).unwrap();
    assert_eq!(old.read(&snapshots[0]), Reading::Number(2.0));
    assert_eq!(old.name(), "activities_30d:call");
}

#[test]
fn kinds_are_worth_counting_when_enough_deals_have_them() {
    let with_kinds = |kinds: &[&str]| Deal {
        activities: kinds
            .iter()
            .map(|kind| activity("2026-01-02", kind, "outbound"))
            .collect(),
        ..blank()
    };
    let mut deals: Vec<Deal> = (0..25).map(|_| with_kinds(&["call", "email"])).collect();
    deals.extend((0..25).map(|_| with_kinds(&["email"])));
    deals.extend((0..3).map(|_| with_kinds(&["fax"; 40])));
    let names = |moment: &str| {
        let snapshots: Vec<Snapshot> = deals
            .iter()
            .map(|deal| Snapshot::at(deal, day(moment)))
            .collect();
        let deals: Vec<usize> = (0..deals.len()).collect();
        let counts = kinds::counts(&snapshots, &deals, |_| false);
        counts.iter().map(KindCount::name).collect::<Vec<_>>()
    };
    assert_eq!(
        names("2026-01-03"),
        [
            "activities_in_stage:email",
            "activities_30d:email",
            "activities_in_stage:call",
            "activities_30d:call"
        ]
    );
    assert!(names("2026-01-01").is_empty(), "none had happened yet");
    assert!(names("2026-01-03").iter().all(|n| is_name_of_feature(n)));
}

/// What a company tells of a deal at first: some of it, or nothing.
fn any_deal() -> impl Strategy<Value = Deal> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(is_dated, has_fields, has_close)| {
        let mut deal = blank();
        deal.created_at = is_dated.then(|| day("2026-01-01"));
        if has_fields {
            deal.stage = Some("demo".into());
            deal.owner = Some("ann".into());
            deal.amount = Some(1000.into());
            deal.currency = Some("EUR".parse().unwrap());
            let size = AttributeValue::Number(3.0);
            deal.attributes.insert("Size".into(), size);
        }
        deal.expected_close_at = has_close.then(|| day("2026-01-20"));
        deal
    })
}

/// Anything that can happen to a deal on that day of January.
fn any_event(days: std::ops::Range<i64>) -> impl Strategy<Value = Event> {
    let fields = [
        ("stage", ["new", "demo", "offer"]),
        ("owner", ["ann", "bob", "eve"]),
        ("amount", ["10", "1000", "2500.5"]),
        ("Size", ["1", "3", "9"]),
        ("priority", ["low", "high", "top"]),
        (
            "expected_close_at",
            [
                "2026-01-10T00:00:00Z",
                "2026-01-25T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ],
        ),
    ];
    (days, 0..fields.len() + 3, 0..3usize).prop_map(move |(after, what, value)| {
        let at = day("2026-01-01") + SignedDuration::from_hours(24 * after);
        match fields.get(what) {
            Some((field, values)) => Event::Change(FieldChange {
                at,
                field: (*field).into(),
                value: AttributeValue::Text(values[value].into()),
            }),
            None if what == fields.len() => Event::Closed {
                at,
                outcome: [Outcome::Won, Outcome::Lost, Outcome::Lost][value],
            },
            None => Event::Activity(Activity {
                at,
                kind: ["call", "email", "visit"][value].into(),
                direction: [Some("inbound"), Some("outbound"), None][value].map(str::to_owned),
                outcome: None,
            }),
        }
    })
}

proptest! {
    #[test]
    fn nothing_after_the_moment_changes_any_feature(
        deal in any_deal(),
        earlier in prop::collection::vec(any_event(0..15), 0..10),
        later in prop::collection::vec(any_event(16..40), 1..10),
    ) {
        let moment = day("2026-01-16");
        let mut known = deal;
        for event in earlier {
            known.apply(event).unwrap();
        }
        let mut continued = known.clone();
        for event in later {
            let after_all = continued.created_at.is_none_or(|at| event.at() > at);
            prop_assert!(after_all && event.at() > moment);
            continued.apply(event).unwrap();
        }
        let (then, seen_later) = (Snapshot::at(&known, moment), Snapshot::at(&continued, moment));
        for feature in &FEATURES {
            let readings = [&then, &seen_later].map(|s| (feature.read)(s, &exchange()));
            prop_assert_eq!(&readings[0], &readings[1], "{}", feature.name);
        }
        for kind in ["call", "email", "visit"] {
            for within in [Within::Stage, Within::Days(30)] {
                let count = KindCount { kind: kind.into(), sort: None, within };
                prop_assert_eq!(count.read(&then), count.read(&seen_later));
            }
        }
        prop_assert_eq!(then.attribute("Size"), seen_later.attribute("Size"));
    }
}

/// The documentation has the table as it is. To bring it up to date, put what the failing test prints
/// in place of the page's table.
#[test]
fn the_documentation_has_every_feature() {
    let page = include_str!("../../docs/features.md");
    let mut table =
        "| name | unit | formula | missing when | needs |\n|---|---|---|---|---|\n".to_owned();
    for feature in &FEATURES {
        let needs = match feature.needs {
            Needs::Nothing => "nothing".to_owned(),
            Needs::Past => "past".to_owned(),
            Needs::Seasons => format!("past of {SEASONS_DAYS_MIN} days"),
            Needs::Trend => format!("past of {TREND_DAYS_MIN} days"),
        };
        table += &format!(
            "| `{}` | {} | {} | {} | {needs} |\n",
            feature.name, feature.unit, feature.formula, feature.missing
        );
    }
    assert!(
        page.contains(&table),
        "docs/features.md lacks this table:\n{table}"
    );
}

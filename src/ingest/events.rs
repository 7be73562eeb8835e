//! The events file: dated facts about deals, joined to them by id.

use std::collections::HashMap;
use std::path::Path;

use csv::StringRecord;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Purpose;
use super::document::{ACTIVITIES_MAX, HISTORY_MAX, check_text};
use super::input::Input;
use super::mapping::{EventMeaning, EventRule, Mapping};
use super::reject::Reject;
use super::spool::Spool;
use super::table::Table;
use super::values::{MoneyReader, TimeReader, shown};
use crate::domain::deal::DEAL_FIELDS;
use crate::domain::{Activity, AttributeValue, Currency, Deal, DealId, FieldChange, Outcome};
use crate::error::{Error, Result};

/// Rejected rows of an events file that are kept to show; the rest are counted.
pub const EVENT_REJECTS_KEPT_MAX: usize = 100;

/// Most events of one deal: with the entry of its present stage, it still passes as a document.
pub const DEAL_EVENTS_MAX: usize = 9_999;
const _: () = assert!(DEAL_EVENTS_MAX < HISTORY_MAX && DEAL_EVENTS_MAX < ACTIVITIES_MAX);

/// All events of a file, by deal, whatever its order; on disk, since there may be many.
#[derive(Debug)]
pub struct EventLog {
    file: String,
    by_deal: Spool,
    /// Whether the deals' own rows say how they ended.
    knows_outcome: bool,
    rejects: Vec<Reject>,
    rejected: u64,
    after_closing: u64,
    contradictions: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    at: Timestamp,
    fact: Fact,
}

/// The column that cannot be meant, and why.
type Refusal = (Option<String>, String);

#[derive(Debug, Serialize, Deserialize)]
enum Fact {
    Closed(Outcome),
    Change {
        field: String,
        value: Option<String>,
    },
    Activity {
        kind: String,
        direction: Option<String>,
        outcome: Option<String>,
    },
}

/// Where the columns of the events file are.
struct EventsPlan<'a> {
    deal_id: (String, usize),
    at: (String, usize),
    kind: (String, usize),
    direction: Option<usize>,
    outcome: Option<usize>,
    rules: Vec<RulePlan<'a>>,
    times: TimeReader,
    money: MoneyReader,
    /// Scoring never hears how a deal ended.
    reads_outcomes: bool,
}

struct RulePlan<'a> {
    rule: &'a EventRule,
    value: Option<usize>,
    conditions: Vec<(usize, &'a str)>,
}

impl EventLog {
    /// Reads an events file as the `[events]` of the mapping says.
    ///
    /// # Errors
    /// When the mapping does not say how, or names columns that the file does not have.
    pub fn load(path: &Path, mapping: &Mapping, purpose: Purpose, now: Timestamp) -> Result<Self> {
        let input = Input::open(path)?;
        let table = Table::open(input, mapping.csv.delimiter_byte())?;
        Self::read(table, mapping, purpose, now)
    }

    fn read(mut table: Table, mapping: &Mapping, purpose: Purpose, now: Timestamp) -> Result<Self> {
        let plan = EventsPlan::new(&table, mapping, purpose, now)?;
        let mut log = Self {
            file: table.name.clone(),
            by_deal: Spool::new()?,
            knows_outcome: mapping.deal.outcome.is_some(),
            rejects: Vec::new(),
            rejected: 0,
            after_closing: 0,
            contradictions: 0,
        };
        while let Some(row) = table.next_row()? {
            match row {
                Err(reject) => log.reject(reject),
                Ok((line, row)) => {
                    let taken = log.read_row(&plan, &row);
                    match taken {
                        Ok(None) => {}
                        Ok(Some((id, entry))) => log.by_deal.push(&id, &entry)?,
                        Err((column, reason)) => {
                            let raw = row.into_byte_record();
                            log.reject(Reject {
                                line,
                                column,
                                reason,
                                raw,
                            });
                        }
                    }
                }
            }
        }
        Ok(log)
    }

    fn reject(&mut self, reject: Reject) {
        self.rejected += 1;
        if self.rejects.len() < EVENT_REJECTS_KEPT_MAX {
            self.rejects.push(reject);
        }
    }

    /// The event of a row, unless it is to be ignored; else the column and the reason why it is none.
    fn read_row(
        &self,
        plan: &EventsPlan,
        row: &StringRecord,
    ) -> Result<Option<(DealId, Entry)>, Refusal> {
        let cell = |column: usize| row.get(column).unwrap_or_default().trim();
        let id =
            DealId::new(cell(plan.deal_id.1)).map_err(|e| (Some(plan.deal_id.0.clone()), e))?;
        let at = plan
            .times
            .read(cell(plan.at.1), true)
            .map_err(|e| (Some(plan.at.0.clone()), e))?;
        let kind = cell(plan.kind.1);
        if kind.is_empty() {
            return Err((Some(plan.kind.0.clone()), "the kind is empty".into()));
        }
        check_text(kind.to_owned()).map_err(|e| (Some(plan.kind.0.clone()), e))?;
        let rule = plan.rules.iter().find(|rule| rule.matches(row, kind));
        let fact = match rule.map_or(EventMeaning::Activity, |rule| rule.rule.is) {
            EventMeaning::Ignore => return Ok(None),
            EventMeaning::Won => Fact::Closed(Outcome::Won),
            EventMeaning::Lost => Fact::Closed(Outcome::Lost),
            EventMeaning::Activity => Fact::Activity {
                kind: kind.to_owned(),
                direction: plan.direction.map(cell).and_then(some_text),
                outcome: plan.outcome.map(cell).and_then(some_text),
            },
            EventMeaning::Stage => {
                let value = rule.and_then(|rule| rule.value).map_or(kind, cell);
                Fact::Change {
                    field: "stage".to_owned(),
                    value: some_text(value),
                }
            }
            EventMeaning::Field => {
                let field = rule
                    .and_then(|rule| rule.rule.field.as_deref())
                    .unwrap_or(kind);
                let value = rule
                    .and_then(|rule| rule.value)
                    .map(cell)
                    .unwrap_or_default();
                let value = plan
                    .field_value(field, value)
                    .map_err(|e| (Some(field.to_owned()), e))?;
                Fact::Change {
                    field: field.to_owned(),
                    value: some_text(&value),
                }
            }
        };
        if matches!(fact, Fact::Closed(_)) && !plan.reads_outcomes {
            return Ok(None);
        }
        if self.by_deal.len_of(&id) >= DEAL_EVENTS_MAX {
            return Err((
                None,
                format!("a deal may have at most {DEAL_EVENTS_MAX} events"),
            ));
        }
        Ok(Some((id, Entry { at, fact })))
    }

    /// Gives a deal its history and activities; entries of the same time stay in the order of the
    /// file. The first event that decides closes the deal, unless its own row says when it closed or
    /// that it is open.
    ///
    /// # Errors
    /// When the events cannot be read back.
    pub fn attach(&mut self, deal: &mut Deal) -> Result<()> {
        let entries: Vec<Entry> = self.by_deal.read(&deal.id)?;
        if entries.is_empty() {
            return Ok(());
        }
        let times: Vec<Timestamp> = entries.iter().map(|entry| entry.at).collect();
        // At most the entry of the present stage.
        let known = deal.history.clone();
        let mut closing: Option<(Timestamp, Outcome)> = None;
        for Entry { at, fact } in entries {
            match fact {
                Fact::Activity {
                    kind,
                    direction,
                    outcome,
                } => deal.activities.push(Activity {
                    at,
                    kind,
                    direction,
                    outcome,
                }),
                Fact::Change { field, value } => {
                    let value = value.map_or(AttributeValue::Null, AttributeValue::Text);
                    let change = FieldChange { at, field, value };
                    if !known.contains(&change) {
                        deal.history.push(change);
                    }
                }
                Fact::Closed(outcome) => {
                    if closing.is_none_or(|(first, _)| at < first) {
                        closing = Some((at, outcome));
                    }
                }
            }
        }
        deal.sort();
        fill_from_history(deal);
        match closing {
            Some((at, outcome)) if deal.closed_at.is_none() => {
                if !self.knows_outcome {
                    deal.outcome = outcome;
                }
                if deal.outcome == outcome {
                    deal.closed_at = Some(at);
                } else {
                    self.contradictions += 1;
                }
            }
            _ => {}
        }
        if let Some(closed_at) = deal.closed_at {
            let later = times.iter().filter(|at| **at > closed_at);
            self.after_closing += later.count() as u64;
        }
        Ok(())
    }

    /// Rows of the events file that could not be taken: the first ones, and how many.
    pub fn rejects(&self) -> (&[Reject], u64) {
        (&self.rejects, self.rejected)
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// What to tell, once every deal has been attached.
    pub fn notices(&self) -> Vec<String> {
        let strangers = self.by_deal.unread();
        let counts = [
            (self.rejected, "rows could not be taken"),
            (
                strangers as u64,
                "deals with events are not among the deals",
            ),
            (
                self.after_closing,
                "events lie after the closing of their deal",
            ),
            (
                self.contradictions,
                "deals end differently in their row and in their events; the row counts",
            ),
        ];
        let counted = counts.iter().filter(|(count, _)| *count > 0);
        let mut notices: Vec<String> = counted
            .map(|(count, what)| format!("{}: {count} {what}", self.file))
            .collect();
        if let Some(first) = self.rejects.first() {
            let column = first
                .column
                .as_ref()
                .map(|column| format!(", column {column}"));
            notices.push(format!(
                "{}: the first is line {}{}: {}",
                self.file,
                first.line,
                column.unwrap_or_default(),
                first.reason
            ));
        }
        notices
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Fields that the deal's own row does not tell have the value of their last change.
fn fill_from_history(deal: &mut Deal) {
    let mut last: HashMap<&str, &FieldChange> = HashMap::new();
    for change in &deal.history {
        last.insert(&change.field, change);
    }
    let unset = last
        .into_values()
        .filter(|change| deal.field(&change.field) == AttributeValue::Null);
    let unset: Vec<FieldChange> = unset.cloned().collect();
    for change in unset {
        // Values were checked when the file was read; one that does not fit leaves the field unset.
        let _ = deal.set_field(&change.field, &change.value);
    }
}

impl<'a> EventsPlan<'a> {
    fn new(table: &Table, mapping: &'a Mapping, purpose: Purpose, now: Timestamp) -> Result<Self> {
        let events = &mapping.events;
        let find = |key: &str, column: &str| {
            table.headers.find(column).ok_or_else(|| Error::Input {
                file: table.name.clone(),
                line: 1,
                column: Some(column.to_owned()),
                reason: format!(
                    "`{key}` of [events] names a column that is not there; it has {}",
                    table.headers.list()
                ),
            })
        };
        let required = |key: &str, column: &Option<String>| {
            let column = column.as_deref().ok_or_else(|| {
                let reason = format!(
                    "the mapping must name it under [events] to read {}",
                    table.name
                );
                Error::invalid(format!("events.{key}"), reason)
            })?;
            Ok::<_, Error>((column.to_owned(), find(key, column)?))
        };
        let optional = |key: &str, column: &Option<String>| {
            column
                .as_deref()
                .map(|column| find(key, column))
                .transpose()
        };
        optional("actor", &events.actor)?;
        let rules = events.rules.iter().map(|rule| {
            let conditions = rule.conditions.iter();
            let conditions =
                conditions.map(|(column, value)| Ok((find("where", column)?, value.trim())));
            let value = optional("value", &rule.value)?;
            Ok(RulePlan {
                rule,
                value,
                conditions: conditions.collect::<Result<_>>()?,
            })
        });
        Ok(Self {
            deal_id: required("deal_id", &events.deal_id)?,
            at: required("at", &events.at)?,
            kind: required("kind", &events.kind)?,
            direction: optional("direction", &events.direction)?,
            outcome: optional("outcome", &events.outcome)?,
            rules: rules.collect::<Result<_>>()?,
            times: TimeReader::new(&mapping.time, now)?,
            money: MoneyReader::new(mapping, table.delimiter),
            reads_outcomes: purpose != Purpose::Score,
        })
    }

    /// The value in the form that [`Deal::field`] has.
    fn field_value(&self, field: &str, text: &str) -> Result<String, String> {
        check_text(text.to_owned())?;
        if text.is_empty() || !DEAL_FIELDS.contains(&field) {
            return Ok(text.to_owned());
        }
        match field {
            "amount" => self.money.read(text).map(|(amount, _)| amount.to_string()),
            "currency" => text.parse::<Currency>().map(|code| code.to_string()),
            "expected_close_at" => self.times.read(text, false).map(|at| at.to_string()),
            _ => Ok(text.to_owned()),
        }
        .map_err(|reason| format!("{reason} (value `{}`)", shown(text)))
    }
}

impl RulePlan<'_> {
    fn matches(&self, row: &StringRecord, kind: &str) -> bool {
        let holds =
            |(column, value): &(usize, &str)| row.get(*column).unwrap_or_default().trim() == *value;
        glob_matches(self.rule.kind.trim(), kind) && self.conditions.iter().all(holds)
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any text.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(found) => text = &text[found + part.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPING: &str = r#"
[events]
deal_id = "deal"
at = "at"
kind = "what"
direction = "way"
[[events.rule]]
kind = "APPROVED"
is = "won"
[[events.rule]]
kind = "DECLINED"
is = "lost"
[[events.rule]]
kind = "A_*"
is = "stage"
[[events.rule]]
kind = "W_*"
where = { state = "DONE" }
is = "activity"
[[events.rule]]
kind = "W_*"
is = "ignore"
[[events.rule]]
kind = "amount"
is = "field"
value = "value"
"#;

    const EVENTS: &str = "deal,at,what,state,value,way
1,2026-01-03,A_NEW,,,
2,2026-01-01,call,,,outbound
1,2026-01-02,W_call,DONE,,
1,2026-01-02,W_call,OPEN,,
1,2026-01-05,amount,,\"1,500.50\",
1,2026-01-05,amount,,1600,
1,2026-02-02,DECLINED,,,
1,2026-02-01,APPROVED,,,
1,2026-03-01,mail,,,
9,2026-01-01,mail,,,
1,soon,mail,,,
1,2026-01-01,,,,
1,2026-01-01,amount,,much,
";

    fn log(mapping: &str, purpose: Purpose) -> EventLog {
        let mapping = Mapping::from_toml(mapping, "m.toml").unwrap();
        let reader = Box::new(std::io::Cursor::new(EVENTS.as_bytes()));
        let table = Table::open(Input::from_reader(reader, "e.csv", 0).unwrap(), None).unwrap();
        EventLog::read(
            table,
            &mapping,
            purpose,
            "2026-06-01T00:00:00Z".parse().unwrap(),
        )
        .unwrap()
    }

    fn attached(log: &mut EventLog) -> Deal {
        let mut deal = Deal::new(DealId::new("1").unwrap());
        log.attach(&mut deal).unwrap();
        deal
    }

    #[test]
    fn events_become_history_and_activities() {
        let mut log = log(MAPPING, Purpose::Train);
        let deal = attached(&mut log);
        let kinds: Vec<&str> = deal.activities.iter().map(|a| a.kind.as_str()).collect();
        assert_eq!(kinds, ["W_call", "mail"]);
        assert_eq!(deal.stage.as_deref(), Some("A_NEW"));
        assert_eq!(
            deal.amount.unwrap().to_string(),
            "1600",
            "the later line of the same time"
        );
        assert_eq!(deal.history.len(), 3);
        assert_eq!(deal.history[1].value, AttributeValue::Text("1500.5".into()));
        assert_eq!(deal.outcome, Outcome::Won, "the first to decide");
        assert_eq!(deal.closed_at.unwrap().to_string(), "2026-02-01T00:00:00Z");
        let mut other = Deal::new(DealId::new("2").unwrap());
        log.attach(&mut other).unwrap();
        assert_eq!(other.activities[0].direction.as_deref(), Some("outbound"));
        let notices = log.notices().join("\n");
        for said in [
            "3 rows could not",
            "1 deals with events",
            "2 events lie after",
            "line 12, column at",
        ] {
            assert!(notices.contains(said), "no `{said}` in {notices}");
        }
    }

    #[test]
    fn scoring_hears_of_no_outcome() {
        let deal = attached(&mut log(MAPPING, Purpose::Score));
        assert_eq!((deal.outcome, deal.closed_at), (Outcome::Open, None));
        assert_eq!(deal.activities.len(), 2);
    }

    #[test]
    fn the_row_of_the_deal_counts_more_than_its_events() {
        let mapping = format!("[deal]\noutcome = \"status\"\n{MAPPING}");
        let mut log = log(&mapping, Purpose::Train);
        assert!(attached(&mut log).is_open());
        assert!(
            log.notices()
                .iter()
                .any(|notice| notice.contains("end differently"))
        );
        let mut lost = Deal {
            outcome: Outcome::Lost,
            ..Deal::new(DealId::new("1").unwrap())
        };
        lost.closed_at = Some("2026-01-04T00:00:00Z".parse().unwrap());
        let before = lost.closed_at;
        log.attach(&mut lost).unwrap();
        assert_eq!((lost.outcome, lost.closed_at), (Outcome::Lost, before));
    }

    #[test]
    fn the_events_of_a_deal_are_limited() {
        let row = "1,2026-01-01,mail,,,\n";
        let mut events = EVENTS.lines().next().unwrap().to_owned() + "\n";
        events.extend(std::iter::repeat_n(row, DEAL_EVENTS_MAX + 2));
        let mapping = Mapping::from_toml(MAPPING, "m.toml").unwrap();
        let reader = Box::new(std::io::Cursor::new(events));
        let table = Table::open(Input::from_reader(reader, "e.csv", 0).unwrap(), None).unwrap();
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut log = EventLog::read(table, &mapping, Purpose::Train, now).unwrap();
        assert_eq!(log.rejects().1, 2);
        assert_eq!(attached(&mut log).activities.len(), DEAL_EVENTS_MAX);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("*", ""),
            ("A_*", "A_X"),
            ("*_END", "A_END"),
            ("a*b*c", "aXbYbc"),
            ("x", "x"),
        ] {
            assert!(glob_matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("A_*", "B_X"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("x", "xy"),
            ("*é", "e"),
        ] {
            assert!(!glob_matches(pattern, text), "{pattern} {text}");
        }
    }
}

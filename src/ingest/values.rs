//! Texts in cells to amounts, times and outcomes.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use super::document::check_time;
use super::mapping::{Mapping, OutcomeLabels, TimeFormat};
use crate::domain::money::parse_amount;
use crate::domain::{Currency, Outcome};
use crate::error::{Error, Result};

/// Labels that mean the same everywhere; used by a mapping that lists none, and for guessing.
pub(crate) const WON_LABELS: [&str; 12] = [
    "won",
    "closed won",
    "closedwon",
    "closed - won",
    "win",
    "1",
    "yes",
    "true",
    "y",
    "t",
    "converted",
    "success",
];
pub(crate) const LOST_LABELS: [&str; 13] = [
    "lost",
    "closed lost",
    "closedlost",
    "closed - lost",
    "loss",
    "lose",
    "0",
    "no",
    "false",
    "n",
    "f",
    "not converted",
    "failure",
];
pub(crate) const OPEN_LABELS: [&str; 4] = ["open", "", "in progress", "pending"];

/// The label as one of the everyday words above.
pub(crate) fn everyday_outcome(label: &str) -> Option<Outcome> {
    let label = label.trim().to_lowercase();
    let label = label.as_str();
    if WON_LABELS.contains(&label) {
        Some(Outcome::Won)
    } else if LOST_LABELS.contains(&label) {
        Some(Outcome::Lost)
    } else if OPEN_LABELS.contains(&label) {
        Some(Outcome::Open)
    } else {
        None
    }
}

/// `true`, `Yes`, `1`, ... as a boolean; `None` for anything else.
pub(crate) fn read_boolean(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "true" | "yes" | "1" | "y" | "t" => Some(true),
        "false" | "no" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// Matches outcome labels: as spelled first, then without regard to case.
#[derive(Debug)]
pub(crate) struct OutcomeReader {
    exact: HashMap<String, Outcome>,
    folded: HashMap<String, Outcome>,
}

impl OutcomeReader {
    pub(crate) fn new(labels: &OutcomeLabels) -> Self {
        let lists = [
            (Outcome::Won, &labels.won),
            (Outcome::Lost, &labels.lost),
            (Outcome::Open, &labels.open),
        ];
        let mut exact = HashMap::new();
        let mut folded = HashMap::new();
        for (outcome, labels) in lists {
            for label in labels {
                exact.insert(label.trim().to_owned(), outcome);
                folded.entry(label.trim().to_lowercase()).or_insert(outcome);
            }
        }
        Self { exact, folded }
    }

    /// `None` for a label in none of the lists.
    pub(crate) fn read(&self, label: &str) -> Option<Outcome> {
        let label = label.trim();
        if self.exact.is_empty() {
            return everyday_outcome(label);
        }
        let exact = self.exact.get(label).copied();
        exact.or_else(|| self.folded.get(&label.to_lowercase()).copied())
    }
}

/// Reads times as the mapping says.
#[derive(Debug)]
pub(crate) struct TimeReader {
    format: Option<String>,
    zone: TimeZone,
    now: Timestamp,
}

impl TimeReader {
    /// # Errors
    /// When the zone is unknown.
    pub(crate) fn new(format: &TimeFormat, now: Timestamp) -> Result<Self> {
        let zone = match &format.zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|_| Error::invalid("time.zone", format!("`{name}` is not a time zone")))?,
        };
        Ok(Self {
            format: format.format.clone(),
            zone,
            now,
        })
    }

    /// # Errors
    /// When the text is not a time, an absurd one, or one ahead of now though it `has_happened`.
    pub(crate) fn read(&self, text: &str, has_happened: bool) -> Result<Timestamp, String> {
        let text = text.trim();
        let at = self.parse(text);
        let at = at.ok_or_else(|| match &self.format {
            None => format!(
                "`{}` is not an ISO date or time; another way of writing needs `time.format` in the mapping",
                shown(text)
            ),
            Some(format) => format!("`{}` is not a time of the format `{format}`", shown(text)),
        })?;
        check_time(at, has_happened, Some(self.now))
    }

    /// Any time at all, also one that no deal can have, such as a year of birth.
    pub(crate) fn parse(&self, text: &str) -> Option<Timestamp> {
        let text = text.trim();
        match &self.format {
            None => self.read_iso(text),
            Some(format) => self.read_formatted(text, format),
        }
    }

    fn read_formatted(&self, text: &str, format: &str) -> Option<Timestamp> {
        let parts = BrokenDownTime::parse(format, text).ok()?;
        if let Ok(at) = parts.to_timestamp() {
            return Some(at);
        }
        let local = parts
            .to_datetime()
            .or_else(|_| parts.to_date().map(DateTime::from))
            .ok()?;
        self.in_zone(local)
    }

    fn read_iso(&self, text: &str) -> Option<Timestamp> {
        if let Ok(at) = text.parse() {
            return Some(at);
        }
        if let Ok(local) = text.parse() {
            return self.in_zone(local);
        }
        // `2021-01-07 6:49:18`: some exporters do not pad the hour.
        let (day, time) = text.split_once([' ', 'T'])?;
        (time.find(':') == Some(1)).then(|| self.read_iso(&format!("{day}T0{time}")))?
    }

    fn in_zone(&self, local: DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(local).ok()
    }
}

/// Reads amounts as people and spreadsheets write them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoneyReader {
    /// The decimal mark, where the mapping tells.
    decimal: Option<char>,
    /// Files with semicolons come from where the comma is the decimal mark.
    has_semicolons: bool,
}

impl MoneyReader {
    pub(crate) fn new(mapping: &Mapping, delimiter: u8) -> Self {
        Self {
            decimal: mapping
                .csv
                .decimal
                .as_deref()
                .and_then(|mark| mark.chars().next()),
            has_semicolons: delimiter == b';',
        }
    }

    /// The amount, and the currency if the text names one (`EUR 1,200`, `£5`).
    ///
    /// # Errors
    /// When it is not an amount, could be two different ones, is negative, or absurd.
    pub(crate) fn read(&self, text: &str) -> Result<(Decimal, Option<Currency>), String> {
        let (number, currency) = strip_currency(text.trim())?;
        if number.starts_with('-') && number.len() > 1
            || number.starts_with('(') && number.ends_with(')')
        {
            return Err(format!(
                "an amount may not be negative, but is {}",
                shown(text)
            ));
        }
        let is_scientific = number.contains(['e', 'E']);
        let plain = if is_scientific {
            number.to_owned()
        } else {
            self.plain(number)?
        };
        Ok((parse_amount(&plain)?, currency))
    }

    /// The number with a decimal point and no thousands separators.
    fn plain(&self, number: &str) -> Result<String, String> {
        let not_an_amount = || format!("`{}` is not an amount", shown(number));
        let decimal = self.decimal_mark(number)?;
        let (whole, fraction) = match decimal {
            Some(mark) => number.split_once(mark).unwrap_or((number, "")),
            None => (number, ""),
        };
        let is_separator = |c: char| Some(c) != decimal && is_thousands_separator(c);
        let groups: Vec<&str> = whole.split(is_separator).collect();
        let is_grouped = groups.len() > 1;
        let is_fine = groups.iter().enumerate().all(|(index, group)| {
            let len_fits = match (is_grouped, index) {
                (false, _) => true,
                (true, 0) => (1..=3).contains(&group.len()),
                (true, _) => group.len() == 3,
            };
            len_fits && group.bytes().all(|byte| byte.is_ascii_digit())
        });
        let has_digits = !(whole.is_empty() && fraction.is_empty());
        if !is_fine || !has_digits || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_an_amount());
        }
        let whole = if whole.is_empty() {
            "0".to_owned()
        } else {
            groups.concat()
        };
        Ok(if fraction.is_empty() {
            whole
        } else {
            format!("{whole}.{fraction}")
        })
    }

    fn decimal_mark(&self, number: &str) -> Result<Option<char>, String> {
        if self.decimal.is_some() {
            return Ok(self.decimal);
        }
        let count = |mark: char| number.matches(mark).count();
        match (count('.'), count(',')) {
            (0, 0) => Ok(None),
            (0, 1) if looks_grouped(number, ',') => self.unless_ambiguous(number, None),
            (1, 0) if looks_grouped(number, '.') => self.unless_ambiguous(number, Some('.')),
            (1, 0) => Ok(Some('.')),
            (0, 1) => Ok(Some(',')),
            (_, 0) | (0, _) => Ok(None),
            // The later one; if it occurs twice, the split leaves one in the fraction: refused.
            _ => Ok(number.chars().rev().find(|c| matches!(c, '.' | ','))),
        }
    }

    /// One mark before exactly three digits: elsewhere `1,234` is a thousand and `1.234` is not, but
    /// in a file with semicolons either may be either.
    fn unless_ambiguous(&self, number: &str, mark: Option<char>) -> Result<Option<char>, String> {
        if self.has_semicolons {
            return Err(format!(
                "`{}` could mean two amounts; say `decimal` under [csv] in the mapping",
                shown(number)
            ));
        }
        Ok(mark)
    }
}

fn looks_grouped(number: &str, mark: char) -> bool {
    number.split_once(mark).is_some_and(|(whole, rest)| {
        (1..=3).contains(&whole.len()) && !whole.starts_with('0') && rest.len() == 3
    })
}

fn is_thousands_separator(c: char) -> bool {
    matches!(c, '.' | ',' | ' ' | '\u{a0}' | '\u{202f}' | '\'' | '’')
}

fn strip_currency(text: &str) -> Result<(&str, Option<Currency>), String> {
    let is_of_number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | '(' | ')');
    let Some(start) = text.find(is_of_number) else {
        return Err(format!("`{}` is not an amount", shown(text)));
    };
    let (before, rest) = text.split_at(start);
    // From the end, up to the last digit or closing parenthesis.
    let end = rest
        .rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ')'))
        .map_or(0, |at| at + 1);
    let (number, after) = rest.split_at(end);
    let (before, after) = (before.trim(), after.trim());
    let currency = match (before, after) {
        ("", "") => None,
        (sign, "") | ("", sign) => {
            read_currency_sign(sign).ok_or_else(|| format!("`{}` is not an amount", shown(text)))?
        }
        _ => return Err(format!("`{}` is not an amount", shown(text))),
    };
    Ok((number.strip_prefix('+').unwrap_or(number).trim(), currency))
}

/// The currency that a sign names; `Some(None)` for signs that several currencies share.
fn read_currency_sign(sign: &str) -> Option<Option<Currency>> {
    let code = match sign {
        "€" => "EUR",
        "£" => "GBP",
        "₹" => "INR",
        "US$" => "USD",
        "$" | "¥" | "kr" | "kr." | "A$" | "C$" | "R$" => return Some(None),
        code if code.len() == 3 => code,
        _ => return None,
    };
    code.parse().ok().map(Some)
}

/// At most 40 characters, none of which moves the cursor.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = text
        .chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .to_string();
    if text.chars().nth(40).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(decimal: Option<char>, has_semicolons: bool) -> MoneyReader {
        MoneyReader {
            decimal,
            has_semicolons,
        }
    }

    fn amount(text: &str) -> Result<String, String> {
        money(None, false)
            .read(text)
            .map(|(amount, _)| amount.to_string())
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, read) in [
            ("1200", "1200"),
            ("1200.50", "1200.5"),
            ("0", "0"),
            ("$1,200.50", "1200.5"),
            ("€ 1.200,50", "1200.5"),
            ("1,234", "1234"),
            ("1.234", "1.234"),
            ("1,234,567", "1234567"),
            ("1.234.567", "1234567"),
            ("1 234 567,8", "1234567.8"),
            ("1'234'567.80 CHF", "1234567.8"),
            ("12,5", "12.5"),
            ("USD 5", "5"),
            (".5", "0.5"),
            ("1.2e3", "1200"),
            ("24120000", "24120000"),
            ("+7", "7"),
        ] {
            assert_eq!(amount(text).as_deref(), Ok(read), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_amounts_are_refused() {
        for text in [
            "much",
            "",
            "-",
            "1,2,3",
            "12,34,567",
            "1.2.3,4",
            "$",
            "5 apples",
            "25,000 - 50,000",
            "1e",
            ".",
            "12:30",
            "€5$",
            "½",
        ] {
            assert!(amount(text).is_err(), "{text}: {:?}", amount(text));
        }
        for text in ["-5", "$-5", "(1,200.00)", "-1,200"] {
            assert!(amount(text).unwrap_err().contains("negative"), "{text}");
        }
        assert!(amount("1e13").unwrap_err().contains("at most"));
    }

    #[test]
    fn an_amount_with_two_meanings_needs_the_mapping() {
        let european = money(None, true);
        assert!(european.read("1.234").unwrap_err().contains("two amounts"));
        assert!(european.read("1,234").unwrap_err().contains("two amounts"));
        assert_eq!(european.read("0,123").unwrap().0.to_string(), "0.123");
        assert_eq!(european.read("1234,5").unwrap().0.to_string(), "1234.5");
        assert_eq!(
            money(Some(','), true).read("1.234").unwrap().0.to_string(),
            "1234"
        );
        assert_eq!(
            money(Some(','), true).read("1,234").unwrap().0.to_string(),
            "1.234"
        );
        assert_eq!(
            money(Some('.'), false).read("1,234").unwrap().0.to_string(),
            "1234"
        );
    }

    #[test]
    fn an_amount_can_name_its_currency() {
        let currency = |text| {
            money(None, false)
                .read(text)
                .unwrap()
                .1
                .map(|c| c.to_string())
        };
        assert_eq!(currency("€5").as_deref(), Some("EUR"));
        assert_eq!(currency("5 usd").as_deref(), Some("USD"));
        assert_eq!(currency("$5"), None, "many dollars");
    }

    fn times(format: Option<&str>, zone: Option<&str>) -> TimeReader {
        let format = TimeFormat {
            format: format.map(Into::into),
            zone: zone.map(Into::into),
        };
        TimeReader::new(&format, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn iso_times_are_read_in_their_zone() {
        let utc = times(None, None);
        for (text, read) in [
            ("2017-03-01", "2017-03-01T00:00:00Z"),
            ("2021-01-07 6:49:18", "2021-01-07T06:49:18Z"),
            ("2021-01-07 16:49", "2021-01-07T16:49:00Z"),
            ("2019-10-22 19:17:37.819", "2019-10-22T19:17:37.819Z"),
            ("2011-10-01T00:38:44.546+02:00", "2011-09-30T22:38:44.546Z"),
            ("2011-11-01T00:38:44+01:00", "2011-10-31T23:38:44Z"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(
                utc.read(text, true).map(|at| at.to_string()).as_deref(),
                Ok(read),
                "{text}"
            );
        }
        let paris = times(None, Some("Europe/Paris"));
        assert_eq!(
            paris.read("2017-07-01", true).unwrap().to_string(),
            "2017-06-30T22:00:00Z"
        );
        for text in [
            "26-02-2018 19:58",
            "soon",
            "2018-02-30",
            "",
            "2018-02-28 6",
            "12:30",
            "9999-12-31 23:59:59",
        ] {
            assert!(utc.read(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn other_times_are_read_by_their_format_alone() {
        let french = times(Some("%d/%m/%Y %H:%M"), Some("Europe/Paris"));
        assert_eq!(
            french.read("26/02/2018 19:58", true).unwrap().to_string(),
            "2018-02-26T18:58:00Z"
        );
        assert!(
            french
                .read("2018-02-26 19:58", true)
                .unwrap_err()
                .contains("%d/%m/%Y")
        );
        let date = times(Some("%d-%m-%Y"), None);
        assert_eq!(
            date.read("26-02-2018", true).unwrap().to_string(),
            "2018-02-26T00:00:00Z"
        );
        let offset = times(Some("%Y/%m/%d %H:%M %z"), Some("Europe/Paris"));
        assert_eq!(
            offset
                .read("2018/02/26 19:58 +0500", true)
                .unwrap()
                .to_string(),
            "2018-02-26T14:58:00Z"
        );
    }

    #[test]
    fn times_ahead_are_only_for_what_is_expected() {
        assert!(
            times(None, None)
                .read("2026-07-01", true)
                .unwrap_err()
                .contains("future")
        );
        assert!(times(None, None).read("2026-07-01", false).is_ok());
    }

    #[test]
    fn outcome_labels_are_matched_as_spelled_and_then_in_any_case() {
        let labels = OutcomeLabels {
            won: vec!["Won".into(), "x".into()],
            lost: vec!["Lost".into(), "X".into()],
            open: vec![String::new()],
            closed_column: None,
        };
        let reader = OutcomeReader::new(&labels);
        assert_eq!(reader.read(" won "), Some(Outcome::Won));
        assert_eq!(reader.read("X"), Some(Outcome::Lost));
        assert_eq!(reader.read("x"), Some(Outcome::Won));
        assert_eq!(reader.read("  "), Some(Outcome::Open));
        assert_eq!(reader.read("Paused"), None);
        let everyday = OutcomeReader::new(&OutcomeLabels::default());
        assert_eq!(everyday.read("Closed Lost"), Some(Outcome::Lost));
        assert_eq!(everyday.read("1"), Some(Outcome::Won));
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,12}|[0-9., $€()'-]{0,12}") {
            for reader in [money(None, false), money(None, true), money(Some(','), true)] {
                let _ = reader.read(&text);
            }
            let _ = times(None, None).read(&text, true);
            let _ = times(Some("%d/%m/%Y"), None).read(&text, true);
        }
    }
}

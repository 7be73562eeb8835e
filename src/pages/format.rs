//! Values as they stand in HTML: readable as they are (ISO dates, `EUR 48,000`), and marked so that the
//! script can write them in the viewer's locale.

use std::fmt::{self, Display, Write};

use askama::filters::HtmlSafe;
use jiff::Timestamp;
use jiff::civil::Date;

pub use crate::domain::money::grouped;
use crate::insight::period::day_of;

/// Finished HTML, built from raw markup and escaped texts. Templates do not escape it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// Adds markup as it is.
    pub fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds a text, escaped for content and for quoted attributes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Adds what a type of this file writes, which is markup.
    pub fn put(&mut self, markup: impl HtmlSafe) -> &mut Self {
        // Writing to a String does not fail.
        let _ = write!(self.0, "{markup}");
        self
    }

    /// Adds numbers and names of ours that need no escaping.
    pub fn add(&mut self, arguments: fmt::Arguments) -> &mut Self {
        let _ = self.0.write_fmt(arguments);
        self
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Html {}

/// Addresses of pages.
pub mod href {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    /// All but the unreserved characters of RFC 3986.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');

    /// Of a deal.
    pub fn deal(id: &str) -> String {
        format!("/deals/{}", encoded(id))
    }

    /// Of a rep's queue.
    pub fn queue(owner: &str) -> String {
        format!("/queue/{}", encoded(owner))
    }

    /// A text as one segment of a path or one value of a query.
    pub fn encoded(text: &str) -> String {
        utf8_percent_encode(text, RESERVED).to_string()
    }
}

/// A number of things.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Count(pub u64);

impl Count {
    /// Of what is counted in memory, as templates hand it over.
    pub fn of(count: &usize) -> Self {
        Self(*count as u64)
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = grouped(self.0 as f64, 0);
        write!(f, r#"<data value="{}">{text}</data>"#, self.0)
    }
}

impl HtmlSafe for Count {}

/// An amount of money. Hundredths are shown below a thousand alone, and only where there are any.
#[derive(Debug, Clone, PartialEq)]
pub struct Money {
    pub amount: f64,
    /// Three capitals.
    pub currency: String,
    /// `EUR 1.24M`: for headlines, where the order of magnitude is what counts.
    pub is_short: bool,
}

impl Money {
    pub fn new(amount: f64, currency: impl Display) -> Self {
        Self {
            amount,
            currency: currency.to_string(),
            is_short: false,
        }
    }

    pub fn short(amount: f64, currency: impl Display) -> Self {
        Self {
            is_short: true,
            ..Self::new(amount, currency)
        }
    }

    /// As plain text.
    pub fn text(&self) -> String {
        let number = if self.is_short {
            shortened(self.amount)
        } else {
            grouped(self.amount, self.decimals())
        };
        match self.currency.as_str() {
            "" => number,
            currency => format!("{currency} {number}"),
        }
    }

    fn decimals(&self) -> usize {
        let has_hundredths = (100.0 * self.amount).round() % 100.0 != 0.0;
        if has_hundredths && self.amount.abs() < 1000.0 {
            2
        } else {
            0
        }
    }
}

impl Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            amount, currency, ..
        } = self;
        let kind = if self.is_short { " data-short" } else { "" };
        let text = self.text();
        write!(
            f,
            r#"<data class="money" value="{amount}" data-currency="{currency}"{kind}>{text}</data>"#
        )
    }
}

impl HtmlSafe for Money {}

/// Three significant digits with K, M or B.
pub fn shortened(number: f64) -> String {
    let units = [(1e9, "B"), (1e6, "M"), (1e3, "K")];
    for (unit, letter) in units {
        // What would be rounded up to the unit is shown in it.
        if number.abs() >= 0.9995 * unit {
            let scaled = number / unit;
            let decimals = match scaled.abs() {
                size if size < 9.995 => 2,
                size if size < 99.95 => 1,
                _ => 0,
            };
            return format!("{}{letter}", grouped(scaled, decimals));
        }
    }
    grouped(number, 0)
}

/// A share in percent: `62%`, below a tenth `6.2%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl Percent {
    pub fn text(self) -> String {
        let percent = 100.0 * self.0;
        match percent.abs() {
            size if size == 0.0 || size >= 9.95 => format!("{}%", grouped(percent, 0)),
            size if size < 0.05 => "<0.1%".into(),
            _ => format!("{}%", grouped(percent, 1)),
        }
    }
}

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text().replace('<', "&lt;");
        write!(f, r#"<data value="{}">{text}</data>"#, self.0)
    }
}

impl HtmlSafe for Percent {}

/// A difference of two probabilities in percentage points, with its sign: `+4.1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Points(pub f64);

impl Points {
    pub fn text(self) -> String {
        let points = 100.0 * self.0;
        let text = grouped(points, 1);
        if points > 0.0 && text != "0.0" {
            format!("+{text}")
        } else {
            text
        }
    }
}

impl Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"<data value="{}">{}</data>"#, self.0, self.text())
    }
}

impl HtmlSafe for Points {}

/// A duration in days: `34 days`, below ten `3.5 days` where it is not whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Days(pub f64);

impl Days {
    pub fn text(self) -> String {
        let decimals = usize::from(self.0.abs() < 9.95 && self.0.fract().abs() >= 0.05);
        match grouped(self.0, decimals).as_str() {
            "1" => "1 day".into(),
            number => format!("{number} days"),
        }
    }
}

impl Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"<data value="{}">{}</data>"#, self.0, self.text())
    }
}

impl HtmlSafe for Days {}

/// A day: of what is planned or dated by the day (UTC).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Day(pub Timestamp);

impl Day {
    pub fn date(self) -> Date {
        day_of(self.0)
    }
}

impl Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date();
        write!(f, r#"<time datetime="{date}">{date}</time>"#)
    }
}

impl HtmlSafe for Day {}

/// A moment, to the minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment(pub Timestamp);

impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.strftime("%Y-%m-%d %H:%M UTC");
        let at = self.0.strftime("%Y-%m-%dT%H:%M:%SZ");
        write!(f, r#"<time datetime="{at}">{text}</time>"#)
    }
}

impl HtmlSafe for Moment {}

/// How long ago, or in how long: `3 days ago`, `in 12 days`, `today`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ago {
    pub at: Timestamp,
    pub now: Timestamp,
}

impl Ago {
    pub fn text(self) -> String {
        let hours = self.now.duration_since(self.at).as_hours();
        match hours.abs() / 24 {
            0 => "today".into(),
            1 if hours > 0 => "yesterday".into(),
            1 => "tomorrow".into(),
            days if hours > 0 => format!("{} days ago", grouped(days as f64, 0)),
            days => format!("in {} days", grouped(days as f64, 0)),
        }
    }
}

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.strftime("%Y-%m-%dT%H:%M:%SZ");
        write!(
            f,
            r#"<time datetime="{at}" data-relative>{}</time>"#,
            self.text()
        )
    }
}

impl HtmlSafe for Ago {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!(grouped(0.0, 0), "0");
        assert_eq!(grouped(999.0, 0), "999");
        assert_eq!(grouped(1000.0, 0), "1,000");
        assert_eq!(grouped(1_234_567.891, 2), "1,234,567.89");
        assert_eq!(grouped(-1234.5, 1), "\u{2212}1,234.5");
        assert_eq!(grouped(-0.04, 1), "0.0");
    }

    #[test]
    fn money_shows_hundredths_where_they_matter() {
        assert_eq!(Money::new(48_000.0, "EUR").text(), "EUR 48,000");
        assert_eq!(Money::new(48_000.4, "EUR").text(), "EUR 48,000");
        assert_eq!(Money::new(12.5, "USD").text(), "USD 12.50");
        assert_eq!(Money::new(12.0, "USD").text(), "USD 12");
        assert_eq!(
            Money::new(5.0, "EUR").to_string(),
            r#"<data class="money" value="5" data-currency="EUR">EUR 5</data>"#
        );
    }

    #[test]
    fn headlines_have_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (950.0, "950"),
            (999.6, "1.00K"),
            (1_240_000.0, "1.24M"),
            (99_950.0, "100K"),
            (999_600.0, "1.00M"),
            (12_345_678_901.0, "12.3B"),
            (-45_600.0, "\u{2212}45.6K"),
        ] {
            assert_eq!(shortened(number), text, "{number}");
        }
    }

    #[test]
    fn shares_are_as_exact_as_they_are_small() {
        for (share, text) in [
            (0.0, "0%"),
            (0.0001, "<0.1%"),
            (0.063, "6.3%"),
            (0.0996, "10%"),
            (0.62, "62%"),
            (1.0, "100%"),
        ] {
            assert_eq!(Percent(share).text(), text, "{share}");
        }
        assert_eq!(
            Percent(0.0001).to_string(),
            r#"<data value="0.0001">&lt;0.1%</data>"#
        );
        assert_eq!(Points(0.041).text(), "+4.1");
        assert_eq!(Points(-0.041).text(), "\u{2212}4.1");
        assert_eq!(Points(0.0001).text(), "0.0");
    }

    #[test]
    fn days_and_dates_in_words() {
        assert_eq!(Days(1.0).text(), "1 day");
        assert_eq!(Days(3.5).text(), "3.5 days");
        assert_eq!(Days(34.4).text(), "34 days");
        let day = Day(at("2026-10-31T23:59:00Z"));
        let html = r#"<time datetime="2026-10-31">2026-10-31</time>"#;
        assert_eq!(day.to_string(), html);
        let now = at("2026-10-31T12:00:00Z");
        let ago = |text: &str| Ago { at: at(text), now }.text();
        assert_eq!(ago("2026-10-31T02:00:00Z"), "today");
        assert_eq!(ago("2026-10-30T02:00:00Z"), "yesterday");
        assert_eq!(ago("2026-10-01T02:00:00Z"), "30 days ago");
        assert_eq!(ago("2026-11-01T13:00:00Z"), "tomorrow");
        assert_eq!(ago("2026-11-10T13:00:00Z"), "in 10 days");
    }

    #[test]
    fn texts_are_escaped_and_addresses_encoded() {
        let mut html = Html::default();
        html.raw("<b title='").text("a'b\"<&>").raw("'>");
        assert_eq!(html.as_str(), "<b title='a&#39;b&quot;&lt;&amp;&gt;'>");
        assert_eq!(href::deal("a/b ?é"), "/deals/a%2Fb%20%3F%C3%A9");
    }
}

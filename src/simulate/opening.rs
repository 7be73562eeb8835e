//! What is known of a deal on the day it is created, and how likely that makes a win.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::civil::Date;
use rand::{Rng, RngExt};
use rust_decimal::Decimal;
use rust_decimal::prelude::FromPrimitive;

use super::world::{
    self, CHAMPIONS, COMPANY_SIZES, COMPETITORS, CompanySize, INDUSTRIES, PIPELINES, PRODUCTS,
    Pipeline, REGIONS, Rep, SOURCES, draw, draw_level, normal,
};
use crate::domain::{AttributeValue, Currency, LogOdds};

/// Attributes that every simulated pipeline has, in the order of the columns of the CSV export.
pub const ATTRIBUTES: [&str; 14] = [
    "source",
    "campaign",
    "company_size",
    "employees",
    "industry",
    "region",
    "country",
    "product",
    "existing_customer",
    "contacts",
    "champion",
    "competitor",
    "website_visits",
    "trial_started_on",
];

/// A deal as it is entered.
pub struct Opening {
    pub name: String,
    pub pipeline: &'static Pipeline,
    pub owner: &'static str,
    pub amount: Option<Decimal>,
    pub currency: Currency,
    pub priority: Option<&'static str>,
    pub attributes: BTreeMap<String, AttributeValue>,
    /// Log-odds of winning.
    pub log_odds: f64,
    /// Factor of the time in each stage.
    pub pace: f64,
    /// Factor of all activity rates.
    pub effort: f64,
}

impl Opening {
    /// Draws a deal created on `day`, when `elapsed` (0 to 1) of the history has passed.
    pub fn draw(rng: &mut impl Rng, team: &[Rep], day: Date, elapsed: f64) -> Self {
        let pipeline = draw(rng, &PIPELINES, |pipeline| pipeline.share);
        let rep = draw(rng, team, |rep| {
            if rep.joined <= elapsed {
                rep.share
            } else {
                0.0
            }
        });
        let size = draw(rng, &COMPANY_SIZES, |size| size.share);
        let mut sheet = Sheet::default();
        sheet.add(world::INTERCEPT + pipeline.effect + rep.skill);
        sheet.add(world::DRIFT * (elapsed - 0.5));
        draw_origin(rng, &mut sheet, day);
        let currency = draw_company(rng, &mut sheet, size);
        draw_interest(rng, &mut sheet, pipeline, size, day);
        let product = draw_level(rng, &PRODUCTS);
        sheet.level("product", product);
        let (amount, importance) = draw_amount(rng, &mut sheet, pipeline, size, currency);
        let priority = draw_priority(rng, importance);
        Self {
            name: draw_name(rng, product.name),
            pipeline,
            owner: rep.name,
            amount,
            currency: currency.parse().expect("made of three capitals"),
            priority,
            attributes: sheet.attributes,
            log_odds: sheet.log_odds,
            pace: size.pace,
            effort: rep.diligence * priority_effort(priority),
        }
    }

    /// Adds an attribute and what it changes in the log-odds.
    pub fn extend(&mut self, name: String, value: AttributeValue, effect: f64) {
        self.attributes.insert(name, value);
        self.log_odds += effect;
    }

    /// True probability of a win, given all that is known at creation.
    pub fn win_probability(&self) -> f64 {
        LogOdds::new(self.log_odds)
            .expect("a sum of bounded effects")
            .probability()
            .get()
    }
}

/// Attributes so far, and the log-odds that they add up to.
#[derive(Default)]
struct Sheet {
    attributes: BTreeMap<String, AttributeValue>,
    log_odds: f64,
}

impl Sheet {
    fn add(&mut self, effect: f64) {
        self.log_odds += effect;
    }

    /// An empty text is a blank: the attribute is left out, its effect is not.
    fn text(&mut self, name: &str, value: &str, effect: f64) {
        if !value.is_empty() {
            let value = AttributeValue::Text(value.to_owned());
            self.attributes.insert(name.to_owned(), value);
        }
        self.add(effect);
    }

    fn level(&mut self, name: &str, level: &world::Level) {
        self.text(name, level.name, level.effect);
    }

    fn number(&mut self, name: &str, value: f64, effect: f64) {
        let value = AttributeValue::Number(value);
        self.attributes.insert(name.to_owned(), value);
        self.add(effect);
    }
}

/// Source and campaign. Campaigns are named after their quarter, so new ones keep turning up.
fn draw_origin(rng: &mut impl Rng, sheet: &mut Sheet, day: Date) {
    let source = draw_level(rng, &SOURCES);
    sheet.level("source", source);
    if matches!(source.name, "Webinar" | "Event" | "Paid Ads") {
        let quarter = (day.month() + 2) / 3;
        let number = rng.random_range(1..=3);
        let campaign = format!("{} {}-Q{quarter} #{number}", source.name, day.year());
        sheet.text("campaign", &campaign, 0.0);
    }
    // Visits of companies that we called first are mostly not tracked; a blank means nothing.
    let untracked = if source.name == "Outbound" { 0.6 } else { 0.08 };
    let visits = (1.8 + normal(rng)).exp().min(500.0).floor();
    if !rng.random_bool(untracked) {
        sheet.number("website_visits", visits, 0.22 * (visits.ln_1p() - 1.8));
    }
}

/// The company; returns the currency it is billed in.
fn draw_company(rng: &mut impl Rng, sheet: &mut Sheet, size: &CompanySize) -> &'static str {
    sheet.text("company_size", size.band, size.effect);
    let employees = rng.random_range(size.employees.0..=size.employees.1);
    if !rng.random_bool(0.2) {
        sheet.number("employees", f64::from(employees), 0.0);
    }
    let industry = draw_level(rng, &INDUSTRIES);
    let blank = rng.random_bool(0.06);
    sheet.text(
        "industry",
        if blank { "" } else { industry.name },
        if blank { 0.0 } else { industry.effect },
    );
    let region = draw(rng, &REGIONS, |region| region.share);
    sheet.text("region", region.name, region.effect);
    let (country, _) = draw(rng, region.countries, |(_, share)| *share);
    sheet.text("country", country, 0.0);
    let (currency, _) = draw(rng, region.currencies, |(_, share)| *share);
    currency
}

/// How much the customer wants it, as far as a CRM can tell.
fn draw_interest(
    rng: &mut impl Rng,
    sheet: &mut Sheet,
    pipeline: &Pipeline,
    size: &CompanySize,
    day: Date,
) {
    let existing = rng.random_bool(pipeline.existing_customer_share);
    let value = AttributeValue::Bool(existing);
    sheet
        .attributes
        .insert("existing_customer".to_owned(), value);
    sheet.add(if existing { 0.25 } else { 0.0 });

    let contacts = f64::from(1 + (0..6).filter(|_| rng.random_bool(0.22)).count() as u32);
    sheet.number("contacts", contacts, 0.12 * (contacts - 2.3));

    let champion = draw_level(rng, &CHAMPIONS);
    sheet.level("champion", champion);
    if champion.name == "Yes" && size.employees.0 >= world::LARGE_COMPANY_EMPLOYEES {
        sheet.add(world::CHAMPION_IN_LARGE_COMPANY);
    }
    sheet.level("competitor", draw_level(rng, &COMPETITORS));
    if rng.random_bool(0.22) {
        let started_on = day.saturating_sub(rng.random_range(1..45).days());
        sheet.text("trial_started_on", &started_on.to_string(), 0.5);
    }
}

/// The amount in the deal's currency, and its size against others (0 is usual), known or not.
fn draw_amount(
    rng: &mut impl Rng,
    sheet: &mut Sheet,
    pipeline: &Pipeline,
    size: &CompanySize,
    currency: &str,
) -> (Option<Decimal>, f64) {
    let median = size.median_amount * pipeline.amount_factor;
    let wanted_eur = median * (0.75 * normal(rng)).exp();
    let rate = eur_per_unit(currency);
    let amount = round_amount(wanted_eur / rate);
    let standardised = ((amount * rate).ln() - 9.6) / 1.3;
    if rng.random_bool(0.05) {
        sheet.add(-0.6);
        return (None, standardised);
    }
    // Large deals are harder than their size alone would say, very small ones too.
    sheet.add(-0.3 * standardised - 0.12 * (standardised * standardised - 1.0));
    (Some(decimal(amount)), standardised)
}

/// People enter round amounts.
pub fn round_amount(amount: f64) -> f64 {
    let step = match amount {
        ..2_000.0 => 10.0,
        ..20_000.0 => 50.0,
        ..100_000.0 => 500.0,
        _ => 1000.0,
    };
    ((amount / step).round() * step).max(step)
}

pub fn decimal(amount: f64) -> Decimal {
    Decimal::from_f64(amount).expect("amounts stay far below the limits of a decimal")
}

fn eur_per_unit(currency: &str) -> f64 {
    let (_, rate) = world::EUR_PER_UNIT
        .iter()
        .find(|(code, _)| *code == currency)
        .expect("every currency of a region has a rate");
    *rate
}

/// The flag follows the amount only loosely, and chances not at all: many deals get the wrong
/// attention.
fn draw_priority(rng: &mut impl Rng, importance: f64) -> Option<&'static str> {
    let felt = 0.45 * importance + 0.9 * normal(rng);
    if rng.random_bool(0.15) {
        None
    } else if felt > 0.9 {
        Some("High")
    } else if felt > -0.5 {
        Some("Medium")
    } else {
        Some("Low")
    }
}

fn priority_effort(priority: Option<&str>) -> f64 {
    match priority {
        Some("High") => 1.3,
        Some("Low") => 0.75,
        _ => 1.0,
    }
}

fn draw_name(rng: &mut impl Rng, product: &str) -> String {
    let first = draw(rng, &world::COMPANY_FIRST, |_| 1.0);
    let last = draw(rng, &world::COMPANY_LAST, |_| 1.0);
    format!("{first} {last} - {product}")
}

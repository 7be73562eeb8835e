//! The leakage gate: finds the columns that know how a deal ended.
//!
//! Looked at are values without a date: what a closed deal's file says of them may have been written
//! when the deal closed, or after. A value with a dated history is read as it was at the moment
//! ([`Snapshot`]), and so are the features that need one (stage, ages, activities): they cannot know
//! the end, and are judged by nothing here. That leaves the attributes and, of the table of features,
//! those that a flat file has (amount, pipeline, owner, priority), in the deals whose history does not
//! tell of them; and the outcomes of activities, which have the date of the activity but may have been
//! written later: that of an offer when the customer decides.
//!
//! A finding is of one of two grades. *Left out* takes evidence in the data, strong enough that chance
//! is no explanation; a mapping that names the column under `columns.keep` overrules it. *Suspect*
//! columns are kept, with what to check: weaker evidence, or a name that CRMs use for what is filled in
//! or changed after the fact.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::rows::History;
use super::{SEED, TrainOptions, attribute_names, column_reader};
use crate::columns::{ColumnReader, Source, id_reason};
use crate::domain::deal::DEAL_FIELDS;
use crate::domain::{Activity, Deal, Snapshot};
use crate::error::Result;
use crate::evaluation::{Judged, auc, log_loss};
use crate::features::kinds::{KindCount, Within};
use crate::features::{FEATURES, Needs, Reading};
use crate::ingest::Mapping;
use crate::ingest::mapping::ColumnType;
use crate::model::{Clue, Dropped, Finding, FindingGrade};

/// A column is left out when it alone ranks won above lost deals with at least this AUC. The most
/// telling honest column seen on real data reaches .80, one that sales people set when they know the
/// end .92.
const AUC_LEFT_OUT: f64 = 0.9;
/// And from this AUC on it is suspect.
const AUC_SUSPECT: f64 = 0.82;
/// A column that settles this share of the uncertainty about the outcome (of the base rate's log loss)
/// is left out too: one that decides half of the deals and says nothing of the others has an AUC of
/// only .875. Honest columns settle up to .25.
const SETTLED_LEFT_OUT: f64 = 0.5;
/// Quantile of the standard normal distribution for bounds that hold with 95% confidence.
const BOUND_Z: f64 = 1.644_853_626_951_472_2;
/// Won and lost deals that a ranking is judged on.
const RANKED_MIN: usize = 10;
/// Quantile bins of a number, and the values that each needs.
const BINS_MAX: usize = 20;
const BIN_VALUES_MIN: usize = 10;
/// Share of the values from which on a number that recurs is a level of its own.
const RECURRING_SHARE_MIN: f64 = 0.01;
const FOLDS: usize = 5;
/// Deals at the base rate that are added to each level, so that a rare one proves nothing.
const LEVEL_PRIOR_DEALS: f64 = 2.0;
/// Open deals that are needed to say anything of them.
const OPEN_MIN: usize = 20;
/// Filled "never" in one group of deals: at most this share of what it is in the other...
const NEVER_RATIO: f64 = 0.02;
/// ... and, with confidence, at most this: 23 deals of which none is filled, where all of the other
/// group are.
const NEVER_RATIO_BOUND: f64 = 0.12;
/// Share of the other group that must be filled for that to mean anything.
const FILLED_MIN: f64 = 0.3;
/// Difference of the filled shares of open and closed deals that is suspect, with confidence.
const FILLED_DIFFERENCE: f64 = 0.2;
/// Closed deals with a date, and the share of these dates too late to have been known.
const DATED_MIN: usize = 10;
const LATE_SHARE_CLOSING: f64 = 0.25;
const LATE_SHARE_CREATION: f64 = 0.5;
/// A date without a time is its first moment: closing later on that day is no later date.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Words in a row, or the whole name, by which a column is suspect; and what such columns hold.
struct AfterTheFact {
    words: &'static [&'static str],
    is_whole_name: bool,
    holds: &'static str,
}

const fn words(words: &'static [&'static str], holds: &'static str) -> AfterTheFact {
    AfterTheFact {
        words,
        is_whole_name: false,
        holds,
    }
}

const fn whole(words: &'static [&'static str], holds: &'static str) -> AfterTheFact {
    AfterTheFact {
        words,
        is_whole_name: true,
        holds,
    }
}

const REASON: &str = "the reason for an outcome";
const FORECAST: &str = "a forecast that moves with the deal and ends with the outcome";
const CLOSING: &str = "what is known at the closing";
const LATEST: &str = "the latest change, which comes after the outcome too";
const JUDGEMENT: &str = "a judgement that sales revises as the deal goes";
const STATUS: &str = "a status that ends with the outcome";

/// Names of after-the-fact fields, in the field lists of the CRMs themselves: Salesforce Opportunity
/// (`Probability`, `ForecastCategory`, `ExpectedRevenue`, `IsWon`, `LastActivityDate`), HubSpot deals
/// (`closed_lost_reason`, `hs_deal_stage_probability`, `days_to_close`, `notes_last_updated`),
/// Pipedrive (`lost_reason`, `won_time`, `weighted_value`), Dynamics 365 (`actualvalue`,
/// `closeprobability`), Zoho (`Reason For Loss`, `Sales Cycle Duration`), Odoo (`lost_reason_id`,
/// `date_closed`); `tags` and the judgements of leads are in every one of them.
static AFTER_THE_FACT: [AfterTheFact; 49] = [
    words(&["probability"], FORECAST),
    words(&["close", "probability"], FORECAST),
    words(&["win", "likelihood"], FORECAST),
    words(&["forecast"], FORECAST),
    words(&["expected", "revenue"], FORECAST),
    words(&["weighted", "value"], FORECAST),
    words(&["weighted", "amount"], FORECAST),
    words(&["projected", "amount"], FORECAST),
    words(&["lost", "reason"], REASON),
    words(&["loss", "reason"], REASON),
    words(&["won", "reason"], REASON),
    words(&["win", "reason"], REASON),
    words(&["close", "reason"], REASON),
    words(&["closed", "reason"], REASON),
    words(&["closing", "reason"], REASON),
    words(&["reason", "for", "loss"], REASON),
    words(&["disqualification", "reason"], REASON),
    words(&["close", "date"], CLOSING),
    words(&["closed", "date"], CLOSING),
    words(&["date", "closed"], CLOSING),
    words(&["close", "time"], CLOSING),
    words(&["close", "value"], CLOSING),
    words(&["closed", "value"], CLOSING),
    words(&["closed", "amount"], CLOSING),
    words(&["actual", "value"], CLOSING),
    words(&["days", "to", "close"], CLOSING),
    words(&["through", "closing"], CLOSING),
    words(&["sales", "cycle"], CLOSING),
    words(&["is", "won"], CLOSING),
    words(&["won", "time"], CLOSING),
    words(&["lost", "time"], CLOSING),
    words(&["last", "activity"], LATEST),
    words(&["last", "notable", "activity"], LATEST),
    words(&["last", "modified"], LATEST),
    words(&["last", "updated"], LATEST),
    words(&["last", "contacted"], LATEST),
    words(&["tags"], JUDGEMENT),
    whole(&["tag"], JUDGEMENT),
    words(&["lead", "quality"], JUDGEMENT),
    words(&["lead", "profile"], JUDGEMENT),
    words(&["lead", "score"], JUDGEMENT),
    words(&["activity", "score"], JUDGEMENT),
    words(&["activity", "index"], JUDGEMENT),
    words(&["profile", "score"], JUDGEMENT),
    words(&["profile", "index"], JUDGEMENT),
    words(&["lead", "grade"], JUDGEMENT),
    words(&["lead", "status"], STATUS),
    words(&["deal", "stage"], STATUS),
    whole(&["status"], STATUS),
];

/// Looks at every column that may be learned from. Of `deals` the open ones show what a deal looks like
/// when a model meets it.
///
/// # Errors
/// When the mapping's zone is unknown.
pub(super) fn inspect(
    history: &History,
    deals: &[Deal],
    options: &TrainOptions,
) -> Result<Vec<Finding>> {
    let opening = |deal: &Deal| deal.created_at.or(deal.closed_at).unwrap_or(options.as_of);
    let closed: Vec<Snapshot> = (history.closed().iter())
        .map(|deal| Snapshot::at(deal, opening(deal)))
        .collect();
    let is_known = |deal: &&Deal| deal.created_at.is_none_or(|at| at <= options.as_of);
    let open: Vec<Snapshot> = (deals.iter().filter(|deal| deal.is_open()))
        .filter(is_known)
        .map(|deal| Snapshot::at(deal, options.as_of))
        .collect();
    let mut findings: Vec<Finding> = mapped_closing(&options.mapping).into_iter().collect();
    // Features of a past are computed from what is dated before the moment.
    let given = FEATURES.iter().filter(|f| f.needs == Needs::Nothing);
    let given = given.map(|feature| Source::Feature(feature.name.into()));
    let attributes = attribute_names(history, &options.mapping);
    let attributes = attributes.map(|name| Source::Attribute(name.into()));
    for source in given.chain(attributes) {
        let reader = column_reader(&source, &closed, options)?;
        let facts = Facts::gather(&source, &reader, history, &closed, &open, options);
        findings.extend(facts.finding(&options.mapping));
    }
    findings.extend(outcomes_of_activities(history, &open, &options.mapping));
    findings.sort_by_key(|finding| finding.grade);
    Ok(findings)
}

/// Whether a model that was looked at so may not learn from the column.
pub(super) fn leaves_out(findings: &[Finding], source: &Source) -> bool {
    is_left_out(findings, &source.column_name())
}

/// Whether a model must not look at the outcomes of activities of this kind.
pub(super) fn hides_outcomes(findings: &[Finding], kind: &str) -> bool {
    is_left_out(findings, &outcome_of(kind))
}

fn is_left_out(findings: &[Finding], column: &str) -> bool {
    left_out(findings).any(|finding| finding.column == column)
}

/// By what name the outcomes of activities of a kind are found.
fn outcome_of(kind: &str) -> String {
    format!("outcome of {kind}")
}

/// What the last activity of each kind came to, of the kinds that may tell how a deal ended.
fn outcomes_of_activities(history: &History, open: &[Snapshot], mapping: &Mapping) -> Vec<Finding> {
    let mut kinds: BTreeMap<&str, Outcomes> = BTreeMap::new();
    for (index, deal) in history.closed().iter().enumerate() {
        let is_before_end = |activity: &&Activity| Some(activity.at) < deal.closed_at;
        for (kind, outcome) in last_outcomes(deal.activities.iter().take_while(is_before_end)) {
            let reading = outcome.map_or(Reading::Missing, |told| Reading::Text(told.into()));
            kinds.entry(kind).or_default().told.push(Told {
                deal,
                won: history.is_won(index),
                is_given: outcome.is_some(),
                reading,
                date: None,
            });
        }
    }
    for snapshot in open {
        for (kind, outcome) in last_outcomes(snapshot.activities().iter()) {
            kinds.entry(kind).or_default().open.push(outcome.is_some());
        }
    }
    kinds.retain(|_, of| of.told.iter().any(|told| told.is_given));
    let found = kinds.into_iter().filter_map(|(kind, of)| {
        let source = Source::Activities(KindCount {
            kind: kind.to_owned(),
            sort: None,
            within: Within::Stage,
        });
        let facts = Facts {
            name: outcome_of(kind),
            source: &source,
            holds: ColumnType::Category,
            filled_closed: Share::of(of.told.iter().map(|told| told.is_given)),
            filled_open: Share::of(of.open.into_iter()),
            told: of.told,
            is_mostly_undated: true,
        };
        facts.finding(mapping)
    });
    found.collect()
}

/// The last outcomes of a kind in closed deals, and whether those of open ones are known.
#[derive(Default)]
struct Outcomes<'a> {
    told: Vec<Told<'a>>,
    open: Vec<bool>,
}

/// The outcome of the last activity of each kind.
fn last_outcomes<'a>(
    activities: impl Iterator<Item = &'a Activity>,
) -> BTreeMap<&'a str, Option<&'a str>> {
    activities
        .map(|a| (a.kind.as_str(), a.outcome.as_deref()))
        .collect()
}

/// The columns left out, as the model lists them.
pub(super) fn dropped(findings: &[Finding]) -> impl Iterator<Item = Dropped> {
    left_out(findings).map(|finding| Dropped {
        column: finding.column.clone(),
        reason: finding.evidence.clone(),
    })
}

fn left_out(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    let is_left_out = |finding: &&Finding| finding.grade == FindingGrade::LeftOut;
    findings.iter().filter(is_left_out)
}

/// The closing date is no column to learn from; whoever looks for it finds it named.
fn mapped_closing(mapping: &Mapping) -> Option<Finding> {
    let column = mapping.deal.closed_at.as_ref()?;
    Some(Finding {
        column: column.clone(),
        grade: FindingGrade::LeftOut,
        code: Clue::ClosingDate,
        evidence: "it is mapped as the closing date, which is known only once a deal is closed"
            .into(),
    })
}

/// What is known of one column.
struct Facts<'a> {
    name: String,
    source: &'a Source,
    holds: ColumnType,
    /// Closed deals whose history does not tell of the column.
    told: Vec<Told<'a>>,
    /// Filled in closed deals (those of `told`) and in open ones.
    filled_closed: Share,
    filled_open: Share,
    /// Whether most closed deals with a value have it without a date.
    is_mostly_undated: bool,
}

/// What a closed deal says in the column.
struct Told<'a> {
    deal: &'a Deal,
    won: bool,
    is_given: bool,
    reading: Reading<'a>,
    /// The date in a column of dates, also one after the creation.
    date: Option<Timestamp>,
}

impl<'a> Facts<'a> {
    fn gather(
        source: &'a Source,
        reader: &'a ColumnReader,
        history: &History<'a>,
        closed: &[Snapshot<'a>],
        open: &[Snapshot<'a>],
        options: &TrainOptions,
    ) -> Self {
        let mut told = Vec::with_capacity(closed.len());
        let mut dated_count = 0;
        for (index, snapshot) in closed.iter().enumerate() {
            let deal = history.closed()[index];
            if tells_of(deal, source) {
                dated_count += 1;
                continue;
            }
            told.push(Told {
                deal,
                won: history.is_won(index),
                is_given: reader.is_given(snapshot, &options.exchange),
                reading: reader.read(snapshot, &options.exchange),
                date: reader.date(snapshot),
            });
        }
        let filled_closed = Share::of(told.iter().map(|t| t.is_given));
        Self {
            name: source.column_name(),
            source,
            holds: reader.holds(),
            is_mostly_undated: dated_count <= filled_closed.count,
            filled_open: Share::of(open.iter().map(|s| reader.is_given(s, &options.exchange))),
            filled_closed,
            told,
        }
    }

    /// The strongest evidence; several pieces of it in one sentence.
    fn finding(&self, mapping: &Mapping) -> Option<Finding> {
        let mut clues: Vec<(FindingGrade, Clue, String)> = Vec::new();
        if self.is_mostly_undated {
            clues.extend(self.id());
            clues.extend(self.late_dates());
            clues.extend(self.filled_at_closing());
            clues.extend(self.filled_for_one_outcome());
        }
        clues.extend(self.alone());
        if self.is_mostly_undated {
            clues.extend(self.named());
        }
        let grade = clues.iter().map(|(grade, ..)| *grade).min()?;
        clues.retain(|(of, ..)| *of == grade);
        let (_, code, _) = clues.first()?;
        let texts: Vec<&str> = clues.iter().map(|(.., text)| text.as_str()).collect();
        let evidence = texts.join("; ");
        // Of texts that are ids there is nothing to learn, whoever insists.
        let is_learnable = *code != Clue::Id || self.holds == ColumnType::Number;
        let insists =
            grade == FindingGrade::LeftOut && is_learnable && self.is_insisted_on(mapping);
        Some(Finding {
            column: self.name.clone(),
            code: *code,
            grade: if insists {
                FindingGrade::Suspect
            } else {
                grade
            },
            evidence: if insists {
                format!("kept because the mapping insists, although {evidence}")
            } else {
                evidence
            },
        })
    }

    /// Whether `columns.keep` names it: an attribute by its name, a field of the deal by its column.
    fn is_insisted_on(&self, mapping: &Mapping) -> bool {
        let is_kept = |name: &str| mapping.columns.keep.iter().any(|kept| kept == name);
        match self.source {
            Source::Attribute(name) => is_kept(name),
            Source::Feature(field) => {
                let mut mapped = mapping.deal.named();
                mapped.any(|(mapped, column)| mapped == field && is_kept(column))
            }
            Source::Activities(_) | Source::Usual(_) => false,
        }
    }

    /// Another value in every deal tells deals apart and nothing else.
    fn id(&self) -> Option<(FindingGrade, Clue, String)> {
        let is_of_deal = !matches!(self.source, Source::Attribute(_));
        if is_of_deal || self.holds == ColumnType::Date {
            return None;
        }
        let readings: Vec<&Reading> = self.told.iter().map(|told| &told.reading).collect();
        let reason = id_reason(&readings)?;
        Some((FindingGrade::LeftOut, Clue::Id, reason))
    }

    /// Dates that could not be known while the deal was open, or not when it was created. A deal's
    /// creation on its closing day is no late date.
    fn late_dates(&self) -> Option<(FindingGrade, Clue, String)> {
        let after_creation = |told: &Told| Some(told.date? > told.deal.created_at?);
        let at_closing = |told: &Told| {
            let is_late = told.date?.saturating_add(DAY).ok()? > told.deal.closed_at?;
            Some(is_late && after_creation(told).unwrap_or(true))
        };
        let closing = Share::of(self.told.iter().filter_map(at_closing));
        let creation = Share::of(self.told.iter().filter_map(after_creation));
        let text = if closing.total >= DATED_MIN && closing.value() >= LATE_SHARE_CLOSING {
            format!("its date lies on or after the closing in {closing} that have both")
        } else if creation.total >= DATED_MIN && creation.value() >= LATE_SHARE_CREATION {
            format!(
                "its date lies after the creation in {creation} that have both, and nothing tells when it was set"
            )
        } else {
            return None;
        };
        Some((FindingGrade::LeftOut, Clue::LateDates, text))
    }

    /// Filled once deals are closed, or much oftener or rarer then. What comes with a later stage also
    /// differs, honestly: so the second alone is no proof.
    fn filled_at_closing(&self) -> Option<(FindingGrade, Clue, String)> {
        let (open, closed) = (self.filled_open, self.filled_closed);
        if open.total < OPEN_MIN || closed.total == 0 {
            return None;
        }
        if closed.value() >= FILLED_MIN && open.is_never_beside(closed) {
            let text =
                format!("it is filled in {open} that are open and in {closed} that are closed");
            return Some((FindingGrade::LeftOut, Clue::FilledAtClosing, text));
        }
        let (blank_open, blank_closed) = (open.others(), closed.others());
        let text = format!(
            "it is blank in {blank_open} that are open and in {blank_closed} that are closed, so the model learns little of its blanks: check when it is filled in"
        );
        let is_sharp = open.difference_at_least(closed) >= FILLED_DIFFERENCE;
        is_sharp.then_some((FindingGrade::Suspect, Clue::FilledUnlike, text))
    }

    /// Filled (and neither 0 nor no) in won deals alone, or in lost ones alone: the value of a sale, the
    /// reason of a loss.
    fn filled_for_one_outcome(&self) -> Option<(FindingGrade, Clue, String)> {
        let filled = |won: bool| {
            let of_outcome = self.told.iter().filter(move |told| told.won == won);
            Share::of(of_outcome.map(Told::is_filled))
        };
        let (won, lost) = (filled(true), filled(false));
        let (never, often) = if won.value() < lost.value() {
            (won, lost)
        } else {
            (lost, won)
        };
        if often.value() < FILLED_MIN || never.total == 0 || !never.is_never_beside(often) {
            return None;
        }
        let filled = match self.holds {
            ColumnType::Number => "filled and not 0",
            ColumnType::Boolean => "yes",
            ColumnType::Category | ColumnType::Date => "filled",
        };
        let text = format!("it is {filled} in {won} that were won and in {lost} that were lost");
        Some((FindingGrade::LeftOut, Clue::OneOutcome, text))
    }

    /// How well the column alone tells won from lost.
    fn alone(&self) -> Option<(FindingGrade, Clue, String)> {
        let ranking = Ranking::of(&self.told)?;
        let numbers = format!(
            "alone it ranks won above lost deals with an AUC of {:.2} (at least {:.2} with 95% confidence) and settles {} of the uncertainty",
            ranking.auc,
            ranking.auc_low,
            percent(ranking.settled)
        );
        if ranking.auc_low >= AUC_LEFT_OUT || ranking.settled_low >= SETTLED_LEFT_OUT {
            let text = format!("{numbers}: it knows the outcome");
            return Some((FindingGrade::LeftOut, Clue::AloneRanks, text));
        }
        let text = format!("{numbers}: check that it is known before the deal is decided");
        (ranking.auc_low >= AUC_SUSPECT).then_some((FindingGrade::Suspect, Clue::AloneRanks, text))
    }

    fn named(&self) -> Option<(FindingGrade, Clue, String)> {
        let Source::Attribute(name) = self.source else {
            return None;
        };
        let row = after_the_fact(name)?;
        let text = format!(
            "CRMs use such a name for {}: check that it holds what was known while the deal was open",
            row.holds
        );
        Some((FindingGrade::Suspect, Clue::Name, text))
    }
}

impl Told<'_> {
    /// Neither blank nor 0 nor no.
    fn is_filled(&self) -> bool {
        let is_nothing = match &self.reading {
            Reading::Number(number) => *number == 0.0,
            Reading::Text(text) => text == "false",
            Reading::Missing | Reading::Unreadable(_) => false,
        };
        self.is_given && !is_nothing
    }
}

/// Whether the deal's history tells when the column's value came.
fn tells_of(deal: &Deal, source: &Source) -> bool {
    let field = match source {
        // An attribute with the name of a field has no history: that one is the field's.
        Source::Attribute(name) if DEAL_FIELDS.contains(&name.as_str()) => return false,
        Source::Attribute(name) | Source::Feature(name) => name,
        // Every activity has its date, and so has every stage.
        Source::Activities(_) | Source::Usual(_) => return true,
    };
    deal.history.iter().any(|change| change.field == *field)
}

/// The row of the table that a column's name is like.
fn after_the_fact(name: &str) -> Option<&'static AfterTheFact> {
    let words = split_words(name);
    let run_together = words.concat();
    AFTER_THE_FACT.iter().find(|row| {
        if row.is_whole_name {
            return words == row.words;
        }
        // `closedate`, `lastmodifieddate`: some exports run words together. One word alone could be a
        // part of any other (`stages` of `tags`).
        words.windows(row.words.len()).any(|run| run == row.words)
            || row.words.len() > 1 && run_together.contains(&row.words.concat())
    })
}

/// `hs_lastModified Date` as `hs`, `last`, `modified`, `date`.
fn split_words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let starts = !c.is_alphanumeric() || was_lower && c.is_uppercase();
        if starts && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// So many of so many deals.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    count: usize,
    total: usize,
}

impl Share {
    fn of(members: impl Iterator<Item = bool>) -> Self {
        let none = Self { count: 0, total: 0 };
        members.fold(none, |share, is_member| Self {
            count: share.count + usize::from(is_member),
            total: share.total + 1,
        })
    }

    /// Those that are not.
    fn others(self) -> Self {
        Self {
            count: self.total - self.count,
            ..self
        }
    }

    /// 0 of no deals.
    fn value(self) -> f64 {
        self.count as f64 / self.total.max(1) as f64
    }

    /// Upper end of the score interval of Wilson (1927).
    fn upper(self) -> f64 {
        let (n, z2) = (self.total as f64, BOUND_Z * BOUND_Z);
        let p = self.value();
        let spread = (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        (p + z2 / (2.0 * n) + BOUND_Z * spread) / (1.0 + z2 / n)
    }

    /// As good as never, where the other share is what would be expected.
    fn is_never_beside(self, other: Self) -> bool {
        self.value() <= NEVER_RATIO * other.value()
            && self.upper() <= NEVER_RATIO_BOUND * other.value()
    }

    /// Lower bound of the absolute difference of two shares.
    fn difference_at_least(self, other: Self) -> f64 {
        let variance = |share: Self| share.value() * (1.0 - share.value()) / share.total as f64;
        let spread = (variance(self) + variance(other)).sqrt();
        (self.value() - other.value()).abs() - BOUND_Z * spread
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = percent(self.value());
        write!(f, "{share} of the {} deals", self.total)
    }
}

/// `68%`; with a decimal where the whole number would say none or all.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let is_edge = percent > 0.0 && percent < 1.0 || percent > 99.0 && percent < 100.0;
    format!("{percent:.*}%", usize::from(is_edge))
}

/// How well one column alone ranks deals it was not counted on.
struct Ranking {
    auc: f64,
    /// With 95% confidence it is no lower.
    auc_low: f64,
    /// Share of the base rate's log loss that is gone; below 0 when the column misleads.
    settled: f64,
    settled_low: f64,
}

impl Ranking {
    /// Each deal is given the won share of its level among the other folds' deals.
    fn of(told: &[Told]) -> Option<Self> {
        let won = told.iter().filter(|told| told.won).count();
        let lost = told.len() - won;
        if won.min(lost) < RANKED_MIN {
            return None;
        }
        let levels = levels(told);
        let mut order: Vec<usize> = (0..told.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(SEED));
        let mut counts: HashMap<u32, [Count; FOLDS]> = HashMap::new();
        let mut all = [Count::default(); FOLDS];
        for (position, &deal) in order.iter().enumerate() {
            let (fold, won) = (position % FOLDS, told[deal].won);
            counts.entry(levels[deal]).or_default()[fold].add(won);
            all[fold].add(won);
        }
        let mut judged = Vec::with_capacity(told.len());
        let (mut gains, mut losses) = (Vec::with_capacity(told.len()), 0.0);
        for (position, &deal) in order.iter().enumerate() {
            let fold = position % FOLDS;
            let base = Count::without(&all, fold).rate(0.5);
            let rate = Count::without(&counts[&levels[deal]], fold).rate(base);
            let won = told[deal].won;
            losses += log_loss(base, won);
            gains.push(log_loss(base, won) - log_loss(rate, won));
            judged.push(Judged::new(rate, won, deal));
        }
        let auc = auc(&judged)?;
        let (gain, gain_low) = mean_and_lower_bound(&gains);
        let loss = losses / told.len() as f64;
        Some(Self {
            auc,
            auc_low: auc_lower_bound(auc, won, lost),
            settled: gain / loss,
            settled_low: gain_low / loss,
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    won: usize,
    all: usize,
}

impl Count {
    fn add(&mut self, won: bool) {
        self.won += usize::from(won);
        self.all += 1;
    }

    fn without(folds: &[Self; FOLDS], left_out: usize) -> Self {
        let others = folds
            .iter()
            .enumerate()
            .filter(|(fold, _)| *fold != left_out);
        others.fold(Self::default(), |sum, (_, count)| Self {
            won: sum.won + count.won,
            all: sum.all + count.all,
        })
    }

    /// Won share, shrunk to `prior`: neither 0 nor 1.
    fn rate(self, prior: f64) -> f64 {
        let won = self.won as f64 + LEVEL_PRIOR_DEALS * prior;
        won / (self.all as f64 + LEVEL_PRIOR_DEALS)
    }
}

/// The levels of the values: texts as they are, numbers in quantile bins beside the values that recur,
/// blanks as one.
fn levels(told: &[Told]) -> Vec<u32> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Blank,
        Text(&'a str),
        Exact(u64),
        Bin(usize),
    }
    let numbers: Vec<f64> = (told.iter())
        .filter_map(|told| match told.reading {
            Reading::Number(number) => Some(number),
            _ => None,
        })
        .collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for number in &numbers {
        *counts.entry(number.to_bits()).or_default() += 1;
    }
    let recurs = |number: f64| {
        counts[&number.to_bits()] as f64 >= RECURRING_SHARE_MIN * numbers.len() as f64
            && counts[&number.to_bits()] > 1
    };
    let mut others: Vec<f64> = numbers.iter().copied().filter(|n| !recurs(*n)).collect();
    others.sort_by(f64::total_cmp);
    let bins = (others.len() / BIN_VALUES_MIN).clamp(1, BINS_MAX);
    let edges: Vec<f64> = (1..bins)
        .map(|bin| others[bin * others.len() / bins])
        .collect();
    let mut codes: HashMap<Key, u32> = HashMap::new();
    told.iter()
        .map(|told| {
            let key = match &told.reading {
                Reading::Missing => Key::Blank,
                Reading::Text(text) | Reading::Unreadable(text) => Key::Text(text),
                Reading::Number(number) if recurs(*number) => Key::Exact(number.to_bits()),
                Reading::Number(number) => Key::Bin(edges.partition_point(|edge| edge <= number)),
            };
            let next = codes.len() as u32;
            *codes.entry(key).or_insert(next)
        })
        .collect()
}

/// Mean and its lower bound by the central limit theorem.
fn mean_and_lower_bound(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, mean - BOUND_Z * (squares / (n * (n - 1.0))).sqrt())
}

/// The smallest true AUC from which the seen one is no more than [`BOUND_Z`] standard errors away
/// (Newcombe 2006, method 5): unlike the error at the seen AUC, that of the true one is not 0 where
/// a few deals happen to be in perfect order.
fn auc_lower_bound(seen: f64, won: usize, lost: usize) -> f64 {
    let (mut low, mut high) = (0.5, seen.max(0.5));
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if middle + BOUND_Z * auc_standard_error(middle, won, lost) >= seen {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Hanley and McNeil (1982), equation 1.
fn auc_standard_error(auc: f64, won: usize, lost: usize) -> f64 {
    let (won, lost) = (won as f64, lost as f64);
    let two_won = auc / (2.0 - auc);
    let two_lost = 2.0 * auc * auc / (1.0 + auc);
    let variance = auc * (1.0 - auc)
        + (won - 1.0) * (two_won - auc * auc)
        + (lost - 1.0) * (two_lost - auc * auc);
    (variance / (won * lost)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttributeValue, DealId, Exchange, FieldChange, Outcome};
    use crate::model::Model;
    use crate::progress::silent;
    use crate::training::train;
    use rand::RngExt;

    const CREATED: &str = "2026-01-01T00:00:00Z";
    const CLOSED: &str = "2026-03-01T09:30:00Z";

    /// Flat deals, 30% of them won, and as many open ones as wanted; `attributes` draws the values.
    fn deals(
        closed: usize,
        open: usize,
        attributes: impl Fn(Outcome, &mut ChaCha8Rng) -> Vec<(&'static str, String)>,
    ) -> Vec<Deal> {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        let deal = |index: usize| {
            let outcome = match index {
                index if index >= closed => Outcome::Open,
                index if index % 10 < 3 => Outcome::Won,
                _ => Outcome::Lost,
            };
            let values = attributes(outcome, rng).into_iter();
            Deal {
                outcome,
                created_at: Some(CREATED.parse().unwrap()),
                closed_at: (outcome != Outcome::Open).then(|| CLOSED.parse().unwrap()),
                attributes: values
                    .map(|(name, value)| (name.into(), AttributeValue::Text(value)))
                    .collect(),
                ..Deal::new(DealId::new(&format!("d{index}")).unwrap())
            }
        };
        (0..closed + open).map(deal).collect()
    }

    fn model(deals: &[Deal], mapping: &str) -> Model {
        let options = TrainOptions {
            as_of: "2026-06-01T00:00:00Z".parse().unwrap(),
            trained_at: "2026-06-01T00:00:00Z".parse().unwrap(),
            mapping: Mapping::from_toml(mapping, "mapping.toml").unwrap(),
            exchange: Exchange::only("EUR".parse().unwrap()),
        };
        train(deals, &options, &silent).unwrap()
    }

    fn found(model: &Model) -> Vec<(&str, FindingGrade, Clue)> {
        let findings = model.findings.iter();
        findings
            .map(|f| (f.column.as_str(), f.grade, f.code))
            .collect()
    }

    fn one_of(rng: &mut ChaCha8Rng, share: f64, yes: &str, no: &str) -> String {
        if rng.random_bool(share) { yes } else { no }.to_owned()
    }

    /// `verdict` is set when the outcome is all but known. `fit` is honest and has an AUC of .8: two
    /// uniform distributions d apart have 1 - (1 - d)^2 / 2.
    fn verdict_and_fit(outcome: Outcome, rng: &mut ChaCha8Rng) -> Vec<(&'static str, String)> {
        let is_won = outcome == Outcome::Won;
        let verdict = one_of(rng, if is_won { 0.95 } else { 0.04 }, "likely", "ringing");
        let fit = rng.random_range(0.0..1.0) + if is_won { 0.368 } else { 0.0 };
        let source = one_of(rng, if is_won { 0.7 } else { 0.3 }, "partner", "web");
        vec![
            ("verdict", verdict),
            ("fit", fit.to_string()),
            ("source", source),
        ]
    }

    #[test]
    fn a_column_that_knows_the_outcome_is_left_out_and_a_strong_honest_one_is_not() {
        let deals = deals(2000, 0, verdict_and_fit);
        let model = model(&deals, "");
        let left_out = ("verdict", FindingGrade::LeftOut, Clue::AloneRanks);
        assert_eq!(found(&model), [left_out], "{:?}", model.findings);
        assert!(model.dropped.iter().any(|d| d.column == "verdict"
            && d.reason.contains("AUC of 0.9")
            && d.reason == model.findings[0].evidence));
        let names: Vec<&str> = model.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["fit", "source"]);
    }

    #[test]
    fn few_deals_in_perfect_order_prove_nothing() {
        let perfect = |outcome: Outcome, _: &mut ChaCha8Rng| {
            vec![(
                "verdict",
                if outcome == Outcome::Won {
                    "likely"
                } else {
                    "dead"
                }
                .to_owned(),
            )]
        };
        let of = |count: usize| found(&model(&deals(count, 0, perfect), "")).len();
        assert_eq!(of(30), 0, "9 won deals");
        assert_eq!(of(100), 1, "30 won deals");
    }

    #[test]
    fn the_mapping_may_insist_and_may_ignore() {
        let deals = deals(2000, 0, verdict_and_fit);
        let kept = model(&deals, "[columns]\nkeep = [\"verdict\"]");
        let suspect = ("verdict", FindingGrade::Suspect, Clue::AloneRanks);
        assert_eq!(found(&kept), [suspect]);
        let evidence = &kept.findings[0].evidence;
        assert!(evidence.contains("the mapping insists"), "{evidence}");
        assert!(kept.columns.iter().any(|c| c.name == "verdict"));
        let ignored = model(&deals, "[columns]\nignore = [\"verdict\"]");
        assert_eq!(found(&ignored), []);
        assert!(
            ignored
                .dropped
                .iter()
                .any(|d| d.reason == "ignored by the mapping")
        );
    }

    /// `contract` comes when a deal closes, `account` for a third of the open deals too.
    fn late_columns(outcome: Outcome, rng: &mut ChaCha8Rng) -> Vec<(&'static str, String)> {
        let is_open = outcome == Outcome::Open;
        let contract = if is_open {
            ""
        } else {
            ["a", "b", "c"][rng.random_range(0..3)]
        };
        let account = one_of(rng, if is_open { 0.3 } else { 1.0 }, "known", "");
        let region = ["north", "south"][rng.random_range(0..2)];
        vec![
            ("contract", contract.to_owned()),
            (
                "account",
                format!("{account}{}", if account.is_empty() { "" } else { region }),
            ),
            ("region", region.to_owned()),
        ]
    }

    #[test]
    fn what_is_blank_while_deals_are_open_is_left_out_or_named() {
        let with_open = deals(600, 200, late_columns);
        assert_eq!(
            found(&model(&with_open, "")),
            [
                ("contract", FindingGrade::LeftOut, Clue::FilledAtClosing),
                ("account", FindingGrade::Suspect, Clue::FilledUnlike),
            ]
        );
        let few_open = deals(600, OPEN_MIN - 1, late_columns);
        assert_eq!(found(&model(&few_open, "")), [], "19 open deals say little");
    }

    #[test]
    fn dates_that_came_later_are_left_out() {
        let dates = |_: Outcome, rng: &mut ChaCha8Rng| {
            let day = rng.random_range(1..28);
            vec![
                ("signed", "2026-03-01".to_owned()),
                ("visited", format!("2026-01-{:02}", day + 1)),
                ("founded", format!("1998-05-{day:02}")),
            ]
        };
        let model = model(&deals(400, 0, dates), "");
        let late = |name| (name, FindingGrade::LeftOut, Clue::LateDates);
        assert_eq!(found(&model), [late("signed"), late("visited")]);
        assert!(
            model.findings[0]
                .evidence
                .contains("on or after the closing")
        );
        assert!(model.findings[1].evidence.contains("after the creation"));
        assert!(model.columns.iter().any(|column| column.name == "founded"));
    }

    #[test]
    fn what_is_filled_for_one_outcome_only_is_left_out() {
        let columns = |outcome: Outcome, rng: &mut ChaCha8Rng| {
            let value = match outcome {
                Outcome::Won => rng.random_range(100..900).to_string(),
                _ => "0".to_owned(),
            };
            let why = match outcome {
                Outcome::Lost if rng.random_bool(0.5) => {
                    ["price", "timing"][rng.random_range(0..2)]
                }
                _ => "",
            };
            vec![("sum", value), ("why", why.to_owned())]
        };
        let model = model(&deals(600, 0, columns), "");
        let one = |name| (name, FindingGrade::LeftOut, Clue::OneOutcome);
        assert_eq!(
            found(&model),
            [one("sum"), one("why")],
            "{:?}",
            model.findings
        );
        let evidence = &model.findings[0].evidence;
        assert!(
            evidence.contains("filled and not 0 in 100% of the 180 deals that were won"),
            "{evidence}"
        );
        assert!(evidence.contains("alone it ranks"), "{evidence}");
    }

    #[test]
    fn the_amount_of_a_flat_file_is_looked_at_too() {
        let mut deals = deals(600, 0, |_, _| Vec::new());
        for deal in &mut deals {
            deal.amount = Some(if deal.outcome == Outcome::Won { 500 } else { 0 }.into());
        }
        assert_eq!(
            found(&model(&deals, "")),
            [("amount", FindingGrade::LeftOut, Clue::OneOutcome)]
        );
        let insists = "[deal]\namount = \"Value\"\n[columns]\nkeep = [\"Value\"]";
        let kept = model(&deals, insists);
        assert_eq!(kept.findings[0].grade, FindingGrade::Suspect);
    }

    #[test]
    fn a_value_with_dates_is_read_as_it_was_and_not_judged() {
        let mut deals = deals(400, 0, verdict_and_fit);
        for deal in &mut deals {
            let change = |at: &str, value: &str| FieldChange {
                at: at.parse().unwrap(),
                field: "verdict".into(),
                value: AttributeValue::Text(value.into()),
            };
            let end = if deal.outcome == Outcome::Won {
                "likely"
            } else {
                "dead"
            };
            deal.history = vec![change(CREATED, "new"), change(CLOSED, end)];
        }
        assert_eq!(found(&model(&deals, "")), []);
    }

    #[test]
    fn names_of_after_the_fact_fields_are_known_in_every_spelling() {
        for name in [
            "Tags",
            "Lead Quality",
            "Lead Profile",
            "Last Activity",
            "Last Notable Activity",
            "LastActivityDate",
            "hs_lastmodifieddate",
            "hs_deal_stage_probability",
            "Probability (%)",
            "ForecastCategoryName",
            "closed_lost_reason",
            "Reason For Loss",
            "closedate",
            "status",
        ] {
            assert!(after_the_fact(name).is_some(), "{name}");
        }
        for name in [
            "Lead Origin",
            "Lead Source",
            "Total Time Spent on Website",
            "What is your current occupation",
            "Receive More Updates About Our Courses",
            "stages",
            "Marital Status",
            "account",
            "sales_price",
            "Client Size By Revenue",
        ] {
            assert!(after_the_fact(name).is_none(), "{name}");
        }
    }

    /// statsmodels 0.15.0: `proportion_confint(k, n, alpha=0.1, method="wilson")`. The standard error
    /// is that of the example in Hanley and McNeil (1982): area .893 of 51 and 58 cases. The bounds
    /// solve `t + 1.645 SE(t) = auc` with scipy's `brentq`.
    #[test]
    fn bounds_agree_with_other_implementations() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-10, "{a} {b}");
        let upper = |count, total| Share { count, total }.upper();
        near(upper(0, 23), 0.10525136178999425);
        near(upper(3, 200), 0.03693651799236223);
        near(auc_standard_error(0.893, 51, 58), 0.03251158176764658);
        near(auc_lower_bound(0.92, 3561, 5679), 0.914400915984554);
        near(auc_lower_bound(0.8, 50, 400), 0.7308144614246269);
        near(auc_lower_bound(1.0, 10, 10), 0.8545744338486323);
        near(auc_lower_bound(1.0, 40, 40), 0.9649629512990586);
    }

    /// Deals with an offer and two calls soon after they begin. `offer` writes down what the offer came to.
    fn with_offers(offer: impl Fn(Outcome, &mut ChaCha8Rng) -> Option<String>) -> Vec<Deal> {
        let rng = &mut ChaCha8Rng::seed_from_u64(5);
        let mut deals = deals(1000, 200, |_, _| Vec::new());
        for (index, deal) in deals.iter_mut().enumerate() {
            let activity = |kind: &str, outcome| Activity {
                at: "2026-01-03T09:00:00Z".parse().unwrap(),
                kind: kind.into(),
                direction: None,
                outcome,
            };
            let answered = |rng: &mut ChaCha8Rng| Some(one_of(rng, 0.5, "answered", "no answer"));
            deal.activities = vec![
                activity("call", answered(rng)),
                activity("call", answered(rng)),
                activity("offer", offer(deal.outcome, rng)),
            ];
            // Spread over a year, so that how most of them ended is known.
            crate::simulate::move_by(deal, -(index as i64 % 365));
        }
        deals
    }

    fn counted(model: &Model) -> Vec<&str> {
        let names = model.columns.iter().map(|column| column.name.as_str());
        names
            .filter(|name| name.starts_with("activities_30d:"))
            .collect()
    }

    #[test]
    fn an_outcome_of_activities_that_is_written_at_the_end_is_not_looked_at() {
        let honest =
            |_: Outcome, rng: &mut ChaCha8Rng| Some(one_of(rng, 0.5, "by mail", "in person"));
        let honest = model(&with_offers(honest), "");
        assert_eq!(found(&honest), [], "{:?}", honest.findings);
        assert!(counted(&honest).contains(&"activities_30d:offer/by mail"));
        // Signed or declined: known of no open deal.
        let decided = |outcome: Outcome, _: &mut ChaCha8Rng| match outcome {
            Outcome::Open => None,
            Outcome::Won => Some("signed".to_owned()),
            Outcome::Lost => Some("declined".to_owned()),
        };
        let decided = model(&with_offers(decided), "");
        let left_out = &decided.findings[0];
        assert_eq!(
            (left_out.column.as_str(), left_out.grade),
            ("outcome of offer", FindingGrade::LeftOut)
        );
        assert!(
            left_out.evidence.contains("filled in 0% of the 200 deals"),
            "{left_out:?}"
        );
        assert!(
            decided
                .dropped
                .iter()
                .any(|d| d.column == "outcome of offer")
        );
        let names = counted(&decided);
        assert!(names.contains(&"activities_30d:call/answered"), "{names:?}");
        assert!(
            names.iter().all(|name| !name.contains("offer/")),
            "{names:?}"
        );
    }
}

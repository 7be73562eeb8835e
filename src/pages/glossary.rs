//! What each metric means: the one text for the pages, which show it beside the metric, and for
//! `docs/metrics.md`, which a test holds to this table.

use std::fmt::{self, Display};

use askama::filters::HtmlSafe;

use super::format::Html;

/// A metric's name with its definition. In a template, `{{ glossary::WIN_RATE }}` is the name as a
/// button that shows the definition; the definition itself is put at the end of the page once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Its anchor in the documentation, and part of ids in pages.
    pub key: &'static str,
    pub label: &'static str,
    /// A sentence or two.
    pub text: &'static str,
    /// How it is worked out.
    pub formula: &'static str,
}

macro_rules! terms {
    ($($name:ident $key:literal $label:literal: $text:literal = $formula:literal;)*) => {
        $(pub const $name: Term = Term { key: $key, label: $label, text: $text, formula: $formula };)*

        /// All of them, in the order of the documentation.
        pub const ALL: &[Term] = &[$($name),*];
    };
}

terms! {
    // A deal
    WIN_PROBABILITY "win-probability" "Win probability": "How likely the deal is won in the end, learned from the company's own closed deals." = "calibrate(intercept + sum of the contributions of all reasons)";
    INTERVAL "interval" "90% interval": "The range that holds the deal's true probability in nine of ten cases. A wide one says that few deals like this are known." = "log-odds ± 1.645 standard errors, as probabilities";
    SCORE "score" "Score": "The win probability in percent, with its grade." = "round(100 × win probability), at least 1 and at most 99";
    GRADE "grade" "Grade": "The quarter of past deals that the win probability falls in: A is the most likely quarter, D the least." = "quartiles of the probabilities of the training rows";
    EXPECTED_VALUE "expected-value" "Expected value": "What the deal is worth on average: its amount times the chance to win it." = "win probability × amount, in the base currency";
    EV_PER_DAY "ev-per-day" "Value per day": "Expected value for each day that is left until the expected close: what is worth doing soon." = "expected value ÷ days until the expected close, at least 1";
    NEGLECT "neglect" "Neglect": "Expected value times the days since anybody did anything: value that lies idle." = "expected value × days since the last activity, or since the creation";
    TREND "trend" "Trend": "How far the win probability has moved within a week, both by the present model, so that it is the deal that moved." = "win probability now − win probability of the deal as it was 7 days ago, in percentage points";
    RANK_CHANGE "rank-change" "Rank": "Place among the owner's open deals by expected value, and how many places it went up or down within a week." = "rank of 7 days ago − rank now, over the deals of the queue";
    REASONS "reasons" "Reasons": "What sets the deal apart from the average deal, and by how much each weighs on the odds. Associations in past deals, not causes." = "×f or ÷f on the odds: exp(contribution)";
    CLOSE_DATE "close-date" "Close date": "When the deal is expected to close. Overdue: that day is past. Pushed: it was moved to a later day, so many times." = "latest expected close; pushes are its moves to a later day";
    OVERDUE "overdue" "Overdue": "Open deals whose expected close is past: their date is wrong, or they are lost." = "expected close < now";
    LAST_ACTIVITY "last-activity" "Last activity": "When anybody last did something about the deal: a call, a mail, a meeting." = "time of the latest activity";
    // Attention
    ATTENTION "attention" "Attention": "What the owner really gave the deal: calls, mails and meetings lately, and the CRM's priority flag." = "each effort of the last 90 days that did not come from the other side counts 1 and halves every 14 days; the priority flag counts 2";
    MISPRIORITIZED "misprioritized" "Misprioritised": "Deals whose rank by attention is far from their rank by expected value, among their owner's open deals." = "gap = (rank by attention − rank by expected value) ÷ (deals of the owner − 1), of at least 5 deals; beyond ± insight.misprioritized_gap";
    NEGLECTED "neglected" "Neglected": "Worth much, given little: the deal ranks far higher by expected value than by attention." = "gap ≥ insight.misprioritized_gap, and in the better half by expected value";
    OVERWORKED "overworked" "Overworked": "Worth little, given much: the deal ranks far higher by attention than by expected value." = "gap ≤ −insight.misprioritized_gap, and in the lesser half by expected value";
    NEGLECTED_VALUE "neglected-value" "Neglected value": "Money at risk: what all neglected deals are expected to bring." = "sum of the expected values of neglected deals";
    RANK_CORRELATION "rank-correlation" "Attention follows value": "How well a rep's attention follows the value of their deals: 1 is the same order, 0 no relation, −1 the reverse. With few deals the interval is wide; below five there is none." = "Spearman's rank correlation of attention and expected value; 90% interval by Fisher's transformation";
    // Time
    DAYS_IN_STAGE "days-in-stage" "Days in stage": "How long the deal has been in its stage, against what deals took there that were won." = "now − entry into the present stage";
    TIME_IN_STAGE "time-in-stage" "Time in stage": "How long stays in a stage take that ended in the period: a quarter of them less than the first number, half less than the second, three quarters less than the third." = "quartiles of (left − entered), in days; each stay counts";
    STALLED "stalled" "Stalled": "Longer in its stage than most deals were that were won." = "days in stage > the insight.stalled_quantile of won deals' days there; with fewer than insight.stalled_won_deals_min of them, > stalled_days";
    LOST_WHILE_WAITING "lost-while-waiting" "Lost while waiting": "Expected value that stalled deals lost since they entered their stage, by the present model." = "sum of (win probability at entry − win probability now) × amount";
    CUTOFF "cutoff" "Suggested cut-off": "The age in a stage beyond which hardly any deal was ever won: close such deals, or start over with them." = "the fewest days after which, of at least insight.stalled_won_deals_min deals that stayed longer, a smaller share than insight.cutoff_win_share was won";
    SLIPPING "slipping" "Slipping": "Deals whose close date is past, or whose win probability fell: since the date was last pushed, or within 30 days." = "overdue, or (win probability just before the last push, or 30 days ago where it was never pushed) − now ≥ 2 points";
    PUSHED_BUT_LOSING "pushed-but-losing" "Pushed but losing": "The close date was moved to later and the win probability falls all the same: the needs assessment of such a deal deserves another look." = "pushed, and win probability just before the last push − now ≥ 2 points";
    // The pipeline
    DEALS "deals" "Open deals": "How many deals are open." = "count of open deals";
    TOTAL_VALUE "total-value" "Total value": "The amounts of all open deals together." = "sum of the amounts, in the base currency";
    PIPELINE_EXPECTED_VALUE "pipeline-expected-value" "Expected value of the pipeline": "What the open deals bring on average, with the range that holds what they will bring in nine of ten cases." = "sum of the expected values ± 1.645 × √(Σ p (1 − p) amount² + (Σ p (1 − p) amount × s ÷ √2)²), s the standard error of the log-odds";
    AVERAGE_VALUE "average-value" "Average deal value": "What an open deal is worth if it is won." = "total value ÷ open deals with an amount";
    WIN_RATE "win-rate" "Win rate": "The share of the deals closed in the period that were won." = "won ÷ (won + lost)";
    VALUE_WIN_RATE "value-win-rate" "Win rate by value": "The share of the amounts closed in the period that was won: large deals count for more." = "won amounts ÷ closed amounts, in the base currency; interval as of (Σ amount)² ÷ Σ amount² deals";
    CYCLE_LENGTH "cycle-length" "Sales cycle": "Days from creation to close, of won and of lost deals closed in the period." = "mean and quartiles of close − creation";
    CONVERSION "conversion" "Stage conversion": "The share of the deals that entered a stage in the period and went on to a later one, or were won. Those that are still there do not count yet." = "(went on + won) ÷ (went on + won + lost), by first entry into the stage";
    LEADS_CONVERTED "leads-converted" "Leads into prospects": "The share of new deals that got beyond the stages of leads: leads that proved to be prospects. Those that still wait do not count yet." = "deals created in the period that went on from insight.lead_stages (none: from their first stage) or were won ÷ these and those that were lost before";
    CONCENTRATION "concentration" "Concentration": "How much of the expected value hangs on few: the largest deals, one source, one industry, one owner." = "share of the expected value; Herfindahl index = sum of the squared shares of all groups";
    // Enough?
    TARGET "target" "Target": "The won value that is asked of the period." = "insight.target_per_quarter × days of the period ÷ days of the quarter, summed over its quarters";
    PROSPECTS_NEEDED "prospects-needed" "Prospects needed": "How many deals it takes for the target at the present win rate: on average, and with the chosen confidence, since luck varies." = "on average missing ÷ (win rate × average won value); with confidence c the fewest n whose wins, each worth one of the past won values, sum to what is missing with a chance of c";
    COVERAGE "coverage" "Coverage": "Whether the open pipeline is enough for what is missing to the target." = "open deals ÷ prospects needed; enough at the confidence, tight on average only, else short";
    VALUE_COVERAGE "value-coverage" "Coverage by value": "Value of the open deals against what is missing to the target: by the win rate, by their expected value, and by what of it comes before the end of the period." = "open value × win rate by value ÷ missing; expected value ÷ missing; missing = target − won so far";
    CAPACITY "capacity" "Capacity": "Open deals of a rep against what reps who win handle at a time." = "open deals against the quartiles of the average number open at a time, last 365 days, of reps whose won value is the median or more";
    // What will come
    FORECAST "forecast" "Forecast": "What will be won within the period: P50 is the middle, P10 is reached in nine of ten cases, P90 in one of ten." = "won so far + simulated sums of open deals that are won and close in the period + of deals not created yet; 10th, 50th and 90th percentile";
    FORECAST_RECORD "forecast-record" "How past forecasts did": "Forecasts of the last four quarters by the present model, made with what was known on their first day, against what came. The model may have learned from some of these deals." = "quarters whose won value lay between P10 and P90: 8 of 10 would be right";
    // Coaching
    REP_WIN_RATE "rep-win-rate" "Win rate, shrunk": "A rep's win rate, drawn towards the team's where few deals are known, with its 90% interval." = "Beta posterior with the team's win rate as prior, which counts as team.win_rate_weight deals";
    REP_CONVERSION "rep-conversion" "Conversion, shrunk": "A rep's share of deals that went on from a stage, drawn towards the team's where few deals are known, with its 90% interval." = "(weight × team's share + conversions) ÷ (weight + decided deals); the weight comes from how much reps differ";
    SLUMP "slump" "Slump": "A rep wins less in the last 90 days than in the year before, by more than luck explains. A small sample is never one." = "P(win rate lately < before) > 1 − 5% ÷ reps compared, with at least 5 closed deals lately and 10 before";
    GAIN "gain" "Largest gain": "The stage in which a rep would win the most if they converted there as the team does: where coaching pays most. Only where the difference is probably real." = "expected value in the stage × (team's conversion ÷ rep's − 1), where P(rep's < team's) ≥ 80%";
    // Models
    LOG_LOSS "log-loss" "Log loss": "How surprised the model was by what came, on deals it had not seen: lower is better. It punishes certainty that is wrong." = "mean of −ln(probability given to what happened)";
    BRIER "brier" "Brier score": "Squared distance between probabilities and outcomes, on deals not seen: lower is better." = "mean of (probability − outcome)², outcome 1 or 0";
    CALIBRATION_ERROR "calibration-error" "Calibration error": "How far predicted and actual win rates are apart on average, on deals not seen." = "mean of |predicted − actual| over groups of deals of like probability, weighted by their rows";
    AUC "auc" "AUC": "How often a deal that was won had a higher probability than one that was lost: 50% is chance." = "share of pairs in the right order";
    DOLLARS_CAPTURED "dollars-captured" "Dollars captured": "The share of the value won later that the top of the list held, had it been worked in this order." = "won amounts in the top share of deals ÷ all won amounts";
    BASE_RATE "base-rate" "Base rate": "The share of past deals that were won: what one would say knowing nothing else." = "won rows ÷ rows";
    DRIFT "drift" "Drift": "How far present deals have moved from those that the model was trained on." = "population stability index by column";
}

impl Term {
    fn id(&self) -> String {
        format!("{BUTTON}{}", self.key)
    }

    /// What stands at the end of a page that names the term.
    fn definition(&self) -> Html {
        let mut html = Html::default();
        html.add(format_args!(
            r#"<div popover class="definition" id="{}"><strong>"#,
            self.id()
        ));
        html.text(self.label)
            .raw("</strong> ")
            .text(self.text)
            .raw(r#"<span class="sub">"#)
            .text(self.formula)
            .raw("</span></div>");
        html
    }
}

/// Begins the id of a definition.
const BUTTON: &str = "def-";

impl Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, label) = (self.id(), self.label);
        write!(
            f,
            r#"<button type="button" class="term" popovertarget="{id}">{label}</button>"#
        )
    }
}

impl HtmlSafe for Term {}

/// The definitions of all terms that a page names, each once.
pub fn definitions(page: &str) -> Html {
    let mut html = Html::default();
    for term in ALL {
        if page.contains(&format!(r#"popovertarget="{}""#, term.id())) {
            html.raw(term.definition().as_str());
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_term_in_these_words() {
        let docs = include_str!("../../docs/metrics.md");
        for term in ALL {
            let section = format!(
                "### {}\n\n{}\n\n`{}`\n",
                term.label, term.text, term.formula
            );
            assert!(docs.contains(&section), "docs/metrics.md lacks\n{section}");
        }
        let sections = docs.lines().filter(|line| line.starts_with("### "));
        assert_eq!(sections.count(), ALL.len());
    }

    #[test]
    fn keys_and_labels_are_unique_and_plain() {
        let mut keys: Vec<_> = ALL.iter().map(|term| term.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ALL.len());
        for term in ALL {
            assert!(!term.label.contains(['<', '&', '"']), "{}", term.label);
        }
    }

    #[test]
    fn a_page_defines_what_it_names_and_nothing_else() {
        let page = format!("<p>{WIN_RATE} and {WIN_RATE}</p>");
        let html = definitions(&page).to_string();
        assert_eq!(html.matches("def-win-rate").count(), 1);
        assert!(html.contains("won ÷ (won + lost)"));
        assert_eq!(html.matches("popover").count(), 1);
    }
}

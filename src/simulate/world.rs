//! The company that is simulated: its pipelines, its people, its market, and what each of these
//! adds to the log-odds of winning. All numbers of the simulation that can be argued about are here.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};

/// One level of a category: how common it is, and what it adds to the log-odds of winning.
pub struct Level {
    pub name: &'static str,
    pub share: f64,
    pub effect: f64,
}

const fn level(name: &'static str, share: f64, effect: f64) -> Level {
    Level {
        name,
        share,
        effect,
    }
}

/// Draws an item with probability proportional to its share.
pub fn draw<'a, T>(rng: &mut impl Rng, items: &'a [T], share: impl Fn(&T) -> f64) -> &'a T {
    let total: f64 = items.iter().map(&share).sum();
    let mut left = rng.random::<f64>() * total;
    for item in items {
        left -= share(item);
        if left < 0.0 {
            return item;
        }
    }
    &items[items.len() - 1]
}

pub fn draw_level<'a>(rng: &mut impl Rng, levels: &'a [Level]) -> &'a Level {
    draw(rng, levels, |level| level.share)
}

pub fn normal(rng: &mut impl Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// A stage of a pipeline. Of the deals that enter it, `p0 ^ weight` will advance.
pub struct Stage {
    pub name: &'static str,
    /// The weights of a pipeline's stages add up to 1.
    pub weight: f64,
    /// Scale, in business days, of the time that deals take here which will advance.
    pub advancing_days: f64,
    /// The same for deals that will be lost here: they linger.
    pub lost_days: f64,
}

const fn stage(name: &'static str, weight: f64, advancing_days: f64, lost_days: f64) -> Stage {
    Stage {
        name,
        weight,
        advancing_days,
        lost_days,
    }
}

/// Shapes of the two Weibull distributions of the time in a stage: advancing deals keep a rhythm,
/// lost ones have a long tail.
pub const ADVANCING_SHAPE: f64 = 1.6;
pub const LOST_SHAPE: f64 = 1.1;

pub struct Pipeline {
    pub name: &'static str,
    pub share: f64,
    pub effect: f64,
    pub amount_factor: f64,
    pub existing_customer_share: f64,
    pub stages: &'static [Stage],
}

pub static PIPELINES: [Pipeline; 3] = [
    Pipeline {
        name: "New Business",
        share: 0.68,
        effect: 0.0,
        amount_factor: 1.0,
        existing_customer_share: 0.12,
        stages: &[
            stage("Qualification", 0.35, 18.0, 36.0),
            stage("Discovery", 0.30, 24.0, 44.0),
            stage("Proposal", 0.20, 24.0, 52.0),
            stage("Negotiation", 0.15, 18.0, 44.0),
        ],
    },
    Pipeline {
        name: "Expansion",
        share: 0.27,
        effect: 0.75,
        amount_factor: 0.6,
        existing_customer_share: 1.0,
        stages: &[
            stage("Qualification", 0.30, 16.0, 32.0),
            stage("Proposal", 0.40, 24.0, 52.0),
            stage("Negotiation", 0.30, 18.0, 44.0),
        ],
    },
    Pipeline {
        name: "Partner",
        share: 0.05,
        effect: 0.15,
        amount_factor: 1.3,
        existing_customer_share: 0.05,
        stages: &[
            stage("Registration", 0.20, 12.0, 28.0),
            stage("Qualification", 0.30, 20.0, 40.0),
            stage("Proposal", 0.30, 28.0, 56.0),
            stage("Negotiation", 0.20, 20.0, 48.0),
        ],
    },
];

/// Something that is done about deals, and how often in a business day in which a rep of average
/// diligence looks after one.
pub struct Channel {
    pub kind: &'static str,
    pub direction: Option<&'static str>,
    pub outcome: Option<&'static str>,
    /// In a stage from which the deal will advance.
    pub advancing_rate: f64,
    /// In the stage in which it will be lost.
    pub lost_rate: f64,
}

const fn channel(
    kind: &'static str,
    direction: Option<&'static str>,
    outcome: Option<&'static str>,
    advancing_rate: f64,
    lost_rate: f64,
) -> Channel {
    Channel {
        kind,
        direction,
        outcome,
        advancing_rate,
        lost_rate,
    }
}

pub static CHANNELS: [Channel; 7] = [
    channel("email", Some("outbound"), None, 0.104, 0.085),
    channel("email", Some("inbound"), None, 0.075, 0.042),
    channel("call", Some("outbound"), Some("no_answer"), 0.033, 0.042),
    channel("call", Some("outbound"), Some("connected"), 0.036, 0.029),
    channel("call", Some("inbound"), Some("connected"), 0.013, 0.007),
    channel("meeting", None, Some("held"), 0.031, 0.017),
    channel("meeting", None, Some("no_show"), 0.004, 0.007),
];

/// Gives a won share of about 28% with all the effects below.
pub const INTERCEPT: f64 = -1.7;
/// Change of the log-odds over the whole history: the market becomes a little harder.
pub const DRIFT: f64 = -0.3;

pub static SOURCES: [Level; 7] = [
    level("Inbound", 0.24, 0.3),
    level("Outbound", 0.26, -0.45),
    level("Referral", 0.10, 0.75),
    level("Webinar", 0.12, 0.0),
    level("Event", 0.11, 0.05),
    level("Paid Ads", 0.13, -0.4),
    level("Partner", 0.04, 0.3),
];

pub static INDUSTRIES: [Level; 9] = [
    level("Software", 0.20, 0.25),
    level("Manufacturing", 0.19, 0.05),
    level("Financial Services", 0.13, 0.15),
    level("Retail", 0.12, -0.25),
    level("Healthcare", 0.11, -0.05),
    level("Logistics", 0.09, 0.1),
    level("Public Sector", 0.07, -0.45),
    level("Energy", 0.06, 0.0),
    level("Media", 0.03, -0.15),
];

pub static PRODUCTS: [Level; 4] = [
    level("Core", 0.46, 0.1),
    level("Analytics", 0.26, 0.2),
    level("Platform", 0.18, -0.2),
    level("Services", 0.10, 0.0),
];

pub static COMPETITORS: [Level; 5] = [
    level("", 0.46, 0.1),
    level("Veltrix", 0.20, -0.4),
    level("Orbis Cloud", 0.15, -0.2),
    level("Local vendor", 0.11, -0.05),
    level("In-house", 0.08, -0.3),
];

/// Whether somebody at the customer speaks for the purchase. A blank tells something too: the rep
/// has not asked.
pub static CHAMPIONS: [Level; 3] = [
    level("Yes", 0.36, 0.6),
    level("No", 0.24, -0.15),
    level("", 0.40, -0.35),
];

pub struct CompanySize {
    pub band: &'static str,
    pub share: f64,
    pub effect: f64,
    pub employees: (u32, u32),
    /// Median amount of a deal in EUR.
    pub median_amount: f64,
    /// Factor of the time in each stage.
    pub pace: f64,
}

const fn size(
    band: &'static str,
    share: f64,
    effect: f64,
    employees: (u32, u32),
    median_amount: f64,
    pace: f64,
) -> CompanySize {
    CompanySize {
        band,
        share,
        effect,
        employees,
        median_amount,
        pace,
    }
}

pub static COMPANY_SIZES: [CompanySize; 5] = [
    size("1-49", 0.30, 0.10, (3, 49), 6_000.0, 0.8),
    size("50-199", 0.29, 0.15, (50, 199), 13_000.0, 0.9),
    size("200-499", 0.20, 0.0, (200, 499), 28_000.0, 1.0),
    size("500-1999", 0.14, -0.1, (500, 1999), 62_000.0, 1.2),
    size("2000+", 0.07, -0.2, (2000, 60_000), 150_000.0, 1.4),
];

/// From this company size on, a champion is worth more.
pub const LARGE_COMPANY_EMPLOYEES: u32 = 500;
pub const CHAMPION_IN_LARGE_COMPANY: f64 = 0.5;

pub struct Region {
    pub name: &'static str,
    pub share: f64,
    pub effect: f64,
    pub countries: &'static [(&'static str, f64)],
    pub currencies: &'static [(&'static str, f64)],
}

pub static REGIONS: [Region; 5] = [
    Region {
        name: "DACH",
        share: 0.36,
        effect: 0.15,
        countries: &[("Germany", 0.7), ("Austria", 0.14), ("Switzerland", 0.16)],
        currencies: &[("EUR", 0.88), ("CHF", 0.12)],
    },
    Region {
        name: "UK & Ireland",
        share: 0.20,
        effect: 0.0,
        countries: &[("United Kingdom", 0.88), ("Ireland", 0.12)],
        currencies: &[("GBP", 0.88), ("EUR", 0.12)],
    },
    Region {
        name: "North America",
        share: 0.19,
        effect: -0.15,
        countries: &[("United States", 0.85), ("Canada", 0.15)],
        currencies: &[("USD", 1.0)],
    },
    Region {
        name: "Benelux & France",
        share: 0.16,
        effect: -0.05,
        countries: &[("France", 0.5), ("Netherlands", 0.35), ("Belgium", 0.15)],
        currencies: &[("EUR", 1.0)],
    },
    Region {
        name: "Nordics",
        share: 0.09,
        effect: 0.1,
        countries: &[("Sweden", 0.45), ("Denmark", 0.3), ("Finland", 0.25)],
        currencies: &[("EUR", 0.8), ("USD", 0.2)],
    },
];

/// EUR for one unit of a currency, all through the simulated history.
pub const EUR_PER_UNIT: [(&str, f64); 4] =
    [("EUR", 1.0), ("USD", 0.92), ("GBP", 1.17), ("CHF", 1.04)];

pub const COMPANY_FIRST: [&str; 24] = [
    "Nordwind",
    "Albion",
    "Kestrel",
    "Lindgren",
    "Morava",
    "Cobalt",
    "Sequoia",
    "Halden",
    "Brightwater",
    "Tavira",
    "Rhenus",
    "Oakfield",
    "Zephyr",
    "Bellmont",
    "Arcadia",
    "Stellar",
    "Fjord",
    "Granite",
    "Lumen",
    "Pinnacle",
    "Castell",
    "Ostara",
    "Veridian",
    "Marlow",
];
pub const COMPANY_LAST: [&str; 16] = [
    "Systems",
    "Group",
    "Industries",
    "Logistics",
    "Health",
    "Foods",
    "Energy",
    "Partners",
    "Retail",
    "Bank",
    "Works",
    "Media",
    "Mobility",
    "Labs",
    "Trading",
    "Services",
];

const REP_NAMES: [&str; 25] = [
    "Anna Keller",
    "Ben Whitfield",
    "Carla Moretti",
    "David Okafor",
    "Elin Berg",
    "Farid Haddad",
    "Grace Lin",
    "Henrik Dahl",
    "Ines Duarte",
    "Jonas Weber",
    "Katie Rowan",
    "Luca Brandt",
    "Maya Patel",
    "Nils Aaltonen",
    "Olivia Grant",
    "Pavel Novak",
    "Quinn Harper",
    "Rosa Jimenez",
    "Sven Lindholm",
    "Tara Byrne",
    "Uwe Hartmann",
    "Vera Costa",
    "Will Archer",
    "Yara Nasser",
    "Zoe Lambert",
];

/// Who joined last; they have few deals.
const NEW_REPS_COUNT: usize = 5;
const NEW_REP_SKILL: f64 = -0.2;
const SKILL_SPREAD: f64 = 0.45;

#[derive(Debug, Clone)]
pub struct Rep {
    pub name: &'static str,
    /// Added to the log-odds of each deal.
    pub skill: f64,
    /// Factor of all activity rates.
    pub diligence: f64,
    pub share: f64,
    /// Share of the history after which the rep's first deal can come.
    pub joined: f64,
}

/// The sales team of one seed. Skills average zero before the newcomers' handicap, so that seeds
/// differ in who is good and not in how good the company is.
pub fn team(rng: &mut impl Rng) -> Vec<Rep> {
    let mut reps: Vec<Rep> = REP_NAMES
        .iter()
        .map(|name| Rep {
            name,
            skill: SKILL_SPREAD * normal(rng),
            diligence: (0.2 * normal(rng)).exp(),
            share: (0.5 * normal(rng)).exp(),
            joined: 0.0,
        })
        .collect();
    let mean = reps.iter().map(|rep| rep.skill).sum::<f64>() / reps.len() as f64;
    for rep in &mut reps {
        rep.skill -= mean;
    }
    for _ in 0..NEW_REPS_COUNT {
        let newcomer = rng.random_range(0..reps.len());
        let rep = &mut reps[newcomer];
        if rep.joined == 0.0 {
            rep.joined = rng.random_range(0.75..0.95);
            rep.skill += NEW_REP_SKILL;
            rep.share *= 0.6;
        }
    }
    reps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_each_pipeline_add_up_to_one() {
        for pipeline in &PIPELINES {
            let sum: f64 = pipeline.stages.iter().map(|stage| stage.weight).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{}", pipeline.name);
        }
    }

    #[test]
    fn every_currency_has_a_rate() {
        for (currency, _) in REGIONS.iter().flat_map(|region| region.currencies) {
            assert!(EUR_PER_UNIT.iter().any(|(known, _)| known == currency));
        }
    }
}

//! Amounts, currencies and the dated rate table that brings them to one base currency.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::civil::Date;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};

/// Largest amount taken, in units of its currency; beyond it a typing error is likelier than a deal.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// A three-letter ISO 4217 code in capitals. Whether a rate for it is known is [`Exchange`]'s matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII letters only")
    }
}

impl FromStr for Currency {
    type Err = String;

    fn from_str(code: &str) -> Result<Self, String> {
        let code = code.trim();
        match <[u8; 3]>::try_from(code.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_alphabetic) => {
                Ok(Self(bytes.map(|b| b.to_ascii_uppercase())))
            }
            _ => Err(format!(
                "`{}` is not a three-letter currency code",
                code.escape_debug()
            )),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = String;

    fn try_from(code: String) -> Result<Self, String> {
        code.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.to_string()
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads an amount in plain decimal notation (`1200`, `1200.50`, `1.2e3`).
///
/// # Errors
/// When it is not a number, negative, or above [`AMOUNT_MAX`].
pub fn parse_amount(text: &str) -> Result<Decimal, String> {
    let text = text.trim();
    let amount = Decimal::from_str(text)
        .or_else(|_| Decimal::from_scientific(text))
        .map_err(|_| format!("`{}` is not an amount", text.escape_debug()))?;
    check_amount(amount)
}

/// # Errors
/// When the amount is negative or above [`AMOUNT_MAX`].
pub fn check_amount(amount: Decimal) -> Result<Decimal, String> {
    if amount.is_sign_negative() && !amount.is_zero() {
        return Err(format!("an amount may not be negative, but is {amount}"));
    }
    if amount > Decimal::from(AMOUNT_MAX) {
        return Err(format!(
            "an amount may be at most {AMOUNT_MAX}, but is {amount}"
        ));
    }
    Ok(amount.abs().normalize())
}

/// What one unit of a currency is worth in the base currency, from a day on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub currency: Currency,
    /// First day on which the rate holds; it holds until the next one of the same currency.
    pub from: Date,
    /// Units of the base currency for one unit of `currency`.
    pub rate: Decimal,
}

/// The dated rate table: converts an amount to the base currency as of a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ExchangeTable", into = "ExchangeTable")]
pub struct Exchange {
    base: Currency,
    rates: BTreeMap<(Currency, Date), Decimal>,
}

#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct ExchangeTable {
    base: Currency,
    #[serde(default)]
    rates: Vec<Rate>,
}

impl Exchange {
    /// # Errors
    /// When a rate is not positive, or a currency has two rates from the same day.
    pub fn new(base: Currency, table: impl IntoIterator<Item = Rate>) -> Result<Self, String> {
        let mut rates = BTreeMap::new();
        for Rate {
            currency,
            from,
            rate,
        } in table
        {
            if rate <= Decimal::ZERO {
                return Err(format!(
                    "the rate of {currency} from {from} must be positive"
                ));
            }
            if currency == base && rate != Decimal::ONE {
                return Err(format!(
                    "{base} is the base currency: its rate is 1, not {rate}"
                ));
            }
            if rates.insert((currency, from), rate).is_some() {
                return Err(format!("{currency} has two rates from {from}"));
            }
        }
        Ok(Self { base, rates })
    }

    /// Only the base currency, no rates.
    pub fn only(base: Currency) -> Self {
        Self {
            base,
            rates: BTreeMap::new(),
        }
    }

    pub fn base(&self) -> Currency {
        self.base
    }

    /// Units of the base currency for one unit of `currency` on `day`: the newest rate that started
    /// on or before it. `None` when there is none; a wrong number would be worse than no number.
    pub fn rate(&self, currency: Currency, day: Date) -> Option<Decimal> {
        if currency == self.base {
            return Some(Decimal::ONE);
        }
        self.rates
            .range((currency, Date::MIN)..=(currency, day))
            .next_back()
            .map(|(_, rate)| *rate)
    }

    /// `amount` in the base currency on `day`; no currency means the base currency.
    pub fn to_base(&self, amount: Decimal, currency: Option<Currency>, day: Date) -> Option<f64> {
        let rate = self.rate(currency.unwrap_or(self.base), day)?;
        amount.checked_mul(rate)?.to_f64()
    }
}

impl TryFrom<ExchangeTable> for Exchange {
    type Error = String;

    fn try_from(table: ExchangeTable) -> Result<Self, String> {
        Self::new(table.base, table.rates)
    }
}

impl From<Exchange> for ExchangeTable {
    fn from(exchange: Exchange) -> Self {
        Self {
            base: exchange.base,
            rates: exchange
                .rates
                .into_iter()
                .map(|((currency, from), rate)| Rate {
                    currency,
                    from,
                    rate,
                })
                .collect(),
        }
    }
}

/// A number with a comma after each three digits: `12,345.60`.
pub fn grouped(number: f64, decimals: usize) -> String {
    let plain = format!("{:.decimals$}", number.abs());
    let (whole, fraction) = match plain.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (plain.as_str(), None),
    };
    let mut text = String::with_capacity(plain.len() + plain.len() / 3);
    let is_zero = plain.bytes().all(|b| b == b'0' || b == b'.');
    if number < 0.0 && !is_zero {
        text.push('\u{2212}');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(fraction) = fraction {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(from: &str, rate: &str) -> Rate {
        Rate {
            currency: "usd".parse().unwrap(),
            from: from.parse().unwrap(),
            rate: rate.parse().unwrap(),
        }
    }

    #[test]
    fn the_newest_rate_that_has_started_holds() {
        let exchange = Exchange::new(
            "EUR".parse().unwrap(),
            [usd("2026-01-01", "0.9"), usd("2026-07-01", "0.8")],
        )
        .unwrap();
        let hundred = Decimal::from(100);
        let on = |day: &str| {
            exchange.to_base(hundred, Some("USD".parse().unwrap()), day.parse().unwrap())
        };
        assert_eq!(on("2025-12-31"), None);
        assert_eq!(on("2026-06-30"), Some(90.0));
        assert_eq!(on("2026-07-01"), Some(80.0));
        assert_eq!(
            exchange.to_base(hundred, None, Date::MIN),
            Some(100.0),
            "no currency is the base currency"
        );
    }

    #[test]
    fn amounts_outside_the_possible_are_refused() {
        assert!(parse_amount("-1").unwrap_err().contains("negative"));
        assert!(parse_amount("1e13").unwrap_err().contains("at most"));
        assert!(parse_amount("NaN").is_err());
        assert_eq!(parse_amount("1.2e3").unwrap(), Decimal::from(1200));
        assert_eq!(parse_amount("-0").unwrap(), Decimal::ZERO);
    }

    #[test]
    fn a_rate_table_is_checked() {
        let eur: Currency = "EUR".parse().unwrap();
        assert!(Exchange::new(eur, [usd("2026-01-01", "0")]).is_err());
        assert!(Exchange::new(eur, [usd("2026-01-01", "1"), usd("2026-01-01", "2")]).is_err());
        assert!("EURO".parse::<Currency>().is_err());
    }
}

//! Further attributes, for tests of size: numbers, categories and booleans, most of them noise.

use rand::{Rng, RngExt};

use super::opening::Opening;
use super::world::normal;
use crate::domain::AttributeValue;

/// Every eighth column has an effect, of at most this much per standard deviation.
const WEAK_EFFECT: f64 = 0.12;
const MISSING_SHARE: f64 = 0.05;

/// Name of the further attribute `index`; the names sort as the indices do.
pub fn name(index: u32) -> String {
    format!("extra_{:03}", index + 1)
}

/// Draws `columns` further attributes into the deal.
pub fn draw(rng: &mut impl Rng, columns: u32, opening: &mut Opening) {
    for index in 0..columns {
        let slope = match index % 16 {
            3 => WEAK_EFFECT,
            11 => -WEAK_EFFECT,
            _ => 0.0,
        };
        let (value, position) = draw_value(rng, index);
        if !rng.random_bool(MISSING_SHARE) {
            opening.extend(name(index), value, slope * position);
        }
    }
}

/// A value and where it lies among its like, with mean about 0 and standard deviation about 1.
fn draw_value(rng: &mut impl Rng, index: u32) -> (AttributeValue, f64) {
    match index % 10 {
        0..=4 => {
            let scale = 10_f64.powi(i32::from((index % 4) as u8));
            let value = (normal(rng) * scale * 100.0).round() / 100.0;
            (AttributeValue::Number(value), value / scale)
        }
        5..=7 => {
            let levels = 3 + index % 9;
            let level = rng.random_range(0..levels);
            let letter = char::from(b'A' + level as u8);
            let middle = f64::from(levels - 1) / 2.0;
            let position = (f64::from(level) - middle) / middle.max(1.0);
            (AttributeValue::Text(format!("Type {letter}")), position)
        }
        _ => {
            let value = rng.random_bool(0.5);
            (AttributeValue::Bool(value), if value { 1.0 } else { -1.0 })
        }
    }
}

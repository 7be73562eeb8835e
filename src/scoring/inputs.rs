//! What a score is computed from, in a few digits: two scores of one model with the same hash say the
//! same, whenever they were computed.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::Scorer;
use crate::domain::{Deal, Snapshot};
use crate::features::Reading;

/// Bytes of the digest that are kept.
const HASH_BYTES: usize = 16;

impl Scorer {
    /// The amount in the base currency on the day of the snapshot; `None` without amount or rate.
    pub fn base_amount(&self, snapshot: &Snapshot) -> Option<f64> {
        let day = TimeZone::UTC.to_datetime(snapshot.moment()).date();
        let amount = snapshot.amount()?;
        self.exchange.to_base(amount, snapshot.currency(), day)
    }

    /// A hash of all inputs of [`Self::score`] but the model: what each of the model's columns reads,
    /// in their order, then the amount, its currency, the base currency, and the amount in the base
    /// currency, which stands for the rate. 32 hexadecimal digits of a SHA-256.
    pub fn inputs_hash(&self, deal: &Deal, at: Timestamp) -> String {
        let snapshot = Snapshot::at(deal, at);
        let mut hash = Inputs(Sha256::new());
        for (column, ready) in self.model.columns.iter().zip(self.columns.iter()) {
            hash.text(&column.name);
            hash.reading(&ready.reader.read(&snapshot, &self.model.exchange));
        }
        let or_nothing = |value: Option<String>| value.unwrap_or_default();
        hash.text(&or_nothing(snapshot.amount().map(|a| a.to_string())));
        hash.text(&or_nothing(snapshot.currency().map(|c| c.to_string())));
        hash.text(&self.exchange.base().to_string());
        match self.base_amount(&snapshot) {
            Some(amount) => hash.reading(&Reading::Number(amount)),
            None => hash.reading(&Reading::Missing),
        }
        let digest = hash.0.finalize();
        digest[..HASH_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Each input with its kind and length, so that no two lists of inputs run together to the same bytes.
struct Inputs(Sha256);

impl Inputs {
    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn reading(&mut self, reading: &Reading) {
        match reading {
            Reading::Missing => self.0.update([0]),
            Reading::Number(number) => {
                self.0.update([1]);
                self.0.update(number.to_bits().to_le_bytes());
            }
            Reading::Text(text) => {
                self.0.update([2]);
                self.text(text);
            }
            Reading::Unreadable(text) => {
                self.0.update([3]);
                self.text(text);
            }
        }
    }
}

//! The opaque cursor: where a page ended, and of which question, in base64url JSON.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::accelerator::Moment;
use super::query::RankingQuery;
use crate::domain::DealId;
use crate::error::{Error, Result};

/// Longest cursor that is looked at; ours are shorter.
const CURSOR_BYTES_MAX: usize = 1000;

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    #[serde(rename = "g")]
    pub generation: i64,
    /// The ranking is read as it stood at this number of the global sequence.
    #[serde(rename = "s")]
    pub seq: i64,
    /// The first page's present, for sorts and filters that count days.
    #[serde(rename = "t")]
    pub at: Timestamp,
    #[serde(rename = "k")]
    pub rank: f64,
    #[serde(rename = "d")]
    pub deal_id: DealId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    q: String,
    p: Position,
}

impl Position {
    pub fn moment(&self) -> Moment {
        Moment {
            generation: self.generation,
            seq: self.seq,
        }
    }

    pub fn encode(&self, query: &RankingQuery) -> String {
        let cursor = Cursor {
            q: fingerprint(query),
            p: self.clone(),
        };
        let json = serde_json::to_vec(&cursor).expect("numbers, texts and times are JSON");
        BASE64_URL_SAFE_NO_PAD.encode(json)
    }

    /// # Errors
    /// `Invalid` when the text is not a cursor of ours, or one of another sort or other filters.
    pub fn decode(text: &str, query: &RankingQuery) -> Result<Self> {
        let foreign = || Error::invalid("cursor", "is not a cursor of this service");
        if text.len() > CURSOR_BYTES_MAX {
            return Err(foreign());
        }
        let json = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| foreign())?;
        let cursor: Cursor = serde_json::from_slice(&json).map_err(|_| foreign())?;
        if cursor.q != fingerprint(query) {
            return Err(Error::invalid(
                "cursor",
                "belongs to another sort or other filters; start again from the first page",
            ));
        }
        Ok(cursor.p)
    }
}

/// Tells questions apart; the length of a page may change on the way.
fn fingerprint(query: &RankingQuery) -> String {
    let question = RankingQuery {
        limit: 0,
        ..query.clone()
    };
    let json = serde_json::to_vec(&question).expect("a checked query is JSON");
    let hash = Sha256::digest(json);
    BASE64_URL_SAFE_NO_PAD.encode(&hash[..9])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::Sort;

    fn position() -> Position {
        Position {
            generation: 3,
            seq: 1_234_567,
            at: "2026-11-23T12:00:00.123456789Z".parse().unwrap(),
            rank: -0.1 - 0.2,
            deal_id: DealId::new("Ärger/17").unwrap(),
        }
    }

    #[test]
    fn a_cursor_reads_back_bit_for_bit() {
        let query = RankingQuery::default();
        let text = position().encode(&query);
        assert!(text.is_ascii() && !text.contains(['+', '/', '=']));
        let back = Position::decode(&text, &query).unwrap();
        assert_eq!(back, position());
        assert_eq!(back.rank.to_bits(), position().rank.to_bits());
    }

    #[test]
    fn a_cursor_serves_its_question_alone() {
        let text = position().encode(&RankingQuery::default());
        let longer_pages = RankingQuery {
            limit: 200,
            ..RankingQuery::default()
        };
        assert!(Position::decode(&text, &longer_pages).is_ok());
        let other_sort = RankingQuery {
            sort: Sort::Amount,
            ..RankingQuery::default()
        };
        let other_filter = RankingQuery {
            owner: Some("eve".into()),
            ..RankingQuery::default()
        };
        for other in [other_sort, other_filter] {
            let error = Position::decode(&text, &other).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_invalid() {
        let long = "A".repeat(10_000_000);
        for text in ["", "!", "e30", "bnVsbA", "💥", &long] {
            let error = Position::decode(text, &RankingQuery::default()).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error}");
        }
    }
}

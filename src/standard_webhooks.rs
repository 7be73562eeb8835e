//! Standard Webhooks: how a message is signed, and how a signature is checked. Pure.
//!
//! Signed is `{id}.{timestamp}.{body}` with HMAC-SHA256. The header `webhook-signature` holds one or
//! more signatures, `v1,` and base64, with spaces between them: one per key while a key is replaced.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

pub const ID_HEADER: &str = "webhook-id";
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// How far the clocks of sender and receiver may be apart.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

const KEY_PREFIX: &str = "whsec_";
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;
const KEY_BYTES_NEW: usize = 32;

/// Signatures of one header that are looked at: more than two keys are never in use.
const SIGNATURES_MAX: usize = 10;

/// A symmetric key. It is shown by [`Key::reveal`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// A new key that nobody knows.
    pub fn random() -> Self {
        Self(rand::random::<[u8; KEY_BYTES_NEW]>().to_vec())
    }

    /// The key as people exchange it: `whsec_` and base64.
    pub fn reveal(&self) -> String {
        format!("{KEY_PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The signature of a message, `v1,` and base64; `timestamp` in seconds.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let code = self.code(id, timestamp, body).finalize().into_bytes();
        format!("v1,{}", BASE64.encode(code))
    }

    fn code(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut code =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        code.update(format!("{id}.{timestamp}.").as_bytes());
        code.update(body);
        code
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let base64 = text
            .strip_prefix(KEY_PREFIX)
            .ok_or_else(|| format!("must be `{KEY_PREFIX}` and base64"))?;
        let key = BASE64
            .decode(base64)
            .map_err(|_| format!("is not base64 after `{KEY_PREFIX}`"))?;
        if (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(format!(
                "must be {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, but is {}",
                key.len()
            ))
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The three headers of a message.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
}

/// Why a message is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the header {TIMESTAMP_HEADER} is not a number of seconds")]
    UnreadableTimestamp,
    #[error("the header {TIMESTAMP_HEADER} is more than 5 minutes off")]
    TimestampOff,
    #[error("no signature in {SIGNATURE_HEADER} fits")]
    WrongSignature,
}

/// Checks that a message was signed with one of `keys`, and lately. `body` is what came, byte by byte.
///
/// # Errors
/// [`Refused`]. The time that the comparison takes says nothing about the keys.
pub fn verify(
    keys: &[Key],
    headers: Headers<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Refused> {
    let seconds: i64 = headers
        .timestamp
        .parse()
        .map_err(|_| Refused::UnreadableTimestamp)?;
    let at = Timestamp::from_second(seconds).map_err(|_| Refused::UnreadableTimestamp)?;
    if now.duration_since(at).abs() > TOLERANCE {
        return Err(Refused::TimestampOff);
    }
    let given: Vec<Vec<u8>> = headers
        .signature
        .split_ascii_whitespace()
        .take(SIGNATURES_MAX)
        .filter_map(|signature| BASE64.decode(signature.strip_prefix("v1,")?).ok())
        .collect();
    let fits = |key: &Key| {
        let code = key.code(headers.id, seconds, body);
        given
            .iter()
            .any(|given| code.clone().verify_slice(given).is_ok())
    };
    match keys.iter().any(fits) {
        true => Ok(()),
        false => Err(Refused::WrongSignature),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the Standard Webhooks libraries publish.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn check(key: &str, signature: &str, body: &[u8], now: i64) -> Result<(), Refused> {
        let timestamp = TIMESTAMP.to_string();
        let headers = Headers {
            id: ID,
            timestamp: &timestamp,
            signature,
        };
        verify(&[key.parse().unwrap()], headers, body, at(now))
    }

    #[test]
    fn the_published_vector_is_signed_and_believed() {
        let key: Key = KEY.parse().unwrap();
        assert_eq!(key.sign(ID, TIMESTAMP, BODY), SIGNATURE);
        assert_eq!(check(KEY, SIGNATURE, BODY, TIMESTAMP), Ok(()));
    }

    #[test]
    fn what_was_altered_is_not_believed() {
        let wrong = Err(Refused::WrongSignature);
        let altered = SIGNATURE.replace("g0hM", "g0hN");
        let newer = SIGNATURE.replace("v1,", "v2,");
        let other_key = Key::random().reveal();
        assert_eq!(check(KEY, &altered, BODY, TIMESTAMP), wrong);
        assert_eq!(check(KEY, &newer, BODY, TIMESTAMP), wrong);
        assert_eq!(check(KEY, "", BODY, TIMESTAMP), wrong);
        assert_eq!(check(KEY, SIGNATURE, b"{}", TIMESTAMP), wrong);
        assert_eq!(check(&other_key, SIGNATURE, BODY, TIMESTAMP), wrong);
    }

    #[test]
    fn a_message_of_another_time_is_not_believed() {
        for off in [-301, 301] {
            let now = TIMESTAMP + off;
            assert_eq!(check(KEY, SIGNATURE, BODY, now), Err(Refused::TimestampOff));
        }
        for off in [-300, 300] {
            assert_eq!(check(KEY, SIGNATURE, BODY, TIMESTAMP + off), Ok(()));
        }
    }

    #[test]
    fn while_a_key_is_replaced_either_is_believed() {
        let (old, new) = (Key::random(), Key::random());
        let both = [&old, &new].map(|key| key.sign(ID, TIMESTAMP, BODY));
        for key in [&old, &new] {
            let revealed = key.reveal();
            let both = both.join(" ");
            assert_eq!(check(&revealed, &both, BODY, TIMESTAMP), Ok(()));
        }
    }

    #[test]
    fn a_key_is_read_back_and_never_printed() {
        let key = Key::random();
        assert_eq!(key.reveal().parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "Key(..)");
        for bad in ["", "whsec_", "whsec_!", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwj"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}

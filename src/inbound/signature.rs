//! Whether a delivery comes from who it says: keyed hashes over its raw bytes, compared in constant
//! time, each key that is configured tried in turn.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Delivery;
use super::settings::Secret;
use crate::standard_webhooks::TOLERANCE;

/// Why a delivery is not taken for authentic. Says what was wrong, never what would have been right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the header `{0}` is missing")]
    MissingHeader(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the header `{0}` cannot be read")]
    UnreadableHeader(&'static str),
    #[error("the time in the signature is more than 5 minutes away from now")]
    Stale,
    #[error("the signature is not by any of the configured secrets")]
    Mismatch,
}

/// Whether a time in a signature is near enough to now, in either direction.
///
/// # Errors
/// `Stale`.
pub fn check_time(at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if at.duration_since(now).abs() > TOLERANCE {
        return Err(Refusal::Stale);
    }
    Ok(())
}

/// Whether a secret that was sent along is one of those configured.
pub fn is_one_of(secrets: &[Secret], given: &[u8]) -> bool {
    // All are compared, so that the time tells nothing about which one it was.
    secrets.iter().fold(false, |found, secret| {
        found | bool::from(secret.as_bytes().ct_eq(given))
    })
}

/// `Ok` if one of the secrets passes.
///
/// # Errors
/// `Mismatch`.
pub fn any(secrets: &[Secret], is_right: impl Fn(&Secret) -> bool) -> Result<(), Refusal> {
    secrets
        .iter()
        .any(is_right)
        .then_some(())
        .ok_or(Refusal::Mismatch)
}

/// Whether `given` is the HMAC-SHA256 of the parts, one after the other.
pub fn is_hmac(key: &[u8], parts: &[&[u8]], given: &[u8]) -> bool {
    // A key may have any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return false;
    };
    for part in parts {
        mac.update(part);
    }
    mac.verify_slice(given).is_ok()
}

/// Hexadecimal digits as bytes.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .trim()
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// A SHA-256 in hexadecimal digits.
pub fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HubSpot's signatures: version 3 where there is one, else the older ones.
///
/// # Errors
/// See [`Refusal`].
pub fn hubspot(delivery: &Delivery, secrets: &[Secret], now: Timestamp) -> Result<(), Refusal> {
    if let Some(given) = delivery.header("x-hubspot-signature-v3") {
        let stamp = delivery.required("x-hubspot-request-timestamp")?;
        return hubspot_v3(delivery, secrets, stamp, given, now);
    }
    let given = delivery.required("x-hubspot-signature")?;
    let given = hex(given).ok_or(Refusal::UnreadableHeader("x-hubspot-signature"))?;
    let version = delivery.header("x-hubspot-signature-version");
    let body = &delivery.body[..];
    any(secrets, |secret| {
        let computed = match version {
            Some("v2") => Sha256::new()
                .chain_update(secret.as_bytes())
                .chain_update(&delivery.method)
                .chain_update(&delivery.url)
                .chain_update(body),
            _ => Sha256::new()
                .chain_update(secret.as_bytes())
                .chain_update(body),
        };
        computed.finalize().as_slice().ct_eq(&given).into()
    })
}

fn hubspot_v3(
    delivery: &Delivery,
    secrets: &[Secret],
    stamp: &str,
    given: &str,
    now: Timestamp,
) -> Result<(), Refusal> {
    let unreadable = Refusal::UnreadableHeader("x-hubspot-request-timestamp");
    let millis = stamp.parse().map_err(|_| unreadable.clone())?;
    check_time(
        Timestamp::from_millisecond(millis).map_err(|_| unreadable)?,
        now,
    )?;
    let given = STANDARD
        .decode(given)
        .map_err(|_| Refusal::UnreadableHeader("x-hubspot-signature-v3"))?;
    let url = hubspot_url(&delivery.url);
    let parts = [
        delivery.method.as_bytes(),
        url.as_bytes(),
        &delivery.body[..],
        stamp.as_bytes(),
    ];
    any(secrets, |secret| is_hmac(secret.as_bytes(), &parts, &given))
}

/// The URL as HubSpot signs it: these escapes undone, and no others.
fn hubspot_url(url: &str) -> String {
    const DECODED: [(&str, &str); 12] = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    let mut decoded = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(place) = rest.find('%') {
        let (before, escape) = rest.split_at(place);
        decoded.push_str(before);
        let known = escape.get(..3).and_then(|escape| {
            DECODED
                .iter()
                .find(|(encoded, _)| encoded.eq_ignore_ascii_case(escape))
        });
        match known {
            Some((encoded, plain)) => {
                decoded.push_str(plain);
                rest = &escape[encoded.len()..];
            }
            None => {
                decoded.push('%');
                rest = &escape[1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// `Authorization: Basic ...` with one of the secrets, each `user:password`.
///
/// # Errors
/// See [`Refusal`].
pub fn basic(delivery: &Delivery, secrets: &[Secret]) -> Result<(), Refusal> {
    let header = delivery.required("authorization")?;
    let unreadable = || Refusal::UnreadableHeader("authorization");
    let (scheme, given) = header.split_once(' ').ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(unreadable());
    }
    let given = STANDARD.decode(given.trim()).map_err(|_| unreadable())?;
    is_one_of(secrets, &given)
        .then_some(())
        .ok_or(Refusal::Mismatch)
}

/// The secret at the end of the URL, for senders that sign nothing.
///
/// # Errors
/// See [`Refusal`].
pub fn secret_url(delivery: &Delivery, secrets: &[Secret]) -> Result<(), Refusal> {
    let missing = Refusal::Missing("the secret at the end of the URL");
    let given = delivery.path_secret.as_deref().ok_or(missing)?;
    is_one_of(secrets, given.as_bytes())
        .then_some(())
        .ok_or(Refusal::Mismatch)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_strictly() {
        assert_eq!(hex("00fFa0"), Some(vec![0, 255, 160]));
        assert_eq!(hex("0"), None);
        assert_eq!(hex("zz"), None);
    }

    #[test]
    fn hubspot_undoes_some_escapes_and_leaves_others() {
        assert_eq!(
            hubspot_url("https://a/b?c=%3a%2F%20%25"),
            "https://a/b?c=:/%20%25"
        );
        assert_eq!(hubspot_url("a%"), "a%");
        assert_eq!(hubspot_url("a%3"), "a%3");
    }

    #[test]
    fn a_clock_forgives_in_both_directions_and_only_so_far() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        for seconds in [-300, 0, 300] {
            assert_eq!(
                check_time(now + SignedDuration::from_secs(seconds), now),
                Ok(())
            );
        }
        for seconds in [-301, 301] {
            let at = now + SignedDuration::from_secs(seconds);
            assert_eq!(check_time(at, now), Err(Refusal::Stale));
        }
    }
}

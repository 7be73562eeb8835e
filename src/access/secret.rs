//! What keys, links and sessions are known by: 32 random bytes, of which the store has the SHA-256 hash.
//!
//! Passwords need a slow, salted hash, since people choose them and machines can try them all. Nobody can
//! try 2^256 values, however fast each is hashed, and no two are alike: one SHA-256 is as good, and takes
//! no time at each request. It also is why looking a hash up needs no constant time: whoever measures how
//! far an index was followed learns about hashes, and cannot choose a secret with a hash of his liking.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const SECRET_BYTES: usize = 32;

/// What a secret is for. One is never taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Key,
    Link,
    Session,
}

impl Kind {
    /// Lets people, and tools that look for leaked secrets, see what it is.
    fn prefix(self) -> &'static str {
        match self {
            Self::Key => "drk_",
            Self::Link => "drl_",
            Self::Session => "drs_",
        }
    }
}

/// 32 bytes that nobody can guess. Shown by [`Secret::reveal`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    kind: Kind,
    bytes: [u8; SECRET_BYTES],
}

impl Secret {
    pub fn random(kind: Kind) -> Self {
        let bytes = rand::random();
        Self { kind, bytes }
    }

    /// Reads what [`Self::reveal`] wrote; spaces around it do not matter.
    pub fn parse(kind: Kind, text: &str) -> Option<Self> {
        let bytes = BASE64
            .decode(text.trim().strip_prefix(kind.prefix())?)
            .ok()?;
        let bytes = bytes.try_into().ok()?;
        Some(Self { kind, bytes })
    }

    /// As it is handed out: a prefix and base64, fit for addresses.
    pub fn reveal(&self) -> String {
        format!("{}{}", self.kind.prefix(), BASE64.encode(self.bytes))
    }

    /// What the store keeps.
    pub fn hash(&self) -> [u8; SECRET_BYTES] {
        Sha256::digest(self.bytes).into()
    }

    /// A token for the forms of whoever has this secret, from which the secret cannot be told.
    pub fn csrf(&self) -> String {
        let mut code =
            Hmac::<Sha256>::new_from_slice(&self.bytes).expect("HMAC takes keys of every length");
        code.update(b"csrf");
        BASE64.encode(code.finalize().into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(..)", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_shown_and_only_as_what_it_is() {
        let key = Secret::random(Kind::Key);
        let shown = key.reveal();
        assert_eq!(shown.len(), 4 + 43);
        let read = Secret::parse(Kind::Key, &format!(" {shown}\n"));
        assert_eq!(read.as_ref(), Some(&key));
        assert_eq!(Secret::parse(Kind::Session, &shown), None);
        for wrong in ["", "drk_", "drk_AAAA", &shown[4..], &shown[..46]] {
            assert_eq!(Secret::parse(Kind::Key, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn neither_hash_nor_token_nor_debug_output_shows_it() {
        let session = Secret::random(Kind::Session);
        let shown = session.reveal();
        assert_ne!(session.hash(), session.bytes);
        assert!(!shown.contains(&session.csrf()));
        assert_eq!(format!("{session:?}"), "Session(..)");
        assert_ne!(session.csrf(), Secret::random(Kind::Session).csrf());
    }

    /// By `printf '' | ...` of coreutils: sha256 of 32 zero bytes.
    #[test]
    fn the_hash_is_sha_256() {
        let zero = Secret {
            kind: Kind::Key,
            bytes: [0; SECRET_BYTES],
        };
        let hex: String = zero.hash().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }
}

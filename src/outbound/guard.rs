//! Where messages may go. Whoever may subscribe must not make this machine speak to its neighbours
//! (server-side request forgery): targets are public addresses unless the settings allow a network.
//!
//! What counts is the address that is connected to, so it is looked at when the name is resolved for
//! the connection: a name that meant another address a moment ago gains nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use reqwest::Url;
use reqwest::dns::{Name, Resolve, Resolving};
use serde::Deserialize;

/// Longest target, in bytes.
pub const URL_BYTES_MAX: usize = 2000;

/// The addresses that begin with the same bits: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, bits) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (
                u128::from(ours.to_bits()),
                u128::from(theirs.to_bits()),
                Ipv4Addr::BITS,
            ),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits(), theirs.to_bits(), Ipv6Addr::BITS)
            }
            _ => return false,
        };
        let differing = ours ^ theirs;
        differing.checked_shr(bits - self.prefix_bits).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is no network such as `10.0.0.0/8` or `fd00::/8`");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let bits_max = match address {
            IpAddr::V4(_) => Ipv4Addr::BITS,
            IpAddr::V6(_) => Ipv6Addr::BITS,
        };
        let prefix_bits = match bits {
            Some(bits) => bits.parse().map_err(|_| expected())?,
            None => bits_max,
        };
        if prefix_bits > bits_max {
            return Err(expected());
        }
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Why a target is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    pub host: String,
    pub address: IpAddr,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is the address {}, which is not public and not in outbound.private_networks_allowed",
            self.host, self.address
        )
    }
}

impl std::error::Error for Forbidden {}

/// Which targets are taken.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    pub networks_allowed: Vec<Network>,
    pub is_http_allowed: bool,
}

impl Guard {
    /// Reads a target, and looks at what can be known without asking the network.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn target(&self, text: &str) -> Result<Url, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("must be at most {URL_BYTES_MAX} bytes long"));
        }
        let url: Url = text.parse().map_err(|e| format!("is no URL: {e}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.is_http_allowed => {}
            "http" => {
                return Err("must begin with https:// (outbound.https_required)".into());
            }
            _ => return Err("must begin with https://".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or a password: messages are signed".into());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment".into());
        }
        if url.host_str().is_none() || url.port() == Some(0) {
            return Err("needs a host, and no port 0".into());
        }
        self.check_literal(&url).map_err(|e| e.to_string())?;
        Ok(url)
    }

    /// Addresses in a URL are connected to without asking the resolver. Odd notations of them
    /// (`0x7f.1`, `2130706433`) were made plain when the URL was read.
    pub fn check_literal(&self, url: &Url) -> Result<(), Forbidden> {
        let Some(host) = url.host_str() else {
            return Ok(());
        };
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => self.check(host, address),
            Err(_) => Ok(()),
        }
    }

    /// Looks at the addresses that a name has this moment.
    ///
    /// # Errors
    /// [`Forbidden`] when there are some and none may be spoken to.
    pub async fn check_name(&self, url: &Url) -> Result<(), Forbidden> {
        let Some(host) = url.host_str() else {
            return Ok(());
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let Ok(found) = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await else {
            return Ok(());
        };
        let mut refused = None;
        for address in found {
            match self.check(host, address.ip()) {
                Ok(()) => return Ok(()),
                Err(forbidden) => refused = Some(forbidden),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        // What is written as IPv6 and connected to as IPv4 is judged as IPv4.
        let address = address.to_canonical();
        let is_allowed = || self.networks_allowed.iter().any(|n| n.contains(address));
        if is_public(address) || is_allowed() {
            Ok(())
        } else {
            Err(Forbidden {
                host: host.to_owned(),
                address,
            })
        }
    }
}

/// Resolves names for connections to targets: only to addresses that may be spoken to.
#[derive(Debug, Clone)]
pub struct GuardedResolver(pub Guard);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let mut addresses = Vec::new();
            let mut refused = None;
            for address in tokio::net::lookup_host((name.as_str(), 0)).await? {
                match guard.check(name.as_str(), address.ip()) {
                    Ok(()) => addresses.push(address),
                    Err(forbidden) => refused = Some(forbidden),
                }
            }
            match refused {
                Some(forbidden) if addresses.is_empty() => Err(forbidden.into()),
                _ => Ok(Box::new(addresses.into_iter()) as _),
            }
        })
    }
}

/// Whether an address is one of the whole internet, by the registries of special-purpose addresses
/// (RFC 6890 and its successors).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)          // this host, private, loopback, multicast, reserved
            | (100, 64..=127, _)                  // shared by carriers
            | (169, 254, _)                       // link-local, where clouds keep their secrets
            | (172, 16..=31, _)
            | (192, 0, 0)                         // protocols
            | (192, 0, 2) | (198, 51, 100) | (203, 0, 113) // documentation
            | (192, 88, 99)                       // relays of old
            | (192, 168, _)
            | (198, 18 | 19, _) // benchmarks
    );
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // An IPv4 address behind the well-known prefix of translators.
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(Ipv4Addr::from_bits(address.to_bits() as u32));
    }
    let is_global = segments[0] & 0xe000 == 0x2000;
    let is_special = match segments[0] {
        // Protocols, among them tunnels that end in IPv4.
        0x2001 => segments[1] < 0x200 || segments[1] == 0xdb8,
        0x2002 => true,
        0x3fff => segments[1] < 0x1000,
        _ => false,
    };
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(networks: &[&str]) -> Guard {
        Guard {
            networks_allowed: networks.iter().map(|n| n.parse().unwrap()).collect(),
            is_http_allowed: false,
        }
    }

    #[test]
    fn what_is_not_public_is_told_from_what_is() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = private.parse().unwrap();
            assert!(guard(&[]).check("host", address).is_err(), "{private}");
        }
        for public in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
        ] {
            let address: IpAddr = public.parse().unwrap();
            assert!(guard(&[]).check("host", address).is_ok(), "{public}");
        }
    }

    #[test]
    fn addresses_are_seen_through_odd_notations() {
        for url in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://2130706433/",
            "https://0/",
            "https://[::1]/",
            "https://[::ffff:7f00:1]/",
            "https://[0:0:0:0:0:ffff:127.0.0.1]:8443/",
            "https://１２７.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
        ] {
            let reason = guard(&[]).target(url).unwrap_err();
            assert!(reason.contains("not public"), "{url}: {reason}");
        }
        assert!(guard(&[]).target("https://1.1.1.1/hook").is_ok());
        assert!(guard(&[]).target("https://example.com/hook?a=b").is_ok());
    }

    #[test]
    fn a_target_is_plain_and_encrypted() {
        for (url, expected) in [
            ("http://example.com/", "https"),
            ("ftp://example.com/", "https"),
            ("file:///etc/passwd", "https"),
            ("example.com", "URL"),
            ("https://user@example.com/", "user"),
            ("https://:secret@example.com/", "password"),
            ("https://example.com/#part", "fragment"),
            ("https://example.com:0/", "port 0"),
        ] {
            let reason = guard(&[]).target(url).unwrap_err();
            assert!(reason.contains(expected), "{url}: {reason}");
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert!(guard(&[]).target(&long).is_err());
        let http = Guard {
            is_http_allowed: true,
            ..Guard::default()
        };
        assert!(http.target("http://example.com/").is_ok());
    }

    #[test]
    fn a_network_may_be_allowed_and_nothing_beside_it() {
        let guard = guard(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"]);
        let is_ok = |address: &str| guard.check("host", address.parse().unwrap()).is_ok();
        for allowed in ["10.1.2.3", "127.0.0.1", "::ffff:127.0.0.1", "fd01::1"] {
            assert!(is_ok(allowed), "{allowed}");
        }
        for other in ["10.2.0.1", "127.0.0.2", "169.254.169.254", "fe80::1"] {
            assert!(!is_ok(other), "{other}");
        }
        let everything: Network = "0.0.0.0/0".parse().unwrap();
        assert!(everything.contains("10.0.0.1".parse().unwrap()));
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/-1",
            "host",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_no_target() {
        let url: Url = "https://localhost/hook".parse().unwrap();
        assert!(guard(&[]).check_name(&url).await.is_err());
        let allowing = guard(&["127.0.0.0/8", "::1"]);
        assert!(allowing.check_name(&url).await.is_ok());
        let resolver = GuardedResolver(guard(&[]));
        let Err(error) = resolver.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost was resolved");
        };
        assert!(error.downcast_ref::<Forbidden>().is_some(), "{error}");
    }
}

//! Wrong keys are counted by the address that they come from. No number of guesses finds a key; this keeps
//! guessing from costing the store anything, and from filling the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond it the oldest are forgotten.
const ADDRESSES_MAX: u64 = 100_000;

#[derive(Debug)]
pub struct Throttle {
    failures: Cache<IpAddr, Arc<AtomicU32>>,
    failures_max: u32,
}

impl Throttle {
    pub fn new(failures_per_minute_max: u32) -> Self {
        let failures = Cache::builder()
            .max_capacity(ADDRESSES_MAX)
            .time_to_live(WINDOW)
            .build();
        Self {
            failures,
            failures_max: failures_per_minute_max,
        }
    }

    /// Whether an address has had its share of wrong keys this minute.
    pub fn is_spent(&self, address: IpAddr) -> bool {
        let failures = self.failures.get(&network(address));
        failures.is_some_and(|count| count.load(Ordering::Relaxed) >= self.failures_max)
    }

    /// Counts a wrong key. The minute begins with the first.
    pub fn failed(&self, address: IpAddr) {
        self.failures
            .get_with(network(address), Arc::default)
            .fetch_add(1, Ordering::Relaxed);
    }
}

/// Of IPv6 a household or a server has a whole network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_stopped_alone_and_with_its_network() {
        let throttle = Throttle::new(2);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        for guess in [
            "192.0.2.1",
            "2001:db8::1",
            "::ffff:192.0.2.1",
            "2001:db8::2:1",
        ] {
            assert!(!throttle.is_spent(address(guess)));
            throttle.failed(address(guess));
        }
        for spent in ["192.0.2.1", "2001:db8:0:0:ffff::"] {
            assert!(throttle.is_spent(address(spent)), "{spent}");
        }
        for other in ["192.0.2.2", "2001:db8:0:1::1"] {
            assert!(!throttle.is_spent(address(other)), "{other}");
        }
    }
}

//! When to try again, and when to leave a receiver alone. Pure.

use jiff::{SignedDuration, Timestamp};

/// The waits between the attempts at one delivery.
#[derive(Debug, Clone)]
pub struct RetrySchedule {
    /// After the first attempt, after the second, and so on; when they are used up, it is given up.
    pub waits: Vec<SignedDuration>,
    /// Each wait is longer by up to this share, so that many do not come back at once.
    pub jitter: f64,
    /// A receiver cannot put us off for longer.
    pub retry_after_max: SignedDuration,
}

impl RetrySchedule {
    /// When to try again after `attempts` that failed; `None` when it is time to give up. `luck` is
    /// from 0 to 1.
    pub fn next_at(
        &self,
        attempts: u32,
        retry_after: Option<SignedDuration>,
        now: Timestamp,
        luck: f64,
    ) -> Option<Timestamp> {
        let wait = self.waits.get(attempts.checked_sub(1)? as usize)?;
        let jitter = wait.mul_f64_saturating(self.jitter * luck);
        let wait = wait.saturating_add(jitter).max(self.asked(retry_after));
        Some(now.saturating_add(wait).unwrap_or(Timestamp::MAX))
    }

    /// How long a receiver wants to be left alone, within reason.
    pub fn asked(&self, retry_after: Option<SignedDuration>) -> SignedDuration {
        retry_after
            .unwrap_or(SignedDuration::ZERO)
            .min(self.retry_after_max)
    }
}

/// When a receiver fails again and again, it is left alone for a while; then one message goes out,
/// and if that arrives, the others follow.
#[derive(Debug, Clone, Copy)]
pub struct CircuitSettings {
    /// Failures in a row that open the circuit.
    pub failures_max: u32,
    /// How long it is open at first; twice as long each time that the one message failed.
    pub pause: SignedDuration,
    pub pause_max: SignedDuration,
}

/// How a receiver has done lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Circuit {
    pub failures_in_row: u32,
    /// Nothing is sent before.
    pub paused_until: Option<Timestamp>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Free,
    /// One, to see.
    One,
    Closed,
}

impl Circuit {
    pub fn passage(&self, settings: &CircuitSettings, now: Timestamp) -> Passage {
        if self.paused_until.is_some_and(|until| until > now) {
            Passage::Closed
        } else if self.failures_in_row >= settings.failures_max {
            Passage::One
        } else {
            Passage::Free
        }
    }

    pub fn is_open(&self, settings: &CircuitSettings) -> bool {
        self.failures_in_row >= settings.failures_max
    }

    pub fn after_success(self) -> Self {
        Self::default()
    }

    /// `asked` is how long the receiver wants to be left alone. What was under way when the circuit opened
    /// fails for the same reason, and says nothing new but for that.
    pub fn after_failure(
        self,
        settings: &CircuitSettings,
        asked: SignedDuration,
        now: Timestamp,
    ) -> Self {
        let until = |pause: SignedDuration| {
            (!pause.is_zero()).then(|| now.saturating_add(pause).unwrap_or(Timestamp::MAX))
        };
        if self.is_open(settings) && self.passage(settings, now) == Passage::Closed {
            return Self {
                paused_until: self.paused_until.max(until(asked)),
                ..self
            };
        }
        let failures_in_row = self.failures_in_row.saturating_add(1);
        let pause = match failures_in_row.checked_sub(settings.failures_max) {
            None => SignedDuration::ZERO,
            Some(doublings) => settings
                .pause
                .checked_mul(1 << doublings.min(20))
                .unwrap_or(settings.pause_max)
                .min(settings.pause_max),
        };
        Self {
            failures_in_row,
            // Of several that failed at once, the longest pause counts.
            paused_until: self.paused_until.max(until(pause.max(asked))),
        }
    }
}

/// Multiplication by a share, without overflow.
trait MulShare {
    fn mul_f64_saturating(&self, share: f64) -> SignedDuration;
}

impl MulShare for SignedDuration {
    fn mul_f64_saturating(&self, share: f64) -> SignedDuration {
        SignedDuration::try_from_secs_f64(self.as_secs_f64() * share).unwrap_or(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn schedule() -> RetrySchedule {
        RetrySchedule {
            waits: vec![SECOND * 5, SECOND * 300],
            jitter: 0.2,
            retry_after_max: SECOND * 3600,
        }
    }

    #[test]
    fn attempts_follow_the_schedule_and_end_with_it() {
        let wait = |attempts, luck| {
            let at = schedule().next_at(attempts, None, now(), luck);
            at.map(|at| at.duration_since(now()))
        };
        assert_eq!(wait(1, 0.0), Some(SECOND * 5));
        assert_eq!(wait(1, 1.0), Some(SECOND * 6));
        assert_eq!(wait(2, 0.5), Some(SECOND * 330));
        assert_eq!(wait(3, 0.0), None);
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_within_reason() {
        let wait = |asked| {
            let at = schedule().next_at(1, Some(asked), now(), 0.0).unwrap();
            at.duration_since(now())
        };
        assert_eq!(wait(SECOND), SECOND * 5);
        assert_eq!(wait(SECOND * 60), SECOND * 60);
        assert_eq!(wait(SECOND * 1_000_000), SECOND * 3600);
    }

    #[test]
    fn a_receiver_that_keeps_failing_is_left_alone_then_asked_once() {
        let settings = CircuitSettings {
            failures_max: 3,
            pause: SECOND * 60,
            pause_max: SECOND * 150,
        };
        let fail =
            |circuit: Circuit, at| circuit.after_failure(&settings, SignedDuration::ZERO, at);
        let mut at = now();
        let mut circuit = Circuit::default();
        for _ in 0..2 {
            circuit = fail(circuit, at);
            assert_eq!(circuit.passage(&settings, at), Passage::Free);
        }
        for pause in [60, 120, 150, 150] {
            circuit = fail(circuit, at);
            assert_eq!(circuit.passage(&settings, at), Passage::Closed);
            at += SECOND * (pause - 1);
            assert_eq!(circuit.passage(&settings, at), Passage::Closed, "{pause}");
            at += SECOND;
            assert_eq!(circuit.passage(&settings, at), Passage::One);
        }
        assert!(circuit.is_open(&settings));
        assert_eq!(
            circuit.after_success().passage(&settings, at),
            Passage::Free
        );
    }

    #[test]
    fn messages_that_were_under_way_when_the_circuit_opened_do_not_lengthen_the_pause() {
        let settings = CircuitSettings {
            failures_max: 2,
            pause: SECOND * 60,
            pause_max: SECOND * 3600,
        };
        let fail = |circuit: Circuit, asked| circuit.after_failure(&settings, asked, now());
        let circuit = (0..8).fold(Circuit::default(), |c, _| fail(c, SignedDuration::ZERO));
        assert_eq!(circuit.paused_until, Some(now() + SECOND * 60));
        let circuit = fail(circuit, SECOND * 90);
        assert_eq!(circuit.paused_until, Some(now() + SECOND * 90));
        let later = now() + SECOND * 90;
        let circuit = circuit.after_failure(&settings, SignedDuration::ZERO, later);
        assert_eq!(circuit.paused_until, Some(later + SECOND * 120));
    }

    #[test]
    fn a_receiver_that_asks_for_time_gets_it_before_it_has_failed_often() {
        let settings = CircuitSettings {
            failures_max: 10,
            pause: SECOND,
            pause_max: SECOND,
        };
        let circuit = Circuit::default().after_failure(&settings, SECOND * 30, now());
        assert_eq!(circuit.passage(&settings, now()), Passage::Closed);
        let later = now() + SECOND * 30;
        assert_eq!(circuit.passage(&settings, later), Passage::Free);
    }
}

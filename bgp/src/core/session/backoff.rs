//! How long to wait before trying again: jitter, ConnectRetry and IdleHold.
//!
//! Two failures are told apart. A connection that does not come about (refused, timed out) costs
//! the peer nothing and is retried soon, ever later up to the configured ConnectRetryTime: nodes
//! that start one after another find each other within a second or two. A session that failed
//! after OPENs were exchanged is a broken peer, and the IdleHold pause doubles with each failure
//! until a session has stayed up.
//!
//! Randomness comes in as a seed; the same seed gives the same waits.

use std::time::Duration;

/// The wait before the second attempt to connect, and the first IdleHold pause.
pub const INITIAL_WAIT: Duration = Duration::from_secs(1);
/// The longest IdleHold pause.
pub const MAX_IDLE_HOLD: Duration = Duration::from_secs(60);
/// How long a session must have been up for its failure to count as the first.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);
/// The pause after a session that we ended for a reason of our own, such as a reset by hand.
pub const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// Pseudo-random numbers for jitter (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// A generator that repeats itself for an equal seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 75 to 100 % of `duration` (RFC 4271 §10).
    pub fn reduce(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(0.75 + 0.25 * (self.draw() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// The least that [`reduce`](Self::reduce) gives.
    #[must_use]
    pub fn least(duration: Duration) -> Duration {
        duration * 3 / 4
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A wait that doubles from [`INITIAL_WAIT`] to a limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and gives the wait that follows it, before jitter.
    pub fn fail(&mut self, limit: Duration) -> Duration {
        let wait = self.peek(limit);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// The wait that would follow a failure now.
    #[must_use]
    pub fn peek(&self, limit: Duration) -> Duration {
        INITIAL_WAIT.saturating_mul(1 << self.failures.min(16)).min(limit)
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bounds_and_repeats() {
        let (mut one, mut two) = (Jitter::new(7), Jitter::new(7));
        let minute = Duration::from_secs(60);
        let drawn: Vec<_> = (0..10_000).map(|_| one.reduce(minute)).collect();
        assert!(drawn.iter().all(|wait| (Duration::from_secs(45)..=minute).contains(wait)));
        assert!(drawn.iter().any(|wait| *wait < Duration::from_secs(46)));
        assert!(drawn.iter().any(|wait| *wait > Duration::from_secs(59)));
        assert!(drawn.iter().all(|wait| *wait == two.reduce(minute)));
    }

    #[test]
    fn backoff_doubles_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.fail(MAX_IDLE_HOLD).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.fail(MAX_IDLE_HOLD), INITIAL_WAIT);
        // A limit below the first wait is a limit all the same.
        assert_eq!(Backoff::default().fail(Duration::from_millis(200)), Duration::from_millis(200));
        let mut worn = Backoff { failures: u32::MAX };
        assert_eq!(worn.fail(MAX_IDLE_HOLD), MAX_IDLE_HOLD);
    }
}

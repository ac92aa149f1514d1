//! How long it takes from the speaker's decision to the kernel's acknowledgement.
//!
//! In flow: instants. Out flow: a [`Latency`] of fixed buckets. A route remembers when it was
//! decided on as a tick of four octets, not as an `Instant` of sixteen: there may be a million.

use std::time::{Duration, Instant};

/// One tick. Four octets of them last for 19 hours, then they wrap around: what has waited longer
/// than that (a next hop that was unreachable for days) is counted as less.
const TICK: Duration = Duration::from_micros(16);

/// Upper bounds of the buckets.
pub const BOUNDS: [Duration; 15] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// A histogram of times from the speaker's decision to the kernel's acknowledgement, one entry per
/// route written or removed for the speaker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Latency {
    /// Entries at most as long as the bound of the same place in [`BOUNDS`] and longer than the one
    /// before; the last place has those beyond all bounds.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All entries.
    pub count: u64,
    /// All times together.
    pub sum: Duration,
}

impl Latency {
    pub(super) fn add(&mut self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += took;
    }
}

/// Turns instants into ticks since a beginning of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    origin: Instant,
}

impl Ticks {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// Never 0.
    pub(super) fn of(self, at: Instant) -> u32 {
        let ticks = at.saturating_duration_since(self.origin).as_micros() / TICK.as_micros();
        // Wraps around on purpose; 0 means none.
        (ticks as u32).max(1)
    }

    /// From a tick until now.
    pub(super) fn since(self, tick: u32, now: Instant) -> Duration {
        TICK * self.of(now).wrapping_sub(tick).min(u32::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let mut latency = Latency::default();
        latency.add(Duration::ZERO);
        latency.add(Duration::from_micros(100));
        latency.add(Duration::from_micros(101));
        latency.add(Duration::from_secs(31));
        assert_eq!(latency.buckets[..3], [2, 1, 0]);
        assert_eq!(latency.buckets[BOUNDS.len()], 1);
        assert_eq!((latency.count, latency.buckets.iter().sum::<u64>()), (4, 4));
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn ticks_are_never_none_and_outlive_a_wrap() {
        let origin = tokio::time::Instant::now().into_std();
        let ticks = Ticks::new(origin);
        assert_eq!(ticks.of(origin), 1);
        let late = origin + TICK * (u32::MAX - 5);
        let took = ticks.since(ticks.of(late), late + Duration::from_millis(1));
        assert!((Duration::from_micros(980)..=Duration::from_micros(1020)).contains(&took));
    }
}

//! How soon something that others keep undoing is done again.
//!
//! What always holds: the first time it is soon; each further time within a minute of the last it
//! takes twice as long, up to a minute. Two programs that undo each other's work do not spin.

use std::time::{Duration, Instant};

/// Long enough for a program that deletes and adds in two steps to be through.
const SOON: Duration = Duration::from_millis(20);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RepairPace {
    due: Option<Instant>,
    last: Option<Instant>,
    wait: Duration,
}

impl RepairPace {
    /// Something is to be done; the first wish decides when.
    pub(crate) fn want(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let earliest = self.last.map_or(now, |last| last + self.wait);
        self.due = Some(earliest.max(now + SOON));
    }

    /// Something that is due at that time, whatever was before.
    pub(crate) fn due_at(due: Instant) -> Self {
        Self { due: Some(due), ..Self::default() }
    }

    /// It is not wanted any more, and was not done.
    pub(crate) fn skip(&mut self) {
        self.due = None;
    }

    /// When it is due, if it is wanted.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is due now; then it counts as done.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        self.wait = match self.last {
            Some(last) if now < last + LONGEST_WAIT + self.wait => {
                (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
            }
            _ => FIRST_WAIT,
        };
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a moment to count from")]
mod tests {
    use super::*;

    #[test]
    fn whoever_keeps_undoing_it_waits_longer_each_time() {
        let mut now = Instant::now();
        let mut pace = RepairPace::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            pace.want(now);
            let due = pace.due().unwrap();
            waits.push(due.duration_since(now).as_millis());
            assert!(!pace.take(now));
            now = due;
            assert!(pace.take(now));
        }
        let seconds = [1, 2, 4, 8, 16, 32, 60, 60].map(|seconds| seconds * 1000);
        assert_eq!(waits[0], 20);
        assert_eq!(waits[1..], seconds);
        // After a quiet time it is soon again.
        now += Duration::from_secs(200);
        pace.want(now);
        assert_eq!(pace.due(), Some(now + SOON));
        pace.take(now + SOON);
        pace.want(now + SOON);
        assert_eq!(pace.due(), Some(now + SOON + FIRST_WAIT));
    }
}

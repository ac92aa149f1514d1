//! How long to wait before a route is put back or tried again.
//!
//! In flow: what happened to which route, and the time. Out flow: when to act. No clock in here.
//!
//! What always holds: the first loss is mended at once; who keeps deleting is answered ever more
//! slowly, up to once a second per route, so that a fight costs neither side its processor; a quiet
//! spell forgets.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

/// First wait after a second loss; doubles with each further one.
const REPAIR_FIRST: Duration = Duration::from_millis(10);
/// Longest wait before a route is put back.
const REPAIR_LONGEST: Duration = Duration::from_secs(1);
/// First wait after the kernel refused a route; doubles with each further refusal.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a refused route is tried again.
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// A quiet spell after which the past is forgotten.
const FORGET: Duration = Duration::from_secs(10);

/// The waits of all routes, by the reconciler's number.
#[derive(Default)]
pub(super) struct Holds {
    holds: HashMap<u32, Hold, FixedState>,
    /// One timer per hold: either its end, or when it is forgotten.
    timers: BTreeSet<(Instant, u32)>,
}

struct Hold {
    strikes: u32,
    timer: Instant,
    waiting: bool,
}

impl Holds {
    /// Somebody took the route away: `true` to put it back at once, else it comes out of
    /// [`Holds::due`] later.
    pub(super) fn lost(&mut self, id: u32, now: Instant) -> bool {
        match self.holds.get(&id).map_or(0, |hold| hold.strikes) {
            0 => {
                self.set(id, 1, now + FORGET, false);
                true
            }
            strikes => {
                let wait = doubled(REPAIR_FIRST, strikes - 1, REPAIR_LONGEST);
                self.set(id, strikes + 1, now + wait, true);
                false
            }
        }
    }

    /// The kernel refused the route: it comes out of [`Holds::due`] when it is to be tried again.
    pub(super) fn refused(&mut self, id: u32, now: Instant) {
        let strikes = self.holds.get(&id).map_or(0, |hold| hold.strikes);
        let wait = doubled(RETRY_FIRST, strikes, RETRY_LONGEST);
        self.set(id, strikes + 1, now + wait, true);
    }

    /// Whether the route waits.
    pub(super) fn waits(&self, id: u32) -> bool {
        self.holds.get(&id).is_some_and(|hold| hold.waiting)
    }

    /// Ends a wait before its time, because something has changed; the past is remembered.
    pub(super) fn release(&mut self, id: u32, now: Instant) {
        if let Some(hold) = self.holds.get(&id)
            && hold.waiting
        {
            self.set(id, hold.strikes, now + FORGET, false);
        }
    }

    /// Forgets a route that is no more.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(hold) = self.holds.remove(&id) {
            self.timers.remove(&(hold.timer, id));
        }
    }

    /// When [`Holds::due`] has something next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The routes whose wait is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let hold = self.holds.get_mut(&id).expect("a timer has its hold");
            if hold.waiting {
                hold.waiting = false;
                // From when it is put back, not from when it was lost.
                hold.timer = now + FORGET + REPAIR_LONGEST;
                self.timers.insert((hold.timer, id));
                due.push(id);
            } else {
                self.holds.remove(&id);
            }
        }
        due
    }

    fn set(&mut self, id: u32, strikes: u32, timer: Instant, waiting: bool) {
        if let Some(before) = self.holds.insert(id, Hold { strikes, timer, waiting }) {
            self.timers.remove(&(before.timer, id));
        }
        self.timers.insert((timer, id));
    }
}

/// Lets one line a second through and counts the others.
#[derive(Default)]
pub(super) struct LogGate {
    closed_until: Option<Instant>,
    suppressed: u64,
}

impl LogGate {
    /// `Some(lines left out since the last)` where a line may be written now.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.closed_until.is_some_and(|until| now < until) {
            self.suppressed += 1;
            return None;
        }
        self.closed_until = Some(now + Duration::from_secs(1));
        Some(std::mem::take(&mut self.suppressed))
    }

    /// When lines left out are to be told of, if any are.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.suppressed > 0 { self.closed_until } else { None }
    }

    /// The lines left out, when it is time.
    pub(super) fn flush(&mut self, now: Instant) -> Option<u64> {
        if self.suppressed == 0 || self.closed_until.is_some_and(|until| now < until) {
            return None;
        }
        self.closed_until = Some(now + Duration::from_secs(1));
        Some(std::mem::take(&mut self.suppressed))
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_first_loss_is_mended_at_once_and_further_ones_ever_later() {
        let mut holds = Holds::default();
        let mut now = start();
        assert!(holds.lost(7, now));
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert!(!holds.lost(7, now));
            assert!(holds.waits(7));
            let next = holds.next().unwrap();
            assert!(holds.due(next - Duration::from_nanos(1)).is_empty());
            assert_eq!(holds.due(next), [7]);
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    }

    #[test]
    fn a_quiet_spell_forgets() {
        let mut holds = Holds::default();
        let now = start();
        assert!(holds.lost(7, now));
        assert!(!holds.lost(7, now));
        assert_eq!(holds.due(now + REPAIR_FIRST), [7]);
        assert!(holds.due(now + FORGET * 2).is_empty());
        assert_eq!(holds.next(), None);
        assert!(holds.lost(7, now + FORGET * 2));
    }

    #[test]
    fn a_release_ends_the_wait_and_a_forgotten_route_has_no_timer() {
        let mut holds = Holds::default();
        let now = start();
        holds.refused(1, now);
        holds.refused(2, now);
        assert_eq!(holds.next(), Some(now + RETRY_FIRST));
        holds.release(1, now);
        holds.forget(2);
        assert!(!holds.waits(1) && !holds.waits(2));
        assert!(holds.due(now + RETRY_FIRST).is_empty());
        holds.refused(1, now);
        assert_eq!(holds.next(), Some(now + RETRY_FIRST * 2));
    }

    #[test]
    fn the_gate_counts_what_it_leaves_out() {
        let mut gate = LogGate::default();
        let now = start();
        assert_eq!(gate.admit(now), Some(0));
        assert_eq!(gate.admit(now), None);
        assert_eq!(gate.admit(now), None);
        assert_eq!(gate.flush(now), None);
        let next = gate.next().unwrap();
        assert_eq!(gate.flush(next), Some(2));
        assert_eq!(gate.next(), None);
    }
}

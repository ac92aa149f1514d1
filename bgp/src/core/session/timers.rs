//! Timers of a session: a table of instants, nothing that runs by itself.
//!
//! In: a timer is set to an instant or stopped. Out: the earliest instant, for whoever drives the
//! machine, and which timers are due. A timer that is due stays due until somebody sets or stops it.

use std::time::Instant;

/// The timers of RFC 4271 §8 that this speaker has, and the one of RFC 9687. DelayOpen and
/// MinRouteAdvertisementInterval are left out knowingly: both only make peers wait.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Timer {
    /// The next attempt to connect, or the end of the present one.
    ConnectRetry,
    /// The end of the pause after a failed session (RFC 4271 §8.1.1 DampPeerOscillations).
    IdleHold,
    /// Nothing was received for the hold time.
    Hold,
    /// Our next KEEPALIVE.
    Keepalive,
    /// The peer's end took nothing for the send hold time (RFC 9687).
    SendHold,
}

impl Timer {
    /// Every timer, in the order in which they are served when several are due.
    pub const ALL: [Self; 5] =
        [Self::Keepalive, Self::Hold, Self::SendHold, Self::ConnectRetry, Self::IdleHold];
}

/// When each timer expires, if it runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TimerTable {
    expiry: [Option<Instant>; 5],
}

impl TimerTable {
    /// Starts `timer`, or moves it.
    pub fn set(&mut self, timer: Timer, expiry: Instant) {
        self.expiry[timer as usize] = Some(expiry);
    }

    /// Stops `timer`; says whether it ran.
    pub fn stop(&mut self, timer: Timer) -> bool {
        self.expiry[timer as usize].take().is_some()
    }

    /// When `timer` expires, if it runs.
    #[must_use]
    pub fn expiry(&self, timer: Timer) -> Option<Instant> {
        self.expiry[timer as usize]
    }

    /// Whether `timer` runs and its time has come.
    #[must_use]
    pub fn is_due(&self, timer: Timer, now: Instant) -> bool {
        self.expiry(timer).is_some_and(|expiry| expiry <= now)
    }

    /// The first timer that is due.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Timer> {
        Timer::ALL.into_iter().find(|timer| self.is_due(*timer, now))
    }

    /// The earliest expiry of all that run.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.expiry.iter().flatten().min().copied()
    }
}

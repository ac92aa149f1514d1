//! One TCP connection of a peer, as the state machine sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use routelet_proto::{DecodeContext, Open};

use super::collision::Direction;
use super::timers::{Timer, TimerTable};
use crate::core::peer::{Negotiated, State};

/// Least send hold time (RFC 9687 §3).
const MIN_SEND_HOLD_TIME: Duration = Duration::from_secs(480);

/// Names a connection between the machine and its driver; never used again within a session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u32);

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoints {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Index of the interface the peer is on link of, else 0.
    pub interface: u32,
}

/// A connection, from the attempt to open it until it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) direction: Direction,
    /// Connect, OpenSent, OpenConfirm or Established.
    pub(super) state: State,
    pub(super) created: Instant,
    pub(super) established: Option<Instant>,
    /// Absent while connecting.
    pub(super) endpoints: Option<Endpoints>,
    /// Hold, Keepalive and SendHold.
    pub(super) timers: TimerTable,
    /// From when on our next KEEPALIVE may go with one of the peer's.
    pub(super) keepalive_from: Option<Instant>,
    /// What the hold timer restarts with; zero: it does not run.
    pub(super) hold_time: Duration,
    /// Nothing is read because the table does not keep up; silence proves nothing meanwhile.
    pub(super) read_paused: bool,
    pub(super) sent_open: Option<Open>,
    /// From the peer's OPEN on.
    pub(super) negotiated: Option<Arc<Negotiated>>,
    /// The peer's OPEN is good, but who stays is for the peer to say; see `resolve_collision`.
    pub(super) deferred: bool,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        direction: Direction,
        created: Instant,
        endpoints: Option<Endpoints>,
    ) -> Self {
        Self {
            id,
            direction,
            state: State::Connect,
            created,
            established: None,
            endpoints,
            timers: TimerTable::default(),
            keepalive_from: None,
            hold_time: Duration::ZERO,
            read_paused: false,
            sent_open: None,
            negotiated: None,
            deferred: false,
        }
    }

    /// How to read the next message.
    pub(super) fn decode_context(&self) -> DecodeContext {
        self.negotiated.as_ref().map_or_else(
            // Before the OPENs agree nothing but the base protocol can be meant.
            || DecodeContext { extended_message: false, ..DecodeContext::default() },
            |negotiated| negotiated.decode,
        )
    }

    pub(super) fn restart_hold(&mut self, now: Instant) {
        if self.deferred {
            // The timer bounds the wait for the peer to settle a collision, not its silence.
            return;
        }
        if self.hold_time.is_zero() {
            self.timers.stop(Timer::Hold);
        } else {
            self.timers.set(Timer::Hold, now + self.hold_time);
        }
    }

    pub(super) fn send_hold_time(&self) -> Duration {
        MIN_SEND_HOLD_TIME.max(2 * self.hold_time)
    }
}

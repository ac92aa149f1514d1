//! What a session shows of itself. A session that is not Established always says why.

use super::{Session, Timer};
use crate::core::peer::State;
use crate::core::view::SessionView;

impl Session {
    /// The session as users see it.
    #[must_use]
    pub fn view(&self) -> SessionView {
        let furthest = self.furthest();
        let connection_timer =
            |timer| furthest.and_then(|connection| connection.timers.expiry(timer));
        SessionView {
            config: self.config.clone(),
            state: self.state(),
            since: self.since,
            flaps: self.flaps,
            last_error: self.last_error.clone().or_else(|| {
                (self.state() != State::Established).then(|| (self.pending_words(), self.since))
            }),
            last_error_code: self.last_error_code,
            negotiated: furthest.and_then(|connection| connection.negotiated.clone()),
            endpoints: furthest
                .and_then(|connection| connection.endpoints)
                .map(|endpoints| (endpoints.local, endpoints.remote)),
            timers: [
                self.timers.expiry(Timer::ConnectRetry),
                connection_timer(Timer::Hold),
                connection_timer(Timer::Keepalive),
            ],
            counters: self.counters,
        }
    }

    /// Why a session that never failed is not up yet.
    fn pending_words(&self) -> String {
        let (address, port) = (self.config.address, self.config.port);
        match self.state() {
            State::Idle if !self.running => "disabled".to_owned(),
            State::Idle => "starting".to_owned(),
            State::Connect => format!("connecting to {address} port {port}"),
            State::Active if self.config.passive => {
                format!("waiting for {address} to connect (passive: we do not)")
            }
            State::Active => format!("waiting to connect to {address} port {port} again"),
            State::OpenSent => "connected, waiting for the peer's OPEN".to_owned(),
            State::OpenConfirm | State::Established => {
                "OPENs exchanged, waiting for the peer's KEEPALIVE".to_owned()
            }
        }
    }
}

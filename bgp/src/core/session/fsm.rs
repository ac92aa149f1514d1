//! The state machine of RFC 4271 §8.2.2: one function per state, one arm per event.
//!
//! In: an [`Event`] and the connection it concerns. Out: effects in the session's queue, timers
//! set, connections changed. Events that name a connection which is gone end here: a driver may
//! be late. Each arm is a cell of the table in `tests/table.rs`.

use std::time::{Duration, Instant};

use routelet_proto::{
    ErrorCode, Message, MessageError, Notification, Open, OpenSubcode, RouteRefresh, Update,
};

use super::backoff::{Jitter, SHORT_PAUSE};
use super::collision::Direction;
use super::connection::{Connection, ConnectionId, Endpoints};
use super::leave::After;
use super::{Output, Session, Stop, Timer, message_index};
use crate::core::peer::{DownReason, State};

/// The events of RFC 4271 §8.1 under its names, without DelayOpen's, and those of RFC 2918 and
/// RFC 9687. Whether a start is passive is the configuration's to say; events 14 and 15 belong to
/// the listener, which lets nobody but configured peers come this far.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Event 1 (and 4).
    ManualStart,
    /// Event 2.
    ManualStop(Stop),
    /// Event 3 (and 5 to 7).
    AutomaticStart,
    /// Event 8: what the peer is told, and why in words.
    AutomaticStop(Notification, String),
    /// Event 9.
    ConnectRetryTimerExpires,
    /// Event 10.
    HoldTimerExpires,
    /// Event 11.
    KeepaliveTimerExpires,
    /// Event 13.
    IdleHoldTimerExpires,
    /// RFC 9687 §3.
    SendHoldTimerExpires,
    /// Event 16: our connection is open.
    TcpCRAcked(Endpoints),
    /// Event 17: the peer's is.
    TcpConnectionConfirmed(Endpoints),
    /// Event 18.
    TcpConnectionFails(String),
    /// Event 19.
    BgpOpen(Box<Open>),
    /// Event 21.
    BgpHeaderErr(MessageError),
    /// Event 22.
    BgpOpenMsgErr(MessageError),
    /// Event 23.
    OpenCollisionDump,
    /// Event 24.
    NotifMsgVerErr(Notification),
    /// Event 25.
    NotifMsg(Notification),
    /// Event 26.
    KeepAliveMsg,
    /// Event 27.
    UpdateMsg(Box<Update>),
    /// Event 28.
    UpdateMsgErr(MessageError),
    /// A ROUTE-REFRESH.
    RouteRefreshMsg(RouteRefresh),
    /// A malformed one (RFC 7313 §5).
    RouteRefreshMsgErr(MessageError),
}

impl Session {
    /// One event, to the connection `scope` or, without one, to the peer.
    pub(super) fn process(&mut self, now: Instant, scope: Option<ConnectionId>, event: Event) {
        match scope {
            None => match self.base_state() {
                State::Idle => self.in_idle(now, event),
                State::Connect => self.in_connect(now, None, event),
                _ => self.in_active(now, event),
            },
            Some(id) => match self.connection(id).map(|connection| connection.state) {
                None | Some(State::Idle | State::Active) => {}
                Some(State::Connect) => self.in_connect(now, Some(id), event),
                Some(State::OpenSent) => self.in_open_sent(now, id, event),
                Some(State::OpenConfirm) => self.in_open_confirm(now, id, event),
                Some(State::Established) => self.in_established(now, id, event),
            },
        }
    }

    /// The state of the peer when its open connections are left out: Idle, Connect or Active.
    pub(super) fn base_state(&self) -> State {
        if !self.running || self.timers.expiry(Timer::IdleHold).is_some() {
            State::Idle
        } else if self.attempt_id().is_some() {
            State::Connect
        } else {
            State::Active
        }
    }

    fn in_idle(&mut self, now: Instant, event: Event) {
        match event {
            Event::ManualStart | Event::AutomaticStart => self.begin(now),
            Event::IdleHoldTimerExpires => {
                self.timers.stop(Timer::IdleHold);
                if self.running {
                    self.begin(now);
                }
            }
            Event::ManualStop(how) => self.stop_all(now, &how),
            // The configuration changed, or somebody wants it to try now.
            Event::AutomaticStop(..) => {
                if self.running {
                    self.pause(now, SHORT_PAUSE);
                }
            }
            Event::TcpConnectionConfirmed(endpoints) => {
                if self.running {
                    self.accept(now, endpoints);
                } else {
                    self.refuse(endpoints);
                }
            }
            Event::ConnectRetryTimerExpires
            | Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::SendHoldTimerExpires
            | Event::TcpCRAcked(_)
            | Event::TcpConnectionFails(_)
            | Event::BgpOpen(_)
            | Event::BgpHeaderErr(_)
            | Event::BgpOpenMsgErr(_)
            | Event::OpenCollisionDump
            | Event::NotifMsgVerErr(_)
            | Event::NotifMsg(_)
            | Event::KeepAliveMsg
            | Event::UpdateMsg(_)
            | Event::UpdateMsgErr(_)
            | Event::RouteRefreshMsg(_)
            | Event::RouteRefreshMsgErr(_) => {}
        }
    }

    fn in_connect(&mut self, now: Instant, attempt: Option<ConnectionId>, event: Event) {
        match event {
            Event::ManualStop(how) => self.stop_all(now, &how),
            Event::AutomaticStop(notification, words) => {
                self.stop_and_restart(now, &notification, &words);
            }
            Event::ConnectRetryTimerExpires => self.give_up_attempt(now),
            Event::TcpCRAcked(endpoints) => {
                let Some(id) = attempt else { return };
                self.timers.stop(Timer::ConnectRetry);
                self.open_sent(now, id, endpoints);
            }
            Event::TcpConnectionConfirmed(endpoints) => self.accept(now, endpoints),
            Event::TcpConnectionFails(words) => {
                let Some(id) = attempt else { return };
                self.end(now, id, None, DownReason::TcpConnectionFails(words), After::Retry);
            }
            // Already started; and no octets come before the connection is open.
            Event::OpenCollisionDump
            | Event::ManualStart
            | Event::AutomaticStart
            | Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::SendHoldTimerExpires
            | Event::BgpOpen(_)
            | Event::BgpHeaderErr(_)
            | Event::BgpOpenMsgErr(_)
            | Event::NotifMsgVerErr(_)
            | Event::NotifMsg(_)
            | Event::KeepAliveMsg
            | Event::UpdateMsg(_)
            | Event::UpdateMsgErr(_)
            | Event::RouteRefreshMsg(_)
            | Event::RouteRefreshMsgErr(_) => {}
        }
    }

    /// Active, and the peer's part of the states in which it has open connections.
    fn in_active(&mut self, now: Instant, event: Event) {
        match event {
            Event::ManualStop(how) => self.stop_all(now, &how),
            Event::AutomaticStop(notification, words) => {
                self.stop_and_restart(now, &notification, &words);
            }
            Event::ConnectRetryTimerExpires => {
                if self.connections.is_empty() && !self.config.passive {
                    self.attempt(now);
                }
            }
            Event::TcpConnectionConfirmed(endpoints) => self.accept(now, endpoints),
            Event::ManualStart
            | Event::AutomaticStart
            | Event::HoldTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::SendHoldTimerExpires
            | Event::TcpCRAcked(_)
            | Event::TcpConnectionFails(_)
            | Event::BgpOpen(_)
            | Event::BgpHeaderErr(_)
            | Event::BgpOpenMsgErr(_)
            | Event::OpenCollisionDump
            | Event::NotifMsgVerErr(_)
            | Event::NotifMsg(_)
            | Event::KeepAliveMsg
            | Event::UpdateMsg(_)
            | Event::UpdateMsgErr(_)
            | Event::RouteRefreshMsg(_)
            | Event::RouteRefreshMsgErr(_) => {}
        }
    }

    fn in_open_sent(&mut self, now: Instant, id: ConnectionId, event: Event) {
        match event {
            Event::ManualStart | Event::AutomaticStart => {}
            Event::ManualStop(how) => self.stop_all(now, &how),
            Event::AutomaticStop(notification, words) => {
                self.stop_and_restart(now, &notification, &words);
            }
            Event::HoldTimerExpires => {
                if self.connection(id).is_some_and(|connection| connection.deferred) {
                    // The peer left it at the Established session.
                    self.dump(now, id);
                } else {
                    let words = "the peer connected but sent no OPEN".to_owned();
                    self.notify(now, id, ErrorCode::HoldTimerExpired(0), words);
                }
            }
            Event::SendHoldTimerExpires => self.send_hold_expired(now, id),
            Event::TcpConnectionConfirmed(endpoints) => self.accept(now, endpoints),
            Event::TcpConnectionFails(words) => {
                let words = format!(
                    "{words} before its OPEN came; is our address configured there as a \
                     neighbor, with AS {}?",
                    self.config.local_as
                );
                self.end(now, id, None, DownReason::TcpConnectionFails(words), After::Retry);
            }
            Event::BgpOpen(open) => self.open_received(now, id, &open),
            Event::BgpHeaderErr(error) | Event::BgpOpenMsgErr(error) => {
                self.message_error(now, id, error);
            }
            Event::OpenCollisionDump => self.dump(now, id),
            Event::NotifMsgVerErr(notification) | Event::NotifMsg(notification) => {
                if let ErrorCode::Open(
                    OpenSubcode::UnsupportedOptionalParameter | OpenSubcode::UnsupportedCapability,
                ) = notification.code
                {
                    // RFC 5492 §3: try without capabilities, and in turn with them again.
                    self.plain_open = !self.plain_open;
                }
                self.notified(now, id, notification);
            }
            // RFC 4271 §8.2.2 names these as FSM errors, RFC 6608 §3 the subcode.
            Event::KeepAliveMsg => self.unexpected(now, id, "a KEEPALIVE"),
            Event::UpdateMsg(_) | Event::UpdateMsgErr(_) => self.unexpected(now, id, "an UPDATE"),
            Event::RouteRefreshMsg(_) | Event::RouteRefreshMsgErr(_) => {
                self.unexpected(now, id, "a ROUTE-REFRESH");
            }
            // These belong to the peer, or to other states; here they cannot run.
            Event::ConnectRetryTimerExpires
            | Event::KeepaliveTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::TcpCRAcked(_) => {}
        }
    }

    fn in_open_confirm(&mut self, now: Instant, id: ConnectionId, event: Event) {
        match event {
            Event::ManualStart | Event::AutomaticStart => {}
            Event::ManualStop(how) => self.stop_all(now, &how),
            Event::AutomaticStop(notification, words) => {
                self.stop_and_restart(now, &notification, &words);
            }
            Event::HoldTimerExpires => {
                let words = "no KEEPALIVE followed the peer's OPEN".to_owned();
                self.notify(now, id, ErrorCode::HoldTimerExpired(0), words);
            }
            Event::KeepaliveTimerExpires => self.send_keepalive(now, id),
            Event::SendHoldTimerExpires => self.send_hold_expired(now, id),
            Event::TcpConnectionConfirmed(endpoints) => self.accept(now, endpoints),
            Event::TcpConnectionFails(words) => {
                let words = format!("{words} after the OPENs");
                self.end(now, id, None, DownReason::TcpConnectionFails(words), After::IdleHold);
            }
            Event::BgpHeaderErr(error) | Event::BgpOpenMsgErr(error) => {
                self.message_error(now, id, error);
            }
            Event::OpenCollisionDump => self.dump(now, id),
            Event::NotifMsgVerErr(notification) | Event::NotifMsg(notification) => {
                self.notified(now, id, notification);
            }
            Event::KeepAliveMsg => self.establish(now, id),
            Event::BgpOpen(_) => self.unexpected(now, id, "a second OPEN"),
            Event::UpdateMsg(_) | Event::UpdateMsgErr(_) => self.unexpected(now, id, "an UPDATE"),
            Event::RouteRefreshMsg(_) | Event::RouteRefreshMsgErr(_) => {
                self.unexpected(now, id, "a ROUTE-REFRESH");
            }
            Event::ConnectRetryTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::TcpCRAcked(_) => {}
        }
    }

    fn in_established(&mut self, now: Instant, id: ConnectionId, event: Event) {
        match event {
            Event::ManualStart | Event::AutomaticStart => {}
            Event::ManualStop(how) => self.stop_all(now, &how),
            Event::AutomaticStop(notification, words) => {
                self.stop_and_restart(now, &notification, &words);
            }
            Event::HoldTimerExpires => {
                let words = self.connection(id).map_or_else(String::new, |connection| {
                    format!("nothing received for {} s", connection.hold_time.as_secs())
                });
                self.notify(now, id, ErrorCode::HoldTimerExpired(0), words);
            }
            Event::KeepaliveTimerExpires => self.send_keepalive(now, id),
            Event::SendHoldTimerExpires => self.send_hold_expired(now, id),
            Event::TcpConnectionConfirmed(endpoints) => self.accept(now, endpoints),
            Event::TcpConnectionFails(words) => {
                self.end(now, id, None, DownReason::TcpConnectionFails(words), After::IdleHold);
            }
            Event::BgpHeaderErr(error)
            | Event::UpdateMsgErr(error)
            | Event::RouteRefreshMsgErr(error) => self.message_error(now, id, error),
            Event::OpenCollisionDump => self.dump(now, id),
            Event::NotifMsgVerErr(notification) | Event::NotifMsg(notification) => {
                self.notified(now, id, notification);
            }
            Event::KeepAliveMsg => {
                self.restart_hold(now, id);
                self.answer_keepalive(now, id);
            }
            Event::UpdateMsg(update) => {
                self.restart_hold(now, id);
                self.updates.push(*update);
            }
            Event::RouteRefreshMsg(refresh) => {
                self.restart_hold(now, id);
                self.route_refresh(id, refresh);
            }
            Event::BgpOpen(_) | Event::BgpOpenMsgErr(_) => {
                self.unexpected(now, id, "a second OPEN");
            }
            Event::ConnectRetryTimerExpires
            | Event::IdleHoldTimerExpires
            | Event::TcpCRAcked(_) => {}
        }
    }

    // ===== small parts =====

    pub(super) fn restart_hold(&mut self, now: Instant, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(id) {
            connection.restart_hold(now);
        }
    }

    /// Sends a KEEPALIVE and sets the timer for the next.
    pub(super) fn send_keepalive(&mut self, now: Instant, id: ConnectionId) {
        let interval = self.keepalive_interval(id);
        let wait = self.jitter.reduce(interval);
        self.send_keepalive_until(now, id, interval, wait);
    }

    /// Sends our KEEPALIVE together with the peer's, if any moment from now on would do for it (RFC
    /// 4271 §10: 75 to 100 % of the interval). Both ends have been woken anyway, and it carries the
    /// acknowledgement, so a session at rest costs half the wake-ups. The next one waits for the peer's
    /// for the whole interval: the jitter of its timer is enough for both.
    fn answer_keepalive(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connection(id) else { return };
        if connection.keepalive_from.is_some_and(|from| from <= now) {
            let interval = self.keepalive_interval(id);
            self.send_keepalive_until(now, id, interval, interval);
        }
    }

    fn send_keepalive_until(
        &mut self,
        now: Instant,
        id: ConnectionId,
        interval: Duration,
        wait: Duration,
    ) {
        let Some(connection) = self.connection_mut(id) else { return };
        if !interval.is_zero() {
            connection.timers.set(Timer::Keepalive, now + wait);
            connection.keepalive_from = Some(now + Jitter::least(interval));
        }
        self.send(id, Message::Keepalive);
    }

    /// Time between two KEEPALIVEs; zero: none are sent.
    fn keepalive_interval(&self, id: ConnectionId) -> Duration {
        let negotiated = self.connection(id).and_then(|connection| connection.negotiated.as_ref());
        Duration::from_secs(negotiated.map_or(0, |negotiated| negotiated.keepalive_time.into()))
    }

    pub(super) fn send(&mut self, id: ConnectionId, message: Message) {
        self.counters.sent[message_index(&message)] += 1;
        self.push(Output::Send(id, message));
    }

    /// Queues an effect behind the UPDATEs that came before it.
    pub(super) fn push(&mut self, output: Output) {
        if !self.updates.is_empty() {
            self.outputs.push_back(Output::Updates(std::mem::take(&mut self.updates)));
        }
        self.outputs.push_back(output);
    }

    pub(super) fn add_connection(
        &mut self,
        now: Instant,
        direction: Direction,
        endpoints: Option<Endpoints>,
    ) -> ConnectionId {
        let id = self.take_id();
        // Hardly ever two.
        self.connections.reserve_exact(1);
        self.connections.push(Connection::new(id, direction, now, endpoints));
        id
    }

    pub(super) fn take_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    pub(super) fn attempt_id(&self) -> Option<ConnectionId> {
        self.connections
            .iter()
            .find(|connection| connection.state == State::Connect)
            .map(|connection| connection.id)
    }

    pub(super) fn connection_ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|connection| connection.id).collect()
    }
}

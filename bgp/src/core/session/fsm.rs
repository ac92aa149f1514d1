//! The state machine of RFC 4271 §8.2.2: one function per state, one arm per event.
//!
//! In: an [`Event`] and the connection it concerns. Out: effects in the session's queue, timers
//! set, connections changed. Events that name a connection which is gone end here: a driver may
//! be late. Each arm is a cell of the table in `tests/table.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use routelet_proto::{
    CeaseSubcode, ErrorCode, FamilySet, FsmSubcode, Message, MessageError, Notification, Open,
    OpenSubcode, RefreshSubtype, RouteRefresh, Update,
};

use super::backoff::{MAX_IDLE_HOLD, SHORT_PAUSE, STABLE_AFTER};
use super::collision::{Direction, Rank, surviving_direction};
use super::connection::{Connection, ConnectionId, Endpoints};
use super::negotiate::negotiate;
use super::open::build_open;
use super::{Output, Session, Stop, Timer, message_index};
use crate::core::peer::{DownReason, Negotiated, PeerDown, PeerUp, State};

/// Hold time until the peer's OPEN is there (RFC 4271 §8.2.2, OpenSent).
pub(super) const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);
/// Least send hold time (RFC 9687 §3).
const MIN_SEND_HOLD_TIME: Duration = Duration::from_secs(480);
/// How long the peer has to settle a collision that is its to settle.
const DEFERRAL: Duration = Duration::from_secs(5);
/// Least time for one attempt to connect, so that a lost SYN is sent again within it.
const MIN_ATTEMPT: Duration = Duration::from_secs(4);

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

/// What follows when a connection has ended and no other is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum After {
    /// Active, with ConnectRetry running.
    Retry,
    /// Idle for the IdleHold pause, which this failure lengthens.
    IdleHold,
    /// Idle for a moment: the end was our own wish, or a collision.
    ShortPause,
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
            Event::KeepAliveMsg => self.restart_hold(now, id),
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

    // ===== ways into a session =====

    /// From Idle: connects at once, or waits for the peer where we are passive.
    fn begin(&mut self, now: Instant) {
        self.running = true;
        self.timers.stop(Timer::IdleHold);
        if self.connections.is_empty() && !self.config.passive {
            self.attempt(now);
        }
    }

    /// A new attempt to connect, with ConnectRetry as its limit.
    fn attempt(&mut self, now: Instant) {
        let id = self.add_connection(now, Direction::Outgoing, None);
        let limit = self.config.connect_retry_time;
        let wait = self.connect_backoff.peek(limit).max(MIN_ATTEMPT.min(limit));
        let wait = self.jitter.reduce(wait);
        self.timers.set(Timer::ConnectRetry, now + wait);
        self.push(Output::Connect(id));
    }

    /// ConnectRetry expired in Connect: nobody answered.
    fn give_up_attempt(&mut self, now: Instant) {
        if self.attempt_id().is_none() {
            return;
        }
        let words = format!(
            "connection to {} port {} timed out; check reachability{}",
            self.config.address,
            self.config.port,
            if self.config.password.is_some() {
                ", and that the password is the same on both sides"
            } else {
                ", and whether the peer wants a password"
            }
        );
        self.connect_backoff.fail(self.config.connect_retry_time);
        self.drop_attempt();
        self.failed_attempt(now, DownReason::TcpConnectionFails(words));
        if self.connections.is_empty() {
            self.attempt(now);
        }
    }

    /// The peer connected. It has lost whatever unfinished connection it opened before.
    fn accept(&mut self, now: Instant, endpoints: Endpoints) {
        let id = self.add_connection(now, Direction::Incoming, Some(endpoints));
        self.timers.stop(Timer::IdleHold);
        // An attempt under way keeps its limit; none is begun while the peer's connection lives.
        if self.attempt_id().is_none() {
            self.timers.stop(Timer::ConnectRetry);
        }
        self.open_sent(now, id, endpoints);
        let older: Vec<_> = self
            .connections
            .iter()
            .filter(|other| {
                other.id != id
                    && other.direction == Direction::Incoming
                    && other.state != State::Established
            })
            .map(|other| other.id)
            .collect();
        for other in older {
            self.dump(now, other);
        }
    }

    /// The peer connected, but no session is wanted.
    fn refuse(&mut self, _endpoints: Endpoints) {
        let id = self.take_id();
        self.counters.connections_refused += 1;
        let rejected = ErrorCode::Cease(CeaseSubcode::ConnectionRejected);
        self.send(id, Message::Notification(Notification::new(rejected)));
        self.push(Output::Close(id));
    }

    fn open_sent(&mut self, now: Instant, id: ConnectionId, endpoints: Endpoints) {
        let open = build_open(&self.config, &self.local, self.plain_open);
        let Some(connection) = self.connection_mut(id) else { return };
        connection.state = State::OpenSent;
        connection.endpoints = Some(endpoints);
        connection.hold_time = LARGE_HOLD_TIME;
        connection.restart_hold(now);
        connection.sent_open = Some(open.clone());
        self.send(id, Message::Open(open));
    }

    fn open_received(&mut self, now: Instant, id: ConnectionId, open: &Open) {
        let Some(connection) = self.connection(id) else { return };
        if connection.deferred {
            return self.unexpected(now, id, "a second OPEN");
        }
        let sent = connection.sent_open.as_ref().expect("invariant: OpenSent follows our OPEN");
        match negotiate(&self.config, sent, open) {
            Ok(negotiated) => {
                let connection = self.connection_mut(id).expect("invariant: found above");
                connection.negotiated = Some(Arc::new(negotiated));
                if self.resolve_collision(now, id) {
                    self.confirm(now, id);
                }
            }
            Err(refused) => {
                let reason =
                    DownReason::NotificationSent(refused.notification.clone(), refused.detail);
                self.end(now, id, Some(refused.notification), reason, After::IdleHold);
            }
        }
    }

    /// RFC 4271 §6.8, when the peer's OPEN came on `id`: closes whichever connection must go.
    /// Says whether `id` goes on now.
    ///
    /// A connection to a peer whose session is Established is normally closed, except:
    /// - with graceful restart a connection opened later means that the peer has restarted, and
    ///   takes over (RFC 4724 §5);
    /// - one opened *before* the session came up belongs to the same simultaneous start, and the
    ///   peer, perhaps still in OpenConfirm, decides by identifiers. If these speak for `id`,
    ///   closing it could lose both. So it waits for a while for what the peer does.
    fn resolve_collision(&mut self, now: Instant, id: ConnectionId) -> bool {
        let Some(negotiated) = self.connection(id).and_then(|c| c.negotiated.clone()) else {
            return false;
        };
        let survivor = surviving_direction(
            Rank { identifier: self.local.router_id, asn: self.config.local_as },
            Rank { identifier: negotiated.peer_id, asn: negotiated.peer_as },
        );
        let others: Vec<_> =
            self.connections.iter().map(|other| other.id).filter(|other| *other != id).collect();
        for other_id in others {
            let (Some(ours), Some(other)) = (self.connection(id), self.connection(other_id)) else {
                continue;
            };
            let (created, wins) = (ours.created, ours.direction == survivor);
            match other.state {
                State::OpenConfirm if wins || ours.direction == other.direction => {
                    self.dump(now, other_id);
                }
                State::OpenConfirm => {
                    self.dump(now, id);
                    return false;
                }
                State::Established => {
                    let newer = other.established.is_none_or(|since| created >= since);
                    let restarts =
                        other.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some());
                    if newer && restarts {
                        self.end(now, other_id, None, DownReason::Replaced, After::ShortPause);
                    } else if !newer && wins {
                        let connection = self.connection_mut(id).expect("invariant: found above");
                        connection.deferred = true;
                        connection.timers.set(Timer::Hold, now + DEFERRAL);
                        return false;
                    } else {
                        self.dump(now, id);
                        // If the peer has lost that session, its host answers this with a reset,
                        // long before the hold time would tell.
                        self.send_keepalive(now, other_id);
                        return false;
                    }
                }
                State::Idle | State::Connect | State::Active | State::OpenSent => {}
            }
        }
        true
    }

    /// The peer's OPEN is accepted: OpenConfirm.
    fn confirm(&mut self, now: Instant, id: ConnectionId) {
        self.connect_backoff.reset();
        let Some(connection) = self.connection_mut(id) else { return };
        let hold_time = connection.negotiated.as_ref().map_or(0, |n| n.hold_time.seconds());
        connection.deferred = false;
        connection.state = State::OpenConfirm;
        // Without a hold time the peer's first KEEPALIVE must still come some time.
        connection.hold_time =
            if hold_time == 0 { LARGE_HOLD_TIME } else { Duration::from_secs(hold_time.into()) };
        connection.restart_hold(now);
        self.send_keepalive(now, id);
    }

    fn establish(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        let negotiated = connection
            .negotiated
            .clone()
            .expect("invariant: OpenConfirm follows a successful negotiation");
        let endpoints =
            connection.endpoints.expect("invariant: OpenConfirm has an open connection");
        connection.state = State::Established;
        connection.established = Some(now);
        connection.hold_time = Duration::from_secs(negotiated.hold_time.seconds().into());
        connection.restart_hold(now);
        self.timers.stop(Timer::ConnectRetry);
        self.drop_attempt();
        self.push(Output::PeerUp(
            id,
            Box::new(PeerUp {
                negotiated: Arc::unwrap_or_clone(negotiated),
                local: endpoints.local,
                remote: endpoints.remote,
                interface: endpoints.interface,
            }),
        ));
    }

    /// RFC 2918 §4: a family that was not negotiated is none of our business; RFC 7313 §5: so are
    /// unknown subtypes.
    fn route_refresh(&mut self, id: ConnectionId, refresh: RouteRefresh) {
        let Some(negotiated) = self.connection(id).and_then(|c| c.negotiated.as_ref()) else {
            return;
        };
        let known = refresh
            .family
            .try_into()
            .is_ok_and(|family| negotiated.families.contains(family));
        let meant = match refresh.subtype {
            RefreshSubtype::Request => true,
            RefreshSubtype::BeginOfRefresh | RefreshSubtype::EndOfRefresh => {
                negotiated.enhanced_route_refresh
            }
            RefreshSubtype::Unknown(_) => false,
        };
        if known && meant {
            self.push(Output::RouteRefresh(refresh));
        }
    }

    // ===== ways out of a session =====

    fn stop_all(&mut self, now: Instant, how: &Stop) {
        let was_running = std::mem::replace(&mut self.running, false);
        self.drop_attempt();
        self.timers.stop(Timer::ConnectRetry);
        self.timers.stop(Timer::IdleHold);
        self.connect_backoff.reset();
        self.idle_backoff.reset();
        let (notification, words) = match how {
            Stop::Restart => (Notification::new(shutdown()), "restarting".to_owned()),
            Stop::Shutdown(message) if message.is_empty() => {
                (Notification::new(shutdown()), "disabled".to_owned())
            }
            Stop::Shutdown(message) => (
                Notification::with_message(CeaseSubcode::AdministrativeShutdown, message),
                format!("disabled: {message}"),
            ),
            Stop::Deconfigured => (
                Notification::new(ErrorCode::Cease(CeaseSubcode::PeerDeconfigured)),
                "no longer configured".to_owned(),
            ),
        };
        let had_session = self.connections.iter().any(|c| c.state == State::Established);
        for id in self.connection_ids() {
            let silent = *how == Stop::Restart
                && self.connection(id).is_some_and(|connection| {
                    connection.state == State::Established
                        && connection
                            .negotiated
                            .as_ref()
                            .is_some_and(|negotiated| negotiated.graceful_restart.is_some())
                });
            if silent {
                self.end(now, id, None, DownReason::Restarting, After::ShortPause);
            } else {
                self.end_with(now, id, notification.clone(), words.clone(), After::ShortPause);
            }
        }
        if was_running && !had_session {
            self.last_error = Some((words, now));
        }
    }

    /// Ends every connection and comes back after a pause.
    fn stop_and_restart(&mut self, now: Instant, notification: &Notification, words: &str) {
        let after = match notification.code {
            ErrorCode::Cease(
                CeaseSubcode::AdministrativeReset | CeaseSubcode::OtherConfigurationChange,
            ) => After::ShortPause,
            _ => After::IdleHold,
        };
        self.drop_attempt();
        for id in self.connection_ids() {
            self.end_with(now, id, notification.clone(), words.to_owned(), after);
        }
        // There was none, or only an attempt to connect: begin anew all the same.
        if self.running && self.timers.expiry(Timer::IdleHold).is_none() {
            self.last_error = Some((words.to_owned(), now));
            self.pause(now, SHORT_PAUSE);
        }
    }

    /// Ends `id` with a NOTIFICATION of this code, and lengthens the IdleHold pause.
    fn notify(&mut self, now: Instant, id: ConnectionId, code: ErrorCode, words: String) {
        self.end_with(now, id, Notification::new(code), words, After::IdleHold);
    }

    fn message_error(&mut self, now: Instant, id: ConnectionId, error: MessageError) {
        self.end_with(now, id, error.notification, error.detail, After::IdleHold);
    }

    /// RFC 6608 §3.
    fn unexpected(&mut self, now: Instant, id: ConnectionId, what: &str) {
        let Some(state) = self.connection(id).map(|connection| connection.state) else { return };
        let subcode = match state {
            State::OpenSent => FsmSubcode::UnexpectedInOpenSent,
            State::OpenConfirm => FsmSubcode::UnexpectedInOpenConfirm,
            State::Established => FsmSubcode::UnexpectedInEstablished,
            State::Idle | State::Connect | State::Active => FsmSubcode::Unspecified,
        };
        let words = format!("the peer sent {what} in {state}");
        self.notify(now, id, ErrorCode::Fsm(subcode), words);
    }

    /// RFC 9687 §3.
    fn send_hold_expired(&mut self, now: Instant, id: ConnectionId) {
        let words = self.connection(id).map_or_else(String::new, |connection| {
            format!("the peer took nothing for {} s", connection.send_hold_time().as_secs())
        });
        self.notify(now, id, ErrorCode::SendHoldTimerExpired(0), words);
    }

    /// The peer sent a NOTIFICATION. It is never answered by another (RFC 4271 §6.4).
    fn notified(&mut self, now: Instant, id: ConnectionId, notification: Notification) {
        let collision = ErrorCode::Cease(CeaseSubcode::ConnectionCollisionResolution);
        let after = if notification.code == collision && self.connections.len() > 1 {
            After::ShortPause
        } else {
            After::IdleHold
        };
        self.end(now, id, None, DownReason::NotificationReceived(notification), after);
    }

    /// OpenCollisionDump: this connection lost.
    fn dump(&mut self, now: Instant, id: ConnectionId) {
        let code = ErrorCode::Cease(CeaseSubcode::ConnectionCollisionResolution);
        let words = "another connection to the same peer was preferred".to_owned();
        self.end_with(now, id, Notification::new(code), words, After::ShortPause);
    }

    /// Our attempt to connect, if one is under way, is no longer wanted.
    fn drop_attempt(&mut self) {
        if let Some(id) = self.attempt_id() {
            self.timers.stop(Timer::ConnectRetry);
            self.connections.retain(|connection| connection.id != id);
            self.push(Output::Close(id));
        }
    }

    fn end_with(
        &mut self,
        now: Instant,
        id: ConnectionId,
        notification: Notification,
        words: String,
        after: After,
    ) {
        let hard_reset = self
            .connection(id)
            .and_then(|connection| connection.negotiated.as_ref())
            .is_some_and(|negotiated| negotiated.survives_notifications());
        let notification =
            if hard_reset { hard_reset_where_meant(notification) } else { notification };
        let reason = DownReason::NotificationSent(notification.clone(), words);
        self.end(now, id, Some(notification), reason, after);
    }

    /// The one place where a connection ends: tells the peer, tells the tables, remembers why,
    /// and sees to what comes next.
    fn end(
        &mut self,
        now: Instant,
        id: ConnectionId,
        notification: Option<Notification>,
        reason: DownReason,
        after: After,
    ) {
        let Some(index) = self.connections.iter().position(|connection| connection.id == id) else {
            return;
        };
        let connection = self.connections.remove(index);
        if let Some(notification) = notification {
            self.send(id, Message::Notification(notification));
        }
        self.push(Output::Close(id));
        if let (Some(since), Some(negotiated)) = (connection.established, &connection.negotiated) {
            self.flaps += 1;
            if now.duration_since(since) >= STABLE_AFTER {
                self.idle_backoff.reset();
            }
            self.last_error = Some((reason.to_string(), now));
            let retain = retained(negotiated, &reason);
            self.push(Output::PeerDown(PeerDown { reason, retain }));
        } else if !(self.connections.iter().any(|other| other.state as u8 >= State::OpenSent as u8))
        {
            // While another connection lives, the end of this one is no news.
            self.failed_attempt(now, reason);
        }
        let waiting = self.connections.iter().find(|other| other.deferred).map(|other| other.id);
        if let Some(waiting) = waiting {
            // It waited for the connection that has just ended.
            if !self.connections.iter().any(|other| other.state == State::Established) {
                self.confirm(now, waiting);
            }
        }
        if self.running && self.connections.is_empty() {
            self.rest(now, after);
        }
    }

    /// No connection is left: when to try again.
    fn rest(&mut self, now: Instant, after: After) {
        match after {
            After::Retry => {
                if !self.config.passive {
                    let wait = self.connect_backoff.fail(self.config.connect_retry_time);
                    let wait = self.jitter.reduce(wait);
                    self.timers.set(Timer::ConnectRetry, now + wait);
                }
            }
            After::IdleHold => {
                let wait = self.idle_backoff.fail(MAX_IDLE_HOLD);
                self.pause(now, wait);
            }
            After::ShortPause => self.pause(now, SHORT_PAUSE),
        }
    }

    fn pause(&mut self, now: Instant, wait: Duration) {
        self.timers.stop(Timer::ConnectRetry);
        let wait = self.jitter.reduce(wait);
        self.timers.set(Timer::IdleHold, now + wait);
    }

    fn failed_attempt(&mut self, now: Instant, reason: DownReason) {
        self.last_error = Some((reason.to_string(), now));
        self.push(Output::AttemptFailed(reason));
    }

    // ===== small parts =====

    fn restart_hold(&mut self, now: Instant, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(id) {
            connection.restart_hold(now);
        }
    }

    /// Sends a KEEPALIVE and sets the timer for the next.
    fn send_keepalive(&mut self, now: Instant, id: ConnectionId) {
        let interval = self
            .connection(id)
            .and_then(|connection| connection.negotiated.as_ref())
            .map_or(0, |negotiated| negotiated.keepalive_time);
        let wait = self.jitter.reduce(Duration::from_secs(interval.into()));
        let Some(connection) = self.connection_mut(id) else { return };
        if interval > 0 {
            connection.timers.set(Timer::Keepalive, now + wait);
        }
        self.send(id, Message::Keepalive);
    }

    fn send(&mut self, id: ConnectionId, message: Message) {
        self.counters.sent[message_index(&message)] += 1;
        self.push(Output::Send(id, message));
    }

    /// Queues an effect behind the UPDATEs that came before it.
    fn push(&mut self, output: Output) {
        if !self.updates.is_empty() {
            self.outputs.push_back(Output::Updates(std::mem::take(&mut self.updates)));
        }
        self.outputs.push_back(output);
    }

    fn add_connection(
        &mut self,
        now: Instant,
        direction: Direction,
        endpoints: Option<Endpoints>,
    ) -> ConnectionId {
        let id = self.take_id();
        self.connections.push(Connection::new(id, direction, now, endpoints));
        id
    }

    fn take_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    fn attempt_id(&self) -> Option<ConnectionId> {
        self.connections
            .iter()
            .find(|connection| connection.state == State::Connect)
            .map(|connection| connection.id)
    }

    fn connection_ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|connection| connection.id).collect()
    }
}

impl Connection {
    pub(super) fn restart_hold(&mut self, now: Instant) {
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

impl Negotiated {
    /// Whether graceful restart covers NOTIFICATIONs too (RFC 8538 §2).
    fn survives_notifications(&self) -> bool {
        self.graceful_restart.is_some_and(|restart| restart.notification)
    }
}

/// Families that stay as stale routes when a session ends for `reason`, and for how many seconds
/// (RFC 4724 §4.2, RFC 8538 §4).
fn retained(negotiated: &Negotiated, reason: &DownReason) -> Option<(FamilySet, u16)> {
    let restart = negotiated.graceful_restart?;
    let families = restart.families.intersection(negotiated.families);
    let seconds = match reason {
        DownReason::TcpConnectionFails(_) => restart.restart_time,
        // The peer is back already; a restart time of 0 must not undo that.
        DownReason::Replaced => restart.restart_time.max(1),
        DownReason::Restarting => 0,
        DownReason::NotificationSent(notification, _)
        | DownReason::NotificationReceived(notification) => {
            let hard = notification.code == ErrorCode::Cease(CeaseSubcode::HardReset);
            if restart.notification && !hard { restart.restart_time } else { 0 }
        }
    };
    (seconds > 0 && !families.is_empty()).then_some((families, seconds))
}

/// RFC 8538 §3: where NOTIFICATIONs are survived, an end that is meant for good is wrapped in a
/// Hard Reset.
fn hard_reset_where_meant(notification: Notification) -> Notification {
    let ErrorCode::Cease(
        CeaseSubcode::AdministrativeShutdown
        | CeaseSubcode::PeerDeconfigured
        | CeaseSubcode::MaximumPrefixes,
    ) = notification.code
    else {
        return notification;
    };
    let (code, subcode) = notification.code.octets();
    let mut data = BytesMut::with_capacity(2 + notification.data.len());
    data.put_u8(code);
    data.put_u8(subcode);
    data.put_slice(&notification.data);
    Notification { code: ErrorCode::Cease(CeaseSubcode::HardReset), data: Bytes::from(data) }
}

fn shutdown() -> ErrorCode {
    ErrorCode::Cease(CeaseSubcode::AdministrativeShutdown)
}

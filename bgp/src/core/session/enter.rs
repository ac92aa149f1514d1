//! Ways into a session: attempts, accepted connections, collisions, OpenConfirm, Established.

use std::sync::Arc;
use std::time::{Duration, Instant};

use routelet_proto::{
    CeaseSubcode, ErrorCode, FamilySet, Message, Notification, Open, RefreshSubtype, RouteRefresh,
};

use super::collision::{Direction, Rank, surviving_direction};
use super::connection::{ConnectionId, Endpoints};
use super::leave::After;
use super::negotiate::negotiate;
use super::open::{LocalSpeaker, build_open};
use super::{Output, Session, Timer};
use crate::core::peer::{DownReason, PeerUp, State};

/// Hold time until the peer's OPEN is there (RFC 4271 §8.2.2, OpenSent).
pub(super) const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);
/// How long the peer has to settle a collision that is its to settle.
const DEFERRAL: Duration = Duration::from_secs(5);
/// A connection accepted so soon after the session came up was on its way before: the peer opened
/// it in the same simultaneous start, and has not restarted since.
const SIMULTANEOUS: Duration = Duration::from_secs(1);
/// Least time for one attempt to connect, so that a lost SYN is sent again within it.
const MIN_ATTEMPT: Duration = Duration::from_secs(4);

impl Session {
    /// From Idle: connects at once, or waits for the peer where we are passive.
    pub(super) fn begin(&mut self, now: Instant) {
        self.running = true;
        self.timers.stop(Timer::IdleHold);
        if self.connections.is_empty() && !self.config.passive {
            self.attempt(now);
        }
    }

    /// A new attempt to connect, with ConnectRetry as its limit.
    pub(super) fn attempt(&mut self, now: Instant) {
        let id = self.add_connection(now, Direction::Outgoing, None);
        let limit = self.config.connect_retry_time;
        let wait = self.connect_backoff.peek(limit).max(MIN_ATTEMPT.min(limit));
        let wait = self.jitter.reduce(wait);
        self.timers.set(Timer::ConnectRetry, now + wait);
        self.push(Output::Connect(id));
    }

    /// ConnectRetry expired in Connect: nobody answered.
    pub(super) fn give_up_attempt(&mut self, now: Instant) {
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
    pub(super) fn accept(&mut self, now: Instant, endpoints: Endpoints) {
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
    pub(super) fn refuse(&mut self, _endpoints: Endpoints) {
        let id = self.take_id();
        self.counters.connections_refused += 1;
        let rejected = ErrorCode::Cease(CeaseSubcode::ConnectionRejected);
        self.send(id, Message::Notification(Notification::new(rejected)));
        self.push(Output::Close(id));
    }

    pub(super) fn open_sent(&mut self, now: Instant, id: ConnectionId, endpoints: Endpoints) {
        let open = if self.flaps == 0 {
            build_open(&self.config, &self.local, self.plain_open)
        } else {
            // The peer knows us from this life already, in which nothing has stopped forwarding:
            // with a clear F bit it would drop what it retains (RFC 4724 §4.2).
            let local = LocalSpeaker { forwarding: FamilySet::ALL, ..(*self.local).clone() };
            build_open(&self.config, &local, self.plain_open)
        };
        let Some(connection) = self.connection_mut(id) else { return };
        connection.state = State::OpenSent;
        connection.endpoints = Some(endpoints);
        connection.hold_time = LARGE_HOLD_TIME;
        connection.restart_hold(now);
        connection.sent_open = Some(open.clone());
        self.send(id, Message::Open(open));
    }

    pub(super) fn open_received(&mut self, now: Instant, id: ConnectionId, open: &Open) {
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
    pub(super) fn resolve_collision(&mut self, now: Instant, id: ConnectionId) -> bool {
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
                    let newer =
                        other.established.is_none_or(|since| created >= since + SIMULTANEOUS);
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
    pub(super) fn confirm(&mut self, now: Instant, id: ConnectionId) {
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

    pub(super) fn establish(&mut self, now: Instant, id: ConnectionId) {
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
    pub(super) fn route_refresh(&mut self, id: ConnectionId, refresh: RouteRefresh) {
        let Some(negotiated) = self.connection(id).and_then(|c| c.negotiated.as_ref()) else {
            return;
        };
        let known =
            refresh.family.try_into().is_ok_and(|family| negotiated.families.contains(family));
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
}

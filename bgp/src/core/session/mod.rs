//! The session machine of one peer.
//!
//! One machine drives both connections a peer can have, the one we open and the one it opens, so
//! that a collision is settled in one place. Every connection is a state machine of its own from
//! Connect or OpenSent on ([`fsm`]); Idle and Active are states of the peer.
//!
//! In: [`Session::start`], [`Session::stop`], what happens to connections
//! ([`Session::handle_connected`], [`Session::handle_incoming`], [`Session::handle_closed`]), their
//! octets, and [`Session::handle_timeout`] when [`Session::poll_timeout`] says so. Each takes `now`.
//! Out: [`Session::poll_output`], to be called until it is empty after each of them.
//!
//! What must always hold: at most one connection is Established; a [`Output::PeerUp`] is followed
//! by exactly one [`Output::PeerDown`] before the next; nothing is handed out for a connection
//! after its [`Output::Close`]; while the session is not Established, [`Session::view`] says why.
//!
//! Standards: RFC 4271 §6 and §8 (without DelayOpen), RFC 4724 and 8538 (session side), RFC 5492,
//! RFC 6286, RFC 6608, RFC 8654, RFC 9003, RFC 9234 §4, RFC 9687.
//!
//! Departures from RFC 4271, each because networks recover faster: a connection that cannot be
//! opened leads to Active instead of Idle, the first waits are short, and a peer may connect to us
//! while we wait out IdleHold.

mod backoff;
mod collision;
mod connection;
mod enter;
mod fsm;
mod leave;
mod negotiate;
mod open;
mod timers;
mod view;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use routelet_proto::{
    CeaseSubcode, ErrorCode, Message, MessageError, Notification, OpenSubcode, RouteRefresh,
    Treatment, Update, frame_length,
};

pub use self::backoff::Jitter;
pub use self::collision::{Direction, Rank, surviving_direction};
pub use self::connection::{ConnectionId, Endpoints};
pub use self::fsm::Event;
pub use self::negotiate::{OpenRefused, negotiate};
pub use self::open::{LocalSpeaker, build_open};
pub use self::timers::{Timer, TimerTable};

use self::backoff::Backoff;
use self::connection::Connection;
use crate::core::config::PeerConfig;
use crate::core::peer::{DownReason, Negotiated, PeerDown, PeerUp, State};
use crate::core::view::SessionCounters;

/// An effect the session wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a connection to the peer, then [`Session::handle_connected`] or
    /// [`Session::handle_closed`].
    Connect(ConnectionId),
    /// Write this message.
    Send(ConnectionId, Message),
    /// Close the connection once everything handed out before is written; do not wait long.
    Close(ConnectionId),
    /// The session is up on this connection.
    PeerUp(ConnectionId, Box<PeerUp>),
    /// UPDATEs for the tables, in the order received.
    Updates(Vec<Update>),
    /// The peer asks for its routes again, or brackets its answer (RFC 7313).
    RouteRefresh(RouteRefresh),
    /// The session is down.
    PeerDown(PeerDown),
    /// A connection ended before the session was up; for the log.
    AttemptFailed(DownReason),
}

/// How a session is stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stop {
    /// The process restarts: silently where graceful restart was negotiated (RFC 4724 §4.1), with
    /// Cease/Administrative Shutdown else.
    Restart,
    /// Cease/Administrative Shutdown with this message (RFC 9003).
    Shutdown(String),
    /// Cease/Peer De-configured.
    Deconfigured,
}

/// The session machine of one peer.
#[derive(Debug)]
pub struct Session {
    config: Arc<PeerConfig>,
    local: Arc<LocalSpeaker>,
    /// Started and not stopped since.
    running: bool,
    /// ConnectRetry and IdleHold.
    timers: TimerTable,
    /// At most one attempt or unfinished connection of each direction, and one Established.
    connections: Vec<Connection>,
    next_id: u32,
    jitter: Jitter,
    connect_backoff: Backoff,
    idle_backoff: Backoff,
    /// The peer refused optional parameters: the next OPEN goes without capabilities.
    plain_open: bool,
    outputs: VecDeque<Output>,
    /// UPDATEs not yet in `outputs`.
    updates: Vec<Update>,
    counters: SessionCounters,
    flaps: u64,
    last_error: Option<(String, Instant)>,
    last_error_code: Option<(u8, u8)>,
    /// What [`Self::state`] was after the last input, and since when.
    state: State,
    since: Instant,
}

impl Session {
    /// A session in Idle. `seed` feeds the jitter of its timers.
    #[must_use]
    pub fn new(now: Instant, config: Arc<PeerConfig>, local: Arc<LocalSpeaker>, seed: u64) -> Self {
        Self {
            config,
            local,
            running: false,
            timers: TimerTable::default(),
            connections: Vec::new(),
            next_id: 0,
            jitter: Jitter::new(seed),
            connect_backoff: Backoff::default(),
            idle_backoff: Backoff::default(),
            plain_open: false,
            outputs: VecDeque::new(),
            updates: Vec::new(),
            counters: SessionCounters::default(),
            flaps: 0,
            last_error: None,
            last_error_code: None,
            state: State::Idle,
            since: now,
        }
    }

    /// Lets the session come up; the first attempt to connect is made at once.
    pub fn start(&mut self, now: Instant) {
        self.event(now, None, Event::ManualStart);
    }

    /// Ends the session until [`Self::start`].
    pub fn stop(&mut self, now: Instant, how: Stop) {
        self.event(now, None, Event::ManualStop(how));
    }

    /// Ends whatever there is with `notification` and lets the session come back: by hand, because
    /// the tables want it, or because the configuration changed. The words go into `lastError`.
    pub fn reset(&mut self, now: Instant, notification: Notification, words: String) {
        self.event(now, None, Event::AutomaticStop(notification, words));
    }

    /// Takes a new configuration. `reset` says in words why the session cannot live on with it
    /// ([`PeerConfig::change_to`]); a change of `enabled` starts or stops it.
    pub fn update_config(&mut self, now: Instant, config: Arc<PeerConfig>, reset: Option<String>) {
        let was_enabled = self.config.enabled;
        self.config = config;
        match (was_enabled, self.config.enabled) {
            (true, false) => self.stop(now, Stop::Shutdown("disabled in the configuration".into())),
            (false, true) => self.start(now),
            (_, false) => {}
            (true, true) => {
                let Some(fields) = reset else { return };
                self.plain_open = false;
                self.connect_backoff.reset();
                self.idle_backoff.reset();
                let cease = ErrorCode::Cease(CeaseSubcode::OtherConfigurationChange);
                let words = format!("configuration changed: {fields}");
                self.reset(now, Notification::new(cease), words);
            }
        }
    }

    /// What the OPENs from now on say of the speaker; a session that is up does not notice.
    pub fn update_local(&mut self, local: Arc<LocalSpeaker>) {
        self.local = local;
    }

    /// The attempt `id` has connected.
    pub fn handle_connected(&mut self, now: Instant, id: ConnectionId, endpoints: Endpoints) {
        self.event(now, Some(id), Event::TcpCRAcked(endpoints));
    }

    /// The peer has connected to us. The connection may be refused: then its [`Output::Close`] is
    /// already waiting.
    pub fn handle_incoming(&mut self, now: Instant, endpoints: Endpoints) -> ConnectionId {
        // The number that the FSM will take for it.
        let id = ConnectionId(self.next_id);
        self.event(now, None, Event::TcpConnectionConfirmed(endpoints));
        id
    }

    /// The connection `id` failed, could not be opened, or was closed by the peer. `words` say
    /// which, and what an operator can do about it.
    pub fn handle_closed(&mut self, now: Instant, id: ConnectionId, words: String) {
        self.event(now, Some(id), Event::TcpConnectionFails(words));
    }

    /// So many octets have come in on `id`, whole messages or not; to be called before they are
    /// handed over. The hold timer of an Established session restarts: a peer that sends is alive.
    pub fn handle_received(&mut self, now: Instant, id: ConnectionId, octets: usize) {
        self.counters.octets_received += octets as u64;
        if let Some(connection) = self.connection_mut(id)
            && connection.state == State::Established
        {
            connection.restart_hold(now);
        }
    }

    /// Reads whole messages from the front of `buffer` and leaves the rest; `octets` of it are new.
    /// For drivers that do not frame by themselves.
    pub fn handle_octets(
        &mut self,
        now: Instant,
        id: ConnectionId,
        octets: usize,
        buffer: &mut BytesMut,
    ) {
        self.handle_received(now, id, octets);
        while let Some(extended) = self.extended_message(id) {
            match frame_length(buffer, extended) {
                Ok(Some(length)) if length <= buffer.len() => {
                    let frame = buffer.split_to(length).freeze();
                    self.handle_frame(now, id, &frame);
                }
                Ok(_) => return,
                Err(error) => return self.handle_message(now, id, Err(error)),
            }
        }
        buffer.clear();
    }

    /// One framed message of `id`. Ignored if that connection is gone.
    pub fn handle_frame(&mut self, now: Instant, id: ConnectionId, frame: &Bytes) {
        let Some(connection) = self.connection(id) else { return };
        let message = Message::decode(frame, &connection.decode_context());
        self.handle_message(now, id, message);
    }

    /// One message of `id`, or why it cannot be read.
    pub fn handle_message(
        &mut self,
        now: Instant,
        id: ConnectionId,
        message: Result<Message, MessageError>,
    ) {
        if self.connection(id).is_none() {
            return;
        }
        let event = match message {
            Ok(message) => {
                self.counters.received[message_index(&message)] += 1;
                match message {
                    Message::Open(open) => Event::BgpOpen(Box::new(open)),
                    Message::Update(update) => {
                        return self.handle_update(now, id, update);
                    }
                    Message::Notification(notification) => match notification.code {
                        ErrorCode::Open(OpenSubcode::UnsupportedVersionNumber) => {
                            Event::NotifMsgVerErr(notification)
                        }
                        _ => Event::NotifMsg(notification),
                    },
                    Message::Keepalive => Event::KeepAliveMsg,
                    Message::RouteRefresh(refresh) => Event::RouteRefreshMsg(refresh),
                }
            }
            Err(error) => match error.notification.code {
                ErrorCode::Open(_) => Event::BgpOpenMsgErr(error),
                ErrorCode::Update(_) => Event::UpdateMsgErr(error),
                ErrorCode::RouteRefresh(_) => Event::RouteRefreshMsgErr(error),
                _ => Event::BgpHeaderErr(error),
            },
        };
        self.event(now, Some(id), event);
    }

    /// Octets of `id` were written, and whether more are waiting for the peer to take them
    /// (RFC 9687 §3: the send hold timer runs only while something waits).
    pub fn handle_written(&mut self, now: Instant, id: ConnectionId, octets: usize, waiting: bool) {
        self.counters.octets_sent += octets as u64;
        let Some(connection) = self.connection_mut(id) else { return };
        if !waiting {
            connection.timers.stop(Timer::SendHold);
        } else if octets > 0 || connection.timers.expiry(Timer::SendHold).is_none() {
            connection.timers.set(Timer::SendHold, now + connection.send_hold_time());
        }
    }

    /// UPDATEs encoded by the tables were queued for the session; for the counters.
    pub fn handle_updates_sent(&mut self, messages: u32) {
        self.counters.sent[1] += u64::from(messages);
    }

    /// Whether reading `id` is paused because the tables do not keep up. The hold timer waits
    /// meanwhile and starts anew afterwards.
    pub fn handle_read_paused(&mut self, now: Instant, id: ConnectionId, paused: bool) {
        let Some(connection) = self.connection_mut(id) else { return };
        if connection.read_paused && !paused {
            connection.restart_hold(now);
        }
        connection.read_paused = paused;
    }

    /// Connections whose hold timer is due. A driver asks before [`Self::handle_timeout`], and
    /// where octets wait unread in the socket, calls [`Self::handle_octets_waiting`].
    pub fn holds_due(&self, now: Instant) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections
            .iter()
            .filter(move |connection| connection.timers.is_due(Timer::Hold, now))
            .map(|connection| connection.id)
    }

    /// Octets of `id` are there but not read yet: the peer is alive, we were slow.
    pub fn handle_octets_waiting(&mut self, now: Instant, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(id) {
            connection.restart_hold(now);
        }
    }

    /// Serves every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((scope, timer)) = self.due(now) {
            let event = match timer {
                Timer::ConnectRetry => Event::ConnectRetryTimerExpires,
                Timer::IdleHold => Event::IdleHoldTimerExpires,
                Timer::Hold => Event::HoldTimerExpires,
                Timer::Keepalive => Event::KeepaliveTimerExpires,
                Timer::SendHold => Event::SendHoldTimerExpires,
            };
            match scope.and_then(|id| self.connection_mut(id)) {
                Some(connection) if timer == Timer::Hold && connection.read_paused => {
                    connection.restart_hold(now);
                    continue;
                }
                Some(connection) => connection.timers.stop(timer),
                // The running IdleHold timer is what makes the peer Idle; `begin` stops it.
                None => timer == Timer::IdleHold || self.timers.stop(timer),
            };
            self.event(now, scope, event);
        }
    }

    /// When [`Self::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connections
            .iter()
            .filter_map(|connection| connection.timers.next())
            .chain(self.timers.next())
            .min()
    }

    /// The next effect.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        // There may be a thousand sessions, and almost all of them are at rest.
        self.outputs.shrink_to_fit();
        let updates = std::mem::take(&mut self.updates);
        (!updates.is_empty()).then_some(Output::Updates(updates))
    }

    /// The state of the connection that is furthest, or of the peer if there is none.
    #[must_use]
    pub fn state(&self) -> State {
        self.furthest().map_or_else(|| self.base_state(), |connection| connection.state)
    }

    /// Whether messages of up to 65535 octets may come on `id`; `None` if that connection is gone.
    #[must_use]
    pub fn extended_message(&self, id: ConnectionId) -> Option<bool> {
        self.connection(id).map(|connection| {
            connection
                .negotiated
                .as_ref()
                .is_some_and(|negotiated| negotiated.decode.extended_message)
        })
    }

    /// What is agreed with the peer, from OpenConfirm on.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.furthest()?.negotiated.as_ref()
    }

    /// The present configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<PeerConfig> {
        &self.config
    }

    /// The way UPDATEs take: in Established no more than a count and a push.
    fn handle_update(&mut self, now: Instant, id: ConnectionId, update: Update) {
        for issue in &update.issues {
            match issue.treatment {
                Treatment::TreatAsWithdraw => self.counters.treated_as_withdrawn += 1,
                Treatment::AttributeDiscard => self.counters.attributes_discarded += 1,
                _ => {}
            }
        }
        match self.connection_mut(id) {
            Some(connection) if connection.state == State::Established => {
                connection.restart_hold(now);
                self.updates.push(update);
            }
            _ => self.event(now, Some(id), Event::UpdateMsg(Box::new(update))),
        }
    }

    /// Runs one event through the state machine and keeps `since` true.
    fn event(&mut self, now: Instant, scope: Option<ConnectionId>, event: Event) {
        self.process(now, scope, event);
        let state = self.state();
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    fn due(&self, now: Instant) -> Option<(Option<ConnectionId>, Timer)> {
        self.connections
            .iter()
            .find_map(|connection| {
                connection.timers.due(now).map(|timer| (Some(connection.id), timer))
            })
            .or_else(|| self.timers.due(now).map(|timer| (None, timer)))
    }

    fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.id == id)
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    fn furthest(&self) -> Option<&Connection> {
        self.connections.iter().max_by_key(|connection| connection.state as u8)
    }
}

/// The place of a message's type in [`SessionCounters::received`].
fn message_index(message: &Message) -> usize {
    match message {
        Message::Open(_) => 0,
        Message::Update(_) => 1,
        Message::Notification(_) => 2,
        Message::Keepalive => 3,
        Message::RouteRefresh(_) => 4,
    }
}

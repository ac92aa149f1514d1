//! Ways out of a session: who is told what, which routes are retained, and when it is tried again.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use routelet_proto::{
    CeaseSubcode, ErrorCode, FamilySet, FsmSubcode, Message, MessageError, Notification,
};

use super::backoff::{MAX_IDLE_HOLD, SHORT_PAUSE, STABLE_AFTER};
use super::connection::ConnectionId;
use super::{Output, Session, Stop, Timer};
use crate::core::peer::{DownReason, Negotiated, PeerDown, State};

/// What follows when a connection has ended and no other is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// Active, with ConnectRetry running.
    Retry,
    /// Idle for the IdleHold pause, which this failure lengthens.
    IdleHold,
    /// Idle for a moment: the end was our own wish, or a collision.
    ShortPause,
}

impl Session {
    pub(super) fn stop_all(&mut self, now: Instant, how: &Stop) {
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
                && self.connection(id).is_some_and(|connection| match &connection.negotiated {
                    Some(negotiated) => negotiated.graceful_restart.is_some(),
                    // The peer may hold routes of the life before this one.
                    None => self.config.graceful_restart.is_some(),
                });
            if silent {
                self.end(now, id, None, DownReason::Restarting, After::ShortPause);
            } else {
                self.end_with(now, id, notification.clone(), words.clone(), After::ShortPause);
            }
        }
        if was_running && !had_session {
            self.last_error = Some((words, now));
            self.last_error_code = Some(notification.code.octets());
        }
    }

    /// Ends every connection and comes back after a pause.
    pub(super) fn stop_and_restart(
        &mut self,
        now: Instant,
        notification: &Notification,
        words: &str,
    ) {
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
            self.last_error_code = Some(notification.code.octets());
            self.pause(now, SHORT_PAUSE);
        }
    }

    /// Ends `id` with a NOTIFICATION of this code, and lengthens the IdleHold pause.
    pub(super) fn notify(
        &mut self,
        now: Instant,
        id: ConnectionId,
        code: ErrorCode,
        words: String,
    ) {
        self.end_with(now, id, Notification::new(code), words, After::IdleHold);
    }

    pub(super) fn message_error(&mut self, now: Instant, id: ConnectionId, error: MessageError) {
        self.end_with(now, id, error.notification, error.detail, After::IdleHold);
    }

    /// RFC 6608 §3.
    pub(super) fn unexpected(&mut self, now: Instant, id: ConnectionId, what: &str) {
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
    pub(super) fn send_hold_expired(&mut self, now: Instant, id: ConnectionId) {
        let words = self.connection(id).map_or_else(String::new, |connection| {
            format!("the peer took nothing for {} s", connection.send_hold_time().as_secs())
        });
        self.notify(now, id, ErrorCode::SendHoldTimerExpired(0), words);
    }

    /// The peer sent a NOTIFICATION. It is never answered by another (RFC 4271 §6.4).
    pub(super) fn notified(&mut self, now: Instant, id: ConnectionId, notification: Notification) {
        let collision = ErrorCode::Cease(CeaseSubcode::ConnectionCollisionResolution);
        let after = if notification.code == collision && self.connections.len() > 1 {
            After::ShortPause
        } else {
            After::IdleHold
        };
        self.end(now, id, None, DownReason::NotificationReceived(notification), after);
    }

    /// OpenCollisionDump: this connection lost.
    pub(super) fn dump(&mut self, now: Instant, id: ConnectionId) {
        let code = ErrorCode::Cease(CeaseSubcode::ConnectionCollisionResolution);
        let words = "another connection to the same peer was preferred".to_owned();
        self.end_with(now, id, Notification::new(code), words, After::ShortPause);
    }

    /// Our attempt to connect, if one is under way, is no longer wanted.
    pub(super) fn drop_attempt(&mut self) {
        if let Some(id) = self.attempt_id() {
            self.timers.stop(Timer::ConnectRetry);
            self.connections.retain(|connection| connection.id != id);
            self.push(Output::Close(id));
        }
    }

    pub(super) fn end_with(
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
    pub(super) fn end(
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
            self.last_error_code = reason.code();
            let retain = retained(negotiated, &reason);
            self.push(Output::PeerDown(PeerDown { reason, retain }));
        } else if !(self.connections.iter().any(|other| other.state as u8 >= State::OpenSent as u8))
        {
            // While another connection lives, the end of this one is no news.
            self.failed_attempt(now, reason);
        }
        let waiting = self.connections.iter().find(|other| other.deferred).map(|other| other.id);
        if let Some(waiting) = waiting.filter(|_| self.running) {
            // It waited for the connection that has just ended. Not when we stop: a session that comes
            // up for a moment would be a second failure to the peer, which drops what it retains.
            if !self.connections.iter().any(|other| other.state == State::Established) {
                self.confirm(now, waiting);
            }
        }
        if self.running && self.connections.is_empty() {
            self.rest(now, after);
        }
    }

    /// No connection is left: when to try again.
    pub(super) fn rest(&mut self, now: Instant, after: After) {
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

    pub(super) fn pause(&mut self, now: Instant, wait: Duration) {
        self.timers.stop(Timer::ConnectRetry);
        let wait = self.jitter.reduce(wait);
        self.timers.set(Timer::IdleHold, now + wait);
    }

    pub(super) fn failed_attempt(&mut self, now: Instant, reason: DownReason) {
        self.last_error = Some((reason.to_string(), now));
        self.last_error_code = reason.code();
        self.push(Output::AttemptFailed(reason));
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

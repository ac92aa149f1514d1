//! The task of one peer: drives its session machine with sockets, time and commands.
//!
//! One future, polled by hand, so that a wake-up costs no more than looking at what woke it. Each
//! round: hand events to the speaker; read, unless events wait, which is the back-pressure; open
//! connections; timers; commands; take what the speaker queued; write. KEEPALIVEs are written here
//! and wait for nobody.
//!
//! In: [`Command`]s, connections from the listener, octets. Out: [`PeerEvent`]s in the order in
//! which they happened, octets, log lines.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::codec::Decoder;
use tokio_util::task::TaskTracker;

use super::codec::FrameError;
use super::command::{Command, CommandReceiver};
use super::connect::{closed_words, connect, connect_words, prepare, shared_interface};
use super::events::{EventSender, PeerEvent, SpeakerGone};
use super::link::Link;
use super::sockopt::has_unread_octets;
use crate::core::config::PeerConfig;
use crate::core::peer::{DownReason, PeerUp};
use crate::core::session::{ConnectionId, Endpoints, LocalSpeaker, Output, Session, Stop};

/// How often the same failure to connect is logged again.
const REPEAT_LOG: Duration = Duration::from_secs(600);

/// How late a timer may go off for the sake of others.
const LATEST: Duration = Duration::from_millis(128);

/// The task of one peer.
#[derive(Debug)]
pub struct SessionTask {
    session: Session,
    links: Vec<Link>,
    attempt: Option<Attempt>,
    /// For the speaker, not yet taken by it.
    events: VecDeque<PeerEvent>,
    speaker: EventSender,
    commands: CommandReceiver,
    timer: Pin<Box<Sleep>>,
    /// When `timer` goes off.
    timer_at: Option<Instant>,
    /// Counts the connections that are being closed.
    tracker: TaskTracker,
    last_logged: Option<(String, Instant)>,
    /// The speaker knows that the peer's host has answered, or need not know: it matters after a
    /// restart only.
    reached: bool,
    ending: bool,
}

/// A connection being opened.
struct Attempt {
    id: ConnectionId,
    connecting: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// Runs until [`Command::End`], or until the speaker is gone.
impl Future for SessionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.advance(context)
    }
}

impl SessionTask {
    /// A task; it starts the session if the configuration has it enabled.
    #[must_use]
    pub fn new(
        config: Arc<PeerConfig>,
        local: Arc<LocalSpeaker>,
        seed: u64,
        speaker: EventSender,
        commands: CommandReceiver,
        tracker: TaskTracker,
    ) -> Self {
        let now = now();
        let enabled = config.enabled;
        let reached = !local.restarted;
        let mut session = Session::new(now, config, local, seed);
        if enabled {
            session.start(now);
        }
        Self {
            session,
            links: Vec::new(),
            attempt: None,
            events: VecDeque::new(),
            speaker,
            commands,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            timer_at: None,
            tracker,
            last_logged: None,
            reached,
            ending: false,
        }
    }

    fn advance(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = now();
            self.settle();
            let mut progress = self.poll_events(context, now);
            progress |= self.poll_read(context, now);
            progress |= self.poll_attempt(context, now);
            progress |= self.poll_timer(context, now);
            progress |= self.poll_commands(context, now);
            self.settle();
            progress |= self.poll_write(context, now);
            if self.ending {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Hands events to the speaker. While some are left, nothing more is read.
    fn poll_events(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.events.is_empty() {
            return false;
        }
        if let Poll::Ready(Err(SpeakerGone)) = self.speaker.poll_send(context, &mut self.events) {
            self.ending = true;
            return false;
        }
        let waits = !self.events.is_empty();
        for link in &self.links {
            self.session.handle_read_paused(now, link.id, waits);
        }
        !waits
    }

    fn poll_read(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        if !self.events.is_empty() {
            return progress;
        }
        for link in &mut self.links {
            match link.poll_read(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(octets)) if octets > 0 => {
                    progress = true;
                    feed(&mut self.session, link, octets, now);
                }
                Poll::Ready(outcome) => {
                    progress = true;
                    let words = closed_words(outcome.as_ref().err());
                    self.session.handle_closed(now, link.id, words);
                }
            }
        }
        self.settle();
        progress
    }

    fn poll_attempt(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(attempt) = &mut self.attempt else { return false };
        let Poll::Ready(outcome) = attempt.connecting.as_mut().poll(context) else { return false };
        let id = attempt.id;
        self.attempt = None;
        if outcome.as_ref().map_or_else(refused, |_| true) {
            self.note_reached();
        }
        match outcome.and_then(|stream| Ok((endpoints(&stream)?, stream))) {
            Ok((endpoints, stream)) => {
                self.add_link(id, stream);
                self.session.handle_connected(now, id, endpoints);
            }
            Err(error) => {
                let words = connect_words(self.session.config(), &error);
                self.session.handle_closed(now, id, words);
            }
        }
        true
    }

    fn poll_timer(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(wanted) = self.session.poll_timeout() else {
            self.timer_at = None;
            return false;
        };
        if wanted <= now {
            self.put_off_hold(now);
            self.session.handle_timeout(now);
            return true;
        }
        if self.timer_at != Some(wanted) {
            self.timer_at = Some(wanted);
            self.timer.as_mut().reset(together(now, wanted).into());
        }
        self.timer.as_mut().poll(context).is_ready()
    }

    /// A hold timer must not expire while octets wait in the socket: then it is us who were slow.
    fn put_off_hold(&mut self, now: Instant) {
        let due: Vec<_> = self.session.holds_due(now).collect();
        for id in due {
            let unread = |link: &Link| link.id == id && has_unread_octets(link.stream());
            if self.links.iter().any(unread) {
                self.session.handle_octets_waiting(now, id);
            }
        }
    }

    fn poll_commands(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        while let Poll::Ready(command) = self.commands.poll_recv(context) {
            progress = true;
            match command.map(|command| *command) {
                Some(Command::End(how)) => {
                    self.session.stop(now, how);
                    self.ending = true;
                    break;
                }
                Some(command) => self.command(command, now),
                None => {
                    self.session.stop(now, Stop::Restart);
                    self.ending = true;
                    break;
                }
            }
        }
        progress
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Incoming(stream, remote) => self.incoming(stream, remote, now),
            Command::Start => self.session.start(now),
            Command::Stop(how) | Command::End(how) => self.session.stop(now, how),
            Command::Reset(notification, words) => self.session.reset(now, notification, words),
            Command::Configure(config, reset) => self.session.update_config(now, config, reset),
            Command::Local(local) => self.session.update_local(local),
            Command::View(answer) => {
                for link in &self.links {
                    let (messages, octets) = link.counts();
                    self.session.handle_updates_sent(messages);
                    self.session.handle_written(now, link.id, octets, link.blocked);
                }
                // Whoever asked may have gone.
                let _ = answer.send(self.session.view());
            }
        }
        self.settle();
    }

    /// Tells the speaker once that somebody is there: a peer that restarts as we do.
    fn note_reached(&mut self) {
        if !std::mem::replace(&mut self.reached, true) {
            self.events.push_back(PeerEvent::Reached);
        }
    }

    fn incoming(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        self.note_reached();
        let prepared = prepare(&stream, self.session.config());
        match prepared.and_then(|()| endpoints(&stream)) {
            Ok(endpoints) => {
                let id = self.session.handle_incoming(now, endpoints);
                self.add_link(id, stream);
            }
            Err(error) => {
                let peer = &*self.session.config().name;
                tracing::debug!(peer, %remote, %error, "a connection ended before it was taken");
            }
        }
    }

    fn add_link(&mut self, id: ConnectionId, stream: TcpStream) {
        // Hardly ever two.
        self.links.reserve_exact(1);
        self.links.push(Link::new(id, stream));
    }

    /// Writes whatever can be written.
    fn poll_write(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        for link in &mut self.links {
            let (messages, octets) = link.pull(context);
            if messages > 0 {
                self.session.handle_updates_sent(messages);
                self.session.handle_written(now, link.id, octets, link.blocked);
            }
            while link.wants_to_write() {
                match link.poll_write(context) {
                    Poll::Pending => {
                        if !link.blocked {
                            link.blocked = true;
                            self.session.handle_written(now, link.id, 0, true);
                        }
                        break;
                    }
                    Poll::Ready(Ok(written)) => {
                        let waiting = link.wants_to_write();
                        link.blocked &= waiting;
                        self.session.handle_written(now, link.id, written.octets, link.blocked);
                        if written.writable {
                            progress = true;
                            self.events.push_back(PeerEvent::Writable);
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        progress = true;
                        let words = closed_words(Some(&error));
                        self.session.handle_closed(now, link.id, words);
                        break;
                    }
                }
            }
            if !link.wants_to_write() {
                link.rest();
            }
        }
        progress
    }

    /// Does what the session machine wants.
    fn settle(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(id) => {
                    let connecting = Box::pin(connect(self.session.config().clone()));
                    self.attempt = Some(Attempt { id, connecting });
                }
                Output::Send(id, message) => {
                    if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
                        link.send(&message);
                    }
                }
                Output::Close(id) => self.close(id),
                Output::PeerUp(id, up) => {
                    self.log_up(&up);
                    let link = self.links.iter_mut().find(|link| link.id == id);
                    // Without it the session is about to go down.
                    let queue = link.map(Link::open_queue).unwrap_or_default();
                    self.events.push_back(PeerEvent::Up(up, queue));
                }
                Output::Updates(updates) => self.events.push_back(PeerEvent::Updates(updates)),
                Output::RouteRefresh(refresh) => {
                    self.events.push_back(PeerEvent::RouteRefresh(refresh));
                }
                Output::PeerDown(down) => {
                    let peer = &*self.session.config().name;
                    tracing::warn!(peer, reason = %down.reason, "session down");
                    self.last_logged = None;
                    self.events.push_back(PeerEvent::Down(down));
                }
                Output::AttemptFailed(reason) => self.log_failed(&reason),
            }
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if self.attempt.as_ref().is_some_and(|attempt| attempt.id == id) {
            self.attempt = None;
        }
        if let Some(index) = self.links.iter().position(|link| link.id == id) {
            let mut link = self.links.swap_remove(index);
            link.forsake_queue();
            self.tracker.spawn(link.close());
        }
    }

    fn log_up(&mut self, up: &PeerUp) {
        let peer = &*self.session.config().name;
        let families: Vec<_> =
            up.negotiated.families.iter().map(|family| family.to_string()).collect();
        tracing::info!(
            peer,
            address = %up.remote.ip(),
            asn = up.negotiated.peer_as.0,
            router_id = %up.negotiated.peer_id,
            hold_time = up.negotiated.hold_time.seconds(),
            families = families.join(" "),
            graceful_restart = up.negotiated.graceful_restart.is_some(),
            "session up"
        );
        self.last_logged = None;
    }

    /// The same failure over and over is one line every ten minutes.
    fn log_failed(&mut self, reason: &DownReason) {
        let (words, now) = (reason.to_string(), now());
        let peer = &*self.session.config().name;
        let repeated = self
            .last_logged
            .as_ref()
            .is_some_and(|(last, at)| *last == words && now.duration_since(*at) < REPEAT_LOG);
        if repeated {
            tracing::debug!(peer, reason = words, "session not up");
        } else {
            tracing::info!(peer, reason = words, "session not up");
            self.last_logged = Some((words, now));
        }
    }
}

/// Gives the machine what was read, message by message.
fn feed(session: &mut Session, link: &mut Link, octets: usize, now: Instant) {
    session.handle_received(now, link.id, octets);
    while let Some(extended) = session.extended_message(link.id) {
        link.codec.extended_message = extended;
        match link.codec.decode(&mut link.buffer) {
            Ok(Some(frame)) => session.handle_frame(now, link.id, &frame),
            Ok(None) => break,
            Err(FrameError::Message(error)) => {
                return session.handle_message(now, link.id, Err(error));
            }
            Err(FrameError::Io(error)) => {
                return session.handle_closed(now, link.id, closed_words(Some(&error)));
            }
        }
    }
    if link.buffer.is_empty() {
        // Its storage belongs to the messages now, or to nobody.
        link.buffer = bytes::BytesMut::new();
    }
}

/// When to wake up for a timer: at most a 32nd of its time late, and never more than [`LATEST`], so
/// that a thousand sessions at rest share wake-ups.
fn together(now: Instant, wanted: Instant) -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(|| now);
    let slack = (wanted.saturating_duration_since(now) / 32).min(LATEST).as_millis() as u64;
    let (Some(slot), since) =
        (slack.checked_ilog2().map(|log| 1 << log), wanted.saturating_duration_since(epoch))
    else {
        return wanted;
    };
    let millis = since.as_nanos().div_ceil(1_000_000) as u64;
    epoch + Duration::from_millis(millis.next_multiple_of(slot))
}

/// Whether a host is there that nobody listens on: its process is away, its kernel is not.
fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

fn endpoints(stream: &TcpStream) -> io::Result<Endpoints> {
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    Ok(Endpoints { local, remote, interface: shared_interface(local, remote) })
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_near_each_other_go_off_together_and_hardly_late() {
        let start = now();
        let _ = together(start, start);
        for millis in [0_u64, 1, 20, 31, 33, 1000, 2999, 3000, 30_000, 90_000] {
            for offset in 0..50 {
                let now = start + Duration::from_micros(offset * 777);
                let wanted = now + Duration::from_millis(millis);
                let late = together(now, wanted).duration_since(wanted);
                assert!(late <= LATEST, "{late:?} after {millis} ms");
                assert!(late.as_millis() as u64 <= millis / 32, "{late:?} after {millis} ms");
            }
        }
        let at = |offset| together(start, start + Duration::from_millis(3000 + offset));
        let distinct: std::collections::BTreeSet<_> = (0..3000_u64).map(at).collect();
        assert!(distinct.len() <= 3000 / 64 + 3, "{} wake-ups", distinct.len());
    }
}

//! The speaker, its tables and what it knows of its sessions, behind a lock.
//!
//! In: events, requests, time. Out: effects for the kernel and octets for the sessions at once,
//! commands for sessions as a list that the speaker's thread sends when the lock is free again.
//!
//! Nearly everything is done by the speaker's thread. But while it rests, a session task handles a
//! few UPDATEs itself ([`SpeakerState::handle_now`]): one thread from the octets read to the octets
//! written, where waking another two took longer than all the work.
//!
//! What always holds: nobody waits for anything with the lock held; the events of a peer are handled
//! in their order, whoever handles them; a session task never waits for the lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use routelet_proto::{CeaseSubcode, Notification};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

use super::command::{Command, CommandSender};
use super::events::{EVENT_QUEUE, EventChannel, EventSender, PeerEvent};
use super::listener::Listener;
use super::queue::WriteQueue;
use super::request::{Request, Shared};
use super::task::SessionTask;
use super::{PeerCommand, RequestError, StopMode};
use crate::core::config::{PeerConfig, SpeakerConfig};
use crate::core::peer::PeerId;
use crate::core::session::{LocalSpeaker, Stop};
use crate::core::speaker::{Output, PeerAction, Speaker};
use crate::core::view::{RouteQuery, RouteTable};

/// Commands that may wait for one session.
const COMMAND_QUEUE: usize = 64;
/// Pieces handed to sessions before inputs are looked at again.
const TRANSMIT_ROUND: usize = 1024;
/// So many pieces of a round, if they have no more octets than this each, are written to resting
/// sessions at once. More would keep the speaker from its tables, which the sessions' threads do not.
const DIRECT_PIECES: usize = 16;
const DIRECT_OCTETS: usize = 4096;
/// So many UPDATEs a session task may handle itself: less work than what one read gives at most.
const FEW_UPDATES: usize = 4;

/// The speaker behind its lock.
pub struct SpeakerState {
    inner: Mutex<Inner>,
    /// The speaker's thread waits for the lock, and is to have it next: a mutex alone would give it
    /// to whoever comes at the right moment.
    wanted: AtomicBool,
    /// Wakes the speaker's thread: there is something left to do.
    wake: Notify,
}

/// What the speaker's thread does after a round, without the lock.
pub struct Round {
    /// Commands to send to sessions.
    pub orders: Vec<Order>,
    /// Whom to tell that the request is met, or why not.
    pub answer: Option<Answer>,
    /// When the speaker wants to be asked again.
    pub timeout: Option<Instant>,
    /// There are more octets to hand to sessions.
    pub unfinished: bool,
}

/// The answer to a request and who waits for it.
pub struct Answer {
    /// Who waits.
    pub to: oneshot::Sender<Result<(), RequestError>>,
    /// What is answered.
    pub outcome: Result<(), RequestError>,
}

/// A command and the session that it is for.
pub type Order = (CommandSender, Command);

struct Inner {
    speaker: Speaker,
    shared: Arc<Shared>,
    local: Arc<LocalSpeaker>,
    sessions: HashMap<PeerId, SessionLink, foldhash::fast::FixedState>,
    listeners: Vec<Listener>,
    /// Runs the session tasks.
    runtime: Handle,
    seed: u64,
    /// Not yet with the speaker's thread.
    orders: Vec<Order>,
    /// The speaker's thread sleeps until then.
    timeout: Option<Instant>,
    unfinished: bool,
}

/// What is known of a session task.
struct SessionLink {
    config: Arc<PeerConfig>,
    commands: CommandSender,
    /// While the session is up.
    queue: Option<Arc<WriteQueue>>,
    /// Events that came through the channel.
    handled: u64,
}

impl SpeakerState {
    /// A speaker without peers, whose session tasks will run on the runtime of the caller.
    pub fn new(
        shared: Arc<Shared>,
        local: Arc<LocalSpeaker>,
        listeners: Vec<Listener>,
        seed: u64,
    ) -> Self {
        let start = if local.restarted { Speaker::restarted } else { Speaker::new };
        let inner = Inner {
            speaker: start(now()),
            shared,
            local,
            sessions: HashMap::default(),
            listeners,
            runtime: Handle::current(),
            seed,
            orders: Vec::new(),
            timeout: None,
            unfinished: false,
        };
        Self { inner: Mutex::new(inner), wanted: AtomicBool::new(false), wake: Notify::new() }
    }

    /// Completes when the speaker's thread has something to do that nobody tells it otherwise.
    pub async fn left_over(&self) {
        self.wake.notified().await;
    }

    /// Does all that there is to do: a request, a batch of events, what time has brought. Takes
    /// further events from `more` where that saves announcements.
    pub fn round(
        self: &Arc<Self>,
        request: Option<Request>,
        batch: &mut Vec<(PeerId, PeerEvent)>,
        channel: &mut EventChannel,
    ) -> Round {
        let mut inner = self.lock();
        let now = now();
        let answer = request.and_then(|request| inner.request(request, self, &channel.sender));
        if inner.speaker.poll_timeout().is_some_and(|timeout| timeout <= now) {
            inner.speaker.handle_timeout(now);
        }
        inner.events(batch, &mut channel.receiver);
        inner.effects();
        inner.unfinished = inner.transmit(TRANSMIT_ROUND);
        inner.timeout = inner.speaker.poll_timeout();
        Round {
            orders: std::mem::take(&mut inner.orders),
            answer,
            timeout: inner.timeout,
            unfinished: inner.unfinished,
        }
    }

    /// Handles a few UPDATEs of a peer at once, in the caller's thread, if the speaker rests and has
    /// handled all `handed` events that the peer's task has sent through the channel. Says whether
    /// it did.
    ///
    /// Not with many sessions: there, what one peer says is written to more of them than should wait
    /// for one thread, and what several say is better announced together.
    pub fn handle_now(&self, peer: PeerId, handed: u64, event: &PeerEvent) -> bool {
        let PeerEvent::Updates(updates) = event else { return false };
        if updates.len() > FEW_UPDATES || self.wanted.load(Ordering::Relaxed) {
            return false;
        }
        let Ok(mut inner) = self.inner.try_lock() else { return false };
        let in_order = inner.sessions.get(&peer).is_some_and(|link| link.handled == handed);
        if !in_order || inner.unfinished || inner.sessions.len() > DIRECT_PIECES {
            return false;
        }
        let now = now();
        for update in updates {
            inner.speaker.handle_update(now, peer, update);
        }
        inner.effects();
        inner.unfinished = inner.transmit(DIRECT_PIECES);
        let timeout = inner.speaker.poll_timeout();
        let sooner = timeout.is_some_and(|at| inner.timeout.is_none_or(|sleeps| at < sleeps));
        if inner.unfinished || sooner || !inner.orders.is_empty() {
            self.wake.notify_one();
        }
        true
    }

    /// What ends all sessions; their tasks write what there is to write.
    pub fn stop(&self, mode: StopMode) -> Vec<Order> {
        let inner = self.lock();
        inner.shared.stop_listening();
        let how = match mode {
            StopMode::Restart => Stop::Restart,
            // The NOTIFICATION makes the peers withdraw; where they would survive it, it is a Hard
            // Reset.
            StopMode::Withdraw => Stop::Shutdown("routes withdrawn".to_owned()),
        };
        let end = |link: &SessionLink| (link.commands.clone(), Command::End(how.clone()));
        inner.sessions.values().map(end).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.wanted.store(true, Ordering::Relaxed);
        let inner =
            self.inner.lock().expect("a session task panicked with the speaker in its hands");
        self.wanted.store(false, Ordering::Relaxed);
        inner
    }
}

impl Inner {
    /// Takes a batch of events, and further ones that are there already while sessions are lost:
    /// sessions are often lost together, and what stems from the next one that goes need not be
    /// announced in place of what the last one took away.
    fn events(
        &mut self,
        batch: &mut Vec<(PeerId, PeerEvent)>,
        more: &mut mpsc::Receiver<(PeerId, PeerEvent)>,
    ) {
        while !batch.is_empty() {
            let now = now();
            let mut lost = false;
            for (peer, event) in batch.drain(..) {
                lost |= matches!(event, PeerEvent::Down(_));
                self.event(now, peer, event);
            }
            while lost && batch.len() < EVENT_QUEUE {
                let Ok(event) = more.try_recv() else { break };
                batch.push(event);
            }
        }
    }

    fn event(&mut self, now: Instant, peer: PeerId, event: PeerEvent) {
        // A session that was stopped may still have had something to say.
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.handled += 1;
        match event {
            PeerEvent::Up(up, queue) => {
                session.queue = Some(queue);
                self.speaker.handle_peer_up(now, peer, *up);
            }
            PeerEvent::Reached => self.speaker.handle_peer_reached(now, peer),
            PeerEvent::Updates(updates) => {
                for update in &updates {
                    self.speaker.handle_update(now, peer, update);
                }
            }
            PeerEvent::RouteRefresh(refresh) => {
                self.speaker.handle_route_refresh(now, peer, refresh);
            }
            PeerEvent::Writable => self.speaker.handle_writable(peer, true),
            PeerEvent::Down(down) => {
                session.queue = None;
                self.speaker.handle_peer_down(now, peer, &down);
            }
        }
    }

    /// Tells the kernel side what the speaker wants, in one go; what concerns sessions becomes
    /// orders.
    fn effects(&mut self) {
        let mut first = self.speaker.poll_output();
        if first.is_none() {
            return;
        }
        let (mut resets, mut disabled, mut settled) = (Vec::new(), Vec::new(), false);
        let (speaker, shared) = (&mut self.speaker, &self.shared);
        shared.queue.update(|pending| {
            while let Some(output) = first.take().or_else(|| speaker.poll_output()) {
                match output {
                    Output::RouteChanged(change) => {
                        pending.changes.insert(change.prefix, change);
                    }
                    Output::TrackNextHop(next_hop) => {
                        pending.tracking.insert(next_hop, true);
                    }
                    Output::UntrackNextHop(next_hop) => {
                        pending.tracking.insert(next_hop, false);
                    }
                    Output::ResetPeer(peer, notification, words) => {
                        resets.push((peer, notification, words));
                    }
                    Output::FamilyDisabled(peer, family, why) => {
                        disabled.push((peer, family, why));
                    }
                    Output::FirstSync => {
                        pending.first_sync = true;
                        settled = true;
                        shared.first_sync.store(true, Ordering::Release);
                    }
                }
            }
        });
        for (peer, family, why) in disabled {
            let name = self.sessions.get(&peer).map_or("", |link| &*link.config.name);
            tracing::warn!(peer = name, %family, why, "family disabled until the next session");
        }
        if settled {
            self.restart_is_over();
        }
        for (peer, notification, words) in resets {
            self.order(peer, Command::Reset(notification, words));
        }
    }

    /// After the first sync: what OPENs say of the speaker from now on.
    fn restart_is_over(&mut self) {
        self.local = Arc::new(self.local.settled());
        let Self { sessions, orders, local, .. } = self;
        let told = |link: &SessionLink| (link.commands.clone(), Command::Local(local.clone()));
        orders.extend(sessions.values().map(told));
    }

    fn order(&mut self, peer: PeerId, command: Command) {
        if let Some(link) = self.sessions.get(&peer) {
            self.orders.push((link.commands.clone(), command));
        }
    }

    /// Hands so many pieces to sessions at most; says whether some are left.
    fn transmit(&mut self, pieces: usize) -> bool {
        for piece in 0..pieces {
            let Some(transmit) = self.speaker.poll_transmit() else { return false };
            let queue = self.sessions.get(&transmit.peer).and_then(|link| link.queue.as_ref());
            let Some(queue) = queue else { continue };
            let direct = piece < DIRECT_PIECES && transmit.octets.len() <= DIRECT_OCTETS;
            let filled = if direct {
                queue.write_or_push(transmit.octets, transmit.messages)
            } else {
                queue.push(transmit.octets, transmit.messages)
            };
            if filled {
                self.speaker.handle_writable(transmit.peer, false);
            }
        }
        true
    }

    /// Meets a request, as far as it can be without waiting.
    fn request(
        &mut self,
        request: Request,
        state: &Arc<SpeakerState>,
        events: &mpsc::Sender<(PeerId, PeerEvent)>,
    ) -> Option<Answer> {
        match request {
            Request::Apply(config, to) => {
                self.apply(config, state, events);
                return Some(Answer { to, outcome: Ok(()) });
            }
            Request::Command(name, command, to) => {
                return Some(Answer { to, outcome: self.peer_command(&name, command) });
            }
            Request::NextHops(answers) => self.speaker.handle_next_hops(now(), &answers),
            Request::Peers(answer) => {
                let peers = self.speaker.peers().into_iter().filter_map(|table| {
                    let commands = self.sessions.get(&table.peer)?.commands.clone();
                    Some((table, commands))
                });
                let _ = answer.send(peers.collect());
            }
            Request::Routes(query, answer) => {
                let _ = answer.send(self.routes(&query));
            }
            Request::Explain(selector, answer) => {
                let _ = answer.send(self.speaker.explain(selector));
            }
            Request::Stop(..) => unreachable!("the speaker's thread stops itself"),
        }
        None
    }

    fn routes(
        &self,
        query: &RouteQuery,
    ) -> Result<Vec<crate::core::view::RouteView>, RequestError> {
        if let RouteTable::Received(name) | RouteTable::Advertised(name) = &query.table {
            self.find(name).ok_or_else(|| RequestError::UnknownPeer(name.to_string()))?;
        }
        Ok(self.speaker.routes(query))
    }

    fn peer_command(&mut self, name: &str, command: PeerCommand) -> Result<(), RequestError> {
        let peer = self.find(name).ok_or_else(|| RequestError::UnknownPeer(name.to_owned()))?;
        tracing::info!(peer = name, ?command, "by an operator");
        let command = match command {
            PeerCommand::Reset(message) => Command::Reset(
                Notification::with_message(CeaseSubcode::AdministrativeReset, &message),
                "reset by an operator".to_owned(),
            ),
            PeerCommand::Disable(message) => Command::Stop(Stop::Shutdown(message)),
            PeerCommand::Enable => Command::Start,
        };
        self.order(peer, command);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<PeerId> {
        self.sessions.iter().find(|(_, link)| *link.config.name == *name).map(|(peer, _)| *peer)
    }

    fn apply(
        &mut self,
        config: Arc<SpeakerConfig>,
        state: &Arc<SpeakerState>,
        events: &mpsc::Sender<(PeerId, PeerEvent)>,
    ) {
        let actions = self.speaker.apply_config(now(), config);
        // First all that goes: an address may pass from one peer to another.
        for action in &actions {
            self.give_up_address(action);
        }
        for action in actions {
            match action {
                PeerAction::Start(peer, config) => {
                    let events = EventSender::new(peer, events.clone(), Arc::downgrade(state));
                    self.start_session(peer, config, events);
                }
                PeerAction::Update(peer, config, reset) => self.update_session(peer, config, reset),
                PeerAction::Stop(peer) => {
                    self.order(peer, Command::End(Stop::Deconfigured));
                    self.sessions.remove(&peer);
                }
            }
        }
    }

    fn give_up_address(&self, action: &PeerAction) {
        let (peer, new) = match action {
            PeerAction::Start(..) => return,
            PeerAction::Update(peer, config, _) => (peer, Some(config)),
            PeerAction::Stop(peer) => (peer, None),
        };
        let Some(link) = self.sessions.get(peer) else { return };
        let old = &link.config;
        if new.is_none_or(|new| (old.address, &old.interface) != (new.address, &new.interface)) {
            self.shared.directory.remove(old);
            self.set_listener_key(old, None);
        }
    }

    fn start_session(&mut self, peer: PeerId, config: Arc<PeerConfig>, events: EventSender) {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        self.set_password(&config);
        self.shared.directory.insert(&config, commands.clone());
        let seed = self.seed ^ u64::from(peer.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Its timer belongs to the runtime that it runs on.
        let inside = self.runtime.enter();
        let tracker = self.shared.tracker.clone();
        let task =
            SessionTask::new(config.clone(), self.local.clone(), seed, events, receiver, tracker);
        drop(inside);
        self.shared.spawn(&self.runtime, format!("the session of peer {}", config.name), task);
        self.sessions.insert(peer, SessionLink { config, commands, queue: None, handled: 0 });
    }

    fn update_session(&mut self, peer: PeerId, config: Arc<PeerConfig>, reset: Option<String>) {
        let Some(link) = self.sessions.get_mut(&peer) else { return };
        let old = std::mem::replace(&mut link.config, config.clone());
        let commands = link.commands.clone();
        self.shared.directory.insert(&config, commands);
        if (old.address, &old.password) != (config.address, &config.password) {
            self.set_password(&config);
        }
        self.order(peer, Command::Configure(config, reset));
    }

    fn set_password(&self, config: &PeerConfig) {
        self.set_listener_key(config, config.password.as_ref());
    }

    fn set_listener_key(
        &self,
        config: &PeerConfig,
        password: Option<&crate::core::config::Password>,
    ) {
        for listener in &self.listeners {
            if let Err(error) = listener.set_password(config.address, password) {
                tracing::error!(
                    peer = &*config.name,
                    listen = %listener.address(),
                    %error,
                    "cannot set the password; does the kernel have TCP MD5 (CONFIG_TCP_MD5SIG)?"
                );
            }
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

//! The speaker's thread: the only place where the tables live.
//!
//! In: requests of the handle, events of the session tasks, time. Out: after every batch of inputs
//! first the effects for the kernel and the sessions, then octets for every peer that can take
//! some. It waits for nobody: queues towards sessions are counted, not bounded by waiting, and the
//! speaker machine stops producing for a peer whose queue is full.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use routelet_proto::{CeaseSubcode, Notification};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::handle::{Request, Shared};
use super::listener::Listener;
use super::queue::WriteQueue;
use super::task::{Command, PeerEvent, SessionTask};
use super::{PeerCommand, RequestError, StopMode};
use crate::core::config::{PeerConfig, SpeakerConfig};
use crate::core::peer::PeerId;
use crate::core::session::{LocalSpeaker, Stop};
use crate::core::speaker::{Output, PeerAction, Speaker};
use crate::core::view::{RouteQuery, RouteTable};

/// Batches from sessions that may wait for the speaker; a batch is what one read gave.
pub const EVENT_QUEUE: usize = 64;
/// Commands that may wait for one session.
const COMMAND_QUEUE: usize = 64;
/// Pieces handed to sessions before inputs are looked at again.
const TRANSMIT_ROUND: usize = 1024;
/// So many pieces of a round, if they have no more octets than this each, the speaker writes to
/// resting sessions itself. More would keep it from its tables, which the sessions' threads do not.
const DIRECT_PIECES: usize = 16;
const DIRECT_OCTETS: usize = 4096;

/// The speaker and its sessions.
pub struct SpeakerThread {
    speaker: Speaker,
    shared: Arc<Shared>,
    local: Arc<LocalSpeaker>,
    sessions: HashMap<PeerId, SessionLink, foldhash::fast::FixedState>,
    listeners: Vec<Listener>,
    /// Runs the session tasks.
    runtime: Handle,
    events: mpsc::Receiver<(PeerId, PeerEvent)>,
    event_sender: mpsc::Sender<(PeerId, PeerEvent)>,
    requests: mpsc::Receiver<Request>,
    seed: u64,
}

/// What the speaker's thread knows of a session task.
struct SessionLink {
    config: Arc<PeerConfig>,
    commands: mpsc::Sender<Command>,
    /// While the session is up.
    queue: Option<Arc<WriteQueue>>,
}

impl SpeakerThread {
    /// A speaker without peers.
    pub fn new(
        shared: Arc<Shared>,
        local: Arc<LocalSpeaker>,
        listeners: Vec<Listener>,
        requests: mpsc::Receiver<Request>,
        seed: u64,
    ) -> Self {
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let start = if local.restarted { Speaker::restarted } else { Speaker::new };
        Self {
            speaker: start(now()),
            shared,
            local,
            sessions: HashMap::default(),
            listeners,
            runtime: Handle::current(),
            events,
            event_sender,
            requests,
            seed,
        }
    }

    /// Runs until it is stopped or every handle is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(EVENT_QUEUE);
        let mut unfinished = false;
        loop {
            let timeout = self.speaker.poll_timeout();
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(Request::Stop(mode, done)) => return self.stop(mode, Some(done)).await,
                    Some(request) => self.request(request).await,
                    None => return self.stop(StopMode::Restart, None).await,
                },
                () = sleep_until(timeout), if timeout.is_some() => {
                    self.speaker.handle_timeout(now());
                }
                _ = self.events.recv_many(&mut batch, EVENT_QUEUE) => self.events(&mut batch),
                () = std::future::ready(()), if unfinished => {}
            }
            self.effects().await;
            unfinished = self.transmit();
        }
    }

    /// Takes a batch of events, and further ones that are there already while sessions are lost:
    /// sessions are often lost together, and what stems from the next one that goes need not be
    /// announced in place of what the last one took away.
    fn events(&mut self, batch: &mut Vec<(PeerId, PeerEvent)>) {
        while !batch.is_empty() {
            let now = now();
            let mut lost = false;
            for (peer, event) in batch.drain(..) {
                lost |= matches!(event, PeerEvent::Down(_));
                self.event(now, peer, event);
            }
            while lost && batch.len() < EVENT_QUEUE {
                let Ok(event) = self.events.try_recv() else { break };
                batch.push(event);
            }
        }
    }

    fn event(&mut self, now: Instant, peer: PeerId, event: PeerEvent) {
        // A session that was stopped may still have had something to say.
        let Some(session) = self.sessions.get_mut(&peer) else { return };
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

    /// Carries out what the speaker wants, the kernel's part in one go.
    async fn effects(&mut self) {
        let (mut resets, mut disabled, mut settled) = (Vec::new(), Vec::new(), false);
        let mut first = self.speaker.poll_output();
        if first.is_none() {
            return;
        }
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
            self.restart_is_over().await;
        }
        for (peer, notification, words) in resets {
            self.command(peer, Command::Reset(notification, words)).await;
        }
    }

    /// After the first sync: what OPENs say of the speaker from now on.
    async fn restart_is_over(&mut self) {
        self.local = Arc::new(self.local.settled());
        for link in self.sessions.values() {
            let _ = link.commands.send(Command::Local(self.local.clone())).await;
        }
    }

    /// Hands octets to sessions; says whether some are left.
    fn transmit(&mut self) -> bool {
        for piece in 0..TRANSMIT_ROUND {
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

    async fn request(&mut self, request: Request) {
        match request {
            Request::Apply(config, done) => {
                self.apply(config).await;
                let _ = done.send(());
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
            Request::Command(name, command, answer) => {
                let _ = answer.send(self.peer_command(&name, command).await);
            }
            Request::Stop(..) => unreachable!("handled in run"),
        }
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

    async fn peer_command(&self, name: &str, command: PeerCommand) -> Result<(), RequestError> {
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
        self.command(peer, command).await;
        Ok(())
    }

    fn find(&self, name: &str) -> Option<PeerId> {
        self.sessions.iter().find(|(_, link)| *link.config.name == *name).map(|(peer, _)| *peer)
    }

    async fn apply(&mut self, config: Arc<SpeakerConfig>) {
        let actions = self.speaker.apply_config(now(), config);
        // First all that goes: an address may pass from one peer to another.
        for action in &actions {
            self.give_up_address(action);
        }
        for action in actions {
            match action {
                PeerAction::Start(peer, config) => self.start_session(peer, config),
                PeerAction::Update(peer, config, reset) => {
                    self.update_session(peer, config, reset).await;
                }
                PeerAction::Stop(peer) => self.stop_session(peer).await,
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

    fn start_session(&mut self, peer: PeerId, config: Arc<PeerConfig>) {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        self.set_password(&config);
        self.shared.directory.insert(&config, commands.clone());
        let shared = self.shared.clone();
        let (local, events) = (self.local.clone(), self.event_sender.clone());
        let seed = self.seed ^ u64::from(peer.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let name = config.name.clone();
        let task_config = config.clone();
        self.shared.spawn(&self.runtime, format!("the session of peer {name}"), async move {
            let tracker = shared.tracker.clone();
            drop(shared);
            SessionTask::new(peer, task_config, local, seed, events, receiver, tracker).run().await;
        });
        self.sessions.insert(peer, SessionLink { config, commands, queue: None });
    }

    async fn update_session(
        &mut self,
        peer: PeerId,
        config: Arc<PeerConfig>,
        reset: Option<String>,
    ) {
        let Some(link) = self.sessions.get_mut(&peer) else { return };
        let old = std::mem::replace(&mut link.config, config.clone());
        let commands = link.commands.clone();
        self.shared.directory.insert(&config, commands);
        if (old.address, &old.password) != (config.address, &config.password) {
            self.set_password(&config);
        }
        self.command(peer, Command::Configure(config, reset)).await;
    }

    async fn stop_session(&mut self, peer: PeerId) {
        let Some(link) = self.sessions.remove(&peer) else { return };
        // A task that is gone needs no telling.
        let _ = link.commands.send(Command::End(Stop::Deconfigured)).await;
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

    /// Session tasks never wait for the speaker without taking commands, so this cannot deadlock.
    async fn command(&self, peer: PeerId, command: Command) {
        if let Some(link) = self.sessions.get(&peer) {
            let _ = link.commands.send(command).await;
        }
    }

    /// Ends all sessions; their tasks write what there is to write.
    async fn stop(self, mode: StopMode, done: Option<oneshot::Sender<()>>) {
        self.shared.stop_listening();
        for link in self.sessions.values() {
            let how = match mode {
                StopMode::Restart => Stop::Restart,
                // The NOTIFICATION makes the peers withdraw; where they would survive it, it is a
                // Hard Reset.
                StopMode::Withdraw => Stop::Shutdown("routes withdrawn".to_owned()),
            };
            let _ = link.commands.send(Command::End(how)).await;
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

async fn sleep_until(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

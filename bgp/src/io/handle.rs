//! The handle to a running speaker: starting it, asking it, stopping it.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::listener::Listener;
use super::request::{Request, Shared};
use super::speaker::SpeakerThread;
use super::state::SpeakerState;
use super::{DriverConfig, PeerCommand, RequestError, RouteQueue, SpeakerHandle, StopMode};
use crate::core::config::SpeakerConfig;
use crate::core::forwarding::NextHopAnswer;
use crate::core::session::LocalSpeaker;
use crate::core::view::{
    ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView, SessionView,
};

/// Requests that may wait for the speaker.
const REQUEST_QUEUE: usize = 64;
/// How long stopping may take.
const STOP_LIMIT: Duration = Duration::from_secs(2);

impl SpeakerHandle {
    /// Binds the listeners, starts the speaker's thread and its tasks.
    ///
    /// # Errors
    /// An address that cannot be bound, in words that name the address and the capability
    /// (NET_BIND_SERVICE) where that is what is missing.
    pub async fn start(driver: DriverConfig, config: Arc<SpeakerConfig>) -> io::Result<Self> {
        let listeners =
            driver.listen.into_iter().map(Listener::bind).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared::new(listeners.iter().map(Listener::address).collect()));
        let local = Arc::new(LocalSpeaker {
            router_id: config.router_id,
            host_name: config.host_name.clone(),
            restarted: driver.restarted,
            forwarding: driver.forwarding,
        });
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        spawn_thread(shared.clone(), local, listeners.clone(), receiver)?;
        let handle = Self { shared: shared.clone(), requests };
        // The peers' passwords are on the listeners before the first connection is accepted.
        handle.apply(config).await.map_err(io::Error::other)?;
        for listener in listeners {
            let what = format!("the listener on {}", listener.address());
            let directory = shared.directory.clone();
            let task = shared.spawn(&Handle::current(), what, listener.run(directory));
            shared.listening.lock().expect("invariant: no holder panics").push(task);
        }
        Ok(handle)
    }

    /// What the kernel side is to do.
    #[must_use]
    pub fn route_queue(&self) -> Arc<RouteQueue> {
        self.shared.queue.clone()
    }

    /// Where it listens, ports of 0 resolved.
    #[must_use]
    pub fn listen_addresses(&self) -> &[std::net::SocketAddr] {
        &self.shared.addresses
    }

    /// How many connections came from addresses that no peer has.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.shared.directory.strangers()
    }

    /// Applies a new configuration; returns when the speaker has taken it.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn apply(&self, config: Arc<SpeakerConfig>) -> Result<(), RequestError> {
        self.ask(|answer| Request::Apply(config, answer)).await?
    }

    /// Answers about next hops, from the kernel side.
    pub async fn answer_next_hops(&self, answers: Vec<NextHopAnswer>) {
        // A speaker that has stopped needs no answers.
        let _ = self.requests.send(Request::NextHops(answers)).await;
    }

    /// The peers: session and tables side by side, by name.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn peers(&self) -> Result<Vec<(SessionView, PeerTableView)>, RequestError> {
        let peers = self.ask(Request::Peers).await?;
        let mut asked = Vec::with_capacity(peers.len());
        for (table, commands) in peers {
            let (answer, view) = oneshot::channel();
            // A session that is just ending is left out.
            if commands.send(Box::new(Command::View(answer))).await.is_ok() {
                asked.push((view, table));
            }
        }
        let mut views = Vec::with_capacity(asked.len());
        for (view, table) in asked {
            if let Ok(session) = view.await {
                views.push((session, table));
            }
        }
        Ok(views)
    }

    /// Routes.
    ///
    /// # Errors
    /// [`RequestError::UnknownPeer`] for a table of a peer that is not there.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteView>, RequestError> {
        self.ask(|answer| Request::Routes(query, answer)).await?
    }

    /// Everything about one destination.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn explain(&self, selector: RouteSelector) -> Result<ExplainView, RequestError> {
        self.ask(|answer| Request::Explain(selector, answer)).await
    }

    /// Does something to a peer by hand.
    ///
    /// # Errors
    /// [`RequestError::UnknownPeer`].
    pub async fn command(&self, peer: &str, command: PeerCommand) -> Result<(), RequestError> {
        self.ask(|answer| Request::Command(peer.to_owned(), command, answer)).await?
    }

    /// Whether every configured peer has sent End-of-RIB or its deferral has passed.
    #[must_use]
    pub fn first_sync(&self) -> bool {
        self.shared.first_sync.load(Ordering::Acquire)
    }

    /// Ends every session and the thread; returns when all is sent and closed, at the latest after
    /// two seconds.
    pub async fn stop(&self, mode: StopMode) {
        let stopping = async {
            // Stopped already: then there is nothing to wait for but the tasks.
            let _ = self.ask(|answer| Request::Stop(mode, answer)).await;
            self.shared.tracker.close();
            self.shared.tracker.wait().await;
        };
        if tokio::time::timeout(STOP_LIMIT, stopping).await.is_err() {
            tracing::warn!("some sessions did not close in time");
        }
    }

    /// Completes when the speaker's thread or a session task has panicked, with the reason; never
    /// otherwise. The agent then ends with a non-zero exit.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(words) => words.clone().unwrap_or_default(),
            // The sender lives in what we hold ourselves.
            Err(_) => std::future::pending().await,
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, RequestError> {
        let (sender, answer) = oneshot::channel();
        self.requests.send(request(sender)).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)
    }
}

/// The speaker has a thread of its own, so that a large table keeps no KEEPALIVE waiting.
fn spawn_thread(
    shared: Arc<Shared>,
    local: Arc<LocalSpeaker>,
    listeners: Vec<Listener>,
    requests: mpsc::Receiver<Request>,
) -> io::Result<()> {
    let sessions = Handle::current();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let run = move || {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let guard = sessions.enter();
            let state = SpeakerState::new(shared.clone(), local, listeners, random_seed());
            drop(guard);
            runtime.block_on(SpeakerThread::new(state, requests).run());
        }));
        if let Err(panic) = outcome {
            shared.fail("the speaker", &*panic);
        }
    };
    std::thread::Builder::new().name("speaker".to_owned()).spawn(run).map(drop)
}

/// A seed for the jitter of timers. It need not be secret, only different from node to node.
fn random_seed() -> u64 {
    let mut octets = [0; 8];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut octets));
    if read.is_err() {
        return u64::from(std::process::id());
    }
    u64::from_ne_bytes(octets)
}

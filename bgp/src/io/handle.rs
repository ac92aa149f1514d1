//! The handle to a running speaker: starting it, asking it, stopping it.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::listener::{Directory, Listener};
use super::speaker::SpeakerThread;
use super::state::SpeakerState;
use super::task::Command;
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

/// What the speaker's thread is asked.
#[derive(Debug)]
pub enum Request {
    /// Take a configuration.
    Apply(Arc<SpeakerConfig>, oneshot::Sender<Result<(), RequestError>>),
    /// Answers about next hops.
    NextHops(Vec<NextHopAnswer>),
    /// The peers' tables, and where their sessions can be asked.
    Peers(oneshot::Sender<Vec<(PeerTableView, mpsc::Sender<Command>)>>),
    /// Routes.
    Routes(RouteQuery, oneshot::Sender<Result<Vec<RouteView>, RequestError>>),
    /// One destination.
    Explain(RouteSelector, oneshot::Sender<ExplainView>),
    /// Something done to a peer by hand.
    Command(String, PeerCommand, oneshot::Sender<Result<(), RequestError>>),
    /// End.
    Stop(StopMode, oneshot::Sender<()>),
}

/// What the handle, the speaker's thread and the tasks share.
#[derive(Debug)]
pub struct Shared {
    /// Towards the kernel side.
    pub queue: Arc<RouteQueue>,
    /// Who may connect.
    pub directory: Arc<Directory>,
    /// Every task, so that stopping can wait for them.
    pub tracker: TaskTracker,
    /// The speaker's first sync is complete.
    pub first_sync: AtomicBool,
    failure: watch::Sender<Option<String>>,
    listening: Mutex<Vec<AbortHandle>>,
    addresses: Vec<std::net::SocketAddr>,
}

impl Shared {
    /// Of a speaker that listens on these addresses.
    pub fn new(addresses: Vec<std::net::SocketAddr>) -> Self {
        Self {
            queue: Arc::new(RouteQueue::default()),
            directory: Arc::new(Directory::default()),
            tracker: TaskTracker::new(),
            first_sync: AtomicBool::new(false),
            failure: watch::Sender::new(None),
            listening: Mutex::new(Vec::new()),
            addresses,
        }
    }

    /// Runs `task`; a panic in it is a failure of the whole speaker, named by `what`.
    pub fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        what: String,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let shared = self.clone();
        let guarded = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                shared.fail(&what, &*panic);
            }
        };
        self.tracker.spawn_on(guarded, runtime).abort_handle()
    }

    /// Accepts no more connections.
    pub fn stop_listening(&self) {
        for task in self.listening.lock().expect("invariant: no holder panics").drain(..) {
            task.abort();
        }
    }

    fn fail(&self, what: &str, panic: &(dyn Any + Send)) {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let words = format!("{what} panicked: {message}");
        tracing::error!(reason = words, "internal error");
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(words);
            }
            first
        });
    }
}

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
            if commands.send(Command::View(answer)).await.is_ok() {
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

//! What the speaker's thread is asked, and what the handle, the thread and the tasks share.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::command::CommandSender;
use super::listener::Directory;
use super::{PeerCommand, RequestError, RouteQueue, StopMode};
use crate::core::config::SpeakerConfig;
use crate::core::forwarding::NextHopAnswer;
use crate::core::view::{ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView};

/// What the speaker's thread is asked.
#[derive(Debug)]
pub enum Request {
    /// Take a configuration.
    Apply(Arc<SpeakerConfig>, oneshot::Sender<Result<(), RequestError>>),
    /// Answers about next hops.
    NextHops(Vec<NextHopAnswer>),
    /// The peers' tables, and where their sessions can be asked.
    Peers(oneshot::Sender<Vec<(PeerTableView, CommandSender)>>),
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
    /// Why the speaker has failed, once it has.
    pub failure: watch::Sender<Option<String>>,
    /// The listeners' tasks.
    pub listening: Mutex<Vec<AbortHandle>>,
    /// Where it listens.
    pub addresses: Vec<std::net::SocketAddr>,
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
        // No async block: it would hold the task twice.
        let guarded = AssertUnwindSafe(task).catch_unwind().map(move |outcome| {
            if let Err(panic) = outcome {
                shared.fail(&what, &*panic);
            }
        });
        self.tracker.spawn_on(guarded, runtime).abort_handle()
    }

    /// Accepts no more connections.
    pub fn stop_listening(&self) {
        for task in self.listening.lock().expect("invariant: no holder panics").drain(..) {
            task.abort();
        }
    }

    pub fn fail(&self, what: &str, panic: &(dyn Any + Send)) {
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

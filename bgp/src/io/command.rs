//! What a session task is told: by the speaker, by the listener that has a connection for it, and by
//! whoever wants to see it.

use std::net::SocketAddr;
use std::sync::Arc;

use routelet_proto::Notification;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::core::config::PeerConfig;
use crate::core::session::{LocalSpeaker, Stop};
use crate::core::view::SessionView;

/// A session's end of its commands. Boxed: a channel takes the memory of 32 from the first one on,
/// and most sessions are hardly ever told anything.
pub type CommandReceiver = mpsc::Receiver<Box<Command>>;
/// The end of whoever tells it something.
pub type CommandSender = mpsc::Sender<Box<Command>>;

/// What a session task is told.
#[derive(Debug)]
pub enum Command {
    /// The peer has connected.
    Incoming(TcpStream, SocketAddr),
    /// Let the session come up.
    Start,
    /// End it until it is started again.
    Stop(Stop),
    /// End it, close everything, and end the task.
    End(Stop),
    /// End it with this NOTIFICATION, for this reason; it comes back.
    Reset(Notification, String),
    /// A new configuration, and why the session must be reset for it.
    Configure(Arc<PeerConfig>, Option<String>),
    /// What OPENs from now on say of the speaker.
    Local(Arc<LocalSpeaker>),
    /// Show yourself.
    View(oneshot::Sender<SessionView>),
}

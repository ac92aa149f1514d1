//! Tests of the driver over loopback: real sockets, real time, no sleeping for luck.

mod handles;
mod sessions;
mod state;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use routelet_proto::{
    Asn, BgpIdentifier, DecodeContext, FamilySet, HoldTime, Message, Notification, Open,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;
use tokio_util::task::TaskTracker;

use super::codec::BgpCodec;
use super::command::{Command, CommandSender};
use super::events::{EVENT_QUEUE, EventSender, PeerEvent};
use super::listener::{Directory, Listener};
use super::task::SessionTask;
use crate::core::config::{PeerConfig, PeerKind};
use crate::core::peer::{PeerId, State};
use crate::core::session::{LocalSpeaker, build_open};
use crate::core::view::SessionView;

/// Longer than anything here takes, shorter than anybody wants to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a test gives up on after [`PATIENCE`].
pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Asks again and again until the answer is there.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    in_time(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

pub(super) fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(super) fn speaker(address: Ipv4Addr) -> Arc<LocalSpeaker> {
    Arc::new(LocalSpeaker {
        router_id: BgpIdentifier(address),
        host_name: "test".to_owned(),
        restarted: false,
        forwarding: FamilySet::EMPTY,
    })
}

/// An internal peer in AS 65001 at `remote`, spoken to from `local`.
pub(super) fn peer(local: Ipv4Addr, remote: SocketAddr) -> PeerConfig {
    let (name, asn) = (remote.ip().to_string(), Asn(65001));
    PeerConfig {
        port: remote.port(),
        source_address: Some(local.into()),
        connect_retry_time: Duration::from_secs(1),
        ttl: 64,
        ..PeerConfig::new(name, PeerKind::Mesh, remote.ip(), asn, asn)
    }
}

/// A listener and session tasks without tables: the test takes the speaker's place.
pub(super) struct Node {
    pub(super) address: Ipv4Addr,
    pub(super) listener: Listener,
    pub(super) directory: Arc<Directory>,
    pub(super) events: mpsc::Receiver<(PeerId, PeerEvent)>,
    sender: mpsc::Sender<(PeerId, PeerEvent)>,
    next_peer: u32,
}

impl Node {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let listener = Listener::bind((address, 0).into()).unwrap();
        let directory = Arc::new(Directory::default());
        tokio::spawn(listener.clone().run(directory.clone()));
        Self { address, listener, directory, events, sender, next_peer: 0 }
    }

    pub(super) fn listens_on(&self) -> SocketAddr {
        self.listener.address()
    }

    pub(super) fn add(&mut self, config: PeerConfig) -> CommandSender {
        let (commands, receiver) = mpsc::channel(64);
        self.listener.set_password(config.address, config.password.as_ref()).unwrap();
        self.directory.insert(&config, commands.clone());
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        let task = SessionTask::new(
            Arc::new(config),
            speaker(self.address),
            u64::from(peer.0),
            EventSender::new(peer, self.sender.clone(), Weak::new()),
            receiver,
            TaskTracker::new(),
        );
        tokio::spawn(task);
        commands
    }

    /// A passive peer at `remote`, which a test plays by hand.
    pub(super) fn add_passive(&mut self, remote: Ipv4Addr) -> CommandSender {
        let mut config = peer(self.address, (remote, 1).into());
        config.passive = true;
        self.add(config)
    }

    /// Connects as `remote` would.
    pub(super) async fn connect_from(&self, remote: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((remote, 0).into()).unwrap();
        let stream = in_time("connect", socket.connect(self.listens_on())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(super) async fn event(&mut self) -> (PeerId, PeerEvent) {
        in_time("an event", self.events.recv()).await.expect("the sender lives in the node")
    }

    /// The next event must be a session's going up.
    pub(super) async fn expect_up(&mut self) -> PeerId {
        match self.event().await {
            (peer, PeerEvent::Up(..)) => peer,
            (peer, event) => panic!("{peer:?}: {event:?}"),
        }
    }
}

pub(super) async fn view(commands: &CommandSender) -> SessionView {
    let (sender, answer) = oneshot::channel();
    commands.send(Box::new(Command::View(sender))).await.expect("the task runs");
    in_time("a view", answer).await.unwrap()
}

pub(super) async fn wait_for_state(commands: &CommandSender, state: State) -> SessionView {
    until("a state", || async {
        let view = view(commands).await;
        (view.state == state).then_some(view)
    })
    .await
}

pub(super) async fn wait_for_error(commands: &CommandSender, words: &str) {
    in_time(words, async {
        loop {
            let view = view(commands).await;
            if view.last_error.as_ref().is_some_and(|(error, _)| error.contains(words)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A peer played by the test.
pub(super) struct Played {
    framed: Framed<TcpStream, BgpCodec>,
}

impl Played {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { framed: Framed::new(stream, BgpCodec { extended_message: true }) }
    }

    pub(super) async fn send(&mut self, message: &Message) {
        self.framed.send(message).await.unwrap();
    }

    /// The next message, `None` at the end of the connection.
    pub(super) async fn receive(&mut self) -> Option<Message> {
        let frame = in_time("a message", self.framed.next()).await?.ok()?;
        Some(Message::decode(&frame, &DecodeContext::default()).unwrap())
    }

    /// Exchanges OPENs and KEEPALIVEs.
    pub(super) async fn establish(&mut self, open: Open) {
        self.send(&Message::Open(open)).await;
        assert!(matches!(self.receive().await, Some(Message::Open(_))));
        self.send(&Message::Keepalive).await;
        assert_eq!(self.receive().await, Some(Message::Keepalive));
    }

    pub(super) async fn expect_notification(&mut self) -> Notification {
        loop {
            match self.receive().await {
                Some(Message::Notification(notification)) => return notification,
                Some(_) => {}
                None => panic!("closed without a NOTIFICATION"),
            }
        }
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.framed.into_inner()
    }
}

/// The OPEN that the peer at `remote` sends.
pub(super) fn open_of(remote: Ipv4Addr) -> Open {
    let config = peer(remote, (Ipv4Addr::LOCALHOST, 1).into());
    build_open(&config, &speaker(remote), false)
}

pub(super) fn far_future() -> Instant {
    tokio::time::Instant::now().into_std() + PATIENCE
}

pub(super) fn ip(address: Ipv4Addr) -> IpAddr {
    address.into()
}

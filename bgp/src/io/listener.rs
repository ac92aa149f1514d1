//! Listening: one task per address, connections of configured peers to their session tasks.
//!
//! In: connections. Out: [`Command::Incoming`] to the task of the peer with that source address.
//! A stranger's connection is closed at once and costs a counter; a task that does not keep up has
//! its peer's connection dropped. Passwords of peers are on the listening sockets before anything
//! comes (RFC 2385).

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::net::if_::if_indextoname;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::command::{Command, CommandSender};
use super::sockopt;
use crate::core::config::{Password, PeerConfig};

/// Connections that may wait to be accepted: a thousand nodes that start at once.
const BACKLOG: i32 = 4096;
/// Strangers are logged at most so often.
const STRANGER_LOG: Duration = Duration::from_secs(10);
/// Pause when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may connect. Written by the speaker's thread, read by the listeners.
#[derive(Debug, Default)]
pub struct Directory {
    peers: Mutex<HashMap<Key, CommandSender, foldhash::fast::FixedState>>,
    strangers: AtomicU64,
}

/// A peer's address, and its interface where the address is link-local.
type Key = (IpAddr, Option<String>);

impl Directory {
    /// Lets the peer of `config` connect.
    pub fn insert(&self, config: &PeerConfig, commands: CommandSender) {
        self.lock().insert(key(config), commands);
    }

    /// Lets it connect no more.
    pub fn remove(&self, config: &PeerConfig) {
        self.lock().remove(&key(config));
    }

    /// How many connections of strangers were closed.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    fn find(&self, remote: SocketAddr) -> Option<CommandSender> {
        let interface = match remote {
            SocketAddr::V6(remote) if remote.ip().is_unicast_link_local() => {
                if_indextoname(remote.scope_id()).ok().and_then(|name| name.into_string().ok())
            }
            _ => None,
        };
        self.lock().get(&(remote.ip(), interface)).cloned()
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<Key, CommandSender, foldhash::fast::FixedState>> {
        self.peers.lock().expect("invariant: no holder panics")
    }
}

fn key(config: &PeerConfig) -> Key {
    let link_local = matches!(config.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (config.address, config.interface.clone().filter(|_| link_local))
}

/// A listening socket.
#[derive(Clone, Debug)]
pub struct Listener {
    socket: Arc<TcpListener>,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; the address itself may come to the host later.
    ///
    /// # Errors
    /// What the operating system says, in words that name the address and what to do.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let bind = || {
            let socket =
                Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
                socket.set_freebind_v6(true)?;
            } else {
                socket.set_freebind_v4(true)?;
            }
            // The answer to a SYN is sent before the peer is known; a peer that enforces a TTL
            // (RFC 5082) would drop a lower one.
            sockopt::set_ttl(&socket, address.ip(), 255)?;
            sockopt::save_syn(&socket)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        let socket = bind().map_err(|error| bind_error(address, &error))?;
        let address = socket.local_addr()?;
        Ok(Self { socket: Arc::new(socket), address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets or removes the key for a peer, if the peer can come this way.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn set_password(&self, peer: IpAddr, password: Option<&Password>) -> io::Result<()> {
        if peer.is_ipv4() != self.address.is_ipv4() {
            return Ok(());
        }
        match sockopt::set_md5_key(&*self.socket, peer, password) {
            // There was none to remove.
            Err(error) if password.is_none() && error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Accepts for ever.
    pub async fn run(self, directory: Arc<Directory>) {
        let mut strangers = StrangerLog::default();
        loop {
            match self.socket.accept().await {
                Ok((stream, remote)) => match directory.find(remote) {
                    Some(commands) => hand_over(&commands, stream, remote),
                    None => {
                        directory.strangers.fetch_add(1, Ordering::Relaxed);
                        strangers.note(remote);
                    }
                },
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(listen = %self.address, %error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn hand_over(commands: &CommandSender, stream: TcpStream, remote: SocketAddr) {
    if commands.try_send(Box::new(Command::Incoming(stream, remote))).is_err() {
        tracing::debug!(%remote, "a connection was dropped: its session is busy or ending");
    }
}

/// Errors that `accept` reports of a connection that has already failed.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// Counts strangers between two lines of the log.
#[derive(Debug, Default)]
struct StrangerLog {
    last: Option<Instant>,
    unlogged: u64,
}

impl StrangerLog {
    fn note(&mut self, remote: SocketAddr) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < STRANGER_LOG) {
            self.unlogged += 1;
            return;
        }
        let more = std::mem::take(&mut self.unlogged);
        tracing::warn!(address = %remote.ip(), more, "connection refused: no peer has this address");
        self.last = Some(now);
    }
}

fn bind_error(address: SocketAddr, error: &io::Error) -> io::Error {
    let wildcard = address.ip() == Ipv4Addr::UNSPECIFIED || address.ip() == Ipv6Addr::UNSPECIFIED;
    let words = match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "not allowed to listen on {address}: ports below 1024 need the capability \
             NET_BIND_SERVICE (or listenPort above 1023)"
        ),
        ErrorKind::AddrInUse if wildcard => format!(
            "cannot listen on {address}: another process has port {}; is another BGP daemon \
             running?",
            address.port()
        ),
        ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: another process has this address and port; is another \
             BGP daemon running?"
        ),
        _ => format!("cannot listen on {address}: {error}"),
    };
    io::Error::new(error.kind(), words)
}

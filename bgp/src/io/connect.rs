//! Opening a connection to a peer, and the words for what goes wrong with one.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::sockopt;
use crate::core::config::PeerConfig;

/// How old what is known of the host's subnets may be.
const SUBNETS_VALID: Duration = Duration::from_millis(200);

/// Connects to the peer. How long that may take is the session machine's to say: it drops the
/// attempt when ConnectRetryTime has passed.
///
/// # Errors
/// What the operating system says; [`connect_words`] makes a sentence of it.
pub async fn connect(config: Arc<PeerConfig>) -> io::Result<TcpStream> {
    let remote = peer_address(&config)?;
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(password) = &config.password {
        sockopt::set_md5_key(&socket, config.address, Some(password))?;
    }
    prepare(&socket, &config)?;
    if let Some(source) = config.source_address {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(remote).await
}

/// Sets what every connection with the peer has, whoever opened it.
///
/// # Errors
/// What `setsockopt` says; a connection that came from further away than the peer may be.
pub fn prepare(socket: &impl std::os::fd::AsFd, config: &PeerConfig) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_nodelay(true)?;
    sockopt::set_ttl(socket, config.address, config.ttl)?;
    if let Some(least) = config.minimum_received_ttl {
        sockopt::set_minimum_ttl(socket, config.address, least)?;
        // The limit holds from now on. What came right behind the SYN of an accepted connection is
        // in the buffer already, but has come the same way.
        if let Some(ttl) = sockopt::syn_ttl(socket).filter(|ttl| *ttl < least) {
            return Err(io::Error::other(format!(
                "it came with TTL {ttl}, and ttlSecurity asks for {least}"
            )));
        }
    }
    Ok(())
}

fn peer_address(config: &PeerConfig) -> io::Result<SocketAddr> {
    Ok(match (config.address, config.interface.as_deref()) {
        (IpAddr::V6(address), Some(interface)) => {
            let scope = if_nametoindex(interface).map_err(|error| {
                io::Error::other(format!("interface {interface} is not there: {}", error.desc()))
            })?;
            SocketAddrV6::new(address, config.port, 0, scope).into()
        }
        (address, _) => SocketAddr::new(address, config.port),
    })
}

/// Why a connection could not be opened, for people.
#[must_use]
pub fn connect_words(config: &PeerConfig, error: &io::Error) -> String {
    let (address, port) = (config.address, config.port);
    match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "connection refused by {address} port {port}: no BGP speaker listens there, or its \
             ACL closes it"
        ),
        ErrorKind::TimedOut => format!(
            "connection to {address} port {port} timed out; check reachability, and the password \
             if one is set"
        ),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("no route to {address}: {error}")
        }
        ErrorKind::AddrNotAvailable => match config.source_address {
            Some(source) => format!("sourceAddress {source} is not an address of this host"),
            None => format!("cannot connect to {address} port {port}: {error}"),
        },
        ErrorKind::PermissionDenied => format!(
            "not allowed to connect to {address} port {port}: {error}; does a packet filter on \
             this host forbid it?"
        ),
        _ => format!("cannot connect to {address} port {port}: {error}"),
    }
}

/// Why an open connection ended, for people.
#[must_use]
pub fn closed_words(error: Option<&io::Error>) -> String {
    match error {
        None => "connection closed by the peer".to_owned(),
        Some(error) => match error.kind() {
            ErrorKind::ConnectionReset => "connection reset by the peer".to_owned(),
            ErrorKind::BrokenPipe => "connection closed by the peer while we wrote".to_owned(),
            ErrorKind::TimedOut => {
                "connection timed out: the peer's host answers nothing".to_owned()
            }
            _ => format!("connection failed: {error}"),
        },
    }
}

/// Index of the interface on whose subnet both ends of a connection are; 0 if there is none, as
/// for a multihop session.
#[must_use]
pub fn shared_interface(local: SocketAddr, remote: SocketAddr) -> u32 {
    if let SocketAddr::V6(remote) = remote
        && remote.scope_id() != 0
    {
        return remote.scope_id();
    }
    subnets()
        .iter()
        .filter(|subnet| {
            same_subnet(subnet.own, local.ip(), subnet.mask)
                && same_subnet(subnet.own, remote.ip(), subnet.mask)
        })
        // On the loopback interface our end may be any address of its subnet.
        .max_by_key(|subnet| subnet.own == local.ip())
        .and_then(|subnet| if_nametoindex(subnet.interface.as_str()).ok())
        .unwrap_or(0)
}

/// A subnet that the host is on.
struct Subnet {
    interface: String,
    own: IpAddr,
    mask: IpAddr,
}

/// The subnets the host is on, at most [`SUBNETS_VALID`] old: when a thousand peers connect at
/// once the kernel is not asked a thousand times.
fn subnets() -> Arc<[Subnet]> {
    static LATEST: Mutex<Option<(Instant, Arc<[Subnet]>)>> = Mutex::new(None);
    let mut latest = LATEST.lock().expect("invariant: no holder panics");
    let now = Instant::now();
    if let Some((at, subnets)) = &*latest
        && now.duration_since(*at) < SUBNETS_VALID
    {
        return subnets.clone();
    }
    let subnets: Arc<[Subnet]> = getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let (own, mask) = (ip_address(interface.address)?, ip_address(interface.netmask)?);
            Some(Subnet { interface: interface.interface_name, own, mask })
        })
        .collect();
    *latest = Some((now, subnets.clone()));
    subnets
}

fn ip_address(storage: Option<SockaddrStorage>) -> Option<IpAddr> {
    let storage = storage?;
    storage
        .as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn same_subnet(one: IpAddr, other: IpAddr, mask: IpAddr) -> bool {
    match (one, other, mask) {
        (IpAddr::V4(one), IpAddr::V4(other), IpAddr::V4(mask)) => {
            (one.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other), IpAddr::V6(mask)) => {
            (one.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        let same = |one: &str, other: &str, mask: &str| {
            same_subnet(one.parse().unwrap(), other.parse().unwrap(), mask.parse().unwrap())
        };
        assert!(same("10.0.0.1", "10.0.0.254", "255.255.255.0"));
        assert!(!same("10.0.0.1", "10.0.1.1", "255.255.255.0"));
        assert!(same("2001:db8::1", "2001:db8::2", "ffff:ffff:ffff:ffff::"));
        assert!(!same("10.0.0.1", "2001:db8::2", "255.255.255.0"));
    }

    #[test]
    fn the_loopback_interface_is_shared_with_oneself() {
        let local: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let lo = if_nametoindex("lo").unwrap();
        assert_eq!(shared_interface(local, "127.9.9.9:1".parse().unwrap()), lo);
        assert_eq!(shared_interface(local, "192.0.2.1:1".parse().unwrap()), 0);
    }
}

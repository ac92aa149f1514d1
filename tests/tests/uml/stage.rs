//! What the cases share: three subnets with a plain router between them, words for `ip`, packets of
//! an exact size, and a look at what passes the router.
//!
//! ```text
//!   node1 ─┐                    ┌─ node2      the router knows the subnets and no pods;
//!          ├ subnet1 ─ tor ─ subnet2          `drop_pods` makes it refuse pod sources too
//!   node4 ─┘        └─ subnet3 ─── node3
//! ```

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::netns::Netns;
use routelet::lab::now;
use routelet::lab::ping::{PingStream, ping, reaches};
use socket2::{Domain, Protocol, Socket, Type};

/// How long something may take that should happen soon, on one slow processor among others.
pub const SOON: Duration = Duration::from_secs(40);
/// How long nothing must come back to be sure that nothing does.
pub const SILENCE: Duration = Duration::from_millis(300);
/// Requests that must have been sent for that, one every 20 ms: a guest that stands still sends none.
const UNANSWERED: u64 = 20;

/// Runs `ip` in a namespace and gives what it printed.
///
/// # Errors
/// If it fails: with what it says.
pub fn ip(netns: &Netns, words: &str) -> anyhow::Result<String> {
    run(netns, "ip", words)
}

/// Runs a program in a namespace and gives what it printed.
///
/// # Errors
/// If it fails: with what it says.
pub fn run(netns: &Netns, program: &str, words: &str) -> anyhow::Result<String> {
    netns.output(Command::new(program).args(words.split_whitespace()))
}

/// That `ip` refuses, and what it says.
///
/// # Errors
/// If it succeeds.
pub fn refused(netns: &Netns, words: &str) -> anyhow::Result<String> {
    let output = netns.run(|| Command::new("ip").args(words.split_whitespace()).output())?;
    ensure!(!output.status.success(), "ip {words} succeeds");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Lines of `ip route show` for a prefix in the main table, each on one line.
///
/// # Errors
/// If `ip` fails.
pub fn routes(netns: &Netns, words: &str) -> anyhow::Result<Vec<String>> {
    let shown = ip(netns, &format!("route show {words}"))?.replace("\n\t", " ");
    Ok(shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// That an address answers within [`SOON`].
///
/// # Errors
/// If it does not.
pub fn reached(from: &Netns, to: impl Into<IpAddr>) -> anyhow::Result<()> {
    let to = to.into();
    let report = reaches(from, to, SOON)?;
    ensure!(report.received > 0, "{} does not reach {to}: {report}", from.name());
    Ok(())
}

/// That an address does not answer.
///
/// # Errors
/// If it does.
pub fn silent(from: &Netns, to: impl Into<IpAddr>) -> anyhow::Result<()> {
    let to = to.into();
    let report = ping(from, to, UNANSWERED, Duration::from_millis(20), SILENCE)?;
    ensure!(report.received == 0, "{} reaches {to}: {report}", from.name());
    Ok(())
}

/// That a running ping, which is ended here, lost nothing. It goes on until it has been one for a
/// while.
///
/// # Errors
/// With the gaps.
pub fn lossless(what: &str, stream: PingStream) -> anyhow::Result<()> {
    let deadline = now() + SOON;
    while stream.received() < 100 && now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let report = stream.stop();
    ensure!(report.lost() == 0 && report.sent >= 100, "{what}: {report}");
    Ok(())
}

/// Makes a router without routes to pods refuse their packets: there is no way back to the source.
///
/// # Errors
/// If the kernel refuses.
pub fn drop_pods(router: &Netns) -> anyhow::Result<()> {
    router.rp_filter(1)
}

/// Sends an echo request that is `size` octets long with its IPv4 header and must not be fragmented.
/// Says whether it was answered.
///
/// # Errors
/// If there is no raw socket. A packet that the own device cannot carry is not answered.
pub fn whole(from: &Netns, to: IpAddr, size: u16) -> anyhow::Result<bool> {
    let IpAddr::V4(to) = to else { anyhow::bail!("{to} is not IPv4") };
    let (sender, mut receiver) = from.run(|| {
        let receiver = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        sender.set_header_included_v4(true)?;
        Ok::<_, std::io::Error>((sender, receiver))
    })?;
    let mark = size.to_be_bytes();
    let packet = echo(to, size, mark);
    if let Err(error) = sender.send_to(&packet, &SocketAddr::new(to.into(), 0).into()) {
        ensure!(error.raw_os_error() == Some(nix::libc::EMSGSIZE), "cannot send: {error}");
        return Ok(false);
    }
    let deadline = now() + Duration::from_secs(2);
    let mut buffer = vec![0; 70_000];
    while now() < deadline {
        match receiver.read(&mut buffer) {
            // Header of 20 octets, echo reply, our mark as identifier.
            Ok(length) if length == packet.len() && buffer[20] == 0 && buffer[24..26] == mark => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("cannot read answers"),
        }
    }
    Ok(false)
}

/// An IPv4 header with DF and an echo request. The kernel fills in source and header checksum.
fn echo(to: Ipv4Addr, size: u16, mark: [u8; 2]) -> Vec<u8> {
    let mut packet = vec![0; usize::from(size)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&size.to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 1;
    packet[16..20].copy_from_slice(&to.octets());
    packet[20] = 8;
    packet[24..26].copy_from_slice(&mark);
    // All else being zero, the sum is that of type and identifier.
    let sum = 0x0800 + u32::from(u16::from_be_bytes(mark));
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    packet[22..24].copy_from_slice(&(!folded).to_be_bytes());
    packet
}

/// Everything IPv4 that enters a namespace while it lives.
pub struct Capture(Socket);

/// The headers of a captured packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// 1 ICMP, 4 IP-in-IP, 17 UDP.
    pub protocol: u8,
    /// Of a packet inside IP-in-IP: source and destination.
    pub inner: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Of UDP and TCP: the destination port.
    pub port: u16,
}

impl Capture {
    /// Begins to look.
    ///
    /// # Errors
    /// If there is no packet socket.
    pub fn start(netns: &Netns) -> anyhow::Result<Self> {
        // IPv4 as the packet socket wants it: in network order.
        let protocol = Protocol::from(i32::from(0x0800_u16.to_be()));
        let socket = netns
            .run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)))
            .context("no packet socket")?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(1 << 20)?;
        Ok(Self(socket))
    }

    /// What has come since the last look, without what stays on its link: bridges join a group of
    /// theirs and say so (IGMP) some time after they are up, whatever anybody tests.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn seen(&mut self) -> anyhow::Result<Vec<Seen>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => all.extend(headers(&buffer[..length]).filter(routed)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error).context("cannot read packets"),
            }
        }
    }
}

/// Not to the groups that no router passes on (224.0.0.0/24, RFC 5771 §4).
fn routed(packet: &Seen) -> bool {
    !packet.destination.octets().starts_with(&[224, 0, 0])
}

fn headers(packet: &[u8]) -> Option<Seen> {
    let (source, destination) = ends(packet)?;
    let protocol = *packet.get(9)?;
    let body = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
    let inner = if protocol == 4 { ends(body) } else { None };
    let port = if matches!(protocol, 6 | 17) && body.len() > 3 {
        u16::from_be_bytes([body[2], body[3]])
    } else {
        0
    };
    Some(Seen { source, destination, protocol, inner, port })
}

fn ends(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let octets = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
    Some((octets(12)?.into(), octets(16)?.into()))
}

//! ICMP and ICMPv6 echo with sequence numbers, so that every lost packet is known by its number.
//!
//! In flow: a namespace to send from and an address to send to. Out flow: a [`PingReport`].
//!
//! A stream is one thread with one raw socket. Replies are known by a token in their payload, not
//! by their source, so streams in one namespace do not take each other's.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::netns::Netns;
use super::now;

const MAGIC: &[u8; 8] = b"routelet";
const HEADER: usize = 8;
/// Octets a socket may hold unread: some 20,000 packets.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Magic, stream and sequence number.
const PAYLOAD: usize = 24;

static STREAMS: AtomicU64 = AtomicU64::new(1);

/// What became of a stream of echo requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Of those, answered.
    pub received: u64,
    /// Answers that came more than once.
    pub duplicates: u64,
    /// Sequence numbers lost, as first and last of each gap, from 0.
    pub gaps: Vec<(u64, u64)>,
    /// Interval between requests.
    pub interval: Duration,
    /// Greatest round trip time of those answered.
    pub slowest: Duration,
    /// What the operating system last said when a request could not be sent.
    pub last_error: Option<String>,
}

impl PingReport {
    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// How long the longest gap was.
    #[must_use]
    pub fn longest_outage(&self) -> Duration {
        let longest = self.gaps.iter().map(|(first, last)| last - first + 1).max().unwrap_or(0);
        self.interval * u32::try_from(longest).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received", self.sent, self.received)?;
        if self.lost() == 0 {
            write!(f, ", none lost")?;
        } else {
            write!(f, ", {} lost", self.lost())?;
            let gaps: Vec<String> = self
                .gaps
                .iter()
                .take(4)
                .map(
                    |(first, last)| {
                        if first == last { first.to_string() } else { format!("{first}-{last}") }
                    },
                )
                .collect();
            let more = if self.gaps.len() > gaps.len() { ", …" } else { "" };
            write!(f, " (sequence {}{more}", gaps.join(", "))?;
            write!(f, "; longest gap {} ms)", self.longest_outage().as_millis())?;
        }
        if let (Some(error), 0) = (&self.last_error, self.received) {
            write!(f, ": {error}")?;
        }
        Ok(())
    }
}

/// Echo requests on their way, until stopped.
#[derive(Debug)]
pub struct PingStream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: JoinHandle<PingReport>,
}

impl PingStream {
    /// Begins to send from `netns` to `target`, one request each `interval`.
    ///
    /// # Errors
    /// If no raw socket can be opened there.
    pub fn start(netns: &Netns, target: IpAddr, interval: Duration) -> anyhow::Result<Self> {
        Self::begin(netns, target, interval, u64::MAX, Duration::from_millis(500))
    }

    fn begin(
        netns: &Netns,
        target: IpAddr,
        interval: Duration,
        count: u64,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let socket = netns
            .run(|| match target {
                IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
                IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
            })
            .with_context(|| format!("no raw socket in {} (NET_RAW)", netns.name()))?;
        // A raw socket gets every ICMP packet of its namespace. What overflows while this thread waits for
        // a busy processor would be taken for lost. Where it is refused the default has to do.
        let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let stream = Stream {
            socket,
            target: SocketAddr::new(target, 0).into(),
            v6: target.is_ipv6(),
            id: STREAMS.fetch_add(1, Ordering::Relaxed),
            sent_at: Vec::new(),
            answered: Vec::new(),
            stop: Arc::clone(&stop),
            received: Arc::clone(&received),
            report: PingReport { interval, ..PingReport::default() },
        };
        let thread = std::thread::spawn(move || stream.run(count, patience));
        Ok(Self { stop, received, thread })
    }

    /// How many answers have come so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending, waits half a second for late answers, and reports.
    #[must_use]
    pub fn stop(self) -> PingReport {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(self) -> PingReport {
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Sends `count` requests, one each `interval`, waits up to `patience` for the last answers.
///
/// # Errors
/// If no raw socket can be opened there.
pub fn ping(
    netns: &Netns,
    target: IpAddr,
    count: u64,
    interval: Duration,
    patience: Duration,
) -> anyhow::Result<PingReport> {
    Ok(PingStream::begin(netns, target, interval, count, patience)?.join())
}

/// Sends requests until one is answered. Says whether one was within `limit`, and the last report.
///
/// # Errors
/// If no raw socket can be opened there.
pub fn reaches(netns: &Netns, target: IpAddr, limit: Duration) -> anyhow::Result<PingReport> {
    let deadline = now() + limit;
    let stream = PingStream::begin(
        netns,
        target,
        Duration::from_millis(20),
        u64::MAX,
        Duration::from_millis(100),
    )?;
    while stream.received() == 0 && now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(stream.stop())
}

struct Stream {
    socket: Socket,
    target: SockAddr,
    v6: bool,
    id: u64,
    sent_at: Vec<Instant>,
    answered: Vec<bool>,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    report: PingReport,
}

impl Stream {
    fn run(mut self, count: u64, patience: Duration) -> PingReport {
        let mut next = now();
        while self.report.sent < count && !self.stop.load(Ordering::Relaxed) {
            self.send();
            next += self.report.interval;
            self.receive_until(next, false);
        }
        self.receive_until(now() + patience, true);
        let mut report = self.report;
        for (sequence, answered) in (0..).zip(&self.answered) {
            match (answered, report.gaps.last_mut()) {
                (true, _) => {}
                (false, Some((_, last))) if *last + 1 == sequence => *last = sequence,
                (false, _) => report.gaps.push((sequence, sequence)),
            }
        }
        report
    }

    fn send(&mut self) {
        let packet = request(self.v6, self.id, self.report.sent);
        self.sent_at.push(now());
        self.answered.push(false);
        self.report.sent += 1;
        // No route to the target is a lost packet like any other.
        if let Err(error) = self.socket.send_to(&packet, &self.target) {
            self.report.last_error = Some(error.to_string());
        }
    }

    fn receive_until(&mut self, deadline: Instant, until_all: bool) {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || (until_all && self.report.received == self.report.sent) {
                return;
            }
            // A zero timeout would mean to wait for ever.
            let _ = self.socket.set_read_timeout(Some(left.max(Duration::from_micros(100))));
            match self.socket.read(&mut buffer) {
                Ok(length) => self.take(&buffer[..length]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => self.report.last_error = Some(error.to_string()),
            }
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let Some(sequence) = reply(self.v6, self.id, packet) else { return };
        let Ok(index) = usize::try_from(sequence) else { return };
        match self.answered.get_mut(index) {
            Some(answered) if !*answered => {
                *answered = true;
                self.report.received += 1;
                self.received.store(self.report.received, Ordering::Relaxed);
                let taken = now().saturating_duration_since(self.sent_at[index]);
                self.report.slowest = self.report.slowest.max(taken);
            }
            Some(_) => self.report.duplicates += 1,
            None => {}
        }
    }
}

/// An echo request (RFC 792, RFC 4443 §4.1). The kernel fills in the checksum for ICMPv6 only.
fn request(v6: bool, id: u64, sequence: u64) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0; HEADER + PAYLOAD];
    packet[0] = if v6 { 128 } else { 8 };
    packet[4..6].copy_from_slice(&id.to_be_bytes()[6..]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes()[6..]);
    packet[8..16].copy_from_slice(MAGIC);
    packet[16..24].copy_from_slice(&id.to_be_bytes());
    packet[24..32].copy_from_slice(&sequence.to_be_bytes());
    if !v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number, if this is a reply to the stream. Raw IPv4 sockets give the IP header too.
fn reply(v6: bool, id: u64, packet: &[u8]) -> Option<u64> {
    let header = if v6 { 0 } else { usize::from(packet.first()? & 0x0f) * 4 };
    let icmp = packet.get(header..)?;
    let kind = if v6 { 129 } else { 0 };
    let payload = icmp.get(HEADER..HEADER + PAYLOAD)?;
    if icmp[0] != kind || &payload[..8] != MAGIC || payload[8..16] != id.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(payload[16..24].try_into().ok()?))
}

/// The Internet checksum (RFC 1071).
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 =
        octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("invariant: folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_packet_that_carries_its_checksum_is_zero() {
        assert_eq!(checksum(&request(false, 7, 70_000)), 0);
    }

    #[test]
    fn only_replies_of_the_stream_are_taken() {
        let mut icmp = request(true, 7, 70_000);
        assert_eq!(reply(true, 7, &icmp), None, "a request is no reply");
        icmp[0] = 129;
        assert_eq!(reply(true, 7, &icmp), Some(70_000));
        assert_eq!(reply(true, 8, &icmp), None);
        assert_eq!(reply(true, 7, &icmp[..20]), None);
        let mut ip = vec![0x46; 24];
        icmp[0] = 0;
        ip.extend_from_slice(&icmp);
        assert_eq!(reply(false, 7, &ip), Some(70_000));
    }

    #[test]
    fn report_names_the_gaps() {
        let report = PingReport {
            sent: 10,
            received: 7,
            gaps: vec![(2, 3), (9, 9)],
            interval: Duration::from_millis(10),
            ..PingReport::default()
        };
        assert_eq!(
            report.to_string(),
            "10 sent, 7 received, 3 lost (sequence 2-3, 9; longest gap 20 ms)"
        );
    }
}

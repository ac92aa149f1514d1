//! The sessions of the load generator: one thread, one epoll, blocking nowhere.
//!
//! In flow: pre-encoded octets per peer ([`Engine::queue`]) and what every receiver must hold
//! ([`Engine::expect`]). Out flow: the moment at which every receiver holds exactly that, and counters.
//! Each receiver keeps a table of its own: the tag of the attributes under which each prefix was
//! last announced to it, 0 after a withdrawal.
//!
//! What always holds: [`Engine::complete`] is true only while each receiver's table equals the
//! expected one prefix for prefix (its own announcements aside, which nobody may send back); an
//! UPDATE that is not understood, a NOTIFICATION and a session lost after it was established end
//! the run with an error; a lost session never counts as withdrawn routes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::sys::{Epoll, Ready};
use crate::load::wire::{self, Speaker, Universe};
use crate::sim::Random;

/// One read: large, because one buffer serves all sessions.
const READ_BUFFER: usize = 1 << 20;
/// Most octets written to one session before the others get their turn.
const WRITE_QUANTUM: usize = 1 << 20;
/// A connection request unanswered for so long is given up and made anew: a device with a short
/// listen queue is asked again sooner than the kernel would (1 s, then 2, 4, ...), all devices alike.
const UNANSWERED: Duration = Duration::from_millis(200);
/// Pause before a connection that was refused or closed before Established is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What a session is used for.
#[derive(Clone, Debug)]
pub struct PeerPlan {
    pub speaker: Speaker,
    /// Indices this peer announces itself: they must not come back to it.
    pub own: Range<usize>,
    /// Whether its table is part of [`Engine::complete`].
    pub receiver: bool,
    /// Octets sent the moment the session is established.
    pub greeting: Bytes,
}

/// What came in on all receivers since the last [`Engine::reset_counters`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Prefixes announced and withdrawn, repetitions included.
    pub announced: u64,
    pub withdrawn: u64,
    pub updates: u64,
    pub octets: u64,
    /// Prefixes that a peer got back although it announces them itself.
    pub echoes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
    Closed,
}

struct Peer {
    plan: PeerPlan,
    state: State,
    stream: Option<TcpStream>,
    watching_write: bool,
    out: VecDeque<Bytes>,
    /// Octets of an incomplete message.
    partial: Vec<u8>,
    /// Tag per prefix, 0 for none.
    table: Vec<u32>,
    /// Prefixes outside `plan.own` whose tag is the expected one.
    matching: usize,
    /// When to dial: next (Idle), or again (Connecting).
    retry_at: Instant,
    keepalive_at: Instant,
}

/// Settings that all sessions of a run share.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    pub target: SocketAddrV4,
    pub universe: Universe,
    pub external: bool,
    /// Hold time of the OPEN in seconds; keepalives go out every third of it, with the jitter that
    /// RFC 4271 §10 asks of every speaker.
    pub hold_time: u16,
}

/// All the sessions of a run. See the module's essay.
pub struct Engine {
    config: EngineConfig,
    epoll: Epoll,
    peers: Vec<Peer>,
    expected: Vec<u32>,
    counters: Counters,
    /// Set by [`Engine::connect_all`]; before it nobody is dialed.
    dialing: bool,
    established: usize,
    receivers: usize,
    complete: usize,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    keepalive: Bytes,
    keepalive_every: Duration,
    keepalive_scan_at: Instant,
    jitter: Random,
}

impl Engine {
    pub fn new(config: EngineConfig, plans: Vec<PeerPlan>) -> Result<Engine> {
        let now = now();
        let count = config.universe.count;
        let peers: Vec<Peer> = plans
            .into_iter()
            .map(|plan| Peer {
                state: State::Idle,
                stream: None,
                watching_write: false,
                out: VecDeque::new(),
                partial: Vec::new(),
                table: vec![0; if plan.receiver { count } else { 0 }],
                matching: count - plan.own.len(),
                retry_at: now,
                keepalive_at: now,
                plan,
            })
            .collect();
        let receivers = peers.iter().filter(|peer| peer.plan.receiver).count();
        Ok(Engine {
            config,
            epoll: Epoll::new().context("epoll")?,
            peers,
            expected: vec![0; count],
            counters: Counters::default(),
            dialing: false,
            established: 0,
            receivers,
            complete: receivers,
            buffer: vec![0; READ_BUFFER],
            ready: Vec::new(),
            keepalive: wire::keepalive(),
            keepalive_every: Duration::from_secs(u64::from(config.hold_time)) / 3,
            keepalive_scan_at: now,
            jitter: Random::new(0x4271),
        })
    }

    /// Whether every receiver holds exactly what is expected of it.
    pub fn complete(&self) -> bool {
        self.complete == self.receivers
    }

    /// Whether every session that was not closed on purpose is established.
    pub fn all_established(&self) -> bool {
        self.established == self.peers.iter().filter(|peer| peer.state != State::Closed).count()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// Sets the tags that every receiver must hold for `indices` from now on; 0 for no route.
    pub fn expect(&mut self, indices: Range<usize>, tag: impl Fn(usize) -> u32) {
        for peer in self.peers.iter_mut().filter(|peer| peer.plan.receiver) {
            for index in indices.clone().filter(|index| !peer.plan.own.contains(index)) {
                let held = peer.table[index];
                peer.matching -= usize::from(held == self.expected[index]);
                peer.matching += usize::from(held == tag(index));
            }
        }
        indices.for_each(|index| self.expected[index] = tag(index));
        self.count_complete();
    }

    /// Opens every session that is not open; [`Engine::run`] completes them.
    pub fn connect_all(&mut self) -> Result<()> {
        self.dialing = true;
        for token in 0..self.peers.len() {
            if self.peers[token].state == State::Idle {
                self.connect(token)?;
            }
        }
        Ok(())
    }

    /// Octets to send to the device under test; they go out at once as far as the socket takes them.
    pub fn queue(&mut self, token: usize, octets: Bytes) -> Result<()> {
        self.peers[token].out.push_back(octets);
        self.flush(token)
    }

    /// Closes a session without a NOTIFICATION, as a machine that vanishes after its kernel has sent
    /// FIN. It is no receiver any longer.
    pub fn close(&mut self, token: usize) {
        let peer = &mut self.peers[token];
        self.established -= usize::from(peer.state == State::Established);
        peer.state = State::Closed;
        peer.stream = None;
        peer.out.clear();
        self.receivers -= usize::from(std::mem::take(&mut peer.plan.receiver));
        self.count_complete();
    }

    /// Drives the sessions until `done`, or fails after `limit`.
    pub fn run(&mut self, limit: Duration, done: impl Fn(&Engine) -> bool) -> Result<()> {
        let deadline = now() + limit;
        while !done(self) {
            let time = now();
            if time >= deadline {
                bail!("not complete after {limit:?}: {}", self.progress());
            }
            self.step(time, deadline)?;
        }
        Ok(())
    }

    /// Drives the sessions for `period`.
    pub fn idle(&mut self, period: Duration) -> Result<()> {
        let deadline = now() + period;
        loop {
            let time = now();
            if time >= deadline {
                return Ok(());
            }
            self.step(time, deadline)?;
        }
    }

    fn step(&mut self, time: Instant, deadline: Instant) -> Result<()> {
        if time >= self.keepalive_scan_at {
            self.timers(time)?;
            self.keepalive_scan_at = time + Duration::from_millis(50);
        }
        let until = deadline.min(self.keepalive_scan_at);
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        self.epoll.wait(until.saturating_duration_since(time), &mut ready).context("epoll")?;
        for event in &ready {
            self.handle(*event)?;
        }
        self.ready = ready;
        Ok(())
    }

    fn timers(&mut self, time: Instant) -> Result<()> {
        for token in 0..self.peers.len() {
            let peer = &mut self.peers[token];
            if peer.state == State::Established && time >= peer.keepalive_at {
                let every = self.keepalive_every;
                peer.keepalive_at = time + self.jitter.between(every * 3 / 4, every);
                let keepalive = self.keepalive.clone();
                self.queue(token, keepalive)?;
            } else if self.dialing
                && matches!(peer.state, State::Idle | State::Connecting)
                && time >= peer.retry_at
            {
                self.connect(token)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, token: usize) -> Result<()> {
        let peer = &mut self.peers[token];
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_reuse_address(true)?;
        let local = SocketAddr::from((peer.plan.speaker.address, 0));
        socket.bind(&local.into()).with_context(|| format!("bind {local}"))?;
        match socket.connect(&SocketAddr::from(self.config.target).into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("connect"),
        }
        let stream = TcpStream::from(socket);
        self.epoll.add(stream.as_raw_fd(), token, true)?;
        peer.watching_write = true;
        peer.stream = Some(stream);
        peer.state = State::Connecting;
        peer.retry_at = now() + UNANSWERED;
        peer.partial.clear();
        peer.out.clear();
        Ok(())
    }

    fn handle(&mut self, event: Ready) -> Result<()> {
        let Some(peer) = self.peers.get_mut(event.token) else { return Ok(()) };
        let Some(stream) = &peer.stream else { return Ok(()) };
        if peer.state == State::Connecting {
            if !event.writable {
                return Ok(());
            }
            if stream.take_error()?.is_some() {
                return self.lost(event.token, "connection refused");
            }
            peer.state = State::OpenSent;
            let open = wire::open(peer.plan.speaker, self.config.hold_time);
            return self.queue(event.token, open);
        }
        if event.writable && !peer.out.is_empty() {
            self.flush(event.token)?;
        }
        if event.readable { self.read(event.token) } else { Ok(()) }
    }

    fn flush(&mut self, token: usize) -> Result<()> {
        let peer = &mut self.peers[token];
        let Some(mut stream) = peer.stream.as_ref() else { return Ok(()) };
        let mut budget = WRITE_QUANTUM;
        while let Some(front) = peer.out.front_mut()
            && budget > 0
        {
            match stream.write(&front[..front.len().min(budget)]) {
                Ok(count) => {
                    budget -= count;
                    let _ = front.split_to(count);
                    if front.is_empty() {
                        peer.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lost(token, &format!("write: {error}")),
            }
        }
        let wants_write = !peer.out.is_empty();
        if wants_write != peer.watching_write {
            peer.watching_write = wants_write;
            self.epoll.modify(stream.as_raw_fd(), token, wants_write)?;
        }
        Ok(())
    }

    fn read(&mut self, token: usize) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read_into(token, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read_into(&mut self, token: usize, buffer: &mut [u8]) -> Result<()> {
        let peer = &mut self.peers[token];
        let Some(mut stream) = peer.stream.as_ref() else { return Ok(()) };
        let kept = peer.partial.len();
        buffer[..kept].copy_from_slice(&peer.partial);
        let count = match stream.read(&mut buffer[kept..]) {
            Ok(0) => return self.lost(token, "closed by the other side"),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return self.lost(token, &format!("read: {error}")),
        };
        self.counters.octets += count as u64;
        let octets = &buffer[..kept + count];
        let consumed = self.consume(token, octets)?;
        let peer = &mut self.peers[token];
        peer.partial.clear();
        peer.partial.extend_from_slice(&octets[consumed..]);
        Ok(())
    }

    /// Handles the whole messages in `octets`; returns how many octets they were.
    fn consume(&mut self, token: usize, octets: &[u8]) -> Result<usize> {
        let was_complete = self.peers[token].complete(&self.config);
        let mut at = 0;
        while let Some(header) = octets.get(at..at + wire::HEADER_LEN) {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            if header[..16] != [0xff; 16] || !(wire::HEADER_LEN..=wire::MAX_LEN).contains(&length) {
                bail!("peer {token} sent a malformed header {header:02x?}");
            }
            let Some(message) = octets.get(at..at + length) else { break };
            let body = &message[wire::HEADER_LEN..];
            if header[18] == wire::UPDATE {
                self.update(token, body)?;
            } else {
                self.control(token, header[18], body)?;
                if self.peers[token].stream.is_none() {
                    // Closed before Established; what is left of the old connection is void.
                    return Ok(octets.len());
                }
            }
            at += length;
        }
        let is_complete = self.peers[token].complete(&self.config);
        self.complete += usize::from(is_complete);
        self.complete -= usize::from(was_complete);
        Ok(at)
    }

    fn update(&mut self, token: usize, body: &[u8]) -> Result<()> {
        let peer = &mut self.peers[token];
        if peer.state != State::Established {
            bail!("peer {token} got an UPDATE in {:?}", peer.state);
        }
        if !peer.plan.receiver {
            return Ok(());
        }
        self.counters.updates += 1;
        let counters = &mut self.counters;
        let expected = &self.expected;
        wire::read_update(self.config.universe, self.config.external, body, |index, tag| {
            if tag == 0 {
                counters.withdrawn += 1;
            } else {
                counters.announced += 1;
            }
            if peer.plan.own.contains(&index) {
                // Some daemons withdraw towards the source: harmless, an announcement is not.
                counters.echoes += u64::from(tag != 0);
                return;
            }
            let held = std::mem::replace(&mut peer.table[index], tag);
            peer.matching -= usize::from(held == expected[index]);
            peer.matching += usize::from(tag == expected[index]);
        })
        .map_err(|error| anyhow::anyhow!("peer {token} got an UPDATE with {error:?}: {body:02x?}"))
    }

    fn control(&mut self, token: usize, kind: u8, body: &[u8]) -> Result<()> {
        let peer = &mut self.peers[token];
        match (kind, peer.state) {
            (wire::OPEN, State::OpenSent) => {
                peer.state = State::OpenConfirm;
                let keepalive = self.keepalive.clone();
                self.queue(token, keepalive)
            }
            (wire::KEEPALIVE, State::OpenConfirm) => {
                peer.state = State::Established;
                // Spread over the interval, so that a thousand keepalives do not leave at once.
                peer.keepalive_at = now() + self.keepalive_every * (token as u32 % 64 + 1) / 65;
                self.established += 1;
                let greeting = std::mem::take(&mut peer.plan.greeting);
                if greeting.is_empty() { Ok(()) } else { self.queue(token, greeting) }
            }
            (wire::KEEPALIVE, _) | (5, _) => Ok(()),
            (wire::NOTIFICATION, State::Established) => {
                bail!("peer {token} got a NOTIFICATION {body:02x?}")
            }
            (wire::NOTIFICATION, _) => self.lost(token, "NOTIFICATION"),
            (kind, state) => bail!("peer {token} got a message of type {kind} in {state:?}"),
        }
    }

    fn lost(&mut self, token: usize, reason: &str) -> Result<()> {
        let peer = &mut self.peers[token];
        if peer.state == State::Established {
            bail!("established session {token} lost: {reason}");
        }
        peer.stream = None;
        peer.state = State::Idle;
        peer.retry_at = now() + RETRY;
        Ok(())
    }

    fn count_complete(&mut self) {
        let receivers = self.peers.iter().filter(|peer| peer.plan.receiver);
        self.complete = receivers.filter(|peer| peer.complete(&self.config)).count();
    }

    fn progress(&self) -> String {
        let receivers = self.peers.iter().filter(|peer| peer.plan.receiver);
        let least = receivers.map(|peer| peer.matching).min().unwrap_or(0);
        format!(
            "{} of {} sessions established, {} of {} receivers complete, the least has {least} of \
             {} prefixes as expected",
            self.established,
            self.peers.len(),
            self.complete,
            self.receivers,
            self.config.universe.count,
        )
    }
}

impl Peer {
    fn complete(&self, config: &EngineConfig) -> bool {
        self.plan.receiver && self.matching == config.universe.count - self.plan.own.len()
    }
}

/// The clock of the load generator.
#[allow(clippy::disallowed_methods, reason = "an instrument that measures needs the real clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Address of load peer `number` (from 0) inside the namespace.
pub fn peer_address(number: usize) -> Ipv4Addr {
    let (high, low) = (1 + number / 250, 1 + number % 250);
    Ipv4Addr::new(10, 98, u8::try_from(high).expect("at most 60,000 peers"), low as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two peers that announce three prefixes each, and a pure receiver.
    fn engine() -> (Engine, Universe) {
        let universe = Universe::table(6);
        let plan = |number: usize, own: Range<usize>| {
            let address = peer_address(number);
            let speaker = Speaker { address, asn: 65_001 + number as u32, external: true };
            PeerPlan { speaker, own, receiver: true, greeting: Bytes::new() }
        };
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 179);
        let config = EngineConfig { target, universe, external: true, hold_time: 90 };
        let plans = vec![plan(0, 0..3), plan(1, 3..6), plan(2, 0..0)];
        let mut engine = Engine::new(config, plans).unwrap();
        engine.peers.iter_mut().for_each(|peer| peer.state = State::Established);
        engine.expect(0..6, |index| index as u32 / 3 + 1);
        (engine, universe)
    }

    fn announced(universe: Universe, tag: u32, indices: Range<usize>) -> Bytes {
        let address = peer_address(9);
        wire::announce(Speaker { address, asn: 1, external: true }, universe, [(tag, indices)])
    }

    #[test]
    fn only_exactly_the_expected_tables_are_complete() {
        let (mut engine, universe) = engine();
        engine.consume(0, &announced(universe, 2, 3..6)).unwrap();
        engine.consume(1, &announced(universe, 1, 0..3)).unwrap();
        engine.consume(2, &announced(universe, 1, 0..3)).unwrap();
        engine.consume(2, &announced(universe, 2, 3..5)).unwrap();
        assert!(!engine.complete(), "one prefix is missing");
        engine.consume(2, &announced(universe, 7, 5..6)).unwrap();
        assert!(!engine.complete(), "one prefix has other attributes");
        engine.consume(2, &announced(universe, 2, 5..6)).unwrap();
        assert!(engine.complete());
        engine.consume(1, &wire::withdraw(universe, 2..3)).unwrap();
        assert!(!engine.complete(), "one prefix was withdrawn again");
        engine.consume(1, &announced(universe, 1, 2..3)).unwrap();
        assert!(engine.complete());
        engine.expect(0..6, |_| 0);
        assert!(!engine.complete(), "nothing has been withdrawn yet");
        (0..3).for_each(|token| _ = engine.consume(token, &wire::withdraw(universe, 0..6)));
        assert!(engine.complete());
    }

    #[test]
    fn what_comes_back_to_its_source_is_counted_and_completes_nothing() {
        let (mut engine, universe) = engine();
        engine.consume(0, &announced(universe, 1, 0..3)).unwrap();
        assert_eq!(engine.counters().echoes, 3);
        assert!(!engine.complete());
    }

    #[test]
    fn an_update_before_established_and_junk_end_the_run() {
        let (mut engine, universe) = engine();
        assert!(engine.consume(0, &[0; 19]).is_err(), "no marker");
        assert!(engine.consume(0, &announced(Universe::table(9), 1, 8..9)).is_err(), "foreign");
        engine.peers[0].state = State::OpenConfirm;
        assert!(engine.consume(0, &announced(universe, 2, 3..6)).is_err());
    }

    #[test]
    fn a_message_in_two_parts_is_kept_until_it_is_whole() {
        let (mut engine, universe) = engine();
        let octets = announced(universe, 2, 3..6);
        for cut in 0..octets.len() {
            assert_eq!(engine.consume(0, &octets[..cut]).unwrap(), 0);
        }
        assert_eq!(engine.consume(0, &octets).unwrap(), octets.len());
    }
}

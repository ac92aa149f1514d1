//! The daemon under test, and the peers that talk to it.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use routelet_tests::load::sys::set_md5_key;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::case::Context;
use crate::special::{self, SPECIALS};
use crate::wire;

/// How long anything may take before a case fails. Generous: only a failure waits so long.
const DEADLINE: Duration = Duration::from_secs(20);
const DAEMON_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
const DAEMON_AS: u16 = 64512;
const WITNESS: Ipv4Addr = Ipv4Addr::new(127, 13, 0, 1);

/// What a case's peer is to the daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerKind {
    External,
    Internal,
}

impl PeerKind {
    pub fn asn(self) -> u16 {
        match self {
            Self::External => 65101,
            Self::Internal => DAEMON_AS,
        }
    }

    pub fn address(self, number: usize) -> Ipv4Addr {
        let [high, low] = u16::try_from(number + 1).expect("few cases").to_be_bytes();
        match self {
            Self::External => Ipv4Addr::new(127, 11, high, low),
            Self::Internal => Ipv4Addr::new(127, 12, high, low),
        }
    }

    fn name(self, number: usize) -> String {
        match self {
            Self::External => format!("external-{number}"),
            Self::Internal => format!("internal-{number}"),
        }
    }
}

/// A running `routelet run` without a kernel.
pub struct Daemon {
    child: Child,
    binary: PathBuf,
    directory: tempfile::TempDir,
    address: SocketAddr,
    witness: Mutex<Witness>,
}

/// The session that stays up, and every UPDATE it got.
#[derive(Default)]
struct Witness {
    peer: Option<Peer>,
    updates: Vec<Vec<u8>>,
}

impl Daemon {
    /// Starts it with a peer of each kind per case, and brings the witness up.
    pub fn start(cases: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        // The port is free now; nobody else takes ports on this address.
        let port = TcpListener::bind((DAEMON_ADDRESS, 0))?.local_addr()?.port();
        let config = directory.path().join("node.yaml");
        std::fs::write(directory.path().join("key"), special::KEY)?;
        std::fs::write(&config, configuration(directory.path(), port, cases)?)?;
        let binary = routelet_tests::harness::routelet()?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let child = Command::new(&binary)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let daemon = Self {
            child,
            binary,
            directory,
            address: SocketAddr::from((DAEMON_ADDRESS, port)),
            witness: Mutex::default(),
        };
        let witness = poll(|| {
            Peer::establish(WITNESS, daemon.address, &wire::OpenFields::usual(65300, WITNESS))
        })
        .with_context(|| daemon.log())?;
        daemon.witness.lock().expect("not poisoned").peer = Some(witness);
        Ok(daemon)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection from the case's address, nothing sent yet.
    pub fn connect(&self, context: &Context) -> anyhow::Result<Peer> {
        Peer::connect(context.address, self.address)
    }

    /// An Established session.
    pub fn establish(&self, context: &Context) -> anyhow::Result<Peer> {
        Peer::establish(context.address, self.address, &context.usual_open())
    }

    /// `routelet ARGUMENTS -o json`.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = Command::new(&self.binary)
            .arg("--socket")
            .arg(self.directory.path().join("api.sock"))
            .args(arguments)
            .args(["-o", "json"])
            .output()?;
        ensure!(
            output.status.success(),
            "routelet {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What the daemon has of `prefix`/24 from the case's peer.
    pub fn routes(&self, context: &Context, prefix: Ipv4Addr) -> anyhow::Result<Vec<Value>> {
        self.routes_from(&context.kind.name(context.number), prefix)
    }

    /// What the daemon has of `prefix`/24 from a peer.
    pub fn routes_from(&self, peer: &str, prefix: Ipv4Addr) -> anyhow::Result<Vec<Value>> {
        let routes = self.command(&["routes", &format!("{prefix}/24")])?;
        let routes = routes.as_array().context("an array")?;
        Ok(routes.iter().filter(|route| route["from"] == peer).cloned().collect())
    }

    /// `routelet VERB PEER --message TEXT`.
    pub fn act(&self, verb: &str, peer: &str, message: &str) -> anyhow::Result<()> {
        self.say(&[verb, peer, "--message", message])
    }

    /// `routelet enable PEER`.
    pub fn enable(&self, peer: &str) -> anyhow::Result<()> {
        self.say(&["enable", peer])
    }

    fn say(&self, words: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.binary)
            .arg("--socket")
            .arg(self.directory.path().join("api.sock"))
            .args(words)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A connection with these options, nothing sent yet.
    pub fn dial(&self, dial: &Dial<'_>) -> anyhow::Result<Peer> {
        Peer::dial(dial, self.address)
    }

    /// A peer as `routelet peer` shows it.
    pub fn peer_named(&self, name: &str) -> anyhow::Result<Value> {
        self.command(&["peer", name])
    }

    /// Waits until the case's peer has a route for `prefix`/24.
    pub fn wait_for_route(&self, context: &Context, prefix: Ipv4Addr) -> anyhow::Result<Value> {
        poll(|| {
            self.routes(context, prefix)?.into_iter().next().with_context(|| {
                let name = context.kind.name(context.number);
                let peer = self.command(&["peer", &name]);
                format!("no route for {prefix}/24 from {name}: {peer:?}")
            })
        })
    }

    /// The case's peer as `routelet peer` shows it.
    pub fn peer(&self, context: &Context) -> anyhow::Result<Value> {
        self.peer_named(&context.kind.name(context.number))
    }

    /// The daemon runs, and the witness's session has been up from the beginning.
    pub fn witness_unharmed(&self) -> anyhow::Result<()> {
        let peer = self.command(&["peer", "witness"])?;
        ensure!(peer["state"] == "Established", "the witness is {peer}\n{}", self.log());
        let mut witness = self.witness.lock().expect("not poisoned");
        witness.peer.as_mut().context("a witness")?.send(&wire::keepalive())
    }

    /// The UPDATE by which the witness gets an announcement of `prefix`/24.
    pub fn witness_gets(&self, prefix: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
        self.witness_waits(|updates| announcement(updates, prefix))
    }

    /// Waits until the witness gets a withdrawal of `prefix`/24.
    pub fn witness_gets_withdrawal(&self, prefix: Ipv4Addr) -> anyhow::Result<()> {
        self.witness_waits(|updates| {
            updates
                .iter()
                .find(|body| {
                    let withdrawn = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    holds(&body[2..2 + withdrawn], prefix)
                })
                .cloned()
        })
        .map(drop)
    }

    /// Whether the witness has been announced `prefix`/24 so far.
    pub fn witness_got(&self, prefix: Ipv4Addr) -> bool {
        announcement(&self.witness.lock().expect("not poisoned").updates, prefix).is_some()
    }

    /// Reads what comes to the witness until `find` finds something in it. Other cases find what
    /// they wait for in what was read meanwhile.
    fn witness_waits(
        &self,
        find: impl Fn(&[Vec<u8>]) -> Option<Vec<u8>>,
    ) -> anyhow::Result<Vec<u8>> {
        let start = now();
        loop {
            let mut witness = self.witness.lock().expect("not poisoned");
            if let Some(found) = find(&witness.updates) {
                return Ok(found);
            }
            ensure!(start.elapsed() < DEADLINE, "the witness did not get it in time");
            let peer = witness.peer.as_mut().context("a witness")?;
            // A short turn each: other cases wait for the witness too.
            if let Some(Some((kind, body))) = peer.read_message_within(Duration::from_millis(20))? {
                match kind {
                    wire::UPDATE => witness.updates.push(body),
                    wire::NOTIFICATION => bail!("the witness got NOTIFICATION {body:?}"),
                    _ => {}
                }
            }
        }
    }
}

/// The UPDATE that announces `prefix`/24.
pub fn announcement(updates: &[Vec<u8>], prefix: Ipv4Addr) -> Option<Vec<u8>> {
    updates
        .iter()
        .find(|body| {
            let withdrawn = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let rest = &body[2 + withdrawn..];
            let attributes = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            holds(&rest[2 + attributes..], prefix)
        })
        .cloned()
}

/// Whether NLRI hold `prefix`/24.
fn holds(mut nlri: &[u8], prefix: Ipv4Addr) -> bool {
    let wanted = wire::nlri(prefix);
    while let Some(&length) = nlri.first() {
        let octets = 1 + usize::from(length).div_ceil(8);
        if nlri.len() < octets {
            return false;
        }
        if nlri[..octets] == wanted {
            return true;
        }
        nlri = &nlri[octets..];
    }
    false
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(directory: &std::path::Path, port: u16, cases: usize) -> anyhow::Result<String> {
    let mut text = format!(
        "node: {{name: dut, addresses: [{DAEMON_ADDRESS}/8], routerID: 10.10.10.10}}\n\
         bgp: {{asNumber: {DAEMON_AS}, listenAddresses: [{DAEMON_ADDRESS}], listenPort: {port}, \
         nodeToNodeMeshEnabled: false}}\n\
         kernel: {{enabled: false}}\n\
         api: {{socket: {directory}/api.sock}}\n\
         stateDir: {directory}/state\n\
         filters:\n  - name: import\n    importV4: [{{action: Accept}}]\n    importV6: [{{action: Accept}}]\n  \
         - name: all\n    exportV4: [{{action: Accept}}]\n    exportV6: [{{action: Accept}}]\n\
         peers:\n  - {{name: witness, peerIP: {WITNESS}, asNumber: 65300, passive: true, filters: [import, all]}}\n",
        directory = directory.display(),
    );
    for number in 0..cases {
        for kind in [PeerKind::External, PeerKind::Internal] {
            writeln!(
                text,
                "  - {{name: {}, peerIP: {}, asNumber: {}, passive: true, filters: [import]}}",
                kind.name(number),
                kind.address(number),
                kind.asn()
            )?;
        }
    }
    for special in SPECIALS {
        writeln!(
            text,
            "  - {{name: {}, peerIP: {}, asNumber: {}, passive: true, {}}}",
            special.name,
            special.address(),
            special.kind.asn(),
            special.options
        )?;
    }
    Ok(text)
}

/// The clock, for deadlines.
#[allow(clippy::disallowed_methods)] // A test of a running process waits in real time.
fn now() -> Instant {
    Instant::now()
}

/// Tries until it works or the deadline has passed; the last error is the answer.
pub fn poll<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > DEADLINE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// How a connection is opened.
pub struct Dial<'a> {
    pub from: Ipv4Addr,
    pub ttl: Option<u32>,
    /// In octets; it bounds the window.
    pub receive_buffer: Option<usize>,
    /// TCP MD5.
    pub key: Option<&'a [u8]>,
    pub patience: Duration,
}

impl Dial<'_> {
    /// Nothing special.
    pub fn from(from: Ipv4Addr) -> Self {
        Self { from, ttl: None, receive_buffer: None, key: None, patience: DEADLINE }
    }
}

/// A message's type and body, or the end of the connection.
type Received = Option<(u8, Vec<u8>)>;

/// The far end of a session, which does nothing by itself.
pub struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    pub fn connect(from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<Self> {
        Self::dial(&Dial::from(from), to)
    }

    fn dial(dial: &Dial<'_>, to: SocketAddr) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((dial.from, 0)).into())?;
        if let Some(ttl) = dial.ttl {
            socket.set_ttl_v4(ttl)?;
        }
        if let Some(size) = dial.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(key) = dial.key {
            set_md5_key(&socket, DAEMON_ADDRESS, key)?;
        }
        socket.connect_timeout(&to.into(), dial.patience)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    pub fn establish(
        from: Ipv4Addr,
        to: SocketAddr,
        open: &wire::OpenFields,
    ) -> anyhow::Result<Self> {
        let mut peer = Self::connect(from, to)?;
        peer.send(&open.encode())?;
        peer.finish_open()?;
        Ok(peer)
    }

    /// After our OPEN: waits for the daemon's, and exchanges KEEPALIVEs.
    pub fn finish_open(&mut self) -> anyhow::Result<()> {
        self.expect_message(wire::OPEN)?;
        self.expect_message(wire::KEEPALIVE)?;
        self.send(&wire::keepalive())
    }

    pub fn send(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(octets).context("sending to the daemon")
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A clean announcement whose arrival shows that everything before it was handled.
    pub fn send_sentinel(&mut self, context: &Context) -> anyhow::Result<()> {
        let octets =
            wire::update(&[], &wire::encode_all(&context.clean()), &wire::nlri(context.sentinel));
        self.send(&octets)
    }

    /// The next message: its type and body; `None` when the daemon has closed the connection.
    pub fn read_message(&mut self) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        self.read_message_within(DEADLINE)?.context("nothing came in time")
    }

    /// The same with a time of its own; the outer `None` when nothing came within it.
    pub fn read_message_within(&mut self, limit: Duration) -> anyhow::Result<Option<Received>> {
        let start = now();
        loop {
            if self.received.len() >= 19 {
                let length =
                    usize::from(u16::from_be_bytes([self.received[16], self.received[17]]));
                if self.received.len() >= length {
                    let rest = self.received.split_off(length);
                    let whole = std::mem::replace(&mut self.received, rest);
                    return Ok(Some(Some((whole[18], whole[19..].to_vec()))));
                }
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else { return Ok(None) };
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Some(None)),
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(None)),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error).context("reading from the daemon"),
            }
        }
    }

    /// Waits for the UPDATE that announces `prefix`/24; what comes before it is passed over.
    pub fn expect_announcement(&mut self, prefix: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
        loop {
            match self.read_message()? {
                Some((wire::UPDATE, body)) => {
                    if let Some(found) = announcement(std::slice::from_ref(&body), prefix) {
                        return Ok(found);
                    }
                }
                Some((wire::NOTIFICATION, body)) => bail!("NOTIFICATION {body:?}"),
                Some(_) => {}
                None => bail!("closed before {prefix}/24 was announced"),
            }
        }
    }

    pub fn expect_message(&mut self, kind: u8) -> anyhow::Result<Vec<u8>> {
        match self.read_message()? {
            Some((found, body)) if found == kind => Ok(body),
            other => bail!("expected a message of type {kind}, got {other:?}"),
        }
    }

    /// Waits for a NOTIFICATION; UPDATEs and KEEPALIVEs before it are passed over.
    pub fn expect_notification(
        &mut self,
        code: u8,
        subcode: u8,
        data: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        loop {
            match self.read_message()? {
                Some((wire::NOTIFICATION, body)) => {
                    ensure!(
                        body.starts_with(&[code, subcode]),
                        "expected NOTIFICATION {code}/{subcode}, got {body:?}"
                    );
                    if let Some(data) = data {
                        ensure!(&body[2..] == data, "expected data {data:?}, got {body:?}");
                    }
                    return self.expect_closed();
                }
                Some(_) => {}
                None => bail!("closed without a NOTIFICATION, {code}/{subcode} expected"),
            }
        }
    }

    /// Waits for a NOTIFICATION of this code.
    pub fn expect_notification_code(&mut self, code: u8) -> anyhow::Result<()> {
        loop {
            match self.read_message()? {
                Some((wire::NOTIFICATION, body)) if body.first() == Some(&code) => {
                    return self.expect_closed();
                }
                Some((wire::NOTIFICATION, body)) => bail!("expected code {code}, got {body:?}"),
                Some(_) => {}
                None => bail!("closed without a NOTIFICATION, code {code} expected"),
            }
        }
    }

    /// Waits for the end of the connection.
    pub fn expect_ended(&mut self) -> anyhow::Result<()> {
        while self.read_message()?.is_some() {}
        Ok(())
    }

    /// Waits for the end of the connection; a NOTIFICATION before it is wrong.
    pub fn expect_closed(&mut self) -> anyhow::Result<()> {
        loop {
            match self.read_message()? {
                Some((wire::NOTIFICATION, body)) => bail!("NOTIFICATION {body:?}, none expected"),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}

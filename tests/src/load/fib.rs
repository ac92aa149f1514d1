//! From the first octet of an UPDATE until all routes are in the kernel's table, and out of it.
//!
//! In flow: a daemon that writes its routes to the kernel. Out flow: wall time and CPU time of the
//! daemon. The clock starts when the first octet is handed to TCP and stops when the kernel counts
//! all prefixes in its main table (`/proc/net/fib_triestat`); that count is asked for every few
//! milliseconds, the same for every daemon.
//!
//! Kernel routes need a next hop that is on link and no address of the node: the routes are announced
//! by an internal peer with a third party's next hop on a veth pair.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use crate::load::dut::{Dut, Fib, Kind, TARGET, Topology};
use crate::load::engine::{Engine, EngineConfig, now};
use crate::load::scenario::{DUT_ASN, Figures, internal, sets};
use crate::load::wire::{self, Speaker, Universe};

/// The device of the next hop, and its other end.
pub const DEVICE: &str = "fib0";
pub const FAR_END: &str = "fib1";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
const POLL: Duration = Duration::from_millis(4);

/// One run; the process must already be in a namespace with the addresses of `dut`.
pub fn run(
    kind: Kind,
    fib: Fib,
    routes: usize,
    routelet: Option<&Path>,
    limit: Duration,
) -> Result<Figures> {
    let mut session = start(kind, fib, routes, routelet, limit)?;
    let empty = prefixes()?;
    let mut figures = Figures::new();
    for (name, announced) in [("install", true), ("remove", false), ("again", true)] {
        let cpu = session.dut.cpu()?;
        let start = now();
        let wanted = if announced {
            session.announce()?;
            empty + routes
        } else {
            session.withdraw()?;
            empty
        };
        session.until(wanted, limit)?;
        figures.insert(format!("{name}_s"), start.elapsed().as_secs_f64());
        session.idle(Duration::from_millis(500))?;
        let cpu = session.dut.cpu()? - cpu;
        figures.insert(format!("{name}_cpu_s"), cpu.as_secs_f64());
    }
    Ok(figures)
}

/// A daemon that writes routes to the kernel, and its peer.
pub struct Session {
    engine: Engine,
    dut: Dut,
    announcement: Bytes,
    withdrawal: Bytes,
}

/// Makes the veth pair, starts the daemon, waits for the session.
pub fn start(
    kind: Kind,
    fib: Fib,
    routes: usize,
    routelet: Option<&Path>,
    limit: Duration,
) -> Result<Session> {
    ip(&["link", "add", DEVICE, "type", "veth", "peer", "name", FAR_END])?;
    ip(&["address", "add", "10.97.0.1/24", "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "up"])?;
    ip(&["link", "set", FAR_END, "up"])?;
    let universe = Universe::table(routes);
    let plan = internal(0, 0..routes);
    let topology =
        Topology { asn: DUT_ASN, peers: vec![(plan.speaker.address, DUT_ASN)], fib: Some(fib) };
    let speaker = Speaker { address: GATEWAY, ..plan.speaker };
    let announcement = wire::announce(speaker, universe, sets(0..routes, 5));
    let withdrawal = wire::withdraw(universe, 0..routes);
    let config = EngineConfig { target: TARGET, universe, external: false, hold_time: 90 };
    let mut engine = Engine::new(config, vec![plan])?;
    let dut = Dut::start(kind, &topology, routelet)?;
    std::thread::sleep(Duration::from_millis(2500));
    engine.connect_all()?;
    engine.run(limit, Engine::all_established).context("the session")?;
    // Or a daemon that has just started would wait for the rest before it removes anything.
    engine.queue(0, wire::end_of_rib())?;
    engine.idle(Duration::from_millis(500))?;
    Ok(Session { engine, dut, announcement, withdrawal })
}

impl Session {
    /// Announces all routes.
    pub fn announce(&mut self) -> Result<()> {
        self.engine.queue(0, self.announcement.clone())
    }

    /// Withdraws all routes.
    pub fn withdraw(&mut self) -> Result<()> {
        self.engine.queue(0, self.withdrawal.clone())
    }

    /// Keeps the session alive for a while.
    pub fn idle(&mut self, period: Duration) -> Result<()> {
        self.engine.idle(period)
    }

    /// Waits until the kernel has so many prefixes.
    pub fn until(&mut self, wanted: usize, limit: Duration) -> Result<()> {
        let begin = now();
        loop {
            let found = prefixes()?;
            if found == wanted {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < limit,
                "{found} prefixes in the kernel, not {wanted}; log: {}",
                self.dut.log()
            );
            self.engine.idle(POLL)?;
        }
    }
}

/// How many prefixes the main table has. Without a table of its own for local addresses (there are
/// no rules here) the kernel keeps both in one; what was there before is subtracted.
pub fn prefixes() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/net/fib_triestat")?;
    let mut count = 0;
    for line in text.lines() {
        if let Some(prefixes) = line.trim().strip_prefix("Prefixes:") {
            count += prefixes.trim().parse::<usize>()?;
        }
        // The local table, where it is apart, follows the main one.
        if line.starts_with("Local:") {
            break;
        }
    }
    Ok(count)
}

/// Runs `ip`.
pub fn ip(words: &[&str]) -> Result<()> {
    // Figures go to standard output, and `ip` says there what it has flushed.
    let status = Command::new("ip").args(words).stdout(Stdio::null()).status();
    let status = status.context("run ip (iproute2)")?;
    if !status.success() {
        bail!("ip {} failed", words.join(" "));
    }
    Ok(())
}

//! The life of the process, measured from outside: packets lost while a node's daemon stops, crashes,
//! is upgraded or frozen, with routelet, BIRD or FRR in each place.
//!
//! In flow: who sits where ([`Cast`]) and what befalls node 1 ([`Case`]). Out flow: an [`Outcome`]: per
//! probe stream the sequence numbers lost, what a TCP connection between the pods noticed, and how long a
//! route stayed that should go.
//!
//! ```text
//!  pod1 ── node1 ──┐                  streams, a packet every 10 ms each:
//!  (10.244.1.2)    ├── LAN ── tor ── server         pod1 → pod2, pod2 → pod1,
//!  pod2 ── node2 ──┘                 (198.51.100.10)   server → pod1, pod1 → server
//! ```
//!
//! iBGP between the nodes, eBGP to the ToR. No host has a default route, so that nothing but BGP's routes
//! carries a packet. Tests use it with short times, `routelet-resilience` with long ones.

pub mod daemons;
pub mod flow;
pub mod report;
pub mod stage;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use routelet::lab::now;
use routelet::lab::ping::{PingReport, PingStream, reaches};

pub use self::daemons::{Daemon, Make};
pub use self::flow::{FlowReport, TcpFlow};
pub use self::stage::Stage;

use crate::harness::eventually;
use crate::scene::Scene;

/// Between two packets of a stream.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// The streams, as the table names them.
pub const STREAMS: [&str; 4] = ["pod1 → pod2", "pod2 → pod1", "server → pod1", "pod1 → server"];

/// Longest time in which sessions come up; BIRD and FRR take their time after errors.
const UP: Duration = Duration::from_secs(150);

/// Who plays which part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Cast {
    /// The daemon to which things happen.
    pub node1: Make,
    /// The other node's.
    pub node2: Make,
    /// The router's.
    pub tor: Make,
}

/// What happens to node 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Case {
    /// SIGTERM, start after a pause.
    Stop,
    /// SIGKILL, start after a pause.
    Kill,
    /// SIGTERM, start of another file with the same program, as an upgrade does.
    Upgrade,
    /// Twice `Stop`, the second time a moment after the start.
    StopTwice,
    /// Twice `Kill`.
    KillTwice,
    /// SIGSTOP, SIGCONT within the hold time.
    Freeze,
    /// The same, beyond the hold time.
    FreezeLong,
    /// Stopped, a stale route of its own number planted, started: how long until that is gone.
    StaleRoute,
    /// Stopped, the other node's machine dies, started: how long until its route is gone.
    DiedMeanwhile,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Hold time of every session, seconds.
    pub hold: u16,
    /// Between stop and start.
    pub pause: Duration,
    /// Between the start and the second stop.
    pub between: Duration,
    /// Frozen within the hold time.
    pub freeze: Duration,
    /// Frozen beyond it.
    pub freeze_long: Duration,
    /// How long packets are counted after the sessions are up again.
    pub settle: Duration,
    /// Longest wait for a route to go.
    pub gone: Duration,
}

impl Timing {
    /// As the table has it.
    pub const FULL: Self = Self {
        hold: 90,
        pause: Duration::from_secs(3),
        between: Duration::from_secs(2),
        freeze: Duration::from_secs(30),
        freeze_long: Duration::from_secs(95),
        settle: Duration::from_secs(10),
        gone: Duration::from_secs(250),
    };

    /// For tests: the same proportions.
    pub const SHORT: Self = Self {
        hold: 9,
        pause: Duration::from_millis(1500),
        between: Duration::from_millis(1500),
        // BIRD's hold timer may go off two seconds early (it is randomized as a KEEPALIVE's is), and
        // the last KEEPALIVE may be three seconds old when the freeze begins. A busy machine is late, too.
        freeze: Duration::from_millis(2500),
        freeze_long: Duration::from_secs(15),
        settle: Duration::from_secs(3),
        gone: Duration::from_secs(30),
    };
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Per stream of [`STREAMS`]; empty where nothing was counted.
    pub streams: Vec<PingReport>,
    /// What a TCP connection between the pods noticed.
    pub flow: Option<FlowReport>,
    /// After what time the route that should go was gone; `None` in it: not within [`Timing::gone`].
    pub gone: Option<Option<Duration>>,
}

impl Outcome {
    /// Packets lost, all streams together.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.streams.iter().map(PingReport::lost).sum()
    }

    /// Packets lost between the pods of the two nodes.
    #[must_use]
    pub fn lost_between_pods(&self) -> u64 {
        self.streams.iter().take(2).map(PingReport::lost).sum()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, report) in STREAMS.iter().zip(&self.streams) {
            write!(f, "{name}: {report}; ")?;
        }
        if let Some(flow) = &self.flow {
            write!(f, "TCP: {flow}; ")?;
        }
        match self.gone {
            Some(Some(after)) => write!(f, "gone after {:.1} s", after.as_secs_f64()),
            Some(None) => write!(f, "not gone"),
            None => Ok(()),
        }
    }
}

/// Builds a stage, lets the case happen, counts.
///
/// # Errors
/// What does not come up, and a skip where a daemon is not installed.
pub fn run(
    scene: &Scene,
    routelet: &Path,
    cast: Cast,
    case: Case,
    timing: &Timing,
) -> anyhow::Result<Outcome> {
    let mut stage = Stage::new(scene, routelet, cast, timing.hold)?;
    stage.start()?;
    wait_up(&stage)?;
    match case {
        Case::StaleRoute => stale_route(&mut stage, timing),
        Case::DiedMeanwhile => died_meanwhile(&mut stage, timing),
        _ => counted(&mut stage, case, timing),
    }
}

fn wait_up(stage: &Stage) -> anyhow::Result<()> {
    eventually("two sessions of node 1", UP, || {
        let up = stage.node1.established()?;
        ensure!(up == 2, "{up} are established");
        Ok(())
    })?;
    for (name, (from, to)) in STREAMS.iter().zip(stage.probes()) {
        let report = reaches(from, to, UP)?;
        ensure!(report.received > 0, "{name} never: {report}");
    }
    Ok(())
}

fn counted(stage: &mut Stage, case: Case, timing: &Timing) -> anyhow::Result<Outcome> {
    let flow = TcpFlow::start(&stage.pods[0], &stage.pods[1], stage.pod_addresses[1])?;
    let streams = stage
        .probes()
        .into_iter()
        .map(|(from, to)| PingStream::start(from, to, INTERVAL))
        .collect::<anyhow::Result<Vec<_>>>()?;
    pause(Duration::from_secs(1));
    let node = &mut stage.node1;
    match case {
        Case::Stop | Case::Upgrade => {
            node.stop()?;
            if case == Case::Upgrade {
                node.replace_program()?;
            }
            pause(timing.pause);
            node.start()?;
        }
        Case::Kill => {
            node.kill();
            pause(timing.pause);
            node.start()?;
        }
        Case::StopTwice | Case::KillTwice => {
            for again in [false, true] {
                if again {
                    pause(timing.between);
                }
                if case == Case::StopTwice {
                    node.stop()?
                } else {
                    node.kill()
                }
                pause(timing.pause);
                node.start()?;
            }
        }
        Case::Freeze => node.freeze(timing.freeze)?,
        Case::FreezeLong => node.freeze(timing.freeze_long)?,
        Case::StaleRoute | Case::DiedMeanwhile => unreachable!("without packets"),
    }
    let up = eventually("the sessions again", UP, || {
        let up = stage.node1.established()?;
        ensure!(up == 2, "{up} are established");
        Ok(())
    });
    pause(timing.settle);
    let streams = streams.into_iter().map(PingStream::stop).collect();
    let flow = Some(flow.stop());
    up?;
    Ok(Outcome { streams, flow, gone: None })
}

fn stale_route(stage: &mut Stage, timing: &Timing) -> anyhow::Result<Outcome> {
    stage.node1.stop()?;
    let stale = "10.99.0.0/24";
    stage.plant(stale)?;
    let begin = now();
    stage.node1.start()?;
    gone(stage, stale, begin, timing)
}

fn died_meanwhile(stage: &mut Stage, timing: &Timing) -> anyhow::Result<Outcome> {
    stage.node1.stop()?;
    let prefix = stage.node2.network();
    // Where the daemon cleans the kernel, there is nothing left to go.
    let kept = stage.has_route(&prefix)?;
    stage.node2.kill();
    stage.unplug_node2()?;
    let begin = now();
    stage.node1.start()?;
    if !kept {
        return Ok(Outcome { gone: Some(Some(Duration::ZERO)), ..Outcome::default() });
    }
    gone(stage, &prefix, begin, timing)
}

fn gone(
    stage: &Stage,
    prefix: &str,
    begin: std::time::Instant,
    timing: &Timing,
) -> anyhow::Result<Outcome> {
    let went = eventually("the route to go", timing.gone, || {
        ensure!(!stage.has_route(prefix)?, "still there");
        Ok(now().duration_since(begin))
    });
    Ok(Outcome { gone: Some(went.ok()), ..Outcome::default() })
}

/// Time passes: it is what is measured.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The binary beside this program.
///
/// # Errors
/// If there is none.
pub fn routelet_beside() -> anyhow::Result<std::path::PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let path = own.with_file_name("routelet");
    ensure!(path.is_file(), "no {}: name one with --routelet", path.display());
    Ok(path)
}

//! How the node's pods get their addresses: a CNI configuration list for the container runtime.
//!
//! In flow: [`CniConfig`], whether the kernel side is in sync and the node forwards, the MTU of the
//! links below, what else lies in the runtime's directory. Out flow: one file, `10-routelet.conflist`,
//! and [`CniStatus`]. The plugins are the standard ones; the runtime runs them, this agent does not.
//!
//! ```text
//!  Config ──────┐
//!  kernel side ─┼─► task ─► conflist (text) ─► file (temporary, fsync, rename) ─► the runtime
//!  links, MTU ──┤    │
//!  directory ───┘    └─► CniStatus ─► `routelet status`
//! ```
//!
//! What always holds: the file appears only once the node can forward, because its appearance makes
//! the node ready for pods; it is never half written, nor touched while its content is right; it
//! outlives the agent, and only a withdrawal removes it. Nobody else's file is touched.

mod conflist;
mod file;
mod plugins;
mod task;
mod underlay;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use self::task::{Command, Task};
use crate::kernel::KernelHandle;

pub use self::conflist::NETWORK_NAME;
pub use self::file::FILE_NAME;

/// Where runtimes look for configurations.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// Where plugins are: the convention, and Debian's place.
pub const BIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// The plugin that makes a pod's device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Plugin {
    /// A pair of devices for each pod, routed.
    #[default]
    Ptp,
    /// A port of one bridge for each pod.
    Bridge,
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        })
    }
}

/// What is to be written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CniConfig {
    /// `false`: nothing is.
    pub enabled: bool,
    /// The runtime's directory.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for.
    pub bin_dirs: Vec<PathBuf>,
    /// Which plugin makes devices.
    pub plugin: Plugin,
    /// MTU of pods, octets; `None`: what fits.
    pub mtu: Option<u32>,
    /// Octets that encapsulation may add to a packet of a pod.
    pub overhead: u32,
    /// MTU of the tunnels, where it is configured and there are any.
    pub tunnel_mtu: Option<u32>,
    /// Where addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's addresses, which the links below have.
    pub addresses: Vec<IpAddr>,
    /// A peer in each family: its direction is asked for where an address is on no link (loopback).
    pub towards: Vec<IpAddr>,
}

/// What `routelet status` says about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CniStatus {
    /// The file is there, with what is wanted now.
    pub written: bool,
    /// MTU in the file, where it is known.
    pub mtu: Option<u32>,
    /// What will come by itself and is waited for.
    pub waiting: Option<String>,
    /// What somebody has to do something about, each with its fix.
    pub problems: Vec<String>,
}

/// Who knows whether packets of pods are forwarded already: the kernel side, but for tests.
pub trait Readiness: Send + Sync + 'static {
    /// What is still missing, in words.
    fn pending(&self) -> impl Future<Output = Option<String>> + Send;
}

impl Readiness for KernelHandle {
    async fn pending(&self) -> Option<String> {
        let synced = self.status().await.synced;
        (!synced).then(|| "the first routes in the kernel".to_owned())
    }
}

/// The handle to the running task; clones talk to the same one. When the last is dropped it ends, and
/// leaves the file.
#[derive(Clone, Debug)]
pub struct CniHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<CniStatus>,
}

impl CniHandle {
    /// Starts with a configuration; one that is not enabled does nothing until another is applied.
    pub fn start(config: CniConfig, readiness: impl Readiness) -> Self {
        let (commands, commands_out) = mpsc::channel(4);
        let (status_in, status) = watch::channel(CniStatus::default());
        let contained = plugins::in_container();
        tokio::spawn(Task::new(config, readiness, contained, status_in).run(commands_out));
        Self { commands, status }
    }

    /// Takes a new configuration.
    pub async fn apply(&self, config: CniConfig) {
        // A task that has ended was stopped: then there is nothing to apply it to.
        let _ = self.commands.send(Command::Apply(config)).await;
    }

    /// For `routelet status`.
    #[must_use]
    pub fn status(&self) -> CniStatus {
        self.status.borrow().clone()
    }

    /// Ends. The file stays unless `withdraw`.
    pub async fn stop(&self, withdraw: bool) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Stop { withdraw, done }).await.is_ok() {
            let _ = finished.await;
        }
    }
}

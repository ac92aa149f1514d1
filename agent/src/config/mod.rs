//! Configuration: one YAML file (later also Kubernetes objects) becomes one validated [`Config`].
//!
//! ```text
//!  text ─► file (keys, places) ─► parse ─► spec (values) ─► validate ─► Config ─► speaker, kernel, API
//!                                   └──────── Problems ────────┘  └► ConfigError: all mistakes at once
//! ```
//!
//! In flow: the text of a file. Out flow: a whole valid [`Config`], or errors that name file, line,
//! column and the fix; never a part of one. The rest of the agent only sees [`Config`], and asks it
//! what a change would do ([`Config::plan`]) and what must wait for a restart
//! ([`Config::restart_required`]). Secrets are read from files of their own and never printed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_bgp::core::config::SpeakerConfig;

use crate::cni::CniConfig;
use crate::kernel::KernelConfig;
use crate::nft::FirewallConfig;

pub(crate) mod file;
mod load;
pub mod metrics;
mod parse;
pub(crate) mod parts;
mod plan;
pub(crate) mod problem;
mod scalar;
mod spec;
mod validate;
mod watch;

#[cfg(test)]
mod tests;

/// Where the API is served unless the configuration or `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/routelet/routelet.sock";

pub use self::file::known_keys;
pub use self::load::{LoadError, Loaded, host_name, load, load_text};
use self::metrics::MetricsConfig;
pub use self::parse::ReadPassword;
pub(crate) use self::parts::base_metrics;
pub use self::plan::{PeerStep, Plan};
pub use self::problem::{ConfigError, Place, Problem};
pub use self::watch::ConfigWatcher;

/// A valid configuration of the whole agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// For the speaker.
    pub speaker: Arc<SpeakerConfig>,
    /// Where BGP listens.
    pub listen: Vec<SocketAddr>,
    /// For the kernel.
    pub kernel: KernelConfig,
    /// For the CNI configuration of the node's pods.
    pub cni: CniConfig,
    /// For the firewall.
    pub firewall: FirewallConfig,
    /// Socket of the local API.
    pub api_socket: PathBuf,
    /// Metrics and probes.
    pub metrics: MetricsConfig,
    /// Where state is kept across restarts.
    pub state_dir: PathBuf,
    /// What is legal but probably not meant, in words; `routelet check` prints them.
    pub warnings: Vec<String>,
}

/// Makes a configuration of `text`, which stands in the file `name`.
///
/// `host_name` is the node's name where the file has none; `passwords` reads the files that hold
/// secrets.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(
    name: &str,
    text: &str,
    host_name: Option<&str>,
    passwords: ReadPassword<'_>,
) -> Result<Config, ConfigError> {
    let mut problems = problem::Problems::default();
    let config = file::read(text, &mut problems).and_then(|file| {
        let spec = parse::parse(&file, passwords, &mut problems);
        validate::validate(&spec, host_name, &mut problems)
    });
    match config {
        Some(config) if problems.is_valid() => {
            Ok(Config { warnings: problems.warnings(), ..config })
        }
        _ => Err(problems.into_error(name, text)),
    }
}

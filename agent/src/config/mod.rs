//! Configuration: one YAML file (later also Kubernetes objects) becomes one validated [`Config`].
//!
//! In flow: the text of a file. Out flow: a whole valid [`Config`], or errors that name file, line,
//! column and the fix; never a part of one. The rest of the agent only sees [`Config`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_bgp::core::config::SpeakerConfig;

use crate::kernel::KernelConfig;

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
    /// Socket of the local API.
    pub api_socket: PathBuf,
    /// Where metrics and health are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where state is kept across restarts.
    pub state_dir: PathBuf,
    /// What is legal but probably not meant, in words; `routelet check` prints them.
    pub warnings: Vec<String>,
}

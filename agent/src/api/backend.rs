//! What the API needs of the daemon, as a trait, so that handlers are tested with values made by
//! hand and the daemon is composed in one place only ([`crate::app`]).

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use routelet_bgp::core::view::{
    ExplainView, PeerTableView, RouteQuery, RouteSelector, RouteView, SessionView,
};
use routelet_bgp::io::{PeerCommand, RequestError, StopMode};

use crate::api::views;
use crate::cni::CniStatus;
use crate::config::Config;
use crate::kernel::{KernelLookup, KernelStatus, RouteStatus, RouteWay};
use crate::nft::FirewallStatus;

/// The daemon as the API sees it.
pub trait Backend: Send + Sync + 'static {
    /// The peers: session and tables side by side.
    fn peers(
        &self,
    ) -> impl Future<Output = Result<Vec<(SessionView, PeerTableView)>, RequestError>> + Send;

    /// Routes, sorted by prefix, the best path of each first.
    fn routes(
        &self,
        query: RouteQuery,
    ) -> impl Future<Output = Result<Vec<RouteView>, RequestError>> + Send;

    /// Everything about one destination.
    fn explain(
        &self,
        selector: RouteSelector,
    ) -> impl Future<Output = Result<ExplainView, RequestError>> + Send;

    /// Does something to a peer by hand.
    fn command(
        &self,
        peer: &str,
        command: PeerCommand,
    ) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// What became of these prefixes in the kernel, in order.
    fn route_status(
        &self,
        prefixes: Vec<IpNet>,
    ) -> impl Future<Output = Vec<Option<RouteStatus>>> + Send;

    /// By which ways the kernel's routes for these prefixes lead, in order.
    fn route_ways(&self, prefixes: Vec<IpNet>) -> impl Future<Output = Vec<Vec<RouteWay>>> + Send;

    /// The kernel side in numbers.
    fn kernel_status(&self) -> impl Future<Output = KernelStatus> + Send;

    /// The firewall in words.
    fn firewall_status(&self) -> impl Future<Output = FirewallStatus> + Send;

    /// What the kernel has for an address and for exactly a prefix.
    fn lookup(
        &self,
        address: IpAddr,
        prefix: Option<IpNet>,
    ) -> impl Future<Output = KernelLookup> + Send;

    /// The configuration and the life of the daemon.
    fn snapshot(&self) -> Snapshot;

    /// Reads the file again and applies the difference.
    ///
    /// # Errors
    /// The configuration is refused, whole; the words name file, line, column and the fix.
    fn reload(&self) -> impl Future<Output = Result<views::Plan, String>> + Send;

    /// What a file with this text would change.
    ///
    /// # Errors
    /// As [`Self::reload`].
    fn plan(&self, file: &str, text: &str) -> Result<views::Plan, String>;

    /// Begins to stop the daemon.
    fn stop(&self, mode: StopMode);
}

/// The configuration and the life of the daemon at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What runs.
    pub config: Arc<Config>,
    /// The file it came from.
    pub file: PathBuf,
    /// How many configurations were applied, the first included.
    pub generation: u64,
    /// When the running one was.
    pub loaded: Instant,
    /// Why the file as it is now was refused, and when.
    pub refused: Option<(String, Instant)>,
    /// What changed in the file but needs a restart.
    pub needs_restart: Vec<String>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether the first sync is complete.
    pub first_sync: bool,
    /// What hinders a newer configuration where it does not come from a file, in words.
    pub notes: Vec<String>,
    /// The CNI configuration for the node's pods.
    pub cni: CniStatus,
    /// What is wrong with the daemon itself, in words with the fix.
    pub problems: Vec<String>,
    /// The Kubernetes side, in a cluster.
    pub cluster: Option<ClusterSnapshot>,
}

/// The Kubernetes side in numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterSnapshot {
    /// The configuration is from the API server, not from the disk.
    pub live: bool,
    /// The objects as they are now give no configuration.
    pub failed: bool,
    /// Objects that are not part of it as they are written.
    pub refused: usize,
    /// Nodes that are known.
    pub nodes: usize,
    /// Lists and watches that failed since the start, by resource.
    pub errors: Vec<(String, u64)>,
}

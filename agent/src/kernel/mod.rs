//! The kernel side: what the speaker wants in the FIB, and what the FIB really has.
//!
//! In flow: [`RouteQueue`] (the latest change of each prefix, next hops to track), the kernel
//! configuration, netlink notifications. Out flow: batches of route messages, next-hop answers to
//! the speaker, [`RouteStatus`] for the CLI.
//!
//! What always holds: only routes with our own protocol number are changed or removed; nothing is
//! removed before the first sync; a next hop is never resolved through a route of our own.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use routelet_bgp::io::{RouteQueue, SpeakerHandle};

/// What the kernel side is told to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelConfig {
    /// `false`: no netlink at all.
    pub enabled: bool,
    /// Routing table, 1 to 2^32-1; 254 is main.
    pub table: u32,
    /// Protocol number of our routes, 5 to 255.
    pub protocol: u8,
    /// Metric of our routes, never 1024.
    pub metric: u32,
    /// Metric of the blackholes behind own pod CIDRs.
    pub blackhole_metric: u32,
    /// Own pod CIDRs, each of which gets a blackhole.
    pub blackholes: Vec<IpNet>,
    /// Whether routes that others delete are put back.
    pub repair: bool,
}

/// What became of a prefix in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteStatus {
    /// It is in the FIB as wanted.
    Installed,
    /// It is on its way.
    Pending,
    /// The kernel refused it, or somebody else's route is in its place; in words.
    Failed(String),
}

/// What `routelet status` says about the kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelStatus {
    /// Routes wanted.
    pub desired: usize,
    /// Of those, acknowledged by the kernel.
    pub installed: usize,
    /// Of those, refused.
    pub failed: usize,
    /// Routes of an earlier life found at start and kept until the first sync.
    pub adopted: usize,
    /// Whether the stale ones have been removed after the first sync.
    pub synced: bool,
    /// Routes put back because somebody else had removed or changed them, since start.
    pub repaired: u64,
    /// Problems in words, each with its fix (forwarding off, missing capability, …).
    pub problems: Vec<String>,
}

/// What the kernel says about one destination, for `explain`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelLookup {
    /// The route packets to the address really take, as `ip route get` would print it.
    pub route: Option<String>,
    /// Every route of ours or others for exactly the prefix, as `ip route show` would print them.
    pub candidates: Vec<String>,
    /// Per next hop how it resolves: device, on link or gateway, in words.
    pub next_hops: Vec<(IpAddr, String)>,
}

/// The handle to the running kernel side; clones talk to the same one.
#[derive(Clone, Debug)]
pub struct KernelHandle {}

impl KernelHandle {
    /// Opens netlink, adopts what stands under our protocol number, and starts the tasks and the
    /// writer's thread. With `enabled: false` it only drains the queue.
    ///
    /// # Errors
    /// In words that name the capability (NET_ADMIN) where that is what is missing.
    pub async fn start(
        config: KernelConfig,
        queue: Arc<RouteQueue>,
        speaker: SpeakerHandle,
    ) -> anyhow::Result<Self> {
        let _ = (config, queue, speaker);
        todo!()
    }

    /// Takes a new configuration and applies the difference.
    pub async fn apply(&self, config: KernelConfig) {
        let _ = config;
        todo!()
    }

    /// What became of these prefixes, in order; `None` for one that is not wanted.
    pub async fn route_status(&self, prefixes: Vec<IpNet>) -> Vec<Option<RouteStatus>> {
        let _ = prefixes;
        todo!()
    }

    /// For `routelet status`.
    pub async fn status(&self) -> KernelStatus {
        todo!()
    }

    /// For `routelet explain`: what the kernel really has for `address` and for exactly `prefix`.
    pub async fn lookup(&self, address: IpAddr, prefix: Option<IpNet>) -> KernelLookup {
        let _ = (address, prefix);
        todo!()
    }

    /// Stops. Routes stay, unless `withdraw`: then everything of ours is removed.
    pub async fn stop(&self, withdraw: bool) {
        let _ = withdraw;
        todo!()
    }

    /// Completes when the writer or a task has panicked, with the reason; never otherwise.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }
}

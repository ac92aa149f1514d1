//! What the tables of both families share: configuration, attributes, peers, effects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Output;
use super::attrs::AttrStore;
use super::cluster::Cluster;
use super::import::Import;
use super::peers::{Peers, Slot};
use super::sync::Sync;
use super::table::Destination;
use crate::core::config::SpeakerConfig;
use crate::core::forwarding::NextHopSet;

/// Resolution of [`super::table::Path::learned`].
const TICK_MILLIS: u128 = 100;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) start: Instant,
    /// The time of the call being handled.
    pub(super) now: Instant,
    pub(super) config: Arc<SpeakerConfig>,
    pub(super) cluster: Cluster,
    pub(super) attrs: AttrStore,
    pub(super) peers: Peers,
    pub(super) outputs: VecDeque<Output>,
    pub(super) sync: Sync,
    /// Attribute sets encoded so far.
    pub(super) encodings: u64,
}

impl Shared {
    pub(super) fn import(&self, slot: Slot) -> Import<'_> {
        Import { config: &self.config, cluster: &self.cluster, peer: &self.peers[slot] }
    }

    /// The time of the call being handled, as paths keep it.
    pub(super) fn tick(&self) -> u32 {
        let millis = self.now.saturating_duration_since(self.start).as_millis();
        u32::try_from(millis / TICK_MILLIS).unwrap_or(u32::MAX)
    }

    /// The time a path keeps, as others know it.
    pub(super) fn instant(&self, tick: u32) -> Instant {
        self.start + Duration::from_millis(u64::from(tick) * TICK_MILLIS as u64)
    }

    /// Whether learned routes to `prefix` go to the kernel: service addresses never do.
    pub(super) fn installs(&self, prefix: IpNet) -> bool {
        self.config.track_next_hops && !self.is_service(prefix)
    }

    pub(super) fn is_service(&self, prefix: IpNet) -> bool {
        !self.cluster.services.is_empty() && self.cluster.services.covers(prefix)
    }

    /// Where the packets of a destination go by its present decision, whether or not the kernel is
    /// told.
    pub(super) fn next_hops<P>(&self, destination: &Destination<P>) -> NextHopSet {
        let mut set: NextHopSet = destination
            .paths
            .iter()
            .filter(|path| path.has(super::table::MULTIPATH))
            .filter_map(|path| self.attrs.next_hops.forwarding(self.attrs.get(path.attrs).next_hop))
            .collect();
        if set.len() > 1 {
            set.sort_unstable();
            set.dedup();
        }
        set
    }
}

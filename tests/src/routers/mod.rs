//! Routers behind one face: BIRD, FRR, GoBGP and OpenBGPD from their packages, and the agent itself.
//!
//! In flow: a [`RouterSpec`], which each of them renders in its own language. Out flow: running
//! daemons, and their tables in their own words, read through their own command lines.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use ipnet::IpNet;
use routelet::lab::netns::Netns;
use routelet::lab::node::Node;

use crate::harness::eventually;
use crate::scene::Scene;
use crate::want::RibRoute;

mod bird;
mod frr;
mod gobgp;
mod openbgpd;
mod ours;

pub use bird::Bird;
pub use frr::Frr;
pub use gobgp::Gobgp;
pub use openbgpd::Openbgpd;

/// How long sessions may take to come up, restarts of either side included.
pub const SESSIONS: Duration = Duration::from_secs(30);

/// Anything with a table of routes.
pub trait Speaker {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// How many of its sessions are Established.
    ///
    /// # Errors
    /// If it cannot be asked.
    fn established(&self) -> anyhow::Result<usize>;

    /// Every path it has to exactly this prefix and that takes part in its decision.
    ///
    /// # Errors
    /// If it cannot be asked, or answers in words that are not understood.
    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>>;

    /// Waits until `count` sessions are Established.
    ///
    /// # Errors
    /// With the number there were.
    fn wait_established(&self, count: usize) -> anyhow::Result<()> {
        eventually(&format!("{count} sessions of {}", self.name()), SESSIONS, || {
            let up = self.established()?;
            ensure!(up == count, "{up} are established");
            Ok(())
        })
    }
}

/// A router from a package.
pub trait Router: Speaker {
    /// Starts its daemons and waits until they answer.
    ///
    /// # Errors
    /// If they do not.
    fn start(&mut self) -> anyhow::Result<()>;

    /// Stops them as their service would.
    ///
    /// # Errors
    /// If they do not stop.
    fn stop(&mut self) -> anyhow::Result<()>;

    /// Ceases to announce a prefix, while running.
    ///
    /// # Errors
    /// If it refuses.
    fn withdraw(&mut self, prefix: IpNet) -> anyhow::Result<()>;

    /// What it shows of its sessions and has logged of them, in its own words: where the text of a
    /// NOTIFICATION is to be found (RFC 9003).
    ///
    /// # Errors
    /// If it cannot be asked.
    fn sessions_text(&self) -> anyhow::Result<String>;

    /// Itself as a speaker.
    fn speaker(&self) -> &dyn Speaker;
}

/// A maker of routers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
    /// GoBGP, which leaves the kernel alone.
    Gobgp,
    /// OpenBGPD, which leaves the kernel alone.
    Openbgpd,
}

impl Kind {
    /// Makes a router that does not run yet.
    ///
    /// # Errors
    /// A skip if its package is missing.
    pub fn router(
        self,
        scene: &Scene,
        name: &str,
        netns: &Netns,
        spec: RouterSpec,
    ) -> anyhow::Result<Box<dyn Router>> {
        Ok(match self {
            Self::Bird => Box::new(Bird::new(scene, name, netns, spec)?),
            Self::Frr => Box::new(Frr::new(scene, name, netns, spec)?),
            Self::Gobgp => Box::new(Gobgp::new(scene, name, netns, spec)?),
            Self::Openbgpd => Box::new(Openbgpd::new(scene, name, netns, spec)?),
        })
    }
}

/// What a router is to do, in no router's language. IPv4 and IPv6 go over each session.
#[derive(Clone, Debug, Default)]
pub struct RouterSpec {
    /// Its AS.
    pub asn: u32,
    /// BGP Identifier, and cluster id of a reflector.
    pub router_id: String,
    /// Its peers.
    pub neighbors: Vec<Neighbor>,
    /// What it originates.
    pub announcements: Vec<Announcement>,
    /// Whether it puts routes into its kernel (BIRD and FRR can).
    pub forwards: bool,
}

/// One peer of a router.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// A word, unique in the router.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Our IPv4 and IPv6 address in its subnet.
    pub local: [IpAddr; 2],
    /// Reflect its routes.
    pub reflector_client: bool,
    /// Replace its AS by ours in paths that it is sent.
    pub as_override: bool,
}

/// A prefix that starts at a router, with its attributes.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// What.
    pub prefix: IpNet,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, for iBGP.
    pub local_pref: Option<u32>,
    /// ORIGIN: `igp`, `egp` or `incomplete`.
    pub origin: &'static str,
    /// COMMUNITIES.
    pub communities: Vec<(u16, u16)>,
    /// LARGE COMMUNITIES.
    pub large_communities: Vec<(u32, u32, u32)>,
}

impl Announcement {
    /// Of origin IGP, without anything optional.
    #[must_use]
    pub fn plain(prefix: IpNet) -> Self {
        Self {
            prefix,
            med: None,
            local_pref: None,
            origin: "igp",
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}

impl Speaker for Node {
    fn name(&self) -> &str {
        self.name()
    }

    fn established(&self) -> anyhow::Result<usize> {
        ours::established(self)
    }

    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
        ours::routes(self, prefix)
    }
}

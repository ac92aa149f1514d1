//! What a route should look like, whoever shows it.
//!
//! In flow: [`RibRoute`]s, made from each router's own words. Out flow: agreement, or every field that
//! differs. Fields that are not asked for are not compared.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{bail, ensure};
use ipnet::IpNet;

use crate::harness::eventually;
use crate::routers::Speaker;

/// How long a route may take to arrive, sessions being up or coming up.
pub const ARRIVAL: Duration = Duration::from_secs(20);

/// One path of one destination, as a router shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RibRoute {
    /// It is the best path there.
    pub best: bool,
    /// NEXT_HOP, or the global one of MP_REACH.
    pub next_hop: Option<IpAddr>,
    /// AS_PATH.
    pub as_path: Vec<u32>,
    /// `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// COMMUNITIES as `65001:100`.
    pub communities: BTreeSet<String>,
    /// LARGE COMMUNITIES as `65001:1:2`.
    pub large_communities: BTreeSet<String>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<String>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<String>,
}

/// What is asked of a route. `None`: not asked.
#[derive(Clone, Debug, Default)]
pub struct Want {
    next_hop: Option<IpAddr>,
    as_path: Option<Vec<u32>>,
    origin: Option<&'static str>,
    med: Option<Option<u32>>,
    local_pref: Option<Option<u32>>,
    communities: Option<BTreeSet<String>>,
    large_communities: Option<BTreeSet<String>>,
    originator_id: Option<Option<String>>,
    cluster_list: Option<Vec<String>>,
}

impl Want {
    /// A best path with this AS_PATH.
    #[must_use]
    pub fn path(as_path: &[u32]) -> Self {
        Self { as_path: Some(as_path.to_vec()), ..Self::default() }
    }

    /// And this NEXT_HOP.
    #[must_use]
    pub fn next_hop(mut self, next_hop: IpAddr) -> Self {
        self.next_hop = Some(next_hop);
        self
    }

    /// And this ORIGIN.
    #[must_use]
    pub fn origin(mut self, origin: &'static str) -> Self {
        self.origin = Some(origin);
        self
    }

    /// And this MED, or none.
    #[must_use]
    pub fn med(mut self, med: Option<u32>) -> Self {
        self.med = Some(med);
        self
    }

    /// And this LOCAL_PREF, or none.
    #[must_use]
    pub fn local_pref(mut self, local_pref: Option<u32>) -> Self {
        self.local_pref = Some(local_pref);
        self
    }

    /// And exactly these communities, standard and large.
    #[must_use]
    pub fn communities(mut self, standard: &[&str], large: &[&str]) -> Self {
        self.communities = Some(standard.iter().map(ToString::to_string).collect());
        self.large_communities = Some(large.iter().map(ToString::to_string).collect());
        self
    }

    /// And this ORIGINATOR_ID and CLUSTER_LIST.
    #[must_use]
    pub fn reflected(mut self, originator: Option<&str>, clusters: &[&str]) -> Self {
        self.originator_id = Some(originator.map(str::to_owned));
        self.cluster_list = Some(clusters.iter().map(ToString::to_string).collect());
        self
    }

    /// Waits until `speaker` has such a best path to `prefix`.
    ///
    /// # Errors
    /// With what it had instead.
    pub fn at(&self, speaker: &dyn Speaker, prefix: &str) -> anyhow::Result<()> {
        let prefix: IpNet = prefix.parse()?;
        eventually(&format!("{prefix} on {}", speaker.name()), ARRIVAL, || {
            let routes = speaker.routes(prefix)?;
            let Some(best) = routes.iter().find(|route| route.best) else {
                bail!("no best path among {routes:#?}");
            };
            let differences = self.differences(best);
            ensure!(differences.is_empty(), "{}", differences.join("; "));
            Ok(())
        })
    }

    fn differences(&self, is: &RibRoute) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(wanted) = self.next_hop {
            compare(&mut all, "next hop", &Some(wanted), &is.next_hop);
        }
        compare_if(&mut all, "AS path", self.as_path.as_ref(), &is.as_path);
        compare_if(&mut all, "origin", self.origin.map(str::to_owned).as_ref(), &is.origin);
        compare_if(&mut all, "MED", self.med.as_ref(), &is.med);
        compare_if(&mut all, "local pref", self.local_pref.as_ref(), &is.local_pref);
        compare_if(&mut all, "communities", self.communities.as_ref(), &is.communities);
        let large = self.large_communities.as_ref();
        compare_if(&mut all, "large communities", large, &is.large_communities);
        compare_if(&mut all, "originator", self.originator_id.as_ref(), &is.originator_id);
        compare_if(&mut all, "cluster list", self.cluster_list.as_ref(), &is.cluster_list);
        all
    }
}

/// Waits until `speaker` has no path to `prefix` at all.
///
/// # Errors
/// With what it still has.
pub fn gone(speaker: &dyn Speaker, prefix: &str) -> anyhow::Result<()> {
    let prefix: IpNet = prefix.parse()?;
    eventually(&format!("no {prefix} on {}", speaker.name()), ARRIVAL, || {
        let routes = speaker.routes(prefix)?;
        ensure!(routes.is_empty(), "still there: {routes:#?}");
        Ok(())
    })
}

fn compare_if<T: PartialEq + std::fmt::Debug>(
    all: &mut Vec<String>,
    name: &str,
    wanted: Option<&T>,
    is: &T,
) {
    if let Some(wanted) = wanted {
        compare(all, name, wanted, is);
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(all: &mut Vec<String>, name: &str, wanted: &T, is: &T) {
    if wanted != is {
        all.push(format!("{name} should be {wanted:?} and is {is:?}"));
    }
}

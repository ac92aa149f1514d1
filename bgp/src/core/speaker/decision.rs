//! The decision process (RFC 4271 §9.1.2.2, RFC 4456 §9): numbered steps that eliminate paths.
//!
//! In: candidates, eligible ones only, as plain values. Out: the best, those that share the traffic
//! with it, and for each of the others the step at which it lost. Elimination, not pairwise
//! comparison, because MED compares only among paths of one neighbouring AS and is no order: the
//! result does not depend on the order of arrival.
//!
//! Multipath: paths equal to the best through the IGP-metric step. Their AS_PATHs must be equally
//! long, not equal: two ToRs in different AS are the case it exists for. A MED loser among paths of
//! one AS does not share.

use std::cmp::Ordering;
use std::net::IpAddr;

use routelet_proto::{Asn, Origin, PathId};
use smallvec::SmallVec;

use crate::core::view::DecisionStep;

/// What the decision process asks of a path.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the destination, for the answer.
    pub index: usize,
    /// It starts here.
    pub local: bool,
    /// LOCAL_PREF, 100 if there is none.
    pub local_pref: u32,
    /// Length of AS_PATH, sets counted as one.
    pub as_path_length: u32,
    /// ORIGIN.
    pub origin: Origin,
    /// MULTI_EXIT_DISC, 0 if there is none (RFC 4271 §9.1.2.2 (c)).
    pub med: u32,
    /// The neighbouring AS; `None` for a path that starts in our own.
    pub neighbor: Option<Asn>,
    /// Learned over eBGP.
    pub external: bool,
    /// Metric of the route to the next hop.
    pub metric: u32,
    /// ORIGINATOR_ID if there is one, else the peer's BGP Identifier.
    pub identifier: u32,
    /// Length of CLUSTER_LIST.
    pub cluster_list_length: usize,
    /// The peer's address.
    pub peer_address: IpAddr,
    /// Path identifier (RFC 7911).
    pub path_id: PathId,
    /// The peer's place in our list, so that even sessions that share an address (link-local, on two
    /// interfaces) are told apart.
    pub peer: u16,
}

/// Candidates in any order.
pub type Candidates = SmallVec<[Candidate; 8]>;

/// What was decided.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// [`Candidate::index`] of the best.
    pub best: Option<usize>,
    /// The step that left it alone; `None` if it never had company.
    pub step: Option<DecisionStep>,
    /// [`Candidate::index`] of all that share the traffic, the best first.
    pub multipath: SmallVec<[usize; 4]>,
}

/// Decides. `lost` is told of each path that does not share the traffic, and at which step it lost.
pub fn select(
    candidates: &mut Candidates,
    maximum_paths: usize,
    mut lost: impl FnMut(usize, DecisionStep),
) -> Selection {
    use DecisionStep as Step;
    let mut selection = Selection::default();
    let mut lose = |index, step| {
        selection.step = Some(step);
        lost(index, step);
    };
    keep_least(candidates, |c| !c.local, |index| lose(index, Step::LocallyOriginated));
    keep_least(candidates, |c| !c.local_pref, |index| lose(index, Step::LocalPref));
    // (a)
    keep_least(candidates, |c| c.as_path_length, |index| lose(index, Step::AsPathLength));
    // (b)
    keep_least(candidates, |c| c.origin, |index| lose(index, Step::Origin));
    // (c)
    keep_least_med(candidates, |index| lose(index, Step::MultiExitDisc));
    // (d)
    keep_least(candidates, |c| !c.external, |index| lose(index, Step::ExternalOverInternal));
    // (e)
    keep_least(candidates, |c| c.metric, |index| lose(index, Step::IgpMetric));

    if candidates.len() > 1 {
        candidates.sort_unstable_by(|a, b| tie_break(a, b).0);
        selection.step = Some(tie_break(&candidates[0], &candidates[1]).1);
        let sharing = if candidates[0].local { 1 } else { maximum_paths.max(1) };
        for candidate in candidates.iter().skip(sharing) {
            lost(candidate.index, tie_break(&candidates[0], candidate).1);
        }
        candidates.truncate(sharing);
    }
    selection.best = candidates.first().map(|candidate| candidate.index);
    selection.multipath = candidates.iter().map(|candidate| candidate.index).collect();
    selection
}

/// Steps that leave exactly one: (f), RFC 4456 §9, (g), RFC 7911. Also the order in which equal
/// paths fill a multipath.
fn tie_break(a: &Candidate, b: &Candidate) -> (Ordering, DecisionStep) {
    use DecisionStep as Step;
    let identifier = a.identifier.cmp(&b.identifier);
    if identifier.is_ne() {
        return (identifier, Step::BgpIdentifier);
    }
    let cluster_list = a.cluster_list_length.cmp(&b.cluster_list_length);
    if cluster_list.is_ne() {
        return (cluster_list, Step::ClusterListLength);
    }
    let address = a.peer_address.cmp(&b.peer_address);
    if address.is_ne() {
        return (address, Step::PeerAddress);
    }
    ((a.path_id, a.peer).cmp(&(b.path_id, b.peer)), Step::PathIdentifier)
}

/// Leaves the candidates whose key is least.
fn keep_least<K: Ord>(
    candidates: &mut Candidates,
    key: impl Fn(&Candidate) -> K,
    mut lost: impl FnMut(usize),
) {
    if candidates.len() < 2 {
        return;
    }
    let Some(least) = candidates.iter().map(&key).min() else { return };
    candidates.retain(|candidate| {
        let keep = key(candidate) == least;
        if !keep {
            lost(candidate.index);
        }
        keep
    });
}

/// Leaves, of each neighbouring AS, the candidates whose MED is least.
fn keep_least_med(candidates: &mut Candidates, mut lost: impl FnMut(usize)) {
    if candidates.len() < 2 || candidates.iter().all(|c| c.med == candidates[0].med) {
        return;
    }
    let mut least: SmallVec<[(Option<Asn>, u32); 8]> = SmallVec::new();
    for candidate in candidates.iter() {
        match least.iter_mut().find(|(neighbor, _)| *neighbor == candidate.neighbor) {
            Some((_, med)) => *med = candidate.med.min(*med),
            None => least.push((candidate.neighbor, candidate.med)),
        }
    }
    candidates.retain(|candidate| {
        let keep = least.contains(&(candidate.neighbor, candidate.med));
        if !keep {
            lost(candidate.index);
        }
        keep
    });
}

#[cfg(test)]
mod tests;

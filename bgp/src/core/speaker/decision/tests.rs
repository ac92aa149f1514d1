//! The decision process against a second one, written from the text of RFC 4271 §9.1.2.2: a list of
//! 'is worse than' relations; whatever is worse than anything still there is removed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

type Worse = fn(&Candidate, &Candidate) -> bool;

const ROUNDS: [(DecisionStep, Worse); 11] = [
    (DecisionStep::LocallyOriginated, |a, b| b.local && !a.local),
    (DecisionStep::LocalPref, |a, b| a.local_pref < b.local_pref),
    (DecisionStep::AsPathLength, |a, b| a.as_path_length > b.as_path_length),
    (DecisionStep::Origin, |a, b| a.origin > b.origin),
    (DecisionStep::MultiExitDisc, |a, b| a.neighbor == b.neighbor && b.med < a.med),
    (DecisionStep::ExternalOverInternal, |a, b| b.external && !a.external),
    (DecisionStep::IgpMetric, |a, b| a.metric > b.metric),
    (DecisionStep::BgpIdentifier, |a, b| a.identifier > b.identifier),
    (DecisionStep::ClusterListLength, |a, b| a.cluster_list_length > b.cluster_list_length),
    (DecisionStep::PeerAddress, |a, b| a.peer_address > b.peer_address),
    (DecisionStep::PathIdentifier, |a, b| (a.path_id, a.peer) > (b.path_id, b.peer)),
];

/// What is left of `all` after `rounds`, and where the others went.
fn remove_worse(
    all: &[Candidate],
    rounds: &[(DecisionStep, Worse)],
    lost: &mut BTreeMap<usize, DecisionStep>,
) -> Vec<Candidate> {
    let mut left = all.to_vec();
    for (step, worse) in rounds {
        let before = left.clone();
        left.retain(|a| {
            let goes = before.iter().any(|b| worse(a, b));
            if goes {
                lost.insert(a.index, *step);
            }
            !goes
        });
    }
    left
}

struct Expected {
    best: Option<usize>,
    multipath: Vec<usize>,
    lost: BTreeMap<usize, DecisionStep>,
}

fn expected(all: &[Candidate], maximum_paths: usize) -> Expected {
    let mut lost = BTreeMap::new();
    let equal = remove_worse(all, &ROUNDS[..7], &mut lost);
    // One at a time, by the steps that leave one.
    let (mut order, mut rest) = (Vec::new(), equal);
    while !rest.is_empty() {
        let mut ties = BTreeMap::new();
        let next = remove_worse(&rest, &ROUNDS[7..], &mut ties)[0];
        if order.is_empty() {
            lost.extend(ties);
        }
        order.push(next);
        rest.retain(|candidate| candidate.index != next.index);
    }
    let sharing = if order.first().is_some_and(|best| best.local) { 1 } else { maximum_paths };
    let multipath: Vec<usize> = order.iter().take(sharing).map(|c| c.index).collect();
    for index in &multipath {
        lost.remove(index);
    }
    Expected { best: order.first().map(|c| c.index), multipath, lost }
}

fn candidate() -> impl Strategy<Value = Candidate> {
    // Few values each, so that ties are the rule.
    let route = (
        prop::bool::weighted(0.03),
        prop::sample::select(vec![100_u32, 100, 100, 100, 200]),
        1..=2_u32,
        prop::sample::select(vec![Origin::Igp, Origin::Igp, Origin::Egp, Origin::Incomplete]),
        0..3_u32,
        prop::option::of((65001..65003_u32).prop_map(Asn)),
    );
    let session = (any::<bool>(), 0..2_u32, 1..3_u32, 0..2_usize, 1..3_u8, 0..3_u32);
    (route, session).prop_map(|(route, session)| {
        let (local, local_pref, as_path_length, origin, med, neighbor) = route;
        let (external, metric, identifier, cluster_list_length, address, path_id) = session;
        Candidate {
            index: 0,
            local,
            local_pref,
            as_path_length,
            origin,
            med,
            neighbor,
            external,
            metric,
            identifier,
            cluster_list_length,
            peer_address: [10, 0, 0, address].into(),
            path_id,
            peer: 0,
        }
    })
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(), 0..9).prop_map(|mut candidates| {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            candidate.index = index;
            candidate.peer = index as u16;
        }
        candidates
    })
}

/// Few differences, so that the last steps are reached.
fn near_twins() -> impl Strategy<Value = Vec<Candidate>> {
    (candidate(), candidates()).prop_map(|(model, mut candidates)| {
        for candidate in &mut candidates {
            *candidate = Candidate {
                cluster_list_length: candidate.cluster_list_length,
                peer_address: candidate.peer_address,
                path_id: candidate.path_id,
                identifier: candidate.identifier,
                index: candidate.index,
                peer: candidate.peer,
                ..model
            };
        }
        candidates
    })
}

fn check(all: &[Candidate], maximum_paths: usize) -> Option<DecisionStep> {
    let expected = expected(all, maximum_paths);
    let mut lost = BTreeMap::new();
    let selection = select(&mut all.iter().copied().collect(), maximum_paths, |index, step| {
        assert!(lost.insert(index, step).is_none(), "a path loses once");
    });
    assert_eq!(selection.best, expected.best);
    assert_eq!(selection.multipath.to_vec(), expected.multipath);
    assert_eq!(lost, expected.lost);

    let reversed = select(&mut all.iter().rev().copied().collect(), maximum_paths, |_, _| ());
    assert_eq!(reversed, selection, "the order of arrival does not matter");
    selection.step
}

#[test]
fn agrees_with_the_text_and_every_step_decides_somewhere() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::with_cases(6000), rng);
    let decided = std::cell::RefCell::new(BTreeMap::<DecisionStep, usize>::new());
    let input = (prop_oneof![candidates(), near_twins()], 1..4_usize);
    runner
        .run(&input, |(all, maximum_paths)| {
            if let Some(step) = check(&all, maximum_paths) {
                *decided.borrow_mut().entry(step).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let decided = decided.into_inner();
    for (step, _) in ROUNDS {
        assert!(decided.get(&step).is_some_and(|times| *times > 5), "{step}: {decided:?}");
    }
}

proptest! {
    #[test]
    fn agrees_with_the_text(all in prop_oneof![candidates(), near_twins()], maximum in 1..4_usize) {
        check(&all, maximum);
    }
}

fn plain(index: usize) -> Candidate {
    Candidate {
        index,
        local: false,
        local_pref: 100,
        as_path_length: 2,
        origin: Origin::Igp,
        med: 0,
        neighbor: Some(Asn(65001)),
        external: true,
        metric: 0,
        identifier: index as u32 + 1,
        cluster_list_length: 0,
        peer_address: [10, 0, 0, index as u8 + 1].into(),
        path_id: 0,
        peer: index as u16,
    }
}

/// The classic case in which pairwise comparison depends on the order of arrival.
#[test]
fn med_is_compared_within_one_neighbouring_as_only() {
    let a = Candidate { med: 10, neighbor: Some(Asn(1)), metric: 1, ..plain(0) };
    let b = Candidate { med: 5, neighbor: Some(Asn(1)), metric: 3, ..plain(1) };
    let c = Candidate { med: 0, neighbor: Some(Asn(2)), metric: 2, ..plain(2) };
    for order in [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
        let selection = select(&mut order.into_iter().collect(), 1, |_, _| ());
        assert_eq!(selection.best, Some(2), "a loses to b by MED, b to c by metric");
        assert_eq!(selection.step, Some(DecisionStep::IgpMetric));
    }
}

#[test]
fn two_tors_of_different_as_share_the_traffic() {
    let other = Candidate { neighbor: Some(Asn(65002)), med: 50, ..plain(1) };
    let internal = Candidate { external: false, ..plain(2) };
    let longer = Candidate { as_path_length: 3, ..plain(3) };
    let mut all = [plain(0), other, internal, longer].into_iter().collect();
    let selection = select(&mut all, 16, |_, _| ());
    assert_eq!(selection.multipath.to_vec(), [0, 1]);
}

#[test]
fn multipath_has_at_most_so_many_paths_and_the_best_is_among_them() {
    let mut all = (0..40).rev().map(plain).collect();
    let mut lost = 0;
    let selection = select(&mut all, 16, |_, step| {
        lost += 1;
        assert_eq!(step, DecisionStep::BgpIdentifier);
    });
    assert_eq!(selection.multipath.to_vec(), (0..16).collect::<Vec<_>>());
    assert_eq!((selection.best, lost), (Some(0), 24));
}

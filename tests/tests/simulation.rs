//! The real core in virtual time, small enough for every run of the tests. `routelet-sim` runs the
//! large ones.

use routelet_tests::sim::{Topology, scenario};

#[test]
fn mesh_starts_and_stays_quiet() {
    scenario::run(Topology::full_mesh(40), 1, 0).unwrap();
}

#[test]
fn mesh_survives_crashes_resets_and_silence() {
    for seed in 1..=10 {
        scenario::run(Topology::full_mesh(15), seed, 12).unwrap();
    }
}

#[test]
fn clients_of_reflectors_start_and_stay_quiet() {
    scenario::run(Topology::reflected(3, 100, 2), 1, 0).unwrap();
}

#[test]
fn clients_of_reflectors_survive_crashes_resets_and_silence() {
    for seed in 1..=10 {
        scenario::run(Topology::reflected(2, 30, 1), seed, 12).unwrap();
    }
}

#[test]
fn graceful_restart_survives_crashes_resets_and_silence() {
    for seed in 1..=5 {
        scenario::run(Topology::full_mesh(15).with_graceful_restart(), seed, 12).unwrap();
        scenario::run(Topology::reflected(2, 30, 1).with_graceful_restart(), seed, 12).unwrap();
    }
}

#[test]
fn a_rolling_restart_takes_no_route_out_of_any_kernel() {
    for seed in 1..=5 {
        scenario::rolling_restart(Topology::full_mesh(15).with_graceful_restart(), seed).unwrap();
        scenario::rolling_restart(Topology::reflected(2, 20, 1).with_graceful_restart(), seed)
            .unwrap();
    }
    // Without it they do, so that the run can tell.
    scenario::rolling_restart(Topology::full_mesh(5), 1).unwrap_err();
}

#[test]
fn everybody_forgets_a_node_that_dies() {
    scenario::node_dies(Topology::full_mesh(20), 1, 7).unwrap();
    scenario::node_dies(Topology::reflected(2, 40, 1), 1, 17).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let runs = [0, 1].map(|_| scenario::run(Topology::reflected(2, 20, 1), 7, 8).unwrap().total);
    assert_eq!(runs[0], runs[1]);
}

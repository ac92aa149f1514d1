//! The agent against a real API server: etcd and kube-apiserver from `KUBEBUILDER_ASSETS`. Skipped
//! without it.
//!
//! In flow: deploy/ as it is shipped. Out flow: what the server accepts and refuses, what agents with
//! the shipped permissions do, in namespaces with real sessions and kernel routes.
//!
//! All tests share one server, one after the other, and each begins without objects.

#![allow(clippy::disallowed_methods, reason = "tests wait for real processes")]

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

mod agents;
mod answers;
mod cluster;
mod objects;
mod permissions;

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("objects::manifests_are_accepted", objects::manifests_are_accepted),
        ("objects::rules_refuse_what_is_wrong", objects::rules_refuse_what_is_wrong),
        ("objects::examples_are_accepted", objects::examples_are_accepted),
        ("agents::mesh_and_edits", agents::mesh_and_edits),
        ("agents::refusals_are_told", agents::refusals_are_told),
        ("agents::the_server_restarts", agents::the_server_restarts),
        ("permissions::suffice_and_no_more", permissions::suffice_and_no_more),
        ("permissions::own_node_only", permissions::own_node_only),
        (
            "answers::the_fake_answers_like_the_real_one",
            answers::the_fake_answers_like_the_real_one,
        ),
    ];
    harness::main(cases)
}

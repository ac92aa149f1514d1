//! The kernel side against a real kernel: routes, next hops, ownership, repair; each test in a
//! namespace of its own, checked by `ip`.

mod install;
mod next_hops;
mod objects;
mod ownership;
mod repair;
mod scale;
mod world;

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

fn main() -> ExitCode {
    let cases: Vec<Case> = [install::CASES, next_hops::CASES, ownership::CASES, repair::CASES]
        .into_iter()
        .chain([objects::CASES, scale::CASES])
        .flatten()
        .copied()
        .collect();
    harness::main(&cases)
}

//! On the kernel of user-mode Linux, where there is IP-in-IP, and loss and delay by netem.
//!
//! The kernel side's own tests run here once more: this kernel is another version than the machine's.

mod across;
mod change;
mod cluster;
mod facts;
#[path = "../kernel/install.rs"]
mod install;
#[path = "../kernel/next_hops.rs"]
mod next_hops;
#[path = "../kernel/ownership.rs"]
mod ownership;
#[path = "../kernel/repair.rs"]
mod repair;
mod stage;
#[path = "../kernel/world.rs"]
mod world;

use std::process::ExitCode;

use routelet_tests::harness::Case;
use routelet_tests::uml;

fn main() -> ExitCode {
    // What waits longest begins first.
    let cases: Vec<Case> = [change::CASES, across::CASES, facts::CASES]
        .into_iter()
        .chain([install::CASES, next_hops::CASES, ownership::CASES, repair::CASES])
        .flatten()
        .copied()
        .collect();
    uml::main(&cases)
}

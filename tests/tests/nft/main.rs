//! The firewall in real namespaces: the tunnel guard, source NAT, service addresses, chains of others
//! that drop, and what happens when others change our rules. `nft` and `iptables` check independently.

mod forward;
mod guard;
mod nat;
mod repair;
mod services;
mod world;

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

fn main() -> ExitCode {
    let cases: Vec<Case> =
        [guard::CASES, nat::CASES, services::CASES, forward::CASES, repair::CASES]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    harness::main(&cases)
}

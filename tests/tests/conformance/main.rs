//! Conformance: each malformed header, OPEN, capability, attribute and NLRI case of the RFCs, sent to
//! a running daemon over TCP, with exactly the treatment its RFC names.
//!
//! One daemon serves all cases. Every case has a peer address of its own, so that no case sees the
//! back-off of another, and prefixes of its own. A witness session stays up all the time; the last
//! case asserts that nothing the others sent has touched it.
//!
//! The octets are written by hand here, not by our own encoder: what is tested must not also
//! judge.

mod attributes;
mod case;
mod daemon;
mod header;
mod limits;
mod open;
mod policy;
mod refresh;
mod restart;
mod special;
mod state;
mod transport;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use crate::daemon::Daemon;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases wait for the daemon, not for the processor.
    arguments.test_threads.get_or_insert(8);
    let cases: Vec<case::Case> = [
        header::cases(),
        open::cases(),
        state::cases(),
        attributes::cases(),
        attributes::every_code(),
        refresh::cases(),
        transport::cases(),
        limits::cases(),
        restart::cases(),
        policy::cases(),
        policy::two_octet_cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    if arguments.list {
        let trials = cases.into_iter().map(|case| Trial::test(case.name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let daemon = Arc::new(Daemon::start(cases.len()).expect("the daemon starts"));
    let trials = cases
        .into_iter()
        .enumerate()
        .map(|(number, case)| {
            let daemon = daemon.clone();
            Trial::test(case.name.clone(), move || Ok(case.run(&daemon, number)?))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let witness = daemon.witness_unharmed();
    if let Err(problem) = &witness {
        eprintln!("the witness session was harmed: {problem:#}");
    }
    if conclusion.has_failed() || witness.is_err() {
        ExitCode::from(101)
    } else {
        ExitCode::SUCCESS
    }
}

//! BIRD 2 and FRR against routelet, and against each other to prove the harness.

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

mod field;

fn main() -> ExitCode {
    let cases: Vec<Case> = [field::CASES].concat();
    harness::main(&cases)
}

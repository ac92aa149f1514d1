//! BIRD 2 and FRR against routelet, and against each other to prove the harness.

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

mod field;
mod mesh;
mod setup;
mod tor;
mod transit;

fn main() -> ExitCode {
    let cases: Vec<Case> = [field::CASES, tor::CASES, mesh::CASES, transit::CASES].concat();
    harness::main(&cases)
}

//! BIRD 2, FRR, GoBGP and OpenBGPD against routelet, and against each other to prove the harness.

use std::process::ExitCode;

use routelet_tests::harness::{self, Case};

mod field;
mod four;
mod mesh;
mod message;
mod setup;
mod tor;
mod transit;
mod versions;

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        field::CASES,
        tor::CASES,
        mesh::CASES,
        transit::CASES,
        four::CASES,
        message::CASES,
        versions::CASES,
    ]
    .concat();
    harness::main(&cases)
}

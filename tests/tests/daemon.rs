//! The running daemon: configuration, signals, permissions, garbage, crashes.

use std::process::ExitCode;

use routelet_tests::harness;

fn main() -> ExitCode {
    harness::main(&[])
}

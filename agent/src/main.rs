//! The `routelet` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    routelet::cli::main()
}

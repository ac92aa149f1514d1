//! Tests on a kernel of our own: the test binary boots Debian's user-mode Linux and runs inside it.
//!
//! In flow: cases, as for [`crate::harness`], and the package `user-mode-linux`. Out flow: the same
//! lines and exit code as any other test binary. What the machine's kernel may lack (IP-in-IP, netem)
//! and a test must not do to it (load and unload modules) is here; and a second kernel version.
//!
//! One program plays three parts, told apart by the environment:
//!
//! ```text
//!  outside   libtest-mimic, in a sandbox: a trial takes a free guest or boots one   (host)
//!     │ a socket, the guest's /dev/ttyS0: name of a case in, one line of JSON out
//!  process 1 of the guest: mounts, modules, then a process per case                 (guest)
//!     │ exit code and what it printed
//!  a case    in a sandbox again: its own /run, processes and network                (case)
//! ```
//!
//! What always holds: the machine's files are the guest's root and are mounted read-only; a boot, a
//! case and the whole tier have a limit; a guest is ended by its own process group, and with the
//! sandbox whatever happens. A guest that hangs or dies fails its case, and the next one boots anew.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{Pid, getpid};
use routelet::lab::sandbox;

use crate::harness::{Case, Skip};

mod guest;
mod host;
mod modules;

/// Tells the process which part it plays: [`GUEST`], or the name of a case.
const PART: &str = "ROUTELET_UML";
/// The value of [`PART`] for process 1 of a guest.
const GUEST: &str = "guest";

/// How a case ended, from the guest to the host.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Report {
    outcome: Outcome,
    /// What a failed case printed; why one was skipped; of a guest that is up, what it lacks.
    text: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// The guest is up and waits for the name of a case.
    Ready,
    Passed,
    Skipped,
    Failed,
}

/// Runs the cases of a binary, each inside a guest. Call it first in `main`, before any thread exists.
#[must_use]
pub fn main(cases: &[Case]) -> ExitCode {
    // A sandbox has a process 1 as well, and hands its environment down.
    let first = getpid() == Pid::from_raw(1) && env::var_os(sandbox::MARKER).is_none();
    match env::var(PART) {
        Ok(part) if part == GUEST && first => guest::serve(),
        Ok(name) => guest::run_case(cases, &name),
        Err(_) => host::main(cases),
    }
}

/// That the guest's kernel has a module, or has it built in.
///
/// # Errors
/// [`Skip`] if it was not found when the guest started.
pub fn need(module: &str) -> anyhow::Result<()> {
    if loaded(module) || modules::is_builtin(module) {
        return Ok(());
    }
    Err(Skip(format!("the guest's kernel has no module {module}")).into())
}

/// Takes a module out of the guest's kernel until the value is dropped.
///
/// # Errors
/// If the module is in use.
pub fn without(module: &'static str) -> anyhow::Result<Without> {
    need(module)?;
    modules::unload(module)?;
    Ok(Without(module))
}

/// A module that is absent for a while.
#[derive(Debug)]
pub struct Without(&'static str);

impl Drop for Without {
    fn drop(&mut self) {
        // The next case that needs it says that it is missing.
        let _ = modules::load(self.0);
    }
}

/// Puts a module into the guest's kernel until the value is dropped.
///
/// # Errors
/// [`Skip`] if it is there already, or cannot be loaded.
pub fn with(module: &'static str) -> anyhow::Result<With> {
    if loaded(module) || modules::is_builtin(module) {
        return Err(Skip(format!("the guest's kernel has {module} always")).into());
    }
    modules::load(module).map_err(|error| Skip(format!("no module {module}: {error:#}")))?;
    Ok(With(module))
}

/// A module that is present for a while; what it depends on stays.
#[derive(Debug)]
pub struct With(&'static str);

impl Drop for With {
    fn drop(&mut self) {
        let _ = modules::unload(self.0);
    }
}

fn loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).is_dir()
}

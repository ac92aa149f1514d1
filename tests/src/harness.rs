//! Runs tests inside a sandbox, two at a time, and lets a test say at run time why it is skipped.
//!
//! In flow: named functions. Out flow: libtest's lines and exit code. A test that fails shows the end
//! of every log in its folder.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::mount::{MsFlags, mount};
use routelet::lab::process::tail;
use routelet::lab::{sandbox, wait_until};

use crate::scene::Scene;

/// A test: a name and what it does.
pub type Case = (&'static str, fn(&Scene) -> anyhow::Result<()>);

/// Why a test could not run here. An error for `?`; the harness reports it as a skip.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs the tests of a binary. Call it first in `main`, before any thread exists.
#[must_use]
pub fn main(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let outside: Option<Arc<str>> = if arguments.list {
        None
    } else {
        let entered = sandbox::enter(sandbox::Control::None).and_then(|()| hide_temporary_files());
        entered.err().map(|error| format!("{error:#}").into())
    };
    let trials = cases
        .iter()
        .map(|(name, test)| {
            let (name, test, outside) = (*name, *test, outside.clone());
            Trial::ignorable_test(name, move || match outside {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => run(name, test),
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// An empty /var/tmp for what runs inside: FRR leaves files there, whatever it is told.
///
/// # Errors
/// If it cannot be mounted.
pub fn hide_temporary_files() -> anyhow::Result<()> {
    let folder = Path::new("/var/tmp");
    let test = env::current_exe().context("cannot find the test binary")?;
    if folder.is_dir() && !test.starts_with(folder) {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))
            .context("cannot mount an empty /var/tmp")?;
    }
    Ok(())
}

fn run(name: &str, test: fn(&Scene) -> anyhow::Result<()>) -> Result<Completion, Failed> {
    match attempt(name, test) {
        Verdict::Passed => Ok(Completion::Completed),
        Verdict::Skipped(why) => Ok(Completion::ignored_with(why)),
        Verdict::Failed(why) => Err(why.into()),
    }
}

/// What became of a test.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Passed,
    /// Why it could not run.
    Skipped(String),
    /// What went wrong, and the end of every log of its scene.
    Failed(String),
}

/// Runs a test in a scene of its own; the sandbox has been entered.
pub(crate) fn attempt(name: &str, test: fn(&Scene) -> anyhow::Result<()>) -> Verdict {
    let scene = match Scene::new(name) {
        Ok(scene) => scene,
        Err(error) => return Verdict::Failed(format!("{error:#}")),
    };
    match test(&scene) {
        Ok(()) => Verdict::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Verdict::Skipped(skip.to_string()),
            None => Verdict::Failed(format!("{error:#}\n{}", logs(scene.folder()))),
        },
    }
}

/// Polls until `probe` is content, at most `limit`.
///
/// # Errors
/// With what was waited for and why it was not content the last time.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    wait_until(what, limit, || probe().map_err(|error| format!("{error:#}")))
}

/// Finds a program of a Debian package, also in /usr/sbin and the like.
///
/// # Errors
/// [`Skip`] if it is not there.
pub fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/frr"].map(PathBuf::from))
        .map(|folder| folder.join(name));
    folders
        .into_iter()
        .find(|file| file.is_file())
        .ok_or_else(|| Skip(format!("no {name}: apt-get install {package}")).into())
}

/// That the tests run as the real root, with all its users.
///
/// # Errors
/// [`Skip`] in a user namespace.
pub fn need_users(who: &str) -> anyhow::Result<()> {
    let map = fs::read_to_string("/proc/self/uid_map").context("cannot read uid_map")?;
    if map.split_whitespace().nth(2) == Some("1") {
        return Err(Skip(format!("{who} needs a user of its own: run as root")).into());
    }
    Ok(())
}

/// The agent's binary: `ROUTELET_BIN`, or the one cargo built beside the tests.
///
/// # Errors
/// If there is none; that is no skip, since it is what is tested.
pub fn routelet() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("ROUTELET_BIN") {
        return Ok(path.into());
    }
    let test = env::current_exe().context("cannot find the test binary")?;
    let target = test.ancestors().nth(2).context("the test binary is not in target/*/deps")?;
    let path = target.join("routelet");
    anyhow::ensure!(
        path.is_file(),
        "no {}: build it with `cargo build --workspace --bins --tests`, or set ROUTELET_BIN",
        path.display()
    );
    Ok(path)
}

/// `ip -j` with these words, parsed.
///
/// # Errors
/// [`Skip`] without iproute2; else what the command says.
pub fn ip(
    netns: &routelet::lab::netns::Netns,
    words: &str,
) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut command = Command::new(program("ip", "iproute2")?);
    command.arg("-j").arg("-d").args(words.split_whitespace());
    let text = netns.output(&mut command)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("ip {words} printed no JSON: {text}"))
}

/// The end of every log below a folder.
fn logs(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "log") || path.ends_with("log") {
                let log = fs::read(&path).unwrap_or_default();
                let log = tail(&String::from_utf8_lossy(&log), 60);
                text.push_str(&format!("--- {}\n{log}\n", path.display()));
            }
        }
    }
    text
}

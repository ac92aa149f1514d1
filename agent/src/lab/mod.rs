//! The lab: several nodes on one machine, each in a network namespace, for `routelet lab` and tests.
//!
//! In flow: the privileges of root, or of an ordinary user where user namespaces are allowed.
//! Out flow: namespaces, devices, processes, pings; and for the demonstration a report.
//!
//! What always holds: nothing outside the [`sandbox`] is changed, and nothing is left behind,
//! whatever ends the program. No `ip` and no `ping` command is needed.
//!
//! [`sandbox`] isolates, [`netns`] makes namespaces and what is in them, [`network`] topologies,
//! [`process`] runs programs, [`node`] the agent, [`cni`] attaches pods, [`ping`] measures; [`demo`] is the story told by
//! `routelet lab`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;

pub mod cni;
pub mod demo;
pub mod netns;
pub mod network;
pub mod node;
pub mod ping;
pub mod process;
pub mod sandbox;

/// Build nodes, pods and a router in network namespaces on this machine, and ping across them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LabArgs {
    /// Leave the lab up after the pings, until Ctrl-C or `routelet lab --down`.
    #[arg(long)]
    pub keep: bool,

    /// Take down the lab that is up.
    #[arg(long, exclusive = true)]
    pub down: bool,

    /// Enter a node, pod or router of the lab that is up: a shell, or the command after `--`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["keep", "down"])]
    pub enter: Option<String>,

    /// Take a learned route out of a node's kernel, with repair off, to see what the lab says.
    #[arg(long, value_name = "NODE=PREFIX", value_parser = parse_removal)]
    pub remove_route: Option<(String, IpNet)>,

    /// What to run with --enter.
    #[arg(last = true, value_name = "COMMAND", requires = "enter")]
    pub command: Vec<OsString>,
}

/// Does what `routelet lab` was asked to. `false`: pods did not reach each other.
///
/// To be called before the process has started a thread (see [`sandbox::enter`]).
///
/// # Errors
/// If the lab cannot be built or its nodes do not come up.
pub fn run(args: &LabArgs) -> anyhow::Result<bool> {
    if args.down {
        if !sandbox::take_down()? {
            bail!("no lab of yours is up");
        }
        return Ok(true);
    }
    if let Some(name) = &args.enter {
        return enter(name, &args.command);
    }
    sandbox::enter(if args.keep { sandbox::Control::Listen } else { sandbox::Control::None })?;
    demo::run(args)
}

/// Replaces this process by a command inside a namespace of the lab that is up.
fn enter(name: &str, command: &[OsString]) -> anyhow::Result<bool> {
    use std::os::unix::process::CommandExt;
    let Some(running) = sandbox::find()? else {
        bail!("no lab of yours is up: `routelet lab --keep` leaves one up");
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    sandbox::join(running)?;
    let path = PathBuf::from(netns::DIRECTORY).join(name);
    let file = std::fs::File::open(&path).map_err(|_| {
        let mut names: Vec<String> = std::fs::read_dir(netns::DIRECTORY)
            .map(|entries| {
                entries.flatten().map(|entry| entry.file_name().display().to_string()).collect()
            })
            .unwrap_or_default();
        names.sort();
        anyhow::anyhow!("the lab has no {name}; it has {}", names.join(", "))
    })?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {name}"))?;
    let (first, rest) = match command.split_first() {
        Some((first, rest)) => (first.clone(), rest),
        None => (std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()), &[] as &[_]),
    };
    let mut paths: Vec<PathBuf> = program.parent().map(PathBuf::from).into_iter().collect();
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let error = Command::new(&first)
        .args(rest)
        .env("PATH", std::env::join_paths(paths).context("cannot extend PATH")?)
        .env("ROUTELET_SOCKET", demo::folder(name).join("routelet.sock"))
        .exec();
    Err(error).with_context(|| format!("cannot run {}", first.display()))
}

/// Asks `probe` until it says yes, 20 times a second.
///
/// # Errors
/// If it still says no after `limit`: with `what` was waited for and its last answer.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let deadline = now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if now() >= deadline => {
                bail!("waited {limit:?} for {what}; the last state was: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The clock. The lab drives real processes in real time.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the lab is a driver of real processes")]
pub fn now() -> Instant {
    Instant::now()
}

fn parse_removal(text: &str) -> Result<(String, IpNet), String> {
    let (node, prefix) = text.split_once('=').ok_or("NODE=PREFIX is wanted")?;
    let prefix = prefix.parse().map_err(|error| format!("{prefix}: {error}"))?;
    Ok((node.to_owned(), prefix))
}

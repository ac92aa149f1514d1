//! `routelet lab` itself: it says when pods do not reach each other, and leaves nothing behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use routelet::lab::demo::{Way, Ways};
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use routelet::lab::sandbox;
use routelet_tests::harness::{self, Case, Skip, eventually, need_users};
use routelet_tests::scene::Scene;

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("every_pod_reaches_every_other", success),
        ("as_an_ordinary_user", ordinary_user),
        ("a_missing_route_is_noticed", missing_route),
        ("keep_enter_and_down", keep),
        ("an_interrupt_leaves_nothing", |scene| ended_by(scene, Signal::SIGINT)),
        ("kill_9_leaves_nothing", |scene| ended_by(scene, Signal::SIGKILL)),
    ];
    harness::main(cases)
}

fn lab(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = sandbox::command(harness::routelet()?);
    command.arg("lab").args(arguments);
    Ok(command)
}

fn finished(command: &mut Command) -> anyhow::Result<(Output, String)> {
    let output = command.output().context("cannot run the lab")?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output, text))
}

fn success(_: &Scene) -> anyhow::Result<()> {
    let (output, text) = finished(&mut lab(&[])?)?;
    ensure!(output.status.success(), "{}:\n{text}", output.status);
    for words in [
        "pod-a → pod-c",
        "→ server",
        "pods in different subnets: ",
        "10.244.3.0/24",
        "Established",
        "restarting",
        "taken down",
    ] {
        ensure!(text.contains(words), "the report lacks {words}:\n{text}");
    }
    Ok(())
}

fn ordinary_user(_: &Scene) -> anyhow::Result<()> {
    need_users("this test")?;
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if allowed.trim() == "0" {
        return Err(Skip("user namespaces are switched off".into()).into());
    }
    let mut command = lab(&[])?;
    command.uid(65534).gid(65534);
    let (output, text) = finished(&mut command)?;
    ensure!(output.status.success(), "{}:\n{text}", output.status);
    Ok(())
}

fn missing_route(_: &Scene) -> anyhow::Result<()> {
    // Where the ToR knows the pods it must be the ToR's: a node's default route leads there.
    let removal = match Ways::probe()?.v4 {
        Way::Router => "tor=10.244.3.0/24",
        Way::IpIp | Way::Vxlan => "node-a=10.244.3.0/24",
    };
    let (output, text) = finished(&mut lab(&["--remove-route", removal])?)?;
    ensure!(output.status.code() == Some(1), "{}:\n{text}", output.status);
    ensure!(text.contains("NOT REACHED"), "it does not say who:\n{text}");
    Ok(())
}

fn keep(scene: &Scene) -> anyhow::Result<()> {
    let (netns, mut running) = begin(scene, &["--keep"], "the lab stays up")?;
    // The control socket is found in the network namespace where the lab was started.
    let finished = |command: &mut Command| netns.run(|| finished(command));
    let (output, text) = finished(&mut lab(&["--enter", "node-a", "--", "routelet", "peers"])?)?;
    ensure!(output.status.success() && text.contains("node-c"), "{}:\n{text}", output.status);
    let (output, text) = finished(&mut lab(&["--enter", "nowhere"])?)?;
    ensure!(!output.status.success() && text.contains("pod-a"), "no list of names:\n{text}");
    let (output, text) = finished(&mut lab(&["--down"])?)?;
    ensure!(output.status.success(), "{}:\n{text}", output.status);
    running.wait(Duration::from_secs(5))?;
    nothing_left(scene)?;
    let (output, text) = finished(&mut lab(&["--down"])?)?;
    ensure!(!output.status.success() && text.contains("no lab"), "{}:\n{text}", output.status);
    Ok(())
}

fn ended_by(scene: &Scene, signal: Signal) -> anyhow::Result<()> {
    let (_netns, mut running) = begin(scene, &[], "sessions are established")?;
    ensure!(!agents(scene)?.is_empty(), "no agents are running yet");
    running.signal(signal)?;
    running.wait(Duration::from_secs(5))?;
    nothing_left(scene)
}

/// Starts a lab in the background and waits until it has said something.
fn begin(scene: &Scene, arguments: &[&str], words: &str) -> anyhow::Result<(Netns, Process)> {
    let netns = Netns::new(&scene.folder().file_name().unwrap_or_default().to_string_lossy())?;
    let mut command = lab(arguments)?;
    // A mark to know this lab's processes by.
    command.env("ROUTELET_LAB_OF", scene.folder());
    let log = scene.folder().join("lab.log");
    let running = Process::spawn("routelet lab", &netns, &mut command, &log)?;
    eventually("the lab", Duration::from_secs(30), || {
        ensure!(running.log().contains(words), "it says:\n{}", running.log());
        Ok(())
    })?;
    Ok((netns, running))
}

fn nothing_left(scene: &Scene) -> anyhow::Result<()> {
    eventually("the lab's processes to end", Duration::from_secs(5), || {
        let left = agents(scene)?;
        ensure!(left.is_empty(), "processes left: {left:?}");
        Ok(())
    })
}

/// Processes of a scene's lab: they inherit its environment.
fn agents(scene: &Scene) -> anyhow::Result<Vec<String>> {
    let mark = format!("ROUTELET_LAB_OF={}", scene.folder().display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        if environment.split(|octet| *octet == 0).any(|one| one == mark.as_bytes()) {
            found.push(describe(&path));
        }
    }
    Ok(found)
}

fn describe(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

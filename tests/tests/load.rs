//! The load generator at a small scale: every scenario completes, or says why it does not.

use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use routelet_tests::harness::{self, Skip};
use routelet_tests::load::dut::{self, Kind};
use routelet_tests::load::scenario::Figures;
use routelet_tests::scene::Scene;

fn main() -> ExitCode {
    harness::main(&[
        ("copier_announces", |scene| completes(scene, Kind::Copier, "million", "announce_s")),
        ("copier_reflects", |scene| completes(scene, Kind::Copier, "reflector200", "announce_s")),
        ("a_sender_that_vanishes_from_bird", |scene| {
            completes(scene, Kind::Bird, "million", "gone_s")
        }),
        ("a_reflector_of_bird", |scene| completes(scene, Kind::Bird, "reflector200", "gone_s")),
        ("a_cold_start_of_frr", |scene| completes(scene, Kind::Frr, "cold-start", "cold_start_s")),
        ("a_daemon_that_does_not_complete_is_a_failure", fails_where_nothing_is_withdrawn),
    ])
}

/// The scenario must end with a figure, and use some CPU on the way.
fn completes(_: &Scene, kind: Kind, scenario: &str, figure: &str) -> anyhow::Result<()> {
    if !dut::available(kind, None) {
        return Err(Skip(format!("{} is not installed", kind.name())).into());
    }
    let output = measure(kind, scenario, "30")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{scenario}: {errors}");
    let figures: Figures = serde_json::from_slice(&output.stdout)?;
    let value = figures.get(figure).with_context(|| format!("no {figure} in {figures:?}"))?;
    ensure!(*value > 0.0 && *value < 30.0, "{figure} is {value}");
    let cpu = figure.strip_suffix("_s").and_then(|phase| figures.get(&format!("{phase}_cpu_s")));
    let cpu = cpu.context("no CPU time")?;
    ensure!(*cpu > 0.0, "no CPU time was used");
    Ok(())
}

/// The copier cannot withdraw: when the four senders are gone, its receivers keep everything.
fn fails_where_nothing_is_withdrawn(_: &Scene) -> anyhow::Result<()> {
    let output = measure(Kind::Copier, "four-senders", "2")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "completed without a withdrawal");
    ensure!(errors.contains("0 of 2 receivers complete"), "{errors}");
    Ok(())
}

fn measure(kind: Kind, scenario: &str, limit: &str) -> anyhow::Result<std::process::Output> {
    Command::new(env!("CARGO_BIN_EXE_routelet-load"))
        .args(["measure", "--scale", "0.02", "--limit", limit])
        .args(["--dut", kind.word(), "--scenario", scenario])
        .output()
        .context("run the load generator")
}

//! Commands that do something, or look at files: reset, disable, enable, reload, stop, check, plan,
//! version.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::client::{Client, encode};
use super::output::{self, Columns};
use super::{ActionArgs, FileArgs, Outcome, OutputArgs, PlanArgs, StopArgs, Streams};
use crate::api::convert::plan;
use crate::api::views::{Done, PeerAction, Plan, PlanRequest, Version};
use crate::config;

/// How long `stop` waits for the daemon to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// `reset`, `disable` and `enable`.
pub(super) fn action(
    client: &Client,
    verb: &str,
    args: &ActionArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let path = format!("/v1/peers/{}/{verb}", encode(&args.peer));
    let done: Done = client.post(&path, &PeerAction { message: args.message.clone() })?;
    writeln!(streams.out, "{}", done.done)?;
    Ok(Outcome::Done)
}

/// `reload`.
pub(super) fn reload(
    client: &Client,
    args: OutputArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let plan: Plan = client.post("/v1/reload", &())?;
    print_plan(&plan, args, streams)
}

/// `plan`.
pub(super) fn plan(
    client: &Client,
    args: &PlanArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let (file, text) = read(&args.file)?;
    let plan: Plan = client.post("/v1/plan", &PlanRequest { file, text })?;
    print_plan(&plan, args.output, streams)
}

fn print_plan(plan: &Plan, args: OutputArgs, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    if output::structured(args.output, plan, streams.out)? {
        return Ok(Outcome::Done);
    }
    warn(&plan.warnings, streams)?;
    if plan.changes.is_empty() {
        writeln!(streams.out, "nothing changes")?;
        return Ok(Outcome::Done);
    }
    let rows = plan.changes.iter().map(|change| {
        let effect = match change.effect.as_str() {
            plan::RESET => "session reset",
            plan::RESTART => "after a restart",
            other => other,
        };
        vec![effect.to_owned(), change.what.clone()]
    });
    Columns::new(&["EFFECT", "CHANGE"]).write(rows, "", streams.out)?;
    Ok(Outcome::Done)
}

fn warn(warnings: &[String], streams: &mut Streams<'_>) -> io::Result<()> {
    for warning in warnings {
        writeln!(streams.err, "warning: {}", output::printable(warning))?;
    }
    Ok(())
}

/// `check`.
pub(super) fn check(args: &FileArgs, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    let loaded = match standard_input(&args.file)? {
        Some(text) => config::load_text(Path::new(STANDARD_INPUT), &text),
        None => config::load(&args.file),
    };
    match loaded {
        Ok(loaded) => {
            warn(&loaded.config.warnings, streams)?;
            writeln!(streams.out, "{}: ok", args.file.display())?;
            Ok(Outcome::Done)
        }
        Err(error) => {
            writeln!(streams.err, "{error}")?;
            Ok(Outcome::CheckFailed)
        }
    }
}

/// A file's absolute path, because the daemon runs elsewhere, and its text.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    if let Some(text) = standard_input(file)? {
        return Ok((STANDARD_INPUT.to_owned(), text));
    }
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    Ok((std::path::absolute(file)?.display().to_string(), text))
}

/// What errors call a text without a file.
const STANDARD_INPUT: &str = "standard-input";

/// The text on standard input, if `file` is `-`.
fn standard_input(file: &Path) -> anyhow::Result<Option<String>> {
    if file != Path::new("-") {
        return Ok(None);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(Some(text))
}

/// `stop`: returns when the daemon has ended.
pub(super) fn stop(
    client: &Client,
    args: &StopArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let path = if args.withdraw { "/v1/stop?withdraw=true" } else { "/v1/stop" };
    let done: Done = client.post(path, &())?;
    writeln!(streams.out, "{}", done.done)?;
    streams.out.flush()?;
    const STEP: Duration = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    while client.is_held() {
        if waited >= STOP_PATIENCE {
            bail!(
                "routelet at {} has not ended after {} s: see its log",
                client.socket().display(),
                STOP_PATIENCE.as_secs()
            );
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
    writeln!(streams.out, "stopped")?;
    Ok(Outcome::Done)
}

/// Versions of both sides.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    daemon: Option<String>,
}

/// `version`: a daemon that does not run is no error.
pub(super) fn version(
    client: &Client,
    args: OutputArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let daemon = client.get::<Version>("/v1/version");
    let versions = Versions {
        client: env!("CARGO_PKG_VERSION").to_owned(),
        daemon: daemon.as_ref().ok().map(|version| version.version.clone()),
    };
    if output::structured(args.output, &versions, streams.out)? {
        return Ok(Outcome::Done);
    }
    let daemon = match daemon {
        Ok(version) => version.version,
        Err(error) => format!("unknown: {error:#}"),
    };
    output::pairs(&[("client", versions.client), ("daemon", daemon)], "", streams.out)?;
    Ok(Outcome::Done)
}

//! Logs: one line per happening on standard error, as text or JSON, with the peer as a field.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged unless somebody says otherwise. The netlink crates tell of every message they
/// cannot read in full, which is no problem of ours.
const QUIET: &str = "netlink_proto=warn,netlink_packet_route=error";

/// Starts logging for the whole process.
///
/// # Errors
/// `level` is not a level (`error`, `warn`, `info`, `debug`, `trace`) nor a list of them by module
/// (`info,routelet_bgp=debug`).
pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(format!("{QUIET},{level}")).with_context(|| {
        format!("{level} is not a log level: use error, warn, info, debug or trace, or a list by module like info,routelet_bgp=debug")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

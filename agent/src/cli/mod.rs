//! The commands: the command line, what each prints, and how errors look.
//!
//! In flow: arguments, and the API of a running daemon through [`client`]. Out flow: tables or
//! JSON/YAML on standard output, errors on standard error in one line that says what to do.
//!
//! What always holds: exit code 0 means done, 1 an error or a failed check, 2 wrong usage; a reader
//! that closes our pipe is no error; JSON and YAML carry the same fields as the API (docs/api.md).

mod client;
mod control;
pub mod decode;
mod explain;
mod kubectl;
mod output;
mod peers;
mod routes;
mod status;

#[cfg(test)]
mod tests;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::client::Client;
use self::kubectl::KubectlCli;
use self::output::Format;
use crate::app::cluster::ClusterOptions;
use crate::app::logging::LogFormat;
use crate::app::{self, RunOptions};
use crate::config::DEFAULT_SOCKET;
use crate::config::metrics::{Listen, parse_listen};
use crate::kube::crd;
use crate::lab;

/// Route agent of a Kubernetes node: BGP sessions, kernel routes, and the commands that show them.
#[derive(Debug, Parser)]
#[command(name = "routelet", version, propagate_version = false, max_term_width = 100)]
pub struct Cli {
    /// Socket of the running routelet [default: /run/routelet/routelet.sock]
    #[arg(
        long,
        global = true,
        env = "ROUTELET_SOCKET",
        value_name = "PATH",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: speak BGP, program the kernel, serve the other commands
    Run(RunArgs),
    /// List the peers and their sessions
    Peers(PeersArgs),
    /// Show one peer: capabilities, timers, counters, messages
    Peer(PeerArgs),
    /// List the routes: best paths, where they came from, whether the kernel has them
    Routes(RoutesArgs),
    /// Show the agent: configuration, sums, kernel, problems
    Status(StatusArgs),
    /// Tell the story of one destination: its paths, why one won, what the kernel has
    Explain(ExplainArgs),
    /// Reset the session with a peer; it comes back by itself
    Reset(ActionArgs),
    /// End the session with a peer until it is enabled again
    Disable(ActionArgs),
    /// Let a disabled peer come back
    Enable(PeerName),
    /// Read the configuration file again and apply what changed
    Reload(OutputArgs),
    /// Stop the agent; routes stay in the kernel unless withdrawn
    Stop(StopArgs),
    /// Check a configuration file without a running agent
    Check(FileArgs),
    /// Show what a configuration file would change in the running agent
    Plan(PlanArgs),
    /// Build nodes, pods and a router in network namespaces here, and ping across them
    Lab(lab::LabArgs),
    /// Decode BGP messages given in hexadecimal, or say what is wrong with them
    Decode(decode::DecodeArgs),
    /// Print the Kubernetes custom resource definitions as YAML
    Crds,
    /// Print the completion script for a shell
    Completion(CompletionArgs),
    /// Print the version of this command and of the running agent
    Version(OutputArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration file
    #[arg(
        long,
        short,
        env = "ROUTELET_CONFIG",
        value_name = "FILE",
        required_unless_present = "kubernetes"
    )]
    config: Option<PathBuf>,
    /// Take the configuration from Kubernetes objects; a file has kernel, cni, api, metrics and
    /// stateDir only then
    #[arg(long)]
    kubernetes: bool,
    /// Name of the own Node in Kubernetes [default: the host's name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME", hide_env_values = true)]
    node_name: Option<String>,
    /// Namespace of the Secrets with passwords [default: that of the credentials]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", hide_env_values = true)]
    namespace: Option<String>,
    /// Where metrics and probes are served, before what the file says: ADDRESS, ADDRESS:PORT or none
    #[arg(
        long,
        env = "ROUTELET_METRICS_LISTEN",
        value_name = "ADDRESS",
        hide_env_values = true,
        value_parser = metrics_listen
    )]
    metrics_listen: Option<MetricsListen>,
    /// How log lines look
    #[arg(long, env = "ROUTELET_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or by module like info,routelet_bgp=debug
    #[arg(long, env = "ROUTELET_LOG", value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Args, Clone, Copy, Debug)]
struct OutputArgs {
    /// How it is printed
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Args, Debug)]
struct PeersArgs {
    /// Only this peer, by name or address
    name: Option<String>,
    /// Exit with 1 and say what is wrong if a session is not Established
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct PeerArgs {
    /// Name or address of the peer
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RoutesArgs {
    /// Only this prefix, or the longest prefix that covers this address
    #[arg(value_name = "PREFIX|ADDRESS")]
    destination: Option<String>,
    /// What the peer sent, before filters
    #[arg(long, requires = "peer", conflicts_with = "advertised")]
    received: bool,
    /// What the peer was sent, after filters
    #[arg(long, requires = "peer")]
    advertised: bool,
    /// Only routes of this peer, by name or address
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
    /// Only this family: ipv4 or ipv6
    #[arg(long, value_name = "FAMILY", value_parser = ["ipv4", "ipv6"])]
    family: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// Exit with 1 and say what is wrong if anything is
    #[arg(long)]
    check: bool,
    /// Exit with 1 and say what is missing if the agent is not ready; a peer that is down is not missing
    #[arg(long, conflicts_with = "check")]
    ready: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct ExplainArgs {
    /// Where packets go
    #[arg(value_name = "ADDRESS|PREFIX")]
    destination: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct PeerName {
    /// Name or address of the peer
    peer: String,
}

#[derive(Args, Debug)]
struct ActionArgs {
    /// Name or address of the peer
    peer: String,
    /// Words the other side shows (RFC 9003), at most 255 octets
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Args, Debug)]
struct StopArgs {
    /// Withdraw every route from the peers and remove ours from the kernel
    #[arg(long)]
    withdraw: bool,
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The configuration file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
struct PlanArgs {
    /// The configuration file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// A type of its own: an option in an option would have a meaning to the parser.
#[derive(Clone, Copy, Debug)]
struct MetricsListen(Listen);

fn metrics_listen(text: &str) -> Result<MetricsListen, String> {
    parse_listen(text).map(MetricsListen)
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It did what it should.
    Done,
    /// Something that was checked is wrong; the reasons are on standard error.
    CheckFailed,
    /// The daemon ended with this.
    Ended(ExitCode),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::CheckFailed => Self::FAILURE,
            Outcome::Ended(code) => code,
        }
    }
}

/// Where a command writes.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    app::failure::install_hook();
    // Under this name kubectl runs it.
    let name = std::env::args_os().next().map(PathBuf::from);
    let is_plugin = name.is_some_and(|name| name.file_stem() == Some(kubectl::NAME.as_ref()));
    let mut out = BufWriter::new(io::stdout());
    let mut err = io::stderr();
    let mut streams = Streams { out: &mut out, err: &mut err };
    // Help goes to standard output with 0, wrong usage to standard error with 2.
    let result = if is_plugin {
        let cli = KubectlCli::try_parse().unwrap_or_else(|error| error.exit());
        kubectl::execute(cli, &mut streams)
    } else {
        execute(Cli::try_parse().unwrap_or_else(|error| error.exit()), &mut streams)
    };
    let result = result.and_then(|outcome| Ok(out.flush().map(|()| outcome)?));
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) if is_closed_pipe(&error) => {
            // What is still buffered has no reader: dropping the buffer must not try again.
            let _ = out.into_parts();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "routelet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a reader of ours went away.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs one command.
fn execute(cli: Cli, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    let client = Client::new(cli.socket.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)));
    match cli.command {
        Command::Run(args) => {
            let cluster = ClusterOptions { node: args.node_name, namespace: args.namespace };
            let options = RunOptions {
                config: args.config,
                cluster: args.kubernetes.then_some(cluster),
                log_format: args.log_format,
                log_level: args.log_level,
                socket: cli.socket,
                metrics: args.metrics_listen.map(|listen| listen.0),
            };
            app::run(options).map(Outcome::Ended)
        }
        Command::Peers(args) => peers::list(&client, &args, streams),
        Command::Peer(args) => peers::show(&client, &args, streams),
        Command::Routes(args) => routes::list(&client, &args, streams),
        Command::Status(args) => status::show(&client, &args, streams),
        Command::Explain(args) => explain::show(&client, &args, streams),
        Command::Reset(args) => control::action(&client, "reset", &args, streams),
        Command::Disable(args) => control::action(&client, "disable", &args, streams),
        Command::Enable(args) => {
            let args = ActionArgs { peer: args.peer, message: None };
            control::action(&client, "enable", &args, streams)
        }
        Command::Reload(args) => control::reload(&client, args, streams),
        Command::Stop(args) => control::stop(&client, &args, streams),
        Command::Check(args) => control::check(&args, streams),
        Command::Plan(args) => control::plan(&client, &args, streams),
        Command::Lab(args) => {
            let well = lab::run(&args)?;
            Ok(if well { Outcome::Done } else { Outcome::CheckFailed })
        }
        Command::Decode(args) => {
            let well_formed = decode::run(&args, &mut io::stdin().lock(), streams.out)?;
            Ok(if well_formed { Outcome::Done } else { Outcome::CheckFailed })
        }
        Command::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "routelet", &mut script);
            streams.out.write_all(&script)?;
            Ok(Outcome::Done)
        }
        Command::Crds => {
            streams.out.write_all(crd::yaml()?.as_bytes())?;
            Ok(Outcome::Done)
        }
        Command::Version(args) => control::version(&client, args, streams),
    }
}

//! `kubectl routelet`: the same binary under the name `kubectl-routelet`, for the whole cluster.
//!
//! In flow: a kubeconfig; the BGPNodeStatus of every node, for one table of all of them. With `--node`
//! the command runs on that node's agent, through `kubectl exec` of its pod: whatever reaches pods for
//! the user (proxies, credential plugins) then serves here, too. Out flow: the tables and formats of the
//! other commands.
//!
//! What always holds: it only reads; a node without a report is named, not left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

use super::output::{self, Columns, Format};
use super::peers::report;
use super::{ExplainArgs, Outcome, PeersArgs, RoutesArgs, StatusArgs, Streams};
use crate::kube::crd::{BGPNodeStatus, NodeStatus, PeerStatus};
use crate::kube::objects::NodeObject;

/// The name under which kubectl finds it.
pub(super) const NAME: &str = "kubectl-routelet";
/// What the agents' pods are labelled with.
const AGENTS: &str = "app.kubernetes.io/name=routelet";

/// BGP sessions and routes of a cluster's nodes, as their routelet agents report them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-routelet", bin_name = "kubectl routelet", version, max_term_width = 100)]
pub(super) struct KubectlCli {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Args, Debug)]
struct Access {
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// The context in it
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the agents
    #[arg(long, short, global = true, value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// Ask the agent of this node, through kubectl exec
    #[arg(long, global = true, value_name = "NODE")]
    node: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// List the peers of all nodes: those outside the mesh, and those that are not Established
    Peers(PeersArgs),
    /// List the routes of a node: needs --node
    Routes(RoutesArgs),
    /// Show all agents: ready or what they wait for, sessions, configuration
    Status(StatusArgs),
    /// Tell the story of one destination, as a node sees it: needs --node
    Explain(ExplainArgs),
}

/// Runs one command.
pub(super) fn execute(cli: KubectlCli, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    let KubectlCli { access, command } = cli;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(node) = access.node.clone() {
        let pod = runtime.block_on(access.pod_on(&node))?;
        return access.exec(&pod, &command.arguments());
    }
    match command {
        ClusterCommand::Peers(args) => {
            let nodes = runtime.block_on(access.nodes(streams))?;
            peers(&nodes, &args, streams)
        }
        ClusterCommand::Status(args) => {
            let nodes = runtime.block_on(access.nodes(streams))?;
            status(&nodes, &args, streams)
        }
        ClusterCommand::Routes(_) | ClusterCommand::Explain(_) => bail!(
            "routes are each node's own: say which node with --node NAME (`kubectl routelet status` lists them)"
        ),
    }
}

/// The reports by node; `None` for a Node without one.
type Nodes = BTreeMap<String, Option<NodeStatus>>;

impl Access {
    async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.context("cannot use the kubeconfig; name it with --kubeconfig")?;
        Client::try_from(config).context("cannot use the credentials of the kubeconfig")
    }

    async fn nodes(&self, streams: &mut Streams<'_>) -> anyhow::Result<Nodes> {
        let client = self.client().await?;
        let reports = Api::<BGPNodeStatus>::all(client.clone())
            .list(&ListParams::default())
            .await
            .map_err(|error| refused(&error, "bgpnodestatuses"))?;
        let mut nodes: Nodes = reports
            .into_iter()
            .map(|report| (report.name_any(), Some(report.status.unwrap_or_default())))
            .collect();
        match Api::<NodeObject>::all(client).list(&ListParams::default()).await {
            Ok(list) => {
                for node in list {
                    nodes.entry(node.name_any()).or_default();
                }
            }
            Err(error) => writeln!(
                streams.err,
                "kubectl routelet: {}; nodes without a report are not shown",
                refused(&error, "nodes")
            )?,
        }
        Ok(nodes)
    }

    /// Name of the agent's pod on a node.
    async fn pod_on(&self, node: &str) -> anyhow::Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client().await?, &self.namespace);
        let params = ListParams::default().labels(AGENTS).fields(&format!("spec.nodeName={node}"));
        let pods = pods.list(&params).await.map_err(|error| refused(&error, "pods"))?;
        let on_node = |pod: &&Pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node))
        };
        let runs = |pod: &&Pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
        };
        let here: Vec<&Pod> = pods.iter().filter(on_node).collect();
        let pod = here.iter().copied().find(|pod| runs(pod)).or(here.first().copied());
        pod.map(ResourceExt::name_any).ok_or_else(|| {
            let namespace = &self.namespace;
            anyhow!(
                "no agent of routelet runs on a node {node} in the namespace {namespace}: \
                 `kubectl -n {namespace} get pods -o wide -l {AGENTS}` shows where they run"
            )
        })
    }

    /// Runs the command in the agent's pod, with our standard streams.
    fn exec(&self, pod: &str, arguments: &[String]) -> anyhow::Result<Outcome> {
        let mut kubectl = Process::new("kubectl");
        if let Some(path) = &self.kubeconfig {
            kubectl.arg("--kubeconfig").arg(path);
        }
        if let Some(context) = &self.context {
            kubectl.args(["--context", context]);
        }
        kubectl.args(["--namespace", &self.namespace, "exec", pod, "--container", "routelet"]);
        kubectl.args(["--", "routelet"]).args(arguments);
        let ended = kubectl
            .status()
            .context("cannot run kubectl, which --node needs: it must be in PATH")?;
        let code = ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Ok(Outcome::Ended(ExitCode::from(code)))
    }
}

impl ClusterCommand {
    /// The same command line for the agent's own binary.
    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |list: &[&str]| words.extend(list.iter().map(|&word| word.to_owned()));
        let format = match self {
            Self::Peers(args) => {
                add(&["peers"]);
                if args.check {
                    add(&["--check"]);
                }
                add(&args.name.iter().map(String::as_str).collect::<Vec<_>>());
                args.output.output
            }
            Self::Routes(args) => {
                add(&["routes"]);
                for (given, flag) in
                    [(args.received, "--received"), (args.advertised, "--advertised")]
                {
                    if given {
                        add(&[flag]);
                    }
                }
                if let Some(peer) = &args.peer {
                    add(&["--peer", peer]);
                }
                if let Some(family) = &args.family {
                    add(&["--family", family]);
                }
                add(&args.destination.iter().map(String::as_str).collect::<Vec<_>>());
                args.output.output
            }
            Self::Status(args) => {
                add(&["status"]);
                for (given, flag) in [(args.check, "--check"), (args.ready, "--ready")] {
                    if given {
                        add(&[flag]);
                    }
                }
                args.output.output
            }
            Self::Explain(args) => {
                add(&["explain", &args.destination]);
                args.output.output
            }
        };
        if let Some(value) = format.to_possible_value() {
            add(&["--output", value.get_name()]);
        }
        words
    }
}

/// Why the API server did not answer, with the fix.
fn refused(error: &kube::Error, resource: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => anyhow!(
            "the cluster has no {resource}: is routelet installed there? `kubectl apply -k deploy` does it"
        ),
        kube::Error::Api(status) if status.code == 403 => anyhow!(
            "not allowed to list {resource}: {}; ask for that permission, or use another --context",
            status.message
        ),
        kube::Error::Api(status) => anyhow!("the API server says: {}", status.message),
        other => anyhow!("cannot reach the API server: {}", crate::kube::watch::chain(other)),
    }
}

fn peers(nodes: &Nodes, args: &PeersArgs, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    let wanted = |peer: &&PeerStatus| {
        args.name.as_ref().is_none_or(|name| peer.name == *name || peer.peer_ip == *name)
    };
    let listed = || {
        nodes.iter().flat_map(|(node, status)| {
            let peers = status.iter().flat_map(|status| &status.peers).filter(wanted);
            peers.map(move |peer| (node, peer))
        })
    };
    let views: Vec<Value> = listed().map(|(node, peer)| with_node(node, &json!(peer))).collect();
    if !output::structured(args.output.output, &views, streams.out)? {
        let wide = args.output.output == Format::Wide;
        let names = ["NODE", "PEER", "ADDRESS", "KIND", "AS", "STATE", "SINCE", "LAST ERROR"];
        let shown = if wide { &names[..] } else { &names[..6] };
        let mut rows: Vec<Vec<String>> = listed()
            .map(|(node, peer)| {
                vec![
                    node.clone(),
                    peer.name.clone(),
                    peer.peer_ip.clone(),
                    peer.kind.clone(),
                    peer.as_number.to_string(),
                    peer.state.clone(),
                    peer.since.clone().unwrap_or_default(),
                    peer.last_error.clone().unwrap_or_default(),
                ]
            })
            .collect();
        if args.name.is_none() {
            rows.extend(nodes.iter().flat_map(|(node, status)| more(node, status.as_ref())));
        }
        rows.sort_by(|a, b| a[0].cmp(&b[0]));
        rows.iter_mut().for_each(|row| row.truncate(shown.len()));
        Columns::new(shown).write(rows, "", streams.out)?;
    }
    if !args.check {
        return Ok(Outcome::Done);
    }
    let mut wrong: Vec<String> = listed()
        .filter(|(_, peer)| peer.state != "Established")
        .map(|(node, peer)| {
            let why = peer.last_error.as_deref().unwrap_or("no attempt has been answered yet");
            format!("{node}: peer {} is {}, not Established: {why}", peer.name, peer.state)
        })
        .collect();
    wrong.extend(missing(nodes));
    report(&wrong, streams)
}

/// Rows for the peers that a report only counts, and for a node without one.
fn more(node: &str, status: Option<&NodeStatus>) -> Vec<Vec<String>> {
    let row = |what: String, state: &str| {
        let mut row = vec![node.to_owned(), what, String::new(), String::new(), String::new()];
        row.extend([state.to_owned(), String::new(), String::new()]);
        row
    };
    let Some(status) = status else { return vec![row("no report".to_owned(), "")] };
    let is_up = |peer: &&PeerStatus| peer.state == "Established";
    let up = i64::try_from(status.peers.iter().filter(is_up).count()).unwrap_or_default();
    let all = i64::try_from(status.peers.len()).unwrap_or_default();
    let down = all - up;
    [
        (status.peers_established - up, "Established"),
        (status.peers_total - status.peers_established - down, "not Established"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, state)| row(format!("({count} of the mesh)"), state))
    .collect()
}

fn status(nodes: &Nodes, args: &StatusArgs, streams: &mut Streams<'_>) -> anyhow::Result<Outcome> {
    let views: Vec<Value> =
        nodes.iter().map(|(node, status)| with_node(node, &json!(status))).collect();
    if args.ready {
        return report(&unready(nodes), streams);
    }
    if !output::structured(args.output.output, &views, streams.out)? {
        let names = [
            "NODE",
            "READY",
            "PEERS",
            "ADDRESS",
            "AS",
            "CONFIGURATION",
            "WAITS FOR",
            "VERSION",
            "ROUTER ID",
            "REFUSED",
        ];
        let shown = if args.output.output == Format::Wide { &names[..] } else { &names[..7] };
        let rows = nodes.iter().map(|(node, status)| {
            let Some(status) = status else {
                let mut row = vec![node.clone(), "no report".to_owned()];
                row.resize(shown.len(), String::new());
                return row;
            };
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let mut row = vec![
                node.clone(),
                ready.map_or("Unknown", |ready| &ready.status).to_owned(),
                format!("{}/{}", status.peers_established, status.peers_total),
                status.address.clone(),
                status.as_number.to_string(),
                status.configuration.source.clone(),
                ready.map_or("", |ready| &ready.message).to_owned(),
                status.version.clone(),
                status.router_id.clone(),
                status.configuration.refused.len().to_string(),
            ];
            row.truncate(shown.len());
            row
        });
        Columns::new(shown).write(rows, "", streams.out)?;
    }
    if !args.check {
        return Ok(Outcome::Done);
    }
    let mut wrong = unready(nodes);
    for (node, status) in nodes.iter().filter_map(|(node, status)| Some((node, status.as_ref()?))) {
        let down = status.peers_total - status.peers_established;
        if down > 0 {
            wrong.push(format!("{node}: {down} of {} sessions are down", status.peers_total));
        }
        let refused = &status.configuration.refused;
        wrong.extend(
            refused.iter().map(|one| {
                format!("{node}: {} {} is refused: {}", one.kind, one.name, one.message)
            }),
        );
    }
    let wrong: BTreeSet<String> = wrong.into_iter().collect();
    report(&wrong.into_iter().collect::<Vec<_>>(), streams)
}

/// What nodes wait for, a line each.
fn unready(nodes: &Nodes) -> Vec<String> {
    let waiting = nodes.iter().filter_map(|(node, status)| {
        let conditions = &status.as_ref()?.conditions;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status != "True").then(|| format!("{node}: {}", ready.message))
    });
    waiting.chain(missing(nodes)).collect()
}

fn missing(nodes: &Nodes) -> impl Iterator<Item = String> {
    let without = nodes.iter().filter(|(_, status)| status.is_none());
    without.map(|(node, _)| format!("{node}: no agent has reported"))
}

/// A view with the node as its first field.
fn with_node(node: &str, view: &Value) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("node".to_owned(), node.into());
    if let Value::Object(fields) = view {
        object.extend(fields.clone());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        let cli = KubectlCli::try_parse_from(line.split(' ')).expect("a command line");
        cli.command.arguments()
    }

    #[test]
    fn an_agent_is_asked_with_the_same_arguments() {
        for (line, words) in [
            ("k peers tor-1 --check --node a -o wide", "peers --check tor-1 --output wide"),
            (
                "k --node a routes 10.0.0.0/8 --peer t --received",
                "routes --received --peer t 10.0.0.0/8 --output table",
            ),
            ("k routes --node a --family ipv6 -o json", "routes --family ipv6 --output json"),
            ("k status --ready --node a", "status --ready --output table"),
            ("k explain 10.1.2.3 --node a -n net", "explain 10.1.2.3 --output table"),
        ] {
            let own: Vec<String> = words.split(' ').map(str::to_owned).collect();
            assert_eq!(arguments(line), own);
            let again = std::iter::once("routelet".to_owned()).chain(own);
            super::super::Cli::try_parse_from(again).expect("a command line of the agent");
        }
    }
}

//! The stage: one API server with deploy/ applied, a network, and agents with credentials of their own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use routelet::lab::netns::Netns;
use routelet::lab::network::{Lan, Network, attach_pod};
use routelet::lab::process::Process;
use routelet_tests::apiserver::ApiServer;
use routelet_tests::harness::{self, Skip, eventually, need_users};
use routelet_tests::scene::Scene;
use serde_json::Value;

/// How long something may take to come to pass; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server and the network that its clients are in.
pub struct Cluster {
    pub api: ApiServer,
    pub netns: Netns,
    lan: Lan,
}

/// The one cluster of this program: it is expensive to start, and ends with the sandbox.
static CLUSTER: OnceLock<Result<Mutex<Cluster>, Failure>> = OnceLock::new();

enum Failure {
    Skip(String),
    Error(String),
}

/// The cluster, without objects, for the caller alone.
pub fn cluster() -> anyhow::Result<MutexGuard<'static, Cluster>> {
    let cluster = CLUSTER.get_or_init(|| {
        Cluster::start().map(Mutex::new).map_err(|error| match error.downcast_ref::<Skip>() {
            Some(skip) => Failure::Skip(skip.0.clone()),
            None => Failure::Error(format!("{error:#}")),
        })
    });
    match cluster {
        Ok(cluster) => {
            let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            cluster.clean()?;
            Ok(cluster)
        }
        Err(Failure::Skip(reason)) => Err(Skip(reason.clone()).into()),
        Err(Failure::Error(error)) => bail!("there is no cluster: {error}"),
    }
}

/// The folder with what is shipped.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

impl Cluster {
    fn start() -> anyhow::Result<Self> {
        if std::env::var_os("KUBEBUILDER_ASSETS").is_some() {
            need_users("an API server")?;
        }
        let network = Network::new("api-");
        let netns = network.host("server")?;
        let lan = network.lan("lan")?;
        lan.attach(&netns, "eth0", &["172.30.1.100/24".parse()?])?;
        let api = ApiServer::start(&netns, "172.30.1.100", Path::new("/run/apiserver"))?;
        let cluster = Self { api, netns, lan };
        let deploy = deploy();
        let path = deploy.to_str().context("the path of deploy/ is no text")?;
        cluster.api.kubectl(&["apply", "--validate=strict", "-k", path])?;
        cluster.api.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])?;
        Ok(cluster)
    }

    fn clean(&self) -> anyhow::Result<()> {
        for kind in ["bgpconfigurations", "bgppeers", "bgpfilters", "ippools", "bgpnodestatuses"] {
            self.api.kubectl(&["delete", kind, "--all", "--wait=false"])?;
        }
        self.api.kubectl(&["delete", "nodes", "--all", "--wait=false"])?;
        let now = ["--force", "--grace-period=0", "--wait=false"];
        self.api
            .kubectl(&[&["delete", "pods", "-n", "kube-system", "--all"][..], &now[..]].concat())?;
        self.api.kubectl(&["delete", "events", "--all-namespaces", "--all", "--wait=false"])?;
        self.api.kubectl(&[
            "delete",
            "secret",
            "-n",
            "kube-system",
            "routelet-passwords",
            "--ignore-not-found",
        ])?;
        Ok(())
    }

    /// A machine with number `number` on the server's network, its Node, its pod, and an agent on it
    /// with the credentials of the DaemonSet's pod.
    pub fn place(&self, scene: &Scene, number: u8) -> anyhow::Result<Member> {
        let name = format!("node-{number}");
        let address = format!("172.30.1.{}", 10 + number);
        let cidr = format!("10.244.{number}.0/24");
        self.api.node(&name, &address, &cidr)?;
        let network = scene.network();
        let netns = network.router(&name)?;
        // A second address, for those who do not peer with the InternalIP.
        let other = format!("172.31.9.{}/24", 10 + number);
        self.lan.attach(&netns, "eth0", &[format!("{address}/24").parse()?, other.parse()?])?;
        let pod = network.host(&format!("pod-{number}"))?;
        let addresses = attach_pod(&netns, "pod0", &pod, &[cidr.parse()?])?;
        let pod_address = *addresses.first().context("the pod has no address")?;
        let kubeconfig = self.api.agent(&name)?;
        let folder = scene.folder().join(&name);
        fs::create_dir_all(&folder)?;
        let mut member =
            Member { name, netns, pod, pod_address, folder, kubeconfig, process: None };
        member.start()?;
        Ok(member)
    }
}

/// A node of the cluster with its agent.
pub struct Member {
    pub name: String,
    pub netns: Netns,
    pub pod: Netns,
    pub pod_address: IpAddr,
    pub folder: PathBuf,
    kubeconfig: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// Starts its agent.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let here = self.folder.display();
        let base = self.folder.join("base.yaml");
        fs::write(
            &base,
            format!(
                "api: {{socket: {here}/socket}}\nstateDir: {here}/state\ncni: {{confDir: {here}/cni}}\n"
            ),
        )?;
        let mut command = Command::new(harness::routelet()?);
        command
            .args(["run", "--kubernetes", "--config"])
            .arg(&base)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("NODE_NAME", &self.name)
            .env("POD_NAMESPACE", "kube-system");
        let log = self.folder.join("log");
        self.process = Some(Process::spawn(&self.name, &self.netns, &mut command, &log)?);
        Ok(())
    }

    /// Stops its agent as the kubelet does.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("it does not run")?;
        process.stop(Duration::from_secs(15)).map(|_| ())
    }

    /// What a command of the agent says, as JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(harness::routelet()?);
        command.arg("--socket").arg(self.folder.join("socket")).args(arguments);
        command.args(["-o", "json"]);
        let text = self.netns.output(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Its peers: name, state and AS.
    pub fn peers(&self) -> anyhow::Result<Vec<(String, String, u64)>> {
        let peers = self.json(&["peers"])?;
        let peers = peers.as_array().context("peers is no list")?;
        Ok(peers
            .iter()
            .map(|peer| {
                let text = |key: &str| peer[key].as_str().unwrap_or_default().to_owned();
                (text("name"), text("state"), peer["asNumber"].as_u64().unwrap_or_default())
            })
            .collect())
    }

    /// Waits until it has these peers, all Established.
    pub fn established(&self, names: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{} with the peers {names:?}", self.name), PATIENCE, || {
            let peers = self.peers()?;
            let up: Vec<&str> = peers
                .iter()
                .filter(|(_, state, _)| state == "Established")
                .map(|(name, ..)| name.as_str())
                .collect();
            ensure!(up == names && peers.len() == names.len(), "they are {peers:?}");
            Ok(())
        })
    }

    /// Everything that its agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

//! What an agent costs in a cluster of a thousand Nodes, at rest: `cargo bench -p routelet-tests --bench
//! cluster`. Memory, processor time and requests to the API server, against the fake one; Nodes report
//! as often as kubelets do (every five minutes each). The sessions of a mesh that is up are answered by
//! this program, a route each. `BENCH_SECONDS` is how long is measured, 60 by default; compare figures of
//! one run only. `ROUTELET_BIN` is the agent that is measured, such as the one that is shipped (`make
//! static`); without it the one in this program, which is larger.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the clock")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use routelet::app::cluster::ClusterOptions;
use routelet::app::logging::LogFormat;
use routelet::app::{RunOptions, run};
use routelet_tests::fakeapi::FakeApi;
use routelet_tests::load::wire;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const NODES: u32 = 1000;
const ASN: u32 = 64512;
const PORT: u16 = 17913;
/// Seconds; the default.
const HOLD_TIME: u16 = 90;
/// Between two reports of a kubelet.
const REPORTS: Duration = Duration::from_secs(300);
/// The agent, in a process of its own: this program again.
const AGENT: &str = "agent";

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, directory] = &arguments[..]
        && word == AGENT
    {
        let options = RunOptions {
            config: Some(Path::new(directory).join("base.yaml")),
            cluster: Some(ClusterOptions { node: Some("node-0".to_owned()), namespace: None }),
            log_format: LogFormat::Text,
            log_level: "error".to_owned(),
            socket: None,
            metrics: Some(None),
        };
        return run(options).unwrap_or(std::process::ExitCode::FAILURE);
    }
    // As a test (`cargo test --all-targets`) it is only built.
    if arguments.iter().any(|argument| argument == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        println!("cluster of {NODES} Nodes: memory, processor and API requests of one agent");
        for scene in [Scene::NoSessions, Scene::NobodyAnswers, Scene::Mesh] {
            runtime.block_on(measure(scene));
        }
    }
    std::process::ExitCode::SUCCESS
}

/// What the other nodes do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scene {
    NoSessions,
    NobodyAnswers,
    Mesh,
}

impl Scene {
    fn words(self) -> &'static str {
        match self {
            Self::NoSessions => "sessions with none",
            Self::NobodyAnswers => "a mesh, nobody answers",
            Self::Mesh => "a mesh, all sessions up",
        }
    }
}

/// Address and pod CIDR of a node.
fn node(number: u32) -> (Ipv4Addr, Ipv4Net) {
    let [_, _, high, low] = (number / 250 * 256 + number % 250 + 1).to_be_bytes();
    let pods = Ipv4Net::new(Ipv4Addr::new(10, 100 + high, low, 0), 24).expect("a length");
    (Ipv4Addr::new(127, 77, high, low), pods)
}

/// Takes connections of the node `number` until it is dropped: answers the OPEN, announces the pod
/// CIDR, and sends a KEEPALIVE every third of the hold time.
async fn answer(number: u32, established: Arc<AtomicU32>) -> std::io::Result<()> {
    let (address, pods) = node(number);
    let speaker = wire::Speaker { address, asn: ASN, external: false };
    let listener = TcpListener::bind((address, PORT)).await?;
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(&wire::open(speaker, HOLD_TIME)).await?;
    stream.write_all(&wire::keepalive()).await?;
    let mut octets = [0; 4096];
    // Their OPEN and their KEEPALIVE have come when a second read has brought something.
    for _ in 0..2 {
        if stream.read(&mut octets).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    established.fetch_add(1, Ordering::Relaxed);
    stream.write_all(&own_route(address, pods)).await?;
    stream.write_all(&wire::end_of_rib()).await?;
    let mut keepalive = interval(Duration::from_secs(u64::from(HOLD_TIME) / 3));
    loop {
        tokio::select! {
            _ = keepalive.tick() => stream.write_all(&wire::keepalive()).await?,
            read = stream.read(&mut octets) => if read? == 0 { return Ok(()) },
        }
    }
}

/// An UPDATE as a node of the mesh sends it.
fn own_route(address: Ipv4Addr, pods: Ipv4Net) -> Vec<u8> {
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    attributes.extend(address.octets());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    let prefix = &pods.network().octets()[..3];
    let length = 19 + 2 + 2 + attributes.len() + 1 + prefix.len();
    let mut update = vec![0xff; 16];
    update.extend([0, length as u8, 2, 0, 0, 0, attributes.len() as u8]);
    update.extend(attributes);
    update.push(24);
    update.extend(prefix);
    update
}

async fn measure(scene: Scene) {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(60));
    let api = FakeApi::start().await;
    for number in 0..NODES {
        let (address, pods) = node(number);
        api.node(&format!("node-{number}"), &address.to_string(), &pods.to_string());
    }
    let established = Arc::new(AtomicU32::new(0));
    let mut others = JoinSet::new();
    if scene == Scene::Mesh {
        for number in 1..NODES {
            others.spawn(answer(number, established.clone()));
        }
    }
    let mesh = scene != Scene::NoSessions;
    let spec = json!({"nodeToNodeMeshEnabled": mesh, "asNumber": ASN, "listenPort": PORT});
    api.custom("BGPConfiguration", "default", spec);
    let directory = tempfile::tempdir().expect("directory");
    let agent = Agent::start(&api, directory.path());
    let begun = Instant::now();
    api.until("the agent reports", |api| api.get("bgpnodestatuses", "node-0").is_some()).await;
    let started = begun.elapsed();
    while scene == Scene::Mesh && established.load(Ordering::Relaxed) < NODES - 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{established:?} sessions are up");
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(10)).await;
    let (requests, cpu) = (api.requests().len(), agent.cpu());
    let begun = Instant::now();
    let mut beat = 0;
    while begun.elapsed() < time {
        api.edit("nodes", &format!("node-{}", beat % NODES), |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "lastHeartbeatTime": beat}]);
        });
        beat += 1;
        sleep(REPORTS / NODES).await;
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let requests = api.requests().len() - requests;
    let cpu = agent.cpu() - cpu;
    if let Some(ended) = others.try_join_next() {
        panic!("a session has ended: {ended:?}");
    }
    println!(
        "  {:24} {:6.1} MiB resident, {:6.2} % of a processor, {:5.1} requests a minute, first report after {:.1} s",
        scene.words(),
        agent.resident() / 1024.0,
        cpu / begun.elapsed().as_secs_f64() * 100.0,
        f64::from(u32::try_from(requests).unwrap_or(u32::MAX)) / minutes,
        started.as_secs_f64(),
    );
}

struct Agent(Child);

impl Agent {
    fn start(api: &FakeApi, directory: &Path) -> Self {
        let credentials = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": api.url()}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        let kubeconfig = directory.join("kubeconfig");
        fs::write(&kubeconfig, credentials.to_string()).expect("kubeconfig");
        let here = directory.display();
        let base = format!(
            "kernel: {{enabled: false}}\napi: {{socket: {here}/socket}}\nstateDir: {here}/state\n"
        );
        fs::write(directory.join("base.yaml"), base).expect("base");
        let mut command = match std::env::var_os("ROUTELET_BIN") {
            Some(program) => {
                let mut command = Command::new(program);
                command.args([
                    "run",
                    "--kubernetes",
                    "--log-level=error",
                    "--metrics-listen=none",
                    "--config",
                ]);
                command.arg(directory.join("base.yaml"));
                command
            }
            None => {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.arg(AGENT).arg(directory);
                command
            }
        };
        command.env("KUBECONFIG", &kubeconfig).env("NODE_NAME", "node-0").stderr(Stdio::null());
        Self(command.spawn().expect("the agent starts"))
    }

    /// Seconds of processor time so far.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = rest.split_whitespace().skip(11).take(2);
        ticks.filter_map(|text| text.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// KiB of resident memory.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

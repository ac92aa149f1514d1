//! What an agent costs in a cluster of a thousand Nodes, at rest: `cargo bench -p routelet-tests --bench
//! cluster`. Memory, processor time and requests to the API server, against the fake one; Nodes report
//! as often as kubelets do (every five minutes each). `BENCH_SECONDS` is how long is measured, 60 by
//! default; compare figures of one run only.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the clock")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use routelet::app::cluster::ClusterOptions;
use routelet::app::logging::LogFormat;
use routelet::app::{RunOptions, run};
use routelet_tests::fakeapi::FakeApi;
use serde_json::json;
use tokio::time::sleep;

const NODES: u32 = 1000;
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
        for (scene, mesh) in [("sessions with none", false), ("a mesh, nobody answers", true)] {
            runtime.block_on(measure(scene, mesh));
        }
    }
    std::process::ExitCode::SUCCESS
}

async fn measure(scene: &str, mesh: bool) {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(60));
    let api = FakeApi::start().await;
    for node in 0..NODES {
        let (high, low) = (node / 250, node % 250 + 1);
        let address = format!("127.77.{high}.{low}");
        api.node(&format!("node-{node}"), &address, &format!("10.{}.{}.0/24", 100 + high, low));
    }
    let spec = json!({"nodeToNodeMeshEnabled": mesh, "listenPort": 17913});
    api.custom("BGPConfiguration", "default", spec);
    let directory = tempfile::tempdir().expect("directory");
    let agent = Agent::start(&api, directory.path());
    let begun = Instant::now();
    api.until("the agent reports", |api| api.get("bgpnodestatuses", "node-0").is_some()).await;
    let started = begun.elapsed();
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
    println!(
        "  {scene:24} {:6.1} MiB resident, {:6.2} % of a processor, {:5.1} requests a minute, first report after {:.1} s",
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
        let child = Command::new(std::env::current_exe().expect("this program"))
            .arg(AGENT)
            .arg(directory)
            .env("KUBECONFIG", &kubeconfig)
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        Self(child)
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

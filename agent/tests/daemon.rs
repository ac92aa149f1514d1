//! The daemon as a process: start, reload, sessions between two of them, and every way to stop.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon without a kernel side, on a loopback address of its own.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn file(&self) -> PathBuf {
        self.directory.path().join("node.yaml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    /// Starts with this configuration and waits until it answers.
    fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("node.yaml"), text).unwrap();
        let mut daemon = Self::spawn(directory);
        let begun = now();
        while !daemon.socket().exists() || daemon.run(&["version", "-o", "json"]).stdout.is_empty()
        {
            assert!(daemon.child.try_wait().unwrap().is_none(), "{:?}", daemon.log());
            assert!(begun.elapsed() < PATIENCE, "{:?}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn spawn(directory: tempfile::TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_routelet"))
            .args(["run", "--log-format", "json", "--config"])
            .arg(directory.path().join("node.yaml"))
            .arg("--socket")
            .arg(directory.path().join("api.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, directory, log }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Runs a command against it.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_routelet"))
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .unwrap()
    }

    /// A view as JSON.
    fn view(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?} {:?}", self.log()))
    }

    /// Waits until `done` says so of a view.
    fn wait(&self, arguments: &[&str], done: impl Fn(&Value) -> bool) -> Value {
        let begun = now();
        loop {
            let view = self.view(arguments);
            if done(&view) {
                return view;
            }
            assert!(begun.elapsed() < PATIENCE, "{arguments:?}: {view:#} {:?}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The exit code, when it has ended.
    fn ended(&mut self) -> Option<i32> {
        let begun = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a test that waits for processes needs a clock")]
fn now() -> Instant {
    Instant::now()
}

/// A node at 127.0.`net`.`host` that peers with the others at 127.0.`net`.x, port and AS as given.
fn node(net: u8, host: u8, peers: &[(&str, u8)]) -> String {
    let mut text = format!(
        "node: {{name: node-{host}, addresses: [127.0.{net}.{host}/24], podCIDRs: [10.{net}.{host}.0/24]}}\n\
         bgp: {{asNumber: 6451{host}, listenPort: 1{net:03}9, nodeToNodeMeshEnabled: false}}\n\
         kernel: {{enabled: false}}\n\
         pools: [{{name: pods, cidr: 10.{net}.0.0/16}}]\n\
         peers:\n"
    );
    for (name, peer) in peers {
        text.push_str(&format!(
            "  - {{name: {name}, peerIP: '127.0.{net}.{peer}:1{net:03}9', asNumber: 6451{peer}, \
             sourceAddress: 127.0.{net}.{host}}}\n"
        ));
    }
    text
}

#[test]
fn a_daemon_starts_and_stops() {
    let mut daemon = Daemon::start(&node(201, 1, &[]));
    let status = daemon.view(&["status"]);
    assert_eq!((&status["nodeName"], &status["asNumber"]), (&"node-1".into(), &64511.into()));
    assert_eq!(status["config"]["generation"], 1);
    let routes = daemon.wait(&["routes"], |routes| routes.as_array().unwrap().len() == 1);
    assert_eq!(
        (&routes[0]["prefix"], &routes[0]["from"]),
        (&"10.201.1.0/24".into(), &"local".into())
    );
    assert_eq!(routes[0]["best"], true);

    // One at a time.
    let second = Command::new(env!("CARGO_BIN_EXE_routelet"))
        .args(["run", "--config"])
        .arg(daemon.file())
        .arg("--socket")
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("routelet: another routelet runs with the socket"), "{said}");

    let stopped = daemon.run(&["stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(daemon.ended(), Some(0));
    assert!(!daemon.socket().exists());
    for line in daemon.log() {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "not JSON: {line}");
    }
}

#[test]
fn signals_stop_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&node(202, 1, &[]));
        daemon.signal(signal);
        assert_eq!(daemon.ended(), Some(0), "{:?}", daemon.log());
    }
    // A crash leaves the socket behind; the next start replaces it.
    let mut daemon = Daemon::start(&node(202, 1, &[]));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    assert!(daemon.socket().exists());
    let moved = tempfile::tempdir().unwrap();
    fs::copy(daemon.file(), moved.path().join("node.yaml")).unwrap();
    fs::rename(daemon.socket(), moved.path().join("api.sock")).unwrap();
    let mut again = Daemon::spawn(moved);
    let begun = now();
    while !again.run(&["status"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", again.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    again.signal(Signal::SIGTERM);
    assert_eq!(again.ended(), Some(0));
}

/// Without namespaces: NEXT_HOPs in 127.0.0.0/8 are not believed, so what is exchanged is not
/// installed here; the tests with namespaces show that.
#[test]
fn two_daemons_talk_and_are_told_to_stop() {
    let a = Daemon::start(&node(203, 1, &[("b", 2)]));
    let b = Daemon::start(&node(203, 2, &[("a", 1)]));
    let up = |peers: &Value| peers[0]["state"] == "Established" && peers[0]["advertised"] == 1;
    for (daemon, peer) in [(&a, 2), (&b, 1)] {
        let peers = daemon.wait(&["peers"], up);
        assert_eq!(
            (&peers[0]["asNumber"], &peers[0]["kind"]),
            (&(64510 + peer).into(), &"external".into())
        );
        assert_eq!(peers[0]["negotiated"]["routeRefresh"], true);
        assert!(daemon.run(&["peers", "--check"]).status.success());
    }
    let sent = a.view(&["routes", "--advertised", "--peer", "127.0.203.2"]);
    assert_eq!(
        (&sent[0]["prefix"], &sent[0]["asPath"]),
        (&"10.203.1.0/24".into(), &"64511".into())
    );
    let explained = a.view(&["explain", "10.203.1.9"]);
    assert_eq!(explained["paths"][0]["import"], "starts here: pod CIDR");
    assert_eq!(explained["exports"][0]["advertised"], true);

    // The other side shows the message; a disabled peer stays down, through a reload too.
    assert!(a.run(&["disable", "b", "-m", "new cable"]).status.success());
    let peers = b.wait(&["peers"], |peers| peers[0]["state"] != "Established");
    let error = peers[0]["lastError"].as_str().unwrap();
    assert!(error.contains("Administrative Shutdown") && error.contains("new cable"), "{error}");
    let peers = a.wait(&["peers"], |peers| peers[0]["state"] == "Idle");
    assert_eq!(peers[0]["enabled"], false);
    assert!(a.run(&["reload"]).status.success());
    assert!(a.run(&["peers", "--check"]).status.success(), "it is down because it should be");
    assert_eq!(b.run(&["peers", "--check"]).status.code(), Some(1));
    assert_eq!(a.view(&["peers"])[0]["state"], "Idle");
    assert!(a.run(&["enable", "b"]).status.success());
    a.wait(&["peers"], up);
    b.wait(&["peers"], up);

    // A reset comes back by itself.
    assert!(b.run(&["reset", "a", "-m", "to be sure"]).status.success());
    a.wait(&["peers"], |peers| peers[0]["flaps"] == 2 && up(peers));
}

#[test]
fn a_bad_file_is_refused_whole_and_a_good_one_applied() {
    let good = node(204, 1, &[("b", 2)]);
    let daemon = Daemon::start(&good);
    fs::write(daemon.file(), good.replace("peerIP", "peerPI")).unwrap();
    // Noticed without being told.
    let refused = |status: &Value| !status["config"]["refused"].is_null();
    let status = daemon.wait(&["status"], refused);
    let why = status["config"]["refused"].as_str().unwrap();
    assert!(why.contains("node.yaml:6:") && why.contains("peerPI"), "{why}");
    assert_eq!(status["config"]["generation"], 1);
    assert_eq!(daemon.view(&["peers"])[0]["name"], "b", "the old one keeps running");
    let reload = daemon.run(&["reload"]);
    assert_eq!(reload.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&reload.stderr).contains("peerPI"), "{reload:?}");

    let better = node(204, 1, &[("c", 3)]);
    fs::write(daemon.file(), better).unwrap();
    let plan = daemon.view(&["plan", daemon.file().to_str().unwrap()]);
    let effects: Vec<&str> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["effect"].as_str().unwrap())
        .collect();
    assert_eq!((&plan["applied"], effects), (&false.into(), vec!["reset", "live"]));
    daemon.signal(Signal::SIGHUP);
    let peers = daemon.wait(&["peers"], |peers| peers[0]["name"] == "c");
    assert_eq!(peers.as_array().unwrap().len(), 1);
    let status = daemon.wait(&["status"], |status| status["config"]["refused"].is_null());
    assert_eq!(status["config"]["needsRestart"], serde_json::json!([]));

    // What needs a restart waits for it, and says so.
    fs::write(daemon.file(), node(204, 1, &[("c", 3)]).replace("node-1,", "node-9,")).unwrap();
    let waits = |status: &Value| !status["config"]["needsRestart"].as_array().unwrap().is_empty();
    let status = daemon.wait(&["status"], waits);
    assert_eq!(status["config"]["needsRestart"][0], "node.name: node-1 → node-9");
    assert_eq!(status["nodeName"], "node-1");
}

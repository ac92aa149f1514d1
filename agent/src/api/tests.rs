//! The API through a real Unix socket, with a daemon made by hand behind it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use routelet_bgp::core::view::{PathReason, RouteSelector, RouteTable};
use routelet_bgp::io::{PeerCommand, StopMode};
use routelet_proto::Family;
use serde_json::{Value, json};

use super::testing::{Fake, path};
use super::{Access, paths, serve};

/// A served daemon; ends when dropped.
struct Served {
    socket: PathBuf,
    fake: Arc<Fake>,
    _directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn served(fake: Fake) -> Served {
    served_for(fake, Access::own())
}

fn served_for(fake: Fake, access: Access) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let fake = Arc::new(fake);
    let backend = fake.clone();
    let path = socket.clone();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        tokio::spawn(serve(listener, backend, access, std::future::pending()));
    });
    Served { socket, fake, _directory: directory, _runtime: runtime }
}

impl Served {
    /// Status code and body of a raw exchange.
    fn exchange(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunk(body) } else { body.to_owned() })
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.exchange("GET", path, "", "");
        (status, serde_json::from_str(&body).unwrap())
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let headers = "Content-Type: application/json\r\n";
        let (status, body) = self.exchange("POST", path, headers, body);
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

#[test]
fn peers_are_an_array_in_the_order_people_expect() {
    let api = served(Fake::new());
    let (status, peers) = api.get("/v1/peers");
    assert_eq!(status, 200);
    let names: Vec<&str> =
        peers.as_array().unwrap().iter().map(|peer| peer["name"].as_str().unwrap()).collect();
    // `node-10` before `node-b`: digits before letters; the outside last.
    assert_eq!(names, ["node-10", "node-b", "tor-1", "tor-2"]);
    assert_eq!(peers[0]["kind"], "mesh");
    assert_eq!(peers[2]["kind"], "external");
    assert_eq!(peers[2]["peerIP"], "172.30.1.1");
    assert_eq!(peers[2]["asNumber"], 65001);
    assert_eq!(peers[2]["state"], "Established");
    assert_eq!((&peers[2]["received"], &peers[2]["accepted"]), (&json!(5), &json!(4)));
    assert_eq!((&peers[3]["state"], &peers[3]["uptimeSeconds"]), (&json!("Active"), &json!(0)));
    assert_eq!(peers[3]["lastError"], Value::Null);
}

#[test]
fn a_peer_is_found_by_name_and_by_address() {
    let api = served(Fake::new());
    assert_eq!(api.get("/v1/peers/tor-1").1["peerIP"], "172.30.1.1");
    assert_eq!(api.get("/v1/peers/172.30.1.2").1["name"], "tor-2");
    assert_eq!(api.get("/v1/peers/t%6fr-1").1["name"], "tor-1");
    let (status, failure) = api.get("/v1/peers/tor-3");
    assert_eq!(status, 404);
    assert_eq!(
        failure,
        json!({"error": "no peer is named tor-3", "hint": "`routelet peers` lists them"})
    );
}

#[test]
fn routes_come_as_an_array_or_as_lines() {
    let api = served(Fake::new());
    let (status, routes) = api.get("/v1/routes");
    assert_eq!(status, 200);
    assert_eq!(routes.as_array().unwrap().len(), api.fake.routes.len());
    assert_eq!(routes[1]["installed"], true);
    assert_eq!(routes[1]["reason"], "best at step 3 (AS_PATH length)");
    let (_, lines) = api.exchange("GET", "/v1/routes", "Accept: application/x-ndjson\r\n", "");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), routes);
    assert_eq!(api.get("/v1/routes?address=198.51.100.1").1, json!([]));
}

#[test]
fn routes_tell_why_they_are_not_in_the_kernel() {
    let api = served(Fake::new());
    let (_, routes) = api.get("/v1/routes");
    let told: Vec<(&str, &str)> = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|route| (route["kernel"].as_str().unwrap(), route["reason"].as_str().unwrap()))
        .collect();
    let unreachable = "next hop 172.30.9.9 unreachable: no route to it";
    assert_eq!(
        told,
        [
            ("no: it starts here (blackhole)", "best: the only path"),
            ("yes", "best at step 3 (AS_PATH length)"),
            ("no: not best, lost at step 3 (AS_PATH length)", "lost at step 3 (AS_PATH length)"),
            ("yes", "multipath"),
            (&format!("no: {unreachable}"), unreachable),
            (
                "failed: File exists: bird has it",
                "not in the kernel: failed: File exists: bird has it"
            ),
            ("no: service address", "not in the kernel: service address"),
        ]
    );
}

#[test]
fn parameters_reach_the_tables() {
    let api = served(Fake::new());
    let asked = |path: &str| {
        let (status, answer) = api.get(path);
        assert_eq!(status, 200, "{path}: {answer}");
        api.fake.queries.lock().unwrap().pop().unwrap()
    };
    let query = asked("/v1/routes?prefix=10.244.2.9/24&family=ipv4");
    assert_eq!(query.selector, RouteSelector::Exact("10.244.2.0/24".parse().unwrap()));
    assert_eq!(query.family, Some(Family::Ipv4Unicast));
    assert_eq!(query.table, RouteTable::All);
    let query = asked("/v1/routes?address=fd00::7&family=ipv6");
    assert_eq!(query.selector, RouteSelector::Longest("fd00::7".parse().unwrap()));
    let query = asked("/v1/routes?table=received&peer=172.30.1.1");
    assert_eq!(query.table, RouteTable::Received("tor-1".into()));
    let query = asked("/v1/routes?table=advertised&peer=tor-2");
    assert_eq!(query.table, RouteTable::Advertised("tor-2".into()));
    let (_, only) = api.get("/v1/routes?peer=node-10");
    assert_eq!(only.as_array().unwrap().len(), 2);
}

#[test]
fn wrong_parameters_say_what_to_do() {
    let api = served(Fake::new());
    let cases = [
        ("/v1/routes?prefix=10.0.0.0/33", 400, "is not a prefix"),
        ("/v1/routes?address=10.0.0", 400, "is not an address"),
        ("/v1/routes?prefix=10.0.0.0/8&address=10.0.0.1", 400, "both a prefix and an address"),
        ("/v1/routes?table=received", 400, "no peer is named"),
        ("/v1/routes?table=best", 400, "there is no table best"),
        ("/v1/routes?family=vpn", 400, "there is no family vpn"),
        ("/v1/routes?prefx=10.0.0.0/8", 400, "unknown field"),
        ("/v1/routes?peer=nobody", 404, "no peer is named nobody"),
        ("/v1/explain", 400, "nothing is asked for"),
        ("/v2/peers", 404, "there is no /v2/peers"),
        ("/v1/stop", 405, "/v1/stop takes no GET"),
    ];
    for (path, expected, words) in cases {
        let (status, failure) = api.get(path);
        assert_eq!(status, expected, "{path}");
        let error = failure["error"].as_str().unwrap();
        assert!(error.contains(words), "{path}: {error}");
        assert!(failure["hint"].as_str().unwrap().len() > 10, "{path}");
    }
}

#[test]
fn a_long_table_arrives_whole() {
    let mut fake = Fake::new();
    let now = fake.now;
    fake.routes = (0..20_000_u32)
        .map(|n| {
            let prefix = format!("{}/32", std::net::Ipv4Addr::from(0x0a00_0000 + n));
            path(&prefix, "node-b", PathReason::Best(None), now)
        })
        .collect();
    let api = served(fake);
    let (_, routes) = api.get("/v1/routes");
    let routes = routes.as_array().unwrap();
    assert_eq!(routes.len(), 20_000);
    assert_eq!(routes[19_999]["prefix"], "10.0.78.31/32");
}

#[test]
fn callers_that_go_away_block_nobody() {
    let mut fake = Fake::new();
    let now = fake.now;
    fake.routes = vec![path("10.0.0.0/8", "node-b", PathReason::Best(None), now); 20_000];
    let api = served(fake);
    for _ in 0..2 * super::MAX_TABLES {
        let mut stream = UnixStream::connect(&api.socket).unwrap();
        stream.write_all(b"GET /v1/routes HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // A little is read, so that the table is under way; then the caller is gone.
        stream.read_exact(&mut [0; 64]).unwrap();
    }
    assert_eq!(api.get("/v1/routes").1.as_array().unwrap().len(), 20_000);
}

#[test]
fn peers_are_reset_disabled_and_enabled_with_a_message() {
    let api = served(Fake::new());
    assert_eq!(api.post("/v1/peers/tor-1/reset", r#"{"message": "new cable"}"#).0, 200);
    assert_eq!(api.post("/v1/peers/172.30.1.2/disable", "").0, 200);
    assert_eq!(api.post("/v1/peers/tor-2/enable", "").0, 200);
    assert_eq!(
        *api.fake.commands.lock().unwrap(),
        [
            ("tor-1".to_owned(), PeerCommand::Reset("new cable".to_owned())),
            ("tor-2".to_owned(), PeerCommand::Disable(String::new())),
            ("tor-2".to_owned(), PeerCommand::Enable),
        ]
    );
    let long = format!(r#"{{"message": "{}"}}"#, "x".repeat(256));
    let (status, failure) = api.post("/v1/peers/tor-1/reset", &long);
    assert_eq!((status, &failure["error"]), (400, &json!("the message has 256 octets")));
    let (status, failure) = api.post("/v1/peers/tor-1/reset", r#"{"mesage": "x"}"#);
    assert_eq!(status, 400);
    assert!(failure["error"].as_str().unwrap().contains("unknown field `mesage`"), "{failure}");
    assert_eq!(api.post("/v1/peers/nobody/reset", "").0, 404);
    assert_eq!(api.fake.commands.lock().unwrap().len(), 3);
}

#[test]
fn status_names_every_problem() {
    let mut fake = Fake::new();
    fake.kernel.failed = 2;
    fake.kernel.problems = vec!["forwarding is off: sysctl -w net.ipv4.ip_forward=1".to_owned()];
    fake.refused = Some("node.yaml:3:1: bgp: unknown field".to_owned());
    let api = served(fake);
    let (_, status) = api.get("/v1/status");
    assert_eq!(status["config"]["refused"], "node.yaml:3:1: bgp: unknown field");
    let problems: Vec<&str> =
        status["problems"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems[0].starts_with("the configuration in /etc/routelet/node.yaml was refused"));
    assert_eq!(
        problems[1],
        "peer tor-2 (172.30.1.2) is Active, not Established: it has not connected to us yet (passive)"
    );
    assert!(problems[2].starts_with("2 routes are not in the kernel"));
    assert!(problems[3].starts_with("kernel: forwarding is off"));
}

#[test]
fn an_explanation_has_every_path() {
    let api = served(Fake::new());
    let (_, explain) = api.get("/v1/explain?address=10.244.2.7");
    assert_eq!(explain["prefix"], "10.244.2.0/24");
    assert_eq!(explain["paths"].as_array().unwrap().len(), 4);
    assert_eq!(explain["paths"][0]["import"], "accepted by the default policy");
    assert_eq!(explain["paths"][0]["nextHopResolution"], "on link over eth0");
    assert_eq!(explain["paths"][1]["import"], "accepted by filter tor-in, rule 2");
    assert_eq!(explain["paths"][1]["asReceived"]["localPref"], 50);
    assert_eq!(explain["kernel"]["status"], "yes");
    assert_eq!(explain["exports"][0]["reason"], "the peer itself sent it");
    // A prefix that is not there names the one that covers it.
    let (_, explain) = api.get("/v1/explain?prefix=10.244.2.128/25");
    assert_eq!(
        (&explain["prefix"], &explain["coveredBy"]),
        (&Value::Null, &json!("10.244.2.0/24"))
    );
    assert_eq!(explain["kernel"]["address"], "10.244.2.129");
}

#[test]
fn plans_compare_and_refusals_are_kept_whole() {
    let api = served(Fake::new());
    let plan = |text: &str| {
        api.post("/v1/plan", &json!({"file": "/x/new.yaml", "text": text}).to_string())
    };
    let (status, failure) = plan("node: {adresses: [10.0.0.1/24]}");
    assert_eq!(status, 422);
    assert!(failure["error"].as_str().unwrap().contains("/x/new.yaml:1:"), "{failure}");
    let (status, plan) =
        plan("node: {name: node-a, addresses: [172.30.1.11/24], podCIDRs: [10.244.1.0/24]}");
    assert_eq!((status, &plan["applied"]), (200, &json!(false)));
    let gone = json!({"effect": "reset", "what": "peer tor-1 is removed, its session ends"});
    assert!(plan["changes"].as_array().unwrap().contains(&gone), "{plan}");
}

#[test]
fn stopping_says_what_becomes_of_the_routes() {
    let api = served(Fake::new());
    assert_eq!(api.post("/v1/stop", "").0, 202);
    assert_eq!(api.post("/v1/stop?withdraw=true", "").0, 202);
    assert_eq!(*api.fake.stops.lock().unwrap(), [StopMode::Restart, StopMode::Withdraw]);
}

#[test]
fn every_path_takes_its_method() {
    let api = served(Fake::new());
    for (method, path, _) in paths::<Fake>() {
        let path = path.replace("{name}", "tor-1");
        let (status, answer) = api.exchange(method, &path, "", "");
        assert!(status != 404 && status != 405, "{method} {path}: {answer}");
    }
}

#[test]
fn strangers_are_turned_away() {
    let own = nix::unistd::geteuid().as_raw();
    let access = Access { owner: own.wrapping_add(1) };
    if own != 0 {
        let api = served_for(Fake::new(), access);
        let (status, failure) = api.get("/v1/peers");
        assert_eq!(status, 403);
        assert_eq!(failure["error"], format!("user {own} may not use this socket"));
        return;
    }
    // Root may always; so the request is made by a child with another user, which is this very
    // test program with the test below.
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const STRANGER: u32 = 65_534;
    let api = served_for(Fake::new(), Access::own());
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(api.socket.parent().unwrap(), 0o755);
    open(&api.socket, 0o777);
    let output = std::process::Command::new("/proc/self/exe")
        .args(["--exact", "api::tests::a_stranger_asks", "--nocapture"])
        .env("STRANGER_SOCKET", &api.socket)
        .uid(STRANGER)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("HTTP/1.1 403"), "{output:?}");
    assert!(said.contains("user 65534 may not use this socket"), "{said}");
}

/// Does nothing unless the test above runs it, as another user.
#[test]
fn a_stranger_asks() {
    let Ok(socket) = std::env::var("STRANGER_SOCKET") else { return };
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /v1/peers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    println!("{answer}");
}

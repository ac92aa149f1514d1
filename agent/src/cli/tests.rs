//! What the commands print, with a daemon made by hand behind them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use serde_json::Value;

use super::output::Format;
use super::{Cli, Outcome, Streams, execute, explain, peers, routes};
use crate::api::testing::Fake;
use crate::api::{self, Access, convert};
use routelet_bgp::io::{PeerCommand, StopMode};

/// A served daemon; ends when dropped.
struct Served {
    socket: PathBuf,
    fake: Arc<Fake>,
    _directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn served(fake: Fake) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let fake = Arc::new(fake);
    let backend = fake.clone();
    let path = socket.clone();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        tokio::spawn(api::serve(listener, backend, Access::own(), std::future::pending()));
    });
    Served { socket, fake, _directory: directory, _runtime: runtime }
}

/// Runs a command; gives its outcome or its one line of error, and both streams.
fn run(socket: &Path, arguments: &[&str]) -> (Result<Outcome, String>, String, String) {
    let socket = socket.to_str().unwrap();
    let arguments = [&["routelet", "--socket", socket], arguments].concat();
    let cli = Cli::try_parse_from(arguments).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = execute(cli, &mut Streams { out: &mut out, err: &mut err })
        .map_err(|error| format!("{error:#}"));
    (outcome, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

impl Served {
    /// Standard output of a command that must do well.
    fn out(&self, arguments: &[&str]) -> String {
        let (outcome, out, err) = run(&self.socket, arguments);
        assert_eq!(outcome, Ok(Outcome::Done), "{err}");
        out
    }
}

#[test]
fn the_list_of_peers() {
    let fake = Fake::new();
    let peers = convert::peers(&fake.peers, fake.now);
    let mut out = Vec::new();
    peers::table(&peers, Format::Table, &mut out).unwrap();
    let expected = "\
PEER          NAME      KIND       AS      STATE         UPTIME   RECEIVED   ACCEPTED   ADVERTISED   LAST ERROR
172.30.1.20   node-10   mesh       64512   Established   3m12s    5          4          1            -
172.30.1.12   node-b    mesh       64512   Established   3m12s    5          4          1            -
172.30.1.1    tor-1     external   65001   Established   3m12s    5          4          1            received Cease/Administrative Reset (6/4): \u{fffd}[2J hi (3m20s ago)
172.30.1.2    tor-2     external   65001   Active        -        0          0          0            -
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_was_wrong_before_the_first_session_is_no_news() {
    let mut fake = Fake::new();
    for (session, _) in &mut fake.peers {
        session.flaps = 0;
        session.last_error = Some(("connection refused".to_owned(), fake.now));
    }
    let peers = convert::peers(&fake.peers, fake.now);
    let mut out = Vec::new();
    peers::table(&peers, Format::Table, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let told: Vec<bool> = out.lines().skip(1).map(|line| line.contains("refused")).collect();
    assert_eq!(told, [false, false, false, true], "{out}");
}

#[test]
fn the_wide_list_of_peers() {
    let fake = Fake::new();
    let peers = convert::peers(&fake.peers, fake.now);
    let mut out = Vec::new();
    peers::table(&peers[2..], Format::Wide, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let columns = |line: usize| {
        out.lines()
            .nth(line)
            .unwrap()
            .split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        columns(0)[9..],
        [
            "LOCAL AS",
            "ROUTER ID",
            "FAMILIES",
            "HOLD TIME",
            "FLAPS",
            "GROUP",
            "PENDING",
            "LAST ERROR"
        ]
    );
    assert_eq!(columns(1)[9..16], ["64512", "192.0.2.1", "ipv4-unicast", "1m30s", "1", "0", "0"]);
    assert_eq!(columns(2)[9..], ["64512", "-", "-", "-", "0", "-", "-", "-"]);
}

#[test]
fn a_peer_in_full() {
    let fake = Fake::new();
    let peers = convert::peers(&fake.peers, fake.now);
    let mut out = Vec::new();
    peers::page(&peers[2], &mut out).unwrap();
    let expected = "\
tor-1 (172.30.1.1), external
  state:             Established for 3m12s
  AS:                65001, ours is 64512
  router ID:         192.0.2.1
  connection:        172.30.1.11:40000 to 172.30.1.1:179
  families:          ipv4-unicast
  graceful restart:  we wait 2m for it, NOTIFICATIONs are survived; forwarding kept: ipv4-unicast
  left Established:  1 times
  last error:        received Cease/Administrative Reset (6/4): \u{fffd}[2J hi (3m20s ago)
  update group:      0
  prefixes waiting:  0

Capabilities
  CAPABILITY              SENT           RECEIVED                                           IN USE
  multiprotocol (1)       ipv4-unicast   ipv4-unicast                                       ipv4-unicast
  route refresh (2)       yes            yes                                                yes
  graceful restart (64)   -              120s, notification, ipv4-unicast (forwarding)      yes
  four-octet AS (65)      65001          65001                                              yes
  unknown (130)           -              cafe                                               -

Timers
  TIMER          TIME    EXPIRES IN
  Hold           1m30s   1m11s
  Keepalive      30s     11s
  ConnectRetry   -       not running

Prefixes
  FAMILY         RECEIVED   ACCEPTED   ADVERTISED   END-OF-RIB   STALE
  ipv4-unicast   5          4          1            yes          no

Messages
  MESSAGE         RECEIVED   SENT
  OPEN            1          1
  UPDATE          7          3
  NOTIFICATION    0          0
  KEEPALIVE       40         41
  ROUTE-REFRESH   0          1
  octets          1234       987

Errors survived
  UPDATEs treated as withdrawn (RFC 7606):  3
  attributes discarded (RFC 7606):          4
  connections refused:                      2
";
    let squeeze = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let out = String::from_utf8(out).unwrap();
    assert_eq!(squeeze(&out), squeeze(expected));
    assert!(out.contains("\n  router ID:         192.0.2.1\n"), "{out}");
}

/// The routes made by hand, printed in pages of `page` rows.
fn printed_routes(format: Format, page: usize) -> String {
    let fake = Fake::new();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { out: &mut out, err: &mut err };
    let mut printer = routes::Printer::new(format, page);
    for route in &fake.routes {
        printer.add(convert::route(route, None, fake.now), &mut streams).unwrap();
    }
    printer.finish(&mut streams).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_list_of_routes() {
    let expected = "\
Marks: * valid, > best, = multipath, s stale
     PREFIX           NEXT HOP      FROM      AS PATH       LOCAL_PREF   MED   COMMUNITIES           AGE    DEVICE   ENCAP   IN KERNEL
*>   10.244.1.0/24    -             local     -             100          -     -                     2d4h   -        -       no: it starts here
*>   10.244.2.0/24    172.30.1.12   node-b    -             100          -     -                     2d4h   -        -       no: on its way
*    10.244.2.0/24    2001:db8::1   tor-1     65001 64513   90           20    65001:100 no-export   2d4h   -        -       no: not best, lost at step 3 (AS_PATH length)
*=   10.244.2.0/24    172.30.1.12   node-10   -             100          -     -                     2d4h   -        -       no: on its way
-    10.244.2.0/24    172.30.1.12   tor-2     -             100          -     -                     2d4h   -        -       no: next hop 172.30.9.9 unreachable: no route to it
*>   10.244.10.0/24   172.30.1.12   node-10   -             100          -     -                     2d4h   -        -       no: on its way
*>   10.96.0.0/16     172.30.1.12   node-b    -             100          -     -                     2d4h   -        -       no: service address
";
    let expected =
        expected.replacen("local     -             100", "local     -             -  ", 1);
    assert_eq!(printed_routes(Format::Table, 100), expected);
}

#[test]
fn long_lists_are_printed_page_by_page() {
    let out = printed_routes(Format::Table, 3);
    assert_eq!(out.lines().count(), 2 + 7);
    assert_eq!(out.matches("IN KERNEL").count(), 1);
    let column = out.lines().nth(1).unwrap().find("FROM").unwrap();
    assert_eq!(out.lines().nth(2).unwrap().find("local"), Some(column));
    // The second page has a longer prefix; the third, with shorter ones, stays as wide.
    let column = out.lines().nth(7).unwrap().find("node-10").unwrap();
    assert_eq!(out.lines().nth(8).unwrap().find("node-b"), Some(column));
}

#[test]
fn wide_routes_have_the_decision() {
    let out = printed_routes(Format::Wide, 100);
    let header = out.lines().nth(1).unwrap();
    for column in ["ORIGIN", "PATH ID", "LARGE COMMUNITIES", "ORIGINATOR ID", "DECISION"] {
        assert!(header.contains(column), "{header}");
    }
    let lost = out.lines().find(|line| line.contains("65001:1:2")).unwrap();
    assert!(lost.contains("incomplete") && lost.contains("192.0.2.7"), "{lost}");
}

#[test]
fn structured_output_is_the_same_in_json_and_yaml() {
    let api = served(Fake::new());
    for view in [&["peers"][..], &["peer", "tor-1"], &["routes"], &["explain", "10.244.2.7"]] {
        let json: Value =
            serde_json::from_str(&api.out(&[view, &["-o", "json"]].concat())).unwrap();
        let yaml: Value =
            serde_saphyr::from_str(&api.out(&[view, &["-o", "yaml"]].concat())).unwrap();
        assert_eq!(without_times(json), without_times(yaml), "{view:?}");
    }
    let peers: Value = serde_json::from_str(&api.out(&["peers", "-o", "json"])).unwrap();
    assert_eq!(peers.as_array().unwrap().len(), 4);
    let routes: Value = serde_json::from_str(&api.out(&["routes", "-o", "json"])).unwrap();
    assert_eq!(routes.as_array().unwrap().len(), 7);
    let none = ["routes", "198.51.100.1", "-o"];
    assert_eq!(api.out(&[&none[..], &["json"]].concat()), "[]\n");
    assert_eq!(api.out(&[&none[..], &["yaml"]].concat()), "[]\n");
}

/// Between two answers a second may pass.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("Seconds"));
            for field in fields.values_mut() {
                *field = without_times(field.take());
            }
        }
        Value::Array(elements) => {
            for element in elements {
                *element = without_times(element.take());
            }
        }
        _ => {}
    }
    value
}

#[test]
fn a_destination_is_explained_as_a_story() {
    let fake = Fake::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let address = "10.244.2.7".parse().unwrap();
    let selector = routelet_bgp::core::view::RouteSelector::Longest(address);
    let view = runtime.block_on(api::Backend::explain(&fake, selector)).unwrap();
    let lookup = runtime.block_on(api::Backend::lookup(&fake, address, None));
    let status = crate::kernel::RouteStatus::Installed;
    let explained = convert::explain(
        "10.244.2.7",
        &view,
        None,
        (address, Some(&lookup)),
        (Some(&status), &[]),
        fake.now,
    );
    let mut out = Vec::new();
    explain::story(&explained, &mut out).unwrap();
    let expected = "\
10.244.2.7 is in 10.244.2.0/24, which has 4 paths.

Path 1, from node-b: best, in the kernel
  attributes:     AS path empty, origin igp, next hop 172.30.1.12, LOCAL_PREF 100
  import:         accepted by the default policy
  next hop:       172.30.1.12: reachable, metric 0, on link over eth0
  encapsulation:  none: no pool asks for a tunnel
  MTU:            1500
  neighbour:      172.30.1.12 on eth0: 02:00:00:00:00:0c reachable
  decision:       best at step 3 (AS_PATH length)
  in kernel:      yes
  learned:        2d4h ago

Path 2, from tor-1: not the best
  attributes:   AS path 65001 64513, origin incomplete, next hop 2001:db8::1, LOCAL_PREF 90, MED 20, communities 65001:100 no-export, large communities 65001:1:2, extended communities 0002fde900000064, originator ID 192.0.2.7, cluster list 192.0.2.8, aggregator 65001 192.0.2.9, OTC 65001
  as received:  AS path 65001 64513, origin incomplete, next hop 2001:db8::1, LOCAL_PREF 50, MED 20, communities 65001:100 no-export, large communities 65001:1:2, extended communities 0002fde900000064, originator ID 192.0.2.7, cluster list 192.0.2.8, aggregator 65001 192.0.2.9, OTC 65001
  import:       accepted by filter tor-in, rule 2
  next hop:     2001:db8::1: reachable, metric 0
  decision:     lost at step 3 (AS_PATH length)
  in kernel:    no: not best, lost at step 3 (AS_PATH length)
  learned:      2d4h ago

Path 3, from node-10: shares the traffic with the best, in the kernel
  attributes:     AS path empty, origin igp, next hop 172.30.1.12, LOCAL_PREF 100
  import:         accepted by the default policy
  next hop:       172.30.1.12: reachable, metric 0, on link over eth0
  encapsulation:  none: no pool asks for a tunnel
  MTU:            1500
  neighbour:      172.30.1.12 on eth0: 02:00:00:00:00:0c reachable
  decision:       multipath
  in kernel:      yes
  learned:        2d4h ago

Path 4, from tor-2: not used
  attributes:     AS path empty, origin igp, next hop 172.30.1.12, LOCAL_PREF 100
  import:         accepted by the default policy
  next hop:       172.30.1.12: unreachable: no route to it, on link over eth0
  encapsulation:  none: no pool asks for a tunnel
  MTU:            1500
  neighbour:      172.30.1.12 on eth0: 02:00:00:00:00:0c reachable
  decision:       next hop 172.30.9.9 unreachable: no route to it
  in kernel:      no: next hop 172.30.9.9 unreachable: no route to it
  learned:        2d4h ago

Kernel
  our route:     yes
  packets take:  10.244.2.7 via 172.30.1.12 dev eth0 src 172.30.1.11
  its routes for exactly 10.244.2.0/24:
    10.244.2.0/24 via 172.30.1.12 dev eth0 proto 179 metric 1179

Peers
  PEER     VERDICT          WHY
  node-b   not advertised   the peer itself sent it
  tor-1    advertised       the default policy
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_is_not_there_is_said() {
    let api = served(Fake::new());
    let out = api.out(&["explain", "198.51.100.1"]);
    assert!(out.starts_with("There is no BGP route for 198.51.100.1.\n"), "{out}");
    let out = api.out(&["explain", "10.244.2.0/25"]);
    assert!(out.contains("10.244.2.0/24 covers it"), "{out}");
    let (outcome, out, err) = run(&api.socket, &["routes", "198.51.100.1"]);
    assert_eq!((outcome, out.as_str(), err.as_str()), (Ok(Outcome::Done), "", "no routes\n"));
}

#[test]
fn the_status_in_a_page() {
    let api = served(Fake::new());
    let out = api.out(&["status"]);
    assert!(out.starts_with("node-a runs routelet "), "{out}");
    for line in [
        "  AS:             64512",
        "  router ID:      172.30.1.11",
        "  peers:          3 of 4 Established",
        "  prefixes:       15 received, 12 accepted, 3 advertised",
        "  kernel:         2 of 2 routes installed (table 254, protocol 179, metric 1179)",
        "Problems",
        "  peer tor-2 (172.30.1.2) is Active, not Established: it has not connected to us yet (passive)",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
}

#[test]
fn checks_fail_with_the_reasons() {
    let api = served(Fake::new());
    let reason = "peer tor-2 (172.30.1.2) is Active, not Established: it has not connected to us yet (passive)\n";
    for check in [&["peers", "--check"][..], &["status", "--check"]] {
        let (outcome, _, err) = run(&api.socket, check);
        assert_eq!((outcome, err.as_str()), (Ok(Outcome::CheckFailed), reason));
    }
    let (outcome, _, err) = run(&api.socket, &["peers", "tor-1", "--check"]);
    assert_eq!((outcome, err.as_str()), (Ok(Outcome::Done), ""));

    let mut well = Fake::new();
    well.peers.retain(|(session, _)| *session.config.name != *"tor-2");
    let api = served(well);
    for check in [&["peers", "--check"][..], &["status", "--check"]] {
        let (outcome, _, err) = run(&api.socket, check);
        assert_eq!((outcome, err.as_str()), (Ok(Outcome::Done), ""));
    }
}

#[test]
fn a_disabled_peer_is_shown_and_is_no_problem() {
    let mut fake = Fake::new();
    let (session, _) =
        fake.peers.iter_mut().find(|(session, _)| *session.config.name == *"tor-2").unwrap();
    let mut config = (*session.config).clone();
    config.enabled = false;
    session.config = Arc::new(config);
    let api = served(fake);
    let (outcome, out, _) = run(&api.socket, &["peers", "--check"]);
    assert_eq!(outcome, Ok(Outcome::Done));
    assert!(out.contains("Active (disabled)"), "{out}");
}

#[test]
fn peers_are_acted_on() {
    let api = served(Fake::new());
    assert_eq!(api.out(&["reset", "tor-1", "-m", "new cable"]), "peer tor-1 is reset\n");
    assert_eq!(api.out(&["enable", "172.30.1.2"]), "peer tor-2 is enabled\n");
    let expected = [
        ("tor-1".to_owned(), PeerCommand::Reset("new cable".to_owned())),
        ("tor-2".to_owned(), PeerCommand::Enable),
    ];
    assert_eq!(*api.fake.commands.lock().unwrap(), expected);
    let (outcome, ..) = run(&api.socket, &["disable", "tor-9"]);
    assert_eq!(outcome, Err("no peer is named tor-9: `routelet peers` lists them".to_owned()));
    let (outcome, ..) = run(&api.socket, &["routes", "--family", "ipv4", "--peer", "x/ y"]);
    assert_eq!(outcome, Err("no peer is named x/ y: `routelet peers` lists them".to_owned()));
}

#[test]
fn stop_waits_until_the_socket_is_gone() {
    let api = served(Fake::new());
    let socket = api.socket.clone();
    let fake = api.fake.clone();
    let remover = std::thread::spawn(move || {
        while fake.stops.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        std::fs::remove_file(socket).unwrap();
    });
    let out = api.out(&["stop", "--withdraw"]);
    remover.join().unwrap();
    assert_eq!(out, "stopping: routes are withdrawn and removed\nstopped\n");
    assert_eq!(*api.fake.stops.lock().unwrap(), [StopMode::Withdraw]);
}

#[test]
fn plans_name_the_effect() {
    let api = served(Fake::new());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new.yaml");
    let name = file.to_str().unwrap();
    std::fs::write(
        &file,
        "node: {name: node-z, addresses: [172.30.1.11/24], podCIDRs: [10.244.1.0/24]}\n",
    )
    .unwrap();
    let out = api.out(&["plan", name]);
    assert!(out.starts_with("EFFECT            CHANGE\n"), "{out}");
    assert!(out.contains("session reset     peer tor-1 is removed, its session ends\n"), "{out}");
    assert!(out.contains("after a restart   node.name: node-a → node-z\n"), "{out}");
    std::fs::write(&file, "node: [").unwrap();
    let (outcome, ..) = run(&api.socket, &["plan", name]);
    assert!(outcome.unwrap_err().contains("new.yaml:1:"));
}

#[test]
fn files_are_checked_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.yaml");
    let name = file.to_str().unwrap();
    let nowhere = directory.path().join("none.sock");
    std::fs::write(&file, "node: {name: n, addresses: [10.0.0.1/24], podCIDRs: [10.244.1.0/24]}\n")
        .unwrap();
    let (outcome, out, _) = run(&nowhere, &["check", name]);
    assert_eq!((outcome, out), (Ok(Outcome::Done), format!("{name}: ok\n")));
    std::fs::write(&file, "nodes:\n  - {name: b, adresses: [10.0.0.2/24]}\n").unwrap();
    let (outcome, out, err) = run(&nowhere, &["check", name]);
    assert_eq!((outcome, out.as_str()), (Ok(Outcome::CheckFailed), ""));
    assert!(err.contains(&format!("{name}:2:")) && err.contains("addresses"), "{err}");
}

#[test]
fn a_missing_daemon_is_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let expected = format!(
        "cannot reach routelet at {}: is routelet running? start it with `routelet run --config FILE` or name its socket with --socket",
        socket.display()
    );
    for command in [
        &["peers"][..],
        &["peer", "x"],
        &["routes"],
        &["status"],
        &["explain", "10.0.0.1"],
        &["reset", "x"],
        &["reload"],
        &["stop"],
    ] {
        let (outcome, out, err) = run(&socket, command);
        assert_eq!(outcome, Err(expected.clone()), "{command:?}");
        assert_eq!((out.as_str(), err.as_str()), ("", ""));
    }
    // A stale file is no daemon either.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(run(&socket, &["peers"]).0, Err(expected));
    let (outcome, out, _) = run(&socket, &["version"]);
    assert_eq!(outcome, Ok(Outcome::Done));
    assert!(out.contains("daemon:  unknown: cannot reach routelet"), "{out}");
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

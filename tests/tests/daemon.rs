//! The running daemon: configuration under way, signals, permissions, garbage from peers, crashes.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, chown};
use routelet::lab::netns::Netns;
use routelet::lab::node::Node;
use routelet::lab::sandbox;
use routelet_tests::harness::{self, Case, eventually, ip, need_users};
use routelet_tests::routers::Speaker;
use routelet_tests::scene::{Fabric, Place, Scene, address, pings};
use routelet_tests::want::{ARRIVAL, Want, gone};
use socket2::{Domain, Socket, Type};

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("reload::a_bad_file_is_refused_whole", bad_file),
        ("reload::a_change_is_live", live_change),
        ("reload::a_changed_file_is_noticed_without_a_signal", noticed),
        ("start::without_net_bind_service", |scene| denied(scene, 179, "NET_BIND_SERVICE")),
        ("start::without_net_admin", |scene| denied(scene, 1179, "NET_ADMIN")),
        ("start::a_file_with_a_typo", typo),
        ("start::as_many_open_files_as_allowed", open_files),
        ("start::threads_share_the_allocators_arenas", arenas),
        ("commands::no_daemon", no_daemon),
        ("commands::checks_exit_non_zero_while_a_peer_is_down", checks),
        ("peers::garbage_gets_the_notification_and_harms_nobody", garbage),
        ("peers::a_simultaneous_start_is_no_restart", simultaneous),
        ("peers::strangers_are_refused", strangers),
        ("life::kill_9_leaves_routes_and_a_start_adopts_them", crash),
        ("life::stop_leaves_routes_and_withdraw_takes_them", stop),
    ];
    harness::main(cases)
}

const AS: u32 = 64512;

/// Two nodes of one mesh.
struct Pair {
    fabric: Fabric,
    places: [Place; 2],
    nodes: [Node; 2],
    /// Resets while they started: of two connections that cross, one may be up for a moment before
    /// the other side settles for the other one (RFC 4271 §6.8).
    resets_at_start: Vec<u64>,
}

impl Pair {
    fn start(scene: &Scene) -> anyhow::Result<Self> {
        let fabric = scene.fabric(1)?;
        let places = [fabric.place(1, 1)?, fabric.place(2, 1)?];
        let nodes = [
            scene.routelet("node1", &places[0].netns, &yaml(&places[0], Some(&places[1]), ""))?,
            scene.routelet("node2", &places[1].netns, &yaml(&places[1], Some(&places[0]), ""))?,
        ];
        let mut pair = Self { fabric, places, nodes, resets_at_start: Vec::new() };
        for node in &mut pair.nodes {
            node.start()?;
        }
        pair.exchanged()?;
        pair.agreed()?;
        pair.resets_at_start = pair.resets()?;
        Ok(pair)
    }

    /// Each has the other's pods, in the kernel too.
    fn exchanged(&self) -> anyhow::Result<()> {
        for (here, there) in [(0, 1), (1, 0)] {
            for family in [0, 1] {
                let prefix = self.places[there].pod_cidr(family).to_string();
                Want::path(&[])
                    .next_hop(self.places[there].address(family))
                    .at(&self.nodes[here], &prefix)?;
                eventually("the route in the kernel", ARRIVAL, || {
                    let routes = own_routes(&self.places[here].netns, family)?;
                    ensure!(routes.contains(&prefix), "{prefix} is not among {routes:?}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// How often each node's session has been reset since they started.
    fn flaps(&self) -> anyhow::Result<Vec<u64>> {
        let resets = self.resets()?;
        Ok(resets.iter().zip(&self.resets_at_start).map(|(now, then)| now - then).collect())
    }

    /// Both have the session on the same connection: no collision is left to settle.
    fn agreed(&self) -> anyhow::Result<()> {
        eventually("one connection", ARRIVAL, || {
            let [here, there] = [only_peer(&self.nodes[0])?, only_peer(&self.nodes[1])?];
            let ends = |peer: &serde_json::Value| {
                let ends = &peer["endpoints"];
                [ends["local"].clone(), ends["remote"].clone()]
            };
            let ([local, remote], [far_local, far_remote]) = (ends(&here), ends(&there));
            ensure!(local.is_string(), "no endpoints in {here}");
            ensure!(local == far_remote && remote == far_local, "{here} and {there}");
            Ok(())
        })
    }

    fn resets(&self) -> anyhow::Result<Vec<u64>> {
        self.nodes.iter().map(|node| only_peer(node).map(|peer| number(&peer["flaps"]))).collect()
    }
}

fn yaml(place: &Place, other: Option<&Place>, more: &str) -> String {
    let nodes = other.map(|other| format!("nodes:\n  - {}\n", other.words())).unwrap_or_default();
    format!(
        "node: {}
bgp: {{asNumber: {AS}, connectRetryTime: 1s, holdTime: 9s}}
{nodes}pools:
  - {{name: pods, cidr: 10.244.0.0/16}}
  - {{name: pods6, cidr: 'fd44::/48'}}
{more}",
        place.words()
    )
}

fn only_peer(node: &Node) -> anyhow::Result<serde_json::Value> {
    let peers = node.json(&["peers"])?;
    peers.get(0).cloned().with_context(|| format!("no peer in {peers}"))
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

/// Destinations of the routes under our protocol number that forward.
fn own_routes(netns: &Netns, family: usize) -> anyhow::Result<Vec<String>> {
    let flag = if family == 0 { "-4" } else { "-6" };
    let routes = ip(netns, &format!("{flag} route show proto 179 type unicast"))?;
    Ok(routes.iter().filter_map(|route| route["dst"].as_str()).map(str::to_owned).collect())
}

/// One line on standard error and a non-zero exit code.
fn one_line_error(output: &Output) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(!output.status.success(), "it succeeded");
    ensure!(text.lines().count() == 1, "not one line:\n{text}");
    Ok(text)
}

/// Both connect to each other at the same moment: one session comes of it, at once and for good.
fn simultaneous(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    for _ in 0..5 {
        for node in &mut pair.nodes {
            node.kill();
        }
        for node in &mut pair.nodes {
            node.start()?;
        }
        pair.exchanged()?;
        for node in &pair.nodes {
            // Of two connections that cross, one may be up for a moment before the other side
            // settles for the other one (RFC 4271 §6.8). Taken for a restart, the session would have
            // been replaced, and by the other side again.
            let peer = only_peer(node)?;
            let settled = peer["lastError"].to_string().contains("Collision");
            let flaps = number(&peer["flaps"]);
            ensure!(flaps <= u64::from(settled), "the session came up and went: {peer}");
        }
    }
    Ok(())
}

fn bad_file(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let good = fs::read_to_string(pair.nodes[0].config_file())?;
    for (bad, place, hint) in [
        (good.replace("podCIDRs:", "podCidrs:"), "node.yaml:1:", "podCIDRs"),
        (good.replace("holdTime: 9s", "holdTime: 2s"), "node.yaml:2:", "holdTime"),
    ] {
        ensure!(bad != good, "the replacement did nothing");
        fs::write(pair.nodes[0].config_file(), &bad)?;
        pair.nodes[0].reload()?;
        eventually("the refusal in status", ARRIVAL, || {
            let status = pair.nodes[0].text(&["status"])?;
            ensure!(status.contains(place) && status.contains(hint), "{status}");
            Ok(())
        })?;
        let log = pair.nodes[0].log();
        ensure!(
            log.contains(place) && log.contains(hint),
            "the log does not name the place:\n{log}"
        );
        pair.exchanged()?;
    }
    fs::write(pair.nodes[0].config_file(), &good)?;
    pair.nodes[0].reload()?;
    eventually("no refusal in status", ARRIVAL, || {
        let status = pair.nodes[0].text(&["status"])?;
        ensure!(!status.contains("node.yaml:"), "{status}");
        Ok(())
    })?;
    ensure!(pair.flaps()? == [0, 0], "sessions were reset: {:?}", pair.flaps()?);
    Ok(())
}

fn live_change(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let good = yaml(&pair.places[0], Some(&pair.places[1]), "");
    let more = good.replacen("podCIDRs: [", "podCIDRs: [10.244.101.0/24, ", 1);
    pair.nodes[0].configure(&more)?;
    pair.nodes[0].reload()?;
    Want::path(&[]).next_hop(pair.places[0].address(0)).at(&pair.nodes[1], "10.244.101.0/24")?;
    pair.nodes[0].configure(&good)?;
    pair.nodes[0].reload()?;
    gone(&pair.nodes[1], "10.244.101.0/24")?;
    pair.exchanged()?;
    ensure!(pair.flaps()? == [0, 0], "sessions were reset: {:?}", pair.flaps()?);
    // What the OPEN carries does reset that session, and it comes back.
    pair.nodes[0].configure(&good.replace("holdTime: 9s", "holdTime: 12s"))?;
    pair.nodes[0].reload()?;
    eventually("the reset", ARRIVAL, || {
        let flaps = pair.flaps()?;
        ensure!(flaps[1] == 1, "{flaps:?}");
        Ok(())
    })?;
    pair.exchanged()
}

fn noticed(scene: &Scene) -> anyhow::Result<()> {
    let pair = Pair::start(scene)?;
    let good = yaml(&pair.places[0], Some(&pair.places[1]), "");
    pair.nodes[0].configure(&good.replacen("podCIDRs: [", "podCIDRs: [10.244.101.0/24, ", 1))?;
    Want::path(&[]).at(&pair.nodes[1], "10.244.101.0/24")
}

/// An ordinary user with neither capability.
fn denied(scene: &Scene, port: u16, capability: &str) -> anyhow::Result<()> {
    need_users("the agent of this test")?;
    let nobody = Uid::from_raw(65534);
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    // The kernel is looked at first.
    let kernel = if capability == "NET_ADMIN" { "" } else { "kernel: {enabled: false}\n" };
    let yaml =
        yaml(&place, None, kernel).replace("bgp: {", &format!("bgp: {{listenPort: {port}, "));
    let node = scene.routelet("node1", &place.netns, &yaml)?;
    let folder = scene.folder().join("node1");
    chown(&folder, Some(nobody), None)?;
    chown(&folder.join("state"), Some(nobody), None)?;
    let mut command = sandbox::command(harness::routelet()?);
    command.arg("run").arg("--config").arg(node.config_file()).uid(nobody.as_raw());
    let output = place.netns.run(|| command.output())?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it started");
    let last = text.lines().last().unwrap_or_default();
    ensure!(last.contains(capability), "the last line does not name {capability}:\n{text}");
    Ok(())
}

fn typo(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let node =
        scene.routelet("node1", &place.netns, &yaml(&place, None, "pears: [{name: tor}]\n"))?;
    let config = node.config_file().display().to_string();
    for arguments in [vec!["run", "--config", &config], vec!["check", &config]] {
        let output = node.command(&arguments)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{arguments:?} succeeded");
        for word in ["node.yaml:6:1", "pears", "peers", "pools"] {
            ensure!(text.contains(word), "{arguments:?} does not say {word}:\n{text}");
        }
    }
    Ok(())
}

/// A session is an open file; services start with a soft limit of 1024.
fn open_files(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let yaml = yaml(&place, None, "kernel: {enabled: false}\n");
    let node = scene.routelet("node1", &place.netns, &yaml)?;
    let mut command = sandbox::command("sh");
    command.args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\""]).arg(harness::routelet()?);
    command.arg("run").arg("--config").arg(node.config_file()).stderr(Stdio::null());
    let mut child = place.netns.run(|| command.spawn())?;
    let raised = eventually("the limit to be raised", ARRIVAL, || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = line.context("no such limit")?.split_whitespace().collect();
        ensure!(words[3] != "64" && words[3] == words[4], "{words:?}");
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    raised
}

/// Each arena keeps what was freed in it; by default glibc has eight a processor.
fn arenas(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let process = pair.nodes[0].process()?.pid();
    let threads = fs::read_dir(format!("/proc/{process}/task"))?.count();
    ensure!(threads > 4, "{threads} threads: too few to tell");
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    // Another arena than the first is 64 MiB of addresses at a multiple of that; what it does not
    // use yet cannot be accessed.
    let reserved = maps.lines().filter(|line| line.contains("---p")).filter_map(|line| {
        let (_, end) = line.split_whitespace().next()?.split_once('-')?;
        let end = u64::from_str_radix(end, 16).ok()?;
        (end % (64 << 20) == 0).then_some(end)
    });
    ensure!(reserved.count() <= 1, "more arenas than two:\n{maps}");
    Ok(())
}

fn no_daemon(scene: &Scene) -> anyhow::Result<()> {
    let fabric = scene.fabric(1)?;
    let place = fabric.place(1, 1)?;
    let node = scene.routelet("node1", &place.netns, &yaml(&place, None, ""))?;
    for words in [&["peers"][..], &["routes"], &["status"], &["explain", "10.0.0.1"]] {
        let text = one_line_error(&node.command(words)?)?;
        ensure!(text.contains("is routelet running?"), "{words:?}: {text}");
    }
    Ok(())
}

fn checks(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    ensure!(pair.nodes[0].command(&["peers", "--check"])?.status.success(), "all is well");
    // Its hold timer expires; no word of farewell is heard.
    pair.nodes[1].process()?.signal(Signal::SIGSTOP)?;
    eventually("peers --check to complain", Duration::from_secs(30), || {
        let output = pair.nodes[0].command(&["peers", "--check"])?;
        ensure!(!output.status.success(), "content");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("node2"), "it does not name the peer: {text}");
        Ok(())
    })?;
    pair.nodes[1].process()?.signal(Signal::SIGCONT)?;
    eventually("peers --check to be content", ARRIVAL, || {
        ensure!(pair.nodes[0].command(&["peers", "--check"])?.status.success(), "not yet");
        Ok(())
    })?;
    pair.exchanged()
}

/// A name, octets, and code and subcode of the answer.
type Garbage = (&'static str, fn() -> Vec<u8>, (u8, u8));

/// What a peer says, and the NOTIFICATION that RFC 4271 §6 names.
const GARBAGE: &[Garbage] = &[
    ("marker", || vec![0x55; 64], (1, 1)),
    ("length", || message(18, 4, &[]), (1, 2)),
    ("length-open", || message(20, 1, &[0]), (1, 2)),
    ("type", || message(19, 77, &[]), (1, 3)),
    ("version", || open(3, 64513, 90, [10, 9, 9, 9]), (2, 1)),
    ("as", || open(4, 64999, 90, [10, 9, 9, 9]), (2, 2)),
    ("identifier", || open(4, 64513, 90, [0; 4]), (2, 3)),
    ("hold-time", || open(4, 64513, 2, [10, 9, 9, 9]), (2, 6)),
    ("update-first", || message(23, 2, &[0; 4]), (5, 1)),
];

fn message(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend_from_slice(&length.to_be_bytes());
    octets.push(kind);
    octets.extend_from_slice(body);
    octets
}

fn open(version: u8, asn: u16, hold_time: u16, identifier: [u8; 4]) -> Vec<u8> {
    let mut body = vec![version];
    body.extend_from_slice(&asn.to_be_bytes());
    body.extend_from_slice(&hold_time.to_be_bytes());
    body.extend_from_slice(&identifier);
    body.push(0);
    message(29, 1, &body)
}

fn garbage(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let host = pair.fabric.host("garbage", 1, 100)?;
    let mut peers = "peers:\n".to_owned();
    for (number, (name, ..)) in (101..).zip(GARBAGE) {
        let own = format!("172.30.1.{number}");
        host.add_address("eth0", format!("{own}/24").parse()?)?;
        peers.push_str(&format!(
            "  - {{name: {name}, peerIP: {own}, asNumber: 64513, passive: true}}\n"
        ));
    }
    pair.nodes[0].configure(&yaml(&pair.places[0], Some(&pair.places[1]), &peers))?;
    pair.nodes[0].reload()?;
    eventually("the new peers", ARRIVAL, || {
        let peers = pair.nodes[0].json(&["peers"])?;
        ensure!(peers.as_array().map(Vec::len) == Some(GARBAGE.len() + 1), "{peers}");
        Ok(())
    })?;
    let to = SocketAddr::new(pair.places[0].address(0), 179);
    for (number, (name, octets, wanted)) in (101..).zip(GARBAGE) {
        let from: IpAddr = format!("172.30.1.{number}").parse()?;
        let got = eventually(&format!("a NOTIFICATION to {name}"), ARRIVAL, || {
            say(&host, from, to, &octets())
        })?;
        ensure!(got == *wanted, "{name}: NOTIFICATION {got:?} instead of {wanted:?}");
        let peers = pair.nodes[0].json(&["peers", name])?;
        let words = peers[0]["lastError"].as_str().unwrap_or_default();
        ensure!(!words.is_empty(), "{name}: no reason in peers: {peers}");
    }
    let flaps: Vec<u64> = pair.nodes[0]
        .json(&["peers", "node2"])?
        .as_array()
        .into_iter()
        .flatten()
        .map(|peer| number_of(peer, "flaps"))
        .collect();
    ensure!(flaps == [0], "the other session was harmed: {flaps:?}");
    pair.exchanged()
}

fn number_of(value: &serde_json::Value, name: &str) -> u64 {
    number(&value[name])
}

/// Connects, talks, and gives code and subcode of the NOTIFICATION that comes.
fn say(host: &Netns, from: IpAddr, to: SocketAddr, octets: &[u8]) -> anyhow::Result<(u8, u8)> {
    let mut socket = dial(host, from, to)?;
    socket.write_all(octets).context("it does not listen")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // Messages before the NOTIFICATION, such as its OPEN, are passed over.
        let mut rest = &answer[..];
        while let [header @ .., _] = rest
            && header.len() >= 18
        {
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]])).max(19);
            if rest[18] == 3 && rest.len() >= 21 {
                return Ok((rest[19], rest[20]));
            }
            if rest.len() < length {
                break;
            }
            rest = &rest[length..];
        }
        match socket.read(&mut buffer).context("no NOTIFICATION came")? {
            0 => bail!("it closed without a NOTIFICATION after {answer:02x?}"),
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
}

fn dial(host: &Netns, from: IpAddr, to: SocketAddr) -> anyhow::Result<Socket> {
    host.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok::<_, std::io::Error>(socket)
    })
    .context("cannot connect")
}

fn strangers(scene: &Scene) -> anyhow::Result<()> {
    let pair = Pair::start(scene)?;
    let host = pair.fabric.host("stranger", 1, 100)?;
    let to = SocketAddr::new(pair.places[0].address(0), 179);
    for _ in 0..50 {
        let Ok(mut socket) = dial(&host, address(1, 100, 0), to) else { continue };
        let mut buffer = [0; 64];
        // Closed or reset, at once: a timeout would be an error of another kind.
        match socket.read(&mut buffer) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => bail!("a stranger got {other:?}"),
        }
    }
    pair.exchanged()?;
    ensure!(pair.flaps()? == [0, 0], "sessions were reset: {:?}", pair.flaps()?);
    Ok(())
}

fn crash(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let kept = pair.places[1].pod_cidr(0).to_string();
    let stale = pair.places[1].pod_cidr(1).to_string();
    pair.nodes[0].kill();
    for family in [0, 1] {
        ensure!(own_routes(&pair.places[0].netns, family)?.len() == 1, "routes went with it");
        pings(&pair.places[0].pod, pair.places[1].pod_addresses[family])?;
    }
    // While it is dead one prefix goes; the other must never leave the kernel.
    let without =
        yaml(&pair.places[1], Some(&pair.places[0]), "").replacen(&format!(", '{stale}'"), "", 1);
    pair.nodes[1].configure(&without)?;
    pair.nodes[1].reload()?;
    pair.nodes[0].start()?;
    eventually("the stale route to go", ARRIVAL, || {
        let routes = own_routes(&pair.places[0].netns, 0)?;
        ensure!(routes == [kept.clone()], "the adopted route is away: {routes:?}");
        let routes = own_routes(&pair.places[0].netns, 1)?;
        ensure!(routes.is_empty(), "{routes:?}");
        Ok(())
    })?;
    let routes = own_routes(&pair.places[0].netns, 0)?;
    ensure!(routes == [kept], "the adopted route is away: {routes:?}");
    Speaker::wait_established(&pair.nodes[0], 1)?;
    pings(&pair.places[0].pod, pair.places[1].pod_addresses[0])
}

fn stop(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene)?;
    let status = pair.nodes[0].stop()?;
    ensure!(status.success(), "SIGTERM: {status}");
    ensure!(own_routes(&pair.places[0].netns, 0)?.len() == 1, "routes went with it");
    pair.nodes[0].start()?;
    pair.exchanged()?;
    pair.nodes[0].text(&["stop", "--withdraw"])?;
    let status = pair.nodes[0].process()?.wait(Duration::from_secs(10))?;
    ensure!(status.success(), "stop --withdraw: {status}");
    for family in [0, 1] {
        let flag = ["-4", "-6"][family];
        let routes = ip(&pair.places[0].netns, &format!("{flag} route show proto 179"))?;
        ensure!(routes.is_empty(), "left behind: {routes:?}");
        gone(&pair.nodes[1], &pair.places[0].pod_cidr(family).to_string())?;
    }
    Ok(())
}

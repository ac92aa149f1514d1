//! FRR (zebra and bgpd) from Debian's package, with sockets and files of its own.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use nix::unistd::{Group, User, chown};
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use serde_json::Value;

use super::{Announcement, Router, RouterSpec, Speaker};
use crate::harness::{Skip, eventually, need_users, program};
use crate::scene::Scene;
use crate::want::RibRoute;

/// FRR in a namespace.
#[derive(Debug)]
pub struct Frr {
    name: String,
    netns: Netns,
    folder: PathBuf,
    spec: RouterSpec,
    zebra: PathBuf,
    bgpd: PathBuf,
    vtysh: PathBuf,
    running: Option<[Process; 2]>,
}

impl Frr {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A skip if the package is missing.
    pub fn new(scene: &Scene, name: &str, netns: &Netns, spec: RouterSpec) -> anyhow::Result<Self> {
        need_users("FRR")?;
        let frr = Self {
            name: format!("FRR {name}"),
            netns: netns.clone(),
            folder: scene.folder().join(name),
            spec,
            zebra: program("zebra", "frr")?,
            bgpd: program("bgpd", "frr").and_then(of_frr)?,
            vtysh: program("vtysh", "frr")?,
            running: None,
        };
        let user = User::from_name("frr")?.ok_or_else(|| Skip("no user frr".into()))?;
        let group = Group::from_name("frr")?.ok_or_else(|| Skip("no group frr".into()))?;
        fs::create_dir_all(&frr.folder).context("cannot make the router's folder")?;
        chown(&frr.folder, Some(user.uid), Some(group.gid)).context("cannot give it to frr")?;
        fs::set_permissions(&frr.folder, fs::Permissions::from_mode(0o755))?;
        Ok(frr)
    }

    fn daemon(&self, program: &Path, name: &str, config: &str) -> anyhow::Result<Process> {
        let path = self.folder.join(format!("{name}.conf"));
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(program);
        command.arg("-f").arg(path).args(["-u", "frr", "-g", "frr", "-P", "0"]);
        command.arg("-z").arg(self.folder.join("zserv.api"));
        command.arg("--vty_socket").arg(&self.folder);
        command.arg("-i").arg(self.folder.join(format!("{name}.pid")));
        command.args(["--log", "stdout"]);
        let log = self.folder.join(format!("{name}.log"));
        Process::spawn(&format!("{} {name}", self.name), &self.netns, &mut command, &log)
    }

    fn ask(&self, commands: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.vtysh);
        command.arg("--vty_socket").arg(&self.folder);
        for words in commands {
            command.arg("-c").arg(words);
        }
        self.netns.output(&mut command)
    }

    fn ask_json(&self, words: &str) -> anyhow::Result<Value> {
        let text = self.ask(&[words])?;
        serde_json::from_str(&text).with_context(|| format!("{words}: no JSON: {text}"))
    }
}

impl Speaker for Frr {
    fn name(&self) -> &str {
        &self.name
    }

    fn established(&self) -> anyhow::Result<usize> {
        let answer = self.ask_json("show bgp neighbors json")?;
        let neighbors = answer.as_object().context("neighbors is no object")?;
        Ok(neighbors.values().filter(|one| one["bgpState"] == "Established").count())
    }

    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
        let answer =
            self.ask_json(&format!("show bgp {} unicast {prefix} json", family(prefix)))?;
        let Some(paths) = answer["paths"].as_array() else { return Ok(Vec::new()) };
        paths.iter().map(|path| read(path).with_context(|| format!("in {path:#}"))).collect()
    }
}

impl Router for Frr {
    fn start(&mut self) -> anyhow::Result<()> {
        let zebra = self.daemon(&self.zebra, "zebra", "hostname zebra\n")?;
        let zserv = self.folder.join("zserv.api");
        eventually("zebra's socket", Duration::from_secs(10), || {
            ensure!(zserv.exists(), "not there yet");
            Ok(())
        })?;
        let bgpd = self.daemon(&self.bgpd, "bgpd", &render(&self.spec))?;
        self.running = Some([zebra, bgpd]);
        eventually(&format!("{} to answer", self.name), Duration::from_secs(10), || {
            self.ask_json("show bgp neighbors json").map(drop)
        })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let [zebra, bgpd] = self.running.take().context("FRR does not run")?;
        bgpd.stop(Duration::from_secs(10))?;
        zebra.stop(Duration::from_secs(10))?;
        // A new zebra must not be taken for ready by the socket of the old one.
        let _ = fs::remove_file(self.folder.join("zserv.api"));
        Ok(())
    }

    fn withdraw(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        self.spec.announcements.retain(|announcement| announcement.prefix != prefix);
        self.ask(&[
            "configure terminal",
            &format!("router bgp {}", self.spec.asn),
            &format!("address-family {} unicast", family(prefix)),
            &format!("no network {prefix}"),
        ])
        .map(drop)
    }

    fn sessions_text(&self) -> anyhow::Result<String> {
        // What is shown is what happened last; a refused attempt a second later takes its place.
        let log = self.running.as_ref().map(|[_, bgpd]| bgpd.log()).unwrap_or_default();
        Ok(self.ask(&["show bgp neighbors"])? + &log)
    }

    fn speaker(&self) -> &dyn Speaker {
        self
    }
}

/// OpenBGPD has a `bgpd` too.
fn of_frr(found: PathBuf) -> anyhow::Result<PathBuf> {
    let own = Path::new("/usr/lib/frr/bgpd");
    if own.is_file() { Ok(own.to_owned()) } else { Ok(found) }
}

fn family(prefix: IpNet) -> &'static str {
    if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" }
}

fn render(spec: &RouterSpec) -> String {
    let mut text = format!(
        "hostname bgpd
router bgp {}
 bgp router-id {}
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 timers bgp 3 9
",
        spec.asn, spec.router_id
    );
    for neighbor in &spec.neighbors {
        let address = neighbor.address;
        let _ = writeln!(text, " neighbor {address} remote-as {}", neighbor.asn);
        let _ = writeln!(text, " neighbor {address} timers connect 1");
        let _ = writeln!(text, " neighbor {address} advertisement-interval 0");
    }
    let mut maps = String::new();
    for (family, is_v4) in [("ipv4", true), ("ipv6", false)] {
        let _ = writeln!(text, " address-family {family} unicast");
        for (number, announcement) in spec.announcements.iter().enumerate() {
            if announcement.prefix.addr().is_ipv4() == is_v4 {
                let _ = writeln!(text, "  network {} route-map map{number}", announcement.prefix);
                maps.push_str(&route_map(number, announcement));
            }
        }
        for neighbor in &spec.neighbors {
            let address = neighbor.address;
            let _ = writeln!(text, "  neighbor {address} activate");
            if neighbor.reflector_client {
                let _ = writeln!(text, "  neighbor {address} route-reflector-client");
            }
            if neighbor.as_override {
                let _ = writeln!(text, "  neighbor {address} as-override");
            }
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    text + &maps
}

fn route_map(number: usize, announcement: &Announcement) -> String {
    let mut text = format!("route-map map{number} permit 10\n");
    let _ = writeln!(text, " set origin {}", announcement.origin);
    if let Some(med) = announcement.med {
        let _ = writeln!(text, " set metric {med}");
    }
    if let Some(local_pref) = announcement.local_pref {
        let _ = writeln!(text, " set local-preference {local_pref}");
    }
    if !announcement.communities.is_empty() {
        let words: Vec<String> =
            announcement.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect();
        let _ = writeln!(text, " set community {}", words.join(" "));
    }
    if !announcement.large_communities.is_empty() {
        let words: Vec<String> = announcement
            .large_communities
            .iter()
            .map(|(global, first, second)| format!("{global}:{first}:{second}"))
            .collect();
        let _ = writeln!(text, " set large-community {}", words.join(" "));
    }
    text.push_str("exit\n");
    text
}

/// One path of `show bgp … PREFIX json`.
fn read(path: &Value) -> anyhow::Result<RibRoute> {
    let number = |name: &str| path[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let as_path = path["aspath"]["string"].as_str().context("no aspath")?;
    let as_path = if as_path == "Local" { "" } else { as_path };
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        words.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let next_hops = path["nexthops"].as_array().context("no nexthops")?;
    let global = next_hops.iter().find(|one| one["scope"] != "link-local");
    Ok(RibRoute {
        best: path["bestpath"]["overall"] == true,
        next_hop: global
            .and_then(|one| one["ip"].as_str())
            .map(str::parse)
            .transpose()
            .context("next hop")?,
        as_path: as_path.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
        origin: path["origin"].as_str().context("no origin")?.to_lowercase(),
        med: number("metric").or_else(|| number("med")),
        local_pref: number("locPrf"),
        communities: words(&path["community"]["list"]).into_iter().collect(),
        large_communities: words(&path["largeCommunity"]["list"]).into_iter().collect(),
        originator_id: path["originatorId"].as_str().map(str::to_owned),
        cluster_list: words(&path["clusterList"]["list"]),
    })
}

//! GoBGP from Debian's package. What it announces is given to it through its command line, since its
//! configuration file has no place for it.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use serde_json::Value;

use super::{Announcement, Neighbor, Router, RouterSpec, Speaker};
use crate::harness::{eventually, program};
use crate::scene::Scene;
use crate::want::RibRoute;

/// ESTABLISHED in `session_state`.
const ESTABLISHED: u64 = 6;

/// GoBGP in a namespace.
#[derive(Debug)]
pub struct Gobgp {
    name: String,
    netns: Netns,
    folder: PathBuf,
    spec: RouterSpec,
    gobgpd: PathBuf,
    gobgp: PathBuf,
    process: Option<Process>,
}

impl Gobgp {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A skip if the package is missing.
    pub fn new(scene: &Scene, name: &str, netns: &Netns, spec: RouterSpec) -> anyhow::Result<Self> {
        let folder = scene.folder().join(name);
        fs::create_dir_all(&folder).context("cannot make the router's folder")?;
        Ok(Self {
            name: format!("GoBGP {name}"),
            netns: netns.clone(),
            folder,
            spec,
            gobgpd: program("gobgpd", "gobgpd")?,
            gobgp: program("gobgp", "gobgpd")?,
            process: None,
        })
    }

    fn ask(&self, words: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.gobgp);
        command.args(words.split_whitespace());
        self.netns.output(&mut command)
    }

    fn ask_json(&self, words: &str) -> anyhow::Result<Value> {
        let text = self.ask(&format!("-j {words}"))?;
        serde_json::from_str(&text).with_context(|| format!("{words}: no JSON: {text}"))
    }
}

impl Speaker for Gobgp {
    fn name(&self) -> &str {
        &self.name
    }

    fn established(&self) -> anyhow::Result<usize> {
        let answer = self.ask_json("neighbor")?;
        let neighbors = answer.as_array().context("neighbors is no array")?;
        let up = |one: &&Value| one["state"]["session_state"].as_u64() == Some(ESTABLISHED);
        Ok(neighbors.iter().filter(up).count())
    }

    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
        let answer = self.ask_json(&format!("global rib -a {} {prefix}", family(prefix)))?;
        let Some(paths) = answer[prefix.to_string()].as_array() else { return Ok(Vec::new()) };
        paths.iter().map(|path| read(path).with_context(|| format!("in {path:#}"))).collect()
    }
}

impl Router for Gobgp {
    fn start(&mut self) -> anyhow::Result<()> {
        let config = self.folder.join("gobgpd.toml");
        fs::write(&config, render(&self.spec)).context("cannot write gobgpd.toml")?;
        let mut command = Command::new(&self.gobgpd);
        command.arg("-f").arg(config).arg("--pprof-disable");
        command.args(["--api-hosts", "127.0.0.1:50051"]);
        let log = self.folder.join("gobgpd.log");
        self.process = Some(Process::spawn(&self.name, &self.netns, &mut command, &log)?);
        eventually(&format!("{} to answer", self.name), Duration::from_secs(10), || {
            self.ask_json("neighbor").map(drop)
        })?;
        for announcement in &self.spec.announcements {
            self.ask(&add(announcement, &self.spec.neighbors))?;
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("GoBGP does not run")?;
        process.stop(Duration::from_secs(10)).map(drop)
    }

    fn withdraw(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        self.spec.announcements.retain(|announcement| announcement.prefix != prefix);
        self.ask(&format!("global rib del -a {} {prefix}", family(prefix))).map(drop)
    }

    /// GoBGP shows the text in its log only.
    fn sessions_text(&self) -> anyhow::Result<String> {
        Ok(self.process.as_ref().context("GoBGP does not run")?.log())
    }

    fn speaker(&self) -> &dyn Speaker {
        self
    }
}

fn family(prefix: IpNet) -> &'static str {
    if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" }
}

fn render(spec: &RouterSpec) -> String {
    let locals: Vec<String> =
        spec.neighbors.iter().map(|neighbor| format!("\"{}\"", neighbor.local[0])).collect();
    let mut text = format!(
        "[global.config]
as = {}
router-id = \"{}\"
local-address-list = [{}]
",
        spec.asn,
        spec.router_id,
        locals.join(", ")
    );
    for neighbor in &spec.neighbors {
        let _ = write!(
            text,
            "[[neighbors]]
[neighbors.config]
neighbor-address = \"{}\"
peer-as = {}
[neighbors.transport.config]
local-address = \"{}\"
[neighbors.timers.config]
connect-retry = 1
idle-hold-time-after-reset = 1
hold-time = 9
keepalive-interval = 3
",
            neighbor.address, neighbor.asn, neighbor.local[0]
        );
        if neighbor.reflector_client {
            let _ = write!(
                text,
                "[neighbors.route-reflector.config]
route-reflector-client = true
route-reflector-cluster-id = \"{}\"
",
                spec.router_id
            );
        }
        if neighbor.as_override {
            text.push_str("[neighbors.as-path-options.config]\nreplace-peer-as = true\n");
        }
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            let _ = write!(
                text,
                "[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{family}\"
"
            );
        }
    }
    text
}

/// The words that announce. The next hop is said: of itself GoBGP would send an IPv4 address as that
/// of an IPv6 route.
fn add(announcement: &Announcement, neighbors: &[Neighbor]) -> String {
    let Announcement { prefix, med, local_pref, origin, communities, large_communities } =
        announcement;
    let mut text = format!("global rib add -a {} {prefix} origin {origin}", family(*prefix));
    if let Some(neighbor) = neighbors.first() {
        let _ = write!(text, " nexthop {}", neighbor.local[usize::from(prefix.addr().is_ipv6())]);
    }
    if let Some(med) = med {
        let _ = write!(text, " med {med}");
    }
    if let Some(local_pref) = local_pref {
        let _ = write!(text, " local-pref {local_pref}");
    }
    if !communities.is_empty() {
        let words: Vec<String> =
            communities.iter().map(|(high, low)| format!("{high}:{low}")).collect();
        let _ = write!(text, " community {}", words.join(","));
    }
    if !large_communities.is_empty() {
        let words: Vec<String> = large_communities
            .iter()
            .map(|(global, first, second)| format!("{global}:{first}:{second}"))
            .collect();
        let _ = write!(text, " large-community {}", words.join(","));
    }
    text
}

/// One path of `global rib`: its attributes are a list of objects that differ by `type`.
fn read(path: &Value) -> anyhow::Result<RibRoute> {
    let mut route = RibRoute { best: path["best"] == true, ..RibRoute::default() };
    for attribute in path["attrs"].as_array().context("no attrs")? {
        let number = |name: &str| {
            attribute[name].as_u64().and_then(|number| u32::try_from(number).ok()).context("number")
        };
        let list = |name: &str| attribute[name].as_array().cloned().unwrap_or_default();
        match attribute["type"].as_u64().context("an attribute without a type")? {
            1 => {
                let names = ["igp", "egp", "incomplete"];
                let name = names.get(number("value")? as usize).context("which origin?")?;
                route.origin = (*name).to_owned();
            }
            2 => {
                for segment in list("as_paths") {
                    for asn in segment["asns"].as_array().context("asns")? {
                        let asn = asn.as_u64().context("an AS number")?;
                        route.as_path.push(u32::try_from(asn)?);
                    }
                }
            }
            3 | 14 => {
                let text = attribute["nexthop"].as_str().context("nexthop")?;
                route.next_hop = Some(text.parse::<IpAddr>()?);
            }
            4 => route.med = Some(number("metric")?),
            5 => route.local_pref = Some(number("value")?),
            8 => {
                for community in list("communities") {
                    let community = community.as_u64().context("a community")?;
                    let _ = route.communities.insert(format!(
                        "{}:{}",
                        community >> 16,
                        community & 0xffff
                    ));
                }
            }
            9 => route.originator_id = attribute["value"].as_str().map(str::to_owned),
            10 => {
                route.cluster_list =
                    list("value").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            32 => {
                for one in list("value") {
                    let parts = ["ASN", "LocalData1", "LocalData2"]
                        .map(|name| one[name].as_u64().unwrap_or_default().to_string());
                    let _ = route.large_communities.insert(parts.join(":"));
                }
            }
            _ => {}
        }
    }
    Ok(route)
}

//! OpenBGPD from Debian's package.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use serde_json::Value;

use super::{Announcement, Neighbor, Router, RouterSpec, Speaker};
use crate::harness::{Skip, eventually, need_users, program};
use crate::scene::Scene;
use crate::want::RibRoute;

/// The home of its user, which its processes make their root. The package's service makes it.
const HOME: &str = "/run/openbgpd";

/// OpenBGPD in a namespace.
#[derive(Debug)]
pub struct Openbgpd {
    name: String,
    netns: Netns,
    folder: PathBuf,
    spec: RouterSpec,
    bgpd: PathBuf,
    bgpctl: PathBuf,
    process: Option<Process>,
}

impl Openbgpd {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A skip if the package is missing.
    pub fn new(scene: &Scene, name: &str, netns: &Netns, spec: RouterSpec) -> anyhow::Result<Self> {
        need_users("OpenBGPD")?;
        let folder = scene.folder().join(name);
        fs::create_dir_all(&folder).context("cannot make the router's folder")?;
        fs::create_dir_all(HOME).context("cannot make the home of OpenBGPD's user")?;
        fs::set_permissions(HOME, fs::Permissions::from_mode(0o755))?;
        let bgpctl = program("bgpctl", "openbgpd")?;
        // FRR has a `bgpd` too, elsewhere.
        let bgpd = Path::new("/usr/sbin/bgpd").to_owned();
        if !bgpd.is_file() {
            return Err(Skip("no bgpd of OpenBGPD: apt-get install openbgpd".into()).into());
        }
        let name = format!("OpenBGPD {name}");
        Ok(Self { name, netns: netns.clone(), folder, spec, bgpd, bgpctl, process: None })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("bgpd.sock")
    }

    fn write(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("bgpd.conf");
        fs::write(&path, render(&self.spec, &self.socket())).context("cannot write bgpd.conf")?;
        // It refuses a file that others may write.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn ask(&self, words: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.bgpctl);
        command.arg("-s").arg(self.socket()).args(words.split_whitespace());
        self.netns.output(&mut command)
    }

    fn ask_json(&self, words: &str) -> anyhow::Result<Value> {
        let text = self.ask(&format!("-j {words}"))?;
        serde_json::from_str(&text).with_context(|| format!("{words}: no JSON: {text}"))
    }
}

impl Speaker for Openbgpd {
    fn name(&self) -> &str {
        &self.name
    }

    fn established(&self) -> anyhow::Result<usize> {
        let answer = self.ask_json("show neighbor")?;
        let neighbors = answer["neighbors"].as_array().context("neighbors is no array")?;
        Ok(neighbors.iter().filter(|one| one["state"] == "Established").count())
    }

    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
        let answer = self.ask_json(&format!("show rib detail {prefix}"))?;
        let Some(paths) = answer["rib"].as_array() else { return Ok(Vec::new()) };
        paths
            .iter()
            .filter(|path| path["valid"] == true && path["prefix"] == prefix.to_string())
            .map(|path| read(path).with_context(|| format!("in {path:#}")))
            .collect()
    }
}

impl Router for Openbgpd {
    fn start(&mut self) -> anyhow::Result<()> {
        let config = self.write()?;
        let mut command = Command::new(&self.bgpd);
        command.arg("-d").arg("-f").arg(config);
        let log = self.folder.join("bgpd.log");
        self.process = Some(Process::spawn(&self.name, &self.netns, &mut command, &log)?);
        eventually(&format!("{} to answer", self.name), Duration::from_secs(10), || {
            self.ask_json("show neighbor").map(drop)
        })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("OpenBGPD does not run")?;
        process.stop(Duration::from_secs(10)).map(drop)
    }

    fn withdraw(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        self.spec.announcements.retain(|announcement| announcement.prefix != prefix);
        self.write()?;
        self.ask("reload").map(drop)
    }

    fn sessions_text(&self) -> anyhow::Result<String> {
        self.ask("show neighbor")
    }

    fn speaker(&self) -> &dyn Speaker {
        self
    }
}

fn render(spec: &RouterSpec, socket: &Path) -> String {
    let mut text = format!(
        "AS {}\nrouter-id {}\nsocket \"{}\"\nfib-update no\n",
        spec.asn,
        spec.router_id,
        socket.display()
    );
    for neighbor in &spec.neighbors {
        let line = format!("listen on {}\n", neighbor.local[0]);
        if !text.contains(&line) {
            text.push_str(&line);
        }
    }
    for announcement in &spec.announcements {
        text.push_str(&network(announcement));
    }
    for neighbor in &spec.neighbors {
        text.push_str(&session(spec, neighbor));
    }
    // Without these nothing goes to or comes from another AS (RFC 8212).
    text.push_str("allow from any\nallow to any\n");
    // Over an IPv4 session it would send ::1 as next hop of IPv6 routes on Linux (seen in 7.7).
    for Announcement { prefix, .. } in &spec.announcements {
        if let (IpNet::V6(_), Some(neighbor)) = (prefix, spec.neighbors.first()) {
            let next_hop = neighbor.local[1];
            let _ = writeln!(text, "match to any prefix {prefix} set nexthop {next_hop}");
        }
    }
    text
}

fn network(announcement: &Announcement) -> String {
    let Announcement { prefix, med, local_pref, origin, communities, large_communities } =
        announcement;
    let mut text = format!("network {prefix} set {{ origin {origin}");
    if let Some(med) = med {
        let _ = write!(text, " metric {med}");
    }
    if let Some(local_pref) = local_pref {
        let _ = write!(text, " localpref {local_pref}");
    }
    for (high, low) in communities {
        let _ = write!(text, " community {high}:{low}");
    }
    for (global, first, second) in large_communities {
        let _ = write!(text, " large-community {global}:{first}:{second}");
    }
    text.push_str(" }\n");
    text
}

fn session(spec: &RouterSpec, neighbor: &Neighbor) -> String {
    let mut text = format!(
        "neighbor {} {{
  descr \"{}\"
  remote-as {}
  local-address {}
  holdtime 9
  announce IPv4 unicast
  announce IPv6 unicast
",
        neighbor.address, neighbor.name, neighbor.asn, neighbor.local[0]
    );
    if neighbor.reflector_client {
        let _ = writeln!(text, "  route-reflector {}", spec.router_id);
    }
    if neighbor.as_override {
        text.push_str("  as-override yes\n");
    }
    text.push_str("}\n");
    text
}

/// One path of `show rib detail`. A route without a MED and one with MED 0 look the same there.
fn read(path: &Value) -> anyhow::Result<RibRoute> {
    let number = |name: &str| path[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let attributes = path["attributes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let attribute = |name: &str| {
        attributes
            .iter()
            .map(|one| &one[name])
            .find(|value| !value.is_null())
            .unwrap_or(&Value::Null)
    };
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        words.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let as_path = path["aspath"].as_str().context("no aspath")?;
    Ok(RibRoute {
        best: path["best"] == true,
        next_hop: path["exit_nexthop"].as_str().map(str::parse).transpose().context("next hop")?,
        as_path: as_path.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
        origin: path["origin"].as_str().context("no origin")?.to_lowercase(),
        med: number("metric").filter(|med| *med != 0),
        local_pref: number("localpref"),
        communities: words(&path["communities"]).into_iter().collect(),
        large_communities: words(&path["large_communities"]).into_iter().collect(),
        originator_id: attribute("originator").as_str().map(str::to_owned),
        cluster_list: words(attribute("cluster_list")),
    })
}

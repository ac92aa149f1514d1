//! BIRD 2 from Debian's package.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;

use super::{Announcement, Neighbor, Router, RouterSpec, Speaker};
use crate::harness::{eventually, program};
use crate::scene::Scene;
use crate::want::RibRoute;

/// BIRD in a namespace.
#[derive(Debug)]
pub struct Bird {
    name: String,
    netns: Netns,
    folder: PathBuf,
    spec: RouterSpec,
    bird: PathBuf,
    birdc: PathBuf,
    process: Option<Process>,
}

impl Bird {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A skip if the package is missing.
    pub fn new(scene: &Scene, name: &str, netns: &Netns, spec: RouterSpec) -> anyhow::Result<Self> {
        let folder = scene.folder().join(name);
        fs::create_dir_all(&folder).context("cannot make the router's folder")?;
        Ok(Self {
            name: format!("BIRD {name}"),
            netns: netns.clone(),
            folder,
            spec,
            bird: program("bird", "bird2")?,
            birdc: program("birdc", "bird2")?,
            process: None,
        })
    }

    fn write(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("bird.conf");
        fs::write(&path, render(&self.spec)).context("cannot write bird.conf")?;
        Ok(path)
    }

    fn ask(&self, words: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.birdc);
        command.arg("-s").arg(self.folder.join("bird.ctl")).args(words.split_whitespace());
        self.netns.output(&mut command)
    }
}

impl Speaker for Bird {
    fn name(&self) -> &str {
        &self.name
    }

    fn established(&self) -> anyhow::Result<usize> {
        let text = self.ask("show protocols")?;
        Ok(text.lines().filter(|line| line.contains("Established")).count())
    }

    fn routes(&self, prefix: IpNet) -> anyhow::Result<Vec<RibRoute>> {
        let text = match self.ask(&format!("show route {prefix} all")) {
            // A failure to birdc's eyes, not to ours.
            Err(error) if error.to_string().contains("Network not") => return Ok(Vec::new()),
            answer => answer?,
        };
        parse(&text).with_context(|| format!("in\n{text}"))
    }
}

impl Router for Bird {
    fn start(&mut self) -> anyhow::Result<()> {
        let config = self.write()?;
        let mut command = Command::new(&self.bird);
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(self.folder.join("bird.ctl"));
        command.arg("-P").arg(self.folder.join("bird.pid"));
        let log = self.folder.join("bird.log");
        self.process = Some(Process::spawn(&self.name, &self.netns, &mut command, &log)?);
        eventually(&format!("{} to answer", self.name), Duration::from_secs(10), || {
            self.ask("show status").map(drop)
        })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("BIRD does not run")?;
        process.stop(Duration::from_secs(10)).map(drop)
    }

    fn withdraw(&mut self, prefix: IpNet) -> anyhow::Result<()> {
        self.spec.announcements.retain(|announcement| announcement.prefix != prefix);
        self.write()?;
        let answer = self.ask("configure")?;
        ensure!(answer.contains("Reconfig"), "BIRD did not reconfigure: {answer}");
        Ok(())
    }

    fn sessions_text(&self) -> anyhow::Result<String> {
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        Ok(self.ask("show protocols all")? + &log)
    }

    fn speaker(&self) -> &dyn Speaker {
        self
    }
}

fn render(spec: &RouterSpec) -> String {
    let mut text = format!(
        "log stderr all;
router id {};
debug protocols {{ states, events }};
protocol device {{ scan time 1; }}
# Without the connected routes BIRD resolves no next hop of iBGP; announcements are preferred.
protocol direct {{ ipv4 {{ preference 10; }}; ipv6 {{ preference 10; }}; }}
",
        spec.router_id
    );
    for family in [4, 6] {
        if spec.forwards {
            let _ = writeln!(
                text,
                "protocol kernel kernel{family} {{ persist; ipv{family} {{ import none; \
                 export where source = RTS_BGP; }}; }}"
            );
        }
        let _ = writeln!(text, "protocol static static{family} {{ ipv{family};");
        for announcement in &spec.announcements {
            if announcement.prefix.addr().is_ipv4() == (family == 4) {
                text.push_str(&route(announcement));
            }
        }
        text.push_str("}\n");
    }
    for neighbor in &spec.neighbors {
        text.push_str(&session(spec, neighbor));
    }
    text
}

fn route(announcement: &Announcement) -> String {
    let mut text = format!("  route {} blackhole {{", announcement.prefix);
    let _ = write!(text, " bgp_origin = ORIGIN_{};", announcement.origin.to_uppercase());
    if let Some(local_pref) = announcement.local_pref {
        let _ = write!(text, " bgp_local_pref = {local_pref};");
    }
    for (high, low) in &announcement.communities {
        let _ = write!(text, " bgp_community.add(({high},{low}));");
    }
    for (global, first, second) in &announcement.large_communities {
        let _ = write!(text, " bgp_large_community.add(({global},{first},{second}));");
    }
    text.push_str(" };\n");
    text
}

fn session(spec: &RouterSpec, neighbor: &Neighbor) -> String {
    let mut export = "if source != RTS_STATIC && source != RTS_BGP then reject; ".to_owned();
    if neighbor.as_override {
        // BIRD 2.0 has no as-override of its own: this is how its users write it.
        let _ = write!(
            export,
            "if bgp_path ~ [= * {0} * =] then {{ bgp_path.delete({0}); bgp_path.prepend({1}); }} ",
            neighbor.asn, spec.asn
        );
    }
    for Announcement { prefix, med, .. } in &spec.announcements {
        if let Some(med) = med {
            // Only a MED set in the export filter is sent to another AS.
            let _ = write!(export, "if net = {prefix} then bgp_med = {med}; ");
        }
    }
    export.push_str("accept;");
    let client = if neighbor.reflector_client { "  rr client;\n" } else { "" };
    let kind = if neighbor.asn == spec.asn { "direct; " } else { "" };
    format!(
        "protocol bgp {} {{
  local {} as {};
  neighbor {} as {};
  {kind}connect delay time 1; connect retry time 1; error wait time 1, 2;
{client}  ipv4 {{ import all; export filter {{ {export} }}; }};
  ipv6 {{ import all; export filter {{ {export} }}; next hop address {}; }};
}}
",
        neighbor.name,
        neighbor.local[0],
        spec.asn,
        neighbor.address,
        neighbor.asn,
        neighbor.local[1]
    )
}

/// Reads `show route … all`: a line per path that has its protocol in brackets, then its attributes.
fn parse(text: &str) -> anyhow::Result<Vec<RibRoute>> {
    let mut routes: Vec<RibRoute> = Vec::new();
    for line in text.lines() {
        if line.contains('[') && !line.starts_with('\t') {
            routes.push(RibRoute { best: line.contains("] *"), ..RibRoute::default() });
            continue;
        }
        let (Some(route), Some((name, value))) = (routes.last_mut(), line.trim().split_once(':'))
        else {
            continue;
        };
        let value = value.trim();
        match name {
            "BGP.origin" => route.origin = value.to_lowercase(),
            "BGP.as_path" => {
                route.as_path =
                    value.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            }
            "BGP.next_hop" => {
                route.next_hop = value.split_whitespace().next().map(str::parse).transpose()?;
            }
            "BGP.med" => route.med = Some(value.parse()?),
            "BGP.local_pref" => route.local_pref = Some(value.parse()?),
            "BGP.community" => route.communities = tuples(value).into_iter().collect(),
            "BGP.large_community" => route.large_communities = tuples(value).into_iter().collect(),
            "BGP.originator_id" => route.originator_id = Some(value.to_owned()),
            "BGP.cluster_list" => {
                route.cluster_list = value.split_whitespace().map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    Ok(routes)
}

/// `(65001,100) (65001, 1, 2)` as `65001:100`, `65001:1:2`.
fn tuples(text: &str) -> Vec<String> {
    text.split('(')
        .filter_map(|part| part.split_once(')'))
        .map(|(inside, _)| inside.split(',').map(str::trim).collect::<Vec<_>>().join(":"))
        .collect()
}

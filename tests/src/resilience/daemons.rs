//! routelet, BIRD and FRR behind one face, each as its users run it in this place.
//!
//! 'Tuned' is how Calico runs BIRD and frr-k8s runs FRR on nodes: graceful restart on, kernel routes kept.
//! 'Plain' is the daemon's own default, which still helps others restart. 'Off' does not even that.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::Ipv4Net;
use nix::sys::signal::Signal;
use nix::unistd::{Group, User, chown};
use routelet::lab::netns::Netns;
use routelet::lab::process::Process;
use routelet::lab::sandbox;
use serde_json::Value;

use crate::harness::{Skip, eventually, need_users, program};
use crate::scene::Scene;

/// How long a daemon may take to stop, and to answer after a start.
const SOON: Duration = Duration::from_secs(20);

/// Which daemon, and how it is run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Make {
    /// routelet with its defaults.
    Routelet,
    /// BIRD as in Calico.
    BirdTuned,
    /// BIRD with its defaults.
    BirdPlain,
    /// BIRD that does not help others restart.
    BirdOff,
    /// FRR as in frr-k8s.
    FrrTuned,
    /// FRR with its defaults.
    FrrPlain,
    /// FRR that does not help others restart.
    FrrOff,
}

impl Make {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Routelet => "routelet",
            Self::BirdTuned => "BIRD tuned",
            Self::BirdPlain => "BIRD plain",
            Self::BirdOff => "BIRD without graceful restart",
            Self::FrrTuned => "FRR tuned",
            Self::FrrPlain => "FRR plain",
            Self::FrrOff => "FRR without graceful restart",
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Routelet => Family::Routelet,
            Self::BirdTuned | Self::BirdPlain | Self::BirdOff => Family::Bird,
            Self::FrrTuned | Self::FrrPlain | Self::FrrOff => Family::Frr,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Routelet,
    Bird,
    Frr,
}

/// One speaker of the stage, as others see it.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// `tor`, `node1` or `node2`.
    pub name: String,
    /// In the LAN.
    pub address: Ipv4Addr,
    /// Its AS.
    pub asn: u32,
    /// What it announces.
    pub network: Ipv4Net,
}

/// Where a daemon sits.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Itself.
    pub own: Neighbor,
    /// Its namespace.
    pub netns: Netns,
    /// Its two peers.
    pub neighbors: Vec<Neighbor>,
    /// Hold time, seconds.
    pub hold: u16,
}

/// A daemon in its seat.
#[derive(Debug)]
pub struct Daemon {
    make: Make,
    seat: Seat,
    folder: PathBuf,
    routelet: PathBuf,
    running: Vec<Process>,
}

impl Daemon {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A skip if it is not installed.
    pub fn new(scene: &Scene, routelet: &Path, make: Make, seat: Seat) -> anyhow::Result<Self> {
        let folder = scene.folder().join(&seat.own.name);
        fs::create_dir_all(folder.join("state")).context("cannot make the daemon's folder")?;
        let text = match make.family() {
            Family::Routelet => routelet_config(&seat, &folder),
            Family::Bird => bird_config(make, &seat),
            Family::Frr => frr_config(make, &seat),
        };
        match make.family() {
            Family::Routelet => {}
            Family::Bird => drop(program("bird", "bird2")?),
            Family::Frr => {
                need_users("FRR")?;
                program("zebra", "frr")?;
                let user = User::from_name("frr")?.ok_or_else(|| Skip("no user frr".into()))?;
                let group = Group::from_name("frr")?.ok_or_else(|| Skip("no group frr".into()))?;
                chown(&folder, Some(user.uid), Some(group.gid)).context("cannot give it to frr")?;
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
                fs::write(folder.join("zebra.conf"), "hostname zebra\n")?;
            }
        }
        fs::write(folder.join("config"), text).context("cannot write the configuration")?;
        let routelet = routelet.to_owned();
        Ok(Self { make, seat, folder, routelet, running: Vec::new() })
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.seat.netns
    }

    /// What it announces.
    #[must_use]
    pub fn network(&self) -> String {
        self.seat.own.network.to_string()
    }

    /// Protocol number and metric of its kernel routes.
    #[must_use]
    pub fn marks(&self) -> (&'static str, &'static str) {
        match self.make.family() {
            Family::Routelet => ("179", "1179"),
            Family::Bird => ("bird", "32"),
            Family::Frr => ("bgp", "20"),
        }
    }

    /// Starts it. Of FRR zebra has to answer first, as its own scripts wait for it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_empty(), "{} runs already", self.seat.own.name);
        match self.make.family() {
            Family::Routelet => {
                let mut command = sandbox::command(&self.routelet);
                command.args(["run", "--config"]).arg(self.folder.join("config"));
                self.spawn("routelet", command)
            }
            Family::Bird => {
                let mut command = Command::new(program("bird", "bird2")?);
                command.arg("-f").arg("-c").arg(self.folder.join("config"));
                command.arg("-s").arg(self.folder.join("bird.ctl"));
                command.arg("-P").arg(self.folder.join("bird.pid"));
                if self.make == Make::BirdTuned {
                    // Recovery: what is in the kernel stays until the neighbours are back.
                    command.arg("-R");
                }
                self.spawn("bird", command)
            }
            Family::Frr => self.start_frr(),
        }
    }

    fn start_frr(&mut self) -> anyhow::Result<()> {
        let zserv = self.folder.join("zserv.api");
        let _ = fs::remove_file(&zserv);
        let mut zebra = self.frr_command(program("zebra", "frr")?, "zebra.conf", "zebra");
        let bgpd = self.frr_command("/usr/lib/frr/bgpd".into(), "config", "bgpd");
        if self.make == Make::FrrTuned {
            // Retains routes at its end, and keeps those it finds for so long.
            zebra.args(["-r", "-K", "120"]);
        }
        self.spawn("zebra", zebra)?;
        eventually("zebra's socket", SOON, || {
            ensure!(zserv.exists(), "not there yet");
            Ok(())
        })?;
        self.spawn("bgpd", bgpd)
    }

    fn frr_command(&self, program: PathBuf, config: &str, name: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-f").arg(self.folder.join(config));
        command.args(["-u", "frr", "-g", "frr", "-P", "0"]);
        command.arg("-z").arg(self.folder.join("zserv.api"));
        command.arg("--vty_socket").arg(&self.folder);
        command.arg("-i").arg(self.folder.join(format!("{name}.pid")));
        command.args(["--log", "stdout"]);
        command
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = self.folder.join(format!("{name}.log"));
        let name = format!("{name} of {}", self.seat.own.name);
        self.running.push(Process::spawn(&name, &self.seat.netns, &mut command, &log)?);
        Ok(())
    }

    /// Stops it with SIGTERM, of FRR bgpd first.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        while let Some(process) = self.running.pop() {
            process.stop(SOON)?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        while let Some(process) = self.running.pop() {
            process.kill();
        }
    }

    /// Stops every process of it for a while, without telling it.
    ///
    /// # Errors
    /// If one has ended.
    pub fn freeze(&mut self, time: Duration) -> anyhow::Result<()> {
        for process in &mut self.running {
            process.signal(Signal::SIGSTOP)?;
        }
        std::thread::sleep(time);
        for process in &mut self.running {
            process.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// The next start is of another file with the same program in it.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn replace_program(&mut self) -> anyhow::Result<()> {
        ensure!(self.make == Make::Routelet, "only routelet is upgraded here");
        let other = self.folder.join("routelet-next");
        fs::copy(&self.routelet, &other).context("cannot copy the program")?;
        self.routelet = other;
        Ok(())
    }

    /// How many of its sessions are Established.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn established(&self) -> anyhow::Result<usize> {
        match self.make.family() {
            Family::Routelet => {
                let peers = self.routelet_json(&["peers"])?;
                let peers = peers.as_array().context("peers is no array")?;
                Ok(peers.iter().filter(|peer| peer["state"] == "Established").count())
            }
            Family::Bird => {
                let mut command = Command::new(program("birdc", "bird2")?);
                command.arg("-s").arg(self.folder.join("bird.ctl")).args(["show", "protocols"]);
                let text = self.seat.netns.output(&mut command)?;
                Ok(text.lines().filter(|line| line.contains("Established")).count())
            }
            Family::Frr => {
                let mut command = Command::new(program("vtysh", "frr")?);
                command.arg("--vty_socket").arg(&self.folder);
                command.args(["-c", "show bgp neighbors json"]);
                let text = self.seat.netns.output(&mut command)?;
                let answer: Value = serde_json::from_str(&text).context("no JSON")?;
                let neighbors = answer.as_object().context("neighbors is no object")?;
                Ok(neighbors.values().filter(|one| one["bgpState"] == "Established").count())
            }
        }
    }

    /// What a command of routelet says.
    ///
    /// # Errors
    /// If it fails.
    pub fn routelet_json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.routelet_text(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("no JSON")
    }

    /// The same as it prints it.
    ///
    /// # Errors
    /// If it fails.
    pub fn routelet_text(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = sandbox::command(&self.routelet);
        command.args(words).env("ROUTELET_SOCKET", self.folder.join("routelet.sock"));
        self.seat.netns.output(&mut command)
    }

    /// Waits for its end, which somebody else has asked for.
    ///
    /// # Errors
    /// If it still runs.
    pub fn wait_ended(&mut self) -> anyhow::Result<()> {
        for mut process in self.running.drain(..) {
            process.wait(SOON)?;
        }
        Ok(())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("routelet.log")).unwrap_or_default()
    }
}

fn routelet_config(seat: &Seat, folder: &Path) -> String {
    let Seat { own, neighbors, hold, .. } = seat;
    let node = |one: &Neighbor| {
        format!(
            "{{name: {}, addresses: [{}/24], podCIDRs: [{}]}}",
            one.name, one.address, one.network
        )
    };
    let mesh: Vec<_> = neighbors.iter().filter(|one| one.asn == own.asn).collect();
    let mut text = format!(
        "node: {}\nbgp: {{asNumber: {}, nodeToNodeMeshEnabled: {}, connectRetryTime: 5s, holdTime: {hold}s}}\n",
        node(own),
        own.asn,
        !mesh.is_empty()
    );
    if !mesh.is_empty() {
        text.push_str("nodes:\n");
        mesh.iter().for_each(|one| _ = writeln!(text, "  - {}", node(one)));
    }
    text.push_str("peers:\n");
    for one in neighbors.iter().filter(|one| one.asn != own.asn) {
        let (name, address, asn) = (&one.name, one.address, one.asn);
        let _ = writeln!(
            text,
            "  - {{name: {name}, peerIP: {address}, asNumber: {asn}, filters: [in]}}"
        );
    }
    let _ = write!(
        text,
        "filters:
  - name: in
    importV4: [{{action: Accept}}]
pools: [{{name: pods, cidr: 10.244.0.0/16}}]
api: {{socket: {0}/routelet.sock}}
stateDir: {0}/state
",
        folder.display()
    );
    text
}

fn bird_config(make: Make, seat: &Seat) -> String {
    let Seat { own, neighbors, hold, .. } = seat;
    let (kernel, graceful) = match make {
        Make::BirdTuned => ("persist; graceful restart; scan time 2;", "on"),
        Make::BirdOff => ("", "off"),
        _ => ("", "aware"),
    };
    let mut text = format!(
        "log stderr all;
router id {};
protocol device {{ scan time 2; }}
protocol direct {{ ipv4 {{ preference 10; }}; interface \"eth0\"; }}
protocol kernel {{ {kernel} ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol static {{ ipv4; route {} blackhole; }}
",
        own.address, own.network
    );
    for one in neighbors {
        let direct = if one.asn == own.asn { "direct; " } else { "" };
        let _ = write!(
            text,
            "protocol bgp {} {{
  local {} as {};
  neighbor {} as {};
  {direct}graceful restart {graceful};
  hold time {hold}; connect delay time 2; connect retry time 5; error wait time 5, 30;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
",
            one.name, own.address, own.asn, one.address, one.asn
        );
    }
    text
}

fn frr_config(make: Make, seat: &Seat) -> String {
    let Seat { own, neighbors, hold, .. } = seat;
    let mut text = format!(
        "hostname bgpd
router bgp {}
 bgp router-id {}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 timers bgp {} {hold}
",
        own.asn,
        own.address,
        hold / 3
    );
    match make {
        Make::FrrTuned => {
            text.push_str(" bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n");
        }
        Make::FrrOff => text.push_str(" bgp graceful-restart-disable\n"),
        _ => {}
    }
    for one in neighbors {
        let _ = writeln!(text, " neighbor {} remote-as {}", one.address, one.asn);
        let _ = writeln!(text, " neighbor {} timers connect 5", one.address);
        let _ = writeln!(text, " neighbor {} advertisement-interval 0", one.address);
    }
    text.push_str(" address-family ipv4 unicast\n");
    let _ = writeln!(text, "  network {}", own.network);
    for one in neighbors {
        let _ = writeln!(text, "  neighbor {} activate", one.address);
        let _ = writeln!(text, "  neighbor {} prefix-list own out", one.address);
    }
    text.push_str(" exit-address-family\nexit\n");
    let _ = writeln!(text, "ip prefix-list own seq 5 permit {}", own.network);
    text
}

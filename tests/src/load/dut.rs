//! The devices under test: how each is configured and started, and what it costs while it runs.
//!
//! In flow: a [`Topology`], the same for all. Out flow: a running process whose CPU time and resident
//! memory can be asked at any time; it ends with its [`Dut`].
//!
//! Every daemon gets the configuration that its users would write for this role: all sessions passive, IPv4
//! unicast only, nothing filtered, no kernel routes, its own defaults otherwise (timers in front of
//! advertisements are part of what is measured).

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::load::engine::now;
use crate::load::sys;

/// Where the device under test listens.
pub const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 98, 0, 1), 179);
/// The only address that is configured: on the loopback device it makes the whole prefix local, so
/// every peer binds an address of its own.
pub const PREFIX_LEN: u8 = 15;

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    Routelet,
    /// The same, bound to one core.
    #[value(name = "routelet-one-core")]
    RouteletOneCore,
    Bird,
    Frr,
    /// The plain copier: the ceiling of the load generator itself.
    Copier,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Routelet => "routelet",
            Kind::RouteletOneCore => "routelet, one core",
            Kind::Bird => "BIRD 2",
            Kind::Frr => "FRR",
            Kind::Copier => "copier",
        }
    }

    pub fn is_routelet(self) -> bool {
        matches!(self, Kind::Routelet | Kind::RouteletOneCore)
    }

    /// The word that `--dut` takes.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Routelet => "routelet",
            Kind::RouteletOneCore => "routelet-one-core",
            Kind::Bird => "bird",
            Kind::Frr => "frr",
            Kind::Copier => "copier",
        }
    }
}

/// The sessions of a scenario, seen from the device under test.
#[derive(Clone, Debug)]
pub struct Topology {
    /// AS number of the device.
    pub asn: u32,
    /// Address and AS number of each peer. A peer of the same AS is a reflector client.
    pub peers: Vec<(Ipv4Addr, u32)>,
    /// `None`: no kernel routes.
    pub fib: Option<Fib>,
}

/// How routes are written to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fib {
    /// As the daemon does unless told otherwise.
    Default,
    /// routelet without nexthop objects.
    Plain,
}

/// A running device under test.
pub struct Dut {
    child: Child,
    dir: TempDir,
    kind: Kind,
}

impl Dut {
    /// Writes the configuration, starts the daemon and waits until it listens.
    pub fn start(kind: Kind, topology: &Topology, routelet: Option<&Path>) -> Result<Dut> {
        let dir = tempfile::Builder::new().prefix("routelet-load-").tempdir()?;
        let mut command = match kind {
            Kind::Routelet | Kind::RouteletOneCore => {
                routelet_command(dir.path(), topology, routelet)?
            }
            Kind::Bird => bird_command(dir.path(), topology)?,
            Kind::Frr => frr_command(dir.path(), topology)?,
            Kind::Copier => copier_command()?,
        };
        let log = fs::File::create(dir.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::die_with_parent(&mut command);
        if kind == Kind::RouteletOneCore {
            sys::bind_to_first_core(&mut command);
        }
        let child =
            command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let mut dut = Dut { child, dir, kind };
        dut.wait_for_listener()?;
        Ok(dut)
    }

    /// CPU time of the daemon and of its children, all threads.
    pub fn cpu(&self) -> Result<Duration> {
        self.processes()
            .into_iter()
            .map(sys::process_cpu)
            .sum::<Result<_, _>>()
            .with_context(|| format!("{} has ended; its log: {}", self.kind.name(), self.log()))
    }

    /// Resident memory, octets.
    pub fn resident(&self) -> u64 {
        self.status_sum("VmRSS:")
    }

    /// Peak of the resident memory since [`Dut::reset_peak`], octets.
    pub fn peak(&self) -> u64 {
        self.status_sum("VmHWM:")
    }

    /// Starts a new peak; ignored where the kernel does not allow it (the peak is then too high).
    pub fn reset_peak(&self) {
        for pid in self.processes() {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// The end of what the daemon printed.
    pub fn log(&self) -> String {
        let text = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    }

    fn wait_for_listener(&mut self) -> Result<()> {
        let wanted = format!(
            "{:08X}:{:04X} 00000000:0000 0A",
            u32::from_le_bytes(TARGET.ip().octets()),
            TARGET.port()
        );
        let any = format!("00000000:{:04X} 00000000:0000 0A", TARGET.port());
        let deadline = now() + Duration::from_secs(20);
        loop {
            let sockets = fs::read_to_string("/proc/self/net/tcp")?;
            if sockets.contains(&wanted) || sockets.contains(&any) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.kind.name(), self.log());
            }
            ensure!(
                now() < deadline,
                "{} does not listen on {TARGET}: {}",
                self.kind.name(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The daemon and its descendants.
    fn processes(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        pids
    }

    fn status_sum(&self, field: &str) -> u64 {
        let kilobytes = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.processes().into_iter().filter_map(kilobytes).sum::<u64>() * 1024
    }
}

impl Drop for Dut {
    fn drop(&mut self) {
        sys::terminate(self.child.id());
        let deadline = now() + Duration::from_secs(1);
        while now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return remove_leavings(self.kind, self.child.id());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_leavings(self.kind, self.child.id());
    }
}

/// FRR leaves a folder in /var/tmp, whatever it is told.
fn remove_leavings(kind: Kind, pid: u32) {
    if kind == Kind::Frr {
        let _ = fs::remove_dir_all(format!("/var/tmp/frr/bgpd.{pid}"));
    }
}

/// Version line of a daemon as installed, for the report.
pub fn version(kind: Kind, routelet: Option<&Path>) -> String {
    let mut command = match kind {
        Kind::Routelet | Kind::RouteletOneCore => Command::new(routelet_path(routelet)),
        Kind::Bird => Command::new("bird"),
        Kind::Frr => Command::new(BGPD),
        Kind::Copier => return "plain copier".to_owned(),
    };
    let Ok(output) = command.arg("--version").output() else { return "not installed".to_owned() };
    // BIRD prints its version on standard error.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

/// Whether the daemon can be started at all.
pub fn available(kind: Kind, routelet: Option<&Path>) -> bool {
    kind == Kind::Copier || version(kind, routelet) != "not installed"
}

const BGPD: &str = "/usr/lib/frr/bgpd";

fn routelet_path(routelet: Option<&Path>) -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("routelet"));
    routelet.map(Path::to_path_buf).or_else(beside).unwrap_or_else(|| "routelet".into())
}

/// The configuration of routelet for a topology, with its socket and its state in `dir`.
pub fn routelet_config(dir: &Path, topology: &Topology) -> String {
    let address = TARGET.ip();
    let accept = "[{action: Accept}]";
    let kernel = match topology.fib {
        None => "{enabled: false}",
        Some(Fib::Default) => "{enabled: true}",
        Some(Fib::Plain) => "{enabled: true, nexthopObjects: Never}",
    };
    let mut text = format!(
        "node: {{name: dut, addresses: [{address}/{PREFIX_LEN}], routerID: {address}, \
         routeReflectorClusterID: {address}}}\n\
         bgp: {{asNumber: {}, listenAddresses: [{address}], listenPort: {}, \
         nodeToNodeMeshEnabled: false}}\n\
         filters:\n  - {{name: all, importV4: {accept}, exportV4: {accept}, importV6: {accept}, \
         exportV6: {accept}}}\n\
         kernel: {kernel}\n\
         api: {{socket: {dir}/routelet.sock}}\n\
         stateDir: {dir}/state\npeers:\n",
        topology.asn,
        TARGET.port(),
        dir = dir.display(),
    );
    for (number, (peer, asn)) in topology.peers.iter().enumerate() {
        let client = if *asn == topology.asn { ", routeReflectorClient: true" } else { "" };
        let _ = writeln!(
            text,
            "  - {{name: peer-{number}, peerIP: {peer}, asNumber: {asn}, passive: true{client}, \
             filters: [all]}}"
        );
    }
    text
}

fn routelet_command(dir: &Path, topology: &Topology, path: Option<&Path>) -> Result<Command> {
    let config = dir.join("routelet.yaml");
    fs::create_dir(dir.join("state"))?;
    fs::write(&config, routelet_config(dir, topology))?;
    let mut command = Command::new(routelet_path(path));
    command.arg("run").arg("--config").arg(config);
    Ok(command)
}

fn bird_command(dir: &Path, topology: &Topology) -> Result<Command> {
    let mut text = format!(
        "router id {address};\nprotocol device {{}}\n\
         {kernel}template bgp load {{\n  local {address} port {port} as {asn};\n  {direct}passive on;\n  \
         rr cluster id {address};\n  ipv4 {{ import all; export all; }};\n}}\n",
        address = TARGET.ip(),
        port = TARGET.port(),
        asn = topology.asn,
        kernel = match topology.fib {
            None => "",
            Some(_) =>
                "protocol direct {}\nprotocol kernel { ipv4 { import none; export all; }; }\n",
        },
        // Next hops of third parties are looked up only without it.
        direct = if topology.fib.is_none() { "direct;\n  " } else { "" },
    );
    for (number, (peer, asn)) in topology.peers.iter().enumerate() {
        let client = if *asn == topology.asn { " rr client;" } else { "" };
        writeln!(text, "protocol bgp p{number} from load {{ neighbor {peer} as {asn};{client} }}")?;
    }
    let config = dir.join("bird.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(config).arg("-s").arg(dir.join("bird.ctl"));
    Ok(command)
}

fn frr_command(dir: &Path, topology: &Topology) -> Result<Command> {
    let address = TARGET.ip();
    let mut text = format!(
        "router bgp {}\n bgp router-id {address}\n no bgp ebgp-requires-policy\n bgp cluster-id \
         {address}\n no bgp network import-check\n neighbor load peer-group\n neighbor load \
         passive\n",
        topology.asn
    );
    let internal = topology.peers.iter().any(|(_, asn)| *asn == topology.asn);
    for (peer, asn) in &topology.peers {
        writeln!(text, " neighbor {peer} remote-as {asn}")?;
        writeln!(text, " neighbor {peer} peer-group load")?;
    }
    text.push_str(" address-family ipv4 unicast\n  neighbor load activate\n");
    if internal {
        text.push_str("  neighbor load route-reflector-client\n");
    }
    text.push_str(" exit-address-family\n");
    let config = dir.join("bgpd.conf");
    fs::write(&config, text)?;
    let mut command = Command::new(BGPD);
    command
        .args(["--no_kernel", "--no_zebra", "--skip_runas", "--vty_port", "0"])
        .args(["--listenon", &address.to_string(), "--bgp_port", &TARGET.port().to_string()])
        .arg("--config_file")
        .arg(config)
        .arg("--pid_file")
        .arg(dir.join("bgpd.pid"))
        .arg("--vty_socket")
        .arg(dir);
    Ok(command)
}

fn copier_command() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("copier");
    Ok(command)
}

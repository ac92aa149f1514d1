//! `docker-compose.yml` as a user starts it: the image is built from `Dockerfile`, three nodes, their
//! pods and a ToR run as containers, and pods on different nodes reach each other.
//!
//! In flow: Debian's docker.io, docker-compose and debootstrap, and a Debian mirror. The images that
//! the Dockerfiles begin with are made here under the names that they use: Debian by debootstrap, and
//! the build stage's with this machine's toolchain and the crates it has, so that nothing but Debian's
//! packages is fetched. Out flow: passed, or skipped with what is missing.
//!
//! What always holds: dockerd runs inside the sandbox, with a network, a `/run` and processes of its
//! own, so a dockerd of this machine is not touched. What it builds is kept under `target/containers`
//! for the next run.

#![allow(clippy::disallowed_methods, reason = "tests wait for real processes")]

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::geteuid;
use routelet::lab::netns::Netns;
use routelet::lab::network::Network;
use routelet::lab::process::{Process, tail};
use routelet::lab::sandbox;
use routelet_tests::harness::{self, Case, Skip, eventually, need_users, program};
use routelet_tests::scene::Scene;
use serde_json::Value;

/// How long a session or a route may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Names of the images that the Dockerfiles begin with.
const DEBIAN: &str = "debian:bookworm-slim";
const RUST: &str = "rust:1.95-bookworm";
/// The profile of Cargo.toml that the image is built with here; a user's default takes minutes more.
const PROFILE: &str = "dev";

fn main() -> ExitCode {
    let cases: &[Case] = &[
        ("the_image_has_the_binary_and_nothing_else", image),
        ("pods_reach_each_other_through_our_tor", ours),
        ("pods_reach_each_other_through_frr", frr),
    ];
    let listing = env::args().any(|argument| argument == "--list");
    if env::var_os(sandbox::MARKER).is_none() && !listing {
        // Here, where the Debian mirror can be reached: inside the sandbox it cannot.
        let words = prepare().err().map(|error| match error.downcast_ref::<Skip>() {
            Some(skip) => format!("skip {skip}"),
            None => format!("error {error:#}"),
        });
        let noted = folder().and_then(|folder| {
            fs::create_dir_all(&folder)?;
            Ok(fs::write(folder.join("outcome"), words.unwrap_or_default())?)
        });
        if let Err(error) = noted {
            let _ = io::Write::write_all(&mut io::stderr(), format!("{error:#}\n").as_bytes());
            return ExitCode::FAILURE;
        }
    }
    harness::main(cases)
}

/// Where everything is kept: `target/containers`.
fn folder() -> anyhow::Result<PathBuf> {
    let test = env::current_exe().context("cannot find the test binary")?;
    let target = test.ancestors().nth(3).context("the test binary is not in target/*/deps")?;
    Ok(target.join("containers"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Makes the folders that the two images are imported from, unless the images are there already.
fn prepare() -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Err(Skip("containers need root".into()).into());
    }
    need_users("dockerd")?;
    for (name, package) in [
        ("dockerd", "docker.io"),
        ("docker", "docker.io"),
        ("docker-compose", "docker-compose"),
        ("debootstrap", "debootstrap"),
    ] {
        program(name, package)?;
    }
    let folder = folder()?;
    let stamp = stamp()?;
    if fs::read_to_string(folder.join("stamp")).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    let (debian, rust) = (folder.join("debian"), folder.join("rust"));
    for old in [&debian, &rust] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir_all(&folder)?;
    let mut debootstrap = Command::new(program("debootstrap", "debootstrap")?);
    debootstrap.args(["--variant=minbase", "bookworm"]).arg(&debian);
    fetch("debootstrap", &mut debootstrap)?;
    fs::copy("/etc/resolv.conf", debian.join("etc/resolv.conf")).context("resolv.conf")?;
    fetch("apt-get update", &mut apt(&debian, &["update"]))?;
    // Where the build has no network, apt-get takes them from here.
    let mut download = vec!["install", "--no-install-recommends", "--download-only"];
    let packages = packages()?;
    download.extend(packages.iter().map(String::as_str));
    fetch("apt-get", &mut apt(&debian, &download))?;
    done("cp", Command::new("cp").arg("-a").args([&debian, &rust]))?;
    let compiler = ["install", "--no-install-recommends", "gcc", "libc6-dev"];
    fetch("apt-get", &mut apt(&rust, &compiler))?;
    toolchain(&rust)
}

/// Whether images can be kept there for the next run: on overlayfs, as inside another container, every
/// layer would be a whole copy.
fn keeps(folder: &Path) -> anyhow::Result<bool> {
    let found = statfs(folder).with_context(|| folder.display().to_string())?;
    Ok(found.filesystem_type() != OVERLAYFS_SUPER_MAGIC)
}

/// What the images depend on.
fn stamp() -> anyhow::Result<String> {
    let version = Command::new("rustc").arg("-vV").output().context("no rustc")?;
    let lock = fs::read_to_string(repository().join("Cargo.lock"))?;
    let packages = packages()?.join(" ");
    Ok(format!("{}\n{packages}\n{lock}", String::from_utf8_lossy(&version.stdout)))
}

/// What deploy/compose/Dockerfile installs.
fn packages() -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(repository().join("deploy/compose/Dockerfile"))?;
    let packages: Vec<String> = text
        .lines()
        .filter_map(|line| line.split("--no-install-recommends").nth(1))
        .flat_map(str::split_whitespace)
        .filter(|word| *word != "\\")
        .map(str::to_owned)
        .collect();
    ensure!(packages.iter().any(|name| name == "frr"), "the Dockerfile installs {packages:?}");
    Ok(packages)
}

fn apt(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .args(["apt-get", "-y", "-q"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs something that needs the mirror; if it fails, that is the reason for a skip.
fn fetch(what: &str, command: &mut Command) -> anyhow::Result<()> {
    done(what, command)
        .map_err(|error| Skip(format!("no Debian packages from the mirror: {error:#}")).into())
}

fn done(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| what.to_owned())?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("{what}: {}: {}", output.status, tail(&text, 5));
    }
    Ok(())
}

/// Copies this machine's compiler, and the crates that it has, into the build stage's image.
fn toolchain(root: &Path) -> anyhow::Result<()> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("no rustc")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let to = root.join("usr/local/rust");
    fs::create_dir_all(to.join("bin"))?;
    done("cp", Command::new("cp").arg("-a").arg(sysroot.join("lib")).arg(&to))?;
    for name in ["cargo", "rustc"] {
        fs::copy(sysroot.join("bin").join(name), to.join("bin").join(name))
            .with_context(|| format!("the toolchain has no {name}"))?;
    }
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registry = home.context("no CARGO_HOME")?.join("registry");
    let to = root.join("usr/local/cargo/registry");
    fs::create_dir_all(&to)?;
    for name in ["index", "cache"] {
        done("cp", Command::new("cp").arg("-a").arg(registry.join(name)).arg(&to))?;
    }
    Ok(())
}

/// dockerd with the images, and the one project that runs at a time.
struct Docker {
    netns: Netns,
    folder: PathBuf,
    daemon: Process,
}

static DOCKER: OnceLock<Result<Mutex<Docker>, (bool, String)>> = OnceLock::new();

/// dockerd with everything built, for the caller alone.
fn docker() -> anyhow::Result<MutexGuard<'static, Docker>> {
    let docker = DOCKER.get_or_init(|| {
        Docker::start().map(Mutex::new).map_err(|error| match error.downcast_ref::<Skip>() {
            Some(skip) => (true, skip.0.clone()),
            None => (false, format!("{error:#}")),
        })
    });
    match docker {
        Ok(docker) => Ok(docker.lock().unwrap_or_else(PoisonError::into_inner)),
        Err((true, reason)) => Err(Skip(reason.clone()).into()),
        Err((false, error)) => bail!("{error}"),
    }
}

impl Docker {
    fn start() -> anyhow::Result<Self> {
        let folder = folder()?;
        let outcome = fs::read_to_string(folder.join("outcome"))?;
        if let Some(reason) = outcome.strip_prefix("skip ") {
            return Err(Skip(reason.to_owned()).into());
        }
        ensure!(outcome.is_empty(), "{outcome}");
        let netns = Network::new("docker-").router("host")?;
        let mut dockerd = Command::new(program("dockerd", "docker.io")?);
        let data = match keeps(&folder)? {
            true => folder.join("data"),
            // In memory: the sandbox's own /run.
            false => PathBuf::from("/run/docker-data"),
        };
        dockerd.arg("--data-root").arg(data).args([
            "--exec-root=/run/docker-exec",
            "--pidfile=/run/docker.pid",
            "--host=unix:///run/docker.sock",
            // What is inside the sandbox needs no protection from outside, and has no way out.
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ]);
        let log = Path::new("/run/dockerd.log");
        let daemon = Process::spawn("dockerd", &netns, &mut dockerd, log)?;
        let mut docker = Self { netns, folder, daemon };
        let up = eventually("dockerd", PATIENCE, || {
            if let Some(status) = docker.daemon.ended() {
                return Ok(Some(status));
            }
            docker.docker(&["info"]).map(|_| None)
        })?;
        if let Some(status) = up {
            let words = docker.daemon.log_tail(5);
            return Err(Skip(format!("dockerd does not run here ({status}): {words}")).into());
        }
        docker.images()?;
        docker.compose("routelet", &["build", "node-a", "pod-a"])?;
        docker.compose("frr", &["build", "tor-frr"])?;
        Ok(docker)
    }

    /// Imports the images that the Dockerfiles begin with.
    fn images(&self) -> anyhow::Result<()> {
        let (debian, rust) = (self.folder.join("debian"), self.folder.join("rust"));
        if !debian.exists() && !rust.exists() {
            // The ones of the last run.
            self.docker(&["image", "inspect", DEBIAN, RUST])?;
            return Ok(());
        }
        self.import(&debian, DEBIAN, &[])?;
        self.import(
            &rust,
            RUST,
            &[
                "--change=ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "--change=ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true",
            ],
        )?;
        if keeps(&self.folder)? {
            fs::write(self.folder.join("stamp"), stamp()?)?;
        }
        for folder in [&debian, &rust] {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    fn import(&self, from: &Path, name: &str, changes: &[&str]) -> anyhow::Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(from).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().context("cannot run tar")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let mut import = self.command("docker")?;
        import.arg("import").args(changes).args(["-", name]).stdin(archive);
        self.netns.output(&mut import)?;
        ensure!(tar.wait()?.success(), "tar of {} failed", from.display());
        Ok(())
    }

    fn command(&self, name: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(program(name, name)?);
        command
            .current_dir(repository())
            .env("DOCKER_HOST", "unix:///run/docker.sock")
            // The builder that both generations of compose have.
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0")
            .env("COMPOSE_HTTP_TIMEOUT", "600")
            .env("HOME", "/run");
        Ok(command)
    }

    fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.netns.output(self.command("docker")?.args(arguments))
    }

    /// docker-compose with a profile.
    fn compose(&self, profile: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command("docker-compose")?;
        command
            .env("COMPOSE_PROFILES", profile)
            .env("PROFILE", PROFILE)
            .args(["--project-name", "routelet"])
            .args(arguments);
        self.netns.output(&mut command)
    }

    /// A command in a container of the project.
    fn exec(&self, service: &str, words: &str) -> anyhow::Result<String> {
        let mut arguments = vec!["exec", "-T", service];
        arguments.extend(words.split_whitespace());
        self.compose("routelet,frr", &arguments)
    }

    fn up(&self, profile: &'static str) -> anyhow::Result<Up<'_>> {
        self.compose("routelet,frr", &["down", "--volumes", "--timeout", "5"])?;
        let up = Up { docker: self, profile };
        self.compose(profile, &["up", "--detach", "--no-build"])?;
        Ok(up)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.daemon.signal(Signal::SIGTERM);
        let _ = self.daemon.wait(Duration::from_secs(15));
    }
}

/// The project while it is up.
struct Up<'a> {
    docker: &'a Docker,
    profile: &'static str,
}

impl Up<'_> {
    /// Waits until every peer of every node is Established, or shows everybody's log.
    fn established(&self) -> anyhow::Result<()> {
        for node in ["node-a", "node-b", "node-c"] {
            let result = eventually(&format!("the sessions of {node}"), PATIENCE, || {
                let peers = self.docker.exec(node, "routelet peers -o json")?;
                let peers: Vec<Value> = serde_json::from_str(&peers)?;
                let up = peers.iter().filter(|peer| peer["state"] == "Established").count();
                ensure!((up, peers.len()) == (3, 3), "{peers:#?}");
                Ok(())
            });
            self.explained(result)?;
        }
        Ok(())
    }

    /// That every pod reaches every other.
    fn pods(&self) -> anyhow::Result<()> {
        for (from, to) in [
            ("pod-a", "10.244.2.2"),
            ("pod-a", "10.244.3.2"),
            ("pod-b", "10.244.3.2"),
            ("pod-c", "10.244.1.2"),
            ("pod-c", "10.244.2.2"),
        ] {
            let result = eventually(&format!("{from} to {to}"), PATIENCE, || {
                self.docker.exec(from, &format!("ping -c 1 -W 1 {to}")).map(|_| ())
            });
            self.explained(result)?;
        }
        Ok(())
    }

    fn explained(&self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        result.map_err(|error| {
            let logs = self.docker.compose(self.profile, &["logs", "--no-color", "--tail=30"]);
            anyhow::anyhow!("{error:#}\n{}", logs.unwrap_or_default())
        })
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let _ = self.docker.compose(self.profile, &["down", "--volumes", "--timeout", "5"]);
    }
}

fn image(_: &Scene) -> anyhow::Result<()> {
    let docker = docker()?;
    let container = docker.docker(&["create", "routelet:compose"])?;
    let container = container.trim();
    let mut export = docker.command("docker")?;
    export.args(["export", container]).stdout(Stdio::piped());
    let mut export = docker.netns.spawn(&mut export)?;
    let archive = export.stdout.take().context("no output")?;
    let listing = Command::new("tar").arg("-tv").stdin(archive).output().context("tar")?;
    export.wait()?;
    docker.docker(&["rm", container])?;
    let listing = String::from_utf8(listing.stdout)?;
    // docker itself makes empty files and folders for what it mounts.
    let files: Vec<&str> = listing
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter(|line| line.split_whitespace().nth(2) != Some("0"))
        .collect();
    ensure!(
        files.len() == 1 && files[0].ends_with(" usr/local/bin/routelet"),
        "the image has\n{listing}"
    );
    let facts: Value = serde_json::from_str(&docker.docker(&["inspect", "routelet:compose"])?)?;
    let config = &facts[0]["Config"];
    ensure!(config["Entrypoint"] == serde_json::json!(["/usr/local/bin/routelet"]), "{config}");
    let help = docker.docker(&["run", "--rm", "--network=none", "routelet:compose"])?;
    ensure!(help.contains("Usage"), "{help}");
    // Readable by everybody, changeable by nobody else.
    let mode = fs::metadata(repository().join("deploy/compose/pod.sh"))?.permissions().mode();
    ensure!(mode & 0o111 == 0o111, "pod.sh cannot be run: {mode:o}");
    Ok(())
}

fn ours(_: &Scene) -> anyhow::Result<()> {
    let docker = docker()?;
    let up = docker.up("routelet")?;
    up.established()?;
    up.pods()?;
    let peers = docker.exec("node-a", "routelet peers")?;
    for words in ["node-b", "node-c", "tor", "65001", "Established"] {
        ensure!(peers.contains(words), "no {words} in\n{peers}");
    }
    // Behind another subnet through the tunnel, in the own one without.
    let node = |words: &str| docker.exec("pod-a", &format!("nsenter --net=/proc/1/ns/net {words}"));
    let routes = node("ip route show 10.244.3.0/24")? + &node("ip -d link show routelet-vxlan")?;
    ensure!(routes.contains("dev routelet-vxlan") && routes.contains("vxlan id"), "{routes}");
    let routes = node("ip route show 10.244.2.0/24")?;
    ensure!(routes.contains("via 172.31.1.12 dev eth0"), "{routes}");
    // A node that is restarted has a new network; its pod attaches itself again.
    docker.compose("routelet", &["restart", "--timeout", "5", "node-c"])?;
    docker.compose("routelet", &["up", "--detach", "--no-build"])?;
    up.established()?;
    up.pods()?;
    docker.exec("node-b", "routelet status --ready")?;
    Ok(())
}

fn frr(_: &Scene) -> anyhow::Result<()> {
    let docker = docker()?;
    let up = docker.up("frr")?;
    up.established()?;
    up.pods()?;
    let vtysh = |words| docker.compose("frr", &["exec", "-T", "tor-frr", "vtysh", "-c", words]);
    let summary = vtysh("show bgp summary")?;
    for node in ["172.31.1.11", "172.31.1.12", "172.31.2.13"] {
        ensure!(summary.contains(node), "FRR does not know {node}:\n{summary}");
    }
    let routes = vtysh("show ip route bgp")?;
    ensure!(routes.contains("10.244.3.0/24"), "FRR has no route to the pods:\n{routes}");
    Ok(())
}

//! A container runtime as far as a pod's network goes: it runs the CNI plugins of the configuration
//! that the agent wrote.
//!
//! In flow: a node, the directory of its configuration, a pod. Out flow: an attached pod with its
//! addresses, and its detachment. The plugins are run as every runtime does: in the node's network,
//! one after the other with what the one before said, and in reverse order at the end.
//!
//! What always holds: the host's `/var/lib/cni` is not touched. host-local keeps its reservations
//! there and all nodes of a lab share one file system, so each node has a folder of its own in that
//! place, in a mount namespace that only its plugins see.

use std::env;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::netns::Netns;
use super::sandbox;
use crate::cni::BIN_DIRS;

/// The pod's device.
const DEVICE: &str = "eth0";
/// Under which host-local keeps what it has given away.
const STATE: &str = "/var/lib";

/// Where the plugins that the agent's configuration names are installed on this machine, if they are.
#[must_use]
pub fn installed() -> Option<PathBuf> {
    BIN_DIRS.iter().map(PathBuf::from).find(|folder| {
        ["ptp", "bridge", "host-local", "portmap"].iter().all(|name| folder.join(name).is_file())
    })
}

/// The runtime of one node.
#[derive(Debug)]
pub struct Runtime {
    node: Netns,
    binaries: PathBuf,
    state: PathBuf,
    list: Value,
}

/// A pod with a network.
#[derive(Debug)]
pub struct Attachment {
    id: String,
    netns: Netns,
    /// Its addresses, in the order of the node's pod CIDRs by family.
    pub addresses: Vec<IpAddr>,
    /// What the last plugin said.
    result: Value,
}

impl Runtime {
    /// Takes the first configuration list of a directory. `binaries`: the plugins' folder; `state`:
    /// a folder for what they keep.
    ///
    /// # Errors
    /// There is no list, or it cannot be read.
    pub fn load(
        node: &Netns,
        directory: &Path,
        binaries: &Path,
        state: &Path,
    ) -> anyhow::Result<Self> {
        ensure!(sandbox::is_inside(), "plugins are run in a sandbox only");
        let mut lists: Vec<PathBuf> = fs::read_dir(directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"))
            .collect();
        lists.sort_unstable();
        let path = lists
            .first()
            .with_context(|| format!("no CNI configuration in {}", directory.display()))?;
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON", path.display()))?;
        fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
        Ok(Self {
            node: node.clone(),
            binaries: binaries.to_owned(),
            state: state.to_owned(),
            list,
        })
    }

    /// Gives a pod its network.
    ///
    /// # Errors
    /// A plugin fails: with what it said.
    pub fn add(&self, pod: &Netns) -> anyhow::Result<Attachment> {
        let id = pod.name().to_owned();
        let mut result = Value::Null;
        for plugin in self.plugins()? {
            result = self.call("ADD", plugin, &id, pod, &result)?;
        }
        let ips = result["ips"].as_array().context("the plugins gave no address")?;
        let addresses = ips
            .iter()
            .map(|ip| {
                let text = ip["address"].as_str().context("an address is missing")?;
                Ok(text.parse::<IpNet>().with_context(|| text.to_owned())?.addr())
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Attachment { id, netns: pod.clone(), addresses, result })
    }

    /// Takes a pod's network away and its addresses back.
    ///
    /// # Errors
    /// A plugin fails: with what it said.
    pub fn del(&self, attachment: &Attachment) -> anyhow::Result<()> {
        for plugin in self.plugins()?.iter().rev() {
            self.call("DEL", plugin, &attachment.id, &attachment.netns, &attachment.result)?;
        }
        Ok(())
    }

    fn plugins(&self) -> anyhow::Result<&Vec<Value>> {
        self.list["plugins"].as_array().context("the configuration has no plugins")
    }

    fn call(
        &self,
        verb: &str,
        plugin: &Value,
        id: &str,
        pod: &Netns,
        previous: &Value,
    ) -> anyhow::Result<Value> {
        let name = plugin["type"].as_str().context("a plugin without a type")?;
        let mut config = plugin.clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.list[key].clone();
        }
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let mut command = Command::new(self.binaries.join(name));
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", DEVICE)
            .env("CNI_PATH", &self.binaries);
        let output = self
            .run(&mut command, config.to_string().as_bytes())
            .with_context(|| format!("cannot run the CNI plugin {name}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "CNI plugin {name} {verb} of {id}: {}: {said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        if verb == "DEL" {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).with_context(|| format!("{name} said: {said}"))
    }

    /// Runs a plugin in the node's network, with the node's folder in place of the host's.
    fn run(&self, command: &mut Command, input: &[u8]) -> anyhow::Result<Output> {
        self.node.run(|| {
            // Of this thread only, which ends with this call; the child is born into it.
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            mount(Some(&self.state), STATE, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot cover {STATE}"))?;
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input).context("it does not read its configuration")?;
            }
            child.wait_with_output().context("it does not end")
        })
    }
}

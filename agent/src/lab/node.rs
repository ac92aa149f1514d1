//! A node of a lab: a namespace with the agent in it, and the same binary's commands to look at it.
//!
//! In flow: the text of a configuration. Out flow: a running `routelet run`, its log, and what its
//! commands print. The binary is a parameter: the lab runs its own, tests the one they build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::netns::Netns;
use super::process::Process;
use super::{sandbox, wait_until};

/// How long the agent may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// One node.
#[derive(Debug)]
pub struct Node {
    name: String,
    netns: Netns,
    binary: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Makes a node that does not run yet. `folder` gets its configuration, socket, state and log.
    /// The configuration's `api.socket` and `stateDir` are added, so `yaml` must not have them.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn new(
        name: &str,
        netns: &Netns,
        binary: &Path,
        folder: &Path,
        yaml: &str,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("state"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let node = Self {
            name: name.to_owned(),
            netns: netns.clone(),
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            process: None,
        };
        node.configure(yaml)?;
        Ok(node)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("node.yaml")
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("routelet.sock")
    }

    /// Writes its configuration; [`Node::reload`] or [`Node::start`] makes it true.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn configure(&self, yaml: &str) -> anyhow::Result<()> {
        let text = format!(
            "{}\napi: {{socket: {}}}\nstateDir: {}\n",
            yaml.trim_end(),
            self.socket().display(),
            self.folder.join("state").display()
        );
        // Never half a file: the agent watches it.
        let draft = self.folder.join("node.yaml.new");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, self.config_file()).context("cannot replace the configuration")
    }

    /// Starts the agent, without waiting for anything.
    ///
    /// # Errors
    /// If the binary cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let mut command = sandbox::command(&self.binary);
        command.arg("run").arg("--config").arg(self.config_file());
        let log = self.folder.join("log");
        self.process = Some(Process::spawn(&self.name, &self.netns, &mut command, &log)?);
        Ok(())
    }

    /// Stops the agent with SIGTERM, which means restart: its routes stay.
    ///
    /// # Errors
    /// If it has ended by itself, or does not end.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.take().with_context(|| format!("{} does not run", self.name))?.stop(STOP)
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends SIGHUP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn reload(&mut self) -> anyhow::Result<()> {
        self.process()?.signal(Signal::SIGHUP)
    }

    /// The running agent.
    ///
    /// # Errors
    /// If it was not started, or has been stopped.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        let name = &self.name;
        self.process.as_mut().with_context(|| format!("{name} does not run"))
    }

    /// What it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs a command of the same binary on the node and gives what it printed and its status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.cli();
        command.args(arguments);
        self.netns
            .run(|| command.output())
            .with_context(|| format!("cannot run {}", self.binary.display()))
    }

    /// Runs a command that must succeed and gives its standard output.
    ///
    /// # Errors
    /// If it fails: with what it said.
    pub fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments)?;
        if !output.status.success() {
            bail!(
                "routelet {} on {}: {}: {}",
                arguments.join(" "),
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command with `-o json` and parses what it printed.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.text(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("routelet {} printed no JSON: {text}", all.join(" ")))
    }

    /// Waits until all its peers, `count` of them, are Established.
    ///
    /// # Errors
    /// If they are not within `limit`, or the agent has ended: with their states and the end of the
    /// log.
    pub fn wait_established(&mut self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let what = format!("{count} sessions of {}", self.name);
        let result = wait_until(&what, limit, || {
            let process = self.process().map_err(|error| error.to_string())?;
            if let Some(status) = process.ended() {
                return Ok(Some(status));
            }
            let peers = self.json(&["peers"]).map_err(|error| format!("{error:#}"))?;
            let peers = peers.as_array().ok_or("peers is no array")?;
            let up = peers.iter().filter(|peer| peer["state"] == "Established").count();
            if up == count && peers.len() == count { Ok(None) } else { Err(describe(peers)) }
        });
        let words = match result {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => format!("routelet on {} has ended: {status}", self.name),
            Err(error) => format!("{error:#}"),
        };
        bail!("{words}\nthe end of its log:\n{}", super::process::tail(&self.log(), 15))
    }

    fn cli(&self) -> Command {
        let mut command = sandbox::command(&self.binary);
        command.env("ROUTELET_SOCKET", self.socket()).env("COLUMNS", "160");
        command
    }
}

fn describe(peers: &[Value]) -> String {
    let words: Vec<String> = peers
        .iter()
        .map(|peer| {
            let error = peer["lastError"].as_str().unwrap_or("no error");
            format!("{} {} ({error})", peer["name"], peer["state"])
        })
        .collect();
    words.join(", ")
}

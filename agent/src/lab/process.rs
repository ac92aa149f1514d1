//! Processes in namespaces, with a log each, that never outlive their owner.
//!
//! In flow: a command and a namespace. Out flow: a running process; its standard output and error
//! go to one file, whose end is quoted when something goes wrong.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::Netns;
use super::{now, sandbox};

/// A process; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `netns`, in a process group of its own, so that an interrupt at the
    /// terminal reaches the lab and not its parts one by one. `log` is appended to.
    ///
    /// # Errors
    /// If the program or the log file cannot be opened.
    pub fn spawn(
        name: &str,
        netns: &Netns,
        command: &mut Command,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .env_remove(sandbox::MARKER)
            .process_group(0);
        let child = netns
            .spawn(command)
            .with_context(|| format!("cannot start {name}: {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id, inside the sandbox.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} has ended already ({status}):\n{}", self.name, self.log_tail(20));
        }
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if now() >= deadline {
                bail!("{} still runs after {limit:?}:\n{}", self.name, self.log_tail(20));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGTERM and waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`; it is killed then.
    pub fn stop(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Everything it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |octets| String::from_utf8_lossy(&octets).into_owned(),
        )
    }

    /// The last lines of what it said.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

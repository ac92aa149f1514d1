//! Inside the guest: process 1, which serves names of cases, and the process of one case.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::libc::O_NOCTTY;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use routelet::lab::process::tail;
use routelet::lab::{now, sandbox};

use super::{GUEST, Outcome, PART, Report, modules};
use crate::harness::{Case, Verdict, attempt};

/// How long one case may take in the guest.
pub(super) const CASE: Duration = Duration::from_secs(120);

/// The line to the host.
const LINE: &str = "/dev/ttyS0";
/// What a case prints; on the guest's own `/run`, which the case itself does not see.
const PRINTED: &str = "/run/printed";
/// Exit codes of the process of a case.
const SKIPPED: u8 = 2;
/// Lines kept of what a failed case printed.
const KEPT: usize = 400;

/// Process 1 of the guest: serves until the host hangs up, then switches the guest off.
pub(super) fn serve() -> ExitCode {
    if let Err(error) = listen() {
        // The console; the host shows its end.
        eprintln!("the guest gives up: {error:#}");
    }
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

fn listen() -> anyhow::Result<()> {
    let flags = MsFlags::empty();
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context("/proc")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>).context("/sys")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=755")).context("/run")?;
    let lacks: Vec<String> = modules::WANTED
        .iter()
        .filter_map(|module| {
            modules::load(module).err().map(|error| format!("no {module}: {error:#}"))
        })
        .collect();
    let mut line = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NOCTTY)
        .open(LINE)
        .with_context(|| format!("cannot open {LINE}"))?;
    let mut settings = tcgetattr(&line).context("the line is no terminal")?;
    cfmakeraw(&mut settings);
    tcsetattr(&line, SetArg::TCSANOW, &settings).context("cannot set the line up")?;
    let names = BufReader::new(line.try_clone().context("cannot share the line")?);
    tell(&mut line, &Report { outcome: Outcome::Ready, text: lacks.join("; ") })?;
    for name in names.lines() {
        let name = name.context("cannot read the name of a case")?;
        let report = one(&name).unwrap_or_else(|error| Report {
            outcome: Outcome::Failed,
            text: format!("the guest cannot run it: {error:#}"),
        });
        tell(&mut line, &report)?;
    }
    Ok(())
}

fn tell(line: &mut File, report: &Report) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(report)?;
    text.push('\n');
    line.write_all(text.as_bytes()).context("the host does not listen")
}

/// Runs a case in a process of its own.
fn one(name: &str) -> anyhow::Result<Report> {
    let printed = File::create(PRINTED).context("cannot keep what it prints")?;
    let mut child = Command::new("/proc/self/exe")
        .env(PART, name)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        // The only folder that can be written to.
        .env("TMPDIR", "/run")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed)
        .process_group(0)
        .spawn()
        .context("cannot start a process")?;
    let status = within(&mut child, CASE)?;
    let text = fs::read(PRINTED).unwrap_or_default();
    let text = tail(&String::from_utf8_lossy(&text), KEPT);
    Ok(match status {
        Some(status) if status.success() => {
            Report { outcome: Outcome::Passed, text: String::new() }
        }
        Some(status) if status.code() == Some(SKIPPED.into()) => {
            Report { outcome: Outcome::Skipped, text }
        }
        Some(status) => Report { outcome: Outcome::Failed, text: format!("{status}\n{text}") },
        None => Report {
            outcome: Outcome::Failed,
            text: format!("still running after {CASE:?}\n{text}"),
        },
    })
}

fn within(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = now() + limit;
    while now() < deadline {
        if let Some(status) = child.try_wait().context("cannot wait for the case")? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its sandbox ends with it.
    child.kill().context("cannot end the case")?;
    child.wait().context("cannot wait for the case")?;
    Ok(None)
}

/// The process of a case: enters a sandbox, runs it, says what became of it.
pub(super) fn run_case(cases: &[Case], name: &str) -> ExitCode {
    if name == GUEST {
        eprintln!("{PART}={GUEST} is for process 1 of a guest only");
        return ExitCode::FAILURE;
    }
    let Some((name, test)) = cases.iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    if let Err(error) = sandbox::enter(sandbox::Control::None) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    match attempt(name, *test) {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Skipped(why) => {
            print!("{why}");
            ExitCode::from(SKIPPED)
        }
        Verdict::Failed(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

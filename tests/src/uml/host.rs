//! Outside: boots guests, gives each trial a free one, ends them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use routelet::lab::process::tail;
use routelet::lab::{now, sandbox};

use super::{GUEST, Outcome, PART, Report, guest, modules};
use crate::harness::{self, Case, Skip};

/// The program of the package.
const PROGRAM: &str = "linux.uml";
/// Memory of a guest; taken from the machine as it is used.
const MEMORY: &str = "512M";
/// How long a boot may take; it takes two seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(60);
/// How long the tier may take as a whole, far more than it needs; then what is left fails.
const TIER: Duration = Duration::from_secs(900);

/// Runs the cases, each trial in a guest.
pub(super) fn main(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A guest has one processor, and the cases that take long mostly wait.
    arguments.test_threads.get_or_insert(3);
    let skip: Option<String> =
        if arguments.list { None } else { usable().err().map(|error| format!("{error:#}")) };
    let tier = Arc::new(Tier::new());
    let trials = cases
        .iter()
        .map(|(name, _)| {
            let (name, tier, skip) = (*name, Arc::clone(&tier), skip.clone());
            Trial::ignorable_test(name, move || match skip {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => tier.run(name),
            })
        })
        .collect();
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    tier.tell();
    code
}

/// That guests can be booted here: the package, and a sandbox to end them by.
fn usable() -> anyhow::Result<()> {
    harness::program(PROGRAM, "user-mode-linux")?;
    if !Path::new(modules::FOLDER).is_dir() {
        return Err(Skip(format!("no {}: apt-get install user-mode-linux", modules::FOLDER)).into());
    }
    sandbox::enter(sandbox::Control::None)
}

/// The guests of this run.
struct Tier {
    began: Instant,
    free: Mutex<Vec<Guest>>,
    boots: AtomicUsize,
    /// How long each case took, boots left out.
    took: Mutex<Vec<(Duration, String)>>,
}

impl Tier {
    fn new() -> Self {
        Self {
            began: now(),
            free: Mutex::default(),
            boots: AtomicUsize::new(0),
            took: Mutex::default(),
        }
    }

    /// Where the time went.
    fn tell(&self) {
        let mut took = std::mem::take(&mut *lock(&self.took));
        if took.is_empty() {
            return;
        }
        took.sort();
        let slowest: Vec<String> = took
            .iter()
            .rev()
            .take(5)
            .map(|(time, name)| format!("{name} {:.1} s", time.as_secs_f32()))
            .collect();
        println!(
            "guests: {}, {:.1} s in all; slowest: {}\n",
            self.boots.load(Ordering::Relaxed),
            (now() - self.began).as_secs_f32(),
            slowest.join(", ")
        );
    }

    fn run(&self, name: &str) -> Result<Completion, Failed> {
        let report = self.ask(name).map_err(|error| format!("{error:#}"))?;
        match report.outcome {
            Outcome::Passed => Ok(Completion::Completed),
            Outcome::Skipped => Ok(Completion::ignored_with(report.text)),
            Outcome::Failed | Outcome::Ready => Err(report.text.into()),
        }
    }

    fn ask(&self, name: &str) -> anyhow::Result<Report> {
        ensure!(now() - self.began < TIER, "the tier's time, {TIER:?}, is used up");
        let free = lock(&self.free).pop();
        let mut guest = match free {
            Some(guest) => guest,
            None => Guest::boot(self.boots.fetch_add(1, Ordering::Relaxed))?,
        };
        // A guest that does not answer is not asked again: it ends here.
        let asked = now();
        let report = guest.run(name)?;
        lock(&self.took).push((now() - asked, name.to_owned()));
        lock(&self.free).push(guest);
        Ok(report)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running guest.
#[derive(Debug)]
struct Guest {
    child: Child,
    line: UnixStream,
    answers: BufReader<UnixStream>,
    console: PathBuf,
}

impl Guest {
    /// Boots one and waits until it is ready.
    fn boot(number: usize) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/run/guests/{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let console = folder.join("console");
        let log = File::create(&console).context("cannot keep what the console says")?;
        let (line, theirs) = UnixStream::pair().context("cannot make a line to the guest")?;
        let program = std::env::current_exe().context("cannot find the test binary")?;
        let child = Command::new(harness::program(PROGRAM, "user-mode-linux")?)
            .arg(format!("mem={MEMORY}"))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
            .arg(format!("init={}", program.display()))
            // Standard input is the line: a guest must never get hold of the terminal.
            .args(["con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:0"])
            .arg(format!("uml_dir={}/", folder.display()))
            .arg("umid=guest")
            .arg(format!("{PART}={GUEST}"))
            .arg(format!("ROUTELET_BIN={}", harness::routelet()?.display()))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &folder)
            // Its memory is a file there: of our own tmpfs, not of a small /dev/shm.
            .env("TMPDIR", &folder)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(log.try_clone().context("cannot share the console")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start user-mode Linux")?;
        let answers = BufReader::new(line.try_clone().context("cannot share the line")?);
        let mut guest = Self { child, line, answers, console };
        let report = guest.answer(BOOT).context("the guest does not boot")?;
        ensure!(report.outcome == Outcome::Ready, "the guest begins with {report:?}");
        Ok(guest)
    }

    fn run(&mut self, name: &str) -> anyhow::Result<Report> {
        self.line.write_all(format!("{name}\n").as_bytes()).context("the guest is gone")?;
        // The guest itself sees to the limit; this is for a guest that does not.
        self.answer(guest::CASE + BOOT)
    }

    fn answer(&mut self, limit: Duration) -> anyhow::Result<Report> {
        self.line.set_read_timeout(Some(limit)).context("cannot set a limit")?;
        let mut text = String::new();
        let result = self.answers.read_line(&mut text);
        let console = || {
            let text = fs::read(&self.console).unwrap_or_default();
            format!("the end of its console:\n{}", tail(&String::from_utf8_lossy(&text), 60))
        };
        match result {
            Ok(0) => bail!("the guest has ended; {}", console()),
            Ok(_) => serde_json::from_str(&text)
                .with_context(|| format!("the guest says {text:?}; {}", console())),
            Err(error) => bail!("no answer within {limit:?} ({error}); {}", console()),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // All its processes are in its own process group.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

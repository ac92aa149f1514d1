//! A sandbox: this program once more, as the first process of namespaces of its own.
//!
//! In flow: nothing but the privileges of whoever starts it: root, or an ordinary user where user
//! namespaces are allowed. Out flow: a process that is root over its own mounts, processes and
//! networks, with an empty `/run`.
//!
//! What always holds: the outside is never changed. Everything inside (processes, network
//! namespaces, mounts, files under `/run`) is kept alive by the first process of the sandbox alone
//! and ends with it, and that process is killed by the kernel when the one that waits for it ends,
//! however it ends. So an interrupt, a panic or `kill -9` leaves nothing behind.
//!
//! ```text
//!  outside:  program ── waits ──► exit code
//!               │ unshare (user), mount, pid
//!  inside:      └─ the same program, pid 1, network of its own, tmpfs on /run ── agents, routers, pings
//! ```

use std::env;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, getegid, geteuid, getpid};

use super::netns;

/// Set in the environment of the process inside, taken out of that of its children.
pub const MARKER: &str = "ROUTELET_SANDBOX";

/// How often the outer process looks around.
const TICK: Duration = Duration::from_millis(10);

/// What a sandbox offers to the outside while it runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Control {
    /// Nothing.
    None,
    /// [`find`] finds it and [`take_down`] ends it. Only one such sandbox per user.
    Listen,
}

/// A sandbox that runs, seen from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Running {
    /// Process id of its first process, as the outside counts.
    pub pid: i32,
}

static INSIDE: AtomicBool = AtomicBool::new(false);
static OUTER_PID: AtomicI32 = AtomicI32::new(0);

/// Whether this process is the first of a sandbox.
#[must_use]
pub fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// Process id of the first process of this sandbox as the outside counts, for `nsenter`.
#[must_use]
pub fn outer_pid() -> i32 {
    OUTER_PID.load(Ordering::Relaxed)
}

/// Continues inside a new sandbox. Returns in the process inside only; the outer one waits, and
/// exits with the code of the inner one.
///
/// To be called before the process has started a thread: an ordinary user cannot make a user
/// namespace otherwise.
///
/// # Errors
/// If namespaces cannot be made, with what to do about it.
pub fn enter(control: Control) -> anyhow::Result<()> {
    if env::var_os(MARKER).is_some() && getpid() == Pid::from_raw(1) {
        settle()?;
        INSIDE.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let listener = match control {
        Control::None => None,
        Control::Listen => Some(listen()?),
    };
    separate()?;
    let child = Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .env(MARKER, "1")
        .spawn()
        .context("cannot start the process inside the sandbox")?;
    std::process::exit(supervise(child, listener)?)
}

/// Finds the sandbox of this user that listens, if there is one.
///
/// # Errors
/// If it does not answer as a sandbox should.
pub fn find() -> anyhow::Result<Option<Running>> {
    let Some(mut stream) = dial()? else { return Ok(None) };
    let answer = talk(&mut stream, "pid")?;
    let pid = answer.trim().parse().context("the sandbox gave no process id")?;
    Ok(Some(Running { pid }))
}

/// Ends the sandbox of this user that listens, and waits until it is gone. `false` if there is none.
///
/// # Errors
/// If it does not answer.
pub fn take_down() -> anyhow::Result<bool> {
    let Some(mut stream) = dial()? else { return Ok(false) };
    talk(&mut stream, "down")?;
    Ok(true)
}

/// Puts the calling process into the user and mount namespaces of a sandbox, so that its `/run` and
/// its network namespaces can be reached.
///
/// # Errors
/// If this user may not.
pub fn join(running: Running) -> anyhow::Result<()> {
    let root = format!("/proc/{}/ns", running.pid);
    for (name, flag) in [("user", CloneFlags::CLONE_NEWUSER), ("mnt", CloneFlags::CLONE_NEWNS)] {
        let theirs = fs::File::open(format!("{root}/{name}"))
            .with_context(|| format!("cannot open {root}/{name}: try as root"))?;
        if fs::read_link(format!("/proc/self/ns/{name}"))?
            != fs::read_link(format!("{root}/{name}"))?
        {
            nix::sched::setns(theirs, flag)
                .with_context(|| format!("cannot enter {root}/{name}: try as root"))?;
        }
    }
    Ok(())
}

/// Leaves the namespaces of the caller: mounts and process ids, and users where we are not root.
fn separate() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let wanted = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if uid.is_root() {
        match unshare(wanted) {
            Ok(()) => return Ok(()),
            // Root of a container without SYS_ADMIN may still make a user namespace.
            Err(Errno::EPERM) => {}
            Err(error) => return Err(error).context("cannot make namespaces"),
        }
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| match error {
        Errno::EINVAL => anyhow::anyhow!("a user namespace needs a process without threads"),
        error => anyhow::anyhow!(
            "cannot make a user namespace ({error}): run as root, or allow it \
             (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
        ),
    })?;
    fs::write("/proc/self/setgroups", "deny").context("cannot write /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("cannot write uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot write gid_map")?;
    unshare(wanted).context("cannot make mount and process namespaces")
}

/// First steps inside: end with the outer process, private mounts, an empty `/run`, own network.
fn settle() -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .context("cannot tie the sandbox to its parent")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("cannot mount an empty /run")?;
    if let Ok(Ok(pid)) = fs::read_link("/proc/self").map(|link| link.display().to_string().parse())
    {
        OUTER_PID.store(pid, Ordering::Relaxed);
    }
    // Where an outer container masks /proc this is refused; then process ids in it are the outer ones.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>);
    fs::create_dir_all(netns::DIRECTORY).context("cannot make the folder of namespaces")?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    netns::loopback_up().context("cannot set lo up")
}

/// Waits for the process inside, passes an interrupt on as its end, answers on the control socket.
/// One thread does it all: after the change of the process namespace the kernel allows no other.
fn supervise(mut child: Child, listener: Option<UnixListener>) -> anyhow::Result<i32> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let interrupts = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot wait for signals")?;
    let pid = i32::try_from(child.id()).context("process id")?;
    // Whoever asked for the end hears of it when this process ends, which is when all is gone.
    let mut waiting = Vec::new();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the sandbox")? {
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if let Ok(Some(interrupt)) = interrupts.read_signal() {
            // Processes, namespaces and mounts inside all end with their first process.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(128 + i32::try_from(interrupt.ssi_signo).unwrap_or(0));
        }
        if let Some(listener) = &listener
            && let Ok((stream, _)) = listener.accept()
            && let Some(stream) = answer(stream, pid)
        {
            let _ = child.kill();
            waiting.push(stream);
        }
        std::thread::sleep(TICK);
    }
}

/// Serves a connection of the control socket: one word in, one line out. Gives it back if the word
/// was to end.
fn answer(mut stream: UnixStream, pid: i32) -> Option<UnixStream> {
    use io::{Read, Write};
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    // Seen from inside our user namespace, where there is one, its owner is 0 as we are.
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return None;
    }
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut word = [0; 8];
    let length = stream.read(&mut word).ok()?;
    match &word[..length] {
        b"pid" => {
            let _ = writeln!(stream, "{pid}");
            None
        }
        b"down" => Some(stream),
        _ => None,
    }
}

fn listen() -> anyhow::Result<UnixListener> {
    let listener =
        UnixListener::bind_addr(&control_address()?).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                anyhow::anyhow!("a lab of yours is already up: `routelet lab --down` takes it down")
            }
            _ => anyhow::Error::new(error).context("cannot open the lab's control socket"),
        })?;
    listener.set_nonblocking(true).context("cannot set the lab's control socket up")?;
    Ok(listener)
}

fn dial() -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect_addr(&control_address()?) {
        Ok(stream) => {
            let peer = getsockopt(&stream, PeerCredentials).context("no credentials of the lab")?;
            if peer.uid() != geteuid().as_raw() && peer.uid() != 0 {
                bail!("the lab's control socket belongs to user {}", peer.uid());
            }
            Ok(Some(stream))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error).context("cannot reach the lab's control socket"),
    }
}

fn talk(stream: &mut UnixStream, word: &str) -> anyhow::Result<String> {
    use io::{Read, Write};
    stream.write_all(word.as_bytes()).context("the lab does not listen")?;
    stream.shutdown(std::net::Shutdown::Write).context("the lab does not listen")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the lab does not answer")?;
    Ok(answer)
}

/// An abstract address: it vanishes with the process, whatever happens.
fn control_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from_abstract_name(format!("routelet-lab-{}", geteuid()))?)
}

/// A command of our own that does not take itself for the inside of a new sandbox.
#[must_use]
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_remove(MARKER);
    command
}

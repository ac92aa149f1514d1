//! The few system calls of the tests that the standard library does not have: epoll, a
//! network namespace for this process, another process's CPU clock, death with the parent, TCP MD5.
//!
//! The only file of the tests that uses `unsafe`; every function is safe to call.
#![allow(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// What a descriptor is ready for, with the token it was registered under.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
}

/// A level-triggered epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: epoll_create1 has just returned this descriptor, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 512] })
    }

    /// Watches `fd` for octets to read, and for room to write when `writable`.
    pub fn add(&self, fd: RawFd, token: usize, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, writable)
    }

    /// Changes what `fd`, added before, is watched for.
    pub fn modify(&self, fd: RawFd, token: usize, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, writable)
    }

    /// Waits up to `timeout` (rounded up to a millisecond) and appends what is ready to `ready`.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let room = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` events into a buffer of that many.
        let count = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout)
        };
        let count = match check(count) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        ready.extend(self.events[..count].iter().map(|event| {
            let bits = event.events;
            let failed = bits & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            Ready {
                token: event.u64 as usize,
                readable: failed || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) as u32 != 0,
                writable: failed || bits & libc::EPOLLOUT as u32 != 0,
            }
        }));
        Ok(())
    }

    fn control(&self, operation: i32, fd: RawFd, token: usize, writable: bool) -> io::Result<()> {
        let out = if writable { libc::EPOLLOUT } else { 0 };
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | out) as u32, u64: token as u64 };
        // SAFETY: `event` lives for the call; the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }
}

/// Moves this process into a new, empty network namespace. Call it before any other thread is
/// started: only the calling thread and what it starts from now on are moved.
pub fn enter_new_network_namespace() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// CPU time used by all the threads of process `pid`, ended ones included (nanosecond precision).
pub fn process_cpu(pid: u32) -> io::Result<Duration> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut clock = 0;
    // SAFETY: writes one clock id into a local.
    let code = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    read_clock(clock)
}

/// CPU time used by this process.
pub fn own_cpu() -> io::Result<Duration> {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Makes the kernel end the child when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(|_| ()));
    }
}

/// Lets the child run on the first core only.
pub fn bind_to_first_core(command: &mut Command) {
    // SAFETY: the set is a plain bit field; sched_setaffinity is async-signal-safe and reads it only.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut cores);
        command.pre_exec(move || {
            check(libc::sched_setaffinity(0, size_of_val(&cores), &cores)).map(|_| ())
        });
    }
}

/// Sets the TCP MD5 key (RFC 2385) that a socket uses with `peer`. An IPv4 socket that has none yet.
pub fn set_md5_key(socket: &impl AsRawFd, peer: Ipv4Addr, key: &[u8]) -> io::Result<()> {
    /// `struct tcp_md5sig`: the address as a sockaddr_storage, flags, prefix length, length of the
    /// key, interface, key.
    const SIZE: usize = 128 + 1 + 1 + 2 + 4 + 80;
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let length = u16::try_from(key.len()).map_err(|_| invalid())?;
    let mut option = [0u8; SIZE];
    let family = libc::sa_family_t::try_from(libc::AF_INET).map_err(|_| invalid())?;
    option[..2].copy_from_slice(&family.to_ne_bytes());
    option[4..8].copy_from_slice(&peer.octets());
    option[130..132].copy_from_slice(&length.to_ne_bytes());
    option.get_mut(136..136 + key.len()).ok_or_else(invalid)?.copy_from_slice(key);
    // SAFETY: the kernel reads SIZE octets of a local.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            option.as_ptr().cast(),
            SIZE as libc::socklen_t,
        )
    };
    check(code).map(drop)
}

/// Asks a process of ours to end.
pub fn terminate(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: no pointers; `pid` is a child that has not been waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec into a local.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn check(code: i32) -> io::Result<i32> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

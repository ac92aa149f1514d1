//! Whether the node forwards at all.
//!
//! In flow: which families have pods here. Out flow: problems in words, each with its fix; the
//! settings are made where that is allowed: below /proc/sys, or, where that is read-only as in most
//! containers, IPv4 forwarding interface by interface through netlink, which takes NET_ADMIN alone. The
//! kernel has no such way for IPv6. The manager asks again at each notification of a changed setting or
//! a new interface.
//!
//! What always holds: a node that learns its IPv6 default route from router advertisements keeps
//! it: the kernel stops listening to them on an interface that forwards, unless told otherwise.

use std::io;
use std::path::{Path, PathBuf};

use super::{kind, query};
use crate::netlink::BatchOutcome;
use crate::netlink::wire::{MessageWriter, NLM_F_REQUEST};

/// What was found and done.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Outcome {
    /// In words, each with its fix.
    pub problems: Vec<String>,
    /// Something was off and is on now; whoever switched it off may do so again.
    pub changed: bool,
}

/// Sees to it that the families in use are forwarded. `advertised_defaults`: interfaces with an
/// IPv6 default route from router advertisements.
pub(super) fn ensure(ipv4: bool, ipv6: bool, advertised_defaults: &[String]) -> Outcome {
    // A container sees its own /proc/sys read-only; the DaemonSet mounts the host's beside it. Both
    // are about the network namespace of the process that looks.
    let mounted = Path::new(super::MOUNTED_SYSCTLS);
    let root = if mounted.is_dir() { mounted } else { Path::new("/proc/sys/net") };
    ensure_under(root, ipv4, ipv6, advertised_defaults, forward_link)
}

fn ensure_under(
    root: &Path,
    ipv4: bool,
    ipv6: bool,
    advertised_defaults: &[String],
    forward_link: impl FnMut(&str) -> Result<(), String>,
) -> Outcome {
    let mut outcome = Outcome::default();
    if ipv4 {
        let path = root.join("ipv4/ip_forward");
        match switch_on(&path, "IPv4", "net.ipv4.ip_forward") {
            Ok(changed) => outcome.changed |= changed,
            Err(problem) => match each_link(root, forward_link) {
                Ok(changed) => outcome.changed |= changed > 0,
                Err(why) => outcome.problems.push(format!("{problem}{why}")),
            },
        }
    }
    if ipv6 {
        let path = root.join("ipv6/conf/all/forwarding");
        if !is_on(&path).unwrap_or(false) {
            for link in advertised_defaults {
                keep_listening(root.join("ipv6/conf").join(link).join("accept_ra"), link);
            }
        }
        match switch_on(&path, "IPv6", "net.ipv6.conf.all.forwarding") {
            Ok(changed) => outcome.changed |= changed,
            Err(problem) => outcome.problems.push(problem),
        }
    }
    outcome
}

/// Whether it had to be switched on, or the problem.
fn switch_on(path: &Path, family: &str, name: &str) -> Result<bool, String> {
    match is_on(path) {
        Ok(true) => Ok(false),
        Ok(false) => match std::fs::write(path, "1") {
            Ok(()) => {
                tracing::info!("{family} forwarding was off and is on now");
                Ok(true)
            }
            Err(error) => Err(format!(
                "{family} forwarding is off and cannot be switched on from here ({error}): \
                 run `sysctl -w {name}=1` on the host"
            )),
        },
        Err(error) => Err(format!(
            "{family} forwarding cannot be checked ({}: {error}): make sure that `sysctl {name}` \
             says 1 on the host",
            path.display()
        )),
    }
}

fn is_on(path: &Path) -> io::Result<bool> {
    Ok(std::fs::read_to_string(path)?.trim() != "0")
}

/// Switches IPv4 forwarding on at each interface where it is off; says at how many it was.
fn each_link(
    root: &Path,
    mut forward_link: impl FnMut(&str) -> Result<(), String>,
) -> Result<usize, String> {
    let folder = root.join("ipv4/conf");
    let links = std::fs::read_dir(folder).map_err(|_| String::new())?;
    let mut changed = 0;
    for link in links.flatten() {
        let name = link.file_name().to_string_lossy().into_owned();
        // The first two are no interfaces, and nothing is forwarded that came by the third.
        let passed_over = ["all", "default", "lo"].contains(&name.as_str());
        if passed_over || is_on(&link.path().join("forwarding")).unwrap_or(true) {
            continue;
        }
        forward_link(&name).map_err(|error| format!("; at {name} alone: {error}"))?;
        tracing::info!(link = name, "IPv4 forwarding was off and is on now, at this interface");
        changed += 1;
    }
    Ok(changed)
}

/// The same as writing `net.ipv4.conf.LINK.forwarding`, through netlink.
fn forward_link(link: &str) -> Result<(), String> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET_CONF: u16 = 1;
    const IPV4_DEVCONF_FORWARDING: u16 = 1;
    let index = nix::net::if_::if_nametoindex(link).map_err(|error| error.to_string())?;
    let inet = u16::try_from(libc::AF_INET).expect("invariant: families are small");
    let mut socket = query::open().map_err(|error| error.to_string())?;
    let outcome = socket.batch(1, |_, out, (flags, sequence)| {
        let mut writer =
            MessageWriter::new(out, kind::RTM_SETLINK, NLM_F_REQUEST | flags, sequence);
        // ifinfomsg: family and type unspecified, no flags to change.
        writer.octets(&[0; 4]);
        writer.octets(&index.to_ne_bytes());
        writer.octets(&[0; 8]);
        writer.nested(IFLA_AF_SPEC, |writer| {
            writer.nested(inet, |writer| {
                writer.nested(IFLA_INET_CONF, |writer| {
                    writer.attribute_u32(IPV4_DEVCONF_FORWARDING, 1);
                });
            });
        });
        writer.finish();
    });
    match outcome {
        BatchOutcome::Answered(failures) => match failures.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error.to_string()),
        },
        BatchOutcome::Lost(why) => Err(why),
    }
}

/// 2: router advertisements are heard although the interface forwards.
fn keep_listening(path: PathBuf, link: &str) {
    let listens = std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1");
    if listens && std::fs::write(&path, "2").is_ok() {
        tracing::info!(link, "router advertisements are still heard (accept_ra=2)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensured(root: &Path, ipv4: bool, ipv6: bool, defaults: &[String]) -> Outcome {
        ensure_under(root, ipv4, ipv6, defaults, |link| panic!("{link} is not to be touched"))
    }

    fn sysctls(ipv4: &str, ipv6: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["ipv4", "ipv6/conf/all", "ipv6/conf/eth0"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join("ipv4/ip_forward"), ipv4).unwrap();
        std::fs::write(root.path().join("ipv6/conf/all/forwarding"), ipv6).unwrap();
        std::fs::write(root.path().join("ipv6/conf/eth0/accept_ra"), "1\n").unwrap();
        root
    }

    fn read(root: &tempfile::TempDir, path: &str) -> String {
        std::fs::read_to_string(root.path().join(path)).unwrap()
    }

    #[test]
    fn only_the_families_in_use_are_switched_on() {
        let root = sysctls("0\n", "0\n");
        let done = Outcome { problems: Vec::new(), changed: true };
        assert_eq!(ensured(root.path(), true, false, &[]), done);
        assert_eq!(ensured(root.path(), true, false, &[]), Outcome::default());
        assert_eq!(read(&root, "ipv4/ip_forward"), "1");
        assert_eq!(read(&root, "ipv6/conf/all/forwarding"), "0\n");
    }

    #[test]
    fn router_advertisements_are_still_heard() {
        let root = sysctls("1\n", "0\n");
        assert!(ensured(root.path(), true, true, &["eth0".to_owned()]).problems.is_empty());
        assert_eq!(read(&root, "ipv6/conf/all/forwarding"), "1");
        assert_eq!(read(&root, "ipv6/conf/eth0/accept_ra"), "2");
    }

    #[test]
    fn what_cannot_be_done_names_the_fix() {
        let root = tempfile::tempdir().unwrap();
        let problems = ensured(root.path(), true, true, &[]).problems;
        assert!(problems[0].contains("net.ipv4.ip_forward"), "{problems:?}");
        assert!(problems[1].contains("net.ipv6.conf.all.forwarding"), "{problems:?}");
    }

    #[test]
    fn where_nothing_can_be_written_each_link_is_switched_on() {
        let root = sysctls("0\n", "1\n");
        for (link, forwards) in [("all", "0"), ("lo", "0"), ("eth0", "0"), ("eth1", "1")] {
            let folder = root.path().join("ipv4/conf").join(link);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("forwarding"), forwards).unwrap();
        }
        // Root may write whatever the mode says; what is no file cannot be written by anybody.
        std::fs::remove_file(root.path().join("ipv4/ip_forward")).unwrap();
        std::fs::create_dir(root.path().join("ipv4/ip_forward")).unwrap();
        let mut touched = Vec::new();
        let outcome = ensure_under(root.path(), true, true, &[], |link| {
            touched.push(link.to_owned());
            Ok(())
        });
        assert_eq!((touched, outcome.changed), (vec!["eth0".to_owned()], true));
        assert!(outcome.problems.is_empty(), "{outcome:?}");
        let refused = |_: &str| Err("not permitted".to_owned());
        let problems = ensure_under(root.path(), true, true, &[], refused).problems;
        assert!(problems[0].contains("at eth0 alone: not permitted"), "{problems:?}");
    }
}

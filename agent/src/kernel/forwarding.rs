//! Whether the node forwards at all.
//!
//! In flow: which families have pods here. Out flow: problems in words, each with its fix; the
//! settings are made where that is allowed.
//!
//! What always holds: a node that learns its IPv6 default route from router advertisements keeps
//! it: the kernel stops listening to them on an interface that forwards, unless told otherwise.

use std::io;
use std::path::{Path, PathBuf};

/// Sees to it that the families in use are forwarded. `advertised_defaults`: interfaces with an
/// IPv6 default route from router advertisements.
pub(super) fn ensure(ipv4: bool, ipv6: bool, advertised_defaults: &[String]) -> Vec<String> {
    ensure_under(Path::new("/proc/sys/net"), ipv4, ipv6, advertised_defaults)
}

fn ensure_under(
    root: &Path,
    ipv4: bool,
    ipv6: bool,
    advertised_defaults: &[String],
) -> Vec<String> {
    let mut problems = Vec::new();
    if ipv4 {
        problems.extend(switch_on(&root.join("ipv4/ip_forward"), "IPv4", "net.ipv4.ip_forward"));
    }
    if ipv6 {
        let path = root.join("ipv6/conf/all/forwarding");
        if !is_on(&path).unwrap_or(false) {
            for link in advertised_defaults {
                keep_listening(root.join("ipv6/conf").join(link).join("accept_ra"), link);
            }
        }
        problems.extend(switch_on(&path, "IPv6", "net.ipv6.conf.all.forwarding"));
    }
    problems
}

fn switch_on(path: &Path, family: &str, name: &str) -> Option<String> {
    match is_on(path) {
        Ok(true) => None,
        Ok(false) => match std::fs::write(path, "1") {
            Ok(()) => {
                tracing::info!("{family} forwarding was off and is on now");
                None
            }
            Err(error) => Some(format!(
                "{family} forwarding is off and cannot be switched on from here ({error}): \
                 run `sysctl -w {name}=1` on the host"
            )),
        },
        Err(error) => Some(format!(
            "{family} forwarding cannot be checked ({}: {error}): make sure that `sysctl {name}` \
             says 1 on the host",
            path.display()
        )),
    }
}

fn is_on(path: &Path) -> io::Result<bool> {
    Ok(std::fs::read_to_string(path)?.trim() != "0")
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
        assert!(ensure_under(root.path(), true, false, &[]).is_empty());
        assert_eq!(read(&root, "ipv4/ip_forward"), "1");
        assert_eq!(read(&root, "ipv6/conf/all/forwarding"), "0\n");
    }

    #[test]
    fn router_advertisements_are_still_heard() {
        let root = sysctls("1\n", "0\n");
        assert!(ensure_under(root.path(), true, true, &["eth0".to_owned()]).is_empty());
        assert_eq!(read(&root, "ipv6/conf/all/forwarding"), "1");
        assert_eq!(read(&root, "ipv6/conf/eth0/accept_ra"), "2");
    }

    #[test]
    fn what_cannot_be_done_names_the_fix() {
        let root = tempfile::tempdir().unwrap();
        let problems = ensure_under(root.path(), true, true, &[]);
        assert!(problems[0].contains("net.ipv4.ip_forward"), "{problems:?}");
        assert!(problems[1].contains("net.ipv6.conf.all.forwarding"), "{problems:?}");
    }
}

//! Loads modules into the guest's kernel, those first that they depend on, without `modprobe`.
//!
//! In flow: names, and `modules.dep` of the package. Out flow: modules in the kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

/// Where the package keeps them, in a folder per kernel version.
pub(super) const FOLDER: &str = "/usr/lib/uml/modules";

/// What cases may use. IPv6 and the bridge first: the others are found with or without them.
pub(super) const WANTED: &[&str] = &[
    "ipv6",
    "bridge",
    "veth",
    "dummy",
    "ipip",
    "vxlan",
    "sch_netem",
    "iptable_filter",
    "iptable_nat",
    "xt_tcpudp",
    "xt_nat",
    "xt_MASQUERADE",
    "xt_comment",
];

/// Loads a module and everything it depends on.
///
/// # Errors
/// If the package has no such module, or the kernel refuses it.
pub(super) fn load(module: &str) -> anyhow::Result<()> {
    if super::loaded(module) || is_builtin(module) {
        return Ok(());
    }
    let folder = folder()?;
    let text = fs::read_to_string(folder.join("modules.dep")).context("cannot read modules.dep")?;
    let files = files(&text, module).context("it is not in modules.dep")?;
    for name in files {
        let file = File::open(folder.join(name)).with_context(|| format!("cannot open {name}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("the kernel refuses {name}")),
        }
    }
    Ok(())
}

/// Takes a module out of the kernel, and its devices with it.
///
/// # Errors
/// If another one needs it.
pub(super) fn unload(module: &str) -> anyhow::Result<()> {
    let name = std::ffi::CString::new(module).context("a module's name")?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
        .with_context(|| format!("cannot unload {module}"))
}

/// Whether the kernel has it without loading anything.
pub(super) fn is_builtin(module: &str) -> bool {
    let text = folder().and_then(|folder| Ok(fs::read_to_string(folder.join("modules.builtin"))?));
    text.is_ok_and(|text| text.lines().any(|line| stem(line) == module))
}

/// The folder of the running kernel.
fn folder() -> anyhow::Result<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("no kernel version")?;
    Ok(Path::new(FOLDER).join(release.trim()))
}

/// The files to load for a module, in this order, from the text of `modules.dep`: each line is a
/// file and those it depends on, the deepest last.
fn files<'a>(text: &'a str, module: &str) -> Option<Vec<&'a str>> {
    let (file, needed) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _)| stem(file) == module)?;
    Some(needed.split_whitespace().rev().chain([file]).collect())
}

/// A module's name from its file: without folder and `.ko`, and with `_` for `-` as the kernel has it.
fn stem(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::files;

    #[test]
    fn what_a_module_depends_on_comes_first() {
        let text = "kernel/net/ipv4/ip_tunnel.ko:\n\
                    kernel/net/ipv4/ipip.ko: kernel/net/ipv4/tunnel4.ko kernel/net/ipv4/ip_tunnel.ko\n\
                    kernel/net/can/can-raw.ko: kernel/net/can/can.ko\n";
        assert_eq!(
            files(text, "ipip").unwrap(),
            [
                "kernel/net/ipv4/ip_tunnel.ko",
                "kernel/net/ipv4/tunnel4.ko",
                "kernel/net/ipv4/ipip.ko"
            ]
        );
        assert_eq!(
            files(text, "can_raw").unwrap(),
            ["kernel/net/can/can.ko", "kernel/net/can/can-raw.ko"]
        );
        assert_eq!(files(text, "ip"), None);
    }
}

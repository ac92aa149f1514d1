//! Whether the plugins are installed where the runtime looks.
//!
//! An agent in a container does not see the host's folders unless they are mounted: then nothing can
//! be said, and the runtime's own error will have to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whether this process runs in a container.
pub(super) fn in_container() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
}

/// What is missing of `wanted`, in words with the fix. `contained`: in a container, where folders that
/// are not there say nothing.
pub(super) fn missing(folders: &[PathBuf], wanted: &[String], contained: bool) -> Option<String> {
    if contained && !folders.iter().any(|folder| folder.is_dir()) {
        return None;
    }
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|name| !folders.iter().any(|folder| is_program(&folder.join(name))))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let (word, verb) = if missing.len() == 1 { ("plugin", "is") } else { ("plugins", "are") };
    Some(format!(
        "the CNI {word} {} {verb} not in {}: install them (Debian: apt-get install \
         containernetworking-plugins), or name their folder in cni.binDirs",
        missing.join(", "),
        if folders.is_empty() {
            "any folder, as cni.binDirs is empty".to_owned()
        } else {
            folders.join(" or ")
        },
    ))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing_and_where() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [here.path().to_owned(), there.path().to_owned()];
        let wanted = ["ptp", "host-local", "portmap"].map(str::to_owned);
        for (folder, name, mode) in
            [(&here, "ptp", 0o755), (&there, "host-local", 0o755), (&here, "portmap", 0o644)]
        {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let words = missing(&folders, &wanted, true).unwrap();
        assert!(words.contains("plugin portmap is not in"), "{words}");
        let portmap = here.path().join("portmap");
        fs::set_permissions(portmap, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(missing(&folders, &wanted, false), None);
    }

    #[test]
    fn folders_that_a_container_does_not_see_say_nothing() {
        let folders = [PathBuf::from("/nowhere/cni")];
        let wanted = ["ptp".to_owned()];
        assert_eq!(missing(&folders, &wanted, true), None);
        assert!(missing(&folders, &wanted, false).is_some());
    }
}

//! Lives of the process: whether the one that begins follows another on the same running machine.
//!
//! In flow: the path of the API socket, beside which a file stays for as long as the machine runs.
//! Out flow: yes or no, which becomes the R bit of the OPENs (RFC 4724 §3).
//!
//! The file holds the kernel's boot id: after a reboot nothing that was installed is left, wherever
//! the file was kept. It is taken away by a stop that withdraws. A file that cannot be written costs
//! a bit in an OPEN and is no reason not to run; where there is a kernel, the routes found in it say
//! the same.

use std::fs;
use std::path::{Path, PathBuf};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The life that has begun.
#[derive(Debug)]
pub struct Life {
    path: PathBuf,
    /// Another came before it.
    pub follows: bool,
}

impl Life {
    /// Begins a life of the daemon that serves `socket`, and leaves the mark of it.
    #[must_use]
    pub fn begin(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(".life");
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self::begin_at(PathBuf::from(path), boot.trim())
    }

    fn begin_at(path: PathBuf, boot: &str) -> Self {
        let before = fs::read_to_string(&path).unwrap_or_default();
        let follows = !boot.is_empty() && before.trim() == boot;
        if !follows && let Err(error) = fs::write(&path, format!("{boot}\n")) {
            tracing::debug!(path = %path.display(), %error, "cannot leave a mark of this life");
        }
        Self { path, follows }
    }

    /// Ends it for good: what follows starts anew.
    pub fn end(self) {
        let _ = fs::remove_file(self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_follows_another_until_the_reboot_or_the_withdrawal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket.life");
        let begin = |boot| Life::begin_at(path.clone(), boot);
        assert!(!begin("one").follows);
        assert!(begin("one").follows);
        let last = begin("one");
        assert!(last.follows);
        assert!(!begin("two").follows, "a reboot");
        assert!(begin("two").follows);
        begin("two").end();
        assert!(!begin("two").follows, "withdrawn");
        assert!(!begin("").follows, "no boot id, no claim");
        let nowhere = folder.path().join("no/such/folder.life");
        assert!(!Life::begin_at(nowhere, "one").follows);
    }
}

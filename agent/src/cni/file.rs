//! The one file, and whose turn it is among the others in the directory.
//!
//! What always holds: whoever reads the file sees the old text or the new one, also after a power
//! cut; a file that is right is not touched.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the file. Runtimes take the first by name.
pub const FILE_NAME: &str = "10-routelet.conflist";
/// What it is called until it is complete; runtimes do not look at names that end so.
const DRAFT: &str = ".10-routelet.conflist.draft";
/// Everybody may read it: there is no secret in it, and runtimes may not be root.
const MODE: u32 = 0o644;
/// What runtimes take for a configuration.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// What was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Put {
    /// Nothing: it was right.
    Same,
    /// It was not there.
    Created,
    /// It was another.
    Replaced,
}

/// The file in its directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

/// Sees to it that the file has this text.
///
/// # Errors
/// The directory cannot be made or written.
pub(super) fn put(directory: &Path, text: &str) -> io::Result<Put> {
    let file = path(directory);
    let put = match fs::read(&file) {
        Ok(is) if is == text.as_bytes() => return Ok(Put::Same),
        Ok(_) => Put::Replaced,
        Err(_) => Put::Created,
    };
    fs::create_dir_all(directory)?;
    let draft = directory.join(DRAFT);
    // Of a former life that ended too early; never written through a link that somebody laid.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut writer = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft)?;
    writer.set_permissions(Permissions::from_mode(MODE))?;
    writer.write_all(text.as_bytes())?;
    writer.sync_all()?;
    fs::rename(&draft, &file)?;
    File::open(directory)?.sync_all()?;
    Ok(put)
}

/// Removes the file. `false`: there was none.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn remove(directory: &Path) -> io::Result<bool> {
    match fs::remove_file(path(directory)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The files that a runtime takes before ours.
pub(super) fn before(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.as_str() < FILE_NAME)
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn written_once_and_then_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("cni/net.d");
        assert_eq!(put(&below, "one\n").unwrap(), Put::Created);
        let first = fs::metadata(path(&below)).unwrap();
        assert_eq!(first.mode() & 0o7777, 0o644);
        assert_eq!(put(&below, "one\n").unwrap(), Put::Same);
        assert_eq!(fs::metadata(path(&below)).unwrap().ino(), first.ino());
        assert_eq!(put(&below, "two\n").unwrap(), Put::Replaced);
        assert_eq!(fs::read_to_string(path(&below)).unwrap(), "two\n");
        let names: Vec<_> = fs::read_dir(&below).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(remove(&below).unwrap());
        assert!(!remove(&below).unwrap());
    }

    #[test]
    fn a_draft_that_was_left_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(DRAFT)).unwrap();
        put(directory.path(), "text").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(path(directory.path())).unwrap(), "text");
    }

    #[test]
    fn only_what_a_runtime_reads_and_sorts_first_is_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "05-other.conflist",
            "00-a.conf",
            "01-b.json",
            "00-notes.txt",
            "20-later.conf",
            FILE_NAME,
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(before(directory.path()), ["00-a.conf", "01-b.json", "05-other.conflist"]);
        assert!(before(&directory.path().join("nowhere")).is_empty());
    }
}

//! The last good objects on disk: what a start without an API server begins with.
//!
//! In flow: the versions that a configuration was made of, and the Secrets that it needs. Out flow:
//! the same after a restart. What always holds: the file is replaced as a whole or not at all, and
//! only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::objects::Objects;
use super::secrets::Secrets;

/// Changes when an older agent could not read it.
const FORMAT: u32 = 1;
/// Name of the file in the state directory.
pub const FILE: &str = "kubernetes.json";
/// The largest file that is read.
const MAXIMUM: u64 = 64 * 1024 * 1024;

/// What is kept.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Saved {
    /// [`FORMAT`].
    format: u32,
    /// The node it is for.
    pub node: String,
    /// When it was written, as RFC 3339 has it.
    pub written: String,
    /// The objects.
    pub objects: Objects,
    /// The Secrets that they need.
    pub secrets: Secrets,
}

impl Saved {
    /// As of now.
    #[must_use]
    pub fn new(node: &str, objects: Objects, secrets: Secrets) -> Self {
        Self { format: FORMAT, node: node.to_owned(), written: now(), objects, secrets }
    }
}

/// This moment to the second, as RFC 3339 has it.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes `saved` into the state directory.
///
/// # Errors
/// The file could not be written; an older one is as it was.
pub fn save(directory: &Path, saved: &Saved) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let path = directory.join(FILE);
    let new = directory.join(format!("{FILE}.new"));
    // One left behind by a crash may have any mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    // The name itself must survive a loss of power, too.
    File::open(directory)?.sync_all()
}

/// Reads what was saved for `node`; `None` if nothing ever was.
///
/// # Errors
/// It cannot be read, or is for another node or of another format, in words.
pub fn load(directory: &Path, node: &str) -> Result<Option<Saved>, String> {
    let path: PathBuf = directory.join(FILE);
    let words = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(words(&error)),
    };
    let mut octets = Vec::new();
    file.take(MAXIMUM).read_to_end(&mut octets).map_err(|error| words(&error))?;
    // Not the parser's words: they may quote what it found, and there are passwords in it.
    let saved: Saved = serde_json::from_slice(&octets).map_err(|error| {
        words(&format!("is damaged at octet {} of line {}", error.column(), error.line()))
    })?;
    if saved.format != FORMAT {
        return Err(words(&format!("has format {}, this version reads {FORMAT}", saved.format)));
    }
    if saved.node != node {
        return Err(words(&format!("is for the node {}", saved.node)));
    }
    Ok(Some(saved))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn saved() -> Saved {
        let mut secrets = Secrets::default();
        secrets.set("bgp", [("tor".to_owned(), b"hunter2".to_vec())].into());
        Saved::new("node-a", Objects::default(), secrets)
    }

    #[test]
    fn what_is_saved_comes_back_and_is_ours_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let state = directory.path().join("state");
        assert_eq!(load(&state, "node-a"), Ok(None));
        save(&state, &saved()).expect("saved");
        save(&state, &saved()).expect("saved again");
        let mode = fs::metadata(state.join(FILE)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = load(&state, "node-a").expect("loaded").expect("there");
        assert_eq!((loaded.objects, loaded.secrets), (saved().objects, saved().secrets));
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_without_its_content() {
        let directory = tempfile::tempdir().expect("directory");
        save(directory.path(), &saved()).expect("saved");
        let words = load(directory.path(), "node-b").expect_err("another node");
        assert!(words.contains("is for the node node-a"), "{words}");
        for text in ["", "hunter2", "{\"format\": \"hunter2\"}", "[]"] {
            fs::write(directory.path().join(FILE), text).expect("written");
            let words = load(directory.path(), "node-a").expect_err("damaged");
            assert!(words.contains("is damaged") && !words.contains("hunter2"), "{words}");
        }
    }
}

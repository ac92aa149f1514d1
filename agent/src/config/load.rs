//! Reading the configuration and its secrets from disk, with errors in words.
//!
//! In flow: a path. Out flow: [`Loaded`], a valid configuration and the files it came from, or a
//! [`LoadError`]. Nothing here is asynchronous: files are small and read at start and reload only.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use routelet_bgp::core::config::Password;

use super::{Config, ConfigError, parse, scalar};

/// The largest configuration that is read: some 50,000 nodes.
const MAXIMUM_FILE: u64 = 8 * 1024 * 1024;
/// A TCP MD5 key has at most so many octets (TCP_MD5SIG_MAXKEYLEN).
const MAXIMUM_PASSWORD: usize = 80;

/// A configuration and the files it was made of.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file itself, then those with secrets; [`super::ConfigWatcher::watch`] takes them.
    pub files: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read, in words that name it.
    #[error("{0}")]
    Read(String),
    /// It was read and is refused.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

impl LoadError {
    /// One line for each thing that is wrong, for the log and `status`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Read(words) => vec![words.clone()],
            Self::Invalid(error) => error.lines(),
        }
    }
}

/// Reads and validates the configuration in the file `path`.
///
/// # Errors
/// A file that cannot be read, or everything that is wrong with its content.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let text = read_text(path).map_err(LoadError::Read)?;
    load_text(path, &text)
}

/// Validates `text` as if it stood in the file `path`.
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path, text: &str) -> Result<Loaded, LoadError> {
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let secrets = RefCell::new(Vec::new());
    let passwords = |file: &Path| {
        // A relative path counts from the configuration, wherever the agent was started.
        let file = directory.join(file);
        let password = read_password(&file);
        secrets.borrow_mut().push(file);
        password
    };
    let config = parse(&path.display().to_string(), text, host_name().as_deref(), &passwords)?;
    let mut files = vec![path.to_owned()];
    files.extend(secrets.into_inner());
    files.dedup();
    Ok(Loaded { config, files })
}

/// The name of this host, where it can be a node's.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    scalar::name(name.trim()).ok()
}

fn read_text(path: &Path) -> Result<String, String> {
    let octets = read_file(path, MAXIMUM_FILE)?;
    String::from_utf8(octets).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|octet| **octet == b'\n')
            .count()
            + 1;
        format!("{}:{line}: the file is not UTF-8 text", path.display())
    })
}

/// The password in the file `path`: its content without the newline at the end.
fn read_password(path: &Path) -> Result<Password, String> {
    let mut octets = read_file(path, 4096)?;
    if octets.last() == Some(&b'\n') {
        octets.pop();
        if octets.last() == Some(&b'\r') {
            octets.pop();
        }
    }
    match octets.len() {
        0 => Err(format!("{} is empty; it must hold the password", path.display())),
        1..=MAXIMUM_PASSWORD => Ok(Password(Arc::from(octets))),
        length => Err(format!(
            "the password in {} has {length} octets; TCP MD5 takes at most {MAXIMUM_PASSWORD}",
            path.display()
        )),
    }
}

/// At most `maximum` octets of a file, or why not.
fn read_file(path: &Path, maximum: u64) -> Result<Vec<u8>, String> {
    let words = |error: io::Error| {
        let shown = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => format!("{shown}: there is no such file"),
            io::ErrorKind::PermissionDenied => {
                format!("{shown}: this user may not read it (see its owner and mode)")
            }
            io::ErrorKind::IsADirectory => format!("{shown} is a directory; name the file in it"),
            _ => format!("{shown} cannot be read: {error}"),
        }
    };
    let file = File::open(path).map_err(words)?;
    let mut octets = Vec::new();
    file.take(maximum + 1).read_to_end(&mut octets).map_err(words)?;
    if octets.len() as u64 > maximum {
        return Err(format!("{} is larger than {maximum} octets", path.display()));
    }
    Ok(octets)
}

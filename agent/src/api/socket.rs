//! The Unix socket of the API: one daemon per path, and who is calling.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;

/// Who is at the other end of a connection, as the kernel says (SO_PEERCRED).
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Effective user when it connected; `None` if the kernel did not say.
    pub uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// Keeps the path ours; removes the socket when dropped.
#[derive(Debug)]
pub struct SocketGuard {
    path: PathBuf,
    /// Given back by the kernel however the process ends, which a socket file is not.
    _lock: Flock<File>,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds `path` with mode 0600, directories included. A socket that nobody serves any more is
/// replaced. Must be called within a tokio runtime.
///
/// # Errors
/// Another daemon serves the path, something else than a socket is there, or the file system
/// refuses; in words.
pub fn bind(path: &Path) -> anyhow::Result<(UnixListener, SocketGuard)> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(|| {
            format!("cannot make the directory {} of the API socket", directory.display())
        })?;
    }
    let lock = lock(path)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{} is not a socket: name another path in `api.socket` or --socket",
                path.display()
            )
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!(
                "another program serves {}: stop it, or name another path in `api.socket` or --socket",
                path.display()
            )
        }
        Ok(_) => std::fs::remove_file(path)
            .with_context(|| format!("cannot replace the stale socket {}", path.display()))?,
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on the API socket {}", path.display()))?;
    // Callers are checked by their credentials in any case; the mode keeps others from connecting.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok((listener, SocketGuard { path: path.to_owned(), _lock: lock }))
}

/// Takes the lock beside the socket. The file stays: removing it would let two hold it.
fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .with_context(|| format!("cannot open {}", lock_path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another routelet runs with the socket {}: stop it (`routelet stop`), or give this one a socket of its own with --socket",
            path.display()
        ),
        Err((_, error)) => {
            Err(error).with_context(|| format!("cannot lock {}", lock_path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/api.sock");
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file outlives its listener");
        let (_listener, guard) = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(guard);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_one_is_an_error_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/api.sock");
        let (_listener, _guard) = bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.starts_with("another routelet runs with the socket"), "{error}");
    }

    #[tokio::test]
    async fn what_others_serve_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.starts_with("another program serves"), "{error}");
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        let error = bind(&file).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}

//! Limits of the process: as many open files as it may have.
//!
//! A session is an open file, and for a moment two where both sides connect. The soft limit that
//! services and containers start with is often 1024, for the sake of programs that use select(2); a
//! mesh of a thousand nodes needs more. Nothing here uses select(2).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one. Where that is refused, what there is must do.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        tracing::debug!(soft, hard, "open files");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

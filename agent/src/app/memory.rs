//! What the process holds of memory without using it.
//!
//! The C library's allocator makes eight arenas for each processor, and each keeps what was freed in it:
//! on a large machine most of a small daemon's memory would be such. In flow: none. Out flow: none but
//! pages that go back to the kernel.
#![allow(
    unsafe_code,
    reason = "the allocator's settings have no other way in; nothing else is here"
)]

use std::time::Duration;

/// Arenas are there so that threads do not wait for each other. Two are as fast as sixteen with the
/// few threads that work here; docs/performance.md has the figures.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// How long after the start its listings, look-ups and OPENs are over and forgotten.
const SETTLED: Duration = Duration::from_secs(60);

/// Sets the allocator up. To be called before there are threads.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number inside the allocator; no pointers.
    let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) } == 1;
    #[cfg(target_env = "gnu")]
    tracing::debug!(arenas = ARENAS, accepted, "allocator");
}

/// Gives back once what only the start has needed: the lists of a large cluster are several megabytes.
pub async fn settle() {
    tokio::time::sleep(SETTLED).await;
    #[cfg(target_env = "gnu")]
    // SAFETY: releases free pages inside the allocator, which locks itself; no pointers.
    let released = unsafe { libc::malloc_trim(0) } == 1;
    #[cfg(target_env = "gnu")]
    tracing::debug!(released, "memory of the start");
}

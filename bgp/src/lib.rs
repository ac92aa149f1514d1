//! The BGP speaker of routelet.
//!
//! [`core`] is the protocol: deterministic state machines that take octets, events and `now`, and
//! hand out named effects. [`io`] (feature `io`) drives them with tokio: sockets, timers, tasks.

pub mod core;
#[cfg(feature = "io")]
pub mod io;

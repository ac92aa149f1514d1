//! Netlink, as far as it is the same for everything that speaks it: octets, and two kinds of sockets.
//!
//! In flow: requests of [`crate::kernel`] (rtnetlink) and [`crate::nft`] (nf_tables), each with what
//! writes its messages and what reads an answer. Out flow: per request what the kernel answered, and
//! its notifications.
//!
//! What always holds: this room does not know what a message means. Octets are written where they are
//! sent from and read where they were received: nothing is copied in between. What the kernel had to
//! drop is told, never silent.
//!
//! ```text
//!  kernel, nft ─► RequestSocket (blocking, on a thread) ──────► kernel
//!       ▲  └───── answers, by sequence number ◄─────────────────┤
//!       └──────── NotificationSocket (a task waits) ◄───────────┘
//! ```
//!
//! The lab and the watch on the MTU below pods ([`crate::cni`]) ask little and seldom: they use the
//! published crates, which write one message at a time, and know only a part of nf_tables.

mod notifications;
mod socket;
pub(crate) mod wire;

use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};

pub(crate) use self::notifications::{Notice, NotificationSocket};
pub(crate) use self::socket::{BatchOutcome, RequestError, RequestSocket, WriteError};

/// One datagram of a dump is at most 32 kB, one of notifications less.
const READ_SIZE: usize = 64 << 10;

/// Asks for a receive buffer beyond the system's limit, or as much of it as is allowed.
fn set_receive_buffer(socket: &impl AsFd, octets: usize) {
    let fd = socket.as_fd();
    if setsockopt(&fd, RcvBufForce, &octets).is_err() {
        // Without the capability the system's limit (net.core.rmem_max) applies; an overrun is
        // noticed and mended by a dump.
        let _ = setsockopt(&fd, RcvBuf, &octets);
    }
}

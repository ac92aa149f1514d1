//! Peers of the daemon that are configured differently from those of the other cases, each for one
//! case or a few that run one after the other.

use std::net::Ipv4Addr;

use anyhow::ensure;
use serde_json::Value;

use crate::daemon::PeerKind::{External, Internal};
use crate::daemon::{Daemon, Peer, PeerKind, poll};
use crate::wire::{OpenFields, capability, parameter};

/// The TCP MD5 key of [`MD5`].
pub const KEY: &str = "the right key";

/// A peer with options of its own.
pub struct Special {
    pub name: &'static str,
    host: u8,
    pub kind: PeerKind,
    pub options: &'static str,
}

pub const LIMITED: Special = external("limited", 1, "filters: [import], maximumPrefixes: 3");
pub const NEAR: Special = external("near", 2, "filters: [import], ttlSecurity: 1");
pub const MD5: Special = external("md5", 3, "filters: [import], password: {file: key}");
pub const OLD_READER: Special = external("old-reader", 5, "filters: [import, all]");
pub const SLOW: Special = internal("slow", 6, "filters: [import, all]");
pub const QUICK: Special = internal("quick", 7, "filters: [import, all]");
pub const PROVIDER: Special = external("provider", 8, "filters: [import, all], role: Customer");
pub const CUSTOMER: Special = external("customer", 9, "filters: [import, all], role: Provider");
pub const LATERAL: Special = external("lateral", 10, "filters: [import, all], role: Peer");
pub const CLIENT_A: Special =
    internal("client-a", 11, "filters: [import, all], routeReflectorClient: true");
pub const CLIENT_B: Special =
    internal("client-b", 12, "filters: [import, all], routeReflectorClient: true");
pub const NON_CLIENT_A: Special = internal("non-client-a", 13, "filters: [import, all]");
pub const NON_CLIENT_B: Special = internal("non-client-b", 14, "filters: [import, all]");
pub const MISMATCH: Special = external("mismatch", 15, "filters: [import], role: Customer");

pub const SPECIALS: &[Special] = &[
    LIMITED,
    NEAR,
    MD5,
    OLD_READER,
    SLOW,
    QUICK,
    PROVIDER,
    CUSTOMER,
    LATERAL,
    CLIENT_A,
    CLIENT_B,
    NON_CLIENT_A,
    NON_CLIENT_B,
    MISMATCH,
];

const fn external(name: &'static str, host: u8, options: &'static str) -> Special {
    Special { name, host, kind: External, options }
}

const fn internal(name: &'static str, host: u8, options: &'static str) -> Special {
    Special { name, host, kind: Internal, options }
}

impl Special {
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 15, 0, self.host)
    }

    /// The usual OPEN.
    pub fn open(&self) -> OpenFields {
        OpenFields::usual(self.kind.asn(), self.address())
    }

    /// The usual OPEN with one capability more.
    pub fn open_with(&self, code: u8, value: &[u8]) -> OpenFields {
        with_capability(self.open(), code, value)
    }

    /// Comes up, whatever back-off an earlier case has left.
    pub fn establish(&self, daemon: &Daemon, open: &OpenFields) -> anyhow::Result<Peer> {
        poll(|| Peer::establish(self.address(), daemon.address(), open))
    }

    /// Waits for the one route that the daemon has from it, and gives it.
    pub fn route(&self, daemon: &Daemon, prefix: Ipv4Addr) -> anyhow::Result<Value> {
        poll(|| {
            let mut routes = daemon.routes_from(self.name, prefix)?;
            ensure!(routes.len() == 1, "{} has {routes:?} for {prefix}", self.name);
            Ok(routes.remove(0))
        })
    }
}

/// An OPEN with one capability more.
pub fn with_capability(mut open: OpenFields, code: u8, value: &[u8]) -> OpenFields {
    open.parameters.extend(parameter(2, &capability(code, value)));
    open
}

//! Capabilities of an OPEN (RFC 5492).

use bytes::Bytes;

use crate::types::{AfiSafi, Asn};

/// One capability.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Capability {
    /// Code 1 (RFC 4760 §8).
    Multiprotocol(AfiSafi),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 5 (RFC 8950 §4): NLRI family and the AFI its next hop may have.
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// Code 6 (RFC 8654).
    ExtendedMessage,
    /// Code 9 (RFC 9234).
    Role(Role),
    /// Code 64 (RFC 4724, RFC 8538).
    GracefulRestart {
        /// R bit: the sender has restarted.
        restarted: bool,
        /// N bit: NOTIFICATIONs are survived too (RFC 8538).
        notification: bool,
        /// Seconds, 0 to 4095.
        restart_time: u16,
        /// Families whose routes are retained.
        families: Vec<GracefulRestartFamily>,
    },
    /// Code 65 (RFC 6793).
    FourOctetAs(Asn),
    /// Code 69 (RFC 7911).
    AddPath(Vec<(AfiSafi, AddPathMode)>),
    /// Code 70 (RFC 7313).
    EnhancedRouteRefresh,
    /// Code 71 (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Code 73: host and domain name.
    Fqdn {
        /// Host name, UTF-8, at most 64 octets.
        host: String,
        /// Domain name, UTF-8, at most 64 octets.
        domain: String,
    },
    /// Any other code, or a known one whose value does not have its form.
    Unknown {
        /// Capability code.
        code: u8,
        /// Capability value.
        value: Bytes,
    },
}

/// A family in the graceful restart capability.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GracefulRestartFamily {
    /// Which one.
    pub family: AfiSafi,
    /// F bit: forwarding state was preserved.
    pub forwarding: bool,
}

/// A family in the long-lived graceful restart capability.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LongLivedFamily {
    /// Which one.
    pub family: AfiSafi,
    /// F bit: forwarding state was preserved.
    pub forwarding: bool,
    /// Seconds, 24 bits.
    pub stale_time: u32,
}

/// Send/Receive field of add-path (RFC 7911 §4).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AddPathMode {
    /// 1: can receive several paths.
    Receive,
    /// 2: can send them.
    Send,
    /// 3: both.
    Both,
}

/// BGP role (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// 0
    Provider,
    /// 1
    RouteServer,
    /// 2
    RouteServerClient,
    /// 3
    Customer,
    /// 4
    Peer,
}

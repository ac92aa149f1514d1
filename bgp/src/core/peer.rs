//! The seam between a session and the speaker: who a peer is, what was negotiated with it, and why
//! its session ended.

use std::fmt;
use std::net::SocketAddr;

use routelet_proto::{
    Asn, BgpIdentifier, Capability, CeaseSubcode, DecodeContext, EncodeContext, ErrorCode,
    FamilySet, HoldTime, Notification, SessionKind,
};

/// Handle of a configured peer, given by the speaker, never used again within a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub u32);

/// FSM states (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Refusing connections, or waiting out IdleHold.
    Idle,
    /// Waiting for a connection to complete.
    Connect,
    /// Waiting for the next attempt, or for the peer's.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN accepted, waiting for KEEPALIVE.
    OpenConfirm,
    /// Exchanging routes.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// What two OPENs agreed on. Only negotiation makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Negotiated {
    /// Internal or external, by the AS numbers.
    pub kind: SessionKind,
    /// The peer's AS.
    pub peer_as: Asn,
    /// The peer's BGP Identifier.
    pub peer_id: BgpIdentifier,
    /// The lesser of the two hold times.
    pub hold_time: HoldTime,
    /// Seconds between our KEEPALIVEs; 0: none.
    pub keepalive_time: u16,
    /// Families both offered.
    pub families: FamilySet,
    /// How to read what it sends.
    pub decode: DecodeContext,
    /// How to write to it.
    pub encode: EncodeContext,
    /// It answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Both do it enhanced (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// The peer's graceful restart capability, if both have one.
    pub graceful_restart: Option<PeerGracefulRestart>,
    /// Our capabilities, as sent.
    pub sent: Vec<Capability>,
    /// Its capabilities, as received.
    pub received: Vec<Capability>,
}

/// What the peer said in its graceful restart capability (RFC 4724 §3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerGracefulRestart {
    /// R bit.
    pub restarted: bool,
    /// N bit on both sides (RFC 8538).
    pub notification: bool,
    /// Seconds.
    pub restart_time: u16,
    /// Families it lists.
    pub families: FamilySet,
    /// Families it lists with the F bit.
    pub forwarding: FamilySet,
}

/// A session has become Established.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerUp {
    /// What was agreed.
    pub negotiated: Negotiated,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Index of the interface the peer is reached over, where it is on link; else 0. Link-local next
    /// hops are used with it.
    pub interface: u32,
}

/// An Established session has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerDown {
    /// Why.
    pub reason: DownReason,
    /// Families whose routes are retained as stale (RFC 4724 §4.2), and for how many seconds.
    pub retain: Option<(FamilySet, u16)>,
}

/// Why a session ended or did not come up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DownReason {
    /// We sent a NOTIFICATION; the words say what was found.
    NotificationSent(Notification, String),
    /// The peer sent one.
    NotificationReceived(Notification),
    /// The connection failed or was closed; the words are the operating system's or ours.
    TcpConnectionFails(String),
    /// The peer opened a new connection with graceful restart (RFC 4724 §5).
    Replaced,
    /// The process is restarting and says nothing (RFC 4724 §4.1).
    Restarting,
}

impl DownReason {
    /// Code and subcode of the NOTIFICATION that was sent or received (RFC 4271 §4.5), if one was.
    #[must_use]
    pub fn code(&self) -> Option<(u8, u8)> {
        match self {
            Self::NotificationSent(notification, _) | Self::NotificationReceived(notification) => {
                Some(notification.code.octets())
            }
            Self::TcpConnectionFails(_) | Self::Replaced | Self::Restarting => None,
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotificationSent(notification, detail) if detail.is_empty() => {
                write!(f, "sent {notification}")
            }
            Self::NotificationSent(notification, detail) => {
                write!(f, "sent {notification}: {detail}")
            }
            Self::NotificationReceived(notification) => {
                write!(f, "received {notification}")?;
                // RFC 8538 §3: a Hard Reset carries what it is about.
                match (notification.code, &notification.data[..]) {
                    (ErrorCode::Cease(CeaseSubcode::HardReset), [code, subcode, ..]) => {
                        let code = ErrorCode::new(*code, *subcode);
                        let data = notification.data.slice(2..);
                        write!(f, " for {}", Notification { code, data })
                    }
                    _ => Ok(()),
                }
            }
            Self::TcpConnectionFails(detail) => f.write_str(detail),
            Self::Replaced => f.write_str("the peer restarted and opened a new connection"),
            Self::Restarting => f.write_str("restarting"),
        }
    }
}

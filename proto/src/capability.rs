//! Capabilities of an OPEN (RFC 5492).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{AfiSafi, Asn};
use crate::wire;

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

impl Role {
    /// The value on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// The role of this value, if it is assigned.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            _ => return None,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provider => "provider",
            Self::RouteServer => "route-server",
            Self::RouteServerClient => "route-server-client",
            Self::Customer => "customer",
            Self::Peer => "peer",
        })
    }
}

impl AddPathMode {
    /// The value on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Receive => 1,
            Self::Send => 2,
            Self::Both => 3,
        }
    }

    const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Receive,
            2 => Self::Send,
            3 => Self::Both,
            _ => return None,
        })
    }
}

impl fmt::Display for AddPathMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Receive => "receive",
            Self::Send => "send",
            Self::Both => "send/receive",
        })
    }
}

/// The name of a capability by its code, as the IANA registry has it; `None` for others.
#[must_use]
pub fn capability_name(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "multiprotocol",
        2 => "route-refresh",
        3 => "outbound-route-filtering",
        5 => "extended-next-hop",
        6 => "extended-message",
        7 => "bgpsec",
        8 => "multiple-labels",
        9 => "role",
        64 => "graceful-restart",
        65 => "four-octet-as",
        67 => "dynamic",
        68 => "multisession",
        69 => "add-path",
        70 => "enhanced-route-refresh",
        71 => "long-lived-graceful-restart",
        72 => "routing-policy-distribution",
        73 => "fqdn",
        75 => "software-version",
        76 => "paths-limit",
        77 => "link-local-next-hop",
        128 => "route-refresh-cisco",
        _ => return None,
    })
}

impl Capability {
    /// The code on the wire.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessage => 6,
            Self::Role(_) => 9,
            Self::GracefulRestart { .. } => 64,
            Self::FourOctetAs(_) => 65,
            Self::AddPath(_) => 69,
            Self::EnhancedRouteRefresh => 70,
            Self::LongLivedGracefulRestart(_) => 71,
            Self::Fqdn { .. } => 73,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Reads a value of which `code` and length are known. A value without its code's form is kept
    /// as [`Capability::Unknown`]: it offers nothing, and is no reason to refuse the session
    /// (RFC 5492 §4 asks that what is not understood be ignored).
    pub(crate) fn read(code: u8, value: &Bytes) -> Self {
        Self::known(code, value).unwrap_or_else(|| Self::Unknown { code, value: value.clone() })
    }

    fn known(code: u8, value: &[u8]) -> Option<Self> {
        Some(match (code, value) {
            (1, &[a, b, _, safi]) => {
                Self::Multiprotocol(AfiSafi { afi: u16::from_be_bytes([a, b]), safi })
            }
            (2, []) => Self::RouteRefresh,
            (5, list) => Self::ExtendedNextHop(entries(list, |entry: &[u8; 6]| {
                let [a, b, 0, safi, c, d] = *entry else { return None };
                let family = AfiSafi { afi: u16::from_be_bytes([a, b]), safi };
                Some((family, u16::from_be_bytes([c, d])))
            })?),
            (6, []) => Self::ExtendedMessage,
            (9, &[role]) => Self::Role(Role::from_octet(role)?),
            (64, &[a, b, ref list @ ..]) => Self::GracefulRestart {
                restarted: a & 0x80 != 0,
                notification: a & 0x40 != 0,
                restart_time: u16::from_be_bytes([a & 0x0f, b]),
                families: entries(list, |&[a, b, safi, flags]: &[u8; 4]| {
                    let family = AfiSafi { afi: u16::from_be_bytes([a, b]), safi };
                    Some(GracefulRestartFamily { family, forwarding: flags & 0x80 != 0 })
                })?,
            },
            (65, &[a, b, c, d]) => Self::FourOctetAs(Asn(u32::from_be_bytes([a, b, c, d]))),
            // RFC 7911 §4: another mode than 1 to 3 makes the capability one not understood.
            (69, list) => Self::AddPath(entries(list, |&[a, b, safi, mode]: &[u8; 4]| {
                let family = AfiSafi { afi: u16::from_be_bytes([a, b]), safi };
                Some((family, AddPathMode::from_octet(mode)?))
            })?),
            (70, []) => Self::EnhancedRouteRefresh,
            (71, list) => Self::LongLivedGracefulRestart(entries(
                list,
                |&[a, b, safi, flags, c, d, e]: &[u8; 7]| {
                    Some(LongLivedFamily {
                        family: AfiSafi { afi: u16::from_be_bytes([a, b]), safi },
                        forwarding: flags & 0x80 != 0,
                        stale_time: u32::from_be_bytes([0, c, d, e]),
                    })
                },
            )?),
            (73, names) => {
                let (names, host) = wire::short_block(names).ok()?;
                let (rest, domain) = wire::short_block(names).ok()?;
                if !rest.is_empty() || host.len() > NAME_MAX || domain.len() > NAME_MAX {
                    return None;
                }
                Self::Fqdn {
                    host: String::from_utf8(host.to_vec()).ok()?,
                    domain: String::from_utf8(domain.to_vec()).ok()?,
                }
            }
            _ => return None,
        })
    }

    /// Appends code, length and value. Lists and values are cut at what a length of one octet can
    /// count, names at their limit.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u8(self.code());
        let length = out.len();
        out.put_u8(0);
        match self {
            Self::Multiprotocol(family) => {
                out.put_u16(family.afi);
                out.put_u8(0);
                out.put_u8(family.safi);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh => {}
            Self::ExtendedNextHop(list) => {
                for (family, next_hop) in list.iter().take(VALUE_MAX / 6) {
                    out.put_u16(family.afi);
                    out.put_u16(family.safi.into());
                    out.put_u16(*next_hop);
                }
            }
            Self::Role(role) => out.put_u8(role.octet()),
            Self::GracefulRestart { restarted, notification, restart_time, families } => {
                let flags = u16::from(*restarted) << 15 | u16::from(*notification) << 14;
                out.put_u16(flags | (*restart_time).min(0x0fff));
                for entry in families.iter().take((VALUE_MAX - 2) / 4) {
                    put_family(entry.family, out);
                    out.put_u8(u8::from(entry.forwarding) << 7);
                }
            }
            Self::FourOctetAs(asn) => out.put_u32(asn.0),
            Self::AddPath(list) => {
                for (family, mode) in list.iter().take(VALUE_MAX / 4) {
                    put_family(*family, out);
                    out.put_u8(mode.octet());
                }
            }
            Self::LongLivedGracefulRestart(list) => {
                for entry in list.iter().take(VALUE_MAX / 7) {
                    put_family(entry.family, out);
                    let flags = u32::from(entry.forwarding) << 31;
                    out.put_u32(flags | entry.stale_time.min(0x00ff_ffff));
                }
            }
            Self::Fqdn { host, domain } => {
                for name in [host, domain] {
                    let name = cut(name, NAME_MAX);
                    out.put_u8(u8::try_from(name.len()).unwrap_or(0));
                    out.put_slice(name.as_bytes());
                }
            }
            Self::Unknown { value, .. } => out.put_slice(&value[..value.len().min(VALUE_MAX)]),
        }
        let written = out.len() - length - 1;
        out[length] = u8::try_from(written).expect("every value is cut at 255 octets");
    }
}

const VALUE_MAX: usize = 255;
const NAME_MAX: usize = 64;

fn put_family(family: AfiSafi, out: &mut BytesMut) {
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

/// The longest beginning of `text` of at most `most` octets.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A list of entries of `N` octets each; `None` if it is not a whole number of them or one of them
/// has not its form.
fn entries<const N: usize, T>(list: &[u8], read: impl Fn(&[u8; N]) -> Option<T>) -> Option<Vec<T>> {
    let (entries, rest) = list.as_chunks::<N>();
    if !rest.is_empty() {
        return None;
    }
    entries.iter().map(read).collect()
}

//! Path attributes (RFC 4271 §5 and extensions) as values: what a route carries.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::types::{Asn, BgpIdentifier};

pub use crate::as_path::{AsPath, AsSegment, AsSegmentKind};

pub(crate) mod encode;

/// The attributes of a route, next hop included. Equality and hash cover everything, so that
/// equal sets can be interned.
///
/// What nearly every route has stands inline; the rest is boxed, because a full table holds
/// hundreds of thousands of these.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PathAttributes {
    /// ORIGIN, code 1.
    pub origin: Origin,
    /// AS_PATH, code 2, with AS4_PATH merged in (RFC 6793 §4.2.3).
    pub as_path: AsPath,
    /// NEXT_HOP, code 3, or the next hop of MP_REACH_NLRI, code 14.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC, code 4.
    pub med: Option<u32>,
    /// LOCAL_PREF, code 5.
    pub local_pref: Option<u32>,
    /// COMMUNITIES, code 8, in the order received.
    pub communities: SmallVec<[Community; 2]>,
    /// Everything else.
    pub rare: Option<Box<RareAttributes>>,
}

/// Attributes that few routes carry.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct RareAttributes {
    /// ATOMIC_AGGREGATE, code 6.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, code 7, with AS4_AGGREGATOR merged in.
    pub aggregator: Option<Aggregator>,
    /// ORIGINATOR_ID, code 9 (RFC 4456 §8).
    pub originator_id: Option<BgpIdentifier>,
    /// CLUSTER_LIST, code 10, nearest cluster first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES, code 16 (RFC 4360).
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITY, code 32 (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// Only to Customer, code 35 (RFC 9234 §5).
    pub otc: Option<Asn>,
    /// Unrecognized optional transitive attributes, in ascending code; carried on with the Partial bit.
    pub unknown: Vec<UnknownAttribute>,
    /// Which recognized optional transitive attributes came with the Partial bit: it must not be
    /// cleared again (RFC 4271 §5).
    pub partial: PartialAttributes,
}

/// A set of the recognized optional transitive attributes: AGGREGATOR, COMMUNITIES, EXTENDED
/// COMMUNITIES, LARGE_COMMUNITY, OTC.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PartialAttributes(u8);

impl PartialAttributes {
    /// Adds the attribute of this type code; codes that are not in the list above are left out.
    pub fn insert(&mut self, code: u8) {
        self.0 |= Self::bit(code);
    }

    /// Whether the attribute of this type code is in the set.
    #[must_use]
    pub fn contains(self, code: u8) -> bool {
        self.0 & Self::bit(code) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(code: u8) -> u8 {
        match code {
            code::AGGREGATOR => 1,
            code::COMMUNITIES => 1 << 1,
            code::EXTENDED_COMMUNITIES => 1 << 2,
            code::LARGE_COMMUNITY => 1 << 3,
            code::OTC => 1 << 4,
            _ => 0,
        }
    }
}

/// Type codes of the attributes this speaker knows (IANA "BGP Path Attributes").
pub mod code {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITY: u8 = 32;
    pub const OTC: u8 = 35;
}

/// The name of an attribute by its type code, as the IANA registry has it, of those seen in the
/// wild; `None` for others.
#[must_use]
pub fn attribute_name(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "ORIGIN",
        2 => "AS_PATH",
        3 => "NEXT_HOP",
        4 => "MULTI_EXIT_DISC",
        5 => "LOCAL_PREF",
        6 => "ATOMIC_AGGREGATE",
        7 => "AGGREGATOR",
        8 => "COMMUNITIES",
        9 => "ORIGINATOR_ID",
        10 => "CLUSTER_LIST",
        14 => "MP_REACH_NLRI",
        15 => "MP_UNREACH_NLRI",
        16 => "EXTENDED_COMMUNITIES",
        17 => "AS4_PATH",
        18 => "AS4_AGGREGATOR",
        22 => "PMSI_TUNNEL",
        23 => "TUNNEL_ENCAPSULATION",
        24 => "TRAFFIC_ENGINEERING",
        25 => "IPV6_EXTENDED_COMMUNITIES",
        26 => "AIGP",
        27 => "PE_DISTINGUISHER_LABELS",
        29 => "BGP-LS",
        32 => "LARGE_COMMUNITY",
        33 => "BGPSEC_PATH",
        35 => "OTC",
        37 => "SFP",
        39 => "BFD_DISCRIMINATOR",
        40 => "BGP_PREFIX_SID",
        128 => "ATTR_SET",
        _ => return None,
    })
}

impl PathAttributes {
    /// Attributes of a route that starts here: empty path, nothing optional.
    #[must_use]
    pub fn originated(origin: Origin, next_hop: NextHop) -> Self {
        Self {
            origin,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            communities: SmallVec::new(),
            rare: None,
        }
    }

    /// The boxed part, made when it is not there yet.
    pub fn rare_mut(&mut self) -> &mut RareAttributes {
        self.rare.get_or_insert_with(Box::default)
    }

    /// ORIGINATOR_ID, if any.
    #[must_use]
    pub fn originator_id(&self) -> Option<BgpIdentifier> {
        self.rare.as_ref()?.originator_id
    }

    /// CLUSTER_LIST, empty if there is none.
    #[must_use]
    pub fn cluster_list(&self) -> &[Ipv4Addr] {
        self.rare.as_ref().map_or(&[], |rare| &rare.cluster_list)
    }
}

/// ORIGIN (RFC 4271 §5.1.1), in the order of preference.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// 0
    Igp,
    /// 1
    Egp,
    /// 2
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        })
    }
}

impl From<Origin> for u8 {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        }
    }
}

/// A next hop as one route carries it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NextHop {
    /// NEXT_HOP, four octets.
    V4(Ipv4Addr),
    /// MP_REACH_NLRI, 16 octets.
    V6(Ipv6Addr),
    /// MP_REACH_NLRI, 32 octets: global and link-local (RFC 2545 §3).
    V6WithLinkLocal(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The address by which the next hop is looked up: the global one.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match *self {
            Self::V4(address) => address.into(),
            Self::V6(address) | Self::V6WithLinkLocal(address, _) => address.into(),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Aggregator {
    /// The AS that aggregated.
    pub asn: Asn,
    /// The speaker that did.
    pub identifier: BgpIdentifier,
}

/// A community (RFC 1997), as one number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Community(pub u32);

impl fmt::Display for Community {
    /// `64512:100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl Community {
    /// The well-known name (IANA), if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::GRACEFUL_SHUTDOWN => "GRACEFUL_SHUTDOWN",
            Self::LLGR_STALE => "LLGR_STALE",
            Self::NO_LLGR => "NO_LLGR",
            Self::BLACKHOLE => "BLACKHOLE",
            Self::NO_EXPORT => "NO_EXPORT",
            Self::NO_ADVERTISE => "NO_ADVERTISE",
            Self::NO_EXPORT_SUBCONFED => "NO_EXPORT_SUBCONFED",
            _ => return None,
        })
    }

    /// GRACEFUL_SHUTDOWN (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// LLGR_STALE (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// NO_LLGR (RFC 9494).
    pub const NO_LLGR: Self = Self(0xffff_0007);
    /// BLACKHOLE (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// NO_EXPORT (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// NO_ADVERTISE (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// NO_EXPORT_SUBCONFED (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

/// An extended community (RFC 4360), as its eight octets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl fmt::Display for ExtendedCommunity {
    /// `rt:64512:100` and `soo:64512:100` for route targets and sites of origin of the three
    /// classic encodings (RFC 4360 §4, §5, RFC 5668), sixteen hexadecimal digits for the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subtype, a, b, c, d, e, g] = self.0;
        let name = match subtype {
            2 => "rt",
            3 => "soo",
            _ => "",
        };
        match kind & 0x3f {
            0 if !name.is_empty() => {
                let asn = u16::from_be_bytes([a, b]);
                write!(f, "{name}:{asn}:{}", u32::from_be_bytes([c, d, e, g]))
            }
            1 if !name.is_empty() => {
                let address = Ipv4Addr::new(a, b, c, d);
                write!(f, "{name}:{address}:{}", u16::from_be_bytes([e, g]))
            }
            2 if !name.is_empty() => {
                let asn = u32::from_be_bytes([a, b, c, d]);
                write!(f, "{name}:{asn}:{}", u16::from_be_bytes([e, g]))
            }
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LargeCommunity {
    /// Global Administrator.
    pub global: u32,
    /// Local Data Part 1.
    pub local1: u32,
    /// Local Data Part 2.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    /// `64512:1:2` (RFC 8092 §5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// An attribute this speaker does not know.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct UnknownAttribute {
    /// The flags octet as it will be sent: Partial already set, Extended Length not.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: Bytes,
}

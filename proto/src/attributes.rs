//! Path attributes (RFC 4271 §5 and extensions) as values: what a route carries.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::types::{Asn, BgpIdentifier};

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
    /// The global address, by which the next hop is looked up.
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

impl Community {
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

/// Kinds of path segment (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AsSegmentKind {
    /// 1
    Set,
    /// 2
    Sequence,
    /// 3
    ConfedSequence,
    /// 4
    ConfedSet,
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AsSegment {
    /// Which kind.
    pub kind: AsSegmentKind,
    /// Its numbers, 1 to 255 of them on the wire.
    pub asns: SmallVec<[Asn; 6]>,
}

/// An AS_PATH. Held in its four-octet wire form, so that equality, hash and encoding are
/// comparisons and copies of octets.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct AsPath {
    octets: SmallVec<[u8; 24]>,
}

impl AsPath {
    /// A path of one AS_SEQUENCE; empty if there are no numbers.
    #[must_use]
    pub fn sequence(asns: &[Asn]) -> Self {
        let _ = asns;
        todo!()
    }

    /// A path of these segments, empty ones left out.
    #[must_use]
    pub fn from_segments(segments: &[AsSegment]) -> Self {
        let _ = segments;
        todo!()
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = AsSegment> + '_ {
        let _ = &self.octets;
        std::iter::from_fn(|| todo!())
    }

    /// Length for the decision process: a set counts 1 (RFC 4271 §9.1.2.2 (a)), confederation
    /// segments 0 (RFC 5065 §5.3).
    #[must_use]
    pub fn length(&self) -> u32 {
        todo!()
    }

    /// The neighbouring AS: the first number of a leading AS_SEQUENCE, confederation segments
    /// skipped. Decides which MEDs compare.
    #[must_use]
    pub fn first_as(&self) -> Option<Asn> {
        todo!()
    }

    /// The AS the route started in: the last number of a trailing AS_SEQUENCE.
    #[must_use]
    pub fn origin_as(&self) -> Option<Asn> {
        todo!()
    }

    /// How often `asn` appears, in segments of any kind.
    #[must_use]
    pub fn occurrences(&self, asn: Asn) -> usize {
        let _ = asn;
        todo!()
    }

    /// Whether there is no segment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The path with `asn` in front `times` times (RFC 4271 §5.1.2 (b)): in the leading sequence
    /// while it has room, in a new one else.
    #[must_use]
    pub fn prepend(&self, asn: Asn, times: usize) -> Self {
        let _ = (asn, times);
        todo!()
    }
}

impl fmt::Display for AsPath {
    /// `65001 65002 {65003,65004}`, confederation segments in parentheses and brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}

//! The small numbers every message is made of: AS numbers, identifiers, families, times.

use std::fmt;
use std::net::Ipv4Addr;

/// An autonomous system number, always held in four octets (RFC 6793).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Asn(pub u32);

impl Asn {
    /// AS_TRANS, which stands for a number that does not fit two octets (RFC 6793 §9).
    pub const TRANS: Self = Self(23456);
    /// AS 0 is reserved and must not appear in a session or a path (RFC 7607).
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BGP Identifier: any non-zero 32 bits, written as an IPv4 address (RFC 6286 §2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BgpIdentifier(pub Ipv4Addr);

impl fmt::Display for BgpIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hold time in seconds: 0 (no keepalives at all) or 3 to 65535 (RFC 4271 §4.2).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HoldTime(u16);

impl HoldTime {
    /// The time in seconds; `None` for 1 and 2, which RFC 4271 §4.2 forbids.
    #[must_use]
    pub const fn new(seconds: u16) -> Option<Self> {
        match seconds {
            1 | 2 => None,
            _ => Some(Self(seconds)),
        }
    }

    /// The time in seconds.
    #[must_use]
    pub const fn seconds(self) -> u16 {
        self.0
    }
}

/// An address family as it stands on the wire: any AFI and SAFI, known to us or not.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AfiSafi {
    /// Address Family Identifier (IANA), e.g. 1 for IPv4.
    pub afi: u16,
    /// Subsequent Address Family Identifier (IANA), e.g. 1 for unicast.
    pub safi: u8,
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Family::try_from(*self) {
            Ok(family) => family.fmt(f),
            Err(other) => write!(f, "AFI {} SAFI {}", other.afi, other.safi),
        }
    }
}

/// The families this speaker carries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Every family there is, in wire order.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The pair of numbers on the wire.
    #[must_use]
    pub const fn afi_safi(self) -> AfiSafi {
        match self {
            Self::Ipv4Unicast => AfiSafi { afi: 1, safi: 1 },
            Self::Ipv6Unicast => AfiSafi { afi: 2, safi: 1 },
        }
    }

    /// A small dense number, for tables indexed by family.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl TryFrom<AfiSafi> for Family {
    type Error = AfiSafi;

    fn try_from(value: AfiSafi) -> Result<Self, AfiSafi> {
        match (value.afi, value.safi) {
            (1, 1) => Ok(Self::Ipv4Unicast),
            (2, 1) => Ok(Self::Ipv6Unicast),
            _ => Err(value),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FamilySet(u8);

impl FamilySet {
    /// No family.
    pub const EMPTY: Self = Self(0);
    /// Every family this speaker carries.
    pub const ALL: Self = Self(0b11);

    /// The set with `family` in it too.
    #[must_use]
    pub const fn with(self, family: Family) -> Self {
        Self(self.0 | 1 << family.index())
    }

    /// The set without `family`.
    #[must_use]
    pub const fn without(self, family: Family) -> Self {
        Self(self.0 & !(1 << family.index()))
    }

    /// Whether `family` is in the set.
    #[must_use]
    pub const fn contains(self, family: Family) -> bool {
        self.0 & 1 << family.index() != 0
    }

    /// What both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is no family in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The families in wire order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(iter: I) -> Self {
        iter.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Whether the peer is in our AS. Some attributes mean different things to the two (RFC 4271 §5,
/// RFC 7606 §7).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SessionKind {
    /// iBGP: the peer has our AS number.
    Internal,
    /// eBGP: it has another.
    External,
}

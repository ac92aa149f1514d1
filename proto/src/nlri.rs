//! Network Layer Reachability Information: prefixes on the wire (RFC 4271 §4.3, RFC 7911 §3).
//!
//! NLRI are validated once, when the message is read, and then kept as the octets they came in:
//! iterating decodes them without a list in between.

use std::fmt;
use std::hash::Hash;

use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::types::Family;

/// Path identifier (RFC 7911 §3); 0 where the session does not carry any.
pub type PathId = u32;

/// A prefix of one family: what the tables of that family are keyed by.
pub trait NlriPrefix:
    Copy + Eq + Ord + Hash + fmt::Debug + fmt::Display + Into<IpNet> + Send + Sync + 'static
{
    /// The family.
    const FAMILY: Family;

    /// Reads one prefix that validation has passed, and moves `octets` behind it.
    /// Bits beyond the length are cleared.
    fn read(octets: &mut &[u8]) -> Self;

    /// Appends length and significant octets.
    fn write(&self, out: &mut BytesMut);

    /// The prefix, if it is of this family.
    fn from_ipnet(net: IpNet) -> Option<Self>;
}

impl NlriPrefix for Ipv4Net {
    const FAMILY: Family = Family::Ipv4Unicast;

    fn read(octets: &mut &[u8]) -> Self {
        let _ = octets;
        todo!()
    }

    fn write(&self, out: &mut BytesMut) {
        let _ = out;
        todo!()
    }

    fn from_ipnet(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }
    }
}

impl NlriPrefix for Ipv6Net {
    const FAMILY: Family = Family::Ipv6Unicast;

    fn read(octets: &mut &[u8]) -> Self {
        let _ = octets;
        todo!()
    }

    fn write(&self, out: &mut BytesMut) {
        let _ = out;
        todo!()
    }

    fn from_ipnet(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => None,
        }
    }
}

/// Validated NLRI of one family, as the octets they came in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nlri {
    family: Family,
    add_path: bool,
    count: u32,
    octets: Bytes,
}

impl Nlri {
    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether each prefix comes with a path identifier.
    #[must_use]
    pub fn add_path(&self) -> bool {
        self.add_path
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The wire form.
    #[must_use]
    pub fn octets(&self) -> &Bytes {
        &self.octets
    }

    /// NLRI from prefixes, for tests and tools. `add_path` writes the identifiers.
    pub fn from_prefixes<P: NlriPrefix>(
        prefixes: impl IntoIterator<Item = (PathId, P)>,
        add_path: bool,
    ) -> Self {
        let _ = (prefixes.into_iter(), add_path);
        todo!()
    }

    /// The prefixes in wire order. Yields nothing if `P` is of another family.
    pub fn iter<P: NlriPrefix>(&self) -> impl Iterator<Item = (PathId, P)> + '_ {
        let mut octets: &[u8] = if P::FAMILY == self.family { &self.octets } else { &[] };
        std::iter::from_fn(move || {
            if octets.is_empty() {
                return None;
            }
            Some((0, P::read(&mut octets)))
        })
    }

    /// The prefixes of whichever family, for display.
    pub fn iter_any(&self) -> Box<dyn Iterator<Item = (PathId, IpNet)> + '_> {
        match self.family {
            Family::Ipv4Unicast => {
                Box::new(self.iter::<Ipv4Net>().map(|(id, net)| (id, net.into())))
            }
            Family::Ipv6Unicast => {
                Box::new(self.iter::<Ipv6Net>().map(|(id, net)| (id, net.into())))
            }
        }
    }
}

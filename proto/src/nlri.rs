//! Network Layer Reachability Information: prefixes on the wire (RFC 4271 §4.3, RFC 7911 §3).
//!
//! NLRI are validated once, when the message is read, and then kept as the octets they came in:
//! iterating decodes them without a list in between.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};
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
    /// Longest prefix length: 32 or 128.
    const MAX_BITS: u8;

    /// Prefix length.
    fn bits(&self) -> u8;

    /// Reads one prefix that validation has passed, and moves `octets` behind it.
    /// Bits beyond the length are cleared. Octets that validation has not passed give some prefix
    /// or other, never a panic.
    fn read(octets: &mut &[u8]) -> Self;

    /// Writes length and significant octets to the start of `place`, bits beyond the length
    /// cleared, and returns how many octets that are. What stands behind them is undefined.
    fn put(&self, place: &mut [u8; 17]) -> usize;

    /// Appends length and significant octets, bits beyond the length cleared.
    fn write(&self, out: &mut BytesMut) {
        let mut place = [0; 17];
        let length = self.put(&mut place);
        out.put_slice(&place[..length]);
    }

    /// The prefix, if it is of this family.
    fn from_ipnet(net: IpNet) -> Option<Self>;
}

impl NlriPrefix for Ipv4Net {
    const FAMILY: Family = Family::Ipv4Unicast;

    const MAX_BITS: u8 = 32;

    #[inline]
    fn bits(&self) -> u8 {
        self.prefix_len()
    }

    #[inline]
    fn read(octets: &mut &[u8]) -> Self {
        let (bits, address) = read_bits::<4>(octets);
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let address = Ipv4Addr::from(u32::from_be_bytes(address) & mask);
        Ipv4Net::new_assert(address, bits)
    }

    #[inline]
    fn put(&self, place: &mut [u8; 17]) -> usize {
        place[0] = self.prefix_len();
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len())).unwrap_or(0);
        let address = u32::from(self.addr()) & mask;
        place[1..5].copy_from_slice(&address.to_be_bytes());
        1 + usize::from(self.prefix_len()).div_ceil(8)
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

    const MAX_BITS: u8 = 128;

    #[inline]
    fn bits(&self) -> u8 {
        self.prefix_len()
    }

    #[inline]
    fn read(octets: &mut &[u8]) -> Self {
        let (bits, address) = read_bits::<16>(octets);
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        let address = Ipv6Addr::from(u128::from_be_bytes(address) & mask);
        Ipv6Net::new_assert(address, bits)
    }

    #[inline]
    fn put(&self, place: &mut [u8; 17]) -> usize {
        place[0] = self.prefix_len();
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len())).unwrap_or(0);
        let address = u128::from(self.addr()) & mask;
        place[1..].copy_from_slice(&address.to_be_bytes());
        1 + usize::from(self.prefix_len()).div_ceil(8)
    }

    fn from_ipnet(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => None,
        }
    }
}

/// The prefix length, cut at what `N` octets hold, and the octets of the address. What stands
/// behind the significant octets is read along where it is there, and masked by the caller.
#[inline]
fn read_bits<const N: usize>(octets: &mut &[u8]) -> (u8, [u8; N]) {
    let [bits, rest @ ..] = *octets else {
        return (0, [0; N]);
    };
    let bits = usize::from(*bits).min(N * 8);
    let length = bits.div_ceil(8).min(rest.len());
    *octets = &rest[length..];
    let address = rest.first_chunk::<N>().copied().unwrap_or_else(|| {
        let mut address = [0; N];
        address[..length].copy_from_slice(&rest[..length]);
        address
    });
    (u8::try_from(bits).unwrap_or(u8::MAX), address)
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
        let mut octets = BytesMut::new();
        let mut count = 0;
        for (path_id, prefix) in prefixes {
            if add_path {
                octets.put_u32(path_id);
            }
            prefix.write(&mut octets);
            count += 1;
        }
        Self { family: P::FAMILY, add_path, count, octets: octets.freeze() }
    }

    /// NLRI from their wire form.
    ///
    /// # Errors
    /// The place and kind of the first fault (RFC 7606 §5.3).
    pub fn from_octets(family: Family, add_path: bool, octets: Bytes) -> Result<Self, NlriFault> {
        let (nlri, _) = Self::check(family, add_path, octets)?;
        Ok(nlri)
    }

    /// Like [`Self::from_octets`], and whether a prefix in it is semantically incorrect.
    pub(crate) fn check(
        family: Family,
        add_path: bool,
        octets: Bytes,
    ) -> Result<(Self, bool), NlriFault> {
        let checked = match family {
            Family::Ipv4Unicast => check_octets::<Ipv4Net>(&octets, add_path)?,
            Family::Ipv6Unicast => check_octets::<Ipv6Net>(&octets, add_path)?,
        };
        Ok((Self { family, add_path, count: checked.count, octets }, checked.improper))
    }

    /// The NLRI without prefixes that are semantically incorrect (RFC 4271 §6.3), and those.
    #[cold]
    pub(crate) fn split_improper(&self) -> (Self, Vec<IpNet>) {
        match self.family {
            Family::Ipv4Unicast => self.split_improper_of::<Ipv4Net>(),
            Family::Ipv6Unicast => self.split_improper_of::<Ipv6Net>(),
        }
    }

    fn split_improper_of<P: NlriPrefix>(&self) -> (Self, Vec<IpNet>) {
        let (improper, proper): (Vec<_>, Vec<_>) =
            self.iter::<P>().partition(|(_, prefix)| is_improper((*prefix).into()));
        let improper = improper.into_iter().map(|(_, prefix)| prefix.into()).collect();
        (Self::from_prefixes(proper, self.add_path), improper)
    }

    /// Both one after the other. They are of the same family and kind.
    #[cold]
    pub(crate) fn join(&self, other: &Self) -> Self {
        debug_assert_eq!((self.family, self.add_path), (other.family, other.add_path));
        let mut octets = BytesMut::with_capacity(self.octets.len() + other.octets.len());
        octets.put_slice(&self.octets);
        octets.put_slice(&other.octets);
        Self { octets: octets.freeze(), count: self.count + other.count, ..*self }
    }

    /// Appends the prefixes, with identifiers if `add_path` says so.
    pub(crate) fn write(&self, add_path: bool, out: &mut BytesMut) {
        if add_path == self.add_path {
            out.put_slice(&self.octets);
            return;
        }
        match self.family {
            Family::Ipv4Unicast => self.rewrite::<Ipv4Net>(add_path, out),
            Family::Ipv6Unicast => self.rewrite::<Ipv6Net>(add_path, out),
        }
    }

    fn rewrite<P: NlriPrefix>(&self, add_path: bool, out: &mut BytesMut) {
        for (path_id, prefix) in self.iter::<P>() {
            if add_path {
                out.put_u32(path_id);
            }
            prefix.write(out);
        }
    }

    /// The prefixes in wire order. Yields nothing if `P` is of another family.
    pub fn iter<P: NlriPrefix>(&self) -> impl Iterator<Item = (PathId, P)> + '_ {
        let mine = P::FAMILY == self.family;
        NlriIter {
            octets: if mine { &self.octets } else { &[] },
            left: if mine { self.len() } else { 0 },
            add_path: self.add_path,
            prefix: PhantomData,
        }
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

/// Walks validated NLRI.
struct NlriIter<'a, P> {
    octets: &'a [u8],
    left: usize,
    add_path: bool,
    prefix: PhantomData<P>,
}

impl<P: NlriPrefix> Iterator for NlriIter<'_, P> {
    type Item = (PathId, P);

    #[inline]
    fn next(&mut self) -> Option<(PathId, P)> {
        self.left = self.left.checked_sub(1)?;
        let mut path_id = 0;
        if self.add_path
            && let Some((identifier, rest)) = self.octets.split_first_chunk()
        {
            path_id = u32::from_be_bytes(*identifier);
            self.octets = rest;
        }
        Some((path_id, P::read(&mut self.octets)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Why octets are no NLRI (RFC 7606 §5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason} at octet {offset} of the NLRI")]
pub struct NlriFault {
    /// Octets from the start of the NLRI to the prefix concerned.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: NlriFaultReason,
}

/// What can be wrong with a prefix on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NlriFaultReason {
    /// A prefix length that the family does not have.
    #[error("prefix length {0} is beyond the family's")]
    PrefixLength(u8),
    /// The octets end within a prefix or its identifier.
    #[error("the field ends within a prefix")]
    Truncated,
}

struct Checked {
    count: u32,
    improper: bool,
}

/// The one place where NLRI are validated. Counts them.
fn check_octets<P: NlriPrefix>(octets: &[u8], add_path: bool) -> Result<Checked, NlriFault> {
    let mut rest = octets;
    let mut checked = Checked { count: 0, improper: false };
    while !rest.is_empty() {
        let fault = |reason| NlriFault { offset: octets.len() - rest.len(), reason };
        let start = if add_path { 4 } else { 0 };
        let Some((&[bits], body)) = rest.get(start..).and_then(<[u8]>::split_first_chunk) else {
            return Err(fault(NlriFaultReason::Truncated));
        };
        if bits > P::MAX_BITS {
            return Err(fault(NlriFaultReason::PrefixLength(bits)));
        }
        let Some((address, next)) = body.split_at_checked(usize::from(bits).div_ceil(8)) else {
            return Err(fault(NlriFaultReason::Truncated));
        };
        // A first look only, at what is never there in good messages; `is_improper` decides.
        checked.improper |= match P::FAMILY {
            Family::Ipv4Unicast => address.first().is_some_and(|first| *first >= 0xe0),
            Family::Ipv6Unicast => address.first().is_some_and(|first| *first >= 0xfe),
        };
        checked.count += 1;
        rest = next;
    }
    Ok(checked)
}

/// Whether no unicast route can have this prefix: multicast (RFC 4271 §6.3 names it), or IPv6
/// link-local, which is not routed (RFC 4291 §2.5.6).
fn is_improper(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => net.prefix_len() >= 4 && net.network().is_multicast(),
        IpNet::V6(net) => {
            let address = net.network();
            net.prefix_len() >= 8 && address.is_multicast()
                || net.prefix_len() >= 10 && address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    #[test]
    fn prefixes_go_there_and_back_with_and_without_path_ids() {
        let prefixes: Vec<(PathId, Ipv4Net)> =
            ["0.0.0.0/0", "10.0.0.0/8", "10.244.1.0/25", "192.0.2.1/32"]
                .iter()
                .zip([1, 2, u32::MAX, 0])
                .map(|(text, id)| (id, v4(text)))
                .collect();
        let nlri = Nlri::from_prefixes(prefixes.clone(), true);
        assert_eq!(nlri.len(), 4);
        assert_eq!(nlri.iter::<Ipv4Net>().collect::<Vec<_>>(), prefixes);
        assert_eq!(nlri.iter::<Ipv6Net>().count(), 0, "another family");
        let read = Nlri::from_octets(Family::Ipv4Unicast, true, nlri.octets().clone());
        assert_eq!(read, Ok(nlri));

        let plain = Nlri::from_prefixes(prefixes.clone(), false);
        assert_eq!(&plain.octets()[..], b"\x00\x08\x0a\x19\x0a\xf4\x01\x00\x20\xc0\x00\x02\x01");
        let ids: Vec<PathId> = plain.iter::<Ipv4Net>().map(|(id, _)| id).collect();
        assert_eq!(ids, [0; 4]);
    }

    #[test]
    fn bits_beyond_the_length_are_cleared() {
        let octets = Bytes::from_static(b"\x11\x0a\x01\xff");
        let nlri = Nlri::from_octets(Family::Ipv4Unicast, false, octets).expect("valid");
        let read: Vec<_> = nlri.iter::<Ipv4Net>().collect();
        assert_eq!(read, [(0, v4("10.1.128.0/17"))]);
        let octets = Bytes::from_static(b"\x21\x20\x01\x0d\xb8\xff");
        let nlri = Nlri::from_octets(Family::Ipv6Unicast, false, octets).expect("valid");
        let read: Vec<_> = nlri.iter_any().map(|(_, net)| net.to_string()).collect();
        assert_eq!(read, ["2001:db8:8000::/33"]);
    }

    #[test]
    fn faults_name_their_place() {
        let check = |octets: &'static [u8], add_path| {
            Nlri::from_octets(Family::Ipv4Unicast, add_path, Bytes::from_static(octets))
        };
        let fault = |offset, reason| Err(NlriFault { offset, reason });
        let beyond = NlriFaultReason::PrefixLength(33);
        assert_eq!(check(b"\x08\x0a\x21\x01\x02\x03\x04\x05", false), fault(2, beyond));
        assert_eq!(check(b"\x08\x0a\x18\x01\x02", false), fault(2, NlriFaultReason::Truncated));
        assert_eq!(check(b"\0\0\0\x01", true), fault(0, NlriFaultReason::Truncated));
        assert_eq!(check(b"", false).map(|nlri| nlri.len()), Ok(0));
    }

    #[test]
    fn unvalidated_octets_do_not_panic() {
        for octets in [&b""[..], b"\xff", b"\x20\x01", b"\x21\x01\x02\x03\x04\x05"] {
            let _ = Ipv4Net::read(&mut &octets[..]);
            let _ = Ipv6Net::read(&mut &octets[..]);
        }
    }

    #[test]
    fn improper_prefixes_are_found() {
        let list = ["224.0.0.0/4", "239.1.2.0/24", "ff00::/8", "fe80::/10", "fe80:1::/32"];
        for text in list {
            assert!(is_improper(text.parse().expect("a prefix")), "{text}");
        }
        for text in ["224.0.0.0/3", "240.0.0.0/4", "0.0.0.0/0", "::/0", "fec0::/10", "fe00::/7"] {
            assert!(!is_improper(text.parse().expect("a prefix")), "{text}");
        }
    }
}

//! The octets of the load generator: OPEN, pre-encoded UPDATEs, and the reader of the hot path.
//!
//! In flow: what a scenario wants announced. Out flow: whole messages, ready before the clock
//! starts. On the way back [`read_update`] walks one UPDATE and hands every prefix to its visitor.
//! Written by hand and not with the codec of routelet: the instrument must not share the mistakes
//! (nor the speed) of what it measures.
//!
//! What always holds: an UPDATE that the reader does not fully understand is an error, never
//! skipped; every announced prefix comes with the tag of its attribute set, so that a receiver
//! checks not only that a prefix is there but that it has the attributes it must have.

use std::net::Ipv4Addr;

use bytes::Bytes;

/// Octets of a message header.
pub const HEADER_LEN: usize = 19;
/// Longest message without the extended message capability (RFC 4271 §4.1).
pub const MAX_LEN: usize = 4096;

pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;

/// AS number of tag 0; tag `t` of an eBGP scenario is the origin AS `TAG_BASE + t`.
const TAG_BASE: u32 = 1_000_000;

/// The prefixes of a scenario: `count` consecutive IPv4 prefixes of one length. A prefix is known
/// by its index everywhere else.
#[derive(Clone, Copy, Debug)]
pub struct Universe {
    pub base: Ipv4Addr,
    pub prefix_len: u8,
    pub count: usize,
}

impl Universe {
    /// `count` prefixes of /24 from 11.0.0.0 on: unicast addresses that no daemon treats specially.
    pub fn table(count: usize) -> Universe {
        assert!(count <= 6 << 20, "the prefixes must stay below 127.0.0.0");
        Universe { base: Ipv4Addr::new(11, 0, 0, 0), prefix_len: 24, count }
    }

    /// `count` pod blocks of /26 from 100.64.0.0 on.
    pub fn pods(count: usize) -> Universe {
        assert!(count <= 65_536, "the pod blocks must stay inside 100.64.0.0/10");
        Universe { base: Ipv4Addr::new(100, 64, 0, 0), prefix_len: 26, count }
    }

    fn network(&self, index: usize) -> u32 {
        u32::from(self.base) + ((index as u32) << (32 - self.prefix_len))
    }

    fn index(&self, length: u8, network: u32) -> Option<usize> {
        let offset = network.checked_sub(u32::from(self.base))?;
        let index = (offset >> (32 - self.prefix_len)) as usize;
        (length == self.prefix_len && index < self.count && self.network(index) == network)
            .then_some(index)
    }

    fn octets(&self) -> usize {
        usize::from(self.prefix_len).div_ceil(8)
    }

    fn put(&self, index: usize, out: &mut Vec<u8>) {
        out.push(self.prefix_len);
        out.extend_from_slice(&self.network(index).to_be_bytes()[..self.octets()]);
    }
}

/// Who announces, as far as attributes depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Speaker {
    pub address: Ipv4Addr,
    pub asn: u32,
    /// eBGP: AS_PATH starts with `asn` and ends in the tag. iBGP: AS_PATH is empty (a node's own
    /// pod CIDR) and MULTI_EXIT_DISC carries the tag.
    pub external: bool,
}

/// An OPEN that offers IPv4 unicast, route refresh and 4-octet AS numbers.
pub fn open(speaker: Speaker, hold_time: u16) -> Bytes {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend_from_slice(&speaker.asn.to_be_bytes());
    let mut body = vec![4];
    body.extend_from_slice(&u16::try_from(speaker.asn).unwrap_or(23_456).to_be_bytes());
    body.extend_from_slice(&hold_time.to_be_bytes());
    body.extend_from_slice(&speaker.address.octets());
    body.extend_from_slice(&[capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend_from_slice(&capabilities);
    message(OPEN, &body).into()
}

/// A KEEPALIVE.
pub fn keepalive() -> Bytes {
    message(KEEPALIVE, &[]).into()
}

/// Announces the prefixes of each `(tag, indices)`: one UPDATE per set, more where 4096 octets ask
/// for it.
pub fn announce<I>(speaker: Speaker, universe: Universe, sets: I) -> Bytes
where
    I: IntoIterator<Item = (u32, std::ops::Range<usize>)>,
{
    let mut out = Vec::new();
    let per_prefix = 1 + universe.octets();
    for (tag, indices) in sets {
        let attributes = attributes(speaker, tag);
        let room = (MAX_LEN - HEADER_LEN - 4 - attributes.len()) / per_prefix;
        let mut next = indices.start;
        while next < indices.end {
            let end = indices.end.min(next + room);
            let body = 4 + attributes.len() + (end - next) * per_prefix;
            header(UPDATE, body, &mut out);
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
            out.extend_from_slice(&attributes);
            (next..end).for_each(|index| universe.put(index, &mut out));
            next = end;
        }
    }
    out.into()
}

/// End-of-RIB of IPv4 unicast (RFC 4724 §2).
pub fn end_of_rib() -> Bytes {
    let mut out = Vec::new();
    header(UPDATE, 4, &mut out);
    out.extend_from_slice(&[0; 4]);
    out.into()
}

/// Withdraws the prefixes, as many to an UPDATE as fit.
pub fn withdraw(universe: Universe, indices: std::ops::Range<usize>) -> Bytes {
    let mut out = Vec::new();
    let per_prefix = 1 + universe.octets();
    let room = (MAX_LEN - HEADER_LEN - 4) / per_prefix;
    let mut next = indices.start;
    while next < indices.end {
        let end = indices.end.min(next + room);
        let octets = (end - next) * per_prefix;
        header(UPDATE, 4 + octets, &mut out);
        out.extend_from_slice(&(octets as u16).to_be_bytes());
        (next..end).for_each(|index| universe.put(index, &mut out));
        out.extend_from_slice(&[0, 0]);
        next = end;
    }
    out.into()
}

/// What the body of an UPDATE can be wrong in, for the report of a failed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// A length points outside the message.
    Length,
    /// A prefix outside the universe.
    ForeignPrefix,
    /// Prefixes without the attribute that carries the tag.
    NoTag,
}

/// Walks the body of an UPDATE: `visit(index, tag)` for each prefix, `tag` 0 for a withdrawal.
pub fn read_update(
    universe: Universe,
    external: bool,
    body: &[u8],
    mut visit: impl FnMut(usize, u32),
) -> Result<(), ReadError> {
    let (withdrawn, rest) = counted(body)?;
    let (attributes, announced) = counted(rest)?;
    prefixes(universe, withdrawn, |index| visit(index, 0))?;
    if announced.is_empty() {
        return Ok(());
    }
    let tag = tag(external, attributes)?;
    prefixes(universe, announced, |index| visit(index, tag))
}

fn tag(external: bool, mut attributes: &[u8]) -> Result<u32, ReadError> {
    while let [flags, code, rest @ ..] = attributes {
        let (value, rest) = if flags & 0x10 != 0 {
            counted(rest)?
        } else {
            let (&length, rest) = rest.split_first().ok_or(ReadError::Length)?;
            rest.split_at_checked(usize::from(length)).ok_or(ReadError::Length)?
        };
        let wanted = if external { 2 } else { 4 };
        if *code == wanted {
            let last = value.last_chunk::<4>().ok_or(ReadError::NoTag)?;
            let last = u32::from_be_bytes(*last);
            let tag = if external { last.checked_sub(TAG_BASE) } else { Some(last) };
            return tag.filter(|&tag| tag != 0).ok_or(ReadError::NoTag);
        }
        attributes = rest;
    }
    Err(ReadError::NoTag)
}

fn prefixes(
    universe: Universe,
    mut octets: &[u8],
    mut visit: impl FnMut(usize),
) -> Result<(), ReadError> {
    while let Some((&length, rest)) = octets.split_first() {
        let count = usize::from(length).div_ceil(8);
        let (network, rest) = rest.split_at_checked(count).ok_or(ReadError::Length)?;
        let mut address = [0; 4];
        address.get_mut(..count).ok_or(ReadError::Length)?.copy_from_slice(network);
        let index = universe.index(length, u32::from_be_bytes(address));
        visit(index.ok_or(ReadError::ForeignPrefix)?);
        octets = rest;
    }
    Ok(())
}

fn counted(octets: &[u8]) -> Result<(&[u8], &[u8]), ReadError> {
    let (length, rest) = octets.split_first_chunk::<2>().ok_or(ReadError::Length)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(ReadError::Length)
}

/// ORIGIN, AS_PATH, NEXT_HOP and either LOCAL_PREF with MULTI_EXIT_DISC (iBGP) or two communities
/// (eBGP): about what a table of the Internet has, four ASes to a path.
fn attributes(speaker: Speaker, tag: u32) -> Vec<u8> {
    let mut out = vec![0x40, 1, 1, 0];
    if speaker.external {
        let path = [
            speaker.asn,
            3000 + tag % 61,
            200_000 + tag % 1009,
            TAG_BASE.checked_add(tag).expect("tags are small"),
        ];
        out.extend_from_slice(&[0x40, 2, 2 + 4 * path.len() as u8, 2, path.len() as u8]);
        path.iter().for_each(|asn| out.extend_from_slice(&asn.to_be_bytes()));
    } else {
        out.extend_from_slice(&[0x40, 2, 0]);
    }
    out.extend_from_slice(&[0x40, 3, 4]);
    out.extend_from_slice(&speaker.address.octets());
    if speaker.external {
        out.extend_from_slice(&[0xc0, 8, 8]);
        out.extend_from_slice(&((3000 << 16) | (tag & 0xff)).to_be_bytes());
        out.extend_from_slice(&((3001 << 16) | (tag % 13)).to_be_bytes());
    } else {
        out.extend_from_slice(&[0x80, 4, 4]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.extend_from_slice(&[0x40, 5, 4, 0, 0, 0, 100]);
    }
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    header(kind, body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

fn header(kind: u8, body: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&((HEADER_LEN + body) as u16).to_be_bytes());
    out.push(kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(universe: Universe, external: bool, mut octets: &[u8]) -> Vec<(usize, u32)> {
        let mut seen = Vec::new();
        while !octets.is_empty() {
            let length = usize::from(u16::from_be_bytes([octets[16], octets[17]]));
            let body = &octets[HEADER_LEN..length];
            assert!(length <= MAX_LEN);
            read_update(universe, external, body, |index, tag| seen.push((index, tag))).unwrap();
            octets = &octets[length..];
        }
        seen
    }

    #[test]
    fn what_is_announced_and_withdrawn_is_read_back() {
        for external in [false, true] {
            let address = Ipv4Addr::new(10, 98, 1, 1);
            let speaker = Speaker { address, asn: 65_001, external };
            let universe = Universe::table(3000);
            let octets = announce(speaker, universe, [(7, 0..2000), (9, 2000..3000)]);
            let wanted: Vec<_> =
                (0..3000).map(|index| (index, if index < 2000 { 7 } else { 9 })).collect();
            assert_eq!(read(universe, external, &octets), wanted);
            let octets = withdraw(universe, 0..3000);
            let wanted: Vec<_> = (0..3000).map(|index| (index, 0)).collect();
            assert_eq!(read(universe, external, &octets), wanted);
        }
    }

    #[test]
    fn a_prefix_outside_the_universe_is_refused() {
        let octets = withdraw(Universe::table(11), 10..11);
        let body = &octets[HEADER_LEN..];
        let seen = read_update(Universe::table(10), true, body, |_, _| {});
        assert_eq!(seen, Err(ReadError::ForeignPrefix));
        let seen = read_update(Universe::pods(10), true, body, |_, _| {});
        assert_eq!(seen, Err(ReadError::ForeignPrefix));
    }

    #[test]
    fn lengths_beyond_the_message_are_refused() {
        let address = Ipv4Addr::new(10, 98, 1, 1);
        let speaker = Speaker { address, asn: 65_001, external: true };
        let octets = announce(speaker, Universe::table(5), [(7, 0..5)]);
        let body = &octets[HEADER_LEN..];
        for cut in 0..body.len() {
            let whole_prefixes = cut >= body.len() - 20 && (body.len() - cut) % 4 == 0;
            let seen = read_update(Universe::table(5), true, &body[..cut], |_, _| {});
            assert_eq!(seen.is_ok(), whole_prefixes, "cut at {cut} of {}", body.len());
        }
    }
}

//! Nexthop objects as the kernel has them, and their messages.
//!
//! In flow: payloads of `RTM_*NEXTHOP`. Out flow: the same as values, and requests appended to a
//! buffer. Two kinds matter here: a *single* (one neighbour over one interface) and a *group* of
//! singles with weights; what else there is (blackholes, forwarding-database entries, resilient
//! groups) is somebody else's and stays [`Content::Other`].

use std::net::IpAddr;

use smallvec::SmallVec;

use super::super::kind;
use crate::netlink::wire::{self, MessageWriter};

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;

const NEXTHOP_GRP_TYPE_MPATH: u16 = 0;
const RTNH_F_ONLINK: u32 = 4;

/// One neighbour over one interface: what a single is told apart by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) struct Gate {
    pub via: IpAddr,
    pub interface: u32,
    /// The kernel is not to check that `via` is on link.
    pub onlink: bool,
}

/// A single's place in a group.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) struct Member {
    pub id: u32,
    /// Weight less one.
    pub hops: u8,
}

/// The members of a group, sorted by id.
pub(in super::super) type Members = SmallVec<[Member; 2]>;

/// What an object is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) enum Content {
    Single(Gate),
    Group(Members),
    Other,
}

/// An object as the kernel reports it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct KernelObject {
    pub id: u32,
    pub protocol: u8,
    pub content: Content,
}

impl KernelObject {
    /// Reads the payload of a nexthop message.
    pub(in super::super) fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.get(..8)?;
        let protocol = fixed[2];
        let onlink = wire::read_u32(fixed, 4)? & RTNH_F_ONLINK != 0;
        let (mut id, mut interface, mut via, mut group) = (0, 0, None, None);
        let mut other = false;
        for (kind, value) in wire::attributes(&payload[8..]) {
            match kind {
                NHA_ID => id = wire::read_u32(value, 0)?,
                NHA_GROUP => group = Some(parse_members(value)),
                NHA_GROUP_TYPE => other |= wire::read_u16(value, 0)? != NEXTHOP_GRP_TYPE_MPATH,
                NHA_OIF => interface = wire::read_u32(value, 0)?,
                NHA_GATEWAY => via = wire::read_address(value),
                NHA_BLACKHOLE | NHA_ENCAP | NHA_FDB => other = true,
                _ => {}
            }
        }
        let content = match (group, via) {
            _ if other => Content::Other,
            (Some(members), _) => Content::Group(members),
            (None, Some(via)) => Content::Single(Gate { via, interface, onlink }),
            (None, None) => Content::Other,
        };
        (id != 0).then_some(Self { id, protocol, content })
    }
}

fn parse_members(value: &[u8]) -> Members {
    let mut members: Members = value
        .chunks_exact(8)
        .filter_map(|entry| Some(Member { id: wire::read_u32(entry, 0)?, hops: entry[4] }))
        .collect();
    members.sort_unstable();
    members
}

/// Appends a request to create a single.
pub(in super::super) fn write_single(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    (id, protocol): (u32, u8),
    gate: &Gate,
) {
    let family = match gate.via {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let flags = flags | wire::NLM_F_REQUEST | wire::NLM_F_CREATE | wire::NLM_F_EXCL;
    let mut writer = MessageWriter::new(buffer, kind::RTM_NEWNEXTHOP, flags, sequence);
    let nexthop_flags = if gate.onlink { RTNH_F_ONLINK } else { 0 };
    write_fixed(&mut writer, family as u8, protocol, nexthop_flags);
    writer.attribute_u32(NHA_ID, id);
    writer.attribute_address(NHA_GATEWAY, gate.via);
    writer.attribute_u32(NHA_OIF, gate.interface);
    writer.finish();
}

/// Appends a request to create a group, or to put other members into it in one step.
pub(in super::super) fn write_group(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    (id, protocol): (u32, u8),
    members: &[Member],
    replace: bool,
) {
    let how = if replace { wire::NLM_F_REPLACE } else { wire::NLM_F_EXCL };
    let flags = flags | wire::NLM_F_REQUEST | wire::NLM_F_CREATE | how;
    let mut writer = MessageWriter::new(buffer, kind::RTM_NEWNEXTHOP, flags, sequence);
    write_fixed(&mut writer, libc::AF_UNSPEC as u8, protocol, 0);
    writer.attribute_u32(NHA_ID, id);
    let mut entries = SmallVec::<[u8; 64]>::new();
    for member in members {
        entries.extend_from_slice(&member.id.to_ne_bytes());
        entries.extend_from_slice(&[member.hops, 0, 0, 0]);
    }
    writer.attribute(NHA_GROUP, &entries);
    writer.finish();
}

/// Appends a request to delete an object. The kernel deletes the routes that use it as well!
pub(in super::super) fn write_delete(buffer: &mut Vec<u8>, (flags, sequence): (u16, u32), id: u32) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_DELNEXTHOP, flags, sequence);
    write_fixed(&mut writer, libc::AF_UNSPEC as u8, 0, 0);
    writer.attribute_u32(NHA_ID, id);
    writer.finish();
}

/// Appends a request to list all objects; the kernel filters by neither protocol nor range.
pub(in super::super) fn write_dump(buffer: &mut Vec<u8>, sequence: u32) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETNEXTHOP, flags, sequence);
    write_fixed(&mut writer, libc::AF_UNSPEC as u8, 0, 0);
    writer.finish();
}

/// `struct nhmsg`.
fn write_fixed(writer: &mut MessageWriter<'_>, family: u8, protocol: u8, flags: u32) {
    writer.octets(&[family, 0, protocol, 0]);
    writer.octets(&flags.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn read_back(buffer: &[u8]) -> KernelObject {
        let (header, payload) = wire::messages(buffer).next().unwrap();
        assert_eq!(header.kind, kind::RTM_NEWNEXTHOP);
        KernelObject::parse(payload).unwrap()
    }

    #[test]
    fn requests_read_back_as_objects() {
        for (via, onlink) in [("10.0.0.2", false), ("fe80::1", false), ("10.0.0.9", true)] {
            let gate = Gate { via: via.parse().unwrap(), interface: 3, onlink };
            let mut buffer = Vec::new();
            write_single(&mut buffer, (0, 1), (7, 179), &gate);
            let content = Content::Single(gate);
            assert_eq!(read_back(&buffer), KernelObject { id: 7, protocol: 179, content });
        }
        let members: Members = smallvec![Member { id: 7, hops: 0 }, Member { id: 9, hops: 3 }];
        let mut buffer = Vec::new();
        write_group(&mut buffer, (0, 1), (8, 179), &members, true);
        let content = Content::Group(members);
        assert_eq!(read_back(&buffer), KernelObject { id: 8, protocol: 179, content });
    }

    #[test]
    fn a_cut_message_never_panics_and_one_without_an_id_is_none() {
        let mut buffer = Vec::new();
        let members = [Member { id: 7, hops: 0 }];
        write_group(&mut buffer, (0, 1), (8, 179), &members, false);
        for cut in 0..buffer.len() - wire::HEADER_LENGTH {
            let _ = KernelObject::parse(&buffer[wire::HEADER_LENGTH..wire::HEADER_LENGTH + cut]);
        }
        assert_eq!(KernelObject::parse(&[0; 8]), None);
    }
}

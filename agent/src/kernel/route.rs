//! Routes as the kernel has them, and their messages.
//!
//! In flow: payloads of `RTM_*ROUTE`. Out flow: the same as values, and requests appended to a buffer.
//!
//! What always holds: two [`Target`]s are equal exactly when the kernel forwards the same way:
//! hops are sorted, flags that only tell about the link (dead, linkdown) are left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smallvec::SmallVec;

use super::kind;
use crate::netlink::wire::{self, MessageWriter};

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;

pub(super) const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
pub(super) const RTN_BLACKHOLE: u8 = 6;
pub(super) const RTN_UNREACHABLE: u8 = 7;
pub(super) const RTN_PROHIBIT: u8 = 8;
pub(super) const RTN_THROW: u8 = 9;

const RT_SCOPE_UNIVERSE: u8 = 0;
pub(super) const RT_SCOPE_LINK: u8 = 253;
/// In a request to delete: whatever the scope.
const RT_SCOPE_NOWHERE: u8 = 255;

const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;

/// The main table's number.
pub const MAIN_TABLE: u32 = 254;

/// What the kernel tells routes apart by: a replace matches exactly these, not the protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct RouteKey {
    pub prefix: IpNet,
    pub metric: u32,
    pub table: u32,
}

/// One way out of the node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Hop {
    /// The neighbour packets are handed to; `None`: the destination itself is on link.
    pub via: Option<IpAddr>,
    /// Index of the interface; 0 where the kernel names none.
    pub interface: u32,
    /// The kernel is not to check that `via` is on link.
    pub onlink: bool,
    /// Weight less one, as in `rtnexthop`.
    pub hops: u8,
}

/// The hops of a route, sorted, without repetition.
pub(super) type Hops = SmallVec<[Hop; 1]>;

/// Where a route leads.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Target {
    /// Packets are dropped silently.
    Blackhole,
    /// Packets leave by these hops.
    Unicast {
        hops: Hops,
        /// What the node's own packets carry as source where nothing else says; `None`: the
        /// kernel's choice.
        source: Option<IpAddr>,
    },
    /// Any other type of route (unreachable, local, …), by its number.
    Other(u8),
}

/// How a route says where it leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// By its hops.
    Plain(Arc<Target>),
    /// By the id of a nexthop object.
    Group(u32),
}

impl Target {
    /// Whether a packet may leave over the interface.
    pub(super) fn uses(&self, interface: u32) -> bool {
        self.hops().iter().any(|hop| hop.interface == interface)
    }

    /// The ways out; none but for a unicast route.
    pub(super) fn hops(&self) -> &[Hop] {
        match self {
            Self::Unicast { hops, .. } => hops,
            Self::Blackhole | Self::Other(_) => &[],
        }
    }

    /// The preferred source.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Unicast { source, .. } => *source,
            Self::Blackhole | Self::Other(_) => None,
        }
    }
}

/// A route as the kernel reports it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct KernelRoute {
    pub key: RouteKey,
    pub protocol: u8,
    /// `RTN_*`.
    pub kind: u8,
    pub scope: u8,
    pub hops: Hops,
    pub preferred_source: Option<IpAddr>,
    /// Id of its nexthop object; 0: none.
    pub nexthop_id: u32,
}

impl KernelRoute {
    /// Reads the payload of a route message. `None` for what is no entry of a unicast table that
    /// this room could meet: other families, cached exceptions, routes by type of service or source.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        if wire::read_u32(payload, 8)? & RTM_F_CLONED != 0 {
            return None;
        }
        Self::parse_answer(payload)
    }

    /// The same for the answer to a question about one address, which the kernel marks as cached.
    pub(super) fn parse_answer(payload: &[u8]) -> Option<Self> {
        let fixed = payload.get(..12)?;
        let (family, length, source_length, tos) = (fixed[0], fixed[1], fixed[2], fixed[3]);
        let flags = wire::read_u32(fixed, 8)?;
        if source_length != 0 || tos != 0 {
            return None;
        }
        let mut destination = match i32::from(family) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut table, mut metric, mut nexthop_id) = (u32::from(fixed[4]), 0, 0);
        let mut preferred_source = None;
        let mut single =
            Hop { via: None, interface: 0, onlink: flags & RTNH_F_ONLINK != 0, hops: 0 };
        let mut hops = Hops::new();
        for (kind, value) in wire::attributes(&payload[12..]) {
            match kind {
                RTA_DST => destination = wire::read_address(value)?,
                RTA_TABLE => table = wire::read_u32(value, 0)?,
                RTA_PRIORITY => metric = wire::read_u32(value, 0)?,
                RTA_OIF => single.interface = wire::read_u32(value, 0)?,
                RTA_GATEWAY => single.via = wire::read_address(value),
                RTA_VIA => single.via = value.get(2..).and_then(wire::read_address),
                RTA_PREFSRC => preferred_source = wire::read_address(value),
                RTA_NH_ID => nexthop_id = wire::read_u32(value, 0)?,
                RTA_MULTIPATH => hops = parse_multipath(value),
                _ => {}
            }
        }
        if hops.is_empty() && (single.interface != 0 || single.via.is_some()) {
            hops.push(single);
        }
        hops.sort_unstable();
        Some(Self {
            key: RouteKey { prefix: IpNet::new(destination, length).ok()?.trunc(), metric, table },
            protocol: fixed[5],
            kind: fixed[7],
            scope: fixed[6],
            hops,
            preferred_source,
            nexthop_id,
        })
    }

    /// Where it leads.
    pub(super) fn target(&self) -> Target {
        match self.kind {
            RTN_BLACKHOLE => Target::Blackhole,
            RTN_UNICAST => {
                Target::Unicast { hops: self.hops.clone(), source: self.preferred_source }
            }
            other => Target::Other(other),
        }
    }

    /// How it says where it leads.
    pub(super) fn form(&self) -> Form {
        match self.nexthop_id {
            0 => Form::Plain(Arc::new(self.target())),
            id => Form::Group(id),
        }
    }

    /// Whether it is an address of this node rather than a way to somewhere.
    pub(super) fn is_local(&self) -> bool {
        self.kind == RTN_LOCAL
    }
}

fn parse_multipath(mut buffer: &[u8]) -> Hops {
    let mut hops = Hops::new();
    while let (Some(length), Some(interface)) =
        (wire::read_u16(buffer, 0).map(usize::from), wire::read_u32(buffer, 4))
    {
        if length < 8 || length > buffer.len() {
            break;
        }
        let mut hop = Hop {
            via: None,
            interface,
            onlink: u32::from(buffer[2]) & RTNH_F_ONLINK != 0,
            hops: buffer[3],
        };
        for (kind, value) in wire::attributes(&buffer[8..length]) {
            match kind {
                RTA_GATEWAY => hop.via = wire::read_address(value),
                RTA_VIA => hop.via = value.get(2..).and_then(wire::read_address),
                _ => {}
            }
        }
        hops.push(hop);
        buffer = &buffer[wire::align(length).min(buffer.len())..];
    }
    hops
}

/// Appends a request to create or replace a route.
pub(super) fn write_put(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    key: &RouteKey,
    protocol: u8,
    form: &Form,
) {
    let target = match form {
        Form::Plain(target) => &**target,
        Form::Group(id) => return write_put_group(buffer, (flags, sequence), key, protocol, *id),
    };
    let (kind, hops) = match target {
        Target::Blackhole => (RTN_BLACKHOLE, &[][..]),
        Target::Unicast { hops, .. } => (RTN_UNICAST, hops.as_slice()),
        Target::Other(kind) => (*kind, &[][..]),
    };
    let on_link_only = !hops.is_empty() && hops.iter().all(|hop| hop.via.is_none());
    let scope = if on_link_only && matches!(key.prefix, IpNet::V4(_)) {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    let route_flags = match hops {
        [hop] if hop.onlink => RTNH_F_ONLINK,
        _ => 0,
    };
    let flags = flags | wire::NLM_F_REQUEST | wire::NLM_F_CREATE;
    let mut writer = MessageWriter::new(buffer, kind::RTM_NEWROUTE, flags, sequence);
    write_fixed(&mut writer, key, protocol, scope, kind, route_flags);
    if let Some(source) = target.source() {
        writer.attribute_address(RTA_PREFSRC, source);
    }
    match hops {
        [] => {}
        [hop] => {
            write_via(&mut writer, key, hop);
            writer.attribute_u32(RTA_OIF, hop.interface);
        }
        several => {
            let start = writer.position();
            writer.octets(&0u16.to_ne_bytes());
            writer.octets(&RTA_MULTIPATH.to_ne_bytes());
            for hop in several {
                let hop_start = writer.position();
                let onlink = if hop.onlink { RTNH_F_ONLINK as u8 } else { 0 };
                writer.octets(&[0, 0, onlink, hop.hops]);
                writer.octets(&hop.interface.to_ne_bytes());
                write_via(&mut writer, key, hop);
                writer.patch_length(hop_start);
            }
            writer.patch_length(start);
        }
    }
    writer.finish();
}

/// The same through a nexthop object: nothing else is to be said of where it leads.
fn write_put_group(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    key: &RouteKey,
    protocol: u8,
    id: u32,
) {
    let flags = flags | wire::NLM_F_REQUEST | wire::NLM_F_CREATE;
    let mut writer = MessageWriter::new(buffer, kind::RTM_NEWROUTE, flags, sequence);
    write_fixed(&mut writer, key, protocol, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0);
    writer.attribute_u32(RTA_NH_ID, id);
    writer.finish();
}

/// Appends a request to delete a route; the kernel honours the protocol, so that a route somebody
/// else has put in its place stays.
pub(super) fn write_delete(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    key: &RouteKey,
    protocol: u8,
) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_DELROUTE, flags, sequence);
    write_fixed(&mut writer, key, protocol, RT_SCOPE_NOWHERE, 0, 0);
    writer.finish();
}

fn write_fixed(
    writer: &mut MessageWriter<'_>,
    key: &RouteKey,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
) {
    let family = match key.prefix {
        IpNet::V4(_) => libc::AF_INET,
        IpNet::V6(_) => libc::AF_INET6,
    };
    // The one-octet table of the fixed part stays 0 (unspecified); RTA_TABLE rules.
    writer.octets(&[family as u8, key.prefix.prefix_len(), 0, 0, 0, protocol, scope, kind]);
    writer.octets(&flags.to_ne_bytes());
    writer.attribute_u32(RTA_TABLE, key.table);
    writer.attribute_address(RTA_DST, key.prefix.network());
    writer.attribute_u32(RTA_PRIORITY, key.metric);
}

fn write_via(writer: &mut MessageWriter<'_>, key: &RouteKey, hop: &Hop) {
    match (hop.via, key.prefix) {
        (None, _) => {}
        // RFC 8950: an IPv4 prefix behind an IPv6 neighbour.
        (Some(IpAddr::V6(via)), IpNet::V4(_)) => {
            let mut value = [0; 18];
            value[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            value[2..].copy_from_slice(&via.octets());
            writer.attribute(RTA_VIA, &value);
        }
        (Some(via), _) => writer.attribute_address(RTA_GATEWAY, via),
    }
}

/// What a dump of routes is limited to, by the kernel itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RouteFilter {
    pub table: u32,
    /// `None`: routes of everybody.
    pub protocol: Option<u8>,
}

/// Appends a request to list the routes of one family that pass the filter.
pub(super) fn write_route_dump(
    buffer: &mut Vec<u8>,
    sequence: u32,
    family: i32,
    filter: RouteFilter,
) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETROUTE, flags, sequence);
    writer.octets(&[family as u8, 0, 0, 0, 0, filter.protocol.unwrap_or(0), 0, 0, 0, 0, 0, 0]);
    writer.attribute_u32(RTA_TABLE, filter.table);
    writer.finish();
}

/// Appends the question which route packets to an address take.
pub(super) fn write_route_get(buffer: &mut Vec<u8>, sequence: u32, address: IpAddr) {
    let (family, length) = match address {
        IpAddr::V4(_) => (libc::AF_INET, 32),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_ACK;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETROUTE, flags, sequence);
    writer.octets(&[family as u8, length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    writer.attribute_address(RTA_DST, address);
    writer.finish();
}

/// Makes a prefix of one address.
pub(super) fn host_prefix(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::from(address)),
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn hop(via: &str, interface: u32) -> Hop {
        Hop { via: Some(via.parse().unwrap()), interface, onlink: false, hops: 0 }
    }

    fn unicast(hops: Hops) -> Target {
        Target::Unicast { hops, source: None }
    }

    fn key(prefix: &str) -> RouteKey {
        RouteKey { prefix: prefix.parse().unwrap(), metric: 1179, table: 5000 }
    }

    fn round_trip(key: RouteKey, target: Target) {
        let mut buffer = Vec::new();
        let form = Form::Plain(Arc::new(target.clone()));
        write_put(&mut buffer, (wire::NLM_F_EXCL, 3), &key, 179, &form);
        let (header, payload) = wire::messages(&buffer).next().unwrap();
        assert_eq!((header.kind, header.sequence), (kind::RTM_NEWROUTE, 3));
        let route = KernelRoute::parse(payload).unwrap();
        assert_eq!((route.key, route.protocol), (key, 179));
        assert_eq!(route.target(), target);
    }

    #[test]
    fn requests_read_back_as_routes() {
        round_trip(key("10.1.0.0/24"), Target::Blackhole);
        round_trip(key("fd00:1::/64"), Target::Blackhole);
        round_trip(key("10.1.0.0/24"), unicast(smallvec![hop("10.0.0.2", 3)]));
        round_trip(key("::/0"), unicast(smallvec![hop("fe80::1", 3)]));
        round_trip(key("10.1.0.0/24"), unicast(smallvec![hop("fe80::1", 3)]));
        let onlink = Hop { onlink: true, ..hop("10.0.0.9", 2) };
        round_trip(key("0.0.0.0/0"), unicast(smallvec![onlink]));
        let two = smallvec![hop("10.0.0.2", 3), hop("10.0.0.3", 4)];
        round_trip(key("10.1.0.0/24"), unicast(two));
        let two = smallvec![hop("fd00::2", 3), Hop { hops: 4, ..hop("fd00::3", 3) }];
        round_trip(key("fd00:1::/64"), unicast(two));
        let (hops, source) = (smallvec![onlink], "10.0.0.1".parse().ok());
        round_trip(key("10.1.0.0/24"), Target::Unicast { hops, source });
        let (hops, source) = (smallvec![hop("fd00::2", 3)], "fd00:9::".parse().ok());
        round_trip(key("fd00:1::/64"), Target::Unicast { hops, source });
    }

    #[test]
    fn a_route_through_an_object_names_nothing_else() {
        let mut buffer = Vec::new();
        write_put(&mut buffer, (0, 3), &key("fd00:1::/64"), 179, &Form::Group(0x7200_0000));
        let (_, payload) = wire::messages(&buffer).next().unwrap();
        let route = KernelRoute::parse(payload).unwrap();
        assert_eq!((route.nexthop_id, route.hops.len()), (0x7200_0000, 0));
    }

    #[test]
    fn a_cut_route_message_never_panics() {
        let mut buffer = Vec::new();
        let two = smallvec![hop("10.0.0.2", 3), hop("10.0.0.3", 4)];
        let form = Form::Plain(Arc::new(unicast(two)));
        write_put(&mut buffer, (0, 3), &key("10.1.0.0/24"), 179, &form);
        for cut in 0..buffer.len() - wire::HEADER_LENGTH {
            let _ = KernelRoute::parse(&buffer[wire::HEADER_LENGTH..wire::HEADER_LENGTH + cut]);
        }
    }
}

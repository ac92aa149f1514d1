//! Octets about tunnel devices: links, their addresses, and the entries that lead VXLAN packets.
//!
//! What always holds: what is parsed and what is written are the same values, so that comparing
//! what is with what should be is comparing values.

use std::net::IpAddr;

use super::super::kind;
use super::super::link::{
    IFA_ADDRESS, IFA_LOCAL, IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_LINKINFO, IFLA_MTU, IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_PORT, LinkKind,
};
use super::Mac;
use crate::netlink::wire::{self, MessageWriter};

const IFLA_AF_SPEC: u16 = 26;

const IFLA_IPTUN_TTL: u16 = 4;
const IFLA_IPTUN_PMTUDISC: u16 = 10;

const IFLA_INET_CONF: u16 = 1;
/// Number of rp_filter among the settings of an interface.
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

/// Loose reverse-path filtering: a packet passes when its source is reachable over any interface.
pub(super) const LOOSE: u32 = 2;

/// Appends a request to create an interface that is still down.
pub(super) fn write_create(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    name: &str,
    kind: &LinkKind,
    mtu: u32,
    mac: Option<Mac>,
) {
    let flags = flags | wire::NLM_F_REQUEST | wire::NLM_F_CREATE | wire::NLM_F_EXCL;
    let mut writer = MessageWriter::new(buffer, kind::RTM_NEWLINK, flags, sequence);
    write_link_header(&mut writer, 0, false);
    write_name(&mut writer, name);
    writer.attribute_u32(IFLA_MTU, mtu);
    if let Some(mac) = mac {
        writer.attribute(IFLA_ADDRESS, &mac.0);
    }
    writer.nested(IFLA_LINKINFO, |writer| match kind {
        LinkKind::IpIp { local, remote } => {
            writer.attribute(IFLA_INFO_KIND, b"ipip\0");
            writer.nested(IFLA_INFO_DATA, |writer| {
                writer.attribute_address(IFLA_IPTUN_LOCAL, *local);
                writer.attribute_address(IFLA_IPTUN_REMOTE, *remote);
                // 0: as in the inner packet. Path MTU discovery goes with that.
                writer.attribute(IFLA_IPTUN_TTL, &[0]);
                writer.attribute(IFLA_IPTUN_PMTUDISC, &[1]);
            });
        }
        LinkKind::Vxlan(vxlan) => {
            writer.attribute(IFLA_INFO_KIND, b"vxlan\0");
            writer.nested(IFLA_INFO_DATA, |writer| {
                writer.attribute_u32(IFLA_VXLAN_ID, vxlan.vni);
                writer.attribute(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                writer.attribute(IFLA_VXLAN_LEARNING, &[u8::from(vxlan.learning)]);
                if let Some(local) = vxlan.local {
                    let attribute =
                        if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                    writer.attribute_address(attribute, local);
                }
            });
        }
        LinkKind::Physical | LinkKind::Other(_) => {}
    });
    writer.finish();
}

/// Appends a request that the kernel makes up no link-local address for an interface.
pub(super) fn write_no_link_local(buffer: &mut Vec<u8>, (flags, sequence): (u16, u32), name: &str) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_SETLINK, flags, sequence);
    write_link_header(&mut writer, 0, false);
    write_name(&mut writer, name);
    writer.nested(IFLA_AF_SPEC, |writer| {
        writer.nested(libc::AF_INET6 as u16, |writer| {
            writer.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
    writer.finish();
}

/// Appends a request to switch an interface on.
pub(super) fn write_up(buffer: &mut Vec<u8>, (flags, sequence): (u16, u32), name: &str) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_SETLINK, flags, sequence);
    write_link_header(&mut writer, 0, true);
    write_name(&mut writer, name);
    writer.finish();
}

/// Appends a request to change what may differ of an interface: it is switched on, too.
pub(super) fn write_change(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    interface: u32,
    mtu: u32,
    mac: Option<Mac>,
) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_SETLINK, flags, sequence);
    write_link_header(&mut writer, interface, true);
    writer.attribute_u32(IFLA_MTU, mtu);
    if let Some(mac) = mac {
        writer.attribute(IFLA_ADDRESS, &mac.0);
    }
    writer.finish();
}

/// Appends a request to remove an interface.
pub(super) fn write_remove(buffer: &mut Vec<u8>, (flags, sequence): (u16, u32), interface: u32) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_DELLINK, flags, sequence);
    write_link_header(&mut writer, interface, false);
    writer.finish();
}

/// Appends a request to set the reverse-path filter of an interface.
pub(super) fn write_loose(buffer: &mut Vec<u8>, (flags, sequence): (u16, u32), interface: u32) {
    let flags = flags | wire::NLM_F_REQUEST;
    let mut writer = MessageWriter::new(buffer, kind::RTM_SETLINK, flags, sequence);
    write_link_header(&mut writer, interface, false);
    writer.nested(IFLA_AF_SPEC, |writer| {
        writer.nested(libc::AF_INET as u16, |writer| {
            writer.nested(IFLA_INET_CONF, |writer| {
                writer.attribute_u32(IPV4_DEVCONF_RP_FILTER, LOOSE);
            });
        });
    });
    writer.finish();
}

/// Appends a question about one interface.
pub(super) fn write_link_get(buffer: &mut Vec<u8>, sequence: u32, interface: u32) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_ACK;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETLINK, flags, sequence);
    write_link_header(&mut writer, interface, false);
    writer.finish();
}

/// Reads the reverse-path filter out of a link message's payload.
pub(super) fn read_rp_filter(payload: &[u8]) -> Option<u32> {
    let find = |buffer, wanted| {
        wire::attributes(buffer).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    };
    let specific = find(payload.get(16..)?, IFLA_AF_SPEC)?;
    let settings = find(find(specific, libc::AF_INET as u16)?, IFLA_INET_CONF)?;
    // An array of all settings, whose numbers begin with 1.
    wire::read_u32(settings, usize::from(IPV4_DEVCONF_RP_FILTER - 1) * 4)
}

/// Appends a request to give an interface an address of its own, or to take it.
pub(super) fn write_address(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    add: bool,
    interface: u32,
    address: IpAddr,
) {
    let (kind, flags) = if add {
        (kind::RTM_NEWADDR, flags | wire::NLM_F_CREATE | wire::NLM_F_REPLACE)
    } else {
        (kind::RTM_DELADDR, flags)
    };
    let flags = flags | wire::NLM_F_REQUEST;
    let (family, length) = match address {
        IpAddr::V4(_) => (libc::AF_INET, 32),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let mut writer = MessageWriter::new(buffer, kind, flags, sequence);
    writer.octets(&[family as u8, length, 0, 0]);
    writer.octets(&interface.to_ne_bytes());
    writer.attribute_address(IFA_LOCAL, address);
    writer.attribute_address(IFA_ADDRESS, address);
    if add && address.is_ipv6() {
        // Nobody could answer: there is no broadcast in these tunnels.
        writer.attribute_u32(IFA_FLAGS, IFA_F_NODAD);
    }
    writer.finish();
}

/// An entry of a neighbour table or of a forwarding database that never ages.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) struct Neighbour {
    pub interface: u32,
    pub key: NeighbourKey,
    pub value: NeighbourValue,
}

/// What an entry is found by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) enum NeighbourKey {
    /// A neighbour's address.
    Address(IpAddr),
    /// A link-layer address behind a VXLAN device.
    Mac(Mac),
}

/// Where it leads.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) enum NeighbourValue {
    /// The neighbour's link-layer address.
    Mac(Mac),
    /// The node that has the link-layer address.
    Node(IpAddr),
    /// It is no permanent entry.
    Other,
}

impl Neighbour {
    /// Reads the payload of a neighbour message; `None` for what is of no interest here.
    pub(in super::super) fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.get(..12)?;
        let interface = wire::read_u32(fixed, 4)?;
        let state = wire::read_u16(fixed, 8)?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in wire::attributes(&payload[12..]) {
            match kind {
                NDA_DST => address = wire::read_address(value),
                NDA_LLADDR => mac = Mac::parse(value),
                _ => {}
            }
        }
        let permanent = state & NUD_PERMANENT != 0;
        let bridge = i32::from(fixed[0]) == libc::AF_BRIDGE;
        if bridge && address.is_none() {
            // Before Linux 6.13 the core tells of a forwarding entry too, after the device and
            // without its destination: that says nothing new.
            return None;
        }
        let (key, value) = if bridge {
            // Kernels up to 6.1 tell of an entry twice, the second time without where it leads.
            (NeighbourKey::Mac(mac?), Some(NeighbourValue::Node(address?)))
        } else {
            (NeighbourKey::Address(address?), mac.map(NeighbourValue::Mac))
        };
        let value = value.filter(|_| permanent).unwrap_or(NeighbourValue::Other);
        Some(Self { interface, key, value })
    }
}

/// Appends a request to put an entry in, or to take it out.
pub(super) fn write_neighbour(
    buffer: &mut Vec<u8>,
    (flags, sequence): (u16, u32),
    add: bool,
    neighbour: &Neighbour,
) {
    let (kind, flags) = if add {
        (kind::RTM_NEWNEIGH, flags | wire::NLM_F_CREATE | wire::NLM_F_REPLACE)
    } else {
        (kind::RTM_DELNEIGH, flags)
    };
    let flags = flags | wire::NLM_F_REQUEST;
    let (family, entry_flags) = match neighbour.key {
        NeighbourKey::Mac(_) => (libc::AF_BRIDGE, NTF_SELF),
        NeighbourKey::Address(IpAddr::V4(_)) => (libc::AF_INET, 0),
        NeighbourKey::Address(IpAddr::V6(_)) => (libc::AF_INET6, 0),
    };
    let mut writer = MessageWriter::new(buffer, kind, flags, sequence);
    writer.octets(&[family as u8, 0, 0, 0]);
    writer.octets(&neighbour.interface.to_ne_bytes());
    writer.octets(&NUD_PERMANENT.to_ne_bytes());
    writer.octets(&[entry_flags, 0]);
    match neighbour.key {
        NeighbourKey::Address(address) => writer.attribute_address(NDA_DST, address),
        NeighbourKey::Mac(mac) => writer.attribute(NDA_LLADDR, &mac.0),
    }
    match neighbour.value {
        NeighbourValue::Mac(mac) => writer.attribute(NDA_LLADDR, &mac.0),
        NeighbourValue::Node(address) => writer.attribute_address(NDA_DST, address),
        NeighbourValue::Other => {}
    }
    writer.finish();
}

/// Appends a request to list the entries of one interface and family.
pub(super) fn write_neighbour_dump(
    buffer: &mut Vec<u8>,
    sequence: u32,
    family: i32,
    interface: u32,
) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETNEIGH, flags, sequence);
    // The forwarding database takes the interface in the fixed part, the others as an attribute.
    let bridge = family == libc::AF_BRIDGE;
    let fixed = if bridge { interface } else { 0 };
    writer.octets(&[family as u8, 0, 0, 0]);
    writer.octets(&fixed.to_ne_bytes());
    writer.octets(&[0; 4]);
    if !bridge {
        writer.attribute_u32(NDA_IFINDEX, interface);
    }
    writer.finish();
}

/// Appends the question what is known of one neighbour.
pub(super) fn write_neighbour_get(
    buffer: &mut Vec<u8>,
    sequence: u32,
    interface: u32,
    address: IpAddr,
) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_ACK;
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETNEIGH, flags, sequence);
    writer.octets(&[family as u8, 0, 0, 0]);
    writer.octets(&interface.to_ne_bytes());
    writer.octets(&[0; 4]);
    writer.attribute_address(NDA_DST, address);
    writer.finish();
}

/// State and link-layer address of a neighbour message, in words as `ip neighbour` has them.
pub(super) fn neighbour_words(payload: &[u8]) -> Option<String> {
    let state = wire::read_u16(payload.get(..12)?, 8)?;
    let name = match state {
        0x01 => "incomplete: it has not answered yet",
        0x02 => "reachable",
        0x04 => "stale: not used lately",
        0x08 => "delay",
        0x10 => "being probed",
        0x20 => "failed: it does not answer",
        0x40 => "noarp",
        NUD_PERMANENT => "permanent",
        _ => "none",
    };
    let mac = wire::attributes(&payload[12..])
        .find(|(kind, _)| *kind == NDA_LLADDR)
        .and_then(|(_, value)| Mac::parse(value));
    Some(match mac {
        Some(mac) => format!("{mac} {name}"),
        None => name.to_owned(),
    })
}

fn write_link_header(writer: &mut MessageWriter<'_>, interface: u32, up: bool) {
    writer.octets(&[0; 4]);
    writer.octets(&interface.to_ne_bytes());
    let flags = if up { IFF_UP } else { 0 };
    writer.octets(&flags.to_ne_bytes());
    writer.octets(&flags.to_ne_bytes());
}

fn write_name(writer: &mut MessageWriter<'_>, name: &str) {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    writer.attribute(IFLA_IFNAME, &text);
}

#[cfg(test)]
mod tests {
    use super::super::super::link::{Link, VxlanLink};
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_asked_for_reads_back_as_the_link_that_comes() {
        let vxlan = |local| {
            LinkKind::Vxlan(VxlanLink {
                vni: 4096,
                port: 4789,
                local: Some(address(local)),
                group: None,
                learning: false,
            })
        };
        let ipip = LinkKind::IpIp { local: address("10.0.0.1"), remote: address("0.0.0.0") };
        for kind in [ipip, vxlan("10.0.0.1"), vxlan("fd00::1")] {
            let (mut buffer, mac) = (Vec::new(), Some(Mac::of_node("a")));
            write_create(&mut buffer, (0, 1), "routelet-x", &kind, 1450, mac);
            let (_, payload) = wire::messages(&buffer).next().unwrap();
            let link = Link::parse(payload).unwrap();
            assert_eq!((link.name.as_str(), link.mtu, link.mac), ("routelet-x", 1450, mac));
            assert_eq!(link.kind, kind);
        }
    }

    #[test]
    fn entries_read_back() {
        let mac = Mac::of_node("b");
        let entries = [
            (NeighbourKey::Address(address("10.244.2.0")), NeighbourValue::Mac(mac)),
            (NeighbourKey::Address(address("fe80::1")), NeighbourValue::Mac(mac)),
            (NeighbourKey::Mac(mac), NeighbourValue::Node(address("10.0.0.2"))),
            (NeighbourKey::Mac(mac), NeighbourValue::Node(address("fd00::2"))),
        ];
        for (key, value) in entries {
            let neighbour = Neighbour { interface: 7, key, value };
            let mut buffer = Vec::new();
            write_neighbour(&mut buffer, (0, 1), true, &neighbour);
            let (_, payload) = wire::messages(&buffer).next().unwrap();
            assert_eq!(Neighbour::parse(payload), Some(neighbour));
            for cut in 0..payload.len() {
                let _ = Neighbour::parse(&payload[..cut]);
            }
        }
    }

    #[test]
    fn an_entry_without_its_destination_says_nothing() {
        let key = NeighbourKey::Mac(Mac::of_node("b"));
        let neighbour = Neighbour { interface: 7, key, value: NeighbourValue::Other };
        let mut buffer = Vec::new();
        write_neighbour(&mut buffer, (0, 1), true, &neighbour);
        let (_, payload) = wire::messages(&buffer).next().unwrap();
        assert_eq!(Neighbour::parse(payload), None);
    }
}

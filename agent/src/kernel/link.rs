//! Links and addresses as the kernel has them, and their messages.
//!
//! In flow: payloads of `RTM_*LINK` and `RTM_*ADDR`. Out flow: the same as values, and requests to list
//! them appended to a buffer. What is done to links of our own is in [`super::tunnel`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::kind;
use crate::netlink::wire::{self, MessageWriter};

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_IPTUN_LOCAL: u16 = 2;
pub(super) const IFLA_IPTUN_REMOTE: u16 = 3;
pub(super) const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
pub(super) const IFLA_VXLAN_LOCAL: u16 = 4;
pub(super) const IFLA_VXLAN_LEARNING: u16 = 7;
pub(super) const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
pub(super) const IFLA_VXLAN_LOCAL6: u16 = 17;

pub(super) const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_LOWER_UP: u32 = 1 << 16;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// Switched on by the administrator.
    pub up: bool,
    /// The medium is there.
    pub carrier: bool,
    pub loopback: bool,
    /// Octets of the largest packet it takes.
    pub mtu: u32,
    pub mac: Option<Mac>,
    pub kind: LinkKind,
}

/// What an interface is, as far as this room cares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum LinkKind {
    /// Hardware.
    #[default]
    Physical,
    IpIp {
        local: IpAddr,
        /// Unspecified: to anybody.
        remote: IpAddr,
    },
    Vxlan(VxlanLink),
    /// Any other, by the kernel's name.
    Other(Box<str>),
}

/// What makes a VXLAN device what it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct VxlanLink {
    pub vni: u32,
    pub port: u16,
    pub local: Option<IpAddr>,
    /// Where packets to unknown addresses go.
    pub group: Option<IpAddr>,
    pub learning: bool,
}

impl Link {
    /// Reads the payload of a link message; `None` for what is no interface of the node (bridge
    /// ports report themselves once more in a family of their own).
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.get(..16)?;
        if fixed[0] != libc::AF_UNSPEC as u8 {
            return None;
        }
        let index = wire::read_u32(fixed, 4)?;
        let flags = wire::read_u32(fixed, 8)?;
        let (mut name, mut mtu, mut mac) = (format!("if{index}"), 0, None);
        let mut link_kind = LinkKind::Physical;
        for (kind, value) in wire::attributes(&payload[16..]) {
            match kind {
                IFLA_IFNAME => name = wire::text(value),
                IFLA_MTU => mtu = wire::read_u32(value, 0).unwrap_or(0),
                IFLA_ADDRESS => mac = Mac::parse(value),
                IFLA_LINKINFO => link_kind = LinkKind::parse(value),
                _ => {}
            }
        }
        Some(Self {
            index,
            name,
            up: flags & IFF_UP != 0,
            carrier: flags & (IFF_RUNNING | IFF_LOWER_UP) != 0,
            loopback: flags & IFF_LOOPBACK != 0,
            mtu,
            mac,
            kind: link_kind,
        })
    }
}

impl LinkKind {
    /// Reads IFLA_LINKINFO.
    fn parse(value: &[u8]) -> Self {
        let (mut kind, mut data) = (String::new(), &[][..]);
        for (attribute, value) in wire::attributes(value) {
            match attribute {
                IFLA_INFO_KIND => kind = wire::text(value),
                IFLA_INFO_DATA => data = value,
                _ => {}
            }
        }
        match kind.as_str() {
            "" => Self::Physical,
            "ipip" => {
                let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let (mut local, mut remote) = (unspecified, unspecified);
                for (attribute, value) in wire::attributes(data) {
                    match attribute {
                        IFLA_IPTUN_LOCAL => local = wire::read_address(value).unwrap_or(local),
                        IFLA_IPTUN_REMOTE => remote = wire::read_address(value).unwrap_or(remote),
                        _ => {}
                    }
                }
                Self::IpIp { local, remote }
            }
            "vxlan" => {
                let mut vxlan = VxlanLink::default();
                for (attribute, value) in wire::attributes(data) {
                    match attribute {
                        IFLA_VXLAN_ID => vxlan.vni = wire::read_u32(value, 0).unwrap_or(0),
                        IFLA_VXLAN_PORT => {
                            vxlan.port = <[u8; 2]>::try_from(value).map_or(0, u16::from_be_bytes);
                        }
                        IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => {
                            vxlan.local = wire::read_address(value);
                        }
                        IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => {
                            vxlan.group = wire::read_address(value);
                        }
                        IFLA_VXLAN_LEARNING => vxlan.learning = value.first() == Some(&1),
                        _ => {}
                    }
                }
                Self::Vxlan(vxlan)
            }
            other => Self::Other(other.into()),
        }
    }
}

/// A link-layer address.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads six octets.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        value.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// An address of the node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Address {
    pub interface: u32,
    pub address: IpAddr,
}

impl Address {
    /// Reads the payload of an address message.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let fixed = payload.get(..8)?;
        let interface = wire::read_u32(fixed, 4)?;
        let (mut local, mut any) = (None, None);
        for (kind, value) in wire::attributes(&payload[8..]) {
            match kind {
                // On a point-to-point link IFA_ADDRESS is the other end.
                IFA_LOCAL => local = wire::read_address(value),
                IFA_ADDRESS => any = wire::read_address(value),
                _ => {}
            }
        }
        Some(Self { interface, address: local.or(any)? })
    }
}

/// Appends a request to list all interfaces.
pub(super) fn write_link_dump(buffer: &mut Vec<u8>, sequence: u32) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETLINK, flags, sequence);
    writer.octets(&[0; 16]);
    writer.finish();
}

/// Appends a request to list all addresses.
pub(super) fn write_address_dump(buffer: &mut Vec<u8>, sequence: u32) {
    let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
    let mut writer = MessageWriter::new(buffer, kind::RTM_GETADDR, flags, sequence);
    writer.octets(&[0; 8]);
    writer.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_message_never_panics() {
        let mut buffer = Vec::new();
        let mut writer = MessageWriter::new(&mut buffer, kind::RTM_NEWLINK, 0, 3);
        writer.octets(&[0; 16]);
        writer.attribute(IFLA_IFNAME, b"eth0\0");
        writer.nested(IFLA_LINKINFO, |writer| {
            writer.attribute(IFLA_INFO_KIND, b"vxlan\0");
            writer.nested(IFLA_INFO_DATA, |writer| writer.attribute_u32(IFLA_VXLAN_ID, 4096));
        });
        writer.finish();
        for cut in 0..buffer.len() - wire::HEADER_LENGTH {
            let _ = Link::parse(&buffer[wire::HEADER_LENGTH..wire::HEADER_LENGTH + cut]);
            let _ = Address::parse(&buffer[wire::HEADER_LENGTH..wire::HEADER_LENGTH + cut]);
        }
    }
}

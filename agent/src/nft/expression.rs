//! What a rule is made of: a test or a deed at a time, as nf_tables has them.
//!
//! In flow: typed expressions. Out flow: their octets, and their words, as `nft` would print them:
//! tests compare rulesets by those. A test that fails ends the rule.

use std::net::IpAddr;

use ipnet::IpNet;

use super::wire::{self, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_VERDICT_CODE};
use crate::netlink::wire::MessageWriter;

/// Families of packets.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As names of sets end.
    pub(super) fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Octets of an address.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// Which address of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// One step of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    /// The packet is of that family; for tables that see both.
    Family(Version),
    /// Its address is in that set, or not.
    InSet {
        version: Version,
        side: Side,
        set: String,
        within: bool,
    },
    /// Its address is in that prefix.
    InPrefix {
        side: Side,
        prefix: IpNet,
    },
    /// It carries that protocol.
    Protocol(u8),
    /// Its UDP or TCP destination port.
    DestinationPort(u16),
    /// It is a VXLAN packet of that network; goes after the port.
    Vni(u32),
    /// Destination address, protocol and port are together in that set.
    DestinationInPorts {
        version: Version,
        set: String,
    },
    /// Counts what comes so far.
    Counter,
    Drop,
    Accept,
    Return,
    /// Source NAT to the address of the outgoing interface, from a port chosen at random.
    Masquerade,
}

/// The verdict register, and the first of those for data (sixteen octets, or four by the other name).
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const WORDS: u32 = 8;

const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const RANDOM_FULLY: u32 = 1 << 4;

impl Expression {
    /// Appends it to the list of a rule.
    pub(super) fn write(&self, out: &mut MessageWriter<'_>) {
        match self {
            Self::Family(version) => {
                let family = match version {
                    Version::V4 => wire::NFPROTO_IPV4,
                    Version::V6 => wire::NFPROTO_IPV6,
                };
                meta(out, META_NFPROTO, REGISTER);
                compare(out, &[family]);
            }
            Self::InSet { version, side, set, within } => {
                let (offset, length) = address_at(*version, *side);
                payload(out, BASE_NETWORK, offset, length, REGISTER);
                lookup(out, set, REGISTER, *within);
            }
            Self::InPrefix { side, prefix } => {
                let (offset, length) = address_at(Version::of(prefix.addr()), *side);
                payload(out, BASE_NETWORK, offset, length, REGISTER);
                if prefix.prefix_len() < prefix.max_prefix_len() {
                    mask(out, &address_octets(prefix.netmask()));
                }
                compare(out, &address_octets(prefix.network()));
            }
            Self::Protocol(protocol) => {
                meta(out, META_L4PROTO, REGISTER);
                compare(out, &[*protocol]);
            }
            Self::DestinationPort(port) => {
                payload(out, BASE_TRANSPORT, 2, 2, REGISTER);
                compare(out, &port.to_be_bytes());
            }
            Self::Vni(vni) => {
                // Eight octets of UDP, four of flags and reserved, three of VNI (RFC 7348 §5).
                payload(out, BASE_TRANSPORT, 12, 3, REGISTER);
                compare(out, &vni.to_be_bytes()[1..]);
            }
            Self::DestinationInPorts { version, set } => {
                let (offset, length) = address_at(*version, Side::Destination);
                payload(out, BASE_NETWORK, offset, length, WORDS);
                meta(out, META_L4PROTO, WORDS + length / 4);
                payload(out, BASE_TRANSPORT, 2, 2, WORDS + length / 4 + 1);
                lookup(out, set, WORDS, true);
            }
            Self::Counter => expression(out, "counter", |out| {
                out.attribute(1, &0u64.to_be_bytes());
                out.attribute(2, &0u64.to_be_bytes());
            }),
            Self::Drop => verdict(out, 0),
            Self::Accept => verdict(out, 1),
            Self::Return => verdict(out, -5),
            Self::Masquerade => expression(out, "masq", |out| wire::number(out, 1, RANDOM_FULLY)),
        }
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = |within: &bool| if *within { "" } else { "!= " };
        let side = |side: &Side| match side {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        };
        match self {
            Self::Family(Version::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Version::V6) => f.write_str("meta nfproto ipv6"),
            Self::InSet { version, side: at, set, within } => {
                write!(f, "{} {} {}@{set}", version.word(), side(at), not(within))
            }
            Self::InPrefix { side: at, prefix } => {
                let version = Version::of(prefix.addr());
                write!(f, "{} {} {prefix}", version.word(), side(at))
            }
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::DestinationPort(port) => write!(f, "th dport {port}"),
            Self::Vni(vni) => write!(f, "@th,96,24 {vni}"),
            Self::DestinationInPorts { version, set } => {
                let ip = version.word();
                write!(f, "{ip} daddr . meta l4proto . th dport @{set}")
            }
            Self::Counter => f.write_str("counter"),
            Self::Drop => f.write_str("drop"),
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
            Self::Masquerade => f.write_str("masquerade fully-random"),
        }
    }
}

/// The octets of an address.
pub(super) fn address_octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Where an address stands in its header, and how long it is.
fn address_at(version: Version, side: Side) -> (u32, u32) {
    let source = match version {
        Version::V4 => 12,
        Version::V6 => 8,
    };
    let length = version.length();
    match side {
        Side::Source => (source, length),
        Side::Destination => (source + length, length),
    }
}

fn expression(out: &mut MessageWriter<'_>, name: &str, data: impl FnOnce(&mut MessageWriter<'_>)) {
    out.nested(NFTA_LIST_ELEM, |out| {
        wire::text(out, 1, name);
        out.nested(2, data);
    });
}

fn meta(out: &mut MessageWriter<'_>, key: u32, register: u32) {
    expression(out, "meta", |out| {
        wire::number(out, 2, key);
        wire::number(out, 1, register);
    });
}

fn payload(out: &mut MessageWriter<'_>, base: u32, offset: u32, length: u32, register: u32) {
    expression(out, "payload", |out| {
        wire::number(out, 1, register);
        wire::number(out, 2, base);
        wire::number(out, 3, offset);
        wire::number(out, 4, length);
    });
}

fn compare(out: &mut MessageWriter<'_>, value: &[u8]) {
    expression(out, "cmp", |out| {
        wire::number(out, 1, REGISTER);
        wire::number(out, 2, 0);
        out.nested(3, |out| out.attribute(NFTA_DATA_VALUE, value));
    });
}

fn mask(out: &mut MessageWriter<'_>, mask: &[u8]) {
    expression(out, "bitwise", |out| {
        wire::number(out, 1, REGISTER);
        wire::number(out, 2, REGISTER);
        wire::number(out, 3, u32::try_from(mask.len()).expect("invariant: at most 16 octets"));
        out.nested(4, |out| out.attribute(NFTA_DATA_VALUE, mask));
        out.nested(5, |out| out.attribute(NFTA_DATA_VALUE, &vec![0; mask.len()]));
    });
}

fn lookup(out: &mut MessageWriter<'_>, set: &str, register: u32, within: bool) {
    expression(out, "lookup", |out| {
        wire::text(out, 1, set);
        wire::number(out, 2, register);
        if !within {
            wire::number(out, 5, 1);
        }
    });
}

fn verdict(out: &mut MessageWriter<'_>, code: i32) {
    expression(out, "immediate", |out| {
        wire::number(out, 1, VERDICT);
        out.nested(2, |out| {
            out.nested(NFTA_DATA_VERDICT, |out| {
                wire::number(out, NFTA_VERDICT_CODE, code.cast_unsigned());
            });
        });
    });
}

//! Addresses that every node computes for every other: those of VXLAN devices.
//!
//! What always holds: the same name gives the same address in every version, as nodes of different
//! versions talk to each other during an upgrade.

use std::net::Ipv6Addr;

use super::super::link::Mac;

impl Mac {
    /// Of the VXLAN device of the node with this name: octet 02 (locally administered, unicast),
    /// then 40 bits of the name's FNV-1a hash of 64 bits, folded: the lower 40 bits exclusive-or the
    /// upper 24.
    pub(in super::super) fn of_node(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// The link-local address made of it (RFC 4291, appendix A).
    pub(in super::super) fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These must never change: nodes of another version compute the same.
    #[test]
    fn the_same_name_gives_the_same_address_in_every_version() {
        for (name, mac) in [
            ("", "02:e4:84:e9:d1:b9"),
            ("node-a", "02:c2:20:9e:5c:4f"),
            ("worker-17.example.com", "02:62:97:3f:95:f6"),
        ] {
            assert_eq!(Mac::of_node(name).to_string(), mac, "{name}");
        }
    }

    #[test]
    fn the_link_local_address_has_the_octets_in_order() {
        let mac = Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(mac.link_local().to_string(), "fe80::11:22ff:fe33:4455");
    }
}

//! Connection collision resolution (RFC 4271 §6.8, RFC 6286 §2.3) as a pure function.
//!
//! Two speakers that connect to each other at the same time end up with two connections. Both
//! sides must drop the same one without asking each other, so the rule knows nothing but what both
//! know: the BGP Identifiers, the AS numbers, and who opened which connection.

use routelet_proto::{Asn, BgpIdentifier};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// We connected to the peer.
    Outgoing,
    /// The peer connected to us.
    Incoming,
}

/// What the two ends compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rank {
    /// BGP Identifier, as a number in host byte order.
    pub identifier: BgpIdentifier,
    /// AS number, which decides between equal identifiers (RFC 6286 §2.3).
    pub asn: Asn,
}

/// Which of two colliding connections stays: the one opened by the speaker with the higher
/// identifier, or, identifiers being equal, by the one with the larger AS number.
///
/// Equal identifiers within one AS never get here: negotiation refuses them.
#[must_use]
pub fn surviving_direction(local: Rank, peer: Rank) -> Direction {
    if (local.identifier, local.asn) > (peer.identifier, peer.asn) {
        Direction::Outgoing
    } else {
        Direction::Incoming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(identifier: [u8; 4], asn: u32) -> Rank {
        Rank { identifier: BgpIdentifier(identifier.into()), asn: Asn(asn) }
    }

    #[test]
    fn both_ends_keep_the_connection_of_the_higher_identifier() {
        let cases = [
            (rank([10, 0, 0, 2], 65001), rank([10, 0, 0, 1], 65002), Direction::Outgoing),
            (rank([10, 0, 0, 1], 65002), rank([10, 0, 0, 2], 65001), Direction::Incoming),
            // As numbers, not as text: 9.x is below 10.x, and 200.x is above 100.x.
            (rank([9, 0, 0, 9], 1), rank([10, 0, 0, 1], 1), Direction::Incoming),
            (rank([200, 0, 0, 1], 1), rank([100, 0, 0, 1], 1), Direction::Outgoing),
            // RFC 6286 §2.3: equal identifiers, the larger AS.
            (rank([10, 0, 0, 1], 65002), rank([10, 0, 0, 1], 65001), Direction::Outgoing),
            (rank([10, 0, 0, 1], 65001), rank([10, 0, 0, 1], 4_200_000_000), Direction::Incoming),
        ];
        for (local, peer, expected) in cases {
            assert_eq!(surviving_direction(local, peer), expected, "{local:?} {peer:?}");
            assert_ne!(surviving_direction(peer, local), expected, "the ends must agree");
        }
    }
}

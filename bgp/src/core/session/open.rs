//! Our OPEN: what we offer a peer (RFC 4271 §4.2, RFC 5492).

use routelet_proto::{
    AfiSafi, Asn, BgpIdentifier, Capability, Family, FamilySet, GracefulRestartFamily, Open,
};

use crate::core::config::PeerConfig;

/// AFI of an IPv6 next hop in the extended next hop capability (RFC 8950 §4).
pub(super) const IPV6_AFI: u16 = 2;
/// Longest host name in the FQDN capability.
const MAX_HOST_NAME: usize = 64;

/// What all sessions of this speaker say of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalSpeaker {
    /// Our BGP Identifier.
    pub router_id: BgpIdentifier,
    /// Our host name, for the FQDN capability; none is sent if it is empty.
    pub host_name: String,
    /// The process has restarted, its peers may hold our routes, and we still wait for theirs (R
    /// bit, RFC 4724 §3). Cleared once the first sync is complete.
    pub restarted: bool,
    /// Families whose forwarding state is as the peers know it (F bit, RFC 4724 §3): those found in
    /// place at the start, and all of them once this life has installed its own.
    pub forwarding: FamilySet,
}

impl LocalSpeaker {
    /// The same after the first sync: the restart is over, and whatever ends a session from now on,
    /// packets are still forwarded.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { restarted: false, forwarding: FamilySet::ALL, ..self.clone() }
    }
}

/// The OPEN for `config`. `plain` leaves out the capabilities, for a peer that refused optional
/// parameters (RFC 5492 §3).
#[must_use]
pub fn build_open(config: &PeerConfig, local: &LocalSpeaker, plain: bool) -> Open {
    Open {
        my_as: u16::try_from(config.local_as.0).unwrap_or(Asn::TRANS.0 as u16),
        asn: config.local_as,
        hold_time: config.hold_time,
        identifier: local.router_id,
        capabilities: if plain { Vec::new() } else { capabilities(config, local) },
    }
}

fn capabilities(config: &PeerConfig, local: &LocalSpeaker) -> Vec<Capability> {
    let mut offer: Vec<_> =
        config.families.iter().map(|family| Capability::Multiprotocol(family.afi_safi())).collect();
    offer.push(Capability::RouteRefresh);
    offer.push(Capability::EnhancedRouteRefresh);
    offer.push(Capability::ExtendedMessage);
    offer.push(Capability::FourOctetAs(config.local_as));
    // Over IPv4 nobody needs an IPv6 next hop for IPv4 routes.
    if config.address.is_ipv6() && config.families.contains(Family::Ipv4Unicast) {
        offer.push(Capability::ExtendedNextHop(vec![(ipv4_unicast(), IPV6_AFI)]));
    }
    if let Some(role) = config.role.filter(|_| config.local_as != config.remote_as) {
        offer.push(Capability::Role(role));
    }
    if let Some(restart) = config.graceful_restart {
        offer.push(Capability::GracefulRestart {
            restarted: local.restarted,
            notification: restart.notification,
            restart_time: restart.restart_time,
            families: config
                .families
                .iter()
                .map(|family| GracefulRestartFamily {
                    family: family.afi_safi(),
                    forwarding: local.forwarding.contains(family),
                })
                .collect(),
        });
    }
    if !local.host_name.is_empty() {
        let end = local.host_name.floor_char_boundary_at(MAX_HOST_NAME);
        offer.push(Capability::Fqdn {
            host: local.host_name[..end].to_owned(),
            domain: String::new(),
        });
    }
    offer
}

pub(super) fn ipv4_unicast() -> AfiSafi {
    Family::Ipv4Unicast.afi_safi()
}

/// `str::floor_char_boundary` for the Rust version we promise.
trait FloorCharBoundary {
    /// The greatest character boundary that is not beyond `limit`.
    fn floor_char_boundary_at(&self, limit: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, limit: usize) -> usize {
        (0..=limit.min(self.len())).rev().find(|end| self.is_char_boundary(*end)).unwrap_or(0)
    }
}

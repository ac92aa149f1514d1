//! Configuration: the difference between what is wanted and what there is, applied.
//!
//! Peers are known by name. What the OPEN carries resets a session, and the session's end does the
//! rest; everything else is applied here, to the routes that are there: import again, decide again,
//! other groups. No route that stays wanted is withdrawn on the way.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::FixedState;
use routelet_proto::{Family, NlriPrefix};

use super::cluster::Cluster;
use super::peers::Slot;
use super::{PeerAction, Speaker, with_family};
use crate::core::config::{OriginatedRoute, PeerChange, PeerConfig, SpeakerConfig};

impl Speaker {
    pub(super) fn configure(&mut self, config: Arc<SpeakerConfig>) -> Vec<PeerAction> {
        let old = std::mem::replace(&mut self.shared.config, config);
        let new = self.shared.config.clone();
        self.shared.sync.configured = true;
        let old_services = self.shared.cluster.services.clone();
        let cluster_changed = *self.shared.cluster.prefixes != *new.cluster;
        if cluster_changed {
            self.shared.cluster = Cluster::new(new.cluster.clone());
        }

        let mut actions = self.remove_peers(&new);
        let changes = self.change_peers(&new, &mut actions);

        if cluster_changed && old_services != self.shared.cluster.services
            || old.track_next_hops != new.track_next_hops
        {
            let installed = |prefix| old.track_next_hops && !old_services.covers(prefix);
            self.v4.install_again(&mut self.shared, installed);
            self.v6.install_again(&mut self.shared, installed);
        }
        let retrack = old.track_next_hops != new.track_next_hops;
        self.shared.attrs.next_hops.set_tracking(new.track_next_hops);
        if retrack && new.track_next_hops {
            self.v4.note_next_hops(&mut self.shared);
            self.v6.note_next_hops(&mut self.shared);
        }
        self.change_originated(&new.originated);

        let import_all = cluster_changed
            || old.asn != new.asn
            || old.router_id != new.router_id
            || old.cluster_id != new.cluster_id
            || old.address_v4 != new.address_v4
            || old.address_v6 != new.address_v6;
        let all: Vec<Slot> = self.shared.peers.iter().map(|(slot, _)| slot).collect();
        for slot in &all {
            if import_all || changes.import.contains(slot) {
                self.v4.import_again(&mut self.shared, *slot);
                self.v6.import_again(&mut self.shared, *slot);
            }
        }
        if retrack || old.maximum_paths != new.maximum_paths {
            let (v4, v6) = (self.v4.table.end(), self.v6.table.end());
            self.v4.decide_again(&mut self.shared, 0..v4);
            self.v6.decide_again(&mut self.shared, 0..v6);
        }
        for slot in changes.source {
            self.v4.export_again(&mut self.shared, slot);
            self.v6.export_again(&mut self.shared, slot);
        }
        for slot in &all {
            if self.shared.peers[*slot].up {
                self.v4.groups.assign(&mut self.v4.table, &mut self.shared, *slot);
                self.v6.groups.assign(&mut self.v6.table, &mut self.shared, *slot);
                for family in Family::ALL {
                    self.exceeds_maximum(*slot, family);
                }
            }
        }
        self.check_sync();
        actions
    }

    /// Removes peers that are no longer configured, with their routes.
    fn remove_peers(&mut self, new: &SpeakerConfig) -> Vec<PeerAction> {
        let names: HashSet<&str, FixedState> = new.peers.iter().map(|peer| &*peer.name).collect();
        let gone: Vec<Slot> = self
            .shared
            .peers
            .iter()
            .filter(|(_, peer)| !names.contains(&*peer.config.name))
            .map(|(slot, _)| slot)
            .collect();
        gone.into_iter()
            .map(|slot| {
                self.session_ended(slot, None);
                let id = self.shared.peers[slot].id;
                self.shared.peers.remove(slot);
                PeerAction::Stop(id)
            })
            .collect()
    }

    /// Adds new peers and gives the others their new configuration.
    fn change_peers(&mut self, new: &SpeakerConfig, actions: &mut Vec<PeerAction>) -> Changes {
        let mut changes = Changes::default();
        for config in &new.peers {
            let Some(slot) = self.shared.peers.by_name(&config.name) else {
                if let Some(slot) = self.shared.peers.add(config.clone(), self.shared.now) {
                    self.shared.defer(slot);
                    actions.push(PeerAction::Start(self.shared.peers[slot].id, config.clone()));
                }
                continue;
            };
            let peer = &mut self.shared.peers[slot];
            let reset = match peer.config.change_to(config) {
                PeerChange::Unchanged => continue,
                PeerChange::Live => None,
                PeerChange::Reset(fields) => Some(fields),
            };
            if changes_import(&peer.config, config) {
                changes.import.push(slot);
            }
            if peer.config.route_reflector_client != config.route_reflector_client {
                changes.source.push(slot);
            }
            peer.config = config.clone();
            actions.push(PeerAction::Update(peer.id, config.clone(), reset));
        }
        changes
    }

    fn change_originated(&mut self, new: &[OriginatedRoute]) {
        let wanted: HashSet<&OriginatedRoute, FixedState> = new.iter().collect();
        let present: HashSet<OriginatedRoute, FixedState> = self.originated.drain(..).collect();
        let mut gone: Vec<_> = present.iter().filter(|route| !wanted.contains(route)).collect();
        gone.sort_unstable_by_key(|route| route.prefix);
        for route in gone {
            with_family!(self, family(route), rib => {
                if let Some(prefix) = NlriPrefix::from_ipnet(route.prefix.trunc()) {
                    rib.cease(&mut self.shared, prefix);
                }
            });
        }
        let mut prefixes = HashSet::<_, FixedState>::default();
        for route in new {
            if !prefixes.insert(route.prefix.trunc()) {
                continue;
            }
            self.originated.push(*route);
            if !present.contains(route) {
                with_family!(self, family(route), rib => {
                    if let Some(prefix) = NlriPrefix::from_ipnet(route.prefix.trunc()) {
                        rib.originate(&mut self.shared, prefix, route.kind);
                    }
                });
            }
        }
    }
}

/// Peers whose routes must be looked at again.
#[derive(Default)]
struct Changes {
    /// What they sent, by import.
    import: Vec<Slot>,
    /// What they sent, by the export to others.
    source: Vec<Slot>,
}

fn changes_import(old: &PeerConfig, new: &PeerConfig) -> bool {
    old.kind != new.kind
        || old.num_allowed_local_as != new.num_allowed_local_as
        || old.role != new.role
        || old.local_as != new.local_as
        || old.remote_as != new.remote_as
        || old.rules.import != new.rules.import
}

fn family(route: &OriginatedRoute) -> Family {
    match route.prefix {
        ipnet::IpNet::V4(_) => Family::Ipv4Unicast,
        ipnet::IpNet::V6(_) => Family::Ipv6Unicast,
    }
}

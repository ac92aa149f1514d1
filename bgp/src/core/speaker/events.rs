//! What sessions and the kernel side tell the speaker, applied to the tables.

use std::time::{Duration, Instant};

use routelet_proto::{
    Announcement, CeaseSubcode, ErrorCode, Family, FamilySet, NlriPrefix, Notification, PathId,
    RefreshSubtype, RouteRefresh, Treatment, Update,
};
use smallvec::SmallVec;

use super::import::Verdict;
use super::peers::Slot;
use super::rib::{Imported, Rib};
use super::shared::Shared;
use super::table::{STALE, UNREFRESHED};
use super::{Output, Speaker, with_family};
use crate::core::forwarding::NextHopAnswer;
use crate::core::peer::{PeerDown, PeerId, PeerUp};

impl Speaker {
    pub(super) fn peer_up(&mut self, peer: PeerId, up: PeerUp) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        if self.shared.peers[slot].up {
            self.session_ended(slot, None);
        }
        let peer = &mut self.shared.peers[slot];
        peer.establish(up);
        // RFC 4724 §4.2: retained routes go at once where the peer did not preserve forwarding.
        let negotiated = peer.session.as_ref().map(|session| &session.negotiated);
        let preserved = negotiated.and_then(|negotiated| {
            Some(negotiated.graceful_restart?.forwarding.intersection(negotiated.families))
        });
        let (stale, kept) = (peer.stale, peer.stale.intersection(preserved.unwrap_or_default()));
        peer.stale = kept;
        peer.stale_until = (!kept.is_empty()).then(|| self.shared.now + peer.stale_for);
        for family in stale.iter().filter(|family| !kept.contains(*family)) {
            with_family!(self, family, rib => {
                rib.remove_all(&mut self.shared, slot, |path| path.has(STALE));
            });
        }
        let peer = &mut self.shared.peers[slot];
        // Once: a session that flaps must not put the first sync off for ever.
        if peer.deferral.is_some() && !std::mem::replace(&mut peer.came_up, true) {
            self.shared.defer(slot);
        }
        self.v4.groups.assign(&mut self.v4.table, &mut self.shared, slot);
        self.v6.groups.assign(&mut self.v6.table, &mut self.shared, slot);
        self.check_sync();
    }

    /// RFC 4724 has no word for it: whether a peer that is not up may be restarting.
    pub(super) fn peer_reached(&mut self, peer: PeerId) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        let peer = &mut self.shared.peers[slot];
        let first = !std::mem::replace(&mut peer.reached, true);
        if first && self.shared.sync.restarted && !peer.up && peer.deferral.is_some() {
            self.shared.defer(slot);
            self.check_sync();
        }
    }

    pub(super) fn peer_down(&mut self, peer: PeerId, down: &PeerDown) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        if self.shared.peers[slot].up {
            self.session_ended(slot, down.retain);
            self.check_sync();
        }
    }

    /// Takes a session's end: its groups go on without the peer, its routes go or are retained.
    pub(super) fn session_ended(&mut self, slot: Slot, retain: Option<(FamilySet, u16)>) {
        self.v4.groups.leave(&mut self.v4.table, &mut self.shared, slot);
        self.v6.groups.leave(&mut self.v6.table, &mut self.shared, slot);
        let (families, seconds) = retain.unwrap_or((FamilySet::EMPTY, 0));
        let now = self.shared.now;
        let peer = &mut self.shared.peers[slot];
        // What was on its way to the old session must not open the next one.
        self.transmits.retain(|transmit| transmit.peer != peer.id);
        peer.up = false;
        peer.resetting = false;
        peer.end_of_rib = FamilySet::EMPTY;
        peer.refreshing = FamilySet::EMPTY;
        peer.stale = families;
        peer.stale_for = Duration::from_secs(seconds.into());
        peer.stale_until = (!families.is_empty()).then(|| now + peer.stale_for);
        for family in Family::ALL {
            let retained = families.contains(family);
            with_family!(self, family, rib => {
                // RFC 4724 §4.2: what was stale already is not retained twice.
                rib.remove_all(&mut self.shared, slot, |path| !retained || path.has(STALE));
                rib.mark(&self.shared, slot, STALE);
            });
        }
    }

    pub(super) fn update(&mut self, peer: PeerId, update: &Update) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        let peer = &self.shared.peers[slot];
        if !peer.up || peer.resetting {
            return;
        }
        for issue in &update.issues {
            if let Treatment::DisableFamily(family) = issue.treatment
                && let Ok(family) = Family::try_from(family)
            {
                self.disable_family(slot, family, &issue.detail);
            }
        }
        for nlri in &update.withdrawn {
            with_family!(self, nlri.family(), rib => rib.withdraw(&mut self.shared, slot, nlri));
        }
        for announcement in &update.announced {
            let family = announcement.nlri.family();
            if self.shared.peers[slot].disabled[family.index()].is_some() {
                continue;
            }
            with_family!(self, family, rib => announce(rib, &mut self.shared, slot, announcement));
            if self.exceeds_maximum(slot, family) {
                return;
            }
        }
        if let Some(family) = update.end_of_rib {
            self.end_of_rib(slot, family);
        }
    }

    /// Gives up a family whose routes cannot be found in what the peer sends: those it has sent
    /// go, those it sends from now on are ignored, and the other family lives on (RFC 4760 §7).
    #[cold]
    fn disable_family(&mut self, slot: Slot, family: Family, why: &str) {
        let peer = &mut self.shared.peers[slot];
        if !peer.families().contains(family) || peer.disabled[family.index()].is_some() {
            return;
        }
        peer.disabled[family.index()] = Some(why.to_owned());
        peer.stale = peer.stale.without(family);
        let told = Output::FamilyDisabled(peer.id, family, why.to_owned());
        self.shared.outputs.push_back(told);
        with_family!(self, family, rib => rib.remove_all(&mut self.shared, slot, |_| true));
        // Nobody waits for the End-of-RIB of what is not read.
        let peer = &mut self.shared.peers[slot];
        peer.settled = peer.settled.with(family);
        self.check_sync();
    }

    /// Resets a peer that has more prefixes than it may (RFC 4486 §4). Whether it has.
    pub(super) fn exceeds_maximum(&mut self, slot: Slot, family: Family) -> bool {
        let peer = &mut self.shared.peers[slot];
        let received = peer.received[family.index()];
        let Some(maximum) = peer.config.maximum_prefixes else { return false };
        if received <= maximum as usize || !peer.up || peer.resetting {
            return false;
        }
        peer.resetting = true;
        let AfiAndLimit(data) = AfiAndLimit::new(family, maximum);
        let code = ErrorCode::Cease(CeaseSubcode::MaximumPrefixes);
        let notification = Notification { code, data: data.to_vec().into() };
        let words = format!("more than {maximum} {family} prefixes (maximumPrefixes)");
        self.shared.outputs.push_back(Output::ResetPeer(peer.id, notification, words));
        true
    }

    fn end_of_rib(&mut self, slot: Slot, family: Family) {
        let peer = &mut self.shared.peers[slot];
        peer.end_of_rib = peer.end_of_rib.with(family);
        peer.settled = peer.settled.with(family);
        if peer.stale.contains(family) {
            self.sweep(slot, family);
        }
        self.check_sync();
    }

    /// Removes what is still stale of a family.
    fn sweep(&mut self, slot: Slot, family: Family) {
        let peer = &mut self.shared.peers[slot];
        peer.stale = peer.stale.without(family);
        if peer.stale.is_empty() {
            peer.stale_until = None;
        }
        with_family!(self, family, rib => {
            rib.remove_all(&mut self.shared, slot, |path| path.has(STALE));
        });
    }

    pub(super) fn route_refresh(&mut self, peer: PeerId, refresh: RouteRefresh) {
        let Some(slot) = self.shared.peers.slot(peer) else { return };
        let peer = &mut self.shared.peers[slot];
        let Ok(family) = Family::try_from(refresh.family) else { return };
        if !peer.families().contains(family) {
            return;
        }
        match refresh.subtype {
            RefreshSubtype::Request => {
                let peer = &self.shared.peers[slot];
                if let Some(group) = peer.group[family.index()] {
                    with_family!(self, family, rib => {
                        rib.groups.refresh(group, peer, slot, family);
                    });
                }
            }
            RefreshSubtype::BeginOfRefresh => {
                peer.refreshing = peer.refreshing.with(family);
                with_family!(self, family, rib => rib.mark(&self.shared, slot, UNREFRESHED));
            }
            RefreshSubtype::EndOfRefresh if peer.refreshing.contains(family) => {
                peer.refreshing = peer.refreshing.without(family);
                with_family!(self, family, rib => {
                    rib.remove_all(&mut self.shared, slot, |path| path.has(UNREFRESHED));
                });
            }
            RefreshSubtype::EndOfRefresh | RefreshSubtype::Unknown(_) => {}
        }
    }

    pub(super) fn next_hops(&mut self, answers: &[NextHopAnswer]) {
        for answer in answers {
            let next_hops = &mut self.shared.attrs.next_hops;
            if let Some([v4, v6]) = next_hops.answer(&answer.next_hop, &answer.state) {
                self.v4.decide_again(&mut self.shared, v4);
                self.v6.decide_again(&mut self.shared, v6);
            }
        }
        self.check_sync();
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        let due: Vec<Slot> = self
            .shared
            .peers
            .iter()
            .filter(|(_, peer)| peer.stale_until.is_some_and(|until| until <= now))
            .map(|(slot, _)| slot)
            .collect();
        for slot in due {
            for family in self.shared.peers[slot].stale.iter() {
                self.sweep(slot, family);
            }
        }
        self.shared.expire_deferrals();
        self.check_sync();
    }

    pub(super) fn check_sync(&mut self) {
        if self.shared.check_sync() {
            self.v4.groups.wake_all();
            self.v6.groups.wake_all();
        }
    }
}

/// Imports the routes of one announcement.
fn announce<P: NlriPrefix>(
    rib: &mut Rib<P>,
    shared: &mut Shared,
    slot: Slot,
    announcement: &Announcement,
) {
    let attributes = &announcement.attributes;
    let import = shared.import(slot);
    let refused = import.check_attributes(attributes).is_some();
    let changed = import.transform(attributes);
    let interface = import.peer.interface();
    let received = shared.attrs.intern(attributes, interface);
    let attrs = match &changed {
        Some(changed) => shared.attrs.intern(changed, interface),
        None => {
            shared.attrs.retain(received);
            received
        }
    };
    // Look-ups that wait for memory overlap when nothing else is between them.
    let destinations: SmallVec<[(PathId, u32); 8]> = announcement
        .nlri
        .iter()
        .map(|(path_id, prefix)| (path_id, rib.table.find_or_insert(prefix)))
        .collect();
    for (path_id, id) in destinations {
        let prefix = rib.table[id].prefix.into();
        let accepted = !refused
            && matches!(
                shared.import(slot).check_prefix(P::FAMILY, prefix, attributes),
                Verdict::Accept(_)
            );
        let path = Imported { received, attrs, rejected: !accepted };
        rib.place(shared, slot, id, path_id, path, 0);
    }
    shared.attrs.release(attrs);
    shared.attrs.release(received);
}

/// The data of Cease/Maximum Number of Prefixes Reached: AFI, SAFI, upper bound (RFC 4486 §4).
struct AfiAndLimit([u8; 7]);

impl AfiAndLimit {
    fn new(family: Family, maximum: u32) -> Self {
        let mut data = [0; 7];
        data[..2].copy_from_slice(&family.afi_safi().afi.to_be_bytes());
        data[2] = family.afi_safi().safi;
        data[3..].copy_from_slice(&maximum.to_be_bytes());
        Self(data)
    }
}

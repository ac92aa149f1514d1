//! The update groups of a family and the order in which their members are served.
//!
//! Groups with something to send stand in a queue; one batch at a time is encoded and handed out
//! member by member. A member that is no longer writable when its turn comes keeps its place in
//! the log and is served later, from batches still kept or from what is true then.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use routelet_proto::update::pack_end_of_rib;
use routelet_proto::{Family, Message, NlriPrefix, RefreshSubtype, RouteRefresh};

use super::Transmit;
use super::attrs::AttrId;
use super::export::{ExportKey, Source};
use super::group::{Batch, Group, Work};
use super::pack::Piece;
use super::peers::{Peer, Slot};
use super::shared::Shared;
use super::table::{Destination, Table};

/// The groups of one family.
#[derive(Debug, Default)]
pub(super) struct Groups {
    list: Vec<Option<Group>>,
    /// Groups that may have something to send, and whether each stands in the queue.
    queue: VecDeque<usize>,
    queued: Vec<bool>,
    emission: Option<Emission>,
}

/// A batch being handed out.
#[derive(Debug)]
struct Emission {
    group: usize,
    batch: Arc<Batch>,
    slots: std::vec::IntoIter<Slot>,
}

impl Groups {
    /// A destination's best path has changed.
    pub(super) fn change<P: NlriPrefix>(
        &mut self,
        shared: &Shared,
        destination: &mut Destination<P>,
        id: u32,
        old: Option<Slot>,
        new: Option<(Slot, AttrId)>,
    ) {
        if self.list.is_empty() {
            return;
        }
        let prefix = destination.prefix.into();
        let new = new.map(|(slot, attrs)| {
            (slot, Source::of(slot, &shared.peers), &shared.attrs.get(attrs).attributes)
        });
        for (number, group) in self.list.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            let sent = new.filter(|(_, source, attributes)| {
                group.key.decide(*source, attributes, prefix).sends()
            });
            let sent = sent.map(|(slot, ..)| slot);
            if group.change(id, old, sent, &mut destination.holds) && !self.queued[number] {
                self.queued[number] = true;
                self.queue.push_back(number);
            }
        }
    }

    /// Puts a peer with a session into the group of its key, leaving the one it was in. What that
    /// one may have sent it and the new one does not is withdrawn from it.
    pub(super) fn assign<P: NlriPrefix>(
        &mut self,
        table: &mut Table<P>,
        shared: &mut Shared,
        slot: Slot,
    ) {
        let family = P::FAMILY.index();
        let peer = &shared.peers[slot];
        let wanted = ExportKey::new(&shared.config, peer, P::FAMILY)
            .filter(|_| peer.families().contains(P::FAMILY));
        let present = peer.group[family];
        let Some(key) = wanted else {
            self.leave(table, shared, slot);
            return;
        };
        if present.is_some_and(|number| self.get(number).is_some_and(|group| group.key == key)) {
            return;
        }
        let number = self.find_or_make(key, table, shared);
        shared.peers[slot].group[family] = Some(number);
        self.wake(number);
        // Both are needed at once below.
        let Some(mut group) = self.list[number].take() else { return };
        group.join(slot);
        if let Some(former) = present {
            if let Some(former_group) = &mut self.list[former] {
                if let (Some(old), Some(new)) =
                    (former_group.member_mut(slot), group.member_mut(slot))
                {
                    new.inherit(old);
                }
                hand_over(former_group, &mut group, slot, table, shared);
            }
            self.list[number] = Some(group);
            self.remove_from(former, table, slot);
        } else {
            self.list[number] = Some(group);
        }
    }

    /// Takes a peer out of its group.
    pub(super) fn leave<P: NlriPrefix>(
        &mut self,
        table: &mut Table<P>,
        shared: &mut Shared,
        slot: Slot,
    ) {
        if let Some(number) = shared.peers[slot].group[P::FAMILY.index()].take() {
            self.remove_from(number, table, slot);
        }
    }

    /// The group of a number.
    pub(super) fn get(&self, number: usize) -> Option<&Group> {
        self.list.get(number)?.as_ref()
    }

    /// A member asks for the table again.
    pub(super) fn refresh(&mut self, number: usize, peer: &Peer, slot: Slot, family: Family) {
        let Some(group) = &mut self.list[number] else { return };
        let encode = group.key.rewrite.encode;
        let enhanced =
            peer.session.as_ref().is_some_and(|session| session.negotiated.enhanced_route_refresh);
        let begin = enhanced.then(|| marker(family, RefreshSubtype::BeginOfRefresh, &encode));
        if let Some(member) = group.member_mut(slot) {
            member.refresh(begin);
        }
        self.wake(number);
    }

    /// A group may have something to send.
    pub(super) fn wake(&mut self, number: usize) {
        if !std::mem::replace(&mut self.queued[number], true) {
            self.queue.push_back(number);
        }
    }

    /// Prefixes that wait for some member, summed over the groups.
    pub(super) fn pending(&self) -> usize {
        self.list.iter().flatten().map(Group::pending).sum()
    }

    /// Every group may have something to send.
    pub(super) fn wake_all(&mut self) {
        for number in 0..self.list.len() {
            if self.list[number].is_some() {
                self.wake(number);
            }
        }
    }

    /// Puts what one member is to be sent next into `out`. Whether there was anything.
    pub(super) fn serve<P: NlriPrefix>(
        &mut self,
        table: &mut Table<P>,
        own: &[u32],
        shared: &mut Shared,
        out: &mut VecDeque<Transmit>,
    ) -> bool {
        loop {
            if self.hand_out(table, shared, out, P::FAMILY) {
                return true;
            }
            let Some(number) = self.queue.front().copied() else { return false };
            let Some(mut group) = self.list[number].take() else {
                self.queue.pop_front();
                self.queued[number] = false;
                continue;
            };
            match group.work(table, own, shared) {
                None => {
                    group.trim(table);
                    self.queue.pop_front();
                    self.queued[number] = false;
                }
                Some(Work::Piece(slot, piece)) => {
                    out.push_back(transmit(shared, slot, piece));
                }
                Some(Work::EndOfRib(slot)) => {
                    let mut octets = BytesMut::new();
                    pack_end_of_rib(P::FAMILY, &mut octets);
                    let piece = Piece { octets: octets.freeze(), messages: 1 };
                    out.push_back(transmit(shared, slot, piece));
                }
                Some(Work::Batch(batch, slots)) => {
                    let slots = slots.into_iter();
                    self.emission = Some(Emission { group: number, batch, slots });
                }
            }
            self.list[number] = Some(group);
            if !out.is_empty() {
                return true;
            }
        }
    }

    /// The next member's share of the batch being handed out.
    fn hand_out<P: NlriPrefix>(
        &mut self,
        table: &mut Table<P>,
        shared: &Shared,
        out: &mut VecDeque<Transmit>,
        family: Family,
    ) -> bool {
        let Some(emission) = &mut self.emission else { return false };
        let Some(group) = &mut self.list[emission.group] else {
            self.emission = None;
            return false;
        };
        for slot in emission.slots.by_ref() {
            let writable = shared.peers.get(slot).is_some_and(|peer| peer.writable);
            if !writable || !group.advance(slot, &emission.batch, table.end()) {
                continue;
            }
            emission.batch.encoded.pieces_for(slot, |piece| {
                out.push_back(transmit(shared, slot, piece));
            });
            let encode = group.key.rewrite.encode;
            if let Some(member) = group.member_mut(slot)
                && let Some((marked, again)) = member.walk_ended()
            {
                let enhanced = shared.peers[slot]
                    .session
                    .as_ref()
                    .is_some_and(|session| session.negotiated.enhanced_route_refresh);
                let mark = |subtype| marker(family, subtype, &encode);
                if marked {
                    member.push(mark(RefreshSubtype::EndOfRefresh));
                }
                if again {
                    member.refresh(enhanced.then(|| mark(RefreshSubtype::BeginOfRefresh)));
                }
            }
            if !out.is_empty() {
                return true;
            }
        }
        group.trim(table);
        self.emission = None;
        false
    }

    fn find_or_make<P: NlriPrefix>(
        &mut self,
        key: ExportKey,
        table: &Table<P>,
        shared: &Shared,
    ) -> usize {
        let with_key = |group: &Option<Group>| group.as_ref().is_some_and(|group| group.key == key);
        if let Some(number) = self.list.iter().position(with_key) {
            return number;
        }
        let group = Group::new(key, table, shared);
        let free = (0..self.list.len())
            .find(|number| self.list[*number].is_none() && !self.queued[*number]);
        let number = free.unwrap_or_else(|| {
            self.list.push(None);
            self.queued.push(false);
            self.list.len() - 1
        });
        self.list[number] = Some(group);
        number
    }

    fn remove_from<P: NlriPrefix>(&mut self, number: usize, table: &mut Table<P>, slot: Slot) {
        let Some(group) = &mut self.list[number] else { return };
        group.leave(slot);
        if group.members.is_empty() {
            group.dissolve(table);
            self.list[number] = None;
            if self.emission.as_ref().is_some_and(|emission| emission.group == number) {
                self.emission = None;
            }
        } else {
            group.trim(table);
        }
    }
}

/// Makes up for the difference between two groups to a member that moves from one to the other.
/// Only the difference is sent if the attributes are written alike and the member was in sync;
/// otherwise it is sent everything again.
fn hand_over<P: NlriPrefix>(
    former: &Group,
    group: &mut Group,
    slot: Slot,
    table: &Table<P>,
    shared: &mut Shared,
) {
    let Some(old) = former.member(slot) else { return };
    let alike = former.key.rewrite == group.key.rewrite && former.is_in_sync(old);
    let mut difference = Vec::new();
    for id in 0..table.end() {
        let held = former.may_be_held(id);
        let own = table[id].best().is_some_and(|best| best.peer == slot);
        match (held, group.exports(id) && !own) {
            (true, true) => {
                group.note_held(id);
                if alike && !former.exports(id) {
                    difference.push(id);
                }
            }
            (true, false) => {
                if group.exports(id) {
                    group.note_held(id);
                }
                difference.push(id);
            }
            (false, true) if alike => difference.push(id),
            _ => {}
        }
    }
    group.encode_for(slot, difference.into_iter(), table, shared);
    if alike && let Some(member) = group.member_mut(slot) {
        member.skip_walk();
    }
}

fn transmit(shared: &Shared, slot: Slot, piece: Piece) -> Transmit {
    Transmit { peer: shared.peers[slot].id, octets: piece.octets, messages: piece.messages }
}

fn marker(
    family: Family,
    subtype: RefreshSubtype,
    encode: &routelet_proto::EncodeContext,
) -> Piece {
    let mut octets = BytesMut::new();
    Message::RouteRefresh(RouteRefresh { family: family.afi_safi(), subtype })
        .encode(encode, &mut octets);
    Piece { octets: octets.freeze(), messages: 1 }
}

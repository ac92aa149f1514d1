//! An update group: peers for which export gives the same octets, for one family.
//!
//! Per destination a group keeps a few bits and a place in its log (five octets): Adj-RIB-Out is
//! what the table holds now, seen through the group's key. A member works through three stages:
//! our own prefixes, then the table by destination number, then the log from where it stood when
//! the member joined; after the walk comes End-of-RIB. What is encoded is always the state of now.
//!
//! What must hold: a destination that a member may hold has `SENT`; while it has, losing it makes a
//! log entry; the number of a destination in the log is not given to another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;
use routelet_proto::NlriPrefix;

use super::export::{ExportKey, Source};
use super::log::Log;
use super::pack::{self, Context, Encoded, Entry, Piece};
use super::peers::Slot;
use super::shared::Shared;
use super::table::Table;

/// The best path passes the group's export.
pub(super) const EXPORTED: u8 = 1;
/// Some member may have been sent it.
const SENT: u8 = 1 << 1;
/// It stands in the log.
const LOGGED: u8 = 1 << 2;
/// The best path's source may hold an older path of somebody else.
const MOVED: u8 = 1 << 3;

/// Octets a batch should have.
const BATCH_OCTETS: usize = 64 * 1024;
/// Batches kept for members a little behind the others.
const RECENT: usize = 16;

/// An update group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: ExportKey,
    pub(super) members: Vec<Member>,
    index: HashMap<Slot, usize, FixedState>,
    flags: Vec<u8>,
    places: Vec<u32>,
    log: Log,
    exported: usize,
    by_source: HashMap<Slot, usize, FixedState>,
    recent: VecDeque<Arc<Batch>>,
    /// How often the log was compacted: positions of different epochs do not compare.
    epoch: u64,
    octets_per_entry: usize,
}

/// A member of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) slot: Slot,
    stage: Stage,
    cursor: u64,
    /// Whole messages for this member alone, before anything else.
    private: VecDeque<Piece>,
    end_of_rib: EndOfRib,
    /// The walk under way ends with EoRR (RFC 7313).
    marked: bool,
    /// Another refresh was asked for meanwhile.
    again: bool,
}

/// Where a member is in its first walk, or a refresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Own,
    Table(u32),
    Done,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EndOfRib {
    /// Selection is not complete.
    Waiting,
    /// It goes when the log has been sent up to here.
    At(u64),
    Sent,
}

/// What a member is sent next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Own,
    Table(u32),
    Log(u64),
}

/// The octets of a step, and what comes after it.
#[derive(Debug)]
pub(super) struct Batch {
    step: Step,
    end: u64,
    /// The log's tail when it was encoded: who joined later needs a newer one.
    tail: u64,
    /// The group's when it was encoded.
    epoch: u64,
    pub(super) encoded: Encoded,
}

/// What a group has to do next.
#[derive(Debug)]
pub(super) enum Work {
    /// For one member alone.
    Piece(Slot, Piece),
    /// One batch for several.
    Batch(Arc<Batch>, Vec<Slot>),
    /// The End-of-RIB marker is due for one member.
    EndOfRib(Slot),
}

impl Group {
    /// A group without members that exports what the table holds now.
    pub(super) fn new<P: NlriPrefix>(key: ExportKey, table: &Table<P>, shared: &Shared) -> Self {
        let end = table.end() as usize;
        let mut group = Self {
            key,
            members: Vec::new(),
            index: HashMap::default(),
            flags: vec![0; end],
            places: vec![0; end],
            log: Log::default(),
            exported: 0,
            by_source: HashMap::default(),
            recent: VecDeque::new(),
            epoch: 0,
            octets_per_entry: 32,
        };
        for id in 0..table.end() {
            let Some(best) = table[id].best() else { continue };
            let attributes = &shared.attrs.get(best.attrs).attributes;
            let source = Source::of(best.peer, &shared.peers);
            if group.key.decide(source, attributes, table[id].prefix.into()).sends() {
                group.flags[id as usize] = EXPORTED;
                group.count(best.peer, 1);
            }
        }
        group
    }

    /// Adds a member; everything is ahead of it.
    pub(super) fn join(&mut self, slot: Slot) -> &mut Member {
        self.index.insert(slot, self.members.len());
        self.members.push(Member {
            slot,
            stage: Stage::Own,
            cursor: self.log.tail(),
            private: VecDeque::new(),
            end_of_rib: EndOfRib::Waiting,
            marked: false,
            again: false,
        });
        self.members.last_mut().expect("invariant: pushed above")
    }

    /// Removes a member.
    pub(super) fn leave(&mut self, slot: Slot) -> Option<Member> {
        let place = self.index.remove(&slot)?;
        let member = self.members.swap_remove(place);
        if let Some(moved) = self.members.get(place) {
            self.index.insert(moved.slot, place);
        }
        Some(member)
    }

    /// Takes every destination out of the log, for the end of the group.
    pub(super) fn dissolve<P: NlriPrefix>(&mut self, table: &mut Table<P>) {
        let tail = self.log.tail();
        self.log.trim(tail, |id| {
            table[id].holds -= 1;
            table.free_if_unused(id);
        });
    }

    /// The best path of a destination has changed: it was `old`'s, and is `new`'s if it passes
    /// export. Whether there is anything to send.
    pub(super) fn change(
        &mut self,
        id: u32,
        old: Option<Slot>,
        new: Option<Slot>,
        holds: &mut u16,
    ) -> bool {
        let at = id as usize;
        if at >= self.flags.len() {
            if new.is_none() {
                return false;
            }
            self.flags.resize(at + 1, 0);
            self.places.resize(at + 1, 0);
        }
        let before = self.flags[at];
        let was = before & EXPORTED != 0;
        let keep = before & (SENT | LOGGED);
        if let (true, Some(old)) = (was, old) {
            self.count(old, -1);
        }
        let Some(source) = new else {
            if !was {
                return false;
            }
            self.flags[at] = keep;
            if before & SENT == 0 {
                self.unlog(id, holds);
                return false;
            }
            let former = old.filter(|_| before & MOVED == 0).unwrap_or(Slot::LOCAL);
            self.log(id, former, holds);
            return true;
        };
        self.count(source, 1);
        let moved = if was && old == Some(source) {
            before & MOVED
        } else if before & SENT != 0 && self.former(id) != source {
            MOVED
        } else {
            0
        };
        self.flags[at] = EXPORTED | keep | moved;
        if before & SENT == 0 && self.members.iter().all(|member| member.slot == source) {
            // Nobody to tell. Whoever joins walks the table.
            self.unlog(id, holds);
            return false;
        }
        self.log(id, Slot::LOCAL, holds);
        true
    }

    /// The source of a destination that waits to be withdrawn, if it never held anything itself;
    /// else ourselves, who are no member.
    fn former(&self, id: u32) -> Slot {
        let at = id as usize;
        match self.flags.get(at) {
            Some(flags) if flags & (EXPORTED | LOGGED) == LOGGED => {
                self.log.former(self.places[at])
            }
            _ => Slot::LOCAL,
        }
    }

    /// Whether the best path of the destination is exported.
    pub(super) fn exports(&self, id: u32) -> bool {
        self.flags.get(id as usize).is_some_and(|flags| flags & EXPORTED != 0)
    }

    /// Whether a member may have been sent the destination.
    pub(super) fn may_be_held(&self, id: u32) -> bool {
        self.flags.get(id as usize).is_some_and(|flags| flags & SENT != 0)
    }

    /// Notes that a member that joined holds the destination from before.
    pub(super) fn note_held(&mut self, id: u32) {
        self.flags[id as usize] |= SENT;
    }

    /// Prefixes in the Adj-RIB-Out of a member.
    pub(super) fn advertised(&self, slot: Slot) -> usize {
        self.exported - self.by_source.get(&slot).copied().unwrap_or(0)
    }

    /// Prefixes that some member has not been sent yet.
    pub(super) const fn pending(&self) -> usize {
        self.log.live()
    }

    /// Prefixes that a member has not been sent yet; walks the log.
    pub(super) fn pending_for(&self, slot: Slot) -> usize {
        let Some(member) = self.member(slot) else { return 0 };
        let walk = match member.stage {
            Stage::Done => 0,
            Stage::Own => self.exported,
            Stage::Table(from) => {
                let rest = self.flags.get(from as usize..).unwrap_or_default();
                rest.iter().filter(|flags| **flags & EXPORTED != 0).count()
            }
        };
        walk + if member.cursor < self.log.tail() {
            self.log.from(member.cursor).count()
        } else {
            0
        }
    }

    pub(super) fn member(&self, slot: Slot) -> Option<&Member> {
        self.members.get(*self.index.get(&slot)?)
    }

    pub(super) fn member_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.members.get_mut(*self.index.get(&slot)?)
    }

    /// Whether the member has been sent everything.
    pub(super) fn is_in_sync(&self, member: &Member) -> bool {
        member.stage == Stage::Done && member.cursor == self.log.tail()
    }

    /// The next thing to send to members that are writable.
    pub(super) fn work<P: NlriPrefix>(
        &mut self,
        table: &Table<P>,
        own: &[u32],
        shared: &mut Shared,
    ) -> Option<Work> {
        let tail = self.log.tail();
        let mut chosen: Option<Step> = None;
        let mut slots = Vec::new();
        for member in &mut self.members {
            if !shared.peers[member.slot].writable {
                continue;
            }
            if let Some(piece) = member.private.pop_front() {
                return Some(Work::Piece(member.slot, piece));
            }
            if member.stage == Stage::Done && member.end_of_rib != EndOfRib::Sent {
                if member.end_of_rib == EndOfRib::Waiting
                    && shared.end_of_rib_may_go(member.slot, &self.key)
                {
                    member.end_of_rib = EndOfRib::At(tail);
                }
                if matches!(member.end_of_rib, EndOfRib::At(position) if member.cursor >= position)
                {
                    member.end_of_rib = EndOfRib::Sent;
                    return Some(Work::EndOfRib(member.slot));
                }
            }
            let Some(step) = member.step(tail) else { continue };
            if *chosen.get_or_insert(step) == step {
                slots.push(member.slot);
            }
        }
        let batch = self.batch(chosen?, table, own, shared);
        Some(Work::Batch(batch, slots))
    }

    /// Moves a member behind a batch, if the batch is what it needs.
    pub(super) fn advance(&mut self, slot: Slot, batch: &Batch, table_end: u32) -> bool {
        let tail = self.log.tail();
        let epoch = self.epoch;
        let Some(member) = self.member_mut(slot) else { return false };
        if batch.epoch != epoch
            || !member.private.is_empty()
            || member.step(tail) != Some(batch.step)
            || member.cursor > batch.tail
        {
            return false;
        }
        match batch.step {
            Step::Log(_) => member.cursor = batch.end,
            Step::Own => member.stage = Stage::Table(0),
            Step::Table(_) if batch.end >= u64::from(table_end) => member.stage = Stage::Done,
            Step::Table(_) => member.stage = Stage::Table(batch.end as u32),
        }
        true
    }

    /// Forgets log entries that every member has passed.
    pub(super) fn trim<P: NlriPrefix>(&mut self, table: &mut Table<P>) {
        if self.log.live() == 0 && self.recent.is_empty() {
            return;
        }
        let to = self.members.iter().map(|member| member.cursor).min();
        let to = to.unwrap_or_else(|| self.log.tail());
        let flags = &mut self.flags;
        let mut gone = Vec::new();
        self.log.trim(to, |id| {
            let flags = &mut flags[id as usize];
            *flags &= !(LOGGED | MOVED);
            table[id].holds -= 1;
            if *flags & EXPORTED == 0 {
                *flags = 0;
                gone.push(id);
            }
        });
        // In a loop of its own: the processor then looks up several at once.
        for id in gone {
            table.free_if_unused(id);
        }
        self.recent.retain(|batch| batch.end > to);
    }

    /// Encodes entries for one member alone: what a change of policy adds for it and takes from it.
    pub(super) fn encode_for<P: NlriPrefix>(
        &mut self,
        slot: Slot,
        ids: impl Iterator<Item = u32>,
        table: &Table<P>,
        shared: &mut Shared,
    ) {
        let mut entries: Vec<Entry> = ids
            .map(|id| {
                let mut entry = entry(&self.flags, id, self.former(id), table);
                if entry.source == slot {
                    entry = Entry { source: Slot::LOCAL, attrs: None, ..entry };
                }
                if entry.attrs.is_some() {
                    self.flags[id as usize] |= SENT;
                }
                entry
            })
            .collect();
        for entries in entries.chunks_mut(4096) {
            let encoded = self.encode(entries, table, shared);
            if let Some(member) = self.member_mut(slot) {
                encoded.pieces_for(slot, |piece| member.private.push_back(piece));
            }
        }
    }

    fn batch<P: NlriPrefix>(
        &mut self,
        step: Step,
        table: &Table<P>,
        own: &[u32],
        shared: &mut Shared,
    ) -> Arc<Batch> {
        if let Some(batch) = self.recent.iter().find(|batch| batch.step == step) {
            return batch.clone();
        }
        let limit = (BATCH_OCTETS / self.octets_per_entry).clamp(64, 16 * 1024);
        let mut entries = Vec::new();
        let mut end = 0;
        match step {
            Step::Own => entries.extend(
                own.iter()
                    .filter(|id| self.exports(**id))
                    .map(|id| entry(&self.flags, *id, Slot::LOCAL, table)),
            ),
            Step::Table(from) => {
                end = u64::from(table.end());
                for id in from..table.end() {
                    if entries.len() >= limit {
                        end = u64::from(id);
                        break;
                    }
                    // Our own have gone before.
                    let learned = table[id].best().is_some_and(|best| best.peer != Slot::LOCAL);
                    if learned && self.exports(id) {
                        entries.push(entry(&self.flags, id, Slot::LOCAL, table));
                    }
                }
            }
            Step::Log(from) => {
                end = self.log.tail();
                for (behind, (id, former)) in self.log.from(from) {
                    entries.push(entry(&self.flags, id, former, table));
                    if entries.len() >= limit {
                        end = behind;
                        break;
                    }
                }
            }
        }
        for entry in entries.iter().filter(|entry| entry.attrs.is_some()) {
            self.flags[entry.id as usize] |= SENT;
        }
        let encoded = self.encode(&mut entries, table, shared);
        let (tail, epoch) = (self.log.tail(), self.epoch);
        let batch = Arc::new(Batch { step, end, tail, epoch, encoded });
        if matches!(step, Step::Log(_)) {
            self.recent.push_back(batch.clone());
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        batch
    }

    fn encode<P: NlriPrefix>(
        &mut self,
        entries: &mut [Entry],
        table: &Table<P>,
        shared: &mut Shared,
    ) -> Encoded {
        let context = Context {
            table,
            attrs: &shared.attrs,
            peers: &shared.peers,
            rewrite: &self.key.rewrite,
        };
        let capacity = (entries.len() * self.octets_per_entry).next_multiple_of(256);
        let encoded = pack::encode(&context, entries, capacity, &mut shared.encodings);
        if entries.len() >= 64 {
            self.octets_per_entry = (encoded.len() / entries.len()).max(1);
        }
        encoded
    }

    fn log(&mut self, id: u32, former: Slot, holds: &mut u16) {
        let at = id as usize;
        if self.flags[at] & LOGGED != 0 {
            self.log.remove(self.places[at]);
        } else {
            self.flags[at] |= LOGGED;
            *holds += 1;
        }
        self.places[at] = self.log.push(id, former);
        if self.log.is_sparse() {
            let cursors = self.members.iter_mut().flat_map(|member| {
                let position = match &mut member.end_of_rib {
                    EndOfRib::At(position) => Some(position),
                    _ => None,
                };
                std::iter::once(&mut member.cursor).chain(position)
            });
            let places = &mut self.places;
            self.log.compact(&mut cursors.collect::<Vec<_>>(), |id, place| {
                places[id as usize] = place;
            });
            self.recent.clear();
            self.epoch += 1;
        }
    }

    fn unlog(&mut self, id: u32, holds: &mut u16) {
        let at = id as usize;
        if self.flags[at] & LOGGED != 0 {
            self.flags[at] &= !LOGGED;
            self.log.remove(self.places[at]);
            *holds -= 1;
        }
    }

    fn count(&mut self, source: Slot, by: isize) {
        self.exported = self.exported.wrapping_add_signed(by);
        let of_source = self.by_source.entry(source).or_default();
        *of_source = of_source.wrapping_add_signed(by);
        if *of_source == 0 {
            self.by_source.remove(&source);
        }
    }
}

/// What there is to say about a destination now; `former` matters if it is a withdrawal.
fn entry<P>(flags: &[u8], id: u32, former: Slot, table: &Table<P>) -> Entry {
    let flags = flags.get(id as usize).copied().unwrap_or(0);
    match table[id].best().filter(|_| flags & EXPORTED != 0) {
        Some(best) => {
            Entry { source: best.peer, attrs: Some(best.attrs), id, moved: flags & MOVED != 0 }
        }
        None => Entry { source: former, attrs: None, id, moved: false },
    }
}

impl Member {
    fn step(&self, tail: u64) -> Option<Step> {
        match self.stage {
            Stage::Own => Some(Step::Own),
            Stage::Table(from) => Some(Step::Table(from)),
            Stage::Done => (self.cursor < tail).then_some(Step::Log(self.cursor)),
        }
    }

    /// The table is to be sent again (RFC 2918), between BoRR and EoRR if `begin` is given and the
    /// first walk has ended (RFC 7313 §4). Requests during a walk count as one more.
    pub(super) fn refresh(&mut self, begin: Option<Piece>) {
        if self.stage != Stage::Done {
            self.again = true;
            return;
        }
        self.stage = Stage::Own;
        if let Some(begin) = begin.filter(|_| self.end_of_rib == EndOfRib::Sent) {
            self.private.push_back(begin);
            self.marked = true;
        }
    }

    /// After a batch: whether the walk ended with it, and if so whether EoRR is due and whether
    /// another walk was asked for.
    pub(super) fn walk_ended(&mut self) -> Option<(bool, bool)> {
        if self.stage != Stage::Done || !(self.marked || self.again) {
            return None;
        }
        Some((std::mem::take(&mut self.marked), std::mem::take(&mut self.again)))
    }

    /// Queues whole messages for this member alone.
    pub(super) fn push(&mut self, piece: Piece) {
        self.private.push_back(piece);
    }

    /// Takes over from its former group what is on its way to the member, and how far it is with
    /// End-of-RIB and refreshes.
    pub(super) fn inherit(&mut self, old: &mut Self) {
        self.private = std::mem::take(&mut old.private);
        self.marked = old.marked;
        self.again = old.again;
        if old.end_of_rib == EndOfRib::Sent {
            self.end_of_rib = EndOfRib::Sent;
        }
    }

    /// Skips the walk: the member holds what the group exports.
    pub(super) fn skip_walk(&mut self) {
        self.stage = Stage::Done;
    }
}

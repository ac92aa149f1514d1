//! A group's log: which destinations have changed, in order, each at most once.
//!
//! A change moves a destination to the tail. A member has a cursor: what stands at it and behind
//! it, the member has not been sent yet. A member that is slow thus finds every destination once,
//! with its latest state, and the log never has more live entries than the table has destinations.
//! Places that were moved from stay empty until the log is compacted, at the latest when more than
//! half of it is empty.

use std::collections::VecDeque;

use super::peers::Slot;

const EMPTY: u32 = u32::MAX;
/// Below this many empty places compaction is not worth its work. Tests have small tables and must
/// see it too.
const SLACK: usize = if cfg!(test) { 4 } else { 4096 };

/// An ordered log with stable positions.
#[derive(Debug, Default)]
pub(super) struct Log {
    base: u64,
    /// Destination, and the former source of one that is to be withdrawn.
    entries: VecDeque<(u32, Slot)>,
    live: usize,
}

impl Log {
    /// The position behind the last entry.
    pub(super) fn tail(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// How many destinations stand in it.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// Appends a destination that is not in it; its place. `former` is a source that never held
    /// what is to be withdrawn, [`Slot::LOCAL`] if there is none.
    pub(super) fn push(&mut self, id: u32, former: Slot) -> u32 {
        self.entries.push_back((id, former));
        self.live += 1;
        place(self.tail() - 1)
    }

    /// Empties a place.
    pub(super) fn remove(&mut self, place: u32) {
        let index = self.index(place);
        self.entries[index].0 = EMPTY;
        self.live -= 1;
    }

    /// The former source in a place.
    pub(super) fn former(&self, place: u32) -> Slot {
        self.entries[self.index(place)].1
    }

    const fn index(&self, place: u32) -> usize {
        place.wrapping_sub(self.base as u32) as usize
    }

    /// What stands from position `from` on, with the positions behind each.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = (u64, (u32, Slot))> + '_ {
        let skip = usize::try_from(from.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let skip = skip.min(self.entries.len());
        (self.base + skip as u64 + 1..)
            .zip(self.entries.range(skip..).copied())
            .filter(|(_, (id, _))| *id != EMPTY)
    }

    /// Drops everything before position `to`, which all members have passed.
    pub(super) fn trim(&mut self, to: u64, mut dropped: impl FnMut(u32)) {
        while self.base < to {
            let Some((id, _)) = self.entries.pop_front() else { break };
            self.base += 1;
            if id != EMPTY {
                self.live -= 1;
                dropped(id);
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > SLACK {
            self.entries = VecDeque::new();
        }
    }

    /// Whether more than half of it is empty places.
    pub(super) fn is_sparse(&self) -> bool {
        self.entries.len() > 2 * self.live + SLACK
    }

    /// Closes the gaps. Moves the positions in `cursors` along; `moved` is told of new places.
    pub(super) fn compact(&mut self, cursors: &mut [&mut u64], mut moved: impl FnMut(u32, u32)) {
        cursors.sort_unstable_by_key(|cursor| **cursor);
        let mut cursors = cursors.iter_mut().filter(|cursor| ***cursor >= self.base).peekable();
        let mut kept = VecDeque::with_capacity(self.live);
        for (position, (id, former)) in (self.base..).zip(&self.entries) {
            let new = self.base + kept.len() as u64;
            while let Some(cursor) = cursors.next_if(|cursor| ***cursor <= position) {
                **cursor = new;
            }
            if *id != EMPTY {
                kept.push_back((*id, *former));
                moved(*id, place(new));
            }
        }
        for cursor in cursors {
            **cursor = self.base + kept.len() as u64;
        }
        self.entries = kept;
    }
}

/// A position in four octets; the log is far shorter than what they can tell apart.
const fn place(position: u64) -> u32 {
    position as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_leaves_each_destination_once_and_compaction_keeps_cursors() {
        let mut log = Log::default();
        let mut places = [0_u32; 10];
        for id in 0..10 {
            places[id as usize] = log.push(id, Slot::LOCAL);
        }
        let mut slow = 3;
        for round in 0..3000 {
            let id = (round * 7 % 10) as usize;
            log.remove(places[id]);
            places[id] = log.push(id as u32, Slot(7));
        }
        assert_eq!(log.live(), 10);
        let expected: Vec<u32> = log.from(slow).map(|(_, (id, _))| id).collect();
        assert_eq!(expected.len(), 10);
        let mut tail = log.tail();
        let mut middle = log.from(0).nth(4).unwrap().0;
        log.compact(&mut [&mut slow, &mut tail, &mut middle], |id, place| {
            places[id as usize] = place;
        });
        assert_eq!(log.from(slow).map(|(_, (id, _))| id).collect::<Vec<_>>(), expected);
        assert_eq!(tail, log.tail());
        assert!(places.iter().all(|place| log.former(*place) == Slot(7)));
        assert_eq!(log.from(middle).map(|(_, (id, _))| id).collect::<Vec<_>>(), expected[5..]);
        log.remove(places[expected[0] as usize]);
        let mut dropped = Vec::new();
        log.trim(tail, |id| dropped.push(id));
        assert_eq!(dropped, expected[1..]);
        assert_eq!((log.live(), log.tail()), (0, tail));
    }
}

//! Sets of destinations: which ones a peer has paths for, which ones use a next hop.
//!
//! Bits in blocks of 512 destinations, so that a peer with two prefixes in a table of a million
//! costs two blocks, and one with all of them a bit each. Numbers come mostly in sequence, hence
//! the block used last is remembered.

use std::collections::HashMap;

use foldhash::fast::FixedState;

const WORDS: usize = 8;
const BLOCK: u32 = WORDS as u32 * 64;

/// A set of dense numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct DestSet {
    index: HashMap<u32, u32, FixedState>,
    blocks: Vec<(u32, [u64; WORDS])>,
    last: usize,
    len: usize,
}

impl DestSet {
    /// Adds `id`; whether it is new.
    pub(super) fn insert(&mut self, id: u32) -> bool {
        let block = id / BLOCK;
        if self.blocks.get(self.last).is_none_or(|(number, _)| *number != block) {
            self.last = *self.index.entry(block).or_insert_with(|| {
                self.blocks.push((block, [0; WORDS]));
                u32::try_from(self.blocks.len() - 1).expect("invariant: blocks are numbered by u32")
            }) as usize;
        }
        let word = &mut self.blocks[self.last].1[(id % BLOCK / 64) as usize];
        let bit = 1 << (id % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.len += usize::from(new);
        new
    }

    /// Takes `id` out; whether it was in.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let block = id / BLOCK;
        let place = match self.blocks.get(self.last) {
            Some((number, _)) if *number == block => self.last,
            _ => match self.index.get(&block) {
                Some(place) => *place as usize,
                None => return false,
            },
        };
        self.last = place;
        let word = &mut self.blocks[place].1[(id % BLOCK / 64) as usize];
        let bit = 1 << (id % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.len -= usize::from(was);
        if self.len == 0 {
            *self = Self::default();
        }
        was
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The numbers, block by block in the order the blocks were first used.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().flat_map(|(number, words)| {
            words.iter().enumerate().flat_map(move |(place, word)| {
                let base = number * BLOCK + place as u32 * 64;
                let mut rest = *word;
                std::iter::from_fn(move || {
                    let bit = rest.trailing_zeros();
                    (bit < 64).then(|| {
                        rest &= rest - 1;
                        base + bit
                    })
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0_u32..3000), 0..300)) {
            let (mut set, mut model) = (DestSet::default(), BTreeSet::new());
            for (add, id) in steps {
                if add {
                    prop_assert_eq!(set.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(set.remove(id), model.remove(&id));
                }
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), model);
        }
    }
}

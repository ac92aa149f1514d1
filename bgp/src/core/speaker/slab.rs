//! Dense storage with stable numbers: chunks that never move, freed places used again.
//!
//! Destinations and attribute sets live here and are named by four octets. A growing `Vec` would
//! copy a full table at each doubling and leave up to half of it empty; chunks do neither.
//! A released number must not be used by its former owner again; the value stays until the place
//! is taken anew, so the owner empties it first.

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Values under dense numbers.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
    end: u32,
    live: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), end: 0, live: 0 }
    }

    /// Takes a place, a released one first.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.live += 1;
        if let Some(id) = self.free.pop() {
            self[id] = value;
            return id;
        }
        let id = self.end;
        self.end += 1;
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(if id == 0 { 64 } else { CHUNK }));
        }
        self.chunks.last_mut().expect("invariant: pushed above").push(value);
        id
    }

    /// Gives a place back. When the last one goes, so does the memory.
    pub(super) fn release(&mut self, id: u32) {
        self.live -= 1;
        if self.live == 0 {
            *self = Self::new();
        } else {
            self.free.push(id);
        }
    }

    /// One more than the greatest number in use.
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    /// How many places are taken.
    pub(super) const fn len(&self) -> usize {
        self.live
    }

    /// The value, unless the number was never given since the slab was last empty.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.chunks.get((id >> CHUNK_BITS) as usize)?.get(id as usize & (CHUNK - 1))
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK - 1)]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_memory_goes_with_the_last() {
        let mut slab = Slab::new();
        let ids: Vec<u32> = (0..10_000).map(|n| slab.insert(n)).collect();
        assert_eq!((slab.end(), slab.len()), (10_000, 10_000));
        assert!(ids.iter().all(|id| slab[*id] == *id));
        slab.release(5000);
        slab.release(1);
        assert_eq!(slab.insert(7), 1);
        assert_eq!(slab.insert(8), 5000);
        assert_eq!(slab.end(), 10_000);
        for id in ids {
            slab.release(id);
        }
        assert_eq!((slab.end(), slab.len()), (0, 0));
        assert!(slab.get(0).is_none());
        assert_eq!(slab.insert(1), 0);
    }
}

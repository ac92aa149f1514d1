//! Interned path attributes: each distinct set is stored once and named by four octets.
//!
//! A set is found by its hash, which is computed once and kept, and freed when its last path goes:
//! there is no sweep. With it stands what the decision process asks of every path, and its next
//! hop. Sets that differ only in the interface of a link-local next hop are different sets.

use std::hash::{BuildHasher, Hash, Hasher};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use routelet_proto::{NextHop, Origin, PathAttributes};

use super::nexthop::{NextHopId, NextHops, interface_of, resolve};
use super::slab::Slab;

/// An attribute set's number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct AttrId(pub(super) u32);

/// A stored attribute set.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) attributes: PathAttributes,
    pub(super) next_hop: NextHopId,
    /// Length of AS_PATH for the decision process.
    pub(super) as_path_length: u32,
    interface: u32,
    hash: u32,
    refs: u32,
}

/// The attribute sets in use, and their next hops.
#[derive(Debug)]
pub(super) struct AttrStore {
    index: HashTable<u32>,
    slab: Slab<Stored>,
    hasher: FixedState,
    pub(super) next_hops: NextHops,
}

impl AttrStore {
    pub(super) fn new() -> Self {
        Self {
            index: HashTable::new(),
            slab: Slab::new(),
            hasher: FixedState::default(),
            next_hops: NextHops::new(),
        }
    }

    /// The number of a set received over a session on `session_interface`, with one reference
    /// that the caller must [`Self::release`].
    pub(super) fn intern(&mut self, attributes: &PathAttributes, session_interface: u32) -> AttrId {
        let interface = interface_of(&attributes.next_hop, session_interface);
        self.find_or_insert(attributes, interface, false)
    }

    /// The number of the set of a route that starts here, with one reference.
    pub(super) fn intern_local(&mut self, attributes: &PathAttributes) -> AttrId {
        self.find_or_insert(attributes, u32::MAX, true)
    }

    fn find_or_insert(
        &mut self,
        attributes: &PathAttributes,
        interface: u32,
        local: bool,
    ) -> AttrId {
        let mut hasher = self.hasher.build_hasher();
        attributes.hash(&mut hasher);
        hasher.write_u32(interface);
        let hash = fold(hasher.finish());
        let found = self.index.find(spread(hash), |id| {
            let stored = &self.slab[*id];
            stored.hash == hash && stored.interface == interface && stored.attributes == *attributes
        });
        if let Some(id) = found {
            let id = *id;
            self.slab[id].refs += 1;
            return AttrId(id);
        }
        let next_hop = if local {
            NextHopId::NONE
        } else {
            self.next_hops.acquire(resolve(&attributes.next_hop, interface))
        };
        let id = self.slab.insert(Stored {
            attributes: owned(attributes),
            next_hop,
            as_path_length: attributes.as_path.length(),
            interface,
            hash,
            refs: 1,
        });
        self.index.insert_unique(spread(hash), id, |id| spread(self.slab[*id].hash));
        AttrId(id)
    }

    /// One more reference.
    pub(super) fn retain(&mut self, id: AttrId) {
        self.slab[id.0].refs += 1;
    }

    /// One reference less; frees the set with the last.
    pub(super) fn release(&mut self, id: AttrId) {
        let stored = &mut self.slab[id.0];
        stored.refs -= 1;
        if stored.refs > 0 {
            return;
        }
        let (hash, next_hop) = (stored.hash, stored.next_hop);
        let unspecified = NextHop::V4(std::net::Ipv4Addr::UNSPECIFIED);
        stored.attributes = PathAttributes::originated(Origin::Igp, unspecified);
        if let Ok(entry) = self.index.find_entry(spread(hash), |other| *other == id.0) {
            entry.remove();
        }
        self.slab.release(id.0);
        self.next_hops.release(next_hop);
        if self.index.is_empty() {
            self.index = HashTable::new();
        }
    }

    pub(super) fn get(&self, id: AttrId) -> &Stored {
        &self.slab[id.0]
    }

    /// How many sets there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

/// A copy that shares nothing with the message it was read from: a few octets of an unknown
/// attribute must not keep a whole receive buffer alive.
fn owned(attributes: &PathAttributes) -> PathAttributes {
    let mut copy = attributes.clone();
    if let Some(rare) = &mut copy.rare {
        for unknown in &mut rare.unknown {
            unknown.value = Bytes::copy_from_slice(&unknown.value);
        }
    }
    copy
}

/// Four octets of a hash, as the indexes keep it.
pub(super) const fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// hashbrown takes the place from the low bits and the tag from the top seven.
pub(super) const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

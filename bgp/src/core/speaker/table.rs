//! The table of one family: prefix → destination → paths.
//!
//! A destination holds every path for its prefix, accepted or not: Adj-RIB-In and Loc-RIB are
//! views of it. Destinations have dense numbers that stay as long as they have a path or an update
//! group still has to tell somebody that the last one went; groups and sets refer to them by
//! number. The best path stands first.
//!
//! Sizes matter here: 32 octets a prefix (IPv4, one path) and 10 to 20 of index.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use routelet_proto::{NlriPrefix, PathId};
use smallvec::SmallVec;

use super::attrs::{AttrId, fold, spread};
use super::peers::Slot;
use super::slab::Slab;

/// Import policy or a loop check refused the path.
pub(super) const REJECTED: u16 = 1;
/// Retained from before the peer restarted (RFC 4724 §4.2).
pub(super) const STALE: u16 = 1 << 1;
/// Not repeated yet in an enhanced route refresh (RFC 7313 §4).
pub(super) const UNREFRESHED: u16 = 1 << 2;
/// The best path.
pub(super) const BEST: u16 = 1 << 3;
/// Shares the traffic, the best path included.
pub(super) const MULTIPATH: u16 = 1 << 4;
/// Policy changed its attributes; those received are kept beside the table.
pub(super) const CHANGED: u16 = 1 << 5;
/// A route of our own that is a service address.
pub(super) const SERVICE: u16 = 1 << 6;

/// Prefixes of one length that stand together in the index: a cache line of its entries.
const NEIGHBOURS: u128 = 8;

/// One path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Attributes after import policy.
    pub(super) attrs: AttrId,
    /// When it was learned, in tenths of a second since the speaker started.
    pub(super) learned: u32,
    pub(super) path_id: PathId,
    /// Who sent it; [`Slot::LOCAL`] if it starts here.
    pub(super) peer: Slot,
    pub(super) flags: u16,
}

impl Path {
    pub(super) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The paths of a destination.
pub(super) type Paths = SmallVec<[Path; 1]>;

/// A prefix and its paths.
#[derive(Debug)]
pub(super) struct Destination<P> {
    pub(super) prefix: P,
    /// In how many groups' logs it stands.
    pub(super) holds: u16,
    pub(super) paths: Paths,
}

const _: () = assert!(size_of::<Destination<Ipv4Net>>() == 32);
const _: () = assert!(size_of::<Destination<Ipv6Net>>() == 48);

impl<P> Destination<P> {
    /// The best path.
    pub(super) fn best(&self) -> Option<&Path> {
        self.paths.first().filter(|path| path.has(BEST))
    }
}

/// The destinations of one family.
#[derive(Debug)]
pub(super) struct Table<P> {
    /// Hash and number. The hash is kept so that growing does not read every destination.
    index: HashTable<(u32, u32)>,
    slab: Slab<Destination<P>>,
    hasher: FixedState,
}

impl<P: NlriPrefix> Table<P> {
    pub(super) fn new() -> Self {
        Self { index: HashTable::new(), slab: Slab::new(), hasher: FixedState::default() }
    }

    pub(super) fn find(&self, prefix: &P) -> Option<u32> {
        let hash = self.hash(prefix);
        let found = self
            .index
            .find(spread(hash), |(other, id)| *other == hash && self.slab[*id].prefix == *prefix);
        found.map(|(_, id)| *id)
    }

    pub(super) fn find_or_insert(&mut self, prefix: P) -> u32 {
        let hash = self.hash(&prefix);
        let found = self
            .index
            .find(spread(hash), |(other, id)| *other == hash && self.slab[*id].prefix == prefix);
        if let Some((_, id)) = found {
            return *id;
        }
        let id = self.slab.insert(Destination { prefix, holds: 0, paths: Paths::new() });
        self.index.insert_unique(spread(hash), (hash, id), |(hash, _)| spread(*hash));
        id
    }

    /// Frees the destination if it has no paths and nobody has to be told of that any more.
    pub(super) fn free_if_unused(&mut self, id: u32) {
        let destination = &self.slab[id];
        if !destination.paths.is_empty() || destination.holds > 0 {
            return;
        }
        let hash = self.hash(&destination.prefix);
        if let Ok(entry) = self.index.find_entry(spread(hash), |entry| *entry == (hash, id)) {
            entry.remove();
            self.slab.release(id);
        }
        if self.index.is_empty() {
            self.index = HashTable::new();
        }
    }

    /// Neighbours stand side by side in the index, in one cache line: tables come in runs of them,
    /// and a place far from the last one is a cache miss. The low bits choose the place and the top
    /// ones the tag, so both tell neighbours apart.
    fn hash(&self, prefix: &P) -> u32 {
        let address = match (*prefix).into() {
            IpNet::V4(net) => u128::from(u32::from(net.addr())),
            IpNet::V6(net) => u128::from(net.addr()),
        };
        let number = address.checked_shr(u32::from(P::MAX_BITS - prefix.bits())).unwrap_or(0);
        let (run, place) = (number / NEIGHBOURS, (number % NEIGHBOURS) as u32);
        let hash = fold(self.hasher.hash_one((run as u64, (run >> 64) as u64, prefix.bits())));
        (hash & !(NEIGHBOURS as u32 - 1) | place) ^ place << 25
    }

    /// The destination, if the number is in use or was once.
    pub(super) fn get(&self, id: u32) -> Option<&Destination<P>> {
        self.slab.get(id)
    }

    /// One more than the greatest number in use.
    pub(super) const fn end(&self) -> u32 {
        self.slab.end()
    }

    /// How many destinations there are.
    pub(super) const fn len(&self) -> usize {
        self.slab.len()
    }

    /// The destination of the longest prefix that covers `address` and has a path.
    pub(super) fn longest(&self, address: IpAddr) -> Option<u32> {
        let whole = IpNet::from(address);
        (0..=whole.max_prefix_len()).rev().find_map(|length| {
            let net = IpNet::new(address, length).ok()?.trunc();
            let id = self.find(&P::from_ipnet(net)?)?;
            (!self.slab[id].paths.is_empty()).then_some(id)
        })
    }
}

impl<P> std::ops::Index<u32> for Table<P> {
    type Output = Destination<P>;

    fn index(&self, id: u32) -> &Destination<P> {
        &self.slab[id]
    }
}

impl<P> std::ops::IndexMut<u32> for Table<P> {
    fn index_mut(&mut self, id: u32) -> &mut Destination<P> {
        &mut self.slab[id]
    }
}

/// The attributes' next hop of a route that starts here, replaced on every export.
pub(super) const fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

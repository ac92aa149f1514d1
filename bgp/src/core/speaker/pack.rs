//! Packing: destinations to the octets of a batch, which every member of a group shares.
//!
//! Entries are sorted by (source, attributes), so that each attribute set is rewritten and encoded
//! once for all its prefixes, and what one source sent stands in one piece: for a member that is a
//! source, the batch is handed out without that piece. Withdrawals count as their former source's.

use bytes::{Bytes, BytesMut};
use routelet_proto::NlriPrefix;
use routelet_proto::update::{pack_announcements, pack_withdrawals};

use super::attrs::{AttrId, AttrStore};
use super::export::{Rewrite, Source};
use super::peers::{Peers, Slot};
use super::table::Table;

/// One destination to be told about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) source: Slot,
    /// What to announce; `None`: withdraw.
    pub(super) attrs: Option<AttrId>,
    pub(super) id: u32,
    /// The source may hold an older path of somebody else and needs a withdrawal.
    pub(super) moved: bool,
}

/// Octets that members of a group share.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    octets: Bytes,
    messages: u32,
    /// By source.
    segments: Vec<Segment>,
    /// For sources that hold an older path of somebody else.
    withdrawals: Vec<(Slot, Piece)>,
}

/// Whole messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) octets: Bytes,
    pub(super) messages: u32,
}

/// What stems from one source.
#[derive(Debug)]
struct Segment {
    source: Slot,
    start: usize,
    end: usize,
    /// Messages in front of it, and in it.
    before: u32,
    messages: u32,
}

/// Where packing reads from.
pub(super) struct Context<'a, P> {
    pub(super) table: &'a Table<P>,
    pub(super) attrs: &'a AttrStore,
    pub(super) peers: &'a Peers,
    pub(super) rewrite: &'a Rewrite,
}

/// Encodes the entries, each destination at most once. `encodings` counts attribute sets written.
pub(super) fn encode<P: NlriPrefix>(
    context: &Context<'_, P>,
    entries: &mut [Entry],
    capacity: usize,
    encodings: &mut u64,
) -> Encoded {
    let encode = &context.rewrite.encode;
    entries.sort_unstable_by_key(|entry| (entry.source, entry.attrs));
    let mut out = BytesMut::with_capacity(capacity);
    let mut encoded = Encoded::default();
    let prefixes = |run: &[Entry]| {
        run.iter().map(|entry| (0, context.table[entry.id].prefix)).collect::<Vec<(u32, P)>>()
    };
    for of_source in entries.chunk_by(|a, b| a.source == b.source) {
        let source = of_source[0].source;
        let (start, before) = (out.len(), encoded.messages);
        for run in of_source.chunk_by(|a, b| a.attrs == b.attrs) {
            let nlri = run.iter().map(|entry| (0, context.table[entry.id].prefix));
            let mut messages = 0;
            if let Some(attrs) = run[0].attrs {
                let from = Source::of(source, context.peers);
                let stored = context.attrs.get(attrs);
                if let Some(attributes) = context.rewrite.apply(from, &stored.attributes) {
                    messages = pack_announcements(encode, &attributes, nlri, &mut out);
                    *encodings += 1;
                }
            }
            if messages == 0 {
                // A withdrawal; or attributes that leave no room for a prefix (RFC 4271 §9.2).
                messages = pack_withdrawals(encode, prefixes(run), &mut out);
            }
            encoded.messages += messages as u32;
        }
        encoded.segments.push(Segment {
            source,
            start,
            end: out.len(),
            before,
            messages: encoded.messages - before,
        });
        let moved: Vec<Entry> = of_source.iter().filter(|entry| entry.moved).copied().collect();
        if !moved.is_empty() {
            let mut octets = BytesMut::new();
            let messages = pack_withdrawals(encode, prefixes(&moved), &mut octets) as u32;
            encoded.withdrawals.push((source, Piece { octets: octets.freeze(), messages }));
        }
    }
    encoded.octets = out.freeze();
    encoded
}

impl Encoded {
    /// Octets in it.
    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// What `member` is sent, piece by piece.
    pub(super) fn pieces_for(&self, member: Slot, mut send: impl FnMut(Piece)) {
        let mut send = |octets: Bytes, messages| {
            if !octets.is_empty() {
                send(Piece { octets, messages });
            }
        };
        let found = self.segments.binary_search_by_key(&member, |segment| segment.source);
        let Some(own) = found.ok().map(|place| &self.segments[place]) else {
            send(self.octets.clone(), self.messages);
            return;
        };
        send(self.octets.slice(..own.start), own.before);
        send(self.octets.slice(own.end..), self.messages - own.before - own.messages);
        if let Some((_, piece)) = self.withdrawals.iter().find(|(source, _)| *source == member) {
            send(piece.octets.clone(), piece.messages);
        }
    }
}

//! UPDATE (RFC 4271 §4.3, RFC 4760): reading with RFC 7606 treatment, and packing.

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::attributes::PathAttributes;
use crate::error::Issue;
use crate::message::EncodeContext;
use crate::nlri::{Nlri, NlriPrefix, PathId};
use crate::types::Family;

/// An UPDATE as read, RFC 7606 treatment already applied.
///
/// IPv4 routes may come in the message's own fields or in MP attributes; both end up here in the
/// same way. Withdrawals take effect before announcements.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Update {
    /// Routes withdrawn, or treated so.
    pub withdrawn: SmallVec<[Nlri; 1]>,
    /// Routes announced.
    pub announced: SmallVec<[Announcement; 1]>,
    /// The family whose initial update this ends, if it is an End-of-RIB (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// What was wrong with it, and what was done about that.
    pub issues: Vec<Issue>,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// The attributes, next hop included.
    pub attributes: PathAttributes,
    /// The prefixes.
    pub nlri: Nlri,
}

/// Appends as many UPDATE messages as it takes to announce `prefixes` with `attributes`, each as
/// full as `context.max_len` allows, and returns how many messages that were.
///
/// IPv4 routes with an IPv4 next hop go into the NLRI field, all others into MP_REACH_NLRI, which
/// stands first in its message (RFC 7606 §5.1). The attributes are encoded once and copied.
/// If attributes alone leave no room for a prefix, nothing is written and 0 is returned
/// (RFC 4271 §9.2: such a route is not advertised).
pub fn pack_announcements<P: NlriPrefix>(
    context: &EncodeContext,
    attributes: &PathAttributes,
    prefixes: impl IntoIterator<Item = (PathId, P)>,
    out: &mut BytesMut,
) -> usize {
    let _ = (context, attributes, prefixes.into_iter(), out);
    todo!()
}

/// Appends as many UPDATE messages as it takes to withdraw `prefixes`, and returns how many.
pub fn pack_withdrawals<P: NlriPrefix>(
    context: &EncodeContext,
    prefixes: impl IntoIterator<Item = (PathId, P)>,
    out: &mut BytesMut,
) -> usize {
    let _ = (context, prefixes.into_iter(), out);
    todo!()
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 §2).
pub fn pack_end_of_rib(family: Family, out: &mut BytesMut) {
    let _ = (family, out);
    todo!()
}

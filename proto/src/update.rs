//! UPDATE (RFC 4271 §4.3, RFC 4760): reading with RFC 7606 treatment, and packing.

use smallvec::SmallVec;

use crate::attributes::PathAttributes;
use crate::error::Issue;
use crate::nlri::Nlri;
use crate::types::Family;

mod decode;
mod pack;
mod read;

pub use pack::{pack_announcements, pack_end_of_rib, pack_withdrawals};

/// An UPDATE as read, RFC 7606 treatment already applied.
///
/// IPv4 routes may come in the message's own fields or in MP attributes; both end up here in the
/// same way. Withdrawals take effect before announcements.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Update {
    /// Routes withdrawn, or treated so: one list per family, in the order of [`Family::ALL`].
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

#[cfg(test)]
mod tests;

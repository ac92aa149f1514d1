//! Packing routes into UPDATE messages (RFC 4271 §4.3, §9.2; RFC 4760 §3; RFC 7606 §5.1).
//!
//! In: one set of attributes and the prefixes that share it. Out: whole messages appended to a
//! buffer, each as full as the session's longest message allows. Attributes are encoded once per
//! call and copied into each message. What always holds: no message is longer than
//! `EncodeContext::max_len`, a message announces or withdraws but never both, and MP_REACH_NLRI or
//! MP_UNREACH_NLRI stands first in its message.

use bytes::{BufMut, BytesMut};

use crate::attributes::encode::{Scratch, write_attributes};
use crate::attributes::{NextHop, PathAttributes, code};
use crate::message::{EncodeContext, MAX_EXTENDED_LEN, MessageType};
use crate::nlri::{Nlri, NlriPrefix, PathId};
use crate::types::Family;
use crate::update::{Announcement, Update};
use crate::wire::{finish_message, patch_length, start_message};

/// Header, Withdrawn Routes Length and Total Path Attribute Length.
const EMPTY_UPDATE: usize = 23;
/// Flags of the MP attributes: optional, with a length of two octets that is patched later.
const MP_FLAGS: u8 = 0x90;

/// Appends as many UPDATE messages as it takes to announce `prefixes` with `attributes`, each as
/// full as `context.max_len` allows, and returns how many messages that were.
///
/// IPv4 routes with an IPv4 next hop go into the NLRI field, all others into MP_REACH_NLRI, which
/// stands first in its message (RFC 7606 §5.1). The attributes are encoded once and copied.
/// Nothing is written and 0 is returned where the routes cannot be written at all: attributes
/// alone leave no room for a prefix (RFC 4271 §9.2: such a route is not advertised), IPv4 routes
/// with an IPv6 next hop without `context.extended_next_hop`, IPv6 routes with an IPv4 next hop.
pub fn pack_announcements<P: NlriPrefix>(
    context: &EncodeContext,
    attributes: &PathAttributes,
    prefixes: impl IntoIterator<Item = (PathId, P)>,
    out: &mut BytesMut,
) -> usize {
    let Some(in_nlri_field) = goes_in_nlri_field(context, P::FAMILY, attributes.next_hop) else {
        return 0;
    };
    let mut encoded = Scratch::new();
    write_attributes(context, attributes, in_nlri_field, &mut encoded);
    let add_path = context.add_path.contains(P::FAMILY);
    let mut reach = Scratch::new();
    if !in_nlri_field {
        write_reach_head(P::FAMILY, attributes.next_hop, &mut reach);
    }
    let most = context.max_len.min(MAX_EXTENDED_LEN);
    let fixed = EMPTY_UPDATE + reach.len() + encoded.len();
    let Some(room) = most.checked_sub(fixed).filter(|room| *room >= longest::<P>(add_path)) else {
        return 0;
    };
    if in_nlri_field {
        let head = |out: &mut BytesMut| {
            out.put_u16(0);
            put_length(encoded.len(), out);
            out.put_slice(&encoded);
        };
        pack(prefixes, add_path, room, out, head, |_, _| {})
    } else {
        let head = |out: &mut BytesMut| {
            out.put_slice(&[0; 4]);
            out.put_slice(&reach);
        };
        let tail = |start: usize, out: &mut BytesMut| {
            // The list's length stands behind the header, the attribute's behind flags and code.
            patch_length(start + 25, out.len() - start - 27, out);
            out.put_slice(&encoded);
            patch_length(start + 21, out.len() - start - EMPTY_UPDATE, out);
        };
        pack(prefixes, add_path, room, out, head, tail)
    }
}

/// Appends as many UPDATE messages as it takes to withdraw `prefixes`, and returns how many.
pub fn pack_withdrawals<P: NlriPrefix>(
    context: &EncodeContext,
    prefixes: impl IntoIterator<Item = (PathId, P)>,
    out: &mut BytesMut,
) -> usize {
    let add_path = context.add_path.contains(P::FAMILY);
    let most = context.max_len.min(MAX_EXTENDED_LEN);
    match P::FAMILY {
        Family::Ipv4Unicast => {
            let tail = |start: usize, out: &mut BytesMut| {
                patch_length(start + 19, out.len() - start - 21, out);
                out.put_u16(0);
            };
            let room = most.saturating_sub(EMPTY_UPDATE);
            pack(prefixes, add_path, room, out, |out| out.put_u16(0), tail)
        }
        Family::Ipv6Unicast => {
            let head = |out: &mut BytesMut| {
                out.put_slice(&[0; 4]);
                put_unreach_head(P::FAMILY, out);
            };
            let tail = |start: usize, out: &mut BytesMut| {
                patch_length(start + 21, out.len() - start - EMPTY_UPDATE, out);
                patch_length(start + 25, out.len() - start - 27, out);
            };
            pack(prefixes, add_path, most.saturating_sub(EMPTY_UPDATE + 7), out, head, tail)
        }
    }
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 §2).
pub fn pack_end_of_rib(family: Family, out: &mut BytesMut) {
    let start = start_message(MessageType::Update, out);
    match family {
        Family::Ipv4Unicast => out.put_slice(&[0; 4]),
        Family::Ipv6Unicast => {
            let family = family.afi_safi();
            out.put_slice(&[0, 0, 0, 6, 0x80, code::MP_UNREACH_NLRI, 3]);
            out.put_u16(family.afi);
            out.put_u8(family.safi);
        }
    }
    finish_message(start, out);
}

impl Update {
    /// Appends the update in as few messages as it takes, usually one: an update that was read
    /// fits one again. An update with nothing in it is not written, since its octets would be an
    /// End-of-RIB. `issues` are not part of what is written.
    pub(crate) fn encode(&self, context: &EncodeContext, out: &mut BytesMut) {
        if self.withdrawn.is_empty() && self.announced.is_empty() {
            if let Some(family) = self.end_of_rib {
                pack_end_of_rib(family, out);
            }
            return;
        }
        let before = out.len();
        if !self.encode_in_one(context, out) {
            out.truncate(before);
            self.encode_in_many(context, out);
        }
    }

    /// Whether it could be done; what is written is meaningless else.
    fn encode_in_one(&self, context: &EncodeContext, out: &mut BytesMut) -> bool {
        let Some(plan) = self.plan(context) else { return false };
        let add_path = |nlri: &Nlri| context.add_path.contains(nlri.family());
        let start = start_message(MessageType::Update, out);
        out.put_u16(0);
        if let Some(nlri) = plan.withdrawn_v4 {
            nlri.write(add_path(nlri), out);
            patch_length_if_fits(start + 19, out.len() - start - 21, out);
        }
        let attributes_at = out.len();
        out.put_u16(0);
        if let Some(nlri) = plan.withdrawn_v6 {
            let at = out.len();
            put_unreach_head(nlri.family(), out);
            nlri.write(add_path(nlri), out);
            patch_length_if_fits(at + 2, out.len() - at - 4, out);
        }
        if let Some(announcement) = plan.reach {
            let at = out.len();
            let mut reach = Scratch::new();
            let nlri = &announcement.nlri;
            write_reach_head(nlri.family(), announcement.attributes.next_hop, &mut reach);
            out.put_slice(&reach);
            nlri.write(add_path(nlri), out);
            patch_length_if_fits(at + 2, out.len() - at - 4, out);
        }
        if let Some(announcement) = plan.field.or(plan.reach) {
            let mut encoded = Scratch::new();
            let with_next_hop = plan.field.is_some();
            write_attributes(context, &announcement.attributes, with_next_hop, &mut encoded);
            out.put_slice(&encoded);
        }
        patch_length_if_fits(attributes_at, out.len() - attributes_at - 2, out);
        if let Some(announcement) = plan.field {
            announcement.nlri.write(add_path(&announcement.nlri), out);
        }
        if out.len() - start > context.max_len.min(MAX_EXTENDED_LEN) {
            return false;
        }
        finish_message(start, out);
        true
    }

    /// What goes where, if it goes into one message.
    fn plan(&self, context: &EncodeContext) -> Option<Plan<'_>> {
        let mut plan = Plan::default();
        for nlri in &self.withdrawn {
            let place = match nlri.family() {
                Family::Ipv4Unicast => &mut plan.withdrawn_v4,
                Family::Ipv6Unicast => &mut plan.withdrawn_v6,
            };
            if place.replace(nlri).is_some() {
                return None;
            }
        }
        for announcement in &self.announced {
            let next_hop = announcement.attributes.next_hop;
            let field = goes_in_nlri_field(context, announcement.nlri.family(), next_hop)?;
            // A second set of IPv4 routes with another IPv4 next hop fits MP_REACH_NLRI too.
            let place =
                if field && plan.field.is_none() { &mut plan.field } else { &mut plan.reach };
            if place.replace(announcement).is_some() {
                return None;
            }
        }
        match (plan.field, plan.reach) {
            (Some(field), Some(reach)) if !shares_attributes(field, reach) => None,
            _ => Some(plan),
        }
    }

    fn encode_in_many(&self, context: &EncodeContext, out: &mut BytesMut) {
        use ipnet::{Ipv4Net, Ipv6Net};
        for nlri in &self.withdrawn {
            match nlri.family() {
                Family::Ipv4Unicast => pack_withdrawals(context, nlri.iter::<Ipv4Net>(), out),
                Family::Ipv6Unicast => pack_withdrawals(context, nlri.iter::<Ipv6Net>(), out),
            };
        }
        for Announcement { attributes, nlri } in &self.announced {
            match nlri.family() {
                Family::Ipv4Unicast => {
                    pack_announcements(context, attributes, nlri.iter::<Ipv4Net>(), out)
                }
                Family::Ipv6Unicast => {
                    pack_announcements(context, attributes, nlri.iter::<Ipv6Net>(), out)
                }
            };
        }
    }
}

#[derive(Default)]
struct Plan<'a> {
    withdrawn_v4: Option<&'a Nlri>,
    withdrawn_v6: Option<&'a Nlri>,
    field: Option<&'a Announcement>,
    reach: Option<&'a Announcement>,
}

fn shares_attributes(one: &Announcement, other: &Announcement) -> bool {
    let mut attributes = one.attributes.clone();
    attributes.next_hop = other.attributes.next_hop;
    attributes == other.attributes
}

/// Whether such routes go into the NLRI field; `None` if they cannot be written.
fn goes_in_nlri_field(context: &EncodeContext, family: Family, next_hop: NextHop) -> Option<bool> {
    match (family, next_hop) {
        (Family::Ipv4Unicast, NextHop::V4(_)) => Some(true),
        (Family::Ipv4Unicast, _) => context.extended_next_hop.then_some(false),
        (Family::Ipv6Unicast, NextHop::V4(_)) => None,
        (Family::Ipv6Unicast, _) => Some(false),
    }
}

/// MP_REACH_NLRI up to its NLRI, the length to be patched at octet 2.
fn write_reach_head(family: Family, next_hop: NextHop, out: &mut Scratch) {
    out.extend_from_slice(&[MP_FLAGS, code::MP_REACH_NLRI, 0, 0]);
    let family = family.afi_safi();
    out.extend_from_slice(&family.afi.to_be_bytes());
    out.push(family.safi);
    match next_hop {
        NextHop::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        NextHop::V6(address) => {
            out.push(16);
            out.extend_from_slice(&address.octets());
        }
        NextHop::V6WithLinkLocal(global, link_local) => {
            out.push(32);
            out.extend_from_slice(&global.octets());
            out.extend_from_slice(&link_local.octets());
        }
    }
    out.push(0);
}

/// MP_UNREACH_NLRI up to its NLRI, the length to be patched at octet 2.
fn put_unreach_head(family: Family, out: &mut BytesMut) {
    let family = family.afi_safi();
    out.put_slice(&[MP_FLAGS, code::MP_UNREACH_NLRI, 0, 0]);
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

fn put_length(length: usize, out: &mut BytesMut) {
    out.put_u16(u16::try_from(length).expect("attributes were measured against the message"));
}

/// For [`Update::encode_in_one`], which finds out afterwards that it was too much.
fn patch_length_if_fits(place: usize, length: usize, out: &mut BytesMut) {
    if length <= usize::from(u16::MAX) {
        patch_length(place, length, out);
    }
}

/// Octets of the longest prefix.
fn longest<P: NlriPrefix>(add_path: bool) -> usize {
    1 + usize::from(P::MAX_BITS / 8) + if add_path { 4 } else { 0 }
}

/// Appends messages of `head`, up to `room` octets of prefixes, and what `tail` appends given where
/// the message starts. `room` has place for the longest prefix.
fn pack<P: NlriPrefix>(
    prefixes: impl IntoIterator<Item = (PathId, P)>,
    add_path: bool,
    room: usize,
    out: &mut BytesMut,
    head: impl Fn(&mut BytesMut),
    tail: impl Fn(usize, &mut BytesMut),
) -> usize {
    let mut prefixes = prefixes.into_iter();
    let mut pending = prefixes.next();
    let mut messages = 0;
    while pending.is_some() {
        let start = start_message(MessageType::Update, out);
        head(out);
        pending = fill(pending, &mut prefixes, add_path, room, out);
        tail(start, out);
        finish_message(start, out);
        messages += 1;
    }
    messages
}

/// Appends prefixes until the next does not fit `room`, and returns that one. They are gathered on
/// the stack at fixed places first: appending a few octets at a time is what packing would
/// otherwise spend its time on.
fn fill<P: NlriPrefix>(
    mut pending: Option<(PathId, P)>,
    prefixes: &mut impl Iterator<Item = (PathId, P)>,
    add_path: bool,
    room: usize,
    out: &mut BytesMut,
) -> Option<(PathId, P)> {
    const GATHER: usize = 512;
    let identifier = if add_path { 4 } else { 0 };
    let mut gathered = [0; GATHER + 4 + 17];
    let (mut length, mut left) = (0, room);
    while let Some((path_id, prefix)) = pending {
        let octets = identifier + 1 + usize::from(prefix.bits()).div_ceil(8);
        if octets > left {
            break;
        }
        if add_path && let Some(place) = gathered[length..].first_chunk_mut() {
            *place = path_id.to_be_bytes();
        }
        if let Some(place) = gathered[length + identifier..].first_chunk_mut() {
            prefix.put(place);
        }
        length += octets;
        left -= octets;
        if length > GATHER {
            out.put_slice(&gathered[..length]);
            length = 0;
        }
        pending = prefixes.next();
    }
    out.put_slice(&gathered[..length]);
    pending
}

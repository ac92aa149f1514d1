//! Writing path attributes (RFC 4271 §4.3, §5; RFC 6793 §4.2.2).
//!
//! In: the attributes of a route. Out: their octets in ascending type code (RFC 4271 §5), as they
//! stand in every UPDATE that carries them; MP_REACH_NLRI is written by `update::pack`, in front.
//! What always holds: flags are those the RFCs fix per attribute, Partial only where it came in,
//! and the Extended Length bit only where a length needs it.

use smallvec::SmallVec;

use crate::as_path::two_octets;
use crate::attributes::{NextHop, PathAttributes, RareAttributes, code};
use crate::message::EncodeContext;

/// Attribute octets: on the stack for the usual set.
pub(crate) type Scratch = SmallVec<[u8; 256]>;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// Appends all attributes but MP_REACH_NLRI; NEXT_HOP only if `with_next_hop` and it is IPv4.
pub(crate) fn write_attributes(
    context: &EncodeContext,
    attributes: &PathAttributes,
    with_next_hop: bool,
    out: &mut Scratch,
) {
    out.extend_from_slice(&[TRANSITIVE, code::ORIGIN, 1, attributes.origin.into()]);
    write_as_path(context, attributes, out);
    if with_next_hop && let NextHop::V4(address) = attributes.next_hop {
        write_attribute(TRANSITIVE, code::NEXT_HOP, &address.octets(), out);
    }
    if let Some(med) = attributes.med {
        write_attribute(OPTIONAL, code::MULTI_EXIT_DISC, &med.to_be_bytes(), out);
    }
    if let Some(local_pref) = attributes.local_pref {
        write_attribute(TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes(), out);
    }
    let rare = attributes.rare.as_deref();
    if let Some(rare) = rare {
        if rare.atomic_aggregate {
            write_attribute(TRANSITIVE, code::ATOMIC_AGGREGATE, &[], out);
        }
        write_aggregator(context, rare, out);
    }
    if !attributes.communities.is_empty() {
        let flags = OPTIONAL | TRANSITIVE | partial(rare, code::COMMUNITIES);
        write_header(flags, code::COMMUNITIES, 4 * attributes.communities.len(), out);
        for community in &attributes.communities {
            out.extend_from_slice(&community.0.to_be_bytes());
        }
    }
    match rare {
        Some(rare) => write_rare(context, attributes, rare, out),
        None => write_as4_path(context, attributes, out),
    }
}

/// What stands behind COMMUNITIES, unknown attributes among it in their order.
#[cold]
fn write_rare(
    context: &EncodeContext,
    attributes: &PathAttributes,
    rare: &RareAttributes,
    out: &mut Scratch,
) {
    let mut unknown = rare.unknown.iter().peekable();
    let mut unknown_below = |limit: u8, out: &mut Scratch| {
        while let Some(attribute) = unknown.next_if(|attribute| attribute.code < limit) {
            let flags = attribute.flags & !EXTENDED_LENGTH;
            write_attribute(flags, attribute.code, &attribute.value, out);
        }
    };
    let optional_transitive = |code| OPTIONAL | TRANSITIVE | partial(Some(rare), code);
    unknown_below(code::ORIGINATOR_ID, out);
    if let Some(originator) = rare.originator_id {
        write_attribute(OPTIONAL, code::ORIGINATOR_ID, &originator.0.octets(), out);
    }
    if !rare.cluster_list.is_empty() {
        write_header(OPTIONAL, code::CLUSTER_LIST, 4 * rare.cluster_list.len(), out);
        for cluster in &rare.cluster_list {
            out.extend_from_slice(&cluster.octets());
        }
    }
    unknown_below(code::EXTENDED_COMMUNITIES, out);
    if !rare.extended_communities.is_empty() {
        let code = code::EXTENDED_COMMUNITIES;
        write_header(optional_transitive(code), code, 8 * rare.extended_communities.len(), out);
        for community in &rare.extended_communities {
            out.extend_from_slice(&community.0);
        }
    }
    write_as4_path(context, attributes, out);
    if !context.four_octet_as
        && let Some(aggregator) = rare.aggregator
        && aggregator.asn.0 > 0xffff
    {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&aggregator.asn.0.to_be_bytes());
        value[4..].copy_from_slice(&aggregator.identifier.0.octets());
        write_attribute(OPTIONAL | TRANSITIVE, code::AS4_AGGREGATOR, &value, out);
    }
    unknown_below(code::LARGE_COMMUNITY, out);
    if !rare.large_communities.is_empty() {
        let code = code::LARGE_COMMUNITY;
        write_header(optional_transitive(code), code, 12 * rare.large_communities.len(), out);
        for community in &rare.large_communities {
            for part in [community.global, community.local1, community.local2] {
                out.extend_from_slice(&part.to_be_bytes());
            }
        }
    }
    unknown_below(code::OTC, out);
    if let Some(asn) = rare.otc {
        write_attribute(optional_transitive(code::OTC), code::OTC, &asn.0.to_be_bytes(), out);
    }
    unknown_below(u8::MAX, out);
    for attribute in unknown {
        write_attribute(attribute.flags & !EXTENDED_LENGTH, attribute.code, &attribute.value, out);
    }
}

fn write_as_path(context: &EncodeContext, attributes: &PathAttributes, out: &mut Scratch) {
    let path = &attributes.as_path;
    if context.four_octet_as {
        write_attribute(TRANSITIVE, code::AS_PATH, path.octets(), out);
    } else {
        write_header(TRANSITIVE, code::AS_PATH, path.two_octet_len(), out);
        path.write_two_octets(out);
    }
}

/// AS4_PATH, only to two-octet peers and only where AS_PATH lost a number (RFC 6793 §4.2.2).
fn write_as4_path(context: &EncodeContext, attributes: &PathAttributes, out: &mut Scratch) {
    if context.four_octet_as || attributes.as_path.fits_two_octets() {
        return;
    }
    let path = attributes.as_path.without_confederation();
    if !path.is_empty() {
        write_attribute(OPTIONAL | TRANSITIVE, code::AS4_PATH, path.octets(), out);
    }
}

fn write_aggregator(context: &EncodeContext, rare: &RareAttributes, out: &mut Scratch) {
    let Some(aggregator) = rare.aggregator else { return };
    let flags = OPTIONAL | TRANSITIVE | partial(Some(rare), code::AGGREGATOR);
    let identifier = aggregator.identifier.0.octets();
    if context.four_octet_as {
        write_header(flags, code::AGGREGATOR, 8, out);
        out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
    } else {
        write_header(flags, code::AGGREGATOR, 6, out);
        out.extend_from_slice(&two_octets(aggregator.asn).to_be_bytes());
    }
    out.extend_from_slice(&identifier);
}

fn partial(rare: Option<&RareAttributes>, code: u8) -> u8 {
    if rare.is_some_and(|rare| rare.partial.contains(code)) { PARTIAL } else { 0 }
}

fn write_attribute(flags: u8, code: u8, value: &[u8], out: &mut Scratch) {
    write_header(flags, code, value.len(), out);
    out.extend_from_slice(value);
}

/// Flags, code and length. A length beyond two octets is written cut: such a set does not fit any
/// message, which the packing functions see by its size.
fn write_header(flags: u8, code: u8, length: usize, out: &mut Scratch) {
    match u8::try_from(length) {
        Ok(length) => out.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED_LENGTH, code, high, low]);
        }
    }
}

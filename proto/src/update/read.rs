//! Reading path attributes one by one, with the rule of each (RFC 7606 §3 to §7 and the RFC of the
//! attribute).
//!
//! In: the Path Attributes field. Out: values, and [`Fault`]s where the session survives. What
//! always holds: a fault never stops the reading of what stands behind it, and of several
//! attributes with one code only the first counts (RFC 7606 §3 (g)).

use std::net::Ipv4Addr;

use bytes::Bytes;
use nom::Parser;
use smallvec::SmallVec;

use crate::as_path::AsPath;
use crate::attributes::{
    Aggregator, Community, ExtendedCommunity, LargeCommunity, NextHop, Origin, PathAttributes,
    RareAttributes, UnknownAttribute, attribute_name, code,
};
use crate::error::{Issue, MessageError, Treatment};
use crate::message::DecodeContext;
use crate::nlri::Nlri;
use crate::notification::{ErrorCode, UpdateSubcode};
use crate::types::{Asn, BgpIdentifier, SessionKind};
use crate::wire::{self, Parsed, offset_in};

mod mp;

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// Something malformed that the session survives, and what to say if it must not after all.
pub(super) struct Fault {
    pub(super) issue: Issue,
    pub(super) subcode: UpdateSubcode,
    pub(super) data: Bytes,
}

/// What became of an MP attribute.
pub(super) enum MpRoutes {
    /// Its routes; the next hop of MP_REACH_NLRI, unless it is no address a route can have.
    Routes { nlri: Nlri, next_hop: Option<NextHop> },
    /// Of a family that was not negotiated, or too malformed to find the routes.
    Unusable,
}

/// One attribute as it stands.
#[derive(Clone, Copy)]
struct Attribute<'a> {
    octets: &'a [u8],
    flags: u8,
    code: u8,
    value: &'a [u8],
}

/// Collects what the attributes of one UPDATE say.
pub(super) struct AttributeReader<'a> {
    frame: &'a Bytes,
    context: &'a DecodeContext,
    /// A bit for every type code met.
    seen: [u64; 4],
    /// Octets at the end that are no attribute.
    junk: bool,
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    pub(super) next_hop: Option<Ipv4Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: SmallVec<[Community; 2]>,
    rare: Option<Box<RareAttributes>>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    pub(super) mp_reach: Option<MpRoutes>,
    pub(super) mp_unreach: Option<MpRoutes>,
    pub(super) faults: Vec<Fault>,
}

impl<'a> AttributeReader<'a> {
    pub(super) fn new(frame: &'a Bytes, context: &'a DecodeContext) -> Self {
        Self {
            frame,
            context,
            seen: [0; 4],
            junk: false,
            origin: None,
            as_path: None,
            next_hop: None,
            med: None,
            local_pref: None,
            communities: SmallVec::new(),
            rare: None,
            as4_path: None,
            as4_aggregator: None,
            mp_reach: None,
            mp_unreach: None,
            faults: Vec::new(),
        }
    }

    /// Reads the whole field. `Err` ends the session.
    pub(super) fn read_all(&mut self, field: &'a [u8]) -> Result<(), MessageError> {
        let mut rest = field;
        while !rest.is_empty() {
            let Ok((next, attribute)) = read_attribute(rest) else {
                return self.overrun(rest);
            };
            rest = next;
            if self.mark_seen(attribute.code) {
                self.read_one(attribute)?;
            } else {
                self.duplicate(attribute)?;
            }
        }
        Ok(())
    }

    /// Notes mandatory attributes that are missing (RFC 4271 §5, RFC 7606 §3 (d)). NEXT_HOP is one
    /// only with an NLRI field. LOCAL_PREF is not asked for: a route without it has the default.
    pub(super) fn check_mandatory(&mut self, nlri_field: bool, offset: usize) {
        for (code, wanted) in
            [(code::ORIGIN, true), (code::AS_PATH, true), (code::NEXT_HOP, nlri_field)]
        {
            if wanted && !self.has_seen(code) {
                self.missing(code, offset);
            }
        }
    }

    /// A malformed NEXT_HOP is of no consequence in a message without an NLRI field: it is to be
    /// ignored there (RFC 4760 §3). Routers send 0.0.0.0 in it.
    pub(super) fn forgive_next_hop(&mut self) {
        for fault in &mut self.faults {
            if fault.issue.attribute == Some(code::NEXT_HOP) && !self.junk {
                fault.issue.treatment = Treatment::Ignore;
            }
        }
    }

    /// Whether there is any attribute but MP_UNREACH_NLRI.
    pub(super) fn has_others_than_unreach(&self) -> bool {
        let mut others = self.seen;
        others[usize::from(code::MP_UNREACH_NLRI) / 64] &= !(1 << (code::MP_UNREACH_NLRI % 64));
        self.junk || others != [0; 4]
    }

    /// The attributes of a route; `None` if a mandatory one is not there. Takes them out.
    pub(super) fn take_attributes(&mut self, next_hop: NextHop) -> Option<PathAttributes> {
        let origin = self.origin?;
        let mut as_path = self.as_path.take()?;
        if self.as4_path.is_some() || self.as4_aggregator.is_some() {
            as_path = self.merge_as4(as_path);
        }
        if let Some(rare) = &mut self.rare {
            // Stable, and codes are unique: the order of the message does not matter to interning.
            rare.unknown.sort_by_key(|attribute| attribute.code);
            if **rare == RareAttributes::default() {
                self.rare = None;
            }
        }
        Some(PathAttributes {
            origin,
            as_path,
            next_hop,
            med: self.med,
            local_pref: self.local_pref,
            communities: std::mem::take(&mut self.communities),
            rare: self.rare.take(),
        })
    }

    /// RFC 6793 §4.2.3.
    #[cold]
    fn merge_as4(&mut self, as_path: AsPath) -> AsPath {
        let as4_path = self.as4_path.take();
        let as4_aggregator = self.as4_aggregator.take();
        let aggregator = self.rare.as_mut().and_then(|rare| rare.aggregator.as_mut());
        if let (Some(aggregator), Some(as4)) = (aggregator, as4_aggregator) {
            if aggregator.asn != Asn::TRANS {
                // A two-octet speaker aggregated since: both AS4 attributes are out of date.
                return as_path;
            }
            *aggregator = as4;
        }
        match as4_path {
            Some(as4_path) => as_path.merge_as4_path(&as4_path),
            None => as_path,
        }
    }

    fn read_one(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let Attribute { flags, code, value, .. } = attribute;
        if self.context.kind == SessionKind::External
            && matches!(code, code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST)
        {
            self.discard_from_external(attribute);
            return Ok(());
        }
        let Some(expected) = expected_flags(code) else {
            return self.read_unknown(attribute);
        };
        if flags & (OPTIONAL | TRANSITIVE) != expected {
            return self.wrong_flags(attribute);
        }
        match code {
            code::ORIGIN => self.read_origin(attribute),
            code::AS_PATH => self.read_as_path(attribute),
            code::NEXT_HOP => self.read_next_hop(attribute),
            code::MULTI_EXIT_DISC => self.med = self.read_number(attribute),
            code::LOCAL_PREF => self.local_pref = self.read_number(attribute),
            code::ATOMIC_AGGREGATE if value.is_empty() => self.rare().atomic_aggregate = true,
            code::ATOMIC_AGGREGATE => self.bad_length(attribute, Treatment::AttributeDiscard, "0"),
            code::AGGREGATOR => self.read_aggregator(attribute),
            code::COMMUNITIES => self.read_communities(attribute),
            code::ORIGINATOR_ID => {
                if let Some(number) = self.read_number(attribute) {
                    self.rare().originator_id = Some(BgpIdentifier(Ipv4Addr::from(number)));
                }
            }
            code::CLUSTER_LIST => {
                if let Some(list) = self.read_list::<4>(attribute) {
                    self.rare().cluster_list = list.iter().copied().map(Ipv4Addr::from).collect();
                }
            }
            code::MP_REACH_NLRI => return self.read_mp_reach(attribute),
            code::MP_UNREACH_NLRI => return self.read_mp_unreach(attribute),
            code::EXTENDED_COMMUNITIES => {
                if let Some(list) = self.read_list::<8>(attribute) {
                    self.rare().extended_communities =
                        list.iter().copied().map(ExtendedCommunity).collect();
                    self.note_partial(attribute);
                }
            }
            code::AS4_PATH | code::AS4_AGGREGATOR => self.read_as4(attribute),
            code::LARGE_COMMUNITY => self.read_large_communities(attribute),
            _ => {
                if let Some(number) = self.read_number(attribute) {
                    self.rare().otc = Some(Asn(number));
                    self.note_partial(attribute);
                }
            }
        }
        Ok(())
    }

    fn read_origin(&mut self, attribute: Attribute<'a>) {
        match *attribute.value {
            [0] => self.origin = Some(Origin::Igp),
            [1] => self.origin = Some(Origin::Egp),
            [2] => self.origin = Some(Origin::Incomplete),
            [other] => self.fault(
                attribute,
                Treatment::TreatAsWithdraw,
                UpdateSubcode::InvalidOriginAttribute,
                0,
                format!("ORIGIN {other} is not defined (RFC 7606 §7.1)"),
            ),
            _ => self.bad_length(attribute, Treatment::TreatAsWithdraw, "1"),
        }
    }

    fn read_as_path(&mut self, attribute: Attribute<'a>) {
        let context = self.context;
        match AsPath::read(attribute.value, context.four_octet_as, context.kind) {
            Ok(path) => self.as_path = Some(path),
            Err(fault) => self.fault(
                attribute,
                Treatment::TreatAsWithdraw,
                UpdateSubcode::MalformedAsPath,
                fault.offset,
                format!("AS_PATH: {} ({})", fault.reason, fault.reason.section()),
            ),
        }
    }

    fn read_next_hop(&mut self, attribute: Attribute<'a>) {
        let Ok(octets) = <[u8; 4]>::try_from(attribute.value) else {
            self.bad_length(attribute, Treatment::TreatAsWithdraw, "4");
            return;
        };
        let address = Ipv4Addr::from(octets);
        if is_host(address) {
            self.next_hop = Some(address);
        } else {
            self.fault(
                attribute,
                Treatment::TreatAsWithdraw,
                UpdateSubcode::InvalidNextHopAttribute,
                0,
                format!("NEXT_HOP {address} is no host address (RFC 4271 §6.3, RFC 7606 §3 (e))"),
            );
        }
    }

    fn read_communities(&mut self, attribute: Attribute<'a>) {
        if let Some(list) = self.read_list::<4>(attribute) {
            let numbers = list.iter().map(|octets| Community(u32::from_be_bytes(*octets)));
            self.communities = numbers.collect();
            self.note_partial(attribute);
        }
    }

    #[cold]
    fn read_large_communities(&mut self, attribute: Attribute<'a>) {
        let Some(list) = self.read_list::<12>(attribute) else { return };
        let mut communities: Vec<LargeCommunity> = Vec::with_capacity(list.len());
        let mut known = std::collections::BTreeSet::new();
        for &[a, b, c, d, e, f, g, h, i, j, k, l] in list {
            let community = LargeCommunity {
                global: u32::from_be_bytes([a, b, c, d]),
                local1: u32::from_be_bytes([e, f, g, h]),
                local2: u32::from_be_bytes([i, j, k, l]),
            };
            // RFC 8092 §2: repeated values are silently removed.
            if known.insert(community) {
                communities.push(community);
            }
        }
        self.rare().large_communities = communities;
        self.note_partial(attribute);
    }

    #[cold]
    fn read_aggregator(&mut self, attribute: Attribute<'a>) {
        let aggregator = match (self.context.four_octet_as, attribute.value) {
            (true, &[a, b, c, d, e, f, g, h]) => {
                aggregator(u32::from_be_bytes([a, b, c, d]), [e, f, g, h])
            }
            (false, &[a, b, c, d, e, f]) => {
                aggregator(u16::from_be_bytes([a, b]).into(), [c, d, e, f])
            }
            (four_octet_as, _) => {
                let expected = if four_octet_as { "8" } else { "6" };
                return self.bad_length(attribute, Treatment::AttributeDiscard, expected);
            }
        };
        if aggregator.asn == Asn::ZERO {
            return self.as_zero(attribute);
        }
        self.rare().aggregator = Some(aggregator);
        self.note_partial(attribute);
    }

    /// AS4_PATH and AS4_AGGREGATOR: of a two-octet peer only, and never worse than discarded
    /// (RFC 6793 §4.1, §6).
    #[cold]
    fn read_as4(&mut self, attribute: Attribute<'a>) {
        let name = attribute_name(attribute.code).unwrap_or_default();
        let (discard, subcode) =
            (Treatment::AttributeDiscard, UpdateSubcode::OptionalAttributeError);
        if self.context.four_octet_as {
            let detail = format!("{name} from a four-octet AS peer (RFC 6793 §4.1)");
            return self.fault(attribute, discard, subcode, 0, detail);
        }
        if attribute.code == code::AS4_PATH && attribute.value.len() < 6 {
            return self.bad_length(attribute, discard, "at least 6");
        }
        if attribute.code == code::AS4_PATH {
            // Confederation segments are dropped when merging, wherever the peer is (§6).
            match AsPath::read(attribute.value, true, SessionKind::Internal) {
                Ok(path) => self.as4_path = Some(path),
                Err(fault) => {
                    let detail = format!("AS4_PATH: {} (RFC 6793 §6)", fault.reason);
                    self.fault(attribute, discard, subcode, fault.offset, detail);
                }
            }
            return;
        }
        let &[a, b, c, d, e, f, g, h] = attribute.value else {
            return self.bad_length(attribute, discard, "8");
        };
        let aggregator = aggregator(u32::from_be_bytes([a, b, c, d]), [e, f, g, h]);
        if aggregator.asn == Asn::ZERO {
            return self.as_zero(attribute);
        }
        self.as4_aggregator = Some(aggregator);
    }

    fn read_unknown(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let Attribute { octets, flags, code, value } = attribute;
        if flags & OPTIONAL == 0 {
            // RFC 7606 leaves this case of RFC 4271 §6.3 as it is.
            return Err(MessageError::new(
                ErrorCode::Update(UpdateSubcode::UnrecognizedWellKnownAttribute),
                self.frame.slice_ref(octets),
                offset_in(self.frame, octets),
                format!("attribute {code} calls itself well-known and is not (RFC 4271 §6.3)"),
            ));
        }
        // RFC 4271 §5: non-transitive ones are quietly ignored, the others go on with Partial set.
        if flags & TRANSITIVE != 0 {
            let flags = OPTIONAL | TRANSITIVE | PARTIAL;
            let value = self.frame.slice_ref(value);
            self.rare().unknown.push(UnknownAttribute { flags, code, value });
        }
        Ok(())
    }

    fn read_number(&mut self, attribute: Attribute<'a>) -> Option<u32> {
        match <[u8; 4]>::try_from(attribute.value) {
            Ok(octets) => Some(u32::from_be_bytes(octets)),
            Err(_) => {
                self.bad_length(attribute, Treatment::TreatAsWithdraw, "4");
                None
            }
        }
    }

    /// A list of one or more entries of `N` octets.
    fn read_list<const N: usize>(&mut self, attribute: Attribute<'a>) -> Option<&'a [[u8; N]]> {
        match attribute.value.as_chunks::<N>() {
            (list, []) if !list.is_empty() => Some(list),
            _ => {
                let expected = format!("a multiple of {N} above 0");
                self.bad_length(attribute, Treatment::TreatAsWithdraw, &expected);
                None
            }
        }
    }

    fn rare(&mut self) -> &mut RareAttributes {
        self.rare.get_or_insert_with(Box::default)
    }

    fn note_partial(&mut self, attribute: Attribute<'a>) {
        if attribute.flags & PARTIAL != 0 {
            self.rare().partial.insert(attribute.code);
        }
    }

    /// Whether this is the first attribute of its code.
    fn mark_seen(&mut self, code: u8) -> bool {
        let (word, bit) = (usize::from(code) / 64, 1 << (code % 64));
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }

    fn has_seen(&self, code: u8) -> bool {
        self.seen[usize::from(code) / 64] & (1 << (code % 64)) != 0
    }
}

/// The answers to malformed attributes; none of them on the way of a good one.
impl<'a> AttributeReader<'a> {
    #[cold]
    fn fault(
        &mut self,
        attribute: Attribute<'a>,
        treatment: Treatment,
        subcode: UpdateSubcode,
        offset_in_value: usize,
        detail: String,
    ) {
        let offset = offset_in(self.frame, attribute.value) + offset_in_value;
        self.faults.push(Fault {
            issue: Issue { treatment, attribute: Some(attribute.code), offset, detail },
            subcode,
            data: self.frame.slice_ref(attribute.octets),
        });
    }

    #[cold]
    fn bad_length(&mut self, attribute: Attribute<'a>, treatment: Treatment, expected: &str) {
        let name = attribute_name(attribute.code).unwrap_or("attribute");
        let length = attribute.value.len();
        let section = section(attribute.code);
        let detail = format!("{name} has {length} octets, not {expected} ({section})");
        let subcode = UpdateSubcode::AttributeLengthError;
        self.fault(attribute, treatment, subcode, 0, detail);
    }

    #[cold]
    fn as_zero(&mut self, attribute: Attribute<'a>) {
        let name = attribute_name(attribute.code).unwrap_or("attribute");
        let detail = format!("{name} with AS 0 (RFC 7607 §2)");
        let subcode = UpdateSubcode::OptionalAttributeError;
        self.fault(attribute, Treatment::AttributeDiscard, subcode, 0, detail);
    }

    #[cold]
    fn discard_from_external(&mut self, attribute: Attribute<'a>) {
        let name = attribute_name(attribute.code).unwrap_or("attribute");
        let detail = format!("{name} from an external peer ({})", section(attribute.code));
        let subcode = UpdateSubcode::OptionalAttributeError;
        self.fault(attribute, Treatment::AttributeDiscard, subcode, 0, detail);
    }

    /// RFC 7606 §3 (c); attributes of which RFC 7606 §3 (f) or RFC 6793 §6 wants no more than
    /// their loss are lost.
    #[cold]
    fn wrong_flags(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let Attribute { flags, code, .. } = attribute;
        let treatment = match code {
            code::MP_REACH_NLRI | code::MP_UNREACH_NLRI => return self.wrong_mp_flags(attribute),
            // RFC 6793 §6 asks for no more than that.
            code::AS4_PATH | code::AS4_AGGREGATOR => Treatment::AttributeDiscard,
            _ => Treatment::TreatAsWithdraw,
        };
        let name = attribute_name(code).unwrap_or("attribute");
        let detail = format!("{name} with flags 0x{flags:02x} (RFC 7606 §3 (c))");
        self.fault(attribute, treatment, UpdateSubcode::AttributeFlagsError, 0, detail);
        let offset = offset_in(self.frame, attribute.octets);
        if let Some(fault) = self.faults.last_mut() {
            fault.issue.offset = offset;
        }
        Ok(())
    }

    /// RFC 7606 §3 (g).
    #[cold]
    fn duplicate(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let code = attribute.code;
        let name = attribute_name(code).map_or_else(|| format!("attribute {code}"), str::to_owned);
        let detail = format!("{name} appears more than once (RFC 7606 §3 (g))");
        let subcode = UpdateSubcode::MalformedAttributeList;
        if matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) {
            let offset = offset_in(self.frame, attribute.octets);
            return Err(MessageError::new(
                ErrorCode::Update(subcode),
                Bytes::new(),
                offset,
                detail,
            ));
        }
        self.fault(attribute, Treatment::AttributeDiscard, subcode, 0, detail);
        Ok(())
    }

    /// RFC 7606 §4: the last attribute claims more octets than the field has, or fewer are left
    /// than an attribute needs.
    #[cold]
    fn overrun(&mut self, rest: &'a [u8]) -> Result<(), MessageError> {
        self.junk = true;
        let code = rest.get(1).copied();
        let header = if rest[0] & EXTENDED_LENGTH == 0 { 3 } else { 4 };
        let value = rest.get(header..).unwrap_or(&[]);
        let attribute = Attribute { octets: rest, flags: rest[0], code: code.unwrap_or(0), value };
        let detail = match code.filter(|_| rest.len() >= header) {
            Some(code) => {
                let name =
                    attribute_name(code).map_or_else(|| format!("attribute {code}"), str::to_owned);
                format!("{name} is longer than the attributes' field (RFC 7606 §4)")
            }
            None => format!("{} octets behind the last attribute (RFC 7606 §4)", rest.len()),
        };
        if let Some(code @ (code::MP_REACH_NLRI | code::MP_UNREACH_NLRI)) = code {
            if self.mark_seen(code) {
                self.unusable_mp(attribute, UpdateSubcode::MalformedAttributeList, &detail)?;
            } else {
                self.duplicate(attribute)?;
            }
        }
        let subcode = UpdateSubcode::MalformedAttributeList;
        self.faults.push(Fault {
            issue: Issue {
                treatment: Treatment::TreatAsWithdraw,
                attribute: code,
                offset: offset_in(self.frame, rest),
                detail,
            },
            subcode,
            data: Bytes::new(),
        });
        Ok(())
    }

    #[cold]
    fn missing(&mut self, code: u8, offset: usize) {
        let name = attribute_name(code).unwrap_or("attribute");
        self.faults.push(Fault {
            issue: Issue {
                treatment: Treatment::TreatAsWithdraw,
                attribute: Some(code),
                offset,
                detail: format!("{name} is missing (RFC 7606 §3 (d))"),
            },
            subcode: UpdateSubcode::MissingWellKnownAttribute,
            data: Bytes::copy_from_slice(&[code]),
        });
    }
}

/// Flags, type code, and the value behind a length of one or two octets.
fn read_attribute(input: &[u8]) -> Parsed<'_, Attribute<'_>> {
    let (rest, (flags, code)) = (wire::octet, wire::octet).parse(input)?;
    let (rest, value) = if flags & EXTENDED_LENGTH == 0 {
        wire::short_block(rest)?
    } else {
        wire::long_block(rest)?
    };
    let octets = &input[..input.len() - rest.len()];
    Ok((rest, Attribute { octets, flags, code, value }))
}

/// The Optional and Transitive bits of a known attribute; the other bits are not checked
/// (RFC 7606 §3 (c)).
fn expected_flags(code: u8) -> Option<u8> {
    Some(match code {
        code::ORIGIN
        | code::AS_PATH
        | code::NEXT_HOP
        | code::LOCAL_PREF
        | code::ATOMIC_AGGREGATE => TRANSITIVE,
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => OPTIONAL,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITY
        | code::OTC => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

/// The section that rules an attribute's errors.
fn section(code: u8) -> &'static str {
    match code {
        code::ORIGIN => "RFC 7606 §7.1",
        code::AS_PATH => "RFC 7606 §7.2",
        code::NEXT_HOP => "RFC 7606 §7.3",
        code::MULTI_EXIT_DISC => "RFC 7606 §7.4",
        code::LOCAL_PREF => "RFC 7606 §7.5",
        code::ATOMIC_AGGREGATE => "RFC 7606 §7.6",
        code::AGGREGATOR => "RFC 7606 §7.7",
        code::COMMUNITIES => "RFC 7606 §7.8",
        code::ORIGINATOR_ID => "RFC 7606 §7.9",
        code::CLUSTER_LIST => "RFC 7606 §7.10",
        code::MP_REACH_NLRI => "RFC 7606 §7.11",
        code::MP_UNREACH_NLRI => "RFC 7606 §7.12",
        code::EXTENDED_COMMUNITIES => "RFC 7606 §7.14",
        code::AS4_PATH | code::AS4_AGGREGATOR => "RFC 6793 §6",
        code::LARGE_COMMUNITY => "RFC 8092 §6",
        code::OTC => "RFC 9234 §5",
        _ => "RFC 7606",
    }
}

fn aggregator(asn: u32, identifier: [u8; 4]) -> Aggregator {
    Aggregator { asn: Asn(asn), identifier: BgpIdentifier(Ipv4Addr::from(identifier)) }
}

/// Whether a host can have this address: not 0/8, loopback, multicast or class E.
fn is_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

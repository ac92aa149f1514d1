//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3, §4; RFC 2545 §3; RFC 8950 §3; RFC 7606 §5.3,
//! §7.11, §7.12).
//!
//! Where the routes of such an attribute cannot be found, RFC 7606 leaves a choice of session reset
//! and AFI/SAFI disable. This speaker disables the family where the family can be read, since that
//! keeps the session and the other family; else it resets.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use nom::Parser;

use super::{Attribute, AttributeReader, MpRoutes, is_host, section};
use crate::attributes::{NextHop, attribute_name, code};
use crate::error::{MessageError, Treatment};
use crate::nlri::Nlri;
use crate::notification::{ErrorCode, UpdateSubcode};
use crate::types::{AfiSafi, Family};
use crate::update::decode::{drop_improper, ignored};
use crate::wire::{self, offset_in};

/// Why the routes of an MP attribute are not to be found, and where.
struct Unusable<'a> {
    at: &'a [u8],
    detail: String,
}

impl<'a> AttributeReader<'a> {
    pub(super) fn read_mp_reach(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let Some((family, rest)) = self.mp_family(attribute)? else {
            self.mp_reach = Some(MpRoutes::Unusable);
            return Ok(());
        };
        match self.reach_routes(attribute, family, rest) {
            Ok(routes) => self.mp_reach = Some(routes),
            Err(unusable) => self.disable(attribute, family, &unusable),
        }
        Ok(())
    }

    pub(super) fn read_mp_unreach(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let Some((family, rest)) = self.mp_family(attribute)? else {
            self.mp_unreach = Some(MpRoutes::Unusable);
            return Ok(());
        };
        match self.mp_nlri(attribute, family, rest) {
            Ok(nlri) => self.mp_unreach = Some(MpRoutes::Routes { nlri, next_hop: None }),
            Err(unusable) => self.disable(attribute, family, &unusable),
        }
        Ok(())
    }

    /// Flags that are not those of RFC 4760 make the attribute one whose routes cannot be trusted
    /// to be found (RFC 7606 §5.3).
    #[cold]
    pub(super) fn wrong_mp_flags(&mut self, attribute: Attribute<'a>) -> Result<(), MessageError> {
        let name = attribute_name(attribute.code).unwrap_or_default();
        let detail = format!("{name} with flags 0x{:02x} (RFC 7606 §5.3)", attribute.flags);
        self.unusable_mp(attribute, UpdateSubcode::AttributeFlagsError, &detail)
    }

    /// Disables the family of an attribute that is malformed as a whole, or resets.
    #[cold]
    pub(super) fn unusable_mp(
        &mut self,
        attribute: Attribute<'a>,
        subcode: UpdateSubcode,
        detail: &str,
    ) -> Result<(), MessageError> {
        if attribute.value.len() < 3 {
            return Err(MessageError::new(
                ErrorCode::Update(subcode),
                self.frame.slice_ref(attribute.octets),
                offset_in(self.frame, attribute.octets),
                detail,
            ));
        }
        match self.mp_family(attribute)? {
            Some((family, _)) => {
                let unusable = Unusable { at: attribute.octets, detail: detail.to_owned() };
                self.disable(attribute, family, &unusable);
            }
            None => *self.place(attribute.code) = Some(MpRoutes::Unusable),
        }
        Ok(())
    }

    /// The family and what follows it. `None`, with a note, for one that was not negotiated: its
    /// routes are of no interest, malformed or not.
    fn mp_family(
        &mut self,
        attribute: Attribute<'a>,
    ) -> Result<Option<(Family, &'a [u8])>, MessageError> {
        let Ok((rest, pair)) = wire::afi_safi(attribute.value) else {
            return Err(self.too_short(attribute));
        };
        match Family::try_from(pair) {
            Ok(family) if self.context.families.contains(family) => Ok(Some((family, rest))),
            _ => {
                self.not_negotiated(attribute, pair);
                Ok(None)
            }
        }
    }

    fn reach_routes(
        &mut self,
        attribute: Attribute<'a>,
        family: Family,
        rest: &'a [u8],
    ) -> Result<MpRoutes, Unusable<'a>> {
        let parsed = (wire::short_block, wire::octet).parse(rest);
        let Ok((octets, (next_hop, _reserved))) = parsed else {
            let detail = "MP_REACH_NLRI ends within its next hop (RFC 7606 §5.3, §7.11)";
            return Err(Unusable { at: rest, detail: detail.to_owned() });
        };
        let Some(address) = read_next_hop(family, next_hop, self.context.extended_next_hop) else {
            let length = next_hop.len();
            let detail = format!("next hop of {length} octets for {family} (RFC 7606 §7.11)");
            return Err(Unusable { at: rest, detail });
        };
        let nlri = self.mp_nlri(attribute, family, octets)?;
        let usable = match address {
            NextHop::V4(address) => is_host(address),
            NextHop::V6(address) | NextHop::V6WithLinkLocal(address, _) => is_host_v6(address),
        };
        if !usable {
            self.bad_next_hop(attribute, next_hop, address);
        }
        Ok(MpRoutes::Routes { nlri, next_hop: usable.then_some(address) })
    }

    fn mp_nlri(
        &mut self,
        attribute: Attribute<'a>,
        family: Family,
        octets: &'a [u8],
    ) -> Result<Nlri, Unusable<'a>> {
        let add_path = self.context.add_path.contains(family);
        match Nlri::check(family, add_path, self.frame.slice_ref(octets)) {
            Ok((nlri, false)) => Ok(nlri),
            Ok((nlri, true)) => {
                let offset = offset_in(self.frame, octets);
                let (nlri, issue) = drop_improper(&nlri, Some(attribute.code), offset);
                if let Some(issue) = issue {
                    self.note(issue);
                }
                Ok(nlri)
            }
            Err(fault) => {
                let name = attribute_name(attribute.code).unwrap_or_default();
                let detail = format!("{name}: {} (RFC 7606 §5.3)", fault.reason);
                Err(Unusable { at: &octets[fault.offset..], detail })
            }
        }
    }

    #[cold]
    fn disable(&mut self, attribute: Attribute<'a>, family: Family, unusable: &Unusable<'a>) {
        let treatment = Treatment::DisableFamily(family.afi_safi());
        let subcode = UpdateSubcode::OptionalAttributeError;
        self.fault(attribute, treatment, subcode, 0, unusable.detail.clone());
        let offset = offset_in(self.frame, unusable.at);
        if let Some(fault) = self.faults.last_mut() {
            fault.issue.offset = offset;
        }
        *self.place(attribute.code) = Some(MpRoutes::Unusable);
    }

    #[cold]
    fn bad_next_hop(&mut self, attribute: Attribute<'a>, at: &'a [u8], address: NextHop) {
        let detail = format!(
            "next hop {} of MP_REACH_NLRI is no host address (RFC 4271 §6.3, RFC 7606 §3 (e))",
            address.address()
        );
        let offset = offset_in(attribute.value, at);
        let subcode = UpdateSubcode::InvalidNextHopAttribute;
        self.fault(attribute, Treatment::TreatAsWithdraw, subcode, offset, detail);
    }

    #[cold]
    fn not_negotiated(&mut self, attribute: Attribute<'a>, pair: AfiSafi) {
        let name = attribute_name(attribute.code).unwrap_or_default();
        let detail = format!("{name} of {pair}, which was not negotiated (RFC 4760 §6)");
        let offset = offset_in(self.frame, attribute.value);
        self.note(ignored(Some(attribute.code), offset, detail));
    }

    #[cold]
    fn too_short(&self, attribute: Attribute<'a>) -> MessageError {
        let name = attribute_name(attribute.code).unwrap_or_default();
        let length = attribute.value.len();
        MessageError::new(
            ErrorCode::Update(UpdateSubcode::OptionalAttributeError),
            self.frame.slice_ref(attribute.octets),
            offset_in(self.frame, attribute.octets),
            format!("{name} of {length} octets names no family ({})", section(attribute.code)),
        )
    }

    fn note(&mut self, issue: crate::error::Issue) {
        let (subcode, data) = (UpdateSubcode::Unspecific, Bytes::new());
        self.faults.push(super::Fault { issue, subcode, data });
    }

    fn place(&mut self, code: u8) -> &mut Option<MpRoutes> {
        if code == code::MP_REACH_NLRI { &mut self.mp_reach } else { &mut self.mp_unreach }
    }
}

/// The next hop of a length that the family may have.
fn read_next_hop(family: Family, octets: &[u8], extended_next_hop: bool) -> Option<NextHop> {
    if family == Family::Ipv4Unicast
        && let Ok(octets) = <[u8; 4]>::try_from(octets)
    {
        return Some(NextHop::V4(Ipv4Addr::from(octets)));
    }
    if family == Family::Ipv4Unicast && !extended_next_hop {
        return None;
    }
    let (global, rest) = octets.split_first_chunk::<16>()?;
    let global = Ipv6Addr::from(*global);
    if rest.is_empty() {
        return Some(NextHop::V6(global));
    }
    let second = Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?);
    Some(pair_of_next_hops(global, second))
}

/// RFC 2545 §3 asks for a global and a link-local address. Routers also send a zero in either
/// place, the link-local address twice, or two global ones; the first that says something counts.
fn pair_of_next_hops(first: Ipv6Addr, second: Ipv6Addr) -> NextHop {
    if first.is_unspecified() {
        NextHop::V6(second)
    } else if second.is_unicast_link_local() && second != first {
        NextHop::V6WithLinkLocal(first, second)
    } else {
        NextHop::V6(first)
    }
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

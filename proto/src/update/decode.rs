//! Reading an UPDATE (RFC 4271 §4.3, §6.3; RFC 4760; RFC 7606).
//!
//! In: a framed message. Out: an [`Update`] with RFC 7606's treatment applied, or the NOTIFICATION.
//!
//! ```text
//! fields located ─► each attribute read (update::read) ─► NLRI fields checked ─► strongest treatment
//! ```
//!
//! What always holds: the three fields are located before anything in them is believed (RFC 7606
//! §4), every NLRI of the message has been checked before any route of it is announced or handled
//! as withdrawn (RFC 7606 §3 (j)), and the strongest of several treatments wins (§3 (h)).

use bytes::Bytes;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::attributes::{NextHop, PathAttributes};
use crate::error::{Issue, MessageError, Treatment};
use crate::message::{DecodeContext, HEADER_LEN};
use crate::nlri::Nlri;
use crate::notification::{ErrorCode, UpdateSubcode};
use crate::types::Family;
use crate::update::read::{AttributeReader, Fault, MpRoutes};
use crate::update::{Announcement, Update};
use crate::wire::{long_block, offset_in};

impl Update {
    /// Reads a framed message.
    ///
    /// # Errors
    /// What RFC 7606 leaves a session reset.
    pub(crate) fn decode(frame: &Bytes, context: &DecodeContext) -> Result<Self, MessageError> {
        let fields = Fields::locate(frame)?;
        let withdrawn = read_field(frame, fields.withdrawn, context, "Withdrawn Routes")?;
        let mut reader = AttributeReader::new(frame, context);
        reader.read_all(fields.attributes)?;
        let announced = read_field(frame, fields.nlri, context, "NLRI")?;
        assemble(frame, context, &fields, withdrawn, &mut reader, announced)
    }
}

/// The three fields of an UPDATE.
struct Fields<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl<'a> Fields<'a> {
    fn locate(frame: &'a Bytes) -> Result<Self, MessageError> {
        let body = &frame[HEADER_LEN..];
        let located = long_block(body).and_then(|(rest, withdrawn)| {
            let (nlri, attributes) = long_block(rest)?;
            Ok(Self { withdrawn, attributes, nlri })
        });
        located.map_err(|_| {
            MessageError::new(
                ErrorCode::Update(UpdateSubcode::MalformedAttributeList),
                Bytes::new(),
                HEADER_LEN,
                "Withdrawn Routes Length or Total Path Attribute Length is beyond the message \
                 (RFC 4271 §6.3)",
            )
        })
    }
}

/// The prefixes of one of the message's own fields, which are always IPv4 unicast.
#[derive(Default)]
struct Field {
    /// `None` if the field is empty or its family was not negotiated.
    nlri: Option<Nlri>,
    issue: Option<Issue>,
}

fn read_field(
    frame: &Bytes,
    field: &[u8],
    context: &DecodeContext,
    name: &str,
) -> Result<Field, MessageError> {
    if field.is_empty() {
        return Ok(Field::default());
    }
    let family = Family::Ipv4Unicast;
    let offset = || offset_in(frame, field);
    let (nlri, improper) =
        Nlri::check(family, context.add_path.contains(family), frame.slice_ref(field)).map_err(
            |fault| {
                MessageError::new(
                    ErrorCode::Update(UpdateSubcode::InvalidNetworkField),
                    Bytes::new(),
                    offset() + fault.offset,
                    format!("{name} field: {} (RFC 7606 §5.3)", fault.reason),
                )
            },
        )?;
    if !context.families.contains(family) {
        let detail = format!("{name} field: {family} was not negotiated (RFC 4760 §6)");
        return Ok(Field { nlri: None, issue: Some(ignored(None, offset(), detail)) });
    }
    if improper {
        let (nlri, issue) = drop_improper(&nlri, None, offset());
        return Ok(Field { nlri: Some(nlri), issue });
    }
    Ok(Field { nlri: Some(nlri), issue: None })
}

/// Leaves out prefixes that are well formed but cannot be unicast routes, and says so.
#[cold]
pub(super) fn drop_improper(
    nlri: &Nlri,
    attribute: Option<u8>,
    offset: usize,
) -> (Nlri, Option<Issue>) {
    let (proper, improper) = nlri.split_improper();
    if improper.is_empty() {
        return (nlri.clone(), None);
    }
    let list: Vec<String> = improper.iter().map(IpNet::to_string).collect();
    let detail = format!("{} is no unicast prefix (RFC 4271 §6.3)", list.join(", "));
    (proper, Some(ignored(attribute, offset, detail)))
}

#[cold]
pub(super) fn ignored(attribute: Option<u8>, offset: usize, detail: String) -> Issue {
    Issue { treatment: Treatment::Ignore, attribute, offset, detail }
}

/// Puts together what was read, and applies the strongest treatment.
fn assemble(
    frame: &Bytes,
    context: &DecodeContext,
    fields: &Fields<'_>,
    withdrawn: Field,
    reader: &mut AttributeReader<'_>,
    announced: Field,
) -> Result<Update, MessageError> {
    let in_field = announced.nlri.as_ref().is_some_and(|nlri| !nlri.is_empty());
    let in_mp_reach =
        matches!(&reader.mp_reach, Some(MpRoutes::Routes { nlri, .. }) if !nlri.is_empty());
    if in_field || in_mp_reach {
        reader.check_mandatory(in_field, offset_in(frame, fields.attributes));
    }
    if fields.nlri.is_empty() {
        reader.forgive_next_hop();
    }
    let as_withdrawn =
        reader.faults.iter().any(|fault| fault.issue.treatment == Treatment::TreatAsWithdraw);
    // RFC 7606 §5.2: with attributes but no reachable routes there is no telling whether the
    // routes were found at all.
    let reachable = !fields.nlri.is_empty()
        || in_mp_reach
        || matches!(reader.mp_reach, Some(MpRoutes::Unusable));
    if as_withdrawn && !reachable && reader.has_others_than_unreach() {
        return Err(reset_without_routes(&reader.faults));
    }

    let mut update = Update::default();
    let end_of_rib = end_of_rib(fields, reader);
    push_withdrawn(&mut update, withdrawn.nlri);
    update.issues.extend(withdrawn.issue);
    update.issues.extend(announced.issue);
    let mp_reach = reader.mp_reach.take();
    if let Some(MpRoutes::Routes { nlri, .. }) = reader.mp_unreach.take() {
        push_withdrawn(&mut update, Some(nlri));
    }
    if as_withdrawn {
        push_withdrawn(&mut update, announced.nlri);
        if let Some(MpRoutes::Routes { nlri, .. }) = mp_reach {
            push_withdrawn(&mut update, Some(nlri));
        }
    } else {
        announce(&mut update, reader, announced.nlri, mp_reach);
    }
    if !reader.faults.is_empty() {
        update.issues.extend(reader.faults.drain(..).map(|fault| fault.issue));
    }
    match end_of_rib {
        Some(Ok(family)) if context.families.contains(family) => update.end_of_rib = Some(family),
        Some(Ok(family)) => {
            let detail = format!("End-of-RIB of {family}, which was not negotiated (RFC 4724 §2)");
            update.issues.push(ignored(None, HEADER_LEN, detail));
        }
        Some(Err(())) | None => {}
    }
    Ok(update)
}

/// The family whose End-of-RIB this is; `Err` for one that is unknown and already noted.
fn end_of_rib(fields: &Fields<'_>, reader: &AttributeReader<'_>) -> Option<Result<Family, ()>> {
    if !fields.withdrawn.is_empty() || !fields.nlri.is_empty() {
        return None;
    }
    if fields.attributes.is_empty() {
        return Some(Ok(Family::Ipv4Unicast));
    }
    match &reader.mp_unreach {
        Some(MpRoutes::Routes { nlri, .. })
            if nlri.octets().is_empty() && !reader.has_others_than_unreach() =>
        {
            Some(Ok(nlri.family()))
        }
        _ => None,
    }
}

/// One list per family, in wire order of the families: treated-as-withdrawn routes join those withdrawn in words.
fn push_withdrawn(update: &mut Update, nlri: Option<Nlri>) {
    let Some(nlri) = nlri.filter(|nlri| !nlri.is_empty()) else { return };
    match update.withdrawn.iter_mut().find(|other| other.family() == nlri.family()) {
        Some(other) => *other = other.join(&nlri),
        None => {
            update.withdrawn.push(nlri);
            update.withdrawn.sort_by_key(Nlri::family);
        }
    }
}

/// Announces the routes of both fields; every mandatory attribute is there.
fn announce(
    update: &mut Update,
    reader: &mut AttributeReader<'_>,
    field: Option<Nlri>,
    mp_reach: Option<MpRoutes>,
) {
    let field = field.filter(|nlri| !nlri.is_empty());
    let mp_reach = match mp_reach {
        Some(MpRoutes::Routes { nlri, next_hop: Some(next_hop) }) if !nlri.is_empty() => {
            Some((nlri, next_hop))
        }
        _ => None,
    };
    let field_next_hop = reader.next_hop.map(NextHop::V4);
    let mp_next_hop = mp_reach.as_ref().map(|(_, next_hop)| *next_hop);
    let next_hop = if field.is_some() { field_next_hop } else { mp_next_hop };
    let Some(next_hop) = next_hop else { return };
    let Some(attributes) = reader.take_attributes(next_hop) else { return };
    let mut announced = SmallVec::new();
    match (field, mp_reach) {
        (Some(nlri), None) | (None, Some((nlri, _))) => {
            announced.push(Announcement { attributes, nlri });
        }
        (Some(field), Some((nlri, next_hop))) => {
            let mp = PathAttributes { next_hop, ..attributes.clone() };
            announced.push(Announcement { attributes, nlri: field });
            announced.push(Announcement { attributes: mp, nlri });
        }
        (None, None) => {}
    }
    update.announced = announced;
}

/// RFC 7606 §5.2: what would have been treat-as-withdraw ends the session.
#[cold]
fn reset_without_routes(faults: &[Fault]) -> MessageError {
    let fault = faults
        .iter()
        .find(|fault| fault.issue.treatment == Treatment::TreatAsWithdraw)
        .expect("the caller found one");
    MessageError::new(
        ErrorCode::Update(fault.subcode),
        fault.data.clone(),
        fault.issue.offset,
        format!("{}, and no reachable routes in the UPDATE (RFC 7606 §5.2)", fault.issue.detail),
    )
}

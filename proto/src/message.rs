//! The message header (RFC 4271 §4.1), framing, and the five message types.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::error::MessageError;
use crate::notification::{ErrorCode, HeaderSubcode, Notification};
use crate::open::Open;
use crate::refresh::RouteRefresh;
use crate::types::{FamilySet, SessionKind};
use crate::update::Update;
use crate::wire::{finish_message, start_message};

/// Octets of the fixed header: marker (16), length (2), type (1).
pub const HEADER_LEN: usize = 19;
/// Longest message without the extended message capability (RFC 4271 §4.1).
pub const MAX_STANDARD_LEN: usize = 4096;
/// Longest message with it (RFC 8654 §3); OPEN and KEEPALIVE stay at 4096.
pub const MAX_EXTENDED_LEN: usize = 65535;

/// The type octet of a header.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MessageType {
    /// 1
    Open,
    /// 2
    Update,
    /// 3
    Notification,
    /// 4
    Keepalive,
    /// 5 (RFC 2918)
    RouteRefresh,
}

impl MessageType {
    /// The octet on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The type of this octet, if there is one.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// Shortest and longest whole message of this type (RFC 4271 §4, RFC 8654 §3). A
    /// ROUTE-REFRESH of a wrong length has an error of its own (RFC 7313 §5), so that the header
    /// check lets it through.
    const fn lengths(self, extended_message: bool) -> (usize, usize) {
        let longest = if extended_message { MAX_EXTENDED_LEN } else { MAX_STANDARD_LEN };
        match self {
            Self::Open => (HEADER_LEN + 10, MAX_STANDARD_LEN),
            Self::Update => (HEADER_LEN + 4, longest),
            Self::Notification => (HEADER_LEN + 2, longest),
            Self::Keepalive => (HEADER_LEN, HEADER_LEN),
            Self::RouteRefresh => (HEADER_LEN, longest),
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        })
    }
}

/// A whole message.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are UPDATEs; a box would cost each of them"
)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// RFC 4271 §4.2.
    Open(Open),
    /// RFC 4271 §4.3.
    Update(Update),
    /// RFC 4271 §4.5.
    Notification(Notification),
    /// RFC 4271 §4.4.
    Keepalive,
    /// RFC 2918, RFC 7313.
    RouteRefresh(RouteRefresh),
}

/// What a session negotiated, as far as reading its messages depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DecodeContext {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Messages other than OPEN and KEEPALIVE may have up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// Families negotiated; routes of others are noted as an issue and ignored.
    pub families: FamilySet,
    /// Families whose NLRI from this peer carry path identifiers (RFC 7911).
    pub add_path: FamilySet,
    /// IPv4 NLRI may come with an IPv6 next hop in MP_REACH_NLRI (RFC 8950).
    pub extended_next_hop: bool,
    /// Decides about LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST (RFC 7606 §7.5, §7.9, §7.10).
    pub kind: SessionKind,
}

impl Default for DecodeContext {
    /// What `routelet decode` assumes: four-octet AS, both families, extended messages, no
    /// path identifiers, an internal session.
    fn default() -> Self {
        Self {
            four_octet_as: true,
            extended_message: true,
            families: FamilySet::ALL,
            add_path: FamilySet::EMPTY,
            extended_next_hop: true,
            kind: SessionKind::Internal,
        }
    }
}

/// What a session negotiated, as far as writing UPDATEs to it depends on it. Peers of one update
/// group have equal ones.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EncodeContext {
    /// The peer reads four-octet AS numbers; otherwise AS_TRANS and AS4_PATH are written.
    pub four_octet_as: bool,
    /// Longest message: [`MAX_STANDARD_LEN`] or [`MAX_EXTENDED_LEN`].
    pub max_len: usize,
    /// Families whose NLRI are written with a path identifier.
    pub add_path: FamilySet,
    /// IPv4 routes with an IPv6 next hop may be written (RFC 8950).
    pub extended_next_hop: bool,
}

/// How many octets the message at the start of `input` has, or `None` while fewer than
/// [`HEADER_LEN`] are there.
///
/// This is the one place where a header is validated (marker, type, length against the type's
/// minimum and the session's maximum: RFC 4271 §6.1); nothing may be reserved before it agrees.
///
/// # Errors
/// The NOTIFICATION that RFC 4271 §6.1 names: Connection Not Synchronized, Bad Message Length with
/// the length field as data, or Bad Message Type with the type octet as data.
pub fn frame_length(input: &[u8], extended_message: bool) -> Result<Option<usize>, MessageError> {
    let Some(header) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let (marker, rest) = header.split_at(16);
    if marker != [0xff; 16] {
        let first = marker.iter().position(|octet| *octet != 0xff).unwrap_or(0);
        return Err(header_error(
            HeaderSubcode::ConnectionNotSynchronized,
            &[],
            first,
            "marker is not all ones (RFC 4271 §6.1)",
        ));
    }
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let longest = if extended_message { MAX_EXTENDED_LEN } else { MAX_STANDARD_LEN };
    if !(HEADER_LEN..=longest).contains(&length) {
        let detail = format!("length {length} is not within {HEADER_LEN} to {longest}");
        return Err(bad_length(&rest[..2], &format!("{detail} (RFC 4271 §6.1)")));
    }
    let Some(kind) = MessageType::from_octet(rest[2]) else {
        let detail = format!("message type {} is not known (RFC 4271 §6.1)", rest[2]);
        return Err(header_error(HeaderSubcode::BadMessageType, &rest[2..], 18, &detail));
    };
    let (shortest, longest) = kind.lengths(extended_message);
    if !(shortest..=longest).contains(&length) {
        let range = if shortest == longest {
            format!("exactly {shortest}")
        } else {
            format!("within {shortest} to {longest}")
        };
        let detail = format!("length {length} of a {kind} is not {range} (RFC 4271 §6.1)");
        return Err(bad_length(&rest[..2], &detail));
    }
    Ok(Some(length))
}

#[cold]
fn bad_length(field: &[u8], detail: &str) -> MessageError {
    header_error(HeaderSubcode::BadMessageLength, field, 16, detail)
}

#[cold]
fn header_error(subcode: HeaderSubcode, data: &[u8], offset: usize, detail: &str) -> MessageError {
    MessageError::new(ErrorCode::Header(subcode), Bytes::copy_from_slice(data), offset, detail)
}

impl Message {
    /// Reads one framed message: `frame` is exactly the octets that [`frame_length`] counted.
    /// Owned parts of the result share `frame`'s storage.
    ///
    /// # Errors
    /// What ends the session, with the NOTIFICATION to send. A fault in a NOTIFICATION itself is
    /// an error here like any other, but the peer must not be told of it by another NOTIFICATION
    /// (RFC 4271 §6.4).
    pub fn decode(frame: &Bytes, context: &DecodeContext) -> Result<Self, MessageError> {
        if frame_length(frame, context.extended_message)? != Some(frame.len()) {
            let field = frame.get(16..18).unwrap_or(&[]);
            let detail = format!("the frame has {} octets, its header says otherwise", frame.len());
            return Err(bad_length(field, &detail));
        }
        Ok(match frame[HEADER_LEN - 1] {
            1 => Self::Open(Open::decode(frame)?),
            2 => Self::Update(Update::decode(frame, context)?),
            3 => Self::Notification(Notification::decode(frame)),
            4 => Self::Keepalive,
            _ => Self::RouteRefresh(RouteRefresh::decode(frame)?),
        })
    }

    /// Appends the message's octets, header included. UPDATEs are not written through here but by
    /// [`crate::update`]'s packing functions; an [`Update`] value is written as it stands.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) {
        match self {
            Self::Open(open) => open.encode(out),
            Self::Update(update) => update.encode(context, out),
            Self::Notification(notification) => notification.encode(context, out),
            Self::Keepalive => finish_message(start_message(MessageType::Keepalive, out), out),
            Self::RouteRefresh(refresh) => refresh.encode(out),
        }
    }
}

impl Default for EncodeContext {
    /// Four-octet AS, 4096 octets, no path identifiers, IPv4 by IPv6 next hops allowed.
    fn default() -> Self {
        Self {
            four_octet_as: true,
            max_len: MAX_STANDARD_LEN,
            add_path: FamilySet::EMPTY,
            extended_next_hop: true,
        }
    }
}

#[cfg(test)]
mod tests;

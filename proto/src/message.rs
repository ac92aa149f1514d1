//! The message header (RFC 4271 §4.1), framing, and the five message types.

use bytes::{Bytes, BytesMut};

use crate::error::MessageError;
use crate::notification::Notification;
use crate::open::Open;
use crate::refresh::RouteRefresh;
use crate::types::{FamilySet, SessionKind};
use crate::update::Update;

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

/// A whole message.
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
    let _ = (input, extended_message);
    todo!()
}

impl Message {
    /// Reads one framed message: `frame` is exactly the octets that [`frame_length`] counted.
    /// Owned parts of the result share `frame`'s storage.
    ///
    /// # Errors
    /// What ends the session, with the NOTIFICATION to send.
    pub fn decode(frame: &Bytes, context: &DecodeContext) -> Result<Self, MessageError> {
        let _ = (frame, context);
        todo!()
    }

    /// Appends the message's octets, header included. UPDATEs are not written through here but by
    /// [`crate::update`]'s packing functions; an [`Update`] value is written as it stands.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) {
        let _ = (context, out);
        todo!()
    }
}

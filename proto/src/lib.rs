//! BGP-4 wire format (RFC 4271 and its extensions): octets to typed messages and back.
//!
//! In flow: one whole message, already framed by its header ([`frame_length`] tells how many
//! octets to wait for), and a [`DecodeContext`] with what the two OPENs negotiated.
//! Out flow: a [`Message`], or a [`MessageError`] that carries the NOTIFICATION to send. An UPDATE
//! whose attributes are malformed in a way RFC 7606 lets a session survive is still an
//! [`Update`]: what was decided about it is in [`Update::issues`], and its routes already stand
//! where the decision puts them (a route treated as withdrawn is a withdrawal).
//!
//! What always holds: no input panics, no length is believed before it is checked against the
//! octets that are there, and nothing is allocated in proportion to a claimed length.
//! No IO, no clock, no policy lives here.

pub mod as_path;
pub mod attributes;
pub mod capability;
pub mod error;
pub mod message;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod refresh;
pub mod types;
pub mod update;
mod wire;

pub use as_path::{AsPath, AsSegment, AsSegmentKind};
pub use attributes::{
    Aggregator, Community, ExtendedCommunity, LargeCommunity, NextHop, Origin, PartialAttributes,
    PathAttributes, RareAttributes, UnknownAttribute,
};
pub use capability::{AddPathMode, Capability, GracefulRestartFamily, LongLivedFamily, Role};
pub use error::{Issue, MessageError, Treatment};
pub use message::{
    DecodeContext, EncodeContext, HEADER_LEN, MAX_EXTENDED_LEN, MAX_STANDARD_LEN, Message,
    MessageType, frame_length,
};
pub use nlri::{Nlri, NlriPrefix, PathId};
pub use notification::{
    CeaseSubcode, ErrorCode, FsmSubcode, HeaderSubcode, Notification, OpenSubcode, RefreshSubcode,
    UpdateSubcode,
};
pub use open::Open;
pub use refresh::{RefreshSubtype, RouteRefresh};
pub use types::{AfiSafi, Asn, BgpIdentifier, Family, FamilySet, HoldTime, SessionKind};
pub use update::{Announcement, Update};

//! What is wrong with a message, and what RFC 4271 §6 or RFC 7606 says must follow.

use std::fmt;

use bytes::Bytes;

use crate::notification::{ErrorCode, Notification};
use crate::types::AfiSafi;

/// A fault that ends the session: the NOTIFICATION to send, where it was found, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{notification}: {detail} (octet {offset})")]
pub struct MessageError {
    /// What to tell the peer, data field included.
    pub notification: Notification,
    /// Octets from the start of the message's header to the fault.
    pub offset: usize,
    /// The fault in words, for logs and `lastError`.
    pub detail: String,
}

impl MessageError {
    /// A fault at `offset` that ends the session with `code`, `data` in the NOTIFICATION.
    #[cold]
    pub(crate) fn new(
        code: ErrorCode,
        data: impl Into<Bytes>,
        offset: usize,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            notification: Notification { code, data: data.into() },
            offset,
            detail: detail.into(),
        }
    }
}

/// What RFC 7606 §2 says must follow from a malformed UPDATE that does not end the session, in
/// ascending strength, and the session reset itself for display.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Treatment {
    /// Noted and otherwise without effect (an unnegotiated family's routes, RFC 4760 §7).
    Ignore,
    /// The attribute is dropped, the routes stay (RFC 7606 §2 "attribute discard").
    AttributeDiscard,
    /// The routes of the UPDATE are handled as withdrawn (RFC 7606 §2 "treat-as-withdraw").
    TreatAsWithdraw,
    /// The family is given up on this session (RFC 7606 §2 "AFI/SAFI disable").
    DisableFamily(AfiSafi),
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignore => f.write_str("ignore"),
            Self::AttributeDiscard => f.write_str("attribute-discard"),
            Self::TreatAsWithdraw => f.write_str("treat-as-withdraw"),
            Self::DisableFamily(family) => write!(f, "disable-family {family}"),
            Self::SessionReset => f.write_str("session-reset"),
        }
    }
}

/// One finding in an UPDATE that the session survives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// What was done about it.
    pub treatment: Treatment,
    /// Type code of the attribute concerned, if it is one.
    pub attribute: Option<u8>,
    /// Octets from the start of the message's header to the fault.
    pub offset: usize,
    /// The fault in words, with its RFC section.
    pub detail: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (octet {})", self.treatment, self.detail, self.offset)
    }
}

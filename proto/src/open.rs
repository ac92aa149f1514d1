//! OPEN (RFC 4271 §4.2) with capabilities (RFC 5492) and extended optional parameters (RFC 9072).

use crate::capability::Capability;
use crate::types::{Asn, BgpIdentifier, HoldTime};

/// An OPEN message. Capabilities keep their order; repeated ones are kept too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// The My Autonomous System field as written: AS_TRANS where `asn` does not fit.
    pub my_as: u16,
    /// The sender's AS: the four-octet AS capability's where there is one, else `my_as`.
    pub asn: Asn,
    /// The proposed hold time.
    pub hold_time: HoldTime,
    /// Non-zero (RFC 6286 §2.2).
    pub identifier: BgpIdentifier,
    /// In the order of the message, whatever number of parameters they came in.
    pub capabilities: Vec<Capability>,
}

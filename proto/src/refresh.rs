//! ROUTE-REFRESH (RFC 2918) and its subtypes (RFC 7313).

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::MessageError;
use crate::message::{HEADER_LEN, MessageType};
use crate::notification::{ErrorCode, HeaderSubcode, RefreshSubcode};
use crate::types::AfiSafi;
use crate::wire::{finish_message, start_message};

/// A ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteRefresh {
    /// The family asked for.
    pub family: AfiSafi,
    /// What is meant.
    pub subtype: RefreshSubtype,
}

/// The octet that RFC 2918 left reserved.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RefreshSubtype {
    /// 0: a request.
    Request,
    /// 1: BoRR, a re-advertisement begins.
    BeginOfRefresh,
    /// 2: EoRR, it has ended; what was not repeated is stale.
    EndOfRefresh,
    /// Any other: ignored (RFC 7313 §5).
    Unknown(u8),
}

impl RefreshSubtype {
    /// The octet on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::BeginOfRefresh => 1,
            Self::EndOfRefresh => 2,
            Self::Unknown(other) => other,
        }
    }
}

impl From<u8> for RefreshSubtype {
    fn from(octet: u8) -> Self {
        match octet {
            0 => Self::Request,
            1 => Self::BeginOfRefresh,
            2 => Self::EndOfRefresh,
            other => Self::Unknown(other),
        }
    }
}

impl RouteRefresh {
    /// Reads a framed message. What follows the four octets of a request (an ORF of RFC 5291,
    /// which this speaker never offers) is ignored, so that the request is still answered.
    pub(crate) fn decode(frame: &Bytes) -> Result<Self, MessageError> {
        let body = &frame[HEADER_LEN..];
        let subtype = body.get(2).map_or(RefreshSubtype::Request, |octet| (*octet).into());
        let marks =
            matches!(subtype, RefreshSubtype::BeginOfRefresh | RefreshSubtype::EndOfRefresh);
        match *body {
            [a, b, _, safi, ref rest @ ..] if rest.is_empty() || !marks => {
                Ok(Self { family: AfiSafi { afi: u16::from_be_bytes([a, b]), safi }, subtype })
            }
            _ if marks => Err(MessageError::new(
                ErrorCode::RouteRefresh(RefreshSubcode::InvalidMessageLength),
                frame.clone(),
                16,
                format!("{} octets behind the header, not 4 (RFC 7313 §5)", body.len()),
            )),
            _ => Err(MessageError::new(
                ErrorCode::Header(HeaderSubcode::BadMessageLength),
                frame.slice(16..18),
                16,
                format!("length {} of a ROUTE-REFRESH is below 23 (RFC 2918 §3)", frame.len()),
            )),
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let start = start_message(MessageType::RouteRefresh, out);
        out.put_u16(self.family.afi);
        out.put_u8(self.subtype.octet());
        out.put_u8(self.family.safi);
        finish_message(start, out);
    }
}

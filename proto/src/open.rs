//! OPEN (RFC 4271 §4.2) with capabilities (RFC 5492) and extended optional parameters (RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::capability::Capability;
use crate::error::MessageError;
use crate::message::{HEADER_LEN, MAX_STANDARD_LEN, MessageType};
use crate::notification::{ErrorCode, OpenSubcode};
use crate::types::{Asn, BgpIdentifier, HoldTime};
use crate::wire::{
    finish_message, long_block, octet, offset_in, patch_length, short_block, start_message,
};

/// The one version of the protocol.
const VERSION: u8 = 4;
/// The optional parameter that carries capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// The type that marks the extended form of the parameters (RFC 9072 §2).
const EXTENDED: u8 = 255;
/// Where the optional parameters' length stands.
const PARAMETERS_AT: usize = HEADER_LEN + 9;

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

impl Open {
    /// Reads a framed message, which has at least its fixed fields.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 §6.2, RFC 6286 §2.2, RFC 7607 §2 or RFC 9072 §2. Whether the AS
    /// is the one expected, and what the capabilities amount to, is for the session to say.
    pub(crate) fn decode(frame: &Bytes) -> Result<Self, MessageError> {
        let fixed: &[u8; 10] =
            frame[HEADER_LEN..].first_chunk().expect("the header check asks for the fixed fields");
        let [version, as_high, as_low, hold_high, hold_low, a, b, c, d, _] = *fixed;
        if version != VERSION {
            return Err(MessageError::new(
                ErrorCode::Open(OpenSubcode::UnsupportedVersionNumber),
                vec![0, VERSION],
                HEADER_LEN,
                format!("version {version}, not {VERSION} (RFC 4271 §6.2)"),
            ));
        }
        let my_as = u16::from_be_bytes([as_high, as_low]);
        let seconds = u16::from_be_bytes([hold_high, hold_low]);
        let hold_time = HoldTime::new(seconds).ok_or_else(|| {
            let detail = format!("hold time of {seconds} s is below 3 s (RFC 4271 §6.2)");
            fault(OpenSubcode::UnacceptableHoldTime, HEADER_LEN + 3, detail)
        })?;
        let identifier = Ipv4Addr::new(a, b, c, d);
        if identifier.is_unspecified() {
            let detail = "BGP Identifier is zero (RFC 6286 §2.2)";
            return Err(fault(OpenSubcode::BadBgpIdentifier, HEADER_LEN + 5, detail));
        }
        let (capabilities, four_octet_as_at) = read_parameters(frame)?;
        let asn = capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        for (number, offset) in [
            (Asn(my_as.into()), HEADER_LEN + 1),
            (asn.unwrap_or(Asn::TRANS), four_octet_as_at.unwrap_or(HEADER_LEN)),
        ] {
            if number == Asn::ZERO {
                let detail = "AS 0 must not be used in a session (RFC 7607 §2)";
                return Err(fault(OpenSubcode::BadPeerAs, offset, detail));
            }
        }
        Ok(Self {
            my_as,
            asn: asn.unwrap_or(Asn(my_as.into())),
            hold_time,
            identifier: BgpIdentifier(identifier),
            capabilities,
        })
    }

    /// Appends the message: all capabilities in one parameter, in the extended form of RFC 9072
    /// only where the classic one is too small. Capabilities for which 4096 octets leave no room
    /// are left out from the end.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut block = BytesMut::new();
        for capability in &self.capabilities {
            let before = block.len();
            capability.write(&mut block);
            if block.len() > MAX_STANDARD_LEN - PARAMETERS_AT - 1 - 6 {
                block.truncate(before);
                break;
            }
        }
        let start = start_message(MessageType::Open, out);
        out.put_u8(VERSION);
        out.put_u16(self.my_as);
        out.put_u16(self.hold_time.seconds());
        out.put_slice(&self.identifier.0.octets());
        match u8::try_from(block.len() + 2) {
            Ok(_) if block.is_empty() => out.put_u8(0),
            // 255 would read as the mark of the extended form to nobody: the type behind it is 2.
            Ok(length) => {
                out.put_u8(length);
                out.put_u8(CAPABILITIES);
                out.put_u8(length - 2);
            }
            Err(_) => {
                out.put_u8(EXTENDED);
                out.put_u8(EXTENDED);
                let length = out.len();
                out.put_slice(&[0, 0, CAPABILITIES, 0, 0]);
                patch_length(length, block.len() + 3, out);
                patch_length(length + 3, block.len(), out);
            }
        }
        out.put_slice(&block);
        finish_message(start, out);
    }
}

/// The capabilities of all parameters, and where the first four-octet AS stands.
fn read_parameters(frame: &Bytes) -> Result<(Vec<Capability>, Option<usize>), MessageError> {
    let malformed = |at: &[u8], detail: &str| {
        // RFC 4271 §6.2: recognized but malformed is Unspecific.
        fault(OpenSubcode::Unspecific, offset_in(frame, at), format!("{detail} (RFC 4271 §6.2)"))
    };
    let extended = frame[PARAMETERS_AT] != 0 && frame.get(PARAMETERS_AT + 1) == Some(&EXTENDED);
    let field = if extended { &frame[PARAMETERS_AT + 2..] } else { &frame[PARAMETERS_AT..] };
    let block = if extended { long_block(field) } else { short_block(field) };
    let (rest, mut parameters) =
        block.map_err(|_| malformed(field, "optional parameters are cut short"))?;
    if !rest.is_empty() {
        return Err(malformed(rest, "octets behind the optional parameters"));
    }
    let mut capabilities = Vec::new();
    let mut four_octet_as_at = None;
    while !parameters.is_empty() {
        let (kind, value);
        let at = parameters;
        let cut_short = |_| malformed(at, "an optional parameter is cut short");
        (parameters, kind) = octet(parameters).map_err(cut_short)?;
        let block = if extended { long_block(parameters) } else { short_block(parameters) };
        (parameters, value) = block.map_err(cut_short)?;
        if kind != CAPABILITIES {
            let detail = format!("optional parameter {kind} is not known (RFC 4271 §6.2)");
            let offset = offset_in(frame, at);
            return Err(fault(OpenSubcode::UnsupportedOptionalParameter, offset, detail));
        }
        let mut list = value;
        while !list.is_empty() {
            let (code, value);
            let at = list;
            let cut_short = |_| malformed(at, "a capability is cut short");
            (list, code) = octet(list).map_err(cut_short)?;
            (list, value) = short_block(list).map_err(cut_short)?;
            let capability = Capability::read(code, &frame.slice_ref(value));
            if matches!(capability, Capability::FourOctetAs(_)) {
                four_octet_as_at.get_or_insert(offset_in(frame, value));
            }
            capabilities.push(capability);
        }
    }
    Ok((capabilities, four_octet_as_at))
}

#[cold]
fn fault(subcode: OpenSubcode, offset: usize, detail: impl Into<String>) -> MessageError {
    MessageError::new(ErrorCode::Open(subcode), Bytes::new(), offset, detail)
}

#[cfg(test)]
mod tests;

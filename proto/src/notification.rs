//! NOTIFICATION (RFC 4271 §4.5): every code and subcode by name, and shutdown messages (RFC 9003).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{EncodeContext, HEADER_LEN, MAX_EXTENDED_LEN, MessageType};
use crate::wire::{finish_message, start_message};

/// A NOTIFICATION message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notification {
    /// What went wrong.
    pub code: ErrorCode,
    /// The data field, whose meaning depends on the code.
    pub data: Bytes,
}

macro_rules! subcodes {
    ($(#[$doc:meta])* $name:ident { $($value:literal $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name {
            $(
                #[doc = $text]
                $variant,
            )*
            /// A value without a name.
            Unknown(u8),
        }

        impl From<u8> for $name {
            fn from(value: u8) -> Self {
                match value {
                    $($value => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => $value,)*
                    $name::Unknown(other) => other,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Unknown(other) => write!(f, "subcode {other}"),
                }
            }
        }
    };
}

subcodes! {
    /// Subcodes of Message Header Error (RFC 4271 §6.1).
    HeaderSubcode {
        0 Unspecific "Unspecific",
        1 ConnectionNotSynchronized "Connection Not Synchronized",
        2 BadMessageLength "Bad Message Length",
        3 BadMessageType "Bad Message Type",
    }
}

subcodes! {
    /// Subcodes of OPEN Message Error (RFC 4271 §6.2, RFC 5492 §5, RFC 9234 §4.2).
    OpenSubcode {
        0 Unspecific "Unspecific",
        1 UnsupportedVersionNumber "Unsupported Version Number",
        2 BadPeerAs "Bad Peer AS",
        3 BadBgpIdentifier "Bad BGP Identifier",
        4 UnsupportedOptionalParameter "Unsupported Optional Parameter",
        5 AuthenticationFailure "Authentication Failure (deprecated)",
        6 UnacceptableHoldTime "Unacceptable Hold Time",
        7 UnsupportedCapability "Unsupported Capability",
        11 RoleMismatch "Role Mismatch",
    }
}

subcodes! {
    /// Subcodes of UPDATE Message Error (RFC 4271 §6.3).
    UpdateSubcode {
        0 Unspecific "Unspecific",
        1 MalformedAttributeList "Malformed Attribute List",
        2 UnrecognizedWellKnownAttribute "Unrecognized Well-known Attribute",
        3 MissingWellKnownAttribute "Missing Well-known Attribute",
        4 AttributeFlagsError "Attribute Flags Error",
        5 AttributeLengthError "Attribute Length Error",
        6 InvalidOriginAttribute "Invalid ORIGIN Attribute",
        7 AsRoutingLoop "AS Routing Loop (deprecated)",
        8 InvalidNextHopAttribute "Invalid NEXT_HOP Attribute",
        9 OptionalAttributeError "Optional Attribute Error",
        10 InvalidNetworkField "Invalid Network Field",
        11 MalformedAsPath "Malformed AS_PATH",
    }
}

subcodes! {
    /// Subcodes of Finite State Machine Error (RFC 6608 §3).
    FsmSubcode {
        0 Unspecified "Unspecified Error",
        1 UnexpectedInOpenSent "Receive Unexpected Message in OpenSent State",
        2 UnexpectedInOpenConfirm "Receive Unexpected Message in OpenConfirm State",
        3 UnexpectedInEstablished "Receive Unexpected Message in Established State",
    }
}

subcodes! {
    /// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
    CeaseSubcode {
        0 Unspecific "Unspecific",
        1 MaximumPrefixes "Maximum Number of Prefixes Reached",
        2 AdministrativeShutdown "Administrative Shutdown",
        3 PeerDeconfigured "Peer De-configured",
        4 AdministrativeReset "Administrative Reset",
        5 ConnectionRejected "Connection Rejected",
        6 OtherConfigurationChange "Other Configuration Change",
        7 ConnectionCollisionResolution "Connection Collision Resolution",
        8 OutOfResources "Out of Resources",
        9 HardReset "Hard Reset",
        10 BfdDown "BFD Down",
    }
}

subcodes! {
    /// Subcodes of ROUTE-REFRESH Message Error (RFC 7313 §5).
    RefreshSubcode {
        0 Reserved "Reserved",
        1 InvalidMessageLength "Invalid Message Length",
    }
}

/// An error code with its subcode.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorCode {
    /// 1
    Header(HeaderSubcode),
    /// 2
    Open(OpenSubcode),
    /// 3
    Update(UpdateSubcode),
    /// 4; the subcode is unused.
    HoldTimerExpired(u8),
    /// 5
    Fsm(FsmSubcode),
    /// 6
    Cease(CeaseSubcode),
    /// 7 (RFC 7313)
    RouteRefresh(RefreshSubcode),
    /// 8 (RFC 9687); the subcode is unused.
    SendHoldTimerExpired(u8),
    /// Any other code.
    Unknown {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
}

impl ErrorCode {
    /// From the two octets on the wire.
    #[must_use]
    pub fn new(code: u8, subcode: u8) -> Self {
        match code {
            1 => Self::Header(subcode.into()),
            2 => Self::Open(subcode.into()),
            3 => Self::Update(subcode.into()),
            4 => Self::HoldTimerExpired(subcode),
            5 => Self::Fsm(subcode.into()),
            6 => Self::Cease(subcode.into()),
            7 => Self::RouteRefresh(subcode.into()),
            8 => Self::SendHoldTimerExpired(subcode),
            _ => Self::Unknown { code, subcode },
        }
    }

    /// The two octets on the wire.
    #[must_use]
    pub fn octets(self) -> (u8, u8) {
        match self {
            Self::Header(subcode) => (1, subcode.into()),
            Self::Open(subcode) => (2, subcode.into()),
            Self::Update(subcode) => (3, subcode.into()),
            Self::HoldTimerExpired(subcode) => (4, subcode),
            Self::Fsm(subcode) => (5, subcode.into()),
            Self::Cease(subcode) => (6, subcode.into()),
            Self::RouteRefresh(subcode) => (7, subcode.into()),
            Self::SendHoldTimerExpired(subcode) => (8, subcode),
            Self::Unknown { code, subcode } => (code, subcode),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(subcode) => write!(f, "Message Header Error/{subcode}"),
            Self::Open(subcode) => write!(f, "OPEN Message Error/{subcode}"),
            Self::Update(subcode) => write!(f, "UPDATE Message Error/{subcode}"),
            Self::HoldTimerExpired(_) => f.write_str("Hold Timer Expired"),
            Self::Fsm(subcode) => write!(f, "Finite State Machine Error/{subcode}"),
            Self::Cease(subcode) => write!(f, "Cease/{subcode}"),
            Self::RouteRefresh(subcode) => write!(f, "ROUTE-REFRESH Message Error/{subcode}"),
            Self::SendHoldTimerExpired(_) => f.write_str("Send Hold Timer Expired"),
            Self::Unknown { code, subcode } => write!(f, "error code {code} subcode {subcode}"),
        }
    }
}

impl Notification {
    /// A NOTIFICATION without data.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        Self { code, data: Bytes::new() }
    }

    /// A Cease with a shutdown communication (RFC 9003 §2): UTF-8, cut at 255 octets on a
    /// character's boundary. Only Administrative Shutdown and Administrative Reset carry one.
    #[must_use]
    pub fn with_message(subcode: CeaseSubcode, message: &str) -> Self {
        let mut notification = Self::new(ErrorCode::Cease(subcode));
        if message.is_empty() || !subcode.carries_message() {
            return notification;
        }
        let cut = cut_to_255(message);
        let mut data = BytesMut::with_capacity(cut.len() + 1);
        data.put_u8(u8::try_from(cut.len()).unwrap_or(u8::MAX));
        data.put_slice(cut.as_bytes());
        notification.data = data.freeze();
        notification
    }

    /// The shutdown communication in it, if it is one and is well formed (RFC 9003 §2); what is
    /// not UTF-8 is replaced. It is also found inside a Hard Reset (RFC 8538 §3.1).
    #[must_use]
    pub fn message(&self) -> Option<String> {
        match (self.code, &self.data[..]) {
            (ErrorCode::Cease(CeaseSubcode::HardReset), [code, subcode, ..]) => {
                let code = ErrorCode::new(*code, *subcode);
                // One level only: a Hard Reset inside a Hard Reset has no meaning.
                (code != self.code)
                    .then(|| Self { code, data: self.data.slice(2..) }.message())
                    .flatten()
            }
            (ErrorCode::Cease(subcode), [length, text @ ..]) if subcode.carries_message() => {
                let text = text.get(..usize::from(*length)).filter(|text| !text.is_empty())?;
                Some(String::from_utf8_lossy(text).into_owned())
            }
            _ => None,
        }
    }

    /// Reads a framed message, which has at least the two octets of the code.
    pub(crate) fn decode(frame: &Bytes) -> Self {
        let code = ErrorCode::new(frame[HEADER_LEN], frame[HEADER_LEN + 1]);
        Self { code, data: frame.slice(HEADER_LEN + 2..) }
    }

    /// Data that does not fit the session's longest message is cut.
    pub(crate) fn encode(&self, context: &EncodeContext, out: &mut BytesMut) {
        let start = start_message(MessageType::Notification, out);
        let (code, subcode) = self.code.octets();
        out.put_u8(code);
        out.put_u8(subcode);
        let room = context.max_len.min(MAX_EXTENDED_LEN).saturating_sub(HEADER_LEN + 2);
        out.put_slice(&self.data[..self.data.len().min(room)]);
        finish_message(start, out);
    }
}

impl CeaseSubcode {
    /// Whether its data is a shutdown communication (RFC 9003 §2).
    const fn carries_message(self) -> bool {
        matches!(self, Self::AdministrativeShutdown | Self::AdministrativeReset)
    }
}

/// The longest beginning of `text` that a one-octet length can count.
fn cut_to_255(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl fmt::Display for Notification {
    /// The code in words and the shutdown communication, if any, with control characters escaped:
    /// it is the peer's text and goes into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.code.octets();
        write!(f, "{} ({code}/{subcode})", self.code)?;
        match self.message() {
            Some(message) => write!(f, ": {message:?}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_communication_goes_there_and_back() {
        let subcode = CeaseSubcode::AdministrativeShutdown;
        let notification = Notification::with_message(subcode, "maintenance, ticket 42");
        assert_eq!(notification.message().as_deref(), Some("maintenance, ticket 42"));
        assert_eq!(
            notification.to_string(),
            "Cease/Administrative Shutdown (6/2): \"maintenance, ticket 42\""
        );
        let other = Notification::with_message(CeaseSubcode::OutOfResources, "ignored");
        assert!(other.data.is_empty(), "only shutdown and reset carry a text");
    }

    #[test]
    fn long_text_is_cut_on_a_character() {
        let text = "ä".repeat(200);
        let notification = Notification::with_message(CeaseSubcode::AdministrativeReset, &text);
        assert_eq!(notification.data.len(), 255, "one length octet and 127 characters of two");
        assert_eq!(notification.message(), Some("ä".repeat(127)));
    }

    #[test]
    fn malformed_communications_are_none_or_replaced() {
        let with = |data: &'static [u8]| Notification {
            code: ErrorCode::Cease(CeaseSubcode::AdministrativeShutdown),
            data: Bytes::from_static(data),
        };
        assert_eq!(with(b"\x05ab").message(), None, "length beyond the data");
        assert_eq!(with(b"\x00").message(), None, "empty");
        assert_eq!(with(b"").message(), None);
        assert_eq!(with(b"\x02\xff!").message().as_deref(), Some("\u{fffd}!"));
        assert_eq!(with(b"\x02a\n").to_string(), "Cease/Administrative Shutdown (6/2): \"a\\n\"");
    }

    #[test]
    fn hard_reset_shows_what_it_wraps() {
        let hard = |data: &'static [u8]| Notification {
            code: ErrorCode::Cease(CeaseSubcode::HardReset),
            data: Bytes::from_static(data),
        };
        assert_eq!(hard(b"\x06\x02\x03bye").message().as_deref(), Some("bye"));
        assert_eq!(hard(b"\x06\x09\x06\x09\x06\x09").message(), None);
    }

    #[test]
    fn every_code_goes_there_and_back() {
        for code in 0..=255 {
            for subcode in 0..=255 {
                assert_eq!(ErrorCode::new(code, subcode).octets(), (code, subcode));
            }
        }
    }
}

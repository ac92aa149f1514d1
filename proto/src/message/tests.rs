//! Framing: every rule of RFC 4271 §6.1, RFC 8654 and RFC 7313 on lengths and types.

use super::*;
use crate::notification::RefreshSubcode;
use crate::refresh::RefreshSubtype;
use crate::types::{AfiSafi, Family};

/// A message of this type and length field, its body zero.
fn frame(kind: u8, length: u16) -> Bytes {
    let mut octets = vec![0xff; 16];
    octets.extend_from_slice(&length.to_be_bytes());
    octets.push(kind);
    octets.resize(usize::from(length).max(HEADER_LEN), 0);
    octets.into()
}

fn refused(input: &[u8], extended: bool) -> (ErrorCode, Vec<u8>, usize) {
    let error = frame_length(input, extended).expect_err("should be refused");
    (error.notification.code, error.notification.data.to_vec(), error.offset)
}

#[test]
fn waits_for_the_header_and_then_tells_the_length() {
    let keepalive = frame(4, 19);
    for end in 0..HEADER_LEN {
        assert_eq!(frame_length(&keepalive[..end], false), Ok(None));
    }
    assert_eq!(frame_length(&keepalive, false), Ok(Some(19)));
    assert_eq!(frame_length(&frame(2, 4096)[..HEADER_LEN], false), Ok(Some(4096)));
    assert_eq!(frame_length(&frame(2, 65535)[..HEADER_LEN], true), Ok(Some(65535)));
}

#[test]
fn marker_that_is_not_all_ones() {
    let mut octets = frame(4, 19).to_vec();
    octets[7] = 0xfe;
    let code = ErrorCode::Header(HeaderSubcode::ConnectionNotSynchronized);
    assert_eq!(refused(&octets, false), (code, vec![], 7));
}

#[test]
fn lengths_outside_of_each_types_range() {
    let code = ErrorCode::Header(HeaderSubcode::BadMessageLength);
    let cases = [
        (4, 0),
        (4, 18),
        (4, 20),
        (4, 4096),
        (1, 28),
        (1, 4097),
        (2, 22),
        (2, 4097),
        (3, 20),
        (3, 4097),
        (5, 18),
        (5, 4097),
        (9, 18),
        (9, 4097),
    ];
    for (kind, length) in cases {
        let data = u16::to_be_bytes(length).to_vec();
        assert_eq!(refused(&frame(kind, length), false), (code, data, 16), "{kind} {length}");
    }
}

#[test]
fn extended_messages_are_not_for_open_and_keepalive() {
    let code = ErrorCode::Header(HeaderSubcode::BadMessageLength);
    for (kind, length) in [(1, 4097), (4, 4097)] {
        let data = u16::to_be_bytes(length).to_vec();
        assert_eq!(refused(&frame(kind, length), true), (code, data, 16));
    }
    for kind in [2, 3, 5] {
        assert_eq!(frame_length(&frame(kind, 4097), true), Ok(Some(4097)));
    }
}

#[test]
fn unknown_types() {
    let code = ErrorCode::Header(HeaderSubcode::BadMessageType);
    for kind in [0, 6, 128, 255] {
        assert_eq!(refused(&frame(kind, 30), false), (code, vec![kind], 18));
    }
}

#[test]
fn a_frame_that_disagrees_with_its_header_is_refused() {
    let longer = [&frame(4, 19)[..], &[0]].concat();
    let error = Message::decode(&longer.into(), &DecodeContext::default()).expect_err("refused");
    assert_eq!(error.notification.code, ErrorCode::Header(HeaderSubcode::BadMessageLength));
    let error = Message::decode(&Bytes::new(), &DecodeContext::default()).expect_err("refused");
    assert_eq!(error.notification.code, ErrorCode::Header(HeaderSubcode::BadMessageLength));
}

#[test]
fn simple_messages_go_there_and_back() {
    let family = Family::Ipv6Unicast.afi_safi();
    let messages = [
        Message::Keepalive,
        Message::RouteRefresh(RouteRefresh { family, subtype: RefreshSubtype::Request }),
        Message::RouteRefresh(RouteRefresh { family, subtype: RefreshSubtype::BeginOfRefresh }),
        Message::RouteRefresh(RouteRefresh {
            family: AfiSafi { afi: 25, safi: 70 },
            subtype: RefreshSubtype::Unknown(9),
        }),
        Message::Notification(Notification {
            code: ErrorCode::new(3, 9),
            data: Bytes::from_static(b"why"),
        }),
    ];
    for message in messages {
        let mut out = BytesMut::new();
        message.encode(&EncodeContext::default(), &mut out);
        assert_eq!(Message::decode(&out.freeze(), &DecodeContext::default()), Ok(message));
    }
}

#[test]
fn a_notification_is_cut_to_the_longest_message() {
    let data = Bytes::from(vec![7; 5000]);
    let notification = Notification { code: ErrorCode::new(1, 2), data };
    let mut out = BytesMut::new();
    Message::Notification(notification).encode(&EncodeContext::default(), &mut out);
    assert_eq!(out.len(), MAX_STANDARD_LEN);
    assert_eq!(frame_length(&out, false), Ok(Some(MAX_STANDARD_LEN)));
}

/// RFC 7313 §5: only subtypes 1 and 2 have the error of their own, with the whole message in it.
#[test]
fn route_refresh_lengths() {
    let decode = |body: &[u8]| {
        let mut octets = frame(5, 19 + u16::try_from(body.len()).expect("short")).to_vec();
        octets.truncate(HEADER_LEN);
        octets.extend_from_slice(body);
        (Message::decode(&octets.clone().into(), &DecodeContext::default()), octets)
    };
    let invalid = ErrorCode::RouteRefresh(RefreshSubcode::InvalidMessageLength);
    for body in [&[0, 1, 1][..], &[0, 1, 2], &[0, 1, 1, 1, 0], &[0, 1, 2, 1, 0]] {
        let (outcome, octets) = decode(body);
        let notification = outcome.expect_err("refused").notification;
        assert_eq!((notification.code, &notification.data[..]), (invalid, &octets[..]));
    }
    let short = ErrorCode::Header(HeaderSubcode::BadMessageLength);
    for body in [&[][..], &[0], &[0, 1], &[0, 1, 0]] {
        let (outcome, octets) = decode(body);
        let notification = outcome.expect_err("refused").notification;
        assert_eq!((notification.code, &notification.data[..]), (short, &octets[16..18]));
    }
    let request =
        RouteRefresh { family: Family::Ipv4Unicast.afi_safi(), subtype: RefreshSubtype::Request };
    let (outcome, _) = decode(&[0, 1, 0, 1, 1, 64, 0, 0]);
    assert_eq!(outcome, Ok(Message::RouteRefresh(request)), "an ORF behind it is passed over");
}

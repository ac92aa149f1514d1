//! The bodies of the fuzz targets: what must hold for any octets whatever.
//!
//! Nothing panics; a fault lies within the message; what was accepted and is written again reads
//! as the same. The targets feed them with libFuzzer, `tests/fuzz_bodies.rs` with the seeds.
//! The first octet of the input of `update` and `message` chooses what the session negotiated.

#![allow(dead_code, reason = "each target uses one of them")]

use bytes::{Bytes, BytesMut};
use ipnet::{Ipv4Net, Ipv6Net};
use routelet_proto::update::{pack_announcements, pack_withdrawals};
use routelet_proto::{
    Announcement, DecodeContext, EncodeContext, Family, FamilySet, HEADER_LEN, MAX_EXTENDED_LEN,
    MAX_STANDARD_LEN, Message, Nlri, SessionKind, Update, frame_length,
};

/// Any body of an OPEN.
pub fn open(data: &[u8]) {
    there_and_back(&framed(1, data), &DecodeContext::default());
}

/// Any body of a NOTIFICATION.
pub fn notification(data: &[u8]) {
    let message = there_and_back(&framed(3, data), &DecodeContext::default());
    if let Some(Message::Notification(notification)) = message {
        let shown = notification.to_string();
        assert!(
            !shown.chars().any(char::is_control),
            "control characters reach the log: {shown:?}"
        );
    }
}

/// Any body of a ROUTE-REFRESH.
pub fn route_refresh(data: &[u8]) {
    there_and_back(&framed(5, data), &DecodeContext::default());
}

/// Any body of an UPDATE, in any session.
pub fn update(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let context = chosen(*choice);
    if let Some(Message::Update(update)) = there_and_back(&framed(2, body), &context) {
        packed(&update, &context);
    }
}

/// Any stream of octets: cut into frames by their headers until one is refused.
pub fn message(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let context = chosen(*choice);
    let mut stream = Bytes::copy_from_slice(stream);
    while let Ok(Some(length)) = frame_length(&stream, context.extended_message) {
        assert!((HEADER_LEN..=MAX_EXTENDED_LEN).contains(&length));
        if stream.len() < length {
            break;
        }
        there_and_back(&stream.split_to(length), &context);
    }
}

/// A message of this type: the body behind a right header, cut at the longest.
fn framed(kind: u8, body: &[u8]) -> Bytes {
    let body = &body[..body.len().min(MAX_EXTENDED_LEN - HEADER_LEN)];
    let length = u16::try_from(HEADER_LEN + body.len()).expect("cut above");
    let mut frame = BytesMut::with_capacity(usize::from(length));
    frame.extend_from_slice(&[0xff; 16]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[kind]);
    frame.extend_from_slice(body);
    frame.freeze()
}

fn chosen(choice: u8) -> DecodeContext {
    let bit = |number: u8| choice >> number & 1 != 0;
    DecodeContext {
        four_octet_as: !bit(0),
        extended_message: !bit(1),
        families: match choice >> 2 & 3 {
            1 => FamilySet::EMPTY.with(Family::Ipv4Unicast),
            2 => FamilySet::EMPTY.with(Family::Ipv6Unicast),
            _ => FamilySet::ALL,
        },
        add_path: if bit(4) { FamilySet::ALL } else { FamilySet::EMPTY },
        extended_next_hop: !bit(5),
        kind: if bit(6) { SessionKind::External } else { SessionKind::Internal },
    }
}

/// Reads; what is accepted is written and read again.
fn there_and_back(frame: &Bytes, context: &DecodeContext) -> Option<Message> {
    let message = match Message::decode(frame, context) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.offset <= frame.len().max(HEADER_LEN), "{error}");
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let expected = without_issues(&message, frame.len());
    // Written to a four-octet peer: what AS4_PATH cannot carry would be lost to another.
    let again = DecodeContext { four_octet_as: true, extended_message: true, ..*context };
    let encode = encode_context(&again, MAX_EXTENDED_LEN);
    let mut out = BytesMut::new();
    message.encode(&encode, &mut out);
    let mut octets = out.freeze();
    let length = frame_length(&octets, true).expect("our own header is right");
    if length == Some(octets.len()) {
        let read = Message::decode(&octets.split_to(octets.len()), &again);
        let read = read.expect("our own message is right");
        assert_eq!(without_issues(&read, MAX_EXTENDED_LEN), expected);
    } else {
        let empty = matches!(&message, Message::Update(update)
            if update.withdrawn.is_empty() && update.announced.is_empty());
        assert!(empty || octets.len() > MAX_EXTENDED_LEN, "one message must be enough");
    }
    let mut out = BytesMut::new();
    message.encode(&EncodeContext { four_octet_as: false, ..encode }, &mut out);
    Some(message)
}

/// The message without its findings, each of which lies within it.
fn without_issues(message: &Message, length: usize) -> Message {
    let mut message = message.clone();
    if let Message::Update(update) = &mut message {
        for issue in update.issues.drain(..) {
            assert!(issue.offset <= length, "{issue}");
        }
    }
    message
}

fn encode_context(context: &DecodeContext, max_len: usize) -> EncodeContext {
    EncodeContext {
        four_octet_as: context.four_octet_as,
        max_len,
        add_path: context.add_path,
        extended_next_hop: context.extended_next_hop,
    }
}

/// The routes of an update, packed anew into short messages, are the same routes.
fn packed(update: &Update, context: &DecodeContext) {
    let encode = EncodeContext { four_octet_as: true, ..encode_context(context, MAX_STANDARD_LEN) };
    let decode = DecodeContext { four_octet_as: true, ..*context };
    let read = |out: BytesMut| {
        let mut octets = out.freeze();
        let mut updates = Vec::new();
        while let Some(length) = frame_length(&octets, false).expect("our own header is right") {
            let frame = octets.split_to(length);
            match Message::decode(&frame, &decode).expect("our own message is right") {
                Message::Update(update) => updates.push(update),
                other => panic!("not an UPDATE: {other:?}"),
            }
        }
        updates
    };
    for Announcement { attributes, nlri } in &update.announced {
        let mut out = BytesMut::new();
        let messages = match nlri.family() {
            Family::Ipv4Unicast => {
                pack_announcements(&encode, attributes, nlri.iter::<Ipv4Net>(), &mut out)
            }
            Family::Ipv6Unicast => {
                pack_announcements(&encode, attributes, nlri.iter::<Ipv6Net>(), &mut out)
            }
        };
        let updates = read(out);
        assert_eq!(updates.len(), messages);
        if messages > 0 {
            assert!(updates.iter().all(|update| update.announced[0].attributes == *attributes));
            let lists = updates.iter().map(|update| &update.announced[0].nlri);
            same_prefixes(nlri, lists);
        }
    }
    for nlri in &update.withdrawn {
        let mut out = BytesMut::new();
        match nlri.family() {
            Family::Ipv4Unicast => pack_withdrawals(&encode, nlri.iter::<Ipv4Net>(), &mut out),
            Family::Ipv6Unicast => pack_withdrawals(&encode, nlri.iter::<Ipv6Net>(), &mut out),
        };
        let updates = read(out);
        same_prefixes(nlri, updates.iter().map(|update| &update.withdrawn[0]));
    }
}

fn same_prefixes<'a>(nlri: &Nlri, lists: impl Iterator<Item = &'a Nlri>) {
    let read: Vec<_> = lists.flat_map(Nlri::iter_any).collect();
    assert_eq!(read, nlri.iter_any().collect::<Vec<_>>());
    assert_eq!(read.len(), nlri.len());
}

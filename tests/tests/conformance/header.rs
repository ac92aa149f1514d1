//! The message header: RFC 4271 §6.1, RFC 8654.

use crate::case::{Case, Context, Expect, established, instead_of_open, notification};
use crate::daemon::PeerKind::External;
use crate::wire::{self, KEEPALIVE, NOTIFICATION, OPEN, UPDATE};

/// Bad Message Length carries the length field it complains about.
fn bad_length(length: u16) -> Expect {
    Expect::Notification(1, 2, Some(length.to_be_bytes().to_vec()))
}

fn spoiled_marker(position: usize) -> impl Fn(&Context) -> Vec<u8> {
    move |_| {
        let mut octets = wire::keepalive();
        octets[position] = 0x7f;
        octets
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        instead_of_open(
            "rfc4271_6_1_marker_of_an_open_is_not_all_ones",
            External,
            notification(1, 1),
            |context| {
                let mut octets = context.usual_open().encode();
                octets[0] = 0;
                octets
            },
        ),
        established(
            "rfc4271_6_1_first_marker_octet_wrong",
            External,
            notification(1, 1),
            spoiled_marker(0),
        ),
        established(
            "rfc4271_6_1_last_marker_octet_wrong",
            External,
            notification(1, 1),
            spoiled_marker(15),
        ),
        established("rfc4271_6_1_length_zero", External, bad_length(0), |_| {
            wire::header(0, KEEPALIVE, &[])
        }),
        established("rfc4271_6_1_length_18", External, bad_length(18), |_| {
            wire::header(18, KEEPALIVE, &[])
        }),
        established("rfc4271_6_1_length_4097_not_negotiated", External, bad_length(4097), |_| {
            wire::header(4097, UPDATE, &[0; 4078])
        }),
        established("rfc4271_6_1_length_65535_not_negotiated", External, bad_length(65535), |_| {
            wire::header(65535, UPDATE, &[0; 64])
        }),
        established("rfc4271_6_1_keepalive_of_20_octets", External, bad_length(20), |_| {
            wire::message(KEEPALIVE, &[0])
        }),
        instead_of_open("rfc4271_6_1_open_of_28_octets", External, bad_length(28), |_| {
            wire::message(OPEN, &[4, 0xfe, 0x4d, 0, 90, 1, 1, 1, 1])
        }),
        established("rfc4271_6_1_update_of_22_octets", External, bad_length(22), |_| {
            wire::message(UPDATE, &[0, 0, 0])
        }),
        established("rfc4271_6_1_notification_of_20_octets", External, Expect::Ended, |_| {
            wire::message(NOTIFICATION, &[6])
        }),
    ];
    for kind in [0u8, 6, 7, 128, 255] {
        cases.push(established(
            &format!("rfc4271_6_1_message_type_{kind}"),
            External,
            Expect::Notification(1, 3, Some(vec![kind])),
            move |_| wire::message(kind, &[]),
        ));
    }
    cases
}

//! Messages in states that do not expect them: RFC 4271 §8.2.2, RFC 6608.

use crate::case::{
    Case, Context, Expect, established, instead_of_keepalive, instead_of_open, notification,
};
use crate::daemon::PeerKind::External;
use crate::wire;

fn clean_update(context: &Context) -> Vec<u8> {
    context.announce(&context.clean())
}

fn refresh(_: &Context) -> Vec<u8> {
    wire::message(wire::ROUTE_REFRESH, &[0, 1, 0, 1])
}

fn cease(_: &Context) -> Vec<u8> {
    wire::message(wire::NOTIFICATION, &[6, 2])
}

pub fn cases() -> Vec<Case> {
    vec![
        instead_of_open("rfc6608_update_in_opensent", External, notification(5, 1), clean_update),
        instead_of_open("rfc6608_keepalive_in_opensent", External, notification(5, 1), |_| {
            wire::keepalive()
        }),
        instead_of_open("rfc6608_route_refresh_in_opensent", External, notification(5, 1), refresh),
        instead_of_open("rfc4271_notification_in_opensent", External, Expect::Closed, cease),
        instead_of_keepalive(
            "rfc6608_update_in_openconfirm",
            External,
            notification(5, 2),
            clean_update,
        ),
        instead_of_keepalive(
            "rfc6608_second_open_in_openconfirm",
            External,
            notification(5, 2),
            |context| context.usual_open().encode(),
        ),
        instead_of_keepalive(
            "rfc6608_route_refresh_in_openconfirm",
            External,
            notification(5, 2),
            refresh,
        ),
        instead_of_keepalive(
            "rfc4271_notification_in_openconfirm",
            External,
            Expect::Closed,
            cease,
        ),
        established(
            "rfc6608_second_open_in_established",
            External,
            notification(5, 3),
            |context| context.usual_open().encode(),
        ),
        established("rfc4271_notification_in_established", External, Expect::Closed, cease),
        established("rfc4271_6_4_notification_unknown_code", External, Expect::Closed, |_| {
            wire::message(wire::NOTIFICATION, &[99, 7, 1, 2, 3])
        }),
        established("rfc9003_message_that_overruns_is_survived", External, Expect::Closed, |_| {
            wire::message(wire::NOTIFICATION, &[6, 2, 200, b'x'])
        }),
        established(
            "rfc9003_message_that_is_not_utf8_is_survived",
            External,
            Expect::Closed,
            |_| wire::message(wire::NOTIFICATION, &[6, 4, 2, 0xff, 0xfe]),
        ),
    ]
}

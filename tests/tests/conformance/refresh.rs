//! ROUTE-REFRESH: RFC 2918, RFC 7313.

use anyhow::ensure;

use crate::case::{Case, Expect, established, free, notification};
use crate::daemon::PeerKind::External;
use crate::wire::{self, ROUTE_REFRESH};

pub fn cases() -> Vec<Case> {
    vec![
        established("rfc2918_request_is_answered_and_survived", External, Expect::Up, |_| {
            wire::message(ROUTE_REFRESH, &[0, 1, 0, 1])
        }),
        established("rfc2918_family_not_negotiated_is_ignored", External, Expect::Up, |_| {
            wire::message(ROUTE_REFRESH, &[0, 25, 0, 65])
        }),
        established("rfc7313_5_unknown_subtype_is_ignored", External, Expect::Up, |_| {
            wire::message(ROUTE_REFRESH, &[0, 1, 9, 1])
        }),
        established("rfc7313_5_borr_of_five_octets", External, notification(7, 1), |_| {
            wire::message(ROUTE_REFRESH, &[0, 1, 1, 1, 0])
        }),
        established("rfc7313_5_eorr_of_three_octets", External, notification(7, 1), |_| {
            wire::message(ROUTE_REFRESH, &[0, 1, 2])
        }),
        established("flood_of_refreshes_is_survived", External, Expect::Up, |_| {
            wire::message(ROUTE_REFRESH, &[0, 1, 0, 1]).repeat(10_000)
        }),
        free("rfc7313_eorr_sweeps_what_was_not_repeated", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            peer.send(&context.announce(&context.clean()))?;
            daemon.wait_for_route(context, context.prefix)?;
            peer.send(&wire::message(ROUTE_REFRESH, &[0, 1, 1, 1]))?;
            peer.send_sentinel(context)?;
            peer.send(&wire::message(ROUTE_REFRESH, &[0, 1, 2, 1]))?;
            crate::daemon::poll(|| {
                let stale = daemon.routes(context, context.prefix)?;
                ensure!(stale.is_empty(), "not repeated, still there: {stale:?}");
                Ok(())
            })?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
    ]
}

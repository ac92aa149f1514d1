//! The peer restarts: RFC 4724 as the one that helps, RFC 8538 (NOTIFICATIONs survived, hard reset).

use std::net::Shutdown;

use anyhow::ensure;

use crate::case::{Case, Context, free};
use crate::daemon::PeerKind::External;
use crate::daemon::{Daemon, Peer, poll};
use crate::special::with_capability;
use crate::wire::{self, OpenFields};

/// Restart State.
const R: u8 = 0x80;
/// NOTIFICATIONs are survived (RFC 8538).
const N: u8 = 0x40;
/// Forwarding State preserved.
const F: u8 = 0x80;

/// The usual OPEN with graceful restart for IPv4.
fn open(context: &Context, flags: u8, seconds: u8, family: u8) -> OpenFields {
    with_capability(context.usual_open(), 64, &[flags, seconds, 0, 1, 1, family])
}

fn establish(daemon: &Daemon, context: &Context, open: &OpenFields) -> anyhow::Result<Peer> {
    poll(|| Peer::establish(context.address, daemon.address(), open))
}

fn announce_both(daemon: &Daemon, context: &Context, open: &OpenFields) -> anyhow::Result<Peer> {
    let mut peer = establish(daemon, context, open)?;
    peer.send(&context.announce(&context.clean()))?;
    peer.send_sentinel(context)?;
    peer.send(&end_of_rib())?;
    daemon.wait_for_route(context, context.prefix)?;
    daemon.wait_for_route(context, context.sentinel)?;
    Ok(peer)
}

fn end_of_rib() -> Vec<u8> {
    wire::update(&[], &[], &[])
}

fn stale(daemon: &Daemon, context: &Context) -> anyhow::Result<()> {
    poll(|| {
        for prefix in [context.prefix, context.sentinel] {
            let routes = daemon.routes(context, prefix)?;
            ensure!(routes.len() == 1 && routes[0]["stale"] == true, "not stale: {routes:?}");
        }
        let shown = daemon.peer(context)?;
        ensure!(shown["state"] != "Established", "{shown}");
        Ok(())
    })
}

fn gone(daemon: &Daemon, context: &Context) -> anyhow::Result<()> {
    poll(|| {
        for prefix in [context.prefix, context.sentinel] {
            let routes = daemon.routes(context, prefix)?;
            ensure!(routes.is_empty(), "still there: {routes:?}");
        }
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        free("rfc4724_4_2_routes_stay_and_end_of_rib_sweeps", External, |daemon, context| {
            let peer = announce_both(daemon, context, &open(context, 0, 60, F))?;
            peer.stream().shutdown(Shutdown::Both)?;
            stale(daemon, context)?;
            let mut peer = establish(daemon, context, &open(context, R, 60, F))?;
            peer.send_sentinel(context)?;
            poll(|| {
                let routes = daemon.routes(context, context.sentinel)?;
                ensure!(routes.len() == 1 && routes[0]["stale"] == false, "{routes:?}");
                let routes = daemon.routes(context, context.prefix)?;
                ensure!(routes.len() == 1 && routes[0]["stale"] == true, "{routes:?}");
                Ok(())
            })?;
            peer.send(&end_of_rib())?;
            poll(|| {
                let routes = daemon.routes(context, context.prefix)?;
                ensure!(routes.is_empty(), "not repeated, and still there: {routes:?}");
                Ok(())
            })?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("rfc4724_4_2_restart_time_ends_it", External, |daemon, context| {
            let peer = announce_both(daemon, context, &open(context, 0, 1, F))?;
            peer.stream().shutdown(Shutdown::Both)?;
            gone(daemon, context)
        }),
        free("rfc4724_4_2_forwarding_not_preserved_clears_at_once", External, |daemon, context| {
            let peer = announce_both(daemon, context, &open(context, 0, 60, F))?;
            peer.stream().shutdown(Shutdown::Both)?;
            stale(daemon, context)?;
            let _peer = establish(daemon, context, &open(context, R, 60, 0))?;
            gone(daemon, context)
        }),
        free(
            "rfc4724_4_2_family_missing_afterwards_clears_at_once",
            External,
            |daemon, context| {
                let peer = announce_both(daemon, context, &open(context, 0, 60, F))?;
                peer.stream().shutdown(Shutdown::Both)?;
                stale(daemon, context)?;
                let _peer = establish(daemon, context, &context.usual_open())?;
                gone(daemon, context)
            },
        ),
        free("rfc4724_without_the_capability_routes_go_at_once", External, |daemon, context| {
            let peer = announce_both(daemon, context, &context.usual_open())?;
            peer.stream().shutdown(Shutdown::Both)?;
            gone(daemon, context)
        }),
        free("rfc4724_4_notification_without_the_n_bit_clears", External, |daemon, context| {
            let mut peer = announce_both(daemon, context, &open(context, 0, 60, F))?;
            peer.send(&wire::message(wire::NOTIFICATION, &[6, 4]))?;
            gone(daemon, context)
        }),
        // We offer RFC 8538 inside the mesh only, so here the peer's N bit alone changes nothing.
        free("rfc8538_3_n_bit_of_one_side_alone_clears", External, |daemon, context| {
            let mut peer = announce_both(daemon, context, &open(context, N, 60, F))?;
            peer.send(&wire::message(wire::NOTIFICATION, &[6, 4]))?;
            gone(daemon, context)
        }),
        free("rfc8538_3_1_hard_reset_clears", External, |daemon, context| {
            let mut peer = announce_both(daemon, context, &open(context, N, 60, F))?;
            peer.send(&wire::message(wire::NOTIFICATION, &[6, 9, 6, 3]))?;
            gone(daemon, context)
        }),
    ]
}

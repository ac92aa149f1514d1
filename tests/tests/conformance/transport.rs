//! What TCP can do to messages, and strangers to a speaker: bounded cost, no harm to others.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};

use crate::case::{Case, Expect, established, free};
use crate::daemon::PeerKind::External;
use crate::daemon::{Peer, poll};
use crate::wire;

pub fn cases() -> Vec<Case> {
    vec![
        free("one_octet_at_a_time", External, |daemon, context| {
            let mut peer = daemon.connect(context)?;
            for octet in context.usual_open().encode() {
                peer.send(&[octet])?;
            }
            peer.finish_open()?;
            for octet in context.announce(&context.clean()) {
                peer.send(&[octet])?;
            }
            daemon.wait_for_route(context, context.prefix).map(drop)
        }),
        free("messages_cut_at_every_boundary", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            let announce = context.announce(&context.clean());
            for cut in 0..announce.len() {
                let (front, back) = announce.split_at(cut);
                peer.send(front)?;
                // A KEEPALIVE's worth of acknowledgement is not to be had: yield instead.
                std::thread::yield_now();
                peer.send(back)?;
            }
            daemon.wait_for_route(context, context.prefix).map(drop)
        }),
        established("flood_of_keepalives", External, Expect::Up, |_| {
            wire::keepalive().repeat(100_000)
        }),
        established("thousands_of_announcements_in_one_write", External, Expect::Up, |context| {
            context.announce(&context.clean()).repeat(5_000)
        }),
        free("strangers_are_closed_and_do_no_harm", External, |daemon, context| {
            for number in 0..2_000u16 {
                let [high, low] = (number + 1).to_be_bytes();
                let mut stranger =
                    Peer::connect(Ipv4Addr::new(127, 14, high, low), daemon.address())?;
                if number % 100 == 0 {
                    stranger.expect_closed().context("a stranger")?;
                }
            }
            let mut peer = daemon.establish(context)?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("half_open_connection_does_not_block_the_peer", External, |daemon, context| {
            let _silent = daemon.connect(context)?;
            let mut peer = poll(|| daemon.establish(context))?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("connection_closed_in_the_middle_of_a_message", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            peer.send(&context.announce(&context.clean())[..30])?;
            drop(peer);
            poll(|| {
                let shown = daemon.peer(context)?;
                ensure!(shown["state"] != "Established", "{shown}");
                ensure!(!shown["lastError"].as_str().unwrap_or_default().is_empty(), "{shown}");
                Ok(())
            })
        }),
        free("second_connection_while_established_is_refused", External, |daemon, context| {
            let mut first = daemon.establish(context)?;
            let mut second = daemon.connect(context)?;
            // What answers is Cease/Connection Collision Resolution (RFC 4271 §6.8), at the latest
            // when our OPEN has come.
            let _ = second.send(&context.usual_open().encode());
            second.expect_notification(6, 7, None)?;
            first.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("peer_that_comes_back_at_once_comes_up", External, |daemon, context| {
            for _ in 0..3 {
                let peer = poll(|| daemon.establish(context))?;
                drop(peer);
            }
            let mut peer = poll(|| daemon.establish(context))?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("connection_from_another_port_range_is_the_same_peer", External, |daemon, context| {
            let peer = Peer::establish(context.address, daemon.address(), &context.usual_open())?;
            let port = peer.stream().local_addr()?.port();
            let shown = poll(|| {
                let shown = daemon.peer(context)?;
                ensure!(shown["state"] == "Established", "{shown}");
                Ok(shown)
            })?;
            ensure!(shown.to_string().contains(&port.to_string()), "port {port} in {shown}");
            Ok(())
        }),
    ]
}

//! What protects a speaker: maximum prefixes (RFC 4486), TTL security (RFC 5082), TCP MD5 (RFC 2385),
//! the hold timer (RFC 4271 §6.5), messages of 65535 octets (RFC 8654), and a peer that does not read.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::case::{Case, free};
use crate::daemon::PeerKind::External;
use crate::daemon::{Dial, poll};
use crate::special::{KEY, LIMITED, MD5, NEAR, QUICK, SLOW};
use crate::wire::{self, attribute};

pub fn cases() -> Vec<Case> {
    let mut cases = protections();
    cases.extend(extended_messages());
    cases.push(free("zero_window_of_one_peer_harms_no_other", External, zero_window));
    cases
}

fn protections() -> Vec<Case> {
    vec![
        free("rfc4486_maximum_prefixes_cease_6_1", External, |daemon, context| {
            let [_, high, low, _] = context.prefix.octets();
            let prefix = |number: u8| Ipv4Addr::new(22 + number, high, low, 0);
            let mut peer = LIMITED.establish(daemon, &LIMITED.open())?;
            let mut announce = |number| {
                let attributes = wire::encode_all(&context.clean());
                peer.send(&wire::update(&[], &attributes, &wire::nlri(prefix(number))))
            };
            for number in [0, 1, 2, 2, 0] {
                announce(number)?;
            }
            for number in 0..3 {
                LIMITED.route(daemon, prefix(number)).context("as many as it may have")?;
            }
            announce(3)?;
            // Family and limit (RFC 4486 §4).
            peer.expect_notification(6, 1, Some(&[0, 1, 1, 0, 0, 0, 3]))?;
            poll(|| {
                let shown = daemon.peer_named(LIMITED.name)?;
                let error = shown["lastError"].as_str().unwrap_or_default();
                ensure!(error.contains('3') && shown["received"] == 0, "{shown}");
                Ok(())
            })
        }),
        free("rfc5082_far_peer_does_not_come_up_and_a_near_one_does", External, |daemon, _| {
            for far in [64, 254] {
                let mut peer =
                    daemon.dial(&Dial { ttl: Some(far), ..Dial::from(NEAR.address()) })?;
                // In one write, to be there before the daemon can set anything on the connection.
                let octets = [NEAR.open().encode(), wire::keepalive()].concat();
                let _ = peer.send(&octets);
                for _ in 0..20 {
                    let shown = daemon.peer_named(NEAR.name)?;
                    ensure!(shown["state"] != "Established", "up with TTL {far}: {shown}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            poll(|| {
                let mut peer =
                    daemon.dial(&Dial { ttl: Some(255), ..Dial::from(NEAR.address()) })?;
                peer.send(&NEAR.open().encode())?;
                peer.finish_open()?;
                poll(|| {
                    let shown = daemon.peer_named(NEAR.name)?;
                    ensure!(shown["state"] == "Established", "{shown}");
                    Ok(())
                })
            })
        }),
        free("rfc2385_passive_peer_needs_the_right_key", External, |daemon, context| {
            let patience = Duration::from_millis(700);
            let from = Dial { patience, ..Dial::from(MD5.address()) };
            if daemon.dial(&from).is_ok() {
                bail!("connected without a key");
            }
            if daemon.dial(&Dial { key: Some(b"a wrong key"), ..from }).is_ok() {
                bail!("connected with a wrong key");
            }
            let right = Dial { key: Some(KEY.as_bytes()), ..Dial::from(MD5.address()) };
            let mut peer = daemon.dial(&right).context("with the right key")?;
            peer.send(&MD5.open().encode())?;
            peer.finish_open()?;
            peer.send(&context.announce(&context.clean()))?;
            MD5.route(daemon, context.prefix).map(drop)
        }),
        free("rfc2385_key_where_none_is_configured", External, |daemon, context| {
            let dial = Dial {
                key: Some(KEY.as_bytes()),
                patience: Duration::from_millis(700),
                ..Dial::from(context.address)
            };
            ensure!(daemon.dial(&dial).is_err(), "connected with a key that nobody knows");
            let mut peer = daemon.establish(context)?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel).map(drop)
        }),
        free("rfc4271_6_5_hold_timer_expires", External, |daemon, context| {
            let mut open = context.usual_open();
            open.hold_time = 3;
            let mut peer = daemon.connect(context)?;
            peer.send(&open.encode())?;
            peer.finish_open()?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel)?;
            // We say nothing more; the KEEPALIVEs of the other side are passed over.
            peer.expect_notification(4, 0, None)?;
            poll(|| {
                let routes = daemon.routes(context, context.sentinel)?;
                ensure!(routes.is_empty(), "its routes are still there: {routes:?}");
                Ok(())
            })
        }),
        free(
            "rfc4271_4_4_keepalives_come_at_a_third_of_the_hold_time",
            External,
            |daemon, context| {
                let mut open = context.usual_open();
                open.hold_time = 3;
                let mut peer = daemon.connect(context)?;
                peer.send(&open.encode())?;
                peer.finish_open()?;
                for number in 0..4 {
                    let limit = Duration::from_millis(2500);
                    let came = peer.read_message_within(limit)?.context("no KEEPALIVE came")?;
                    let (kind, _) = came.context("closed")?;
                    ensure!(
                        matches!(kind, wire::KEEPALIVE | wire::UPDATE),
                        "{number}: type {kind}"
                    );
                    peer.send(&wire::keepalive())?;
                }
                let shown = daemon.peer(context)?;
                ensure!(shown["negotiated"]["holdTimeSeconds"] == 3, "{shown}");
                Ok(())
            },
        ),
        free("rfc9003_text_of_disable_and_reset_is_sent", External, |daemon, context| {
            for (verb, subcode, text) in
                [("reset", 4, "back in a moment"), ("disable", 2, "gone for today: \u{fc}")]
            {
                let mut peer = poll(|| daemon.establish(context))?;
                daemon.act(verb, &format!("external-{}", context.number), text)?;
                let mut data = vec![u8::try_from(text.len())?];
                data.extend(text.as_bytes());
                peer.expect_notification(6, subcode, Some(&data)).context(verb)?;
            }
            daemon.enable(&format!("external-{}", context.number))?;
            poll(|| daemon.establish(context)).map(drop)
        }),
    ]
}

fn extended_messages() -> Vec<Case> {
    vec![
        free("rfc8654_message_of_60000_octets_is_accepted", External, |daemon, context| {
            let open = crate::special::with_capability(context.usual_open(), 6, &[]);
            let mut peer = daemon.connect(context)?;
            peer.send(&open.encode())?;
            peer.finish_open()?;
            let junk = attribute(wire::OPTIONAL_TRANSITIVE | 0x10, 211, &vec![7; 59_900]);
            let message = context.announce_with(junk);
            ensure!(message.len() > 59_900, "the message is short");
            peer.send(&message)?;
            daemon.wait_for_route(context, context.prefix)?;
            // One who has not negotiated it cannot be told (RFC 8654 §4), and is none the worse.
            peer.send_sentinel(context)?;
            daemon.witness_gets(context.sentinel)?;
            ensure!(!daemon.witness_got(context.prefix), "the witness was told");
            let shown = daemon.peer(context)?;
            ensure!(shown["negotiated"]["extendedMessage"] == true, "{shown}");
            Ok(())
        }),
        free("rfc8654_keepalive_is_never_longer_than_19", External, |daemon, context| {
            let open = crate::special::with_capability(context.usual_open(), 6, &[]);
            let mut peer = daemon.connect(context)?;
            peer.send(&open.encode())?;
            peer.finish_open()?;
            peer.send(&wire::message(wire::KEEPALIVE, &[0; 5000]))?;
            peer.expect_notification(1, 2, Some(&5019u16.to_be_bytes()))
        }),
    ]
}

/// A peer stops reading while everything changes several times: another gets the last state, the
/// slow one stays Established, and what waits for it never exceeds the table.
fn zero_window(
    daemon: &crate::daemon::Daemon,
    context: &crate::case::Context,
) -> anyhow::Result<()> {
    const PREFIXES: u16 = 2_000;
    const ROUNDS: u8 = 40;
    let slow = poll(|| {
        let dial = Dial { receive_buffer: Some(4096), ..Dial::from(SLOW.address()) };
        let mut slow = daemon.dial(&dial)?;
        slow.send(&SLOW.open().encode())?;
        slow.finish_open()?;
        Ok(slow)
    })?;
    let mut quick = QUICK.establish(daemon, &QUICK.open())?;
    let mut source = daemon.establish(context)?;
    let prefix = |number: u16| {
        let [high, middle] = number.to_be_bytes();
        Ipv4Addr::new(40, high, middle, 0)
    };
    let reads = std::thread::spawn(move || -> anyhow::Result<_> {
        // The last round is told by its MED.
        loop {
            let update = quick.expect_announcement(prefix(PREFIXES - 1))?;
            if update.windows(7).any(|window| window == [0x80, 4, 4, 0, 0, 0, ROUNDS]) {
                return Ok(quick);
            }
        }
    });
    let mut most = 0;
    for round in 1..=ROUNDS {
        let mut octets = Vec::new();
        for number in 0..PREFIXES {
            // Internal peers only: the witness is to be left alone. Every route has attributes of
            // its own, so that messages are many.
            let mut attributes = context.clean();
            attributes.push(attribute(wire::OPTIONAL, 4, &[0, 0, 0, round]));
            let mut communities = 0xffff_ff01u32.to_be_bytes().to_vec();
            communities.extend([1, 1]);
            communities.extend(number.to_be_bytes());
            attributes.push(attribute(wire::OPTIONAL_TRANSITIVE, 8, &communities));
            octets.extend(wire::update(
                &[],
                &wire::encode_all(&attributes),
                &wire::nlri(prefix(number)),
            ));
        }
        source.send(&octets)?;
        let pending = daemon.peer_named(SLOW.name)?["pending"].as_u64().unwrap_or_default();
        most = most.max(pending);
    }
    let _quick = reads.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let shown = daemon.peer_named(SLOW.name)?;
    ensure!(shown["state"] == "Established" && shown["flaps"] == 0, "{shown}");
    // Routes of other cases reach it too; theirs are few.
    ensure!(most > 0, "nothing ever waited: its window was never closed");
    ensure!(most < u64::from(PREFIXES) * 2, "{most} prefixes waited");
    source.send_sentinel(context)?;
    daemon.wait_for_route(context, context.sentinel)?;
    drop(slow);
    Ok(())
}

//! Two connections at once: RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5.

use routelet_proto::{CeaseSubcode, ErrorCode};

use super::pair::Pair;
use super::*;
use crate::core::peer::DownReason;

const MS: Duration = Duration::from_millis(1);

#[test]
fn simultaneous_start_leaves_one_session_whatever_the_latencies() {
    for there in [1, 2, 3, 5, 11] {
        for back in [1, 2, 4, 7, 11] {
            for head_start in 0..30 {
                let mut pair = Pair::new(|_, _| {});
                pair.latency = [there * MS, back * MS];
                pair.sides[0].start(pair.now);
                pair.run(head_start * MS);
                pair.sides[1].start(pair.now);
                let took = pair.run_until_up(Duration::from_secs(2));
                assert!(took < 200 * MS, "{there} {back} {head_start}: {took:?}");
                // Nothing else happens afterwards.
                pair.run(Duration::from_secs(30));
                assert!(pair.is_up());
                assert_eq!(pair.sides.each_ref().map(Session::state), [State::Established; 2]);
            }
        }
    }
}

#[test]
fn a_simultaneous_start_with_graceful_restart_is_no_restart() {
    for there in [1, 2, 3, 5, 11] {
        for back in [1, 2, 4, 7, 11] {
            for head_start in 0..30 {
                let mut pair = Pair::new(|_, config| {
                    *config = with_graceful_restart(config.clone(), true);
                });
                pair.latency = [there * MS, back * MS];
                pair.sides[0].start(pair.now);
                pair.run(head_start * MS);
                pair.sides[1].start(pair.now);
                pair.run_until_up(Duration::from_secs(2));
                let replaced = |side: usize| {
                    pair.downs[side].iter().any(|down| down.reason == DownReason::Replaced)
                };
                assert!(!replaced(0) && !replaced(1), "{there} {back} {head_start}");
            }
        }
    }
}

#[test]
fn the_connection_of_the_higher_identifier_stays() {
    for (ids, keeps_outgoing) in [
        ([[10, 0, 0, 1], [10, 0, 0, 2]], [false, true]),
        ([[10, 0, 0, 3], [10, 0, 0, 2]], [true, false]),
        // Equal identifiers: AS 65002 is larger than 65001.
        ([[10, 0, 0, 9], [10, 0, 0, 9]], [false, true]),
    ] {
        let mut pair = Pair::with_speakers(ids.map(local), |_, _| {});
        pair.start();
        pair.run_until_up(Duration::from_secs(1));
        // Both connect at once, so the first number of each side is its own attempt.
        let outgoing = [0, 1].map(|side: usize| pair.current[side] == Some(ConnectionId(0)));
        assert_eq!(outgoing, keeps_outgoing, "{ids:?}");
        assert_eq!(pair.ups.each_ref().map(Vec::len), [1, 1]);
    }
}

/// In Established without graceful restart the new connection goes (RFC 4271 §6.8), and the old
/// one is probed.
#[test]
fn a_second_connection_to_an_established_session_is_closed() {
    let mut bench = Bench::new(peer(LOCAL_AS, REMOTE_AS));
    bench.establish();
    bench.now += Duration::from_secs(5);
    let second = bench.session.handle_incoming(bench.now, endpoints());
    bench.open(second);
    let outputs = bench.outputs();
    assert_eq!(brief(&outputs), "OPEN 6/7 close KEEPALIVE");
    assert_eq!(outputs[2], Output::Close(second));
    assert_eq!(bench.session.state(), State::Established);
    assert_eq!(bench.last_error(), "", "a dropped second connection is no error of the session");
}

#[test]
fn with_graceful_restart_a_later_connection_takes_over() {
    let mut bench = Bench::new(with_graceful_restart(peer(LOCAL_AS, REMOTE_AS), false));
    let first = bench.establish();
    bench.now += Duration::from_secs(5);
    let second = bench.session.handle_incoming(bench.now, endpoints());
    assert_eq!(brief(&bench.outputs()), "OPEN", "a connection alone proves nothing");
    bench.open(second);
    let outputs = bench.outputs();
    // RFC 4724 §4.2: no NOTIFICATION.
    assert_eq!(brief(&outputs), "close down+retain KEEPALIVE");
    assert_eq!(outputs[0], Output::Close(first));
    let Output::PeerDown(down) = &outputs[1] else { panic!("{outputs:?}") };
    assert_eq!(down.reason, DownReason::Replaced);
    assert_eq!(down.retain, Some((FamilySet::ALL, 120)));
    bench.message(second, Message::Keepalive);
    assert_eq!(brief(&bench.outputs()), "up");
    // What is still read from the old one is nobody's.
    bench.message(first, Message::Keepalive);
    bench.session.handle_closed(bench.now, first, "closed".to_owned());
    assert_eq!(bench.session.state(), State::Established);
}

#[test]
fn an_invalid_open_does_not_take_over() {
    let mut bench = Bench::new(with_graceful_restart(peer(LOCAL_AS, REMOTE_AS), true));
    bench.establish();
    bench.now += Duration::from_secs(5);
    let second = bench.session.handle_incoming(bench.now, endpoints());
    let mut open = open_from(&bench.session, [10, 0, 0, 2]);
    open.asn = Asn(65999);
    bench.message(second, Message::Open(open));
    assert_eq!(brief(&bench.outputs()), "OPEN 2/2 close");
    assert_eq!(bench.session.state(), State::Established);
}

/// Our session is up on one connection when the peer's OPEN comes on another that is older than
/// the session and should win. Perhaps the peer closes the first: then the second goes on. Perhaps
/// it does not: then the second goes away, and nothing was lost.
#[test]
fn a_collision_that_is_the_peers_to_settle_waits_for_it() {
    for peer_closes_first in [true, false] {
        let mut bench = Bench::new(peer(LOCAL_AS, REMOTE_AS));
        let first = bench.connect();
        let second = bench.session.handle_incoming(bench.now, endpoints());
        bench.session.handle_connected(bench.now, first, endpoints());
        bench.now += Duration::from_millis(3);
        bench.open(first);
        bench.message(first, Message::Keepalive);
        assert_eq!(bench.session.state(), State::Established);
        bench.outputs();
        // The peer's identifier is higher, so its connection, the second, should stay.
        bench.open(second);
        assert_eq!(brief(&bench.outputs()), "");
        if peer_closes_first {
            let cease = ErrorCode::Cease(CeaseSubcode::ConnectionCollisionResolution);
            bench.message(first, Message::Notification(Notification::new(cease)));
            assert_eq!(brief(&bench.outputs()), "close down KEEPALIVE");
            bench.message(second, Message::Keepalive);
            assert_eq!(brief(&bench.outputs()), "up");
        } else {
            // What slows our own reading down meanwhile does not prolong the wait.
            bench.session.handle_read_paused(bench.now, second, true);
            bench.session.handle_read_paused(bench.now, second, false);
            bench.session.handle_octets_waiting(bench.now, second);
            bench.run(Duration::from_secs(6));
            assert_eq!(brief(&bench.outputs()), "6/7 close");
            assert_eq!(bench.session.state(), State::Established);
        }
    }
}

#[test]
fn a_peer_that_connects_again_has_lost_its_first_connection() {
    let mut bench = Bench::new(PeerConfig { passive: true, ..peer(LOCAL_AS, REMOTE_AS) });
    bench.session.start(bench.now);
    let first = bench.session.handle_incoming(bench.now, endpoints());
    let second = bench.session.handle_incoming(bench.now, endpoints());
    let outputs = bench.outputs();
    assert_eq!(brief(&outputs), "OPEN OPEN 6/7 close");
    assert_eq!(outputs[3], Output::Close(first));
    bench.open(second);
    bench.message(second, Message::Keepalive);
    assert_eq!(bench.session.state(), State::Established);
}

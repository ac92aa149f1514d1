//! Timers, back-off, stopping and coming back.

use bytes::BytesMut;
use routelet_proto::update::pack_end_of_rib;
use routelet_proto::{
    CeaseSubcode, EncodeContext, ErrorCode, Family, Issue, OpenSubcode, Treatment, Update,
};

use super::pair::Pair;
use super::*;
use crate::core::peer::DownReason;
use crate::core::session::{Stop, Timer};

const SECOND: Duration = Duration::from_secs(1);

fn external() -> PeerConfig {
    peer(LOCAL_AS, REMOTE_AS)
}

fn short_hold(seconds: u16) -> PeerConfig {
    PeerConfig { hold_time: HoldTime::new(seconds).unwrap(), ..external() }
}

#[test]
fn nodes_that_start_apart_find_each_other_at_once() {
    for apart in [0, 10, 500, 3_000, 20_000, 120_000] {
        let mut pair = Pair::new(|_, _| {});
        pair.listening[1] = false;
        pair.sides[0].start(pair.now);
        pair.run(Duration::from_millis(apart));
        pair.listening[1] = true;
        pair.sides[1].start(pair.now);
        let took = pair.run_until_up(SECOND);
        assert!(took < Duration::from_millis(50), "{apart} ms apart: {took:?}");
    }
}

#[test]
fn only_a_passive_side_waits() {
    let mut pair = Pair::new(|side, config| config.passive = side == 0);
    pair.sides[0].start(pair.now);
    pair.run(60 * SECOND);
    assert!(pair.attempts[0].is_empty());
    assert_eq!(pair.sides[0].state(), State::Active);
    let words = pair.sides[0].view().last_error.unwrap().0;
    assert_eq!(words, "waiting for 10.0.0.2 to connect (passive: we do not)");
    pair.sides[1].start(pair.now);
    pair.run_until_up(SECOND);
}

#[test]
fn refused_connections_are_retried_soon_then_less_often() {
    let mut pair = Pair::new(|_, _| {});
    pair.listening[1] = false;
    pair.sides[0].start(pair.now);
    pair.run(300 * SECOND);
    let gaps: Vec<_> =
        pair.attempts[0].windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    assert!((0.7..=1.1).contains(&gaps[0]), "{gaps:?}");
    assert!((1.5..=2.1).contains(&gaps[1]), "{gaps:?}");
    // connectRetryTime is 30 s, 75 to 100 % of it.
    assert!(gaps[6..].iter().all(|gap| (22.4..=30.1).contains(gap)), "{gaps:?}");
    assert_eq!(pair.sides[0].state(), State::Active);
    assert_eq!(pair.sides[0].view().last_error.unwrap().0, "connection refused");
}

#[test]
fn an_attempt_without_an_answer_is_given_up_with_the_right_words() {
    let mut bench = Bench::new(PeerConfig {
        password: Some(crate::core::config::Password(b"secret".as_slice().into())),
        ..external()
    });
    let first = bench.connect();
    bench.run(5 * SECOND);
    let outputs = bench.outputs();
    assert_eq!(brief(&outputs), "close failed connect");
    assert_eq!(outputs[0], Output::Close(first));
    assert_eq!(
        bench.last_error(),
        "connection to 10.0.0.2 port 179 timed out; check reachability, and that the password is \
         the same on both sides"
    );
    bench.run(600 * SECOND);
    let attempts = brief(&bench.outputs()).matches("connect").count();
    assert!((15..=35).contains(&attempts), "{attempts} attempts in ten minutes");
}

#[test]
fn a_broken_peer_is_retried_ever_more_slowly() {
    let mut pair = Pair::new(|side, config| {
        // Side 1 takes side 0 for another AS.
        if side == 1 {
            config.remote_as = Asn(64999);
            config.passive = true;
        }
    });
    pair.start();
    pair.run(600 * SECOND);
    let gaps: Vec<_> =
        pair.attempts[0].windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    for (gap, expected) in gaps.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
        assert!((expected * 0.74..=expected * 1.01 + 0.01).contains(gap), "{gaps:?}");
    }
    assert!(gaps.len() < 20, "{gaps:?}");
    assert_eq!(
        pair.sides[0].view().last_error.unwrap().0,
        "received OPEN Message Error/Bad Peer AS (2/2)"
    );
    assert_eq!(
        pair.sides[1].view().last_error.unwrap().0,
        "sent OPEN Message Error/Bad Peer AS (2/2): peer's AS is 65001, configured asNumber is \
         64999"
    );
}

#[test]
fn idle_hold_starts_over_once_a_session_stayed_up() {
    for (uptime, expected) in [(SECOND, 2.0), (31 * SECOND, 1.0)] {
        let mut bench = Bench::new(external());
        let id = bench.establish();
        bench.session.handle_closed(bench.now, id, "connection reset by peer".to_owned());
        bench.run(2 * SECOND);
        let id = bench.expect_connect();
        bench.session.handle_connected(bench.now, id, endpoints());
        bench.open(id);
        bench.message(id, Message::Keepalive);
        bench.now += uptime;
        bench.session.handle_closed(bench.now, id, "connection reset by peer".to_owned());
        let wait = (bench.session.poll_timeout().unwrap() - bench.now).as_secs_f64();
        assert!((expected * 0.75..=expected).contains(&wait), "{uptime:?} {wait}");
        assert_eq!(bench.session.view().flaps, 2);
    }
}

#[test]
fn a_peer_may_connect_while_we_wait_out_idle_hold() {
    let mut bench = Bench::new(external());
    let id = bench.establish();
    bench.session.handle_closed(bench.now, id, "connection reset by peer".to_owned());
    assert_eq!(bench.session.state(), State::Idle);
    bench.outputs();
    let id = bench.session.handle_incoming(bench.now, endpoints());
    bench.open(id);
    bench.message(id, Message::Keepalive);
    assert_eq!(brief(&bench.outputs()), "OPEN KEEPALIVE up");
    // The pause is over, nothing connects any more.
    bench.run(20 * SECOND);
    assert_eq!(brief(&bench.outputs()), "");
}

#[test]
fn keepalives_keep_a_session_up_for_hours() {
    for seconds in [3, 9, 90] {
        let mut pair = Pair::new(|_, config| config.hold_time = HoldTime::new(seconds).unwrap());
        pair.start();
        pair.run_until_up(SECOND);
        pair.run(3600 * SECOND);
        assert!(pair.is_up());
        assert_eq!(pair.downs.each_ref().map(Vec::len), [0, 0]);
        let sent = pair.sides[0].view().counters.sent[3] as f64;
        let most = 3600.0 / f64::from(seconds / 3) / 0.75;
        assert!((most * 0.75..=most * 1.01 + 3.0).contains(&sent), "hold {seconds}: {sent}");
    }
}

/// RFC 4271 §10 lets a KEEPALIVE go anywhere between 75 and 100 % of the interval.
#[test]
fn a_keepalive_goes_with_the_peers_when_its_time_has_come() {
    let mut bench = Bench::new(external());
    let id = bench.establish();
    let sent = bench.now;
    bench.now = sent + 22 * SECOND;
    bench.message(id, Message::Keepalive);
    assert_eq!(brief(&bench.outputs()), "", "73 % of 30 s");
    bench.now = sent + Duration::from_millis(22_500);
    bench.message(id, Message::Keepalive);
    assert_eq!(brief(&bench.outputs()), "KEEPALIVE");
    bench.message(id, Message::Keepalive);
    assert_eq!(brief(&bench.outputs()), "", "one is enough");
    // The peer's next is waited for, and no longer than the interval.
    let sent = bench.now;
    assert_eq!(bench.session.poll_timeout(), Some(sent + 30 * SECOND));
    bench.run(30 * SECOND);
    assert_eq!(brief(&bench.outputs()), "KEEPALIVE");
    let next = bench.session.poll_timeout().unwrap() - bench.now;
    assert!(next < 30 * SECOND, "nobody to wait for: jitter, {next:?}");
}

#[test]
fn two_ends_at_rest_send_their_keepalives_together() {
    let mut pair = Pair::new(|_, config| config.hold_time = HoldTime::new(90).unwrap());
    pair.start();
    pair.run_until_up(SECOND);
    // Until the first one that both could send at once.
    pair.run(300 * SECOND);
    for _ in 0..1000 {
        let count = |pair: &Pair, side: usize| pair.sides[side].view().counters.sent[3];
        let before = [count(&pair, 0), count(&pair, 1)];
        while count(&pair, 0) == before[0] {
            pair.run(Duration::from_millis(10));
        }
        pair.run(Duration::from_millis(10));
        assert_eq!([count(&pair, 0), count(&pair, 1)], before.map(|sent| sent + 1));
    }
}

#[test]
fn a_hold_time_of_zero_means_no_keepalives_and_no_expiry() {
    let mut pair = Pair::new(|side, config| {
        config.hold_time = HoldTime::new(0).unwrap();
        config.passive = side == 1;
    });
    pair.start();
    pair.run_until_up(SECOND);
    assert_eq!(pair.sides.each_ref().map(|side| side.poll_timeout()), [None, None]);
    pair.run(86_400 * SECOND);
    assert!(pair.is_up());
    assert_eq!(pair.sides[0].view().counters.sent[3], 1, "the one that confirms the OPEN");
}

#[test]
fn silence_ends_a_session_after_the_hold_time() {
    let mut pair = Pair::new(|_, config| config.hold_time = HoldTime::new(9).unwrap());
    pair.start();
    pair.run_until_up(SECOND);
    pair.silence();
    pair.listening = [false; 2];
    pair.run(7 * SECOND);
    assert_eq!(pair.sides[0].state(), State::Established);
    pair.run(3 * SECOND);
    assert_ne!(pair.sides[0].state(), State::Established);
    assert_eq!(
        pair.downs[0][0].reason.to_string(),
        "sent Hold Timer Expired (4/0): nothing received for 9 s"
    );
}

#[test]
fn octets_of_an_unfinished_message_restart_the_hold_timer() {
    let mut bench = Bench::new(short_hold(9));
    let id = bench.establish();
    for _ in 0..10 {
        bench.run(8 * SECOND);
        bench.session.handle_received(bench.now, id, 1);
    }
    assert_eq!(bench.session.state(), State::Established);
    bench.run(10 * SECOND);
    assert_ne!(bench.session.state(), State::Established);
}

#[test]
fn octets_do_not_stretch_the_time_for_an_open() {
    let mut bench = Bench::new(external());
    let id = bench.connect();
    bench.session.handle_connected(bench.now, id, endpoints());
    for _ in 0..241 {
        bench.run(SECOND);
        bench.session.handle_received(bench.now, id, 1);
    }
    assert_ne!(bench.session.state(), State::OpenSent);
    assert_eq!(
        bench.last_error(),
        "sent Hold Timer Expired (4/0): the peer connected but sent no OPEN"
    );
}

#[test]
fn while_we_do_not_read_silence_proves_nothing() {
    let mut bench = Bench::new(short_hold(3));
    let id = bench.establish();
    bench.session.handle_read_paused(bench.now, id, true);
    bench.run(60 * SECOND);
    assert_eq!(bench.session.state(), State::Established);
    bench.session.handle_read_paused(bench.now, id, false);
    bench.run(2 * SECOND);
    assert_eq!(bench.session.state(), State::Established, "the hold time starts anew");
    bench.run(2 * SECOND);
    assert_ne!(bench.session.state(), State::Established);
}

#[test]
fn octets_that_wait_unread_put_the_expiry_off() {
    let mut bench = Bench::new(short_hold(3));
    let id = bench.establish();
    // The process was frozen for a minute.
    bench.now += 60 * SECOND;
    assert_eq!(bench.session.holds_due(bench.now).collect::<Vec<_>>(), [id]);
    bench.session.handle_octets_waiting(bench.now, id);
    bench.session.handle_timeout(bench.now);
    assert_eq!(bench.session.state(), State::Established);
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_after_the_send_hold_time() {
    let mut bench = Bench::new(external());
    let id = bench.establish();
    bench.session.handle_written(bench.now, id, 100, true);
    for _ in 0..47 {
        bench.run(10 * SECOND);
        // It sends, but does not read.
        bench.session.handle_received(bench.now, id, 19);
    }
    assert_eq!(bench.session.state(), State::Established, "RFC 9687: at least eight minutes");
    bench.run(11 * SECOND);
    assert_eq!(
        bench.last_error(),
        "sent Send Hold Timer Expired (8/0): the peer took nothing for 480 s"
    );

    let mut bench = Bench::new(external());
    let id = bench.establish();
    for _ in 0..100 {
        bench.session.handle_written(bench.now, id, 1, true);
        bench.session.handle_received(bench.now, id, 19);
        bench.run(60 * SECOND);
    }
    assert_eq!(bench.session.state(), State::Established, "slow is not dead");
    bench.session.handle_written(bench.now, id, 1, false);
    for _ in 0..100 {
        bench.session.handle_received(bench.now, id, 19);
        bench.run(60 * SECOND);
    }
    assert_eq!(bench.session.state(), State::Established, "nothing waits");
}

#[test]
fn routes_are_retained_as_graceful_restart_says() {
    let cease = |subcode| Notification::new(ErrorCode::Cease(subcode));
    let all = Some((FamilySet::ALL, 120));
    for (graceful, notification, end, retained) in [
        (false, false, DownReason::TcpConnectionFails("reset".into()), None),
        (true, false, DownReason::TcpConnectionFails("reset".into()), all),
        (
            true,
            false,
            DownReason::NotificationReceived(cease(CeaseSubcode::AdministrativeReset)),
            None,
        ),
        (
            true,
            true,
            DownReason::NotificationReceived(cease(CeaseSubcode::AdministrativeReset)),
            all,
        ),
        // RFC 8538 §3: a Hard Reset is meant.
        (true, true, DownReason::NotificationReceived(cease(CeaseSubcode::HardReset)), None),
    ] {
        let mut config = external();
        if graceful {
            config = with_graceful_restart(config, notification);
        }
        let mut bench = Bench::new(config);
        let id = bench.establish();
        match &end {
            DownReason::NotificationReceived(notification) => {
                bench.message(id, Message::Notification(notification.clone()));
            }
            _ => bench.session.handle_closed(bench.now, id, "reset".to_owned()),
        }
        let outputs = bench.outputs();
        let Some(Output::PeerDown(down)) = outputs.last() else { panic!("{outputs:?}") };
        assert_eq!((&down.reason, down.retain), (&end, retained));
    }
}

#[test]
fn hold_timer_expiry_retains_only_where_notifications_are_survived() {
    for (notification, retained) in [(false, None), (true, Some((FamilySet::ALL, 120)))] {
        let mut bench = Bench::new(with_graceful_restart(short_hold(3), notification));
        bench.establish();
        bench.run(4 * SECOND);
        let down = bench.outputs().into_iter().find_map(|output| match output {
            Output::PeerDown(down) => Some(down),
            _ => None,
        });
        assert_eq!(down.unwrap().retain, retained);
    }
}

#[test]
fn a_restart_is_silent_with_graceful_restart_only() {
    let mut bench = Bench::new(with_graceful_restart(external(), false));
    bench.establish();
    bench.session.stop(bench.now, Stop::Restart);
    let outputs = bench.outputs();
    assert_eq!(brief(&outputs), "close down");
    assert!(matches!(&outputs[1], Output::PeerDown(down) if down.reason == DownReason::Restarting));

    let mut bench = Bench::new(external());
    bench.establish();
    bench.session.stop(bench.now, Stop::Restart);
    assert_eq!(brief(&bench.outputs()), "6/2 close down");
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn a_stop_for_good_is_a_hard_reset_where_notifications_are_survived() {
    let mut bench = Bench::new(with_graceful_restart(external(), true));
    bench.establish();
    bench.session.stop(bench.now, Stop::Deconfigured);
    let outputs = bench.outputs();
    assert_eq!(brief(&outputs), "6/9 close down");
    let Output::Send(_, Message::Notification(sent)) = &outputs[0] else { panic!("{outputs:?}") };
    assert_eq!(sent.data[..], [6, 3]);
    assert_eq!(
        DownReason::NotificationReceived(sent.clone()).to_string(),
        "received Cease/Hard Reset (6/9) for Cease/Peer De-configured (6/3)"
    );
}

#[test]
fn a_stopped_session_refuses_and_says_why() {
    let mut bench = Bench::new(external());
    bench.establish();
    bench.session.stop(bench.now, Stop::Shutdown(String::new()));
    assert_eq!(brief(&bench.outputs()), "6/2 close down");
    assert_eq!(bench.last_error(), "sent Cease/Administrative Shutdown (6/2): disabled");
    bench.run(3600 * SECOND);
    bench.session.handle_incoming(bench.now, endpoints());
    assert_eq!(brief(&bench.outputs()), "6/5 close");
    assert_eq!(bench.session.view().counters.connections_refused, 1);
    bench.session.start(bench.now);
    assert_eq!(brief(&bench.outputs()), "connect");
}

#[test]
fn a_reset_by_hand_comes_back_at_once() {
    let mut bench = Bench::new(external());
    bench.establish();
    let reset = Notification::new(ErrorCode::Cease(CeaseSubcode::AdministrativeReset));
    bench.session.reset(bench.now, reset, "reset by an operator".to_owned());
    assert_eq!(brief(&bench.outputs()), "6/4 close down");
    bench.run(SECOND / 5);
    assert_eq!(brief(&bench.outputs()), "connect");
    assert_eq!(bench.last_error(), "sent Cease/Administrative Reset (6/4): reset by an operator");
}

#[test]
fn what_the_tables_refuse_waits_out_idle_hold() {
    let mut bench = Bench::new(with_graceful_restart(external(), true));
    bench.establish();
    let maximum = Notification::new(ErrorCode::Cease(CeaseSubcode::MaximumPrefixes));
    bench.session.reset(bench.now, maximum, "1001 prefixes, the limit is 1000".to_owned());
    // Routes beyond the limit must not be retained, so it is a Hard Reset.
    assert_eq!(brief(&bench.outputs()), "6/9 close down");
    bench.run(SECOND / 2);
    assert_eq!(brief(&bench.outputs()), "");
    bench.run(SECOND);
    assert_eq!(brief(&bench.outputs()), "connect");
}

#[test]
fn a_changed_configuration_resets_only_where_it_must() {
    let mut bench = Bench::new(external());
    bench.establish();
    bench.session.update_config(bench.now, Arc::new(external()), None);
    assert_eq!(brief(&bench.outputs()), "");
    let changed = Arc::new(short_hold(30));
    bench.session.update_config(bench.now, changed, Some("holdTime".to_owned()));
    assert_eq!(brief(&bench.outputs()), "6/6 close down");
    assert_eq!(
        bench.last_error(),
        "sent Cease/Other Configuration Change (6/6): configuration changed: holdTime"
    );
    let disabled = Arc::new(PeerConfig { enabled: false, ..external() });
    bench.session.update_config(bench.now, disabled, Some("enabled".to_owned()));
    bench.run(3600 * SECOND);
    assert_eq!(bench.session.state(), State::Idle);
    assert_eq!(bench.last_error(), "disabled: disabled in the configuration");
    bench.session.update_config(bench.now, Arc::new(external()), Some("enabled".to_owned()));
    bench.outputs();
    assert_eq!(bench.session.state(), State::Connect);
}

#[test]
fn a_corrected_configuration_is_tried_at_once() {
    let mut bench = Bench::new(PeerConfig { remote_as: Asn(64999), ..external() });
    for _ in 0..6 {
        let id = bench.expect_attempt();
        bench.session.handle_connected(bench.now, id, endpoints());
        let mut open = open_from(&bench.session, [10, 0, 0, 2]);
        open.asn = REMOTE_AS;
        bench.message(id, Message::Open(open));
    }
    assert_eq!(bench.session.state(), State::Idle);
    bench.outputs();
    bench.session.update_config(bench.now, Arc::new(external()), Some("asNumber".to_owned()));
    bench.run(SECOND / 5);
    assert_eq!(brief(&bench.outputs()), "connect");
}

#[test]
fn a_peer_that_refuses_optional_parameters_gets_an_open_without() {
    let mut bench = Bench::new(external());
    let id = bench.connect();
    bench.session.handle_connected(bench.now, id, endpoints());
    let refusal = ErrorCode::Open(OpenSubcode::UnsupportedOptionalParameter);
    bench.message(id, Message::Notification(Notification::new(refusal)));
    bench.run(2 * SECOND);
    let id = bench.expect_connect();
    bench.session.handle_connected(bench.now, id, endpoints());
    let outputs = bench.outputs();
    let Output::Send(_, Message::Open(open)) = &outputs[0] else { panic!("{outputs:?}") };
    assert!(open.capabilities.is_empty());
    let mut answer = open_from(&bench.session, [10, 0, 0, 2]);
    answer.capabilities.clear();
    bench.message(id, Message::Open(answer));
    bench.message(id, Message::Keepalive);
    assert_eq!(bench.session.state(), State::Established);
}

#[test]
fn graceful_restart_takes_over_a_dead_session() {
    let mut pair = Pair::new(|_, config| *config = with_graceful_restart(config.clone(), true));
    pair.start();
    pair.run_until_up(SECOND);
    pair.run(40 * SECOND);
    // Side 1 is killed, its host with it: nobody tells side 0.
    pair.crash(1, false);
    pair.run(3 * SECOND);
    assert_eq!(pair.sides[0].state(), State::Established);
    pair.sides[1].start(pair.now);
    let took = pair.run_until_up(SECOND);
    assert!(took < Duration::from_millis(20), "{took:?}");
    assert_eq!(pair.downs[0][0].reason, DownReason::Replaced);
    assert_eq!(pair.downs[0][0].retain, Some((FamilySet::ALL, 120)));
    assert_eq!(pair.ups[0].len(), 2);
}

#[test]
fn a_crashed_peer_that_comes_back_is_up_again_at_once() {
    let mut pair = Pair::new(|_, _| {});
    pair.start();
    pair.run_until_up(SECOND);
    pair.run(40 * SECOND);
    pair.crash(1, true);
    pair.run(Duration::from_millis(400));
    assert_eq!(pair.downs[0].len(), 1);
    pair.sides[1].start(pair.now);
    assert!(pair.run_until_up(SECOND) < Duration::from_millis(50));
}

#[test]
fn updates_come_in_batches_and_before_what_follows_them() {
    let mut bench = Bench::new(external());
    let id = bench.establish();
    for _ in 0..3 {
        bench.message(id, Message::Update(Update::default()));
    }
    bench.session.handle_closed(bench.now, id, "reset".to_owned());
    assert_eq!(brief(&bench.outputs()), "updates:3 close down");
    assert_eq!(bench.session.view().counters.received[1], 3);
}

#[test]
fn octets_become_events_wherever_they_are_cut() {
    let context = EncodeContext {
        four_octet_as: true,
        max_len: 4096,
        add_path: FamilySet::EMPTY,
        extended_next_hop: false,
    };
    let mut octets = BytesMut::new();
    let open = open_from(&Bench::new(external()).session, [10, 0, 0, 2]);
    for message in [Message::Open(open), Message::Keepalive, Message::Keepalive] {
        message.encode(&context, &mut octets);
    }
    pack_end_of_rib(Family::Ipv4Unicast, &mut octets);
    pack_end_of_rib(Family::Ipv6Unicast, &mut octets);
    for cut in 0..=octets.len() {
        let mut bench = Bench::new(external());
        let id = bench.connect();
        bench.session.handle_connected(bench.now, id, endpoints());
        let mut buffer = BytesMut::from(&octets[..cut]);
        bench.session.handle_octets(bench.now, id, cut, &mut buffer);
        buffer.extend_from_slice(&octets[cut..]);
        bench.session.handle_octets(bench.now, id, octets.len() - cut, &mut buffer);
        assert!(buffer.is_empty());
        let counters = bench.session.view().counters;
        assert_eq!(counters.received, [1, 2, 0, 2, 0], "cut at {cut}");
        assert_eq!(counters.octets_received, octets.len() as u64);
        // Behind a wrong header nothing is read any more.
        let mut buffer = BytesMut::from(&[0; 64][..]);
        bench.session.handle_octets(bench.now, id, 64, &mut buffer);
        assert!(brief(&bench.outputs()).ends_with("up updates:2 1/1 close down"));
    }
}

#[test]
fn updates_with_faults_are_counted_and_left_to_the_tables() {
    let mut bench = Bench::new(external());
    let id = bench.establish();
    let issue = |treatment| Issue {
        treatment,
        attribute: Some(14),
        offset: 23,
        detail: "MP_REACH_NLRI: made up".to_owned(),
    };
    let with =
        |treatment| Message::Update(Update { issues: vec![issue(treatment)], ..Update::default() });
    bench.message(id, with(Treatment::TreatAsWithdraw));
    bench.message(id, with(Treatment::AttributeDiscard));
    assert_eq!(brief(&bench.outputs()), "updates:2");
    bench.message(id, with(Treatment::DisableFamily(Family::Ipv6Unicast.afi_safi())));
    assert_eq!(brief(&bench.outputs()), "updates:1");
    let counters = bench.session.view().counters;
    assert_eq!((counters.treated_as_withdrawn, counters.attributes_discarded), (1, 1));
}

#[test]
fn view_always_has_a_reason_while_not_established() {
    let mut bench = Bench::new(external());
    assert_eq!(bench.last_error(), "disabled");
    let id = bench.connect();
    assert_eq!(bench.last_error(), "connecting to 10.0.0.2 port 179");
    bench.session.handle_connected(bench.now, id, endpoints());
    assert_eq!(bench.last_error(), "connected, waiting for the peer's OPEN");
    bench.open(id);
    assert_ne!(bench.last_error(), "");
    assert!(bench.session.view().negotiated.is_some());
    bench.message(id, Message::Keepalive);
    let view = bench.session.view();
    assert_eq!((view.last_error, view.state), (None, State::Established));
    assert!(view.timers[1].is_some() && view.timers[2].is_some());
    assert!(bench.session.timers.expiry(Timer::ConnectRetry).is_none());
}

impl Bench {
    /// Runs until there is an attempt to connect.
    fn expect_attempt(&mut self) -> ConnectionId {
        if self.session.state() == State::Idle && self.session.poll_timeout().is_none() {
            return self.connect();
        }
        let wait = self.session.poll_timeout().expect("a timer leads to the next attempt");
        self.run(wait - self.now);
        self.expect_connect()
    }
}

//! Graceful restart as the speaker that restarts (RFC 4724 §4.1): what OPENs say, and how a life ends.

use routelet_proto::{Capability, Family};

use super::*;
use crate::core::session::Stop;

const V4: FamilySet = FamilySet::EMPTY.with(Family::Ipv4Unicast);

fn bench(restarted: bool, forwarding: FamilySet) -> Bench {
    let now = epoch();
    let config = with_graceful_restart(peer(LOCAL_AS, REMOTE_AS), true);
    let speaker = LocalSpeaker { restarted, forwarding, ..(*local([10, 0, 0, 1])).clone() };
    Bench { now, session: Session::new(now, Arc::new(config), Arc::new(speaker), 1) }
}

impl Bench {
    /// R bit and families with the F bit of the OPEN that a new connection gets.
    fn restart_bits(&mut self, id: ConnectionId) -> (bool, FamilySet) {
        self.session.handle_connected(self.now, id, endpoints());
        let outputs = self.outputs();
        let open = outputs.iter().find_map(|output| match output {
            Output::Send(_, Message::Open(open)) => Some(open),
            _ => None,
        });
        let capability =
            open.unwrap().capabilities.iter().find_map(|capability| match capability {
                Capability::GracefulRestart { restarted, families, .. } => Some((
                    *restarted,
                    families
                        .iter()
                        .filter(|listed| listed.forwarding)
                        .filter_map(|listed| Family::try_from(listed.family).ok())
                        .collect(),
                )),
                _ => None,
            });
        capability.unwrap()
    }

    /// Ends the session by its connection, and gives the next attempt.
    fn lose(&mut self, id: ConnectionId) -> ConnectionId {
        self.session.handle_closed(self.now, id, "reset".to_owned());
        self.outputs();
        while self.session.state() == State::Idle {
            let next = self.session.poll_timeout().unwrap();
            self.now = next;
            self.session.handle_timeout(next);
        }
        self.expect_connect()
    }
}

#[test]
fn an_open_tells_of_the_restart_and_of_what_was_preserved() {
    for (restarted, forwarding) in
        [(false, FamilySet::EMPTY), (true, FamilySet::EMPTY), (true, V4), (true, FamilySet::ALL)]
    {
        let mut bench = bench(restarted, forwarding);
        let id = bench.connect();
        assert_eq!(bench.restart_bits(id), (restarted, forwarding));
    }
}

#[test]
fn a_session_lost_in_this_life_finds_forwarding_preserved() {
    // Also where nothing was found at the start: this life has forwarded since.
    let mut bench = bench(false, FamilySet::EMPTY);
    let id = bench.connect();
    assert_eq!(bench.restart_bits(id), (false, FamilySet::EMPTY));
    bench.open(id);
    bench.message(id, Message::Keepalive);
    let id = bench.lose(id);
    assert_eq!(bench.restart_bits(id), (false, FamilySet::ALL));
}

#[test]
fn a_restart_that_is_over_is_told_no_more() {
    let mut bench = bench(true, V4);
    let settled = Arc::new(bench.session.local.settled());
    bench.session.update_local(settled);
    let id = bench.connect();
    assert_eq!(bench.restart_bits(id), (false, FamilySet::ALL));
}

#[test]
fn a_restart_before_the_session_is_up_says_nothing_either() {
    for established in [false, true] {
        let mut bench = bench(true, FamilySet::ALL);
        let id = bench.connect();
        bench.session.handle_connected(bench.now, id, endpoints());
        bench.outputs();
        if established {
            bench.open(id);
            bench.outputs();
        }
        bench.session.stop(bench.now, Stop::Restart);
        assert_eq!(brief(&bench.outputs()), "close failed");
    }
    // Without graceful restart the peer holds nothing.
    let mut bench = Bench::new(peer(LOCAL_AS, REMOTE_AS));
    let id = bench.connect();
    bench.session.handle_connected(bench.now, id, endpoints());
    bench.outputs();
    bench.session.stop(bench.now, Stop::Restart);
    assert_eq!(brief(&bench.outputs()), "6/2 close failed");
}

#[test]
fn a_restart_confirms_no_connection_that_waits_for_a_collision() {
    let mut bench = bench(true, FamilySet::ALL);
    let id = bench.connect();
    // Opened by the peer in the same simultaneous start; its identifier is the higher one, so that its
    // connection is the one to stay, and it is the peer's to say so.
    let other = bench.session.handle_incoming(bench.now, endpoints());
    bench.session.handle_connected(bench.now, id, endpoints());
    let open = open_from(&bench.session, [10, 0, 0, 2]);
    bench.message(id, Message::Open(open.clone()));
    bench.message(id, Message::Keepalive);
    bench.message(other, Message::Open(open));
    bench.outputs();
    bench.session.stop(bench.now, Stop::Restart);
    let outputs = brief(&bench.outputs());
    assert!(!outputs.contains("KEEPALIVE") && outputs.contains("down"), "{outputs}");
}

//! Random sequences of events: nothing panics, and what must hold holds.

use proptest::prelude::*;
use routelet_proto::{
    CeaseSubcode, ErrorCode, Family, HeaderSubcode, MessageError, RefreshSubtype, Update,
};

use super::*;
use crate::core::session::Stop;

/// One thing that can happen. `usize` chooses among the connections known.
#[derive(Clone, Debug)]
enum Step {
    Start,
    Stop(u8),
    Reset(bool),
    Configure(u8),
    Wait(u32),
    Connected(usize),
    Incoming,
    Closed(usize),
    Open(usize, u8),
    Keepalive(usize),
    Update(usize),
    Refresh(usize),
    Notification(usize, u8),
    Garbage(usize, u8),
    Received(usize),
    Written(usize, bool),
    Paused(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_usize..4;
    prop_oneof![
        2 => Just(Step::Start),
        1 => (0_u8..3).prop_map(Step::Stop),
        1 => any::<bool>().prop_map(Step::Reset),
        1 => (0_u8..4).prop_map(Step::Configure),
        6 => (0_u32..400_000).prop_map(Step::Wait),
        4 => (0_u32..50).prop_map(Step::Wait),
        8 => id.clone().prop_map(Step::Connected),
        4 => Just(Step::Incoming),
        2 => id.clone().prop_map(Step::Closed),
        10 => (id.clone(), 0_u8..6).prop_map(|(id, kind)| Step::Open(id, kind)),
        10 => id.clone().prop_map(Step::Keepalive),
        3 => id.clone().prop_map(Step::Update),
        1 => id.clone().prop_map(Step::Refresh),
        2 => (id.clone(), any::<u8>()).prop_map(|(id, code)| Step::Notification(id, code)),
        1 => (id.clone(), 1_u8..8).prop_map(|(id, code)| Step::Garbage(id, code)),
        1 => id.clone().prop_map(Step::Received),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, wait)| Step::Written(id, wait)),
        1 => (id, any::<bool>()).prop_map(|(id, paused)| Step::Paused(id, paused)),
    ]
}

/// The driver's side of the contract, checking the session's.
struct Checker {
    bench: Bench,
    /// Connections as the driver knows them, newest last, and whether they are closed.
    known: Vec<(ConnectionId, bool)>,
    up: Option<ConnectionId>,
}

impl Checker {
    fn apply(&mut self, step: Step) {
        let now = self.bench.now;
        let session = &mut self.bench.session;
        let known = &self.known;
        let pick = |index: usize| {
            known.iter().rev().nth(index).map_or(ConnectionId(u32::MAX), |known| known.0)
        };
        match step {
            Step::Start => session.start(now),
            Step::Stop(0) => session.stop(now, Stop::Restart),
            Step::Stop(1) => session.stop(now, Stop::Shutdown(String::new())),
            Step::Stop(_) => session.stop(now, Stop::Deconfigured),
            Step::Reset(by_hand) => {
                let subcode = if by_hand {
                    CeaseSubcode::AdministrativeReset
                } else {
                    CeaseSubcode::MaximumPrefixes
                };
                let cease = Notification::new(ErrorCode::Cease(subcode));
                session.reset(now, cease, "reset".to_owned());
            }
            Step::Configure(kind) => {
                let mut config = with_graceful_restart(peer(LOCAL_AS, REMOTE_AS), kind == 0);
                config.enabled = kind != 1;
                config.passive = kind == 2;
                session.update_config(now, Arc::new(config), Some("test".to_owned()));
            }
            Step::Wait(milliseconds) => {
                let wait = Duration::from_millis(milliseconds.into());
                self.wait(wait);
                return;
            }
            Step::Connected(index) => {
                let id = pick(index);
                // A driver reports a connection once, and not after closing it.
                if session.connection(id).is_some_and(|c| c.state == State::Connect) {
                    session.handle_connected(now, id, endpoints());
                }
            }
            Step::Incoming => {
                let id = session.handle_incoming(now, endpoints());
                self.known.push((id, false));
            }
            Step::Closed(index) => session.handle_closed(now, pick(index), "closed".to_owned()),
            Step::Open(index, kind) => {
                let last = if kind == 0 { 0 } else { 2 };
                let mut open = open_from(session, [10, 0, 0, last]);
                match kind {
                    1 => open.asn = Asn(1),
                    2 => open.capabilities.clear(),
                    3 => open.hold_time = HoldTime::new(0).unwrap(),
                    _ => {}
                }
                session.handle_message(now, pick(index), Ok(Message::Open(open)));
            }
            Step::Keepalive(index) => {
                session.handle_message(now, pick(index), Ok(Message::Keepalive));
            }
            Step::Update(index) => {
                session.handle_message(now, pick(index), Ok(Message::Update(Update::default())));
            }
            Step::Refresh(index) => {
                let refresh = RouteRefresh {
                    family: Family::Ipv6Unicast.afi_safi(),
                    subtype: RefreshSubtype::Request,
                };
                session.handle_message(now, pick(index), Ok(Message::RouteRefresh(refresh)));
            }
            Step::Notification(index, code) => {
                let notification = Notification::new(ErrorCode::new(code % 9, code / 16));
                session.handle_message(now, pick(index), Ok(Message::Notification(notification)));
            }
            Step::Garbage(index, code) => {
                let error = MessageError {
                    notification: Notification::new(match code {
                        1 => ErrorCode::Header(HeaderSubcode::BadMessageType),
                        code => ErrorCode::new(code, 1),
                    }),
                    offset: 0,
                    detail: "garbage".to_owned(),
                };
                session.handle_message(now, pick(index), Err(error));
            }
            Step::Received(index) => session.handle_received(now, pick(index), 1),
            Step::Written(index, waiting) => {
                session.handle_written(now, pick(index), 1, waiting);
            }
            Step::Paused(index, paused) => session.handle_read_paused(now, pick(index), paused),
        }
        self.check();
    }

    fn wait(&mut self, wait: Duration) {
        let end = self.bench.now + wait;
        let mut rounds = 0;
        while let Some(next) = self.bench.session.poll_timeout().filter(|next| *next <= end) {
            rounds += 1;
            assert!(rounds < 10_000, "timers spin");
            self.bench.now = self.bench.now.max(next);
            self.bench.session.handle_timeout(self.bench.now);
            self.check();
        }
        self.bench.now = end;
    }

    fn check(&mut self) {
        for output in self.bench.outputs() {
            match output {
                Output::Connect(id) => {
                    assert!(!self.known.iter().any(|known| known.0 == id), "{id:?} given twice");
                    self.known.push((id, false));
                }
                Output::Send(id, _) => assert!(!self.is_closed(id), "sent on a closed connection"),
                Output::Close(id) => {
                    assert!(!self.is_closed(id), "closed twice");
                    if let Some(known) = self.known.iter_mut().find(|known| known.0 == id) {
                        known.1 = true;
                    }
                }
                Output::PeerUp(id, _) => {
                    assert_eq!(self.up.replace(id), None, "up twice");
                    assert!(!self.is_closed(id));
                }
                Output::PeerDown(_) => assert!(self.up.take().is_some(), "down without up"),
                Output::Updates(updates) => {
                    assert!(!updates.is_empty());
                    assert!(self.up.is_some(), "UPDATE without a session");
                }
                Output::RouteRefresh(_) => assert!(self.up.is_some()),
                Output::AttemptFailed(reason) => assert_ne!(reason.to_string(), ""),
            }
        }
        let session = &self.bench.session;
        let established =
            session.connections.iter().filter(|c| c.state == State::Established).count();
        assert!(established <= 1);
        assert_eq!(established == 1, self.up.is_some());
        assert_eq!(session.state() == State::Established, self.up.is_some());
        assert!(session.connections.len() <= 3);
        let now = self.bench.now;
        if let Some(next) = session.poll_timeout() {
            assert!(next > now, "a timer in the past");
            assert!(next <= now + Duration::from_secs(480), "a timer far off: {:?}", next - now);
        }
        let view = session.view();
        assert_eq!(view.state, session.state());
        assert!(view.state == State::Established || view.last_error.is_some());
        // A session that is wanted never gets stuck.
        if session.running && !session.config().passive && session.connections.is_empty() {
            assert!(session.poll_timeout().is_some(), "nothing will happen any more");
        }
        assert!(session.running || session.poll_timeout().is_none());
    }

    fn is_closed(&self, id: ConnectionId) -> bool {
        self.known.iter().any(|known| known.0 == id && known.1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_events(steps in proptest::collection::vec(step(), 1..120), gr in any::<bool>()) {
        let mut config = peer(LOCAL_AS, REMOTE_AS);
        if gr {
            config = with_graceful_restart(config, true);
        }
        let mut checker = Checker { bench: Bench::new(config), known: Vec::new(), up: None };
        checker.apply(Step::Start);
        for step in steps {
            checker.apply(step);
        }
    }
}

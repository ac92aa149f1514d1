//! Two sessions wired back to back: virtual time, latency, refusals, cuts.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::core::peer::{PeerDown, PeerUp};

/// One end of a connection: side and number.
type End = (usize, ConnectionId);

/// What is on its way.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful at a time, in tests")]
enum Parcel {
    /// A connection attempt of this end arrives at the other side.
    Syn(End),
    /// This attempt is answered.
    Connected(End),
    /// Octets for this end.
    Message(End, Message),
    /// This end's connection is closed, or could not be opened, for this reason.
    Closed(End, &'static str),
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) sides: [Session; 2],
    /// Whether somebody listens there.
    pub(super) listening: [bool; 2],
    /// Time from this side to the other.
    pub(super) latency: [Duration; 2],
    /// What the tables of each side were told, in order.
    pub(super) ups: [Vec<PeerUp>; 2],
    pub(super) downs: [Vec<PeerDown>; 2],
    /// Connection that carries the session.
    pub(super) current: [Option<ConnectionId>; 2],
    /// Attempts to connect, and when.
    pub(super) attempts: [Vec<Instant>; 2],
    other_end: HashMap<End, End, foldhash::fast::FixedState>,
    under_way: BTreeMap<(Instant, u64), Parcel>,
    sequence: u64,
}

impl Pair {
    /// Side 0 is 10.0.0.1 in `LOCAL_AS`, side 1 is 10.0.0.2 in `REMOTE_AS`.
    pub(super) fn new(adjust: impl Fn(usize, &mut PeerConfig)) -> Self {
        Self::with_speakers([local([10, 0, 0, 1]), local([10, 0, 0, 2])], adjust)
    }

    pub(super) fn with_speakers(
        speakers: [Arc<LocalSpeaker>; 2],
        adjust: impl Fn(usize, &mut PeerConfig),
    ) -> Self {
        let now = epoch();
        let mut configs = [peer(LOCAL_AS, REMOTE_AS), peer(REMOTE_AS, LOCAL_AS)];
        configs[1].address = IpAddr::from([10, 0, 0, 1]);
        for (side, config) in configs.iter_mut().enumerate() {
            adjust(side, config);
        }
        let mut seed = 0;
        let sides = [0, 1].map(|side: usize| {
            seed += 1;
            Session::new(now, Arc::new(configs[side].clone()), speakers[side].clone(), seed)
        });
        Self {
            now,
            sides,
            listening: [true; 2],
            latency: [Duration::from_millis(1); 2],
            ups: Default::default(),
            downs: Default::default(),
            current: Default::default(),
            attempts: Default::default(),
            other_end: HashMap::default(),
            under_way: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub(super) fn start(&mut self) {
        for side in 0..2 {
            self.sides[side].start(self.now);
        }
        self.pump();
    }

    /// Runs for `time`.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_while(end, |_| true);
        self.now = self.now.max(end);
    }

    /// Runs until both are Established and nothing is on its way; says how long that took.
    pub(super) fn run_until_up(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        self.run_while(start + limit, |pair| !pair.is_up() || !pair.under_way.is_empty());
        assert!(self.is_up(), "not up within {limit:?}: {}", self.describe());
        self.now - start
    }

    /// Both ends are Established on the same connection.
    pub(super) fn is_up(&self) -> bool {
        match self.current {
            [Some(one), Some(two)] => self.other_end.get(&(0, one)) == Some(&(1, two)),
            _ => false,
        }
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{:?}",
            self.sides.each_ref().map(|side| (side.state(), side.view().last_error.map(|e| e.0)))
        )
    }

    /// All connections of `side` vanish without a word; the other side is not told.
    pub(super) fn silence(&mut self) {
        self.under_way.clear();
        self.other_end.clear();
    }

    /// Side `side` crashes: its peers' connections are reset, it starts anew, and stays stopped.
    pub(super) fn crash(&mut self, side: usize, tell: bool) {
        let ends: Vec<_> = self.other_end.iter().map(|(from, to)| (*from, *to)).collect();
        self.silence();
        if tell {
            for (from, to) in ends.into_iter().filter(|(from, _)| from.0 == side) {
                let _ = from;
                self.post(1 - to.0, Parcel::Closed(to, "connection reset by peer"));
            }
        }
        let config = self.sides[side].config().clone();
        let speaker = if side == 0 { local([10, 0, 0, 1]) } else { local([10, 0, 0, 2]) };
        self.sides[side] = Session::new(self.now, config, speaker, 77);
        self.current[side] = None;
        self.ups[side].clear();
        self.downs[side].clear();
    }

    pub(super) fn pump(&mut self) {
        for side in 0..2 {
            while let Some(output) = self.sides[side].poll_output() {
                self.effect(side, output);
            }
        }
    }

    fn run_while(&mut self, end: Instant, go_on: impl Fn(&Self) -> bool) {
        self.pump();
        while go_on(self) {
            let parcel = self.under_way.keys().next().map(|key| key.0);
            let timeout = self.sides.iter().filter_map(Session::poll_timeout).min();
            let Some(next) = parcel.into_iter().chain(timeout).min().filter(|next| *next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            if parcel == Some(next) {
                let (_, parcel) = self.under_way.pop_first().expect("just seen");
                self.deliver(parcel);
            } else {
                for side in 0..2 {
                    self.sides[side].handle_timeout(self.now);
                }
            }
            self.pump();
        }
    }

    fn effect(&mut self, side: usize, output: Output) {
        match output {
            Output::Connect(id) => {
                self.attempts[side].push(self.now);
                if self.listening[1 - side] {
                    self.post(side, Parcel::Syn((side, id)));
                } else {
                    self.post(side, Parcel::Closed((side, id), "connection refused"));
                }
            }
            Output::Send(id, message) => {
                if let Some(end) = self.other_end.get(&(side, id)).copied() {
                    self.post(side, Parcel::Message(end, message));
                }
            }
            Output::Close(id) => {
                if self.current[side] == Some(id) {
                    self.current[side] = None;
                }
                if let Some(end) = self.other_end.remove(&(side, id)) {
                    self.post(side, Parcel::Closed(end, "closed by the peer"));
                }
            }
            Output::PeerUp(id, up) => {
                assert_eq!(self.ups[side].len(), self.downs[side].len(), "up twice");
                self.ups[side].push(*up);
                self.current[side] = Some(id);
            }
            Output::PeerDown(down) => {
                self.downs[side].push(down);
                assert_eq!(self.ups[side].len(), self.downs[side].len(), "down twice");
            }
            Output::Updates(_) | Output::RouteRefresh(_) | Output::AttemptFailed(_) => {}
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Syn((side, id)) => {
                let there = 1 - side;
                let accepted = self.sides[there].handle_incoming(self.now, endpoints());
                self.other_end.insert((side, id), (there, accepted));
                self.other_end.insert((there, accepted), (side, id));
                self.post(there, Parcel::Connected((side, id)));
            }
            Parcel::Connected((side, id)) => {
                self.sides[side].handle_connected(self.now, id, endpoints());
            }
            Parcel::Message((side, id), message) => {
                self.sides[side].handle_message(self.now, id, Ok(message));
            }
            Parcel::Closed((side, id), words) => {
                self.other_end.remove(&(side, id));
                if self.current[side] == Some(id) {
                    self.current[side] = None;
                }
                self.sides[side].handle_closed(self.now, id, words.to_owned());
            }
        }
    }

    /// Sends a parcel off from `side`. Order is kept: latencies are per side.
    fn post(&mut self, side: usize, parcel: Parcel) {
        self.sequence += 1;
        self.under_way.insert((self.now + self.latency[side], self.sequence), parcel);
    }
}

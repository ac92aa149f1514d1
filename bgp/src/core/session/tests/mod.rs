//! Tests of the session machine, in virtual time.

mod collisions;
mod lifetimes;
mod negotiation;
mod pair;
mod random;
mod restart;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use routelet_proto::{
    Asn, BgpIdentifier, FamilySet, HoldTime, Message, Notification, Open, RouteRefresh,
};

use super::{ConnectionId, Endpoints, Event, LocalSpeaker, Output, Session};
use crate::core::config::{GracefulRestartConfig, PeerConfig, PeerKind};
use crate::core::peer::State;

/// Some instant; only differences to it matter.
pub(super) fn epoch() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time")]
    Instant::now()
}

pub(super) const LOCAL_AS: Asn = Asn(65001);
pub(super) const REMOTE_AS: Asn = Asn(65002);

pub(super) fn local(identifier: [u8; 4]) -> Arc<LocalSpeaker> {
    Arc::new(LocalSpeaker {
        router_id: BgpIdentifier(identifier.into()),
        host_name: "node-a".to_owned(),
        restarted: false,
        forwarding: FamilySet::EMPTY,
    })
}

/// A peer at 10.0.0.2 in `remote_as`, both families, a hold time of 90 s.
pub(super) fn peer(local_as: Asn, remote_as: Asn) -> PeerConfig {
    let address = IpAddr::from([10, 0, 0, 2]);
    PeerConfig::new("peer", PeerKind::External, address, remote_as, local_as)
}

pub(super) fn with_graceful_restart(mut config: PeerConfig, notification: bool) -> PeerConfig {
    config.graceful_restart = Some(GracefulRestartConfig { restart_time: 120, notification });
    config
}

pub(super) fn endpoints() -> Endpoints {
    Endpoints {
        local: SocketAddr::from(([10, 0, 0, 1], 40000)),
        remote: SocketAddr::from(([10, 0, 0, 2], 179)),
        interface: 2,
    }
}

/// The OPEN that the other end of `session` would send.
pub(super) fn open_from(session: &Session, identifier: [u8; 4]) -> Open {
    let config = session.config();
    let mirrored =
        PeerConfig { local_as: config.remote_as, remote_as: config.local_as, ..(**config).clone() };
    super::build_open(&mirrored, &local(identifier), false)
}

/// A session to a peer with a higher identifier, driven by hand.
pub(super) struct Bench {
    pub(super) now: Instant,
    pub(super) session: Session,
}

impl Bench {
    pub(super) fn new(config: PeerConfig) -> Self {
        let now = epoch();
        let session = Session::new(now, Arc::new(config), local([10, 0, 0, 1]), 1);
        Self { now, session }
    }

    /// Runs timers until `until` from now.
    pub(super) fn run(&mut self, until: Duration) {
        let end = self.now + until;
        while let Some(next) = self.session.poll_timeout().filter(|next| *next <= end) {
            self.now = next;
            self.session.handle_timeout(next);
        }
        self.now = end;
    }

    pub(super) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.poll_output()).collect()
    }

    /// Starts, and gives the number of the attempt.
    pub(super) fn connect(&mut self) -> ConnectionId {
        self.session.start(self.now);
        self.expect_connect()
    }

    pub(super) fn expect_connect(&mut self) -> ConnectionId {
        let outputs = self.outputs();
        outputs
            .iter()
            .find_map(|output| match output {
                Output::Connect(id) => Some(*id),
                _ => None,
            })
            .unwrap_or_else(|| panic!("no attempt in {outputs:?}"))
    }

    pub(super) fn message(&mut self, id: ConnectionId, message: Message) {
        self.session.handle_message(self.now, id, Ok(message));
    }

    pub(super) fn open(&mut self, id: ConnectionId) {
        let open = open_from(&self.session, [10, 0, 0, 2]);
        self.message(id, Message::Open(open));
    }

    /// Up on a connection of ours, outputs taken.
    pub(super) fn establish(&mut self) -> ConnectionId {
        let id = self.connect();
        self.session.handle_connected(self.now, id, endpoints());
        self.open(id);
        self.message(id, Message::Keepalive);
        assert_eq!(self.session.state(), State::Established);
        self.outputs();
        id
    }

    pub(super) fn last_error(&self) -> String {
        self.session.view().last_error.map(|(words, _)| words).unwrap_or_default()
    }
}

/// Outputs in the short form in which tests compare them.
pub(super) fn brief(outputs: &[Output]) -> String {
    outputs.iter().map(brief_output).collect::<Vec<_>>().join(" ")
}

fn brief_output(output: &Output) -> String {
    match output {
        Output::Connect(_) => "connect".to_owned(),
        Output::Send(_, Message::Open(_)) => "OPEN".to_owned(),
        Output::Send(_, Message::Keepalive) => "KEEPALIVE".to_owned(),
        Output::Send(_, Message::Notification(Notification { code, .. })) => {
            let (code, subcode) = code.octets();
            format!("{code}/{subcode}")
        }
        Output::Send(_, other) => format!("{other:?}"),
        Output::Close(_) => "close".to_owned(),
        Output::PeerUp(..) => "up".to_owned(),
        Output::Updates(updates) => format!("updates:{}", updates.len()),
        Output::RouteRefresh(RouteRefresh { .. }) => "refresh".to_owned(),
        Output::PeerDown(down) if down.retain.is_some() => "down+retain".to_owned(),
        Output::PeerDown(_) => "down".to_owned(),
        Output::AttemptFailed(_) => "failed".to_owned(),
    }
}

pub(super) fn process(session: &mut Session, now: Instant, id: Option<ConnectionId>, event: Event) {
    session.event(now, id, event);
}

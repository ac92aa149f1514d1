//! Who handles an event: the session task itself, or the speaker's thread.

use std::task::{Context, Poll, Waker};

use routelet_proto::{
    Announcement, AsPath, NextHop, Nlri, Origin, PathAttributes, SessionKind, Update,
};

use super::handles::config;
use super::*;
use crate::core::forwarding::ForwardingNextHop;
use crate::core::peer::{Negotiated, PeerUp};
use crate::io::events::{EventChannel, SpeakerGone};
use crate::io::request::{Request, Shared};
use crate::io::state::{Round, SpeakerState};

const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A speaker with passive peers, of which the first is up; nobody runs its thread but the test.
struct Scene {
    state: Arc<SpeakerState>,
    shared: Arc<Shared>,
    channel: EventChannel,
}

impl Scene {
    /// The first peer is up.
    fn new(peers: u8) -> Self {
        let mut scene = Self::down(peers);
        let up = scene.up();
        scene.round(None, vec![up]);
        scene
    }

    /// Nobody is up.
    fn down(peers: u8) -> Self {
        let own = Ipv4Addr::LOCALHOST;
        let peers = (1..=peers).map(|number| passive_peer(own, number)).collect();
        let shared = Arc::new(Shared::new(Vec::new()));
        let state = SpeakerState::new(shared.clone(), speaker(own), Vec::new(), 1);
        let mut scene = Self { state: Arc::new(state), shared, channel: EventChannel::new() };
        let (answer, _) = oneshot::channel();
        scene.round(Some(Request::Apply(config(own, &[], peers), answer)), Vec::new());
        scene
    }

    fn up(&self) -> PeerEvent {
        let up = peer_up(&passive_peer(Ipv4Addr::LOCALHOST, 1));
        PeerEvent::Up(Box::new(up), Arc::default())
    }

    fn round(&mut self, request: Option<Request>, events: Vec<PeerEvent>) -> Round {
        let mut batch = events.into_iter().map(|event| (PeerId(0), event)).collect();
        self.state.round(request, &mut batch, &mut self.channel)
    }

    fn handle_now(&self, handed: u64, event: &PeerEvent) -> bool {
        self.state.handle_now(PeerId(0), handed, event)
    }

    /// Whether the kernel side was asked since the last time for the next hop of [`route`].
    fn tracked(&self) -> bool {
        let mut tracking = Default::default();
        self.shared.queue.update(|pending| tracking = std::mem::take(&mut pending.tracking));
        tracking.contains_key(&ForwardingNextHop { address: NEXT_HOP.into(), interface: 0 })
    }
}

fn passive_peer(own: Ipv4Addr, number: u8) -> PeerConfig {
    let remote = Ipv4Addr::new(127, 20, 0, number);
    PeerConfig { passive: true, ..peer(own, (remote, 179).into()) }
}

fn peer_up(config: &PeerConfig) -> PeerUp {
    let address = ip(Ipv4Addr::LOCALHOST);
    PeerUp {
        negotiated: Negotiated {
            kind: SessionKind::Internal,
            peer_as: config.remote_as,
            peer_id: BgpIdentifier(Ipv4Addr::new(127, 20, 0, 1)),
            hold_time: config.hold_time,
            keepalive_time: 30,
            families: config.families,
            decode: DecodeContext { families: config.families, ..Default::default() },
            encode: routelet_proto::EncodeContext::default(),
            route_refresh: true,
            enhanced_route_refresh: false,
            graceful_restart: None,
            sent: Vec::new(),
            received: Vec::new(),
        },
        local: (address, 179).into(),
        remote: (config.address, 40_000).into(),
        interface: 0,
    }
}

/// A route of the peer's.
fn route() -> Update {
    let attributes = PathAttributes {
        origin: Origin::Igp,
        as_path: AsPath::default(),
        next_hop: NextHop::V4(NEXT_HOP),
        med: None,
        local_pref: Some(100),
        communities: Default::default(),
        rare: None,
    };
    let prefix: ipnet::Ipv4Net = "198.51.100.0/24".parse().unwrap();
    let nlri = Nlri::from_prefixes([(0, prefix)], false);
    Update { announced: [Announcement { attributes, nlri }].into(), ..Update::default() }
}

fn updates(count: usize) -> PeerEvent {
    PeerEvent::Updates(vec![route(); count])
}

#[tokio::test]
async fn a_few_updates_are_handled_at_once() {
    let scene = Scene::new(2);
    assert!(scene.handle_now(1, &updates(4)));
    assert!(scene.tracked(), "the kernel side learns of it without the speaker's thread");
}

#[tokio::test]
async fn what_went_through_the_channel_comes_first() {
    let mut scene = Scene::new(2);
    assert!(!scene.handle_now(2, &updates(1)), "the second event is still on its way");
    scene.round(None, vec![updates(1)]);
    assert!(scene.tracked());
    assert!(scene.handle_now(2, &updates(1)));
}

#[tokio::test]
async fn much_is_left_to_the_thread() {
    let scene = Scene::new(2);
    assert!(!scene.handle_now(1, &updates(5)), "five UPDATEs");
    assert!(!scene.handle_now(1, &PeerEvent::Writable));
    assert!(!Scene::new(17).handle_now(1, &updates(1)), "seventeen sessions");
    assert!(!scene.state.handle_now(PeerId(9), 0, &updates(1)), "no such peer");
    assert!(!scene.tracked());
}

#[tokio::test]
async fn a_task_hands_over_in_order_whichever_way() {
    let mut scene = Scene::down(2);
    let sender = scene.channel.sender.clone();
    let mut task = EventSender::new(PeerId(0), sender, Arc::downgrade(&scene.state));
    let mut send = |events: Vec<PeerEvent>| {
        let mut context = Context::from_waker(Waker::noop());
        task.poll_send(&mut context, &mut events.into())
    };
    assert_eq!(send(vec![scene.up(), updates(1)]), Poll::Ready(Ok(())));
    let mut batch = Vec::new();
    scene.channel.receiver.recv_many(&mut batch, EVENT_QUEUE).await;
    assert!(matches!(batch[..], [(_, PeerEvent::Up(..)), (_, PeerEvent::Updates(_))]));
    assert!(!scene.tracked());
    scene.round(None, batch.into_iter().map(|(_, event)| event).collect());
    assert!(scene.tracked());

    assert_eq!(send(vec![updates(1), PeerEvent::Writable, updates(1)]), Poll::Ready(Ok(())));
    scene.channel.receiver.recv_many(&mut Vec::new(), 1).await;
    let last = scene.channel.receiver.try_recv();
    assert!(matches!(last, Ok((_, PeerEvent::Updates(_)))), "behind what went before: {last:?}");

    drop(scene);
    assert_eq!(send(vec![updates(1)]), Poll::Ready(Err(SpeakerGone)));
}

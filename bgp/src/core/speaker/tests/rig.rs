//! A speaker with peers that are tables: what a test announces goes in as UPDATE values, what the
//! speaker transmits is decoded and kept as each peer's Adj-RIB-In.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use routelet_proto::{
    Announcement, AsPath, Asn, BgpIdentifier, DecodeContext, EncodeContext, Family, FamilySet,
    Message, NextHop, Nlri, Origin, PathAttributes, RouteRefresh, SessionKind, Update,
    frame_length,
};

use crate::core::config::{OriginatedKind, OriginatedRoute, PeerConfig, PeerKind, SpeakerConfig};
use crate::core::forwarding::{ForwardingNextHop, NextHopAnswer, NextHopSet, NextHopState};
use crate::core::peer::{DownReason, Negotiated, PeerDown, PeerGracefulRestart, PeerId, PeerUp};
use crate::core::policy::{Action, MatchOperator, PolicyRules, PrefixMatch, Rule};
use crate::core::speaker::{Output, PeerAction, Speaker};
use crate::core::view::{RouteQuery, RouteSelector, RouteTable, RouteView};

/// Our AS in most tests.
pub const OURS: u32 = 64512;

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a peer has heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub routes: BTreeMap<IpNet, PathAttributes>,
    pub end_of_rib: Vec<Family>,
    pub refreshes: Vec<RouteRefresh>,
    /// UPDATEs, End-of-RIB aside.
    pub updates: Vec<Update>,
    /// Withdrawals of what it never had.
    pub idle_withdrawals: usize,
    /// Everything, for a test that passes it on.
    pub inbox: VecDeque<Update>,
}

pub struct Rig {
    pub speaker: Speaker,
    pub now: Instant,
    pub config: SpeakerConfig,
    pub ids: BTreeMap<String, PeerId>,
    pub heard: BTreeMap<String, Heard>,
    pub fib: BTreeMap<IpNet, NextHopSet>,
    pub tracked: BTreeSet<ForwardingNextHop>,
    /// Outputs other than route changes and tracking.
    pub events: Vec<Output>,
    pub route_changes: usize,
    /// How next hops are answered; `None`: not at all.
    pub answer: Option<NextHopState>,
}

/// A configuration of AS 64512 at 10.0.0.1 and fd00::1, pool 10.244.0.0/16, pods 10.244.1.0/24.
pub fn config() -> SpeakerConfig {
    let mut config = super::super::unconfigured();
    config.asn = Asn(OURS);
    config.router_id = BgpIdentifier("10.0.0.1".parse().unwrap());
    config.cluster_id = "10.0.0.1".parse().unwrap();
    config.address_v4 = Some("10.0.0.1".parse().unwrap());
    config.address_v6 = Some("fd00::1".parse().unwrap());
    config.maximum_paths = 16;
    config.track_next_hops = true;
    config.initial_deferral = Duration::from_secs(5);
    let cluster = Arc::make_mut(&mut config.cluster);
    cluster.pools = vec![net("10.244.0.0/16"), net("fd00:244::/32")];
    cluster.own_pod_cidrs = vec![net("10.244.1.0/24")];
    cluster.own_addresses = vec![ip("10.0.0.1"), ip("fd00::1"), ip("192.168.7.1")];
    cluster.connected = vec![net("10.0.0.0/24"), net("fd00::/64")];
    config
}

/// A configuration without any pool, pod CIDR or connected subnet, and without a kernel.
pub fn bare_config() -> SpeakerConfig {
    let mut config = config();
    config.cluster = Arc::default();
    config.track_next_hops = false;
    config
}

pub fn peer(name: &str, kind: PeerKind, address: &str, remote_as: u32) -> PeerConfig {
    PeerConfig::new(name, kind, ip(address), Asn(remote_as), Asn(OURS))
}

/// Rules that accept everything both ways.
pub fn accept_all() -> Arc<PolicyRules> {
    let rules = || vec![rule(Action::Accept, None)];
    Arc::new(PolicyRules { import: [rules(), rules()], export: [rules(), rules()] })
}

pub fn rule(action: Action, prefix: Option<(&str, MatchOperator)>) -> Rule {
    Rule {
        filter: "test".into(),
        index: 0,
        action,
        prefix: prefix.map(|(prefix, operator)| PrefixMatch {
            net: net(prefix),
            operator,
            length: None,
        }),
    }
}

/// Attributes with a path and a next hop.
pub fn path(asns: &[u32], next_hop: &str) -> PathAttributes {
    let asns: Vec<Asn> = asns.iter().copied().map(Asn).collect();
    let mut attributes = PathAttributes::originated(Origin::Igp, NextHop::from(ip(next_hop)));
    attributes.as_path = AsPath::sequence(&asns);
    attributes
}

pub fn nlri(prefixes: &[IpNet]) -> Vec<Nlri> {
    let v4 = prefixes.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some((0, *net)),
        IpNet::V6(_) => None,
    });
    let v6 = prefixes.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some((0, *net)),
        IpNet::V4(_) => None,
    });
    [Nlri::from_prefixes(v4, false), Nlri::from_prefixes(v6, false)]
        .into_iter()
        .filter(|nlri| !nlri.is_empty())
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "a test's clock starts anywhere")]
pub fn some_instant() -> Instant {
    Instant::now()
}

impl Rig {
    pub fn new(config: SpeakerConfig) -> Self {
        Self::with_speaker(Speaker::new, config)
    }

    /// A speaker whose process has restarted.
    pub fn restarted(config: SpeakerConfig) -> Self {
        Self::with_speaker(Speaker::restarted, config)
    }

    fn with_speaker(speaker: fn(Instant) -> Speaker, config: SpeakerConfig) -> Self {
        let now = some_instant();
        let mut rig = Self {
            speaker: speaker(now),
            now,
            config: config.clone(),
            ids: BTreeMap::new(),
            heard: BTreeMap::new(),
            fib: BTreeMap::new(),
            tracked: BTreeSet::new(),
            events: Vec::new(),
            route_changes: 0,
            answer: Some(NextHopState::Reachable { metric: 0 }),
        };
        rig.apply(config);
        rig
    }

    /// A speaker with these peers, all up.
    pub fn with_peers(mut config: SpeakerConfig, peers: Vec<PeerConfig>) -> Self {
        let names: Vec<String> = peers.iter().map(|peer| peer.name.to_string()).collect();
        config.peers = peers.into_iter().map(Arc::new).collect();
        let mut rig = Self::new(config);
        for name in names {
            rig.up(&name);
        }
        rig
    }

    pub fn apply(&mut self, config: SpeakerConfig) -> Vec<PeerAction> {
        self.config = config.clone();
        let actions = self.speaker.apply_config(self.now, Arc::new(config));
        for action in &actions {
            match action {
                PeerAction::Start(id, config) => {
                    self.ids.insert(config.name.to_string(), *id);
                }
                PeerAction::Stop(id) => {
                    self.ids.retain(|_, other| other != id);
                }
                PeerAction::Update(..) => {}
            }
        }
        self.settle();
        actions
    }

    /// Applies the present configuration with a change to it.
    pub fn edit(&mut self, change: impl FnOnce(&mut SpeakerConfig)) -> Vec<PeerAction> {
        let mut config = self.config.clone();
        change(&mut config);
        self.apply(config)
    }

    pub fn edit_peer(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut PeerConfig),
    ) -> Vec<PeerAction> {
        self.edit(|config| {
            let peer = config.peers.iter_mut().find(|peer| &*peer.name == name).unwrap();
            change(Arc::make_mut(peer));
        })
    }

    pub fn peer_config(&self, name: &str) -> &PeerConfig {
        self.config.peers.iter().find(|peer| &*peer.name == name).unwrap()
    }

    /// What a session with the peer would tell. Its BGP Identifier is its IPv4 address.
    pub fn session(&self, name: &str) -> PeerUp {
        let peer = self.peer_config(name);
        let kind = if peer.remote_as == peer.local_as {
            SessionKind::Internal
        } else {
            SessionKind::External
        };
        let (local, identifier) = match peer.address {
            IpAddr::V4(address) => (self.config.address_v4.unwrap().into(), address),
            IpAddr::V6(address) => {
                let octets = address.octets();
                (
                    self.config.address_v6.unwrap().into(),
                    [10, octets[13], octets[14], octets[15]].into(),
                )
            }
        };
        PeerUp {
            negotiated: Negotiated {
                kind,
                peer_as: peer.remote_as,
                peer_id: BgpIdentifier(identifier),
                hold_time: peer.hold_time,
                keepalive_time: 30,
                families: peer.families,
                decode: DecodeContext { kind, families: peer.families, ..Default::default() },
                encode: EncodeContext {
                    four_octet_as: true,
                    max_len: 4096,
                    add_path: FamilySet::EMPTY,
                    extended_next_hop: false,
                },
                route_refresh: true,
                enhanced_route_refresh: false,
                graceful_restart: None,
                sent: Vec::new(),
                received: Vec::new(),
            },
            local: SocketAddr::new(local, 179),
            remote: SocketAddr::new(peer.address, 179),
            interface: 0,
        }
    }

    pub fn up(&mut self, name: &str) {
        let up = self.session(name);
        self.up_with(name, up);
    }

    pub fn up_with(&mut self, name: &str, up: PeerUp) {
        self.heard.insert(name.to_owned(), Heard::default());
        self.speaker.handle_peer_up(self.now, self.ids[name], up);
        self.settle();
    }

    /// The session's OPEN had graceful restart with the F bit for these families.
    pub fn up_restarted(&mut self, name: &str, forwarding: FamilySet) {
        let mut up = self.session(name);
        up.negotiated.graceful_restart = Some(PeerGracefulRestart {
            restarted: true,
            notification: false,
            restart_time: 120,
            families: FamilySet::ALL,
            forwarding,
        });
        self.up_with(name, up);
    }

    /// The peer's host answers.
    pub fn reached(&mut self, name: &str) {
        self.speaker.handle_peer_reached(self.now, self.ids[name]);
        self.settle();
    }

    pub fn down(&mut self, name: &str, retain: Option<(FamilySet, u16)>) {
        let reason = DownReason::TcpConnectionFails("closed".to_owned());
        self.speaker.handle_peer_down(self.now, self.ids[name], &PeerDown { reason, retain });
        self.settle();
    }

    pub fn announce(&mut self, name: &str, attributes: &PathAttributes, prefixes: &[&str]) {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|text| net(text)).collect();
        self.announce_nets(name, attributes, &prefixes);
    }

    pub fn announce_nets(&mut self, name: &str, attributes: &PathAttributes, nets: &[IpNet]) {
        self.announce_quietly(name, attributes, nets);
        self.settle();
    }

    /// Without taking what the speaker has to say to it.
    pub fn announce_quietly(&mut self, name: &str, attributes: &PathAttributes, nets: &[IpNet]) {
        let announced = nlri(nets)
            .into_iter()
            .map(|nlri| Announcement { attributes: attributes.clone(), nlri })
            .collect();
        let update = Update { announced, ..Update::default() };
        self.speaker.handle_update(self.now, self.ids[name], &update);
    }

    pub fn withdraw(&mut self, name: &str, prefixes: &[&str]) {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|text| net(text)).collect();
        self.withdraw_quietly(name, &prefixes);
        self.settle();
    }

    pub fn withdraw_quietly(&mut self, name: &str, nets: &[IpNet]) {
        let update = Update { withdrawn: nlri(nets).into(), ..Update::default() };
        self.speaker.handle_update(self.now, self.ids[name], &update);
    }

    pub fn update(&mut self, name: &str, update: &Update) {
        self.speaker.handle_update(self.now, self.ids[name], update);
        self.settle();
    }

    pub fn end_of_rib(&mut self, name: &str) {
        for family in self.peer_config(name).families.iter() {
            let update = Update { end_of_rib: Some(family), ..Update::default() };
            self.speaker.handle_update(self.now, self.ids[name], &update);
        }
        self.settle();
    }

    pub fn writable(&mut self, name: &str, writable: bool) {
        self.speaker.handle_writable(self.ids[name], writable);
        self.settle();
    }

    /// Lets time pass, calling the speaker when it asked for it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.speaker.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.speaker.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    pub fn answer(&mut self, address: &str, state: NextHopState) {
        let next_hop = ForwardingNextHop { address: ip(address), interface: 0 };
        self.speaker.handle_next_hops(self.now, &[NextHopAnswer { next_hop, state }]);
        self.settle();
    }

    /// Takes everything the speaker has to say.
    pub fn settle(&mut self) {
        loop {
            while let Some(output) = self.speaker.poll_output() {
                self.take(output);
            }
            let Some(transmit) = self.speaker.poll_transmit() else { return };
            let name = self.ids.iter().find(|(_, id)| **id == transmit.peer);
            let name = name.expect("only configured peers are sent anything").0.clone();
            let messages = self.hear(&name, transmit.octets);
            assert_eq!(messages, transmit.messages, "the count of messages is right");
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::RouteChanged(change) => {
                self.route_changes += 1;
                let old = if change.next_hops.is_empty() {
                    self.fib.remove(&change.prefix)
                } else {
                    self.fib.insert(change.prefix, change.next_hops.clone())
                };
                assert_ne!(old.unwrap_or_default(), change.next_hops, "a real change");
            }
            Output::TrackNextHop(next_hop) => {
                assert!(self.tracked.insert(next_hop));
                if let Some(state) = self.answer.clone() {
                    let answer = NextHopAnswer { next_hop, state };
                    self.speaker.handle_next_hops(self.now, &[answer]);
                }
            }
            Output::UntrackNextHop(next_hop) => assert!(self.tracked.remove(&next_hop)),
            event => self.events.push(event),
        }
    }

    /// Decodes what a peer is sent into what it holds. How many messages it was.
    fn hear(&mut self, name: &str, octets: Bytes) -> u32 {
        let context = self.session(name).negotiated.decode;
        self.heard.get_mut(name).expect("the peer is up").messages(octets, &context)
    }

    /// Prefixes that a peer holds from us.
    pub fn sent(&self, name: &str) -> Vec<String> {
        self.heard[name].routes.keys().map(ToString::to_string).collect()
    }

    /// Attributes with which a peer holds a prefix from us.
    pub fn sent_attributes(&self, name: &str, prefix: &str) -> &PathAttributes {
        &self.heard[name].routes[&net(prefix)]
    }

    pub fn routes(&self, table: RouteTable, selector: RouteSelector) -> Vec<RouteView> {
        self.speaker.routes(&RouteQuery { table, selector, family: None })
    }

    /// The paths of one prefix, the best first.
    pub fn paths(&self, prefix: &str) -> Vec<RouteView> {
        self.routes(RouteTable::All, RouteSelector::Exact(net(prefix)))
    }

    /// Why the only path of a prefix is where it is, in words.
    pub fn why(&self, prefix: &str) -> String {
        let paths = self.paths(prefix);
        assert_eq!(paths.len(), 1, "one path for {prefix}");
        paths[0].reason.to_string()
    }

    /// Why a prefix is or is not sent to a peer, in words.
    pub fn why_sent(&self, name: &str, prefix: &str) -> String {
        use crate::core::view::ExportVerdict::{Advertised, NotAdvertised};
        let explained = self.speaker.explain(RouteSelector::Exact(net(prefix)));
        let found = explained.exports.iter().find(|(peer, _)| &**peer == name).unwrap();
        match &found.1 {
            Advertised(reason) => format!("yes: {reason}"),
            NotAdvertised(reason) => format!("no: {reason}"),
        }
    }

    /// The next hops the kernel has for a prefix.
    pub fn forwarding(&self, prefix: &str) -> Vec<String> {
        let set = self.fib.get(&net(prefix)).cloned().unwrap_or_default();
        set.iter().map(|next_hop| next_hop.address.to_string()).collect()
    }
}

impl Heard {
    /// Takes octets of an internal session.
    pub fn octets(&mut self, octets: Bytes) {
        self.messages(octets, &DecodeContext::default());
    }

    fn messages(&mut self, mut octets: Bytes, context: &DecodeContext) -> u32 {
        let mut messages = 0;
        while !octets.is_empty() {
            let length = frame_length(&octets, false).unwrap().expect("whole messages");
            let frame = octets.split_to(length);
            messages += 1;
            match Message::decode(&frame, context).unwrap() {
                Message::Update(update) => self.update(update),
                Message::RouteRefresh(refresh) => self.refreshes.push(refresh),
                other => panic!("not to be sent by the speaker: {other:?}"),
            }
        }
        messages
    }

    pub fn update(&mut self, update: Update) {
        assert!(update.issues.is_empty(), "what we write is well formed: {:?}", update.issues);
        self.inbox.push_back(update.clone());
        if let Some(family) = update.end_of_rib {
            self.end_of_rib.push(family);
            return;
        }
        for (_, prefix) in update.withdrawn.iter().flat_map(Nlri::iter_any) {
            self.idle_withdrawals += usize::from(self.routes.remove(&prefix).is_none());
        }
        for announcement in &update.announced {
            for (_, prefix) in announcement.nlri.iter_any() {
                self.routes.insert(prefix, announcement.attributes.clone());
            }
        }
        self.updates.push(update);
    }
}

/// A route of our own.
pub fn own(prefix: &str, kind: OriginatedKind) -> OriginatedRoute {
    OriginatedRoute { prefix: net(prefix), kind }
}

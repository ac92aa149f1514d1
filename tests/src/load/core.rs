//! routelet's codec and speaker alone: the octets of a scenario through `Message::decode`,
//! `Speaker::handle_update` and `Speaker::poll_transmit`, in this process.
//!
//! In flow: a scenario and a scale. Out flow: CPU seconds per step. Against the figures of the running daemon
//! they show what sockets and threads add. CPU seconds: the figure holds on a busy machine too. Nothing is checked here: that every receiver gets
//! every prefix is checked where octets go over TCP.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use routelet_bgp::core::peer::{DownReason, Negotiated, PeerDown, PeerId, PeerUp};
use routelet_bgp::core::speaker::{PeerAction, Speaker};
use routelet_proto::{
    Asn, BgpIdentifier, DecodeContext, EncodeContext, FamilySet, HoldTime, Message, SessionKind,
    frame_length,
};

use crate::load::dut::{self, TARGET, Topology};
use crate::load::engine::{PeerPlan, now};
use crate::load::scenario::{DUT_ASN, Figures, PER_CLIENT, Scenario, external, internal, sets};
use crate::load::sys;
use crate::load::wire::{self, Universe};

/// Runs the announcement, the withdrawal, another announcement and the loss of all senders.
pub fn run(scenario: Scenario, scale: f64) -> Result<Figures> {
    let table = |count: f64| ((count * scale) as usize).next_multiple_of(500).max(500);
    let clients = |count: f64| ((count * scale) as usize).max(10);
    let (senders, receivers, each, set, same) = match scenario {
        Scenario::Million => (1, 1, table(1e6), 5, false),
        Scenario::Packed => (1, 1, table(1e6), 500, false),
        Scenario::TenSenders => (10, 1, table(1e5), 5, false),
        Scenario::FourSenders => (4, 2, table(250e3), 5, true),
        Scenario::Reflector200 => (clients(200.0), 0, PER_CLIENT, PER_CLIENT, false),
        Scenario::Reflector500 => (clients(500.0), 0, PER_CLIENT, PER_CLIENT, false),
        Scenario::Reflector1000 => (clients(1000.0), 0, PER_CLIENT, PER_CLIENT, false),
        Scenario::OneChange | Scenario::ColdStart | Scenario::Idle => {
            bail!("{} is measured with sockets only", scenario.word())
        }
    };
    let reflector = receivers == 0;
    let plan = |number| if reflector { internal(number, 0..0) } else { external(number, 0..0) };
    let plans: Vec<PeerPlan> = (0..senders + receivers).map(plan).collect();
    let count = if same { each } else { each * senders };
    let universe = if reflector { Universe::pods(count) } else { Universe::table(count) };
    let own = |sender: usize| if same { 0..each } else { sender * each..(sender + 1) * each };
    let announced: Vec<Bytes> = (0..senders)
        .map(|sender| wire::announce(plans[sender].speaker, universe, sets(own(sender), set)))
        .collect();
    let withdrawn: Vec<Bytes> =
        (0..senders).map(|sender| wire::withdraw(universe, own(sender))).collect();

    let mut core = Core::new(&plans)?;
    let mut figures = Figures::new();
    core.feed("announce", &announced, &mut figures)?;
    core.feed("withdraw", &withdrawn, &mut figures)?;
    core.feed("again", &announced, &mut figures)?;
    let start = cpu();
    let down = PeerDown {
        reason: DownReason::TcpConnectionFails("closed by the load generator".to_owned()),
        retain: None,
    };
    for peer in &core.peers[..senders] {
        core.speaker.handle_peer_down(now(), *peer, &down);
    }
    let octets = drain(&mut core.speaker);
    figures.insert("gone_s".to_owned(), (cpu() - start).as_secs_f64());
    figures.insert("gone_out_octets".to_owned(), octets as f64);
    Ok(figures)
}

struct Core {
    speaker: Speaker,
    peers: Vec<PeerId>,
    decode: DecodeContext,
}

impl Core {
    fn new(plans: &[PeerPlan]) -> Result<Core> {
        let peers = plans.iter().map(|plan| (plan.speaker.address, plan.speaker.asn)).collect();
        let text = dut::routelet_config(
            Path::new("/nowhere"),
            &Topology { asn: DUT_ASN, peers, fib: None },
        );
        let config = routelet::config::load_text(Path::new("load.yaml"), &text)
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .config;
        let mut speaker = Speaker::new(now());
        let kind = match plans[0].speaker.external {
            true => SessionKind::External,
            false => SessionKind::Internal,
        };
        let decode = DecodeContext {
            four_octet_as: true,
            extended_message: false,
            families: FamilySet::EMPTY.with(routelet_proto::Family::Ipv4Unicast),
            add_path: FamilySet::EMPTY,
            extended_next_hop: false,
            kind,
        };
        let mut peers = Vec::new();
        for action in speaker.apply_config(now(), config.speaker) {
            let PeerAction::Start(peer, config) = action else { bail!("not started") };
            let std::net::IpAddr::V4(address) = config.address else { bail!("IPv4 only") };
            let negotiated = Negotiated {
                kind,
                peer_as: Asn(config.remote_as.0),
                peer_id: BgpIdentifier(address),
                hold_time: HoldTime::new(90).context("hold time")?,
                keepalive_time: 30,
                families: decode.families,
                decode,
                encode: EncodeContext { extended_next_hop: false, ..EncodeContext::default() },
                route_refresh: true,
                enhanced_route_refresh: false,
                graceful_restart: None,
                sent: Vec::new(),
                received: Vec::new(),
            };
            let (local, remote) = (SocketAddr::from(TARGET), SocketAddr::from((address, 40_000)));
            speaker.handle_peer_up(now(), peer, PeerUp { negotiated, local, remote, interface: 0 });
            peers.push(peer);
        }
        drain(&mut speaker);
        Ok(Core { speaker, peers, decode })
    }

    /// All the senders' octets, a message of each in turn; what is to be sent is taken every 64
    /// rounds, about as often as a busy daemon comes to it.
    fn feed(&mut self, name: &str, octets: &[Bytes], figures: &mut Figures) -> Result<()> {
        let (mut decoding, mut handling, mut sending) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut left: Vec<Bytes> = octets.to_vec();
        let mut out = 0;
        while left.iter().any(|octets| !octets.is_empty()) {
            let mut updates = Vec::new();
            let start = cpu();
            for _ in 0..64 {
                for (sender, octets) in left.iter_mut().enumerate() {
                    let Some(length) = frame_length(octets, false).ok().flatten() else { continue };
                    match Message::decode(&octets.split_to(length), &self.decode) {
                        Ok(Message::Update(update)) => updates.push((sender, update)),
                        other => bail!("{other:?}"),
                    }
                }
            }
            let decoded = cpu();
            let time = now();
            for (sender, update) in &updates {
                self.speaker.handle_update(time, self.peers[*sender], update);
            }
            drop(updates);
            let handled = cpu();
            out += drain(&mut self.speaker);
            sending += cpu() - handled;
            handling += handled - decoded;
            decoding += decoded - start;
        }
        figures.insert(format!("{name}_decode_s"), decoding.as_secs_f64());
        figures.insert(format!("{name}_handle_s"), handling.as_secs_f64());
        figures.insert(format!("{name}_send_s"), sending.as_secs_f64());
        figures.insert(format!("{name}_out_octets"), out as f64);
        Ok(())
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    sys::own_cpu().unwrap_or_default()
}

/// Takes everything the speaker wants sent; how many octets that is.
fn drain(speaker: &mut Speaker) -> usize {
    while speaker.poll_output().is_some() {}
    std::iter::from_fn(|| speaker.poll_transmit()).map(|transmit| transmit.octets.len()).sum()
}

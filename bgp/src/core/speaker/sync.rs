//! First sync and End-of-RIB: when what is known is enough to act on.
//!
//! The first sync is complete when every configured peer has sent End-of-RIB for each family, or
//! its deferral (RFC 4724 §4.1, Selection_Deferral_Timer) has passed, and every next hop has been
//! answered. A peer that comes up within its deferral gets a whole one from then on, once, because
//! its first UPDATE may take a second. Each peer has a deferral of its own:
//!
//! - on a cold start nothing is lost by going on: `initial_deferral`;
//! - after a restart the kernel forwards by what a former life installed, and what is removed too
//!   early is lost. A peer whose host answers, or that is up with graceful restart, may be
//!   restarting itself while it goes on forwarding: its restart time;
//! - but where nobody answers at all, there is nobody to forward either: [`UNREACHABLE`]. A
//!   reflector is no next hop, so it is waited for all the same, unless another has told all.
//!
//! Our own End-of-RIB to a peer waits only for peers whose routes it could be sent: a node of a
//! mesh sends nothing it learned, so it says End-of-RIB at once, and two nodes that start together
//! do not wait for each other. A reflector waits for its clients (RFC 4724 §4.1 in spirit), not for
//! the peer itself, nor for a peer that says it has restarted and waits itself.

use std::time::{Duration, Instant};

use routelet_proto::{Family, FamilySet, SessionKind};

use super::Output;
use super::export::ExportKey;
use super::peers::{Peer, Slot};
use super::shared::Shared;
use crate::core::config::PeerKind;

/// How long a peer of a former life is waited for whose host does not answer: two attempts to
/// connect, with the retransmissions of a lost SYN after 1, 3 and 7 s.
const UNREACHABLE: Duration = Duration::from_secs(8);

/// Progress of the first sync.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// The process has restarted: forwarding goes on by what a former life installed.
    pub(super) restarted: bool,
    /// A configuration has been applied.
    pub(super) configured: bool,
    /// It is complete.
    pub(super) done: bool,
    /// Per family, how many peers of each [`class`] our End-of-RIB waits for.
    waiting: [[usize; 3]; Family::ALL.len()],
    /// Which classes of peers there are.
    present: [bool; 3],
    /// The earliest time at which something is due.
    pub(super) deadline: Option<Instant>,
}

const CLIENT: usize = 0;
const NON_CLIENT: usize = 1;
const EXTERNAL: usize = 2;

fn class(peer: &Peer) -> usize {
    if peer.external {
        EXTERNAL
    } else if peer.config.route_reflector_client {
        CLIENT
    } else {
        NON_CLIENT
    }
}

/// Families of which the first sync still waits for a peer's End-of-RIB.
fn awaited(peer: &Peer) -> FamilySet {
    if !peer.config.enabled || peer.deferral.is_none() {
        return FamilySet::EMPTY;
    }
    let families = if peer.up { peer.families() } else { peer.config.families };
    families.iter().filter(|family| !peer.settled.contains(*family)).collect()
}

/// Whether the peer tells us the routes of others, which forward without it.
fn reflects(peer: &Peer) -> bool {
    peer.config.kind == PeerKind::Internal && !peer.config.route_reflector_client
}

/// Whether the peer says it has restarted (R bit) and may itself be waiting for us.
fn has_restarted(peer: &Peer) -> bool {
    peer.up
        && peer.session.as_ref().is_some_and(|session| {
            session.negotiated.graceful_restart.is_some_and(|restart| restart.restarted)
        })
}

impl Shared {
    /// Counts anew what is waited for, and declares the first sync if it is nothing. Called after
    /// whatever may have changed that; whether our End-of-RIB may go to more peers than before.
    pub(super) fn check_sync(&mut self) -> bool {
        self.sync.deadline = self.peers.iter().filter_map(|(_, peer)| peer.stale_until).min();
        if self.sync.done || !self.sync.configured {
            return false;
        }
        self.spare_reflectors();
        let mut waiting = [[0; 3]; Family::ALL.len()];
        let mut complete = self.attrs.next_hops.unknown() == 0;
        let mut present = [false; 3];
        for (_, peer) in self.peers.iter() {
            present[class(peer)] = true;
            for family in awaited(peer).iter() {
                complete = false;
                if !has_restarted(peer) {
                    waiting[family.index()][class(peer)] += 1;
                }
            }
            self.sync.deadline = earlier(self.sync.deadline, peer.deferral);
        }
        self.sync.waiting = waiting;
        self.sync.present = present;
        if complete {
            self.sync.done = true;
            self.outputs.push_back(Output::FirstSync);
        }
        true
    }

    /// Starts waiting for a peer that is new, whose host answers, or that has just come up.
    pub(super) fn defer(&mut self, slot: Slot) {
        let wait = self.deferral(&self.peers[slot]);
        let until = self.now + wait;
        let (done, now) = (self.sync.done, self.now);
        let peer = &mut self.peers[slot];
        peer.deferral_began = now;
        peer.deferral = if done { None } else { Some(until) };
    }

    fn deferral(&self, peer: &Peer) -> Duration {
        let initial = self.config.initial_deferral;
        if !self.sync.restarted {
            return initial;
        }
        let restart = peer.config.graceful_restart.map_or(0, |restart| restart.restart_time);
        let whole = Duration::from_secs(restart.into()).max(initial);
        if peer.up {
            // Without graceful restart there may never be an End-of-RIB.
            let tells = peer
                .session
                .as_ref()
                .is_some_and(|session| session.negotiated.graceful_restart.is_some());
            return if tells { whole } else { initial };
        }
        // A passive peer is not called, so that its silence says nothing.
        if peer.reached || peer.config.passive || reflects(peer) {
            whole
        } else {
            whole.min(UNREACHABLE.max(initial))
        }
    }

    /// After a restart, a reflector that does not answer is not waited for any longer than others
    /// once another one has told all.
    fn spare_reflectors(&mut self) {
        let told = |peer: &Peer| {
            reflects(peer) && peer.up && !peer.end_of_rib.is_empty() && awaited(peer).is_empty()
        };
        if !self.sync.restarted || !self.peers.iter().any(|(_, peer)| told(peer)) {
            return;
        }
        let limit = UNREACHABLE.max(self.config.initial_deferral);
        let absent = |peer: &Peer| reflects(peer) && !peer.up && !peer.reached;
        for (_, peer) in self.peers.iter_mut().filter(|(_, peer)| absent(peer)) {
            let until = peer.deferral_began + limit;
            peer.deferral = peer.deferral.map(|at| at.min(until)).filter(|at| *at > self.now);
        }
    }

    /// Stops waiting for peers whose deferral has passed.
    pub(super) fn expire_deferrals(&mut self) {
        let now = self.now;
        for (_, peer) in self.peers.iter_mut() {
            peer.deferral = peer.deferral.filter(|until| *until > now);
        }
    }

    /// Whether End-of-RIB may be sent to a member of a group with `key`.
    pub(super) fn end_of_rib_may_go(&self, slot: Slot, key: &ExportKey) -> bool {
        if self.sync.done {
            return true;
        }
        let family = key.rewrite.family;
        let peer = &self.peers[slot];
        let internal = key.rewrite.session() == SessionKind::Internal;
        // Which classes of peers have routes that this one could be sent.
        let mut sources = [false; 3];
        if internal {
            sources[CLIENT] = true;
            sources[NON_CLIENT] = key.rewrite.is_client();
        }
        if key.accepts_learned() {
            sources[EXTERNAL] = true;
            sources[CLIENT] = true;
            sources[NON_CLIENT] |= !internal;
        }
        let itself = awaited(peer).contains(family) && !has_restarted(peer);
        let waits = (CLIENT..=EXTERNAL).any(|class| {
            let own = usize::from(itself && self::class(peer) == class);
            sources[class] && self.sync.waiting[family.index()][class] > own
        });
        let learned = (CLIENT..=EXTERNAL).any(|class| sources[class] && self.sync.present[class]);
        let unresolved = learned && self.attrs.next_hops.unknown() > 0;
        !(waits || unresolved)
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

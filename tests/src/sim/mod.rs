//! A discrete-event simulator of many speakers: the real core in virtual time.
//!
//! In flow: a [`Topology`] (speakers and who peers with whom), a seed, and faults at given times.
//! Out flow: every speaker's forwarding as its kernel would have it, message counts, and the
//! [`World::check`] of what must hold at the end.
//!
//! ```text
//!  queue (time, order) ─► World ─► Node ─► Session per peer ─► wire (latency, retransmission) ─► queue
//!                                   └────► Speaker ─► forwarding, UPDATE octets ─► wires
//! ```
//!
//! What always holds: nothing here reads a clock; the same topology, seed and faults give the
//! same run to the last octet. Wires keep the order of what they carry, as TCP does: a loss is a
//! delay of everything behind it.

mod check;
mod node;
mod random;
pub mod scenario;
mod topology;
mod world;

pub use self::random::Random;
pub use self::topology::{SpeakerSpec, Topology};
pub use self::world::{Fault, LinkQuality, Statistics, World};

//! The protocol core: no sockets, no clock, no randomness of its own, no tokio.
//!
//! Two machines, each driven by whoever owns it:
//!
//! - [`session`]: one per peer. The RFC 4271 §8 state machine, its timers, collision resolution
//!   between the peer's two possible connections, capability negotiation, decoding. In: connection
//!   events, octets, `now`. Out: octets to send, connections to open and close, and for the speaker
//!   [`peer::PeerUp`], decoded UPDATEs, [`peer::PeerDown`].
//! - [`speaker`]: one per process. Owns the tables: import policy, decision process, export policy,
//!   update groups. In: what sessions say, next-hop answers, configuration, `now`. Out: route
//!   changes for the kernel, next hops to track, UPDATE octets per peer.
//!
//! `now` is a `std::time::Instant` argument of every call that needs it; the same input always
//! gives the same output, in the daemon, in a test and in the simulator.

pub mod config;
pub mod forwarding;
pub mod peer;
pub mod policy;
pub mod session;
pub mod speaker;
pub mod view;

//! The session machine of one peer.

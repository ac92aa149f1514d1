//! Notifications of nf_tables: what others do to our table, and to chains at the forward hook.
//!
//! In flow: a multicast netlink socket. Out flow: [`Seen`], what a burst of notifications amounts to.
//!
//! What always holds: what our own socket has caused does not count; a gap is reported, never silent.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::socket::read_hook;
use super::table::{HOOK_FORWARD, TABLE};
use super::wire::{self, NFPROTO_INET};
use crate::netlink::wire::{Header, attributes};
use crate::netlink::{Notice, NotificationSocket};

const NFNLGRP_NFTABLES: u32 = 7;
const RECEIVE_BUFFER: usize = 2 << 20;

/// What others did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Seen {
    /// Something in our table, or the table itself.
    pub own: bool,
    /// A chain at a forward hook, or a rule in one that is watched.
    pub forward: bool,
    /// Notifications were lost.
    pub overrun: bool,
    /// The last program that changed something.
    pub by: Option<String>,
}

/// Family, table and name of a chain.
pub(super) type ChainName = (u8, String, String);

/// The socket; see the module.
pub(super) struct Monitor {
    socket: NotificationSocket,
    own_port: u32,
    /// What there is to report so far.
    seen: Seen,
    /// Chains whose rules matter.
    pub watched: BTreeSet<ChainName>,
}

impl Monitor {
    /// Opens it in the network namespace of the calling thread. What the netlink port `own_port` does
    /// is not reported.
    pub(super) fn open(own_port: u32) -> io::Result<Self> {
        let mut socket = NotificationSocket::open(NETLINK_NETFILTER, RECEIVE_BUFFER)?;
        socket.join(NFNLGRP_NFTABLES)?;
        Ok(Self { socket, own_port, seen: Seen::default(), watched: BTreeSet::new() })
    }

    /// Waits until others did something that matters. Nothing is lost if it is dropped meanwhile.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            self.gather().await;
            if self.seen.matters() {
                return std::mem::take(&mut self.seen);
            }
        }
    }

    /// Waits for the name of the program that changed something.
    pub(super) async fn author(&mut self) -> String {
        loop {
            if let Some(by) = self.seen.by.take() {
                return by;
            }
            self.gather().await;
        }
    }

    /// Waits for notifications and reads a burst of them.
    async fn gather(&mut self) {
        let Self { socket, own_port, seen, watched } = self;
        let take = |notice: Notice<'_>| match notice {
            Notice::Message(header, payload) => {
                if header.port != *own_port {
                    seen.notice(header, payload, watched);
                }
            }
            Notice::Lost(_) => seen.overrun = true,
        };
        socket.wait(take).await;
    }
}

impl Seen {
    fn matters(&self) -> bool {
        self.own || self.forward || self.overrun
    }

    /// Takes one message.
    fn notice(
        &mut self,
        header: Header,
        payload: &[u8],
        watched: &BTreeSet<ChainName>,
    ) -> Option<()> {
        let message = wire::message_of(header.kind)?;
        let (header, rest) = payload.split_at_checked(4)?;
        let family = header[0];
        if message == wire::NFT_MSG_NEWGEN {
            let name = attributes(rest).find(|(kind, _)| *kind == wire::NFTA_GEN_PROC_NAME);
            self.by = name.map(|(_, name)| wire::read_text(name).to_owned()).or(self.by.take());
            return Some(());
        }
        let (_, table) = attributes(rest).find(|(kind, _)| *kind == wire::NFTA_TABLE)?;
        let table = wire::read_text(table);
        if family == NFPROTO_INET && table == TABLE {
            self.own = true;
            return Some(());
        }
        let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
        let chain = match message {
            wire::NFT_MSG_NEWCHAIN | wire::NFT_MSG_DELCHAIN => {
                let hook = find(wire::NFTA_CHAIN_HOOK).and_then(|(_, hook)| read_hook(hook));
                self.forward |= hook == Some(HOOK_FORWARD);
                wire::read_text(find(wire::NFTA_CHAIN_NAME)?.1)
            }
            wire::NFT_MSG_NEWRULE | wire::NFT_MSG_DELRULE => {
                wire::read_text(find(wire::NFTA_RULE_CHAIN)?.1)
            }
            wire::NFT_MSG_DELTABLE => {
                self.forward |= watched.iter().any(|(_, known, _)| known == table);
                return Some(());
            }
            _ => return None,
        };
        self.forward |=
            !watched.is_empty() && watched.contains(&(family, table.to_owned(), chain.to_owned()));
        Some(())
    }
}

//! The links below the pods' traffic, and the MTU that fits through all of them.
//!
//! In flow: the node's addresses. Out flow: [`Underlay`], and a word when it may have changed. Only
//! changes of those links and addresses count: the devices that come and go with pods do not.

use std::net::IpAddr;

use anyhow::{Context, bail};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

/// What carries the packets of pods to other nodes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Underlay {
    /// Index and MTU of each link.
    links: Vec<(u32, u32)>,
}

impl Underlay {
    /// The smallest MTU, octets.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.links.iter().map(|(_, mtu)| *mtu).min()
    }
}

/// Questions to the kernel, and its notifications.
pub(super) struct Watch {
    handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Opens netlink in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn open() -> anyhow::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, events) =
            rtnetlink::new_multicast_connection(&groups).context("cannot open netlink")?;
        Ok(Self { handle, events, connection: tokio::spawn(connection) })
    }

    /// The links that have `addresses`; for an address of the loopback the one towards a peer.
    ///
    /// # Errors
    /// In words: none of the addresses is here, or netlink fails.
    pub(super) async fn look(
        &self,
        addresses: &[IpAddr],
        towards: &[IpAddr],
    ) -> anyhow::Result<Underlay> {
        let mut indexes = Vec::new();
        let mut dump = self.handle.address().get().execute();
        while let Some(message) = dump.try_next().await.context("cannot list addresses")? {
            if address_of(&message).is_some_and(|address| addresses.contains(&address)) {
                indexes.push(message.header.index);
            }
        }
        if indexes.is_empty() {
            let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            bail!("no link of this node has the address {}", words.join(" or "));
        }
        indexes.sort_unstable();
        indexes.dedup();
        let mut links = Vec::new();
        for index in indexes {
            let link = self.link(index).await?;
            if link.header.flags.contains(LinkFlags::Loopback) {
                for peer in towards {
                    // No way there now: a notification tells when there is one.
                    if let Ok(Some(index)) = self.towards(*peer).await {
                        let link = self.link(index).await?;
                        links.extend(mtu_of(&link).map(|mtu| (index, mtu)));
                    }
                }
            } else {
                links.extend(mtu_of(&link).map(|mtu| (index, mtu)));
            }
        }
        if links.is_empty() {
            bail!("the node's addresses are on the loopback, and no peer can be reached yet");
        }
        links.sort_unstable();
        links.dedup();
        Ok(Underlay { links })
    }

    /// Completes when `underlay` or `addresses` may not be right any more; may be dropped at any time.
    pub(super) async fn changed(&mut self, underlay: &Underlay, addresses: &[IpAddr]) {
        while let Some((message, _)) = self.events.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(message)
                    if concerns(&message, underlay, addresses) =>
                {
                    return;
                }
                NetlinkPayload::Overrun(_) => return,
                _ => {}
            }
        }
        // The connection has ended: what is known stays until the next slow look.
        std::future::pending().await
    }

    async fn link(&self, index: u32) -> anyhow::Result<LinkMessage> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.with_context(|| format!("no link {index}"))?;
        link.with_context(|| format!("no link {index}"))
    }

    /// The link that packets to `peer` leave by.
    async fn towards(&self, peer: IpAddr) -> anyhow::Result<Option<u32>> {
        let length = if peer.is_ipv4() { 32 } else { 128 };
        let question =
            RouteMessageBuilder::<IpAddr>::new().destination_prefix(peer, length)?.build();
        let mut routes = self.handle.route().get(question).execute();
        let route = routes.try_next().await.with_context(|| format!("no route to {peer}"))?;
        Ok(route.and_then(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn concerns(message: &RouteNetlinkMessage, underlay: &Underlay, addresses: &[IpAddr]) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            let known = underlay.links.iter().find(|(index, _)| *index == link.header.index);
            known.is_some_and(|(_, mtu)| mtu_of(link).is_some_and(|is| is != *mtu))
        }
        RouteNetlinkMessage::DelLink(link) => {
            underlay.links.iter().any(|(index, _)| *index == link.header.index)
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            address_of(message).is_some_and(|address| addresses.contains(&address))
        }
        _ => false,
    }
}

/// The link's own address, not that of the other end.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut other = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    other
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, mtu: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        link
    }

    fn address(address: &str, other_end: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes.push(AddressAttribute::Address(other_end.parse().unwrap()));
        message.attributes.push(AddressAttribute::Local(address.parse().unwrap()));
        message
    }

    #[test]
    fn only_the_links_below_and_the_nodes_addresses_count() {
        let underlay = Underlay { links: vec![(2, 1500), (3, 9000)] };
        let addresses = ["172.30.1.11".parse().unwrap()];
        let concerns = |message| concerns(&message, &underlay, &addresses);
        assert_eq!(underlay.mtu(), Some(1500));
        assert!(concerns(RouteNetlinkMessage::NewLink(link(2, 1400))));
        assert!(concerns(RouteNetlinkMessage::DelLink(link(3, 9000))));
        assert!(!concerns(RouteNetlinkMessage::NewLink(link(2, 1500))), "nothing of interest");
        assert!(!concerns(RouteNetlinkMessage::NewLink(link(7, 1400))), "a pod's");
        assert!(concerns(RouteNetlinkMessage::DelAddress(address("172.30.1.11", "172.30.1.1"))));
        assert!(!concerns(RouteNetlinkMessage::NewAddress(address("10.244.1.1", "172.30.1.11"))));
    }
}

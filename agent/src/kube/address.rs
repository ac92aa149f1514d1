//! Which of its addresses a node peers with, and why.
//!
//! In flow: the own Node's InternalIPs and annotations, BGPConfiguration's `nodeAddressAutodetectionV4`
//! and `…V6`, and what stands on the interfaces of this host. Out flow: addresses with the lengths of
//! their subnets, the peering address of each family first, and a sentence for each family that
//! `status` shows. Another node's choice cannot be seen from here: it stands in that Node's
//! annotations, where its agent writes it, or is its InternalIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use super::crd::AddressAutodetection;
use super::objects::{Node, V4_ANNOTATION, V6_ANNOTATION};

/// An address of this host.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HostAddress {
    /// Interface that it stands on.
    pub interface: String,
    /// The address with the length of its subnet.
    pub net: IpNet,
}

/// What is asked of the host; a trait so that tests have hosts of their own.
pub trait Host: Send + Sync + 'static {
    /// Addresses of its interfaces, in the kernel's order, without loopback and link-local ones.
    fn addresses(&self) -> Vec<HostAddress>;

    /// The address that packets to `destination` leave from.
    fn source_towards(&self, destination: IpAddr) -> Option<IpAddr>;
}

/// The host that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn addresses(&self) -> Vec<HostAddress> {
        let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
        interfaces
            .filter_map(|interface| {
                let address = interface.address?;
                let mask = interface.netmask?;
                let (address, mask) = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                    (Some(v4), _) => (IpAddr::V4(v4.ip()), IpAddr::V4(mask.as_sockaddr_in()?.ip())),
                    (_, Some(v6)) => {
                        (IpAddr::V6(v6.ip()), IpAddr::V6(mask.as_sockaddr_in6()?.ip()))
                    }
                    _ => return None,
                };
                let net = IpNet::with_netmask(address, mask).ok()?;
                let local = address.is_loopback()
                    || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                (!local).then_some(HostAddress { interface: interface.interface_name, net })
            })
            .collect()
    }

    fn source_towards(&self, destination: IpAddr) -> Option<IpAddr> {
        let any: IpAddr = match destination {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connecting a datagram socket asks the kernel for the route and sends nothing.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(destination, 9)).ok()?;
        let source = socket.local_addr().ok()?.ip();
        (!source.is_unspecified()).then_some(source)
    }
}

/// The own addresses, and how they were chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Choice {
    /// The address of each family that we peer with, then the others.
    pub addresses: Vec<IpNet>,
    /// One sentence a family that has an address or should have one.
    pub words: Vec<String>,
    /// The choice of each family if it is not the InternalIP: what the other nodes must be told by our
    /// Node's annotation.
    pub announced: [Option<IpNet>; 2],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    V4,
    V6,
}

impl Version {
    fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn annotation(self) -> &'static str {
        match self {
            Self::V4 => V4_ANNOTATION,
            Self::V6 => V6_ANNOTATION,
        }
    }
}

/// Chooses the addresses of the own `node`.
pub fn choose(
    node: &Node,
    v4: Option<&AddressAutodetection>,
    v6: Option<&AddressAutodetection>,
    host: &dyn Host,
) -> Choice {
    let local = host.addresses();
    let mut choice = Choice::default();
    for (index, (version, method)) in [(Version::V4, v4), (Version::V6, v6)].into_iter().enumerate()
    {
        let (found, words) = one(node, version, method, &local, host);
        if let Some((net, announce)) = found {
            choice.addresses.push(net);
            choice.announced[index] = announce.then_some(net);
        }
        choice.words.extend(words);
    }
    // The other InternalIPs are ours too: never imported from a peer, and good as a source address.
    for text in &node.addresses {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        let known = choice.addresses.iter().any(|net| net.addr() == address);
        // Not where a method of its own found nothing: it would silently take that one's place.
        if !choice.addresses.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
            continue;
        }
        if let (false, Some(here)) = (known, local.iter().find(|here| here.net.addr() == address)) {
            choice.addresses.push(here.net);
        }
    }
    choice
}

/// The address of one family and whether others must be told of it; and why it is this one.
fn one(
    node: &Node,
    version: Version,
    method: Option<&AddressAutodetection>,
    local: &[HostAddress],
    host: &dyn Host,
) -> (Option<(IpNet, bool)>, Option<String>) {
    let name = version.name();
    let mut here = local.iter().filter(|here| version.is_of(here.net.addr()));
    let default = AddressAutodetection::default();
    let method = method.unwrap_or(&default);
    if let Some(pattern) = &method.interface {
        return match here.find(|here| matches_interface(pattern, &here.interface)) {
            Some(found) => (
                Some((found.net, true)),
                Some(format!("{name} {}: first address of {}", found.net, found.interface)),
            ),
            None => (None, Some(format!("{name}: no interface {pattern} has an address"))),
        };
    }
    if let Some(cidrs) = &method.cidrs {
        let nets: Vec<IpNet> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        let inside = |here: &&HostAddress| nets.iter().any(|net| net.contains(&here.net.addr()));
        return match here.find(inside) {
            Some(found) => (
                Some((found.net, true)),
                Some(format!(
                    "{name} {}: first address inside {}, on {}",
                    found.net,
                    cidrs.join(", "),
                    found.interface
                )),
            ),
            None => (None, Some(format!("{name}: no address is inside {}", cidrs.join(", ")))),
        };
    }
    if let Some(destination) = &method.can_reach {
        let source = destination
            .parse()
            .ok()
            .filter(|address| version.is_of(*address))
            .and_then(|address| host.source_towards(address));
        return match source {
            Some(source) => {
                let net = on_host(source, local).map_or(IpNet::from(source), |here| here.net);
                let words = format!("{name} {net}: packets to {destination} leave from it");
                (Some((net, true)), Some(words))
            }
            None => (None, Some(format!("{name}: there is no route to {destination}"))),
        };
    }
    internal_ip(node, version, local)
}

/// The annotation of the Node, for whoever knows better, else its first InternalIP.
fn internal_ip(
    node: &Node,
    version: Version,
    local: &[HostAddress],
) -> (Option<(IpNet, bool)>, Option<String>) {
    let name = version.name();
    let internal = node
        .addresses
        .iter()
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .find(|address| version.is_of(*address));
    let Some(address) = internal else {
        return (None, None);
    };
    match on_host(address, local) {
        Some(here) => (
            Some((here.net, false)),
            Some(format!("{name} {}: InternalIP of the Node, on {}", here.net, here.interface)),
        ),
        None => (
            Some((IpNet::from(address), false)),
            Some(format!(
                "{name} {address}: InternalIP of the Node, but on no interface of this host; choose \
                 another with nodeAddressAutodetection"
            )),
        ),
    }
}

/// The addresses that another node is peered with: what its agent says in the annotations, else its
/// InternalIPs.
pub fn of_other(node: &Node) -> Vec<String> {
    let mut addresses = Vec::new();
    for version in [Version::V4, Version::V6] {
        if let Some(announced) = node.annotations.get(version.annotation()) {
            addresses.push(announced.clone());
        }
        let of_version =
            |text: &&String| text.parse::<IpAddr>().is_ok_and(|address| version.is_of(address));
        for internal in node.addresses.iter().filter(of_version) {
            let known =
                addresses.iter().any(|known| known.split('/').next() == Some(internal.as_str()));
            if !known {
                addresses.push(internal.clone());
            }
        }
    }
    addresses
}

fn on_host(address: IpAddr, local: &[HostAddress]) -> Option<&HostAddress> {
    local.iter().find(|here| here.net.addr() == address)
}

fn matches_interface(pattern: &str, interface: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => interface.starts_with(start),
        None => interface == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab;

    impl Host for Lab {
        fn addresses(&self) -> Vec<HostAddress> {
            [("eth0", "172.30.1.11/24"), ("eth0", "fd00::11/64"), ("bond1", "10.9.0.11/16")]
                .map(|(interface, net)| HostAddress {
                    interface: interface.to_owned(),
                    net: net.parse().expect("net"),
                })
                .into()
        }

        fn source_towards(&self, destination: IpAddr) -> Option<IpAddr> {
            destination.is_ipv4().then(|| [10, 9, 0, 11].into())
        }
    }

    fn node(addresses: &[&str]) -> Node {
        Node {
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            ..Node::default()
        }
    }

    fn method(set: impl FnOnce(&mut AddressAutodetection)) -> AddressAutodetection {
        let mut method = AddressAutodetection::default();
        set(&mut method);
        method
    }

    fn texts(choice: &Choice) -> Vec<String> {
        choice.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn internal_ip_is_the_default_and_gets_its_subnet() {
        let choice = choose(&node(&["172.30.1.11", "fd00::11", "10.9.0.11"]), None, None, &Lab);
        assert_eq!(texts(&choice), ["172.30.1.11/24", "fd00::11/64", "10.9.0.11/16"]);
        assert_eq!(choice.announced, [None, None]);
        assert!(choice.words[0].contains("InternalIP of the Node, on eth0"), "{:?}", choice.words);
    }

    #[test]
    fn an_internal_ip_that_is_not_here_is_used_and_said() {
        let choice = choose(&node(&["192.0.2.1"]), None, None, &Lab);
        assert_eq!(texts(&choice), ["192.0.2.1/32"]);
        assert!(choice.words[0].contains("on no interface"), "{:?}", choice.words);
    }

    #[test]
    fn other_methods_choose_and_are_announced() {
        let node = node(&["172.30.1.11"]);
        for (method, address) in [
            (method(|m| m.interface = Some("bond*".to_owned())), "10.9.0.11/16"),
            (method(|m| m.interface = Some("eth0".to_owned())), "172.30.1.11/24"),
            (method(|m| m.cidrs = Some(vec!["10.0.0.0/8".to_owned()])), "10.9.0.11/16"),
            (method(|m| m.can_reach = Some("8.8.8.8".to_owned())), "10.9.0.11/16"),
        ] {
            let choice = choose(&node, Some(&method), None, &Lab);
            assert_eq!(texts(&choice)[0], address, "{method:?}");
            assert_eq!(choice.announced[0], Some(address.parse().expect("net")), "{method:?}");
            assert!(choice.words[0].contains(address), "{:?}", choice.words);
        }
        for method in [
            method(|m| m.interface = Some("eth1".to_owned())),
            method(|m| m.cidrs = Some(vec!["11.0.0.0/8".to_owned()])),
            method(|m| m.can_reach = Some("fd00::1".to_owned())),
        ] {
            let choice = choose(&node, Some(&method), None, &Lab);
            assert!(
                choice.words[0].starts_with("IPv4: no") || choice.words[0].contains("no route")
            );
            assert_eq!((choice.announced[0], texts(&choice)), (None, Vec::new()));
        }
    }

    #[test]
    fn another_node_says_its_choice_by_annotation() {
        let mut other = node(&["172.30.1.12", "fd00::12"]);
        assert_eq!(of_other(&other), ["172.30.1.12", "fd00::12"]);
        other.annotations.insert(V4_ANNOTATION.to_owned(), "10.9.0.12/16".to_owned());
        assert_eq!(of_other(&other), ["10.9.0.12/16", "172.30.1.12", "fd00::12"]);
    }

    #[test]
    fn this_host_has_addresses_with_lengths() {
        // Whatever they are, they are no loopback ones; a host without any is possible.
        for here in ThisHost.addresses() {
            assert!(!here.net.addr().is_loopback() && !here.interface.is_empty(), "{here:?}");
        }
    }
}

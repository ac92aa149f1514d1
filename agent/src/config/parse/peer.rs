//! Peers: the scalars of an entry of `peers`.

use std::net::{IpAddr, Ipv4Addr};

use routelet_bgp::core::config::NextHopMode;
use routelet_proto::{Asn, Family, Role};

use super::{BGP_PORT, DEFAULT_RESTART_TIME, Reader, entry, keepalive_time, restart_time};
use crate::config::file::PeerFile;
use crate::config::scalar::{self, Scalar};
use crate::config::spec::{At, PeerSpec, SourceAddress};

impl Reader<'_> {
    pub(super) fn peer(&mut self, file: &PeerFile, index: usize) -> Option<PeerSpec> {
        let path = entry("peers", file.name.as_ref(), index);
        let key = |key: &str| format!("{path}.{key}");
        file.check_keys(&path, self.problems);
        let name = self.need(file.name.as_ref(), file.place, &key("name"), scalar::name);
        let peer_ip = self.need(file.peer_ip.as_ref(), file.place, &key("peerIP"), scalar::peer_ip);
        let as_number =
            self.need(file.as_number.as_ref(), file.place, &key("asNumber"), scalar::as_number);
        let interface = self.get(file.interface.as_ref(), &key("interface"), scalar::interface);
        let families = file.families.as_ref();
        if families.is_some_and(Vec::is_empty) {
            self.problems.error(
                file.place,
                key("families"),
                "is empty: leave it out, or name ipv4-unicast, ipv6-unicast, or both",
            );
        }
        let complete = name.is_some() && peer_ip.is_some() && as_number.is_some();
        // A peer without its heart is not returned; the stand-ins let its other keys be read.
        let name = name.unwrap_or(At::default_of(String::new()));
        let peer_ip =
            peer_ip.unwrap_or(At::default_of((IpAddr::V4(Ipv4Addr::UNSPECIFIED), None, None)));
        let (address, zone, port) = peer_ip.value;
        if let (Some(zone), Some(interface)) = (&zone, &interface)
            && *zone != interface.value
        {
            self.problems.error(
                interface.place,
                key("interface"),
                format!("is {}, but peerIP says %{zone}; leave out one of them", interface.value),
            );
        }
        let zone = zone.map(|value| At { value, place: peer_ip.place });
        let spec = PeerSpec {
            name,
            of_node: false,
            peer_ip: At { value: address, place: peer_ip.place },
            port: port.unwrap_or(BGP_PORT),
            interface: interface.or(zone),
            as_number: as_number.unwrap_or(At::default_of(Asn::ZERO)),
            local_as_number: self.get(
                file.local_as_number.as_ref(),
                &key("localASNumber"),
                scalar::as_number,
            ),
            num_allowed_local_as_numbers: self.or_at(
                file.num_allowed_local_as_numbers.as_ref(),
                &key("numAllowedLocalASNumbers"),
                0,
                |text| scalar::number(text, 0, u8::MAX),
            ),
            families: families.map(|_| self.values(families, &key("families"), family)),
            filters: self.values(file.filters.as_ref(), &key("filters"), scalar::name),
            next_hop_mode: self.or(
                file.next_hop_mode.as_ref(),
                &key("nextHopMode"),
                NextHopMode::Auto,
                next_hop_mode,
            ),
            route_reflector_client: self.or_at(
                file.route_reflector_client.as_ref(),
                &key("routeReflectorClient"),
                false,
                scalar::boolean,
            ),
            maximum_prefixes: self
                .get(file.maximum_prefixes.as_ref(), &key("maximumPrefixes"), |text| {
                    scalar::number(text, 1, u32::MAX)
                })
                .map(|at| at.value),
            role: self.get(file.role.as_ref(), &key("role"), role),
            source_address: self.or_at(
                file.source_address.as_ref(),
                &key("sourceAddress"),
                SourceAddress::Nearest,
                source_address,
            ),
            passive: self.or_at(file.passive.as_ref(), &key("passive"), false, scalar::boolean),
            hold_time: self.get(file.hold_time.as_ref(), &key("holdTime"), scalar::hold_time),
            keepalive_time: self.get(
                file.keepalive_time.as_ref(),
                &key("keepaliveTime"),
                keepalive_time,
            ),
            max_restart_time: self.or(
                file.max_restart_time.as_ref(),
                &key("maxRestartTime"),
                DEFAULT_RESTART_TIME,
                restart_time,
            ),
            ttl: self.get(file.ttl.as_ref(), &key("ttl"), |text| scalar::number(text, 1, u8::MAX)),
            ttl_security: self.get(file.ttl_security.as_ref(), &key("ttlSecurity"), hops),
            password: self.password(file.password.as_ref(), file.place, &key("password")),
        };
        complete.then_some(spec)
    }
}

fn family(text: &str) -> Scalar<Family> {
    let words = [("ipv4-unicast", Family::Ipv4Unicast), ("ipv6-unicast", Family::Ipv6Unicast)];
    scalar::choice(text, &words)
}

fn next_hop_mode(text: &str) -> Scalar<NextHopMode> {
    let words =
        [("Auto", NextHopMode::Auto), ("Self", NextHopMode::Myself), ("Keep", NextHopMode::Keep)];
    scalar::choice(text, &words)
}

fn role(text: &str) -> Scalar<Role> {
    let words = [
        ("Provider", Role::Provider),
        ("Customer", Role::Customer),
        ("Peer", Role::Peer),
        ("RouteServer", Role::RouteServer),
        ("RouteServerClient", Role::RouteServerClient),
    ];
    scalar::choice(text, &words)
}

fn source_address(text: &str) -> Scalar<SourceAddress> {
    match text {
        "UseNodeIP" => Ok(SourceAddress::UseNodeIp),
        "None" => Ok(SourceAddress::None),
        _ => scalar::host_address(text)
            .map(SourceAddress::Address)
            .map_err(|_| format!("`{text}` is neither an address nor `UseNodeIP` nor `None`")),
    }
}

/// `ttlSecurity` as Calico has it: how many hops away the peer is.
fn hops(text: &str) -> Scalar<u8> {
    scalar::number(text, 1, 254).map_err(|_| {
        format!("`{text}` is not a number of hops from 1 to 254; 1 is a peer on our link")
    })
}

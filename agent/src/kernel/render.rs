//! Routes in words, as `ip route` prints them.
//!
//! In flow: a [`KernelRoute`] and the names of interfaces. Out flow: one line.

use super::route::{
    KernelRoute, MAIN_TABLE, RT_SCOPE_LINK, RTN_BLACKHOLE, RTN_PROHIBIT, RTN_THROW, RTN_UNICAST,
    RTN_UNREACHABLE,
};

/// As `ip route show` prints it, with the table where that is not main.
pub(super) fn route(route: &KernelRoute, link_name: &dyn Fn(u32) -> String) -> String {
    let prefix = route.key.prefix;
    let mut line = match route.kind {
        RTN_UNICAST => String::new(),
        RTN_BLACKHOLE => "blackhole ".to_owned(),
        RTN_UNREACHABLE => "unreachable ".to_owned(),
        RTN_PROHIBIT => "prohibit ".to_owned(),
        RTN_THROW => "throw ".to_owned(),
        other => format!("type {other} "),
    };
    if prefix.prefix_len() == 0 {
        line.push_str("default");
    } else if prefix.prefix_len() == prefix.max_prefix_len() {
        line.push_str(&prefix.addr().to_string());
    } else {
        line.push_str(&prefix.to_string());
    }
    if route.nexthop_id != 0 {
        line.push_str(&format!(" nhid {}", route.nexthop_id));
    }
    if let ([hop], RTN_UNICAST) = (route.hops.as_slice(), route.kind) {
        if let Some(via) = hop.via {
            line.push_str(&via_words(via, prefix.addr().is_ipv4()));
        }
        line.push_str(&format!(" dev {}", link_name(hop.interface)));
    }
    if route.key.table != MAIN_TABLE {
        line.push_str(&format!(" table {}", route.key.table));
    }
    line.push_str(&format!(" proto {}", protocol(route.protocol)));
    if route.scope == RT_SCOPE_LINK && prefix.addr().is_ipv4() {
        line.push_str(" scope link");
    }
    if let Some(source) = route.preferred_source {
        line.push_str(&format!(" src {source}"));
    }
    if route.key.metric != 0 {
        line.push_str(&format!(" metric {}", route.key.metric));
    }
    if let [hop] = route.hops.as_slice() {
        if hop.onlink {
            line.push_str(" onlink");
        }
    } else {
        for hop in &route.hops {
            line.push_str(" nexthop");
            if let Some(via) = hop.via {
                line.push_str(&via_words(via, prefix.addr().is_ipv4()));
            }
            line.push_str(&format!(
                " dev {} weight {}",
                link_name(hop.interface),
                u16::from(hop.hops) + 1
            ));
            if hop.onlink {
                line.push_str(" onlink");
            }
        }
    }
    line
}

/// As `ip route get` prints it: the way to one address.
pub(super) fn route_to(route: &KernelRoute, link_name: &dyn Fn(u32) -> String) -> String {
    let mut line = route.key.prefix.addr().to_string();
    if route.is_local() {
        line.insert_str(0, "local ");
    }
    if let [hop, ..] = route.hops.as_slice() {
        if let Some(via) = hop.via {
            line.push_str(&via_words(via, route.key.prefix.addr().is_ipv4()));
        }
        line.push_str(&format!(" dev {}", link_name(hop.interface)));
    }
    if route.key.table != MAIN_TABLE && !route.is_local() {
        line.push_str(&format!(" table {}", route.key.table));
    }
    if let Some(source) = route.preferred_source {
        line.push_str(&format!(" src {source}"));
    }
    line
}

/// The name of a routing protocol number as in /etc/iproute2/rt_protos, else the number.
pub(super) fn protocol(number: u8) -> String {
    let name = match number {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_owned()
}

fn via_words(via: std::net::IpAddr, ipv4_route: bool) -> String {
    if ipv4_route && via.is_ipv6() { format!(" via inet6 {via}") } else { format!(" via {via}") }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::super::route::{Hop, RouteKey};
    use super::*;

    #[test]
    fn routes_read_as_ip_route_prints_them() {
        let name = |index: u32| format!("eth{index}");
        let hop =
            Hop { via: Some("10.0.0.2".parse().unwrap()), interface: 0, onlink: false, hops: 0 };
        let mut shown = KernelRoute {
            key: RouteKey { prefix: "10.1.0.0/24".parse().unwrap(), metric: 1179, table: 254 },
            protocol: 179,
            kind: RTN_UNICAST,
            scope: 0,
            hops: smallvec![hop],
            preferred_source: None,
            nexthop_id: 0,
        };
        assert_eq!(route(&shown, &name), "10.1.0.0/24 via 10.0.0.2 dev eth0 proto 179 metric 1179");
        shown.hops.push(Hop { interface: 1, onlink: true, hops: 2, ..hop });
        assert_eq!(
            route(&shown, &name),
            "10.1.0.0/24 proto 179 metric 1179 nexthop via 10.0.0.2 dev eth0 weight 1 \
             nexthop via 10.0.0.2 dev eth1 weight 3 onlink"
        );
        shown.hops.clear();
        shown.kind = RTN_BLACKHOLE;
        shown.key.table = 7;
        shown.protocol = 12;
        assert_eq!(route(&shown, &name), "blackhole 10.1.0.0/24 table 7 proto bird metric 1179");
    }
}

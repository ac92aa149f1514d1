//! The text of the configuration list.
//!
//! In flow: [`CniConfig`] and the MTU. Out flow: JSON, always the same for the same input, so that
//! comparing texts says whether anything is to be written.
//!
//! Version 0.4.0 of the specification is what every runtime and plugin in use accepts: containerd
//! since 1.0, the plugins since 0.8. host-local hands out neither the first address of a prefix, which
//! a tunnel device may carry, nor the second, which is the node's.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{CniConfig, Plugin};

/// Name of the network; host-local keeps its reservations under it.
pub const NETWORK_NAME: &str = "routelet";
/// Name of the bridge, where there is one.
const BRIDGE: &str = "routelet0";
/// The least MTU of a link with IPv6 (RFC 8200 section 5).
const LEAST_IPV6_MTU: u32 = 1280;

/// The configuration list.
///
/// # Errors
/// What makes it impossible, in words.
pub(super) fn document(config: &CniConfig, mtu: u32) -> Result<String, String> {
    for cidr in &config.pod_cidrs {
        if cidr.prefix_len() > cidr.max_prefix_len() - 2 {
            return Err(format!("the pod CIDR {cidr} is too small to take addresses from"));
        }
    }
    let families = [
        ("0.0.0.0/0", of_family(&config.pod_cidrs, true)),
        ("::/0", of_family(&config.pod_cidrs, false)),
    ];
    if mtu < LEAST_IPV6_MTU && !families[1].1.is_empty() {
        return Err(format!(
            "pods would get an MTU of {mtu}, and IPv6 needs {LEAST_IPV6_MTU}: raise the MTU of the \
             links between the nodes"
        ));
    }
    let used = families.iter().filter(|(_, subnets)| !subnets.is_empty());
    let ranges: Vec<&Vec<Value>> = used.clone().map(|(_, subnets)| subnets).collect();
    let routes: Vec<Value> = used.map(|(everything, _)| json!({ "dst": everything })).collect();
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    let device = match config.plugin {
        Plugin::Ptp => json!({"type": "ptp", "mtu": mtu, "ipam": ipam}),
        // A pod that reaches itself through a service address needs the hairpin.
        Plugin::Bridge => json!({
            "type": "bridge", "bridge": BRIDGE, "isGateway": true, "hairpinMode": true, "mtu": mtu,
            "ipam": ipam,
        }),
    };
    let list = json!({
        "cniVersion": "0.4.0",
        "name": NETWORK_NAME,
        "plugins": [device, {"type": "portmap", "capabilities": {"portMappings": true}}],
    });
    Ok(format!("{list:#}\n"))
}

/// The plugins that the runtime will run.
pub(super) fn plugins(config: &CniConfig) -> [String; 3] {
    [config.plugin.to_string(), "host-local".to_owned(), "portmap".to_owned()]
}

/// One set of ranges gives a pod one address: prefixes of a family belong into the same set.
fn of_family(cidrs: &[IpNet], ipv4: bool) -> Vec<Value> {
    let mut cidrs: Vec<&IpNet> =
        cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == ipv4).collect();
    cidrs.sort_unstable();
    cidrs.into_iter().map(|cidr| json!({ "subnet": cidr.to_string() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cidrs: &[&str]) -> CniConfig {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        CniConfig { enabled: true, pod_cidrs, ..CniConfig::default() }
    }

    fn list(config: &CniConfig) -> Value {
        serde_json::from_str(&document(config, 1480).unwrap()).unwrap()
    }

    #[test]
    fn a_set_of_ranges_for_each_family() {
        let list = list(&config(&["10.244.9.0/24", "10.244.1.0/24", "fd44:0:0:1::/64"]));
        let ipam = &list["plugins"][0]["ipam"];
        assert_eq!(
            ipam["ranges"],
            json!([
                [{"subnet": "10.244.1.0/24"}, {"subnet": "10.244.9.0/24"}],
                [{"subnet": "fd44:0:0:1::/64"}]
            ])
        );
        assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(list["plugins"][0]["mtu"], 1480);
    }

    #[test]
    fn one_family_has_one_default_route() {
        let list = list(&config(&["fd44:0:0:1::/64"]));
        assert_eq!(list["plugins"][0]["ipam"]["routes"], json!([{"dst": "::/0"}]));
    }

    #[test]
    fn the_bridge_is_the_gateway() {
        let config = CniConfig { plugin: Plugin::Bridge, ..config(&["10.244.1.0/24"]) };
        let list = list(&config);
        assert_eq!(list["plugins"][0]["type"], "bridge");
        assert_eq!(list["plugins"][0]["isGateway"], true);
        assert_eq!(list["plugins"][1]["type"], "portmap");
    }

    #[test]
    fn what_the_plugins_would_refuse_is_said_before() {
        let error = document(&config(&["10.244.1.0/31"]), 1500).unwrap_err();
        assert!(error.contains("10.244.1.0/31"), "{error}");
        let error = document(&config(&["10.244.1.0/24", "fd44::/64"]), 1279).unwrap_err();
        assert!(error.contains("1280"), "{error}");
        assert!(document(&config(&["10.244.1.0/24"]), 1279).is_ok());
    }
}

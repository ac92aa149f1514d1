//! What pods are told.

use std::path::PathBuf;

use super::*;
use crate::cni::Plugin;

#[test]
fn a_file_without_a_word_about_it_attaches_no_pods() {
    let cni = with("").cni;
    assert!(!cni.enabled);
    assert_eq!(cni.conf_dir, PathBuf::from("/etc/cni/net.d"));
    assert_eq!(cni.bin_dirs, ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from));
    assert_eq!((cni.plugin, cni.mtu), (Plugin::Ptp, None));
}

#[test]
fn the_keys_arrive() {
    let cni =
        with("cni: {enabled: true, confDir: /c, binDirs: [/b], plugin: bridge, mtu: 1400}\n").cni;
    assert!(cni.enabled);
    assert_eq!((cni.conf_dir, cni.bin_dirs), ("/c".into(), vec![PathBuf::from("/b")]));
    assert_eq!((cni.plugin, cni.mtu), (Plugin::Bridge, Some(1400)));
    assert_eq!(cni.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(cni.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn the_pool_that_costs_most_decides_what_fits() {
    let both =
        "node: {name: a, addresses: [10.0.0.1/24, 'fd30::1/64'], podCIDRs: [10.244.1.0/24]}\n";
    let overhead = |pools: &str| {
        let text = format!("{both}pools: [{pools}]\ntunnels: {{mtu: 1400}}\n");
        let cni = read(&text).unwrap_or_else(|error| panic!("{error}")).cni;
        assert_eq!(cni.tunnel_mtu, (cni.overhead > 0).then_some(1400));
        cni.overhead
    };
    let [plain, ipip, vxlan, vxlan6] = [
        "{name: a, cidr: 10.1.0.0/16}",
        "{name: b, cidr: 10.2.0.0/16, ipipMode: CrossSubnet}",
        "{name: c, cidr: 10.3.0.0/16, vxlanMode: Always}",
        "{name: d, cidr: 'fd44::/48', vxlanMode: CrossSubnet}",
    ];
    assert_eq!(overhead(plain), 0);
    assert_eq!(overhead(&format!("{plain}, {ipip}")), 20);
    assert_eq!(overhead(&format!("{ipip}, {vxlan}")), 50);
    assert_eq!(overhead(&format!("{ipip}, {vxlan}, {vxlan6}")), 70);
}

#[test]
fn a_change_is_live_and_only_for_pods_to_come() {
    let old = with("cni: {enabled: true}\n");
    let new = with(
        "cni: {enabled: true, mtu: 1400, plugin: bridge}\npools: [{name: a, cidr: 10.244.0.0/16}]\n",
    );
    let plan = old.plan(&new);
    assert_eq!(plan.cni, ["cni.plugin: ptp → bridge", "cni.mtu: what fits → 1400"]);
    assert!(plan.restart_required.is_empty() && plan.peers.is_empty(), "{plan}");
    assert_eq!(old.applicable(new.clone()).cni, new.cni);
    assert!(with("").plan(&with("cni: {plugin: bridge}\n")).cni.is_empty(), "off all the time");
}

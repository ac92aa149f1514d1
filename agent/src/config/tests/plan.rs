use super::*;

const MESH: &str = "nodes: [{name: b, addresses: [10.0.0.2/24], podCIDRs: [10.244.2.0/24]}]\n";

#[test]
fn nothing_changes() {
    let config = with(MESH);
    let plan = config.plan(&config.clone());
    assert!(plan.is_empty());
    assert_eq!(plan.to_string(), "nothing changes");
}

#[test]
fn each_peer_has_its_step() {
    let old = with(
        "peers:
- {name: gone, peerIP: 10.0.0.3, asNumber: 7}
- {name: live, peerIP: 10.0.0.4, asNumber: 7}
- {name: reset, peerIP: 10.0.0.5, asNumber: 7}
- {name: same, peerIP: 10.0.0.6, asNumber: 7}
",
    );
    let new = with(
        "peers:
- {name: live, peerIP: 10.0.0.4, asNumber: 7, nextHopMode: Self, maximumPrefixes: 5, filters: [f]}
- {name: new, peerIP: 10.0.0.7, asNumber: 7}
- {name: reset, peerIP: 10.0.0.5, asNumber: 8, holdTime: 30s}
- {name: same, peerIP: 10.0.0.6, asNumber: 7}
filters: [{name: f, importV4: [{action: Accept}]}]
",
    );
    let plan = old.plan(&new);
    assert_eq!(
        plan.to_string(),
        "peer gone: removed, its session ends
peer live: live change of nextHopMode, maximumPrefixes, filters
peer new: added
peer reset: session RESET, for asNumber, holdTime"
    );
    assert_eq!(plan.interrupted().collect::<Vec<_>>(), ["gone", "reset"]);
}

#[test]
fn what_touches_no_session_is_said_too() {
    let old = with(MESH);
    let new = with(
        "bgp: {maximumPaths: 4}
nodes: [{name: b, addresses: [10.0.0.2/24], podCIDRs: [10.244.3.0/24]}]
pools: [{name: p, cidr: 10.244.0.0/16}]
kernel: {metric: 100, repair: false, table: 100, protocol: 200, nexthopObjects: Never}",
    );
    assert_eq!(
        old.plan(&new).to_string(),
        "speaker: bgp.maximumPaths: 16 → 4
speaker: pool 10.244.0.0/16 added
speaker: pod CIDR of another node 10.244.3.0/24 added
speaker: pod CIDR of another node 10.244.2.0/24 removed
kernel: kernel.table: 254 → 100
kernel: kernel.protocol: 179 → 200
kernel: kernel.metric: 1179 → 100
kernel: kernel.repair: true → false
kernel: kernel.nexthopObjects: Auto → Never"
    );
}

#[test]
fn what_needs_a_restart_is_kept_and_named() {
    let old = with(MESH);
    let text = "node: {name: z, addresses: [10.0.0.9/24], podCIDRs: [10.244.1.0/24]}
nodes: [{name: b, addresses: [10.0.0.2/24], podCIDRs: [10.244.2.0/24]}]
kernel: {enabled: false}
api: {socket: /run/x.sock}
stateDir: /var/lib/x
";
    let new = read(text).unwrap();
    assert_eq!(
        old.restart_required(&new),
        [
            "node.name: a → z",
            "node.routerID: 10.0.0.1 → 10.0.0.9",
            "bgp.listenAddresses, bgp.listenPort: [10.0.0.1:179] → [10.0.0.9:179]",
            "kernel.enabled: true → false",
            "api.socket: /run/routelet/routelet.sock → /run/x.sock",
            "stateDir: /var/lib/routelet → /var/lib/x",
        ]
    );
    let applied = old.applicable(new.clone());
    assert!(old.restart_required(&applied).is_empty());
    assert_eq!(applied.speaker.router_id, old.speaker.router_id);
    assert_eq!(applied.speaker.cluster_id, old.speaker.cluster_id);
    // What can change does: the session now comes from the new address.
    assert_eq!(peer(&applied, "b").source_address, Some("10.0.0.9".parse().unwrap()));
    let plan = old.plan(&new);
    assert_eq!(plan.restart_required.len(), 6);
    assert!(matches!(&plan.peers["b"], PeerStep::Reset(keys) if keys.contains("sourceAddress")));
}

#[test]
fn a_change_of_tunnels_says_what_becomes_of_each_pool() {
    let pools = |words: &str| with(&format!("pools: [{words}]\n"));
    let old = pools(
        "{name: a, cidr: 10.244.0.0/16, ipipMode: CrossSubnet}, \
         {name: b, cidr: 10.245.0.0/16, vxlanMode: Always}",
    );
    let new = with(
        "pools:
- {name: a, cidr: 10.244.0.0/16, vxlanMode: CrossSubnet}
tunnels: {vxlanVNI: 7, mtu: 1400, guard: false}",
    );
    let kernel: Vec<_> = old
        .plan(&new)
        .kernel
        .into_iter()
        .filter(|words| words.contains("unnel") || words.contains("VXLAN"))
        .collect();
    assert_eq!(
        kernel,
        [
            "tunnel of pool 10.244.0.0/16: IP-in-IP CrossSubnet → VXLAN CrossSubnet",
            "tunnel of pool 10.245.0.0/16: VXLAN Always → Never",
            "tunnels.vxlanVNI: 4096 → 7 (VXLAN is interrupted until all nodes have it)",
            "tunnels.mtu: automatic → 1400",
            "tunnels.guard: true → false",
        ]
    );
}

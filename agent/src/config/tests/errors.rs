use proptest::prelude::*;

use super::*;

/// `line:column path: message` of everything wrong with `text`.
fn refused(text: &str) -> Vec<String> {
    let error = read(text).expect_err("it is refused");
    error
        .lines()
        .into_iter()
        .map(|line| {
            let line = line.strip_prefix("f.yaml:").expect("the file is named");
            line.trim_start().to_owned()
        })
        .collect()
}

#[test]
fn each_mistake_names_its_place_and_the_fix() {
    for (name, more, expected) in cases::AFTER_NODE {
        assert_eq!(refused(&format!("{NODE}{more}")), *expected, "{name}");
    }
}

#[test]
fn each_mistake_in_the_node_names_its_place_and_the_fix() {
    for (name, text, expected) in cases::WHOLE {
        assert_eq!(refused(text), *expected, "{name}");
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file_with_their_lines() {
    let text = "node: {name: a, addresses: [10.0.0.1/24]}
bgp:
  holdTime: 2s
  asnumber: 1
peers:
  - {name: tor, peerIP: 10.0.0.300, asNumber: 65001}
";
    let error = read(text).unwrap_err().to_string();
    let expected = "\
error: f.yaml:3:13: bgp.holdTime: `2s` is forbidden (RFC 4271 section 4.2): 0s for no keepalives at all, or at least 3s
  3 |   holdTime: 2s
    |             ^
error: f.yaml:4:3: bgp: unknown key `asnumber`. Did you mean `asNumber`? Known here: asNumber, nodeToNodeMeshEnabled, nodeMeshPassword, nodeMeshMaxRestartTime, listenPort, listenAddresses, holdTime, keepaliveTime, connectRetryTime, maximumPaths, meshOriginCheck
  4 |   asnumber: 1
    |   ^
error: f.yaml:6:25: peers[tor].peerIP: `10.0.0.300` is not an IP address, for example 192.0.2.1 or 2001:db8::1
  6 |   - {name: tor, peerIP: 10.0.0.300, asNumber: 65001}
    |                         ^";
    assert_eq!(error, expected);
}

#[test]
fn a_password_in_the_wrong_place_is_never_shown() {
    let places = [
        "password: hunter2",
        "password: 'hunter2'",
        "password:\n      hunter2",
        "password: {hunter2}",
        "password: {hunter2: x}",
        "password: {value: hunter2}",
        "password:\n      value: hunter2",
        "password:\n\n\n      file: /x\n      value: hunter2",
        "password: [hunter2]",
        "password: {file: [hunter2]}",
        "password: {value: hunter2, value: hunter2}",
        "password: hunter2: x",
    ];
    for place in places {
        let text = format!(
            "{NODE}peers:\n  - name: x\n    peerIP: 10.0.0.2\n    asNumber: 65001\n    {place}\n"
        );
        let error = read(&text).expect_err(place);
        assert!(!error.to_string().contains("hunter2"), "{place}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{place}: {error:?}");
    }
}

#[test]
fn warnings_are_no_errors() {
    let cases = [
        (
            "peers:\n- {name: p, peerIP: 10.0.0.2, asNumber: 7, holdTime: 30s, keepaliveTime: 20s}",
            "line 3: peers[p].keepaliveTime: is more than a third of holdTime 30s: two lost keepalives end the session",
        ),
        (
            "bgp: {holdTime: 0s}\npeers: [{name: p, peerIP: 10.0.0.2, asNumber: 7}]",
            "line 2: bgp.holdTime: with 0s there are no keepalives: a peer that vanishes is noticed by TCP only, if ever",
        ),
        (
            "pools: [{name: p, cidr: 10.245.0.0/16}]",
            "line 1: node.podCIDRs: 10.244.1.0/24 is outside every pool",
        ),
        (
            "peers: [{name: rr, peerIP: 10.0.0.2, asNumber: 64512}]",
            "pools: there are neither pools nor pod CIDRs of other nodes: from rr and its like everything but the default route is accepted",
        ),
        ("filters: [{name: f}]", "line 2: filters[f]: is used by no peer"),
        (
            "filters:\n- name: f\n  importV4:\n  - {action: Accept}\n  - {action: Reject}",
            "line 6: filters[f].importV4[1]: is never reached: a rule before it (line 5) matches everything",
        ),
        (
            "peers: [{name: p, peerIP: 10.0.0.2, asNumber: 7, families: [ipv6-unicast]}]",
            "line 2: peers[p].families: the node has no address to be the next hop of ipv6-unicast routes: only those that keep their next hop can be sent",
        ),
        (
            "peers: [{name: p, peerIP: 10.0.0.2, asNumber: 64512, numAllowedLocalASNumbers: 1}]",
            "line 2: peers[p].numAllowedLocalASNumbers: on a peer of our own AS this concerns routes that came back from outside only",
        ),
        ("", "peers: there is no peer at all, neither here nor in `nodes`"),
    ];
    for (more, expected) in cases {
        let warnings = with(more).warnings;
        assert!(warnings.iter().any(|warning| warning == expected), "{more}: {warnings:#?}");
    }
    let text = "node: {name: a, addresses: [10.0.0.1/24], routerID: 10.0.0.2}
nodes: [{name: b, addresses: [10.0.0.2/24]}]";
    let warnings = read(text).unwrap().warnings;
    let expected = "line 2: nodes[b]: has our router id 10.0.0.2 unless another is configured there; \
                    no session comes up between two speakers with the same one";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:#?}");
}

/// A file that is right, to be damaged.
const RIGHT: &str = include_str!("../../../../docs/examples/two-tors.yaml");

proptest! {
    #[test]
    fn any_octets_are_refused_or_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&String::from_utf8_lossy(&octets)).map_err(|error| error.to_string());
    }

    #[test]
    fn any_yamlish_text_is_refused_or_read_without_a_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "node", "bgp", "peers", "nodes", "filters", "pools", "password", "name", "peerIP",
                "addresses", "podCIDRs", "holdTime", "asNumber", "prefixLength", ": ", "- ", "\n",
                "\n  ", "\n    ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<: ", "| ", "> ", "'", "\"",
                "10.0.0.1/24", "::/0", "[::1]:", "fe80::1%", "1.10", "90s", "ms", "é", "\t", "#", "---",
                "!!str ", "null", "~", "0", "-1", "18446744073709551616", "true",
            ]),
            0..80,
        )
    ) {
        let _ = read(&words.concat()).map_err(|error| error.to_string());
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_without_a_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\\n]{0,3}"), 1..6)
    ) {
        let mut chars: Vec<char> = RIGHT.chars().collect();
        for (place, with) in cuts {
            let at = place.index(chars.len());
            chars.splice(at..=at, with.chars());
            if chars.is_empty() {
                break;
            }
        }
        let _ = read(&chars.into_iter().collect::<String>()).map_err(|error| error.to_string());
    }

    #[test]
    fn a_duration_is_what_it_says(hours in 0_u64..100, minutes in 0_u64..600, millis in 0_u64..100_000) {
        let text = format!("{hours}h{minutes}m{millis}ms");
        let expected = (hours * 60 + minutes) * 60_000 + millis;
        prop_assert_eq!(scalar::duration(&text).unwrap().as_millis(), u128::from(expected));
    }
}

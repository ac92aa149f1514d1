//! What people paste, and what they see.

use super::*;

const MARKER: &str = "ffffffffffffffffffffffffffffffff";
const UPDATE: &str = "004302000000264001010040020a02020000fc0000011170400304c0000201\
                      80040400000005c00804ffffff01180af401080a";

fn args(hex: &[&str]) -> DecodeArgs {
    DecodeArgs {
        hex: hex.iter().map(|&text| text.to_owned()).collect(),
        as2: false,
        add_path: false,
        ebgp: false,
        output: DecodeFormat::Text,
    }
}

fn shown(args: &DecodeArgs, stdin: &str) -> (bool, String) {
    let mut out = Vec::new();
    let good = run(args, &mut stdin.as_bytes(), &mut out).expect("readable input");
    (good, String::from_utf8(out).expect("UTF-8"))
}

fn refused(hex: &str) -> String {
    let error = run(&args(&[hex]), &mut &b""[..], &mut Vec::new()).expect_err("should be refused");
    format!("{error:#}")
}

#[test]
fn an_update_in_full() {
    let (good, text) = shown(&args(&[&format!("{MARKER}{UPDATE}")]), "");
    assert!(good);
    assert_eq!(
        text,
        "\
message 1: UPDATE, 67 octets
  ORIGIN               igp
  AS_PATH              64512 70000
  NEXT_HOP             192.0.2.1
  MULTI_EXIT_DISC      5
  COMMUNITIES          65535:65281 (NO_EXPORT)
  announced            10.244.1.0/24
  announced            10.0.0.0/8
"
    );
}

#[test]
fn an_update_as_json() {
    let args = DecodeArgs { output: DecodeFormat::Json, ..args(&[&format!("{MARKER}{UPDATE}")]) };
    let (good, text) = shown(&args, "");
    assert!(good && text.ends_with('\n') && text.lines().count() == 1);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["type"], "UPDATE");
    assert_eq!(value["wellFormed"], true);
    let announced = &value["update"]["announced"][0];
    assert_eq!(announced["attributes"]["asPath"], "64512 70000");
    assert_eq!(announced["attributes"]["med"], 5);
    assert_eq!(announced["attributes"]["communities"][0], "65535:65281");
    assert_eq!(announced["prefixes"][1]["prefix"], "10.0.0.0/8");
    assert!(value.get("rawAttributes").is_none());
}

#[test]
fn pasted_forms_are_the_same() {
    let expected = shown(&args(&[&format!("{MARKER}001304")]), "");
    assert_eq!(expected.1, "message 1: KEEPALIVE, 19 octets\n");
    let octets: Vec<String> =
        [vec!["FF"; 16], vec!["00", "13", "04"]].concat().iter().map(ToString::to_string).collect();
    for text in [
        octets.join(" "),
        octets.join(":"),
        format!("0x{}", octets.concat()),
        octets.iter().map(|octet| format!("0x{octet},")).collect(),
        octets.iter().map(|octet| format!("\\x{octet}")).collect(),
    ] {
        assert_eq!(shown(&args(&[&text]), ""), expected, "{text}");
    }
    let words: Vec<&str> = octets.iter().map(String::as_str).collect();
    assert_eq!(shown(&args(&words), ""), expected, "unquoted");
}

#[test]
fn several_messages_in_one_string_and_on_standard_input() {
    let keepalive = format!("{MARKER}001304");
    let (good, text) = shown(&args(&[&keepalive, &keepalive]), "");
    assert!(good);
    assert_eq!(text.lines().count(), 2);
    let input = format!("# captured\n\n{keepalive}\r\n{keepalive}{keepalive}\n");
    let (good, text) = shown(&args(&["-"]), &input);
    assert!(good);
    assert!(text.ends_with("message 3: KEEPALIVE, 19 octets\n"));
}

#[test]
fn bad_input_names_the_place_and_the_cure() {
    let text = refused("ffzz");
    assert!(text.contains("'z' at position 3") && text.contains("0-9 and a-f"), "{text}");
    let text = refused("fff");
    assert!(text.contains("3 hexadecimal digits") && text.contains("position 3"), "{text}");
    assert!(refused(" ").contains("no octets given"));
    let error = run(&args(&["-"]), &mut &b"ff\nxx\n"[..], &mut Vec::new()).expect_err("refused");
    assert!(format!("{error:#}").starts_with("line 2: 'x' at position 1"), "{error:#}");
}

#[test]
fn treatment_and_place_of_a_malformed_attribute() {
    let bad = UPDATE.replacen("40010100", "40010107", 1);
    let (good, text) = shown(&args(&[&format!("{MARKER}{bad}")]), "");
    assert!(!good);
    let expected = [
        "  treatment            treat-as-withdraw\n",
        "  attribute            1 (ORIGIN)\n",
        "  reason               ORIGIN 7 is not defined (RFC 7606 §7.1) (octet 26)\n",
        "  withdrawn            10.244.1.0/24\n",
        "  as it stands         octet 23: attribute 1 (ORIGIN), flags transitive, 1 octet: 07\n",
    ];
    for line in expected {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn notification_of_a_message_that_resets() {
    let (good, text) = shown(&args(&[&format!("{MARKER}00140400")]), "");
    assert!(!good);
    assert_eq!(
        text,
        "\
message 1: KEEPALIVE, 20 octets
  treatment            session-reset
  notification         Message Header Error/Bad Message Length (1/2)
  data                 0014
  reason               length 20 of a KEEPALIVE is not exactly 19 (RFC 4271 §6.1) (octet 16)
"
    );
    let json = DecodeArgs { output: DecodeFormat::Json, ..args(&[&format!("{MARKER}00140400")]) };
    let value: serde_json::Value = serde_json::from_str(&shown(&json, "").1).expect("JSON");
    assert_eq!(value["error"]["notification"]["code"], 1);
    assert_eq!(value["error"]["offset"], 16);
    assert_eq!(value["wellFormed"], false);
}

#[test]
fn what_is_cut_short() {
    let (good, text) = shown(&args(&[&format!("{MARKER}0043020000")]), "");
    assert!(!good);
    assert!(text.contains("the header says 67 octets, 21 are there"), "{text}");
    let (good, text) = shown(&args(&["ffff"]), "");
    assert!(!good && text.contains("a header has 19 octets"), "{text}");
}

#[test]
fn options_change_the_reading() {
    let with = |attributes: &str, nlri: &str, change: fn(&mut DecodeArgs)| {
        let (total, length) = (attributes.len() / 2, 23 + (attributes.len() + nlri.len()) / 2);
        let mut args = args(&[&format!("{MARKER}{length:04x}020000{total:04x}{attributes}{nlri}")]);
        change(&mut args);
        shown(&args, "").1
    };
    let two = "4001010040020602025ba0fc00400304c0000201c01106020100011170";
    let text = with(two, "080a", |args| args.as2 = true);
    assert!(text.contains("AS_PATH              23456 70000"), "{text}");
    let plain = "40010100400200400304c0000201400504000000c8";
    let text = with(plain, "00000007080a", |args| args.add_path = true);
    assert!(text.contains("announced            10.0.0.0/8 path-id 7"), "{text}");
    assert!(text.contains("AS_PATH              (empty)"), "{text}");
    let text = with(plain, "080a", |args| args.ebgp = true);
    assert!(text.contains("attribute-discard") && text.contains("RFC 7606 §7.5"), "{text}");
    assert!(with(plain, "080a", |_| ()).contains("LOCAL_PREF           200"));
}

#[test]
fn attributes_that_are_passed_over_are_still_shown() {
    let attributes = "40010100400200400304c0000201801a0b01000b0000000000000064";
    let text = format!("{MARKER}0035020000001c{attributes}080a");
    let (good, text) = shown(&args(&[&text]), "");
    assert!(good);
    assert!(text.contains("passed over          octet 37: attribute 26 (AIGP)"), "{text}");
}

#[test]
fn an_open_with_capabilities_by_name() {
    let parameters = "021c01040001000102004104000111704006007800010180450400010103";
    let body = format!("045ba0005a0a0000011e{parameters}");
    let text = format!("{MARKER}{:04x}01{body}", 19 + body.len() / 2);
    let (good, text) = shown(&args(&[&text]), "");
    assert!(good, "{text}");
    for line in [
        "AS                   70000\n",
        "My AS field          23456\n",
        "hold time            90 s\n",
        "capability           multiprotocol (1): ipv4-unicast\n",
        "capability           route-refresh (2)\n",
        "capability           four-octet-as (65): 70000\n",
        "graceful-restart (64): restart time 120 s, ipv4-unicast forwarding kept\n",
        "add-path (69): ipv4-unicast send/receive\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_shutdown_message_is_shown_escaped() {
    let text = format!("{MARKER}001a0306020462790a65");
    let (good, text) = shown(&args(&[&text]), "");
    assert!(good);
    assert!(text.contains(r#"Cease/Administrative Shutdown (6/2): "by\ne""#), "{text}");
}

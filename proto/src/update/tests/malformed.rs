//! Malformed UPDATEs, a test per rule of RFC 4271 §6.3, RFC 7606 and the attributes' own RFCs.

use super::*;
use crate::error::{MessageError, Treatment};
use crate::notification::{ErrorCode, UpdateSubcode};
use crate::types::SessionKind;

use Treatment::{AttributeDiscard, DisableFamily, Ignore, TreatAsWithdraw};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const MP_REACH: &[u8] = &[
    0x80, 14, 28, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 48, 0x20,
    1, 0xd, 0xb8, 0, 5,
];
const MP_UNREACH: &[u8] = &[0x80, 15, 10, 0, 2, 1, 48, 0x20, 1, 0xd, 0xb8, 0, 6];
const NLRI: &[u8] = &[24, 10, 244, 1];
/// Where the attributes start in a message without withdrawn routes.
const ATTRIBUTES: usize = 23;

fn message(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Bytes {
    let attributes = attributes.concat();
    let mut octets = vec![0xff; 16];
    let short = |length: usize| u16::try_from(length).expect("short").to_be_bytes();
    octets.extend_from_slice(&short(23 + withdrawn.len() + attributes.len() + nlri.len()));
    octets.push(2);
    octets.extend_from_slice(&short(withdrawn.len()));
    octets.extend_from_slice(withdrawn);
    octets.extend_from_slice(&short(attributes.len()));
    octets.extend_from_slice(&attributes);
    octets.extend_from_slice(nlri);
    octets.into()
}

fn read(frame: &Bytes, context: &DecodeContext) -> Result<Update, MessageError> {
    Message::decode(frame, context).map(|message| match message {
        Message::Update(update) => update,
        other => panic!("not an UPDATE: {other:?}"),
    })
}

fn internal() -> DecodeContext {
    DecodeContext::default()
}

fn external() -> DecodeContext {
    DecodeContext { kind: SessionKind::External, ..internal() }
}

fn two_octet() -> DecodeContext {
    DecodeContext { four_octet_as: false, ..internal() }
}

/// Reads a message with one finding, and says which and what became of the routes.
#[track_caller]
fn finding(frame: &Bytes, context: &DecodeContext) -> (Treatment, Option<u8>, usize, Update) {
    let update = read(frame, context).expect("the session survives");
    assert_eq!(update.issues.len(), 1, "{:?}", update.issues);
    let issue = &update.issues[0];
    assert!(issue.detail.contains("RFC "), "{issue}");
    (issue.treatment, issue.attribute, issue.offset, update)
}

#[track_caller]
fn treated_as_withdraw(attributes: &[&[u8]], context: &DecodeContext, code: u8, offset: usize) {
    let (treatment, attribute, found, update) = finding(&message(&[], attributes, NLRI), context);
    assert_eq!((treatment, attribute, found), (TreatAsWithdraw, Some(code), offset));
    assert!(update.announced.is_empty());
    assert_eq!(update.withdrawn.len(), 1);
    assert_eq!(&update.withdrawn[0].octets()[..], NLRI);
}

#[track_caller]
fn discarded(
    attributes: &[&[u8]],
    context: &DecodeContext,
    code: u8,
    offset: usize,
) -> PathAttributes {
    let (treatment, attribute, found, update) = finding(&message(&[], attributes, NLRI), context);
    assert_eq!((treatment, attribute, found), (AttributeDiscard, Some(code), offset));
    assert!(update.withdrawn.is_empty());
    update.announced[0].attributes.clone()
}

#[track_caller]
fn reset(frame: &Bytes, subcode: UpdateSubcode, data: &[u8], offset: usize) {
    let error = read(frame, &internal()).expect_err("the session ends");
    assert_eq!(error.notification.code, ErrorCode::Update(subcode), "{error}");
    assert_eq!(&error.notification.data[..], data, "{error}");
    assert_eq!(error.offset, offset, "{error}");
}

/// The usual attributes, and `attribute` at the end.
fn and(attribute: &[u8]) -> [&[u8]; 4] {
    [ORIGIN, AS_PATH, NEXT_HOP, attribute]
}

/// Where the value of the attribute stands that [`and`] appends.
const LAST: usize = ATTRIBUTES + 4 + 9 + 7 + 3;

// Lengths of the fields (RFC 4271 §6.3, RFC 7606 §3 (a), §4).

#[test]
fn field_lengths_beyond_the_message() {
    let mut withdrawn = message(&[], &and(&[]), NLRI).to_vec();
    withdrawn[20] = 200;
    let mut attributes = message(&[], &and(&[]), NLRI).to_vec();
    attributes[22] += 5;
    let cut = message(&[0, 0], &[], &[])[..23].to_vec();
    for mut octets in [withdrawn, attributes, cut] {
        let length = u16::try_from(octets.len()).expect("short").to_be_bytes();
        octets[16..18].copy_from_slice(&length);
        reset(&octets.into(), UpdateSubcode::MalformedAttributeList, &[], 19);
    }
}

#[test]
fn attribute_longer_than_the_field() {
    let place = ATTRIBUTES + 4 + 9 + 7;
    treated_as_withdraw(&and(&[0x80, 4, 9, 0, 0, 0, 1]), &internal(), 4, place);
    treated_as_withdraw(&and(&[0x90, 4, 0, 9, 0, 0, 0, 1]), &internal(), 4, place);
}

#[test]
fn octets_behind_the_last_attribute() {
    let place = ATTRIBUTES + 20;
    treated_as_withdraw(&and(&[0x80, 4]), &internal(), 4, place);
    treated_as_withdraw(&and(&[0x90, 4, 0]), &internal(), 4, place);
    let (treatment, attribute, offset, _) =
        finding(&message(&[], &and(&[0x40]), NLRI), &internal());
    assert_eq!((treatment, attribute, offset), (TreatAsWithdraw, None, place));
}

/// The order of the families does not depend on which field or treatment the routes came by.
#[test]
fn withdrawn_families_stand_in_order() {
    let frame = message(&[], &[MP_UNREACH, &[0x40, 1, 1, 9], AS_PATH, NEXT_HOP], NLRI);
    let (.., update) = finding(&frame, &internal());
    let families: Vec<_> = update.withdrawn.iter().map(Nlri::family).collect();
    assert_eq!(families, Family::ALL);
}

/// RFC 7606 §5.2: nobody knows whether routes stood in what was lost.
#[test]
fn malformed_attributes_without_routes_reset() {
    let bad = [0x40, 1, 1, 9];
    reset(&message(&[], &[&bad], &[]), UpdateSubcode::InvalidOriginAttribute, &bad, 26);
    reset(&message(&[8, 10], &[&bad], &[]), UpdateSubcode::InvalidOriginAttribute, &bad, 28);
    reset(&message(&[], &[&bad, MP_UNREACH], &[]), UpdateSubcode::InvalidOriginAttribute, &bad, 26);
    let overrun = [0x40, 1, 9];
    reset(&message(&[], &[&overrun], &[]), UpdateSubcode::MalformedAttributeList, &[], 23);
}

#[test]
fn attribute_discard_without_routes_is_no_reason_to_reset() {
    let frame = message(&[8, 10], &[&[0x40, 6, 1, 0]], &[]);
    let (treatment, attribute, _, update) = finding(&frame, &internal());
    assert_eq!((treatment, attribute), (AttributeDiscard, Some(6)));
    assert_eq!(update.withdrawn.len(), 1);
}

// Flags (RFC 7606 §3 (c), (f)).

#[test]
fn flags_of_well_known_attributes() {
    for flags in [0x00, 0x80, 0xc0] {
        let bad = [&[flags], &ORIGIN[1..]].concat();
        treated_as_withdraw(&[&bad, AS_PATH, NEXT_HOP], &internal(), 1, ATTRIBUTES);
        let bad = [&[flags], &AS_PATH[1..]].concat();
        treated_as_withdraw(&[ORIGIN, &bad, NEXT_HOP], &internal(), 2, ATTRIBUTES + 4);
        let bad = [&[flags], &NEXT_HOP[1..]].concat();
        treated_as_withdraw(&[ORIGIN, AS_PATH, &bad], &internal(), 3, ATTRIBUTES + 13);
        treated_as_withdraw(&and(&[flags, 5, 4, 0, 0, 0, 1]), &internal(), 5, LAST - 3);
    }
}

#[test]
fn flags_of_optional_attributes() {
    let cases: [(u8, &[u8], &[u8]); 8] = [
        (7, &[0, 0x40, 0x80], &[0, 0, 0, 1, 1, 1, 1, 1]),
        (4, &[0, 0x40, 0xc0], &[0; 4]),
        (8, &[0, 0x40, 0x80], &[0; 4]),
        (9, &[0, 0x40, 0xc0], &[1; 4]),
        (10, &[0, 0x40, 0xc0], &[1; 4]),
        (16, &[0, 0x40, 0x80], &[0; 8]),
        (32, &[0, 0x40, 0x80], &[0; 12]),
        (35, &[0, 0x40, 0x80], &[1; 4]),
    ];
    for (code, flags, value) in cases {
        for flags in flags {
            let length = u8::try_from(value.len()).expect("short");
            let attribute = [&[*flags, code, length], value].concat();
            treated_as_withdraw(&and(&attribute), &internal(), code, LAST - 3);
        }
    }
}

#[test]
fn flags_of_attributes_that_may_be_lost() {
    // What RFC 7606 §7.6 and §7.7 let be lost is a wrong length; wrong flags fall under §3 (c).
    treated_as_withdraw(&and(&[0x80, 6, 0]), &internal(), 6, LAST - 3);
    discarded(&and(&[0x80, 17, 6, 2, 1, 0, 0, 0, 1]), &internal(), 17, LAST - 3);
}

#[test]
fn partial_unused_and_needless_extended_length_bits_are_no_error() {
    let origin = [0x7f, 1, 0, 1, 0];
    let med = [0xaf, 4, 4, 0, 0, 0, 7];
    let update = read(&message(&[], &[&origin, AS_PATH, NEXT_HOP, &med], NLRI), &internal());
    let update = update.expect("good");
    assert!(update.issues.is_empty());
    assert_eq!(update.announced[0].attributes.med, Some(7));
}

// Each attribute's length and value (RFC 7606 §7).

#[test]
fn origin() {
    for value in [3, 255] {
        treated_as_withdraw(&[&[0x40, 1, 1, value], AS_PATH, NEXT_HOP], &external(), 1, 26);
    }
    treated_as_withdraw(&[&[0x40, 1, 0], AS_PATH, NEXT_HOP], &external(), 1, 26);
    treated_as_withdraw(&[&[0x40, 1, 2, 0, 0], AS_PATH, NEXT_HOP], &external(), 1, 26);
}

#[test]
fn as_path() {
    let cases: [(&[u8], usize); 8] = [
        (&[9, 1, 0, 0, 0, 1], 0),
        (&[0, 1, 0, 0, 0, 1], 0),
        (&[2, 2, 0, 0, 0, 1], 0),
        (&[2, 0], 0),
        (&[2], 0),
        (&[2, 1, 0, 0, 0, 1, 2], 6),
        (&[2, 1, 0, 0, 0, 1, 1, 0], 6),
        (&[2, 2, 0, 0, 0, 1, 0, 0, 0, 0], 0),
    ];
    for (value, offset) in cases {
        let length = u8::try_from(value.len()).expect("short");
        let path = [&[0x40, 2, length], value].concat();
        treated_as_withdraw(&[ORIGIN, &path, NEXT_HOP], &external(), 2, 30 + offset);
    }
}

#[test]
fn as_path_of_the_other_width() {
    let two = [0x40, 2, 4, 2, 1, 0xfc, 0];
    treated_as_withdraw(&[ORIGIN, &two, NEXT_HOP], &internal(), 2, 30);
    let (treatment, ..) = finding(&message(&[], &and(&[]), NLRI), &two_octet());
    assert_eq!(treatment, TreatAsWithdraw);
}

#[test]
fn empty_as_path_is_good() {
    let update = read(&message(&[], &[ORIGIN, &[0x40, 2, 0], NEXT_HOP], NLRI), &internal());
    assert!(update.expect("good").announced[0].attributes.as_path.is_empty());
}

#[test]
fn confederation_segments_from_outside() {
    for kind in [3, 4] {
        let path = [0x40, 2, 6, kind, 1, 0, 0, 0xfc, 0];
        treated_as_withdraw(&[ORIGIN, &path, NEXT_HOP], &external(), 2, 30);
        assert!(read(&message(&[], &[ORIGIN, &path, NEXT_HOP], NLRI), &internal()).is_ok());
    }
}

#[test]
fn next_hop() {
    for bad in
        [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4]]
    {
        let hop = [&[0x40, 3, 4], &bad[..]].concat();
        treated_as_withdraw(&[ORIGIN, AS_PATH, &hop], &external(), 3, 39);
    }
    for length in [0, 3, 5, 16] {
        let hop = [&[0x40, 3, length][..], &[10; 16][..usize::from(length)]].concat();
        treated_as_withdraw(&[ORIGIN, AS_PATH, &hop], &external(), 3, 39);
    }
}

#[test]
fn numbers_of_four_octets() {
    for code in [4, 5, 9, 35] {
        let flags = match code {
            5 => 0x40,
            35 => 0xc0,
            _ => 0x80,
        };
        for length in [0, 3, 5, 8] {
            let value = &[1; 8][..usize::from(length)];
            let attribute = [&[flags, code, length], value].concat();
            treated_as_withdraw(&and(&attribute), &internal(), code, LAST);
        }
    }
}

#[test]
fn lists_of_whole_entries() {
    for (code, flags, entry) in [(8, 0xc0, 4), (10, 0x80, 4), (16, 0xc0, 8), (32, 0xc0, 12)] {
        for length in [0, entry - 1, entry + 1, 2 * entry - 2] {
            let value = &[1; 24][..usize::from(length)];
            let attribute = [&[flags, code, length], value].concat();
            treated_as_withdraw(&and(&attribute), &internal(), code, LAST);
        }
    }
}

#[test]
fn internal_attributes_from_external_peers() {
    let good: [&[u8]; 3] =
        [&[0x40, 5, 4, 0, 0, 0, 9], &[0x80, 9, 4, 1, 1, 1, 1], &[0x80, 10, 4, 1, 1, 1, 1]];
    // RFC 7606 §7.5, §7.9, §7.10: whether malformed or not.
    let bad: [&[u8]; 3] = [&[0x80, 5, 1, 0], &[0x40, 9, 0], &[0xc0, 10, 3, 1, 1, 1]];
    for attribute in good.into_iter().chain(bad) {
        let attributes = discarded(&and(attribute), &external(), attribute[1], LAST);
        assert_eq!(attributes.local_pref, None);
        assert_eq!(attributes.rare, None);
    }
}

#[test]
fn atomic_aggregate_and_aggregator() {
    discarded(&and(&[0x40, 6, 1, 0]), &internal(), 6, LAST);
    for length in [0, 6, 7, 9] {
        let aggregator = [&[0xc0, 7, length][..], &[1; 9][..usize::from(length)]].concat();
        discarded(&and(&aggregator), &internal(), 7, LAST);
    }
    discarded(&and(&[0xc0, 7, 8, 0, 0, 0, 0, 1, 1, 1, 1]), &internal(), 7, LAST); // RFC 7607
    let path = [0x40, 2, 4, 2, 1, 0xfc, 0];
    let two = |aggregator: &[u8]| {
        discarded(&[ORIGIN, &path, NEXT_HOP, aggregator], &two_octet(), 7, LAST - 2)
    };
    two(&[0xc0, 7, 8, 0, 0, 0, 1, 1, 1, 1, 1]);
    two(&[0xc0, 7, 6, 0, 0, 1, 1, 1, 1]);
}

#[test]
fn repeated_large_communities_are_removed() {
    let one = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    let other = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
    let attribute = [&[0xc0, 32, 36][..], &one, &other, &one].concat();
    let update = read(&message(&[], &and(&attribute), NLRI), &internal()).expect("good");
    let rare = update.announced[0].attributes.rare.as_ref().expect("there");
    let texts: Vec<String> = rare.large_communities.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["1:2:3", "1:2:4"]);
    assert!(update.issues.is_empty(), "silently");
}

// Missing and repeated attributes (RFC 7606 §3 (d), (g), (h)).

#[test]
fn missing_mandatory_attributes() {
    treated_as_withdraw(&[AS_PATH, NEXT_HOP], &external(), 1, ATTRIBUTES);
    treated_as_withdraw(&[ORIGIN, NEXT_HOP], &external(), 2, ATTRIBUTES);
    treated_as_withdraw(&[ORIGIN, AS_PATH], &external(), 3, ATTRIBUTES);
    let update = read(&message(&[], &[], NLRI), &external()).expect("survives");
    assert_eq!(update.issues.len(), 3);
    assert_eq!(update.withdrawn.len(), 1);
    let (treatment, attribute, ..) = finding(&message(&[], &[MP_REACH, AS_PATH], &[]), &external());
    assert_eq!((treatment, attribute), (TreatAsWithdraw, Some(1)));
}

#[test]
fn next_hop_is_not_needed_nor_checked_with_mp_reach_only() {
    let update = read(&message(&[], &[MP_REACH, ORIGIN, AS_PATH], &[]), &external());
    assert_eq!(update.expect("good").announced.len(), 1);
    let bad = [0x40, 3, 1, 0];
    let frame = message(&[], &[MP_REACH, ORIGIN, AS_PATH, &bad], &[]);
    let (treatment, attribute, _, update) = finding(&frame, &external());
    assert_eq!((treatment, attribute), (Ignore, Some(3)));
    assert_eq!(update.announced.len(), 1);
    let zero = [0x40, 3, 4, 0, 0, 0, 0];
    let frame = message(&[], &[ORIGIN, AS_PATH, &zero, MP_UNREACH], &[]);
    let (treatment, _, _, update) = finding(&frame, &external());
    assert_eq!((treatment, update.withdrawn.len()), (Ignore, 1));
}

#[test]
fn local_pref_missing_from_an_internal_peer_is_accepted() {
    let update = read(&message(&[], &and(&[]), NLRI), &internal()).expect("good");
    assert!(update.issues.is_empty());
    assert_eq!(update.announced[0].attributes.local_pref, None);
}

#[test]
fn of_repeated_attributes_the_first_counts() {
    let attributes = discarded(&and(&[0x40, 1, 1, 2]), &internal(), 1, LAST);
    assert_eq!(attributes.origin, Origin::Igp);
    let [med, other] = [[0x80, 4, 4, 0, 0, 0, 1], [0x80, 4, 4, 0, 0, 0, 2]];
    let attributes = discarded(&and(&[med, other].concat()), &internal(), 4, LAST + 7);
    assert_eq!(attributes.med, Some(1));
    let unknown = [0xc0, 99, 1, 1, 0xc0, 99, 1, 2];
    let attributes = discarded(&and(&unknown), &internal(), 99, LAST + 4);
    assert_eq!(attributes.rare.expect("there").unknown[0].value[..], [1]);
}

#[test]
fn repeated_mp_attributes_reset() {
    let list = UpdateSubcode::MalformedAttributeList;
    let frame = message(&[], &[MP_REACH, ORIGIN, AS_PATH, MP_REACH], &[]);
    reset(&frame, list, &[], ATTRIBUTES + 31 + 13);
    reset(&message(&[], &[MP_UNREACH, MP_UNREACH], &[]), list, &[], ATTRIBUTES + 13);
}

#[test]
fn the_strongest_treatment_wins_wherever_it_stands() {
    let bad_origin = [0x40, 1, 1, 9];
    let atomic = [0x40, 6, 1, 0];
    for attributes in
        [[&bad_origin[..], AS_PATH, NEXT_HOP, &atomic], [&atomic, AS_PATH, NEXT_HOP, &bad_origin]]
    {
        let update = read(&message(&[], &attributes, NLRI), &internal()).expect("survives");
        assert_eq!(update.issues.len(), 2);
        assert_eq!((update.withdrawn.len(), update.announced.len()), (1, 0));
    }
}

#[test]
fn treat_as_withdraw_covers_every_field() {
    let bad = [0x40, 1, 1, 9];
    let frame = message(&[8, 10], &[MP_REACH, MP_UNREACH, &bad, AS_PATH, NEXT_HOP], NLRI);
    let (treatment, _, _, update) = finding(&frame, &internal());
    assert_eq!(treatment, TreatAsWithdraw);
    assert!(update.announced.is_empty());
    let texts: Vec<String> = update
        .withdrawn
        .iter()
        .flat_map(Nlri::iter_any)
        .map(|(_, prefix)| prefix.to_string())
        .collect();
    assert_eq!(texts, ["10.0.0.0/8", "10.244.1.0/24", "2001:db8:6::/48", "2001:db8:5::/48"]);
}

// Attributes nobody here knows (RFC 4271 §5, §6.3).

#[test]
fn unknown_well_known_attribute_resets() {
    for flags in [0x40, 0x00] {
        let attribute = [flags, 99, 2, 1, 2];
        let subcode = UpdateSubcode::UnrecognizedWellKnownAttribute;
        reset(&message(&[], &and(&attribute), NLRI), subcode, &attribute, LAST - 3);
    }
}

#[test]
fn unknown_optional_attributes() {
    let transitive = [0xc0, 99, 2, 1, 2];
    let other = [0xd0, 50, 0, 1, 7];
    let not_transitive = [0x80, 98, 2, 1, 2];
    let attributes = [&transitive[..], &not_transitive, &other].concat();
    let update = read(&message(&[], &and(&attributes), NLRI), &external()).expect("good");
    assert!(update.issues.is_empty());
    let rare = update.announced[0].attributes.rare.as_ref().expect("there");
    let expected = |code, value: &'static [u8]| UnknownAttribute {
        flags: 0xe0,
        code,
        value: Bytes::from_static(value),
    };
    assert_eq!(rare.unknown, [expected(50, &[7]), expected(99, &[1, 2])]);
}

/// Every code with junk of nine lengths: no panic, and the known ones never announce nonsense.
#[test]
fn every_code_with_junk() {
    for code in 0..=255 {
        for length in [0usize, 1, 2, 3, 4, 7, 8, 60, 255] {
            for flags in [0x00, 0x40, 0x80, 0xc0] {
                let mut attribute = vec![flags, code, u8::try_from(length).expect("short")];
                attribute.resize(3 + length, 0xaa);
                let frame = message(&[], &and(&attribute), NLRI);
                for context in [internal(), external(), two_octet()] {
                    match read(&frame, &context) {
                        Ok(update) => {
                            assert!(update.announced.len() + update.withdrawn.len() >= 1);
                        }
                        Err(error) => assert!(!error.detail.is_empty()),
                    }
                }
            }
        }
    }
}

#[test]
fn the_partial_bit_of_known_attributes_is_kept() {
    let communities = [0xe0, 8, 4, 0, 1, 0, 2];
    let update = read(&message(&[], &and(&communities), NLRI), &external()).expect("good");
    let mut out = BytesMut::new();
    Message::Update(update).encode(&EncodeContext::default(), &mut out);
    assert_eq!(&out[..], &message(&[], &and(&communities), NLRI)[..]);
}

// NLRI (RFC 4271 §6.3, RFC 7606 §5.3).

#[test]
fn malformed_nlri_fields_reset() {
    let subcode = UpdateSubcode::InvalidNetworkField;
    reset(&message(&[], &and(&[]), &[8, 10, 33, 1, 1, 1, 1, 1]), subcode, &[], 45);
    reset(&message(&[], &and(&[]), &[24, 10, 1]), subcode, &[], 43);
    reset(&message(&[8, 10, 40, 1, 1, 1, 1, 1], &[], &[]), subcode, &[], 23);
    reset(&message(&[32, 1], &[], &[]), subcode, &[], 21);
}

#[test]
fn malformed_nlri_win_over_malformed_attributes() {
    let bad = [0x40, 1, 1, 9];
    let frame = message(&[], &[&bad, AS_PATH, NEXT_HOP], &[33, 1, 1, 1, 1, 1]);
    reset(&frame, UpdateSubcode::InvalidNetworkField, &[], 43);
}

#[test]
fn prefixes_that_are_no_unicast_routes_are_ignored() {
    let frame = message(&[], &and(&[]), &[24, 224, 0, 1, 24, 10, 244, 1]);
    let (treatment, attribute, offset, update) = finding(&frame, &internal());
    assert_eq!((treatment, attribute, offset), (Ignore, None, 43));
    assert_eq!(&update.announced[0].nlri.octets()[..], NLRI);
    let update = read(&message(&[], &and(&[]), &[8, 240]), &internal()).expect("good");
    assert!(update.issues.is_empty(), "class E is left to policy");
    let only = message(&[], &and(&[]), &[24, 224, 0, 1]);
    assert!(read(&only, &internal()).expect("survives").announced.is_empty());
}

#[test]
fn fields_of_a_family_not_negotiated_are_ignored() {
    let context = DecodeContext {
        families: FamilySet::EMPTY.with(Family::Ipv6Unicast),
        ..DecodeContext::default()
    };
    let (treatment, _, offset, update) = finding(&message(&[], &and(&[]), NLRI), &context);
    assert_eq!((treatment, offset), (Ignore, 43));
    assert!(update.announced.is_empty() && update.withdrawn.is_empty());
    let (treatment, _, _, update) = finding(&message(&[], &[], &[]), &context);
    assert_eq!((treatment, update.end_of_rib), (Ignore, None));
}

// MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 7606 §5.3, §7.11, §7.12).

fn reach(family: [u8; 3], next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = u8::try_from(next_hop.len()).expect("short");
    let value = [&family[..], &[length], next_hop, &[0], nlri].concat();
    [&[0x80, 14, u8::try_from(value.len()).expect("short")][..], &value].concat()
}

const V6: [u8; 3] = [0, 2, 1];
const GLOBAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[track_caller]
fn disables(attribute: &[u8], family: Family, context: &DecodeContext) -> usize {
    let frame = message(&[], &[attribute, ORIGIN, AS_PATH, NEXT_HOP], NLRI);
    let (treatment, code, offset, update) = finding(&frame, context);
    assert_eq!((treatment, code), (DisableFamily(family.afi_safi()), Some(attribute[1])));
    assert_eq!(update.announced.len(), 1, "the IPv4 routes of the message stay");
    offset
}

#[test]
fn mp_reach_with_a_bad_next_hop_length() {
    for length in [0, 4, 8, 12, 15, 17, 24, 31, 33, 48] {
        let attribute = reach(V6, &[0x20; 48][..length], &[8, 0x20]);
        assert_eq!(disables(&attribute, Family::Ipv6Unicast, &internal()), 29);
    }
    let mut overrun = reach(V6, &GLOBAL, &[]);
    overrun[6] = 200;
    disables(&overrun, Family::Ipv6Unicast, &internal());
}

#[test]
fn mp_attributes_too_short() {
    let unspecific = UpdateSubcode::OptionalAttributeError;
    for code in [14, 15] {
        for length in [0, 1, 2] {
            let attribute = [&[0x80, code, length][..], &[0; 2][..usize::from(length)]].concat();
            reset(&message(&[], &[&attribute, ORIGIN], NLRI), unspecific, &attribute, 23);
        }
    }
    for value in [&[0, 2, 1][..], &[0, 2, 1, 0]] {
        let length = u8::try_from(value.len()).expect("short");
        disables(&[&[0x80, 14, length], value].concat(), Family::Ipv6Unicast, &internal());
    }
}

#[test]
fn mp_attributes_with_malformed_nlri() {
    let beyond = reach(V6, &GLOBAL, &[129, 0]);
    assert_eq!(disables(&beyond, Family::Ipv6Unicast, &internal()), 26 + 21);
    let cut = reach(V6, &GLOBAL, &[8, 0x20, 48, 0x20, 1]);
    assert_eq!(disables(&cut, Family::Ipv6Unicast, &internal()), 26 + 23);
    let unreach = [0x80, 15, 5, 0, 2, 1, 200, 1];
    assert_eq!(disables(&unreach, Family::Ipv6Unicast, &internal()), 29);
}

#[test]
fn mp_attributes_with_wrong_flags() {
    for flags in [0x00, 0x40, 0xc0] {
        let attribute = [&[flags], &MP_REACH[1..]].concat();
        assert_eq!(disables(&attribute, Family::Ipv6Unicast, &internal()), 23);
        let attribute = [&[flags], &MP_UNREACH[1..]].concat();
        assert_eq!(disables(&attribute, Family::Ipv6Unicast, &internal()), 23);
    }
    let short = [0x40, 14, 1, 0];
    let subcode = UpdateSubcode::AttributeFlagsError;
    reset(&message(&[], &[&short], NLRI), subcode, &short, 23);
}

#[test]
fn mp_attributes_longer_than_the_field() {
    let cut = &MP_REACH[..20];
    let update = read(&message(&[], &[ORIGIN, AS_PATH, NEXT_HOP, cut], NLRI), &internal());
    let update = update.expect("survives");
    let treatments: Vec<_> = update.issues.iter().map(|issue| issue.treatment).collect();
    let family = Family::Ipv6Unicast.afi_safi();
    assert_eq!(treatments, [DisableFamily(family), TreatAsWithdraw]);
    assert_eq!(update.withdrawn.len(), 1);
    let subcode = UpdateSubcode::MalformedAttributeList;
    reset(&message(&[], &and(&MP_REACH[..5]), NLRI), subcode, &MP_REACH[..5], 43);
    reset(&message(&[], &[MP_REACH, ORIGIN, AS_PATH, cut], NLRI), subcode, &[], 67);
}

#[test]
fn other_families_are_ignored_malformed_or_not() {
    for attribute in [
        reach([0, 1, 128], &[0; 12], &[0x70, 0, 0, 0x11]),
        reach([0x40, 4, 71], &[1; 4], &[0xff; 3]),
        vec![0x80, 14, 3, 0, 25, 70],
        vec![0xc0, 14, 3, 0, 25, 70],
        vec![0x80, 15, 4, 0, 1, 133, 9],
    ] {
        let frame = message(&[], &[&attribute, ORIGIN, AS_PATH, NEXT_HOP], NLRI);
        let (treatment, code, offset, update) = finding(&frame, &internal());
        assert_eq!((treatment, code, offset), (Ignore, Some(attribute[1]), 26));
        assert_eq!(update.announced.len(), 1);
    }
}

/// RFC 2545 §3, and what routers make of it.
#[test]
fn next_hops_of_32_octets() {
    let [global, link_local] = [Ipv6Addr::from(GLOBAL), Ipv6Addr::from(LINK_LOCAL)];
    let mut other = LINK_LOCAL;
    other[15] = 2;
    let zero = [0; 16];
    let cases = [
        (GLOBAL, LINK_LOCAL, NextHop::V6WithLinkLocal(global, link_local)),
        (GLOBAL, zero, NextHop::V6(global)),
        (GLOBAL, GLOBAL, NextHop::V6(global)),
        (LINK_LOCAL, LINK_LOCAL, NextHop::V6(link_local)),
        (zero, LINK_LOCAL, NextHop::V6(link_local)),
        (zero, GLOBAL, NextHop::V6(global)),
        (LINK_LOCAL, other, NextHop::V6WithLinkLocal(link_local, other.into())),
    ];
    for (first, second, expected) in cases {
        let attribute = reach(V6, &[first, second].concat(), &[8, 0x20]);
        let update = read(&message(&[], &[&attribute, ORIGIN, AS_PATH], &[]), &external());
        let update = update.expect("good");
        assert!(update.issues.is_empty());
        assert_eq!(update.announced[0].attributes.next_hop, expected);
    }
}

#[test]
fn next_hops_no_host_can_have_are_treated_as_withdraw() {
    let mut multicast = GLOBAL;
    multicast[0] = 0xff;
    let mut loopback = [0; 16];
    loopback[15] = 1;
    for next_hop in [[0; 16], multicast, loopback] {
        let attribute = reach(V6, &next_hop, &[8, 0x20]);
        let frame = message(&[], &[&attribute, ORIGIN, AS_PATH], &[]);
        let (treatment, code, offset, update) = finding(&frame, &external());
        assert_eq!((treatment, code, offset), (TreatAsWithdraw, Some(14), 30));
        assert_eq!((update.withdrawn.len(), update.announced.len()), (1, 0));
    }
}

#[test]
fn ipv4_by_mp_reach() {
    let v4 = [0, 1, 1];
    let update = |attribute: &[u8], context: &DecodeContext| {
        read(&message(&[], &[attribute, ORIGIN, AS_PATH], &[]), context).expect("survives")
    };
    let by_v4 = update(&reach(v4, &[192, 0, 2, 9], NLRI), &internal());
    assert_eq!(by_v4.announced[0].attributes.next_hop, NextHop::V4(Ipv4Addr::new(192, 0, 2, 9)));
    let by_v6 = reach(v4, &GLOBAL, NLRI);
    let next_hop = update(&by_v6, &internal()).announced[0].attributes.next_hop;
    assert_eq!(next_hop, NextHop::V6(GLOBAL.into()), "RFC 8950");
    let plain = DecodeContext { extended_next_hop: false, ..internal() };
    assert_eq!(disables(&by_v6, Family::Ipv4Unicast, &plain), 29);
    let frame = message(&[], &[&by_v6, ORIGIN, AS_PATH, NEXT_HOP], &[8, 10]);
    let both = read(&frame, &internal()).expect("good");
    let hops: Vec<_> = both.announced.iter().map(|set| set.attributes.next_hop.address()).collect();
    assert_eq!(hops, [Ipv4Addr::new(192, 0, 2, 1).into(), std::net::IpAddr::from(GLOBAL)]);
}

#[test]
fn link_local_prefixes_in_mp_attributes_are_ignored() {
    let attribute = reach(V6, &GLOBAL, &[64, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 8, 0x20]);
    let frame = message(&[], &[&attribute, ORIGIN, AS_PATH], &[]);
    let (treatment, code, _, update) = finding(&frame, &external());
    assert_eq!((treatment, code), (Ignore, Some(14)));
    assert_eq!(update.announced[0].nlri.len(), 1);
}

// Two-octet sessions (RFC 6793).

const TRANS_PATH: &[u8] = &[0x40, 2, 6, 2, 2, 0xfc, 0, 0x5b, 0xa0];
const AS4_PATH: &[u8] = &[0xc0, 17, 6, 2, 1, 0, 1, 0x11, 0x70];

#[track_caller]
fn merged(attributes: &[&[u8]]) -> (String, Option<u32>) {
    let list = [&[ORIGIN, TRANS_PATH, NEXT_HOP], attributes].concat();
    let update = read(&message(&[], &list, NLRI), &two_octet()).expect("good");
    let attributes = &update.announced[0].attributes;
    let aggregator = attributes.rare.as_ref().and_then(|rare| rare.aggregator);
    (attributes.as_path.to_string(), aggregator.map(|aggregator| aggregator.asn.0))
}

#[test]
fn as4_attributes_are_merged() {
    let trans = [0xc0, 7, 6, 0x5b, 0xa0, 1, 1, 1, 1];
    let other = [0xc0, 7, 6, 0xfc, 0, 1, 1, 1, 1];
    let as4 = [0xc0, 18, 8, 0, 1, 0x11, 0x70, 1, 1, 1, 1];
    assert_eq!(merged(&[]), ("64512 23456".into(), None));
    assert_eq!(merged(&[AS4_PATH]), ("64512 70000".into(), None));
    assert_eq!(merged(&[&trans, AS4_PATH, &as4]), ("64512 70000".into(), Some(70000)));
    // RFC 6793 §4.2.3: an aggregator other than AS_TRANS makes both AS4 attributes stale.
    assert_eq!(merged(&[&other, AS4_PATH, &as4]), ("64512 23456".into(), Some(64512)));
    assert_eq!(merged(&[&other, AS4_PATH]), ("64512 70000".into(), Some(64512)));
    assert_eq!(merged(&[&as4]), ("64512 23456".into(), None), "no AGGREGATOR to replace");
    let longer = [0xc0, 17, 14, 2, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    assert_eq!(merged(&[&longer]), ("64512 23456".into(), None));
}

#[test]
fn malformed_as4_attributes_are_discarded() {
    let with = |attribute: &[u8], context: &DecodeContext, offset| {
        let path = if context.four_octet_as { AS_PATH } else { TRANS_PATH };
        let attributes = [ORIGIN, path, NEXT_HOP, attribute];
        discarded(&attributes, context, attribute[1], LAST + offset)
    };
    with(&[0xc0, 17, 0], &internal(), 0);
    with(&[0xc0, 17, 0], &two_octet(), 0);
    with(&[0xc0, 17, 5, 2, 1, 0, 0, 0], &two_octet(), 0);
    with(&[0xc0, 17, 6, 7, 1, 0, 0, 0, 1], &two_octet(), 0);
    with(&[0xc0, 17, 2, 2, 0], &two_octet(), 0);
    with(&[0xc0, 17, 6, 2, 1, 0, 0, 0, 0], &two_octet(), 0);
    with(&[0xc0, 18, 7, 0, 0, 0, 1, 1, 1, 1], &two_octet(), 0);
    with(&[0xc0, 18, 8, 0, 0, 0, 0, 1, 1, 1, 1], &two_octet(), 0);
    with(AS4_PATH, &internal(), 0); // from a four-octet peer
    with(&[0xc0, 18, 8, 0, 1, 0, 0, 1, 1, 1, 1], &internal(), 0);
}

//! Paths: construction, what the decision process asks of them, and RFC 6793's two widths.

use proptest::prelude::*;

use super::*;

fn path(asns: &[u32]) -> AsPath {
    AsPath::sequence(&asns.iter().copied().map(Asn).collect::<Vec<_>>())
}

fn segment(kind: AsSegmentKind, asns: &[u32]) -> AsSegment {
    AsSegment { kind, asns: asns.iter().copied().map(Asn).collect() }
}

fn of(segments: &[(AsSegmentKind, &[u32])]) -> AsPath {
    let segments: Vec<_> = segments.iter().map(|(kind, asns)| segment(*kind, asns)).collect();
    AsPath::from_segments(&segments)
}

use AsSegmentKind::{ConfedSequence, ConfedSet, Sequence, Set};

#[test]
fn length_counts_a_set_once_and_confederations_not() {
    let path = of(&[(ConfedSequence, &[1, 2]), (Sequence, &[10, 11, 12]), (Set, &[20, 21])]);
    assert_eq!(path.length(), 4);
    assert_eq!(path.first_as(), Some(Asn(10)));
    assert_eq!(path.origin_as(), None, "the path ends in a set");
    assert_eq!(path.to_string(), "(1 2) 10 11 12 {20,21}");
    assert_eq!(of(&[(ConfedSet, &[7, 8])]).to_string(), "[7,8]");
    assert_eq!(AsPath::default().length(), 0);
    assert_eq!(AsPath::default().first_as(), None);
}

#[test]
fn first_as_is_none_behind_a_leading_set() {
    assert_eq!(of(&[(Set, &[1]), (Sequence, &[2])]).first_as(), None);
    assert_eq!(of(&[(Set, &[1]), (Sequence, &[2])]).origin_as(), Some(Asn(2)));
}

#[test]
fn empty_segments_are_left_out_and_long_ones_continue() {
    assert!(of(&[(Sequence, &[]), (Set, &[])]).is_empty());
    let long: Vec<u32> = (1..=300).collect();
    let counts: Vec<usize> = path(&long).segments().map(|segment| segment.asns.len()).collect();
    assert_eq!(counts, [255, 45]);
}

#[test]
fn prepending_fills_the_leading_sequence_first() {
    assert_eq!(AsPath::default().prepend(Asn(1), 2), path(&[1, 1]));
    assert_eq!(path(&[2, 3]).prepend(Asn(1), 1), path(&[1, 2, 3]));
    assert_eq!(path(&[2]).prepend(Asn(1), 0), path(&[2]));
    let set = of(&[(Set, &[5, 6])]);
    assert_eq!(set.prepend(Asn(1), 1), of(&[(Sequence, &[1]), (Set, &[5, 6])]));
    let confed = of(&[(ConfedSequence, &[5]), (Sequence, &[6])]);
    assert_eq!(confed.prepend(Asn(1), 1).to_string(), "1 (5) 6");

    let full: Vec<u32> = (1000..1254).collect();
    let grown = path(&full).prepend(Asn(9), 3);
    let counts: Vec<usize> = grown.segments().map(|segment| segment.asns.len()).collect();
    assert_eq!(counts, [2, 255], "one fits the leading segment, two start a new one");
    assert_eq!(grown.length(), 257);
    assert_eq!(grown.occurrences(Asn(9)), 3);
    let many = AsPath::default().prepend(Asn(9), 600);
    assert_eq!(many.length(), 600);
}

#[test]
fn faults_are_found_where_they_are() {
    let read = |value: &[u8], kind| AsPath::read(value, true, kind).map_err(|fault| fault.offset);
    let internal = SessionKind::Internal;
    assert_eq!(read(&[], internal), Ok(AsPath::default()));
    assert_eq!(read(&[2, 1, 0, 0, 0, 1, 2], internal), Err(6), "truncated");
    assert_eq!(read(&[5, 1, 0, 0, 0, 1], internal), Err(0), "segment type");
    assert_eq!(read(&[2, 1, 0, 0, 0, 1, 2, 0], internal), Err(6), "empty segment");
    assert_eq!(read(&[2, 2, 0, 0, 0, 1], internal), Err(0), "overrun");
    assert_eq!(read(&[2, 1, 0, 0, 0, 0], internal), Err(0), "AS 0");
    assert_eq!(read(&[3, 1, 0, 0, 0, 1], SessionKind::External), Err(0), "confederation");
    assert!(read(&[3, 1, 0, 0, 0, 1], internal).is_ok());
}

#[test]
fn as4_path_replaces_the_tail() {
    // RFC 6793 §4.2.3: a two-octet speaker in between prepended 100.
    let two = path(&[100, 23456, 23456]);
    assert_eq!(two.merge_as4_path(&path(&[70000, 80000])), path(&[100, 70000, 80000]));
}

#[test]
fn as4_path_longer_than_as_path_is_ignored() {
    assert_eq!(path(&[23456]).merge_as4_path(&path(&[70000, 80000])), path(&[23456]));
}

#[test]
fn as4_path_keeps_leading_and_adjacent_confederation_segments() {
    let two =
        of(&[(ConfedSequence, &[1]), (Sequence, &[100]), (ConfedSet, &[2]), (Sequence, &[3])]);
    let merged = two.merge_as4_path(&path(&[70000]));
    assert_eq!(merged.to_string(), "(1) 100 [2] 70000");
    let as4 = of(&[(ConfedSequence, &[9]), (Sequence, &[70000])]);
    assert_eq!(path(&[5, 23456]).merge_as4_path(&as4), path(&[5, 70000]), "RFC 6793 §6");
}

#[test]
fn as4_path_with_sets_counts_them_once() {
    let two = of(&[(Sequence, &[100, 200]), (Set, &[23456, 3])]);
    let as4 = of(&[(Set, &[70000, 3])]);
    assert_eq!(two.merge_as4_path(&as4).to_string(), "100 200 {70000,3}");
}

fn any_kind() -> impl Strategy<Value = AsSegmentKind> {
    prop_oneof![Just(Sequence), Just(Set), Just(ConfedSequence), Just(ConfedSet)]
}

proptest! {
    #[test]
    fn segments_go_there_and_back(
        segments in prop::collection::vec(
            (any_kind(), prop::collection::vec(1u32.., 1..9)), 0..5),
    ) {
        let segments: Vec<_> =
            segments.iter().map(|(kind, asns)| segment(*kind, asns)).collect();
        let path = AsPath::from_segments(&segments);
        prop_assert_eq!(path.segments().collect::<Vec<_>>(), segments);
        let read = AsPath::read(path.octets(), true, SessionKind::Internal).expect("valid");
        prop_assert_eq!(read, path);
    }

    #[test]
    fn a_two_octet_speaker_loses_nothing(asns in prop::collection::vec(1u32.., 0..300)) {
        let path = path(&asns);
        let mut two = SmallVec::new();
        path.write_two_octets(&mut two);
        prop_assert_eq!(two.len(), path.two_octet_len());
        let seen = AsPath::read(&two, false, SessionKind::External).expect("valid");
        prop_assert_eq!(seen.merge_as4_path(&path), path);
    }

    #[test]
    fn prepending_adds_in_front(
        asns in prop::collection::vec(1u32.., 0..600), asn in 1u32.., times in 0usize..600,
    ) {
        let grown = path(&asns).prepend(Asn(asn), times);
        let expected: Vec<Asn> =
            std::iter::repeat_n(asn, times).chain(asns.iter().copied()).map(Asn).collect();
        prop_assert_eq!(grown.asns().collect::<Vec<_>>(), expected);
        prop_assert!(grown.segments().all(|segment| (1..=255).contains(&segment.asns.len())));
    }
}

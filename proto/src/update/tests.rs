//! UPDATE: round trips here, malformed ones in [`malformed`].

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::attributes::{
    Aggregator, AsPath, AsSegment, AsSegmentKind, Community, ExtendedCommunity, LargeCommunity,
    NextHop, Origin, RareAttributes, UnknownAttribute, code,
};
use crate::message::{
    DecodeContext, EncodeContext, MAX_EXTENDED_LEN, MAX_STANDARD_LEN, Message, frame_length,
};
use crate::nlri::{NlriPrefix, PathId};
use crate::types::{Asn, BgpIdentifier, FamilySet};

mod malformed;

#[test]
fn attributes_stay_small() {
    // A full table holds hundreds of thousands of interned sets.
    assert!(size_of::<PathAttributes>() <= 128, "{}", size_of::<PathAttributes>());
    assert!(size_of::<Update>() <= 320, "{}", size_of::<Update>());
}

fn v4(text: &str) -> Ipv4Net {
    text.parse().expect("a prefix")
}

fn plain_attributes() -> PathAttributes {
    let mut attributes =
        PathAttributes::originated(Origin::Igp, NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[Asn(64512), Asn(70000)]);
    attributes
}

/// The messages in `octets`, all read.
fn read_all(mut octets: Bytes, context: &DecodeContext) -> Vec<Update> {
    let mut updates = Vec::new();
    while let Some(length) = frame_length(&octets, context.extended_message).expect("a header") {
        match Message::decode(&octets.split_to(length), context).expect("an UPDATE") {
            Message::Update(update) => updates.push(update),
            other => panic!("not an UPDATE: {other:?}"),
        }
    }
    assert!(octets.is_empty());
    updates
}

fn context_for(encode: &EncodeContext) -> DecodeContext {
    DecodeContext {
        four_octet_as: encode.four_octet_as,
        extended_message: encode.max_len > MAX_STANDARD_LEN,
        add_path: encode.add_path,
        ..DecodeContext::default()
    }
}

/// Octets worked out by hand from RFC 4271 §4.3.
#[test]
fn the_octets_of_a_small_update() {
    let mut out = BytesMut::new();
    let prefixes = [(0, v4("10.244.1.0/24")), (0, v4("10.0.0.0/8"))];
    let mut attributes = plain_attributes();
    attributes.med = Some(5);
    attributes.communities.push(Community::NO_EXPORT);
    assert_eq!(pack_announcements(&EncodeContext::default(), &attributes, prefixes, &mut out), 1);
    let expected = [
        &[0xff; 16][..],
        &[0, 67, 2, 0, 0, 0, 38],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 10, 2, 2, 0, 0, 0xfc, 0, 0, 1, 0x11, 0x70],
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0x80, 4, 4, 0, 0, 0, 5],
        &[0xc0, 8, 4, 0xff, 0xff, 0xff, 0x01],
        &[24, 10, 244, 1, 8, 10],
    ]
    .concat();
    assert_eq!(&out[..], &expected[..]);
    let update = &read_all(out.freeze(), &DecodeContext::default())[0];
    assert_eq!(update.announced[0].attributes, attributes);
    assert_eq!(update.announced[0].nlri.iter::<Ipv4Net>().collect::<Vec<_>>(), prefixes);
    assert!(update.issues.is_empty() && update.withdrawn.is_empty());
}

/// RFC 4760 §3 with MP_REACH_NLRI in front (RFC 7606 §5.1).
#[test]
fn the_octets_of_an_ipv6_update() {
    let global: Ipv6Addr = "2001:db8::1".parse().expect("an address");
    let link_local: Ipv6Addr = "fe80::1".parse().expect("an address");
    let mut attributes = plain_attributes();
    attributes.next_hop = NextHop::V6WithLinkLocal(global, link_local);
    let prefix: Ipv6Net = "2001:db8:5::/48".parse().expect("a prefix");
    let mut out = BytesMut::new();
    pack_announcements(&EncodeContext::default(), &attributes, [(0, prefix)], &mut out);
    let expected = [
        &[0xff; 16][..],
        &[0, 88, 2, 0, 0, 0, 65],
        &[0x90, 14, 0, 44, 0, 2, 1, 32],
        &global.octets(),
        &link_local.octets(),
        &[0, 48, 0x20, 0x01, 0x0d, 0xb8, 0, 5],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 10, 2, 2, 0, 0, 0xfc, 0, 0, 1, 0x11, 0x70],
    ]
    .concat();
    assert_eq!(&out[..], &expected[..]);
    let update = &read_all(out.freeze(), &DecodeContext::default())[0];
    assert_eq!(update.announced[0].attributes, attributes);
}

#[test]
fn end_of_rib_of_both_families() {
    for (family, length) in [(Family::Ipv4Unicast, 23), (Family::Ipv6Unicast, 29)] {
        let mut out = BytesMut::new();
        pack_end_of_rib(family, &mut out);
        assert_eq!(out.len(), length);
        let update = &read_all(out.freeze(), &DecodeContext::default())[0];
        assert_eq!(update, &Update { end_of_rib: Some(family), ..Update::default() });
    }
}

#[test]
fn many_prefixes_fill_messages() {
    let prefixes: Vec<(PathId, Ipv4Net)> =
        (0..3000u32).map(|n| (0, v4(&format!("10.{}.{}.0/24", n / 256, n % 256)))).collect();
    let mut out = BytesMut::new();
    let context = EncodeContext::default();
    let messages = pack_announcements(&context, &plain_attributes(), prefixes.clone(), &mut out);
    assert_eq!(messages, 3000_usize.div_ceil((4096 - 23 - 24) / 4));
    let updates = read_all(out.freeze(), &DecodeContext::default());
    let read: Vec<_> =
        updates.iter().flat_map(|update| update.announced[0].nlri.iter::<Ipv4Net>()).collect();
    assert_eq!(read, prefixes);
    let mut out = BytesMut::new();
    assert_eq!(pack_withdrawals(&context, prefixes, &mut out), 3);
}

#[test]
fn nothing_is_written_that_cannot_be() {
    let context = EncodeContext { extended_next_hop: false, ..EncodeContext::default() };
    let mut out = BytesMut::new();
    let prefix = [(0, v4("10.0.0.0/8"))];
    let mut long = plain_attributes();
    long.communities = (0..1020).map(Community).collect();
    assert_eq!(pack_announcements(&context, &long, prefix, &mut out), 0);
    let mut v6 = plain_attributes();
    v6.next_hop = NextHop::V6(Ipv6Addr::LOCALHOST);
    assert_eq!(pack_announcements(&context, &v6, prefix, &mut out), 0, "RFC 8950 not negotiated");
    let prefix: [(PathId, Ipv6Net); 1] = [(0, "2001:db8::/32".parse().expect("a prefix"))];
    assert_eq!(pack_announcements(&context, &plain_attributes(), prefix, &mut out), 0);
    assert_eq!(pack_announcements::<Ipv4Net>(&context, &plain_attributes(), [], &mut out), 0);
    assert_eq!(pack_withdrawals::<Ipv4Net>(&context, [], &mut out), 0);
    assert!(out.is_empty());
}

#[test]
fn as4_attributes_only_where_needed() {
    let context = EncodeContext { four_octet_as: false, ..EncodeContext::default() };
    let codes = |attributes: &PathAttributes| {
        let mut out = BytesMut::new();
        pack_announcements(&context, attributes, [(0, v4("10.0.0.0/8"))], &mut out);
        let mut codes = Vec::new();
        let mut rest = &out[23..];
        while rest.len() > 4 {
            codes.push(rest[1]);
            rest = &rest[3 + usize::from(rest[2])..];
        }
        codes
    };
    let mut attributes = plain_attributes();
    assert_eq!(codes(&attributes), [1, 2, 3, 17]);
    attributes.as_path = AsPath::sequence(&[Asn(1)]);
    assert_eq!(codes(&attributes), [1, 2, 3]);
    let identifier = BgpIdentifier(Ipv4Addr::new(1, 1, 1, 1));
    attributes.rare_mut().aggregator = Some(Aggregator { asn: Asn(70000), identifier });
    assert_eq!(codes(&attributes), [1, 2, 3, 7, 18]);
}

fn any_asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1u32..70000, 1u32..].prop_map(Asn)
}

fn any_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![Just(AsSegmentKind::Sequence), Just(AsSegmentKind::Set)];
    let segment = (kind, prop::collection::vec(any_asn(), 1..8));
    prop_oneof![
        3 => prop::collection::vec(any_asn(), 0..20).prop_map(|asns| AsPath::sequence(&asns)),
        1 => prop::collection::vec(segment, 0..4).prop_map(|segments| {
            // Two sequences in a row would come back as one from a two-octet session.
            let mut segments: Vec<_> = segments
                .into_iter()
                .map(|(kind, asns)| AsSegment { kind, asns: asns.into() })
                .collect();
            segments.dedup_by_key(|segment| segment.kind);
            AsPath::from_segments(&segments)
        }),
    ]
}

prop_compose! {
    fn any_rare()(
        atomic_aggregate in any::<bool>(),
        aggregator in prop::option::of((any_asn(), any::<u32>())),
        originator in prop::option::of(any::<u32>()),
        clusters in prop::collection::vec(any::<u32>(), 0..3),
        extended in prop::collection::vec(any::<[u8; 8]>(), 0..3),
        large in prop::collection::btree_set(any::<(u32, u32, u32)>(), 0..3),
        otc in prop::option::of(any_asn()),
        unknown in prop::collection::btree_map(
            prop_oneof![11u8..14, 19u8..32, 40u8..=255], prop::collection::vec(any::<u8>(), 0..300), 0..3),
        partial in any::<bool>(),
    ) -> RareAttributes {
        let mut rare = RareAttributes {
            atomic_aggregate,
            aggregator: aggregator
                .map(|(asn, id)| Aggregator { asn, identifier: BgpIdentifier(id.into()) }),
            originator_id: originator.map(|id| BgpIdentifier(id.into())),
            cluster_list: clusters.into_iter().map(Ipv4Addr::from).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large
                .into_iter()
                .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                .collect(),
            otc,
            unknown: unknown
                .into_iter()
                .map(|(code, value)| UnknownAttribute { flags: 0xe0, code, value: value.into() })
                .collect(),
            ..RareAttributes::default()
        };
        if partial && rare.aggregator.is_some() {
            rare.partial.insert(code::AGGREGATOR);
        }
        if partial && rare.otc.is_some() {
            rare.partial.insert(code::OTC);
        }
        rare
    }
}

fn any_next_hop_v6() -> impl Strategy<Value = NextHop> {
    let global = any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        Ipv6Addr::from(octets)
    });
    let link_local =
        any::<u64>().prop_map(|id| Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(id)));
    prop_oneof![
        global.clone().prop_map(NextHop::V6),
        (global, link_local).prop_map(|(global, local)| NextHop::V6WithLinkLocal(global, local)),
    ]
}

fn any_next_hop_v4() -> impl Strategy<Value = NextHop> {
    (1u32 << 24..0x7f00_0000).prop_map(|address| NextHop::V4(address.into()))
}

prop_compose! {
    fn any_attributes(next_hop: impl Strategy<Value = NextHop>)(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path in any_path(),
        next_hop in next_hop,
        med in any::<Option<u32>>(),
        local_pref in any::<Option<u32>>(),
        communities in prop::collection::vec(any::<u32>().prop_map(Community), 0..80),
        rare in prop::option::of(any_rare()),
    ) -> PathAttributes {
        PathAttributes {
            origin,
            as_path,
            next_hop,
            med,
            local_pref,
            communities: communities.into(),
            rare: rare.filter(|rare| *rare != RareAttributes::default()).map(Box::new),
        }
    }
}

fn any_v4() -> impl Strategy<Value = Ipv4Net> {
    (0u32..0xe000_0000, 0u8..=32)
        .prop_map(|(address, bits)| Ipv4Net::new_assert(address.into(), bits).trunc())
}

fn any_v6() -> impl Strategy<Value = Ipv6Net> {
    (0u128..0xfe << 120, 0u8..=128)
        .prop_map(|(address, bits)| Ipv6Net::new_assert(address.into(), bits).trunc())
}

fn any_context() -> impl Strategy<Value = EncodeContext> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(four, long, add_path)| EncodeContext {
        four_octet_as: four,
        max_len: if long { MAX_EXTENDED_LEN } else { MAX_STANDARD_LEN },
        add_path: if add_path { FamilySet::ALL } else { FamilySet::EMPTY },
        extended_next_hop: true,
    })
}

fn paths<P: NlriPrefix>(
    prefix: impl Strategy<Value = P>,
) -> impl Strategy<Value = Vec<(PathId, P)>> {
    prop::collection::vec((any::<PathId>(), prefix), 1..1200)
}

/// Announces and withdraws, reads what comes out, and compares.
fn check<P: NlriPrefix>(
    context: &EncodeContext,
    attributes: &PathAttributes,
    prefixes: Vec<(PathId, P)>,
) {
    let add_path = context.add_path.contains(P::FAMILY);
    let expected: Vec<_> =
        prefixes.iter().map(|(id, prefix)| (if add_path { *id } else { 0 }, *prefix)).collect();
    let decode = context_for(context);

    let mut out = BytesMut::new();
    let messages = pack_announcements(context, attributes, prefixes.clone(), &mut out);
    let updates = read_all(out.freeze(), &decode);
    assert_eq!(updates.len(), messages);
    let mut read = Vec::new();
    for update in &updates {
        assert!(update.issues.is_empty(), "{:?}", update.issues);
        assert!(update.withdrawn.is_empty() && update.announced.len() == 1);
        assert_eq!(&update.announced[0].attributes, attributes);
        read.extend(update.announced[0].nlri.iter::<P>());
        let mut again = BytesMut::new();
        Message::Update(update.clone()).encode(context, &mut again);
        assert_eq!(&read_all(again.freeze(), &decode)[..], std::slice::from_ref(update));
    }
    assert_eq!(read, expected);

    let mut out = BytesMut::new();
    pack_withdrawals(context, prefixes, &mut out);
    let updates = read_all(out.freeze(), &decode);
    let read: Vec<_> = updates.iter().flat_map(|update| update.withdrawn[0].iter::<P>()).collect();
    assert_eq!(read, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn ipv4_goes_there_and_back(
        context in any_context(),
        attributes in any_attributes(any_next_hop_v4()),
        prefixes in paths(any_v4()),
    ) {
        check(&context, &attributes, prefixes);
    }

    #[test]
    fn ipv4_by_ipv6_next_hops_goes_there_and_back(
        context in any_context(),
        attributes in any_attributes(any_next_hop_v6()),
        prefixes in paths(any_v4()),
    ) {
        check(&context, &attributes, prefixes);
    }

    #[test]
    fn ipv6_goes_there_and_back(
        context in any_context(),
        attributes in any_attributes(any_next_hop_v6()),
        prefixes in paths(any_v6()),
    ) {
        check(&context, &attributes, prefixes);
    }

    /// Both families, withdrawn and announced, in one message.
    #[test]
    fn whole_updates_go_there_and_back(
        add_path in any::<bool>(),
        attributes in any_attributes(any_next_hop_v4()),
        next_hop in any_next_hop_v6(),
        withdrawn in (prop::collection::vec(any_v4(), 0..9), prop::collection::vec(any_v6(), 0..9)),
        announced in (prop::collection::vec(any_v4(), 0..9), prop::collection::vec(any_v6(), 0..9)),
    ) {
        let add_path_set = if add_path { FamilySet::ALL } else { FamilySet::EMPTY };
        let context = EncodeContext {
            max_len: MAX_EXTENDED_LEN, add_path: add_path_set, ..EncodeContext::default()
        };
        let v4 = |list: Vec<Ipv4Net>| Nlri::from_prefixes(list.into_iter().map(|net| (0, net)), add_path);
        let v6 = |list: Vec<Ipv6Net>| Nlri::from_prefixes(list.into_iter().map(|net| (0, net)), add_path);
        let mut update = Update::default();
        update.withdrawn.extend([v4(withdrawn.0), v6(withdrawn.1)]);
        update.withdrawn.retain(|nlri| !nlri.is_empty());
        let mp = PathAttributes { next_hop, ..attributes.clone() };
        for (attributes, nlri) in [(attributes, v4(announced.0)), (mp, v6(announced.1))] {
            if !nlri.is_empty() {
                update.announced.push(Announcement { attributes, nlri });
            }
        }
        let mut out = BytesMut::new();
        Message::Update(update.clone()).encode(&context, &mut out);
        if update == Update::default() {
            prop_assert!(out.is_empty(), "nothing is not an End-of-RIB");
        } else {
            prop_assert_eq!(&read_all(out.freeze(), &context_for(&context))[..], &[update][..]);
        }
    }
}

//! What we write, read by two decoders that share nothing with us: netgauze-bgp-pkt in full,
//! bgpkit-parser for prefixes, AS_PATH and communities.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgpkit_parser::models::{self as bgpkit, AsnLength, Community as TheirCommunity};
use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::path_attribute::{
    AsPath as TheirPath, MpReach, MpUnreach, PathAttributeValue,
};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;
use routelet_proto::update::{pack_announcements, pack_end_of_rib, pack_withdrawals};
use routelet_proto::{
    AsPath, AsSegment, AsSegmentKind, Asn, BgpIdentifier, Community, EncodeContext, Family,
    FamilySet, LargeCommunity, MAX_EXTENDED_LEN, MAX_STANDARD_LEN, NextHop, NlriPrefix, Origin,
    PathAttributes, PathId, frame_length,
};

/// What an announcement says, in the words of nobody's types.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    origin: Option<u8>,
    as_path: Vec<(u8, Vec<u32>)>,
    next_hop: Option<IpAddr>,
    link_local: Option<Ipv6Addr>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<u32>,
    large_communities: Vec<(u32, u32, u32)>,
    originator: Option<Ipv4Addr>,
    clusters: Vec<Ipv4Addr>,
    prefixes: Vec<(Option<u32>, IpNet)>,
    withdrawn: Vec<(Option<u32>, IpNet)>,
}

/// What we meant to say.
fn ours(attributes: &PathAttributes) -> Said {
    let rare = attributes.rare.as_deref();
    Said {
        origin: Some(attributes.origin.into()),
        as_path: attributes
            .as_path
            .segments()
            .map(|segment| {
                let kind = if segment.kind == AsSegmentKind::Set { 1 } else { 2 };
                (kind, segment.asns.iter().map(|asn| asn.0).collect())
            })
            .collect(),
        next_hop: Some(attributes.next_hop.address()),
        link_local: match attributes.next_hop {
            NextHop::V6WithLinkLocal(_, link_local) => Some(link_local),
            _ => None,
        },
        med: attributes.med,
        local_pref: attributes.local_pref,
        communities: attributes.communities.iter().map(|one| one.0).collect(),
        large_communities: rare.map_or(Vec::new(), |rare| {
            rare.large_communities.iter().map(|one| (one.global, one.local1, one.local2)).collect()
        }),
        originator: attributes.originator_id().map(|id| id.0),
        clusters: attributes.cluster_list().to_vec(),
        ..Said::default()
    }
}

/// Cuts the stream by our own framing, which must agree with the octets written.
fn frames(mut octets: Bytes) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while let Some(length) = frame_length(&octets, true).expect("a right header") {
        frames.push(octets.split_to(length));
    }
    assert!(octets.is_empty());
    frames
}

fn by_netgauze(frame: &[u8], add_path: bool) -> Said {
    let families = [AddressType::Ipv4Unicast, AddressType::Ipv6Unicast];
    let add_path = families.map(|family| (family, add_path)).into_iter().collect();
    let mut context =
        BgpParsingContext::new(true, HashMap::new(), add_path, true, true, true, true);
    let message = BgpMessage::parse(&mut SliceReader::new(frame), &mut context)
        .expect("netgauze reads what we write");
    let BgpMessage::Update(update) = message else { panic!("not an UPDATE") };
    let v4 = |list: &[netgauze_bgp_pkt::nlri::Ipv4UnicastAddress]| -> Vec<_> {
        list.iter().map(|one| (one.path_id(), IpNet::V4(one.network().address()))).collect()
    };
    let v6 = |list: &[netgauze_bgp_pkt::nlri::Ipv6UnicastAddress]| -> Vec<_> {
        list.iter().map(|one| (one.path_id(), IpNet::V6(one.network().address()))).collect()
    };
    let mut said = Said {
        prefixes: v4(update.nlri()),
        withdrawn: v4(update.withdraw_routes()),
        ..Said::default()
    };
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::Origin(origin) => said.origin = Some(*origin as u8),
            PathAttributeValue::AsPath(TheirPath::As4PathSegments(segments)) => {
                said.as_path = segments
                    .iter()
                    .map(|one| (one.segment_type().into(), one.as_numbers().to_vec()))
                    .collect();
            }
            PathAttributeValue::NextHop(hop) => said.next_hop = Some(hop.next_hop().into()),
            PathAttributeValue::MultiExitDiscriminator(med) => said.med = Some(med.metric()),
            PathAttributeValue::LocalPreference(one) => said.local_pref = Some(one.metric()),
            PathAttributeValue::Communities(list) => {
                said.communities = list.communities().iter().map(|one| one.value()).collect();
            }
            PathAttributeValue::LargeCommunities(list) => {
                let parts = |one: &netgauze_bgp_pkt::community::LargeCommunity| {
                    (one.global_admin(), one.local_data1(), one.local_data2())
                };
                said.large_communities = list.communities().iter().map(parts).collect();
            }
            PathAttributeValue::Originator(originator) => said.originator = Some(originator.id()),
            PathAttributeValue::ClusterList(list) => {
                said.clusters = list.cluster_list().iter().map(|one| one.id()).collect();
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
                next_hop_global,
                next_hop_local,
                nlri,
            }) => {
                said.next_hop = Some((*next_hop_global).into());
                said.link_local = *next_hop_local;
                said.prefixes = v6(nlri);
            }
            PathAttributeValue::MpReach(MpReach::Ipv4Unicast {
                next_hop,
                next_hop_local,
                nlri,
            }) => {
                said.next_hop = Some(*next_hop);
                said.link_local = *next_hop_local;
                said.prefixes = v4(nlri);
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                said.withdrawn = v6(nlri);
            }
            other => panic!("we did not write {other:?}"),
        }
    }
    said
}

/// Prefixes announced and withdrawn, AS_PATH as text, communities.
type Short = (Vec<(Option<u32>, IpNet)>, Vec<(Option<u32>, IpNet)>, String, Vec<u32>);

fn by_bgpkit(frame: &Bytes, add_path: bool, width: AsnLength) -> Short {
    let message =
        bgpkit_parser::parser::bgp::parse_bgp_message(&mut frame.clone(), add_path, &width)
            .expect("bgpkit reads what we write");
    let bgpkit::BgpMessage::Update(update) = message else { panic!("not an UPDATE") };
    let prefixes = |list: &[bgpkit::NetworkPrefix]| -> Vec<_> {
        list.iter().map(|one| (one.path_id, one.prefix)).collect()
    };
    let mut announced = prefixes(&update.announced_prefixes);
    let mut withdrawn = prefixes(&update.withdrawn_prefixes);
    if let Some(nlri) = update.attributes.get_reachable_nlri() {
        announced.extend(prefixes(&nlri.prefixes));
    }
    if let Some(nlri) = update.attributes.get_unreachable_nlri() {
        withdrawn.extend(prefixes(&nlri.prefixes));
    }
    let path = update.attributes.effective_as_path();
    let communities = update
        .attributes
        .iter_communities()
        .filter_map(|community| match community {
            bgpkit::MetaCommunity::Plain(TheirCommunity::NoExport) => Some(Community::NO_EXPORT.0),
            bgpkit::MetaCommunity::Plain(TheirCommunity::NoAdvertise) => {
                Some(Community::NO_ADVERTISE.0)
            }
            bgpkit::MetaCommunity::Plain(TheirCommunity::NoExportSubConfed) => {
                Some(Community::NO_EXPORT_SUBCONFED.0)
            }
            bgpkit::MetaCommunity::Plain(TheirCommunity::Custom(asn, value)) => {
                Some(u32::from(asn) << 16 | u32::from(value))
            }
            _ => None,
        })
        .collect();
    (announced, withdrawn, path.map_or(String::new(), |path| path.to_string()), communities)
}

/// Writes the routes and asks both what they read.
fn check<P: NlriPrefix>(
    context: &EncodeContext,
    attributes: &PathAttributes,
    prefixes: &[(PathId, P)],
) {
    let add_path = context.add_path.contains(P::FAMILY);
    let width = if context.four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
    let expected: Vec<(Option<u32>, IpNet)> =
        prefixes.iter().map(|(id, one)| (add_path.then_some(*id), (*one).into())).collect();

    let mut out = BytesMut::new();
    let messages = pack_announcements(context, attributes, prefixes.iter().copied(), &mut out);
    let announcements = frames(out.freeze());
    assert_eq!(announcements.len(), messages);
    assert!(messages > 0 || attributes.communities.len() > 900);
    let mut read = (Vec::new(), Vec::new());
    for frame in &announcements {
        assert!(frame.len() <= context.max_len);
        if context.four_octet_as {
            let mut said = by_netgauze(frame, add_path);
            read.0.append(&mut said.prefixes);
            assert_eq!(said, ours(attributes));
        }
        let (announced, withdrawn, path, communities) = by_bgpkit(frame, add_path, width);
        read.1.extend(announced);
        assert_eq!(withdrawn, []);
        assert_eq!(path, attributes.as_path.to_string());
        assert_eq!(communities, ours(attributes).communities);
    }
    if context.four_octet_as {
        assert_eq!(read.0, expected, "netgauze");
    }
    assert_eq!(read.1, expected, "bgpkit");

    let mut out = BytesMut::new();
    pack_withdrawals(context, prefixes.iter().copied(), &mut out);
    let mut read = (Vec::new(), Vec::new());
    for frame in frames(out.freeze()) {
        read.0.extend(by_netgauze(&frame, add_path).withdrawn);
        read.1.extend(by_bgpkit(&frame, add_path, width).1);
    }
    assert_eq!(read.0, expected, "netgauze");
    assert_eq!(read.1, expected, "bgpkit");
}

fn any_path() -> impl Strategy<Value = AsPath> {
    let asns = || prop::collection::vec((1u32..).prop_map(Asn), 1..9);
    (asns(), prop::option::of(asns())).prop_map(|(sequence, set)| {
        let mut segments = vec![AsSegment { kind: AsSegmentKind::Sequence, asns: sequence.into() }];
        segments.extend(set.map(|asns| AsSegment { kind: AsSegmentKind::Set, asns: asns.into() }));
        AsPath::from_segments(&segments)
    })
}

prop_compose! {
    fn any_attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path in any_path(),
        med in any::<Option<u32>>(),
        local_pref in any::<Option<u32>>(),
        communities in prop::collection::vec(any::<u32>().prop_map(Community), 0..80),
        large in prop::collection::btree_set(any::<(u32, u32, u32)>(), 0..4),
        originator in prop::option::of(any::<u32>()),
        clusters in prop::collection::vec(any::<u32>(), 0..3),
    ) -> PathAttributes {
        let mut attributes =
            PathAttributes::originated(origin, NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
        attributes.as_path = as_path;
        attributes.med = med;
        attributes.local_pref = local_pref;
        attributes.communities = communities.into();
        if !large.is_empty() || originator.is_some() || !clusters.is_empty() {
            let rare = attributes.rare_mut();
            rare.large_communities = large
                .into_iter()
                .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                .collect();
            rare.originator_id = originator.map(|id| BgpIdentifier(id.into()));
            rare.cluster_list = clusters.into_iter().map(Ipv4Addr::from).collect();
        }
        attributes
    }
}

fn any_context() -> impl Strategy<Value = EncodeContext> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(four, long, add_path)| EncodeContext {
        four_octet_as: four,
        max_len: if long { MAX_EXTENDED_LEN } else { MAX_STANDARD_LEN },
        add_path: if add_path { FamilySet::ALL } else { FamilySet::EMPTY },
        extended_next_hop: true,
    })
}

fn v4() -> impl Strategy<Value = Vec<(PathId, Ipv4Net)>> {
    let net = (0x0100_0000u32..0xdf00_0000, 8u8..=32)
        .prop_map(|(address, bits)| Ipv4Net::new_assert(address.into(), bits).trunc());
    prop::collection::vec((any::<u32>(), net), 1..1500)
}

fn v6() -> impl Strategy<Value = Vec<(PathId, Ipv6Net)>> {
    let net = (any::<u128>(), 16u8..=128).prop_map(|(address, bits)| {
        let global = 0x2000_u128 << 112 | address >> 8;
        Ipv6Net::new_assert(global.into(), bits).trunc()
    });
    prop::collection::vec((any::<u32>(), net), 1..600)
}

fn next_hop_v6() -> impl Strategy<Value = NextHop> {
    (any::<u64>(), any::<bool>()).prop_map(|(id, with_link_local)| {
        let global = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(id));
        let link_local = Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(id));
        if with_link_local {
            NextHop::V6WithLinkLocal(global, link_local)
        } else {
            NextHop::V6(global)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ipv4(context in any_context(), attributes in any_attributes(), prefixes in v4()) {
        check(&context, &attributes, &prefixes);
    }

    #[test]
    fn ipv6(
        context in any_context(),
        attributes in any_attributes(),
        next_hop in next_hop_v6(),
        prefixes in v6(),
    ) {
        check(&context, &PathAttributes { next_hop, ..attributes }, &prefixes);
    }

    #[test]
    fn ipv4_by_ipv6_next_hops(
        context in any_context(),
        attributes in any_attributes(),
        next_hop in next_hop_v6(),
        prefixes in v4(),
    ) {
        check(&context, &PathAttributes { next_hop, ..attributes }, &prefixes);
    }
}

#[test]
fn end_of_rib_is_one_for_netgauze() {
    for (family, theirs) in [
        (Family::Ipv4Unicast, AddressType::Ipv4Unicast),
        (Family::Ipv6Unicast, AddressType::Ipv6Unicast),
    ] {
        let mut out = BytesMut::new();
        pack_end_of_rib(family, &mut out);
        let add_path = HashMap::new();
        let mut context =
            BgpParsingContext::new(true, HashMap::new(), add_path, true, true, true, true);
        let message = BgpMessage::parse(&mut SliceReader::new(&out), &mut context);
        let Ok(BgpMessage::Update(update)) = message else { panic!("not an UPDATE") };
        assert_eq!(update.end_of_rib(), Some(theirs));
    }
}

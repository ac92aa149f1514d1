//! UPDATE: RFC 4271 §6.3 as revised by RFC 7606, attribute by attribute.

use anyhow::ensure;
use serde_json::Value;

use crate::case::{Case, Context, Expect, accepted, established, free, notification};
use crate::daemon::PeerKind::{External, Internal};
use crate::daemon::poll;
use crate::wire::{self, Attribute, OPTIONAL, OPTIONAL_TRANSITIVE, WELL_KNOWN, attribute};

/// An announcement with one attribute replaced or added.
fn with(
    name: &str,
    kind: crate::daemon::PeerKind,
    expect: Expect,
    flags: u8,
    code: u8,
    value: &[u8],
) -> Case {
    let attribute = attribute(flags, code, value);
    established(name, kind, expect, move |context| context.announce_with(attribute.clone()))
}

fn withdrawn(name: &str, flags: u8, code: u8, value: &[u8]) -> Case {
    with(name, External, Expect::TreatAsWithdraw, flags, code, value)
}

fn kept(name: &str, flags: u8, code: u8, value: &[u8]) -> Case {
    with(name, External, accepted(), flags, code, value)
}

fn without(name: &str, code: u8) -> Case {
    established(name, External, Expect::TreatAsWithdraw, move |context| {
        context.announce_without(code)
    })
}

/// The route stands and `field` has this value.
fn field(field: &'static str, value: Value) -> Expect {
    Expect::Route(Box::new(move |route| {
        ensure!(route[field] == value, "{field} is {}, expected {value}", route[field]);
        Ok(())
    }))
}

/// An announcement whose attribute list ends in these octets.
fn list_ending_in(context: &Context, tail: &[u8]) -> Vec<u8> {
    let mut list = wire::encode_all(&context.clean());
    list.extend(tail);
    wire::update(&[], &list, &wire::nlri(context.prefix))
}

/// A duplicate of `attribute` after the clean ones.
fn repeated(context: &Context, attributes: &[Attribute]) -> Vec<u8> {
    let mut all = context.clean();
    all.extend_from_slice(attributes);
    context.announce(&all)
}

fn mp_reach_v6() -> Attribute {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    value.extend([0, 48, 0x20, 1, 0xd, 0xb8, 0, 0x77]);
    attribute(OPTIONAL, 14, &value)
}

pub fn cases() -> Vec<Case> {
    let mut cases = mandatory();
    cases.extend(optional());
    cases.extend(reflection());
    cases.extend(lists());
    cases.extend(nlri());
    cases.extend(carried_on());
    cases.push(disabled("rfc7606_5_3_mp_reach_prefix_length_129", |attribute| {
        attribute.value[21] = 129;
    }));
    cases.push(disabled("rfc7606_7_11_mp_reach_of_three_octets", |attribute| {
        attribute.value.truncate(3);
    }));
    cases.push(disabled("rfc7606_7_11_mp_reach_next_hop_overruns", |attribute| {
        attribute.value[3] = 200;
    }));
    cases
}

/// ORIGIN, AS_PATH, NEXT_HOP.
fn mandatory() -> Vec<Case> {
    vec![
        without("rfc7606_3d_origin_missing", 1),
        without("rfc7606_3d_as_path_missing", 2),
        without("rfc7606_3d_next_hop_missing", 3),
        withdrawn("rfc7606_7_1_origin_value_3", WELL_KNOWN, 1, &[3]),
        withdrawn("rfc7606_7_1_origin_value_255", WELL_KNOWN, 1, &[255]),
        withdrawn("rfc7606_7_1_origin_of_two_octets", WELL_KNOWN, 1, &[0, 0]),
        withdrawn("rfc7606_7_1_origin_empty", WELL_KNOWN, 1, &[]),
        withdrawn("rfc7606_3c_origin_flagged_optional", OPTIONAL_TRANSITIVE, 1, &[0]),
        withdrawn("rfc7606_3c_origin_not_transitive", 0, 1, &[0]),
        withdrawn("rfc7606_7_2_as_path_segment_type_9", WELL_KNOWN, 2, &[9, 1, 0, 0, 0xfe, 0x4d]),
        withdrawn("rfc7606_7_2_as_path_segment_type_0", WELL_KNOWN, 2, &[0, 1, 0, 0, 0xfe, 0x4d]),
        withdrawn("rfc7606_7_2_as_path_segment_overruns", WELL_KNOWN, 2, &[2, 3, 0, 0, 0xfe, 0x4d]),
        withdrawn(
            "rfc7606_7_2_as_path_one_octet_left",
            WELL_KNOWN,
            2,
            &[2, 1, 0, 0, 0xfe, 0x4d, 2],
        ),
        withdrawn(
            "rfc7606_7_2_as_path_empty_segment",
            WELL_KNOWN,
            2,
            &[2, 1, 0, 0, 0xfe, 0x4d, 2, 0],
        ),
        withdrawn(
            "rfc7606_3c_as_path_flagged_optional",
            OPTIONAL_TRANSITIVE,
            2,
            &[2, 1, 0, 0, 0xfe, 0x4d],
        ),
        withdrawn(
            "rfc7607_as_zero_in_as_path",
            WELL_KNOWN,
            2,
            &[2, 2, 0, 0, 0xfe, 0x4d, 0, 0, 0, 0],
        ),
        withdrawn(
            "rfc5065_5_confederation_segment_from_outside",
            WELL_KNOWN,
            2,
            &[3, 1, 0, 0, 0xfe, 0x4d],
        ),
        established(
            "rfc4271_6_3_first_as_is_not_the_peers",
            External,
            Expect::Route(Box::new(|route| {
                ensure!(route["best"] == false, "it takes part in the decision");
                Ok(())
            })),
            |context| context.announce_with(wire::as_path(&[65222, 65101])),
        ),
        with(
            "rfc4271_as_set_is_carried",
            External,
            field("asPath", "65101 {65001,65002}".into()),
            WELL_KNOWN,
            2,
            &[2, 1, 0, 0, 0xfe, 0x4d, 1, 2, 0, 0, 0xfd, 0xe9, 0, 0, 0xfd, 0xea],
        ),
        withdrawn("rfc7606_7_3_next_hop_of_three_octets", WELL_KNOWN, 3, &[192, 0, 2]),
        withdrawn("rfc7606_7_3_next_hop_of_five_octets", WELL_KNOWN, 3, &[192, 0, 2, 1, 0]),
        withdrawn("rfc4271_6_3_next_hop_zero", WELL_KNOWN, 3, &[0, 0, 0, 0]),
        withdrawn("rfc4271_6_3_next_hop_multicast", WELL_KNOWN, 3, &[224, 0, 0, 1]),
        withdrawn("rfc4271_6_3_next_hop_broadcast", WELL_KNOWN, 3, &[255, 255, 255, 255]),
        withdrawn("rfc7606_3c_next_hop_flagged_optional", OPTIONAL_TRANSITIVE, 3, &[192, 0, 2, 1]),
        established(
            "rfc7606_error_that_is_not_in_the_last_attribute",
            External,
            Expect::TreatAsWithdraw,
            |context| {
                let mut attributes = context.clean();
                attributes[0].value = vec![7];
                attributes.push(attribute(OPTIONAL, 4, &[0, 0, 0, 5]));
                context.announce(&attributes)
            },
        ),
    ]
}

/// MED, LOCAL_PREF, ATOMIC_AGGREGATE, AGGREGATOR, communities.
fn optional() -> Vec<Case> {
    vec![
        with("rfc4271_med_is_read", External, field("med", 77.into()), OPTIONAL, 4, &[0, 0, 0, 77]),
        withdrawn("rfc7606_7_4_med_of_three_octets", OPTIONAL, 4, &[0, 0, 5]),
        withdrawn("rfc7606_7_4_med_of_five_octets", OPTIONAL, 4, &[0, 0, 0, 5, 0]),
        withdrawn("rfc7606_3c_med_flagged_well_known", WELL_KNOWN, 4, &[0, 0, 0, 5]),
        with(
            "rfc7606_7_5_local_pref_from_outside_is_discarded",
            External,
            Expect::Route(Box::new(|route| {
                ensure!(route["localPref"] != 300, "localPref is {}", route["localPref"]);
                Ok(())
            })),
            WELL_KNOWN,
            5,
            &[0, 0, 1, 44],
        ),
        kept("rfc7606_7_5_local_pref_of_three_octets_from_outside", WELL_KNOWN, 5, &[0, 0, 1]),
        with(
            "rfc7606_7_5_local_pref_of_three_octets_from_inside",
            Internal,
            Expect::TreatAsWithdraw,
            WELL_KNOWN,
            5,
            &[0, 0, 1],
        ),
        with(
            "rfc4271_local_pref_from_inside_is_read",
            Internal,
            field("localPref", 300.into()),
            WELL_KNOWN,
            5,
            &[0, 0, 1, 44],
        ),
        kept("rfc4271_atomic_aggregate_is_carried", WELL_KNOWN, 6, &[]),
        kept("rfc7606_7_6_atomic_aggregate_of_one_octet_is_discarded", WELL_KNOWN, 6, &[1]),
        kept(
            "rfc7606_7_7_aggregator_of_six_octets_is_discarded",
            OPTIONAL_TRANSITIVE,
            7,
            &[0xfe, 0x4d, 1, 1, 1, 1],
        ),
        kept("rfc7606_7_7_aggregator_empty_is_discarded", OPTIONAL_TRANSITIVE, 7, &[]),
        kept(
            "rfc7607_aggregator_of_as_zero_is_discarded",
            OPTIONAL_TRANSITIVE,
            7,
            &[0, 0, 0, 0, 1, 1, 1, 1],
        ),
        withdrawn(
            "rfc7606_3c_aggregator_not_transitive",
            OPTIONAL,
            7,
            &[0, 0, 0xfe, 0x4d, 1, 1, 1, 1],
        ),
        withdrawn(
            "rfc7606_7_8_communities_of_five_octets",
            OPTIONAL_TRANSITIVE,
            8,
            &[0, 1, 0, 2, 0],
        ),
        withdrawn("rfc7606_7_8_communities_empty", OPTIONAL_TRANSITIVE, 8, &[]),
        withdrawn("rfc7606_3c_communities_not_transitive", OPTIONAL, 8, &[0, 1, 0, 2]),
        withdrawn(
            "rfc7606_7_14_extended_communities_of_seven_octets",
            OPTIONAL_TRANSITIVE,
            16,
            &[0; 7],
        ),
        withdrawn("rfc7606_7_14_extended_communities_empty", OPTIONAL_TRANSITIVE, 16, &[]),
        withdrawn(
            "rfc8092_5_large_communities_of_eleven_octets",
            OPTIONAL_TRANSITIVE,
            32,
            &[0; 11],
        ),
        withdrawn("rfc8092_5_large_communities_empty", OPTIONAL_TRANSITIVE, 32, &[]),
        kept("rfc8092_large_communities_are_read", OPTIONAL_TRANSITIVE, 32, &[1; 24]),
        kept(
            "rfc6793_as4_path_from_a_new_speaker_is_discarded",
            OPTIONAL_TRANSITIVE,
            17,
            &[2, 1, 0, 0, 0, 1],
        ),
        kept(
            "rfc6793_as4_aggregator_from_a_new_speaker_is_discarded",
            OPTIONAL_TRANSITIVE,
            18,
            &[0; 8],
        ),
        withdrawn("rfc9234_otc_of_three_octets", OPTIONAL_TRANSITIVE, 35, &[0, 0, 1]),
        kept("rfc4271_4_3_low_flag_bits_are_ignored", WELL_KNOWN | 0x0f, 1, &[0]),
        kept("rfc4271_4_3_extended_length_of_a_short_attribute", WELL_KNOWN | 0x10, 1, &[0]),
    ]
}

/// ORIGINATOR_ID and CLUSTER_LIST.
fn reflection() -> Vec<Case> {
    vec![
        kept("rfc7606_7_9_originator_id_from_outside_is_discarded", OPTIONAL, 9, &[1, 1, 1, 1]),
        kept("rfc7606_7_9_short_originator_id_from_outside_is_discarded", OPTIONAL, 9, &[1]),
        with(
            "rfc7606_7_9_originator_id_of_three_octets",
            Internal,
            Expect::TreatAsWithdraw,
            OPTIONAL,
            9,
            &[1, 1, 1],
        ),
        kept("rfc7606_7_10_cluster_list_from_outside_is_discarded", OPTIONAL, 10, &[1, 1, 1, 1]),
        with(
            "rfc7606_7_10_cluster_list_of_five_octets",
            Internal,
            Expect::TreatAsWithdraw,
            OPTIONAL,
            10,
            &[1, 1, 1, 1, 1],
        ),
        with(
            "rfc7606_7_10_cluster_list_empty",
            Internal,
            Expect::TreatAsWithdraw,
            OPTIONAL,
            10,
            &[],
        ),
        established(
            "rfc4456_8_our_originator_id_is_a_loop",
            Internal,
            Expect::Route(Box::new(|route| {
                ensure!(route["best"] == false, "it takes part in the decision");
                Ok(())
            })),
            |context| context.announce_with(attribute(OPTIONAL, 9, &[10, 10, 10, 10])),
        ),
        established(
            "rfc4456_8_our_cluster_id_is_a_loop",
            Internal,
            Expect::Route(Box::new(|route| {
                ensure!(route["best"] == false, "it takes part in the decision");
                Ok(())
            })),
            |context| context.announce_with(attribute(OPTIONAL, 10, &[9, 9, 9, 9, 10, 10, 10, 10])),
        ),
    ]
}

/// The attribute list as a whole.
fn lists() -> Vec<Case> {
    vec![
        established(
            "rfc7606_3g_repeated_origin_first_counts",
            External,
            field("origin", "igp".into()),
            |context| repeated(context, &[attribute(WELL_KNOWN, 1, &[2])]),
        ),
        established(
            "rfc7606_3g_repeated_med_first_counts",
            External,
            field("med", 1.into()),
            |context| {
                repeated(
                    context,
                    &[attribute(OPTIONAL, 4, &[0, 0, 0, 1]), attribute(OPTIONAL, 4, &[0, 0, 0, 2])],
                )
            },
        ),
        established("rfc7606_3g_repeated_mp_reach", External, notification(3, 1), |context| {
            repeated(context, &[mp_reach_v6(), mp_reach_v6()])
        }),
        established("rfc7606_3g_repeated_mp_unreach", External, notification(3, 1), |context| {
            let unreach = attribute(OPTIONAL, 15, &[0, 2, 1, 48, 0x20, 1, 0xd, 0xb8, 0, 0x77]);
            repeated(context, &[unreach.clone(), unreach])
        }),
        established(
            "rfc7606_4_attribute_length_overruns_the_list",
            External,
            Expect::TreatAsWithdraw,
            |context| list_ending_in(context, &[OPTIONAL, 4, 200, 0, 0]),
        ),
        established(
            "rfc7606_4_one_octet_left_of_the_list",
            External,
            Expect::TreatAsWithdraw,
            |context| list_ending_in(context, &[OPTIONAL]),
        ),
        established(
            "rfc7606_4_two_octets_left_of_the_list",
            External,
            Expect::TreatAsWithdraw,
            |context| list_ending_in(context, &[OPTIONAL, 4]),
        ),
        established(
            "rfc7606_4_extended_length_cut",
            External,
            Expect::TreatAsWithdraw,
            |context| list_ending_in(context, &[OPTIONAL | 0x10, 4, 0]),
        ),
        established(
            "rfc4271_6_3_total_attribute_length_overruns",
            External,
            notification(3, 1),
            |context| {
                let list = wire::encode_all(&context.clean());
                let mut body = vec![0, 0];
                body.extend(u16::try_from(list.len() + 50).expect("fits").to_be_bytes());
                body.extend(list);
                wire::message(wire::UPDATE, &body)
            },
        ),
        established("rfc4271_6_3_withdrawn_length_overruns", External, notification(3, 1), |_| {
            wire::message(wire::UPDATE, &[0, 200, 24, 20, 0, 0, 0, 0])
        }),
        established(
            "rfc4271_6_3_unknown_well_known_attribute",
            External,
            notification(3, 2),
            |context| context.announce_with(attribute(WELL_KNOWN, 200, &[1, 2])),
        ),
        kept("rfc4271_5_unknown_optional_non_transitive_is_ignored", OPTIONAL, 201, &[1, 2, 3]),
        kept(
            "rfc4271_5_unknown_optional_transitive_is_carried",
            OPTIONAL_TRANSITIVE,
            202,
            &[1, 2, 3],
        ),
        established(
            "rfc4271_attributes_without_nlri_are_no_error",
            External,
            accepted(),
            |context| wire::update(&[], &wire::encode_all(&context.clean()), &[]),
        ),
        established("rfc4724_end_of_rib_is_no_error", External, accepted(), |_| {
            wire::update(&[], &[], &[])
        }),
    ]
}

/// NLRI and MP attributes.
fn nlri() -> Vec<Case> {
    vec![
        established("rfc7606_5_3_prefix_length_33", External, notification(3, 10), |context| {
            wire::update(&[], &wire::encode_all(&context.clean()), &[33, 20, 0, 0, 0, 0])
        }),
        established("rfc7606_5_3_nlri_cut", External, notification(3, 10), |context| {
            wire::update(&[], &wire::encode_all(&context.clean()), &[24, 20, 0])
        }),
        established("rfc7606_5_3_withdrawn_prefix_length_255", External, Expect::Reset(3), |_| {
            wire::update(&[255, 1, 2, 3], &[], &[])
        }),
        established(
            "rfc4760_7_mp_reach_of_a_family_not_negotiated",
            External,
            accepted(),
            |context| {
                repeated(
                    context,
                    &[attribute(OPTIONAL, 14, &[0, 25, 65, 4, 1, 1, 1, 1, 0, 1, 2, 3])],
                )
            },
        ),
        established(
            "rfc4760_7_mp_unreach_of_a_family_not_negotiated",
            External,
            accepted(),
            |context| repeated(context, &[attribute(OPTIONAL, 15, &[0, 25, 65, 1, 2, 3])]),
        ),
        established(
            "rfc4271_host_bits_beyond_the_length_are_ignored",
            External,
            accepted(),
            |context| {
                // A /23 written with its 24th bit set: another prefix, no error.
                let [a, b, c, _] = context.prefix.octets();
                wire::update(&[], &wire::encode_all(&context.clean()), &[23, a, b, c | 1])
            },
        ),
        established("rfc4271_withdrawal_of_what_was_never_announced", External, accepted(), |_| {
            wire::update(&[24, 203, 0, 113], &[], &[])
        }),
        established("rfc4271_withdrawal", External, Expect::TreatAsWithdraw, |context| {
            wire::update(&wire::nlri(context.prefix), &[], &[])
        }),
    ]
}

/// RFC 7606 §2 and RFC 4760 §7: where the routes of an MP attribute are not to be found, the family is
/// given up on this session, and the session stays.
fn disabled(name: &str, spoil: fn(&mut Attribute)) -> Case {
    free(name, External, move |daemon, context| {
        let mut peer = daemon.establish(context)?;
        let shown = || {
            let routes = daemon.command(&["routes", "2001:db8:77::/48"])?;
            let name = format!("external-{}", context.number);
            let of_peer = |route: &&Value| route["from"] == name.as_str();
            anyhow::Ok(routes.as_array().into_iter().flatten().filter(of_peer).count())
        };
        let announce = |attribute: Attribute| {
            let mut attributes = context.clean();
            attributes.retain(|clean| clean.code != 3);
            attributes.insert(0, attribute);
            wire::update(&[], &wire::encode_all(&attributes), &[])
        };
        peer.send(&announce(mp_reach_v6()))?;
        poll(|| {
            ensure!(shown()? == 1, "the clean IPv6 route is not there");
            Ok(())
        })?;
        let mut spoiled = mp_reach_v6();
        spoil(&mut spoiled);
        peer.send(&announce(spoiled))?;
        peer.send(&announce(mp_reach_v6()))?;
        peer.send_sentinel(context)?;
        daemon.wait_for_route(context, context.sentinel)?;
        ensure!(shown()? == 0, "the family still has routes");
        let shown = daemon.peer(context)?.to_string();
        ensure!(shown.contains("ipv6-unicast disabled"), "nothing of it in {shown}");
        Ok(())
    })
}

/// What the witness gets of it.
fn carried_on() -> Vec<Case> {
    vec![
        free(
            "rfc4271_5_unknown_transitive_attribute_gets_the_partial_bit",
            External,
            |daemon, context| {
                let mut peer = daemon.establish(context)?;
                peer.send(&context.announce_with(attribute(
                    OPTIONAL_TRANSITIVE,
                    203,
                    &[0xde, 0xad, 0xbe],
                )))?;
                let update = daemon.witness_gets(context.prefix)?;
                let wanted = [OPTIONAL_TRANSITIVE | 0x20, 203, 3, 0xde, 0xad, 0xbe];
                ensure!(update.windows(6).any(|window| window == wanted), "not in {update:02x?}");
                Ok(())
            },
        ),
        free(
            "rfc4271_5_unknown_non_transitive_attribute_is_not_passed_on",
            External,
            |daemon, context| {
                let mut peer = daemon.establish(context)?;
                peer.send(&context.announce_with(attribute(OPTIONAL, 204, &[0xde, 0xad, 0xbf])))?;
                let update = daemon.witness_gets(context.prefix)?;
                ensure!(
                    !update.windows(3).any(|window| window == [0xde, 0xad, 0xbf]),
                    "{update:02x?}"
                );
                Ok(())
            },
        ),
        free("rfc4271_9_1_2_our_as_is_prepended", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            peer.send(&context.announce(&context.clean()))?;
            let update = daemon.witness_gets(context.prefix)?;
            let mut path = vec![2, 3];
            path.extend([64512u32, 65101, 65200].iter().flat_map(|asn| asn.to_be_bytes()));
            ensure!(update.windows(path.len()).any(|window| window == path), "{update:02x?}");
            Ok(())
        }),
        not_passed_on("rfc1997_no_export_stays", 0xffff_ff01),
        not_passed_on("rfc1997_no_advertise_stays", 0xffff_ff02),
        not_passed_on("rfc1997_no_export_subconfed_stays", 0xffff_ff03),
        free("rfc7606_treat_as_withdraw_reaches_the_others", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            peer.send(&context.announce(&context.clean()))?;
            daemon.witness_gets(context.prefix)?;
            peer.send(&context.announce_with(attribute(WELL_KNOWN, 1, &[9])))?;
            daemon.witness_gets_withdrawal(context.prefix)
        }),
        free("rfc7606_treatments_are_counted", External, |daemon, context| {
            let mut peer = daemon.establish(context)?;
            peer.send(&context.announce_with(attribute(WELL_KNOWN, 1, &[9])))?;
            peer.send(&context.announce_with(attribute(WELL_KNOWN, 6, &[9])))?;
            peer.send_sentinel(context)?;
            daemon.wait_for_route(context, context.sentinel)?;
            let shown = daemon.peer(context)?.to_string();
            for wanted in ["\"treatedAsWithdrawn\":1", "\"attributesDiscarded\":1"] {
                ensure!(shown.contains(wanted), "{wanted} in {shown}");
            }
            Ok(())
        }),
    ]
}

fn not_passed_on(name: &str, community: u32) -> Case {
    free(name, External, move |daemon, context| {
        let mut peer = daemon.establish(context)?;
        let communities = attribute(OPTIONAL_TRANSITIVE, 8, &community.to_be_bytes());
        peer.send(&context.announce_with(communities))?;
        peer.send_sentinel(context)?;
        daemon.witness_gets(context.sentinel)?;
        ensure!(!daemon.witness_got(context.prefix), "it was passed on");
        let routes = daemon.routes(context, context.prefix)?;
        ensure!(routes.len() == 1, "it is in the table: {routes:?}");
        Ok(())
    })
}

/// Every attribute code with junk of nine lengths. Only MP_REACH and MP_UNREACH may end the session,
/// because only there can NLRI be beyond finding (RFC 7606 §3 (j)).
pub fn every_code() -> Vec<Case> {
    (1..=255u8)
        .map(|code| {
            let name = format!("every_attribute_code_with_junk_{code:03}");
            let junk = move |context: &Context| -> Vec<u8> {
                [0usize, 1, 2, 3, 4, 7, 8, 64, 255]
                    .iter()
                    .flat_map(|&length| {
                        context.announce_with(attribute(
                            OPTIONAL_TRANSITIVE,
                            code,
                            &vec![0xa5; length],
                        ))
                    })
                    .collect()
            };
            let expect = if matches!(code, 14 | 15) { Expect::Reset(3) } else { Expect::Up };
            established(&name, External, expect, junk)
        })
        .collect()
}

//! What speakers make of routes by what they are to each other: reflection (RFC 4456), roles
//! (RFC 9234), refreshes to a peer (RFC 2918, RFC 7313), two-octet speakers (RFC 6793).

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail, ensure};

use crate::case::{Case, free};
use crate::daemon::PeerKind::{External, Internal};
use crate::daemon::{Peer, poll};
use crate::special::{
    CLIENT_A, CLIENT_B, CUSTOMER, LATERAL, MISMATCH, NON_CLIENT_A, NON_CLIENT_B, OLD_READER,
    PROVIDER,
};
use crate::wire::{self, OPTIONAL, OPTIONAL_TRANSITIVE, attribute, capability, parameter};

/// The daemon's identifier, which is its cluster id too.
const OWN_ID: [u8; 4] = [10, 10, 10, 10];

/// Role capability values.
const ROLE_PROVIDER: &[u8] = &[0];
const ROLE_CUSTOMER: &[u8] = &[3];
const ROLE_PEER: &[u8] = &[4];

fn has(update: &[u8], octets: &[u8]) -> bool {
    update.windows(octets.len()).any(|window| window == octets)
}

/// The next message, which is no NOTIFICATION.
fn next(peer: &mut Peer) -> anyhow::Result<(u8, Vec<u8>)> {
    let message = peer.read_message()?.context("closed")?;
    ensure!(message.0 != wire::NOTIFICATION, "NOTIFICATION {:?}", message.1);
    Ok(message)
}

/// That `peer` is announced `second` and never `first`, which was announced before it.
fn skips(peer: &mut Peer, first: Ipv4Addr, second: Ipv4Addr) -> anyhow::Result<()> {
    loop {
        match peer.read_message()? {
            Some((wire::UPDATE, body)) => {
                let updates = [body];
                if crate::daemon::announcement(&updates, first).is_some() {
                    bail!("it was told {first}/24");
                }
                if crate::daemon::announcement(&updates, second).is_some() {
                    return Ok(());
                }
            }
            Some((wire::KEEPALIVE, _)) => {}
            other => bail!("got {other:?}"),
        }
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        free(
            "rfc4456_6_clients_and_non_clients_and_rfc7313_4_borr_and_eorr",
            Internal,
            |daemon, context| {
                let mut client_a = CLIENT_A.establish(daemon, &CLIENT_A.open())?;
                let mut client_b = CLIENT_B.establish(daemon, &CLIENT_B.open())?;
                let mut non_client_a = NON_CLIENT_A.establish(daemon, &NON_CLIENT_A.open())?;
                let mut non_client_b = NON_CLIENT_B.establish(daemon, &NON_CLIENT_B.open())?;
                // From a client: to everybody else, with ORIGINATOR_ID and CLUSTER_LIST (§8).
                client_a.send(&context.announce(&context.clean()))?;
                let mut originator = vec![OPTIONAL, 9, 4];
                originator.extend(CLIENT_A.address().octets());
                let mut cluster = vec![OPTIONAL, 10, 4];
                cluster.extend(OWN_ID);
                for peer in [&mut client_b, &mut non_client_a, &mut non_client_b] {
                    let update = peer.expect_announcement(context.prefix)?;
                    ensure!(has(&update, &originator), "no ORIGINATOR_ID in {update:02x?}");
                    ensure!(has(&update, &cluster), "no CLUSTER_LIST in {update:02x?}");
                    // The next hop is left alone (§10).
                    ensure!(has(&update, &[0x40, 3, 4, 192, 0, 2, 1]), "{update:02x?}");
                }
                // From a non-client: to clients only. The route of a client that follows shows it.
                let [_, high, low, _] = context.prefix.octets();
                let (second, third) = (Ipv4Addr::new(23, high, low, 0), context.sentinel);
                let announce = |prefix| {
                    wire::update(&[], &wire::encode_all(&context.clean()), &wire::nlri(prefix))
                };
                non_client_a.send(&announce(second))?;
                client_a.expect_announcement(second).context("a client")?;
                client_b.expect_announcement(second).context("a client")?;
                client_a.send(&announce(third))?;
                skips(&mut non_client_b, second, third)?;
                // A reflector waits with its End-of-RIB for its clients', and with BoRR for its own
                // End-of-RIB (RFC 7313 §4).
                for client in [&mut client_a, &mut client_b] {
                    client.send(&wire::update(&[], &[], &[]))?;
                    let ipv6 = attribute(OPTIONAL, 15, &[0, 2, 1]);
                    client.send(&wire::update(&[], &ipv6.encode(), &[]))?;
                }
                while next(&mut non_client_b)? != (wire::UPDATE, vec![0; 4]) {}
                non_client_b.send(&wire::message(wire::ROUTE_REFRESH, &[0, 1, 0, 1]))?;
                while next(&mut non_client_b)? != (wire::ROUTE_REFRESH, vec![0, 1, 1, 1]) {}
                non_client_b.expect_announcement(context.prefix).context("the answer")?;
                while next(&mut non_client_b)? != (wire::ROUTE_REFRESH, vec![0, 1, 2, 1]) {}
                Ok(())
            },
        ),
        free("rfc9234_4_2_role_mismatch", External, |daemon, _| {
            // We are its customer, so it must be a provider.
            let mut peer = Peer::connect(MISMATCH.address(), daemon.address())?;
            peer.send(&MISMATCH.open_with(9, ROLE_PEER).encode())?;
            peer.expect_notification(2, 11, None)
        }),
        free("rfc9234_5_otc_is_added_and_leaks_are_stopped", External, |daemon, context| {
            let mut provider = PROVIDER.establish(daemon, &PROVIDER.open_with(9, ROLE_PROVIDER))?;
            let mut customer = CUSTOMER.establish(daemon, &CUSTOMER.open_with(9, ROLE_CUSTOMER))?;
            let mut lateral = LATERAL.establish(daemon, &LATERAL.open_with(9, ROLE_PEER))?;
            // A provider's route is marked with its AS and goes to customers only.
            provider.send(&context.announce(&context.clean()))?;
            let otc = |asn: u32| {
                let mut octets = vec![OPTIONAL_TRANSITIVE, 35, 4];
                octets.extend(asn.to_be_bytes());
                octets
            };
            // The customer has the AS of the provider in this test, which is no loop here: it reads.
            let update = customer.expect_announcement(context.prefix)?;
            ensure!(has(&update, &otc(65101)), "no OTC of the provider in {update:02x?}");
            // A customer's route goes to everybody, marked with our AS towards the lateral peer.
            let [_, high, low, _] = context.prefix.octets();
            let second = Ipv4Addr::new(24, high, low, 0);
            let attributes = wire::encode_all(&context.clean());
            customer.send(&wire::update(&[], &attributes, &wire::nlri(second)))?;
            // The provider's route came first: the lateral peer must not have been told.
            let update = loop {
                match lateral.read_message()?.context("closed")? {
                    (wire::UPDATE, body) => {
                        let updates = [body];
                        let told = crate::daemon::announcement(&updates, context.prefix);
                        ensure!(told.is_none(), "a provider's route went to a lateral peer");
                        if let Some(found) = crate::daemon::announcement(&updates, second) {
                            break found;
                        }
                    }
                    (wire::KEEPALIVE, _) => {}
                    other => bail!("got {other:?}"),
                }
            };
            ensure!(has(&update, &otc(64512)), "no OTC of ours in {update:02x?}");
            // A marked route from a customer is a leak: kept out of the decision.
            let third = Ipv4Addr::new(25, high, low, 0);
            let mut leaked = context.clean();
            leaked.push(attribute(OPTIONAL_TRANSITIVE, 35, &65009u32.to_be_bytes()));
            customer.send(&wire::update(&[], &wire::encode_all(&leaked), &wire::nlri(third)))?;
            let route = CUSTOMER.route(daemon, third)?;
            ensure!(route["best"] == false, "a leak takes part: {route}");
            let reason = route["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("leak"), "{route}");
            Ok(())
        }),
        free("rfc2918_4_request_is_answered_with_everything", External, |daemon, context| {
            // Without enhanced route refresh: a plain answer.
            let mut open = OLD_READER.open();
            let asn = u32::from(open.my_as).to_be_bytes();
            let capabilities =
                [capability(1, &[0, 1, 0, 1]), capability(2, &[]), capability(65, &asn)].concat();
            open.parameters = parameter(2, &capabilities);
            let mut source = daemon.establish(context)?;
            source.send(&context.announce(&context.clean()))?;
            daemon.wait_for_route(context, context.prefix)?;
            let mut reader = OLD_READER.establish(daemon, &open)?;
            let first = reader.expect_announcement(context.prefix)?;
            reader.send(&wire::message(wire::ROUTE_REFRESH, &[0, 1, 0, 1]))?;
            let again = reader.expect_announcement(context.prefix)?;
            ensure!(attributes_of(&first) == attributes_of(&again), "{first:?} {again:?}");
            drop(reader);
            // The same peer as a speaker of two-octet AS numbers: AS_TRANS and AS4_PATH (RFC 6793
            // §4.2.2). In this case, since the daemon knows it under one address only.
            open.parameters = parameter(2, &capability(1, &[0, 1, 0, 1]));
            let mut attributes = context.clean();
            attributes[1] = wire::as_path(&[65101, 4_200_000_001]);
            let mut reader = OLD_READER.establish(daemon, &open)?;
            source.send(&wire::update(
                &[],
                &wire::encode_all(&attributes),
                &wire::nlri(context.sentinel),
            ))?;
            let update = reader.expect_announcement(context.sentinel)?;
            let two = [0x40, 2, 8, 2, 3, 0xfc, 0x00, 0xfe, 0x4d, 0x5b, 0xa0];
            ensure!(has(&update, &two), "no AS_TRANS in {update:02x?}");
            let mut four = vec![2, 3];
            four.extend([64512u32, 65101, 4_200_000_001].iter().flat_map(|asn| asn.to_be_bytes()));
            ensure!(has(&update, &four), "no AS4_PATH in {update:02x?}");
            Ok(())
        }),
    ]
}

fn attributes_of(update: &[u8]) -> &[u8] {
    let withdrawn = usize::from(u16::from_be_bytes([update[0], update[1]]));
    let rest = &update[2 + withdrawn..];
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    &rest[2..2 + length]
}

/// A peer without the capability: AS_PATH has two octets a number, AS4_PATH the rest of the truth.
fn from_two_octets(
    name: &str,
    as_path: &'static [u8],
    more: &'static [(u8, &'static [u8])],
    wanted: &'static str,
) -> Case {
    free(name, External, move |daemon, context| {
        let mut open = context.usual_open();
        open.parameters = parameter(2, &capability(1, &[0, 1, 0, 1]));
        let mut peer = poll(|| Peer::establish(context.address, daemon.address(), &open))?;
        let mut attributes = context.clean();
        attributes[1] = attribute(wire::WELL_KNOWN, 2, as_path);
        for (code, value) in more {
            attributes.push(attribute(OPTIONAL_TRANSITIVE, *code, value));
        }
        peer.send(&context.announce(&attributes))?;
        let route = daemon.wait_for_route(context, context.prefix)?;
        ensure!(route["asPath"] == wanted, "{route}");
        let shown = daemon.peer(context)?;
        ensure!(shown["negotiated"]["fourOctetAS"] == false, "{shown}");
        Ok(())
    })
}

/// 65101, AS_TRANS, 65200 in two octets each.
const TRANS: &[u8] = &[2, 3, 0xfe, 0x4d, 0x5b, 0xa0, 0xfe, 0xb0];

pub fn two_octet_cases() -> Vec<Case> {
    vec![
        from_two_octets(
            "rfc6793_4_2_3_as4_path_replaces_the_end_of_the_path",
            TRANS,
            &[(17, &[2, 2, 0xfa, 0x56, 0xea, 1, 0, 0, 0xfe, 0xb0])],
            "65101 4200000001 65200",
        ),
        from_two_octets(
            "rfc6793_4_2_3_as4_path_longer_than_the_path_is_ignored",
            TRANS,
            &[(17, &[2, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])],
            "65101 23456 65200",
        ),
        from_two_octets(
            "rfc6793_6_malformed_as4_path_is_discarded",
            TRANS,
            &[(17, &[2, 9, 0, 0, 0, 1])],
            "65101 23456 65200",
        ),
        from_two_octets(
            "rfc6793_4_2_3_aggregator_of_another_speaker_silences_as4_path",
            TRANS,
            &[
                (7, &[0xfe, 0xb0, 192, 0, 2, 9]),
                (17, &[2, 2, 0xfa, 0x56, 0xea, 1, 0, 0, 0xfe, 0xb0]),
                (18, &[0, 0, 0xfe, 0xb1, 192, 0, 2, 9]),
            ],
            "65101 23456 65200",
        ),
    ]
}

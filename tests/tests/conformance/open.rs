//! OPEN: RFC 4271 §6.2, RFC 5492, RFC 6286, RFC 6793, RFC 7607, RFC 9072.

use std::net::Ipv4Addr;

use anyhow::ensure;

use crate::case::{Case, Context, Expect, free, instead_of_open, notification};
use crate::daemon::PeerKind::{External, Internal};
use crate::daemon::poll;
use crate::wire::{self, OpenFields, capability, parameter};

fn spoiled(name: &str, expect: Expect, spoil: impl Fn(&mut OpenFields) + Send + 'static) -> Case {
    instead_of_open(name, External, expect, move |context| {
        let mut open = context.usual_open();
        spoil(&mut open);
        open.encode()
    })
}

/// The usual OPEN with one capability more.
fn with_capability(name: &str, code: u8, value: &'static [u8]) -> Case {
    spoiled(name, Expect::Up, move |open| {
        open.parameters.extend(parameter(2, &capability(code, value)));
    })
}

/// RFC 9072 §2: the usual capabilities and `more` in extended optional parameters. `short` is the
/// one-octet length that no longer counts, `beyond` is added to the one that does.
fn extended_parameters(context: &Context, short: u8, more: &[u8], beyond: u16) -> Vec<u8> {
    let usual = context.usual_open();
    let capabilities = [&usual.parameters[2..], more].concat();
    let mut extended = vec![2];
    extended.extend(u16::try_from(capabilities.len()).expect("fits").to_be_bytes());
    extended.extend(capabilities);
    let mut body = vec![4];
    body.extend(usual.my_as.to_be_bytes());
    body.extend(usual.hold_time.to_be_bytes());
    body.extend(usual.identifier.octets());
    body.extend([short, 255]);
    body.extend((u16::try_from(extended.len()).expect("fits") + beyond).to_be_bytes());
    body.extend(extended);
    wire::message(wire::OPEN, &body)
}

pub fn cases() -> Vec<Case> {
    vec![
        spoiled("rfc4271_6_2_version_3", Expect::Notification(2, 1, Some(vec![0, 4])), |open| {
            open.version = 3;
        }),
        spoiled("rfc4271_6_2_version_5", Expect::Notification(2, 1, Some(vec![0, 4])), |open| {
            open.version = 5;
        }),
        instead_of_open("rfc4271_6_2_wrong_as", External, notification(2, 2), |context| {
            OpenFields::usual(65102, context.address).encode()
        }),
        instead_of_open("rfc7607_as_zero_in_open", External, notification(2, 2), |context| {
            OpenFields::usual(0, context.address).encode()
        }),
        spoiled("rfc6286_2_2_identifier_zero", notification(2, 3), |open| {
            open.identifier = Ipv4Addr::UNSPECIFIED;
        }),
        instead_of_open(
            "rfc6286_2_2_internal_peer_with_our_identifier",
            Internal,
            notification(2, 3),
            |context| OpenFields::usual(context.asn, Ipv4Addr::new(10, 10, 10, 10)).encode(),
        ),
        spoiled("rfc6286_external_peer_with_our_identifier_is_fine", Expect::Up, |open| {
            open.identifier = Ipv4Addr::new(10, 10, 10, 10);
        }),
        spoiled("rfc6286_identifier_that_is_no_host_address_is_fine", Expect::Up, |open| {
            open.identifier = Ipv4Addr::new(224, 0, 0, 5);
        }),
        spoiled("rfc4271_6_2_hold_time_1", notification(2, 6), |open| open.hold_time = 1),
        spoiled("rfc4271_6_2_hold_time_2", notification(2, 6), |open| open.hold_time = 2),
        spoiled("rfc4271_4_2_hold_time_0_is_fine", Expect::Up, |open| open.hold_time = 0),
        spoiled("rfc4271_4_2_hold_time_65535_is_fine", Expect::Up, |open| open.hold_time = 65535),
        spoiled("rfc4271_6_2_unknown_optional_parameter", notification(2, 4), |open| {
            open.parameters.extend(parameter(9, &[1, 2, 3]));
        }),
        spoiled("rfc4271_6_2_optional_parameter_overruns", notification(2, 0), |open| {
            open.parameters.extend([2, 200, 1]);
        }),
        spoiled("rfc5492_capability_overruns_its_parameter", notification(2, 0), |open| {
            open.parameters.extend(parameter(2, &[1, 40, 0, 1]));
        }),
        spoiled("rfc4271_6_2_one_octet_left_of_the_parameters", notification(2, 0), |open| {
            open.parameters.push(2);
        }),
        with_capability("rfc5492_unknown_capability_is_ignored", 200, &[1, 2, 3, 4, 5]),
        with_capability("rfc5492_repeated_capability_is_fine", 2, &[]),
        with_capability("rfc5492_multiprotocol_of_three_octets_is_ignored", 1, &[0, 1, 0]),
        with_capability("rfc5492_route_refresh_with_a_value_is_tolerated", 2, &[1, 2]),
        with_capability("rfc4724_graceful_restart_of_one_octet_is_ignored", 64, &[1]),
        with_capability("rfc7911_add_path_with_mode_7_is_ignored", 69, &[0, 1, 1, 7]),
        with_capability("rfc8950_extended_next_hop_of_five_octets_is_ignored", 5, &[0, 1, 0, 1, 0]),
        with_capability("rfc9234_role_of_two_octets_is_ignored", 9, &[1, 1]),
        with_capability("fqdn_that_overruns_itself_is_ignored", 73, &[60, b'a', b'b']),
        with_capability("rfc9494_llgr_of_three_octets_is_ignored", 71, &[0, 1, 1]),
        spoiled("rfc5492_5_no_family_in_common", notification(2, 7), |open| {
            let asn = u32::from(open.my_as).to_be_bytes();
            let capabilities = [capability(1, &[0, 25, 0, 65]), capability(65, &asn)].concat();
            open.parameters = parameter(2, &capabilities);
        }),
        spoiled("rfc5492_one_parameter_per_capability_is_fine", Expect::Up, |open| {
            let asn = u32::from(open.my_as).to_be_bytes();
            open.parameters = [
                parameter(2, &capability(1, &[0, 1, 0, 1])),
                parameter(2, &capability(65, &asn)),
                parameter(2, &[]),
            ]
            .concat();
        }),
        instead_of_open("rfc9072_extended_optional_parameters", External, Expect::Up, |context| {
            extended_parameters(context, 255, &[], 0)
        }),
        instead_of_open("rfc9072_2_short_length_does_not_count", External, Expect::Up, |context| {
            extended_parameters(context, 1, &[], 0)
        }),
        instead_of_open("rfc9072_2_parameters_of_2000_octets", External, Expect::Up, |context| {
            extended_parameters(context, 255, &capability(200, &[7; 198]).repeat(10), 0)
        }),
        instead_of_open(
            "rfc9072_2_extended_length_overruns",
            External,
            notification(2, 0),
            |context| extended_parameters(context, 255, &[], 1),
        ),
        free("rfc4271_open_without_capabilities_is_ipv4_unicast", External, |daemon, context| {
            let mut peer = daemon.connect(context)?;
            let mut open = context.usual_open();
            open.parameters.clear();
            peer.send(&open.encode())?;
            peer.finish_open()?;
            // Two-octet AS numbers now (RFC 6793 §4.2.2).
            let path = wire::attribute(wire::WELL_KNOWN, 2, &[2, 1, 0xfe, 0x4d]);
            let mut attributes = context.clean();
            attributes[1] = path;
            peer.send(&context.announce(&attributes))?;
            let route = daemon.wait_for_route(context, context.prefix)?;
            ensure!(route["asPath"] == "65101", "{route}");
            Ok(())
        }),
        free("rfc4271_6_2_reason_of_a_refused_open_is_shown", External, |daemon, context| {
            let mut peer = daemon.connect(context)?;
            peer.send(&OpenFields::usual(65102, context.address).encode())?;
            peer.expect_notification(2, 2, None)?;
            poll(|| {
                let shown = daemon.peer(context)?;
                let error = shown["lastError"].as_str().unwrap_or_default().to_owned();
                ensure!(error.contains("65102") && error.contains("65101"), "lastError {error:?}");
                Ok(())
            })
        }),
    ]
}

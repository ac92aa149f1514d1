//! OPEN: each case of RFC 4271 §6.2 and of the RFCs on capabilities.

use proptest::prelude::*;

use super::*;
use crate::capability::{AddPathMode, GracefulRestartFamily, LongLivedFamily, Role};
use crate::types::{AfiSafi, Family};

/// An OPEN with these optional parameters octets (their length included), AS 64512, hold time 90.
fn frame(parameters: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    let length = u16::try_from(HEADER_LEN + 9 + parameters.len()).expect("short");
    octets.extend_from_slice(&length.to_be_bytes());
    octets.extend_from_slice(&[1, 4, 0xfc, 0, 0, 90, 10, 0, 0, 1]);
    octets.extend_from_slice(parameters);
    octets
}

fn decode(octets: Vec<u8>) -> Result<Open, (OpenSubcode, Vec<u8>, usize)> {
    Open::decode(&octets.into()).map_err(|error| match error.notification.code {
        ErrorCode::Open(subcode) => (subcode, error.notification.data.to_vec(), error.offset),
        other => panic!("not an OPEN error: {other}"),
    })
}

fn capabilities(parameters: &[u8]) -> Vec<Capability> {
    decode(frame(parameters)).expect("a good OPEN").capabilities
}

#[test]
fn the_fixed_fields() {
    let open = decode(frame(&[0])).expect("a good OPEN");
    assert_eq!((open.my_as, open.asn), (64512, Asn(64512)));
    assert_eq!(open.hold_time.seconds(), 90);
    assert_eq!(open.identifier.to_string(), "10.0.0.1");
}

fn changed(at: usize, octets: &[u8]) -> Result<Open, (OpenSubcode, Vec<u8>, usize)> {
    let mut frame = frame(&[0]);
    frame[at..at + octets.len()].copy_from_slice(octets);
    decode(frame)
}

#[test]
fn unsupported_version_names_ours() {
    for version in [0, 3, 5, 255] {
        let expected = (OpenSubcode::UnsupportedVersionNumber, vec![0, 4], 19);
        assert_eq!(changed(19, &[version]), Err(expected));
    }
}

#[test]
fn unacceptable_hold_times() {
    for seconds in [1, 2] {
        let expected = (OpenSubcode::UnacceptableHoldTime, vec![], 22);
        assert_eq!(changed(22, &[0, seconds]), Err(expected));
    }
    for seconds in [0, 3] {
        assert!(changed(22, &[0, seconds]).is_ok());
    }
}

#[test]
fn identifier_zero() {
    assert_eq!(changed(24, &[0; 4]), Err((OpenSubcode::BadBgpIdentifier, vec![], 24)));
    assert!(changed(24, &[224, 0, 0, 1]).is_ok(), "RFC 6286: any non-zero number");
}

#[test]
fn as_zero_in_either_place() {
    assert_eq!(changed(20, &[0, 0]), Err((OpenSubcode::BadPeerAs, vec![], 20)));
    let parameters = [8, 2, 6, 65, 4, 0, 0, 0, 0];
    assert_eq!(decode(frame(&parameters)), Err((OpenSubcode::BadPeerAs, vec![], 33)));
}

#[test]
fn four_octet_as_wins_over_the_field() {
    let open = decode(frame(&[8, 2, 6, 65, 4, 0, 1, 0x11, 0x70])).expect("good");
    assert_eq!((open.my_as, open.asn), (64512, Asn(70000)));
}

#[test]
fn parameters_that_are_cut_short() {
    let unspecific = |parameters: &[u8], offset| {
        let expected = (OpenSubcode::Unspecific, vec![], offset);
        assert_eq!(decode(frame(parameters)), Err(expected), "{parameters:?}");
    };
    unspecific(&[3, 2, 0], 28); // the length is beyond the message
    unspecific(&[0, 2, 0], 29); // octets behind the parameters
    unspecific(&[1, 2], 29); // a parameter without its length
    unspecific(&[3, 2, 4, 0], 29); // a parameter beyond the parameters
    unspecific(&[3, 2, 1, 1], 31); // a capability without its length
    unspecific(&[4, 2, 2, 1, 4], 31); // a capability beyond its parameter
    unspecific(&[255, 255, 0], 30); // extended, without its length
    unspecific(&[255, 255, 0, 9, 2, 0, 2, 1], 30); // extended, length beyond the message
    unspecific(&[255, 255, 0, 4, 2, 0, 2, 1], 32); // extended, a parameter beyond the parameters
}

#[test]
fn unknown_parameters_are_unsupported() {
    for kind in [0, 1, 3, 254] {
        let expected = (OpenSubcode::UnsupportedOptionalParameter, vec![], 29);
        assert_eq!(decode(frame(&[3, kind, 1, 0])), Err(expected));
    }
}

#[test]
fn extended_parameters_of_rfc_9072() {
    let long = [255, 255, 0, 5, 2, 0, 2, 2, 0];
    assert_eq!(capabilities(&long), [Capability::RouteRefresh]);
    let other_length = [17, 255, 0, 5, 2, 0, 2, 6, 0];
    assert_eq!(capabilities(&other_length), [Capability::ExtendedMessage], "any length but zero");
}

#[test]
fn capabilities_in_one_or_many_parameters() {
    let one = [6, 2, 4, 2, 0, 70, 0];
    let many = [8, 2, 2, 2, 0, 2, 2, 70, 0];
    let expected = [Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
    assert_eq!(capabilities(&one), expected);
    assert_eq!(capabilities(&many), expected);
    assert_eq!(capabilities(&[2, 2, 0]), [], "an empty parameter");
}

/// Values without their code's form: kept, and no reason to refuse.
#[test]
fn junk_capabilities_are_unknown() {
    let cases: [&[u8]; 17] = [
        &[1, 3, 0, 1, 0],
        &[2, 1, 0],
        &[5, 5, 0, 1, 0, 1, 0],
        &[5, 6, 0, 1, 1, 1, 0, 2],
        &[6, 1, 0],
        &[9, 0],
        &[9, 1, 5],
        &[64, 1, 0],
        &[64, 5, 0, 0, 0, 1, 1],
        &[65, 3, 0, 0, 1],
        &[69, 4, 0, 1, 1, 0],
        &[69, 8, 0, 1, 1, 3, 0, 2, 1, 4],
        &[70, 2, 0, 0],
        &[71, 6, 0, 1, 1, 0, 0, 0],
        &[73, 2, 1, b'a'],
        &[73, 3, 1, 0xff, 0],
        &[99, 3, 1, 2, 3],
    ];
    for case in cases {
        let length = u8::try_from(case.len()).expect("short");
        let parameters = [&[length + 2, 2, length][..], case].concat();
        let expected =
            Capability::Unknown { code: case[0], value: Bytes::copy_from_slice(&case[2..]) };
        assert_eq!(capabilities(&parameters), [expected], "{case:?}");
    }
}

#[test]
fn every_capability_by_its_octets() {
    let v4 = Family::Ipv4Unicast.afi_safi();
    let cases: [(&[u8], Capability); 11] = [
        (&[1, 4, 0, 1, 0, 1], Capability::Multiprotocol(v4)),
        (&[2, 0], Capability::RouteRefresh),
        (&[5, 6, 0, 1, 0, 1, 0, 2], Capability::ExtendedNextHop(vec![(v4, 2)])),
        (&[6, 0], Capability::ExtendedMessage),
        (&[9, 1, 3], Capability::Role(Role::Customer)),
        (
            &[64, 6, 0xc0, 120, 0, 1, 1, 0x80],
            Capability::GracefulRestart {
                restarted: true,
                notification: true,
                restart_time: 120,
                families: vec![GracefulRestartFamily { family: v4, forwarding: true }],
            },
        ),
        (&[65, 4, 0, 1, 0x11, 0x70], Capability::FourOctetAs(Asn(70000))),
        (&[69, 4, 0, 1, 1, 3], Capability::AddPath(vec![(v4, AddPathMode::Both)])),
        (&[70, 0], Capability::EnhancedRouteRefresh),
        (
            &[71, 7, 0, 1, 1, 0x80, 1, 0, 2],
            Capability::LongLivedGracefulRestart(vec![LongLivedFamily {
                family: v4,
                forwarding: true,
                stale_time: 65538,
            }]),
        ),
        (
            &[73, 7, 3, b't', b'o', b'r', 2, b'd', b'c'],
            Capability::Fqdn { host: "tor".into(), domain: "dc".into() },
        ),
    ];
    for (octets, capability) in cases {
        let mut out = BytesMut::new();
        capability.write(&mut out);
        assert_eq!(&out[..], octets, "{capability:?}");
        assert_eq!(Capability::read(octets[0], &Bytes::copy_from_slice(&octets[2..])), capability);
    }
}

fn any_family() -> impl Strategy<Value = AfiSafi> {
    any::<(u16, u8)>().prop_map(|(afi, safi)| AfiSafi { afi, safi })
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let mode =
        prop_oneof![Just(AddPathMode::Receive), Just(AddPathMode::Send), Just(AddPathMode::Both)];
    prop_oneof![
        any_family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        prop::collection::vec((any_family(), any::<u16>()), 0..6)
            .prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        (0u8..5).prop_map(|role| Capability::Role(Role::from_octet(role).expect("assigned"))),
        (any::<bool>(), any::<bool>(), 0u16..4096, prop::collection::vec(any_family(), 0..5))
            .prop_map(|(restarted, notification, restart_time, families)| {
                Capability::GracefulRestart {
                    restarted,
                    notification,
                    restart_time,
                    families: families
                        .into_iter()
                        .map(|family| GracefulRestartFamily { family, forwarding: restarted })
                        .collect(),
                }
            }),
        (1u32..).prop_map(|asn| Capability::FourOctetAs(Asn(asn))),
        prop::collection::vec((any_family(), mode), 0..5).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRouteRefresh),
        prop::collection::vec((any_family(), any::<bool>(), 0u32..1 << 24), 0..5).prop_map(
            |list| {
                let entry = |(family, forwarding, stale_time)| LongLivedFamily {
                    family,
                    forwarding,
                    stale_time,
                };
                Capability::LongLivedGracefulRestart(list.into_iter().map(entry).collect())
            }
        ),
        ("[a-z]{0,64}", "[a-z.]{0,64}")
            .prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        (74u8.., prop::collection::vec(any::<u8>(), 0..255))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ]
}

proptest! {
    #[test]
    fn opens_go_there_and_back(
        my_as in 1u16..,
        hold in prop_oneof![Just(0u16), 3u16..],
        identifier in 1u32..,
        capabilities in prop::collection::vec(any_capability(), 0..15),
    ) {
        let asn = capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        let open = Open {
            my_as,
            asn: asn.unwrap_or(Asn(my_as.into())),
            hold_time: HoldTime::new(hold).expect("not 1 or 2"),
            identifier: BgpIdentifier(identifier.into()),
            capabilities,
        };
        let mut out = BytesMut::new();
        open.encode(&mut out);
        prop_assert!(out.len() <= MAX_STANDARD_LEN);
        prop_assert_eq!(decode(out.to_vec()), Ok(open));
    }
}

#[test]
fn capabilities_beyond_the_longest_message_are_left_out() {
    let capability = Capability::Unknown { code: 200, value: vec![1; 255].into() };
    let open = Open {
        my_as: 1,
        asn: Asn(1),
        hold_time: HoldTime::new(90).expect("valid"),
        identifier: BgpIdentifier(Ipv4Addr::LOCALHOST),
        capabilities: vec![capability; 20],
    };
    let mut out = BytesMut::new();
    open.encode(&mut out);
    assert!(out.len() <= MAX_STANDARD_LEN);
    assert_eq!(decode(out.to_vec()).expect("good").capabilities.len(), 15);
}

//! What a session costs per UPDATE: framing, decoding, the state machine, the batch that goes to
//! the tables. A read is 64 KiB; five prefixes share their attributes, as in a full table.
//!
//! `cargo bench -p routelet-bgp --bench session`

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::Ipv4Net;
use routelet_bgp::core::config::{PeerConfig, PeerKind};
use routelet_bgp::core::session::{
    ConnectionId, Endpoints, LocalSpeaker, Output, Session, build_open,
};
use routelet_proto::update::pack_announcements;
use routelet_proto::{
    AsPath, Asn, BgpIdentifier, EncodeContext, FamilySet, Message, NextHop, Origin, PathAttributes,
};

const READ_SIZE: usize = 64 << 10;
const UPDATES: u32 = 20_000;

fn config(local_as: Asn, remote_as: Asn) -> PeerConfig {
    let address = Ipv4Addr::new(10, 0, 0, 2).into();
    PeerConfig {
        passive: true,
        ..PeerConfig::new("bench", PeerKind::External, address, remote_as, local_as)
    }
}

fn speaker(last: u8) -> LocalSpeaker {
    LocalSpeaker {
        router_id: BgpIdentifier(Ipv4Addr::new(10, 0, 0, last)),
        host_name: String::new(),
        restarted: false,
        forwarding: FamilySet::EMPTY,
    }
}

fn established(now: Instant) -> (Session, ConnectionId) {
    let ours = Arc::new(config(Asn(65001), Asn(65002)));
    let mut session = Session::new(now, ours, Arc::new(speaker(1)), 1);
    session.start(now);
    let endpoints = Endpoints {
        local: (Ipv4Addr::new(10, 0, 0, 1), 179).into(),
        remote: (Ipv4Addr::new(10, 0, 0, 2), 40_000).into(),
        interface: 0,
    };
    let id = session.handle_incoming(now, endpoints);
    let open = build_open(&config(Asn(65002), Asn(65001)), &speaker(2), false);
    session.handle_message(now, id, Ok(Message::Open(open)));
    session.handle_message(now, id, Ok(Message::Keepalive));
    while session.poll_output().is_some() {}
    (session, id)
}

fn updates() -> BytesMut {
    let context = EncodeContext {
        four_octet_as: true,
        max_len: 4096,
        add_path: FamilySet::EMPTY,
        extended_next_hop: false,
    };
    let mut octets = BytesMut::new();
    for number in 0..UPDATES {
        let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 2));
        let mut attributes = PathAttributes::originated(Origin::Igp, next_hop);
        attributes.as_path =
            AsPath::sequence(&[Asn(65002), Asn(number % 60_000 + 1), Asn(number % 977 + 1)]);
        let prefixes = (0..5).map(|place| {
            let address = Ipv4Addr::from_bits(0x0b00_0000 + ((number * 5 + place) << 8));
            (0, Ipv4Net::new(address, 24).expect("24 is a prefix length"))
        });
        pack_announcements(&context, &attributes, prefixes, &mut octets);
    }
    octets
}

#[allow(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn receive_updates(criterion: &mut Criterion) {
    let (octets, now) = (updates(), origin());
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(UPDATES.into()));
    group.bench_function("receive UPDATEs of five prefixes", |bencher| {
        bencher.iter_batched(
            || established(now),
            |(mut session, id)| {
                let mut buffer = BytesMut::new();
                let mut received = 0;
                for read in octets.chunks(READ_SIZE) {
                    buffer.extend_from_slice(read);
                    session.handle_octets(now, id, read.len(), &mut buffer);
                    while let Some(output) = session.poll_output() {
                        if let Output::Updates(updates) = output {
                            received += updates.len();
                        }
                    }
                }
                assert_eq!(received, UPDATES as usize);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, receive_updates);
criterion_main!(benches);

//! Reading and writing UPDATEs: the sizes that a full table and a reflector really send.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{Ipv4Net, Ipv6Net};
use routelet_proto::update::{pack_announcements, pack_withdrawals};
use routelet_proto::{
    AsPath, Asn, Community, DecodeContext, EncodeContext, Message, NextHop, Origin, PathAttributes,
    PathId, frame_length,
};

fn attributes() -> PathAttributes {
    let next_hop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mut attributes = PathAttributes::originated(Origin::Igp, next_hop);
    attributes.as_path = AsPath::sequence(&[64512, 65001, 70000, 3356].map(Asn));
    attributes.med = Some(10);
    attributes.communities.extend([Community(64512 << 16 | 100), Community(64512 << 16 | 200)]);
    attributes
}

fn v4(count: u32) -> Vec<(PathId, Ipv4Net)> {
    (0..count).map(|n| (0, Ipv4Net::new_assert((0x0a00_0000 + (n << 8)).into(), 24))).collect()
}

fn v6(count: u128) -> Vec<(PathId, Ipv6Net)> {
    let first = 0x2001_0db8_u128 << 96;
    (0..count).map(|n| (0, Ipv6Net::new_assert((first + (n << 64)).into(), 64))).collect()
}

fn packed(count: u32) -> Bytes {
    let mut out = BytesMut::new();
    pack_announcements(&EncodeContext::default(), &attributes(), v4(count), &mut out);
    out.freeze()
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let context = DecodeContext::default();
    for count in [1, 5, 900] {
        let frame = packed(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(format!("ipv4/{count}"), |bencher| {
            bencher.iter(|| Message::decode(black_box(&frame), &context));
        });
        group.bench_function(format!("ipv4/{count} and walk"), |bencher| {
            bencher.iter(|| {
                let Ok(Message::Update(update)) = Message::decode(black_box(&frame), &context)
                else {
                    panic!("an UPDATE");
                };
                for (path_id, prefix) in update.announced[0].nlri.iter::<Ipv4Net>() {
                    black_box((path_id, prefix));
                }
            });
        });
    }
    let mut out = BytesMut::new();
    let next_hop = NextHop::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | 1));
    let attributes = PathAttributes { next_hop, ..attributes() };
    pack_announcements(&EncodeContext::default(), &attributes, v6(5), &mut out);
    let frame = out.freeze();
    group.throughput(Throughput::Elements(5));
    group.bench_function("ipv6/5", |bencher| {
        bencher.iter(|| Message::decode(black_box(&frame), &context));
    });
    group.finish();
}

/// As a session reads: one buffer of many messages, cut by their headers.
fn stream(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream");
    let message = packed(5);
    let buffer = Bytes::from(message.repeat(600));
    group.throughput(Throughput::Elements(3000));
    group.bench_function("600 UPDATEs of five", |bencher| {
        bencher.iter(|| {
            let mut rest = buffer.clone();
            let context = DecodeContext::default();
            while let Ok(Some(length)) = frame_length(&rest, true) {
                let frame = rest.split_to(length);
                black_box(Message::decode(&frame, &context)).expect("an UPDATE");
            }
        });
    });
    group.finish();
}

fn pack(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pack");
    let context = EncodeContext::default();
    let attributes = attributes();
    for count in [1, 5, 900, 100_000] {
        let prefixes = v4(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(format!("announce/{count}"), |bencher| {
            let mut out = BytesMut::with_capacity(1 << 20);
            bencher.iter(|| {
                out.clear();
                pack_announcements(&context, &attributes, prefixes.iter().copied(), &mut out)
            });
        });
        group.bench_function(format!("withdraw/{count}"), |bencher| {
            let mut out = BytesMut::with_capacity(1 << 20);
            bencher.iter(|| {
                out.clear();
                pack_withdrawals(&context, prefixes.iter().copied(), &mut out)
            });
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let context = EncodeContext::default();
    for (name, frame) in [("update/5", packed(5)), ("update/900", packed(900))] {
        let message = Message::decode(&frame, &DecodeContext::default()).expect("an UPDATE");
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || BytesMut::with_capacity(8192),
                |out| message.encode(&context, out),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decode, stream, pack, encode);
criterion_main!(benches);

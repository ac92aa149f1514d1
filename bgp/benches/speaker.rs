//! The tables: import and export of 100,000 prefixes to one receiver and to 500, a single change in
//! a table of 500,000, a peer's end.

mod common;

use std::hint::black_box;

use common::{Bench, announce, attributes, prefix, updates};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use routelet_bgp::core::peer::{DownReason, PeerDown};

const PREFIXES: u32 = 100_000;

fn import_and_export(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("announce-100k");
    group.sample_size(10).throughput(Throughput::Elements(PREFIXES.into()));
    for each in [5, 500] {
        let updates = updates(0, PREFIXES, each);
        for receivers in [1, 500] {
            let name = format!("{each}-to-a-set/{receivers}-receivers");
            group.bench_function(name, |bencher| {
                bencher.iter_batched_ref(
                    || Bench::external(1 + receivers),
                    |bench| {
                        for updates in updates.chunks(64) {
                            for update in updates {
                                bench.speaker.handle_update(bench.now, bench.peers[0], update);
                            }
                            bench.drain();
                        }
                        black_box(bench.octets)
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn single_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one-change");
    for table in [1000, 500_000] {
        let mut bench = Bench::external(2);
        for update in updates(0, table, 5) {
            bench.update(0, &update);
        }
        let changes = [7, 8].map(|set| announce(attributes(0, 900_000 + set), [prefix(500)]));
        let mut turn = 0;
        group.bench_function(format!("table-of-{table}"), |bencher| {
            bencher.iter(|| {
                turn = 1 - turn;
                bench.update(0, &changes[turn]);
            });
        });
    }
    group.finish();
}

fn peer_down(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peer-down");
    group.sample_size(10).throughput(Throughput::Elements(PREFIXES.into()));
    let updates = updates(0, PREFIXES, 5);
    let down =
        PeerDown { reason: DownReason::TcpConnectionFails("closed".to_owned()), retain: None };
    group.bench_function("100k", |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut bench = Bench::external(2);
                updates.iter().for_each(|update| bench.update(0, update));
                bench
            },
            |bench| {
                bench.speaker.handle_peer_down(bench.now, bench.peers[0], &down);
                bench.drain();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, import_and_export, single_change, peer_down);
criterion_main!(benches);

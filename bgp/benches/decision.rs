//! The decision process over 2, 8 and 16 paths: decided early, and tied to the end.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use routelet_bgp::core::speaker::decision::{Candidate, Candidates, select};
use routelet_proto::{Asn, Origin};

fn candidates(count: usize, tied: bool) -> Candidates {
    (0..count)
        .map(|index| Candidate {
            index,
            local: false,
            local_pref: if tied || index > 0 { 100 } else { 200 },
            as_path_length: 3,
            origin: Origin::Igp,
            med: 0,
            neighbor: Some(Asn(65001 + index as u32)),
            external: true,
            metric: 0,
            identifier: 1000 - index as u32,
            cluster_list_length: 0,
            peer_address: Ipv4Addr::from(0x0a00_0000 + index as u32).into(),
            path_id: 0,
            peer: index as u16,
        })
        .collect()
}

fn decision(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    for count in [2, 8, 16] {
        for (name, tied) in [("local-pref", false), ("multipath", true)] {
            let input = candidates(count, tied);
            group.bench_function(format!("{name}/{count}"), |bencher| {
                bencher.iter_batched_ref(
                    || input.clone(),
                    |candidates| black_box(select(candidates, 16, |_, _| ())),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decision);
criterion_main!(benches);

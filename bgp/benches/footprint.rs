//! The large cases of the field's tables, the speaker machine alone: a million prefixes through it,
//! what they occupy, and a reflector with a thousand clients. Prints CPU seconds and resident octets;
//! asserts only the outcome.

mod common;

use common::{Bench, announce, attributes, instant, prefix, updates, withdraw};
use routelet_bgp::core::peer::{DownReason, PeerDown};
use routelet_proto::{NextHop, Origin, PathAttributes, Update};

const MILLION: u32 = 1_000_000;

fn main() {
    // Smallest first: what one case frees, the next would use again.
    reflector(500);
    reflector(1000);
    for each in [5, 500] {
        million(each);
    }
}

/// One sender, one receiver.
fn million(each: u32) {
    let announcements = updates(0, MILLION, each);
    let withdrawals: Vec<Update> =
        (0..MILLION / 500).map(|n| withdraw((n * 500..(n + 1) * 500).map(prefix))).collect();
    let mut bench = Bench::external(2);
    let before = resident();
    let seconds = time(|| feed(&mut bench, &announcements));
    let (destinations, sets) = bench.speaker.sizes();
    assert_eq!((destinations, sets), (MILLION as usize, (MILLION / each) as usize));
    println!(
        "{each} to a set: announce {seconds:.3} s ({:.2} µs an UPDATE), {:.1} octets a prefix",
        seconds * 1e6 / f64::from(MILLION / each),
        (resident() - before) / f64::from(MILLION),
    );
    let seconds = time(|| feed(&mut bench, &withdrawals));
    assert_eq!(bench.speaker.sizes(), (0, 0));
    println!("{each} to a set: withdraw {seconds:.3} s");
    feed(&mut bench, &announcements);
    let reason = DownReason::TcpConnectionFails("closed".to_owned());
    let seconds = time(|| {
        bench.speaker.handle_peer_down(
            bench.now,
            bench.peers[0],
            &PeerDown { reason, retain: None },
        );
        bench.drain();
    });
    assert_eq!(bench.speaker.sizes(), (0, 0));
    println!("{each} to a set: sender gone {seconds:.3} s");
}

/// Every client has two prefixes; all must hear of all others'.
fn reflector(clients: usize) {
    let before = resident();
    let mut bench = Bench::clients(clients);
    let up = resident();
    let announcements: Vec<Update> = (0..clients)
        .map(|n| {
            let NextHop::V4(address) = attributes(n, 0).next_hop else { unreachable!("IPv4") };
            let own = PathAttributes::originated(Origin::Igp, NextHop::V4(address));
            announce(own, [prefix(2 * n as u32), prefix(2 * n as u32 + 1)])
        })
        .collect();
    let seconds = time(|| {
        for (n, update) in announcements.iter().enumerate() {
            bench.update(n, update);
        }
    });
    println!(
        "reflector, {clients} clients: {seconds:.3} s, {} pieces, {:.1} MB; sessions alone {:.1} MB",
        bench.pieces,
        (resident() - before) / 1e6,
        (up - before) / 1e6,
    );
    let changed = announce(attributes(7, 1), [prefix(14)]);
    let start = instant();
    bench.update(7, &changed);
    let elapsed = start.elapsed().as_secs_f64();
    println!("reflector, {clients} clients: one change {:.3} ms (wall)", elapsed * 1e3);
}

fn feed(bench: &mut Bench, updates: &[Update]) {
    for updates in updates.chunks(64) {
        for update in updates {
            bench.speaker.handle_update(bench.now, bench.peers[0], update);
        }
        bench.drain();
    }
}

/// CPU seconds of the work; the machine may have other things to do.
fn time(work: impl FnOnce()) -> f64 {
    let (start, began) = (instant(), on_cpu());
    work();
    match (began, on_cpu()) {
        (Some(began), Some(ended)) => ended - began,
        _ => start.elapsed().as_secs_f64(),
    }
}

/// CPU seconds of this thread, where /proc tells.
fn on_cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// Resident octets of this process, 0 where /proc does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|field| field.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

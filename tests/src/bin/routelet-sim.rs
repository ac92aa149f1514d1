//! Large simulations: `routelet-sim [mesh COUNT | reflected REFLECTORS CLIENTS EVERY] [SEED] [FAULTS]`,
//! where every EVERYth client has a prefix. Without words: a mesh of 1000, and 5000 clients of two
//! reflectors, 1000 of them with a prefix.

use std::time::Instant;

use anyhow::{Context as _, bail};
use routelet_tests::sim::{Topology, scenario};

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| -> anyhow::Result<usize> {
        let Some(word) = words.get(index) else { return Ok(default) };
        word.parse().with_context(|| format!("{word:?} is not a number"))
    };
    match words.first().map(String::as_str) {
        None => {
            report(Topology::full_mesh(1000), 1, 0)?;
            report(Topology::reflected(2, 5000, 5), 1, 0)
        }
        Some("mesh") => {
            report(Topology::full_mesh(number(1, 1000)?), number(2, 1)? as u64, number(3, 0)?)
        }
        Some("reflected") => {
            let topology =
                Topology::reflected(number(1, 2)?, number(2, 5000)?, number(3, 5)?.max(1));
            report(topology, number(4, 1)? as u64, number(5, 0)?)
        }
        Some(other) => bail!("{other:?} is neither mesh nor reflected"),
    }
}

fn report(topology: Topology, seed: u64, faults: usize) -> anyhow::Result<()> {
    let name = topology.name.clone();
    #[allow(clippy::disallowed_methods)] // A report of real seconds.
    let start = Instant::now();
    let outcome = scenario::run(topology, seed, faults)?;
    println!(
        "{name}, seed {seed}, {faults} faults: {:.1} s, {} MB; converged after {:.1} virtual s with \
         {} UPDATEs; {:.0} virtual s, {} events, {} messages, {} octets in all",
        start.elapsed().as_secs_f64(),
        peak_megabytes().unwrap_or(0),
        outcome.converged.as_secs_f64(),
        outcome.at_convergence.update_messages,
        outcome.virtual_time.as_secs_f64(),
        outcome.total.events,
        outcome.total.messages,
        outcome.total.octets,
    );
    Ok(())
}

/// Peak resident memory so far.
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

//! Runs that everybody can repeat: a topology, a seed, faults, and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::sim::random::Random;
use crate::sim::topology::Topology;
use crate::sim::world::{Fault, LinkQuality, Statistics, World};

/// Wires of a data centre, some of them bad.
const QUALITY: LinkQuality = LinkQuality {
    least: Duration::from_micros(50),
    most: Duration::from_millis(2),
    losses_per_million: 1_000,
};
/// Within what all nodes start.
const START: Duration = Duration::from_secs(2);

/// What a run cost in the end.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Virtual seconds until everybody had everything the first time.
    pub converged: Duration,
    /// Counts when that was so.
    pub at_convergence: Statistics,
    /// Counts at the end.
    pub total: Statistics,
    /// Virtual length of the run.
    pub virtual_time: Duration,
}

/// Everybody starts; then come `faults` seeded crashes, restarts, resets and silences; in the end
/// everybody must have exactly the right routes and every session must be up.
///
/// # Errors
/// What does not hold, with topology and seed.
pub fn run(topology: Topology, seed: u64, faults: usize) -> anyhow::Result<Outcome> {
    let name = format!("{}, seed {seed}", topology.name);
    run_named(topology, seed, faults).context(name)
}

fn run_named(topology: Topology, seed: u64, faults: usize) -> anyhow::Result<Outcome> {
    let count = topology.speakers.len();
    let sessions: usize =
        topology.speakers.iter().map(|speaker| speaker.config.peers.len()).sum::<usize>() / 2;
    let origins = topology.speakers.iter().filter(|speaker| speaker.prefix.is_some()).count();
    // Only differences of instants count; no result depends on which one this is.
    #[allow(clippy::disallowed_methods)]
    let mut world = World::new(topology, QUALITY, seed, Instant::now());
    world.start_all(START);
    let converged = converge(&mut world, START + Duration::from_secs(60))?;
    let at_convergence = world.statistics();
    let bound = 4 * (sessions as u64) * 2 + 2 * (sessions as u64) * (origins as u64);
    ensure!(
        at_convergence.update_messages <= bound,
        "{} UPDATEs to start {sessions} sessions with {origins} prefixes, more than {bound}",
        at_convergence.update_messages
    );

    let mut random = Random::new(seed ^ 0xfa17);
    for _ in 0..faults {
        let index = random.below(count);
        let after = random.between(Duration::ZERO, Duration::from_secs(60));
        match random.below(3) {
            0 => {
                let away = random.between(Duration::from_millis(100), Duration::from_secs(20));
                world.schedule(after, Fault::Crash(index));
                world.schedule(after + away, Fault::Restart(index));
            }
            1 => world.schedule(after, Fault::Reset(index)),
            _ => world.schedule(after, Fault::Silence(index)),
        }
    }
    // Faults, the hold times that notice silence, and the longest pause before a retry.
    let calm = Duration::from_secs(if faults == 0 { 30 } else { 60 + 90 + 180 });
    world.run(calm);
    world.check()?;
    world.check_sessions()?;
    let total = world.statistics();
    if faults == 0 {
        ensure!(
            total.update_messages == at_convergence.update_messages,
            "{} UPDATEs were sent while nothing happened",
            total.update_messages - at_convergence.update_messages
        );
        ensure!(total.lost == 0, "{} sessions went down while nothing happened", total.lost);
    }
    Ok(Outcome { converged, at_convergence, total, virtual_time: world.elapsed() })
}

/// Runs until everybody has everything.
fn converge(world: &mut World, limit: Duration) -> anyhow::Result<Duration> {
    loop {
        world.run(Duration::from_millis(500));
        match world.check().and_then(|()| world.check_sessions()) {
            Ok(()) => return Ok(world.elapsed()),
            Err(error) if world.elapsed() > limit => return Err(error),
            Err(_) => {}
        }
    }
}

/// Every speaker is killed and started again, one after the other and some together, as a hasty rolling
/// update does it. With graceful restart nobody takes a single route out of its kernel.
///
/// # Errors
/// What does not hold, with topology and seed.
pub fn rolling_restart(topology: Topology, seed: u64) -> anyhow::Result<()> {
    let name = format!("{}, rolling restart, seed {seed}", topology.name);
    let count = topology.speakers.len();
    #[allow(clippy::disallowed_methods)] // See `run_named`.
    let mut world = World::new(topology, QUALITY, seed, Instant::now());
    world.start_all(START);
    converge(&mut world, START + Duration::from_secs(60)).context(name.clone())?;
    let before = world.statistics();
    let mut random = Random::new(seed ^ 0x5e57);
    // Further apart than sessions take to come up again, closer than some are away.
    let step = Duration::from_secs(8);
    for index in 0..count {
        let after = step * u32::try_from(index).expect("few speakers");
        let away = random.between(Duration::from_millis(100), Duration::from_secs(20));
        world.schedule(after, Fault::Crash(index));
        world.schedule(after + away, Fault::Restart(index));
    }
    world.run(step * u32::try_from(count).expect("few speakers") + Duration::from_secs(330));
    let removed = world.statistics().removed - before.removed;
    ensure!(removed == 0, "{name}: {removed} routes were taken out of a kernel");
    world.check().and_then(|()| world.check_sessions()).context(name)
}

/// A node dies for good: everybody forgets its prefix, and only its prefix.
///
/// # Errors
/// What does not hold, with topology and seed.
pub fn node_dies(topology: Topology, seed: u64, index: usize) -> anyhow::Result<()> {
    let name = format!("{}, node-{index} dies, seed {seed}", topology.name);
    #[allow(clippy::disallowed_methods)] // See `run_named`.
    let mut world = World::new(topology, QUALITY, seed, Instant::now());
    world.start_all(START);
    converge(&mut world, START + Duration::from_secs(60)).context(name.clone())?;
    world.schedule(Duration::ZERO, Fault::Crash(index));
    world.run(Duration::from_secs(5));
    world.check().context(name)
}

//! The scenarios: who announces what, what every receiver must then hold, and what is measured.
//!
//! In flow: a [`Scenario`], a device under test and a scale. Out flow: named figures ([`Figures`]).
//! Each scenario is a list of phases; in a phase the octets are encoded first, then the clock starts, the octets
//! go out, and the clock stops when the last receiver holds exactly what it must. After that the device
//! is left alone until it rests, the tables are checked once more, and its CPU time and memory are read: work
//! put off until after the last octet counts too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use crate::load::dut::{Dut, Kind, TARGET, Topology};
use crate::load::engine::{Engine, EngineConfig, PeerPlan, now, peer_address};
use crate::load::sys;
use crate::load::wire::{self, Speaker, Universe};

/// Name to value; the unit is the end of the name: `_s`, `_ms`, `_mb`, `_octets`, or a count.
pub type Figures = BTreeMap<String, f64>;

/// What is measured in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// One sender, one receiver, a million prefixes, five to an attribute set.
    Million,
    /// The same, 500 prefixes to an attribute set.
    Packed,
    /// Ten senders of 100,000 prefixes each and a receiver; everybody hears everybody.
    TenSenders,
    /// Four senders of the same 250,000 prefixes, two receivers.
    FourSenders,
    /// One prefix changes in a table of 500,000.
    OneChange,
    /// A reflector with 200 clients of two prefixes each.
    Reflector200,
    Reflector500,
    Reflector1000,
    /// A reflector just started, 500 clients that announce as soon as they are established.
    ColdStart,
    /// 1000 established sessions, a keepalive every 3 s, nothing else.
    Idle,
}

impl Scenario {
    /// The word that `--scenario` takes.
    pub fn word(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether a row for this device says anything: the copier cannot stand in for a daemon everywhere,
    /// and one core is of interest where many sessions could use two.
    pub fn suits(self, kind: Kind) -> bool {
        match kind {
            Kind::Copier => !matches!(self, Scenario::FourSenders | Scenario::Idle),
            Kind::RouteletOneCore => {
                matches!(self, Scenario::Million | Scenario::TenSenders | Scenario::Reflector1000)
            }
            Kind::Routelet | Kind::Bird | Kind::Frr => true,
        }
    }
}

/// How a run is done.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig<'a> {
    pub kind: Kind,
    pub scenario: Scenario,
    /// Factor on prefixes and clients, above 0 and at most 1.
    pub scale: f64,
    /// Path of the routelet binary, the one beside this binary by default.
    pub routelet: Option<&'a Path>,
    /// Longest time one phase may take.
    pub limit: Duration,
    /// Repeats the announcement and the withdrawal this often, for a profiler.
    pub rounds: usize,
}

/// Runs one scenario; the process must already be in a namespace with the addresses of `dut`.
pub fn run(config: RunConfig<'_>) -> Result<Figures> {
    let mut bench = Bench { config, figures: Figures::new() };
    let scaled = |count: usize| ((count as f64 * config.scale) as usize).max(10);
    // Tables stay multiples of the largest attribute set.
    let table = |count: usize| scaled(count).next_multiple_of(500);
    match config.scenario {
        Scenario::Million => bench.one_sender(table(1_000_000), 5)?,
        Scenario::Packed => bench.one_sender(table(1_000_000), 500)?,
        Scenario::TenSenders => bench.ten_senders(table(100_000))?,
        Scenario::FourSenders => bench.four_senders(table(250_000))?,
        Scenario::OneChange => bench.one_change(table(500_000))?,
        Scenario::Reflector200 => bench.reflector(scaled(200))?,
        Scenario::Reflector500 => bench.reflector(scaled(500))?,
        Scenario::Reflector1000 => bench.reflector(scaled(1000))?,
        Scenario::ColdStart => bench.cold_start(scaled(500))?,
        Scenario::Idle => bench.sleeping(scaled(1000))?,
    }
    Ok(bench.figures)
}

pub(super) const DUT_ASN: u32 = 64_512;
/// Prefixes per client of a reflector.
pub(super) const PER_CLIENT: usize = 2;
const HOLD_TIME: u16 = 90;

struct Bench<'a> {
    config: RunConfig<'a>,
    figures: Figures,
}

/// What one phase took.
struct Phase {
    wall: Duration,
    cpu: Duration,
    peak: u64,
}

impl Bench<'_> {
    fn one_sender(&mut self, count: usize, set: usize) -> Result<()> {
        let universe = Universe::table(count);
        let plans = vec![external(0, 0..count), external(1, 0..0)];
        let (dut, mut engine) = self.establish(universe, plans)?;
        let speaker = external(0, 0..0).speaker;
        let announce = wire::announce(speaker, universe, sets(0..count, set));
        let withdraw = wire::withdraw(universe, 0..count);
        let tag = |index: usize| (index / set) as u32 + 1;
        let before = dut.resident();
        for round in 0..self.config.rounds {
            engine.expect(0..count, tag);
            let phase = self.phase(&dut, &mut engine, vec![(0, announce.clone())])?;
            if round == 0 {
                let held = dut.resident().saturating_sub(before);
                self.put("octets_per_prefix", held as f64 / count as f64);
                let peak = phase.peak.saturating_sub(before);
                self.put("peak_octets_per_prefix", peak as f64 / count as f64);
                self.put_phase("announce", &phase);
            }
            if self.config.kind == Kind::Copier {
                return Ok(());
            }
            engine.expect(0..count, |_| 0);
            let phase = self.phase(&dut, &mut engine, vec![(0, withdraw.clone())])?;
            if round == 0 {
                self.put_phase("withdraw", &phase);
            }
        }
        engine.expect(0..count, tag);
        let phase = self.phase(&dut, &mut engine, vec![(0, announce)])?;
        self.put_phase("again", &phase);
        engine.expect(0..count, |_| 0);
        let phase = self.phase_with(&dut, &mut engine, |engine| {
            engine.close(0);
            Ok(())
        })?;
        self.put_phase("gone", &phase);
        self.put("resting_mb", megabytes(dut.resident()));
        Ok(())
    }

    fn ten_senders(&mut self, each: usize) -> Result<()> {
        let universe = Universe::table(10 * each);
        let range = |sender: usize| sender * each..(sender + 1) * each;
        let mut plans: Vec<_> = (0..10).map(|sender| external(sender, range(sender))).collect();
        plans.push(external(10, 0..0));
        let (dut, mut engine) = self.establish(universe, plans)?;
        let sends = (0..10)
            .map(|sender| {
                let speaker = external(sender, 0..0).speaker;
                (sender, wire::announce(speaker, universe, sets(range(sender), 5)))
            })
            .collect();
        engine.expect(0..10 * each, |index| (index / 5) as u32 + 1);
        let before = dut.resident();
        let phase = self.phase(&dut, &mut engine, sends)?;
        self.put_phase("announce", &phase);
        let held = dut.resident().saturating_sub(before);
        self.put("octets_per_prefix", held as f64 / (10 * each) as f64);
        self.put("peak_mb", megabytes(phase.peak));
        Ok(())
    }

    fn four_senders(&mut self, count: usize) -> Result<()> {
        let universe = Universe::table(count);
        let plans = (0..6)
            .map(|number| PeerPlan { receiver: number >= 4, ..external(number, 0..0) })
            .collect();
        let (dut, mut engine) = self.establish(universe, plans)?;
        let sends = (0..4)
            .map(|sender| {
                let speaker = external(sender, 0..0).speaker;
                (sender, wire::announce(speaker, universe, sets(0..count, 5)))
            })
            .collect();
        engine.expect(0..count, |index| (index / 5) as u32 + 1);
        let before = dut.resident();
        let phase = self.phase(&dut, &mut engine, sends)?;
        self.put_phase("announce", &phase);
        let held = dut.resident().saturating_sub(before);
        self.put("octets_per_path", held as f64 / (4 * count) as f64);
        self.put("peak_mb", megabytes(phase.peak));
        engine.reset_counters();
        engine.expect(0..count, |_| 0);
        let phase = self.phase_with(&dut, &mut engine, |engine| {
            (0..4).for_each(|sender| engine.close(sender));
            Ok(())
        })?;
        self.put_phase("gone", &phase);
        self.put("gone_announced_count", engine.counters().announced as f64 / 2.0);
        self.put("gone_updates_count", engine.counters().updates as f64 / 2.0);
        Ok(())
    }

    fn one_change(&mut self, count: usize) -> Result<()> {
        let universe = Universe::table(count);
        let plans = vec![external(0, 0..count), external(1, 0..0)];
        let (dut, mut engine) = self.establish(universe, plans)?;
        let speaker = external(0, 0..0).speaker;
        let announce = wire::announce(speaker, universe, sets(0..count, 5));
        engine.expect(0..count, |index| (index / 5) as u32 + 1);
        self.phase(&dut, &mut engine, vec![(0, announce)])?;
        let indices = |change: usize| {
            // A fixed stride far from the order of the table.
            let index = change * 179_424_673 % count;
            index..index + 1
        };
        self.changes(&dut, &mut engine, 2000, |change| {
            let tag = 10_000_000 + change as u32;
            (0, indices(change), tag, wire::announce(speaker, universe, [(tag, indices(change))]))
        })
    }

    fn reflector(&mut self, clients: usize) -> Result<()> {
        let universe = Universe::pods(clients * PER_CLIENT);
        let own = |client: usize| client * PER_CLIENT..(client + 1) * PER_CLIENT;
        let plans = (0..clients).map(|client| internal(client, own(client))).collect();
        let (dut, mut engine) = self.establish(universe, plans)?;
        self.put("sessions_mb", megabytes(dut.resident()));
        let speaker = |client: usize| internal(client, 0..0).speaker;
        let tag = |client: usize| client as u32 + 1;
        let announces: Vec<(usize, Bytes)> = (0..clients)
            .map(|client| {
                let octets =
                    wire::announce(speaker(client), universe, [(tag(client), own(client))]);
                (client, octets)
            })
            .collect();
        let all = 0..clients * PER_CLIENT;
        let withdraws: Vec<(usize, Bytes)> =
            (0..clients).map(|client| (client, wire::withdraw(universe, own(client)))).collect();
        for round in 0..self.config.rounds {
            engine.expect(all.clone(), |index| tag(index / PER_CLIENT));
            let phase = self.phase(&dut, &mut engine, announces.clone())?;
            if round == 0 {
                self.put_phase("announce", &phase);
                self.put("resting_mb", megabytes(dut.resident()));
                self.put("peak_mb", megabytes(phase.peak));
            }
            if self.config.kind == Kind::Copier {
                break;
            }
            engine.expect(all.clone(), |_| 0);
            let phase = self.phase(&dut, &mut engine, withdraws.clone())?;
            if round == 0 {
                self.put_phase("withdraw", &phase);
            }
        }
        if self.config.kind != Kind::Copier {
            engine.expect(all.clone(), |index| tag(index / PER_CLIENT));
            let phase = self.phase(&dut, &mut engine, announces)?;
            self.put_phase("again", &phase);
        }
        self.changes(&dut, &mut engine, 200, |change| {
            let client = change * 7919 % clients;
            let index = client * PER_CLIENT;
            let tag = 10_000_000 + change as u32;
            let octets = wire::announce(speaker(client), universe, [(tag, index..index + 1)]);
            (client, index..index + 1, tag, octets)
        })?;
        if self.config.kind == Kind::Copier {
            return Ok(());
        }
        engine.expect(own(0), |_| 0);
        let phase = self.phase_with(&dut, &mut engine, |engine| {
            engine.close(0);
            Ok(())
        })?;
        self.put_phase("gone", &phase);
        Ok(())
    }

    fn cold_start(&mut self, clients: usize) -> Result<()> {
        let universe = Universe::pods(clients * PER_CLIENT);
        let own = |client: usize| client * PER_CLIENT..(client + 1) * PER_CLIENT;
        let tag = |client: usize| client as u32 + 1;
        let plans: Vec<PeerPlan> = (0..clients)
            .map(|client| {
                let plan = internal(client, own(client));
                let sets = [(tag(client), own(client))];
                PeerPlan { greeting: wire::announce(plan.speaker, universe, sets), ..plan }
            })
            .collect();
        let (dut, mut engine) = self.start(universe, plans, HOLD_TIME)?;
        engine.expect(0..clients * PER_CLIENT, |index| tag(index / PER_CLIENT));
        let phase = self.phase_with(&dut, &mut engine, Engine::connect_all)?;
        self.put_phase("cold_start", &phase);
        self.put("peak_mb", megabytes(phase.peak));
        Ok(())
    }

    fn sleeping(&mut self, clients: usize) -> Result<()> {
        let plans = (0..clients).map(|client| internal(client, 0..0)).collect();
        let universe = Universe::pods(1);
        // A hold time of 9 s makes both sides send a keepalive every 3 s.
        let (dut, mut engine) = self.start(universe, plans, 9)?;
        self.connect(&dut, &mut engine)?;
        let seconds = (20.0 * self.config.scale).clamp(6.0, 20.0);
        // At rest is when what came with the start is over: the first few keepalives are sent at once
        // by all.
        engine.idle(Duration::from_secs_f64(seconds / 2.0))?;
        let before = dut.cpu()?;
        engine.idle(Duration::from_secs_f64(seconds))?;
        let used = dut.cpu()? - before;
        ensure!(engine.all_established(), "a session was lost while idle");
        self.put("idle_cpu_s", used.as_secs_f64() * 20.0 / seconds);
        self.put("resting_mb", megabytes(dut.resident()));
        Ok(())
    }

    /// One change after the other, each timed until every receiver has it.
    fn changes(
        &mut self,
        dut: &Dut,
        engine: &mut Engine,
        most: usize,
        change: impl Fn(usize) -> (usize, Range<usize>, u32, Bytes),
    ) -> Result<()> {
        let most = if self.config.scale < 0.5 { most / 4 } else { most };
        let started = now();
        let cpu = dut.cpu()?;
        let mut times = Vec::new();
        // A daemon that waits before each advertisement gets fewer changes, not more time.
        while times.len() < most && (times.len() < 20 || started.elapsed().as_secs() < 8) {
            let (client, indices, tag, octets) = change(times.len());
            engine.expect(indices, |_| tag);
            let start = now();
            engine.queue(client, octets)?;
            engine.run(self.config.limit, Engine::complete).context("one change")?;
            times.push(start.elapsed());
        }
        let cpu = dut.cpu()? - cpu;
        times.sort_unstable();
        let rank = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        self.put("change_p50_ms", rank(0.5).as_secs_f64() * 1e3);
        self.put("change_p99_ms", rank(0.99).as_secs_f64() * 1e3);
        self.put("change_cpu_ms", cpu.as_secs_f64() * 1e3 / times.len() as f64);
        Ok(())
    }

    fn establish(&mut self, universe: Universe, plans: Vec<PeerPlan>) -> Result<(Dut, Engine)> {
        let (dut, mut engine) = self.start(universe, plans, HOLD_TIME)?;
        self.connect(&dut, &mut engine)?;
        Ok((dut, engine))
    }

    /// Starts the device under test and waits until it has rested for a while: start timers (FRR: a
    /// second before a passive peer may connect) are no part of any figure.
    fn start(
        &mut self,
        universe: Universe,
        plans: Vec<PeerPlan>,
        hold_time: u16,
    ) -> Result<(Dut, Engine)> {
        let peers = plans.iter().map(|plan| (plan.speaker.address, plan.speaker.asn)).collect();
        let external = plans.iter().all(|plan| plan.speaker.external);
        let topology = Topology { asn: DUT_ASN, peers, fib: None };
        let config = EngineConfig { target: TARGET, universe, external, hold_time };
        let mut engine = Engine::new(config, plans)?;
        let dut = Dut::start(self.config.kind, &topology, self.config.routelet)?;
        if self.config.kind != Kind::Copier {
            std::thread::sleep(Duration::from_millis(2500));
        }
        settle(&dut, &mut engine)?;
        Ok((dut, engine))
    }

    fn connect(&mut self, dut: &Dut, engine: &mut Engine) -> Result<()> {
        let cpu = dut.cpu()?;
        let start = now();
        engine.connect_all()?;
        engine.run(self.config.limit, Engine::all_established).context("sessions up")?;
        self.put("sessions_up_s", start.elapsed().as_secs_f64());
        settle(dut, engine)?;
        self.put("sessions_up_cpu_s", (dut.cpu()? - cpu).as_secs_f64());
        Ok(())
    }

    fn phase(
        &mut self,
        dut: &Dut,
        engine: &mut Engine,
        sends: Vec<(usize, Bytes)>,
    ) -> Result<Phase> {
        self.phase_with(dut, engine, |engine| {
            sends.into_iter().try_for_each(|(token, octets)| engine.queue(token, octets))
        })
    }

    fn phase_with(
        &mut self,
        dut: &Dut,
        engine: &mut Engine,
        begin: impl FnOnce(&mut Engine) -> Result<()>,
    ) -> Result<Phase> {
        ensure!(!engine.complete(), "a phase that is complete before it begins measures nothing");
        dut.reset_peak();
        engine.reset_counters();
        let own = sys::own_cpu()?;
        let cpu = dut.cpu()?;
        let start = now();
        begin(engine)?;
        let finished = engine.run(self.config.limit, Engine::complete);
        let wall = start.elapsed();
        let own = sys::own_cpu()? - own;
        finished.with_context(|| format!("log of {}: {}", self.config.kind.name(), dut.log()))?;
        settle(dut, engine)?;
        if !engine.complete() {
            bail!("complete once, and not any longer when the device rested");
        }
        // FRR sends a group's UPDATE to its source too, and relies on the loop checks there.
        let echoes = engine.counters().echoes;
        ensure!(
            echoes == 0 || !self.config.kind.is_routelet(),
            "announced back to the peer it came from"
        );
        self.put("echoes_count", self.figures.get("echoes_count").unwrap_or(&0.0) + echoes as f64);
        // The instrument's own share of the wall time, the largest of all phases.
        let share = own.as_secs_f64() / wall.as_secs_f64().max(1e-9);
        let largest = self.figures.get("load_share").copied().unwrap_or(0.0).max(share);
        self.put("load_share", largest);
        Ok(Phase { wall, cpu: dut.cpu()? - cpu, peak: dut.peak() })
    }

    fn put(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    fn put_phase(&mut self, name: &str, phase: &Phase) {
        self.put(&format!("{name}_s"), phase.wall.as_secs_f64());
        self.put(&format!("{name}_cpu_s"), phase.cpu.as_secs_f64());
    }
}

/// Drives the sessions until the device under test uses less than 2 % of a core, 3 s at most.
fn settle(dut: &Dut, engine: &mut Engine) -> Result<()> {
    let mut before = dut.cpu()?;
    for _ in 0..30 {
        engine.idle(Duration::from_millis(100))?;
        let after = dut.cpu()?;
        if after - before < Duration::from_millis(2) {
            break;
        }
        before = after;
    }
    Ok(())
}

pub(super) fn external(number: usize, own: Range<usize>) -> PeerPlan {
    let asn = 65_001 + number as u32;
    let speaker = Speaker { address: peer_address(number), asn, external: true };
    PeerPlan { speaker, own, receiver: true, greeting: Bytes::new() }
}

pub(super) fn internal(number: usize, own: Range<usize>) -> PeerPlan {
    let speaker = Speaker { address: peer_address(number), asn: DUT_ASN, external: false };
    PeerPlan { speaker, own, receiver: true, greeting: Bytes::new() }
}

/// Tag and indices of each set of `size` prefixes; the tag depends on the index alone.
pub(super) fn sets(range: Range<usize>, size: usize) -> impl Iterator<Item = (u32, Range<usize>)> {
    let end = range.end;
    range.step_by(size).map(move |start| ((start / size) as u32 + 1, start..end.min(start + size)))
}

fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}

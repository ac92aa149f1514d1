//! `make resilience`: what befalls a node's daemon, and what packets notice, in one table with BIRD and FRR.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use routelet::lab::sandbox;

use routelet_tests::harness;
use routelet_tests::resilience::report::{COLUMNS, OTHER_SIDES, Results, beside, column};
use routelet_tests::resilience::{self, Case, Cast, Make, Timing};
use routelet_tests::scene::Scene;

/// Stops, kills, upgrades and freezes a node's daemon, and counts lost packets. Needs root.
#[derive(Parser)]
struct Cli {
    /// What happens, everything by default.
    #[arg(long, value_delimiter = ',')]
    case: Vec<Case>,
    /// Columns of the first table: the daemon of both nodes. All that are installed by default.
    #[arg(long, value_delimiter = ',')]
    node: Vec<Make>,
    /// Leaves the second table out: routelet beside others.
    #[arg(long)]
    only_columns: bool,
    /// Leaves the first table out.
    #[arg(long, conflicts_with_all = ["node", "only_columns"])]
    only_beside: bool,
    /// Runs of each; the cases that take minutes are run once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Runs at the same time, each in namespaces of its own.
    #[arg(long, default_value_t = 6)]
    jobs: usize,
    /// Short times: a hold time of 9 s, frozen 5 and 15 s.
    #[arg(long)]
    short: bool,
    /// The routelet binary [default: the one beside this binary]
    #[arg(long, env = "ROUTELET_BIN")]
    routelet: Option<PathBuf>,
    /// Puts the tables into this file, between its two marker lines.
    #[arg(long)]
    write: Option<PathBuf>,
}

const BEGIN: &str = "<!-- resilience: begin -->";
const END: &str = "<!-- resilience: end -->";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match sandbox::enter(sandbox::Control::None)
        .and_then(|()| harness::hide_temporary_files())
        .and_then(|()| act(&cli))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: &Cli) -> anyhow::Result<()> {
    let routelet = match &cli.routelet {
        Some(path) => path.clone(),
        None => resilience::routelet_beside()?,
    };
    let timing = if cli.short { Timing::SHORT } else { Timing::FULL };
    let cases: Vec<Case> =
        if cli.case.is_empty() { Case::value_variants().to_vec() } else { cli.case.clone() };
    let mut plan = plan(cli, &cases);
    // The long ones first, so that nothing is waited for alone in the end.
    plan.sort_by_key(|(_, case, _)| std::cmp::Reverse(length(*case)));
    let total = plan.len();
    plan.reverse();
    let (plan, results) = (Mutex::new(plan), Mutex::new(Results::default()));
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs.max(1) {
            scope.spawn(|| work(&plan, &results, &routelet, &timing, total));
        }
    });
    let results = results.into_inner().map_err(|_| anyhow::anyhow!("a run has panicked"))?;
    let text =
        format!("{}\n{}", conditions(cli, &routelet, &timing)?, results.tables(&cases, &timing));
    println!("{text}");
    if let Some(path) = &cli.write {
        write_between_markers(path, &text)?;
    }
    Ok(())
}

/// Every run there is to make.
fn plan(cli: &Cli, cases: &[Case]) -> Vec<(Cast, Case, usize)> {
    let mut plan = Vec::new();
    let mut add = |cast: Cast, case: Case| {
        if case == Case::Upgrade && cast.node1 != Make::Routelet {
            return;
        }
        let once = matches!(case, Case::FreezeLong | Case::StaleRoute | Case::DiedMeanwhile);
        let runs = if once { 1 } else { cli.runs };
        plan.extend((1..=runs).map(|run| (cast, case, run)));
    };
    for case in cases {
        if !cli.only_beside {
            for make in COLUMNS {
                if cli.node.is_empty() || cli.node.contains(&make) {
                    add(column(make), *case);
                }
            }
        }
        if !cli.only_columns {
            OTHER_SIDES.into_iter().for_each(|side| add(beside(side), *case));
        }
    }
    plan
}

/// Roughly, in seconds.
fn length(case: Case) -> u32 {
    match case {
        Case::DiedMeanwhile => 250,
        Case::StaleRoute => 200,
        Case::FreezeLong => 130,
        Case::Freeze => 60,
        Case::StopTwice | Case::KillTwice => 40,
        Case::Stop | Case::Kill | Case::Upgrade => 30,
    }
}

fn work(
    plan: &Mutex<Vec<(Cast, Case, usize)>>,
    results: &Mutex<Results>,
    routelet: &Path,
    timing: &Timing,
    total: usize,
) {
    loop {
        let (next, number) = {
            let mut plan = plan.lock().expect("invariant: nothing panics under the lock");
            (plan.pop(), total - plan.len())
        };
        let Some((cast, case, run)) = next else { return };
        let outcome = Scene::new(&format!("r{number}"))
            .and_then(|scene| resilience::run(&scene, routelet, cast, case, timing));
        let mut results = results.lock().expect("invariant: nothing panics under the lock");
        let who = format!("{:?} {:?} {:?}", cast.node1, cast.node2, cast.tor);
        match outcome {
            Ok(outcome) => {
                eprintln!("{number}/{total} {case:?} {who} run {run}: {outcome}");
                results.add(cast, case, outcome);
            }
            Err(error) => {
                eprintln!("{number}/{total} {case:?} {who} run {run} failed: {error:#}");
                results.add_failure(cast, case, &format!("{error:#}"));
            }
        }
    }
}

/// Machine, date and versions: what the figures depend on.
fn conditions(cli: &Cli, routelet: &Path, timing: &Timing) -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_else(|| "unknown processor".to_owned());
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
    };
    let versions: Vec<String> = [
        first_line(&routelet.display().to_string(), "--version"),
        first_line("bird", "--version"),
        first_line("/usr/lib/frr/bgpd", "--version").map(|line| format!("FRR {line}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output()?;
    let seconds = |time: Duration| time.as_secs_f64();
    Ok(format!(
        "{}; {model}, {} cores, Linux {}; {}; hold time {} s; medians of {} runs (frozen beyond the hold \
         time and the times after which a route is gone: one run), {} at a time; packets are counted until \
         {} s after the sessions are up again.\n",
        String::from_utf8_lossy(&date.stdout).trim(),
        std::thread::available_parallelism()?,
        read("/proc/sys/kernel/osrelease").trim(),
        versions.join(", "),
        timing.hold,
        cli.runs,
        cli.jobs,
        seconds(timing.settle),
    ))
}

fn write_between_markers(path: &Path, text: &str) -> anyhow::Result<()> {
    let old =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, rest) = old.split_once(BEGIN).context("no begin marker in the file")?;
    let (_, tail) = rest.split_once(END).context("no end marker in the file")?;
    fs::write(path, format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", text.trim_end()))
        .with_context(|| format!("cannot write {}", path.display()))
}

//! The load generator's command: `measure` does one run, `field` many and prints the tables,
//! `copier` is the plain copier that `measure --dut copier` starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use routelet_tests::load::dut::{self, Fib, Kind, PREFIX_LEN, TARGET};
use routelet_tests::load::report::Field;
use routelet_tests::load::scenario::{self, Figures, RunConfig, Scenario};
use routelet_tests::load::{copier, core, fib, repair, sys};

/// Drives BGP daemons with many prefixes and many sessions, and measures them from outside.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// One scenario against one daemon, in a network namespace of its own; prints JSON.
    Measure {
        #[arg(long)]
        dut: Kind,
        #[arg(long)]
        scenario: Scenario,
        #[command(flatten)]
        common: Common,
        /// Announce and withdraw this often before the last announcement (for a profiler).
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Every scenario against every daemon in turn; prints tables of medians.
    Field {
        /// Daemons, all that are installed by default.
        #[arg(long, value_delimiter = ',')]
        dut: Vec<Kind>,
        /// Scenarios, all by default.
        #[arg(long, value_delimiter = ',')]
        scenario: Vec<Scenario>,
        /// Runs of each, the daemons taking turns.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Puts the tables into this file, between its two marker lines.
        #[arg(long)]
        write: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// routelet's codec and speaker alone, in this process, without sockets; prints seconds.
    Core {
        #[arg(long)]
        scenario: Scenario,
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Does it this often, for a profiler.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// From the first octet until 100,000 routes are in the kernel, BIRD 2 and routelet taking turns;
    /// prints a table of medians.
    Fib {
        /// Runs of each.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[command(flatten)]
        common: Common,
        /// One run of this daemon only, figures as JSON.
        #[arg(long)]
        dut: Option<Kind>,
        /// How routes are written, with `--dut`.
        #[arg(long, default_value = "default")]
        how: Fib,
    },
    /// After what time routes are back that somebody or a link has taken away, BIRD 2 and routelet
    /// taking turns; prints a table of medians.
    Repair {
        /// Runs of each.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[command(flatten)]
        common: Common,
        /// One run of this daemon only, figures as JSON.
        #[arg(long)]
        dut: Option<Kind>,
        /// How routes are written, with `--dut`.
        #[arg(long, default_value = "default")]
        how: Fib,
    },
    /// Relays octets between sessions without reading them.
    Copier,
}

#[derive(clap::Args)]
struct Common {
    /// Factor on prefixes and clients, for quick runs.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The routelet binary [default: the one beside this binary]
    #[arg(long, env = "ROUTELET_BIN")]
    routelet: Option<PathBuf>,
    /// Longest time a phase may take, seconds.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

const BEGIN: &str = "<!-- bench-field: begin -->";
const END: &str = "<!-- bench-field: end -->";

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<()> {
    match action {
        Action::Copier => copier::serve(),
        Action::Core { scenario, scale, rounds } => {
            for _ in 0..rounds {
                println!("{}", serde_json::to_string(&core::run(scenario, scale)?)?);
            }
            Ok(())
        }
        Action::Fib { common, dut: Some(dut), how, .. } => fib_once(dut, how, &common),
        Action::Fib { runs, common, .. } => taking_turns("fib", &FIB_COLUMNS, runs, &common),
        Action::Repair { common, dut: Some(dut), how, .. } => repair_once(dut, how, &common),
        Action::Repair { runs, common, .. } => {
            taking_turns("repair", &REPAIR_COLUMNS, runs, &common)
        }
        Action::Measure { dut, scenario, common, rounds } => measure(dut, scenario, common, rounds),
        Action::Field { dut, scenario, runs, write, common } => {
            field(dut, scenario, runs, write.as_deref(), &common)
        }
    }
}

fn fib_once(kind: Kind, how: Fib, common: &Common) -> Result<()> {
    ensure!(common.scale > 0.0 && common.scale <= 1.0, "--scale must be above 0 and at most 1");
    enter_namespace()?;
    let routes = ((100_000.0 * common.scale) as usize).max(10).next_multiple_of(5);
    let limit = Duration::from_secs(common.limit);
    let figures = fib::run(kind, how, routes, common.routelet.as_deref(), limit)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn repair_once(kind: Kind, how: Fib, common: &Common) -> Result<()> {
    enter_namespace()?;
    let limit = Duration::from_secs(common.limit);
    let figures = repair::run(kind, how, common.routelet.as_deref(), limit)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

const FIB_COLUMNS: [(&str, &str); 5] = [
    ("install s", "install_s"),
    ("CPU s", "install_cpu_s"),
    ("remove s", "remove_s"),
    ("CPU s", "remove_cpu_s"),
    ("install again s", "again_s"),
];

const REPAIR_COLUMNS: [(&str, &str); 4] = [
    ("one deleted by hand ms", "deleted_ms"),
    ("1000 flushed ms", "flushed_ms"),
    ("link up again ms", "link_ms"),
    ("carrier back ms", "carrier_ms"),
];

fn taking_turns(what: &str, columns: &[(&str, &str)], runs: usize, common: &Common) -> Result<()> {
    let rows = [
        ("BIRD 2", Kind::Bird, "default"),
        ("routelet", Kind::Routelet, "default"),
        ("routelet, plain routes", Kind::Routelet, "plain"),
    ];
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); rows.len()];
    for run in 1..=runs {
        for ((name, kind, how), row) in rows.iter().zip(&mut figures) {
            if !dut::available(*kind, common.routelet.as_deref()) {
                continue;
            }
            eprintln!("run {run} of {runs}: {name}");
            let mut command = Command::new(std::env::current_exe()?);
            command.args([what, "--dut", kind.word(), "--how", how]);
            row.push(figures_of(command, common).with_context(|| (*name).to_owned())?);
        }
    }
    println!("{}\n", conditions(&[Kind::Routelet, Kind::Bird], runs, common)?);
    let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    println!("| | {} |\n|---{}|", heads.join(" | "), "|---".repeat(columns.len()));
    let median = |row: &[Figures], column: &str| {
        let mut values: Vec<f64> = row.iter().filter_map(|run| run.get(column).copied()).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    for (number, ((name, ..), row)) in rows.iter().zip(&figures).enumerate() {
        let cell =
            |(_, column): &(&str, &str)| match (median(row, column), median(&figures[0], column)) {
                (Some(value), Some(first)) if number > 0 && first > 0.0 => {
                    format!("{value:.3} ({:.2}×)", value / first)
                }
                (Some(value), _) => format!("{value:.3}"),
                (None, _) => "–".to_owned(),
            };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

fn enter_namespace() -> Result<()> {
    sys::enter_new_network_namespace().context("a new network namespace (needs root)")?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{}/{PREFIX_LEN}", TARGET.ip()), "dev", "lo"])
}

fn measure(kind: Kind, scenario: Scenario, common: Common, rounds: usize) -> Result<()> {
    ensure!(common.scale > 0.0 && common.scale <= 1.0, "--scale must be above 0 and at most 1");
    enter_namespace()?;
    let figures = scenario::run(RunConfig {
        kind,
        scenario,
        scale: common.scale,
        routelet: common.routelet.as_deref(),
        limit: Duration::from_secs(common.limit),
        rounds: rounds.max(1),
    })?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn field(
    kinds: Vec<Kind>,
    scenarios: Vec<Scenario>,
    runs: usize,
    write: Option<&Path>,
    common: &Common,
) -> Result<()> {
    let routelet = common.routelet.as_deref();
    let kinds: Vec<Kind> = if kinds.is_empty() {
        let all = Kind::value_variants().iter().copied();
        all.filter(|&kind| dut::available(kind, routelet)).collect()
    } else {
        kinds
    };
    let scenarios: Vec<Scenario> =
        if scenarios.is_empty() { Scenario::value_variants().to_vec() } else { scenarios };
    let mut field = Field::default();
    for &scenario in &scenarios {
        for run in 1..=runs {
            for &kind in &kinds {
                if !scenario.suits(kind) {
                    continue;
                }
                eprintln!("{} run {run} of {runs}: {}", scenario.word(), kind.name());
                match measure_apart(kind, scenario, common) {
                    Ok(figures) => field.add(kind, scenario, figures),
                    Err(error) => {
                        eprintln!("  failed: {error:#}");
                        field.add_failure(kind, scenario, &first_line(&error));
                    }
                }
            }
        }
    }
    let text = format!("{}\n{}", conditions(&kinds, runs, common)?, field.tables());
    println!("{text}");
    if let Some(path) = write {
        write_between_markers(path, &text)?;
    }
    Ok(())
}

/// One run in a process of its own: its namespace and the daemon end with it.
fn measure_apart(kind: Kind, scenario: Scenario, common: &Common) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("measure").args(["--dut", kind.word(), "--scenario", &scenario.word()]);
    figures_of(command, common)
}

fn figures_of(mut command: Command, common: &Common) -> Result<Figures> {
    command.arg("--scale").arg(common.scale.to_string());
    command.arg("--limit").arg(common.limit.to_string());
    if let Some(path) = &common.routelet {
        command.arg("--routelet").arg(path);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("figures of a run")
}

/// Machine, date and versions: what the figures depend on.
fn conditions(kinds: &[Kind], runs: usize, common: &Common) -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output()?;
    let versions: Vec<String> = kinds
        .iter()
        .filter(|&&kind| !matches!(kind, Kind::Copier | Kind::RouteletOneCore))
        .map(|&kind| dut::version(kind, common.routelet.as_deref()))
        .collect();
    Ok(format!(
        "{}; {model}, {cores} cores, Linux {}, load average {load} at the end; {}; medians of {runs} \
         runs, scale {}. In parentheses: the ratio to BIRD 2 in the same run.\n",
        String::from_utf8_lossy(&date.stdout).trim(),
        kernel.trim(),
        versions.join(", "),
        common.scale,
    ))
}

fn write_between_markers(path: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (head, rest) = old.split_once(BEGIN).context("no begin marker in the file")?;
    let (_, tail) = rest.split_once(END).context("no end marker in the file")?;
    fs::write(path, format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", text.trim_end()))?;
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("run ip")?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

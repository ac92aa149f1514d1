//! Many runs made into tables: devices take turns, medians, ratios to BIRD 2 in the same run, goals.
//!
//! In flow: the figures of each run. Out flow: Markdown. A figure of one machine says nothing on another one,
//! the ratio between two rows of one table does; the goals are therefore stated as a multiple of what BIRD 2
//! takes in the same run (memory: as it is), and computed anew each time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::load::dut::Kind;
use crate::load::scenario::{Figures, Scenario};

/// All that has been measured: figures per device and scenario, one entry per run.
#[derive(Default)]
pub struct Field {
    runs: BTreeMap<(Kind, Scenario), Vec<Figures>>,
    failures: Vec<String>,
}

impl Field {
    pub fn add(&mut self, kind: Kind, scenario: Scenario, figures: Figures) {
        self.runs.entry((kind, scenario)).or_default().push(figures);
    }

    pub fn add_failure(&mut self, kind: Kind, scenario: Scenario, reason: &str) {
        self.failures.push(format!("{}, {}: {reason}", kind.name(), scenario.word()));
    }

    /// The median over the runs of one figure.
    pub fn median(&self, kind: Kind, scenario: Scenario, figure: &str) -> Option<f64> {
        let runs = self.runs.get(&(kind, scenario))?;
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(figure).copied()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
    }

    /// All the tables that have a figure, as Markdown.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        let mut missed = Vec::new();
        for table in TABLES {
            self.table(table, &mut text, &mut missed);
        }
        if !missed.is_empty() {
            let _ = writeln!(text, "Goals not reached:\n");
            missed.iter().for_each(|line| _ = writeln!(text, "- {line}"));
            text.push('\n');
        }
        if !self.failures.is_empty() {
            let _ = writeln!(text, "Runs that failed:\n");
            self.failures.iter().for_each(|line| _ = writeln!(text, "- {line}"));
            text.push('\n');
        }
        text
    }

    fn table(&self, table: &Table, text: &mut String, missed: &mut Vec<String>) {
        let columns: Vec<&Column> = table
            .columns
            .iter()
            .filter(|column| KINDS.iter().any(|&kind| self.value(kind, column).is_some()))
            .collect();
        if columns.is_empty() {
            return;
        }
        let _ = writeln!(text, "### {}\n", table.title);
        let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
        let _ = writeln!(text, "| | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---{}|", "|---".repeat(columns.len()));
        for kind in KINDS {
            let cells: Vec<Option<f64>> =
                columns.iter().map(|column| self.value(kind, column)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(text, "| {} |", kind.name());
            for (column, cell) in columns.iter().zip(cells) {
                let Some(value) = cell else {
                    text.push_str(" – |");
                    continue;
                };
                let _ = write!(text, " {}", number(value));
                if let Some(bird) = self.value(Kind::Bird, column)
                    && kind != Kind::Bird
                    && bird > 0.0
                {
                    let _ = write!(text, " ({}×)", number(value / bird));
                }
                text.push_str(" |");
            }
            text.push('\n');
        }
        let goals: Vec<Option<f64>> = columns.iter().map(|column| self.goal(column)).collect();
        if goals.iter().any(Option::is_some) {
            let cell = |goal: &Option<f64>| match goal {
                Some(goal) => format!("≤ {}", number(*goal)),
                None => String::new(),
            };
            let cells: Vec<String> = goals.iter().map(cell).collect();
            let _ = writeln!(text, "| goal of routelet | {} |", cells.join(" | "));
        }
        text.push('\n');
        for (column, goal) in columns.iter().zip(goals) {
            if let (Some(goal), Some(value)) = (goal, self.value(Kind::Routelet, column))
                && value > goal
            {
                missed.push(format!(
                    "{}, {}: {} (goal {}, {} times it)",
                    table.title,
                    column.title,
                    number(value),
                    number(goal),
                    number(value / goal)
                ));
            }
        }
    }

    fn value(&self, kind: Kind, column: &Column) -> Option<f64> {
        self.median(kind, column.scenario, column.figure)
    }

    fn goal(&self, column: &Column) -> Option<f64> {
        match column.goal {
            Goal::None => None,
            Goal::Absolute(value) => Some(value),
            Goal::OfBirds(figure, ratio) => {
                Some(self.median(Kind::Bird, column.scenario, figure)? * ratio)
            }
            Goal::OfBird(ratio) => Some(self.value(Kind::Bird, column)? * ratio),
        }
    }
}

/// Order of the rows.
const KINDS: [Kind; 5] =
    [Kind::Bird, Kind::Frr, Kind::Routelet, Kind::RouteletOneCore, Kind::Copier];

struct Table {
    title: &'static str,
    columns: &'static [Column],
}

struct Column {
    title: &'static str,
    scenario: Scenario,
    figure: &'static str,
    goal: Goal,
}

#[derive(Clone, Copy)]
enum Goal {
    None,
    Absolute(f64),
    /// A multiple of BIRD's figure in the same run.
    OfBird(f64),
    /// A multiple of another figure of BIRD's in the same scenario.
    OfBirds(&'static str, f64),
}

const fn column(
    title: &'static str,
    scenario: Scenario,
    figure: &'static str,
    goal: Goal,
) -> Column {
    Column { title, scenario, figure, goal }
}

const TABLES: &[Table] = &[
    Table {
        title: "One sender, one receiver, a million prefixes, five to an attribute set",
        columns: &[
            column("announce s", Scenario::Million, "announce_s", Goal::OfBird(0.6 / 1.22)),
            column("CPU s", Scenario::Million, "announce_cpu_s", Goal::OfBird(0.6 / 1.19)),
            column("withdraw s", Scenario::Million, "withdraw_s", Goal::OfBird(0.2 / 0.29)),
            column("again s", Scenario::Million, "again_s", Goal::None),
            column("sender gone s", Scenario::Million, "gone_s", Goal::OfBird(0.25 / 0.51)),
            column(
                "octets per prefix",
                Scenario::Million,
                "octets_per_prefix",
                Goal::Absolute(140.0),
            ),
            column("at the peak", Scenario::Million, "peak_octets_per_prefix", Goal::None),
        ],
    },
    Table {
        title: "The same, 500 prefixes to an UPDATE",
        columns: &[
            column("announce s", Scenario::Packed, "announce_s", Goal::OfBird(0.3 / 0.53)),
            column("CPU s", Scenario::Packed, "announce_cpu_s", Goal::None),
            column("withdraw s", Scenario::Packed, "withdraw_s", Goal::None),
            column("sender gone s", Scenario::Packed, "gone_s", Goal::None),
        ],
    },
    Table {
        title: "Ten senders of 100,000 prefixes each and a receiver",
        columns: &[
            column("announce s", Scenario::TenSenders, "announce_s", Goal::OfBird(2.0 / 9.9)),
            column("CPU s", Scenario::TenSenders, "announce_cpu_s", Goal::OfBird(2.0 / 7.6)),
            column("octets per prefix", Scenario::TenSenders, "octets_per_prefix", Goal::None),
            column("peak MB", Scenario::TenSenders, "peak_mb", Goal::None),
        ],
    },
    Table {
        title: "Four senders of the same 250,000 prefixes, two receivers",
        columns: &[
            column("announce s", Scenario::FourSenders, "announce_s", Goal::OfBird(0.9 / 2.3)),
            column("CPU s", Scenario::FourSenders, "announce_cpu_s", Goal::OfBird(0.9 / 1.9)),
            column("all four gone s", Scenario::FourSenders, "gone_s", Goal::None),
            column(
                "announced meanwhile",
                Scenario::FourSenders,
                "gone_announced_count",
                Goal::None,
            ),
            column("octets per path", Scenario::FourSenders, "octets_per_path", Goal::None),
        ],
    },
    Table {
        title: "One prefix changes in a table of 500,000",
        columns: &[
            column("p50 ms", Scenario::OneChange, "change_p50_ms", Goal::OfBird(1.0)),
            column("p99 ms", Scenario::OneChange, "change_p99_ms", Goal::OfBird(0.15 / 0.16)),
            column("CPU ms per change", Scenario::OneChange, "change_cpu_ms", Goal::None),
        ],
    },
    Table {
        title: "A reflector with K clients of two prefixes each",
        columns: &[
            column("K=200 s", Scenario::Reflector200, "announce_s", Goal::None),
            column("CPU s", Scenario::Reflector200, "announce_cpu_s", Goal::None),
            column("K=500 s", Scenario::Reflector500, "announce_s", Goal::OfBird(0.15 / 0.43)),
            column("CPU s", Scenario::Reflector500, "announce_cpu_s", Goal::OfBird(0.15 / 0.38)),
            column("again s", Scenario::Reflector500, "again_s", Goal::None),
            column("K=1000 s", Scenario::Reflector1000, "announce_s", Goal::OfBird(0.5 / 2.3)),
            column("CPU s", Scenario::Reflector1000, "announce_cpu_s", Goal::OfBird(0.5 / 2.0)),
            column("again s", Scenario::Reflector1000, "again_s", Goal::None),
        ],
    },
    Table {
        title: "A reflector with 1000 clients: change, loss, memory, sessions",
        columns: &[
            column(
                "one change p50 ms",
                Scenario::Reflector1000,
                "change_p50_ms",
                Goal::OfBird(5.0 / 11.0),
            ),
            // BIRD leaves Nagle's algorithm on: its own p99 is a delayed ACK, no measure for others.
            column(
                "p99 ms",
                Scenario::Reflector1000,
                "change_p99_ms",
                Goal::OfBirds("change_p50_ms", 10.0 / 11.0),
            ),
            column("one client gone s", Scenario::Reflector1000, "gone_s", Goal::None),
            column("memory MB", Scenario::Reflector1000, "resting_mb", Goal::Absolute(40.0)),
            column("peak MB", Scenario::Reflector1000, "peak_mb", Goal::None),
            column(
                "1000 sessions up s",
                Scenario::Reflector1000,
                "sessions_up_s",
                Goal::OfBird(0.1 / 1.3),
            ),
            column("CPU s", Scenario::Reflector1000, "sessions_up_cpu_s", Goal::None),
        ],
    },
    Table {
        title: "Cold start of a reflector with 500 clients; 1000 idle sessions",
        columns: &[
            column("cold start s", Scenario::ColdStart, "cold_start_s", Goal::OfBird(0.3 / 4.5)),
            column("CPU s", Scenario::ColdStart, "cold_start_cpu_s", Goal::None),
            column("idle CPU s per 20 s", Scenario::Idle, "idle_cpu_s", Goal::OfBird(0.15 / 2.4)),
            column("idle MB", Scenario::Idle, "resting_mb", Goal::None),
        ],
    },
];

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: f64) -> Figures {
        Figures::from([("change_p50_ms".to_owned(), value)])
    }

    #[test]
    fn the_table_shows_medians_ratios_and_missed_goals() {
        let mut field = Field::default();
        for value in [3.0, 1.0, 2.0] {
            field.add(Kind::Bird, Scenario::OneChange, figures(value));
            field.add(Kind::Routelet, Scenario::OneChange, figures(value * 2.0));
        }
        assert_eq!(field.median(Kind::Bird, Scenario::OneChange, "change_p50_ms"), Some(2.0));
        let text = field.tables();
        assert!(text.contains("| BIRD 2 | 2.00 |"), "{text}");
        assert!(text.contains("| routelet | 4.00 (2.00×) |"), "{text}");
        assert!(text.contains("| goal of routelet | ≤ 2.00 |"), "{text}");
        assert!(text.contains("p50 ms: 4.00 (goal 2.00, 2.00 times it)"), "{text}");
        assert!(!text.contains("FRR"), "{text}");
    }

    #[test]
    fn a_failed_run_is_named() {
        let mut field = Field::default();
        field.add_failure(Kind::Frr, Scenario::Million, "ended");
        assert!(field.tables().contains("- FRR, million: ended"));
    }
}

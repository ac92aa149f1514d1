//! Many runs made into two tables of medians: each daemon as the node, and routelet beside each other side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Case, Cast, Make, Outcome};

/// All outcomes, by who played and what happened.
#[derive(Debug, Default)]
pub struct Results {
    runs: BTreeMap<(Cast, Case), Vec<Outcome>>,
    failures: Vec<String>,
}

/// The daemon of both nodes, with FRR as the ToR.
pub const COLUMNS: [Make; 5] =
    [Make::Routelet, Make::BirdTuned, Make::BirdPlain, Make::FrrTuned, Make::FrrPlain];

/// The daemons at the other side of a routelet on node 1: node 2, ToR.
pub const OTHER_SIDES: [(Make, Make); 5] = [
    (Make::Routelet, Make::Routelet),
    (Make::Routelet, Make::BirdPlain),
    (Make::Routelet, Make::FrrOff),
    (Make::BirdTuned, Make::BirdOff),
    (Make::FrrTuned, Make::FrrPlain),
];

/// The cast of a column.
#[must_use]
pub fn column(make: Make) -> Cast {
    Cast { node1: make, node2: make, tor: Make::FrrPlain }
}

/// The cast of a row of the second table.
#[must_use]
pub fn beside((node2, tor): (Make, Make)) -> Cast {
    Cast { node1: Make::Routelet, node2, tor }
}

impl Results {
    /// Takes a run.
    pub fn add(&mut self, cast: Cast, case: Case, outcome: Outcome) {
        self.runs.entry((cast, case)).or_default().push(outcome);
    }

    /// Takes a run that came to nothing.
    pub fn add_failure(&mut self, cast: Cast, case: Case, words: &str) {
        let words = words.lines().next().unwrap_or_default();
        self.failures.push(format!("{}, {}: {words}", describe(cast), title(case, 3, 30, 95)));
    }

    /// Both tables and what failed, as Markdown. `timing` for the titles.
    #[must_use]
    pub fn tables(&self, cases: &[Case], timing: &super::Timing) -> String {
        let seconds = |time: Duration| time.as_secs();
        let title = |case| {
            title(case, seconds(timing.pause), seconds(timing.freeze), seconds(timing.freeze_long))
        };
        let mut text = String::new();
        let columns: Vec<Make> = COLUMNS
            .into_iter()
            .filter(|make| self.runs.keys().any(|(cast, _)| *cast == column(*make)))
            .collect();
        if !columns.is_empty() {
            text.push_str("### Each daemon on both nodes, FRR as the ToR\n\n");
            let names: Vec<_> = columns.iter().map(|make| make.name()).collect();
            let _ =
                writeln!(text, "| | {} |\n|---{}|", names.join(" | "), "|---".repeat(names.len()));
            for case in cases {
                let cells: Vec<_> =
                    columns.iter().map(|make| self.cell(column(*make), *case)).collect();
                let _ = writeln!(text, "| {} | {} |", title(*case), cells.join(" | "));
            }
        }
        let others: Vec<_> = OTHER_SIDES
            .into_iter()
            .filter(|side| self.runs.keys().any(|(cast, _)| *cast == beside(*side)))
            .collect();
        if !others.is_empty() {
            text.push_str("\n### routelet on node 1, others beside it\n\n| node 2, ToR |");
            cases.iter().for_each(|case| _ = write!(text, " {} |", title(*case)));
            let _ = writeln!(text, "\n|---{}|", "|---".repeat(cases.len()));
            for side in others {
                let _ = write!(text, "| {}, {} |", side.0.name(), side.1.name());
                cases
                    .iter()
                    .for_each(|case| _ = write!(text, " {} |", self.cell(beside(side), *case)));
                text.push('\n');
            }
        }
        if !self.failures.is_empty() {
            text.push_str("\nRuns that failed:\n\n");
            self.failures.iter().for_each(|line| _ = writeln!(text, "- {line}"));
        }
        text
    }

    /// Packets lost in all, of them between the pods of the nodes where some were lost; or a time.
    fn cell(&self, cast: Cast, case: Case) -> String {
        let Some(runs) = self.runs.get(&(cast, case)) else { return "–".to_owned() };
        if let Some(gone) = median(runs.iter().filter_map(|run| run.gone)) {
            return match gone {
                Some(after) => format!("{:.1} s", after.as_secs_f64()),
                None => "not in time".to_owned(),
            };
        }
        let lost = median(runs.iter().map(Outcome::lost)).unwrap_or_default();
        if lost == 0 {
            return "**0**".to_owned();
        }
        let pods = median(runs.iter().map(Outcome::lost_between_pods)).unwrap_or_default();
        format!("{lost} ({pods})")
    }
}

/// The middle one; of an even number the lesser of the two.
fn median<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    let middle = values.len().checked_sub(1)? / 2;
    values.into_iter().nth(middle)
}

fn describe(cast: Cast) -> String {
    format!("{} / {} / {}", cast.node1.name(), cast.node2.name(), cast.tor.name())
}

fn title(case: Case, pause: u64, freeze: u64, freeze_long: u64) -> String {
    match case {
        Case::Stop => format!("SIGTERM, start {pause} s later"),
        Case::Kill => format!("kill -9, start {pause} s later"),
        Case::Upgrade => "upgrade".to_owned(),
        Case::StopTwice => "stop twice within 10 s".to_owned(),
        Case::KillTwice => "kill twice within 10 s".to_owned(),
        Case::Freeze => format!("frozen {freeze} s"),
        Case::FreezeLong => format!("frozen {freeze_long} s, beyond the hold time"),
        Case::StaleRoute => "stale route of a former life, gone after".to_owned(),
        Case::DiedMeanwhile => "node that died meanwhile, route gone after".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use routelet::lab::ping::PingReport;

    use super::*;
    use crate::resilience::Timing;

    fn lost(counts: [u64; 4]) -> Outcome {
        let stream =
            |lost| PingReport { sent: 1000, received: 1000 - lost, ..PingReport::default() };
        Outcome { streams: counts.map(stream).to_vec(), ..Outcome::default() }
    }

    #[test]
    fn tables_show_medians_and_what_was_lost_between_pods() {
        let mut results = Results::default();
        for counts in [[0, 0, 0, 0], [1, 2, 30, 0], [100, 0, 100, 0]] {
            results.add(column(Make::BirdPlain), Case::Stop, lost(counts));
            results.add(column(Make::Routelet), Case::Stop, lost([0; 4]));
        }
        let gone = Outcome { gone: Some(Some(Duration::from_millis(1840))), ..Outcome::default() };
        results.add(column(Make::Routelet), Case::StaleRoute, gone);
        let gone = Outcome { gone: Some(None), ..Outcome::default() };
        results.add(beside((Make::Routelet, Make::FrrOff)), Case::StaleRoute, gone);
        let text = results.tables(&[Case::Stop, Case::StaleRoute], &Timing::FULL);
        assert!(text.contains("| | routelet | BIRD plain |\n"), "{text}");
        assert!(text.contains("| SIGTERM, start 3 s later | **0** | 33 (3) |"), "{text}");
        assert!(text.contains("gone after | 1.8 s | – |"), "{text}");
        assert!(text.contains("without graceful restart | – | not in time |"), "{text}");
    }
}

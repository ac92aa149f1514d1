//! The corpus of public BGP messages, read by us and compared with what other decoders and live
//! daemons made of them.
//!
//! The corpus stays outside of the repository: `ROUTELET_CORPUS` names its folder, by default
//! `../shared/corpus` beside the workspace. Without it every test is skipped and says why. Each
//! test collects all that it finds; where we differ knowingly, the table of the test gives the
//! RFC's reason, and an entry that is no longer needed fails the test.

mod files;
mod invalid;
mod lines;
mod mrt;
mod second_opinion;
mod valid;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use files::Corpus;

/// A test: what it found, or all that is wrong.
type Test = fn(&Corpus) -> Result<(), Findings>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests: [(&str, Test); 9] = [
        ("valid_messages_are_read_without_complaint", valid::without_complaint),
        ("valid_updates_have_the_prefixes_exabgp_saw", valid::exabgp_prefixes),
        ("valid_updates_have_the_attributes_exabgp_saw", valid::exabgp_attributes),
        ("valid_updates_read_as_bgpdump_reads_them", valid::bgpdump_lines),
        ("valid_messages_agree_with_tshark", second_opinion::tshark),
        ("mutations_get_the_treatment_of_the_rfc", invalid::by_construction),
        ("what_every_daemon_refuses_is_refused", invalid::refused_by_all),
        ("invalid_and_disputed_messages_never_panic", invalid::never_panic),
        ("mrt_files_read_as_bgpdump_reads_them", mrt::as_bgpdump),
    ];
    let trials = tests.map(|(name, test)| Trial::ignorable_test(name, move || run(test))).into();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(test: Test) -> Result<Completion, Failed> {
    let corpus = match Corpus::open() {
        Ok(corpus) => corpus,
        Err(reason) => return Ok(Completion::ignored_with(reason)),
    };
    match test(&corpus) {
        Ok(()) => Ok(Completion::Completed),
        Err(findings) => Err(findings.0.join("\n").into()),
    }
}

/// Differences that a test found.
#[derive(Debug, Default)]
pub struct Findings(Vec<String>);

/// Where we knowingly differ: the message, and the RFC's reason.
pub type Differences = &'static [(&'static str, &'static str)];

/// Compares message by message against a table of known differences.
pub struct Check {
    differences: Differences,
    used: Vec<&'static str>,
    seen: usize,
    findings: Findings,
}

impl Check {
    pub fn new(differences: Differences) -> Self {
        Self { differences, used: Vec::new(), seen: 0, findings: Findings::default() }
    }

    /// Notes the outcome of one message.
    pub fn note(&mut self, id: &str, outcome: Result<(), String>) {
        self.seen += 1;
        let Err(difference) = outcome else { return };
        match self.differences.iter().find(|(known, _)| *known == id) {
            Some((known, _)) => self.used.push(known),
            None => self.findings.0.push(format!("{id}: {difference}")),
        }
    }

    /// The result; at least `least` messages must have been looked at.
    pub fn finish(mut self, least: usize) -> Result<(), Findings> {
        for (id, reason) in self.differences {
            if !self.used.contains(id) {
                self.findings.0.push(format!("{id}: no longer differs, yet listed with: {reason}"));
            }
        }
        if self.seen < least {
            self.findings.0.push(format!("only {} messages, expected {least}", self.seen));
        }
        if self.findings.0.is_empty() { Ok(()) } else { Err(self.findings) }
    }
}

/// `Err` with both sides if they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    ours: &T,
    theirs: &T,
) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{what}: ours {ours:?}, theirs {theirs:?}")) }
}

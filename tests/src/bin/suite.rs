//! Runs every test of the workspace and ends with the sums over all test binaries.
//!
//! In flow: the lines of `cargo test`, passed through as they come. Out flow: after them the names of
//! what failed with the beginning of what each said, the reasons of what was skipped, and `N passed, F
//! failed, S skipped`; a non-zero exit code if anything failed, or a binary ended without its result.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the lines have said so far.
#[derive(Debug, Default)]
struct Sums {
    passed: u64,
    failed: u64,
    skipped: u64,
    binary: String,
    failures: Vec<String>,
    /// The first lines that a failed test said, by the name it has in `failures`.
    said: BTreeMap<String, Vec<String>>,
    /// The failed test whose words are being printed.
    speaking: Option<String>,
    /// Tests by reason.
    skips: BTreeMap<String, Vec<String>>,
}

/// How many lines of a failed test are repeated at the end, where a shortened log still has them.
const LINES_SAID: usize = 8;
/// How many characters of such a line.
const LINE_LENGTH: usize = 300;

/// The reason of a test that is left out where somebody waits for it; here it is run at the end.
const SLOW: &str = "takes long without optimization";

fn run() -> anyhow::Result<bool> {
    let chosen: Vec<_> = env::args_os().skip(1).collect();
    let mut sums = Sums::default();
    let mut arguments: Vec<OsString> = ["test", "--no-fail-fast"].map(Into::into).into();
    if !chosen.iter().any(|word| word == "-p" || word == "--package") {
        // The same selection as the build before it, so that nothing is built a second time.
        arguments.push("--workspace".into());
    }
    arguments.extend(chosen);
    sums.run(&arguments)?;
    let slow = sums.skips.remove(SLOW).unwrap_or_default();
    if !slow.is_empty() {
        sums.skipped -= u64::try_from(slow.len()).context("too many tests")?;
        let mut arguments: Vec<OsString> =
            ["test", "--workspace", "--no-fail-fast", "--lib", "--", "--ignored", "--exact"]
                .map(Into::into)
                .into();
        arguments.extend(slow.iter().filter_map(|name| name.rsplit(' ').next()).map(Into::into));
        sums.run(&arguments)?;
    }
    let _ = writeln!(io::stdout(), "\n{}", sums.report());
    Ok(sums.failed == 0)
}

impl Sums {
    /// Runs cargo, passes on what it says, and adds it up.
    fn run(&mut self, arguments: &[OsString]) -> anyhow::Result<()> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let mut child = command
            .args(arguments)
            .stdout(writer.try_clone().context("cannot share the pipe")?)
            .stderr(writer)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot run cargo")?;
        // It holds the other end of the pipe.
        drop(command);
        let before = self.failed;
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.context("cannot read what cargo says")?;
            let line = String::from_utf8_lossy(&line);
            let _ = writeln!(io::stdout(), "{line}");
            self.take(&line);
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if !status.success() && self.failed == before {
            self.failed += 1;
            self.failures.push(format!("cargo test: {status}, without the result of a test"));
        }
        Ok(())
    }

    fn take(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            // `name stdout` of the standard harness.
            let name = name.strip_suffix(" stdout").unwrap_or(name);
            self.speaking = Some(format!("{} {name}", self.binary));
            return;
        }
        if line == "failures:" || line.starts_with("test result: ") {
            self.speaking = None;
        }
        if let Some(name) = &self.speaking {
            let said = self.said.entry(name.clone()).or_default();
            if !line.is_empty() && said.len() < LINES_SAID {
                said.push(line.chars().take(LINE_LENGTH).collect());
            }
            return;
        }
        if let Some(binary) = line.trim_start().strip_prefix("Running ") {
            self.binary = binary.split(" (").next().unwrap_or(binary).to_owned();
        } else if let Some(package) = line.trim_start().strip_prefix("Doc-tests ") {
            self.binary = format!("documentation of {package}");
        } else if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let (Some(Ok(count)), Some(what)) =
                    (words.next().map(str::parse::<u64>), words.next())
                else {
                    continue;
                };
                match what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.skipped += count,
                    _ => {}
                }
            }
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            let name = format!("{} {}", self.binary, name.trim());
            if let Some(reason) = outcome.strip_prefix("ignored") {
                // `ignored, reason` of the standard harness, `ignored (reason)` of the other.
                let reason = match reason.strip_prefix(", ") {
                    Some(reason) => reason,
                    None => {
                        let reason = reason.trim().strip_prefix('(').unwrap_or_default();
                        reason.strip_suffix(')').unwrap_or(reason)
                    }
                };
                let reason = if reason.is_empty() { "no reason given" } else { reason };
                self.skips.entry(reason.to_owned()).or_default().push(name);
            } else if outcome.starts_with("FAILED") {
                self.failures.push(name);
            }
        }
    }

    fn report(&self) -> String {
        let mut lines = Vec::new();
        for name in &self.failures {
            lines.push(format!("FAILED   {name}"));
            let said = self.said.get(name).into_iter().flatten();
            lines.extend(said.map(|line| format!("         {line}")));
        }
        for (reason, names) in &self.skips {
            lines.push(format!("skipped  {} because: {reason}", names.join(", ")));
        }
        lines.push(format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        ));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn adds_up_both_harnesses_with_names_and_reasons() {
        let mut sums = Sums::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/a-1)",
            "test one ... ok",
            "test two ... FAILED",
            "test three ... ignored, needs a network",
            "failures:",
            "",
            "---- two stdout ----",
            "",
            "thread 'two' panicked at src/lib.rs:1:1:",
            "test of nothing ... ok",
            "",
            "failures:",
            "    two",
            "",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            "     Running tests/interop/main.rs (target/debug/deps/interop-2)",
            "test four ... ignored (no bird (os error 2))",
            "test five ... FAILED",
            "---- five ----",
            "a packet outside",
            "--- /tmp/five/node.log",
            "",
            "failures:",
            "    five",
            "test result: FAILED. 5 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 11.50s",
        ] {
            sums.take(line);
        }
        assert_eq!(
            sums.report(),
            "FAILED   unittests src/lib.rs two
         thread 'two' panicked at src/lib.rs:1:1:
         test of nothing ... ok
FAILED   tests/interop/main.rs five
         a packet outside
         --- /tmp/five/node.log
skipped  unittests src/lib.rs three because: needs a network
skipped  tests/interop/main.rs four because: no bird (os error 2)
6 passed, 2 failed, 2 skipped"
        );
    }
}

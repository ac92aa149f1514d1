//! What is wrong with a configuration, where, and how it is put right.
//!
//! In flow: everything that reading and validating finds, one [`Problem`] each, gathered in
//! [`Problems`]. Out flow: a [`ConfigError`] with all of them at once and the lines they are about, or
//! warnings. A line that may hold a secret is never quoted.

use std::fmt;

use serde::Serialize;

/// A place in a file; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Serialize)]
pub struct Place {
    /// 0 where there is no place: a default, or an object that did not come from a file.
    pub line: u32,
    /// 0 where there is no place. Without a line: the rank of the object among all of them, from 1,
    /// so that of two that contradict each other the later one is blamed as in a file.
    pub column: u32,
}

impl Place {
    /// No place.
    pub const NONE: Self = Self { line: 0, column: 0 };

    /// The place of everything in the object of this rank, from 1.
    #[must_use]
    pub const fn of_object(rank: u32) -> Self {
        Self { line: 0, column: rank }
    }

    /// Whether there is a place.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.line != 0
    }

    /// ` (line 7)` for the end of a phrase, or nothing.
    pub(super) fn hint(self) -> String {
        if self.is_known() { format!(" (line {})", self.line) } else { String::new() }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which key, e.g. `peers[tor-1].holdTime`; empty for the text as a whole.
    pub path: String,
    /// What is wrong and what to do, in words.
    pub message: String,
    /// Whether the line it is about must not be quoted.
    #[serde(skip)]
    secret: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// What was found so far.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Problems {
    /// Notes an error; no [`super::Config`] comes out of it any more.
    pub fn error(&mut self, place: Place, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(Problem {
            place,
            path: path.into(),
            message: message.into(),
            secret: false,
        });
    }

    /// Notes an error about a line that may hold a secret and is never quoted.
    pub fn secret_error(
        &mut self,
        place: Place,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.errors.push(Problem {
            place,
            path: path.into(),
            message: message.into(),
            secret: true,
        });
    }

    /// Notes something that is legal but probably not meant.
    pub fn warn(&mut self, place: Place, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem {
            place,
            path: path.into(),
            message: message.into(),
            secret: false,
        });
    }

    /// Whether there are no errors.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors, in the order in which they were found, each once.
    #[must_use]
    pub fn into_errors(mut self) -> Vec<Problem> {
        self.errors.dedup();
        self.errors
    }

    /// The warnings, in the order of the file, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<_> = self.warnings.iter().collect();
        warnings.sort_by_key(|problem| problem.place);
        warnings
            .into_iter()
            .map(|problem| {
                if problem.place.is_known() {
                    format!("line {}: {problem}", problem.place.line)
                } else {
                    problem.to_string()
                }
            })
            .collect()
    }

    /// The errors, in the order of the file, with the lines of `text` they are about.
    #[must_use]
    pub fn into_error(mut self, name: &str, text: &str) -> ConfigError {
        self.errors.sort_by_key(|problem| problem.place);
        self.errors.dedup();
        let lines: Vec<&str> = text.lines().collect();
        let frames = self
            .errors
            .iter()
            .map(|problem| if problem.secret { None } else { frame(&lines, problem.place) })
            .collect();
        ConfigError { name: name.to_owned(), problems: self.errors, frames }
    }
}

/// A configuration that is refused, whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    name: String,
    problems: Vec<Problem>,
    frames: Vec<Option<String>>,
}

impl ConfigError {
    /// Everything that is wrong, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One line for each problem, without the lines they are about: for the log and `status`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.problems.iter().map(|problem| self.line(problem)).collect()
    }

    fn line(&self, problem: &Problem) -> String {
        let Place { line, column } = problem.place;
        if problem.place.is_known() {
            format!("{}:{line}:{column}: {problem}", self.name)
        } else {
            format!("{}: {problem}", self.name)
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (problem, frame)) in self.problems.iter().zip(&self.frames).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {}", self.line(problem))?;
            if let Some(frame) = frame {
                write!(f, "\n{frame}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Columns of a quoted line that are shown at most.
const FRAME_WIDTH: usize = 120;

/// The line at `place` with a caret under the column; nothing where it may hold a secret.
fn frame(lines: &[&str], place: Place) -> Option<String> {
    let index = (place.line as usize).checked_sub(1)?;
    let line = lines.get(index)?;
    // A password written in place of `{file: …}` stands on its key's line or on the next.
    let secret = |line: &str| line.to_ascii_lowercase().contains("password");
    if secret(line) || index.checked_sub(1).is_some_and(|previous| secret(lines[previous])) {
        return None;
    }
    let column = (place.column as usize).saturating_sub(1);
    if column >= FRAME_WIDTH {
        return None;
    }
    let shown: String = line
        .chars()
        .take(FRAME_WIDTH)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    let number = place.line.to_string();
    Some(format!(
        "  {number} | {}\n  {:width$} | {:column$}^",
        shown.trim_end(),
        "",
        "",
        width = number.len()
    ))
}

/// ` Did you mean …?` where one of `known` is close to `word`, else nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| format!(" Did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// How many characters must be inserted, removed or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    // Only names of a sane length are worth the quadratic work.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

//! Formats, tables, and the small words in them.

use std::borrow::Cow;
use std::io::Write;

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

/// How a view is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// For programs; the fields are in docs/api.md.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Writes `value` as JSON or YAML; `false` if `format` is for people.
pub(super) fn structured(
    format: Format,
    value: &impl Serialize,
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    match format {
        Format::Table | Format::Wide => return Ok(false),
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(value)?)?,
        Format::Yaml => out.write_all(yaml(value)?.as_bytes())?,
    }
    Ok(true)
}

/// `value` as YAML, ending in a newline.
pub(super) fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Columns without borders, as kubectl prints them; more rows may follow in later pages.
#[derive(Debug)]
pub(super) struct Columns {
    names: Vec<&'static str>,
    widths: Vec<u16>,
    headed: bool,
}

impl Columns {
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self { names: names.to_vec(), widths: vec![0; names.len()], headed: false }
    }

    /// Writes rows, under the names of the columns the first time. Columns never get narrower from
    /// page to page, so that a long list stays readable without being held whole.
    pub(super) fn write(
        &mut self,
        rows: impl IntoIterator<Item = Vec<String>>,
        indent: &str,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if !std::mem::replace(&mut self.headed, true) {
            table.add_row(self.names.clone());
        }
        for row in rows {
            let cells = row.iter().map(|cell| if cell.is_empty() { "-" } else { cell });
            table.add_row(cells.map(|cell| printable(cell).into_owned()).collect::<Vec<_>>());
        }
        table.discover_columns();
        for (width, found) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            *width = (*width).max(found);
        }
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            column.set_padding((0, 3));
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + 3)));
        }
        for line in table.lines() {
            writeln!(out, "{indent}{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes `name: value` lines with the values under each other.
pub(super) fn pairs(
    pairs: &[(&str, String)],
    indent: &str,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    for (name, value) in pairs {
        let value = if value.is_empty() { "-" } else { value };
        writeln!(out, "{indent}{:width$}  {}", format!("{name}:"), printable(value))?;
    }
    Ok(())
}

/// Text from elsewhere without control characters: a peer's words must not steer a terminal.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Cow::Owned(text.chars().map(shown).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Seconds as people say them: the two greatest units that matter.
pub(super) fn age(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let two = |unit: u64, name: &str, part: u64, part_name: &str| {
        let rest = seconds % unit / part;
        if rest == 0 {
            format!("{}{name}", seconds / unit)
        } else {
            format!("{}{name}{rest}{part_name}", seconds / unit)
        }
    };
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => two(MINUTE, "m", 1, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "m"),
        DAY..YEAR => two(DAY, "d", HOUR, "h"),
        YEAR.. => two(YEAR, "y", DAY, "d"),
    }
}

/// A number that may be missing.
pub(super) fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Yes or no.
pub(super) fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m12s"),
            (3600, "1h"),
            (18_420, "5h7m"),
            (187_200, "2d4h"),
            (86_400 * 365 * 2 + 86_400 * 3, "2y3d"),
        ];
        for (seconds, words) in cases {
            assert_eq!(age(seconds), words);
        }
    }

    #[test]
    fn pages_stay_aligned() {
        let mut columns = Columns::new(&["A", "B"]);
        let mut out = Vec::new();
        columns.write([vec!["wider".into(), "x".into()]], "", &mut out).unwrap();
        columns
            .write([vec!["1".into(), "y".into()], vec![String::new(), "z".into()]], "", &mut out)
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A       B\nwider   x\n1       y\n-       z\n");
    }

    #[test]
    fn a_terminal_is_not_steered_by_others() {
        assert_eq!(printable("red \u{1b}[31m\nnow"), "red \u{fffd}[31m\u{fffd}now");
    }

    #[test]
    fn yaml_reads_back_as_the_same_text() {
        let odd = vec!["65001:100", "no", "1e3", "- a: b", "fd00::/64", "0x10", "", "~", "a\nb"];
        let text = yaml(&odd).unwrap();
        let back: Vec<String> = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, odd, "{text}");
    }
}

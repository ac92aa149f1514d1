//! `routelet routes`.

use super::client::{Client, encode};
use super::output::{self, Columns, Format, age, number};
use super::{Outcome, RoutesArgs, Streams};
use crate::api::views::Route;

/// What the first column says.
const LEGEND: &str = "Marks: * valid, > best, = multipath, s stale";

/// Rows laid out at once: long tables are not held whole.
const PAGE: usize = 10_000;

const COLUMNS: [&str; 12] = [
    "",
    "PREFIX",
    "NEXT HOP",
    "FROM",
    "AS PATH",
    "LOCAL_PREF",
    "MED",
    "COMMUNITIES",
    "AGE",
    "DEVICE",
    "ENCAP",
    "IN KERNEL",
];
const WIDE_COLUMNS: [&str; 17] = [
    "",
    "PREFIX",
    "NEXT HOP",
    "FROM",
    "AS PATH",
    "LOCAL_PREF",
    "MED",
    "COMMUNITIES",
    "AGE",
    "ORIGIN",
    "PATH ID",
    "LARGE COMMUNITIES",
    "ORIGINATOR ID",
    "DECISION",
    "DEVICE",
    "ENCAP",
    "IN KERNEL",
];

/// `routelet routes`.
pub(super) fn list(
    client: &Client,
    args: &RoutesArgs,
    streams: &mut Streams<'_>,
) -> anyhow::Result<Outcome> {
    let mut printer = Printer::new(args.output.output, PAGE);
    client.each(&path(args), |route: Route| printer.add(route, streams))?;
    printer.finish(streams)?;
    Ok(Outcome::Done)
}

/// The request.
fn path(args: &RoutesArgs) -> String {
    let mut parameters = Vec::new();
    let mut parameter =
        |name: &str, value: &str| parameters.push(format!("{name}={}", encode(value)));
    if let Some(destination) = &args.destination {
        parameter(destination_parameter(destination), destination);
    }
    if args.received {
        parameter("table", "received");
    } else if args.advertised {
        parameter("table", "advertised");
    }
    if let Some(peer) = &args.peer {
        parameter("peer", peer);
    }
    if let Some(family) = &args.family {
        parameter("family", family);
    }
    if parameters.is_empty() {
        "/v1/routes".to_owned()
    } else {
        format!("/v1/routes?{}", parameters.join("&"))
    }
}

/// Whether a destination is a prefix or an address; the API says if it is neither.
pub(super) fn destination_parameter(destination: &str) -> &'static str {
    if destination.contains('/') { "prefix" } else { "address" }
}

/// Prints routes as they come.
pub(super) struct Printer {
    format: Format,
    page: usize,
    columns: Columns,
    rows: Vec<Vec<String>>,
    printed: bool,
}

impl Printer {
    pub(super) fn new(format: Format, page: usize) -> Self {
        let columns = if format == Format::Wide {
            Columns::new(&WIDE_COLUMNS)
        } else {
            Columns::new(&COLUMNS)
        };
        Self { format, page, columns, rows: Vec::new(), printed: false }
    }

    /// One more route.
    pub(super) fn add(&mut self, route: Route, streams: &mut Streams<'_>) -> anyhow::Result<()> {
        let first = !std::mem::replace(&mut self.printed, true);
        match self.format {
            Format::Table | Format::Wide => {
                if first {
                    writeln!(streams.out, "{LEGEND}")?;
                }
                self.rows.push(row(&route, self.format == Format::Wide));
                if self.rows.len() >= self.page {
                    self.columns.write(self.rows.drain(..), "", streams.out)?;
                }
            }
            Format::Json => {
                let separator = if first { "[\n" } else { ",\n" };
                write!(streams.out, "{separator}  {}", serde_json::to_string(&route)?)?;
            }
            // Sequences of one, one after the other, are one sequence.
            Format::Yaml => streams.out.write_all(output::yaml(&[route])?.as_bytes())?,
        }
        Ok(())
    }

    /// There are no more.
    pub(super) fn finish(mut self, streams: &mut Streams<'_>) -> anyhow::Result<()> {
        match (self.format, self.printed) {
            (Format::Table | Format::Wide, false) => writeln!(streams.err, "no routes")?,
            (Format::Table | Format::Wide, true) if self.rows.is_empty() => {}
            (Format::Table | Format::Wide, true) => {
                self.columns.write(self.rows.drain(..), "", streams.out)?;
            }
            (Format::Json, false) | (Format::Yaml, false) => writeln!(streams.out, "[]")?,
            (Format::Json, true) => writeln!(streams.out, "\n]")?,
            (Format::Yaml, true) => {}
        }
        Ok(())
    }
}

fn row(route: &Route, wide: bool) -> Vec<String> {
    let mut row = vec![
        marks(route),
        route.prefix.to_string(),
        number(route.next_hop),
        route.from.clone(),
        route.as_path.clone(),
        number(route.local_pref),
        number(route.med),
        route.communities.join(" "),
        age(route.age_seconds),
    ];
    if wide {
        row.extend([
            route.origin.clone(),
            route.path_id.to_string(),
            route.large_communities.join(" "),
            number(route.originator_id.as_ref()),
            route.decision.clone(),
        ]);
    }
    row.push(number(route.device.as_ref()));
    row.push(number(route.encapsulation.as_ref()));
    row.push(route.kernel.clone());
    row
}

/// The first column: one character for each mark of the legend.
pub(super) fn marks(route: &Route) -> String {
    let mut marks = String::new();
    for (set, mark) in [
        (route.valid, '*'),
        (route.best, '>'),
        (route.multipath && !route.best, '='),
        (route.stale, 's'),
    ] {
        if set {
            marks.push(mark);
        }
    }
    marks
}

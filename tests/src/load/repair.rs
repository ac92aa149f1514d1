//! What happens behind a daemon's back, and after what time its routes are in the kernel again.
//!
//! In flow: a daemon with 1000 routes in the kernel, learned from one peer. Out flow: milliseconds per
//! case, by the kernel's own notifications (`ip -ts monitor`): from the event that a daemon can know of
//! (the deletion, the link being up again) to the last route written after it. Every daemon is
//! treated the same; one that does not put its routes back within the limit has no figure.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::dut::{Fib, Kind};
use crate::load::engine::now;
use crate::load::fib::{self, DEVICE, FAR_END, Session, ip, prefixes};
use crate::load::scenario::Figures;

const ROUTES: usize = 1000;
/// How long the count of routes must stand still before a case is over.
const STILL: Duration = Duration::from_millis(2500);

/// One run; the process must already be in a namespace with the addresses of `dut`.
pub fn run(kind: Kind, how: Fib, routelet: Option<&Path>, limit: Duration) -> Result<Figures> {
    let mut session = fib::start(kind, how, ROUTES, routelet, limit)?;
    let empty = prefixes()?;
    session.announce()?;
    session.until(empty + ROUTES, limit)?;
    let mut bench = Bench { session, wanted: empty + ROUTES, limit, figures: Figures::new() };
    bench.case("deleted", "Deleted 11.0.7.0/24", || ip(&["route", "del", "11.0.7.0/24"]));
    bench.case("link", "LOWER_UP>", || {
        ip(&["link", "set", DEVICE, "down"])?;
        std::thread::sleep(Duration::from_millis(500));
        ip(&["link", "set", DEVICE, "up"])
    });
    bench.case("carrier", "LOWER_UP>", || {
        ip(&["link", "set", FAR_END, "down"])?;
        // The kernel tells of it up to a second later.
        std::thread::sleep(Duration::from_millis(2500));
        ip(&["link", "set", FAR_END, "up"])
    });
    // Last: a daemon may never get over it.
    let objects = kind.is_routelet() && how == Fib::Default;
    bench.case("flushed", "Deleted ", || match kind {
        // `ip route flush` cannot remove routes behind nexthop objects; this takes both away.
        _ if objects => ip(&["nexthop", "flush", "proto", "179"]),
        Kind::Bird => ip(&["route", "flush", "proto", "bird"]),
        _ => ip(&["route", "flush", "proto", "179"]),
    });
    Ok(bench.figures)
}

struct Bench {
    session: Session,
    wanted: usize,
    limit: Duration,
    figures: Figures,
}

impl Bench {
    /// Lets something happen. `since`: what the last line of the kernel's that began it has.
    fn case(&mut self, name: &str, since: &str, happens: impl FnOnce() -> Result<()>) {
        match self.measure(since, happens) {
            Ok(milliseconds) => {
                self.figures.insert(format!("{name}_ms"), milliseconds);
            }
            Err(error) => eprintln!("  {name}: {error:#}"),
        }
    }

    fn measure(&mut self, since: &str, happens: impl FnOnce() -> Result<()>) -> Result<f64> {
        let log = tempfile::NamedTempFile::new()?;
        let monitor = Command::new("ip")
            .args(["-ts", "monitor", "link", "route", "nexthop"])
            .stdin(Stdio::null())
            .stdout(log.reopen()?)
            .spawn()
            .context("ip monitor")?;
        let _monitor = Ending(monitor);
        self.session.idle(Duration::from_millis(300))?;
        happens()?;
        let begin = now();
        let mut still = now();
        let mut octets = 0;
        while prefixes()? != self.wanted || still.elapsed() < STILL {
            self.session.idle(Duration::from_millis(50))?;
            let length = fs::metadata(log.path())?.len();
            if length != octets {
                (octets, still) = (length, now());
            }
            ensure!(begin.elapsed() < self.limit, "not back within {:?}", self.limit);
        }
        evaluate(&fs::read_to_string(log.path())?, since)
    }
}

/// From the last line with `since` that is before a route came back to the last such route; 0 where
/// none had to.
fn evaluate(log: &str, since: &str) -> Result<f64> {
    let (mut begin, mut end) = (None, None);
    for line in log.lines() {
        let Some((stamp, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] "))
        else {
            continue;
        };
        let Some(at) = seconds(stamp) else { continue };
        let ours = rest.starts_with("11.");
        let began = rest.contains(since) && (!rest.contains(": ") || rest.contains(DEVICE));
        if began && end.is_none() {
            begin = Some(at);
        } else if ours && begin.is_some() {
            end = Some(at);
        }
    }
    let begin = begin.with_context(|| format!("the kernel did not tell of it ({since})"))?;
    Ok(end.map_or(0.0, |end| (end - begin) * 1e3))
}

/// Seconds of the day of `2026-11-20T12:40:01.123456`.
fn seconds(stamp: &str) -> Option<f64> {
    let (_, time) = stamp.split_once('T')?;
    let mut parts = time.split(':');
    let hours: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some((hours * 60.0 + minutes) * 60.0 + seconds)
}

struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_kernel() {
        let log = "[2026-11-20T12:40:01.000000] Deleted 11.0.7.0/24 via 10.97.0.2 dev fib0\n\
                   [2026-11-20T12:40:01.001500] 11.0.7.0/24 via 10.97.0.2 dev fib0\n";
        assert!((evaluate(log, "Deleted 11.").unwrap() - 1.5).abs() < 1e-3);
        let log = "[2026-11-20T12:40:01.000000] 2: fib0@fib1: <BROADCAST,UP,LOWER_UP> mtu 1500\n\
                   [2026-11-20T12:40:01.000000] 2: fib1@fib0: <BROADCAST,UP,LOWER_UP> mtu 1500\n\
                   [2026-11-20T12:40:01.250000] 11.0.7.0/24 nhid 3 via 10.97.0.2 dev fib0\n\
                   [2026-11-20T12:40:01.500000] 11.0.9.0/24 nhid 3 via 10.97.0.2 dev fib0\n";
        assert!((evaluate(log, "LOWER_UP>").unwrap() - 500.0).abs() < 1e-3);
        assert!(evaluate("", "LOWER_UP>").is_err());
    }
}

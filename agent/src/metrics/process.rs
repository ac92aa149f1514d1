//! This process as the kernel sees it: memory, processor time, open files.

use std::fs;

/// Ticks a second in /proc/PID/stat: what Linux tells programs on every architecture that it runs
/// containers on, whatever the kernel's own rate is (proc(5), USER_HZ).
const TICKS: f64 = 100.0;

/// What /proc says of us; 0 for what it does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Octets of resident memory.
    pub(super) resident: f64,
    /// Seconds of processor time, user and system.
    pub(super) cpu: f64,
    /// Open file descriptors.
    pub(super) files: f64,
    /// How many there may be.
    pub(super) most_files: f64,
}

impl Process {
    /// As it is now.
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            resident: line(&status, "VmRSS:", 0) * 1024.0,
            cpu: ticks(&stat) / TICKS,
            files: fs::read_dir("/proc/self/fd").map_or(0.0, |entries| count(entries.count())),
            most_files: line(&limits, "Max open files", 0),
        }
    }
}

/// The number at `index` behind the words that a line begins with.
fn line(text: &str, words: &str, index: usize) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(words)).unwrap_or_default();
    rest.split_whitespace().nth(index).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// utime and stime, the 14th and 15th field; the second is a name in brackets that may have any form.
fn ticks(stat: &str) -> f64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let number = |text: &str| text.parse::<f64>().unwrap_or_default();
    rest.split_whitespace().skip(11).take(2).map(number).sum()
}

/// A count as a sample's value.
#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_behind_the_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 3 0 250 50 0 0 20 0 6 0 12345 1 2";
        assert!((ticks(stat) - 300.0).abs() < f64::EPSILON);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::read();
        assert!(process.resident > 1_000_000.0 && process.files >= 3.0, "{process:?}");
        assert!(process.most_files >= process.files, "{process:?}");
    }
}

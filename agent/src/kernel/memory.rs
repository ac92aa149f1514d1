//! Where our routes are, remembered across restarts.
//!
//! In flow: the territories of the reconciler. Out flow: a small file of lines `table protocol`, and
//! the same at the next start. Without it, routes in a table or under a protocol number that was
//! configured before and changed while the agent was down would stay for ever: a listing of other
//! tables cannot tell ours from those of somebody who uses the same number there.
//!
//! What always holds: a territory is in the file before a route is written there.

use std::io;
use std::path::{Path, PathBuf};

use super::writer::Territory;

/// The file; see the module.
#[derive(Debug)]
pub(super) struct Memory {
    path: Option<PathBuf>,
    written: Vec<Territory>,
}

impl Memory {
    /// `None`: nothing is remembered.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, written: Vec::new() }
    }

    /// What a former life has left. A line that says nothing is passed over.
    pub(super) fn read(&self) -> Vec<Territory> {
        let Some(path) = &self.path else { return Vec::new() };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "routes in formerly configured tables are not found");
                return Vec::new();
            }
        };
        text.lines().filter_map(parse).collect()
    }

    /// Remembers these, where they are others than before.
    pub(super) fn write(&mut self, territories: &[Territory]) {
        let Some(path) = &self.path else { return };
        if self.written == territories {
            return;
        }
        // One attempt and one complaint for each change.
        self.written = territories.to_vec();
        let lines =
            territories.iter().map(|Territory { table, protocol }| format!("{table} {protocol}\n"));
        if let Err(error) = replace(path, &lines.collect::<String>()) {
            tracing::warn!(path = %path.display(), %error, "cannot remember which tables have our routes: after a change of kernel.table or kernel.protocol while routelet is down, old routes stay");
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

fn parse(line: &str) -> Option<Territory> {
    let (table, protocol) = line.trim().split_once(' ')?;
    let territory = Territory { table: table.parse().ok()?, protocol: protocol.parse().ok()? };
    // As the configuration has it: nothing of the kernel's own is ever taken for ours.
    (territory.table != 0 && territory.table != 255 && territory.protocol >= 5).then_some(territory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper/kernel-routes");
        let mut memory = Memory::new(Some(path.clone()));
        assert_eq!(memory.read(), []);
        let two =
            [Territory { table: 254, protocol: 179 }, Territory { table: 5000, protocol: 180 }];
        memory.write(&two);
        assert_eq!(memory.read(), two);
        std::fs::write(&path, "254 2\n255 179\nx y\n\n7 77\n").unwrap();
        assert_eq!(memory.read(), [Territory { table: 7, protocol: 77 }]);
        assert_eq!(Memory::new(None).read(), []);
    }
}

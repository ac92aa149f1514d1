//! Notices when the files of the configuration change.
//!
//! In flow: inotify events of the *directories* the files are in, because a Kubernetes ConfigMap is
//! changed by swapping a symbolic link beside the file and an editor replaces the file as a whole.
//! Out flow: [`ConfigWatcher::changed`] returns after the directory has been quiet for a moment and
//! the content of a file really differs. A slow look without any event catches what inotify cannot
//! see (a directory that was replaced, a network file system), and is all there is where inotify is
//! not available. A signal that asks for a reload is the caller's; it needs no watcher.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long it must be quiet before files are read: whoever writes is done by then.
const QUIET: Duration = Duration::from_millis(500);
/// Quiet periods that are waited for at most, so that a busy directory cannot keep us off for ever.
const MAXIMUM_QUIETS: usize = 10;
/// Between two looks without an event.
const LOOK: Duration = Duration::from_secs(60);
/// The same where there are no events at all.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(5);

/// Watches the files of a configuration.
#[derive(Debug)]
pub struct ConfigWatcher {
    events: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    signal: Arc<Notify>,
    /// Something may have changed and was not looked at yet; survives a dropped `changed`.
    dirty: bool,
    /// Hash of each file's content; none for a file that cannot be read.
    seen: BTreeMap<PathBuf, Option<u64>>,
}

impl ConfigWatcher {
    /// Watches `file`. To be called before the file is read for the first time, so that no change
    /// falls between.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        let signal = Arc::new(Notify::new());
        let wake = signal.clone();
        let handler = move |event: notify::Result<Event>| {
            // Reading the files causes access events: those must not make us read again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                wake.notify_one();
            }
        };
        let events = match notify::recommended_watcher(handler) {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "inotify is not available; the configuration is looked at every {} s",
                    LOOK_WITHOUT_EVENTS.as_secs()
                );
                None
            }
        };
        let mut watcher = Self {
            events,
            directories: BTreeSet::new(),
            signal,
            dirty: false,
            seen: BTreeMap::new(),
        };
        watcher.watch([file.to_owned()]);
        watcher
    }

    /// Watches exactly `files` from now on.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let mut seen = BTreeMap::new();
        for file in files {
            let hash = self.seen.remove(&file).unwrap_or_else(|| content_hash(&file));
            seen.insert(file, hash);
        }
        self.seen = seen;
        self.watch_directories();
    }

    /// Waits until the content of a file has changed, or a file has come or gone. May be dropped at
    /// any time without missing a change.
    pub async fn changed(&mut self) {
        loop {
            if !self.dirty {
                let look = if self.events.is_some() { LOOK } else { LOOK_WITHOUT_EVENTS };
                // Whether an event came or the time for a look: the files are compared.
                let _ = timeout(look, self.signal.notified()).await;
                self.dirty = true;
            }
            for _ in 0..MAXIMUM_QUIETS {
                if timeout(QUIET, self.signal.notified()).await.is_err() {
                    break;
                }
            }
            self.dirty = false;
            // A link may point into another directory now, or a directory may be a new one.
            self.watch_directories();
            if self.differs() {
                return;
            }
        }
    }

    /// Compares the files with what was seen last, and remembers what they are now.
    fn differs(&mut self) -> bool {
        let mut differs = false;
        for (file, seen) in &mut self.seen {
            let now = content_hash(file);
            differs |= now != *seen;
            *seen = now;
        }
        differs
    }

    fn watch_directories(&mut self) {
        let Some(events) = &mut self.events else { return };
        let mut wanted = BTreeSet::new();
        for file in self.seen.keys() {
            wanted.extend(directory_of(file));
            // A link's target may be replaced where it is.
            wanted.extend(file.canonicalize().ok().as_deref().and_then(directory_of));
        }
        for gone in self.directories.difference(&wanted) {
            let _ = events.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            // Watching again what is watched already is cheap and follows a replaced directory.
            match events.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(directory);
                }
                Err(error) => {
                    if self.directories.contains(&directory) || self.directories.is_empty() {
                        tracing::warn!(
                            directory = %directory.display(),
                            %error,
                            "the directory of the configuration cannot be watched; it is looked at \
                             every {} s",
                            LOOK.as_secs()
                        );
                    }
                }
            }
        }
        self.directories = watched;
    }
}

fn directory_of(file: &Path) -> Option<PathBuf> {
    let directory = file.parent()?;
    Some(if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_owned() })
}

fn content_hash(file: &Path) -> Option<u64> {
    let content = std::fs::read(file).ok()?;
    Some(foldhash::fast::FixedState::default().hash_one(content))
}

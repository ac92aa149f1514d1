//! The task that keeps the file right.
//!
//! It looks when something has changed (configuration, links below, the directory), often while it
//! waits for the node to forward, now and then while something is wrong that nobody tells about (a
//! folder of plugins that is not there yet), and slowly otherwise.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::file::{self, Put};
use super::underlay::{Underlay, Watch};
use super::{CniConfig, CniStatus, Readiness, conflist, plugins};

/// Between two looks while the node does not forward yet: pods wait for it.
const SOON: Duration = Duration::from_millis(250);
/// While something is wrong.
const WRONG: Duration = Duration::from_secs(5);
/// While all is well.
const AUDIT: Duration = Duration::from_secs(300);
/// How long the directory must be quiet: whoever writes into it is done by then.
const QUIET: Duration = Duration::from_millis(200);

/// What the agent asks.
#[derive(Debug)]
pub(super) enum Command {
    Apply(CniConfig),
    Stop { withdraw: bool, done: oneshot::Sender<()> },
}

/// See the module.
pub(super) struct Task<R> {
    config: CniConfig,
    readiness: R,
    /// In a container.
    contained: bool,
    status: watch::Sender<CniStatus>,
    /// The node has been able to forward: that it cannot for a moment later is no reason to keep a
    /// wrong file.
    passed: bool,
    underlay: Underlay,
    links: Result<Watch, String>,
    directory: DirectoryWatch,
    /// Under which the kernel shows its settings.
    sysctls: PathBuf,
}

impl<R: Readiness> Task<R> {
    pub(super) fn new(
        config: CniConfig,
        readiness: R,
        contained: bool,
        status: watch::Sender<CniStatus>,
    ) -> Self {
        Self {
            config,
            readiness,
            contained,
            status,
            passed: false,
            underlay: Underlay::default(),
            links: Watch::open().map_err(|error| format!("{error:#}")),
            directory: DirectoryWatch::new(),
            sysctls: PathBuf::from("/proc/sys/net"),
        }
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let status = self.look().await;
            let wait = match &status {
                _ if !self.config.enabled => None,
                status if status.waiting.is_some() => Some(SOON),
                status if !status.problems.is_empty() => Some(WRONG),
                _ => Some(AUDIT),
            };
            self.report(status);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = links_changed(&mut self.links, &self.underlay, &self.config.addresses),
                    if self.config.enabled => continue,
                () = self.directory.changed(), if self.config.enabled => continue,
                () = pause(wait) => continue,
            };
            match command {
                Some(Command::Apply(config)) => self.config = config,
                Some(Command::Stop { withdraw, done }) => {
                    if withdraw && self.config.enabled {
                        self.withdraw();
                    }
                    let _ = done.send(());
                    return;
                }
                // Every handle is gone.
                None => return,
            }
        }
    }

    /// Makes the file what it should be, as far as that is possible now.
    async fn look(&mut self) -> CniStatus {
        let mut status = CniStatus::default();
        if !self.config.enabled {
            return status;
        }
        self.directory.watch(&self.config.conf_dir);
        if self.config.pod_cidrs.is_empty() {
            status.waiting = Some("the node has no pod CIDR yet".to_owned());
            return status;
        }
        for name in file::before(&self.config.conf_dir) {
            status.problems.push(format!(
                "{} sorts before {}, so the runtime makes pods by that and not by ours: remove it",
                self.config.conf_dir.join(name).display(),
                file::FILE_NAME
            ));
        }
        let missing = plugins::missing(
            &self.config.bin_dirs,
            &conflist::plugins(&self.config),
            self.contained,
        );
        let mtu = self.mtu(&mut status).await;
        let text = mtu.and_then(|mtu| {
            status.mtu = Some(mtu);
            conflist::document(&self.config, mtu)
        });
        let text = match (text, missing) {
            (Ok(text), None) => text,
            (text, missing) => {
                status.problems.extend(text.err().into_iter().chain(missing));
                return status;
            }
        };
        if !self.passed {
            status.waiting = match self.readiness.pending().await {
                Some(pending) => Some(pending),
                None => not_forwarding(&self.sysctls, &self.config),
            };
            if status.waiting.is_some() {
                return status;
            }
            self.passed = true;
        }
        self.write(&text, &mut status);
        status
    }

    /// The MTU of pods: what is configured, or what fits.
    async fn mtu(&mut self, status: &mut CniStatus) -> Result<u32, String> {
        let found = match &self.links {
            Ok(links) => links
                .look(&self.config.addresses, &self.config.towards)
                .await
                .map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.clone()),
        };
        let fits = match found {
            Ok(underlay) => {
                self.underlay = underlay;
                self.underlay.mtu().map(|mtu| {
                    let inside = mtu.saturating_sub(self.config.overhead);
                    self.config.tunnel_mtu.map_or(inside, |tunnel| tunnel.min(inside))
                })
            }
            Err(error) if self.config.mtu.is_none() => {
                return Err(format!("the MTU of pods is not known: {error}"));
            }
            Err(_) => None,
        };
        let mtu = self.config.mtu.or(fits).ok_or("the MTU of pods is not known")?;
        if let Some(fits) = fits.filter(|fits| *fits < mtu) {
            status.problems.push(format!(
                "cni.mtu is {mtu} and {fits} is what fits between the nodes: full packets of pods \
                 are lost or fragmented; leave cni.mtu out"
            ));
        }
        Ok(mtu)
    }

    fn write(&mut self, text: &str, status: &mut CniStatus) {
        let (directory, mtu) = (&self.config.conf_dir, status.mtu);
        // Watched before the file is in it, so that nothing that happens to it falls between.
        if !directory.is_dir() && std::fs::create_dir_all(directory).is_ok() {
            self.directory.watch(directory);
        }
        match file::put(directory, text) {
            Ok(put) => {
                status.written = true;
                let file = file::path(directory);
                match put {
                    Put::Same => {}
                    Put::Created => {
                        tracing::info!(file = %file.display(), mtu, "CNI configuration written");
                    }
                    Put::Replaced => tracing::info!(
                        file = %file.display(),
                        mtu,
                        "CNI configuration replaced; pods that run keep what they have"
                    ),
                }
            }
            Err(error) => status.problems.push(format!(
                "cannot write {}: {error}; in a container, mount the host's {} there",
                file::path(directory).display(),
                directory.display()
            )),
        }
    }

    fn withdraw(&self) {
        let file = file::path(&self.config.conf_dir);
        match file::remove(&self.config.conf_dir) {
            Ok(true) => tracing::info!(file = %file.display(), "CNI configuration removed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "CNI configuration not removed");
            }
        }
    }

    /// Says what is new.
    fn report(&self, status: CniStatus) {
        let before = self.status.borrow().clone();
        for problem in status.problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::warn!("CNI: {problem}");
        }
        if let Some(waiting) = &status.waiting
            && before.waiting.as_ref() != Some(waiting)
        {
            tracing::info!(reason = %waiting, "the CNI configuration waits");
        }
        if status != before {
            self.status.send_replace(status);
        }
    }
}

/// Which family of pods is not forwarded, in words.
fn not_forwarding(sysctls: &Path, config: &CniConfig) -> Option<String> {
    let settings = [
        (true, "IPv4", "ipv4/ip_forward", "net.ipv4.ip_forward"),
        (false, "IPv6", "ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    settings.into_iter().find_map(|(ipv4, family, path, name)| {
        let used = config.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ipv4);
        let on = || std::fs::read_to_string(sysctls.join(path)).is_ok_and(|is| is.trim() != "0");
        (used && !on()).then(|| {
            format!(
                "{family} forwarding is off or cannot be seen: run `sysctl -w {name}=1` on the host"
            )
        })
    })
}

async fn links_changed(
    links: &mut Result<Watch, String>,
    underlay: &Underlay,
    addresses: &[IpAddr],
) {
    match links {
        Ok(links) => links.changed(underlay, addresses).await,
        Err(_) => std::future::pending().await,
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Notices what happens in a directory.
struct DirectoryWatch {
    /// `None`: no inotify; the slow look has to do.
    events: Option<RecommendedWatcher>,
    signal: Arc<Notify>,
    watched: Option<PathBuf>,
}

impl DirectoryWatch {
    fn new() -> Self {
        let signal = Arc::new(Notify::new());
        let wake = signal.clone();
        let events = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Reading the files is an event as well.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                wake.notify_one();
            }
        });
        Self { events: events.ok(), signal, watched: None }
    }

    /// Watches this one from now on; one that is not there is tried again at the next call.
    fn watch(&mut self, directory: &Path) {
        let Some(events) = &mut self.events else { return };
        if let Some(other) = self.watched.take_if(|watched| watched != directory) {
            let _ = events.unwatch(&other);
        }
        // Again, where it is watched already: it may be a new one of the same name.
        if events.watch(directory, RecursiveMode::NonRecursive).is_ok() {
            self.watched = Some(directory.to_owned());
        }
    }

    /// Completes when something has happened and it is quiet again; may be dropped at any time.
    async fn changed(&self) {
        self.signal.notified().await;
        while tokio::time::timeout(QUIET, self.signal.notified()).await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::FILE_NAME;
    use super::*;

    struct Kernel(Arc<AtomicBool>);

    impl Readiness for Kernel {
        async fn pending(&self) -> Option<String> {
            (!self.0.load(Ordering::Relaxed)).then(|| "the kernel".to_owned())
        }
    }

    struct Stage {
        root: tempfile::TempDir,
        synced: Arc<AtomicBool>,
        task: Task<Kernel>,
    }

    impl Stage {
        /// A node whose address is that of the loopback: `cni.mtu` is configured.
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for folder in ["bin", "net/ipv4"] {
                std::fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            std::fs::write(root.path().join("net/ipv4/ip_forward"), "0\n").unwrap();
            let config = CniConfig {
                enabled: true,
                conf_dir: root.path().join("net.d"),
                bin_dirs: vec![root.path().join("bin")],
                mtu: Some(1400),
                pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
                addresses: vec!["192.0.2.77".parse().unwrap()],
                ..CniConfig::default()
            };
            let synced = Arc::new(AtomicBool::new(false));
            let status = watch::Sender::new(CniStatus::default());
            let mut task = Task::new(config, Kernel(synced.clone()), false, status);
            task.sysctls = root.path().join("net");
            Self { root, synced, task }
        }

        fn install(&self) {
            use std::os::unix::fs::PermissionsExt;
            for name in ["ptp", "host-local", "portmap"] {
                let path = self.root.path().join("bin").join(name);
                std::fs::write(&path, "").unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }

        fn forward(&self, on: &str) {
            std::fs::write(self.root.path().join("net/ipv4/ip_forward"), on).unwrap();
        }

        fn file(&self) -> PathBuf {
            self.root.path().join("net.d").join(FILE_NAME)
        }
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_node_forwards() {
        let mut stage = Stage::new();
        stage.install();
        let status = stage.task.look().await;
        assert_eq!(status.waiting.as_deref(), Some("the kernel"));
        stage.synced.store(true, Ordering::Relaxed);
        let status = stage.task.look().await;
        assert!(status.waiting.unwrap().contains("net.ipv4.ip_forward"));
        assert!(!stage.file().exists());
        stage.forward("1\n");
        let status = stage.task.look().await;
        assert!(status.written && status.waiting.is_none() && status.problems.is_empty());
        assert!(stage.file().exists());
        // What is there stays there.
        stage.forward("0\n");
        stage.synced.store(false, Ordering::Relaxed);
        assert!(stage.task.look().await.written);
    }

    #[tokio::test]
    async fn missing_plugins_are_named_and_nothing_is_written() {
        let mut stage = Stage::new();
        stage.forward("1\n");
        stage.synced.store(true, Ordering::Relaxed);
        let status = stage.task.look().await;
        let words = &status.problems[0];
        assert!(words.contains("ptp, host-local, portmap are not in"), "{words}");
        assert!(!status.written && !stage.file().exists());
        stage.install();
        assert!(stage.task.look().await.written);
    }

    #[tokio::test]
    async fn an_address_that_is_not_here_leaves_the_mtu_unknown() {
        let mut stage = Stage::new();
        stage.install();
        stage.task.config.mtu = None;
        let status = stage.task.look().await;
        assert!(status.problems[0].contains("192.0.2.77"), "{:?}", status.problems);
    }

    #[tokio::test]
    async fn a_file_that_comes_first_is_reported_and_left() {
        let mut stage = Stage::new();
        stage.install();
        stage.forward("1\n");
        stage.synced.store(true, Ordering::Relaxed);
        let other = stage.root.path().join("net.d/00-other.conflist");
        std::fs::create_dir_all(other.parent().unwrap()).unwrap();
        std::fs::write(&other, "theirs").unwrap();
        let status = stage.task.look().await;
        assert!(status.written);
        assert!(status.problems[0].contains("00-other.conflist sorts before"), "{status:?}");
        assert_eq!(std::fs::read_to_string(other).unwrap(), "theirs");
    }

    #[tokio::test]
    async fn a_file_that_somebody_removes_comes_back() {
        let stage = Stage::new();
        stage.install();
        stage.forward("1\n");
        stage.synced.store(true, Ordering::Relaxed);
        let file = stage.file();
        let (commands, receiver) = mpsc::channel(1);
        let Stage { root, task, .. } = stage;
        let running = tokio::spawn(task.run(receiver));
        for _ in 0..2 {
            let there = async {
                while !file.exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), there).await.unwrap();
            std::fs::remove_file(&file).unwrap();
        }
        let (done, finished) = oneshot::channel();
        commands.send(Command::Stop { withdraw: true, done }).await.unwrap();
        finished.await.unwrap();
        running.await.unwrap();
        assert!(!file.exists());
        drop(root);
    }
}

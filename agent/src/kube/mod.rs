//! Kubernetes: objects and Nodes become the same validated configuration as a file does, and the
//! agent's state goes back.
//!
//! ```text
//!  API server ─► watch.rs ─► source.rs (Store) ──► translate/ ─► Config ─► the daemon
//!       ▲                        │      ▲                │
//!       │                        ▼      │                ▼
//!       └──────── status.rs ◄─ State   disk.rs (last good objects, Secrets)
//! ```
//!
//! In flow: Nodes, the kinds of [`crd`], the Secrets that peers name, Services and their endpoints where
//! their addresses are advertised. Out flow: a
//! [`state::State`] with the configuration that should run, BGPNodeStatus, conditions and Events.
//!
//! What always holds: the API server's absence, slowness or loss of memory changes nothing that runs;
//! one wrong object is refused alone; nothing is asked for that is not used.

use std::time::Duration;

use kube::{Client, Config};

pub mod address;
pub mod crd;
pub mod disk;
pub mod objects;
mod ready;
pub mod secrets;
pub mod selector;
mod service_watch;
pub mod services;
mod slim;
pub mod source;
pub mod state;
pub mod status;
mod store;
pub mod translate;
pub mod watch;

/// A client of the cluster that this process runs in, or else that of the kubeconfig, and the
/// namespace of its credentials.
///
/// # Errors
/// There are no credentials, or they cannot be read, in words.
pub async fn connect(pace: watch::Pace) -> Result<(Client, String), String> {
    let config = Config::infer().await.map_err(|error| watch::chain(&error))?;
    let namespace = config.default_namespace.clone();
    Ok((client(config, pace)?, namespace))
}

/// A client that tells failures at once and gives up on answers that never begin.
///
/// # Errors
/// Credentials that cannot be used, in words.
pub fn client(mut config: Config, pace: watch::Pace) -> Result<Client, String> {
    // A watch is silent as long as it is kept open, and not longer.
    config.read_timeout = Some(pace.watch + Duration::from_secs(15));
    config.reset_reader_on_write = true;
    // The watches and the reports wait by themselves, and say why meanwhile.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| watch::chain(&error))
}

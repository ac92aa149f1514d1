//! The Kubernetes side of an agent without its daemon, against [`crate::fakeapi`].
//!
//! In flow: a server, and how fast things go. Out flow: the [`State`]s that a daemon would get, as soon
//! as they are what a test waits for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use routelet::kube::address::{Host, HostAddress};
use routelet::kube::source::{self, Options, Timing};
use routelet::kube::state::State;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::fakeapi::FakeApi;

/// Longest that a test waits for a state, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that has these addresses: interface and network.
#[derive(Clone, Copy, Debug)]
pub struct FakeHost(pub &'static [(&'static str, &'static str)]);

impl Host for FakeHost {
    fn addresses(&self) -> Vec<HostAddress> {
        let address = |(interface, net): &(&str, &str)| HostAddress {
            interface: (*interface).to_owned(),
            net: net.parse().expect("net"),
        };
        self.0.iter().map(address).collect()
    }

    fn source_towards(&self, _: IpAddr) -> Option<IpAddr> {
        None
    }
}

/// What the agent of `node` is started with, on a host with the address of node-a.
///
/// # Panics
/// If there is no client for the server.
#[must_use]
pub fn options(api: &FakeApi, node: &str, state_dir: &Path, timing: Timing) -> Options {
    let config = kube::Config::new(api.url().parse().expect("url"));
    Options {
        client: routelet::kube::client(config, timing.pace).expect("client"),
        node: node.to_owned(),
        namespace: "kube-system".to_owned(),
        state_dir: state_dir.to_owned(),
        host: Arc::new(FakeHost(&[("eth0", "172.30.1.11/24")])),
        timing,
    }
}

/// The running Kubernetes side of node-a.
#[derive(Debug)]
pub struct KubeSide {
    /// What it says.
    pub states: watch::Receiver<State>,
}

impl KubeSide {
    /// Starts it.
    ///
    /// # Panics
    /// If there is no client for the server.
    #[must_use]
    pub fn start(api: &FakeApi, state_dir: &Path, timing: Timing) -> Self {
        let options = options(api, "node-a", state_dir, timing);
        Self { states: source::start(options, None).expect("no file, no mistakes") }
    }

    /// Waits for a state that `holds`.
    ///
    /// # Panics
    /// If there is none for a minute.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        let found = timeout(PATIENCE, self.states.wait_for(holds)).await;
        let found = found.map(|state| state.expect("the source runs").clone());
        match found {
            Ok(state) => state,
            Err(_) => panic!("never: {what}; the state is {:#?}", *self.states.borrow()),
        }
    }

    /// Waits for exactly these peers.
    ///
    /// # Panics
    /// If there are others for a minute.
    pub async fn peers(&mut self, names: &[&str]) -> State {
        let wanted: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.until(&format!("the peers {names:?}"), |state| peers(state) == wanted).await
    }

    /// Nothing that runs may change for a while.
    ///
    /// # Panics
    /// If it does.
    pub async fn stays(&mut self, before: &State) {
        sleep(Duration::from_millis(1500)).await;
        let now = self.states.borrow();
        assert_eq!(now.generation, before.generation, "{:#?}", *now);
        assert_eq!(now.config, before.config);
    }
}

/// Names of the peers that a state has.
#[must_use]
pub fn peers(state: &State) -> BTreeSet<String> {
    let peers = state.config.iter().flat_map(|config| &config.speaker.peers);
    peers.map(|peer| peer.name.to_string()).collect()
}

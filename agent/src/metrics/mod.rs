//! Metrics and probes: plain HTTP for Prometheus and for the kubelet, on one address.
//!
//! ```text
//!  GET /metrics ─► Subject ─► Backend (peers, kernel, snapshot) ─► Sample ─► OpenMetrics text
//!  GET /livez, /readyz, /healthz ─► Subject ─► health ─► 200, or 503 with what is missing
//! ```
//!
//! In flow: where to listen ([`Control::listen`]), what to look at ([`Subject`]), requests. Out flow:
//! texts, and a problem in words when the address cannot be bound.
//!
//! What always holds: nothing is counted here; everything is read from the owners' snapshots when
//! somebody asks, and the labels are peers, families and kinds, never prefixes; an address that cannot
//! be bound costs the metrics and nothing else, and is tried again; strangers can hold a few
//! connections for a few seconds, not more, and change nothing.

mod collect;
mod http;
mod probe;
mod process;
pub mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::Backend;
use crate::config::metrics::Listen;

/// Between two attempts to bind an address.
const AGAIN: Duration = Duration::from_secs(5);

/// What is looked at: the daemon, or why there is none yet.
pub struct Subject<B> {
    daemon: watch::Sender<Option<Arc<B>>>,
    waiting: watch::Sender<Vec<String>>,
    began: jiff::Timestamp,
}

impl<B: Backend> Subject<B> {
    /// From now on this daemon is what is looked at.
    pub fn set(&self, daemon: Arc<B>) {
        self.daemon.send_replace(Some(daemon));
    }

    /// Until there is a daemon this is what it waits for, in words.
    pub fn waits_for(&self, pending: Vec<String>) {
        self.waiting.send_replace(pending);
    }

    fn daemon(&self) -> Option<Arc<B>> {
        self.daemon.borrow().clone()
    }

    fn waiting(&self) -> Vec<String> {
        self.waiting.borrow().clone()
    }
}

/// The running server; it ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Control {
    listen: watch::Sender<Listen>,
    problem: watch::Receiver<Option<String>>,
    /// The command line has decided, and a configuration changes nothing.
    fixed: bool,
}

impl Control {
    /// Listens there from now on, unless the command line says where.
    pub fn listen(&self, listen: Listen) {
        if self.fixed {
            return;
        }
        self.listen.send_if_modified(|now| {
            let differs = *now != listen;
            *now = listen;
            differs
        });
    }

    /// Why nobody can be served, in words with the fix.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

/// Starts the server. `fixed` is what the command line says; without it, nothing is served until
/// [`Control::listen`] says where.
#[must_use]
pub fn start<B: Backend>(fixed: Option<Listen>) -> (Control, Arc<Subject<B>>) {
    let subject = Arc::new(Subject {
        daemon: watch::Sender::new(None),
        waiting: watch::Sender::new(vec!["the first configuration".to_owned()]),
        began: jiff::Timestamp::now(),
    });
    let listen = watch::Sender::new(fixed.flatten());
    let problem = watch::Sender::new(None);
    let control =
        Control { problem: problem.subscribe(), fixed: fixed.is_some(), listen: listen.clone() };
    tokio::spawn(serve(listen.subscribe(), problem, subject.clone()));
    (control, subject)
}

/// Serves wherever `listen` says, until its sender is gone.
async fn serve<B: Backend>(
    mut listen: watch::Receiver<Listen>,
    problem: watch::Sender<Option<String>>,
    subject: Arc<Subject<B>>,
) {
    loop {
        let wanted = *listen.borrow_and_update();
        let serving = async {
            let Some(address) = wanted else {
                problem.send_replace(None);
                return std::future::pending().await;
            };
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => {
                        tracing::info!(%address, "serving metrics and probes");
                        problem.send_replace(None);
                        http::serve(listener, &subject).await;
                    }
                    Err(error) => {
                        let words = format!(
                            "cannot listen on {address} for metrics and probes: {error}; change \
                             metrics.listen (tried again every {} s)",
                            AGAIN.as_secs()
                        );
                        if problem.borrow().as_ref() != Some(&words) {
                            tracing::warn!("{words}");
                            problem.send_replace(Some(words));
                        }
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = serving => {}
            changed = listen.changed() => if changed.is_err() { return },
        }
    }
}

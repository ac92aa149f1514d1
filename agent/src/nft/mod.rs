//! The firewall: one nf_tables table of our own, and rules of ours in chains of others that drop.
//!
//! In flow: [`FirewallConfig`], notifications of nf_tables. Out flow: transactions that replace our
//! table whole, [`FirewallStatus`] for the CLI.
//!
//! What always holds: the table `inet routelet` belongs to us and nothing else does, but for rules
//! whose comment begins with `routelet: `; the rules outlive the process; a kernel that lacks a part
//! loses that part, says so, and nothing else stops working.
//!
//! ```text
//!  FirewallConfig ─► ruleset (Table as data) ─► table, expression, wire (octets) ─► socket ─► kernel
//!  monitor ─► manager (one task) ─► engine ─┘                                          │
//!  chains of others at the forward hook ─► forward (Plan) ─► socket                    ▼
//!                                                               guard, natOutgoing, service ranges
//! ```
//!
//! Four things are done, each where the configuration asks for it: the *guard* lets only known nodes
//! send us tunnel packets, and pods none; *natOutgoing* gives what leaves the pools the node's address;
//! packets to *service addresses* that are nobody's are dropped; and pod traffic passes *chains of
//! others* that drop by default.

mod engine;
mod expression;
mod forward;
mod manager;
mod monitor;
mod ruleset;
mod socket;
mod table;
mod wire;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use self::ruleset::{Claim, FirewallConfig, ForwardAccept, Services, Tunnels};
pub use self::table::TABLE;

use self::engine::Engine;
use self::manager::{Command, Manager};

/// What `routelet status` says about the firewall, each part in words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FirewallStatus {
    /// Who may send us tunnel packets.
    pub guard: String,
    /// Source NAT for packets that leave the pools.
    pub nat: String,
    /// Service addresses that are nobody's.
    pub services: String,
    /// Chains of others that drop what is forwarded.
    pub forward: String,
    /// How often our rules were put back because others had changed them, since start.
    pub repaired: u64,
    /// Problems in words, each with its fix.
    pub problems: Vec<String>,
}

/// The handle to the running firewall; clones talk to the same one. When the last is dropped, the
/// rules stay as they are.
#[derive(Clone, Debug)]
pub struct FirewallHandle {
    /// `None`: not enabled.
    commands: Option<mpsc::Sender<Command>>,
    _task: Option<Arc<Task>>,
}

impl FirewallHandle {
    /// Puts our table in place, looks at the chains of others, and watches both. What the kernel
    /// cannot do is logged and told by [`FirewallHandle::status`].
    pub async fn start(config: FirewallConfig) -> Self {
        if !config.enabled {
            return Self { commands: None, _task: None };
        }
        let engine = Engine::open(config);
        let (commands, commands_out) = mpsc::channel(16);
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(Manager::new(engine, commands_out).run(ready));
        // What must be guarded is not begun before the guard stands.
        let _ = is_ready.await;
        Self { commands: Some(commands), _task: Some(Arc::new(Task(task.abort_handle()))) }
    }

    /// Takes a new configuration; returns when it is in the kernel. `enabled` takes effect at the next
    /// start only.
    pub async fn apply(&self, config: FirewallConfig) {
        self.ask(|done| Command::Apply(Box::new(config), done)).await;
    }

    /// For `routelet status`.
    pub async fn status(&self) -> FirewallStatus {
        self.ask(Command::Status).await.unwrap_or_else(|| {
            let off = || "not managed".to_owned();
            FirewallStatus {
                guard: off(),
                nat: off(),
                services: off(),
                forward: off(),
                ..FirewallStatus::default()
            }
        })
    }

    /// Stops. Rules stay, unless `withdraw`: then everything of ours is removed.
    pub async fn stop(&self, withdraw: bool) {
        self.ask(|done| Command::Stop { withdraw, done }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.as_ref()?.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[derive(Debug)]
struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

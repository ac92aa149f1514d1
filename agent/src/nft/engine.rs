//! The firewall in the kernel: puts it there, compares, takes it away. Blocking.
//!
//! In flow: a configuration, and when to look. Out flow: transactions; what is there and what is not,
//! in words.
//!
//! What always holds: a transaction that the kernel refuses leaves things as they were; the parts of
//! our table that a kernel can do are there although others are not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::FirewallStatus;
use super::forward::ForeignChain;
use super::monitor::ChainName;
use super::ruleset::{self, FirewallConfig, ForwardAccept, Part};
use super::socket::{NftSocket, is_missing};
use super::table::{self, Message};
use super::wire;
use crate::netlink::RequestError;
use crate::netlink::wire::{NLM_F_APPEND, NLM_F_REQUEST};

/// See the module.
pub(super) struct Engine {
    /// Why there is none: no nf_tables here.
    socket: Result<NftSocket, String>,
    config: FirewallConfig,
    /// Parts that are in the kernel.
    parts: Vec<Part>,
    /// Parts that are not, and why.
    unavailable: BTreeMap<Part, String>,
    /// Something was refused for a reason that may pass: no memory, somebody else's transaction.
    passing: bool,
    /// Handles of our rules when the table was put there.
    fingerprint: Vec<u64>,
    /// Chains of others at the forward hook.
    chains: BTreeSet<ForeignChain>,
    /// Of those, where our rules stand.
    accepted_in: Vec<String>,
    forward_problems: Vec<String>,
    repaired: u64,
    /// Who changed our table, where it is not put back.
    changed_by: Option<String>,
}

impl Engine {
    /// Opens nf_tables in the network namespace of the calling thread; changes nothing yet.
    pub(super) fn open(config: FirewallConfig) -> Self {
        let socket = NftSocket::open().map_err(|error| no_socket(&error));
        Self {
            socket,
            config,
            parts: Vec::new(),
            unavailable: BTreeMap::new(),
            passing: false,
            fingerprint: Vec::new(),
            chains: BTreeSet::new(),
            accepted_in: Vec::new(),
            forward_problems: Vec::new(),
            repaired: 0,
            changed_by: None,
        }
    }

    /// The netlink port of what it does; `None`: there is no nf_tables here.
    pub(super) fn port(&self) -> Option<u32> {
        self.socket.as_ref().ok().map(NftSocket::port)
    }

    /// The chains whose rules matter.
    pub(super) fn watched(&self) -> BTreeSet<ChainName> {
        let name = |chain: &ForeignChain| (chain.family, chain.table.clone(), chain.name.clone());
        self.chains.iter().map(name).collect()
    }

    pub(super) fn config(&self) -> &FirewallConfig {
        &self.config
    }

    /// Takes a new configuration and makes it true.
    pub(super) fn apply(&mut self, config: FirewallConfig) {
        let enabled = self.config.enabled;
        self.config = FirewallConfig { enabled, ..config };
        self.put_table();
        self.sync_forward();
    }

    /// Puts our table there as the configuration has it, in place of whatever was there.
    pub(super) fn put_table(&mut self) {
        self.changed_by = None;
        self.passing = false;
        self.unavailable.clear();
        let wanted: Vec<Part> =
            Part::ALL.into_iter().filter(|part| self.config.wants(*part)).collect();
        let socket = match &mut self.socket {
            Ok(socket) => socket,
            Err(why) => {
                self.unavailable.extend(wanted.iter().map(|part| (*part, why.clone())));
                return;
            }
        };
        let config = &self.config;
        let mut put = |parts: &[Part]| match ruleset::table(config, parts) {
            Some(table) => socket.transaction(&table::replace(Some(&table))),
            // What is not there is left alone: a transaction tells every listener.
            None => match socket.has_table() {
                Ok(false) => Ok(()),
                Ok(true) => socket.transaction(&table::replace(None)),
                Err(error) if is_missing(&error) && parts.is_empty() => Ok(()),
                Err(error) => Err(error),
            },
        };
        self.parts.clear();
        match put(&wanted) {
            Ok(()) => self.parts = wanted,
            // Part by part: what one lacks must not cost the others.
            Err(first) => {
                for part in wanted {
                    let mut parts = self.parts.clone();
                    parts.push(part);
                    match put(&parts) {
                        Ok(()) => self.parts = parts,
                        Err(error) => {
                            self.passing |= !is_missing(&error);
                            self.unavailable.insert(part, words(part, &error));
                        }
                    }
                }
                if self.parts.is_empty() && self.unavailable.is_empty() {
                    self.passing = true;
                    tracing::warn!(error = %first, "our firewall table cannot be removed");
                }
            }
        }
        for (part, why) in &self.unavailable {
            tracing::warn!("{}", unavailable(*part, why));
        }
        self.fingerprint = self.read_fingerprint().unwrap_or_default();
    }

    /// Whether [`Engine::put_table`] is worth another try although nothing has changed.
    pub(super) fn wants_retry(&self) -> bool {
        self.passing
    }

    /// Somebody has changed our table: puts it back, if that is wanted.
    pub(super) fn repair_table(&mut self, by: Option<&str>) {
        let by = by.unwrap_or("somebody");
        if !self.config.repair {
            if self.changed_by.is_none() {
                tracing::warn!(by, "our firewall table was changed; kernel.repair is false");
            }
            self.changed_by = Some(by.to_owned());
            return;
        }
        tracing::warn!(by, "our firewall table was changed or removed; it is put back");
        self.repaired += 1;
        self.put_table();
    }

    /// Whether our table is as it was put there, as far as the rules' handles tell.
    pub(super) fn is_intact(&mut self) -> bool {
        self.read_fingerprint().is_none_or(|found| found == self.fingerprint)
    }

    fn read_fingerprint(&mut self) -> Option<Vec<u64>> {
        self.socket.as_mut().ok()?.fingerprint().ok()
    }

    /// Looks at the chains of others at the forward hook and does what is to be done about them.
    pub(super) fn sync_forward(&mut self) {
        let had = std::mem::take(&mut self.accepted_in);
        let Ok(socket) = &mut self.socket else { return };
        let chains = match socket.forward_chains() {
            Ok(chains) => chains,
            Err(error) => {
                self.chains.clear();
                // Without nf_tables there are no such chains.
                self.forward_problems = if is_missing(&error) {
                    Vec::new()
                } else {
                    vec![format!(
                        "chains of others that drop what is forwarded cannot be looked for: {error}"
                    )]
                };
                return;
            }
        };
        let mut problems = Vec::new();
        for chain in &chains {
            match sync_chain(socket, chain, &self.config) {
                Ok(Kept::Nothing) => {}
                Ok(Kept::Accepted { anew }) => {
                    let words = format!("`{}`", chain.words());
                    if anew {
                        let again = had.contains(&words);
                        self.repaired += u64::from(again);
                        tracing::info!(
                            chain = chain.words(),
                            again,
                            "the chain drops what is forwarded by default; rules that accept pod traffic were added"
                        );
                    }
                    self.accepted_in.push(words);
                }
                Ok(Kept::Refused) => problems.push(chain.problem(&self.config, None)),
                // It is gone by now; a notification says so.
                Err(RequestError::Kernel(error)) if error.errno == libc::ENOENT => {}
                Err(error) => {
                    problems.push(chain.problem(&self.config, Some(&error.to_string())));
                }
            }
        }
        for problem in problems.iter().filter(|problem| !self.forward_problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.forward_problems = problems;
        self.chains = chains.into_iter().collect();
    }

    /// Takes everything of ours away.
    pub(super) fn withdraw(&mut self) {
        self.config =
            FirewallConfig { enabled: true, repair: self.config.repair, ..Default::default() };
        self.put_table();
        self.sync_forward();
    }

    /// What is there, in words.
    pub(super) fn status(&self) -> FirewallStatus {
        let config = &self.config;
        let mut problems: Vec<String> =
            self.unavailable.iter().map(|(part, why)| unavailable(*part, why)).collect();
        problems.extend(self.forward_problems.iter().cloned());
        if let Some(by) = &self.changed_by {
            problems.push(format!(
                "our firewall table (`nft list table inet {}`) was changed by {by}, and \
                 kernel.repair is false: it is put back at the next start",
                table::TABLE
            ));
        }
        let part = |part, on: String, off: &str| {
            if self.unavailable.contains_key(&part) {
                return "unavailable".to_owned();
            }
            if self.parts.contains(&part) { on } else { off.to_owned() }
        };
        let guard_off =
            if config.guard { "no pool asks for tunnels" } else { "off (tunnels.guard is false)" };
        FirewallStatus {
            guard: part(Part::Guard, guard_words(config), guard_off),
            nat: part(Part::Nat, format!("for {}", join(&config.nat)), "no pool asks for it"),
            services: part(
                Part::Services,
                format!("unclaimed ones of {} are dropped", join(&config.services.ranges)),
                "no ranges are advertised",
            ),
            forward: self.forward_words(),
            repaired: self.repaired,
            problems,
        }
    }

    fn forward_words(&self) -> String {
        let words = self.nf_tables_words();
        // Its rules can be read by its own socket options only.
        let legacy = ["ip_tables_names", "ip6_tables_names"].into_iter().any(|name| {
            std::fs::read_to_string(format!("/proc/thread-self/net/{name}"))
                .is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
        });
        if legacy {
            return format!(
                "{words}; what the legacy iptables drop cannot be seen from here: \
                 `iptables-legacy -S FORWARD`"
            );
        }
        words
    }

    fn nf_tables_words(&self) -> String {
        if !self.accepted_in.is_empty() {
            return format!("pod traffic is accepted in {}", self.accepted_in.join(", "));
        }
        if self.forward_problems.is_empty() {
            "no chain drops pod traffic by default".to_owned()
        } else {
            "pod traffic is dropped".to_owned()
        }
    }
}

/// What there is in a chain of others now.
enum Kept {
    Nothing,
    Accepted {
        anew: bool,
    },
    /// It drops, and nothing is to be done about it.
    Refused,
}

fn sync_chain(
    socket: &mut NftSocket,
    chain: &ForeignChain,
    config: &FirewallConfig,
) -> Result<Kept, RequestError> {
    let place = chain.place();
    let rules = socket.rules(place)?;
    let plan = chain.plan(&rules, config);
    let mut batch: Vec<Message<'_>> = Vec::new();
    for handle in &plan.remove {
        batch.push(Box::new(move |out, sequence, flags| {
            let kind = wire::kind(wire::NFT_MSG_DELRULE);
            wire::message(out, (kind, flags | NLM_F_REQUEST, sequence), place.family, |out| {
                wire::text(out, wire::NFTA_TABLE, place.table);
                wire::text(out, wire::NFTA_RULE_CHAIN, place.chain);
                out.attribute(wire::NFTA_RULE_HANDLE, &handle.to_be_bytes());
            });
        }));
    }
    for rule in &plan.add {
        batch.push(Box::new(move |out, sequence, flags| {
            let last = if plan.before.is_none() { NLM_F_APPEND } else { 0 };
            rule.write(out, sequence, flags | last, place, plan.before);
        }));
    }
    socket.transaction(&batch)?;
    Ok(match (plan.drops, config.forward_accept) {
        (false, _) => Kept::Nothing,
        (true, ForwardAccept::Never) => Kept::Refused,
        (true, ForwardAccept::Auto) => Kept::Accepted { anew: !plan.add.is_empty() },
    })
}

fn no_socket(error: &io::Error) -> String {
    format!("the kernel has no nf_tables ({error}): load the module nf_tables")
}

/// Why a part is not there.
fn words(part: Part, error: &RequestError) -> String {
    let modules = match part {
        Part::Guard | Part::Services => "nf_tables with its family inet",
        Part::Nat => "nf_tables with nft_chain_nat and nft_masq",
    };
    if is_missing(error) {
        format!("the kernel refuses it ({error}): it takes {modules}")
    } else {
        error.to_string()
    }
}

fn unavailable(part: Part, why: &str) -> String {
    match part {
        Part::Guard => format!(
            "the tunnel guard is unavailable, so anybody who reaches this node may send it tunnel \
             packets: {why}"
        ),
        Part::Services => format!(
            "packets to service addresses that no service claims cannot be dropped and may loop: \
             {why}"
        ),
        Part::Nat => format!(
            "natOutgoing is unavailable, so packets of pods leave the pools with the pods' \
             addresses: {why}"
        ),
    }
}

fn guard_words(config: &FirewallConfig) -> String {
    let ipip = config.tunnels.ipip.then(|| "IP-in-IP".to_owned());
    let vxlan =
        config.tunnels.vxlan.map(|(port, vni)| format!("VXLAN (port {port}, network {vni})"));
    let tunnels: Vec<String> = ipip.into_iter().chain(vxlan).collect();
    format!("{} from known nodes only", tunnels.join(" and "))
}

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

//! A blocking nf_tables socket: transactions and dumps.
//!
//! In flow: batches, questions. Out flow: whether the kernel did all of a batch, or what it refused.
//!
//! What always holds: a batch is done whole or not at all; answers are told apart by their sequence
//! numbers.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::forward::{ForeignChain, ForeignRule};
use super::table::{Message, Place, TABLE, read_comment};
use super::wire;
use crate::netlink::wire::{
    MessageWriter, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR, acknowledgement, attributes,
};
use crate::netlink::{RequestError, RequestSocket};

/// Octets that may wait to be sent: a batch goes in one piece.
const SEND_BUFFER: usize = 8 << 20;
/// A table is replaced in milliseconds; the kernel may have to load modules first.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The socket; see the module.
pub(super) struct NftSocket {
    requests: RequestSocket,
}

impl NftSocket {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let requests = RequestSocket::open(NETLINK_NETFILTER, TIMEOUT)?;
        requests.set_send_buffer(SEND_BUFFER);
        Ok(Self { requests })
    }

    /// The netlink port that notifications caused by this socket carry.
    pub(super) fn port(&self) -> u32 {
        self.requests.port()
    }

    /// Does all of a batch.
    pub(super) fn transaction(&mut self, batch: &[Message<'_>]) -> Result<(), RequestError> {
        let count = batch.len();
        if count == 0 {
            return Ok(());
        }
        // The messages have the indexes 1 to `count`, between the two marks.
        self.requests.send(count + 2, |index, out, sequence| {
            if index == 0 || index > count {
                return wire::batch_mark(out, index == 0, sequence);
            }
            batch[index - 1](out, sequence, if index == count { NLM_F_ACK } else { 0 });
        })?;
        let mut failure = None;
        self.requests.answers(|index, header, payload| {
            if header.kind != NLMSG_ERROR || index > count {
                return None;
            }
            // The first refusal is the cause of those behind it.
            failure = failure.take().or_else(|| acknowledgement(header, payload));
            let whole = index == 0 && failure.is_some();
            (index == count || whole).then_some(())
        })?;
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Every base chain at a forward hook that is not ours, in all families.
    pub(super) fn forward_chains(&mut self) -> Result<Vec<ForeignChain>, RequestError> {
        let messages = (wire::NFT_MSG_GETCHAIN, wire::NFT_MSG_NEWCHAIN);
        let chains = self.dump(messages, wire::NFPROTO_UNSPEC, |_| {}, ForeignChain::parse)?;
        Ok(chains.into_iter().filter(ForeignChain::is_foreign).collect())
    }

    /// The rules of a chain, in order.
    pub(super) fn rules(&mut self, place: Place<'_>) -> Result<Vec<ForeignRule>, RequestError> {
        let messages = (wire::NFT_MSG_GETRULE, wire::NFT_MSG_NEWRULE);
        self.dump(
            messages,
            place.family,
            |out| {
                wire::text(out, wire::NFTA_TABLE, place.table);
                wire::text(out, wire::NFTA_RULE_CHAIN, place.chain);
            },
            // A kernel without the filter sends the rules of every chain.
            |family, payload| {
                let rule = ForeignRule::parse(family, payload)?;
                rule.stands_in(place).then_some(rule)
            },
        )
    }

    /// Handles of our table's rules, in order: others cannot change one and keep its handle.
    /// Empty: the table is not there.
    pub(super) fn fingerprint(&mut self) -> Result<Vec<u64>, RequestError> {
        let messages = (wire::NFT_MSG_GETRULE, wire::NFT_MSG_NEWRULE);
        self.dump(
            messages,
            wire::NFPROTO_INET,
            |out| wire::text(out, wire::NFTA_TABLE, TABLE),
            |family, payload| {
                let rule = ForeignRule::parse(family, payload)?;
                (family == wire::NFPROTO_INET && rule.table == TABLE).then_some(rule.handle)
            },
        )
    }

    /// Whether our table is there, whoever made it.
    pub(super) fn has_table(&mut self) -> Result<bool, RequestError> {
        let messages = (wire::NFT_MSG_GETTABLE, wire::NFT_MSG_NEWTABLE);
        let names = self.dump(
            messages,
            wire::NFPROTO_INET,
            |_| {},
            |_, payload| {
                let (_, name) = attributes(payload).find(|(kind, _)| *kind == wire::NFTA_TABLE)?;
                Some(wire::read_text(name) == TABLE)
            },
        )?;
        Ok(names.contains(&true))
    }

    /// Lists what answers with this message.
    fn dump<T>(
        &mut self,
        (question, answer): (u8, u8),
        family: u8,
        attributes: impl Fn(&mut MessageWriter<'_>),
        parse: impl Fn(u8, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, RequestError> {
        let found = self.requests.dump(
            wire::kind(answer),
            |out, sequence| {
                let header = (wire::kind(question), NLM_F_REQUEST | NLM_F_DUMP, sequence);
                wire::message(out, header, family, &attributes);
            },
            |payload| {
                let (header, rest) = payload.split_at_checked(4)?;
                parse(header[0], rest)
            },
        );
        match found {
            // No such table or chain any more.
            Err(RequestError::Kernel(error)) if error.errno == libc::ENOENT => Ok(Vec::new()),
            found => found,
        }
    }
}

/// The kernel cannot do it at all: a part of nf_tables is missing.
pub(super) fn is_missing(error: &RequestError) -> bool {
    const MISSING: [i32; 6] = [
        libc::EPROTONOSUPPORT,
        libc::EAFNOSUPPORT,
        libc::EOPNOTSUPP,
        libc::ENOENT,
        libc::ENOSYS,
        libc::EINVAL,
    ];
    match error {
        RequestError::Kernel(error) => MISSING.contains(&error.errno),
        RequestError::Socket(error) => {
            error.raw_os_error().is_some_and(|code| MISSING.contains(&code))
        }
    }
}

impl ForeignChain {
    /// A base chain of type filter at the forward hook.
    fn parse(family: u8, payload: &[u8]) -> Option<Self> {
        let (mut table, mut name, mut hook, mut policy, mut kind) = ("", "", None, None, "");
        for (attribute, value) in attributes(payload) {
            match attribute {
                wire::NFTA_TABLE => table = wire::read_text(value),
                wire::NFTA_CHAIN_NAME => name = wire::read_text(value),
                wire::NFTA_CHAIN_HOOK => hook = read_hook(value),
                wire::NFTA_CHAIN_POLICY => policy = wire::read_number(value),
                wire::NFTA_CHAIN_TYPE => kind = wire::read_text(value),
                _ => {}
            }
        }
        if hook != Some(super::table::HOOK_FORWARD) || kind != "filter" {
            return None;
        }
        Some(Self {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            policy_drop: policy == Some(0),
        })
    }
}

impl ForeignRule {
    fn parse(_family: u8, payload: &[u8]) -> Option<Self> {
        let mut rule = Self::default();
        for (attribute, value) in attributes(payload) {
            match attribute {
                wire::NFTA_TABLE => wire::read_text(value).clone_into(&mut rule.table),
                wire::NFTA_RULE_CHAIN => wire::read_text(value).clone_into(&mut rule.chain),
                wire::NFTA_RULE_HANDLE => rule.handle = wire::read_handle(value)?,
                wire::NFTA_RULE_EXPRESSIONS => rule.drops_all = drops_all(value),
                wire::NFTA_RULE_USERDATA => rule.comment = read_comment(value).map(str::to_owned),
                _ => {}
            }
        }
        Some(rule)
    }

    fn stands_in(&self, place: Place<'_>) -> bool {
        self.table == place.table && self.chain == place.chain
    }
}

/// The hook's number.
pub(super) fn read_hook(value: &[u8]) -> Option<u32> {
    let (_, number) = attributes(value).find(|(kind, _)| *kind == wire::NFTA_HOOK_HOOKNUM)?;
    wire::read_number(number)
}

/// Whether a rule drops or rejects whatever comes: it ends in one, after nothing but counting.
fn drops_all(expressions: &[u8]) -> bool {
    let mut names = Vec::new();
    for (_, expression) in attributes(expressions) {
        let (mut name, mut data) = ("", &[][..]);
        for (kind, value) in attributes(expression) {
            match kind {
                1 => name = wire::read_text(value),
                2 => data = value,
                _ => {}
            }
        }
        names.push((name, data));
    }
    let Some((last, before)) = names.split_last() else { return false };
    let ends = match *last {
        ("reject", _) => true,
        ("immediate", data) => verdict(data) == Some(0),
        _ => false,
    };
    ends && before.iter().all(|(name, _)| ["counter", "log"].contains(name))
}

fn verdict(immediate: &[u8]) -> Option<u32> {
    let (_, data) = attributes(immediate).find(|(kind, _)| *kind == 2)?;
    let (_, verdict) = attributes(data).find(|(kind, _)| *kind == wire::NFTA_DATA_VERDICT)?;
    let (_, code) = attributes(verdict).find(|(kind, _)| *kind == wire::NFTA_VERDICT_CODE)?;
    wire::read_number(code)
}

//! A blocking nf_tables socket: transactions and dumps.
//!
//! In flow: batches, questions. Out flow: whether the kernel did all of a batch, or what it refused.
//!
//! What always holds: a batch is done whole or not at all; answers are told apart by their sequence
//! numbers.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBufForce};
use nix::sys::time::{TimeVal, TimeValLike};

use super::forward::{ForeignChain, ForeignRule};
use super::table::{Message, Place, TABLE, read_comment};
use super::wire;
use crate::kernel::wire::{
    KernelError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    acknowledgement, attributes, messages,
};

/// Octets that may wait to be sent: a batch goes in one piece.
const SEND_BUFFER: usize = 8 << 20;
/// A table is replaced in milliseconds; the kernel may have to load modules first.
const TIMEOUT: Duration = Duration::from_secs(10);
const READ_SIZE: usize = 64 << 10;
/// How often a dump that changed under way is begun again.
const DUMP_ATTEMPTS: usize = 4;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

impl Error {
    /// The kernel cannot do it at all: a part of nf_tables is missing.
    pub(super) fn is_missing(&self) -> bool {
        const MISSING: [i32; 6] = [
            libc::EPROTONOSUPPORT,
            libc::EAFNOSUPPORT,
            libc::EOPNOTSUPP,
            libc::ENOENT,
            libc::ENOSYS,
            libc::EINVAL,
        ];
        match self {
            Self::Kernel(error) => MISSING.contains(&error.errno),
            Self::Socket(error) => error.raw_os_error().is_some_and(|code| MISSING.contains(&code)),
        }
    }
}

/// The socket; see the module.
pub(super) struct NftSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    out: Vec<u8>,
    read: Vec<u8>,
}

impl NftSocket {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // Without the capability nothing will be permitted anyway.
        let _ = setsockopt(&socket.as_fd(), SndBufForce, &SEND_BUFFER);
        let timeout = TimeVal::milliseconds(i64::try_from(TIMEOUT.as_millis()).unwrap_or(5000));
        setsockopt(&socket.as_fd(), ReceiveTimeout, &timeout)?;
        Ok(Self { socket, port, sequence: 0, out: Vec::new(), read: Vec::with_capacity(READ_SIZE) })
    }

    /// The netlink port that notifications caused by this socket carry.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Does all of a batch.
    pub(super) fn transaction(&mut self, batch: &[Message<'_>]) -> Result<(), Error> {
        let Some(last) = batch.len().checked_sub(1) else { return Ok(()) };
        self.out.clear();
        self.sequence = self.sequence.wrapping_add(1);
        let begin = self.sequence;
        wire::batch_mark(&mut self.out, true, begin);
        for (index, message) in batch.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            message(&mut self.out, self.sequence, if index == last { NLM_F_ACK } else { 0 });
        }
        let end = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        wire::batch_mark(&mut self.out, false, self.sequence);
        self.socket.send(&self.out, 0)?;
        let mut failure = None;
        loop {
            self.receive()?;
            for (header, payload) in messages(&self.read) {
                let index = header.sequence.wrapping_sub(begin);
                if header.kind != NLMSG_ERROR || index as usize > batch.len() {
                    continue;
                }
                // The first refusal is the cause of those behind it.
                failure = failure.or_else(|| acknowledgement(header, payload));
                let whole = header.sequence == begin && failure.is_some();
                if header.sequence == end || whole {
                    return failure.map_or(Ok(()), |error| Err(error.into()));
                }
            }
        }
    }

    /// Every base chain at a forward hook that is not ours, in all families.
    pub(super) fn forward_chains(&mut self) -> Result<Vec<ForeignChain>, Error> {
        let kind = wire::kind(wire::NFT_MSG_GETCHAIN);
        let chains = self.dump(kind, wire::NFPROTO_UNSPEC, |_| {}, ForeignChain::parse)?;
        Ok(chains.into_iter().filter(ForeignChain::is_foreign).collect())
    }

    /// The rules of a chain, in order.
    pub(super) fn rules(&mut self, place: Place<'_>) -> Result<Vec<ForeignRule>, Error> {
        let kind = wire::kind(wire::NFT_MSG_GETRULE);
        self.dump(
            kind,
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
    pub(super) fn fingerprint(&mut self) -> Result<Vec<u64>, Error> {
        let kind = wire::kind(wire::NFT_MSG_GETRULE);
        self.dump(
            kind,
            wire::NFPROTO_INET,
            |out| wire::text(out, wire::NFTA_TABLE, TABLE),
            |family, payload| {
                let rule = ForeignRule::parse(family, payload)?;
                (family == wire::NFPROTO_INET && rule.table == TABLE).then_some(rule.handle)
            },
        )
    }

    /// Whether our table is there, whoever made it.
    pub(super) fn has_table(&mut self) -> Result<bool, Error> {
        let kind = wire::kind(wire::NFT_MSG_GETTABLE);
        let names = self.dump(
            kind,
            wire::NFPROTO_INET,
            |_| {},
            |_, payload| {
                let (_, name) = attributes(payload).find(|(kind, _)| *kind == wire::NFTA_TABLE)?;
                Some(wire::read_text(name) == TABLE)
            },
        )?;
        Ok(names.contains(&true))
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        family: u8,
        attributes: impl Fn(&mut Vec<u8>),
        parse: impl Fn(u8, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.dump_once(kind, family, &attributes, &parse) {
                Ok((_, true)) if attempt < DUMP_ATTEMPTS => {}
                Ok((found, _)) => return Ok(found),
                // No such table or chain any more.
                Err(Error::Kernel(error)) if error.errno == libc::ENOENT => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        family: u8,
        attributes: impl Fn(&mut Vec<u8>),
        parse: impl Fn(u8, &[u8]) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Error> {
        self.out.clear();
        self.sequence = self.sequence.wrapping_add(1);
        let header = (kind, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        wire::message(&mut self.out, header, family, attributes);
        self.socket.send(&self.out, 0)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            self.receive()?;
            for (header, payload) in messages(&self.read) {
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match acknowledgement(header, payload) {
                            Some(error) => Err(error.into()),
                            None => Ok((found, interrupted)),
                        };
                    }
                    _ => {
                        if let Some((header, rest)) = payload.split_at_checked(4) {
                            found.extend(parse(header[0], rest));
                        }
                    }
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.read.clear();
        loop {
            match self.socket.recv(&mut self.read, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
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

//! A blocking netlink socket for requests: batches of writes, dumps, single questions.
//!
//! In flow: requests. Out flow: per request what the kernel answered. Everything that asks the
//! kernel goes through here; notifications come through [`super::NotificationSocket`].
//!
//! What always holds: an answer is attributed by its sequence number, so that a late answer to an
//! abandoned request is never taken for another's.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;
use socket2::SockRef;

use super::wire::{self, Header, KernelError};
use super::{READ_SIZE, set_receive_buffer};

/// How often a dump that changed under way is begun again.
const DUMP_ATTEMPTS: usize = 4;

/// What became of a batch.
#[derive(Debug)]
pub(crate) enum BatchOutcome {
    /// Every message was answered; these (by index) failed.
    Answered(Vec<(usize, KernelError)>),
    /// Answers were lost; what the kernel has done is unknown.
    Lost(String),
}

/// Why one write of a batch is not known to be done.
#[derive(Clone, Debug)]
pub(crate) enum WriteError {
    /// The kernel refused it.
    Refused(KernelError),
    /// The answer was lost; only a dump can tell.
    Lost(String),
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

/// The socket; see the module.
pub(crate) struct RequestSocket {
    socket: Socket,
    port: u32,
    /// Sequence number of the first message of the last request.
    first: u32,
    /// That of its last message.
    last: u32,
    out: Vec<u8>,
    read: Vec<u8>,
}

impl RequestSocket {
    /// Opens it in the network namespace of the calling thread. `timeout`: the longest the kernel
    /// may take over one answer. It works inside `send`, so this is never reached unless answers
    /// were lost.
    pub(crate) fn open(protocol: isize, timeout: Duration) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        SockRef::from(&socket).set_read_timeout(Some(timeout))?;
        let (out, read) = (Vec::with_capacity(READ_SIZE), Vec::with_capacity(READ_SIZE));
        Ok(Self { socket, port, first: 0, last: 0, out, read })
    }

    /// Sends `count` messages at once and waits for all answers. `encode` appends the message of
    /// an index with the flags and sequence number it is given.
    ///
    /// Only the last message carries the acknowledge flag; the kernel reports failures of the others
    /// without it, and answers in order.
    pub(crate) fn batch(
        &mut self,
        count: usize,
        mut encode: impl FnMut(usize, &mut Vec<u8>, (u16, u32)),
    ) -> BatchOutcome {
        let sent = self.send(count, |index, out, sequence| {
            let flags = if index + 1 == count { wire::NLM_F_ACK } else { 0 };
            encode(index, out, (flags, sequence));
        });
        if let Err(error) = sent {
            return BatchOutcome::Lost(format!("send: {error}"));
        }
        let mut failures = Vec::new();
        let answered = self.answers(|index, header, payload| {
            if header.kind != wire::NLMSG_ERROR {
                return None;
            }
            if let Some(error) = wire::acknowledgement(header, payload) {
                failures.push((index, error));
            }
            (index + 1 == count).then_some(())
        });
        match answered {
            Ok(()) => BatchOutcome::Answered(failures),
            Err(error) => BatchOutcome::Lost(format!("receive: {error}")),
        }
    }

    /// Asks a question that has one answer, a message of this kind.
    pub(crate) fn ask<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        self.send(1, |_, out, sequence| request(out, sequence))?;
        let mut found = None;
        let refusal = self.answers(|_, header, payload| {
            match header.kind {
                wire::NLMSG_ERROR => return Some(wire::acknowledgement(header, payload)),
                answer if answer == kind => found = parse(payload),
                _ => {}
            }
            None
        })?;
        refusal.map_or(Ok(found), |error| Err(error.into()))
    }

    /// Lists what answers with messages of this kind.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, RequestError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (found, interrupted) = self.dump_once(kind, &request, &parse)?;
            // A table that never holds still is taken as it was seen last: the notifications of
            // what changed meanwhile arrive anyway.
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
        }
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        request: impl Fn(&mut Vec<u8>, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<(Vec<T>, bool), RequestError> {
        self.send(1, |_, out, sequence| request(out, sequence))?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        let refusal = self.answers(|_, header, payload| {
            interrupted |= header.flags & wire::NLM_F_DUMP_INTR != 0;
            match header.kind {
                // Both begin with an error number; 0 or absent ends the dump well.
                wire::NLMSG_DONE | wire::NLMSG_ERROR => {
                    return Some(wire::acknowledgement(header, payload));
                }
                answer if answer == kind => found.extend(parse(payload)),
                _ => {}
            }
            None
        })?;
        refusal.map_or(Ok((found, interrupted)), |error| Err(error.into()))
    }

    /// Sends `count` messages, at least one, in one piece. `encode` appends the message of an index
    /// with the sequence number it is given.
    pub(crate) fn send(
        &mut self,
        count: usize,
        mut encode: impl FnMut(usize, &mut Vec<u8>, u32),
    ) -> io::Result<()> {
        self.out.clear();
        self.first = self.last.wrapping_add(1);
        for index in 0..count {
            self.last = self.last.wrapping_add(1);
            encode(index, &mut self.out, self.last);
        }
        self.socket.send(&self.out, 0)?;
        Ok(())
    }

    /// Takes answers to what was sent last, each with the index of the message it answers, until
    /// `take` has what it waited for.
    pub(crate) fn answers<T>(
        &mut self,
        mut take: impl FnMut(usize, Header, &[u8]) -> Option<T>,
    ) -> io::Result<T> {
        let last = self.last.wrapping_sub(self.first);
        loop {
            self.receive()?;
            for (header, payload) in wire::messages(&self.read) {
                let index = header.sequence.wrapping_sub(self.first);
                if index > last {
                    continue;
                }
                if let Some(taken) = take(index as usize, header, payload) {
                    return Ok(taken);
                }
            }
        }
    }

    /// The netlink port that notifications caused by this socket carry.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// The kernel refuses dumps whose filters it does not know, and applies those it knows.
    pub(crate) fn be_strict(&self) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(true)
    }

    /// Octets of answers that may wait, where the capability allows it.
    pub(crate) fn set_receive_buffer(&self, octets: usize) {
        set_receive_buffer(&self.socket, octets);
    }

    /// Octets that may be sent in one piece, where the capability allows it.
    pub(crate) fn set_send_buffer(&self, octets: usize) {
        // Without the capability nothing will be permitted anyway.
        let _ = setsockopt(&self.socket.as_fd(), SndBufForce, &octets);
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

//! The plain copier: what a device under test would cost if it did nothing but move octets.
//!
//! In flow: sessions of the load generator. It answers each OPEN with a fixed one and from then on
//! copies every UPDATE it gets to all other sessions, without looking further than at the headers
//! (messages of several senders must not be torn apart). The figures measured against it are the ceiling:
//! the load generator, the kernel's TCP and one copy.
//!
//! What always holds: it never withdraws anything and never ends a session, so phases that need
//! either have no ceiling.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::dut::TARGET;
use crate::load::sys::Epoll;
use crate::load::wire::{self, Speaker};

const LISTENER: usize = usize::MAX;

struct Connection {
    stream: TcpStream,
    partial: Vec<u8>,
    out: VecDeque<Bytes>,
    watching_write: bool,
}

/// Serves until it is killed.
pub fn serve() -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&std::net::SocketAddr::from(TARGET).into()).context("bind")?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let mut epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, false)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut ready = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        ready.clear();
        epoll.wait(Duration::from_secs(60), &mut ready)?;
        for event in &ready {
            if event.token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll.add(stream.as_raw_fd(), connections.len(), false)?;
                    let (partial, out) = (Vec::new(), VecDeque::new());
                    connections.push(Some(Connection {
                        stream,
                        partial,
                        out,
                        watching_write: false,
                    }));
                }
                continue;
            }
            if event.writable {
                flush(&epoll, event.token, &mut connections)?;
            }
            if event.readable {
                read(event.token, &mut connections, &mut buffer)?;
            }
        }
        // What one round of readiness brought leaves together.
        for token in 0..connections.len() {
            flush(&epoll, token, &mut connections)?;
        }
    }
}

fn read(token: usize, connections: &mut [Option<Connection>], buffer: &mut [u8]) -> Result<()> {
    let Some(connection) = &mut connections[token] else { return Ok(()) };
    let kept = connection.partial.len();
    buffer[..kept].copy_from_slice(&connection.partial);
    let count = match connection.stream.read(&mut buffer[kept..]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Ok(0) | Err(_) => {
            connections[token] = None;
            return Ok(());
        }
        Ok(count) => count,
    };
    let octets = &buffer[..kept + count];
    let mut at = 0;
    let mut run = 0..0;
    while let Some(header) = octets.get(at..at + wire::HEADER_LEN) {
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        if length < wire::HEADER_LEN {
            bail!("malformed header");
        }
        if at + length > octets.len() {
            break;
        }
        match header[18] {
            wire::UPDATE if run.end == at && !run.is_empty() => run.end = at + length,
            wire::UPDATE => {
                copy(token, connections, &octets[run]);
                run = at..at + length;
            }
            wire::OPEN => {
                let address = *TARGET.ip();
                let speaker = Speaker { address, asn: 64_512, external: false };
                let answer = [wire::open(speaker, 90), wire::keepalive()].concat();
                if let Some(connection) = &mut connections[token] {
                    connection.out.push_back(answer.into());
                }
            }
            _ => {}
        }
        at += length;
    }
    copy(token, connections, &octets[run]);
    if let Some(connection) = &mut connections[token] {
        connection.partial.clear();
        connection.partial.extend_from_slice(&octets[at..]);
    }
    Ok(())
}

fn copy(source: usize, connections: &mut [Option<Connection>], octets: &[u8]) {
    if octets.is_empty() {
        return;
    }
    let octets = Bytes::copy_from_slice(octets);
    for (token, connection) in connections.iter_mut().enumerate() {
        if let Some(connection) = connection
            && token != source
        {
            connection.out.push_back(octets.clone());
        }
    }
}

fn flush(epoll: &Epoll, token: usize, connections: &mut [Option<Connection>]) -> Result<()> {
    let Some(connection) = &mut connections[token] else { return Ok(()) };
    while !connection.out.is_empty() {
        let slices: Vec<IoSlice<'_>> =
            connection.out.iter().take(64).map(|octets| IoSlice::new(octets)).collect();
        let mut count = match connection.stream.write_vectored(&slices) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {
                connections[token] = None;
                return Ok(());
            }
        };
        while let Some(front) = connection.out.front_mut()
            && count > 0
        {
            let taken = count.min(front.len());
            let _ = front.split_to(taken);
            count -= taken;
            if front.is_empty() {
                connection.out.pop_front();
            }
        }
    }
    let wants_write = !connection.out.is_empty();
    if wants_write != connection.watching_write {
        connection.watching_write = wants_write;
        epoll.modify(connection.stream.as_raw_fd(), token, wants_write)?;
    }
    Ok(())
}

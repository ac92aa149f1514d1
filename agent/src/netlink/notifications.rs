//! A multicast socket: what the kernel tells without being asked.
//!
//! In flow: datagrams of the groups joined. Out flow: [`Notice`]s in the kernel's order.
//!
//! What always holds: a gap is reported as [`Notice::Lost`]; nothing is lost when a wait is dropped;
//! nobody else starves while notifications rain.

use std::future::poll_fn;
use std::io;

use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};

use super::wire::{self, Header};
use super::{READ_SIZE, set_receive_buffer};

/// Datagrams read at a time, so that nobody else starves.
const BURST: usize = 256;

/// Something the kernel told.
pub(crate) enum Notice<'a> {
    /// A message, with what follows its header.
    Message(Header, &'a [u8]),
    /// Notifications were lost. ENOBUFS: the receive buffer was full; whatever else it may be,
    /// something was missed.
    Lost(io::Error),
}

/// The socket; see the module.
pub(crate) struct NotificationSocket {
    socket: TokioSocket,
    read: Vec<u8>,
}

impl NotificationSocket {
    /// Opens it in the network namespace of the calling thread; it hears nothing before it joins
    /// groups. `receive_buffer`: octets that may wait, where the capability allows it.
    pub(crate) fn open(protocol: isize, receive_buffer: usize) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        // Before joining: a busy system fills the default buffer at once.
        set_receive_buffer(socket.socket_ref(), receive_buffer);
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, read: Vec::with_capacity(READ_SIZE) })
    }

    /// From now on the group's notifications arrive.
    pub(crate) fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.socket_mut().add_membership(group)
    }

    /// Waits for notifications, then hands over what is there, at most a burst of it.
    pub(crate) async fn wait(&mut self, mut take: impl FnMut(Notice<'_>)) {
        self.read.clear();
        let received = poll_fn(|context| self.socket.poll_recv(context, &mut self.read)).await;
        hand_over(received, &self.read, &mut take);
        self.poll(take);
    }

    /// Hands over what is there now, at most a burst of it.
    pub(crate) fn poll(&mut self, mut take: impl FnMut(Notice<'_>)) {
        for _ in 0..BURST {
            self.read.clear();
            let received = self.socket.socket_ref().recv(&mut self.read, 0).map(|_| ());
            if !hand_over(received, &self.read, &mut take) {
                return;
            }
        }
    }

    /// From now on only what passes the program arrives; the rest takes no room in the buffer.
    pub(crate) fn filter(&self, program: &[SockFilter]) -> io::Result<()> {
        SockRef::from(self.socket.socket_ref()).attach_filter(program)
    }
}

/// Hands over one datagram; `false` when there is none for now.
fn hand_over(received: io::Result<()>, read: &[u8], take: &mut impl FnMut(Notice<'_>)) -> bool {
    match received {
        Ok(()) => {
            for (header, payload) in wire::messages(read) {
                take(Notice::Message(header, payload));
            }
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
        Err(error) => {
            take(Notice::Lost(error));
            true
        }
    }
}

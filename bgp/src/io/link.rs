//! One TCP connection of a session task: reading in large pieces, writing vectored.
//!
//! Nothing is kept for a connection at rest: octets are read into a buffer of the thread's and
//! copied to one of their own size, which the decoded UPDATEs share.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::Encoder;

use super::codec::BgpCodec;
use super::queue::WriteQueue;
use crate::core::session::ConnectionId;
use routelet_proto::Message;

/// Most octets read at once.
const READ_SIZE: usize = 64 << 10;
/// Most pieces, and about how many octets, written at once.
const WRITE_PIECES: usize = 64;
/// How long a closing connection may take to write what it has and to hear the peer's end.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Its name to the session machine.
    pub id: ConnectionId,
    /// What was read and is not a whole message yet.
    pub buffer: BytesMut,
    /// Cuts `buffer` into messages.
    pub codec: BgpCodec,
    /// Encoded UPDATEs, once the session is Established on this connection.
    pub queue: Option<Arc<WriteQueue>>,
    /// The send hold timer runs.
    pub blocked: bool,
    read: OwnedReadHalf,
    /// Shared with the queue, so that the speaker can write while we have nothing to.
    write: Arc<OwnedWriteHalf>,
    /// What was begun must be finished first.
    front: Option<Chunk>,
    /// The session's own messages go before UPDATEs.
    control: VecDeque<Bytes>,
    data: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Chunk {
    octets: Bytes,
    from_queue: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// Octets in all.
    pub octets: usize,
    /// The queue has room again.
    pub writable: bool,
}

impl Link {
    /// A link over an open connection.
    #[must_use]
    pub fn new(id: ConnectionId, stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self {
            id,
            buffer: BytesMut::new(),
            codec: BgpCodec::default(),
            queue: None,
            blocked: false,
            read,
            write: Arc::new(write),
            front: None,
            control: VecDeque::new(),
            data: VecDeque::new(),
        }
    }

    /// The connection, for its options.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.read.as_ref()
    }

    /// The session is Established on this connection: makes the queue of its UPDATEs.
    pub fn open_queue(&mut self) -> Arc<WriteQueue> {
        let queue = Arc::new(WriteQueue::new(self.write.clone()));
        self.queue = Some(queue.clone());
        queue
    }

    /// Queues a message of the session's own.
    pub fn send(&mut self, message: &Message) {
        let mut octets = BytesMut::with_capacity(64);
        self.codec.encode(message, &mut octets).expect("invariant: encoding to memory cannot fail");
        self.control.push_back(octets.freeze());
    }

    /// Takes over what the speaker has queued, and says how many messages that is and how many
    /// octets it has written itself.
    pub fn pull(&mut self, context: &Context<'_>) -> (u32, usize) {
        let Some(queue) = &self.queue else { return (0, 0) };
        queue.register(context.waker());
        let taken = queue.take(&mut self.data);
        if let Some(octets) = taken.begun {
            self.front = Some(Chunk { octets, from_queue: true });
        }
        (taken.messages, taken.written)
    }

    /// Messages queued and octets written by the speaker itself since the last time.
    pub fn counts(&self) -> (u32, usize) {
        self.queue.as_ref().map_or((0, 0), |queue| queue.take_counts())
    }

    /// Everything pulled is written.
    pub fn rest(&self) {
        if let Some(queue) = &self.queue {
            queue.rest();
        }
    }

    /// Reads once, appending to `buffer`. 0 octets: the peer has closed.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ_BUFFER.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.read).poll_read(context, &mut read))?;
            let octets = read.filled();
            self.buffer.extend_from_slice(octets);
            Poll::Ready(Ok(octets.len()))
        })
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn wants_to_write(&self) -> bool {
        self.front.is_some() || !self.control.is_empty() || !self.data.is_empty()
    }

    /// Writes once.
    pub fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Written>> {
        let mut pieces: SmallVec<[IoSlice<'_>; WRITE_PIECES]> = SmallVec::new();
        let chunks = self.front.iter().map(|chunk| &chunk.octets);
        let chunks = chunks.chain(&self.control).chain(&self.data);
        pieces.extend(chunks.take(WRITE_PIECES).map(|chunk| IoSlice::new(chunk)));
        let stream: &TcpStream = self.read.as_ref();
        let octets = loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_write_vectored(&pieces) {
                // It was ready once; it wakes us when it is again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => break outcome?,
            }
        };
        drop(pieces);
        Poll::Ready(Ok(self.written(octets)))
    }

    fn written(&mut self, octets: usize) -> Written {
        let mut outcome = Written { octets, writable: false };
        let (mut left, mut from_queue) = (octets, 0);
        while left > 0 {
            let mut chunk = self.next_chunk().expect("invariant: no more was written than offered");
            let part = left.min(chunk.octets.len());
            left -= part;
            if chunk.from_queue {
                from_queue += part;
            }
            chunk.octets.advance(part);
            if chunk.octets.has_remaining() {
                self.front = Some(chunk);
            }
        }
        if let Some(queue) = self.queue.as_ref().filter(|_| from_queue > 0) {
            outcome.writable = queue.written(from_queue);
        }
        outcome
    }

    fn next_chunk(&mut self) -> Option<Chunk> {
        let from_control = |octets| Chunk { octets, from_queue: false };
        let from_data = |octets| Chunk { octets, from_queue: true };
        self.front
            .take()
            .or_else(|| self.control.pop_front().map(from_control))
            .or_else(|| self.data.pop_front().map(from_data))
    }

    /// The session has left this connection: nobody else writes to it any more.
    pub fn forsake_queue(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.close();
        }
    }

    /// Closes the connection: writes the message that was begun and the session's own messages, a
    /// NOTIFICATION above all, and hears the peer out for a moment. Closing with octets unread
    /// would send a reset, which can overtake the NOTIFICATION.
    pub async fn close(mut self) {
        self.data.clear();
        let ending = async {
            while self.wants_to_write() {
                std::future::poll_fn(|context| self.poll_write(context)).await?;
            }
            SockRef::from(self.stream()).shutdown(Shutdown::Write)?;
            let mut scratch = [0; 4096];
            for _ in 0..256 {
                if self.read.read(&mut scratch).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(())
        };
        // Whatever goes wrong now, the connection is gone either way.
        let _ = tokio::time::timeout(LINGER, ending).await;
    }
}

//! The way of encoded UPDATEs from the speaker to one session: counted in octets, never waited for.
//!
//! One queue lives as long as one Established session, so that octets meant for a session that has
//! ended cannot reach the next. The speaker pushes and is told when there is too much; the session
//! task takes, writes, and tells the speaker when there is room again.
//!
//! While the session task has nothing to write, the queue *rests*, and the speaker may write a small
//! piece to the socket itself: one thread fewer to wake up before a single change is on its way.
//!
//! What always holds: octets reach the socket in the order of the pushes and whole messages at a
//! time; nobody writes beside the session task unless the queue rests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use tokio::net::tcp::OwnedWriteHalf;

/// Above so many octets the peer is not writable.
pub const HIGH_WATER: usize = 1 << 20;
/// Below so many it is writable again.
pub const LOW_WATER: usize = 256 << 10;

/// The queue of one Established session.
#[derive(Debug, Default)]
pub struct WriteQueue {
    inner: Mutex<Inner>,
    waker: AtomicWaker,
}

/// What the session task took over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Messages pushed since the last time, those already written included.
    pub messages: u32,
    /// Octets that the speaker has written itself since the last time.
    pub written: usize,
    /// The rest of a message that the speaker has begun to write: before anything else.
    pub begun: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: VecDeque<Bytes>,
    taken: Taken,
    /// Pushed and not yet written, those taken included.
    octets: usize,
    full: bool,
    /// The connection, until the session task gives it up.
    socket: Option<Arc<OwnedWriteHalf>>,
    /// The session task has nothing to write.
    resting: bool,
}

impl WriteQueue {
    /// The queue of a session on this connection.
    #[must_use]
    pub fn new(socket: Arc<OwnedWriteHalf>) -> Self {
        let inner = Inner { socket: Some(socket), ..Inner::default() };
        Self { inner: Mutex::new(inner), waker: AtomicWaker::new() }
    }

    /// Writes whole messages at once if the queue rests and the socket takes them; otherwise as
    /// [`WriteQueue::push`]. For pieces that are small and few: the caller does the work.
    pub fn write_or_push(&self, mut octets: Bytes, messages: u32) -> bool {
        {
            let mut inner = self.lock();
            let socket = inner.socket.as_ref().filter(|_| inner.resting);
            // The session task meets a failure itself.
            let written = socket.and_then(|socket| socket.try_write(&octets).ok()).unwrap_or(0);
            inner.taken.written += written;
            octets.advance(written);
            if octets.is_empty() {
                inner.taken.messages += messages;
                return false;
            }
            if written > 0 {
                inner.resting = false;
                inner.taken.messages += messages;
                inner.octets += octets.len();
                inner.taken.begun = Some(octets);
                drop(inner);
                self.waker.wake();
                return false;
            }
        }
        self.push(octets, messages)
    }

    /// Adds whole messages. Says whether this made the queue full.
    pub fn push(&self, octets: Bytes, messages: u32) -> bool {
        let filled = {
            let mut inner = self.lock();
            inner.octets += octets.len();
            inner.taken.messages += messages;
            inner.chunks.push_back(octets);
            inner.resting = false;
            let filled = !inner.full && inner.octets > HIGH_WATER;
            inner.full |= filled;
            filled
        };
        self.waker.wake();
        filled
    }

    /// Moves what is there to `chunks`, and begins to write: until [`WriteQueue::rest`] nobody else
    /// does.
    pub fn take(&self, chunks: &mut VecDeque<Bytes>) -> Taken {
        let mut inner = self.lock();
        inner.resting = false;
        chunks.append(&mut inner.chunks);
        std::mem::take(&mut inner.taken)
    }

    /// Messages and octets as in [`Taken`], alone.
    pub fn take_counts(&self) -> (u32, usize) {
        let taken = &mut self.lock().taken;
        (std::mem::take(&mut taken.messages), std::mem::take(&mut taken.written))
    }

    /// Everything taken is written.
    pub fn rest(&self) {
        let mut inner = self.lock();
        // What was pushed meanwhile has woken the session task.
        inner.resting = inner.chunks.is_empty() && inner.taken.begun.is_none();
    }

    /// The session is over: nothing more is written.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.resting = false;
        inner.socket = None;
    }

    /// So many octets of what was taken are written. Says whether there is room again.
    pub fn written(&self, octets: usize) -> bool {
        let mut inner = self.lock();
        inner.octets -= octets;
        let emptied = inner.full && inner.octets < LOW_WATER;
        inner.full &= !emptied;
        emptied
    }

    /// Whom to wake at the next push.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("invariant: no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn full_and_writable_are_told_once_each() {
        let queue = WriteQueue::default();
        let chunk = Bytes::from(vec![0; 100 << 10]);
        let filled: Vec<_> = (0..14).map(|_| queue.push(chunk.clone(), 2)).collect();
        assert_eq!(filled.iter().filter(|filled| **filled).count(), 1);
        assert!(filled[10], "the eleventh passes 1 MiB");
        let mut chunks = VecDeque::new();
        assert_eq!(queue.take(&mut chunks).messages, 28);
        assert_eq!(queue.take(&mut chunks), Taken::default());
        let emptied: Vec<_> = (0..14).map(|_| queue.written(100 << 10)).collect();
        assert_eq!(emptied.iter().filter(|emptied| **emptied).count(), 1);
        assert!(emptied[11], "two are left");
    }

    #[tokio::test]
    async fn the_speaker_writes_itself_only_while_the_queue_rests() {
        let (queue, mut far) = connected().await;
        let mut chunks = VecDeque::new();
        let piece = Bytes::from_static(b"first");
        assert!(!queue.write_or_push(piece.clone(), 1));
        assert_eq!(queue.take(&mut chunks).messages, 1);
        assert_eq!(chunks.pop_front(), Some(piece.clone()), "the session task had not rested");
        queue.written(piece.len());
        queue.rest();

        assert!(!queue.write_or_push(piece.clone(), 1));
        let mut read = [0; 5];
        far.read_exact(&mut read).await.expect("it was written");
        assert_eq!(read, *b"first");
        let taken = queue.take(&mut chunks);
        assert_eq!((taken.messages, taken.written, taken.begun), (1, 5, None));
        assert!(chunks.is_empty());

        queue.rest();
        queue.push(piece.clone(), 1);
        queue.rest();
        assert!(!queue.write_or_push(Bytes::from_static(b"second"), 1));
        queue.take(&mut chunks);
        assert_eq!(chunks.len(), 2, "the second may not overtake the first");

        queue.written(11);
        queue.rest();
        queue.close();
        assert!(!queue.write_or_push(piece, 1));
        assert_eq!(queue.take(&mut chunks).written, 0);
    }

    #[tokio::test]
    async fn what_the_speaker_could_not_finish_goes_first() {
        let (queue, mut far) = connected().await;
        queue.rest();
        // More than the buffers of both ends.
        let piece = Bytes::from((0..16_u32 << 20).map(|n| n as u8).collect::<Vec<_>>());
        assert!(!queue.write_or_push(piece.clone(), 3));
        queue.push(Bytes::from_static(b"next"), 1);
        let mut chunks = VecDeque::new();
        let taken = queue.take(&mut chunks);
        let begun = taken.begun.expect("no socket takes 16 MiB at once");
        assert_eq!((taken.messages, taken.written + begun.len()), (4, piece.len()));
        assert_eq!(begun, piece[taken.written..]);
        assert_eq!(chunks, [Bytes::from_static(b"next")]);
        let mut read = vec![0; taken.written];
        far.read_exact(&mut read).await.expect("it was written");
        assert_eq!(read, piece[..taken.written]);
    }

    /// A queue and the far end of its connection.
    async fn connected() -> (WriteQueue, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let near = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let (far, _) = listener.accept().await.expect("somebody connects");
        let (_, write) = near.into_split();
        write.writable().await.expect("it is open");
        (WriteQueue::new(Arc::new(write)), far)
    }
}

//! The way of encoded UPDATEs from the speaker to one session: counted in octets, never waited for.
//!
//! One queue lives as long as one Established session, so that octets meant for a session that has
//! ended cannot reach the next. The speaker pushes and is told when there is too much; the session
//! task takes, writes, and tells the speaker when there is room again.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Waker;

use bytes::Bytes;
use futures::task::AtomicWaker;

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

#[derive(Debug, Default)]
struct Inner {
    chunks: VecDeque<Bytes>,
    messages: u32,
    /// Pushed and not yet written, those taken included.
    octets: usize,
    full: bool,
}

impl WriteQueue {
    /// Adds whole messages. Says whether this made the queue full.
    pub fn push(&self, octets: Bytes, messages: u32) -> bool {
        let filled = {
            let mut inner = self.lock();
            inner.octets += octets.len();
            inner.messages += messages;
            inner.chunks.push_back(octets);
            let filled = !inner.full && inner.octets > HIGH_WATER;
            inner.full |= filled;
            filled
        };
        self.waker.wake();
        filled
    }

    /// Moves what is there to `chunks`, and says how many messages that is.
    pub fn take(&self, chunks: &mut VecDeque<Bytes>) -> u32 {
        let mut inner = self.lock();
        chunks.append(&mut inner.chunks);
        std::mem::take(&mut inner.messages)
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
    use super::*;

    #[test]
    fn full_and_writable_are_told_once_each() {
        let queue = WriteQueue::default();
        let chunk = Bytes::from(vec![0; 100 << 10]);
        let filled: Vec<_> = (0..14).map(|_| queue.push(chunk.clone(), 2)).collect();
        assert_eq!(filled.iter().filter(|filled| **filled).count(), 1);
        assert!(filled[10], "the eleventh passes 1 MiB");
        let mut chunks = VecDeque::new();
        assert_eq!(queue.take(&mut chunks), 28);
        assert_eq!(queue.take(&mut chunks), 0);
        let emptied: Vec<_> = (0..14).map(|_| queue.written(100 << 10)).collect();
        assert_eq!(emptied.iter().filter(|emptied| **emptied).count(), 1);
        assert!(emptied[11], "two are left");
    }
}

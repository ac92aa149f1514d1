//! The way of what happens in sessions to the speaker.
//!
//! In: events of a session task, in their order. Out: the same order at the speaker, through a
//! channel that all tasks share, or, where there is little to do and the speaker rests, by handling
//! the event on the spot.
//!
//! What always holds: an event is handled on the spot only if the speaker has handled all that went
//! through the channel before it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use routelet_proto::{RouteRefresh, Update};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::queue::WriteQueue;
use super::state::SpeakerState;
use crate::core::peer::{PeerDown, PeerId, PeerUp};

/// Batches from sessions that may wait for the speaker; a batch is what one read gave.
pub const EVENT_QUEUE: usize = 64;

/// What a session task tells the speaker.
#[derive(Debug)]
pub enum PeerEvent {
    /// The session is up; what is sent to the peer goes into this queue.
    Up(Box<PeerUp>, Arc<WriteQueue>),
    /// The peer's host has answered; once, and after a restart of ours only.
    Reached,
    /// UPDATEs in the order received.
    Updates(Vec<Update>),
    /// A ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
    /// The queue has room again.
    Writable,
    /// The session is down, its queue forgotten.
    Down(PeerDown),
}

/// The speaker's end, and what session tasks get theirs from.
#[derive(Debug)]
pub struct EventChannel {
    /// For the tasks.
    pub sender: mpsc::Sender<(PeerId, PeerEvent)>,
    /// For the speaker.
    pub receiver: mpsc::Receiver<(PeerId, PeerEvent)>,
}

impl EventChannel {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        Self { sender, receiver }
    }
}

/// The speaker has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpeakerGone;

/// A session task's end.
pub struct EventSender {
    peer: PeerId,
    channel: PollSender<(PeerId, PeerEvent)>,
    /// Events that went through the channel.
    handed: u64,
    speaker: Weak<SpeakerState>,
}

impl EventSender {
    /// The end of `peer`'s task. Without a `speaker` all goes through the channel.
    #[must_use]
    pub fn new(
        peer: PeerId,
        channel: mpsc::Sender<(PeerId, PeerEvent)>,
        speaker: Weak<SpeakerState>,
    ) -> Self {
        Self { peer, channel: PollSender::new(channel), handed: 0, speaker }
    }

    /// Hands over what it can, from the front.
    ///
    /// # Errors
    /// [`SpeakerGone`]: nobody takes events any more.
    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        events: &mut VecDeque<PeerEvent>,
    ) -> Poll<Result<(), SpeakerGone>> {
        while let Some(event) = events.front() {
            let speaker = self.speaker.upgrade();
            if speaker.is_some_and(|speaker| speaker.handle_now(self.peer, self.handed, event)) {
                events.pop_front();
                // A place that was waited for is not needed.
                self.channel.abort_send();
                continue;
            }
            ready!(self.channel.poll_reserve(context)).map_err(|_| SpeakerGone)?;
            let event = events.pop_front().expect("invariant: just seen");
            self.channel.send_item((self.peer, event)).map_err(|_| SpeakerGone)?;
            self.handed += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for EventSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

//! The speaker's thread: requests of the handle, events of the session tasks, time.
//!
//! It waits for inputs, has [`SpeakerState`] handle them a batch at a time, and sends the commands
//! that come of it. It waits for no session: queues towards them are counted, not bounded by
//! waiting, and the speaker machine stops producing for a peer whose queue is full.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::StopMode;
use super::events::{EVENT_QUEUE, EventChannel};
use super::request::Request;
use super::state::{Order, SpeakerState};

/// The thread.
pub struct SpeakerThread {
    state: Arc<SpeakerState>,
    events: EventChannel,
    requests: mpsc::Receiver<Request>,
}

impl SpeakerThread {
    /// The thread of this speaker.
    pub fn new(state: SpeakerState, requests: mpsc::Receiver<Request>) -> Self {
        Self { state: Arc::new(state), events: EventChannel::new(), requests }
    }

    /// Runs until it is stopped or every handle is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(EVENT_QUEUE);
        let (mut timeout, mut unfinished) = (None, false);
        loop {
            let mut request = None;
            tokio::select! {
                biased;
                asked = self.requests.recv() => match asked {
                    Some(Request::Stop(mode, done)) => return self.stop(mode, Some(done)).await,
                    None => return self.stop(StopMode::Restart, None).await,
                    asked => request = asked,
                },
                () = sleep_until(timeout), if timeout.is_some() => {}
                _ = self.events.receiver.recv_many(&mut batch, EVENT_QUEUE) => {}
                () = self.state.left_over() => {}
                () = std::future::ready(()), if unfinished => {}
            }
            let round = self.state.round(request, &mut batch, &mut self.events);
            (timeout, unfinished) = (round.timeout, round.unfinished);
            send(round.orders).await;
            if let Some(answer) = round.answer {
                // Whoever asked may have gone.
                let _ = answer.to.send(answer.outcome);
            }
        }
    }

    async fn stop(self, mode: StopMode, done: Option<oneshot::Sender<()>>) {
        send(self.state.stop(mode)).await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// Session tasks never wait for the speaker without taking commands, so this cannot deadlock.
async fn send(orders: Vec<Order>) {
    for (session, command) in orders {
        // A task that is gone needs no telling.
        let _ = session.send(Box::new(command)).await;
    }
}

async fn sleep_until(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}

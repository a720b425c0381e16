//! What came and waits for the node's loop: bounded by bytes, so that a slow loop holds up readers,
//! and they, by QUIC's flow control, the senders.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};

use super::Inbound;
use super::closing::Fault;
use super::limits::MESSAGE_COST_BYTES;

/// The receiving end of [`super::Transport`]: one for a node.
#[derive(Debug)]
pub struct InboundQueue {
    receiver: mpsc::UnboundedReceiver<Charged>,
    room: Arc<Semaphore>,
    taken: Vec<Charged>,
}

/// Something that came, and when.
#[derive(Debug)]
pub struct Arrived {
    /// What.
    pub inbound: Inbound,
    /// When it was whole, before it waited for anything.
    pub at: Instant,
}

type Charged = (Arrived, u32);

impl InboundQueue {
    /// The next one; `None` after the transport is gone. May be cancelled.
    pub async fn recv(&mut self) -> Option<Inbound> {
        let (arrived, bytes) = self.receiver.recv().await?;
        self.room.add_permits(bytes as usize);
        Some(arrived.inbound)
    }

    /// Waits for one at least and appends up to `count_max` to `into`; returns how many. 0 after
    /// the transport is gone. May be cancelled.
    pub async fn recv_many(&mut self, into: &mut Vec<Arrived>, count_max: usize) -> usize {
        let count = self.receiver.recv_many(&mut self.taken, count_max).await;
        self.hand_out(into);
        count
    }

    /// Appends what is there now, up to `count_max`, to `into`.
    pub fn take_ready(&mut self, into: &mut Vec<Arrived>, count_max: usize) {
        while self.taken.len() < count_max {
            let Ok(charged) = self.receiver.try_recv() else { break };
            self.taken.push(charged);
        }
        self.hand_out(into);
    }

    fn hand_out(&mut self, into: &mut Vec<Arrived>) {
        let bytes: usize = self.taken.iter().map(|(_, bytes)| *bytes as usize).sum();
        into.extend(self.taken.drain(..).map(|(arrived, _)| arrived));
        self.room.add_permits(bytes);
    }
}

impl Drop for InboundQueue {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// The sending end, which each reader has.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    sender: mpsc::UnboundedSender<Charged>,
    room: Arc<Semaphore>,
}

impl Inbox {
    pub(super) fn new(bytes_max: usize) -> (Self, InboundQueue) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS)));
        let queue = InboundQueue { receiver, room: Arc::clone(&room), taken: Vec::new() };
        (Self { sender, room }, queue)
    }

    /// Hands up what came in a frame of `bytes`, once there is room.
    pub(super) async fn send(&self, inbound: Inbound, bytes: usize) -> Result<(), Fault> {
        let arrived = Arrived { inbound, at: Instant::now() };
        let bytes = u32::try_from(bytes + MESSAGE_COST_BYTES).expect("frames are bounded");
        let permit = match self.room.try_acquire_many(bytes) {
            Ok(permit) => permit,
            Err(_) => self.room.acquire_many(bytes).await.map_err(|_| Fault::Lost)?,
        };
        permit.forget();
        self.sender.send((arrived, bytes)).map_err(|_| Fault::Lost)
    }

    /// Hands up a change of a connection, which is not held up: there are few.
    pub(super) fn tell(&self, inbound: Inbound) {
        // Without a receiver, nobody wants to know.
        let _ = self.sender.send((Arrived { inbound, at: Instant::now() }, 0));
    }
}

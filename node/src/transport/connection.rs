//! The life of a connection after its handshake: a few tasks, of which the first to fail ends all.

use std::sync::Arc;

use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::task::JoinSet;

use super::closing::{Close, Fault};
use super::figures::add;
use super::origin::Origin;
use super::outbox::Outbox;
use super::reading::{FrameReader, read_large_streams, read_stream};
use super::shared::{Link, Shared};

/// Foreground goes first; large frames let small ones of their class pass.
pub(super) const FOREGROUND_PRIORITY: i32 = 2;
const FOREGROUND_LARGE_PRIORITY: i32 = 1;
/// Pings and votes are few and small: they share the bandwidth with large foreground frames.
pub(super) const BACKGROUND_PRIORITY: i32 = 1;
const BACKGROUND_LARGE_PRIORITY: i32 = 0;

/// The tasks of one connection.
pub(super) struct Tasks {
    shared: Arc<Shared>,
    link: Arc<Link>,
    from: Origin,
    set: JoinSet<Result<(), Fault>>,
}

impl Tasks {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>, from: Origin) -> Self {
        Self { shared, link, from, set: JoinSet::new() }
    }

    /// Reads and writes the foreground stream.
    pub(super) fn foreground(&mut self, send: SendStream, frames: FrameReader) {
        let outbox = Arc::clone(&self.link.foreground);
        self.stream(outbox, send, frames, FOREGROUND_LARGE_PRIORITY);
    }

    /// Reads and writes the background stream.
    pub(super) fn background(&mut self, send: SendStream, frames: FrameReader) {
        let outbox = Arc::clone(&self.link.background);
        self.stream(outbox, send, frames, BACKGROUND_LARGE_PRIORITY);
    }

    fn stream(
        &mut self,
        outbox: Arc<Outbox>,
        send: SendStream,
        frames: FrameReader,
        large_priority: i32,
    ) {
        let connection = self.link.connection.clone();
        self.set.spawn(async move { outbox.write(&connection, send, large_priority).await });
        self.set.spawn(read_stream(frames, self.from, Arc::clone(&self.link)));
    }

    /// Runs the tasks until the connection ends, and says why it did.
    pub(super) async fn run(mut self) -> ConnectionError {
        let connection = self.link.connection.clone();
        let shared = Arc::clone(&self.shared);
        let reading = read_large_streams(Arc::clone(&self.link), shared, self.from);
        self.set.spawn(reading);
        let ending = loop {
            tokio::select! {
                error = connection.closed() => break error,
                Some(ended) = self.set.join_next() => {
                    let ended = ended.expect("the tasks of a connection do not panic");
                    if let Err(Fault::Close(close, reason)) = ended {
                        self.close(close, &reason);
                    }
                }
            }
        };
        // Nothing of this connection may be handed up after its end was told.
        self.set.shutdown().await;
        ending
    }

    fn close(&self, close: Close, reason: &str) {
        let Self { from, link, .. } = self;
        let address = link.connection.remote_address();
        if close == Close::Garbage {
            add(&self.shared.counters.garbage, 1);
        }
        tracing::warn!(?from, %address, reason, "closing a connection");
        close.close(&link.connection, reason);
    }
}

/// Opens or takes the two halves of a stream, with a priority for what is sent.
pub(super) fn halves(
    shared: &Arc<Shared>,
    (send, receive): (SendStream, RecvStream),
    priority: i32,
) -> Result<(SendStream, FrameReader), Fault> {
    send.set_priority(priority).map_err(|_| Fault::Lost)?;
    Ok((send, FrameReader::new(receive, Arc::clone(shared))))
}

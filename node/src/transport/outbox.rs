//! What waits to be sent on one stream: messages are appended without waiting, and a writer hands
//! all that has gathered to QUIC at once.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream, WriteError};
use quoit_protocol::frame::{HEADER_BYTES, SHARED_STREAM_BODY_BYTES_MAX};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::closing::{Close, Fault, NOT_READING};
use super::figures::{Counters, add, sub};
use super::limits::{UNREAD_SHARE, UNREAD_TIMEOUT};

/// A piece of the queue is full at this size; the next message begins another.
const PIECE_BYTES: usize = 64 << 10;
/// Room of a new piece.
const NEW_PIECE_BYTES: usize = 1 << 10;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits, and the outbox is on the list of those to be woken.
    Queued,
    /// It waits, and the outbox must be put on that list.
    First,
    /// Too much waits already: the message was not taken.
    Full,
}

/// The queue of one stream, and of the large frames of its class.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    ready: Notify,
    large_ready: Notify,
    written: Notify,
    /// Told when bytes have left.
    left: Notify,
    /// Bytes that wait, and those in the hands of the writers.
    bytes: AtomicUsize,
    counters: Arc<Counters>,
    bytes_max: usize,
    total_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    full: Vec<Bytes>,
    open: BytesMut,
    large: VecDeque<Bytes>,
    /// The outbox is on the list of those to be woken.
    listed: bool,
    /// Nothing more will come.
    finishing: bool,
}

impl Outbox {
    pub(super) fn new(
        counters: Arc<Counters>,
        bytes_max: usize,
        total_bytes_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            ready: Notify::new(),
            large_ready: Notify::new(),
            written: Notify::new(),
            left: Notify::new(),
            bytes: AtomicUsize::new(0),
            counters,
            bytes_max,
            total_bytes_max,
        })
    }

    /// Appends the frame that `write` makes.
    pub(super) fn put(&self, write: impl FnOnce(&mut BytesMut)) -> Put {
        let mut queue = self.queue();
        if self.bytes() >= self.bytes_now_max() {
            return Put::Full;
        }
        if queue.open.capacity() == 0 {
            queue.open.reserve(NEW_PIECE_BYTES);
        }
        let start = queue.open.len();
        write(&mut queue.open);
        let length = queue.open.len() - start;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        if length > HEADER_BYTES + SHARED_STREAM_BODY_BYTES_MAX {
            let frame = queue.open.split_off(start).freeze();
            queue.large.push_back(frame);
        }
        if queue.open.len() >= PIECE_BYTES {
            let piece = mem::take(&mut queue.open).freeze();
            queue.full.push(piece);
        }
        add(&self.counters.queued_bytes, length);
        add(&self.counters.sent_messages, 1);
        if mem::replace(&mut queue.listed, true) { Put::Queued } else { Put::First }
    }

    /// Starts the writers on what has gathered.
    pub(super) fn wake(&self) {
        let mut queue = self.queue();
        queue.listed = false;
        let large = !queue.large.is_empty() || queue.finishing;
        drop(queue);
        self.ready.notify_one();
        if large {
            self.large_ready.notify_one();
        }
    }

    /// The writers end when nothing waits any more.
    pub(super) fn finish(&self) {
        self.queue().finishing = true;
        self.wake();
    }

    /// Writes what gathers to its stream and, beside it, large frames to streams of their own. Ends
    /// well only after [`Outbox::finish`], when the other side has it all.
    pub(super) async fn write(
        &self,
        connection: &Connection,
        mut stream: SendStream,
        large_priority: i32,
    ) -> Result<(), Fault> {
        let written = tokio::try_join!(
            self.write_shared(&mut stream),
            self.write_large(connection, large_priority)
        );
        self.written.notify_one();
        written.map(|_| ())
    }

    /// Waits, once, until the writers have ended after [`Outbox::finish`].
    pub(super) async fn finished(&self) {
        self.written.notified().await;
    }

    async fn write_shared(&self, stream: &mut SendStream) -> Result<(), Fault> {
        let mut pieces = Vec::new();
        loop {
            let finishing = self.take(&mut pieces);
            if pieces.is_empty() {
                if finishing {
                    return end(stream).await;
                }
                self.ready.notified().await;
                // Whatever else is ready may have more for this stream: one write for all of it.
                yield_now().await;
                continue;
            }
            self.write_pieces(stream, &mut pieces).await?;
            pieces.clear();
        }
    }

    async fn write_large(&self, connection: &Connection, priority: i32) -> Result<(), Fault> {
        loop {
            let (frame, finishing) = {
                let mut queue = self.queue();
                (queue.large.pop_front(), queue.finishing)
            };
            let Some(frame) = frame else {
                if finishing {
                    return Ok(());
                }
                self.large_ready.notified().await;
                continue;
            };
            let mut stream = connection.open_uni().await.map_err(|_| Fault::Lost)?;
            stream.set_priority(priority).map_err(|_| Fault::Lost)?;
            self.write_pieces(&mut stream, &mut [frame]).await?;
            stream.finish().map_err(|_| Fault::Lost)?;
            if self.queue().finishing {
                end(&mut stream).await?;
            }
        }
    }

    async fn write_pieces(
        &self,
        stream: &mut SendStream,
        mut pieces: &mut [Bytes],
    ) -> Result<(), Fault> {
        while !pieces.is_empty() {
            let written = stream.write_chunks(pieces).await.map_err(unwritten)?;
            pieces = &mut pieces[written.chunks..];
            self.bytes.fetch_sub(written.bytes, Ordering::Relaxed);
            self.left.notify_waiters();
            sub(&self.counters.queued_bytes, written.bytes);
            add(&self.counters.sent_bytes, written.bytes);
        }
        Ok(())
    }

    /// Waits until no more than a share of what may wait does; fails where nothing leaves for long.
    pub(super) async fn read_enough(&self) -> Result<(), Fault> {
        loop {
            // Before the look, so that nothing that leaves after it is missed.
            let left = self.left.notified();
            if self.bytes() <= self.bytes_now_max() / UNREAD_SHARE {
                return Ok(());
            }
            if timeout(UNREAD_TIMEOUT, left).await.is_err() {
                add(&self.counters.cut_off, 1);
                return Err(Fault::Close(Close::NotReading, NOT_READING.into()));
            }
        }
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes all that waits for the shared stream.
    fn take(&self, pieces: &mut Vec<Bytes>) -> bool {
        let mut queue = self.queue();
        mem::swap(&mut queue.full, pieces);
        if !queue.open.is_empty() {
            pieces.push(mem::take(&mut queue.open).freeze());
        }
        queue.finishing
    }

    fn bytes_now_max(&self) -> usize {
        let total = self.counters.queued_bytes.load(Ordering::Relaxed);
        let crowded = total >= self.total_bytes_max as u64;
        if crowded { self.bytes_max.min(self.total_bytes_max / 100) } else { self.bytes_max }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        sub(&self.counters.queued_bytes, self.bytes());
    }
}

fn unwritten(error: WriteError) -> Fault {
    match error {
        WriteError::Stopped(_) => Fault::garbage("a stream is not read any more"),
        _ => Fault::Lost,
    }
}

/// Ends a stream and waits until the other side has all of it.
async fn end(stream: &mut SendStream) -> Result<(), Fault> {
    // A stream that was finished before is as good.
    let _ = stream.finish();
    stream.stopped().await.map(|_| ()).map_err(|_| Fault::Lost)
}

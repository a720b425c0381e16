//! Frames off QUIC streams: the long-lived ones, on which frames follow each other, and those that
//! carry one large frame each.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream};
use quoit_protocol::frame::{
    BODY_BYTES_MAX, Frame, FrameError, HEADER_BYTES, SHARED_STREAM_BODY_BYTES_MAX, take_frame,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::Inbound;
use super::closing::{Close, Fault};
use super::figures::add;
use super::limits::{LARGE_BYTES_PER_CONNECTION_MAX, LARGE_FRAME_TIMEOUT};
use super::origin::Origin;
use super::shared::{Link, Shared};

/// Packets' worth of bytes taken from QUIC under one lock.
const CHUNKS: usize = 32;

/// Reads frames off a stream, one after the other.
pub(super) struct FrameReader {
    stream: RecvStream,
    shared: Arc<Shared>,
    buffer: BytesMut,
    body_bytes_max: usize,
    chunks: [Bytes; CHUNKS],
}

impl FrameReader {
    /// For a long-lived stream, on which no frame may be large.
    pub(super) fn new(stream: RecvStream, shared: Arc<Shared>) -> Self {
        let chunks = std::array::from_fn(|_| Bytes::new());
        let body_bytes_max = SHARED_STREAM_BODY_BYTES_MAX;
        Self { stream, shared, buffer: BytesMut::new(), body_bytes_max, chunks }
    }

    /// The next frame; `None` when the other side has ended the stream. May not be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            let taken =
                take_frame(&mut self.buffer, self.body_bytes_max).map_err(Fault::garbage)?;
            if taken.is_some() {
                add(&self.shared.counters.received_messages, 1);
                return Ok(taken);
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Fault::garbage("a stream ended within a frame"))
                };
            }
        }
    }

    /// The next frame of those that must come.
    pub(super) async fn first(&mut self) -> Result<Frame, Fault> {
        self.next().await?.ok_or_else(|| Fault::garbage("a stream ended before its first frame"))
    }

    /// How long the first frame says it is, header and body.
    async fn announced_bytes(&mut self) -> Result<usize, Fault> {
        while self.buffer.len() < HEADER_BYTES {
            if !self.fill().await? {
                return Err(Fault::garbage("a stream ended within a frame"));
            }
        }
        let length = (&self.buffer[..]).get_u32_le() as usize;
        if length > self.body_bytes_max {
            let limit = self.body_bytes_max;
            return Err(Fault::garbage(FrameError::TooLong { length, limit }));
        }
        Ok(HEADER_BYTES + length)
    }

    /// Reads what is there; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, Fault> {
        consume_budget().await;
        let read = self.stream.read_chunks(&mut self.chunks).await.map_err(lost)?;
        let Some(count) = read else { return Ok(false) };
        let bytes: usize = self.chunks[..count].iter().map(Bytes::len).sum();
        self.buffer.reserve(bytes);
        for chunk in &mut self.chunks[..count] {
            self.buffer.extend_from_slice(chunk);
            *chunk = Bytes::new();
        }
        add(&self.shared.counters.received_bytes, bytes);
        Ok(true)
    }
}

/// Hands up an operation that came in a frame of `bytes`.
async fn hand_up(
    link: &Link,
    shared: &Shared,
    inbound: Inbound,
    bytes: usize,
) -> Result<(), Fault> {
    link.on_asked();
    link.on_operation(shared);
    shared.inbox.send(inbound, bytes).await
}

/// Whether a client asks for what is no operation.
fn is_question(inbound: &Inbound) -> bool {
    matches!(inbound, Inbound::Client { message, .. } if message.head().is_none())
}

/// The question of a client that waits for its turn among those of all. Operations that come after it pass
/// it, until another question does, which waits for the place: each client has one. (Commands such as
/// `ChangeTables` are questions here: whoever needs their effect awaits their answer.)
#[derive(Default)]
struct Question(JoinSet<Result<(), Fault>>);

impl Question {
    /// Takes the place of the one before, once that is handed up.
    async fn hand_up(
        &mut self,
        link: &Link,
        shared: &Arc<Shared>,
        inbound: Inbound,
        bytes: usize,
    ) -> Result<(), Fault> {
        link.on_asked();
        self.handed_up().await?;
        link.on_question();
        let shared = Arc::clone(shared);
        self.0.spawn(async move {
            shared.question_turn().await;
            shared.inbox.send(inbound, bytes).await
        });
        Ok(())
    }

    /// Waits until none is left.
    async fn handed_up(&mut self) -> Result<(), Fault> {
        match self.0.join_next().await {
            Some(asked) => asked.expect("questions do not panic"),
            None => Ok(()),
        }
    }
}

/// Hands up all that comes on a long-lived stream, until it ends.
pub(super) async fn read_stream(
    mut frames: FrameReader,
    from: Origin,
    link: Arc<Link>,
) -> Result<(), Fault> {
    let mut question = Question::default();
    while let Some(frame) = frames.next().await? {
        let bytes = HEADER_BYTES + frame.body.len();
        match from.inbound(&frames.shared, frame)? {
            Some(inbound) if is_question(&inbound) => {
                question.hand_up(&link, &frames.shared, inbound, bytes).await?;
            }
            Some(inbound) => hand_up(&link, &frames.shared, inbound, bytes).await?,
            None => {}
        }
        link.may_ask().await?;
    }
    question.handed_up().await
}

/// Hands up the large frames of a connection, each of which has a stream. QUIC bounds their number.
pub(super) async fn read_large_streams(
    link: Arc<Link>,
    shared: Arc<Shared>,
    from: Origin,
) -> Result<(), Fault> {
    let own_room = Arc::new(Semaphore::new(LARGE_BYTES_PER_CONNECTION_MAX));
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = link.connection.accept_uni() => {
                let stream = stream.map_err(|_| Fault::Lost)?;
                let (link, own_room) = (Arc::clone(&link), Arc::clone(&own_room));
                readers.spawn(read_large(stream, (link, from), Arc::clone(&shared), own_room));
            }
            Some(read) = readers.join_next() => read.expect("readers do not panic")?,
        }
    }
}

async fn read_large(
    stream: RecvStream,
    (link, from): (Arc<Link>, Origin),
    shared: Arc<Shared>,
    own_room: Arc<Semaphore>,
) -> Result<(), Fault> {
    let too_slow = |_| Fault::Close(Close::TooSlow, "a large frame took too long".into());
    let mut frames = FrameReader::new(stream, Arc::clone(&shared));
    frames.body_bytes_max = BODY_BYTES_MAX;
    link.may_ask().await?;
    let length =
        timeout(LARGE_FRAME_TIMEOUT, frames.announced_bytes()).await.map_err(too_slow)??;
    let room = u32::try_from(length).expect("frames are bounded");
    let _own = own_room.acquire_many(room).await.map_err(|_| Fault::Lost)?;
    let _all = shared.large_room.acquire_many(room).await.map_err(|_| Fault::Lost)?;
    link.on_operation(&shared);
    frames.buffer.reserve(length.saturating_sub(frames.buffer.len()));
    let frame = timeout(LARGE_FRAME_TIMEOUT, frames.first()).await.map_err(too_slow)??;
    if let Some(inbound) = from.inbound(&shared, frame)? {
        if is_question(&inbound) {
            // They are small, and each client has one at a time in the queue of all.
            return Err(Fault::garbage("a question came on a stream of its own"));
        }
        hand_up(&link, &shared, inbound, length).await?;
    }
    match timeout(LARGE_FRAME_TIMEOUT, frames.next()).await.map_err(too_slow)?? {
        None => Ok(()),
        Some(_) => Err(Fault::garbage("a stream for one frame carries two")),
    }
}

fn lost(error: ReadError) -> Fault {
    match error {
        ReadError::Reset(_) => Fault::garbage("a stream was reset"),
        _ => Fault::Lost,
    }
}

//! One QUIC connection: a task that opens it, writes what the driver queued and reads what comes.
//!
//! Small frames share one long-lived bidirectional stream; a large one goes alone on a stream of
//! its own, so that it holds up no other. The queue is written with as few writes as possible: the
//! task lets other ready work run before it takes the queue, and takes all of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, WriteError};
use quoit_protocol::frame::{
    BODY_BYTES_MAX, HEADER_BYTES, SHARED_STREAM_BODY_BYTES_MAX, take_frame,
};
use quoit_protocol::{ClientRequest, ClientResponse};
use quoit_session::{LinkFailure, LinkId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// At most so many bytes wait to be written to a connection.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What is read at once from a stream, at most.
const READ_BYTES_MAX: usize = 256 << 10;
/// An allocation for outgoing frames.
const QUEUE_BYTES_START: usize = 16 << 10;

/// What a connection tells the driver.
#[derive(Debug)]
pub(crate) enum News {
    Opened { link: LinkId },
    Received { link: LinkId, responses: Vec<(u64, ClientResponse)> },
    Lost { link: LinkId, failure: LinkFailure },
}

/// What is needed to open a connection.
pub(crate) struct Target {
    pub(crate) link: LinkId,
    pub(crate) address: SocketAddr,
    pub(crate) server_name: String,
    pub(crate) config: quinn::ClientConfig,
}

/// The frames that wait to be written to a connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Frames for the shared stream.
    shared: BytesMut,
    /// Frames that each go on a stream of their own.
    alone: Vec<Bytes>,
    /// All bytes that were queued and are not written yet.
    bytes: usize,
    closed: Option<String>,
}

impl Outgoing {
    /// Queues a request; `false` where the queue is full, and then nothing was queued.
    pub(crate) fn put(&self, request: u64, message: &ClientRequest) -> bool {
        let mut queue = self.queue();
        if queue.bytes > QUEUE_BYTES_MAX {
            return false;
        }
        if queue.shared.capacity() == 0 {
            queue.shared.reserve(QUEUE_BYTES_START);
        }
        let start = queue.shared.len();
        message.put(request, &mut queue.shared);
        let length = queue.shared.len() - start;
        queue.bytes += length;
        if length > HEADER_BYTES + SHARED_STREAM_BODY_BYTES_MAX {
            let frame = queue.shared.split_off(start).freeze();
            queue.alone.push(frame);
        }
        drop(queue);
        self.changed.notify_one();
        true
    }

    /// Ends the connection; what is queued is not written any more.
    pub(crate) fn close(&self, reason: String) {
        self.queue().closed = Some(reason);
        self.changed.notify_one();
    }

    fn written(&self, bytes: usize) {
        self.queue().bytes -= bytes;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics midway through a change of the queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to write, and takes all of it; the reason once it was closed.
    async fn take(&self) -> Result<(Bytes, Vec<Bytes>), String> {
        loop {
            {
                let mut queue = self.queue();
                if let Some(reason) = queue.closed.clone() {
                    return Err(reason);
                }
                if !queue.shared.is_empty() || !queue.alone.is_empty() {
                    let shared = queue.shared.split().freeze();
                    return Ok((shared, std::mem::take(&mut queue.alone)));
                }
            }
            self.changed.notified().await;
            // Whoever is about to queue more gets the chance to share the write.
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the connection is to be closed.
    async fn closed(&self) -> String {
        loop {
            if let Some(reason) = self.queue().closed.clone() {
                return reason;
            }
            self.changed.notified().await;
        }
    }
}

/// Opens a connection and keeps it until either side ends it.
pub(crate) async fn run(
    target: Target,
    endpoint: Endpoint,
    outgoing: Arc<Outgoing>,
    news: mpsc::Sender<News>,
) {
    let link = target.link;
    let opened = tokio::select! {
        opened = open(&target, &endpoint) => opened,
        _ = outgoing.closed() => return,
    };
    let failure = match opened {
        Ok((connection, send, receive)) => {
            if news.send(News::Opened { link }).await.is_err() {
                return;
            }
            let ended = tokio::select! {
                ended = write(&connection, send, &outgoing) => ended,
                ended = read_shared(link, receive, &news) => ended,
                ended = read_alone(link, &connection, &news) => ended,
            };
            match ended {
                End::Closed(reason) => {
                    connection.close(0_u32.into(), reason.as_bytes());
                    return;
                }
                End::Broken(what) => {
                    connection.close(1_u32.into(), what.as_bytes());
                    LinkFailure::Unreachable(what)
                }
                End::Lost => lost(&connection.closed().await),
            }
        }
        Err(failure) => failure,
    };
    // An error says that the driver is gone: nobody needs to know.
    let _ = news.send(News::Lost { link, failure }).await;
}

/// Why a connection is not used any more.
enum End {
    /// We have closed it.
    Closed(String),
    /// The node does not follow the protocol, or has ended a stream that is to last.
    Broken(String),
    /// The connection itself is gone.
    Lost,
}

async fn open(
    target: &Target,
    endpoint: &Endpoint,
) -> Result<(Connection, SendStream, RecvStream), LinkFailure> {
    let connecting = endpoint
        .connect_with(target.config.clone(), target.address, &target.server_name)
        .map_err(|error| LinkFailure::Unreachable(error.to_string()))?;
    let connection = connecting.await.map_err(|error| lost(&error))?;
    let (send, receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
    Ok((connection, send, receive))
}

/// What the end of a connection means.
fn lost(error: &ConnectionError) -> LinkFailure {
    match error {
        ConnectionError::TransportError(error) if is_crypto(error.code) => {
            LinkFailure::Refused(format!("the node's certificate is not accepted: {error}"))
        }
        ConnectionError::ConnectionClosed(close) if is_crypto(close.error_code) => {
            LinkFailure::Refused(format!("the node does not accept this client: {close}"))
        }
        ConnectionError::VersionMismatch => {
            LinkFailure::Refused("the node speaks another version of QUIC".into())
        }
        ConnectionError::TimedOut => LinkFailure::Unreachable("no answer".into()),
        error => LinkFailure::Unreachable(error.to_string()),
    }
}

/// Whether the handshake failed for a reason of TLS (RFC 9001, section 4.8).
fn is_crypto(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

async fn write(connection: &Connection, mut shared: SendStream, outgoing: &Arc<Outgoing>) -> End {
    let mut alone = JoinSet::new();
    loop {
        let (frames, large) = match outgoing.take().await {
            Ok(taken) => taken,
            Err(reason) => return End::Closed(reason),
        };
        while alone.try_join_next().is_some() {}
        for frame in large {
            alone.spawn(write_alone(connection.clone(), frame, Arc::clone(outgoing)));
        }
        let length = frames.len();
        match shared.write_chunk(frames).await {
            Ok(()) => outgoing.written(length),
            Err(WriteError::ConnectionLost(_)) => return End::Lost,
            Err(error) => return End::Broken(format!("the stream cannot be written: {error}")),
        }
    }
}

/// Writes a large frame on a stream of its own. Where the node refuses the stream, the request is
/// not answered, and the session sees to that.
async fn write_alone(connection: Connection, frame: Bytes, outgoing: Arc<Outgoing>) {
    let length = frame.len();
    let result = async {
        let mut stream = connection.open_uni().await?;
        stream.write_chunk(frame).await?;
        stream.finish()?;
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = result.await {
        tracing::debug!(%error, "a large request was not written");
    }
    outgoing.written(length);
}

/// Reads the shared stream, and hands on together what came together.
async fn read_shared(link: LinkId, mut stream: RecvStream, news: &mpsc::Sender<News>) -> End {
    let mut buffer = BytesMut::new();
    loop {
        match stream.read_chunk(READ_BYTES_MAX, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return End::Broken("the node has ended the stream".into()),
            Err(ReadError::ConnectionLost(_)) => return End::Lost,
            Err(error) => return End::Broken(format!("the stream cannot be read: {error}")),
        }
        let responses = match take_responses(&mut buffer) {
            Ok(responses) => responses,
            Err(what) => return End::Broken(what),
        };
        if !responses.is_empty() && news.send(News::Received { link, responses }).await.is_err() {
            return End::Closed("the client is gone".into());
        }
    }
}

/// Reads the large answers, each on a stream of its own.
async fn read_alone(link: LinkId, connection: &Connection, news: &mpsc::Sender<News>) -> End {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => {
                    streams.spawn(read_one(stream));
                }
                Err(_) => return End::Lost,
            },
            Some(read) = streams.join_next() => {
                let responses = match read {
                    Ok(Ok(responses)) => responses,
                    Ok(Err(what)) => return End::Broken(what),
                    Err(error) => return End::Broken(format!("a stream's reader ended: {error}")),
                };
                if news.send(News::Received { link, responses }).await.is_err() {
                    return End::Closed("the client is gone".into());
                }
            }
        }
    }
}

async fn read_one(mut stream: RecvStream) -> Result<Vec<(u64, ClientResponse)>, String> {
    let bytes = stream
        .read_to_end(HEADER_BYTES + BODY_BYTES_MAX)
        .await
        .map_err(|error| format!("a large answer cannot be read: {error}"))?;
    let mut buffer = BytesMut::from(Bytes::from(bytes));
    let responses = take_responses(&mut buffer)?;
    if responses.len() != 1 || !buffer.is_empty() {
        return Err("a stream of its own holds something else than one answer".into());
    }
    Ok(responses)
}

fn take_responses(buffer: &mut BytesMut) -> Result<Vec<(u64, ClientResponse)>, String> {
    let mut responses = Vec::new();
    loop {
        let frame = match take_frame(buffer, BODY_BYTES_MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(responses),
            Err(error) => return Err(format!("the node sends what is no frame: {error}")),
        };
        let response = ClientResponse::read(&frame)
            .map_err(|error| format!("the node sends what is no answer: {error}"))?;
        responses.push((frame.request, response));
    }
}

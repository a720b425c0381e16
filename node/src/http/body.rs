//! Bodies of requests: bounded in size before anything is taken in, and in time while they come.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_RANGE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

/// All bodies that are held at once have no more, in KiB.
const HELD_KIB_MAX: u32 = 128 << 10;
/// A whole body comes within this.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A part of a long body comes within this.
pub(super) const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for bodies that are held in memory.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(HELD_KIB_MAX as usize)))
    }

    /// Room for so many bytes, if there is any.
    pub(super) fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
        let kib = u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| {
            Problem::new(Kind::Overloaded, "too many bodies are being taken in: come back")
                .closing()
        })
    }

    /// Takes in a whole body of at most `bytes_max`.
    pub(super) async fn read(&self, body: Incoming, bytes_max: u32) -> Result<Held, Problem> {
        let bytes_max = u64::from(bytes_max);
        let hint = body.size_hint();
        if hint.lower() > bytes_max {
            return Err(too_large(bytes_max));
        }
        let room = self.take(hint.exact().unwrap_or(bytes_max))?;
        let read = read_whole(body, bytes_max);
        let bytes = tokio::time::timeout(WHOLE_TIMEOUT, read).await.map_err(|_| too_slow())??;
        Ok(Held { bytes, _room: room })
    }
}

async fn read_whole(mut body: Incoming, bytes_max: u64) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Refuses what would be stored as something else than is meant.
pub(super) fn check_headers(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let detail = "bodies are taken as they are: leave Content-Encoding out";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Problem::invalid(
            "a part of a value cannot be written: leave Content-Range out",
        ));
    }
    Ok(())
}

fn too_large(bytes_max: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body may have at most {bytes_max} bytes")).closing()
}

/// The body did not come in time.
pub(super) fn too_slow() -> Problem {
    Problem::new(Kind::TooSlow, "the body did not come in time: send it again").closing()
}

/// The body broke off, or is not framed as HTTP frames bodies.
pub(super) fn broken(error: &hyper::Error) -> Problem {
    Problem::invalid(format!("the body cannot be read: {error}")).closing()
}

//! Answers: their bodies, and the headers that several of them bear.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;

/// An answer's body: in memory, or made while it is sent.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Response = hyper::Response<Body>;

/// A JSON document.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A JSON document a line.
pub(super) const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Bytes of which nothing is known.
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body that is there.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a body that is there.
pub(super) fn with_body(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Text for people.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    with_body(status, TEXT, text.into())
}

/// A JSON document.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    with_body(status, JSON, json_text(document))
}

/// The text of a JSON document.
pub(super) fn json_text(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("documents with text keys are always JSON")
}

/// A body that keeps something until it is sent or given up: what it was made under stays taken as
/// long as its bytes take memory.
pub(super) struct Holding<T> {
    body: Body,
    _held: T,
}

/// The answer, which keeps `held` until it is sent.
pub(super) fn holding<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| Holding { body, _held: held }.boxed_unsync())
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

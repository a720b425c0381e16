//! Bringing spans to the collector: batches, each with its time, and pauses that grow while nobody takes
//! them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use quoit_ring::NodeId;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::message::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope, KeyValue,
    Resource, ResourceSpans, ScopeSpans, Span,
};
use super::span::Told;
use crate::config::Endpoint;
use crate::metrics::Metrics;

/// A batch goes when its first request has waited so long.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Or when it has so many spans; one request more may pass it.
const BATCH_SPANS_MAX: usize = 2_048;
/// A collector takes a batch within this.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// And the last one, of a node that stops, within this.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);
/// A batch is sent so often, then dropped.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause after one that was not taken; the next are twice as long each, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// More of an answer is not read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    /// Nobody is there, or the connection ended. It may have been taken.
    #[error("the collector cannot be reached: {0}")]
    Away(#[from] io::Error),
    /// It speaks no HTTP, or not to the end. It may have been taken.
    #[error("the collector does not answer in HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// It may have been taken.
    #[error("the collector does not answer in time")]
    TooSlow,
    /// It was not taken now, and may be later.
    #[error("the collector is busy: {status}")]
    Busy {
        /// What it answered.
        status: StatusCode,
        /// When it is to be asked again.
        retry_after: Option<Duration>,
    },
    /// It will never be taken.
    #[error("the collector refuses spans: {0}")]
    Refused(StatusCode),
}

/// The thread's work.
pub(super) struct Exporter {
    endpoint: Endpoint,
    node: NodeId,
    queue: mpsc::Receiver<Told>,
    stop: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    /// How long to wait after the next failure.
    pause: Duration,
    /// The log has heard that nothing is taken.
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(
        endpoint: Endpoint,
        node: NodeId,
        queue: mpsc::Receiver<Told>,
        stop: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { endpoint, node, queue, stop, metrics, pause: PAUSE_MIN, is_failing: false }
    }

    /// Runs until it is told to stop, and sends what there is by then.
    pub(super) async fn run(mut self) {
        let mut spans = Vec::new();
        while !self.is_stopping() {
            self.gather(&mut spans).await;
            if !spans.is_empty() && !self.is_stopping() {
                let batch = self.request(std::mem::take(&mut spans));
                self.bring(batch).await;
            }
        }
        while let Ok(told) = self.queue.try_recv() {
            self.add(told, &mut spans);
        }
        if !spans.is_empty() {
            let batch = self.request(spans);
            self.bring(batch).await;
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Waits for requests that have ended, and then a little for more.
    async fn gather(&mut self, spans: &mut Vec<Span>) {
        let mut until = None;
        while spans.len() < BATCH_SPANS_MAX {
            let waited = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                _ = self.stop.wait_for(|stopping| *stopping) => return,
                () = waited => return,
                Some(told) = self.queue.recv() => told,
            };
            until.get_or_insert_with(|| Instant::now() + BATCH_WAIT);
            self.add(told, spans);
        }
    }

    fn add(&self, told: Told, spans: &mut Vec<Span>) {
        spans.extend(told.into_spans(self.node, span_id));
    }

    fn request(&self, spans: Vec<Span>) -> Batch {
        let span_count = spans.len() as u64;
        let scope = InstrumentationScope {
            name: "quoit".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let resource = Resource {
            attributes: vec![
                KeyValue::text("service.name", "quoit"),
                KeyValue::text("service.instance.id", self.node.to_string()),
                KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
            ],
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans }];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec().into();
        Batch { span_count, body }
    }

    /// Sends a batch until it is taken, or for as long as it is worth it.
    async fn bring(&mut self, batch: Batch) {
        for attempt in 1..=ATTEMPTS_MAX {
            let timeout = if self.is_stopping() { LAST_TIMEOUT } else { POST_TIMEOUT };
            let posted = tokio::time::timeout(timeout, post(&self.endpoint, batch.body.clone()));
            let posted = tokio::select! {
                posted = posted => posted.unwrap_or(Err(PostError::TooSlow)),
                // Then the rest of the time is the shorter one.
                () = stopped_for(self.stop.clone(), LAST_TIMEOUT), if !self.is_stopping() => {
                    Err(PostError::TooSlow)
                }
            };
            let error = match posted {
                Ok(rejected) => return self.on_taken(&batch, rejected),
                Err(error) => error,
            };
            self.on_failed(&error);
            let longer = match error {
                PostError::Refused(_) => break,
                PostError::Busy { retry_after, .. } => retry_after.unwrap_or_default(),
                PostError::Away(_) | PostError::Http(_) | PostError::TooSlow => Duration::ZERO,
            };
            let pause = self.pause.max(longer.min(PAUSE_MAX));
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            if self.is_stopping() || attempt == ATTEMPTS_MAX {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stop.wait_for(|stopping| *stopping) => {}
            }
        }
        self.metrics.spans_dropped(batch.span_count);
    }

    fn on_taken(&mut self, batch: &Batch, rejected: u64) {
        let rejected = rejected.min(batch.span_count);
        self.metrics.spans_exported(batch.span_count - rejected);
        self.metrics.spans_dropped(rejected);
        self.pause = PAUSE_MIN;
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(endpoint = %self.endpoint, "spans are taken again");
        }
    }

    fn on_failed(&mut self, error: &PostError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(endpoint = %self.endpoint, %error, "spans are not taken");
        }
    }
}

/// Spans, encoded.
struct Batch {
    span_count: u64,
    body: Bytes,
}

/// Completes so long after the node was told to stop.
async fn stopped_for(mut stop: watch::Receiver<bool>, time: Duration) {
    // An error says that whoever stops it is gone: as good as told.
    let _ = stop.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(time).await;
}

/// Posts a batch; how many of its spans were rejected.
async fn post(endpoint: &Endpoint, body: Bytes) -> Result<u64, PostError> {
    let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this, whether or not there is an answer.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let host = match endpoint.host() {
        host if host.contains(':') => format!("[{host}]:{}", endpoint.port()),
        host => format!("{host}:{}", endpoint.port()),
    };
    let request = Request::post(endpoint.path())
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, concat!("quoit/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .expect("an endpoint's parts make a request");
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let header = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = header.and_then(|text| text.parse().ok()).map(Duration::from_secs);
            Err(PostError::Busy { status, retry_after })
        }
        _ if !status.is_success() => Err(PostError::Refused(status)),
        _ => {
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            // An answer that is not understood says nothing of spans that were rejected.
            let told = body.ok().and_then(|body| {
                ExportTraceServiceResponse::decode(body.to_bytes()).ok()?.partial_success
            });
            Ok(told.and_then(|told| u64::try_from(told.rejected_spans).ok()).unwrap_or(0))
        }
    }
}

/// An id that no other span has.
fn span_id() -> u64 {
    // Zero stands for none.
    getrandom::u64().expect("the system gives random numbers").max(1)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Theirs;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::super::span;
    use super::*;

    #[test]
    fn what_is_sent_is_what_opentelemetry_reads() {
        let endpoint = "http://127.0.0.1:4318".parse().unwrap();
        let (_sender, queue) = mpsc::channel(1);
        let (_stop, stopping) = watch::channel(false);
        let exporter = Exporter::new(endpoint, NodeId(3), queue, stopping, Metrics::new());
        let mut spans = Vec::new();
        exporter.add(span::tests::told(), &mut spans);
        let batch = exporter.request(spans.clone());
        let read: Theirs = Message::decode(batch.body.clone()).unwrap();
        let resource = read.resource_spans[0].resource.as_ref().unwrap();
        let text_of = |key: &str| {
            let one = resource.attributes.iter().find(|one| one.key == key).unwrap();
            match one.value.as_ref().unwrap().value.as_ref().unwrap() {
                Value::StringValue(text) => text.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            (text_of("service.name"), text_of("service.instance.id")),
            ("quoit".into(), "n3".into())
        );
        let scope = &read.resource_spans[0].scope_spans[0];
        assert_eq!(scope.spans.len() as u64, batch.span_count);
        for (ours, theirs) in spans.iter().zip(&scope.spans) {
            assert_eq!(
                (&ours.span_id, &ours.parent_span_id),
                (&theirs.span_id, &theirs.parent_span_id)
            );
            assert_eq!((&ours.name, ours.kind), (&theirs.name, theirs.kind));
            assert_eq!(ours.start_time_unix_nano, theirs.start_time_unix_nano);
            assert_eq!(ours.end_time_unix_nano, theirs.end_time_unix_nano);
        }
        assert_eq!(read.encode_to_vec(), batch.body, "and there is nothing else in it");
    }
}

//! Finished requests as spans.
//!
//! A request is one span. Its stages are spans below it: a stage of another node lies below the wait for
//! that node, and a replica that was asked by the primary that a write was handed on to, below that wait.
//! Their times are the coordinator's: see [`Stage::began_us`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quoit_core::FinishedTrace;
use quoit_protocol::{Stage, StageKind, TraceId};
use quoit_ring::NodeId;

use super::message::{KeyValue, Span, SpanKind, Status, StatusCode};
use crate::callers;
use crate::metrics::{Indexed as _, Outcome};

/// A request that has ended, as it is told to the exporting thread.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// This node has coordinated it.
    Coordinated(Coordinated),
    /// This node's HTTP has served it.
    Served(Served),
}

/// A client's request that this node has coordinated.
#[derive(Debug, Clone)]
pub(crate) struct Coordinated {
    pub(crate) trace: Box<FinishedTrace>,
    /// When it came.
    pub(crate) began: SystemTime,
}

/// A request for data by HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) trace: TraceId,
    /// The span of whoever asked.
    pub(crate) parent: u64,
    pub(crate) method: String,
    /// The path, with names in the place of tables and keys.
    pub(crate) route: &'static str,
    pub(crate) table: Option<String>,
    pub(crate) status: u16,
    pub(crate) began: SystemTime,
    /// Until its answer began.
    pub(crate) took: Duration,
}

impl Told {
    /// How many spans are made of it.
    pub(crate) fn span_count(&self) -> u64 {
        match self {
            Self::Coordinated(Coordinated { trace, .. }) => 1 + trace.stages.len() as u64,
            Self::Served(_) => 1,
        }
    }

    /// Its spans, each with an id that `draw_id` gives, which is not 0.
    pub(super) fn into_spans(self, own: NodeId, draw_id: impl FnMut() -> u64) -> Vec<Span> {
        match self {
            Self::Coordinated(request) => request.into_spans(own, draw_id),
            Self::Served(request) => vec![request.into_span(draw_id)],
        }
    }
}

impl Coordinated {
    fn into_spans(self, own: NodeId, mut draw_id: impl FnMut() -> u64) -> Vec<Span> {
        let FinishedTrace { request, failure, took_us, stages, .. } = *self.trace;
        let began = unix_ns(self.began);
        let outcome = failure.as_ref().map_or(Outcome::Done, callers::outcome);
        let (operation, root) = (request.operation.name(), draw_id());
        let mut attributes = vec![
            KeyValue::text("db.system.name", "quoit"),
            KeyValue::text("db.operation.name", operation),
            KeyValue::text("quoit.outcome", outcome.name()),
            KeyValue::text("quoit.coordinator", own.to_string()),
        ];
        attributes.extend(request.table.map(|name| KeyValue::text("db.collection.name", name)));
        let level = request.level.map(|level| KeyValue::text("quoit.level", level.to_string()));
        attributes.extend(level);
        let mut spans = vec![Span {
            trace_id: trace_bytes(request.trace),
            span_id: root.to_be_bytes().to_vec(),
            parent_span_id: Vec::new(),
            name: operation.to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: began,
            end_time_unix_nano: began.saturating_add(us(took_us)),
            attributes,
            status: failure.map(|_| Status { code: StatusCode::Error.into() }),
        }];
        let ids: Vec<u64> = stages.iter().map(|_| draw_id()).collect();
        for (at, stage) in stages.iter().enumerate() {
            let parent = parent_of(at, &stages).map_or(root, |parent| ids[parent]);
            let start = began.saturating_add(us(stage.began_us));
            spans.push(Span {
                trace_id: trace_bytes(request.trace),
                span_id: ids[at].to_be_bytes().to_vec(),
                parent_span_id: parent.to_be_bytes().to_vec(),
                name: stage.kind.name().to_owned(),
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: start,
                end_time_unix_nano: start.saturating_add(us(stage.took_us)),
                attributes: vec![KeyValue::text("quoit.node", stage.node.to_string())],
                status: None,
            });
        }
        spans
    }
}

impl Served {
    fn into_span(self, mut draw_id: impl FnMut() -> u64) -> Span {
        let start = unix_ns(self.began);
        let took = u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX);
        let name = format!("{} {}", self.method, self.route);
        let mut attributes = vec![
            KeyValue::text("http.request.method", self.method),
            KeyValue::text("http.route", self.route),
            KeyValue::number("http.response.status_code", self.status),
        ];
        attributes.extend(self.table.map(|name| KeyValue::text("db.collection.name", name)));
        Span {
            trace_id: trace_bytes(self.trace),
            span_id: draw_id().to_be_bytes().to_vec(),
            parent_span_id: self.parent.to_be_bytes().to_vec(),
            name,
            kind: SpanKind::Server.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(took),
            attributes,
            // What was wrong with a request is no error of its server.
            status: (self.status >= 500).then(|| Status { code: StatusCode::Error.into() }),
        }
    }
}

/// The wait that a stage is part of: the shortest one, if there are several.
fn parent_of(at: usize, stages: &[Stage]) -> Option<usize> {
    let stage = &stages[at];
    let is_parent = |wait: &Stage| match (wait.kind, stage.kind) {
        (_, StageKind::Forward) => false,
        (StageKind::Forward, StageKind::Replica) => true,
        (StageKind::Replica, StageKind::Replica) => false,
        (StageKind::Replica | StageKind::Forward, _) => wait.node == stage.node,
        _ => false,
    };
    let end = |stage: &Stage| stage.began_us.saturating_add(stage.took_us);
    let holds = |wait: &Stage| wait.began_us <= stage.began_us && end(stage) <= end(wait);
    let found = stages.iter().enumerate().filter(|(_, wait)| is_parent(wait) && holds(wait));
    found.min_by_key(|(_, wait)| wait.took_us).map(|(parent, _)| parent)
}

fn trace_bytes(trace: TraceId) -> Vec<u8> {
    [trace.0.to_be_bytes(), trace.1.to_be_bytes()].concat()
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn us(microseconds: u64) -> u64 {
    microseconds.saturating_mul(1_000)
}

#[cfg(test)]
pub(super) mod tests {
    use quoit_core::{Instant, TracedOperation, TracedRequest};
    use quoit_ring::Level;

    use super::*;

    const TRACE: TraceId = TraceId(0x0af7_6519_16cd_43dd, 0x8448_eb21_1c80_319c);

    fn stage(node: u64, kind: StageKind, began_us: u64, took_us: u64) -> Stage {
        Stage { node: NodeId(node), kind, began_us, took_us }
    }

    fn coordinated(stages: Vec<Stage>) -> Told {
        let request = TracedRequest {
            trace: TRACE,
            operation: TracedOperation::Put,
            table: Some("carts".to_owned()),
            level: Some(Level::Quorum),
        };
        let trace =
            FinishedTrace { request, failure: None, began: Instant(5), took_us: 700, stages };
        let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Told::Coordinated(Coordinated { trace: Box::new(trace), began })
    }

    pub(in crate::telemetry) fn told() -> Told {
        coordinated(vec![
            stage(1, StageKind::Queue, 0, 7),
            stage(2, StageKind::Replica, 7, 300),
            stage(2, StageKind::Commit, 107, 60),
        ])
    }

    fn spans(told: Told) -> Vec<Span> {
        let mut drawn = 0;
        told.into_spans(NodeId(1), || {
            drawn += 1;
            drawn
        })
    }

    fn texts(span: &Span) -> Vec<(&str, String)> {
        let shown = |one: &KeyValue| match &one.value.as_ref().unwrap().value {
            Some(super::super::message::Value::Text(text)) => text.clone(),
            Some(super::super::message::Value::Number(number)) => number.to_string(),
            None => String::new(),
        };
        span.attributes.iter().map(|one| (one.key.as_str(), shown(one))).collect()
    }

    #[test]
    fn a_request_is_a_span_and_its_stages_lie_below_it_at_their_times() {
        let spans = spans(told());
        assert_eq!(spans.len() as u64, told().span_count());
        let start = 1_700_000_000_000_000_000;
        let shown: Vec<_> = spans
            .iter()
            .map(|span| {
                let parent = span.parent_span_id.last().copied().unwrap_or(0);
                let (from, to) = (span.start_time_unix_nano, span.end_time_unix_nano);
                (span.name.as_str(), span.span_id[7], parent, from - start, to - from)
            })
            .collect();
        let expected = [
            ("put", 1, 0, 0, 700_000),
            ("queue", 2, 1, 0, 7_000),
            ("replica", 3, 1, 7_000, 300_000),
            ("commit", 4, 3, 107_000, 60_000),
        ];
        assert_eq!(shown, expected);
        let expected = [
            ("db.system.name", "quoit"),
            ("db.operation.name", "put"),
            ("quoit.outcome", "done"),
            ("quoit.coordinator", "n1"),
            ("db.collection.name", "carts"),
            ("quoit.level", "quorum"),
        ];
        assert_eq!(texts(&spans[0]), expected.map(|(name, text)| (name, text.to_owned())));
        assert_eq!(texts(&spans[3]), [("quoit.node", "n2".to_owned())]);
        assert!(spans.iter().all(|span| span.trace_id == TRACE.to_string().as_bytes_of_hex()));
    }

    #[test]
    fn what_was_handed_on_lies_below_the_wait_for_it() {
        let stages = vec![
            stage(1, StageKind::Queue, 0, 0),
            stage(2, StageKind::Forward, 0, 500),
            stage(2, StageKind::Network, 0, 100),
            stage(2, StageKind::Commit, 60, 100),
            stage(1, StageKind::Replica, 60, 400),
            stage(1, StageKind::Commit, 200, 100),
        ];
        let parents: Vec<_> = (0..stages.len()).map(|at| parent_of(at, &stages)).collect();
        assert_eq!(parents, [None, None, Some(1), Some(1), Some(1), Some(4)]);
    }

    #[test]
    fn a_request_by_http_lies_below_the_span_of_whoever_asked() {
        let served = Served {
            trace: TRACE,
            parent: 0xb7ad_6b71_6920_3331,
            method: "GET".to_owned(),
            route: "/v1/tables/{table}/keys/{key}",
            table: Some("carts".to_owned()),
            status: 503,
            began: UNIX_EPOCH,
            took: Duration::from_micros(3),
        };
        let [span] = &spans(Told::Served(served))[..] else { panic!("one span") };
        assert_eq!(span.name, "GET /v1/tables/{table}/keys/{key}");
        assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_eq!(span.end_time_unix_nano, 3_000);
        assert_eq!(span.status, Some(Status { code: 2 }));
        assert!(texts(span).contains(&("http.response.status_code", "503".to_owned())));
    }

    trait OfHex {
        fn as_bytes_of_hex(&self) -> Vec<u8>;
    }

    impl OfHex for String {
        fn as_bytes_of_hex(&self) -> Vec<u8> {
            let digits = |at: usize| u8::from_str_radix(&self[at..at + 2], 16).unwrap();
            (0..self.len()).step_by(2).map(digits).collect()
        }
    }
}

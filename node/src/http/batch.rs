//! Many operations in one request: a JSON document a line, answered in their order, a line each, while
//! they still come. Each stands for itself: one that fails keeps no other from being done, together
//! they are no transaction, and two of one key are in no order.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use quoit_client::{ConflictPolicy, Context, Key, Table, Written};
use quoit_core::access::Need;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::asker::Asker;
use super::body::check_headers;
use super::form::reading_json;
use super::gateway::Gateway;
use super::lines::{Line, Lines};
use super::problem::{Kind, Outcome, Problem};
use super::query::{Query, ttl_of};
use super::response::{self, JSON_LINES, Response};
use super::tag::{context_of, context_text};

/// So many operations of one batch are under way at once.
const IN_FLIGHT_MAX: usize = 64;
/// And so many bytes of their lines, and of what follows them.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Operations of one batch.
const OPERATIONS_MAX: u64 = 1_000_000;
/// A batch takes no longer, however steadily it comes.
const LIFETIME: Duration = Duration::from_secs(600);
/// What surrounds keys, values and contexts in a line, in bytes.
const SURROUNDINGS_BYTES: usize = 64 << 10;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    op: Verb,
    key: Option<String>,
    key_base64: Option<String>,
    sort: Option<String>,
    sort_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    context: Option<String>,
    ttl: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Get,
    Put,
    Delete,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Operation {
    Get(Key),
    Put { key: Key, value: Bytes, context: Context, ttl: Option<Duration> },
    Delete { key: Key, context: Option<Context> },
}

/// A batch on its way.
struct Batch {
    lines: Lines,
    /// Held for the lines in memory.
    _room: OwnedSemaphorePermit,
    table: Arc<Table>,
    asker: Arc<Asker>,
    under_way: VecDeque<UnderWay>,
    /// The lengths of the lines under way.
    held_bytes: usize,
    line: u64,
    until: Instant,
    /// What ends it before the last line.
    trouble: Option<Problem>,
    ended: bool,
}

/// An operation that was begun.
struct UnderWay {
    line_bytes: usize,
    answer: JoinHandle<String>,
}

/// Answers a batch.
pub(super) async fn serve(
    gateway: &Gateway,
    table: &str,
    asker: Asker,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["r", "w", "timeout"])?;
    let (read, write) = (query.level("r")?, query.level("w")?);
    check_headers(request.headers())?;
    check_type(&request)?;
    let timeout = query.timeout()?;
    let target = gateway.table(table, timeout).await?;
    let mut table = target.table.with_timeout(timeout);
    if let Some(level) = read {
        table = table.with_read_level(level);
    }
    if let Some(level) = write {
        table = table.with_write_level(level);
    }
    // A value in base64 is a third longer; one that is text may be escaped, and then go as base64.
    let value_bytes_max = target.limits.value_bytes_max as usize;
    let line_bytes_max = value_bytes_max / 2 * 3 + SURROUNDINGS_BYTES;
    let body = request.into_body();
    let held = body
        .size_hint()
        .exact()
        .map_or(HELD_BYTES_MAX as u64, |length| length.min(HELD_BYTES_MAX as u64));
    let batch = Batch {
        _room: gateway.room.take(held)?,
        lines: Lines::new(body, line_bytes_max),
        table: Arc::new(table),
        asker: Arc::new(asker),
        under_way: VecDeque::new(),
        held_bytes: 0,
        line: 0,
        until: Instant::now() + LIFETIME,
        trouble: None,
        ended: false,
    };
    let mut response = response::empty(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
    let body = StreamBody::new(answers(batch)).boxed_unsync();
    Ok(response.map(|_| body))
}

/// A page in a browser must ask for leave to send this type: see `access`.
fn check_type(request: &Request<Incoming>) -> Result<(), Problem> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/x-ndjson") => Ok(()),
        _ => {
            let detail = "a batch is JSON lines: send it as application/x-ndjson";
            Err(Problem::new(Kind::UnsupportedMediaType, detail).closing())
        }
    }
}

/// The answers' lines, in the order of the operations.
fn answers(batch: Batch) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(batch, |mut batch| async move {
        let text = batch.next().await?;
        Some((Ok(Frame::data(text.into())), batch))
    })
}

impl Batch {
    /// The next answer. Takes in operations as long as there is room for them.
    async fn next(&mut self) -> Option<String> {
        loop {
            let is_full =
                self.under_way.len() >= IN_FLIGHT_MAX || self.held_bytes >= HELD_BYTES_MAX;
            if is_full || self.ended {
                let answer = first(&mut self.under_way).await;
                self.pass();
                let end = || self.trouble.take().map(|problem| answer_of(self.line, &problem));
                return answer.or_else(end);
            }
            // An answer that is there goes first, so that nobody waits for a line to see it.
            tokio::select! {
                biased;
                Some(answer) = first(&mut self.under_way) => {
                    self.pass();
                    return Some(answer);
                }
                line = self.lines.next() => self.take(line),
                () = tokio::time::sleep_until(self.until) => self.take(Err(Problem::new(
                    Kind::TooSlow,
                    format!("a batch may take {} s: send the rest as another", LIFETIME.as_secs()),
                ))),
            }
        }
    }

    /// The first answer was given.
    fn pass(&mut self) {
        if let Some(UnderWay { line_bytes, .. }) = self.under_way.pop_front() {
            self.held_bytes -= line_bytes;
        }
    }

    fn take(&mut self, line: Result<Option<Line>, Problem>) {
        match line {
            Ok(None) => self.ended = true,
            Err(problem) => {
                self.line += 1;
                (self.ended, self.trouble) = (true, Some(problem));
            }
            Ok(Some(Line::Whole(bytes))) if bytes.trim_ascii().is_empty() => self.line += 1,
            Ok(Some(line)) => {
                self.line += 1;
                if self.line > OPERATIONS_MAX {
                    let detail = format!("a batch may have {OPERATIONS_MAX} lines");
                    (self.ended, self.trouble) = (true, Some(Problem::invalid(detail)));
                    return;
                }
                self.begin(line);
            }
        }
    }

    fn begin(&mut self, line: Line) {
        let (number, table) = (self.line, Arc::clone(&self.table));
        let asker = Arc::clone(&self.asker);
        let line_bytes = match &line {
            Line::Whole(bytes) => bytes.len(),
            Line::TooLong => 0,
        };
        self.held_bytes += line_bytes;
        let answer = tokio::spawn(async move {
            let done = match line {
                Line::Whole(bytes) => run(&table, &asker, &bytes).await,
                Line::TooLong => Err(Problem::new(Kind::TooLarge, "the line is too long")
                    .with_outcome(Outcome::NotDone)),
            };
            match done {
                Ok(mut document) => {
                    document["line"] = number.into();
                    format!("{document}\n")
                }
                Err(problem) => answer_of(number, &problem),
            }
        });
        self.under_way.push_back(UnderWay { line_bytes, answer });
    }
}

/// The first answer, once it is there; `None` where none is under way.
async fn first(under_way: &mut VecDeque<UnderWay>) -> Option<String> {
    let answer = &mut under_way.front_mut()?.answer;
    Some(answer.await.unwrap_or_else(|_| lost()))
}

/// A task that did not come to its end, which happens only where the program is at fault.
fn lost() -> String {
    let problem = Problem::new(Kind::Internal, "an operation was lost; it may be done");
    answer_of(0, &problem.with_outcome(Outcome::Unknown))
}

fn answer_of(line: u64, problem: &Problem) -> String {
    let status = problem.status().as_u16();
    format!("{}\n", json!({ "line": line, "status": status, "problem": problem.document() }))
}

async fn run(table: &Table, asker: &Asker, line: &[u8]) -> Result<Json, Problem> {
    let keeps_siblings = table.definition().options.policy == ConflictPolicy::Siblings;
    let operation = operation(line).map_err(|problem| problem.with_outcome(Outcome::NotDone))?;
    if !matches!(operation, Operation::Get(_)) {
        asker.check(Need::Write(table.name()))?;
    }
    match operation {
        Operation::Get(key) => {
            let reading = table.get(key).await?;
            let mut document = reading_json(&reading);
            document["status"] = match reading.siblings.len() {
                0 => 404,
                1 => 200,
                _ => 300,
            }
            .into();
            Ok(document)
        }
        Operation::Put { key, value, context, ttl } => {
            let mut table = table.clone();
            if let Some(ttl) = ttl {
                table = table.with_ttl(ttl);
            }
            Ok(written(&table.put(key, value, &context).await?))
        }
        Operation::Delete { context: None, .. } if keeps_siblings => {
            let detail = "the table keeps siblings: give the context that a read of the key gave";
            Err(Problem::new(Kind::ContextRequired, detail).with_outcome(Outcome::NotDone))
        }
        Operation::Delete { key, context } => {
            Ok(written(&table.delete(key, &context.unwrap_or_default()).await?))
        }
    }
}

fn written(written: &Written) -> Json {
    json!({
        "status": 204,
        "context": context_text(&written.context),
        "acknowledged": written.acknowledged,
    })
}

fn operation(line: &[u8]) -> Result<Operation, Problem> {
    let given: Given = serde_json::from_slice(line)
        .map_err(|error| Problem::invalid(format!("the line is not understood: {error}")))?;
    let partition = bytes("key", given.key, given.key_base64)?
        .ok_or_else(|| Problem::invalid("the line has no key"))?;
    let sort = bytes("sort", given.sort, given.sort_base64)?.unwrap_or_default();
    let key = Key { partition, sort };
    let value = bytes("value", given.value, given.value_base64)?;
    // An empty context says no more than none.
    let context = given.context.as_deref().map(context_of).transpose()?;
    let context = context.filter(|context| !context.is_none());
    let ttl = given.ttl.map(ttl_of).transpose();
    let ttl = ttl.map_err(|range| Problem::invalid(format!("ttl: {range}")))?;
    let only = |what: &str, for_whom: &str| Problem::invalid(format!("{what} is for {for_whom}"));
    match (given.op, value) {
        (Verb::Put, Some(value)) => {
            Ok(Operation::Put { key, value, context: context.unwrap_or_default(), ttl })
        }
        (Verb::Put, None) => Err(Problem::invalid("the line has no value")),
        (_, Some(_)) => Err(only("value", "put")),
        (_, None) if ttl.is_some() => Err(only("ttl", "put")),
        (Verb::Get, None) if context.is_some() => Err(only("context", "put and delete")),
        (Verb::Get, None) => Ok(Operation::Get(key)),
        (Verb::Delete, None) => Ok(Operation::Delete { key, context }),
    }
}

/// Up to there a number of JSON tells nanoseconds apart.
const EXACT_SECONDS_MAX: f64 = 1e6;

/// Reads a line, for [`super::decoding`]: what it asks for is bounded by the line, and is the same where
/// all of it is given in base64.
pub(super) fn understand(line: &[u8]) {
    let Ok(read) = operation(line) else { return };
    let given = |key: &Key| {
        let (partition, sort) = (STANDARD.encode(&key.partition), STANDARD.encode(&key.sort));
        json!({ "key_base64": partition, "sort_base64": sort })
    };
    let mut again = match &read {
        Operation::Get(key) | Operation::Delete { key, .. } | Operation::Put { key, .. } => {
            given(key)
        }
    };
    match &read {
        Operation::Get(_) => again["op"] = "get".into(),
        Operation::Put { value, context, ttl, .. } => {
            again["op"] = "put".into();
            again["value_base64"] = STANDARD.encode(value).into();
            again["context"] = context_text(context).into();
            again["ttl"] = ttl.map(|ttl| ttl.as_secs_f64()).into();
        }
        Operation::Delete { context, .. } => {
            again["op"] = "delete".into();
            again["context"] = context.as_ref().map(context_text).into();
        }
    }
    if again["ttl"].as_f64().is_some_and(|ttl| ttl > EXACT_SECONDS_MAX) {
        return;
    }
    let again = operation(again.to_string().as_bytes());
    assert!(again.is_ok_and(|again| again == read), "a line says the same in base64");
}

/// Bytes that are given as text or in base64.
fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid(format!("give either {name} or {name}_base64, not both")))
        }
        (text, None) => Ok(text.map(Bytes::from)),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(|bytes| Some(bytes.into()))
            .map_err(|_| Problem::invalid(format!("{name}_base64 is no base64 with padding"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: &'static [u8], sort: &'static [u8]) -> Key {
        Key { partition: partition.into(), sort: sort.into() }
    }

    #[test]
    fn operations_are_read() {
        assert_eq!(
            operation(br#"{"op": "get", "key": "k", "sort_base64": "/w=="}"#),
            Ok(Operation::Get(key(b"k", b"\xff")))
        );
        let put = br#"{"op":"put","key_base64":"AA==","value":"v","context":"AP8","ttl":1.5}"#;
        let expected = Operation::Put {
            key: key(b"\0", b""),
            value: "v".into(),
            context: Context::from_bytes(vec![0, 255]),
            ttl: Some(Duration::from_millis(1_500)),
        };
        assert_eq!(operation(put), Ok(expected));
        let delete = Operation::Delete { key: key(b"k", b""), context: None };
        assert_eq!(operation(br#"{"op":"delete","key":"k"}"#), Ok(delete));
    }

    #[test]
    fn lines_that_make_no_sense_say_why() {
        for (line, why) in [
            ("nonsense", "not understood"),
            ("{}", "op"),
            (r#"{"op":"get"}"#, "no key"),
            (r#"{"op":"steal","key":"k"}"#, "steal"),
            (r#"{"op":"put","key":"k"}"#, "no value"),
            (r#"{"op":"get","key":"k","value":"v"}"#, "for put"),
            (r#"{"op":"delete","key":"k","ttl":1}"#, "for put"),
            (r#"{"op":"get","key":"k","context":"AP8"}"#, "for put and delete"),
            (r#"{"op":"get","key":"k","key_base64":"aw=="}"#, "not both"),
            (r#"{"op":"get","key_base64":"a"}"#, "no base64"),
            (r#"{"op":"put","key":"k","value":"v","ttl":0}"#, "ttl"),
            (r#"{"op":"put","key":"k","value":"v","context":"="}"#, "context"),
            (r#"{"op":"get","key":"k","sorted":true}"#, "sorted"),
        ] {
            let problem = operation(line.as_bytes()).expect_err(line);
            let text = serde_json::to_string(&problem.document()).unwrap();
            assert!(text.contains(why), "{line}: {text}");
        }
    }
}

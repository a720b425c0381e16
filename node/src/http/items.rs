//! The items of one partition key, by sort key, as JSON lines: page after page while they are sent, so
//! that no more than a page is held. Where more is left, the last line is a cursor; where something
//! fails midway, it is the problem, and the cursor from which to go on.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, StatusCode};
use quoit_client::{Item, ScanRange, Table};
use serde_json::json;
use tokio::time::Instant;

use super::accept;
use super::form::item_json;
use super::gateway::Gateway;
use super::problem::{Kind, Problem};
use super::query::{Query, contradiction};
use super::response::{self, JSON_LINES, Response};

/// Items of an answer when nobody says otherwise, and the most.
const LIMIT: u64 = 1_000;
const LIMIT_MAX: u64 = 100_000;
/// A long answer is cut after this; its cursor leads on.
const LIFETIME: Duration = Duration::from_secs(60);

/// A scan on its way.
struct Scan {
    table: Table,
    partition: Bytes,
    from: Bytes,
    to: Option<Bytes>,
    /// So many items may still be sent.
    left: u64,
    until: Instant,
}

/// Answers with the items of a partition key.
pub(super) async fn serve(
    gateway: &Gateway,
    table: &str,
    partition: Bytes,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let known = ["from", "to", "limit", "cursor", "level", "r", "timeout"];
    let query = Query::parse(request.uri().query(), &known)?;
    check_accept(request.headers())?;
    let timeout = query.timeout()?;
    let level = query.level("r")?;
    let limit = query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT);
    let from = match (query.bytes("from"), query.bytes("cursor")) {
        (Some(_), Some(_)) => return Err(contradiction("from", "cursor")),
        (None, Some(cursor)) => from_cursor(&cursor)?,
        (from, None) => from.unwrap_or_default(),
    };
    let to = query.bytes("to");
    if to.as_ref().is_some_and(|to| *to < from) {
        return Err(Problem::new(Kind::CannotBeHad, "the range ends before it begins"));
    }
    let target = gateway.table(table, timeout).await?;
    let length = partition.len() + from.len().max(to.as_ref().map_or(0, Bytes::len));
    if length > target.limits.key_bytes_max as usize {
        let detail = format!("a key may have {} bytes", target.limits.key_bytes_max);
        return Err(Problem::new(Kind::KeyTooLong, detail));
    }
    let mut table = target.in_time();
    if let Some(level) = level {
        table = table.with_read_level(level);
    }
    let until = Instant::now() + LIFETIME;
    let mut scan = Scan { table, partition, from, to, left: limit, until };
    // What the first page says of the request becomes the status.
    let first = scan.next().await?;
    let mut response = response::empty(StatusCode::OK);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, JSON_LINES);
    let body = StreamBody::new(lines(scan, first)).boxed_unsync();
    Ok(response.map(|_| body))
}

fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    accept::choose(headers, &[("application/x-ndjson", ()), ("application/json", ())])
}

impl Scan {
    /// The next items; none at the end. After a problem it may be called again.
    async fn next(&mut self) -> Result<Vec<Item>, Problem> {
        let range =
            ScanRange { from: self.from.clone(), to: self.to.clone(), limit: Some(self.left) };
        let items = self.table.scan(self.partition.clone(), range).next().await?;
        let items = items.unwrap_or_default();
        self.left = self.left.saturating_sub(items.len() as u64);
        if let Some(last) = items.last() {
            self.from = just_after(&last.key.sort);
        }
        Ok(items)
    }

    fn cursor(&self) -> String {
        cursor_of(&self.from)
    }

    /// Whether the answer must end here, although there may be more.
    fn is_over(&self) -> bool {
        self.left == 0 || Instant::now() >= self.until
    }
}

/// The text from which a scan goes on.
pub(super) fn cursor_of(from: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(from)
}

/// Where the scan goes on that gave this text.
pub(super) fn from_cursor(cursor: &[u8]) -> Result<Bytes, Problem> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .map(Bytes::from)
        .map_err(|_| Problem::invalid("the cursor is not one that a scan gave"))
}

/// The least byte string that is greater.
fn just_after(sort: &[u8]) -> Bytes {
    [sort, &[0]].concat().into()
}

/// The lines of a scan whose first page is there.
fn lines(scan: Scan, first: Vec<Item>) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(Some((scan, first)), |page| async move {
        let (mut scan, items) = page.filter(|(_, items)| !items.is_empty())?;
        let mut text = String::new();
        for item in &items {
            text.push_str(&item_json(item).to_string());
            text.push('\n');
        }
        let mut next = None;
        let mut last = None;
        if scan.is_over() {
            // Whether there is more is known only by reading on.
            last = Some(json!({ "cursor": scan.cursor() }));
        } else {
            match scan.next().await {
                Ok(items) => next = Some((scan, items)),
                Err(problem) => {
                    let problem = problem.document();
                    last = Some(json!({ "cursor": scan.cursor(), "problem": problem }));
                }
            }
        }
        if let Some(last) = last {
            text.push_str(&format!("{last}\n"));
        }
        Some((Ok(Frame::data(text.into())), next))
    })
}

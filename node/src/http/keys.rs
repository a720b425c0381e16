//! One key: GET, PUT and DELETE.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Method, Request, StatusCode};
use quoit_client::{ConflictPolicy, Context, Key, Level, Limits, Reading, Written};

use super::body;
use super::form::{self, Form};
use super::gateway::{Gateway, Target};
use super::problem::{Kind, Outcome, Problem};
use super::query::Query;
use super::response::{self, Response};
use super::tag::{self, Preconditions, Tag, Unmet, context_of_headers, put_context, put_tag};

/// How many replicas acknowledged.
const ACKNOWLEDGED: HeaderName = HeaderName::from_static("quoit-acknowledged");

/// Answers a request for one key.
pub(super) async fn serve(
    gateway: &Gateway,
    table: &str,
    partition: Bytes,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    match *request.method() {
        Method::PUT => put(gateway, table, partition, request).await,
        Method::DELETE => delete(gateway, table, partition, request).await,
        _ => get(gateway, table, partition, request).await,
    }
}

async fn get(
    gateway: &Gateway,
    table: &str,
    partition: Bytes,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["sort", "level", "r", "timeout"])?;
    let level = query.level("r")?;
    let preconditions = Preconditions::of_headers(request.headers())?;
    let target = gateway.table(table, query.timeout()?).await?;
    let key = key(partition, &query, &target.limits)?;
    let reading = read(&target, &key, level).await?;
    match preconditions.check(Tag::of(&reading).as_ref()) {
        _ if reading.is_absent() && !preconditions.demands_match() => return Err(absent(&reading)),
        Ok(()) => {}
        Err(Unmet::Match) => return Err(tag::precondition_failed(&reading)),
        Err(Unmet::NoneMatch) => {
            let form = Form::choose(request.headers(), &reading)?;
            let mut response = response::empty(StatusCode::NOT_MODIFIED);
            form::put_validators(response.headers_mut(), &reading, form);
            return Ok(response);
        }
    }
    let form = Form::choose(request.headers(), &reading).map_err(|problem| {
        let context = tag::context_header(&reading.context);
        context.into_iter().fold(problem, |problem, (name, value)| problem.with_header(name, value))
    })?;
    Ok(form::render(&reading, form))
}

async fn put(
    gateway: &Gateway,
    table: &str,
    partition: Bytes,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["sort", "level", "w", "ttl", "timeout"])?;
    let (level, ttl) = (query.level("w")?, query.ttl()?);
    body::check_headers(request.headers())?;
    let demands = Demands::of_headers(request.headers())?;
    // The body may take longer than the request that is made of it: its time begins when it is there.
    let timeout = query.timeout()?;
    let target = gateway.table(table, timeout).await?;
    let key = key(partition, &query, &target.limits)?;
    let held = gateway.room.read(request.into_body(), target.limits.value_bytes_max).await?;
    let target = target.begun_now(timeout);
    let context = demands.settle(&target, &key).await?.unwrap_or_default();
    let mut table = target.in_time();
    if let Some(ttl) = ttl {
        table = table.with_ttl(ttl);
    }
    if let Some(level) = level {
        table = table.with_write_level(level);
    }
    let written = table.put(key, held.bytes.clone(), &context).await?;
    let mut response = acknowledged(&written);
    // A context that grew covers the write: it stands alone, as far as its coordinator knows, and this
    // is its tag. Where another write has not come there yet, nothing will match the tag.
    if written.context != context {
        put_tag(response.headers_mut(), &Tag::of_single(written.context), "");
    }
    Ok(response)
}

async fn delete(
    gateway: &Gateway,
    table: &str,
    partition: Bytes,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["sort", "level", "w", "timeout"])?;
    let level = query.level("w")?;
    let demands = Demands::of_headers(request.headers())?;
    let target = gateway.table(table, query.timeout()?).await?;
    let key = key(partition, &query, &target.limits)?;
    let context = demands.settle(&target, &key).await?;
    let keeps_siblings = target.table.definition().options.policy == ConflictPolicy::Siblings;
    if keeps_siblings && context.is_none() {
        let detail = "the table keeps siblings, and a delete without a context deletes none of them: read \
                      the key and send its Quoit-Context or If-Match, or If-Match: * for all that is there";
        return Err(Problem::new(Kind::ContextRequired, detail).with_outcome(Outcome::NotDone));
    }
    let mut table = target.in_time();
    if let Some(level) = level {
        table = table.with_write_level(level);
    }
    let written = table.delete(key, &context.unwrap_or_default()).await?;
    Ok(acknowledged(&written))
}

fn acknowledged(written: &Written) -> Response {
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    put_context(headers, &written.context);
    headers.insert(ACKNOWLEDGED, u16::from(written.acknowledged).into());
    response
}

/// The key that a request names.
fn key(partition: Bytes, query: &Query, limits: &Limits) -> Result<Key, Problem> {
    let key = Key { partition, sort: query.bytes("sort").unwrap_or_default() };
    let (length, most) = (key.partition.len() + key.sort.len(), limits.key_bytes_max as usize);
    if length > most {
        return Err(Problem::new(
            Kind::KeyTooLong,
            format!("key and sort key have {length} bytes; together they may have {most}"),
        ));
    }
    Ok(key)
}

async fn read(target: &Target, key: &Key, level: Option<Level>) -> Result<Reading, Problem> {
    let mut table = target.in_time();
    if let Some(level) = level {
        table = table.with_read_level(level);
    }
    Ok(table.get(key).await?)
}

/// The key has no value; the context tells a write what it replaces nonetheless.
fn absent(reading: &Reading) -> Problem {
    let problem =
        Problem::new(Kind::Absent, "the key has no value, or it was deleted or has expired");
    let context = tag::context_header(&reading.context);
    context.into_iter().fold(problem, |problem, (name, value)| problem.with_header(name, value))
}

/// What a write demands of what is there, and what it says that it has seen.
struct Demands {
    context: Option<Context>,
    preconditions: Preconditions,
}

impl Demands {
    fn of_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            context: context_of_headers(headers)?,
            preconditions: Preconditions::of_headers(headers)?,
        })
    }

    /// The context to write with. Where something is demanded of what is there, a quorum is read; what
    /// it shows is replaced, unless the request brings a context of its own.
    async fn settle(self, target: &Target, key: &Key) -> Result<Option<Context>, Problem> {
        if self.preconditions.is_empty() {
            return Ok(self.context);
        }
        let reading = read(target, key, Some(Level::Quorum))
            .await
            .map_err(|problem| problem.with_outcome(Outcome::NotDone))?;
        match self.preconditions.check(Tag::of(&reading).as_ref()) {
            Ok(()) => Ok(Some(self.context.unwrap_or(reading.context))),
            Err(Unmet::Match | Unmet::NoneMatch) => {
                Err(tag::precondition_failed(&reading).with_outcome(Outcome::NotDone))
            }
        }
    }
}

//! The tables: a list, one of them, and making one.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use quoit_client::{ClusterRecord, ConflictPolicy, Level, TableOptions};
use quoit_ring::Table;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::body;
use super::gateway::Gateway;
use super::problem::{Kind, Outcome, Problem};
use super::query::{Query, TIMEOUT};
use super::response::{self, Response};

/// A table's options are never longer, in bytes of JSON.
const OPTIONS_BYTES_MAX: u32 = 4 << 10;
/// Below this, every whole number is told from the next.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// N where nobody says otherwise and there are members enough.
const REPLICATION: usize = 3;

/// How many replicas must answer, as a word or a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LevelGiven {
    Count(u8),
    Word(String),
}

/// What a table is asked to be; what is left out has its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionsGiven {
    n: Option<u8>,
    r: Option<LevelGiven>,
    w: Option<LevelGiven>,
    policy: Option<String>,
    ttl_ms: Option<u64>,
    #[serde(default)]
    sloppy: bool,
}

/// A table as answers show it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    id: u32,
    n: u8,
    r: String,
    w: String,
    policy: String,
    ttl_ms: Option<u64>,
    sloppy: bool,
}

impl<'a> Shown<'a> {
    fn of(table: &'a Table) -> Self {
        let TableOptions { replication, read_level, write_level, policy, ttl_ms, sloppy } =
            table.options;
        Self {
            name: &table.name,
            id: table.id.0,
            n: replication,
            r: read_level.to_string(),
            w: write_level.to_string(),
            policy: policy.to_string(),
            ttl_ms,
            sloppy,
        }
    }
}

/// All tables, as the newest record says.
pub(super) async fn list(
    gateway: &Gateway,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    Query::parse(request.uri().query(), &[])?;
    let record = gateway.client(Instant::now() + TIMEOUT).await?.refresh_record().await?;
    let tables: Vec<_> = record.tables.iter().map(Shown::of).collect();
    Ok(response::json(StatusCode::OK, &json!({ "tables": tables })))
}

/// One table: shows it, or makes it.
pub(super) async fn serve(
    gateway: &Gateway,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    Query::parse(request.uri().query(), &[])?;
    if *request.method() == Method::PUT {
        return make(gateway, name, request).await;
    }
    let target = gateway.table(name, TIMEOUT).await?;
    Ok(response::json(StatusCode::OK, &Shown::of(target.table.definition())))
}

async fn make(
    gateway: &Gateway,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response, Problem> {
    body::check_headers(request.headers())?;
    check_json(&request)?;
    let client = gateway.client(Instant::now() + TIMEOUT).await?;
    let held = gateway.room.read(request.into_body(), OPTIONS_BYTES_MAX).await?;
    let known = client.refresh_record().await?;
    let options = options(&held.bytes, &known)?;
    let was_there = known.table(name).is_some();
    let record = client.create_table(name, options).await?;
    let Some(table) = record.table(name) else {
        let detail = "the table was made, and is gone again: somebody else has dropped it";
        return Err(Problem::new(Kind::UnknownOutcome, detail).with_outcome(Outcome::Unknown));
    };
    let status = if was_there { StatusCode::OK } else { StatusCode::CREATED };
    Ok(response::json(status, &Shown::of(table)))
}

/// A page in a browser must ask for leave to send this type: see `access`.
fn check_json(request: &Request<Incoming>) -> Result<(), Problem> {
    let content_type = request.headers().get(hyper::header::CONTENT_TYPE);
    let essence = content_type
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or_default().trim());
    match essence {
        None => Ok(()),
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(_) => {
            Err(Problem::new(Kind::UnsupportedMediaType, "options are JSON: send application/json"))
        }
    }
}

/// An empty body asks for the defaults.
fn options(bytes: &[u8], record: &ClusterRecord) -> Result<TableOptions, Problem> {
    let invalid = |message: String| Problem::invalid(message).with_outcome(Outcome::NotDone);
    let given: OptionsGiven = if bytes.is_empty() {
        OptionsGiven::default()
    } else {
        let mut document: Json = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("the options are no JSON: {error}")))?;
        make_whole(&mut document);
        if let Some(name) = null_of(&document) {
            return Err(invalid(format!("{name} is null: leave it out for its default")));
        }
        serde_json::from_value(document)
            .map_err(|error| invalid(format!("the options are not understood: {error}")))?
    };
    let level = |given: Option<LevelGiven>, name: &str| match given {
        None => Ok(Level::Quorum),
        Some(LevelGiven::Count(count)) => Ok(Level::Exactly(count)),
        Some(LevelGiven::Word(word)) => {
            word.parse().map_err(|error| invalid(format!("{name} is not understood: {error}")))
        }
    };
    let policy = match given.policy {
        None => ConflictPolicy::Latest,
        Some(word) => word.parse().map_err(|error| invalid(format!("policy: {error}")))?,
    };
    let usual = u8::try_from(record.members.len().clamp(1, REPLICATION)).expect("at most three");
    Ok(TableOptions {
        replication: given.n.unwrap_or(usual),
        read_level: level(given.r, "r")?,
        write_level: level(given.w, "w")?,
        policy,
        ttl_ms: given.ttl_ms,
        sloppy: given.sloppy,
    })
}

/// In JSON 3.0 is a whole number, too.
fn make_whole(document: &mut Json) {
    for value in document.as_object_mut().into_iter().flat_map(|object| object.values_mut()) {
        if let Some(number) = value.as_f64()
            && number.fract() == 0.0
            && (0.0..WHOLE_MAX).contains(&number)
        {
            *value = (number as u64).into();
        }
    }
}

/// An option that is null; only a time to live may be, which says that there is none.
fn null_of(document: &Json) -> Option<&str> {
    let mut options = document.as_object()?.iter();
    options
        .find(|(name, value)| value.is_null() && *name != "ttl_ms")
        .map(|(name, _)| name.as_str())
}

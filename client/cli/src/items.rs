//! `quoit put`, `get`, `delete` and `scan`: single items.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use quoit_client::{
    Client, ConflictPolicy, Context, Item, Key, Reading, ScanRange, Table, TraceId, Value, Written,
};
use serde_json::{Map, Value as Json};

use crate::arguments::{KeyArguments, LevelArguments, ReadLevelArguments, to_bytes};
use crate::duration::TimeToLive;
use crate::failure::CommandError;
use crate::output::{Output, note, put_bytes};
use crate::trace::{self, TraceArguments};

/// Write a value.
///
/// In a `siblings` table a put without --context reads first and replaces what it saw.
#[derive(Debug, Args)]
pub struct PutArguments {
    #[command(flatten)]
    key: KeyArguments,
    /// The value; '-' or nothing reads it from standard input, byte for byte.
    #[arg(conflicts_with = "file")]
    value: Option<OsString>,
    /// Take the value from a file.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How long the value lives, such as 1h30m, 90s or 500ms [default: the table's].
    #[arg(long)]
    ttl: Option<TimeToLive>,
    #[command(flatten)]
    replaced: ReplacedArguments,
    #[command(flatten)]
    levels: LevelArguments,
    #[command(flatten)]
    trace: TraceArguments,
}

/// Read a value. Exit code 1 says that the key is absent.
#[derive(Debug, Args)]
pub struct GetArguments {
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    level: ReadLevelArguments,
    #[command(flatten)]
    trace: TraceArguments,
}

/// Delete a key.
///
/// In a `siblings` table a delete without --context reads first and deletes what it saw.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    replaced: ReplacedArguments,
    #[command(flatten)]
    levels: LevelArguments,
    #[command(flatten)]
    trace: TraceArguments,
}

/// List the items of one key, ordered by sort key: a line each, sort key, tab, value.
///
/// With --json each item is a JSON object on a line of its own.
#[derive(Debug, Args)]
pub struct ScanArguments {
    /// The table.
    table: String,
    /// The key whose items are listed.
    partition_key: OsString,
    /// The first sort key (included).
    #[arg(long)]
    from: Option<OsString>,
    /// The end (excluded).
    #[arg(long)]
    to: Option<OsString>,
    /// At most so many items.
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    level: ReadLevelArguments,
}

/// What a write replaces.
#[derive(Debug, Args)]
struct ReplacedArguments {
    /// Replace exactly what a read with this context saw (`quoit get --json` shows it).
    #[arg(long, value_name = "TEXT")]
    context: Option<Context>,
    /// Write without reading first: in a `siblings` table the value stands beside the others.
    #[arg(long, conflicts_with = "context")]
    blind: bool,
}

impl ReplacedArguments {
    /// The context to write with.
    async fn context(
        &self,
        table: &Table,
        key: &Key,
        trace: Option<TraceId>,
    ) -> Result<Context, CommandError> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let reads_first = match table.definition().options.policy {
            ConflictPolicy::Latest => false,
            ConflictPolicy::Siblings => !self.blind,
        };
        if !reads_first {
            return Ok(Context::none());
        }
        let reading = table.get(key).await.map_err(|error| {
            CommandError::from(error)
                .prefixed("not written, for what is to be replaced could not be read")
                .advised("--blind writes without reading")
        })?;
        trace::tell("read first", trace, &reading.service);
        Ok(reading.context)
    }
}

pub(crate) async fn put(
    client: &Client,
    arguments: &PutArguments,
    output: Output,
) -> Result<(), CommandError> {
    let value = read_value(arguments)?;
    let key = arguments.key.to_key();
    let trace = arguments.trace.id();
    let mut table = arguments.levels.apply(client.table(&arguments.key.table).await?);
    table = trace::apply(table, trace);
    if let Some(ttl) = arguments.ttl {
        table = table.with_ttl(ttl.into());
    }
    let context = arguments.replaced.context(&table, &key, trace).await?;
    let written = table.put(&key, value, &context).await?;
    report_written("written", &written, trace, output)
}

fn read_value(arguments: &PutArguments) -> Result<Bytes, CommandError> {
    if let Some(path) = &arguments.file {
        return std::fs::read(path).map(Bytes::from).map_err(|error| {
            let path = path.display();
            CommandError::BadInput(format!("{path} cannot be read: {error}; nothing was written"))
        });
    }
    match &arguments.value {
        Some(value) if value != "-" => Ok(to_bytes(value.clone())),
        _ => {
            if io::stdin().is_terminal() {
                note("type the value; Ctrl-D at the start of a line ends it");
            }
            let mut value = Vec::new();
            io::stdin().lock().read_to_end(&mut value).map_err(|error| {
                CommandError::BadInput(format!("standard input cannot be read: {error}"))
            })?;
            Ok(value.into())
        }
    }
}

fn report_written(
    done: &str,
    written: &Written,
    trace: Option<TraceId>,
    output: Output,
) -> Result<(), CommandError> {
    let Written { context, acknowledged, service, .. } = written;
    if output.is_json() {
        let mut object = Map::new();
        object.insert("acknowledged".into(), (*acknowledged).into());
        object.insert("context".into(), context.to_string().into());
        trace::put(&mut object, trace, service);
        return output.json(&object.into());
    }
    trace::tell(done, trace, service);
    let replicas = if *acknowledged == 1 { "replica" } else { "replicas" };
    note(&format!("{done}: {acknowledged} {replicas} acknowledged"));
    Ok(())
}

pub(crate) async fn delete(
    client: &Client,
    arguments: &DeleteArguments,
    output: Output,
) -> Result<(), CommandError> {
    let key = arguments.key.to_key();
    let trace = arguments.trace.id();
    let table = arguments.levels.apply(client.table(&arguments.key.table).await?);
    let table = trace::apply(table, trace);
    let context = arguments.replaced.context(&table, &key, trace).await?;
    let written = table.delete(&key, &context).await?;
    report_written("deleted", &written, trace, output)
}

pub(crate) async fn get(
    client: &Client,
    arguments: &GetArguments,
    output: Output,
) -> Result<(), CommandError> {
    let key = arguments.key.to_key();
    let trace = arguments.trace.id();
    let table = arguments.level.apply(client.table(&arguments.key.table).await?);
    let reading = trace::apply(table, trace).get(&key).await?;
    if output.is_json() {
        let mut object = reading_json(&key, &reading);
        trace::put(&mut object, trace, &reading.service);
        output.json(&object.into())?;
    } else {
        trace::tell("read", trace, &reading.service);
    }
    match reading.siblings.as_slice() {
        [] => {
            let table = &arguments.key.table;
            let shown = arguments.key.key.to_string_lossy();
            Err(CommandError::NotFound(format!("the table {table} has no value under {shown:?}")))
        }
        _ if output.is_json() => Ok(()),
        [value] => output.value(&value.bytes),
        siblings => {
            note(&format!(
                "{} siblings, a line each; a put replaces them all, or give it --context {}",
                siblings.len(),
                reading.context
            ));
            siblings.iter().try_for_each(|value| {
                output.bytes(&value.bytes)?;
                output.bytes(b"\n")
            })
        }
    }
}

fn reading_json(key: &Key, reading: &Reading) -> Map<String, Json> {
    let mut object = key_json(key);
    if let Some(value) = reading.single() {
        put_bytes(&mut object, "value", &value.bytes);
    }
    object.insert("found".into(), (!reading.is_absent()).into());
    object.insert("siblings".into(), siblings_json(&reading.siblings));
    object.insert("context".into(), reading.context.to_string().into());
    object.insert("answered".into(), reading.answered.into());
    object.insert("repaired".into(), reading.repaired.into());
    object
}

/// A key's parts; an empty sort key is left out.
pub(crate) fn key_json(key: &Key) -> Map<String, Json> {
    let mut object = Map::new();
    put_bytes(&mut object, "key", &key.partition);
    if !key.sort.is_empty() {
        put_bytes(&mut object, "sort", &key.sort);
    }
    object
}

/// Values with their times, in milliseconds since 1970.
pub fn siblings_json(siblings: &[Value]) -> Json {
    let values = siblings.iter().map(|value| {
        let mut object = Map::new();
        put_bytes(&mut object, "value", &value.bytes);
        object.insert("written_ms".into(), value.written.wall().0.into());
        if let Some(expires) = value.expires {
            object.insert("expires_ms".into(), expires.wall().0.into());
        }
        Json::from(object)
    });
    values.collect()
}

/// An item as `scan` and `export` show it.
pub(crate) fn item_json(item: &Item) -> Json {
    let mut object = key_json(&item.key);
    if let [value] = item.siblings.as_slice() {
        put_bytes(&mut object, "value", &value.bytes);
        object.insert("written_ms".into(), value.written.wall().0.into());
        if let Some(expires) = value.expires {
            object.insert("expires_ms".into(), expires.wall().0.into());
        }
    } else {
        object.insert("siblings".into(), siblings_json(&item.siblings));
    }
    object.into()
}

pub(crate) async fn scan(
    client: &Client,
    arguments: &ScanArguments,
    output: Output,
) -> Result<(), CommandError> {
    let table = arguments.level.apply(client.table(&arguments.table).await?);
    let range = ScanRange {
        from: to_bytes(arguments.from.clone().unwrap_or_default()),
        to: arguments.to.clone().map(to_bytes),
        limit: arguments.limit,
    };
    let mut pages = table.scan(to_bytes(arguments.partition_key.clone()), range);
    while let Some(items) = pages.next().await? {
        let mut text = Vec::new();
        for item in &items {
            if output.is_json() {
                text.extend_from_slice(format!("{}\n", item_json(item)).as_bytes());
                continue;
            }
            for value in &item.siblings {
                text.extend_from_slice(&item.key.sort);
                text.push(b'\t');
                text.extend_from_slice(&value.bytes);
                text.push(b'\n');
            }
        }
        output.bytes(&text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use quoit_client::{Level, NodeId, Service, Trail};
    use quoit_ring::{HybridTime, WallTime};
    use serde_json::json;

    fn value(bytes: &'static [u8]) -> Value {
        Value {
            bytes: Bytes::from_static(bytes),
            expires: None,
            written: HybridTime::at(WallTime(1_000)),
        }
    }

    #[test]
    fn a_reading_shows_its_value_or_all_siblings() {
        let key = Key { partition: "k".into(), sort: Bytes::new() };
        let mut reading = Reading {
            siblings: vec![value(b"v")],
            context: Context::from_bytes(vec![0xab]),
            answered: 2,
            repaired: false,
            service: Service {
                coordinator: NodeId(1),
                level: Level::Quorum,
                trail: Trail::default(),
                took: Duration::ZERO,
                stages: Vec::new(),
            },
        };
        assert_eq!(
            Json::from(reading_json(&key, &reading)),
            json!({
                "key": "k", "value": "v", "found": true, "context": "ab", "answered": 2,
                "repaired": false, "siblings": [{"value": "v", "written_ms": 1_000}],
            })
        );
        reading.siblings.push(value(b"\xff"));
        let shown = reading_json(&key, &reading);
        assert!(shown.get("value").is_none());
        assert_eq!(shown["siblings"][1]["value_base64"], "/w==");
        reading.siblings.clear();
        assert_eq!(reading_json(&key, &reading)["found"], false);
    }

    #[test]
    fn an_item_shows_its_sort_key() {
        let key = Key { partition: "k".into(), sort: "s".into() };
        let item = Item { key, siblings: vec![value(b"v")], context: Context::none() };
        assert_eq!(
            item_json(&item),
            json!({"key": "k", "sort": "s", "value": "v", "written_ms": 1_000})
        );
    }
}

//! The same history as JSON, one object a line.

use serde_json::{Map, Value as Json, json};

use super::{Dot, HistoryError, Kind, OPERATIONS_MAX, Operation, Process, Value};

/// One operation as an object.
pub(crate) fn object(operation: &Operation) -> Json {
    let mut fields = Map::new();
    let mut field = |name: &str, value: Json| fields.insert(name.to_owned(), value);
    field("index", json!(operation.index));
    field("time", json!(operation.time));
    field(
        "process",
        match operation.process {
            Process::Client(process) => json!(process),
            Process::Nemesis => json!("nemesis"),
        },
    );
    field("type", json!(operation.kind.name()));
    field("f", json!(operation.f));
    field("value", to_json(&operation.value));
    if let Some(error) = &operation.error {
        field("error", json!(error));
    }
    if let Some(written) = operation.written {
        field("written", json!(written));
    }
    if let Some(dot) = &operation.dot {
        field("dot", to_json(&dot.to_value()));
    }
    if let Some(node) = operation.node {
        field("node", json!(node));
    }
    if !operation.actors.is_empty() {
        field("actors", json!(operation.actors));
    }
    Json::Object(fields)
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(truth) => json!(truth),
        Value::Int(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::List(values) => Json::Array(values.iter().map(to_json).collect()),
        Value::Map(fields) => Json::Object(
            fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        ),
    }
}

fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => Value::Int(number.as_i64()?),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(values) => Value::List(values.iter().map(from_json).collect::<Option<_>>()?),
        Json::Object(fields) => Value::Map(
            fields
                .iter()
                .map(|(name, value)| Some((name.clone(), from_json(value)?)))
                .collect::<Option<_>>()?,
        ),
    })
}

/// Reads a history of one object a line.
///
/// # Errors
/// [`HistoryError`], with the line.
pub(crate) fn read(text: &str) -> Result<Vec<Operation>, HistoryError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut history = Vec::new();
    for (at, line) in lines {
        if history.len() == OPERATIONS_MAX {
            return Err(HistoryError::TooLong);
        }
        let wrong = |message: String| HistoryError::Syntax { line: at + 1, message };
        let json: Json = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        history.push(operation(history.len(), &json).map_err(|what| wrong(what.to_owned()))?);
    }
    if history.is_empty() { Err(HistoryError::Empty) } else { Ok(history) }
}

fn operation(index: usize, json: &Json) -> Result<Operation, &'static str> {
    let process = match &json["process"] {
        Json::String(name) if name == "nemesis" => Process::Nemesis,
        other => Process::Client(other.as_i64().ok_or("\"process\" is no number or \"nemesis\"")?),
    };
    let kind = json["type"].as_str().and_then(Kind::from_name);
    Ok(Operation {
        index,
        time: json["time"].as_u64().unwrap_or(0),
        process,
        kind: kind.ok_or("\"type\" is none of invoke, ok, fail and info")?,
        f: json["f"].as_str().ok_or("\"f\" is no text")?.to_owned(),
        value: from_json(&json["value"]).ok_or("\"value\" has a number that is not whole")?,
        error: json["error"].as_str().map(str::to_owned),
        written: json["written"].as_u64(),
        dot: from_json(&json["dot"]).as_ref().and_then(Dot::of_value),
        node: json["node"].as_i64(),
        actors: from_json(&json["actors"]).and_then(|actors| actors.as_texts()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    #[test]
    fn what_is_written_reads_back() {
        let history = history(
            "0 invoke add [1 {:value 3}]\n0 ok add [1 {:value 3}]@a7\n1 invoke replica-read [1 nil]\n\
             1 ok replica-read [1 []]@ab\n2 invoke read\n2 ok read@5",
        );
        let text: String =
            history.iter().map(|operation| format!("{}\n", object(operation))).collect();
        assert_eq!(read(&text), Ok(history));
    }

    #[test]
    fn what_is_no_history_is_refused_with_its_line() {
        for (text, expected) in [
            ("\n", "it has no operations"),
            ("\n{", "line 2: EOF"),
            ("{}", "line 1: \"process\" is no number"),
            ("{\"process\": 1}", "line 1: \"type\" is none of"),
        ] {
            let error = read(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}

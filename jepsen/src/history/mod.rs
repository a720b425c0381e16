//! Histories: what every process was asked to do and how it ended, in Jepsen's form.
//!
//! An operation is an `invoke` and, later, its completion by the same process: `ok` (done), `fail`
//! (certainly not done) or `info` (not known). A process whose operation ended as `info` does
//! nothing more; another takes its place under a new number.

pub(crate) mod edn;
pub(crate) mod json;
mod value;

use std::collections::BTreeMap;

pub(crate) use value::Value;

/// A history is never longer.
pub(crate) const OPERATIONS_MAX: usize = 5_000_000;

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    Client(i64),
    Nemesis,
}

/// What a line says of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Invoke, Self::Ok, Self::Fail, Self::Info]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// What names a write: who coordinated it, and its hybrid time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dot {
    /// The actor, as text.
    pub(crate) actor: String,
    pub(crate) time: i64,
}

impl Dot {
    /// As it is written: `[ACTOR TIME]`.
    fn to_value(&self) -> Value {
        Value::List(vec![Value::Text(self.actor.clone()), Value::Int(self.time)])
    }

    fn of_value(value: &Value) -> Option<Self> {
        match value.as_list()? {
            [Value::Text(actor), Value::Int(time)] => {
                Some(Self { actor: actor.clone(), time: *time })
            }
            _ => None,
        }
    }
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operation {
    /// Its place in the history, from 0 on.
    pub(crate) index: usize,
    /// Nanoseconds since the start of the test.
    pub(crate) time: u64,
    pub(crate) process: Process,
    pub(crate) kind: Kind,
    pub(crate) f: String,
    pub(crate) value: Value,
    /// Why it was not done, or is not known to be.
    pub(crate) error: Option<String>,
    /// The hybrid time at which what a read found was written.
    pub(crate) written: Option<u64>,
    /// The dot of a write that is done.
    pub(crate) dot: Option<Dot>,
    /// The node that was read alone.
    pub(crate) node: Option<i64>,
    /// The actors of whose writes that node speaks, of those that it does not hold any more too.
    pub(crate) actors: Vec<String>,
}

/// An operation from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) invoke: &'a Operation,
    /// `None` where the history ends before it.
    pub(crate) completion: Option<&'a Operation>,
}

impl<'a> Call<'a> {
    /// How it ended; an operation without an end is not known to be done.
    pub(crate) fn kind(&self) -> Kind {
        self.completion.map_or(Kind::Info, |completion| completion.kind)
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.kind() == Kind::Ok
    }

    /// What it found, where it is a read that is done; what it was asked to do otherwise.
    pub(crate) fn value(&self) -> &'a Value {
        match self.completion {
            Some(completion) if completion.kind == Kind::Ok => &completion.value,
            Some(_) | None => &self.invoke.value,
        }
    }

    /// The index of the beginning: earlier ones began earlier.
    pub(crate) fn began(&self) -> usize {
        self.invoke.index
    }

    /// The index of the end of one that is done; no end is known of others.
    pub(crate) fn ended(&self) -> usize {
        match self.completion {
            Some(completion) if completion.kind == Kind::Ok => completion.index,
            Some(_) | None => usize::MAX,
        }
    }

    /// Its lines, for an anomaly.
    pub(crate) fn lines(&self) -> Vec<usize> {
        let end = self.completion.map(|completion| completion.index);
        std::iter::once(self.invoke.index).chain(end).collect()
    }
}

/// A history that cannot be used. Nothing was checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HistoryError {
    /// A text that is not in the form. Correct the place.
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    /// An operation lacks something, or has the wrong kind of value there.
    #[error("operation {operation}: {message}")]
    Operation { operation: usize, message: String },
    /// A completion without a beginning, or a second beginning before the end of the first.
    #[error("operation {operation}: process {process} {message}")]
    Order { operation: usize, process: i64, message: &'static str },
    /// There is nothing to check.
    #[error("it has no operations")]
    Empty,
    /// It is longer than this program takes.
    #[error("it has more than {OPERATIONS_MAX} operations")]
    TooLong,
}

/// Pairs beginnings with ends, in the order of the beginnings. The nemesis' lines are left out.
///
/// # Errors
/// [`HistoryError::Order`] where a process does two things at once, or ends what it never began.
pub(crate) fn calls(history: &[Operation]) -> Result<Vec<Call<'_>>, HistoryError> {
    let mut open: BTreeMap<i64, usize> = BTreeMap::new();
    let mut calls: Vec<Call<'_>> = Vec::new();
    for operation in history {
        let Process::Client(process) = operation.process else { continue };
        let wrong = |message| HistoryError::Order { operation: operation.index, process, message };
        if operation.kind == Kind::Invoke {
            if open.insert(process, calls.len()).is_some() {
                return Err(wrong("begins something before its last operation has ended"));
            }
            calls.push(Call { invoke: operation, completion: None });
        } else {
            let at = open.remove(&process).ok_or_else(|| wrong("ends what it never began"))?;
            if calls[at].invoke.f != operation.f {
                return Err(wrong("ends another operation than it began"));
            }
            calls[at].completion = Some(operation);
        }
    }
    Ok(calls)
}

/// Gives each line its index, as the checkers want it; a history from elsewhere may be a part of one.
pub(crate) fn number(history: &mut [Operation]) {
    for (index, operation) in history.iter_mut().enumerate() {
        operation.index = index;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A history from lines such as `0 invoke add [1 2]`. At the end `@7` says when what was read was
    /// written, and `@a7` that a write's dot is of actor `a`; the process of a `replica-read` is the node,
    /// and `@ab` at its end says that it speaks of the actors `a` and `b`.
    pub(crate) fn history(text: &str) -> Vec<Operation> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let operation = |(index, line): (usize, &str)| {
            let (line, version) = line.split_once('@').unwrap_or((line, ""));
            let digits = version.trim_start_matches(char::is_alphabetic);
            let actors: Vec<String> =
                version.chars().filter(|sign| sign.is_alphabetic()).map(String::from).collect();
            let time: Option<u64> = digits.parse().ok();
            let mut parts = line.splitn(4, ' ');
            let process = parts.next().expect("a process");
            let kind = Kind::from_name(parts.next().expect("a kind")).expect("a kind");
            let f = parts.next().expect("a function").to_owned();
            let value = edn::parse_all(parts.next().unwrap_or("nil")).expect("EDN")[0].to_value();
            let number = process.parse();
            let dot = time.filter(|_| f != "replica-read").zip(actors.first());
            Operation {
                index,
                time: index as u64 * 1_000_000,
                node: number.clone().ok().filter(|_| f == "replica-read"),
                process: number.map_or(Process::Nemesis, Process::Client),
                kind,
                f,
                value,
                error: None,
                written: time.filter(|_| dot.is_none()),
                dot: dot.map(|(time, actor)| Dot { actor: actor.clone(), time: time as i64 }),
                actors: if dot.is_none() { actors.clone() } else { Vec::new() },
            }
        };
        lines.enumerate().map(operation).collect()
    }

    #[test]
    fn beginnings_are_paired_with_ends() {
        let history =
            history("0 invoke add 1\n1 invoke read\n0 info add 1\n1 ok read [1]\n2 invoke add 3");
        let calls = calls(&history).expect("in order");
        let ends: Vec<_> =
            calls.iter().map(|call| (call.began(), call.kind(), call.ended())).collect();
        assert_eq!(
            ends,
            [(0, Kind::Info, usize::MAX), (1, Kind::Ok, 3), (4, Kind::Info, usize::MAX)]
        );
    }

    #[test]
    fn a_process_does_one_thing_at_a_time() {
        for wrong in
            ["0 ok read [1]", "0 invoke add 1\n0 invoke add 2", "0 invoke add 1\n0 ok read"]
        {
            assert!(matches!(calls(&history(wrong)), Err(HistoryError::Order { .. })), "{wrong}");
        }
    }
}

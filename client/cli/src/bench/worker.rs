//! One of several processes that measure together. It is told its job on standard input, says when
//! it is ready, starts when it is told, and hands back what it measured: JSON, a document a line.
//!
//! When its input ends, its parent is gone, and it ends too.

use std::io::BufRead;

use quoit_client::{Client, Level, Table};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::measured::Measured;
use super::slots::{Plan, Run};
use crate::failure::CommandError;
use crate::output::Output;

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) table: String,
    pub(super) w: Option<String>,
    pub(super) r: Option<String>,
    pub(super) idempotent: bool,
    pub(super) plan: Plan,
}

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    Prepare(Box<Job>),
    Start,
}

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    Ready,
    /// So many operations are done.
    Progress(u64),
    Measured(Box<Measured>),
}

/// Serves one job.
pub(super) async fn run(client: &Client, output: Output) -> Result<(), CommandError> {
    let mut input = read_input();
    let mut next = async || input.recv().await.unwrap_or_else(|| Err(orphaned()));
    let ToWorker::Prepare(job) = next().await? else {
        return Err(CommandError::BadInput("a worker is told to prepare first".to_owned()));
    };
    let table = open(client, &job).await?;
    let run = Run::new(&table, job.plan);
    tell(output, &FromWorker::Ready)?;
    let ToWorker::Start = next().await? else {
        return Err(CommandError::BadInput("a worker is told to start next".to_owned()));
    };
    let progress = move |done| {
        // A parent that is gone shows itself by the end of the input.
        let _ = tell(output, &FromWorker::Progress(done));
    };
    let measured = tokio::select! {
        measured = run.measure(progress) => measured,
        _ = next() => return Err(orphaned()),
    };
    tell(output, &FromWorker::Measured(Box::new(measured)))
}

fn orphaned() -> CommandError {
    CommandError::NotDone("whoever started this worker is gone".to_owned())
}

async fn open(client: &Client, job: &Job) -> Result<Table, CommandError> {
    let level = |text: &Option<String>| {
        let parsed = text.as_deref().map(str::parse::<Level>).transpose();
        parsed.map_err(|error| CommandError::BadInput(error.to_string()))
    };
    let mut table = client.table(&job.table).await?.idempotent(job.idempotent);
    if let Some(level) = level(&job.w)? {
        table = table.with_write_level(level);
    }
    if let Some(level) = level(&job.r)? {
        table = table.with_read_level(level);
    }
    Ok(table)
}

fn tell(output: Output, message: &FromWorker) -> Result<(), CommandError> {
    let line = serde_json::to_value(message)
        .map_err(|error| CommandError::NotDone(format!("no JSON can be made: {error}")))?;
    output.json(&line)
}

/// Messages from standard input, read on a thread of their own: a read there cannot be given up.
fn read_input() -> mpsc::Receiver<Result<ToWorker, CommandError>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let message = serde_json::from_str(&line).map_err(|error| {
                CommandError::BadInput(format!("a worker does not understand its job: {error}"))
            });
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

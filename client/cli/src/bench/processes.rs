//! Several processes that measure together: children of this one, of the same program, started by
//! one word to all once all are ready. What they measured is added up.
//!
//! They end when this process ends, however it does: their input ends with it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::arguments::Parameters;
use super::measured::Measured;
use super::worker::{FromWorker, Job, ToWorker};
use crate::arguments::ConnectionOptions;
use crate::failure::CommandError;

/// A worker's line is not longer: the series of a run is.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// How long a worker may take to end after its last word.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A child, ended by its id when this is dropped.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Runs one repetition in `parameters.processes` processes.
pub(super) async fn measure(
    parameters: &Parameters,
    options: &ConnectionOptions,
    repetition: u16,
    mut progress: impl FnMut(u64),
) -> Result<Vec<Measured>, CommandError> {
    let mut workers = Vec::new();
    for number in 0..parameters.processes {
        workers.push(Worker::start(parameters, options, number, repetition).await?);
    }
    for worker in &mut workers {
        match worker.next().await? {
            FromWorker::Ready => {}
            other => return Err(confused(&other)),
        }
    }
    for worker in &mut workers {
        worker.tell(&ToWorker::Start).await?;
    }
    let count = workers.len();
    // Each worker tells its progress a few times a second; the bound is never felt.
    let (sender, mut receiver) = mpsc::channel(64);
    let tasks: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(number, worker)| AbortOnDrop(tokio::spawn(follow(worker, number, sender.clone()))))
        .collect();
    drop(sender);
    let mut done = vec![0; count];
    let mut measured = Vec::new();
    while let Some((number, message)) = receiver.recv().await {
        match message? {
            FromWorker::Progress(count) => {
                done[number] = count;
                progress(done.iter().sum());
            }
            FromWorker::Measured(part) => measured.push(*part),
            FromWorker::Ready => return Err(confused(&FromWorker::Ready)),
        }
    }
    drop(tasks);
    assert_eq!(measured.len(), count, "a worker ends with a measurement or an error");
    Ok(measured)
}

/// A task that does not outlive whoever waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Told = (usize, Result<FromWorker, CommandError>);

/// Passes on what a worker tells, to its end.
async fn follow(mut worker: Worker, number: usize, sender: mpsc::Sender<Told>) {
    loop {
        let message = worker.next().await;
        let is_done = matches!(message, Ok(FromWorker::Measured(_)));
        let is_last = is_done || message.is_err();
        if sender.send((number, message)).await.is_err() {
            return;
        }
        if is_done {
            // It has said its last word and closes its connections. Where that takes too long, it is
            // ended when it is dropped here.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, worker.child.wait()).await;
        }
        if is_last {
            return;
        }
    }
}

fn confused(message: &FromWorker) -> CommandError {
    CommandError::NotDone(format!("a process said {message:?} where it should not"))
}

impl Worker {
    async fn start(
        parameters: &Parameters,
        options: &ConnectionOptions,
        number: u16,
        repetition: u16,
    ) -> Result<Self, CommandError> {
        let failed = |what: &str, error: std::io::Error| {
            CommandError::NotDone(format!("process {number} of --processes {what}: {error}"))
        };
        let program = std::env::current_exe().map_err(|error| failed("has no program", error))?;
        let mut command = Command::new(program);
        command.arg("--client").arg(&options.client_directory);
        if let Some(timeout_ms) = options.timeout_ms {
            command.args(["--timeout-ms", &timeout_ms.to_string()]);
        }
        command.args(["bench", "worker", "--threads", &parameters.threads.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| failed("cannot be started", error))?;
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut worker = Self { child, input, output };
        let job = Job {
            table: parameters.table.clone(),
            w: parameters.w.clone(),
            r: parameters.r.clone(),
            idempotent: parameters.idempotent,
            plan: parameters.plan(number, repetition),
        };
        worker.tell(&ToWorker::Prepare(Box::new(job))).await?;
        Ok(worker)
    }

    async fn tell(&mut self, message: &ToWorker) -> Result<(), CommandError> {
        let mut line = serde_json::to_vec(message)
            .map_err(|error| CommandError::NotDone(format!("no JSON can be made: {error}")))?;
        line.push(b'\n');
        let written = self.input.write_all(&line).await;
        let flushed = self.input.flush().await;
        written.and(flushed).map_err(|error| self.gone(&error.to_string()))
    }

    async fn next(&mut self) -> Result<FromWorker, CommandError> {
        let mut line = Vec::new();
        let read = (&mut self.output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        match read {
            Err(error) => Err(self.gone(&error.to_string())),
            Ok(_) if line.last() != Some(&b'\n') => {
                Err(self.gone("its reason is above, if it gave one"))
            }
            Ok(_) => serde_json::from_slice(&line).map_err(|error| self.gone(&error.to_string())),
        }
    }

    fn gone(&self, reason: &str) -> CommandError {
        let id = self.child.id().map_or_else(|| "?".to_owned(), |id| id.to_string());
        CommandError::NotDone(format!(
            "process {id}, which measured a part, ended early: {reason}; nothing was measured"
        ))
    }
}

//! One node's process: started, watched until it ends, and told to end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::prepare::is_of_one_node;
use super::{PreparedNode, UpError};

/// A log that has grown past this, in bytes, is set aside at the next start.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// How much of a log's end is shown, in bytes and in lines.
const LAST_BYTES_MAX: u64 = 16 << 10;
const LAST_LINES_MAX: usize = 12;

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// To go on.
    Run,
    /// To stop cleanly (SIGTERM).
    Terminate,
    /// To end at once (SIGKILL).
    Kill,
}

/// A process that was started.
pub(super) struct Started<F> {
    /// Ends with the process.
    pub(super) run: F,
    /// Where its output goes.
    pub(super) log: LogFile,
    /// The process's id.
    pub(super) process_id: u32,
}

/// A node's log, from this start on.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    start: u64,
}

impl LogFile {
    /// What was written last since the start, for people.
    pub(super) fn last_lines(&self) -> String {
        let text = self.tail().unwrap_or_else(|error| format!("(cannot be read: {error})"));
        let lines: Vec<_> = text.lines().collect();
        if lines.is_empty() {
            return "  (empty)".to_owned();
        }
        let last = &lines[lines.len().saturating_sub(LAST_LINES_MAX)..];
        last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }

    fn tail(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.start.max(length.saturating_sub(LAST_BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Starts a node. The process stops by itself when `run` is dropped: its standard input ends.
pub(super) fn start(
    node: &PreparedNode,
    program: &Path,
    orders: watch::Receiver<Order>,
) -> Result<Started<impl Future<Output = io::Result<ExitStatus>> + Send + 'static>, UpError> {
    let (file, log) = open_log(&node.log_path).map_err(|source| UpError::File {
        action: "written",
        path: node.log_path.clone(),
        source,
    })?;
    let failed =
        |source| UpError::Start { node: node.config.node.id, program: program.to_owned(), source };
    let mut command = Command::new(program);
    command
        .args(["serve", "--stop-on-stdin-close", "--config"])
        .arg(&node.config_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::from(file.try_clone().map_err(failed)?))
        .stderr(Stdio::from(file))
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_one_node) {
            command.env_remove(&name);
        }
    }
    let mut child = command.spawn().map_err(failed)?;
    // To wait for a child closes its input, unless somebody else holds it.
    let input = child.stdin.take();
    let process_id = child.id().unwrap_or_default();
    Ok(Started { run: run(child, input, orders), log, process_id })
}

async fn run(
    mut child: Child,
    input: Option<ChildStdin>,
    mut orders: watch::Receiver<Order>,
) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => {
                drop(input);
                return status;
            }
            changed = orders.changed() => {
                if changed.is_err() {
                    drop(input);
                    return child.wait().await;
                }
                let order = *orders.borrow_and_update();
                match order {
                    Order::Run => {}
                    Order::Terminate => terminate(&child),
                    Order::Kill => child.start_kill()?,
                }
            }
        }
    }
}

/// A process that has just ended needs no signal, so failures do not matter.
fn terminate(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id {
        let _ = kill_process(id, Signal::TERM);
    }
}

fn open_log(path: &Path) -> io::Result<(File, LogFile)> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("old.txt"))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let start = file.metadata()?.len();
    Ok((file, LogFile { path: path.to_owned(), start }))
}

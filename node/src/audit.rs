//! The audit log: who told the cluster what to do, and who asked for what its role does not allow.
//!
//! A JSON object a line, which holds nothing but ASCII: whatever a name or a message has in it, no line
//! can be forged and no terminal be confused. No key, no value and no secret is in it. A file that has
//! its size is set aside as `FILE.1`, `FILE.1` as `FILE.2` and so on, up to a number of files. Refusals are
//! written no faster than [`REFUSALS_PER_MINUTE_MAX`], so that nobody pushes out what was written before.
//!
//! A thread of its own writes and syncs, so that nobody who asks waits for the disk. What finds its
//! queue full is counted, and the next line says how many were left out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quoit_protocol::snapshot::SnapshotAction;
use quoit_protocol::{AskRepair, ClientRequest, TableChange};
use serde::Serialize;

use crate::authority::date;
use crate::config::AuditSettings;

/// So many refusals are written in a minute; the others are counted.
pub const REFUSALS_PER_MINUTE_MAX: u32 = 60;
/// So many lines wait for the disk.
const QUEUE_LINES_MAX: usize = 1_024;
/// A text in a line is cut at so many characters.
const TEXT_CHARACTERS_MAX: usize = 400;
const MINUTE: Duration = Duration::from_secs(60);

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It is done.
    Done,
    /// It is certainly not done.
    NotDone,
    /// It may be done, now or later.
    Unknown,
    /// It was not allowed, and is not done.
    Forbidden,
}

/// How somebody came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// As a client, by QUIC.
    Quic,
    /// By HTTP.
    Http,
    /// By a signal to the process.
    Signal,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// By what name they are known.
    pub who: String,
    /// Where they came from.
    pub address: Option<SocketAddr>,
    /// And how.
    pub via: Via,
    /// What they asked for.
    pub action: &'static str,
    /// Of what: a table, say.
    pub target: Option<String>,
    /// What became of it.
    pub outcome: AuditOutcome,
    /// Why, where it is not done.
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    who: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    via: Via,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    outcome: AuditOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Lines that were not written since the last.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An audit log that cannot be opened. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {} cannot be written ([audit] file)", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// The log; clones write to the same.
#[derive(Debug, Clone, Default)]
pub struct AuditLog(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    lines: SyncSender<String>,
    gate: Mutex<Gate>,
}

/// What is let through.
#[derive(Debug)]
struct Gate {
    minute: Instant,
    refusals: u32,
    left_out: u64,
}

impl AuditLog {
    /// Opens the log, unless there is to be none.
    ///
    /// # Errors
    /// [`AuditError`], which names the file.
    pub fn open(settings: &AuditSettings) -> Result<Self, AuditError> {
        let AuditSettings { enabled, file: path, file_bytes_max, files } = settings;
        if !enabled {
            return Ok(Self(None));
        }
        let failed = |source| AuditError { path: path.clone(), source };
        let mut files = Files::open(path, *file_bytes_max, *files).map_err(failed)?;
        let (lines, queue) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || files.write_all(&queue))
            .map_err(failed)?;
        let gate = Gate { minute: Instant::now(), refusals: 0, left_out: 0 };
        Ok(Self(Some(Arc::new(Inner { lines, gate: Mutex::new(gate) }))))
    }

    /// Writes an action down. Never waits.
    pub fn note(&self, entry: &Entry) {
        let Some(inner) = &self.0 else { return };
        let mut gate = inner.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !gate.admits(entry.outcome) {
            gate.left_out += 1;
            return;
        }
        match inner.lines.try_send(line_of(entry, gate.left_out, SystemTime::now())) {
            Ok(()) => gate.left_out = 0,
            Err(_) => gate.left_out += 1,
        }
    }
}

impl Gate {
    fn admits(&mut self, outcome: AuditOutcome) -> bool {
        if outcome != AuditOutcome::Forbidden {
            return true;
        }
        if self.minute.elapsed() >= MINUTE {
            (self.minute, self.refusals) = (Instant::now(), 0);
        }
        self.refusals = self.refusals.saturating_add(1);
        self.refusals <= REFUSALS_PER_MINUTE_MAX
    }
}

/// What of a client's requests is written down when it is answered: what tells nodes or the cluster what
/// to do.
pub(crate) fn administrative(message: &ClientRequest) -> Option<(&'static str, Option<String>)> {
    match message {
        ClientRequest::ChangeTables(change) => Some(match &change.change {
            TableChange::Create { name, .. } => ("create_table", Some(name.clone())),
            TableChange::Drop { name } => ("drop_table", Some(name.clone())),
        }),
        ClientRequest::AcceptLoss(accept) => {
            let vnode = accept.vnode.map_or_else(|| "all".to_owned(), |vnode| vnode.0.to_string());
            Some(("accept_loss", Some(format!("vnode {vnode}"))))
        }
        ClientRequest::AskRepair(AskRepair { run: true, .. }) => Some(("run_repair", None)),
        ClientRequest::AskSnapshots(asked) => match &asked.action {
            SnapshotAction::Create { name } => Some(("create_snapshot", Some(name.clone()))),
            SnapshotAction::Delete { name } => Some(("delete_snapshot", Some(name.clone()))),
            SnapshotAction::List => None,
        },
        ClientRequest::AskRepair(_)
        | ClientRequest::AskActivity(_)
        | ClientRequest::Hello(_)
        | ClientRequest::Get(_)
        | ClientRequest::Write(_)
        | ClientRequest::Scan(_)
        | ClientRequest::Export(_)
        | ClientRequest::AskStatus(_)
        | ClientRequest::AskRecord(_) => None,
    }
}

fn line_of(entry: &Entry, left_out: u64, now: SystemTime) -> String {
    let (who, target) = (cut(&entry.who), entry.target.as_deref().map(cut));
    let reason = entry.reason.as_deref().map(cut);
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    let line = Line {
        at: date(now).replace('Z', &format!(".{millis:03}Z")),
        who: &who,
        address: entry.address,
        via: entry.via,
        action: entry.action,
        target: target.as_deref(),
        outcome: entry.outcome,
        reason: reason.as_deref(),
        left_out,
    };
    let text = serde_json::to_string(&line).expect("plain data is always JSON");
    let mut ascii = String::with_capacity(text.len() + 1);
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (b' '..=b'~').contains(&byte) => ascii.push(char::from(byte)),
            // Inside a JSON text there is nothing but text that is no ASCII.
            _ => ascii.push_str(&format!("\\u{unit:04x}")),
        }
    }
    ascii.push('\n');
    ascii
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS_MAX).collect()
}

/// The file that is written to, and those that were set aside.
struct Files {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    count: u32,
}

impl Files {
    fn open(path: &Path, bytes_max: u64, count: u32) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, count })
    }

    /// Until nobody writes any more.
    fn write_all(&mut self, queue: &Receiver<String>) {
        let mut said = false;
        while let Ok(first) = queue.recv() {
            let lines = std::iter::once(first).chain(queue.try_iter().take(QUEUE_LINES_MAX));
            let text: Vec<String> = lines.collect();
            match self.write(&text) {
                Ok(()) => said = false,
                Err(error) if !said => {
                    said = true;
                    let path = self.path.display();
                    tracing::error!(%path, %error, "the audit log cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, lines: &[String]) -> io::Result<()> {
        for line in lines {
            if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
                self.set_aside()?;
            }
            self.file.write_all(line.as_bytes())?;
            self.bytes += line.len() as u64;
        }
        self.file.sync_data()
    }

    fn set_aside(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        for number in (1..self.count).rev() {
            let from = self.numbered(number - 1);
            match fs::rename(&from, self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.count == 1 {
            fs::remove_file(&self.path)?;
        }
        self.file = open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    /// 0 is the one that is written to.
    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(who: &str, outcome: AuditOutcome) -> Entry {
        Entry {
            who: who.to_owned(),
            address: Some(([192, 0, 2, 7], 4_711).into()),
            via: Via::Quic,
            action: "drop_table",
            target: Some("carts".to_owned()),
            outcome,
            reason: None,
        }
    }

    #[test]
    fn a_line_is_one_line_of_ascii_whatever_is_in_it() {
        let hostile = "a\n{\"who\":\"admin\"}\r\u{1b}[2J\u{9b}\u{202e}\u{7f}\"\\\u{1f42b}";
        let line = line_of(&entry(hostile, AuditOutcome::Done), 3, UNIX_EPOCH);
        assert!(
            line.ends_with('\n') && line.trim_end().bytes().all(|byte| (32..127).contains(&byte))
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["who"], hostile);
        assert_eq!(
            (&read["at"], &read["left_out"]),
            (&"1970-01-01T00:00:00.000Z".into(), &3.into())
        );
        let long = line_of(&entry(&"x".repeat(1 << 20), AuditOutcome::Done), 0, UNIX_EPOCH);
        assert!(long.len() < 1_000);
    }

    #[test]
    fn files_keep_to_their_size_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut files = Files::open(&path, 1_000, 3).unwrap();
        let line = line_of(&entry("admin", AuditOutcome::Done), 0, UNIX_EPOCH);
        for number in 0..50 {
            let line = line.replace("carts", &format!("table{number:02}"));
            files.write(&[line]).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .inspect(|entry| assert!(entry.metadata().unwrap().len() <= 1_000))
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text("audit.jsonl").ends_with(&line.replace("carts", "table49")));
        // What was written last before is in the next, and none between them is lost.
        let all = ["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"].map(text).concat();
        let first: usize = 50 - all.lines().count();
        for (number, line) in (first..).zip(all.lines()) {
            assert!(line.contains(&format!("table{number:02}")), "{line}");
        }
        // It goes on where it was.
        let again = Files::open(&path, 1_000, 3).unwrap();
        assert_eq!(again.bytes, text("audit.jsonl").len() as u64);
    }

    #[test]
    fn refusals_do_not_push_out_what_was_done() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.jsonl");
        let settings =
            AuditSettings { enabled: true, file: file.clone(), file_bytes_max: 1 << 20, files: 2 };
        let log = AuditLog::open(&settings).unwrap();
        for _ in 0..200 {
            log.note(&entry("mallory", AuditOutcome::Forbidden));
        }
        log.note(&entry("admin", AuditOutcome::Done));
        let began = Instant::now();
        let text = loop {
            let text = fs::read_to_string(&file).unwrap();
            if text.contains("\"admin\"") || began.elapsed() > MINUTE {
                break text;
            }
            std::thread::yield_now();
        };
        assert_eq!(text.matches("mallory").count(), REFUSALS_PER_MINUTE_MAX as usize);
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["left_out"], 200 - REFUSALS_PER_MINUTE_MAX);
    }
}

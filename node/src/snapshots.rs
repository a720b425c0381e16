//! Snapshots, as clients ask this node for them.
//!
//! Each question is answered on a thread of tokio's blocking pool; the event loop only hands it over and
//! sends the answer. One snapshot is made at a time, on a thread of its own, and whoever asked looks at
//! the list until it is there: where the folder is on another file system it is copied, and that takes
//! as long as it takes. What a snapshot costs the node: the writer closes its memory between two batches
//! (one fsync), which is then flushed as at any other time; after that files are linked.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quoit_core::event::ConnectionId;
use quoit_core::operation::not_done;
use quoit_protocol::snapshot::{NodeSnapshots, SnapshotAction, SnapshotInfo, SnapshotState};
use quoit_protocol::{ClientResponse, Failure, FailureCode};
use quoit_ring::{ClusterRecord, NodeId};
use quoit_storage::store::Durability;
use quoit_storage_files::snapshot::{Listed, Manifest, SnapshotError, SnapshotName, Snapshots};
use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;
use crate::storage_worker::Freezer;

/// So many questions are worked on at once.
const QUESTIONS_MAX: usize = 16;

/// An answer, on its way to the event loop.
pub(crate) type SnapshotAnswer = (ConnectionId, u64, ClientResponse);

/// What a node knows of the snapshot that it makes, or has made last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    name: SnapshotName,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Running,
    Done { took_ms: u64 },
    Failed(String),
}

/// Makes, lists and deletes snapshots. Clones share.
#[derive(Clone)]
pub(crate) struct SnapshotService {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    durability: &'static str,
    snapshots: Snapshots,
    freezer: Freezer,
    clock: Clock,
    last: Mutex<Option<Attempt>>,
    questions: AtomicUsize,
    answers: UnboundedSender<SnapshotAnswer>,
}

/// Why a question was not answered with the list.
enum Refusal {
    Snapshot(SnapshotError),
    Invalid(String),
    NotServing(String),
}

impl From<SnapshotError> for Refusal {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

impl SnapshotService {
    /// A service over a folder, from which what a crash has left is removed. A folder that cannot be
    /// used, as one on a disk that is not there, is no reason for a node not to serve: whoever asks for
    /// snapshots is told.
    pub(crate) fn new(
        directory: &Path,
        node: NodeId,
        durability: Durability,
        freezer: Freezer,
        clock: Clock,
        answers: UnboundedSender<SnapshotAnswer>,
    ) -> Self {
        let snapshots = Snapshots::new(directory);
        if let Err(error) = snapshots.clean() {
            let reason = quoit_client::with_sources(&error);
            tracing::warn!(reason, "what a crash may have left of a snapshot is not removed");
        }
        let durability = match durability {
            Durability::Group => "group",
            Durability::Periodic => "periodic",
        };
        let (last, questions) = (Mutex::new(None), AtomicUsize::new(0));
        let inner = Inner { node, durability, snapshots, freezer, clock, last, questions, answers };
        Self { inner: Arc::new(inner) }
    }

    /// Has a question answered, by and by.
    pub(crate) fn ask(
        &self,
        connection: ConnectionId,
        request: u64,
        action: SnapshotAction,
        record: Option<&ClusterRecord>,
    ) {
        let inner = self.inner.clone();
        if inner.questions.fetch_add(1, Ordering::Relaxed) >= QUESTIONS_MAX {
            inner.questions.fetch_sub(1, Ordering::Relaxed);
            let text =
                "this node works on as many questions for snapshots as it may: come back later";
            let failure = inner.failure(FailureCode::Overloaded, text.to_owned());
            // The loop that asks is the one that listens.
            let _ = inner.answers.send((connection, request, failure));
            return;
        }
        let record = record.filter(|_| matches!(action, SnapshotAction::Create { .. })).cloned();
        tokio::task::spawn_blocking(move || {
            let response = inner.answer(action, record);
            inner.questions.fetch_sub(1, Ordering::Relaxed);
            let _ = inner.answers.send((connection, request, response));
        });
    }
}

impl Inner {
    fn answer(
        self: &Arc<Self>,
        action: SnapshotAction,
        record: Option<ClusterRecord>,
    ) -> ClientResponse {
        let done = match action {
            SnapshotAction::List => Ok(()),
            SnapshotAction::Create { name } => self.begin(&name, record),
            SnapshotAction::Delete { name } => self.delete(&name),
        };
        match done.and_then(|()| self.list()) {
            Ok(listed) => Box::new(listed).into(),
            Err(Refusal::Invalid(text)) => self.failure(FailureCode::Invalid, text),
            Err(Refusal::NotServing(text)) => self.failure(FailureCode::NotServing, text),
            Err(Refusal::Snapshot(error)) => {
                let code = match &error {
                    SnapshotError::Exists(_)
                    | SnapshotError::Unknown(_)
                    | SnapshotError::TooMany => FailureCode::Invalid,
                    SnapshotError::NoSpace { .. } | SnapshotError::Io { .. } => {
                        FailureCode::NotServing
                    }
                };
                self.failure(code, quoit_client::with_sources(&error))
            }
        }
    }

    fn failure(&self, code: FailureCode, message: String) -> ClientResponse {
        Failure { retry_after_ms: 0, ..not_done(code, message) }.into()
    }

    fn last(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a snapshot on a thread of its own.
    fn begin(self: &Arc<Self>, name: &str, record: Option<ClusterRecord>) -> Result<(), Refusal> {
        let name = parsed(name)?;
        let Some(record) = record else {
            let text = "this node knows no cluster record yet: ask again when it serves";
            return Err(Refusal::NotServing(text.to_owned()));
        };
        {
            let mut last = self.last();
            if let Some(Attempt { name: other, outcome: Outcome::Running }) = &*last {
                let text =
                    format!("the snapshot {other} is being made: ask again when it is there");
                return Err(Refusal::NotServing(text));
            }
            self.snapshots.check_new(&name)?;
            *last = Some(Attempt { name: name.clone(), outcome: Outcome::Running });
        }
        let inner = self.clone();
        let making = name.clone();
        let work = move || inner.make(making, record);
        if let Err(error) = std::thread::Builder::new().name("quoit-snapshot".into()).spawn(work) {
            self.end(name, Outcome::Failed(error.to_string()));
        }
        Ok(())
    }

    fn make(&self, name: SnapshotName, record: ClusterRecord) {
        let began = Instant::now();
        let outcome = match self.try_make(name.clone(), record) {
            Ok(manifest) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (files, bytes) = (manifest.files.len(), manifest.bytes());
                tracing::info!(%name, files, bytes, took_ms, "snapshot made");
                Outcome::Done { took_ms }
            }
            Err(reason) => {
                tracing::error!(%name, reason, "no snapshot made");
                Outcome::Failed(reason)
            }
        };
        self.end(name, outcome);
    }

    fn end(&self, name: SnapshotName, outcome: Outcome) {
        *self.last() = Some(Attempt { name, outcome });
    }

    fn try_make(&self, name: SnapshotName, record: ClusterRecord) -> Result<Manifest, String> {
        let made_ms = self.clock.wall().0;
        let frozen = self.freezer.freeze().map_err(|error| error.to_string())?;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            program: format!("quoit {}", env!("CARGO_PKG_VERSION")),
            name,
            made_ms,
            node: self.node.to_string(),
            cluster: record.cluster.to_string(),
            sequence: frozen.sequence.0,
            durability: self.durability.to_owned(),
            tables: Manifest::tables_of(&record),
            files: Vec::new(),
            record,
        };
        self.snapshots
            .create(manifest, &frozen.tables, &frozen.flushed)
            .map_err(|error| quoit_client::with_sources(&error))
    }

    fn delete(&self, name: &str) -> Result<(), Refusal> {
        let name = parsed(name)?;
        let mut last = self.last();
        let is_of_last = |last: &Attempt| last.name == name;
        match last.clone().filter(is_of_last).map(|last| last.outcome) {
            Some(Outcome::Running) => {
                let text = format!("the snapshot {name} is being made: delete it when it is there");
                return Err(Refusal::NotServing(text));
            }
            Some(Outcome::Failed(_)) => {
                *last = None;
                return Ok(());
            }
            Some(Outcome::Done { .. }) => *last = None,
            None => {}
        }
        drop(last);
        self.snapshots.delete(&name)?;
        tracing::info!(%name, "snapshot deleted");
        Ok(())
    }

    fn list(&self) -> Result<NodeSnapshots, Refusal> {
        // Before the folder is read: what is made meanwhile is there, too.
        let last = self.last().clone();
        let listed = self.snapshots.list()?;
        let mut snapshots: Vec<_> =
            listed.into_iter().map(|listed| info(listed, last.as_ref())).collect();
        if let Some(Attempt { name, outcome }) = last {
            let name = name.to_string();
            let is_there = snapshots.iter().any(|info| info.name == name);
            let state = match outcome {
                Outcome::Running => Some(SnapshotState::Making),
                Outcome::Failed(reason) => Some(SnapshotState::Failed(reason)),
                Outcome::Done { .. } => None,
            };
            if let Some(state) = state.filter(|_| !is_there) {
                snapshots.push(SnapshotInfo { state, ..nothing(name) });
            }
        }
        Ok(NodeSnapshots {
            node: self.node,
            directory: self.snapshots.root().display().to_string(),
            free_bytes: self.snapshots.free_bytes(),
            snapshots,
        })
    }
}

fn parsed(name: &str) -> Result<SnapshotName, Refusal> {
    name.parse().map_err(|error: quoit_storage_files::snapshot::NameError| {
        Refusal::Invalid(error.to_string())
    })
}

/// Of a name, as long as nothing else is known.
fn nothing(name: String) -> SnapshotInfo {
    let state = SnapshotState::Making;
    SnapshotInfo { name, state, made_ms: 0, took_ms: 0, files: 0, bytes: 0, own_bytes: 0 }
}

fn info(listed: Listed, last: Option<&Attempt>) -> SnapshotInfo {
    let took_ms = match last {
        Some(Attempt { name, outcome: Outcome::Done { took_ms } }) if *name == listed.name => {
            *took_ms
        }
        _ => 0,
    };
    let nothing = nothing(listed.name.to_string());
    match listed.manifest {
        Ok(manifest) => SnapshotInfo {
            state: SnapshotState::Whole,
            made_ms: manifest.made_ms,
            took_ms,
            files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            bytes: manifest.bytes(),
            own_bytes: listed.own_bytes,
            ..nothing
        },
        Err(reason) => SnapshotInfo { state: SnapshotState::Damaged(reason), ..nothing },
    }
}

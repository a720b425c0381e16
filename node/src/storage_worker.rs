//! The threads around the store: one writer, a few readers, a flusher and a compactor.
//!
//! The event loop hands over what a turn asked of storage in two batches, reads and the rest, and
//! takes the answers in batches too. The writer takes whatever batches wait, merges all of them,
//! tells at once what the coordinators may replicate already, and then commits with one log write
//! and one fsync: group commit costs nothing extra, and while one batch syncs the loop fills the
//! next. Readers never wait for a sync; what they read is queued by class (`reads`). A snapshot has the
//! writer close its memory between two batches ([`Freezer`]); all else of it is done elsewhere.
//!
//! Bounds: the core has at most `storage_requests_max` requests under way, so the channels, which
//! carry nothing else, are bounded by that.

mod pace;
mod reads;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quoit_core::Spent;
use quoit_core::event::{StorageAnswer, StorageRequest, Tag};
use quoit_storage::codec;
use quoit_storage::engine::{EngineError, Pressure, Sequence};
use quoit_storage::store::{Change, CommitError, Durability, Maintainer, Mutation, Reader, Writer};
use quoit_storage::version::{Content, Version};
use quoit_storage_files::tables::{HeldTables, Tables};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::Clock;
use crate::metrics::Metrics;
use pace::Pace;
use reads::Reads;

/// A commit takes at most so many requests, so that the first of them does not wait for ever.
const BATCH_REQUESTS_MAX: usize = 4_096;
/// Nor does a commit gather more once it has so many bytes of values.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// The flusher and the compactor look for work so often.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(50);
/// After a failed flush or compaction they wait so long; failed commits are told so often.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Memory that was closed for a snapshot is closed again so often, if it was flushed with what came later.
const FREEZES_MAX: u32 = 16;
/// How nice the flusher and the compactor are: where the processor is short they have a third of the others'
/// weight. With 10, a tenth, they could fall behind what they were to follow.
const MAINTENANCE_NICENESS: i32 = 5;
/// Where the tables have fallen behind, a mutation waits for them until so long after it was asked for; then it is
/// refused. Votes for the cluster's record may stand behind it, whose first try takes as long.
const TABLES_PATIENCE_MS: u64 = 1_000;

/// What the core asks.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the answer.
    pub tag: Tag,
    /// What is asked.
    pub request: StorageRequest,
    /// What was not begun by then is dropped.
    pub until: Option<quoit_core::Instant>,
    /// When it was asked.
    pub asked: quoit_core::Instant,
}

/// What a thread answers.
#[derive(Debug)]
pub struct Answered {
    /// Whom.
    pub tag: Tag,
    /// What.
    pub answer: StorageAnswer,
    /// What the request's time went into; `None` where more is to be answered.
    pub spent: Option<Spent>,
}

/// Requests of one turn.
pub type Requests = Vec<Request>;
/// Answers, in the order in which they came about.
pub type Answers = Vec<Answered>;

/// What the threads need.
pub struct Parts {
    /// The single writer.
    pub writer: Writer,
    /// Reads what is committed.
    pub reader: Reader,
    /// Flushes and compacts.
    pub maintainer: Maintainer,
    /// The tables, to condemn them.
    pub tables: Arc<Tables>,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// How often periodic durability syncs.
    pub periodic_interval: Duration,
    /// The number of reading threads.
    pub reader_count: usize,
    /// With so many bytes of values waiting for the writer, nothing more is taken in.
    pub waiting_bytes_max: usize,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// Tells what comes too late.
    pub clock: Clock,
}

/// The threads, from the event loop's side.
pub struct StorageWorker {
    writes: Writes,
    reads: Arc<Reads>,
    reader: Reader,
    maintainer: Maintainer,
    tables: Arc<Tables>,
    /// Bytes of values that wait for the writer.
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl StorageWorker {
    /// Starts the threads. Answers arrive on the receiver.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn start(parts: Parts) -> std::io::Result<(Self, UnboundedReceiver<Answers>)> {
        let (answers, answered) = unbounded_channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let name = name.to_owned();
            std::thread::Builder::new().name(name.clone()).spawn(move || {
                // A node without one of these threads would look alive and answer nothing.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                    tracing::error!(thread = %name, "a storage thread has panicked: the node ends");
                    std::process::abort();
                }
            })
        };
        let reads = Reads::new(parts.reader_count);
        for number in 0..parts.reader_count.max(1) {
            let (reads, reader, answers) = (reads.clone(), parts.reader.clone(), answers.clone());
            let clock = parts.clock.clone();
            let work = move || read_loop(&reader, &clock, &reads, &answers);
            threads.push(spawn(&format!("quoit-read-{number}"), Box::new(work))?);
        }
        let (writes, works) = channel();
        let writing = Writing {
            writer: parts.writer,
            works,
            freezes: Vec::new(),
            answers,
            durability: parts.durability,
            periodic_interval: parts.periodic_interval,
            metrics: parts.metrics,
            failure_told: None,
            waiting_bytes: waiting_bytes.clone(),
            clock: parts.clock,
            pace: Pace::default(),
            stopping: stopping.clone(),
        };
        threads.push(spawn("quoit-write", Box::new(move || writing.run()))?);
        let (maintainer, stop) = (parts.maintainer.clone(), stopping.clone());
        threads.push(spawn("quoit-flush", Box::new(move || flush_loop(&maintainer, &stop)))?);
        let (compacted, stop) = (parts.maintainer.clone(), stopping.clone());
        let tables = parts.tables.clone();
        let work = move || compact_loop(&compacted, &tables, &stop);
        threads.push(spawn("quoit-compact", Box::new(work))?);
        let (reader, maintainer) = (parts.reader, parts.maintainer);
        let worker = Self {
            writes: Arc::new(Mutex::new(Some(writes))),
            maintainer,
            tables: parts.tables,
            reads,
            reader,
            waiting_bytes,
            waiting_bytes_max: parts.waiting_bytes_max,
            stopping,
            threads,
        };
        Ok((worker, answered))
    }

    /// Hands over a turn's requests: writes stay in order, reads may overtake them.
    pub fn submit(&mut self, writes: Requests, reads: Requests) {
        if !writes.is_empty()
            && let Some(sender) = &*lock(&self.writes)
        {
            self.waiting_bytes.fetch_add(bytes_of(&writes), Ordering::Relaxed);
            // The writer ends only when this sender is dropped.
            let _ = sender.send(Work::Batch(writes));
        }
        if !reads.is_empty() {
            self.reads.push(reads);
        }
    }

    /// Whether more writes may be taken in. While the disk is slower than the network, the loop
    /// takes no messages, and QUIC's flow control holds up whoever sends them.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes.load(Ordering::Relaxed) < self.waiting_bytes_max
    }

    /// Bytes of writes that wait for the disk.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed) as u64
    }

    /// Reads on the caller's thread.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// What holds the store at one moment, for snapshots.
    pub fn freezer(&self) -> Freezer {
        let (writes, maintainer) = (self.writes.clone(), self.maintainer.clone());
        Freezer { writes, maintainer, tables: self.tables.clone() }
    }

    /// Commits what was submitted and ends the threads.
    pub fn stop(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        *lock(&self.writes) = None;
        self.reads.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

/// What the writer is sent.
enum Work {
    /// What it is to merge and commit.
    Batch(Requests),
    /// It is to close the memory.
    Freeze(Closed),
}

/// Whom the writer tells that it has closed the memory.
type Closed = SyncSender<Result<Sequence, CommitError>>;

/// The way to the writer; `None` once the node stops: the writer ends when no sender is left.
type Writes = Arc<Mutex<Option<Sender<Work>>>>;

/// A lock that no panic can leave broken: its holders only send.
fn lock(writes: &Writes) -> std::sync::MutexGuard<'_, Option<Sender<Work>>> {
    writes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the store at one moment. Any thread; it waits for a flush.
#[derive(Clone)]
pub struct Freezer {
    writes: Writes,
    maintainer: Maintainer,
    tables: Arc<Tables>,
}

/// A store that is held.
pub struct FrozenStore {
    /// Every record of the log up to this one is in the tables.
    pub sequence: Sequence,
    /// How whole virtual nodes stand in them.
    pub flushed: Bytes,
    /// Their files.
    pub tables: HeldTables,
}

/// The store could not be held. It goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The log could not be synced.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The memory could not be flushed, or the files not be read.
    #[error("{0}")]
    Flush(String),
    /// What was flushed each time held later writes, too.
    #[error("the node writes and flushes too fast: try again when there is less load")]
    Busy,
}

impl Freezer {
    /// Holds all that was committed before this is called, and perhaps what is committed meanwhile.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn freeze(&self) -> Result<FrozenStore, FreezeError> {
        for _ in 0..FREEZES_MAX {
            let (closed, sequence) = sync_channel(1);
            let sent = lock(&self.writes).as_ref().map(|it| it.send(Work::Freeze(closed)));
            if !matches!(sent, Some(Ok(()))) {
                return Err(FreezeError::Stopping);
            }
            let sequence = sequence.recv().map_err(|_| FreezeError::Stopping)??;
            let hold = || self.tables.hold().map_err(|error| error.to_string());
            let held = self.maintainer.freeze(sequence, hold).map_err(FreezeError::Flush)?;
            if let Some((flushed, tables)) = held {
                return Ok(FrozenStore { sequence, flushed, tables });
            }
        }
        Err(FreezeError::Busy)
    }
}

fn us_between(earlier: quoit_core::Instant, later: quoit_core::Instant) -> u64 {
    later.0.saturating_sub(earlier.0)
}

fn read_loop(
    reader: &Reader,
    clock: &Clock,
    reads: &Arc<Reads>,
    answers: &UnboundedSender<Answers>,
) {
    while let Some(mut taken) = reads.take() {
        let mut began = clock.instant();
        let answer = |Request { tag, request, until, asked }| {
            let answer = match until.is_some_and(|until| began > until) {
                true => request.too_late(),
                false => request.read(reader),
            };
            let waited_us = us_between(asked, began);
            let ended = clock.instant();
            let took_us = us_between(std::mem::replace(&mut began, ended), ended);
            Answered { tag, answer, spent: Some(Spent::Read { waited_us, took_us }) }
        };
        let answered = taken.requests.drain(..).map(answer).collect();
        if answers.send(answered).is_err() {
            return;
        }
    }
}

/// The writer's thread.
struct Writing {
    writer: Writer,
    works: Receiver<Work>,
    /// Who waits for the memory to be closed, once the batch at hand is committed.
    freezes: Vec<Closed>,
    answers: UnboundedSender<Answers>,
    durability: Durability,
    periodic_interval: Duration,
    metrics: Arc<Metrics>,
    /// When a failed commit was last told: a full disk fails thousands a second.
    failure_told: Option<Instant>,
    waiting_bytes: Arc<AtomicUsize>,
    clock: Clock,
    pace: Pace,
    stopping: Arc<AtomicBool>,
}

impl Writing {
    fn run(mut self) {
        let mut synced_at = Instant::now();
        loop {
            let batch = match self.works.recv_timeout(self.periodic_interval) {
                Ok(work) => self.gather(work),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if !batch.is_empty() {
                self.work(batch);
            }
            for closed in std::mem::take(&mut self.freezes) {
                // Who has gone needs no answer.
                let _ = closed.send(self.writer.begin_freeze());
            }
            if self.durability == Durability::Periodic
                && synced_at.elapsed() >= self.periodic_interval
            {
                synced_at = Instant::now();
                self.sync_periodically();
            }
        }
        if let Err(error) = self.writer.sync() {
            tracing::error!(%error, "the last writes may not be durable");
        }
    }

    /// Adds whatever else waits, up to a bound.
    fn gather(&mut self, first: Work) -> Requests {
        let mut batch = self.batch_of(first);
        let mut bytes = bytes_of(&batch);
        while batch.len() < BATCH_REQUESTS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(more) = self.works.try_recv()
        {
            let more = self.batch_of(more);
            bytes += bytes_of(&more);
            batch.extend(more);
        }
        batch
    }

    fn batch_of(&mut self, work: Work) -> Requests {
        match work {
            Work::Batch(batch) => batch,
            Work::Freeze(closed) => {
                self.freezes.push(closed);
                Vec::new()
            }
        }
    }

    /// Waits as the tables ask, for the sake of a batch's mutations: they refuse nothing else.
    fn keep_pace(&mut self, batch: &Requests) {
        let mutations = batch.iter().filter(|asked| is_mutation(&asked.request));
        let Some(oldest) = mutations.map(|asked| asked.asked).min() else { return };
        if self.durability == Durability::Periodic && self.writer.pressure() == Pressure::Halt {
            // What was acknowledged does not wait with it.
            self.sync_periodically();
        }
        let until = oldest.plus_ms(TABLES_PATIENCE_MS);
        let is_worth_it = || !self.stopping.load(Ordering::Relaxed) && self.clock.instant() < until;
        self.pace.keep(|| self.writer.pressure(), is_worth_it);
    }

    fn sync_periodically(&mut self) {
        if let Err(error) = self.writer.sync() {
            tracing::error!(%error, "the commit log cannot be synced");
        }
    }

    /// Merges a batch, tells what may be replicated, commits, and tells what is durable.
    fn work(&mut self, batch: Requests) {
        self.keep_pace(&batch);
        let (count, bytes) = (batch.len(), bytes_of(&batch));
        let mut prepared = Vec::new();
        let mut after = Vec::with_capacity(count);
        let began_at = self.clock.instant();
        for Request { tag, request, until, asked } in batch {
            let waited_us = us_between(asked, began_at);
            let (merged_us, committed_us) = (0, 0);
            let spent = Some(Spent::Write { waited_us, merged_us, committed_us });
            if until.is_some_and(|until| began_at > until) {
                after.push(Answered { tag, answer: request.too_late(), spent });
                continue;
            }
            let (at_once, answer) = request.write(&mut self.writer);
            prepared.extend(at_once.map(|answer| Answered { tag, answer, spent: None }));
            after.push(Answered { tag, answer, spent });
        }
        let merged_at = self.clock.instant();
        if !prepared.is_empty() {
            let _ = self.answers.send(prepared);
        }
        let began = Instant::now();
        let committed = self.writer.commit();
        self.metrics.commit(count, began.elapsed());
        if let Err(error) = committed {
            let told_lately = self.failure_told.is_some_and(|at| at.elapsed() < FAILURE_PAUSE);
            if !told_lately {
                self.failure_told = Some(Instant::now());
                tracing::error!(%error, "a batch was not committed");
            }
            let reason = error.to_string();
            after.iter_mut().for_each(|after| after.answer.take_back(after.tag, &reason));
        }
        let merged = us_between(began_at, merged_at);
        let committed = us_between(merged_at, self.clock.instant());
        for spent in after.iter_mut().filter_map(|after| after.spent.as_mut()) {
            if let Spent::Write { merged_us, committed_us, .. } = spent {
                (*merged_us, *committed_us) = (merged, committed);
            }
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let _ = self.answers.send(after);
    }
}

fn is_mutation(request: &StorageRequest) -> bool {
    use StorageRequest::{Apply, ApplyMany, StandIn};
    matches!(request, Apply { .. } | ApplyMany { .. } | StandIn { .. })
}

/// The bytes of the values in a batch.
fn bytes_of(batch: &Requests) -> usize {
    let bytes = |request: &StorageRequest| match request {
        StorageRequest::Apply { mutation, .. } => bytes_of_mutation(mutation),
        StorageRequest::StandIn { taken, .. } => bytes_of_mutation(&taken.mutation),
        StorageRequest::ApplyMany { mutations, .. } => {
            mutations.iter().map(bytes_of_mutation).sum()
        }
        _ => 0,
    };
    batch.iter().map(|asked| bytes(&asked.request)).sum()
}

fn bytes_of_mutation(mutation: &Mutation) -> usize {
    let apart: usize = mutation.values.iter().map(|value| value.bytes.len()).sum();
    let inline = match &mutation.change {
        Change::Write { version: Version { content, .. }, .. } => match content {
            Content::Value { bytes, .. } => bytes.len(),
            Content::Apart { .. } | Content::Tombstone => 0,
        },
        Change::Merge { set, .. } => codec::encoded_bytes(set),
        Change::Collect | Change::Drop => 0,
    };
    inline + apart
}

/// Has this thread make room for all others.
fn give_way() {
    // On Linux niceness is each thread's own.
    let made_nicer = rustix::process::getpriority_process(None).and_then(|nice| {
        rustix::process::setpriority_process(None, nice.max(MAINTENANCE_NICENESS))
    });
    if let Err(error) = made_nicer {
        tracing::warn!(%error, "flushes and compactions do not make room for requests");
    }
}

fn flush_loop(maintainer: &Maintainer, stopping: &AtomicBool) {
    give_way();
    while !stopping.load(Ordering::Relaxed) {
        if let Err(error) = maintainer.flush() {
            tracing::warn!(%error, "the tables could not be flushed; it is tried again");
            std::thread::sleep(FAILURE_PAUSE);
        }
        std::thread::sleep(MAINTENANCE_INTERVAL);
    }
}

fn compact_loop(maintainer: &Maintainer, tables: &Tables, stopping: &AtomicBool) {
    give_way();
    while !stopping.load(Ordering::Relaxed) {
        match maintainer.compact() {
            Ok(()) => {}
            Err(EngineError::Damaged(reason)) => {
                tracing::error!(
                    %reason,
                    "the tables are damaged and cannot be compacted: restart the node, which then \
                     makes them anew and fills them from its peers"
                );
                if let Err(error) = tables.condemn(&reason) {
                    tracing::error!(%error, "and that cannot be noted down for the next start");
                }
                return;
            }
            Err(error @ EngineError::Io(_)) => {
                tracing::warn!(%error, "the tables could not be compacted; it is tried again");
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
        std::thread::sleep(MAINTENANCE_INTERVAL);
    }
}

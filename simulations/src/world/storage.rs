//! A node's storage worker, as its driver runs it (`node/src/storage_worker.rs`): reads at any
//! time; the rest in order, batch by batch, each merged, told, and committed with one write and one
//! fsync while the next one gathers.

use std::sync::Arc;

use quoit_core::continuity::{CONTINUITY_FILE, ContinuityState};
use quoit_core::event::{Inner, StorageAnswer, StorageRequest, Tag};
use quoit_core::record::{RECORD_FILE, RecordState, VOTE_FILE};
use quoit_core::{Event as CoreEvent, Instant, Recovered, SCRUB_FILE, ScrubState};
use quoit_ring::VnodeCount;
use quoit_storage::disk::Disk;
use quoit_storage::small_file::SmallFile;
use quoit_storage::store::{
    self, Change, CommitError, Maintainer, Outcome, Reader, StoreOptions, Writer,
};

use super::machine::Machine;
use super::{Then, World};
use crate::plan::Schedule;

/// How often maintenance looks for work.
const MAINTENANCE_US: u64 = 50_000;
/// After a failed flush it waits so long.
const FAILURE_PAUSE_US: u64 = 1_000_000;

pub(crate) struct Worker {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
    pub(crate) maintainer: Maintainer,
    waiting: Vec<(Tag, StorageRequest, Option<Instant>)>,
    /// Merged, and being committed; with the key of what changes one.
    batch: Vec<(Tag, StorageAnswer, Option<bytes::Bytes>)>,
    busy: bool,
    maintained: bool,
    /// A commit failed for good: nothing more may be acknowledged.
    pub(crate) poisoned: bool,
}

impl Worker {
    /// Opens what the disk holds, as `quoit serve` does.
    pub(crate) fn open(
        machine: &Machine,
        schedule: &Schedule,
        identity: u64,
    ) -> Result<(Self, Recovered, Vec<String>), String> {
        let disk: Arc<dyn Disk> = Arc::new(machine.disk.clone());
        let load = |name| SmallFile::new(disk.clone(), name).load().map_err(|e| e.to_string());
        let (record, vote) = (load(RECORD_FILE)?, load(VOTE_FILE)?);
        let (record, vote) = (record.map(|it| it.bytes), vote.map(|it| it.bytes));
        let record = RecordState::read(record.as_deref(), vote.as_deref());
        let record = record.map_err(|error| error.to_string())?;
        let continuity = load(CONTINUITY_FILE)?.map(|it| it.bytes);
        let continuity = ContinuityState::read(continuity.as_deref());
        let scrub = load(SCRUB_FILE).ok().flatten().map(|it| it.bytes);
        let rarities = &schedule.rarities;
        let options = StoreOptions {
            vnodes: VnodeCount::new(schedule.vnodes).map_err(|error| error.to_string())?,
            segment_bytes: rarities.segment_bytes,
            memory_bytes_max: rarities.memory_bytes_max,
            // Of some keys it knows what they hold, and of others it must ask the tables.
            heads_bytes_max: rarities.memory_bytes_max / 4,
            siblings_max: usize::from(rarities.siblings_max),
            ..StoreOptions::default()
        };
        let engine = Arc::new(machine.tables.open());
        let opened =
            store::open(disk, engine, options, None, identity).map_err(|error| match error {
                // The chain of sources says which file it was.
                store::OpenError::Log(source) => format!("the log: {source}"),
                other => other.to_string(),
            })?;
        let recovered = Recovered {
            record,
            lease: opened.writer.lease(),
            continuity: continuity.map_err(|error| error.to_string())?,
            sequence: opened.report.sequence,
            distrusted: opened.reader.distrusted(),
            hints: opened.reader.count_hints(),
            scrub: ScrubState::read(scrub.as_deref()),
        };
        let worker = Self {
            writer: opened.writer,
            reader: opened.reader,
            maintainer: opened.maintainer,
            waiting: Vec::new(),
            batch: Vec::new(),
            busy: false,
            maintained: false,
            poisoned: false,
        };
        Ok((worker, recovered, opened.report.damage))
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn read(&self, request: StorageRequest) -> StorageAnswer {
        request.read(&self.reader)
    }

    fn prepare(&mut self, requests_max: usize, now: Instant) -> Vec<(Tag, StorageAnswer)> {
        let mut prepared = Vec::new();
        let count = self.waiting.len().min(requests_max);
        for (tag, request, until) in self.waiting.drain(..count) {
            let key = match &request {
                StorageRequest::Apply { mutation, .. } => Some(mutation.key.bytes().clone()),
                _ => None,
            };
            let answer = if until.is_some_and(|until| now > until) {
                request.too_late()
            } else {
                let (at_once, answer) = request.write(&mut self.writer);
                prepared.extend(at_once.map(|answer| (tag, answer)));
                answer
            };
            self.batch.push((tag, answer, key));
        }
        prepared
    }

    /// Commits; what was merged but not committed is not acknowledged.
    fn commit(&mut self) -> Vec<(Tag, StorageAnswer, Option<bytes::Bytes>)> {
        let mut answers = std::mem::take(&mut self.batch);
        let Err(error) = self.writer.commit() else { return answers };
        self.poisoned |= matches!(error, CommitError::Poisoned(_));
        let reason = error.to_string();
        answers.iter_mut().for_each(|(tag, answer, _)| answer.take_back(*tag, &reason));
        answers
    }
}

impl World {
    pub(super) fn ask_storage(
        &mut self,
        node: usize,
        tag: Tag,
        request: StorageRequest,
        until: Option<Instant>,
    ) {
        let read_us = self.machines[node].plan.read_us;
        let process = self.machines[node].process.as_mut().expect("it runs");
        let life = process.life;
        if !request.is_read() {
            if let StorageRequest::Apply { mutation, .. } = &request {
                self.checks.dots.on_apply(node, life, mutation);
            }
            if let StorageRequest::StandIn { taken, .. } = &request {
                self.checks.dots.on_apply(node, life, &taken.mutation);
            }
            if let StorageRequest::ChangeHints(changes) = &request {
                self.check_hints(node, changes);
            }
            let process = self.machines[node].process.as_mut().expect("it runs");
            process.worker.waiting.push((tag, request, until));
            if !std::mem::replace(&mut process.worker.busy, true) {
                self.push_in(5, node, life, Then::Work);
            }
        } else if read_us == 0 {
            let answer = process.worker.read(request);
            self.due.push_back((node, CoreEvent::Storage { tag, answer }));
        } else {
            let delay_us = read_us / 2 + self.disks[node].below(read_us);
            let then = Then::Read(Box::new((tag, request, until)));
            self.push_in(delay_us, node, life, then);
        }
    }

    pub(super) fn on_read(
        &mut self,
        node: usize,
        tag: Tag,
        request: StorageRequest,
        until: Option<Instant>,
    ) {
        let now = self.machines[node].now(self.time_us).instant;
        let process = self.machines[node].process.as_ref().expect("it runs");
        let answer = match until {
            Some(until) if now > until => request.too_late(),
            Some(_) | None => process.worker.read(request),
        };
        self.handle(node, CoreEvent::Storage { tag, answer });
    }

    pub(super) fn work(&mut self, node: usize) {
        let requests_max = self.schedule.rarities.batch_requests_max as usize;
        let sync_us = self.machines[node].plan.sync_us;
        let sync_us = sync_us / 2 + self.disks[node].below(sync_us);
        let sync_us = sync_us + self.machines[node].more_sync_us;
        let now = self.machines[node].now(self.time_us).instant;
        let process = self.machines[node].process.as_mut().expect("it runs");
        let life = process.life;
        let prepared = process.worker.prepare(requests_max, now);
        self.push_in(sync_us, node, life, Then::Commit);
        for (tag, answer) in prepared {
            self.handle(node, CoreEvent::Storage { tag, answer });
        }
    }

    /// The batch is committed; the next one is begun before the core has heard of it.
    pub(super) fn commit(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let process = machine.process.as_mut().expect("it runs");
        let life = process.life;
        let was_poisoned = process.worker.poisoned;
        let answers = process.worker.commit();
        if machine.tears && machine.disk.has_crashed() {
            return self.tear(node);
        }
        let process = machine.process.as_mut().expect("it runs");
        let more = !process.worker.waiting.is_empty();
        process.worker.busy = more;
        if more {
            self.push_in(0, node, life, Then::Work);
        }
        self.maintain_later(node, 1_000 + self.disks[node].clone().below(MAINTENANCE_US));
        for (tag, answer, key) in answers {
            match &answer {
                StorageAnswer::Applied(Outcome::Merged(set)) => {
                    self.checks.fsyncs.on_acknowledged(node, was_poisoned);
                    if let Some(key) = key {
                        self.machines[node].durable.insert(key, set.clone());
                    }
                }
                StorageAnswer::Saved(Ok(())) | StorageAnswer::AppliedMany(_) => {
                    self.checks.fsyncs.on_acknowledged(node, was_poisoned);
                    match tag {
                        Tag::Settling(_) => self.check_floors(node),
                        Tag::Inner(Inner::Trust { vnode }) => self.check_trusted(node, vnode),
                        _ => {}
                    }
                }
                _ => {}
            }
            self.handle(node, CoreEvent::Storage { tag, answer });
        }
    }

    fn maintain_later(&mut self, node: usize, delay_us: u64) {
        let process = self.machines[node].process.as_mut().expect("it runs");
        if process.worker.maintainer.has_work()
            && !std::mem::replace(&mut process.worker.maintained, true)
        {
            let life = process.life;
            self.push_in(delay_us, node, life, Then::Maintain);
        }
    }

    pub(super) fn maintain(&mut self, node: usize) {
        let process = self.machines[node].process.as_mut().expect("it runs");
        process.worker.maintained = false;
        // A full disk takes no checkpoint; it is tried again.
        let failed = process.worker.maintainer.flush().is_err();
        if self.machines[node].tears && self.machines[node].disk.has_crashed() {
            return self.tear(node);
        }
        self.maintain_later(node, if failed { FAILURE_PAUSE_US } else { MAINTENANCE_US });
    }

    /// Closes the tables' memory, for a flush.
    pub(super) fn rotate(&mut self, node: usize) {
        if let Some(process) = &mut self.machines[node].process {
            process.worker.writer.rotate();
            self.maintain_later(node, 100);
        }
    }
}

/// What a mutation carries: its versions.
pub(crate) fn versions_of(change: &Change) -> &[quoit_storage::version::Version] {
    match change {
        Change::Write { version, .. } => std::slice::from_ref(version),
        Change::Merge { set, .. } => set.versions(),
        Change::Collect | Change::Drop => &[],
    }
}

//! The storage worker of a node, as the node's driver runs it: reads at any time; the rest in order,
//! batch by batch, each merged, told, and committed with one sync.

use std::sync::Arc;

use quoit_core::continuity::{CONTINUITY_FILE, ContinuityState};
use quoit_core::event::{StorageAnswer, StorageRequest, Tag};
use quoit_core::record::{RECORD_FILE, RecordState, VOTE_FILE};
use quoit_core::{Event, Instant, Recovered, SCRUB_FILE, ScrubState};
use quoit_ring::{NodeId, VnodeCount};
use quoit_storage::disk::Disk;
use quoit_storage::small_file::SmallFile;
use quoit_storage::store::{self, Maintainer, Reader, StoreOptions, Writer};

use super::{Machine, Then, World};

pub(super) struct Worker {
    writer: Writer,
    reader: Reader,
    maintainer: Maintainer,
    waiting: Vec<(Tag, StorageRequest, Option<Instant>)>,
    /// Merged, and being committed.
    batch: Vec<(Tag, StorageAnswer)>,
    busy: bool,
}

impl Worker {
    pub(super) fn open(machine: &Machine, vnodes: VnodeCount, identity: u64) -> (Self, Recovered) {
        let disk: Arc<dyn Disk> = Arc::new(machine.disk.clone());
        // No heads: what is damaged on the disk is lost at once.
        let (segment_bytes, heads_bytes_max) = (256 << 10, 0);
        let options =
            StoreOptions { vnodes, segment_bytes, heads_bytes_max, ..StoreOptions::default() };
        let engine = Arc::new(machine.tables.open());
        let opened = store::open(disk.clone(), engine, options, None, identity).expect("opens");
        let load = |name| SmallFile::new(disk.clone(), name).load().expect("loads");
        let (record, vote) = (load(RECORD_FILE), load(VOTE_FILE));
        let bytes = |loaded: Option<quoit_storage::small_file::Loaded>| loaded.map(|it| it.bytes);
        let record = RecordState::read(bytes(record).as_deref(), bytes(vote).as_deref());
        let continuity = bytes(load(CONTINUITY_FILE));
        let scrub = bytes(load(SCRUB_FILE));
        let recovered = Recovered {
            record: record.expect("whole"),
            lease: opened.writer.lease(),
            continuity: ContinuityState::read(continuity.as_deref()).expect("whole"),
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
        };
        (worker, recovered)
    }

    pub(super) fn flush(&mut self) {
        self.writer.rotate();
        // A full disk takes no checkpoint; it is tried again with the next.
        let _ = self.maintainer.flush();
    }

    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    fn prepare(&mut self, now: Instant) -> Vec<(Tag, StorageAnswer)> {
        let mut prepared = Vec::new();
        for (tag, request, until) in std::mem::take(&mut self.waiting) {
            let answer = if until.is_some_and(|until| now > until) {
                request.too_late()
            } else {
                let (at_once, answer) = request.write(&mut self.writer);
                prepared.extend(at_once.map(|answer| (tag, answer)));
                answer
            };
            self.batch.push((tag, answer));
        }
        prepared
    }

    fn commit(&mut self) -> Vec<(Tag, StorageAnswer)> {
        let mut answers = std::mem::take(&mut self.batch);
        if let Err(error) = self.writer.commit() {
            let reason = error.to_string();
            answers.iter_mut().for_each(|(tag, answer)| answer.take_back(*tag, &reason));
        }
        answers
    }
}

impl World {
    pub(super) fn ask_storage(
        &mut self,
        id: NodeId,
        tag: Tag,
        request: StorageRequest,
        until: Option<Instant>,
    ) {
        let process = self.process(id);
        let (life, reader) = (process.life, process.worker.reader.clone());
        if !request.is_read() {
            process.worker.waiting.push((tag, request, until));
            if !std::mem::replace(&mut process.worker.busy, true) {
                self.push_in(20, id, life, Then::Work);
            }
            return;
        }
        let answer = request.read(&reader);
        let delay = 20 + self.random.below(200);
        self.push_in(delay, id, life, Then::Event(Box::new(Event::Storage { tag, answer })));
    }

    pub(super) fn work(&mut self, id: NodeId) {
        let now = self.now(id).instant;
        let process = self.process(id);
        let life = process.life;
        let prepared = process.worker.prepare(now);
        let sync_us = self.machines[&id].sync_us;
        let sync_us = sync_us / 2 + self.random.below(sync_us);
        for (tag, answer) in prepared {
            self.push_in(10, id, life, Then::Event(Box::new(Event::Storage { tag, answer })));
        }
        self.push_in(sync_us.max(20), id, life, Then::Commit);
    }

    /// The batch is committed; the next one is merged before the core has heard of it.
    pub(super) fn commit(&mut self, id: NodeId) {
        let process = self.process(id);
        let life = process.life;
        let answers = process.worker.commit();
        let more = !process.worker.waiting.is_empty();
        process.worker.busy = more;
        if more {
            self.push_in(0, id, life, Then::Work);
        }
        for (tag, answer) in answers {
            self.push_in(10, id, life, Then::Event(Box::new(Event::Storage { tag, answer })));
        }
    }

    /// Has a node's store distrust all that it holds, as after a loss of unknown extent.
    pub fn distrust(&mut self, id: NodeId) {
        let writer = &mut self.process(id).worker.writer;
        writer.begin_era();
        writer.commit().expect("the disk is well");
    }

    /// How many virtual nodes a node's store distrusts.
    pub fn distrusted(&mut self, id: NodeId) -> usize {
        self.process(id).worker.reader.distrusted().len()
    }

    /// Flushes a node's tables, as its maintenance does.
    pub fn flush(&mut self, id: NodeId) {
        self.process(id).worker.flush();
    }
}

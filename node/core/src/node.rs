//! The core itself: one event in, effects out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quoit_protocol::{
    ChangeTables, ClientRequest, Failure, FailureCode, Get, Head, Write, WriteId,
};
use quoit_ring::{ClusterRecord, Epoch, HybridClock, HybridTime, NodeId};
use quoit_storage::store::Outcome as Applied;

use crate::client;
use crate::config::CoreConfig;
use crate::coordinator::read::ReadOperation;
use crate::coordinator::scan::ScanOperation;
use crate::coordinator::write::{Progress, WriteOperation};
use crate::counters::Counters;
use crate::event::{
    ConnectionId, Effect, Effects, Event, Inner, StorageAnswer, StorageRequest, Tag,
};
use crate::handshake::PeerHello;
use crate::liveness::Liveness;
use crate::operation::{OperationId, Origin, not_done};
use crate::peer::{Forward, PeerMessage, Ping, Refusal};
use crate::random::Random;
use crate::record::{ChangeResult, Keeper, Outcome, RecordState};
use crate::replica::{self, ReplicaAnswer, ReplicaRequest};
use crate::time::{Instant, Now};
use crate::turn::{ChangeOrigin, Shared, Turn};

/// Clocks are told to the peers so often.
const PING_EVERY_MS: u64 = 1_000;
/// The other members' majority is waited for no longer than this before the node calls itself
/// ready all the same.
const READY_ALONE_AFTER_MS: u64 = 30_000;

/// What the disk held at the start.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The record and the vote.
    pub record: RecordState,
    /// The durable lease of hybrid time.
    pub lease: HybridTime,
}

/// An operation on its way.
enum Operation {
    Write(Box<WriteOperation>),
    Read(Box<ReadOperation>),
    Scan(Box<ScanOperation>),
    Forward(ForwardOperation),
}

/// A write that was handed on to a primary.
struct ForwardOperation {
    origin: Origin,
    to: NodeId,
    deadline: Instant,
}

/// What is remembered of a write with an id.
#[derive(Debug, Clone)]
enum KnownWrite {
    Running(OperationId),
    Done(quoit_protocol::Written),
}

/// A node's core. See the crate's documentation.
pub struct NodeCore {
    shared: Shared,
    operations: BTreeMap<OperationId, (Operation, Instant)>,
    wakes: BTreeSet<(Instant, OperationId)>,
    next_operation: u64,
    known_writes: BTreeMap<WriteId, KnownWrite>,
    known_writes_order: VecDeque<WriteId>,
    started: Instant,
    next_ping: Instant,
    lease_asked: bool,
    /// Once ready, a node stays so.
    was_ready: bool,
}

impl NodeCore {
    /// A core that goes on from what the disk holds. The first event should be a
    /// [`Event::Tick`].
    pub fn new(config: CoreConfig, recovered: Recovered, now: Now) -> Self {
        let mut random = Random::new(config.seed);
        let keeper = Keeper::new(
            config.node,
            config.genesis.clone(),
            recovered.record,
            Random::new(random.draw()),
            now.instant,
        );
        Self {
            shared: Shared {
                clock: HybridClock::recover(recovered.lease),
                liveness: Liveness::default(),
                keeper,
                random,
                counters: Counters::default(),
                actors: BTreeMap::new(),
                immediate: VecDeque::new(),
                to_heal: Vec::new(),
                in_storage: 0,
                lease_wanted: HybridTime::ZERO,
                clock_problem: None,
                storage_problem: None,
                config,
            },
            operations: BTreeMap::new(),
            wakes: BTreeSet::new(),
            next_operation: 1,
            known_writes: BTreeMap::new(),
            known_writes_order: VecDeque::new(),
            started: now.instant,
            next_ping: now.instant,
            lease_asked: false,
            was_ready: false,
        }
    }

    /// Handles one event; what is to be done about it is appended to `effects`.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Client { connection, request, message } => {
                self.on_client(connection, request, message, now, effects);
            }
            Event::Peer { from, request, message } => {
                self.on_peer(from, request, message, now, effects);
            }
            Event::PeerConnected { node } => {
                self.shared.liveness.on_connected(node);
                self.send_ping(node, now, effects);
            }
            Event::PeerDisconnected { node } => self.on_peer_lost(node, now, effects),
            Event::SeemsAlive { node } => self.shared.liveness.on_belief(node, true),
            Event::SeemsDead { node } => self.shared.liveness.on_belief(node, false),
            Event::Storage { tag, answer } => self.on_storage(tag, answer, now, effects),
            Event::Tick => self.on_tick(now, effects),
        }
        self.settle(now, effects);
    }

    /// The next instant at which a [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        let wake = self.wakes.first().map(|(at, _)| *at);
        [wake, self.shared.keeper.next_deadline(), Some(self.next_ping)].into_iter().flatten().min()
    }

    /// The record in force.
    pub fn record(&self) -> Option<&ClusterRecord> {
        self.shared.keeper.current()
    }

    /// What the node says in handshakes, but for its address.
    pub fn hello(&self, address: std::net::SocketAddr) -> PeerHello {
        let keeper = &self.shared.keeper;
        PeerHello {
            version_min: crate::handshake::PEER_VERSION,
            version_max: crate::handshake::PEER_VERSION,
            cluster: keeper.genesis().cluster,
            node: self.shared.config.node,
            address,
            boot_count: self.shared.config.boot_count,
            genesis_hash: keeper.genesis().hash(),
            epoch: keeper.epoch(),
            record_hash: keeper.hash(),
        }
    }

    /// Counts of what happened since the start.
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// Operations on their way.
    pub fn operation_count(&self) -> usize {
        self.operations.len()
    }

    /// What keeps the node from serving fully, for people; empty where nothing does.
    pub fn problems(&self) -> Vec<String> {
        let missing = self.record().is_none().then(|| {
            "no cluster record yet: a majority of the initial members must be up once".to_owned()
        });
        let shared = &self.shared;
        [missing, shared.clock_problem.clone(), shared.storage_problem.clone()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Why the node does not serve yet; empty once it does.
    pub fn not_ready(&mut self, now: Now) -> Vec<String> {
        if self.was_ready {
            return Vec::new();
        }
        let mut reasons = self.problems();
        if self.shared.clock.lease() <= self.shared.clock.read(now.wall) {
            reasons.push("the clock's lease is not durable yet".to_owned());
        }
        if let Some(record) = self.record() {
            let own = self.shared.config.node;
            let here = |id: NodeId| id == own || self.shared.liveness.is_connected(id);
            let up = record.members.iter().filter(|member| here(member.id)).count();
            let waited = now.instant.ms_since(self.started) >= READY_ALONE_AFTER_MS;
            if up <= record.members.len() / 2 && !waited {
                reasons.push(format!("{up} of {} members are connected", record.members.len()));
            }
        }
        self.was_ready = reasons.is_empty();
        reasons
    }

    fn turn<'a>(shared: &'a mut Shared, now: Now, effects: &'a mut Effects) -> Turn<'a> {
        Turn { now, shared, effects }
    }

    // ---- clients ----

    fn on_client(
        &mut self,
        connection: ConnectionId,
        request: u64,
        message: ClientRequest,
        now: Now,
        effects: &mut Effects,
    ) {
        let origin = Origin::Client { connection, request };
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if client::is_operation(&message)
            && self.operations.len() >= turn.shared.config.operations_max
        {
            let failure = not_done(
                FailureCode::Overloaded,
                "this node coordinates as many requests as it may: come back later",
            );
            turn.refuse(origin, failure);
            return;
        }
        match message {
            ClientRequest::Hello(hello) => {
                let message = turn.welcome(&hello);
                turn.effects.push(Effect::ToClient { connection, request, message });
            }
            ClientRequest::AskRecord(_) => {
                let message = turn.tell_record();
                turn.effects.push(Effect::ToClient { connection, request, message });
            }
            ClientRequest::AskStatus(_) => {
                let tag = Tag::Inner(Inner::Figures { connection, request });
                turn.to_storage(tag, StorageRequest::Figures);
            }
            ClientRequest::ChangeTables(change) => {
                self.on_change_tables((connection, request), change, now, effects);
            }
            ClientRequest::Get(get) => self.begin_read(origin, get, now, effects),
            ClientRequest::Write(write) => self.begin_write(origin, write, now, effects),
            ClientRequest::Scan(scan) => {
                let id = self.new_operation();
                let mut turn = Self::turn(&mut self.shared, now, effects);
                let parts = turn.admit_scan(id, origin, scan);
                self.begin_scan(id, origin, parts, now, effects);
            }
            ClientRequest::Export(export) => {
                let id = self.new_operation();
                let mut turn = Self::turn(&mut self.shared, now, effects);
                let parts = turn.admit_export(id, origin, export);
                self.begin_scan(id, origin, parts, now, effects);
            }
        }
    }

    fn new_operation(&mut self) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        id
    }

    fn keep(&mut self, id: OperationId, operation: Operation) {
        let wake = match &operation {
            Operation::Write(write) => write.deadline,
            Operation::Read(read) => read.wake(),
            Operation::Scan(scan) => scan.wake(),
            Operation::Forward(forward) => forward.deadline,
        };
        self.wakes.insert((wake, id));
        self.operations.insert(id, (operation, wake));
    }

    fn begin_read(&mut self, origin: Origin, get: Get, now: Now, effects: &mut Effects) {
        let id = self.new_operation();
        let mut turn = Self::turn(&mut self.shared, now, effects);
        match turn.admit_get(id, origin, get) {
            Ok(parts) => {
                let (read, progress) = ReadOperation::begin(parts, &mut turn);
                if progress == Progress::Continue {
                    self.keep(id, Operation::Read(Box::new(read)));
                }
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    fn begin_scan(
        &mut self,
        id: OperationId,
        origin: Origin,
        parts: Result<crate::coordinator::scan::ScanParts, Failure>,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        match parts {
            Ok(parts) => {
                let (scan, progress) = ScanOperation::begin(parts, &mut turn);
                if progress == Progress::Continue {
                    self.keep(id, Operation::Scan(Box::new(scan)));
                }
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    fn begin_write(&mut self, origin: Origin, write: Write, now: Now, effects: &mut Effects) {
        let id = self.new_operation();
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if let Some(write_id) = write.write_id
            && let Some(known) = self.known_writes.get(&write_id)
        {
            turn.shared.counters.repeated_writes += 1;
            match known {
                KnownWrite::Done(written) => turn.reply(origin, written.clone().into()),
                KnownWrite::Running(id) => {
                    if let Some((Operation::Write(running), _)) = self.operations.get_mut(id) {
                        running.origins.push(origin);
                    }
                }
            }
            return;
        }
        let copy = write.clone();
        let parts = match turn.admit_write(id, origin, write) {
            Ok(parts) => parts,
            Err(failure) => return turn.refuse(origin, failure),
        };
        if !parts.tally.primaries().any(|node| node == turn.own()) {
            let parts = (parts.tally, parts.deadline);
            return self.forward(id, origin, copy, parts, now, effects);
        }
        if let Some(problem) =
            turn.shared.clock_problem.clone().or(turn.shared.storage_problem.clone())
        {
            return turn.refuse(origin, not_done(FailureCode::NotServing, problem));
        }
        let write_id = parts.write_id;
        match WriteOperation::begin(parts, &mut turn) {
            Ok(write) => {
                if let Some(write_id) = write_id {
                    self.remember(write_id, KnownWrite::Running(id));
                }
                self.keep(id, Operation::Write(Box::new(write)));
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    /// Hands a write on to a primary, once: it is never sent to a second one.
    fn forward(
        &mut self,
        id: OperationId,
        origin: Origin,
        mut write: Write,
        (tally, deadline): (crate::quorum::Tally, Instant),
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if let Origin::Peer { .. } = origin {
            let failure = not_done(
                FailureCode::WrongConfiguration,
                "the node that the write was handed on to is no primary of its key",
            );
            return turn.refuse(origin, failure);
        }
        let glad = turn.by_gladness(tally.primaries(), id.0);
        let Some(to) = glad.into_iter().find(|node| turn.is_reachable(*node)) else {
            let failure =
                not_done(FailureCode::Unavailable, "no primary of the key can be reached");
            return turn.refuse(origin, failure);
        };
        write.head.deadline_ms =
            u32::try_from(deadline.ms_since(turn.instant())).unwrap_or(u32::MAX);
        write.head.time = turn.time();
        turn.shared.counters.forwards += 1;
        turn.shared.liveness.on_asked(to, now.instant);
        let message = Box::new(Forward { write }).into();
        turn.effects.push(Effect::ToPeer { to, request: id.request(0), message });
        self.keep(id, Operation::Forward(ForwardOperation { origin, to, deadline }));
    }

    fn remember(&mut self, id: WriteId, known: KnownWrite) {
        if self.known_writes.insert(id, known).is_none() {
            self.known_writes_order.push_back(id);
        }
        while self.known_writes_order.len() > self.shared.config.write_ids_max {
            if let Some(oldest) = self.known_writes_order.pop_front() {
                self.known_writes.remove(&oldest);
            }
        }
    }

    fn on_change_tables(
        &mut self,
        origin: ChangeOrigin,
        change: ChangeTables,
        now: Now,
        effects: &mut Effects,
    ) {
        let deadline_ms = change.deadline_ms.clamp(1, self.shared.config.deadline_ms_max);
        let deadline = now.instant.plus_ms(u64::from(deadline_ms));
        let mut outcomes = Vec::new();
        self.shared.keeper.on_change(
            origin,
            change.change,
            deadline,
            now.instant,
            effects,
            &mut outcomes,
        );
        self.on_outcomes(outcomes, now, effects);
    }

    fn on_outcomes(
        &mut self,
        outcomes: Vec<Outcome<ChangeOrigin>>,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        for outcome in outcomes {
            let Outcome::Change((connection, request), result) = outcome else { continue };
            let origin = Origin::Client { connection, request };
            let failure = match result {
                ChangeResult::Done => {
                    let message = turn.tell_record();
                    turn.effects.push(Effect::ToClient { connection, request, message });
                    continue;
                }
                ChangeResult::Invalid(reason) => not_done(FailureCode::Invalid, reason),
                ChangeResult::UnknownTable => {
                    not_done(FailureCode::UnknownTable, "there is no table of that name")
                }
                ChangeResult::Overloaded => {
                    not_done(FailureCode::Overloaded, "too many changes of the tables wait already")
                }
                ChangeResult::Unknown => Failure {
                    unknown: true,
                    ..not_done(
                        FailureCode::Unavailable,
                        "no majority of the voters has agreed in time; the change may be made \
                         later all the same: list the tables to see",
                    )
                },
            };
            turn.refuse(origin, failure);
        }
    }

    // ---- peers ----

    fn on_peer(
        &mut self,
        from: NodeId,
        request: u64,
        message: PeerMessage,
        now: Now,
        effects: &mut Effects,
    ) {
        self.shared.liveness.on_heard(from);
        match message {
            PeerMessage::Read(read) => {
                self.serve_peer(from, request, ReplicaRequest::Read(read), now, effects);
            }
            PeerMessage::Merge(merge) => {
                self.serve_peer(from, request, ReplicaRequest::Merge(merge), now, effects);
            }
            PeerMessage::Page(page) => {
                self.serve_peer(from, request, ReplicaRequest::Page(page), now, effects);
            }
            PeerMessage::ReadAnswer(answer) => {
                self.shared.clock.observe(answer.time);
                self.on_answer(from, request, ReplicaAnswer::Read(answer.found), now, effects);
            }
            PeerMessage::MergeAnswer(answer) => {
                self.shared.clock.observe(answer.time);
                self.on_answer(from, request, ReplicaAnswer::Merge(answer.merged), now, effects);
            }
            PeerMessage::PageAnswer(answer) => {
                self.shared.clock.observe(answer.time);
                self.on_answer(from, request, ReplicaAnswer::Page(answer.page), now, effects);
            }
            PeerMessage::Forward(forward) => {
                let origin = Origin::Peer { node: from, request };
                self.begin_write(origin, forward.write, now, effects);
            }
            PeerMessage::Forwarded(forwarded) => {
                self.on_forwarded(from, request, forwarded.result, now, effects);
            }
            PeerMessage::Ping(ping) => self.on_ping(from, &ping, now, effects),
            PeerMessage::Hello(_) | PeerMessage::Welcome(_) => {}
            record @ (PeerMessage::Prepare(_)
            | PeerMessage::Promise(_)
            | PeerMessage::Accept(_)
            | PeerMessage::Accepted(_)
            | PeerMessage::Decided(_)
            | PeerMessage::AskRecord(_)) => {
                let mut outcomes = Vec::new();
                self.shared.keeper.on_message(
                    from,
                    request,
                    record,
                    now.instant,
                    effects,
                    &mut outcomes,
                );
                self.on_outcomes(outcomes, now, effects);
            }
        }
    }

    fn serve_peer(
        &mut self,
        from: NodeId,
        request: u64,
        message: ReplicaRequest,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        turn.shared.clock.observe(message.head().time);
        let full = turn.shared.in_storage >= turn.shared.config.storage_requests_max;
        let refusal = match turn.record() {
            _ if full => Refusal::Overloaded,
            Err(_) => Refusal::WrongConfiguration,
            Ok(record) => match replica::admit(record, message.clone()) {
                Ok(storage) => return turn.to_storage(Tag::Peer { from, request }, storage),
                Err(refusal) => refusal,
            },
        };
        let message = message.refused(refusal).into_message(turn.time());
        turn.effects.push(Effect::ToPeer { to: from, request, message });
    }

    fn on_answer(
        &mut self,
        from: NodeId,
        request: u64,
        answer: ReplicaAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        if from != self.shared.config.node
            && matches!(
                answer,
                ReplicaAnswer::Read(Err(Refusal::WrongConfiguration | Refusal::UnknownTable))
                    | ReplicaAnswer::Merge(
                        Err(Refusal::WrongConfiguration | Refusal::UnknownTable)
                    )
                    | ReplicaAnswer::Page(Err(Refusal::WrongConfiguration | Refusal::UnknownTable))
            )
        {
            // One of the two is behind: each tells the other what it follows.
            self.send_ping(from, now, effects);
        }
        let (id, slot) = OperationId::of_request(request);
        self.with_operation(id, now, effects, |operation, turn| match operation {
            Operation::Write(write) => write.on_answer(slot, answer, turn),
            Operation::Read(read) => read.on_answer(slot, answer, turn),
            Operation::Scan(scan) => scan.on_answer(slot, answer, turn),
            Operation::Forward(_) => Progress::Continue,
        });
    }

    /// Lets an operation make a step, and keeps it if it goes on.
    fn with_operation(
        &mut self,
        id: OperationId,
        now: Now,
        effects: &mut Effects,
        step: impl FnOnce(&mut Operation, &mut Turn<'_>) -> Progress,
    ) {
        let Some((mut operation, wake)) = self.operations.remove(&id) else { return };
        self.wakes.remove(&(wake, id));
        let written = effects.len();
        let mut turn = Self::turn(&mut self.shared, now, effects);
        match step(&mut operation, &mut turn) {
            Progress::Continue => self.keep(id, operation),
            Progress::Done => {
                if let Operation::Write(write) = operation
                    && let Some(write_id) = write.write_id
                {
                    self.on_write_done(write_id, &effects[written..]);
                }
            }
        }
    }

    /// Remembers a write's good outcome for those who send it again; forgets any other.
    fn on_write_done(&mut self, write_id: WriteId, effects: &[Effect]) {
        let written = effects.iter().find_map(|effect| match effect {
            Effect::ToClient {
                message: quoit_protocol::ClientResponse::Written(written), ..
            } => Some(written.clone()),
            Effect::ToPeer { message: PeerMessage::Forwarded(forwarded), .. } => {
                forwarded.result.clone().ok()
            }
            _ => None,
        });
        match written {
            Some(written) => self.remember(write_id, KnownWrite::Done(written)),
            None => {
                self.known_writes.remove(&write_id);
                self.known_writes_order.retain(|other| *other != write_id);
            }
        }
    }

    fn on_forwarded(
        &mut self,
        from: NodeId,
        request: u64,
        result: Result<quoit_protocol::Written, Failure>,
        now: Now,
        effects: &mut Effects,
    ) {
        let (id, _) = OperationId::of_request(request);
        self.with_operation(id, now, effects, |operation, turn| match operation {
            Operation::Forward(forward) if forward.to == from => {
                match result {
                    Ok(written) => turn.reply(forward.origin, written.into()),
                    Err(failure) => turn.refuse(forward.origin, failure),
                }
                Progress::Done
            }
            _ => Progress::Continue,
        });
    }

    fn on_peer_lost(&mut self, node: NodeId, now: Now, effects: &mut Effects) {
        self.shared.liveness.on_disconnected(node);
        let ids: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in ids {
            self.with_operation(id, now, effects, |operation, turn| match operation {
                Operation::Write(write) => write.on_peer_lost(node, turn),
                Operation::Read(read) => read.on_peer_lost(node, turn),
                Operation::Scan(scan) => scan.on_peer_lost(node, turn),
                Operation::Forward(forward) if forward.to == node => {
                    turn.refuse(forward.origin, forward_lost(node));
                    Progress::Done
                }
                Operation::Forward(_) => Progress::Continue,
            });
        }
    }

    fn on_ping(&mut self, from: NodeId, ping: &Ping, now: Now, effects: &mut Effects) {
        self.shared.clock.observe(ping.time);
        self.shared.liveness.on_clock(from, ping.wall, now.wall, now.instant);
        self.shared.keeper.on_epoch_seen(from, ping.epoch, now.instant, effects);
        self.judge_clock(now);
    }

    /// A node whose wall clock is far from its peers' makes no dots: they would order its writes
    /// before or after all others.
    fn judge_clock(&mut self, now: Now) {
        let offset = self.shared.liveness.median_offset_ms(now.instant);
        let bound = self.shared.config.clock_offset_ms_max;
        self.shared.clock_problem = (offset.unsigned_abs() > bound).then(|| {
            format!(
                "this node's clock is {} s {} its peers': it coordinates no writes until it is set right",
                offset.unsigned_abs() / 1_000,
                if offset > 0 { "behind" } else { "ahead of" }
            )
        });
    }

    fn send_ping(&mut self, to: NodeId, now: Now, effects: &mut Effects) {
        let message = Ping {
            wall: now.wall,
            time: self.shared.clock.read(now.wall),
            epoch: self.shared.keeper.epoch(),
        };
        effects.push(Effect::ToPeer { to, request: 0, message: message.into() });
    }

    // ---- storage ----

    fn on_storage(&mut self, tag: Tag, answer: StorageAnswer, now: Now, effects: &mut Effects) {
        if !matches!(answer, StorageAnswer::Prepared(_)) {
            self.shared.in_storage = self.shared.in_storage.saturating_sub(1);
        }
        self.judge_storage(&answer);
        match tag {
            Tag::Own(request) => self.on_own_storage(request, answer, now, effects),
            Tag::Peer { from, request } => {
                if let Some(answer) = replica::answer(answer) {
                    let message = answer.into_message(self.shared.clock.read(now.wall));
                    effects.push(Effect::ToPeer { to: from, request, message });
                }
            }
            Tag::Inner(inner) => self.on_inner_storage(inner, answer, now, effects),
        }
    }

    /// A batch that was not committed has taken dots with it that this core made: from now on it
    /// makes them as another actor.
    fn judge_storage(&mut self, answer: &StorageAnswer) {
        match answer {
            StorageAnswer::NotCommitted(reason) => {
                self.shared.actors.clear();
                self.shared.storage_problem = Some(reason.clone());
            }
            StorageAnswer::Applied(Applied::Merged(_)) => self.shared.storage_problem = None,
            StorageAnswer::Applied(_)
            | StorageAnswer::Found(_)
            | StorageAnswer::Page(_)
            | StorageAnswer::Prepared(_)
            | StorageAnswer::Saved(_)
            | StorageAnswer::Figures(_) => {}
        }
    }

    fn on_own_storage(
        &mut self,
        request: u64,
        answer: StorageAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        let (id, slot) = OperationId::of_request(request);
        match answer {
            StorageAnswer::Prepared(set) => {
                self.with_operation(id, now, effects, |operation, turn| match operation {
                    Operation::Write(write) => write.on_prepared(slot, set, turn),
                    _ => Progress::Continue,
                });
            }
            StorageAnswer::Applied(outcome)
                if matches!(self.operations.get(&id), Some((Operation::Write(_), _))) =>
            {
                self.with_operation(id, now, effects, |operation, turn| match operation {
                    Operation::Write(write) => write.on_applied(slot, outcome, turn),
                    _ => Progress::Continue,
                });
            }
            other => {
                if let Some(answer) = replica::answer(other) {
                    self.on_answer(self.shared.config.node, request, answer, now, effects);
                }
            }
        }
    }

    fn on_inner_storage(
        &mut self,
        inner: Inner,
        answer: StorageAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut outcomes = Vec::new();
        match (inner, answer) {
            (Inner::Lease, StorageAnswer::Saved(result)) => {
                self.lease_asked = false;
                match result {
                    Ok(()) => {
                        self.shared.clock.extend(self.shared.lease_wanted);
                        self.shared.storage_problem = None;
                    }
                    Err(reason) => self.shared.storage_problem = Some(reason),
                }
            }
            (Inner::Vote, StorageAnswer::Saved(result)) => {
                self.shared.keeper.on_vote_saved(result, now.instant, effects, &mut outcomes);
            }
            (Inner::Record, StorageAnswer::Saved(result)) => {
                self.shared.keeper.on_record_saved(result, now.instant, effects, &mut outcomes);
            }
            (Inner::Figures { connection, request }, StorageAnswer::Figures(figures)) => {
                let message = Box::new(self.status(figures, now)).into();
                effects.push(Effect::ToClient { connection, request, message });
            }
            (inner, answer) => unreachable!("storage answered {inner:?} with {answer:?}"),
        }
        self.on_outcomes(outcomes, now, effects);
    }

    // ---- time ----

    fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        while let Some((at, id)) = self.wakes.first().copied()
            && at <= now.instant
        {
            self.with_operation(id, now, effects, |operation, turn| match operation {
                Operation::Write(write) => write.on_wake(turn),
                Operation::Read(read) => read.on_wake(turn),
                Operation::Scan(scan) => scan.on_wake(turn),
                Operation::Forward(forward) => {
                    turn.refuse(forward.origin, forward_lost(forward.to));
                    Progress::Done
                }
            });
        }
        let mut outcomes = Vec::new();
        self.shared.keeper.on_tick(now.instant, effects, &mut outcomes);
        self.on_outcomes(outcomes, now, effects);
        if self.next_ping <= now.instant {
            self.next_ping = now.instant.plus_ms(PING_EVERY_MS);
            self.judge_clock(now);
            let own = self.shared.config.node;
            let shared = &self.shared;
            let peers = shared.keeper.members().filter(|id| *id != own);
            let peers: Vec<NodeId> = peers.filter(|id| shared.liveness.is_connected(*id)).collect();
            for peer in peers {
                self.send_ping(peer, now, effects);
            }
        }
    }

    /// What every turn ends with: this replica's immediate answers, keys to heal, the lease.
    fn settle(&mut self, now: Now, effects: &mut Effects) {
        while let Some((request, answer)) = self.shared.immediate.pop_front() {
            self.on_answer(self.shared.config.node, request, answer, now, effects);
        }
        for (place, key) in std::mem::take(&mut self.shared.to_heal) {
            let head = Head {
                table: place.table,
                vnode: place.vnode,
                configuration: place.configuration,
                time: HybridTime::ZERO,
                deadline_ms: 5_000,
                level: None,
            };
            self.begin_read(Origin::Nobody, Get { head, key }, now, effects);
        }
        let wanted = self.shared.clock.wanted_lease(now.wall, self.shared.config.lease_ms);
        if let Some(lease) = wanted
            && !self.lease_asked
        {
            self.lease_asked = true;
            self.shared.lease_wanted = lease;
            let mut turn = Self::turn(&mut self.shared, now, effects);
            turn.to_storage(Tag::Inner(Inner::Lease), StorageRequest::ExtendLease { lease });
        }
    }

    /// How long the node has been running.
    pub(crate) fn uptime_ms(&self, now: Now) -> u64 {
        now.instant.ms_since(self.started)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The version in force.
    pub fn epoch(&self) -> Epoch {
        self.shared.keeper.epoch()
    }
}

fn forward_lost(to: NodeId) -> Failure {
    Failure {
        unknown: true,
        ..not_done(
            FailureCode::Unavailable,
            format!(
                "the write was handed on to {to}, which has not answered; the outcome is unknown: \
                 it may be there now or later"
            ),
        )
    }
}

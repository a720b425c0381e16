//! The core itself: one event in, effects out.
//!
//! This file holds the state and the door; what each kind of event leads to is beside it:
//! `clients`, `peers`, `storage`, `ticks`.

mod clients;
mod continuity;
mod known_writes;
mod operations;
mod peers;
mod storage;
mod ticks;

use std::collections::BTreeSet;

use quoit_protocol::status::ExchangeStatus;
use quoit_protocol::{AskRepair, FailureCode, Limits};
use quoit_ring::{ClusterRecord, Epoch, HybridTime, NodeId, VnodeIndex};

use crate::config::CoreConfig;
use crate::continuity::{Continuity, ContinuityState};
use quoit_storage::store::CountedHints;

use crate::coordinator::trailing::Trailing;
use crate::coordinator::write::Progress;
use crate::counters::Counters;
use crate::event::{ConnectionId, Effects, Event, Tag};
use crate::handshake::PeerHello;
use crate::operation::{OperationId, Origin, not_done};
use crate::random::Random;
use crate::record::{Keeper, RecordState};
use crate::repair::anti_entropy::{AntiEntropy, Wanted};
use crate::repair::handoff::Handoff;
use crate::repair::hints::Hints;
use crate::repair::recovery::Recovery;
use crate::repair::scrub::{Scrub, ScrubState};
use crate::repair::settle::Settling;
use crate::time::{Instant, Now};
use crate::trace::Spent;
use crate::turn::{Shared, Turn};
use known_writes::{KnownWrite, KnownWrites};
use operations::{Operation, Operations};

/// The other members' majority is waited for no longer than this before the node calls itself
/// ready all the same.
const READY_ALONE_AFTER_MS: u64 = 30_000;
/// A wall clock that has gone so much more or less than the monotonic one is judged at once.
const CLOCK_JUMP_MS: u64 = 1_000;

/// Sets what repair draws apart from what requests do.
const REPAIR_SEED: u64 = 0x7265_7061_6972;

/// What the disk held at the start.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The record and the vote.
    pub record: RecordState,
    /// The durable lease of hybrid time.
    pub lease: HybridTime,
    /// What was kept of the own life and the others'.
    pub continuity: Option<ContinuityState>,
    /// The last record of the commit log, as it was found.
    pub sequence: u64,
    /// Virtual nodes that the store does not vouch for.
    pub distrusted: Vec<VnodeIndex>,
    /// Where the scrub had come to.
    pub scrub: ScrubState,
    /// The hints that wait for each node.
    pub hints: CountedHints,
}

/// A node's core. See the crate's documentation.
pub struct NodeCore {
    shared: Shared,
    operations: Operations,
    known_writes: KnownWrites,
    anti_entropy: AntiEntropy,
    settling: Settling,
    recovery: Recovery,
    handoff: Handoff,
    scrub: Scrub,
    trailing: Trailing,
    /// The store was asked how far its log is durable.
    durable_asked: bool,
    started: Instant,
    next_ping: Instant,
    /// How far the wall clock was ahead of the monotonic one when it was judged last.
    judged_ahead_ms: i64,
    lease_asked: bool,
    /// A lease that could not be saved is not asked for again before.
    lease_not_before: Instant,
    /// Once ready, a node stays so.
    was_ready: bool,
    /// What has begun is finished, and nothing new is begun.
    draining: bool,
}

impl NodeCore {
    /// A core that goes on from what the disk holds. The first event should be a
    /// [`Event::Tick`].
    pub fn new(config: CoreConfig, recovered: Recovered, now: Now) -> Self {
        let mut random = Random::new(config.seed);
        let mut repair = Random::new(config.seed ^ REPAIR_SEED);
        let keeper = Keeper::new(
            config.node,
            config.genesis.clone(),
            recovered.record,
            Random::new(random.draw()),
            now.instant,
        );
        let mut continuity = Continuity::new(
            config.node,
            config.incarnation,
            config.boot_count,
            recovered.continuity,
            recovered.sequence,
            now.instant,
        );
        let named = keeper.current().map_or(0, |record| record.incarnation(config.node));
        continuity.on_named(named);
        let mut recovery = Recovery::default();
        recovery.begin(recovered.distrusted.into_iter(), now.instant);
        let mut core = Self {
            operations: Operations::new(random.draw()),
            anti_entropy: AntiEntropy::new(&config, Random::new(repair.draw()), now.instant),
            settling: Settling::new(Random::new(repair.draw()), now.instant),
            scrub: Scrub::new(recovered.scrub, now.instant),
            handoff: Handoff::new(&config, repair.draw(), now.instant),
            trailing: Trailing::new(config.trails_max),
            known_writes: KnownWrites::new(config.write_ids_max),
            shared: Shared::new(
                config,
                keeper,
                continuity,
                random,
                recovered.lease,
                Hints::new(recovered.hints, repair.draw()),
            ),
            recovery,
            durable_asked: false,
            started: now.instant,
            next_ping: now.instant,
            judged_ahead_ms: now.wall_ahead_ms(),
            lease_asked: false,
            lease_not_before: now.instant,
            was_ready: false,
            draining: false,
        };
        // One may have been dropped just before the last end.
        core.look_at_tables(now.instant);
        core
    }

    /// Handles one event; what is to be done about it is appended to `effects`.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if now.wall_ahead_ms().abs_diff(self.judged_ahead_ms) >= CLOCK_JUMP_MS {
            self.judge_clock(now);
        }
        match event {
            Event::Client { connection, request, message, rights } => {
                let origin = Origin::Client { connection, request };
                match rights.forbid(&message, self.record()) {
                    None => self.on_client(connection, request, message, now, effects),
                    Some(reason) => {
                        let failure = not_done(FailureCode::Forbidden, reason);
                        Self::turn(&mut self.shared, now, effects).refuse(origin, failure);
                    }
                }
            }
            Event::Peer { from, request, message } => {
                self.on_peer(from, request, message, now, effects);
            }
            Event::PeerConnected { node } => {
                self.shared.liveness.on_connected(node);
                self.handoff.on_alive(node, now.instant);
                self.send_ping(node, now, effects);
            }
            Event::PeerDisconnected { node } => self.on_peer_lost(node, now, effects),
            Event::SeemsAlive { node } => {
                self.shared.liveness.on_belief(node, true);
                self.handoff.on_alive(node, now.instant);
            }
            Event::SeemsDead { node } => self.shared.liveness.on_belief(node, false),
            Event::Storage { tag, answer } => self.on_storage(tag, answer, now, effects),
            Event::Tick => self.on_tick(now, effects),
        }
        self.on_merged(now);
        self.trust_what_is_due(now, effects);
        self.settle(now, effects);
    }

    /// What is known once all that a peer held of a virtual node is durable here.
    fn on_merged(&mut self, now: Now) {
        for merged in self.anti_entropy.take_merged() {
            let (record, own) = (self.shared.keeper.current(), self.shared.config.node);
            self.settling.on_merged(merged, record, own, now.instant);
            self.recovery.on_merged_from(
                merged.vnode,
                merged.replication,
                merged.peer,
                merged.began,
            );
            self.anti_entropy.note_compared(merged);
        }
    }

    /// For each other replica of a virtual node's tables of one N: when the last exchange began after
    /// which all that it had held was durable here.
    pub fn compared(&self, vnode: VnodeIndex, replication: u8) -> Vec<(NodeId, HybridTime)> {
        self.anti_entropy.compared(vnode, replication).collect()
    }

    /// The next instant at which a [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        let keeper = self.shared.keeper.next_deadline();
        let continuity = self.shared.continuity.next_wake();
        let operations = [self.operations.next_wake(), self.trailing.next_wake()];
        let wakes = [keeper, continuity, Some(self.next_ping)].into_iter().chain(operations);
        // Nothing is repaired by a node that may have lost what it goes by.
        let repair = [
            self.anti_entropy.next_wake(),
            self.settling.next_wake(),
            self.handoff.next_wake(),
            self.scrub.next_wake(),
        ];
        let repair = repair.into_iter().filter(|_| self.shared.continuity.is_confirmed());
        wakes.chain(repair).flatten().min()
    }

    /// The record in force.
    pub fn record(&self) -> Option<&ClusterRecord> {
        self.shared.keeper.current()
    }

    /// The version in force.
    pub fn epoch(&self) -> Epoch {
        self.shared.keeper.epoch()
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

    /// Operations of a client on their way.
    pub fn operation_count_of(&self, connection: ConnectionId) -> usize {
        self.shared.in_flight.count(connection)
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
        let unconfirmed = self.unconfirmed();
        [missing, unconfirmed, shared.clock_problem.clone(), shared.storage_problem.clone()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Takes other bounds of what is accepted from clients, from the next request on. Clients that are
    /// connected know the former ones, and are answered by the new ones.
    pub fn set_limits(
        &mut self,
        limits: Limits,
        operations_max: usize,
        operations_per_client_max: usize,
    ) {
        self.shared.config.limits = limits;
        self.shared.config.operations_max = operations_max;
        self.shared.config.operations_per_client_max = operations_per_client_max;
    }

    /// The node is about to stop: what it coordinates goes on, and as a replica it answers, but it
    /// begins nothing new. Whoever asks hears that nothing was done, and turns to another node. What it
    /// holds for nodes that are there leaves at full pace, whoever is busy.
    pub fn drain(&mut self) {
        self.draining = true;
        self.handoff.hurry();
    }

    /// Hints that wait for nodes that can be reached.
    pub fn deliverable_hints(&self) -> u64 {
        let hints = &self.shared.hints;
        let lines = hints.all_lines().into_iter();
        let lines = lines.filter(|(_, target)| self.shared.liveness.is_up(*target));
        lines.map(|line| hints.figures(line).number).sum()
    }

    /// Whether any request is traced now: then the driver tells more of the times.
    pub fn is_tracing(&self) -> bool {
        self.shared.traces.is_any()
    }

    /// The message that is handled next, of a traced request, came then.
    pub fn note_came(&mut self, at: Instant) {
        self.shared.traces.on_came(at);
    }

    /// A storage thread has spent time on what is answered next.
    pub fn note_spent(&mut self, tag: Tag, spent: Spent, now: Now) {
        self.shared.traces.on_spent(tag, spent, now.instant);
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

    /// Who keeps what was deleted from being collected, for people.
    pub(crate) fn settling_problem(&self, now: Now) -> Option<String> {
        let away = self.settling.waits_for(now.instant);
        let names: Vec<String> = away.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| {
            format!(
                "what was deleted and what has expired stays on the disks until {} can be reached: a \
                 replica that is away may not have heard of it",
                names.join(", ")
            )
        })
    }

    fn turn<'a>(shared: &'a mut Shared, now: Now, effects: &'a mut Effects) -> Turn<'a> {
        Turn { now, shared, effects }
    }

    /// Lets an operation make a step. One that has ended is not there any more: its late answers are
    /// nothing to anybody.
    fn with_operation(
        &mut self,
        id: OperationId,
        now: Now,
        effects: &mut Effects,
        step: impl FnOnce(&mut Operation, &mut Turn<'_>) -> Progress,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if let Some(ended) = self.operations.step(id, &mut turn, step) {
            if let Operation::Write(write) = &ended
                && let Some(trail) = write.trail(turn.own())
            {
                self.trailing.keep(trail, &mut turn);
            }
            self.on_ended(&ended);
        }
    }

    fn on_ended(&mut self, operation: &Operation) {
        match operation {
            Operation::Write(write) => {
                if let Some(write_id) = write.write_id {
                    match &write.written {
                        Some(written) => {
                            let known = KnownWrite::Done(written.clone());
                            self.known_writes.remember(write_id, known);
                        }
                        None => self.known_writes.forget(write_id),
                    }
                }
            }
            Operation::Read(read) => self.shared.healing -= usize::from(read.heals()),
            Operation::Scan(_) | Operation::Forward(_) => {}
        }
    }

    /// How long the node has been running.
    pub(crate) fn uptime_ms(&self, now: Now) -> u64 {
        now.instant.ms_since(self.started)
    }

    /// Tells the scrub which tables there are.
    pub(crate) fn look_at_tables(&mut self, now: Instant) {
        if let Some(record) = self.shared.keeper.current() {
            self.scrub.on_record(record.tables.iter().map(|table| table.id).collect(), now);
        }
    }

    pub(crate) fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    pub(crate) fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// Hints that wait for other nodes.
    pub fn hints_waiting(&self) -> u64 {
        let hints = &self.shared.hints;
        hints.all_lines().into_iter().map(|line| hints.figures(line).number).sum()
    }

    /// Exchanges with each peer, for people.
    pub(crate) fn exchange_statuses(&self) -> Vec<ExchangeStatus> {
        self.anti_entropy.statuses()
    }

    /// Virtual nodes in which this replica does not count.
    pub(crate) fn distrusted(&self) -> BTreeSet<VnodeIndex> {
        self.recovery.distrusted().collect()
    }

    /// Has replicas compared now, if that is asked.
    pub(crate) fn run_exchanges(&mut self, what: AskRepair, now: Now) {
        if what.run {
            let table = what.table.and_then(|table| self.record()?.table_by_id(table));
            let replication = table.map(|table| table.options.replication);
            self.anti_entropy.run(Wanted { replication, vnode: what.vnode }, now.instant);
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn shared_mut(&mut self) -> &mut Shared {
        &mut self.shared
    }
}

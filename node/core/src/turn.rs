//! One event's turn: the parts of the core that every coordinator needs, the clocks' readings, and
//! where effects go.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quoit_protocol::{ClientResponse, Failure, FailureCode, Key, Limits, StageKind, Traced};
use quoit_ring::{ClusterRecord, HybridClock, HybridTime, NodeId, VnodeIndex, WallTime};
use quoit_storage::layout::StoredKey;
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::version::{Actor, Dot, VersionVector};

use crate::comebacks::Comebacks;
use crate::config::CoreConfig;
use crate::context;
use crate::continuity::Continuity;
use crate::counters::Counters;
use crate::event::{ConnectionId, Effect, Effects, Inner, StorageAnswer, StorageRequest, Tag};
use crate::hot_keys::HotKeys;
use crate::in_flight::InFlight;
use crate::large_sets::LargeSets;
use crate::liveness::Liveness;
use crate::operation::{Origin, Place, not_done};
use crate::patience::Patience;
use crate::peer::{Forwarded, Refusal};
use crate::random::Random;
use crate::record::Keeper;
use crate::repair::anti_entropy::Foreground;
use crate::repair::hints::Hints;
use crate::replica::{self, ReplicaAnswer, ReplicaRequest};
use crate::slow_keys::SlowKeys;
use crate::time::{Instant, Now};
use crate::trace::Traces;

/// At most so many keys are healed at a time; others are healed when they are met again.
const HEAL_MAX: usize = 64;

/// Who asked for a change of the tables.
pub(crate) type ChangeOrigin = (ConnectionId, u64);

/// A key that a replica cannot vouch for, to be rebuilt there from what the others know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heal {
    pub(crate) place: Place,
    pub(crate) key: Key,
    pub(crate) node: NodeId,
}

/// The parts of the core that outlive a turn, but for the operations themselves.
pub(crate) struct Shared {
    pub(crate) config: CoreConfig,
    pub(crate) clock: HybridClock,
    pub(crate) liveness: Liveness,
    pub(crate) keeper: Keeper<ChangeOrigin>,
    pub(crate) continuity: Continuity,
    pub(crate) random: Random,
    pub(crate) counters: Counters,
    pub(crate) hot_keys: HotKeys,
    pub(crate) large_sets: LargeSets,
    pub(crate) slow_keys: SlowKeys,
    pub(crate) foreground: Foreground,
    pub(crate) patience: Patience,
    pub(crate) hints: Hints,
    /// The floors that were raised in this life: every replica that vouches for the virtual node has
    /// applied all dots up to there.
    pub(crate) floors: BTreeMap<VnodeIndex, HybridTime>,
    /// One actor a virtual node, for as long as this core has kept all the dots that it made.
    pub(crate) actors: BTreeMap<VnodeIndex, Actor>,
    /// This replica's answers that needed no storage worker.
    pub(crate) immediate: VecDeque<(u64, ReplicaAnswer)>,
    /// Keys that are to be read of the node's own accord, and how many are being read.
    pub(crate) to_heal: VecDeque<Heal>,
    pub(crate) healing: usize,
    pub(crate) traces: Traces,
    /// What is under way for each client.
    pub(crate) in_flight: InFlight,
    pub(crate) comebacks: Comebacks,
    /// Requests that the storage worker has not answered.
    pub(crate) in_storage: usize,
    /// The lease that is being made durable.
    pub(crate) lease_wanted: HybridTime,
    /// What the wall clock lacks to its peers' median, where that is beyond the bound; 0 otherwise.
    pub(crate) clock_correction_ms: i64,
    /// Why this node does not coordinate writes, for people; `None` if it does.
    pub(crate) clock_problem: Option<String>,
    pub(crate) storage_problem: Option<String>,
}

impl Shared {
    pub(crate) fn new(
        config: CoreConfig,
        keeper: Keeper<ChangeOrigin>,
        continuity: Continuity,
        random: Random,
        lease: HybridTime,
        hints: Hints,
    ) -> Self {
        Self {
            patience: Patience::new(config.read_patience_ms),
            floors: BTreeMap::new(),
            traces: Traces::new(config.node),
            config,
            clock: HybridClock::recover(lease),
            liveness: Liveness::default(),
            keeper,
            continuity,
            random,
            counters: Counters::default(),
            hot_keys: HotKeys::default(),
            large_sets: LargeSets::default(),
            slow_keys: SlowKeys::default(),
            foreground: Foreground::default(),
            hints,
            actors: BTreeMap::new(),
            immediate: VecDeque::new(),
            to_heal: VecDeque::new(),
            healing: 0,
            in_flight: InFlight::default(),
            comebacks: Comebacks::default(),
            in_storage: 0,
            lease_wanted: HybridTime::ZERO,
            clock_correction_ms: 0,
            clock_problem: None,
            storage_problem: None,
        }
    }

    /// Takes in the hybrid time of a peer's message, unless its clock must be wrong: one such node
    /// would drag the whole cluster into the future, where all that may expire has expired. Nothing
    /// is lost by that: a replica that holds a later dot says so.
    pub(crate) fn observe_peer(&mut self, time: HybridTime, now: Now) {
        if time <= self.time_bound(now) {
            self.clock.observe(time);
        }
    }

    /// No time of others is believed beyond this. It rests on the wall clock alone, or where that is wrong
    /// on the peers': a bound above what was seen could be pushed further with each message.
    pub(crate) fn time_bound(&self, now: Now) -> HybridTime {
        let wall = WallTime(now.wall.0.saturating_add_signed(self.clock_correction_ms));
        HybridTime::at(wall).plus_ms(self.config.clock_offset_ms_max)
    }

    /// Notes that the storage worker has answered.
    pub(crate) fn on_storage_answered(&mut self, tag: Tag, answer: &StorageAnswer) {
        // The record's keeper asks on its own account, one thing at a time.
        let counted = !matches!(tag, Tag::Inner(Inner::Vote | Inner::Record))
            && !matches!(answer, StorageAnswer::Prepared(_));
        if counted {
            assert!(self.in_storage > 0, "storage answers what it was asked, once");
            self.in_storage -= 1;
        }
    }
}

/// One event's turn.
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) shared: &'a mut Shared,
    pub(crate) effects: &'a mut Effects,
}

impl Turn<'_> {
    pub(crate) fn instant(&self) -> Instant {
        self.now.instant
    }

    /// The time at which what a read returns is judged to be live or expired.
    pub(crate) fn judging_time(&self) -> HybridTime {
        if is_planted(PlantedBug::ExpireByWall) {
            return HybridTime::at(self.now.wall);
        }
        self.time()
    }

    /// Hybrid time, for headers.
    pub(crate) fn time(&self) -> HybridTime {
        self.shared.clock.read(self.now.wall)
    }

    pub(crate) fn own(&self) -> NodeId {
        self.shared.config.node
    }

    pub(crate) fn limits(&self) -> Limits {
        self.shared.config.limits
    }

    /// The record in force.
    ///
    /// # Errors
    /// The failure that a client is told while there is none.
    pub(crate) fn record(&self) -> Result<&ClusterRecord, Failure> {
        self.shared.keeper.current().ok_or_else(|| {
            not_done(
                FailureCode::NotServing,
                "the cluster has no record yet: a majority of its initial members must be up once",
            )
        })
    }

    /// Whether a request sent to that node can arrive at all.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.own() || self.shared.liveness.is_connected(node)
    }

    /// A new dot of this node for a virtual node.
    ///
    /// # Errors
    /// The failure that a client is told while the clock's lease is being renewed.
    pub(crate) fn dot(&mut self, vnode: VnodeIndex) -> Result<Dot, Failure> {
        let seen = self.shared.clock.last();
        let time = self
            .shared
            .clock
            .issue(self.now.wall)
            .map_err(|error| not_done(FailureCode::NotServing, error.to_string()))?;
        assert!(time > seen, "a dot is greater than all that the node has seen");
        let random = &mut self.shared.random;
        let kept = Actor(self.shared.config.node.0 << 32 | u64::from(vnode.0));
        let draw = || match is_planted(PlantedBug::KeepActor) {
            true => kept,
            false => Actor(random.draw()),
        };
        let actor = *self.shared.actors.entry(vnode).or_insert_with(draw);
        Ok(Dot { time, actor })
    }

    /// A new dot for a write that this node coordinates in the place of its key's primaries. Its actor is
    /// new as well: once the write is handed over this node forgets it, and then it may make no other
    /// for the key as the same one.
    pub(crate) fn dot_of_stranger(&mut self, vnode: VnodeIndex) -> Result<Dot, Failure> {
        let dot = self.dot(vnode)?;
        Ok(Dot { actor: Actor(self.shared.random.draw()), ..dot })
    }

    /// Asks a replica; this node's own is asked in the same way.
    pub(crate) fn ask(&mut self, node: NodeId, request: u64, message: ReplicaRequest) {
        if node == self.own() {
            self.ask_own(request, &message);
        } else {
            self.shared.liveness.on_asked(node, self.now.instant);
            if message.head().trace.is_some() {
                let now = self.now.instant;
                self.shared.traces.on_asked(request, node, StageKind::Replica, now);
            }
            let message = message.into_message();
            self.effects.push(Effect::ToPeer { to: node, request, message });
        }
    }

    fn ask_own(&mut self, request: u64, message: &ReplicaRequest) {
        let admitted = match self.shared.keeper.current() {
            _ if !self.shared.continuity.is_confirmed() => Err(Refusal::Recovering),
            Some(record) => replica::admit(record, self.own(), message),
            None => Err(Refusal::WrongConfiguration),
        };
        match admitted {
            Ok(storage) => {
                self.before_merge(message);
                let until = self.instant().plus_ms(u64::from(message.head().deadline_ms));
                self.ask_storage(Tag::Own(request), storage, until);
            }
            Err(refusal) => {
                let answer = message.refused(refusal);
                self.shared.immediate.push_back((request, answer));
            }
        }
    }

    /// A key that is rebuilt here was damaged or lost here, and dots that this core made for it may
    /// be gone: it makes no more of them as the same actor.
    pub(crate) fn before_merge(&mut self, message: &ReplicaRequest) {
        if let ReplicaRequest::Merge(merge) = message
            && merge.rebuild
        {
            self.shared.actors.remove(&merge.head.vnode);
        }
    }

    /// Whether the place is what it was when the operation began: no request is served under a
    /// configuration that is not in force any more.
    pub(crate) fn is_current(&self, place: Place) -> bool {
        self.shared.keeper.current().is_some_and(|record| {
            record.configuration(place.vnode) == place.configuration
                && record.table_by_id(place.table).is_some()
        })
    }

    /// Whether the storage worker has as much to do as it may have.
    pub(crate) fn is_storage_full(&self) -> bool {
        self.shared.in_storage >= self.shared.config.storage_requests_max
    }

    /// Asks the storage worker for what is of no use to anybody later than `until`.
    pub(crate) fn ask_storage(&mut self, tag: Tag, mut request: StorageRequest, until: Instant) {
        self.shared.in_storage += 1;
        if let StorageRequest::StandIn { taken, .. } = &mut request {
            let time = self.time();
            self.shared.hints.on_taking(taken, time);
        }
        self.effects.push(Effect::ToStorage { tag, request, until: Some(until) });
    }

    /// Asks the storage worker for something of the core's housekeeping.
    pub(crate) fn ask_storage_inner(&mut self, inner: Inner, request: StorageRequest) {
        self.shared.in_storage += 1;
        self.effects.push(Effect::ToStorage { tag: Tag::Inner(inner), request, until: None });
    }

    /// Has a key read soon, so that the replica that cannot vouch for it is rebuilt.
    pub(crate) fn heal(&mut self, place: Place, key: Key, node: NodeId) {
        let heal = Heal { place: Place { trace: None, ..place }, key, node };
        let shared = &mut self.shared;
        if shared.to_heal.len() + shared.healing < HEAL_MAX && !shared.to_heal.contains(&heal) {
            shared.to_heal.push_back(heal);
        }
    }

    /// Answers whoever waits.
    pub(crate) fn reply(&mut self, origin: Origin, mut response: ClientResponse) {
        let time = self.time();
        match &mut response {
            ClientResponse::Got(got) => got.time = time,
            ClientResponse::Written(written) => written.time = time,
            ClientResponse::Page(page) => page.time = time,
            ClientResponse::Failure(failure) => failure.time = time,
            ClientResponse::Welcome(_)
            | ClientResponse::Record(_)
            | ClientResponse::Status(_)
            | ClientResponse::Snapshots(_)
            | ClientResponse::Traced(_) => {}
        }
        self.tell_trace(origin, &response);
        if origin != Origin::Nobody {
            self.shared.counters.on_response(&response);
        }
        match origin {
            Origin::Client { connection, request } => {
                if self.shared.in_flight.end(connection, request) {
                    self.shared.comebacks.on_done();
                }
                self.effects.push(Effect::ToClient { connection, request, message: response });
            }
            Origin::Peer { node, request } => {
                let result = match response {
                    ClientResponse::Written(written) => Ok(written),
                    ClientResponse::Failure(failure) => Err(failure),
                    other => unreachable!("a forwarded write is not answered by {other:?}"),
                };
                let message = Box::new(Forwarded { result }).into();
                self.effects.push(Effect::ToPeer { to: node, request, message });
            }
            Origin::Nobody => {}
        }
    }

    /// Answers a coordinator that asked this replica.
    pub(crate) fn answer_peer(&mut self, to: NodeId, request: u64, answer: ReplicaAnswer) {
        let now = self.instant();
        if let Some(told) = self.shared.traces.end_serving(to, request, now) {
            self.effects.push(Effect::ToPeer { to, request, message: told.into() });
        }
        let message = answer.into_message(self.time());
        self.effects.push(Effect::ToPeer { to, request, message });
    }

    /// Tells whoever waits for a traced request where its time went.
    fn tell_trace(&mut self, origin: Origin, response: &ClientResponse) {
        let now = self.instant();
        let Some(ended) = self.shared.traces.end(origin, now) else { return };
        if let Some(finished) = ended.finished(response) {
            self.effects.push(Effect::Traced(Box::new(finished)));
        }
        let told = ended.told;
        match origin {
            Origin::Client { connection, request } => {
                let message = Traced { stages: told.stages }.into();
                self.effects.push(Effect::ToClient { connection, request, message });
            }
            Origin::Peer { node, request } => {
                self.effects.push(Effect::ToPeer { to: node, request, message: told.into() });
            }
            Origin::Nobody => {}
        }
    }

    /// Refuses whoever waits.
    pub(crate) fn refuse(&mut self, origin: Origin, failure: Failure) {
        self.reply(origin, failure.into());
    }

    /// Seals what was seen under a key, for the next write.
    pub(crate) fn seal_context(&self, key: &StoredKey, seen: &VersionVector) -> Bytes {
        match self.shared.keeper.current() {
            Some(record) => context::seal(record.cluster, record.ring_key, key, seen),
            None => Bytes::new(),
        }
    }

    /// The nodes in the order in which they are gladly asked: this one first, then by what is
    /// believed of them; equals take turns.
    pub(crate) fn by_gladness(
        &self,
        nodes: impl Iterator<Item = NodeId>,
        turn: u64,
    ) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = nodes.collect();
        if !nodes.is_empty() {
            let shift = usize::try_from(turn).unwrap_or(0) % nodes.len();
            nodes.rotate_left(shift);
        }
        nodes.sort_by_key(|node| {
            if *node == self.own() {
                0
            } else {
                1 + self.shared.liveness.reluctance(*node, self.now.instant)
            }
        });
        nodes
    }
}

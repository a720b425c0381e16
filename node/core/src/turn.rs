//! One event's turn: the parts of the core that every coordinator needs, the clocks' readings, and
//! where effects go.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quoit_protocol::{ClientResponse, Failure, FailureCode, Key, Limits};
use quoit_ring::{ClusterRecord, HybridClock, HybridTime, NodeId, VnodeIndex};
use quoit_storage::layout::StoredKey;
use quoit_storage::version::{Actor, Dot, VersionVector};

use crate::config::CoreConfig;
use crate::context;
use crate::counters::Counters;
use crate::event::{ConnectionId, Effect, Effects, Tag};
use crate::liveness::Liveness;
use crate::operation::{Origin, Place, not_done};
use crate::peer::{Forwarded, Refusal};
use crate::random::Random;
use crate::record::Keeper;
use crate::replica::{self, ReplicaAnswer, ReplicaRequest};
use crate::time::{Instant, Now};

/// At most so many keys wait to be healed; others are healed when they are met again.
const HEAL_MAX: usize = 64;

/// Who asked for a change of the tables.
pub(crate) type ChangeOrigin = (ConnectionId, u64);

/// The parts of the core that outlive a turn, but for the operations themselves.
pub(crate) struct Shared {
    pub(crate) config: CoreConfig,
    pub(crate) clock: HybridClock,
    pub(crate) liveness: Liveness,
    pub(crate) keeper: Keeper<ChangeOrigin>,
    pub(crate) random: Random,
    pub(crate) counters: Counters,
    /// One actor a virtual node, for as long as this core has kept all the dots that it made.
    pub(crate) actors: BTreeMap<VnodeIndex, Actor>,
    /// This replica's answers that needed no storage worker.
    pub(crate) immediate: VecDeque<(u64, ReplicaAnswer)>,
    /// Keys that a replica could not vouch for: they are read of the node's own accord.
    pub(crate) to_heal: Vec<(Place, Key)>,
    /// Requests that the storage worker has not answered.
    pub(crate) in_storage: usize,
    /// The lease that is being made durable.
    pub(crate) lease_wanted: HybridTime,
    /// Why this node does not coordinate writes, for people; `None` if it does.
    pub(crate) clock_problem: Option<String>,
    pub(crate) storage_problem: Option<String>,
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

    /// Hybrid time for headers and for judging expiry.
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
        let actor = *self.shared.actors.entry(vnode).or_insert_with(|| Actor(random.draw()));
        Ok(Dot { time, actor })
    }

    /// Asks a replica; this node's own is asked in the same way.
    pub(crate) fn ask(&mut self, node: NodeId, request: u64, message: ReplicaRequest) {
        if node == self.own() {
            self.ask_own(request, message);
        } else {
            self.shared.liveness.on_asked(node, self.now.instant);
            let message = message.into_message();
            self.effects.push(Effect::ToPeer { to: node, request, message });
        }
    }

    fn ask_own(&mut self, request: u64, message: ReplicaRequest) {
        let refused = |refusal| message.refused(refusal);
        let Some(record) = self.shared.keeper.current() else {
            let answer = refused(Refusal::WrongConfiguration);
            self.shared.immediate.push_back((request, answer));
            return;
        };
        match replica::admit(record, message.clone()) {
            Ok(storage) => self.to_storage(Tag::Own(request), storage),
            Err(refusal) => {
                let answer = refused(refusal);
                self.shared.immediate.push_back((request, answer));
            }
        }
    }

    pub(crate) fn to_storage(&mut self, tag: Tag, request: crate::event::StorageRequest) {
        self.shared.in_storage += 1;
        self.effects.push(Effect::ToStorage { tag, request });
    }

    /// Has a key read soon, so that the replicas that cannot vouch for it are rebuilt.
    pub(crate) fn heal(&mut self, place: Place, key: Key) {
        if self.shared.to_heal.len() < HEAL_MAX {
            self.shared.to_heal.push((place, key));
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
            ClientResponse::Welcome(_) | ClientResponse::Record(_) | ClientResponse::Status(_) => {}
        }
        self.shared.counters.on_response(&response);
        match origin {
            Origin::Client { connection, request } => {
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

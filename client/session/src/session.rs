//! The session: its doors, its clockwork, and how an operation begins and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use quoit_protocol::{ClientRequest, ClientResponse, Limits};
use quoit_ring::{ClusterId, ClusterRecord, HybridTime, NodeId, Zone};

use crate::peer::{Peer, PeerId, Peers};
use crate::pending::{Attempt, Pending, Phase};
use crate::random::Random;
use crate::{Answer, Instant, Operation, OperationError, OperationId, Seed, Service};

/// What a session is told when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The cluster that is meant; nodes of another are refused.
    pub cluster: ClusterId,
    /// Addresses of nodes to ask for the others.
    pub contact_points: Vec<SocketAddr>,
    /// The client's name in the nodes' logs.
    pub client: String,
    /// At most so many operations at once; more are refused as overload.
    pub in_flight_max: usize,
    /// Where the client stands: of the nodes that may be asked, those of its rack are asked first,
    /// then those of its datacenter.
    pub zone: Option<Zone>,
}

/// Names one connection between the session and its driver. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Why a connection could not be opened, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkFailure {
    /// It will not get better by itself: a certificate, another cluster, another protocol.
    #[error("{0}")]
    Refused(String),
    /// The node knows this client, and lets it do nothing.
    #[error("{0}")]
    Forbidden(String),
    /// It may get better: no answer, a closed or broken connection.
    #[error("{0}")]
    Unreachable(String),
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed: [`Session::next_deadline`] is reached. Hand one in at the start, too.
    Tick,
    /// Something is to be done. It completes by one [`Effect::Complete`], whatever happens.
    Submitted {
        /// Its name.
        operation: OperationId,
        /// What it is.
        what: Operation,
    },
    /// A connection that was asked for is open.
    Opened {
        /// Which.
        link: LinkId,
    },
    /// A connection could not be opened, or ended. Not for those that the session closed.
    Lost {
        /// Which.
        link: LinkId,
        /// Why.
        failure: LinkFailure,
    },
    /// A node answered.
    Received {
        /// Over which connection.
        link: LinkId,
        /// To which request.
        request: u64,
        /// What.
        response: ClientResponse,
    },
    /// A request was certainly not handed to its connection (its queue is full, say).
    NotSent {
        /// Which connection.
        link: LinkId,
        /// Which request.
        request: u64,
    },
}

/// What a session wants done. The order carries meaning only for the sends on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection, and report [`Event::Opened`] or [`Event::Lost`].
    Connect {
        /// Its name from now on.
        link: LinkId,
        /// Where to.
        address: SocketAddr,
        /// Whose certificate is expected; any node's of the cluster where `None`.
        node: Option<NodeId>,
    },
    /// Close a connection, or stop opening it. Nothing more is reported of it.
    Close {
        /// Which.
        link: LinkId,
        /// Why, for logs.
        reason: String,
    },
    /// Send a request.
    Send {
        /// Over which connection.
        link: LinkId,
        /// Its number, to be repeated by the answer.
        request: u64,
        /// What.
        message: ClientRequest,
    },
    /// An operation is over.
    Complete {
        /// Which.
        operation: OperationId,
        /// How it ended.
        outcome: Result<Answer, OperationError>,
        /// By whom it was served.
        service: Service,
    },
    /// A newer cluster record is known.
    RecordChanged(Arc<ClusterRecord>),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Peer(PeerId),
    Operation(OperationId),
}

/// A client's state: what it knows of the cluster, its connections, its operations.
#[derive(Debug)]
pub struct Session {
    pub(crate) configuration: Configuration,
    pub(crate) random: Random,
    pub(crate) record: Option<Arc<ClusterRecord>>,
    pub(crate) limits: Option<Limits>,
    /// The greatest hybrid time seen.
    pub(crate) time: HybridTime,
    pub(crate) peers: Peers,
    pub(crate) operations: BTreeMap<OperationId, Pending>,
    /// How many of them are held back from nodes that have too much to do.
    pub(crate) held: usize,
    /// Requests of operations that are unanswered, by their number on the wire.
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    /// The last number on the wire.
    request_last: u64,
    timers: BTreeSet<(Instant, Timer)>,
}

impl Session {
    /// A session without any connection. It wants a [`Event::Tick`] at once.
    pub fn new(configuration: Configuration, seed: Seed) -> Self {
        let mut session = Self {
            peers: Peers::new(&configuration.contact_points),
            configuration,
            random: Random::new(seed),
            record: None,
            limits: None,
            time: HybridTime::ZERO,
            operations: BTreeMap::new(),
            held: 0,
            attempts: BTreeMap::new(),
            request_last: 0,
            timers: BTreeSet::new(),
        };
        session.arm_peers();
        session
    }

    /// Takes in what happened at `now` and appends what is to be done. `now` never runs backwards.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Submitted { operation, what } => {
                self.on_submitted(now, operation, what, effects);
            }
            Event::Opened { link } => self.on_opened(link, effects),
            Event::Lost { link, failure } => self.on_lost(now, link, failure, effects),
            Event::Received { link, request, response } => {
                self.on_received(now, link, request, response, effects);
            }
            Event::NotSent { link, request } => self.on_not_sent(now, link, request, effects),
        }
        self.fire_timers(now, effects);
        self.dispatch_held(now, effects);
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The newest cluster record that is known.
    pub fn record(&self) -> Option<&Arc<ClusterRecord>> {
        self.record.as_ref()
    }

    /// What the nodes accept, as the one said that was connected last.
    pub fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// The greatest hybrid time that was seen in any answer.
    pub fn time(&self) -> HybridTime {
        self.time
    }

    /// How many operations are under way.
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    fn on_submitted(
        &mut self,
        now: Instant,
        id: OperationId,
        what: Operation,
        effects: &mut Vec<Effect>,
    ) {
        let in_flight_max = self.configuration.in_flight_max;
        if self.operations.len() >= in_flight_max {
            let outcome = Err(OperationError::Overloaded { in_flight_max });
            let service = Service::default();
            effects.push(Effect::Complete { operation: id, outcome, service });
            return;
        }
        let deadline = what.deadline;
        let old = self.operations.insert(id, Pending::new(now, what));
        assert!(old.is_none(), "the driver used an operation id twice");
        self.timers.insert((deadline, Timer::Operation(id)));
        self.dispatch(now, id, effects);
    }

    fn fire_timers(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                return;
            }
            // Whoever handles it either sets a later one or is over: the loop ends.
            match timer {
                Timer::Peer(peer) => self.on_peer_timer(now, peer, effects),
                Timer::Operation(id) => self.on_operation_timer(now, id, effects),
            }
            let unchanged = self.timers.first() == Some(&(at, timer));
            assert!(!unchanged, "a timer that fired is still set");
        }
    }

    fn on_operation_timer(&mut self, now: Instant, id: OperationId, effects: &mut Vec<Effect>) {
        let pending = self.operations.get(&id).expect("an operation's timer ends with it");
        if now >= pending.what.deadline {
            self.on_deadline(now, id, effects);
            return;
        }
        match pending.phase {
            Phase::Waiting => unreachable!("who waits has no timer but the deadline"),
            Phase::BackingOff { .. } | Phase::Held => self.dispatch(now, id, effects),
            Phase::InFlight => self.on_attempt_timeout(now, id, effects),
        }
    }

    /// Moves the one timer that an operation has.
    pub(crate) fn set_operation_timer(&mut self, id: OperationId, at: Instant) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let at = at.min(pending.what.deadline);
        if at != pending.timer {
            self.timers.remove(&(pending.timer, Timer::Operation(id)));
            self.timers.insert((at, Timer::Operation(id)));
            pending.timer = at;
        }
    }

    /// Moves the one timer that a peer has, if it has one.
    pub(crate) fn set_peer_timer(&mut self, id: PeerId, at: Option<Instant>) {
        let peer = self.peers.get_mut(id).expect("the peer is known");
        if at == peer.timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut peer.timer, at) {
            self.timers.remove(&(old, Timer::Peer(id)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Peer(id)));
        }
    }

    /// Ends an operation, by a node's answer or without; what comes for it later is ignored.
    pub(crate) fn complete(
        &mut self,
        id: OperationId,
        coordinator: Option<NodeId>,
        outcome: Result<Answer, OperationError>,
        effects: &mut Vec<Effect>,
    ) {
        self.release(id);
        let is_held = |peer: &Peer| peer.window.held.contains(&id);
        debug_assert!(!self.peers.nodes.values().any(is_held), "what is over waits for nothing");
        let pending = self.operations.remove(&id).expect("an operation completes once");
        self.timers.remove(&(pending.timer, Timer::Operation(id)));
        for request in pending.open {
            self.forget_attempt(request);
        }
        let service = Service { coordinator, trail: pending.trail, stages: pending.stages };
        effects.push(Effect::Complete { operation: id, outcome, service });
    }

    /// An attempt is answered, or of no interest any more.
    pub(crate) fn forget_attempt(&mut self, request: u64) -> Option<Attempt> {
        let attempt = self.attempts.remove(&request)?;
        if let Some(peer) = self.peers.node_mut(attempt.node) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        Some(attempt)
    }

    pub(crate) fn next_request(&mut self) -> u64 {
        self.request_last += 1;
        self.request_last
    }
}

#[cfg(test)]
mod tests;

//! Where a request goes: to a primary of its key, the one with the least to do (Dynamo, section
//! 6.4: requests go straight to a coordinator of the key).

use std::sync::Arc;

use quoit_protocol::activity::AskActivity;
use quoit_protocol::snapshot::AskSnapshots;
use quoit_protocol::{
    AcceptLoss, AskRecord, AskStatus, ChangeTables, ClientRequest, Export, Get, Head, Scan, Write,
    value_checksum,
};
use quoit_ring::{ClusterRecord, NodeId};

use crate::check;
use crate::peer::{Peer, PeerId};
use crate::pending::{Attempt, Pending, Phase, Place};
use crate::{Effect, Instant, LinkId, OperationError, OperationId, Request, Session};

impl Session {
    /// Sends an operation to the best node, or lets it wait for one.
    pub(crate) fn dispatch(&mut self, now: Instant, id: OperationId, effects: &mut Vec<Effect>) {
        self.release(id);
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        if now >= pending.what.deadline {
            self.on_deadline(now, id, effects);
            return;
        }
        let Some(record) = self.record.clone() else {
            self.wait(id, effects);
            return;
        };
        if let Err(error) = self.prepare(id, &record) {
            self.fail(id, error, effects);
            return;
        }
        match self.choose(now, id, &record) {
            Choice::Send(node, link) => self.send(now, id, node, link, &record, effects),
            Choice::Hold(nodes) => self.hold(now, id, nodes, effects),
            Choice::Nobody => {
                if let Some(node) = self.operations[&id].what.request.only_node() {
                    self.connect(now, PeerId::Node(node), effects);
                }
                self.wait(id, effects);
            }
        }
    }

    /// Keeps an operation back until one of these nodes, which have too much to do, has answered some of
    /// that; but no longer than it may wait. Now and then it is seen whether another can be asked meanwhile.
    fn hold(
        &mut self,
        now: Instant,
        id: OperationId,
        nodes: Vec<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let until = pending.waits_until();
        if now >= until {
            self.refuse(now, id, effects);
            return;
        }
        let timer = until.min(now.plus_us(pending.attempt_timeout_us()));
        for node in &nodes {
            let peer = self.peers.node_mut(*node).expect("a chosen node is known");
            peer.window.held.insert(id);
        }
        pending.phase = Phase::Held;
        pending.held_by = nodes;
        self.held += 1;
        self.set_operation_timer(id, timer);
    }

    /// An operation is not held back any more, if it was; the caller says at once what becomes of it.
    pub(crate) fn release(&mut self, id: OperationId) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        if pending.phase != Phase::Held {
            return;
        }
        pending.phase = Phase::Waiting;
        self.held -= 1;
        for node in std::mem::take(&mut pending.held_by) {
            if let Some(peer) = self.peers.node_mut(node) {
                peer.window.held.remove(&id);
            }
        }
    }

    /// Sends what was held back from nodes that take more now, to each the oldest first.
    ///
    /// It comes to an end: what is held back again is so by nodes without room alone.
    pub(crate) fn dispatch_held(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.held > 0 {
            let mut nodes = self.peers.nodes.values().filter(|peer| peer.has_room());
            let Some(&id) = nodes.find_map(|peer| peer.window.held.first()) else { return };
            self.dispatch(now, id, effects);
        }
    }

    /// A node cannot be asked now: what was held back from it is looked at again.
    pub(crate) fn let_go(&mut self, now: Instant, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.node_mut(node) else { return };
        for id in std::mem::take(&mut peer.window.held) {
            self.dispatch(now, id, effects);
        }
    }

    /// Sends whatever waits for a node.
    pub(crate) fn dispatch_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for id in self.waiting() {
            self.dispatch(now, id, effects);
        }
    }

    pub(crate) fn waiting(&self) -> Vec<OperationId> {
        let waits = self.operations.iter().filter(|(_, pending)| pending.phase == Phase::Waiting);
        waits.map(|(&id, _)| id).collect()
    }

    /// There is no node to ask. Attempts that are still out may answer meanwhile.
    fn wait(&mut self, id: OperationId, effects: &mut Vec<Effect>) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let deadline = pending.what.deadline;
        pending.phase = Phase::Waiting;
        self.set_operation_timer(id, deadline);
        if self.peers.are_hopeless() {
            self.fail_unreachable(id, effects);
        }
    }

    /// Checks an operation against the record and the nodes' limits, and finds its place.
    fn prepare(&mut self, id: OperationId, record: &ClusterRecord) -> Result<(), OperationError> {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let request = &pending.what.request;
        if let Some(id) = request.table() {
            let table = record.table_by_id(id).ok_or(OperationError::UnknownTable(id))?;
            if let Some(level) = pending.what.level {
                level.required(table.options.replication).map_err(OperationError::Level)?;
            }
        }
        if let Some(node) = request.only_node() {
            let member = record.member(node).ok_or(OperationError::UnknownNode(node))?;
            let new = || Peer::new(member.address, Instant(0));
            self.peers.nodes.entry(node).or_insert_with(new);
        }
        if pending.place.is_none() {
            check::request_fits(request, &self.limits.unwrap_or_default())?;
            pending.place = place_of(request, record);
        }
        if let Request::Write { idempotent: true, .. } = request
            && pending.write_id.is_none()
        {
            pending.write_id = Some(self.random.write_id());
        }
        Ok(())
    }

    /// The best node to ask now, of those without an open attempt of this operation.
    fn choose(&mut self, now: Instant, id: OperationId, record: &ClusterRecord) -> Choice {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        if let Some(node) = pending.what.request.only_node() {
            let link = self.peers.nodes.get(&node).and_then(Peer::up);
            return link.map_or(Choice::Nobody, |link| Choice::Send(node, link));
        }
        // Company for an attempt that is still out is for one that its node may never answer: there is no
        // more of that than the node had let in, and it must not wait for others.
        let is_company = pending.phase == Phase::InFlight && !pending.open.is_empty();
        if let Some(node) = pending.prefer
            && let Some(peer) = self.peers.nodes.get(&node)
            && let Some(link) = peer.up()
        {
            if !is_company && !peer.has_room() {
                return Choice::Hold(vec![node]);
            }
            pending.prefer = None;
            return Choice::Send(node, link);
        }
        pending.prefer = None;
        let pending = &self.operations[&id];
        let (mut best, mut full) = (Best::default(), Vec::new());
        if let (Some(place), Some(table)) = (pending.place, pending.what.request.table()) {
            let table = record.table_by_id(table).expect("prepare looked it up");
            for node in record.primaries(place.vnode, table.options.replication) {
                if let Some(peer) = self.peers.nodes.get(&node) {
                    let standing = self.standing(now, pending, node, peer, record);
                    if is_company || peer.has_room() {
                        best.offer(standing, node, peer, || self.random.below(1 << 32));
                    } else if standing.is_some_and(|standing| standing.class <= TRIED) {
                        full.push(node);
                    }
                }
            }
        }
        if best.class.is_some_and(|class| class <= TRIED) {
            return best.choice();
        }
        // A primary that has too much to do has that of what others forward too.
        if !full.is_empty() {
            return Choice::Hold(full);
        }
        // No primary can well be asked: any other member forwards.
        let is_bounded = pending.place.is_some() && !is_company;
        for (&node, peer) in &self.peers.nodes {
            let mut standing = self.standing(now, pending, node, peer, record);
            if let Some(standing) = &mut standing {
                standing.class += OTHER;
            }
            if !is_bounded || peer.has_room() {
                best.offer(standing, node, peer, || self.random.below(1 << 32));
            } else if standing.is_some() {
                full.push(node);
            }
        }
        match best.choice() {
            Choice::Nobody if !full.is_empty() => Choice::Hold(full),
            choice => choice,
        }
    }

    /// How good a node is to ask, `None` where it cannot be asked.
    fn standing(
        &self,
        now: Instant,
        pending: &Pending,
        node: NodeId,
        peer: &Peer,
        record: &ClusterRecord,
    ) -> Option<Standing> {
        let is_open =
            |request: &u64| self.attempts.get(request).is_some_and(|open| open.node == node);
        if peer.up().is_none() || pending.open.iter().any(is_open) {
            return None;
        }
        let avoided = if now < peer.avoid_until { AVOIDED } else { 0 };
        let tried = if pending.tried.contains(&node) { TRIED } else { 0 };
        let class = avoided + tried;
        Some(Standing { class, distance: self.distance(node, record), load: peer.in_flight })
    }

    /// How far a node is from the client, as far as that is known: 0 in its rack, 1 in its datacenter.
    fn distance(&self, node: NodeId, record: &ClusterRecord) -> u32 {
        let (Some(own), Some(member)) = (&self.configuration.zone, record.member(node)) else {
            return 0;
        };
        match &member.zone {
            zone if zone == own => 0,
            zone if zone.datacenter == own.datacenter => 1,
            _ => 2,
        }
    }

    fn send(
        &mut self,
        now: Instant,
        id: OperationId,
        node: NodeId,
        link: LinkId,
        record: &Arc<ClusterRecord>,
        effects: &mut Vec<Effect>,
    ) {
        let request = self.next_request();
        let time = self.time;
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let message = message(now, pending, record, time);
        pending.open.push(request);
        pending.trail.attempts += 1;
        pending.phase = Phase::InFlight;
        if !pending.tried.contains(&node) {
            pending.tried.push(node);
        }
        if pending.what.request.is_write() {
            pending.uncertain += 1;
        }
        let timer = pending.next_timer(now);
        self.set_operation_timer(id, timer);
        self.attempts
            .insert(request, Attempt { operation: id, node, link, sent: now, has_struck: false });
        let peer = self.peers.node_mut(node).expect("a chosen node is known");
        peer.in_flight += 1;
        effects.push(Effect::Send { link, request, message });
    }
}

/// What speaks against a node, added up.
const TRIED: u32 = 1;
const OTHER: u32 = 2;
const AVOIDED: u32 = 4;

/// What speaks against a node, most important first: the lower the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    class: u32,
    distance: u32,
    load: u32,
}

/// The best of the nodes that were offered; of equals, one by lot.
#[derive(Default)]
struct Best {
    class: Option<u32>,
    key: Option<(Standing, u64)>,
    node: Option<(NodeId, LinkId)>,
}

/// What is to become of an operation now.
enum Choice {
    Send(NodeId, LinkId),
    /// It waits for one of these nodes, which have too much to do.
    Hold(Vec<NodeId>),
    Nobody,
}

impl Best {
    fn choice(&self) -> Choice {
        self.node.map_or(Choice::Nobody, |(node, link)| Choice::Send(node, link))
    }

    fn offer(
        &mut self,
        standing: Option<Standing>,
        node: NodeId,
        peer: &Peer,
        lot: impl FnOnce() -> u64,
    ) {
        let (Some(standing), Some(link)) = (standing, peer.up()) else {
            return;
        };
        let key = (standing, lot());
        if self.key.is_none_or(|best| key < best) {
            *self = Self { class: Some(standing.class), key: Some(key), node: Some((node, link)) };
        }
    }
}

/// Where a request's key lies; `None` for those without a key.
fn place_of(request: &Request, record: &ClusterRecord) -> Option<Place> {
    let partition = match request {
        Request::Get { key, .. } | Request::Write { key, .. } => &key.partition,
        Request::Scan { partition, .. } => partition,
        Request::Export { vnode, .. } => {
            assert!(vnode.0 < record.vnodes.get(), "{vnode:?} is not on the ring");
            return Some(Place { token: None, vnode: *vnode });
        }
        Request::ChangeTables(_)
        | Request::Status(_)
        | Request::Activity(_)
        | Request::AcceptLoss { .. }
        | Request::Repair { .. }
        | Request::Snapshots { .. }
        | Request::Record => return None,
    };
    let token = record.token(partition);
    Some(Place { token: Some(token), vnode: record.vnodes.vnode_of(token) })
}

/// The request as it goes over the wire now.
fn message(
    now: Instant,
    pending: &Pending,
    record: &ClusterRecord,
    time: quoit_ring::HybridTime,
) -> ClientRequest {
    let left_ms = pending.what.deadline.since_us(now) / 1_000;
    let deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX).max(1);
    let head = |table| {
        let place = pending.place.expect("prepare found the place of the key");
        Head {
            table,
            vnode: place.vnode,
            configuration: record.configuration(place.vnode),
            time,
            deadline_ms,
            level: pending.what.level,
            trace: pending.what.trace,
        }
    };
    match pending.what.request.clone() {
        Request::Get { table, key, at_least } => Get { head: head(table), key, at_least }.into(),
        Request::Write { table, key, value, context, ttl_ms, .. } => {
            let place = pending.place.expect("prepare found the place of the key");
            let token = place.token.expect("a write has a key");
            let checksum = value.as_deref().map_or(0, |value| value_checksum(token, value));
            let write_id = pending.write_id;
            Write { head: head(table), key, value, checksum, context, ttl_ms, write_id }.into()
        }
        Request::Scan { table, partition, from, to, limit } => {
            Scan { head: head(table), partition, from, to, limit: limit.max(1) }.into()
        }
        Request::Export { table, after, limit, .. } => {
            Export { head: head(table), after, limit: limit.max(1) }.into()
        }
        Request::ChangeTables(change) => ChangeTables { change, deadline_ms }.into(),
        Request::Status(_) => AskStatus {}.into(),
        Request::Activity(_) => AskActivity {}.into(),
        Request::AcceptLoss { vnode, .. } => AcceptLoss { vnode }.into(),
        Request::Repair { what, .. } => what.into(),
        Request::Record => AskRecord {}.into(),
        Request::Snapshots { action, .. } => AskSnapshots { action }.into(),
    }
}

//! The virtual world: nodes, network, disks, clients and faults around one queue of events.
//!
//! The nodes are the product's own cores over its own store, the clients its own sessions; what is
//! virtual is what lies below them. Every message goes through the real frame codec. Gossip's place
//! is taken by rumours, which are late, different for each node and sometimes wrong.
//!
//! `machine` (clocks, disk, process), `network` (connections between nodes), `storage` (the storage
//! worker), `clients` (sessions and their connections), `attacks` (faults), `load` (operations).

mod attacks;
mod clients;
mod echoes;
mod ending;
mod floors;
mod hints;
mod load;
mod machine;
mod network;
mod queue;
mod storage;
mod trace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use quoit_core::access::Rights;
use quoit_core::event::{StorageRequest, Tag};
use quoit_core::handshake::Genesis;
use quoit_core::random::Random;
use quoit_core::{ConnectionId, CoreConfig, Effect, Event as CoreEvent, NodeCore};
use quoit_ring::{ClusterId, ClusterRecord, HybridTime, Member, NodeId, TableId, VnodeCount, Zone};
use quoit_session::{Event as SessionEvent, LinkId};

use crate::invariants::Checks;
use crate::ledger::Ledger;
use crate::plan::{Fault, PlannedFault, Schedule, stream};
use crate::report::Tally;
use clients::Client;
use machine::{Machine, Process};
use network::Network;
use queue::Queue;
pub(crate) use storage::{Worker, versions_of};
use trace::Trace;

const CLUSTER: ClusterId = ClusterId(7);
/// A node that could not start tries again.
const START_AGAIN_US: u64 = 500_000;

/// What waits for its moment.
pub(crate) enum Event {
    Deliver {
        pair: (u16, u16),
        number: u64,
        direction: u8,
        frame: BytesMut,
    },
    Dial {
        from: u16,
        to: u16,
    },
    Noticed {
        from: u16,
        to: u16,
        number: u64,
    },
    Idle {
        from: u16,
        to: u16,
        number: u64,
    },
    /// For one life of a node's process.
    In {
        node: u16,
        life: u64,
        then: Then,
    },
    /// A pause ends.
    Wake {
        node: u16,
    },
    Start {
        node: u16,
    },
    ToNode {
        connection: ConnectionId,
        frame: BytesMut,
    },
    ToClient {
        connection: ConnectionId,
        frame: BytesMut,
    },
    ClientTick {
        client: u16,
    },
    ClientOpened {
        client: u16,
        link: LinkId,
    },
    ClientLost {
        client: u16,
        link: LinkId,
    },
    Submit(usize),
    FaultBegins(usize),
    FaultEnds(usize),
}

/// What happens in a process.
pub(crate) enum Then {
    Event(Box<CoreEvent>),
    Tick,
    Read(Box<(Tag, StorageRequest, Option<quoit_core::Instant>)>),
    Work,
    Commit,
    Maintain,
    Tear,
}

/// The world.
pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) checks: Checks,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    pub(crate) time_us: u64,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    network: Network,
    disks: Vec<Random>,
    queue: Queue<Event>,
    genesis: Genesis,
    lives: u64,
    next_connection: u64,
    connections: BTreeMap<ConnectionId, (usize, LinkId)>,
    /// What every client may: everything.
    rights: Arc<Rights>,
    cut_clients: Vec<u32>,
    /// Faults that have begun and not ended.
    lasting: BTreeSet<usize>,
    /// Events that follow at once from what a core asked.
    due: VecDeque<(usize, CoreEvent)>,
    effects: Vec<Effect>,
    session_effects: Vec<quoit_session::Effect>,
    /// The newest record that any node followed, and its tables as planned.
    record: Option<Box<ClusterRecord>>,
    tables: Vec<TableId>,
    /// When operations and faults begin.
    begun_us: u64,
    handed: hints::Handed,
    handed_over: hints::HandedOver,
    sent: u64,
    events: u64,
    /// Answers to the reads of the end.
    /// The greatest floor that any node ever had.
    floor_max: HybridTime,
    final_reads: BTreeMap<u64, ending::FinalRead>,
}

pub(crate) fn node_id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn address_of(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1 + at as u16))
}

fn node_at(address: SocketAddr) -> usize {
    usize::from(address.port()) - 1
}

impl World {
    /// A world whose machines are about to start.
    pub(crate) fn new(schedule: Schedule, wants_lines: bool) -> Self {
        let (seed, count) = (schedule.seed, schedule.machines.len());
        let member = |at: usize| Member {
            id: node_id(at),
            address: address_of(at),
            zone: Zone {
                datacenter: "d".to_owned(),
                rack: format!("r{}", at % schedule.zones as usize),
            },
            capacity: 1,
        };
        let genesis = Genesis {
            cluster: CLUSTER,
            vnodes: VnodeCount::new(schedule.vnodes).expect("a power of two"),
            replication: u8::try_from(count.min(3)).expect("small"),
            members: (0..count).map(member).collect(),
        };
        let machines =
            schedule.machines.iter().enumerate().map(|(at, plan)| {
                Machine::new(plan.clone(), stream(seed, "disk", at as u64).draw())
            });
        let clients = u64::from(schedule.clients.max(1));
        let is_echo = |planned: &PlannedFault| matches!(planned.fault, Fault::Echo { .. });
        let has_echoes = schedule.faults.iter().any(is_echo);
        let mut world = Self {
            machines: machines.collect(),
            clients: (0..clients).map(|it| Client::new(seed, it, CLUSTER, count)).collect(),
            network: Network::new(seed, count, has_echoes),
            disks: (0..count).map(|at| stream(seed, "latency", at as u64)).collect(),
            queue: Queue::new(),
            checks: Checks::new(&schedule),
            ledger: Ledger::new(&schedule),
            tally: Tally::default(),
            trace: Trace::new(wants_lines),
            schedule,
            genesis,
            time_us: 0,
            lives: 0,
            next_connection: 0,
            connections: BTreeMap::new(),
            rights: Arc::new(Rights::all("simulated")),
            cut_clients: vec![0; count],
            lasting: BTreeSet::new(),
            due: VecDeque::new(),
            effects: Vec::new(),
            session_effects: Vec::new(),
            record: None,
            tables: Vec::new(),
            begun_us: 0,
            handed: hints::Handed::new(),
            handed_over: hints::HandedOver::new(),
            sent: 0,
            events: 0,
            floor_max: HybridTime::ZERO,
            final_reads: BTreeMap::new(),
        };
        world.begin_forming();
        (0..world.clients.len()).for_each(|client| world.client(client, SessionEvent::Tick));
        world
    }

    fn push_in(&mut self, delay_us: u64, node: usize, life: u64, then: Then) {
        let event = Event::In { node: node as u16, life, then };
        self.queue.push(self.time_us + delay_us, event);
    }

    /// Starts a node that is down and has no more reason to be.
    fn start(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.down > 0 || machine.process.is_some() {
            return;
        }
        machine.starts += 1;
        let starts = machine.starts;
        let seed = stream(self.schedule.seed, "process", (node as u64) << 32 | starts).draw();
        let (worker, recovered, damage) = match Worker::open(machine, &self.schedule, seed) {
            Ok(opened) => opened,
            Err(error) => {
                let (at_us, node) = (self.time_us, node as u16);
                self.trace.line(at_us, || format!("n{} does not start: {error}", node + 1));
                self.tally.failed_starts += 1;
                return self.queue.push(at_us + START_AGAIN_US, Event::Start { node });
            }
        };
        let rarities = &self.schedule.rarities;
        let mut config = CoreConfig::new(node_id(node), self.genesis.clone(), seed);
        config.boot_count = starts;
        config.operations_max = rarities.operations_max as usize;
        config.trails_max = config.operations_max;
        config.storage_requests_max = rarities.storage_requests_max as usize;
        config.read_patience_ms = rarities.read_patience_ms;
        config.lease_ms = rarities.lease_ms;
        config.repair_interval_ms = rarities.repair_interval_ms;
        config.settle_behind_ms = rarities.settle_behind_ms;
        config.write_ids_max = rarities.write_ids_max as usize;
        config.limits.siblings_max = rarities.siblings_max;
        config.scrub_period_ms = rarities.scrub_period_ms;
        config.hint_bytes_max = rarities.hint_bytes_max;
        config.hint_age_ms_max = rarities.hint_age_ms_max;
        let now = machine.now(self.time_us);
        let hints_recovered = recovered.hints.waiting.values().map(|figures| figures.number).sum();
        let core = NodeCore::new(config, recovered, now);
        self.lives += 1;
        let life = self.lives;
        machine.process = Some(Process { core, worker, life, tick_at: None, hints_recovered });
        let at_us = self.time_us;
        self.trace.add(&[at_us, node as u64, life]);
        self.trace.line(at_us, || format!("n{} starts {damage:?}", node + 1));
        self.check_recovered(node);
        self.handle(node, CoreEvent::Tick);
        self.dial_all(node);
    }

    /// What the store said was durable is there after a start.
    fn check_recovered(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let process = machine.process.as_ref().expect("it was just started");
        let is_robbed = std::mem::take(&mut machine.is_robbed);
        if !is_robbed {
            let policies = |table: TableId| {
                self.tables
                    .iter()
                    .position(|id| *id == table)
                    .map(|at| self.schedule.tables[at].policy)
            };
            let vnodes = VnodeCount::new(self.schedule.vnodes).expect("it was checked");
            self.checks.crashes.on_start(
                node,
                &process.worker.reader,
                &machine.durable,
                machine.is_damaged,
                policies,
                |key| process.worker.reader.floor(vnodes.vnode_of(key.token())),
            );
            if !machine.is_damaged {
                let now = |vnode| process.worker.reader.floor(vnode);
                self.checks.floors.on_start(node, &machine.floors, now);
            }
        } else {
            machine.durable.clear();
            machine.floors.clear();
        }
        let may_go_back = self.schedule.expects_loss || is_robbed;
        self.checks.records.on_start(node, process.core.epoch(), may_go_back);
    }

    /// Ends a process; what was not synced may be lost if the `power` was cut.
    fn crash(&mut self, node: usize, power: bool) {
        let at_us = self.time_us;
        self.trace.line(at_us, || format!("n{} ends, power cut: {power}", node + 1));
        let machine = &mut self.machines[node];
        machine.process = None;
        machine.tears = false;
        machine.paused_until_us = 0;
        machine.held.clear();
        if power {
            machine.disk.crash()
        } else {
            machine.disk.kill()
        }
        self.hang_up(node, if power { 3_000_000 } else { 50_000 });
        self.break_clients(node);
    }

    fn pause(&mut self, node: usize, for_ms: u64) {
        let until_us = self.time_us + for_ms * 1_000;
        let machine = &mut self.machines[node];
        if machine.process.is_some() && until_us > machine.paused_until_us {
            machine.paused_until_us = until_us;
            self.queue.push(until_us, Event::Wake { node: node as u16 });
        }
    }

    /// Messages between nodes, and events in all.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.sent, self.events)
    }

    fn is_paused(&self, node: usize) -> bool {
        self.machines[node].paused_until_us > self.time_us
    }

    /// An event for a node that runs, after all that was told to it before.
    fn tell(&mut self, node: usize, event: CoreEvent) {
        if let Some(process) = &self.machines[node].process {
            let life = process.life;
            self.push_in(0, node, life, Then::Event(Box::new(event)));
        }
    }

    /// Handles events until a moment. Stops early at a violation.
    pub(crate) fn run_until(&mut self, until_us: u64) {
        while self.queue.next_at().is_some_and(|at_us| at_us <= until_us) {
            self.step();
            if self.events.is_multiple_of(512) && self.checks.is_violated() {
                return;
            }
        }
        self.time_us = until_us;
    }

    /// Handles events until something holds. Says whether it did within the time.
    pub(crate) fn run_while(&mut self, for_us: u64, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until_us = self.time_us + for_us;
        while holds(self) {
            if self.queue.next_at().is_none_or(|at_us| at_us > until_us)
                || self.checks.is_violated()
            {
                return false;
            }
            self.step();
        }
        true
    }

    fn step(&mut self) {
        let (at_us, event) = self.queue.pop().expect("nodes tick for ever");
        self.time_us = at_us;
        self.events += 1;
        let node = match &event {
            Event::Deliver { pair, direction: 0, .. } => Some(pair.1),
            Event::Deliver { pair, .. } => Some(pair.0),
            Event::In { node, .. } => Some(*node),
            Event::ToNode { connection, .. } => {
                let at = self.connections.get(connection);
                at.map(|(client, link)| self.clients[*client].node_of(*link) as u16)
            }
            _ => None,
        };
        if let Some(node) = node {
            let machine = &mut self.machines[usize::from(node)];
            if machine.paused_until_us > at_us || !machine.held.is_empty() {
                return machine.held.push_back(event);
            }
        }
        self.happen(event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { pair, number, direction, frame } => {
                self.deliver((pair.0.into(), pair.1.into()), number, direction, frame);
            }
            Event::Dial { from, to } => self.on_dial(from.into(), to.into()),
            Event::Noticed { from, to, number } => self.on_noticed(from.into(), to.into(), number),
            Event::Idle { from, to, number } => self.on_idle(from.into(), to.into(), number),
            Event::In { node, life, then } => {
                let node = usize::from(node);
                if self.machines[node].process.as_ref().is_some_and(|it| it.life == life) {
                    self.happen_in(node, then);
                }
            }
            Event::Wake { node } => self.wake(node.into()),
            Event::Start { node } => self.start(node.into()),
            Event::ToNode { connection, frame } => self.on_request(connection, frame),
            Event::ToClient { connection, frame } => self.on_response(connection, frame),
            Event::ClientTick { client } => self.on_client_tick(client.into()),
            Event::ClientOpened { client, link } => self.on_client_opened(client.into(), link),
            Event::ClientLost { client, link } => self.on_client_lost(client.into(), link),
            Event::Submit(at) => self.submit(at),
            Event::FaultBegins(at) => self.attack(at),
            Event::FaultEnds(at) => self.relieve(at),
        }
    }

    fn happen_in(&mut self, node: usize, then: Then) {
        match then {
            Then::Event(event) => self.handle(node, *event),
            Then::Tick => {
                // One that an earlier deadline has made idle is nothing.
                let process = self.machines[node].process.as_mut().expect("it runs");
                if process.tick_at.take_if(|at_us| *at_us <= self.time_us).is_some() {
                    self.handle(node, CoreEvent::Tick);
                }
            }
            Then::Read(asked) => self.on_read(node, asked.0, asked.1, asked.2),
            Then::Work => self.work(node),
            Then::Commit => self.commit(node),
            Then::Maintain => self.maintain(node),
            Then::Tear => self.tear(node),
        }
    }

    fn wake(&mut self, node: usize) {
        if !self.is_paused(node) {
            while let Some(event) = self.machines[node].held.pop_front() {
                self.happen(event);
            }
        }
    }

    /// Hands a node's core an event, and carries out all that follows from it at once.
    fn handle(&mut self, node: usize, event: CoreEvent) {
        self.handle_one(node, event);
        while let Some((node, event)) = self.due.pop_front() {
            if self.machines[node].process.is_some() {
                self.handle_one(node, event);
            }
        }
    }

    fn handle_one(&mut self, node: usize, event: CoreEvent) {
        let now = self.machines[node].now(self.time_us);
        let mut effects = std::mem::take(&mut self.effects);
        let Some(process) = &mut self.machines[node].process else {
            self.effects = effects;
            return;
        };
        process.core.handle(now, event, &mut effects);
        let deadline = process.core.next_deadline().expect("pings are told every second");
        let (life, tick_at) = (process.life, process.tick_at);
        self.checks.bounds.on_turn(process.core.operation_count(), &self.schedule.rarities);
        for effect in effects.drain(..) {
            self.carry_out(node, effect);
        }
        self.effects = effects;
        let at_us = self.machines[node].when(deadline).max(self.time_us);
        if tick_at.is_none_or(|tick_at| at_us < tick_at)
            && let Some(process) = &mut self.machines[node].process
        {
            process.tick_at = Some(at_us);
            let event = Event::In { node: node as u16, life, then: Then::Tick };
            self.queue.push(at_us, event);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::ToPeer { to, request, message } => {
                self.send_peer(node, to.0 as usize - 1, request, &message);
            }
            Effect::ToClient { connection, request, message } => {
                self.send_response(connection, request, &message);
            }
            Effect::ToStorage { tag, request, until } => {
                self.ask_storage(node, tag, request, until)
            }
            Effect::FollowRecord(record) => {
                self.checks.records.on_followed(node, &record);
                self.checks.owners.on_record(&record);
                if self.record.as_ref().is_none_or(|known| known.epoch < record.epoch) {
                    self.record = Some(record);
                }
            }
            Effect::Disconnect { node: peer, reason } => {
                panic!("n{} takes {peer} for no right node: {reason}", node + 1);
            }
            // No client here asks for snapshots: they are of files.
            Effect::Publish { .. } | Effect::Traced(_) | Effect::Snapshots { .. } => {}
            Effect::Note(text) => {
                let at_us = self.time_us;
                self.trace.line(at_us, || format!("n{} notes: {text}", node + 1));
            }
        }
    }
}

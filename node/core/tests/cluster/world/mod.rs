//! A small world for the core's tests: cores over real stores on twin disks, links that delay,
//! break and heal, crashes and restarts; everything from one seed, in virtual time.
//!
//! `storage` works as the node's storage worker does, `clients` speaks as a session would.

mod clients;
mod storage;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use bytes::BytesMut;
use quoit_core::handshake::Genesis;
use quoit_core::peer::PeerMessage;
use quoit_core::random::Random;
use quoit_core::{CoreConfig, Effect, Event, Instant, NodeCore, Now};
use quoit_protocol::ClientResponse;
use quoit_protocol::frame::{BODY_BYTES_MAX, take_frame};
use quoit_ring::{ClusterId, Member, NodeId, VnodeCount, WallTime, Zone};
use quoit_storage::twin::disk::TwinDisk;
use quoit_storage::twin::engine::TwinTables;

pub use clients::*;
use storage::Worker;

const BORN_MS: u64 = 1_700_000_000_000;
const SECOND_US: u64 = 1_000_000;

/// What waits for its moment.
enum Happening {
    Deliver {
        link: u64,
        from: NodeId,
        to: NodeId,
        frame: BytesMut,
    },
    /// A pause ends.
    Wake(NodeId),
    /// Something for one life of a node's process.
    In {
        node: NodeId,
        life: u64,
        then: Then,
    },
}

/// What happens in a process.
enum Then {
    Event(Box<Event>),
    Tick,
    /// The storage worker takes what waits.
    Work,
    /// And commits it.
    Commit,
}

/// One machine.
pub struct Machine {
    pub disk: TwinDisk,
    pub tables: TwinTables,
    /// Its wall clock's error.
    pub skew_ms: i64,
    /// How long its fsyncs take.
    pub sync_us: u64,
    /// Until then it stands still, as a process that was stopped.
    paused_until_us: u64,
    /// What came meanwhile, in its order.
    held: VecDeque<Happening>,
    /// Changes the configuration at each start.
    pub configure: fn(&mut CoreConfig),
    starts: u64,
    process: Option<Process>,
}

/// What was on a machine's disk.
pub struct Copy {
    disk: TwinDisk,
    tables: TwinTables,
    starts: u64,
}

struct Process {
    core: NodeCore,
    worker: Worker,
    life: u64,
    tick_at: Option<u64>,
}

#[derive(Default)]
struct Link {
    /// Counts its connections; what was sent on an earlier one never arrives.
    number: u64,
    cut: bool,
    up: bool,
    /// Streams are ordered: nothing arrives before this.
    arrived_us: BTreeMap<NodeId, u64>,
}

/// The world.
pub struct World {
    pub random: Random,
    pub machines: BTreeMap<NodeId, Machine>,
    /// The longest delay of a message.
    pub delay_us: u64,
    genesis: Genesis,
    links: BTreeMap<(NodeId, NodeId), Link>,
    queue: BTreeMap<(u64, u64), Happening>,
    next: u64,
    time_us: u64,
    lives: u64,
    answers: BTreeMap<u64, ClientResponse>,
    next_request: u64,
    trace: DefaultHasher,
    /// Every effect of interest, if wanted: who, what.
    pub seen: Option<Vec<(NodeId, Effect)>>,
    /// Who took whom for no right node, and why.
    pub disconnected: Vec<(NodeId, NodeId, String)>,
}

pub fn node(number: u64) -> NodeId {
    NodeId(number)
}

impl World {
    /// A world of so many nodes, all running and connected.
    pub fn new(seed: u64, nodes: u64) -> Self {
        Self::with(seed, nodes, |_| {})
    }

    /// The same, with another configuration.
    pub fn with(seed: u64, nodes: u64, configure: fn(&mut CoreConfig)) -> Self {
        Self::sized(seed, nodes, 8, configure)
    }

    /// The same, with so many virtual nodes.
    pub fn sized(seed: u64, nodes: u64, vnodes: u32, configure: fn(&mut CoreConfig)) -> Self {
        let mut random = Random::new(seed);
        let member = |id| Member {
            id: NodeId(id),
            address: SocketAddr::from(([127, 0, 0, 1], 7_000)),
            zone: Zone { datacenter: "d".to_owned(), rack: format!("r{id}") },
            capacity: 1,
        };
        let genesis = Genesis {
            cluster: ClusterId(7),
            vnodes: VnodeCount::new(vnodes).expect("a power of two"),
            replication: u8::try_from(nodes.min(3)).expect("small"),
            members: (1..=nodes).map(member).collect(),
        };
        let mut machine = |_| Machine {
            disk: TwinDisk::new(random.draw()),
            tables: TwinTables::new(),
            skew_ms: 0,
            sync_us: 500,
            paused_until_us: 0,
            held: VecDeque::new(),
            configure,
            starts: 0,
            process: None,
        };
        let machines = (1..=nodes).map(NodeId).map(|id| (id, machine(id))).collect();
        let mut world = Self {
            machines,
            random,
            delay_us: 2_000,
            genesis,
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
            time_us: 0,
            lives: 0,
            answers: BTreeMap::new(),
            next_request: 0,
            trace: DefaultHasher::new(),
            seen: None,
            disconnected: Vec::new(),
        };
        for id in world.ids() {
            world.start(id);
        }
        world
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    pub fn core(&self, id: NodeId) -> &NodeCore {
        &self.machines[&id].process.as_ref().expect("it runs").core
    }

    pub fn core_mut(&mut self, id: NodeId) -> &mut NodeCore {
        let machine = self.machines.get_mut(&id).expect("it is there");
        &mut machine.process.as_mut().expect("it runs").core
    }

    pub fn is_running(&self, id: NodeId) -> bool {
        self.machines[&id].process.is_some()
    }

    /// A hash of all effects so far.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    fn now(&self, id: NodeId) -> Now {
        let wall =
            (BORN_MS + self.time_us / 1_000).saturating_add_signed(self.machines[&id].skew_ms);
        Now { instant: Instant(self.time_us), wall: WallTime(wall) }
    }

    fn push(&mut self, at_us: u64, happening: Happening) {
        self.queue.insert((at_us.max(self.time_us), self.next), happening);
        self.next += 1;
    }

    fn push_in(&mut self, delay_us: u64, node: NodeId, life: u64, then: Then) {
        self.push(self.time_us + delay_us, Happening::In { node, life, then });
    }

    /// Starts a node that does not run, and connects it.
    pub fn start(&mut self, id: NodeId) {
        self.lives += 1;
        let (life, seed) = (self.lives, self.random.draw());
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        assert!(machine.process.is_none(), "{id} runs already");
        machine.starts += 1;
        let mut config = CoreConfig::new(id, self.genesis.clone(), seed);
        config.boot_count = machine.starts;
        config.repair_interval_ms = 0;
        config.hint_bytes_max = 0;
        config.scrub_period_ms = 0;
        (machine.configure)(&mut config);
        let (worker, recovered) = Worker::open(machine, self.genesis.vnodes, seed);
        let core = NodeCore::new(config, recovered, self.now(id));
        let process = Process { core, worker, life, tick_at: None };
        self.machines.get_mut(&id).expect("it is there").process = Some(process);
        self.handle(id, Event::Tick);
        self.connect_all();
    }

    /// Ends a node's process: what was not synced may be lost if the `power` was cut.
    pub fn crash(&mut self, id: NodeId, power: bool) {
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        machine.process = None;
        machine.paused_until_us = 0;
        machine.held.clear();
        if power {
            machine.disk.crash()
        } else {
            machine.disk.kill()
        }
        for other in self.ids() {
            self.disconnect(id, other);
        }
    }

    /// Ends a node's process and gives its machine an empty disk.
    pub fn wipe(&mut self, id: NodeId) {
        if self.is_running(id) {
            self.crash(id, false);
        }
        let disk = TwinDisk::new(self.random.draw());
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        (machine.disk, machine.tables, machine.starts) = (disk, TwinTables::new(), 0);
    }

    /// Puts aside what is on a node's disk.
    pub fn copy(&self, id: NodeId) -> Copy {
        let machine = &self.machines[&id];
        let (disk, tables) = (machine.disk.copy(), machine.tables.copy());
        Copy { disk, tables, starts: machine.starts }
    }

    /// Ends a node's process and gives its machine what was put aside.
    pub fn restore(&mut self, id: NodeId, copy: &Copy) {
        if self.is_running(id) {
            self.crash(id, false);
        }
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        let Copy { disk, tables, starts } = copy;
        (machine.disk, machine.tables, machine.starts) = (disk.copy(), tables.copy(), *starts);
        machine.disk.kill();
    }

    /// Stops a process for a while: it does nothing, and its connections stay.
    pub fn pause(&mut self, id: NodeId, milliseconds: u64) {
        let until = self.time_us + milliseconds * 1_000;
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        machine.paused_until_us = machine.paused_until_us.max(until);
    }

    /// Sets a node's wall clock wrong.
    pub fn skew(&mut self, id: NodeId, milliseconds: i64) {
        self.machines.get_mut(&id).expect("a node of this world").skew_ms = milliseconds;
    }

    /// Lets all that is under way end, and sees that it does.
    pub fn end(&mut self) {
        self.run_ms(10_000);
        assert_eq!(self.disconnected, [], "all nodes of this world are right");
        for id in self.ids() {
            if self.is_running(id) {
                assert_eq!(self.core(id).operation_count(), 0, "every operation ends at {id}");
            }
        }
    }

    /// The world's time.
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// Cuts the link between two nodes.
    pub fn cut(&mut self, one: NodeId, two: NodeId) {
        self.link(one, two).cut = true;
        self.disconnect(one, two);
    }

    /// Breaks a connection; it is made again at once.
    pub fn shake(&mut self, one: NodeId, two: NodeId) {
        self.disconnect(one, two);
        self.connect_all();
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, id: NodeId) {
        self.ids().into_iter().filter(|other| *other != id).for_each(|other| self.cut(id, other));
    }

    /// Joins all links, and starts who does not run.
    pub fn heal(&mut self) {
        self.links.values_mut().for_each(|link| link.cut = false);
        for id in self.ids() {
            if !self.is_running(id) {
                self.start(id);
            }
        }
        self.connect_all();
    }

    fn link(&mut self, one: NodeId, two: NodeId) -> &mut Link {
        self.links.entry((one.min(two), one.max(two))).or_default()
    }

    fn connect_all(&mut self) {
        let ids = self.ids();
        let pairs = ids.iter().flat_map(|one| ids.iter().map(move |two| (*one, *two)));
        for (one, two) in pairs.filter(|(one, two)| one < two) {
            let run = self.is_running(one) && self.is_running(two);
            let link = self.link(one, two);
            if run && !link.cut && !link.up {
                link.up = true;
                link.number += 1;
                self.tell(one, Event::PeerConnected { node: two });
                self.tell(two, Event::PeerConnected { node: one });
            }
        }
    }

    fn disconnect(&mut self, one: NodeId, two: NodeId) {
        let link = self.link(one, two);
        if std::mem::take(&mut link.up) {
            link.number += 1;
            self.tell(one, Event::PeerDisconnected { node: two });
            self.tell(two, Event::PeerDisconnected { node: one });
        }
    }

    /// An event for a node that runs, after all that was told to it before.
    pub fn tell(&mut self, id: NodeId, event: Event) {
        if let Some(process) = &self.machines[&id].process {
            let life = process.life;
            self.push_in(0, id, life, Then::Event(Box::new(event)));
        }
    }

    /// Lets time pass.
    pub fn run_ms(&mut self, milliseconds: u64) {
        self.run_us(milliseconds * 1_000);
    }

    /// Lets a little time pass.
    pub fn run_us(&mut self, microseconds: u64) {
        let until = self.time_us + microseconds;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.step();
        }
        self.time_us = until;
    }

    /// Lets time pass until something holds, which must be within half a minute.
    pub fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let limit = self.time_us + 30 * SECOND_US;
        while !holds(self) {
            assert!(self.time_us < limit, "in vain: {what}");
            self.step();
        }
    }

    fn step(&mut self) {
        let ((at, _), happening) = self.queue.pop_first().expect("clocks tick for ever");
        self.time_us = at;
        let (Happening::Deliver { to: id, .. }
        | Happening::In { node: id, .. }
        | Happening::Wake(id)) = happening;
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        let until = machine.paused_until_us;
        if matches!(happening, Happening::Wake(_)) {
            if until > at {
                return self.push(until, happening);
            }
            for held in std::mem::take(&mut machine.held) {
                self.happen(held);
            }
        } else if until > at || !machine.held.is_empty() {
            machine.held.push_back(happening);
            if machine.held.len() == 1 {
                self.push(until, Happening::Wake(id));
            }
        } else {
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(_) => {}
            Happening::Deliver { link, from, to, mut frame } => {
                if self.link(from, to).number == link {
                    let taken = take_frame(&mut frame, BODY_BYTES_MAX);
                    let frame = taken.expect("intact").expect("whole");
                    let message = PeerMessage::read(&frame).expect("what was sent is read");
                    self.handle(to, Event::Peer { from, request: frame.request, message });
                }
            }
            Happening::In { node, life, then } => {
                if self.machines[&node].process.as_ref().is_none_or(|it| it.life != life) {
                    return;
                }
                match then {
                    Then::Event(event) => self.handle(node, *event),
                    Then::Tick => {
                        self.process(node).tick_at = None;
                        self.handle(node, Event::Tick);
                    }
                    Then::Work => self.work(node),
                    Then::Commit => self.commit(node),
                }
            }
        }
    }

    fn process(&mut self, id: NodeId) -> &mut Process {
        let machine = self.machines.get_mut(&id).expect("a node of this world");
        machine.process.as_mut().expect("it runs")
    }

    fn handle(&mut self, id: NodeId, event: Event) {
        let now = self.now(id);
        let mut effects = Vec::new();
        self.process(id).core.handle(now, event, &mut effects);
        for effect in effects {
            format!("{} {id} {effect:?}", self.time_us).hash(&mut self.trace);
            if let Some(seen) = &mut self.seen {
                seen.push((id, effect.clone()));
            }
            self.carry_out(id, effect);
        }
        let deadline = self.core(id).next_deadline().expect("pings are told every second").0;
        let process = self.process(id);
        if process.tick_at.is_none_or(|at| deadline < at) {
            process.tick_at = Some(deadline);
            let life = process.life;
            self.push(deadline, Happening::In { node: id, life, then: Then::Tick });
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::ToPeer { to, request, message } => self.send_peer(id, to, request, &message),
            Effect::ToClient { request, message, .. } => {
                let before = self.answers.insert(request, message);
                assert_eq!(before, None, "a request is answered once");
            }
            Effect::ToStorage { tag, request, until } => {
                self.ask_storage(id, tag, request, until);
            }
            Effect::Disconnect { node, reason } => self.disconnected.push((id, node, reason)),
            Effect::Publish { .. }
            | Effect::FollowRecord(_)
            | Effect::Note(_)
            | Effect::Traced(_)
            | Effect::Snapshots { .. } => {}
        }
    }

    fn send_peer(&mut self, from: NodeId, to: NodeId, request: u64, message: &PeerMessage) {
        assert_ne!(from, to, "nobody writes to himself");
        let (delay, time) = (50 + self.random.below(self.delay_us), self.time_us);
        let link = self.link(from, to);
        if link.up {
            let at = (time + delay).max(link.arrived_us.get(&to).copied().unwrap_or(0));
            link.arrived_us.insert(to, at);
            let number = link.number;
            let mut frame = BytesMut::new();
            message.put(request, &mut frame);
            self.push(at, Happening::Deliver { link: number, from, to, frame });
        }
    }
}

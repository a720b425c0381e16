//! The pipelined event loop: takes whatever events wait, has the core handle them all, and carries
//! out the effects in batches. It decides nothing.
//!
//! One turn: inbound messages, storage answers, gossip's beliefs and time become events; requests to
//! storage leave as one batch (one log write, one fsync), messages to one connection leave together
//! (one write). Before a turn begins the loop lets the other tasks run once, so that more events
//! share it: under load that is worth more than any other setting. It does not where single events come
//! one after the other.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quoit_core::event::{Effect, Effects, Event, StorageRequest};
use quoit_core::{NodeCore, Now, Spent};
use quoit_gossip::{Gossip, GossipEvent};
use quoit_protocol::ClientResponse;
use quoit_ring::Member;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::callers::Callers;
use crate::clock::Clock;
use crate::config::LimitSettings;
use crate::http::NodeHealth;
use crate::memory;
use crate::metrics::{Metrics, StoragePart};
use crate::service_manager::ServiceManager;
use crate::snapshots::{SnapshotAnswer, SnapshotService};
use crate::storage_worker::{Answered, Answers, Request, Requests, StorageWorker};
use crate::telemetry::{Coordinated, Telemetry, Told};
use crate::transport::{Arrived, Inbound, InboundQueue, Transport};

/// A turn takes at most so many messages: what comes next waits for no longer than they take.
const TURN_EVENTS_MAX: usize = 256;
/// Without any event, a turn is made so often, to tell that the loop lives.
const IDLE_TURN: Duration = Duration::from_millis(250);
/// Figures that change slowly are read so often.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// A node that stops waits no longer than this for what it coordinates.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Nor longer than this for those to whom it hands over what it holds for them.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(15);

/// Everything that the loop stands between.
pub(crate) struct EventLoop {
    pub(crate) core: NodeCore,
    pub(crate) clock: Clock,
    pub(crate) transport: Transport,
    pub(crate) inbound: InboundQueue,
    pub(crate) storage: StorageWorker,
    pub(crate) answers: UnboundedReceiver<Answers>,
    pub(crate) snapshots: SnapshotService,
    pub(crate) snapshot_answers: UnboundedReceiver<SnapshotAnswer>,
    /// `None` once goodbye was said.
    pub(crate) gossip: Option<Gossip>,
    pub(crate) gossip_events: Receiver<GossipEvent>,
    /// Gossip messages that came from peers.
    pub(crate) to_gossip: Sender<(std::net::SocketAddr, bytes::Bytes)>,
    pub(crate) health: Arc<NodeHealth>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) telemetry: Telemetry,
    pub(crate) service: Arc<ServiceManager>,
    /// What is accepted from clients, as it was last read.
    pub(crate) limits: watch::Receiver<LimitSettings>,
    /// Turns `true` when the node is to stop.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) advertise: std::net::SocketAddr,
    /// Whom to speak with until there is a cluster record.
    pub(crate) initial_members: Vec<Member>,
    pub(crate) callers: Callers,
    pub(crate) ready: bool,
    /// The last turn had more than one event.
    pub(crate) was_crowded: bool,
    pub(crate) read_here: ReadHere,
    pub(crate) observed: std::time::Instant,
    pub(crate) damage_told: Option<String>,
    /// Spare room for effects.
    pub(crate) due: Effects,
}

/// Requests of one turn to the storage threads.
#[derive(Default)]
struct StorageBatch {
    writes: Requests,
    reads: Requests,
}

/// Whether reads of one key are done on the loop's own thread: a read from memory takes a few
/// microseconds, and to wake a reading thread and be woken by it takes more. One that had to go to
/// the disk is noticed by the time it took, and sends the next ones to the reading threads.
#[derive(Debug, Default)]
pub(crate) struct ReadHere {
    elsewhere: u32,
}

impl ReadHere {
    /// Longer than this, and the read went to the disk.
    const SLOW: Duration = Duration::from_micros(500);
    /// So many reads go to the reading threads before the next try.
    const ELSEWHERE: u32 = 256;

    fn is_worth_it(&mut self) -> bool {
        self.elsewhere = self.elsewhere.saturating_sub(1);
        self.elsewhere == 0
    }

    fn took(&mut self, time: Duration) {
        if time > Self::SLOW {
            self.elsewhere = Self::ELSEWHERE;
        }
    }
}

/// What one turn gathers before it is carried out.
#[derive(Default)]
struct Gathered {
    messages: Vec<Arrived>,
    answers: Vec<Answers>,
    beliefs: Vec<GossipEvent>,
}

impl Gathered {
    fn count(&self) -> usize {
        self.messages.len() + self.answers.len() + self.beliefs.len()
    }
}

/// How far the node is with stopping.
enum Ending {
    NotYet,
    /// What is under way is waited for, since then.
    Draining(tokio::time::Instant),
    /// So are those for whom it holds hints, and can reach.
    HandingOver(tokio::time::Instant),
    /// Gossip tells the others.
    Goodbye(JoinHandle<()>),
}

impl EventLoop {
    /// Runs until it is told to stop; then finishes what is under way and ends the threads.
    pub(crate) async fn run(mut self) {
        let mut gathered = Gathered::default();
        let mut effects = Effects::new();
        let mut ending = Ending::NotYet;
        match self.core.record().cloned() {
            Some(record) => self.follow(&record.members),
            None => self.follow(&self.initial_members),
        }
        self.say_hello();
        loop {
            self.wait(&mut gathered, !matches!(ending, Ending::NotYet)).await;
            let began = std::time::Instant::now();
            let (now, events) = (self.clock.now(), gathered.count());
            self.was_crowded = events > 1;
            self.handle(now, &mut gathered, &mut effects);
            self.carry_out(now, &mut effects).await;
            self.report(now, events, began);
            ending = match ending {
                Ending::Goodbye(said) if said.is_finished() => break,
                other => self.next_step(other),
            };
        }
        self.shut_down().await;
    }

    /// The next step of stopping, where it is time for one. Turns are made all the while: whoever
    /// still asks hears that the node stops, and turns to another.
    fn next_step(&mut self, ending: Ending) -> Ending {
        match ending {
            Ending::NotYet if *self.stop.borrow() => {
                self.health.set_unready(vec!["the node is stopping".to_owned()]);
                self.service.stopping();
                self.core.drain();
                Ending::Draining(tokio::time::Instant::now())
            }
            Ending::Draining(since)
                if self.core.operation_count() == 0 || since.elapsed() >= DRAIN_LIMIT =>
            {
                let hints = self.core.deliverable_hints();
                tracing::info!(unfinished = self.core.operation_count(), hints, "drained");
                self.service.status(&format!("draining: {hints} hints for others are handed over"));
                Ending::HandingOver(since)
            }
            Ending::HandingOver(since)
                if self.core.deliverable_hints() == 0 || since.elapsed() >= HAND_OVER_LIMIT =>
            {
                tracing::info!(hints_left = self.core.deliverable_hints(), "handed over");
                let gossip = self.gossip.take();
                Ending::Goodbye(tokio::spawn(async move {
                    if let Some(gossip) = gossip
                        && let Err(error) = gossip.shutdown().await
                    {
                        tracing::debug!(%error, "gossip ended");
                    }
                }))
            }
            other => other,
        }
    }

    /// Waits for anything to happen, then takes whatever else has happened by then.
    async fn wait(&mut self, gathered: &mut Gathered, draining: bool) {
        let now = self.clock.now().instant;
        let until_deadline = self.core.next_deadline().map_or(IDLE_TURN, |deadline| {
            Duration::from_micros(deadline.0.saturating_sub(now.0)).min(IDLE_TURN)
        });
        let has_room = self.storage.has_room();
        tokio::select! {
            _ = self.inbound.recv_many(&mut gathered.messages, TURN_EVENTS_MAX), if has_room => {}
            _ = self.answers.recv_many(&mut gathered.answers, TURN_EVENTS_MAX) => {}
            Some(event) = self.gossip_events.recv() => gathered.beliefs.push(event),
            Some((connection, request, message)) = self.snapshot_answers.recv() => {
                self.callers.end(connection, request, &message, &self.metrics);
                self.transport.send_client(connection, request, &message);
            }
            _ = self.stop.changed(), if !draining => {}
            Ok(()) = self.limits.changed() => {
                let limits = *self.limits.borrow_and_update();
                let (all, of_one) = (limits.in_flight_max, limits.in_flight_per_client_max);
                self.core.set_limits(limits.data, all, of_one);
            }
            () = tokio::time::sleep(until_deadline) => {}
        }
        if gathered.count() == 1 && !self.was_crowded {
            // One who asks and waits: there is nothing to share a turn with.
            return;
        }
        tokio::task::yield_now().await;
        let room = TURN_EVENTS_MAX.saturating_sub(gathered.count());
        if has_room {
            self.inbound.take_ready(&mut gathered.messages, room);
        }
        while let Ok(answers) = self.answers.try_recv() {
            gathered.answers.push(answers);
        }
    }

    fn handle(&mut self, now: Now, gathered: &mut Gathered, effects: &mut Effects) {
        for Answered { tag, answer, spent } in gathered.answers.drain(..).flatten() {
            if self.core.is_tracing()
                && let Some(spent) = spent
            {
                self.core.note_spent(tag, spent, now);
            }
            self.core.handle(now, Event::Storage { tag, answer }, effects);
        }
        for Arrived { inbound, at } in gathered.messages.drain(..) {
            let event = match inbound {
                Inbound::Peer { from, request, message } => {
                    if message.trace().is_some() {
                        self.core.note_came(self.clock.instant_of(at));
                    }
                    Event::Peer { from, request, message }
                }
                Inbound::Client { connection, request, message } => {
                    let transport = &self.transport;
                    let rights = self.callers.rights(connection, || transport.client(connection));
                    let Some(rights) = rights else { continue };
                    if message.trace().is_some() {
                        self.core.note_came(self.clock.instant_of(at));
                    }
                    self.callers.begin(connection, request, &message, at);
                    Event::Client { connection, request, message, rights }
                }
                Inbound::PeerConnected { node } => {
                    tracing::info!(%node, "connected");
                    Event::PeerConnected { node }
                }
                Inbound::PeerDisconnected { node } => {
                    tracing::warn!(%node, "connection lost");
                    Event::PeerDisconnected { node }
                }
                Inbound::ClientClosed { connection } => {
                    self.callers.closed(connection);
                    continue;
                }
                Inbound::Gossip { from, body } => {
                    // Gossip repeats itself: what finds no room is told again.
                    let _ = self.to_gossip.try_send((from, body));
                    continue;
                }
            };
            self.core.handle(now, event, effects);
        }
        for belief in gathered.beliefs.drain(..) {
            if let Some(event) = as_event(belief) {
                self.core.handle(now, event, effects);
            }
        }
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now.instant) {
            self.core.handle(now, Event::Tick, effects);
        }
    }

    /// Carries out effects, and those that reading on the spot leads to.
    async fn carry_out(&mut self, now: Now, effects: &mut Effects) {
        let mut batch = StorageBatch::default();
        while !effects.is_empty() {
            let mut due = std::mem::take(&mut self.due);
            std::mem::swap(&mut due, effects);
            for effect in due.drain(..) {
                self.carry_out_one(now, effect, &mut batch, effects).await;
            }
            self.due = due;
        }
        self.storage.submit(batch.writes, batch.reads);
        self.transport.flush();
    }

    async fn carry_out_one(
        &mut self,
        now: Now,
        effect: Effect,
        batch: &mut StorageBatch,
        effects: &mut Effects,
    ) {
        match effect {
            Effect::ToPeer { to, request, message } => {
                self.transport.send_peer(to, request, &message);
            }
            Effect::ToClient { connection, request, mut message } => {
                self.callers.end(connection, request, &message, &self.metrics);
                if let ClientResponse::Status(status) = &mut message
                    && let Some(activity) = &mut status.activity
                {
                    activity.measured = self.metrics.measured();
                }
                self.transport.send_client(connection, request, &message);
            }
            Effect::ToStorage { tag, request: request @ StorageRequest::Read { .. }, .. }
                if self.read_here.is_worth_it() =>
            {
                let began = std::time::Instant::now();
                let answer = request.read(self.storage.reader());
                let took = began.elapsed();
                self.read_here.took(took);
                let now = if self.core.is_tracing() {
                    let now = self.clock.now();
                    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.core.note_spent(tag, Spent::Read { waited_us: 0, took_us }, now);
                    now
                } else {
                    now
                };
                self.core.handle(now, Event::Storage { tag, answer }, effects);
            }
            Effect::ToStorage { tag, request, until } if request.is_read() => {
                batch.reads.push(Request { tag, request, until, asked: now.instant });
            }
            Effect::ToStorage { tag, request, until } => {
                batch.writes.push(Request { tag, request, until, asked: now.instant });
            }
            Effect::Disconnect { node, reason } => {
                tracing::warn!(%node, %reason, "closing the connections with a peer");
                self.transport.refuse_peer(node, &reason);
            }
            Effect::Publish { key, value } => {
                if let Some(gossip) = &self.gossip
                    && let Err(error) = gossip.publish(key, &value).await
                {
                    tracing::warn!(%error, key, "a fact cannot be gossiped");
                }
            }
            Effect::FollowRecord(record) => {
                let (epoch, tables) = (record.epoch, record.tables.len());
                tracing::info!(%epoch, tables, "cluster record");
                self.follow(&record.members);
                self.say_hello();
            }
            Effect::Note(text) => tracing::warn!("{text}"),
            Effect::Traced(trace) => self.telemetry.tell(|| {
                let ago_us = self.clock.instant().0.saturating_sub(trace.began.0);
                let began = SystemTime::now().checked_sub(Duration::from_micros(ago_us));
                Told::Coordinated(Coordinated { trace, began: began.unwrap_or(UNIX_EPOCH) })
            }),
            Effect::Snapshots { connection, request, action } => {
                self.snapshots.ask(connection, request, action, self.core.record());
            }
        }
    }

    /// Connects to these members, and to no others.
    fn follow(&self, members: &[Member]) {
        for member in members {
            if let Some(gossip) = &self.gossip {
                gossip.contact(member.address);
            }
        }
        let members: Vec<_> = members.iter().map(|member| (member.id, member.address)).collect();
        self.transport.set_members(&members);
    }

    fn say_hello(&self) {
        self.transport.set_hello(self.core.hello(self.advertise));
    }

    /// Tells observers how the node is.
    fn report(&mut self, now: Now, events: usize, began: std::time::Instant) {
        self.health.heartbeat();
        self.service.alive();
        self.metrics.event_loop_round(events, began.elapsed());
        self.metrics.set_in_flight(self.core.operation_count());
        if self.observed.elapsed() >= OBSERVE_EVERY {
            self.observed = began;
            self.observe(now);
        }
        if *self.stop.borrow() {
            return;
        }
        let reasons = self.core.not_ready(now);
        if reasons.is_empty() && !self.ready {
            tracing::info!("ready");
            self.ready = true;
            self.health.set_ready();
            self.service.ready();
        } else if !reasons.is_empty() {
            self.service.status(&format!("joining: {}", reasons.join("; ")));
            self.health.set_unready(reasons);
        }
    }

    /// Reads the figures that change slowly.
    fn observe(&mut self, now: Now) {
        let passed = self.transport.stats();
        if self.ready && !*self.stop.borrow() {
            self.service.status(&self.standing(passed.peers_connected));
        }
        self.metrics.set_transport(&passed);
        let held = self.storage.reader().figures();
        self.metrics.set_storage_bytes(StoragePart::Tables, held.size.disk_bytes);
        self.metrics.set_storage_bytes(StoragePart::Memory, held.memory_bytes);
        self.metrics.set_unreadable(held.unreadable);
        if let Some(text) = &held.damage
            && held.damage != self.damage_told
        {
            tracing::error!("{text}; the other replicas answer, and rebuild it as it is read");
            self.damage_told.clone_from(&held.damage);
        }
        self.metrics.set_status(&self.core.status(held, now));
        self.metrics.set_storage_queued_bytes(self.storage.waiting_bytes());
        if let Some(activity) = self.core.activity(now) {
            self.metrics.set_activity(&activity);
        }
        self.metrics.second_is_over(memory::resident_bytes());
    }

    /// How a node that serves stands, in a line.
    fn standing(&self, connected: usize) -> String {
        let members = self.core.record().map_or(0, |record| record.members.len());
        let others = members.saturating_sub(1);
        let mut text = format!("serving; connected to {connected} of {others} other members");
        for problem in self.core.problems() {
            text.push_str("; ");
            text.push_str(&problem);
        }
        text
    }

    async fn shut_down(self) {
        tracing::info!("stopping");
        self.service.status("stopping: saying goodbye and closing the store");
        self.transport.close(Duration::from_secs(1)).await;
        let storage = self.storage;
        if tokio::task::spawn_blocking(move || storage.stop()).await.is_err() {
            tracing::error!("the storage threads did not end well");
        }
        tracing::info!("stopped");
    }
}

/// What gossip believes, as the core hears it; the rest is for the log.
fn as_event(belief: GossipEvent) -> Option<Event> {
    match belief {
        GossipEvent::Alive { node, .. } => {
            tracing::info!(%node, "gossip: alive");
            Some(Event::SeemsAlive { node })
        }
        GossipEvent::Dead { node } => {
            tracing::warn!(%node, "gossip: seems dead");
            Some(Event::SeemsDead { node })
        }
        GossipEvent::Facts { .. } => None,
        GossipEvent::Conflict { node, addresses } => {
            tracing::error!(%node, ?addresses, "two nodes have one id: give each its own");
            None
        }
        GossipEvent::Refused { address, reason } => {
            tracing::warn!(%address, %reason, "gossip refused");
            None
        }
    }
}

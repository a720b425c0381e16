//! The driver: one task that runs the session. It decides nothing: it takes all events that wait,
//! hands them to the session, and carries out the effects.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::Endpoint;
use quoit_ring::ClusterId;
use quoit_session::{
    Answer, Configuration, Effect, Event, Instant, LinkId, OperationError, OperationId, Seed,
    Service, Session,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;

use crate::client::{Clock, Command, Done, Known, Outcome};
use crate::connection::{self, News, Outgoing, Target};
use crate::metrics::{Kind, Metrics};
use crate::tls::{self, ClientTls};

/// At most so many events are taken in before their effects are carried out.
const BATCH_MAX: usize = 512;
/// At most so many pieces of news wait for the driver; a connection's reader waits for room.
const NEWS_MAX: usize = 1_024;
/// How long to wait, when closing, until the nodes were told.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// Owns the session and all connections.
pub(crate) struct Driver {
    session: Session,
    cluster: ClusterId,
    endpoint: Endpoint,
    tls: ClientTls,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    known: watch::Sender<Known>,
    news_sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    links: BTreeMap<LinkId, Arc<Outgoing>>,
    replies: HashMap<OperationId, Waiting>,
    operation_last: u64,
    /// Rings at the session's next deadline, or too early: to move it at every change costs more.
    alarm: Pin<Box<Sleep>>,
    effects: Vec<Effect>,
    metrics: Metrics,
}

/// Who waits for an operation.
struct Waiting {
    reply: oneshot::Sender<Outcome>,
    since: Instant,
    kind: Kind,
}

/// What the driver waited for.
enum Woken {
    /// So many came; none where all handles are gone.
    Commands(usize),
    News,
    Timer,
}

impl Driver {
    pub(crate) fn new(
        configuration: Configuration,
        seed: Seed,
        endpoint: Endpoint,
        tls: ClientTls,
        clock: Clock,
        commands: mpsc::Receiver<Command>,
        known: watch::Sender<Known>,
    ) -> Self {
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        Self {
            cluster: configuration.cluster,
            session: Session::new(configuration, seed),
            endpoint,
            tls,
            clock,
            commands,
            known,
            news_sender,
            news,
            links: BTreeMap::new(),
            replies: HashMap::new(),
            operation_last: 0,
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            effects: Vec::new(),
            metrics: Metrics::default(),
        }
    }

    /// Runs until the client is closed or its last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH_MAX);
        let mut news = Vec::with_capacity(BATCH_MAX);
        let done = loop {
            match self.wait(&mut commands, &mut news).await {
                Woken::Commands(0) => break None,
                Woken::Commands(_) | Woken::News | Woken::Timer => {}
            }
            // Whoever is about to submit more gets the chance to share the batch.
            tokio::task::yield_now().await;
            while commands.len() < BATCH_MAX
                && let Ok(command) = self.commands.try_recv()
            {
                commands.push(command);
            }
            while news.len() < BATCH_MAX
                && let Ok(piece) = self.news.try_recv()
            {
                news.push(piece);
            }
            if let Some(done) = self.step(&mut commands, &mut news) {
                break Some(done);
            }
        };
        self.shut_down().await;
        if let Some(done) = done {
            // An error says that nobody waits any more.
            let _ = done.send(());
        }
    }

    async fn wait(&mut self, commands: &mut Vec<Command>, news: &mut Vec<News>) -> Woken {
        let deadline = self.session.next_deadline();
        if let Some(deadline) = deadline.map(|at| self.clock.timer(at))
            && (deadline < self.alarm.deadline() || self.alarm.is_elapsed())
        {
            self.alarm.as_mut().reset(deadline);
        }
        tokio::select! {
            count = self.commands.recv_many(commands, BATCH_MAX) => Woken::Commands(count),
            _ = self.news.recv_many(news, BATCH_MAX) => Woken::News,
            () = self.alarm.as_mut(), if deadline.is_some() => Woken::Timer,
        }
    }

    /// Takes in a batch and carries out what follows; yields whom to tell if the client is to close.
    fn step(
        &mut self,
        commands: &mut Vec<Command>,
        news: &mut Vec<News>,
    ) -> Option<oneshot::Sender<()>> {
        let mut close = None;
        self.handle(Event::Tick);
        for piece in news.drain(..) {
            match piece {
                News::Opened { link } => self.handle(Event::Opened { link }),
                News::Lost { link, failure } => {
                    tracing::debug!(?link, %failure, "a connection was lost");
                    self.links.remove(&link);
                    self.handle(Event::Lost { link, failure });
                }
                News::Received { link, responses } => {
                    for (request, response) in responses {
                        self.handle(Event::Received { link, request, response });
                    }
                }
            }
        }
        for command in commands.drain(..) {
            match command {
                Command::Submit { operation: what, reply } => {
                    self.operation_last += 1;
                    let operation = OperationId(self.operation_last);
                    let kind = Kind::of(&what.request);
                    self.replies
                        .insert(operation, Waiting { reply, since: self.clock.now(), kind });
                    self.handle(Event::Submitted { operation, what });
                }
                Command::Metrics { reply } => {
                    // An error says that the caller has lost interest.
                    let _ = reply.send(self.metrics.clone());
                }
                Command::Close { done } => close = Some(done),
            }
        }
        close
    }

    fn handle(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.session.handle(self.clock.now(), event, &mut effects);
        let mut refused = Vec::new();
        for effect in effects.drain(..) {
            refused.extend(self.carry_out(effect));
        }
        self.effects = effects;
        for event in refused {
            // One level deep at a time: a refused request is only put off.
            self.handle(event);
        }
    }

    /// Carries out an effect; yields an event where that was not possible.
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Connect { link, address, node } => {
                let outgoing = Arc::new(Outgoing::default());
                self.links.insert(link, Arc::clone(&outgoing));
                let target = Target {
                    link,
                    address,
                    server_name: tls::server_name(self.cluster, node),
                    config: self.tls.config(address),
                };
                let news = self.news_sender.clone();
                tokio::spawn(connection::run(target, self.endpoint.clone(), outgoing, news));
            }
            Effect::Close { link, reason } => {
                if let Some(outgoing) = self.links.remove(&link) {
                    outgoing.close(reason);
                }
            }
            Effect::Send { link, request, message } => {
                let sent =
                    self.links.get(&link).is_some_and(|outgoing| outgoing.put(request, &message));
                if !sent {
                    return Some(Event::NotSent { link, request });
                }
            }
            Effect::Complete { operation, outcome, service } => {
                if let Some(waiting) = self.replies.remove(&operation) {
                    self.reply(waiting, outcome, service);
                }
            }
            Effect::RecordChanged(record) => {
                let limits = self.session.limits();
                self.known.send_replace(Known { record: Some(record), limits });
            }
        }
        None
    }

    fn reply(
        &mut self,
        waiting: Waiting,
        outcome: Result<Answer, OperationError>,
        service: Service,
    ) {
        let Waiting { reply, since, kind } = waiting;
        let took_us = self.clock.now().since_us(since);
        self.metrics.count(kind, &outcome, &service, took_us);
        tracing::trace!(?kind, took_us, attempts = service.trail.attempts, coordinator = ?service.coordinator, is_done = outcome.is_ok(), "a request ended");
        let took = Duration::from_micros(took_us);
        // An error says that the caller has lost interest.
        let _ = reply.send(outcome.map(|answer| Done { answer, service, took }));
    }

    async fn shut_down(&mut self) {
        self.replies.clear();
        for outgoing in std::mem::take(&mut self.links).into_values() {
            outgoing.close("the client is closed".to_owned());
        }
        self.endpoint.close(0_u32.into(), b"the client is closed");
        // Past the bound the nodes find out by themselves, by the idle timeout.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

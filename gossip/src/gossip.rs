//! The running gossip: chitchat in one task, and beside it an observer that turns what chitchat holds
//! into events.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chitchat::{Chitchat, ChitchatHandle, ChitchatId, spawn_chitchat};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{ConfigError, FACTS_MAX, FactError, GossipConfig, LEAVING_KEY, check_fact};
use crate::event::{GossipEvent, PeerView, Refusal};
use crate::guard::Guard;
use crate::incarnation::Incarnation;
use crate::known::Known;
use crate::link::{Counters, Link, LinkCounts, LinkSocket, LinkTransport};
use crate::peers::{Peers, Sighting};

/// Refusals that wait for the observer; more are only counted.
const REFUSALS_MAX: usize = 64;
/// How many peers a goodbye is said to directly; they pass it on.
const FAREWELLS_MAX: usize = 16;

/// Why there is no gossip.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// Nothing was started: mend the configuration.
    #[error("gossip cannot start")]
    Config(#[from] ConfigError),
    /// Chitchat did not start. Nothing runs; the link is gone.
    #[error("gossip did not start: {reason}")]
    Start {
        /// What it said.
        reason: String,
    },
    /// Gossip ended by itself: its task died, or the link was closed. What is known grows old; the
    /// caller should start again with a new link and a greater generation, or exit loudly.
    #[error("gossip has stopped: {reason}")]
    Stopped {
        /// What it said.
        reason: String,
    },
}

/// A node's gossip, running until it is shut down or dropped.
pub struct Gossip {
    chitchat: ChitchatHandle,
    shared: Arc<Shared>,
    observer: Observer,
    interval: Duration,
}

struct Shared {
    peers: Mutex<Peers>,
    known: Arc<Mutex<Known>>,
    counters: Arc<Counters>,
}

/// The observer's task, which ends with its owner.
struct Observer {
    task: JoinHandle<()>,
    /// Closed when the task is no more.
    running: watch::Receiver<()>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gossip {
    /// Starts to gossip over `link`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work, or chitchat does not start.
    pub async fn start(
        config: GossipConfig,
        link: Link,
    ) -> Result<(Self, mpsc::Receiver<GossipEvent>), GossipError> {
        config.check()?;
        let me = config.incarnation();
        let known = Arc::new(Mutex::new(Known::new(me)));
        let counters = Arc::new(Counters::default());
        let (refusals_sender, refusals) = mpsc::channel(REFUSALS_MAX);
        let guard = Guard::new(config.cluster.to_string(), me, Arc::clone(&known));
        let socket = LinkSocket::new(link, guard, Arc::clone(&counters), refusals_sender);
        let facts = config.facts.clone().into_iter().collect();
        let chitchat = spawn_chitchat(config.chitchat(), facts, &LinkTransport::new(socket))
            .await
            .map_err(|error| GossipError::Start { reason: error.to_string() })?;
        let peers = Mutex::new(Peers::new(me, config.interval, Instant::now()));
        let shared = Arc::new(Shared { peers, known, counters });
        let (events_sender, events) = mpsc::channel(config.events_max);
        let (running_sender, running) = watch::channel(());
        let observation = Observation {
            chitchat: chitchat.chitchat(),
            shared: Arc::clone(&shared),
            refusals,
            events: events_sender,
            _running: running_sender,
        };
        let task = tokio::spawn(observation.run(config.interval / 2));
        let observer = Observer { task, running };
        Ok((Self { chitchat, shared, observer, interval: config.interval }, events))
    }

    /// Says a small fact about this node, replacing what the key said before. A fact cannot be taken
    /// back, only emptied; a new generation starts without any.
    ///
    /// # Errors
    /// When it is out of bounds; nothing changed.
    pub async fn publish(&self, key: &str, value: &str) -> Result<(), FactError> {
        check_fact(key, value)?;
        let set = |chitchat: &mut Chitchat| {
            let state = chitchat.self_node_state();
            if !state.contains_key(key) && state.num_key_values() >= FACTS_MAX {
                return Err(FactError::TooMany);
            }
            state.set(key, value);
            Ok(())
        };
        self.chitchat.with_chitchat(set).await
    }

    /// Everyone else who is alive, or was and is not yet forgotten, by node id. As old as half a
    /// round; no event need be awaited for it.
    pub fn view(&self) -> Vec<PeerView> {
        self.shared.peers().view(Instant::now())
    }

    /// Calls on an address once, now: for a node that the cluster record has just named.
    pub fn contact(&self, address: SocketAddr) {
        // An error means that chitchat has stopped, which `stopped` tells.
        let _ = self.chitchat.gossip(address);
    }

    /// What passed over the link.
    pub fn counts(&self) -> LinkCounts {
        self.shared.counters.read()
    }

    /// Resolves when gossip is no more: `Ok` after an orderly shutdown, an error when it died. Watch
    /// it, for nothing else tells: a dead gossip looks like a quiet one. Of no meaning once the
    /// [`Gossip`] was dropped.
    pub fn stopped(&self) -> impl Future<Output = Result<(), GossipError>> + Send + use<> {
        let chitchat = self.chitchat.termination_watcher();
        let mut running = self.observer.running.clone();
        async move {
            let reason = tokio::select! {
                biased;
                end = chitchat => match end {
                    Ok(()) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                _ = running.changed() => "its observer has ended".to_owned(),
            };
            Err(GossipError::Stopped { reason })
        }
    }

    /// Says goodbye, gives it one round to be heard, and stops. Peers that hear it count this node as
    /// dead at once instead of after its silence. Takes two intervals at the most.
    ///
    /// # Errors
    /// When gossip had died before.
    pub async fn shutdown(self) -> Result<(), GossipError> {
        let Self { chitchat, shared, observer, interval } = self;
        chitchat
            .with_chitchat(|chitchat| chitchat.self_node_state().set(LEAVING_KEY, "true"))
            .await;
        let live = shared.peers().live_addresses(FAREWELLS_MAX);
        for address in live {
            let _ = chitchat.gossip(address);
        }
        tokio::time::sleep(interval).await;
        let stopped = |reason: String| GossipError::Stopped { reason };
        let end = tokio::time::timeout(interval, chitchat.shutdown()).await;
        drop(observer);
        end.map_err(|_| stopped("it did not end in time".to_owned()))?
            .map_err(|error| stopped(error.to_string()))
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the observer's task owns.
struct Observation {
    chitchat: Arc<tokio::sync::Mutex<Chitchat>>,
    shared: Arc<Shared>,
    refusals: mpsc::Receiver<(SocketAddr, Refusal)>,
    events: mpsc::Sender<GossipEvent>,
    _running: watch::Sender<()>,
}

impl Observation {
    async fn run(mut self, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            {
                let chitchat = self.chitchat.lock().await;
                observe(&chitchat, &self.shared, now);
            }
            while let Ok((address, refusal)) = self.refusals.try_recv() {
                tracing::debug!(%address, %refusal, "a gossip message was refused");
                self.shared.peers().on_refusal(now, address, refusal);
            }
            self.tell();
        }
    }

    fn tell(&self) {
        // This task alone sends, so that the room found is the room there is.
        for event in self.shared.peers().tell(self.events.capacity()) {
            if self.events.try_send(event).is_err() {
                // The caller does not listen any more, but may still ask for the view.
                return;
            }
        }
    }
}

/// Reads chitchat's state into the picture and the list of the known.
fn observe(chitchat: &Chitchat, shared: &Shared, now: Instant) {
    let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let states = chitchat.node_states().iter();
    let sightings: Vec<Sighting> = states
        .filter_map(|(id, state)| {
            Some(Sighting {
                incarnation: Incarnation::try_from(id).ok()?,
                alive: live.contains(id),
                heartbeat: state.heartbeat().into(),
                version: state.max_version(),
            })
        })
        .collect();
    shared.known().refresh(&sightings.iter().map(|sighting| sighting.incarnation).collect());
    shared.peers().observe(now, &sightings, |incarnation| {
        let state = chitchat.node_state(&ChitchatId::from(*incarnation));
        state.map_or_else(BTreeMap::new, |state| {
            state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        })
    });
}

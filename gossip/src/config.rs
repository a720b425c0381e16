//! What a node's gossip is told at its start, and the bounds on what it says.
//!
//! The bounds are not taste: chitchat asserts where a message does not fit, and one fact that is
//! too large for a message would hide every later fact of its node. So what one may say is small.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig};
use quoit_ring::{ClusterId, NodeId};

use crate::incarnation::Incarnation;

/// The longest key of a fact, in bytes.
pub const KEY_BYTES_MAX: usize = 64;
/// The longest value of a fact, in bytes.
pub const VALUE_BYTES_MAX: usize = 256;
/// The most facts that a node may publish of itself.
pub const FACTS_MAX: usize = 16;
/// The most seeds that may be given.
pub const SEEDS_MAX: usize = 1_000;
/// The fact, reserved to this crate, by which a node says goodbye.
pub const LEAVING_KEY: &str = "leaving";

/// The shortest and the longest time between two rounds.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Forgetting sooner than this many rounds would forget nodes that are merely slow.
const FORGET_ROUNDS_MIN: u32 = 20;
/// The heartbeats that the failure detector averages. It is small beside the weight of its prior
/// (five), so that the time to a verdict stays within known bounds: see [`GossipConfig::suspicion`].
const WINDOW: usize = 5;
/// A silence longer than this many rounds is an outage, not a sample of a peer's rhythm.
const SAMPLE_ROUNDS_MAX: u32 = 4;

/// What [`crate::Gossip::start`] needs to know. Build it with [`GossipConfig::new`] and change what
/// should differ.
#[derive(Debug, Clone, PartialEq)]
pub struct GossipConfig {
    /// The cluster. Nodes of another are refused.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The node's boot count. It should be greater at each start (one that is not, as after an older disk
    /// was put back, is believed late), and it must be another one: two starts with one count look like
    /// one node that contradicts itself, and peers keep the older's facts.
    pub generation: u64,
    /// Where peers reach this node's gossip; what the link calls it.
    pub address: SocketAddr,
    /// Whom to call on first. Best: every member that the cluster record names, for after a
    /// partition that outlasts [`GossipConfig::forget_after`] the seeds alone bring the sides
    /// together. Empty for the first node of a cluster. Its own address does no harm.
    pub seeds: Vec<SocketAddr>,
    /// The facts that the node says of itself from its first word on.
    pub facts: BTreeMap<String, String>,
    /// The time between rounds. A round speaks to three random live peers, at times to a seed and to
    /// a dead one. Default: 400 ms.
    pub interval: Duration,
    /// How suspect a peer may become before it counts as dead: its silence, in multiples of the
    /// smoothed mean of its heartbeats' intervals (phi). The mean lies between a half and two and a
    /// half rounds, by construction, so with the default of 7 a peer is given up after a silence of
    /// 3.5 rounds at the least (where its heartbeats are heard many times a round), 7 where they are
    /// heard once a round, and 17.5 at the most (where nearly everything is lost). Lower is sooner and
    /// oftener wrong: at 6 and 5 % of messages lost, a hundred nodes made two false reports in 200
    /// rounds, at 7 none.
    pub suspicion: f64,
    /// How long a dead node is remembered; for the first half of it, also spoken of. Every id that is
    /// remembered costs each message about 45 bytes, so it is short. Default: 60 s.
    pub forget_after: Duration,
    /// How many events may wait for the caller. What does not fit is not lost: it is told, newest
    /// state only, when there is room. Default: 1,024.
    pub events_max: usize,
}

/// A configuration that cannot work. Nothing was started; mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Peers could not call on this address, or would not recognise it when it comes back to us.
    #[error("{0} is not an address that peers can call on")]
    Address(SocketAddr),
    /// More than [`SEEDS_MAX`] seeds.
    #[error("{0} seeds are more than {SEEDS_MAX}")]
    Seeds(usize),
    /// The interval is out of its range.
    #[error("a gossip interval of {0:?} is not between {INTERVAL_MIN:?} and {INTERVAL_MAX:?}")]
    Interval(Duration),
    /// The suspicion is out of its range.
    #[error("a suspicion threshold must lie between 2 and 100")]
    Suspicion,
    /// The dead would be forgotten before they are known to be dead.
    #[error("forgetting the dead after {0:?} is sooner than {FORGET_ROUNDS_MIN} rounds")]
    Forget(Duration),
    /// No event could ever be told.
    #[error("there must be room for events")]
    Events,
    /// A fact of the start is out of bounds.
    #[error("a fact of the start cannot be published")]
    Fact(#[from] FactError),
}

/// A fact that cannot be published. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// Empty, longer than [`KEY_BYTES_MAX`], or reserved.
    #[error("{key:?} cannot be a fact's key: 1 to {KEY_BYTES_MAX} bytes, and not {LEAVING_KEY:?}")]
    Key {
        /// The key, cut to a readable length.
        key: String,
    },
    /// Longer than [`VALUE_BYTES_MAX`].
    #[error("a value of {size_bytes} bytes is longer than {VALUE_BYTES_MAX}")]
    Value {
        /// Its length in bytes.
        size_bytes: usize,
    },
    /// More than [`FACTS_MAX`] different keys.
    #[error("a node says at most {FACTS_MAX} facts of itself")]
    TooMany,
}

impl GossipConfig {
    /// The defaults, for `node` in its `generation`-th life at `address`.
    pub fn new(cluster: ClusterId, node: NodeId, generation: u64, address: SocketAddr) -> Self {
        Self {
            cluster,
            node,
            generation,
            address,
            seeds: Vec::new(),
            facts: BTreeMap::new(),
            interval: Duration::from_millis(400),
            suspicion: 7.0,
            forget_after: Duration::from_secs(60),
            events_max: 1_024,
        }
    }

    /// Says whether this can work.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(address) =
            std::iter::once(&self.address).chain(&self.seeds).find(|address| !callable(address))
        {
            return Err(ConfigError::Address(*address));
        }
        if self.seeds.len() > SEEDS_MAX {
            return Err(ConfigError::Seeds(self.seeds.len()));
        }
        if self.interval < INTERVAL_MIN || self.interval > INTERVAL_MAX {
            return Err(ConfigError::Interval(self.interval));
        }
        if !(2.0..=100.0).contains(&self.suspicion) {
            return Err(ConfigError::Suspicion);
        }
        if self.forget_after < self.interval * FORGET_ROUNDS_MIN {
            return Err(ConfigError::Forget(self.forget_after));
        }
        if self.events_max == 0 {
            return Err(ConfigError::Events);
        }
        for (key, value) in &self.facts {
            check_fact(key, value)?;
        }
        if self.facts.len() > FACTS_MAX {
            return Err(FactError::TooMany.into());
        }
        Ok(())
    }

    /// Who this node is, in this life.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation { node: self.node, generation: self.generation, address: self.address }
    }

    /// The same, in chitchat's words.
    pub(crate) fn chitchat(&self) -> ChitchatConfig {
        let seeds: BTreeSet<SocketAddr> =
            self.seeds.iter().copied().filter(|seed| *seed != self.address).collect();
        ChitchatConfig {
            chitchat_id: ChitchatId::from(self.incarnation()),
            cluster_id: self.cluster.to_string(),
            gossip_interval: self.interval,
            listen_addr: self.address,
            seed_nodes: seeds.iter().map(SocketAddr::to_string).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: self.suspicion,
                sampling_window_size: WINDOW,
                max_interval: self.interval * SAMPLE_ROUNDS_MAX,
                initial_interval: self.interval,
                dead_node_grace_period: self.forget_after,
            },
            // No fact is ever deleted, so nothing waits for this.
            marked_for_deletion_grace_period: self.forget_after,
            catchup_callback: None,
            extra_liveness_predicate: None,
        }
    }
}

/// Checks one fact against the bounds, but for how many there are.
pub(crate) fn check_fact(key: &str, value: &str) -> Result<(), FactError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key == LEAVING_KEY {
        return Err(FactError::Key { key: key.chars().take(KEY_BYTES_MAX).collect() });
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(FactError::Value { size_bytes: value.len() });
    }
    Ok(())
}

/// Whether peers can call on an address, and it survives chitchat's encoding (which keeps an IPv6
/// address's octets and port alone).
fn callable(address: &SocketAddr) -> bool {
    let plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(six) => six.scope_id() == 0 && six.flowinfo() == 0,
    };
    plain && address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> GossipConfig {
        GossipConfig::new(ClusterId(1), NodeId(1), 1, ([127, 0, 0, 1], 7_000).into())
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(sound().check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let check = |change: fn(&mut GossipConfig)| {
            let mut config = sound();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(matches!(check(|c| c.address.set_port(0)), ConfigError::Address(_)));
        assert!(matches!(
            check(|c| c.seeds.push(([0, 0, 0, 0], 1).into())),
            ConfigError::Address(_)
        ));
        assert!(matches!(
            check(|c| c.seeds = vec![c.address; SEEDS_MAX + 1]),
            ConfigError::Seeds(_)
        ));
        assert!(matches!(check(|c| c.interval = Duration::ZERO), ConfigError::Interval(_)));
        assert!(matches!(check(|c| c.suspicion = f64::NAN), ConfigError::Suspicion));
        assert!(matches!(
            check(|c| c.forget_after = Duration::from_secs(1)),
            ConfigError::Forget(_)
        ));
        assert!(matches!(check(|c| c.events_max = 0), ConfigError::Events));
        assert!(matches!(
            check(|c| drop(c.facts.insert(LEAVING_KEY.into(), String::new()))),
            ConfigError::Fact(FactError::Key { .. })
        ));
        assert!(matches!(
            check(|c| c.facts.extend((0..17).map(|n| (n.to_string(), String::new())))),
            ConfigError::Fact(FactError::TooMany)
        ));
    }
}

//! Who is there, since when, how suspect, and what each says of itself: membership and failure
//! detection by gossip, over chitchat, carried by a link of the caller's.
//!
//! **The invariant: gossip is an input, never an authority.** What it says is late, differs from node
//! to node, and is at times wrong; a peer that lies is believed. Nothing that must be safe may rest on
//! it: owners and members are decided by the cluster record, requests are fenced by configuration
//! numbers. A wrong picture costs time (a hint instead of a write, a longer wait), never data.
//!
//! # Why here, and how
//! - Every round a node exchanges digests (node, heartbeat, version of its facts) with three random
//!   peers, and each side sends what the other lacks: scuttlebutt reconciliation (van Renesse, Dumitriu,
//!   Gough, Thomas: *Efficient Reconciliation and Flow Control for Anti-Entropy Protocols*, 2008). That
//!   is the gossip of Dynamo's section 4.8, less the ring, which is no fact but a decision here.
//! - A node whose heartbeat is not heard of, from anyone, grows suspect by the length of the silence
//!   against what was usual: the phi accrual detector (Hayashibara and others, 2004), in chitchat's
//!   linear form. SWIM (Das, Gupta, Motivala, 2002) is the alternative; it probes instead, and needs
//!   fewer bytes in large clusters. From Lifeguard (2018) comes one thing: after a stall of its own a
//!   node doubts itself first, and declares nobody dead for four rounds.
//! - Messages go through a [`Link`]: bytes and addresses, two bounded queues. The node puts them inside
//!   mutually authenticated connections. Each is walked by a guard before chitchat decodes it, for
//!   chitchat bounds little and asserts much.
//! - The caller is told differences as [`GossipEvent`]s, of the greatest generation of each node id
//!   only, or of a lower one that lives when that has long been silent (an older disk was put back).
//!   What it has no room for is merged, not queued.
//!
//! # Figures
//! Rounds of 400 ms, delays of 1 to 20 ms; `cargo test -p quoit-gossip --test cluster -- --nocapture`
//! prints them and asserts the bounds. Measured is the worst of five runs.
//!
//! | | measured, rounds | asserted |
//! |---|---|---|
//! | three nodes meet, from one seed (worst of 40) | 3.2 | 6 |
//! | a kill among three is known to both (worst of 40) | 8.0 | 10 (4 s) |
//! | a goodbye among three | 0.4 | 1.5 |
//! | 100 nodes, 1 % lost: meet, from one seed | 7.2 | 20 |
//! | a new node is known to all, and knows all | 7.0 | 10 |
//! | a fact is known to all | 3.4 | 6 |
//! | a kill is known to all | 11.6 | 15 (6 s) |
//! | a partition of five nodes ends: 20 rounds; so long that both sides forgot | 3.0; 6.0 | 16 |
//!
//! With 10 % of messages lost, five nodes report no false death in 1,200 rounds. At 100 nodes each
//! sends 66 KB/s, which grows with the number of nodes: every message carries the whole digest.
//!
//! # What it cannot do today
//! **About 1,000 known ids are the end** ([`NODES_MAX`], or 48,000 bytes of digest, whichever is
//! first). This version of chitchat sends the digest whole in each message of 64 KiB, at about 45
//! bytes an id, and panics where too little room is left beside it. Each life of a node is an id of
//! its own, and the dead count until they are forgotten ([`GossipConfig::forget_after`], a minute), so
//! keep node ids stable. Ids beyond the bound are cut out of what peers say, counted and reported
//! ([`Refusal::TooManyNodes`]); the known stay served. Thousands of nodes need another digest, or SWIM.
//!
//! Facts are small and few, are never deleted, and a node's last word of a life stays with its peers
//! until it is forgotten. A peer of the cluster that lies can make others seem dead or alive and can
//! speak for third nodes; the guard keeps it from stopping us, not from lying.

mod config;
pub mod decoding;
mod event;
mod gossip;
mod guard;
mod incarnation;
mod known;
mod link;
mod peers;

pub use config::{
    ConfigError, FACTS_MAX, FactError, GossipConfig, KEY_BYTES_MAX, LEAVING_KEY, SEEDS_MAX,
    VALUE_BYTES_MAX,
};
pub use event::{GossipEvent, PeerView, Refusal};
pub use gossip::{Gossip, GossipError};
pub use guard::MESSAGE_BYTES_MAX;
pub use known::NODES_MAX;
pub use link::{Link, LinkCounts};

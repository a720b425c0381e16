//! The deterministic simulator: the node's own core, store and client session in virtual time,
//! under every fault that a cluster can meet, from one seed.
//!
//! Models: FoundationDB's simulation and TigerBeetle's VOPR, in that the code under test is the
//! product itself, and a seed that fails is a bug report that can be replayed for ever.
//!
//! ```text
//! cargo run --release -p quoit-simulations -- run --seed 42 [--trace FILE]
//! cargo run --release -p quoit-simulations -- run --seeds 1000 --jobs 2 [--from S]
//! cargo run --release -p quoit-simulations -- shrink --seed N
//! cargo run --release -p quoit-simulations -- experiment balance [--csv FILE] [--svg FILE]
//! ```
//!
//! What is where:
//! - [`plan`]: a run as a plain value, and the swarm that draws one from a seed;
//! - `world`: the virtual machines, network, clients and faults around one queue of events;
//! - [`workloads`]: what clients do; `ledger`: what was written, and what its writers were told;
//! - [`invariants`]: what must always hold, one file each, by the design's numbers;
//! - [`experiments`]: the ring at sizes that no machine could run;
//! - [`run`], [`report`], [`shrink`]: one run, what it came to, and how a failing one is made small.
//!
//! **Determinism.** Everything random comes from streams that hang on the seed and on whom they
//! serve. No clock, no thread, no map with a random order lies in anything that is simulated; the
//! tests play 200 seeds in two processes and compare.
//!
//! **Settled time.** The world begins shortly before a bucket of the digests ends, so that floors rise
//! and what was deleted is collected within a run of half a minute.
//!
//! **Loss.** Faults stay within what replication bears: damage that lasts strikes one machine of a run,
//! and only where W is at least 2; a disk is taken away, or replaced by an old copy of itself, only while
//! every other replica counts, whichever lost theirs before. An old copy is put back in runs
//! where it is older than what the others remember durably of a life (13 s). Runs that expect loss go
//! beyond that, and say so.
//!
//! **Kinds of runs.** Most seeds draw of everything a little. One residue by 16 each hunts zombies (9:
//! keys deleted and collected while old merges come again), takes disks away (7), forms its cluster slowly
//! (11), has sloppy tables, the replicas of which crash together (5), and reads at level one for sessions
//! that must see their own writes (13): `run --from 7 --step 16 --seeds 1000`.
//!
//! **Trust.** Bugs are planted on purpose ([`quoit_storage::planted`]), and `tests/planted.rs` shows
//! that each breaks an invariant within 2,000 seeds (of its kind, where it needs one). One bug is tried
//! by `run --plant NAME --seeds 2000`:
//!
//! | planted | invariant | seed |
//! |---|---|---|
//! | no fsync before the acknowledgement | 15 | 4 |
//! | a failed fsync is taken for a good one | 15 | 32 |
//! | acknowledged at W - 1 | 5 | 4 |
//! | a write does not claim what its context covers | 5 | 67 |
//! | one actor for ever, whatever was lost | 2 | 10 |
//! | a merge drops a sibling | 5 | 4 |
//! | only the new value is sent, not the set | 5 | 2 |
//! | a fallback counts as a primary | 5 | 6 |
//! | a damaged record reads as absent | 15 | 138 |
//! | `latest` takes an older dot for merged | 1 | 270 |
//! | no write-back before a quorum read returns | 6 | 88 |
//! | unknown is called certainly not done | 5 | 5 |
//! | a context is taken for any key | 3 | 0 |
//! | no bound of the operations under way | 17 | 130 |
//! | time is settled without promises and exchanges | 14 | 405 |
//! | a pair under the floor is taken in from anybody | 5 | 313 |
//! | a merge does not change the digests | 12 | 4 |
//! | a hint is dropped silently | 11 | 1 |
//! | time is settled over what fallbacks keep | 1 | 4853 |
//! | a read gives less than its session has seen | 5 | 269 |
//! | a wiped or restored replica counts at once | 5 | 663 |
//! | one that lost its disk is filled from a single peer | 18 | 375 |
//! | a voter accepts any ballot | 9 | 123 |
//! | a coordinator judges expiry by its own wall clock | 5 | 6 |
//!
//! **Buggify.** Rare branches are made common by bounds that the swarm draws tiny (queues, batches,
//! patience, leases, segments, memory: [`plan::Rarities`]); the core has no hook for it.
//!
//! **Speed**, on one of two shared and busy virtual processors:
//!
//! | `cargo run --release -p quoit-simulations -- run` | |
//! |---|---|
//! | `--profile calm --seed 3` (5 nodes, N=3, no faults) | 28,000 client operations a second of CPU |
//! | `--profile endurance --minutes 60 --seed 5` (50 operations a virtual second, faults) | 424 virtual hours an hour of CPU |
//! | `--profile endurance --minutes 60 --seed 6` | 393 virtual hours an hour of CPU |
//! | `experiment movement` (to 1,000 members and 65,536 virtual nodes) | 3 s |
//!
//! **What the virtual world does not cover:** the sorted tables' own files and compaction (a twin in
//! memory keeps their contract), QUIC and TLS (streams and their order are modelled), gossip (its
//! place is taken by rumours; the gossip crate has its own simulation), the kernel, threads of one
//! process that race with each other, and clients' own clocks.

pub mod experiments;
pub mod invariants;
pub mod plan;
pub mod report;
pub mod run;
pub mod shrink;
pub mod workloads;

mod ledger;
mod world;

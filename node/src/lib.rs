//! The drivers of a Quoit node: what a core decides ([`quoit_core`]) is done here, on tokio, quinn
//! and the disk; and what surrounds it: configuration, certificates, identity, HTTP, `quoit up`.
//!
//! # Speed and size
//!
//! Two virtual cores with three nodes (`quoit up`) and the client on them, other builds taking part
//! of the processor; 1 KiB values, N=3, W=2, R=2, durability `group`, 100,000 uniform keys. fsync
//! took 1 to 4 ms then. `quoit bench --workload put|get --in-flight 128|1 --seconds 5`:
//!
//! | | a second | p50 | p99 |
//! |---|---|---|---|
//! | put, 128 in flight | 15,100 | 7.1 ms | 35 ms |
//! | get, 128 in flight | 26,000 | 4.6 ms | 11 ms |
//! | put, 1 in flight | 1,000 | 0.89 ms | 2.6 ms |
//! | get, 1 in flight | 2,200 to 2,900 | 0.31 to 0.42 ms | 0.8 to 1.1 ms |
//! | get, 1 in flight, 5,000 keys | 3,050 | 0.28 ms | 1.9 ms |
//!
//! The same binary gave down to half of that an hour later, when the host was slower: compare only
//! within one run.
//!
//! A million items (`quoit bench --workload get --keys 1000000 --load`): 17,000 gets/s; a node holds
//! 292 MiB after load and reads, 22 MiB after a restart, 15 MiB when new; all three are ready 0.4 s
//! after `quoit up`.
//!
//! Where the time of a get goes (`perf record -e cpu-clock -g`, 128 in flight): a quarter in the
//! tables (block index, cache, skip list), a sixth in system calls for packets, a tenth in `malloc`,
//! the rest spread over QUIC, framing and the core, none of which passes 3 %. Reads of one key on the
//! loop's own thread instead of a reading thread's brought 1.6 times the gets when the processor was
//! contended, and nothing when it was not. Next: fewer packets for acknowledgements, and digests in
//! place of the second replica's value.

pub mod authority;
pub mod clock;
pub mod config;
mod event_loop;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod serve;
pub mod stop;
pub mod storage_worker;
pub mod transport;
pub mod up;

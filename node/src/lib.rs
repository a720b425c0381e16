//! The drivers of a Quoit node: what a core decides ([`quoit_core`]) is done here, on tokio, quinn
//! and the disk; and what surrounds it: configuration, certificates, identity, HTTP, `quoit up`.
//!
//! # Speed and size
//!
//! Two virtual cores with three nodes (`quoit up`) and the client on them; 1 KiB values, N=3, W=2,
//! R=2, durability `group`, 100,000 uniform keys. `quoit bench --workload put|get --in-flight 128|1
//! --seconds 8`, on a quiet machine (AMD EPYC, Linux 6.18), three runs each at 128 in flight:
//!
//! | | a second | p50 | p99 |
//! |---|---|---|---|
//! | put, 128 in flight | 29,100 to 32,400 | 2.8 to 3.2 ms | 17 to 22 ms |
//! | get, 128 in flight | 69,100 to 81,300 | 1.6 to 1.8 ms | 3.1 to 3.9 ms |
//! | put, 1 in flight | 2,230 | 0.42 ms | 0.85 ms |
//! | get, 1 in flight | 6,070 | 0.16 ms | 0.25 ms |
//!
//! The puts' p99 there is from before what is told of puts below, which makes it two thirds.
//!
//! In the same minutes, `--workload get --in-flight 128 --seconds 25` with one node stopped (SIGSTOP) from the
//! 7th second to the 17th: no request failed, 75,400 gets a second in all, and the p99 of no second was
//! above 4.5 ms (before the stop: 3.0 to 4.5 ms); the longest took 1.0 s, those that the stopped node
//! coordinated itself when it was stopped.
//!
//! Hosts differ more than builds: another, in a quiet hour, gave two thirds of that, and on a day when its
//! fsyncs took 1 to 4 ms a third. Compare only within one run.
//!
//! A million items (`quoit bench --workload get --keys 1000000 --load`): 17,000 gets/s; a node holds
//! 292 MiB after load and reads, 22 MiB after a restart, 15 MiB when new; all three are ready 0.4 s
//! after `quoit up`.
//!
//! A node that was away is filled by both others at once: 400,000 keys of 1 KiB, written while it was
//! down (`quoit bench --workload put --keys 400000 --operations 400000`), are there 4.9 s after the first
//! exchange began, which is 80 MiB/s, with the other two on the same two cores
//! (`repair_keys_in` and `repair_keys_out` in `quoit status --json`).
//!
//! What a node missed is brought to it at about 65,000 keys of 1 KiB a second while no clients are there,
//! and at 1 MiB a second by each keeper of its hints while they are (`[repair] busy_mib_per_second`). What
//! that costs them: `quoit bench --workload a --distribution uniform --warm-up 0 --in-flight 32
//! --seconds 6`, begun 1.5 s after a node came back that had missed 240,000 writes, gave a p99 of 9.7 to
//! 9.9 ms with `hint_mib = 256`, and of 6.6 to 7.8 ms with `hint_mib = 0` (exchanges off in both): 1.25 to
//! 1.5 times, and 0.83 of the operations. With
//! 4 MiB a second it was 16.5 ms, with 2 MiB 13.4 to 14.2 ms, whatever the size of the messages.
//!
//! A coordinator asks a third replica once a read has waited longer than 99 in 100 answers took of late
//! (`quoit_core`'s `patience`), at most 50 ms. That costs nothing that could be seen: 14,200 gets a second
//! against 14,700 without it, where single runs of either gave 12,200 to 17,400 (`--in-flight 16`, five
//! turns each, on a busy machine); one read in a hundred asks. With one node stopped for 4 s (SIGSTOP) in
//! an 8 s run no request failed, and the p99 was 2.0 to 2.5 ms as without it; the longest took 1.0 s: those
//! that the stopped node coordinated itself, and that the client asked elsewhere after a second. A client
//! that cannot wait so long says so (`RetryPolicy::hedge_after`). With the node stopped for 30 ms five
//! times a second the p99.9 was 34 ms with and without the third replica, for the same reason.
//!
//! Of the replicas, those that owe an answer for 40 ms, or seem dead, are asked last (`quoit_core`'s
//! `liveness`). What that brings, with a node stopped (SIGSTOP) for every other half second and `--workload get
//! --in-flight 64 --rate 6000`, against a build that asks whoever is connected in turn, two runs each: the
//! client's p50 was 1.1 ms instead of 81 to 93 ms, its p99 17 to 24 ms instead of 390 to 430 ms (of the gets that
//! the other two nodes coordinated 0.4 to 0.6 % took longer than 12.8 ms, instead of 7.9 to 8.9 %, by
//! `quoit_request_seconds`); the longest took 0.5 s either way, those that the stopped node coordinated.
//!
//! Of a value of more than 64 KiB one replica answers with the bytes and the others with its set, in which it
//! is named by its checksum. What that brings, by values on either side of the bound (`--workload get --keys 1000
//! --in-flight 32 --seconds 6 --value-bytes 61440|69632`, two turns each): 7,100 to 7,500 gets a second and 3.1 s
//! of the nodes' processor time a GB without, 7,900 gets a second and 2.0 s a GB with it.
//!
//! Puts, 128 in flight: what a key holds was read from the tables before each merge, which took six tenths of
//! the writing thread's time, and that thread half of the node's. With dots remembered in its place
//! (`[storage] head_cache_mib`), the two builds one after the other on a slow day: 13,300 to 13,900 puts a
//! second without, 17,000 with it; 155 and 122 microseconds of processor time a put, all three nodes together.
//! What a put waits for at the worst is the disk (`perf sched timehist` of the writing thread): while all three
//! nodes flush, the log's `fdatasync` waits for the disk's own flush, 50 to 200 ms on a slow one, where the p99 was
//! 48 to 118 ms; with `memtable_mib = 1024`, so that nothing was flushed, it was 22.7 ms in the same minutes. For
//! the tables, which held it up for up to 310 ms, it waits only when a memtable is closed (`quoit_storage_files`).
//!
//! So what is flushed and compacted is written a mebibyte at a time (`quoit_storage_files`, "What holds nobody
//! up"), by threads that are niced, and dropped log segments are written over (`quoit_storage`'s log). Each step
//! beside the build before it, in turn, on a host with half the speed of the table's:
//!
//! | step | runs of each | p99 before | p99 | p99.9 before | p99.9 |
//! |---|---|---|---|---|---|
//! | a mebibyte at a time, niceness 10 | 12 | 25.7 to 41.5 ms | 19.6 to 25.9 ms | 83 ms | 44 ms |
//! | and segments written over | 8 | 19.8 to 24.8 ms | 15.6 to 19.3 ms | 44 ms | 27 ms |
//! | all, as it is now, with niceness 5 | 8 | 25.1 to 33.6 ms | 16.9 to 20.0 ms | 54 ms | 54 ms |
//!
//! The puts a second were 15,700 to 16,700 each time, but for 18,500 with the second step. By niceness alone, six
//! runs each, the p99 was 18.8 ms with none, 16.4 ms with 5 and 15.1 ms with 10; but beside gets without end and
//! six processes that only burnt the processor ten left the flushes so far behind that 94,000 of 212,000 puts
//! ended as unknown, since some replica refused them. Now a mutation waits for the tables up to a second before it
//! is refused: no error there, with 5 or with 10. Shorter time slices for the event loop and the writer
//! (`sched_setattr`) brought nothing that could be seen.
//!
//! What is left is the processor, which is busy to the last: a third in the three writing threads (the memtable's
//! insert a fifth of that, mostly misses of the cache), a third in the event loops, a fifth in flushes and
//! compactions, a tenth in the client. Next: a memtable with fewer misses.
//!
//! Where the time of a get goes (`perf record -e cpu-clock -g`, 128 in flight): a quarter in the
//! tables (block index, cache, skip list), a sixth in system calls for packets, a tenth in `malloc`,
//! the rest spread over QUIC, framing and the core, none of which passes 3 %. Reads of one key on the
//! loop's own thread instead of a reading thread's brought 1.6 times the gets when the processor was
//! contended, and nothing when it was not. Next: fewer packets for acknowledgements, and digests in
//! place of the second replica's value.

pub mod audit;
pub mod authority;
pub mod bearer;
pub mod ca;
mod callers;
pub mod clock;
pub mod config;
pub mod decoding;
mod event_loop;
pub mod http;
pub mod identity;
pub mod log;
pub mod manual;
mod memory;
pub mod metrics;
mod reload;
pub mod restore;
pub mod serve;
mod service_manager;
mod snapshots;
pub mod stop;
pub mod storage_worker;
pub mod telemetry;
pub mod transport;
pub mod up;

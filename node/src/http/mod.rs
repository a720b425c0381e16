//! HTTP, on loopback unless told otherwise: whether the node lives and serves, its metrics, and, where
//! `http.data` says so, the cluster's data; and a page that shows the cluster to people (`page`).
//!
//! ```text
//! GET    /healthz  /readyz  /metrics
//! GET    /                                         a page that shows what the cluster does
//! GET    /v1/openapi.json                          what all of the following means, for programs
//! GET    /v1/tables
//! GET    /v1/tables/{table}                        PUT makes one
//! GET    /v1/tables/{table}/keys/{key}             PUT and DELETE write it
//! GET    /v1/tables/{table}/keys/{key}/items       the key's items, by sort key, as JSON lines
//! POST   /v1/tables/{table}/batch                  many gets, puts and deletes, as JSON lines
//! ```
//!
//! A request goes from `server` (connections and TLS) to `front` (path, leave by `access` and `asker`, room), to `keys`,
//! `items`, `batch` or `tables`, and through `gateway` to the cluster as any client's. What is held in
//! memory, and for how long, is bounded before it is taken in: connections (`connections`), requests
//! (`gateway`), bodies (`body`), lines of a batch.
//!
//! # Speed
//!
//! Gets of 1 KiB, three nodes and whoever asks on two virtual cores, a development build, other programs
//! at work: 13,700 a second through one node with 128 connections (p50 8.8 ms, p99 20 ms), where `quoit
//! bench --workload get --in-flight 128` had 16,800 before and 18,400 after it (6.4 ms, 18 ms): 0.75 to
//! 0.8 of the library's. With one connection 1,850 (0.42 ms) to the library's 4,100 (0.23 ms): each
//! request goes through two sockets more. The command, after `bench` has filled its table, was
//! `wrk -t1 -c128 -d6 --latency -s random.lua http://127.0.0.1:7201` with
//!
//! ```lua
//! request = function()
//!   return wrk.format("GET", string.format("/v1/tables/bench/keys/key%012d", math.random(0, 99999)))
//! end
//! ```

mod accept;
mod access;
mod asker;
mod batch;
mod body;
mod connections;
pub(crate) mod decoding;
mod failure;
mod fetch;
mod form;
mod front;
mod gateway;
mod health;
mod items;
mod keys;
mod lines;
mod page;
mod problem;
mod query;
mod response;
mod route;
mod server;
mod tables;
mod tag;
mod tls;
mod traceparent;

pub use access::{Access, TokenError};
pub use fetch::{Fetched, fetch};
pub use health::{HEARTBEAT_AGE_MAX, NodeHealth};
pub use server::{DoorError, Doors, GatewayIdentity, HttpError, HttpServer, HttpThread};
pub use tls::HttpsError;

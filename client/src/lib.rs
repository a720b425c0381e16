//! The client library of Quoit, a leaderless replicated key-value store.
//!
//! # A first program
//!
//! Start a cluster on this machine: `cargo run --release -- up` in the repository, and once, beside it,
//! `quoit tables create carts --policy siblings`. Then, in a program of your own:
//!
//! ```toml
//! [dependencies]
//! quoit-client = { path = "../quoit/client" }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```
//! use quoit_client::{ClientBuilder, Context};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   let _cluster = quoit_sandbox::Cluster::start();
//!     // `quoit up` wrote it: client.toml, the cluster's authority, this client's certificate.
//!     let client = ClientBuilder::from_directory("../quoit/quoit-data/client")?.connect().await?;
//!     let carts = client.table("carts").await?;
//!
//!     carts.put("alice", "3 apples", &Context::none()).await?;
//!     let reading = carts.get("alice").await?;
//!     for value in &reading.siblings {
//!         println!("{}", String::from_utf8_lossy(&value.bytes));
//!     }
//!     // The context says what was read: this write replaces exactly that, and nothing else.
//!     carts.put("alice", "2 apples", &reading.context).await?;
//!     client.close().await;
//!     Ok(())
//! }
//! ```
//!
//! Run it twice, and there are two carts of three apples: each `put` without a context stands beside what
//! it did not see, until somebody reads both and writes what is to become of them. That is what
//! [`Table::update`] is for. A program without `async` uses [`blocking`]; `client/examples/carts.rs` is a
//! longer one.
//!
//! # What there is
//!
//! | to | there is |
//! |---|---|
//! | connect | [`ClientBuilder`], [`Client`]: QUIC with mutual TLS 1.3; each request goes straight to a primary of its key, the nearest ([`ClientBuilder::zone`]) with the least to do |
//! | read and write | [`Table::get`], [`put`](Table::put), [`delete`](Table::delete), [`replace`](Table::replace); many keys at once: [`Table::get_many`], [`put_many`](Table::put_many) |
//! | read in order | [`Table::scan`] over the sort keys of one partition key, [`Table::export`] over all |
//! | change what is there | [`Table::update`], with all siblings at hand; [`Table::put_if_absent`] and [`put_if_context`](Table::put_if_context), and what they can promise |
//! | keep types | [`TypedTable`] with MessagePack or JSON; a [`Resolver`] makes one value of siblings: [`LastWriter`], [`Max`], [`Union`], or a closure |
//! | say how | [`Profile`]: [`Level`]s, time, [`RetryPolicy`], time to live, for a client, a table, a call |
//! | see one's own writes at `Level::One` | [`Session`] |
//! | see what went on | [`Service`] with each answer, the [`Trail`] in each error, [`Client::metrics`], `tracing` events of the target `quoit_client` |
//!
//! # What an error means
//!
//! Each operation has its own error, whose variants say what happened to the data and what to do. Reads
//! change nothing, and are tried again on other nodes until their deadline. A write is tried again only
//! while it is certainly not done, or when it is marked idempotent; one whose outcome is not known ends as
//! [`WriteError::Unknown`], never as a failure ([`WriteError::is_unknown`]): it may be done now, later or
//! never, and whoever needs to know reads the key.
//!
//! All decisions are made by `quoit-session`, which does no I/O; this library drives it.

pub mod blocking;
mod builder;
mod client;
mod conditional;
mod connection;
mod context;
mod driver;
mod error;
mod key;
pub mod large;
mod many;
mod metrics;
mod pages;
mod profile;
mod resolve;
mod service;
mod session;
mod table;
mod tls;
mod typed;
mod update;
mod vocabulary;

pub use builder::{ClientBuilder, ConnectError, Identity};
pub use client::Client;
pub use conditional::ConditionError;
pub use context::{Context, ParseContextError};
pub use error::{ReadError, StatusError, TableChangeError, TableError, WriteError, with_sources};
pub use key::{IntoKey, KeyPart};
pub use metrics::{Kind, Metrics, Series};
pub use pages::{Item, Pages, ScanRange};
pub use profile::{Profile, RetryPolicy};
pub use resolve::{LastWriter, Max, Resolver, Union};
pub use service::{Service, new_trace_id};
pub use session::Session;
pub use table::{Dot, Reading, Table, Value, Written};
pub use typed::{Format, Sibling, TypedError, TypedReading, TypedTable};
pub use update::{Change, UpdateError, Updated};

pub use vocabulary::{
    Activity, AskRepair, ClusterId, ClusterRecord, ConflictPolicy, FailureCode, HybridTime, Key,
    Level, LevelError, Limits, NodeId, NodeSnapshots, NodeStatus, OperationError, SnapshotAction,
    Stage, StageKind, TableOptions, TableOptionsError, TraceId, TraceIdError, Trail, TrailEntry,
    VnodeIndex,
};

//! The client library of Quoit, a leaderless replicated key-value store.
//!
//! ```no_run
//! use quoit_client::{ClientBuilder, Context};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // The directory holds client.toml, the cluster's authority and this client's certificate.
//! let client = ClientBuilder::from_directory("/etc/quoit/client")?.connect().await?;
//! let carts = client.table("carts").await?;
//!
//! carts.put("alice", "3 apples", &Context::none()).await?;
//! let reading = carts.get("alice").await?;
//! for value in &reading.siblings {
//!     println!("{}", String::from_utf8_lossy(&value.bytes));
//! }
//! // The context says what was read; a write replaces exactly that.
//! carts.put("alice", "2 apples", &reading.context).await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] holds the connections (QUIC, mutual TLS 1.3) and routes each request to a primary
//!   of its key. It is cheap to clone; clones share everything.
//! - [`Table`] reads and writes, with the table's levels or others ([`Level`]).
//! - [`Table::get_many`] and [`Table::put_many`] do many keys at once; [`Table::update`] reads, changes
//!   and writes until no other writer's value stands beside the own one.
//! - [`TypedTable`] has values of a type that serde knows, and a [`Resolver`] makes one of siblings.
//! - Reads are tried again on other nodes until their deadline. A write is tried again only while
//!   it is certainly not done, or when it is marked idempotent; a write whose outcome is not known
//!   ends as [`WriteError::Unknown`], never as a failure.
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

pub use builder::{ClientBuilder, ConnectError, Identity};
pub use client::Client;
pub use conditional::ConditionError;
pub use context::{Context, ParseContextError};
pub use error::{ReadError, StatusError, TableChangeError, TableError, WriteError};
pub use key::{IntoKey, KeyPart};
pub use metrics::{Kind, Metrics, Series};
pub use pages::{Item, Pages, ScanRange};
pub use profile::{Profile, RetryPolicy};
pub use resolve::{LastWriter, Max, Resolver, Union};
pub use service::Service;
pub use session::Session;
pub use table::{Reading, Table, Value, Written};
pub use typed::{Format, Sibling, TypedError, TypedReading, TypedTable};
pub use update::{Change, UpdateError, Updated};

pub use quoit_protocol::{FailureCode, Key, Limits, status::NodeStatus};
pub use quoit_ring::{
    ClusterId, ClusterRecord, ConflictPolicy, HybridTime, Level, NodeId, TableOptions,
};
pub use quoit_session::{Trail, TrailEntry};

//! What several commands are told in the same way.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use quoit_client::{Client, ClientBuilder, Key, Level, Table};

use crate::failure::CommandError;

/// How the cluster is reached and how results are written; the same for all commands.
#[derive(Debug, Clone, Args)]
pub struct ConnectionOptions {
    /// The directory that holds client.toml.
    #[arg(
        long = "client",
        value_name = "DIR",
        env = "QUOIT_CLIENT",
        default_value = "quoit-data/client",
        global = true
    )]
    pub client_directory: PathBuf,
    /// Write results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long a request may take, in milliseconds (5000; an import gives each row 30000).
    #[arg(
        long,
        value_name = "MS",
        global = true,
        value_parser = clap::value_parser!(u64).range(1..=86_400_000)
    )]
    pub timeout_ms: Option<u64>,
}

impl ConnectionOptions {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was done.
    pub async fn connect(&self) -> Result<Client, CommandError> {
        let mut builder = ClientBuilder::from_directory(&self.client_directory)?
            .name(format!("quoit {}", env!("CARGO_PKG_VERSION")));
        if let Some(timeout) = self.timeout() {
            builder = builder.request_timeout(timeout);
        }
        Ok(builder.connect().await?)
    }

    /// The timeout that was asked for.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// Names an item.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// The table.
    pub(crate) table: String,
    /// The key: any bytes.
    pub(crate) key: OsString,
    /// The sort key, which orders items of one key.
    #[arg(long, value_name = "SORTKEY")]
    sort: Option<OsString>,
}

impl KeyArguments {
    pub(crate) fn to_key(&self) -> Key {
        let sort = self.sort.clone().unwrap_or_default();
        Key { partition: to_bytes(self.key.clone()), sort: to_bytes(sort) }
    }
}

/// An argument's bytes, as the shell gave them.
pub(crate) fn to_bytes(text: OsString) -> Bytes {
    Bytes::from(text.into_encoded_bytes())
}

/// How many replicas must answer a read.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ReadLevelArguments {
    /// How many replicas must answer: one, two, three, quorum, all, local-one, local-quorum,
    /// each-quorum, or a number [default: the table's].
    #[arg(long = "r", visible_alias = "level", value_name = "LEVEL")]
    read: Option<Level>,
}

impl ReadLevelArguments {
    pub(crate) fn apply(self, table: Table) -> Table {
        match self.read {
            Some(level) => table.with_read_level(level),
            None => table,
        }
    }
}

/// How many replicas must answer a read and acknowledge a write.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LevelArguments {
    /// How many replicas must acknowledge a write: one, two, three, quorum, all, local-one,
    /// local-quorum, each-quorum, or a number [default: the table's].
    #[arg(long = "w", value_name = "LEVEL")]
    pub(crate) write: Option<Level>,
    /// How many replicas must answer a read.
    #[arg(long = "r", value_name = "LEVEL")]
    pub(crate) read: Option<Level>,
    /// Sets both --w and --r.
    #[arg(long, value_name = "LEVEL", conflicts_with_all = ["write", "read"])]
    level: Option<Level>,
}

impl LevelArguments {
    pub(crate) fn apply(self, mut table: Table) -> Table {
        if let Some(level) = self.write.or(self.level) {
            table = table.with_write_level(level);
        }
        if let Some(level) = self.read.or(self.level) {
            table = table.with_read_level(level);
        }
        table
    }

    /// What was asked for, for reports: `--w`, `--r`.
    pub(crate) fn asked(self) -> (Option<Level>, Option<Level>) {
        (self.write.or(self.level), self.read.or(self.level))
    }
}

//! One way to read and write every store.
//!
//! Each has the client that its users have: Quoit's library, etcd's over gRPC, Garage's over HTTP with a
//! client for each node, Redis's with one connection that is pipelined. After `WAIT` a connection answers
//! nothing else, so that setup has a connection for each operation in flight.

use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::KvClient;
use quoit_client::{Client, ClientBuilder, Context, Level, Table, TableOptions};
use redis::aio::MultiplexedConnection;

use crate::Setup;
use crate::garage::Garage;
use crate::servers::Servers;

/// A store may take so long until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked whether it does.
const READY_INTERVAL: Duration = Duration::from_millis(200);
/// `WAIT` gives up after so long.
const WAIT_MS: u64 = 5_000;
/// At most so many operations are in flight.
const CONNECTIONS_MAX: usize = 1_024;

/// A store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It never served.
    #[error("it did not serve within a minute: {0}")]
    NotReady(String),
    /// An operation failed.
    #[error("{0}")]
    Failed(String),
    /// A key that was loaded is not there.
    #[error("the key {0} is not there")]
    Absent(String),
}

impl StoreError {
    pub(crate) fn of(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A store's client; clones share connections.
#[derive(Clone)]
pub(crate) enum Store {
    /// Quoit's table, and the client to close.
    Quoit(Table, Client),
    /// etcd.
    Etcd(Box<KvClient>),
    /// Garage's K2V.
    Garage(Rc<Garage>),
    /// Redis, one connection.
    Redis(MultiplexedConnection),
    /// Redis, a connection for each slot.
    RedisWait(Vec<MultiplexedConnection>),
}

impl Store {
    /// Waits until the store serves.
    pub(crate) async fn connect(setup: Setup, servers: &Servers) -> Result<Self, StoreError> {
        let began = Instant::now();
        loop {
            let error = match Self::try_connect(setup, servers).await {
                Ok(mut store) => match store.put(0, "ready", b"yes".to_vec()).await {
                    Ok(()) => return Ok(store),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if began.elapsed() > READY_TIMEOUT {
                return Err(StoreError::NotReady(error.to_string()));
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    async fn try_connect(setup: Setup, servers: &Servers) -> Result<Self, StoreError> {
        match setup {
            Setup::Quoit => Self::quoit(servers, 3, None).await,
            Setup::QuoitOne => Self::quoit(servers, 3, Some(Level::One)).await,
            Setup::QuoitAlone => Self::quoit(servers, 1, None).await,
            Setup::Etcd => {
                let client = etcd_client::Client::connect(&servers.addresses, None)
                    .await
                    .map_err(StoreError::of)?;
                Ok(Self::Etcd(Box::new(client.kv_client())))
            }
            Setup::Garage | Setup::GarageNoFsync => {
                Ok(Self::Garage(Rc::new(Garage::connect(servers).await?)))
            }
            Setup::RedisAlways | Setup::RedisEverysec => {
                let client = redis::Client::open(servers.addresses[0].as_str());
                let client = client.map_err(StoreError::of)?;
                let connection = client.get_multiplexed_async_connection().await;
                Ok(Self::Redis(connection.map_err(StoreError::of)?))
            }
            Setup::RedisWait => {
                let client = redis::Client::open(servers.addresses[0].as_str());
                let client = client.map_err(StoreError::of)?;
                let mut connections = Vec::new();
                for _ in 0..servers.connections.min(CONNECTIONS_MAX) {
                    let connection = client.get_multiplexed_async_connection().await;
                    connections.push(connection.map_err(StoreError::of)?);
                }
                Ok(Self::RedisWait(connections))
            }
        }
    }

    async fn quoit(
        servers: &Servers,
        replication: u8,
        level: Option<Level>,
    ) -> Result<Self, StoreError> {
        let directory = servers.directory.path().join("quoit/client");
        let builder = ClientBuilder::from_directory(directory).map_err(StoreError::of)?;
        let client = builder.connect().await.map_err(StoreError::of)?;
        let options = TableOptions { replication, ..TableOptions::default() };
        client.create_table("compare", options).await.map_err(StoreError::of)?;
        let mut table = client.table("compare").await.map_err(StoreError::of)?;
        if let Some(level) = level {
            table = table.with_read_level(level).with_write_level(level);
        }
        Ok(Self::Quoit(table, client))
    }

    /// Writes a key.
    pub(crate) async fn put(
        &mut self,
        slot: usize,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Quoit(table, _) => {
                table.put(key, value, &Context::none()).await.map_err(StoreError::of)?;
            }
            Self::Etcd(client) => {
                client.put(key, value, None).await.map_err(StoreError::of)?;
            }
            Self::Garage(garage) => garage.put(slot, key, value).await?,
            Self::Redis(connection) => {
                let mut command = redis::cmd("SET");
                command.arg(key).arg(value);
                command.query_async::<()>(connection).await.map_err(StoreError::of)?;
            }
            Self::RedisWait(connections) => {
                let count = connections.len();
                let mut both = redis::pipe();
                both.cmd("SET").arg(key).arg(value).ignore().cmd("WAIT").arg(1).arg(WAIT_MS);
                let (replicas,): (u64,) = both
                    .query_async(&mut connections[slot % count])
                    .await
                    .map_err(StoreError::of)?;
                if replicas == 0 {
                    return Err(StoreError::Failed("no replica has it".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Reads a key that is there.
    pub(crate) async fn get(&mut self, slot: usize, key: &str) -> Result<(), StoreError> {
        let is_there = match self {
            Self::Quoit(table, _) => {
                let reading = table.get(key).await.map_err(StoreError::of)?;
                reading.single().is_some()
            }
            Self::Etcd(client) => {
                let answer = client.get(key, None).await.map_err(StoreError::of)?;
                answer.kvs().len() == 1
            }
            Self::Garage(garage) => garage.get(slot, key).await?,
            Self::Redis(connection) => redis_get(connection, key).await?,
            Self::RedisWait(connections) => {
                let count = connections.len();
                redis_get(&mut connections[slot % count], key).await?
            }
        };
        if is_there { Ok(()) } else { Err(StoreError::Absent(key.to_owned())) }
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        match self {
            Self::Quoit(_, client) => client.close().await,
            Self::Garage(garage) => garage.close().await,
            Self::Etcd(_) | Self::Redis(_) | Self::RedisWait(_) => {}
        }
    }
}

async fn redis_get(connection: &mut MultiplexedConnection, key: &str) -> Result<bool, StoreError> {
    let mut command = redis::cmd("GET");
    command.arg(key);
    let value: Option<Vec<u8>> = command.query_async(connection).await.map_err(StoreError::of)?;
    Ok(value.is_some())
}

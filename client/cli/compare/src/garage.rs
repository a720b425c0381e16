//! Garage's K2V: what a node is started with, and its client.
//!
//! K2V keeps each value that was written until a write hands in the causality token of a read that saw
//! it, and the answer to a write brings no token. A put that handed in none would grow the key, which no
//! other store's does. So a put hands in the token of the last read of its key and uses it up; where there
//! is none it reads first, and that belongs to the put. It leaves one value, unless two puts of a key
//! overlap.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use k2v_client::{CausalityToken, Error, K2vClient, K2vClientConfig, K2vValue};

use crate::servers::Servers;
use crate::store::StoreError;

/// How the program is come by.
pub(crate) const ADVICE: &str = "install it with `cargo install garage --locked \
                                 --no-default-features --features bundled-libs,lmdb,k2v`";
/// The bucket that has all keys.
pub(crate) const BUCKET: &str = "compare";
/// The access key, brought along: the cluster listens on loopback and ends with this program.
pub(crate) const KEY_ID: &str = "GK000000000000000000000001";
/// The access key's secret, and the one that the nodes share.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Requests are signed for it.
const REGION: &str = "garage";
/// So long connections have to close.
const CLOSE_PAUSE: Duration = Duration::from_millis(200);

/// A node's configuration: a quorum is 2 of 3, for reads and for writes.
pub(crate) fn configuration(directory: &Path, fsync: bool, rpc_port: u16, k2v_port: u16) -> String {
    format!(
        "metadata_dir = {metadata:?}\n\
         data_dir = {data:?}\n\
         db_engine = \"lmdb\"\n\
         metadata_fsync = {fsync}\n\
         replication_factor = 3\n\
         consistency_mode = \"consistent\"\n\
         rpc_bind_addr = \"127.0.0.1:{rpc_port}\"\n\
         rpc_public_addr = \"127.0.0.1:{rpc_port}\"\n\
         rpc_secret = \"{SECRET}\"\n\
         [s3_api]\n\
         s3_region = \"{REGION}\"\n\
         [k2v_api]\n\
         api_bind_addr = \"127.0.0.1:{k2v_port}\"\n",
        metadata = directory.join("metadata"),
        data = directory.join("data"),
    )
}

/// A client for each node, and the tokens. A key has a partition of its own, as Quoit's keys have: with
/// one partition for all, each write would change the one counter that Garage keeps of a partition.
pub(crate) struct Garage {
    nodes: Vec<K2vClient>,
    /// Of the last read of each key, whichever slot read it, until a put uses it up.
    tokens: RefCell<HashMap<String, CausalityToken>>,
}

impl Garage {
    /// Gives it if every node serves.
    pub(crate) async fn connect(servers: &Servers) -> Result<Self, StoreError> {
        let client = |endpoint: &String| {
            K2vClient::new(K2vClientConfig {
                endpoint: endpoint.clone(),
                region: REGION.to_owned(),
                aws_access_key_id: KEY_ID.to_owned(),
                aws_secret_access_key: SECRET.to_owned(),
                bucket: BUCKET.to_owned(),
                user_agent: None,
            })
        };
        let nodes = servers.addresses.iter().map(client).collect::<Result<_, _>>();
        let garage = Self { nodes: nodes.map_err(StoreError::of)?, tokens: RefCell::default() };
        for slot in 0..garage.nodes.len() {
            garage.get(slot, "ready").await?;
        }
        Ok(garage)
    }

    /// Writes over what the last read of the key saw.
    pub(crate) async fn put(
        &self,
        slot: usize,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let is_seen = self.tokens.borrow().contains_key(key);
        if !is_seen {
            self.get(slot, key).await?;
        }
        let token = self.tokens.borrow_mut().remove(key);
        let written = self.node(slot).insert_item(key, key, value, token).await;
        written.map_err(StoreError::of)
    }

    /// Whether the key has a value. What was seen may be written over.
    pub(crate) async fn get(&self, slot: usize, key: &str) -> Result<bool, StoreError> {
        match self.node(slot).read_item(key, key).await {
            Ok(read) => {
                self.tokens.borrow_mut().insert(key.to_owned(), read.causality);
                Ok(read.value.iter().any(|value| matches!(value, K2vValue::Value(_))))
            }
            Err(Error::NotFound) => Ok(false),
            Err(error) => Err(StoreError::of(error)),
        }
    }

    /// Closes the connections. A node that is told to stop would wait for them.
    pub(crate) async fn close(self: Rc<Self>) {
        drop(self);
        // Each is closed by its task, which the runtime has to come to.
        tokio::time::sleep(CLOSE_PAUSE).await;
    }

    fn node(&self, slot: usize) -> &K2vClient {
        &self.nodes[slot % self.nodes.len()]
    }
}

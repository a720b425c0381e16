//! A cluster in the process, for the examples in the documentation of the client library: each of them
//! runs, as a test, against a node that speaks QUIC, keeps its data on a disk, and is gone afterwards.
//!
//! The examples may use a table `carts`, which keeps siblings. Their working directory lies beside a
//! repository in which `quoit up` was called, so that they may tell the path of the client's directory as a
//! reader would: `../quoit/quoit-data/client`.
//!
//! It is a package of its own because the library cannot know the node; only its tests may.

mod ports;

use std::env;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use quoit_client::large::LargeValues;
use quoit_client::{
    Client, ClientBuilder, ConflictPolicy, ConnectError, Table, TableOptions, blocking,
};
use quoit_node::http::fetch;
use quoit_node::serve::{self, ServeError, ServeOptions};
use quoit_node::up::{PreparedNode, UpOptions, prepare};
use quoit_ring::VnodeCount;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::interval;

use ports::Ports;

/// How an example ends; any error of it fails the test.
pub type Outcome = Result<(), Box<dyn Error>>;

/// The table that is there.
const TABLE: &str = "carts";
/// Where `quoit up` put what a client needs, as a program sees it.
const CLIENT_DIRECTORY: &str = "../quoit/quoit-data/client";
/// One node has all of them, however many there are; few are made soon.
const VNODES: u32 = 16;
/// How often the directory is removed at most.
const REMOVALS_MAX: u32 = 10;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs an example that connects by itself, beside a cluster.
///
/// # Panics
/// Where the cluster does not start, or the example fails.
pub fn with_cluster(example: impl AsyncFnOnce() -> Outcome) {
    let _cluster = Cluster::start();
    runtime().block_on(example()).expect("the example comes to its end");
}

/// Runs an example with a client of a new cluster.
///
/// # Panics
/// Where the cluster does not start, or the example fails.
pub fn with_client(example: impl AsyncFnOnce(Client) -> Outcome) {
    with_cluster(async || example(connect().await?).await);
}

/// Runs an example with a table of a new cluster, which keeps siblings and is empty.
///
/// # Panics
/// Where the cluster does not start, or the example fails.
pub fn with_table(example: impl AsyncFnOnce(Table) -> Outcome) {
    with_client(async |client| example(client.table(TABLE).await?).await);
}

/// Runs an example with a blocking client of a new cluster.
///
/// # Panics
/// Where the cluster does not start, or the example fails.
pub fn with_blocking(example: impl FnOnce(blocking::Client) -> Outcome) {
    let _cluster = Cluster::start();
    let client = ClientBuilder::from_directory(CLIENT_DIRECTORY).expect("the directory is whole");
    let client = blocking::connect(client).expect("the node serves");
    example(client).expect("the example comes to its end");
}

/// Runs an example with the large values of a new cluster, of which there are none.
///
/// # Panics
/// Where the cluster does not start, or the example fails.
pub fn with_large_values(example: impl AsyncFnOnce(LargeValues) -> Outcome) {
    with_client(async |client| {
        client.create_table("parts", options(ConflictPolicy::Latest)).await?;
        let (values, parts) = (client.table(TABLE).await?, client.table("parts").await?);
        example(LargeValues::new(values, parts)?).await
    });
}

/// A cluster of one node, on a thread of this process. Its files go when this is dropped; it ends with the
/// process, as in a crash: nobody waits until it has taken leave of all.
///
/// There is one at a time in a process: it changes the working directory.
#[derive(Debug)]
pub struct Cluster {
    directory_before: PathBuf,
    directory: TempDir,
    _ports: Ports,
}

impl Cluster {
    /// Starts it, and returns when it serves and has its table. May be called inside a runtime.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start() -> Self {
        thread::scope(|scope| scope.spawn(Self::try_start).join())
            .expect("nothing panics")
            .expect("the cluster starts")
    }

    fn try_start() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (ports, directory) = (Ports::claim(), tempfile::tempdir()?);
        let directory_before = env::current_dir()?;
        let program = directory.path().join("program");
        fs::create_dir(&program)?;
        env::set_current_dir(&program)?;
        let prepared = prepare(&UpOptions {
            directory: directory.path().join("quoit/quoit-data"),
            nodes: Some(1),
            replication: Some(1),
            base_port: Some(ports.base()),
            vnodes: Some(VnodeCount::new(VNODES)?),
        })?;
        let node = prepared.nodes.into_iter().next().expect("there is one");
        // From here on the directory is removed whatever happens.
        let cluster = Self { directory_before, directory, _ports: ports };
        let address = node.config.http.listen;
        let (told, ended) = oneshot::channel();
        thread::Builder::new().name("node".to_owned()).spawn(move || told.send(serve(node)))?;
        runtime().block_on(async {
            tokio::select! {
                made = make_table(address) => made,
                ended = ended => Err(match ended.expect("the node does not panic") {
                    Ok(()) => "the node was told to stop".into(),
                    Err(error) => error.into(),
                }),
            }
        })?;
        Ok(cluster)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = env::set_current_dir(&self.directory_before);
        // The node may make a file meanwhile; in a directory that is gone it cannot.
        let mut removals = (0..REMOVALS_MAX).map(|_| fs::remove_dir_all(self.directory.path()));
        let _ = removals.any(|removed| removed.is_ok());
    }
}

fn serve(node: PreparedNode) -> Result<(), ServeError> {
    let options =
        ServeOptions { config_path: node.config_path, log_level: None, stop_on_stdin_close: false };
    serve::run(node.config, options)
}

/// Makes the table once the node serves. What is sent to a port before anybody listens there is lost, and
/// QUIC sends it again after a second.
async fn make_table(address: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut polls = interval(POLL_INTERVAL);
    while !fetch(address, "/readyz", POLL_TIMEOUT).await.is_ok_and(|answer| answer.status == 200) {
        polls.tick().await;
    }
    let client = connect().await?;
    client.create_table(TABLE, options(ConflictPolicy::Siblings)).await?;
    client.close().await;
    Ok(())
}

fn options(policy: ConflictPolicy) -> TableOptions {
    TableOptions { replication: 1, policy, ..TableOptions::default() }
}

async fn connect() -> Result<Client, ConnectError> {
    ClientBuilder::from_directory(CLIENT_DIRECTORY)?.connect().await
}

/// Of one thread: what an example does not await does not go on meanwhile.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the system gives what it needs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoit_client::Context;

    #[test]
    fn a_cluster_is_gone_after_its_example() {
        let before = env::current_dir().unwrap();
        let mut directory = PathBuf::new();
        with_table(async |carts| {
            directory = env::current_dir()?.join(CLIENT_DIRECTORY);
            assert!(directory.exists());
            carts.put("alice", "3 apples", &Context::none()).await?;
            assert_eq!(carts.get("alice").await?.siblings.len(), 1);
            Ok(())
        });
        assert!(!directory.exists());
        assert_eq!(env::current_dir().unwrap(), before);
    }
}

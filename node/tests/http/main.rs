//! The data over HTTP, asked for as its users would, from a cluster of real nodes.
//!
//! Everything stays on loopback and in a temporary directory; processes that are ended are those that
//! the test started, by their ids.

#[path = "../ports/mod.rs"]
mod ports;

mod asking;
mod batches;
mod browser;
mod doors;
mod keys;
mod page;
mod readme;
mod spans;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quoit_node::up::{Cluster, READY_TIMEOUT, UpOptions, prepare};
use tempfile::TempDir;

use asking::{Answer, ask};

use ports::free_base_port;

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");

/// Three nodes; they stop when this is dropped, for their input ends.
struct Nodes {
    cluster: Cluster,
    directory: TempDir,
}

impl Nodes {
    async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    /// `edit` may change a node's configuration, given the directory of all, before it is started.
    async fn start_with(edit: impl Fn(&Path, &Path)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = UpOptions {
            directory: directory.path().join("data"),
            nodes: None,
            replication: None,
            base_port: Some(free_base_port()),
            vnodes: quoit_ring::VnodeCount::new(64).ok(),
        };
        drop(prepare(&options).expect("the directory is new"));
        for node in ["n1", "n2", "n3"] {
            edit(directory.path(), &options.directory.join(node).join("quoit.toml"));
        }
        let prepared = prepare(&options).expect("it is there, and right");
        let mut cluster = Cluster::start(prepared, Path::new(PROGRAM)).await.expect("it starts");
        cluster.wait_ready(READY_TIMEOUT).await.expect("all serve");
        Self { cluster, directory }
    }

    fn address(&self, node: usize) -> SocketAddr {
        self.cluster.nodes()[node].config.http.listen
    }

    /// Makes a table by the first node, and waits until all nodes that answer know it: a majority decides,
    /// and the others refuse what is about it until they have heard of it.
    async fn table(&self, name: &str, options: &str) {
        let request = asking::request("PUT", &format!("/v1/tables/{name}"))
            .header("content-type", "application/json");
        let answer = ask(self.address(0), request, options.to_owned()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let began = std::time::Instant::now();
        while !self.all_know_the_tables().await {
            assert!(began.elapsed() < LIMIT, "a node does not hear of the table {name}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn all_know_the_tables(&self) -> bool {
        let tables = self.ask("GET", "/v1/tables", &[], b"").await.json();
        let tables = tables["tables"].as_array().expect("a list").len() as u64;
        let cluster = self.ask("GET", "/ui/cluster.json", &[], b"").await.json();
        let nodes = cluster["nodes"].as_array().expect("a list");
        // The first record has no tables, and each that is made makes another record.
        nodes.iter().filter_map(|node| node["epoch"].as_u64()).all(|epoch| epoch > tables)
    }

    /// Asks the first node.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask_node(0, method, path, headers, body).await
    }

    async fn ask_node(
        &self,
        node: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let request = asking::request(method, path);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        ask(self.address(node), request, body.to_vec()).await
    }

    /// Ends a node's process as a power cut would.
    fn kill(&self, node: usize) {
        self.signal(node, "-KILL");
    }

    fn signal(&self, node: usize, signal: &str) {
        let (_, process) = self.cluster.process_ids().nth(node).expect("it was started");
        let status = Command::new("kill").args([signal, &process.to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    async fn stop(self) {
        self.cluster.stop(|_| {}).await;
    }
}

/// What a shell prints for a script.
fn shell(script: &str) -> String {
    let mut shell: Child = Command::new("sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell is there");
    shell.stdin.take().expect("piped").write_all(script.as_bytes()).expect("it reads");
    let output = shell.wait_with_output().expect("it was started here");
    String::from_utf8(output.stdout).expect("text")
}

/// A test waits for nothing longer.
const LIMIT: Duration = Duration::from_secs(60);

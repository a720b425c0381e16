//! A cluster of real `quoit serve` processes, each with its own address, data directory, certificate
//! and clock.

mod disk;
mod network;
mod node;
mod program;
pub(crate) mod world;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use quoit_client::{Client, ClientBuilder, NodeId, NodeStatus};
use tokio::time::{Instant, sleep};

pub(crate) use disk::{CutReport, Disk, DiskFaults, DiskKind, Keep};
pub(crate) use network::{LOSS_PERCENT_MAX, Network, NetworkKind};
pub(crate) use node::Node;
pub(crate) use program::Program;

/// A cluster never has more nodes: their addresses are the last byte of one network.
pub(crate) const NODES_MAX: u16 = 15;
/// How long the nodes may take until all serve, when nothing is wrong any more.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the replicas may take to become equal.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(120);
/// A client's requests end within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two looks at a node that is not ready.
const POLL: Duration = Duration::from_millis(200);

/// What a cluster is made from.
#[derive(Debug, Clone)]
pub(crate) struct ClusterOptions {
    pub(crate) nodes: u16,
    pub(crate) network: NetworkKind,
    pub(crate) program: Program,
    /// Where everything of this cluster lies. It must be empty.
    pub(crate) directory: PathBuf,
    /// What the nodes keep their data on.
    pub(crate) disks: DiskKind,
    /// Replicas are compared so often; 0: never.
    pub(crate) repair_interval_seconds: u8,
    /// A bug of a faulty build of the node.
    pub(crate) plant: Option<String>,
    /// Packets are to be slow, out of order, doubled or damaged.
    pub(crate) is_network_disturbed: bool,
    /// Decides which packets, and what a power cut takes.
    pub(crate) seed: u64,
}

/// A cluster that could not be made, or that does not come to rest. The test could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The program is not there, or is another one. Build it or say where it is.
    #[error("{0}")]
    Program(String),
    /// There are no rights for what was asked.
    #[error(
        "namespaces need root (and `unshare`, `nsenter`, `ip` and `nft`): {0}; run it as root, or \
         with --network loopback"
    )]
    Rights(String),
    /// File systems of our own cannot be mounted.
    #[error(
        "/dev/fuse cannot be opened, and so there is no disk whose power can be cut or whose syncs fail: \
         `modprobe fuse` (as root), or choose another nemesis"
    )]
    NoFuse(#[source] io::Error),
    /// A command of the system failed.
    #[error("`{command}` failed: {message}")]
    Command { command: String, message: String },
    /// A file could not be made, read or removed.
    #[error("{} cannot be {action}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The relay has no port or address.
    #[error("the relay between the nodes cannot listen")]
    Relay(#[source] io::Error),
    /// A port or address is taken.
    #[error("no free ports were found on 127.0.0.1: end what uses them")]
    Ports,
    /// Nodes do not serve in time; with what they say.
    #[error("not all nodes are ready after {} s: {why}", after.as_secs())]
    NotReady { after: Duration, why: String },
}

pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::File { action, path, source }
}

/// The cluster. Its processes end when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    program: Program,
    client_directory: PathBuf,
}

impl Cluster {
    /// Makes the network, the certificates and the configurations. Nothing runs yet.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub(crate) async fn prepare(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let directory = &options.directory;
        fs::create_dir_all(directory).map_err(file("made", directory))?;
        let network = Network::make(
            options.network,
            options.nodes,
            options.is_network_disturbed,
            options.seed,
        )
        .await?;
        let addresses = network.addresses();
        let authority = directory.join("authority");
        let program = &options.program;
        program.ca_init(&authority).await?;
        let client_directory = directory.join("client");
        program.ca_issue_client(&authority, &client_directory, &addresses).await?;
        let cluster_id = cluster_id(&client_directory.join("client.toml"))?;
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            let mut node = Node::new(number, directory, options.plant.clone());
            program.ca_issue_node(&authority, number, &node.directory).await?;
            node.mount_disk(options.disks, options.seed).await?;
            node.move_clock(0)?;
            let text =
                configuration(&cluster_id, &network, number, options.repair_interval_seconds);
            let path = node.configuration();
            fs::write(&path, text).map_err(file("written", &path))?;
            nodes.push(node);
        }
        Ok(Self { nodes, network, program: program.clone(), client_directory })
    }

    /// Whether the nodes say that they are faulty, where they are to be: a program of the usual build
    /// knows of no bugs.
    ///
    /// # Errors
    /// [`ClusterError::Program`].
    pub(crate) fn check_planted(&self) -> Result<(), ClusterError> {
        match self.nodes.iter().find(|node| !node.is_as_faulty_as_asked()) {
            None => Ok(()),
            Some(_) => Err(ClusterError::Program(
                "the program has no bugs to plant: build one with `cargo build --release -p quoit-node \
                 --features planted-bugs`, in a target directory of its own, and name it with --quoit"
                    .to_owned(),
            )),
        }
    }

    /// How far each node's clock is off, in milliseconds.
    pub(crate) fn clock_offsets(&self) -> Vec<i64> {
        self.nodes.iter().map(Node::clock_offset).collect()
    }

    /// Starts a node that does not run.
    pub(crate) fn start(&mut self, at: usize) -> Result<(), ClusterError> {
        self.nodes[at].start(&self.program, &self.network)
    }

    /// Starts all nodes that do not run, and lets go on those that were stopped.
    pub(crate) fn start_all(&mut self) -> Result<(), ClusterError> {
        for at in 0..self.nodes.len() {
            self.nodes[at].resume();
            if !self.nodes[at].is_running() {
                self.start(at)?;
            }
        }
        Ok(())
    }

    /// Cuts the power of some nodes at once, and tells what was not synced.
    pub(crate) async fn cut_power(
        &mut self,
        some: &[usize],
        keep: Keep,
        random: &mut Rng,
    ) -> CutReport {
        for at in some {
            self.nodes[*at].strike();
        }
        let disks = some.iter().filter_map(|at| self.nodes[*at].disk());
        let report = disks.map(|disk| disk.cut(keep, random)).sum();
        for at in some {
            self.nodes[*at].kill().await;
        }
        report
    }

    /// A client of the whole cluster.
    ///
    /// # Errors
    /// [`ClusterError::NotReady`] where no node could be reached in [`READY_TIMEOUT`].
    pub(crate) async fn client(&self) -> Result<Client, ClusterError> {
        let began = Instant::now();
        loop {
            match self.builder()?.connect().await {
                Ok(client) => return Ok(client),
                Err(error) if began.elapsed() > READY_TIMEOUT => {
                    return Err(self.not_ready(error.to_string()));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// A client that knows one node alone to begin with.
    pub(crate) async fn client_of(&self, at: usize) -> Result<Client, ClusterError> {
        let began = Instant::now();
        loop {
            let builder = self.builder()?.contact_points([self.network.address(at)]);
            match builder.connect().await {
                Ok(client) => return Ok(client),
                Err(error) if began.elapsed() > READY_TIMEOUT => {
                    return Err(self.not_ready(error.to_string()));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// What every client is made from.
    pub(crate) fn builder(&self) -> Result<ClientBuilder, ClusterError> {
        let builder = ClientBuilder::from_directory(&self.client_directory);
        let builder = builder.map_err(|error| ClusterError::Program(error.to_string()))?;
        Ok(builder.request_timeout(REQUEST_TIMEOUT).name("quoit-jepsen"))
    }

    /// Waits until every node says that it serves, counts everywhere, and that nothing waits for others.
    ///
    /// # Errors
    /// [`ClusterError::NotReady`], with what each node says.
    pub(crate) async fn wait_until_whole(&mut self, client: &Client) -> Result<(), ClusterError> {
        let began = Instant::now();
        loop {
            let mut why = String::new();
            for at in 0..self.nodes.len() {
                if let Some(ended) = self.nodes[at].ended() {
                    let _ = write!(why, "n{} has ended ({ended}); ", at + 1);
                    // A full or failing disk ends a node: it is started again, as systemd would.
                    self.start(at)?;
                }
                if let Some(reason) = unready(client, self.nodes[at].id()).await {
                    let _ = write!(why, "n{}: {reason}; ", at + 1);
                }
            }
            if why.is_empty() {
                return Ok(());
            }
            if began.elapsed() > READY_TIMEOUT {
                return Err(self.not_ready(why));
            }
            sleep(POLL).await;
        }
    }

    fn not_ready(&self, mut why: String) -> ClusterError {
        for node in &self.nodes {
            let _ = write!(why, "\n{} ends with:\n{}", node.log().display(), node.last_lines());
        }
        ClusterError::NotReady { after: READY_TIMEOUT, why }
    }

    /// Has all replicas compared and merged, and waits for it.
    pub(crate) async fn repair(&self) -> Result<(), ClusterError> {
        self.program.repair(&self.client_directory, REPAIR_TIMEOUT).await
    }
}

/// What keeps a node from being whole.
async fn unready(client: &Client, node: NodeId) -> Option<String> {
    let status = match client.status(node).await {
        Ok(status) => status,
        Err(error) => return Some(error.to_string()),
    };
    let NodeStatus { state, problems, recovering_vnodes, hints, members, .. } = status;
    let waiting: u64 = hints.iter().map(|hint| hint.number).sum();
    let down = members.iter().filter(|member| !member.up).count();
    if state == "starting" || recovering_vnodes > 0 {
        return Some(format!("{state}: {}", problems.join(", ")));
    }
    if waiting > 0 || down > 0 {
        return Some(format!("{waiting} hints wait, {down} members seem down"));
    }
    None
}

fn cluster_id(path: &Path) -> Result<String, ClusterError> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("cluster = "));
    let id = line.map(|id| id.trim_matches('"').to_owned());
    id.ok_or_else(|| ClusterError::Program(format!("{} names no cluster", path.display())))
}

/// Short intervals: a test does not wait for a minute until replicas are compared.
fn configuration(cluster: &str, network: &Network, number: u16, repair_seconds: u8) -> String {
    let at = usize::from(number) - 1;
    let mut text = format!(
        "[node]\nid = \"n{number}\"\ndata_directory = \"data\"\nlisten = \"{}\"\n\
         advertise = \"{}\"\n\n\
         [http]\nlisten = \"{}\"\n\n\
         [tls]\nauthority = \"authority.pem\"\ncertificate = \"node.pem\"\nkey = \"node.key\"\n\n\
         [storage]\nmemtable_mib = 1\nblock_cache_mib = 8\nsegment_mib = 2\n\n\
         [repair]\ninterval_seconds = {repair_seconds}\n\n\
         [cluster]\nid = \"{cluster}\"\nvnodes = 64\nreplication = {}\n",
        network.listen(at),
        network.address(at),
        network.http_address(at),
        network.addresses().len().min(3),
    );
    for (at, address) in network.addresses().iter().enumerate() {
        let number = at + 1;
        let _ = write!(
            text,
            "\n[[cluster.members]]\nid = \"n{number}\"\naddress = \"{address}\"\n\
             datacenter = \"local\"\nrack = \"r{number}\"\n"
        );
    }
    text
}

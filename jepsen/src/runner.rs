//! One test: a cluster, processes that work, a nemesis that disturbs, and the end, when nothing is
//! wrong any more and everything is read.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use quoit_client::{Client, Level, Table, TableError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::checker::{self, FINAL, REPLICA_READ};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NetworkKind, Program};
use crate::history::{Kind, Operation, Process, Value};
use crate::nemesis::{self, Nemesis};
use crate::recorder::{Details, Recorder};
use crate::workload::{End, Held, Memory, Plan, Request, Workload, name};

/// Clients, each with connections of its own, that the processes share.
const CLIENTS: usize = 4;
/// Every node knows a new table within this.
const TABLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The final reads in flight.
const FINAL_READS: usize = 16;
/// Where a test ends with what it finds, it looks so often.
const FOUND_PAUSE: Duration = Duration::from_secs(2);
/// A final read is tried so often.
const FINAL_TRIES: usize = 20;
const FINAL_PAUSE: Duration = Duration::from_millis(250);
/// And not once more after this, however many keys are left.
const FINAL_TIMEOUT: Duration = Duration::from_secs(90);
/// A read of one replica alone ends within this.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// Processes of the end have numbers from here on.
const FINAL_PROCESS: i64 = 1_000_000_000;

/// What is tested.
#[derive(Debug, Clone)]
pub(crate) struct TestOptions {
    pub(crate) workload: Workload,
    pub(crate) nemesis: Nemesis,
    pub(crate) time: Duration,
    pub(crate) nodes: u16,
    /// Operations a second, of all processes together.
    pub(crate) rate: f64,
    pub(crate) concurrency: u16,
    pub(crate) seed: u64,
    pub(crate) network: NetworkKind,
    pub(crate) program: Program,
    pub(crate) directory: PathBuf,
    pub(crate) plant: Option<String>,
    /// It ends as soon as something is found.
    pub(crate) until_found: bool,
}

/// What a test has come to.
#[derive(Debug)]
pub(crate) struct TestRun {
    pub(crate) history: Vec<Operation>,
    /// Ended by Ctrl-C before its time.
    pub(crate) interrupted: bool,
    /// The cluster did not come to rest: what could be read is checked all the same.
    pub(crate) trouble: Option<ClusterError>,
}

/// Runs a test.
///
/// # Errors
/// [`ClusterError`] where it could not begin.
pub(crate) async fn run(
    options: &TestOptions,
    mut interrupt: watch::Receiver<bool>,
) -> Result<TestRun, ClusterError> {
    let mut cluster = Cluster::prepare(&ClusterOptions {
        nodes: options.nodes,
        network: options.network,
        program: options.program.clone(),
        directory: options.directory.clone(),
        disks: options.nemesis.disks(),
        repair_interval_seconds: options.nemesis.repair_interval_seconds(),
        seed: options.seed,
        plant: options.plant.clone(),
        is_network_disturbed: options.nemesis.disturbs_packets(),
    })
    .await?;
    cluster.start_all()?;
    let client = cluster.client().await?;
    cluster.wait_until_whole(&client).await?;
    cluster.check_planted()?;
    make_table(&client, options).await?;
    let plan = Arc::new(Plan::new(options.workload));
    let recorder = Recorder::start();
    let (stop, stopping) = watch::channel(false);
    let workers = start_workers(options, &cluster, &plan, &recorder, &stopping).await?;
    let shown = tokio::spawn(show(recorder.clone(), options.clone()));

    let mut random = Rng::with_seed(options.seed ^ 0x6e65_6d65);
    let until = Instant::now() + options.time;
    let (mut interrupted, mut has_found) = (false, false);
    let disturbed = tokio::select! {
        end = nemesis::run(options.nemesis, &mut cluster, &client, until, &recorder, &mut random) => end,
        _ = interrupt.wait_for(|stop| *stop) => { interrupted = true; Ok(()) }
        () = found(options, &recorder) => { has_found = true; Ok(()) }
    };
    stop.send_replace(true);
    workers.join_all().await;
    let ended = match disturbed {
        Ok(()) if has_found => Ok(()),
        Ok(()) => end(options, &mut cluster, &client, &plan, &recorder).await,
        Err(error) => Err(error),
    };
    shown.abort();
    println!();
    Ok(TestRun { history: recorder.history(), interrupted, trouble: ended.err() })
}

/// Waits until something is wrong in the history so far, where that is to end the test.
async fn found(options: &TestOptions, recorder: &Recorder) {
    if !options.until_found {
        return std::future::pending().await;
    }
    let model = options.workload.model();
    loop {
        sleep(FOUND_PAUSE).await;
        let history = recorder.history();
        let checked = tokio::task::spawn_blocking(move || checker::check(model, &history)).await;
        if matches!(checked, Ok(Ok(verdict)) if !verdict.is_valid()) {
            return;
        }
    }
}

async fn make_table(client: &Client, options: &TestOptions) -> Result<(), ClusterError> {
    let table = options.workload.table();
    let replication = table.replication.min(u8::try_from(options.nodes).unwrap_or(u8::MAX));
    let table = quoit_client::TableOptions { replication, ..table };
    let made = client.create_table(options.workload.name(), table).await;
    made.map(drop).map_err(|error| ClusterError::Program(error.to_string()))
}

/// The table, as soon as the node that this client asks has heard of it.
async fn table_of(client: &Client, options: &TestOptions) -> Result<Table, ClusterError> {
    let until = Instant::now() + TABLE_TIMEOUT;
    loop {
        match client.table(options.workload.name()).await {
            Ok(table) => return Ok(table),
            Err(error @ TableError::Unknown { .. }) if Instant::now() > until => {
                return Err(ClusterError::Program(error.to_string()));
            }
            Err(TableError::Unknown { .. }) => sleep(FINAL_PAUSE).await,
            Err(error) => return Err(ClusterError::Program(error.to_string())),
        }
    }
}

async fn start_workers(
    options: &TestOptions,
    cluster: &Cluster,
    plan: &Arc<Plan>,
    recorder: &Recorder,
    stopping: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, ClusterError> {
    let mut tables = Vec::new();
    for _ in 0..CLIENTS.min(options.concurrency.into()) {
        tables.push(table_of(&cluster.client().await?, options).await?);
    }
    let mut workers = JoinSet::new();
    let pause = Duration::from_secs_f64(f64::from(options.concurrency) / options.rate);
    for number in 0..options.concurrency {
        let worker = Worker {
            table: tables[usize::from(number) % tables.len()].clone(),
            plan: Arc::clone(plan),
            recorder: recorder.clone(),
            random: Rng::with_seed(options.seed.wrapping_mul(1_000_003) ^ u64::from(number)),
            memory: Memory::new(i64::from(number) + 1),
            concurrency: options.concurrency.into(),
            pause,
        };
        workers.spawn(worker.run(stopping.clone()));
    }
    Ok(workers)
}

/// A process, and those that take its place.
struct Worker {
    table: Table,
    plan: Arc<Plan>,
    recorder: Recorder,
    random: Rng,
    memory: Memory,
    concurrency: i64,
    pause: Duration,
}

impl Worker {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut next = Instant::now() + self.pause.mul_f64(self.random.f64());
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            // On average one in `pause`; one that is late does not hurry.
            next = next.max(Instant::now()) + self.pause.mul_f64(2.0 * self.random.f64());
            let request = self.plan.next(&self.memory, &mut self.random);
            perform(&self.plan, &request, &self.table, &mut self.memory, &self.recorder).await;
            if self.memory.process < 0 {
                self.memory = Memory::new(-self.memory.process + self.concurrency);
            }
        }
    }
}

/// Does one operation and records it; tells whether it was done. A process that does not
/// know how its operation ended retires: its number is negative then (numbers begin at 1).
async fn perform(
    plan: &Plan,
    request: &Request,
    table: &Table,
    memory: &mut Memory,
    recorder: &Recorder,
) -> bool {
    let process = Process::Client(memory.process);
    let record = |kind, value, details| recorder.record(process, kind, request.f, value, details);
    record(Kind::Invoke, request.recorded(), Details::default());
    match plan.perform(request, table, memory).await {
        End::Read(found, written) => {
            let details = Details { written, ..Details::default() };
            record(Kind::Ok, Value::pair(request.key, found), details);
            true
        }
        End::Written(dot) => {
            let details = Details { dot: Some(dot), ..Details::default() };
            record(Kind::Ok, request.recorded(), details);
            true
        }
        End::Fail(error) => {
            record(Kind::Fail, request.recorded(), Details::of(error));
            false
        }
        End::Info(error) => {
            record(Kind::Info, request.recorded(), Details::of(error));
            memory.process = -memory.process;
            false
        }
    }
}

/// Heals, waits until all is whole, and reads everything: from each replica alone, and by quorum. (In this
/// order: a quorum read mends what it meets.)
async fn end(
    options: &TestOptions,
    cluster: &mut Cluster,
    client: &Client,
    plan: &Arc<Plan>,
    recorder: &Recorder,
) -> Result<(), ClusterError> {
    recorder.nemesis("heal", "all", "waiting until all is whole");
    nemesis::heal_all(cluster).await?;
    cluster.wait_until_whole(client).await?;
    if options.nemesis.repair_interval_seconds() > 0 {
        cluster.repair().await?;
    }
    recorder.nemesis("replicas", "each is read alone", "replicas are read");
    for at in 0..cluster.nodes.len() {
        read_alone(options, cluster, at, plan, recorder).await?;
    }
    cluster.wait_until_whole(client).await?;
    recorder.nemesis(FINAL, "everything is read", "final reads");
    let table = table_of(client, options).await?;
    let deadline = Instant::now() + FINAL_TIMEOUT;
    let keys = plan.keys_used();
    let mut reads = JoinSet::new();
    for (number, key) in (FINAL_PROCESS..).zip(keys.iter().copied()) {
        if reads.len() >= FINAL_READS {
            reads.join_next().await;
        }
        let (plan, table, recorder) = (Arc::clone(plan), table.clone(), recorder.clone());
        reads.spawn(async move {
            let mut memory = Memory::new(number);
            for _ in 0..FINAL_TRIES {
                let read = Request::read(key);
                let is_done = perform(&plan, &read, &table, &mut memory, &recorder).await;
                if is_done || Instant::now() > deadline {
                    return;
                }
                sleep(FINAL_PAUSE).await;
            }
        });
    }
    reads.join_all().await;
    Ok(())
}

/// Reads from one node what it holds itself: all the others are stopped meanwhile, so that nobody else
/// can answer.
async fn read_alone(
    options: &TestOptions,
    cluster: &mut Cluster,
    at: usize,
    plan: &Arc<Plan>,
    recorder: &Recorder,
) -> Result<(), ClusterError> {
    let node = cluster.nodes[at].id();
    for other in (0..cluster.nodes.len()).filter(|other| *other != at) {
        cluster.nodes[other].pause();
    }
    // Only now, so that it never had a connection to another.
    let client = cluster.client_of(at).await?;
    let table = table_of(&client, options).await?;
    let record = client.record();
    let replication = table.definition().options.replication;
    let is_held = |key: &i64| {
        let vnode = record.vnodes.vnode_of(record.token(name(*key).as_bytes()));
        record.is_primary(node, vnode, replication)
    };
    let keys: Vec<i64> = plan.keys_used().into_iter().filter(is_held).collect();
    let table = table.with_read_level(Level::One).with_timeout(REPLICA_TIMEOUT);
    let mut reads = JoinSet::new();
    let number = i64::try_from(at + 1).unwrap_or(i64::MAX);
    // Far above the processes of the reads by quorum.
    let first = FINAL_PROCESS * (number + 1);
    for (process, key) in (first..).zip(keys) {
        if reads.len() >= FINAL_READS {
            reads.join_next().await;
        }
        let (plan, table, recorder) = (Arc::clone(plan), table.clone(), recorder.clone());
        reads.spawn(async move {
            let record = |kind, value, details| {
                let details = Details { node: Some(number), ..details };
                let process = Process::Client(process);
                recorder.record(process, kind, REPLICA_READ, Value::pair(key, value), details);
            };
            record(Kind::Invoke, Value::Nil, Details::default());
            match plan.held(key, &table).await {
                Ok(Held { siblings, actors }) => {
                    record(Kind::Ok, siblings, Details { actors, ..Details::default() });
                }
                Err(error) => record(Kind::Fail, Value::Nil, Details::of(error.to_string())),
            }
        });
    }
    reads.join_all().await;
    for node in &mut cluster.nodes {
        node.resume();
    }
    // A client that is dropped closes its connections too; this one waits for it, a little.
    let _ = timeout(REPLICA_TIMEOUT, client.close()).await;
    Ok(())
}

/// The live line.
async fn show(recorder: Recorder, options: TestOptions) {
    let is_terminal = std::io::stdout().is_terminal();
    let mut ticks = interval(Duration::from_secs(if is_terminal { 1 } else { 10 }));
    loop {
        ticks.tick().await;
        let (counts, fault) = recorder.progress();
        let count = |name| counts.get(name).copied().unwrap_or(0);
        let seconds = recorder.now_ns() / 1_000_000_000;
        let line = format!(
            "{seconds:4} s  {} + {}: {} begun, {} ok, {} fail, {} info  [{fault}]",
            options.workload.name(),
            options.nemesis.name(),
            count("invoke"),
            count("ok"),
            count("fail"),
            count("info"),
        );
        if is_terminal {
            print!("\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

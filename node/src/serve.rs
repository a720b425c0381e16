//! `quoit serve`: opens the data directory, joins the pieces, and runs the event loop.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quoit_core::continuity::{CONTINUITY_FILE, ContinuityState};
use quoit_core::record::{RECORD_FILE, RecordState, StateError, VOTE_FILE};
use quoit_core::{CoreConfig, NodeCore, Recovered, SCRUB_FILE, ScrubState};
use quoit_gossip::{Gossip, GossipConfig, GossipError, Link};
use quoit_ring::VnodeCount;
use quoit_storage::disk::Disk;
use quoit_storage::small_file::{SmallFile, SmallFileError};
use quoit_storage::store::{self, OpenError, Opened, StoreOptions};
use quoit_storage_files::disk::FileDisk;
use quoit_storage_files::tables::{OpenReport, Tables, TablesError, TablesOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use crate::audit::{AuditError, AuditLog};
use crate::authority::Parsed;
use crate::callers::Callers;
use crate::clock::Clock;
use crate::config::{Config, TlsSettings};
use crate::event_loop::{EventLoop, ReadHere};
use crate::http::{Doors, HttpError, HttpServer, NodeHealth};
use crate::identity::{Identity, IdentityError};
use crate::log::LogLevel;
use crate::metrics::Metrics;
use crate::reload::Reloader;
use crate::service_manager::ServiceManager;
use crate::snapshots::SnapshotService;
use crate::stop::{StopReason, StopSignals, hangup_means_reload};
use crate::storage_worker::{Parts, StorageWorker};
use crate::telemetry::Telemetry;
use crate::transport::{
    self, InboundQueue, TlsMaterial, Transport, TransportConfig, TransportError, check_material,
};

/// Gossip messages that may wait in either direction; more are dropped, as gossip repeats itself.
const GOSSIP_QUEUE: usize = 1_024;
/// Of so many answered writes the last acknowledgements are waited for.
const TRAILS_MAX: usize = 8_192;
/// What a node does before it joins.
const RECOVERING: &str = "recovering: opening the tables and replaying the log";
/// Threads that read.
const READER_COUNT: usize = 2;

/// Why a node does not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used: another process has it, or the system refuses.
    #[error("cannot use the data directory {path}")]
    DataDirectory {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The data directory is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// One of the small files of the cluster record is lost in both copies.
    #[error(transparent)]
    SmallFile(#[from] SmallFileError),
    /// One of the small files holds something else.
    #[error(transparent)]
    State(#[from] StateError),
    /// The tables cannot be opened.
    #[error("cannot open the tables")]
    Tables(#[from] TablesError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// A certificate or key file cannot be read.
    #[error(
        "cannot read {path}: issue certificates with `quoit ca issue`, or mend [tls] in the configuration"
    )]
    TlsFile {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file that says how wrong the clock is, for tests, cannot be followed.
    #[error("cannot follow clock.offset_file, {}: leave it out, it is for tests", path.display())]
    ClockFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The endpoint cannot be made.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// HTTP cannot be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Gossip did not start or has died.
    #[error("gossip does not run")]
    Gossip(#[from] GossipError),
    /// The system gives no more threads, or no signals.
    #[error("the system refuses what the node needs")]
    System(#[source] io::Error),
}

/// How `quoit serve` was called, beside its configuration.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The configuration's file, to be read again.
    pub config_path: PathBuf,
    /// The level of the program's log, to be changed with it.
    pub log_level: Option<LogLevel>,
    /// Stop when standard input ends: for children of `quoit up`.
    pub stop_on_stdin_close: bool,
}

/// Runs a node until it is told to stop (SIGTERM, Ctrl-C). SIGHUP has it read its files again
/// ([`hangup_means_reload`]).
///
/// # Errors
/// See [`ServeError`].
pub fn run(config: Config, options: ServeOptions) -> Result<(), ServeError> {
    // One thread for the loop and the network: their work is one pipeline, and a wake-up of another
    // thread for each message costs more than the work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::System)?;
    let served = runtime.block_on(serve(config, options));
    // A recovery that was told to stop is left as a crash would leave it: nothing waits for it.
    runtime.shutdown_background();
    served
}

/// Whether a node could start with the files that its configuration names; nothing is started.
///
/// # Errors
/// What [`run`] would say.
pub fn check_files(config: &Config) -> Result<(), ServeError> {
    let tls = read_tls(&config.tls)?;
    check_material(&tls, config.node.id, config.cluster.id).map_err(TransportError::Tls)?;
    let rules = config.access.rules(config.is_local());
    Doors::open(&config.http, &rules, config.cluster.id, &tls).map_err(HttpError::Door)?;
    Ok(())
}

async fn serve(config: Config, options: ServeOptions) -> Result<(), ServeError> {
    let mut signals =
        StopSignals::listen(options.stop_on_stdin_close).map_err(ServeError::System)?;
    let service = ServiceManager::new();
    service.status("starting");
    let clock = Clock::new(config.clock.offset_ms);
    if let Some(path) = &config.clock.offset_file {
        let followed = clock.follow(path.clone());
        followed.map_err(|source| ServeError::ClockFile { path: path.clone(), source })?;
        tracing::warn!(path = %path.display(), "the clock is for tests: a file says how wrong it is");
    }
    let health = NodeHealth::new();
    let metrics = Metrics::new();
    let tls = read_tls(&config.tls)?;
    let audit = AuditLog::open(&config.audit)?;
    // Dropped when all else has ended: what was told last is sent then.
    let (telemetry, _export) = Telemetry::start(&config.telemetry, config.node.id, &metrics)
        .map_err(ServeError::System)?;
    let http = HttpServer::open(&config, &tls, audit.clone())?.with_telemetry(telemetry.clone());
    let (gateway, doors) = (http.identity(), http.doors());
    metrics.set_certificates(expiring(&config, &tls));
    let http = http.start(health.clone(), metrics.clone())?;
    let (stopper, stop) = watch::channel(false);

    let (transport, inbound) = bind_transport(&config, tls)?;
    service.status(RECOVERING);
    health.set_unready(vec![RECOVERING.to_owned()]);
    let Some(data) = recover(&config, clock.clone(), &service, &mut signals).await? else {
        return Ok(());
    };
    let core = NodeCore::new(core_config(&config, &data), data.recovered, clock.now());
    let (gossip, gossip_events, to_gossip) =
        start_gossip(&config, &transport, data.identity.generation()).await?;
    let gossip_end = gossip.stopped();
    let (storage, answers) = StorageWorker::start(Parts {
        writer: data.opened.writer,
        reader: data.opened.reader,
        maintainer: data.opened.maintainer,
        tables: data.tables,
        durability: config.storage.durability,
        periodic_interval: Duration::from_millis(config.storage.periodic_interval_ms.max(1)),
        reader_count: READER_COUNT,
        waiting_bytes_max: config.limits.memory.waiting_writes,
        metrics: metrics.clone(),
        clock: clock.clone(),
    })
    .map_err(ServeError::System)?;
    let (answered, snapshot_answers) = mpsc::unbounded_channel();
    let snapshots = SnapshotService::new(
        &config.snapshot_directory(),
        config.node.id,
        config.storage.durability,
        storage.freezer(),
        clock.clone(),
        answered,
    );
    let (limits_changed, limits) = watch::channel(config.limits);
    let (rules_changed, rules) = watch::channel(config.access.rules(config.is_local()));
    let event_loop = EventLoop {
        core,
        clock,
        transport: transport.clone(),
        inbound,
        storage,
        answers,
        snapshots,
        snapshot_answers,
        gossip: Some(gossip),
        gossip_events,
        to_gossip,
        health,
        metrics: metrics.clone(),
        telemetry,
        service: service.clone(),
        limits,
        stop,
        advertise: config.node.advertise,
        initial_members: config.cluster.members.clone(),
        callers: Callers::new(rules, audit.clone()),
        ready: false,
        was_crowded: false,
        read_here: ReadHere::default(),
        observed: std::time::Instant::now(),
        damage_told: None,
        due: Vec::new(),
    };
    tracing::info!(node = %config.node.id, cluster = %config.cluster.id, address = %config.node.listen, "serving");
    let reloader = Reloader {
        path: options.config_path,
        running: config,
        log_level: options.log_level,
        transport,
        gateway,
        doors,
        limits: limits_changed,
        rules: rules_changed,
        metrics,
        audit,
    };
    // A task of its own: what wakes the runtime's main future goes through the kernel.
    let mut running = tokio::spawn(event_loop.run());
    tokio::select! {
        ended = &mut running => return as_it_ended(ended),
        () = until_told(&mut signals, reloader, &service) => {}
        end = gossip_end => {
            drop(http);
            stopper.send_replace(true);
            as_it_ended(running.await)?;
            return end.map_err(ServeError::Gossip);
        }
    }
    // Its requests end before the node does: the node may be the one that answers them.
    tokio::select! {
        () = http.stop() => {}
        ended = &mut running => return as_it_ended(ended),
    }
    stopper.send_replace(true);
    as_it_ended(running.await)
}

/// A panic of the event loop is one of the node.
fn as_it_ended(ended: Result<(), JoinError>) -> Result<(), ServeError> {
    ended.or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Returns when the node is to stop; reads its files again whenever it is told to.
async fn until_told(signals: &mut StopSignals, mut reloader: Reloader, service: &ServiceManager) {
    loop {
        let reason = signals.next().await;
        if reason != StopReason::Hangup || !hangup_means_reload() {
            tracing::info!(%reason, "told to stop");
            return;
        }
        service.reloading();
        reloader.reload();
        service.reloaded();
    }
}

/// Opens the data directory while HTTP answers and the service manager hears that the node lives;
/// `None` where it was told to stop meanwhile.
async fn recover(
    config: &Config,
    clock: Clock,
    service: &ServiceManager,
    signals: &mut StopSignals,
) -> Result<Option<Data>, ServeError> {
    let config = config.clone();
    let mut opening = tokio::task::spawn_blocking(move || open_data(&config, &clock));
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            opened = &mut opening => match opened {
                Ok(data) => return data.map(Some),
                Err(error) => return Err(ServeError::System(io::Error::other(error))),
            },
            _ = ticks.tick() => service.alive(),
            reason = signals.next() => {
                if reason != StopReason::Hangup || !hangup_means_reload() {
                    tracing::info!(%reason, "told to stop while recovering");
                    return Ok(None);
                }
                tracing::warn!("not reloaded: the node recovers; send SIGHUP again when it serves");
            }
        }
    }
}

fn bind_transport(
    config: &Config,
    tls: TlsMaterial,
) -> Result<(Transport, InboundQueue), ServeError> {
    let memory = config.limits.memory;
    Ok(Transport::bind(TransportConfig {
        listen: config.node.listen,
        node: config.node.id,
        cluster: config.cluster.id,
        tls,
        limits: transport::Limits {
            accept: config.limits.accept,
            queued_bytes_max: memory.queued,
            queued_bytes_total_max: memory.queued_total,
            inbound_bytes_max: memory.inbound,
            large_bytes_max: memory.large,
            ..transport::Limits::default()
        },
    })?)
}

pub(crate) fn read_tls(settings: &TlsSettings) -> Result<TlsMaterial, ServeError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ServeError::TlsFile { path: path.to_owned(), source })
    };
    Ok(TlsMaterial {
        authority_pem: read(&settings.authority)?,
        certificate_pem: read(&settings.certificate)?,
        key_pem: read(&settings.key)?,
        revoked_pem: settings.revoked.as_deref().map(read).transpose()?.unwrap_or_default(),
    })
}

/// When what the node proves itself with, and trusts, expires: of several in a file, the first to do so.
/// The files were read before, and found to be good.
pub(crate) fn expiring(config: &Config, tls: &TlsMaterial) -> Vec<(&'static str, SystemTime)> {
    let https = config.http.tls.as_ref().and_then(|tls| std::fs::read(&tls.certificate).ok());
    let files = [
        ("node", Some(&tls.certificate_pem)),
        ("authority", Some(&tls.authority_pem)),
        ("https", https.as_ref()),
    ];
    let expiring = files.into_iter().filter_map(|(name, pem)| {
        let certificates = Parsed::read_pem(pem?).ok()?;
        Some((name, certificates.iter().map(|one| one.not_after).min()?))
    });
    expiring.collect()
}

fn core_config(config: &Config, data: &Data) -> CoreConfig {
    CoreConfig {
        boot_count: data.identity.boot_count,
        incarnation: data.identity.incarnation,
        limits: config.limits.data,
        operations_max: config.limits.in_flight_max,
        trails_max: TRAILS_MAX,
        operations_per_client_max: config.limits.in_flight_per_client_max,
        clock_offset_ms_max: config.clock.offset_bound_ms,
        repair_interval_ms: config.repair.interval_ms,
        repair_bytes_per_second: config.repair.bytes_per_second,
        repair_busy_bytes_per_second: config.repair.busy_bytes_per_second,
        hint_age_ms_max: config.repair.hint_age_ms,
        hint_bytes_max: config.repair.hint_bytes,
        scrub_period_ms: config.repair.scrub_period_ms,
        ..CoreConfig::new(config.node.id, config.genesis(), random())
    }
}

/// A number that nobody can guess.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system gives random numbers");
    u64::from_le_bytes(bytes)
}

/// The open data directory.
struct Data {
    identity: Identity,
    opened: Opened,
    tables: Arc<Tables>,
    recovered: Recovered,
}

fn open_data(config: &Config, clock: &Clock) -> Result<Data, ServeError> {
    let path = &config.node.data_directory;
    let disk = FileDisk::open(path)
        .map_err(|source| ServeError::DataDirectory { path: path.clone(), source })?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let identity = Identity::open(disk.clone(), config.cluster.id, config.node.id, clock.wall())?;
    if let Some(repaired) = &identity.repaired {
        tracing::warn!("{repaired}");
    }
    let record = read_small(&disk, RECORD_FILE)?;
    let vote = read_small(&disk, VOTE_FILE)?;
    let record = RecordState::read(record.as_deref(), vote.as_deref())?;
    let continuity = read_small(&disk, CONTINUITY_FILE)?;
    let continuity = ContinuityState::read(continuity.as_deref())?;
    // Whatever is wrong with it, the pass begins anew.
    let scrub = read_small(&disk, SCRUB_FILE).ok().flatten();
    let (tables, lost) = open_tables(config, &disk, record.record.is_some())?;
    let vnodes = record.record.as_ref().map_or(config.cluster.vnodes, |record| record.vnodes);
    let options = store_options(config, vnodes);
    let opened = store::open(disk, tables.clone(), options, lost.clone(), random())?;
    if lost.is_some() {
        tables.acknowledge_rebuild()?;
    }
    for line in &opened.report.damage {
        tracing::error!("{line}");
    }
    for line in &opened.report.notes {
        tracing::warn!("{line}");
    }
    tracing::info!(
        boot_count = identity.boot_count,
        replayed = opened.report.replayed,
        incomplete = opened.report.incomplete_keys,
        distrusted = opened.report.distrusted,
        "the store is open"
    );
    let recovered = Recovered {
        record,
        lease: opened.writer.lease(),
        continuity,
        sequence: opened.report.sequence,
        distrusted: opened.reader.distrusted(),
        hints: opened.reader.count_hints(),
        scrub: ScrubState::read(scrub.as_deref()),
    };
    Ok(Data { identity, opened, tables, recovered })
}

fn read_small(disk: &Arc<dyn Disk>, name: &str) -> Result<Option<Bytes>, SmallFileError> {
    let loaded = SmallFile::new(disk.clone(), name).load()?;
    if let Some(repaired) = loaded.as_ref().and_then(|loaded| loaded.repaired.as_ref()) {
        tracing::warn!("{repaired}");
    }
    Ok(loaded.map(|loaded| loaded.bytes))
}

/// Opens the tables; says why they were lost, if they were.
fn open_tables(
    config: &Config,
    disk: &Arc<dyn Disk>,
    has_served: bool,
) -> Result<(Arc<Tables>, Option<String>), ServeError> {
    let listed = disk.list("").map_err(|source| ServeError::DataDirectory {
        path: config.node.data_directory.clone(),
        source,
    })?;
    let checkpointed = listed.iter().any(|name| name.starts_with(store::CHECKPOINT_FILE));
    let options = TablesOptions {
        expect_existing: has_served,
        block_cache_bytes: config.storage.block_cache_bytes,
        ..TablesOptions::default()
    };
    let (tables, report) = Tables::open(&config.node.data_directory.join("tables"), options)?;
    let lost = match report {
        // A store writes its checkpoint before the node hears of any record.
        OpenReport::Created | OpenReport::Opened if has_served && !checkpointed => Some(
            "the checkpoint is gone: every key is distrusted until its peers are merged in"
                .to_owned(),
        ),
        OpenReport::Created | OpenReport::Opened => None,
        OpenReport::Rebuilt { reason, aside } => Some(match aside {
            Some(aside) => format!(
                "the tables could not be trusted ({reason}) and were set aside as {}: every key is \
                 distrusted until its peers are merged in",
                aside.display()
            ),
            None => format!(
                "the tables are gone ({reason}): every key is distrusted until its peers are \
                 merged in"
            ),
        }),
    };
    Ok((Arc::new(tables), lost))
}

fn store_options(config: &Config, vnodes: VnodeCount) -> StoreOptions {
    StoreOptions {
        vnodes,
        durability: config.storage.durability,
        siblings_max: usize::from(config.limits.data.siblings_max),
        set_bytes_max: config.limits.data.set_bytes_max as usize,
        memory_bytes_max: config.storage.memtable_bytes,
        heads_bytes_max: config.storage.head_cache_bytes,
        taken_bytes_max: config.repair.sloppy_bytes,
        segment_bytes: config.storage.segment_bytes,
    }
}

type GossipInlet = mpsc::Sender<(SocketAddr, Bytes)>;

async fn start_gossip(
    config: &Config,
    transport: &Transport,
    generation: u64,
) -> Result<(Gossip, mpsc::Receiver<quoit_gossip::GossipEvent>, GossipInlet), ServeError> {
    let (outgoing, mut sent) = mpsc::channel::<(SocketAddr, Bytes)>(GOSSIP_QUEUE);
    let (to_gossip, incoming) = mpsc::channel(GOSSIP_QUEUE);
    let mut gossip_config =
        GossipConfig::new(config.cluster.id, config.node.id, generation, config.node.advertise);
    gossip_config.seeds = config.cluster.members.iter().map(|member| member.address).collect();
    let (gossip, events) = Gossip::start(gossip_config, Link { outgoing, incoming }).await?;
    let transport = transport.clone();
    tokio::spawn(async move {
        while let Some((to, body)) = sent.recv().await {
            transport.send_gossip(to, &body);
        }
    });
    Ok((gossip, events, to_gossip))
}

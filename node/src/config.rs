//! The settings of a node: a TOML file with few of them, each with its unit in its name, a default
//! where one is possible, and an override in the environment.
//!
//! `QUOIT_<SECTION>_<KEY>` overrides `[section] key`; only the list of members has none. A key that
//! nobody knows is an error, and so is such a variable: a setting that is silently ignored is worse
//! than a node that does not start. All mistakes are told at once, each with its line.

mod access;
mod document;
mod http;
mod members;
mod memory;
mod render;
mod telemetry;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use quoit_core::handshake::Genesis;
use quoit_protocol::Limits;
use quoit_ring::{ClusterId, Member, NodeId, VnodeCount};
use quoit_storage::layout::KEY_BYTES_MAX;
use quoit_storage::store::Durability;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::transport::AcceptLimits;

pub use access::{AccessRules, AccessSettings};
pub use document::{Place, Problem};
pub use http::{HTTP_CONNECTIONS_MAX, HttpSettings, HttpTlsSettings};
pub use memory::MemoryBounds;
pub use telemetry::{Endpoint, EndpointError, TelemetrySettings};

use crate::clock::OFFSET_MS_LIMIT;
use document::{Document, Section};
use members::{http_listen, read_cluster, read_members, read_node};

/// Where a node listens for peers and clients when neither its settings nor the list of members
/// says otherwise.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7101);
/// From a node's UDP port to its HTTP port on loopback when nobody says otherwise.
pub const HTTP_PORT_OFFSET: u16 = 100;
/// N, when nobody says otherwise and the cluster has as many members.
pub const REPLICATION: u8 = 3;

/// The audit log in the data directory, when nobody says otherwise.
pub const AUDIT_FILE: &str = "audit.jsonl";
/// A configuration file is never longer, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The wire's frames end a little above this.
const SET_BYTES_LIMIT: i64 = 16 << 20;
/// The longest key that can be laid out.
const KEY_BYTES_LIMIT: i64 = KEY_BYTES_MAX as i64;

/// Everything that `quoit serve` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node itself.
    pub node: NodeSettings,
    /// The HTTP server.
    pub http: HttpSettings,
    /// The cluster as it is first made.
    pub cluster: ClusterSettings,
    /// By what the node proves who it is.
    pub tls: TlsSettings,
    /// Which client may do what.
    pub access: AccessSettings,
    /// Where it is written down what was done to the cluster.
    pub audit: AuditSettings,
    /// The storage engine.
    pub storage: StorageSettings,
    /// How replicas become equal again.
    pub repair: RepairSettings,
    /// What the node accepts.
    pub limits: LimitSettings,
    /// The node's clock.
    pub clock: ClockSettings,
    /// The program's log.
    pub log: LogSettings,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
    /// The environment's variables that overrode the file.
    pub overrides: Vec<String>,
}

/// This process's variables that may override settings.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(document::ENVIRONMENT_PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// `id`: the node's permanent name.
    pub id: NodeId,
    /// `data_directory`: where all its data lies.
    pub data_directory: PathBuf,
    /// `listen`: the UDP address for peers and clients (QUIC); the node's own in the list of members,
    /// unless told otherwise.
    pub listen: SocketAddr,
    /// `advertise`: under which address others reach it; `listen`, unless told otherwise.
    pub advertise: SocketAddr,
}

/// `[cluster]`: the same on all initial members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `id`: the cluster's name, as its authority drew it; where it is not written, the authority's
    /// certificate says it.
    pub id: ClusterId,
    /// `vnodes`: Q.
    pub vnodes: VnodeCount,
    /// `replication`: owners of each virtual node, at most as many as there are members.
    pub replication: u8,
    /// `[[cluster.members]]`: the initial members, ascending by id.
    pub members: Vec<Member>,
}

/// `[tls]`: paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `authority`: the certificate of the cluster's authority; several while one takes the place of
    /// another.
    pub authority: PathBuf,
    /// `certificate`: the node's certificate.
    pub certificate: PathBuf,
    /// `key`: the certificate's private key.
    pub key: PathBuf,
    /// `revoked`: the authorities' lists of revoked certificates; none where it is not written.
    pub revoked: Option<PathBuf>,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// `enabled`: whether it is written at all.
    pub enabled: bool,
    /// `file`: where; in the data directory, unless told otherwise.
    pub file: PathBuf,
    /// `file_mib`: a file that has so much is set aside; in bytes here.
    pub file_bytes_max: u64,
    /// `files`: so many are kept, with the one that is written to.
    pub files: u32,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    /// `durability`: when a write counts as durable.
    pub durability: Durability,
    /// `periodic_interval_ms`: how often `periodic` durability syncs.
    pub periodic_interval_ms: u64,
    /// `memtable_mib`: a table's memory is flushed when it holds so much; in bytes here.
    pub memtable_bytes: u64,
    /// `block_cache_mib`: the cache of table blocks; in bytes here.
    pub block_cache_bytes: u64,
    /// `head_cache_mib`: the dots of what keys hold, so that most writes need no read; in bytes here.
    pub head_cache_bytes: u64,
    /// `segment_mib`: a segment of the commit log; in bytes here.
    pub segment_bytes: u64,
    /// `snapshot_directory`: where snapshots lie, in a folder of the node's id; `None`: in `snapshots` in
    /// the data directory.
    pub snapshot_directory: Option<PathBuf>,
}

/// `[repair]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairSettings {
    /// `interval_seconds`: a node compares what it holds with each other replica so often; 0: never.
    /// In milliseconds here.
    pub interval_ms: u64,
    /// `mib_per_second`: what differs is moved no faster while no clients are there; in bytes here.
    pub bytes_per_second: u64,
    /// `busy_mib_per_second`: and no faster while they are; in bytes here.
    pub busy_bytes_per_second: u64,
    /// `hint_hours`: what a replica missed is noted for no longer; in milliseconds here.
    pub hint_age_ms: u64,
    /// `hint_mib`: such notes together have no more; 0: none are kept. In bytes here.
    pub hint_bytes: u64,
    /// `sloppy_mib`: what is held in the place of other nodes, for sloppy tables, has no more; then it
    /// is refused. In bytes here.
    pub sloppy_bytes: u64,
    /// `scrub_hours`: everything is read and verified within this; 0: never. In milliseconds here.
    pub scrub_period_ms: u64,
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// `key_bytes_max`, `value_bytes_max`, `siblings_max`, `set_bytes_max`: what clients are told.
    pub data: Limits,
    /// `memory_mib`: what the node holds in memory at most, as bounds of what grows.
    pub memory: MemoryBounds,
    /// `in_flight_max`: requests of clients that the node works on at once.
    pub in_flight_max: usize,
    /// `in_flight_per_client_max`: and so many of one client.
    pub in_flight_per_client_max: usize,
    /// `connections_max`, `connections_per_source_max`, `handshakes_max`, `handshakes_per_source_max`,
    /// `handshakes_per_second`: who is let in.
    pub accept: AcceptLimits,
}

/// `[clock]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSettings {
    /// `offset_bound_ms`: how far the node's clock may be from its peers' median.
    pub offset_bound_ms: u64,
    /// `offset_ms`: added to the system's clock; for tests.
    pub offset_ms: i64,
    /// `offset_file`: a file with a number of milliseconds that is added as well, and may change while
    /// the node runs; for tests.
    pub offset_file: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `level`: `info`, or a list such as `info,quoit_node=debug`.
    pub level: String,
    /// `format`: text for people or JSON for programs.
    pub format: LogFormat,
}

/// How the log's lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// A configuration that cannot be used. Nothing was started or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read. Check its path and its permissions.
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The settings are wrong. Correct what is listed.
    #[error("the configuration {} is wrong:{}", path.display(), listed(problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Every mistake, by line.
        problems: Vec<Problem>,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  {problem}");
        text
    })
}

impl Config {
    /// Reads a file and the overrides among `environment` (all variables may be handed in).
    ///
    /// Paths in the file are relative to the file's directory.
    ///
    /// # Errors
    /// See [`ConfigError`]; all mistakes are listed.
    pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let text =
            read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        // The whole path: what `--check` prints then holds wherever it is put.
        let whole = std::path::absolute(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let directory = whole.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, directory, environment)
            .map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    /// As [`Config::load`], from a text whose paths are relative to `directory`.
    ///
    /// # Errors
    /// All mistakes, in the order of their lines.
    pub fn parse(
        text: &str,
        directory: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<Problem>> {
        let mut document = Document::parse(text, environment).map_err(|problem| vec![problem])?;
        let mut node = document.section("node", |section| read_node(section, directory));
        let tls = document.section("tls", |section| read_tls(section, directory));
        let cluster = document
            .section("cluster", |section| read_cluster(section, node.as_mut(), tls.as_ref()));
        let node = node.map(|draft| draft.settings);
        let usual = http_listen(node.as_ref());
        let http = document.section("http", |section| http::read(section, directory, usual));
        let access = document.section("access", access::read);
        let data = node.as_ref().map(|node| node.data_directory.as_path());
        let data = data.unwrap_or(Path::new(""));
        let audit = document.section("audit", |section| read_audit(section, directory, data));
        let limits = document.section("limits", read_limits);
        let storage =
            document.section("storage", |section| read_storage(section, directory, &limits.memory));
        let repair = document.section("repair", |section| RepairSettings {
            interval_ms: positive(section, "interval_seconds", 0..=86_400, 60) * 1_000,
            bytes_per_second: positive(section, "mib_per_second", 1..=65_536, 256) << 20,
            busy_bytes_per_second: positive(section, "busy_mib_per_second", 1..=65_536, 1) << 20,
            hint_age_ms: positive(section, "hint_hours", 1..=8_760, 12) * 3_600_000,
            hint_bytes: positive(section, "hint_mib", 0..=65_536, 256) << 20,
            sloppy_bytes: positive(section, "sloppy_mib", 1..=1 << 20, 1_024) << 20,
            scrub_period_ms: positive(section, "scrub_hours", 0..=8_760, 168) * 3_600_000,
        });
        let clock = document.section("clock", |section| ClockSettings {
            offset_bound_ms: positive(section, "offset_bound_ms", 1..=86_400_000, 300_000),
            offset_ms: section.number("offset_ms", -OFFSET_MS_LIMIT..=OFFSET_MS_LIMIT, 0),
            offset_file: {
                let file = section.text("offset_file");
                non_empty(section, "offset_file", file).map(|file| directory.join(file))
            },
        });
        let log = document.section("log", read_log);
        let telemetry = document.section("telemetry", telemetry::read);
        document.finish();
        match (node, cluster, tls) {
            (Some(node), Some(cluster), Some(tls)) if document.problems.is_empty() => {
                let overrides = document.overrides;
                Ok(Self {
                    node,
                    http,
                    cluster,
                    tls,
                    access,
                    audit,
                    storage,
                    repair,
                    limits,
                    clock,
                    log,
                    telemetry,
                    overrides,
                })
            }
            _ => Err(document.problems),
        }
    }

    /// Where snapshots lie.
    pub fn snapshot_directory(&self) -> PathBuf {
        let own = || self.node.data_directory.join("snapshots");
        let configured = self.storage.snapshot_directory.as_ref();
        configured.map_or_else(own, |directory| directory.join(self.node.id.to_string()))
    }

    /// Only the initial members of a file, ascending by id; its other sections may be incomplete.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load_members(path: &Path) -> Result<Vec<Member>, ConfigError> {
        let text =
            read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let wrong = |problems| ConfigError::Wrong { path: path.to_owned(), problems };
        let nothing = BTreeMap::new();
        let mut document =
            Document::parse(&text, &nothing).map_err(|problem| wrong(vec![problem]))?;
        let members = document.section("cluster", read_members);
        if document.problems.is_empty() { Ok(members) } else { Err(wrong(document.problems)) }
    }

    /// What the cluster's first record is made from.
    pub fn genesis(&self) -> Genesis {
        Genesis {
            cluster: self.cluster.id,
            vnodes: self.cluster.vnodes,
            replication: self.cluster.replication,
            members: self.cluster.members.clone(),
        }
    }

    /// Whether the cluster is for trying: only its own host reaches it.
    pub fn is_local(&self) -> bool {
        let members = self.cluster.members.iter().map(|member| member.address);
        let http = self.http.data.then_some(self.http.listen);
        let own = [self.node.listen, self.node.advertise].into_iter().chain(http);
        members.chain(own).all(|at| at.ip().is_loopback())
    }

    /// The whole configuration as a file, with every default written out. Reading it gives the same
    /// configuration again.
    pub fn to_toml(&self) -> String {
        render::render(self)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        let message = format!("it has {length} bytes, more than {FILE_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    std::fs::read_to_string(path)
}

fn read_tls(section: &mut Section<'_>, directory: &Path) -> Option<TlsSettings> {
    let mut path = |key, example| {
        let text = section.required(key, example);
        non_empty(section, key, text).map(|text| directory.join(text))
    };
    let authority = path("authority", "\"authority.pem\"");
    let certificate = path("certificate", "\"node.pem\"");
    let key = path("key", "\"node.key\"");
    let text = section.text("revoked");
    let revoked = non_empty(section, "revoked", text).map(|text| directory.join(text));
    Some(TlsSettings { authority: authority?, certificate: certificate?, key: key?, revoked })
}

fn read_audit(section: &mut Section<'_>, directory: &Path, data: &Path) -> AuditSettings {
    let enabled = section.switch("enabled", true);
    let text = section.text("file");
    let file = non_empty(section, "file", text);
    let file = file.map_or_else(|| data.join(AUDIT_FILE), |text| directory.join(text));
    let files = positive(section, "files", 1..=100, 4);
    AuditSettings {
        enabled,
        file,
        file_bytes_max: positive(section, "file_mib", 1..=1_024, 8) << 20,
        files: u32::try_from(files).expect("the range fits 32 bits"),
    }
}

fn read_storage(
    section: &mut Section<'_>,
    directory: &Path,
    memory: &MemoryBounds,
) -> StorageSettings {
    let usual = |bytes: u64| i64::try_from(bytes >> 20).unwrap_or(i64::MAX);
    let memtable_bytes = positive(section, "memtable_mib", 1..=4_096, usual(memory.memtable)) << 20;
    let block_cache_bytes =
        positive(section, "block_cache_mib", 1..=1_048_576, usual(memory.block_cache)) << 20;
    let head_cache_bytes =
        positive(section, "head_cache_mib", 1..=1_048_576, usual(memory.heads)) << 20;
    if !memory.has_room_for(memtable_bytes, block_cache_bytes + head_cache_bytes) {
        section.wrong(
            "block_cache_mib",
            "with head_cache_mib and five times memtable_mib it is more than half of \
             limits.memory_mib: leave all three out",
        );
    }
    let snapshots = section.text("snapshot_directory");
    let snapshots = non_empty(section, "snapshot_directory", snapshots);
    let words = [("group", Durability::Group), ("periodic", Durability::Periodic)];
    StorageSettings {
        durability: section.word("durability", &words, Durability::Group),
        periodic_interval_ms: positive(section, "periodic_interval_ms", 1..=60_000, 100),
        memtable_bytes,
        block_cache_bytes,
        head_cache_bytes,
        segment_bytes: positive(section, "segment_mib", 1..=1_024, 64) << 20,
        snapshot_directory: snapshots.map(|text| directory.join(text)),
    }
}

fn read_limits(section: &mut Section<'_>) -> LimitSettings {
    let usual = Limits::default();
    let key = section.number("key_bytes_max", 16..=KEY_BYTES_LIMIT, usual.key_bytes_max.into());
    let value =
        section.number("value_bytes_max", 1..=SET_BYTES_LIMIT, usual.value_bytes_max.into());
    let siblings = section.number("siblings_max", 1..=1_024, usual.siblings_max.into());
    let set = section.number("set_bytes_max", 1..=SET_BYTES_LIMIT, usual.set_bytes_max.into());
    if set < value {
        section.wrong("set_bytes_max", format!("{set} is less than value_bytes_max, {value}"));
    }
    let memory = match section.number("memory_mib", 0..=1_048_576, 0) {
        0 => MemoryBounds::usual(),
        mib => {
            if mib < memory::MIB_MIN {
                let message = format!("{mib} is too little: at least {}", memory::MIB_MIN);
                section.wrong("memory_mib", message);
            }
            MemoryBounds::within(u64::try_from(mib).unwrap_or(0) << 20)
        }
    };
    LimitSettings {
        memory,
        data: Limits {
            key_bytes_max: u32::try_from(key).unwrap_or(usual.key_bytes_max),
            value_bytes_max: u32::try_from(value).unwrap_or(usual.value_bytes_max),
            siblings_max: u16::try_from(siblings).unwrap_or(usual.siblings_max),
            set_bytes_max: u32::try_from(set).unwrap_or(usual.set_bytes_max),
        },
        in_flight_max: count(section, "in_flight_max", 1..=1_000_000, 512),
        in_flight_per_client_max: count(section, "in_flight_per_client_max", 1..=1_000_000, 256),
        accept: AcceptLimits {
            connections_max: count(section, "connections_max", 8..=100_000, 1_024),
            connections_per_source_max: count(
                section,
                "connections_per_source_max",
                1..=100_000,
                512,
            ),
            handshakes_max: count(section, "handshakes_max", 8..=100_000, 256),
            handshakes_per_source_max: count(section, "handshakes_per_source_max", 1..=100_000, 64),
            handshakes_per_second: u32::try_from(count(
                section,
                "handshakes_per_second",
                1..=100_000,
                200,
            ))
            .unwrap_or(u32::MAX),
        },
    }
}

fn read_log(section: &mut Section<'_>) -> LogSettings {
    let level = section.text("level").unwrap_or_else(|| "info".to_owned());
    if let Err(message) = check_level(&level) {
        section.wrong("level", message);
    }
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings { level, format: section.word("format", &words, LogFormat::Text) }
}

/// A bare word that is no level would be taken for a module, and all else would fall silent.
fn check_level(level: &str) -> Result<(), String> {
    for part in level.split(',') {
        let bare = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if bare.trim().parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{bare:?} is none of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\""
            ));
        }
    }
    level.parse::<Targets>().map(|_| ()).map_err(|error| error.to_string())
}

/// An address, or the default where none is written; `None` for a wrong one.
fn address_or(
    section: &mut Section<'_>,
    key: &'static str,
    default: SocketAddr,
) -> Option<SocketAddr> {
    let address = address(section, key);
    if section.has(key) { address } else { Some(default) }
}

/// An address with a port.
fn address(section: &mut Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let text = section.text(key)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            section.wrong(key, format!("{text:?} has port 0, which others cannot know"));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let message =
                format!("{text:?} is not an IP address and a port, such as \"127.0.0.1:7101\"");
            section.wrong(key, message);
            None
        }
    }
}

fn non_empty(section: &mut Section<'_>, key: &'static str, text: Option<String>) -> Option<String> {
    let text = text?;
    if text.is_empty() {
        section.wrong(key, "is empty; write a path");
        return None;
    }
    Some(text)
}

/// A number whose range holds nothing negative.
fn positive(
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<i64>,
    default: i64,
) -> u64 {
    u64::try_from(section.number(key, range, default)).expect("the range holds nothing negative")
}

fn count(
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<i64>,
    default: i64,
) -> usize {
    usize::try_from(positive(section, key, range, default)).expect("the range fits 32 bits")
}

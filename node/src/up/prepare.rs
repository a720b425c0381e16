//! The directory of `quoit up`: made once, found again afterwards.
//!
//! `up.toml` comes first and says what the cluster is; whatever else is missing is then made from
//! it, so that a preparation that was cut short is continued, and what people changed stays.
//!
//! ```text
//! DIR/up.toml            what the cluster was made with
//! DIR/authority.{pem,key}
//! DIR/n1/quoit.toml      and node.{pem,key}, authority.pem, data/, log.txt
//! DIR/client/client.toml and client.{pem,key}, authority.pem
//! ```

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use quoit_ring::{ClusterId, NodeId, VnodeCount};
use serde::{Deserialize, Serialize};

use super::{BASE_PORT, HTTP_PORT_OFFSET, NODES, NODES_MAX, UpError, UpOptions};
use crate::authority::{
    AUTHORITY_CERTIFICATE, AUTHORITY_DAYS, AUTHORITY_KEY, Authority, CLIENT_CONFIGURATION, Subject,
    client_configuration,
};
use crate::config::{Config, REPLICATION, environment};

const MANIFEST: &str = "up.toml";
const LOCK: &str = "up.lock";
/// Sections of a configuration that say which node it is: an override of one of them would make
/// all nodes the same.
const ONE_NODES_SECTIONS: [&str; 4] =
    ["QUOIT_NODE_", "QUOIT_HTTP_", "QUOIT_TLS_", "QUOIT_CLUSTER_"];

/// A cluster's directory, locked for this process.
#[derive(Debug)]
pub struct Prepared {
    /// The directory.
    pub directory: PathBuf,
    /// The nodes, ascending by id.
    pub nodes: Vec<PreparedNode>,
    /// What a client needs.
    pub client_directory: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// Whether the cluster was made just now.
    pub is_new: bool,
    _lock: File,
}

/// One node's part of the directory.
#[derive(Debug)]
pub struct PreparedNode {
    /// Its configuration file.
    pub config_path: PathBuf,
    /// What the file says.
    pub config: Config,
    /// Where its process's output goes.
    pub log_path: PathBuf,
}

/// `up.toml`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    nodes: u16,
    replication: u8,
    vnodes: VnodeCount,
    base_port: u16,
}

/// Whether a variable of the environment overrides a setting that differs between nodes.
pub(super) fn is_of_one_node(variable: &str) -> bool {
    ONE_NODES_SECTIONS.iter().any(|section| variable.starts_with(section))
}

/// Makes what is missing in the directory, and reads what is there. No process is started.
///
/// # Errors
/// See [`UpError`]. What was already made is kept, and used the next time.
pub fn prepare(options: &UpOptions) -> Result<Prepared, UpError> {
    let directory = &options.directory;
    fs::create_dir_all(directory).map_err(failed("made", directory))?;
    let lock = lock(directory)?;
    let (manifest, is_new) = match read_manifest(directory)? {
        Some(manifest) => {
            check_options(directory, options, manifest)?;
            (manifest, false)
        }
        None => (make_manifest(directory, options)?, true),
    };
    let now = SystemTime::now();
    let authority = open_authority(directory, now)?;
    let client_directory = directory.join("client");
    prepare_client(&client_directory, &authority, manifest, now)?;
    let mut nodes = Vec::new();
    for number in 1..=manifest.nodes {
        nodes.push(prepare_node(directory, &authority, manifest, number, now)?);
    }
    Ok(Prepared {
        directory: directory.clone(),
        nodes,
        client_directory,
        cluster: authority.cluster(),
        is_new,
        _lock: lock,
    })
}

/// The system releases the lock with the process, however it ends.
fn lock(directory: &Path) -> Result<File, UpError> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(failed("written", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(UpError::Busy(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(UpError::File { action: "locked", path, source }),
    }
}

fn read_manifest(directory: &Path) -> Result<Option<Manifest>, UpError> {
    let path = directory.join(MANIFEST);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let wrong = |message: String| UpError::Manifest { path: path.clone(), message };
            let manifest: Manifest =
                toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            check_manifest(&manifest).map_err(wrong)?;
            Ok(Some(manifest))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(UpError::File { action: "read", path, source }),
    }
}

fn make_manifest(directory: &Path, options: &UpOptions) -> Result<Manifest, UpError> {
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    for entry in entries {
        let name = entry.map_err(failed("read", directory))?.file_name();
        if name != LOCK && name != temporary_name(MANIFEST).as_str() {
            let example = name.to_string_lossy().into_owned();
            return Err(UpError::NotOurs { directory: directory.to_owned(), example });
        }
    }
    let nodes = options.nodes.unwrap_or(NODES);
    let usual = REPLICATION.min(u8::try_from(nodes).unwrap_or(REPLICATION));
    let manifest = Manifest {
        nodes,
        replication: options.replication.unwrap_or(usual),
        vnodes: options.vnodes.unwrap_or(VnodeCount::DEFAULT),
        base_port: options.base_port.unwrap_or(BASE_PORT),
    };
    check_manifest(&manifest).map_err(UpError::Option)?;
    let path = directory.join(MANIFEST);
    let text = toml::to_string(&manifest)
        .map_err(|error| UpError::Manifest { path: path.clone(), message: error.to_string() })?;
    let text =
        format!("# Made by `quoit up`; the cluster cannot be changed by changing it.\n{text}");
    write_whole(&path, &text)?;
    Ok(manifest)
}

fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    let Manifest { nodes, replication, base_port, .. } = *manifest;
    if nodes == 0 || nodes > NODES_MAX {
        return Err(format!("{nodes} nodes: choose from 1 to {NODES_MAX}"));
    }
    if replication == 0 || u16::from(replication) > nodes {
        return Err(format!(
            "{replication} replicas of each key on {nodes} nodes: choose --rf from 1 to {nodes}"
        ));
    }
    let port_max = u16::MAX - HTTP_PORT_OFFSET - nodes;
    if base_port == 0 || base_port > port_max {
        return Err(format!("base port {base_port}: choose from 1 to {port_max}"));
    }
    Ok(())
}

/// What is asked for again must be what is there.
fn check_options(directory: &Path, options: &UpOptions, manifest: Manifest) -> Result<(), UpError> {
    let vnodes = options.vnodes.map(VnodeCount::get);
    let pairs: [(&'static str, u64, Option<u64>); 4] = [
        ("--nodes", manifest.nodes.into(), options.nodes.map(u64::from)),
        ("--rf", manifest.replication.into(), options.replication.map(u64::from)),
        ("--base-port", manifest.base_port.into(), options.base_port.map(u64::from)),
        ("--vnodes", manifest.vnodes.get().into(), vnodes.map(u64::from)),
    ];
    for (option, found, asked) in pairs {
        if let Some(asked) = asked
            && asked != found
        {
            let directory = directory.to_owned();
            return Err(UpError::Contradiction { directory, option, found, asked });
        }
    }
    Ok(())
}

fn open_authority(directory: &Path, now: SystemTime) -> Result<Authority, UpError> {
    let there = |name| directory.join(name).exists();
    let authority = if there(AUTHORITY_CERTIFICATE) || there(AUTHORITY_KEY) {
        Authority::open(directory)
    } else {
        Authority::create(directory, AUTHORITY_DAYS, now)
    };
    Ok(authority?)
}

fn prepare_client(
    directory: &Path,
    authority: &Authority,
    manifest: Manifest,
    now: SystemTime,
) -> Result<(), UpError> {
    prepare_credentials(directory, authority, &Subject::admin(), "client", now)?;
    let addresses: Vec<_> = (1..=manifest.nodes).map(|number| manifest.address(number)).collect();
    let text = client_configuration(authority.cluster(), &addresses);
    write_if_missing(&directory.join(CLIENT_CONFIGURATION), &text)
}

fn prepare_node(
    directory: &Path,
    authority: &Authority,
    manifest: Manifest,
    number: u16,
    now: SystemTime,
) -> Result<PreparedNode, UpError> {
    let id = NodeId(number.into());
    let directory = directory.join(id.to_string());
    prepare_credentials(&directory, authority, &Subject::Node(id), "node", now)?;
    let config_path = directory.join("quoit.toml");
    write_if_missing(&config_path, &config_text(authority.cluster(), manifest, number))?;
    let mut environment = environment();
    environment.retain(|name, _| !is_of_one_node(name));
    let config = Config::load(&config_path, &environment)?;
    Ok(PreparedNode { config_path, config, log_path: directory.join("log.txt") })
}

/// Certificate, key and the authority's certificate, as long-lived as the authority: nobody renews
/// the certificates of a cluster for trying.
fn prepare_credentials(
    directory: &Path,
    authority: &Authority,
    subject: &Subject,
    stem: &str,
    now: SystemTime,
) -> Result<(), UpError> {
    let certificate = directory.join(format!("{stem}.pem"));
    if !certificate.exists() {
        // A key without its certificate is what is left of a preparation that was cut short.
        let key = directory.join(format!("{stem}.key"));
        match fs::remove_file(&key) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(UpError::File { action: "removed", path: key, source }),
        }
        authority.issue(subject, AUTHORITY_DAYS, now)?.write(directory, stem)?;
    }
    write_if_missing(&directory.join(AUTHORITY_CERTIFICATE), authority.certificate_pem())
}

impl Manifest {
    fn address(&self, number: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base_port + number - 1).into()
    }

    fn http_address(&self, number: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base_port + number - 1 + HTTP_PORT_OFFSET).into()
    }
}

fn config_text(cluster: ClusterId, manifest: Manifest, number: u16) -> String {
    let mut text = format!(
        r#"# Made by `quoit up`. `quoit serve --config FILE --check` shows all settings.

[node]
id = "n{number}"
data_directory = "data"
listen = "{}"

[http]
listen = "{}"
data = true

[tls]
authority = "{AUTHORITY_CERTIFICATE}"
certificate = "node.pem"
key = "node.key"

# The same on all initial members.
[cluster]
id = "{cluster}"
vnodes = {}
replication = {}
"#,
        manifest.address(number),
        manifest.http_address(number),
        manifest.vnodes.get(),
        manifest.replication,
    );
    for member in 1..=manifest.nodes {
        let _ = write!(
            text,
            "\n[[cluster.members]]\nid = \"n{member}\"\naddress = \"{}\"\ndatacenter = \
             \"local\"\nrack = \"r{member}\"\n",
            manifest.address(member)
        );
    }
    text
}

fn write_if_missing(path: &Path, text: &str) -> Result<(), UpError> {
    if path.exists() { Ok(()) } else { write_whole(path, text) }
}

/// The file appears when it is whole.
fn write_whole(path: &Path, text: &str) -> Result<(), UpError> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let temporary = path.with_file_name(temporary_name(&name));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(failed("written", path))
}

fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UpError {
    let path = path.to_owned();
    move |source| UpError::File { action, path, source }
}

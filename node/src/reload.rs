//! Reading the configuration and the certificates again while the node runs (SIGHUP).
//!
//! All or nothing: files that a start would refuse change nothing, and the node goes on with what
//! it has. Certificates count for connections that are made from then on; those that are open stay.
//! Settings that only a start can take are named in the log, again at each reload.

use std::path::PathBuf;
use std::time::{SystemTime, SystemTimeError, UNIX_EPOCH};

use quoit_client::with_sources;
use tokio::sync::watch;
use toml::Table;

use crate::authority::{CheckError, check_credentials};
use crate::config::{Config, ConfigError, LimitSettings, environment};
use crate::http::GatewayIdentity;
use crate::log::LogLevel;
use crate::serve::{ServeError, read_tls};
use crate::transport::{TlsError, Transport};

/// The settings that a running node takes. `value_bytes_max` counts only up to the running
/// `set_bytes_max`, which belongs to the store.
const RELOADED: [&str; 13] = [
    "tls.authority",
    "tls.certificate",
    "tls.key",
    "log.level",
    "limits.key_bytes_max",
    "limits.value_bytes_max",
    "limits.in_flight_max",
    "limits.in_flight_per_client_max",
    "limits.connections_max",
    "limits.connections_per_source_max",
    "limits.handshakes_max",
    "limits.handshakes_per_source_max",
    "limits.handshakes_per_second",
];

/// Files that were not taken. Nothing has changed; mend them and reload again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates that the others would refuse.
    #[error(transparent)]
    Credentials(#[from] CheckError),
    /// A file that has gone since it was checked.
    #[error(transparent)]
    Files(#[from] ServeError),
    /// Certificates that TLS does not take.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The host's clock.
    #[error("the system's clock is set to an impossible time")]
    Clock(#[from] SystemTimeError),
}

/// What of a running node can be exchanged.
pub(crate) struct Reloader {
    /// The configuration's file.
    pub(crate) path: PathBuf,
    /// What the node runs with.
    pub(crate) running: Config,
    /// Where the log's level is set; `None` where the program has no log of its own.
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) transport: Transport,
    /// Through which HTTP reaches the cluster, with the node's certificate.
    pub(crate) gateway: GatewayIdentity,
    /// The way to the event loop.
    pub(crate) limits: watch::Sender<LimitSettings>,
}

impl Reloader {
    /// Reads everything again, and tells the log what came of it.
    pub(crate) fn reload(&mut self) {
        match self.try_reload() {
            Ok(waiting) => {
                tracing::info!("reloaded: certificates, log.level and [limits]");
                if !waiting.is_empty() {
                    let settings = waiting.join(", ");
                    tracing::warn!(settings, "these changed settings need a restart of the node");
                }
            }
            Err(error) => {
                let reason = with_sources(&error);
                tracing::error!(reason, "not reloaded: the node goes on with what it has");
            }
        }
    }

    /// The changed settings that need a restart.
    fn try_reload(&mut self) -> Result<Vec<String>, ReloadError> {
        let new = Config::load(&self.path, &environment())?;
        let waiting = needing_restart(&self.running, &new);
        // The node stays who it is, whatever the file says now.
        let (cluster, node) = (self.running.cluster.id, self.running.node.id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        check_credentials(&new.tls, cluster, node, now)?;
        let material = read_tls(&new.tls)?;
        self.transport.set_tls(&material)?;
        self.gateway.set(&self.running, &material);
        // The level was checked with the configuration.
        if let Some(log_level) = &self.log_level
            && let Err(error) = log_level.set(&new.log.level)
        {
            tracing::warn!(%error, "the log keeps its level");
        }
        self.running.tls = new.tls;
        self.running.log.level = new.log.level;
        let limits = &mut self.running.limits;
        limits.data.key_bytes_max = new.limits.data.key_bytes_max;
        limits.data.value_bytes_max =
            new.limits.data.value_bytes_max.min(limits.data.set_bytes_max);
        limits.in_flight_max = new.limits.in_flight_max;
        limits.in_flight_per_client_max = new.limits.in_flight_per_client_max;
        limits.accept = new.limits.accept;
        self.transport.set_accept_limits(limits.accept);
        self.limits.send_replace(*limits);
        Ok(waiting)
    }
}

/// The names of the settings that differ and are not taken by a running node.
fn needing_restart(running: &Config, new: &Config) -> Vec<String> {
    let (running, new) = (settings(running), settings(new));
    let mut names = Vec::new();
    for (section, values) in &new {
        let (Some(values), Some(others)) =
            (values.as_table(), running.get(section).and_then(toml::Value::as_table))
        else {
            continue;
        };
        for (key, value) in values {
            let name = format!("{section}.{key}");
            if others.get(key) != Some(value) && !RELOADED.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names
}

/// All settings by section and key.
fn settings(config: &Config) -> Table {
    config.to_toml().parse().expect("what is rendered can be read")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn only_what_a_running_node_cannot_take_is_named() {
        let config = |changes: &[(&str, &str)]| {
            let text = include_str!("../systemd/quoit.toml");
            let mut environment: BTreeMap<_, _> = [
                ("QUOIT_NODE_ID", "n1"),
                ("QUOIT_NODE_DATA_DIRECTORY", "data"),
                ("QUOIT_TLS_AUTHORITY", "a"),
                ("QUOIT_TLS_CERTIFICATE", "b"),
                ("QUOIT_TLS_KEY", "c"),
                ("QUOIT_CLUSTER_ID", "00112233445566778899aabbccddeeff"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            environment.extend(
                changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            );
            Config::parse(text, Path::new("/etc/quoit"), &environment).unwrap()
        };
        let running = config(&[]);
        assert!(needing_restart(&running, &running).is_empty());
        let taken = [("QUOIT_LOG_LEVEL", "debug"), ("QUOIT_LIMITS_IN_FLIGHT_MAX", "7")];
        assert!(needing_restart(&running, &config(&taken)).is_empty());
        let mut both = taken.to_vec();
        both.extend([("QUOIT_NODE_LISTEN", "127.0.0.1:7101"), ("QUOIT_STORAGE_SEGMENT_MIB", "9")]);
        assert_eq!(needing_restart(&running, &config(&both)), ["storage.segment_mib"]);
        for name in RELOADED {
            let (section, key) = name.split_once('.').unwrap();
            assert!(settings(&running)[section].get(key).is_some(), "{name} is no setting");
        }
    }
}

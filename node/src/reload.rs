//! Reading the configuration and the certificates again while the node runs (SIGHUP).
//!
//! All or nothing: files that a start would refuse change nothing, and the node goes on with what
//! it has. Certificates count for connections that are made from then on; those that are open stay,
//! unless the other side's certificate would be refused now. Roles and tokens count from the next request.
//! Settings that only a start can take are named in the log, again at each reload.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, SystemTimeError, UNIX_EPOCH};

use quoit_client::with_sources;
use tokio::sync::watch;
use toml::Table;

use crate::audit::{AuditLog, AuditOutcome, Entry, Via};
use crate::authority::{CheckError, check_credentials};
use crate::config::{AccessRules, Config, ConfigError, LimitSettings, environment};
use crate::http::{DoorError, Doors, GatewayIdentity};
use crate::log::LogLevel;
use crate::metrics::Metrics;
use crate::serve::{ServeError, expiring, read_tls};
use crate::transport::{TlsError, Transport};

/// The settings that a running node takes. `value_bytes_max` counts only up to the running
/// `set_bytes_max`, which belongs to the store.
const RELOADED: [&str; 20] = [
    "tls.authority",
    "tls.certificate",
    "tls.key",
    "tls.revoked",
    "access.default_role",
    "access.clients",
    "http.certificate",
    "http.key",
    "http.client_authority",
    "http.token_file",
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
    /// Files of HTTP that a start would refuse.
    #[error(transparent)]
    Doors(#[from] DoorError),
    /// The node listens for HTTP on other hosts' behalf, and nothing would guard its data any more.
    #[error(
        "http.listen is {0} until the node is restarted, which other hosts reach: http.certificate and \
         http.key, and http.token_file or http.client_authority, are needed until then"
    )]
    Unguarded(SocketAddr),
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
    /// By what HTTP tells apart who asks.
    pub(crate) doors: watch::Sender<Arc<Doors>>,
    /// The way to the event loop.
    pub(crate) limits: watch::Sender<LimitSettings>,
    /// And there, too.
    pub(crate) rules: watch::Sender<AccessRules>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: AuditLog,
}

impl Reloader {
    /// Reads everything again, and tells the log what came of it.
    pub(crate) fn reload(&mut self) {
        let reloaded = self.try_reload();
        self.audit.note(&Entry {
            who: "the operator of this host".to_owned(),
            address: None,
            via: Via::Signal,
            action: "reload",
            target: None,
            outcome: if reloaded.is_ok() { AuditOutcome::Done } else { AuditOutcome::NotDone },
            reason: reloaded.as_ref().err().map(|error| with_sources(error)),
        });
        match reloaded {
            Ok(waiting) => {
                tracing::info!("reloaded: certificates, roles, tokens, log.level and [limits]");
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
        // Whether only this host reaches the node is decided by where it listens, not by the new file.
        let rules = new.access.rules(self.running.is_local());
        let listen = self.running.http.listen;
        if self.running.http.data && !listen.ip().is_loopback() && !new.http.is_guarded() {
            return Err(ReloadError::Unguarded(listen));
        }
        let doors = Doors::open(&new.http, &rules, cluster, &material)?;
        self.transport.set_tls(&material)?;
        self.gateway.set(&self.running, &material);
        self.doors.send_replace(Arc::new(doors));
        self.rules.send_replace(rules);
        self.metrics.set_certificates(expiring(&new, &material));
        self.running.access = new.access;
        self.running.http.tls = new.http.tls;
        self.running.http.token_file = new.http.token_file;
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
        let all = config(&[
            ("QUOIT_TLS_REVOKED", "r"),
            ("QUOIT_ACCESS_DEFAULT_ROLE", "none"),
            ("QUOIT_HTTP_DATA", "true"),
            ("QUOIT_HTTP_CERTIFICATE", "c"),
            ("QUOIT_HTTP_KEY", "k"),
            ("QUOIT_HTTP_CLIENT_AUTHORITY", "a"),
            ("QUOIT_HTTP_TOKEN_FILE", "t"),
        ]);
        // The environment does not reach lists.
        for name in RELOADED.into_iter().filter(|name| *name != "access.clients") {
            let (section, key) = name.split_once('.').unwrap();
            assert!(settings(&all)[section].get(key).is_some(), "{name} is no setting");
        }
    }
}

//! A configuration as the file that would give it.

use std::fmt::{self, Write};
use std::path::Path;

use quoit_storage::store::Durability;

use super::{Config, LogFormat};

const MIB: u64 = 1 << 20;

pub(super) fn render(config: &Config) -> String {
    let mut text = String::new();
    write(config, &mut text).expect("a String takes all that is written to it");
    text
}

fn write(config: &Config, text: &mut String) -> fmt::Result {
    if !config.overrides.is_empty() {
        writeln!(text, "# overridden by the environment: {}\n", config.overrides.join(", "))?;
    }
    let Config { node, http, tls, storage, repair, limits, clock, log, telemetry, .. } = config;
    writeln!(text, "[node]")?;
    writeln!(text, "id = {}", quoted(&node.id.to_string()))?;
    writeln!(text, "data_directory = {}", path(&node.data_directory))?;
    writeln!(text, "listen = \"{}\"", node.listen)?;
    writeln!(text, "advertise = \"{}\"", node.advertise)?;
    writeln!(text, "\n[http]")?;
    writeln!(text, "listen = \"{}\"", http.listen)?;
    writeln!(text, "data = {}", http.data)?;
    writeln!(text, "page = {}", http.page)?;
    let certificates = http.tls.as_ref();
    let files = [
        ("certificate", certificates.map(|tls| &tls.certificate)),
        ("key", certificates.map(|tls| &tls.key)),
        ("client_authority", certificates.and_then(|tls| tls.client_authority.as_ref())),
        ("token_file", http.token_file.as_ref()),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            writeln!(text, "{name} = {}", path(file))?;
        }
    }
    writeln!(text, "connections_max = {}", http.connections_max)?;
    writeln!(text, "connections_per_source_max = {}", http.connections_per_source_max)?;
    writeln!(text, "in_flight_max = {}", http.in_flight_max)?;
    writeln!(text, "\n[tls]")?;
    writeln!(text, "authority = {}", path(&tls.authority))?;
    writeln!(text, "certificate = {}", path(&tls.certificate))?;
    writeln!(text, "key = {}", path(&tls.key))?;
    if let Some(revoked) = &tls.revoked {
        writeln!(text, "revoked = {}", path(revoked))?;
    }
    write_access(config, text)?;
    writeln!(text, "\n[storage]")?;
    let durability = match storage.durability {
        Durability::Group => "group",
        Durability::Periodic => "periodic",
    };
    writeln!(text, "durability = \"{durability}\"")?;
    writeln!(text, "periodic_interval_ms = {}", storage.periodic_interval_ms)?;
    writeln!(text, "memtable_mib = {}", storage.memtable_bytes / MIB)?;
    writeln!(text, "block_cache_mib = {}", storage.block_cache_bytes / MIB)?;
    writeln!(text, "head_cache_mib = {}", storage.head_cache_bytes / MIB)?;
    writeln!(text, "segment_mib = {}", storage.segment_bytes / MIB)?;
    if let Some(directory) = &storage.snapshot_directory {
        writeln!(text, "snapshot_directory = {}", path(directory))?;
    }
    writeln!(text, "\n[repair]")?;
    writeln!(text, "interval_seconds = {}", repair.interval_ms / 1_000)?;
    writeln!(text, "mib_per_second = {}", repair.bytes_per_second / MIB)?;
    writeln!(text, "busy_mib_per_second = {}", repair.busy_bytes_per_second / MIB)?;
    writeln!(text, "hint_hours = {}", repair.hint_age_ms / 3_600_000)?;
    writeln!(text, "hint_mib = {}", repair.hint_bytes / MIB)?;
    writeln!(text, "sloppy_mib = {}", repair.sloppy_bytes / MIB)?;
    writeln!(text, "scrub_hours = {}", repair.scrub_period_ms / 3_600_000)?;
    writeln!(text, "\n[limits]")?;
    writeln!(text, "key_bytes_max = {}", limits.data.key_bytes_max)?;
    writeln!(text, "value_bytes_max = {}", limits.data.value_bytes_max)?;
    writeln!(text, "siblings_max = {}", limits.data.siblings_max)?;
    writeln!(text, "set_bytes_max = {}", limits.data.set_bytes_max)?;
    writeln!(text, "memory_mib = {}", limits.memory.limit.unwrap_or(0) / MIB)?;
    writeln!(text, "in_flight_max = {}", limits.in_flight_max)?;
    writeln!(text, "in_flight_per_client_max = {}", limits.in_flight_per_client_max)?;
    let accept = limits.accept;
    writeln!(text, "connections_max = {}", accept.connections_max)?;
    writeln!(text, "connections_per_source_max = {}", accept.connections_per_source_max)?;
    writeln!(text, "handshakes_max = {}", accept.handshakes_max)?;
    writeln!(text, "handshakes_per_source_max = {}", accept.handshakes_per_source_max)?;
    writeln!(text, "handshakes_per_second = {}", accept.handshakes_per_second)?;
    writeln!(text, "\n[clock]")?;
    writeln!(text, "offset_bound_ms = {}", clock.offset_bound_ms)?;
    writeln!(text, "offset_ms = {}", clock.offset_ms)?;
    if let Some(file) = &clock.offset_file {
        writeln!(text, "offset_file = {}", path(file))?;
    }
    writeln!(text, "\n[log]")?;
    writeln!(text, "level = {}", quoted(&log.level))?;
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    writeln!(text, "format = \"{format}\"")?;
    writeln!(text, "\n[telemetry]")?;
    let endpoint = telemetry.otlp_endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    writeln!(text, "otlp_endpoint = {}\n", quoted(&endpoint))?;
    write_cluster(config, text)
}

fn write_access(config: &Config, text: &mut String) -> fmt::Result {
    let Config { access, audit, .. } = config;
    writeln!(text, "\n[access]")?;
    match access.default_role {
        Some(role) => writeln!(text, "default_role = \"{role}\"")?,
        None if config.is_local() => {
            writeln!(text, "# default_role = \"admin\"  # only this host reaches the cluster")?;
        }
        None => writeln!(text, "# default_role = \"none\"")?,
    }
    for (name, grants) in &access.clients {
        for grant in grants {
            writeln!(text, "\n[[access.clients]]")?;
            writeln!(text, "name = {}", quoted(name))?;
            writeln!(text, "role = \"{}\"", grant.role)?;
            let tables: Vec<_> = grant.tables.iter().map(|table| quoted(table)).collect();
            if !tables.is_empty() {
                writeln!(text, "tables = [{}]", tables.join(", "))?;
            }
        }
    }
    writeln!(text, "\n[audit]")?;
    writeln!(text, "enabled = {}", audit.enabled)?;
    writeln!(text, "file = {}", path(&audit.file))?;
    writeln!(text, "file_mib = {}", audit.file_bytes_max / MIB)?;
    writeln!(text, "files = {}", audit.files)
}

fn write_cluster(config: &Config, text: &mut String) -> fmt::Result {
    let cluster = &config.cluster;
    writeln!(text, "# The same on all initial members.\n[cluster]")?;
    writeln!(text, "id = \"{}\"", cluster.id)?;
    writeln!(text, "vnodes = {}", cluster.vnodes.get())?;
    writeln!(text, "replication = {}", cluster.replication)?;
    for member in &cluster.members {
        writeln!(text, "\n[[cluster.members]]")?;
        writeln!(text, "id = \"{}\"", member.id)?;
        writeln!(text, "address = \"{}\"", member.address)?;
        writeln!(text, "datacenter = {}", quoted(&member.zone.datacenter))?;
        writeln!(text, "rack = {}", quoted(&member.zone.rack))?;
        writeln!(text, "capacity = {}", member.capacity)?;
    }
    Ok(())
}

/// A path that is no UTF-8 is shown as well as it can be: it did not come from a TOML file.
fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

//! Everything that turns bytes from outside into something: what holds for any bytes at all.
//!
//! Each of [`TARGETS`] is a function that panics where a decoder breaks its word: that it never panics,
//! that what it reads is what it would write, that no more is held than the input warrants. The fuzz
//! targets of `node/fuzz` call them with whatever they come up with, and `node/tests/corpus.rs` with all
//! that they have kept. The product does not call them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Config;
use crate::http;

/// What is called with any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their fuzz targets.
pub const TARGETS: [(&str, Target); 16] = [
    ("frames", quoit_protocol::decoding::frames),
    ("client_messages", quoit_protocol::decoding::client_messages),
    ("seen", quoit_protocol::decoding::seen),
    ("peer_messages", quoit_core::decoding::peer_messages),
    ("contexts", quoit_core::decoding::contexts),
    ("documents", quoit_core::decoding::documents),
    ("gossip", quoit_gossip::decoding::messages),
    ("sets", quoit_storage::decoding::sets),
    ("stored_keys", quoit_storage::decoding::stored_keys),
    ("log_records", quoit_storage::decoding::log_records),
    ("envelopes", quoit_storage::decoding::envelopes),
    ("logs", quoit_storage::decoding::logs),
    ("small_files", quoit_storage::decoding::small_files),
    ("configurations", configurations),
    ("http_requests", http_requests),
    ("http_batches", http_batches),
];

/// Calls the target of that name, if there is one.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    if let Some((_, target)) = target {
        target(bytes);
    }
    target.is_some()
}

/// A configuration file: read, or refused with a line for each mistake; what is written of it reads back.
pub fn configurations(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (directory, environment) = (Path::new("/nowhere"), BTreeMap::new());
    match Config::parse(text, directory, &environment) {
        Ok(config) => {
            let again = Config::parse(&config.to_toml(), directory, &environment);
            assert!(again.is_ok_and(|again| again == config), "what is written reads back");
        }
        Err(problems) => assert!(!problems.is_empty(), "a refusal says why"),
    }
}

/// A request by HTTP: its target, then headers.
pub fn http_requests(bytes: &[u8]) {
    http::decoding::requests(bytes);
}

/// The lines of a batch by HTTP.
pub fn http_batches(bytes: &[u8]) {
    http::decoding::batches(bytes);
}

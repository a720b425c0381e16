//! Who a data directory belongs to, and how often its node was started.
//!
//! It is what keeps two nodes from taking turns on one directory, and a node from going on with the
//! data of another cluster. Kept in two copies ([`SmallFile`]), since nobody else could say it.

use std::sync::Arc;

use quoit_ring::{ClusterId, NodeId, WallTime};
use quoit_storage::disk::Disk;
use quoit_storage::small_file::{SmallFile, SmallFileError};
use serde::{Deserialize, Serialize};

use crate::config::AUDIT_FILE;

/// The document's name on the disk; its copies are `identity.a` and `identity.b`.
pub const IDENTITY_FILE: &str = "identity";

/// The format that this program writes.
const FORMAT: u16 = 1;
/// So many bits of a start's time tell it from another one of the same number.
const START_BITS: u32 = 20;
/// What may lie in a new directory: the disk's lock, and a save that was cut short.
const NEW_FILES: [&str; 2] = ["LOCK", "identity.new"];
/// Where a node's data lies besides the root.
const DATA_DIRECTORIES: [&str; 2] = ["log", "tables"];

/// The identity of a data directory, as it holds for this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// When the directory was made, by this node's clock.
    pub created: WallTime,
    /// How often a node was started on it, this start included: 1 on a new one.
    pub boot_count: u64,
    /// Which of the node's lives this is: greater in a directory that was made later.
    pub incarnation: u64,
    /// When this start was, by this node's clock.
    pub started: WallTime,
    /// That one copy was damaged and has been written anew: worth a line in the program's log.
    pub repaired: Option<String>,
}

/// The document, encoded with names so that another format's can still be told.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u16,
    cluster: String,
    node: u64,
    created_ms: u64,
    boot_count: u64,
    incarnation: u64,
}

/// Of any format: what never changes.
#[derive(Deserialize)]
struct Format {
    format: u16,
}

/// A data directory that this node must not use. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is another node's.
    #[error(
        "the data directory belongs to node {found}, and this is {expected}: correct \
         node.data_directory or node.id"
    )]
    OtherNode {
        /// The configured node.
        expected: NodeId,
        /// The directory's node.
        found: NodeId,
    },
    /// It is another cluster's.
    #[error(
        "the data directory belongs to cluster {found}, and this node is configured for cluster \
         {expected}: correct node.data_directory or cluster.id"
    )]
    OtherCluster {
        /// The configured cluster.
        expected: ClusterId,
        /// The directory's cluster.
        found: ClusterId,
    },
    /// A newer program wrote it.
    #[error(
        "the data directory has format {found}, and this program knows formats up to {FORMAT}: \
         start the program that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The directory's format.
        found: u16,
    },
    /// The directory holds data and does not say whose.
    #[error(
        "the data directory holds data ({example}), but identity.a and identity.b are gone: \
         restore one of them from a backup; do not start the node on an emptied directory, where \
         it would take for absent what it has acknowledged"
    )]
    Gone {
        /// One of the files found.
        example: String,
    },
    /// Both copies are damaged, or the disk fails.
    #[error("the data directory's identity cannot be used{}", lost_hint(.0))]
    File(#[from] SmallFileError),
    /// The copies are whole, and yet no identity.
    #[error(
        "identity.a and identity.b are whole but not understood ({0}): restore them from a backup; \
         do not start the node on an emptied directory"
    )]
    NotUnderstood(String),
    /// The disk does not list its files.
    #[error("the data directory cannot be read")]
    Disk(#[source] std::io::Error),
}

fn lost_hint(error: &SmallFileError) -> &'static str {
    match error {
        SmallFileError::Damaged { .. } => {
            " (do not start the node on an emptied directory, where it would take for absent what it \
             has acknowledged)"
        }
        _ => "",
    }
}

impl Identity {
    /// Takes a data directory for `node` of `cluster`: a new one is marked as theirs, another one
    /// is checked to be. Counts the start; the count is durable when this returns.
    ///
    /// `now` dates a new directory, and makes its incarnation differ from one that was there
    /// before.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        node: NodeId,
        now: WallTime,
    ) -> Result<Self, IdentityError> {
        let file = SmallFile::new(Arc::clone(&disk), IDENTITY_FILE);
        let mut identity = match file.load()? {
            Some(loaded) => Self { repaired: loaded.repaired, ..decode(&loaded.bytes)? },
            None => {
                check_new(&*disk)?;
                let incarnation = now.0.max(1);
                Self {
                    cluster,
                    node,
                    created: now,
                    boot_count: 0,
                    incarnation,
                    started: now,
                    repaired: None,
                }
            }
        };
        if identity.cluster != cluster {
            let found = identity.cluster;
            return Err(IdentityError::OtherCluster { expected: cluster, found });
        }
        if identity.node != node {
            return Err(IdentityError::OtherNode { expected: node, found: identity.node });
        }
        identity.boot_count += 1;
        identity.started = now;
        file.save(&encode(&identity))?;
        Ok(identity)
    }

    /// Names this start to gossip: greater at each start, and in a directory that was made later, since
    /// the others believe the greatest one that they have heard of lately. After an older disk was put
    /// back a start has a number that was there before; the clock's last bits tell the two apart.
    pub fn generation(&self) -> u64 {
        let start = self.incarnation.saturating_add(self.boot_count) & (u64::MAX >> START_BITS);
        start << START_BITS | (self.started.0 & ((1 << START_BITS) - 1))
    }
}

/// Refuses a directory that has lost its identity: to make a new one would pass old data off as
/// this node's.
fn check_new(disk: &dyn Disk) -> Result<(), IdentityError> {
    let root = disk.list("").map_err(IdentityError::Disk)?;
    // The audit log may be there before any data is, and tells of none.
    let is_data =
        |name: &String| !NEW_FILES.contains(&name.as_str()) && !name.starts_with(AUDIT_FILE);
    if let Some(example) = root.into_iter().find(is_data) {
        return Err(IdentityError::Gone { example });
    }
    for directory in DATA_DIRECTORIES {
        let names = disk.list(directory).map_err(IdentityError::Disk)?;
        if let Some(name) = names.first() {
            return Err(IdentityError::Gone { example: format!("{directory}/{name}") });
        }
    }
    Ok(())
}

fn encode(identity: &Identity) -> Vec<u8> {
    let document = Document {
        format: FORMAT,
        cluster: identity.cluster.to_string(),
        node: identity.node.0,
        created_ms: identity.created.0,
        boot_count: identity.boot_count,
        incarnation: identity.incarnation,
    };
    rmp_serde::to_vec_named(&document).expect("plain data always encodes")
}

fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
    let wrong = |error: rmp_serde::decode::Error| IdentityError::NotUnderstood(error.to_string());
    let Format { format } = rmp_serde::from_slice(bytes).map_err(wrong)?;
    if format > FORMAT {
        return Err(IdentityError::NewerFormat { found: format });
    }
    let document: Document = rmp_serde::from_slice(bytes).map_err(wrong)?;
    let cluster = document
        .cluster
        .parse()
        .map_err(|error| IdentityError::NotUnderstood(format!("{error}")))?;
    Ok(Identity {
        cluster,
        node: NodeId(document.node),
        created: WallTime(document.created_ms),
        boot_count: document.boot_count,
        incarnation: document.incarnation,
        started: WallTime(0),
        repaired: None,
    })
}

#[cfg(test)]
mod tests;

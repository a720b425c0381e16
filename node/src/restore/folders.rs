//! The snapshot's folders: that they belong together, are whole, and are enough.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use quoit_cli::{CommandError, Progress, Shortage, note, shortages};
use quoit_client::{NodeId, with_sources};
use quoit_ring::ClusterRecord;
use quoit_storage_files::snapshot::{ManifestError, Snapshot};
use quoit_storage_files::tables::TablesOptions;

use super::merge::Source;

/// Blocks of all folders together that are kept in memory.
const BLOCK_CACHE_BYTES: u64 = 64 << 20;

/// Folders of one snapshot, one of each node.
pub(super) struct Folders {
    snapshots: Vec<(NodeId, Snapshot)>,
    /// The newest record that any of them has.
    pub(super) record: ClusterRecord,
}

impl Folders {
    /// Reads the manifests.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, CommandError> {
        let wrong = |text: String| CommandError::BadInput(format!("{text}; nothing was restored"));
        let mut snapshots = BTreeMap::<NodeId, Snapshot>::new();
        for path in paths {
            let snapshot = Snapshot::open(path).map_err(|error| {
                let text = with_sources(&error);
                match error {
                    ManifestError::Io { .. } => CommandError::NotDone(text),
                    _ => wrong(text),
                }
            })?;
            let node = snapshot.manifest.node().expect("a manifest was checked");
            if let Some((other, first)) = snapshots.first_key_value() {
                let (one, two) = (&first.manifest, &snapshot.manifest);
                if one.cluster != two.cluster {
                    return Err(wrong(format!(
                        "{} is of the cluster {}, and that of {other} of {}: restore them apart",
                        path.display(),
                        two.cluster,
                        one.cluster
                    )));
                }
                if one.name != two.name {
                    return Err(wrong(format!(
                        "{} is of the snapshot {}, and that of {other} of {}: restore them apart",
                        path.display(),
                        two.name,
                        one.name
                    )));
                }
            }
            if let Some(other) = snapshots.insert(node, snapshot) {
                return Err(wrong(format!(
                    "{} and {} are both of {node}: name one of them",
                    other.folder.display(),
                    path.display()
                )));
            }
        }
        let records = snapshots.values().map(|snapshot| &snapshot.manifest.record);
        let Some(record) = records.max_by_key(|record| record.epoch).cloned() else {
            return Err(wrong("no folder was named".to_owned()));
        };
        Ok(Self { snapshots: snapshots.into_iter().collect(), record })
    }

    pub(super) fn name(&self) -> String {
        self.snapshots[0].1.manifest.name.to_string()
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.snapshots.iter().map(|(node, _)| *node).collect()
    }

    /// The number of files, and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let manifests = self.snapshots.iter().map(|(_, snapshot)| &snapshot.manifest);
        manifests.fold((0, 0), |(files, bytes), manifest| {
            (files + manifest.files.len() as u64, bytes + manifest.bytes())
        })
    }

    /// Reads every file and compares it with its checksum.
    pub(super) fn verify(&self) -> Result<(), CommandError> {
        let mut progress = Progress::new("verify", Some(self.size().1));
        let (mut done, mut files) = (0, 0);
        let (mut damaged, mut of) = (Vec::new(), BTreeSet::new());
        for (node, snapshot) in &self.snapshots {
            let found = snapshot.verify(&mut |bytes| {
                done += bytes;
                progress.set(done, files);
            });
            files += snapshot.manifest.files.len() as u64;
            if !found.is_empty() {
                of.insert(*node);
            }
            damaged.extend(found);
        }
        progress.finish();
        damaged.iter().for_each(|damage| note(&format!("damaged: {damage}")));
        if damaged.is_empty() {
            return Ok(());
        }
        let of: Vec<String> = of.iter().map(ToString::to_string).collect();
        Err(CommandError::BadInput(format!(
            "{} of the snapshot's files {} not what was written, and nothing was restored: take \
             another copy of the folder of {}, or leave it out if the other nodes' are enough (that \
             is checked)",
            damaged.len(),
            if damaged.len() == 1 { "is" } else { "are" },
            of.join(" and of ")
        )))
    }

    /// Opens what the folders hold. `scratch` must stay as long as that is read.
    pub(super) fn read(&self, scratch: &tempfile::TempDir) -> Result<Vec<Source>, CommandError> {
        let options = TablesOptions {
            block_cache_bytes: BLOCK_CACHE_BYTES / self.snapshots.len().max(1) as u64,
            ..TablesOptions::default()
        };
        let source = |(node, snapshot): &(NodeId, Snapshot)| {
            let frozen = snapshot.read(&scratch.path().join(node.to_string()), &options);
            let frozen = frozen.map_err(|error| CommandError::BadInput(with_sources(&error)))?;
            Ok(Source { node: *node, frozen })
        };
        self.snapshots.iter().map(source).collect()
    }

    /// Whether the folders have all that was acknowledged; says what to do where they do not.
    pub(super) fn check_enough(
        &self,
        sources: &[Source],
        allow_missing: bool,
    ) -> Result<(), CommandError> {
        let is_there = |node, vnode| {
            sources.iter().any(|source| source.node == node && source.frozen.is_whole(vnode))
        };
        let short = shortages(&self.record, is_there);
        if short.is_empty() {
            return Ok(());
        }
        let text = short.iter().map(describe).collect::<Vec<_>>().join("; ");
        if allow_missing {
            note(&format!("what was acknowledged may be lacking: {text}"));
            return Ok(());
        }
        Err(CommandError::BadInput(format!(
            "the folders may lack what was acknowledged, and nothing was restored: {text}; name the \
             folders of these nodes as well, or restore what there is with --allow-missing"
        )))
    }
}

fn describe(shortage: &Shortage) -> String {
    let lacking = shortage.lacking.keys().map(ToString::to_string).collect::<Vec<_>>();
    format!(
        "{} in {} virtual nodes, of which {} had replicas, or could not vouch for them",
        shortage.table,
        shortage.vnodes,
        lacking.join(", ")
    )
}

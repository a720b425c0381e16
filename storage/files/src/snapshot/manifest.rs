//! What a snapshot's folder holds, as the manifest in it says: written last, sealed with a checksum.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use quoit_ring::{ClusterRecord, NodeId, RecordError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

/// The manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The format that this code writes. Raise it when an older program could not read the folder.
const FORMAT: u32 = 1;
/// A manifest is never longer: room for the record of a large cluster and 100,000 files.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// A name is a folder's name, and goes into messages.
const NAME_BYTES_MAX: usize = 64;

/// A snapshot's name: 1 to 64 letters, digits, `_`, `-` and `.`, not beginning with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

/// A text that is no snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snapshot's name is 1 to 64 letters, digits, '_', '-' or '.', and does not begin with '.', \
     unlike {0:?}"
)]
pub struct NameError(String);

impl FromStr for SnapshotName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.starts_with('.');
        match is_name && text.chars().all(good) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError(text.chars().take(NAME_BYTES_MAX + 1).collect())),
        }
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its path in the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its xxh3-128, in 32 hexadecimal digits.
    pub checksum: String,
}

impl SnapshotFile {
    /// Whether the name stays inside the folder.
    fn is_inside(&self) -> bool {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        self.name.split('/').all(plain) && !self.name.contains('\0')
    }
}

/// A checksum as manifests write it.
pub(super) fn checksum_text(checksum: u128) -> String {
    format!("{checksum:032x}")
}

/// What a table was, for people; the record has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePolicy {
    /// Its name.
    pub name: String,
    /// N.
    pub n: u8,
    /// R and W, where a request names none.
    pub r: String,
    /// See `r`.
    pub w: String,
    /// What happens to concurrent writes.
    pub policy: String,
    /// How long a value lives where its write does not say.
    pub ttl_ms: Option<u64>,
    /// Whether fallbacks take writes.
    pub sloppy: bool,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of the folder.
    pub format: u32,
    /// The program that made it.
    pub program: String,
    /// The snapshot's name.
    pub name: SnapshotName,
    /// When it was made, by the node's own clock, in milliseconds since 1970.
    pub made_ms: u64,
    /// The node, such as `n1`.
    pub node: String,
    /// The cluster's id.
    pub cluster: String,
    /// Every record of the node's commit log up to this one is in it.
    pub sequence: u64,
    /// When the durability is `group`, each write is synced before it is acknowledged.
    pub durability: String,
    /// The tables and their policies.
    pub tables: Vec<TablePolicy>,
    /// All files but this one.
    pub files: Vec<SnapshotFile>,
    /// Members, ring and tables at that moment.
    pub record: ClusterRecord,
}

/// Why a folder's manifest does not tell what the folder holds.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is none: the folder is no snapshot, or one that was never finished.
    #[error(
        "{0} is no snapshot's folder: it has no {MANIFEST_FILE} (a folder without one was never \
         finished)"
    )]
    Absent(String),
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged. The folder is of no use: take another copy of it, or the other nodes'.
    #[error("{path} is damaged ({reason}): take another copy of the folder, or leave it out")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Another program wrote it.
    #[error("{path} has format {found}, and this program knows {FORMAT}: use a newer program")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
    },
}

/// The file: the manifest's text, and the checksum of that.
#[derive(Serialize, Deserialize)]
struct Sealed {
    checksum: String,
    manifest: Box<RawValue>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    /// The number of the format that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// The node.
    pub fn node(&self) -> Option<NodeId> {
        self.node.parse().ok()
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What the tables of a record were.
    pub fn tables_of(record: &ClusterRecord) -> Vec<TablePolicy> {
        let policy = |table: &quoit_ring::Table| TablePolicy {
            name: table.name.clone(),
            n: table.options.replication,
            r: table.options.read_level.to_string(),
            w: table.options.write_level.to_string(),
            policy: table.options.policy.to_string(),
            ttl_ms: table.options.ttl_ms,
            sloppy: table.options.sloppy,
        };
        record.tables.iter().map(policy).collect()
    }

    /// The file's bytes.
    pub(super) fn seal(&self) -> io::Result<Vec<u8>> {
        let manifest = serde_json::to_string(self)?;
        let checksum = checksum_text(xxh3_128(manifest.as_bytes()));
        let manifest = RawValue::from_string(manifest)?;
        let mut bytes = serde_json::to_vec(&Sealed { checksum, manifest })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a folder's manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(MANIFEST_FILE);
        let shown = path.display().to_string();
        let mut bytes = Vec::new();
        let read = fs::File::open(&path)
            .and_then(|file| file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {
                return Err(ManifestError::Absent(folder.display().to_string()));
            }
            Err(source) => return Err(ManifestError::Io { path: shown, source }),
        }
        let damaged = |reason: String| ManifestError::Damaged { path: shown.clone(), reason };
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(damaged(format!("it has more than {MANIFEST_BYTES_MAX} bytes")));
        }
        let sealed: Sealed =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let text = sealed.manifest.get();
        if checksum_text(xxh3_128(text.as_bytes())) != sealed.checksum {
            return Err(damaged("its checksum is another".to_owned()));
        }
        let format: Format =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if format.format != FORMAT {
            return Err(ManifestError::Newer { path: shown, found: format.format });
        }
        let manifest: Self =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        manifest.record.check().map_err(|RecordError(what)| damaged(what.to_owned()))?;
        if !manifest.files.iter().all(SnapshotFile::is_inside) || manifest.node().is_none() {
            return Err(damaged("it names what cannot be".to_owned()));
        }
        Ok(manifest)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

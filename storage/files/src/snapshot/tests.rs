use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use quoit_ring::{
    ClusterId, ClusterRecord, ConfigurationNumber, ConflictPolicy, Epoch, HybridTime, Member,
    NodeId, RingKey, TableId, Token, VnodeCount, Zone,
};
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{self, Change, Mutation, Opened, Outcome, StoreOptions, Stream};
use quoit_storage::version::{Actor, Content, Dot, SiblingSet, Version};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::disk::FileDisk;
use crate::tables::{Tables, TablesOptions};

const KEYS: u64 = 50;

struct Node {
    opened: Opened,
    tables: Arc<Tables>,
}

fn open(directory: &Path) -> Node {
    let disk = Arc::new(FileDisk::open(directory).unwrap());
    let tables = Tables::open(&directory.join("tables"), TablesOptions::default()).unwrap().0;
    let tables = Arc::new(tables);
    let options =
        StoreOptions { memory_bytes_max: 64 << 10, segment_bytes: 64 << 10, ..Default::default() };
    let opened = store::open(disk, tables.clone(), options, None, 5).unwrap();
    Node { opened, tables }
}

fn key(number: u64) -> StoredKey {
    let token = Token(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    StoredKey::new(token, TableId(1), &number.to_be_bytes(), b"").unwrap()
}

fn set(number: u64, time: u64) -> SiblingSet {
    let bytes = Bytes::from(vec![time as u8; 500]);
    let checksum = xxh3_64_with_seed(&bytes, key(number).token().0);
    let dot = Dot { time: HybridTime(time), actor: Actor(1) };
    SiblingSet::of(Version { dot, content: Content::Value { bytes, checksum }, expires: None })
}

/// Writes all keys.
fn fill(node: &mut Node, time: u64) {
    for number in 0..KEYS {
        let change = Change::Merge { set: set(number, time), rebuild: false, authority: None };
        let (policy, values) = (ConflictPolicy::Latest, Vec::new());
        let mutation = Mutation { key: key(number), replication: 3, policy, change, values };
        let outcome = node.opened.writer.prepare(mutation);
        assert!(matches!(outcome, Outcome::Merged(_)), "{outcome:?}");
    }
    node.opened.writer.commit().unwrap();
}

fn freeze(node: &mut Node) -> (Bytes, HeldTables) {
    let from = node.opened.writer.begin_freeze().unwrap();
    let hold = || node.tables.hold().map_err(|error| error.to_string());
    node.opened.maintainer.freeze(from, hold).unwrap().expect("all that was closed is flushed")
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

fn manifest(text: &str) -> Manifest {
    let member = Member {
        id: NodeId(1),
        address: "127.0.0.1:7101".parse().unwrap(),
        zone: Zone { datacenter: "d".into(), rack: "r".into() },
        capacity: 1,
    };
    let vnodes = VnodeCount::new(4).unwrap();
    let record = ClusterRecord {
        cluster: ClusterId(42),
        epoch: Epoch(1),
        ring_key: RingKey(1, u64::MAX),
        vnodes,
        members: vec![member],
        owners: vec![vec![0]; 4],
        configurations: vec![ConfigurationNumber(1); 4],
        tables: Vec::new(),
        table_id_next: TableId(1),
        voters: vec![NodeId(1)],
        incarnations: Vec::new(),
    };
    Manifest {
        format: Manifest::FORMAT,
        program: "test".to_owned(),
        name: name(text),
        made_ms: 1,
        node: "n1".to_owned(),
        cluster: record.cluster.to_string(),
        sequence: 1,
        durability: "group".to_owned(),
        tables: Vec::new(),
        files: Vec::new(),
        record,
    }
}

/// What a folder holds, by key.
fn read(folder: &Path) -> BTreeMap<StoredKey, SiblingSet> {
    let snapshot = Snapshot::open(folder).unwrap();
    assert_eq!(snapshot.verify(&mut |_| {}), []);
    let scratch = tempfile::tempdir().unwrap();
    let frozen = snapshot.read(&scratch.path().join("tables"), &TablesOptions::default()).unwrap();
    let (mut found, mut last) = (BTreeMap::new(), None);
    loop {
        let rows = frozen.rows(Stream::Own, last.as_ref(), 7, 1 << 20).unwrap();
        let Some(row) = rows.last() else { return found };
        last = Some(row.key.clone());
        found.extend(rows.into_iter().map(|row| (row.key, row.known.set)));
    }
}

fn expected(time: u64) -> BTreeMap<StoredKey, SiblingSet> {
    (0..KEYS).map(|number| (key(number), set(number, time))).collect()
}

#[test]
fn a_snapshot_stays_as_it_was_whatever_the_node_writes_and_compacts() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = open(directory.path());
    let snapshots = Snapshots::new(&directory.path().join("snapshots"));
    let stopping = AtomicBool::new(false);
    let (maintainer, others) = (node.opened.maintainer.clone(), node.opened.maintainer.clone());
    std::thread::scope(|scope| {
        // As the node's own threads do, all the while.
        scope.spawn(|| {
            while !stopping.load(Ordering::Relaxed) {
                maintainer.flush().unwrap();
            }
        });
        scope.spawn(|| {
            while !stopping.load(Ordering::Relaxed) {
                others.compact().unwrap();
            }
        });
        for time in 1..=20 {
            fill(&mut node, time);
            if time % 5 == 0 {
                let made = loop {
                    let from = node.opened.writer.begin_freeze().unwrap();
                    let hold = || node.tables.hold().map_err(|error| error.to_string());
                    if let Some(made) = node.opened.maintainer.freeze(from, hold).unwrap() {
                        break made;
                    }
                };
                snapshots.create(manifest(&format!("t{time}")), &made.1, &made.0).unwrap();
            }
        }
        stopping.store(true, Ordering::Relaxed);
    });
    drop((maintainer, others, node));
    let mut node = open(directory.path());
    // Until all that there was has been compacted away.
    for time in 21..=40 {
        fill(&mut node, time);
        node.opened.writer.rotate();
        node.opened.maintainer.flush().unwrap();
        node.opened.maintainer.compact().unwrap();
    }
    for time in [5, 10, 15, 20] {
        let folder = snapshots.folder(&name(&format!("t{time}")));
        assert_eq!(read(&folder), expected(time));
    }
    let listed = snapshots.list().unwrap();
    assert_eq!(listed.len(), 4);
    // Its newest table is in no snapshot before it, and not in the node's any more.
    let last = listed.iter().find(|listed| listed.name == name("t20")).unwrap();
    let files = &last.manifest.as_ref().unwrap().files;
    let small = files.iter().filter(|file| !file.name.starts_with("tables/"));
    assert!(last.own_bytes > small.map(|file| file.bytes).sum());
    assert_eq!(
        snapshots.check_new(&name("t5")).unwrap_err().to_string(),
        "there is a snapshot t5 already: choose another name, or delete it first"
    );
    snapshots.delete(&name("t5")).unwrap();
    assert!(matches!(snapshots.delete(&name("t5")), Err(SnapshotError::Unknown(_))));
    assert_eq!(read(&snapshots.folder(&name("t10"))), expected(10));
    drop(node);
}

/// Fails from some step on, as if the process were gone.
struct StopsAfter {
    left: AtomicU32,
}

impl StopsAfter {
    fn new(steps: u32) -> Arc<Self> {
        Arc::new(Self { left: AtomicU32::new(steps) })
    }

    fn step(&self) -> io::Result<()> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| io::Error::other("the process is gone"))
    }
}

impl Hand for StopsAfter {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| FileSystem.make_directory(path))
    }

    fn link_or_copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| FileSystem.link_or_copy(from, to))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Half of it is there.
        let half = &bytes[..bytes.len() / 2];
        self.step().or_else(|gone| FileSystem.write(path, half).and(Err(gone)))?;
        FileSystem.write(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| FileSystem.rename(from, to))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| FileSystem.sync_directory(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| FileSystem.remove(path))
    }
}

#[test]
fn a_crash_at_any_step_of_making_or_deleting_leaves_a_whole_snapshot_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("snapshots");
    let mut node = open(directory.path());
    fill(&mut node, 1);
    let (flushed, held) = freeze(&mut node);
    let folder = root.join("a");
    for steps in 0.. {
        let stopped = Snapshots { root: root.clone(), hand: StopsAfter::new(steps) };
        let made = stopped.create(manifest("a"), &held, &flushed);
        let again = Snapshots::new(&root);
        again.clean().unwrap();
        let there = again.list().unwrap();
        assert!(again.folders().unwrap().len() == there.len(), "nothing half made is left");
        match there.first() {
            Some(_) => {
                assert_eq!(read(&folder), expected(1), "after {steps} steps");
                again.delete(&name("a")).unwrap();
            }
            None => assert!(made.is_err(), "after {steps} steps"),
        }
        if made.is_ok() {
            assert!(steps > 8, "each call is a step");
            break;
        }
    }
    for steps in 0.. {
        let whole = Snapshots::new(&root);
        if whole.list().unwrap().is_empty() {
            whole.create(manifest("a"), &held, &flushed).unwrap();
        }
        let stopped = Snapshots { root: root.clone(), hand: StopsAfter::new(steps) };
        let deleted = stopped.delete(&name("a"));
        let again = Snapshots::new(&root);
        again.clean().unwrap();
        if again.list().unwrap().is_empty() {
            assert_eq!(again.folders().unwrap(), [], "nothing half deleted is left");
        } else {
            assert_eq!(read(&folder), expected(1), "after {steps} steps");
        }
        if deleted.is_ok() {
            assert!(steps > 3, "each call is a step");
            break;
        }
    }
}

#[test]
fn whatever_is_changed_cut_or_lost_is_told_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = open(directory.path());
    fill(&mut node, 1);
    let (flushed, held) = freeze(&mut node);
    let snapshots = Snapshots::new(&directory.path().join("snapshots"));
    snapshots.create(manifest("a"), &held, &flushed).unwrap();
    // As it is when it was carried elsewhere: the links of a live node are its own files.
    let folder = directory.path().join("carried");
    let snapshot = Snapshot::open(&snapshots.folder(&name("a"))).unwrap();
    fs::create_dir_all(folder.join("tables")).unwrap();
    let carry = |file: &str| fs::copy(snapshot.folder.join(file), folder.join(file)).unwrap();
    let files: Vec<_> = snapshot.manifest.files.iter().map(|file| file.name.clone()).collect();
    assert!(files.iter().any(|file| file.starts_with("tables/")), "{files:?}");
    for file in files.iter().map(String::as_str).chain([MANIFEST_FILE]) {
        carry(file);
    }
    assert_eq!(read(&folder), expected(1));
    let snapshot = Snapshot::open(&folder).unwrap();
    for file in &files {
        let path = folder.join(file);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for (bytes, reason) in [(&flipped[..], "checksum"), (&whole[1..], "bytes, and had")] {
            fs::write(&path, bytes).unwrap();
            let told = snapshot.verify(&mut |_| {});
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].path == path && told[0].reason.contains(reason), "{told:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(snapshot.verify(&mut |_| {})[0].path, path);
        fs::write(&path, whole).unwrap();
    }
    let whole = fs::read(folder.join(MANIFEST_FILE)).unwrap();
    for position in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[position] ^= 1;
        fs::write(folder.join(MANIFEST_FILE), flipped).unwrap();
        let error = Manifest::read(&folder).unwrap_err();
        assert!(matches!(error, ManifestError::Damaged { .. }), "{position}: {error}");
    }
    fs::remove_file(folder.join(MANIFEST_FILE)).unwrap();
    assert!(matches!(Manifest::read(&folder), Err(ManifestError::Absent(_))));
}

#[test]
fn names_are_plain() {
    for wrong in ["", ".", "..", ".making-a", "a/b", "a b", "ä", &"a".repeat(65)] {
        assert!(wrong.parse::<SnapshotName>().is_err(), "{wrong:?}");
    }
    for right in ["a", "2026-11-26", "nightly_2.old"] {
        assert_eq!(right.parse::<SnapshotName>().unwrap().to_string(), right);
    }
}

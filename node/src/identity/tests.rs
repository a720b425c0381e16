use quoit_storage::twin::disk::TwinDisk;

use super::*;

const CLUSTER: ClusterId = ClusterId(0xc0ffee);
const NODE: NodeId = NodeId(2);

fn open(disk: &TwinDisk) -> Result<Identity, IdentityError> {
    Identity::open(Arc::new(disk.clone()), CLUSTER, NODE, WallTime(1_000))
}

#[track_caller]
fn refused(result: Result<Identity, IdentityError>, because: &str) {
    let error = result.expect_err("must be refused").to_string();
    assert!(error.contains(because), "{error}");
}

#[test]
fn a_new_directory_is_marked_and_every_start_is_counted() {
    let disk = TwinDisk::new(1);
    let first = open(&disk).unwrap();
    assert_eq!((first.boot_count, first.created, first.incarnation), (1, WallTime(1_000), 1_000));
    disk.crash();
    let later = Identity::open(Arc::new(disk.clone()), CLUSTER, NODE, WallTime(9_000)).unwrap();
    assert_eq!(later, Identity { boot_count: 2, started: WallTime(9_000), ..first });
}

#[test]
fn a_later_life_is_greater_to_gossip_whether_or_not_the_disk_was_kept() {
    let disk = TwinDisk::new(1);
    let generations: Vec<u64> = (0..3).map(|_| open(&disk).unwrap().generation()).collect();
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");
    let wiped: Arc<dyn Disk> = Arc::new(TwinDisk::new(2));
    let wiped = Identity::open(wiped, CLUSTER, NODE, WallTime(2_000)).unwrap();
    assert!(wiped.generation() > generations[2]);
    let today: Arc<dyn Disk> = Arc::new(TwinDisk::new(3));
    let today = Identity::open(today, CLUSTER, NODE, WallTime(1_795_000_000_000)).unwrap();
    assert!(today.generation() > wiped.generation());
}

#[test]
fn a_start_on_an_older_disk_is_not_taken_for_the_one_that_had_its_number() {
    let disk = TwinDisk::new(1);
    open(&disk).unwrap();
    let copy = disk.copy();
    let at = |disk: &TwinDisk, now| {
        Identity::open(Arc::new(disk.clone()), CLUSTER, NODE, WallTime(now)).unwrap()
    };
    let (one, other) = (at(&disk, 20_000), at(&copy, 30_000));
    assert_eq!(one.boot_count, other.boot_count);
    assert_ne!(one.generation(), other.generation());
}

#[test]
fn a_start_is_counted_or_not_whenever_the_power_fails() {
    for operation in 1..60 {
        let disk = TwinDisk::new(operation);
        open(&disk).unwrap();
        disk.crash_after_operations(operation);
        let counted = open(&disk).is_ok();
        disk.crash();
        let boot_count = open(&disk).unwrap().boot_count;
        assert!(if counted { boot_count == 3 } else { boot_count == 2 || boot_count == 3 });
    }
}

#[test]
fn the_first_start_may_be_cut_short_anywhere() {
    for operation in 1..40 {
        let disk = TwinDisk::new(operation);
        disk.crash_after_operations(operation);
        let _ = open(&disk);
        disk.crash();
        open(&disk).unwrap();
    }
}

#[test]
fn another_node_or_cluster_is_refused_and_changes_nothing() {
    let disk = TwinDisk::new(2);
    open(&disk).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let other = Identity::open(shared.clone(), CLUSTER, NodeId(3), WallTime(1));
    refused(other, "belongs to node n2, and this is n3");
    let other = Identity::open(shared, ClusterId(1), NODE, WallTime(1));
    refused(other, "belongs to cluster 00000000000000000000000000c0ffee");
    assert_eq!(open(&disk).unwrap().boot_count, 2);
}

#[test]
fn a_newer_format_is_refused_even_if_its_fields_are_others() {
    #[derive(Serialize)]
    struct Later {
        format: u16,
        something: String,
    }
    let disk = TwinDisk::new(3);
    let bytes = rmp_serde::to_vec_named(&Later { format: 2, something: "new".into() }).unwrap();
    SmallFile::new(Arc::new(disk.clone()), IDENTITY_FILE).save(&bytes).unwrap();
    refused(open(&disk), "format 2");
}

#[test]
fn one_damaged_copy_is_mended_and_told() {
    for (copy, other) in [("identity.a", "identity.b"), ("identity.b", "identity.a")] {
        let disk = TwinDisk::new(4);
        open(&disk).unwrap();
        disk.flip_bit(copy, 40, 3);
        let identity = open(&disk).unwrap();
        assert_eq!(identity.boot_count, 2);
        assert!(identity.repaired.unwrap().contains(copy));
        disk.truncate(other, 5);
        assert_eq!(open(&disk).unwrap().boot_count, 3);
    }
}

#[test]
fn two_damaged_copies_are_an_error_that_says_what_to_do() {
    let disk = TwinDisk::new(5);
    open(&disk).unwrap();
    disk.zero("identity.a", 0, 64);
    disk.flip_bit("identity.b", 30, 0);
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("do not start the node on an emptied directory"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("identity.a") && source.contains("backup"), "{source}");
}

#[test]
fn data_without_an_identity_is_not_adopted() {
    let disk = TwinDisk::new(6);
    open(&disk).unwrap();
    disk.plant("log/00001", b"records");
    disk.lose("identity.a");
    disk.lose("identity.b");
    refused(open(&disk), "log/00001");
}

#[test]
fn a_disk_that_cannot_count_does_not_start() {
    let disk = TwinDisk::new(7);
    open(&disk).unwrap();
    disk.fail_writes(1);
    assert!(matches!(open(&disk), Err(IdentityError::File(SmallFileError::Io { .. }))));
}

#[test]
fn the_document_stays_readable_for_ever() {
    let identity = Identity {
        cluster: CLUSTER,
        node: NODE,
        created: WallTime(3),
        boot_count: 4,
        incarnation: 5,
        started: WallTime(0),
        repaired: None,
    };
    let bytes = encode(&identity);
    assert_eq!(decode(&bytes).unwrap(), identity);
    // Golden bytes: what a released program wrote must be read by all later ones.
    let golden = b"\x86\xa6format\x01\xa7cluster\xd9\x2000000000000000000000000000c0ffee\
        \xa4node\x02\xaacreated_ms\x03\xaaboot_count\x04\xabincarnation\x05";
    assert_eq!(bytes, golden);
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err());
    }
}

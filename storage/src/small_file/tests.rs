use super::*;
use crate::twin::disk::TwinDisk;

fn document(disk: &TwinDisk) -> SmallFile {
    SmallFile::new(Arc::new(disk.clone()), "state/identity")
}

fn loaded(disk: &TwinDisk) -> Loaded {
    document(disk).load().unwrap().unwrap()
}

fn saved_twice() -> TwinDisk {
    let disk = TwinDisk::new(1);
    document(&disk).save(b"first").unwrap();
    document(&disk).save(b"second").unwrap();
    disk
}

#[test]
fn a_document_that_was_never_saved_is_none() {
    assert_eq!(document(&TwinDisk::new(1)).load().unwrap(), None);
}

#[test]
fn the_last_save_is_loaded() {
    let disk = saved_twice();
    disk.crash();
    let expected = Loaded { bytes: Bytes::from_static(b"second"), generation: 2, repaired: None };
    assert_eq!(loaded(&disk), expected);
}

#[test]
fn the_layout_stays_as_it_is() {
    let disk = saved_twice();
    let golden = [
        &b"QUOITDOC\x01\x00\xfe\xff"[..],
        &[6, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 11, 205, 153, 193],
        &b"second"[..],
    ];
    assert_eq!(disk.content("state/identity.a").unwrap(), golden.concat());
}

#[test]
fn every_flipped_bit_in_one_copy_is_survived_and_repaired() {
    let pristine = saved_twice();
    for copy in ["state/identity.a", "state/identity.b"] {
        let length = pristine.content(copy).unwrap().len() as u64;
        for bit in 0..length * 8 {
            let disk = pristine.copy();
            assert!(disk.flip_bit(copy, bit / 8, (bit % 8) as u8));
            let first = loaded(&disk);
            assert_eq!(&first.bytes[..], b"second");
            assert!(first.repaired.unwrap().contains(copy), "bit {bit}");
            assert_eq!(loaded(&disk).repaired, None, "bit {bit}");
        }
    }
}

#[test]
fn a_missing_or_shorter_or_unreadable_copy_is_survived() {
    for fault in 0..3 {
        let disk = saved_twice();
        let path = "state/identity.b";
        assert!(match fault {
            0 => disk.lose(path),
            1 => disk.truncate(path, 20),
            _ => disk.spoil_sector(path, 0),
        });
        let first = loaded(&disk);
        assert_eq!(&first.bytes[..], b"second");
        assert!(first.repaired.is_some());
        assert_eq!(loaded(&disk).repaired, None);
    }
}

#[test]
fn damage_in_both_copies_is_an_error_that_names_the_file() {
    for other_is_missing in [false, true] {
        let disk = saved_twice();
        disk.flip_bit("state/identity.a", 30, 1);
        if other_is_missing {
            disk.lose("state/identity.b");
        } else {
            disk.zero("state/identity.b", 0, 100);
        }
        let error = document(&disk).load().unwrap_err();
        assert!(matches!(error, SmallFileError::Damaged { .. }));
        assert!(error.to_string().contains("state/identity.a"));
    }
}

#[test]
fn copies_of_another_name_are_not_believed() {
    let disk = saved_twice();
    let content = disk.content("state/identity.a").unwrap();
    disk.plant("state/other.a", &content);
    let other = SmallFile::new(Arc::new(disk), "state/other");
    assert!(matches!(other.load(), Err(SmallFileError::Damaged { .. })));
}

#[test]
fn a_newer_version_is_left_alone() {
    let disk = saved_twice();
    let mut content = disk.content("state/identity.a").unwrap();
    content[8..12].copy_from_slice(&[2, 0, 0xfd, 0xff]);
    disk.plant("state/identity.a", &content);
    let version = |error| matches!(error, SmallFileError::NewerVersion { version: 2, .. });
    assert!(version(document(&disk).load().unwrap_err()));
    assert!(version(document(&disk).save(b"third").unwrap_err()));
}

#[test]
fn too_large_a_document_is_refused() {
    let disk = TwinDisk::new(1);
    let error = document(&disk).save(&vec![0; DOCUMENT_BYTES_MAX + 1]);
    assert!(matches!(error, Err(SmallFileError::TooLarge { .. })));
}

#[test]
fn a_crash_at_any_operation_of_a_save_leaves_the_old_or_the_new() {
    for seed in 0..40 {
        let pristine = TwinDisk::new(seed);
        document(&pristine).save(b"old").unwrap();
        let measured = pristine.copy();
        document(&measured).save(b"new").unwrap();
        let operations = measured.operations() - pristine.operations();
        for at in 0..=operations {
            let disk = pristine.copy();
            disk.crash_after_operations(at);
            let acknowledged = document(&disk).save(b"new").is_ok();
            assert_eq!(acknowledged, at == operations);
            disk.crash();
            let first = loaded(&disk).bytes;
            let fine = &first[..] == b"new" || (&first[..] == b"old" && !acknowledged);
            assert!(fine, "seed {seed}, operation {at}: {first:?}");
            // What was loaded once stays, even if the copy that it came from is lost.
            let lost = if disk.flip_bit("state/identity.a", 28, 0) { "a" } else { "b" };
            assert_eq!(loaded(&disk).bytes, first, "seed {seed}, operation {at}, {lost}");
        }
    }
}

#[test]
fn a_full_disk_leaves_the_old_document() {
    let disk = saved_twice();
    disk.limit(Some(disk.used_bytes()));
    assert!(document(&disk).save(&[7; 2000]).is_err());
    assert_eq!(&loaded(&disk).bytes[..], b"second");
    disk.limit(None);
    document(&disk).save(b"third").unwrap();
    assert_eq!(&loaded(&disk).bytes[..], b"third");
}

//! The open log: appending, rolling, poison, a full disk, truncation.

use super::*;

#[test]
fn a_batch_is_one_write_and_a_sync_is_one_sync() {
    let disk = TwinDisk::new(1);
    let mut log = try_open(&disk, LogOptions { segment_bytes: 1 << 20, ..options(0) }).unwrap().log;
    let before = disk.operations();
    let last = log.append((1..=64).map(|sequence| payload(sequence, 1024))).unwrap();
    assert_eq!(last, Sequence(64));
    assert_eq!(disk.operations() - before, 1);
    log.sync().unwrap();
    // The sync itself and the watermark.
    assert_eq!(disk.operations() - before, 3);
    log.sync().unwrap();
    assert_eq!(disk.operations() - before, 3);
}

#[test]
fn an_empty_batch_changes_nothing() {
    let mut log = open(&TwinDisk::new(1), 0).log;
    assert_eq!(log.append::<&[u8]>([]).unwrap(), Sequence(0));
    log.append([b"one"]).unwrap();
    assert_eq!(log.append::<&[u8]>([]).unwrap(), Sequence(1));
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_size() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    log.append([payload(1, 5000)]).unwrap();
    log.append([payload(2, 10)]).unwrap();
    log.append([payload(3, 3000), payload(4, 3000)]).unwrap();
    log.sync().unwrap();
    disk.crash();
    let opened = open(&disk, 0);
    assert!(is_clean(&opened.recovery));
    assert_eq!(opened.intact.len(), 4);
    assert_eq!(opened.intact[&4], payload(4, 3000));
    assert_eq!(segment_paths(&disk).len(), 3);
}

#[test]
fn a_failed_write_or_sync_poisons_the_log() {
    for fail_write in [true, false] {
        let disk = TwinDisk::new(1);
        let mut log = open(&disk, 0).log;
        if fail_write {
            disk.fail_writes(1);
            assert!(matches!(log.append([b"lost"]), Err(LogError::Io { .. })));
        } else {
            log.append([b"lost"]).unwrap();
            disk.fail_syncs(1);
            assert!(matches!(log.sync(), Err(LogError::Io { .. })));
        }
        assert!(matches!(log.append([b"more"]), Err(LogError::Poisoned)));
        assert!(matches!(log.sync(), Err(LogError::Poisoned)));
        assert!(matches!(log.truncate_before(Sequence(1)), Err(LogError::Poisoned)));
        assert_eq!(log.synced_sequence(), Sequence(0));
    }
}

#[test]
fn a_watermark_that_cannot_be_written_is_only_counted() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    log.append([b"one"]).unwrap();
    disk.fail_writes(1);
    log.sync().unwrap();
    assert_eq!(log.watermark_failures(), 1);
    assert_eq!(log.synced_sequence(), Sequence(1));
}

#[test]
fn a_full_disk_refuses_a_batch_and_takes_it_later() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    disk.limit(Some(disk.used_bytes() + 600));
    let mut refused = 0;
    for sequence in 1..=20 {
        let batch = [payload(sequence, 200)];
        match log.append(&batch) {
            Ok(last) => assert_eq!(last, Sequence(sequence)),
            Err(error) => {
                assert!(matches!(error, LogError::Full(_)), "{error:?}");
                assert_eq!(log.last_sequence(), Sequence(sequence - 1));
                refused += 1;
                // A smaller one may still find room, and a sync works.
                log.sync().unwrap();
                disk.limit(Some(disk.used_bytes() + 2048));
                assert_eq!(log.append(&batch).unwrap(), Sequence(sequence));
            }
        }
        log.sync().unwrap();
    }
    assert!(refused > 1);
    disk.crash();
    let opened = open(&disk, 0);
    assert!(is_clean(&opened.recovery));
    assert_eq!(opened.intact.len(), 20);
}

#[test]
fn the_spare_carries_the_log_over_a_full_disk() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    disk.limit(Some(disk.used_bytes()));
    let mut taken = 0;
    while log.append([payload(taken + 1, 200)]).is_ok() {
        taken += 1;
        log.sync().unwrap();
    }
    assert_eq!(log.segment_count(), 2);
    assert_eq!(taken, 8);
}

#[test]
fn truncation_removes_whole_segments_and_is_no_damage() {
    let (disk, written) = three_segments();
    let last = *written.keys().last().unwrap();
    let third: u64 = segment_paths(&disk)[2][4..24].parse().unwrap();
    let mut log = open(&disk, 0).log;
    log.truncate_before(Sequence(third - 1)).unwrap();
    assert_eq!(log.segment_count(), 2);
    let before = log.size_bytes();
    log.truncate_before(Sequence(third)).unwrap();
    assert_eq!(log.segment_count(), 1);
    assert!(log.size_bytes() < before);
    log.truncate_before(Sequence(u64::MAX)).unwrap();
    assert_eq!(log.segment_count(), 1);
    disk.crash();
    let opened = open(&disk.copy(), third - 1);
    assert!(is_clean(&opened.recovery));
    assert_eq!(opened.intact.len() as u64, last + 1 - third);
    // Tables that lost what they had persisted are told.
    let opened = open(&disk, third - 2);
    assert_eq!(opened.recovery.lost[0].reason, LossReason::Gap);
    assert_eq!(opened.recovery.lost[0].before_sequence, Some(Sequence(third)));
}

#[test]
fn an_entry_that_is_persisted_is_not_delivered() {
    let (disk, written) = three_segments();
    let last = *written.keys().last().unwrap();
    for persisted in 0..=last {
        let disk = disk.copy();
        let opened = open(&disk, persisted);
        assert!(is_clean(&opened.recovery));
        let expected: Vec<u64> = (persisted + 1..=last).collect();
        assert_eq!(opened.intact.keys().copied().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_keeper_makes_one_spare_which_the_log_takes() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    let mut keeper = log.spare_keeper();
    assert!(!keeper.keep().unwrap());
    for sequence in 1..=6 {
        log.append([payload(sequence, 300)]).unwrap();
    }
    assert_eq!(log.segment_count(), 3);
    assert!(disk.content(segment::SPARE).is_none());
    assert!(keeper.keep().unwrap());
    assert_eq!(disk.content(segment::SPARE).unwrap(), [0; 1024]);
    disk.limit(Some(disk.used_bytes()));
    for sequence in 7..=8 {
        log.append([payload(sequence, 300)]).unwrap();
    }
    assert!(disk.content(segment::SPARE).is_none());
    assert_eq!(keeper.keep().unwrap_err().kind(), io::ErrorKind::StorageFull);
    log.sync().unwrap();
    disk.crash();
    assert_eq!(open(&disk, 0).intact.len(), 8);
}

/// A log with a keeper, and so many records, two to a segment.
fn kept_log(disk: &TwinDisk, records: u64) -> (Log, SpareKeeper) {
    let mut log = open(disk, 0).log;
    let keeper = log.spare_keeper();
    for sequence in 1..=records {
        log.append([payload(sequence, 300)]).unwrap();
    }
    log.sync().unwrap();
    (log, keeper)
}

#[test]
fn a_keeper_makes_a_spare_of_a_segment_that_is_not_needed_any_more() {
    let disk = TwinDisk::new(1);
    let (mut log, mut keeper) = kept_log(&disk, 9);
    assert_eq!(log.segment_count(), 5);
    log.truncate_before(Sequence(8)).unwrap();
    assert_eq!(log.segment_count(), 2);
    let retired = disk.content("log/retired").unwrap();
    assert!(retired.iter().any(|&byte| byte != 0), "it holds its records still");
    let used = disk.used_bytes();
    assert!(keeper.keep().unwrap());
    assert_eq!(disk.content(segment::SPARE).unwrap(), [0; 1024]);
    assert_eq!(disk.used_bytes(), used, "no space was taken");
    assert!(disk.content("log/retired").is_none());
    for sequence in 10..=14 {
        log.append([payload(sequence, 300)]).unwrap();
    }
    log.truncate_before(Sequence(10)).unwrap();
    log.sync().unwrap();
    disk.crash();
    let opened = open(&disk, 9);
    assert_eq!(opened.intact.len(), 5);
    assert!(disk.content("log/retired").is_none(), "nobody took it");
}

#[test]
fn a_segment_whose_removal_was_not_synced_is_not_written_over() {
    let disk = TwinDisk::new(1);
    let (mut log, mut keeper) = kept_log(&disk, 5);
    let second = disk.content(&segment::path_of(3)).unwrap();
    disk.fail_syncs(1);
    log.truncate_before(Sequence(5)).unwrap_err();
    assert!(keeper.keep().unwrap());
    assert_eq!(disk.content("log/dropped").unwrap(), second);
    assert!(matches!(log.append([payload(6, 300)]), Err(LogError::Poisoned)));
}

#[test]
fn a_full_disk_gets_the_space_of_a_retired_segment() {
    let disk = TwinDisk::new(1);
    let (mut log, _keeper) = kept_log(&disk, 5);
    log.truncate_before(Sequence(3)).unwrap();
    assert!(disk.content("log/retired").is_some());
    assert!(disk.content(segment::SPARE).is_none(), "the log took it");
    disk.limit(Some(disk.used_bytes()));
    for sequence in 6..=7 {
        log.append([payload(sequence, 300)]).unwrap();
    }
    assert!(disk.content("log/retired").is_none());
    for sequence in 8..=9 {
        match log.append([payload(sequence, 300)]) {
            Ok(_) => assert_eq!(sequence, 8),
            Err(error) => assert!(matches!(error, LogError::Full(_)), "{error}"),
        }
    }
    assert!(!free_retired(&disk));
}

#[test]
fn a_dropped_segment_that_a_crash_brings_back_is_as_it_was() {
    for seed in 0..64 {
        let disk = TwinDisk::new(seed);
        let (_log, mut keeper) = kept_log(&disk, 9);
        let first = segment::path_of(1);
        let before = disk.content(&first).unwrap();
        // As the log does, before it syncs the directory; at that moment the keeper comes.
        disk.rename(&first, "log/dropped").unwrap();
        assert!(keeper.keep().unwrap());
        disk.crash();
        if let Some(after) = disk.content(&first) {
            assert!(after == before, "seed {seed}");
        }
    }
}

#[test]
fn a_keeper_fills_what_the_log_reserved_once_and_leaves_it_where_there_is_no_space() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    let mut keeper = log.spare_keeper();
    disk.limit(Some(disk.used_bytes()));
    assert_eq!(keeper.fill_reserved().unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.content(segment::SPARE).unwrap(), [0; 1024]);
    let used = disk.used_bytes();
    disk.limit(None);
    let before = disk.operations();
    keeper.fill_reserved().unwrap();
    assert!(disk.operations() > before + 2, "it was written");
    assert_eq!(disk.content(segment::SPARE).unwrap(), [0; 1024]);
    assert_eq!(disk.used_bytes(), used, "the other one is gone");
    let before = disk.operations();
    keeper.fill_reserved().unwrap();
    assert_eq!(disk.operations(), before, "once is enough");
    assert!(!keeper.keep().unwrap());
}

#[test]
fn a_batch_too_large_for_a_full_disk_leaves_the_spare() {
    let disk = TwinDisk::new(1);
    let mut log = open(&disk, 0).log;
    disk.limit(Some(disk.used_bytes() + 600));
    assert!(matches!(log.append([payload(1, 5000)]), Err(LogError::Full(_))));
    assert_eq!(disk.content(segment::SPARE).unwrap(), [0; 1024]);
    for sequence in 1..=4 {
        log.append([payload(sequence, 400)]).unwrap();
    }
    log.sync().unwrap();
    disk.crash();
    assert_eq!(open(&disk, 0).intact.len(), 4);
}

//! Damage of every kind and place is reported, and nothing wrong is delivered.

use super::*;

/// Whether an opening says that something is wrong.
fn reports(opened: &Opened) -> bool {
    !is_clean(&opened.recovery) || !opened.damaged.is_empty()
}

#[test]
fn a_file_cut_at_any_byte_is_reported() {
    let (pristine, written) = three_segments();
    for path in segment_paths(&pristine) {
        for length in 0..pristine.content(&path).unwrap().len() as u64 {
            for with_watermark in [true, false] {
                let disk = pristine.copy();
                disk.truncate(&path, length);
                if !with_watermark {
                    disk.lose(watermark::PATH);
                }
                let context = format!("{path} cut to {length}");
                let opened = judge(&disk, &written, &context);
                assert!(reports(&opened), "{context}");
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_reported_or_lies_where_nothing_is() {
    let (pristine, written) = three_segments();
    for with_watermark in [true, false] {
        if !with_watermark {
            pristine.lose(watermark::PATH);
        }
        for path in pristine.paths() {
            for bit in 0..pristine.content(&path).unwrap().len() as u64 * 8 {
                let disk = pristine.copy();
                assert!(disk.flip_bit(&path, bit / 8, (bit % 8) as u8));
                let context = format!("{path}, bit {bit}");
                let opened = judge(&disk, &written, &context);
                assert!(reports(&opened) || opened.intact == written, "{context}");
            }
        }
    }
}

#[test]
fn every_zeroed_range_is_reported_or_lies_where_nothing_is() {
    let (pristine, written) = three_segments();
    for path in pristine.paths() {
        for bytes in [64, 128, 512, 1024, 4096] {
            for offset in (0..pristine.content(&path).unwrap().len() as u64).step_by(64) {
                let disk = pristine.copy();
                disk.zero(&path, offset, bytes);
                let context = format!("{path}, {bytes} from {offset}");
                let opened = judge(&disk, &written, &context);
                assert!(reports(&opened) || opened.intact == written, "{context}");
            }
        }
    }
}

#[test]
fn a_missing_segment_is_reported_wherever_it_is_missing() {
    let (pristine, written) = three_segments();
    for path in segment_paths(&pristine) {
        let disk = pristine.copy();
        assert!(disk.lose(&path));
        let opened = judge(&disk, &written, &path);
        assert!(!opened.recovery.lost.is_empty(), "{path}");
    }
    for path in segment_paths(&pristine) {
        pristine.lose(&path);
    }
    let opened = judge(&pristine, &written, "all segments missing");
    assert!(opened.recovery.next_sequence.0 > *written.keys().last().unwrap());
}

#[test]
fn a_segment_of_another_log_is_not_believed() {
    let (disk, written) = three_segments();
    let other = TwinDisk::new(1);
    let mut log = try_open(&other, LogOptions { identity: 99, ..options(0) }).unwrap().log;
    for sequence in 1..6 {
        log.append([payload(sequence, 50)]).unwrap();
        log.sync().unwrap();
    }
    let path = &segment_paths(&disk)[0];
    disk.plant(path, &other.content(path).unwrap());
    let opened = judge(&disk, &written, "foreign segment");
    let lost = &opened.recovery.lost[0];
    assert_eq!(lost.after_sequence, Sequence(0));
}

#[test]
fn an_older_life_of_a_segment_is_not_believed() {
    let disk = TwinDisk::new(3);
    let mut log = open(&disk, 0).log;
    let mut written = BTreeMap::new();
    log.append([payload(1, 100)]).unwrap();
    log.sync().unwrap();
    written.insert(1, payload(1, 100));
    let path = segment_paths(&disk)[0].clone();
    let older = disk.content(&path).unwrap();
    for sequence in 2..5 {
        log.append([payload(sequence, 100)]).unwrap();
        log.sync().unwrap();
        written.insert(sequence, payload(sequence, 100));
    }
    disk.kill();
    disk.plant(&path, &older);
    let opened = judge(&disk, &written, "older life");
    assert_eq!(opened.recovery.lost[0].reason, LossReason::EndsEarly);
}

#[test]
fn a_damaged_payload_costs_one_record_and_a_damaged_header_too() {
    let (pristine, written) = three_segments();
    let path = &segment_paths(&pristine)[1];
    let first = path[4..24].parse::<u64>().unwrap();
    let disk = pristine.copy();
    disk.flip_bit(path, 56 + 36, 0);
    let opened = open(&disk, 0);
    assert_eq!(opened.damaged, [first]);
    assert_eq!(opened.intact.len(), written.len() - 1);
    assert!(opened.recovery.lost.is_empty());

    let disk = pristine.copy();
    disk.flip_bit(path, 56 + 9, 0);
    let opened = open(&disk, 0);
    let expected = Lost {
        segment: path.clone(),
        from_offset: 56,
        after_sequence: Sequence(first - 1),
        before_sequence: Some(Sequence(first + 1)),
        reason: LossReason::NoRecord,
    };
    assert_eq!(opened.recovery.lost, [expected]);
    assert_eq!(opened.intact.len(), written.len() - 1);
}

#[test]
fn records_inside_a_payload_are_not_taken_for_records() {
    // A client stores a whole log as a value; then the header of that value's record is damaged.
    let other = TwinDisk::new(1);
    let mut log = try_open(&other, LogOptions { identity: 99, ..options(0) }).unwrap().log;
    for sequence in 1..8 {
        log.append([payload(sequence, 50)]).unwrap();
        log.sync().unwrap();
    }
    let nested = other.content(&segment_paths(&other)[0]).unwrap();
    let disk = TwinDisk::new(2);
    let mut log = open(&disk, 0).log;
    let written: BTreeMap<u64, Vec<u8>> =
        BTreeMap::from([(1, payload(1, 10)), (2, nested), (3, payload(3, 10))]);
    log.append(written.values()).unwrap();
    log.sync().unwrap();
    disk.kill();
    disk.flip_bit(&segment_paths(&disk)[0], 56 + 46 + 5, 1);
    let opened = judge(&disk, &written, "nested log");
    assert_eq!(opened.intact.keys().copied().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn damage_that_is_persisted_elsewhere_is_only_mentioned() {
    let (pristine, written) = three_segments();
    let paths = segment_paths(&pristine);
    let last = *written.keys().last().unwrap();
    let first = paths[1][4..24].parse::<u64>().unwrap();
    for offset in [56 + 9, 56 + 36] {
        pristine.flip_bit(&paths[1], offset, 0);
        let disk = pristine.copy();
        let opened = open(&disk, first);
        assert!(opened.damaged.is_empty() && opened.recovery.lost.is_empty());
        assert_eq!(opened.recovery.harmless.len(), 1);
        let expected: Vec<u64> = (first + 1..=last).collect();
        assert_eq!(opened.intact.keys().copied().collect::<Vec<_>>(), expected);
        pristine.flip_bit(&paths[1], offset, 0);
    }
}

#[test]
fn damage_at_the_end_is_reported_until_what_came_after_is_persisted() {
    let (disk, written) = three_segments();
    let paths = segment_paths(&disk);
    let last = *written.keys().last().unwrap();
    let first = paths[2][4..24].parse::<u64>().unwrap();
    disk.zero(&paths[2], 56, 1024);
    let mut opened = open(&disk, 0);
    assert_eq!(opened.recovery.lost.len(), 1);
    assert_eq!(opened.recovery.lost[0].after_sequence, Sequence(first - 1));
    let next = opened.recovery.next_sequence.0;
    assert!(next > last);
    assert_eq!(opened.log.append([b"new"]).unwrap(), Sequence(next));
    opened.log.sync().unwrap();
    disk.kill();
    assert_eq!(open(&disk, last).recovery.lost.len(), 1);
    disk.kill();
    let mut opened = open(&disk, next);
    assert!(opened.recovery.lost.is_empty());
    opened.log.truncate_before(Sequence(next + 1)).unwrap();
    assert_eq!(opened.log.segment_count(), 1);
    disk.crash();
    assert!(open(&disk, next).recovery.lost.is_empty());
}

#[test]
fn an_unreadable_sector_is_damage_and_not_the_end() {
    let disk = TwinDisk::new(5);
    let large = LogOptions { segment_bytes: 64 << 10, ..options(0) };
    let mut log = try_open(&disk, large.clone()).unwrap().log;
    for sequence in 1..=40 {
        log.append([payload(sequence, 1000)]).unwrap();
        log.sync().unwrap();
    }
    disk.kill();
    disk.spoil_sector(&segment_paths(&disk)[0], 20_000);
    let opened = try_open(&disk, large.clone()).unwrap();
    assert!(!opened.recovery.lost.is_empty());
    assert!(opened.intact.len() > 30);
    assert!(opened.intact.contains_key(&40));
    disk.kill();
    disk.fail_reads(u64::MAX);
    assert!(matches!(try_open(&disk, large), Err(LogError::Io { .. })));
}

#[test]
fn tables_that_are_ahead_of_the_log_prove_a_loss() {
    let (disk, written) = three_segments();
    disk.lose(watermark::PATH);
    let last = *written.keys().last().unwrap();
    assert!(is_clean(&open(&disk.copy(), last).recovery));
    let opened = open(&disk, last + 5);
    assert_eq!(opened.recovery.lost[0].reason, LossReason::EndsEarly);
    assert!(opened.recovery.next_sequence.0 > last + 5);
}

/// Two lives of one log that parted after record 2: each has records 3 and 4 of its own.
fn two_lives() -> [TwinDisk; 2] {
    let common = TwinDisk::new(3);
    let mut log = open(&common, 0).log;
    log.append([payload(1, 100), payload(2, 100)]).unwrap();
    log.sync().unwrap();
    common.kill();
    [7, 8].map(|life| {
        let disk = common.copy();
        let mut log = open(&disk, 0).log;
        log.append([[life; 100], [life; 100]]).unwrap();
        log.sync().unwrap();
        disk.kill();
        disk
    })
}

#[test]
fn a_whole_record_of_another_life_is_not_believed() {
    let [disk, other] = two_lives();
    let path = &segment_paths(&disk)[0];
    let fourth = 56 + 3 * 136;
    let mut spliced = disk.content(path).unwrap();
    spliced[fourth..fourth + 136]
        .copy_from_slice(&other.content(path).unwrap()[fourth..fourth + 136]);
    disk.plant(path, &spliced);
    let opened = open(&disk, 0);
    assert_eq!(opened.intact.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(opened.recovery.lost[0].reason, LossReason::ForeignRecord);
    assert_eq!(opened.recovery.lost[0].after_sequence, Sequence(3));
}

#[test]
fn a_log_that_parted_from_what_was_synced_is_reported() {
    let [disk, other] = two_lives();
    disk.plant(watermark::PATH, &other.content(watermark::PATH).unwrap());
    let opened = open(&disk, 0);
    assert_eq!(opened.recovery.lost[0].reason, LossReason::OtherHistory);
}

#[test]
fn after_damage_in_the_last_segment_a_fresh_one_is_begun() {
    let (pristine, written) = three_segments();
    let last = *written.keys().last().unwrap();
    for offset in [56 + 9, 56 + 36] {
        let disk = pristine.copy();
        disk.flip_bit(&segment_paths(&disk)[2], offset, 0);
        let opened = open(&disk, 0);
        assert_eq!(opened.log.segment_count(), 4);
        assert_eq!(opened.recovery.next_sequence, Sequence(last + 1));
        disk.kill();
        // The fresh one is sound: starting again and again begins no more of them.
        assert_eq!(open(&disk, 0).log.segment_count(), 4);
    }
}

#[test]
fn reading_goes_on_at_the_next_whole_record() {
    let disk = TwinDisk::new(3);
    let mut log = open(&disk, 0).log;
    log.append((1..=4).map(|sequence| payload(sequence, 100))).unwrap();
    log.sync().unwrap();
    disk.kill();
    let path = &segment_paths(&disk)[0];
    disk.flip_bit(path, 56 + 9, 0);
    disk.flip_bit(path, 56 + 136 + 50, 0);
    let opened = open(&disk, 0);
    assert_eq!(opened.intact.keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(opened.recovery.lost[0].before_sequence, Some(Sequence(3)));
}

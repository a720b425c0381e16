//! Crashes at any moment: what was synced is there, what was not is a prefix, and no crash passes
//! for damage.

use super::*;

/// A small generator of its own, so that the work and the disk's whims are drawn apart.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The truth about a log over many lives.
#[derive(Default)]
struct Truth {
    /// What was appended under each sequence, last.
    appended: BTreeMap<u64, Vec<u8>>,
    synced: u64,
    persisted: u64,
}

/// Works on the log until something fails or the work is done.
fn work(log: &mut Log, truth: &mut Truth, draw: &mut Draw, steps: u64) -> Result<(), LogError> {
    for _ in 0..steps {
        match draw.below(10) {
            0..5 => {
                let next = log.last_sequence().0 + 1;
                let batch: Vec<Vec<u8>> = (0..1 + draw.below(6))
                    .map(|index| {
                        let life = draw.below(1 << 30).to_le_bytes();
                        [&life, &payload(next + index, draw.below(400) as usize)[..]].concat()
                    })
                    .collect();
                truth.appended.extend((next..).zip(batch.iter().cloned()));
                log.append(&batch)?;
            }
            5..9 => {
                log.sync()?;
                truth.synced = log.synced_sequence().0;
            }
            9 if draw.below(2) == 0 => drop(log.spare_keeper().keep()),
            9 if draw.below(2) == 0 => drop(log.spare_keeper().fill_reserved()),
            _ => {
                let target = truth.persisted + draw.below(truth.synced - truth.persisted + 1);
                truth.persisted = target;
                log.truncate_before(Sequence(target + 1))?;
            }
        }
        truth.synced = truth.synced.max(log.synced_sequence().0);
    }
    Ok(())
}

fn check(opened: &Opened, truth: &mut Truth, context: &str) {
    assert_eq!(opened.recovery.lost, [], "{context}");
    assert_eq!(opened.recovery.harmless, [], "{context}");
    assert_eq!(opened.damaged, [0; 0], "{context}");
    let next = opened.recovery.next_sequence.0;
    assert!(next > truth.synced, "{context}: {} was synced, next is {next}", truth.synced);
    let expected: BTreeMap<u64, Vec<u8>> = truth
        .appended
        .range(truth.persisted + 1..next)
        .map(|(sequence, payload)| (*sequence, payload.clone()))
        .collect();
    assert_eq!(opened.intact, expected, "{context}");
    truth.appended.split_off(&next);
    // What was delivered counts as durable from here on.
    truth.synced = next - 1;
}

fn live_and_crash(seed: u64, ending: impl Fn(&TwinDisk, &mut Draw)) {
    let disk = TwinDisk::new(seed);
    let mut draw = Draw(seed ^ 0xabcd);
    let mut truth = Truth::default();
    for life in 0..6 {
        let context = format!("seed {seed}, life {life}");
        if draw.below(3) == 0 {
            // Crash while the log is being opened, and open it again.
            disk.crash_after_operations(draw.below(60));
            drop(try_open(&disk, options(truth.persisted)));
            disk.crash();
        }
        let mut opened = open(&disk, truth.persisted);
        check(&opened, &mut truth, &context);
        let steps = draw.below(40);
        let _ = work(&mut opened.log, &mut truth, &mut draw, steps);
        if draw.below(2) == 0 {
            disk.crash_after_operations(draw.below(30));
        }
        ending(&disk, &mut draw);
        let _ = work(&mut opened.log, &mut truth, &mut draw, 20);
        disk.crash();
        let mut opened = open(&disk, truth.persisted);
        check(&opened, &mut truth, &context);
        if draw.below(2) == 0 {
            let _ = work(&mut opened.log, &mut truth, &mut draw, 3);
        }
        // The process dies and the page cache stays: until the next power cut, that is.
        disk.kill();
        let opened = open(&disk, truth.persisted);
        check(&opened, &mut truth, &context);
        assert_eq!(opened.recovery.tail, Tail::Clean, "{context}");
        disk.crash();
    }
}

#[test]
fn power_cuts_with_torn_writes_cost_nothing_that_was_synced() {
    for seed in 0..400 {
        live_and_crash(seed, |_, _| {});
    }
}

#[test]
fn failed_syncs_cost_nothing_that_was_synced() {
    for seed in 1000..1300 {
        live_and_crash(seed, |disk, draw| {
            disk.fail_syncs(draw.below(2));
        });
    }
}

#[test]
fn full_disks_and_crashes_cost_nothing_that_was_synced() {
    for seed in 2000..2200 {
        live_and_crash(seed, |disk, draw| {
            disk.limit(Some(disk.used_bytes() + draw.below(1500)));
        });
    }
}

#[test]
fn records_that_a_failed_sync_left_in_the_cache_are_written_again() {
    for seed in 0..50 {
        let disk = TwinDisk::new(seed);
        let mut log = open(&disk, 0).log;
        log.append([payload(1, 900)]).unwrap();
        disk.fail_syncs(1);
        assert!(log.sync().is_err());
        disk.kill();
        let found = open(&disk, 0).intact;
        assert_eq!(found.len(), 1);
        disk.crash();
        assert_eq!(open(&disk, 0).intact, found, "seed {seed}");
    }
}

#[test]
fn a_torn_batch_is_cut_although_its_later_records_are_whole() {
    let disk = TwinDisk::new(1);
    let large = LogOptions { segment_bytes: 16 << 10, ..options(0) };
    let mut log = try_open(&disk, large.clone()).unwrap().log;
    log.append([payload(1, 100)]).unwrap();
    log.sync().unwrap();
    log.append((2..6).map(|sequence| payload(sequence, 1500))).unwrap();
    disk.kill();
    let path = &segment_paths(&disk)[0];
    let torn = disk.copy();
    torn.zero(path, 1024, 512);
    let opened = try_open(&torn, large.clone()).unwrap();
    let expected = Tail::Torn { segment: path.clone(), offset: 56 + 136, bytes: 4 * 1536 };
    assert_eq!(opened.recovery.tail, expected);
    assert_eq!(opened.intact.len(), 1);
    assert!(opened.recovery.lost.is_empty());

    // The same bytes once the batch was synced, with the watermark or with a later record to say
    // so, are damage.
    let mut log = try_open(&disk, large.clone()).unwrap().log;
    log.append([payload(6, 10)]).unwrap();
    disk.kill();
    disk.lose(watermark::PATH);
    disk.zero(path, 1024, 512);
    let opened = try_open(&disk, large).unwrap();
    assert_eq!(opened.recovery.tail, Tail::Clean);
    assert_eq!(opened.damaged, [2]);
}

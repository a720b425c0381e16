//! Hints: as durable as everything else, oldest first, and known to nobody but those who ask for
//! them.

use super::*;
use crate::layout::HintKind;
use quoit_ring::NodeId;

fn hint(target: u64, time: u64, of: u64) -> Hint {
    let (kind, target) = (HintKind::Reference, NodeId(target));
    Hint { kind, target, time: HybridTime(time), key: key(of) }
}

fn change(rig: &mut Rig, added: &[Hint], removed: &[Hint]) {
    rig.writer.change_hints(added, removed).unwrap();
    rig.writer.commit().unwrap();
}

fn waiting(rig: &Rig, target: u64) -> Vec<Hint> {
    rig.reader.hints(HintKind::Reference, NodeId(target), HybridTime::ZERO, 100).hints
}

#[test]
fn hints_are_read_oldest_first_and_survive_crashes_and_flushes() {
    let mut rig = Rig::new(1);
    let all = [hint(2, 3, 5), hint(2, 7, 1), hint(2, 7, 4), hint(3, 1, 2), hint(3, 9, 2)];
    change(&mut rig, &[all[2].clone(), all[0].clone(), all[4].clone()], &[]);
    rig.writer.rotate();
    rig.maintainer.flush().unwrap();
    change(&mut rig, &[all[3].clone(), all[1].clone()], &[]);
    let mut rig = rig.crash();
    assert_eq!(waiting(&rig, 2), all[..3]);
    assert_eq!(waiting(&rig, 3), all[3..]);
    assert_eq!(waiting(&rig, 1), []);
    let later = rig.reader.hints(HintKind::Reference, NodeId(2), HybridTime(4), 1);
    assert_eq!(later.hints, all[1..2]);
    let counted = rig.reader.count_hints().waiting;
    let bytes = all[0].bytes() + all[1].bytes() + all[2].bytes();
    let expected = HintFigures { number: 3, bytes, oldest: HybridTime(3), newest: HybridTime(7) };
    assert_eq!(counted[&(HintKind::Reference, NodeId(2))], expected);
    assert_eq!(counted[&(HintKind::Reference, NodeId(3))].number, 2);
    change(&mut rig, &[], &all[..2]);
    let rig = rig.crash();
    assert_eq!(waiting(&rig, 2), all[2..3]);
    assert_eq!(rig.reader.count_hints().waiting[&(HintKind::Reference, NodeId(2))].number, 1);
}

#[test]
fn neither_digests_nor_pages_nor_figures_know_of_hints() {
    let mut rig = Rig::new(2);
    rig.apply(write(&key(3), 1, "v"));
    let (digests, figures) = (rig.writer.digests().clone(), rig.reader.figures().tables);
    change(&mut rig, &[hint(2, 3, 3), hint(3, 4, 3)], &[]);
    assert_eq!((rig.writer.digests(), &rig.reader.figures().tables), (&digests, &figures));
    let table = key(3).table();
    let (rows, more) = rig.reader.page(table, &[], None, 10, 1 << 20, true).unwrap();
    assert_eq!((rows.len(), more), (1, false));
    // Everything is read where damage was found.
    rig.disk.crash();
    let lost = Some("for the test".to_owned());
    let rig = try_open(&rig.disk, &rig.tables, &rig.options, lost).unwrap();
    assert!(rig.report.distrusted > 0);
    assert_eq!(figures_and_leaves(rig.writer.digests()), figures_and_leaves(&digests));
    assert_eq!(waiting(&rig, 2).len(), 1);
}

#[test]
fn a_hint_that_is_lost_makes_no_key_incomplete() {
    let mut rig = Rig::new(3);
    rig.apply(write(&key(3), 1, "v"));
    change(&mut rig, &[hint(2, 3, 3)], &[]);
    let content = |path: &str| rig.disk.content(path).unwrap();
    let ends_in_hint =
        |path: &str| path.starts_with("log/") && content(path).windows(8).any(|it| it == [0xff; 8]);
    let path = rig.disk.paths().into_iter().find(|path| ends_in_hint(path)).expect("a segment");
    let last = content(&path).iter().rposition(|byte| *byte != 0).unwrap() as u64;
    rig.disk.flip_bit(&path, last, 1);
    let rig = rig.crash();
    assert_eq!(rig.report.incomplete_keys, 0, "{:?}", rig.report);
    assert_eq!(rig.report.distrusted, 0);
    assert_eq!(waiting(&rig, 2), []);
    assert!(matches!(rig.reader.read(&key(3)), Found::Set(set) if !set.is_empty()));
}

#[test]
fn hints_of_a_batch_that_was_not_committed_are_not_there() {
    let mut rig = Rig::new(4);
    rig.writer.change_hints(&[hint(2, 3, 3)], &[]).unwrap();
    assert!(rig.writer.has_prepared());
    assert_eq!(waiting(&rig, 2), []);
    let rig = rig.crash();
    assert_eq!(waiting(&rig, 2), []);
}

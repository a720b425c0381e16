use proptest::prelude::*;

use super::super::tests::{assert_laws_of, count, members};
use super::*;
use crate::assignment::assign;

/// A member set by the numbers of its members, with their racks and capacities.
fn some(numbers: &[u64], racks: usize, capacity: impl Fn(u64) -> u32) -> Vec<Member> {
    let place = |number: &u64| (*number as usize % racks, capacity(*number));
    let places: Vec<_> = numbers.iter().map(place).collect();
    let mut members = members(&places);
    for (member, number) in members.iter_mut().zip(numbers) {
        member.id = NodeId(*number);
    }
    members
}

fn one(_: u64) -> u32 {
    1
}

fn moved_by_hand(old: (&[Member], &[Vec<u16>]), new: (&[Member], &[Vec<u16>])) -> usize {
    let ids = |members: &[Member], row: &[u16]| -> BTreeSet<NodeId> {
        row.iter().map(|&member| members[usize::from(member)].id).collect()
    };
    let rows = old.1.iter().zip(new.1);
    rows.map(|(before, after)| ids(new.0, after).difference(&ids(old.0, before)).count()).sum()
}

fn plan(old: &[Member], owners: &[Vec<u16>], new: &[Member], replication: u8) -> Plan {
    let plan = reassign(old, owners, new, replication).expect("good arguments");
    assert_eq!(plan.moved, moved_by_hand((old, owners), (new, &plan.owners)));
    assert_laws_of(&plan.owners, new, replication);
    plan
}

#[test]
fn the_same_members_keep_everything() {
    for (nodes, racks) in [(1, 1), (3, 3), (7, 2), (30, 5)] {
        let numbers: Vec<u64> = (1..=nodes).collect();
        let members = some(&numbers, racks, |number| 1 + number as u32 % 3);
        let owners = assign(&members, count(256), 3).expect("good arguments");
        let plan = plan(&members, &owners, &members, 3);
        assert_eq!((plan.moved, plan.owners), (0, owners));
    }
}

#[test]
fn who_joins_gets_a_fair_share_and_little_else_moves() {
    for (nodes, racks, vnodes) in [(3, 3, 256), (9, 3, 1_024), (20, 20, 1_024), (99, 9, 4_096)] {
        let old: Vec<u64> = (1..=nodes).collect();
        let new: Vec<u64> = (1..=nodes + 1).collect();
        let (old, new) = (some(&old, racks, one), some(&new, racks, one));
        let owners = assign(&old, count(vnodes), 3).expect("good arguments");
        let plan = plan(&old, &owners, &new, 3);
        let fair = f64::from(vnodes) * 3.0 / (nodes + 1) as f64;
        // Where racks are as many as owners, the new one's rack has its part, and no more.
        if racks > 3 {
            assert!(plan.moved as f64 <= 1.05 * fair + 1.0, "{} of {fair}", plan.moved);
        }
    }
}

#[test]
fn who_leaves_gives_what_it_held_and_nothing_else_moves() {
    for (nodes, racks) in [(5, 5), (10, 10), (100, 20)] {
        let old: Vec<u64> = (1..=nodes).collect();
        let new: Vec<u64> = (1..=nodes).filter(|number| *number != 3).collect();
        let (old, new) = (some(&old, racks, one), some(&new, racks, one));
        let owners = assign(&old, count(1_024), 3).expect("good arguments");
        let held = owners.iter().flatten().filter(|&&owner| owner == 2).count();
        let plan = plan(&old, &owners, &new, 3);
        assert!(plan.moved <= held + held / 20 + 1, "{} of {held}", plan.moved);
    }
}

#[test]
fn who_takes_anothers_place_takes_its_places() {
    let old = some(&[1, 2, 3, 4, 5, 6], 3, one);
    // n9 stands where n3 stood.
    let mut new = some(&[1, 2, 4, 5, 6, 9], 3, one);
    new[5].zone = old[2].zone.clone();
    let owners = assign(&old, count(512), 3).expect("good arguments");
    let held = owners.iter().flatten().filter(|&&owner| owner == 2).count();
    assert_eq!(plan(&old, &owners, &new, 3).moved, held);
}

#[test]
fn a_cluster_shrinks_to_fewer_than_it_has_replicas_and_grows_again() {
    let (three, two) = (some(&[1, 2, 3], 3, one), some(&[1, 3], 3, one));
    let owners = assign(&three, count(64), 3).expect("good arguments");
    let small = plan(&three, &owners, &two, 3);
    assert_eq!(small.moved, 0);
    assert!(small.owners.iter().all(|row| row.len() == 2));
    assert_eq!(plan(&two, &small.owners, &three, 3).moved, 64);
    // And to others altogether.
    let others = some(&[7, 8, 9], 3, one);
    assert_eq!(plan(&three, &owners, &others, 3).moved, 192);
}

#[test]
fn bad_arguments_are_told() {
    let members = some(&[1, 2, 3], 3, one);
    let owners = assign(&members, count(8), 3).expect("good arguments");
    assert_eq!(reassign(&members, &owners, &[], 3), Err(AssignmentError::NoMembers));
    assert_eq!(reassign(&members, &owners, &members, 0), Err(AssignmentError::NoReplicas));
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    #[test]
    fn every_law_holds_after_any_change(
        old in prop::collection::btree_map(1u64..30, (0usize..6, 1u32..5), 1..16),
        new in prop::collection::btree_map(1u64..30, (0usize..6, 1u32..5), 1..16),
        vnode_bits in 3u32..9, before in 1u8..5, after in 1u8..5,
    ) {
        let of = |set: &BTreeMap<u64, (usize, u32)>| {
            let places: Vec<_> = set.values().copied().collect();
            let mut members = members(&places);
            for (member, number) in members.iter_mut().zip(set.keys()) {
                member.id = NodeId(*number);
            }
            members
        };
        let (old, new) = (of(&old), of(&new));
        let owners = assign(&old, count(1 << vnode_bits), before).expect("good arguments");
        let once = plan(&old, &owners, &new, after);
        prop_assert_eq!(&once, &reassign(&old, &owners, &new, after).expect("good arguments"));
        // And back.
        plan(&new, &once.owners, &old, before);
    }
}

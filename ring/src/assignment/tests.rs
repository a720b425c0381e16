use proptest::prelude::*;

use super::*;
use crate::{Preference, VnodeIndex};

/// Members n1, n2, ... from their racks and capacities.
pub(super) fn members(places: &[(usize, u32)]) -> Vec<Member> {
    (1..)
        .zip(places)
        .map(|(id, &(rack, capacity))| Member {
            id: NodeId(id),
            address: "127.0.0.1:7000".parse().expect("an address"),
            // Two datacenters use the same names for their racks.
            zone: Zone { datacenter: format!("d{}", rack % 2), rack: format!("r{}", rack / 2) },
            capacity,
        })
        .collect()
}

pub(super) fn count(vnodes: u32) -> VnodeCount {
    VnodeCount::new(vnodes).expect("a power of two")
}

/// How many places each member has.
fn loads(owners: &[Vec<u16>], members: usize) -> Vec<usize> {
    let mut loads = vec![0; members];
    for &owner in owners.iter().flatten() {
        loads[usize::from(owner)] += 1;
    }
    loads
}

/// The law about racks, from its words: of two racks, none holds two more than the other, unless
/// all the members of the other are owners already.
fn assert_even_over_racks(prefix: &[u16], members: &[Member]) {
    let mut racks: BTreeMap<&Zone, (usize, usize)> = BTreeMap::new();
    for (index, member) in (0..=u16::MAX).zip(members) {
        let (held, size) = racks.entry(&member.zone).or_default();
        *held += usize::from(prefix.contains(&index));
        *size += 1;
    }
    let most = racks.values().map(|(held, _)| *held).max().expect("a rack");
    let even = racks.values().all(|&(held, size)| held == size || held + 1 >= most);
    assert!(even, "{prefix:?} is uneven over {racks:?}");
    let distinct = racks.values().filter(|(held, _)| *held > 0).count();
    assert_eq!(distinct, prefix.len().min(racks.len()), "{prefix:?} could use more racks");
}

/// Fair shares by a second way, which knows nothing of the first: bisection in floating point.
fn fair_shares(members: &[Member], vnodes: u32, owners_per_vnode: usize) -> Vec<f64> {
    let vnodes = f64::from(vnodes);
    let mut racks: BTreeMap<&Zone, Vec<f64>> = BTreeMap::new();
    for member in members {
        racks.entry(&member.zone).or_default().push(f64::from(member.capacity));
    }
    let height = (0..=owners_per_vnode)
        .rev()
        .find(|&height| {
            racks.values().map(|rack| rack.len().min(height)).sum::<usize>() <= owners_per_vnode
        })
        .expect("0 at least");
    let bisect = |held: &dyn Fn(f64) -> f64, wanted: f64| {
        let (mut low, mut high) = (0.0, vnodes);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if held(middle) < wanted { low = middle } else { high = middle }
        }
        high
    };
    let open = |rack: &[f64], level: f64| -> f64 {
        rack.iter().map(|capacity| (capacity * level).min(vnodes)).sum()
    };
    let bounds = |rack: &[f64]| {
        let least = rack.len().min(height) as f64 * vnodes;
        let most = rack.len().min(height + 1) as f64 * vnodes;
        (least, most)
    };
    let all = |level: f64| -> f64 {
        racks
            .values()
            .map(|rack| {
                let (least, most) = bounds(rack);
                open(rack, level).clamp(least, most)
            })
            .sum()
    };
    let common = bisect(&all, vnodes * owners_per_vnode as f64);
    members
        .iter()
        .map(|member| {
            let rack = &racks[&member.zone];
            let (least, most) = bounds(rack);
            let held = open(rack, common);
            let level = if held < least || held > most {
                bisect(&|level| open(rack, level), held.clamp(least, most))
            } else {
                common
            };
            (f64::from(member.capacity) * level).min(vnodes)
        })
        .collect()
}

/// Every law that [`assign`] states.
fn assert_laws(members: &[Member], vnodes: u32, replication: u8) {
    let owners = assign(members, count(vnodes), replication).expect("good arguments");
    assert_laws_of(&owners, members, replication);
    assert_eq!(assign(members, count(vnodes), replication).as_ref(), Ok(&owners));
    assert_record(members, vnodes, replication, &owners);
}

/// Every law that owners keep.
pub(super) fn assert_laws_of(owners: &[Vec<u16>], members: &[Member], replication: u8) {
    let vnodes = u32::try_from(owners.len()).expect("small");
    let owners_per_vnode = usize::from(replication).min(members.len());
    for row in owners {
        assert_eq!(row.len(), owners_per_vnode);
        for length in 1..=row.len() {
            assert!(!row[..length - 1].contains(&row[length - 1]), "{row:?} repeats an owner");
            assert_even_over_racks(&row[..length], members);
        }
    }

    let loads = loads(owners, members.len());
    let fair = fair_shares(members, vnodes, owners_per_vnode);
    for (member, (&load, fair)) in members.iter().zip(loads.iter().zip(fair)) {
        let off = (load as f64 - fair).abs();
        assert!(off < 1.0 + 1e-6, "{} has {load} places, fair is {fair}", member.id);
    }

    let mut firsts = vec![0; members.len()];
    for row in owners {
        firsts[usize::from(row[0])] += 1;
    }
    for (load, first) in loads.into_iter().zip(firsts) {
        let fair = load / owners_per_vnode..=load.div_ceil(owners_per_vnode);
        assert!(fair.contains(&first), "{first} of {load} places are first ones");
    }
}

/// The record made of it is consistent and its preference lists are whole.
fn assert_record(members: &[Member], vnodes: u32, replication: u8, owners: &[Vec<u16>]) {
    let mut shuffled = members.to_vec();
    shuffled.reverse();
    let (cluster, key) = (ClusterId(7), RingKey(1, 2));
    let record = initial_record(cluster, key, count(vnodes), replication, shuffled);
    let record = record.expect("good arguments");
    assert_eq!(record.check(), Ok(()));
    assert_eq!(record.owners, owners);
    assert_eq!(record.voters.len() % 2, 1);
    for vnode in record.vnodes.all() {
        let list: Vec<_> = record.preference_list(vnode, replication).collect();
        let mut ids: Vec<_> = list.iter().map(|entry| entry.node()).collect();
        let own = owners[vnode.0 as usize].iter().map(|&at| members[usize::from(at)].id);
        assert!(own.eq(ids[..owners[0].len()].iter().copied()));
        for (at, entry) in list.iter().enumerate() {
            let primary = at < usize::from(replication);
            assert_eq!(matches!(entry, Preference::Primary(_)), primary);
        }
        ids.sort();
        assert!(ids.iter().copied().eq(members.iter().map(|member| member.id)));
    }
}

/// All ways to stand `nodes` members on racks, where only who stands together matters.
fn rack_layouts(nodes: usize) -> Vec<Vec<usize>> {
    let mut layouts = vec![vec![]];
    for _ in 0..nodes {
        layouts = layouts
            .into_iter()
            .flat_map(|layout: Vec<usize>| {
                let racks = layout.iter().max().map_or(0, |last| last + 1);
                (0..=racks).map(move |rack| [layout.clone(), vec![rack]].concat())
            })
            .collect();
    }
    layouts
}

/// RC#913, RC#972: small rings are where owners repeat and where the ring wraps.
#[test]
fn the_laws_hold_for_every_small_cluster() {
    let capacities: [&dyn Fn(u32) -> u32; 6] = [
        &|_| 1,
        &|at| at + 1,
        &|at| 1 + at % 2,
        &|at| if at == 2 { u32::MAX } else { 1 },
        &|at| 7 - at,
        &|at| [100, 100, 33, 250, 1, 64][at as usize],
    ];
    assert_eq!(rack_layouts(6).len(), 203);
    for nodes in 1..=6 {
        for layout in rack_layouts(nodes) {
            for capacity in &capacities {
                let places: Vec<_> =
                    (0..).zip(&layout).map(|(at, &rack)| (rack, capacity(at))).collect();
                let members = members(&places);
                for vnodes in [1, 2, 4, 8, 16] {
                    for replication in 1..=4 {
                        assert_laws(&members, vnodes, replication);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_laws_hold_for_any_cluster(
        places in prop::collection::vec(
            (0usize..12, prop_oneof![1u32..4, 1u32..1_000, any::<u32>().prop_map(|any| any.max(1))]),
            1..40,
        ),
        bits in 0u32..=8,
        replication in prop_oneof![1u8..=5, 1u8..=40],
    ) {
        assert_laws(&members(&places), 1 << bits, replication);
    }
}

fn loads_of(places: &[(usize, u32)], vnodes: u32, replication: u8) -> Vec<usize> {
    let owners = assign(&members(places), count(vnodes), replication).expect("good arguments");
    loads(&owners, places.len())
}

#[test]
fn places_follow_capacity() {
    assert_eq!(loads_of(&[(0, 1), (1, 1), (2, 1), (3, 1)], 16, 3), [12, 12, 12, 12]);
    assert_eq!(loads_of(&[(0, 1), (1, 2), (2, 3), (3, 4)], 64, 1), [6, 13, 19, 26]);
}

#[test]
fn a_member_holds_a_virtual_node_once_however_great_its_capacity() {
    assert_eq!(loads_of(&[(0, 1_000), (1, 1), (2, 1), (3, 1)], 16, 2), [16, 5, 6, 5]);
    assert_eq!(loads_of(&[(0, 1_000), (1, 1)], 16, 2), [16, 16]);
}

#[test]
fn racks_win_over_capacity() {
    // Three racks for three replicas: each holds every virtual node once.
    assert_eq!(loads_of(&[(0, 1), (0, 1), (1, 1), (2, 1)], 16, 3), [8, 8, 16, 16]);
    // Two racks: each holds every virtual node at least once, and shares by capacity beyond that.
    assert_eq!(loads_of(&[(0, 1), (0, 1), (0, 1), (0, 1), (1, 1)], 16, 3), [8, 8, 8, 8, 16]);
    assert_eq!(loads_of(&[(0, 9), (0, 9), (0, 9), (1, 1), (1, 1)], 16, 3), [11, 11, 10, 8, 8]);
}

/// For each member, who comes second where it is first.
fn seconds(owners: &[Vec<u16>], members: usize) -> Vec<Vec<usize>> {
    let mut seconds = vec![vec![0; members]; members];
    for row in owners {
        seconds[usize::from(row[0])][usize::from(row[1])] += 1;
    }
    seconds
}

#[test]
fn whoever_fails_leaves_its_first_places_to_all_others() {
    for (nodes, vnodes) in [(3, 1_024), (5, 1_024), (12, 4_096)] {
        let places: Vec<_> = (0..nodes).map(|rack| (rack, 1)).collect();
        let owners = assign(&members(&places), count(vnodes), 3).expect("good arguments");
        let fair = vnodes as usize / nodes / (nodes - 1);
        for (failed, inherited) in seconds(&owners, nodes).into_iter().enumerate() {
            for (heir, count) in inherited.into_iter().enumerate().filter(|(at, _)| *at != failed) {
                let around = fair / 2..=fair * 2;
                assert!(
                    around.contains(&count),
                    "{heir} inherits {count} from {failed}, not {fair}"
                );
            }
        }
    }
}

#[test]
fn the_first_fallbacks_of_a_member_are_many() {
    let places: Vec<_> = (0..12).map(|node| (node / 3, 1)).collect();
    let record = initial_record(ClusterId(1), RingKey(1, 2), count(1_024), 3, members(&places));
    let record = record.expect("good arguments");
    let failed = NodeId(1);
    let mut fallbacks: BTreeMap<NodeId, usize> = BTreeMap::new();
    for vnode in record.vnodes.all().filter(|&vnode| record.is_primary(failed, vnode, 3)) {
        let fallback = record.preference_list(vnode, 3).nth(3).expect("12 members").node();
        *fallbacks.entry(fallback).or_default() += 1;
    }
    assert_eq!(fallbacks.len(), 11, "{fallbacks:?}");
    assert!(fallbacks.values().all(|&count| count <= 256 / 11 * 2), "{fallbacks:?}");
}

#[test]
fn neighbouring_virtual_nodes_rarely_have_the_same_owners_in_the_same_order() {
    for nodes in [3, 4, 9] {
        let places: Vec<_> = (0..nodes).map(|rack| (rack, 1)).collect();
        let owners = assign(&members(&places), count(1_024), 3).expect("good arguments");
        let same = owners.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(same < 1_024 / 10, "{same} of 1023 neighbours are alike");
    }
}

#[test]
fn voters_are_an_odd_number_of_the_first_members() {
    for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7), (20, 7)]
    {
        let members = members(&vec![(0, 1); nodes]);
        let ids: Vec<_> = members[..voters].iter().map(|member| member.id).collect();
        let record = initial_record(ClusterId(1), RingKey(1, 2), count(8), 3, members);
        assert_eq!(record.expect("good arguments").voters, ids);
    }
}

#[test]
fn a_first_record_has_epoch_1_and_no_tables() {
    let members = members(&[(0, 1), (1, 1)]);
    let record = initial_record(ClusterId(9), RingKey(3, 4), count(4), 3, members.clone());
    let record = record.expect("good arguments");
    assert_eq!((record.cluster, record.ring_key), (ClusterId(9), RingKey(3, 4)));
    assert_eq!((record.epoch, record.table_id_next), (Epoch(1), TableId(1)));
    assert_eq!(record.configuration(VnodeIndex(3)), ConfigurationNumber(1));
    assert_eq!((record.members, record.tables), (members, vec![]));
}

#[test]
fn impossible_arguments_are_refused() {
    let good = members(&[(0, 1), (1, 1)]);
    let refused = |members: &[Member], replication| assign(members, count(2), replication).err();
    assert_eq!(refused(&[], 3), Some(AssignmentError::NoMembers));
    assert_eq!(refused(&good, 0), Some(AssignmentError::NoReplicas));
    let too_many = members(&vec![(0, 1); 65_536]);
    assert_eq!(refused(&too_many, 3), Some(AssignmentError::TooManyMembers(65_536)));
    let mut twice = good.clone();
    twice[1].id = NodeId(1);
    assert_eq!(refused(&twice, 3), Some(AssignmentError::Order(NodeId(1))));
    let mut empty = good;
    empty[1].capacity = 0;
    assert_eq!(refused(&empty, 3), Some(AssignmentError::NoCapacity(NodeId(2))));
}

/// The greatest arguments there are; a bound on what the fractions may grow to, and on the time.
#[test]
fn a_great_ring_is_assigned() {
    let places: Vec<_> = (0..1_000).map(|node| (node % 20, 1 + node as u32 % 3)).collect();
    let members = members(&places);
    let owners = assign(&members, count(16_384), 3).expect("good arguments");
    let loads = loads(&owners, members.len());
    for (load, fair) in loads.iter().zip(fair_shares(&members, 16_384, 3)) {
        assert!((*load as f64 - fair).abs() < 1.0 + 1e-6);
    }
    for row in &owners {
        assert_even_over_racks(row, &members);
    }
}

#[test]
fn the_greatest_numbers_do_not_overflow() {
    let places: Vec<_> = (0..usize::from(u16::MAX)).map(|node| (node % 3, u32::MAX)).collect();
    let owners = assign(&members(&places), count(VnodeCount::MAX), 2).expect("good arguments");
    let loads = loads(&owners, places.len());
    assert!(loads.iter().all(|load| (2..=3).contains(load)));
}

/// Records that are on disks hold owners that were computed by these very draws: the same arguments
/// must give them for ever.
#[test]
fn owners_are_the_same_for_ever() {
    let digest = |places: &[(usize, u32)], vnodes: u32, replication: u8| {
        let owners = assign(&members(places), count(vnodes), replication).expect("good arguments");
        let bytes: Vec<u8> =
            owners.iter().flatten().flat_map(|owner| owner.to_le_bytes()).collect();
        RingKey(1, 2).token(&bytes).0
    };
    let even: Vec<_> = (0..5).map(|rack| (rack, 1)).collect();
    let few_racks: Vec<_> = (0..7).map(|node| (node % 2, 1 + node as u32)).collect();
    let many: Vec<_> = (0..100).map(|node| (node % 9, 1 + node as u32 % 4)).collect();
    let digests = [
        digest(&even[..1], 8, 3),
        digest(&even[..3], 1_024, 3),
        digest(&even, 256, 3),
        digest(&few_racks, 64, 4),
        digest(&many, 4_096, 3),
    ];
    let expected = [
        1_720_149_126_314_353_925,
        3_692_978_791_411_174_055,
        17_901_558_429_231_769_308,
        1_933_527_185_507_951_436,
        11_723_142_221_208_838_104,
    ];
    assert_eq!(digests, expected);
}

use super::*;
use crate::{TableOptions, Zone};

/// Four members, eight virtual nodes with two owners each, one table.
fn record() -> ClusterRecord {
    let member = |id| Member {
        id: NodeId(id),
        address: "127.0.0.1:7000".parse().expect("an address"),
        zone: Zone { datacenter: "d1".into(), rack: format!("r{id}") },
        capacity: 1,
    };
    let options = TableOptions { replication: 2, ..TableOptions::default() };
    ClusterRecord {
        cluster: ClusterId(5),
        epoch: Epoch(3),
        ring_key: RingKey(1, 2),
        vnodes: VnodeCount::new(8).expect("a power of two"),
        members: [1, 2, 3, 4].map(member).to_vec(),
        owners: (0..8).map(|vnode| vec![vnode % 3, (vnode + 1) % 3]).collect(),
        configurations: (1..9).map(ConfigurationNumber).collect(),
        tables: vec![
            Table { id: TableId(1), name: "carts".into(), options: options.clone() },
            Table { id: TableId(4), name: "users".into(), options },
        ],
        table_id_next: TableId(5),
        voters: [1, 2, 3].map(NodeId).to_vec(),
        incarnations: Vec::new(),
    }
}

/// That a record which was spoilt in one way is refused with that reason.
#[track_caller]
fn refused(reason: &str, spoil: impl FnOnce(&mut ClusterRecord)) {
    let mut record = record();
    assert_eq!(record.check(), Ok(()), "before it is spoilt");
    spoil(&mut record);
    let RecordError(said) = record.check().expect_err(reason);
    assert!(said.contains(reason), "it said {said:?}, not {reason:?}");
}

#[test]
fn members_that_do_not_fit_are_refused() {
    refused("no members or too many", |record| record.members.clear());
    refused("no members or too many", |record| {
        let template = record.members[0].clone();
        record.members =
            (0..65_536).map(|id| Member { id: NodeId(id), ..template.clone() }).collect();
    });
    refused("not in order or not distinct", |record| record.members.swap(0, 1));
    refused("not in order or not distinct", |record| record.members[1].id = NodeId(1));
    refused("no capacity", |record| record.members[3].capacity = 0);
}

#[test]
fn owners_that_do_not_fit_are_refused() {
    refused("not as many as its virtual nodes", |record| record.owners.truncate(7));
    refused("not as many as its virtual nodes", |record| record.owners.push(vec![0]));
    refused("not as many as its virtual nodes", |record| record.configurations.truncate(7));
    refused("missing, unknown or repeated", |record| record.owners[7].clear());
    refused("missing, unknown or repeated", |record| record.owners[7] = vec![0, 4]);
    refused("missing, unknown or repeated", |record| record.owners[7] = vec![2, 1, 2]);
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    refused("tables are not in order", |record| record.tables.swap(0, 1));
    refused("tables are not in order", |record| record.tables[1].id = TableId(1));
    refused("tables are not in order", |record| record.table_id_next = TableId(4));
    refused("options are out of range", |record| record.tables[0].options.replication = 5);
    refused("options are out of range", |record| record.tables[1].name = "a b".into());
    refused("one name", |record| record.tables[1].name = "carts".into());
}

#[test]
fn voters_that_do_not_fit_are_refused() {
    refused("missing, too many or not in order", |record| record.voters.clear());
    refused("missing, too many or not in order", |record| record.voters.swap(0, 1));
    refused("missing, too many or not in order", |record| record.voters[1] = NodeId(1));
    refused("missing, too many or not in order", |record| {
        record.voters = (1..=8).map(NodeId).collect();
    });
    refused("not a member", |record| record.voters[2] = NodeId(9));
    refused("incarnations", |record| record.set_incarnation(NodeId(9), 1));
    refused("incarnations", |record| record.incarnations = vec![(NodeId(2), 1), (NodeId(1), 1)]);
}

fn nodes(list: impl Iterator<Item = Preference>) -> Vec<u64> {
    list.map(|entry| entry.node().0).collect()
}

/// RC#913: past the last virtual node the walk goes on at the first, and repeats nobody.
#[test]
fn a_preference_list_wraps_around_the_ring() {
    let mut record = record();
    record.owners = vec![vec![3], vec![1], vec![0], vec![2], vec![2], vec![2], vec![3], vec![2]];
    assert_eq!(nodes(record.preference_list(VnodeIndex(7), 2)), [3, 4, 2, 1]);
    assert_eq!(nodes(record.preference_list(VnodeIndex(6), 2)), [4, 3, 2, 1]);
    assert_eq!(nodes(record.preference_list(VnodeIndex(0), 2)), [4, 2, 1, 3]);
    assert_eq!(record.primaries(VnodeIndex(7), 2).collect::<Vec<_>>(), [NodeId(3), NodeId(4)]);
}

#[test]
fn a_preference_list_names_its_primaries_and_then_its_fallbacks() {
    let record = record();
    let list: Vec<_> = record.preference_list(VnodeIndex(1), 2).collect();
    let expected = [
        Preference::Primary(NodeId(2)),
        Preference::Primary(NodeId(3)),
        Preference::Fallback(NodeId(1)),
        Preference::Fallback(NodeId(4)),
    ];
    assert_eq!(list, expected);
    assert!(record.is_primary(NodeId(3), VnodeIndex(1), 2));
    assert!(!record.is_primary(NodeId(3), VnodeIndex(1), 1));
}

#[test]
fn members_that_own_nothing_come_last_in_every_preference_list() {
    let mut record = record();
    record.owners = vec![vec![2]; 8];
    for vnode in record.vnodes.all() {
        assert_eq!(nodes(record.preference_list(vnode, 3)), [3, 1, 2, 4]);
    }
}

#[test]
fn a_record_counts_what_a_node_owns() {
    let record = record();
    assert_eq!([1, 2, 3, 4, 5].map(|id| record.owned_vnodes(NodeId(id))), [5, 6, 5, 0, 0]);
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let record = record();
    for bytes in [rmp_serde::to_vec(&record), rmp_serde::to_vec_named(&record)] {
        let bytes = bytes.expect("a record can be encoded");
        let read: ClusterRecord = rmp_serde::from_slice(&bytes).expect("and decoded");
        assert_eq!(read, record);
        for length in 0..bytes.len() {
            let cut = rmp_serde::from_slice::<ClusterRecord>(&bytes[..length]);
            assert!(cut.is_err(), "cut off after {length} bytes it was still read");
        }
    }
}

#[test]
fn a_record_cut_into_no_power_of_two_is_not_read() {
    let bytes = rmp_serde::to_vec(&7u32).expect("a number can be encoded");
    assert!(rmp_serde::from_slice::<VnodeCount>(&bytes).is_err());
}

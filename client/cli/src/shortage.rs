//! Whether what some nodes hold is all that was ever acknowledged.

use std::collections::BTreeMap;

use quoit_ring::{ClusterRecord, NodeId, VnodeIndex};

/// A table of which some acknowledged writes may lie only on nodes that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Its name.
    pub table: String,
    /// In so many virtual nodes too few replicas are there.
    pub vnodes: u32,
    /// Whose replicas are lacking, and in how many of those.
    pub lacking: BTreeMap<NodeId, u32>,
}

/// The tables of which acknowledged writes may be lacking where only those replicas are there that
/// `is_there` tells: a write at its table's level is on W of N replicas, so that N - W + 1 of them know
/// it; of a sloppy table others may have taken it, so that all are needed.
pub fn shortages(
    record: &ClusterRecord,
    is_there: impl Fn(NodeId, VnodeIndex) -> bool,
) -> Vec<Shortage> {
    let mut shortages = Vec::new();
    for table in &record.tables {
        let options = &table.options;
        let acknowledged = options.write_level.required(options.replication).unwrap_or(1);
        let spared = if options.sloppy { 0 } else { usize::from(acknowledged) - 1 };
        let (mut vnodes, mut lacking) = (0, BTreeMap::new());
        for vnode in record.vnodes.all() {
            let primaries = record.primaries(vnode, options.replication);
            let absent: Vec<NodeId> = match options.sloppy {
                false => primaries.filter(|node| !is_there(*node, vnode)).collect(),
                true => {
                    let members = record.members.iter().map(|member| member.id);
                    members.filter(|node| !is_there(*node, vnode)).collect()
                }
            };
            if absent.len() > spared {
                vnodes += 1;
                absent.into_iter().for_each(|node| *lacking.entry(node).or_default() += 1);
            }
        }
        if vnodes > 0 {
            shortages.push(Shortage { table: table.name.clone(), vnodes, lacking });
        }
    }
    shortages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn of_n_minus_w_plus_1_replicas_all_that_was_acknowledged_is_known() {
        let record = sample::record();
        let missing = |nodes: &[u64]| {
            let nodes: Vec<_> = nodes.iter().map(|id| NodeId(*id)).collect();
            let shortages = shortages(&record, |node, _| !nodes.contains(&node));
            shortages.into_iter().map(|it| (it.table, it.vnodes)).collect::<Vec<_>>()
        };
        // N=3, W=quorum; and N=3, W=all.
        assert_eq!(missing(&[]), []);
        assert_eq!(missing(&[2]), []);
        assert_eq!(missing(&[1, 2]), [("unicode".to_owned(), 4)]);
        assert_eq!(missing(&[1, 2, 3]), [("unicode".to_owned(), 4), ("carts".to_owned(), 4)]);
    }

    #[test]
    fn a_sloppy_table_needs_every_node() {
        let mut record = sample::record();
        record.tables[0].options.sloppy = true;
        let found = shortages(&record, |node, vnode| node != NodeId(3) || vnode.0 > 0);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].vnodes, &found[0].lacking), (1, &[(NodeId(3), 1)].into()));
    }
}

//! The cluster record: members, owners and tables, one immutable version (epoch) at a time.
//!
//! Version e + 1 is decided once, by a round among the voters of version e (`quoit-core` has the
//! round); this module only says what a record is and what follows from it. Each virtual node's
//! owners carry a configuration number of their own: requests are fenced by it, so that a change
//! elsewhere disturbs nobody.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, ConfigurationNumber, Epoch, Member, NodeId, RingKey, Table, TableId, Token,
    VnodeCount, VnodeIndex,
};

/// At most so many members vote on the next version.
pub const VOTERS_MAX: usize = 7;

/// One version of what the cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster.
    pub cluster: ClusterId,
    /// The version.
    pub epoch: Epoch,
    /// Keys the token hash.
    pub ring_key: RingKey,
    /// Q.
    pub vnodes: VnodeCount,
    /// The members, ascending by id.
    pub members: Vec<Member>,
    /// For each virtual node its ordered owners, as indexes into `members`.
    pub owners: Vec<Vec<u16>>,
    /// For each virtual node the number of its owners' configuration.
    pub configurations: Vec<ConfigurationNumber>,
    /// The tables, ascending by id.
    pub tables: Vec<Table>,
    /// The id that the next table gets.
    pub table_id_next: TableId,
    /// Who votes on the next version, ascending.
    pub voters: Vec<NodeId>,
    /// Members that lost what they held, ascending by id, with the incarnation that each has taken
    /// since: what it voted before it does not know, and it votes again once this names it.
    #[serde(default)]
    pub incarnations: Vec<(NodeId, u64)>,
}

/// One entry of a preference list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// One of the key's N owners: counts towards a strict quorum.
    Primary(NodeId),
    /// A stand-in, clockwise past the owners: counts only where a table is sloppy.
    Fallback(NodeId),
}

impl Preference {
    /// The node of the entry.
    pub fn node(self) -> NodeId {
        match self {
            Self::Primary(node) | Self::Fallback(node) => node,
        }
    }
}

/// A record whose parts do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster record is inconsistent: {0}")]
pub struct RecordError(pub &'static str);

impl ClusterRecord {
    /// Checks everything that the accessors rest on. Call it on what came from a disk or a peer.
    pub fn check(&self) -> Result<(), RecordError> {
        let wrong = |what| Err(RecordError(what));
        if self.members.is_empty() || self.members.len() > usize::from(u16::MAX) {
            return wrong("it has no members or too many");
        }
        if !self.members.is_sorted_by(|a, b| a.id < b.id) {
            return wrong("its members are not in order or not distinct");
        }
        if self.members.iter().any(|member| member.capacity == 0) {
            return wrong("a member has no capacity");
        }
        let vnodes = self.vnodes.get() as usize;
        if self.owners.len() != vnodes || self.configurations.len() != vnodes {
            return wrong("its owners are not as many as its virtual nodes");
        }
        for owners in &self.owners {
            let in_range = owners.iter().all(|&index| usize::from(index) < self.members.len());
            let distinct =
                owners.iter().enumerate().all(|(at, index)| !owners[..at].contains(index));
            if owners.is_empty() || !in_range || !distinct {
                return wrong("a virtual node's owners are missing, unknown or repeated");
            }
        }
        if !self.tables.is_sorted_by(|a, b| a.id < b.id)
            || self.tables.last().is_some_and(|table| table.id >= self.table_id_next)
        {
            return wrong("its tables are not in order");
        }
        for table in &self.tables {
            if table.options.check(&table.name, self.members.len()).is_err() {
                return wrong("a table's options are out of range");
            }
        }
        let names: BTreeSet<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        if names.len() != self.tables.len() {
            return wrong("two of its tables have one name");
        }
        if self.voters.is_empty()
            || self.voters.len() > VOTERS_MAX
            || !self.voters.is_sorted_by(|a, b| a < b)
        {
            return wrong("its voters are missing, too many or not in order");
        }
        if self.voters.iter().any(|&voter| self.member(voter).is_none()) {
            return wrong("a voter is not a member");
        }
        if !self.incarnations.is_sorted_by(|a, b| a.0 < b.0)
            || self.incarnations.iter().any(|(node, _)| self.member(*node).is_none())
        {
            return wrong("its incarnations are not in order or not of members");
        }
        Ok(())
    }

    /// The incarnation that a member has taken since it lost what it held; 0 where it never did.
    pub fn incarnation(&self, node: NodeId) -> u64 {
        let at = self.incarnations.binary_search_by_key(&node, |(other, _)| *other);
        at.map_or(0, |at| self.incarnations[at].1)
    }

    /// Names the incarnation that a member has taken.
    pub fn set_incarnation(&mut self, node: NodeId, incarnation: u64) {
        match self.incarnations.binary_search_by_key(&node, |(other, _)| *other) {
            Ok(at) => self.incarnations[at].1 = incarnation,
            Err(at) => self.incarnations.insert(at, (node, incarnation)),
        }
    }

    /// The token of a partition key in this cluster.
    pub fn token(&self, partition_key: &[u8]) -> Token {
        self.ring_key.token(partition_key)
    }

    /// The configuration number of a virtual node.
    pub fn configuration(&self, vnode: VnodeIndex) -> ConfigurationNumber {
        self.configurations[vnode.0 as usize]
    }

    /// The first N of the preference list: those whose answers count towards a strict quorum.
    /// Fewer where the cluster has fewer members.
    pub fn primaries(&self, vnode: VnodeIndex, replication: u8) -> impl Iterator<Item = NodeId> {
        self.walk(vnode).take(usize::from(replication))
    }

    /// Whether a node is among the first N of the preference list.
    pub fn is_primary(&self, node: NodeId, vnode: VnodeIndex, replication: u8) -> bool {
        self.primaries(vnode, replication).any(|primary| primary == node)
    }

    /// The whole preference list of a virtual node: its N primaries, then every other member as a
    /// fallback, clockwise (Dynamo, section 4.3).
    pub fn preference_list(
        &self,
        vnode: VnodeIndex,
        replication: u8,
    ) -> impl Iterator<Item = Preference> {
        self.walk(vnode).enumerate().map(move |(at, node)| {
            if at < usize::from(replication) {
                Preference::Primary(node)
            } else {
                Preference::Fallback(node)
            }
        })
    }

    /// A virtual node's own owners, then the next distinct ones clockwise, and last, ascending by
    /// id, the members that own nothing: with few virtual nodes not everyone has one.
    fn walk(&self, vnode: VnodeIndex) -> impl Iterator<Item = NodeId> {
        let count = self.owners.len();
        let start = vnode.0 as usize;
        let mut seen = Vec::with_capacity(self.members.len().min(16));
        (0..count)
            .flat_map(move |step| self.owners[(start + step) % count].iter().copied())
            .chain((0..).take(self.members.len()))
            .filter(move |index| {
                let new = !seen.contains(index);
                if new {
                    seen.push(*index);
                }
                new
            })
            .take(self.members.len())
            .map(|index| self.members[usize::from(index)].id)
    }

    /// The member of that id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        Some(&self.members[at])
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The table of that id.
    pub fn table_by_id(&self, id: TableId) -> Option<&Table> {
        let at = self.tables.binary_search_by_key(&id, |table| table.id).ok()?;
        Some(&self.tables[at])
    }

    /// How many virtual nodes a node is an owner of.
    pub fn owned_vnodes(&self, node: NodeId) -> usize {
        let Ok(at) = self.members.binary_search_by_key(&node, |member| member.id) else {
            return 0;
        };
        self.owners
            .iter()
            .filter(|owners| owners.iter().any(|&index| usize::from(index) == at))
            .count()
    }
}

#[cfg(test)]
mod tests;

//! The first exchange between two nodes: may they speak at all?
//!
//! Certificates have already shown that the peer belongs to the cluster's authority and bears the
//! node id that it claims. What is compared here: the cluster, the list of initial members (nodes
//! whose lists differ would make different first records), and the decided record (one version,
//! one content).

use std::net::SocketAddr;

use quoit_ring::{ClusterId, ClusterRecord, Epoch, Member, NodeId, VnodeCount};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// The peer protocol that this program speaks.
pub const PEER_VERSION: u16 = 5;

/// What a cluster is made from: the same list in the configuration of every initial member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The cluster.
    pub cluster: ClusterId,
    /// Q.
    pub vnodes: VnodeCount,
    /// Owners of each virtual node (the usual N).
    pub replication: u8,
    /// The initial members, ascending by id.
    pub members: Vec<Member>,
}

impl Genesis {
    /// A hash of everything that the first record is made from.
    pub fn hash(&self) -> u64 {
        hash_of(self)
    }
}

/// A 64-bit hash of a record's content.
pub fn record_hash(record: &ClusterRecord) -> u64 {
    hash_of(record)
}

fn hash_of(value: &impl Serialize) -> u64 {
    let bytes = rmp_serde::to_vec(value).expect("plain data always encodes");
    let mut hasher = SipHasher13::new_with_keys(0x7175_6f69, 0x7421_7269);
    hasher.write(&bytes);
    hasher.finish()
}

/// What a node says first on a connection, and what it compares the other's words with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The oldest peer protocol it speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// How often it was started.
    pub boot_count: u64,
    /// The hash of its list of initial members.
    pub genesis_hash: u64,
    /// The version of the record that it follows; 0 where it has none.
    pub epoch: Epoch,
    /// The hash of that record; 0 where it has none.
    pub record_hash: u64,
}

/// The answer to [`PeerHello`]: the other's own words and, where it refuses, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerWelcome {
    /// Who answers.
    pub hello: PeerHello,
    /// Why the connection is refused; it is closed then.
    pub refused: Option<String>,
}

/// Whether a node with the words `own` may speak with one that says `theirs` and whose
/// certificate names `certified`. The error is for the people of both nodes.
pub fn judge(own: &PeerHello, theirs: &PeerHello, certified: NodeId) -> Result<(), String> {
    if theirs.cluster != own.cluster {
        return Err(format!(
            "{} belongs to cluster {}, {} to cluster {}",
            theirs.node, theirs.cluster, own.node, own.cluster
        ));
    }
    if theirs.node != certified {
        return Err(format!(
            "a node that calls itself {} has the certificate of {certified}: give each node its own",
            theirs.node
        ));
    }
    if theirs.node == own.node {
        return Err(format!("two nodes call themselves {}: give each its own id", own.node));
    }
    if theirs.version_min > own.version_max || theirs.version_max < own.version_min {
        return Err(format!(
            "{} speaks peer protocol {} to {}, {} speaks {} to {}: upgrade the older program",
            theirs.node,
            theirs.version_min,
            theirs.version_max,
            own.node,
            own.version_min,
            own.version_max
        ));
    }
    // Once a record was decided, it says who is a member, and the initial list has no more say.
    if theirs.epoch == Epoch(0) || own.epoch == Epoch(0) {
        if theirs.genesis_hash != own.genesis_hash {
            return Err(format!(
                "the lists of initial members of {} and {} differ: make [cluster] the same in \
                 the configuration of all initial members",
                theirs.node, own.node
            ));
        }
    } else if theirs.epoch == own.epoch && theirs.record_hash != own.record_hash {
        return Err(format!(
            "{} and {} have different cluster records of version {}: they were not made by one \
             cluster",
            theirs.node, own.node, own.epoch
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u64) -> PeerHello {
        PeerHello {
            version_min: 1,
            version_max: 1,
            cluster: ClusterId(7),
            node: NodeId(node),
            address: SocketAddr::from(([127, 0, 0, 1], 7100)),
            boot_count: 1,
            genesis_hash: 5,
            epoch: Epoch(0),
            record_hash: 0,
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut PeerHello), because: &str) {
        let mut theirs = hello(2);
        change(&mut theirs);
        let error = judge(&hello(1), &theirs, NodeId(2)).expect_err("must be refused");
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn nodes_of_one_cluster_speak() {
        assert_eq!(judge(&hello(1), &hello(2), NodeId(2)), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        refused(|theirs| theirs.cluster = ClusterId(8), "belongs to cluster");
        refused(|theirs| theirs.node = NodeId(3), "certificate of n2");
        refused(|theirs| theirs.version_min = 2, "peer protocol");
        refused(|theirs| theirs.genesis_hash = 6, "initial members");
    }

    #[test]
    fn one_version_has_one_content() {
        let decided = |node, hash| {
            let mut hello = hello(node);
            hello.epoch = Epoch(3);
            hello.record_hash = hash;
            hello.genesis_hash = node;
            hello
        };
        assert_eq!(judge(&decided(1, 9), &decided(2, 9), NodeId(2)), Ok(()));
        assert!(judge(&decided(1, 9), &decided(2, 8), NodeId(2)).is_err());
    }
}

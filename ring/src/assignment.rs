//! Owners for a set of members.
use crate::{Member, VnodeCount};

/// For each virtual node its ordered owners as indexes into `members`.
pub fn assign(members: &[Member], vnodes: VnodeCount, replication: u8) -> Vec<Vec<u16>> {
    let _ = (members, vnodes, replication);
    Vec::new()
}

//! One life of one node: the key by which chitchat tells states apart.

use std::net::SocketAddr;

use chitchat::ChitchatId;
use quoit_ring::NodeId;

/// A node in one of its lives, at one address. To chitchat each is a node of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation {
    pub(crate) node: NodeId,
    pub(crate) generation: u64,
    pub(crate) address: SocketAddr,
}

impl Incarnation {
    /// Reads chitchat's id; nothing where its name is not exactly how we write a node id.
    pub(crate) fn read(name: &str, generation: u64, address: SocketAddr) -> Option<Self> {
        let node: NodeId = name.parse().ok()?;
        // `n07` would be a second name of `n7`, and a second state beside it.
        (name.len() == 1 + digits(node.0)).then_some(Self { node, generation, address })
    }

    /// What this one takes in a digest: its id, and three counters.
    pub(crate) fn digest_bytes(&self) -> usize {
        let address_bytes = if self.address.is_ipv4() { 7 } else { 19 };
        2 + 1 + digits(self.node.0) + 8 + address_bytes + 24
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl From<Incarnation> for ChitchatId {
    fn from(from: Incarnation) -> Self {
        ChitchatId::new(from.node.to_string(), from.generation, from.address)
    }
}

impl TryFrom<&ChitchatId> for Incarnation {
    type Error = ();

    fn try_from(id: &ChitchatId) -> Result<Self, ()> {
        Self::read(&id.node_id, id.generation_id, id.gossip_advertise_addr).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use chitchat::Serializable;

    use super::*;

    #[test]
    fn a_name_is_read_only_as_we_write_it() {
        let address = ([127, 0, 0, 1], 1).into();
        for node in [0, 1, 9, 10, 99, 100, u64::MAX] {
            let one = Incarnation { node: NodeId(node), generation: 3, address };
            let id = ChitchatId::from(one);
            assert_eq!(Incarnation::try_from(&id), Ok(one));
            assert_eq!(one.digest_bytes(), id.serialized_len() + 24);
        }
        for name in ["", "n", "n01", "1", "N1", "n1 ", "n18446744073709551616", "n-1"] {
            assert_eq!(Incarnation::read(name, 0, address), None, "{name:?}");
        }
    }
}

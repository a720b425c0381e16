use quoit_ring::NodeId;

use chitchat::{ChitchatId, ChitchatMessage, Deserializable, Serializable};

use super::*;

const CLUSTER: &str = "000000000000000000000000000000aa";

fn one(node: u64) -> Incarnation {
    Incarnation { node: NodeId(node), generation: 3, address: ([10, 0, 0, 1], 7_000).into() }
}

fn guard() -> Guard {
    Guard::new(CLUSTER.into(), one(1), Arc::new(Mutex::new(Known::new(one(1)))))
}

/// Writes messages as chitchat does, and as it never would.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn message(kind: u8) -> Self {
        Self { bytes: vec![0x53, 0xb0, 0, kind] }
    }

    fn with(mut self, item: &impl Serializable) -> Self {
        item.serialize(&mut self.bytes);
        self
    }

    fn digest(self, nodes: &[(Incarnation, u64, u64)]) -> Self {
        let start = self.with(&u16::try_from(nodes.len()).unwrap());
        nodes.iter().fold(start, |writer, (node, collected, version)| {
            writer.with(&ChitchatId::from(*node)).with(&9_u64).with(collected).with(version)
        })
    }

    fn node(self, node: Incarnation) -> Self {
        self.with(&0_u8).with(&ChitchatId::from(node)).with(&0_u64).with(&0_u64)
    }

    fn fact(self, key: &str, value: &str, version: u64, status: u8) -> Self {
        self.with(&1_u8).with(&key.to_owned()).with(&value.to_owned()).with(&version).with(&status)
    }

    /// The operations as a delta of raw blocks.
    fn delta(mut self, operations: Writer) -> Self {
        for block in operations.bytes.chunks(BLOCK_BYTES_MAX) {
            self = self.with(&2_u8).with(&u16::try_from(block.len()).unwrap());
            self.bytes.extend_from_slice(block);
        }
        self.with(&0_u8)
    }

    fn admit(self) -> Result<Admitted, Refusal> {
        guard().admit(self.bytes.into())
    }
}

fn ack(operations: Writer) -> Result<Admitted, Refusal> {
    Writer::message(2).delta(operations).admit()
}

fn operations() -> Writer {
    Writer::default()
}

#[test]
fn sound_messages_pass_unchanged_and_chitchat_reads_them() {
    let digest = [(one(1), 0, 4), (one(2), 0, 0)];
    let facts = operations().node(one(2)).fact("a", "b", 1, 0).fact("b", "", 2, 0).node(one(4));
    let messages = [
        Writer::message(0).digest(&digest).with(&CLUSTER.to_owned()),
        Writer::message(0).digest(&[]).with(&CLUSTER.to_owned()),
        Writer::message(1).digest(&digest).delta(operations()),
        Writer::message(2).delta(facts),
    ];
    for message in messages {
        let bytes = Bytes::from(message.bytes);
        let admitted = guard().admit(bytes.clone()).unwrap();
        assert_eq!(admitted, Admitted { bytes: bytes.clone(), cut: false });
        let mut rest = &bytes[..];
        ChitchatMessage::deserialize(&mut rest).unwrap();
        assert!(rest.is_empty());
        for length in 0..bytes.len() {
            assert!(guard().admit(bytes.slice(..length)).is_err());
        }
    }
}

#[test]
fn a_message_of_another_cluster_is_named() {
    let message = Writer::message(0).digest(&[]).with(&"elsewhere".to_owned());
    let cluster = "elsewhere".to_owned();
    assert_eq!(message.admit(), Err(Refusal::OtherCluster { cluster }));
    assert_eq!(Writer::message(3).admit(), Err(Refusal::RefusedByPeer));
}

#[test]
fn what_would_break_the_state_machine_is_refused() {
    let malformed = |result: Result<Admitted, Refusal>| match result {
        Err(Refusal::Malformed(why)) => why,
        other => panic!("not malformed: {other:?}"),
    };
    // A version set below a fact's trips an assertion; one set at all hides facts to come.
    malformed(ack(operations().node(one(2)).fact("a", "", 9, 0).with(&2_u8).with(&5_u64)));
    malformed(ack(operations().node(one(2)).with(&2_u8).with(&5_u64)));
    malformed(ack(operations().node(one(2)).fact("a", "", 2, 0).fact("b", "", 2, 0)));
    malformed(ack(operations().node(one(2)).fact("a", "", u64::MAX, 0)));
    malformed(ack(operations().node(one(2)).fact("a", "", 1, 1)));
    malformed(ack(operations().fact("a", "", 1, 0)));
    malformed(ack(operations().node(one(2)).fact(&"k".repeat(65), "", 1, 0)));
    malformed(ack(operations().node(one(2)).fact("k", &"v".repeat(257), 1, 0)));
    let many = (1..=18).fold(operations().node(one(2)), |writer, version| {
        writer.fact(&version.to_string(), "", version, 0)
    });
    malformed(ack(many));
    let crowd = (0..1_001).fold(operations(), |writer, node| writer.node(one(node + 2)));
    malformed(ack(crowd));
    for digest in [(one(2), 0, u64::MAX), (one(2), 1, 1)] {
        malformed(Writer::message(1).digest(&[digest]).delta(operations()).admit());
    }
    assert_eq!(ack(operations().node(one(1)).fact("a", "", 1, 0)), Err(Refusal::SpeaksForUs));
}

#[test]
fn a_bomb_is_refused_before_it_bursts() {
    let block = zstd::bulk::compress(&[0; BLOCK_BYTES_MAX], 0).unwrap();
    let blocks = |block: &[u8]| {
        let mut writer = Writer::message(2);
        while writer.bytes.len() + block.len() + 4 < MESSAGE_BYTES_MAX {
            writer = writer.with(&1_u8).with(&u16::try_from(block.len()).unwrap());
            writer.bytes.extend_from_slice(block);
        }
        writer.with(&0_u8).admit()
    };
    assert_eq!(blocks(&block), Err(Refusal::Malformed("it inflates too far")));
    let larger = zstd::bulk::compress(&[0; BLOCK_BYTES_MAX + 1], 0).unwrap();
    assert_eq!(blocks(&larger), Err(Refusal::Malformed("a block that does not inflate")));
    let size_bytes = MESSAGE_BYTES_MAX + 1;
    assert_eq!(guard().admit(vec![0; size_bytes].into()), Err(Refusal::TooLong { size_bytes }));
}

#[test]
fn ids_without_room_are_cut_out_and_the_rest_stands() {
    let mut guard = guard();
    let crowd: Vec<_> = (1..=1_050).map(|node| (one(node), 0, 0)).collect();
    let syn = |nodes: &[(Incarnation, u64, u64)]| {
        Bytes::from(Writer::message(0).digest(nodes).with(&CLUSTER.to_owned()).bytes)
    };
    let admitted = guard.admit(syn(&crowd)).unwrap();
    assert_eq!(admitted, Admitted { bytes: syn(&crowd[..NODES_MAX]), cut: true });
    assert!(!guard.admit(syn(&crowd[..NODES_MAX])).unwrap().cut, "those are known now");
    // A message that is refused brings nobody in.
    let mut fresh = self::guard();
    let mut broken = syn(&crowd).to_vec();
    broken.push(0);
    assert!(fresh.admit(broken.into()).is_err());
    assert!(!fresh.admit(syn(&crowd[50..1_049])).unwrap().cut);
}

//! Peer messages on the wire: what was sent is read, and no bytes make a node panic.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use quoit_core::handshake::{PeerHello, PeerWelcome};
use quoit_core::peer::*;
use quoit_protocol::frame::{BODY_BYTES_MAX, Frame, take_frame};
use quoit_protocol::{
    Failure, FailureCode, Head, Key, Stage, StageKind, TraceId, Write, WriteId, Written,
};
use quoit_ring::{
    ClusterId, ClusterRecord, ConfigurationNumber, Epoch, HybridTime, Level, Member, NodeId,
    RingKey, TableId, VnodeCount, VnodeIndex, WallTime, Zone, assignment,
};

fn record() -> ClusterRecord {
    let member = |id| Member {
        id: NodeId(id),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
        zone: Zone { datacenter: "d".to_owned(), rack: "r".to_owned() },
        capacity: 1,
    };
    let vnodes = VnodeCount::new(4).expect("a power of two");
    let members = (1..=3).map(member).collect();
    assignment::initial_record(ClusterId(7), RingKey(1, 2), vnodes, 3, members).expect("three")
}

fn head() -> PeerHead {
    PeerHead {
        table: TableId(1),
        vnode: VnodeIndex(3),
        configuration: ConfigurationNumber(1),
        time: HybridTime(900),
        deadline_ms: 500,
        trace: None,
    }
}

fn samples() -> Vec<PeerMessage> {
    let key = || Key { partition: Bytes::from_static(b"p"), sort: Bytes::from_static(b"s") };
    let bytes = Bytes::from_static(b"some bytes");
    let time = HybridTime(5);
    let ballot = Ballot { round: 3, node: 1, nonce: u64::MAX };
    let hello = PeerHello {
        version_min: 1,
        version_max: 1,
        cluster: ClusterId(7),
        node: NodeId(2),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
        boot_count: 4,
        genesis_hash: 5,
        epoch: Epoch(1),
        record_hash: 6,
    };
    let failure = Failure {
        code: FailureCode::Unavailable,
        unknown: true,
        answered: 1,
        required: 2,
        retry_after_ms: 50,
        message: "why".to_owned(),
        time,
    };
    let write = Write {
        head: Head {
            table: TableId(1),
            vnode: VnodeIndex(3),
            configuration: ConfigurationNumber(1),
            time,
            deadline_ms: 9,
            level: Some(Level::Exactly(2)),
            trace: Some(TraceId(3, 4)),
        },
        key: key(),
        value: Some(bytes.clone()),
        checksum: 77,
        context: bytes.clone(),
        ttl_ms: Some(1),
        write_id: Some(WriteId(1, 2)),
    };
    let written = Written { time, context: bytes.clone(), dot: (7, time), acknowledged: 2 };
    let values = vec![(time, 7, bytes.clone())];
    let row = Some((bytes.clone(), values.clone()));
    let rows = vec![(bytes.clone(), row), (bytes.clone(), None)];
    let refusals = [
        Refusal::WrongConfiguration,
        Refusal::UnknownTable,
        Refusal::Older(time),
        Refusal::Unreadable,
        Refusal::Overloaded,
        Refusal::Storage("full".to_owned()),
        Refusal::Invalid,
    ];
    let stage = Stage { node: NodeId(2), kind: StageKind::Commit, began_us: 3, took_us: 4 };
    let mut samples: Vec<PeerMessage> = vec![
        PeerStages { took_us: 9, stages: vec![stage] }.into(),
        hello.clone().into(),
        PeerWelcome { hello, refused: Some("no".to_owned()) }.into(),
        PeerRead { head: head(), key: key(), whole: true }.into(),
        ReadAnswer { time, found: Ok((bytes.clone(), values.clone())) }.into(),
        PeerMerge {
            head: head(),
            key: key(),
            set: bytes.clone(),
            rebuild: true,
            values,
            stands_in_for: Some(NodeId(3)),
        }
        .into(),
        MergeAnswer { time, merged: Ok(()) }.into(),
        PeerPage { head: head(), from: bytes.clone(), to: None, rows_max: 5, whole: false }.into(),
        PeerPage { head: head(), from: bytes.clone(), to: Some(bytes), rows_max: 5, whole: false }
            .into(),
        PageAnswer { time, page: Ok((rows, true)) }.into(),
        PageAnswer { time, page: Err(Refusal::Unreadable) }.into(),
        Box::new(Forward { write }).into(),
        Box::new(Forwarded { result: Ok(written) }).into(),
        Box::new(Forwarded { result: Err(failure) }).into(),
        Prepare { epoch: Epoch(2), ballot }.into(),
        Box::new(Promise { epoch: Epoch(2), ballot, accepted: None }).into(),
        Box::new(Promise { epoch: Epoch(2), ballot, accepted: Some((ballot, record())) }).into(),
        Box::new(Accept { ballot, record: record() }).into(),
        Accepted { epoch: Epoch(2), ballot, accepted: true }.into(),
        Box::new(Decided { record: record() }).into(),
        AskRecord { have: Epoch(1) }.into(),
        Ping {
            wall: WallTime(8),
            time,
            epoch: Epoch(1),
            life: Some(Life { incarnation: u64::MAX, starts: 1, sequence: 2 }),
            remembered: None,
        }
        .into(),
    ];
    samples.extend(refusals.map(|refusal| MergeAnswer { time, merged: Err(refusal) }.into()));
    samples
}

fn frame_of(message: &PeerMessage) -> Frame {
    let mut buffer = BytesMut::new();
    message.put(17, &mut buffer);
    take_frame(&mut buffer, BODY_BYTES_MAX).expect("intact").expect("whole")
}

#[test]
fn every_message_is_read_as_it_was_sent() {
    let mut kinds = std::collections::BTreeSet::new();
    for message in samples() {
        let frame = frame_of(&message);
        assert_eq!((frame.kind, frame.request), (message.kind(), 17));
        assert_eq!(PeerMessage::read(&frame), Ok(message.clone()));
        kinds.insert(message.kind());
    }
    assert_eq!(kinds, (129..=145).chain([158]).collect(), "each kind has a sample here");
    assert!(!kinds.contains(&KIND_GOSSIP));
}

#[test]
fn a_cut_message_is_refused() {
    for message in samples() {
        let frame = frame_of(&message);
        for length in 0..frame.body.len() {
            let cut = Frame { body: frame.body.slice(..length), ..frame.clone() };
            assert!(PeerMessage::read(&cut).is_err(), "{length} bytes of {message:?}");
        }
        let longer = [&frame.body[..], &[0]].concat();
        assert!(PeerMessage::read(&Frame { body: longer.into(), ..frame }).is_err());
    }
}

#[test]
fn a_corrupt_message_is_refused_or_read_but_never_a_panic() {
    for message in samples() {
        let frame = frame_of(&message);
        for at in 0..frame.body.len() {
            for flip in [1, 0x80, 0xff] {
                let mut body = frame.body.to_vec();
                body[at] ^= flip;
                let _ = PeerMessage::read(&Frame { body: body.into(), ..frame.clone() });
            }
        }
    }
}

#[test]
fn a_pings_bytes_are_what_they_were() {
    let ping = PeerMessage::from(Ping {
        wall: WallTime(8),
        time: HybridTime(5),
        epoch: Epoch(1),
        life: Some(Life { incarnation: 7, starts: 6, sequence: 9 }),
        remembered: None,
    });
    assert_eq!(frame_of(&ping).body[..], [0x95, 8, 5, 1, 0x93, 7, 6, 9, 0xc0]);
    let merged = PeerMessage::from(MergeAnswer { time: HybridTime(5), merged: Ok(()) });
    assert_eq!(&frame_of(&merged).body[..], b"\x92\x05\x81\xa2Ok\xc0");
}

proptest! {
    #[test]
    fn any_bytes_of_any_kind_are_a_message_or_refused(
        kind: u8, body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = PeerMessage::read(&Frame { kind, request: 1, body: body.into() });
    }
}

//! One core alone: events in, whole lists of effects compared.

use std::sync::Arc;

use bytes::Bytes;
use quoit_core::access::Rights;
use quoit_core::context;
use quoit_core::event::{Inner, StorageAnswer, StorageRequest, Tag};
use quoit_core::handshake::Genesis;
use quoit_core::operation::OperationId;
use quoit_core::peer::{
    MergeAnswer, PeerHead, PeerMerge, PeerMessage, PeerRead, PeerStages, Ping, ReadAnswer, Refusal,
};
use quoit_core::random::Random;
use quoit_core::record::{RecordState, Vote};
use quoit_core::{
    ConnectionId, CoreConfig, Effect, Effects, Event, FinishedTrace, Instant, NodeCore, Now,
    Recovered, Spent, TracedOperation, TracedRequest,
};
use quoit_protocol::{
    ClientRequest, ClientResponse, FailureCode, Get, Got, Head, Key, Seen, Sibling, Stage,
    StageKind, TraceId, Write, Written, value_checksum,
};
use quoit_ring::{
    ClusterId, ClusterRecord, ConflictPolicy, Epoch, HybridTime, Member, NodeId, RingKey, Table,
    TableId, TableOptions, VnodeCount, WallTime, Zone, assignment,
};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Change, Found, Mutation, Outcome, Whole};
use quoit_storage::version::{Actor, Content, Dot, SiblingSet, Version, VersionVector};

const SEED: u64 = 42;
const WALL: WallTime = WallTime(1_700_000_000_000);
const NOW: Now = Now { instant: Instant(5_000), wall: WALL };
/// When the requests' deadline comes.
const UNTIL: Instant = Instant(5_000 + 500_000);
const TIME: HybridTime = HybridTime(WALL.0 << 16);
const CLIENT: ConnectionId = ConnectionId(3);
const VALUE: Bytes = Bytes::from_static(b"value");

const TRACE: TraceId = TraceId(1, 2);

fn after_us(microseconds: u64) -> Now {
    Now { instant: Instant(NOW.instant.0 + microseconds), ..NOW }
}

const CONTINUITY: Tag = Tag::Inner(Inner::Continuity);

fn ping() -> Ping {
    Ping { wall: WALL, time: HybridTime::ZERO, epoch: Epoch(1), life: None, remembered: None }
}

/// Node 1 of three, with a record, a lease and two connected peers.
struct Bench {
    core: NodeCore,
    record: ClusterRecord,
    table: Table,
    /// The next operation's id, and the first actor.
    id: OperationId,
    actor: Actor,
    now: Now,
}

fn record(genesis: &Genesis, policy: ConflictPolicy) -> ClusterRecord {
    let mut record = assignment::initial_record(
        genesis.cluster,
        RingKey(1, 2),
        genesis.vnodes,
        genesis.replication,
        genesis.members.clone(),
    )
    .expect("three members");
    let options = TableOptions { policy, ..TableOptions::default() };
    record.tables.push(Table { id: TableId(1), name: "t".to_owned(), options });
    record.table_id_next = TableId(2);
    record
}

impl Bench {
    fn new(policy: ConflictPolicy) -> Self {
        let mut bench = Self::unconfirmed(policy);
        bench.confirm();
        bench
    }

    /// A node that does not know yet whether it has lost anything.
    fn unconfirmed(policy: ConflictPolicy) -> Self {
        let member = |id| Member {
            id: NodeId(id),
            address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
            zone: Zone { datacenter: "d".to_owned(), rack: format!("r{id}") },
            capacity: 1,
        };
        let genesis = Genesis {
            cluster: ClusterId(7),
            vnodes: VnodeCount::new(4).expect("a power of two"),
            replication: 3,
            members: (1..=3).map(member).collect(),
        };
        let record = record(&genesis, policy);
        let recovered = Recovered {
            record: RecordState { record: Some(record.clone()), vote: Vote::default() },
            ..Recovered::default()
        };
        let mut random = Random::new(SEED);
        random.draw();
        let id = OperationId::new(random.draw());
        let actor = Actor(random.draw());
        let mut config = CoreConfig::new(NodeId(1), genesis, SEED);
        config.repair_interval_ms = 0;
        let core = NodeCore::new(config, recovered, NOW);
        let table = record.tables[0].clone();
        let mut bench = Self { core, record, table, id, actor, now: NOW };
        let lease = TIME.plus_ms(10_000);
        let asked = bench.handle(Event::Tick);
        let inner =
            |inner, request| Effect::ToStorage { tag: Tag::Inner(inner), request, until: None };
        assert!(matches!(&asked[0], Effect::ToStorage { tag, .. } if *tag == CONTINUITY));
        assert_eq!(
            asked[1..],
            [
                inner(Inner::Durable, StorageRequest::Durable),
                inner(Inner::Lease, StorageRequest::ExtendLease { lease })
            ]
        );
        for tag in [CONTINUITY, Tag::Inner(Inner::Lease)] {
            assert_eq!(bench.storage(tag, StorageAnswer::Saved(Ok(()))), []);
        }
        for node in [NodeId(2), NodeId(3)] {
            assert_eq!(bench.handle(Event::PeerConnected { node }).len(), 1, "a ping");
        }
        bench
    }

    /// The peers remember nothing of it: it is confirmed.
    fn confirm(&mut self) {
        assert_eq!(self.peer(2, 0, ping()), []);
        assert_eq!(self.peer(3, 0, ping()).len(), 1, "what it has become is saved");
        let pings = self.storage(CONTINUITY, StorageAnswer::Saved(Ok(())));
        assert!(pings.len() == 2 && pings.iter().all(|it| matches!(it, Effect::ToPeer { .. })));
    }

    fn handle(&mut self, event: Event) -> Effects {
        let mut effects = Effects::new();
        self.core.handle(self.now, event, &mut effects);
        effects
    }

    fn client(&mut self, message: impl Into<ClientRequest>) -> Effects {
        self.handle(Event::Client {
            connection: CLIENT,
            request: 9,
            message: message.into(),
            rights: Arc::new(Rights::all("test")),
        })
    }

    fn storage(&mut self, tag: Tag, answer: StorageAnswer) -> Effects {
        self.handle(Event::Storage { tag, answer })
    }

    fn peer(&mut self, from: u64, request: u64, message: impl Into<PeerMessage>) -> Effects {
        self.handle(Event::Peer { from: NodeId(from), request, message: message.into() })
    }

    fn head(&self) -> Head {
        let vnode = self.record.vnodes.vnode_of(self.record.token(b"k"));
        Head {
            table: self.table.id,
            vnode,
            configuration: self.record.configuration(vnode),
            time: HybridTime::ZERO,
            deadline_ms: 500,
            level: None,
            trace: None,
        }
    }

    fn peer_head(&self, time: HybridTime) -> PeerHead {
        let Head { table, vnode, configuration, deadline_ms, .. } = self.head();
        PeerHead { table, vnode, configuration, time, deadline_ms, trace: None }
    }

    fn stored_key(&self) -> StoredKey {
        StoredKey::new(self.record.token(b"k"), self.table.id, b"k", b"").expect("short")
    }

    fn content(&self) -> Content {
        let checksum = value_checksum(self.record.token(b"k"), &VALUE);
        Content::Value { bytes: VALUE, checksum }
    }

    fn set(&self, time: HybridTime) -> SiblingSet {
        let dot = Dot { time, actor: self.actor };
        SiblingSet::of(Version { dot, content: self.content(), expires: None })
    }

    fn write(&self) -> Write {
        Write {
            head: self.head(),
            key: key(),
            value: Some(VALUE),
            checksum: value_checksum(self.record.token(b"k"), &VALUE),
            context: Bytes::new(),
            ttl_ms: None,
            write_id: None,
        }
    }

    /// The place of a node in the key's preference list.
    fn place(&self, node: u64) -> u16 {
        let primaries: Vec<NodeId> = self.record.primaries(self.head().vnode, 3).collect();
        let place = primaries.iter().position(|id| *id == NodeId(node)).expect("N is 3");
        u16::try_from(place).expect("small")
    }

    fn request(&self, round: u16, node: u64) -> u64 {
        self.id.request(round << 8 | self.place(node))
    }

    /// The others, in the order of the preference list.
    fn others(&self) -> [u64; 2] {
        let mut others = [2, 3];
        others.sort_by_key(|node| self.place(*node));
        others
    }

    fn apply(&self, round: u16, change: Change, wants_prepared: bool) -> Effect {
        let policy = self.table.options.policy;
        let mutation =
            Mutation { key: self.stored_key(), replication: 3, policy, change, values: Vec::new() };
        Effect::ToStorage {
            tag: Tag::Own(self.request(round, 1)),
            request: StorageRequest::Apply { mutation: Box::new(mutation), wants_prepared },
            until: Some(UNTIL),
        }
    }

    fn merge(&self, round: u16, to: u64, time: HybridTime, set: &SiblingSet) -> Effect {
        let (head, set) = (self.peer_head(time), codec::encode(set));
        Effect::ToPeer {
            to: NodeId(to),
            request: self.request(round, to),
            message: PeerMerge {
                head,
                key: key(),
                set,
                rebuild: false,
                values: Vec::new(),
                stands_in_for: None,
            }
            .into(),
        }
    }

    fn written(&self, time: HybridTime, seen: &VersionVector) -> Effect {
        let (context, dot) = (self.sealed(seen), (self.actor.0, time));
        let written = Written { time, context, dot, acknowledged: 2 };
        Effect::ToClient { connection: CLIENT, request: 9, message: written.into() }
    }

    fn sealed(&self, seen: &VersionVector) -> Bytes {
        context::seal(self.record.cluster, self.record.ring_key, &self.stored_key(), seen)
    }

    fn got(&self, set: &SiblingSet, repaired: bool) -> Effect {
        let sibling = |version: &Version| Sibling {
            value: VALUE,
            checksum: value_checksum(self.record.token(b"k"), &VALUE),
            expires: None,
            written: version.dot.time,
        };
        let got = Got {
            time: TIME,
            siblings: set.versions().iter().map(sibling).collect(),
            context: self.sealed(set.vector()),
            answered: 2,
            repaired,
        };
        Effect::ToClient { connection: CLIENT, request: 9, message: got.into() }
    }
}

fn key() -> Key {
    Key { partition: Bytes::from_static(b"k"), sort: Bytes::new() }
}

fn merged() -> MergeAnswer {
    MergeAnswer { time: HybridTime::ZERO, merged: Ok(()) }
}

fn found(set: &SiblingSet) -> ReadAnswer {
    ReadAnswer { time: HybridTime::ZERO, found: Ok((codec::encode(set), Vec::new())) }
}

#[test]
fn a_put_in_a_latest_table_goes_to_all_replicas_at_once() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let set = bench.set(TIME);
    let change = Change::Merge { set: set.clone(), rebuild: false, authority: None };
    let others = bench.others();
    let expected = [
        bench.apply(0, change, false),
        bench.merge(0, others[0], TIME, &set),
        bench.merge(0, others[1], TIME, &set),
    ];
    let write = bench.write();
    assert_eq!(bench.client(write), expected);
    let request = bench.request(0, 3);
    assert_eq!(bench.peer(3, request, merged()), [], "one of two");
    let tag = Tag::Own(bench.request(0, 1));
    let applied = StorageAnswer::Applied(Outcome::Merged(codec::encode(&set)));
    assert_eq!(bench.storage(tag, applied), [bench.written(TIME, set.vector())]);
    let request = bench.request(0, 2);
    assert_eq!(bench.peer(2, request, merged()), [], "too late for anybody");
    assert_eq!(bench.core.operation_count(), 0);
}

#[test]
fn a_put_in_a_siblings_table_is_merged_here_before_it_goes_out() {
    let mut bench = Bench::new(ConflictPolicy::Siblings);
    let set = bench.set(TIME);
    let version = set.versions()[0].clone();
    let change = Change::Write { context: VersionVector::default(), version };
    let write = bench.write();
    assert_eq!(bench.client(write), [bench.apply(0, change, true)]);
    // Another sibling was there: both travel, and the writer has seen neither.
    let other = Dot { time: HybridTime(7), actor: Actor(7) };
    let both = set.merge(
        &SiblingSet::of(Version { dot: other, content: Content::Tombstone, expires: None }),
        ConflictPolicy::Siblings,
    );
    let tag = Tag::Own(bench.request(0, 1));
    let others = bench.others();
    assert_eq!(
        bench.storage(tag, StorageAnswer::Prepared(codec::encode(&both))),
        [bench.merge(0, others[0], TIME, &both), bench.merge(0, others[1], TIME, &both)]
    );
    for node in [2, 3] {
        let request = bench.request(0, node);
        let expected = match node {
            2 => Vec::new(),
            _ => vec![bench.written(TIME, &VersionVector::default())],
        };
        assert_eq!(bench.peer(node, request, merged()), expected);
    }
}

#[test]
fn a_write_that_is_not_the_latest_is_sent_again_above_what_is() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let write = bench.write();
    assert_eq!(bench.client(write).len(), 3);
    let later = TIME.plus_ms(2_000);
    let older = MergeAnswer { time: HybridTime::ZERO, merged: Err(Refusal::Older(later)) };
    let above = later.next().expect("not the end of time");
    let set = bench.set(above);
    let change = Change::Merge { set: set.clone(), rebuild: false, authority: None };
    let others = bench.others();
    let expected = [
        bench.apply(1, change, false),
        bench.merge(1, others[0], above, &set),
        bench.merge(1, others[1], above, &set),
    ];
    let request = bench.request(0, 2);
    assert_eq!(bench.peer(2, request, older), expected);
    let request = bench.request(0, 3);
    assert_eq!(bench.peer(3, request, merged()), [], "the first dot counts no more");
    let request = bench.request(1, 2);
    assert_eq!(bench.peer(2, request, merged()), []);
    let request = bench.request(1, 3);
    assert_eq!(bench.peer(3, request, merged()), [bench.written(above, set.vector())]);
}

#[test]
fn a_write_that_must_go_beyond_the_lease_waits_for_a_longer_one() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let write = bench.write();
    bench.client(write);
    let later = TIME.plus_ms(600_000);
    let older = MergeAnswer { time: HybridTime::ZERO, merged: Err(Refusal::Older(later)) };
    let lease = later.plus_ms(200);
    let tag = Tag::Inner(Inner::Lease);
    let request = bench.request(0, 2);
    assert_eq!(
        bench.peer(2, request, older),
        [Effect::ToStorage { tag, request: StorageRequest::ExtendLease { lease }, until: None }]
    );
    let request = bench.request(0, 3);
    assert_eq!(bench.peer(3, request, merged()), []);
    let above = later.next().expect("not the end of time");
    let set = bench.set(above);
    let others = bench.others();
    let change = Change::Merge { set: set.clone(), rebuild: false, authority: None };
    let expected = [
        bench.apply(1, change, false),
        bench.merge(1, others[0], above, &set),
        bench.merge(1, others[1], above, &set),
    ];
    assert_eq!(bench.storage(tag, StorageAnswer::Saved(Ok(()))), expected);
}

#[test]
fn an_answer_counts_only_from_the_replica_that_was_asked() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let write = bench.write();
    bench.client(write);
    for node in [2, 3] {
        let request = bench.request(0, 5 - node);
        assert_eq!(bench.peer(node, request, merged()), [], "another's request");
    }
    assert_eq!(bench.core.operation_count(), 1);
}

/// Begins a read; gives back which peer was asked too.
fn begin_get(bench: &mut Bench) -> u64 {
    let get = Get { head: bench.head(), key: key(), at_least: Seen::default() };
    let effects = bench.client(get);
    let Some(Effect::ToPeer { to, .. }) = effects.get(1) else { panic!("{effects:?}") };
    let to = to.0;
    let read = PeerRead { head: bench.peer_head(TIME), key: key(), whole: false };
    assert_eq!(
        effects,
        [
            Effect::ToStorage {
                tag: Tag::Own(bench.request(0, 1)),
                request: StorageRequest::Read { key: bench.stored_key(), whole: true },
                until: Some(UNTIL),
            },
            Effect::ToPeer { to: NodeId(to), request: bench.request(0, to), message: read.into() },
        ]
    );
    to
}

#[test]
fn a_get_asks_this_replica_and_one_more_and_answers_when_they_agree() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let set = bench.set(HybridTime(5));
    let to = begin_get(&mut bench);
    let tag = Tag::Own(bench.request(0, 1));
    let here = StorageAnswer::Found(Whole::bare(Found::Set(codec::encode(&set))));
    assert_eq!(bench.storage(tag, here), []);
    let request = bench.request(0, to);
    assert_eq!(bench.peer(to, request, found(&set)), [bench.got(&set, false)]);
    assert_eq!(bench.core.operation_count(), 0);
}

#[test]
fn a_get_repairs_nobody_for_what_one_replica_has_collected() {
    let mut bench = Bench::new(ConflictPolicy::Siblings);
    let set = bench.set(HybridTime(5));
    let collected = set.clone().with_base(HybridTime(9));
    let to = begin_get(&mut bench);
    let tag = Tag::Own(bench.request(0, 1));
    let here = StorageAnswer::Found(Whole::bare(Found::Set(codec::encode(&set))));
    assert_eq!(bench.storage(tag, here), []);
    let request = bench.request(0, to);
    assert_eq!(bench.peer(to, request, found(&collected)), [bench.got(&set, false)]);
    assert_eq!(bench.core.operation_count(), 0);
}

#[test]
fn a_get_that_finds_a_stale_replica_repairs_it_before_it_answers() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let set = bench.set(HybridTime(5));
    let to = begin_get(&mut bench);
    let tag = Tag::Own(bench.request(0, 1));
    let here = StorageAnswer::Found(Whole::bare(Found::Set(codec::encode(&set))));
    assert_eq!(bench.storage(tag, here), []);
    let (read, write_back) = (bench.request(0, to), bench.request(1, to));
    let stale = found(&bench.set(HybridTime(4)));
    assert_eq!(bench.peer(to, read, stale), [bench.merge(1, to, TIME, &set)]);
    assert_eq!(bench.peer(to, write_back, merged()), [bench.got(&set, true)]);
}

#[test]
fn a_get_asks_the_third_replica_when_one_cannot_vouch_for_the_key() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let set = bench.set(HybridTime(5));
    let to = begin_get(&mut bench);
    let third = 5 - to;
    let tag = Tag::Own(bench.request(0, 1));
    let read = PeerRead { head: bench.peer_head(TIME), key: key(), whole: false };
    let expected = Effect::ToPeer {
        to: NodeId(third),
        request: bench.request(0, third),
        message: read.into(),
    };
    assert_eq!(
        bench.storage(tag, StorageAnswer::Found(Whole::bare(Found::Unreadable))),
        [expected]
    );
    let (first, second) = (bench.request(0, to), bench.request(0, third));
    assert_eq!(bench.peer(to, first, found(&set)), []);
    let rebuild = Mutation {
        key: bench.stored_key(),
        replication: 3,
        policy: ConflictPolicy::Latest,
        change: Change::Merge { set: set.clone(), rebuild: true, authority: None },
        values: Vec::new(),
    };
    let rebuild = Effect::ToStorage {
        tag: Tag::Own(bench.request(1, 1)),
        request: StorageRequest::Apply { mutation: Box::new(rebuild), wants_prepared: false },
        // Repairs are worth more time than a client has.
        until: Some(Instant(5_000 + 60_000_000)),
    };
    assert_eq!(bench.peer(third, second, found(&set)), [bench.got(&set, false), rebuild]);
}

#[test]
fn a_replica_drops_what_comes_after_its_deadline() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let read = PeerRead { head: bench.peer_head(TIME), key: key(), whole: false };
    let late = PeerHead { deadline_ms: 0, ..read.head };
    assert_eq!(bench.peer(2, 76, PeerRead { head: late, ..read.clone() }), []);
    assert_eq!(bench.peer(2, 77, read).len(), 1);
    let tag = Tag::Peer { from: NodeId(2), request: 77 };
    assert_eq!(bench.storage(tag, StorageAnswer::TooLate), []);
    assert_eq!(bench.core.counters().too_late, 2);
}

#[test]
fn a_node_that_may_have_lost_something_answers_nothing_as_a_replica() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let mut bench = Bench::unconfirmed(policy);
        let head = bench.peer_head(HybridTime::ZERO);
        let read = || PeerRead { head, key: key(), whole: false };
        let refused = ReadAnswer { time: TIME, found: Err(Refusal::Recovering) };
        let answer = Effect::ToPeer { to: NodeId(2), request: 5, message: refused.into() };
        assert_eq!(bench.peer(2, 5, read()), [answer]);
        let write = bench.write();
        let effects = bench.client(write);
        let [Effect::ToClient { message: ClientResponse::Failure(failure), .. }] = &effects[..]
        else {
            panic!("it coordinates no write of its own keys: {effects:?}")
        };
        assert!(failure.code == FailureCode::NotServing && !failure.unknown);
        // A read of the others it coordinates.
        let get = Get { head: bench.head(), key: key(), at_least: Seen::default() };
        let asked = bench.client(get);
        assert!(asked.iter().all(|it| matches!(it, Effect::ToPeer { .. })), "{asked:?}");
        assert_eq!(asked.len(), 2);
        bench.confirm();
        assert!(matches!(bench.peer(2, 6, read())[..], [Effect::ToStorage { .. }]));
    }
}

#[test]
fn a_replica_serves_peers_through_its_storage() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let read = PeerRead { head: bench.peer_head(TIME), key: key(), whole: false };
    let tag = Tag::Peer { from: NodeId(2), request: 77 };
    let request = StorageRequest::Read { key: bench.stored_key(), whole: false };
    assert_eq!(
        bench.peer(2, 77, read.clone()),
        [Effect::ToStorage { tag, request, until: Some(UNTIL) }]
    );
    let answer = ReadAnswer { time: TIME, found: Ok((Bytes::new(), Vec::new())) };
    let found = StorageAnswer::Found(Whole::bare(Found::Set(Bytes::new())));
    let to_peer =
        |answer: ReadAnswer| Effect::ToPeer { to: NodeId(2), request: 77, message: answer.into() };
    assert_eq!(bench.storage(tag, found), [to_peer(answer)]);
    for (change, refusal) in [
        (
            PeerHead { configuration: quoit_ring::ConfigurationNumber(9), ..read.head },
            Refusal::WrongConfiguration,
        ),
        (PeerHead { table: TableId(8), ..read.head }, Refusal::UnknownTable),
    ] {
        let refused = ReadAnswer { time: TIME, found: Err(refusal) };
        assert_eq!(
            bench.peer(2, 77, PeerRead { head: change, ..read.clone() }),
            [to_peer(refused)]
        );
    }
}

#[test]
fn a_traced_put_tells_where_its_time_went_before_it_is_answered() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let set = bench.set(TIME);
    let mut write = bench.write();
    write.head.trace = Some(TRACE);
    bench.core.note_came(Instant(NOW.instant.0 - 7));
    let asked = bench.client(write);
    assert_eq!(asked.len(), 3, "{asked:?}");
    for effect in &asked {
        if let Effect::ToPeer { message, .. } = effect {
            assert_eq!(message.trace(), Some(TRACE));
        }
    }
    assert!(bench.core.is_tracing());
    let (own, other) = (bench.request(0, 1), bench.request(0, 3));
    bench.now = after_us(100);
    let spent = Spent::Write { waited_us: 10, merged_us: 20, committed_us: 30 };
    bench.core.note_spent(Tag::Own(own), spent, bench.now);
    let applied = StorageAnswer::Applied(Outcome::Merged(codec::encode(&set)));
    assert_eq!(bench.storage(Tag::Own(own), applied), []);
    bench.now = after_us(300);
    let stage =
        |node, kind, began_us, took_us| Stage { node: NodeId(node), kind, began_us, took_us };
    let stages = vec![stage(3, StageKind::Commit, 40, 60)];
    assert_eq!(bench.peer(3, other, PeerStages { took_us: 100, stages }), []);
    let answered = bench.peer(3, other, merged());
    let [
        Effect::Traced(finished),
        Effect::ToClient { request: 9, message: ClientResponse::Traced(traced), .. },
        answer,
    ] = &answered[..]
    else {
        panic!("{answered:?}");
    };
    let request = TracedRequest {
        trace: TRACE,
        operation: TracedOperation::Put,
        table: Some(bench.table.name.clone()),
        level: Some(bench.table.options.write_level),
    };
    let (began, stages) = (Instant(NOW.instant.0 - 7), traced.stages.clone());
    let expected = FinishedTrace { request, failure: None, began, took_us: 307, stages };
    assert_eq!(**finished, expected, "observers hear what the client does");
    assert!(matches!(answer, Effect::ToClient { message: ClientResponse::Written(_), .. }));
    assert_eq!(
        traced.stages,
        [
            stage(1, StageKind::Queue, 0, 7),
            stage(3, StageKind::Replica, 7, 300),
            stage(3, StageKind::Network, 7, 200),
            stage(1, StageKind::StorageQueue, 47, 10),
            stage(1, StageKind::Merge, 57, 20),
            stage(1, StageKind::Commit, 77, 30),
            stage(3, StageKind::Commit, 7 + 100 + 40, 60),
        ]
    );
    assert!(!bench.core.is_tracing());
}

#[test]
fn a_replica_tells_a_tracing_coordinator_of_its_time_before_it_answers() {
    let mut bench = Bench::new(ConflictPolicy::Latest);
    let head = PeerHead { trace: Some(TRACE), ..bench.peer_head(HybridTime::ZERO) };
    bench.core.note_came(Instant(NOW.instant.0 - 5));
    bench.peer(2, 4, PeerRead { head, key: key(), whole: true });
    bench.now = after_us(50);
    let tag = Tag::Peer { from: NodeId(2), request: 4 };
    bench.core.note_spent(tag, Spent::Read { waited_us: 10, took_us: 20 }, bench.now);
    let whole = Whole { found: Found::Set(codec::encode(&bench.set(TIME))), values: Vec::new() };
    let told = bench.storage(tag, StorageAnswer::Found(whole));
    let stage = |kind, began_us, took_us| Stage { node: NodeId(1), kind, began_us, took_us };
    let stages = vec![
        stage(StageKind::Queue, 0, 5),
        stage(StageKind::StorageQueue, 25, 10),
        stage(StageKind::Read, 35, 20),
    ];
    let message = PeerStages { took_us: 55, stages }.into();
    assert_eq!(told[0], Effect::ToPeer { to: NodeId(2), request: 4, message });
    assert!(matches!(&told[1], Effect::ToPeer { message: PeerMessage::ReadAnswer(_), .. }));
    assert!(!bench.core.is_tracing());
}

use bytes::Bytes;
use quoit_protocol::{
    AskRecord, Failure, FailureCode, Get, Got, Head, Hello, Key, PROTOCOL_VERSION, RecordAnswer,
    Seen, Sibling, Stage, StageKind, TraceId, Traced, Welcome, Write, Written, value_checksum,
};
use quoit_ring::{
    ConfigurationNumber, Epoch, Member, RingKey, Table, TableId, TableOptions, VnodeCount, Zone,
};

use super::*;
use crate::{Request, Retry, Trail, TrailEntry};

const SECOND: u64 = 1_000_000;
const TABLE: TableId = TableId(1);

fn address(node: u64) -> SocketAddr {
    format!("127.0.0.1:{}", 7_100 + node).parse().unwrap()
}

fn record(epoch: u64, members: u64) -> ClusterRecord {
    let zone = Zone { datacenter: "d".into(), rack: "r".into() };
    let member =
        |id| Member { id: NodeId(id), address: address(id), zone: zone.clone(), capacity: 1 };
    let owners: Vec<u16> = (0..members as u16).collect();
    let options = TableOptions { replication: members as u8, ..TableOptions::default() };
    let record = ClusterRecord {
        cluster: ClusterId(7),
        epoch: Epoch(epoch),
        ring_key: RingKey(1, 2),
        vnodes: VnodeCount::new(4).unwrap(),
        members: (1..=members).map(member).collect(),
        owners: vec![owners; 4],
        configurations: vec![ConfigurationNumber(epoch as u32); 4],
        tables: vec![Table { id: TABLE, name: "t".into(), options }],
        table_id_next: TableId(2),
        voters: vec![NodeId(1)],
        incarnations: Vec::new(),
    };
    record.check().unwrap();
    record
}

/// A session, and all that happened since it was looked at last.
struct World {
    session: Session,
    now: Instant,
    operation_last: u64,
    retry: Retry,
    trace: Option<TraceId>,
}

impl World {
    /// A session whose contact point is node 1.
    fn new() -> Self {
        let configuration = Configuration {
            cluster: ClusterId(7),
            contact_points: vec![address(1)],
            client: "test".into(),
            in_flight_max: 3,
            zone: None,
        };
        Self {
            session: Session::new(configuration, Seed(3, 4)),
            now: Instant(SECOND),
            operation_last: 0,
            retry: Retry::default(),
            trace: None,
        }
    }

    /// A session that is connected to all of `members`: node n over link n.
    fn connected(members: u64) -> Self {
        let mut world = Self::new();
        world.tick();
        world.open(1, 1, members);
        for node in 2..=members {
            world.open(node, node, members);
        }
        world
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.handle(self.now, event, &mut effects);
        effects
    }

    fn tick(&mut self) -> Vec<Effect> {
        self.handle(Event::Tick)
    }

    /// Lets time pass until the next deadline, and fires it.
    fn next(&mut self) -> Vec<Effect> {
        self.now = self.session.next_deadline().expect("a timer is set").max(self.now);
        self.tick()
    }

    fn open(&mut self, link: u64, node: u64, members: u64) -> Vec<Effect> {
        let (link, request) = (LinkId(link), self.hello(LinkId(link)));
        self.handle(Event::Received { link, request, response: welcome(node, record(1, members)) })
    }

    fn hello(&mut self, link: LinkId) -> u64 {
        match self.handle(Event::Opened { link }).as_slice() {
            [Effect::Send { request, message: ClientRequest::Hello(_), .. }] => *request,
            other => panic!("{other:?}"),
        }
    }

    fn submit(&mut self, request: Request) -> (OperationId, Vec<Effect>) {
        self.operation_last += 1;
        let operation = OperationId(self.operation_last);
        let what = Operation {
            request,
            level: None,
            deadline: self.now.plus_us(6 * SECOND),
            retry: self.retry,
            trace: self.trace,
        };
        (operation, self.handle(Event::Submitted { operation, what }))
    }

    fn answer(&mut self, sent: &Sent, response: impl Into<ClientResponse>) -> Vec<Effect> {
        let (link, request, response) = (sent.link, sent.request, response.into());
        self.handle(Event::Received { link, request, response })
    }

    fn lose(&mut self, link: LinkId) -> Vec<Effect> {
        let failure = LinkFailure::Unreachable("gone".into());
        self.handle(Event::Lost { link, failure })
    }
}

/// One request that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    link: LinkId,
    request: u64,
    message: ClientRequest,
}

/// The only effect, which sends a request.
fn sent(effects: Vec<Effect>) -> Sent {
    match <[Effect; 1]>::try_from(effects) {
        Ok([Effect::Send { link, request, message }]) => Sent { link, request, message },
        other => panic!("not one request: {other:?}"),
    }
}

/// The only effect, which ends an operation.
fn ended(effects: Vec<Effect>, id: OperationId) -> Result<Answer, OperationError> {
    match <[Effect; 1]>::try_from(effects) {
        Ok([Effect::Complete { operation, outcome, .. }]) if operation == id => outcome,
        other => panic!("not one end: {other:?}"),
    }
}

fn trail(attempts: u32, entries: &[(u64, &str)]) -> Trail {
    let entry = |(node, what): &(u64, &str)| TrailEntry {
        node: Some(NodeId(*node)),
        what: (*what).to_owned(),
    };
    Trail { attempts, entries: entries.iter().map(entry).collect() }
}

fn welcome(node: u64, record: ClusterRecord) -> ClientResponse {
    let (node, record) = (NodeId(node), Some(record.into()));
    let (time, limits) = (HybridTime(5), Limits::default());
    Box::new(Welcome { version: PROTOCOL_VERSION, node, record, time, limits }).into()
}

fn key() -> Key {
    Key { partition: Bytes::from_static(b"k"), sort: Bytes::new() }
}

fn get() -> Request {
    Request::Get { table: TABLE, key: key(), at_least: Seen::default() }
}

fn put(idempotent: bool) -> Request {
    let value = Some(Bytes::from_static(b"v"));
    Request::Write {
        table: TABLE,
        key: key(),
        value,
        context: Bytes::new(),
        ttl_ms: None,
        idempotent,
    }
}

fn got(value: &'static [u8], damaged: bool) -> Got {
    let checksum = value_checksum(record(1, 3).token(b"k"), value) ^ u64::from(damaged);
    let value = Bytes::from_static(value);
    let sibling = Sibling { value, checksum, expires: None, written: HybridTime(8) };
    Got {
        time: HybridTime(9),
        siblings: vec![sibling],
        context: Bytes::from_static(b"c"),
        answered: 2,
        repaired: false,
    }
}

fn written() -> Written {
    let time = HybridTime(9);
    Written { time, context: Bytes::from_static(b"c"), dot: (1, time), acknowledged: 2 }
}

fn failure(code: FailureCode, unknown: bool) -> Failure {
    let message = "no".to_owned();
    let (answered, required, retry_after_ms) = (1, 2, 0);
    Failure { code, unknown, answered, required, retry_after_ms, message, time: HybridTime(9) }
}

#[test]
fn a_contact_point_leads_to_the_members() {
    let mut world = World::new();
    assert_eq!(world.session.next_deadline(), Some(Instant(0)));
    let connect = |link, node: Option<u64>, at| Effect::Connect {
        link: LinkId(link),
        address: address(at),
        node: node.map(NodeId),
    };
    assert_eq!(world.tick(), [connect(1, None, 1)]);
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        cluster: Some(ClusterId(7)),
        client: "test".into(),
    };
    let effects = world.handle(Event::Opened { link: LinkId(1) });
    assert_eq!(effects, [Effect::Send { link: LinkId(1), request: 1, message: hello.into() }]);
    let response = welcome(1, record(1, 3));
    let effects = world.handle(Event::Received { link: LinkId(1), request: 1, response });
    assert_eq!(
        effects,
        [
            Effect::RecordChanged(Arc::new(record(1, 3))),
            connect(2, Some(2), 2),
            connect(3, Some(3), 3)
        ]
    );
    assert_eq!(world.session.time(), HybridTime(5));
}

#[test]
fn a_get_goes_to_a_primary_with_all_that_the_session_knows() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(get());
    let sent = sent(effects);
    let token = record(1, 3).token(b"k");
    let head = Head {
        table: TABLE,
        vnode: record(1, 3).vnodes.vnode_of(token),
        configuration: ConfigurationNumber(1),
        time: HybridTime(5),
        deadline_ms: 6_000,
        level: None,
        trace: None,
    };
    assert_eq!(sent.message, Get { head, key: key(), at_least: Seen::default() }.into());
    let effects = world.answer(&sent, got(b"v", false));
    assert_eq!(ended(effects, id), Ok(Answer::Got(got(b"v", false))));
    assert_eq!(world.session.time(), HybridTime(9));
    assert_eq!(world.session.next_deadline(), None, "nothing is left to wait for");
}

#[test]
fn requests_spread_over_the_primaries() {
    let mut world = World::connected(3);
    let links: BTreeSet<LinkId> = (0..3).map(|_| sent(world.submit(get()).1).link).collect();
    assert_eq!(links.len(), 3);
}

#[test]
fn more_operations_than_the_bound_are_refused_here() {
    let mut world = World::connected(3);
    for _ in 0..3 {
        sent(world.submit(get()).1);
    }
    let (id, effects) = world.submit(get());
    assert_eq!(ended(effects, id), Err(OperationError::Overloaded { in_flight_max: 3 }));
}

#[test]
fn a_read_that_is_not_answered_is_tried_elsewhere_and_the_first_may_still_answer() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(get());
    let first = sent(effects);
    let second = sent(world.next());
    assert_eq!(world.now, Instant(2 * SECOND), "after the attempt's timeout");
    assert_ne!(first.link, second.link);
    let effects = world.answer(&first, got(b"v", false));
    assert_eq!(ended(effects, id), Ok(Answer::Got(got(b"v", false))));
    assert_eq!(world.answer(&second, got(b"v", false)), [], "a late answer is dropped");
}

#[test]
fn a_node_that_timed_out_is_put_last() {
    let mut world = World::connected(2);
    let (_, effects) = world.submit(get());
    let slow = sent(effects);
    let fast = sent(world.next());
    world.answer(&fast, got(b"v", false));
    for _ in 0..3 {
        assert_ne!(sent(world.submit(get()).1).link, slow.link);
    }
}

#[test]
fn a_read_times_out_at_its_deadline() {
    let mut world = World::connected(1);
    let (id, effects) = world.submit(get());
    let node = sent(effects);
    let mut effects = Vec::new();
    while effects.is_empty() {
        effects = world.next();
    }
    assert_eq!(world.now, Instant(7 * SECOND));
    let outcome = ended(effects, id);
    let Err(OperationError::Timeout { trail }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(trail.attempts, 1);
    assert_eq!(trail.entries.last().unwrap().what, "did not answer within 6000 ms");
    assert_eq!(world.answer(&node, got(b"v", false)), []);
}

#[test]
fn a_write_that_is_not_answered_is_unknown_and_never_sent_twice() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(false));
    let node = sent(effects);
    let effects = world.next();
    assert_eq!(world.now, Instant(7 * SECOND), "there is no timer but the deadline");
    let trail = trail(1, &[(node.link.0, "did not answer within 6000 ms")]);
    let unknown = OperationError::Unknown { acknowledged: 0, required: 0, trail };
    assert_eq!(ended(effects, id), Err(unknown));
}

#[test]
fn a_write_whose_connection_is_lost_is_unknown() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(false));
    let node = sent(effects);
    let effects = world.lose(node.link);
    let trail = trail(1, &[(node.link.0, "was lost: gone")]);
    let unknown = OperationError::Unknown { acknowledged: 0, required: 0, trail };
    assert_eq!(ended(effects, id), Err(unknown));
}

#[test]
fn an_idempotent_write_whose_connection_is_lost_is_sent_elsewhere_under_the_same_id() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(true));
    let first = sent(effects);
    let second = sent(world.lose(first.link));
    assert_ne!(first.link, second.link);
    let (ClientRequest::Write(one), ClientRequest::Write(other)) =
        (&first.message, &second.message)
    else {
        panic!("not two writes")
    };
    assert!(one.write_id.is_some());
    assert_eq!(one, other);
    let effects = world.answer(&second, written());
    assert_eq!(ended(effects, id), Ok(Answer::Written(written())));
}

#[test]
fn an_idempotent_write_in_doubt_goes_to_its_coordinator_again() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(true));
    let first = sent(effects);
    assert_eq!(world.answer(&first, failure(FailureCode::Unavailable, true)), []);
    let second = sent(world.next());
    assert_eq!(first.link, second.link);
    // What is refused now may have been done before.
    let effects = world.answer(&second, failure(FailureCode::Invalid, false));
    let what = "refused (Unavailable): no";
    let node = first.link.0;
    let trail = trail(2, &[(node, what), (node, "refused (Invalid): no")]);
    let unknown = OperationError::Unknown { acknowledged: 1, required: 2, trail };
    assert_eq!(ended(effects, id), Err(unknown));
}

#[test]
fn an_idempotent_write_waits_for_replicas_to_come_back_and_a_plain_one_fails_at_once() {
    let mut world = World::connected(3);
    let (id, mut effects) = world.submit(put(true));
    for _ in 0..10 {
        let attempt = sent(effects);
        assert_eq!(world.answer(&attempt, failure(FailureCode::Unavailable, false)), []);
        effects = world.next();
    }
    let last = sent(effects);
    let effects = world.answer(&last, written());
    assert_eq!(ended(effects, id), Ok(Answer::Written(written())));

    let (id, effects) = world.submit(put(false));
    let attempt = sent(effects);
    let effects = world.answer(&attempt, failure(FailureCode::Unavailable, false));
    assert!(matches!(ended(effects, id), Err(OperationError::Refused { .. })));
}

#[test]
fn a_write_in_doubt_ends_at_once_with_who_acknowledged() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(false));
    let node = sent(effects);
    let effects = world.answer(&node, failure(FailureCode::Unavailable, true));
    let trail = trail(1, &[(node.link.0, "refused (Unavailable): no")]);
    let unknown = OperationError::Unknown { acknowledged: 1, required: 2, trail };
    assert_eq!(ended(effects, id), Err(unknown));
}

#[test]
fn a_write_that_is_certainly_not_done_is_sent_elsewhere() {
    for code in [FailureCode::Overloaded, FailureCode::NotServing, FailureCode::Conflict] {
        let mut world = World::connected(3);
        let (id, effects) = world.submit(put(false));
        let first = sent(effects);
        assert_eq!(world.answer(&first, failure(code, false)), []);
        let second = sent(world.next());
        assert_ne!(first.link, second.link, "{code:?}");
        let effects = world.answer(&second, written());
        assert_eq!(ended(effects, id), Ok(Answer::Written(written())));
    }
}

#[test]
fn a_write_that_breaks_a_rule_is_refused_with_the_nodes_word() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(false));
    let node = sent(effects);
    let failure = failure(FailureCode::TooManySiblings, false);
    let effects = world.answer(&node, failure.clone());
    let trail = trail(1, &[(node.link.0, "refused (TooManySiblings): no")]);
    assert_eq!(ended(effects, id), Err(OperationError::Refused { failure, trail }));
}

#[test]
fn an_operation_is_sent_as_often_and_as_soon_as_it_says() {
    let mut world = World::connected(3);
    world.retry = Retry { attempts_max: Some(2), hedge_after_us: Some(7_000) };
    let (id, effects) = world.submit(get());
    let first = sent(effects);
    let begun = world.now;
    let second = sent(world.next());
    assert_eq!(world.now, Instant(begun.0 + 7_000));
    assert_ne!(first.link, second.link);
    assert!(ended(world.next(), id).is_err(), "and then no more");
    assert_eq!(world.now, Instant(begun.0 + 6 * SECOND));
    world.retry = Retry { attempts_max: Some(1), hedge_after_us: None };
    let (id, effects) = world.submit(get());
    let refused = failure(FailureCode::Overloaded, false);
    assert!(ended(world.answer(&sent(effects), refused), id).is_err());
}

#[test]
fn who_stands_nearest_is_asked_first_while_it_answers_well() {
    let mut world = World::connected(3);
    let zone = |datacenter: &str| Zone { datacenter: datacenter.into(), rack: "r".into() };
    let far = |record: &mut ClusterRecord, node: usize| record.members[node].zone = zone("far");
    let mut newer = record(2, 3);
    far(&mut newer, 0);
    far(&mut newer, 2);
    world.session.configuration.zone = Some(zone("d"));
    world.session.record = Some(Arc::new(newer));
    for _ in 0..2 {
        let (_, effects) = world.submit(get());
        assert_eq!(sent(effects).link, LinkId(2), "with more in flight, too");
    }
    world.session.peers.node_mut(NodeId(2)).unwrap().avoid(world.now, SECOND);
    let (_, effects) = world.submit(get());
    assert_ne!(sent(effects).link, LinkId(2));
}

#[test]
fn a_time_that_is_far_ahead_is_forgotten_and_the_request_sent_again() {
    let mut world = World::connected(3);
    let (_, effects) = world.submit(get());
    let wrong = Got { time: HybridTime(u64::MAX / 2), ..got(b"v", false) };
    world.answer(&sent(effects), wrong);
    assert_eq!(world.session.time(), HybridTime(u64::MAX / 2));
    let (id, effects) = world.submit(put(false));
    let refused = Failure { time: HybridTime(77), ..failure(FailureCode::TimeAhead, false) };
    assert_eq!(world.answer(&sent(effects), refused), []);
    let again = sent(world.next());
    let ClientRequest::Write(write) = &again.message else { panic!("{again:?}") };
    assert_eq!(write.head.time, HybridTime(77));
    assert_eq!(ended(world.answer(&again, written()), id), Ok(Answer::Written(written())));
}

/// A session whose nodes take one request at a time.
fn with_windows_of_one(nodes: u64) -> World {
    let mut world = World::connected(nodes);
    for node in 1..=nodes {
        let peer = world.session.peers.node_mut(NodeId(node)).unwrap();
        peer.window.on_refused(world.now, 1, 0);
    }
    world
}

/// A read that its only node is asked, and two writes that wait for their turn.
fn with_two_held_back() -> (World, [OperationId; 3], Sent) {
    let mut world = with_windows_of_one(1);
    let (first, effects) = world.submit(get());
    let (second, held) = world.submit(put(false));
    assert_eq!(held, []);
    let (third, held) = world.submit(put(true));
    assert_eq!(held, []);
    (world, [first, second, third], sent(effects))
}

#[test]
fn a_node_that_refuses_is_asked_for_less_and_the_rest_goes_in_its_turn() {
    let (mut world, [first, second, third], asked) = with_two_held_back();
    let mut effects = world.answer(&asked, got(b"v", false));
    let next = sent(effects.split_off(1));
    assert_eq!(ended(effects, first), Ok(Answer::Got(got(b"v", false))));
    let mut effects = world.answer(&next, written());
    let next = sent(effects.split_off(1));
    assert_eq!(ended(effects, second), Ok(Answer::Written(written())));
    assert_eq!(ended(world.answer(&next, written()), third), Ok(Answer::Written(written())));
    assert_eq!(world.session.held, 0);
}

#[test]
fn who_waits_for_a_turn_is_refused_after_a_tenth_of_its_time_unless_somebody_wants_it_done() {
    let (mut world, [first, second, third], asked) = with_two_held_back();
    world.now = Instant(world.now.0 + 6 * SECOND / 10);
    let outcome = ended(world.tick(), second);
    let Err(OperationError::Refused { failure, trail }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.code, failure.unknown), (FailureCode::Overloaded, false));
    assert!(trail.to_string().contains("waited 600 ms for its turn"), "{trail}");
    let mut effects = world.answer(&asked, got(b"v", false));
    let next = sent(effects.split_off(1));
    assert!(ended(effects, first).is_ok());
    assert_eq!(ended(world.answer(&next, written()), third), Ok(Answer::Written(written())));
}

#[test]
fn what_waits_for_a_node_that_is_lost_goes_elsewhere() {
    let mut world = with_windows_of_one(2);
    let asked = [(); 2].map(|()| sent(world.submit(get()).1));
    assert_ne!(asked[0].link, asked[1].link);
    let (_, held) = world.submit(put(false));
    assert_eq!(held, []);
    // The read that was lost waits for the other node too, and goes first: it is older.
    assert_eq!(world.lose(asked[0].link), []);
    assert_eq!(world.session.held, 2);
    let mut effects = world.answer(&asked[1], got(b"v", false));
    let next = sent(effects.split_off(1));
    assert_eq!(next.link, asked[1].link);
    assert!(matches!(next.message, ClientRequest::Get(_)), "{next:?}");
    let mut effects = world.answer(&next, got(b"v", false));
    let next = sent(effects.split_off(1));
    assert!(matches!(next.message, ClientRequest::Write(_)), "{next:?}");
    assert_eq!(world.session.held, 0);
}

#[test]
fn whichever_node_has_room_first_takes_the_oldest_that_waits() {
    let mut world = with_windows_of_one(2);
    world.session.configuration.in_flight_max = 9;
    let asked = [(); 2].map(|()| sent(world.submit(get()).1));
    let waiting = [(); 4].map(|()| world.submit(put(false)).0);
    for (sent_before, answered) in [&asked[1], &asked[0]].into_iter().enumerate() {
        let mut effects = world.answer(answered, got(b"v", false));
        assert_eq!(sent(effects.split_off(1)).link, answered.link);
        let are_sent = waiting.map(|id| world.session.operations[&id].phase == Phase::InFlight);
        assert_eq!(are_sent, [0, 1, 2, 3].map(|at| at <= sent_before));
    }
}

#[test]
fn what_is_held_back_while_an_attempt_is_out_is_never_left_behind() {
    let refusals = [FailureCode::Overloaded, FailureCode::NotServing, FailureCode::Unavailable];
    for code in refusals {
        let mut world = with_windows_of_one(3);
        world.session.configuration.in_flight_max = 99;
        // It is out at one node, and was refused by another that was asked for company.
        let (id, effects) = world.submit(put(true));
        let slow = sent(effects);
        let company = sent(world.next());
        assert_ne!(company.link, slow.link);
        let others = [(); 2].map(|()| world.submit(get()).1);
        assert_eq!(
            others.iter().flatten().count(),
            1,
            "one node has room, and the others have none"
        );
        let room = sent(world.answer(&company, failure(FailureCode::Overloaded, false)));
        assert_eq!(room.link, company.link, "a read takes its place");
        while world.session.operations[&id].phase != Phase::Held {
            world.next();
        }
        world.answer(&slow, failure(code, code == FailureCode::Unavailable));
        // Whatever happens to it now, it completes, and nothing of it is left.
        for _ in 0..400 {
            if world.session.operations.is_empty() {
                break;
            }
            for effect in world.next() {
                if let Effect::Send { link, request, message } = effect {
                    let sent = Sent { link, request, message };
                    match sent.message {
                        ClientRequest::Write(_) => world.answer(&sent, written()),
                        _ => world.answer(&sent, got(b"v", false)),
                    };
                }
            }
        }
        assert!(world.session.operations.is_empty(), "{code:?}: {:?}", world.session.operations);
        assert_eq!(world.session.held, 0);
        let held = |peer: &crate::peer::Peer| peer.window.held.len();
        assert_eq!(world.session.peers.nodes.values().map(held).sum::<usize>(), 0);
    }
}

#[test]
fn attempts_are_bounded() {
    let mut world = World::connected(3);
    let (id, mut effects) = world.submit(put(false));
    let mut attempts = 0;
    loop {
        if let [Effect::Send { .. }] = effects.as_slice() {
            attempts += 1;
            let node = sent(effects);
            effects = world.answer(&node, failure(FailureCode::Overloaded, false));
        } else if effects.is_empty() {
            effects = world.next();
        } else {
            let outcome = ended(effects, id);
            assert!(matches!(outcome, Err(OperationError::Refused { .. })), "{outcome:?}");
            break;
        }
    }
    assert_eq!(attempts, 6);
}

#[test]
fn a_wrong_configuration_fetches_the_record_and_goes_on_with_it() {
    let mut world = World::connected(3);
    let (id, effects) = world.submit(put(false));
    let first = sent(effects);
    let question = sent(world.answer(&first, failure(FailureCode::WrongConfiguration, false)));
    assert_eq!(question.message, AskRecord {}.into());
    assert_eq!(question.link, first.link);
    let answer = RecordAnswer { record: Some(record(2, 3).into()), time: HybridTime(10) };
    let mut effects = world.answer(&question, Box::new(answer));
    assert_eq!(effects.remove(0), Effect::RecordChanged(Arc::new(record(2, 3))));
    let second = sent(effects);
    let ClientRequest::Write(Write { head, .. }) = &second.message else { panic!("no write") };
    assert_eq!((head.configuration, head.time), (ConfigurationNumber(2), HybridTime(10)));
    let effects = world.answer(&second, written());
    assert_eq!(ended(effects, id), Ok(Answer::Written(written())));
}

#[test]
fn a_damaged_value_is_asked_for_elsewhere_and_never_shown() {
    let mut world = World::connected(2);
    let (id, effects) = world.submit(get());
    let first = sent(effects);
    assert_eq!(world.answer(&first, got(b"v", true)), []);
    let second = sent(world.next());
    assert_ne!(first.link, second.link);
    let effects = world.answer(&second, got(b"v", false));
    assert_eq!(ended(effects, id), Ok(Answer::Got(got(b"v", false))));

    let (id, mut effects) = world.submit(get());
    let outcome = loop {
        effects = match effects.as_slice() {
            [] => world.next(),
            [Effect::Send { .. }] => {
                let node = sent(effects);
                world.answer(&node, got(b"v", true))
            }
            _ => break ended(effects, id),
        };
    };
    assert!(matches!(outcome, Err(OperationError::Damaged { .. })), "{outcome:?}");
}

#[test]
fn a_table_that_the_record_does_not_have_is_unknown() {
    let mut world = World::connected(3);
    let (id, effects) =
        world.submit(Request::Get { table: TableId(9), key: key(), at_least: Seen::default() });
    assert_eq!(ended(effects, id), Err(OperationError::UnknownTable(TableId(9))));
}

#[test]
fn a_value_over_the_limit_is_refused_before_it_is_sent() {
    let mut world = World::connected(3);
    let bytes_max = Limits::default().value_bytes_max as usize;
    let value = Some(Bytes::from(vec![0; bytes_max + 1]));
    let (context, ttl_ms, idempotent) = (Bytes::new(), None, false);
    let (id, effects) = world.submit(Request::Write {
        table: TABLE,
        key: key(),
        value,
        context,
        ttl_ms,
        idempotent,
    });
    let error = OperationError::TooLarge { what: "the value", bytes: bytes_max + 1, bytes_max };
    assert_eq!(ended(effects, id), Err(error));
}

#[test]
fn what_was_never_sent_is_not_unknown() {
    let mut world = World::connected(1);
    let (id, effects) = world.submit(put(false));
    let first = sent(effects);
    assert_eq!(world.handle(Event::NotSent { link: first.link, request: first.request }), []);
    let second = sent(world.next());
    let effects = world.answer(&second, written());
    assert_eq!(ended(effects, id), Ok(Answer::Written(written())));
}

#[test]
fn without_a_connection_a_write_waits_and_is_not_done_at_its_deadline() {
    let mut world = World::new();
    world.tick();
    let (id, effects) = world.submit(put(false));
    assert_eq!(effects, []);
    let end = loop {
        let effects = world.next();
        if let Some(Effect::Complete { outcome, .. }) = effects.last() {
            break outcome.clone();
        }
    };
    assert_eq!(world.now, Instant(7 * SECOND), "{id:?}");
    assert!(matches!(end, Err(OperationError::Unreachable { .. })), "{end:?}");
}

#[test]
fn another_cluster_is_refused_at_once() {
    let mut world = World::new();
    world.tick();
    let (id, _) = world.submit(Request::Record);
    let (link, request) = (LinkId(1), world.hello(LinkId(1)));
    let other = ClusterRecord { cluster: ClusterId(8), ..record(1, 3) };
    let effects = world.handle(Event::Received { link, request, response: welcome(1, other) });
    let reason = format!("the node belongs to cluster {}, not to {}", ClusterId(8), ClusterId(7));
    let what = format!("at {}: {reason}", address(1));
    let trail = Trail { attempts: 0, entries: vec![TrailEntry { node: None, what }] };
    assert_eq!(
        effects,
        [
            Effect::Close { link, reason },
            Effect::Complete {
                operation: id,
                outcome: Err(OperationError::Unreachable { trail: trail.clone() }),
                service: Service { trail, ..Service::default() },
            }
        ]
    );
}

#[test]
fn a_lost_connection_is_opened_again_after_a_pause() {
    let mut world = World::connected(2);
    assert_eq!(world.lose(LinkId(2)), []);
    let effects = world.next();
    let pause_us = world.now.since_us(Instant(SECOND));
    assert!((50_000..=100_000).contains(&pause_us), "{pause_us}");
    let (address, node) = (address(2), Some(NodeId(2)));
    assert_eq!(effects, [Effect::Connect { link: LinkId(3), address, node }]);
}

#[test]
fn a_status_is_asked_of_that_very_node_or_not_at_all() {
    let mut world = World::connected(2);
    world.lose(LinkId(2));
    let (id, effects) = world.submit(Request::Status(NodeId(2)));
    assert!(matches!(effects.as_slice(), [Effect::Connect { .. }]), "{effects:?}");
    let effects = world.lose(LinkId(3));
    let outcome = ended(effects, id);
    assert!(matches!(outcome, Err(OperationError::Unreachable { .. })), "{outcome:?}");
}

#[test]
fn an_answer_of_another_kind_ends_the_connection() {
    let mut world = World::connected(2);
    let (_, effects) = world.submit(get());
    let first = sent(effects);
    let effects = world.answer(&first, written());
    let reason =
        "the node does not follow the protocol: it answered with something else than was asked";
    let [close, again] = <[Effect; 2]>::try_from(effects).expect("two effects");
    assert_eq!(close, Effect::Close { link: first.link, reason: reason.into() });
    assert_ne!(sent(vec![again]).link, first.link);
}

#[test]
fn a_member_that_left_is_let_go_with_what_it_had_to_do() {
    let mut world = World::connected(3);
    let mut writes = BTreeMap::new();
    for _ in 0..3 {
        let (id, effects) = world.submit(put(false));
        writes.insert(sent(effects).link, id);
    }
    let mut effects = Vec::new();
    world.session.adopt(world.now, Arc::new(record(2, 2)), &mut effects);
    let link = LinkId(3);
    assert_eq!(effects[1], Effect::Close { link, reason: "n3 is no member any more".into() });
    let outcome = ended(effects.split_off(2), writes[&link]);
    assert!(matches!(outcome, Err(OperationError::Unknown { .. })), "{outcome:?}");
}

mod chaos {
    use super::*;
    use proptest::prelude::*;

    /// What is out there, and what must never happen.
    #[derive(Default)]
    struct Audit {
        sent: Vec<Sent>,
        links: Vec<LinkId>,
        /// Those of them that are not open yet.
        opening: Vec<LinkId>,
        completed: BTreeSet<OperationId>,
        /// Writes that may be done, by their operation.
        uncertain: BTreeSet<OperationId>,
        operations: BTreeMap<u64, OperationId>,
    }

    impl Audit {
        fn take(&mut self, world: &World, effects: Vec<Effect>) {
            for effect in effects {
                match effect {
                    Effect::Connect { link, .. } => {
                        self.links.push(link);
                        self.opening.push(link);
                    }
                    Effect::Close { link, .. } => self.forget(link),
                    Effect::Send { link, request, message } => {
                        assert!(self.links.contains(&link), "sent over a closed connection");
                        self.on_sent(world, request, &message);
                        self.sent.push(Sent { link, request, message });
                    }
                    Effect::Complete { operation, outcome, .. } => {
                        assert!(self.completed.insert(operation), "completed twice");
                        let told = matches!(
                            outcome,
                            Ok(Answer::Written(_)) | Err(OperationError::Unknown { .. })
                        );
                        assert_eq!(self.uncertain.contains(&operation), told, "{outcome:?}");
                    }
                    Effect::RecordChanged(_) => {}
                }
            }
        }

        fn forget(&mut self, link: LinkId) {
            self.links.retain(|open| *open != link);
            self.opening.retain(|open| *open != link);
        }

        fn on_sent(&mut self, world: &World, request: u64, message: &ClientRequest) {
            if let ClientRequest::Write(write) = message
                && let Some(attempt) = world.session.attempts.get(&request)
            {
                let first = self.uncertain.insert(attempt.operation);
                assert!(first || write.write_id.is_some(), "a write was sent twice");
                self.operations.insert(request, attempt.operation);
            }
        }

        /// An answer to one of the requests that were sent.
        fn answer(&mut self, at: u64, kind: u8) -> Option<(Sent, ClientResponse)> {
            let pick = (at as usize).checked_rem(self.sent.len())?;
            let one = self.sent.remove(pick);
            let response: ClientResponse = match (&one.message, kind) {
                (ClientRequest::Hello(_), _) => welcome(at % 3 + 1, record(1 + at % 4, 3)),
                (ClientRequest::Get(_), 0) => got(b"v", at.is_multiple_of(5)).into(),
                (ClientRequest::Write(_), 0) => written().into(),
                (ClientRequest::Write(write), 1) => {
                    // Only of a write that is sent once it is told what becomes of it.
                    if write.write_id.is_none() {
                        self.uncertain.remove(&self.operations[&one.request]);
                    }
                    let unknown = write.write_id.is_some();
                    failure(FailureCode::WrongConfiguration, unknown).into()
                }
                (ClientRequest::Write(_), _) => failure(FailureCode::Unavailable, true).into(),
                (_, _) => failure(FailureCode::NotServing, false).into(),
            };
            Some((one, response))
        }
    }

    /// Something that happens, chosen by numbers whose meaning depends on what is there.
    fn step(world: &mut World, audit: &mut Audit, kind: u8, at: u64) -> Vec<Effect> {
        let link = (at as usize).checked_rem(audit.links.len());
        match (kind % 16, link) {
            (4, Some(link)) => {
                let link = audit.links[link];
                audit.forget(link);
                world.lose(link)
            }
            (5 | 6, _) if !audit.opening.is_empty() => {
                let link = audit.opening.remove(0);
                world.handle(Event::Opened { link })
            }
            (0, _) => world.submit(get()).1,
            (1, _) => world.submit(put(at.is_multiple_of(2))).1,
            (2, _) => world.submit(Request::Record).1,
            (3, _) => {
                world.now = world.now.plus_us(at % SECOND);
                world.tick()
            }
            (kind, _) => match audit.answer(at, kind % 3) {
                Some((sent, response)) => world.answer(&sent, response),
                None => world.tick(),
            },
        }
    }

    proptest! {
        #[test]
        fn every_operation_completes_once_and_tells_whether_it_may_be_done(
            steps in prop::collection::vec((any::<u8>(), any::<u64>()), 1..400)
        ) {
            let mut world = World::connected(3);
            world.session.configuration.in_flight_max = 16;
            let links = (1..=3).map(LinkId).collect();
            let mut audit = Audit { links, ..Audit::default() };
            for (kind, at) in steps {
                let effects = step(&mut world, &mut audit, kind, at);
                audit.take(&world, effects);
                prop_assert!(world.session.in_flight() <= 16);
                prop_assert!(world.session.attempts.len() <= 16 * 6);
            }
            world.now = world.now.plus_us(6 * SECOND);
            let effects = world.tick();
            audit.take(&world, effects);
            prop_assert_eq!(audit.completed.len() as u64, world.operation_last);
            prop_assert_eq!(world.session.in_flight(), 0);
            prop_assert!(world.session.attempts.is_empty());
        }
    }
}

#[test]
fn what_is_told_of_a_trace_comes_with_the_answer_and_nothing_is_told_unasked() {
    let mut world = World::connected(3);
    world.trace = Some(TraceId(1, 2));
    let (id, effects) = world.submit(get());
    let request = sent(effects);
    assert_eq!(request.message.trace(), world.trace);
    let stages = vec![Stage { node: NodeId(1), kind: StageKind::Read, began_us: 1, took_us: 2 }];
    assert_eq!(world.answer(&request, Traced { stages: stages.clone() }), []);
    match world.answer(&request, got(b"v", false)).as_slice() {
        [Effect::Complete { operation, service, .. }] if *operation == id => {
            assert_eq!(service.stages, stages);
        }
        other => panic!("{other:?}"),
    }
    world.trace = None;
    let (_, effects) = world.submit(get());
    let request = sent(effects);
    let broken = world.answer(&request, Traced { stages });
    assert!(broken.iter().any(|effect| matches!(effect, Effect::Close { .. })), "{broken:?}");
}

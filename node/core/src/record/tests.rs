//! The round's two sides, message by message (Lamport, "Paxos Made Simple", section 2.2).

use quoit_ring::{ClusterId, Member, VnodeCount, Zone};

use super::*;
use crate::peer::{Accept, Accepted, Prepare, Promise};

type Voter = Keeper<u32>;

fn genesis() -> Genesis {
    let member = |id| Member {
        id: NodeId(id),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 7_000)),
        zone: Zone { datacenter: "d".to_owned(), rack: format!("r{id}") },
        capacity: 1,
    };
    Genesis {
        cluster: ClusterId(7),
        vnodes: VnodeCount::new(2).expect("a power of two"),
        replication: 3,
        members: (1..=3).map(member).collect(),
    }
}

fn voter(node: u64, seed: u64) -> Voter {
    let mut keeper = new_voter(node, seed);
    vote_as(&mut keeper, 0);
    keeper
}

fn vote_as(keeper: &mut Voter, incarnation: u64) -> Effects {
    let mut effects = Effects::new();
    keeper.set_votes_as(Some(incarnation), Instant(0), &mut effects, &mut Vec::new());
    effects
}

/// One that does not know yet whether it has lost anything.
fn new_voter(node: u64, seed: u64) -> Voter {
    Keeper::new(NodeId(node), genesis(), RecordState::default(), Random::new(seed), Instant(0))
}

fn record(ring_key: u64) -> ClusterRecord {
    let genesis = genesis();
    quoit_ring::assignment::initial_record(
        genesis.cluster,
        quoit_ring::RingKey(ring_key, 0),
        genesis.vnodes,
        3,
        genesis.members,
    )
    .expect("three members")
}

fn ballot(round: u64, node: u64) -> crate::peer::Ballot {
    crate::peer::Ballot { round, node, nonce: 0 }
}

fn tell(voter: &mut Voter, from: u64, message: impl Into<PeerMessage>) -> Effects {
    let mut effects = Effects::new();
    voter.on_message(NodeId(from), 0, message.into(), Instant(0), &mut effects, &mut Vec::new());
    effects
}

fn save(voter: &mut Voter, result: Result<(), String>) -> Vec<PeerMessage> {
    let mut effects = Effects::new();
    voter.on_vote_saved(result, Instant(0), &mut effects, &mut Vec::new());
    messages(effects)
}

fn messages(effects: Effects) -> Vec<PeerMessage> {
    let message = |effect| match effect {
        Effect::ToPeer { message, .. } => Some(message),
        _ => None,
    };
    effects.into_iter().filter_map(message).collect()
}

fn prepare(round: u64, node: u64) -> PeerMessage {
    Prepare { epoch: Epoch(1), ballot: ballot(round, node) }.into()
}

fn accept(round: u64, node: u64, record: ClusterRecord) -> PeerMessage {
    Box::new(Accept { ballot: ballot(round, node), record }).into()
}

fn promise(round: u64, node: u64, accepted: Option<(u64, u64, ClusterRecord)>) -> PeerMessage {
    let accepted = accepted.map(|(round, node, record)| (ballot(round, node), record));
    Box::new(Promise { epoch: Epoch(1), ballot: ballot(round, node), accepted }).into()
}

fn accepted(round: u64, node: u64, accepted: bool) -> PeerMessage {
    Accepted { epoch: Epoch(1), ballot: ballot(round, node), accepted }.into()
}

#[test]
fn a_promise_is_told_once_it_is_durable() {
    let mut voter = voter(1, 1);
    assert_eq!(messages(tell(&mut voter, 2, prepare(1, 2))), []);
    assert_eq!(save(&mut voter, Ok(())), [promise(1, 2, None)]);
}

#[test]
fn a_voter_breaks_no_promise() {
    let mut voter = voter(1, 1);
    tell(&mut voter, 2, prepare(5, 2));
    save(&mut voter, Ok(()));
    let refused = tell(&mut voter, 3, prepare(4, 3));
    assert_eq!(messages(refused), [promise(5, 2, None)], "the greater ballot tells");
    let refused = tell(&mut voter, 3, accept(4, 3, record(1)));
    assert_eq!(messages(refused), [accepted(5, 2, false)]);
    assert_eq!(messages(tell(&mut voter, 2, accept(5, 2, record(2)))), []);
    assert_eq!(save(&mut voter, Ok(())), [accepted(5, 2, true)]);
    tell(&mut voter, 3, prepare(6, 3));
    assert_eq!(save(&mut voter, Ok(())), [promise(6, 3, Some((5, 2, record(2))))]);
}

#[test]
fn a_vote_survives_a_restart() {
    let mut before = voter(1, 1);
    let effects = tell(&mut before, 2, accept(5, 2, record(2)));
    let Some(Effect::ToStorage { request: StorageRequest::Save { bytes, .. }, .. }) =
        effects.into_iter().next()
    else {
        panic!("a vote is saved")
    };
    let state = RecordState::read(None, Some(&bytes[..])).expect("as it was written");
    let mut after = Keeper::<u32>::new(NodeId(1), genesis(), state, Random::new(9), Instant(0));
    assert_eq!(messages(tell(&mut after, 3, prepare(4, 3))), [], "is it the same disk?");
    vote_as(&mut after, 0);
    let refused = tell(&mut after, 3, prepare(4, 3));
    assert_eq!(messages(refused), [promise(5, 2, Some((5, 2, record(2))))]);
}

#[test]
fn a_vote_that_cannot_be_saved_is_not_told_until_it_is() {
    let mut voter = voter(1, 1);
    tell(&mut voter, 2, prepare(5, 2));
    assert_eq!(save(&mut voter, Err("full".to_owned())), []);
    assert_eq!(messages(tell(&mut voter, 2, prepare(5, 2))), [], "it is saved again first");
    assert_eq!(save(&mut voter, Ok(())), [promise(5, 2, None)]);
}

/// A proposer of seed `seed` that has begun its first try, and that try's ballot.
fn proposer(seed: u64) -> (Voter, crate::peer::Ballot) {
    let mut proposer = voter(1, seed);
    let mut effects = Effects::new();
    proposer.on_tick(Instant(0).plus_ms(5_000), &mut effects, &mut Vec::new());
    let prepares = messages(effects);
    let Some(PeerMessage::Prepare(prepare)) = prepares.first() else { panic!("{prepares:?}") };
    assert_eq!(prepares.len(), 2, "the third voter is itself");
    (proposer, prepare.ballot)
}

#[test]
fn a_proposer_takes_up_what_may_have_been_decided() {
    let (mut proposer, ballot) = proposer(1);
    let told = |accepted| -> PeerMessage {
        Box::new(Promise { epoch: Epoch(1), ballot, accepted }).into()
    };
    let older = crate::peer::Ballot { round: 0, node: 2, nonce: 1 };
    let newer = crate::peer::Ballot { round: 0, node: 3, nonce: 0 };
    // Its own promise is not saved yet, so the two others are the majority.
    assert_eq!(messages(tell(&mut proposer, 2, told(Some((older, record(8)))))), []);
    let effects = messages(tell(&mut proposer, 3, told(Some((newer, record(9))))));
    let accept: PeerMessage = Box::new(Accept { ballot, record: record(9) }).into();
    assert_eq!(effects, [accept.clone(), accept]);
}

#[test]
fn a_refusal_that_names_this_tries_ballot_is_no_vote() {
    let (mut proposer, ballot) = proposer(1);
    for from in [2, 3] {
        let told = Promise { epoch: Epoch(1), ballot, accepted: None };
        tell(&mut proposer, from, Box::new(told));
    }
    for (accepted, decided) in [(false, 0), (true, 2)] {
        let mut effects = Effects::new();
        for from in [2, 3] {
            effects.extend(tell(
                &mut proposer,
                from,
                Accepted { epoch: Epoch(1), ballot, accepted },
            ));
        }
        let told = messages(effects);
        assert_eq!(told.len(), decided, "{told:?}");
    }
}

#[test]
fn no_two_tries_have_one_ballot_not_even_over_a_restart() {
    let (_, before) = proposer(1);
    let (_, after) = proposer(2);
    assert_eq!((before.round, before.node), (after.round, after.node));
    assert_ne!(before, after);
}

#[test]
fn who_is_behind_is_told_the_record_and_does_not_vote() {
    let state = RecordState { record: Some(record(1)), vote: Vote::default() };
    let mut ahead = Keeper::<u32>::new(NodeId(1), genesis(), state, Random::new(1), Instant(0));
    let decided: PeerMessage = Box::new(Decided { record: record(1) }).into();
    let told = messages(tell(&mut ahead, 2, prepare(9, 2)));
    assert_eq!(told, std::slice::from_ref(&decided));
    let mut behind = voter(3, 3);
    let later = Prepare { epoch: Epoch(2), ballot: ballot(1, 1) };
    assert_eq!(tell(&mut behind, 1, later), []);
    let effects = tell(&mut behind, 1, decided);
    assert!(matches!(effects[..], [Effect::ToStorage { tag: Tag::Inner(Inner::Record), .. }]));
    assert_eq!(behind.epoch(), Epoch(0), "not before it is durable");
    let mut effects = Effects::new();
    behind.on_record_saved(Ok(()), Instant(0), &mut effects, &mut Vec::new());
    assert_eq!(behind.epoch(), Epoch(1));
}

#[test]
fn who_lost_its_votes_votes_on_nothing_before_a_record_names_it() {
    let mut first = new_voter(1, 1);
    assert_eq!(vote_as(&mut first, 9), []);
    assert_eq!(tell(&mut first, 2, prepare(5, 2)), [], "it may have voted on the first record");

    let state = RecordState { record: Some(record(1)), vote: Vote::default() };
    let mut voter = Voter::new(NodeId(1), genesis(), state, Random::new(1), Instant(0));
    let asked = messages(vote_as(&mut voter, 9));
    assert!(
        matches!(&asked[..], [PeerMessage::Prepare(a), PeerMessage::Prepare(_)] if a.epoch == Epoch(2)),
        "it asks the others to name it: {asked:?}"
    );
    let later = |epoch| Prepare { epoch: Epoch(epoch), ballot: ballot(5, 2) };
    assert_eq!(tell(&mut voter, 2, later(2)), []);
    let mut follow = |record: &ClusterRecord| {
        tell(&mut voter, 2, Box::new(Decided { record: record.clone() }));
        let (mut effects, mut outcomes) = (Effects::new(), Vec::new());
        voter.on_record_saved(Ok(()), Instant(0), &mut effects, &mut outcomes);
        tell(&mut voter, 2, later(record.epoch.0 + 1));
        (messages(effects).len(), save(&mut voter, Ok(())).len())
    };
    let mut next = record(1);
    next.epoch = Epoch(2);
    assert_eq!(follow(&next), (2, 0), "another change came first: it asks again");
    next.epoch = Epoch(3);
    next.set_incarnation(NodeId(1), 8);
    assert_eq!(follow(&next), (2, 0), "that was before another loss");
    next.epoch = Epoch(4);
    next.set_incarnation(NodeId(1), 9);
    assert_eq!(follow(&next), (0, 1));
}

#[test]
fn another_record_of_a_decided_version_is_not_taken() {
    let state = RecordState { record: Some(record(1)), vote: Vote::default() };
    let mut keeper = Keeper::<u32>::new(NodeId(1), genesis(), state, Random::new(1), Instant(0));
    let effects = tell(&mut keeper, 2, Box::new(Decided { record: record(2) }));
    assert!(matches!(effects[..], [Effect::Note(_)]));
    assert_eq!(keeper.current(), Some(&record(1)));
    let mut foreign = record(3);
    foreign.cluster = ClusterId(8);
    foreign.epoch = Epoch(2);
    assert_eq!(tell(&mut keeper, 2, Box::new(Decided { record: foreign })), []);
}

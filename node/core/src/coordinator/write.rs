//! Coordinating a write: one dot, merged into W primaries (Dynamo, sections 4.4 and 4.5).
//!
//! In a `siblings` table this replica merges first, since the new set rests on what it holds; its
//! merged set goes to the other primaries at once, while its own log is still being synced. In a
//! `latest` table the set is known from the start and goes to all primaries together; one that
//! holds a greater dot answers `Older`, and the write is sent again under a dot above that.

use bytes::Bytes;
use quoit_protocol::{Failure, FailureCode, Key, WriteId, Written};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Change, Mutation, Outcome};
use quoit_storage::version::{Content, SiblingSet, Version, VersionVector};

use crate::event::{StorageRequest, Tag};
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::peer::{PeerMerge, Refusal};
use crate::quorum::Tally;
use crate::replica::{ReplicaAnswer, ReplicaRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// A write is sent under at most so many dots; concurrent writers of one key outbid each other no
/// longer than that.
const ROUNDS_MAX: u8 = 32;

/// Whether an operation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Continue,
    Done,
}

/// A write on its way.
#[derive(Debug)]
pub(crate) struct WriteOperation {
    pub(crate) id: OperationId,
    /// Who waits: more than one where a write was sent again under its id.
    pub(crate) origins: Vec<Origin>,
    pub(crate) write_id: Option<WriteId>,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    pub(crate) policy: ConflictPolicy,
    pub(crate) key: Key,
    pub(crate) stored_key: StoredKey,
    pub(crate) content: Content,
    pub(crate) expires: Option<HybridTime>,
    pub(crate) context: VersionVector,
    pub(crate) tally: Tally,
    round: u8,
    /// What is replicated in this round, once it is known.
    set: Option<Bytes>,
    /// Whether anything was handed to a storage worker or a peer.
    handed: bool,
    /// What went wrong last, for people.
    trouble: Option<String>,
}

/// What a write is made of.
pub(crate) struct WriteParts {
    pub(crate) id: OperationId,
    pub(crate) origin: Origin,
    pub(crate) write_id: Option<WriteId>,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    pub(crate) policy: ConflictPolicy,
    pub(crate) key: Key,
    pub(crate) stored_key: StoredKey,
    pub(crate) content: Content,
    pub(crate) expires: Option<HybridTime>,
    pub(crate) context: VersionVector,
    pub(crate) tally: Tally,
}

impl WriteOperation {
    /// Begins a write that was checked already.
    ///
    /// # Errors
    /// What the client is told; nothing was handed to anybody.
    pub(crate) fn begin(parts: WriteParts, turn: &mut Turn<'_>) -> Result<Self, Failure> {
        let mut write = Self {
            id: parts.id,
            origins: vec![parts.origin],
            write_id: parts.write_id,
            deadline: parts.deadline,
            place: parts.place,
            policy: parts.policy,
            key: parts.key,
            stored_key: parts.stored_key,
            content: parts.content,
            expires: parts.expires,
            context: parts.context,
            tally: parts.tally,
            round: 0,
            set: None,
            handed: false,
            trouble: None,
        };
        write.begin_round(turn)?;
        Ok(write)
    }

    /// Draws a dot and hands the write out under it.
    fn begin_round(&mut self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let dot = turn.dot(self.place.vnode)?;
        let version = Version { dot, content: self.content.clone(), expires: self.expires };
        self.set = None;
        match self.policy {
            ConflictPolicy::Latest => {
                let nodes: Vec<NodeId> = self.tally.primaries().collect();
                self.replicate(codec::encode(&SiblingSet::of(version)), &nodes, turn);
            }
            ConflictPolicy::Siblings => {
                let mutation = Mutation {
                    key: self.stored_key.clone(),
                    replication: self.place.replication,
                    policy: self.policy,
                    change: Change::Write { context: self.context.clone(), version },
                };
                let request =
                    StorageRequest::Apply { mutation: Box::new(mutation), wants_prepared: true };
                let slot = self.slot(turn.own());
                turn.to_storage(Tag::Own(self.id.request(slot)), request);
                self.tally.ask(turn.own());
                self.handed = true;
            }
        }
        Ok(())
    }

    fn slot(&self, node: NodeId) -> u16 {
        let place = self.tally.slot(node).expect("only nodes of the list are asked");
        u16::from(self.round) << 8 | u16::try_from(place).expect("N has 8 bits")
    }

    fn replicate(&mut self, set: Bytes, nodes: &[NodeId], turn: &mut Turn<'_>) {
        let head = self.place.head(turn.time(), turn.instant(), self.deadline);
        for &node in nodes {
            if !turn.is_reachable(node) {
                self.tally.refuse(node);
                continue;
            }
            let merge = PeerMerge { head, key: self.key.clone(), set: set.clone(), rebuild: false };
            self.tally.ask(node);
            self.handed = true;
            turn.ask(node, self.id.request(self.slot(node)), ReplicaRequest::Merge(merge));
        }
        self.set = Some(set);
    }

    /// This replica has merged the write; the log is being synced.
    pub(crate) fn on_prepared(&mut self, slot: u16, set: Bytes, turn: &mut Turn<'_>) -> Progress {
        if slot >> 8 != u16::from(self.round) {
            return Progress::Continue;
        }
        let own = turn.own();
        let others: Vec<NodeId> = self.tally.primaries().filter(|node| *node != own).collect();
        self.replicate(set, &others, turn);
        Progress::Continue
    }

    /// This replica's own write was refused before it was merged, or is durable.
    pub(crate) fn on_applied(
        &mut self,
        slot: u16,
        outcome: Outcome,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let refused = |code, message: &str| not_done(code, message);
        let failure = match outcome {
            Outcome::Merged(_) => return self.on_answer(slot, ReplicaAnswer::Merge(Ok(())), turn),
            Outcome::Older(time) => {
                return self.on_answer(slot, ReplicaAnswer::Merge(Err(Refusal::Older(time))), turn);
            }
            // In a `latest` table these are one replica's trouble; in a `siblings` table nothing
            // was handed to the others yet.
            other if self.policy == ConflictPolicy::Latest => {
                let refusal = match other {
                    Outcome::Refused(reason) => Refusal::Storage(reason.to_owned()),
                    _ => Refusal::Invalid,
                };
                return self.on_answer(slot, ReplicaAnswer::Merge(Err(refusal)), turn);
            }
            Outcome::Incomplete => {
                turn.heal(self.place, self.key.clone());
                refused(
                    FailureCode::NotServing,
                    "this replica may have lost writes of the key and does not coordinate it",
                )
            }
            Outcome::TooManySiblings => refused(
                FailureCode::TooManySiblings,
                "the key has as many siblings as it may have: read it, and write with the context",
            ),
            Outcome::TooLarge => refused(
                FailureCode::Invalid,
                "the key's siblings together would be too large: read it, and write with the context",
            ),
            Outcome::Corrupt => refused(
                FailureCode::Invalid,
                "the value does not have the checksum that came with it: it was damaged on its way",
            ),
            Outcome::Refused(reason) => refused(FailureCode::NotServing, reason),
        };
        self.fail(failure, turn)
    }

    /// A primary has answered.
    pub(crate) fn on_answer(
        &mut self,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let ReplicaAnswer::Merge(merged) = answer else { return Progress::Continue };
        let Some(node) = self.tally.node(usize::from(slot & 0xff)) else {
            return Progress::Continue;
        };
        if slot >> 8 != u16::from(self.round) {
            return Progress::Continue;
        }
        match merged {
            Ok(()) => {
                self.tally.count(node);
            }
            Err(Refusal::Older(time)) => {
                turn.shared.clock.observe(time);
                if self.round < ROUNDS_MAX {
                    return self.next_round(turn);
                }
                self.trouble = Some("other writers of the key were always later".to_owned());
                self.tally.refuse(node);
            }
            Err(refusal) => {
                self.trouble = Some(describe(node, &refusal));
                self.tally.refuse(node);
            }
        }
        self.conclude(turn)
    }

    /// Sends the write again under a greater dot; answers to the dot before count no more.
    fn next_round(&mut self, turn: &mut Turn<'_>) -> Progress {
        turn.shared.counters.older += 1;
        self.round += 1;
        let required = u8::try_from(self.tally.required()).expect("W has 8 bits");
        let primaries: Vec<_> =
            self.tally.primaries().map(quoit_ring::Preference::Primary).collect();
        self.tally = Tally::strict(primaries.into_iter(), required);
        match self.begin_round(turn) {
            Ok(()) => self.conclude(turn),
            Err(failure) => {
                self.trouble = Some(failure.message);
                self.give_up(turn)
            }
        }
    }

    /// The connection to a peer is gone: what it was asked may or may not be done.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        if self.tally.is_waiting(node) {
            self.trouble = Some(format!("the connection to {node} was lost"));
            self.tally.refuse(node);
        }
        self.conclude(turn)
    }

    /// The deadline has come.
    pub(crate) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        if turn.instant() < self.deadline {
            return Progress::Continue;
        }
        self.trouble.get_or_insert_with(|| "time ran out".to_owned());
        self.give_up(turn)
    }

    fn conclude(&mut self, turn: &mut Turn<'_>) -> Progress {
        if self.tally.is_reached()
            && let Some(set) = &self.set
        {
            let set = codec::decode(set).expect("this core or its storage worker encoded it");
            let context = self.context_after(&set, turn);
            let acknowledged = u8::try_from(self.tally.counted()).unwrap_or(u8::MAX);
            let written = Written { time: HybridTime::ZERO, context, acknowledged };
            for origin in std::mem::take(&mut self.origins) {
                turn.reply(origin, written.clone().into());
            }
            return Progress::Done;
        }
        // Before the set is known nobody else was asked, so all hangs on this replica.
        let hope = match self.set {
            None => self.tally.is_waiting(turn.own()),
            Some(_) => self.tally.can_be_reached(),
        };
        if hope { Progress::Continue } else { self.give_up(turn) }
    }

    /// What the writer has seen now. If siblings remain that it did not read, a context that covers
    /// its own dot would claim, by the vector's nature, earlier dots of the same actor as well: so
    /// it gets back what it came with, and reads before it resolves them.
    fn context_after(&self, set: &SiblingSet, turn: &Turn<'_>) -> Bytes {
        let seen = if set.versions().len() == 1 { set.vector() } else { &self.context };
        turn.seal_context(&self.stored_key, seen)
    }

    fn give_up(&mut self, turn: &mut Turn<'_>) -> Progress {
        let (counted, required) = (self.tally.counted(), self.tally.required());
        let trouble =
            self.trouble.take().unwrap_or_else(|| "replicas are not reachable".to_owned());
        let consequence = if self.handed {
            "the outcome is unknown: it may be there now or later; writing it again is safe if it \
             may be written twice"
        } else {
            "nothing was written"
        };
        let failure = Failure {
            unknown: self.handed,
            answered: u8::try_from(counted).unwrap_or(u8::MAX),
            required: u8::try_from(required).unwrap_or(u8::MAX),
            ..not_done(
                FailureCode::Unavailable,
                format!(
                    "{counted} of {required} replicas acknowledged the write ({trouble}); \
                     {consequence}"
                ),
            )
        };
        self.fail(failure, turn)
    }

    fn fail(&mut self, failure: Failure, turn: &mut Turn<'_>) -> Progress {
        for origin in std::mem::take(&mut self.origins) {
            turn.refuse(origin, failure.clone());
        }
        Progress::Done
    }
}

/// A refusal for people.
pub(crate) fn describe(node: NodeId, refusal: &Refusal) -> String {
    match refusal {
        Refusal::WrongConfiguration => format!("{node} follows another cluster record"),
        Refusal::UnknownTable => format!("{node} does not know the table"),
        Refusal::Older(_) => format!("{node} holds a later write"),
        Refusal::Unreadable => format!("{node} cannot vouch for what it holds"),
        Refusal::Overloaded => format!("{node} is overloaded"),
        Refusal::Storage(reason) => format!("{node}: {reason}"),
        Refusal::Invalid => format!("{node} took the request for invalid"),
    }
}

//! One exchange with one peer: which virtual nodes differ, and a few jobs at a time to mend them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quoit_protocol::status::RunningExchange;
use quoit_ring::{ClusterRecord, Epoch, HybridTime, NodeId, VnodeIndex};
use quoit_storage::layout::StoredKey;
use quoit_storage::store::Root;

use super::job::{Around, End, Failure, Job, Moved, Step};
use super::{JOBS_MAX, Merged, ROOTS_MAX, STEP_MS, Steps, Wanted, shared_vnodes};
use crate::event::{Effect, StorageAnswer, StorageRequest};
use crate::peer::Refusal;
use crate::peer::{CompareRoots, DifferingRoots, PeerMessage, RepairHead};
use crate::time::Instant;
use crate::turn::Turn;

/// What a peer had no room for is asked again after so long.
const OVERLOAD_MS: u64 = 100;

/// Whose step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The roots'.
    Roots,
    /// That virtual node's job's.
    Job(VnodeIndex),
}

/// An exchange.
pub(super) struct Exchange {
    peer: NodeId,
    epoch: Epoch,
    since: HybridTime,
    began: Instant,
    /// What it was asked for, if it was.
    wanted: Option<Wanted>,
    /// Virtual nodes of all replication factors, and those that are done.
    vnodes: usize,
    done: usize,
    /// Exchanges with different peers begin at different places, so that a replica that lacks much
    /// is filled by all of them.
    rank: usize,
    /// The replication factors that are left; the first is at work.
    replications: VecDeque<u8>,
    shared: Vec<VnodeIndex>,
    /// Where in `shared` roots are still to be compared, and how many.
    chunks: VecDeque<(usize, usize)>,
    /// The chunk whose roots are being compared, and which of its virtual nodes this replica does not
    /// vouch for.
    comparing: Option<(usize, usize)>,
    distrusted: BTreeSet<VnodeIndex>,
    /// Their floors here.
    floors: BTreeMap<VnodeIndex, HybridTime>,
    roots: Pending,
    /// Virtual nodes that differ and wait for a job: their floors, and who vouches for them.
    waiting: VecDeque<(VnodeIndex, HybridTime, End)>,
    jobs: BTreeMap<VnodeIndex, (Job, Pending)>,
    unknown: Vec<(bool, StoredKey)>,
    moved: Moved,
}

/// A step that was asked for.
#[derive(Default)]
struct Pending {
    /// By then it must have ended.
    deadline: Option<Instant>,
    /// A message that waits for its turn.
    held: Option<(PeerMessage, Instant)>,
    /// The message that was sent last: one that the peer has no room for is sent again.
    sent: Option<PeerMessage>,
}

/// The virtual nodes that two replicas share, as far as they are to be compared.
fn wanted_vnodes(
    record: &ClusterRecord,
    replication: u8,
    own: NodeId,
    peer: NodeId,
    wanted: Option<Wanted>,
) -> Vec<VnodeIndex> {
    let wanted = wanted.unwrap_or_default();
    if wanted.replication.is_some_and(|n| n != replication) {
        return Vec::new();
    }
    let mut shared = shared_vnodes(record, replication, own, peer);
    shared.retain(|vnode| wanted.vnode.is_none_or(|wanted| wanted == *vnode));
    shared
}

impl Exchange {
    /// Begins; `None` if the two share nothing.
    pub(super) fn begin(
        peer: NodeId,
        rank: usize,
        wanted: Option<Wanted>,
        turn: &mut Turn<'_>,
    ) -> Option<Self> {
        let since = turn.time();
        let own = turn.own();
        let record = turn.shared.keeper.current()?;
        let replications: BTreeSet<u8> =
            record.tables.iter().map(|table| table.options.replication).collect();
        let count = |n: u8| (n, wanted_vnodes(record, n, own, peer, wanted).len());
        let shared: Vec<(u8, usize)> =
            replications.into_iter().map(count).filter(|(_, count)| *count > 0).collect();
        let vnodes = shared.iter().map(|(_, count)| count).sum();
        let replications: VecDeque<u8> = shared.into_iter().map(|(n, _)| n).collect();
        if replications.is_empty() {
            return None;
        }
        let mut exchange = Self {
            peer,
            epoch: record.epoch,
            since,
            began: turn.now.instant,
            wanted,
            vnodes,
            done: 0,
            rank,
            replications,
            shared: Vec::new(),
            chunks: VecDeque::new(),
            comparing: None,
            distrusted: BTreeSet::new(),
            floors: BTreeMap::new(),
            roots: Pending::default(),
            waiting: VecDeque::new(),
            jobs: BTreeMap::new(),
            unknown: Vec::new(),
            moved: Moved::default(),
        };
        exchange.begin_replication(turn);
        Some(exchange)
    }

    fn begin_replication(&mut self, turn: &Turn<'_>) {
        let (Some(record), Some(replication)) =
            (turn.shared.keeper.current(), self.replications.front())
        else {
            return;
        };
        self.shared = shared_vnodes(record, *replication, turn.own(), self.peer);
        let count = |first| ROOTS_MAX.min(self.shared.len() - first);
        let firsts = (0..self.shared.len()).step_by(ROOTS_MAX);
        self.chunks = match self.wanted.and_then(|wanted| wanted.vnode) {
            Some(vnode) => {
                self.shared.binary_search(&vnode).map(|at| (at, 1)).into_iter().collect()
            }
            None => firsts.map(|first| (first, count(first))).collect(),
        };
        let members = record.members.len().max(1);
        self.chunks.rotate_left(self.rank % members * self.chunks.len() / members);
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_over(&self) -> bool {
        self.replications.is_empty()
    }

    /// What it was asked for, if it was.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.wanted
    }

    /// How far it is, for people.
    pub(super) fn status(&self) -> RunningExchange {
        let count = |vnodes: usize| u32::try_from(vnodes).unwrap_or(u32::MAX);
        let moved = self.moved();
        RunningExchange {
            began: self.since,
            vnodes: count(self.vnodes),
            left: count(self.vnodes.saturating_sub(self.done)),
            keys: moved.keys_in + moved.keys_out,
            bytes: moved.bytes_in + moved.bytes_out,
        }
    }

    /// What was moved so far.
    pub(super) fn moved(&self) -> Moved {
        self.jobs.values().fold(self.moved, |sum, (job, _)| sum.plus(job.moved))
    }

    /// Keys that one of the two cannot vouch for: whether it is the peer, and which.
    pub(super) fn take_unknown(&mut self) -> Vec<(bool, StoredKey)> {
        std::mem::take(&mut self.unknown)
    }

    /// Whether a step takes too long.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.pending().filter_map(|pending| pending.deadline).any(|deadline| deadline <= now)
    }

    /// When to look again.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let wakes = self
            .pending()
            .flat_map(|pending| [pending.deadline, pending.held.as_ref().map(|(_, ready)| *ready)]);
        wakes.flatten().min()
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.jobs.values().map(|(_, pending)| pending).chain([&self.roots])
    }

    fn head(&self, turn: &Turn<'_>) -> RepairHead {
        RepairHead {
            epoch: self.epoch,
            replication: self.replications.front().copied().unwrap_or(0),
            time: turn.time(),
            deadline_ms: u32::try_from(STEP_MS).unwrap_or(u32::MAX),
        }
    }

    /// Sends what waited for its turn, and begins what there is room for.
    pub(super) fn go_on(
        &mut self,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        if turn.shared.keeper.epoch() != self.epoch {
            return Err(Failure::OtherRecord);
        }
        let jobs = self.jobs.keys().map(|vnode| Asker::Job(*vnode));
        for asker in jobs.chain([Asker::Roots]).collect::<Vec<_>>() {
            let Some(pending) = self.pending_of(asker) else { continue };
            let Some((message, held_until)) = pending.held.take() else { continue };
            // Others may have gone first meanwhile.
            let ready = steps.pace.ready_at(steps.is_busy, turn.instant()).max(held_until);
            if ready > turn.instant() {
                pending.held = Some((message, ready));
            } else {
                self.ask_peer(asker, message, steps, turn);
            }
        }
        self.fill(steps, turn)
    }

    /// Begins what there is room for.
    fn fill(&mut self, steps: &mut Steps<'_>, turn: &mut Turn<'_>) -> Result<(), Failure> {
        while !self.is_over() {
            if self.jobs.len() < JOBS_MAX
                && let Some((vnode, floor, end)) = self.waiting.pop_front()
            {
                self.begin_job(vnode, floor, end, steps, turn)?;
                continue;
            }
            let has_room = self.waiting.len() < JOBS_MAX && self.comparing.is_none();
            if has_room && let Some((first, count)) = self.chunks.pop_front() {
                self.comparing = Some((first, count));
                let vnodes = self.shared[first..first + count].to_vec();
                let replication = self.replications.front().copied().unwrap_or(0);
                let request = StorageRequest::Roots { replication, vnodes };
                self.ask_storage(Asker::Roots, request, steps, turn);
                continue;
            }
            if self.comparing.is_some() || !self.jobs.is_empty() {
                break;
            }
            self.replications.pop_front();
            self.begin_replication(turn);
        }
        Ok(())
    }

    fn begin_job(
        &mut self,
        vnode: VnodeIndex,
        floor: HybridTime,
        end: End,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        let replication = self.replications.front().copied().unwrap_or(0);
        let mut job = Job::new(vnode, replication, floor, end);
        let record = turn.shared.keeper.current().ok_or(Failure::OtherRecord)?;
        let step = job.begin(record);
        self.jobs.insert(vnode, (job, Pending::default()));
        self.take_step(vnode, step, steps, turn);
        Ok(())
    }

    /// The storage worker has made a step.
    pub(super) fn on_storage(
        &mut self,
        asker: Asker,
        answer: StorageAnswer,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        match (asker, answer) {
            (Asker::Roots, StorageAnswer::Roots(roots)) => {
                let Some((first, count)) = self.comparing else {
                    unreachable!("roots are being compared");
                };
                let vnodes = self.shared[first..first + count].iter().zip(&roots);
                self.floors = vnodes.clone().map(|(vnode, root)| (*vnode, root.floor)).collect();
                let distrusted = vnodes.filter(|(_, root)| !root.is_trusted);
                self.distrusted = distrusted.map(|(vnode, _)| *vnode).collect();
                let root = |root: Root| (root.floor, root.hash);
                let message = CompareRoots {
                    head: self.head(turn),
                    first: u32::try_from(first).unwrap_or(u32::MAX),
                    roots: roots.into_iter().map(root).collect(),
                };
                self.ask_peer(Asker::Roots, message.into(), steps, turn);
                Ok(())
            }
            (Asker::Roots, _) => {
                Err(Failure::Refused("the storage worker has other things to do".to_owned()))
            }
            (Asker::Job(vnode), answer) => {
                self.step_job(vnode, steps, turn, |job, around| job.on_storage(answer, around))
            }
        }
    }

    /// The peer has answered.
    pub(super) fn on_peer(
        &mut self,
        asker: Asker,
        message: PeerMessage,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        if is_overload(&message) {
            let again_at = turn.instant().plus_ms(OVERLOAD_MS);
            if let Some(pending) = self.pending_of(asker) {
                let held = pending.sent.take().map(|message| (message, again_at));
                *pending = Pending { held, ..Pending::default() };
            }
            return Ok(());
        }
        match (asker, message) {
            (Asker::Roots, PeerMessage::RootsCompared(compared)) => {
                self.on_roots_compared(compared.result?, steps)?;
                self.roots = Pending::default();
                self.fill(steps, turn)
            }
            (Asker::Job(vnode), PeerMessage::NodesCompared(compared)) => {
                let differ = compared.result?;
                self.step_job(vnode, steps, turn, |job, around| {
                    job.on_nodes_compared(differ, around)
                })
            }
            (Asker::Job(vnode), PeerMessage::Reconciled(reconciled)) => {
                let told = reconciled.result?;
                let bytes: usize = told.rows.iter().map(super::job::bytes_of_row).sum();
                steps.pace.charge(bytes);
                self.step_job(vnode, steps, turn, |job, around| job.on_told(told, around))
            }
            (Asker::Job(vnode), PeerMessage::Pushed(pushed)) => {
                let taken_in = pushed.result?;
                self.step_job(vnode, steps, turn, |job, around| job.on_pushed(&taken_in, around))
            }
            _ => Err(Failure::Malformed("an answer that was not asked for")),
        }
    }

    fn on_roots_compared(
        &mut self,
        compared: DifferingRoots,
        steps: &mut Steps<'_>,
    ) -> Result<(), Failure> {
        let Some((first, count)) = self.comparing.take() else {
            return Err(Failure::Malformed("an answer that was not asked for"));
        };
        let differ: BTreeMap<u32, HybridTime> = compared.differ.into_iter().collect();
        let distrusted: BTreeSet<u32> = compared.distrusted.into_iter().collect();
        let is_there = |position: &u32| (*position as usize) < count;
        if !differ.keys().chain(&distrusted).all(is_there) {
            return Err(Failure::Malformed("roots that it was not asked for"));
        }
        let mut waiting = Vec::new();
        for (position, vnode) in (0..).zip(&self.shared[first..first + count]) {
            let end = End {
                is_gathered: !distrusted.contains(&position),
                is_scattered: !self.distrusted.contains(vnode),
                catches_up_to: differ
                    .get(&position)
                    .filter(|floor| self.floors.get(vnode).is_some_and(|own| own < *floor))
                    .copied(),
            };
            match differ.get(&position) {
                Some(floor) => waiting.push((*vnode, *floor, end)),
                None => {
                    self.done += 1;
                    self.tell_merged(*vnode, end, steps);
                }
            }
        }
        let shift = self.rank * 7 % waiting.len().max(1);
        waiting.rotate_left(shift);
        self.waiting.extend(waiting);
        Ok(())
    }

    fn tell_merged(&self, vnode: VnodeIndex, end: End, steps: &mut Steps<'_>) {
        if !end.is_gathered {
            return;
        }
        let replication = self.replications.front().copied().unwrap_or(0);
        let End { is_scattered, catches_up_to, .. } = end;
        let (peer, since, began) = (self.peer, self.since, self.began);
        steps.merged.push(Merged {
            vnode,
            replication,
            peer,
            since,
            began,
            is_scattered,
            catches_up_to,
        });
    }

    fn step_job(
        &mut self,
        vnode: VnodeIndex,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
        step: impl FnOnce(&mut Job, &Around<'_>) -> Result<Step, Failure>,
    ) -> Result<(), Failure> {
        if turn.shared.keeper.epoch() != self.epoch {
            return Err(Failure::OtherRecord);
        }
        let (head, bytes_max) = (self.head(turn), steps.bytes_max());
        let record = turn.shared.keeper.current().ok_or(Failure::OtherRecord)?;
        let Some((job, pending)) = self.jobs.get_mut(&vnode) else { return Ok(()) };
        *pending = Pending::default();
        let step = step(job, &Around { record, head, bytes_max })?;
        self.unknown.append(&mut job.unknown);
        self.take_step(vnode, step, steps, turn);
        self.fill(steps, turn)
    }

    fn take_step(
        &mut self,
        vnode: VnodeIndex,
        step: Step,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) {
        match step {
            Step::Storage(request) => self.ask_storage(Asker::Job(vnode), request, steps, turn),
            Step::Peer(message, is_paced) => {
                let now = turn.instant();
                let ready = match is_paced {
                    true => steps.pace.ready_at(steps.is_busy, now),
                    false => now,
                };
                if let PeerMessage::Push(push) = &message {
                    steps.pace.charge(push.rows.iter().map(super::job::bytes_of_row).sum());
                }
                if ready <= now {
                    return self.ask_peer(Asker::Job(vnode), message, steps, turn);
                }
                if let Some((_, pending)) = self.jobs.get_mut(&vnode) {
                    pending.held = Some((message, ready));
                }
            }
            Step::Done(end) => {
                if let Some((job, _)) = self.jobs.remove(&vnode) {
                    self.done += 1;
                    self.moved = self.moved.plus(job.moved);
                }
                self.tell_merged(vnode, end, steps);
            }
        }
    }

    fn ask_storage(
        &mut self,
        asker: Asker,
        request: StorageRequest,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) {
        let number = steps.number(asker);
        turn.ask_storage_step(number, request);
        self.set_deadline(asker, turn.instant().plus_ms(2 * STEP_MS));
    }

    fn ask_peer(
        &mut self,
        asker: Asker,
        message: PeerMessage,
        steps: &mut Steps<'_>,
        turn: &mut Turn<'_>,
    ) {
        let request = steps.number(asker);
        self.set_deadline(asker, turn.instant().plus_ms(STEP_MS));
        if let Some(pending) = self.pending_of(asker) {
            pending.sent = Some(message.clone());
        }
        turn.effects.push(Effect::ToPeer { to: self.peer, request, message });
    }

    fn pending_of(&mut self, asker: Asker) -> Option<&mut Pending> {
        match asker {
            Asker::Roots => Some(&mut self.roots),
            Asker::Job(vnode) => self.jobs.get_mut(&vnode).map(|(_, pending)| pending),
        }
    }

    fn set_deadline(&mut self, asker: Asker, deadline: Instant) {
        if let Some(pending) = self.pending_of(asker) {
            *pending = Pending { deadline: Some(deadline), ..Pending::default() };
        }
    }
}

/// Whether the peer has no room for a request now.
fn is_overload(message: &PeerMessage) -> bool {
    let refusal = match message {
        PeerMessage::RootsCompared(answer) => answer.result.as_ref().err(),
        PeerMessage::NodesCompared(answer) => answer.result.as_ref().err(),
        PeerMessage::Reconciled(answer) => answer.result.as_ref().err(),
        PeerMessage::Pushed(answer) => answer.result.as_ref().err(),
        _ => None,
    };
    refusal == Some(&Refusal::Overloaded)
}

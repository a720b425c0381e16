//! Hinted handoff: what a replica missed is brought to it once it is back (Dynamo, section 4.6).
//!
//! Delivery goes in passes, one a node at a time, over a batch of its hints, the oldest first. What the
//! keys of the hints hold *then* is read and sent in one message, to be merged in one batch; so nothing
//! stale is ever delivered, whatever has happened to a key since. A hint leaves when its target has
//! answered that the set, or a later one, is durable there, or for one of the reasons that are counted
//! ([`super::hints::Reason`]); otherwise it stays, and a later pass meets it again. Nothing is
//! remembered but the hints themselves, so that either side may end at any moment: at worst a set is
//! merged twice, which changes nothing.
//!
//! What this node took in the place of a target itself goes the same way, in passes of its own. It never
//! expires, and it leaves with its hint, unless more has come since it was read.
//!
//! The pace is that of exchanges ([`super::anti_entropy`]): a bucket of bytes, slow while clients are
//! there on either side, unless this node is about to stop and would keep what it holds from everyone. A
//! target that is thought to be dead is sent nothing; its hints are only looked at when the oldest may be
//! too old to keep.

use std::collections::{BTreeMap, VecDeque};

use quoit_ring::{HybridTime, NodeId};
use quoit_storage::layout::{HintKind, StoredKey};
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::store::{Hint, Hints, Row};

use super::anti_entropy::{BUSY_ROW_BYTES_MAX, Pace, ROW_BYTES_MAX, serve};
use super::hints::{Line, Reason};
use crate::config::CoreConfig;
use crate::coordinator::SET_BYTES_MAX;
use crate::event::{Effect, Inner, StorageAnswer, StorageRequest};
use crate::peer::{HandOver, Pushed, RepairHead};
use crate::time::Instant;
use crate::turn::Turn;

/// A pass reads so many hints.
const BATCH: usize = 1_024;
/// What is not answered within this has failed.
const ANSWER_MS: u64 = 10_000;
/// After a pass that failed the next one begins so much later; twice as long after the next one.
const BACK_OFF_MS: (u64, u64) = (100, 60_000);
/// While the own storage is full, a pass waits so long.
const FULL_MS: u64 = 50;
/// Hints that may be too old are looked for no more often, and no more seldom.
const EXPIRY_MS: (u64, u64) = (1_000, 60_000);
/// The rate of delivery is told over so long.
const RATE_MS: u64 = 2_000;

/// The deliveries of this node.
pub(crate) struct Handoff {
    targets: BTreeMap<Line, Target>,
    /// Numbers of messages differ from start to start: a peer's answer to the process before may
    /// still come.
    next: u64,
    pace: Pace,
    /// The node is about to stop: clients wait for these.
    is_last_chance: bool,
    wake: Option<Instant>,
}

/// What goes on for one node.
struct Target {
    state: State,
    /// The next pass goes on here.
    from: HybridTime,
    /// The first hint that was left behind since the passes last began anew.
    first_left: Option<HybridTime>,
    not_before: Instant,
    back_off_ms: u64,
    /// The target has said that clients keep it busy.
    busy_until: Instant,
    rate: Rate,
}

enum State {
    Idle,
    /// Its hints are being read.
    Reading,
    /// A pass goes on.
    Passing(Box<Pass>),
    /// Those that have gone are being forgotten.
    Leaving,
}

/// One pass.
#[derive(Default)]
struct Pass {
    /// Hints that are still to be taken up, of one N each: tables of different N are told apart in
    /// every message between replicas.
    groups: VecDeque<(u8, VecDeque<Hint>)>,
    step: Step,
    delivered: Vec<Hint>,
    dropped: Vec<Hint>,
    /// The last hint that was read.
    last: HybridTime,
    /// The first that stays.
    first_left: Option<HybridTime>,
    has_failed: bool,
}

#[derive(Default)]
enum Step {
    #[default]
    Next,
    /// Keys are being read.
    Gathering,
    /// What they hold is under way.
    Sent { number: u64, hints: Vec<Hint>, until: Instant },
}

/// Deliveries a second.
#[derive(Default)]
struct Rate {
    since: Instant,
    count: u64,
    last: u64,
}

impl Rate {
    fn add(&mut self, count: usize, now: Instant) {
        self.turn_over(now);
        self.count += count as u64;
    }

    fn turn_over(&mut self, now: Instant) {
        let passed_ms = now.ms_since(self.since);
        if passed_ms >= RATE_MS {
            self.last = self.count * 1_000 / passed_ms;
            (self.since, self.count) = (now, 0);
        }
    }
}

impl Target {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Idle,
            from: HybridTime::ZERO,
            first_left: None,
            not_before: now,
            back_off_ms: BACK_OFF_MS.0,
            busy_until: now,
            rate: Rate::default(),
        }
    }

    /// The next pass may begin then, whatever has failed before.
    fn begin_afresh(&mut self, at: Instant) {
        (self.not_before, self.back_off_ms) = (at, BACK_OFF_MS.0);
    }

    /// The next pass begins later, and the one after it later still.
    fn back_off(&mut self, now: Instant) {
        self.not_before = now.plus_ms(self.back_off_ms);
        self.back_off_ms = (2 * self.back_off_ms).min(BACK_OFF_MS.1);
    }

    fn pass(&mut self) -> Option<&mut Pass> {
        match &mut self.state {
            State::Passing(pass) => Some(pass),
            State::Idle | State::Reading | State::Leaving => None,
        }
    }
}

impl Pass {
    fn leave_behind(&mut self, hint: &Hint) {
        let first = self.first_left.get_or_insert(hint.time);
        *first = hint.time.min(*first);
    }

    /// Nothing more of this pass comes to anything.
    fn fail(&mut self, turn: &mut Turn<'_>) {
        self.has_failed = true;
        let sent = match std::mem::take(&mut self.step) {
            Step::Sent { hints, .. } => hints,
            Step::Next | Step::Gathering => Vec::new(),
        };
        let left = std::mem::take(&mut self.groups);
        for hint in sent.into_iter().chain(left.into_iter().flat_map(|(_, hints)| hints)) {
            turn.shared.hints.put_back(&hint);
            self.leave_behind(&hint);
        }
    }

    /// Leaves those of the next hints behind for which something is being taken. Whether any are left.
    fn set_aside_busy(&mut self, turn: &Turn<'_>) -> bool {
        let Some((_, hints)) = self.groups.front_mut() else { return false };
        let is_busy = |hint: &Hint| !turn.shared.hints.is_at_rest(hint);
        let busy: Vec<Hint> = hints.iter().filter(|hint| is_busy(hint)).cloned().collect();
        hints.retain(|hint| !is_busy(hint));
        let is_any = !hints.is_empty();
        if !is_any {
            self.groups.pop_front();
        }
        busy.iter().for_each(|hint| self.leave_behind(hint));
        is_any
    }

    fn drop_for(&mut self, reason: Reason, hint: Hint, turn: &mut Turn<'_>) {
        match hint.kind {
            HintKind::Reference => turn.shared.counters.hints.drop_for(reason, 1),
            HintKind::StandIn => turn.shared.hints.note_reason(&hint, reason),
        }
        self.dropped.push(hint);
    }
}

impl Handoff {
    pub(crate) fn new(config: &CoreConfig, first: u64, now: Instant) -> Self {
        Self {
            targets: BTreeMap::new(),
            next: first,
            pace: Pace::new(config, now),
            is_last_chance: false,
            wake: Some(now),
        }
    }

    /// When [`Handoff::on_time`] is to be called.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Hints delivered to a node in a second, of late.
    pub(crate) fn rate(&self, line: Line) -> u64 {
        self.targets.get(&line).map_or(0, |target| target.rate.last)
    }

    /// The node is about to stop: what it holds for those who are there leaves as fast as it may.
    pub(crate) fn hurry(&mut self) {
        self.is_last_chance = true;
        for target in self.targets.values_mut() {
            target.begin_afresh(Instant::default());
        }
        self.wake = Some(Instant::default());
    }

    /// A node can be reached, or is believed to live.
    pub(crate) fn on_alive(&mut self, node: NodeId, now: Instant) {
        for (_, target) in self.targets.iter_mut().filter(|((_, target), _)| *target == node) {
            target.begin_afresh(now);
            self.wake = Some(now);
        }
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, turn: &mut Turn<'_>) {
        self.wake = None;
        for line in turn.shared.hints.lines() {
            if let Some(at) = self.advance(line, turn) {
                self.wake_at(at);
            }
        }
        turn.save_hints();
        for hint in turn.shared.hints.take_kept() {
            let target = self.targets.entry((hint.kind, hint.target));
            let target = target.or_insert_with(|| Target::new(turn.instant()));
            target.first_left = target.first_left.into_iter().chain([hint.time]).min();
            self.wake_at(turn.instant());
        }
        if let Some(at) = turn.shared.hints.save_at() {
            self.wake_at(at);
        }
    }

    /// Something is due at that time, such as hints that are to be written down.
    pub(crate) fn wake_at(&mut self, at: Instant) {
        self.wake = self.wake.into_iter().chain([at]).min();
    }

    /// When there will be more to do for a node, if nothing happens before.
    fn advance(&mut self, line: Line, turn: &mut Turn<'_>) -> Option<Instant> {
        let (now, (kind, id)) = (turn.instant(), line);
        let target = self.targets.entry(line).or_insert_with(|| Target::new(now));
        target.rate.turn_over(now);
        match &mut target.state {
            State::Idle if target.not_before > now => Some(target.not_before),
            State::Idle => {
                let is_up = turn.shared.liveness.is_up(id);
                if is_up && turn.is_storage_full() {
                    return Some(now.plus_ms(FULL_MS));
                }
                let wait_ms = turn.hint_age_left_ms(kind, turn.shared.hints.written(line).oldest);
                if !is_up && turn.is_member(id) && wait_ms > 0 {
                    return Some(now.plus_ms(wait_ms.clamp(EXPIRY_MS.0, EXPIRY_MS.1)));
                }
                target.state = State::Reading;
                let request =
                    StorageRequest::NextHints { line, from: target.from, count_max: BATCH };
                turn.ask_storage_inner(Inner::NextHints { line }, request);
                None
            }
            State::Passing(pass) => match &pass.step {
                Step::Next => self.take_up(line, turn),
                Step::Gathering => None,
                Step::Sent { until, .. } if *until > now => Some(*until),
                Step::Sent { .. } => {
                    pass.fail(turn);
                    self.take_up(line, turn)
                }
            },
            State::Leaving if !turn.shared.hints.is_leaving(line) => {
                target.state = State::Idle;
                Some(now)
            }
            State::Reading | State::Leaving => None,
        }
    }

    /// A node's hints have been read.
    pub(crate) fn on_hints(&mut self, line: Line, hints: Hints, turn: &mut Turn<'_>) {
        let now = turn.instant();
        self.wake = Some(now);
        let target = self.targets.entry(line).or_insert_with(|| Target::new(now));
        let Hints { hints, broken } = hints;
        let Some(last) = hints.last().map(|hint| hint.time) else {
            return Self::begin_anew(target, line, broken, turn);
        };
        let first = target.first_left.into_iter().chain(hints.first().map(|hint| hint.time)).min();
        turn.shared.hints.set_oldest(line, first.unwrap_or(last));
        let mut pass = Pass { last, ..Pass::default() };
        let mut groups: BTreeMap<u8, VecDeque<Hint>> = BTreeMap::new();
        for hint in hints {
            match turn.judge(&hint) {
                _ if !turn.shared.hints.is_at_rest(&hint) => pass.leave_behind(&hint),
                Judgement::Drop(reason) => {
                    turn.shared.hints.begin(&hint);
                    pass.drop_for(reason, hint, turn);
                }
                Judgement::Leave => pass.leave_behind(&hint),
                Judgement::Deliver { replication } => {
                    groups.entry(replication).or_default().push_back(hint);
                }
            }
        }
        pass.groups = groups.into_iter().collect();
        target.state = State::Passing(Box::new(pass));
    }

    /// There are no more hints behind where the passes have come to.
    fn begin_anew(target: &mut Target, line: Line, broken: bool, turn: &mut Turn<'_>) {
        target.state = State::Idle;
        match target.first_left.take() {
            Some(first) => {
                // They are tried again, ever more slowly.
                target.from = first;
                target.back_off(turn.instant());
            }
            None if broken && line.0 == HintKind::StandIn => {
                // What is kept for others is not forgotten because it cannot be read now.
                target.from = HybridTime::ZERO;
                target.back_off(turn.instant());
            }
            None if target.from > HybridTime::ZERO && !broken => target.from = HybridTime::ZERO,
            None => {
                // Which ones are lost nobody can say.
                let lost = turn.shared.hints.forget(line);
                turn.shared.counters.hints.drop_for(Reason::Unreadable, lost);
                target.from = turn.shared.hints.after_all();
            }
        }
    }

    /// Takes up the next hints of a pass, or ends it. When there will be more to do.
    fn take_up(&mut self, line: Line, turn: &mut Turn<'_>) -> Option<Instant> {
        let (now, (kind, id)) = (turn.instant(), line);
        let is_up = turn.shared.liveness.is_up(id);
        let target = self.targets.get_mut(&line).expect("it is advanced");
        let is_busy = !self.is_last_chance
            && (turn.shared.foreground.is_busy(now) || target.busy_until > now);
        let State::Passing(pass) = &mut target.state else { return None };
        if !is_up && !pass.groups.is_empty() {
            pass.fail(turn);
        }
        if pass.groups.is_empty() {
            self.end_pass(line, turn);
            return None;
        }
        let ready_at = self.pace.ready_at(is_busy, now);
        if ready_at > now {
            return Some(ready_at);
        }
        if turn.is_storage_full() {
            return Some(now.plus_ms(FULL_MS));
        }
        if kind == HintKind::StandIn && !pass.set_aside_busy(turn) {
            return Some(now);
        }
        let (_, hints) = pass.groups.front()?;
        let keys: Vec<StoredKey> = hints.iter().map(|hint| hint.key.clone()).collect();
        // Writes from now on are noted anew: what is read may be older.
        hints.iter().for_each(|hint| turn.shared.hints.begin(hint));
        pass.step = Step::Gathering;
        let bytes_max = if is_busy { BUSY_ROW_BYTES_MAX } else { ROW_BYTES_MAX };
        let taken_for = (kind == HintKind::StandIn).then_some(id);
        let request = StorageRequest::Gather { taken_for, keys, bytes_max };
        turn.ask_storage_inner(Inner::Handoff { line }, request);
        None
    }

    /// What the first of a pass's keys hold has been read.
    pub(crate) fn on_gathered(&mut self, line: Line, answer: StorageAnswer, turn: &mut Turn<'_>) {
        let now = turn.instant();
        self.wake = Some(now);
        let target = self.targets.get_mut(&line);
        let Some(pass) = target.and_then(Target::pass) else { return };
        let StorageAnswer::Gathered(told, rows) = answer else { return pass.fail(turn) };
        pass.step = Step::Next;
        let Some((replication, hints)) = pass.groups.front_mut() else { return };
        let replication = *replication;
        let taken: Vec<Hint> = hints.drain(..told.min(hints.len())).collect();
        // What was not told is read again: writes of these keys are known to be hinted till then.
        hints.iter().for_each(|hint| turn.shared.hints.put_back(hint));
        if hints.is_empty() {
            pass.groups.pop_front();
        }
        let (mut rows, mut hints) = (VecDeque::from(rows), VecDeque::from(taken));
        let (mut sent, mut to_send) = (Vec::new(), Vec::new());
        while let Some(hint) = hints.pop_front() {
            match rows.front() {
                Some(row) if row.key != hint.key => pass.drop_for(Reason::Absent, hint, turn),
                Some(row) if row.bytes() > SET_BYTES_MAX => {
                    rows.pop_front();
                    pass.drop_for(Reason::TooLarge, hint, turn);
                }
                Some(_) => {
                    to_send.extend(rows.pop_front());
                    sent.push(hint);
                }
                None => pass.drop_for(Reason::Absent, hint, turn),
            }
        }
        if !to_send.is_empty() {
            self.send(line, replication, sent, to_send, turn);
        }
    }

    fn send(
        &mut self,
        line: Line,
        replication: u8,
        hints: Vec<Hint>,
        rows: Vec<Row>,
        turn: &mut Turn<'_>,
    ) {
        let (now, (_, id)) = (turn.instant(), line);
        let pass = self.targets.get_mut(&line).and_then(Target::pass).expect("a pass goes on");
        if is_planted(PlantedBug::DropHint) {
            turn.shared.counters.hints.delivered += hints.len() as u64;
            return pass.delivered.extend(hints);
        }
        self.pace.charge(rows.iter().map(Row::bytes).sum());
        self.next = self.next.wrapping_add(1);
        pass.step = Step::Sent { number: self.next, hints, until: now.plus_ms(ANSWER_MS) };
        if !turn.shared.liveness.is_up(id) {
            return pass.fail(turn);
        }
        let head = RepairHead {
            epoch: turn.shared.keeper.epoch(),
            replication,
            time: turn.time(),
            deadline_ms: u32::try_from(ANSWER_MS).expect("seconds"),
        };
        let rows = rows.into_iter().map(serve::wire_row).collect();
        let message = HandOver { head, rows }.into();
        turn.effects.push(Effect::ToPeer { to: id, request: self.next, message });
    }

    /// Whether an answer is to a message of this handoff.
    pub(crate) fn awaits(&self, from: NodeId, request: u64) -> bool {
        self.awaiting(from, request).is_some()
    }

    fn awaiting(&self, from: NodeId, request: u64) -> Option<Line> {
        let lines = HintKind::ALL.into_iter().map(|kind| (kind, from));
        lines.into_iter().find(|line| match self.targets.get(line).map(|target| &target.state) {
            Some(State::Passing(pass)) => {
                matches!(pass.step, Step::Sent { number, .. } if number == request)
            }
            _ => false,
        })
    }

    /// A target has answered.
    pub(crate) fn on_answer(
        &mut self,
        from: NodeId,
        request: u64,
        answer: Pushed,
        turn: &mut Turn<'_>,
    ) {
        let now = turn.instant();
        self.wake = Some(now);
        let line = self.awaiting(from, request);
        let Some(target) = line.and_then(|line| self.targets.get_mut(&line)) else { return };
        if answer.is_busy {
            target.busy_until = now.plus_ms(1_000);
        }
        let State::Passing(pass) = &mut target.state else { return };
        let count = match &pass.step {
            Step::Sent { hints, .. } => hints.len(),
            Step::Next | Step::Gathering => return,
        };
        let taken_in = match answer.result {
            Ok(taken_in) if taken_in.len() == count => taken_in,
            Ok(_) => {
                pass.fail(turn);
                return turn.refuse_malformed(from, "an answer to other rows than it was handed");
            }
            Err(_) => return pass.fail(turn),
        };
        let Step::Sent { hints, .. } = std::mem::take(&mut pass.step) else { return };
        for (hint, is_taken_in) in hints.into_iter().zip(taken_in) {
            if !is_taken_in {
                turn.shared.hints.put_back(&hint);
                pass.leave_behind(&hint);
            } else {
                // A stand-in counts when it has left.
                let is_reference = hint.kind == HintKind::Reference;
                turn.shared.counters.hints.delivered += u64::from(is_reference);
                pass.delivered.push(hint);
            }
        }
        target.rate.add(pass.delivered.len(), now);
    }

    /// Ends a pass of which nothing is left to do.
    fn end_pass(&mut self, line: Line, turn: &mut Turn<'_>) {
        let now = turn.instant();
        self.wake = Some(now);
        let target = self.targets.get_mut(&line).expect("it is advanced");
        let State::Passing(pass) = std::mem::replace(&mut target.state, State::Idle) else {
            return;
        };
        let Pass { delivered, dropped, last, first_left, has_failed, .. } = *pass;
        target.first_left = target.first_left.into_iter().chain(first_left).min();
        if has_failed {
            // What lies behind fares no better now.
            target.from = target.first_left.take().unwrap_or(target.from);
            target.back_off(now);
        } else {
            // What was left behind is met again only after a while.
            target.from = last.next().unwrap_or(last);
            if first_left.is_none() {
                target.back_off_ms = BACK_OFF_MS.0;
            }
        }
        if !delivered.is_empty() || !dropped.is_empty() {
            target.state = State::Leaving;
            turn.shared.hints.leave(delivered, dropped);
        }
    }

    /// What has become of hints is written down, or is not.
    pub(crate) fn on_saved(&mut self, result: Result<(), String>, turn: &mut Turn<'_>) {
        self.wake = Some(turn.instant());
        let (delivered, dropped) = turn.shared.hints.on_saved(result, turn.instant());
        let counters = &mut turn.shared.counters.hints;
        counters.delivered += delivered;
        dropped.into_iter().for_each(|reason| counters.drop_for(reason, 1));
    }

    /// The connection to a node is gone: what is under way may have come, or not.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) {
        for kind in HintKind::ALL {
            let pass = self.targets.get_mut(&(kind, node)).and_then(Target::pass);
            if let Some(pass) = pass
                && matches!(pass.step, Step::Sent { .. })
            {
                pass.fail(turn);
                self.wake = Some(turn.instant());
            }
        }
    }
}

/// What is to be done with a hint.
enum Judgement {
    Deliver {
        replication: u8,
    },
    Drop(Reason),
    /// It cannot be said yet: the record here may be older than the write.
    Leave,
}

impl Turn<'_> {
    fn is_member(&self, node: NodeId) -> bool {
        self.shared.keeper.members().any(|member| member == node)
    }

    /// How long a hint of that time is kept still.
    fn hint_age_left_ms(&self, kind: HintKind, time: HybridTime) -> u64 {
        if kind == HintKind::StandIn {
            return u64::MAX;
        }
        let age_ms = self.time().wall().0.saturating_sub(time.wall().0);
        (self.shared.config.hint_age_ms_max + 1).saturating_sub(age_ms)
    }

    fn judge(&self, hint: &Hint) -> Judgement {
        if self.hint_age_left_ms(hint.kind, hint.time) == 0 {
            return Judgement::Drop(Reason::Expired);
        }
        let Some(record) = self.shared.keeper.current() else { return Judgement::Leave };
        let Some(table) = record.table_by_id(hint.key.table()) else {
            return match hint.key.table() < record.table_id_next {
                true => Judgement::Drop(Reason::TableDropped),
                false => Judgement::Leave,
            };
        };
        let (vnode, replication) =
            (record.vnodes.vnode_of(hint.key.token()), table.options.replication);
        let is_replica = |node: NodeId| record.is_primary(node, vnode, table.options.replication);
        let is_right = hint.target != self.own() && is_replica(hint.target);
        match hint.kind {
            HintKind::Reference if !is_right || !is_replica(self.own()) => {
                Judgement::Drop(Reason::NotAReplica)
            }
            // It is data, and what becomes of it only the record can say.
            HintKind::StandIn if !is_right => Judgement::Leave,
            HintKind::Reference | HintKind::StandIn => Judgement::Deliver { replication },
        }
    }
}

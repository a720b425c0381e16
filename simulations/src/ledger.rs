//! The ledger: what was written, by whom, when, over what, and what its writer was told.
//!
//! A write is named by the operation that made it, and so is the value that it leaves. From this
//! follows what a read must give: see [`crate::invariants`]. A write whose outcome is unknown, and
//! one that may be sent again, stay concurrent with all that comes later.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quoit_protocol::{Got, Key, Page, Seen, Sibling, Written};
use quoit_ring::ConflictPolicy;

use crate::invariants::contexts::{self, Truth};
use crate::invariants::monotonic;
use crate::invariants::{Checks, acknowledged, reads, refused};
use crate::plan::{Action, Operation, Schedule, Table};
use crate::workloads::{self, counters, sets};

type Place = (u32, u32);

/// A write.
#[derive(Debug)]
struct Wrote {
    place: Place,
    client: u32,
    action: Action,
    began: u64,
    acknowledged: Option<u64>,
    refused: bool,
    seen: bool,
    /// The writes that its context covers, and the context.
    covers: Vec<u32>,
    context: Bytes,
    /// How many writes that may be done cover it.
    superseders: u32,
    /// When the first write that covers it was acknowledged.
    replaced: Option<u64>,
    /// A counter's part.
    count: u32,
}

impl Wrote {
    fn deletes(&self) -> bool {
        matches!(self.action, Action::Delete | Action::DeleteBlind)
    }

    /// When no part of it can happen any more.
    fn ended(&self) -> u64 {
        match self.action {
            Action::PutIdempotent => u64::MAX,
            _ => self.acknowledged.unwrap_or(u64::MAX),
        }
    }
}

/// What a client's session knows of a key.
#[derive(Debug, Clone, Default)]
struct Session {
    /// As the library keeps it.
    seen: Seen,
    /// The writes that it made or read.
    met: BTreeSet<u32>,
}

/// What is known of one key.
#[derive(Default)]
struct History {
    /// Acknowledged writes that nothing supersedes.
    required: BTreeSet<u32>,
    deletes: Vec<u32>,
    /// By when writes were acknowledged: the latest beginning among them.
    floor: Vec<(u64, u64)>,
    /// Elements and increments that were acknowledged, and when.
    added: Vec<(u64, u32)>,
    seen: monotonic::Seen,
    /// What each client was given last.
    contexts: BTreeMap<u32, (Bytes, Vec<u32>)>,
    counts: BTreeMap<u32, u32>,
    acknowledged: Vec<u32>,
    sessions: BTreeMap<u32, Session>,
}

/// The ledger of a run.
pub(crate) struct Ledger {
    tables: Vec<Table>,
    expects_loss: bool,
    operations: BTreeMap<u32, (Operation, u64)>,
    wrote: BTreeMap<u32, Wrote>,
    keys: BTreeMap<Place, History>,
    /// What was asked for by reads of sessions.
    asked: BTreeMap<u32, Session>,
}

fn place(operation: &Operation) -> Place {
    (operation.table, operation.key)
}

impl Ledger {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        Self {
            tables: schedule.tables.clone(),
            expects_loss: schedule.expects_loss,
            operations: BTreeMap::new(),
            wrote: BTreeMap::new(),
            keys: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    pub(crate) fn operation(&self, id: u32) -> &Operation {
        &self.operations[&id].0
    }

    /// The keys that anything was done with.
    pub(crate) fn keys(&self) -> BTreeSet<Place> {
        self.keys.keys().copied().collect()
    }

    /// Whether a value is an acknowledged write's that nothing supersedes.
    pub(crate) fn requires(&self, place: Place, value: &[u8]) -> bool {
        let id = workloads::read_value(value).map(|(id, _)| id);
        let history = self.keys.get(&place);
        id.zip(history).is_some_and(|(id, history)| history.required.contains(&id))
    }

    /// Whether it was acknowledged before a moment, too.
    pub(crate) fn requires_since(&self, place: Place, value: &[u8], before_us: u64) -> bool {
        let id = workloads::read_value(value).map(|(id, _)| id);
        let acknowledged = id.and_then(|id| self.wrote.get(&id)?.acknowledged);
        acknowledged.is_some_and(|at| at < before_us) && self.requires(place, value)
    }

    pub(crate) fn on_begun(&mut self, operation: &Operation, now: u64) {
        self.operations.insert(operation.id, (operation.clone(), now));
        self.keys.entry(place(operation)).or_default();
    }

    /// A write is sent: gives the context that it comes with.
    pub(crate) fn on_write(&mut self, operation: &Operation, now: u64) -> Bytes {
        let history = self.keys.entry(place(operation)).or_default();
        let contextual = matches!(
            operation.action,
            Action::Replace | Action::Delete | Action::Add | Action::Increment
        );
        let (context, covers) = match history.contexts.get(&operation.client) {
            Some(given) if contextual => given.clone(),
            _ => Default::default(),
        };
        for covered in &covers {
            history.required.remove(covered);
            self.wrote.get_mut(covered).expect("it was read").superseders += 1;
        }
        let wrote = Wrote {
            place: place(operation),
            client: operation.client,
            action: operation.action,
            began: now,
            acknowledged: None,
            refused: false,
            seen: false,
            covers,
            context: context.clone(),
            superseders: 0,
            replaced: None,
            count: history.counts.get(&operation.client).copied().unwrap_or(0),
        };
        if wrote.deletes() {
            history.deletes.push(operation.id);
        }
        self.wrote.insert(operation.id, wrote);
        context
    }

    pub(crate) fn on_written(&mut self, operation: &Operation, written: &Written, now: u64) {
        let wrote = self.wrote.get_mut(&operation.id).expect("it was sent");
        wrote.acknowledged = Some(now);
        let began = wrote.began;
        for covered in wrote.covers.clone() {
            let covered = self.wrote.get_mut(&covered).expect("it was read");
            covered.replaced.get_or_insert(now);
        }
        let wrote = &self.wrote[&operation.id];
        let history = self.keys.get_mut(&place(operation)).expect("it was begun");
        if wrote.superseders == 0 && !wrote.deletes() {
            history.required.insert(operation.id);
        }
        let floor = history.floor.last().map_or(0, |(_, began)| *began).max(began);
        history.floor.push((now, floor));
        history.acknowledged.push(operation.id);
        if matches!(operation.action, Action::Add | Action::Increment) {
            history.added.push((now, operation.id));
        }
        // A context that is the one it came with does not cover the write itself.
        let covers = if written.context == wrote.context {
            wrote.covers.clone()
        } else {
            vec![operation.id]
        };
        history.contexts.insert(operation.client, (written.context.clone(), covers));
        let session = history.sessions.entry(operation.client).or_default();
        session.met.insert(operation.id);
        session.seen.join(&Seen::of_context(&written.context).expect("it was sealed by a node"));
        session.seen.join(&Seen { entries: vec![written.dot], ..Seen::default() });
    }

    /// A read of a client's session begins: gives what it is to see at least.
    pub(crate) fn session(&mut self, operation: &Operation) -> Seen {
        let history = &self.keys[&place(operation)];
        let session = history.sessions.get(&operation.client).cloned().unwrap_or_default();
        let seen = session.seen.clone();
        self.asked.insert(operation.id, session);
        seen
    }

    pub(crate) fn on_session_got(
        &mut self,
        operation: &Operation,
        got: &Got,
        checks: &mut Checks,
        truth: &Truth,
    ) {
        let place = place(operation);
        let name = (place.0, &workloads::key(operation.key));
        contexts::check(&mut checks.contexts, truth, name, &got.siblings, &got.context);
        let read = self.read_of(place, &got.siblings, checks);
        let asked = self.asked.remove(&operation.id).expect("it was begun");
        self.judge_session_read(place, &read, &asked.met, &mut checks.reads);
        self.judge_session_dot(place, got, &asked.seen, &mut checks.reads);
        let history = self.keys.get_mut(&place).expect("it was begun");
        let session = history.sessions.entry(operation.client).or_default();
        session.met.extend(read);
        let seen = Seen::of_context(&got.context).expect("it was sealed by a node");
        if session.seen == asked.seen {
            session.seen = seen;
        } else {
            session.seen.join(&seen);
        }
    }

    /// Whether a `latest` table gave no earlier dot than its session had seen. What is gone is not judged.
    fn judge_session_dot(
        &self,
        place: Place,
        got: &Got,
        asked: &Seen,
        verdict: &mut crate::invariants::Verdict,
    ) {
        if self.tables[place.0 as usize].policy != ConflictPolicy::Latest || got.siblings.is_empty()
        {
            return;
        }
        let greatest = |seen: &Seen| seen.entries.iter().map(|&(actor, time)| (time, actor)).max();
        let seen = Seen::of_context(&got.context).expect("it was sealed by a node");
        reads::check(verdict, greatest(&seen) >= greatest(asked), || {
            format!("{place:?} gives {seen:?} in a session that has seen {asked:?}")
        });
    }

    /// Whether a read at one replica took in what its session had met, as far as that was acknowledged:
    /// the rest may be lost with the disk that it was read from.
    fn judge_session_read(
        &self,
        place: Place,
        read: &[u32],
        met: &BTreeSet<u32>,
        verdict: &mut crate::invariants::Verdict,
    ) {
        let table = &self.tables[place.0 as usize];
        let met = || met.iter().filter(|id| self.wrote[id].acknowledged.is_some());
        match table.policy {
            _ if table.ttl_ms.is_some() || !table.orders_writes() => {}
            ConflictPolicy::Siblings => {
                for id in met() {
                    let wrote = &self.wrote[id];
                    let stays = wrote.superseders == 0 && !wrote.deletes();
                    reads::check(verdict, !stays || read.contains(id), || {
                        format!("{id} of {place:?} in a session, which has {read:?}: {wrote:?}")
                    });
                }
            }
            ConflictPolicy::Latest => {
                let Some(floor) = met().map(|id| self.wrote[id].began).max() else { return };
                let fresh = |id: &u32| self.wrote[id].ended() >= floor;
                let holds = match read.first() {
                    Some(id) => fresh(id),
                    None => self.keys[&place].deletes.iter().any(fresh),
                };
                reads::check(verdict, holds, || {
                    format!(
                        "{place:?} gives {read:?} in a session that has met a write which began at \
                         {floor} us"
                    )
                });
            }
        }
    }

    pub(crate) fn on_failed(&mut self, operation: &Operation, unknown: bool, checks: &mut Checks) {
        let Some(wrote) = self.wrote.get_mut(&operation.id) else { return };
        if unknown {
            return;
        }
        wrote.refused = true;
        refused::check(&mut checks.refused, !wrote.seen, || format!("{operation:?}"));
        let history = self.keys.get_mut(&wrote.place).expect("it was begun");
        for covered in std::mem::take(&mut wrote.covers) {
            let covered_write = self.wrote.get_mut(&covered).expect("it was read");
            covered_write.superseders -= 1;
            if covered_write.superseders == 0
                && covered_write.acknowledged.is_some()
                && !covered_write.deletes()
            {
                history.required.insert(covered);
            }
        }
    }

    pub(crate) fn on_got(
        &mut self,
        operation: &Operation,
        got: &Got,
        now: u64,
        checks: &mut Checks,
        truth: &Truth,
    ) {
        let began = self.operations[&operation.id].1;
        let place = place(operation);
        let key = workloads::key(operation.key);
        let read = self.read_of(place, &got.siblings, checks);
        let vector = contexts::check(
            &mut checks.contexts,
            truth,
            (place.0, &key),
            &got.siblings,
            &got.context,
        );
        let live = got.siblings.iter().all(|it| it.expires.is_none_or(|end| end > got.time));
        reads::check_origin(&mut checks.reads, live, || format!("expired values of {place:?}"));
        let table = self.tables[place.0 as usize].clone();
        if table.is_monotonic() && !self.expects_loss {
            let history = self.keys.get_mut(&place).expect("it was begun");
            let (times, floor) = ((began, now), truth.floor);
            history.seen.on_read(
                &mut checks.monotonic,
                table.policy,
                times,
                floor,
                &vector,
                || format!("read {} of {place:?}", operation.id),
            );
        }
        if table.intersects() && table.orders_writes() {
            self.judge(place, &read, began, &mut checks.reads);
            self.judge_elements(place, &got.siblings, began, &mut checks.reads);
        }
        let history = self.keys.get_mut(&place).expect("it was begun");
        history.contexts.insert(operation.client, (got.context.clone(), read));
    }

    /// The writes that siblings come from; each must be known, of that key, and not refused.
    fn read_of(&mut self, place: Place, siblings: &[Sibling], checks: &mut Checks) -> Vec<u32> {
        let mut read = Vec::with_capacity(siblings.len());
        for sibling in siblings {
            let id = workloads::read_value(&sibling.value).map(|(id, _)| id);
            let wrote = id.and_then(|id| self.wrote.get_mut(&id)).filter(|it| it.place == place);
            reads::check_origin(&mut checks.reads, wrote.is_some(), || {
                format!("{id:?} under {place:?}")
            });
            let (Some(id), Some(wrote)) = (id, wrote) else { continue };
            wrote.seen = true;
            refused::check(&mut checks.refused, !wrote.refused, || format!("{id}: {wrote:?}"));
            read.push(id);
        }
        read
    }

    /// Whether a read took in what was acknowledged before it began.
    fn judge(
        &mut self,
        place: Place,
        read: &[u32],
        began: u64,
        verdict: &mut crate::invariants::Verdict,
    ) {
        let table = &self.tables[place.0 as usize];
        let history = &self.keys[&place];
        if self.expects_loss {
            return;
        }
        match table.policy {
            ConflictPolicy::Siblings if table.ttl_ms.is_none() => {
                for id in read {
                    let wrote = &self.wrote[id];
                    // One that may be sent again may be done again.
                    let gone = wrote.action != Action::PutIdempotent
                        && wrote.replaced.is_some_and(|at| at < began);
                    reads::check_replaced(verdict, !gone, || format!("{id} of {place:?}"));
                }
                for id in &history.required {
                    let wrote = &self.wrote[id];
                    if wrote.acknowledged.is_some_and(|at| at < began) {
                        reads::check(verdict, read.contains(id), || {
                            format!("{id} of {place:?}, which has {read:?}: {wrote:?}")
                        });
                    }
                }
            }
            ConflictPolicy::Siblings => {}
            ConflictPolicy::Latest => {
                let before = history.floor.partition_point(|(at, _)| *at < began);
                let Some((_, floor)) = before.checked_sub(1).map(|at| history.floor[at]) else {
                    return;
                };
                let fresh = |id: &u32| !self.wrote[id].refused && self.wrote[id].ended() >= floor;
                let holds = match read.first() {
                    Some(id) => fresh(id),
                    None => table.ttl_ms.is_some() || history.deletes.iter().any(fresh),
                };
                reads::check(verdict, holds, || {
                    format!(
                        "{place:?} gives {:?}, but a write that began at {floor} us was \
                         acknowledged before {began} us",
                        read.first().map(|id| &self.wrote[id])
                    )
                });
            }
        }
    }

    /// Whether a set or a counter holds all that was added before a read began.
    fn judge_elements(
        &mut self,
        place: Place,
        siblings: &[Sibling],
        began: u64,
        verdict: &mut crate::invariants::Verdict,
    ) {
        let table = &self.tables[place.0 as usize];
        let history = &self.keys[&place];
        if self.expects_loss || table.ttl_ms.is_some() || history.added.is_empty() {
            return;
        }
        let (elements, parts) = union(siblings);
        for (_, id) in history.added.iter().take_while(|(at, _)| *at < began) {
            let wrote = &self.wrote[id];
            let held = match wrote.action {
                Action::Add => elements.contains(id),
                _ => parts.get(&wrote.client).is_some_and(|count| *count >= wrote.count),
            };
            reads::check(verdict, held, || format!("{id} of {place:?}: {wrote:?}"));
        }
    }

    /// A page is a read of each key of its partition, as far as it goes.
    pub(crate) fn on_page(
        &mut self,
        operation: &Operation,
        page: &Page,
        now: u64,
        checks: &mut Checks,
        truth: &Truth,
    ) {
        let _ = now;
        let began = self.operations[&operation.id].1;
        let first = operation.key / workloads::SORT_KEYS * workloads::SORT_KEYS;
        let table = self.tables[operation.table as usize].clone();
        for key in first..first + workloads::SORT_KEYS {
            let place = (operation.table, key);
            let name: Key = workloads::key(key);
            let item = page.items.iter().find(|item| item.key == name);
            let siblings = item.map_or(&[][..], |item| &item.siblings);
            let read = self.read_of(place, siblings, checks);
            if let Some(item) = item {
                let of = (operation.table, &name);
                contexts::check(&mut checks.contexts, truth, of, siblings, &item.context);
            }
            let reached = page.after.as_ref().is_none_or(|after| name.sort <= after.sort);
            if reached
                && self.keys.contains_key(&place)
                && table.intersects()
                && table.orders_writes()
            {
                self.judge(place, &read, began, &mut checks.reads);
            }
        }
    }

    /// A read of all replicas at the end.
    pub(crate) fn on_final_got(
        &mut self,
        place: Place,
        got: &Got,
        now: u64,
        checks: &mut Checks,
        truth: &Truth,
    ) {
        let key = workloads::key(place.1);
        contexts::check(&mut checks.contexts, truth, (place.0, &key), &got.siblings, &got.context);
        let read = self.read_of(place, &got.siblings, checks);
        let table = self.tables[place.0 as usize].clone();
        // All replicas were read: whatever W is, nothing that was acknowledged may be missing.
        if table.orders_writes() {
            self.judge(place, &read, now, &mut checks.acknowledged);
            self.judge_elements(place, &got.siblings, now, &mut checks.acknowledged);
        }
        if table.policy == ConflictPolicy::Latest && !self.expects_loss {
            self.judge_session(place, &read, &mut checks.acknowledged);
        }
    }

    /// Of one client's writes, one after the other, the later wins, whatever W and the clocks are:
    /// its session tells each node the greatest time that it has seen.
    fn judge_session(&self, place: Place, read: &[u32], verdict: &mut crate::invariants::Verdict) {
        let Some(winner) = read.first().map(|id| &self.wrote[id]) else { return };
        for id in &self.keys[&place].acknowledged {
            let later = &self.wrote[id];
            let loses = later.client == winner.client && later.began > winner.ended();
            acknowledged::check(verdict, !loses, || format!("{later:?}, which follows {winner:?}"));
        }
    }

    /// The set that a read gave, with the operation's element.
    pub(crate) fn with_element(&self, operation: &Operation, got: &Got) -> Vec<u8> {
        let (mut elements, _) = union(&got.siblings);
        elements.insert(operation.id);
        sets::encode(&elements)
    }

    /// The counter that a read gave, with this client's part at the number of this increment.
    pub(crate) fn with_increment(&mut self, operation: &Operation, got: &Got) -> Vec<u8> {
        let mut parts = counters::Parts::new();
        for sibling in &got.siblings {
            let rest = workloads::read_value(&sibling.value).map_or(&[][..], |(_, rest)| rest);
            counters::merge(&mut parts, rest);
        }
        let history = self.keys.get_mut(&place(operation)).expect("it was begun");
        let count = history.counts.entry(operation.client).or_default();
        *count += 1;
        parts.insert(operation.client, *count);
        counters::encode(&parts)
    }
}

/// What siblings hold together, as a set and as a counter.
fn union(siblings: &[Sibling]) -> (BTreeSet<u32>, counters::Parts) {
    let (mut elements, mut parts) = (BTreeSet::new(), counters::Parts::new());
    for sibling in siblings {
        let rest = workloads::read_value(&sibling.value).map_or(&[][..], |(_, rest)| rest);
        elements.extend(sets::elements(rest));
        counters::merge(&mut parts, rest);
    }
    (elements, parts)
}

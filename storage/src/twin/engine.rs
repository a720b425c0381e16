//! The sorted tables' twin in memory, for the simulator and for tests.
//!
//! It keeps the contract that the real tables keep, and that [`super::contract`] checks of both:
//! what was inserted is readable at once, what was flushed survives a crash, nothing else does, and
//! [`Engine::persisted_sequence`] says which is which. [`TwinTables`] stands for the disk and
//! outlives a crash; a [`TwinEngine`] stands for the process that has it open.
//!
//! Everything is a `BTreeMap` behind one lock, shared by copy-on-write, so a scan keeps the state
//! that it began with while its visitor inserts.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::Peekable,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::engine::{Change, Engine, EngineError, EngineSize, Pressure, Sequence};

/// Closed memory that waits for a flush, from which on the writer should slow down.
const SEALED_SLOW: usize = 3;
/// Closed memory that waits for a flush, from which on the writer should stop.
const SEALED_HALT: usize = 4;
/// What an entry costs in memory beside its bytes, about as in the real tables.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What lies under a key in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Value(Bytes),
    /// Taken out: hides what the layers below hold.
    Removed,
    /// Stored bytes that cannot be read.
    Damaged,
}

type Layer = BTreeMap<Bytes, Entry>;

#[derive(Debug)]
struct Sealed {
    layer: Arc<Layer>,
    sequence: Sequence,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the openings, so that a handle from before a crash does nothing.
    incarnation: u64,
    stored: Arc<Layer>,
    persisted: Sequence,
    /// What had persisted when the tables were opened: a replay may begin before it.
    opened_at: Sequence,
    published: Sequence,
    active: Arc<Layer>,
    active_bytes: u64,
    sealed: VecDeque<Sealed>,
    flush_failures_left: u32,
}

impl State {
    /// The layers, newest first.
    fn layers(&self) -> Vec<Arc<Layer>> {
        let mut layers = vec![self.active.clone()];
        layers.extend(self.sealed.iter().rev().map(|sealed| sealed.layer.clone()));
        layers.push(self.stored.clone());
        layers
    }

    fn drop_memory(&mut self) {
        self.active = Arc::default();
        self.active_bytes = 0;
        self.sealed.clear();
        self.published = self.persisted;
        self.opened_at = self.persisted;
    }
}

/// The part that survives a crash: what was flushed, and the faults that are set. Clones share.
#[derive(Debug, Clone, Default)]
pub struct TwinTables {
    state: Arc<Mutex<State>>,
}

impl TwinTables {
    /// Empty tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the tables as a process would after a crash: what was not flushed is gone, and engines
    /// opened before fail from now on.
    pub fn open(&self) -> TwinEngine {
        let mut state = lock(&self.state);
        state.incarnation += 1;
        state.drop_memory();
        TwinEngine { state: self.state.clone(), incarnation: state.incarnation }
    }

    /// Makes the stored bytes under `key` unreadable (whether or not there were any, as when a
    /// damaged block hides what it held) until a newer insert covers them. An entry that is still
    /// in memory goes on hiding the damage.
    pub fn damage(&self, key: &[u8]) {
        let mut state = lock(&self.state);
        Arc::make_mut(&mut state.stored).insert(Bytes::copy_from_slice(key), Entry::Damaged);
    }

    /// Puts the bytes stored under `other` in the place of those under `key`, as a disk does that
    /// reads or writes the wrong sector. Nothing where `other` was never stored.
    pub fn misplace(&self, key: &[u8], other: &[u8]) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.stored.get(other).cloned() {
            Arc::make_mut(&mut state.stored).insert(Bytes::copy_from_slice(key), entry);
        }
    }

    /// An independent copy of what survives a crash.
    pub fn copy(&self) -> Self {
        let state = lock(&self.state);
        let (stored, persisted) = (state.stored.clone(), state.persisted);
        let state = State { stored, persisted, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the next `count` flushes fail with [`EngineError::Io`]; nothing is lost by them.
    pub fn fail_flushes(&self, count: u32) {
        lock(&self.state).flush_failures_left = count;
    }

    /// Loses all that was stored, as when the real tables had to be rebuilt empty. Engines opened
    /// before fail from now on.
    pub fn lose(&self) {
        let mut state = lock(&self.state);
        state.incarnation += 1;
        state.stored = Arc::default();
        state.persisted = Sequence(0);
        state.drop_memory();
    }
}

/// An open engine over [`TwinTables`]. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct TwinEngine {
    state: Arc<Mutex<State>>,
    incarnation: u64,
}

impl TwinEngine {
    /// Empty tables, opened, for a test that never looks at the disk behind them.
    pub fn new() -> Self {
        TwinTables::new().open()
    }

    /// The part that survives this engine.
    pub fn tables(&self) -> TwinTables {
        TwinTables { state: self.state.clone() }
    }

    /// Loses what was not flushed and opens again, in one call.
    pub fn crash(&self) -> TwinEngine {
        self.tables().open()
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = lock(&self.state);
        if state.incarnation == self.incarnation {
            Ok(state)
        } else {
            Err(EngineError::Io("this engine has crashed".into()))
        }
    }
}

impl Default for TwinEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for TwinEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.alive()?;
        let layers = state.layers();
        match layers.iter().find_map(|layer| layer.get(key)) {
            Some(Entry::Value(value)) => Ok(Some(value.clone())),
            Some(Entry::Removed) | None => Ok(None),
            Some(Entry::Damaged) => Err(damaged(key)),
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Result<(Bytes, Bytes), EngineError>) -> bool,
    ) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let layers = match self.alive() {
            Ok(state) => state.layers(),
            Err(error) => {
                visit(Err(error));
                return;
            }
        };
        let bounds = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let mut sources: Vec<_> =
            layers.iter().map(|layer| layer.range::<[u8], _>(bounds).peekable()).collect();
        while let Some((key, entry)) = next_newest(&mut sources) {
            let goes_on = match entry {
                Entry::Value(value) => visit(Ok((key.clone(), value.clone()))),
                Entry::Removed => true,
                Entry::Damaged => {
                    visit(Err(damaged(key)));
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn insert(&self, changes: Vec<Change>, sequence: Sequence) -> Result<(), EngineError> {
        let mut state = self.alive()?;
        if sequence <= state.opened_at {
            assert_eq!(state.published, state.opened_at, "a replay comes before new inserts");
            return Ok(());
        }
        assert!(sequence > state.published, "inserts come in the log's order");
        let state = &mut *state;
        let active = Arc::make_mut(&mut state.active);
        for change in changes {
            let value_bytes = change.value.as_ref().map_or(0, Bytes::len);
            state.active_bytes += (change.key.len() + value_bytes) as u64 + ENTRY_OVERHEAD_BYTES;
            let entry = change.value.map_or(Entry::Removed, Entry::Value);
            active.insert(change.key, entry);
        }
        state.published = sequence;
        Ok(())
    }

    fn memory_bytes(&self) -> u64 {
        lock(&self.state).active_bytes
    }

    fn rotate(&self) -> Option<Sequence> {
        let mut state = self.alive().ok()?;
        if state.active.is_empty() {
            return None;
        }
        let sequence = state.published;
        let layer = std::mem::take(&mut state.active);
        state.active_bytes = 0;
        state.sealed.push_back(Sealed { layer, sequence });
        Some(sequence)
    }

    fn flush(&self) -> Result<Sequence, EngineError> {
        let mut state = self.alive()?;
        if state.flush_failures_left > 0 {
            state.flush_failures_left -= 1;
            return Err(EngineError::Io("a flush was told to fail".into()));
        }
        while let Some(sealed) = state.sealed.pop_front() {
            let stored = Arc::make_mut(&mut state.stored);
            for (key, entry) in sealed.layer.iter() {
                match entry {
                    Entry::Removed => stored.remove(key),
                    Entry::Value(_) | Entry::Damaged => stored.insert(key.clone(), entry.clone()),
                };
            }
            state.persisted = sealed.sequence;
        }
        // Records that changed nothing here need no flush, but the log may go past them.
        if state.active.is_empty() {
            state.persisted = state.published;
        }
        Ok(state.persisted)
    }

    fn compact(&self) -> Result<(), EngineError> {
        self.alive().map(drop)
    }

    fn persisted_sequence(&self) -> Sequence {
        lock(&self.state).persisted
    }

    fn pressure(&self) -> Pressure {
        match lock(&self.state).sealed.len() {
            SEALED_HALT.. => Pressure::Halt,
            SEALED_SLOW.. => Pressure::Slow,
            _ => Pressure::None,
        }
    }

    fn size(&self) -> EngineSize {
        let state = lock(&self.state);
        let keys_in_memory: usize = state.sealed.iter().map(|sealed| sealed.layer.len()).sum();
        EngineSize {
            disk_bytes: state
                .stored
                .iter()
                .map(|(key, entry)| (key.len() + entry_bytes(entry)) as u64)
                .sum(),
            keys_estimate: (state.stored.len() + keys_in_memory + state.active.len()) as u64,
        }
    }
}

/// The smallest key of all layers with what the newest layer says of it; steps past it in all.
fn next_newest<'a, I>(sources: &mut [Peekable<I>]) -> Option<(&'a Bytes, &'a Entry)>
where
    I: Iterator<Item = (&'a Bytes, &'a Entry)>,
{
    let smallest =
        sources.iter_mut().filter_map(|source| source.peek().map(|(key, _)| *key)).min()?;
    let mut newest = None;
    for source in sources {
        if let Some(found) = source.next_if(|(key, _)| *key == smallest) {
            newest = newest.or(Some(found));
        }
    }
    newest
}

fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Value(value) => value.len(),
        Entry::Removed | Entry::Damaged => 0,
    }
}

fn damaged(key: &[u8]) -> EngineError {
    EngineError::Damaged(format!("the bytes under {key:02x?} do not check"))
}

/// A panic elsewhere in a test must not hide behind a poisoned lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::twin::contract::{self, Step};

    fn reopen(tables: &TwinTables) -> impl FnMut(Option<Box<dyn Engine>>) -> Box<dyn Engine> {
        let tables = tables.clone();
        move |_| Box::new(tables.open())
    }

    fn change(key: &'static str, value: Option<&'static str>) -> Change {
        Change {
            key: Bytes::from_static(key.as_bytes()),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        }
    }

    fn flush_all(engine: &TwinEngine) {
        engine.rotate();
        engine.flush().unwrap();
    }

    #[test]
    fn the_twin_keeps_the_contract() {
        contract::check(&mut reopen(&TwinTables::new()));
    }

    proptest! {
        #[test]
        fn random_steps_agree_with_the_model(
            codes in proptest::collection::vec(any::<(u8, u16, u16)>(), 1..120),
        ) {
            let steps: Vec<Step> = codes.into_iter().map(Step::from_code).collect();
            contract::run(&steps, &mut reopen(&TwinTables::new()));
        }
    }

    #[test]
    fn damage_is_told_until_a_newer_insert_is_flushed_over_it() {
        let engine = TwinEngine::new();
        engine.insert(vec![change("a", Some("1")), change("b", Some("1"))], Sequence(1)).unwrap();
        flush_all(&engine);
        engine.tables().damage(b"a");
        assert!(matches!(engine.get(b"a"), Err(EngineError::Damaged(_))));
        assert_eq!(engine.get(b"b").unwrap().unwrap(), "1");
        let mut seen = Vec::new();
        engine.scan(b"", None, &mut |item| {
            seen.push(item.is_ok());
            true
        });
        assert_eq!(seen, [false], "a scan ends at the damage");

        engine.insert(vec![change("a", Some("2"))], Sequence(2)).unwrap();
        assert_eq!(engine.get(b"a").unwrap().unwrap(), "2");
        let engine = engine.crash();
        assert!(matches!(engine.get(b"a"), Err(EngineError::Damaged(_))));
        engine.insert(vec![change("a", None)], Sequence(2)).unwrap();
        flush_all(&engine);
        assert_eq!(engine.crash().get(b"a").unwrap(), None);
    }

    #[test]
    fn a_failed_flush_loses_nothing() {
        let engine = TwinEngine::new();
        engine.insert(vec![change("a", Some("1"))], Sequence(1)).unwrap();
        engine.rotate();
        engine.tables().fail_flushes(1);
        assert!(matches!(engine.flush(), Err(EngineError::Io(_))));
        assert_eq!(engine.persisted_sequence(), Sequence(0));
        assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
        assert_eq!(engine.flush().unwrap(), Sequence(1));
    }

    #[test]
    fn an_engine_from_before_a_crash_fails() {
        let engine = TwinEngine::new();
        let after = engine.crash();
        assert!(engine.get(b"a").is_err());
        assert!(engine.insert(vec![], Sequence(1)).is_err());
        assert!(engine.flush().is_err());
        assert!(after.get(b"a").is_ok());
    }

    #[test]
    fn a_scan_keeps_its_state_while_its_visitor_inserts() {
        let engine = TwinEngine::new();
        engine.insert(vec![change("a", Some("1")), change("b", Some("1"))], Sequence(1)).unwrap();
        let mut seen = Vec::new();
        engine.scan(b"", None, &mut |item| {
            seen.push(item.unwrap().1);
            let next = Sequence(1 + seen.len() as u64);
            engine.insert(vec![change("b", Some("2")), change("c", Some("2"))], next).unwrap();
            flush_all(&engine);
            true
        });
        assert_eq!(seen, ["1", "1"]);
    }

    #[test]
    fn lost_tables_are_empty() {
        let engine = TwinEngine::new();
        engine.insert(vec![change("a", Some("1"))], Sequence(1)).unwrap();
        flush_all(&engine);
        let tables = engine.tables();
        tables.lose();
        let engine = tables.open();
        assert_eq!(engine.get(b"a").unwrap(), None);
        assert_eq!(engine.persisted_sequence(), Sequence(0));
    }
}

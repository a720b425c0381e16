//! Reads that wait for the reading threads: a queue a class, which take turns by weight, so that what
//! clients wait for goes first and nothing waits for ever; and one thread at least is kept from all else.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use quoit_core::event::ReadClass;

use super::{Request, Requests};

/// How often a class's turn comes while all wait.
const WEIGHTS: [(ReadClass, u32); 5] = [
    (ReadClass::Foreground, 32),
    (ReadClass::Handoff, 4),
    (ReadClass::Bulk, 4),
    (ReadClass::Repair, 2),
    (ReadClass::Scrub, 1),
];
/// Reads of the foreground that a thread takes at once: each is short, and their answers leave together.
const FOREGROUND_AT_ONCE: usize = 64;

/// The queues, for all ends.
#[derive(Debug)]
pub(super) struct Reads {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug)]
struct State {
    queues: [VecDeque<Request>; WEIGHTS.len()],
    /// Grows by a class's weight with each turn that it waits (Nginx's smooth weighted round robin).
    credit: [i64; WEIGHTS.len()],
    /// Threads that may read for others than clients.
    spare: usize,
    closed: bool,
}

/// What a thread has taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    reads: Arc<Reads>,
    pub(super) requests: Requests,
    is_foreground: bool,
}

impl Reads {
    pub(super) fn new(reader_count: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queues: std::array::from_fn(|_| VecDeque::new()),
                credit: [0; WEIGHTS.len()],
                spare: reader_count.saturating_sub(1).max(1),
                closed: false,
            }),
            ready: Condvar::new(),
        })
    }

    /// Queues reads, each behind those of its class.
    pub(super) fn push(&self, requests: Requests) {
        let mut state = self.state();
        for request in requests {
            let class = request.request.read_class().expect("only reads are queued here");
            let place = WEIGHTS.iter().position(|(known, _)| *known == class);
            let place = place.expect("each class has a weight");
            state.queues[place].push_back(request);
        }
        drop(state);
        self.ready.notify_all();
    }

    /// Waits for the next; `None` once there are none and none will come.
    pub(super) fn take(self: &Arc<Self>) -> Option<Taken> {
        let mut state = self.state();
        loop {
            if let Some((requests, is_foreground)) = state.next() {
                drop(state);
                let reads = Arc::clone(self);
                return Some(Taken { reads, requests, is_foreground });
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics midway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<(Requests, bool)> {
        let may = |place: usize| place == 0 || self.spare > 0;
        let waiting: Vec<usize> =
            (0..WEIGHTS.len()).filter(|at| may(*at) && !self.queues[*at].is_empty()).collect();
        for place in &waiting {
            self.credit[*place] += i64::from(WEIGHTS[*place].1);
        }
        let total: i64 = waiting.iter().map(|place| i64::from(WEIGHTS[*place].1)).sum();
        let place = waiting.into_iter().rev().max_by_key(|place| self.credit[*place])?;
        self.credit[place] -= total;
        let is_foreground = place == 0;
        let count = if is_foreground { self.queues[0].len().min(FOREGROUND_AT_ONCE) } else { 1 };
        let requests: Requests = self.queues[place].drain(..count).collect();
        if self.queues[place].is_empty() {
            self.credit[place] = 0;
        }
        self.spare -= usize::from(!is_foreground);
        Some((requests, is_foreground))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_foreground {
            self.reads.state().spare += 1;
            self.reads.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use quoit_core::event::{Inner, StorageRequest, Tag};
    use quoit_ring::{TableId, Token};
    use quoit_storage::layout::StoredKey;

    use super::*;

    fn read() -> Request {
        let key = StoredKey::new(Token(1), TableId(1), b"k", b"").unwrap();
        let request = StorageRequest::Read { key, whole: false };
        Request { tag: Tag::Own(1), request, until: None, asked: quoit_core::Instant(0) }
    }

    fn page() -> Request {
        let request = StorageRequest::Page {
            table: TableId(1),
            from: bytes::Bytes::new(),
            to: None,
            rows_max: 1,
            bytes_max: 1,
            whole: false,
        };
        let tag = Tag::Inner(Inner::ScrubRead);
        Request { tag, request, until: None, asked: quoit_core::Instant(0) }
    }

    #[test]
    fn what_clients_wait_for_goes_first_and_the_rest_is_not_forgotten() {
        let reads = Reads::new(2);
        reads.push((0..4).map(|_| page()).collect());
        reads.push((0..64 * 24).map(|_| read()).collect());
        let mut turns = Vec::new();
        while turns.len() < 24 {
            turns.push(reads.take().unwrap().is_foreground);
        }
        assert!(turns[0]);
        let others = turns.iter().filter(|is_foreground| !**is_foreground).count();
        assert!(
            (2..=4).contains(&others),
            "some, while the foreground was never out of work: {turns:?}"
        );
        assert!(turns.iter().position(|turn| !turn).is_some_and(|at| (4..12).contains(&at)));
    }

    #[test]
    fn one_thread_is_kept_for_the_foreground() {
        let reads = Reads::new(2);
        reads.push(vec![page(), page()]);
        let first = reads.take().unwrap();
        assert!(!first.is_foreground);
        reads.push(vec![read()]);
        assert!(reads.take().unwrap().is_foreground, "the second page waits for the first");
        drop(first);
        assert!(!reads.take().unwrap().is_foreground);
        reads.close();
        assert!(reads.take().is_none());
    }
}

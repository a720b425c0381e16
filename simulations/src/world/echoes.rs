//! Merges that may come once more: those that their receiver had taken in.

use std::collections::{BTreeMap, VecDeque};

use quoit_core::peer::PeerMerge;

/// So many are kept for each way.
const KEPT: usize = 32;

/// Of those that are never answered so many are remembered.
const UNANSWERED_MAX: usize = 1_000;

/// Who sent, and who received.
type Way = (usize, usize);

pub(super) struct Echoes {
    /// Whether anything will ever come once more.
    are_wanted: bool,
    /// Not answered yet.
    delivered: BTreeMap<(Way, u64), PeerMerge>,
    taken_in: BTreeMap<Way, VecDeque<PeerMerge>>,
}

impl Echoes {
    pub(super) fn new(are_wanted: bool) -> Self {
        Self { are_wanted, delivered: BTreeMap::new(), taken_in: BTreeMap::new() }
    }

    pub(super) fn on_delivered(&mut self, way: Way, request: u64, merge: &PeerMerge) {
        if self.are_wanted {
            self.delivered.insert((way, request), merge.clone());
            if self.delivered.len() > UNANSWERED_MAX {
                self.delivered.pop_first();
            }
        }
    }

    pub(super) fn on_answered(&mut self, way: Way, request: u64, is_taken_in: bool) {
        let Some(merge) = self.delivered.remove(&(way, request)) else { return };
        let kept = self.taken_in.entry(way).or_default();
        // The oldest are the most surprising.
        if is_taken_in && kept.len() < KEPT {
            kept.push_back(merge);
        }
    }

    pub(super) fn of(&self, way: Way) -> Vec<PeerMerge> {
        self.taken_in.get(&way).into_iter().flatten().cloned().collect()
    }
}

//! Counting answers. Primaries and fallbacks are kept apart: with a strict quorum only primaries
//! count, so that R + W > N makes every read meet every acknowledged write (Gifford, "Weighted
//! Voting for Replicated Data", 1979; Dynamo, section 4.5). With a sloppy one a fallback counts as the
//! primary that it stands in for.

use quoit_ring::{NodeId, Preference};
use quoit_storage::planted::{PlantedBug, is_planted};

/// What is known of one replica's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotAsked,
    Waiting,
    Counted,
    Refused,
}

/// The answers of one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    replicas: Vec<(Preference, Answer)>,
    required: usize,
    is_sloppy: bool,
    /// Fallbacks, and in whose place each was asked.
    stand_ins: Vec<(NodeId, NodeId)>,
}

impl Tally {
    /// A tally over a preference list of which `required` must answer. Fallbacks may be asked, but
    /// are never counted.
    pub fn strict(preference_list: impl Iterator<Item = Preference>, required: u8) -> Self {
        let replicas = preference_list.map(|preference| (preference, Answer::NotAsked)).collect();
        let required = usize::from(required);
        Self { replicas, required, is_sloppy: false, stand_ins: Vec::new() }
    }

    /// A tally in which fallbacks count as well, as far as they are asked.
    pub fn sloppy(preference_list: impl Iterator<Item = Preference>, required: u8) -> Self {
        Self { is_sloppy: true, ..Self::strict(preference_list, required) }
    }

    /// Whether fallbacks count.
    pub fn is_sloppy(&self) -> bool {
        self.is_sloppy
    }

    /// All nodes of the list, in its order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().map(|(preference, _)| preference.node())
    }

    /// Whether a node is one of the list's fallbacks, and those count.
    pub fn is_fallback(&self, node: NodeId) -> bool {
        self.is_sloppy
            && self.replicas.iter().any(|(preference, _)| *preference == Preference::Fallback(node))
    }

    /// Notes that a fallback is asked in a primary's place: of the two at most one counts.
    pub fn stand_in(&mut self, fallback: NodeId, primary: NodeId) {
        self.stand_ins.push((fallback, primary));
    }

    /// The primary in whose place a fallback was asked.
    pub fn stands_in_for(&self, fallback: NodeId) -> Option<NodeId> {
        self.stand_ins.iter().find(|(node, _)| *node == fallback).map(|(_, primary)| *primary)
    }

    /// Whether a fallback counts in a primary's place, or (with `or_may`) still may.
    pub fn is_stood_in(&self, primary: NodeId, or_may: bool) -> bool {
        let mut stand_ins = self.stand_ins.iter().filter(|(_, stood_in)| *stood_in == primary);
        stand_ins.any(|(node, _)| self.has_counted(*node) || (or_may && self.is_waiting(*node)))
    }

    /// The next fallback that was not asked yet.
    pub fn unasked_fallback(&self) -> Option<NodeId> {
        self.replicas.iter().find_map(|(preference, answer)| match (preference, answer) {
            (Preference::Fallback(node), Answer::NotAsked) => Some(*node),
            _ => None,
        })
    }

    /// The place of a node in the list.
    pub fn slot(&self, node: NodeId) -> Option<usize> {
        self.replicas.iter().position(|(preference, _)| preference.node() == node)
    }

    /// The node at a place.
    pub fn node(&self, slot: usize) -> Option<NodeId> {
        self.replicas.get(slot).map(|(preference, _)| preference.node())
    }

    /// The primaries, in the list's order.
    pub fn primaries(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().filter_map(|(preference, _)| match preference {
            Preference::Primary(node) => Some(*node),
            Preference::Fallback(node) => is_planted(PlantedBug::CountFallback).then_some(*node),
        })
    }

    /// Notes that a replica was asked.
    pub fn ask(&mut self, node: NodeId) {
        self.set(node, &[Answer::NotAsked], Answer::Waiting);
    }

    /// Forgets all answers: everybody is asked anew.
    pub fn restart(&mut self) {
        self.stand_ins.clear();
        for (_, answer) in &mut self.replicas {
            *answer = Answer::NotAsked;
        }
    }

    /// Notes a replica's good answer. Whether it was new.
    pub fn count(&mut self, node: NodeId) -> bool {
        self.set(node, &[Answer::NotAsked, Answer::Waiting, Answer::Refused], Answer::Counted)
    }

    /// Notes that a replica will not answer well.
    pub fn refuse(&mut self, node: NodeId) {
        self.set(node, &[Answer::NotAsked, Answer::Waiting], Answer::Refused);
    }

    fn set(&mut self, node: NodeId, from: &[Answer], to: Answer) -> bool {
        let entry = self.replicas.iter_mut().find(|(preference, _)| preference.node() == node);
        match entry {
            Some((_, answer)) if from.contains(answer) => {
                *answer = to;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a replica was asked and has not answered.
    pub fn is_waiting(&self, node: NodeId) -> bool {
        self.replicas
            .iter()
            .any(|(preference, answer)| preference.node() == node && *answer == Answer::Waiting)
    }

    /// Whether a replica gave a good answer.
    pub fn has_counted(&self, node: NodeId) -> bool {
        self.replicas
            .iter()
            .any(|(preference, answer)| preference.node() == node && *answer == Answer::Counted)
    }

    /// Whether one that counts was not asked yet.
    pub fn is_unasked(&self, node: NodeId) -> bool {
        self.replicas.iter().any(|(preference, answer)| {
            self.counts(*preference) && preference.node() == node && *answer == Answer::NotAsked
        })
    }

    /// How many of those that count gave a good answer.
    pub fn counted(&self) -> usize {
        self.count_of(&[Answer::Counted])
    }

    /// How many must.
    pub fn required(&self) -> usize {
        self.required
    }

    /// One more must: what those say who did is not enough.
    pub fn require_more(&mut self) {
        self.required = self.counted() + 1;
    }

    /// Whether enough gave a good answer.
    pub fn is_reached(&self) -> bool {
        self.counted() >= self.required
    }

    /// Whether enough gave a good answer or still may.
    pub fn can_be_reached(&self) -> bool {
        self.count_of(&[Answer::Counted, Answer::Waiting, Answer::NotAsked]) >= self.required
    }

    /// Whether any replica still owes an answer.
    pub fn has_waiting(&self) -> bool {
        self.replicas.iter().any(|(_, answer)| *answer == Answer::Waiting)
    }

    /// Whether any primary still owes an answer.
    pub fn has_waiting_primary(&self) -> bool {
        self.replicas.iter().any(|(preference, answer)| {
            matches!(preference, Preference::Primary(_)) && *answer == Answer::Waiting
        })
    }

    fn counts(&self, preference: Preference) -> bool {
        match preference {
            Preference::Primary(_) => true,
            Preference::Fallback(_) => self.is_sloppy || is_planted(PlantedBug::CountFallback),
        }
    }

    fn count_of(&self, answers: &[Answer]) -> usize {
        let answers_so = |node: NodeId| {
            let mut replicas = self.replicas.iter();
            replicas
                .any(|(preference, answer)| preference.node() == node && answers.contains(answer))
        };
        let counts = |(preference, answer): &&(Preference, Answer)| match preference {
            _ if !self.counts(*preference) => false,
            Preference::Fallback(node) if self.stands_in_for(*node).is_some() => false,
            Preference::Primary(node) if !answers.contains(answer) => {
                let mut for_it = self.stand_ins.iter().filter(|(_, primary)| primary == node);
                for_it.any(|(fallback, _)| answers_so(*fallback))
            }
            Preference::Primary(_) | Preference::Fallback(_) => answers.contains(answer),
        };
        self.replicas.iter().filter(counts).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(primaries: u64, fallbacks: u64, required: u8) -> Tally {
        let list = (1..=primaries)
            .map(|node| Preference::Primary(NodeId(node)))
            .chain((1..=fallbacks).map(|node| Preference::Fallback(NodeId(primaries + node))));
        Tally::strict(list, required)
    }

    #[test]
    fn a_fallback_never_counts_towards_a_strict_quorum() {
        let mut tally = tally(3, 2, 2);
        tally.count(NodeId(1));
        tally.count(NodeId(4));
        tally.count(NodeId(5));
        assert!(!tally.is_reached());
        tally.count(NodeId(2));
        assert!(tally.is_reached());
    }

    #[test]
    fn in_a_sloppy_quorum_fallbacks_count_and_are_asked_in_their_order() {
        let list = [Preference::Primary(NodeId(1)), Preference::Primary(NodeId(2))];
        let fallbacks = [Preference::Fallback(NodeId(3)), Preference::Fallback(NodeId(4))];
        let mut tally = Tally::sloppy(list.into_iter().chain(fallbacks), 2);
        assert_eq!(tally.unasked_fallback(), Some(NodeId(3)));
        tally.refuse(NodeId(3));
        assert_eq!(tally.unasked_fallback(), Some(NodeId(4)));
        assert!(tally.is_fallback(NodeId(4)) && !tally.is_fallback(NodeId(1)));
        tally.count(NodeId(4));
        tally.refuse(NodeId(1));
        assert!(!tally.is_reached() && tally.can_be_reached());
        tally.count(NodeId(2));
        assert!(tally.is_reached());
    }

    #[test]
    fn a_primary_and_who_stands_in_for_it_count_once() {
        let list = [1, 2].map(|node| Preference::Primary(NodeId(node)));
        let fallbacks = [3, 4].map(|node| Preference::Fallback(NodeId(node)));
        let mut tally = Tally::sloppy(list.into_iter().chain(fallbacks), 2);
        tally.stand_in(NodeId(3), NodeId(1));
        tally.count(NodeId(3));
        tally.count(NodeId(1));
        assert_eq!(tally.counted(), 1);
        assert!(tally.is_stood_in(NodeId(1), false) && !tally.is_stood_in(NodeId(2), true));
        tally.refuse(NodeId(2));
        assert!(tally.can_be_reached());
        tally.stand_in(NodeId(4), NodeId(2));
        tally.ask(NodeId(4));
        assert!(tally.is_stood_in(NodeId(2), true) && !tally.is_reached());
        tally.count(NodeId(4));
        assert!(tally.is_reached());
    }

    #[test]
    fn a_replica_counts_once() {
        let mut tally = tally(3, 0, 2);
        assert!(tally.count(NodeId(1)));
        assert!(!tally.count(NodeId(1)));
        assert_eq!(tally.counted(), 1);
    }

    #[test]
    fn refusals_end_the_hope() {
        let mut tally = tally(3, 0, 2);
        tally.refuse(NodeId(1));
        assert!(tally.can_be_reached());
        tally.refuse(NodeId(2));
        assert!(!tally.can_be_reached());
    }
}

//! Counting answers. Primaries and fallbacks are kept apart: with a strict quorum only primaries
//! count, so that R + W > N makes every read meet every acknowledged write (Gifford, "Weighted
//! Voting for Replicated Data", 1979; Dynamo, section 4.5).

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
}

impl Tally {
    /// A tally over a preference list of which `required` must answer. Fallbacks may be asked, but
    /// are never counted.
    pub fn strict(preference_list: impl Iterator<Item = Preference>, required: u8) -> Self {
        let replicas = preference_list.map(|preference| (preference, Answer::NotAsked)).collect();
        Self { replicas, required: usize::from(required) }
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

    /// Whether a primary was not asked yet.
    pub fn is_unasked(&self, node: NodeId) -> bool {
        self.replicas.contains(&(Preference::Primary(node), Answer::NotAsked))
    }

    /// The primaries that gave a good answer.
    pub fn counted(&self) -> usize {
        self.primaries_with(&[Answer::Counted])
    }

    /// How many must.
    pub fn required(&self) -> usize {
        self.required
    }

    /// Whether enough primaries gave a good answer.
    pub fn is_reached(&self) -> bool {
        self.counted() >= self.required
    }

    /// Whether enough primaries gave a good answer or still may.
    pub fn can_be_reached(&self) -> bool {
        self.primaries_with(&[Answer::Counted, Answer::Waiting, Answer::NotAsked]) >= self.required
    }

    /// Whether any replica still owes an answer.
    pub fn has_waiting(&self) -> bool {
        self.replicas.iter().any(|(_, answer)| *answer == Answer::Waiting)
    }

    fn primaries_with(&self, answers: &[Answer]) -> usize {
        self.replicas
            .iter()
            .filter(|(preference, answer)| {
                let counts = matches!(preference, Preference::Primary(_))
                    || is_planted(PlantedBug::CountFallback);
                counts && answers.contains(answer)
            })
            .count()
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

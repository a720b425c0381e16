//! Who may begin a handshake, when, and who has to go for it.
//!
//! A handshake costs about a millisecond of the thread that also serves requests, and nobody has shown
//! who they are before it ends. So: newcomers wait, in a queue for each source, and the queues take
//! turns at the pace that is set; only so many are under way, in all and of one source, and where there
//! are more the oldest goes, which is the one that does not go on. Whoever floods from one address keeps
//! out none that come from another. Members of the cluster have a queue of their own, which goes first.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::pace::Rate;

/// So many handshakes may begin at once after a quiet time.
const HANDSHAKES_BURST: u32 = 32;
/// While the node works, so many times fewer.
const BUSY_SHARE: u32 = 10;

/// Whom a newcomer counts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A member, at the address that the cluster record gives it.
    Member,
    /// Anyone else: by address, of which in IPv6 a customer has as many as share 64 bits.
    Address(IpAddr),
}

impl Source {
    /// Of whoever is no member.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }
}

/// Newcomers that have not begun. They come out in turns, a source each.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    lanes: BTreeMap<Source, VecDeque<T>>,
    turns: VecDeque<Source>,
    count: usize,
}

impl<T> Waiting<T> {
    pub(super) fn new() -> Self {
        Self { lanes: BTreeMap::new(), turns: VecDeque::new(), count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Queues one; gives it back where too many wait.
    pub(super) fn push(&mut self, source: Source, one: T, bounds: &Bounds) -> Option<T> {
        let lane = self.lanes.get(&source).map_or(0, VecDeque::len);
        let is_member = source == Source::Member;
        if lane >= bounds.under_way_max
            || (!is_member && (lane >= bounds.of_source_max || self.count >= bounds.waiting_max()))
        {
            return Some(one);
        }
        self.lanes.entry(source).or_default().push_back(one);
        self.count += 1;
        if lane == 0 {
            match source {
                Source::Member => self.turns.push_front(source),
                Source::Address(_) => self.turns.push_back(source),
            }
        }
        None
    }

    /// The next in turn.
    pub(super) fn pop(&mut self) -> Option<(Source, T)> {
        let source = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&source)?;
        let one = lane.pop_front()?;
        self.count -= 1;
        match (lane.is_empty(), source) {
            (true, _) => drop(self.lanes.remove(&source)),
            (false, Source::Member) => self.turns.push_front(source),
            (false, Source::Address(_)) => self.turns.push_back(source),
        }
        Some((source, one))
    }
}

/// The bounds as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Handshakes under way at once, and members that wait.
    pub(super) under_way_max: usize,
    /// Handshakes of one source, and again so many that wait.
    pub(super) of_source_max: usize,
    /// Handshakes that begin in a second.
    pub(super) per_second: u32,
}

impl Bounds {
    /// How quickly handshakes begin: of the thread's time they get a share, and less of it where there is
    /// other work.
    pub(super) fn rate(&self, is_busy: bool) -> Rate {
        let share = if is_busy { BUSY_SHARE } else { 1 };
        Rate { per_second: self.per_second / share, burst: HANDSHAKES_BURST / share }
    }

    /// So many wait, whoever they are.
    fn waiting_max(&self) -> usize {
        self.under_way_max.saturating_mul(4)
    }
}

/// The handshakes under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    /// In the order in which they began.
    running: BTreeMap<u64, (Source, Arc<Notify>)>,
    of_source: BTreeMap<Source, usize>,
}

/// A handshake's place among the others, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    under_way: Arc<UnderWay>,
    number: u64,
    shed: Arc<Notify>,
}

impl UnderWay {
    /// A place for one more, and whether another was shed for it: the oldest of its source, or of all.
    pub(super) fn begin(self: &Arc<Self>, source: Source, bounds: &Bounds) -> (Turn, bool) {
        let mut state = self.state();
        let own = state.of_source.get(&source).copied().unwrap_or(0);
        let own_max = match source {
            Source::Member => bounds.under_way_max,
            Source::Address(_) => bounds.of_source_max,
        };
        let mut sheds = false;
        if own >= own_max || state.running.len() >= bounds.under_way_max {
            let mut running = state.running.iter();
            let oldest = running.find(|(_, (of, _))| own < own_max || *of == source);
            if let Some(number) = oldest.map(|(number, _)| *number) {
                sheds = state.remove(number);
            }
        }
        state.number += 1;
        let (number, shed) = (state.number, Arc::new(Notify::new()));
        state.running.insert(number, (source, Arc::clone(&shed)));
        *state.of_source.entry(source).or_default() += 1;
        (Turn { under_way: Arc::clone(self), number, shed }, sheds)
    }

    pub(super) fn count(&self) -> usize {
        self.state().running.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends one and tells it; whether it was there.
    fn remove(&mut self, number: u64) -> bool {
        let Some((source, shed)) = self.running.remove(&number) else { return false };
        shed.notify_one();
        if let Some(count) = self.of_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.of_source.remove(&source);
            }
        }
        true
    }
}

impl Turn {
    /// Completes when another was let in for this one.
    pub(super) async fn shed(&self) {
        self.shed.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.state().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: Bounds = Bounds { under_way_max: 4, of_source_max: 2, per_second: 10 };

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[test]
    fn sources_take_turns_and_members_go_first() {
        let mut waiting = Waiting::new();
        for number in 0..3 {
            let refused = waiting.push(source(1), number, &BOUNDS);
            assert_eq!(refused, (number == 2).then_some(2), "of one source two may wait");
        }
        assert_eq!(waiting.push(source(2), 10, &BOUNDS), None);
        assert_eq!(waiting.push(Source::Member, 20, &BOUNDS), None);
        assert_eq!(waiting.push(Source::Member, 21, &BOUNDS), None);
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).map(|(_, one)| one).collect();
        assert_eq!(order, [20, 21, 0, 10, 1]);
        assert_eq!(waiting.count(), 0);
        for last in 0..16 {
            assert_eq!(waiting.push(source(last), 0, &BOUNDS), None);
        }
        assert_eq!(waiting.push(source(16), 7, &BOUNDS), Some(7), "nor do more wait in all");
        assert_eq!(waiting.push(Source::Member, 8, &BOUNDS), None, "but members do");
    }

    #[tokio::test]
    async fn the_oldest_goes_of_the_source_that_has_too_many_or_else_of_all() {
        let is_shed =
            async |turn: &Turn| tokio::time::timeout(Duration::ZERO, turn.shed()).await.is_ok();
        let under_way = Arc::new(UnderWay::default());
        let begin = |last| under_way.begin(source(last), &BOUNDS);
        let (other, _) = begin(1);
        let (first, _) = begin(2);
        let (second, sheds) = begin(2);
        assert!(!sheds);
        let (third, sheds) = begin(2);
        assert!(sheds && is_shed(&first).await && !is_shed(&other).await);
        drop(first);
        assert_eq!(under_way.count(), 3);
        let (_fourth, _) = begin(3);
        let (_fifth, sheds) = begin(4);
        assert!(sheds && is_shed(&other).await, "the oldest of all");
        assert!(!is_shed(&second).await && !is_shed(&third).await);
        assert_eq!(under_way.count(), 4);
        drop((second, third));
        assert_eq!(under_way.count(), 2);
    }

    #[test]
    fn an_address_counts_with_those_that_its_owner_has() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}

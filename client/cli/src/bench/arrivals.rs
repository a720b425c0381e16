//! The open loop's schedule: when operations are meant to start, fixed in advance, and those that
//! are due but wait for a free slot.
//!
//! Latencies are counted from the intended start, so that a stall of the cluster lengthens all the
//! operations that came due in it, not only those that were in flight (Tene's "coordinated
//! omission"). No clock is read here: times are nanoseconds since the run's start, handed in.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// The stream of a seed that arrivals are drawn from; slots have the low numbers.
const ARRIVALS_STREAM: u64 = u64::MAX;
/// So many arrivals are put down at once, so that nobody waits long for the lock.
const DUE_AT_ONCE_MAX: usize = 10_000;

/// How arrivals are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalKind {
    /// Independent of each other, as from many users: exponential gaps.
    Poisson,
    /// Evenly spaced.
    Uniform,
}

impl ArrivalKind {
    /// The word for the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Uniform => "uniform",
        }
    }
}

/// What an open loop is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct OpenLoop {
    /// Starts a second, in this process.
    pub(super) per_second: f64,
    /// How they are spread.
    pub(super) arrivals: ArrivalKind,
    /// When the first evenly spaced one comes, as a part of the gap: processes take turns.
    pub(super) phase: f64,
    /// At most so many wait for a slot; what comes due beyond is not started.
    pub(super) waiting_max: usize,
}

/// Intended starts, ascending.
#[derive(Debug)]
struct Arrivals {
    kind: ArrivalKind,
    gap_ns: f64,
    next_ns: f64,
    random: Random,
}

impl Arrivals {
    fn new(open_loop: &OpenLoop, seed: u64) -> Self {
        assert!(open_loop.per_second > 0.0, "a rate of nothing has no arrivals");
        let gap_ns = 1e9 / open_loop.per_second;
        let mut random = Random::new(seed, ARRIVALS_STREAM);
        let next_ns = match open_loop.arrivals {
            ArrivalKind::Uniform => gap_ns * open_loop.phase,
            ArrivalKind::Poisson => exponential(&mut random) * gap_ns,
        };
        Self { kind: open_loop.arrivals, gap_ns, next_ns, random }
    }

    fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    fn advance(&mut self) {
        self.next_ns += match self.kind {
            ArrivalKind::Uniform => self.gap_ns,
            ArrivalKind::Poisson => exponential(&mut self.random) * self.gap_ns,
        };
    }
}

/// A gap of mean one.
fn exponential(random: &mut Random) -> f64 {
    -(1.0 - random.unit()).ln()
}

/// The schedule up to its end, and what of it is due and not started.
#[derive(Debug)]
pub(super) struct Backlog {
    arrivals: Arrivals,
    waiting: VecDeque<u64>,
    waiting_max: usize,
    measured_from_ns: u64,
    ends_at_ns: u64,
    refused: u64,
}

/// What became due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// So many more wait for a slot.
    pub(super) added: usize,
    /// When the next comes due; `None` where the schedule is over.
    pub(super) next_ns: Option<u64>,
}

impl Backlog {
    /// A schedule from 0 to `ends_at_ns`, of which what lies before `measured_from_ns` is warm-up.
    pub(super) fn new(
        open_loop: &OpenLoop,
        seed: u64,
        measured_from_ns: u64,
        ends_at_ns: u64,
    ) -> Self {
        Self {
            arrivals: Arrivals::new(open_loop, seed),
            waiting: VecDeque::new(),
            waiting_max: open_loop.waiting_max,
            measured_from_ns,
            ends_at_ns,
            refused: 0,
        }
    }

    /// It is `now_ns`: what is due waits from now on, or is refused where too many wait.
    pub(super) fn advance(&mut self, now_ns: u64) -> Due {
        let mut added = 0;
        for _ in 0..DUE_AT_ONCE_MAX {
            let due_ns = self.arrivals.next_ns();
            if due_ns >= self.ends_at_ns {
                // The last may be due long before the end; slots go on until then.
                let is_over = now_ns >= self.ends_at_ns;
                return Due { added, next_ns: (!is_over).then_some(self.ends_at_ns) };
            }
            if due_ns > now_ns {
                return Due { added, next_ns: Some(due_ns) };
            }
            self.arrivals.advance();
            if self.waiting.len() < self.waiting_max {
                self.waiting.push_back(due_ns);
                added += 1;
            } else if due_ns >= self.measured_from_ns {
                self.refused += 1;
            }
        }
        Due { added, next_ns: Some(self.arrivals.next_ns()) }
    }

    /// The intended start of the one that waits longest.
    pub(super) fn take(&mut self) -> Option<u64> {
        self.waiting.pop_front()
    }

    /// How many were due and found too many waiting. Warm-up does not count.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// How many still wait. Warm-up does not count.
    pub(super) fn left(&self) -> u64 {
        self.waiting.iter().filter(|due_ns| **due_ns >= self.measured_from_ns).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn open_loop(arrivals: ArrivalKind, per_second: f64, waiting_max: usize) -> OpenLoop {
        OpenLoop { per_second, arrivals, phase: 0.0, waiting_max }
    }

    /// Lets everything come due at once.
    fn drain(backlog: &mut Backlog) -> Vec<u64> {
        let mut starts = Vec::new();
        while backlog.advance(u64::MAX).next_ns.is_some() {
            starts.extend(std::iter::from_fn(|| backlog.take()));
        }
        starts.extend(std::iter::from_fn(|| backlog.take()));
        starts
    }

    #[test]
    fn evenly_spaced_starts_are_fixed_in_advance_and_processes_take_turns() {
        let first = open_loop(ArrivalKind::Uniform, 4.0, 100);
        let second = OpenLoop { phase: 0.5, ..first };
        let starts = |it: &OpenLoop| drain(&mut Backlog::new(it, 1, 0, SECOND));
        assert_eq!(starts(&first), [0, 250_000_000, 500_000_000, 750_000_000]);
        assert_eq!(starts(&second), [125_000_000, 375_000_000, 625_000_000, 875_000_000]);
    }

    #[test]
    fn poisson_starts_have_the_rate_and_the_spread_of_their_law() {
        let backlog =
            || Backlog::new(&open_loop(ArrivalKind::Poisson, 1_000.0, 1 << 20), 7, 0, 20 * SECOND);
        let starts = drain(&mut backlog());
        assert!((19_300..20_700).contains(&starts.len()), "{}", starts.len());
        assert!(starts.is_sorted());
        // A gap is longer than its mean with probability 1/e.
        let gaps = starts.windows(2).filter(|pair| pair[1] - pair[0] > 1_000_000).count();
        let share = gaps as f64 / starts.len() as f64;
        assert!((share - 0.3679).abs() < 0.02, "{share}");
        assert_eq!(starts, drain(&mut backlog()), "one seed, one schedule");
    }

    #[test]
    fn a_stall_makes_starts_wait_with_their_intended_times() {
        let mut backlog =
            Backlog::new(&open_loop(ArrivalKind::Uniform, 10.0, 100), 1, 0, 10 * SECOND);
        assert_eq!(backlog.advance(0), Due { added: 1, next_ns: Some(SECOND / 10) });
        assert_eq!(backlog.take(), Some(0));
        assert_eq!(backlog.take(), None);
        // Nobody came for a second: ten are due, and keep the times that they were due at.
        let due = backlog.advance(SECOND);
        assert_eq!(due, Due { added: 10, next_ns: Some(SECOND / 10 * 11) });
        assert_eq!(backlog.take(), Some(SECOND / 10));
        assert_eq!(backlog.left(), 9);
    }

    #[test]
    fn what_finds_too_many_waiting_is_counted_but_not_in_the_warm_up() {
        let warm_up = SECOND;
        let mut backlog =
            Backlog::new(&open_loop(ArrivalKind::Uniform, 10.0, 4), 1, warm_up, 2 * SECOND);
        assert_eq!(backlog.advance(SECOND - 1).added, 4);
        assert_eq!(backlog.refused(), 0);
        assert_eq!(backlog.left(), 0, "all that wait were due in the warm-up");
        (0..4).for_each(|_| assert!(backlog.take().is_some()));
        let due = backlog.advance(2 * SECOND);
        assert_eq!(due, Due { added: 4, next_ns: None });
        assert_eq!(backlog.refused(), 6);
        assert_eq!(backlog.left(), 4);
    }
}

//! How many requests a node is asked at once: as many as it takes.
//!
//! A node that refuses for overload has more before it than it may. What it refused has travelled, and cost
//! it and this client a good part of what an answer would have cost; sent again and again it leaves neither
//! of them time for anything else. So the first refusal bounds what may be unanswered, and what is above
//! that waits here, where waiting costs nothing: oldest first, for whichever of its nodes has room first.
//! The bound falls by a part with refusals, at most once in a while, and grows while requests are answered
//! that had filled it: TCP's congestion window (Jacobson 1988; RFC 5681), but for growing by a part too, so
//! that it is back soon after a bad moment.

use std::collections::BTreeSet;

use crate::{Instant, OperationId};

/// A refusal leaves so much of the window...
const LEFT: f64 = 0.9;
/// ... at most once in so long, for those that were sent together are refused together.
const CUT_EVERY_US: u64 = 100_000;
/// Each answer of a full window adds so much, and so a whole window of them this part.
const GROWTH: f64 = 1.0 / 64.0;

/// What may be asked of one node.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// So many requests may be unanswered, 1 at least; any number where it never refused.
    size: Option<f64>,
    cut: Instant,
    /// When it has said that it wants to be asked again, at the latest.
    pub(crate) refused_until: Instant,
    /// The operations that wait here for it.
    pub(crate) held: BTreeSet<OperationId>,
}

impl Window {
    /// Whether one more may be sent to a node that has so many to answer.
    pub(crate) fn has_room(&self, in_flight: u32) -> bool {
        self.size.is_none_or(|size| f64::from(in_flight) + 1.0 <= size)
    }

    /// It answered one of so many requests.
    pub(crate) fn on_served(&mut self, in_flight: u32) {
        if !self.has_room(in_flight)
            && let Some(size) = &mut self.size
        {
            *size += GROWTH;
        }
    }

    /// It refused one of so many requests, and wants to be asked again after `pause_us`.
    pub(crate) fn on_refused(&mut self, now: Instant, in_flight: u32, pause_us: u64) {
        self.refused_until = self.refused_until.max(now.plus_us(pause_us));
        if self.size.is_some() && now.since_us(self.cut) < CUT_EVERY_US {
            return;
        }
        self.cut = now;
        let size = self.size.unwrap_or(f64::INFINITY).min(f64::from(in_flight));
        self.size = Some((size * LEFT).max(1.0));
    }

    /// Another connection: nothing is known of it. What is held back is let go by the caller.
    pub(crate) fn reset(&mut self) {
        self.size = None;
        self.refused_until = Instant(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT_US: u64 = 1_000;

    #[test]
    fn it_is_open_until_the_first_refusal_and_never_quite_shut() {
        let mut window = Window::default();
        assert!(window.has_room(u32::MAX));
        window.on_refused(Instant(1_000_000), 100, 0);
        assert!(window.has_room(89) && !window.has_room(90));
        for second in 2..100 {
            window.on_refused(Instant(second * 1_000_000), 1, 0);
        }
        assert!(window.has_room(0) && !window.has_room(1));
    }

    #[test]
    fn refusals_of_one_moment_count_once() {
        let mut window = Window::default();
        for at in 0..50 {
            window.on_refused(Instant(1_000_000 + at * MOMENT_US), 100, 0);
        }
        assert!(window.has_room(89));
        window.on_refused(Instant(2_000_000), 100, 0);
        assert!(window.has_room(80) && !window.has_room(81));
    }

    #[test]
    fn it_grows_by_a_part_a_round_while_it_is_filled() {
        let mut window = Window::default();
        window.on_refused(Instant(1_000_000), 100, 0);
        for _ in 0..1_000 {
            window.on_served(10);
        }
        assert!(!window.has_room(90), "nobody has filled it");
        let mut in_flight = 90;
        for _ in 0..64 * 5 {
            window.on_served(in_flight);
            in_flight += u32::from(window.has_room(in_flight));
        }
        assert_eq!(in_flight, 95);
    }
}

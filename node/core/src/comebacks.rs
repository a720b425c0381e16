//! When those are to come back that were refused for overload.
//!
//! A refusal costs a part of what an answer costs, and so does each that comes back too early: many clients
//! with few requests each, whom no window of their own holds back, would leave a node no time for its work.
//! So the pause that refusals name grows while more is refused than a part of what is done, and shrinks
//! while less is.

use crate::time::Instant;

/// What refusals say at first, and at least, in milliseconds.
const PAUSE_MS_MIN: u32 = 50;
/// And at most.
const PAUSE_MS_MAX: u32 = 4_000;
/// So often it is judged anew.
const INTERVAL_MS: u64 = 200;
/// After so long without a refusal it begins afresh: longer than the longest pause, with what clients add to
/// that, so that those who obey it do not end it.
const FORGET_MS: u64 = 10_000;
/// Of what is done in an interval, so much may be refused.
const BEARABLE_PART: u32 = 8;
/// So much may be in any case.
const BEARABLE_MIN: u32 = 20;

/// What was done and refused of late, and the pause that follows from it.
#[derive(Debug)]
pub(crate) struct Comebacks {
    since: Instant,
    done: u32,
    refused: u32,
    pause_ms: u32,
}

impl Default for Comebacks {
    fn default() -> Self {
        Self { since: Instant(0), done: 0, refused: 0, pause_ms: PAUSE_MS_MIN }
    }
}

impl Comebacks {
    /// An operation is answered.
    pub(crate) fn on_done(&mut self) {
        self.done = self.done.saturating_add(1);
    }

    /// One is refused; gives after how many milliseconds it is to come back.
    pub(crate) fn on_refused(&mut self, now: Instant) -> u32 {
        self.refused = self.refused.saturating_add(1);
        let lasted_ms = now.ms_since(self.since);
        if lasted_ms >= INTERVAL_MS {
            let bearable = (self.done / BEARABLE_PART).max(BEARABLE_MIN);
            let pause_ms = match lasted_ms {
                FORGET_MS.. => PAUSE_MS_MIN,
                _ if self.refused > bearable => self.pause_ms.saturating_mul(2),
                _ => self.pause_ms / 2,
            };
            let pause_ms = pause_ms.clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
            *self = Self { since: now, done: 0, refused: 0, pause_ms };
        }
        self.pause_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause after so many intervals of 100 done and so many refused each.
    fn pause_ms(comebacks: &mut Comebacks, from_ms: u64, intervals: u64, refused: u64) -> u32 {
        let mut pause_ms = 0;
        for interval in 0..intervals {
            (0..100).for_each(|_| comebacks.on_done());
            for at in 0..refused {
                let ms = from_ms + interval * INTERVAL_MS + at * INTERVAL_MS / refused;
                pause_ms = comebacks.on_refused(Instant(ms * 1_000));
            }
        }
        pause_ms
    }

    #[test]
    fn the_pause_grows_while_more_is_refused_than_can_be_borne_and_shrinks_after_that() {
        let mut comebacks = Comebacks::default();
        assert_eq!(pause_ms(&mut comebacks, 10_000, 1, 500), PAUSE_MS_MIN);
        assert_eq!(pause_ms(&mut comebacks, 10_200, 3, 500), 8 * PAUSE_MS_MIN);
        assert_eq!(pause_ms(&mut comebacks, 10_800, 20, 500), PAUSE_MS_MAX);
        assert_eq!(pause_ms(&mut comebacks, 14_800, 20, 5), PAUSE_MS_MIN);
    }

    #[test]
    fn who_comes_back_after_the_longest_pause_does_not_find_the_shortest() {
        let mut comebacks = Comebacks::default();
        pause_ms(&mut comebacks, 10_000, 20, 500);
        let back_ms = 14_000 + u64::from(PAUSE_MS_MAX) * 3 / 2;
        assert!(pause_ms(&mut comebacks, back_ms, 1, 500) >= PAUSE_MS_MAX / 2);
    }

    #[test]
    fn a_refusal_long_after_the_last_begins_afresh() {
        let mut comebacks = Comebacks::default();
        pause_ms(&mut comebacks, 10_000, 20, 500);
        assert_eq!(comebacks.on_refused(Instant(60_000_000)), PAUSE_MS_MIN);
    }
}

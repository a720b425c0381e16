//! How long a read waits for the replicas that it asked before it asks another: a little longer than
//! nearly all of them took of late (Dean and Barroso, "The Tail at Scale", 2013). So few reads are asked
//! for twice, about one in a hundred, and one slow replica costs a read no more than that.

use hdrhistogram::Histogram;

use crate::time::Instant;

/// Of so many answers this share has come by then.
const PERCENTILE: f64 = 99.0;
/// A window is closed after so long, if enough answers have come.
const WINDOW_MS: u64 = 1_000;
/// Fewer say nothing of the tail.
const ANSWERS_MIN: u64 = 200;
/// It is never shorter.
const LEAST_US: u64 = 1_000;
/// What takes longer is as long as this here.
const LONGEST_US: u64 = 10_000_000;

/// The patience of a node with replicas.
pub(crate) struct Patience {
    answers: Histogram<u32>,
    closes: Instant,
    current_us: u64,
    most_us: u64,
}

impl Patience {
    /// Until enough is known, and at most, `most_ms`.
    pub(crate) fn new(most_ms: u64) -> Self {
        let most_us = most_ms.saturating_mul(1_000);
        let answers = Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are right");
        Self { answers, closes: Instant(0).plus_ms(WINDOW_MS), current_us: most_us, most_us }
    }

    /// A replica has answered a read that it was asked at `asked`.
    pub(crate) fn on_answer(&mut self, asked: Instant, now: Instant) {
        let took_us = now.0.saturating_sub(asked.0).clamp(1, LONGEST_US);
        self.answers.saturating_record(took_us);
        if now >= self.closes && self.answers.len() >= ANSWERS_MIN {
            let high_us = self.answers.value_at_percentile(PERCENTILE);
            self.current_us = high_us.max(LEAST_US).min(self.most_us);
            self.answers.reset();
            self.closes = now.plus_ms(WINDOW_MS);
        }
    }

    /// When a read that begins now asks more replicas.
    pub(crate) fn ends(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_add(self.current_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(patience: &mut Patience, from_ms: u64, took_us: impl Fn(u64) -> u64) -> u64 {
        for number in 0..2_000 {
            let asked = Instant(0).plus_ms(from_ms + number);
            patience.on_answer(asked, Instant(asked.0 + took_us(number)));
        }
        patience.ends(Instant(0)).0
    }

    #[test]
    fn it_follows_what_nearly_all_answers_took_within_its_bounds() {
        let mut patience = Patience::new(40);
        assert_eq!(patience.ends(Instant(7)), Instant(40_007));
        // One in 200 is slow: that is less than one in a hundred.
        let quick =
            after(&mut patience, 0, |number| if number % 200 == 0 { 90_000 } else { 3_000 });
        assert!((2_900..3_200).contains(&quick), "{quick}");
        assert_eq!(after(&mut patience, 10_000, |_| 20), LEAST_US);
        assert_eq!(after(&mut patience, 20_000, |_| 900_000), 40_000);
        assert_eq!(after(&mut Patience::new(0), 0, |_| 5_000), 0);
    }

    #[test]
    fn few_answers_say_nothing() {
        let mut patience = Patience::new(40);
        for number in 0..100 {
            let asked = Instant(0).plus_ms(number * 1_000);
            patience.on_answer(asked, asked);
        }
        assert_eq!(patience.ends(Instant(0)), Instant(40_000));
    }
}

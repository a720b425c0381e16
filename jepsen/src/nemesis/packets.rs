//! Packets between nodes: slow, out of order, doubled, damaged. Which links, and how much, is drawn.

use std::time::Duration;

use fastrand::Rng;

use super::{names, some_of};
use crate::relay::Conditions;

/// A packet is under way for so long, in milliseconds.
const DELAY_MS: std::ops::RangeInclusive<u64> = 5..=300;
/// What is passed by others is at most so much later, in milliseconds.
const LATE_MS: std::ops::RangeInclusive<u64> = 5..=100;
/// Shares of packets, of 100.
const LATE_PERCENT: std::ops::RangeInclusive<u8> = 5..=60;
const DOUBLED_PERCENT: std::ops::RangeInclusive<u8> = 10..=80;
const DAMAGED_PERCENT: std::ops::RangeInclusive<u8> = 2..=30;

/// Directions of links, from whom to whom, what happens there, and that in a few words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Weather {
    pub(super) directions: Vec<(usize, usize)>,
    pub(super) conditions: Conditions,
    pub(super) told: String,
}

/// Which directions: all, all of some nodes, or only what some nodes send or are sent.
fn some_directions(count: usize, random: &mut Rng) -> (Vec<(usize, usize)>, String) {
    let some = some_of(count, random);
    let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    let all = all.filter(|(from, to)| from != to);
    let luck = random.u8(..4);
    let told = match luck {
        0 => "all".to_owned(),
        1 => format!("to and from {}", names(&some)),
        2 => format!("from {}", names(&some)),
        _ => format!("to {}", names(&some)),
    };
    let is_meant = |(from, to): &(usize, usize)| match luck {
        0 => true,
        1 => some.contains(from) || some.contains(to),
        2 => some.contains(from),
        _ => some.contains(to),
    };
    (all.filter(is_meant).collect(), told)
}

/// Slow links, which keep the order of packets.
pub(super) fn slow(count: usize, random: &mut Rng) -> Weather {
    let (directions, told) = some_directions(count, random);
    let delay = random.u64(DELAY_MS);
    let jitter = random.u64(0..=delay);
    let told = format!("packets {told} take {delay} to {} ms", delay + jitter);
    let conditions = Conditions {
        delay: Duration::from_millis(delay),
        jitter: Duration::from_millis(jitter),
        ..Conditions::default()
    };
    Weather { directions, conditions, told }
}

/// Links on which packets pass others.
pub(super) fn out_of_order(count: usize, random: &mut Rng) -> Weather {
    let (directions, told) = some_directions(count, random);
    let (late_percent, late) = (random.u8(LATE_PERCENT), random.u64(LATE_MS));
    let told = format!("{late_percent} % of packets {told} are up to {late} ms late");
    let late = Duration::from_millis(late);
    let conditions = Conditions { late_percent, late, ..Conditions::default() };
    Weather { directions, conditions, told }
}

/// Links on which packets come twice.
pub(super) fn doubled(count: usize, random: &mut Rng) -> Weather {
    let (directions, told) = some_directions(count, random);
    let doubled_percent = random.u8(DOUBLED_PERCENT);
    let told = format!("{doubled_percent} % of packets {told} come twice");
    let conditions = Conditions { doubled_percent, ..Conditions::default() };
    Weather { directions, conditions, told }
}

/// Links that flip bits.
pub(super) fn damaged(count: usize, random: &mut Rng) -> Weather {
    let (directions, told) = some_directions(count, random);
    let damaged_percent = random.u8(DAMAGED_PERCENT);
    let told = format!("{damaged_percent} % of packets {told} are damaged");
    let conditions = Conditions { damaged_percent, ..Conditions::default() };
    Weather { directions, conditions, told }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_links_are_disturbed_never_those_to_oneself_and_some_in_one_direction_only() {
        let mut random = Rng::with_seed(1);
        let drawn: Vec<Weather> = (0..100).map(|_| slow(5, &mut random)).collect();
        for weather in &drawn {
            assert!(!weather.directions.is_empty(), "{weather:?}");
            assert!(weather.directions.iter().all(|(from, to)| from != to && *from < 5 && *to < 5));
        }
        let is_one_way = |weather: &&Weather| {
            let back = |(from, to): &(usize, usize)| (*to, *from);
            weather.directions.iter().any(|there| !weather.directions.contains(&back(there)))
        };
        let one_way = drawn.iter().filter(is_one_way).count();
        assert!((20..80).contains(&one_way), "{one_way}");
        assert!(drawn.iter().any(|weather| weather.directions.len() == 20));
    }
}

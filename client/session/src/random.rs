//! The session's own pseudo-random numbers, from a seed that is handed in.

use quoit_protocol::WriteId;

/// 128 random bits. Two sessions with one seed make the same write ids: draw it anew for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64, pub u64);

/// Three SplitMix64 streams (Steele, Lea and Flood, 2014): two make write ids, one makes choices,
/// so that how often a choice was made changes no write id.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    write_high: u64,
    write_low: u64,
    choice: u64,
}

impl Random {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { write_high: seed.0, write_low: seed.1, choice: seed.0.rotate_left(32) ^ !seed.1 }
    }

    pub(crate) fn write_id(&mut self) -> WriteId {
        WriteId(split_mix(&mut self.write_high), split_mix(&mut self.write_low))
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // The bias is bound / 2^64: nothing that a choice of nodes or a jitter could tell.
        let wide = u128::from(split_mix(&mut self.choice)) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the product is below bound * 2^64")
    }

    /// Between half of `length_us` and all of it.
    pub(crate) fn jitter_us(&mut self, length_us: u64) -> u64 {
        length_us - self.below(length_us / 2 + 1)
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_leave_the_write_ids_alone() {
        let (mut one, mut other) = (Random::new(Seed(1, 2)), Random::new(Seed(1, 2)));
        for bound in 1..100 {
            assert!(other.below(bound) < bound);
            let jittered = other.jitter_us(bound);
            assert!(jittered <= bound && jittered >= bound / 2);
        }
        assert_eq!(one.write_id(), other.write_id());
    }
}

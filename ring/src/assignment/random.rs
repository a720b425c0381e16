//! Numbers that look random and are the same in every run: SplitMix64 (Steele, Lea and Flood,
//! "Fast splittable pseudorandom number generators", 2014) from a fixed seed.

/// A stream of draws.
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new() -> Self {
        Self(0)
    }

    /// A number below `bound`, which is at least 1 and at most 2^32; uniform but for one part in
    /// 2^32.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let scaled = u128::from(self.next()) * bound as u128;
        (scaled >> u64::BITS) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

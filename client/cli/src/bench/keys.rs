//! Which keys a benchmark touches.
//!
//! The zipfian distribution is that of YCSB (Cooper et al., 2010): ranks are drawn as in Gray et
//! al., "Quickly Generating Billion-Record Synthetic Databases" (1994), with theta 0.99, and then
//! hashed over the keys, so that the popular ones lie anywhere. As in YCSB the hash may send two
//! ranks to one key.

use super::random::{Random, scramble};

/// How the keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Each key as often as any other.
    Uniform,
    /// A few keys very often: scrambled zipfian, theta 0.99.
    Zipfian,
}

impl Distribution {
    /// The word for the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
        }
    }
}

/// YCSB's skew.
const THETA: f64 = 0.99;
/// So many terms of the zeta sum are added one by one; the rest is an integral.
const EXACT_TERMS: u64 = 1_000_000;

/// Draws key numbers below a count.
#[derive(Debug, Clone)]
pub(crate) enum KeyChooser {
    /// Each equally often.
    Uniform {
        /// How many keys.
        count: u64,
    },
    /// By zipfian rank.
    Zipfian(Zipfian),
}

impl KeyChooser {
    /// A chooser among `count` keys, at least one.
    pub(crate) fn new(distribution: Distribution, count: u64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { count },
            Distribution::Zipfian => Self::Zipfian(Zipfian::new(count)),
        }
    }

    /// The next key's number.
    pub(crate) fn choose(&self, random: &mut Random) -> u64 {
        match self {
            Self::Uniform { count } => random.below(*count),
            Self::Zipfian(zipfian) => scramble(zipfian.rank(random) + 1) % zipfian.count,
        }
    }
}

/// Draws ranks: rank 0 most often, rank k in proportion to 1 / (k + 1)^theta.
#[derive(Debug, Clone)]
pub(crate) struct Zipfian {
    count: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Ranks below `count`, at least one.
    pub(crate) fn new(count: u64) -> Self {
        assert!(count > 0, "there is a key to choose");
        let zeta = zeta(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta_two() / zeta);
        Self { count, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// The next rank.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let place = unit * self.zeta;
        if place < 1.0 || self.count == 1 {
            return 0;
        }
        if place < zeta_two() || self.count == 2 {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

fn zeta_two() -> f64 {
    1.0 + 0.5_f64.powf(THETA)
}

/// The sum of 1 / k^theta for k from 1 to `count`; past the exact terms by Euler and Maclaurin.
fn zeta(count: u64) -> f64 {
    let exact = count.min(EXACT_TERMS);
    let sum: f64 = (1..=exact).map(|k| (k as f64).powf(-THETA)).sum();
    let (from, to) = (exact as f64, count as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    sum + integral + (to.powf(-THETA) - from.powf(-THETA)) / 2.0
}

/// The key of a number: short, and of one width.
pub(crate) fn key_name(number: u64) -> Vec<u8> {
    format!("key{number:012}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipfian_ranks_come_as_often_as_their_law_says() {
        let count = 1_000;
        let zipfian = Zipfian::new(count);
        let mut random = Random::new(42, 0);
        let draws = 400_000;
        let mut seen = vec![0u32; count as usize];
        for _ in 0..draws {
            seen[zipfian.rank(&mut random) as usize] += 1;
        }
        // Gray's formula is exact for ranks 0 and 1 and within a tenth for groups of the others.
        let expected = |ranks: std::ops::Range<u64>| -> f64 {
            ranks.map(|rank| ((rank + 1) as f64).powf(-THETA)).sum::<f64>() / zeta(count)
        };
        for ranks in [0..1, 1..2, 2..10, 10..100, 100..1_000] {
            let got = ranks.clone().map(|rank| f64::from(seen[rank as usize])).sum::<f64>()
                / f64::from(draws);
            let wanted = expected(ranks.clone());
            assert!((got / wanted - 1.0).abs() < 0.1, "{ranks:?}: {got} for {wanted}");
        }
    }

    #[test]
    fn the_long_sum_joins_its_integral_smoothly() {
        let exact: f64 = (1..=3_000_000u64).map(|k| (k as f64).powf(-THETA)).sum();
        assert!((zeta(3_000_000) - exact).abs() < 1e-6);
    }

    #[test]
    fn every_choice_is_a_key_even_of_few() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            for count in [1, 2, 3, 10] {
                let chooser = KeyChooser::new(distribution, count);
                let mut random = Random::new(1, 1);
                assert!((0..1_000).all(|_| chooser.choose(&mut random) < count));
            }
        }
    }

    #[test]
    fn scrambling_spreads_the_popular_ranks() {
        let chooser = KeyChooser::new(Distribution::Zipfian, 100_000);
        let mut random = Random::new(3, 0);
        let mut low_half = 0;
        for _ in 0..50_000 {
            low_half += u32::from(chooser.choose(&mut random) < 50_000);
        }
        assert!((10_000..40_000).contains(&low_half), "{low_half}");
    }
}

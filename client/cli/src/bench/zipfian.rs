//! Zipfian ranks, as in Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994),
//! section 3.2, with YCSB's skew.

use super::random::Random;

/// YCSB's skew.
const THETA: f64 = 0.99;
/// So many terms of the zeta sum are added one by one; the rest is an integral.
const EXACT_TERMS: u64 = 1_000_000;

/// Draws ranks: rank 0 most often, rank k in proportion to 1 / (k + 1)^theta.
#[derive(Debug, Clone)]
pub(super) struct Zipfian {
    count: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Ranks below `count`, at least one.
    pub(super) fn new(count: u64) -> Self {
        assert!(count > 0, "there is a rank to draw");
        let zeta = zeta(count);
        Self { count, zeta, alpha: 1.0 / (1.0 - THETA), eta: eta(count, zeta) }
    }

    /// Ranks below `count` from now on, if that is more. Cheap for a few.
    pub(super) fn grow(&mut self, count: u64) {
        if count <= self.count {
            return;
        }
        self.zeta += (self.count + 1..=count).map(|k| (k as f64).powf(-THETA)).sum::<f64>();
        self.count = count;
        self.eta = eta(count, self.zeta);
    }

    /// The next rank.
    pub(super) fn rank(&self, random: &mut Random) -> u64 {
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

fn eta(count: u64, zeta: f64) -> f64 {
    (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta_two() / zeta)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_their_law_says() {
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
        // As YCSB's repository has it.
        assert!((zeta(10_000_000_000) - 26.469_028_201_783_02).abs() < 1e-5);
    }

    #[test]
    fn one_that_grew_is_like_one_that_was_made_so() {
        let mut grown = Zipfian::new(10);
        grown.grow(5);
        grown.grow(1_000);
        let made = Zipfian::new(1_000);
        assert!((grown.zeta - made.zeta).abs() < 1e-9 && (grown.eta - made.eta).abs() < 1e-9);
        assert_eq!(grown.count, made.count);
    }
}

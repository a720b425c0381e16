//! How many places each member holds: exact water-filling, then rounding.
//!
//! Think of each member as a vessel as wide as its capacity and so high that it holds Q places, one
//! for each virtual node. All places are poured in and find one level. A rack that would hold fewer
//! or more than its part of every virtual node is shut off from the others, and has a level of its
//! own. The levels are fractions, kept exact; the laws about shares hold without a tolerance.

use std::cmp::Ordering;

use super::Racks;
use crate::Member;

/// The least and the most owners of one virtual node that stand on a rack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PerVnode {
    pub(super) least: usize,
    pub(super) most: usize,
}

/// For each rack, of the given size, its part of `owners` distinct ones when they are as even over
/// the racks as can be.
pub(super) fn even_over_racks(sizes: &[usize], owners: usize) -> Vec<PerVnode> {
    let held = |height: usize| sizes.iter().map(|&size| size.min(height)).sum::<usize>();
    let full = (0..=owners).rev().find(|&height| held(height) <= owners);
    let full = full.expect("a height of 0 holds nothing");
    sizes.iter().map(|&size| PerVnode { least: size.min(full), most: size.min(full + 1) }).collect()
}

/// The number of places of each member: its fair share, rounded down or up, `vnodes *
/// owners_per_vnode` in all. A rack's places are its members' fair shares together, rounded down or
/// up, too.
pub(super) fn places(
    members: &[Member],
    racks: &Racks,
    per_vnode: &[PerVnode],
    vnodes: usize,
    owners_per_vnode: usize,
) -> Vec<usize> {
    let nothing = vec![0; members.len()];
    places_near(members, racks, per_vnode, vnodes, owners_per_vnode, &nothing)
}

/// The same, where members hold so many places already: of those that may be rounded up, who holds as
/// many comes first.
pub(super) fn places_near(
    members: &[Member],
    racks: &Racks,
    per_vnode: &[PerVnode],
    vnodes: usize,
    owners_per_vnode: usize,
    held: &[usize],
) -> Vec<usize> {
    let vessels: Vec<Rack> = racks
        .members
        .iter()
        .zip(per_vnode)
        .map(|(indexes, part)| {
            let capacities =
                indexes.iter().map(|&index| u128::from(members[usize::from(index)].capacity));
            Rack::new(capacities.collect(), *part, vnodes as u128)
        })
        .collect();
    let all_places = vnodes * owners_per_vnode;
    let level = common_level(&vessels, vnodes as u128, all_places as u128);

    let holds = |indexes: &Vec<u16>| -> Vec<usize> {
        indexes.iter().map(|&index| held[usize::from(index)]).collect()
    };
    let full: Vec<u128> = vessels.iter().map(|rack| rack.held_times_denominator(level)).collect();
    let held_by_racks: Vec<usize> =
        racks.members.iter().map(|indexes| holds(indexes).iter().sum()).collect();
    let of_racks = round(&full, level.denominator, all_places, &held_by_racks);
    let mut places = vec![0; members.len()];
    for ((rack, indexes), of_rack) in vessels.iter().zip(&racks.members).zip(of_racks) {
        let level = rack.own_level(level);
        let fair: Vec<u128> =
            rack.capacities.iter().map(|&capacity| rack.fair(capacity, level)).collect();
        let rounded = round(&fair, level.denominator, of_rack, &holds(indexes));
        for (&index, count) in indexes.iter().zip(rounded) {
            places[usize::from(index)] = count;
        }
    }
    places
}

/// Places for each unit of capacity, as an exact fraction. With at most 2^16 members, 2^32 of
/// capacity each and 2^16 virtual nodes, no product of two parts comes near 2^128.
#[derive(Debug, Clone, Copy)]
struct Level {
    numerator: u128,
    denominator: u128,
}

impl Level {
    fn compare(self, other: Self) -> Ordering {
        (self.numerator * other.denominator).cmp(&(other.numerator * self.denominator))
    }

    fn max(self, other: Self) -> Self {
        if self.compare(other).is_lt() { other } else { self }
    }

    fn min(self, other: Self) -> Self {
        if self.compare(other).is_gt() { other } else { self }
    }
}

/// A rack as a row of vessels.
struct Rack {
    /// The members' capacities.
    capacities: Vec<u128>,
    /// The most places that a member holds.
    vnodes: u128,
    /// The least and the most places of the rack, and the levels at which it holds them.
    least: u128,
    most: u128,
    lowest: Level,
    highest: Level,
}

impl Rack {
    fn new(capacities: Vec<u128>, part: PerVnode, vnodes: u128) -> Self {
        let (least, most) = (part.least as u128 * vnodes, part.most as u128 * vnodes);
        let lowest = level_that_holds(&capacities, vnodes, least);
        let highest = level_that_holds(&capacities, vnodes, most);
        Self { capacities, vnodes, least, most, lowest, highest }
    }

    /// The level in this rack when the common one is `level`.
    fn own_level(&self, level: Level) -> Level {
        level.max(self.lowest).min(self.highest)
    }

    /// The fair share of a member at a level, times the level's denominator.
    fn fair(&self, capacity: u128, level: Level) -> u128 {
        (capacity * level.numerator).min(self.vnodes * level.denominator)
    }

    /// What the rack holds when the common level is `level`, times that level's denominator.
    fn held_times_denominator(&self, level: Level) -> u128 {
        let open: u128 = self.capacities.iter().map(|&capacity| self.fair(capacity, level)).sum();
        open.clamp(self.least * level.denominator, self.most * level.denominator)
    }

    /// What the rack holds at and just above a common level: so many places, and so many more for
    /// each unit that the level rises.
    fn line_above(&self, level: Level) -> (u128, u128) {
        if level.compare(self.lowest).is_lt() {
            return (self.least, 0);
        }
        if level.compare(self.highest).is_ge() {
            return (self.most, 0);
        }
        let full = |capacity: u128| capacity * level.numerator >= self.vnodes * level.denominator;
        self.capacities.iter().fold((0, 0), |(held, slope), &capacity| {
            if full(capacity) { (held + self.vnodes, slope) } else { (held, slope + capacity) }
        })
    }
}

/// The level at which members of these capacities, each holding at most `vnodes`, hold `places`.
fn level_that_holds(capacities: &[u128], vnodes: u128, places: u128) -> Level {
    let mut descending = capacities.to_vec();
    descending.sort_unstable_by(|a, b| b.cmp(a));
    let mut level = Level { numerator: places, denominator: descending.iter().sum() };
    for widest in descending {
        // Whoever is widest fills up first; the rest share what is left.
        if widest * level.numerator <= vnodes * level.denominator {
            return level;
        }
        level.numerator -= vnodes;
        level.denominator -= widest;
    }
    unreachable!("the members of a rack hold at most {vnodes} places each");
}

/// The level at which all racks together hold `places`. What they hold rises with the level in
/// straight lines, with a bend where a member fills up or a rack is shut off or opened: find the
/// last bend at which they hold no more than `places`, and go on along the line from there.
fn common_level(racks: &[Rack], vnodes: u128, places: u128) -> Level {
    let mut bends: Vec<Level> = Vec::new();
    for rack in racks {
        bends.extend([rack.lowest, rack.highest]);
        bends.extend(
            rack.capacities
                .iter()
                .map(|&capacity| Level { numerator: vnodes, denominator: capacity }),
        );
    }
    bends.sort_by(|a, b| a.compare(*b));
    let after = bends.partition_point(|&bend| {
        let held: u128 = racks.iter().map(|rack| rack.held_times_denominator(bend)).sum();
        held <= places * bend.denominator
    });
    let bend = bends[after.checked_sub(1).expect("the lowest level holds the least of every rack")];
    let (held, slope) = racks
        .iter()
        .map(|rack| rack.line_above(bend))
        .fold((0, 0), |(held, slope), line| (held + line.0, slope + line.1));
    if slope == 0 {
        return bend;
    }
    Level { numerator: places - held, denominator: slope }
}

/// Rounds fractions of one denominator down or up to whole numbers of the sum `total`. Those are
/// rounded up that hold so much already, then those of the greatest remainders, and of equals the
/// first.
fn round(numerators: &[u128], denominator: u128, total: usize, held: &[usize]) -> Vec<usize> {
    let whole = |numerator: u128| {
        usize::try_from(numerator / denominator).expect("a part of the total, which is a usize")
    };
    let mut rounded: Vec<usize> = numerators.iter().map(|&numerator| whole(numerator)).collect();
    let mut by_remainder: Vec<usize> = (0..numerators.len()).collect();
    by_remainder.sort_by_key(|&at| {
        let remainder = numerators[at] % denominator;
        std::cmp::Reverse((remainder > 0 && held[at] > rounded[at], remainder))
    });
    let missing = total - rounded.iter().sum::<usize>();
    for &at in &by_remainder[..missing] {
        assert!(!numerators[at].is_multiple_of(denominator), "a whole number is not rounded up");
        rounded[at] += 1;
    }
    rounded
}

//! Partitions: whose packets each node does not get.

use super::names;

/// For each node those that it does not hear, and what that is, in a few words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cuts {
    pub(super) cuts: Vec<Vec<usize>>,
    pub(super) told: String,
}

fn cuts(count: usize, told: String, hears: impl Fn(usize, usize) -> bool) -> Cuts {
    let unheard =
        |to: usize| (0..count).filter(|from| *from != to && !hears(to, *from)).collect::<Vec<_>>();
    Cuts { cuts: (0..count).map(unheard).collect(), told }
}

/// One alone.
pub(super) fn one(count: usize, alone: usize) -> Cuts {
    let told = format!("{} is alone", names(&[alone]));
    cuts(count, told, |to, from| to != alone && from != alone)
}

fn parts(order: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (minority, majority) = order.split_at(order.len() / 2);
    let sorted = |part: &[usize]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    };
    (sorted(minority), sorted(majority))
}

/// Two parts.
pub(super) fn halves(order: &[usize]) -> Cuts {
    let (minority, majority) = parts(order);
    let told = format!("{} | {}", names(&minority), names(&majority));
    cuts(order.len(), told, |to, from| minority.contains(&to) == minority.contains(&from))
}

/// Each hears a majority (itself counts), and no two hear the same one: those that lie at most half a
/// majority away on a ring.
pub(super) fn ring(order: &[usize]) -> Cuts {
    let count = order.len();
    let reach = (count / 2).div_ceil(2);
    let place = |node: usize| order.iter().position(|other| *other == node).unwrap_or(0);
    let told = format!("majority ring {}", names(order));
    cuts(count, told, |to, from| {
        let distance = place(to).abs_diff(place(from));
        distance.min(count - distance) <= reach
    })
}

/// Two halves, and one that hears both.
pub(super) fn bridge(order: &[usize]) -> Cuts {
    let Some((bridge, rest)) = order.split_first() else { return halves(order) };
    let (first, second) = parts(rest);
    let told = format!("{} | {} over {}", names(&first), names(&second), names(&[*bridge]));
    cuts(order.len(), told, |to, from| {
        to == *bridge || from == *bridge || first.contains(&to) == first.contains(&from)
    })
}

/// The majority does not hear the others, but is heard.
pub(super) fn one_way(order: &[usize]) -> Cuts {
    let (minority, majority) = parts(order);
    let told = format!("{} do not hear {}", names(&majority), names(&minority));
    cuts(order.len(), told, |to, from| minority.contains(&to) || majority.contains(&from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [usize; 5] = [3, 1, 4, 0, 2];

    #[test]
    fn who_is_alone_hears_nobody_and_is_not_heard() {
        assert_eq!(one(3, 1).cuts, [vec![1], vec![0, 2], vec![1]]);
    }

    #[test]
    fn halves_do_not_hear_each_other() {
        let Cuts { cuts, told } = halves(&ORDER);
        assert_eq!(told, "n2 n4 | n1 n3 n5");
        assert_eq!(cuts, [vec![1, 3], vec![0, 2, 4], vec![1, 3], vec![0, 2, 4], vec![1, 3]]);
    }

    #[test]
    fn on_a_ring_each_hears_another_majority() {
        let cuts = ring(&ORDER).cuts;
        assert!(cuts.iter().all(|unheard| unheard.len() == 2), "{cuts:?}");
        let distinct: std::collections::BTreeSet<_> = cuts.iter().collect();
        assert_eq!(distinct.len(), 5);
        for (to, unheard) in cuts.iter().enumerate() {
            assert!(unheard.iter().all(|from| cuts[*from].contains(&to)), "{cuts:?}");
        }
    }

    #[test]
    fn a_bridge_hears_all() {
        let cuts = bridge(&ORDER).cuts;
        assert!(cuts[3].is_empty());
        assert!(cuts.iter().enumerate().all(|(to, unheard)| to == 3 || unheard.len() == 2));
    }

    #[test]
    fn one_way_cuts_one_direction() {
        let cuts = one_way(&ORDER).cuts;
        assert_eq!(cuts, [vec![1, 3], vec![], vec![1, 3], vec![], vec![1, 3]]);
    }
}

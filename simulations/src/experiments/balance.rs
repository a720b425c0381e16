//! How evenly members share the ring.

use super::placement::{
    REPLICATION, arcs_of, bounded_loads, fitting, max_over_mean, members, quoit, random_tokens,
};
use super::table::{Cell, Table};

/// One row for each number of members.
pub(super) fn make(sizes: &[usize], seconds: &dyn Fn() -> f64) -> Table {
    let rows = sizes.iter().map(|size| row(*size, seconds)).collect();
    Table {
        title: "Load of the fullest member over the mean (N=3, five racks, all alike)".to_owned(),
        columns: vec![
            "members",
            "Q",
            "quoit",
            "quoit, first places",
            "racks violated",
            "planned in s",
            "bounded loads",
            "16 tokens",
            "256 tokens",
            "16 tokens, theory",
        ],
        plotted: vec![2, 6, 7, 8],
        axis: "fullest member / mean",
        rows,
        notes: vec![
            "Quoit: places are whole, so the fullest has at most one more than its share: \
             1 + members / (3 Q). Q was chosen to give 50 places a member, where 65,536 are enough."
                .to_owned(),
            "Tokens at random: a member's share is a sum of v exponential gaps, the fullest of n is \
             about 1 + sqrt(2 ln n / v) (Karger et al., 1997; Dynamo, section 6.2, strategy 1). \
             Bounded loads: 1.02 by construction, where that is a whole place (Mirrokni et al., 2018)."
                .to_owned(),
        ],
    }
}

fn row(size: usize, seconds: &dyn Fn() -> f64) -> Vec<Cell> {
    let (members, vnodes) = (members(size), fitting(size));
    let before = seconds();
    let owners = quoit(&members, vnodes);
    let took = seconds() - before;
    let racks = members.iter().map(|member| &member.zone.rack);
    let rack_count = racks.collect::<std::collections::BTreeSet<_>>().len();
    let is_violated = |row: &&Vec<u16>| {
        let racks = row.iter().map(|owner| &members[usize::from(*owner)].zone.rack);
        let distinct = racks.collect::<std::collections::BTreeSet<_>>().len();
        distinct < rack_count.min(REPLICATION)
    };
    let violated = owners.iter().filter(is_violated).count();
    let mut firsts = vec![0u64; size];
    owners.iter().for_each(|row| firsts[usize::from(row[0])] += 1);
    let most = firsts.iter().max().copied().unwrap_or(0) as f64;
    let firsts = most * size as f64 / f64::from(vnodes.get());
    let theory = 1.0 + (2.0 * (size as f64).ln() / 16.0).sqrt();
    let of = |arcs: &[super::placement::Arc]| Cell::Number(max_over_mean(&members, arcs), 3);
    vec![
        Cell::Count(size as u64),
        Cell::Count(vnodes.get().into()),
        of(&arcs_of(&members, &owners)),
        Cell::Number(firsts, 3),
        Cell::Count(violated as u64),
        Cell::Number(took, 2),
        of(&bounded_loads(&members, vnodes)),
        of(&random_tokens(&members, 16)),
        of(&random_tokens(&members, 256)),
        Cell::Number(theory, 2),
    ]
}

//! How much moves when members come and go.

use quoit_ring::Member;
use quoit_ring::assignment::reassign;

use super::placement::{REPLICATION, bounded_loads, fitting, members, moved, quoit, random_tokens};
use super::table::{Cell, Table};

/// One row for each number of members.
pub(super) fn make(sizes: &[usize], seconds: &dyn Fn() -> f64) -> Table {
    let rows = sizes.iter().map(|size| row(*size, seconds)).collect();
    Table {
        title: "What moves, over what must: one member joins, leaves, or their number doubles (N=3)"
            .to_owned(),
        columns: vec![
            "members",
            "Q",
            "join",
            "leave",
            "double",
            "planned in s",
            "bounded loads, join",
            "16 tokens, join",
            "256 tokens, join",
            "256 tokens, leave",
        ],
        plotted: vec![2, 3, 6, 7, 8],
        axis: "moved / fair share",
        rows,
        notes: vec![
            "1 is the least: who joins must be given its fair share, who leaves takes away what it \
             held, and whoever doubles gives a half. Below 1 a newcomer has less than its share."
                .to_owned(),
            "Racks stay even, so with a sixth member on five racks, or a fourth on three, more must \
             move than the newcomer gets. Consistent hashing moves the newcomer's arcs only, whatever \
             they happen to be; under bounded loads full members pass places on, and moves cascade \
             (Mirrokni et al., 2018: O(1/epsilon^2) for each that must)."
                .to_owned(),
        ],
    }
}

fn row(size: usize, seconds: &dyn Fn() -> f64) -> Vec<Cell> {
    let vnodes = fitting(2 * size);
    let (fewer, more, twice) = (members(size), members(size + 1), members(2 * size));
    let owners = quoit(&fewer, vnodes);
    let places = (vnodes.get() as usize * REPLICATION) as f64;
    let before = seconds();
    let plan = |old: &[Member], owners: &[Vec<u16>], new: &[Member]| {
        reassign(old, owners, new, REPLICATION as u8).expect("the members are sound")
    };
    let join = plan(&fewer, &owners, &more);
    let leave = plan(&more, &join.owners, &fewer);
    let double = plan(&fewer, &owners, &twice);
    let took = seconds() - before;
    let held_by_newcomer = {
        let newcomer = u16::try_from(size).expect("at most 2,000");
        join.owners.iter().flatten().filter(|owner| **owner == newcomer).count()
    };
    let fair = REPLICATION as f64 / (size + 1) as f64;
    let random = |count: usize| {
        let (before, after) = (random_tokens(&fewer, count), random_tokens(&more, count));
        let forth = moved(&before, &after, false) / fair;
        (forth, moved(&after, &before, false) / fair)
    };
    let bounded = moved(&bounded_loads(&fewer, vnodes), &bounded_loads(&more, vnodes), true) / fair;
    let (few, many) = (random(16), random(256));
    vec![
        Cell::Count(size as u64),
        Cell::Count(vnodes.get().into()),
        Cell::Number(join.moved as f64 / (places / (size + 1) as f64), 3),
        Cell::Number(leave.moved as f64 / held_by_newcomer as f64, 3),
        Cell::Number(double.moved as f64 / (places / 2.0), 3),
        Cell::Number(took, 2),
        Cell::Number(bounded, 2),
        Cell::Number(few.0, 2),
        Cell::Number(many.0, 2),
        Cell::Number(many.1, 2),
    ]
}

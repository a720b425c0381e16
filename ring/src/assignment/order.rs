//! Who comes first: the order of each virtual node's owners.
//!
//! Every member should hold the first, the second, ... place equally often, because the first owner
//! coordinates most and a table of a smaller N uses only the first places. Cut each member's virtual
//! nodes into runs of N (the last may be shorter) and let it hold each place at most once in a run:
//! that is an edge colouring of the graph between virtual nodes and runs with the places as colours.
//! No vertex has more than N edges, so N colours are enough (Kőnig, 1916), and the proof is the
//! algorithm: where no colour is free at both ends, two colours change along one path.

use super::Racks;
use super::random::Draws;

/// Nobody is there yet.
const FREE: u32 = u32::MAX;

/// Orders the owners of each virtual node so that each member, of `places` in all, holds every place
/// in one of N of them, rounded down or up.
pub(super) fn balance_places(owners: &mut [Vec<u16>], places: &[usize], draws: &mut Draws) {
    let colours = owners[0].len();
    let mut run_starts = Vec::with_capacity(places.len());
    let mut owner_of_run = Vec::new();
    for (member, count) in (0..=u16::MAX).zip(places) {
        run_starts.push(owner_of_run.len());
        owner_of_run.extend(std::iter::repeat_n(member, count.div_ceil(colours)));
    }
    let mut colouring = Colouring {
        colours,
        run_at: vec![FREE; owners.len() * colours],
        vnode_at: vec![FREE; owner_of_run.len() * colours],
    };
    let mut met = vec![0; places.len()];
    for (vnode, row) in owners.iter().enumerate() {
        for &member in row {
            let member = usize::from(member);
            let run = run_starts[member] + met[member] / colours;
            met[member] += 1;
            colouring.add(vnode, run, draws);
        }
    }
    for (row, runs) in owners.iter_mut().zip(colouring.run_at.chunks(colours)) {
        for (owner, &run) in row.iter_mut().zip(runs) {
            *owner = owner_of_run[run as usize];
        }
    }
}

/// Edges between virtual nodes and runs, each with a colour that no other edge at either end has.
struct Colouring {
    colours: usize,
    /// For each virtual node and colour the run at the other end.
    run_at: Vec<u32>,
    /// For each run and colour the virtual node at the other end.
    vnode_at: Vec<u32>,
}

impl Colouring {
    /// Adds an edge. Both ends have a colour free, but perhaps not the same.
    fn add(&mut self, vnode: usize, run: usize, draws: &mut Draws) {
        // The search starts anywhere, so that second owners are not always the same after a first.
        let start = draws.below(self.colours);
        let turn = (start..self.colours).chain(0..start);
        let free_at_vnode = |colour: &usize| self.run_at[vnode * self.colours + colour] == FREE;
        let free_at_run = |colour: &usize| self.vnode_at[run * self.colours + colour] == FREE;
        let of_vnode = turn.clone().find(free_at_vnode);
        let of_vnode = of_vnode.expect("a virtual node has as many edges as colours");
        let of_run = turn.clone().find(free_at_run);
        let of_run = of_run.expect("a run has no more edges than colours");
        let of_both = turn.clone().find(|colour| free_at_vnode(colour) && free_at_run(colour));
        if of_both.is_none() {
            self.exchange(run, of_vnode, of_run);
        }
        self.set(vnode, run, of_both.unwrap_or(of_vnode));
    }

    /// Exchanges two colours along the path that begins at a run with an edge of colour `wanted`,
    /// so that `wanted` is free there. The path comes to virtual nodes by edges of that colour, so
    /// never to one where it is free: what is free there stays free.
    fn exchange(&mut self, run: usize, wanted: usize, other: usize) {
        let mut path = Vec::new();
        let mut run_now = run;
        loop {
            let vnode = self.vnode_at[run_now * self.colours + wanted];
            if vnode == FREE {
                break;
            }
            path.push((vnode as usize, run_now, other));
            let run_next = self.run_at[vnode as usize * self.colours + other];
            if run_next == FREE {
                break;
            }
            run_now = run_next as usize;
            path.push((vnode as usize, run_now, wanted));
        }
        for &(vnode, run, colour_new) in &path {
            let colour_old = if colour_new == wanted { other } else { wanted };
            self.run_at[vnode * self.colours + colour_old] = FREE;
            self.vnode_at[run * self.colours + colour_old] = FREE;
        }
        for (vnode, run, colour_new) in path {
            self.set(vnode, run, colour_new);
        }
    }

    fn set(&mut self, vnode: usize, run: usize, colour: usize) {
        let fits = "virtual nodes and members are at most 2^16 each, so runs are at most 2^17";
        self.run_at[vnode * self.colours + colour] = u32::try_from(run).expect(fits);
        self.vnode_at[run * self.colours + colour] = u32::try_from(vnode).expect(fits);
    }
}

/// Evens out who comes first with as few trades as can be: each member holds one in N of its places as
/// a first one, rounded down or up. Who comes first at a virtual node trades with one of the others;
/// where no single trade helps, several along a path do.
pub(super) fn even_first_places(owners: &mut [Vec<u16>], members: usize) {
    let width = owners.first().map_or(1, Vec::len).max(1);
    let mut held = vec![0usize; members];
    let mut firsts: Vec<Vec<usize>> = vec![Vec::new(); members];
    for (vnode, row) in owners.iter().enumerate() {
        row.iter().for_each(|&member| held[usize::from(member)] += 1);
        if let Some(&first) = row.first() {
            firsts[usize::from(first)].push(vnode);
        }
    }
    let most = |member: usize| held[member].div_ceil(width);
    let least = |member: usize| held[member] / width;
    let mut next = 0;
    while next < members {
        let has_too_many = firsts[next].len() > most(next);
        let has_too_few = firsts[next].len() < least(next);
        let path = match (has_too_many, has_too_few) {
            (false, false) => None,
            (true, _) => path(owners, &firsts, next, true, |it| firsts[it].len() < most(it)),
            (_, true) => path(owners, &firsts, next, false, |it| firsts[it].len() > least(it)),
        };
        let Some(path) = path else {
            next += 1;
            continue;
        };
        for (vnode, from, to) in path {
            let row = &mut owners[vnode];
            let at = row.iter().position(|&member| usize::from(member) == to);
            row.swap(0, at.expect("it is an owner"));
            firsts[from].retain(|held| *held != vnode);
            firsts[to].push(vnode);
        }
    }
}

/// The shortest way on which a member gives a first place away (or, with `gives` false, gets one), that
/// ends at one which may: (virtual node, who came first, who comes first).
fn path(
    owners: &[Vec<u16>],
    firsts: &[Vec<usize>],
    start: usize,
    gives: bool,
    is_end: impl Fn(usize) -> bool,
) -> Option<Vec<(usize, usize, usize)>> {
    let mut came_by: Vec<Option<(usize, usize)>> = vec![None; firsts.len()];
    let mut others_of: Vec<Vec<usize>> = Vec::new();
    if !gives {
        others_of = vec![Vec::new(); firsts.len()];
        for (vnode, row) in owners.iter().enumerate() {
            row.iter().skip(1).for_each(|&other| others_of[usize::from(other)].push(vnode));
        }
    }
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(member) = queue.pop_front() {
        if member != start && is_end(member) {
            let (mut path, mut at) = (Vec::new(), member);
            while at != start {
                let (vnode, before) = came_by[at].expect("the way leads back");
                path.push(if gives { (vnode, before, at) } else { (vnode, at, before) });
                at = before;
            }
            return Some(path);
        }
        let vnodes = if gives { &firsts[member] } else { &others_of[member] };
        for &vnode in vnodes {
            let row = &owners[vnode];
            let next = if gives { &row[1..] } else { &row[..1] };
            for &other in next {
                let other = usize::from(other);
                if other != start && came_by[other].is_none() {
                    came_by[other] = Some((vnode, member));
                    queue.push_back(other);
                }
            }
        }
    }
    None
}

/// Puts the first owner of each rack before the second ones, those before the third ones, and so on,
/// so that the first 1, 2, 3, ... owners are even over the racks. The first owner stays the first.
pub(super) fn alternate_racks(row: &mut [u16], racks: &Racks) {
    let mut met = vec![0; racks.members.len()];
    let mut ranked: Vec<(usize, u16)> = Vec::with_capacity(row.len());
    for &member in row.iter() {
        let met = &mut met[racks.rack_of(member)];
        ranked.push((*met, member));
        *met += 1;
    }
    ranked.sort_by_key(|&(rank, _)| rank);
    for (owner, (_, member)) in row.iter_mut().zip(ranked) {
        *owner = member;
    }
}

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

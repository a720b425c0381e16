//! The plan from one member set to the next: owners that are as good as new ones, and as few places
//! moved as can be (the design's section 5; Garage's layouts, which solve the same problem as a flow of
//! minimal cost, are the model of the field).
//!
//! The number of places of each member is that of [`super::assign`], rounded in favour of what it holds
//! already. From the old owners, whoever has left and whatever breaks the rack laws is taken away, and
//! then
//! 1. each gap goes to the member that lacks most places and may take it;
//! 2. places go from members that hold too many to those that hold too few. Where none may go straight,
//!    it goes by way of a third member (an augmenting path, found breadth first, so the shortest);
//! 3. first places are evened out by trades within a virtual node, which move no data.
//!
//! A place moves at most once in steps 1 and 2, but for the ones on augmenting paths, which are rare:
//! so the sum of what members lack is what is moved, and no plan can move less.
//!
//! Joining 300 members with 16,384 virtual nodes, leaving them, and doubling their number take 0.16 s
//! together; the same for 1,000 members with 65,536 virtual nodes 2.0 s
//! (`cargo run --release -p quoit-simulations -- experiment movement`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::random::Draws;
use super::share::{PerVnode, even_over_racks};
use super::{AssignmentError, Racks, check, may_replace, order, share};
use crate::{Member, NodeId};

/// Owners for another member set, and what it takes to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For each virtual node its ordered owners, as indexes into the new members.
    pub owners: Vec<Vec<u16>>,
    /// Places whose owner must be given a copy: (virtual node, owner) that was not one before.
    pub moved: usize,
}

/// The owners for `members` after `old_owners`, which are indexes into `old_members`, with as few
/// places moved as can be. The laws of [`super::assign`] hold for them, but that who shares virtual
/// nodes with whom depends on what was before, and that only first places are even among the members.
///
/// The result is a function of the arguments.
///
/// # Errors
///
/// [`AssignmentError`] names the argument that is out of range.
///
/// # Panics
/// If `old_owners` are none for `old_members`: a record's owners were checked with it.
pub fn reassign(
    old_members: &[Member],
    old_owners: &[Vec<u16>],
    members: &[Member],
    replication: u8,
) -> Result<Plan, AssignmentError> {
    check(members, replication)?;
    let racks = Racks::of(members);
    let width = usize::from(replication).min(members.len());
    let per_vnode = even_over_racks(&racks.sizes(), width);

    let index_of: BTreeMap<NodeId, u16> =
        (0..=u16::MAX).zip(members).map(|(index, member)| (member.id, index)).collect();
    let new_index = |old: &u16| index_of.get(&old_members[usize::from(*old)].id).copied();
    let rows: Vec<Vec<u16>> =
        old_owners.iter().map(|row| row.iter().filter_map(new_index).collect()).collect();
    let mut held = vec![0; members.len()];
    rows.iter().flatten().for_each(|&member| held[usize::from(member)] += 1);
    let places = share::places_near(members, &racks, &per_vnode, rows.len(), width, &held);

    let before: Vec<BTreeSet<u16>> = rows.iter().map(|row| row.iter().copied().collect()).collect();
    let mut moving = Moving::new(&racks, &per_vnode, &places, rows, width);
    (0..moving.rows.len()).for_each(|vnode| moving.trim(vnode));
    (0..moving.rows.len()).for_each(|vnode| moving.fill(vnode));
    moving.level();
    let mut owners = moving.rows;
    order::even_first_places(&mut owners, members.len());
    if racks.members.len() < width {
        owners.iter_mut().for_each(|row| order::alternate_racks(row, &racks));
    }
    let is_new = |(row, before): (&Vec<u16>, &BTreeSet<u16>)| {
        row.iter().filter(|member| !before.contains(member)).count()
    };
    let moved = owners.iter().zip(&before).map(is_new).sum();
    Ok(Plan { owners, moved })
}

/// Owners on their way.
struct Moving<'a> {
    racks: &'a Racks,
    per_vnode: &'a [PerVnode],
    /// What each member should hold.
    places: &'a [usize],
    width: usize,
    rows: Vec<Vec<u16>>,
    /// For each member its virtual nodes, in no order.
    vnodes_of: Vec<Vec<usize>>,
    /// Members by how many places they hold too many (below zero: too few).
    by_surplus: BTreeSet<(isize, u16)>,
    draws: Draws,
}

impl<'a> Moving<'a> {
    fn new(
        racks: &'a Racks,
        per_vnode: &'a [PerVnode],
        places: &'a [usize],
        rows: Vec<Vec<u16>>,
        width: usize,
    ) -> Self {
        let mut vnodes_of = vec![Vec::new(); places.len()];
        for (vnode, row) in rows.iter().enumerate() {
            row.iter().for_each(|&member| vnodes_of[usize::from(member)].push(vnode));
        }
        let mut moving = Self {
            racks,
            per_vnode,
            places,
            width,
            rows,
            vnodes_of,
            by_surplus: BTreeSet::new(),
            draws: Draws::new(),
        };
        let members = (0..=u16::MAX).take(places.len());
        moving.by_surplus = members.map(|member| (moving.surplus(member), member)).collect();
        moving
    }

    fn surplus(&self, member: u16) -> isize {
        let at = usize::from(member);
        self.vnodes_of[at].len().cast_signed() - self.places[at].cast_signed()
    }

    fn change(&mut self, member: u16, change: impl FnOnce(&mut Vec<usize>)) {
        self.by_surplus.remove(&(self.surplus(member), member));
        change(&mut self.vnodes_of[usize::from(member)]);
        self.by_surplus.insert((self.surplus(member), member));
    }

    fn take(&mut self, vnode: usize, member: u16) {
        self.rows[vnode].retain(|owner| *owner != member);
        self.lose(vnode, member);
    }

    fn lose(&mut self, vnode: usize, member: u16) {
        self.change(member, |vnodes| {
            let at = vnodes.iter().position(|held| *held == vnode);
            vnodes.swap_remove(at.expect("it holds the virtual node"));
        });
    }

    fn replace(&mut self, vnode: usize, leaving: u16, coming: u16) {
        for owner in &mut self.rows[vnode] {
            if *owner == leaving {
                *owner = coming;
            }
        }
        self.lose(vnode, leaving);
        self.change(coming, |vnodes| vnodes.push(vnode));
    }

    /// How many owners the racks lack that hold fewer than they must.
    fn lacking(&self, vnode: usize) -> usize {
        let parts = self.per_vnode.iter().enumerate();
        parts.map(|(rack, part)| part.least.saturating_sub(self.count(vnode, rack))).sum()
    }

    fn count(&self, vnode: usize, rack: usize) -> usize {
        self.racks.count(&self.rows[vnode], rack)
    }

    /// Takes away what breaks the rack laws or is too many: of those that may go, whoever holds most
    /// too many.
    fn trim(&mut self, vnode: usize) {
        loop {
            let over = |rack: usize| self.count(vnode, rack) > self.per_vnode[rack].most;
            let spare = |rack: usize| self.count(vnode, rack) > self.per_vnode[rack].least;
            let row = &self.rows[vnode];
            let of_racks_over = row.iter().filter(|&&it| over(self.racks.rack_of(it)));
            let is_short = self.lacking(vnode) > self.width.saturating_sub(row.len());
            let of_spare = row.iter().filter(|&&it| spare(self.racks.rack_of(it)));
            let by_surplus = |member: &&u16| (self.surplus(**member), Reverse(**member));
            let goes = match of_racks_over.max_by_key(by_surplus) {
                Some(member) => Some(*member),
                None if row.len() > self.width || is_short => {
                    of_spare.max_by_key(by_surplus).copied()
                }
                None => None,
            };
            match goes {
                Some(member) => self.take(vnode, member),
                None => return,
            }
        }
    }

    /// Fills the gaps with whoever lacks most.
    fn fill(&mut self, vnode: usize) {
        while self.rows[vnode].len() < self.width {
            let must = self.lacking(vnode) == self.width - self.rows[vnode].len();
            let may_come = |member: u16| {
                let rack = self.racks.rack_of(member);
                let part = self.per_vnode[rack];
                let most = if must { part.least } else { part.most };
                self.count(vnode, rack) < most && !self.rows[vnode].contains(&member)
            };
            let comes = self.by_surplus.iter().map(|(_, member)| *member).find(|it| may_come(*it));
            let member = comes.expect("the racks' parts of a virtual node add up");
            self.rows[vnode].push(member);
            self.change(member, |vnodes| vnodes.push(vnode));
        }
    }

    /// Brings every member to what it should hold.
    fn level(&mut self) {
        let mut given_up = BTreeSet::new();
        loop {
            let lacks = self.by_surplus.iter().take_while(|(surplus, _)| *surplus < 0);
            let next = lacks.map(|(_, member)| *member).find(|member| !given_up.contains(member));
            let Some(member) = next else { return };
            match self.straight_to(member) {
                Some((vnode, from)) => self.replace(vnode, from, member),
                None => match self.path_to(member) {
                    Some(path) => {
                        path.into_iter()
                            .for_each(|(vnode, from, to)| self.replace(vnode, from, to));
                    }
                    None => {
                        given_up.insert(member);
                    }
                },
            }
        }
    }

    fn may_replace(&self, vnode: usize, leaving: u16, coming: u16) -> bool {
        may_replace(&self.rows[vnode], leaving, coming, self.racks, self.per_vnode)
    }

    /// A place that a member with too many may give to this one: of whoever has most too many, any.
    fn straight_to(&mut self, member: u16) -> Option<(usize, u16)> {
        let over = self.by_surplus.iter().rev().take_while(|(surplus, _)| *surplus > 0);
        let over: Vec<u16> = over.map(|(_, member)| *member).collect();
        for from in over {
            let count = self.vnodes_of[usize::from(from)].len();
            let start = self.draws.below(count);
            let found = (start..count).chain(0..start).find_map(|at| {
                let vnode = self.vnodes_of[usize::from(from)][at];
                self.may_replace(vnode, from, member).then_some(vnode)
            });
            if let Some(vnode) = found {
                return Some((vnode, from));
            }
        }
        None
    }

    /// The shortest way from a member with too many to this one, over virtual nodes that differ: the
    /// replacements (virtual node, from, to).
    fn path_to(&self, member: u16) -> Option<Vec<(usize, u16, u16)>> {
        let mut step_to: BTreeMap<u16, (usize, u16)> = BTreeMap::new();
        let mut queue = VecDeque::from([member]);
        while let Some(to) = queue.pop_front() {
            let used = self.path_of(&step_to, member, to);
            for (vnode, row) in self.rows.iter().enumerate() {
                if used.iter().any(|(taken, ..)| *taken == vnode) {
                    continue;
                }
                for &from in row {
                    let is_new = from != member && !step_to.contains_key(&from);
                    if !is_new || !self.may_replace(vnode, from, to) {
                        continue;
                    }
                    step_to.insert(from, (vnode, to));
                    if self.surplus(from) > 0 {
                        return Some(self.path_of(&step_to, member, from));
                    }
                    queue.push_back(from);
                }
            }
        }
        None
    }

    fn path_of(
        &self,
        step_to: &BTreeMap<u16, (usize, u16)>,
        end: u16,
        mut from: u16,
    ) -> Vec<(usize, u16, u16)> {
        let mut path = Vec::new();
        while from != end {
            let (vnode, to) = step_to[&from];
            path.push((vnode, from, to));
            from = to;
        }
        path
    }
}

#[cfg(test)]
mod tests;

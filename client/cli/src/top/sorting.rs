//! By which column a pane is sorted.

use super::panes::{Pane, Rank, Rows};

/// Each pane's order; at first as its rows come.
#[derive(Debug, Default)]
pub(super) struct Sorting {
    /// By place in [`Pane::ALL`]: the column, and whether the greatest comes first.
    chosen: [Option<(usize, bool)>; Pane::ALL.len()],
}

impl Sorting {
    /// Sorts by the next column, numbers from the greatest; after the last one, not at all.
    pub(super) fn next_column(&mut self, at: usize, rows: &Rows) {
        let next = self.chosen[at].map_or(0, |(column, _)| column + 1);
        self.chosen[at] =
            (next < rows.headings.len()).then(|| (next, rows.numeric.contains(&next)));
    }

    /// Turns the order round.
    pub(super) fn turn_round(&mut self, at: usize) {
        if let Some((_, is_descending)) = &mut self.chosen[at] {
            *is_descending = !*is_descending;
        }
    }

    /// The column that a pane is sorted by, and whether the greatest comes first.
    pub(super) fn of(&self, at: usize) -> Option<(usize, bool)> {
        self.chosen[at]
    }

    /// Brings rows into order.
    pub(super) fn apply(&self, at: usize, rows: &mut Rows) {
        let Some((column, is_descending)) = self.chosen[at] else { return };
        rows.rows.sort_by(|one, other| {
            let (one, other) = (&one[column].rank, &other[column].rank);
            let order = if is_descending { other.cmp(one) } else { one.cmp(other) };
            // What is not known comes last, either way.
            (*one == Rank::Unknown).cmp(&(*other == Rank::Unknown)).then(order)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::panes::Cell;
    use super::*;

    fn rows() -> Rows {
        let cell = |number: Option<u64>| Cell {
            text: String::new(),
            rank: number.map_or(Rank::Unknown, Rank::Number),
        };
        let row = |name: &str, number| vec![Cell::text(name), cell(number)];
        Rows {
            headings: &["NAME", "NUMBER"],
            numeric: &[1],
            rows: vec![row("b", Some(9)), row("a", Some(100)), row("c", None)],
        }
    }

    fn names(sorting: &Sorting) -> String {
        let mut rows = rows();
        sorting.apply(0, &mut rows);
        rows.rows.iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn columns_follow_each_other_and_can_be_turned_round() {
        let mut sorting = Sorting::default();
        assert_eq!(names(&sorting), "bac");
        sorting.next_column(0, &rows());
        assert_eq!(names(&sorting), "abc");
        sorting.next_column(0, &rows());
        assert_eq!(names(&sorting), "abc");
        sorting.turn_round(0);
        assert_eq!(names(&sorting), "bac");
        sorting.next_column(0, &rows());
        assert_eq!(sorting.of(0), None);
    }
}

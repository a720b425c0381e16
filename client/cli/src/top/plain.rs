//! One picture as plain text: all panes, one below the other.

use super::panes::{Pane, Rows};
use crate::picture::Picture;
use crate::render::Grid;

pub(super) fn render(picture: &Picture) -> String {
    let mut text = String::new();
    let problems = picture.view.problems();
    if problems.is_empty() {
        text.push_str("no problems\n");
    }
    for problem in problems {
        text.push_str(&problem.render());
    }
    for pane in Pane::ALL {
        let rows = pane.rows(picture);
        if rows.rows.is_empty() {
            text.push_str(&format!("\n{}\n", pane.nothing()));
        } else {
            text.push_str(&format!("\n{}", grid(&rows)));
        }
    }
    text
}

fn grid(rows: &Rows) -> String {
    let mut grid = Grid::new(rows.headings, rows.numeric);
    for row in &rows.rows {
        grid.row(row.iter().map(|cell| cell.text.clone()));
    }
    grid.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::picture;

    #[test]
    fn a_picture_is_golden() {
        let text = render(&picture());
        let (problems, tables) = text.split_once("\n\n").unwrap();
        assert!(problems.contains("PROBLEM  n3 is down: no answer within 9 ms"), "{problems}");
        assert_eq!(
            tables,
            "NODE  ZONE         STATE    OPS/S  GET P99  PUT P99  SYNC P99  BUSY  IN FLIGHT    MEMORY     DISK\n\
             n1    local/rack1  serving  1,230  1.25 ms  1.25 ms     90 us  12 %          3  80.0 MiB  3.0 MiB\n\
             n2    local/rack2  serving  1,230  1.25 ms  1.25 ms     90 us  12 %          3  80.0 MiB  3.0 MiB\n\
             n3    local/rack3  down         -        -        -         -     -          -         -        -\n\
             \n\
             OPERATION  DONE/S  NOT DONE/S     P50      P99    MAX\n\
             get         2,400           0  300 us  1.25 ms  20 ms\n\
             put            60           0  300 us  1.25 ms  20 ms\n\
             \n\
             TABLE  KEY    AT LEAST/S  WRITES/S  VNODE  COORDINATED BY\n\
             carts  alice       1,800       180      3  n1 n2\n\
             \n\
             TABLE  KEY    SIBLINGS    BYTES  VNODE       MET\n\
             carts  alice         5  2.0 KiB      3  1m1s ago\n\
             \n\
             no request took 10 ms in the last minute\n\
             \n\
             no hints wait, and no comparison is under way\n"
        );
    }
}

use super::*;
use table::Cell;

fn make(experiment: Experiment, sizes: &[usize]) -> Table {
    let setting = Setting { sizes: sizes.to_vec(), seed: 1, seconds: &|| 0.0 };
    experiment.make(&setting).expect("sizes in range")
}

/// A cell by its column's name.
fn cell(table: &Table, row: usize, column: &str) -> f64 {
    let at = table.columns.iter().position(|name| *name == column).expect("a column");
    table.rows[row][at].value().expect("it was measured")
}

#[test]
fn members_share_the_ring_evenly_and_racks_are_kept() {
    let table = make(Experiment::Balance, &[3, 50, 1_000]);
    for row in 0..3 {
        assert!(cell(&table, row, "quoit") <= 1.02, "{table}");
        assert!(cell(&table, row, "racks violated") == 0.0, "{table}");
        assert!(cell(&table, row, "quoit") <= cell(&table, row, "256 tokens"), "{table}");
    }
    // Sixteen random tokens are as uneven as theory has it, within a third.
    let ratio = cell(&table, 2, "16 tokens") / cell(&table, 2, "16 tokens, theory");
    assert!((0.66..1.5).contains(&ratio), "{table}");
}

#[test]
fn no_more_moves_than_must() {
    let table = make(Experiment::Movement, &[30, 200]);
    for row in 0..2 {
        assert!(cell(&table, row, "join") <= 1.05, "{table}");
        assert!(cell(&table, row, "leave") <= 1.05, "{table}");
        assert!((0.95..=1.05).contains(&cell(&table, row, "double")), "{table}");
        assert!(cell(&table, row, "bounded loads, join") > 1.05, "{table}");
    }
}

#[test]
fn gossip_tells_everyone_in_a_few_rounds() {
    let table = make(Experiment::Convergence, &[3, 20]);
    for row in 0..2 {
        for column in ["all meet", "a fact", "a newcomer"] {
            assert!(cell(&table, row, column) <= 20.0, "{column}: {table}");
        }
        assert!((4.0..=20.0).contains(&cell(&table, row, "a death")), "{table}");
    }
}

#[test]
fn who_is_taken_out_is_replaced_by_all_at_once() {
    let table = make(Experiment::Scale, &[5, 100]);
    assert!(cell(&table, 1, "taken out, h") < 0.05 * cell(&table, 1, "comes back, h"), "{table}");
    assert!(
        cell(&table, 1, "taken out, h") < 4.0 * cell(&table, 1, "taken out, best, h"),
        "{table}"
    );
}

#[test]
fn requests_fail_as_often_as_the_formula_says_and_never_for_one_rack() {
    let table = make(Experiment::Availability, &[10, 100]);
    for row in 0..2 {
        assert!(cell(&table, row, "a rack down") == 0.0, "{table}");
        let ratio = cell(&table, row, "10 % down") / cell(&table, row, "theory  ");
        assert!((0.7..1.4).contains(&ratio), "{table}");
    }
}

#[test]
fn a_size_out_of_range_is_told() {
    for experiment in Experiment::ALL {
        for size in [0, 1, 1_000_000] {
            let setting = Setting { sizes: vec![size], seed: 1, seconds: &|| 0.0 };
            let error = experiment.make(&setting).expect_err("out of range").to_string();
            assert!(error.starts_with(&format!("{size} members: ")), "{error}");
        }
    }
}

#[test]
fn a_table_is_written_as_csv_and_as_a_plot() {
    let table = Table {
        title: "t".to_owned(),
        columns: vec!["n", "a", "b"],
        plotted: vec![1, 2],
        axis: "x",
        rows: vec![
            vec![Cell::Count(3), Cell::Number(1.0, 2), Cell::Nothing],
            vec![Cell::Count(300), Cell::Number(1.5, 2), Cell::Count(2)],
        ],
        notes: Vec::new(),
    };
    assert_eq!(table.csv(), "n,a,b\n3,1.00,\n300,1.50,2\n");
    let plot = table.svg().expect("it is drawn");
    assert!(plot.starts_with("<svg") && plot.contains("polyline"), "{plot}");
    assert!(Table { rows: Vec::new(), ..table }.svg().is_err());
}

//! What an experiment comes to: a table for people, CSV for programs, a plot.

use std::fmt;

use comfy_table::{CellAlignment, presets};
use plotters::prelude::*;

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A whole number.
    Count(u64),
    /// A number with its decimals.
    Number(f64, usize),
    /// Nothing was measured.
    Nothing,
}

/// The result of an experiment. The first column is what the others are plotted against.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The columns' names.
    pub columns: Vec<&'static str>,
    /// Which columns are plotted.
    pub plotted: Vec<usize>,
    /// What the plotted columns are, with their unit.
    pub axis: &'static str,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// What theory or papers say, and how to read it.
    pub notes: Vec<String>,
}

/// A plot that could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plot cannot be drawn: {0}")]
pub struct PlotError(String);

impl Cell {
    /// The value, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(*count as f64),
            Self::Number(number, _) => Some(*number),
            Self::Nothing => None,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number, decimals) => write!(f, "{number:.decimals$}"),
            Self::Nothing => f.write_str("-"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(ToString::to_string));
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{}\n", self.title)?;
        for line in table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            write!(f, "\n{note}\n")?;
        }
        Ok(())
    }
}

impl Table {
    /// The columns and rows as CSV.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let text = |cell: &Cell| match cell {
            Cell::Nothing => String::new(),
            other => other.to_string(),
        };
        writer.write_record(&self.columns).expect("memory takes it");
        for row in &self.rows {
            writer.write_record(row.iter().map(text)).expect("memory takes it");
        }
        let bytes = writer.into_inner().expect("memory takes it");
        String::from_utf8(bytes).expect("text was written")
    }

    /// A plot of the columns that are plotted, over the first one (its axis is logarithmic).
    ///
    /// # Errors
    /// If there is nothing to draw, or the drawing fails.
    pub fn svg(&self) -> Result<String, PlotError> {
        let points = |column: usize| -> Vec<(f64, f64)> {
            let point = |row: &Vec<Cell>| Some((row[0].value()?, row[column].value()?));
            self.rows.iter().filter_map(point).collect()
        };
        let all: Vec<(f64, f64)> = self.plotted.iter().flat_map(|column| points(*column)).collect();
        let bound = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, 0.0f64), |(low, high), it| (low.min(it), high.max(it)))
        };
        let (left, right) = bound(&mut all.iter().map(|point| point.0));
        let (_, top) = bound(&mut all.iter().map(|point| point.1));
        if all.is_empty() || left <= 0.0 {
            return Err(PlotError("there are no rows".to_owned()));
        }
        let mut text = String::new();
        let wrong = |error: &dyn fmt::Display| PlotError(error.to_string());
        {
            let root = SVGBackend::with_string(&mut text, (900, 560)).into_drawing_area();
            root.fill(&WHITE).map_err(|error| wrong(&error))?;
            let mut chart = ChartBuilder::on(&root)
                .caption(&self.title, ("sans-serif", 20))
                .margin(16)
                .x_label_area_size(44)
                .y_label_area_size(64)
                .build_cartesian_2d((left..right.max(left * 1.01)).log_scale(), 0.0..top * 1.05)
                .map_err(|error| wrong(&error))?;
            chart
                .configure_mesh()
                .x_desc(self.columns[0])
                .y_desc(self.axis)
                .draw()
                .map_err(|error| wrong(&error))?;
            for (number, column) in self.plotted.iter().enumerate() {
                let colour = Palette99::pick(number).stroke_width(2);
                let line = LineSeries::new(points(*column), colour).point_size(3);
                let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour);
                chart
                    .draw_series(line)
                    .map_err(|error| wrong(&error))?
                    .label(self.columns[*column])
                    .legend(legend);
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .border_style(BLACK)
                .background_style(WHITE)
                .draw()
                .map_err(|error| wrong(&error))?;
            root.present().map_err(|error| wrong(&error))?;
        }
        Ok(text)
    }
}

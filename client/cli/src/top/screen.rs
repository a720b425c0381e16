//! The live view: what is wrong, how much is asked, and one of the panes.

use std::collections::VecDeque;
use std::time::Duration;

use quoit_client::Client;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, TableState, Tabs, Wrap};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{MissedTickBehavior, interval};

use super::keyboard::{self, Press};
use super::panes::{Pane, Rows, time_text};
use super::sorting::Sorting;
use crate::failure::CommandError;
use crate::picture::Picture;
use crate::render::count_text;

/// Rates of so many pictures are drawn.
const HISTORY_MAX: usize = 300;
/// So many lines are for what is wrong; `quoit status` has the rest.
const PROBLEM_LINES_MAX: u16 = 8;
/// Between two columns.
const GAP: u16 = 2;

/// Shows pictures until somebody ends it.
pub(super) async fn run(
    client: &Client,
    patience: Duration,
    every: Duration,
) -> Result<(), CommandError> {
    let mut terminal = ratatui::try_init().map_err(CommandError::output)?;
    let ended = show(&mut terminal, client, patience, every).await;
    ratatui::restore();
    ended
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: &Client,
    patience: Duration,
    every: Duration,
) -> Result<(), CommandError> {
    let mut presses = keyboard::follow();
    let mut pictures = follow(client.clone(), patience, every);
    let mut screen = Screen::default();
    loop {
        terminal.draw(|frame| screen.draw(frame)).map_err(CommandError::output)?;
        tokio::select! {
            press = presses.recv() => match press {
                Some(Ok(Press::End)) | None => return Ok(()),
                Some(Ok(press)) => screen.on_press(press),
                Some(Err(error)) => return Err(CommandError::output(error)),
            },
            Some(picture) = pictures.recv() => screen.on_picture(picture),
        }
    }
}

/// Takes pictures until the receiver is dropped.
fn follow(client: Client, patience: Duration, every: Duration) -> Receiver<Picture> {
    let (sender, pictures) = channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if sender.send(Picture::take(&client, patience).await).await.is_err() {
                return;
            }
        }
    });
    pictures
}

/// What is on the screen.
#[derive(Default)]
struct Screen {
    picture: Option<Picture>,
    /// Requests a second, the newest last.
    history: VecDeque<u64>,
    /// The place of the pane in [`Pane::ALL`].
    pane: usize,
    sorting: Sorting,
    table: TableState,
    is_paused: bool,
}

impl Screen {
    fn on_picture(&mut self, picture: Picture) {
        if self.is_paused {
            return;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        let rate = picture.operations.iter().map(|operation| operation.per_second).sum();
        self.history.push_back(rate);
        self.picture = Some(picture);
    }

    fn on_press(&mut self, press: Press) {
        match press {
            Press::Pane(pane) if pane < Pane::ALL.len() => self.turn_to(pane),
            Press::NextPane => self.turn_to((self.pane + 1) % Pane::ALL.len()),
            Press::NextColumn => {
                if let Some(picture) = &self.picture {
                    let rows = Pane::ALL[self.pane].rows(picture);
                    self.sorting.next_column(self.pane, &rows);
                }
            }
            Press::TurnRound => self.sorting.turn_round(self.pane),
            Press::Pause => self.is_paused = !self.is_paused,
            Press::Up => self.table.select_previous(),
            Press::Down => self.table.select_next(),
            Press::Pane(_) | Press::Redraw | Press::End => {}
        }
    }

    fn turn_to(&mut self, pane: usize) {
        self.pane = pane;
        self.table = TableState::default();
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let Some(picture) = self.picture.take() else {
            frame.render_widget(Paragraph::new("asking all nodes ..."), frame.area());
            return;
        };
        let problems = problem_lines(&picture);
        let width = usize::from(frame.area().width.max(1));
        let lines = problems.iter().map(|line| line.width().div_ceil(width)).sum::<usize>();
        let lines = u16::try_from(lines).unwrap_or(u16::MAX).min(PROBLEM_LINES_MAX);
        let [head, wrong, rates, tabs, table, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(lines),
            Constraint::Length(6),
            Constraint::Length(2),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(&picture), head);
        frame.render_widget(Paragraph::new(problems).wrap(Wrap { trim: false }), wrong);
        self.draw_rates(frame, rates, &picture);
        let titles =
            Pane::ALL.iter().enumerate().map(|(at, pane)| format!("{} {}", at + 1, pane.title()));
        let style = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
        frame.render_widget(Tabs::new(titles).select(self.pane).highlight_style(style), tabs);
        self.draw_table(frame, table, &picture);
        let words = "1-6 Tab  pane   s  sort   r  turn round   p  pause   q  end";
        frame.render_widget(Line::from(words).dim(), keys);
        self.picture = Some(picture);
    }

    fn head(&self, picture: &Picture) -> Line<'static> {
        let (answered, all) = (picture.view.answers.len(), picture.record().members.len());
        let nodes = format!("{answered} of {all} nodes");
        let nodes = if answered == all { nodes.green() } else { nodes.red() };
        let rate = self.history.back().copied().unwrap_or(0);
        let mut head = vec![
            "quoit".bold(),
            format!("  cluster {:.8}  ", picture.record().cluster.to_string()).dim(),
            nodes,
            format!("  {} requests/s", count_text(rate)).bold(),
        ];
        if self.is_paused {
            head.push("  paused".yellow());
        }
        Line::from(head)
    }

    /// How much was asked in the last minutes, and how long it takes.
    fn draw_rates(&self, frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
        let [chart, times] =
            Layout::horizontal([Constraint::Min(20), Constraint::Length(44)]).areas(area);
        let width = usize::from(chart.width.saturating_sub(2)).min(self.history.len());
        let shown: Vec<u64> = self.history.range(self.history.len() - width..).copied().collect();
        let most = shown.iter().max().copied().unwrap_or(0);
        let title = format!(" requests/s, at most {} ", count_text(most));
        let chart_block = Block::new().borders(Borders::TOP).title(title).dim();
        let line = Sparkline::default().data(shown).style(Style::new().fg(Color::Cyan));
        frame.render_widget(line.block(chart_block), chart);
        let row = |operation: &quoit_protocol::activity::OperationActivity| {
            let time = |micros| if micros == 0 { "-".to_owned() } else { time_text(micros) };
            let failed = operation.failed_per_second;
            let failed =
                if failed > 0 { format!(" {failed} not done").red() } else { Span::default() };
            Line::from(vec![
                format!("{:<7}{:>9}/s", operation.name, count_text(operation.per_second)).into(),
                format!("{:>9}{:>9}", time(operation.p50_us), time(operation.p99_us)).into(),
                failed,
            ])
        };
        let lines: Vec<Line<'_>> = picture.operations.iter().map(row).collect();
        let block =
            Block::new().borders(Borders::TOP).title("       done      p50      p99 ").dim();
        frame.render_widget(Paragraph::new(lines).block(block), times);
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
        let pane = Pane::ALL[self.pane];
        let mut rows = pane.rows(picture);
        if rows.rows.is_empty() {
            frame.render_widget(Line::from(pane.nothing()).dim(), area);
            return;
        }
        self.sorting.apply(self.pane, &mut rows);
        let sorted = self.sorting.of(self.pane);
        let table = table(&rows, sorted);
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

/// What is wrong, in red, and what to do.
fn problem_lines(picture: &Picture) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for problem in picture.view.problems() {
        lines.push(Line::from(problem.what).red());
        lines.extend(problem.remedy.map(|remedy| Line::from(format!("  -> {remedy}")).dim()));
    }
    lines
}

fn table(rows: &Rows, sorted: Option<(usize, bool)>) -> Table<'static> {
    let heading = |at: usize| {
        let mark = match sorted {
            Some((column, is_descending)) if column == at => {
                if is_descending {
                    " v"
                } else {
                    " ^"
                }
            }
            Some(_) | None => "",
        };
        format!("{}{mark}", rows.headings[at])
    };
    let headings: Vec<String> = (0..rows.headings.len()).map(heading).collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            let cells = rows.rows.iter().map(|row| row[column].text.chars().count());
            cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let aligned = |column: usize, text: &str| {
        let width = widths[column];
        if rows.numeric.contains(&column) { format!("{text:>width$}") } else { text.to_owned() }
    };
    let header = Row::new(headings.iter().enumerate().map(|(at, text)| aligned(at, text)));
    let body = rows.rows.iter().map(|row| {
        let cells = row.iter().enumerate().map(|(at, cell)| aligned(at, &cell.text));
        let is_away = row.iter().any(|cell| matches!(cell.text.as_str(), "down" | "no answer"));
        let row = Row::new(cells.collect::<Vec<_>>());
        if is_away { row.style(Style::new().fg(Color::Red)) } else { row }
    });
    let widths =
        widths.iter().map(|width| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
    Table::new(body, widths)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(GAP)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::sample::picture;

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_is_wrong_comes_first_and_keys_turn_to_the_panes() {
        let mut screen = Screen::default();
        assert!(drawn(&mut screen).contains("asking all nodes"));
        screen.on_picture(picture());
        let text = drawn(&mut screen);
        assert!(text.contains("2 of 3 nodes") && text.contains("2,460 requests/s"), "{text}");
        let place = |of: &str| text.find(of).unwrap_or_else(|| panic!("no {of:?}:\n{text}"));
        assert!(place("n3 is down") < place("1 nodes"), "{text}");
        assert!(text.contains("local/rack2") && !text.contains("alice"), "{text}");
        screen.on_press(Press::Pane(2));
        assert!(drawn(&mut screen).contains("alice"));
        screen.on_press(Press::NextPane);
        assert!(drawn(&mut screen).contains("1m1s ago"));
        screen.on_press(Press::NextColumn);
        assert!(drawn(&mut screen).contains("TABLE ^"));
        screen.on_press(Press::Pane(8));
        screen.on_press(Press::Pause);
        assert!(drawn(&mut screen).contains("paused"));
    }

    #[test]
    fn a_small_terminal_is_no_trouble() {
        let mut screen = Screen::default();
        screen.on_picture(picture());
        for (width, height) in [(1, 1), (20, 5), (400, 3)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
        }
    }
}

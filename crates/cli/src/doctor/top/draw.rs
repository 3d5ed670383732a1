//! A page on a terminal, or as text.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row as Drawn, Table, TableState};

use super::super::text::{clean, span};
use super::app::{App, View};
use super::views::{Grid, Heat, Page, Row, page};

/// The widest column.
const CELL_MAX: usize = 48;

/// Draws everything.
pub fn screen(frame: &mut Frame<'_>, app: &mut App) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let (title, tabs) = heads(app);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(vec![Line::styled(title, bold), Line::raw(tabs)]), head);
    match page(app) {
        Page::Grids(grids) => {
            app.lines = grids.iter().map(|g| g.rows.len()).sum();
            app.line = app.line.min(app.lines.saturating_sub(1));
            draw_grids(frame, body, &grids, app.line);
        }
        Page::Text(title, lines) => {
            app.scroll = app.scroll.min(u16::try_from(lines.len()).unwrap_or(u16::MAX));
            let all: Vec<Line<'_>> = std::iter::once(Line::styled(clean(&title), bold))
                .chain(lines.iter().map(|l| Line::raw(clean(l))))
                .collect();
            frame.render_widget(Paragraph::new(all).scroll((app.scroll, 0)), body);
        }
        Page::Nothing(why) => frame.render_widget(Paragraph::new(why), body),
    }
    let keys =
        "1-5 Tab view · d device · ↑↓ Enter look into · Esc back · space stop · ←→ moment · q end";
    frame.render_widget(Paragraph::new(Line::styled(keys, dim())), foot);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The host and the moment; the views.
fn heads(app: &App) -> (String, String) {
    let Some(w) = app.window() else { return ("linerate top".into(), String::new()) };
    let host = &w.to.host;
    let mut title = format!("{} · Linux {}", host.name, host.release);
    if let Some(from) = w.from {
        let secs = w.to.monotonic_ns.saturating_sub(from.monotonic_ns) as f64 / 1e9;
        title += &format!(" · last {}", span(secs));
    }
    let (at, all) = app.position();
    if let Some(record) = &app.record {
        title += &format!(" · moment {at} of {all} of {record}");
    } else if at < all {
        title += &format!(" · {} readings ago", all - at);
    }
    if app.paused {
        title += " · stopped";
    }
    if let Some(only) = &app.only {
        title += &format!(" · {only} alone");
    }
    if !w.to.notes.is_empty() {
        title += &format!(" · {} not read", w.to.notes.len());
    }
    let tabs = View::ALL.iter().enumerate().map(|(i, view)| match *view == app.view {
        true => format!("[{} {}]", i + 1, view.name()),
        false => format!(" {} {} ", i + 1, view.name()),
    });
    (clean(&title), tabs.collect::<Vec<_>>().join(" "))
}

fn style(heat: Heat) -> Style {
    match heat {
        Heat::Still => dim(),
        Heat::Calm => Style::new(),
        Heat::Warm => Style::new().fg(Color::Yellow),
        Heat::Hot => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

/// The tables one below the other, the one with the chosen line in sight.
fn draw_grids(frame: &mut Frame<'_>, area: Rect, grids: &[Grid], line: usize) {
    let mut y = area.y;
    let mut before = 0;
    for (i, grid) in grids.iter().enumerate() {
        let left = (area.y + area.height).saturating_sub(y);
        if left == 0 {
            return;
        }
        let last = i + 1 == grids.len();
        let wanted = u16::try_from(grid.rows.len() + 1 + usize::from(!last)).unwrap_or(u16::MAX);
        let place = Rect { x: area.x, y, width: area.width, height: wanted.min(left) };
        let widths = widths(grid);
        let head: Vec<String> = std::iter::once(grid.title)
            .chain(grid.heads.iter().copied())
            .enumerate()
            .map(|(i, h)| pad(h, widths[i], right(grid, i)))
            .collect();
        let rows = grid.rows.iter().map(|row| {
            let cells = cells(row).enumerate().map(|(i, c)| pad(&c, widths[i], right(grid, i)));
            Drawn::new(cells.collect::<Vec<_>>()).style(style(row.heat))
        });
        let columns: Vec<Constraint> =
            widths.iter().map(|w| Constraint::Length(*w as u16)).collect();
        let table = Table::new(rows, columns)
            .header(Drawn::new(head).style(Style::new().add_modifier(Modifier::UNDERLINED)))
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let chosen = line.checked_sub(before).filter(|at| *at < grid.rows.len());
        let mut state = TableState::new().with_selected(chosen);
        frame.render_stateful_widget(table, place, &mut state);
        before += grid.rows.len();
        y = y.saturating_add(wanted);
    }
}

fn cells(row: &Row) -> impl Iterator<Item = String> {
    row.cells.iter().map(|cell| {
        let cell = clean(cell);
        match cell.chars().count() > CELL_MAX {
            true => cell.chars().take(CELL_MAX - 1).chain(['…']).collect(),
            false => cell,
        }
    })
}

fn widths(grid: &Grid) -> Vec<usize> {
    let heads = std::iter::once(grid.title).chain(grid.heads.iter().copied());
    let mut widths: Vec<usize> = heads.map(|h| h.chars().count()).collect();
    for row in &grid.rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// Whether a column is of numbers.
fn right(grid: &Grid, column: usize) -> bool {
    let digit = |c: char| c.is_ascii_digit() || c == '·';
    let number = |cell: &String| cell.is_empty() || cell.starts_with(digit);
    column > 0
        && grid.rows.iter().all(|row| row.cells.get(column).is_none_or(number))
        && grid.rows.iter().any(|row| row.cells.get(column).is_some_and(|c| !c.is_empty()))
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

/// The same as text.
pub fn plain(app: &mut App) -> String {
    let (title, tabs) = heads(app);
    let mut out = format!("{title}\n{tabs}\n");
    match page(app) {
        Page::Grids(grids) => {
            app.lines = grids.iter().map(|g| g.rows.len()).sum();
            for grid in &grids {
                let widths = widths(grid);
                let heads = std::iter::once(grid.title).chain(grid.heads.iter().copied());
                let mut put = |cells: &mut dyn Iterator<Item = String>| {
                    let padded = cells.enumerate().map(|(i, c)| pad(&c, widths[i], right(grid, i)));
                    let line = padded.collect::<Vec<_>>().join("  ");
                    out.push_str(line.trim_end());
                    out.push('\n');
                };
                put(&mut heads.map(str::to_owned));
                grid.rows.iter().for_each(|row| put(&mut cells(row)));
                out.push('\n');
            }
        }
        Page::Text(title, lines) => {
            out += &format!("{}\n", clean(&title));
            lines.iter().for_each(|line| out += &format!("{}\n", clean(line)));
        }
        Page::Nothing(why) => out += &format!("{why}\n"),
    }
    out
}

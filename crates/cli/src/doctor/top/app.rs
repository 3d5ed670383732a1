//! What is looked at: a moment, a view, a line of it.

use std::collections::VecDeque;

use linerate_host::rules::{self, Diagnosis, Limits};
use linerate_host::{Cx, Goal, Snapshot, Window};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::path;

/// Moments that are kept.
pub const HISTORY_MAX: usize = 600;
/// Windows that findings rest on.
const WINDOWS: usize = 10;

/// A reading.
pub struct Moment {
    /// What was read.
    pub snapshot: Snapshot,
    /// Everything was.
    pub full: bool,
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The stops from the NIC to the socket and back, and the processors.
    Path,
    /// The devices.
    Devices,
    /// The processors.
    Cpus,
    /// The sockets.
    Sockets,
    /// What the rules say.
    Findings,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [View; 5] =
        [View::Path, View::Devices, View::Cpus, View::Sockets, View::Findings];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            View::Path => "path",
            View::Devices => "devices",
            View::Cpus => "processors",
            View::Sockets => "sockets",
            View::Findings => "findings",
        }
    }
}

/// The state.
pub struct App {
    /// Moments, the oldest first.
    history: VecDeque<Moment>,
    /// Which of them is shown.
    at: usize,
    /// It does not go on by itself.
    pub paused: bool,
    /// The record, if it is one.
    pub record: Option<String>,
    /// What is looked at.
    pub view: View,
    /// The only device of the path; `None`: all.
    pub only: Option<String>,
    /// The line that is chosen.
    pub line: usize,
    /// How many lines there are to choose from; the view says so.
    pub lines: usize,
    /// Which line is looked into, by its key.
    pub inside: Option<String>,
    /// Lines of the inside that are scrolled away.
    pub scroll: u16,
    /// It is to end.
    pub over: bool,
}

impl App {
    /// Nothing read yet.
    pub fn new(only: Option<String>) -> App {
        App {
            history: VecDeque::new(),
            at: 0,
            paused: false,
            record: None,
            view: View::Path,
            only,
            line: 0,
            lines: 0,
            inside: None,
            scroll: 0,
            over: false,
        }
    }

    /// A new moment of this host. While it is stopped it is kept, and the shown one stays.
    pub fn push(&mut self, moment: Moment) {
        self.history.push_back(moment);
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
            self.at = self.at.saturating_sub(1);
        }
        if !self.paused {
            self.at = self.history.len() - 1;
        }
    }

    /// All moments of a record; the first window is shown.
    pub fn replay(&mut self, name: String, moments: Vec<Moment>) {
        self.record = Some(name);
        self.history = moments.into();
    }

    /// The next moment of a record, unless it is stopped.
    pub fn play(&mut self) {
        if !self.paused && !self.at_end() {
            self.at += 1;
        }
    }

    /// Whether the last moment is shown.
    pub fn at_end(&self) -> bool {
        self.at + 1 >= self.history.len()
    }

    /// Which moment of how many.
    pub fn position(&self) -> (usize, usize) {
        (self.at + 1, self.history.len())
    }

    /// What happened up to the moment that is shown; `None` before the first.
    pub fn window(&self) -> Option<Window<'_>> {
        let to = &self.history.get(self.at)?.snapshot;
        let from = self.at.checked_sub(1).and_then(|at| self.history.get(at));
        Some(Window { from: from.map(|m| &m.snapshot), to })
    }

    /// The same between moments at which everything was read.
    pub fn full_window(&self) -> Option<Window<'_>> {
        let mut full = self.history.iter().take(self.at + 1).rev().filter(|m| m.full);
        let to = full.next()?;
        Some(Window { from: full.next().map(|m| &m.snapshot), to: &to.snapshot })
    }

    /// What the rules say of the last windows.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let shown = self.history.iter().take(self.at + 1);
        let mut full: Vec<&Snapshot> =
            shown.rev().filter(|m| m.full).take(WINDOWS + 1).map(|m| &m.snapshot).collect();
        full.reverse();
        let windows: Vec<Window<'_>> =
            full.windows(2).map(|w| Window { from: Some(w[0]), to: w[1] }).collect();
        if windows.is_empty() {
            return None;
        }
        let cx = Cx { windows, goal: Goal::Throughput, limits: Limits::default() };
        Some(rules::diagnose(&cx))
    }

    /// A key.
    pub fn key(&mut self, key: KeyEvent) {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.over = true,
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char(c @ '1'..='5') => self.look_at(View::ALL[c as usize - '1' as usize]),
            KeyCode::Tab => {
                let now = View::ALL.iter().position(|v| *v == self.view).unwrap_or(0);
                self.look_at(View::ALL[(now + 1) % View::ALL.len()]);
            }
            KeyCode::Char('d') => self.next_device(),
            KeyCode::Char('D') => self.only = None,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::PageUp => self.choose(-10),
            KeyCode::PageDown => self.choose(10),
            KeyCode::Left => self.step(-1),
            KeyCode::Right => self.step(1),
            KeyCode::Esc | KeyCode::Backspace => self.inside = None,
            KeyCode::Enter => self.enter(),
            _ => {}
        }
    }

    fn look_at(&mut self, view: View) {
        (self.view, self.line, self.inside, self.scroll) = (view, 0, None, 0);
    }

    fn choose(&mut self, by: isize) {
        if self.inside.is_some() {
            self.scroll = self.scroll.saturating_add_signed(by as i16);
        } else {
            self.line = self.line.saturating_add_signed(by).min(self.lines.saturating_sub(1));
        }
    }

    /// A moment back or ahead, and stops there.
    fn step(&mut self, by: isize) {
        self.paused = true;
        let last = self.history.len().saturating_sub(1);
        self.at = self.at.saturating_add_signed(by).min(last);
    }

    fn enter(&mut self) {
        if self.inside.is_none() {
            self.inside = super::views::key_of(self, self.line);
            self.scroll = 0;
        }
    }

    /// The next device alone, all of them behind the last.
    fn next_device(&mut self) {
        let Some(w) = self.window() else { return };
        let names: Vec<String> = path::devices(w.to, None).iter().map(|d| d.name.clone()).collect();
        let at = self.only.as_ref().and_then(|only| names.iter().position(|n| n == only));
        self.only = names.get(at.map_or(0, |at| at + 1)).cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_host::snapshot::Dev;

    fn moment(n: u64) -> Moment {
        let mut snapshot = Snapshot { monotonic_ns: n * 1_000_000_000, ..Snapshot::default() };
        for name in ["eth0", "lo"] {
            snapshot.devs.insert(name.into(), Dev { name: name.into(), ..Dev::default() });
        }
        Moment { snapshot, full: n.is_multiple_of(2) }
    }

    fn press(app: &mut App, code: KeyCode) {
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }

    #[test]
    fn history_is_bounded_and_a_stop_stays_where_it_is() {
        let mut app = App::new(None);
        for n in 0..HISTORY_MAX as u64 + 50 {
            app.push(moment(n));
        }
        assert_eq!(app.position(), (HISTORY_MAX, HISTORY_MAX));
        press(&mut app, KeyCode::Char(' '));
        let shown = app.window().expect("a window").to.monotonic_ns;
        for n in 0..30 {
            app.push(moment(1000 + n));
        }
        assert_eq!(app.window().expect("a window").to.monotonic_ns, shown);
        press(&mut app, KeyCode::Left);
        assert!(app.window().expect("a window").to.monotonic_ns < shown);
        press(&mut app, KeyCode::Char(' '));
        app.push(moment(2000));
        assert!(app.at_end());
    }

    #[test]
    fn devices_take_turns_and_all_come_again() {
        let mut app = App::new(None);
        app.push(moment(0));
        let mut seen = Vec::new();
        for _ in 0..3 {
            press(&mut app, KeyCode::Char('d'));
            seen.push(app.only.clone());
        }
        assert_eq!(seen, [Some("eth0".into()), Some("lo".into()), None]);
    }

    #[test]
    fn a_full_window_leaves_out_what_was_read_in_part() {
        let mut app = App::new(None);
        app.replay("x".into(), (0..6).map(moment).collect());
        (0..9).for_each(|_| app.play());
        let w = app.full_window().expect("two full moments");
        let secs = |s: &Snapshot| s.monotonic_ns / 1_000_000_000;
        assert_eq!((w.from.map(secs), secs(w.to)), (Some(2), 4));
        assert_eq!(app.window().map(|w| secs(w.to)), Some(5));
    }

    #[test]
    fn any_key_at_any_time_is_no_harm() {
        let keys = [
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::PageDown,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::Tab,
            KeyCode::Char('d'),
            KeyCode::Char('3'),
            KeyCode::Char('x'),
        ];
        for filled in [0, 1, 3] {
            let mut app = App::new(Some("gone".into()));
            (0..filled).for_each(|n| app.push(moment(n)));
            for first in keys {
                for second in keys {
                    press(&mut app, first);
                    press(&mut app, second);
                    let _ = super::super::draw::plain(&mut app);
                }
            }
            assert!(!app.over);
            press(&mut app, KeyCode::Char('q'));
            assert!(app.over);
        }
    }
}

//! `linerate top`: the path while it is used, or as it was recorded.
//!
//! ```text
//! keys, readings -> App (what is looked at) -> views (tables of text) -> draw (a terminal) or --plain
//! ```

mod app;
mod draw;
mod views;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_host::collect::{Collector, Tier};
use linerate_host::source::Live;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::{App, HISTORY_MAX, Moment};
use super::UNREADABLE;
use super::args::TopArgs;
use super::reading::{Replaying, Signals, live};
use crate::print;

/// `linerate top`.
pub fn main(args: &TopArgs) -> ExitCode {
    match top(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("linerate top: {why}");
            ExitCode::from(UNREADABLE)
        }
    }
}

fn top(args: &TopArgs) -> Result<(), String> {
    let mut app = App::new(args.dev.clone());
    let mut feed = match &args.from {
        Some(path) => {
            app.replay(path.display().to_string(), recorded(path)?);
            None
        }
        None => Some(Feed::new(args)?),
    };
    if let Some(pictures) = args.plain {
        return plain(&mut app, feed.as_mut(), args.every, pictures);
    }
    if !io::stdout().is_terminal() {
        return Err("it draws on a terminal; --plain N prints text".to_owned());
    }
    let signals = Signals::take()?;
    // It also sees to it that the terminal is as it was after a panic.
    let mut terminal = ratatui::try_init().map_err(|e| format!("the terminal: {e}"))?;
    let ended = run(&mut terminal, &mut app, feed.as_mut(), args.every, &signals);
    ratatui::restore();
    ended.map_err(|e| format!("the terminal: {e}"))
}

/// This host.
struct Feed {
    source: Live,
    collector: Collector,
}

impl Feed {
    fn new(args: &TopArgs) -> Result<Feed, String> {
        Ok(Feed { source: live(args.netns.as_deref())?, collector: Collector::new(Tier::Full) })
    }

    fn next(&mut self) -> Moment {
        Moment { snapshot: self.collector.collect(&mut self.source), full: true }
    }
}

/// The moments of a record; every second, fourth, ... where there are too many to hold.
fn recorded(path: &std::path::Path) -> Result<Vec<Moment>, String> {
    let mut replay = Replaying::open(path)?;
    let (mut moments, mut step, mut n) = (Vec::new(), 1usize, 0usize);
    while let Some((moment, snapshot)) = replay.next()? {
        if n.is_multiple_of(step) {
            moments.push(Moment { snapshot, full: moment.full });
        }
        n += 1;
        if moments.len() > HISTORY_MAX {
            step *= 2;
            let mut i = 0;
            moments.retain(|_| {
                i += 1;
                (i - 1) % 2 == 0
            });
        }
    }
    if moments.is_empty() {
        return Err(format!("{}: the record has no whole moment", path.display()));
    }
    Ok(moments)
}

fn run(
    terminal: &mut ratatui::DefaultTerminal,
    app: &mut App,
    mut feed: Option<&mut Feed>,
    every: Duration,
    signals: &Signals,
) -> io::Result<()> {
    let mut next = Instant::now();
    while !app.over {
        if Instant::now() >= next {
            match &mut feed {
                Some(feed) => app.push(feed.next()),
                None => app.play(),
            }
            next = Instant::now() + every;
        }
        terminal.draw(|frame| draw::screen(frame, app))?;
        // Short, so that a signal is seen soon.
        let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
        if event::poll(wait)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => app.key(key),
                _ => {}
            }
        }
        if signals.wait(Instant::now()) {
            break;
        }
    }
    Ok(())
}

/// Text instead of a terminal: one picture a window.
fn plain(
    app: &mut App,
    mut feed: Option<&mut Feed>,
    every: Duration,
    pictures: u32,
) -> Result<(), String> {
    let signals = Signals::take()?;
    if let Some(feed) = &mut feed {
        app.push(feed.next());
    }
    for n in 0..pictures {
        match &mut feed {
            Some(feed) => {
                if signals.wait(Instant::now() + every) {
                    break;
                }
                app.push(feed.next());
            }
            None if n > 0 && app.at_end() => break,
            None => app.play(),
        }
        print(&draw::plain(app));
    }
    Ok(())
}

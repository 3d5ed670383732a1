//! The timer that undoes a change which may have cut the way to this host.
//!
//! It is a process of its own, started before anything is changed, and does not end with the terminal. It
//! waits for the journal, and for the time that the journal says: whoever makes the changes may take as
//! long as it needs, and may be killed at any moment.

use std::io::{self, BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use linerate_host::tune::{Entry, Journal, JournalError, Undone, since_boot_ms};
use nix::sys::signal::{SigSet, Signal};

use super::args::{JournalArgs, UndoArgs};
use super::{failed, settings, undo};

/// What the timer says when it can do its work.
const READY: &str = "ready";
/// Between two looks at a journal that somebody else holds, and between two tries.
const AGAIN: Duration = Duration::from_millis(200);
/// Between two looks at a journal in which nothing is to be done yet.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What can not be undone is tried so often: a link may need its time.
const TRIES: u32 = 3000;

/// Starts the timer for entries of the journal from number `from` on, and waits until it is ready.
pub fn arm(place: &JournalArgs, from: u64) -> io::Result<()> {
    // The file may have been replaced by another version meanwhile; this is the one that runs.
    let mut command = Command::new("/proc/self/exe");
    command.args(["tune", "__undo", "--from", &from.to_string()]);
    command.arg("--journal").arg(&place.journal);
    if let Some(netns) = &place.netns {
        command.args(["--netns", netns]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut said)?;
    }
    if said.trim() == READY {
        return Ok(());
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("it ended at once ({status}) {}", said.trim())))
}

/// The timer.
pub fn main(args: &UndoArgs) -> Result<bool, String> {
    let mut hangup = SigSet::empty();
    hangup.add(Signal::SIGHUP);
    hangup.thread_block().map_err(|e| e.to_string())?;
    // Away from the terminal and from who is killed with it. It fails only for who leads a group.
    let _ = nix::unistd::setsid();
    // The namespace is entered while it has its name.
    let (mut settings, netns) = settings(&args.place)?;
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    drop(out);
    // What is of another namespace has a timer of its own there.
    let ours = |e: &Entry| e.id >= args.from && e.netns == netns && undo::waits(e);
    let mut tries = 0;
    loop {
        if !args.place.journal.exists() {
            return Ok(true);
        }
        // Whoever keeps or undoes them needs the journal: it is held only when there is something to do.
        let seen = Journal::peek(&args.place.journal).unwrap_or_default();
        if let Some(left) = time_left(seen.iter().filter(|e| ours(e))) {
            thread::sleep(left.min(LOOK_EVERY));
            continue;
        }
        let mut journal = match Journal::open(&args.place.journal) {
            Ok(journal) => journal,
            Err(JournalError::InUse(_)) => {
                thread::sleep(AGAIN);
                continue;
            }
            Err(e) if tries >= TRIES => return Err(failed(e)),
            Err(_) => {
                tries += 1;
                thread::sleep(AGAIN);
                continue;
            }
        };
        let over = |e: &Entry| ours(e) && e.is_abandoned();
        if !journal.entries().iter().any(ours) {
            return journal.close().map(|()| true).map_err(failed);
        }
        let undone = undo::by(&mut journal, netns, &mut settings, over)?;
        let left = undone.iter().any(|u| matches!(u, Undone::Failed { .. }));
        journal.close().map_err(failed)?;
        if left && tries >= TRIES {
            return Ok(false);
        }
        tries += u32::from(left);
        thread::sleep(if left { AGAIN } else { Duration::ZERO });
    }
}

/// How long none of these needs anybody; `None` if one does, or if there is none.
fn time_left<'a>(waiting: impl Iterator<Item = &'a Entry>) -> Option<Duration> {
    let now = since_boot_ms();
    let left = |e: &Entry| e.undo_at_ms.map_or(0, |at| at.saturating_sub(now));
    let least = waiting.map(left).min()?;
    (least > 0).then(|| Duration::from_millis(least))
}

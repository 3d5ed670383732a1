//! What we changed, on disk before it was changed.
//!
//! A file of lines, each a JSON object: an entry, or what became of one. It is written by one process
//! at a time (a lock), synced before the setting is touched, and never rewritten while anything in it
//! is still ours. A last line that was cut is of a change that was never made.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::persist::Persisted;
use super::plan::Step;
use crate::change::Change;
use crate::finding::Risk;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Written down; whether it was made is not known (we may have been killed there).
    Begun,
    /// Made and read back, while it is being measured whether it stays.
    Trying,
    /// Made, and read back. A change that may take the link down is undone unless it is confirmed.
    Applied,
    /// Confirmed: it stays.
    Kept,
    /// The kernel refused it, or it did not read back: nothing is ours.
    Refused,
    /// Undone.
    RolledBack,
    /// Somebody else changed it since: it was left alone.
    Drifted,
}

impl State {
    /// Whether the setting is ours to undo.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, State::Begun | State::Trying | State::Applied | State::Kept)
    }
}

/// What was measured before a change, to verify it by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The device, processor or socket that the finding was about.
    pub subject: String,
    /// Losses in a second.
    pub loss_per_s: f64,
    /// Packets in a second that all devices moved.
    pub packets_per_s: f64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in this journal, from 1.
    pub id: u64,
    /// The boot in which it was made: after another one the kernel has forgotten it.
    pub boot: String,
    /// The network namespace's inode.
    pub netns: u64,
    /// When, in seconds since 1970.
    pub at: u64,
    /// The rule that asked for it.
    pub rule: String,
    /// The setting before.
    pub old: Change,
    /// As it reads since: what was asked for, or what the kernel made of it.
    pub new: Change,
    /// It may have taken the link down: it is undone unless somebody confirms it in time.
    #[serde(default)]
    pub flap: bool,
    /// When it is undone unless it is confirmed, in milliseconds since boot; of those that may have
    /// taken the link down, once they are applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_at_ms: Option<u64>,
    /// It is to survive a boot, from when it is confirmed on.
    #[serde(default)]
    pub persist: bool,
    /// What was measured before.
    #[serde(default)]
    pub before: Before,
    /// What was written into files so that it survives a boot.
    #[serde(default)]
    pub persisted: Vec<Persisted>,
    /// What became of it.
    pub state: State,
}

impl Entry {
    /// Whether nobody is there any more who would finish it or undo it: whoever made it was killed in
    /// the middle, or so was the timer that should have undone it by now. Only who holds the journal
    /// can ask this, for otherwise somebody may be at it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match self.state {
            State::Begun | State::Trying => true,
            State::Applied => self.flap && self.undo_at_ms.is_some_and(|at| at <= since_boot_ms()),
            _ => false,
        }
    }
}

/// Milliseconds since boot, sleep among them: a clock that nobody sets.
#[must_use]
pub fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// How long a change that may take a link down waits to be confirmed, unless it is said.
const KEEP_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no journal. Nothing is changed without one.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// The file can not be made, read or written.
    File {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Another process changes settings now.
    InUse(PathBuf),
    /// A line, not the last, is not ours.
    Garbled {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::File { path, source } => write!(
                f,
                "cannot keep the journal {}: {source}; without it no setting is changed (--journal \
                 names another file)",
                path.display()
            ),
            JournalError::InUse(path) => {
                write!(f, "another linerate tune holds {}; wait for it", path.display())
            }
            JournalError::Garbled { path, line } => write!(
                f,
                "line {line} of {} is not of a journal; move the file away if its changes need not be \
                 undone",
                path.display()
            ),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The journal of changes, held by this process.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    boot: String,
    entries: Vec<Entry>,
    keep_within: Duration,
}

impl Journal {
    /// Opens the journal, or begins one; its directory is made if it is not there.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path) -> Result<Journal, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let mut file = Journal::lock(path)?;
        let mut text = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut text)).map_err(failed)?;
        let (entries, whole) =
            parse(&text).map_err(|line| JournalError::Garbled { path: path.to_owned(), line })?;
        // What was cut would run into the next line.
        file.set_len(whole as u64).map_err(failed)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let path = path.to_owned();
        Ok(Journal { file, path, boot: boot.trim().into(), entries, keep_within: KEEP_WITHIN })
    }

    /// The file, held by this process alone; whoever holds it now may take a moment more.
    fn lock(path: &Path) -> Result<File, JournalError> {
        const TRIES: u32 = 60;
        const PAUSE: Duration = Duration::from_millis(50);
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        for _ in 0..TRIES {
            let file = File::options().read(true).append(true).create(true).open(path);
            let file = file.map_err(failed)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                std::thread::sleep(PAUSE);
                continue;
            }
            // Whoever held it may have removed it: then another file has its name, or none.
            let mine = file.metadata().map_err(failed)?;
            if fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (mine.dev(), mine.ino())) {
                return Ok(file);
            }
        }
        Err(JournalError::InUse(path.to_owned()))
    }

    /// What the journal says, without holding it: somebody may be writing the next line.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn peek(path: &Path) -> Result<Vec<Entry>, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let text = fs::read(path).map_err(failed)?;
        let parsed = parse(&text);
        parsed
            .map(|(entries, _)| entries)
            .map_err(|line| JournalError::Garbled { path: path.to_owned(), line })
    }

    /// How long changes that may take a link down wait to be confirmed, from when they are applied.
    pub fn set_keep_within(&mut self, time: Duration) {
        self.keep_within = time;
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the change was made since this machine was started.
    #[must_use]
    pub fn is_this_boot(&self, entry: &Entry) -> bool {
        entry.boot == self.boot
    }

    /// Writes down a change that is about to be made; returns its number.
    ///
    /// # Errors
    /// [`JournalError::File`]: then it may not be made.
    pub fn begin(&mut self, netns: u64, step: &Step) -> Result<u64, JournalError> {
        let id = self.entries.last().map_or(1, |e| e.id + 1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let entry = Entry {
            id,
            boot: self.boot.clone(),
            netns,
            at: now.map_or(0, |d| d.as_secs()),
            rule: step.rule.into(),
            old: step.old.clone(),
            new: step.new.clone(),
            flap: step.risk == Risk::Flap,
            undo_at_ms: None,
            persist: false,
            before: step.before.clone(),
            persisted: Vec::new(),
            state: State::Begun,
        };
        self.write(&entry)?;
        self.entries.push(entry);
        Ok(id)
    }

    /// Writes down what became of an entry.
    ///
    /// # Errors
    /// [`JournalError::File`].
    ///
    /// # Panics
    /// If there is no entry `id`.
    pub fn note(&mut self, id: u64, f: impl FnOnce(&mut Entry)) -> Result<(), JournalError> {
        let at = self.entries.iter().position(|e| e.id == id);
        let at = at.expect("an entry is noted after it was begun");
        let mut entry = self.entries[at].clone();
        f(&mut entry);
        if entry.flap && entry.state == State::Applied && entry.undo_at_ms.is_none() {
            let wait = u64::try_from(self.keep_within.as_millis()).unwrap_or(u64::MAX);
            entry.undo_at_ms = Some(since_boot_ms().saturating_add(wait));
        }
        self.write(&entry)?;
        self.entries[at] = entry;
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain data");
        line.push(b'\n');
        let done = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        done.map_err(|source| JournalError::File { path: self.path.clone(), source })
    }

    /// Removes the file if nothing in it is ours any more.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn close(self) -> Result<(), JournalError> {
        if self.entries.iter().any(|e| e.state.is_ours() || !e.persisted.is_empty()) {
            return Ok(());
        }
        fs::remove_file(&self.path)
            .map_err(|source| JournalError::File { path: self.path.clone(), source })
    }
}

/// The entries as the last line about each says, and the length of the whole lines; or the number of a
/// line that is none.
fn parse(text: &[u8]) -> Result<(Vec<Entry>, usize), usize> {
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let mut entries: Vec<Entry> = Vec::new();
    for (n, line) in text[..whole].split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let entry: Entry = serde_json::from_slice(line).map_err(|_| n + 1)?;
        match entries.iter_mut().find(|e| e.id == entry.id) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    Ok((entries, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(value: &str) -> Change {
        Change::Sysctl { name: "net.core.rmem_max".into(), value: value.into() }
    }

    fn step(rule: &'static str, old: &str, new: &str) -> Step {
        Step {
            rule,
            why: String::new(),
            old: sysctl(old),
            new: sysctl(new),
            risk: Risk::Safe,
            verify: String::new(),
            before: Before::default(),
        }
    }

    fn place(test: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("linerate-tune-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir.join("tune.journal")
    }

    #[test]
    fn what_was_written_is_read_and_a_cut_line_was_never_made() {
        let path = place("cut");
        let mut journal = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse(_))));
        let one = journal.begin(7, &step("R43", "1", "2")).unwrap();
        journal.note(one, |e| e.state = State::Applied).unwrap();
        let two = journal.begin(7, &step("R81", "2", "4")).unwrap();
        assert_eq!((one, two), (1, 2));
        drop(journal);
        let text = fs::read(&path).unwrap();
        let lines: Vec<usize> =
            text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for len in 0..=text.len() {
            fs::write(&path, &text[..len]).unwrap();
            let journal = Journal::open(&path).unwrap();
            let expected = match lines.iter().filter(|at| **at <= len).count() {
                0 => vec![],
                1 => vec![State::Begun],
                2 => vec![State::Applied],
                _ => vec![State::Applied, State::Begun],
            };
            let states: Vec<State> = journal.entries().iter().map(|e| e.state).collect();
            assert_eq!(states, expected, "cut at {len}");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_line_that_is_not_ours_is_said_and_nothing_is_lost() {
        let path = place("garbled");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"id\":1}\nmine\n").unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Garbled { line: 1, .. })));
        assert_eq!(fs::read(&path).unwrap(), b"{\"id\":1}\nmine\n");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_was_left_in_the_middle_is_known_as_such() {
        let path = place("middle");
        let mut journal = Journal::open(&path).unwrap();
        journal.set_keep_within(Duration::ZERO);
        let plain = journal.begin(7, &step("R43", "1", "2")).unwrap();
        let risky = Step { risk: Risk::Flap, ..step("R81", "2", "4") };
        let risky = journal.begin(7, &risky).unwrap();
        let abandoned = |journal: &Journal| -> Vec<bool> {
            journal.entries().iter().map(Entry::is_abandoned).collect()
        };
        assert_eq!(abandoned(&journal), [true, true]);
        for id in [plain, risky] {
            journal.note(id, |e| e.state = State::Trying).unwrap();
        }
        assert_eq!(abandoned(&journal), [true, true]);
        for id in [plain, risky] {
            journal.note(id, |e| e.state = State::Applied).unwrap();
        }
        assert_eq!(abandoned(&journal), [false, true], "the time to keep it is over at once");
        journal.note(risky, |e| e.state = State::Kept).unwrap();
        drop(journal);
        assert_eq!(abandoned(&Journal::open(&path).unwrap()), [false, false]);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_file_goes_when_nothing_is_ours() {
        let path = place("gone");
        let mut journal = Journal::open(&path).unwrap();
        let id = journal.begin(7, &step("R43", "1", "2")).unwrap();
        journal.close().unwrap();
        assert!(path.exists());
        let mut journal = Journal::open(&path).unwrap();
        journal.note(id, |e| e.state = State::RolledBack).unwrap();
        journal.close().unwrap();
        assert!(!path.exists());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

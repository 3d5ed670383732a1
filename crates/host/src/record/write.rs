//! The writing end of a record.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::wire::{put, put_bytes, zigzag};
use super::{
    ANSWER_MAX, Answer, Answers, DEFLATED, HEAD, KEY_EVERY, KIND_DELTA, KIND_KEY, MAGIC,
    MOMENT_MAX, Moment, Question, crc32, patch, read,
};

/// Writes moments to a file.
pub struct Writer {
    file: File,
    encoder: Encoder,
    bytes: u64,
}

impl Writer {
    /// Begins a record, or goes on with the one that is there: what was cut off at its end is removed.
    /// Only the owner can read a new file.
    ///
    /// # Errors
    /// `InvalidData` if the file is something else: it is not touched. Others as they come.
    pub fn open(path: &Path) -> io::Result<Writer> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        let end = if len == 0 { 0 } else { read::sound_len(&mut file)? };
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        if end == 0 {
            file.write_all(MAGIC)?;
        }
        Ok(Writer { file, encoder: Encoder::default(), bytes: end.max(MAGIC.len() as u64) })
    }

    /// Whether the next moment will stand alone: then all questions are to be asked that one who knows
    /// nothing asks.
    #[must_use]
    pub fn begins_anew(&self) -> bool {
        self.encoder.left == 0
    }

    /// Adds a moment: one write. Returns how many bytes it took.
    ///
    /// # Errors
    /// Those of the write; what was written of the moment is removed again if that is possible, so that a
    /// full disk leaves a record that ends before it.
    pub fn write(&mut self, moment: Moment, answers: &Answers) -> io::Result<u64> {
        let block = block(self.encoder.encode(moment, answers));
        if let Err(e) = self.file.write_all(&block) {
            self.encoder = Encoder::default();
            let _ = self.file.set_len(self.bytes);
            let _ = self.file.seek(SeekFrom::Start(self.bytes));
            return Err(e);
        }
        self.bytes += block.len() as u64;
        Ok(block.len() as u64)
    }

    /// Has the kernel put on the disk what was written.
    ///
    /// # Errors
    /// Those of `fdatasync`.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// How long the file is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn block((kind, payload): (u8, Vec<u8>)) -> Vec<u8> {
    let small = miniz_oxide::deflate::compress_to_vec(&payload, 6);
    let (kind, payload) = match small.len() < payload.len() {
        true => (kind | DEFLATED, small),
        false => (kind, payload),
    };
    let len = u32::try_from(payload.len()).expect("a moment is shorter than MOMENT_MAX");
    let mut block = Vec::with_capacity(HEAD + payload.len());
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(&crc32(&[&[kind], &payload]).to_le_bytes());
    block.push(kind);
    block.extend_from_slice(&payload);
    block
}

/// Moments to payloads.
#[derive(Default)]
pub(super) struct Encoder {
    ids: HashMap<Question, usize>,
    last: Vec<Option<Answer>>,
    /// Which names were read at the last moment of each tier.
    sets: [Vec<usize>; 2],
    moment: Moment,
    /// Moments until one that stands alone.
    left: u32,
}

impl Encoder {
    /// The kind of the block, and its payload.
    pub(super) fn encode(&mut self, moment: Moment, answers: &Answers) -> (u8, Vec<u8>) {
        let key = self.left == 0;
        if key {
            *self = Encoder { left: KEY_EVERY, ..Encoder::default() };
        }
        self.left -= 1;
        let mut out = Vec::new();
        let step = |now: u64, then: u64| zigzag(now.wrapping_sub(then) as i64);
        put(&mut out, step(moment.wall_ns, self.moment.wall_ns));
        put(&mut out, step(moment.monotonic_ns, self.moment.monotonic_ns));
        out.push(u8::from(moment.full));
        self.moment = moment;

        let fresh: Vec<&Question> = answers.keys().filter(|q| !self.ids.contains_key(q)).collect();
        put(&mut out, fresh.len() as u64);
        for question in fresh {
            out.push(u8::from(question.list));
            put_bytes(&mut out, question.name.as_bytes());
            self.ids.insert(question.clone(), self.last.len());
            self.last.push(None);
        }
        let mut set: Vec<usize> = answers.keys().map(|q| self.ids[q]).collect();
        set.sort_unstable();
        let known = &mut self.sets[usize::from(moment.full)];
        put(&mut out, u64::from(*known != set));
        if *known != set {
            put(&mut out, set.len() as u64);
            put_gaps(&mut out, &set);
            *known = set;
        }
        self.changes(&mut out, answers);
        (if key { KIND_KEY } else { KIND_DELTA }, out)
    }

    fn changes(&mut self, out: &mut Vec<u8>, answers: &Answers) {
        let mut changes: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut room = MOMENT_MAX / 2;
        for (question, answer) in answers {
            let id = self.ids[question];
            let kept;
            let answer = match answer {
                Answer::Bytes(bytes) if bytes.len() > ANSWER_MAX.min(room) => {
                    let why = format!("its {} bytes are too many for a record", bytes.len());
                    kept = Answer::Failed((&io::Error::other(why)).into());
                    &kept
                }
                answer => answer,
            };
            if self.last[id].as_ref() == Some(answer) {
                continue;
            }
            let change = change(self.last[id].as_ref(), answer);
            room = room.saturating_sub(change.len());
            changes.push((id, change));
            self.last[id] = Some(answer.clone());
        }
        changes.sort_unstable_by_key(|(id, _)| *id);
        put(out, changes.len() as u64);
        put_gaps(out, &changes.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        changes.iter().for_each(|(_, change)| out.extend_from_slice(change));
    }
}

/// Ascending numbers by what lies between them.
fn put_gaps(out: &mut Vec<u8>, ids: &[usize]) {
    let mut next = 0;
    for id in ids {
        put(out, (id - next) as u64);
        next = id + 1;
    }
}

pub(super) const WHOLE: u8 = 0;
pub(super) const PATCH: u8 = 1;
pub(super) const FAILED: u8 = 2;
pub(super) const NAMES: u8 = 3;

/// Errors that a reader tells apart, and their numbers. Others are `Other`.
pub(super) const KINDS: [(u8, io::ErrorKind); 6] = [
    (1, io::ErrorKind::NotFound),
    (2, io::ErrorKind::PermissionDenied),
    (3, io::ErrorKind::Unsupported),
    (4, io::ErrorKind::InvalidInput),
    (5, io::ErrorKind::InvalidData),
    (6, io::ErrorKind::TimedOut),
];

fn change(old: Option<&Answer>, new: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    match (old, new) {
        (Some(Answer::Bytes(old)), Answer::Bytes(new)) => {
            let patch = patch::diff(old, new);
            if patch.len() < new.len() {
                out.push(PATCH);
                put_bytes(&mut out, &patch);
            } else {
                out.push(WHOLE);
                put_bytes(&mut out, new);
            }
        }
        (_, Answer::Bytes(new)) => {
            out.push(WHOLE);
            put_bytes(&mut out, new);
        }
        (_, Answer::Names(names)) => {
            out.push(NAMES);
            put(&mut out, names.len() as u64);
            names.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
        }
        (_, Answer::Failed(failure)) => {
            out.push(FAILED);
            let errno = failure.errno.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            put(&mut out, errno);
            if errno == 0 {
                out.push(KINDS.iter().find(|(_, k)| *k == failure.kind).map_or(0, |(n, _)| *n));
                put_bytes(&mut out, failure.why.as_bytes());
            }
        }
    }
    out
}

/// The next `len` bytes of a file; `None` if it ends before.
pub(super) fn read_some(file: &mut impl Read, len: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.by_ref().take(len as u64).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len).then_some(bytes))
}

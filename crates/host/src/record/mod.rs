//! Records: what a [`Source`] answered, moment after moment, in one file.
//!
//! ```text
//! file   = magic, block*
//! block  = length of the payload (u32), CRC-32 of kind and payload (u32), kind (u8), payload
//! kind   = 0: a moment that stands alone, 1: one that builds on the moment before; + 128: deflated
//! moment = times, tier, new names, which names were read, what changed of their answers
//! ```
//!
//! Integers are little-endian, or LEB128 inside of a payload. The bytes of files and messages are kept
//! as they were, so that a record is judged by the rules of a later version, and by the parsers of one.
//! An answer is stored as its difference to the same name's answer before ([`patch`]): counters that grew
//! cost two or three bytes each, and what stayed costs nothing.
//!
//! Every moment is one `write`, so that a crash of the program loses nothing, and a crash of the host
//! what came after the last [`Writer::sync`]. A reader takes all blocks up to the first that is cut or
//! damaged, and says where it ended. Each [`KEY_EVERY`]th moment stands alone.

pub mod patch;
mod read;
mod wire;
mod write;

use std::collections::BTreeMap;
use std::io;

pub use read::{End, Reader, Replay};
pub use write::Writer;

use crate::source::Source;

const MAGIC: &[u8; 8] = b"lrec\x01\r\n\x1a";
/// Bytes before a block's payload.
const HEAD: usize = 9;
const KIND_KEY: u8 = 0;
const KIND_DELTA: u8 = 1;
const DEFLATED: u8 = 128;
/// Moments from one that stands alone to the next.
pub const KEY_EVERY: u32 = 600;
/// The largest moment, in bytes before compression; larger answers are left out with a note in their
/// place.
const MOMENT_MAX: usize = 128 << 20;
/// The largest answer that is recorded.
const ANSWER_MAX: usize = 16 << 20;
/// The longest name.
const NAME_MAX: usize = 4096;
/// The most names of one record.
const NAMES_MAX: usize = 1 << 20;

/// When a moment was, and how much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since 1970 (UTC).
    pub wall_ns: u64,
    /// Nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// Everything was read, not the basic tier alone.
    pub full: bool,
    /// It stands alone, and who asks began anew: what is remembered of questions before does not count.
    /// The writer decides ([`Writer::begins_anew`]).
    pub anew: bool,
}

/// What a source was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// The names in a directory, instead of the bytes of a file.
    pub list: bool,
    /// The name.
    pub name: String,
}

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes of a file or message.
    Bytes(Vec<u8>),
    /// The names in a directory.
    Names(Vec<String>),
    /// It failed so.
    Failed(Failure),
}

/// An error as it can be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kernel's number, if it was the kernel's; kind and text follow from it.
    errno: Option<i32>,
    kind: io::ErrorKind,
    why: String,
}

impl From<&io::Error> for Failure {
    fn from(e: &io::Error) -> Failure {
        Failure { errno: e.raw_os_error(), kind: e.kind(), why: e.to_string() }
    }
}

impl From<&Failure> for io::Error {
    fn from(failure: &Failure) -> io::Error {
        match failure.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(failure.kind, failure.why.clone()),
        }
    }
}

/// All that was asked and answered at one moment.
pub type Answers = BTreeMap<Question, Answer>;

/// A source that notes what another one answers.
pub struct Tee<'a> {
    source: &'a mut dyn Source,
    answers: Answers,
}

impl<'a> Tee<'a> {
    /// Notes what `source` answers.
    pub fn new(source: &'a mut dyn Source) -> Tee<'a> {
        Tee { source, answers: Answers::new() }
    }

    /// What was asked and answered.
    #[must_use]
    pub fn into_answers(self) -> Answers {
        self.answers
    }

    fn note<T>(&mut self, list: bool, name: &str, answer: &io::Result<T>, ok: fn(&T) -> Answer) {
        let answer = match answer {
            Ok(value) => ok(value),
            Err(e) => Answer::Failed(e.into()),
        };
        self.answers.insert(Question { list, name: name.to_owned() }, answer);
    }
}

impl Source for Tee<'_> {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let answer = self.source.read(name);
        self.note(false, name, &answer, |bytes| Answer::Bytes(bytes.clone()));
        answer
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let answer = self.source.list(dir);
        self.note(true, dir, &answer, |names| Answer::Names(names.clone()));
        answer
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

/// Whether these bytes begin as a record does.
#[must_use]
pub fn is_record(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// CRC-32 (IEEE 802.3, reflected).
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    let bytes = parts.iter().flat_map(|p| p.iter());
    !bytes.fold(!0, |c, b| TABLE[usize::from(c as u8 ^ b)] ^ (c >> 8))
}

#[cfg(test)]
mod tests;

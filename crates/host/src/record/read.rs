//! The reading end of a record.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::wire::{Take, unzigzag};
use super::write::{FAILED, KINDS, NAMES, PATCH, WHOLE, read_some};
use super::{
    ANSWER_MAX, Answer, DEFLATED, HEAD, KIND_DELTA, KIND_KEY, MAGIC, MOMENT_MAX, Moment, NAME_MAX,
    NAMES_MAX, Question, crc32, patch,
};
use crate::source::Source;

/// How a record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind a whole moment.
    Whole,
    /// In the middle of one, or before one that is damaged.
    Cut {
        /// Where the last whole one ends, in bytes from the beginning.
        at: u64,
        /// What is wrong there.
        why: &'static str,
    },
}

/// Reads the moments of a record, one behind the other.
pub struct Reader {
    file: BufReader<File>,
    decoder: Decoder,
    at: u64,
    end: Option<End>,
}

impl Reader {
    /// Opens a record.
    ///
    /// # Errors
    /// `InvalidData` if it is none; others as they come.
    pub fn open(path: &Path) -> io::Result<Reader> {
        // A pipe that nobody writes to would be waited for, and a device may have no end.
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
        }
        let mut file = BufReader::new(File::open(path)?);
        let at = begin(&mut file)?;
        Ok(Reader { file, decoder: Decoder::default(), at, end: None })
    }

    /// Goes to the next moment, of which [`Reader::source`] has the answers then; `None` at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn advance(&mut self) -> io::Result<Option<Moment>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let ended = match next_block(&mut self.file)? {
            Block::End => End::Whole,
            Block::Bad(why) => End::Cut { at: self.at, why },
            Block::Good { len, kind, payload } => match self.decoder.decode(kind, &payload) {
                Some(moment) => {
                    self.at += len;
                    return Ok(Some(moment));
                }
                None => End::Cut { at: self.at, why: "a moment that does not fit" },
            },
        };
        self.end = Some(ended);
        Ok(None)
    }

    /// The answers of the present moment.
    pub fn source(&self) -> Replay<'_> {
        Replay(&self.decoder)
    }

    /// How the record ended, once [`Reader::advance`] said that it did.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }
}

/// One moment of a record as a source.
pub struct Replay<'a>(&'a Decoder);

impl Replay<'_> {
    fn answer(&self, list: bool, name: &str) -> io::Result<&Answer> {
        let question = Question { list, name: name.to_owned() };
        let missing = |why| io::Error::new(io::ErrorKind::NotFound, why);
        let id = *self.0.ids.get(&question).ok_or_else(|| missing("not in the record"))?;
        if !self.0.is_now(id) {
            return Err(missing("not in this moment of the record"));
        }
        match self.0.last[id].as_ref() {
            Some(Answer::Failed(failure)) => Err(failure.into()),
            Some(answer) => Ok(answer),
            None => Err(missing("not in this moment of the record")),
        }
    }
}

impl Source for Replay<'_> {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        match self.answer(false, name)? {
            Answer::Bytes(bytes) => Ok(bytes.clone()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        match self.answer(true, dir)? {
            Answer::Names(names) => Ok(names.clone()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Where the last whole block ends.
pub(super) fn sound_len(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut file = BufReader::new(file);
    let mut at = begin(&mut file)?;
    while let Block::Good { len, .. } = next_block(&mut file)? {
        at += len;
    }
    Ok(at)
}

fn begin(file: &mut impl Read) -> io::Result<u64> {
    let magic = read_some(file, MAGIC.len())?;
    match magic.is_some_and(|m| m == MAGIC) {
        true => Ok(MAGIC.len() as u64),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no record of linerate")),
    }
}

enum Block {
    Good { len: u64, kind: u8, payload: Vec<u8> },
    Bad(&'static str),
    End,
}

fn next_block(file: &mut impl Read) -> io::Result<Block> {
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let (len, crc, kind) = match head[..] {
        [] => return Ok(Block::End),
        [a, b, c, d, e, f, g, h, kind] => {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), kind)
        }
        _ => return Ok(Block::Bad("the file ends in the middle of a moment")),
    };
    if len as usize > MOMENT_MAX {
        return Ok(Block::Bad("a moment that is too large to be one"));
    }
    let Some(payload) = read_some(file, len as usize)? else {
        return Ok(Block::Bad("the file ends in the middle of a moment"));
    };
    // No fuzzer guesses a checksum.
    if crc32(&[&[kind], &payload]) != crc && !cfg!(fuzzing) {
        return Ok(Block::Bad("a moment whose checksum is wrong"));
    }
    let payload = match kind & DEFLATED {
        0 => payload,
        _ => match miniz_oxide::inflate::decompress_to_vec_with_limit(&payload, MOMENT_MAX) {
            Ok(payload) => payload,
            Err(_) => return Ok(Block::Bad("a moment that can not be inflated")),
        },
    };
    Ok(Block::Good { len: HEAD as u64 + u64::from(len), kind: kind & !DEFLATED, payload })
}

/// Payloads to moments.
#[derive(Default)]
pub(super) struct Decoder {
    ids: HashMap<Question, usize>,
    last: Vec<Option<Answer>>,
    sets: [Vec<usize>; 2],
    moment: Moment,
    begun: bool,
}

impl Decoder {
    /// Takes a block; `None` if it is no moment that fits, after which nothing more can be read.
    pub(super) fn decode(&mut self, kind: u8, payload: &[u8]) -> Option<Moment> {
        match (kind, self.begun) {
            (KIND_KEY, _) => *self = Decoder { begun: true, ..Decoder::default() },
            (KIND_DELTA, true) => {}
            _ => return None,
        }
        let mut from = Take(payload);
        let step = |by: u64, then: u64| then.wrapping_add(unzigzag(by) as u64);
        self.moment = Moment {
            wall_ns: step(from.number()?, self.moment.wall_ns),
            monotonic_ns: step(from.number()?, self.moment.monotonic_ns),
            full: from.byte()? & 1 == 1,
            anew: kind == KIND_KEY,
        };
        for _ in 0..from.count(NAMES_MAX)? {
            let list = from.byte()? == 1;
            let name = from.text(NAME_MAX)?;
            if self.last.len() >= NAMES_MAX {
                return None;
            }
            self.ids.insert(Question { list, name }, self.last.len());
            self.last.push(None);
        }
        if from.number()? == 1 {
            let count = from.count(self.last.len())?;
            self.sets[usize::from(self.moment.full)] = self.gaps(&mut from, count)?;
        }
        let count = from.count(self.last.len())?;
        for id in self.gaps(&mut from, count)? {
            let answer = self.change(id, &mut from)?;
            self.last[id] = Some(answer);
        }
        from.is_empty().then_some(self.moment)
    }

    /// Ids in ascending order.
    fn gaps(&self, from: &mut Take<'_>, count: usize) -> Option<Vec<usize>> {
        let mut next = 0usize;
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let id = next.checked_add(from.count(self.last.len())?)?;
            if id >= self.last.len() {
                return None;
            }
            ids.push(id);
            next = id + 1;
        }
        Some(ids)
    }

    fn change(&self, id: usize, from: &mut Take<'_>) -> Option<Answer> {
        match from.byte()? {
            WHOLE => Some(Answer::Bytes(from.bytes(ANSWER_MAX)?.to_vec())),
            PATCH => {
                let Some(Answer::Bytes(old)) = &self.last[id] else { return None };
                patch::apply(old, from.bytes(ANSWER_MAX)?, ANSWER_MAX).map(Answer::Bytes)
            }
            FAILED => {
                let errno = i32::try_from(from.number()?).ok()?;
                if errno > 0 {
                    return Some(Answer::Failed((&io::Error::from_raw_os_error(errno)).into()));
                }
                let number = from.byte()?;
                let kind = KINDS.iter().find(|(n, _)| *n == number);
                let kind = kind.map_or(io::ErrorKind::Other, |(_, kind)| *kind);
                let why = from.text(ANSWER_MAX)?;
                Some(Answer::Failed((&io::Error::new(kind, why)).into()))
            }
            NAMES => {
                // A name takes a byte at least, so that the count is bounded by what is there.
                let count = from.count(from.0.len())?;
                (0..count).map(|_| from.text(NAME_MAX)).collect::<Option<_>>().map(Answer::Names)
            }
            _ => None,
        }
    }

    fn is_now(&self, id: usize) -> bool {
        self.sets[usize::from(self.moment.full)].binary_search(&id).is_ok()
    }
}

//! The reader: tells the formats apart, and reads pcap itself; pcapng's blocks are in [`super::ng`].

use super::ng::Section;
use super::{CAPTURED_BYTES_MAX, Direction, Endian, Fault, Frame, LinkType, PcapError};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Reads a capture packet by packet, from anything that gives bytes in order. It holds one
/// packet in memory and allocates at most [`CAPTURED_BYTES_MAX`] and a little.
#[derive(Debug)]
pub struct Reader<R> {
    pub(super) source: Source<R>,
    format: Format,
    /// After an error nothing can be read: lengths are no longer known.
    over: bool,
}

#[derive(Debug)]
enum Format {
    Pcap { endian: Endian, link: LinkType, ns_per_unit: u32 },
    Ng(Section),
}

/// The bytes of the file, with the offset of the next one.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    name: String,
    offset: u64,
    pub(super) buf: Vec<u8>,
}

impl<R: BufRead> Source<R> {
    pub(super) fn error(&self, offset: u64, fault: Fault) -> PcapError {
        PcapError { file: self.name.clone(), offset, fault }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// True at the end of the file.
    pub(super) fn at_end(&mut self) -> Result<bool, PcapError> {
        loop {
            match self.inner.fill_buf() {
                Ok(bytes) => return Ok(bytes.is_empty()),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(self.error(self.offset, Fault::Io(err))),
            }
        }
    }

    /// Reads `N` bytes that belong to `what`, which begins at `at`.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
        at: u64,
    ) -> Result<[u8; N], PcapError> {
        let mut out = [0; N];
        let found = self.fill(at, &mut out)?;
        if found < N {
            let fault = Fault::Truncated { what, wanted: N as u64, found: found as u64 };
            return Err(self.error(at, fault));
        }
        Ok(out)
    }

    /// Reads `len` bytes, checked by the caller against a limit, into `self.buf`.
    pub(super) fn body(
        &mut self,
        what: &'static str,
        at: u64,
        len: usize,
    ) -> Result<(), PcapError> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        buf.resize(len, 0);
        let found = self.fill(at, &mut buf);
        self.buf = buf;
        match found? {
            found if found < len => {
                let fault = Fault::Truncated { what, wanted: len as u64, found: found as u64 };
                Err(self.error(at, fault))
            }
            _ => Ok(()),
        }
    }

    /// Reads and forgets `len` bytes.
    pub(super) fn skip(&mut self, what: &'static str, at: u64, len: u64) -> Result<(), PcapError> {
        let mut left = len;
        while left > 0 {
            if self.at_end()? {
                let fault = Fault::Truncated { what, wanted: len, found: len - left };
                return Err(self.error(at, fault));
            }
            let buffered = self.inner.fill_buf().map_or(0, <[u8]>::len) as u64;
            let step = buffered.min(left);
            self.inner.consume(step as usize);
            self.offset += step;
            left -= step;
        }
        Ok(())
    }

    fn fill(&mut self, at: u64, out: &mut [u8]) -> Result<usize, PcapError> {
        let mut found = 0;
        while let Some(rest) = out.get_mut(found..).filter(|r| !r.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) => break,
                Ok(n) => found += n,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(self.error(at, Fault::Io(err))),
            }
        }
        self.offset += found as u64;
        Ok(found)
    }
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Reader::new`].
    pub fn open(path: &Path) -> Result<Self, PcapError> {
        let file = path.display().to_string();
        match File::open(path) {
            Ok(opened) => Reader::new(BufReader::with_capacity(64 * 1024, opened), &file),
            Err(err) => Err(PcapError { file, offset: 0, fault: Fault::Io(err) }),
        }
    }
}

const NG_SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

impl<R: BufRead> Reader<R> {
    /// Reads the file's header; `name` is what errors call the file.
    ///
    /// # Errors
    /// [`Fault::Magic`] and its kin if this is no capture, [`Fault::Io`].
    pub fn new(inner: R, name: &str) -> Result<Self, PcapError> {
        let mut source = Source { inner, name: name.to_owned(), offset: 0, buf: Vec::new() };
        let magic: [u8; 4] = source.array("the file's first word", 0)?;
        let (endian, ns_per_unit) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Endian::Little, 1000),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Endian::Big, 1000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Endian::Little, 1),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Endian::Big, 1),
            [0x34, 0xcd, 0xb2, 0xa1] | [0xa1, 0xb2, 0xcd, 0x34] => {
                return Err(source.error(0, Fault::ModifiedPcap));
            }
            NG_SECTION => {
                let section = Section::read(&mut source, 0)?;
                return Ok(Reader { source, format: Format::Ng(section), over: false });
            }
            _ => return Err(source.error(0, Fault::Magic(magic))),
        };
        let head: [u8; 20] = source.array("the file header", 0)?;
        let (major, minor) = (endian.u16([head[0], head[1]]), endian.u16([head[2], head[3]]));
        // Versions before 2.3 had the two lengths of a record the other way round.
        if major != 2 || minor < 3 {
            return Err(source.error(4, Fault::Version { major, minor }));
        }
        // The upper half of the word says how long a frame check sequence is.
        let link = LinkType(endian.u32([head[16], head[17], head[18], head[19]]) as u16);
        Ok(Reader { source, format: Format::Pcap { endian, link, ns_per_unit }, over: false })
    }

    /// The next packet; `None` at the end of the file. After an error there is no next one.
    ///
    /// # Errors
    /// [`PcapError`] with the byte offset of the record or block that is wrong.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, PcapError> {
        if self.over || self.source.at_end()? {
            return Ok(None);
        }
        self.over = true;
        let next = match &mut self.format {
            &mut Format::Pcap { endian, link, ns_per_unit } => {
                pcap_record(&mut self.source, endian, link, ns_per_unit).map(Some)?
            }
            Format::Ng(section) => section.next_packet(&mut self.source)?,
        };
        self.over = false;
        Ok(next.map(|parts| Frame {
            link: parts.link,
            interface: parts.interface,
            ts_ns: parts.ts_ns,
            orig_len: parts.orig_len,
            data: self.source.buf.get(parts.data.clone()).unwrap_or_default(),
            direction: parts.direction,
            offset: parts.offset,
        }))
    }

    /// The error for a frame of this file, at `offset`, whose link header does not come off.
    #[must_use]
    pub fn link_fault(&self, offset: u64, err: super::LinkError) -> PcapError {
        self.source.error(offset, Fault::Link(err))
    }
}

/// A [`Frame`] whose data is named by its place in the buffer.
pub(super) struct Parts {
    pub(super) link: LinkType,
    pub(super) interface: u32,
    pub(super) ts_ns: Option<u64>,
    pub(super) orig_len: u32,
    pub(super) data: std::ops::Range<usize>,
    pub(super) direction: Direction,
    pub(super) offset: u64,
}

fn pcap_record<R: BufRead>(
    source: &mut Source<R>,
    endian: Endian,
    link: LinkType,
    ns_per_unit: u32,
) -> Result<Parts, PcapError> {
    let offset = source.offset();
    let head: [u8; 16] = source.array("a packet header", offset)?;
    let field = |i: usize| endian.u32([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let (seconds, fraction, captured, orig_len) = (field(0), field(4), field(8), field(12));
    let len = captured_len(source, offset, captured)?;
    source.body("a packet", offset, len)?;
    let ts_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * u64::from(ns_per_unit);
    Ok(Parts {
        link,
        interface: 0,
        ts_ns: Some(ts_ns),
        orig_len,
        data: 0..len,
        direction: Direction::Unknown,
        offset,
    })
}

/// The length of a packet's data, if it is one that a packet can have.
pub(super) fn captured_len<R: BufRead>(
    source: &Source<R>,
    offset: u64,
    captured: u32,
) -> Result<usize, PcapError> {
    match usize::try_from(captured) {
        Ok(len) if len <= CAPTURED_BYTES_MAX => Ok(len),
        _ => Err(source.error(
            offset,
            Fault::Length {
                what: "a captured packet",
                value: u64::from(captured),
                limit: CAPTURED_BYTES_MAX as u64,
            },
        )),
    }
}

//! pcapng: sections, interfaces, packets; every other block is passed over.

use super::read::{Parts, Source, captured_len};
use super::{CAPTURED_BYTES_MAX, Direction, Endian, Fault, LinkType, PcapError};
use std::io::BufRead;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The Packet Block of early files, obsolete since 2009.
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// A block we parse: a packet and 128 KiB of options at most.
const BLOCK_BYTES_MAX: u32 = CAPTURED_BYTES_MAX as u32 + 128 * 1024;
const INTERFACES_MAX: usize = 4096;

const OPT_END: u16 = 0;
const EPB_FLAGS: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// The section we are in: its byte order and its interfaces.
#[derive(Debug)]
pub(super) struct Section {
    endian: Endian,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    /// Bytes a simple packet is cut at; 0: none.
    snaplen: u32,
    clock: Clock,
}

/// How the two words of a timestamp become nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Clock {
    ticks_per_second: u64,
    offset_seconds: i64,
}

impl Clock {
    fn ns(self, high: u32, low: u32) -> u64 {
        let ticks = u128::from(high) << 32 | u128::from(low);
        let ns = ticks * 1_000_000_000 / u128::from(self.ticks_per_second);
        let shifted = i128::try_from(ns)
            .unwrap_or(i128::MAX)
            .saturating_add(i128::from(self.offset_seconds) * 1_000_000_000);
        u64::try_from(shifted).unwrap_or(if shifted < 0 { 0 } else { u64::MAX })
    }
}

impl Section {
    /// Reads a section header whose type word, at `offset`, has been read.
    pub(super) fn read<R: BufRead>(
        source: &mut Source<R>,
        offset: u64,
    ) -> Result<Section, PcapError> {
        let [l0, l1, l2, l3, mark @ ..]: [u8; 8] = source.array("a section header", offset)?;
        let endian = match mark {
            [0x4d, 0x3c, 0x2b, 0x1a] => Endian::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Endian::Big,
            _ => return Err(source.error(offset, Fault::ByteOrder(mark))),
        };
        let len = endian.u32([l0, l1, l2, l3]);
        // At least type, length and mark (read already), versions, section length, and length.
        let body = block_body(source, offset, len, 12 + 16)? + 16;
        source.body("a section header", offset, body)?;
        let version = (endian.u16_at(&source.buf, 0), endian.u16_at(&source.buf, 2));
        // 1.2 is what some writers put for 1.0 with options in every block.
        let (Some(major @ 1), Some(minor @ (0 | 2))) = version else {
            let (major, minor) = (version.0.unwrap_or(0), version.1.unwrap_or(0));
            return Err(source.error(offset, Fault::Version { major, minor }));
        };
        let _ = (major, minor);
        trailer(source, offset, endian, len)?;
        Ok(Section { endian, interfaces: Vec::new() })
    }

    /// Reads blocks up to the next packet; `None` at the end of the file.
    pub(super) fn next_packet<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Parts>, PcapError> {
        while !source.at_end()? {
            let offset = source.offset();
            let word: [u8; 4] = source.array("a block", offset)?;
            // The type of a section header reads the same in both byte orders.
            if u32::from_be_bytes(word) == SECTION_HEADER {
                *self = Section::read(source, offset)?;
                continue;
            }
            let kind = self.endian.u32(word);
            let len_word = source.array("a block", offset)?;
            let len = self.endian.u32(len_word);
            if !matches!(kind, INTERFACE | OLD_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                self.pass_over(source, offset, len)?;
                continue;
            }
            let body = block_body(source, offset, len, 12)?;
            source.body("a block", offset, body + 4)?;
            trailer(source, offset, self.endian, len)?;
            source.buf.truncate(body);
            match kind {
                INTERFACE => self.interface(source, offset)?,
                OLD_PACKET => return self.old_packet(source, offset).map(Some),
                SIMPLE_PACKET => return self.simple_packet(source, offset).map(Some),
                _ => return self.enhanced_packet(source, offset).map(Some),
            }
        }
        Ok(None)
    }

    /// A block of no interest may have any length: it is not held in memory.
    fn pass_over<R: BufRead>(
        &self,
        source: &mut Source<R>,
        offset: u64,
        len: u32,
    ) -> Result<(), PcapError> {
        if len < 12 || !len.is_multiple_of(4) {
            return Err(bad_block(source, offset, len));
        }
        source.skip("a block", offset, u64::from(len - 12))?;
        let end = source.array("a block", offset)?;
        let end = self.endian.u32(end);
        if end != len {
            return Err(source.error(offset, Fault::Trailer { start: len, end }));
        }
        Ok(())
    }

    fn interface<R: BufRead>(&mut self, source: &Source<R>, offset: u64) -> Result<(), PcapError> {
        let body = &source.buf[..];
        let (Some(link), Some(snaplen)) =
            (self.endian.u16_at(body, 0), self.endian.u32_at(body, 4))
        else {
            return Err(short_block(source, offset));
        };
        if self.interfaces.len() == INTERFACES_MAX {
            return Err(source.error(offset, Fault::Interfaces));
        }
        let mut clock = Clock { ticks_per_second: 1_000_000, offset_seconds: 0 };
        for (code, value) in options(self.endian, body.get(8..).unwrap_or_default()) {
            match (code, value) {
                (IF_TSRESOL, &[resolution, ..]) => {
                    clock.ticks_per_second = ticks_per_second(resolution)
                        .ok_or_else(|| source.error(offset, Fault::Resolution(resolution)))?;
                }
                (IF_TSOFFSET, &[a, b, c, d, e, f, g, h, ..]) => {
                    let bytes = [a, b, c, d, e, f, g, h];
                    clock.offset_seconds = match self.endian {
                        Endian::Little => i64::from_le_bytes(bytes),
                        Endian::Big => i64::from_be_bytes(bytes),
                    };
                }
                _ => {}
            }
        }
        self.interfaces.push(Interface { link: LinkType(link), snaplen, clock });
        Ok(())
    }

    fn enhanced_packet<R: BufRead>(
        &self,
        source: &Source<R>,
        offset: u64,
    ) -> Result<Parts, PcapError> {
        let Some(id) = self.endian.u32_at(&source.buf, 0) else {
            return Err(short_block(source, offset));
        };
        self.timed_packet(source, offset, id)
    }

    fn old_packet<R: BufRead>(&self, source: &Source<R>, offset: u64) -> Result<Parts, PcapError> {
        // The same but for the first word, which is interface and drop count, 16 bits each.
        let Some(id) = self.endian.u16_at(&source.buf, 0) else {
            return Err(short_block(source, offset));
        };
        self.timed_packet(source, offset, u32::from(id))
    }

    fn timed_packet<R: BufRead>(
        &self,
        source: &Source<R>,
        offset: u64,
        interface: u32,
    ) -> Result<Parts, PcapError> {
        const DATA: usize = 20;
        let field = |at| self.endian.u32_at(&source.buf, at);
        let (Some(high), Some(low), Some(captured), Some(orig_len)) =
            (field(4), field(8), field(12), field(16))
        else {
            return Err(short_block(source, offset));
        };
        let described = self.described(source, offset, interface)?;
        let end = DATA + captured_len(source, offset, captured)?;
        if end > source.buf.len() {
            return Err(data_past_block(source, offset, captured, DATA));
        }
        let mut direction = Direction::Unknown;
        let rest = source.buf.get(end.next_multiple_of(4)..).unwrap_or_default();
        for (code, value) in options(self.endian, rest) {
            if code == EPB_FLAGS {
                direction = match self.endian.u32_at(value, 0).map(|flags| flags & 3) {
                    Some(1) => Direction::Inbound,
                    Some(2) => Direction::Outbound,
                    _ => Direction::Unknown,
                };
            }
        }
        Ok(Parts {
            link: described.link,
            interface,
            ts_ns: Some(described.clock.ns(high, low)),
            orig_len,
            data: DATA..end,
            direction,
            offset,
        })
    }

    fn simple_packet<R: BufRead>(
        &self,
        source: &Source<R>,
        offset: u64,
    ) -> Result<Parts, PcapError> {
        const DATA: usize = 4;
        let Some(orig_len) = self.endian.u32_at(&source.buf, 0) else {
            return Err(short_block(source, offset));
        };
        let described = self.described(source, offset, 0)?;
        let captured = match described.snaplen {
            0 => orig_len,
            snaplen => orig_len.min(snaplen),
        };
        let end = DATA + captured_len(source, offset, captured)?;
        if end > source.buf.len() {
            return Err(data_past_block(source, offset, captured, DATA));
        }
        Ok(Parts {
            link: described.link,
            interface: 0,
            ts_ns: None,
            orig_len,
            data: DATA..end,
            direction: Direction::Unknown,
            offset,
        })
    }

    fn described<R: BufRead>(
        &self,
        source: &Source<R>,
        offset: u64,
        id: u32,
    ) -> Result<Interface, PcapError> {
        usize::try_from(id)
            .ok()
            .and_then(|i| self.interfaces.get(i).copied())
            .ok_or_else(|| source.error(offset, Fault::Interface(id)))
    }
}

/// Ticks a second of `if_tsresol`: a power of ten, or of two with the top bit set.
fn ticks_per_second(resolution: u8) -> Option<u64> {
    match resolution {
        0..=0x7f => 10u64.checked_pow(u32::from(resolution)),
        _ => 1u64.checked_shl(u32::from(resolution & 0x7f)),
    }
}

/// The options at the end of a block; a malformed one ends the list, the packet stands.
fn options(endian: Endian, mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let code = endian.u16_at(bytes, 0)?;
        let len = usize::from(endian.u16_at(bytes, 2)?);
        if code == OPT_END {
            return None;
        }
        let value = bytes.get(4..4 + len)?;
        bytes = bytes.get((4 + len).next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}

/// Bytes between the length at the front of a block, which is `len` in all, and the one at its
/// end. `fixed` is what must be there besides.
fn block_body<R: BufRead>(
    source: &Source<R>,
    offset: u64,
    len: u32,
    fixed: u32,
) -> Result<usize, PcapError> {
    if len < fixed || !len.is_multiple_of(4) || len > BLOCK_BYTES_MAX {
        return Err(bad_block(source, offset, len));
    }
    Ok((len - fixed) as usize)
}

fn trailer<R: BufRead>(
    source: &Source<R>,
    offset: u64,
    endian: Endian,
    start: u32,
) -> Result<(), PcapError> {
    match source.buf.last_chunk().map(|b| endian.u32(*b)) {
        Some(end) if end == start => Ok(()),
        end => Err(source.error(offset, Fault::Trailer { start, end: end.unwrap_or(0) })),
    }
}

fn bad_block<R: BufRead>(source: &Source<R>, offset: u64, len: u32) -> PcapError {
    source.error(
        offset,
        Fault::Length { what: "a block", value: u64::from(len), limit: u64::from(BLOCK_BYTES_MAX) },
    )
}

fn short_block<R: BufRead>(source: &Source<R>, offset: u64) -> PcapError {
    let found = source.buf.len() as u64;
    source.error(offset, Fault::Truncated { what: "a block's fixed part", wanted: 20, found })
}

fn data_past_block<R: BufRead>(
    source: &Source<R>,
    offset: u64,
    captured: u32,
    data_at: usize,
) -> PcapError {
    source.error(
        offset,
        Fault::Length {
            what: "a captured packet",
            value: u64::from(captured),
            limit: source.buf.len().saturating_sub(data_at) as u64,
        },
    )
}

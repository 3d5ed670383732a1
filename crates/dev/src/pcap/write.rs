//! The pcapng writer: nanosecond clock, several interfaces, direction and comment a packet.

use super::{Direction, LinkType};
use std::io::{self, Write};

/// What the section header says about the recording. Empty strings are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Info<'a> {
    /// `shb_hardware`.
    pub hardware: &'a str,
    /// `shb_os`.
    pub os: &'a str,
    /// `shb_userappl`.
    pub application: &'a str,
}

/// Writes one section. Each block goes out in one `write_all`; put a `BufWriter` below it.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// Snap length of each interface.
    interfaces: Vec<u32>,
    block: Vec<u8>,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const OPT_COMMENT: u16 = 1;

impl<W: Write> Writer<W> {
    /// Writes the section header.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, info: Info<'_>) -> io::Result<Writer<W>> {
        let mut writer = Writer { out, interfaces: Vec::new(), block: Vec::new() };
        writer.begin(SECTION_HEADER);
        writer.block.extend_from_slice(&0x1a2b_3c4du32.to_ne_bytes());
        writer.block.extend_from_slice(&1u16.to_ne_bytes());
        writer.block.extend_from_slice(&0u16.to_ne_bytes());
        // Length of the section: not known.
        writer.block.extend_from_slice(&u64::MAX.to_ne_bytes());
        for (code, text) in [(2, info.hardware), (3, info.os), (4, info.application)] {
            if !text.is_empty() {
                writer.option(code, text.as_bytes());
            }
        }
        writer.end_options();
        writer.finish()?;
        Ok(writer)
    }

    /// Describes an interface and returns its number. Packets are cut at `snaplen` bytes; 0: never.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn add_interface(&mut self, name: &str, link: LinkType, snaplen: u32) -> io::Result<u32> {
        self.add_described(name, link, snaplen, "", "")
    }

    /// The same with a description, and the filter that packets passed; empty ones are left out.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn add_described(
        &mut self,
        name: &str,
        link: LinkType,
        snaplen: u32,
        description: &str,
        filter: &str,
    ) -> io::Result<u32> {
        self.begin(INTERFACE);
        self.block.extend_from_slice(&link.0.to_ne_bytes());
        self.block.extend_from_slice(&[0; 2]);
        self.block.extend_from_slice(&snaplen.to_ne_bytes());
        if !name.is_empty() {
            self.option(2, name.as_bytes());
        }
        if !description.is_empty() {
            self.option(3, description.as_bytes());
        }
        if !filter.is_empty() {
            // if_filter: a string (0), in pcap-filter's words.
            let text: Vec<u8> = std::iter::once(0).chain(filter.bytes()).collect();
            self.option(11, &text);
        }
        self.option(9, &[9]); // if_tsresol: 10^-9 s
        self.end_options();
        self.finish()?;
        let id = u32::try_from(self.interfaces.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.interfaces.push(snaplen);
        Ok(id)
    }

    /// Writes a packet that lies in `parts`, one after the other. `ts_ns` is nanoseconds since
    /// 1970; `comment` (a drop reason, say) is shown by readers beside the packet.
    ///
    /// # Errors
    /// `InvalidInput` for an interface that was not added or a packet of 4 GiB; those of `out`.
    pub fn packet(
        &mut self,
        interface: u32,
        ts_ns: u64,
        parts: &[&[u8]],
        direction: Direction,
        comment: Option<&str>,
    ) -> io::Result<()> {
        self.cut_packet(interface, ts_ns, parts, 0, direction, comment)
    }

    /// The same for a packet that was cut before: it had `orig_len` bytes.
    ///
    /// # Errors
    /// As [`Writer::packet`].
    pub fn cut_packet(
        &mut self,
        interface: u32,
        ts_ns: u64,
        parts: &[&[u8]],
        orig_len: u32,
        direction: Direction,
        comment: Option<&str>,
    ) -> io::Result<()> {
        let snaplen = usize::try_from(interface).ok().and_then(|i| self.interfaces.get(i));
        let &snaplen = snaplen.ok_or(io::ErrorKind::InvalidInput)?;
        let whole: usize = parts.iter().map(|p| p.len()).sum();
        let whole = u32::try_from(whole).map_err(|_| io::ErrorKind::InvalidInput)?;
        let orig_len = orig_len.max(whole);
        let captured = if snaplen == 0 { whole } else { whole.min(snaplen) };
        self.begin(ENHANCED_PACKET);
        let words = [interface, (ts_ns >> 32) as u32, ts_ns as u32, captured, orig_len];
        for word in words {
            self.block.extend_from_slice(&word.to_ne_bytes());
        }
        let mut left = captured as usize;
        for part in parts {
            let take = part.len().min(left);
            self.block.extend_from_slice(&part[..take]);
            left -= take;
        }
        self.pad();
        let flags: u32 = match direction {
            Direction::Unknown => 0,
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        if flags != 0 || comment.is_some() {
            if flags != 0 {
                self.option(2, &flags.to_ne_bytes());
            }
            if let Some(text) = comment {
                self.option(OPT_COMMENT, text.as_bytes());
            }
            self.end_options();
        }
        self.finish()
    }

    /// Writes how many packets an interface recorded and how many the recorder had to leave out,
    /// as counted at `ts_ns`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn statistics(
        &mut self,
        interface: u32,
        ts_ns: u64,
        received: u64,
        dropped: u64,
    ) -> io::Result<()> {
        self.begin(INTERFACE_STATISTICS);
        for word in [interface, (ts_ns >> 32) as u32, ts_ns as u32] {
            self.block.extend_from_slice(&word.to_ne_bytes());
        }
        self.option(4, &received.to_ne_bytes()); // isb_ifrecv
        self.option(7, &dropped.to_ne_bytes()); // isb_osdrop
        self.end_options();
        self.finish()
    }

    /// Flushes what lies below.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What lies below: what was written to it may be looked at, or taken out by whole blocks.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Gives back what lies below, unflushed.
    #[must_use]
    pub fn into_inner(self) -> W {
        self.out
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.block.extend_from_slice(&kind.to_ne_bytes());
        self.block.extend_from_slice(&[0; 4]);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// An option; a value that is too long for its length field is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX - 3);
        self.block.extend_from_slice(&code.to_ne_bytes());
        self.block.extend_from_slice(&len.to_ne_bytes());
        self.block.extend_from_slice(&value[..usize::from(len)]);
        self.pad();
    }

    fn end_options(&mut self) {
        self.block.extend_from_slice(&[0; 4]);
    }

    fn finish(&mut self) -> io::Result<()> {
        let len = u32::try_from(self.block.len() + 4).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.block[4..8].copy_from_slice(&len.to_ne_bytes());
        self.block.extend_from_slice(&len.to_ne_bytes());
        self.out.write_all(&self.block)
    }
}

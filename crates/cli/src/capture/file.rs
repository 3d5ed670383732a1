//! A capture as a file: pcapng, an interface for each device, stage and point.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use linerate_core::table::Stage;
use linerate_core::tap::filter::Link;
use linerate_core::tap::{Head, Point};
use linerate_core::trace::Said;
use linerate_dev::pcap::{Direction, Info, LinkType, Writer};

use super::Failure;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// The file. It ends with a whole block whatever happens: what could not be written whole is cut off.
pub struct File {
    writer: Writer<Vec<u8>>,
    out: Out,
    name: String,
    filter: String,
    interfaces: Vec<(Key, u64)>,
    packets: u64,
    last_ns: u64,
    failed: bool,
}

type Key = (String, Stage, Point, bool);

enum Out {
    /// A file, and how many bytes of it are whole blocks.
    File(fs::File, u64),
    Stdout,
}

impl File {
    /// Makes the file.
    pub fn create(path: &Path, filter: &str) -> Result<File, Failure> {
        let name = path.display().to_string();
        let cannot = |e: io::Error| {
            Failure(1, format!("cannot write to {name}: {e}: name a file you may write"))
        };
        let out = match name.as_str() {
            "-" => Out::Stdout,
            _ => Out::File(fs::File::create(path).map_err(cannot)?, 0),
        };
        let application = concat!("linerate ", env!("CARGO_PKG_VERSION"));
        let info = Info { application, os: "Linux", ..Info::default() };
        let writer = Writer::new(Vec::with_capacity(BUFFER), info).map_err(cannot)?;
        let (interfaces, filter) = (Vec::new(), filter.trim().to_owned());
        let (packets, last_ns, failed) = (0, 0, false);
        let mut file = File { writer, out, name, filter, interfaces, packets, last_ns, failed };
        file.flush()?;
        Ok(file)
    }

    /// Adds a packet.
    pub fn packet(&mut self, device: &str, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        let comment = match head.said {
            Some(Said::Dropped(reason)) => Some(format!(
                "dropped at {}: {}: {}",
                head.stage.name(),
                reason.label(),
                reason.row().help.trim()
            )),
            _ => None,
        };
        let way = if head.outbound { Direction::Outbound } else { Direction::Inbound };
        self.record(device, head, bytes, way, comment.as_deref())
    }

    /// Adds a packet of another capture.
    pub fn record(
        &mut self,
        device: &str,
        head: &Head,
        bytes: &[u8],
        way: Direction,
        comment: Option<&str>,
    ) -> Result<(), Failure> {
        let interface = self.interface(device, head).map_err(|e| self.cannot(&e))?;
        let (ts, len) = (head.ts_ns, head.len);
        self.last_ns = self.last_ns.max(ts);
        let written = self.writer.cut_packet(interface, ts, &[bytes], len, way, comment);
        written.map_err(|e| self.cannot(&e))?;
        self.packets += 1;
        self.interfaces[interface as usize].1 += 1;
        if self.writer.get_ref().len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// The number of the interface that stands for where the packet was seen.
    fn interface(&mut self, device: &str, head: &Head) -> io::Result<u32> {
        let key: Key = (device.to_owned(), head.stage, head.point, head.link == Link::Ethernet);
        if let Some(at) = self.interfaces.iter().position(|(k, _)| *k == key) {
            return Ok(at as u32);
        }
        let (stage, point) = (head.stage.name(), head.point.name());
        let ends = matches!(head.stage, Stage::Ring | Stage::Xmit);
        let name = match head.point {
            Point::Before if ends => device.to_owned(),
            Point::Before => format!("{device}:{stage}"),
            _ => format!("{device}:{stage}:{point}"),
        };
        let link = if key.3 { LinkType::ETHERNET } else { LinkType::RAW };
        let text = format!("stage {stage}, {point}");
        let number = self.writer.add_described(&name, link, 0, &text, &self.filter)?;
        self.interfaces.push((key, 0));
        Ok(number)
    }

    /// Hands what was gathered to the system.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if self.failed {
            return Ok(());
        }
        let blocks = self.writer.get_mut();
        let written = match &mut self.out {
            Out::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(blocks).and_then(|()| out.flush())
            }
            Out::File(file, whole) => {
                let (n, failed) = write(file, blocks);
                *whole += if failed.is_some() { whole_blocks(blocks, n) } else { n } as u64;
                match failed {
                    None => Ok(()),
                    Some(e) => {
                        // What is there of a block is taken back; a pipe or a device has no length.
                        let _ = file.set_len(*whole);
                        Err(e)
                    }
                }
            }
        };
        blocks.clear();
        written.map_err(|e| {
            self.failed = true;
            self.cannot(&e)
        })
    }

    fn cannot(&self, e: &io::Error) -> Failure {
        Failure(1, format!("writing to {} ends here, the instance goes on: {e}", self.name))
    }

    /// Writes how many packets there are, and how many were lost, and what still waits; how many there
    /// are.
    pub fn finish(&mut self, (_, lost): (u64, u64)) -> Result<u64, Failure> {
        // Losses are not known by interface: the first has them all.
        for at in 0..self.interfaces.len() {
            let lost = if at == 0 { lost } else { 0 };
            let (received, ts) = (self.interfaces[at].1 + lost, self.last_ns);
            let written = self.writer.statistics(at as u32, ts, received, lost);
            written.map_err(|e| self.cannot(&e))?;
        }
        self.flush()?;
        Ok(self.packets)
    }
}

/// Writes all of it, or as much as fits: how much, and why not more.
fn write(file: &mut fs::File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut at = 0;
    while at < bytes.len() {
        match file.write(&bytes[at..]) {
            Ok(0) => return (at, Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (at, Some(e)),
        }
    }
    (at, None)
}

/// The length of the blocks of pcapng that lie wholly in the first `written` bytes of `blocks`.
fn whole_blocks(blocks: &[u8], written: usize) -> usize {
    let mut at = 0;
    while let Some(len) = blocks.get(at + 4..).and_then(<[u8]>::first_chunk)
        && let next = at + (u32::from_ne_bytes(*len) as usize).max(12)
        && next <= written
    {
        at = next;
    }
    at
}

//! `--pcap`: both directions into a pcapng file, beside the traffic and never in its way.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use linerate_core::pkt::Pkt;
use linerate_core::time::{Instant, MS};
use linerate_dev::drive::Tap;
use linerate_dev::pcap::{Direction, Info, LinkType, Writer};

/// Bytes between us and the file. Whole blocks are written at a time, so that the file of a process
/// that was killed ends with a whole packet.
const BUFFER: usize = 1 << 18;
/// The longest that a packet waits in the buffer, in nanoseconds.
const FLUSH_EVERY: u64 = 200 * MS;

/// A recording.
pub struct Recorder {
    writer: Writer<BufWriter<File>>,
    path: String,
    /// The time of the day of the turn at `at`: asked for once a turn.
    wall_ns: u64,
    at: Instant,
    /// When something was last written that still lies in the buffer.
    dirty: Option<Instant>,
    /// Whether frames are recorded, and not bare IP packets.
    ethernet: bool,
    recorded: u64,
    lost: u64,
    failed: Option<io::Error>,
}

/// Bytes before the IP header of an Ethernet frame, for each number of VLAN tags in it.
const ETH_HLEN: usize = 14;
const VLAN_HLEN: usize = 4;

/// Puts the checksum into a copy of the packet's head that it will have on a wire: between two
/// kernels of one machine it travels unfinished, and readers of the file would call it wrong.
fn complete(pkt: &Pkt, ethernet: bool, head: &mut [u8]) {
    let mut before = 0;
    if ethernet {
        before = ETH_HLEN;
        while matches!(head.get(before - 2..before), Some([0x81, 0] | [0x88, 0xa8])) {
            before += VLAN_HLEN;
        }
    }
    if let Some((at, field)) = pkt.csum_completed(before)
        && let Some(place) = head.get_mut(at..at + 2)
    {
        place.copy_from_slice(&field);
    }
}

/// The end of a recording that the loop feeds.
struct Feed(Rc<RefCell<Recorder>>);

impl Tap for Feed {
    fn packet(&mut self, _dev: u8, pkt: &Pkt, outbound: bool, now: Instant) {
        self.0.borrow_mut().record(pkt, outbound, now);
    }
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

impl Recorder {
    /// Makes the file.
    ///
    /// # Errors
    /// Those of making and writing it.
    pub fn create(path: &Path) -> io::Result<Recorder> {
        let file = BufWriter::with_capacity(BUFFER, File::create(path)?);
        let application = concat!("linerate ", env!("CARGO_PKG_VERSION"));
        let writer = Writer::new(file, Info { application, os: "Linux", ..Info::default() })?;
        Ok(Recorder {
            writer,
            path: path.display().to_string(),
            wall_ns: wall_ns(),
            at: Instant::ZERO,
            dirty: None,
            ethernet: false,
            recorded: 0,
            lost: 0,
            failed: None,
        })
    }

    /// Describes the device that is recorded.
    ///
    /// # Errors
    /// Those of writing.
    pub fn describe(&mut self, device: &str, ethernet: bool) -> io::Result<()> {
        let link = if ethernet { LinkType::ETHERNET } else { LinkType::RAW };
        self.ethernet = ethernet;
        self.writer.add_interface(device, link, 0)?;
        self.writer.flush()
    }

    /// What the loop is to feed; the recording itself stays with the caller.
    pub fn tap(recorder: &Rc<RefCell<Recorder>>) -> Box<dyn Tap> {
        Box::new(Feed(Rc::clone(recorder)))
    }

    fn record(&mut self, pkt: &Pkt, outbound: bool, now: Instant) {
        if self.failed.is_some() {
            self.lost += 1;
            return;
        }
        if now != self.at {
            (self.wall_ns, self.at) = (wall_ns(), now);
        }
        let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
        let mut head = pkt.head().to_vec();
        complete(pkt, self.ethernet, &mut head);
        let mut parts: Vec<&[u8]> = pkt.slices().collect();
        if let Some(first) = parts.first_mut().filter(|_| !head.is_empty()) {
            *first = &head;
        }
        match self.writer.packet(0, self.wall_ns, &parts, direction, None) {
            Ok(()) => {
                self.recorded += 1;
                self.dirty.get_or_insert(now);
            }
            Err(e) => self.fail(e),
        }
    }

    fn fail(&mut self, e: io::Error) {
        if self.failed.is_none() {
            eprintln!("linerate: recording to {} ends here, traffic goes on: {e}", self.path);
        }
        self.lost += 1;
        self.dirty = None;
        self.failed = Some(e);
    }

    /// When [`Recorder::turn`] has something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.dirty.map(|at| at.plus(FLUSH_EVERY))
    }

    /// Hands what has waited long enough to the kernel.
    pub fn turn(&mut self, now: Instant) {
        if self.next_timer().is_some_and(|at| now >= at) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.dirty = None;
        if self.failed.is_none()
            && let Err(e) = self.writer.flush()
        {
            self.fail(e);
        }
    }

    /// Writes the counts and what still waits. Returns how many packets could not be recorded.
    pub fn finish(&mut self) -> u64 {
        if self.failed.is_none()
            && let Err(e) = self.writer.statistics(0, wall_ns(), self.recorded, self.lost)
        {
            self.fail(e);
        }
        self.flush();
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_core::pkt::Pool;
    use linerate_dev::pcap::Reader;

    #[test]
    fn what_was_recorded_reads_back_with_both_directions() {
        let path = std::env::temp_dir().join(format!("linerate-rec-{}.pcapng", std::process::id()));
        let mut recorder = Recorder::create(&path).expect("a file");
        recorder.describe("lr0", false).expect("written");
        let recorder = Rc::new(RefCell::new(recorder));
        let mut tap = Recorder::tap(&recorder);
        let mut pool = Pool::new(8, 8);
        for i in 0..4u8 {
            let mut pkt = pool.alloc().expect("a packet");
            pkt.put(40).fill(i);
            tap.packet(0, &pkt, i % 2 == 1, Instant::from_ns(u64::from(i)));
            pool.free(pkt);
        }
        assert_eq!(recorder.borrow().next_timer(), Some(Instant::from_ns(FLUSH_EVERY)));
        recorder.borrow_mut().turn(Instant::from_ns(FLUSH_EVERY));
        // Flushed by its timer alone: what a killed process leaves.
        let mut reader = Reader::open(&path).expect("a capture");
        let mut seen = Vec::new();
        while let Some(frame) = reader.next_frame().expect("whole blocks") {
            seen.push((frame.data.to_vec(), frame.direction, frame.ts_ns.is_some()));
        }
        let _ = std::fs::remove_file(&path);
        let want = |i: u8| {
            let way = if i % 2 == 1 { Direction::Outbound } else { Direction::Inbound };
            (vec![i; 40], way, true)
        };
        assert_eq!(seen, (0..4).map(want).collect::<Vec<_>>());
        assert_eq!(recorder.borrow_mut().finish(), 0);
    }

    #[test]
    fn a_full_disk_ends_the_recording_only() {
        let Ok(recorder) = Recorder::create(Path::new("/dev/full")) else { return };
        let recorder = Rc::new(RefCell::new(recorder));
        let mut tap = Recorder::tap(&recorder);
        recorder.borrow_mut().writer.add_interface("lr0", LinkType::RAW, 0).expect("buffered");
        let mut pool = Pool::new(8, 8);
        for _ in 0..2 {
            let mut pkt = pool.alloc().expect("a packet");
            pkt.put(40).fill(0);
            tap.packet(0, &pkt, true, Instant::ZERO);
            pool.free(pkt);
            recorder.borrow_mut().flush();
        }
        assert!(recorder.borrow_mut().finish() >= 1);
        assert!(recorder.borrow().failed.is_some());
    }
}

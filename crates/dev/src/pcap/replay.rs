//! A capture file as a device: what was recorded is received, what is sent is forgotten.
//!
//! The device speaks Ethernet whatever the file's link type is: a packet recorded without an
//! Ethernet header gets one, from nobody to this device, so that one file may mix link types and
//! ARP is seen where it was recorded.

use super::{Frame, LinkError, Network, PcapError, Reader, network};
use crate::device::{Caps, Counts, Device, Layer, RxCx};
use linerate_core::pkt::{Batch, LARGE, Pkt, Pool};
use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;

/// The Ethernet address of a replayed capture's device.
pub const REPLAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const ETHER: usize = 14;

/// Reads packets from a capture into pool memory.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    name: String,
    frames: u64,
    ended: bool,
    error: Option<PcapError>,
    /// `rx_burst` has not reported the error yet.
    untold: bool,
    counts: Counts,
    /// A packet that was read while the pool had no memory for it.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    ts_ns: Option<u64>,
}

/// A recorded packet in pool memory.
pub struct Recorded {
    /// The packet: an Ethernet frame.
    pub pkt: Pkt,
    /// Nanoseconds since 1970, if the file says so.
    pub ts_ns: Option<u64>,
}

impl<R: BufRead> Replay<R> {
    /// A device called `name` that receives what `reader` reads.
    #[must_use]
    pub fn new(reader: Reader<R>, name: &str) -> Replay<R> {
        Replay {
            reader,
            name: name.to_owned(),
            frames: 0,
            ended: false,
            error: None,
            untold: false,
            counts: Counts::default(),
            waiting: None,
        }
    }

    /// Packets received so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Nothing will come any more: the file's end was reached, or an error.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The error that ended it before the file's end.
    #[must_use]
    pub fn error(&self) -> Option<&PcapError> {
        self.error.as_ref()
    }

    /// The next packet; `None` at the end of the file, or while `pool` has no memory for it
    /// ([`Replay::ended`] tells).
    ///
    /// # Errors
    /// [`PcapError`], once: the file is corrupt there, or has a link type that is not supported.
    pub fn next_pkt(&mut self, pool: &mut Pool) -> Result<Option<Recorded>, PcapError> {
        if self.ended {
            return Ok(None);
        }
        if let Some(waiting) = self.waiting.take() {
            return Ok(self.fill(pool, waiting));
        }
        let next = match self.reader.next_frame() {
            Ok(Some(frame)) => {
                let offset = frame.offset;
                into_pool(pool, &frame).map_err(|err| self.reader.link_fault(offset, err))
            }
            Ok(None) => {
                self.ended = true;
                return Ok(None);
            }
            Err(err) => Err(err),
        };
        match next {
            Ok(Ok(recorded)) => {
                self.frames += 1;
                Ok(Some(recorded))
            }
            Ok(Err(waiting)) => {
                self.counts.rx_no_buffer += 1;
                self.waiting = Some(waiting);
                Ok(None)
            }
            Err(err) => {
                self.ended = true;
                Err(err)
            }
        }
    }

    fn fill(&mut self, pool: &mut Pool, waiting: Waiting) -> Option<Recorded> {
        match allocate(pool, &[], &waiting.bytes) {
            Some(pkt) => {
                self.frames += 1;
                Some(Recorded { pkt, ts_ns: waiting.ts_ns })
            }
            None => {
                self.counts.rx_no_buffer += 1;
                self.waiting = Some(waiting);
                None
            }
        }
    }
}

/// The frame in pool memory, or beside it if there is none.
fn into_pool(pool: &mut Pool, frame: &Frame<'_>) -> Result<Result<Recorded, Waiting>, LinkError> {
    let mut header = [0u8; ETHER];
    header[..6].copy_from_slice(&REPLAY_MAC);
    let (header, bytes): (&[u8], &[u8]) = match network(frame.link, frame.data) {
        Ok(Network::Ethernet(bytes)) => (&[], bytes),
        Ok(Network::Packet { ethertype, bytes }) => {
            header[12..].copy_from_slice(&ethertype.to_be_bytes());
            (&header, bytes)
        }
        Err(err @ LinkError::Unsupported(_)) => return Err(err),
        // One packet is wrong, not the file: the stack gets it and says why it drops it. Too
        // short for its link header it is too short for Ethernet's; an unknown family is an
        // ethertype that nobody speaks.
        Err(LinkError::Short { .. }) => (&[], frame.data.get(..ETHER - 1).unwrap_or(frame.data)),
        Err(LinkError::Family(_)) => (&header, &[]),
    };
    Ok(match allocate(pool, header, bytes) {
        Some(pkt) => Ok(Recorded { pkt, ts_ns: frame.ts_ns }),
        None => Err(Waiting { bytes: [header, bytes].concat(), ts_ns: frame.ts_ns }),
    })
}

fn allocate(pool: &mut Pool, header: &[u8], bytes: &[u8]) -> Option<Pkt> {
    let mut pkt = pool.alloc()?;
    pkt.put(header.len()).copy_from_slice(header);
    let (head, mut rest) = bytes.split_at(bytes.len().min(pkt.tailroom()));
    pkt.put(head.len()).copy_from_slice(head);
    while !rest.is_empty() {
        let Some(mut large) = pool.alloc_large() else {
            pool.free(pkt);
            return None;
        };
        let (now, later) = rest.split_at(rest.len().min(LARGE));
        large[..now.len()].copy_from_slice(now);
        pkt.add_buf(large, 0, now.len());
        rest = later;
    }
    Some(pkt)
}

impl<R: BufRead + Send> Device for Replay<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        Caps {
            layer: Layer::Ethernet,
            mtu: 65535,
            mac: Some(REPLAY_MAC),
            rx_offload: false,
            tx_csum: true,
            tso: true,
            uso: true,
            gso_bytes_max: 65536,
        }
    }

    /// At the end of the file there is nothing to receive, for ever; [`Replay::ended`] tells.
    ///
    /// # Errors
    /// `InvalidData`, once, with the text of the [`PcapError`] that [`Replay::error`] gives.
    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        let mut taken = 0;
        while taken < budget {
            match self.next_pkt(cx.pool) {
                Ok(Some(Recorded { mut pkt, .. })) => {
                    pkt.rx_time = cx.now;
                    pkt.dev = cx.dev;
                    out.push(pkt);
                    taken += 1;
                }
                Ok(None) => break,
                Err(err) => {
                    self.error = Some(err);
                    self.untold = true;
                }
            }
        }
        // What came before an error is delivered first.
        match &self.error {
            Some(err) if taken == 0 && std::mem::take(&mut self.untold) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, err.to_string()))
            }
            _ => Ok(taken),
        }
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let left = ring.len();
        done.extend(ring.drain(..).map(|pkt| (pkt, true)));
        Ok(left)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::{Direction, Info, LinkType, Writer};

    fn capture(frames: &[(LinkType, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), Info::default()).unwrap();
        for (i, (link, bytes)) in frames.iter().enumerate() {
            let id = writer.add_interface("", *link, 0).unwrap();
            writer.packet(id, i as u64, &[bytes], Direction::Unknown, None).unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn every_link_type_becomes_ethernet() {
        let big: Vec<u8> = (0..80_000u32).map(|i| i as u8).collect();
        let file = capture(&[
            (LinkType::ETHERNET, b"an ethernet frame"),
            (LinkType::RAW, &[0x45, 1]),
            (LinkType::IPV6, &[0x60]),
            (LinkType::NULL, &[16, 0, 0, 0, 7]),
            (LinkType::LINUX_SLL, &[1, 2, 3]),
            (LinkType::ETHERNET, &big),
        ]);
        let mut replay = Replay::new(Reader::new(&file[..], "f").unwrap(), "replay");
        let mut pool = Pool::new(2, 4);
        let mut all = Vec::new();
        while let Some(recorded) = replay.next_pkt(&mut pool).unwrap() {
            assert_eq!(recorded.ts_ns, Some(all.len() as u64));
            let mut bytes = vec![0; recorded.pkt.len()];
            recorded.pkt.copy_bits(0, &mut bytes);
            all.push(bytes);
            pool.free(recorded.pkt);
        }
        let with_header = |ethertype: u16, bytes: &[u8]| {
            [&REPLAY_MAC[..], &[0; 6], &ethertype.to_be_bytes(), bytes].concat()
        };
        assert!(replay.ended() && replay.frames() == 6);
        assert_eq!(all[0], b"an ethernet frame");
        assert_eq!(all[1], with_header(0x0800, &[0x45, 1]));
        assert_eq!(all[2], with_header(0x86dd, &[0x60]));
        assert_eq!(all[3], with_header(0, &[]));
        assert_eq!(all[4], [1, 2, 3]);
        assert!(all[5] == big);
    }

    #[test]
    fn a_link_type_that_is_not_supported_ends_it_with_its_place() {
        let file = capture(&[(LinkType::RAW, &[0x45]), (LinkType(50), &[1, 2])]);
        let mut replay = Replay::new(Reader::new(&file[..], "f.pcapng").unwrap(), "replay");
        let mut pool = Pool::new(2, 4);
        let (mut out, mut dropped) = (Batch::new(), Vec::new());
        let now = linerate_core::time::Instant::ZERO;
        let mut cx = RxCx { pool: &mut pool, now, dev: 0, dropped: &mut dropped };
        assert_eq!(replay.rx_burst(&mut cx, &mut out, 9).unwrap(), 1);
        let err = replay.rx_burst(&mut cx, &mut out, 9).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidData);
        assert_eq!(replay.rx_burst(&mut cx, &mut out, 9).unwrap(), 0);
        assert!(replay.ended());
        let text = replay.error().unwrap().to_string();
        assert!(text.starts_with("f.pcapng: at byte offset "), "{text}");
        assert!(text.contains("link type 50 is not supported"), "{text}");
    }

    #[test]
    fn without_memory_no_packet_is_lost() {
        let file = capture(&[(LinkType::ETHERNET, b"one"), (LinkType::RAW, b"two")]);
        let mut replay = Replay::new(Reader::new(&file[..], "f").unwrap(), "replay");
        let mut pool = Pool::new(1, 0);
        let one = replay.next_pkt(&mut pool).unwrap().unwrap();
        assert!(replay.next_pkt(&mut pool).unwrap().is_none() && !replay.ended());
        assert!(replay.next_pkt(&mut pool).unwrap().is_none());
        pool.free(one.pkt);
        let two = replay.next_pkt(&mut pool).unwrap().unwrap();
        assert!(two.pkt.head().ends_with(b"two") && two.ts_ns == Some(1));
        assert_eq!(replay.counts().rx_no_buffer, 2);
    }
}

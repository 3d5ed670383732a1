//! `capture -r`: packets of a capture that was made before.

use std::path::Path;

use linerate_core::table::Stage;
use linerate_core::tap::filter::{Filter, Link, View};
use linerate_core::tap::{Head, Point};
use linerate_dev::pcap::{Direction, Network, PcapError, Reader, network};

use super::args::{CaptureArgs, Direction as Way};
use super::{Failure, Sink};

/// Reads the capture, and passes on what the filter lets through.
pub fn read(args: &CaptureArgs, path: &Path, filter: &Filter) -> Result<(), Failure> {
    let bad = |e: PcapError| Failure(2, e.to_string());
    let mut reader = Reader::open(path).map_err(bad)?;
    let mut sink = Sink::open(args)?;
    let (mut packets, mut odd) = (0u64, 0u64);
    while let Some(frame) = reader.next_frame().map_err(bad)? {
        let outbound = frame.direction == Direction::Outbound;
        let wanted = match args.direction {
            Way::Both => true,
            Way::In => !outbound,
            Way::Out => outbound,
        };
        let (link, bytes) = match network(frame.link, frame.data) {
            Ok(Network::Ethernet(bytes)) => (Link::Ethernet, bytes),
            Ok(Network::Packet { bytes, .. }) => (Link::Ip, bytes),
            Err(_) => {
                odd += 1;
                continue;
            }
        };
        let cut = frame.data.len() - bytes.len();
        let len = (frame.orig_len as usize).saturating_sub(cut);
        if !wanted || !filter.matches(&View { link, bytes, len, outbound }) {
            continue;
        }
        let most = if args.snaplen == 0 { bytes.len() } else { args.snaplen as usize };
        let bytes = &bytes[..bytes.len().min(most)];
        let head = Head {
            captured: bytes.len() as u32,
            len: len as u32,
            ts_ns: frame.ts_ns.unwrap_or_default(),
            mark: 0,
            stage: if outbound { Stage::Xmit } else { Stage::Ring },
            point: Point::Before,
            link,
            outbound,
            said: None,
            dev: u8::MAX,
            queue: u8::MAX,
            shard: 0,
        };
        let device = format!("if{}", frame.interface);
        match &mut sink {
            Sink::File(file) => file.record(&device, &head, bytes, frame.direction, None)?,
            Sink::Text(printer) => printer.packet("", &head, bytes)?,
        }
        packets += 1;
        if args.count.is_some_and(|most| packets >= most) {
            break;
        }
    }
    sink.finish((packets, 0))?;
    if odd > 0 {
        eprintln!("linerate capture: {odd} packets are of link types that are not decoded");
    }
    Ok(())
}

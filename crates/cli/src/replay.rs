//! `linerate replay`: a recorded capture through the real receive path, with the capture's own clock.
//!
//! Three devices stand for the places where packets are recorded: an Ethernet card, a TUN, the
//! loopback. All are promiscuous, know every VLAN, and take every destination as local unless
//! `--local` says otherwise. Answers (ICMP errors, resets) go down the transmit path and end in a
//! device that takes everything.
//!
//! Receive offload is off unless `--set features.gro=1`: a recording shows packets as they were after
//! the recording device had merged them, and counts are to be those of the recording.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;

use linerate_core::ip::route::{Route, RouteKind};
use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, LARGE, Pkt};
use linerate_core::shard::{Net, Shard};
use linerate_core::table::{Reason, Stage, count::id};
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::trace::{Line, Said, Trace};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::{ETH_P_IP, ETH_P_IPV6, EthHdr, Mac};
use linerate_dev::pcap::{Frame, LinkError, Network, PcapError, Reader, network};
use linerate_gateway::control::{Meta, Snapshot};
use serde_json::{Value, json};

use crate::args::{Cidr, ReplayArgs};
use crate::report::{self, Style};
use crate::{print, print_json};

/// Replays and reports.
pub fn main(args: ReplayArgs) -> ExitCode {
    if let Some(why) = no_capture(&args.file) {
        eprintln!("linerate replay: {}: {why}", args.file.display());
        return ExitCode::from(2);
    }
    match replay(&args) {
        Ok(done) => show(&args, done),
        Err(why) => {
            eprintln!("linerate replay: {why}");
            ExitCode::from(2)
        }
    }
}

/// Why a path can hold no capture, where that shows before a byte of it is read.
fn no_capture(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Err(e) => Some(format!("{e}: name a pcap or pcapng file that you may read")),
        Ok(meta) if meta.is_dir() => {
            Some("it is a directory: name a pcap or pcapng file in it".to_owned())
        }
        Ok(meta) if meta.is_file() && meta.len() == 0 => {
            Some("it is empty: record again, and let the recorder end before you copy".to_owned())
        }
        Ok(_) => None,
    }
}

/// What is left of a capture that went through.
struct Done {
    snapshot: Snapshot,
    packets: u32,
    traced: Option<Traced>,
}

/// The packet of `--trace`.
struct Traced {
    /// Where it stands in the file, and what it is.
    head: String,
    lines: Vec<Line>,
}

fn show(args: &ReplayArgs, done: Done) -> ExitCode {
    let Done { snapshot, packets, traced } = done;
    if let (Some(n), None) = (args.trace, &traced) {
        eprintln!("linerate replay: the capture has {packets} packets, so there is no packet {n}");
        return ExitCode::from(2);
    }
    if args.json {
        let mut value = as_json(&snapshot);
        if let Some(traced) = traced {
            value["trace"] = traced.lines.iter().map(line_json).collect();
        }
        print_json(&value);
    } else if let Some(traced) = traced {
        print(&walk(&traced));
    } else {
        print(&report::path(&snapshot, Style::of(&std::io::stdout())));
    }
    ExitCode::SUCCESS
}

/// Packets that go through together: what one device may give in one poll.
const BATCH: usize = 64;
/// A poll does not span more of the capture's time than this.
const BATCH_NS: u64 = MS;
/// The capture's first packet arrives at this time of the stack, so that nothing is at zero.
const EPOCH: u64 = SEC;

const ETHERNET: u8 = 0;
const TUN: u8 = 1;
const LOOPBACK: u8 = 2;

struct Replay {
    shard: Shard,
    batch: Batch,
    /// Time stamp of the first packet.
    first_ns: Option<u64>,
    /// The stack's time; it never goes back.
    now: Instant,
    /// When the first packet of the batch came.
    batch_since: Instant,
    packets: u32,
    bytes: u64,
}

fn replay(args: &ReplayArgs) -> Result<Done, PcapError> {
    let mut reader = Reader::open(&args.file)?;
    let mut replay = Replay::new(args);
    let mut traced = None;
    while let Some(frame) = reader.next_frame()? {
        let offset = frame.offset;
        let number = replay.packets + 1;
        let trace = args.trace == Some(number);
        if trace {
            traced = Some(heading(number, &frame, replay.first_ns));
        }
        if let Err(e) = replay.frame(&frame, if trace { number } else { 0 }) {
            return Err(reader.link_fault(offset, e));
        }
    }
    replay.run_batch();
    replay.drain();
    let lines = replay.shard.net.trace.take().map_or(Vec::new(), |t| t.lines);
    Ok(Done {
        packets: replay.packets,
        traced: traced.map(|head| Traced { head, lines }),
        snapshot: replay.snapshot(&args.file),
    })
}

impl Replay {
    fn new(args: &ReplayArgs) -> Replay {
        let mut shard = Shard::new(1);
        shard.net.clock = Some(linerate_dev::drive::clock_ns);
        for (path, value) in [("features.gro", "0"), ("dev.promisc", "1")] {
            shard.set_knob(path, value).expect("both are switches of the table");
        }
        for setting in &args.set {
            shard.set_knob(setting.path, &setting.value).expect("the arguments were judged");
        }
        for (name, l2) in [("ethernet", L2::Ethernet), ("tun", L2::Ip), ("lo", L2::Loopback)] {
            let mut iface = Iface::new(name, l2, Mac([2, 0, 0, 0, 0, 1]), 65535);
            iface.any_ip = args.local.is_empty();
            iface.vlans = (1..=4094).collect();
            shard.add_iface(iface);
        }
        routes(&mut shard, &args.local);
        if args.trace.is_some() {
            shard.net.trace = Some(Trace::default());
        }
        Replay {
            shard,
            batch: Batch::new(),
            first_ns: None,
            now: Instant::from_ns(EPOCH),
            batch_since: Instant::from_ns(EPOCH),
            packets: 0,
            bytes: 0,
        }
    }

    /// Puts one recorded packet into the batch. `number` is its number in the trace, or 0.
    fn frame(&mut self, frame: &Frame<'_>, number: u32) -> Result<(), LinkError> {
        let (dev, bytes, refused) = match network(frame.link, frame.data) {
            Ok(Network::Ethernet(bytes)) if recorded_on_lo(bytes) => {
                (LOOPBACK, bytes.get(EthHdr::LEN..).unwrap_or_default(), None)
            }
            Ok(Network::Ethernet(bytes)) => (ETHERNET, bytes, None),
            Ok(Network::Packet { ethertype: ETH_P_IP | ETH_P_IPV6 | 0, bytes }) => {
                (if is_loopback(frame.link) { LOOPBACK } else { TUN }, bytes, None)
            }
            Ok(Network::Packet { bytes, .. }) => (TUN, bytes, Some(Reason::UnhandledProto)),
            Err(LinkError::Short { .. }) => (TUN, frame.data, Some(Reason::LinkTruncated)),
            Err(LinkError::Family(_)) => (TUN, frame.data, Some(Reason::UnhandledProto)),
            Err(e) => return Err(e),
        };
        let at = self.arrival(frame.ts_ns);
        if self.batch.len() >= BATCH || at.since(self.batch_since) > BATCH_NS {
            self.run_batch();
        }
        if self.batch.is_empty() {
            self.timers_until(at);
            self.batch_since = at;
        }
        self.now = at;
        self.packets += 1;
        self.bytes += bytes.len() as u64;
        self.count_ring(dev, bytes.len() as u64);
        let Some(mut pkt) = self.packet(bytes) else {
            let counts = &self.shard.net.counts;
            counts.flow(Stage::Ring).enter(1);
            counts.dropped(Stage::Ring, Reason::RingNoBuf);
            return Ok(());
        };
        pkt.rx_time = at;
        pkt.dev = dev;
        pkt.trace = number;
        match refused {
            None => self.batch.push(pkt),
            // The link header of this kind of recording is not Ethernet's: judged here, for Link.
            Some(reason) => {
                let net = &mut self.shard.net;
                count_poll(net, 1);
                net.counts.flow(Stage::Link).enter(1);
                net.kfree_skb_reason(Stage::Link, pkt, reason);
            }
        }
        Ok(())
    }

    /// The capture's clock, from its first packet on; it may jump back, ours may not.
    fn arrival(&mut self, ts_ns: Option<u64>) -> Instant {
        let Some(ts) = ts_ns else { return self.now };
        let first = *self.first_ns.get_or_insert(ts);
        Instant::from_ns(EPOCH.saturating_add(ts.saturating_sub(first))).max(self.now)
    }

    /// A packet with these bytes: the head as far as it goes, then large buffers.
    fn packet(&mut self, bytes: &[u8]) -> Option<Pkt> {
        let pool = &mut self.shard.net.pool;
        let mut pkt = pool.alloc()?;
        let (head, mut rest) = bytes.split_at(bytes.len().min(pkt.tailroom()));
        pkt.put(head.len()).copy_from_slice(head);
        while !rest.is_empty() {
            let Some(mut buf) = pool.alloc_large() else {
                pool.free(pkt);
                return None;
            };
            let (part, more) = rest.split_at(rest.len().min(LARGE));
            buf[..part.len()].copy_from_slice(part);
            pkt.add_buf(buf, 0, part.len());
            rest = more;
        }
        Some(pkt)
    }

    fn count_ring(&mut self, dev: u8, bytes: u64) {
        let net = &mut self.shard.net;
        net.counts.inc(id::DevRxPackets);
        net.counts.add_bytes(id::DevRxBytes, bytes);
        net.counts.inc(id::SoftnetProcessed);
        let iface = &mut net.ifaces[dev as usize];
        iface.rx_packets += 1;
        iface.rx_bytes += bytes;
    }

    fn run_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.shard.net.now = self.now;
        count_poll(&self.shard.net, self.batch.len() as u64);
        path::receive(&mut self.shard, &mut self.batch);
        self.send();
    }

    /// What the stack answers: through the transmit path into devices that take everything. What
    /// it says to itself (`lo` with `--local`) comes in again, a bounded number of times.
    fn send(&mut self) {
        for _ in 0..8 {
            path::transmit(&mut self.shard, &mut self.batch);
            for dev in [ETHERNET, TUN, LOOPBACK] {
                while let Some(ring) = path::qdisc_run(&mut self.shard.net, dev, 0, BATCH) {
                    let Some(pkt) = ring.pop_front() else { break };
                    tx_done(&mut self.shard.net, pkt, true);
                }
            }
            if path::process_backlog(&mut self.shard, &mut self.batch, BATCH) == 0 {
                break;
            }
        }
    }

    /// Serves the timers of the capture's time up to `until`.
    fn timers_until(&mut self, until: Instant) {
        // A timer that is served may set another; none can keep us here for ever.
        for _ in 0..10_000 {
            match path::next_timer(&self.shard) {
                Some(at) if at <= until => {
                    path::timers(&mut self.shard, at.max(self.now));
                    self.send();
                }
                _ => break,
            }
        }
        path::timers(&mut self.shard, until);
        self.send();
    }

    /// After the last packet: what waits is given the time that it waits for, so that fragments
    /// without their rest come to a verdict.
    fn drain(&mut self) {
        let until = self.now.plus(300 * SEC);
        self.timers_until(until);
    }

    fn snapshot(&self, file: &Path) -> Snapshot {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let meta = Meta { name, ..Meta::default() };
        Snapshot::take(&self.shard, meta)
    }
}

/// `n` packets came off the ring in one poll.
fn count_poll(net: &Net, n: u64) {
    net.counts.inc(id::SoftirqNetRx);
    net.counts.flow(Stage::Ring).batch(n, n, 0);
    net.counts.flow(Stage::Poll).batch(n, n, 0);
}

/// Answers leave by the TUN, which has no neighbours to ask for; `local` are our addresses.
fn routes(shard: &mut Shard, local: &[Cidr]) {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for dst in any {
        let added = shard.add_route(Route::new(dst, 0, RouteKind::Unicast, TUN));
        added.expect("the table was empty");
    }
    for net in local {
        // The same network twice is no error.
        let _exists = shard.add_route(Route::new(net.addr, net.len, RouteKind::Local, LOOPBACK));
    }
}

/// Whether both MAC addresses are zero: so `lo` shows its packets to a recorder.
fn recorded_on_lo(frame: &[u8]) -> bool {
    frame.get(..12).is_some_and(|macs| macs.iter().all(|b| *b == 0))
}

fn is_loopback(link: linerate_dev::pcap::LinkType) -> bool {
    use linerate_dev::pcap::LinkType;
    link == LinkType::NULL || link == LinkType::LOOP
}

/// Stages and counters, as names with values.
fn as_json(s: &Snapshot) -> Value {
    let stage = |r: &linerate_gateway::control::snapshot::StageRow| {
        json!({
            "name": r.name, "in": r.entered, "made": r.made, "merged": r.merged, "out": r.out,
            "taken": r.taken, "held": r.held, "dropped": r.dropped,
        })
    };
    let groups =
        ["Ip", "IpExt", "Ip6", "Icmp", "Icmp6", "Udp", "Udp6", "Tcp", "TcpExt", "dev", "linerate"];
    let counters: BTreeMap<&str, _> =
        groups.iter().filter_map(|g| Some((*g, s.counters.get(*g)?))).collect();
    json!({ "stages": s.stages.iter().map(stage).collect::<Vec<_>>(), "counters": counters })
}

fn heading(number: u32, frame: &Frame<'_>, first_ns: Option<u64>) -> String {
    let since = match (frame.ts_ns, first_ns) {
        (Some(ts), Some(first)) => {
            let sign = if ts < first { "-" } else { "" };
            format!(", {sign}{:.6} s after the first", ts.abs_diff(first) as f64 / 1e9)
        }
        _ => String::new(),
    };
    let cut = match frame.orig_len as usize {
        orig if orig > frame.data.len() => format!(" of {orig}"),
        _ => String::new(),
    };
    format!(
        "packet {number}: {}{cut} bytes, {:?}, at byte offset {}{since}",
        frame.data.len(),
        frame.link,
        frame.offset
    )
}

/// The walk of one packet, one line a stage.
fn walk(traced: &Traced) -> String {
    let mut out = format!("{}\n", traced.head);
    let width = traced.lines.iter().map(|l| l.what.chars().count()).max().unwrap_or(0);
    for line in &traced.lines {
        let said = match line.said {
            Said::Pass if line.stage == Stage::Xmit => "sent: the device took it".to_owned(),
            Said::Pass if line.stage == Stage::SockQueue => "read by the application".to_owned(),
            Said::Pass => "passes".to_owned(),
            Said::Taken if matches!(line.stage, Stage::Frag | Stage::Gso) => {
                "cut: its pieces go on".to_owned()
            }
            Said::Taken => "taken: its journey ends here as it should".to_owned(),
            Said::Queued => "goes on in the queue of a later stage".to_owned(),
            Said::Held if line.stage == Stage::SockQueue => "waits for its reader".to_owned(),
            Said::Held => "waits here".to_owned(),
            Said::Merged => "merged: it is part of another packet now".to_owned(),
            Said::Dropped(reason) => format!("dropped: {}", reason.label()),
        };
        out.push_str(&format!("  {:<10} {:<width$}  {said}\n", line.stage.name(), line.what));
        if let Said::Dropped(reason) = line.said {
            let row = reason.row();
            out.push_str(&format!("             {}\n", row.help.trim()));
            for also in row.also {
                out.push_str(&format!("             moves {}\n", also.row().linux));
            }
            if row.knob != "none" {
                out.push_str(&format!("             knob  {}\n", row.knob));
            }
        }
    }
    if traced.lines.is_empty() {
        out.push_str(
            "  it was refused before the first stage: its link header is none of Ethernet's\n",
        );
    }
    out
}

fn line_json(line: &Line) -> Value {
    let (said, reason) = match line.said {
        Said::Pass => ("pass", None),
        Said::Taken => ("taken", None),
        Said::Queued => ("queued", None),
        Said::Held => ("held", None),
        Said::Merged => ("merged", None),
        Said::Dropped(reason) => ("dropped", Some(reason.label())),
    };
    json!({ "stage": line.stage.name(), "said": said, "reason": reason, "packet": line.what })
}

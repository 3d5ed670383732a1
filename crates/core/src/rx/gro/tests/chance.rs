//! Streams by chance: what is merged and cut again is what came in.

use super::*;

/// One side's stream of segments, mostly well-behaved.
struct Sender {
    next: Spec,
    mss: usize,
    fixed_id: bool,
}

impl Sender {
    fn new(rng: &mut Rng, host: u8, ethernet: bool) -> Sender {
        let v6 = rng.below(2) == 0;
        let udp = rng.below(4) == 0;
        let vlan = (ethernet && rng.below(4) == 0).then_some(3);
        let df = rng.below(3) > 0;
        let (seq, id) = (rng.next_u32(), rng.next_u32() as u16);
        let next = Spec { ethernet, vlan, v6, udp, host, df, seq, id, ..Spec::default() };
        let mss = [1448, 1200, 40, 1][rng.below(4) as usize];
        Sender { next, mss, fixed_id: df && rng.below(2) == 0 }
    }

    /// The next frame, in four of five cases what a bulk sender would send; and whether it is still
    /// of the sender's flow.
    fn frame(&mut self, rng: &mut Rng) -> (Vec<u8>, bool) {
        let mut seg = self.next.clone();
        let len = if rng.below(5) > 0 { self.mss } else { rng.below(self.mss as u64 + 2) as usize };
        seg.payload = random_bytes(rng, len);
        match rng.below(60) {
            0 => seg.flags |= TcpFlags::PSH,
            1 => seg.flags |= TcpFlags::FIN,
            2 => seg.flags = TcpFlags(rng.next_u32() as u8),
            3 => self.next.ack = rng.next_u32(),
            4 => self.next.window = rng.next_u32() as u16,
            5 => {
                let words = rng.below(11) as usize;
                self.next.options = random_bytes(rng, 4 * words);
            }
            6 => seg.urg = rng.next_u32() as u16,
            7 => self.next.ttl ^= 1,
            8 => self.next.tos ^= 3,
            9 => seg.seq = rng.next_u32(),
            10 => self.next.id = rng.next_u32() as u16,
            11 => seg.flags |= TcpFlags::CWR,
            12 => self.next.df ^= true,
            13 => self.fixed_id ^= true,
            _ => {}
        }
        self.next.seq = seg.seq.wrapping_add(len as u32);
        if !self.fixed_id {
            self.next.id = self.next.id.wrapping_add(1);
        }
        let (l2, mut bytes) = (seg.l2(), seg.bytes());
        let names_flow = l2 + seg.l3() + 4;
        let mut own = true;
        match rng.below(80) {
            0 => {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << rng.below(8);
                own = at >= names_flow;
            }
            1 => {
                bytes.truncate(rng.below(bytes.len() as u64) as usize);
                own = bytes.len() >= names_flow;
            }
            2 => bytes.extend([0; 9]),
            3 => {
                bytes[l2 + if seg.v6 { 6 } else { 9 }] = rng.next_u32() as u8;
                own = false;
            }
            4 if !seg.v6 => bytes[l2 + 6] ^= 0x20,
            5 => {
                // The other way to write the same sum.
                let at = l2 + seg.l3() + if seg.udp { 6 } else { 16 };
                bytes[at..at + 2].copy_from_slice(&[[0, 0], [255, 255]][rng.below(2) as usize]);
            }
            _ => {}
        }
        (bytes, own)
    }
}

/// What comes out of receive offload, cut again, is what came in, and in order within each flow.
fn cutting_undoes_merging(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let ethernet = rng.below(2) == 0;
    let mut cx = stack(ethernet);
    cx.set_knob("features.rx-udp-gro-forwarding", "on").expect("a legal value");
    if rng.below(3) == 0 {
        cx.set_knob("dev.gro_flush_timeout", "100000").expect("a legal value");
    }
    if rng.below(8) == 0 {
        cx.net.knobs.rx_checksum = false;
    }
    let mut senders: Vec<Sender> =
        (1..=1 + rng.below(12) as u8).map(|host| Sender::new(&mut rng, host, ethernet)).collect();
    // Frames that are of nobody's flow any more come last; their order does not matter.
    let nobody = senders.len();
    let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); nobody + 1];
    let mut whose: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut out = Vec::new();
    for _ in 0..1 + rng.below(5) {
        let mut pkts = Vec::new();
        let mut from = 0;
        for _ in 0..rng.below(80) {
            if rng.below(3) == 0 {
                from = rng.below(senders.len() as u64) as usize;
            }
            let (frame, own) = senders[from].frame(&mut rng);
            let flow = if own { from } else { nobody };
            // A truncated frame may look the same from two senders: leave those out.
            if *whose.entry(frame.clone()).or_insert(flow) != flow {
                continue;
            }
            sent[flow].push(frame.clone());
            pkts.push(pkt_of(&mut cx.net.pool, &frame));
        }
        cx.net.now = cx.net.now.plus(rng.below(150_000));
        out.extend(poll(&mut cx, pkts));
    }
    cx.net.knobs.gro_flush_timeout = 0;
    out.extend(poll(&mut cx, Vec::new()));
    let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); nobody + 1];
    for pkt in out {
        assert!(pkt.len() <= LARGE + 18 && pkt.nr_frags() <= FRAGS_MAX, "seed {seed}");
        for frame in cut(&mut cx, pkt) {
            let from = *whose
                .get(&frame)
                .unwrap_or_else(|| panic!("seed {seed}: nobody sent {frame:02x?}"));
            got[from].push(frame);
        }
    }
    sent[nobody].sort();
    got[nobody].sort();
    assert!(got == sent, "seed {seed}: every flow's frames, and in order");
    assert_eq!((cx.net.pool.small_out(), cx.net.pool.large_out()), (0, 0), "seed {seed}");
    get(&cx, Counter::GroMerged)
}

#[test]
fn cutting_undoes_merging_for_any_interleaving_of_flows() {
    let merged: u64 = (0..1500).map(cutting_undoes_merging).sum();
    assert!(merged > 20_000, "the test merges: {merged}");
}

/// Whole batches go on after a short look at each packet: it says nothing that a long one would not.
#[test]
fn what_passes_by_would_not_be_held() {
    let (mut by, mut held) = (0, 0);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let ethernet = rng.below(2) == 0;
        let mut cx = stack(ethernet);
        cx.set_knob("features.rx-udp-gro-forwarding", "on").expect("a legal value");
        let mut sender = Sender::new(&mut rng, 1, ethernet);
        for _ in 0..40 {
            let (frame, _) = sender.frame(&mut rng);
            let pkt = pkt_of(&mut cx.net.pool, &frame);
            let passes = header::passes_by(&pkt, ethernet, true);
            let (mut table, mut out, mut merged) = (Table::default(), Vec::new(), 0);
            table.receive(&mut cx.net, pkt, &mut out, &mut merged);
            assert!(!passes || table.held == 0, "seed {seed}: {frame:02x?}");
            by += usize::from(passes);
            held += table.held;
            table.flush_older(&mut cx.net, 0, &mut out);
            out.into_iter().for_each(|pkt| cx.net.pool.free(pkt));
        }
    }
    assert!(by > 100 && held > 100, "{by} passed by, {held} were held");
}

#[test]
fn arbitrary_frames_never_panic() {
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let ethernet = rng.below(2) == 0;
        let mut cx = stack(ethernet);
        let mut pkts = Vec::new();
        for _ in 0..20 {
            let len = rng.below(120) as usize;
            let mut bytes = random_bytes(&mut rng, len);
            let l2 = if ethernet { 14 } else { 0 };
            if ethernet && len > 14 {
                bytes[12..14]
                    .copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0]][rng.below(3) as usize]);
            }
            if let Some(first) = bytes.get_mut(l2) {
                *first = [0x45, 0x46, 0x60][rng.below(3) as usize];
            }
            let mut pkt = pkt_of(&mut cx.net.pool, &bytes);
            if rng.below(3) == 0 {
                let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][rng.below(3) as usize];
                let (size, segs) = (rng.below(30) as u16, rng.below(5) as u16);
                pkt.gso = Some(Gso { kind, size, segs, ecn: false });
                pkt.csum = Csum::Partial { start: rng.below(50) as u16, offset: 16 };
            }
            pkt.dev = rng.below(3) as u8;
            pkts.push(pkt);
        }
        let out = poll(&mut cx, pkts);
        out.into_iter().for_each(|p| cx.net.pool.free(p));
        assert_eq!((cx.net.pool.small_out(), cx.net.pool.large_out()), (0, 0), "seed {seed}");
    }
}

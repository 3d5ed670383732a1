//! Clients that are nothing but numbers: 16 bytes each, so that a million of them leave memory and caches
//! to the stack that they talk to. They write real segments, as Linux would (timestamps, window scale,
//! SACK), and read what comes back.

use std::net::Ipv4Addr;

use linerate_arch::csum::{csum_fold, csum_partial};
use linerate_core::pkt::pseudo;
use linerate_core::wire::{IPPROTO_TCP, Ipv4Hdr, TcpFlags, TcpHdr, TcpOptions};

/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The server's port.
pub const PORT: u16 = 80;
/// Clients at one address, each at a port of its own.
const PORTS: u32 = 60_000;
const FIRST_PORT: u16 = 2000;
/// The first client's address.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);

/// Frames one behind the other: bare IP packets, in memory that is used again and again.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
    /// Adds a frame that lies in pieces.
    pub fn push<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        pieces.for_each(|piece| self.bytes.extend_from_slice(piece));
        self.ends.push(self.bytes.len());
    }
    /// Adds a frame of `len` bytes, to be filled.
    pub fn add(&mut self, len: usize) -> &mut [u8] {
        let begin = self.bytes.len();
        self.bytes.resize(begin + len, 0);
        self.ends.push(begin + len);
        &mut self.bytes[begin..]
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// Frame `n`, if there are so many.
    pub fn get(&self, n: usize) -> Option<&[u8]> {
        let begin = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.ends.get(n).map(|end| &self.bytes[begin..*end])
    }
    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|n| self.get(n))
    }
}

/// What a segment says.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// Where it comes from.
    pub from: (Ipv4Addr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Options.
    pub opts: TcpOptions,
    /// Payload.
    pub data: &'a [u8],
}

impl Segment<'_> {
    /// Writes it, with right checksums.
    pub fn write(&self, out: &mut Frames) {
        let hlen = TcpHdr::LEN + self.opts.emit_len();
        let len = hlen + self.data.len();
        let frame = out.add(Ipv4Hdr::LEN + len);
        let (ip, tcp) = frame.split_at_mut(Ipv4Hdr::LEN);
        let hdr = Ipv4Hdr {
            ihl_bytes: Ipv4Hdr::LEN,
            tos: 0,
            total_len: (Ipv4Hdr::LEN + len) as u16,
            id: 0,
            df: true,
            mf: false,
            frag_off_bytes: 0,
            ttl: 64,
            proto: IPPROTO_TCP,
            csum: 0,
            src: self.from.0,
            dst: SERVER,
        };
        hdr.emit(ip);
        let hdr = TcpHdr {
            src_port: self.from.1,
            dst_port: PORT,
            seq: self.seq,
            ack: self.ack,
            data_off_bytes: hlen,
            flags: self.flags,
            window: 64240,
            csum: 0,
            urg: 0,
        };
        hdr.emit(tcp);
        self.opts.emit(&mut tcp[TcpHdr::LEN..]);
        tcp[hlen..].copy_from_slice(self.data);
        let sum = pseudo(self.from.0.into(), SERVER.into(), len, IPPROTO_TCP);
        let sum = csum_fold(csum_partial(tcp, sum));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What a client reads from a frame of the server's.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Whom it is for.
    pub to: (Ipv4Addr, u16),
    /// Its header.
    pub tcp: TcpHdr,
    /// Its timestamp.
    pub ts: Option<u32>,
    /// Bytes of payload.
    pub len: u32,
}

impl Answer {
    /// Reads a frame; `None` if it is no TCP segment.
    pub fn read(frame: &[u8]) -> Option<Answer> {
        let ip = Ipv4Hdr::parse(frame).ok()?;
        let segment = frame.get(ip.ihl_bytes..usize::from(ip.total_len))?;
        let tcp = TcpHdr::parse(segment).ok()?;
        let opts = TcpOptions::parse(tcp.options(segment));
        let len = segment.len().checked_sub(tcp.data_off_bytes)? as u32;
        Some(Answer { to: (ip.dst, tcp.dst_port), tcp, ts: opts.ts.map(|(val, _)| val), len })
    }
}

/// One client.
#[derive(Clone, Copy, Default)]
struct Client {
    /// The next sequence number to send.
    seq: u32,
    /// The next one expected.
    ack: u32,
    /// The server's newest timestamp; 0 = it sends none.
    ts: u32,
    /// The last turn in which it was chosen.
    turn: u32,
}

/// All clients, by number.
pub struct Clients(Vec<Client>);

/// Where client `n` is.
pub fn place(n: u32) -> (Ipv4Addr, u16) {
    let addr = Ipv4Addr::from_bits(FIRST.to_bits() + n / PORTS);
    (addr, FIRST_PORT + (n % PORTS) as u16)
}

/// Which client is there; `None` if none is.
pub fn number(place: (Ipv4Addr, u16)) -> Option<u32> {
    let addr = place.0.to_bits().checked_sub(FIRST.to_bits())?;
    let port = u32::from(place.1.checked_sub(FIRST_PORT)?);
    addr.checked_mul(PORTS)?.checked_add(port)
}

/// The options of a SYN, as Linux's.
pub fn syn_options(ms: u32) -> TcpOptions {
    TcpOptions {
        mss: Some(1460),
        wscale: Some(7),
        sack_permitted: true,
        ts: Some((ms, 0)),
        ..TcpOptions::NONE
    }
}

impl Clients {
    /// So many.
    pub fn new(n: u32) -> Clients {
        // Written, so that the memory is there before anything is measured.
        Clients((0..n).map(|n| Client { turn: n | 1, ..Client::default() }).collect())
    }
    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }
    /// Whether client `n` is not chosen in this turn yet; it is then.
    pub fn choose(&mut self, n: u32, turn: u32) -> bool {
        std::mem::replace(&mut self.0[n as usize].turn, turn) != turn
    }
    /// The SYN of client `n`.
    pub fn syn(&mut self, n: u32, ms: u32, out: &mut Frames) {
        let iss = n.wrapping_mul(0x9e37_79b9);
        self.0[n as usize] = Client { seq: iss.wrapping_add(1), ..self.0[n as usize] };
        let (flags, opts) = (TcpFlags::SYN, syn_options(ms));
        Segment { from: place(n), seq: iss, ack: 0, flags, opts, data: &[] }.write(out);
    }
    /// A segment of client `n`, which acknowledges all that came.
    pub fn send(&mut self, n: u32, flags: TcpFlags, data: &[u8], ms: u32, out: &mut Frames) {
        let client = &mut self.0[n as usize];
        let opts =
            TcpOptions { ts: (client.ts != 0).then_some((ms, client.ts)), ..TcpOptions::NONE };
        let (seq, ack) = (client.seq, client.ack);
        Segment { from: place(n), seq, ack, flags: flags | TcpFlags::ACK, opts, data }.write(out);
        client.seq = seq.wrapping_add(data.len() as u32 + u32::from(flags.fin()));
    }
    /// Takes an answer in. Returns whose it is, if it is the next of its client.
    pub fn take(&mut self, answer: &Answer) -> Option<u32> {
        let n = number(answer.to)?;
        let client = self.0.get_mut(n as usize)?;
        let hdr = &answer.tcp;
        let syn = hdr.flags.syn() && hdr.flags.ack();
        if !syn && hdr.seq != client.ack || hdr.flags.rst() || hdr.ack != client.seq {
            return None;
        }
        client.ts = answer.ts.unwrap_or(0);
        let more = u32::from(syn) + u32::from(hdr.flags.fin());
        client.ack = hdr.seq.wrapping_add(answer.len + more);
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_place_of_its_own() {
        for n in [0, 1, 59_999, 60_000, 999_999, 3_999_999] {
            assert_eq!(number(place(n)), Some(n));
        }
        assert_eq!(number((SERVER, 5000)), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut frames = Frames::default();
        let mut clients = Clients::new(3);
        clients.syn(2, 7, &mut frames);
        clients.send(2, TcpFlags::PSH, b"request", 8, &mut frames);
        assert_eq!(frames.len(), 2);
        let syn = TcpHdr::parse(&frames.get(0).expect("the first")[20..]).expect("a segment");
        let frame = frames.get(1).expect("the second");
        let data = TcpHdr::parse(&frame[20..]).expect("a segment");
        assert_eq!(data.seq, syn.seq.wrapping_add(1));
        let sum = pseudo(place(2).0.into(), SERVER.into(), frame.len() - 20, IPPROTO_TCP);
        assert_eq!(csum_fold(csum_partial(&frame[20..], sum)), 0);
        assert!(frames.get(2).is_none() && frame.ends_with(b"request"));
    }
}

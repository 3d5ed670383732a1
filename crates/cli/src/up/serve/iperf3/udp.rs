//! Data streams over UDP.
//!
//! All streams of a shard share the socket of the service, so that the client's `-w` is only its own. A datagram is its stream's by the address
//! that it came from, on whatever shard it arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use linerate_core::rx::steer::FlowKey;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::{Instant, SEC, US};
use linerate_core::udp::api::Datagram;
use linerate_core::udp::output::SendTo;
use linerate_dev::drive::clock_ns;

use super::params::Params;
use super::{Phase, Role, SOON, Server, Stream, Test, allowed, due};

/// What the client sends to open a stream, and what it is answered.
const CONNECT: &[u8; 4] = b"9876";
const CONNECT_OLD: [u8; 4] = 123_456_789_u32.to_le_bytes();
const REPLY: &[u8; 4] = b"6789";
/// Bytes of a datagram that say when it was sent, and which it is.
const HEAD: usize = 16;
/// Bytes of the socket's receive buffer, true size.
pub(in crate::up::serve) const RCVBUF: usize = 4 << 20;
/// Bytes that a stream sends in a turn, but for the last datagram.
const BYTES_PER_TURN: usize = 128 << 10;

/// The UDP side of a server on one shard.
#[derive(Default)]
pub struct Local {
    /// [`Server::version`] when this was read.
    version: Option<u64>,
    test: Option<Arc<Test>>,
    /// The test's streams, by the client's address.
    streams: Vec<Arc<Stream>>,
    /// The one that had the datagram before.
    last: usize,
    /// Those that were opened on this shard: if we send, they are sent from here.
    mine: Vec<Sender>,
}

impl Drop for Local {
    /// The shard goes: another one sends on.
    fn drop(&mut self) {
        if let Some(test) = self.test.as_ref().filter(|_| !self.mine.is_empty()) {
            let mut left = super::lock(&test.left);
            left.append(&mut self.mine);
            test.left_len.store(left.len(), Ordering::Release);
        }
    }
}

/// A stream that is sent from this shard.
#[derive(Debug)]
pub(super) struct Sender {
    stream: Arc<Stream>,
    how: SendTo,
    begun: Option<Instant>,
    next: Instant,
}

impl Local {
    /// Learns what has changed on any shard.
    #[inline]
    fn learn(&mut self, server: &Server) {
        let version = server.version.load(Ordering::Acquire);
        if self.version != Some(version) {
            self.learn_anew(server, version);
        }
    }

    #[cold]
    fn learn_anew(&mut self, server: &Server, version: u64) {
        self.version = Some(version);
        let test = super::lock(&server.test).clone().filter(|test| test.is_udp());
        self.streams = test.as_ref().map_or(Vec::new(), |t| super::lock(&t.streams).clone());
        self.streams.sort_by_key(|s| s.peer);
        self.last = 0;
        let same = |a: &Arc<Test>| test.as_ref().is_some_and(|b| Arc::ptr_eq(a, b));
        if !self.test.as_ref().is_some_and(same) {
            self.mine.clear();
        }
        self.test = test;
    }

    fn find(&mut self, peer: SocketAddr) -> Option<&Arc<Stream>> {
        if self.streams.get(self.last).is_none_or(|s| s.peer != peer) {
            self.last = self.streams.binary_search_by_key(&peer, |s| s.peer).ok()?;
        }
        self.streams.get(self.last)
    }

    /// Serves what waits, at most `most` datagrams; true if more may wait.
    pub(in crate::up::serve) fn serve(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        server: &Server,
        most: usize,
    ) -> bool {
        for _ in 0..most {
            let Some(datagram) = shard.udp_recv(id) else { return false };
            self.learn(server);
            self.receive(shard, id, server, &datagram);
            shard.udp_done(datagram);
        }
        true
    }

    fn receive(&mut self, shard: &mut Shard, id: SocketId, server: &Server, datagram: &Datagram) {
        let Some(test) = self.test.clone() else { return };
        let (peer, local) = (datagram.src(), datagram.dst());
        let Some(stream) = self.find(peer).cloned() else {
            return self.open(shard, id, server, &test, datagram);
        };
        match (test.phase(), stream.role()) {
            (Phase::Running, Role::Receives) => {
                let params = test.params.get();
                let anew = test.anew.load(Ordering::Relaxed);
                let wide = params.is_some_and(|p| p.wide);
                heads(datagram, |head| stream.arrived(head, wide, anew));
                stream.count(datagram.len());
                // Its reader is whoever adds up the test.
                let reader = test.reader.load(Ordering::Relaxed);
                let hash = shard.net.flow_hash(&FlowKey::new(local, peer));
                shard.net.rps_record_sock_flow(hash, reader);
            }
            // It asks again: the answer was lost.
            (Phase::Streams | Phase::Complete, _) if datagram.len() == REPLY.len() => {
                answer(shard, id, datagram);
            }
            _ => {}
        }
    }

    /// Opens a stream, if the test's client asks for one.
    fn open(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        server: &Server,
        test: &Arc<Test>,
        datagram: &Datagram,
    ) {
        let asks = datagram.slices().flatten().copied().take(5).collect::<Vec<u8>>();
        let known = asks[..] == CONNECT[..] || asks[..] == CONNECT_OLD[..];
        // A datagram's sender can be forged: only he is sent anything who has a connection as well.
        let local = shard.net.fib.is_local(datagram.dst().ip());
        if !known || datagram.src().ip() != test.peer || !local {
            return;
        }
        let Some(params) = test.params.get() else { return };
        let Some(stream) = test.join(server.number(), datagram.src()) else { return };
        server.changed();
        let how = SendTo { tos: params.tos, df: params.df, ..back(datagram) };
        self.mine.push(Sender { stream, how, begun: None, next: Instant::ZERO });
        answer(shard, id, datagram);
    }

    /// Sends what is due. True if there is more at once.
    pub(in crate::up::serve) fn turn(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        server: &Server,
        text: &mut Vec<u8>,
    ) -> bool {
        self.learn(server);
        let now = shard.net.now;
        let Some(test) = &self.test else { return false };
        if test.left_len.load(Ordering::Acquire) > 0 {
            // The control connection's shard has a turn now and then, whatever happens.
            let mut left = super::lock(&test.left);
            self.mine.append(&mut left);
            test.left_len.store(0, Ordering::Release);
        }
        if self.mine.is_empty() {
            return false;
        }
        let Some(params) = test.params.get() else { return false };
        let mut more = false;
        match test.phase() {
            Phase::Running => {}
            Phase::Over => self.mine.clear(),
            _ => self.mine.iter_mut().for_each(|s| s.next = now.plus(SOON)),
        }
        self.mine.retain(|s| s.stream.role() != Role::Receives);
        if test.phase() != Phase::Running {
            return false;
        }
        for sender in self.mine.iter_mut().filter(|s| s.next <= now) {
            more |= sender.send(shard, id, params, text);
        }
        more
    }

    pub(in crate::up::serve) fn next_timer(&self) -> Option<Instant> {
        self.mine.iter().map(|s| s.next).min()
    }
}

impl Sender {
    fn send(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        params: &Params,
        text: &mut Vec<u8>,
    ) -> bool {
        let now = shard.net.now;
        let begun = *self.begun.get_or_insert(now);
        let mut turn = 0;
        // A burst is paid for before the next; one that is longer than a turn is cut.
        let mut burst = 0;
        while turn < BYTES_PER_TURN {
            let sent = self.stream.bytes();
            if params.rate > 0 && burst == 0 && sent > allowed(params.rate, now.since(begun)) {
                self.next = begun.plus(due(params.rate, sent));
                return false;
            }
            burst = (burst + 1) % params.burst;
            let number = self.stream.packets.load(Ordering::Relaxed) + 1;
            text.clear();
            head(text, clock_ns(), number, params.wide);
            let rest = params.len.saturating_sub(text.len()).min(params.block.len());
            let parts: [&[u8]; 2] = [text, &params.block[..rest]];
            if shard.udp_send(id, self.how, &parts).is_err() {
                // The way out is full: it was not sent, and has no number yet.
                self.next = now.plus(SOON);
                return false;
            }
            self.stream.packets.store(number, Ordering::Relaxed);
            self.stream.count(text.len() + rest);
            turn += text.len() + rest;
        }
        true
    }
}

impl Stream {
    /// A datagram with this head came; `anew`: how often the figures began anew.
    fn arrived(&self, head: &[u8], wide: bool, anew: u32) {
        let word = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            bytes.map(|b| u64::from(u32::from_be_bytes(*b)))
        };
        let (Some(secs), Some(usecs), Some(high)) = (word(0), word(4), word(8)) else { return };
        let number = match (wide, word(12)) {
            (false, _) => high,
            (true, Some(low)) => high << 32 | low,
            (true, None) => return,
        };
        let highest = self.packets.load(Ordering::Relaxed);
        let lost = self.lost.load(Ordering::Relaxed);
        if number > highest {
            self.packets.store(number, Ordering::Relaxed);
            self.lost.store(lost.saturating_add(number - highest - 1), Ordering::Relaxed);
        } else {
            // It was counted as lost when a later one came.
            self.lost.store(lost.saturating_sub(1), Ordering::Relaxed);
        }
        self.measure(secs * SEC + usecs * US, clock_ns(), anew);
    }

    /// RFC 1889 §6.3.1: the deviation in the time that datagrams take, by the clocks of both ends,
    /// which need not agree. Times are nanoseconds.
    fn measure(&self, sent: u64, arrived: u64, anew: u32) {
        let transit = arrived.wrapping_sub(sent);
        let first = self.measured.swap(anew + 1, Ordering::Relaxed) != anew + 1;
        let before = self.transit.swap(transit, Ordering::Relaxed);
        if first {
            self.jitter.store(0, Ordering::Relaxed);
            return;
        }
        let deviation = (transit.wrapping_sub(before) as i64).unsigned_abs() as f64 / SEC as f64;
        let jitter = f64::from_bits(self.jitter.load(Ordering::Relaxed));
        let jitter = jitter + (deviation - jitter) / 16.0;
        self.jitter.store(jitter.to_bits(), Ordering::Relaxed);
    }
}

/// Writes the head of a datagram that is sent at `ns`.
fn head(text: &mut Vec<u8>, ns: u64, number: u64, wide: bool) {
    text.extend_from_slice(&((ns / SEC) as u32).to_be_bytes());
    text.extend_from_slice(&((ns % SEC / US) as u32).to_be_bytes());
    if wide {
        text.extend_from_slice(&number.to_be_bytes());
    } else {
        text.extend_from_slice(&(number as u32).to_be_bytes());
    }
}

/// The first bytes of each datagram, of which a received super-packet has several.
fn heads(datagram: &Datagram, each: impl FnMut(&[u8])) {
    let size = datagram.segment_size().unwrap_or(datagram.len());
    cut_heads(datagram.slices(), size, each);
}

/// The first [`HEAD`] bytes of each `size` bytes of what lies in pieces; what is shorter has none.
fn cut_heads<'a>(slices: impl Iterator<Item = &'a [u8]>, size: usize, mut each: impl FnMut(&[u8])) {
    let size = size.max(1);
    let mut head = [0; HEAD];
    // Place within the datagram.
    let mut at = 0;
    for mut slice in slices {
        while !slice.is_empty() {
            let (now, rest) = slice.split_at(slice.len().min(size - at));
            if at < HEAD {
                let n = now.len().min(HEAD - at);
                head[at..at + n].copy_from_slice(&now[..n]);
                if at + n == HEAD {
                    each(&head);
                }
            }
            at = (at + now.len()) % size;
            slice = rest;
        }
    }
}

fn back(datagram: &Datagram) -> SendTo {
    SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) }
}

fn answer(shard: &mut Shard, id: SocketId, datagram: &Datagram) {
    // Lost where there is no room: the client says so after half a minute.
    let _ = shard.udp_send(id, back(datagram), &[REPLY]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(0, SocketAddr::from(([10, 9, 0, 1], 5201)))
    }

    fn seen(stream: &Stream) -> (u64, u64) {
        (stream.packets.load(Ordering::Relaxed), stream.lost.load(Ordering::Relaxed))
    }

    #[test]
    fn what_is_missing_is_lost_until_it_comes_late() {
        let stream = stream();
        for (number, want) in [
            (1, (1, 0)),
            (2, (2, 0)),
            (6, (6, 3)),
            (4, (6, 2)),
            (7, (7, 2)),
            (3, (7, 1)),
            (7, (7, 0)),
        ] {
            let mut text = Vec::new();
            head(&mut text, 5 * SEC, number, true);
            stream.arrived(&text, true, 0);
            assert_eq!(seen(&stream), want, "{number}");
        }
        // 32 bits and 64 bits are told apart by what the client said.
        for (wide, number) in [(false, 9), (true, 9 << 32)] {
            let mut text = Vec::new();
            head(&mut text, 0, number, wide);
            text.resize(HEAD, 0);
            stream.arrived(&text, wide, 0);
            assert_eq!(seen(&stream).0, number);
        }
        // No number is too large, and a head that is too short says nothing.
        stream.arrived(&[0xff; HEAD], true, 0);
        assert_eq!(seen(&stream).0, u64::MAX);
        (0..HEAD).for_each(|n| stream.arrived(&[0xff; HEAD][..n], true, 0));
        assert_eq!(seen(&stream).0, u64::MAX);
    }

    /// The figures of RFC 1889 §A.8 by hand: J += (|D| - J) / 16.
    #[test]
    fn jitter_is_that_of_the_rfc_whatever_the_clocks_say() {
        let jitter = |stream: &Stream| f64::from_bits(stream.jitter.load(Ordering::Relaxed));
        for offset in [0, 1_700_000_000 * SEC] {
            let stream = stream();
            let mut want = 0.0;
            // Sent each millisecond; the transits are 10, 12, 11, 11, 31 µs.
            let transits = [10, 12, 11, 11, 31];
            for (i, transit) in transits.iter().enumerate() {
                let sent = i as u64 * 1000 * US;
                stream.measure(offset + sent, sent + transit * US, 0);
                if i > 0 {
                    let deviation = (*transit as f64 - transits[i - 1] as f64).abs() * 1e-6;
                    want += (deviation - want) / 16.0;
                }
                assert!((jitter(&stream) - want).abs() < 1e-12, "{i}: {} {want}", jitter(&stream));
            }
            assert!(want > 1e-6);
            // Anew: what comes next is the first.
            stream.measure(offset, 500 * US, 1);
            assert_eq!(jitter(&stream), 0.0);
            stream.measure(offset, 516 * US, 1);
            assert!((jitter(&stream) - 1e-6).abs() < 1e-12);
        }
    }

    #[test]
    fn heads_are_found_wherever_the_pieces_end() {
        let all: Vec<u8> = (0..90).collect();
        for piece in 1..90 {
            let mut found = Vec::new();
            cut_heads(all.chunks(piece), 40, |head| found.push(head.to_vec()));
            // The last of 10 bytes has none.
            assert_eq!(found, [&all[..16], &all[40..56]], "{piece}");
        }
        let mut found = 0;
        cut_heads(all.chunks(7), 15, |_| found += 1);
        cut_heads(std::iter::empty(), 0, |_| found += 1);
        assert_eq!(found, 0, "too short for a head");
    }
}

//! The peer `smoltcp` at the same work, for every row that it can run. Built in with the feature
//! `bench-peers`.
//!
//! It is given what favours it: its sockets are found by number and not by asking them all, memory for frames is
//! used again, acknowledgements are not delayed, what is left of closed connections waits for no time, and
//! where ours sends partial checksums it sends none.

use super::case::{Case, Row};
use super::{bulk, connects, flood, loss, packets};

/// Connections of the rows that it can run in reasonable time, and how much slower it is given.
const CONNECTIONS: [(u32, u64); 3] = [(1, 1), (32, 1), (1000, 100)];

/// The cases of this file of which `wanted` says so.
pub fn cases(most: u32, wanted: impl Fn(&str) -> bool) -> Vec<Box<dyn Case>> {
    let mut list: Vec<Box<dyn Case>> = Vec::new();
    for (n, slower) in CONNECTIONS {
        if n <= most && wanted(&packets::packets_name(n)) {
            list.extend(many(n, slower));
        }
    }
    if wanted(connects::NAME) {
        list.push(opener());
    }
    for offload in [false, true] {
        if wanted(bulk::bulk_name(offload)) {
            list.push(stream(offload));
        }
    }
    for ppm in loss::LOSSES {
        if wanted(&loss::loss_name(ppm, false)) {
            list.push(lossy(ppm));
        }
    }
    if wanted(flood::SERVED) {
        list.extend(flooded());
    }
    list
}

#[cfg(not(feature = "bench-peers"))]
mod absent {
    use super::*;

    /// Stands for a peer that this program was built without.
    struct NotBuiltIn(Vec<Row>);

    impl NotBuiltIn {
        fn case(name: &str, unit: &'static str) -> Box<dyn Case> {
            let note = Some("not built in: build with --features bench-peers".to_owned());
            Box::new(NotBuiltIn(vec![Row { note, ..Row::new(name, unit).of("smoltcp") }]))
        }
    }

    impl Case for NotBuiltIn {
        fn name(&self) -> String {
            "smoltcp, which is not built in".to_owned()
        }
        fn rows(&self) -> Vec<Row> {
            self.0.clone()
        }
        fn round(&mut self, _part: f64) -> Vec<Option<f64>> {
            Vec::new()
        }
    }

    pub fn many(n: u32, _slower: u64) -> Vec<Box<dyn Case>> {
        vec![NotBuiltIn::case(&packets::packets_name(n), "ns/packet")]
    }
    pub fn opener() -> Box<dyn Case> {
        NotBuiltIn::case(connects::NAME, "/s")
    }
    pub fn stream(offload: bool) -> Box<dyn Case> {
        NotBuiltIn::case(bulk::bulk_name(offload), "Gb/s")
    }
    pub fn lossy(ppm: u64) -> Box<dyn Case> {
        NotBuiltIn::case(&loss::loss_name(ppm, false), "ns/segment")
    }
    pub fn flooded() -> Vec<Box<dyn Case>> {
        vec![NotBuiltIn::case(flood::SERVED, "%")]
    }
}
#[cfg(not(feature = "bench-peers"))]
use absent::{flooded, lossy, many, opener, stream};

#[cfg(feature = "bench-peers")]
mod present {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;

    use linerate_core::wire::{IPPROTO_TCP, Ipv4Hdr};
    use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
    use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
    use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
    use smoltcp::time::{Duration, Instant};
    use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

    use super::*;
    use crate::bench::path::case::cpu_ns;
    use crate::bench::scale::case::some;
    use crate::bench::scale::clients::{Frames, PORT, SERVER, number};
    use crate::bench::scale::line::{Line, PIPE};
    use crate::bench::scale::pair::CLIENT;
    use crate::bench::scale::server::Server;

    /// A device: frames that came, frames that go, and memory to be used again.
    struct Port {
        rx: VecDeque<Vec<u8>>,
        tx: VecDeque<Vec<u8>>,
        done: Vec<Vec<u8>>,
        spare: Vec<Vec<u8>>,
        mtu: usize,
        sums: bool,
    }

    struct Rx<'a> {
        frame: Vec<u8>,
        done: &'a mut Vec<Vec<u8>>,
    }
    struct Tx<'a> {
        tx: &'a mut VecDeque<Vec<u8>>,
        spare: &'a mut Vec<Vec<u8>>,
    }

    impl RxToken for Rx<'_> {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
            let said = f(&self.frame);
            self.done.push(self.frame);
            said
        }
    }
    impl TxToken for Tx<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.resize(len, 0);
            let said = f(&mut frame);
            self.tx.push_back(frame);
            said
        }
    }
    impl Device for Port {
        type RxToken<'a> = Rx<'a>;
        type TxToken<'a> = Tx<'a>;
        fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
            let frame = self.rx.pop_front()?;
            let rx = Rx { frame, done: &mut self.done };
            Some((rx, Tx { tx: &mut self.tx, spare: &mut self.spare }))
        }
        fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
            Some(Tx { tx: &mut self.tx, spare: &mut self.spare })
        }
        fn capabilities(&self) -> DeviceCapabilities {
            let mut caps = DeviceCapabilities::default();
            caps.medium = Medium::Ip;
            caps.max_transmission_unit = self.mtu;
            let sums = if self.sums { Checksum::Both } else { Checksum::None };
            (caps.checksum.tcp, caps.checksum.ipv4) = (sums, sums);
            caps
        }
    }

    /// A stack with its device and its sockets.
    struct End {
        port: Port,
        iface: Interface,
        sockets: SocketSet<'static>,
        handles: Vec<SocketHandle>,
    }

    impl End {
        fn new(addr: Ipv4Addr, sockets: u32, buffer: usize, (mtu, sums): (usize, bool)) -> End {
            let (rx, tx) = (VecDeque::new(), VecDeque::new());
            let mut port = Port { rx, tx, done: Vec::new(), spare: Vec::new(), mtu, sums };
            let config = Config::new(HardwareAddress::Ip);
            let mut iface = Interface::new(config, &mut port, Instant::ZERO);
            iface.update_ip_addrs(|addrs| {
                addrs.push(IpCidr::new(IpAddress::Ipv4(addr), 8)).expect("room for one address");
            });
            let mut set = SocketSet::new(Vec::new());
            let handles = (0..sockets).map(|_| {
                let new = || SocketBuffer::new(vec![0; buffer]);
                let mut socket = Socket::new(new(), new());
                socket.set_nagle_enabled(false);
                socket.set_ack_delay(None);
                set.add(socket)
            });
            let handles = handles.collect();
            End { port, iface, sockets: set, handles }
        }
        fn poll(&mut self, now: Instant) {
            self.iface.poll(now, &mut self.port, &mut self.sockets);
        }
        fn socket(&mut self, n: usize) -> &mut Socket<'static> {
            self.sockets.get_mut(self.handles[n])
        }
        /// Memory of frames that were read is used again.
        fn recycle(&mut self) {
            self.port.spare.append(&mut self.port.done);
        }
    }

    /// What one end sent goes to the other as it is; memory comes back.
    fn cross(from: &mut End, to: &mut End, now: Instant) {
        std::mem::swap(&mut from.port.tx, &mut to.port.rx);
        to.poll(now);
        from.port.spare.append(&mut to.port.done);
    }

    /// Listening sockets in the flood: what a backlog is to others.
    const BACKLOG: u32 = 1024;

    /// An echo server.
    struct Echo {
        end: End,
        /// Which socket serves a frame is told by its sender's number, or all are asked.
        by_number: bool,
        of: Vec<usize>,
    }

    fn at(now: linerate_core::time::Instant) -> Instant {
        Instant::from_micros(now.ns() as i64 / 1000)
    }

    impl Echo {
        fn new(sockets: u32, by_number: bool) -> Echo {
            let mut end = End::new(SERVER, sockets, 256, (1500, true));
            for n in 0..sockets as usize {
                end.socket(n).listen(PORT).expect("a port");
            }
            Echo { end, by_number, of: Vec::new() }
        }
        fn serve(&mut self, n: usize) {
            let mut buf = [0; 256];
            let socket = self.end.socket(n);
            while socket.can_recv() {
                let len = socket.recv_slice(&mut buf).unwrap_or(0);
                let sent = socket.send_slice(&buf[..len]);
                assert!(len == 0 || sent == Ok(len), "an answer finds room");
            }
            match socket.state() {
                State::CloseWait => socket.close(),
                State::Closed => socket.listen(PORT).expect("a port"),
                _ => {}
            }
        }
    }

    impl Server for Echo {
        fn turn(
            &mut self,
            now: linerate_core::time::Instant,
            frames: &Frames,
            _timers: bool,
            out: &mut Frames,
        ) {
            self.of.clear();
            for frame in frames.iter() {
                let mut bytes = self.end.port.spare.pop().unwrap_or_default();
                bytes.clear();
                bytes.extend_from_slice(frame);
                self.end.port.rx.push_back(bytes);
                let from = Ipv4Hdr::parse(frame).expect("clients send whole headers");
                debug_assert_eq!(from.proto, IPPROTO_TCP);
                let port = u16::from_be_bytes([frame[20], frame[21]]);
                self.of.extend(number((from.src, port)).map(|n| n as usize));
            }
            let now = at(now);
            self.end.poll(now);
            match self.by_number {
                true => {
                    for n in std::mem::take(&mut self.of) {
                        self.serve(n);
                    }
                }
                false => (0..self.end.handles.len()).for_each(|n| self.serve(n)),
            }
            self.end.poll(now);
            for frame in self.end.port.tx.drain(..) {
                out.push(std::iter::once(&frame[..]));
                self.end.port.done.push(frame);
            }
            self.end.recycle();
        }
        fn accepted(&self) -> u64 {
            let open = |h: &&SocketHandle| self.end.sockets.get::<Socket<'_>>(**h).may_send();
            self.end.handles.iter().filter(open).count() as u64
        }
        fn check(&self) {}
    }

    pub fn many(n: u32, slower: u64) -> Vec<Box<dyn Case>> {
        let plan =
            packets::Plan { who: "smoltcp", connections: n, slower, memory: false, more: false };
        packets::cases(plan, || Box::new(Echo::new(n, true)))
    }

    pub fn flooded() -> Vec<Box<dyn Case>> {
        let server = Box::new(Echo::new(BACKLOG, false));
        vec![Box::new(flood::Flood::new("smoltcp", server, 50))]
    }

    /// Connections that are opened and closed.
    struct Opener {
        client: End,
        server: End,
        now: Instant,
        opened: u64,
    }

    const BATCH: u32 = 32;

    pub fn opener() -> Box<dyn Case> {
        let new = |addr| End::new(addr, BATCH, 256, (1500, true));
        let (client, server) = (new(CLIENT), new(SERVER));
        Box::new(Opener { client, server, now: Instant::ZERO, opened: 0 })
    }

    impl Opener {
        fn turn(&mut self) {
            // TIME_WAIT is over.
            self.now += Duration::from_secs(11);
            self.client.poll(self.now);
            for n in 0..BATCH as usize {
                self.server.socket(n).listen(PORT).expect("a port");
                let port = 1024 + (self.opened % 60_000) as u16;
                let remote = IpEndpoint::new(SERVER.into(), PORT);
                let End { iface, sockets, handles, .. } = &mut self.client;
                let socket = sockets.get_mut::<Socket<'_>>(handles[n]);
                socket.connect(iface.context(), remote, port).expect("it is closed");
                self.opened += 1;
            }
            self.client.poll(self.now);
            cross(&mut self.client, &mut self.server, self.now);
            cross(&mut self.server, &mut self.client, self.now);
            cross(&mut self.client, &mut self.server, self.now);
            for n in 0..BATCH as usize {
                assert!(self.server.socket(n).may_send(), "every connection is accepted");
                self.client.socket(n).close();
            }
            self.client.poll(self.now);
            cross(&mut self.client, &mut self.server, self.now);
            for n in 0..BATCH as usize {
                self.server.socket(n).close();
            }
            self.server.poll(self.now);
            cross(&mut self.server, &mut self.client, self.now);
            cross(&mut self.client, &mut self.server, self.now);
            for n in 0..BATCH as usize {
                assert_eq!(self.server.socket(n).state(), State::Closed, "every one is closed");
            }
        }
    }

    impl Case for Opener {
        fn name(&self) -> String {
            format!("{}, smoltcp", connects::NAME)
        }
        fn rows(&self) -> Vec<Row> {
            vec![Row::new(connects::NAME, "/s").of("smoltcp")]
        }
        fn round(&mut self, part: f64) -> Vec<Option<f64>> {
            let (connects, before) = (some(50_000, part, 128), self.opened);
            let begun = cpu_ns();
            while self.opened - before < connects {
                self.turn();
            }
            vec![Some((self.opened - before) as f64 * 1e9 / (cpu_ns() - begun) as f64)]
        }
    }

    /// One stream.
    struct Stream {
        client: End,
        server: End,
        offload: bool,
        now: Instant,
        data: Vec<u8>,
        received: u64,
    }

    pub fn stream(offload: bool) -> Box<dyn Case> {
        let how = if offload { (65535, false) } else { (1500, true) };
        Box::new(Stream::new(how, 512 << 10, offload))
    }

    impl Stream {
        /// A connection with buffers of so many bytes.
        fn new(how: (usize, bool), buffer: usize, offload: bool) -> Stream {
            let new = |addr| End::new(addr, 1, buffer, how);
            let (mut client, mut server) = (new(CLIENT), new(SERVER));
            server.socket(0).listen(PORT).expect("a port");
            let End { iface, sockets, handles, .. } = &mut client;
            let remote = IpEndpoint::new(SERVER.into(), PORT);
            let socket = sockets.get_mut::<Socket<'_>>(handles[0]);
            socket.connect(iface.context(), remote, 5000).expect("it is closed");
            let now = Instant::from_micros(1);
            client.poll(now);
            for _ in 0..2 {
                cross(&mut client, &mut server, now);
                cross(&mut server, &mut client, now);
            }
            let data = (0..bulk::WRITE).map(|n| n as u8).collect();
            Stream { client, server, offload, now, data, received: 0 }
        }

        fn turn(&mut self) {
            self.now += Duration::from_micros(5);
            self.write();
            self.client.poll(self.now);
            cross(&mut self.client, &mut self.server, self.now);
            self.read();
            self.server.poll(self.now);
            cross(&mut self.server, &mut self.client, self.now);
        }

        /// As much as there is room for; whether there was.
        fn write(&mut self) -> bool {
            let socket = self.client.socket(0);
            let room = (socket.send_capacity() - socket.send_queue()).min(self.data.len());
            let sent = self.client.sockets.get_mut::<Socket<'_>>(self.client.handles[0]);
            sent.send_slice(&self.data[..room]).expect("it is open");
            room > 0
        }

        fn read(&mut self) {
            let socket = self.server.socket(0);
            while socket.can_recv() {
                let read = socket.recv(|bytes| {
                    std::hint::black_box(bytes.first());
                    (bytes.len(), bytes.len())
                });
                self.received += read.expect("there is something") as u64;
            }
        }
    }

    impl Case for Stream {
        fn name(&self) -> String {
            format!("{}, smoltcp", bulk::bulk_name(self.offload))
        }
        fn rows(&self) -> Vec<Row> {
            vec![Row::new(bulk::bulk_name(self.offload), "Gb/s").of("smoltcp")]
        }
        fn round(&mut self, part: f64) -> Vec<Option<f64>> {
            let (bytes, before) = (some(1 << 30, part, 8 << 20), self.received);
            let begun = cpu_ns();
            while self.received - before < bytes {
                self.turn();
            }
            vec![Some((self.received - before) as f64 * 8.0 / (cpu_ns() - begun) as f64)]
        }
    }

    /// A stream over a line that loses packets. It has no congestion control: its window is what the line carries.
    struct Lossy {
        stream: Stream,
        line: Line<Vec<u8>>,
        ppm: u64,
    }

    pub fn lossy(ppm: u64) -> Box<dyn Case> {
        let mut line = Line::new();
        line.lose(ppm);
        let window = (PIPE * loss::SEGMENT) as usize;
        Box::new(Lossy { stream: Stream::new((1500, true), window, false), line, ppm })
    }

    impl Lossy {
        fn turn(&mut self) {
            let Lossy { stream, line, .. } = self;
            stream.now += Duration::from_micros(loss::TURN_NS / 1000);
            let (now, now_ns) = (stream.now, stream.now.total_micros() as u64 * 1000);
            let wrote = stream.write();
            stream.client.poll(now);
            let sent = !stream.client.port.tx.is_empty();
            for frame in stream.client.port.tx.drain(..) {
                let lost = line.send(now_ns, frame.len(), frame);
                stream.server.port.done.extend(lost);
            }
            stream.server.port.rx.extend(std::iter::from_fn(|| line.arrived(now_ns)));
            let came = !stream.server.port.rx.is_empty();
            stream.server.poll(now);
            stream.client.port.spare.append(&mut stream.server.port.done);
            stream.read();
            stream.server.poll(now);
            let answered = !stream.server.port.tx.is_empty();
            cross(&mut stream.server, &mut stream.client, now);
            if !(wrote || sent || came || answered) {
                self.skip();
            }
        }

        /// On to what happens next: the next turn begins by going on itself.
        fn skip(&mut self) {
            let Lossy { stream, line, .. } = self;
            let now = stream.now;
            let timer = |end: &mut End| end.iface.poll_at(now, &end.sockets);
            let timers = [timer(&mut stream.client), timer(&mut stream.server)];
            let next = line.next_ns().map(|ns| Instant::from_micros(ns.div_ceil(1000) as i64));
            let next = timers.into_iter().chain([next]).flatten().min();
            let next = next.expect("a stream that goes on has a timer");
            let turn = Duration::from_micros(loss::TURN_NS / 1000);
            stream.now = now.max(next - turn);
        }
    }

    impl Case for Lossy {
        fn name(&self) -> String {
            format!("{}, smoltcp", loss::loss_name(self.ppm, false))
        }
        fn rows(&self) -> Vec<Row> {
            vec![Row::new(loss::loss_name(self.ppm, false), "ns/segment").of("smoltcp")]
        }
        fn round(&mut self, part: f64) -> Vec<Option<f64>> {
            // What it sends again makes it slower.
            let slower = if self.ppm > 0 { 10 } else { 1 };
            let (segments, before) =
                (some(loss::USUAL / slower, part, loss::LEAST), self.stream.received);
            let begun = cpu_ns();
            while self.stream.received - before < segments * loss::SEGMENT {
                self.turn();
            }
            let bytes = self.stream.received - before;
            vec![Some((cpu_ns() - begun) as f64 * loss::SEGMENT as f64 / bytes as f64)]
        }
    }
}
#[cfg(feature = "bench-peers")]
use present::{flooded, lossy, many, opener, stream};

//! The peer `smoltcp` at the same work: UDP datagrams out of a ring in memory, to a socket, read by
//! the application. Built in with the feature `bench-peers`.
//!
//! It is given what favours it: one poll for 32 packets, no copy out of its ring, and the
//! application knows without asking which socket has something.

use super::case::{Case, Maker, Parts, Row};

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let case = |sockets: u32, slower: u64| -> Maker {
        let name = format!("smoltcp: receive UDP at random, {sockets} sockets, batch 32");
        let row = Row::new(name).of("smoltcp").slower(slower);
        (row, Box::new(move |row| peer(row, sockets)))
    };
    vec![case(1, 1), case(1000, 50), case(10_000, 500)]
}

#[cfg(not(feature = "bench-peers"))]
fn peer(row: Row, _sockets: u32) -> Box<dyn Case> {
    Box::new(NotBuiltIn(row))
}

#[cfg(feature = "bench-peers")]
fn peer(row: Row, sockets: u32) -> Box<dyn Case> {
    Box::new(receive::Receive::new(row, sockets))
}

/// Stands for a peer that this program was built without.
#[cfg_attr(feature = "bench-peers", allow(dead_code))]
struct NotBuiltIn(Row);

impl Case for NotBuiltIn {
    fn row(&self) -> &Row {
        &self.0
    }
    fn round(&mut self, _packets: u64) -> Option<f64> {
        None
    }
    fn parts(&mut self) -> Parts {
        let note = "not built in: build with --features bench-peers".to_owned();
        Parts { ns: Vec::new(), note: Some(note) }
    }
}

#[cfg(feature = "bench-peers")]
mod receive {
    use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
    use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
    use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
    use smoltcp::time::Instant;
    use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

    use crate::bench::path::case::{Case, Row, timed};
    use crate::bench::path::stack::{self, LOCAL, OWN};
    use crate::bench::path::udp::{choose, place};

    const BATCH: u64 = 32;

    /// A ring that gives the frames of one batch, each to a socket chosen at random.
    struct Ring {
        frame: Vec<u8>,
        left: u64,
        sockets: u32,
        random: u64,
        /// Which sockets they went to.
        to: Vec<u32>,
    }

    struct Rx<'a>(&'a [u8]);
    struct Tx;

    impl RxToken for Rx<'_> {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
            f(self.0)
        }
    }
    impl TxToken for Tx {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
            f(&mut vec![0; len])
        }
    }
    impl Device for Ring {
        type RxToken<'a> = Rx<'a>;
        type TxToken<'a> = Tx;
        fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx)> {
            self.left = self.left.checked_sub(1)?;
            let n = choose(&mut self.random, self.sockets);
            let (addr, port) = place(n);
            stack::redirect(&mut self.frame, addr, port);
            self.to.push(n);
            Some((Rx(&self.frame), Tx))
        }
        fn transmit(&mut self, _now: Instant) -> Option<Tx> {
            Some(Tx)
        }
        fn capabilities(&self) -> DeviceCapabilities {
            let mut caps = DeviceCapabilities::default();
            caps.medium = Medium::Ethernet;
            caps.max_transmission_unit = 1514;
            caps.checksum.udp = Checksum::Both;
            caps.checksum.ipv4 = Checksum::Both;
            caps
        }
    }

    pub struct Receive {
        row: Row,
        ring: Ring,
        iface: Interface,
        sockets: SocketSet<'static>,
        handles: Vec<SocketHandle>,
        turns: i64,
    }

    impl Receive {
        pub fn new(row: Row, sockets: u32) -> Receive {
            let (frame, random) = (stack::frame(18), 0x9e37_79b9_7f4a_7c15);
            let mut ring = Ring { frame, left: 0, sockets, random, to: Vec::new() };
            let config = Config::new(EthernetAddress(OWN.0).into());
            let mut iface = Interface::new(config, &mut ring, Instant::ZERO);
            iface.update_ip_addrs(|addrs| {
                let own = IpCidr::new(IpAddress::Ipv4(LOCAL), 24);
                addrs.push(own).expect("room for one address");
            });
            let mut set = SocketSet::new(Vec::new());
            let handles = (0..sockets).map(|n| {
                let buffer = || {
                    let meta = vec![PacketMetadata::EMPTY; 64];
                    PacketBuffer::new(meta, vec![0; 64 * 18])
                };
                let empty = PacketBuffer::new(Vec::new(), Vec::new());
                let mut socket = Socket::new(buffer(), empty);
                let (_, port) = place(n);
                socket.bind(port).expect("the port is free");
                set.add(socket)
            });
            let handles = handles.collect();
            Receive { row, ring, iface, sockets: set, handles, turns: 0 }
        }

        fn turn(&mut self) -> u64 {
            self.turns += 1;
            self.ring.left = BATCH;
            self.ring.to.clear();
            let now = Instant::from_micros(self.turns);
            self.iface.poll(now, &mut self.ring, &mut self.sockets);
            let mut read = 0;
            for n in &self.ring.to {
                let handle = self.handles[*n as usize];
                let socket = self.sockets.get_mut::<Socket<'_>>(handle);
                while let Ok((payload, _)) = socket.recv() {
                    std::hint::black_box(payload.first());
                    read += 1;
                }
            }
            read
        }
    }

    impl Case for Receive {
        fn row(&self) -> &Row {
            &self.row
        }
        fn round(&mut self, packets: u64) -> Option<f64> {
            let mut read = 0;
            let (ns, sent) = timed(packets, BATCH, || read += self.turn());
            assert_eq!(read, sent, "every datagram reached its socket");
            Some(ns)
        }
    }
}

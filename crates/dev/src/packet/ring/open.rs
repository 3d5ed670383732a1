//! Opening the queues: sockets, rings, the fanout group; what the kernel refuses, and what is made
//! of it.

use super::{Fanout, RingSocket};
use crate::burst::Tries;
use crate::device::{Caps, Counts, Layer};
use crate::netdev::{Link, Netdev};
use crate::packet::GSO_BYTES_MAX;
use crate::packet::steer::{self, Steering};
use crate::sys::filter::{self, Insn};
use crate::sys::packet::{self as sys, Flag};
use crate::sys::packet_ring::{self as ring_sys, Rings, Size};
use rustix::net::sockopt;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// How to open an interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its name.
    pub ifname: String,
    /// How many sockets share its packets, 1 to 64.
    pub queues: usize,
    /// How they share them.
    pub fanout: Fanout,
    /// Another member's packets go to the next one that has room, instead of being dropped
    /// (`PACKET_FANOUT_FLAG_ROLLOVER`). Flows then change their queue under load.
    pub rollover: bool,
    /// Bytes of a block of the receive ring, a multiple of 64 KiB. With super-packets it has at
    /// least two of those, so that one fits together with its headers.
    pub block_bytes: u32,
    /// Blocks of each queue.
    pub blocks: u32,
    /// Microseconds after which a block that is not full comes to us; the kernel counts in whole
    /// milliseconds. It is what a single packet waits at the most.
    pub retire_us: u32,
    /// Bytes of a frame of the transmit ring, a multiple of 16 between 128 and 65536. What is
    /// longer goes by a system call of its own.
    pub frame_bytes: u32,
    /// Frames of each queue's transmit ring; 0: none, each packet goes by a system call.
    pub frames: u32,
    /// Super-packets and partial checksums both ways.
    pub vnet_hdr: bool,
    /// Send past the queueing discipline.
    pub qdisc_bypass: bool,
    /// Take the kernel's hash of each packet for its flow hash. A sender in this kernel may change
    /// the hash of a flow while it lasts (after a retransmission), so this is not for steering.
    pub rxhash: bool,
    /// An Ethernet address of our own. The interface is promiscuous then, and what is sent to it
    /// means nothing to the kernel. None: the interface's.
    pub mac: Option<[u8; 6]>,
    /// Bytes of kernel memory for what waits to be sent; 0: the system's default.
    pub sndbuf_bytes: usize,
}

impl Config {
    /// One queue with super-packets, 8 MiB to receive and 256 frames to send.
    #[must_use]
    pub fn new(ifname: &str) -> Config {
        Config {
            ifname: ifname.to_owned(),
            queues: 1,
            fanout: Fanout::Hash,
            rollover: false,
            block_bytes: 256 << 10,
            blocks: 32,
            retire_us: 1000,
            frame_bytes: 2048,
            frames: 256,
            vnet_hdr: true,
            qdisc_bypass: false,
            rxhash: false,
            mac: None,
            sndbuf_bytes: 4 << 20,
        }
    }
}

/// Why there are no queues. The sentence says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Packet sockets are not for this user.
    NoRight {
        /// The interface.
        ifname: String,
        /// The errno.
        source: io::Error,
    },
    /// There is no such interface here.
    NoDevice {
        /// The interface.
        ifname: String,
        /// The errno.
        source: io::Error,
    },
    /// The interface has no Ethernet frames.
    NotEthernet {
        /// The interface.
        ifname: String,
    },
    /// The interface is down, so that its queues cannot join a group.
    Down {
        /// The interface.
        ifname: String,
    },
    /// A value of [`Config`] is out of its range.
    Config {
        /// Which one, and its range.
        what: &'static str,
    },
    /// The kernel has no room for the rings, not even for small ones.
    Ring {
        /// The interface.
        ifname: String,
        /// Bytes that were asked for at last.
        bytes: usize,
        /// The errno.
        source: io::Error,
    },
    /// A setting is refused.
    Setup {
        /// The interface.
        ifname: String,
        /// Which setting.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
}

impl OpenError {
    /// The errno.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpenError::NoRight { source, .. }
            | OpenError::NoDevice { source, .. }
            | OpenError::Ring { source, .. }
            | OpenError::Setup { source, .. } => source.raw_os_error(),
            OpenError::NotEthernet { .. } => Some(libc::EPFNOSUPPORT),
            OpenError::Down { .. } => Some(libc::ENETDOWN),
            OpenError::Config { .. } => Some(libc::EINVAL),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NoRight { ifname, source } => write!(
                f,
                "cannot open packet sockets on {ifname}: {source}; this needs CAP_NET_RAW in the \
                 user namespace that owns the network"
            ),
            OpenError::NoDevice { ifname, source } => write!(
                f,
                "cannot open packet sockets on {ifname}: {source}; `ip link` lists the interfaces \
                 of this network namespace"
            ),
            OpenError::NotEthernet { ifname } => write!(
                f,
                "{ifname} carries no Ethernet frames; take an Ethernet interface, a veth or a TAP"
            ),
            OpenError::Down { ifname } => write!(
                f,
                "{ifname} is down, and queues share only what is up; ip link set {ifname} up"
            ),
            OpenError::Config { what } => f.write_str(what),
            OpenError::Ring { ifname, bytes, source } => write!(
                f,
                "cannot have {bytes} bytes of rings on {ifname}: {source}; ask for fewer or \
                 smaller blocks, or raise the limit of locked memory (ulimit -l)"
            ),
            OpenError::Setup { ifname, what, source } => {
                write!(f, "cannot {what} of {ifname}: {source}")
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::NoRight { source, .. }
            | OpenError::NoDevice { source, .. }
            | OpenError::Ring { source, .. }
            | OpenError::Setup { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(err: OpenError) -> io::Error {
        let kind = err
            .errno()
            .map_or(io::ErrorKind::Other, |errno| io::Error::from_raw_os_error(errno).kind());
        io::Error::new(kind, err)
    }
}

/// Queues that were opened.
#[derive(Debug)]
pub struct Opened {
    /// One device for each queue, in order.
    pub queues: Vec<RingSocket>,
    /// Opens more of them.
    pub group: Group,
    /// What is less than was asked for, a sentence each.
    pub notes: Vec<String>,
}

/// Opens the queues of an interface, in the network namespace of the calling thread.
///
/// No packet is received twice, although the sockets are opened one after the other: until all of
/// them share, none receives.
///
/// # Errors
/// [`OpenError`]: `EPERM`, `ENODEV`, `EPFNOSUPPORT`, `ENETDOWN`, `EINVAL`, `ENOMEM`.
pub fn open(config: Config) -> Result<Opened, OpenError> {
    check(&config)?;
    let link = link_of(&config.ifname)?;
    let steering = match &config.fanout {
        Fanout::Rss(rss) => Some(Arc::new(Mutex::new(Steering::new(rss.clone())))),
        _ => None,
    };
    let mut opening = Opening { config, link, notes: Vec::new(), steering };
    let mut queues = Vec::with_capacity(opening.config.queues);
    for queue in 0..opening.config.queues {
        queues.push(opening.queue(queue as u8)?);
    }
    let mut group = None;
    for queue in &queues {
        group = Some(opening.join(queue, group)?);
    }
    if let (Some(first), Fanout::Rss(rss)) = (queues.first(), &opening.config.fanout) {
        ring_sys::fanout_program(&first.fd, &steer::program(rss))
            .map_err(opening.setup("set the steering program"))?;
    }
    for queue in &queues {
        filter::detach(&queue.fd).map_err(opening.setup("take the filter from the sockets"))?;
    }
    let notes = std::mem::take(&mut opening.notes);
    Ok(Opened { queues, group: Group { opening, group }, notes })
}

/// The sockets that share the packets of an interface.
///
/// The kernel numbers them by their order, and lets the last take the place of one that is closed.
/// So that a number stays a queue's, queues are added and taken away at the end of the row. With
/// [`Fanout::Rss`] a new one receives nothing until a table names it ([`Device::set_rss`]), and one
/// that goes is left out of the table before: no flow changes its queue but those that the table
/// moves. The other ways share out anew at once.
///
/// [`Device::set_rss`]: crate::Device::set_rss
#[derive(Debug)]
pub struct Group {
    opening: Opening,
    group: Option<(u16, u16)>,
}

impl Group {
    /// Opens one more queue. `queue` is its number: how many there are now.
    ///
    /// # Errors
    /// As [`open`]; [`OpenError::Config`] beyond 64 queues.
    pub fn open_queue(&mut self, queue: u8) -> Result<RingSocket, OpenError> {
        if usize::from(queue) >= QUEUES_MAX {
            return Err(OpenError::Config { what: "an interface is opened with 1 to 64 queues" });
        }
        let socket = self.opening.queue(queue)?;
        self.opening.join(&socket, self.group)?;
        filter::detach(&socket.fd)
            .map_err(self.opening.setup("take the filter from the sockets"))?;
        Ok(socket)
    }
}

/// The most queues of an interface.
const QUEUES_MAX: usize = 64;

fn check(config: &Config) -> Result<(), OpenError> {
    let wrong = |what| Err(OpenError::Config { what });
    if !(1..=QUEUES_MAX).contains(&config.queues) {
        return wrong("an interface is opened with 1 to 64 queues");
    }
    let least = if config.vnet_hdr { 2 * BLOCK_UNIT } else { BLOCK_UNIT };
    let block = config.block_bytes;
    if !block.is_multiple_of(BLOCK_UNIT) || !(least..=1 << 30).contains(&block) {
        return wrong(
            "a block is a multiple of 64 KiB, with super-packets at least 128 KiB, and at most 1 GiB",
        );
    }
    if !(2..=65536).contains(&config.blocks) {
        return wrong("a ring has 2 to 65536 blocks");
    }
    let frame = config.frame_bytes;
    if !frame.is_power_of_two() || !(128..=65536).contains(&frame) || config.frames > 1 << 16 {
        return wrong(
            "a frame is a power of two from 128 to 65536 bytes, and there are at most 65536",
        );
    }
    if config.mac.is_some_and(|mac| mac[0] & 1 != 0) {
        return wrong("an Ethernet address of one's own is not a group's: its first byte is even");
    }
    Ok(())
}

fn link_of(ifname: &str) -> Result<Link, OpenError> {
    let found = Netdev::open().and_then(|mut netdev| netdev.link(ifname));
    let link = found.map_err(|err| {
        let (ifname, gone) = (ifname.to_owned(), err.errno() == Some(libc::ENODEV));
        let source = io::Error::from(err);
        if gone {
            let source = io::Error::from_raw_os_error(libc::ENODEV);
            return OpenError::NoDevice { ifname, source };
        }
        OpenError::Setup { ifname, what: "look up the link", source }
    })?;
    if link.mac.is_none() {
        return Err(OpenError::NotEthernet { ifname: link.name });
    }
    Ok(link)
}

/// A multiple of every page size there is.
const BLOCK_UNIT: u32 = 64 << 10;
/// What is less than this is not worth a ring.
const BLOCKS_LEAST: u32 = 2;
/// Bytes of a block of the transmit ring: the kernel takes them whole from its pages.
const TX_BLOCK_BYTES: u32 = 64 << 10;
/// Lets no packet pass.
const NONE: [Insn; 1] = [Insn { code: 0x06, jt: 0, jf: 0, k: 0 }];

#[derive(Debug)]
struct Opening {
    config: Config,
    link: Link,
    notes: Vec<String>,
    steering: Option<Arc<Mutex<Steering>>>,
}

impl Opening {
    fn setup(&self, what: &'static str) -> impl FnOnce(io::Error) -> OpenError + use<> {
        let ifname = self.link.name.clone();
        move |source| OpenError::Setup { ifname, what, source }
    }

    /// Notes once, for all queues, that something is less than was asked for.
    fn note(&mut self, sentence: String) {
        if !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    fn socket(&self) -> Result<OwnedFd, OpenError> {
        sys::open().map_err(|source| {
            let ifname = self.link.name.clone();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError::NoRight { ifname, source },
                _ => OpenError::Setup { ifname, what: "open a packet socket", source },
            }
        })
    }

    fn queue(&mut self, queue: u8) -> Result<RingSocket, OpenError> {
        let fd = self.socket()?;
        ring_sys::set_version_3(&fd).map_err(self.setup("set version 3 of the rings"))?;
        let vnet = self.vnet_hdr(&fd)?;
        if sys::set_flag(&fd, Flag::IgnoreOutgoing, true).is_err() {
            self.note("the kernel shows us what others send as well (before 4.20)".to_owned());
        }
        if self.config.qdisc_bypass {
            sys::set_flag(&fd, Flag::QdiscBypass, true).map_err(self.setup("pass the qdisc"))?;
        }
        if self.config.sndbuf_bytes > 0 {
            let _ = sockopt::set_socket_send_buffer_size(&fd, self.config.sndbuf_bytes);
        }
        let rx = self.rx_ring(&fd)?;
        let tx = self.tx_ring(&fd);
        let rings = Rings::map(&fd, rx, tx).map_err(|source| {
            let (ifname, bytes) = (self.link.name.clone(), rx.bytes() + tx.bytes());
            OpenError::Ring { ifname, bytes, source }
        })?;
        filter::attach(&fd, &NONE).map_err(self.setup("filter the sockets"))?;
        if self.config.mac.is_some() {
            sys::add_promisc(&fd, self.link.index)
                .map_err(self.setup("set the promiscuous mode"))?;
        }
        sys::bind(&fd, self.link.index)
            .map_err(|source| OpenError::NoDevice { ifname: self.link.name.clone(), source })?;
        let long = self.socket()?;
        self.send_only(&long, vnet)?;
        Ok(RingSocket {
            long,
            name: self.link.name.clone(),
            caps: self.caps(vnet),
            queue,
            rings,
            walk: super::rx::Walk::default(),
            head: super::tx::Head::default(),
            counts: Counts::default(),
            total: Cell::default(),
            unseen: 0,
            down: false,
            tries: Tries::default(),
            rxhash: self.config.rxhash,
            steering: self.steering.clone(),
            losses: None,
            fd,
        })
    }

    fn vnet_hdr(&mut self, fd: &OwnedFd) -> Result<bool, OpenError> {
        if !self.config.vnet_hdr {
            return Ok(false);
        }
        match sys::set_flag(fd, Flag::VnetHdr, true) {
            Ok(()) => Ok(true),
            Err(err) if err.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                self.note(format!("no super-packets: PACKET_VNET_HDR: {err}"));
                Ok(false)
            }
            Err(err) => Err(self.setup("set PACKET_VNET_HDR on")(err)),
        }
    }

    /// The socket for what is longer than a frame of the ring: it receives nothing.
    fn send_only(&self, fd: &OwnedFd, vnet: bool) -> Result<(), OpenError> {
        if vnet {
            sys::set_flag(fd, Flag::VnetHdr, true).map_err(self.setup("set PACKET_VNET_HDR on"))?;
        }
        if self.config.qdisc_bypass {
            sys::set_flag(fd, Flag::QdiscBypass, true).map_err(self.setup("pass the qdisc"))?;
        }
        if self.config.sndbuf_bytes > 0 {
            let _ = sockopt::set_socket_send_buffer_size(fd, self.config.sndbuf_bytes);
        }
        sys::bind_send_only(fd, self.link.index)
            .map_err(|source| OpenError::NoDevice { ifname: self.link.name.clone(), source })
    }

    /// The receive ring, with half the blocks each time the kernel has no memory for all.
    fn rx_ring(&mut self, fd: &OwnedFd) -> Result<Size, OpenError> {
        let (block_bytes, mut blocks) = (self.config.block_bytes, self.config.blocks);
        let retire_ms = self.config.retire_us.div_ceil(1000).max(1);
        if !self.config.retire_us.is_multiple_of(1000) || self.config.retire_us == 0 {
            self.note(format!("blocks retire after {retire_ms} ms: the kernel counts whole ones"));
        }
        loop {
            let size = Size { block_bytes, blocks, frame_bytes: 2048 };
            match ring_sys::set_rx_ring(fd, size, retire_ms, self.config.rxhash) {
                Ok(()) => return Ok(size),
                Err(err) if err.raw_os_error() == Some(libc::ENOMEM) && blocks > BLOCKS_LEAST => {
                    blocks = (blocks / 2).max(BLOCKS_LEAST);
                    self.note(format!("no memory for {} blocks", self.config.blocks));
                }
                Err(source) => {
                    let (ifname, bytes) = (self.link.name.clone(), size.bytes());
                    return Err(OpenError::Ring { ifname, bytes, source });
                }
            }
        }
    }

    /// The transmit ring; none, and a note, where the kernel refuses it.
    fn tx_ring(&mut self, fd: &OwnedFd) -> Size {
        let none = Size::default();
        if self.config.frames == 0 {
            return none;
        }
        let per_block = (TX_BLOCK_BYTES / self.config.frame_bytes).max(1);
        let size = Size {
            block_bytes: TX_BLOCK_BYTES.max(self.config.frame_bytes),
            blocks: self.config.frames.div_ceil(per_block),
            frame_bytes: self.config.frame_bytes,
        };
        match ring_sys::set_tx_ring(fd, size) {
            Ok(()) => size,
            Err(err) => {
                self.note(format!("no transmit ring, each packet takes a system call: {err}"));
                none
            }
        }
    }

    /// Joins a socket to the group that shares the packets out, or makes one: its number, and the
    /// flags that all its members have.
    fn join(
        &self,
        socket: &RingSocket,
        group: Option<(u16, u16)>,
    ) -> Result<(u16, u16), OpenError> {
        let kind = self.config.fanout.kind();
        let rollover = libc::PACKET_FANOUT_FLAG_ROLLOVER as u16;
        // It is not taken together with the way of its own.
        let wanted = self.config.rollover && self.config.fanout != Fanout::Rollover;
        let flags = if wanted { rollover } else { 0 };
        let join = |group, flags| {
            let joined = ring_sys::fanout(&socket.fd, group, kind, flags);
            joined.map(|number| (number, flags)).map_err(|source| {
                let ifname = self.link.name.clone();
                match source.raw_os_error() {
                    Some(libc::EINVAL) if !self.link.up => OpenError::Down { ifname },
                    _ => OpenError::Setup { ifname, what: "share the packets out", source },
                }
            })
        };
        match group {
            Some((number, flags)) => join(Some(number), flags),
            // The group has a hook of its own; with the flag it does not see what others send.
            None => join(None, flags | FANOUT_IGNORE_OUTGOING).or_else(|_| join(None, flags)),
        }
    }

    fn caps(&self, vnet: bool) -> Caps {
        Caps {
            layer: Layer::Ethernet,
            mtu: self.link.mtu,
            mac: self.config.mac.or(self.link.mac),
            rx_offload: true,
            tx_csum: vnet,
            tso: vnet,
            uso: vnet,
            gso_bytes_max: if vnet { GSO_BYTES_MAX } else { 0 },
        }
    }
}

/// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING`, Linux 5.15.
const FANOUT_IGNORE_OUTGOING: u16 = 0x4000;

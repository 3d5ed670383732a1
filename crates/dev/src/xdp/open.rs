//! Opens AF_XDP on an interface: the best mode that works, and what was lost on the way to it.

use super::attached::Attached;
use super::chunks::Chunks;
use super::error::OpenError;
use super::filter::Filter;
use super::ring::{Consumer, Producer};
use super::umem::Umem;
use super::xsk::{Rings4, Setup, Xsk};
use crate::device::{Caps, Layer};
use crate::netdev::{Link, Netdev};
use crate::sys::ring::{Kind, Mapped};
use crate::sys::umem::QUEUES_MAX;
use crate::sys::xsk as sys;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the driver if it can, else generic.
    #[default]
    Auto,
    /// In the driver (`xdpdrv`).
    Native,
    /// In `netif_receive_skb` (`xdpgeneric`).
    Generic,
}

/// Who moves the frames between the driver and the UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Nobody if the driver can do without, else the kernel.
    #[default]
    Auto,
    /// The kernel copies (`XDP_COPY`).
    Copy,
    /// The hardware writes and reads the UMEM itself (`XDP_ZEROCOPY`).
    ZeroCopy,
}

/// Busy polling of the driver by the socket (`SO_PREFER_BUSY_POLL`). It wants
/// `napi_defer_hard_irqs` and `gro_flush_timeout` of the interface set, so that interrupts stay off
/// meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// Microseconds (`SO_BUSY_POLL`).
    pub usecs: u32,
    /// Packets at once (`SO_BUSY_POLL_BUDGET`).
    pub budget: u32,
}

/// How to open AF_XDP on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface, in the network namespace of the calling thread.
    pub ifname: String,
    /// Which of its queues. Packets of ours that come in by others go to the kernel.
    pub queues: Range<u32>,
    /// Where the program is attached.
    pub mode: Mode,
    /// Whether frames are copied.
    pub copy: CopyMode,
    /// Bytes of a chunk, 2048 or 4096; 0: the smallest that a frame of the MTU fits into.
    pub frame_size: u32,
    /// Chunks of each queue. With the default of 4096 a queue pins 8 MiB.
    pub frames: u32,
    /// Slots of the receive ring: a power of two from 64 to [`RING_MAX`].
    pub rx_ring: u32,
    /// Slots of the transmit ring, likewise.
    pub tx_ring: u32,
    /// Slots of the fill ring, likewise; 0: as many as the receive ring has.
    pub fill_ring: u32,
    /// Slots of the completion ring, likewise; 0: as many as the transmit ring has.
    pub completion_ring: u32,
    /// Frames that are longer than a chunk come and go in several (Linux 6.6). Off, they are
    /// dropped.
    pub multi_buffer: bool,
    /// What is redirected to us.
    pub filter: Filter,
    /// Busy polling, if wanted.
    pub busy_poll: Option<BusyPoll>,
}

impl Config {
    /// Queue 0 of `ifname`, everything else as it is best by itself, and nothing redirected yet.
    #[must_use]
    pub fn new(ifname: &str) -> Config {
        Config {
            ifname: ifname.to_owned(),
            queues: 0..1,
            mode: Mode::Auto,
            copy: CopyMode::Auto,
            frame_size: 0,
            frames: 4096,
            rx_ring: 1024,
            tx_ring: 1024,
            fill_ring: 0,
            completion_ring: 0,
            multi_buffer: true,
            filter: Filter::default(),
            busy_poll: None,
        }
    }

    fn sizes(&self) -> sys::Sizes {
        let or = |size, default| if size == 0 { default } else { size };
        sys::Sizes {
            fill: or(self.fill_ring, self.rx_ring),
            completion: or(self.completion_ring, self.tx_ring),
            rx: self.rx_ring,
            tx: self.tx_ring,
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        let sizes = self.sizes();
        let rings = [sizes.fill, sizes.completion, sizes.rx, sizes.tx];
        let wrong = if self.queues.is_empty() {
            "af_xdp: at least one queue is needed"
        } else if self.queues.end > u32::from(QUEUES_MAX) {
            QUEUES
        } else if rings.iter().any(|r| !r.is_power_of_two() || !(64..=RING_MAX).contains(r)) {
            "af_xdp: a ring has a power of two from 64 to 32768 slots"
        } else if !matches!(self.frame_size, 0 | 2048 | 4096) {
            "af_xdp: frame_size is 2048 or 4096 bytes, or 0 for what the MTU needs"
        } else if self.frames < 2 * sizes.fill {
            "af_xdp: a queue needs at least twice as many frames as its fill ring has slots"
        } else {
            return Ok(());
        };
        Err(OpenError::Config(wrong))
    }
}

const QUEUES: &str = "af_xdp: queues are numbered 0 to 127";

/// The largest ring that is asked for.
pub const RING_MAX: u32 = 32768;

/// What [`open`] made.
#[derive(Debug)]
pub struct Opened {
    /// A device for each queue, in order.
    pub queues: Vec<Xsk>,
    /// The program: to change the filter. Each queue has a share in it.
    pub attached: Arc<Attached>,
    /// Opens further queues later.
    pub more: Queues,
    /// What was lost on the way to the best mode, in sentences for the user. Later ones come by
    /// [`Attached::take_notes`].
    pub notes: Vec<String>,
}

/// Room that the kernel keeps before a received frame (`XDP_PACKET_HEADROOM`).
const XDP_PACKET_HEADROOM: u32 = 256;
/// An Ethernet header and a tag.
const L2_MAX: u32 = 18;
/// Linux's ENOTSUPP, which some drivers answer instead of EOPNOTSUPP.
const ENOTSUPP: i32 = 524;
/// The kernel takes a socket of the past off its queue in a worker of its own: so long, in
/// milliseconds, is waited for that.
const BUSY_WAIT: u32 = 500;

/// Attaches the program to an interface and opens its queues.
///
/// # Errors
/// [`OpenError`]. Nothing is left behind.
pub fn open(config: &Config) -> Result<Opened, OpenError> {
    config.check()?;
    let name = &config.ifname;
    let link = find(name)?;
    let has = check_queue(name, config.queues.end - 1)?;
    // Room for queues that the interface gets later.
    let most = u32::from(QUEUES_MAX);
    let attached = Arc::new(Attached::new(name, link.index, config.mode, most)?);
    if let Some(has) = has.filter(|&has| config.queues.len() < has as usize) {
        attached.note(format!(
            "{name} receives by {has} queues and {} of them are served: packets of ours that come in \
             by the others go to the kernel; `ethtool -L {name} combined {}` makes it as many",
            config.queues.len(),
            config.queues.len()
        ));
    }
    let frame_size = match config.frame_size {
        0 if link.mtu + L2_MAX + XDP_PACKET_HEADROOM <= 2048 => 2048,
        0 => 4096,
        size => size,
    };
    let chunks = config.frames as usize * config.queues.len();
    let bytes = chunks * frame_size as usize;
    let umem = Umem::new(chunks, frame_size as usize)
        .map_err(|source| OpenError::Memory { bytes, source })?;
    let driver = Netdev::open().and_then(|mut netdev| netdev.info(name)).map(|info| info.driver);
    let veth = driver.is_ok_and(|driver| driver.as_deref() == Some("veth"));
    let config = Arc::new(config.clone());
    let more = Queues { config, link, attached, umem, veth, sockets: Arc::default() };
    let open_one = |queue| more.bind_queue(queue);
    let queues = more.config.queues.clone().map(open_one).collect::<Result<Vec<Xsk>, _>>()?;
    let (attached, config) = (Arc::clone(&more.attached), Arc::clone(&more.config));
    // Only now, so that no packet is redirected to a queue where nobody is.
    attached.set_filter(&config.filter).map_err(|source| OpenError::Refused {
        doing: "set the filter",
        ifname: name.clone(),
        source,
    })?;
    let notes = attached.take_notes();
    Ok(Opened { queues, attached, more, notes })
}

/// How many queues there are, if the driver says so (ixgbevf, for one, does not: then the kernel
/// refuses the bind).
fn check_queue(name: &str, queue: u32) -> Result<Option<u32>, OpenError> {
    match sys::rx_queues(name).ok() {
        Some(has) if queue >= has => {
            Err(OpenError::NoQueue { ifname: name.to_owned(), queue, has })
        }
        has => Ok(has),
    }
}

fn find(name: &str) -> Result<Link, OpenError> {
    let fail = |source| OpenError::NoDevice { ifname: name.to_owned(), source };
    let refusal = |err: crate::netdev::NetdevError| match err.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::from(err.kind()),
    };
    let mut netdev = Netdev::open().map_err(|err| fail(refusal(err)))?;
    netdev.link(name).map_err(|err| fail(refusal(err)))
}

/// What the queues of a device have in common: the memory, the program and how they were opened. It
/// keeps both alive, and can be kept by whoever changes the number of queues.
#[derive(Clone, Debug)]
pub struct Queues {
    config: Arc<Config>,
    link: Link,
    attached: Arc<Attached>,
    umem: Arc<Umem>,
    veth: bool,
    pub(super) sockets: Arc<Mutex<Sockets>>,
}

/// The sockets of a device that are bound now.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Vec<Arc<OwnedFd>>,
    /// Queues that are open, or whose chunks are not free again yet.
    queues: Vec<u32>,
    /// How the first queue was bound: the others are as it is.
    flags: u16,
}

/// A socket among those of its device. Whoever binds another to its memory holds the list
/// meanwhile, so that it is closed when this is dropped and not a moment later.
#[derive(Debug)]
pub(super) struct Socket {
    fd: Arc<OwnedFd>,
    bound_among: Option<Arc<Mutex<Sockets>>>,
}

impl Socket {
    /// It is bound, and from now on one of these. Returns it for their list.
    pub fn bound(&mut self, among: &Arc<Mutex<Sockets>>) -> Arc<OwnedFd> {
        self.bound_among = Some(Arc::clone(among));
        Arc::clone(&self.fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(all) = &self.bound_among {
            lock(all).open.retain(|fd| !Arc::ptr_eq(fd, &self.fd));
        }
    }
}

/// A queue's number, in use until this is dropped: that is after its chunks were taken back.
#[derive(Debug)]
pub(super) struct Claim {
    queue: u32,
    all: Arc<Mutex<Sockets>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.all).queues.retain(|&queue| queue != self.queue);
    }
}

/// A panic elsewhere leaves the list whole: each change of it is complete under the lock.
fn lock(sockets: &Mutex<Sockets>) -> MutexGuard<'_, Sockets> {
    sockets.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    /// The program.
    #[must_use]
    pub fn attached(&self) -> &Arc<Attached> {
        &self.attached
    }

    /// Opens another queue of the same device: one that the interface got since (`ethtool -L`), or
    /// one that was closed. It shares the memory, and takes those chunks that no other queue has: as
    /// many as a queue that was closed left.
    ///
    /// # Errors
    /// [`OpenError`]: `EBUSY` if the queue is open, `EINVAL` if the interface does not have it.
    pub fn open_queue(&self, queue: u32) -> Result<Xsk, OpenError> {
        if queue >= u32::from(QUEUES_MAX) {
            return Err(OpenError::Config(QUEUES));
        }
        check_queue(&self.config.ifname, queue)?;
        self.bind_queue(queue)
    }

    /// Opens queues that the interface got since (`ethtool -L`), with packet memory of their own: that
    /// of the others is theirs. What opens them again comes with them.
    ///
    /// # Errors
    /// [`OpenError`]: as [`open`]. None of them is open then.
    pub fn grow(&self, queues: Range<u32>) -> Result<(Queues, Vec<Xsk>), OpenError> {
        if queues.is_empty() || queues.end > u32::from(QUEUES_MAX) {
            return Err(OpenError::Config(QUEUES));
        }
        check_queue(&self.config.ifname, queues.end - 1)?;
        let chunks = self.config.frames as usize * queues.len();
        let size = self.umem.region.chunk_size();
        let umem = Umem::new(chunks, size)
            .map_err(|source| OpenError::Memory { bytes: chunks * size, source })?;
        let config = Arc::new(Config { queues: queues.clone(), ..(*self.config).clone() });
        let more = Queues { config, umem, sockets: Arc::default(), ..self.clone() };
        let opened = queues.map(|queue| more.bind_queue(queue)).collect::<Result<_, _>>()?;
        if self.veth {
            let renewed = self.attached.renew();
            renewed.map_err(|source| OpenError::Refused {
                doing: "attach the program to the new queues",
                ifname: self.config.ifname.clone(),
                source,
            })?;
        }
        Ok((more, opened))
    }

    /// The numbers of its queues.
    #[must_use]
    pub fn range(&self) -> Range<u32> {
        self.config.queues.clone()
    }

    /// How many receive queues the interface has now.
    ///
    /// # Errors
    /// `ENODEV` if it is gone; those of a driver that does not say.
    pub fn has(&self) -> io::Result<u32> {
        sys::rx_queues(&self.config.ifname)
    }

    fn bind_queue(&self, queue: u32) -> Result<Xsk, OpenError> {
        const NEEDS: &str = "CAP_NET_RAW";
        let name = &self.config.ifname;
        let refused = |doing| move |source: io::Error| OpenError::new(doing, NEEDS, name, source);
        let mut sockets = lock(&self.sockets);
        if sockets.queues.contains(&queue) {
            return Err(self.refusal(queue, io::Error::from_raw_os_error(libc::EBUSY)));
        }
        let fd = sys::open().map_err(refused("open an AF_XDP socket"))?;
        let region = self.umem.region;
        if sockets.open.is_empty() {
            sys::register(&fd, region).map_err(|source| match source.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => {
                    OpenError::Memory { bytes: region.len(), source }
                }
                _ => refused("register packet memory")(source),
            })?;
        }
        let sizes = self.config.sizes();
        sys::set_rings(&fd, sizes).map_err(refused("make the rings of an AF_XDP socket"))?;
        let socket = Socket { fd: Arc::new(fd), bound_among: None };
        let rings = map(socket, sizes).map_err(refused("map the rings of an AF_XDP socket"))?;
        let share = self.config.frames as usize;
        // The fill ring would take them all and leave nothing to send with.
        let reserve = (sizes.tx as usize / 4).min(share / 8);
        let chunks = Chunks::new(Arc::clone(&self.umem), queue as u8, share, reserve);
        let busy_poll = self.config.busy_poll.is_some();
        let (caps, veth) = (caps(&self.link), self.veth);
        let setup = Setup { caps, queue, busy_poll, multi_buffer: false, veth };
        // Its fill ring is full before it is bound: drivers look at it then.
        let mut xsk = Xsk::new(rings, chunks, self.clone(), setup);
        let flags = self.bind(xsk.socket(), queue, &sockets)?;
        sockets.flags = flags;
        sockets.open.push(xsk.bound(flags));
        sockets.queues.push(queue);
        let claim = Claim { queue, all: Arc::clone(&self.sockets) };
        // From here on a failure drops the queue, which takes the lock.
        drop(sockets);
        xsk.claim(claim);
        // Before Linux 6.17 a call sends 32 frames, whatever is asked for.
        let _ = sys::set_tx_budget(xsk.socket(), sizes.tx);
        if let Some(BusyPoll { usecs, budget }) = self.config.busy_poll {
            sys::set_busy_poll(xsk.socket(), usecs, budget).map_err(refused("set busy polling"))?;
        }
        self.attached
            .maps()
            .sockets
            .update(&queue.to_ne_bytes(), &xsk.socket().as_raw_fd().to_ne_bytes())
            .map_err(refused("put an AF_XDP socket into the program's map"))?;
        Ok(xsk)
    }

    /// Binds as the first queue was bound, or in the best way that works. Returns the flags.
    fn bind(&self, fd: BorrowedFd<'_>, queue: u32, sockets: &Sockets) -> Result<u16, OpenError> {
        if let Some(first) = sockets.open.first() {
            // Every other flag is taken over from the socket that the memory is of.
            self.bind_as(fd, queue, libc::XDP_SHARED_UMEM, Some(first.as_fd()))
                .map_err(|source| self.refusal(queue, source))?;
            return Ok(sockets.flags);
        }
        let mut refused = None;
        for flags in self.ways() {
            match self.bind_as(fd, queue, flags, None) {
                Ok(()) => {
                    self.say_lost(flags, refused);
                    return Ok(flags);
                }
                Err(err) if is_mode_refused(&err) => refused = refused.or(Some(err)),
                Err(err) => return Err(self.refusal(queue, err)),
            }
        }
        let source = refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        if self.config.copy == CopyMode::ZeroCopy {
            let (ifname, what) = (self.config.ifname.clone(), "zero-copy mode");
            return Err(OpenError::NotByDriver { ifname, what, source });
        }
        Err(self.refusal(queue, source))
    }

    /// Whether frames of the MTU are longer than a chunk has room for.
    fn needs_pieces(&self) -> bool {
        let room = self.umem.region.chunk_size() as u32 - XDP_PACKET_HEADROOM;
        self.link.mtu.saturating_add(L2_MAX) > room
    }

    /// The flags of a bind, the best first.
    fn ways(&self) -> Vec<u16> {
        const ZC: u16 = libc::XDP_ZEROCOPY;
        const COPY: u16 = libc::XDP_COPY;
        const SG: u16 = libc::XDP_USE_SG;
        let ways: &[u16] = match (self.config.copy, self.config.multi_buffer) {
            (CopyMode::Copy, _) => &[COPY | SG, COPY],
            (CopyMode::ZeroCopy, _) => &[ZC | SG, ZC],
            // The hardware does not come into what the kernel makes of its frames.
            (CopyMode::Auto, _) if !self.attached.is_native() => &[COPY | SG, COPY],
            // Better copied than dropped.
            (CopyMode::Auto, true) if self.needs_pieces() => &[ZC | SG, COPY | SG, ZC, COPY],
            (CopyMode::Auto, _) => &[ZC | SG, ZC, COPY | SG, COPY],
        };
        let wanted = |flags: &u16| self.config.multi_buffer || flags & SG == 0;
        let ways = ways.iter().copied().filter(wanted);
        ways.map(|flags| flags | libc::XDP_USE_NEED_WAKEUP).collect()
    }

    fn bind_as(
        &self,
        fd: BorrowedFd<'_>,
        queue: u32,
        flags: u16,
        umem_of: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut waited = 0;
        loop {
            match sys::bind(fd, self.link.index, queue, flags, umem_of) {
                Err(err) if err.raw_os_error() == Some(libc::EBUSY) && waited < BUSY_WAIT => {
                    std::thread::sleep(Duration::from_millis(1));
                    waited += 1;
                }
                result => return result,
            }
        }
    }

    fn refusal(&self, queue: u32, source: io::Error) -> OpenError {
        let ifname = self.config.ifname.clone();
        match source.raw_os_error() {
            Some(libc::EBUSY) => OpenError::QueueBusy { ifname, queue, source },
            _ => OpenError::new("bind an AF_XDP socket", "CAP_NET_RAW", &ifname, source),
        }
    }

    fn say_lost(&self, flags: u16, refused: Option<io::Error>) {
        let name = &self.config.ifname;
        let why = refused.map_or(String::new(), |err| format!(" ({err})"));
        if self.config.copy == CopyMode::Auto && flags & libc::XDP_ZEROCOPY == 0 {
            self.attached
                .note(format!("{name}: no zero-copy mode{why}: the kernel copies each frame"));
        }
        if self.needs_pieces() && flags & libc::XDP_USE_SG == 0 {
            self.attached.note(format!(
                "{name}: frames longer than a chunk are dropped{why}; raise frame_size or lower the \
                 MTU"
            ));
        }
    }
}

/// Whether another way to bind may still work.
fn is_mode_refused(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | ENOTSUPP))
}

fn map(fd: Socket, sizes: sys::Sizes) -> io::Result<Rings4> {
    let off = sys::offsets(&fd)?;
    Ok(Rings4 {
        rx: Consumer::new(Mapped::map(&fd, Kind::Rx, &off.rx, sizes.rx)?),
        tx: Producer::new(Mapped::map(&fd, Kind::Tx, &off.tx, sizes.tx)?),
        fill: Producer::new(Mapped::map(&fd, Kind::Fill, &off.fr, sizes.fill)?),
        completion: Consumer::new(Mapped::map(&fd, Kind::Completion, &off.cr, sizes.completion)?),
        fd,
    })
}

/// AF_XDP takes and gives frames as they are on a wire.
fn caps(link: &Link) -> Caps {
    Caps {
        layer: Layer::Ethernet,
        mtu: link.mtu,
        mac: link.mac,
        rx_offload: false,
        tx_csum: false,
        tso: false,
        uso: false,
        gso_bytes_max: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_that_make_no_sense_are_refused_before_anything_is_touched() {
        let good = || Config::new("no-such-if");
        let bad = [
            Config { queues: 1..1, ..good() },
            Config { queues: 0..129, ..good() },
            Config { rx_ring: 1000, ..good() },
            Config { tx_ring: 32, ..good() },
            Config { fill_ring: 65536, ..good() },
            Config { completion_ring: 3, ..good() },
            Config { frame_size: 8192, ..good() },
            Config { frames: 2047, ..good() },
        ];
        for config in bad {
            let err = open(&config).expect_err("refused");
            assert!(matches!(err, OpenError::Config(_)), "{err}");
            assert_eq!(err.errno(), Some(libc::EINVAL));
        }
        let err = open(&good()).expect_err("there is none");
        assert!(err.to_string().contains("ip link show"), "{err}");
        assert_eq!(err.errno(), Some(libc::ENODEV));
        assert_eq!(io::Error::from(err).kind(), io::Error::from_raw_os_error(libc::ENODEV).kind());
    }
}

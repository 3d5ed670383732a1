//! TUN: IP packets (or, as TAP, Ethernet frames) exchanged with the kernel through a descriptor.
//!
//! With `virtio_net_hdr` in front of each packet the kernel hands us its super-packets whole and
//! its checksums unfinished, and takes ours likewise: one system call moves up to 64 KiB.
//! A read goes into the packet's head first and into a large buffer behind it, so that a small
//! packet never takes a large buffer; a write gathers the packet from where its parts lie.
//!
//! before: the program's kernel   after: [`crate::drive`]; on the way out the other way round
//! Linux:  drivers/net/tun.c `tun_get_user`, `tun_put_user`
//! drops:  VnetHdr
//!
//! The offload mask belongs to the device and outlives us on a persistent one: it is always set,
//! also to nothing.

use crate::burst::{self, OneByOne, Tries};
use crate::device::{Caps, Counts, Device, Layer, RxCx};
use crate::netdev::Losses;
use crate::offload;
use crate::sys::tun::{self as sys, IffFlags};
use crate::vnet::{self, Vnet};
use linerate_core::pkt::{Batch, Buf, LARGE, Pkt};
use linerate_core::table::Reason;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The clone device.
pub const DEV_NET_TUN: &str = "/dev/net/tun";

/// How to open a TUN. Each offload has its switch; what the kernel lacks is left out by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface's name, at most 15 bytes; `%d` in it is numbered by the kernel.
    pub name: String,
    /// The clone device, [`DEV_NET_TUN`] as a rule.
    pub path: PathBuf,
    /// Ethernet frames or IP packets.
    pub layer: Layer,
    /// Use `virtio_net_hdr` at all. Without it there are no offloads.
    pub vnet_hdr: bool,
    /// Partial checksums. Without them there are no super-packets.
    pub csum: bool,
    /// TCP super-packets, both IP versions.
    pub tso: bool,
    /// UDP super-packets, both IP versions.
    pub uso: bool,
    /// More queues may be opened with [`Tun::open_queue`].
    pub multi_queue: bool,
    /// The kernel takes what we write in a NAPI poll of its own, and may merge it there
    /// (`IFF_NAPI`): dearer for each packet, cheaper for streams of small ones.
    pub napi: bool,
}

impl Config {
    /// A TUN of this name with every offload the kernel has.
    #[must_use]
    pub fn new(name: &str) -> Config {
        Config {
            name: name.to_owned(),
            path: PathBuf::from(DEV_NET_TUN),
            layer: Layer::Ip,
            vnet_hdr: true,
            csum: true,
            tso: true,
            uso: true,
            multi_queue: false,
            napi: false,
        }
    }

    /// The same without any offload: plain packets, at most one MTU each.
    #[must_use]
    pub fn plain(self) -> Config {
        Config { vnet_hdr: false, csum: false, tso: false, uso: false, ..self }
    }

    /// The masks to try, best first: USO needs Linux 6.2, the others are old.
    fn masks(&self) -> Vec<u32> {
        let csum = libc::TUN_F_CSUM;
        let tso = csum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let mut masks = Vec::new();
        if self.vnet_hdr && self.csum {
            match (self.tso, self.uso) {
                (true, true) => masks.extend([tso | uso, tso]),
                (true, false) => masks.push(tso),
                (false, true) => masks.push(csum | uso),
                (false, false) => {}
            }
            masks.push(csum);
        }
        masks.push(0);
        masks
    }
}

/// Why there is no TUN. The sentence says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum TunError {
    /// The clone device does not open.
    Open {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The interface is refused.
    Attach {
        /// Its name.
        name: String,
        /// The errno.
        source: io::Error,
    },
    /// A setting is refused.
    Setup {
        /// Its name.
        name: String,
        /// Which setting.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
}

impl TunError {
    /// The errno.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let (TunError::Open { source, .. }
        | TunError::Attach { source, .. }
        | TunError::Setup { source, .. }) = self;
        source.raw_os_error()
    }
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunError::Open { path, source } => {
                let path = path.display();
                write!(f, "cannot open {path}: {source}; ")?;
                match source.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM) => write!(
                        f,
                        "let this user open it (chmod 666 {path}; in a container: --device {path})"
                    ),
                    Some(libc::ENOENT) => write!(
                        f,
                        "give the container the device (--device {path}), or make it: mknod \
                         {path} c 10 200"
                    ),
                    Some(libc::ENODEV) => f.write_str("load the module: modprobe tun"),
                    _ => f.write_str("is the tun module loaded?"),
                }
            }
            TunError::Attach { name, source } => {
                write!(f, "cannot create the TUN interface {name:?}: {source}")?;
                match source.raw_os_error() {
                    Some(libc::EPERM) => f.write_str(
                        "; this needs CAP_NET_ADMIN in the user namespace that owns the network",
                    ),
                    Some(libc::EBUSY) => f.write_str("; the name is in use, choose another"),
                    Some(libc::EINVAL) => f.write_str(
                        "; a name has 1 to 15 bytes and no slash, and each queue of a device the \
                         same flags",
                    ),
                    _ => Ok(()),
                }
            }
            TunError::Setup { name, what, source } => {
                write!(f, "cannot set {what} of the TUN interface {name:?}: {source}")
            }
        }
    }
}

impl std::error::Error for TunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let (TunError::Open { source, .. }
        | TunError::Attach { source, .. }
        | TunError::Setup { source, .. }) = self;
        Some(source)
    }
}

impl From<TunError> for io::Error {
    fn from(err: TunError) -> io::Error {
        let (TunError::Open { source, .. }
        | TunError::Attach { source, .. }
        | TunError::Setup { source, .. }) = &err;
        io::Error::new(source.kind(), err)
    }
}

/// The MTU of a TUN that nobody has told another.
const MTU_DEFAULT: u32 = 1500;
/// Largest super-packet Linux makes by default (`GSO_LEGACY_MAX_SIZE`).
const GSO_BYTES_MAX: u32 = 65536;

/// Opens an interface with `n` queues, at least 1, with the same offloads all.
///
/// The kernel chooses the queue of a flow by its hash, and from the first packet that we write of it
/// on the queue it was written to: replies come where the flow is served.
///
/// # Errors
/// As [`Tun::open`]; [`TunError::Attach`] with `E2BIG` beyond the kernel's 256 queues.
pub fn open_queues(config: &Config, n: usize) -> Result<Vec<Tun>, TunError> {
    let config = Config { multi_queue: config.multi_queue || n > 1, ..config.clone() };
    let first = Tun::open(&config)?;
    let mut queues = Vec::with_capacity(n);
    for queue in 1..n {
        let mut tun = first.open_queue()?;
        tun.queue = queue as u8;
        queues.push(tun);
    }
    queues.insert(0, first);
    Ok(queues)
}

/// One queue of a TUN interface.
pub struct Tun {
    fd: OwnedFd,
    queue: u8,
    /// It is one of the interface's queues now.
    attached: bool,
    name: String,
    caps: Caps,
    vnet: bool,
    path: PathBuf,
    flags: IffFlags,
    /// The large buffer that the next read may use; kept from read to read while packets are small.
    large: Option<Buf>,
    /// Packets longer than a head come, although the MTU we were told says otherwise.
    long_seen: bool,
    counts: Counts,
    tries: Tries,
    losses: Option<Losses>,
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun").field("name", &self.name).field("caps", &self.caps).finish()
    }
}

impl Tun {
    /// Makes the interface, in the network namespace of the calling thread. It is down and has
    /// no address; see [`crate::netdev`].
    ///
    /// # Errors
    /// [`TunError`]: `EACCES`, `ENOENT`, `EPERM`, `EBUSY`, `EINVAL`.
    pub fn open(config: &Config) -> Result<Tun, TunError> {
        let flags = IffFlags {
            tap: config.layer == Layer::Ethernet,
            vnet_hdr: config.vnet_hdr,
            multi_queue: config.multi_queue,
            napi: config.napi,
        };
        let (fd, _) = attach(&config.path, &config.name, flags)?;
        let mut tun = Tun::from_fd(fd, config)?;
        tun.path.clone_from(&config.path);
        Ok(tun)
    }

    /// Takes over a descriptor on which an interface has been made already, possibly by another
    /// process in another namespace. Of `config` only the offload switches count.
    ///
    /// # Errors
    /// [`TunError::Setup`]; `EBADFD` if no interface is attached to the descriptor.
    pub fn from_fd(fd: OwnedFd, config: &Config) -> Result<Tun, TunError> {
        let setup = |name: &str, what| {
            let name = name.to_owned();
            move |source| TunError::Setup { name, what, source }
        };
        let (name, flags) = sys::get_iff(&fd).map_err(setup(&config.name, "the attachment"))?;
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|e| setup(&name, "the non-blocking mode")(e.into()))?;
        let mut mask = 0;
        if flags.vnet_hdr {
            sys::set_vnet_hdr_sz(&fd, vnet::LEN as libc::c_int)
                .map_err(setup(&name, "the header size"))?;
            mask = set_offload(&fd, config).map_err(setup(&name, "the offloads"))?;
        }
        let csum = mask & libc::TUN_F_CSUM != 0;
        let tso = mask & libc::TUN_F_TSO4 != 0;
        let uso = mask & libc::TUN_F_USO4 != 0;
        let caps = Caps {
            layer: if flags.tap { Layer::Ethernet } else { Layer::Ip },
            mtu: MTU_DEFAULT,
            mac: None,
            rx_offload: csum,
            tx_csum: csum,
            tso,
            uso,
            gso_bytes_max: if tso || uso { GSO_BYTES_MAX } else { 0 },
        };
        let path = PathBuf::from(DEV_NET_TUN);
        let vnet = flags.vnet_hdr;
        let (large, counts) = (None, Counts::default());
        Ok(Tun {
            fd,
            queue: 0,
            attached: true,
            name,
            caps,
            vnet,
            path,
            flags,
            large,
            long_seen: false,
            counts,
            tries: Tries::default(),
            losses: None,
        })
    }

    /// Opens one more queue of the same interface, with the same offloads; in the namespace the
    /// interface was made in.
    ///
    /// # Errors
    /// `EINVAL` if it was not made for several, `E2BIG` beyond the kernel's 256.
    pub fn open_queue(&self) -> Result<Tun, TunError> {
        let (fd, name) = attach(&self.path, &self.name, self.flags)?;
        Ok(Tun {
            fd,
            queue: self.queue.saturating_add(1),
            attached: true,
            name,
            caps: self.caps,
            vnet: self.vnet,
            path: self.path.clone(),
            flags: self.flags,
            large: None,
            long_seen: false,
            counts: Counts::default(),
            tries: Tries::default(),
            // The counts are the interface's, so one of its queues tells them.
            losses: None,
        })
    }

    /// Takes this queue off its interface, or puts it back. The interface stays as it is, also
    /// without any queue, and the kernel sends by those that are left. What waits in a queue that
    /// is taken off is lost, and its descriptor reports an error to whoever waits on it: take it
    /// out of the poller first.
    ///
    /// # Errors
    /// `EINVAL` if the interface has but one queue for good ([`Config::multi_queue`]).
    pub fn set_attached(&mut self, attached: bool) -> io::Result<()> {
        if attached != self.attached {
            sys::set_queue(&self.fd, attached)?;
            self.attached = attached;
        }
        Ok(())
    }

    /// Whether it is one of its interface's queues now.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Where to read what the interface dropped before its full ring, which this descriptor does
    /// not tell. Without it [`Counts::overflow`] stays 0.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = Some(losses);
    }

    /// Tells the device its MTU and, for a TAP, its own Ethernet address, which the kernel does not
    /// tell through this descriptor.
    pub fn set_link(&mut self, mtu: u32, mac: Option<[u8; 6]>) {
        self.caps.mtu = mtu;
        self.caps.mac = mac;
    }

    /// Reads one packet; `None` if none waits or there is no memory for it.
    fn tun_do_read(&mut self, cx: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>> {
        let Some(mut pkt) = cx.pool.alloc() else {
            self.counts.rx_no_buffer += 1;
            return Ok(None);
        };
        let mut hdr = [0u8; vnet::LEN];
        let hdr_len = if self.vnet { vnet::LEN } else { 0 };
        let room = pkt.tailroom();
        let may_be_long = self.caps.rx_offload || self.caps.mtu as usize > room || self.long_seen;
        if self.large.is_none() && may_be_long {
            self.large = cx.pool.alloc_large();
            if self.large.is_none() {
                self.counts.rx_no_buffer += 1;
                cx.pool.free(pkt);
                return Ok(None);
            }
        }
        let mut iov = [
            IoSliceMut::new(hdr.get_mut(..hdr_len).unwrap_or_default()),
            IoSliceMut::new(pkt.spare_mut()),
            IoSliceMut::new(self.large.as_deref_mut().unwrap_or_default()),
        ];
        let used = if iov[2].is_empty() { 2 } else { 3 };
        let iov = &mut iov[usize::from(hdr_len == 0)..used];
        let got = match rustix::io::retry_on_intr(|| match &mut *iov {
            // The kernel has less to look through where there is one buffer.
            [one] => rustix::io::read(&self.fd, &mut **one),
            iov => rustix::io::readv(&self.fd, iov),
        }) {
            Ok(got) => got,
            Err(err) => {
                cx.pool.free(pkt);
                return if err == rustix::io::Errno::AGAIN { Ok(None) } else { Err(err.into()) };
            }
        };
        let len = got.saturating_sub(hdr_len);
        pkt.received(len.min(room));
        match &self.large {
            Some(_) if len > room => {
                let large = self.large.take();
                large.into_iter().for_each(|l| pkt.add_buf(l, 0, (len - room).min(LARGE)));
            }
            // The kernel does not say what it cut off. Somebody has raised the MTU: from the next
            // packet on there is room.
            None if len == room => {
                self.long_seen = true;
                self.counts.rx_truncated += 1;
            }
            _ => {}
        }
        pkt.rx_time = cx.now;
        pkt.dev = cx.dev;
        pkt.queue = self.queue;
        let refused = self.describe(&mut pkt, &hdr, len).err();
        Ok(Some((pkt, refused)))
    }

    /// Fills in what the header and the first byte say.
    #[inline]
    fn describe(&mut self, pkt: &mut Pkt, hdr: &[u8; vnet::LEN], len: usize) -> Result<(), Reason> {
        let l2 = match self.caps.layer {
            Layer::Ip => {
                pkt.network = pkt.data_offset();
                pkt.proto = match pkt.head().first().map(|b| b >> 4) {
                    Some(4) => 0x0800,
                    Some(6) => 0x86dd,
                    _ => 0,
                };
                0
            }
            Layer::Ethernet => offload::ether_len(pkt.head()),
        };
        if !self.vnet {
            return Ok(());
        }
        Vnet::parse(hdr, len).and_then(|vnet| offload::receive(pkt, vnet, l2)).map_err(|err| {
            self.counts.rx_vnet[err.index()] += 1;
            Reason::VnetHdr
        })
    }

    /// Writes one packet: its header, its head, its fragments.
    fn tun_do_write(&mut self, pkt: &Pkt) -> io::Result<usize> {
        if !self.vnet {
            return offload::gather(&[], pkt, 0, |parts| {
                Ok(rustix::io::retry_on_intr(|| match parts {
                    [one] => rustix::io::write(&self.fd, one),
                    parts => rustix::io::writev(&self.fd, parts),
                })?)
            });
        }
        let Some(vnet) = offload::transmit(pkt, 0) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        offload::gather(&[&vnet.emit()], pkt, 0, |parts| {
            Ok(rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, parts))?)
        })
    }
}

fn attach(path: &Path, name: &str, flags: IffFlags) -> Result<(OwnedFd, String), TunError> {
    let fd = sys::open(path).map_err(|source| TunError::Open { path: path.to_owned(), source })?;
    let name = sys::set_iff(&fd, name, flags)
        .map_err(|source| TunError::Attach { name: name.to_owned(), source })?;
    Ok((fd, name))
}

/// Sets the best mask the kernel takes of those `config` allows.
fn set_offload(fd: &OwnedFd, config: &Config) -> io::Result<u32> {
    let mut refused = None;
    for mask in config.masks() {
        match sys::set_offload(fd, mask) {
            Ok(()) => return Ok(mask),
            Err(err) => refused = Some(err),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

impl OneByOne for Tun {
    fn read(&mut self, cx: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>> {
        self.tun_do_read(cx)
    }

    fn write(&mut self, pkt: &Pkt) -> io::Result<usize> {
        self.tun_do_write(pkt)
    }

    fn is_gone(err: &io::Error) -> bool {
        err.raw_os_error() == Some(libc::EBADFD)
    }

    fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    fn tries_mut(&mut self) -> &mut Tries {
        &mut self.tries
    }
}

impl Device for Tun {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        if !self.attached {
            return Ok(0);
        }
        burst::rx_burst(self, cx, out, budget)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        if !self.attached {
            self.counts.tx_busy += 1;
            return Ok(0);
        }
        burst::tx_burst(self, ring, done)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.attached.then(|| self.fd.as_fd())
    }

    fn queue(&self) -> u8 {
        self.queue
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn count_overflow(&mut self) {
        if let Some(losses) = &mut self.losses {
            self.counts.overflow = losses.read();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_step_down_and_every_switch_switches() {
        let all = Config::new("t");
        let csum = libc::TUN_F_CSUM;
        let masks = all.masks();
        assert_eq!(masks.len(), 4);
        assert!(masks.windows(2).all(|w| w[0] & w[1] == w[1] && w[0] != w[1]));
        assert_eq!((masks[2], masks[3]), (csum, 0));
        let with = |c: Config| c.masks()[0];
        assert_eq!(with(Config { csum: false, ..all.clone() }), 0);
        assert_eq!(with(Config { tso: false, uso: false, ..all.clone() }), csum);
        assert_eq!(with(Config { uso: false, ..all.clone() }) & libc::TUN_F_USO4, 0);
        assert_eq!(with(Config { tso: false, ..all.clone() }) & libc::TUN_F_TSO4, 0);
        assert_eq!(with(Config { vnet_hdr: false, ..all.clone() }), 0);
        assert_eq!(with(all.plain()), 0);
    }

    #[test]
    fn a_missing_clone_device_says_what_to_do() {
        let config = Config { path: "/nonexistent/tun".into(), ..Config::new("t") };
        let err = Tun::open(&config).unwrap_err();
        assert_eq!(err.errno(), Some(libc::ENOENT));
        assert!(err.to_string().contains("--device /nonexistent/tun"), "{err}");
    }
}

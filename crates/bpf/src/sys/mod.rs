//! bpf(2): maps, programs, links. Linux: kernel/bpf/syscall.c, include/uapi/linux/bpf.h.

#![allow(unsafe_code)]

mod oracle;
mod trace;

pub use oracle::Ran;
pub use trace::{ProgInfo, Stats, TraceKind, Tracing, enable_stats, next_program, possible_cpus};

use crate::Insn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The kinds of maps that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_XSKMAP`: AF_XDP sockets by queue.
    Xskmap,
    /// `BPF_MAP_TYPE_PERCPU_HASH`: a value for each processor.
    PercpuHash,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`: likewise.
    PercpuArray,
    /// `BPF_MAP_TYPE_LRU_HASH`: the entry that was not used for longest makes room.
    LruHash,
}

impl MapKind {
    const fn code(self) -> u32 {
        match self {
            MapKind::Hash => 1,
            MapKind::Array => 2,
            MapKind::Xskmap => 17,
            MapKind::PercpuHash => 5,
            MapKind::PercpuArray => 6,
            MapKind::LruHash => 9,
        }
    }

    /// Whether the kernel reads and writes as many values at once as there are processors.
    const fn is_percpu(self) -> bool {
        matches!(self, MapKind::PercpuHash | MapKind::PercpuArray)
    }
}

/// A map. The sizes of its keys and values are part of it, so that no call reads or writes beyond
/// what it was given.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    kind: MapKind,
    key: usize,
    value: usize,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Runs a command. `attr` has to be the command's part of `union bpf_attr`, and what it points to
/// has to be valid; every function below says why it is.
unsafe fn bpf<T>(cmd: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attr`, and takes the rest of
    // the union for zero; the caller vouches for the pointers in it.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<T>()) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(libc::c_int::try_from(ret).unwrap_or(-1))
    }
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// The kernel's names have at most 15 bytes of letters, digits, `_` and `.`.
fn name16(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    out
}

impl Map {
    /// Makes a map of at most `entries` entries, whose keys and values have so many bytes.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF` (and `CAP_NET_ADMIN` for an XSKMAP), `ENOMEM`, `E2BIG`.
    pub fn create(
        kind: MapKind,
        name: &str,
        key: usize,
        value: usize,
        entries: u32,
    ) -> io::Result<Map> {
        let mut attr = MapCreate {
            map_type: kind.code(),
            key_size: key as u32,
            value_size: value as u32,
            max_entries: entries,
            map_name: name16(name),
            ..MapCreate::default()
        };
        // SAFETY: there is no pointer in this attribute.
        let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(Map { fd: unsafe { OwnedFd::from_raw_fd(fd) }, kind, key, value })
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// `E2BIG` if the map is full; `EINVAL` if the sizes are not the map's, or if it has a value for
    /// each processor; for an XSKMAP `EOPNOTSUPP` if the socket is not of AF_XDP.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if (key.len(), value.len()) != (self.key, self.value) || self.kind.is_percpu() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
        let mut attr = MapElem { map_fd: raw(&self.fd), key, value, ..MapElem::default() };
        // SAFETY: both point to as many bytes as the map says, which the kernel reads.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Reads an entry; `None` if there is none.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for an XSKMAP; `EINVAL` if the size is not the map's, or if it has a value for
    /// each processor.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if key.len() != self.key || self.kind.is_percpu() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // An array's values are copied in multiples of eight bytes.
        let mut out = vec![0u8; self.value.next_multiple_of(8)];
        let (key, value) = (key.as_ptr() as u64, out.as_mut_ptr() as u64);
        let mut attr = MapElem { map_fd: raw(&self.fd), key, value, ..MapElem::default() };
        // SAFETY: the key has as many bytes as the map says and is read; `out` has room for a value.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => {
                out.truncate(self.value);
                Ok(Some(out))
            }
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Takes an entry out; it is no error if there was none.
    ///
    /// # Errors
    /// `EINVAL` for an array, or if the size is not the map's.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let key = key.as_ptr() as u64;
        let mut attr = MapElem { map_fd: raw(&self.fd), key, ..MapElem::default() };
        // SAFETY: the key has as many bytes as the map says, which the kernel reads.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut attr) } {
            Err(err) if err.raw_os_error() != Some(libc::ENOENT) => Err(err),
            _ => Ok(()),
        }
    }

    /// The number that a program names the map by.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// A loaded XDP program.
#[derive(Debug)]
pub struct Prog {
    fd: OwnedFd,
    frags: bool,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel has made a packet of the frame.
    Native,
    /// In `netif_receive_skb`, for any driver.
    Generic,
}

/// Why a program was not loaded.
#[derive(Debug)]
pub struct LoadError {
    /// The errno.
    pub source: io::Error,
    /// What the verifier said; empty if it did not come to that.
    pub log: String,
}

impl LoadError {
    /// The verifier ends what it says with a zero.
    fn with_log(source: io::Error, log: &[u8]) -> LoadError {
        let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned();
        LoadError { source, log }
    }
}

impl Prog {
    /// Loads an XDP program, one that takes frames in several pieces where the kernel (5.18) knows
    /// of those.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`; `EACCES`, `EINVAL` from the verifier, with
    /// its log.
    pub fn load(insns: &[Insn], name: &str) -> Result<Prog, LoadError> {
        match Prog::try_load(insns, name, true, None) {
            Ok(prog) => Ok(prog),
            Err(err) if err.raw_os_error() == Some(libc::EPERM) => {
                Err(LoadError { source: err, log: String::new() })
            }
            Err(_) => Prog::try_load(insns, name, false, None).or_else(|_| {
                let mut log = vec![0u8; 1 << 16];
                Prog::try_load(insns, name, false, Some(&mut log))
                    .map_err(|source| LoadError::with_log(source, &log))
            }),
        }
    }

    fn try_load(
        insns: &[Insn],
        name: &str,
        frags: bool,
        log: Option<&mut Vec<u8>>,
    ) -> io::Result<Prog> {
        let mut attr = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: insns.len() as u32,
            insns: insns.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            prog_flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
            prog_name: name16(name),
            expected_attach_type: BPF_XDP,
            ..ProgLoad::default()
        };
        if let Some(log) = log {
            attr.log_level = 1;
            attr.log_size = log.len() as u32;
            attr.log_buf = log.as_mut_ptr() as u64;
        }
        // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a terminated string,
        // which the kernel reads; `log_buf` has `log_size` bytes, which it may write.
        let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(Prog { fd: unsafe { OwnedFd::from_raw_fd(fd) }, frags })
    }

    /// Whether it takes frames in several pieces.
    pub fn takes_frags(&self) -> bool {
        self.frags
    }

    /// Runs it over a frame `repeat` times (`BPF_PROG_TEST_RUN`): what it returned the last time,
    /// and how many nanoseconds a run took on average.
    ///
    /// # Errors
    /// `EINVAL` for a frame of less than 14 bytes or more than a page.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
        let mut attr = TestRun {
            prog_fd: raw(&self.fd),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: `data_in` points to `data_size_in` bytes, which the kernel reads; nothing is
        // written but the attribute.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
        Ok((attr.retval, attr.duration))
    }

    /// Attaches the program to an interface (`BPF_LINK_CREATE`). It stays until the link's
    /// descriptor is closed, by us or by the end of the process, whatever ends it.
    ///
    /// # Errors
    /// `EBUSY`/`EEXIST` if a program is attached: it is never replaced. `EOPNOTSUPP` where the
    /// driver has no native mode, `ERANGE`/`EINVAL` if the MTU is too large for it, `ENODEV`,
    /// `EPERM`.
    pub fn attach(&self, ifindex: u32, mode: AttachMode) -> io::Result<OwnedFd> {
        let flags = match mode {
            AttachMode::Native => XDP_FLAGS_DRV_MODE,
            AttachMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let mut attr = LinkCreate {
            prog_fd: raw(&self.fd),
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags,
        };
        // SAFETY: there is no pointer in this attribute.
        let fd = unsafe { bpf(LINK_CREATE, &mut attr) }?;
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Takes the place of the program that `link` attached (`BPF_LINK_UPDATE`); no frame passes by
    /// neither of them. It needs no right beyond the link. For the program that is there already
    /// the kernel does nothing.
    ///
    /// # Errors
    /// `ENOLINK` if the interface is gone; the driver's.
    pub fn take_place(&self, link: &OwnedFd) -> io::Result<()> {
        let (link_fd, new_prog_fd) = (raw(link), raw(&self.fd));
        let mut attr = LinkUpdate { link_fd, new_prog_fd, ..LinkUpdate::default() };
        // SAFETY: there is no pointer in this attribute.
        unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
    }
}

//! Programs that the kernel calls at its tracepoints and functions, and what they count.
//!
//! They name their place by a type of the kernel's BTF, so that the verifier knows what the
//! arguments are and checks each field that is read. Closing the descriptors detaches them.
//! Linux: kernel/trace/bpf_trace.c, kernel/bpf/{trampoline,syscall}.c

use super::{LoadError, Map, MapElem, ProgLoad, bpf, name16, raw};
use crate::Insn;
use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

const MAP_GET_NEXT_KEY: libc::c_long = 4;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const ENABLE_STATS: libc::c_long = 32;

const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_STATS_RUN_TIME: u32 = 0;
/// The kernel runs programs at its functions only if they may be shared as it may itself. This names
/// both licences of the few instructions that are loaded: the project's, and the kernel's.
const LICENSE: &CStr = c"Dual MIT/GPL";

/// At what a program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// A tracepoint, with its arguments as they are (`BPF_TRACE_RAW_TP`); the type is
    /// `btf_trace_NAME`.
    RawTp = 23,
    /// The entry of a function (`BPF_TRACE_FENTRY`); the type is the function.
    Fentry = 24,
    /// Its end (`BPF_TRACE_FEXIT`).
    Fexit = 25,
}

/// A loaded tracing program.
#[derive(Debug)]
pub struct Tracing {
    fd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct TraceLoad {
    base: ProgLoad,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetId {
    id: u32,
    next_id: u32,
    open_flags: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to `recursion_misses`.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    bits: u32,
    netns_dev: u64,
    netns_ino: u64,
    nr_jited_ksyms: u32,
    nr_jited_func_lens: u32,
    jited_ksyms: u64,
    jited_func_lens: u64,
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: u64,
    jited_line_info: u64,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
}

/// What the kernel says of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgInfo {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Nanoseconds that it ran, while [`Stats`] were on.
    pub run_time_ns: u64,
    /// How often, likewise.
    pub run_cnt: u64,
    /// How often it was not called because it was running on that processor already.
    pub missed: u64,
}

/// Programs' times are counted as long as this lives.
#[derive(Debug)]
pub struct Stats {
    _fd: OwnedFd,
}

impl Tracing {
    /// Loads a program for the place that is type `btf_id` of the kernel's own BTF.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF` and `CAP_PERFMON`, or where the kernel is locked down; `EACCES`,
    /// `EINVAL` from the verifier, with its log.
    pub fn load(
        insns: &[Insn],
        name: &str,
        kind: TraceKind,
        btf_id: u32,
    ) -> Result<Tracing, LoadError> {
        match Tracing::try_load(insns, name, kind, btf_id, None) {
            Ok(prog) => Ok(prog),
            Err(source) if source.raw_os_error() == Some(libc::EPERM) => {
                Err(LoadError { source, log: String::new() })
            }
            Err(_) => {
                let mut log = vec![0u8; 1 << 16];
                let again = Tracing::try_load(insns, name, kind, btf_id, Some(&mut log));
                again.map_err(|source| LoadError::with_log(source, &log))
            }
        }
    }

    fn try_load(
        insns: &[Insn],
        name: &str,
        kind: TraceKind,
        btf_id: u32,
        log: Option<&mut Vec<u8>>,
    ) -> io::Result<Tracing> {
        let mut attr = TraceLoad {
            base: ProgLoad {
                prog_type: BPF_PROG_TYPE_TRACING,
                insn_cnt: insns.len() as u32,
                insns: insns.as_ptr() as u64,
                license: LICENSE.as_ptr() as u64,
                prog_name: name16(name),
                expected_attach_type: kind as u32,
                ..ProgLoad::default()
            },
            attach_btf_id: btf_id,
            ..TraceLoad::default()
        };
        if let Some(log) = log {
            attr.base.log_level = 1;
            attr.base.log_size = log.len() as u32;
            attr.base.log_buf = log.as_mut_ptr() as u64;
        }
        // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a terminated string,
        // which the kernel reads; `log_buf` has `log_size` bytes, which it may write.
        let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(Tracing { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// From now on the kernel calls it, until the descriptor that this returns is closed, by us or by
    /// the end of the process, whatever ends it (`BPF_RAW_TRACEPOINT_OPEN`).
    ///
    /// # Errors
    /// `ENOTSUPP` (524), `EBUSY` where the function can not be traced; `EPERM`.
    pub fn attach(&self) -> io::Result<OwnedFd> {
        let mut attr = RawTracepointOpen { prog_fd: raw(&self.fd), ..Default::default() };
        // SAFETY: the name is null, as it has to be for a program that names its place itself.
        let fd = unsafe { bpf(RAW_TRACEPOINT_OPEN, &mut attr) }?;
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn info(&self) -> io::Result<ProgInfo> {
        info(&self.fd)
    }
}

fn info(fd: &OwnedFd) -> io::Result<ProgInfo> {
    let mut out = RawInfo::default();
    let mut attr = GetInfo {
        bpf_fd: raw(fd),
        info_len: size_of::<RawInfo>() as u32,
        info: std::ptr::from_mut(&mut out) as u64,
    };
    // SAFETY: `info` points to `info_len` bytes of a structure of plain numbers, which the kernel reads
    // and writes. The lengths of all arrays in it are 0, so that it writes to none.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let name = out.name.split(|&b| b == 0).next().unwrap_or_default();
    Ok(ProgInfo {
        id: out.id,
        name: String::from_utf8_lossy(name).into_owned(),
        run_time_ns: out.run_time_ns,
        run_cnt: out.run_cnt,
        missed: out.recursion_misses,
    })
}

/// The program whose number is the next above `after`, of all on this host; `None` behind the last.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn next_program(after: u32) -> io::Result<Option<ProgInfo>> {
    let mut attr = GetId { id: after, ..GetId::default() };
    loop {
        // SAFETY: there is no pointer in this attribute.
        match unsafe { bpf(PROG_GET_NEXT_ID, &mut attr) } {
            Ok(_) => {}
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(err) => return Err(err),
        }
        let id = attr.next_id;
        let mut open = GetId { id, ..GetId::default() };
        // SAFETY: there is no pointer in this attribute.
        match unsafe { bpf(PROG_GET_FD_BY_ID, &mut open) } {
            // SAFETY: a success is a new descriptor that nobody else has.
            Ok(fd) => return info(&unsafe { OwnedFd::from_raw_fd(fd) }).map(Some),
            // It has gone meanwhile.
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => {
                attr = GetId { id, ..GetId::default() };
            }
            Err(err) => return Err(err),
        }
    }
}

/// Has the kernel count how long each program runs, for all of the host. It costs each of them two
/// readings of a clock.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` before Linux 5.8.
pub fn enable_stats() -> io::Result<Stats> {
    let mut kind = BPF_STATS_RUN_TIME;
    // SAFETY: there is no pointer in this attribute.
    let fd = unsafe { bpf(ENABLE_STATS, &mut kind) }?;
    // SAFETY: a success is a new descriptor that nobody else has.
    Ok(Stats { _fd: unsafe { OwnedFd::from_raw_fd(fd) } })
}

impl Map {
    /// Reads the values of an entry, one for each processor that there may be, in their order; `None`
    /// if there is none.
    ///
    /// # Errors
    /// `EINVAL` if the map has not a value for each, or if the key's size is not the map's.
    pub fn lookup_percpu(&self, key: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
        if key.len() != self.key || !self.kind.is_percpu() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let each = self.value.next_multiple_of(8);
        let mut out = vec![0u8; each * possible_cpus()?];
        let (key, value) = (key.as_ptr() as u64, out.as_mut_ptr() as u64);
        let mut attr = MapElem { map_fd: raw(&self.fd), key, value, ..MapElem::default() };
        // SAFETY: the key has as many bytes as the map says and is read; `out` has room for a value, in
        // multiples of eight bytes, of each processor that the kernel says there may ever be.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => Ok(Some(out.chunks(each).map(|v| v[..self.value].to_vec()).collect())),
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// The key behind `key`, the first if there is none; `None` behind the last. If `key` has been
    /// taken out meanwhile, it begins anew.
    ///
    /// # Errors
    /// `EINVAL` if the size is not the map's.
    pub fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        if key.is_some_and(|key| key.len() != self.key) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut next = vec![0u8; self.key];
        let key = key.map_or(0, |key| key.as_ptr() as u64);
        let value = next.as_mut_ptr() as u64;
        let mut attr = MapElem { map_fd: raw(&self.fd), key, value, ..MapElem::default() };
        // SAFETY: the key is null, or has as many bytes as the map says, which the kernel reads; `next`
        // has room for another.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => Ok(Some(next)),
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// How many processors there may be: values of a map that has one for each.
///
/// # Errors
/// If sysfs does not say it.
pub fn possible_cpus() -> io::Result<usize> {
    static KNOWN: OnceLock<usize> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    let last = last.filter(|last| *last < 1 << 16);
    let count = last.ok_or_else(|| io::Error::other("/sys/devices/system/cpu/possible is odd"))?;
    Ok(*KNOWN.get_or_init(|| count + 1))
}

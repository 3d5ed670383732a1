//! The kernel as the judge of our machine: maps of any kind, programs with their license, and what a
//! run leaves of a packet.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{
    BPF_F_XDP_HAS_FRAGS, BPF_PROG_TYPE_XDP, BPF_XDP, MAP_CREATE, Map, MapCreate, MapKind,
    PROG_LOAD, PROG_TEST_RUN, Prog, ProgLoad, TestRun, bpf, name16, possible_cpus, raw,
};
use crate::Insn;
use crate::maps::MapDef;

impl Map {
    /// Makes a map as it is defined. The value of a percpu map is that of all possible processors,
    /// each of a multiple of eight bytes.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF`; `EINVAL`, `E2BIG`, `ENOMEM`.
    pub fn create_as(def: &MapDef) -> io::Result<Map> {
        let mut attr = MapCreate {
            map_type: def.kind.number(),
            key_size: def.key_size,
            value_size: def.value_size,
            max_entries: def.max_entries,
            map_flags: def.flags,
            map_name: name16(&def.name),
            ..MapCreate::default()
        };
        // SAFETY: there is no pointer in this attribute.
        let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
        let value = def.value_size as usize;
        let percpu = value.next_multiple_of(8) * possible_cpus()?;
        let value = if def.kind.is_percpu() { percpu } else { value };
        // Read and written as a whole, that of a percpu map is a value like others.
        let (kind, key) = (MapKind::Hash, def.key_size as usize);
        // SAFETY: a success is a new descriptor that nobody else has.
        Ok(Map { fd: unsafe { OwnedFd::from_raw_fd(fd) }, kind, key, value })
    }
}

/// What a run over a packet left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub returned: u32,
    /// The packet afterwards, with its metadata before it.
    pub data: Vec<u8>,
}

impl Prog {
    /// Loads an XDP program under a license, one that takes frames in several pieces if `frags`.
    ///
    /// # Errors
    /// The errno, and what the verifier said.
    pub fn load_licensed(
        insns: &[Insn],
        name: &str,
        license: &str,
        frags: bool,
    ) -> Result<Prog, super::LoadError> {
        let license = std::ffi::CString::new(license).unwrap_or_default();
        let mut log = vec![0u8; 1 << 20];
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for logged in [false, true] {
            let mut attr = ProgLoad {
                prog_type: BPF_PROG_TYPE_XDP,
                insn_cnt: insns.len() as u32,
                insns: insns.as_ptr() as u64,
                license: license.as_ptr() as u64,
                prog_flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
                prog_name: name16(name),
                expected_attach_type: BPF_XDP,
                ..ProgLoad::default()
            };
            if logged {
                attr.log_level = 1;
                attr.log_size = log.len() as u32;
                attr.log_buf = log.as_mut_ptr() as u64;
            }
            // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a terminated
            // string, which the kernel reads; `log_buf` has `log_size` bytes, which it may write.
            match unsafe { bpf(PROG_LOAD, &mut attr) } {
                // SAFETY: a success is a new descriptor that nobody else has.
                Ok(fd) => return Ok(Prog { fd: unsafe { OwnedFd::from_raw_fd(fd) }, frags }),
                Err(err) => last = err,
            }
        }
        Err(super::LoadError::with_log(last, &log))
    }

    /// The number that a map of programs names it by.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Runs it once over a frame (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// `EINVAL` for a frame of less than 14 bytes or more than a page.
    pub fn run(&self, frame: &[u8]) -> io::Result<Ran> {
        // A program may add as much as the kernel's headroom and tailroom.
        let mut out = vec![0u8; frame.len() + 4096];
        let mut attr = TestRun {
            prog_fd: raw(&self.fd),
            data_size_in: frame.len() as u32,
            data_size_out: out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            ..TestRun::default()
        };
        // SAFETY: `data_in` points to `data_size_in` bytes, which the kernel reads, and `data_out`
        // to `data_size_out` bytes, which it may write.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
        out.truncate(attr.data_size_out as usize);
        Ok(Ran { returned: attr.retval, data: out })
    }
}

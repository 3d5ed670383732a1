//! Which maps there are, and what the kernel demands of one.
//!
//! Linux: the `map_alloc_check` functions of kernel/bpf/{arraymap,hashtab,lpm_trie,devmap,cpumap,ringbuf}.c

use std::fmt;

/// The kind of a map (`enum bpf_map_type`), those that a program of ours may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the kernel's names")]
pub enum Kind {
    Hash,
    Array,
    ProgArray,
    PerfEventArray,
    PercpuHash,
    PercpuArray,
    LruHash,
    LruPercpuHash,
    LpmTrie,
    Devmap,
    Cpumap,
    Xskmap,
    DevmapHash,
    Ringbuf,
}

/// Names of `enum bpf_map_type`, from 0 on.
const NAMES: [&str; 34] = [
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
    "array_of_maps",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "cgroup_storage",
    "reuseport_sockarray",
    "percpu_cgroup_storage",
    "queue",
    "stack",
    "sk_storage",
    "devmap_hash",
    "struct_ops",
    "ringbuf",
    "inode_storage",
    "task_storage",
    "bloom_filter",
    "user_ringbuf",
    "cgrp_storage",
    "arena",
];

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::Hash,
        Kind::Array,
        Kind::ProgArray,
        Kind::PerfEventArray,
        Kind::PercpuHash,
        Kind::PercpuArray,
        Kind::LruHash,
        Kind::LruPercpuHash,
        Kind::LpmTrie,
        Kind::Devmap,
        Kind::Cpumap,
        Kind::Xskmap,
        Kind::DevmapHash,
        Kind::Ringbuf,
    ];

    /// Its number in `enum bpf_map_type`.
    pub const fn number(self) -> u32 {
        match self {
            Kind::Hash => 1,
            Kind::Array => 2,
            Kind::ProgArray => 3,
            Kind::PerfEventArray => 4,
            Kind::PercpuHash => 5,
            Kind::PercpuArray => 6,
            Kind::LruHash => 9,
            Kind::LruPercpuHash => 10,
            Kind::LpmTrie => 11,
            Kind::Devmap => 14,
            Kind::Cpumap => 16,
            Kind::Xskmap => 17,
            Kind::DevmapHash => 25,
            Kind::Ringbuf => 27,
        }
    }
    /// Its name, as bpftool prints it.
    pub fn name(self) -> &'static str {
        NAMES[self.number() as usize]
    }
    /// The kind of this number.
    ///
    /// # Errors
    /// [`DefError::Kind`] for those that there are not here.
    pub fn from_number(number: u32) -> Result<Kind, DefError> {
        let found = Kind::ALL.into_iter().find(|k| k.number() == number);
        found.ok_or(DefError::Kind(number))
    }
    /// Whether each processor has values of its own.
    pub fn is_percpu(self) -> bool {
        matches!(self, Kind::PercpuHash | Kind::PercpuArray | Kind::LruPercpuHash)
    }
    /// Whether entries come and go by key: all but arrays and rings.
    pub fn is_hash(self) -> bool {
        use Kind::{DevmapHash, Hash, LruHash, LruPercpuHash, PercpuHash};
        matches!(self, Hash | PercpuHash | LruHash | LruPercpuHash | DevmapHash)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1 << 0;
/// `BPF_F_NO_COMMON_LRU`.
pub const NO_COMMON_LRU: u32 = 1 << 1;
/// `BPF_F_NUMA_NODE`.
pub const NUMA_NODE: u32 = 1 << 2;
/// `BPF_F_RDONLY_PROG`: programs may not write it.
pub const RDONLY_PROG: u32 = 1 << 7;
/// `BPF_F_WRONLY_PROG`: programs may not read it.
pub const WRONLY_PROG: u32 = 1 << 8;
/// `BPF_F_ZERO_SEED`.
pub const ZERO_SEED: u32 = 1 << 6;
/// `BPF_F_MMAPABLE`.
pub const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_RDONLY` and `BPF_F_WRONLY`, which bind user space only.
const USER_ACCESS: u32 = 3 << 3;

/// What a map is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Its name in the object.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries at the most; bytes of a ring buffer.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
}

/// Memory that the maps of one program may take: 256 MiB.
pub const MEMORY_MAX: u64 = 256 << 20;

/// Why a map cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefError {
    /// There are no maps of this kind here (`EINVAL`).
    Kind(u32),
    /// A size or a flag is not what this kind of map takes (`EINVAL`); the sentence says which.
    Value(Kind, &'static str, u64, &'static str),
    /// It takes more memory than a program may have (`ENOMEM`), in bytes.
    Memory(u64),
}

impl DefError {
    /// The kernel's errno for it.
    pub fn errno(&self) -> i32 {
        match self {
            DefError::Kind(_) | DefError::Value(..) => libc::EINVAL,
            DefError::Memory(_) => libc::ENOMEM,
        }
    }
}

impl fmt::Display for DefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DefError::Kind(number) => {
                let name = NAMES.get(*number as usize).unwrap_or(&"unknown");
                write!(f, "maps of type {number} ({name}) are not provided; there are ")?;
                let names: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
                f.write_str(&names.join(", "))
            }
            DefError::Value(kind, field, value, want) => {
                write!(f, "{field} is {value}; of a {kind} it has to be {want}")
            }
            DefError::Memory(bytes) => write!(
                f,
                "it takes {} MiB, and all maps of a program may have {} MiB: lower max_entries",
                bytes.div_ceil(1 << 20),
                MEMORY_MAX >> 20
            ),
        }
    }
}

impl std::error::Error for DefError {}

/// Largest key: that of a hash lies on the stack; an LPM key is a length and 256 bytes.
const KEY_MAX: u32 = 512;
/// Largest value of a hash or of one processor's share (`PCPU_MIN_UNIT_SIZE`).
pub const VALUE_MAX: u32 = 4 << 20;
const PERCPU_VALUE_MAX: u32 = 32 << 10;

impl MapDef {
    /// Checks it as the kernel does when it makes the map.
    ///
    /// # Errors
    /// [`DefError::Value`].
    pub fn check(&self) -> Result<(), DefError> {
        let bad = |field, value: u32, want| {
            Err(DefError::Value(self.kind, field, u64::from(value), want))
        };
        let (key, value) = (self.key_size, self.value_size);
        let want_key = match self.kind {
            Kind::Hash | Kind::PercpuHash | Kind::LruHash | Kind::LruPercpuHash => {
                ((1..=KEY_MAX).contains(&key), "1 to 512")
            }
            Kind::LpmTrie => {
                ((5..=260).contains(&key), "5 to 260: the length's 4 and the prefix's")
            }
            Kind::Ringbuf => (key == 0, "0"),
            _ => (key == 4, "4"),
        };
        if !want_key.0 {
            return bad("key_size", key, want_key.1);
        }
        let want_value = match self.kind {
            Kind::Devmap | Kind::DevmapHash => (matches!(value, 4 | 8), "4 or 8"),
            Kind::Cpumap => (matches!(value, 4 | 8), "4 or 8"),
            Kind::Xskmap | Kind::ProgArray | Kind::PerfEventArray => (value == 4, "4"),
            Kind::Ringbuf => (value == 0, "0"),
            kind if kind.is_percpu() => {
                ((1..=PERCPU_VALUE_MAX).contains(&value), "1 to 32 KiB for each processor")
            }
            Kind::Array => (value > 0 && value < 1 << 30, "1 or more"),
            _ => ((1..=VALUE_MAX).contains(&value), "1 to 4 MiB"),
        };
        if !want_value.0 {
            return bad("value_size", value, want_value.1);
        }
        let entries = self.max_entries;
        if self.kind == Kind::Ringbuf && !(entries.is_power_of_two() && entries >= 4096) {
            return bad("max_entries", entries, "a power of two of whole pages, in bytes");
        }
        // A perf event array without a size has an entry for each processor.
        if entries == 0 && self.kind != Kind::PerfEventArray {
            return bad("max_entries", entries, "1 or more");
        }
        self.check_flags()
    }

    fn check_flags(&self) -> Result<(), DefError> {
        let access = USER_ACCESS | RDONLY_PROG | WRONLY_PROG;
        let known = match self.kind {
            Kind::Hash | Kind::PercpuHash => NO_PREALLOC | NUMA_NODE | ZERO_SEED | access,
            Kind::LruHash | Kind::LruPercpuHash => NO_COMMON_LRU | NUMA_NODE | ZERO_SEED | access,
            Kind::LpmTrie => NO_PREALLOC | NUMA_NODE | access,
            Kind::Array => NUMA_NODE | MMAPABLE | access,
            Kind::PercpuArray => access,
            Kind::Ringbuf => NUMA_NODE,
            _ => NUMA_NODE | access,
        };
        let flags = u64::from(self.flags);
        if self.flags & !known != 0 {
            return Err(DefError::Value(self.kind, "map_flags", flags, "what this kind knows"));
        }
        if self.kind == Kind::LpmTrie && self.flags & NO_PREALLOC == 0 {
            return Err(DefError::Value(self.kind, "map_flags", flags, "BPF_F_NO_PREALLOC (1)"));
        }
        Ok(())
    }

    /// The bytes that it takes with this many processors.
    pub fn memory(&self, cpus: u32) -> u64 {
        let entries = u64::from(self.max_entries);
        let value = u64::from(self.value_size).next_multiple_of(8);
        let key = u64::from(self.key_size).next_multiple_of(8);
        let cpus = if self.kind.is_percpu() { u64::from(cpus) } else { 1 };
        match self.kind {
            Kind::Ringbuf => entries,
            // What the samples of one processor may take; see the ring.
            Kind::PerfEventArray => 64 << 10,
            Kind::LpmTrie => entries.saturating_mul(value + 2 * (key + 24)),
            kind if kind.is_hash() => entries.saturating_mul(value * cpus + key + 24),
            _ => entries.saturating_mul(value * cpus),
        }
    }
}

//! A program that is ready to run, its maps, and what is known of its runs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Insn;
use crate::check::{self, CheckError, Code};
use crate::helpers::Helper;
use crate::insn::code::CALL;
use crate::maps::{DefError, Kind, MEMORY_MAX, Map, MapDef};
use crate::vm::{Action, RunFault};

/// Maps of a program at the most (`MAX_USED_MAPS`).
pub const MAPS_MAX: usize = 64;
/// Lines of `bpf_trace_printk` that are kept; the oldest goes first.
const LINES_MAX: usize = 1024;

/// A program that is ready to run (`struct bpf_prog`).
#[derive(Debug)]
pub struct Program {
    name: String,
    section: String,
    license: String,
    code: Code,
    /// Where the programs that may be tail-called begin.
    entries: Vec<usize>,
    maps: Vec<Arc<Map>>,
    shards: Mutex<Vec<Arc<Stats>>>,
    faults: AtomicU64,
    last: Mutex<Option<RunFault>>,
    lines: Mutex<VecDeque<String>>,
    asks: bool,
}

/// What a program is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its name: that of its function.
    pub name: String,
    /// The section of the object that it was in.
    pub section: String,
    /// Its license.
    pub license: String,
    /// Its instructions: functions one behind the other, the program first. Maps are named by their
    /// number in `maps` ([`crate::insn::code::PSEUDO_MAP`]).
    pub insns: Vec<Insn>,
    /// Where the programs begin that it may tail-call: a prog_array names the first one 1.
    pub entries: Vec<usize>,
    /// Its maps.
    pub maps: Vec<MapSource>,
}

/// A map, and what is in it at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSource {
    /// What it is.
    pub def: MapDef,
    /// Keys and values that it begins with.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a program is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// It has more than [`MAPS_MAX`] maps.
    Maps(usize),
    /// A map of this name cannot be.
    Map(String, DefError),
    /// All maps together take more than [`MEMORY_MAX`] bytes.
    Memory(u64),
    /// It may not run; the function that holds the instruction.
    Check(CheckError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Maps(n) => {
                write!(f, "it has {n} maps, of {MAPS_MAX} that a program may have")
            }
            LoadError::Map(name, err) => write!(f, "map {name}: {err}"),
            LoadError::Memory(bytes) => write!(
                f,
                "its maps take {} MiB together, of {} that a program may have: lower max_entries",
                bytes.div_ceil(1 << 20),
                MEMORY_MAX >> 20
            ),
            LoadError::Check(err) => err.fmt(f),
        }
    }
}
impl std::error::Error for LoadError {}

/// What one shard counts of a program's runs: it alone writes, anybody reads.
#[derive(Debug, Default)]
pub struct Stats {
    cpu: u32,
    counts: [AtomicU64; 5],
}

/// Runs of a program, by what it said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the actions")]
pub struct Runs {
    pub aborted: u64,
    pub drop: u64,
    pub pass: u64,
    pub tx: u64,
    pub redirect: u64,
}

impl Runs {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.aborted + self.drop + self.pass + self.tx + self.redirect
    }
}

impl Stats {
    #[inline]
    pub(crate) fn count(&self, action: Action) {
        let count = match action {
            Action::Aborted => &self.counts[0],
            Action::Drop => &self.counts[1],
            Action::Pass => &self.counts[2],
            Action::Tx => &self.counts[3],
            Action::Redirect(_) => &self.counts[4],
        };
        count.store(count.load(Relaxed) + 1, Relaxed);
    }
}

/// What another thread left behind when it panicked is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    /// Makes a program ready for so many shards, with maps of its own.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(source: Source, cpus: u32) -> Result<Arc<Program>, LoadError> {
        if source.maps.len() > MAPS_MAX {
            return Err(LoadError::Maps(source.maps.len()));
        }
        let bytes: u64 =
            source.maps.iter().map(|m| m.def.memory(cpus)).fold(0, u64::saturating_add);
        if bytes > MEMORY_MAX && source.maps.len() > 1 {
            return Err(LoadError::Memory(bytes));
        }
        let value = |map: usize| {
            let def = &source.maps.get(map)?.def;
            (def.kind == Kind::Array && def.max_entries == 1).then_some(def.value_size)
        };
        let asks = |insn: &Insn| {
            let helper = Helper::from_number(insn.imm).filter(|_| insn.src() == 0);
            insn.code == CALL && matches!(helper, Some(Helper::FibLookup | Helper::CheckMtu))
        };
        let asks = source.insns.iter().any(asks);
        let code = check::check(&source.insns, &source.entries, source.maps.len(), value);
        let code = code.map_err(LoadError::Check)?;
        let mut maps = Vec::new();
        for MapSource { def, entries } in source.maps {
            let name = def.name.clone();
            let map = Map::new(def, cpus).map_err(|err| LoadError::Map(name, err))?;
            for (key, value) in entries {
                map.fill(&key, &value);
            }
            maps.push(Arc::new(map));
        }
        Ok(Arc::new(Program {
            name: source.name,
            section: source.section,
            license: source.license,
            code,
            entries: source.entries,
            maps,
            shards: Mutex::default(),
            faults: AtomicU64::new(0),
            last: Mutex::default(),
            lines: Mutex::default(),
            asks,
        }))
    }

    /// Its name: that of its function.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The section that it came from.
    pub fn section(&self) -> &str {
        &self.section
    }
    /// Its license.
    pub fn license(&self) -> &str {
        &self.license
    }
    /// Whether it may ask for routes or interfaces ([`Env::fib`](crate::vm::Env)).
    pub fn asks_routes(&self) -> bool {
        self.asks
    }
    /// Its code.
    pub fn code(&self) -> &Code {
        &self.code
    }
    /// Its maps.
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }
    /// The map of this name.
    pub fn map(&self, name: &str) -> Option<&Arc<Map>> {
        self.maps.iter().find(|m| m.def().name == name)
    }
    /// Where the program begins that a prog_array has as `number`.
    pub(crate) fn entry(&self, number: u32) -> Option<usize> {
        self.entries.get((number as usize).checked_sub(1)?).copied()
    }

    /// A shard joins: what it counts.
    pub(crate) fn join(&self, cpu: u32) -> Arc<Stats> {
        let stats = Arc::new(Stats { cpu, ..Stats::default() });
        lock(&self.shards).push(Arc::clone(&stats));
        stats
    }
    /// What all shards counted, or one of them.
    pub fn runs(&self, cpu: Option<u32>) -> Runs {
        let mut sum = [0; 5];
        for stats in lock(&self.shards).iter().filter(|s| cpu.is_none_or(|cpu| s.cpu == cpu)) {
            sum.iter_mut().zip(&stats.counts).for_each(|(sum, n)| *sum += n.load(Relaxed));
        }
        let [aborted, drop, pass, tx, redirect] = sum;
        Runs { aborted, drop, pass, tx, redirect }
    }

    #[cold]
    pub(crate) fn failed(&self, fault: RunFault) {
        self.faults.fetch_add(1, Relaxed);
        *lock(&self.last) = Some(fault);
    }
    /// How many runs were aborted because they did what they may not, and why the last one was.
    pub fn faults(&self) -> (u64, Option<RunFault>) {
        (self.faults.load(Relaxed), *lock(&self.last))
    }

    #[cold]
    pub(crate) fn say(&self, line: String) {
        let mut lines = lock(&self.lines);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    /// Takes out what programs printed (`bpf_trace_printk`), oldest first; at most the last 1024
    /// lines are there.
    pub fn drain_lines(&self) -> Vec<String> {
        lock(&self.lines).drain(..).collect()
    }
}

//! Readings of a host, wherever they come from.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use linerate_host::Snapshot;
use linerate_host::collect::{Collector, Tier};
use linerate_host::record::{End, Moment, Reader};
use linerate_host::snapshot::Note;
use linerate_host::source::{Dir, Live, Source};
use linerate_host::{netns, tracefs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::args::DoctorArgs;
use super::instance::Instance;
use super::is_empty;

/// Windows that a run is divided into at most: a rule that counts them sees no more in more of them, and
/// every reading is kept in memory.
const WINDOWS_MAX: usize = 120;
/// How long to look, unless asked otherwise.
const PERIOD: Duration = Duration::from_secs(10);
/// Time between two readings, likewise.
const EVERY: Duration = Duration::from_secs(1);

/// Readings, the oldest first.
pub struct Reading {
    /// Where they come from, for people.
    pub origin: String,
    /// At least one.
    pub snapshots: Vec<Snapshot>,
    /// Closer together, if not everything was read each time; else empty.
    pub between: Vec<Snapshot>,
    /// What was wrong with the origin as a whole.
    pub notes: Vec<Note>,
}

impl Reading {
    /// Looks at this host for a while; less if a signal says so.
    ///
    /// # Errors
    /// A sentence, if the namespace can not be entered.
    pub fn live(args: &DoctorArgs) -> Result<Reading, String> {
        let mut source = live(args.netns.as_deref())?;
        let mut collector = Collector::new(Tier::Full);
        if args.probes {
            collector = collector.with_probes();
        }
        let snapshots = watch(args, || Ok(collect(&mut collector, &mut source, true)))?;
        Ok(Reading::of(origin(args.netns.as_deref()), snapshots))
    }

    /// Looks at an instance of ours for a while.
    ///
    /// # Errors
    /// A sentence, if none of that name runs, or if it ends meanwhile.
    pub fn instance(args: &DoctorArgs, name: &str) -> Result<Reading, String> {
        let mut instance = Instance::connect(name)?;
        let snapshots = watch(args, || instance.read())?;
        Ok(Reading::of(format!("the instance {name}"), snapshots))
    }

    fn of(origin: String, snapshots: Vec<Snapshot>) -> Reading {
        Reading { origin, snapshots, between: Vec::new(), notes: Vec::new() }
    }

    /// Reads a record or a directory.
    ///
    /// # Errors
    /// A sentence, if it is neither.
    pub fn of_path(path: &Path) -> Result<Reading, String> {
        let at = |e: io::Error| format!("{}: {e}", path.display());
        if fs::metadata(path).map_err(at)?.is_dir() { of_tree(path) } else { of_record(path) }
    }
}

/// Reads again and again, as long as is asked for or until a signal comes.
fn watch(
    args: &DoctorArgs,
    mut read: impl FnMut() -> Result<Snapshot, String>,
) -> Result<Vec<Snapshot>, String> {
    let period = args.period.unwrap_or(PERIOD);
    let every = args.every.unwrap_or(EVERY.max(period / WINDOWS_MAX as u32)).min(period);
    let signals = Signals::take()?;
    let mut progress = Progress::new();
    let mut snapshots = vec![read()?];
    if is_empty(&snapshots[0]) {
        return Ok(snapshots);
    }
    let begin = Instant::now();
    for turn in 1.. {
        let next = (every * turn).min(period);
        let mut over = next >= period;
        while begin.elapsed() < next {
            progress.show(begin.elapsed(), period);
            if signals.wait((begin + next).min(Instant::now() + Duration::from_millis(250))) {
                over = true;
                break;
            }
        }
        snapshots.push(read()?);
        thin(&mut snapshots);
        if over {
            break;
        }
    }
    progress.end();
    Ok(snapshots)
}

/// One moment: a directory with `proc` and `sys` in it.
fn of_tree(path: &Path) -> Result<Reading, String> {
    let mut source = Dir::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let snapshot = Collector::new(Tier::Full).collect(&mut source);
    Ok(Reading::of(path.display().to_string(), vec![snapshot]))
}

/// The moments of a record at which everything was read; all of them if those are fewer than two.
fn of_record(path: &Path) -> Result<Reading, String> {
    let (mut full, mut all): (Vec<Snapshot>, Vec<Snapshot>) = (Vec::new(), Vec::new());
    let mut notes = Vec::new();
    let mut replay = Replaying::open(path)?;
    while let Some((moment, snapshot)) = replay.next()? {
        if all.last().is_some_and(|last| !continues(last, &snapshot)) {
            full.clear();
            all.clear();
            let why = "it goes on with another boot, namespace or host; only what is behind that is judged";
            notes = vec![Note { what: path.display().to_string(), why: why.into() }];
        }
        if moment.full {
            full.push(snapshot.clone());
        }
        all.push(snapshot);
        // Twice as many as are needed, so that thinning is rare.
        for kept in [&mut full, &mut all] {
            if kept.len() > 2 * WINDOWS_MAX {
                thin(kept);
            }
        }
    }
    thin(&mut full);
    thin(&mut all);
    let (snapshots, between) = if full.len() < 2 { (all, Vec::new()) } else { (full, all) };
    if snapshots.is_empty() {
        return Err(format!("{}: the record has no whole moment", path.display()));
    }
    notes.extend(replay.note());
    Ok(Reading { origin: path.display().to_string(), snapshots, between, notes })
}

/// Whether counters of `next` may be compared with those of `last`: a record may be continued after a
/// boot, or somewhere else.
fn continues(last: &Snapshot, next: &Snapshot) -> bool {
    let netns = last.host.netns.zip(next.host.netns);
    last.host.name == next.host.name
        && netns.is_none_or(|(a, b)| a == b)
        && last.monotonic_ns <= next.monotonic_ns
}

/// Leaves out every second reading between the first and the last, until they are few enough.
fn thin(snapshots: &mut Vec<Snapshot>) {
    while snapshots.len() > WINDOWS_MAX + 1 {
        let last = snapshots.len() - 1;
        let mut at = 0;
        snapshots.retain(|_| {
            at += 1;
            (at - 1) % 2 == 0 || at - 1 == last
        });
    }
}

/// Collects, and asks why packets were dropped as well, if that may be asked: the kernel traces them for
/// that, and forgets it when the source is closed.
pub fn collect(collector: &mut Collector, source: &mut dyn Source, reasons: bool) -> Snapshot {
    let mut snapshot = collector.collect(source);
    if !reasons || snapshot.drops.is_some() {
        return snapshot;
    }
    match source.read(tracefs::NAME) {
        Ok(bytes) => tracefs::drops(&bytes, &mut snapshot),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            snapshot
                .note(tracefs::NAME, format!("{e}: run as root to know why packets are dropped"));
        }
        Err(e) => snapshot.note(tracefs::NAME, e.to_string()),
    }
    snapshot
}

/// A record as snapshots.
pub struct Replaying {
    reader: Reader,
    collectors: [Collector; 2],
    name: String,
}

impl Replaying {
    /// Opens a record.
    ///
    /// # Errors
    /// A sentence, if it is none.
    pub fn open(path: &Path) -> Result<Replaying, String> {
        let name = path.display().to_string();
        let reader = Reader::open(path).map_err(|e| format!("{name}: {e}"))?;
        Ok(Replaying { reader, collectors: collectors(), name })
    }

    /// The next moment.
    ///
    /// # Errors
    /// A sentence, if the file can not be read.
    pub fn next(&mut self) -> Result<Option<(Moment, Snapshot)>, String> {
        let moment = self.reader.advance().map_err(|e| format!("{}: {e}", self.name))?;
        Ok(moment.map(|moment| {
            if moment.anew {
                self.collectors = collectors();
            }
            let collector = &mut self.collectors[usize::from(moment.full)];
            (moment, collect(collector, &mut self.reader.source(), moment.full))
        }))
    }

    /// What was wrong with it, once it has ended.
    pub fn note(&self) -> Option<Note> {
        match self.reader.end()? {
            End::Whole => None,
            End::Cut { at, why } => Some(Note {
                what: self.name.clone(),
                why: format!("{why}, behind byte {at}; what lies before was read"),
            }),
        }
    }
}

/// One for each tier. What was recorded was asked by such as these.
pub fn collectors() -> [Collector; 2] {
    [Tier::Basic, Tier::Full].map(Collector::new)
}

/// This host, or another of its namespaces.
///
/// # Errors
/// A sentence, if the namespace can not be entered.
pub fn live(netns: Option<&str>) -> Result<Live, String> {
    let Some(name) = netns else { return Ok(Live::new()) };
    let path = netns::path(name);
    Live::in_netns(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no network namespace {name:?} ({})", path.display())
        }
        io::ErrorKind::PermissionDenied => {
            format!("the network namespace {name:?} can not be entered: {e}; run as root")
        }
        _ => format!("{}: {e}", path.display()),
    })
}

/// How a live source is called.
pub fn origin(netns: Option<&str>) -> String {
    match netns {
        Some(name) => format!("the network namespace {name} of this host"),
        None => "this host".to_owned(),
    }
}

/// Signals that end a look before its time, instead of the program.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes SIGINT and SIGTERM.
    ///
    /// # Errors
    /// A sentence, if the kernel does not give a descriptor for them.
    pub fn take() -> Result<Signals, String> {
        let mut set = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM].into_iter().for_each(|s| set.add(s));
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Signals)
            .map_err(|e| format!("signals can not be taken: {e}"))
    }

    /// Waits until then; whether a signal came.
    pub fn wait(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            // Rounded up, so that the last wait is not many of none.
            let ms = left.as_micros().div_ceil(1000).min(u128::from(u16::MAX)) as u16;
            let ready = poll(&mut fds, PollTimeout::from(ms)).unwrap_or(0);
            if ready > 0 && matches!(self.0.read_signal(), Ok(Some(_))) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

/// How far it is, on a terminal.
struct Progress {
    on: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { on: io::stderr().is_terminal() }
    }

    fn show(&mut self, done: Duration, all: Duration) {
        if self.on {
            let (done, all) = (done.as_secs_f64(), all.as_secs_f64());
            let filled = ((done / all * 20.0) as usize).min(20);
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(20 - filled));
            let mut err = io::stderr().lock();
            let _ = write!(err, "\rlooking [{bar}] {done:.0} of {all:.0} s\x1b[K");
            let _ = err.flush();
        }
    }

    fn end(&mut self) {
        if self.on {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_another_namespace_or_boot_are_not_compared() {
        let at = |ns: u64, netns: u64| {
            let mut s = Snapshot { monotonic_ns: ns, ..Snapshot::default() };
            s.host.netns = Some(netns);
            s
        };
        assert!(continues(&at(5, 1), &at(6, 1)));
        assert!(!continues(&at(5, 1), &at(6, 2)), "another namespace");
        assert!(!continues(&at(5, 1), &at(4, 1)), "another boot");
        let mut unknown = at(6, 1);
        unknown.host.netns = None;
        assert!(continues(&at(5, 1), &unknown));
    }

    #[test]
    fn thinning_keeps_the_first_the_last_and_the_order() {
        let at = |n| Snapshot { monotonic_ns: n, ..Snapshot::default() };
        let mut snapshots: Vec<Snapshot> = (0..1000).map(at).collect();
        thin(&mut snapshots);
        let times: Vec<u64> = snapshots.iter().map(|s| s.monotonic_ns).collect();
        assert!(times.len() <= WINDOWS_MAX + 1 && times.len() > WINDOWS_MAX / 2, "{}", times.len());
        assert_eq!((times[0], times[times.len() - 1]), (0, 999));
        assert!(times.is_sorted());
    }
}

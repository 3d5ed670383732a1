//! `linerate record`: what is read of this host, moment after moment, into a file.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_host::Snapshot;
use linerate_host::collect::Collector;
use linerate_host::record::{Moment, Tee, Writer};
use linerate_host::source::Live;

use super::args::RecordArgs;
use super::reading::{Signals, collect, collectors, live};
use super::text::clean;
use super::{UNREADABLE, is_empty};

/// At most so much is lost if the host itself goes down.
const SYNC_EVERY: Duration = Duration::from_secs(30);

/// `linerate record`.
pub fn main(args: &RecordArgs) -> ExitCode {
    match record(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            eprintln!("linerate record: {why}");
            ExitCode::from(code)
        }
    }
}

fn record(args: &RecordArgs) -> Result<(), (u8, String)> {
    let unreadable = |why| (UNREADABLE, why);
    let failed = |e| (1, format!("{}: {e}", args.output.display()));
    let source = live(args.netns.as_deref()).map_err(unreadable)?;
    let signals = Signals::take().map_err(|why| (1, why))?;
    if std::fs::metadata(&args.output).is_ok_and(|about| !about.is_file()) {
        return Err((1, format!("{}: it is not a plain file", args.output.display())));
    }
    let writer = Writer::open(&args.output).map_err(failed)?;
    let first = writer.bytes();
    let reasons = args.reasons;
    let probes = args.probes;
    let collectors = asking(probes);
    let mut run = Recording { source, writer, collectors, reasons, probes, moments: 0 };
    let begin = Instant::now();
    let (mut next_full, mut synced) = (begin, begin);
    let mut over = false;
    for turn in 1u32.. {
        let now = Instant::now();
        over |= args.period.is_some_and(|period| now.duration_since(begin) >= period);
        // The last moment has everything, so that a short record has two such moments.
        let full = over || now >= next_full;
        if full {
            next_full = now + args.full_every;
        }
        let snapshot = run.moment(full).map_err(failed)?;
        if turn == 1 && is_empty(&snapshot) {
            let note = snapshot.notes.first();
            let why = note.map_or(String::new(), |n| format!(": {}: {}", n.what, n.why));
            return Err((UNREADABLE, clean(&format!("nothing could be read{why}"))));
        }
        if over || synced.elapsed() >= SYNC_EVERY {
            run.writer.sync().map_err(failed)?;
            synced = Instant::now();
        }
        if over {
            break;
        }
        let next = begin + args.every * turn;
        let next = args.period.map_or(next, |period| (begin + period).min(next));
        // Moments that were missed are not made up for.
        let next = if next > Instant::now() { next } else { Instant::now() + args.every };
        over = signals.wait(next);
    }
    said(&run, first);
    Ok(())
}

/// One for each tier; what probes measure is part of a full reading.
fn asking(probes: bool) -> [Collector; 2] {
    let [basic, full] = collectors();
    [basic, if probes { full.with_probes() } else { full }]
}

/// A record in the making.
struct Recording {
    source: Live,
    writer: Writer,
    collectors: [Collector; 2],
    reasons: bool,
    probes: bool,
    moments: u64,
}

impl Recording {
    fn moment(&mut self, full: bool) -> std::io::Result<Snapshot> {
        let anew = self.writer.begins_anew();
        if anew {
            self.collectors = asking(self.probes);
        }
        let mut tee = Tee::new(&mut self.source);
        let collector = &mut self.collectors[usize::from(full)];
        let snapshot = collect(collector, &mut tee, full && self.reasons);
        let (wall_ns, monotonic_ns) = (snapshot.wall_ns, snapshot.monotonic_ns);
        let moment = Moment { wall_ns, monotonic_ns, full, anew };
        self.writer.write(moment, &tee.into_answers())?;
        self.moments += 1;
        Ok(snapshot)
    }
}

fn said(run: &Recording, first: u64) {
    let bytes = run.writer.bytes() - first;
    let each = bytes.checked_div(run.moments).unwrap_or(0);
    let s = if run.moments == 1 { "" } else { "s" };
    eprintln!(
        "linerate record: {} moment{s}, {} bytes ({} each)",
        run.moments,
        crate::report::grouped(bytes),
        crate::report::grouped(each)
    );
}

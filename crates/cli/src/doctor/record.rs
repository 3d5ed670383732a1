//! `linerate record`: what is read of this host, moment after moment, into a file.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_host::record::{Moment, Tee, Writer};
use linerate_host::source::Source;

use super::args::RecordArgs;
use super::reading::{Signals, collectors, live};
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
    let mut source = live(args.netns.as_deref()).map_err(unreadable)?;
    let signals = Signals::take().map_err(|why| (1, why))?;
    let mut writer = Writer::open(&args.output).map_err(failed)?;
    let mut collectors = collectors();
    let begin = Instant::now();
    let (mut next_full, mut synced) = (begin, begin);
    let (first, mut moments) = (writer.bytes(), 0u64);
    for turn in 0u32.. {
        let now = Instant::now();
        let over = args.period.is_some_and(|period| now.duration_since(begin) >= period);
        if writer.begins_anew() {
            collectors = super::reading::collectors();
        }
        // The last moment has everything, so that a short record has two such moments.
        let full = over || now >= next_full;
        if full {
            next_full = now + args.full_every;
        }
        let mut tee = Tee::new(&mut source as &mut dyn Source);
        let snapshot = collectors[usize::from(full)].collect(&mut tee);
        if turn == 0 && is_empty(&snapshot) {
            let note = snapshot.notes.first();
            let why = note.map_or(String::new(), |n| format!(": {}: {}", n.what, n.why));
            return Err((UNREADABLE, format!("nothing could be read{why}")));
        }
        let moment = Moment {
            wall_ns: snapshot.wall_ns,
            monotonic_ns: snapshot.monotonic_ns,
            full,
            anew: writer.begins_anew(),
        };
        writer.write(moment, &tee.into_answers()).map_err(failed)?;
        moments += 1;
        if over || synced.elapsed() >= SYNC_EVERY {
            writer.sync().map_err(failed)?;
            synced = Instant::now();
        }
        if over {
            break;
        }
        let next = begin + args.every * (turn + 1);
        let end = args.period.map_or(next, |period| (begin + period).min(next));
        // Late: the moments that were missed are not made up for.
        let end = if end > Instant::now() { end } else { Instant::now() + args.every };
        if signals.wait(end) {
            return finish(&mut source, &mut writer, first, moments).map_err(failed);
        }
    }
    said(&writer, first, moments);
    Ok(())
}

/// The last moment of a record that is stopped: with everything.
fn finish(
    source: &mut dyn Source,
    writer: &mut Writer,
    first: u64,
    moments: u64,
) -> std::io::Result<()> {
    let [_, mut full] = collectors();
    let mut tee = Tee::new(source);
    let snapshot = full.collect(&mut tee);
    let moment = Moment {
        wall_ns: snapshot.wall_ns,
        monotonic_ns: snapshot.monotonic_ns,
        full: true,
        anew: false,
    };
    writer.write(moment, &tee.into_answers())?;
    writer.sync()?;
    said(writer, first, moments + 1);
    Ok(())
}

fn said(writer: &Writer, first: u64, moments: u64) {
    let bytes = writer.bytes() - first;
    let each = bytes.checked_div(moments).unwrap_or(0);
    eprintln!(
        "linerate record: {moments} moments, {} bytes ({} each)",
        crate::report::grouped(bytes),
        crate::report::grouped(each)
    );
}

//! Whole connections in virtual time, each run drawn from a seed: the links, what goes wrong on them and
//! when, the hosts' clocks, pauses and knobs, and what the programs at both ends do.
//!
//! What a run is held to is outside the stack: streams arrive whole and in order and end where they end;
//! nobody on the wire sends beyond a window, takes one back or acknowledges what was not sent; what is
//! queued has a timer, and timers fire; every packet is accounted for; memory is bounded, and all given
//! back; both ends agree on how it ended.
//!
//! Hosts may have several shards, between which connections move while all of this goes on: then each of them
//! is known to one shard at any time, and the directory says which.

mod ends;
mod rules;
mod run;
mod scenario;
mod shards;
mod trace;
mod wire;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use run::{Fault, Figures};
pub use scenario::{Event, Scenario, Side, Talk};
pub use shards::Shards;

/// The command that repeats a run.
pub fn replay(seed: u64) -> String {
    format!("cargo run --release -p linerate-lab -- seeds --seed {seed} --trace")
}

/// Runs one seed; writes every frame to `trace`, as pcapng.
///
/// # Errors
/// What is wrong: a rule that was broken, or an assertion of the stack.
pub fn run(seed: u64, trace: Option<&Path>) -> Result<Figures, Fault> {
    let scenario = Scenario::new(seed);
    let mut recorder = trace.map(|path| trace::Recorder::new(path, &scenario));
    let run = catch_unwind(AssertUnwindSafe(|| {
        run::Run::new(&scenario, move |frame| {
            if let Some(recorder) = &mut recorder {
                recorder.write(frame);
            }
        })
        .run()
    }));
    run.unwrap_or_else(|panic| Err(Fault { at: 0, what: format!("it panics: {}", said(&*panic)) }))
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why")
}

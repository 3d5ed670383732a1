#![doc = include_str!("README.md")]

mod cover;
mod device;
mod exec;
mod helper;
mod ids;
mod init;
pub(crate) mod leftover;
mod message;
mod mounts;
mod plan;
mod refused;
mod spawn;
mod spawned;

pub use leftover::Leftover;
pub use plan::{Backend, Inherited, Net, Plan, UserMode};
pub use spawn::{Device, SpawnError, spawn};
pub use spawned::{Event, Exit, Spawned};

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the helper that this process was started as, if it was: the first thing in `main`, before
/// any thread is started. `None` in the process that the user started.
#[must_use]
pub fn dispatch_hidden() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let role = args.next()?;
    let mut before: Vec<OsString> = Vec::new();
    let known = [helper::ARGUMENT, init::ARGUMENT, exec::ARGUMENT];
    if !known.iter().any(|known| role == *known) {
        return None;
    }
    for arg in args.by_ref() {
        if arg == "--" {
            break;
        }
        before.push(arg);
    }
    let program: Vec<OsString> = args.collect();
    Some(match role.to_str() {
        Some(helper::ARGUMENT) => helper::main(&program),
        Some(init::ARGUMENT) => init::main(&program),
        _ => exec::main(before.first(), &program),
    })
}

/// Whether a signal with this `ssi_code` was sent by a process (`SI_USER`, `SI_QUEUE`, `SI_TKILL`)
/// and not by the kernel, as the terminal's are.
fn sent_by_process(code: i32) -> bool {
    const SI_USER: i32 = 0;
    const SI_QUEUE: i32 = -1;
    const SI_TKILL: i32 = -6;
    [SI_USER, SI_QUEUE, SI_TKILL].contains(&code)
}

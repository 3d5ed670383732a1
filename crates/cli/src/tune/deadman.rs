//! The timer that undoes a change which may have cut the way to this host.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{io, thread};

use nix::sys::signal::{SigSet, Signal};

use super::args::JournalArgs;

/// Starts the timer: a process of its own, which the end of this terminal does not end.
pub fn arm(place: &JournalArgs, from: u64, after: Duration) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["tune", "__undo", "--from", &from.to_string()]);
    command.arg("--after").arg(format!("{}ms", after.as_millis()));
    command.arg("--journal").arg(&place.journal);
    if let Some(netns) = &place.netns {
        command.args(["--netns", netns]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map(drop)
}

/// Waits, whatever the terminal does.
pub fn wait(after: Duration) {
    let mut hangup = SigSet::empty();
    hangup.add(Signal::SIGHUP);
    // A thread's mask can always be set.
    let _ = hangup.thread_block();
    thread::sleep(after);
}

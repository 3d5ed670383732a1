//! The last step before the program: everything we changed is put back, then it is executed.

use super::{helper, plan::Inherited};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigmaskHow, Signal, sigprocmask};
use nix::unistd::execvp;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// First argument that makes our binary this step.
pub(super) const ARGUMENT: &str = "__ns-exec";

/// Exit status when the program was found but cannot be executed, as shells have it.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status when the program was not found, as shells have it.
const NOT_FOUND: u8 = 127;

/// What this step has to do besides, as its second argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    pub inherited: Inherited,
    /// Drop the capabilities that the helpers kept in the user namespace.
    pub drop_capabilities: bool,
    /// Die with the init: there is no PID namespace that would see to it.
    pub tied: bool,
}

impl Orders {
    pub fn encode(&self) -> String {
        let Inherited { mask, nofile: (soft, hard) } = self.inherited;
        format!("{mask},{soft},{hard},{},{}", self.drop_capabilities, self.tied)
    }

    fn decode(text: &str) -> Option<Orders> {
        let words: Vec<&str> = text.split(',').collect();
        let [mask, soft, hard, drop, tied] = words[..] else { return None };
        Some(Orders {
            inherited: Inherited {
                mask: mask.parse().ok()?,
                nofile: (soft.parse().ok()?, hard.parse().ok()?),
            },
            drop_capabilities: drop.parse().ok()?,
            tied: tied.parse().ok()?,
        })
    }
}

/// Executes the program; returns only if that failed, with the message printed.
pub(super) fn main(orders: Option<&OsString>, program: &[OsString]) -> ExitCode {
    let Some(orders) = orders.and_then(|text| text.to_str()).and_then(Orders::decode) else {
        eprintln!("linerate: {ARGUMENT} is for linerate's own use");
        return ExitCode::from(2);
    };
    let Some(name) = program.first() else {
        eprintln!("linerate: there is no program to run");
        return ExitCode::from(2);
    };
    if let Err(why) = restore(&orders) {
        eprintln!("linerate: {why}");
        return ExitCode::from(NOT_EXECUTABLE);
    }
    let err = execute(name, program);
    let name = name.to_string_lossy();
    match err {
        Errno::ENOENT if !name.contains('/') => {
            eprintln!("linerate: {name}: command not found");
        }
        err => eprintln!("linerate: cannot run {name}: {}", err.desc()),
    }
    ExitCode::from(if err == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE })
}

fn restore(orders: &Orders) -> Result<(), String> {
    // Rust's runtime has set SIGPIPE to be ignored, which exec would keep; a handler it resets.
    signal_hook::flag::register(Signal::SIGPIPE as i32, Arc::new(AtomicBool::new(false)))
        .map_err(|err| format!("cannot restore SIGPIPE: {err}"))?;
    let (soft, hard) = orders.inherited.nofile;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
        .map_err(|err| format!("cannot restore the limit of open files: {err}"))?;
    if orders.drop_capabilities {
        helper::drop_capabilities().map_err(|err| format!("cannot drop capabilities: {err}"))?;
    }
    if orders.tied {
        prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|err| format!("cannot tie the program to linerate: {err}"))?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&orders.inherited.sigset()), None)
        .map_err(|err| format!("cannot restore the signal mask: {err}"))
}

/// `execvp`, whose answer to a name found nowhere in `PATH` is made definite: it reports `EACCES`
/// for any unreadable directory on the way.
fn execute(name: &OsStr, program: &[OsString]) -> Errno {
    let text = |arg: &OsString| CString::new(arg.clone().into_vec());
    let args: Result<Vec<CString>, _> = program.iter().map(text).collect();
    match (CString::new(name.as_bytes()), args) {
        (Ok(path), Ok(args)) => match execvp(&path, &args) {
            Err(Errno::EACCES) if !in_path(name) => Errno::ENOENT,
            Err(err) => err,
            Ok(never) => match never {},
        },
        _ => Errno::EINVAL,
    }
}

/// Whether there is such a file, by its own path or in a directory of `PATH`.
fn in_path(name: &OsStr) -> bool {
    if name.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_their_journey() {
        let inherited = Inherited { mask: 3, nofile: (7, u64::MAX) };
        let orders = Orders { inherited, drop_capabilities: true, tied: false };
        assert_eq!(Orders::decode(&orders.encode()), Some(orders));
        assert_eq!(Orders::decode("1,2,3,true"), None);
    }
}

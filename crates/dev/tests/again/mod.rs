//! A test binary executed again: in a namespace of its own, as somebody else, or in another role.
//!
//! Every binary takes from here what it needs.
#![allow(dead_code)]

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Set in the copies of a test binary: which part they play.
const ROLE: &str = "LINERATE_TEST_ROLE";

/// A skip must be seen although the harness captures what a passing test prints; with
/// `LINERATE_SKIP=deny`, as in `.ci/run`, the test fails.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {test}: {why}");
    io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes()).unwrap();
}

/// The part that this copy plays; empty in the process that the harness started.
pub fn role() -> String {
    std::env::var(ROLE).unwrap_or_default()
}

/// The `unshare` command that gives a new network namespace here, if there is one.
pub fn unshare() -> Option<Command> {
    let works = |flags: &&str| {
        let tried = Command::new("unshare").args([flags, "true"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|s| s.success())
    };
    let flags = ["-n", "-rn"].into_iter().find(works)?;
    let mut command = Command::new("unshare");
    command.arg(flags);
    Some(command)
}

/// This binary once more, under `command`, to run `test` alone as `role`.
pub fn again(mut command: Command, test: &str, role: &str) -> Command {
    command.arg(std::env::current_exe().unwrap());
    alone(command, test, role)
}

fn alone(mut command: Command, test: &str, role: &str) -> Command {
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Runs `test` again in a namespace of its own. True in that copy, and in those that it starts, which
/// then do the work.
pub fn in_netns(test: &str) -> bool {
    if !role().is_empty() {
        return true;
    }
    let Some(command) = unshare() else {
        skip(test, "no network namespace may be made here (unshare -rn fails)");
        return false;
    };
    let out = again(command, test, "main").output().unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "in the namespace:\n{text}\n{err}");
    for line in err.lines().filter(|l| l.starts_with("SKIP ")) {
        io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    false
}

/// Whether we are root where it counts: who is root of a user namespace alone may not mount a sysfs for
/// it, nor become somebody else. A skip otherwise.
pub fn root_of_host(test: &str) -> bool {
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t");
    if role().is_empty() && !root {
        skip(test, "only root may mount a sysfs for a network namespace, or become somebody else");
        return false;
    }
    true
}

/// Copies a program to where it is executed. `cp` does it: what another thread starts while we write a file has that
/// open as well for a moment, and nobody executes a file that is open for writing (ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").args([from.as_ref(), to.as_ref()]).status().unwrap();
    assert!(copied.success(), "{} was not copied", from.as_ref().display());
}

/// Does `work` as somebody without rights: here, or, if we are root, in a copy of ours that has none.
pub fn powerless(test: &str, work: impl FnOnce()) {
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t");
    if role() == "powerless" || !root {
        work();
        println!("refused as it should");
        return;
    }
    // A copy that anybody may execute.
    let dir = std::env::temp_dir().join(format!("linerate-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let copy = dir.join("test");
    copy_program(std::env::current_exe().unwrap(), &copy);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&dir, mode).unwrap();
    let mut command = Command::new(&copy);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let out = alone(command, test, "powerless").current_dir("/").output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("refused as it should"), "{out:?}");
}

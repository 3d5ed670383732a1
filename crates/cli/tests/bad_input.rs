//! Goal: whatever is wrong with a command or with the machine is said in one sentence that names
//! what to do, with a status that is not zero, and leaves nothing behind.
//! Method: the real binary with one wrong thing at a time; refusals of the kernel are made in user
//! namespaces with limits of their own. After each command the directory that it could write to is
//! looked at.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

/// The only directory that a command is told of: for its sockets, its files, and to stand in.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("lr-bad-{}-{n}", std::process::id()));
        fs::create_dir(&dir).expect("a new directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its mode");
        Place(dir)
    }

    fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let mut words = before.to_vec();
        words.push(env!("CARGO_BIN_EXE_linerate"));
        words.extend(args);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(&self.0).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", &self.0).env("TMPDIR", &self.0);
        command
    }

    fn output(&self, before: &[&str], args: &[&str]) -> Output {
        self.command(before, args).output().expect("it starts")
    }

    fn holds(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it is there").flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs a command that can not work. `says` are parts of its sentence: what is wrong, and what
    /// to do.
    fn refuses(&self, before: &[&str], args: &[&str], status: i32, says: &[&str]) {
        let held = self.holds();
        let out = self.output(before, args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{args:?}: {said}");
        assert!(out.stdout.is_empty(), "{args:?} prints: {}", String::from_utf8_lossy(&out.stdout));
        let sentence: Vec<&str> = said.lines().filter(|l| !l.is_empty()).collect();
        let first = sentence.first().unwrap_or_else(|| panic!("{args:?} says nothing"));
        assert!(first.starts_with("linerate") || first.starts_with("error: "), "{args:?}: {said}");
        // The parser's errors have hints below them, ours are one line.
        assert!(first.starts_with("error: ") || sentence.len() == 1, "{args:?}: {said}");
        for part in says {
            assert!(said.contains(part), "{part:?} is missing for {args:?} in: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(self.holds(), held, "{args:?} leaves something");
    }

    /// Whether anything can be run here at all.
    fn able(&self, test: &str) -> bool {
        let out = self.output(&[], &["run", "--", "true"]);
        if !out.status.success() {
            skip(test, String::from_utf8_lossy(&out.stderr).trim());
        }
        out.status.success()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn wrong_arguments() {
    let place = Place::new();
    let long = "n".repeat(49);
    let cases: [(&[&str], &[&str]); 26] = [
        (&["run"], &["<PROGRAM>"]),
        (&["run", "--nope", "--", "true"], &["--nope", "--help"]),
        (&["run", "--set", "ring.rx", "--", "true"], &["KNOB=VALUE"]),
        (&["run", "--set", "no.knob=1", "--", "true"], &["no.knob", "show knobs"]),
        (&["run", "--set", "ring.rx=0", "--", "true"], &["ring.rx", "from 1 to"]),
        (&["run", "--set", "ring.rx=-1", "--", "true"], &["ring.rx", "from 1 to"]),
        (&["run", "--set", "ring.rx=99999999999999999999", "--", "true"], &["from 1 to"]),
        (&["run", "--set", "net.core.netdev_budget=many", "--", "true"], &["from 1 to"]),
        (&["run", "-p", "80", "--", "true"], &["HOSTPORT:PORT"]),
        (&["run", "-p", "0:80", "--", "true"], &["from 1 to 65535"]),
        (&["run", "-p", "65536:80", "--", "true"], &["from 1 to 65535"]),
        (&["run", "-p", "80:80/sctp", "--", "true"], &["/udp"]),
        (&["run", "--mtu", "1279", "--", "true"], &["1280..=65520"]),
        (&["run", "--mtu", "65521", "--", "true"], &["1280..=65520"]),
        (&["run", "--net4", "10.0.0.0/33", "--", "true"], &["32"]),
        (&["run", "--net4", "10.0.0.0/30", "--", "true"], &["/24 or shorter"]),
        (&["run", "--net6", "fd00::/127", "--", "true"], &["/112 or shorter"]),
        (&["run", "--dns", "resolver", "--", "true"], &["9.9.9.9"]),
        (&["run", "--name", "a/b", "--", "true"], &["letters, digits"]),
        (&["run", "--name", &long, "--", "true"], &["1 to 48"]),
        (&["show"], &["<WHAT>"]),
        (&["show", "everything"], &["path"]),
        (&["set", "ring.rx"], &["KNOB=VALUE"]),
        (&["set", "ring.rx=0"], &["from 1 to"]),
        (&["get", "no.knob"], &["show knobs"]),
        (&["explain", "no-such-thing"], &["stages", "show knobs"]),
    ];
    for (args, says) in cases {
        place.refuses(&[], args, 2, says);
    }
}

#[test]
fn nobody_to_ask() {
    let place = Place::new();
    for args in [&["show", "path"][..], &["get", "ring.rx"], &["set", "ring.rx=9"]] {
        place.refuses(&[], args, 1, &["no instance", "linerate run -- PROGRAM"]);
    }
    place.refuses(&[], &["show", "--name", "gone", "path"], 2, &["\"gone\"", "none runs"]);
    let socket = place.0.join("gone.sock").display().to_string();
    place.refuses(&[], &["show", "--name", &socket, "path"], 1, &[&socket]);
}

#[test]
fn captures_that_are_none() {
    let place = Place::new();
    let dir = place.0.display().to_string();
    place.refuses(&[], &["replay", &dir], 2, &[&dir, "directory", "name a pcap"]);
    let file = place.0.join("capture").display().to_string();
    place.refuses(&[], &["replay", &file], 2, &[&file, "No such file", "name a pcap"]);
    fs::write(&file, "").expect("a file");
    place.refuses(&[], &["replay", &file], 2, &[&file, "empty", "record again"]);
    fs::write(&file, "hello, world").expect("a file");
    place.refuses(&[], &["replay", &file], 2, &[&file, "not a pcap or pcapng file"]);
    fs::write(&file, [0xd4, 0xc3, 0xb2, 0xa1, 2]).expect("a file");
    place.refuses(&[], &["replay", &file], 2, &[&file, "cut off"]);
}

#[test]
fn programs_that_can_not_be_run() {
    let place = Place::new();
    if !place.able("programs_that_can_not_be_run") {
        return;
    }
    let text = place.0.join("text");
    fs::write(&text, "no program").expect("a file");
    let text = text.display().to_string();
    place.refuses(&[], &["run", "--", ""], 125, &["no program", "`--`"]);
    // The notes of a machine without a clone device come first, so only the status counts there.
    let cases = [("no-such-program", 127, "not found"), (&text, 126, "ermission denied")];
    for (program, status, says) in cases {
        let out = place.output(&[], &["run", "--", program]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{said}");
        assert!(said.contains(program) && said.contains(says), "{said}");
        assert_eq!(place.holds(), ["text"], "{program} leaves something");
    }
}

#[test]
fn what_somebody_else_has() {
    let place = Place::new();
    if !place.able("what_somebody_else_has") {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let forward = format!("{}:80", taken.local_addr().expect("an address").port());
    place.refuses(&[], &["run", "-p", &forward, "--", "true"], 125, &["in use", "another"]);
    let mut child = place
        .command(&[], &["run", "--name", "twice", "--", "sh", "-c", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("linerate starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    let args = ["run", "--name", "twice", "--", "true"];
    place.refuses(&[], &args, 125, &["\"twice\"", "choose another --name"]);
    place.refuses(&[], &["show", "--name", "once", "path"], 2, &["these run: twice"]);
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    assert_eq!(place.holds(), [""; 0]);
}

#[test]
fn recordings_that_can_not_be_made() {
    let place = Place::new();
    if !place.able("recordings_that_can_not_be_made") {
        return;
    }
    for path in ["/", "/no/such/directory/x.pcapng", "/proc/x.pcapng"] {
        let args = ["run", "--pcap", path, "--", "true"];
        place.refuses(&[], &args, 125, &[path, "name a file you may write"]);
    }
}

/// The words that run a command in a user namespace of its own, after a line of shell in it; `None`
/// where there is none to be had.
fn limited(test: &str, line: &'static str) -> Option<Vec<String>> {
    let words = ["unshare", "-Ur", "sh", "-c"];
    let possible =
        Command::new(words[0]).args(&words[1..]).arg(line).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|s| s.success()) {
        skip(test, "no user namespace whose limits can be set (unshare -Ur, setpriv)");
        return None;
    }
    let mut words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    words.push(format!("{line} && exec $RIGHTS \"$0\" \"$@\""));
    Some(words)
}

#[test]
fn kernels_that_grant_nothing() {
    const TEST: &str = "kernels_that_grant_nothing";
    // Each limit alone: no user namespaces, no network namespaces, only one of the two that a veth
    // pair needs while the clone device may not be used.
    let none = "setpriv --no-new-privs --bounding-set=-all --inh-caps=-all";
    let cases = [
        ("echo 0 > /proc/sys/user/max_user_namespaces", none, "sysctl -w user.max_user_namespaces"),
        ("echo 0 > /proc/sys/user/max_net_namespaces", "", "raise user.max_net_namespaces"),
    ];
    for (line, rights, says) in cases {
        let Some(words) = limited(TEST, line) else { continue };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let place = Place::new();
        let env = format!("RIGHTS={rights}");
        let before = [&["env", &env], &words[..]].concat();
        place.refuses(&before, &["run", "--", "true"], 125, &["cannot create", says]);
    }
}

#[test]
fn no_device_at_all() {
    const TEST: &str = "no_device_at_all";
    // In a mount namespace the clone device can be hidden, and the second network namespace, which
    // a veth pair needs, is one too many.
    let hide = "mount --bind /dev/null /dev/net/tun && echo 1 > /proc/sys/user/max_net_namespaces";
    let words = ["unshare", "-Urm", "sh", "-c"];
    let possible =
        Command::new(words[0]).args(&words[1..]).arg(hide).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|s| s.success()) {
        return skip(TEST, "no mount namespace in which /dev/net/tun can be hidden");
    }
    let line = format!("{hide} && exec \"$0\" \"$@\"");
    let before = [&words[..], &[&line]].concat();
    let place = Place::new();
    let says = ["/dev/net/tun", "veth", "Grant"];
    place.refuses(&before, &["run", "--", "true"], 125, &says);
    let only_tun = ["run", "--backend", "tun", "--", "true"];
    place.refuses(&before, &only_tun, 125, &["/dev/net/tun", "Grant", "veth"]);
}

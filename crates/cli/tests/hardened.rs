//! Goal: the process that handles packets holds no right that it does not need, and what needs one
//! still works: low ports and pings as root.
//! Method: the kernel's own account of the running process, in `/proc`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::{copy_program, skip};

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// Starts a run that prints `up` and then waits for its input to end; `None` if it can not run.
fn start(test: &str, prefix: &[&str], linerate: &str, options: &[&str]) -> Option<Child> {
    let mut words = prefix.to_vec();
    words.extend([linerate, "run"]);
    words.extend(options);
    words.extend(["--", "sh", "-c", "echo up; cat"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("XDG_RUNTIME_DIR");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    if line == "up\n" {
        return Some(child);
    }
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(125), "{said}");
    skip(test, said.trim());
    None
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}

/// The value of a line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).trim().to_owned()
}

#[test]
fn nothing_is_held_that_is_not_needed() {
    const TEST: &str = "nothing_is_held_that_is_not_needed";
    let dir = std::env::temp_dir().join(format!("lr-hard-{}", std::process::id()));
    fs::create_dir(&dir).expect("a directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("its mode");
    let copy: PathBuf = dir.join("linerate");
    copy_program(env!("CARGO_BIN_EXE_linerate"), &copy);
    let copy = copy.display().to_string();
    let mut users: Vec<&[&str]> = vec![&[]];
    if is_root() {
        users.push(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    }
    for prefix in users {
        let Some(child) = start(TEST, prefix, &copy, &[]) else { continue };
        let pid = child.id();
        assert_eq!(status(pid, "Name"), "linerate");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000000", "{set} of {prefix:?}");
        }
        if prefix.is_empty() && is_root() {
            assert_eq!(status(pid, "CapBnd"), "0000000000000000");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        // The kernel gives the files of an undumpable process to root.
        assert_eq!(fs::metadata(format!("/proc/{pid}/fd")).expect("it is there").uid(), 0);
        end(child);
    }
    fs::remove_dir_all(dir).expect("it is removed");
}

#[test]
fn only_the_same_user_and_root_may_ask() {
    const TEST: &str = "only_the_same_user_and_root_may_ask";
    if !is_root() {
        return skip(TEST, "only root can be several users");
    }
    let dir = std::env::temp_dir().join(format!("lr-ask-{}", std::process::id()));
    let runtime = dir.join("runtime");
    fs::create_dir_all(&runtime).expect("a directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("its mode");
    std::os::unix::fs::chown(&runtime, Some(65534), Some(65534)).expect("its owner");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("its mode");
    let copy = dir.join("linerate");
    copy_program(env!("CARGO_BIN_EXE_linerate"), &copy);
    let copy = copy.display().to_string();
    let env = format!("XDG_RUNTIME_DIR={}", runtime.display());
    let socket = runtime.join("linerate/asked.sock").display().to_string();
    let is = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", &env];
    let Some(child) = start(TEST, &is, &copy, &["--name", "asked"]) else { return };
    let ask = |uid: Option<&str>| {
        let id = uid.unwrap_or("0");
        let words = ["--reuid", id, "--regid", id, "--clear-groups", &copy, "show"];
        let words = words.into_iter().chain(["--name", &socket, "path"]);
        Command::new("setpriv").args(words).output().expect("setpriv starts")
    };
    for uid in [None, Some("65534")] {
        let out = ask(uid);
        assert!(out.status.success(), "{uid:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    // By the modes of the directories, and where somebody has opened those, by its own judgement.
    for mode in [0o700, 0o755] {
        for dir in [&runtime, &runtime.join("linerate")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("its mode");
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("its mode");
        let out = ask(Some("65533"));
        assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
        assert!(out.stdout.is_empty());
    }
    end(child);
    fs::remove_dir_all(dir).expect("it is removed");
}

#[test]
fn a_low_port_of_the_host_is_forwarded() {
    const TEST: &str = "a_low_port_of_the_host_is_forwarded";
    // Asked of the kernel, then given back: somebody else may take it meanwhile, so several.
    let free = (600..1000).filter(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok()).nth(7);
    let Some(port) = free else {
        return skip(TEST, "no port below 1024 may be opened");
    };
    let forward = format!("{port}:7");
    let linerate = env!("CARGO_BIN_EXE_linerate");
    let Some(child) = start(TEST, &[], linerate, &["-p", &forward]) else { return };
    // Nothing listens inside: what is tested is that the host's port is open.
    TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    end(child);
}

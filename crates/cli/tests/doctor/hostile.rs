//! Trees and records that somebody made to do harm: the doctor ends, with notes, whatever is in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Temp, command, json, linerate, text, tree};

/// Files that are read of every tree.
const FILES: [&str; 10] = [
    "proc/stat",
    "proc/interrupts",
    "proc/softirqs",
    "proc/net/softnet_stat",
    "proc/net/netstat",
    "proc/net/sockstat",
    "proc/net/dev",
    "proc/net/snmp6",
    "proc/sys/net/core/somaxconn",
    "sys/class/net/eth0/ifindex",
];

fn fifo(at: &str) {
    let made = Command::new("mkfifo").arg(at).status().expect("mkfifo starts");
    assert!(made.success());
}

/// The finding that the rest of the tree has, and what the notes say of a file.
fn judged(t: &Temp) -> serde_json::Value {
    let (report, code) = json(&["doctor", "--from", &t.path(""), "--json"]);
    assert_eq!(code, 1, "{report}");
    let findings = report["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 1, "{report}");
    assert_eq!(findings[0]["id"], "R43", "{report}");
    report
}

fn note<'a>(report: &'a serde_json::Value, file: &str) -> &'a str {
    let notes = report["skipped"].as_array().expect("notes");
    let note = notes.iter().find(|n| n["what"] == format!("/{file}"));
    note.unwrap_or_else(|| panic!("{file} is not noted: {notes:?}"))["why"].as_str().expect("text")
}

/// What would be waited for, or never end, is not opened.
#[test]
fn pipes_sockets_directories_and_devices_are_noted() {
    let t = tree(500_000);
    for file in FILES {
        fs::create_dir_all(t.0.join(file).parent().expect("a directory")).expect("made");
    }
    fifo(&t.path("proc/stat"));
    fifo(&t.path("proc/net/softnet_stat"));
    fifo(&t.path("sys/class/net/eth0/ifindex"));
    fs::create_dir(t.0.join("proc/interrupts")).expect("a directory");
    let _socket = UnixListener::bind(t.0.join("proc/softirqs")).expect("a socket");
    let zero = "proc/net/netstat";
    let mut made = Command::new("mknod");
    made.args([&t.path(zero), "c", "1", "5"]).stderr(Stdio::null());
    let zero_there = made.status().is_ok_and(|s| s.success());
    symlink("/dev/zero", t.0.join("proc/net/sockstat")).expect("linked");
    let report = judged(&t);
    for file in ["proc/stat", "proc/net/softnet_stat", "proc/interrupts", "proc/softirqs"] {
        assert_eq!(note(&report, file), "it is not a plain file");
    }
    if zero_there {
        assert_eq!(note(&report, zero), "it is not a plain file");
    }
    assert!(note(&report, "proc/net/sockstat").contains("leads out of the tree"), "{report}");
}

#[test]
fn links_that_go_round_or_out_are_noted() {
    let t = tree(500_000);
    symlink("stat", t.0.join("proc/stat")).expect("linked");
    symlink("b", t.0.join("proc/a")).expect("linked");
    symlink("a", t.0.join("proc/b")).expect("linked");
    symlink("../a/softirqs", t.0.join("proc/softirqs")).expect("linked");
    symlink("/etc/passwd", t.0.join("proc/interrupts")).expect("linked");
    symlink("../../../../../../../../etc", t.0.join("proc/net/stat")).expect("linked");
    symlink("..", t.0.join("proc/net/round")).expect("linked");
    fs::create_dir_all(t.0.join("sys/class")).expect("made");
    symlink("/sys/class/net", t.0.join("sys/class/net")).expect("linked");
    let report = judged(&t);
    let said = report.to_string();
    assert!(!said.contains("root:"), "nothing is read of a file outside");
    assert!(note(&report, "proc/interrupts").contains("leads out of the tree"), "{report}");
    assert!(
        report["skipped"].as_array().is_some_and(|n| n.iter().any(|n| n["what"] == "/proc/stat"))
    );
    // Those of this host would be there if the link had been followed.
    assert!(!said.contains("RTM_GETLINK") && !said.contains("\"lo\""), "{report}");
}

/// A gigabyte that takes no room on the disk, and a lot of short lines.
#[test]
fn enormous_files_are_noted_and_not_kept() {
    let t = tree(500_000);
    for file in FILES {
        t.write(file, "");
        let file = fs::File::options().write(true).open(t.0.join(file)).expect("it is there");
        file.set_len(1 << 30).expect("a hole");
    }
    t.write("proc/net/sockstat6", vec![b'\n'; 16 << 20]);
    t.write("proc/buddyinfo", b"\n \n".repeat(4 << 20));
    t.write("proc/net/stat/arp_cache", vec![0xff; 1 << 20]);
    let report = judged(&t);
    for file in &FILES[..7] {
        assert!(note(&report, file).contains("larger than"), "{file}: {report}");
    }
    assert!(note(&report, "proc/buddyinfo").contains("line"), "{report}");
    // All of it with less memory than one of these files would take.
    let mut limited = Command::new("sh");
    let run = format!(
        "ulimit -v 800000; exec {} doctor --json --from {}",
        env!("CARGO_BIN_EXE_linerate"),
        t.path("")
    );
    let out = limited.args(["-c", &run]).output().expect("sh starts");
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
}

/// What is neither a tree nor a record is refused, and nobody waits for it.
#[test]
fn what_is_no_host_is_refused() {
    let t = Temp::new();
    fifo(&t.path("pipe"));
    t.write(
        "noise",
        (0..60_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect::<Vec<u8>>(),
    );
    t.write("empty", "");
    symlink("loop", t.0.join("loop")).expect("linked");
    fs::create_dir(t.0.join("dir")).expect("made");
    let paths = ["pipe", "noise", "empty", "loop", "dir", "none"].map(|name| t.path(name));
    for path in paths.iter().map(String::as_str).chain(["/dev/zero", "/dev/null", "/proc/self/mem"])
    {
        for words in [["doctor", "--from"], ["top", "--from"]] {
            let out = linerate(&[&words[..], &[path]].concat());
            assert_eq!(out.status.code(), Some(2), "{words:?} {path}: {}", text(&out.stdout));
            assert!(text(&out.stderr).contains(path), "{}", text(&out.stderr));
        }
    }
}

/// Names from a tree go to the terminal, and to a page: they can not command either.
#[test]
fn names_from_a_tree_are_shown_as_text() {
    let t = tree(500_000);
    t.write("proc/sys/kernel/hostname", "\u{1b}]0;owned\u{7}<script>alert(1)</script>\u{1b}[2J\n");
    let page = t.path("page.html");
    let out =
        command(&["doctor", "--from", &t.path(""), "--html", &page]).output().expect("it runs");
    assert_eq!(out.status.code(), Some(1));
    assert!(!out.stdout.contains(&0x1b) && !out.stdout.contains(&7), "{:?}", text(&out.stdout));
    let page = fs::read_to_string(Path::new(&page)).expect("written");
    assert!(!page.contains("<script>alert"), "markup of a stranger");
}

/// Where a record can not be is said at once, and a page that can not be written before the look.
#[test]
fn places_that_take_no_file_are_refused_before_the_look() {
    let t = Temp::new();
    fifo(&t.path("pipe"));
    for place in [t.path("pipe").as_str(), "/dev/full", "/dev/null", &t.path("none/a.lrec")] {
        let out = linerate(&["record", "-o", place, "--for", "1h"]);
        assert_eq!(out.status.code(), Some(1), "{place}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(place), "{}", text(&out.stderr));
    }
    let page = t.path("none/page.html");
    let out = linerate(&["doctor", "--for", "1h", "--html", &page]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(&page));
}

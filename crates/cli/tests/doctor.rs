//! Goal: `doctor`, `record`, `top` and `show --host` say what is there, in the promised shape and with
//! the promised status, of this host, of trees and of records, whatever is in them.
//! Method: the real binary over trees that the test writes, records that it makes and cuts, and a UDP
//! socket on loopback that nobody reads.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

#[path = "doctor/hostile.rs"]
mod hostile;
#[path = "doctor/instance.rs"]
mod instance;
#[path = "doctor/pictures.rs"]
mod pictures;
#[path = "doctor/terminal.rs"]
mod terminal;

struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lr-doctor-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("a new directory");
        Temp(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("it is below the directory")).expect("directories");
        fs::write(path, bytes).expect("a file");
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(args).stdin(Stdio::null());
    command
}

fn linerate(args: &[&str]) -> Output {
    command(args).output().expect("linerate starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it prints UTF-8")
}

fn json(args: &[&str]) -> (Value, i32) {
    let out = linerate(args);
    let code = out.status.code().expect("no signal");
    assert!(code < 2, "{args:?}: {}", text(&out.stderr));
    (serde_json::from_slice(&out.stdout).expect("JSON"), code)
}

/// A host of which one file says that datagrams were lost, `lost` of them.
fn tree(lost: u64) -> Temp {
    let t = Temp::new();
    t.write("proc/uptime", "100000.00 150000.00\n");
    t.write("proc/sys/kernel/hostname", "web1\n");
    t.write("proc/sys/kernel/osrelease", "6.1.0-test\n");
    t.write("proc/sys/net/core/rmem_max", "212992\n");
    t.write("proc/sys/net/core/rmem_default", "212992\n");
    let snmp = format!(
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InDelivers OutRequests\n\
         Ip: 1 64 2000000 0 2000000 100000\n\
         Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n\
         Udp: 1000000 0 {lost} 5000 {lost} 0 0\n"
    );
    t.write("proc/net/snmp", snmp);
    t
}

#[test]
fn a_tree_gives_its_finding_in_the_promised_shape() {
    let t = tree(500_000);
    let (report, code) = json(&["doctor", "--from", &t.path(""), "--json"]);
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["host"]["name"], "web1");
    assert_eq!(report["window"]["lifetime"], true);
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|f| f["id"] == "R43").expect("lost datagrams are found");
    for key in ["title", "stage", "severity", "cause", "name"] {
        assert!(found[key].as_str().is_some_and(|s| !s.is_empty()), "{key}: {found}");
    }
    assert_eq!(found["lifetime"], true);
    assert_ne!(found["severity"], "critical", "what was counted since boot may be over");
    let evidence = &found["evidence"][0];
    assert!(evidence["source"].as_str().is_some_and(|s| s.contains("proc/net/snmp")), "{found}");
    assert_eq!((&evidence["name"], &evidence["to"]), (&"RcvbufErrors".into(), &500_000.into()));
    assert!(evidence["per_s"].is_number() && evidence["from"].is_number(), "{evidence}");
    for key in ["command", "persist", "verify", "rollback", "risk"] {
        assert!(found["advice"][0][key].is_string(), "{key}: {found}");
    }
    for note in report["skipped"].as_array().expect("what was not read") {
        assert!(note["what"].is_string() && note["why"].is_string(), "{note}");
    }
}

#[test]
fn the_report_for_people_says_the_same() {
    let t = tree(500_000);
    let out = linerate(&["doctor", "--from", &t.path("")]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}");
    for part in ["web1", "Linux 6.1.0-test", "R43", "since boot", "evidence", "500,000", "cause"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    assert!(said.lines().all(|l| l.chars().count() <= 100 || l.contains("  now ")), "{said}");
    assert!(!said.contains('\x1b'), "no colours but on a terminal");
}

#[test]
fn a_host_that_lost_nothing_is_healthy() {
    let t = tree(0);
    let out = linerate(&["doctor", "--from", &t.path("")]);
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(said.contains("Nothing is wrong") && said.contains("Not read:"), "{said}");
}

#[test]
fn what_can_not_be_read_is_status_2_and_a_sentence() {
    let t = Temp::new();
    t.write("diary", "dear diary");
    t.write("empty/proc/nothing", "");
    for args in [
        &["doctor", "--from", "/nonexistent"][..],
        &["doctor", "--from", &t.path("diary")],
        &["doctor", "--from", &t.path("empty")],
        &["doctor", "--netns", "no-such-namespace"],
        &["doctor", "--limit", "no_such_limit=1"],
        &["doctor", "--for", "soon"],
        &["doctor", "--from", "x", "--for", "1s"],
        &["top", "--from", &t.path("diary")],
        &["show", "--host", "instances"],
        &["show", "--host", "dev", "--name", "x"],
        &["doctor", "--name", "x", "--from", "y"],
        &["show", "--host", "dev", "--from", "/nonexistent"],
    ] {
        let out = linerate(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}: {out:?}");
    }
    let refused = linerate(&["record", "-o", &t.path("diary"), "--for", "1s"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(fs::read(t.0.join("diary")).expect("the file"), b"dear diary", "it is not touched");
}

/// Files that are cut, binary, enormous, or full of commands for terminals and browsers.
#[test]
fn a_hostile_tree_does_no_harm() {
    let bad: [&[u8]; 7] = [
        b"",
        b"\xff\xfe\x00\x01",
        b"Ip: A B C\nIp: 1\nUdp: RcvbufErrors\nUdp: -99999999999999999999\n",
        b"99999999999999999999999 1 1 1 1 1 1 1 1 1 1 1 1\n\x1b[2J<script>alert(1)</script>\n",
        b"Udp: RcvbufErrors\n",
        &[b'9'; 100_000],
        b"Inter-| Receive\n <img src=x>: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n \x1b]0;x\x07: 1 1 1 1\n",
    ];
    for bytes in bad {
        let t = Temp::new();
        let name = "proc/sys/kernel/hostname";
        t.write(name, "<b>\x1b[31mweb\n");
        for file in [
            "snmp",
            "netstat",
            "snmp6",
            "softnet_stat",
            "dev",
            "sockstat",
            "sockstat6",
            "ptype",
            "packet",
            "stat/nf_conntrack",
            "stat/arp_cache",
        ] {
            t.write(&format!("proc/net/{file}"), bytes);
        }
        for file in
            ["stat", "interrupts", "softirqs", "uptime", "buddyinfo", "pressure/cpu", "cmdline"]
        {
            t.write(&format!("proc/{file}"), bytes);
        }
        t.write("sys/class/net/eth0/statistics/rx_dropped", bytes);
        t.write("sys/class/net/\x1b[1m<i>/mtu", bytes);
        let page = t.path("page.html");
        let out = linerate(&["doctor", "--from", &t.path(""), "--html", &page]);
        let code = out.status.code();
        assert!(matches!(code, Some(0..=2)), "{out:?}");
        let (said, errors) = (text(&out.stdout), text(&out.stderr));
        assert!(!said.contains('\x1b') && !errors.contains('\x1b'), "{said}{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        if code != Some(2) {
            let page = fs::read_to_string(&page).expect("the page");
            for tag in ["<script", "<img", "<b>\u{fffd}", "<i>"] {
                assert!(!page.contains(tag), "{tag}: {page}");
            }
        }
        for what in ["softnet", "dev", "irqs", "snmp", "netstat", "drops", "rps"] {
            let out = linerate(&["show", "--host", what, "--from", &t.path("")]);
            assert!(!text(&out.stdout).contains('\x1b'), "{out:?}");
            assert!(!text(&out.stderr).contains("panicked"), "{out:?}");
        }
    }
}

/// A record of this host: a moment each 50 ms, all of them full.
fn record(file: &str, period: &str) {
    let args = ["record", "-o", file, "--for", period, "--every", "50ms", "--full-every", "10ms"];
    let out = linerate(&args);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
}

#[test]
fn a_record_is_judged_shown_and_replayed_and_a_cut_one_as_far_as_it_goes() {
    let t = Temp::new();
    let file = t.path("host.lrec");
    record(&file, "1s");
    let (whole, _) = json(&["doctor", "--from", &file, "--json"]);
    let windows = whole["window"]["windows"].as_u64().expect("a number");
    assert!(windows >= 2, "{whole}");
    assert_eq!(whole["window"]["lifetime"], false);

    let bytes = fs::read(&file).expect("the record");
    t.write("cut.lrec", &bytes[..bytes.len() - 3]);
    let (cut, _) = json(&["doctor", "--from", &t.path("cut.lrec"), "--json"]);
    assert_eq!(cut["window"]["windows"].as_u64(), Some(windows - 1), "all but the last moment");
    let says = |n: &Value| n["why"].as_str().is_some_and(|why| why.contains("in the middle"));
    assert!(cut["skipped"].as_array().is_some_and(|notes| notes.iter().any(says)), "{cut}");

    let shown = linerate(&["show", "--host", "softnet", "--from", &file]);
    assert!(text(&shown.stdout).starts_with("cpu"), "{shown:?}");
    let top = linerate(&["top", "--from", &file, "--plain", "2"]);
    let said = text(&top.stdout);
    assert!(top.status.success() && said.matches("receive ").count() == 2, "{said}");
    assert!(said.contains("SockQueue") && said.contains("cpu0"), "{said}");

    // What is added to it later is read with it.
    record(&file, "200ms");
    let longer = fs::read(&file).expect("the record");
    assert!(longer.starts_with(&bytes), "what was written is not touched");
    let (both, _) = json(&["doctor", "--from", &file, "--json"]);
    assert!(both["window"]["windows"].as_u64() > Some(windows), "{both}");
}

/// Bytes of each moment behind the first, by what stands before them: length, checksum, kind.
fn moments(record: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut rest = &record[8..];
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let len = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        sizes.push(9 + len);
        rest = &behind[len..];
    }
    sizes.split_off(1)
}

/// What other tests do on the machine meanwhile moves more counters than those of an idle host.
#[test]
fn a_moment_is_small() {
    let t = Temp::new();
    let file = t.path("host.lrec");
    let args = ["record", "-o", &file, "--for", "3s", "--every", "250ms", "--full-every", "1h"];
    let out = linerate(&args);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let sizes = moments(&fs::read(&file).expect("the record"));
    let devices = fs::read_dir("/sys/class/net").expect("Linux has it").count();
    let cpus = std::thread::available_parallelism().expect("it is known").get();
    let each = sizes.iter().sum::<usize>() / sizes.len().max(1);
    assert!(
        each < 200 * (devices + cpus),
        "{each} bytes for {devices} devices and {cpus} processors"
    );
}

/// A recording that has begun.
fn recording(file: &str) -> Child {
    let mut args = command(&["record", "-o", file, "--every", "20ms", "--full-every", "10ms"]);
    let child = args.stderr(Stdio::piped()).spawn().expect("linerate starts");
    while fs::metadata(file).map_or(0, |m| m.len()) < 4000 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child
}

#[test]
fn a_record_that_is_stopped_is_whole_and_one_that_is_killed_can_be_read() {
    for (signal, whole) in [("TERM", true), ("INT", true), ("KILL", false)] {
        let t = Temp::new();
        let file = t.path("host.lrec");
        let child = recording(&file);
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.expect("kill is there").success());
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), whole.then_some(0), "{signal}: {ended:?}");
        let (report, _) = json(&["doctor", "--from", &file, "--json"]);
        let cut = report["skipped"].to_string().contains("in the middle");
        assert!(!(cut && whole), "{signal}: {report}");
    }
}

/// Sends datagrams to a socket that nobody reads, until it is told to stop.
fn flood(over: &AtomicBool, to: std::net::SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    while !over.load(Ordering::Relaxed) {
        for _ in 0..50 {
            let _ = socket.send_to(&[0; 500], to);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn datagrams_that_this_host_loses_are_found_with_their_socket() {
    let deaf = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = deaf.local_addr().expect("it is bound");
    let over = AtomicBool::new(false);
    let t = Temp::new();
    let page = t.path("report.html");
    let (report, code) = std::thread::scope(|scope| {
        scope.spawn(|| flood(&over, to));
        let args = [
            "doctor", "--for", "3s", "--every", "500ms", "--json", "--goal", "latency", "--html",
            &page,
        ];
        let result = std::panic::catch_unwind(|| json(&args));
        over.store(true, Ordering::Relaxed);
        result.expect("a report")
    });
    assert_eq!(code, 1, "{report}");
    assert_eq!((&report["goal"], &report["window"]["windows"]), (&"latency".into(), &6.into()));
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|f| f["id"] == "R43").expect("lost datagrams are found");
    assert_eq!(found["severity"], "critical", "{found}");
    assert!(found["loss_per_s"].as_f64() > Some(10.0), "{found}");
    let moved = &found["evidence"][0];
    assert!(moved["to"].as_u64() > moved["from"].as_u64(), "{found}");
    let page = fs::read_to_string(page).expect("the page");
    assert!(
        page.contains("R43") && page.contains("class=\"drop\""),
        "it is drawn where it is lost"
    );
}

#[test]
fn the_host_is_shown_by_name() {
    for what in [
        "path",
        "softnet",
        "softirqs",
        "dev",
        "rings",
        "channels",
        "coalesce",
        "irqs",
        "rss",
        "rps",
        "xps",
        "qdisc",
        "snmp",
        "snmp6",
        "netstat",
        "sockstat",
        "statistics",
        "sockets",
        "knobs",
    ] {
        let out = linerate(&["show", "--host", what]);
        assert_eq!(out.status.code(), Some(0), "{what}: {out:?}");
        assert!(!out.stdout.is_empty(), "{what}");
        let out = linerate(&["show", "--host", what, "--json"]);
        assert!(serde_json::from_slice::<Value>(&out.stdout).is_ok(), "{what}: {out:?}");
    }
    let dev = text(&linerate(&["show", "--host", "dev"]).stdout);
    assert!(dev.lines().any(|l| l.starts_with("lo ")), "{dev}");
    // What the kernel itself says of a counter that stands still here.
    let knobs = text(&linerate(&["show", "--host", "knobs"]).stdout);
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux has it");
    assert!(knobs.contains(&format!("net.core.somaxconn = {}", somaxconn.trim())), "{knobs}");
}

#[test]
fn times_are_measured_and_what_may_not_be_is_said() {
    let (shown, status) = json(&["show", "--host", "latency", "--for", "500ms", "--json"]);
    assert_eq!(status, 0);
    let why = shown["notes"].as_array().expect("notes");
    // Timers tick on every host.
    let ticks = |v: &Value| v["hists"]["softirq/TIMER"]["all"]["count"].as_u64().unwrap_or(0);
    match &shown["latency"] {
        Value::Null => assert!(!why.is_empty(), "{shown}"),
        latency => assert!(ticks(latency) > 0, "{shown}"),
    }
    let alone = linerate(&["show", "latency"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(text(&alone.stderr).contains("--host"), "{}", text(&alone.stderr));
}

#[test]
fn the_kernels_names_and_the_rules_are_explained() {
    let explained = |name: &str| {
        let out = linerate(&["explain", name]);
        assert!(out.status.success(), "{name}: {out:?}");
        text(&out.stdout)
    };
    let text = explained("rx_missed_errors");
    assert!(text.contains("counter of the kernel") && text.contains("R01"), "{text}");
    let text = explained("net.netfilter.nf_conntrack_max");
    assert!(text.contains("setting of the kernel") && text.contains("whole host"), "{text}");
    for name in ["R43", "r43", "udp-rcvbuf"] {
        let text = explained(name);
        assert!(text.contains("R43 udp-rcvbuf · rule") && text.contains("rests on"), "{text}");
    }
    assert!(explained("limits").lines().count() > 10);
    assert!(explained("TcpExt:ListenOverflows").contains("R48"), "rules that look at a counter");
}

#[test]
fn help_has_examples() {
    for command in ["doctor", "record", "top", "show"] {
        let help = linerate(&[command, "--help"]);
        assert!(help.status.success() && text(&help.stdout).contains("Examples:"), "{command}");
    }
}

/// A network namespace that goes when this goes.
struct Netns(String);

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn another_namespace_is_looked_at_from_inside() {
    let name = format!("lr-doctor-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("another_namespace_is_looked_at_from_inside", "no namespace can be made");
    }
    let netns = Netns(name);
    let args = ["doctor", "--netns", &netns.0, "--for", "200ms", "--every", "100ms", "--json"];
    let (report, code) = json(&args);
    assert_eq!(code, 0, "nothing happens there: {report}");
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(format!("/run/netns/{}", netns.0)).expect("the namespace").ino();
    assert_eq!(report["host"]["netns"].as_u64(), Some(inode));
    assert_eq!(report["host"]["is_init_netns"], false);
    let dev = text(&linerate(&["show", "--host", "dev", "--netns", &netns.0]).stdout);
    assert!(dev.lines().skip(1).all(|l| l.starts_with("lo ")), "its only device is lo: {dev}");
}

fn exists(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p: &PathBuf| Path::new(p).exists())
}

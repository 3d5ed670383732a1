//! What is done to linerate: floods, readers that stop, signals; it stays small, serves the others,
//! and leaves nothing when it is killed.

use crate::Outcome;
use crate::server::{ECHO, FIREHOSE, FIREHOSE_TOLD, GO, KEEP, LET_GO, SINK, STALLED, many_files};
use crate::world::{BLACKHOLE, NOBODY, SERVERS, World, at, own, until};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// KiB by which one stalled stream may make linerate grow: its own buffers, no more.
const STALLED_KIB: u64 = 64 << 10;
/// Bytes that may be on the way when a stream stalls: the buffers of both kernels and of linerate.
const STALLED_BYTES: u64 = 128 << 20;
/// KiB that linerate may hold at its peak under a flood: its pools and tables when they are full,
/// which is far below what it would come to without bounds.
const FLOOD_KIB: u64 = 600 << 10;

pub fn backpressure(world: &World<'_>) -> Outcome {
    for server in SERVERS {
        // Upwards: the server does not read.
        let words = ["fill", &at(server, STALLED), &at(server, GO)];
        let mut running = world.start_client(&[], &words);
        let sent: u64 = running.line().parse().expect("a number");
        assert!(sent < STALLED_BYTES, "{sent} bytes went into a stream that nobody reads");
        let full = running.memory("VmRSS");
        running.tell("go");
        assert_eq!(running.line(), format!("{sent} true"), "{server}");
        let up = running.memory("VmHWM");
        running.finish().good();
        // Downwards: the program does not read.
        let words = ["late", &at(server, FIREHOSE), &(200 << 20).to_string()];
        let mut running = world.start_client(&[], &words);
        assert_eq!(running.line(), "connected");
        let empty = running.memory("VmRSS");
        let told = at("127.0.0.1", FIREHOSE_TOLD);
        let ask = || world.host.asked_of_internet(&[&own(), "client", "get", &told]);
        let mut written = ask();
        until("the firehose is full", || {
            sleep(Duration::from_millis(500));
            let before = std::mem::replace(&mut written, ask());
            before == written && before.trim() != "0"
        });
        let bytes: u64 = written.trim().parse().expect("a number");
        assert!(bytes < STALLED_BYTES, "{bytes} bytes went into a stream that nobody reads");
        let down = running.memory("VmRSS");
        assert!(down.saturating_sub(empty) < STALLED_KIB, "from {empty} to {down} KiB");
        running.tell("go");
        assert_eq!(running.line(), "true", "{server}");
        running.finish().good();
        println!(
            "  stalled: {sent} up ({full} KiB, peak {up}), {bytes} down ({empty} to {down} KiB)"
        );
    }
    Ok(())
}

pub fn paused(world: &World<'_>) -> Outcome {
    for server in SERVERS {
        let n = 96 << 20;
        let options = ["--report", "json"];
        let words = ["echo", &at(server, ECHO), &n.to_string()];
        let mut running = world.start_client(&options, &words);
        assert_eq!(running.line(), "begun");
        running.signal(SIGSTOP);
        sleep(Duration::from_secs(4));
        running.signal(SIGCONT);
        assert_eq!(running.line(), format!("{n} true"), "{server}");
        let report = running.finish().report();
        let counters = &report["counters"];
        println!("  retransmitted after a pause of 4 s: {}", counters["Tcp"]["RetransSegs"]);
    }
    Ok(())
}

/// The network namespaces of all processes that we may look at.
fn namespaces() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok()).collect()
}

/// Processes whose command line has this word, zombies left out: those have no command line.
fn with_word(word: &str) -> usize {
    let has = |dir: &Path| {
        let line = fs::read(dir.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|w| w == word.as_bytes())
    };
    fs::read_dir("/proc").expect("/proc").flatten().filter(|e| has(&e.path())).count()
}

/// Connections of the host that are open towards the servers of `load`.
fn connections() -> usize {
    let ports = [SINK, FIREHOSE].map(|port| format!(":{port:04X}"));
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].map(|f| fs::read_to_string(f).expect(f));
    let lines = files.iter().flat_map(|text| text.lines());
    lines
        .filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let remote = words.get(2).copied().unwrap_or_default();
            words.get(3) == Some(&"01") && ports.iter().any(|port| remote.ends_with(port.as_str()))
        })
        .count()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub fn killed_under_load(world: &World<'_>) -> Outcome {
    let mut random = [0; 4];
    fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).expect("urandom");
    println!("  kills after {random:?} ms");
    for (i, wait) in random.into_iter().enumerate() {
        let before = namespaces();
        let server = SERVERS[i % 2];
        // A word by which what the program starts is found again.
        let word = format!("61{}{i}", std::process::id());
        let to = [SINK, FIREHOSE, ECHO].map(|port| at(server, port));
        let words = ["load", &word, &to[0], &to[1], &to[2]];
        let mut running = world.start_client(&["-p", "9999:9999"], &words);
        assert_eq!(running.line(), "up");
        assert!(with_word(&word) > 0 && connections() > 0, "there is no load");
        sleep(Duration::from_millis(wait.into()));
        running.kill();
        // The kernel takes its time to tear a namespace down: a hang is what would fail here.
        until("the processes are gone", || with_word(&word) == 0);
        until("the connections are gone", || connections() == 0);
        until("the namespaces are gone", || namespaces().is_subset(&before));
        until("the files are gone", || names(world.runtime()).is_empty());
        until("the port is free", || TcpListener::bind("127.0.0.1:9999").is_ok());
    }
    Ok(())
}

pub fn flood_of_connections(world: &World<'_>) -> Outcome {
    // To where packets vanish, and to where nobody has the address.
    for nobody in [BLACKHOLE, NOBODY.rsplit_once('.').expect("an address").0] {
        let somebody = at(SERVERS[0], ECHO);
        let words = ["connect-flood", nobody, "6000", &somebody];
        let mut running = world.start_client(&["--report", "json"], &words);
        assert_eq!(running.line(), "ready");
        let before = running.memory("VmRSS");
        running.tell("go");
        assert_eq!(running.line(), "6000 true");
        let peak = running.memory("VmHWM");
        assert!(peak < FLOOD_KIB, "{peak} KiB");
        println!("  6000 connections to {nobody}.0/24: {before} KiB, peak {peak} KiB");
        running.finish().report();
    }
    Ok(())
}

pub fn flood_of_datagrams(world: &World<'_>) -> Outcome {
    for server in SERVERS {
        let echo = at(server, ECHO);
        let mut running =
            world.start_client(&["--report", "json"], &["udp-flood", &echo, "12000", &echo]);
        assert_eq!(running.line(), "ready");
        let before = running.memory("VmRSS");
        running.tell("go");
        assert_eq!(running.line(), "true true");
        let peak = running.memory("VmHWM");
        assert!(peak < FLOOD_KIB, "{peak} KiB");
        println!("  12000 endpoints: {before} KiB, peak {peak} KiB");
        running.finish().report();
    }
    Ok(())
}

/// Connections, and the bytes that each may cost the whole process.
const IDLE: u64 = 10_000;
const IDLE_BYTES: u64 = 64 << 10;

/// The stack's TCP sockets.
fn in_use(world: &World<'_>) -> u64 {
    let said = world.show("sockstat");
    let words = said.lines().find_map(|line| line.strip_prefix("TCP: inuse "));
    words.and_then(|words| words.split(' ').next()?.parse().ok()).expect("a number")
}

pub fn idle_connections(world: &World<'_>) -> Outcome {
    many_files();
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("the limit");
    if limit < IDLE + 1000 {
        return Err(crate::Skip(format!("{IDLE} connections need as many files, not {limit}")));
    }
    let words = ["keep", &at(SERVERS[0], KEEP), &IDLE.to_string()];
    let mut running = world.start_client(&["--report", "json"], &words);
    assert_eq!(running.line(), "ready");
    let figures = |running: &crate::world::Running| (running.memory("VmRSS"), running.pss());
    let (before, listening) = (figures(&running), in_use(world));
    running.tell("go");
    assert_eq!(running.line(), IDLE.to_string());
    assert!(in_use(world) >= listening + IDLE);
    let open = figures(&running);
    running.tell("close");
    assert_eq!(running.line(), "closed");
    world.host.asked_of_internet(&[&own(), "client", "connect", &at("127.0.0.1", LET_GO)]);
    let each = |before: u64, open: u64| (open.saturating_sub(before)) * 1024 / IDLE;
    let rss = each(before.0, open.0);
    println!("  {IDLE} idle connections: {rss} bytes each (resident {} KiB)", open.0);
    if let (Some(before), Some(open)) = (before.1, open.1) {
        println!("  proportional: {} bytes each", each(before, open));
    }
    assert!(rss <= IDLE_BYTES, "{rss} bytes each");
    until("they are closed", || in_use(world) == listening);
    running.finish().report();
    Ok(())
}

//! Goal: `linerate capture` takes what it is asked for, from an instance or a file, and whatever ends
//! it leaves a whole file and an instance that goes on.
//! Method: a control server of this test with a real shard behind it, through which recorded packets
//! go; the real binary as client; tshark as judge of files and filters, where it is installed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::table::{Counter, Stage};
use linerate_core::wire::Mac;
use linerate_dev::pcap::Reader;
use linerate_gateway::control::{ControlServer, Meta, answer};

/// Longer than anything here takes on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

fn skip(name: &str, why: &str) {
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {name}: {why}");
    std::io::stderr().write_all(format!("SKIP {name}: {why}\n").as_bytes()).expect("stderr");
}

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/data/captures")
}

struct Runtime(PathBuf);

impl Runtime {
    fn new() -> Runtime {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a socket has at most 107 bytes.
        let path = PathBuf::from(format!("/tmp/lr-capture-{}-{n}", std::process::id()));
        let mut dir = std::fs::DirBuilder::new();
        dir.mode(0o700).create(&path).expect("a new directory");
        dir.create(path.join("linerate")).expect("a new directory");
        Runtime(path)
    }
    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
    fn capture(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
        command.arg("capture").args(args).env("XDG_RUNTIME_DIR", &self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
    fn output(&self, args: &[&str]) -> Output {
        self.capture(args).output().expect("linerate starts")
    }
    /// A capture that has begun.
    fn begin(&self, args: &[&str]) -> Running {
        let mut child = self.capture(args).spawn().expect("linerate starts");
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("its word");
        assert!(line.contains("listening on one"), "{line}");
        Running { child, errors }
    }
}
impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Running {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Waits for its end; what it said, and its exit status.
    fn end(&mut self) -> (String, Option<i32>) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.errors, &mut said).expect("text");
        (said, self.child.wait().expect("it ends").code())
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running instance: what it is to do, and what it has done.
#[derive(Default)]
struct Instance {
    over: AtomicBool,
    wanted: AtomicU64,
    fed: AtomicU64,
    tapped: AtomicBool,
    captured: AtomicU64,
}

impl Instance {
    /// Sends so many packets more through the stack.
    fn feed(&self, n: u64) {
        let target = self.wanted.fetch_add(n, Ordering::SeqCst) + n;
        let begun = Instant::now();
        while self.fed.load(Ordering::SeqCst) < target {
            assert!(begun.elapsed() < PATIENCE, "the instance does nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    fn wait_for(&self, what: &str, is: impl Fn(&Instance) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Frames of DNS queries, 1500 of them or so.
fn frames() -> Vec<Vec<u8>> {
    let file = captures().join("gopacket/pcap__test_dns.pcap");
    let mut reader = Reader::open(&file).expect("a capture");
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().expect("it is whole") {
        frames.push(frame.data.to_vec());
    }
    assert!(!frames.is_empty());
    frames
}

fn run_instance(runtime: &Runtime, instance: &Instance) {
    let mut server = ControlServer::bind_in(&runtime.0.join("linerate"), "one").expect("free");
    let mut shard = Shard::new(5);
    shard.add_iface(Iface::new("eth0", L2::Ethernet, Mac([2, 0, 0, 0, 0, 1]), 1500));
    shard.set_knob("dev.promisc", "on").expect("a knob");
    let (frames, mut batch) = (frames(), Batch::new());
    while !instance.over.load(Ordering::SeqCst) {
        server.turn(&mut |request| {
            answer(&mut shard, request, || Meta { name: "one".to_owned(), ..Meta::default() })
        });
        let fed = instance.fed.load(Ordering::SeqCst);
        let n = (instance.wanted.load(Ordering::SeqCst) - fed).min(64);
        for i in fed..fed + n {
            let frame = &frames[i as usize % frames.len()];
            let mut pkt = shard.net.pool.alloc().expect("memory");
            pkt.put(frame.len()).copy_from_slice(frame);
            batch.push(pkt);
        }
        path::receive(&mut shard, &mut batch);
        instance.tapped.store(shard.net.taps.sees(Stage::Link), Ordering::SeqCst);
        let captured = shard.net.counts.get(Counter::TapPackets);
        instance.captured.store(captured, Ordering::SeqCst);
        instance.fed.store(fed + n, Ordering::SeqCst);
        if n == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(shard.net.counts.unaccounted(), []);
}

/// Runs an instance called `one` beside `test`.
fn beside(test: impl FnOnce(&Runtime, &Instance)) {
    let (runtime, instance) = (Runtime::new(), Instance::default());
    struct End<'a>(&'a Instance);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.over.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| run_instance(&runtime, &instance));
        let _end = End(&instance);
        let socket = runtime.0.join("linerate/one.sock");
        instance.wait_for("the instance listens", |_| socket.exists());
        test(&runtime, &instance);
    });
}

/// How many packets a file holds, read to its end.
fn count(file: &str) -> u64 {
    let mut reader = Reader::open(file.as_ref()).expect("a capture");
    let mut n = 0;
    while reader.next_frame().expect("whole blocks").is_some() {
        n += 1;
    }
    n
}

/// How many packets of a file tshark's display filter lets through; `None` without tshark.
fn tsharks(file: &str, filter: &str) -> Option<u64> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r", file, "-T", "fields", "-e", "frame.number"]);
    if !filter.is_empty() {
        tshark.args(["-Y", filter]);
    }
    let out = tshark.output().ok()?;
    assert!(out.status.success(), "{}", text(&out.stderr));
    Some(text(&out.stdout).lines().count() as u64)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_asked_for_wrongly_is_said_clearly() {
    let runtime = Runtime::new();
    let cases: [(&[&str], &str); 6] = [
        (&["--stage", "foo"], "no stage is called \"foo\": stages are Ring, Poll, Xdp"),
        (&["--stage", "Irq"], "no packet passes Irq"),
        (&["--stage", "Ip", "--direction", "out"], "that way are Send, IpOut"),
        (&["--filter", "tcp prot 80"], "\"prot\" at column 5"),
        (&["--filter", "tcp and"], "ends too early, at column 8"),
        (&["--name", "nobody"], "no instance is called \"nobody\""),
    ];
    for (args, want) in cases {
        let out = runtime.output(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
        assert!(text(&out.stderr).contains(want), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn a_capture_ends_with_its_client_and_with_its_instance() {
    beside(|runtime, instance| {
        let file = runtime.file("whole.pcapng");
        // By count.
        let mut few = runtime.begin(&["--stage", "Link", "-c", "5", "-w", &file]);
        instance.feed(100);
        let (said, code) = few.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("5 packets captured"), "{said}");
        assert_eq!(count(&file), 5);
        // By a signal: everything that was captured before is in the file.
        let mut all = runtime.begin(&["--stage", "Link", "-w", &file]);
        instance.feed(777);
        let pid = nix::unistd::Pid::from_raw(all.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        let (said, code) = all.end();
        assert_eq!((code, count(&file)), (Some(0), 777), "{said}");
        assert!(said.contains("777 packets captured, 0 lost"), "{said}");
        // By SIGKILL: the tap goes.
        let mut killed = runtime.begin(&["--stage", "Link", "-w", &file]);
        instance.feed(64);
        assert!(instance.tapped.load(Ordering::SeqCst));
        killed.child.kill().expect("it runs");
        let gone = |i: &Instance| {
            i.feed(1);
            !i.tapped.load(Ordering::SeqCst)
        };
        instance.wait_for("a tap stays behind", gone);
        // By the instance's end.
        let mut last = runtime.begin(&["--stage", "Link", "-w", &file]);
        instance.feed(1000);
        instance.over.store(true, Ordering::SeqCst);
        let (said, code) = last.end();
        assert_eq!((code, count(&file)), (Some(0), 1000), "{said}");
        assert!(said.contains("the instance has ended"), "{said}");
        match tsharks(&file, "") {
            Some(n) => assert_eq!(n, 1000),
            None => {
                let name = "a_capture_ends_with_its_client_and_with_its_instance";
                skip(name, "tshark is not installed");
            }
        }
    });
}

#[test]
fn two_captures_at_once_have_each_their_own() {
    beside(|runtime, instance| {
        let files = ["link.pcapng", "drops.pcapng"].map(|name| runtime.file(name));
        let filter = ["--filter", "udp dst port 53"];
        let mut link =
            runtime.begin(&[&["--stage", "Link", "-w", &files[0]], &filter[..]].concat());
        // Nobody here has these addresses: Route drops them all.
        let drops = ["--stage", "all", "--at", "drop", "-w", &files[1]];
        let mut drops = runtime.begin(&drops);
        instance.feed(frames().len() as u64);
        instance.over.store(true, Ordering::SeqCst);
        let said = [link.end(), drops.end()];
        assert!(said.iter().all(|(_, code)| *code == Some(0)), "{said:?}");
        let queries = |frame: &&Vec<u8>| frame[36..38] == [0, 53];
        assert_eq!(count(&files[0]), frames().iter().filter(queries).count() as u64);
        assert_eq!(count(&files[1]), frames().len() as u64);
        let Some(n) = tsharks(&files[1], "frame.comment contains \"IP_INADDRERRORS\"") else {
            return skip("two_captures_at_once_have_each_their_own", "tshark is not installed");
        };
        assert_eq!(n, frames().len() as u64, "each has its reason");
        assert_eq!(tsharks(&files[1], "frame.interface_name == \"eth0:Route:drop\""), Some(n));
    });
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_instance() {
    beside(|runtime, instance| {
        let out = runtime.output(&["-w", "/dev/full"]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let said = text(&out.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("/dev/full"), "{said}");
        let out = runtime.output(&["-w", "/no/such/directory/file"]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(text(&out.stderr).contains("name a file you may write"), "{out:?}");
        // A limit on the size of files: what is there is whole.
        let file = runtime.file("small.pcapng");
        let script = format!(
            "trap '' XFSZ; ulimit -f 16; exec {} capture --stage Link -w {file}",
            env!("CARGO_BIN_EXE_linerate")
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("XDG_RUNTIME_DIR", &runtime.0).stderr(Stdio::piped());
        let mut child = shell.spawn().expect("a shell");
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("its word");
        assert!(line.contains("listening on one"), "{line}");
        instance.feed(2000);
        let mut small = Running { child, errors };
        let (said, code) = small.end();
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(said.matches("the instance goes on").count(), 1, "{said}");
        // The shell counts blocks of 512 or 1024 bytes.
        assert!(std::fs::metadata(&file).expect("a file").len() <= 16 * 1024);
        count(&file);
        // The instance serves others.
        let mut next = runtime.begin(&["--stage", "Link", "-c", "3"]);
        instance.feed(10);
        assert_eq!(next.end().1, Some(0));
    });
}

/// What a filter lets through of a file is what tshark's filter with the same meaning does.
#[test]
fn filters_decide_as_tsharks_do() {
    let pairs = [
        ("ip", "ip"),
        ("arp", "arp"),
        ("udp", "udp"),
        ("not udp", "not udp"),
        ("tcp", "tcp"),
        ("udp port 53", "udp.port == 53"),
        ("udp dst port 53", "udp.dstport == 53"),
        ("tcp port 80 or udp port 53", "tcp.port == 80 or udp.port == 53"),
        ("tcp[tcpflags] & tcp-syn != 0", "tcp.flags.syn == 1"),
        ("tcp[tcpflags] == tcp-syn", "tcp.flags == 2"),
        ("net 10.0.0.0/8", "ip.addr == 10.0.0.0/8 or arp.src.proto_ipv4 == 10.0.0.0/8"),
        ("greater 100", "frame.len >= 100"),
        ("less 60", "frame.len <= 60"),
        ("len > 80 and udp", "frame.len > 80 and udp"),
        ("ip[8] < 64", "ip.ttl < 64"),
        ("ether broadcast", "eth.dst == ff:ff:ff:ff:ff:ff"),
    ];
    let files = ["gopacket/pcap__test_dns.pcap", "suricata-verify/tcp-empty-sack__tcp-opt.pcap"];
    let runtime = Runtime::new();
    let out = runtime.file("filtered.pcapng");
    let mut some = 0;
    for file in files {
        let file = captures().join(file).display().to_string();
        for (ours, theirs) in pairs {
            let Some(want) = tsharks(&file, theirs) else {
                return skip("filters_decide_as_tsharks_do", "tshark is not installed");
            };
            let did = runtime.output(&["-r", &file, "-f", ours, "-w", &out]);
            assert!(did.status.success(), "{}", text(&did.stderr));
            assert_eq!(count(&out), want, "{file}: {ours}");
            some += u32::from(want > 0);
        }
    }
    assert!(some > 9, "only {some} filters let anything through");
}

#[test]
fn packets_are_printed_one_a_line() {
    beside(|runtime, instance| {
        let mut child = runtime.capture(&["--stage", "Route", "-c", "2"]).spawn().expect("starts");
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("its word");
        instance.feed(10);
        let out = child.wait_with_output().expect("it ends");
        let lines = text(&out.stdout);
        assert_eq!(lines.lines().count(), 2, "{lines}");
        for line in lines.lines() {
            assert!(line.contains(" eth0   In  Route     IP "), "{line}");
            assert!(line.contains(":53: UDP, length "), "{line}");
            assert!(line.ends_with("[dropped: IP_INADDRERRORS]"), "{line}");
        }
    });
}

/// A command in a mount namespace of its own, where a directory can be a small disk; `None` where there is
/// none to be had.
fn with_small_disk(runtime: &Runtime, script: &str) -> Option<Command> {
    let disk = runtime.file("disk");
    std::fs::create_dir_all(&disk).expect("a directory");
    let mount = format!("mount -t tmpfs -o size=128k none {disk}");
    let words = ["-Urm", "sh", "-c"];
    let possible = Command::new("unshare").args(words).arg(&mount).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|s| s.success()) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(words).arg(format!("{mount} && {script}")).env("XDG_RUNTIME_DIR", &runtime.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// The disk is full: one sentence names the file and why, what is written is whole, and the instance goes on
/// and loses nothing.
#[test]
fn a_small_disk_ends_the_capture_and_leaves_what_fits() {
    const TEST: &str = "a_small_disk_ends_the_capture_and_leaves_what_fits";
    beside(|runtime, instance| {
        let (file, kept) = (runtime.file("disk/full.pcapng"), runtime.file("kept.pcapng"));
        let linerate = env!("CARGO_BIN_EXE_linerate");
        let script = format!(
            "{linerate} capture --stage Link -w {file}; code=$?; cat {file} > {kept}; exit $code"
        );
        let Some(mut command) = with_small_disk(runtime, &script) else {
            return skip(TEST, "no mount namespace with a disk of its own (unshare -Urm)");
        };
        let mut child = command.spawn().expect("unshare starts");
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("its word");
        assert!(line.contains("listening on one"), "{line}");
        instance.feed(4000);
        let mut full = Running { child, errors };
        let (said, code) = full.end();
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in [file.as_str(), "the instance goes on", "No space left on device"] {
            assert!(said.contains(part), "{said}");
        }
        let n = count(&kept);
        assert!(n > 100 && std::fs::metadata(&kept).expect("a file").len() <= 128 << 10, "{n}");
        match tsharks(&kept, "") {
            Some(theirs) => assert_eq!(theirs, n),
            None => skip(TEST, "tshark is not installed"),
        }
        // The path goes on: what is fed is taken, and another capture has all of it.
        let file = runtime.file("next.pcapng");
        let mut next = runtime.begin(&["--stage", "Link", "-c", "500", "-w", &file]);
        instance.feed(500);
        assert_eq!((next.end().1, count(&file)), (Some(0), 500));
    });
}

/// Whoever reads a capture goes away: one sentence, and the instance goes on.
#[test]
fn a_closed_pipe_ends_the_capture() {
    beside(|runtime, instance| {
        for args in [&["--stage", "Link", "-w", "-"][..], &["--stage", "Link"]] {
            let mut piped = runtime.begin(args);
            drop(piped.child.stdout.take());
            instance.feed(4000);
            let (said, code) = piped.end();
            assert!(said.lines().count() <= 1 && !said.contains("panicked"), "{said}");
            if args.len() == 4 {
                assert_eq!(code, Some(1), "{said}");
                assert!(said.contains("writing to - ends here, the instance goes on"), "{said}");
                assert!(said.contains("Broken pipe"), "{said}");
            }
            instance.wait_for("a tap stays behind", |i| {
                i.feed(1);
                !i.tapped.load(Ordering::SeqCst)
            });
        }
    });
}

/// A client that does not read loses packets, which are counted and told; the instance keeps a bounded
/// number for it, goes on, and serves others.
#[test]
fn a_client_that_stops_loses_packets_and_is_told() {
    use nix::sys::signal::{Signal, kill};
    beside(|runtime, instance| {
        let file = runtime.file("stopped.pcapng");
        let mut stopped = runtime.begin(&["--stage", "Link", "-w", &file]);
        let pid = nix::unistd::Pid::from_raw(stopped.child.id() as i32);
        kill(pid, Signal::SIGSTOP).expect("it runs");
        // Twice what the instance keeps for a client at the most: its buffer, and the one on its way.
        const FED: u64 = 300_000;
        instance.feed(FED);
        // What waits for the client has a bound, and so has what the socket takes.
        let waits = instance.captured.load(Ordering::SeqCst);
        let record = linerate_core::tap::HEAD as u64 + 60;
        assert!(waits * record < linerate_core::tap::PORT_BYTES as u64 + (8 << 20), "{waits}");
        assert!(waits < FED, "nothing was lost: {waits}");
        let mut next = runtime.begin(&["--stage", "Link", "-c", "10"]);
        instance.feed(10);
        assert_eq!(next.end().1, Some(0), "others are served");
        kill(pid, Signal::SIGCONT).expect("it is there");
        kill(pid, Signal::SIGINT).expect("it is there");
        let (said, code) = stopped.end();
        assert_eq!(code, Some(0), "{said}");
        let numbers: Vec<u64> =
            said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [kept, lost] = numbers[..] else { panic!("{said}") };
        assert!(said.contains("lost to it") && lost > 0, "{said}");
        assert_eq!((kept + lost, count(&file)), (FED + 10, kept), "{said}");
    });
}

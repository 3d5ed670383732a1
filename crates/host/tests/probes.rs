//! Goal: probes count what was sent, see where a packet waits, and leave nothing behind.
//! Method: a namespace with a veth pair, or its loopback, and all packets followed in it alone.
//!
//! Where programs may not be loaded, or `ip` is not there, tests say SKIP and why.

#[path = "../../dev/tests/again/mod.rs"]
mod again;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use again::{in_netns, powerless, role, root_of_host, skip};
use linerate_bpf::sys::next_program;
use linerate_host::bpf::hist::Hist;
use linerate_host::bpf::{Config, NAME, Probes};
use linerate_host::collect::{Collector, Tier};
use linerate_host::snapshot::Snapshot;
use linerate_host::source::Live;
use linerate_host::{Window, netns};
use rustix::event::{PollFd, PollFlags};

/// What waits for something that surely comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command that has to succeed.
fn run(words: &str) {
    let mut words = words.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success());
}

/// Whether this is a namespace in which we may do as we like, and probes may be loaded.
fn may(test: &str) -> bool {
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        skip(test, "ip is not installed");
        return false;
    }
    if !root_of_host(test) {
        return false;
    }
    if role().is_empty()
        && let Err(why) = Probes::begin(Config::default())
    {
        skip(test, &format!("probes can not be loaded: {why}"));
        return false;
    }
    in_netns(test)
}

/// Probes that follow each packet of this namespace.
struct Here {
    live: Live,
    collector: Collector,
    before: Snapshot,
}

impl Here {
    fn new() -> Here {
        let mut live = Live::new().sampling(1);
        let mut collector = Collector::new(Tier::Basic).with_probes();
        let before = collector.collect(&mut live);
        let all = before.measured.as_ref().unwrap_or_else(|| panic!("{:?}", before.notes));
        assert_eq!(all.netns, Some(netns::current().unwrap()), "all other namespaces are left out");
        Here { live, collector, before }
    }

    /// What was measured since the beginning.
    fn now(&mut self, name: &str) -> Hist {
        let now = self.collector.collect(&mut self.live);
        Window { from: Some(&self.before), to: &now }.measured(name, None).unwrap()
    }

    /// Waits until there are at least so many: softirqs may run a moment later.
    fn until(&mut self, name: &str, count: u64) -> Hist {
        let begin = Instant::now();
        loop {
            let hist = self.now(name);
            if hist.count() >= count {
                return hist;
            }
            assert!(begin.elapsed() < PATIENCE, "{name}: {hist:?}, not {count}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Two ends of a veth in this namespace, up; frames that one sends arrive at the other.
fn veth() {
    run("ip link add p0 type veth peer name p1");
    run("ip addr add 10.9.0.1/24 dev p0");
    run("ip link set p0 up");
    run("ip link set p1 up");
    // Nobody is asked for the address of who is not there.
    run("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev p0 nud permanent");
}

#[test]
fn what_was_sent_is_counted() {
    const TEST: &str = "what_was_sent_is_counted";
    const SENT: u64 = 500;
    if !may(TEST) {
        return;
    }
    veth();
    let begin = Instant::now();
    let mut here = Here::new();
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    for _ in 0..SENT {
        socket.send_to(b"to nobody", "10.9.0.2:9").unwrap();
    }
    let driver = here.until("tx/driver", SENT);
    let qdisc = here.now("tx/qdisc");
    // The other end is not their destination: each is dropped there, after its way up has begun.
    let dropped = here.until("rx/dropped", SENT);
    let all = begin.elapsed().as_nanos() as u64;
    for (name, hist) in [("driver", &driver), ("qdisc", &qdisc), ("dropped", &dropped)] {
        // Discovery of IPv6 neighbours may have sent some more.
        assert!((SENT..SENT + 100).contains(&hist.count()), "{name}: {hist:?}");
        assert!(hist.sum > 0 && hist.max < all, "{name}: {hist:?} in {all} ns");
    }
    // A veth without NAPI goes by the backlog, one packet for each unit of work.
    let work = here.until("work/backlog", 1);
    assert!(work.sum >= SENT, "{work:?}");
    let time = here.now("softirq/NET_RX");
    assert!(time.count() > 0 && time.max < all, "{time:?}");
    assert!(here.now("delay/NET_RX").count() > 0);
}

#[test]
fn a_late_reader_of_datagrams_shows_in_its_socket() {
    const TEST: &str = "a_late_reader_of_datagrams_shows_in_its_socket";
    const SENT: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(100);
    if !may(TEST) {
        return;
    }
    run("ip link set lo up");
    let begin = Instant::now();
    let mut here = Here::new();
    let reader = UdpSocket::bind("127.0.0.1:0").unwrap();
    let writer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..SENT {
        writer.send_to(b"wait", reader.local_addr().unwrap()).unwrap();
    }
    here.until("rx/udp-queued", SENT.into());
    for _ in 0..SENT {
        std::thread::sleep(PAUSE);
        reader.recv(&mut [0; 16]).unwrap();
    }
    let waited = here.until("rx/udp-waited", SENT.into());
    let queued = here.now("rx/udp-queued");
    let all = begin.elapsed();
    assert_eq!((waited.count(), queued.count()), (SENT.into(), SENT.into()));
    // The first waits one pause, the second two, ...
    let least = PAUSE * (1..=SENT).sum();
    assert!(u128::from(waited.sum) >= least.as_nanos(), "{waited:?}");
    assert!(u128::from(waited.max) >= (PAUSE * SENT).as_nanos(), "{waited:?}");
    assert!(u128::from(waited.max) < all.as_nanos(), "{waited:?}");
    let read = here.now("rx/udp-read");
    assert_eq!(read.count(), u64::from(SENT));
    assert!(read.sum >= waited.sum && queued.max < all.as_nanos() as u64);
}

#[test]
fn a_late_reader_of_a_stream_shows_in_its_socket() {
    const TEST: &str = "a_late_reader_of_a_stream_shows_in_its_socket";
    const PAUSE: Duration = Duration::from_millis(100);
    if !may(TEST) {
        return;
    }
    run("ip link set lo up");
    let mut here = Here::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut reader = listener.accept().unwrap().0;
    for turn in 1..=4 {
        writer.write_all(b"a segment").unwrap();
        let mut there = [PollFd::new(&reader, PollFlags::IN)];
        rustix::event::poll(&mut there, None).unwrap();
        std::thread::sleep(PAUSE);
        let mut bytes = [0; 9];
        reader.read_exact(&mut bytes).unwrap();
        let waited = here.until("rx/tcp-waited", turn);
        assert_eq!(waited.count(), turn);
        assert!(u128::from(waited.sum) >= (PAUSE * turn as u32).as_nanos(), "{waited:?}");
    }
    assert!(here.now("rx/tcp-queued").count() >= 4);
}

/// Those of these programs that the host still has.
fn left(ids: &[u32]) -> Vec<u32> {
    let is_there = |id: &u32| next_program(id - 1).unwrap().is_some_and(|p| p.id == *id);
    ids.iter().copied().filter(is_there).collect()
}

#[test]
fn nothing_is_left_of_a_process_that_was_killed() {
    const TEST: &str = "nothing_is_left_of_a_process_that_was_killed";
    if role() == "begun" {
        let probes = Probes::begin(Config::default()).unwrap();
        let ids = probes.programs().unwrap().into_iter().map(|p| p.id.to_string());
        println!("programs {}", ids.collect::<Vec<_>>().join(" "));
        std::io::stdout().flush().unwrap();
        // Until it is killed, or its parent is.
        _ = std::io::stdin().read(&mut [0]);
        return;
    }
    if !may(TEST) {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([TEST, "--exact", "--nocapture", "--test-threads=1"]);
    command.env("LINERATE_TEST_ROLE", "begun").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut out = child.stdout.take().unwrap();
    while !(said.contains("programs ") && said.ends_with('\n')) {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {said}");
        said.push(byte[0].into());
    }
    let ids: Vec<u32> = said
        .split_once("programs ")
        .map(|(_, ids)| ids.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .unwrap();
    assert!(ids.len() > 5, "{said}");
    assert_eq!(left(&ids), ids);
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel frees programs when nobody can be running them any more.
    let begin = Instant::now();
    while !left(&ids).is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?} of {ids:?}", left(&ids));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_the_right_it_is_a_note() {
    const TEST: &str = "without_the_right_it_is_a_note";
    powerless(TEST, || {
        let s = Collector::new(Tier::Basic).with_probes().collect(&mut Live::new());
        assert!(s.measured.is_none());
        let note = s.notes.iter().find(|n| n.what == NAME).expect("a note");
        assert!(note.why.contains("root"), "{note:?}");
    });
}

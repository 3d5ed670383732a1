//! Knobs of the kernel's path that no fault is about: moved, and what they move.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linerate_host::Snapshot;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::doctor::{Case, Cure, look, prove, snapshot};
use super::rig::{FAR, HostWide, Ns, Rig, rig};
use super::traffic::{connect, datagrams, flood, listener, sink, udp_socket, write_for};

/// How long something may take that is sure to happen, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Does it until it has happened.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < end, "{what} has not happened in {PATIENCE:?}");
    }
}

fn mib(s: &Snapshot, section: &str, name: &str) -> u64 {
    s.mib[section].get(name).unwrap_or_else(|| panic!("this kernel has no {section}: {name}"))
}

/// By how much a counter of the MIB grows meanwhile.
fn grows(ns: &Ns, section: &str, name: &str, meanwhile: impl FnOnce()) -> u64 {
    let before = mib(&snapshot(ns), section, name);
    meanwhile();
    mib(&snapshot(ns), section, name) - before
}

/// With GRO a veth has NAPI instances, which take what the other end has not merged itself.
fn instances(rig: &Rig) {
    rig.near.sh("ethtool -K va tso off gso off");
    rig.far.sh("ethtool -K vb gro on");
}

/// A reader that waits in `recv` polls the device meanwhile, if it may.
#[test]
fn busy_polling_counts_what_it_finds() {
    let Some(rig) = rig("busy_polling_counts_what_it_finds", &[]) else { return };
    instances(&rig);
    let read = |port: u16| {
        let socket = udp_socket(&rig.far, port, 1 << 20);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    datagrams(&rig.near, (FAR, port), 1, 100);
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            (0..200).for_each(|_| _ = socket.recv(&mut [0; 256]).unwrap());
        });
    };
    let found = |port| grows(&rig.far, "TcpExt", "BusyPollRxPackets", || read(port));
    assert_eq!(found(9700), 0, "nobody polls unless asked");
    let _long = HostWide::set("net.core.busy_read", "5000");
    until("busy polling", || found(9701) > 0);
}

/// Received packets of a device for each that IP gets.
fn merged(rig: &Rig, meanwhile: impl FnOnce()) -> f64 {
    let read = || {
        let s = snapshot(&rig.far);
        (s.devs["vb"].stats.get("rx_packets").unwrap(), mib(&s, "Ip", "InReceives"))
    };
    let (packets, received) = read();
    meanwhile();
    let (packets_now, received_now) = read();
    (packets_now - packets) as f64 / (received_now - received).max(1) as f64
}

/// Packets that come one by one are merged only if something waits for the next.
#[test]
fn gro_waits_for_more_if_it_may() {
    let Some(rig) = rig("gro_waits_for_more_if_it_may", &[]) else { return };
    instances(&rig);
    let socket = udp_socket(&rig.far, 9702, 4 << 20);
    setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let factor = |timeout: &str| {
        rig.far.sysfs("class/net/vb/gro_flush_timeout", timeout);
        let factor = merged(&rig, || datagrams(&rig.near, (FAR, 9702), 400, 100));
        while socket.recv(&mut [0; 1 << 16]).is_ok() {}
        factor
    };
    until("merging over pauses", || {
        let (at_once, late) = (factor("0"), factor("20000000"));
        late > 2.0 && late > 1.5 * at_once
    });
    rig.far.sysfs("class/net/vb/gro_flush_timeout", "0");
}

/// The size of what is merged ends where it is told to.
#[test]
fn merged_packets_are_no_longer_than_they_may_be() {
    let Some(rig) = rig("merged_packets_are_no_longer_than_they_may_be", &[]) else { return };
    instances(&rig);
    let _sink = sink(&rig.far, 9703);
    let mut client = connect(&rig.near, (FAR, 9703));
    let mut factor = || {
        merged(&rig, || {
            write_for(&mut client, Duration::from_millis(300));
        })
    };
    until("merging", || factor() > 4.0);
    // Two segments of 1448 bytes, and no third.
    rig.far.ip("link set vb gro_max_size 4000");
    assert_eq!(snapshot(&rig.far).devs["vb"].settings.get("gro_max_size"), Some(4000));
    // What is in flight was merged before.
    factor();
    let short = factor();
    assert!(short < 3.0, "{short} packets in one");
}

/// The instance of a device is polled by a thread of its own, whose time is counted.
#[test]
fn a_threaded_napi_is_read_with_its_thread() {
    let Some(rig) = rig("a_threaded_napi_is_read_with_its_thread", &[]) else { return };
    rig.near.sh("ethtool -K va tx-udp-segmentation off");
    instances(&rig);
    let _socket = udp_socket(&rig.far, 9704, 1 << 20);
    assert!(snapshot(&rig.far).devs["vb"].napis.iter().all(|n| n.pid.is_none()));
    rig.far.sysfs("class/net/vb/threaded", "1");
    let ticks = |s: &Snapshot| -> u64 {
        let threads = s.kthreads.iter().filter(|(name, _)| name.starts_with("napi/vb-"));
        threads.map(|(_, c)| c.get("utime").unwrap_or(0) + c.get("stime").unwrap_or(0)).sum()
    };
    let s = snapshot(&rig.far);
    let napis = &s.devs["vb"].napis;
    assert!(!napis.is_empty() && napis.iter().all(|n| n.pid.is_some()), "{napis:?}");
    let before = ticks(&s);
    until("work of the thread", || {
        flood(&rig.near, (FAR, 9704), Duration::from_millis(200));
        ticks(&snapshot(&rig.far)) > before
    });
    rig.far.sysfs("class/net/vb/threaded", "0");
}

/// A tap gets what is received and what is sent, and is seen to be there.
#[test]
fn a_capture_of_both_directions_is_seen() {
    let Some(rig) = rig("a_capture_of_both_directions_is_seen", &[]) else { return };
    let all = |s: &Snapshot| s.sockets.handlers.iter().filter(|h| h.protocol == 3).count();
    let before = snapshot(&rig.far);
    assert_eq!(all(&before), 0, "{:?}", before.sockets.handlers);
    let ours = |h: &&linerate_host::snapshot::Handler| h.function == "ip_rcv";
    assert!(before.sockets.handlers.iter().any(|h| ours(&h)), "{:?}", before.sockets.handlers);
    let tap = rig.far.run(|| {
        let (all, raw) = (SockProtocol::EthAll, SockType::Raw);
        socket(AddressFamily::Packet, raw, SockFlag::empty(), Some(all)).unwrap()
    });
    setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).unwrap();
    let seen = snapshot(&rig.far);
    assert_eq!(all(&seen), 1, "{:?}", seen.sockets.handlers);
    let owners: Vec<_> =
        seen.sockets.taps.iter().filter_map(|t| t.owner.process.as_ref()).collect();
    assert!(owners.iter().any(|(pid, _)| *pid == std::process::id()), "{:?}", seen.sockets.taps);
    let kinds = RefCell::new(Vec::new());
    until("a packet of each direction", || {
        // An echo request comes in and its answer goes out.
        rig.near.sh("ping -c 1 -W 60 -q 10.77.0.2");
        for _ in 0..2 {
            let got = recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut [0; 2048]);
            kinds.borrow_mut().extend(got.ok().and_then(|(_, from)| from).map(|f| f.pkttype()));
        }
        // PACKET_HOST, PACKET_OUTGOING.
        [0, 4].iter().all(|kind| kinds.borrow().contains(kind))
    });
    drop(tap);
    assert_eq!(all(&snapshot(&rig.far)), 0);
}

/// A sender that does not wait for room in a small send buffer.
#[test]
fn a_send_buffer_that_is_too_small_is_named() {
    let Some(rig) = rig("a_send_buffer_that_is_too_small_is_named", &[]) else { return };
    rig.near.sh("tc qdisc add dev va root tbf rate 20mbit burst 16k limit 10m");
    let _socket = udp_socket(&rig.far, 9705, 4 << 20);
    // Who does not ask gets this much.
    let small = Cell::new(Some(HostWide::set("net.core.wmem_default", "4608")));
    let case = Case { ns: &rig.near, rule: "R47", also: &[] };
    let found = prove(
        &case,
        || {
            rig.near.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                for _ in 0..50 {
                    let _ = socket.send_to(&[7; 1400], (FAR, 9705));
                }
            });
        },
        Cure::By(&mut || drop(small.take())),
    );
    assert!(found.cause.contains("EAGAIN"), "{found:#?}");
}

/// Sends without a copy that nobody acknowledges use up what a socket may hold for them.
#[test]
fn sends_without_a_copy_that_fill_their_memory_are_named() {
    const TEST: &str = "sends_without_a_copy_that_fill_their_memory_are_named";
    let Some(rig) = rig(TEST, &["python3"]) else { return };
    // It is the namespace's since 6.7.
    let name = "net.core.optmem_max";
    let path = "/proc/sys/net/core/optmem_max";
    if !rig.near.run(|| std::path::Path::new(path).exists()) {
        super::rig::skip(TEST, "this kernel has the limit for the whole host");
        return;
    }
    rig.near.sysctl(name, "8192");
    let _listener = listener(&rig.far, 9706, 8);
    // SO_ZEROCOPY is 60, SO_SNDBUFFORCE 32, MSG_ZEROCOPY 0x4000000, ENOBUFS 105.
    let program = "import socket, sys
s = socket.create_connection(('10.77.0.2', 9706))
s.setsockopt(socket.SOL_SOCKET, 60, 1)
s.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)
s.setblocking(False)
full = False
try:
    for _ in range(2000): s.send(bytes(40000), 0x4000000)
except OSError as e:
    full = e.errno == 105
print('full' if full else 'not full', flush=True)
sys.stdin.read()
";
    let run = || {
        let mut python = Command::new("ip");
        python.args(["netns", "exec", &rig.near.name, "python3", "-c", program]);
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        (child, said)
    };
    let end = |mut child: Child| {
        drop(child.stdin.take());
        child.wait().unwrap();
    };
    let (child, said) = run();
    assert_eq!(said, "full\n", "sends fail with ENOBUFS");
    let found = look(&rig.near, || ());
    let names: Vec<_> = found.findings.iter().map(|f| f.id).collect();
    assert!(names.contains(&"R79"), "{}", found.text());
    let finding = found.findings.iter().find(|f| f.id == "R79").unwrap();
    assert!(finding.cause.contains("python3"), "{finding:#?}");
    assert_eq!(finding.advice[0].command, "sysctl -w net.core.optmem_max=65536");
    end(child);
    rig.near.sysctl(name, "16777216");
    let (child, said) = run();
    assert_eq!(said, "not full\n");
    assert!(!look(&rig.near, || ()).has("R79"));
    end(child);
}

//! What the way to the peer does: translation, a smaller MTU in the middle, a pause.

use std::cell::Cell;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use linerate_host::snapshot::TcpSocket;
use nix::sys::socket::{setsockopt, sockopt};

use super::doctor::{Case, Cure, look, prove, snapshot};
use super::rig::{FAR, HostWide, Ns, rig};
use super::traffic::{connect, sink, udp_socket, write_for};

/// How long something may take that is sure to happen, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(180);

/// Does it until it has happened.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < end, "{what} has not happened in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Source NAT with fewer ports than there are flows.
#[test]
fn ports_for_nat_that_run_out_are_named() {
    let Some(rig) = rig("ports_for_nat_that_run_out_are_named", &["nft"]) else { return };
    let _socket = udp_socket(&rig.far, 9800, 4 << 20);
    let nat = |ports: &str| {
        rig.near.nft(&format!(
            "add table ip n; delete table ip n; add table ip n; \
             add chain ip n post {{ type nat hook postrouting priority 100; }}; \
             add rule ip n post udp dport 9800 snat to 10.77.0.1:{ports}"
        ));
    };
    nat("40000-40009");
    let port = Cell::new(10_000);
    let case = Case { ns: &rig.near, rule: "R35", also: &[] };
    prove(
        &case,
        || {
            let first = port.replace(port.get() + 60);
            rig.near.run(|| {
                for port in first..first + 60 {
                    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                    let _ = socket.send_to(b"flow", (FAR, 9800));
                }
            });
        },
        Cure::By(&mut || nat("20000-60000")),
    );
}

/// What the kernel says of the connection to that port.
fn to_port(ns: &Ns, port: u16) -> Option<TcpSocket> {
    snapshot(ns).sockets.tcp.into_iter().find(|s| s.remote.port() == port)
}

fn number(socket: Option<&TcpSocket>, name: &str) -> u64 {
    socket.and_then(|s| s.info.get(name)).unwrap_or(0)
}

/// A router that has a smaller MTU behind it and may not say so: small segments pass, full ones never.
#[test]
fn a_path_mtu_that_nobody_tells_is_named_and_probed_for() {
    const TEST: &str = "a_path_mtu_that_nobody_tells_is_named_and_probed_for";
    const THIRD: Ipv4Addr = Ipv4Addr::new(10, 76, 0, 2);
    let Some(rig) = rig(TEST, &["nft"]) else { return };
    let third = rig.third();
    rig.far.ip(&format!("link add vc type veth peer name vd netns {}", third.name));
    rig.far.ip("addr add 10.76.0.1/24 dev vc");
    rig.far.ip("link set vc mtu 1200 up");
    third.ip("addr add 10.76.0.2/24 dev vd");
    third.ip("link set vd up");
    third.ip("route add default via 10.76.0.1");
    rig.near.ip("route add 10.76.0.0/24 via 10.77.0.2");
    rig.far.sysctl("net.ipv4.ip_forward", "1");
    rig.far.nft(
        "add table ip f; add chain ip f out { type filter hook output priority 0; }; \
         add rule ip f out icmp type destination-unreachable drop",
    );
    // Segments are cut here, so that what the router sees is what it counts.
    rig.near.sh("ethtool -K va tso off gso off");
    let _sink = sink(&third, 9801);
    let mut client = connect(&rig.near, (THIRD, 9801));
    client.write_all(b"small").unwrap();
    write_for(&mut client, Duration::from_millis(100));
    until("backing off", || number(to_port(&rig.near, 9801).as_ref(), "backoff") >= 2);
    let found = look(&rig.near, || ());
    assert_eq!(found.findings.first().map(|f| f.id), Some("R39"), "{}", found.text());
    let first = &found.findings[0];
    assert_eq!(first.advice[0].command, "sysctl -w net.ipv4.tcp_mtu_probing=1", "{first:#?}");
    rig.near.sysctl("net.ipv4.tcp_mtu_probing", "1");
    until("a size that gets through", || {
        let socket = to_port(&rig.near, 9801);
        number(socket.as_ref(), "bytes_acked") > 3000
    });
    until("the end of it", || !look(&rig.near, || ()).has("R39"));
}

/// The window of a connection that rests falls, and with it what follows.
#[test]
fn a_window_that_falls_in_a_pause_is_named_and_kept() {
    let Some(rig) = rig("a_window_that_falls_in_a_pause_is_named_and_kept", &[]) else { return };
    let _sink = sink(&rig.far, 9802);
    let mut client = connect(&rig.near, (FAR, 9802));
    setsockopt(&client, sockopt::TcpCongestion, &"reno".into()).unwrap();
    let cwnd = || number(to_port(&rig.near, 9802).as_ref(), "snd_cwnd");
    let grow = |client: &mut TcpStream| {
        until("a large window", || {
            write_for(client, Duration::from_millis(100));
            cwnd() >= 120
        });
    };
    let pause = |client: &mut TcpStream| {
        std::thread::sleep(Duration::from_secs(1));
        write_for(client, Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(50));
    };
    // A segment that is late on a busy machine is one that was sent again, and then it was not the pause.
    let mut advice = String::new();
    until("a fall", || {
        grow(&mut client);
        let found = look(&rig.near, || pause(&mut client));
        let finding = found.findings.iter().find(|f| f.id == "R61");
        advice = finding.map(|f| f.advice[0].command.clone()).unwrap_or_default();
        finding.is_some()
    });
    assert_eq!(advice, "sysctl -w net.ipv4.tcp_slow_start_after_idle=0");
    rig.near.sysctl("net.ipv4.tcp_slow_start_after_idle", "0");
    grow(&mut client);
    let left = look(&rig.near, || pause(&mut client));
    assert!(!left.has("R61"), "{}", left.text());
}

/// A program gets no larger send buffer than it may, and twice that with what it costs.
#[test]
fn a_send_buffer_ends_at_what_is_allowed() {
    let Some(rig) = rig("a_send_buffer_ends_at_what_is_allowed", &[]) else { return };
    let _sink = sink(&rig.far, 9803);
    let asked = || {
        let client = connect(&rig.near, (FAR, 9803));
        setsockopt(&client, sockopt::SndBuf, &(1 << 20)).unwrap();
        let local = client.local_addr().unwrap();
        let all = snapshot(&rig.near).sockets.tcp;
        let of = all.iter().find(|s| s.local == local);
        (number(of, "sndbuf"), client)
    };
    let small = HostWide::set("net.core.wmem_max", "16384");
    assert_eq!(asked().0, 2 * 16_384);
    drop(small);
    let _large = HostWide::set("net.core.wmem_max", "2097152");
    assert_eq!(asked().0, 2 << 20);
}

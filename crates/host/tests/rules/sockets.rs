//! UDP, listeners, TCP.

use linerate_host::finding::Severity;
use linerate_host::snapshot::{PortUse, TcpSocket};
use linerate_host::window::Goal;

use crate::build::{
    Run, address, advises, because, connection, counters, listener, owner, udp, virtual_dev,
};

fn lossy_udp(rmem: u32, rcvbuf: u32) -> Run {
    Run::healthy()
        .mib("Udp", "RcvbufErrors", 194)
        .mib("Udp", "InErrors", 194)
        .each(move |s, n| s.sockets.udp.push(udp(rmem, rcvbuf, n as u32 * 194)))
}

#[test]
fn r43_a_program_that_does_not_read() {
    let found = lossy_udp(4400, 4608).only("R43");
    assert_eq!((found.subject.as_str(), found.severity), ("udp 0.0.0.0:5353", Severity::Critical));
    assert!((found.loss_per_s - 194.0 / 5.0).abs() < 0.01);
    because(&found, "server[800]");
    because(&found, "does not read");
    assert!(found.advice.iter().all(|a| a.change.is_none()));
    let names: Vec<&str> = found.evidence.iter().map(|e| e.name.as_str()).collect();
    assert!(names.contains(&"RcvbufErrors") && names.contains(&"drops"), "{names:?}");
}

#[test]
fn r43_bursts_and_sizes() {
    let clamped = lossy_udp(0, 425_984).only("R43");
    because(&clamped, "bursts");
    advises(&clamped, "sysctl -w net.core.rmem_max=851968");
    let default = lossy_udp(0, 212_992).only("R43");
    advises(&default, "sysctl -w net.core.rmem_default=851968");
    // The socket is closed, or in another namespace.
    let gone = Run::healthy().mib("Udp", "RcvbufErrors", 194);
    assert_eq!(gone.only("R43").subject, "");
    Run::healthy().mib("Udp6", "RcvbufErrors", 194).only("R43");
}

#[test]
fn r44_no_memory_for_udp() {
    let run = Run::healthy().mib("Udp", "MemErrors", 50);
    advises(&run.only("R44"), "sysctl -w net.ipv4.udp_mem='380000 507000 1522000'");
    let near = Run::healthy().each(|s, _| s.sockstat.get_mut("UDP").unwrap().set("mem", 700_000));
    assert_eq!(near.only("R44").severity, Severity::Warning);
}

#[test]
fn r45_nobody_listens() {
    let run = Run::healthy().mib("Udp", "NoPorts", 500);
    because(&run.only("R45"), "scan");
    let stopped = run.each(|s, n| {
        if n == 0 {
            s.sockets.udp.push(udp(0, 212_992, 0));
        }
    });
    because(&stopped.only("R45"), "Port 5353");
    Run::healthy().mib("Udp", "NoPorts", 10).silent();
}

#[test]
fn r46_r38b_wrong_checksums_of_udp() {
    let bad = || Run::healthy().mib("Udp", "InCsumErrors", 100).mib("Udp", "InErrors", 100);
    bad().only("R46");
    let tunnel = bad().add_dev(&virtual_dev("flannel.1", "vxlan"));
    assert_eq!(tunnel.only("R38b").subject, "flannel.1");
    Run::healthy().mib("Udp", "InCsumErrors", 1).silent();
}

#[test]
fn r47_lost_before_it_leaves() {
    let run = Run::healthy().mib("Udp", "SndbufErrors", 400);
    because(&run.only("R47"), "EAGAIN");
}

#[test]
fn r81_cut_by_rmem_max() {
    let run = Run::healthy().each(|s, _| s.sockets.udp.push(udp(300_000, 425_984, 0)));
    advises(&run.only("R81"), "sysctl -w net.core.rmem_max=851968");
    Run::healthy().each(|s, _| s.sockets.udp.push(udp(10, 425_984, 0))).silent();
}

fn refused(waiting: u32, backlog: u32) -> Run {
    Run::healthy()
        .mib("TcpExt", "ListenOverflows", 45)
        .mib("TcpExt", "ListenDrops", 45)
        .each(move |s, n| s.sockets.listeners[0] = listener(waiting, backlog, n as u32 * 45))
}

#[test]
fn r48_an_accept_queue_that_is_full() {
    let found = refused(5, 4).only("R48");
    assert_eq!(found.subject, "tcp 0.0.0.0:443");
    because(&found, "does not accept");
    because(&found, "asked for 4 itself");
    let host = refused(0, 128).sysctl("net.core.somaxconn", "128").only("R48");
    because(&host, "bursts");
    advises(&host, "sysctl -w net.core.somaxconn=4096");
    // Clients on this host feel it.
    let local = refused(5, 4).mib("TcpExt", "TCPSynRetrans", 300).mib("TcpExt", "TCPTimeouts", 300);
    local.only("R48");
}

#[test]
fn r49_refused_without_cookies() {
    let run =
        Run::healthy().mib("TcpExt", "ListenDrops", 193).sysctl("net.ipv4.tcp_syncookies", "0");
    advises(&run.only("R49"), "sysctl -w net.ipv4.tcp_syncookies=1");
    because(&Run::healthy().mib("TcpExt", "ListenDrops", 193).only("R49"), "no route");
}

#[test]
fn r50_cookies() {
    let flood = Run::healthy().mib("TcpExt", "TCPReqQFullDoCookies", 1350);
    because(&flood.only("R50"), "forged");
    let burst = flood.mib("TcpExt", "SyncookiesRecv", 1200);
    because(&burst.only("R50"), "many clients");
}

#[test]
fn r51_no_memory_for_tcp() {
    let run = Run::healthy().mib("TcpExt", "TCPMemoryPressures", 2);
    assert_eq!(run.only("R51").severity, Severity::Critical);
    let now = Run::healthy().each(|s, _| s.sockstat.get_mut("TCP").unwrap().set("mem", 260_000));
    advises(&now.only("R51"), "sysctl -w net.ipv4.tcp_mem='380000 506000 760000'");
}

#[test]
fn r52_a_reader_that_is_slow() {
    let here = Run::healthy().each(|s, _| {
        let info = [("rmem", 120_000), ("rcvbuf", 131_072)];
        s.sockets.tcp.push(TcpSocket { recv_q: 90_000, ..connection(&info) });
    });
    because(&here.only("R52"), "on this host does not read");
    let there = Run::healthy().each(|s, _| {
        let info = [("busy_time", 1_000_000), ("rwnd_limited", 957_000)];
        s.sockets.tcp.push(TcpSocket { send_q: 90_000, ..connection(&info) });
    });
    because(&there.only("R52"), "other end does not read");
}

#[test]
fn r53_segments_thrown_away() {
    let pruned = || {
        Run::healthy().mib("TcpExt", "RcvPruned", 3220).mib("TcpExt", "TCPOFODrop", 3220).mib(
            "TcpExt",
            "PruneCalled",
            3220,
        )
    };
    let found = pruned().only("R53");
    assert!((found.loss_per_s - 644.0).abs() < 0.01, "the same event, counted once");
    let with = |rcvbuf: u64| {
        pruned()
            .each(move |s, _| s.sockets.tcp.push(connection(&[("rcvbuf", rcvbuf), ("drops", 300)])))
    };
    because(&with(65_536).only("R53"), "SO_RCVBUF");
    advises(&with(6_291_456).only("R53"), "sysctl -w net.ipv4.tcp_rmem='4096 131072 12582912'");
    // Room was made; nothing is lost.
    Run::healthy().mib("TcpExt", "PruneCalled", 3220).silent();
}

#[test]
fn r54_as_fast_as_the_buffers() {
    let sender = |sndbuf: u64| {
        Run::healthy().each(move |s, _| {
            s.sockets.tcp.push(connection(&[
                ("busy_time", 4_000_000),
                ("sndbuf_limited", 2_000_000),
                ("sndbuf", sndbuf),
            ]));
        })
    };
    advises(&sender(4_194_304).only("R54"), "sysctl -w net.ipv4.tcp_wmem='4096 16384 8388608'");
    sender(100_000).silent();
    let receiver = Run::healthy().each(|s, _| {
        s.sockets.tcp.push(connection(&[("rcvbuf", 6_291_456), ("rcv_space", 4_000_000)]));
    });
    advises(&receiver.only("R54"), "sysctl -w net.ipv4.tcp_rmem='4096 131072 12582912'");
}

#[test]
fn r58_orphans() {
    let near = Run::healthy().each(|s, _| s.sockstat.get_mut("TCP").unwrap().set("orphan", 40_000));
    advises(&near.only("R58"), "sysctl -w net.ipv4.tcp_fin_timeout=30");
    Run::healthy().mib("TcpExt", "TCPAbortOnMemory", 5).only("R58");
}

#[test]
fn r59_no_port_is_left() {
    let used = |ports: u32, time_wait: u32| {
        Run::healthy().sysctl("net.ipv4.ip_local_port_range", "40000 40015").each(move |s, _| {
            s.sockets.port_use = vec![PortUse {
                local: "192.0.2.1".parse().unwrap(),
                remote: address("198.51.100.9:80"),
                ports,
                time_wait,
            }];
        })
    };
    let open = used(16, 0).only("R59");
    assert_eq!(open.severity, Severity::Critical);
    advises(&open, "sysctl -w net.ipv4.ip_local_port_range='1024 65535'");
    advises(&used(15, 14).only("R59"), "sysctl -w net.ipv4.tcp_tw_reuse=1");
    used(8, 0).silent();
}

#[test]
fn r59_time_wait() {
    let run = Run::healthy().sysctl("net.ipv4.tcp_max_tw_buckets", "2").mib(
        "TcpExt",
        "TCPTimeWaitOverflow",
        180,
    );
    advises(&run.only("R59"), "sysctl -w net.ipv4.tcp_max_tw_buckets=16384");
}

#[test]
fn r63_r64_r66_what_arrives_wrong() {
    Run::healthy().mib("TcpExt", "TCPBacklogDrop", 500).only("R63");
    Run::healthy().mib("TcpExt", "PAWSEstab", 3000).only("R64");
    Run::healthy().mib("Tcp", "InCsumErrors", 3000).mib("Tcp", "InErrs", 3000).only("R66");
    Run::healthy().mib("Tcp", "InCsumErrors", 50).silent();
}

#[test]
fn r65_connects_that_fail() {
    because(&Run::healthy().mib("Tcp", "AttemptFails", 200).only("R65"), "nobody listens");
    let silence =
        Run::healthy().mib("TcpExt", "TCPSynRetrans", 300).mib("TcpExt", "TCPTimeouts", 300);
    because(&silence.only("R65"), "not answered");
    Run::healthy().mib("Tcp", "AttemptFails", 20).silent();
}

#[test]
fn r82_buffers_that_do_not_grow() {
    let run = Run::healthy().each(|s, _| {
        for port in 0..25 {
            let remote = std::net::SocketAddr::new([198, 51, 100, 8].into(), 40_000 + port);
            let full = TcpSocket { remote, recv_q: 40_000, ..connection(&[("rcvbuf", 65_536)]) };
            s.sockets.tcp.push(TcpSocket { owner: owner(900 + u64::from(port)), ..full });
        }
        s.mib.get_mut("TcpExt").unwrap().set("TCPToZeroWindowAdv", 9);
    });
    run.only("R82");
}

fn lossy(again: u64) -> Run {
    Run::healthy()
        .mib("Tcp", "OutSegs", 10_000)
        .mib("Tcp", "RetransSegs", again)
        .mib("TcpExt", "TCPTimeouts", 10)
        .mib("TcpExt", "TCPSynRetrans", 0)
        .mib("TcpExt", "TCPDSACKRecv", 0)
        .mib("TcpExt", "TCPSpuriousRTOs", 0)
}

#[test]
fn r55_lost_on_the_way() {
    let found = lossy(800).only("R55");
    assert_eq!(found.severity, Severity::Critical);
    because(&found, "on the way");
    assert_eq!(lossy(200).only("R55").severity, Severity::Warning);
    lossy(30).silent();
    because(&lossy(800).mib("TcpExt", "TCPRetransFail", 700).only("R55"), "This host drops");
    because(&lossy(800).reason("NETFILTER_DROP@nf_hook_slow", 90).only("R55"), "netfilter");
    because(&lossy(800).mib("TcpExt", "TCPSpuriousRTOs", 700).only("R55"), "too short");
    // Requests for connections are another matter.
    lossy(800).mib("TcpExt", "TCPSynRetrans", 790).mib("Tcp", "ActiveOpens", 90_000).silent();
}

#[test]
fn r56_nothing_comes_back() {
    let run = Run::healthy()
        .mib("Tcp", "OutSegs", 100)
        .mib("Tcp", "RetransSegs", 8)
        .mib("TcpExt", "TCPTimeouts", 6)
        .mib("TcpExt", "TCPSynRetrans", 0)
        .each(|s, _| {
            let info = [("backoff", 3), ("bytes_acked", 900_000), ("snd_mss", 1448)];
            s.sockets.tcp.push(TcpSocket { send_q: 9000, ..connection(&info) });
        });
    because(&run.only("R56"), "nothing comes back");
}

#[test]
fn r39_large_segments_get_lost() {
    let stuck = |acked: u64| {
        Run::healthy()
            .mib("Tcp", "OutSegs", 100)
            .mib("TcpExt", "TCPTimeouts", 6)
            .mib("TcpExt", "TCPSynRetrans", 0)
            .each(move |s, _| {
                let info = [("backoff", 3), ("bytes_acked", acked), ("snd_mss", 1448)];
                s.sockets.tcp.push(TcpSocket { send_q: 9000, ..connection(&info) });
            })
    };
    advises(&stuck(120).only("R39"), "sysctl -w net.ipv4.tcp_mtu_probing=1");
    // Nothing at all came through.
    stuck(1).only("R56");
    stuck(90_000).only("R56");
    Run::healthy().mib("TcpExt", "TCPMTUPFail", 2).only("R39");
}

#[test]
fn r57_out_of_order() {
    let run = lossy(800).mib("TcpExt", "TCPDSACKRecv", 700).mib("TcpExt", "TCPSACKReorder", 90);
    advises(&run.only("R57"), "sysctl -w net.ipv4.tcp_max_reordering=1200");
}

#[test]
fn r61_a_window_that_is_lost_in_a_pause() {
    let mut run = Run::healthy().each(|s, n| {
        let cwnd = if n == 0 { 540 } else { 33 };
        s.sockets.tcp.push(TcpSocket {
            remote: address("198.51.100.9:80"),
            ..connection(&[
                ("snd_cwnd", cwnd),
                ("bytes_acked", 1000 + n * 900),
                ("total_retrans", 0),
            ])
        });
    });
    advises(&run.only("R61"), "sysctl -w net.ipv4.tcp_slow_start_after_idle=0");
    run.goal = Goal::Latency;
    run = run
        .with_dev("eth0", |d, _| d.coalesce = counters("netlink/ethtool/COALESCE_GET eth0", &[]));
    run.silent();
}

#[test]
fn r62_losses_on_a_long_path() {
    let run = lossy(800).each(|s, _| {
        s.sockets.tcp.push(connection(&[("rtt", 90_000), ("total_retrans", 40)]));
    });
    assert_eq!(run.ids(), ["R55", "R62"]);
}

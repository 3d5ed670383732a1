//! Connections that a host refuses, slows down or loses.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::doctor::{Case, Cure, look_at_host, prove};
use super::frames::{self, Frame};
use super::rig::{FAR, HostWide, NEAR, rig};
use super::traffic::{begin_connects, connect, listener, sink, write_for};

#[test]
fn an_accept_queue_that_nobody_empties_overflows() {
    let Some(rig) = rig("an_accept_queue_that_nobody_empties_overflows", &[]) else { return };
    let server = listener(&rig.far, 9200, 4);
    server.set_nonblocking(true).unwrap();
    let accepts = Cell::new(false);
    let mut begun = Vec::new();
    let mut accepted = Vec::new();
    let case = Case { ns: &rig.far, rule: "R48", also: &[] };
    let found = prove(
        &case,
        || {
            for _ in 0..4 {
                begun.extend(begin_connects(&rig.near, (FAR, 9200), 5));
                std::thread::sleep(Duration::from_millis(50));
                while accepts.get()
                    && let Ok((stream, _)) = server.accept()
                {
                    accepted.push(stream);
                }
            }
            // What waits for another try would come when it is cured.
            if !accepts.get() {
                begun.clear();
            }
        },
        Cure::By(&mut || {
            accepts.set(true);
            while server.accept().is_ok() {}
        }),
    );
    assert!(found.evidence.iter().any(|e| e.name == "ListenOverflows"), "{found:#?}");
    assert!(format!("{found:?}").contains("9200"), "the listener is named: {found:#?}");
}

/// SYNs of strangers that never answer.
fn syns(rig: &super::rig::Rig, port: u16, from: u16, n: u16) {
    let all: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let src = Ipv4Addr::new(10, 77, 100, (i % 200) as u8 + 1);
            let seq = 1000 + u32::from(i);
            let body = frames::tcp((src, from + i), (FAR, port), (seq, 0, 2), 0);
            Frame::to(&rig.far, "vb", src, FAR, 6, body).bytes()
        })
        .collect();
    frames::send(&rig.near, "va", &all);
}

/// The strangers have a place on the link, so that nothing else is wrong.
fn static_neighbours(rig: &super::rig::Rig) {
    for i in 1..=200 {
        rig.far.ip(&format!("neigh replace 10.77.100.{i} lladdr 02:00:00:00:00:77 dev vb"));
    }
}

#[test]
fn syn_cookies_are_named() {
    let Some(rig) = rig("syn_cookies_are_named", &[]) else { return };
    rig.far.sysctl("net.ipv4.tcp_syncookies", "1");
    let _server = listener(&rig.far, 9201, 16);
    let (from, on) = (Cell::new(1000), Cell::new(true));
    static_neighbours(&rig);
    let case = Case { ns: &rig.far, rule: "R50", also: &[] };
    prove(
        &case,
        || {
            if on.get() {
                syns(&rig, 9201, from.get(), 200);
                from.set(from.get() + 200);
            }
        },
        Cure::By(&mut || on.set(false)),
    );
}

#[test]
fn a_syn_queue_without_cookies_drops() {
    let Some(rig) = rig("a_syn_queue_without_cookies_drops", &[]) else { return };
    rig.far.sysctl("net.ipv4.tcp_syncookies", "0");
    rig.far.sysctl("net.ipv4.tcp_max_syn_backlog", "8");
    let _server = listener(&rig.far, 9202, 64);
    let from = Cell::new(1000);
    static_neighbours(&rig);
    let case = Case { ns: &rig.far, rule: "R49", also: &["R50"] };
    prove(
        &case,
        || {
            syns(&rig, 9202, from.get(), 200);
            from.set(from.get() + 200);
        },
        Cure::Advice(&rig.far),
    );
}

#[test]
fn a_full_time_wait_table_is_named_and_made_larger() {
    let Some(rig) = rig("a_full_time_wait_table_is_named_and_made_larger", &[]) else { return };
    rig.near.sysctl("net.ipv4.tcp_max_tw_buckets", "2");
    let _sink = sink(&rig.far, 9203);
    let case = Case { ns: &rig.near, rule: "R59", also: &[] };
    prove(
        &case,
        || (0..20).for_each(|_| drop(connect(&rig.near, (FAR, 9203)))),
        Cure::Advice(&rig.near),
    );
}

/// No counter moves: it is seen by the ports in use.
#[test]
fn ports_that_run_out_are_seen_and_the_range_is_widened() {
    let Some(rig) = rig("ports_that_run_out_are_seen_and_the_range_is_widened", &[]) else {
        return;
    };
    rig.near.sysctl("net.ipv4.ip_local_port_range", "40000 40015");
    let _sink = sink(&rig.far, 9204);
    let mut held: Vec<TcpStream> = Vec::new();
    let case = Case { ns: &rig.near, rule: "R59", also: &[] };
    prove(
        &case,
        || {
            while held.len() < 16 {
                held.push(connect(&rig.near, (FAR, 9204)));
            }
        },
        Cure::Advice(&rig.near),
    );
}

#[test]
fn a_reader_that_stops_closes_the_window() {
    let Some(rig) = rig("a_reader_that_stops_closes_the_window", &[]) else { return };
    let server = listener(&rig.far, 9205, 8);
    let mut client = connect(&rig.near, (FAR, 9205));
    let (mut stalled, _) = server.accept().unwrap();
    stalled.set_nonblocking(true).unwrap();
    let reads = Cell::new(false);
    let mut buf = vec![0; 1 << 20];
    let stalled = RefCell::new(&mut stalled);
    let case = Case { ns: &rig.far, rule: "R52", also: &["R53"] };
    prove(
        &case,
        || {
            // It reads just enough for the window to open and close once more.
            let _ = stalled.borrow_mut().read(&mut buf);
            write_for(&mut client, Duration::from_millis(300));
            while reads.get() && stalled.borrow_mut().read(&mut buf).is_ok_and(|n| n > 0) {}
        },
        Cure::By(&mut || {
            reads.set(true);
            let mut buf = vec![0; 1 << 20];
            for _ in 0..50 {
                while stalled.borrow_mut().read(&mut buf).is_ok_and(|n| n > 0) {}
                std::thread::sleep(Duration::from_millis(10));
            }
        }),
    );
}

#[test]
fn a_small_fixed_receive_buffer_prunes() {
    let Some(rig) = rig("a_small_fixed_receive_buffer_prunes", &[]) else { return };
    let server = listener(&rig.far, 9206, 8);
    SockRef::from(&server).set_recv_buffer_size(16 << 10).unwrap();
    let src = (Ipv4Addr::new(10, 77, 50, 1), 5000);
    let client = frames::RawTcp::connect(&rig.near, &rig.far, src, (FAR, 9206));
    let client = RefCell::new(client);
    let (mut reader, _) = server.accept().unwrap();
    // Every second byte never comes, so the others wait, each with the memory of a whole packet.
    let holes = Cell::new(true);
    let mut buf = [0; 4096];
    let case = Case { ns: &rig.far, rule: "R53", also: &["R57"] };
    reader.set_nonblocking(true).unwrap();
    prove(
        &case,
        || {
            for i in 0..400 {
                let mut client = client.borrow_mut();
                if holes.get() {
                    client.segment(1 + 2 * i, 16, b"x");
                } else {
                    client.segment(0, 16, b"x");
                    client.seq += 1;
                    while reader.read(&mut buf).is_ok_and(|n| n > 0) {}
                }
            }
        },
        Cure::By(&mut || {
            // What was missing comes.
            let mut client = client.borrow_mut();
            client.segment(0, 16, &[b'x'; 900]);
            client.seq += 900;
            holes.set(false);
        }),
    );
}

#[test]
fn loss_in_the_path_shows_as_retransmissions() {
    let Some(rig) = rig("loss_in_the_path_shows_as_retransmissions", &["nft"]) else { return };
    let _sink = sink(&rig.far, 9207);
    let mut client = connect(&rig.near, (FAR, 9207));
    rig.far.nft(
        "add table ip f; add chain ip f in { type filter hook input priority 0; }; \
                 add rule ip f in tcp dport 9207 numgen random mod 100 < 3 drop",
    );
    let case = Case { ns: &rig.near, rule: "R55", also: &["R56"] };
    prove(
        &case,
        || {
            write_for(&mut client, Duration::from_millis(600));
        },
        Cure::By(&mut || rig.far.nft("delete table ip f")),
    );
}

#[test]
fn a_black_hole_shows_as_timeouts() {
    let Some(rig) = rig("a_black_hole_shows_as_timeouts", &["nft"]) else { return };
    let _sink = sink(&rig.far, 9208);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(&rig.near, (FAR, 9208))).collect();
    rig.far.nft(
        "add table ip f; add chain ip f in { type filter hook input priority 0; }; \
                 add rule ip f in tcp dport 9208 drop",
    );
    let case = Case { ns: &rig.near, rule: "R56", also: &["R55", "R39"] };
    prove(
        &case,
        || {
            for client in &mut clients {
                // Small pieces, each a segment: what is lost is not lost for its size.
                client.set_nonblocking(true).unwrap();
                client.set_nodelay(true).unwrap();
                for _ in 0..10 {
                    let _ = client.write(&[7; 100]);
                }
            }
            std::thread::sleep(Duration::from_millis(900));
        },
        Cure::By(&mut || {
            rig.far.nft("delete table ip f");
            std::thread::sleep(Duration::from_secs(4));
        }),
    );
}

#[test]
fn segments_with_wrong_checksums_are_named() {
    let Some(rig) = rig("segments_with_wrong_checksums_are_named", &[]) else { return };
    let off = Cell::new(1);
    let case = Case { ns: &rig.far, rule: "R66", also: &[] };
    prove(
        &case,
        || {
            if off.get() == 0 {
                return;
            }
            let body = frames::tcp((NEAR, 5000), (FAR, 9209), (1, 1, 16), 1);
            let frame = Frame::to(&rig.far, "vb", NEAR, FAR, 6, body).bytes();
            frames::send(&rig.near, "va", &vec![frame; 20]);
        },
        Cure::By(&mut || off.set(0)),
    );
}

#[test]
fn a_closed_port_shows_as_refused_attempts() {
    let Some(rig) = rig("a_closed_port_shows_as_refused_attempts", &[]) else { return };
    let case = Case { ns: &rig.near, rule: "R65", also: &[] };
    let server = RefCell::new(None);
    prove(
        &case,
        || {
            for _ in 0..20 {
                let to = std::net::SocketAddr::from((FAR, 9210));
                let _ = rig.near.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)));
            }
        },
        Cure::By(&mut || *server.borrow_mut() = Some(sink(&rig.far, 9210))),
    );
}

/// The limit is the whole host's, and read in its first namespace.
#[test]
fn memory_of_all_tcp_is_the_whole_hosts() {
    let Some(rig) = rig("memory_of_all_tcp_is_the_whole_hosts", &[]) else { return };
    let server = listener(&rig.far, 9211, 64);
    let mut pairs: Vec<(TcpStream, TcpStream)> = Vec::new();
    for _ in 0..12 {
        let mut client = connect(&rig.near, (FAR, 9211));
        write_for(&mut client, Duration::from_millis(10));
        pairs.push((client, server.accept().unwrap().0));
    }
    let limit = HostWide::set("net.ipv4.tcp_mem", "20 40 4000");
    let found = look_at_host();
    drop(limit);
    assert!(found.has("R51"), "{}", found.text());
    assert!(!look_at_host().has("R51"), "{}", look_at_host().text());
}

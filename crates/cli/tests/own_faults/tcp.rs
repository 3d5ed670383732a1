//! Connections that an instance refuses, slows down or loses.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::frames::{self, Frame, RawTcp};
use super::own::{Own, own};
use super::rig::FAR;
use super::traffic::{connect, datagrams, write_for};

/// Strangers of 10.77.100.0/24 are there, but do not answer: nobody resets what they began.
fn silent(own: &Own) {
    own.rig.near.ip("route add local 10.77.100.0/24 dev va");
    own.rig.near.nft(
        "add table ip f; add chain ip f in { type filter hook input priority 0; }; \
         add rule ip f in ip daddr 10.77.100.0/24 drop",
    );
}

#[test]
fn half_open_connections_fill_their_queue() {
    let Some(own) = own("half_open_connections_fill_their_queue", &["nft"]) else { return };
    let up = own.up(&[
        &["--serve", "discard", "--set", "net.ipv4.tcp_max_syn_backlog=8"][..],
        &["--set", "net.ipv4.tcp_syncookies=0"],
    ]
    .concat());
    silent(&own);
    let case = Case { own: &own, rule: "R49", also: &[], options: &[] };
    let syns = syns_of_strangers(&own);
    let dose = || {
        frames::send(&own.rig.near, "va", &syns);
        std::thread::sleep(Duration::from_millis(20));
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

fn syns_of_strangers(own: &Own) -> Vec<Vec<u8>> {
    let syn = |i: u8| {
        let src = Ipv4Addr::new(10, 77, 100, i);
        let body = frames::tcp((src, 5000), (FAR, 9), (1000, 0, 2), 0);
        Frame::to(&own.rig.far, "vb", src, FAR, 6, body).bytes()
    };
    (1..=100).map(syn).collect()
}

/// A flood fills the queue of half-open connections; who answers comes in all the same.
#[test]
fn more_connections_than_the_backlog_come_by_cookie() {
    let Some(own) = own("more_connections_than_the_backlog_come_by_cookie", &["nft"]) else {
        return;
    };
    let up = own.up(&[
        &["--serve", "discard", "--set", "net.core.somaxconn=8"][..],
        &["--set", "net.ipv4.tcp_synack_retries=0"],
    ]
    .concat());
    silent(&own);
    let case = Case { own: &own, rule: "R50", also: &[], options: &[] };
    let syns = syns_of_strangers(&own);
    let over = Cell::new(false);
    let dose = || {
        if !over.get() {
            frames::send(&own.rig.near, "va", &syns);
        }
        let mut client = connect(&own.rig.near, (FAR, 9));
        client.write_all(b"it is me").expect("it reads");
        std::thread::sleep(Duration::from_millis(20));
    };
    let found = prove(&case, dose, Cure::By(&mut || over.set(true)));
    let netstat = own.ask(&["get", "--name", "t", "net.ipv4.tcp_syncookies"]);
    assert!(netstat.contains('1'), "it is so from the start: {netstat}");
    let evidence = found["evidence"].as_array().expect("a list");
    let back = evidence.iter().find(|e| e["name"] == "SyncookiesRecv");
    assert!(back.is_some_and(|e| e["to"].as_u64() > Some(0)), "clients came by cookie: {found:#}");
    up.end();
}

#[test]
fn a_full_time_wait_table_is_named_and_made_larger() {
    let Some(own) = own("a_full_time_wait_table_is_named_and_made_larger", &[]) else { return };
    let up = own.up(&["--serve", "http=www", "--set", "net.ipv4.tcp_max_tw_buckets=2"]);
    let case = Case { own: &own, rule: "R59", also: &[], options: &[] };
    let dose = || {
        for _ in 0..10 {
            let mut client = connect(&own.rig.near, (FAR, 80));
            // The server closes first, so it is the one that has to wait.
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
            let _ = client.read_to_end(&mut Vec::new());
        }
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_reader_that_stops_closes_the_window() {
    let Some(own) = own("a_reader_that_stops_closes_the_window", &[]) else { return };
    let up = own.up(&["--serve", "echo"]);
    let mut client = connect(&own.rig.near, (FAR, 7));
    client.set_nonblocking(true).expect("a socket");
    let mut back = client.try_clone().expect("a descriptor");
    let reads = Cell::new(false);
    let mut buf = vec![0; 1 << 20];
    let case = Case { own: &own, rule: "R52", also: &[], options: &[] };
    prove(
        &case,
        || {
            // The echo reads on when it can write again: a little of what it wrote is read, so that the
            // window opens and closes once more.
            let _ = back.read(&mut buf);
            write_for(&mut client, Duration::from_millis(30));
            while reads.get() && back.read(&mut buf).is_ok_and(|n| n > 0) {}
        },
        Cure::By(&mut || reads.set(true)),
    );
    drop((client, back));
    up.end();
}

#[test]
fn a_small_receive_buffer_prunes() {
    let Some(own) = own("a_small_receive_buffer_prunes", &["nft"]) else { return };
    let room = "net.ipv4.tcp_rmem=4096 8192 16384";
    let up = own.up(&["--serve", "discard", "--set", room]);
    silent(&own);
    let src = (Ipv4Addr::new(10, 77, 100, 1), 5000);
    let client = RawTcp::connect(&own.rig.near, &own.rig.far, src, (FAR, 9));
    let client = RefCell::new(client);
    // Every second byte never comes, so the others wait, each with the memory of a whole packet.
    let holes = Cell::new(true);
    let case = Case { own: &own, rule: "R53", also: &["R57"], options: &[] };
    prove(
        &case,
        || {
            for i in 0..100 {
                let mut client = client.borrow_mut();
                if holes.get() {
                    client.segment(1 + 2 * i, 16, b"x");
                } else {
                    client.segment(0, 16, b"x");
                    client.seq += 1;
                }
            }
        },
        Cure::By(&mut || {
            // What was missing comes.
            let mut client = client.borrow_mut();
            client.segment(0, 16, &[b'x'; 250]);
            client.seq += 250;
            holes.set(false);
        }),
    );
    up.end();
}

/// Reads what the endless service sends.
fn read_for(clients: &mut [TcpStream], how_long: Duration) {
    let end = std::time::Instant::now() + how_long;
    let mut buf = vec![0; 1 << 16];
    while std::time::Instant::now() < end {
        let mut any = false;
        for client in clients.iter_mut() {
            any |= client.read(&mut buf).is_ok_and(|n| n > 0);
        }
        if !any {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn chargen(own: &Own, n: usize) -> Vec<TcpStream> {
    let one = |_| {
        let client = connect(&own.rig.near, (FAR, 19));
        client.set_nonblocking(true).expect("a socket");
        client
    };
    (0..n).map(one).collect()
}

/// What comes from the instance's endless service is lost, or so much of it.
fn lossy(own: &Own, how: &str) {
    own.rig.near.nft(&format!(
        "add table ip f; add chain ip f in {{ type filter hook input priority 0; }}; \
         add rule ip f in tcp sport 19 {how} drop"
    ));
}

#[test]
fn loss_in_the_path_shows_as_retransmissions() {
    let Some(own) = own("loss_in_the_path_shows_as_retransmissions", &["nft"]) else { return };
    let up = own.up(&["--serve", "chargen"]);
    let mut clients = chargen(&own, 4);
    lossy(&own, "numgen random mod 100 < 3");
    let case = Case { own: &own, rule: "R55", also: &["R56"], options: &[] };
    prove(
        &case,
        || read_for(&mut clients, Duration::from_millis(20)),
        Cure::By(&mut || own.rig.near.nft("delete table ip f")),
    );
    drop(clients);
    up.end();
}

#[test]
fn a_black_hole_shows_as_timeouts() {
    let Some(own) = own("a_black_hole_shows_as_timeouts", &["nft"]) else { return };
    let up = own.up(&["--serve", "chargen", "--serve", "discard"]);
    let mut clients = chargen(&own, 20);
    lossy(&own, "");
    let case = Case { own: &own, rule: "R56", also: &["R55"], options: &[] };
    prove(
        &case,
        || {
            read_for(&mut clients, Duration::from_millis(20));
            // Something comes, whatever becomes of these.
            datagrams(&own.rig.near, (FAR, 9), 1, 60);
        },
        Cure::By(&mut || own.rig.near.nft("delete table ip f")),
    );
    drop(clients);
    up.end();
}

/// What nobody reads takes memory.
#[test]
fn memory_of_all_connections_is_used_up() {
    let Some(own) = own("memory_of_all_connections_is_used_up", &[]) else { return };
    let up = own.up(&["--serve", "echo", "--set", "net.ipv4.tcp_mem=16 64 65536"]);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(&own.rig.near, (FAR, 7))).collect();
    let case = Case { own: &own, rule: "R51", also: &["R52"], options: &[] };
    let dose = || {
        for client in &mut clients {
            write_for(client, Duration::from_millis(5));
        }
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    drop(clients);
    up.end();
}

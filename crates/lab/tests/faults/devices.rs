//! What devices and their settings lose or cost.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use linerate_dev::tun::{Config, Tun};

use super::doctor::{Case, Cure, look, look_at_host, look_for, prove};
use super::rig::{FAR, HostWide, rig};
use super::traffic::{connect, datagrams, sink, udp_socket, write_for};

#[test]
fn a_tun_that_nobody_reads_loses_what_its_queue_can_not_hold() {
    let Some(rig) = rig("a_tun_that_nobody_reads_loses_what_its_queue_can_not_hold", &[]) else {
        return;
    };

    let tun = rig.near.run(|| Tun::open(&Config::new("tun0").plain()).unwrap());
    rig.near.ip("link set tun0 txqueuelen 50 up");
    rig.near.ip("addr add 10.78.0.1/24 dev tun0");
    let held = RefCell::new(Some(tun));
    let case = Case { ns: &rig.near, rule: "R73", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (std::net::Ipv4Addr::new(10, 78, 0, 2), 9), 200, 100),
        // With its program the device goes.
        Cure::By(&mut || *held.borrow_mut() = None),
    );
    assert!(found.title.contains("tun0") || found.subject.contains("tun0"), "{found:#?}");
}

/// The table of the whole host is seen from its first namespace only.
#[test]
fn rfs_that_is_set_by_half_is_named() {
    let Some(_rig) = rig("rfs_that_is_set_by_half_is_named", &[]) else { return };
    let entries = HostWide::set("net.core.rps_sock_flow_entries", "4096");
    assert!(look_at_host().has("R23"), "{}", look_at_host().text());
    drop(entries);
    assert!(!look_at_host().has("R23"), "{}", look_at_host().text());
}

/// The settings of old guides that do nothing, or harm.
#[test]
fn lore_is_named() {
    let Some(rig) = rig("lore_is_named", &[]) else { return };
    rig.far.sysctl("net.ipv4.tcp_sack", "0");
    rig.far.sysctl("net.ipv4.tcp_moderate_rcvbuf", "0");
    let found = look(&rig.far, || {});
    let names: Vec<_> = found.findings.iter().map(|f| f.id).collect();
    assert!(!names.is_empty() && names.iter().all(|n| *n == "R87"), "{}", found.text());
}

/// On a host; who forwards may want it so.
#[test]
fn early_demux_that_is_off_is_named() {
    let Some(rig) = rig("early_demux_that_is_off_is_named", &[]) else { return };
    rig.far.sysctl("net.ipv4.ip_early_demux", "0");
    let case = Case { ns: &rig.far, rule: "R87", also: &[] };
    let found = prove(&case, || {}, Cure::Advice(&rig.far));
    assert_eq!(found.subject, "net.ipv4.ip_early_demux");
    rig.far.sysctl("net.ipv4.ip_forward", "1");
    assert!(look(&rig.far, || {}).findings.is_empty());
}

#[test]
fn a_receiver_without_gro_is_named() {
    let Some(rig) = rig("a_receiver_without_gro_is_named", &[]) else { return };
    rig.near.sh("ethtool -K va tso off gso off");
    rig.far.sh("ethtool -K vb gro off");
    let _sink = sink(&rig.far, 9401);
    let mut client = connect(&rig.near, (FAR, 9401));
    let case = Case { ns: &rig.far, rule: "R25", also: &[] };
    prove(
        &case,
        || {
            write_for(&mut client, Duration::from_millis(600));
        },
        Cure::Advice(&rig.far),
    );
}

/// Bulk transfers, requests, datagrams and connections, as on any host that works.
#[test]
fn a_healthy_host_under_load_gives_no_finding() {
    let Some(rig) = rig("a_healthy_host_under_load_gives_no_finding", &[]) else { return };
    let _sink = sink(&rig.far, 9402);
    let mut client = connect(&rig.near, (FAR, 9402));
    let socket = udp_socket(&rig.far, 9403, 0);
    socket.set_nonblocking(true).unwrap();
    let dose = || {
        write_for(&mut client, Duration::from_millis(200));
        for _ in 0..50 {
            drop(connect(&rig.near, (FAR, 9402)));
            datagrams(&rig.near, (FAR, 9403), 5, 500);
            while socket.recv(&mut [0; 2048]).is_ok() {}
        }
    };
    let found = look_for(&rig.far, dose, |_| false);
    assert!(found.findings.is_empty(), "{}", found.text());
}

#[test]
fn an_idle_host_gives_no_finding() {
    let Some(rig) = rig("an_idle_host_gives_no_finding", &[]) else { return };
    let turns = Cell::new(0);
    let found = look(&rig.near, || turns.set(turns.get() + 1));
    assert!(found.findings.is_empty() && turns.get() > 0, "{}", found.text());
}

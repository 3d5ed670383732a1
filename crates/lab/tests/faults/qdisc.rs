//! What a queueing discipline drops, and what devices behind it do.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::rig::{FAR, rig};
use super::traffic::{connect, datagrams, sink, udp_socket, write_for};

const TBF: &str = "tc qdisc add dev va root tbf rate 20mbit burst 16k limit 30k";

#[test]
fn a_shaper_that_drops_tcp_comes_before_its_retransmissions() {
    let Some(rig) = rig("a_shaper_that_drops_tcp_comes_before_its_retransmissions", &[]) else {
        return;
    };
    rig.near.sh(TBF);
    let _sink = sink(&rig.far, 9300);
    let mut client = connect(&rig.near, (FAR, 9300));
    let case = Case { ns: &rig.near, rule: "R60", also: &["R55", "R56", "R67"] };
    prove(
        &case,
        || {
            write_for(&mut client, Duration::from_millis(600));
        },
        Cure::By(&mut || rig.near.sh("tc qdisc del dev va root")),
    );
}

/// The application is told that everything was sent.
#[test]
fn datagrams_that_a_shaper_drops_are_one_loss() {
    let Some(rig) = rig("datagrams_that_a_shaper_drops_are_one_loss", &[]) else { return };
    rig.near.sh(TBF);
    let _socket = udp_socket(&rig.far, 9301, 4 << 20);
    let case = Case { ns: &rig.near, rule: "R60", also: &[] };
    prove(
        &case,
        || datagrams(&rig.near, (FAR, 9301), 400, 1400),
        Cure::By(&mut || rig.near.sh("tc qdisc del dev va root")),
    );
}

#[test]
fn a_child_queue_is_found_below_its_parent() {
    let Some(rig) = rig("a_child_queue_is_found_below_its_parent", &[]) else { return };
    rig.near.sh("tc qdisc add dev va root handle 1: tbf rate 20mbit burst 16k limit 300k");
    rig.near.sh("tc qdisc add dev va parent 1:1 pfifo limit 10");
    let _socket = udp_socket(&rig.far, 9302, 4 << 20);
    let case = Case { ns: &rig.near, rule: "R60", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, 9302), 200, 1400),
        Cure::By(&mut || rig.near.sh("tc qdisc del dev va root")),
    );
    assert!(format!("{found:?}").contains("pfifo"), "{found:#?}");
}

#[test]
fn a_smaller_mtu_at_the_other_end_is_named() {
    let Some(rig) = rig("a_smaller_mtu_at_the_other_end_is_named", &[]) else { return };
    rig.near.ip("link set va mtu 9000");
    let _socket = udp_socket(&rig.far, 9303, 4 << 20);
    let case = Case { ns: &rig.near, rule: "R05", also: &[] };
    prove(
        &case,
        || datagrams(&rig.near, (FAR, 9303), 20, 8000),
        Cure::By(&mut || rig.near.ip("link set va mtu 1500")),
    );
}

#[test]
fn a_full_conntrack_table_is_named() {
    let Some(rig) = rig("a_full_conntrack_table_is_named", &["nft"]) else { return };
    let rules = "add table ip f; add chain ip f in { type filter hook input priority 0; }; \
                 add rule ip f in ct state invalid drop";
    rig.far.nft(rules);
    let max = super::rig::HostWide::set("net.netfilter.nf_conntrack_max", "50");
    let max = RefCell::new(Some(max));
    let _socket = udp_socket(&rig.far, 9304, 4 << 20);
    let case = Case { ns: &rig.far, rule: "R34", also: &[] };
    let port = Cell::new(10_000u16);
    prove(
        &case,
        || {
            let first = port.get();
            rig.near.run(|| {
                for i in 0..100 {
                    let socket = std::net::UdpSocket::bind(("0.0.0.0", first + i)).unwrap();
                    let _ = socket.send_to(b"flow", (FAR, 9304));
                }
            });
            port.set(port.get() + 100);
        },
        Cure::By(&mut || *max.borrow_mut() = None),
    );
}

#[test]
fn a_tap_that_nobody_reads_is_named() {
    let Some(rig) = rig("a_tap_that_nobody_reads_is_named", &[]) else { return };
    let _socket = udp_socket(&rig.far, 9305, 4 << 20);
    let open = || {
        rig.far.run(|| {
            let link = linerate_dev::netdev::Netdev::open().unwrap().link("vb").unwrap();
            let config = linerate_dev::packet::Config {
                vnet_hdr: false,
                rcvbuf_bytes: 4096,
                ..linerate_dev::packet::Config::default()
            };
            linerate_dev::packet::Packet::open(&link, config).unwrap()
        })
    };
    let tap = RefCell::new(Some(open()));
    let case = Case { ns: &rig.far, rule: "R28", also: &[] };
    prove(
        &case,
        || datagrams(&rig.near, (FAR, 9305), 200, 500),
        Cure::By(&mut || *tap.borrow_mut() = None),
    );
}

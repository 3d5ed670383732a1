//! Packets that IP refuses, and fragments that never become one.

use std::cell::Cell;
use std::net::Ipv4Addr;

use super::doctor::{Case, Cure, prove};
use super::frames::{self, Frame};
use super::rig::{FAR, HostWide, NEAR, Rig, rig};
use super::traffic::udp_socket;

/// Sends `n` frames with a datagram for `FAR`, each changed by `change`.
fn frames_to_far(rig: &Rig, n: u16, change: impl Fn(u16, &mut Frame)) {
    let body = frames::udp((NEAR, 5000), (FAR, 9100), b"datagram", 0);
    let plain = Frame::to(&rig.far, "vb", NEAR, FAR, 17, body);
    let all: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let mut frame = plain.clone();
            change(i, &mut frame);
            frame.bytes()
        })
        .collect();
    frames::send(&rig.near, "va", &all);
}

/// A fault of single frames: `wrong` until it is cured.
fn wrong_frames(test: &str, rule: &str, also: &[&str], wrong: impl Fn(u16, &mut Frame)) {
    let Some(rig) = rig(test, &[]) else { return };
    let _socket = udp_socket(&rig.far, 9100, 1 << 20);
    let cured = Cell::new(false);
    let case = Case { ns: &rig.far, rule, also };
    prove(
        &case,
        || {
            frames_to_far(&rig, 20, |i, f| {
                if !cured.get() {
                    wrong(i, f)
                }
            })
        },
        Cure::By(&mut || cured.set(true)),
    );
}

#[test]
fn wrong_header_checksums_are_named() {
    wrong_frames("wrong_header_checksums_are_named", "R31", &[], |_, f| f.csum_off = 1);
}

#[test]
fn packets_longer_than_their_frame_are_named() {
    wrong_frames("packets_longer_than_their_frame_are_named", "R31", &[], |_, f| f.tot_len_off = 9);
}

#[test]
fn unknown_ethertypes_are_benign() {
    wrong_frames("unknown_ethertypes_are_benign", "R29", &[], |_, f| f.ethertype = 0x88b5);
}

#[test]
fn frames_for_another_mac_are_named() {
    wrong_frames("frames_for_another_mac_are_named", "R30", &[], |_, f| {
        f.dst_mac = [2, 9, 9, 9, 9, 9];
    });
}

#[test]
fn the_reverse_path_filter_is_named_and_loosened() {
    let Some(rig) = rig("the_reverse_path_filter_is_named_and_loosened", &[]) else { return };
    rig.far.sysctl("net.ipv4.conf.all.rp_filter", "1");
    rig.far.sysctl("net.ipv4.conf.vb.rp_filter", "1");
    // A way back to the strangers, but not by this device.
    rig.far.ip("link add vc type veth peer name vd");
    rig.far.ip("link set vc up");
    rig.far.ip("link set vd up");
    rig.far.ip("route add 10.88.0.0/16 dev vc");
    let _socket = udp_socket(&rig.far, 9100, 1 << 20);
    let case = Case { ns: &rig.far, rule: "R33", also: &[] };
    let src = Ipv4Addr::new(10, 88, 0, 5);
    prove(
        &case,
        || {
            let body = frames::udp((src, 5000), (FAR, 9100), b"from afar", 0);
            let frame = Frame::to(&rig.far, "vb", src, FAR, 17, body).bytes();
            frames::send(&rig.near, "va", &vec![frame; 20]);
        },
        Cure::Advice(&rig.far),
    );
}

#[test]
fn a_routing_loop_shows_as_expired_packets() {
    let Some(rig) = rig("a_routing_loop_shows_as_expired_packets", &[]) else { return };
    rig.far.sysctl("net.ipv4.ip_forward", "1");
    rig.far.ip("route add 10.99.0.0/16 via 10.77.0.1 dev vb");
    let case = Case { ns: &rig.far, rule: "R31", also: &["R42"] };
    let ttl = Cell::new(1);
    let dst = Ipv4Addr::new(10, 99, 0, 9);
    let found = prove(
        &case,
        || {
            frames_to_far(&rig, 20, |_, f| {
                (f.dst, f.ttl) = (dst, ttl.get());
                f.body = frames::udp((NEAR, 5000), (dst, 9100), b"round", 0);
            });
        },
        Cure::By(&mut || ttl.set(64)),
    );
    assert!(found.cause.contains("TTL"), "{found:#?}");
}

#[test]
fn fragments_whose_rest_is_lost_time_out() {
    let Some(rig) = rig("fragments_whose_rest_is_lost_time_out", &[]) else { return };
    rig.far.sysctl("net.ipv4.ipfrag_time", "1");
    let case = Case { ns: &rig.far, rule: "R38", also: &[] };
    let (id, whole) = (Cell::new(0), Cell::new(false));
    let _socket = udp_socket(&rig.far, 9100, 1 << 20);
    let found = prove(
        &case,
        || {
            if whole.get() {
                return frames_to_far(&rig, 20, |_, _| {});
            }
            frames_to_far(&rig, 6, |i, f| {
                (f.id, f.frag) = (id.get() + i, 0x2000);
                f.body.truncate(16);
            });
            id.set(id.get() + 6);
            std::thread::sleep(std::time::Duration::from_millis(1300));
        },
        Cure::By(&mut || {
            whole.set(true);
            std::thread::sleep(std::time::Duration::from_millis(1300));
        }),
    );
    assert!(found.cause.contains("lost"), "{found:#?}");
}

#[test]
fn fragments_beyond_the_memory_are_told_from_lost_ones() {
    let Some(rig) = rig("fragments_beyond_the_memory_are_told_from_lost_ones", &[]) else {
        return;
    };
    rig.far.sysctl("net.ipv4.ipfrag_low_thresh", "15000");
    rig.far.sysctl("net.ipv4.ipfrag_high_thresh", "20000");
    rig.far.sysctl("net.ipv4.ipfrag_time", "30");
    let case = Case { ns: &rig.far, rule: "R38", also: &[] };
    let id = Cell::new(0);
    let found = prove(
        &case,
        || {
            frames_to_far(&rig, 60, |i, f| {
                (f.id, f.frag) = (id.get() + i, 0x2000);
                f.body.truncate(16);
            });
            id.set(id.get() + 60);
        },
        Cure::Advice(&rig.far),
    );
    assert!(found.cause.contains("room"), "{found:#?}");
}

#[test]
fn a_full_neighbour_table_is_named_and_made_larger() {
    let Some(rig) = rig("a_full_neighbour_table_is_named_and_made_larger", &[]) else { return };
    // The table is the whole host's.
    let _one = HostWide::set("net.ipv4.neigh.default.gc_thresh1", "16");
    let _two = HostWide::set("net.ipv4.neigh.default.gc_thresh2", "32");
    let _three = HostWide::set("net.ipv4.neigh.default.gc_thresh3", "64");
    let case = Case { ns: &rig.near, rule: "R40", also: &["R41", "R47"] };
    let base = Cell::new(0u16);
    prove(
        &case,
        || {
            let first = base.get();
            rig.near.run(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                for i in 0..150u16 {
                    let [high, low] = (first + i + 256).to_be_bytes();
                    let _ = socket.send_to(b"anybody", (Ipv4Addr::new(10, 77, high, low), 9));
                }
            });
            base.set(base.get() + 150);
        },
        Cure::None,
    );
}

#[test]
fn a_neighbour_that_does_not_answer_is_named() {
    let Some(rig) = rig("a_neighbour_that_does_not_answer_is_named", &[]) else { return };
    rig.near.sysctl("net.ipv4.neigh.va.unres_qlen_bytes", "4096");
    let case = Case { ns: &rig.near, rule: "R41", also: &[] };
    let n = Cell::new(5);
    let to = Ipv4Addr::new(10, 77, 9, 9);
    let mut cure = || n.set(0);
    prove(
        &case,
        || {
            super::traffic::datagrams(&rig.near, (to, 9), n.get() * 20, 1000);
            // It is asked three times, a second apart.
            std::thread::sleep(std::time::Duration::from_millis(1200 * n.get().min(1) as u64));
        },
        Cure::By(&mut cure),
    );
}

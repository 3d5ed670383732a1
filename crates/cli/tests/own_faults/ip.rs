//! Packets that IP refuses, and fragments that never become one.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::frames::{self, Frame};
use super::own::{Own, own};
use super::rig::{FAR, NEAR};

/// Sends `n` frames with a datagram for the instance's echo, each changed by `change`.
fn frames_to_far(own: &Own, n: u16, change: impl Fn(u16, &mut Frame)) {
    let body = frames::udp((NEAR, 5000), (FAR, 9), b"datagram", 0);
    let plain = Frame::to(&own.rig.far, "vb", NEAR, FAR, 17, body);
    let all: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let mut frame = plain.clone();
            change(i, &mut frame);
            frame.bytes()
        })
        .collect();
    frames::send(&own.rig.near, "va", &all);
}

/// A fault of single frames: `wrong` until it is cured.
fn wrong_frames(test: &str, rule: &str, wrong: impl Fn(u16, &mut Frame)) {
    let Some(own) = own(test, &[]) else { return };
    let up = own.up(&["--serve", "discard"]);
    let cured = Cell::new(false);
    let case = Case { own: &own, rule, also: &[], options: &[] };
    prove(
        &case,
        || {
            frames_to_far(&own, 20, |i, f| {
                if !cured.get() {
                    wrong(i, f)
                }
            })
        },
        Cure::By(&mut || cured.set(true)),
    );
    up.end();
}

#[test]
fn wrong_header_checksums_are_named() {
    wrong_frames("wrong_header_checksums_are_named", "R31", |_, f| f.csum_off = 1);
}

#[test]
fn frames_for_another_mac_are_named() {
    wrong_frames("frames_for_another_mac_are_named", "R30", |_, f| {
        f.dst_mac = [2, 9, 9, 9, 9, 9];
    });
}

#[test]
fn packets_for_somebody_else_are_named() {
    wrong_frames("packets_for_somebody_else_are_named", "R32", |_, f| {
        f.dst = Ipv4Addr::new(10, 99, 0, 9);
        f.body = frames::udp((NEAR, 5000), (f.dst, 9), b"lost", 0);
    });
}

#[test]
fn datagrams_with_wrong_checksums_are_named() {
    wrong_frames("datagrams_with_wrong_checksums_are_named", "R46", |_, f| {
        f.body = frames::udp((NEAR, 5000), (FAR, 9), b"wrong", 1);
    });
}

#[test]
fn segments_with_wrong_checksums_are_named() {
    wrong_frames("segments_with_wrong_checksums_are_named", "R66", |_, f| {
        f.proto = 6;
        f.body = frames::tcp((NEAR, 5000), (FAR, 9), (1, 1, 16), 1);
    });
}

#[test]
fn fragments_whose_rest_is_lost_time_out() {
    let Some(own) = own("fragments_whose_rest_is_lost_time_out", &[]) else { return };
    let up = own.up(&["--serve", "discard", "--set", "net.ipv4.ipfrag_time=1"]);
    let case = Case { own: &own, rule: "R38", also: &[], options: &[] };
    let (id, whole) = (Cell::new(0u16), Cell::new(false));
    let found = prove(
        &case,
        || {
            if whole.get() {
                return frames_to_far(&own, 20, |_, _| {});
            }
            frames_to_far(&own, 3, |i, f| {
                (f.id, f.frag) = (id.get().wrapping_add(i), 0x2000);
                f.body.truncate(16);
            });
            id.set(id.get().wrapping_add(3));
            std::thread::sleep(Duration::from_millis(20));
        },
        Cure::By(&mut || whole.set(true)),
    );
    assert!(found["cause"].as_str().is_some_and(|c| c.contains("lost")), "{found:#}");
    up.end();
}

#[test]
fn fragments_beyond_the_memory_are_told_from_lost_ones() {
    let test = "fragments_beyond_the_memory_are_told_from_lost_ones";
    let Some(own) = own(test, &[]) else { return };
    let up = own.up(&["--serve", "discard", "--set", "net.ipv4.ipfrag_high_thresh=20000"]);
    let case = Case { own: &own, rule: "R38", also: &[], options: &[] };
    let id = Cell::new(0u16);
    let found = prove(
        &case,
        || {
            frames_to_far(&own, 30, |i, f| {
                (f.id, f.frag) = (id.get().wrapping_add(i), 0x2000);
                f.body.truncate(16);
            });
            id.set(id.get().wrapping_add(30));
            std::thread::sleep(Duration::from_millis(20));
        },
        Cure::Set(&mut || {}),
    );
    assert!(found["cause"].as_str().is_some_and(|c| c.contains("room")), "{found:#}");
    up.end();
}

//! Datagrams that a host loses.

use std::net::Ipv4Addr;

use super::doctor::{Case, Cure, prove};
use super::frames::{self, Frame};
use super::rig::{FAR, NEAR, rig};
use super::traffic::{datagrams, udp_socket};

#[test]
fn a_receive_buffer_that_nobody_reads_overflows() {
    let Some(rig) = rig("a_receive_buffer_that_nobody_reads_overflows", &[]) else { return };
    let socket = udp_socket(&rig.far, 9000, 4096);
    socket.set_nonblocking(true).unwrap();
    let case = Case { ns: &rig.far, rule: "R43", also: &[] };
    // The application's part of the advice: it reads.
    let reads = std::cell::Cell::new(false);
    let mut buf = [0; 2048];
    let found = prove(
        &case,
        || {
            for _ in 0..40 {
                datagrams(&rig.near, (FAR, 9000), 5, 500);
                while reads.get() && socket.recv(&mut buf).is_ok() {}
            }
        },
        Cure::By(&mut || {
            reads.set(true);
            while socket.recv(&mut [0; 2048]).is_ok() {}
        }),
    );
    assert!(found.evidence.iter().any(|e| e.name == "RcvbufErrors"), "{found:#?}");
    assert!(found.title.contains("9000") || found.subject.contains("9000"), "{found:#?}");
}

#[test]
fn a_port_without_a_socket_is_named() {
    let Some(rig) = rig("a_port_without_a_socket_is_named", &[]) else { return };
    let case = Case { ns: &rig.far, rule: "R45", also: &["R42"] };
    let mut socket = None;
    let opened = std::cell::RefCell::new(&mut socket);
    prove(
        &case,
        || datagrams(&rig.near, (FAR, 9001), 100, 100),
        Cure::By(&mut || **opened.borrow_mut() = Some(udp_socket(&rig.far, 9001, 1 << 20))),
    );
}

#[test]
fn datagrams_with_wrong_checksums_are_named() {
    let Some(rig) = rig("datagrams_with_wrong_checksums_are_named", &[]) else { return };
    let _socket = udp_socket(&rig.far, 9002, 1 << 20);
    let case = Case { ns: &rig.far, rule: "R46", also: &[] };
    let off = std::cell::Cell::new(1);
    prove(
        &case,
        || {
            let body = frames::udp((NEAR, 5000), (FAR, 9002), b"wrong", off.get());
            let frame = Frame::to(&rig.far, "vb", NEAR, FAR, 17, body).bytes();
            frames::send(&rig.near, "va", &vec![frame; 20]);
        },
        Cure::By(&mut || off.set(0)),
    );
}

/// What a stranger sends to an address that is not here is the network's fault, not the socket's.
#[test]
fn packets_for_somebody_else_are_named() {
    let Some(rig) = rig("packets_for_somebody_else_are_named", &[]) else { return };
    let case = Case { ns: &rig.far, rule: "R32", also: &[] };
    let dst = std::cell::Cell::new(Ipv4Addr::new(10, 99, 0, 9));
    let _socket = udp_socket(&rig.far, 9003, 1 << 20);
    prove(
        &case,
        || {
            let body = frames::udp((NEAR, 5000), (dst.get(), 9003), b"lost", 0);
            let frame = Frame::to(&rig.far, "vb", NEAR, dst.get(), 17, body).bytes();
            frames::send(&rig.near, "va", &vec![frame; 20]);
        },
        Cure::By(&mut || dst.set(FAR)),
    );
}

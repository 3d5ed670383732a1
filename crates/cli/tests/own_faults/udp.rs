//! Datagrams that an instance loses.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::own::own;
use super::rig::FAR;
use super::traffic::datagrams;

/// More than one socket's worth at once, as often as there is time to read it.
fn burst(socket: &UdpSocket) {
    for _ in 0..60 {
        let _ = socket.send_to(&[7; 60], (FAR, 9));
    }
    std::thread::sleep(Duration::from_millis(5));
}

/// Sockets that are open keep their size: the service is opened anew, by a reload.
#[test]
fn a_receive_buffer_that_is_too_small_overflows() {
    let Some(own) = own("a_receive_buffer_that_is_too_small_overflows", &[]) else { return };
    let device =
        "[[device]]\nname = \"vb\"\nbackend = \"af_packet\"\naddresses = [\"10.77.0.2/16\"]\n";
    let file = own.dir.join("up.toml");
    let write = |service: &str| fs::write(&file, format!("{device}{service}")).expect("a file");
    let service = "[[service]]\nkind = \"discard\"\n";
    write("");
    let mut up = own.start(&own.rig.far, &["--config", "up.toml"]);
    own.shell("linerate set --name t net.core.rmem_default=8192");
    write(service);
    up.reload();
    let case = Case { own: &own, rule: "R43", also: &[], options: &[] };
    let socket = own.rig.near.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
    let mut anew = || {
        for services in ["", service] {
            write(services);
            up.reload();
        }
    };
    let found = prove(&case, || burst(&socket), Cure::Set(&mut anew));
    assert!(found["title"].as_str().is_some_and(|t| t.contains(":9: ")), "{found:#}");
    up.end();
}

#[test]
fn memory_of_all_datagrams_is_used_up() {
    let Some(own) = own("memory_of_all_datagrams_is_used_up", &[]) else { return };
    let room = "net.core.rmem_default=33554432";
    let up = own.up(&["--serve", "discard", "--set", room, "--set", "net.ipv4.udp_mem=1 2 4"]);
    let case = Case { own: &own, rule: "R44", also: &[], options: &[] };
    let socket = own.rig.near.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
    prove(&case, || burst(&socket), Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_port_without_a_socket_is_named() {
    let Some(own) = own("a_port_without_a_socket_is_named", &[]) else { return };
    let up = own.up(&["--serve", "discard"]);
    let case = Case { own: &own, rule: "R45", also: &["R42"], options: &[] };
    let port = std::cell::Cell::new(9001);
    prove(
        &case,
        || {
            datagrams(&own.rig.near, (FAR, port.get()), 20, 100);
            std::thread::sleep(Duration::from_millis(5));
        },
        Cure::By(&mut || port.set(9)),
    );
    up.end();
}

//! What an instance loses on its way out.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::frames::{self, Frame};
use super::own::{Own, own};
use super::rig::FAR;
use super::traffic::{datagrams, udp_socket};

/// Datagrams for the echo, from addresses that somebody made up; their answers go there.
fn echoed_to(own: &Own, n: u8, each: u16, src: impl Fn(u8) -> Ipv4Addr) {
    let frame = |i| {
        let body = frames::udp((src(i), 5000), (FAR, 7), b"who is there", 0);
        Frame::to(&own.rig.far, "vb", src(i), FAR, 17, body).bytes()
    };
    let all: Vec<Vec<u8>> = (0..n).flat_map(|i| vec![frame(i); each.into()]).collect();
    frames::send(&own.rig.near, "va", &all);
    std::thread::sleep(Duration::from_millis(10));
}

#[test]
fn a_transmit_queue_that_is_too_short_drops() {
    let Some(own) = own("a_transmit_queue_that_is_too_short_drops", &[]) else { return };
    let up = own.up(&["--serve", "echo", "--set", "dev.txqueuelen=4"]);
    let hears = udp_socket(&own.rig.near, 5000, 4 << 20);
    hears.set_nonblocking(true).expect("a socket");
    let case = Case { own: &own, rule: "R60", also: &[], options: &[] };
    let dose = || {
        for _ in 0..60 {
            let _ = hears.send_to(&[7; 60], (FAR, 7));
        }
        std::thread::sleep(Duration::from_millis(5));
        while hears.recv(&mut [0; 100]).is_ok() {}
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_shaper_that_drops_is_named_and_given_a_longer_queue() {
    let Some(own) = own("a_shaper_that_drops_is_named_and_given_a_longer_queue", &[]) else {
        return;
    };
    let up = own.up(&["--serve", "echo", "--set", "net.core.rmem_default=33554432"]);
    own.shell("linerate set --name t qdisc.vb.root='tbf rate 8mbit burst 4k limit 8k'");
    let hears = udp_socket(&own.rig.near, 5000, 4 << 20);
    hears.set_nonblocking(true).expect("a socket");
    let case = Case { own: &own, rule: "R60", also: &[], options: &[] };
    let dose = || {
        // A burst of 40 kB that the rate has sent before the next one.
        for _ in 0..40 {
            let _ = hears.send_to(&[7; 960], (FAR, 7));
        }
        std::thread::sleep(Duration::from_millis(60));
        while hears.recv(&mut [0; 1000]).is_ok() {}
    };
    let found = prove(&case, dose, Cure::Set(&mut || {}));
    assert!(found["cause"].as_str().is_some_and(|c| c.contains("tbf is a shaper")), "{found:#}");
    up.end();
}

/// The interface below sends a byte now and then, so its packet socket's ring stays full.
#[test]
fn a_device_that_takes_nothing_for_seconds_is_named() {
    let Some(own) = own("a_device_that_takes_nothing_for_seconds_is_named", &[]) else { return };
    let up = own.up(&["--serve", "echo", "--set", "ring.tx=64"]);
    own.rig.far.sh("tc qdisc add dev vb root tbf rate 8bit burst 1600 limit 100000000");
    let hears = udp_socket(&own.rig.near, 5000, 4 << 20);
    hears.set_nonblocking(true).expect("a socket");
    let case = Case { own: &own, rule: "R69", also: &[], options: &[] };
    let first = Cell::new(400);
    let dose = || {
        for _ in 0..first.replace(1) {
            let _ = hears.send_to(&[7; 600], (FAR, 7));
        }
        std::thread::sleep(Duration::from_millis(20));
        while hears.recv(&mut [0; 1000]).is_ok() {}
    };
    let found = prove(&case, dose, Cure::By(&mut || own.rig.far.sh("tc qdisc del dev vb root")));
    let advice = found["advice"][0]["what"].as_str();
    assert!(advice.is_some_and(|a| a.contains("interface below")), "{found:#}");
    up.end();
}

#[test]
fn packets_wait_in_vain_for_a_neighbour() {
    let Some(own) = own("packets_wait_in_vain_for_a_neighbour", &[]) else { return };
    let queue = "net.ipv4.neigh.default.unres_qlen_bytes=4096";
    let up = own.up(&["--serve", "echo", "--set", queue]);
    let case = Case { own: &own, rule: "R41", also: &[], options: &[] };
    let nobody = Ipv4Addr::new(10, 77, 200, 1);
    prove(
        &case,
        || echoed_to(&own, 1, 30, |_| nobody),
        // It comes up.
        Cure::By(&mut || own.rig.near.ip("addr add 10.77.200.1/32 dev va")),
    );
    up.end();
}

#[test]
fn a_full_neighbour_table_is_named_and_made_larger() {
    let Some(own) = own("a_full_neighbour_table_is_named_and_made_larger", &[]) else { return };
    let up = own.up(&["--serve", "echo", "--set", "net.ipv4.neigh.default.gc_thresh3=8"]);
    // All of them are there.
    own.rig.near.ip("route add local 10.77.201.0/24 dev va");
    let case = Case { own: &own, rule: "R40", also: &[], options: &[] };
    let dose = || echoed_to(&own, 60, 1, |i| Ipv4Addr::new(10, 77, 201, i + 1));
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn answers_that_no_route_leads_to_are_named() {
    let Some(own) = own("answers_that_no_route_leads_to_are_named", &[]) else { return };
    let up = own.up(&["--serve", "echo", "--serve", "discard"]);
    let case = Case { own: &own, rule: "R89", also: &[], options: &[] };
    let cured = Cell::new(false);
    let dose = || match cured.get() {
        false => echoed_to(&own, 10, 1, |_| Ipv4Addr::new(192, 0, 2, 7)),
        true => datagrams(&own.rig.near, (FAR, 9), 10, 60),
    };
    prove(&case, dose, Cure::By(&mut || cured.set(true)));
    up.end();
}

/// The answer to what comes by one device would leave by the other.
#[test]
fn the_reverse_path_filter_is_named_and_loosened() {
    let Some(own) = own("the_reverse_path_filter_is_named_and_loosened", &[]) else { return };
    let device = |name: &str, backend: &str, addr: &str| {
        format!(
            "[[device]]\nname = \"{name}\"\nbackend = \"{backend}\"\naddresses = [\"{addr}\"]\n"
        )
    };
    let knobs = "[knobs]\nnet.ipv4.conf.all.rp_filter = 1\n";
    let devices = [("vb", "af_packet", "10.77.0.2/16"), ("lr1", "tap", "10.88.0.1/16")];
    let devices = devices.map(|(name, backend, addr)| device(name, backend, addr)).concat();
    let text = format!("{knobs}{devices}[[service]]\nkind = \"discard\"\n");
    std::fs::write(own.dir.join("up.toml"), text).expect("a file");
    let up = own.start(&own.rig.far, &["--config", "up.toml"]);
    let case = Case { own: &own, rule: "R33", also: &[], options: &[] };
    let src = Ipv4Addr::new(10, 88, 0, 5);
    let dose = || {
        let body = frames::udp((src, 5000), (FAR, 9), b"from afar", 0);
        let frame = Frame::to(&own.rig.far, "vb", src, FAR, 17, body).bytes();
        frames::send(&own.rig.near, "va", &vec![frame; 20]);
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

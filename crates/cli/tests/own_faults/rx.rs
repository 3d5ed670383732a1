//! Packets for which there is no room, or no time, on their way in.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::own::{Own, Up, own};
use super::rig::FAR;
use super::traffic::{connect, datagrams, write_for};

/// Where what comes is thrown away.
const DISCARD: u16 = 9;

fn rest() {
    std::thread::sleep(Duration::from_millis(5));
}

#[test]
fn a_ring_that_overflows_in_bursts_is_made_larger() {
    let Some(own) = own("a_ring_that_overflows_in_bursts_is_made_larger", &[]) else { return };
    let near = &own.rig.near;
    let dev = ["--dev", "lr0", "--backend", "tap", "--addr", "10.78.0.2/24"];
    let up = own.start(near, &[&dev[..], &["--serve", "discard", "--set", "ring.rx=16"]].concat());
    near.ip("addr add 10.78.0.1/24 dev lr0");
    let case = Case { own: &own, rule: "R01", also: &[], options: &[] };
    let to = (Ipv4Addr::new(10, 78, 0, 2), DISCARD);
    let dose = || {
        datagrams(near, to, 200, 60);
        rest();
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_budget_that_is_too_small_squeezes() {
    let Some(own) = own("a_budget_that_is_too_small_squeezes", &[]) else { return };
    let up = own.up(&["--serve", "discard", "--set", "net.core.netdev_budget=8"]);
    let case = Case { own: &own, rule: "R16", also: &[], options: &[] };
    let dose = || {
        datagrams(&own.rig.near, (FAR, DISCARD), 100, 60);
        rest();
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_time_limit_that_is_too_short_squeezes() {
    let Some(own) = own("a_time_limit_that_is_too_short_squeezes", &[]) else { return };
    let up = own.up(&["--serve", "discard", "--set", "net.core.netdev_budget_usecs=1"]);
    let case = Case { own: &own, rule: "R17", also: &[], options: &[] };
    let dose = || {
        datagrams(&own.rig.near, (FAR, DISCARD), 200, 60);
        rest();
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

/// What comes at once is no loss of the socket's, and none too much for a pass.
const ROOM: [&str; 4] =
    ["--set", "net.core.rmem_default=33554432", "--set", "net.core.netdev_budget=1000"];

/// Everything comes by the first queue and is handed to the second shard.
fn steered(own: &Own, more: &[&str]) -> Up {
    let two = ["--serve", "discard", "--queues", "2", "--set", "queues.rx.rps_cpus=2"];
    let up = own.up(&[&two[..], &ROOM, more].concat());
    own.shell("linerate set --name t rss.weight=1,0");
    up
}

#[test]
fn a_backlog_that_overflows_in_bursts_is_made_longer() {
    let Some(own) = own("a_backlog_that_overflows_in_bursts_is_made_longer", &[]) else { return };
    let up = steered(&own, &["--set", "net.core.netdev_max_backlog=16"]);
    let case = Case { own: &own, rule: "R15", also: &[], options: &[] };
    let dose = || {
        datagrams(&own.rig.near, (FAR, DISCARD), 200, 60);
        rest();
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_flow_over_its_limit_is_named() {
    let Some(own) = own("a_flow_over_its_limit_is_named", &[]) else { return };
    let limit = ["--set", "net.core.flow_limit_cpu_bitmap=3"];
    let length = ["--set", "net.core.netdev_max_backlog=16"];
    let up = steered(&own, &[limit, length].concat());
    let case = Case { own: &own, rule: "R22", also: &["R15"], options: &[] };
    let socket = own.rig.near.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
    let dose = || {
        for _ in 0..400 {
            let _ = socket.send_to(&[7; 60], (FAR, DISCARD));
        }
        rest();
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn steering_by_flows_that_is_set_by_half_is_named() {
    let Some(own) = own("steering_by_flows_that_is_set_by_half_is_named", &[]) else { return };
    let up = own.up(&["--serve", "discard", "--set", "net.core.rps_sock_flow_entries=4096"]);
    let case = Case { own: &own, rule: "R23", also: &[], options: &[] };
    let dose = || datagrams(&own.rig.near, (FAR, DISCARD), 5, 60);
    prove(&case, dose, Cure::Set(&mut || {}));
    up.end();
}

#[test]
fn a_receiver_without_gro_is_named() {
    let Some(own) = own("a_receiver_without_gro_is_named", &[]) else { return };
    own.rig.near.sh("ethtool -K va tso off gso off");
    // That they are many is nobody's fault.
    let long =
        ["--set", "net.core.netdev_budget=10000", "--set", "net.core.netdev_budget_usecs=1000000"];
    let up = own.up(&[&["--serve", "discard", "--set", "features.gro=0"][..], &long].concat());
    let mut client = connect(&own.rig.near, (FAR, DISCARD));
    // As much as a machine can do that has much else to do.
    let options = ["--limit", "gro_pps=500"];
    let case = Case { own: &own, rule: "R25", also: &[], options: &options };
    let dose = || {
        write_for(&mut client, Duration::from_millis(20));
    };
    prove(&case, dose, Cure::Set(&mut || {}));
    drop(client);
    up.end();
}

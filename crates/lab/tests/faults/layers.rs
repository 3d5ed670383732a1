//! Devices on top of others: VLANs, bridges, tunnels; and the way that leads back where it came from.

use std::cell::Cell;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::doctor::{Case, Cure, look, prove, snapshot};
use super::frames::{self, Frame, mac_of};
use super::rig::{FAR, NEAR, Rig, rig};
use super::traffic::{datagrams, udp_socket};

/// Adds an 802.1Q tag.
fn tagged(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

#[test]
fn frames_with_a_tag_of_no_vlan_are_named() {
    let Some(rig) = rig("frames_with_a_tag_of_no_vlan_are_named", &[]) else { return };
    let _socket = udp_socket(&rig.far, 9600, 1 << 20);
    let body = frames::udp((NEAR, 5000), (FAR, 9600), b"datagram", 0);
    let frame = Frame::to(&rig.far, "vb", NEAR, FAR, 17, body).bytes();
    let tag = Cell::new(true);
    let case = Case { ns: &rig.far, rule: "R30", also: &[] };
    let found = prove(
        &case,
        || {
            let one = if tag.get() { tagged(frame.clone(), 5) } else { frame.clone() };
            frames::send(&rig.near, "va", &vec![one; 20]);
        },
        Cure::By(&mut || tag.set(false)),
    );
    assert!(found.cause.contains("VLAN"), "{found:#?}");
}

/// `vb` becomes a port of a bridge, which has its address.
fn bridged(rig: &Rig) {
    rig.far.ip("link add br0 type bridge");
    rig.far.ip("link set vb master br0");
    rig.far.ip("addr del 10.77.0.2/16 dev vb");
    rig.far.ip("addr add 10.77.0.2/16 dev br0");
    rig.far.ip("link set br0 up");
}

#[test]
fn a_port_of_a_bridge_that_is_closed_is_named() {
    let Some(rig) = rig("a_port_of_a_bridge_that_is_closed_is_named", &[]) else { return };
    bridged(&rig);
    let _socket = udp_socket(&rig.far, 9601, 1 << 20);
    // It learns addresses and forwards nothing, and no spanning tree will end that.
    rig.far.ip("link set vb type bridge_slave state 2");
    let case = Case { ns: &rig.far, rule: "R75", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, 9601), 20, 100),
        Cure::By(&mut || rig.far.ip("link set vb type bridge_slave state 3")),
    );
    assert!(found.title.contains("learning") && found.title.contains("br0"), "{found:#?}");
}

/// A port that spanning tree lets wait says so, and opens by itself.
#[test]
fn a_port_that_spanning_tree_opens_late_is_named() {
    let Some(rig) = rig("a_port_that_spanning_tree_opens_late_is_named", &[]) else { return };
    rig.far.ip("link set vb down");
    bridged(&rig);
    rig.far.sysfs("class/net/br0/bridge/stp_state", "1");
    rig.far.ip("link set vb up");
    // Listening and learning take 15 s each.
    let found = look(&rig.far, || datagrams(&rig.near, (FAR, 9), 5, 100));
    let names: Vec<_> = found.findings.iter().map(|f| f.id).collect();
    assert_eq!(names, ["R75"], "{}", found.text());
    assert!(found.findings[0].cause.contains("15 s"), "{}", found.text());
}

/// A VXLAN between the ends: 10.79.0.1 and 10.79.0.2, each with its id.
fn vxlan(rig: &Rig, near: u32, far: u32) {
    let ends = [(&rig.near, near, 2, 1), (&rig.far, far, 1, 2)];
    for (ns, id, other, own) in ends {
        // Without `dev` it does not know what carries it, and takes an MTU of 1500.
        ns.ip(&format!("link add vx0 type vxlan id {id} remote 10.77.0.{other} dstport 4789"));
        ns.sysctl("net.ipv6.conf.vx0.disable_ipv6", "1");
        ns.ip(&format!("addr add 10.79.0.{own}/24 dev vx0"));
        ns.ip("link set vx0 up");
    }
}

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

#[test]
fn a_tunnel_with_an_mtu_that_does_not_fit_is_named_and_made_smaller() {
    let Some(rig) = rig("a_tunnel_with_an_mtu_that_does_not_fit_is_named_and_made_smaller", &[])
    else {
        return;
    };
    vxlan(&rig, 7, 7);
    let _socket = udp_socket(&rig.far, 9602, 4 << 20);
    let case = Case { ns: &rig.near, rule: "R76", also: &[] };
    let found =
        prove(&case, || datagrams(&rig.near, (INSIDE, 9602), 20, 1472), Cure::Advice(&rig.near));
    assert_eq!(found.subject, "vx0");
    assert_eq!(found.advice[0].command, "ip link set vx0 mtu 1450");
}

#[test]
fn a_tunnel_with_another_id_at_the_other_end_is_named() {
    let Some(rig) = rig("a_tunnel_with_another_id_at_the_other_end_is_named", &[]) else { return };
    vxlan(&rig, 7, 8);
    rig.near.ip("neigh add 10.79.0.2 lladdr 02:00:00:00:00:79 dev vx0");
    let case = Case { ns: &rig.far, rule: "R91", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (INSIDE, 9), 20, 100),
        Cure::By(&mut || {
            rig.far.ip("link del vx0");
            rig.far.ip("link add vx0 type vxlan id 7 remote 10.77.0.1 dstport 4789");
            rig.far.ip("link set vx0 up");
        }),
    );
    assert!(found.cause.contains("vx0 has 8"), "{found:#?}");
}

#[test]
fn a_tunnel_whose_end_has_no_route_is_named() {
    let Some(rig) = rig("a_tunnel_whose_end_has_no_route_is_named", &[]) else { return };
    rig.near.ip("link add vx0 type vxlan id 7 remote 192.0.2.7 dstport 4789");
    rig.near.sysctl("net.ipv6.conf.vx0.disable_ipv6", "1");
    rig.near.ip("addr add 10.79.0.1/24 dev vx0");
    rig.near.ip("link set vx0 up");
    rig.near.ip("neigh add 10.79.0.2 lladdr 02:00:00:00:00:79 dev vx0");
    let case = Case { ns: &rig.near, rule: "R92", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (INSIDE, 9), 20, 100),
        Cure::By(&mut || rig.near.ip("route add 192.0.2.0/24 via 10.77.0.2")),
    );
    assert!(found.cause.contains("no route"), "{found:#?}");
}

/// What links say of how they were made.
#[test]
fn kinds_of_devices_are_what_ip_shows() {
    let Some(rig) = rig("kinds_of_devices_are_what_ip_shows", &[]) else { return };
    vxlan(&rig, 7, 7);
    bridged(&rig);
    rig.far.sysfs("class/net/br0/bridge/forward_delay", "400");
    let far = snapshot(&rig.far);
    let (bridge, port, tunnel) = (&far.devs["br0"], &far.devs["vb"], &far.devs["vx0"]);
    assert_eq!(bridge.kind_info.get("forward_delay"), Some(400), "{:?}", bridge.kind_info);
    assert_eq!(bridge.kind_info.get("stp_state"), Some(0));
    assert_eq!(port.port_info.get("state"), Some(3), "{:?}", port.port_info);
    assert_eq!(port.port_info.get("learning"), Some(1));
    assert_eq!(tunnel.kind_info.get("id"), Some(7), "{:?}", tunnel.kind_info);
    assert_eq!(tunnel.kind_info.get("dstport"), Some(4789));
}

/// `near` sends to 10.88.0.0/16 over `far`, whose way there leads back over the same link.
fn detour(rig: &Rig) {
    for ns in [&rig.near, &rig.far] {
        // What counts of `send_redirects` is either of the two.
        ns.sysctl("net.ipv4.conf.all.send_redirects", "0");
        ns.sysctl("net.ipv4.conf.all.accept_redirects", "0");
    }
    rig.near.sysctl("net.ipv4.conf.va.accept_redirects", "0");
    rig.far.sysctl("net.ipv4.ip_forward", "1");
    rig.far.sysctl("net.ipv4.conf.vb.send_redirects", "1");
    rig.near.ip("route add 10.88.0.0/16 via 10.77.0.2");
    rig.far.ip("route add 10.88.0.0/16 via 10.77.0.3");
    let mac = mac_of(&rig.near, "va").map(|b| format!("{b:02x}")).join(":");
    rig.far.ip(&format!("neigh add 10.77.0.3 lladdr {mac} dev vb"));
    for n in 1..=60 {
        rig.near.ip(&format!("addr add 10.77.1.{n}/32 dev va"));
    }
}

/// Datagrams to behind the detour, from senders that have not been told yet: each is told a few times.
fn over_the_detour(rig: &Rig, turn: &Cell<u8>) {
    for _ in 0..4 {
        turn.set(turn.get() + 1);
        let from = Ipv4Addr::new(10, 77, 1, turn.get());
        rig.near.run(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let _ = socket.send_to(b"datagram", "10.88.0.1:9");
        });
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn redirects_that_a_router_sends_are_named_and_switched_off() {
    let Some(rig) = rig("redirects_that_a_router_sends_are_named_and_switched_off", &[]) else {
        return;
    };
    detour(&rig);
    let turn = Cell::new(0);
    let case = Case { ns: &rig.far, rule: "R77", also: &[] };
    prove(&case, || over_the_detour(&rig, &turn), Cure::Advice(&rig.far));
}

#[test]
fn redirects_that_come_in_are_named() {
    let Some(rig) = rig("redirects_that_come_in_are_named", &[]) else { return };
    detour(&rig);
    let turn = Cell::new(0);
    // What comes back over the detour is not for this host.
    let found = look(&rig.near, || over_the_detour(&rig, &turn));
    let finding = found.findings.iter().find(|f| f.id == "R77");
    let finding = finding.unwrap_or_else(|| panic!("{}", found.text()));
    assert!(finding.cause.contains("not obeyed"), "{finding:#?}");
    assert!(found.findings.iter().all(|f| ["R77", "R32"].contains(&f.id)), "{}", found.text());
    rig.near.ip("route replace 10.88.0.0/16 via 10.77.0.3");
    rig.near.ip("neigh add 10.77.0.3 lladdr 02:00:00:00:00:99 dev va");
    let left = look(&rig.near, || over_the_detour(&rig, &turn));
    assert!(!left.has("R77"), "{}", left.text());
}

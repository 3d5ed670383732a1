//! Goal: what is read by netlink and ioctl is what `ip`, `tc`, `ss` and `ethtool` show of the same
//! kernel, and what is changed is changed.
//! Method: a network namespace of its own with a veth pair, a shaper, sockets and traffic; both
//! readings of it are compared field by field.
//!
//! Where namespaces or those programs are not to be had, tests say SKIP and why.

#[path = "../../dev/tests/again/mod.rs"]
mod again;
#[path = "netlink/rig.rs"]
mod rig;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use again::{in_netns, skip};
use linerate_host::Snapshot;
use linerate_host::netlink;
use linerate_host::source::Source as _;
use rig::{Host, full, has, json, run, veth};

#[test]
fn links_are_what_ip_shows() {
    const TEST: &str = "links_are_what_ip_shows";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("ip link add br0 type bridge");
    run("ip link set va master br0 mtu 1400 txqueuelen 77 promisc on");
    let s = full();
    let shown = json("ip -j -s -s -d link");
    let shown = shown.as_array().unwrap();
    assert_eq!(s.devs.len(), shown.len());
    for link in shown {
        let dev = &s.devs[link["ifname"].as_str().unwrap()];
        assert_eq!(u64::from(dev.ifindex), link["ifindex"]);
        assert_eq!(u64::from(dev.mtu), link["mtu"]);
        assert_eq!(Some(u64::from(dev.txqueuelen)), link["txqlen"].as_u64().or(Some(0)));
        assert_eq!(dev.operstate.to_uppercase(), link["operstate"]);
        assert_eq!(u64::from(dev.promiscuity), link["promiscuity"]);
        assert_eq!(dev.master.as_deref(), link["master"].as_str());
        assert_eq!(dev.kind, link["linkinfo"]["info_kind"].as_str().unwrap_or_default());
        for name in ["gso_max_size", "gso_max_segs"] {
            assert_eq!(dev.settings.get(name), link[name].as_u64(), "{name}");
        }
        let flags: Vec<&str> =
            link["flags"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
        // ip says NO-CARRIER for UP without RUNNING, and hides RUNNING.
        for flag in dev.flags.iter().filter(|f| *f != "RUNNING") {
            assert!(flags.contains(&flag.as_str()), "{flag} in {flags:?}");
        }
        let (rx, tx) = (&link["stats64"]["rx"], &link["stats64"]["tx"]);
        for (ours, theirs) in [
            ("rx_packets", &rx["packets"]),
            ("rx_bytes", &rx["bytes"]),
            ("rx_dropped", &rx["dropped"]),
            ("rx_errors", &rx["errors"]),
            ("multicast", &rx["multicast"]),
            ("rx_crc_errors", &rx["crc_errors"]),
            ("rx_missed_errors", &rx["missed_errors"]),
            ("tx_packets", &tx["packets"]),
            ("tx_bytes", &tx["bytes"]),
            ("tx_dropped", &tx["dropped"]),
            ("tx_carrier_errors", &tx["carrier_errors"]),
        ] {
            assert_eq!(dev.stats.get(ours), theirs.as_u64(), "{ours} of {}", dev.name);
        }
    }
    let (va, vb) = (&s.devs["va"], &s.devs["vb"]);
    assert_eq!(va.link, Some(vb.ifindex));
    assert!(vb.stats.get("rx_packets").unwrap() > 0, "there was traffic");
    assert!(va.carrier.get("carrier_changes").is_some());
}

#[test]
fn qdiscs_are_what_tc_shows() {
    const TEST: &str = "qdiscs_are_what_tc_shows";
    if !has(TEST, &["ip", "tc"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("tc qdisc add dev va root handle 8: tbf rate 8mbit burst 16k limit 30k");
    run("tc qdisc add dev va parent 8:1 handle 9: pfifo limit 10");
    run("tc qdisc add dev vb root handle 7: htb default 3");
    run("tc qdisc add dev vb ingress");
    // More than the child holds is dropped; nothing is sent once the burst is used up.
    let out = UdpSocket::bind("10.77.0.1:0").unwrap();
    for _ in 0..200 {
        out.send_to(&[7; 1400], "10.77.0.9:9").unwrap();
    }
    let before = json("tc -s -j qdisc");
    let s = full();
    let after = json("tc -s -j qdisc");
    let of = |dev: &str, kind: &str| {
        s.devs[dev].qdiscs.iter().find(|q| q.kind == kind).unwrap_or_else(|| panic!("{kind}"))
    };
    let (before, after) = (before.as_array().unwrap(), after.as_array().unwrap());
    assert!(before.len() >= 4);
    for (q, later) in before.iter().zip(after) {
        let ours = of(q["dev"].as_str().unwrap(), q["kind"].as_str().unwrap());
        assert_eq!(ours.handle, q["handle"]);
        let parent = q["parent"].as_str().map_or("root".to_string(), str::to_string);
        assert!(ours.parent == parent || ours.parent == "ingress", "{} {parent}", ours.parent);
        for name in ["drops", "overlimits", "requeues"] {
            // The shaper goes on meanwhile.
            let (from, to) = (q[name].as_u64().unwrap(), later[name].as_u64().unwrap());
            let between = (from..=to).contains(&ours.stats.get(name).unwrap());
            assert!(between, "{name} of {} {:?}: {from} to {to}", ours.kind, ours.stats);
        }
    }
    let (tbf, pfifo) = (of("va", "tbf"), of("va", "pfifo"));
    assert!(pfifo.stats.get("drops").unwrap() > 0, "{pfifo:?}");
    assert_eq!(pfifo.parent, "8:1");
    assert_eq!(pfifo.options.get("limit"), Some(10));
    assert_eq!(tbf.options.get("rate_bps"), Some(1_000_000));
    let burst = tbf.options.get("burst").unwrap();
    assert!((16_300..=16_384).contains(&burst), "{burst} B: a burst is kept as ticks of 64 ns");
    assert_eq!(of("vb", "htb").options.get("default"), Some(3));
    assert_eq!(of("vb", "ingress").parent, "ingress");
}

#[test]
fn sockets_are_what_ss_shows() {
    const TEST: &str = "sockets_are_what_ss_shows";
    if !has(TEST, &["ip", "ss"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let listener = TcpListener::bind("10.77.0.1:7001").unwrap();
    let at = listener.local_addr().unwrap();
    let client = TcpStream::connect(at).unwrap();
    let server = listener.accept().unwrap().0;
    let _waits = TcpStream::connect(at).unwrap();
    let v6 = TcpListener::bind("[::1]:7002").unwrap();
    let udp = UdpSocket::bind("10.77.0.1:7003").unwrap();
    let to = UdpSocket::bind("10.77.0.1:0").unwrap();
    to.connect(udp.local_addr().unwrap()).unwrap();
    for _ in 0..2000 {
        to.send(&[1; 500]).unwrap();
    }
    std::io::Write::write_all(&mut &client, &[5; 1000]).unwrap();
    let s = full();
    let sockets = &s.sockets;
    let me = std::process::id();

    let l = sockets.listeners.iter().find(|l| l.local == at).unwrap();
    assert_eq!((l.waiting, l.drops), (1, 0));
    let shown = run("ss -Hltn sport = 7001");
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!([words[1], words[2]], [l.waiting.to_string(), l.backlog.to_string()]);
    assert_eq!(l.owner.process.as_ref().map(|p| p.0), Some(me), "{:?}", l.owner);
    assert!(sockets.listeners.iter().any(|l| l.local == v6.local_addr().unwrap()));

    let u = sockets.udp.iter().find(|u| u.local == udp.local_addr().unwrap()).unwrap();
    let shown = run("ss -Huanm sport = 7003");
    let skmem = skmem(&shown);
    assert!(u.drops > 0, "2000 x 500 B are more than a buffer holds");
    assert_eq!(u64::from(u.drops), skmem["d"]);
    assert_eq!(u64::from(u.rmem), skmem["r"]);
    assert_eq!(u64::from(u.rcvbuf), skmem["rb"]);
    assert_eq!(u64::from(u.sndbuf), skmem["tb"]);
    assert_eq!(u.remote, None);
    let connected = sockets.udp.iter().find(|u| u.local == to.local_addr().unwrap()).unwrap();
    assert_eq!(connected.remote, Some(udp.local_addr().unwrap()));

    assert_eq!(sockets.tcp_states.get("ESTABLISHED"), Some(4));
    let end = sockets.tcp.iter().find(|t| t.local == server.peer_addr().unwrap()).unwrap();
    assert_eq!((end.remote, end.state.as_str()), (at, "ESTABLISHED"));
    let shown = run(&format!("ss -Htinm sport = {}", end.local.port()));
    let value = |name: &str| {
        let from = shown.split_once(name).unwrap_or_else(|| panic!("{name} in {shown}")).1;
        from.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().ok()
    };
    assert_eq!(end.info.get("snd_cwnd"), value("cwnd:"));
    assert_eq!(end.info.get("snd_mss"), value(" mss:"));
    assert_eq!(end.info.get("pmtu"), value("pmtu:"));
    assert_eq!(end.info.get("bytes_sent"), value("bytes_sent:"));
    assert_eq!(end.info.get("bytes_sent"), Some(1000));
    assert_eq!(end.info.get("snd_wnd"), value("snd_wnd:"));
    assert_eq!(end.info.get("rcv_space"), value("rcv_space:"));
    assert!(shown.contains(&end.cong) && !end.cong.is_empty(), "{}", end.cong);
    let start = sockets.tcp.iter().find(|t| t.remote == server.peer_addr().unwrap()).unwrap();
    assert_eq!(start.recv_q, 1000);
    assert_eq!(start.owner.process.as_ref().map(|p| p.0), Some(me));

    let most = sockets.port_use.first().unwrap();
    assert_eq!((most.remote, most.ports, most.time_wait), (at, 2, 0));
}

fn skmem(shown: &str) -> BTreeMap<String, u64> {
    let inside = shown.split_once("skmem:(").unwrap().1.split_once(')').unwrap().0;
    let pair = |word: &str| {
        let at = word.find(|c: char| c.is_ascii_digit()).unwrap();
        (word[..at].to_string(), word[at..].parse().unwrap())
    };
    inside.split(',').map(pair).collect()
}

#[test]
fn ten_thousand_sockets_are_a_summary_and_the_worst_of_them() {
    const TEST: &str = "ten_thousand_sockets_are_a_summary_and_the_worst_of_them";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let wanted = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let room = limit.maximum.unwrap_or(u64::MAX).saturating_sub(100);
    let pairs = (wanted / 2).min(room / 2);
    if pairs < 1000 {
        return skip(TEST, "RLIMIT_NOFILE is below 2100");
    }
    let up = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, up).unwrap();
    let listener = TcpListener::bind("10.77.0.1:7001").unwrap();
    let at = listener.local_addr().unwrap();
    let mut open = Vec::new();
    for _ in 0..pairs {
        open.push(TcpStream::connect(at).unwrap());
        open.push(listener.accept().unwrap().0);
    }
    std::io::Write::write_all(&mut &open[0], b"nobody reads this").unwrap();
    let mut host = Host::default();
    let started = Instant::now();
    let brief = host.read("netlink/sock_diag/tcp").unwrap();
    eprintln!("{} sockets in {:?}", pairs * 2, started.elapsed());
    assert!(brief.len() as u64 >= pairs * 2 * 72);
    let mut s = Snapshot::default();
    let started = Instant::now();
    netlink::collect(&mut host, linerate_host::collect::Tier::Full, &mut s);
    eprintln!("everything in {:?}", started.elapsed());
    assert_eq!(s.sockets.tcp_states.get("ESTABLISHED"), Some(pairs * 2));
    let most = s.sockets.port_use.first().unwrap();
    assert_eq!((most.remote, u64::from(most.ports)), (at, pairs));
    // One socket has something to say, and only that is asked again.
    assert_eq!(s.sockets.tcp.len(), 1, "{:?}", s.sockets.tcp);
    assert_eq!(s.sockets.tcp[0].recv_q, 17);
    assert!(s.sockets.tcp[0].info.get("rcv_space").is_some());
}

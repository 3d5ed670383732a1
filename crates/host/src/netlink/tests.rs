//! Answers of a real kernel (`tests/netlink/data`), answers made by hand for what that machine has not,
//! and all of them damaged.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::attr::{HEADER, Request, u32_at};
use super::*;
use crate::counters::Counters;

/// Answers by name.
#[derive(Clone, Default)]
struct Answers(BTreeMap<String, Vec<u8>>);

impl Answers {
    fn of(data: &str) -> Answers {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netlink/data").join(data);
        let mut answers = Answers::default();
        answers.walk(&root, &root);
        assert!(answers.0.len() > 10, "the data are there");
        answers
    }

    fn walk(&mut self, root: &Path, dir: &Path) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.walk(root, &path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                self.0.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }

    fn read_all(&self) -> Snapshot {
        let mut s = Snapshot::default();
        collect(&mut self.clone(), Tier::Full, &mut s);
        s
    }
}

impl Source for Answers {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&mut self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(target_endian = "little")]
#[test]
fn a_recorded_namespace_is_read_as_it_was() {
    let s = Answers::of("veth").read_all();
    assert_eq!(s.devs.keys().collect::<Vec<_>>(), ["br0", "lo", "va", "vb"]);
    let (va, vb) = (&s.devs["va"], &s.devs["vb"]);
    assert_eq!((va.kind.as_str(), va.driver.as_str(), va.mtu), ("veth", "veth", 1500));
    assert_eq!((va.link, vb.link), (Some(vb.ifindex), Some(va.ifindex)));
    assert_eq!(vb.master.as_deref(), Some("br0"));
    assert_eq!(va.stats.len(), 25, "{:?}", va.stats);
    assert_eq!(va.stats.get("rx_otherhost_dropped"), Some(0));
    assert_eq!(va.stats.source(), "netlink/route/RTM_GETLINK va");
    assert_eq!(va.channels.get("rx-max"), Some(4));
    assert!(vb.features["generic-receive-offload"].on && !va.features["rx-gro"].on);
    assert!(va.features.len() > 60);
    assert_eq!(va.driver_stats.get("rx_queue_3_xdp_drops"), Some(0));
    assert_eq!(vb.napis.len(), 2, "one for each queue");
    assert!(va.rings.is_empty());
    let kinds: Vec<_> = va.qdiscs.iter().map(|q| (q.kind.as_str(), q.parent.as_str())).collect();
    assert_eq!(kinds, [("tbf", "root"), ("pfifo", "8:1")]);
    assert!(va.qdiscs[1].stats.get("drops").unwrap() > 50);
    assert_eq!(va.qdiscs[0].options.get("rate_bps"), Some(1_000_000));
    assert_eq!(s.neigh_states["inet"].get("FAILED"), Some(1));
    assert_eq!(s.neigh_states["inet"].get("PERMANENT"), Some(1));
    let bad = [("10.9.0.0/16", "blackhole"), ("2001:db8::/32", "prohibit")];
    assert_eq!(s.bad_routes, bad.map(|(a, b)| (a.to_string(), b.to_string())));
    let sockets = &s.sockets;
    let names: Vec<_> = sockets.listeners.iter().map(|l| l.local.to_string()).collect();
    assert_eq!(names, ["10.77.0.1:7001", "[::1]:7002"]);
    assert_eq!(sockets.listeners[0].owner.process.as_ref().unwrap().1, "python3");
    let udp = sockets.udp.iter().find(|u| u.local.port() == 7003).unwrap();
    assert!(udp.drops > 1000 && udp.rmem > udp.rcvbuf / 2, "{udp:?}");
    assert_eq!(sockets.tcp_states.get("ESTABLISHED"), Some(2));
    assert_eq!(sockets.tcp.len(), 2);
    assert!(sockets.tcp.iter().any(|t| t.recv_q == 1000));
    assert_eq!(sockets.taps.len(), 1);
    let tap = &sockets.taps[0];
    assert_eq!((tap.dev.as_deref(), tap.protocol, tap.drops), (Some("va"), 3, Some(0)));
}

/// A namespace with a bridge, a VXLAN, classes of htb and filters: `ip -d link`, `tc -s class` and
/// `tc -s filter` showed the same.
#[cfg(target_endian = "little")]
#[test]
fn recorded_layers_classes_and_filters_are_read_as_they_were() {
    let s = Answers::of("layers").read_all();
    let (bridge, port, tunnel) = (&s.devs["br0"], &s.devs["vb"], &s.devs["vx0"]);
    let info = |c: &Counters, names: &[&str]| names.iter().map(|n| c.get(n)).collect::<Vec<_>>();
    assert_eq!(info(&bridge.kind_info, &["stp_state", "forward_delay"]), [Some(0), Some(400)]);
    assert_eq!(info(&port.port_info, &["state", "learning", "isolated"]), [3, 1, 0].map(Some));
    let of = info(&tunnel.kind_info, &["id", "dstport", "ttl"]);
    assert_eq!(of, [Some(7), Some(4789), Some(9)]);
    assert_eq!(tunnel.kind_info.get("link").map(|n| n as u32), Some(s.devs["va"].ifindex));
    let classes: Vec<_> =
        s.devs["va"].classes.iter().map(|c| (c.handle.as_str(), c.parent.as_str())).collect();
    assert_eq!(classes, [("1:10", "1:1"), ("1:1", "root")]);
    let inner = &s.devs["va"].classes[0];
    let options = info(&inner.options, &["rate_bps", "ceil_bps", "prio"]);
    assert_eq!(options, [1_000_000, 2_000_000, 3].map(Some));
    assert_eq!(inner.leaf, "10:");
    assert!(inner.stats.get("packets") == Some(26) && inner.stats.get("overlimits") > Some(0));
    let filters = &s.devs["vb"].filters;
    let bpf = filters.iter().find(|f| f.kind == "bpf").unwrap();
    assert_eq!((bpf.at.as_str(), bpf.pref, bpf.direct), ("ingress", 7, true));
    let action = &filters.iter().find(|f| !f.actions.is_empty()).unwrap().actions[0];
    assert_eq!((action.kind.as_str(), action.does.as_str()), ("mirred", "stolen"));
    assert_eq!(action.stats.get("packets"), Some(10));
    let table = &s.conntrack.as_ref().unwrap().table;
    assert!(table.get("nf_conntrack_max") > Some(1000), "{table:?}");
    let stat = &s.conntrack.as_ref().unwrap().stat;
    assert_eq!((stat.get("invalid"), stat.bits()), (Some(10), 32));
}

/// Each processor's counters are a message; one that is missing would make the sum go back.
#[test]
fn connections_of_all_processors_are_summed_or_none() {
    let cpu = |drops: u32, invalid: u32| {
        let request = Request::new(1 << 8 | 4, 0, &[2, 0, 0, 0]);
        request.attr(10, &drops.to_be_bytes()).attr(4, &invalid.to_be_bytes()).finish(0)
    };
    let both = [cpu(u32::MAX, 1), cpu(3, 2)].concat();
    let mut s = Snapshot::default();
    s.host.cpus = vec![0, 1];
    for cut in 0..both.len() {
        conntrack::cpus(&both[..cut], &mut s);
        assert!(s.conntrack.is_none(), "cut at {cut}");
    }
    conntrack::cpus(&both, &mut s);
    let stat = s.conntrack.unwrap().stat;
    assert_eq!((stat.get("drop"), stat.get("invalid")), (Some(2), Some(3)));
    assert_eq!(stat.get("found"), None, "what is not told is not zero");
}

#[test]
fn queues_say_which_instance_polls_them() {
    let mut s = eth0();
    let queue = |kind: u32, id: u32, napi: u32| {
        let request = Request::new(30, 0, &[10, 1, 0, 0]).u32(1, id).u32(2, 7).u32(3, kind);
        request.u32(4, napi).finish(0)
    };
    let all = [queue(0, 1, 8194), queue(1, 0, 8193), queue(0, 9999, 1), queue(2, 0, 1)].concat();
    netdev::queues(&all, &mut s);
    let dev = &s.devs["eth0"];
    assert_eq!((dev.rx.len(), dev.rx[1].napi, dev.rx[0].napi), (2, Some(8194), None));
    assert_eq!((dev.tx.len(), dev.tx[0].napi), (1, Some(8193)));
}

/// What the kernel that runs here is built without: VLANs, GRE, bonds, policers.
#[test]
fn kinds_and_actions_that_are_not_here_are_read() {
    let kind = |name: &str, data: &dyn Fn(Request) -> Request| {
        let answer = link_answer(|r| r.nest(18, |i| i.text(1, name).nest(2, data)));
        answer.devs["eth0"].kind_info.clone()
    };
    let vlan = kind("vlan", &|d| d.attr(1, &5u16.to_ne_bytes()).attr(5, &0x8100u16.to_be_bytes()));
    assert_eq!((vlan.get("id"), vlan.get("protocol")), (Some(5), Some(0x8100)));
    let gre = kind("gre", &|d| d.u32(1, 3).attr(5, &77u32.to_be_bytes()).attr(10, &[1]));
    let names = ["link", "okey", "pmtudisc"].map(|n| gre.get(n));
    assert_eq!(names, [Some(3), Some(77), Some(1)]);
    let bond = link_answer(|r| r.nest(18, |i| i.text(4, "bond").nest(5, |d| d.attr(1, &[1]))));
    assert_eq!(bond.devs["eth0"].port_info.get("state"), Some(1));
    // A policer at ingress.
    let mut fixed = [0u8; 20];
    fixed[4..8].copy_from_slice(&7u32.to_ne_bytes());
    fixed[12..16].copy_from_slice(&0xffff_fff2u32.to_ne_bytes());
    fixed[16..20].copy_from_slice(&(9u32 << 16).to_ne_bytes());
    let police = [0u32, 2, 0, 0, 0].map(u32::to_ne_bytes).concat();
    let queue = [0u32, 0, 42, 0, 43].map(u32::to_ne_bytes).concat();
    let bytes = Request::new(44, 0, &fixed)
        .text(1, "matchall")
        .nest(2, |o| {
            o.nest(2, |list| {
                list.nest(1, |a| {
                    let a = a.text(1, "police").nest(2, |o| o.attr(1, &police));
                    a.nest(4, |s| s.attr(3, &queue))
                })
            })
        })
        .finish(0);
    let names = BTreeMap::from([(7, "eth0".to_owned())]);
    let mut s = eth0();
    filter::filters(&bytes, &names, &mut s);
    let filter = &s.devs["eth0"].filters[0];
    assert_eq!((filter.at.as_str(), filter.pref), ("ingress", 9));
    let action = &filter.actions[0];
    assert_eq!((action.kind.as_str(), action.does.as_str()), ("police", "drop"));
    assert_eq!((action.stats.get("drops"), action.stats.get("overlimits")), (Some(42), Some(43)));
    for cut in 0..bytes.len() {
        let mut s = eth0();
        filter::filters(&bytes[..cut], &names, &mut s);
        assert!(s.devs["eth0"].filters.is_empty(), "cut at {cut}");
    }
}

#[cfg(target_endian = "little")]
#[test]
fn a_recorded_card_is_read_as_it_was() {
    let s = Answers::of("virtio").read_all();
    let dev = &s.devs["eth0"];
    assert_eq!(dev.driver, "virtio_net");
    assert_eq!((dev.rings.get("rx"), dev.rings.get("rx-max")), (Some(256), Some(256)));
    assert_eq!(dev.channels.get("combined"), Some(1));
    assert_eq!(dev.coalesce.get("rx-frames"), Some(1));
    assert!(dev.driver_stats.get("rx0_kicks").unwrap() > 0, "{:?}", dev.driver_stats);
    assert_eq!((dev.rx.len(), dev.tx.len()), (1, 1));
    let sum = dev.qstats.get("rx-packets");
    assert!(sum > Some(0) && dev.rx[0].stats.get("rx-packets") == sum);
    assert_eq!(dev.napis.len(), 1);
    assert_eq!(dev.napis[0].settings.get("gro-flush-timeout"), Some(0));
    // What this kernel refused is noted, and nothing else.
    let notes: Vec<_> = s.notes.iter().map(|n| n.what.as_str()).collect();
    assert!(notes.contains(&"netlink/netdev/page-pool-stats-get"), "{notes:?}");
    assert!(!notes.contains(&"netlink/ethtool/RINGS_GET"));
}

/// Answers of which one is another.
struct Damaged<'a> {
    answers: &'a Answers,
    name: &'a str,
    bytes: &'a [u8],
}

impl Damaged<'_> {
    fn read_all(&mut self) -> Snapshot {
        let mut s = Snapshot::default();
        collect(self, Tier::Full, &mut s);
        s
    }
}

impl Source for Damaged<'_> {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        if name == self.name {
            return Ok(self.bytes.to_vec());
        }
        self.answers.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&mut self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// The same numbers, or none: what is cut must not become other numbers.
fn within(some: &Counters, whole: &Counters, what: &str) {
    for (name, value) in some.iter() {
        assert_eq!(Some(value), whole.get(name), "{name} of {what}");
    }
}

fn check(some: &Snapshot, whole: &Snapshot, what: &str) {
    for (name, dev) in &some.devs {
        let of = whole.devs.get(name).unwrap_or_else(|| panic!("{name} of {what}"));
        within(&dev.stats, &of.stats, what);
        within(&dev.driver_stats, &of.driver_stats, what);
        within(&dev.rings, &of.rings, what);
        within(&dev.channels, &of.channels, what);
        within(&dev.coalesce, &of.coalesce, what);
        for (feature, is) in &dev.features {
            // A group is made of those of its members that were read.
            if !super::ethtool::names::FEATURE_GROUPS.iter().any(|(long, ..)| long == feature) {
                assert_eq!(of.features[feature], *is, "{feature} of {what}");
            }
        }
        for (one, other) in dev.qdiscs.iter().zip(&of.qdiscs) {
            within(&one.stats, &other.stats, what);
        }
        within(&dev.kind_info, &of.kind_info, what);
        within(&dev.port_info, &of.port_info, what);
        for (one, other) in dev.classes.iter().zip(&of.classes) {
            within(&one.stats, &other.stats, what);
            within(&one.options, &other.options, what);
        }
        for (one, other) in dev.filters.iter().zip(&of.filters) {
            assert_eq!((&one.kind, &one.at), (&other.kind, &other.at), "{what}");
            for (one, other) in one.actions.iter().zip(&other.actions) {
                within(&one.stats, &other.stats, what);
            }
        }
    }
    for (one, other) in some.sockets.udp.iter().zip(&whole.sockets.udp) {
        assert_eq!(one.local, other.local, "{what}");
    }
}

#[test]
fn what_is_cut_anywhere_gives_less_and_nothing_else() {
    for data in ["veth", "virtio", "layers"] {
        let answers = Answers::of(data);
        let whole = answers.read_all();
        for (name, bytes) in &answers.0 {
            for cut in (0..bytes.len()).step_by(7) {
                let mut less = Damaged { answers: &answers, name, bytes: &bytes[..cut] };
                check(&less.read_all(), &whole, &format!("{name} cut at {cut}"));
            }
        }
    }
}

#[test]
fn a_message_whose_attributes_are_cut_gives_those_that_are_whole() {
    for data in ["veth", "virtio", "layers"] {
        let answers = Answers::of(data);
        let whole = answers.read_all();
        for (name, bytes) in answers.0.iter().filter(|(name, _)| name.starts_with("netlink/")) {
            let Some(len) = u32_at(bytes, 0).map(|len| len as usize) else { continue };
            let end = len.min(bytes.len());
            for cut in (HEADER..end).step_by(1 + end / 500) {
                let mut first = bytes[..cut].to_vec();
                first[..4].copy_from_slice(&u32::try_from(cut).unwrap().to_ne_bytes());
                let some = Damaged { answers: &answers, name, bytes: &first }.read_all();
                // Names of features are of one answer, bits of another.
                if !name.ends_with("FEATURES_GET") {
                    check(&some, &whole, &format!("{name}, its first message cut at {cut}"));
                }
            }
        }
    }
}

#[test]
fn garbage_is_read_without_panic() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for data in ["veth", "virtio", "layers"] {
        let answers = Answers::of(data);
        for round in 0..400 {
            let mut bad = answers.clone();
            for bytes in bad.0.values_mut() {
                for _ in 0..1 + round % 9 {
                    if bytes.is_empty() {
                        break;
                    }
                    let at = random() as usize % bytes.len();
                    bytes[at] = random() as u8;
                }
                if random() % 64 == 0 {
                    bytes.iter_mut().for_each(|b| *b = random() as u8);
                }
            }
            let s = bad.read_all();
            assert!(s.devs.len() < 64 && s.devs.values().all(|d| d.rx.len() <= 4096));
        }
    }
}

/// One message of the family `ethtool`, of device `eth0`.
fn ethtool_answer(header: u16, inside: impl FnOnce(Request) -> Request) -> Vec<u8> {
    let request = Request::new(21, 0, &[1, 1, 0, 0]).nest(header, |h| h.text(2, "eth0"));
    inside(request).finish(0)
}

fn u64_attr(request: Request, kind: u16, value: u64) -> Request {
    request.attr(kind, &value.to_ne_bytes())
}

fn eth0() -> Snapshot {
    let mut s = Snapshot::default();
    let dev = Dev { name: "eth0".into(), ifindex: 7, ..Dev::default() };
    s.devs.insert("eth0".into(), dev);
    s
}

#[test]
fn statistics_of_ports_have_their_standard_names() {
    let mut s = eth0();
    let stat = |group: Request, kind: u16, value: u64| group.nest(4, |n| u64_attr(n, kind, value));
    let bytes = ethtool_answer(2, |r| {
        r.nest(4, |g| stat(stat(g.u32(2, 1).u32(3, 17), 4, 3), 21, 5))
            .nest(4, |g| stat(g.u32(2, 3), 1, 9))
            .nest(4, |g| stat(g.u32(2, 99), 0, 9))
    });
    ethtool::stats(&bytes, &mut s);
    let pause = ethtool_answer(1, |r| {
        r.attr(2, &[1]).attr(3, &[0]).nest(5, |n| u64_attr(u64_attr(n, 2, 11), 3, 12))
    });
    ethtool::pause(&pause, &mut s);
    let fec = ethtool_answer(1, |r| {
        r.nest(5, |n| n.attr(2, &[[5u8, 0, 0, 0, 0, 0, 0, 0], [9; 8]].concat()).attr(3, &[1]))
    });
    ethtool::fec(&fec, &mut s);
    let dev = &s.devs["eth0"];
    let is = [
        ("FrameCheckSequenceErrors", 3),
        ("FrameTooLongErrors", 5),
        ("etherStatsOversizePkts", 9),
        ("fec_corrected_blocks", 5),
        ("rx_pause_frames", 12),
        ("tx_pause_frames", 11),
    ];
    assert_eq!(dev.std_stats.iter().collect::<Vec<_>>(), is);
    assert_eq!(dev.pause.iter().collect::<Vec<_>>(), [("autoneg", 1), ("rx", 0)]);
}

#[test]
fn page_pools_and_queues_are_summed() {
    let mut s = eth0();
    let pool = |inflight: u64| {
        let request = Request::new(30, 0, &[5, 1, 0, 0]).u32(1, 3).u32(2, 7);
        u64_attr(request, 4, inflight).finish(0)
    };
    let other = Request::new(30, 0, &[5, 1, 0, 0]).u32(2, 8).u32(4, 1000).finish(0);
    netdev::page_pools(&[pool(10), pool(20), other].concat(), &mut s);
    let stats = Request::new(30, 0, &[9, 1, 0, 0]).nest(1, |i| i.u32(1, 3).u32(2, 7));
    let stats = u64_attr(stats.u32(11, 4), 8, 100).finish(0);
    netdev::page_pool_stats(&stats, &mut s);
    let queue = |kind: u32, id: u32, attr: u16, value: u64| {
        let request = Request::new(30, 0, &[12, 1, 0, 0]).u32(1, 7).u32(2, kind).u32(3, id);
        u64_attr(request, attr, value).finish(0)
    };
    let all = [
        queue(0, 0, 14, 2),
        queue(0, 1, 14, 3),
        queue(1, 1, 33, 4),
        queue(0, 9999, 14, 0),
        queue(0, 99, 14, 0),
    ];
    netdev::qstats(&all.concat(), &mut s);
    let dev = &s.devs["eth0"];
    let pools = [("alloc-empty", 4), ("alloc-fast", 100), ("inflight", 30), ("inflight-mem", 0)];
    assert_eq!(dev.page_pool.iter().take(4).collect::<Vec<_>>(), pools);
    assert_eq!(dev.qstats.get("rx-hw-drop-overruns"), Some(5));
    assert_eq!(dev.qstats.get("tx-stop"), Some(4));
    assert_eq!((dev.rx.len(), dev.tx.len()), (2, 2), "no driver has ten thousand");
    assert_eq!(dev.rx[1].stats.source(), "netlink/netdev/qstats-get eth0 rx 1");
}

#[test]
fn the_table_that_spreads_flows_is_read() {
    let mut dev = Dev::default();
    let mut bytes = [0x46u32, 0, 4, 0].map(u32::to_ne_bytes).concat();
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0u32, 1, 0, 3].map(u32::to_ne_bytes).concat());
    for cut in 0..bytes.len() {
        assert!(ethtool::legacy::rxfh(&bytes[..cut], &mut dev).is_none(), "cut at {cut}");
    }
    ethtool::legacy::rxfh(&bytes, &mut dev).unwrap();
    let mut flow = [0x29u32, 2].map(u32::to_ne_bytes).concat();
    flow.extend(0x30u64.to_ne_bytes());
    ethtool::legacy::rxclass(&flow, &mut dev).unwrap();
    let rss = dev.rss.unwrap();
    assert_eq!((rss.indir.as_slice(), rss.hfunc.as_str()), (&[0, 1, 0, 3][..], "toeplitz"));
    assert_eq!(rss.fields["udp4"], "sd");
    assert_eq!(ethtool::legacy::hash_bits("sdfn").map(ethtool::legacy::letters).unwrap(), "sdfn");
}

/// One qdisc of device 7, with statistics of its own and options.
fn qdisc_answer(kind: &str, own: &[u8], options: impl FnOnce(Request) -> Request) -> Snapshot {
    let mut fixed = [0; qdisc::TCMSG];
    fixed[4] = 7;
    fixed[12..16].copy_from_slice(&qdisc::ROOT.to_ne_bytes());
    let queue = [1u32, 2, 3, 4, 5].map(u32::to_ne_bytes).concat();
    let basic = [9u32, 0, 8].map(u32::to_ne_bytes).concat();
    let bytes = Request::new(36, 0, &fixed)
        .text(1, kind)
        .nest(2, options)
        .nest(7, |s| s.attr(1, &basic).attr(3, &queue).attr(4, own))
        .finish(0);
    let mut s = eth0();
    qdisc::qdiscs(&bytes, &BTreeMap::from([(7, "eth0".to_string())]), &mut s);
    s
}

#[test]
fn qdiscs_that_are_not_built_in_here_are_read_by_their_structures() {
    let own = [0u32, 1514, 2, 3, 4, 5, 6, 7, 8].map(u32::to_ne_bytes).concat();
    let s = qdisc_answer("fq_codel", &own, |o| o.u32(2, 10_240).u32(1, 4999).u32(4, 1));
    let q = &s.devs["eth0"].qdiscs[0];
    let stats = [("backlog", 2), ("bytes", 9), ("drops", 3), ("overlimits", 5), ("packets", 8)];
    assert_eq!(q.stats.iter().take(5).collect::<Vec<_>>(), stats);
    assert_eq!(q.xstats.get("drop_overlimit"), Some(2));
    assert_eq!(q.xstats.get("memory_usage"), Some(8), "an older kernel ends here");
    assert_eq!(q.xstats.get("drop_overmemory"), None);
    assert_eq!((q.options.get("limit"), q.options.get("target")), (Some(10_240), Some(4999)));
    // The statistics of a class have another first word.
    let class = [1u32, 1514, 2].map(u32::to_ne_bytes).concat();
    let s = qdisc_answer("fq_codel", &class, |o| o);
    assert!(s.devs["eth0"].qdiscs[0].xstats.is_empty());

    let mut own = [1u64, 2, 3, 40, 50, 6, 7, 8].map(u64::to_ne_bytes).concat();
    own.extend([9u32, 10, 11, 12].map(u32::to_ne_bytes).concat());
    own.extend([13u64, 14].map(u64::to_ne_bytes).concat());
    let s = qdisc_answer("fq", &own, |o| o.u32(1, 10_000).u32(2, 100));
    let q = &s.devs["eth0"].qdiscs[0];
    assert_eq!((q.xstats.get("throttled"), q.xstats.get("flows_plimit")), (Some(40), Some(50)));
    assert_eq!((q.xstats.get("horizon_drops"), q.xstats.get("horizon_caps")), (Some(14), None));
    assert_eq!(q.options.get("flow_limit"), Some(100));

    let tin = |r: Request, dropped: u32| r.u32(4, dropped).u32(8, 1);
    let cake = Request::new(0, 0, &[])
        .u32(3, 15_000)
        .nest(10, |tins| tins.nest(1, |t| tin(t, 5)).nest(2, |t| tin(t, 6)))
        .finish(0);
    let s = qdisc_answer("cake", &cake[HEADER..], |o| u64_attr(o, 2, 1_250_000));
    let q = &s.devs["eth0"].qdiscs[0];
    assert_eq!((q.xstats.get("drops"), q.xstats.get("ecn_mark")), (Some(11), Some(2)));
    assert_eq!(q.options.get("base_rate_bps"), Some(1_250_000));
}

#[test]
fn tcp_info_of_any_age_is_read_as_far_as_it_goes() {
    let mut bytes = vec![0u8; 300];
    bytes[24..28].copy_from_slice(&7u32.to_ne_bytes()); // unacked
    bytes[68..72].copy_from_slice(&250u32.to_ne_bytes()); // rtt
    bytes[100..104].copy_from_slice(&3u32.to_ne_bytes()); // total_retrans
    bytes[176..184].copy_from_slice(&5000u64.to_ne_bytes()); // rwnd_limited
    bytes[228..232].copy_from_slice(&65_536u32.to_ne_bytes()); // snd_wnd
    let mut info = Counters::new("");
    tcp_info::read(&bytes, &mut info);
    let of = |name: &str| info.get(name);
    assert_eq!((of("unacked"), of("rtt"), of("total_retrans")), (Some(7), Some(250), Some(3)));
    assert_eq!((of("rwnd_limited"), of("snd_wnd")), (Some(5000), Some(65_536)));
    // Linux 3.10 ends behind total_retrans.
    let mut info = Counters::new("");
    tcp_info::read(&bytes[..104], &mut info);
    assert_eq!((info.get("total_retrans"), info.get("pacing_rate")), (Some(3), None));
}

#[test]
fn of_many_sockets_the_worst_are_found() {
    let socket = |port: u16, state: u8, timer: u8, recv_q: u32| {
        let mut fixed = [0u8; diag::INET_MSG];
        fixed[..3].copy_from_slice(&[2, state, timer]);
        fixed[4..6].copy_from_slice(&port.to_be_bytes());
        fixed[6..8].copy_from_slice(&443u16.to_be_bytes());
        fixed[24] = 10;
        fixed[56..60].copy_from_slice(&recv_q.to_ne_bytes());
        Request::new(20, 0, &fixed).finish(0)
    };
    let mut bytes = Vec::new();
    for port in 40_000..41_000 {
        bytes.extend(socket(port, 1, 0, u32::from(port) - 40_000));
    }
    bytes.extend(socket(41_000, 6, 3, 0));
    bytes.extend(socket(41_001, 1, 1, 0));
    bytes.extend(socket(22, 1, 0, 0));
    let worst = tcp_info::worst(&[&bytes]);
    assert_eq!(worst.len(), tcp_info::WORST_MAX);
    let ports: Vec<u16> = worst.iter().map(|body| diag::inet(body).unwrap().local.port()).collect();
    assert!(ports.contains(&41_001), "one that retransmits");
    assert!(ports.contains(&40_999) && !ports.contains(&40_100));
    let mut s = Snapshot::default();
    tcp_info::summary(&[&bytes], &mut s);
    assert_eq!(s.sockets.tcp_states.get("ESTABLISHED"), Some(1002));
    let most = &s.sockets.port_use[0];
    assert_eq!((most.ports, most.time_wait, most.remote.port()), (1002, 1, 443));
    s.sysctls.insert("net.ipv4.ip_local_port_range".into(), "40000 40009".into());
    tcp_info::summary(&[&bytes], &mut s);
    assert_eq!(s.sockets.port_use[0].ports, 10);
}

fn link_answer(inside: impl FnOnce(Request) -> Request) -> Snapshot {
    let mut fixed = [0; link::IFINFOMSG];
    fixed[4] = 7;
    fixed[8..12].copy_from_slice(&0x1_1143_u32.to_ne_bytes());
    let bytes = inside(Request::new(16, 0, &fixed).text(3, "eth0")).finish(0);
    let mut s = Snapshot::default();
    link::links(&bytes, &mut s);
    s
}

#[test]
fn links_of_old_kernels_and_with_programs_are_read() {
    let old = [1u32, 2, 3, 4, 5, 6, 7, 8].map(u32::to_ne_bytes).concat();
    let s = link_answer(|r| {
        r.attr(7, &old)
            .nest(43, |x| x.attr(2, &[2]).u32(4, 99))
            .u32(5, 3)
            .u32(37, u32::MAX)
            .u32(35, 4)
            .attr(16, &[6])
            .nest(18, |i| i.text(1, "veth"))
            .u32(10, 12)
            .attr(4, &[1, 2, 3])
    });
    let dev = &s.devs["eth0"];
    assert_eq!((dev.stats.get("rx_packets"), dev.stats.get("tx_dropped")), (Some(1), Some(8)));
    assert_eq!((dev.stats.bits(), dev.stats.len()), (32, 8));
    assert_eq!(dev.xdp, Some(("generic".into(), 99)));
    assert_eq!((dev.link, dev.link_netnsid), (Some(3), Some(-1)));
    assert_eq!((dev.operstate.as_str(), dev.kind.as_str()), ("up", "veth"));
    assert_eq!(dev.flags, ["UP", "BROADCAST", "RUNNING", "PROMISC", "MULTICAST", "LOWER_UP"]);
    assert_eq!(dev.master, None, "a master that is not here has no name here");
    assert_eq!(dev.mtu, 0, "three bytes are no number");
    // Numbers of 64 bits are better than those of 32, in whatever order they come.
    let new = [10u64, 20].map(u64::to_ne_bytes).concat();
    for s in [
        link_answer(|r| r.attr(7, &old).attr(23, &new)),
        link_answer(|r| r.attr(23, &new).attr(7, &old)),
    ] {
        let stats = &s.devs["eth0"].stats;
        assert_eq!((stats.get("rx_packets"), stats.get("rx_bytes")), (Some(10), None));
        assert_eq!(stats.bits(), 64);
    }
}

#[test]
fn sockets_that_are_no_inet_sockets_are_read() {
    let name_of = |index: u32| (index == 7).then(|| "eth0".to_string());
    let xdp = |index: u32, queue: u32| {
        let mut fixed = [0u8; 16];
        fixed[0] = 44;
        let info = [index, queue].map(u32::to_ne_bytes).concat();
        let stats = [1u64, 2, 3, 4, 5, 6].map(u64::to_ne_bytes).concat();
        Request::new(20, 0, &fixed).attr(1, &info).attr(9, &stats).finish(0)
    };
    let mut s = Snapshot::default();
    diag::xdp(&[xdp(7, 2), xdp(8, 0)].concat(), name_of, &mut s);
    let (dev, queue, stats) = &s.sockets.xdp[0];
    assert_eq!((dev.as_str(), *queue), ("eth0", 2));
    assert_eq!(
        (stats.get("rx_ring_full"), stats.get("rx_fill_ring_empty_descs")),
        (Some(3), Some(4))
    );
    assert_eq!(s.sockets.xdp[1].0, "#8");
    // Kernels before 4.18 tell no memory of packet sockets.
    let mut fixed = [0u8; 16];
    fixed[..4].copy_from_slice(&[17, 3, 3, 0]);
    fixed[4] = 200;
    let tap = Request::new(20, 0, &fixed).attr(0, &[0; 24]).finish(0);
    diag::packet(&tap, name_of, &mut s);
    let tap = &s.sockets.taps[0];
    assert_eq!((tap.dev.as_deref(), tap.drops, tap.owner.inode), (None, None, 200));
}

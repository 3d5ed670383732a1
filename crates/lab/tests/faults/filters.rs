//! What programs and filters drop before the stack sees it, and classes that hold back.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;

use linerate_bpf::asm::{Asm, If, Op, Reg, Size};
use linerate_bpf::sys::{AttachMode, Prog};
use linerate_dev::netdev::Netdev;
use linerate_host::collect::{Collector, Tier};
use linerate_host::source::{Live, Source};

use super::doctor::{Case, Cure, prove, snapshot};
use super::rig::{FAR, Rig, rig, sh};
use super::traffic::{datagrams, udp_socket};

/// A program that drops datagrams to this port, and passes all else.
fn dropper(port: u16) -> Prog {
    const DATA: i16 = 0;
    const DATA_END: i16 = 4;
    const DROP: i32 = 1;
    const PASS: i32 = 2;
    let mut asm = Asm::new();
    let pass = asm.label();
    asm.load(Size::W, Reg::R2, Reg::R1, DATA);
    asm.load(Size::W, Reg::R3, Reg::R1, DATA_END);
    asm.op_reg(Op::Mov, Reg::R4, Reg::R2);
    asm.op(Op::Add, Reg::R4, 42);
    asm.jump_if_reg(If::Gt, Reg::R4, Reg::R3, pass);
    // The type of the frame, the protocol, and the port behind a header without options.
    for (size, at, value) in [
        (Size::H, 12, i32::from(0x0800_u16.to_be())),
        (Size::B, 23, 17),
        (Size::H, 36, i32::from(port.to_be())),
    ] {
        asm.load(size, Reg::R5, Reg::R2, at);
        asm.jump_if(If::Ne, Reg::R5, value, pass);
    }
    asm.op(Op::Mov, Reg::R0, DROP);
    asm.exit();
    asm.bind(pass);
    asm.op(Op::Mov, Reg::R0, PASS);
    asm.exit();
    Prog::load(&asm.finish(), "lr_drop").unwrap_or_else(|e| panic!("{}: {}", e.source, e.log))
}

/// Attaches the program to `vb`.
fn attach(rig: &Rig, port: u16, mode: AttachMode) -> OwnedFd {
    rig.far.run(|| {
        let link = Netdev::open().unwrap().link("vb").unwrap();
        dropper(port).attach(link.index, mode).unwrap()
    })
}

fn dropped_by_xdp(test: &str, port: u16, mode: AttachMode, word: &str) {
    let Some(rig) = rig(test, &[]) else { return };
    let _socket = udp_socket(&rig.far, port, 4 << 20);
    let link = RefCell::new(Some(attach(&rig, port, mode)));
    let case = Case { ns: &rig.far, rule: "R26", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, port), 50, 100),
        Cure::By(&mut || *link.borrow_mut() = None),
    );
    assert!(found.cause.contains(word), "{found:#?}");
}

#[test]
fn a_program_of_xdp_that_drops_is_named() {
    let test = "a_program_of_xdp_that_drops_is_named";
    dropped_by_xdp(test, 9500, AttachMode::Native, "driver");
}

/// No counter of the device sees these: the reasons do.
#[test]
fn a_program_of_generic_xdp_that_drops_is_named() {
    let test = "a_program_of_generic_xdp_that_drops_is_named";
    dropped_by_xdp(test, 9501, AttachMode::Generic, "generic");
}

/// A filter at one side of `dev` that drops datagrams to this port, in the oldest of BPF's dialects.
fn drop_at(ns: &super::rig::Ns, dev: &str, side: &str, port: u16) {
    ns.sh(&format!("tc qdisc replace dev {dev} clsact"));
    let code = format!(
        "8,40 0 0 12,21 0 5 2048,48 0 0 23,21 0 3 17,40 0 0 36,21 0 1 {port},6 0 0 2,\
         6 0 0 4294967295"
    );
    let words = ["tc", "-n", &ns.name, "filter", "add", "dev", dev, side, "pref", "7"];
    sh(&words.into_iter().chain(["bpf", "da", "bytecode", &code]).collect::<Vec<_>>());
}

#[test]
fn a_filter_at_ingress_that_drops_is_named() {
    let Some(rig) = rig("a_filter_at_ingress_that_drops_is_named", &[]) else { return };
    let _socket = udp_socket(&rig.far, 9502, 4 << 20);
    drop_at(&rig.far, "vb", "ingress", 9502);
    let case = Case { ns: &rig.far, rule: "R27", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, 9502), 50, 100),
        Cure::By(&mut || rig.far.sh("tc filter del dev vb ingress")),
    );
    assert!(found.cause.contains("preference 7"), "{found:#?}");
}

/// The sender's own filter: it is told of nothing, for UDP has no one to tell.
#[test]
fn a_filter_at_egress_that_drops_is_named() {
    let Some(rig) = rig("a_filter_at_egress_that_drops_is_named", &[]) else { return };
    let _socket = udp_socket(&rig.far, 9503, 4 << 20);
    drop_at(&rig.near, "va", "egress", 9503);
    let case = Case { ns: &rig.near, rule: "R27", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, 9503), 50, 100),
        Cure::By(&mut || rig.near.sh("tc filter del dev va egress")),
    );
    assert!(found.title.contains("egress"), "{found:#?}");
}

#[test]
fn filters_and_their_actions_are_what_tc_shows() {
    let Some(rig) = rig("filters_and_their_actions_are_what_tc_shows", &[]) else { return };
    drop_at(&rig.far, "vb", "ingress", 9504);
    rig.far.sh("tc filter add dev vb ingress pref 9 protocol ip u32 match ip dport 9505 0xffff \
         action mirred egress redirect dev vb");
    datagrams(&rig.near, (FAR, 9505), 10, 100);
    let far = snapshot(&rig.far);
    let filters = &far.devs["vb"].filters;
    let bpf = filters.iter().find(|f| f.kind == "bpf").unwrap_or_else(|| panic!("{filters:#?}"));
    assert!(bpf.direct && bpf.pref == 7 && bpf.at == "ingress", "{bpf:#?}");
    let sent = filters.iter().find(|f| f.kind == "u32" && !f.actions.is_empty());
    let action = &sent.unwrap_or_else(|| panic!("{filters:#?}")).actions[0];
    assert_eq!((action.kind.as_str(), action.stats.get("packets")), ("mirred", Some(10)));
}

const HTB: &str = "tc qdisc add dev va root handle 1: htb default 10";

/// A class at its ceiling: the leaf drops, and the class says what it was allowed.
#[test]
fn a_class_that_may_not_send_more_is_named() {
    let Some(rig) = rig("a_class_that_may_not_send_more_is_named", &[]) else { return };
    rig.near.sh(HTB);
    rig.near.sh("tc class add dev va parent 1: classid 1:10 htb rate 8mbit ceil 16mbit");
    rig.near.sh("tc qdisc add dev va parent 1:10 handle 10: pfifo limit 10");
    let _socket = udp_socket(&rig.far, 9506, 4 << 20);
    let case = Case { ns: &rig.near, rule: "R60", also: &[] };
    let found = prove(
        &case,
        || datagrams(&rig.near, (FAR, 9506), 200, 1400),
        Cure::By(&mut || rig.near.sh("tc qdisc del dev va root")),
    );
    assert!(found.cause.contains("Class 1:10 has 8000 kbit/s and may have 16000"), "{found:#?}");
    assert!(found.evidence.iter().any(|e| e.name == "overlimits"), "{found:#?}");
}

#[test]
fn classes_are_what_tc_shows() {
    let Some(rig) = rig("classes_are_what_tc_shows", &[]) else { return };
    rig.near.sh(HTB);
    rig.near.sh("tc class add dev va parent 1: classid 1:1 htb rate 100mbit");
    rig.near.sh("tc class add dev va parent 1:1 classid 1:10 htb rate 8mbit ceil 16mbit prio 3");
    rig.far.sh("tc qdisc add dev vb root handle 2: mq");
    datagrams(&rig.near, (FAR, 9), 20, 100);
    let (near, far) = (snapshot(&rig.near), snapshot(&rig.far));
    let classes = &near.devs["va"].classes;
    let class = |handle: &str| classes.iter().find(|c| c.handle == handle);
    let inner = class("1:10").unwrap_or_else(|| panic!("{classes:#?}"));
    let options = ["rate_bps", "ceil_bps", "prio"].map(|name| inner.options.get(name));
    assert_eq!(options, [Some(1_000_000), Some(2_000_000), Some(3)]);
    assert_eq!(inner.parent, "1:1");
    assert!(inner.stats.get("packets") >= Some(20), "{inner:#?}");
    assert!(class("1:1").is_some_and(|c| c.stats.get("packets") >= Some(20)), "{classes:#?}");
    let queues: Vec<_> = far.devs["vb"].classes.iter().map(|c| c.handle.as_str()).collect();
    assert_eq!(queues, ["2:1", "2:2"], "one class for each queue of mq");
}

/// This kernel, as if it were built without some files.
struct Without<'a>(Live, &'a [&'a str]);

impl Source for Without<'_> {
    fn read(&mut self, name: &str) -> std::io::Result<Vec<u8>> {
        if self.1.contains(&name) {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        self.0.read(name)
    }

    fn list(&mut self, dir: &str) -> std::io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn is_live(&self) -> bool {
        true
    }
}

#[test]
fn connections_are_counted_by_netlink_where_proc_does_not() {
    let Some(rig) = rig("connections_are_counted_by_netlink_where_proc_does_not", &["nft"]) else {
        return;
    };
    rig.far.nft(
        "add table ip f; add chain ip f in { type filter hook input priority 0; }; \
         add rule ip f in ct state invalid drop",
    );
    // Segments of no connection are invalid.
    let turn = Cell::new(0u32);
    for _ in 0..5 {
        let at = (turn.replace(turn.get() + 1), 7, 4);
        let body = super::frames::tcp((super::rig::NEAR, 5), (FAR, 9), at, 0);
        let frame = super::frames::Frame::to(&rig.far, "vb", super::rig::NEAR, FAR, 6, body);
        super::frames::send(&rig.near, "va", &[frame.bytes()]);
    }
    let open = || Live::in_netns(&rig.far.path()).unwrap();
    let table = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];
    let hidden = [
        "proc/net/stat/nf_conntrack".to_owned(),
        format!("proc/sys/{}", table[0]),
        format!("proc/sys/{}", table[1]),
    ];
    let hidden: Vec<&str> = hidden.iter().map(String::as_str).collect();
    let by_proc = Collector::new(Tier::Full).collect(&mut open()).conntrack.unwrap();
    let mut without = Without(open(), &hidden);
    let by_netlink = Collector::new(Tier::Full).collect(&mut without).conntrack.unwrap();
    assert_eq!(by_netlink.stat.source(), "netlink/ctnetlink/stats-cpu");
    assert!(by_netlink.stat.get("invalid") >= Some(5), "{by_netlink:#?}");
    for name in ["found", "invalid", "insert", "insert_failed", "drop", "early_drop", "clashres"] {
        assert_eq!(by_netlink.stat.get(name), by_proc.stat.get(name), "{name}");
    }
    for name in ["nf_conntrack_max", "nf_conntrack_count"] {
        assert_eq!(by_netlink.table.get(name), by_proc.table.get(name), "{name}");
    }
}

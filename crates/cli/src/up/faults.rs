//! Goal: what fails halfway leaves a running instance as it was.
//! Method: an instance in this process, on a veth pair in a network namespace of the test's own
//! thread, whose configuration is made wrong from within: what a user could write is refused before
//! anything begins.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::config::{At, Config};
use super::instance::{Up, lock};
use super::{control, file, reload};

/// Runs a test in a network namespace with a veth pair of two queues; or says why not.
fn in_netns(test: fn()) {
    let ran = std::thread::spawn(move || {
        if let Err(why) = unshare(CloneFlags::CLONE_NEWNET) {
            return Some(format!("no network namespace may be made here: {why}"));
        }
        let queues = ["numtxqueues", "2", "numrxqueues", "2"];
        ip(&[&["link", "add", "v0"], &queues[..], &["type", "veth", "peer", "name", "v1"]]
            .concat());
        ip(&["link", "set", "v1", "up"]);
        test();
        None
    });
    if let Some(why) = ran.join().expect("the test holds") {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {test}: {why}");
        let said = std::io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes());
        said.expect("standard error is open");
    }
}

fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().expect("ip starts");
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A configuration, as from a file.
fn config(backend: &str, more: &str, addrs: &str) -> Config {
    let name = format!("faults-{}-{:?}", std::process::id(), std::thread::current().id());
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let device =
        format!("[[device]]\nname = \"v0\"\nbackend = \"{backend}\"\naddresses = [{addrs}]");
    let text = format!("name = \"{name}\"\n{more}\n{device}\n");
    let mut config = file::parse(Path::new("up.toml"), &text).expect("a good file");
    config.queues = config.queues.max(1);
    config
}

/// What the shards have: queues of devices, addresses, routes, listeners.
fn state(up: &Up) -> Vec<String> {
    let each = up.workers.ask_all(|drive, _| {
        let queues: Vec<(u8, u8)> = drive.queues().map(|(n, dev)| (n, dev.queue())).collect();
        let net = &drive.shard.net;
        let addrs: Vec<_> = net.ifaces.iter().map(|i| i.addrs.clone()).collect();
        let mut routes: Vec<String> = net.fib.list().iter().map(|r| format!("{r:?}")).collect();
        routes.sort();
        let (budget, rcvbuf) = (net.knobs.netdev_budget, net.knobs.rmem_default);
        format!("{queues:?} {addrs:?} {routes:?} {budget} {rcvbuf}")
    });
    let plan = lock(&up.plan);
    let services: Vec<String> = plan.config.services.iter().map(|s| s.to_string()).collect();
    let rest = format!("{} {:?} {services:?}", plan.config.queues, plan.config.knobs);
    each.into_iter().chain([rest]).collect()
}

const ADDR: &str = "\"10.9.0.2/24\"";

/// An address that no shard takes a second time: whoever is built with it is not built.
fn spoil(config: &mut Config) {
    let twice = config.devices[0].addrs[0].clone();
    config.devices[0].addrs.push(twice);
}

#[test]
fn a_shard_that_does_not_come_about_takes_no_queue_with_it() {
    in_netns(|| {
        let mut up = Up::start(config("af_xdp", "", ADDR)).expect("it starts");
        let before = state(&up);
        assert!(before[0].starts_with("[(0, 0), (0, 1)]"), "one shard has both: {before:?}");
        spoil(&mut lock(&up.plan).config);
        let why = control::set_channels(&mut up, 2).expect_err("it can not be built");
        assert!(why.contains("no worker more") && !why.contains("served by nobody"), "{why}");
        assert_eq!(state(&up), before);
        lock(&up.plan).config.devices[0].addrs.pop();
        control::set_channels(&mut up, 2).expect("and now it can");
        up.stop().expect("it ends");
    });
}

#[test]
fn a_number_of_queues_is_reached_or_none_is_added() {
    in_netns(|| {
        let mut up = Up::start(config("af_xdp", "", ADDR)).expect("it starts");
        let before = state(&up);
        let why = control::set_channels(&mut up, 3).expect_err("the interface has two");
        assert!(why.contains("every queue of the interface has its shard"), "{why}");
        assert_eq!(up.workers.shards(), 1, "the second went again");
        let mut after = state(&up);
        // Which of them comes first says nothing.
        after[0] = after[0].replace("[(0, 1), (0, 0)]", "[(0, 0), (0, 1)]");
        assert_eq!(after, before);
        up.stop().expect("it ends");
    });
}

/// A shard that goes leaves what it received and sent by each device in the sums.
#[test]
fn what_a_shard_received_by_a_device_is_still_shown_when_it_is_gone() {
    in_netns(|| {
        let mut up = Up::start(config("af_packet", "queues = 2", ADDR)).expect("it starts");
        up.workers
            .ask(1, |drive, _| {
                let iface = &mut drive.shard.net.ifaces[0];
                (iface.rx_packets, iface.rx_bytes) = (1_000_000, 64_000_000);
                (iface.tx_packets, iface.tx_bytes) = (2_000_000, 128_000_000);
            })
            .expect("it is there");
        let sums = |up: &mut Up| {
            let all = up.snapshot(0);
            assert_eq!(all.devices.len(), 1, "one device");
            let d = &all.devices[0];
            // The kernel may send a few of its own by the wire.
            [d.rx_packets, d.rx_bytes, d.tx_packets, d.tx_bytes].map(|n| n / 1_000_000)
        };
        assert_eq!(sums(&mut up), [1, 64, 2, 128]);
        control::set_channels(&mut up, 1).expect("one goes");
        assert_eq!(sums(&mut up), [1, 64, 2, 128]);
        control::set_channels(&mut up, 2).expect("one comes");
        assert_eq!(sums(&mut up), [1, 64, 2, 128]);
        up.stop().expect("it ends");
    });
}

#[test]
fn a_reload_that_fails_at_its_last_step_is_undone_whole() {
    in_netns(|| {
        let begin = "[knobs]\nnet.core.netdev_budget = 500\n[[service]]\nkind = \"echo\"";
        let old = config("af_packet", begin, ADDR);
        let mut up = Up::start(old.clone()).expect("it starts");
        let before = state(&up);
        let end = "queues = 2\n[knobs]\nnet.core.netdev_budget = 600\nnet.core.rmem_default = 99999\n\
                   [[service]]\nkind = \"discard\"\n[[route]]\nto = \"192.0.2.0/24\"\nkind = \"blackhole\"";
        let new = config("af_packet", end, "\"10.9.0.3/24\", \"fd09::3/64\"");
        let mut wrong = new.clone();
        spoil(&mut wrong);
        let why = reload::apply(&mut up, wrong).expect_err("the address is there twice");
        assert!(why.contains("10.9.0.3/24") && why.ends_with("; nothing was changed"), "{why}");
        assert_eq!(state(&up), before);
        assert_eq!(reload::apply(&mut up, old).as_deref(), Ok("nothing changed"));
        let done = reload::apply(&mut up, new).expect("a good one");
        let all = "2 queues, 2 knobs, 3 addresses, 1 route, 2 services";
        assert_eq!(done, all);
        up.stop().expect("it ends");
    });
}

#[test]
fn what_there_is_no_room_for_leaves_the_filter_as_it_was() {
    in_netns(|| {
        let mut up = Up::start(config("af_xdp", "", ADDR)).expect("it starts");
        let with = |n: u32, base: u32| {
            let mut config = config("af_xdp", "", ADDR);
            let first = config.devices[0].addrs[0].0;
            config.devices[0].addrs.extend((0..n).map(|i| {
                let addr = IpAddr::V4(std::net::Ipv4Addr::from_bits(base + i));
                (super::args::HostAddr { addr, ..first }, At::default())
            }));
            config
        };
        let why = reload::apply(&mut up, with(5000, 0x0b00_0000)).expect_err("4096 at the most");
        assert!(why.contains("what is ours") && why.ends_with("; nothing was changed"), "{why}");
        // There is room for as many as there was before.
        reload::apply(&mut up, with(4000, 0x0c00_0000)).expect("as many as it takes");
        up.stop().expect("it ends");
    });
}

#[test]
fn another_mtu_is_refused_whatever_the_backend() {
    for backend in ["auto", "tap"] {
        let (old, mut new) = (config(backend, "", ADDR), config(backend, "", ADDR));
        new.devices[0].mtu = Some(1400);
        let why = reload::may_change(&old, &new).expect_err("refused");
        assert!(why.contains("the interface's own and is 1400 now"), "{why}");
        assert!(why.contains("start it anew"), "{why}");
    }
}

//! Goal: whatever happens to the interface, to the queues or to the rights of `linerate up`, it
//! serves on, or ends with a sentence; and the host is as it was afterwards.
//! Method: namespaces with a veth pair between them, the tools of the host (`ip`, `ethtool`, `tc`),
//! and clients of the kernel's stack.

#[path = "up/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use std::fs;

use nix::sys::signal::Signal;
use world::{SERVER_V4, World, missing};

/// Says why a test does not run here.
macro_rules! need {
    () => {
        if let Some(why) = missing() {
            return world::skip(&why);
        }
    };
}

/// A line of `/proc/.../status`.
fn status(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).trim();
    u64::from_str_radix(line, 16).expect("a number")
}

/// The process of the one instance.
fn pid_of(world: &World) -> String {
    let all: serde_json::Value =
        serde_json::from_str(&world.ask(&["show", "path", "--json"])).expect("JSON");
    all["pid"].to_string()
}

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const BPF: u64 = 1 << 39;

/// The threads that handle packets have no rights, the main thread those of its backend; and queues
/// are still added, taken away, and settings of the host put back.
#[test]
fn rights_are_given_up_and_what_needs_them_later_still_works() {
    need!();
    for (backend, keeps) in [
        ("af_packet", NET_ADMIN | NET_RAW),
        ("af_xdp", NET_ADMIN | NET_RAW | IPC_LOCK | BPF),
        ("tap", NET_ADMIN),
    ] {
        let world = World::new();
        world.server.good("ip link set v0 down");
        let (net, dev) = match backend {
            "tap" => (&world.client, "lr0"),
            _ => (&world.server, "v0"),
        };
        let args = ["--dev", dev, "--backend", backend, "--addr", "10.9.0.2/24"];
        let up = world.up(net, &[&args[..], &["--serve", "echo"]].concat());
        let pid = pid_of(&world);
        for queues in ["2", "1", "2"] {
            world.ask(&["set", &format!("channels.combined={queues}")]);
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
            let mut workers = 0;
            for task in tasks {
                let task = task.expect("a thread").path();
                let text = fs::read_to_string(task.join("status")).expect("its status");
                let main = task.ends_with(&pid);
                let wanted = if main { keeps } else { 0 };
                workers += u64::from(!main);
                assert_eq!(status(&text, "CapEff"), wanted, "{backend}: {text}");
                assert_eq!(status(&text, "CapPrm"), wanted, "{backend}: {text}");
                assert_eq!(status(&text, "CapInh") | status(&text, "CapBnd"), 0, "{text}");
                assert_eq!(status(&text, "CapAmb"), 0, "{text}");
                assert_eq!(status(&text, "NoNewPrivs"), 1, "{text}");
            }
            assert_eq!(workers.to_string(), queues, "{backend}");
        }
        up.end();
        if backend != "tap" {
            let link = world.server.good("ip -o link show dev v0");
            assert!(link.contains("state DOWN"), "{backend}: it was down: {link}");
        }
    }
}

/// A reload of which a part is refused changes nothing; what it would have changed can be done after.
#[test]
fn a_reload_that_is_refused_in_part_changes_nothing() {
    need!();
    let world = World::new();
    let file = world.dir.join("up.toml");
    let device = |mtu: &str, addrs: &str| {
        format!("[[device]]\nname = \"v0\"\nbackend = \"auto\"\n{mtu}addresses = [{addrs}]\n")
    };
    let echo = "[[service]]\nkind = \"echo\"\n";
    let first = format!("{}{echo}", device("", "\"10.9.0.2/24\""));
    fs::write(&file, &first).expect("a file");
    let mut up = world.up(&world.server, &["--config", "up.toml"]);
    let mut reload = |text: &str| {
        fs::write(&file, text).expect("a file");
        up.signal(Signal::SIGHUP);
        up.says("reloaded")
    };
    let knobs = |ring: &str| format!("queues = 2\n[knobs]\nnet.core.netdev_budget = 600\n{ring}");
    let more = device("", "\"10.9.0.2/24\", \"10.9.0.3/24\"");
    let text = format!("{}{more}[[service]]\nkind = \"discard\"\n", knobs("ring.rx = 512\n"));
    let said = reload(&text);
    assert!(said.contains("not reloaded: ") && said.contains("ring.rx"), "{said}");
    assert!(said.ends_with("nothing was changed\n"), "{said}");
    assert_eq!(world.ask(&["get", "net.core.netdev_budget"]), "net.core.netdev_budget = 300\n");
    assert_eq!(world.ask(&["get", "channels.combined"]), "channels.combined = 1\n");
    let dead = world.client.output(&["ping", "-q", "-c", "1", "-W", "1", "10.9.0.3"]);
    assert!(!dead.status.success(), "the address is not ours");
    world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
    assert_eq!(world.client.piped(&["socat", "-t", "5", "-", "TCP:10.9.0.2:7"], b"hi"), b"hi");
    // What is in force is the old file: it changes nothing.
    assert!(reload(&first).contains("reloaded: nothing changed"));
    // Another MTU is not passed over.
    let said = reload(&format!("{}{echo}", device("mtu = 1400\n", "\"10.9.0.2/24\"")));
    assert!(said.contains("not reloaded") && said.contains("1400"), "{said}");
    let said = reload(&format!("{}{more}{echo}", knobs("")));
    assert!(said.contains("2 queues, 1 knob, 1 address"), "{said}");
    world.client.good("ping -q -c 2 -i 0.2 -W 5 10.9.0.3");
    up.end();
}

/// What steers between shards is taken with one shard, too, and said to have no effect yet.
#[test]
fn a_knob_of_several_shards_is_said_to_have_no_effect_with_one() {
    need!();
    let world = World::new();
    let args = ["--dev", "v0", "--backend", "af_packet", "--addr", "10.9.0.2/24"];
    let up = world.up(&world.server, &args);
    let set = |words: &str| {
        let out = world.linerate(&world.server, &["set", words]).output().expect("linerate starts");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(set("rps_cpus=3").contains("no effect as long as there is one shard"));
    assert!(set("net.core.rps_sock_flow_entries=1024").contains("no effect"));
    assert_eq!(set("channels.combined=2"), "");
    assert_eq!(set("rps_cpus=3"), "");
    up.end();
}

/// A datagram of more pieces than are common comes back as it came.
#[test]
fn a_datagram_of_many_fragments_is_echoed() {
    need!();
    let world = World::new();
    let args = ["--dev", "v0", "--backend", "af_packet", "--addr", "10.9.0.2/24"];
    let up = world.up(&world.server, &[&args[..], &["--serve", "echo"]].concat());
    let data: Vec<u8> = (0..60_000u32).map(|i| (i * 7) as u8).collect();
    let client = ["socat", "-b", "65507", "-t", "2", "-", "UDP4:10.9.0.2:7"];
    let heard = (0..5).any(|_| world.client.piped(&client, &data) == data);
    assert!(heard, "{}", world.ask(&["show", "snmp"]));
    up.end();
}

/// Echoes over `n` connections, each from another port, so that every queue has a part in it.
fn echoes(world: &World, n: usize) {
    for i in 0..n {
        let to = format!("TCP:{SERVER_V4}:7,connect-timeout=20");
        let back = world.client.piped(&["socat", "-t", "20", "-", &to], b"hello");
        assert_eq!(back, b"hello", "connection {i} of {n}");
    }
}

/// Makes the wire anew, with four queues of which two are in use.
fn four_queues(world: &World) {
    world.server.good("ip link del v0");
    let mut command = world.client.command(&["cat"]);
    let held = command.stdin(std::process::Stdio::piped()).spawn().expect("nsenter starts");
    let held = world::Ended(held);
    let pid = held.0.id();
    let ns = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    while ns(&pid.to_string()) == ns("self") {
        std::thread::yield_now();
    }
    let queues = "numtxqueues 4 numrxqueues 4";
    let peer = format!("peer name v1 netns {pid} {queues}");
    world.server.good(&format!("ip link add v0 {queues} type veth {peer}"));
    for (net, dev) in [(&world.server, "v0"), (&world.client, "v1")] {
        net.good(&format!("ethtool -L {dev} rx 2 tx 2"));
        net.good(&format!("ip link set {dev} up"));
    }
    world.address("v1");
}

/// An interface that gets more queues while it is served has them served, too: what comes by them
/// would go to the kernel, which answers nobody.
#[test]
fn queues_that_an_interface_gets_later_are_served() {
    need!();
    let world = World::new();
    four_queues(&world);
    let args = ["--dev", "v0", "--backend", "af_xdp", "--queues", "2", "--addr", "10.9.0.2/24"];
    let mut up = world.up(&world.server, &[&args[..], &["--serve", "echo"]].concat());
    echoes(&world, 8);
    world.server.good("ethtool -L v0 rx 4 tx 4");
    world.client.good("ethtool -L v1 rx 4 tx 4");
    up.says("has got queue 3");
    echoes(&world, 32);
    let rings = world.ask(&["show", "rings", "--json"]);
    assert!(rings.contains("\"queue\": 3"), "{rings}");
    // They can be shards of their own now.
    assert_eq!(world.ask(&["set", "channels.combined=4"]), "channels.combined = 4\n");
    echoes(&world, 32);
    assert_eq!(world.ask(&["set", "channels.combined=1"]), "channels.combined = 1\n");
    echoes(&world, 16);
    up.end();
}

/// Packets are no larger than the interface takes, also when that changes under a connection.
#[test]
fn an_mtu_that_changes_under_load_is_followed() {
    need!();
    for backend in ["af_packet", "af_xdp"] {
        let world = World::new();
        let args = ["--dev", "v0", "--backend", backend, "--addr", "10.9.0.2/24"];
        let serve = ["--serve", "echo", "--serve", "http=www"];
        let mut up = world.up(&world.server, &[&args[..], &serve[..]].concat());
        let url = format!("http://{SERVER_V4}/big");
        let mut slow = world.client.command(&["curl", "-sS", "--limit-rate", "1M", &url]);
        let slow = slow.stdout(std::process::Stdio::piped()).spawn().expect("curl");
        while !world.ask(&["show", "flows"]).contains(":80 ") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // Neither end takes more.
        world.client.good("ip link set v1 mtu 1280");
        world.server.good("ip link set v0 mtu 1280");
        up.says("v0 has an MTU of 1280 now");
        // Datagrams and echoes of every length come back in pieces that pass.
        world.client.good(&format!("ping -q -c 2 -i 0.2 -W 10 -s 4000 {SERVER_V4}"));
        echoes(&world, 2);
        let slow = slow.wait_with_output().expect("curl ends");
        assert!(slow.stdout == world::big(), "{backend}: {} bytes", slow.stdout.len());
        let dev = world.ask(&["show", "path", "--json"]);
        assert!(dev.contains("\"mtu\": 1280") || dev.contains("\"mtu\":1280"), "{backend}: {dev}");
        world.server.good("ip link set v0 mtu 9000");
        let said = up.says("v0 has an MTU of 9000 now");
        assert_eq!(said.contains("stays the largest packet"), backend == "af_xdp", "{said}");
        up.end();
    }
}

/// The end of an interface ends the instance, which says so by its name.
#[test]
fn an_interface_that_is_deleted_is_named() {
    need!();
    for backend in ["af_packet", "af_xdp"] {
        let world = World::new();
        let args = ["--dev", "v0", "--backend", backend, "--queues", "2", "--addr", "10.9.0.2/24"];
        let mut up = world.up(&world.server, &[&args[..], &["--serve", "echo"]].concat());
        echoes(&world, 2);
        world.server.good("ip link del v0");
        let said = up.says("v0 is gone");
        assert!(said.contains("start this instance anew"), "{said}");
        assert_eq!(up.status(), Some(1));
    }
}

/// Which right lacks is said in a sentence, not by the verifier's log.
#[test]
fn a_right_that_lacks_is_named() {
    need!();
    let world = World::new();
    let all = "net_raw,+net_admin,+bpf";
    let exe = env!("CARGO_BIN_EXE_linerate");
    for (caps, backend, names) in [
        (all, "af_xdp", "CAP_PERFMON"),
        ("net_admin", "af_packet", "CAP_NET_RAW"),
        ("net_raw", "tap", "CAP_NET_ADMIN"),
    ] {
        let bound = format!("-all,+{caps}");
        let out = world.server.output(&[
            "setpriv",
            "--bounding-set",
            &bound,
            "--inh-caps",
            &bound,
            exe,
            "up",
            "--dev",
            if backend == "tap" { "lr0" } else { "v0" },
            "--backend",
            backend,
            "--addr",
            "10.9.0.2/24",
        ]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(names) && said.lines().count() == 1, "{backend}: {said}");
    }
}

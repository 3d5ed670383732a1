//! Goal: real clients reach the services of `linerate up` on every backend, over both versions of IP,
//! with one queue and with two; what is wrong is refused with a sentence and starts nothing; a reload
//! loses no connection; SIGKILL leaves nothing behind.
//! Method: namespaces with a veth pair between them, or a TAP or TUN; ping, curl, dig, socat and iperf3
//! as clients of the kernel's stack.

#[path = "up/iperf3.rs"]
mod iperf3;
#[path = "up/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use world::{SERVER_V4, SERVER_V6, World, again, big, missing};

/// Says why a test does not run here.
macro_rules! need {
    () => {
        if let Some(why) = missing() {
            return world::skip(&why);
        }
    };
}

const SERVICES: [&str; 10] = [
    "--serve",
    "echo",
    "--serve",
    "discard",
    "--serve",
    "chargen",
    "--serve",
    "http=www",
    "--serve",
    "dns=names",
];

fn addrs() -> [&'static str; 4] {
    ["--addr", "10.9.0.2/24", "--addr", "fd09::2/64"]
}

/// Everything that a client can do.
fn every_client(world: &World, what: &str) {
    let client = &world.client;
    client.good(&format!("ping -q -c 3 -i 0.2 -W 5 {SERVER_V4}"));
    client.good(&format!("ping -6 -q -c 3 -i 0.2 -W 5 {SERVER_V6}"));
    for server in [SERVER_V4.to_owned(), format!("[{SERVER_V6}]")] {
        let curl = |path: &str| {
            let url = format!("http://{server}/{path}");
            client.output(&["curl", "-sS", "-g", "--max-time", "60", &url]).stdout
        };
        // Several, so that more than one queue has a part in it.
        for _ in 0..8 {
            assert_eq!(curl(""), b"<p>home</p>\n", "{what} {server}");
        }
        assert!(curl("big") == big(), "{what} {server}: the whole file");
        assert!(curl("nothing").starts_with(b"There is no such file"), "{what} {server}");
        let bare = server.trim_matches(['[', ']']);
        for how in ["+notcp", "+tcp"] {
            for (kind, answer) in [("A", SERVER_V4), ("AAAA", SERVER_V6)] {
                let line =
                    format!("dig +short +time=5 +tries=4 {how} @{bare} www.example.test {kind}");
                assert_eq!(client.good(&line).trim(), answer, "{what} {line}");
            }
        }
        let six = if server.starts_with('[') { "6" } else { "4" };
        let data = big();
        let to = format!("TCP{six}:{server}:7");
        let back = client.piped(&["socat", "-t", "30", "-", &to], &data[..1_000_000]);
        assert!(back == data[..1_000_000], "{what} {to}: {} bytes back", back.len());
        let to = format!("UDP{six}:{server}:7");
        let heard = (0..5).any(|_| client.piped(&["socat", "-t", "1", "-", &to], b"hi") == b"hi");
        assert!(heard, "{what} {to}");
        let to = format!("TCP{six}:{server}:9");
        assert!(client.piped(&["socat", "-u", "-", &to], &data).is_empty(), "{what} {to}");
        let from = format!("socat -u TCP{six}:{server}:19 - | head -c 7400 | md5sum");
        let out = client.output(&["sh", "-c", &from]).stdout;
        // The first hundred lines of the RFC's pattern.
        let want = b"e73da7f4120ac242288d6d25271c8bd4";
        assert!(out.starts_with(want), "{what} {from}: {}", String::from_utf8_lossy(&out));
    }
}

fn on_veth(backend: &str, queues: &str) {
    let world = World::new();
    let mut args = vec!["--dev", "v0", "--backend", backend, "--queues", queues];
    args.extend(addrs());
    args.extend(SERVICES);
    let up = world.up(&world.server, &args);
    assert!(up.line.contains(&format!("v0 by {backend}")), "{}", up.line);
    every_client(&world, &format!("{backend} {queues}"));
    up.end();
}

fn on_tun(backend: &str, queues: &str) {
    let world = World::new();
    world.client.good("ip link del v1");
    let mut args = vec!["--dev", "lr0", "--backend", backend, "--queues", queues];
    args.extend(addrs());
    args.extend(SERVICES);
    let up = world.up(&world.client, &args);
    world.address("lr0");
    every_client(&world, &format!("{backend} {queues}"));
    up.end();
}

#[test]
fn clients_reach_af_packet_with_one_queue() {
    need!();
    on_veth("af_packet", "1");
}

#[test]
fn clients_reach_af_packet_with_two_queues() {
    need!();
    on_veth("af_packet", "2");
}

#[test]
fn clients_reach_af_xdp_with_one_queue() {
    need!();
    on_veth("af_xdp", "1");
}

#[test]
fn clients_reach_af_xdp_with_two_queues() {
    need!();
    on_veth("af_xdp", "2");
}

#[test]
fn clients_reach_a_tap_with_one_queue() {
    need!();
    on_tun("tap", "1");
}

#[test]
fn clients_reach_a_tap_with_two_queues() {
    need!();
    on_tun("tap", "2");
}

#[test]
fn clients_reach_a_tun_with_one_queue() {
    need!();
    on_tun("tun", "1");
}

#[test]
fn clients_reach_a_tun_with_two_queues() {
    need!();
    on_tun("tun", "2");
}

/// Connections that are open before SIGHUP transfer their data after it, services that go are served
/// to their end, and those that come are there at once.
#[test]
fn a_reload_changes_everything_that_can_change_and_loses_no_connection() {
    need!();
    let world = World::new();
    let file = world.dir.join("up.toml");
    let device = "[[device]]\nname = \"v0\"\nbackend = \"af_packet\"\n";
    let write = |rest: &str| fs::write(&file, rest).expect("a file");
    let echo = "[[service]]\nkind = \"echo\"\n";
    let http = "[[service]]\nkind = \"http\"\nroot = \"www\"\nport = 8080\n";
    let one = "addresses = [\"10.9.0.2/24\", \"fd09::2/64\"]\n";
    write(&format!("queues = 2\n{device}{one}{echo}{http}"));
    let mut up = world.up(&world.server, &["--config", "up.toml"]);
    // It is in the middle of its transfer during all that follows.
    let mut slow = world.client.command(&["curl", "-sS", "--limit-rate", "1M", "--max-time", "60"]);
    let slow = slow.arg(format!("http://{SERVER_V4}:8080/big"));
    let slow = slow.stdout(std::process::Stdio::piped()).spawn().expect("curl");
    let mut echoing = Echoing::new(&world, SERVER_V4);
    echoing.say("before");
    let begun = |world: &World| world.ask(&["show", "flows"]).contains(":8080");
    while !begun(&world) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    // Another address, a route, a knob; http goes, discard comes.
    let two = "addresses = [\"10.9.0.2/24\", \"10.9.0.3/24\", \"fd09::2/64\"]\ngateways = [\"10.9.0.1\"]\n";
    let knobs = "[knobs]\nnet.core.netdev_budget = 600\n";
    let discard = "[[service]]\nkind = \"discard\"\n";
    write(&format!("queues = 2\n{knobs}{device}{two}{echo}{discard}"));
    up.signal(Signal::SIGHUP);
    let said = up.says("reloaded");
    assert!(said.contains("1 knob, 1 address, 1 route, 2 services"), "{said}");
    echoing.say("after");
    world.client.good("ping -q -c 2 -i 0.2 -W 5 10.9.0.3");
    assert_eq!(world.ask(&["get", "net.core.netdev_budget"]), "net.core.netdev_budget = 600\n");
    let url = format!("http://{SERVER_V4}:8080/");
    let gone = world.client.output(&["curl", "-sS", "--max-time", "20", &url]);
    assert_eq!(gone.status.code(), Some(7), "refused: {gone:?}");
    world.client.piped(&["socat", "-u", "-", &format!("TCP:{SERVER_V4}:9")], b"thrown away");

    // What is wrong, or can not change, changes nothing.
    for (text, why) in [
        (format!("queues = 2\n{device}{one}{echo}[[service]]\nkind = \"gopher\"\n"), "up.toml:9: "),
        (format!("queues = 2\ncpus = [0, 0]\n{device}{one}"), "start it anew"),
        (format!("queues = 2\n{}{one}", device.replace("af_packet", "tap")), "start it anew"),
    ] {
        write(&text);
        up.signal(Signal::SIGHUP);
        let said = up.says("reloaded");
        assert!(said.contains("not reloaded") && said.contains(why), "{said}");
        echoing.say("still");
        world.client.good("ping -q -c 2 -i 0.2 -W 5 10.9.0.3");
    }

    // Back: the knob has its default, the address is gone.
    write(&format!("queues = 2\n{device}{one}{echo}{http}"));
    up.signal(Signal::SIGHUP);
    up.says("reloaded: ");
    assert_eq!(world.ask(&["get", "net.core.netdev_budget"]), "net.core.netdev_budget = 300\n");
    let dead = world.client.output(&["ping", "-q", "-c", "1", "-W", "1", "10.9.0.3"]);
    assert!(!dead.status.success(), "the address was taken away");
    echoing.say("at the end");
    let slow = slow.wait_with_output().expect("curl ends");
    assert!(slow.stdout == big(), "{} bytes of {}", slow.stdout.len(), big().len());
    drop(echoing);
    up.end();
}

/// A connection to echo that stays open.
struct Echoing(std::process::Child, std::io::BufReader<std::process::ChildStdout>);

impl Echoing {
    fn new(world: &World, server: &str) -> Echoing {
        use std::process::Stdio;
        let mut command = world.client.command(&["socat", "-", &format!("TCP:{server}:7")]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("socat");
        let stdout = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        Echoing(child, stdout)
    }
    fn say(&mut self, text: &str) {
        use std::io::{BufRead, Write};
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(format!("{text}\n").as_bytes()).expect("it reads");
        let mut line = String::new();
        self.1.read_line(&mut line).expect("its answer");
        assert_eq!(line, format!("{text}\n"), "the connection goes on");
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_instance_leaves_the_interface_as_it_was() {
    need!();
    for backend in ["af_packet", "af_xdp"] {
        let world = World::new();
        // Only what may change by us: counts do.
        let state = |world: &World| {
            let link = world.server.good("ip -d -o link show dev v0");
            let qdisc = world.server.good("tc qdisc show dev v0");
            let off = world.server.good("ethtool -k v0");
            (link, qdisc, off)
        };
        // It is set up by us, and so is down again when we are gone.
        world.server.good("ip link set v0 down");
        let before = state(&world);
        let mut args = vec!["--dev", "v0", "--backend", backend, "--queues", "2"];
        args.extend(addrs());
        args.extend(SERVICES);
        for _ in 0..2 {
            let up = world.up(&world.server, &args);
            world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
            up.kill();
        }
        let up = world.up(&world.server, &args);
        world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
        up.end();
        assert_eq!(state(&world), before, "{backend}");
    }
}

/// Goal: `ring.rx` is obeyed at the start by every backend, and at any time by a TAP.
#[test]
fn receive_rings_have_the_size_that_is_asked_for() {
    need!();
    let world = World::new();
    for (backend, rx) in [("af_xdp", 256), ("af_packet", 1024)] {
        let set = format!("ring.rx={rx}");
        let mut args = vec!["--dev", "v0", "--backend", backend, "--set", &set];
        args.extend(addrs());
        args.extend(["--serve", "echo"]);
        let up = world.up(&world.server, &args);
        let shown = world.ask(&["show", "rings"]);
        assert!(shown.contains(&format!("RX:\t\t\t{rx}\n")), "{backend}: {shown}");
        world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
        up.end();
    }
    let args = ["--dev", "lr0", "--backend", "tap", "--addr", "10.9.1.2/24", "--set", "ring.rx=64"];
    let up = world.up(&world.client, &args);
    let qlen = |n: u32| {
        let link = world.client.good("ip -o link show dev lr0");
        assert!(link.contains(&format!("qlen {n}\\")), "{link}");
    };
    qlen(64);
    world.ask(&["set", "ring.rx=2048"]);
    qlen(2048);
    assert!(world.ask(&["show", "rings"]).contains("RX:\t\t\t2048\n"));
    up.end();
}

/// Goal: an address that the kernel has as well is shared: our services' ports are ours, everything else
/// stays the kernel's, and neighbours are found although the kernel hears their answers.
#[test]
fn an_address_is_shared_with_the_kernel() {
    need!();
    let world = World::new();
    world.server.good("ip link set v0 up");
    world.server.good(&format!("ip addr add {SERVER_V4}/24 dev v0"));
    world.server.good(&format!("ip addr add {SERVER_V6}/64 dev v0 nodad"));
    let mut args = vec!["--dev", "v0", "--backend", "af_xdp", "--serve", "echo", "--queues", "2"];
    args.extend(addrs());
    let mut up = world.up(&world.server, &args);
    up.says("the kernel has");
    for (six, server) in [("", SERVER_V4.to_owned()), ("6", format!("[{SERVER_V6}]"))] {
        for _ in 0..3 {
            let to = format!("TCP{six}:{server}:7");
            assert_eq!(world.client.piped(&["socat", "-t", "20", "-", &to], b"ours"), b"ours");
        }
        let to = format!("UDP{six}:{server}:7");
        let heard = |_| world.client.piped(&["socat", "-t", "1", "-", &to], b"hi") == b"hi";
        assert!((0..5).any(heard), "{to}");
    }
    // The kernel answers these.
    let before = world.server.good("nstat -asz IcmpInEchos");
    world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
    assert_ne!(world.server.good("nstat -asz IcmpInEchos"), before);
    up.end();
}

#[test]
fn auto_takes_the_best_and_says_what_was_lost() {
    need!();
    let world = World::new();
    let mut args = vec!["--dev", "v0"];
    args.extend(addrs());
    let up = world.up(&world.server, &args);
    assert!(up.line.contains("v0 by af_xdp"), "{}", up.line);
    up.end();
    // More queues than the interface has: only a packet socket can.
    args.extend(["--queues", "3"]);
    let mut up = world.up(&world.server, &args);
    assert!(up.line.contains("v0 by af_packet"), "{}", up.line);
    up.says("af_xdp does not work here");
    up.end();
    let mut args = vec!["--dev", "lr9"];
    args.extend(addrs());
    let mut up = world.up(&world.server, &args);
    assert!(up.line.contains("lr9 by tap"), "{}", up.line);
    up.says("lr9 did not exist");
    up.end();
}

#[test]
fn what_can_not_be_opened_is_said_with_what_to_do() {
    need!();
    let world = World::new();
    let refused = |args: &[&str]| {
        let mut all = vec!["up"];
        all.extend(args);
        all.extend(["--addr", "10.9.0.2/24"]);
        world.refused(&all, 1)
    };
    let why = refused(&["--dev", "nowhere", "--backend", "af_packet"]);
    assert!(why.contains("nowhere: there is no such interface"), "{why}");
    world.server.good("ip addr add 10.9.0.2/24 dev v0");
    let why = refused(&["--dev", "v0", "--backend", "af_packet"]);
    assert!(why.contains("the kernel has 10.9.0.2") && why.contains("ip addr del"), "{why}");
    world.server.good("ip addr del 10.9.0.2/24 dev v0");
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    // Somebody else may not go into our directory: the binary has to be where he may.
    let copy = Path::new("/tmp").join(format!("lr-up-{}-bin", std::process::id()));
    again::copy_program(env!("CARGO_BIN_EXE_linerate"), &copy);
    // Where nobody may even open /dev/net/tun, that is what comes first.
    let tun = fs::metadata("/dev/net/tun").expect("this test needs it").permissions();
    let tap = if tun.mode() & 0o6 == 0o6 { "CAP_NET_ADMIN" } else { "chmod 666 /dev/net/tun" };
    for (backend, what) in [("af_packet", "CAP_NET_RAW"), ("af_xdp", "CAP_"), ("tap", tap)] {
        let mut words = nobody.to_vec();
        let path = copy.display().to_string();
        let dev = if backend == "tap" { "lr9" } else { "v0" };
        words.extend([&path, "up", "--dev", dev, "--backend", backend, "--addr", "10.9.0.2/24"]);
        let out = world.server.output(&words);
        let why = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{backend}: {why}");
        assert!(why.contains(what), "{backend}: {why}");
    }
    let _ = fs::remove_file(&copy);
}

#[test]
fn queues_and_rings_are_shown_as_ethtool_shows_them_and_set_where_they_obey() {
    need!();
    let world = World::new();
    let mut args = vec!["--dev", "v0", "--backend", "af_packet", "--queues", "2"];
    args.extend(addrs());
    args.extend(SERVICES);
    let up = world.up(&world.server, &args);
    let show = |what: &str| world.ask(&["show", what]);
    assert!(show("rings").starts_with("Ring parameters for v0:\nPre-set maximums:\nRX:\t\t\t"));
    assert!(show("channels").ends_with("Combined:\t2\n"), "{}", show("channels"));
    assert!(show("coalesce").contains("rx-usecs:\t0\n"), "{}", show("coalesce"));
    let softnet = show("softnet");
    assert_eq!(softnet.lines().count(), 2, "{softnet}");
    assert!(softnet.lines().all(|l| l.split(' ').count() == 15), "{softnet}");
    assert_eq!(world.ask(&["set", "rps_cpus=3"]), "queues.rx.rps_cpus = 3\n");
    let files = "/sys/class/net/v0/queues/rx-0/rps_cpus:3\n\
                 /sys/class/net/v0/queues/rx-1/rps_cpus:3\n";
    assert_eq!(show("rps"), files);
    world.ask(&["set", "queues.rx.rps_cpus=0"]);
    world.ask(&["set", "coalesce.rx-usecs=50"]);
    assert!(show("coalesce").contains("rx-usecs:\t50\n"));
    world.ask(&["set", "coalesce.rx-usecs=0"]);

    // Our own table distributes: with all its weight on one queue, that one gets everything.
    world.ask(&["set", "rss.weight=0,1"]);
    let table = show("rss");
    assert!(table.starts_with("RX flow hash indirection table for v0 with 2 RX ring(s):\n"));
    assert!(table.contains("    0:      1     1     1     1"), "{table}");
    let mut held = Echoing::new(&world, SERVER_V4);
    held.say("to queue 1");
    let flows = show("flows");
    let line = flows.lines().find(|l| l.contains("10.9.0.2:7 ")).expect("a connection");
    assert!(line.trim_start().starts_with("1 tcp"), "{flows}");
    drop(held);
    world.ask(&["set", "rss.weight=equal"]);

    // Rules go before the table: each of several connections is on the shard that the rule names.
    for queue in ["1", "0"] {
        let rule = ["set", "ntuple", "add", "flow-type", "tcp4", "dst-port", "7", "action", queue];
        assert!(world.ask(&[&rule[..], &["loc", "5"]].concat()).contains("5"), "it has that place");
        assert!(show("ntuple").contains("Filter: 5"), "{}", show("ntuple"));
        let held: Vec<_> = (0..6)
            .map(|_| {
                let mut echoing = Echoing::new(&world, SERVER_V4);
                echoing.say("where the rule says");
                echoing
            })
            .collect();
        let flows = show("flows");
        let mut lines = flows.lines().filter(|l| l.contains("10.9.0.2:7 ") && l.contains("ESTAB"));
        assert!(lines.all(|l| l.trim_start().starts_with(&format!("{queue} tcp"))), "{flows}");
        drop(held);
    }
    world.ask(&["set", "ntuple", "delete", "5"]);
    let odd = ["set", "ntuple", "add", "flow-type", "udp4", "dst-port", "53", "action", "-1"];
    assert!(world.refused(&odd, 1).contains("can not drop"));
    // Its ring keeps its size.
    let why = world.refused(&["set", "ring.rx=64"], 1);
    assert!(why.contains("as large as it was made"), "{why}");
    for odd in [&["set", "ntuple", "add", "nonsense"][..], &["set", "ntuple"], &["set", "budget"]] {
        world.refused(odd, 2);
    }
    every_client(&world, "after all that");
    up.end();
}

/// `up --check` of a file with this text: its exit status and what it says.
fn check(text: &str) -> (Option<i32>, String) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = Path::new("/tmp").join(format!("lr-up-check-{}-{n}", std::process::id()));
    fs::create_dir_all(dir.join("www")).expect("a directory");
    fs::write(dir.join("names"), "a.test 10.0.0.1\nb.test nothing\n").expect("a file");
    fs::write(dir.join("up.toml"), text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    let out = command.args(["up", "--config", "up.toml", "--check"]).current_dir(&dir).output();
    let out = out.expect("linerate starts");
    let _ = fs::remove_dir_all(&dir);
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&said).into_owned())
}

const GOOD: &str = "[[device]]\nname = \"v0\"\naddresses = [\"10.9.0.2/24\"]\n";

#[test]
fn the_documented_file_is_good() {
    let page = include_str!("../../../docs/UP.md");
    let text = page.split("```toml\n").nth(1).and_then(|t| t.split("```").next());
    let (code, said) = check(text.expect("an example"));
    // Machines with one processor have no second one.
    let enough = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    assert!(code == Some(0) || !enough && said.contains("no processor 1"), "{said}");
    assert!(said.contains("good: devices veth0 (auto; ") || !enough, "{said}");
}

#[test]
fn a_wrong_file_is_refused_with_file_line_key_and_what_to_do() {
    let (code, said) = check(GOOD);
    assert_eq!((code, said.starts_with("good: ")), (Some(0), true), "{said}");
    let service = |rest: &str| format!("{GOOD}[[service]]\n{rest}\n");
    let cases: &[(String, &str)] = &[
        ("[[device]\n".into(), "up.toml:1: "),
        (String::new(), "add a [[device]]"),
        (format!("{GOOD}adresses = []\n"), "up.toml:4: device.adresses: no such key: known here"),
        (format!("qeues = 2\n{GOOD}"), "up.toml:1: qeues: no such key"),
        (format!("queues = 0\n{GOOD}"), "up.toml:1: queues: a number from 1 to 64"),
        (format!("queues = \"two\"\n{GOOD}"), "up.toml:1: queues: a number"),
        (format!("queues = 2\ncpus = [0]\n{GOOD}"), "1 processors are named for 2 queues"),
        (format!("cpus = [4095]\n{GOOD}"), "no processor 4095"),
        (format!("name = \"a/b\"\n{GOOD}"), "up.toml:1: name: a name is made of"),
        (format!("{GOOD}backend = \"dpdk\"\n"), "up.toml:4: device.backend: \"dpdk\" is none of"),
        ("[[device]]\naddresses = []\n".into(), "up.toml:1: device: `name` is missing"),
        (GOOD.replace("10.9.0.2/24", "10.9.0.2/40"), "up.toml:3: device.addresses: "),
        (GOOD.replace("10.9.0.2/24", "127.0.0.1/8"), "can not be the address of an interface"),
        (format!("{GOOD}{GOOD}"), "up.toml:5: device.name: v0 was named already"),
        (format!("{GOOD}gateways = [\"10.8.0.1\"]\n"), "add an address of its network"),
        (format!("{GOOD}gateways = [\"10.9.0.2\"]\n"), "is our own address"),
        (format!("{GOOD}mtu = 9000\nbackend = \"af_xdp\"\n"), "ip link set v0 mtu"),
        (format!("{GOOD}[[route]]\nto = \"10.1.0.0/16\"\n"), "add via, device, or kind"),
        (format!("{GOOD}[[route]]\nto = \"::/0\"\nvia = \"10.9.0.1\"\n"), "other IP version"),
        (format!("{GOOD}[knobs]\nnet.core.netdev_budgt = 3\n"), "did you mean"),
        (format!("{GOOD}[knobs]\nnet.core.netdev_budget = 0\n"), "up.toml:5: knobs.net.core"),
        (format!("queues = 2\n{GOOD}[knobs]\nchannels.combined = 3\n"), "give one of them"),
        (service("kind = \"gopher\""), "up.toml:5: service.kind: \"gopher\" is no service"),
        (service("kind = \"echo\"\nport = 70000"), "up.toml:6: service.port: a number from 1"),
        (service("kind = \"echo\"\naddress = \"10.9.0.9\""), "is no address of ours"),
        (service("kind = \"echo\"\n[[service]]\nkind = \"echo\""), "give one of them another port"),
        (service("kind = \"http\""), "up.toml:4: service: `root` is missing"),
        (service("kind = \"http\"\nroot = \"nowhere\""), "up.toml:6: service.root: "),
        (service("kind = \"http\"\nroot = \"names\""), "is no directory"),
        (service("kind = \"dns\"\nzone = \"names\""), "names:2: \"nothing\" is no address"),
        (service("kind = \"dns\"\nrecords = { \"a..b\" = [\"10.0.0.1\"] }"), "is no name"),
    ];
    for (text, why) in cases {
        let (code, said) = check(text);
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains(why), "{text}: {said:?} does not say {why:?}");
    }
}

#[test]
fn wrong_options_are_refused_before_anything_is_started() {
    for (args, why) in [
        (&["--dev", "v0", "--serve", "gopher"][..], "is no service"),
        (&["--dev", "v0", "--serve", "http"], "http needs DIR"),
        (&["--dev", "v0", "--serve", "echo=x"], "takes nothing"),
        (&["--dev", "v0", "--serve", "echo@70000"], "is no port"),
        (&["--dev", "v0", "--serve", "echo", "--ports", "1,2"], "one for each --serve"),
        (&["--dev", "v0", "--serve", "echo@7", "--ports", "8"], "give it once"),
        (&["--dev", "v0", "--addr", "10.0.0.1/33"], "at most 32 bits"),
        (&["--dev", "v0", "--set", "ring.rx=0"], "ring.rx"),
        (&["--dev", "a-name-that-is-too-long"], "no name of an interface"),
        (&["--addr", "10.0.0.1/24"], "--dev"),
        (&["--config", "x.toml", "--serve", "echo"], "cannot be used with"),
        (&["--config", "/nowhere/x.toml"], "/nowhere/x.toml: "),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
        let out = command.arg("up").args(args).output().expect("linerate starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    }
}

/// A link that goes down and comes back is waited for; an interface that vanishes ends the instance,
/// with a sentence and its report.
#[test]
fn an_interface_may_go_down_and_its_end_is_told() {
    need!();
    for backend in ["af_packet", "af_xdp"] {
        let world = World::new();
        let mut args = vec!["--dev", "v0", "--backend", backend, "--queues", "2"];
        args.extend(addrs());
        args.extend(SERVICES);
        let mut up = world.up(&world.server, &args);
        let mut echoing = Echoing::new(&world, SERVER_V4);
        echoing.say("before");
        world.server.good("ip link set v0 down");
        std::thread::sleep(std::time::Duration::from_millis(300));
        world.server.good("ip link set v0 up");
        echoing.say("after");
        world.client.good(&format!("ping -q -c 2 -i 0.2 -W 5 {SERVER_V4}"));
        drop(echoing);
        world.server.good("ip link del v0");
        let said = up.says("linerate up: the worker of shard");
        assert!(said.contains("stopped"), "{backend}: {said}");
        assert_eq!(up.status(), Some(1), "{backend}");
    }
}

/// What odd clients ask of the file server, and what it says.
#[test]
fn files_are_served_as_the_rfcs_have_it_and_nothing_else_is() {
    need!();
    let world = World::new();
    std::os::unix::fs::symlink("/etc/passwd", world.dir.join("www/out")).expect("a link");
    fs::write(world.dir.join("www/.secret"), "secret").expect("a file");
    let mut args = vec!["--dev", "v0", "--backend", "af_packet"];
    args.extend(addrs());
    args.extend(["--serve", "http@8080=www", "--serve", "http@10.9.0.2:81=www/sub"]);
    let up = world.up(&world.server, &args);
    assert!(up.line.contains("serves http@8080 http@10.9.0.2:81"), "{}", up.line);
    let to = format!("TCP:{SERVER_V4}:8080");
    let ask = |request: &str| {
        let got = world.client.piped(&["socat", "-t", "30", "-", &to], request.as_bytes());
        String::from_utf8_lossy(&got).into_owned()
    };
    let last = "Connection: close\r\n\r\n";
    let both = ask(&format!(
        "GET / HTTP/1.1\r\nHost: h\r\n\r\nHEAD /big HTTP/1.1\r\nHost: h\r\n\r\n\
         GET /big HTTP/1.1\r\nHost: h\r\nRange: bytes=1-3\r\n{last}"
    ));
    let heads: Vec<&str> = both.lines().filter(|l| l.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(heads, ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content"]);
    assert!(both.contains("\r\n\r\n<p>home</p>\nHTTP/1.1 200"), "no body after HEAD: {both}");
    assert!(both.contains("Content-Length: 3000000\r\n"), "{both}");
    assert!(both.contains("Content-Range: bytes 1-3/3000000\r\n"), "{both}");
    let body = big();
    let put = format!("PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    for (request, status) in [
        (put + &"x".repeat(100_000), "405 Method Not Allowed"),
        (format!("GET / HTTP/1.1\r\n{last}"), "400 Bad Request"),
        ("nonsense\r\n\r\n".to_owned(), "400 Bad Request"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n{last}", "y".repeat(9000)), "431 Request Header"),
        (format!("GET /out HTTP/1.1\r\nHost: h\r\n{last}"), "404 Not Found"),
        (format!("GET /.secret HTTP/1.1\r\nHost: h\r\n{last}"), "404 Not Found"),
        (format!("GET /../names HTTP/1.1\r\nHost: h\r\n{last}"), "404 Not Found"),
        (format!("GET /%2e%2e/names HTTP/1.1\r\nHost: h\r\n{last}"), "404 Not Found"),
        (format!("GET /sub HTTP/1.1\r\nHost: h\r\n{last}"), "301 Moved Permanently"),
        // Its end comes never: after ten seconds it is told so.
        ("GET / HTTP/1.1\r\nHost: ".to_owned(), ""),
    ] {
        let said = ask(&request);
        let (first, _) = said.split_once("\r\n").unwrap_or((&said, ""));
        assert!(first.contains(status), "{status}: {first}");
    }
    let slow = ["sh", "-c", &format!("(printf 'GET / HT'; sleep 15) | socat -t 20 - {to}")];
    let said = String::from_utf8_lossy(&world.client.output(&slow).stdout).into_owned();
    assert!(said.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{said}");
    up.end();
}

/// Queues come and go while connections are open and a file is on its way: none is lost, and each
/// shard counts what its queue gave it (`softnet:processed`).
#[test]
fn knob_channels_combined() {
    need!();
    // What each backend can be changed to, from what.
    for (backend, begin, steps) in [
        ("tap", "1", &["2", "3", "1", "2"][..]),
        ("af_xdp", "1", &["2", "1", "2"]),
        ("af_packet", "1", &["2", "3", "1", "2"]),
    ] {
        let world = World::new();
        let (net, dev) = match backend {
            "tap" => (&world.client, "lr0"),
            _ => (&world.server, "v0"),
        };
        if backend == "tap" {
            world.client.good("ip link del v1");
        }
        let mut args = vec!["--dev", dev, "--backend", backend, "--queues", begin];
        args.extend(addrs());
        args.extend(SERVICES);
        let up = world.up(net, &args);
        if backend == "tap" {
            world.address(dev);
        }
        let mut open: Vec<Echoing> = (0..6).map(|_| Echoing::new(&world, SERVER_V4)).collect();
        open.iter_mut().for_each(|e| e.say("before"));
        let mut slow = world.client.command(&["curl", "-sS", "--limit-rate", "1M"]);
        let slow = slow.args(["--max-time", "60", &format!("http://{SERVER_V4}/big")]);
        let slow = slow.stdout(std::process::Stdio::piped()).spawn().expect("curl");
        let mut before = 0;
        for step in steps {
            let set = world.ask(&["set", &format!("channels.combined={step}")]);
            assert_eq!(set, format!("channels.combined = {step}\n"), "{backend}");
            let softnet = world.ask(&["show", "softnet"]);
            assert_eq!(softnet.lines().count().to_string(), *step, "{backend}: {softnet}");
            for _ in 0..3 {
                open.iter_mut().for_each(|e| e.say(step));
                open.push(Echoing::new(&world, SERVER_V4));
            }
            // What shards counted that are gone stays in the sums.
            let snmp = world.ask(&["show", "snmp"]);
            let udp = snmp.lines().filter(|l| l.starts_with("Ip: ")).nth(1).expect("counters");
            let received: u64 =
                udp.split(' ').nth(3).and_then(|n| n.parse().ok()).expect("InReceives");
            assert!(received >= before, "{backend} {step}: {received} after {before}");
            before = received;
        }
        every_client(&world, &format!("{backend} after its queues changed"));
        open.iter_mut().for_each(|e| e.say("at the end"));
        let softnet = world.ask(&["show", "softnet"]);
        assert!(softnet.lines().all(|l| !l.starts_with("00000000 ")), "{backend}: {softnet}");
        let slow = slow.wait_with_output().expect("curl ends");
        assert!(slow.stdout == big(), "{backend}: {} bytes", slow.stdout.len());
        if backend == "af_xdp" {
            let why = world.refused(&["set", "channels.combined=3"], 1);
            assert!(why.contains("every queue of the interface has its shard"), "{why}");
        }
        drop(open);
        up.end();
    }
}

//! Goal: a program that clang made decides about real packets, under `up` on devices with and without
//! Ethernet headers and under `run`; what it did is shown, its maps are filled while it runs, and
//! what is wrong with a program is a sentence, and starts nothing.
//! Method: namespaces with a veth pair, or a TUN; ping is dropped by the list of an object of the
//! machine's tests, and not any more when it is taken off the list.

#[path = "up/world.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod world;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use world::{Net, World, missing};

const PING: [&str; 7] = ["ping", "-q", "-c", "1", "-W", "1", "10.9.0.2"];

fn object(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bpf/tests/objects");
    dir.join(name).display().to_string()
}

/// What an instance called `t` answers, asked where its socket is.
fn ask(world: &World, net: &Net, args: &[&str]) -> String {
    let out = world.linerate(net, args).output().expect("linerate starts");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {err}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn a_list_is_obeyed(backend: &str, queues: &str) {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    let bare = backend == "tun";
    let (net, dev) = if bare { (&world.client, "lr0") } else { (&world.server, "v0") };
    if bare {
        world.client.good("ip link del v1");
    }
    let file = object("drop.o");
    let args = ["--dev", dev, "--backend", backend, "--queues", queues, "--addr", "10.9.0.2/24"];
    let up = world.up(net, &[&args[..], &["--xdp", &file]].concat());
    if bare {
        world.address(dev);
    }
    let pings = || (0..60).any(|_| world.client.output(&PING).status.success());
    assert!(pings(), "nobody is on the list");
    let set = ask(&world, net, &["set", "xdp.map.drop4=10.9.0.1/32 0"]);
    assert_eq!(set, "xdp.map.drop4 = 10.9.0.1/32 0\n");
    for _ in 0..3 {
        assert!(!world.client.output(&PING).status.success(), "it is on the list");
    }
    let list = ask(&world, net, &["get", "xdp.map.drop4"]);
    let hits = list.trim().rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
    assert!(list.contains("\n  10.9.0.1/32 ") && hits >= Some(3), "{list}");
    let shown = ask(&world, net, &["show", "xdp"]);
    assert!(shown.starts_with(&format!("{dev}: drop_list of {file}, section xdp")), "{shown}");
    assert!(shown.contains("aborted 0") && shown.contains("lpm_trie"), "{shown}");
    let json = ask(&world, net, &["show", "xdp", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["xdp"][0]["actions"]["drop"].as_u64() >= Some(3), "{json}");
    ask(&world, net, &["set", "xdp.map.drop4=10.9.0.1/32 -"]);
    assert!(pings(), "it is off the list");
    up.end();
}

#[test]
fn a_list_is_obeyed_on_veth() {
    a_list_is_obeyed("af_packet", "1");
}

#[test]
fn a_list_is_obeyed_by_two_shards() {
    a_list_is_obeyed("af_packet", "2");
}

#[test]
fn a_list_is_obeyed_on_bare_packets() {
    a_list_is_obeyed("tun", "1");
}

#[test]
fn a_program_of_run_is_behind_the_list() {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    // One ping for each line that comes in; its status goes out.
    let inside = "while read line; do ping -q -c 1 -W 1 10.0.2.2 > /dev/null; echo $?; done";
    let file = object("drop.o") + ":xdp";
    let args = ["run", "--name", "t", "--xdp", &file, "--", "sh", "-c", inside];
    let mut command = world.linerate(&world.server, &args);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = run.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(run.stdout.take().expect("a pipe")).lines();
    let mut ping = || {
        stdin.write_all(b"ping\n").expect("it reads");
        lines.next().expect("it answers").expect("text") == "0"
    };
    assert!((0..60).any(|_| ping()), "nobody is on the list");
    ask(&world, &world.server, &["set", "xdp.map.drop4=10.0.2.0/24 0"]);
    assert!((0..3).all(|_| !ping()), "it is on the list");
    let shown = ask(&world, &world.server, &["show", "xdp"]);
    assert!(shown.contains("drop_list") && shown.contains("drop4"), "{shown}");
    ask(&world, &world.server, &["set", "xdp.map.drop4=10.0.2.0/24 -"]);
    assert!((0..60).any(|_| ping()), "it is off the list");
    drop(stdin);
    assert!(run.wait().expect("it ends").code().is_some());
}

/// Goal: a wrong program is refused before anything is started, with what is wrong with it.
#[test]
fn wrong_programs_are_refused() {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    let refused = |file: &str| {
        let args = ["up", "--dev", "v0", "--addr", "10.9.0.2/24", "--xdp", file];
        let said = world.refused(&args, 2);
        assert!(said.starts_with("linerate up: "), "{said}");
        let out = world.linerate(&world.server, &["run", "--xdp", file, "--", "true"]).output();
        assert_eq!(out.expect("linerate starts").status.code(), Some(125), "{file}");
        said
    };
    assert!(refused("/nowhere/prog.o").contains("/nowhere/prog.o: No such file"));
    assert!(refused("/bin/sh").contains("an object of another machine"));
    let parts = object("parts.o");
    assert!(refused(&parts).contains("several programs; name one of them: whole, looping"));
    assert!(refused(&format!("{parts}:other")).contains("no section or program other"));
    let lacking = refused(&format!("{parts}:lacking"));
    assert!(lacking.contains("helper 35 (bpf_get_current_task) is not provided"), "{lacking}");
    let up = world
        .up(&world.server, &["--dev", "v0", "--addr", "10.9.0.2/24", "--backend", "af_packet"]);
    let none = world.refused(&["get", "xdp.map.drop4"], 1);
    assert!(none.contains("no program has a map drop4"), "{none}");
    up.end();
}

/// One ping after the other, in a shell of its own, until its standard input ends; what was lost of them.
struct Pings {
    child: std::process::Child,
}

impl Pings {
    fn start(net: &Net, to: &str) -> Pings {
        // A ping that is lost is waited for, so that a slow machine loses none.
        let line = format!(
            "n=0; lost=0; while ! read -t 0 line; do \
             ping -q -c 1 -W 60 {to} > /dev/null || lost=$((lost + 1)); n=$((n + 1)); \
             done; echo $n $lost"
        );
        let mut command = net.command(&["bash", "-c", &line]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Pings { child: child.expect("bash starts") }
    }
    /// How many were sent, and how many of them were lost.
    fn end(mut self) -> (u64, u64) {
        drop(self.child.stdin.take());
        let out = self.child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut numbers = text.split_whitespace().map(|n| n.parse().expect("a number"));
        (numbers.next().expect("sent"), numbers.next().expect("lost"))
    }
}

/// Goal: the program of a running instance takes another's place between two packets: no packet is lost
/// meanwhile, what was in the old one's maps is gone with it, and what can not be loaded changes nothing.
#[test]
fn a_program_is_replaced_while_packets_come() {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    let args = ["--dev", "v0", "--backend", "af_packet", "--queues", "2", "--addr", "10.9.0.2/24"];
    let up = world.up(&world.server, &args);
    let net = &world.server;
    assert!((0..60).any(|_| world.client.output(&PING).status.success()), "it serves");
    assert_eq!(ask(&world, net, &["get", "xdp.v0"]), "xdp.v0 = off\n");
    let pings = Pings::start(&world.client, "10.9.0.2");
    let (list, sample) = (object("drop.o"), object("sample.o"));
    for round in 0..5 {
        let said = ask(&world, net, &["set", &format!("xdp.v0={list}")]);
        assert!(said.ends_with("drop.o:drop_list\n"), "{said}");
        let entries = ask(&world, net, &["get", "xdp.map.drop4"]);
        assert_eq!(entries, "xdp.map.drop4 = nothing\n", "round {round}");
        ask(&world, net, &["set", "xdp.map.drop4=10.9.0.77/32 0"]);
        let said = ask(&world, net, &["set", &format!("xdp.v0={sample}:xdp")]);
        assert!(said.contains("sample.o:"), "{said}");
        let gone = world.refused(&["get", "xdp.map.drop4"], 1);
        assert!(gone.contains("no program has a map drop4"), "{gone}");
        if round % 2 == 1 {
            assert_eq!(ask(&world, net, &["set", "xdp.v0=off"]), "xdp.v0 = off\n");
            assert_eq!(ask(&world, net, &["show", "xdp"]), "");
        }
    }
    let (sent, lost) = pings.end();
    assert!(sent > 0 && lost == 0, "{lost} of {sent} were lost");
    let before = ask(&world, net, &["get", "xdp.v0"]);
    let parts = object("parts.o");
    for (word, says) in [
        ("xdp.v0=/nowhere/prog.o".to_owned(), "No such file"),
        ("xdp.v0=/bin/sh".to_owned(), "an object of another machine"),
        ("xdp.v0=".to_owned(), "no file is named"),
        (format!("xdp.v0={parts}"), "several programs"),
        (format!("xdp.v0={parts}:lacking"), "is not provided here"),
    ] {
        let said = world.refused(&["set", &word], 2);
        assert!(said.contains(says), "{word}: {said}");
    }
    let said = world.refused(&["set", &format!("xdp.v7={list}")], 1);
    assert!(said.contains("no device is called v7; there is v0"), "{said}");
    assert_eq!(ask(&world, net, &["get", "xdp.v0"]), before, "nothing was changed");
    // One that misbehaves loses its packets, and nothing else.
    ask(&world, net, &["set", &format!("xdp.v0={parts}:first")]);
    world.client.output(&PING);
    let shown = ask(&world, net, &["show", "xdp"]);
    assert!(shown.starts_with("v0: first of ") && shown.contains("map next"), "{shown}");
    ask(&world, net, &["set", "xdp.v0=off"]);
    assert!((0..60).any(|_| world.client.output(&PING).status.success()), "it serves again");
    up.end();
}

/// Goal: a router's program asks for our routes and neighbours, and sends packets on by the device that
/// they name, between two devices of one instance; the stack forwards what the program leaves to it.
#[test]
fn a_program_routes_between_two_devices() {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    let third = Net::new();
    let pid = third.pid;
    world.server.good(&format!("ip link add v2 type veth peer name v3 netns {pid}"));
    world.server.good("ip link set v2 up");
    third.good("ip link set v3 up");
    third.good("ip addr add 10.8.0.1/24 dev v3");
    third.good("ip route add default via 10.8.0.2");
    world.client.good("ip route add 10.8.0.0/24 via 10.9.0.2");
    let device = |name: &str, addr: &str| {
        let file = object("route.o");
        format!(
            "[[device]]\nname = \"{name}\"\nbackend = \"af_packet\"\naddresses = [\"{addr}\"]\n\
             xdp = \"{file}\"\n"
        )
    };
    let text = format!(
        "[knobs]\nnet.ipv4.ip_forward = 1\n{}{}",
        device("v0", "10.9.0.2/24"),
        device("v2", "10.8.0.2/24")
    );
    let path = world.dir.join("router.toml");
    std::fs::write(&path, text).expect("a file");
    let up = world.up(&world.server, &["--config", &path.display().to_string()]);
    let ping = |to: &str| {
        let words = ["ping", "-q", "-c", "1", "-W", "1", to];
        (0..60).any(|_| world.client.output(&words).status.success())
    };
    assert!(ping("10.8.0.1"), "somebody forwards");
    let redirected = || {
        let json = ask(&world, &world.server, &["show", "xdp", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        [0, 1].map(|n| json["xdp"][n]["actions"]["redirect"].as_u64().expect("a number"))
    };
    // The neighbours are known by now: the programs do it, both ways.
    let before = redirected();
    for _ in 0..10 {
        assert!(ping("10.8.0.1"));
    }
    let after = redirected();
    assert!(after[0] >= before[0] + 10 && after[1] >= before[1] + 10, "{before:?} {after:?}");
    assert!(ping("10.9.0.2"), "what is for the instance is the stack's");
    up.end();
}

/// Goal: programs that the kernel's verifier lets nobody run do no harm here: each loses the packets that it
/// was given, what it did is said with its instruction, and the instance goes on.
#[test]
fn programs_that_misbehave_lose_packets_and_nothing_else() {
    if let Some(why) = missing() {
        return world::skip(&why);
    }
    let world = World::new();
    let net = &world.server;
    let file = object("bad.o");
    let first = format!("{file}:outside");
    let args = ["--dev", "v0", "--backend", "af_packet", "--addr", "10.9.0.2/24", "--xdp", &first];
    let up = world.up(net, &args);
    for (name, says) in [
        ("outside", "instruction 1: reads 1 bytes at offset "),
        ("beyond", "instruction 10: writes 8 bytes at a value of map 0"),
        ("nowhere", "instruction 7: reads 8 bytes at null"),
        ("forever", "ran for more instructions than a packet may take"),
        ("odd", "returned 77, which is no XDP action"),
    ] {
        ask(&world, net, &["set", &format!("xdp.v0={file}:{name}")]);
        assert!(!world.client.output(&PING).status.success(), "{name} passes nothing");
        let mut shown = String::new();
        let ran = (0..60).any(|_| {
            world.client.output(&PING);
            shown = ask(&world, net, &["show", "xdp"]);
            shown.contains("faults, the last: ")
        });
        assert!(ran && shown.contains(says), "{name}: {shown}");
        assert!(shown.contains("pass 0  drop 0  tx 0  redirect 0  aborted "), "{shown}");
    }
    ask(&world, net, &["set", "xdp.v0=off"]);
    assert!((0..60).any(|_| world.client.output(&PING).status.success()), "it serves");
    let said = up.end();
    assert!(!said.contains("panicked"), "{said}");
}

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

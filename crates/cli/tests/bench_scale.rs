//! Goal: `linerate bench tcp-scale` measures every row that it names. Method: a short run of the real binary with
//! few connections; every row of ours has a figure of each round, every request was answered and every packet
//! accounted for (the program asserts it), and what does not depend on the machine is held to its target.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

fn run(args: &[&str]) -> (bool, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(["bench", "tcp-scale", "--json", "--pin", "none", "--rounds", "2", "--work", "1"]);
    let out = command.args(args).output().expect("linerate starts");
    let v = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("JSON: {out:?}"));
    (out.status.success(), v)
}

fn rows(v: &Value) -> Vec<Value> {
    v["rows"].as_array().expect("a list").clone()
}

#[test]
fn bench_tcp_scale_measures_every_row() {
    let (ok, v) = run(&["--connections", "2000"]);
    assert!(ok, "{v}");
    let rows = rows(&v);
    let names = [
        "packet, 1 connection at random",
        "packet, 32 connections at random",
        "packet, 1000 connections at random",
        "packet, 2000 connections at random",
        "packet, 2000 connections, 1 % active",
        "memory of an idle connection (RSS), 1000 of them",
        "memory of an idle connection (RSS), 2000 of them",
        "connect, accept and close, both ends",
        "one stream, 1460-byte segments, checksums",
        "one stream, super-packets, partial checksums",
        "0 % of segments lost, a pipe of 1000",
        "0.01 % of segments lost, a pipe of 1000",
        "0.1 % of segments lost, a pipe of 1000",
        "1 % of segments lost, a pipe of 1000",
        "3 % of segments lost, a pipe of 1000",
        "5 % of segments lost, a pipe of 1000",
        "0 % of super-packets lost, a pipe of 1000",
        "5 % of super-packets lost, a pipe of 1000",
        "SYN flood: clients that are served",
        "SYN flood: a SYN, clients' packets included",
        "SYN flood: memory that grows (RSS)",
        "packet, 2000 connections, of 1",
        "packet, 2000 connections, 1 % active, of 1",
        "packet, 2000 connections, of 32",
        "one stream, 1460-byte segments, checksums, of memcpy",
        "one stream, super-packets, partial checksums, of memcpy",
    ];
    for name in names {
        let row = rows.iter().find(|r| r["name"] == name && r["who"] == "linerate");
        let row = row.unwrap_or_else(|| panic!("{name}: {v}"));
        assert_eq!(row["samples"].as_array().map(Vec::len), Some(2), "{row}");
        let positive = row["spread"]["min"].as_f64().is_some_and(|n| n > 0.0);
        assert!(positive || name.contains("memory"), "{row}");
    }
    // Who is served does not depend on how fast the machine is.
    let served = "SYN flood: clients that are served";
    let served = rows.iter().find(|r| r["name"] == served && r["who"] == "linerate");
    assert!(served.is_some_and(|row| row["met"] == true), "{served:?}");
    // Neither does what the line loses, and what is sent again for it: little more than that.
    let said = |name: &str| {
        let row = rows.iter().find(|r| r["name"] == name && r["who"] == "linerate");
        let note = row.and_then(|row| row["note"].as_str()).expect("it is noted").to_owned();
        let words: Vec<&str> = note.split(' ').collect();
        let number = |word: &str| {
            let at = words.iter().position(|w| *w == word).expect("a word before it");
            words[at - 1].parse::<f64>().expect("a number")
        };
        (number("segments"), number("%"))
    };
    let (flight, again) = said("0 % of segments lost, a pipe of 1000");
    assert!(flight > 500.0 && again == 0.0, "{flight} {again}");
    let (flight, again) = said("1 % of segments lost, a pipe of 1000");
    assert!(flight > 500.0 && (0.5..2.0).contains(&again), "{flight} {again}");
    // A peer has run, or it is said why not.
    let peers: Vec<_> = rows.iter().filter(|r| r["who"] == "smoltcp").collect();
    assert!(peers.len() >= 13, "{peers:?}");
    for peer in peers {
        assert!(peer["spread"]["median"].is_number() || peer["note"].is_string(), "{peer}");
    }
}

#[test]
fn bench_tcp_scale_fails_where_a_target_is_missed() {
    // Of two connections one row has a target, which two of them meet on any machine.
    let (ok, v) = run(&["--connections", "33", "--only", "packet", "--check"]);
    let missed = rows(&v).iter().any(|row| row["met"] == false);
    assert_eq!(ok, !missed, "{v}");
    assert!(rows(&v).iter().any(|row| row["target"].is_string()), "{v}");
}

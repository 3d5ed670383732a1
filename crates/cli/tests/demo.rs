//! Goal: `linerate demo` works for anybody, and its lesson is true.
//! Method: the real binary, for a second; its JSON and its exit status are judged. Where the machine
//! grants no namespaces, or is made to, it falls back on two stacks in memory and says so.

use std::process::{Command, Output};

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

fn linerate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linerate")).args(args).output().expect("linerate starts")
}

fn json(out: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stdout));
    serde_json::from_slice(&out.stdout).expect("it prints JSON")
}

fn traffic_is_good(demo: &serde_json::Value) {
    assert_eq!(demo["ok"], true);
    for way in ["download", "upload"] {
        let stream = &demo["traffic"][way];
        assert_eq!(stream["verified"], true, "{way}");
        assert!(stream["bytes"].as_u64() > Some(0) && stream["seconds"].as_f64() > Some(0.0));
    }
    let pingpong = &demo["traffic"]["pingpong"];
    assert!(pingpong["count"].as_u64() > Some(0) && pingpong["verified"] == true);
    assert!(pingpong["p50_us"].as_f64() <= pingpong["p99_us"].as_f64());
    for path in demo["path"].as_array().expect("reports") {
        let stages = path["stages"].as_array().expect("stages");
        assert!(stages.iter().all(|s| s["missing"] == 0), "{path}");
    }
}

#[test]
fn the_tour_causes_each_loss_and_cures_it() {
    let out = linerate(&["demo", "--tour", "--json"]);
    let tour = json(&out);
    assert_eq!(tour["ok"], true);
    let scenes = tour["scenes"].as_array().expect("scenes");
    let names: Vec<_> = scenes.iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["ring", "budget", "backlog", "rcvbuf", "listen"]);
    for scene in scenes {
        let (before, after) = (&scene["before"], &scene["after"]);
        let counted = |phase: &serde_json::Value| {
            let counters = phase["counters"].as_object().expect("names with values");
            counters.values().filter_map(serde_json::Value::as_u64).max()
        };
        assert!(counted(before) > Some(0), "{scene}");
        assert_eq!(after["received"], after["sent"], "{scene}");
        assert_eq!(after["dropped_in_all"], 0, "{scene}");
        assert_eq!(scene["unaccounted"], serde_json::json!([]));
    }
}

#[test]
fn the_tour_reads_as_a_lesson() {
    let out = linerate(&["demo", "--tour"]);
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    for part in [
        "linerate set ring.rx=64",
        "(FULL_RING)",
        "rx_missed_errors",
        "time_squeeze",
        "(CPU_BACKLOG)",
        "(SOCKET_RCVBUFF)",
        "RcvbufErrors",
        "ListenOverflows",
        "/proc/net/softnet_stat",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100));
}

#[test]
fn real_traffic_arrives_whole() {
    let out = linerate(&["demo", "--secs", "1", "--json"]);
    let demo = json(&out);
    traffic_is_good(&demo);
    if demo["kernel_client"] == false {
        skip("real_traffic_arrives_whole", demo["missing"].as_str().expect("why"));
    }
}

#[test]
fn without_namespaces_two_stacks_talk_in_memory_and_it_says_so() {
    // In a user namespace of our own the number of network namespaces can be limited to none.
    let script = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" \"$@\"";
    let mut words = vec!["-Ur", "sh", "-c", script, env!("CARGO_BIN_EXE_linerate")];
    words.extend(["demo", "--secs", "1", "--json"]);
    let allowed = Command::new("unshare")
        .args(["-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_net_namespaces"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !allowed {
        let name = "without_namespaces_two_stacks_talk_in_memory_and_it_says_so";
        return skip(name, "no user namespace whose limits can be set");
    }
    let demo = json(&Command::new("unshare").args(words).output().expect("unshare starts"));
    assert_eq!(demo["kernel_client"], false);
    assert!(demo["missing"].as_str().expect("why").contains("namespace"), "{demo}");
    traffic_is_good(&demo);
}

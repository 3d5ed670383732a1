//! Goal: `linerate bench path` says what each stage costs, and what peers do. Method: short runs of
//! the real binary; every stage of the way has its cost, every packet was accounted for (the program
//! asserts it), and what is not there is said to be not there.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

const RX: [&str; 7] = ["Gro", "Link", "Ip", "Route", "Demux", "Transport", "SockQueue"];
const TX: [&str; 4] = ["IpOut", "Frag", "Neigh", "Qdisc"];

fn cases(only: &str, more: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(["bench", "path", "--rounds", "2", "--pin", "none"]);
    let packets = if more.contains(&"--packets") { &[][..] } else { &["--packets", "20000"] };
    let out = command.args(["--only", only, "--json"]).args(packets).args(more).output();
    let out = out.expect("linerate starts");
    assert!(out.status.success(), "{out:?}");
    let v: Value = serde_json::from_slice(&out.stdout).expect("it prints JSON");
    assert!(v["ghz"].as_f64().is_some_and(|ghz| ghz > 0.0), "{v}");
    v["cases"].as_array().expect("a list").clone()
}

fn ran(case: &Value) {
    let rounds = case["ns"].as_array().expect("rounds").len();
    assert!(rounds == 2 && case["ns_median"].as_f64().is_some_and(|ns| ns > 0.0), "{case}");
}

#[test]
fn bench_path_names_the_cost_of_each_stage() {
    let cases = cases("UDP, 18 B payload, batch 32", &[]);
    let both = [&RX[..], &TX[..]].concat();
    assert_eq!(cases.len(), 3, "receive, echo and send: {cases:?}");
    for (case, stages) in cases.iter().zip([&RX[..], &both[..], &TX[..]]) {
        let costs = case["stages_ns"].as_object().expect("stages");
        for stage in stages {
            assert!(costs.get(*stage).is_some_and(Value::is_number), "{stage}: {case}");
        }
        ran(case);
    }
}

#[test]
fn bench_path_runs_every_kind_of_case() {
    for (only, more, n) in [
        ("batch 1", &[][..], 0),
        ("null ports, 60 B, batch 32", &["--packets", "1000"], 0),
        ("receive UDP at random", &["--sockets", "1000"], 2),
        ("TCP", &[], 5),
    ] {
        let cases = cases(only, more);
        assert!(n == 0 || cases.iter().filter(|c| c["who"] == "linerate").count() == n, "{only}");
        cases.iter().filter(|c| c["who"] == "linerate").for_each(ran);
        // A peer has run, or it is said why not.
        for peer in cases.iter().filter(|c| c["who"] != "linerate") {
            assert!(peer["ns_median"].is_number() || peer["note"].is_string(), "{peer}");
        }
    }
}

/// Programs run here and in the kernel; idle stages are differences, which may be nothing.
#[test]
fn bench_path_measures_programs_and_idle_stages() {
    let programs = cases("xdp-vm", &["--packets", "4000"]);
    let (ours, theirs): (Vec<_>, Vec<_>) = programs.iter().partition(|c| c["who"] == "linerate");
    assert_eq!((ours.len(), theirs.len()), (2, 2), "{programs:?}");
    ours.into_iter().for_each(ran);
    for kernel in theirs {
        assert!(kernel["note"].is_string(), "it says how, or why not: {kernel}");
    }
    let idle = cases("idle", &["--packets", "4096"]);
    assert_eq!(idle.len(), 8, "{idle:?}");
    for case in &idle {
        assert!(case["ns_median"].is_number(), "{case}");
    }
    let held = idle.iter().filter(|c| c["target_ns"] == 1.0).count();
    assert_eq!(held, 4, "stages that nobody uses have a target: {idle:?}");
}

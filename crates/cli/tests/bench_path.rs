//! Goal: `linerate bench path` says what each stage costs. Method: a short run of the real binary;
//! every stage of the way has its cost.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

const RX: [&str; 7] = ["Gro", "Link", "Ip", "Route", "Demux", "Transport", "SockQueue"];
const TX: [&str; 4] = ["IpOut", "Frag", "Neigh", "Qdisc"];

#[test]
fn bench_path_names_the_cost_of_each_stage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(["bench", "path", "--rounds", "2", "--packets", "100000", "--pin", "none"]);
    let out = command.args(["--only", "18 B payload, batch 64", "--json"]).output();
    let out = out.expect("linerate starts");
    assert!(out.status.success(), "{out:?}");
    let v: Value = serde_json::from_slice(&out.stdout).expect("it prints JSON");
    let cases = v["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 2, "receive and send: {v}");
    for (case, stages) in cases.iter().zip([&RX[..], &TX]) {
        let costs = case["stages_ns"].as_object().expect("stages");
        assert_eq!(costs.len(), stages.len(), "{case}");
        for stage in stages {
            assert!(costs[*stage].as_f64().is_some_and(|ns| ns > 0.0), "{stage}: {case}");
        }
        let rounds = case["ns"].as_array().expect("rounds").len();
        assert!(rounds == 2 && case["ns_median"].as_f64().is_some_and(|ns| ns > 0.0), "{case}");
    }
}

//! Goal: `linerate bench devices` brings datagrams to every receiver, and `bench steering` keeps
//! their order. Method: short runs of the real binary; the numbers themselves are not looked at,
//! only that there are some. Without root the first is skipped, with a message.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

fn linerate(args: &[&str]) -> (bool, Value, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_linerate")).args(args).output();
    let out = out.expect("linerate starts");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    (out.status.success(), serde_json::from_slice(&out.stdout).unwrap_or_default(), said)
}

#[test]
fn every_receiver_receives() {
    let args = ["bench", "devices", "--rounds", "1", "--ms", "300", "--json"];
    let one = std::thread::available_parallelism().is_ok_and(|n| n.get() < 2);
    let pin = if one { &["--receiver", "0"][..] } else { &[] };
    let (ok, v, said) = linerate(&[&args[..], pin].concat());
    if !ok && said.contains("run it as root") {
        return skip("every_receiver_receives", said.trim());
    }
    assert!(ok, "{said}");
    let rows = v["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 19, "{v}");
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        // Not every kernel lets a veth have a NAPI thread, or has what AF_XDP and tc need; the peer
        // is not everywhere.
        let may_lack =
            ["NAPI", "AF_XDP", "ingress", "Open vSwitch"].iter().any(|what| name.contains(what));
        let arrived = row["mpps_median"].as_f64().is_some_and(|mpps| mpps > 0.0);
        assert!(arrived || (may_lack && row["failed"].is_string()), "{row}");
    }
}

#[test]
fn steering_keeps_the_order() {
    let args = ["bench", "steering", "--rounds", "1", "--packets", "5000", "--json"];
    let one = std::thread::available_parallelism().is_ok_and(|n| n.get() < 2);
    let pin = if one { &["--pin", "0,0"][..] } else { &[] };
    let (ok, v, said) = linerate(&[&args[..], pin].concat());
    assert!(ok, "{said}");
    assert_eq!(v["order_violations"], 0, "{v}");
    assert!(v["map_changes"].as_u64().is_some_and(|n| n > 10), "{v}");
    assert!(v["read_while_maps_changed"].as_u64().is_some_and(|n| n >= 4992), "{v}");
    let rows = v["rows"].as_array().expect("rows");
    // One shard, two, hops, moves; then 1 to 64 queues in three ways.
    assert_eq!(rows.len(), 13 + 6 * 3, "{v}");
    let queues = rows.iter().filter(|r| r["name"].as_str().is_some_and(|n| n.contains(" queue")));
    assert_eq!(queues.count(), 6 * 3, "{v}");
    for row in rows {
        assert!(row["spread"]["median"].is_number(), "{row}");
    }
}

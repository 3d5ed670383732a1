//! Goal: `linerate bench tun` has a figure for every case, with offloads and without. Method: a short run
//! of the real binary; the numbers themselves are not looked at, only that there are some. Where no TUN
//! may be opened it is skipped, with a message.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

#[test]
fn every_case_has_a_figure() {
    let one = std::thread::available_parallelism().is_ok_and(|n| n.get() < 2);
    let pin = if one { "0,0" } else { "1,0" };
    let args = ["bench", "tun", "--rounds", "2", "--ms", "200", "--json", "--pin", pin];
    let out = Command::new(env!("CARGO_BIN_EXE_linerate")).args(args).output();
    let out = out.expect("linerate starts");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let v: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    if said.contains("network namespace here") || v.to_string().contains("/dev/net/tun") {
        return skip("every_case_has_a_figure", "no network namespace with a TUN");
    }
    assert!(out.status.success(), "{said}{v}");
    let rows = v["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().filter(|r| r["ours"] == true).count(), 9, "{v}");
    for row in rows.iter().filter(|r| r["ours"] == true) {
        assert!(row["failed"].is_null(), "{row}");
        assert_eq!(row["samples"].as_array().map(Vec::len), Some(2), "{row}");
        assert!(row["median"].as_f64() > Some(0.0), "{row}");
    }
}

//! Goal: `linerate bench host` measures every tool that is there, in one run, and says what is not.
//! Method: the real binary with few rounds; the numbers themselves are not looked at, for they are those
//! of a build with checks on a busy machine, only that there are some. Without root it is skipped, with
//! a message.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

const EXPORTER: &str = "prometheus-node-exporter";

fn linerate(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_linerate")).args(args).output();
    let out = out.expect("linerate starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn everybody_reads_the_same_host() {
    const TEST: &str = "everybody_reads_the_same_host";
    let args = ["bench", "host", "--rounds", "2", "--readings", "4", "--sockets", "600"];
    let more = ["--record", "1s", "--json"];
    let (code, out, said) = linerate(&[&args[..], &more[..]].concat());
    if said.contains("run it as root") {
        return skip(TEST, said.trim());
    }
    assert_eq!(code, Some(0), "{said}");
    let v: Value = serde_json::from_str(&out).expect("it is JSON");
    let groups = v["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 4, "{v}");
    for row in groups.iter().flat_map(|g| g["rows"].as_array().expect("rows")) {
        let name = row["name"].as_str().expect("a name");
        if row["left_out"].is_string() {
            // It alone may be missing: the rest is what the other tests need as well.
            assert!(name.starts_with("node_exporter"), "{row}");
            assert!(v["versions"][EXPORTER].is_null(), "{row}");
        } else {
            assert_eq!(row["samples"].as_array().map(Vec::len), Some(2), "{row}");
            // What a process takes less its start may come out as nothing; ours never does.
            assert!(row["ours"] == false || row["ms"]["min"].as_f64() > Some(0.0), "{row}");
        }
    }
    let record = &v["record"];
    assert!(record["bytes_per_s"].as_f64() > Some(0.0), "{record}");
    assert!(record["devices"].as_u64() > Some(0), "{record}");
    // Which of them are met is for a build without checks.
    let checks = v["checks"].as_array().expect("checks");
    assert!(checks.len() >= 8, "{v}");
    assert_eq!(v["holds"], checks.iter().all(|c| c["met"] == true), "{v}");
    if v["versions"][EXPORTER].is_null() {
        skip(TEST, "prometheus-node-exporter is not installed; the others were measured");
    }
}

#[test]
fn wrong_arguments_are_told() {
    for wrong in [["--sockets", "1"], ["--record", "soon"], ["--rounds", "0"]] {
        let (code, _, said) = linerate(&[&["bench", "host"][..], &wrong[..]].concat());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(wrong[0]), "{said}");
    }
}

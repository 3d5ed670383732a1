//! Goal: `linerate bench run` measures what it says, with real namespaces and processes, and leaves
//! nothing behind. Method: the relay only, which needs no peer installed; a short run; the JSON is
//! read back. Where namespaces or `ip` are not available the tests say so and skip.

#![forbid(unsafe_code)]

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::skip;

const SHORT: [&str; 8] = ["bench", "run", "--only", "relay", "--rounds", "2", "--mtu", "1500"];

fn linerate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(SHORT).args(args).args(["--pin", "none"]);
    command
}

/// Whether this machine lets it begin at all; if not, says why.
fn skipped(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    let cannot = output.status.code() == Some(2)
        && ["namespace", "iproute2", "/proc cannot be mounted", "ip link"]
            .iter()
            .any(|w| said.contains(w));
    if cannot {
        skip("bench run", said.trim());
    }
    cannot
}

/// The JSON of a short run of these cases; none where it can not begin here.
fn measured(cases: &str) -> Option<Value> {
    let output = linerate(&["--secs", "0.3", "--cases", cases, "--json"]).output();
    let output = output.expect("linerate starts");
    if skipped(&output) {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    Some(serde_json::from_slice(&output.stdout).expect("the output is JSON"))
}

fn metrics(json: &Value) -> Vec<&str> {
    let results = json["results"].as_array().expect("results is a list");
    results.iter().filter_map(|row| row["metric"].as_str()).collect()
}

#[test]
fn relay_is_measured_in_every_case() {
    let Some(json) = measured("up1,up4,down1,down4,ping,connects,sockperf,http") else { return };
    let mut wanted = vec!["up1", "up4", "down1", "down4", "p50", "p99", "round trips", "connects"];
    // sockperf, nginx and wrk are there, or it is said which is not.
    let left_out = json["left_out"].as_array().expect("left_out is a list");
    let is_left_out = |case: &str| {
        left_out.iter().filter_map(Value::as_str).any(|why| why.starts_with(&format!("{case}: ")))
    };
    let by_sockperf =
        ["sockperf udp p50", "sockperf udp p99", "sockperf tcp p50", "sockperf tcp p99"];
    let mut missing = 0;
    for (case, metrics) in [("sockperf", &by_sockperf[..]), ("http", &["http"])] {
        match is_left_out(case) {
            true => missing += 1,
            false => wanted.extend(metrics),
        }
    }
    assert_eq!(left_out.len(), missing, "{left_out:?}");
    assert_eq!(metrics(&json), wanted, "{json:#}");
    for row in json["results"].as_array().expect("results is a list") {
        let samples = row["samples"].as_array().expect("samples is a list");
        assert_eq!(samples.len(), 2, "one sample a round: {row}");
        assert!(samples.iter().all(|s| s.as_f64().is_some_and(|s| s > 0.0)), "{row}");
        assert_eq!(row["of_relay"], 1.0, "the relay compared with itself: {row}");
    }
}

/// Both directions of a UDP flow, through the relay: what is counted is what was acknowledged.
#[test]
fn a_udp_flow_is_measured_both_ways() {
    let Some(json) = measured("udp-up,udp-down") else { return };
    assert_eq!(metrics(&json), ["udp up", "udp down"], "{json:#}");
    let results = json["results"].as_array().expect("results is a list");
    assert!(results.iter().all(|row| row["median"].as_f64() > Some(0.0)), "{json:#}");
}

#[test]
fn wrong_arguments_are_one_sentence_and_status_2() {
    for (args, names) in [
        (["--pasta-sndbuf", "x"], "--pasta-sndbuf"),
        (["--secs", "0"], "--secs"),
        (["--cases", "sideways"], "--cases"),
        (["--connections", "0"], "--connections"),
    ] {
        let output = linerate(&args).output().expect("linerate starts");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(names), "{args:?}");
    }
}

/// SIGKILL of the command in the middle of a run ends everything it started.
#[test]
fn killed_it_leaves_no_process() {
    // An argument that only this run has, to find its processes by.
    let mark = format!("{}", 40_000 + std::process::id() % 10_000);
    let mut child = linerate(&["--secs", "60", "--cases", "up1", "--connections", &mark])
        .stderr(Stdio::piped())
        .spawn()
        .expect("linerate starts");
    let mut said = child.stderr.take().expect("stderr was asked to be a pipe");
    // The first byte of the progress line: namespaces and the host end are there. No byte: it could
    // not begin.
    let begun = said.read(&mut [0]).expect("the pipe can be read") == 1;
    let inside = with_argument(&format!("\"connections\":{mark}"));
    child.kill().expect("it can be killed");
    child.wait().expect("it can be waited for");
    if !begun || inside.is_empty() {
        return skip("killed_it_leaves_no_process", "the measurement could not begin here");
    }
    let patience = Instant::now() + Duration::from_secs(60);
    while !with_argument(&format!("\"connections\":{mark}")).is_empty() {
        assert!(Instant::now() < patience, "PID 1 of the namespaces outlived the command");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Process ids that have `text` in their arguments; a zombie has none.
fn with_argument(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|e| e.file_name().into_string().ok());
    pids.filter(|pid| {
        let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&args).contains(text)
    })
    .collect()
}

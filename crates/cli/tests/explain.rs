//! Goal: `linerate explain` answers from the tables, for every kind of name, in text and JSON.
//! Method: the real binary; its output and exit status are judged.

use std::process::{Command, Output};

fn linerate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linerate")).args(args).output().expect("linerate starts")
}

fn explained(name: &str) -> String {
    let out = linerate(&["explain", name]);
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("it prints UTF-8")
}

fn json(name: &str) -> serde_json::Value {
    let out = linerate(&["explain", name, "--json"]);
    assert!(out.status.success(), "{name}");
    serde_json::from_slice(&out.stdout).expect("it prints JSON")
}

#[test]
fn a_counter_names_the_reasons_that_move_it_and_their_knob() {
    let text = explained("UdpRcvbufErrors");
    for part in [
        "UDP datagrams dropped because the socket's receive buffer was full.",
        "SockQueue (receive, after Transport",
        "packets",
        "Udp:RcvbufErrors, in /proc/net/snmp",
        "SOCKET_RCVBUFF (SocketRcvbuff)",
        "UdpInErrors",
        "net.core.rmem_default: default 212992 bytes",
        "for sockets opened from now on",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    let json = json("Udp:RcvbufErrors");
    let hit = &json["hits"][0];
    assert_eq!(hit["kind"], "counter");
    assert_eq!(hit["moved_by"], serde_json::json!(["SocketRcvbuff"]));
    assert_eq!(hit["moves_with"], serde_json::json!(["UdpInErrors"]));
    assert_eq!(hit["knobs"], serde_json::json!(["net.core.rmem_default"]));
}

#[test]
fn a_reason_is_found_by_each_of_its_names() {
    for name in ["SocketRcvbuff", "SOCKET_RCVBUFF", "skb_drop_reason_socket_rcvbuff"] {
        let text = explained(name);
        assert!(text.contains("SocketRcvbuff · drop reason"), "{text}");
        assert!(text.contains("UdpRcvbufErrors: UDP datagrams dropped"), "{text}");
    }
    assert_eq!(json("SKB_DROP_REASON_SOCKET_RCVBUFF")["hits"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_knob_tells_its_range_and_what_it_governs() {
    for name in ["net.core.netdev_max_backlog", "net/core/netdev_max_backlog", "netdev_max_backlog"]
    {
        let text = explained(name);
        assert!(text.contains("default     1000"), "{text}");
        assert!(text.contains("0 to 10000000 packets"), "{text}");
        assert!(text.contains("CPU_BACKLOG at Backlog"), "{text}");
    }
}

#[test]
fn a_stage_has_its_neighbours_and_a_knob_of_the_same_name_comes_along() {
    let json = json("Gro");
    assert_eq!(json["hits"][0]["before"], "Xdp");
    assert_eq!(json["hits"][0]["after"], "Steer");
    assert_eq!(json["hits"][1]["name"], "features.gro");
}

#[test]
fn an_unknown_name_is_answered_by_its_neighbours_and_status_2() {
    let out = linerate(&["explain", "UdpRcvbufEror"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("UdpRcvbufErrors"));
    let out = linerate(&["explain", "qqqqqqqqqqqqqqqq"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(out.stdout.is_empty());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    for kind in ["stages", "counters", "drop reasons", "knobs", "gateway"] {
        assert!(said.contains(kind), "{kind}: {said}");
    }
}

#[test]
fn a_counter_of_the_gateway_is_explained_as_such() {
    for name in ["DnsNoResolver", "dnsnoresolver", "gateway:DnsNoResolver"] {
        let text = explained(name);
        assert!(text.starts_with("DnsNoResolver · counter of the gateway"), "{text}");
        assert!(text.contains("because the host has no resolver"), "{text}");
    }
    assert_eq!(json("EchoFull")["hits"][0]["kind"], "gateway counter");
    let near = linerate(&["explain", "DnsNoResolvr"]);
    assert!(String::from_utf8_lossy(&near.stderr).contains("DnsNoResolver"), "{near:?}");
}

#[test]
fn a_reason_without_a_name_in_linux_is_named_once() {
    let text = explained("TCPReqQFullDrop");
    assert!(text.contains("TcpReqQFull: ") && !text.contains("(TcpReqQFull)"), "{text}");
}

#[test]
fn wrong_usage_is_status_2_and_help_has_examples() {
    assert_eq!(linerate(&[]).status.code(), Some(2));
    assert_eq!(linerate(&["explain"]).status.code(), Some(2));
    let bad = linerate(&["run", "--set", "net.core.netdev_budgt=5", "--", "true"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("net.core.netdev_budget"), "{bad:?}");
    for command in ["demo", "run", "show", "get", "set", "explain", "replay"] {
        let help = linerate(&[command, "--help"]);
        assert!(help.status.success(), "{command}");
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(text.contains("Examples:"), "{command}: {text}");
        assert!(command == "run" || text.contains("--json"), "{command} has --json");
    }
}

#[test]
fn completions_and_manual_pages_come_from_the_same_definition() {
    for shell in ["bash", "zsh", "fish"] {
        let out = linerate(&["completions", shell]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && text.contains("replay"), "{shell}: {text}");
    }
    let dir = std::env::temp_dir().join(format!("linerate-man-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a new directory");
    let out = linerate(&["man", "--dir", &dir.display().to_string()]);
    let run = std::fs::read_to_string(dir.join("linerate-run.1"));
    let hidden = dir.join("linerate-__traffic.1").exists();
    std::fs::remove_dir_all(&dir).expect("it is removed");
    assert!(out.status.success(), "{out:?}");
    assert!(run.expect("a page for each command").contains("host"), "options are listed");
    assert!(!hidden, "hidden commands have no page");
    let missing = linerate(&["man", "--dir", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
}

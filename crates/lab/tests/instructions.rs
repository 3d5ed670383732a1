//! Goal: what a packet costs in memory does not grow unseen: on the path, at both ends of a TCP connection,
//! in programs at Xdp, in queueing disciplines, and at stages in which nothing happens. Method: this program runs itself once
//! under callgrind, which counts instructions: no clock, so no noise. Each case runs twice, with N and with 2 N packets;
//! the difference is what N packets take. The counts are those of the profile that tests are built with;
//! data/instructions.txt has what they were when somebody last looked.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

#[allow(dead_code, reason = "its main is for people")]
#[path = "../../core/examples/path_work.rs"]
mod path_work;
#[allow(dead_code, reason = "its main is for people")]
#[path = "../../core/examples/tcp_work.rs"]
mod tcp_work;
#[allow(dead_code, reason = "its main is for people")]
#[path = "../../bpf/examples/vm_work.rs"]
mod vm_work;

/// Packets of the first run of a case.
const N: u64 = 3200;
const SIZE: u64 = 32;
/// Instructions may be more by so much: another compiler, another processor's `memcpy`.
const MORE: f64 = 1.15;

macro_rules! cases {
    ($($name:ident, $twice:ident: $work:expr;)+) => {
        $(
            #[inline(never)]
            fn $name() {
                let work: fn(u64) = $work;
                work(std::hint::black_box(N));
            }
            #[inline(never)]
            fn $twice() {
                let work: fn(u64) = $work;
                work(std::hint::black_box(2 * N));
            }
        )+
        /// Every case, once and twice.
        fn all() {
            $( $name(); $twice(); )+
        }
        /// Names of the functions of each case.
        const CASES: &[(&str, &str)] = &[$((stringify!($name), stringify!($twice))),+];
    };
}

cases! {
    drop_at_xdp, drop_at_xdp_twice: |n| path_work::work("drop", n, SIZE);
    receive_udp, receive_udp_twice: |n| path_work::work("receive", n, SIZE);
    send_udp, send_udp_twice: |n| path_work::work("send", n, SIZE);
    receive_tcp_mss, receive_tcp_mss_twice: |n| tcp_work::work("receive", "mss", n);
    receive_tcp_super, receive_tcp_super_twice: |n| tcp_work::work("receive", "super", n);
    send_tcp_mss, send_tcp_mss_twice: |n| tcp_work::work("send", "mss", n);
    send_tcp_super, send_tcp_super_twice: |n| tcp_work::work("send", "super", n);
    vm_trivial, vm_trivial_twice: |n| vm_work::work("trivial", n);
    vm_filter, vm_filter_twice: |n| vm_work::work("filter", n);
    qdisc_pfifo_fast, qdisc_pfifo_fast_twice: |n| path_work::work("pfifo_fast", n, SIZE);
    qdisc_fq_codel, qdisc_fq_codel_twice: |n| path_work::work("fq_codel", n, SIZE);
    idle_none, idle_none_twice: |n| path_work::work("idle-none", n, SIZE);
    idle_xdp, idle_xdp_twice: |n| path_work::work("idle-xdp", n, SIZE);
    idle_ingress, idle_ingress_twice: |n| path_work::work("idle-ingress", n, SIZE);
    idle_tap, idle_tap_twice: |n| path_work::work("idle-tap", n, SIZE);
    idle_qdisc, idle_qdisc_twice: |n| path_work::work("idle-qdisc", n, SIZE);
}

/// Said past the capture of test output: a skip must be seen. With `LINERATE_SKIP=deny`, as in
/// `.ci/run`, the test fails.
fn skip(why: &str) {
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP: {why}");
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIP: {why}");
}

/// Instructions of each function, with those that it calls.
fn count() -> Option<BTreeMap<String, u64>> {
    let out = std::env::temp_dir().join(format!("linerate-callgrind-{}", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(std::env::current_exe().expect("a program has a name"));
    let ran = valgrind.args(["--exact", "what_is_counted_runs", "--test-threads=1"]).output();
    let ran = match ran {
        Ok(ran) => ran,
        Err(err) => {
            skip(&format!("valgrind: {err}"));
            return None;
        }
    };
    assert!(ran.status.success(), "{ran:?}");
    let mut annotate = Command::new("callgrind_annotate");
    annotate.args(["--inclusive=yes", "--threshold=100"]).arg(&out);
    let said = annotate.output().expect("it comes with valgrind");
    std::fs::remove_file(&out).expect("it was written here");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // 12,345,678 (12.34%)  file:crate::function [object]
    let line = |line: &str| -> Option<(String, u64)> {
        let number: String = line.split('(').next()?.trim().replace(',', "");
        let name = line.split("instructions::").nth(1)?.split([' ', '\'']).next()?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    let mut counts = BTreeMap::new();
    for (name, n) in said.lines().filter_map(line) {
        let most = counts.entry(name).or_insert(0);
        *most = n.max(*most);
    }
    Some(counts)
}

/// Instructions of a packet in each case; of idle stages, what they add to a loop without any.
fn per_packet(counts: &BTreeMap<String, u64>) -> Vec<(&'static str, f64)> {
    let of = |name: &str| *counts.get(name).unwrap_or_else(|| panic!("{name} ran: {counts:?}"));
    let each = |(once, twice): &(&'static str, &str)| {
        (*once, (of(twice) as f64 - of(once) as f64) / N as f64)
    };
    let all: Vec<(&str, f64)> = CASES.iter().map(each).collect();
    let none = all.iter().find(|(name, _)| *name == "idle_none").map_or(0.0, |(_, n)| *n);
    let idle = |name: &str| name.starts_with("idle_") && name != "idle_none";
    all.into_iter().map(|(name, n)| (name, if idle(name) { n - none } else { n })).collect()
}

#[test]
fn what_is_counted_runs() {
    all();
}

#[test]
fn no_packet_costs_more_instructions_than_it_did() {
    if !cfg!(debug_assertions) {
        return skip("the counts are those of the profile that tests are built with");
    }
    let Some(counts) = count() else { return };
    let have = per_packet(&counts);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/instructions.txt");
    if std::env::var_os("LINERATE_BLESS").is_some() {
        let mut text = String::from(
            "# Instructions of a packet, as tests are built. Idle stages: what they add to a loop over a batch.\n",
        );
        for (name, n) in &have {
            let _ = writeln!(text, "{name} {n:.1}");
        }
        std::fs::write(path, text).expect("data/ is writable");
    }
    let text = std::fs::read_to_string(path).expect("the counts that were");
    let base: BTreeMap<&str, f64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, n)| (name, n.parse().expect("a number")))
        .collect();
    let mut worse = String::new();
    for (name, n) in &have {
        let was = base.get(name).copied().unwrap_or(0.0);
        if *n > was * MORE + 1.0 {
            let _ = writeln!(worse, "{name}: {n:.1} instructions a packet, it was {was:.1}");
        }
    }
    assert!(
        worse.is_empty(),
        "{worse}if it has to be so: LINERATE_BLESS=1 cargo test -p linerate-lab --test instructions, \
         and say why where you commit it"
    );
}

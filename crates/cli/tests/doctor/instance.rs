//! `doctor --name`: the same rules over a stack of ours.

use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linerate_core::link::{Iface, L2};
use linerate_core::shard::Shard;
use linerate_core::table::{Reason, Stage};
use linerate_core::wire::Mac;
use linerate_gateway::control::{ControlServer, Meta, answer};

use super::{Temp, command, text};

/// Serves an instance called `only`, which loses datagrams all the time if `lossy`.
fn serving(lossy: bool, test: impl FnOnce(&Temp)) {
    let runtime = Temp::new();
    let sockets = runtime.0.join("linerate");
    std::fs::DirBuilder::new().mode(0o700).create(&sockets).expect("a new directory");
    let mut server = ControlServer::bind_in(&sockets, "only").expect("a free name");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A shard belongs to its thread.
            let mut shard = Shard::new(5);
            shard.add_iface(Iface::new("tun0", L2::Ip, Mac([0; 6]), 65520));
            let mut turns = 0u64;
            while !over.load(Ordering::Relaxed) {
                turns += 1;
                if lossy {
                    shard.net.counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff);
                }
                let uptime_ns = turns * 2_000_000;
                let meta = || Meta { name: "only".into(), uptime_ns, ..Meta::default() };
                server.turn(&mut |request| answer(&mut shard, request, meta));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&over);
        test(&runtime);
    });
}

fn doctor(runtime: &Temp, more: &[&str]) -> (String, Option<i32>) {
    let args = [&["doctor", "--name", "only", "--for", "1s", "--every", "100ms"], more].concat();
    let out = command(&args).env("XDG_RUNTIME_DIR", &runtime.0).output().expect("linerate starts");
    (text(&out.stdout), out.status.code())
}

#[test]
fn an_instance_is_judged_by_the_same_rules_and_advised_in_its_own_words() {
    serving(true, |runtime| {
        let (said, code) = doctor(runtime, &["--json"]);
        assert_eq!(code, Some(1), "{said}");
        let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(report["host"]["name"], "only");
        let first = &report["findings"][0];
        assert_eq!((&first["id"], &first["stage"]), (&"R43".into(), &"SockQueue".into()), "{said}");
        let source = first["evidence"][0]["source"].as_str().expect("evidence has a source");
        assert!(source.starts_with("linerate show snmp"), "{source}");
        assert!(!said.contains("sysctl -w") && !said.contains("/etc/sysctl.d"), "{said}");
    });
}

#[test]
fn the_two_paths_are_shown_side_by_side() {
    serving(true, |runtime| {
        let mut show = command(&["show", "path", "--host", "--name", "only"]);
        let out = show.env("XDG_RUNTIME_DIR", &runtime.0).output().expect("linerate starts");
        let said = text(&out.stdout);
        assert!(out.status.success() && said.contains("- host -"), "{said}");
        assert!(said.lines().all(|l| l.chars().count() <= 80), "it fits a terminal: {said}");
        let below = said.lines().skip_while(|l| !l.starts_with("SockQueue")).skip(1);
        let mut below = below.take_while(|l| l.starts_with(' '));
        let loss = |l: &str| l.contains("only loses ") && l.contains("UDP receive buffer full");
        assert!(below.any(loss), "{said}");
    });
}

#[test]
fn an_instance_that_loses_nothing_is_healthy_and_one_that_is_not_there_is_said() {
    serving(false, |runtime| {
        let (said, code) = doctor(runtime, &[]);
        assert_eq!(code, Some(0), "{said}");
        let mut other = command(&["doctor", "--name", "another"]);
        let out = other.env("XDG_RUNTIME_DIR", &runtime.0).output().expect("linerate starts");
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(text(&out.stderr).contains("only"), "it names those that run: {out:?}");
    });
}

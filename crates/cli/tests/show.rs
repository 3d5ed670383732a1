//! Goal: `show`, `get`, `set` find an instance, and say clearly when they can not.
//! Method: a control server of this test with a real shard behind it, in a runtime directory of its
//! own; the real binary as client.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use linerate_core::link::{Iface, L2};
use linerate_core::shard::Shard;
use linerate_core::table::{Reason, Stage};
use linerate_core::udp::api::UdpBind;
use linerate_core::wire::Mac;
use linerate_gateway::control::{ControlServer, Meta, answer};
use serde_json::Value;

struct Runtime(PathBuf);

impl Runtime {
    fn new() -> Runtime {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a socket has at most 107 bytes.
        let path = PathBuf::from(format!("/tmp/lr-show-{}-{n}", std::process::id()));
        let mut dir = std::fs::DirBuilder::new();
        dir.mode(0o700).create(&path).expect("a new directory");
        dir.create(path.join("linerate")).expect("a new directory");
        Runtime(path)
    }
    fn sockets(&self) -> PathBuf {
        self.0.join("linerate")
    }
    fn linerate(&self, args: &[&str]) -> Output {
        linerate_in(&self.0, args)
    }
}
impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn linerate_in(runtime: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(args).env("XDG_RUNTIME_DIR", runtime).output().expect("linerate starts")
}

fn shard() -> Shard {
    let mut shard = Shard::new(5);
    shard.add_iface(Iface::new("tun0", L2::Ip, Mac([0; 6]), 65520));
    let bind = UdpBind { port: 53, ..UdpBind::default() };
    shard.udp_bind(bind).expect("the port is free");
    let counts = &shard.net.counts;
    counts.flow(Stage::SockQueue).batch(7, 5, 0);
    counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff);
    counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff);
    shard
}

/// Serves instances called `names` while `test` runs.
fn serving(names: &[&str], test: impl FnOnce(&Runtime)) {
    let runtime = Runtime::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for name in names {
            let mut server = ControlServer::bind_in(&runtime.sockets(), name).expect("a free name");
            let over = &over;
            scope.spawn(move || {
                // A shard belongs to its thread.
                let mut shard = shard();
                while !over.load(Ordering::Relaxed) {
                    let meta = || Meta { name: server_name(name), pid: 1, ..Meta::default() };
                    server.turn(&mut |request| answer(&mut shard, request, meta));
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            });
        }
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

fn server_name(name: &str) -> String {
    name.to_owned()
}

fn stdout(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output, code: i32) -> String {
    assert_eq!(out.status.code(), Some(code), "{out:?}");
    assert!(out.stdout.is_empty(), "{out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn everything_that_can_be_shown_is_shown() {
    serving(&["only"], |runtime| {
        let show = |what| stdout(&runtime.linerate(&["show", what]));
        let path = show("path");
        assert!(path.contains("- 2 SOCKET_RCVBUFF") && !path.contains('\x1b'), "{path}");
        assert!(show("snmp").contains("\nUdp: 0 0 2 0 2 0 0 0 0\n"), "{}", show("snmp"));
        assert!(show("netstat").starts_with("TcpExt: SyncookiesSent "));
        assert!(show("snmp6").starts_with("Ip6InReceives "));
        assert!(show("softnet").starts_with("00000000 00000000 "));
        assert!(show("softirqs").contains("NET_RX:"));
        assert!(show("dev").contains("\n  tun0:"));
        assert!(show("sockstat").contains("\nTCP: inuse 0 "));
        assert!(show("sockstat6").contains("UDP6: inuse 1\n"), "it hears both families");
        assert!(show("udp").lines().count() == 1 && show("udp6").lines().count() == 2);
        assert!(show("tcp").starts_with("  sl  local_address"));
        assert!(show("tcp6").starts_with("  sl  local_address"));
        assert!(show("sockets").contains("udp   UNCONN"));
        assert!(show("drops").contains("SOCKET_RCVBUFF"));
        assert!(show("knobs").contains("net.core.netdev_budget = 300\n"));
        assert_eq!(show("instances"), "only\n");
    });
}

#[test]
fn everything_is_json_as_well() {
    serving(&["only"], |runtime| {
        let all = [
            "path",
            "softnet",
            "softirqs",
            "snmp",
            "snmp6",
            "netstat",
            "dev",
            "sockstat",
            "sockstat6",
            "udp",
            "udp6",
            "tcp",
            "tcp6",
            "sockets",
            "rings",
            "channels",
            "coalesce",
            "rss",
            "ntuple",
            "rps",
            "rfs",
            "xps",
            "flows",
            "irqs",
            "drops",
            "knobs",
            "instances",
        ];
        for what in all {
            let text = stdout(&runtime.linerate(&["show", what, "--json"]));
            let value: Value = serde_json::from_str(&text).expect(what);
            assert!(value.as_object().is_some_and(|o| !o.is_empty()), "{what}: {text}");
        }
        let snmp = stdout(&runtime.linerate(&["show", "snmp", "--json"]));
        let snmp: Value = serde_json::from_str(&snmp).expect("JSON");
        assert_eq!(snmp["Udp"]["RcvbufErrors"], 2);
    });
}

#[test]
fn a_knob_is_read_changed_and_read_again() {
    serving(&["only"], |runtime| {
        let knob = "net.core.netdev_budget";
        assert_eq!(stdout(&runtime.linerate(&["get", knob])), format!("{knob} = 300\n"));
        let set = runtime.linerate(&["set", &format!("{knob}=600")]);
        assert_eq!(stdout(&set), format!("{knob} = 600\n"));
        let json = stdout(&runtime.linerate(&["get", knob, "--json", "--name", "only"]));
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["knob"], &json["value"]), (&knob.into(), &"600".into()));
        let knobs = stdout(&runtime.linerate(&["show", "knobs"]));
        assert!(knobs.contains("net.core.netdev_budget = 600    # default 300\n"), "{knobs}");
        let unknown = runtime.linerate(&["get", "net.core.netdev_budgt"]);
        assert!(stderr(&unknown, 2).contains("net.core.netdev_budget"));
        let wrong = runtime.linerate(&["set", "net.core.netdev_budget=0"]);
        assert!(stderr(&wrong, 2).contains("from 1 to"));
    });
}

#[test]
fn a_single_shard_is_shown_as_a_device_with_one_queue_and_refuses_to_distribute() {
    serving(&["only"], |runtime| {
        let show = |what| stdout(&runtime.linerate(&["show", what]));
        assert!(show("rings").starts_with("Ring parameters for tun0:\nPre-set maximums:\n"));
        assert!(show("rings").contains("RX:\t\t\t1024\n"), "{}", show("rings"));
        assert!(show("channels").ends_with("Combined:\t1\n"));
        assert!(show("coalesce").starts_with("Coalesce parameters for tun0:\nAdaptive RX: off"));
        let table = show("rss");
        assert!(table.starts_with("RX flow hash indirection table for tun0 with 1 RX ring(s):\n"));
        assert!(table.contains("    0:      0     0     0"), "{table}");
        assert!(show("ntuple").starts_with("1 RX rings available\nTotal 0 rules\n"));
        assert_eq!(show("rps"), "/sys/class/net/tun0/queues/rx-0/rps_cpus:0\n");
        assert!(show("rfs").starts_with("net.core.rps_sock_flow_entries = 0\n"));
        assert_eq!(show("xps").lines().count(), 2);
        assert!(show("irqs").contains("CPU0\n"));
        assert_eq!(show("flows").lines().count(), 1, "listeners and UDP are no connections");
        for args in [&["set", "channels.combined=2"][..], &["set", "rss.weight=6,2"]] {
            let why = stderr(&runtime.linerate(args), 1);
            assert!(why.contains("this instance has one queue"), "{args:?}: {why}");
        }
        let rule = ["set", "ntuple", "add", "flow-type", "udp4", "dst-port", "53", "action", "0"];
        let why = stderr(&runtime.linerate(&rule), 1);
        assert!(why.contains("this instance has one queue"), "{why}");
        // As it is already: nothing is asked for.
        let same = runtime.linerate(&["set", "channels.combined=1"]);
        assert_eq!(stdout(&same), "channels.combined = 1\n");
        let short = runtime.linerate(&["set", "rps_cpus=1"]);
        assert_eq!(stdout(&short), "queues.rx.rps_cpus = 1\n");
        for wrong in [
            &["set", "ntuple"][..],
            &["set", "ntuple", "delete", "x"],
            &["set", "ntuple", "add", "flow-type", "ip4", "action", "0"],
            &["set", "budget"],
            &["set", "ring.rx=1", "ring.tx=1"],
        ] {
            stderr(&runtime.linerate(wrong), 2);
        }
    });
}

#[test]
fn rules_at_ingress_are_set_and_shown() {
    serving(&["only"], |runtime| {
        let set = |words: &str| {
            let words: Vec<&str> = std::iter::once("set").chain(words.split(' ')).collect();
            runtime.linerate(&words)
        };
        let rule =
            "ingress.tun0 add prio 10 protocol ip flower ip_proto udp dst_port 53 action drop";
        assert!(stdout(&set(rule)).starts_with("filter protocol ip pref 10 flower chain 0"));
        let shown = stdout(&runtime.linerate(&["show", "filter"]));
        assert!(shown.contains("  dst_port 53\n"), "{shown}");
        assert!(shown.contains("action order 1: gact action drop\n"), "{shown}");
        let json = stdout(&runtime.linerate(&["show", "filter", "--json"]));
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["filters"][0]["prio"], 10);
        let wrong = stderr(&set("ingress.tun0 add protocol ip flower colour 5 action drop"), 2);
        assert!(wrong.contains("\"colour\""), "{wrong}");
        let nobody = stderr(&set("ingress.eth7 add protocol all matchall action drop"), 1);
        assert!(nobody.contains("there is tun0"), "{nobody}");
        assert_eq!(stdout(&set("ingress.tun0 del")), "");
        assert_eq!(stdout(&runtime.linerate(&["show", "filter"])), "");
    });
}

#[test]
fn several_instances_must_be_told_apart() {
    serving(&["one", "two"], |runtime| {
        let which = stderr(&runtime.linerate(&["show", "path"]), 2);
        assert!(which.contains("--name: one, two"), "{which}");
        let two = stdout(&runtime.linerate(&["show", "path", "--name", "two"]));
        assert!(two.starts_with("two"), "{two}");
        let by_path = runtime.sockets().join("one.sock").display().to_string();
        assert!(
            stdout(&runtime.linerate(&["show", "path", "--name", &by_path])).starts_with("one")
        );
        let unknown = stderr(&runtime.linerate(&["show", "path", "--name", "three"]), 2);
        assert!(unknown.contains("these run: one, two"), "{unknown}");
    });
}

#[test]
fn no_instance_is_said_in_a_sentence_and_dead_sockets_go() {
    let runtime = Runtime::new();
    let none = stderr(&runtime.linerate(&["show", "path"]), 1);
    assert!(none.contains("linerate run -- PROGRAM"), "{none}");
    let dead = runtime.sockets().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    assert!(dead.exists());
    assert_eq!(stdout(&runtime.linerate(&["show", "instances"])), "");
    assert!(!dead.exists(), "whoever finds a dead socket removes it");
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = Runtime::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(runtime.sockets(), open).expect("chmod");
    let why = stderr(&runtime.linerate(&["show", "instances"]), 1);
    assert!(why.contains("may be entered by other users"), "{why}");
}

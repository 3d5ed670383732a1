//! `linerate tune` over a namespace of this host: what is changed reads back, and is put back.

#[path = "../../dev/tests/again/mod.rs"]
mod again;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use again::skip;

/// A namespace with settings out of an old guide, and a journal.
struct World {
    name: String,
    dir: PathBuf,
}

impl World {
    fn new(test: &str) -> Option<World> {
        let name = format!("lrt{}-{}", std::process::id(), test.len());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !made.is_ok_and(|o| o.status.success()) {
            skip(test, "no namespace with a name may be made here (ip netns add fails)");
            return None;
        }
        let dir = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_dir_all(&dir);
        let world = World { name, dir };
        world.set("0");
        Some(world)
    }

    fn exec(&self, words: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words).output().unwrap()
    }

    fn set(&self, value: &str) {
        let write = format!("echo {value} > /proc/sys/net/ipv4/tcp_sack");
        assert!(self.exec(&["sh", "-c", &write]).status.success());
    }

    fn value(&self) -> String {
        let out = self.exec(&["cat", "/proc/sys/net/ipv4/tcp_sack"]);
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// `linerate tune`; its exit status and what it printed.
    fn tune(&self, words: &[&str]) -> (i32, String) {
        self.tune_before(words, &[])
    }

    /// The same, with more words behind the options.
    fn tune_before(&self, words: &[&str], last: &[&str]) -> (i32, String) {
        let out = self.command(words).args(last).output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
        command.arg("tune").args(words).args(["--netns", &self.name]);
        command.arg("--journal").arg(self.dir.join("journal"));
        command
    }

    /// A veth from here, `va` with 10.9.0.1, to another namespace, `vb` with 10.9.0.2.
    fn link(&self, test: &str) -> Peer {
        let name = format!("{}p", self.name);
        let ip = |words: &str| {
            let out = Command::new("ip").args(words.split(' ')).output().unwrap();
            assert!(out.status.success(), "{test}: ip {words}: {out:?}");
        };
        ip(&format!("netns add {name}"));
        let peer = Peer { name: name.clone() };
        ip(&format!("-n {} link add va type veth peer name vb netns {name}", self.name));
        for (ns, dev, at) in [(&self.name, "va", 1), (&name, "vb", 2)] {
            ip(&format!("-n {ns} addr add 10.9.0.{at}/24 dev {dev}"));
            ip(&format!("-n {ns} link set {dev} up"));
        }
        peer
    }

    /// A shell that is served on port 7 of this namespace.
    fn shell(&self) -> Served {
        let mut socat = Command::new("ip");
        socat.args(["netns", "exec", &self.name, "socat"]);
        socat.args(["TCP-LISTEN:7,reuseaddr,fork", "EXEC:sh,stderr"]);
        let served = Served(socat.stdin(Stdio::null()).spawn().unwrap());
        self.wait("a shell listens", || {
            let out = self.exec(&["ss", "-Hltn", "sport = :7"]);
            !out.stdout.is_empty()
        });
        served
    }

    /// Waits for something that happens sooner or later.
    fn wait(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !is() {
            assert!(begin.elapsed() < Duration::from_secs(120), "not in two minutes: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The processes that wait to undo what this journal says.
    fn timers(&self) -> Vec<String> {
        let journal = self.dir.join("journal").display().to_string();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|e| e.file_name().into_string().ok());
        let is_timer = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            words.iter().any(|w| w == "__undo") && words.iter().any(|w| **w == *journal)
        };
        pids.filter(is_timer).collect()
    }
}

/// A server that ends with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other end of a link.
struct Peer {
    name: String,
}

impl Peer {
    /// How often the link has lost its carrier.
    fn downs(&self) -> u32 {
        let file = "/sys/class/net/vb/carrier_down_count";
        let mut cat = Command::new("ip");
        let out = cat.args(["netns", "exec", &self.name, "cat", file]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
    }

    /// Types commands into the shell at the other end, each when a line with its word has answered the one
    /// before; returns all that was seen.
    fn types(&self, _shell: &Served, commands: &[(&str, &str)]) -> String {
        let mut socat = Command::new("ip");
        socat.args(["netns", "exec", &self.name, "socat", "-", "TCP:10.9.0.1:7"]);
        let mut socat = socat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut typed = socat.stdin.take().unwrap();
        let mut lines = BufReader::new(socat.stdout.take().unwrap()).lines();
        let mut seen = String::new();
        for (command, word) in commands {
            writeln!(typed, "{command}").unwrap();
            typed.flush().unwrap();
            for line in lines.by_ref() {
                let line = line.unwrap();
                seen += &format!("{line}\n");
                if line.contains(word) {
                    break;
                }
            }
        }
        drop(typed);
        let _ = socat.kill();
        let _ = socat.wait();
        seen
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn what_is_advised_is_planned_applied_listed_and_rolled_back() {
    const TEST: &str = "what_is_advised_is_planned_applied_listed_and_rolled_back";
    let Some(world) = World::new(TEST) else { return };
    let (status, plan) = world.tune(&["plan", "R87", "--for", "1s"]);
    assert!(status == 0 && plan.contains("net.ipv4.tcp_sack\n  - 0\n  + 1\n"), "{plan}");
    assert_eq!(world.value(), "0", "a plan changes nothing");
    let (status, applied) = world.tune(&["apply", "lore-sysctl", "--for", "1s"]);
    assert!(status == 0 && applied.contains("0 -> 1"), "{applied}");
    assert_eq!(world.value(), "1");
    let (status, list) = world.tune(&["list"]);
    assert!(status == 0 && list.contains("R87") && list.contains("applied"), "{list}");
    let (_, verified) = world.tune(&["verify", "--for", "1s"]);
    assert!(verified.contains("R87"), "{verified}");
    let (status, undone) = world.tune(&["rollback"]);
    assert!(status == 0 && undone.contains("is 0 again"), "{undone}");
    assert_eq!(world.value(), "0");
    assert!(!world.dir.join("journal").exists(), "nothing is ours any more");
}

#[test]
fn what_somebody_else_has_set_since_is_named_and_left() {
    const TEST: &str = "what_somebody_else_has_set_since_is_named_and_left";
    let Some(world) = World::new(TEST) else { return };
    let (status, text) = world.tune(&["apply", "R87", "--for", "1s", "--json"]);
    assert!(status == 0 && text.contains("\"applied\""), "{text}");
    // As another boot, or another tool, would have it.
    let journal = std::fs::read_to_string(world.dir.join("journal")).unwrap();
    let theirs = journal.replace("\"value\":\"1\"", "\"value\":\"7\"");
    std::fs::write(world.dir.join("journal"), theirs).unwrap();
    let (status, undone) = world.tune(&["rollback"]);
    assert!(status == 1 && undone.contains("somebody else set it"), "{undone}");
    assert_eq!(world.value(), "1");
}

#[test]
fn one_change_is_made_as_it_is_typed_and_undone() {
    const TEST: &str = "one_change_is_made_as_it_is_typed_and_undone";
    let Some(world) = World::new(TEST) else { return };
    let set = |words: &[&str]| world.tune_before(&["set"], words);
    let (status, text) = set(&["sysctl", "-w", "net.ipv4.tcp_sack=1"]);
    assert!(status == 0 && text.contains("net.ipv4.tcp_sack: 0 -> 1"), "{text}");
    assert_eq!(world.value(), "1");
    let (status, text) = set(&["sysctl -w net.ipv4.tcp_sack=1"]);
    assert!(status == 0 || text.contains("it is so already"), "{text}");
    let (status, text) = world.tune(&["verify", "--for", "100ms"]);
    assert!(status == 0 && text.contains("set by hand"), "{text}");
    for (words, status, why) in [
        (["rm", "-rf", "/"].as_slice(), 2, "no change of a setting"),
        (&["sysctl", "-w", "kernel.core_pattern=|sh"], 2, "for a shell"),
        (&["sysctl", "-w", "fs.file-max=1"], 1, "not a sysctl below net"),
        (&["sysctl", "-w", "net.core.no_such_thing=1"], 1, "no such setting"),
        (&["ethtool", "-G", "nobody0", "rx", "9"], 1, "No such device"),
    ] {
        let (have, text) = set(words);
        assert!(have == status && text.contains(why), "{words:?}: {have} {text}");
    }
    let (status, text) = world.tune(&["rollback", "R87"]);
    assert!(status == 2 && text.contains("no change is called R87"), "{text}");
    let (status, text) = world.tune(&["rollback", "set"]);
    assert!(status == 0 && text.contains("is 0 again"), "{text}");
    assert_eq!(world.value(), "0");
}

/// A veth has no table, no rules and no rings, and says so; nothing is in the journal.
#[test]
fn what_a_device_can_not_do_is_refused() {
    const TEST: &str = "what_a_device_can_not_do_is_refused";
    let Some(world) = World::new(TEST) else { return };
    let peer = world.link(TEST);
    for change in [
        "ethtool -X va weight 3 1",
        "ethtool -X va equal 2",
        "ethtool -N va flow-type udp4 dst-port 53 action 1 loc 5",
        "ethtool -N va rx-flow-hash udp4 sdfn",
        "ethtool -G va rx 512",
    ] {
        let (status, text) = world.tune_before(&["set", "--yes-flap"], &[change]);
        assert!(status == 1 && text.contains("the driver can not do it"), "{change}: {text}");
    }
    let (_, list) = world.tune(&["list"]);
    assert!(list.contains("nothing is changed"), "{list}");
    drop(peer);
}

/// Somebody works on this host through a link, takes that link down, and can not say that it stays.
#[test]
fn a_link_that_was_cut_comes_back_by_itself() {
    const TEST: &str = "a_link_that_was_cut_comes_back_by_itself";
    let Some(world) = World::new(TEST) else { return };
    let peer = world.link(TEST);
    let downs = peer.downs();
    // In the words of the kernel: all of its flags but IFF_UP.
    let down = "echo 0x1002 > /sys/class/net/va/flags";
    let (status, text) = world.tune_before(&["set"], &[down]);
    assert!(status == 1 && text.contains("--yes-flap allows it"), "{text}");
    assert_eq!(peer.downs(), downs, "nothing was done");

    let shell = world.shell();
    let tune = format!("{} tune", env!("CARGO_BIN_EXE_linerate"));
    let place = format!("--netns {} --journal {}", world.name, world.dir.join("journal").display());
    // The second command is typed when the answer to the first is seen.
    let first = format!("{tune} set --yes-flap --keep-within 3s {place} '{down}'");
    let second = format!("until {tune} keep {place}; do sleep 0.2; done");
    let seen = peer.types(&shell, &[(&first, "set  "), (&second, "kept")]);
    assert!(seen.contains("0x1003 -> 0x1002"), "{seen}");
    // It was seen when the link was back, which nobody but the timer brought.
    assert!(seen.contains("nothing waits to be kept"), "{seen}");
    assert_eq!(peer.downs(), downs + 1, "the link was really down");
    let flags = world.exec(&["cat", "/sys/class/net/va/flags"]);
    assert_eq!(String::from_utf8_lossy(&flags.stdout).trim(), "0x1003");
    assert!(!world.dir.join("journal").exists(), "nothing is ours any more");

    // The same with a change that leaves the way open: the word arrives, and it stays.
    let first = format!("{tune} set --yes-flap --keep-within 600s {place} ip link set va mtu 1400");
    let seen = peer.types(&shell, &[(&first, "set  "), (&second, "kept")]);
    assert!(seen.contains("1500 -> 1400") && seen.contains("kept: 1"), "{seen}");
    let (status, list) = world.tune(&["list"]);
    assert!(status == 0 && list.contains("mtu: 1500 -> 1400  kept"), "{list}");
    assert_eq!(world.tune(&["rollback"]).0, 0);
}

/// Both, who made the change and the timer that would have undone it, are killed.
#[test]
fn what_was_left_in_the_middle_is_undone_by_the_next_start() {
    const TEST: &str = "what_was_left_in_the_middle_is_undone_by_the_next_start";
    let Some(world) = World::new(TEST) else { return };
    let mut doubling =
        world.command(&["apply", "R87", "--until-clean", "--for", "8s"]).spawn().unwrap();
    let journal = world.dir.join("journal");
    let says = |word: &str| std::fs::read_to_string(&journal).is_ok_and(|text| text.contains(word));
    world.wait("it measures", || says("\"state\":\"trying\""));
    doubling.kill().unwrap();
    doubling.wait().unwrap();
    assert_eq!(world.value(), "1");
    let (_, list) = world.tune(&["list"]);
    assert!(list.contains("left in the middle"), "{list}");
    let (_, text) = world.tune(&["verify", "--for", "100ms"]);
    assert!(text.contains("left in the middle") && text.contains("is 0 again"), "{text}");
    assert_eq!(world.value(), "0");

    // As if this setting could cut the way: the timer, which is killed as well, was started for it.
    let peer = world.link(TEST);
    let risky = ["set", "--yes-flap", "--keep-within", "10s"];
    let (status, text) = world.tune_before(&risky, &["ip link set va mtu 1300"]);
    assert!(status == 0 && text.contains("undone in 10 s"), "{text}");
    let timers = world.timers();
    assert_eq!(timers.len(), 1, "{timers:?}");
    let killed = Command::new("kill").args(["-9", &timers[0]]).status().unwrap();
    assert!(killed.success());
    let (_, list) = world.tune(&["list"]);
    assert!(list.contains("unless it is kept"), "{list}");
    world.wait("the time is over", || world.tune(&["list"]).1.contains("time is over"));
    let mtu = || {
        String::from_utf8_lossy(&world.exec(&["cat", "/sys/class/net/va/mtu"]).stdout).into_owned()
    };
    assert_eq!(mtu().trim(), "1300", "nobody is there to undo it");
    let (_, text) = world.tune(&["verify", "--for", "100ms"]);
    assert!(text.contains("is 1500 again"), "{text}");
    assert_eq!(mtu().trim(), "1500");
    drop(peer);
}

#[test]
fn a_rule_that_nobody_knows_is_wrong_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    let out = command.args(["tune", "plan", "R999", "--for", "100ms"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("R999"), "{out:?}");
}

//! `linerate tune` over a namespace of this host: what is changed reads back, and is put back.

#[path = "../../dev/tests/again/mod.rs"]
mod again;

use std::path::PathBuf;
use std::process::{Command, Output};

use again::skip;

/// A namespace with settings out of an old guide, and a journal.
struct World {
    name: String,
    dir: PathBuf,
}

impl World {
    fn new(test: &str) -> Option<World> {
        let name = format!("lrt{}{}", std::process::id(), test.len());
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
        command.arg("tune").args(words).args(["--netns", &self.name]);
        let out = command.arg("--journal").arg(self.dir.join("journal")).output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
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

/// What may have cut the way here is undone by itself, unless somebody says that it stays.
#[test]
fn what_nobody_keeps_is_undone_and_what_is_kept_stays() {
    const TEST: &str = "what_nobody_keeps_is_undone_and_what_is_kept_stays";
    let Some(world) = World::new(TEST) else { return };
    for (kept, value) in [(false, "0"), (true, "1")] {
        assert_eq!(world.tune(&["apply", "R87", "--for", "1s"]).0, 0);
        // As if this setting could take a link down.
        let journal = std::fs::read_to_string(world.dir.join("journal")).unwrap();
        let risky = journal.replace("\"flap\":false", "\"flap\":true");
        assert_ne!(journal, risky);
        std::fs::write(world.dir.join("journal"), risky).unwrap();
        if kept {
            let (status, text) = world.tune(&["keep"]);
            assert!(status == 0 && text.contains("kept: "), "{text}");
        }
        let (status, text) = world.tune(&["__undo", "--from", "1", "--after", "100ms"]);
        assert_eq!((status, world.value().as_str()), (0, value), "{text}");
    }
    assert_eq!(world.tune(&["rollback"]).0, 0);
    assert_eq!(world.value(), "0");
}

#[test]
fn a_rule_that_nobody_knows_is_wrong_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    let out = command.args(["tune", "plan", "R999", "--for", "100ms"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("R999"), "{out:?}");
}

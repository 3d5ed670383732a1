//! Goal: the file of `linerate up` names disciplines and a default for them, SIGHUP changes them, and what
//! is wrong changes nothing. Method: the real binary with a TUN, in a namespace of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Server, text};

/// An instance that is told what to be by a file.
struct Up {
    child: Server,
    stderr: BufReader<ChildStderr>,
    dir: PathBuf,
}

const DEVICE: &str =
    "[[device]]\nname = \"t0\"\nbackend = \"tun\"\naddresses = [\"10.77.0.2/24\"]\n";

fn write(dir: &Path, knobs: &str, qdiscs: &str) {
    let text = format!("{knobs}{DEVICE}{qdiscs}[[service]]\nkind = \"echo\"\n");
    fs::write(dir.join("up.toml"), text).expect("a file");
}

impl Up {
    fn start(knobs: &str, qdiscs: &str) -> Up {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("lr-qdisc-up-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its mode");
        write(&dir, knobs, qdiscs);
        let up = ["up", "--name", "q", "--config", "up.toml"];
        let mut command = Command::new("unshare");
        command.args(["--net", "--", env!("CARGO_BIN_EXE_linerate")]).args(up);
        command.env("XDG_RUNTIME_DIR", &dir).current_dir(&dir);
        let mut child: Child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("unshare starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut up = Up { child: Server(child), stderr, dir };
        up.says("shard");
        up
    }
    fn says(&mut self, what: &str) -> String {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).expect("a line") > 0, "it says {what:?}");
        }
        line
    }
    /// What it says of a file with these parts.
    fn reload(&mut self, knobs: &str, qdiscs: &str) -> String {
        write(&self.dir, knobs, qdiscs);
        kill(Pid::from_raw(self.child.0.id() as i32), Signal::SIGHUP).expect("a signal");
        self.says("reloaded")
    }
    fn ask(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
        command.args(args).args(["--name", "q"]).env("XDG_RUNTIME_DIR", &self.dir);
        command.output().expect("linerate starts")
    }
    fn good(&self, args: &[&str]) -> String {
        let out = self.ask(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }
    #[track_caller]
    fn is(&self, root: &str, ingress: &str) {
        for (hook, want) in [("root", root), ("ingress", ingress)] {
            let place = format!("qdisc.t0.{hook}");
            let has = self.good(&["get", &place]);
            assert!(has.starts_with(&format!("{place} = {want}")), "{has}: not {want}");
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_file_names_disciplines_and_a_reload_changes_them() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "this needs root");
        return;
    }
    let default = |kind: &str| format!("[knobs]\nnet.core.default_qdisc = \"{kind}\"\n");
    let mut up = Up::start(&default("fq_codel"), "qdisc_in = \"netem delay 1ms\"\n");
    up.is("fq_codel limit 10240p", "netem limit 1000 delay 1ms\n");
    assert!(up.good(&["show", "qdisc"]).starts_with("qdisc fq_codel 0: dev t0 root "));
    let said = up.reload(&default("fq_codel"), "qdisc = \"pfifo limit 7\"\n");
    assert!(said.contains(": 2 disciplines"), "{said}");
    up.is("pfifo limit 7p\n", "none\n");

    // What is wrong changes nothing, and is named by its line or place.
    let too_much = "qdisc = \"netem loss 300%\"\n";
    let said = up.reload(&default("fq_codel"), too_much);
    assert!(said.contains("up.toml:7: device.qdisc: loss of netem can not be 300%"), "{said}");
    let small = "qdisc_in = \"sfq\"\nqdisc = \"tbf rate 1mbit burst 100b limit 10k\"\n";
    let said = up.reload(&default("sfq"), small);
    assert!(said.contains("not reloaded") && said.contains("burst of tbf"), "{said}");
    let said = up.reload(&default("netem"), "");
    assert!(said.contains("net.core.default_qdisc can not be \"netem\""), "{said}");
    up.is("pfifo limit 7p\n", "none\n");
    assert_eq!(up.good(&["get", "net.core.default_qdisc"]), "net.core.default_qdisc = fq_codel\n");

    // Another default is for what falls back to it later; a shard that comes has what the others have.
    let said = up.reload(&default("sfq"), "");
    assert!(said.contains(": 1 knob, 1 discipline"), "{said}");
    up.is("sfq limit 127p", "none\n");
    up.good(&["set", "net.core.default_qdisc=codel"]);
    up.is("sfq limit 127p", "none\n");
    up.good(&["set", "channels.combined=2"]);
    let shown = up.good(&["show", "qdisc"]);
    assert_eq!(shown.matches("qdisc sfq ").count(), 2, "{shown}");
    up.good(&["set", "qdisc.t0.root=none"]);
    up.is("codel limit 1000p", "none\n");
    let shown = up.good(&["show", "qdisc"]);
    assert_eq!(shown.matches("qdisc codel ").count(), 2, "{shown}");
    let wrong = up.ask(&["set", "net.core.default_qdisc=prio"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    kill(Pid::from_raw(up.child.0.id() as i32), Signal::SIGTERM).expect("a signal");
    assert!(up.child.0.wait().expect("it ends").success());
}

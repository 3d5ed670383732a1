//! A stack of ours at the far end of the rig.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::rig::{self, Ns, Rig};

/// What every instance here is called.
pub const NAME: &str = "t";

/// The rig, and a directory for what its instances leave.
pub struct Own {
    pub rig: Rig,
    pub dir: PathBuf,
}

/// A rig whose far end is for an instance of ours: the kernel has no address there. `None` with the reason
/// said, if there can be none here.
pub fn own(test: &str, programs: &[&str]) -> Option<Own> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let rig = rig::rig(test, programs)?;
    rig.far.ip("addr flush dev vb");
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("lr-own-{}-{n}", std::process::id()));
    fs::create_dir_all(dir.join("www")).expect("a directory");
    fs::write(dir.join("www/index.html"), "<p>home</p>\n").expect("a file");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&dir, private).expect("its mode");
    Some(Own { rig, dir })
}

impl Own {
    /// linerate, for the instances of this rig; in a namespace, if one is given.
    pub fn linerate(&self, net: Option<&Ns>, args: &[&str]) -> Command {
        let exe = env!("CARGO_BIN_EXE_linerate");
        let mut command = match net {
            None => Command::new(exe),
            Some(net) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &net.name, exe]);
                command
            }
        };
        command.args(args).env("XDG_RUNTIME_DIR", &self.dir).current_dir(&self.dir);
        command.stdin(Stdio::null());
        command
    }

    /// Starts `linerate up` at the far end, on a packet socket; it serves when this returns.
    pub fn up(&self, args: &[&str]) -> Up {
        let dev = ["--dev", "vb", "--backend", "af_packet", "--addr", "10.77.0.2/16"];
        self.start(&self.rig.far, &[&dev[..], args].concat())
    }

    /// Starts `linerate up` in a namespace.
    pub fn start(&self, net: &Ns, args: &[&str]) -> Up {
        let all = [&["up", "--name", NAME], args].concat();
        let child = self.linerate(Some(net), &all).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("linerate starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut up = Up { child: Running(child), stderr };
        up.says(" shard");
        up
    }

    fn output(&self, args: &[&str]) -> Output {
        self.linerate(None, args).output().expect("linerate starts")
    }

    /// What a command of linerate prints that has to succeed.
    pub fn ask(&self, args: &[&str]) -> String {
        let out = self.output(args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Does what advice says, as somebody does who copies it into a shell.
    pub fn shell(&self, line: &str) {
        let bin = PathBuf::from(env!("CARGO_BIN_EXE_linerate"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", bin.parent().expect("a directory").display());
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", path).env("XDG_RUNTIME_DIR", &self.dir);
        let out = shell.output().expect("a shell");
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Waits until the instance answers.
    pub fn wait(&self) {
        let begin = Instant::now();
        while !self.output(&["get", "--name", NAME, "ring.rx"]).status.success() {
            assert!(begin.elapsed() < Duration::from_secs(120), "the instance does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Packets that the instance has received so far.
    pub fn received(&self) -> u64 {
        let path: serde_json::Value =
            serde_json::from_str(&self.ask(&["show", "path", "--name", NAME, "--json"]))
                .expect("JSON");
        let devices = path["devices"].as_array().expect("devices");
        devices.iter().filter_map(|d| d["rx_packets"].as_u64()).sum()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process that ends when it is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running instance of `up`.
pub struct Up {
    child: Running,
    stderr: BufReader<ChildStderr>,
}

impl Up {
    /// The next line of its standard error that holds `what`.
    pub fn says(&mut self, what: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let n = self.stderr.read_line(&mut line).expect("readable");
            all += &line;
            assert!(n > 0, "it ended before it said {what:?}: {all}");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Has it read its configuration again.
    pub fn reload(&mut self) {
        self.signal(Signal::SIGHUP);
        let said = self.says("reloaded");
        assert!(!said.contains("not reloaded"), "{said}");
    }

    fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.0.id() as i32);
        kill(pid, signal).expect("it is ours");
    }

    /// Ends it. Every packet must be accounted for, whatever happened to it.
    pub fn end(mut self) {
        self.signal(Signal::SIGTERM);
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("readable");
        let status = self.child.0.wait().expect("it ends");
        assert!(status.success(), "{status}: {said}");
        assert!(said.contains("every packet accounted for"), "{said}");
    }
}

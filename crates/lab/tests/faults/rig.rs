//! Two network namespaces with a veth pair between them, made for one fault and gone after it.
//!
//! ```text
//! near: va 10.77.0.1/16, fd77::1/64 ──── vb 10.77.0.2/16, fd77::2/64 :far
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::sched::{CloneFlags, setns};

/// Settings of the whole host and its counters: one fault at a time.
static HOST: Mutex<()> = Mutex::new(());
static RIGS: AtomicU32 = AtomicU32::new(0);

pub use super::again::skip;

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A network namespace by name.
pub struct Ns {
    pub name: String,
}

impl Ns {
    fn new(name: String) -> Ns {
        sh(&["ip", "netns", "add", &name]);
        let ns = Ns { name };
        ns.ip("link set lo up");
        ns
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `f` in it, on a thread of its own.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                f()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into it, for good.
    pub fn enter(&self) {
        let file = File::open(self.path()).expect("the namespace is there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("a namespace of ours may be entered");
    }

    /// `ip -n NAME ...`
    pub fn ip(&self, words: &str) {
        let words: Vec<&str> =
            ["ip", "-n", &self.name].into_iter().chain(words.split(' ')).collect();
        sh(&words);
    }

    /// A command in it, with its `/sys`.
    pub fn sh(&self, words: &str) {
        let enter = ["ip", "netns", "exec", &self.name];
        sh(&enter.into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    }

    /// A program of nft in it.
    pub fn nft(&self, program: &str) {
        sh(&["ip", "netns", "exec", &self.name, "nft", program]);
    }

    /// Writes to a file of its `/sys`.
    pub fn sysfs(&self, name: &str, value: &str) {
        let mut live = linerate_host::source::Live::in_netns(&self.path()).unwrap();
        let done = live.write(&format!("sys/{name}"), value.as_bytes());
        done.unwrap_or_else(|e| panic!("{name} = {value}: {e}"));
    }

    /// Sets one of its sysctls.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(|| std::fs::write(&path, value)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a command that has to succeed.
pub fn sh(words: &[&str]) -> String {
    let out = Command::new(words[0]).args(&words[1..]).output();
    let out = out.unwrap_or_else(|e| panic!("{}: {e}", words[0]));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {err}", words.join(" "));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What the namespaces are made for.
pub struct Rig {
    pub near: Ns,
    pub far: Ns,
    _host: MutexGuard<'static, ()>,
}

impl Rig {
    /// One more namespace, with nothing in it.
    pub fn third(&self) -> Ns {
        Ns::new(format!("{}c", self.near.name.trim_end_matches('a')))
    }
}

/// A rig, or the reason why there can be none here, which is said.
pub fn rig(test: &str, programs: &[&str]) -> Option<Rig> {
    if !nix::unistd::geteuid().is_root() {
        skip(test, "namespaces with names need root");
        return None;
    }
    for program in ["ip", "ethtool", "tc"].iter().chain(programs) {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        if !found.is_ok_and(|o| o.status.success()) {
            skip(test, &format!("{program} is not installed"));
            return None;
        }
    }
    let host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let number = RIGS.fetch_add(1, Ordering::Relaxed);
    let name = |end: &str| format!("lrf{}-{number}{end}", std::process::id());
    let (near, far) = (Ns::new(name("a")), Ns::new(name("b")));
    let queues = "numtxqueues 2 numrxqueues 2";
    let peer = format!("netns {} {queues}", far.name);
    near.ip(&format!("link add va {queues} type veth peer name vb {peer}"));
    for (ns, dev, n) in [(&near, "va", 1), (&far, "vb", 2)] {
        // Without this the first seconds of an address are spent on looking for its double.
        ns.sysctl(&format!("net.ipv6.conf.{dev}.accept_dad"), "0");
        ns.ip(&format!("addr add 10.77.0.{n}/16 dev {dev}"));
        ns.ip(&format!("addr add fd77::{n}/64 dev {dev} nodad"));
        ns.ip(&format!("link set {dev} up"));
    }
    near.sh("ping -c 3 -i 0.2 -W 5 -q 10.77.0.2");
    Some(Rig { near, far, _host: host })
}

/// A setting of the whole host, put back at the end; also by the next run, if this one is killed.
pub struct HostWide {
    path: String,
    old: String,
    note: PathBuf,
}

impl HostWide {
    pub fn set(name: &str, value: &str) -> HostWide {
        // Once: what is set now is noted as well.
        static RECOVERED: Once = Once::new();
        RECOVERED.call_once(recover);
        let path = match name.strip_prefix('/') {
            Some(_) => name.to_owned(),
            None => format!("/proc/sys/{}", name.replace('.', "/")),
        };
        let old = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let note = notes().join(path.replace('/', "_"));
        std::fs::create_dir_all(notes()).unwrap();
        std::fs::write(&note, format!("{path}\n{old}")).unwrap();
        std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path} = {value}: {e}"));
        HostWide { path, old, note }
    }
}

impl Drop for HostWide {
    fn drop(&mut self) {
        if std::fs::write(&self.path, &self.old).is_ok() {
            let _ = std::fs::remove_file(&self.note);
        }
    }
}

fn notes() -> PathBuf {
    PathBuf::from("/run/linerate-faults")
}

/// Puts back what a run that was killed had set.
fn recover() {
    for note in std::fs::read_dir(notes()).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(note.path()).unwrap_or_default();
        if let Some((path, old)) = text.split_once('\n')
            && std::fs::write(path, old).is_ok()
        {
            let _ = std::fs::remove_file(note.path());
        }
    }
}

//! Goal: SIGKILL at any moment of a run, its start included, leaves nothing: no process, no control
//! socket, no directory, no file.
//! Method: the real binary is killed after waits that cover the start and the life of a run, as
//! whoever runs the tests, and as an ordinary user too if that is root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::{copy_program, skip};

/// Uid and gid of the ordinary user.
const NOBODY: u32 = 65534;
/// Kills for each user.
const KILLS: u64 = 30;

/// A user with a runtime directory that holds nothing but what linerate makes.
struct User {
    uid: u32,
    switch: bool,
    dir: PathBuf,
}

impl User {
    fn new(uid: u32, switch: bool) -> User {
        let dir = std::env::temp_dir().join(format!("lr-kill-{}-{uid}", std::process::id()));
        let runtime = dir.join("runtime");
        fs::create_dir_all(&runtime).expect("a directory");
        // Others have to get at the binary.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("its mode");
        copy_program(env!("CARGO_BIN_EXE_linerate"), dir.join("linerate"));
        std::os::unix::fs::chown(&runtime, Some(uid), Some(uid)).expect("its owner");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("its mode");
        User { uid, switch, dir }
    }

    fn runtime(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    fn run(&self, program: &[&str]) -> Command {
        let id = self.uid.to_string();
        let linerate = self.dir.join("linerate").display().to_string();
        let mut words = Vec::new();
        if self.switch {
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        words.extend([&*linerate, "run", "--"]);
        words.extend(program);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("XDG_RUNTIME_DIR", self.runtime()).env("TMPDIR", &self.dir);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Processes whose command line has this word, zombies left out: those have no command line.
fn with_word(word: &str) -> usize {
    let has = |dir: &Path| {
        let line = fs::read(dir.join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|w| w == word.as_bytes())
    };
    fs::read_dir("/proc").expect("/proc").flatten().filter(|e| has(&e.path())).count()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    const TEST: &str = "a_kill_at_any_moment_leaves_nothing";
    let me = fs::metadata("/proc/self").expect("/proc").uid();
    let mut users = vec![User::new(me, false)];
    if me == 0 {
        users.push(User::new(NOBODY, true));
    }
    for user in users {
        match user.run(&["true"]).output() {
            Ok(out) if out.status.success() => {}
            Ok(out) => {
                skip(TEST, String::from_utf8_lossy(&out.stderr).trim());
                continue;
            }
            Err(err) => {
                skip(TEST, &format!("setpriv (util-linux): {err}"));
                continue;
            }
        }
        assert_eq!(names(&user.runtime()), [""; 0], "an orderly end leaves something");
        let mut shown = 0;
        for i in 0..KILLS {
            // A word by which what the program starts is found again.
            let word = format!("41{}{i}", std::process::id());
            let script = format!("sleep {word} & setsid sleep {word} & sleep {word}");
            let mut command = user.run(&["sh", "-c", &script, &word]);
            let mut child = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("linerate starts");
            // Fine steps through the start, coarse ones after it.
            sleep(Duration::from_micros(if i < KILLS * 2 / 3 { 2500 * i } else { 10_000 * i }));
            shown += usize::from(!names(&user.runtime().join("linerate")).is_empty());
            child.kill().expect("it is ours");
            child.wait().expect("it ends");
            // The kernel takes its time to tear a namespace down: a hang is what would fail here.
            while with_word(&word) > 0 || !names(&user.runtime()).is_empty() {
                sleep(Duration::from_millis(2));
            }
        }
        assert!(shown > 0, "every kill came before the control socket: nothing was tested");
        let mut left = names(&user.dir);
        left.sort();
        assert_eq!(left, ["linerate", "runtime"], "files beside them");
    }
}

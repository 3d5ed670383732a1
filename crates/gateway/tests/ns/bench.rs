//! The users and devices the cases run on, and the means to start and watch a run.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

#[path = "../../../dev/tests/again/mod.rs"]
mod again;

/// Uid and gid of the ordinary user.
const NOBODY: &str = "65534";

/// Long enough for any machine: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a case cannot run here.
pub struct Skip(pub String);

/// A user and a device.
#[derive(Clone)]
pub struct Setup {
    pub name: &'static str,
    pub root: bool,
    pub options: &'static [&'static str],
    /// What the machine lacks for it.
    pub lacks: Option<String>,
    pub program: PathBuf,
}

/// What a finished run gave.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub events: String,
}

impl Setup {
    /// Every combination; the binary is copied to where any user may execute it.
    pub fn all() -> Vec<Setup> {
        let root = nix::unistd::Uid::effective().is_root();
        let dir = Setup::dir();
        let program = if root {
            fs::create_dir_all(&dir).expect("a directory for the runner");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its mode");
            let to = dir.join("runner");
            again::copy_program(std::env::current_exe().expect("our path"), &to);
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("its mode");
            to
        } else {
            std::env::current_exe().expect("our path")
        };
        let no_root = (!root).then(|| "only root can run it".to_owned());
        let no_tun = fs::metadata("/dev/net/tun").err().map(|err| format!("/dev/net/tun: {err}"));
        let no_setpriv = (root && !has_tool("setpriv")).then(|| "setpriv is missing".to_owned());
        let setup = |name, root, options, lacks: Option<&String>| Setup {
            name,
            root,
            options,
            lacks: lacks.cloned(),
            program: program.clone(),
        };
        let root_tun = no_root.as_ref().or(no_tun.as_ref());
        let mut all = vec![
            setup("root, TUN", true, &["--backend", "tun"][..], root_tun),
            setup("root, veth", true, &["--backend", "packet"], no_root.as_ref()),
            setup("root, no PID namespace", true, &["--no-pidns"], no_root.as_ref()),
            setup("user, veth", false, &["--backend", "packet"], no_setpriv.as_ref()),
            setup("user, no PID namespace", false, &["--no-pidns"], no_setpriv.as_ref()),
        ];
        match tun_for_everyone(root) {
            Ok(path) => {
                let options = vec!["--backend", "tun", "--tun", path.leak()].leak();
                all.push(setup("user, TUN", false, options, no_setpriv.as_ref()));
            }
            Err(why) => all.push(setup("user, TUN", false, &["--backend", "tun"], Some(&why))),
        }
        for setup in &mut all {
            if setup.lacks.is_none() {
                let probe = setup.run(&["true"]);
                if !probe.status.success() && !setup.root {
                    setup.lacks = Some(probe.stderr.trim().to_owned());
                }
            }
        }
        all
    }

    fn dir() -> PathBuf {
        std::env::temp_dir().join(format!("linerate-ns-{}", std::process::id()))
    }

    /// Deletes the copy of the binary.
    pub fn clean() {
        let _ = fs::remove_dir_all(Setup::dir());
    }

    /// The command that runs `program` under this setup, with more options for the runner.
    pub fn command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut words: Vec<&str> = Vec::new();
        if !self.root && nix::unistd::Uid::effective().is_root() {
            words.extend(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        words.push(self.program.to_str().expect("a UTF-8 path"));
        words.push(super::runner::ARGUMENT);
        words.extend(self.options);
        words.extend(options);
        words.push("--");
        words.extend(program);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    /// The same as one line for a shell.
    pub fn line(&self, options: &[&str], program: &[&str]) -> String {
        let command = self.command(options, program);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().expect("UTF-8"));
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Runs `program` to its end.
    pub fn run(&self, program: &[&str]) -> Outcome {
        self.run_with(&[], program, "")
    }

    /// The same with more options for the runner and with text on stdin.
    pub fn run_with(&self, options: &[&str], program: &[&str], stdin: &str) -> Outcome {
        finish(self.command(options, program), stdin)
    }

    /// Starts `program` and waits until it runs.
    pub fn start(&self, program: &[&str]) -> Running {
        let run = Running::new(self.command(&[], program));
        run.wait_for("Started");
        run
    }
}

/// A clone device that an ordinary user may open: the machine's, or a second node of it.
fn tun_for_everyone(root: bool) -> Result<String, String> {
    let system = "/dev/net/tun";
    let mode = fs::metadata(system).map_err(|err| format!("{system}: {err}"))?.permissions().mode();
    if mode & 0o6 == 0o6 {
        return Ok(system.to_owned());
    }
    if !root {
        return Err(format!("{system} may not be opened"));
    }
    let path = Setup::dir().join("tun").to_str().expect("UTF-8").to_owned();
    let made = Command::new("mknod").args(["-m", "666", &path, "c", "10", "200"]).status();
    match made {
        Ok(status) if status.success() => Ok(path),
        made => Err(format!("no second node of {system} can be made: {made:?}")),
    }
}

/// Runs a command with a log of events to its end.
pub fn finish(mut command: Command, stdin: &str) -> Outcome {
    let log = Log::new();
    let mut child = command
        .env("NS_TEST_EVENTS", &log.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the runner");
    let mut pipe = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // A program that does not read its input closes the pipe.
        scope.spawn(move || pipe.write_all(stdin.as_bytes()));
        child.wait_with_output().expect("the runner's output")
    });
    Outcome {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        events: log.read(),
    }
}

impl Outcome {
    /// The exit status, with the output in the message if there is none.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| {
            panic!("the runner died of {:?}: {}", self.status.signal(), self.stderr)
        })
    }

    /// Standard output of a run that succeeded.
    pub fn text(&self) -> &str {
        assert!(self.status.success(), "{:?}\n{}\n{}", self.status, self.stdout, self.stderr);
        &self.stdout
    }
}

/// A file any user may append to, deleted in the end.
pub struct Log(PathBuf);

impl Log {
    pub fn new() -> Log {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("linerate-ns-{}-{number}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "").expect("a log");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("its mode");
        Log(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn read(&self) -> String {
        fs::read_to_string(&self.0).expect("reading the log")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A run under way; killed in the end.
pub struct Running {
    pub child: Child,
    log: Log,
}

impl Running {
    pub fn new(mut command: Command) -> Running {
        use std::os::unix::process::CommandExt;
        let log = Log::new();
        // A process group of its own, for the signals that go to all of it.
        let child = command
            .env("NS_TEST_EVENTS", log.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the runner");
        Running { child, log }
    }

    pub fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits for a line in the log that begins with `text` and returns it.
    pub fn wait_for(&self, text: &str) -> String {
        until(&format!("{text} in the log"), || {
            let log = self.log.read();
            log.lines().find(|line| line.starts_with(text)).map(str::to_owned)
        })
    }

    /// The program's pid.
    pub fn pid(&self) -> i32 {
        let line = self.wait_for("Started(");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no pid in {line}"))
    }

    /// Waits for the end: exit status and standard output.
    pub fn end(mut self) -> (ExitStatus, String) {
        use std::io::Read;
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut text).expect("the program's output");
        (self.child.wait().expect("the runner's status"), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `found` finds something.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// The processes whose command line holds `marker`.
pub fn processes_with(marker: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(marker))
        .collect()
}

/// Whether any process is in this namespace, as `/proc/PID/ns/KIND` names it.
pub fn namespace_lives(kind: &str, id: &str) -> bool {
    fs::read_dir("/proc").expect("/proc").any(|entry| {
        let Ok(entry) = entry else { return false };
        let link = fs::read_link(entry.path().join("ns").join(kind));
        link.is_ok_and(|link| link.to_str() == Some(id))
    })
}

/// Whether a tool is in `PATH`.
pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Skips unless the tools are there.
pub fn need(tools: &[&str]) -> Result<(), Skip> {
    match tools.iter().find(|tool| !has_tool(tool)) {
        Some(tool) => Err(Skip(format!("{tool} is missing"))),
        None => Ok(()),
    }
}

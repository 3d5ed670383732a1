//! The cases.

use super::bench::{
    Outcome, Running, Setup, Skip, finish, namespace_lives, need, processes_with, until,
};
use super::runner::NOT_STARTED;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// One case and the setups it is for.
pub struct Case {
    pub name: &'static str,
    pub on: fn(&Setup) -> bool,
    pub run: fn(&Setup) -> Result<(), Skip>,
}

const fn case(name: &'static str, run: fn(&Setup) -> Result<(), Skip>) -> Case {
    Case { name, on: |_| true, run }
}

const fn only(
    name: &'static str,
    on: fn(&Setup) -> bool,
    run: fn(&Setup) -> Result<(), Skip>,
) -> Case {
    Case { name, on, run }
}

pub const CASES: &[Case] = &[
    case("exit_status", exit_status),
    case("program_not_found", program_not_found),
    case("ids_are_unchanged", ids_are_unchanged),
    case("standard_streams", standard_streams),
    case("restored_for_the_program", restored_for_the_program),
    case("no_capabilities_for_a_user", no_capabilities_for_a_user),
    case("interfaces", interfaces),
    case("settings", settings),
    case("packets_come_out", packets_come_out),
    case("resolv_conf", resolv_conf),
    only("resolv_conf_rewritten", |s| s.root, resolv_conf_rewritten),
    only("resolv_conf_missing", |s| s.root, resolv_conf_missing),
    only("resolver_sockets_masked", |s| s.root, resolver_sockets_masked),
    case("host_unchanged", host_unchanged),
    case("hostname", hostname),
    case("signals_once", signals_once),
    case("orphans_are_reaped", orphans_are_reaped),
    case("leftovers_end_with_the_program", leftovers_end_with_the_program),
    case("sigkill_leaves_nothing", sigkill_leaves_nothing),
    case("sigkill_at_any_moment", sigkill_at_any_moment),
    case("job_control", job_control),
    case("background_reader", background_reader),
    case("shell_returns_the_terminal", shell_returns_the_terminal),
    only("tun_missing", |s| s.name.ends_with("TUN"), tun_missing),
    only("proc_masked", |s| s.name == "user, veth", proc_masked),
    only("namespaces_refused", |s| s.name == "user, veth", namespaces_refused),
    only("subordinate_ids", |s| s.name == "user, veth", subordinate_ids),
];

/// What a shell prints inside.
fn sh(setup: &Setup, script: &str) -> Outcome {
    setup.run(&["sh", "-c", script])
}

fn exit_status(setup: &Setup) -> Result<(), Skip> {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
        ("kill -34 $$", 128 + 34),
    ] {
        assert_eq!(sh(setup, script).code(), code, "{script}");
    }
    Ok(())
}

fn program_not_found(setup: &Setup) -> Result<(), Skip> {
    let missing = setup.run(&["no-such-program-here"]);
    assert_eq!(missing.code(), 127);
    assert!(
        missing.stderr.contains("no-such-program-here: command not found"),
        "{}",
        missing.stderr
    );
    let missing = setup.run(&["/no/such/file"]);
    assert_eq!(missing.code(), 127);
    assert!(
        missing.stderr.contains("cannot run /no/such/file: No such file"),
        "{}",
        missing.stderr
    );
    let plain = setup.run(&["/etc/passwd"]);
    assert_eq!(plain.code(), 126);
    assert!(plain.stderr.contains("cannot run /etc/passwd: Permission denied"), "{}", plain.stderr);
    Ok(())
}

fn ids_are_unchanged(setup: &Setup) -> Result<(), Skip> {
    let outside = finish(bare(setup, &["sh", "-c", "id -u; id -g; pwd; umask"]), "");
    assert_eq!(sh(setup, "id -u; id -g; pwd; umask").text(), outside.text());
    Ok(())
}

/// The same user without namespaces.
fn bare(setup: &Setup, program: &[&str]) -> Command {
    let command = setup.command(&[], program);
    let mut words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let runner =
        words.iter().position(|word| *word == super::runner::ARGUMENT).expect("the runner");
    let end = words.iter().position(|word| *word == "--").expect("the dashes");
    words.drain(runner - 1..=end);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn standard_streams(setup: &Setup) -> Result<(), Skip> {
    let long = "line of text\n".repeat(20_000);
    let copied = setup.run_with(&[], &["cat"], &long);
    assert!(copied.text() == long, "stdin to stdout lost something");
    let split = sh(setup, "echo out; echo err >&2");
    assert_eq!((split.text(), split.stderr.as_str()), ("out\n", "err\n"));
    let env = finish(
        {
            let mut command = setup.command(&[], &["sh", "-c", "echo $NS_TEST_MARK"]);
            command.env("NS_TEST_MARK", "kept");
            command
        },
        "",
    );
    assert_eq!(env.text(), "kept\n");
    Ok(())
}

fn restored_for_the_program(setup: &Setup) -> Result<(), Skip> {
    let script =
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -n; ulimit -Hn; ls /proc/self/fd";
    let outside = finish(bare(setup, &["sh", "-c", script]), "");
    assert_eq!(sh(setup, script).text(), outside.text());
    Ok(())
}

fn no_capabilities_for_a_user(setup: &Setup) -> Result<(), Skip> {
    let script = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status";
    let outside = finish(bare(setup, &["sh", "-c", script]), "");
    assert_eq!(sh(setup, script).text(), outside.text());
    Ok(())
}

fn interfaces(setup: &Setup) -> Result<(), Skip> {
    assert_eq!(sh(setup, "ls /sys/class/net").text(), "lo\nlr0\n");
    let devices = sh(setup, "cat /proc/net/dev");
    assert_eq!(devices.text().lines().count(), 2 + 2, "{}", devices.text());
    assert_eq!(sh(setup, "cat /sys/class/net/lr0/mtu").text(), "1500\n");
    // The default route: destination 0, gateway 10.0.2.2 in the kernel's byte order.
    let routes = sh(setup, "cat /proc/net/route");
    let default = routes.text().lines().any(|line| line.starts_with("lr0\t00000000\t0202000A\t"));
    assert!(default, "{}", routes.text());
    let addresses = sh(setup, "cat /proc/net/fib_trie");
    assert!(addresses.text().contains("10.0.2.100"), "{}", addresses.text());
    if fs::exists("/proc/net/if_inet6").unwrap_or(false) {
        let v6 = sh(setup, "cat /proc/net/if_inet6");
        let ours = v6.text().lines().filter(|line| line.ends_with("lr0")).collect::<Vec<_>>();
        assert_eq!(ours.len(), 1, "only our own address: {ours:?}");
        // Address, index, prefix length, scope, flags: permanent, not tentative.
        assert!(ours[0].starts_with("fd000000000000000000000000000100 "), "{ours:?}");
        assert!(ours[0].contains(" 40 00 8"), "{ours:?}");
        let off = setup.run_with(&["--no-v6"], &["cat", "/proc/net/if_inet6"], "");
        assert!(!off.text().contains("lr0"), "{}", off.text());
    }
    Ok(())
}

fn settings(setup: &Setup) -> Result<(), Skip> {
    let text =
        sh(setup, "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range; id -g");
    let words: Vec<&str> = text.text().split_whitespace().collect();
    let [port, from, to, gid] = words[..] else { panic!("{words:?}") };
    if setup.root {
        assert_eq!((from, to), ("0", "2147483647"));
    } else {
        assert_eq!((port, from, to), ("0", gid, gid));
    }
    Ok(())
}

fn packets_come_out(setup: &Setup) -> Result<(), Skip> {
    need(&["bash"])?;
    // The device must have the very first packet, so it is sent as soon as the program runs.
    let script = "echo hello >/dev/udp/10.0.2.2/9; exec sleep 1000";
    let run = Running::new(setup.command(&["--sniff"], &["bash", "-c", script]));
    let frame = run.wait_for("Frame ");
    let events = run.wait_for("Backend ");
    if events.contains("Tun") {
        assert!(frame.contains("0a0002640a000202"), "from .100 to .2: {frame}");
        assert!(frame.ends_with("68656c6c6f0a"), "hello: {frame}");
    } else {
        // An ARP request: who has 10.0.2.2, tell 10.0.2.100.
        assert!(frame.contains("0800060400 01".replace(' ', "").as_str()), "{frame}");
        assert!(frame.contains("0a000264"), "{frame}");
        assert!(frame.contains("0a000202"), "{frame}");
    }
    Ok(())
}

fn resolv_conf(setup: &Setup) -> Result<(), Skip> {
    let before = fs::read("/etc/resolv.conf").ok();
    let inside = sh(setup, "cat /etc/resolv.conf; sleep 0.05; cat /etc/resolv.conf");
    assert_eq!(inside.text(), "nameserver 10.0.2.3\nnameserver 10.0.2.3\n");
    assert_eq!(fs::read("/etc/resolv.conf").ok(), before, "the host's file was touched");
    Ok(())
}

/// Runs a shell script in a mount namespace of its own in which `/etc` and `/run` may be changed.
/// `RUN` in it stands for the runner's command line up to the program.
fn with_own_etc(setup: &Setup, script: &str) -> Result<String, Skip> {
    need(&["unshare", "mount", "cp"])?;
    let run = setup.line(&[], &[]);
    let script = script.replace("RUN", &run);
    let whole = format!(
        "set -e; mount --make-rprivate /; t=$(mktemp -d); mount -t tmpfs t $t; cp -a /etc $t/etc; \
         mount --bind $t/etc /etc; mount -t tmpfs r /run; umount -l $t; rmdir $t\n{script}"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &whole]);
    Ok(finish(command, "").text().to_owned())
}

fn resolv_conf_rewritten(setup: &Setup) -> Result<(), Skip> {
    // The program reads the file again and again while the host replaces it in three ways. The
    // view may be the host's for a moment; it must not stay so.
    let inside = "while [ ! -e /etc/stop ]; do cat /etc/resolv.conf >/etc/seen.new; \
                  mv /etc/seen.new /etc/seen; sleep 0.01; done";
    let script = format!(
        "rm -f /etc/resolv.conf; echo nameserver 192.0.2.1 >/etc/resolv.conf
        RUN sh -c '{inside}' &
        ours() {{ n=0; until grep -qs 10.0.2.3 /etc/seen; do sleep 0.02; n=$((n+1)); \
                 [ $n -lt 5000 ]; done; echo ours; }}
        ours
        echo nameserver 192.0.2.2 >/etc/r.new; mv /etc/r.new /etc/resolv.conf; rm -f /etc/seen; sleep 0.1; ours
        mkdir -p /run/systemd/resolve; echo nameserver 192.0.2.3 >/run/systemd/resolve/stub-resolv.conf
        ln -s ../run/systemd/resolve/stub-resolv.conf /etc/l.new; mv /etc/l.new /etc/resolv.conf; rm -f /etc/seen; sleep 0.1; ours
        echo nameserver 192.0.2.4 >/run/r.new; mv /run/r.new /run/systemd/resolve/stub-resolv.conf; rm -f /etc/seen; sleep 0.1; ours
        grep -c 192.0.2.4 /etc/resolv.conf
        touch /etc/stop; wait"
    );
    assert_eq!(with_own_etc(setup, &script)?, "ours\nours\nours\nours\n1\n");
    Ok(())
}

fn resolv_conf_missing(setup: &Setup) -> Result<(), Skip> {
    let show = "RUN sh -c 'cat /etc/resolv.conf; test -s /etc/passwd && echo passwd; \
                test -e /run/other && echo other'";
    // A dangling link into a directory that is not there, then nothing at all.
    let script = format!(
        "echo x >/run/other; ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
        {show}; test ! -e /run/systemd && echo untouched
        rm /etc/resolv.conf; {show}; test ! -e /etc/resolv.conf && echo untouched"
    );
    let once = "nameserver 10.0.2.3\npasswd\nother\nuntouched\n";
    assert_eq!(with_own_etc(setup, &script)?, once.repeat(2));
    Ok(())
}

fn resolver_sockets_masked(setup: &Setup) -> Result<(), Skip> {
    // Plain files stand for the sockets: what counts is that ours, empty, lies over them.
    let script = "mkdir -p /run/nscd /run/systemd/resolve
        echo host >/run/nscd/socket; echo host >/run/systemd/resolve/io.systemd.Resolve
        RUN sh -c 'cat /run/nscd/socket /run/systemd/resolve/io.systemd.Resolve; echo end'
        cat /run/nscd/socket";
    assert_eq!(with_own_etc(setup, script)?, "end\nhost\n");
    Ok(())
}

fn host_unchanged(setup: &Setup) -> Result<(), Skip> {
    let state = || {
        let read = |path: &str| fs::read_to_string(path).expect("a file of /proc");
        let mut devices: Vec<_> = fs::read_dir("/sys/class/net")
            .map(|dir| dir.filter_map(|entry| Some(entry.ok()?.file_name())).collect())
            .unwrap_or_default();
        devices.sort();
        (read("/proc/self/mountinfo"), read("/proc/net/route"), devices)
    };
    let before = state();
    assert_eq!(sh(setup, "exit 0").code(), 0);
    assert_eq!(state(), before);
    Ok(())
}

fn hostname(setup: &Setup) -> Result<(), Skip> {
    let name = "cat /proc/sys/kernel/hostname";
    let outside = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    let inside = setup.run_with(&["--hostname", "inner"], &["sh", "-c", name], "");
    assert_eq!(inside.text(), "inner\n");
    assert_eq!(sh(setup, name).text(), outside);
    Ok(())
}

fn signals_once(setup: &Setup) -> Result<(), Skip> {
    // The program counts, and ends when it is told to by a different signal.
    let script = "trap 'echo usr1' USR1; trap 'echo end; exit 0' TERM; \
                  echo ready; while :; do sleep 0.01; done";
    let count = |send: &dyn Fn(&Running)| {
        let run = setup.start(&["sh", "-c", script]);
        // The traps are set when the shell is in its loop, with its first child.
        let pid = run.pid();
        until("the shell's loop", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"))?;
            let bits = u64::from_str_radix(caught, 16).ok()?;
            (bits & (1 << (15 - 1)) != 0 && bits & (1 << (10 - 1)) != 0).then_some(())
        });
        send(&run);
        // Whatever comes a second time has come by then.
        sleep(Duration::from_millis(300));
        kill(Pid::from_raw(run.id()), Signal::SIGTERM).expect("SIGTERM");
        let (status, text) = run.end();
        assert_eq!(status.code(), Some(0), "{text}");
        assert!(text.ends_with("end\n"), "{text}");
        text.matches("usr1").count()
    };
    assert_eq!(count(&|_| {}), 0);
    assert_eq!(
        count(&|run| kill(Pid::from_raw(run.id()), Signal::SIGUSR1).expect("SIGUSR1")),
        1,
        "to linerate alone"
    );
    assert_eq!(
        count(&|run| killpg(Pid::from_raw(run.id()), Signal::SIGUSR1).expect("SIGUSR1")),
        1,
        "to the whole process group"
    );
    Ok(())
}

fn orphans_are_reaped(setup: &Setup) -> Result<(), Skip> {
    let script = "sh -c 'sh -c \"exit 0\" & sleep 0.05 & exit 0'; sleep 0.3; \
                  ps=0; for s in /proc/[0-9]*/status; do \
                  grep -qs '^State:.Z' $s && grep -qs \"^PPid:.1$\" $s && ps=1; done; echo $ps";
    // Without a PID namespace other processes of the machine are in sight, and may be zombies.
    if setup.options.contains(&"--no-pidns") {
        return Ok(());
    }
    assert_eq!(sh(setup, script).text(), "0\n");
    Ok(())
}

/// A number of seconds that serves as a mark in the command line of a sleeping process.
fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed) + 1)
}

fn leftovers_end_with_the_program(setup: &Setup) -> Result<(), Skip> {
    need(&["setsid"])?;
    let mark = mark();
    let script = format!(
        "setsid sleep {mark} </dev/null >/dev/null 2>&1 & sleep {mark} & sleep 0.1; exit 3"
    );
    assert_eq!(sh(setup, &script).code(), 3);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    Ok(())
}

fn sigkill_leaves_nothing(setup: &Setup) -> Result<(), Skip> {
    need(&["setsid"])?;
    let mark = mark();
    let script =
        format!("setsid sleep {mark} & trap '' TERM INT HUP; while :; do sleep {mark}; done");
    let mut run = setup.start(&["sh", "-c", &script]);
    until("both sleeps", || {
        let found = processes_with(&format!("sleep {mark}"));
        (found.iter().filter(|line| line.starts_with("sleep")).count() == 2).then_some(())
    });
    let net = fs::read_link(format!("/proc/{}/ns/net", run.pid())).expect("its namespace");
    let net = net.to_str().expect("UTF-8").to_owned();
    assert!(namespace_lives("net", &net));
    run.child.kill().expect("SIGKILL");
    run.child.wait().expect("the runner's end");
    until("every process to end", || processes_with(&mark).is_empty().then_some(()));
    until("the namespace to end", || (!namespace_lives("net", &net)).then_some(()));
    Ok(())
}

fn sigkill_at_any_moment(setup: &Setup) -> Result<(), Skip> {
    let mark = mark();
    for turn in 0..40u32 {
        let mut run = Running::new(setup.command(&[], &["sleep", &mark]));
        sleep(Duration::from_micros(u64::from(turn) * 1500));
        run.child.kill().expect("SIGKILL");
        run.child.wait().expect("the runner's end");
    }
    until("every process to end", || processes_with(&mark).is_empty().then_some(()));
    Ok(())
}

/// An interactive bash on a terminal of its own.
struct Terminal {
    shell: std::process::Child,
    master: fs::File,
    seen: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Terminal {
    fn open() -> Result<Terminal, Skip> {
        need(&["bash", "setsid"])?;
        let pty = nix::pty::openpty(None, None)
            .map_err(|err| Skip(format!("no pseudo-terminal can be opened: {err}")))?;
        let slave = || pty.slave.try_clone().expect("the terminal");
        let shell = Command::new("setsid")
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .env("PS1", "$ ")
            .env("TERM", "dumb")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("bash");
        let master = fs::File::from(pty.master);
        let seen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let (mut reader, sink) = (master.try_clone().expect("the terminal"), seen.clone());
        std::thread::spawn(move || {
            use std::io::Read;
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                sink.lock().expect("the text").push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        Ok(Terminal { shell, master, seen })
    }

    fn type_in(&mut self, text: &str) {
        use std::io::Write;
        self.master.write_all(text.as_bytes()).expect("typing");
    }

    /// Waits for `text`, and forgets everything up to it.
    fn expect(&self, text: &str) {
        let found = std::panic::catch_unwind(|| {
            until(&format!("{text:?} on the terminal"), || {
                let mut seen = self.seen.lock().expect("the text");
                let at = seen.find(text)?;
                seen.drain(..at + text.len());
                Some(())
            });
        });
        if found.is_err() {
            panic!("the terminal shows: {}", self.seen.lock().expect("the text"));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn job_control(setup: &Setup) -> Result<(), Skip> {
    let mut terminal = Terminal::open()?;
    let mark = mark();
    let run = setup.line(
        &[],
        &[
            "sh",
            "-c",
            &format!("trap \"echo caught; exit 5\" INT; echo started; sleep {mark}; sleep {mark}"),
        ],
    );
    terminal.expect("$ ");
    terminal.type_in(&format!("{}\n", run.replace("'trap", "'stty -echo; trap")));
    terminal.expect("\nstarted");
    // A Ctrl-Z between vfork and exec would stop only the child, here as without linerate.
    let sleeps = || processes_with(&mark).iter().any(|line| line.starts_with("sleep"));
    until("the sleep", || sleeps().then_some(()));
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.expect("$ ");
    terminal.type_in("jobs; echo state=$(jobs -s | wc -l)\n");
    terminal.expect("state=1");
    terminal.type_in("fg\n");
    terminal.expect("started");
    sleep(Duration::from_millis(100));
    // Both the shell inside and its sleep get the interrupt from the terminal.
    terminal.type_in("\x03");
    terminal.expect("caught");
    terminal.type_in("echo status=$?\n");
    terminal.expect("status=5");
    // A program that does not catch it: 128 + SIGINT.
    terminal.type_in(&format!(
        "{}\n",
        setup.line(&[], &["sh", "-c", &format!("echo on; exec sleep {mark}")])
    ));
    terminal.expect("\non");
    until("the second sleep", || sleeps().then_some(()));
    terminal.type_in("\x03");
    terminal.expect("$ ");
    terminal.type_in("echo status=$?\n");
    terminal.expect("status=130");
    Ok(())
}

/// The terminal stops whoever reads it from the background, with all of its process group: one `fg`
/// is enough to go on.
fn background_reader(setup: &Setup) -> Result<(), Skip> {
    let mut terminal = Terminal::open()?;
    terminal.expect("$ ");
    terminal.type_in(&format!("{} &\n", setup.line(&[], &["cat"])));
    terminal.type_in("while test $(jobs -s | wc -l) = 0; do sleep 0.05; done; echo now=$((1+1))\n");
    terminal.expect("now=2");
    terminal.type_in("fg\n");
    terminal.expect("'cat'");
    terminal.type_in("hello\n");
    terminal.expect("hello\r\nhello\r\n");
    terminal.type_in("\x04");
    terminal.expect("$ ");
    terminal.type_in("echo status=$?\n");
    terminal.expect("status=0");
    Ok(())
}

fn shell_returns_the_terminal(setup: &Setup) -> Result<(), Skip> {
    let mut terminal = Terminal::open()?;
    let inner = setup.line(&[], &["bash", "--norc", "--noprofile", "-i"]);
    terminal.expect("$ ");
    // A shell without job control would not take the terminal back from its child by itself.
    terminal
        .type_in(&format!("sh -c \"PS1=in-side%% {inner}; read answer; echo got=\\$answer\"\n"));
    terminal.expect("\nin-side%%");
    terminal.type_in("sleep 1000\n");
    sleep(Duration::from_millis(200));
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.type_in("fg\n");
    terminal.expect("sleep 1000");
    sleep(Duration::from_millis(200));
    terminal.type_in("\x03");
    terminal.expect("in-side%%");
    terminal.type_in("exit\n");
    terminal.expect("exit\r\n");
    sleep(Duration::from_millis(200));
    terminal.type_in("word\n");
    terminal.expect("got=word");
    Ok(())
}

fn tun_missing(setup: &Setup) -> Result<(), Skip> {
    let none = setup.run_with(&["--tun", "/nonexistent/tun"], &["true"], "");
    assert_eq!(none.code(), i32::from(NOT_STARTED));
    assert!(none.stderr.contains("there is no /nonexistent/tun"), "{}", none.stderr);
    let plain = setup.run_with(&["--tun", "/dev/null"], &["true"], "");
    assert_eq!(plain.code(), i32::from(NOT_STARTED));
    assert!(plain.stderr.contains("cannot make a TUN interface"), "{}", plain.stderr);
    // By itself it falls back, and says so.
    let auto = Setup { options: &[], lacks: None, ..setup.clone() };
    let fallback = auto.run_with(&["--tun", "/nonexistent/tun"], &["true"], "");
    assert_eq!(fallback.code(), 0, "{}", fallback.stderr);
    assert!(fallback.events.contains("Backend Packet"), "{}", fallback.events);
    assert!(
        fallback.events.contains("there is no /nonexistent/tun: a veth pair"),
        "{}",
        fallback.events
    );
    Ok(())
}

fn proc_masked(setup: &Setup) -> Result<(), Skip> {
    need(&["unshare", "mount"])?;
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Skip("only root can mask a part of /proc".into()));
    }
    // As container engines do: then the kernel refuses a fresh /proc in a user namespace.
    let line = setup.line(&[], &["sh", "-c", "echo inside; exit 4"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("mount -t tmpfs none /proc/sys/kernel && {line}")]);
    let masked = finish(command, "");
    assert_eq!((masked.code(), masked.stdout.as_str()), (4, "inside\n"), "{}", masked.stderr);
    assert!(masked.events.contains("there is no PID namespace"), "{}", masked.events);
    Ok(())
}

fn namespaces_refused(setup: &Setup) -> Result<(), Skip> {
    need(&["unshare", "setpriv"])?;
    // A user namespace in which no further one may be made, entered without capabilities.
    let line = setup.line(&[], &["true"]);
    let runner = line.find("linerate").and_then(|at| line[..at].rfind('\'')).unwrap_or(0);
    let inner = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && \
         exec setpriv --bounding-set=-all --inh-caps=-all {}",
        &line[runner..]
    );
    let mut command = bare(setup, &["unshare", "-Ur", "sh", "-c", &inner]);
    command.env("LC_ALL", "C");
    let refused = finish(command, "");
    assert_eq!(refused.code(), i32::from(NOT_STARTED), "{}", refused.stderr);
    assert!(refused.stderr.contains("user.max_user_namespaces is 0"), "{}", refused.stderr);
    Ok(())
}

fn subordinate_ids(setup: &Setup) -> Result<(), Skip> {
    need(&["newuidmap", "newgidmap"])?;
    need(&["unshare", "mount", "setpriv"])?;
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Skip("only root can grant ids for the test".into()));
    }
    // The grant is visible to this run alone: its files lie over the machine's.
    let line = setup.line(
        &["--subids"],
        &["sh", "-c", "id -u; setpriv --reuid=33 --regid=33 --clear-groups id -u"],
    );
    let script = format!(
        "set -e; mount --make-rprivate /; mount -t tmpfs r /run; echo 65534:100000:65536 >/run/ids; \
         for f in subuid subgid; do mount --bind /run/ids /etc/$f; done; {line}"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    assert_eq!(finish(command, "").text(), "0\n33\n");
    Ok(())
}

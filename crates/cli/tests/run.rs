//! Goal: `linerate run` gives a program a network that is linerate, its own exit status back, and a
//! report and a recording that are true; what goes wrong is one sentence and leaves nothing.
//! Method: the real binary with real programs: the shell, and this test binary again, which talks
//! TCP through the namespace with a server out here. Runs as whoever runs the tests, and as an
//! ordinary user too if that is root.

use linerate_dev::pcap::{Direction, Reader};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

#[path = "../../dev/tests/again/mod.rs"]
mod again;
use again::{copy_program, skip};

/// Uid and gid of the ordinary user.
const NOBODY: &str = "65534";
/// Tells this test binary, run inside, where to talk to.
const TALK_TO: &str = "LINERATE_TEST_TALK_TO";
/// Bytes of a conversation, each way.
const TALK: usize = 3 << 20;

/// A directory with both binaries, which everybody may execute; it goes with the last test.
struct Dir(PathBuf);

impl Dir {
    fn shared() -> Arc<Dir> {
        static DIR: Mutex<Weak<Dir>> = Mutex::new(Weak::new());
        let mut shared = DIR.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = shared.upgrade() {
            return dir;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("linerate-run-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its mode");
        let this = std::env::current_exe().expect("our path");
        let linerate = PathBuf::from(env!("CARGO_BIN_EXE_linerate"));
        for (from, to) in [(linerate, "linerate"), (this, "talker")] {
            let to = dir.join(to);
            // A link does where it can be made, and is cheaper.
            if fs::hard_link(&from, &to).is_err() {
                copy_program(&from, &to);
            }
        }
        let dir = Arc::new(Dir(dir));
        *shared = Arc::downgrade(&dir);
        dir
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Who runs linerate.
struct User {
    prefix: &'static [&'static str],
    dir: Arc<Dir>,
}

fn users() -> Vec<User> {
    let dir = Dir::shared();
    let user = |prefix| User { prefix, dir: Arc::clone(&dir) };
    let mut all = vec![user(&[])];
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if root && Command::new("setpriv").arg("--version").output().is_ok() {
        let words = &["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        all.push(user(words));
    }
    all
}

impl User {
    fn command(&self, args: &[&str]) -> Command {
        let linerate = self.dir.0.join("linerate").display().to_string();
        let mut words: Vec<&str> = self.prefix.to_vec();
        words.push(&linerate);
        words.extend(args);
        let mut command = Command::new(words[0]);
        // Not those of whoever runs the tests.
        command.args(&words[1..]).env_remove("XDG_RUNTIME_DIR");
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("linerate starts")
    }

    fn talker(&self) -> String {
        self.dir.0.join("talker").display().to_string()
    }

    /// A path for a file that this user may write.
    fn file(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.dir.0.join(format!("{n}-{name}")).display().to_string()
    }
}

/// The users that may run anything here; the others are named.
fn able(test: &str) -> Vec<User> {
    let mut able = Vec::new();
    for user in users() {
        let probe = user.output(&["run", "--", "true"]);
        match probe.status.code() {
            Some(0) => able.push(user),
            // 125: linerate says why it can not.
            Some(125) => skip(test, String::from_utf8_lossy(&probe.stderr).trim()),
            _ => panic!("{probe:?}"),
        }
    }
    able
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_status_is_the_programs() {
    for user in able("the_status_is_the_programs") {
        let cases: [(&[&str], i32); 6] = [
            (&["true"], 0),
            (&["sh", "-c", "exit 7"], 7),
            (&["sh", "-c", "exit 125"], 125),
            (&["no-such-program-anywhere"], 127),
            (&["/etc/passwd"], 126),
            (&["sh", "-c", "kill -TERM $$"], 143),
        ];
        for (program, status) in cases {
            let mut args = vec!["run", "--"];
            args.extend(program);
            let out = user.output(&args);
            assert_eq!(out.status.code(), Some(status), "{program:?}: {}", text(&out.stderr));
        }
    }
}

#[test]
fn output_and_input_are_the_programs_own() {
    for user in able("output_and_input_are_the_programs_own") {
        let mut child = user
            .command(&["run", "--", "sh", "-c", "cat; echo err >&2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("linerate starts");
        child.stdin.take().expect("a pipe").write_all(b"through\n").expect("it reads");
        let out = child.wait_with_output().expect("it ends");
        assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("through\n", Some(0)));
        // Beside the program's, only sentences that begin with our name.
        for line in text(&out.stderr).lines().filter(|l| *l != "err") {
            assert!(line.starts_with("linerate: "), "{line}");
        }
    }
}

#[test]
fn the_network_inside_is_ours() {
    for user in able("the_network_inside_is_ours") {
        let script = "cat /proc/net/dev /proc/net/route /proc/net/if_inet6 /etc/resolv.conf";
        let out = user.output(&["run", "--", "sh", "-c", script]);
        let said = text(&out.stdout);
        // The default route's gateway, as the kernel prints it.
        for part in ["lr0:", "0202000A", "fd006c696e6500000000000000000100", "nameserver 10.0.2.3"]
        {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
        let out =
            user.output(&["run", "--no-ipv6", "--net4", "10.99.0.0/16", "--", "sh", "-c", script]);
        let said = text(&out.stdout);
        assert!(said.contains("0200630A") && said.contains("nameserver 10.99.0.3"), "{said}");
        assert!(!said.lines().any(|l| l.ends_with("lr0") && l.starts_with("f")), "{said}");
    }
}

#[test]
fn what_linerate_can_not_do_is_one_sentence_and_status_125() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let forward = format!("{}:80", taken.local_addr().expect("an address").port());
    for user in able("what_linerate_can_not_do_is_one_sentence_and_status_125") {
        let cases: [&[&str]; 3] = [
            &["run", "--pcap", "/no/such/directory/x.pcapng", "--", "true"],
            &["run", "-p", &forward, "--", "true"],
            &["run", "--name", "..", "--", "true"],
        ];
        for args in cases {
            let out = user.output(args);
            let said = text(&out.stderr);
            let want = if args.contains(&"..") { 2 } else { 125 };
            assert_eq!(out.status.code(), Some(want), "{args:?}: {said}");
            let ours = said.lines().filter(|l| l.starts_with("linerate: ")).count();
            assert!(want == 2 || ours >= 1, "{said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

/// What the program says first: it runs.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    line
}

#[test]
fn a_signal_is_the_programs() {
    for user in able("a_signal_is_the_programs") {
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child = user
            .command(&["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("linerate starts");
        assert_eq!(first_line(&mut child), "ready\n");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(9));
    }
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Processes whose command line has this word.
fn with_word(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|w| w == word.as_bytes()) && lives(&pid) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn killed_it_leaves_nothing_and_the_recording_reads() {
    for (i, user) in able("killed_it_leaves_nothing").into_iter().enumerate() {
        // A word by which what the program starts is found again.
        let word = format!("31{}{i}", std::process::id());
        let (file, name) = (user.file("killed.pcapng"), format!("killed-{word}"));
        let script = format!("sleep {word} & setsid sleep {word} & echo up; sleep {word}");
        let args = ["run", "--name", &name, "--pcap", &file, "--", "sh", "-c", &script];
        let mut child = user
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("linerate starts");
        assert_eq!(first_line(&mut child), "up\n");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        // The kernel takes its time to tear a namespace down: a hang is what would fail here.
        while !with_word(&word).is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        let mut reader = Reader::open(file.as_ref()).expect("a capture");
        while reader.next_frame().expect("whole blocks").is_some() {}
        let again = user.output(&["run", "--name", &name, "--", "true"]);
        assert_eq!(again.status.code(), Some(0), "the name is free: {}", text(&again.stderr));
    }
}

#[test]
fn a_running_instance_is_shown_and_tuned() {
    for (i, user) in able("a_running_instance_is_shown_and_tuned").into_iter().enumerate() {
        let name = format!("test-{}-{i}", std::process::id());
        let mut child = user
            .command(&[
                "run",
                "--name",
                &name,
                "--set",
                "ring.tx=7",
                "--",
                "sh",
                "-c",
                "echo up; cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("linerate starts");
        first_line(&mut child);
        let ask = |args: &[&str]| {
            let out = user.output(&[args, &["--name", &name, "--json"]].concat());
            assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
            serde_json::from_slice::<serde_json::Value>(&out.stdout).expect("JSON")
        };
        let knob = |v: &serde_json::Value| v.to_string();
        assert!(knob(&ask(&["get", "ring.tx"])).contains('7'));
        // The kernel's ring has the size that it was made with.
        let late = user.output(&["set", "ring.rx=77", "--name", &name]);
        let said = text(&late.stderr);
        assert!(!late.status.success() && said.contains("ring.rx can"), "{said}");
        assert!(knob(&ask(&["get", "ring.rx"])).contains("1024"));
        ask(&["set", "net.core.netdev_budget=77"]);
        assert!(knob(&ask(&["get", "net.core.netdev_budget"])).contains("77"));
        assert!(ask(&["show", "path"])["stages"].is_array());
        // The name is taken while it runs, and free again afterwards.
        let second = user.output(&["run", "--name", &name, "--", "true"]);
        assert_eq!(second.status.code(), Some(125), "{}", text(&second.stderr));
        assert!(text(&second.stderr).contains(&name));
        drop(child.stdin.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
        assert_eq!(user.output(&["run", "--name", &name, "--", "true"]).status.code(), Some(0));
    }
}

/// The other side of [`inside_talks`].
fn answer_one(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut got = vec![0; TALK];
    stream.read_exact(&mut got)?;
    got.reverse();
    stream.write_all(&got)
}

/// Not a test by itself: what this binary does inside the namespace.
#[test]
#[ignore = "it is the program that other tests run"]
fn inside_talks() {
    let Ok(addr) = std::env::var(TALK_TO) else { return };
    let mut stream = TcpStream::connect(addr).expect("the way out");
    let mut data: Vec<u8> = (0..TALK).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut other = stream.try_clone().expect("a second handle");
    let send = data.clone();
    let sender = thread::spawn(move || other.write_all(&send));
    let mut back = vec![0; TALK];
    stream.read_exact(&mut back).expect("all of it");
    sender.join().expect("no panic").expect("sent");
    data.reverse();
    assert!(back == data, "the bytes came back changed");
}

/// Runs a conversation through linerate with more options; its output.
fn conversation(user: &User, options: &[&str]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || answer_one(&listener));
    let talker = user.talker();
    let mut args = vec!["run", "--host-loopback"];
    args.extend(options);
    args.extend(["--", &talker, "--exact", "inside_talks", "--ignored", "--nocapture"]);
    let out = user.command(&args).env(TALK_TO, format!("10.0.2.2:{port}")).output();
    let out = out.expect("linerate starts");
    assert!(out.status.success(), "{}\n{}", text(&out.stdout), text(&out.stderr));
    server.join().expect("no panic").expect("a whole conversation");
    out
}

#[test]
fn the_report_counts_what_was_moved() {
    for user in able("the_report_counts_what_was_moved") {
        let out = conversation(&user, &["--report", "json"]);
        let said = text(&out.stderr);
        let line = said.lines().find(|l| l.starts_with('{')).expect("a report");
        let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let stages = report["stages"].as_array().expect("stages");
        assert!(stages.iter().all(|s| s["missing"] == 0), "{line}");
        let flow = &report["flows"][0];
        for way in ["up_bytes", "down_bytes"] {
            assert_eq!(flow[way], TALK as u64, "{way} of {flow}");
        }
        assert_eq!(report["counters"]["gateway"]["TcpOpened"], 1);
        let text_report = conversation(&user, &["--report", "text"]);
        assert!(text(&text_report.stderr).contains("every packet accounted for"));
        let silent = conversation(&user, &[]);
        assert!(!text(&silent.stderr).contains("accounted for"));
    }
}

/// What the kernel counts at the device inside: packets sent, and dropped instead.
fn sent_inside() -> (u64, u64) {
    let table = fs::read_to_string("/proc/net/dev").expect("the table of devices");
    let line = table.lines().find_map(|l| l.trim_start().strip_prefix("lr0:")).expect("lr0");
    let words: Vec<u64> = line.split_whitespace().map(|w| w.parse().expect("a number")).collect();
    (words[9], words[11])
}

/// Datagrams of a blast.
const BLAST: usize = 30_000;

/// Not a test by itself: what this binary does inside the namespace.
#[test]
#[ignore = "it is the program that other tests run"]
fn inside_blasts() {
    if std::env::var(TALK_TO).is_err() {
        return;
    }
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for _ in 0..BLAST {
        // The queue being full is the point.
        let _ = socket.send_to(&[7; 100], "10.0.2.2:9");
    }
    // Rings are first in, first out: the answer comes after the last datagram was taken.
    TcpStream::connect("10.0.2.2:9").expect_err("nobody listens there");
    let (sent, dropped) = sent_inside();
    println!("inside: {sent} {dropped}");
}

#[test]
fn what_the_kernel_drops_before_the_ring_is_counted() {
    for user in able("what_the_kernel_drops_before_the_ring_is_counted") {
        let talker = user.talker();
        let has_tun = user.output(&["run", "--backend", "tun", "--", "true"]).status.success();
        let mut ways: Vec<&[&str]> = vec![&["--backend", "packet"]];
        if has_tun {
            // A ring that a blast is sure to overflow.
            ways.push(&["--backend", "tun", "--set", "ring.rx=2"]);
        }
        for way in ways {
            // Without IPv6 nothing but the program sends.
            let mut args = vec!["run", "--no-ipv6", "--report", "json"];
            args.extend(way);
            args.extend(["--", &talker, "--exact", "inside_blasts", "--ignored", "--nocapture"]);
            let out = user.command(&args).env(TALK_TO, "-").output().expect("linerate starts");
            let (said, errors) = (text(&out.stdout), text(&out.stderr));
            assert!(out.status.success(), "{said}\n{errors}");
            let inside = said.lines().find_map(|l| l.split_once("inside: ")).expect(&said).1;
            let inside: Vec<u64> = inside.split(' ').map(|w| w.parse().expect(&said)).collect();
            let line = errors.lines().find(|l| l.starts_with('{')).expect("a report");
            let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let stages = report["stages"].as_array().expect("stages");
            assert!(stages.iter().all(|s| s["missing"] == 0), "{line}");
            let ring = stages.iter().find(|s| s["name"] == "Ring").expect("the ring");
            assert_eq!(ring["in"], inside[0] + inside[1], "{way:?}: {ring} {inside:?}");
            if way.contains(&"tun") {
                assert_eq!(ring["dropped"]["FULL_RING"], inside[1], "{ring} {inside:?}");
                assert!(inside[1] > 0, "a blast overflows two places: {inside:?}");
            }
        }
    }
}

#[test]
fn a_ring_of_another_size_is_refused_where_there_is_none() {
    for user in able("a_ring_of_another_size_is_refused_where_there_is_none") {
        let args = ["run", "--backend", "packet", "--set", "ring.rx=77", "--", "true"];
        let out = user.output(&args);
        assert_eq!(out.status.code(), Some(125));
        assert!(text(&out.stderr).contains("--backend tun"), "{}", text(&out.stderr));
    }
}

#[test]
fn the_recording_has_both_directions_and_every_byte() {
    for user in able("the_recording_has_both_directions_and_every_byte") {
        for backend in ["auto", "packet"] {
            let file = user.file("talk.pcapng");
            conversation(&user, &["--backend", backend, "--pcap", &file]);
            let mut reader = Reader::open(file.as_ref()).expect("a capture");
            let (mut bytes, mut packets, mut last) = ([0u64; 2], 0u64, 0);
            while let Some(frame) = reader.next_frame().expect("whole blocks") {
                let way = match frame.direction {
                    Direction::Inbound => 0,
                    Direction::Outbound => 1,
                    Direction::Unknown => panic!("a packet without direction"),
                };
                assert_eq!(frame.orig_len as usize, frame.data.len(), "a packet was cut");
                assert!(frame.ts_ns >= Some(last), "time went backwards");
                last = frame.ts_ns.expect("a time");
                bytes[way] += frame.data.len() as u64;
                packets += 1;
            }
            assert!(bytes.iter().all(|n| *n >= TALK as u64), "{bytes:?}");
            tshark_agrees(&file, packets);
        }
    }
}

/// tshark reads the same number of packets, without complaint.
fn tshark_agrees(file: &str, packets: u64) {
    let Ok(out) =
        Command::new("tshark").args(["-n", "-r", file, "-T", "fields", "-e", "frame.len"]).output()
    else {
        return skip("the_recording_has_both_directions_and_every_byte", "tshark is not installed");
    };
    assert!(out.status.success(), "{}", text(&out.stderr));
    let complaints = text(&out.stderr);
    let complaints = complaints.lines().filter(|l| !l.contains("Running as user"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
    assert_eq!(text(&out.stdout).lines().count() as u64, packets);
}

#[test]
fn a_recording_that_fails_does_not_stop_the_traffic() {
    for user in able("a_recording_that_fails_does_not_stop_the_traffic") {
        // A limit on the size of files stands in for a full disk; its signal is ignored, as a
        // shell's `trap ''` hands down.
        let (file, talker) = (user.file("small.pcapng"), user.talker());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = thread::spawn(move || answer_one(&listener));
        let linerate = user.dir.0.join("linerate").display().to_string();
        let script = format!(
            "trap '' XFSZ; ulimit -f 1024; exec {linerate} run --host-loopback --pcap {file} -- \
             {talker} --exact inside_talks --ignored --nocapture"
        );
        let mut words: Vec<&str> = user.prefix.to_vec();
        words.extend(["sh", "-c", &script]);
        let out = Command::new(words[0])
            .args(&words[1..])
            .env(TALK_TO, format!("10.0.2.2:{port}"))
            .output()
            .expect("a shell");
        assert!(out.status.success(), "{}", text(&out.stderr));
        server.join().expect("no panic").expect("a whole conversation");
        let said = text(&out.stderr);
        assert_eq!(said.matches("recording to").count(), 1, "{said}");
    }
}

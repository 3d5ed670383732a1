//! Goal: a client is answered by a server that never waits; nobody else gets in; names are unique.
//! Method: real sockets in a directory of the test's own, the server turned by hand or by a thread.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::client::instances_in;
use super::*;

/// A directory of this test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lr-control-{}-{n}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).expect("a new directory");
        Dir(path)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Runs the server with a shard until a client's thread is done.
fn with_server<T: Send>(dir: &Dir, talk: impl FnOnce(&std::path::Path) -> T + Send) -> T {
    let mut server = ControlServer::bind_in(&dir.0, "one").expect("a free name");
    let mut shard = Shard::new(7);
    let path = server.path().to_owned();
    std::thread::scope(|scope| {
        let talker = scope.spawn(move || talk(&path));
        while !talker.is_finished() {
            let mut fds = [nix::poll::PollFd::new(server.poll_fd(), nix::poll::PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut fds, 10u8);
            let name = server.name().to_owned();
            server.turn(&mut |r| {
                answer(&mut shard, r, || Meta { name: name.clone(), ..Meta::default() })
            });
        }
        talker.join().expect("the client's thread does not panic")
    })
}

#[test]
fn get_set_and_snapshot_are_answered() {
    let dir = Dir::new();
    with_server(&dir, |path| {
        let mut client = Client::open(path, "one").expect("it listens");
        let knob = "net.core.netdev_budget".to_owned();
        let value =
            |v: &str| Response::Value { knob: knob.clone(), value: v.to_owned(), note: None };
        assert_eq!(client.ask(&Request::Get(knob.clone())).expect("answer"), value("300"));
        let set = Request::Set(knob.clone(), "600".to_owned());
        assert_eq!(client.ask(&set).expect("answer"), value("600"));
        assert_eq!(client.ask(&Request::Get(knob.clone())).expect("answer"), value("600"));
        let bad = Request::Set(knob.clone(), "0".to_owned());
        assert!(
            matches!(client.ask(&bad).expect("answer"), Response::Error(e) if e.contains(&knob))
        );
        match client.ask(&Request::Snapshot { sockets: 9 }).expect("answer") {
            Response::Snapshot(s) => {
                assert_eq!(s.name, "one");
                assert_eq!(s.stages.len(), linerate_core::table::Stage::ALL.len());
                assert!(s.knobs.iter().any(|k| k.path == knob && k.source == "set"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn nonsense_and_floods_are_answered_with_a_sentence() {
    let dir = Dir::new();
    with_server(&dir, |path| {
        let ask = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(path).expect("it listens");
            // The server may hang up before all is written: that is its right.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            text
        };
        assert!(ask(b"hello\n").starts_with("{\"error\":"));
        assert!(ask(b"{\"get\":5}\n").starts_with("{\"error\":"));
        assert_eq!(ask(b""), "");
        assert_eq!(ask(b"{\"get\":\"ring"), "");
        assert!(ask(&[b'x'; REQUEST_TOO_LONG]).contains("at most"), "no line end in sight");
        let two = ask(b"{\"get\":\"ring.rx\"}\n{\"get\":\"ring.tx\"}\n");
        assert_eq!(two.lines().count(), 2, "{two}");
    });
}
const REQUEST_TOO_LONG: usize = 4097;

#[test]
fn clients_that_say_nothing_do_not_keep_others_out_for_ever() {
    let dir = Dir::new();
    with_server(&dir, |path| {
        let silent: Vec<UnixStream> =
            (0..40).map(|_| UnixStream::connect(path).expect("it listens")).collect();
        silent.iter().for_each(|s| s.set_nonblocking(true).expect("it can"));
        let mut turned_away = [false; 40];
        for _ in 0..3000 {
            for (away, mut stream) in turned_away.iter_mut().zip(&silent) {
                let mut text = [0; 256];
                *away |= stream.read(&mut text).is_ok_and(|n| text[..n].starts_with(b"{\"error\""));
            }
            if turned_away.iter().filter(|a| **a).count() == 24 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(turned_away.iter().filter(|a| **a).count(), 24, "sixteen may stay");
        drop(silent);
        // The others are gone: there is room again, at the latest after the server has seen it.
        let mut last = String::new();
        for _ in 0..1000 {
            let mut client = Client::open(path, "one").expect("it listens");
            match client.ask(&Request::Get("ring.rx".to_owned())) {
                Ok(Response::Value { .. }) => return,
                other => last = format!("{other:?}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("no room after all others left: {last}");
    });
}

#[test]
fn an_answer_larger_than_the_socket_buffer_arrives_whole() {
    let dir = Dir::new();
    let mut server = ControlServer::bind_in(&dir.0, "big").expect("a free name");
    let path = server.path().to_owned();
    let text = "x".repeat(8 << 20);
    std::thread::scope(|scope| {
        let talker = scope.spawn(move || {
            let mut client = Client::open(&path, "big").expect("it listens");
            client.ask(&Request::Get(String::new()))
        });
        while !talker.is_finished() {
            let mut fds = [nix::poll::PollFd::new(server.poll_fd(), nix::poll::PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut fds, 10u8);
            server.turn(&mut |_| Response::Error(text.clone()));
        }
        let got = talker.join().expect("no panic").expect("an answer");
        assert!(got == Response::Error(text.clone()), "eight mebibytes arrive as they were");
    });
}

#[test]
fn a_name_belongs_to_one_and_a_dead_one_makes_room() {
    let dir = Dir::new();
    let first = ControlServer::bind_in(&dir.0, "n").expect("a free name");
    assert!(matches!(ControlServer::bind_in(&dir.0, "n"), Err(BindError::InUse(n)) if n == "n"));
    assert_eq!(instances_in(&dir.0).expect("it is read"), ["n"]);
    drop(first);
    assert_eq!(instances_in(&dir.0).expect("it is read"), [""; 0]);
    // A socket left behind by a process that was killed: closed, but its file remains.
    drop(UnixListener::bind(dir.0.join("n.sock")).expect("a socket"));
    assert!(dir.0.join("n.sock").exists());
    drop(ControlServer::bind_in(&dir.0, "n").expect("the dead one is removed"));
    drop(UnixListener::bind(dir.0.join("m.sock")).expect("a socket"));
    assert_eq!(instances_in(&dir.0).expect("it is read"), [""; 0]);
    assert_eq!(std::fs::read_dir(&dir.0).expect("it is read").count(), 0, "nothing is left");
}

#[test]
fn what_killed_instances_left_is_swept_and_nothing_else() {
    let dir = Dir::new();
    let alive = ControlServer::bind_in(&dir.0, "alive").expect("a free name");
    // Process numbers end at 4194304 on Linux: nobody has this one.
    let own = format!(".{}.0.early", std::process::id());
    for left in ["dead.sock", ".4194305.7.early", own.as_str()] {
        drop(UnixListener::bind(dir.0.join(left)).expect("a socket"));
    }
    super::server::sweep(&dir.0);
    let entries = std::fs::read_dir(&dir.0).expect("it is read").flatten();
    let mut left: Vec<String> =
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, [own, "alive.sock".to_owned()]);
    drop(alive);
}

#[test]
fn the_directory_must_be_private() {
    let dir = Dir::new();
    let made = dir.0.join("made");
    assert_eq!(private_dir(&made, uid(), true).expect("it is made"), made);
    assert_eq!(made.metadata().expect("it exists").mode() & 0o777, 0o700);
    assert!(private_dir(&made, uid(), true).is_ok(), "once more");
    assert!(private_dir(&made, uid() + 1, true).is_err(), "of another user");
    let link = dir.0.join("link");
    symlink(&made, &link).expect("a link");
    assert!(private_dir(&link, uid(), true).is_err(), "a link leads where others want");
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let e = private_dir(&made, uid(), true).expect_err("others may enter");
    assert!(e.to_string().contains("XDG_RUNTIME_DIR"), "{e}");
    let none = private_dir(&dir.0.join("none"), uid(), false).expect_err("it is not made");
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_runtime_directory_of_somebody_else_is_not_used() {
    let dir = Dir::new();
    assert_eq!(choose(Some(dir.0.as_os_str()), uid()), dir.0.join("linerate"));
    assert!(!choose(Some(dir.0.as_os_str()), uid() + 1).starts_with(&dir.0));
    assert!(!choose(Some("relative".as_ref()), uid()).starts_with("relative"));
}

#[test]
fn names_are_file_names() {
    for good in ["a", "curl-4711", "x.y_z"] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", &"x".repeat(49)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    for program in ["/usr/bin/curl", "", "/", "ü b", &"p".repeat(99)] {
        assert_eq!(check_name(&default_name(program)), Ok(()), "{program}");
    }
}

#[test]
fn what_is_about_several_shards_is_said_to_have_no_effect_in_one() {
    let said = |knob: &str, value: &str, shards| super::without_effect(knob, value, shards);
    for (knob, value) in [
        ("queues.rx.rps_cpus", "3"),
        ("rps_cpus", "3"),
        ("net.core.rps_sock_flow_entries", "1024"),
        ("queues.tx.xps_cpus", "1"),
        ("rss.weight", "6 2"),
    ] {
        let note = said(knob, value, 1).expect(knob);
        assert!(note.contains("no effect") && note.contains("channels.combined=2"), "{note}");
        assert_eq!(said(knob, value, 2), None, "{knob}");
    }
    assert_eq!(said("queues.rx.rps_cpus", "0", 1), None, "off, as by default");
    assert_eq!(said("net.core.netdev_budget", "600", 1), None);
    let mut shard = Shard::new(1);
    let set = Request::Set("rps_cpus".to_owned(), "1".to_owned());
    let answered = answer(&mut shard, set, Meta::default);
    assert!(matches!(answered, Response::Value { note: Some(_), .. }), "{answered:?}");
}

#[test]
fn instances_of_one_process_may_be_made_at_once() {
    let dir = Dir::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dir = &dir.0;
            scope.spawn(move || {
                for nth in 0..50 {
                    let name = format!("n{thread}-{nth}");
                    drop(ControlServer::bind_in(dir, &name).expect("a free name"));
                }
            });
        }
    });
}

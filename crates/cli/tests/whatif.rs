//! Goal: `linerate whatif` answers as its users see it: text, JSON, pages; and says what can not be.

use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::Value;

fn whatif(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.arg("whatif").args(line.split_whitespace()).output().expect("linerate starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_host_that_is_not_there_answers() {
    let out = whatif(
        "--nic 4x1024 --cpus 16 --rate 2.5Mpps --size 64 --flows 10000 --for 10 \
         --set net.core.netdev_budget=600",
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("4 queues of 1024, 16 processors; 2.500 Mpps of 64 bytes"), "{said}");
    assert!(said.contains("net.core.netdev_budget = 600") && said.contains("cpu 15"), "{said}");
    assert!(said.contains("delivered   2.") && said.contains("p99"), "{said}");
}

#[test]
fn a_sweep_shows_what_a_larger_ring_is_good_for() {
    let dir = std::env::temp_dir().join(format!("linerate-whatif-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (page, svg) = (dir.join("out.html"), dir.join("out.svg"));
    let out = whatif(&format!(
        "--rate 200k --arrivals burst=1000 --flows 1 --for 50 --sweep ring=128,2048 --json \
         --html {} --svg {}",
        page.display(),
        svg.display()
    ));
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let answers = told["answers"].as_array().expect("answers");
    let lost: Vec<f64> = answers.iter().map(|a| a["lost"].as_f64().expect("a share")).collect();
    // What the ring takes then is too much for the socket.
    assert!(lost[0] > 0.5 && lost[1] < lost[0] / 2.0, "{lost:?}");
    assert_eq!(answers[0]["first_lost"]["stage"], "Ring");
    assert_eq!(answers[1]["first_lost"]["stage"], "SockQueue");
    for file in [page, svg] {
        let written = std::fs::read_to_string(file).expect("it was written");
        assert!(written.contains("2048") && written.contains("<rect"));
    }
    std::fs::remove_dir_all(dir).expect("it goes");
}

/// Each wrong thing has one sentence that says what would be right; nothing ran, and nothing was written.
#[test]
fn what_can_not_be_is_said() {
    for (line, said) in [
        ("--nic 4", "QUEUESxRING"),
        ("--nic 0x1024", "1 to 64 queues"),
        ("--nic 65x1024", "1 to 64 queues"),
        ("--nic 4x0", "of 1 to 1048576"),
        ("--nic 64x1048576", "all rings together must be no more than 4194304 packets"),
        ("--cpus 0", "1..=64"),
        ("--cpus 65", "1..=64"),
        ("--rate fast", "no rate"),
        ("--rate 0", "a rate is 1 pps to 1 Gpps, and 0 is not"),
        ("--rate 1e18", "a rate is 1 pps to 1 Gpps, and 1e18 is not"),
        ("--rate -5", "-5"),
        ("--size 20", "64..=1518"),
        ("--size 0", "64..=1518"),
        ("--size 70000", "64..=1518"),
        ("--flows 0", "1..=1000000"),
        ("--flows 1000001", "1..=1000000"),
        ("--arrivals sometimes", "even, random, or burst=N"),
        ("--arrivals burst=0", "1 to 65536"),
        ("--app -1", "-1"),
        ("--app 1e9", "--app: 0 to 1000000 nanoseconds"),
        ("--app nan", "--app: 0 to 1000000 nanoseconds"),
        ("--cost Nowhere=3", "none of turn, poll, read, miss, byte, irq, nor a stage: Ring"),
        ("--cost Ip=-3", "a cost is 0 to 1000000 ns"),
        ("--cost Ip", "WHAT=NS"),
        ("--set net.core.no_such_knob=1", "no_such_knob"),
        ("--set net.core.netdev_budget=-5", "netdev_budget"),
        ("--sweep nonsense=1,2", "besides knobs there are rate"),
        ("--sweep ring=", "1 to 100 values, none of them empty"),
        ("--sweep ring=256,,512", "1 to 100 values, none of them empty"),
        ("--sweep ring", "write WHAT=A,B"),
        ("--sweep =1,2", "before the ="),
        ("--sweep ring=256,0", "a number from 1 to 1048576"),
        ("--sweep queues=1,65", "a number from 1 to 64"),
        ("--sweep nic=4x256,64x1048576", "--sweep nic=64x1048576: all rings together"),
        ("--sweep rate=1M,0", "1 pps to 1 Gpps"),
        ("--sweep size=64,70000", "a number from 1 to 1518"),
        ("--for 0", "--for"),
        ("--for nan", "--for"),
        ("--for 1 --html /nowhere/at/all.html", "/nowhere/at/all.html"),
        ("--for 1 --svg /", "/: "),
        ("--check --svg x.svg", "--svg"),
        ("--check --set rps_cpus=3", "leave it out"),
        ("--check --learn --cost Ip=3", "leave --cost out"),
    ] {
        let out = whatif(line);
        assert_eq!(out.status.code(), Some(2), "{line}: {out:?}");
        let err = text(&out.stderr);
        assert!(err.contains(said) && !err.contains("panicked"), "{line}: {err}");
        assert!(out.stdout.is_empty(), "{line}: {}", text(&out.stdout));
    }
}

/// Queue N interrupts processor N modulo their number: more queues than processors are a machine.
#[test]
fn more_queues_than_processors_share_them() {
    let out = whatif("--nic 8x256 --cpus 3 --rate 300k --for 5 --json");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let busy = told["answers"][0]["busy"].as_array().expect("processors");
    assert!(busy.len() == 3 && busy.iter().all(|b| b.as_f64() > Some(0.0)), "{busy:?}");
    assert_eq!(told["answers"][0]["lost"], 0.0);
}

/// An hour of a large machine begins at once, takes no more memory the longer it runs, and Ctrl-C ends it.
#[test]
fn a_very_long_run_is_ended_by_ctrl_c() {
    use std::os::unix::process::ExitStatusExt;
    let line = "--nic 64x65536 --cpus 64 --rate 1Gpps --flows 1000000 --for 3600000";
    let mut child = Command::new(env!("CARGO_BIN_EXE_linerate"))
        .arg("whatif")
        .args(line.split_whitespace())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("linerate starts");
    // It has begun to work when it had some seconds of a processor, however long that takes.
    let spent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default().to_owned();
        rest.split_whitespace().nth(11).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0)
    };
    while spent(child.id()) < 200 {
        assert!(child.try_wait().expect("its state").is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
    let kb: u64 = rss.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(kb < 2_000_000, "{kb} kB");
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // Who starts tests in the background of a script without jobs has SIGINT ignored, here and in the child.
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    let ignored = own.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).expect("a mask");
    let ignored = u64::from_str_radix(ignored, 16).expect("a mask in hex");
    let with = match ignored & 1 << (Signal::SIGINT as u64 - 1) {
        0 => Signal::SIGINT,
        _ => Signal::SIGTERM,
    };
    nix::sys::signal::kill(pid, with).expect("a signal");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(with as i32), "{status:?}");
}

/// The picture in the documents is what its command prints today.
#[test]
fn the_picture_of_a_sweep_is_what_the_command_draws() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
    let page = std::fs::read_to_string(format!("{docs}/WHATIF.md")).expect("the page");
    let command = page.lines().find(|l| l.contains("--svg docs/pictures/whatif-sweep.svg"));
    let (_, line) = command.and_then(|l| l.split_once("linerate whatif ")).expect("the command");
    let drawn = std::env::temp_dir().join(format!("linerate-sweep-{}.svg", std::process::id()));
    let line = line.replace("docs/pictures/whatif-sweep.svg", &drawn.display().to_string());
    let out = whatif(&line);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let now = std::fs::read_to_string(&drawn).expect("it was drawn");
    std::fs::remove_file(&drawn).expect("it goes");
    let kept = format!("{docs}/pictures/whatif-sweep.svg");
    let before = std::fs::read_to_string(&kept).unwrap_or_default();
    assert!(now == before, "{kept} is not what `linerate whatif {line}` draws: draw it anew");
    // The table beside it is the same run's.
    for row in text(&out.stdout).lines().filter(|l| !l.is_empty()) {
        assert!(page.contains(row), "docs/WHATIF.md lacks {row:?}");
    }
}

//! Goal: the real iperf3 measures against `up --serve iperf3` on every backend, with one queue and with
//! two, and what it is told is true; a second client is told to wait, a hostile one changes nothing; the
//! streams of a test move to the shard that reads them, and the kernel's program sends them there.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::addrs;
use super::world::{self, Ended, Net, SERVER_V4, SERVER_V6, Up, World, missing};

macro_rules! need {
    () => {
        if let Some(why) = missing() {
            return world::skip(&why);
        }
    };
}

/// Starts the server by `backend`, on a wire or on an interface of its own.
fn serve(world: &World, backend: &str, queues: &str) -> Up {
    let (net, dev) = match backend {
        "tap" | "tun" => (&world.client, "lr0"),
        _ => (&world.server, "v0"),
    };
    if dev == "lr0" {
        world.client.good("ip link del v1");
    }
    let mut args = vec!["--dev", dev, "--backend", backend, "--queues", queues];
    args.extend(addrs());
    args.extend(["--serve", "iperf3"]);
    let up = world.up(net, &args);
    assert!(up.line.contains("serves iperf3@5201"), "{}", up.line);
    if dev == "lr0" {
        world.address(dev);
    }
    up
}

/// What iperf3 prints with --json.
fn run(client: &Net, words: &str) -> Value {
    let line: Vec<&str> = ["iperf3", "-J"].into_iter().chain(words.split(' ')).collect();
    let out = client.output(&line);
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"))
}

/// Its report, after a test that went well.
fn report(world: &World, words: &str) -> Value {
    let begun = Instant::now();
    let all = run(&world.client, words);
    if !all["error"].is_null() {
        let took = begun.elapsed();
        let shown = ["path", "sockets", "softnet"].map(|what| world.ask(&["show", what]));
        panic!("{words}: {} after {took:?}\n{}", all["error"], shown.join("\n"));
    }
    all
}

fn number(report: &Value, sum: &str, what: &str) -> u64 {
    let value = &report["end"][sum][what];
    value.as_u64().unwrap_or_else(|| panic!("{sum}.{what}: {value} in {}", report["end"]))
}

/// What was received was sent, and something was.
fn bytes_are_true(report: &Value, suffix: &str, what: &str) -> u64 {
    let sent = number(report, &format!("sum_sent{suffix}"), "bytes");
    let received = number(report, &format!("sum_received{suffix}"), "bytes");
    assert!(0 < received && received <= sent, "{what}{suffix}: {received} of {sent}");
    received
}

/// Every datagram is received or lost, and has its length.
fn datagrams_are_true(report: &Value, what: &str) {
    let len = report["start"]["test_start"]["blksize"].as_u64().expect("its length");
    let (packets, lost) = (number(report, "sum", "packets"), number(report, "sum", "lost_packets"));
    assert!(packets > lost, "{what}: {packets} {lost}");
    let received = number(report, "sum_received", "bytes");
    assert_eq!(received, (number(report, "sum_received", "packets") - lost) * len, "{what}");
    assert!(received <= number(report, "sum_sent", "bytes"), "{what}");
    let jitter = report["end"]["sum"]["jitter_ms"].as_f64().expect("a number");
    // More than nothing, since no two datagrams take the same time, and less than the test.
    assert!(jitter > 0.0 && jitter < 60_000.0, "{what}: {jitter}");
}

fn measure(backend: &str, queues: &str) {
    let world = World::new();
    let up = serve(&world, backend, queues);
    let size = 20_000_000;
    for (server, at) in [(SERVER_V4, "4"), (SERVER_V6, "6")] {
        let what = |words: &str| format!("-c {server} -{at} {words}");
        let words = what("-n 20M");
        bytes_are_true(&report(&world, &words), "", &words);
        let words = what("-n 20M -P 4");
        let told = report(&world, &words);
        bytes_are_true(&told, "", &words);
        assert_eq!(told["end"]["streams"].as_array().map(Vec::len), Some(4), "{words}");
        for words in [what("-n 20M -R"), what("-n 20M -R -P 4")] {
            let told = report(&world, &words);
            assert!(bytes_are_true(&told, "", &words) >= size, "{words}");
            assert!(told["end"]["sum_sent"]["retransmits"].is_u64(), "{words}: ours are told");
        }
        // Each stream goes its way, on whichever shard it lives.
        let words = what("-t 1 --bidir -P 2");
        let told = report(&world, &words);
        bytes_are_true(&told, "", &words);
        bytes_are_true(&told, "_bidir_reverse", &words);
        for words in
            [what("-u -b 50M -n 2M"), what("-u -b 50M -n 2M -R"), what("-u -b 20M -n 2M -P 3")]
        {
            datagrams_are_true(&report(&world, &words), &format!("{backend} {queues}: {words}"));
        }
    }
    let told = report(&world, &format!("-c {SERVER_V4} -t 1 -R -b 8M -C reno"));
    let rate = number(&told, "sum_sent", "bytes");
    // Eight million bits a second, for one second or for how long that took here.
    let seconds = told["end"]["sum_sent"]["seconds"].as_f64().expect("a time");
    assert!(
        rate as f64 <= 1_000_000.0 * (seconds + 0.5) + 131_072.0,
        "{rate} bytes in {seconds} s"
    );
    assert_eq!(told["end"]["sender_tcp_congestion"], "reno");
    up.end();
}

#[test]
fn iperf3_measures_af_packet_with_one_queue() {
    need!();
    measure("af_packet", "1");
}

#[test]
fn iperf3_measures_af_packet_with_two_queues() {
    need!();
    measure("af_packet", "2");
}

#[test]
fn iperf3_measures_af_xdp_with_one_queue() {
    need!();
    measure("af_xdp", "1");
}

#[test]
fn iperf3_measures_af_xdp_with_two_queues() {
    need!();
    measure("af_xdp", "2");
}

#[test]
fn iperf3_measures_a_tap_with_one_queue() {
    need!();
    measure("tap", "1");
}

#[test]
fn iperf3_measures_a_tap_with_two_queues() {
    need!();
    measure("tap", "2");
}

#[test]
fn iperf3_measures_a_tun_with_one_queue() {
    need!();
    measure("tun", "1");
}

#[test]
fn iperf3_measures_a_tun_with_two_queues() {
    need!();
    measure("tun", "2");
}

/// A test that goes on until it is dropped; its data connection has begun. `port`: the client's port
/// of it.
fn endless(world: &World, port: u16) -> Ended {
    let words = format!("iperf3 -c {SERVER_V4} -t 0 --cport {port}");
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = world.client.command(&words);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    until(|| shard_of(world, port).is_some(), "its data connection");
    Ended(child)
}

/// Waits for something that takes no time but the machine's.
fn until(mut what: impl FnMut() -> bool, name: &str) {
    for _ in 0..15_000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{name}: not within five minutes");
}

/// The shard that the connection from the client's port lives on.
fn shard_of(world: &World, port: u16) -> Option<u8> {
    let flows = world.ask(&["show", "flows"]);
    let line = flows.lines().find(|l| l.ends_with(&format!("10.9.0.1:{port}")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_second_client_is_told_to_wait() {
    need!();
    let world = World::new();
    let file = |more: &str| {
        let text = format!(
            "queues = 2\n[[device]]\nname = \"v0\"\nbackend = \"af_packet\"\n\
             addresses = [\"10.9.0.2/24\"{more}]\n[[service]]\nkind = \"iperf3\"\n"
        );
        fs::write(world.dir.join("up.toml"), text).expect("a file");
    };
    file("");
    let mut up = world.up(&world.server, &["--config", "up.toml"]);
    let first = endless(&world, 6001);
    let busy = || {
        let told = run(&world.client, &format!("-c {SERVER_V4} -n 1M"));
        let error = told["error"].as_str().unwrap_or_default();
        assert!(error.contains("server is busy"), "{told}");
    };
    (0..5).for_each(|_| busy());
    // The service that is read again is the one that runs.
    file(", \"10.9.0.3/24\"");
    up.signal(Signal::SIGHUP);
    up.says("reloaded: 1 address");
    (0..5).for_each(|_| busy());
    // It vanishes without a word: the kernel resets its connections, and the next one may come.
    drop(first);
    may_come(&world);
    up.end();
}

/// A client gets its turn, at the latest when the one before has been silent for too long.
fn may_come(world: &World) {
    let next = || run(&world.client, &format!("-c {SERVER_V4} -n 1M"))["error"].is_null();
    until(next, "a test");
}

#[test]
fn hostile_clients_get_an_answer_and_change_nothing() {
    need!();
    let world = World::new();
    let up = serve(&world, "af_packet", "2");
    let to = format!("TCP:{SERVER_V4}:5201");
    let say =
        |parts: &[&[u8]]| world.client.piped(&["socat", "-t", "30", "-", &to], &parts.concat());
    let cookie = [b'c'; 37];
    let good = br#"{"tcp":true,"parallel":1,"time":1}"#;
    let error = |errno: u8| vec![0xfe, 0, 0, 0, errno, 0, 0, 0, 0];
    let after = |said: &[u8], more: Vec<u8>| [said, &more].concat();
    for (parts, answer) in [
        // No cookie, or not all of it.
        (&[&b""[..]][..], vec![]),
        (&[&cookie[..36]], vec![]),
        // A length that nobody needs, none at all, JSON that is none, too many streams.
        (&[&cookie, &u32::MAX.to_be_bytes()], after(&[9], error(114))),
        (&[&cookie, &[0; 4]], after(&[9], error(114))),
        (&[&cookie, &[0, 0, 0, 2], b"{{"], after(&[9], error(114))),
        (&[&cookie, &[0, 0, 0, 18], br#"{"parallel":50000}"#], after(&[9], error(6))),
        // It ends in the middle.
        (&[&cookie, &[0, 0, 0, 99], b"{"], vec![9]),
        (&[&cookie, &[0, 0, 0, good.len() as u8], good], vec![9, 10]),
        // What can not come now: the end of a test that has not begun, a state of ours.
        (&[&cookie, &[0, 0, 0, good.len() as u8], good, &[4]], after(&[9, 10], error(110))),
        (&[&cookie, &[0, 0, 0, good.len() as u8], good, &[9; 5000]], after(&[9, 10], error(110))),
    ] {
        // The slot is free again when the one before was noticed to be gone.
        until(
            || {
                let said = say(parts);
                assert!(said == answer || said == [0xff], "{parts:?}: {said:?} {answer:?}");
                said == answer
            },
            "an answer",
        );
    }
    // Nobody without a test gets an answer to a datagram.
    let datagram = format!("UDP:{SERVER_V4}:5201");
    let said = world.client.piped(&["socat", "-t", "1", "-", &datagram], b"9876");
    assert!(said.is_empty(), "{said:?}");
    // One who says nothing after its cookie is given up, and so are those who say nothing at all.
    let hold = format!("(head -c 37 /dev/zero; sleep 60) | socat - {to}");
    let silent =
        ["sh", "-c", &format!("for i in 1 2 3 4; do sleep 60 | socat - {to} & done; {hold}")];
    let mut command = world.client.command(&silent);
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    let silent = Ended(silent);
    may_come(&world);
    drop(silent);
    let told = report(&world, &format!("-c {SERVER_V4} -u -b 50M -n 2M"));
    datagrams_are_true(&told, "after all that");
    up.end();
}

/// Datagrams that the instance has sent.
fn out_datagrams(world: &World) -> u64 {
    let snmp = world.ask(&["show", "snmp"]);
    let mut rows = snmp.lines().filter_map(|l| l.strip_prefix("Udp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut row = names.split(' ').zip(values.split(' '));
    let (_, value) = row.find(|(name, _)| *name == "OutDatagrams").expect("the counter");
    value.parse().expect("a number")
}

/// Queues come and go under the streams of a test, and none of them ends.
#[test]
fn a_test_survives_queues_that_come_and_go() {
    need!();
    let world = World::new();
    let up = serve(&world, "af_packet", "2");
    for words in ["-t 2 -P 4", "-t 2 -P 4 --bidir", "-n 8M -P 6 -u -b 5M -R"] {
        let words = format!("-c {SERVER_V4} {words}");
        let line = format!("iperf3 -J {words}");
        let before = out_datagrams(&world);
        let line: Vec<&str> = line.split(' ').collect();
        let mut command = world.client.command(&line);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        // From its beginning on, as far as that can be seen.
        until(|| world.ask(&["show", "flows"]).contains("ESTABLISHED"), "a test");
        // A stream of datagrams begins with one each way that nobody sends again, and a queue that goes
        // takes with it what is in it.
        if words.contains("-u") {
            until(|| out_datagrams(&world) >= before + 500, "streams of datagrams");
        }
        for n in ["1", "3", "1", "2"] {
            assert!(world.ask(&["set", &format!("channels.combined={n}")]).contains(n));
        }
        let out = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&out.stdout);
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(told["error"].is_null(), "{words}: {}", told["error"]);
        let streams = told["end"]["streams"].as_array().expect("streams");
        let bytes = |stream: &Value| {
            let last = stream.get("udp").or(stream.get("receiver")).expect("figures");
            last["bytes"].as_u64().expect("a number")
        };
        let least = streams.iter().map(bytes).min().expect("streams");
        let most = streams.iter().map(bytes).max().expect("streams");
        assert!(least > 0, "{words}: {streams:?}");
        // All have the same rate from the beginning on: one that stopped half-way would lag behind.
        assert!(!words.contains("-u") || least > most / 2, "{words}: {least} {most}");
    }
    may_come(&world);
    up.end();
}

/// Where no rule can be written the knob of accelerated RFS is refused, at the start, at run time and in
/// the file, and says why.
#[test]
fn rules_are_refused_where_the_kernel_takes_none() {
    need!();
    for (backend, why) in [("af_xdp", "xsk_rcv_check"), ("tap", "tun_flow_update")] {
        let world = World::new();
        let dev = if backend == "tap" { "lr0" } else { "v0" };
        let start = ["up", "--dev", dev, "--backend", backend, "--addr", "10.9.0.2/24"];
        let on = ["--set", "features.ntuple=1"];
        let said = world.refused(&[&start[..], &on].concat(), 1);
        assert!(said.contains("--set features.ntuple: ") && said.contains(why), "{said}");
        let text = format!("[[device]]\nname = \"{dev}\"\nbackend = \"{backend}\"\n");
        let file = world.dir.join("up.toml");
        fs::write(&file, &text).expect("a file");
        let mut up = world.up(&world.server, &["--config", "up.toml"]);
        let said = world.refused(&["set", "features.ntuple=1"], 1);
        assert!(said.contains(why), "{said}");
        let spec = ["ntuple", "add", "flow-type", "tcp4", "dst-port", "7", "action", "0"];
        let said = world.refused(&[&["set"][..], &spec].concat(), 1);
        assert!(said.contains(why), "{said}");
        assert_eq!(world.ask(&["get", "features.ntuple"]), "features.ntuple = 0\n");
        fs::write(&file, format!("[knobs]\nfeatures.ntuple = true\n{text}")).expect("a file");
        up.signal(Signal::SIGHUP);
        let said = up.says("not reloaded");
        assert!(
            said.contains("up.toml:2: knobs.features.ntuple: ") && said.contains(why),
            "{said}"
        );
        world.ask(&["set", "features.ntuple=0"]);
        up.end();
    }
}

/// Packets that each shard has had (`softnet: processed`).
fn processed(world: &World) -> Vec<u64> {
    let softnet = world.ask(&["show", "softnet"]);
    let first = |line: &str| u64::from_str_radix(line.split(' ').next()?, 16).ok();
    softnet.lines().filter_map(first).collect()
}

/// The reader of a test's streams is the shard of its control connection. With RFS the data connection
/// moves there, and its packets are sent after it; accelerated RFS has the kernel's program send them
/// there at once, so that the shard that they came to has nothing more to do.
#[test]
fn streams_move_to_the_shard_that_reads_them_and_the_program_follows() {
    need!();
    let world = World::new();
    let up = serve(&world, "af_packet", "2");
    let set = |words: &[&str]| world.ask(&[&["set"], words].concat());
    // Control on shard 0, data on shard 1.
    set(&["rss.weight=1,0"]);
    set(&["ntuple", "add", "flow-type", "tcp4", "src-port", "6001", "action", "1", "loc", "5"]);
    let test = endless(&world, 6001);
    assert_eq!(shard_of(&world, 6001), Some(1));
    // From here on everything comes by queue 1.
    set(&["rss.weight=0,1"]);
    set(&["ntuple", "delete", "5"]);
    let rfs = |name: &str| {
        let shown = world.ask(&["show", "rfs"]);
        let line =
            shown.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} in {shown}"))
    };
    assert_eq!((shard_of(&world, 6001), rfs("RfsFlowsMoved")), (Some(1), 0), "RFS is off");

    set(&["net.core.rps_sock_flow_entries=32768"]);
    set(&["rps_flow_cnt=16384"]);
    until(|| shard_of(&world, 6001) == Some(0), "the move");
    assert!(rfs("RfsFlowsMoved") >= 1);
    assert_eq!(rfs("ArfsFiltersAdded"), 0, "nobody asked for rules");
    let before = processed(&world);
    until(|| processed(&world)[1] > before[1] + 1000, "packets that still come by queue 1");
    drop(test);

    // The same with rules: queue 1 is left alone soon after the move.
    set(&["features.ntuple=1"]);
    set(&["rps_flow_cnt=0"]);
    set(&["rss.weight=1,0"]);
    set(&["ntuple", "add", "flow-type", "tcp4", "src-port", "6002", "action", "1", "loc", "5"]);
    let mut test = None;
    until(
        || {
            let told = run(&world.client, &format!("-c {SERVER_V4} -n 1K"));
            told["error"].is_null()
        },
        "the end of the test before",
    );
    test.replace(endless(&world, 6002));
    assert_eq!(shard_of(&world, 6002), Some(1));
    set(&["rss.weight=0,1"]);
    set(&["ntuple", "delete", "5"]);
    set(&["rps_flow_cnt=16384"]);
    until(|| shard_of(&world, 6002) == Some(0), "the move");
    until(|| rfs("ArfsFiltersAdded") >= 1, "a rule");
    until(
        || {
            let before = processed(&world);
            until(|| processed(&world)[0] > before[0] + 5000, "data");
            // Acknowledgements of the control connection may still come by queue 1.
            processed(&world)[1] - before[1] < 500
        },
        "the program that sends packets to queue 0",
    );
    drop(test);
    may_come(&world);
    up.end();
}

//! Goal: real programs work behind every queueing discipline, which delays, shapes and loses what it is
//! told to; statistics are there while they run. Method: the real binary with `curl`, `ping` and `iperf3`
//! inside, over TUN. A busy machine makes everything later, so that only what may not be earlier, or more,
//! is asserted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

#[path = "qdisc/file.rs"]
mod file;
#[path = "qdisc/rates.rs"]
mod rates;

/// Bytes of a download.
const SIZE: usize = 300_000;

fn linerate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    linerate(args).output().expect("linerate starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether programs can be run here, with these tools; CI forbids that they can not.
fn able(test: &str, tools: &[&str]) -> bool {
    let skip = |why: &str| {
        assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {test}: {why}");
        io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes()).expect("stderr");
        false
    };
    for tool in tools {
        if Command::new(tool).arg("-h").output().is_err() {
            return skip(&format!("{tool} is not installed"));
        }
    }
    let probe = output(&["run", "--", "true"]);
    match probe.status.code() {
        Some(0) => true,
        // 125: linerate says why it can not.
        Some(125) => skip(text(&probe.stderr).trim()),
        _ => panic!("{probe:?}"),
    }
}

/// An HTTP server for as long as the tests run, which gives everybody who comes the same answer.
fn http(answer: fn(&mut TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream?);
                let mut line = String::new();
                while stream.read_line(&mut line)? > 2 {
                    line.clear();
                }
                answer(stream.get_mut())
            });
        }
    });
    port
}

/// Serves files of [`SIZE`] bytes.
fn serve() -> u16 {
    http(|stream| {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&vec![7; SIZE])?;
        // It is the client that ends it.
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// Downloads a file behind these disciplines; the seconds that it took.
fn download(port: u16, options: &[&str]) -> f64 {
    let url = format!("http://10.0.2.2:{port}/");
    let program =
        ["--", "curl", "-sS", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", &url];
    let out = output(&[&["run", "--host-loopback"], options, &program[..]].concat());
    let said = text(&out.stdout);
    assert!(out.status.success(), "{options:?}: {said} {}", text(&out.stderr));
    let (size, secs) = said.trim().split_once(' ').expect("two figures");
    assert_eq!(size.parse(), Ok(SIZE), "{options:?}");
    secs.replace(',', ".").parse().expect("seconds")
}

#[test]
fn curl_works_behind_every_discipline() {
    if !able("curl_works_behind_every_discipline", &["curl"]) {
        return;
    }
    let port = serve();
    let all = [
        "pfifo_fast",
        "pfifo limit 100",
        "bfifo limit 200k",
        "tbf rate 50mbit burst 32k latency 100ms",
        "prio",
        "sfq",
        "codel",
        "fq maxrate 100mbit",
        "fq_codel",
        "netem delay 5ms 2ms loss 1% duplicate 1% corrupt 0.2% reorder 5% seed 7",
        "netem rate 50mbit limit 200",
        "handle 1: tbf rate 50mbit burst 32k latency 1s; parent 1: fq_codel",
    ];
    for spec in all {
        download(port, &["--qdisc", spec, "--qdisc-in", spec]);
    }
}

/// No byte comes sooner than the rate allows, whichever way it goes.
#[test]
fn tbf_shapes_what_a_program_receives() {
    if !able("tbf_shapes_what_a_program_receives", &["curl"]) {
        return;
    }
    let port = serve();
    for spec in ["tbf rate 4mbit burst 16k latency 400ms", "netem rate 4mbit"] {
        let secs = download(port, &["--qdisc", spec]);
        let least = (SIZE - 16 * 1024) as f64 * 8.0 / 4e6 * 0.98;
        assert!(secs >= least, "{spec}: {SIZE} bytes in {secs} s, {least} s at the least");
    }
}

/// The round trip has both delays in it.
#[test]
fn ping_feels_the_delay_of_both_directions() {
    if !able("ping_feels_the_delay_of_both_directions", &["ping"]) {
        return;
    }
    let delays = ["--qdisc", "netem delay 40ms", "--qdisc-in", "netem delay 30ms"];
    let program = ["--", "ping", "-n", "-c", "3", "-i", "0.3", "-W", "60", "10.0.2.2"];
    let out = output(&[&["run"], &delays[..], &program[..]].concat());
    let said = text(&out.stdout);
    assert!(out.status.success(), "{said} {}", text(&out.stderr));
    let times = said.lines().filter_map(|l| l.split_once("time=")?.1.split(' ').next());
    let times: Vec<f64> = times.map(|t| t.parse().expect("milliseconds")).collect();
    assert!(times.len() == 3 && times.iter().all(|t| *t >= 70.0), "{times:?}");
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of iperf3 on this host for one client, and its port.
fn iperf3_server() -> (Server, String) {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address").port().to_string()
    };
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-B", "127.0.0.1", "-p", &port, "--forceflush"]);
    let server = server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Server(server.spawn().expect("iperf3 starts"));
    let mut says = BufReader::new(server.0.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(says.read_line(&mut line).expect("a line") > 0, "iperf3 listens");
    }
    // What it says later must not fill the pipe.
    thread::spawn(move || io::copy(&mut says, &mut io::sink()));
    (server, port)
}

/// UDP through a link that loses a fifth: so much is lost, by the count of both ends.
#[test]
fn iperf3_sees_the_loss_of_netem() {
    if !able("iperf3_sees_the_loss_of_netem", &["iperf3"]) {
        return;
    }
    let (_server, port) = iperf3_server();
    let client =
        ["iperf3", "-c", "10.0.2.2", "-p", &port, "-u", "-b", "2M", "-l", "500", "-k", "1000"];
    // Its control connection is TCP, and goes through the same link.
    let link = ["--qdisc-in", "netem loss 20% seed 5", "--report", "json"];
    let run = [&["run", "--host-loopback"], &link[..], &["--"], &client[..]].concat();
    let out = output(&[&run[..], &["-J"]].concat());
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON of iperf3");
    assert!(out.status.success(), "{said} {}", text(&out.stderr));
    let lost = said["end"]["sum"]["lost_percent"].as_f64().expect("a figure");
    assert!((14.0..26.0).contains(&lost), "{lost}% of 20%");
    let report = text(&out.stderr);
    let report = report.lines().find(|l| l.starts_with('{')).expect("a report");
    let report: serde_json::Value = serde_json::from_str(report).expect("JSON of linerate");
    let netem = &report["qdiscs"].as_array().expect("disciplines")[1];
    assert_eq!((netem["kind"].as_str(), netem["place"].as_str()), (Some("netem"), Some("ingress")));
    assert!(netem["drops"].as_u64().expect("a count") > 100, "{netem}");
}

/// A discipline is set, shown and taken away while the program runs; a wrong one is one sentence.
#[test]
fn a_running_instance_shows_and_takes_disciplines() {
    if !able("a_running_instance_shows_and_takes_disciplines", &[]) {
        return;
    }
    let name = format!("qdisc-{}", std::process::id());
    let mut child = linerate(&["run", "--name", &name, "--qdisc", "fq_codel limit 77"])
        .args(["--", "sh", "-c", "ip -o link 2> /dev/null; echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("linerate starts");
    let mut says = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while line.trim() != "up" {
        line.clear();
        assert!(says.read_line(&mut line).expect("a line") > 0, "the program runs");
    }
    let ask = |args: &[&str]| output(&[args, &["--name", &name]].concat());
    let good = |args: &[&str]| {
        let out = ask(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let shown = good(&["show", "qdisc"]);
    let first = shown.lines().next().expect("a line").to_owned();
    assert!(first.starts_with("qdisc fq_codel 8001: dev ") && first.contains(" root limit 77p "));
    assert!(shown.contains(" Sent ") && shown.contains("  maxpacket "), "{shown}");
    let dev = first.split(' ').nth(4).expect("a device").to_owned();
    let root = format!("qdisc.{dev}.root");
    let set = good(&["set", &format!("{root}=netem delay 20ms loss 1%")]);
    assert_eq!(set, format!("{root} = netem limit 1000 delay 20ms loss 1%\n"));
    assert_eq!(good(&["get", &root]), set);
    assert!(
        good(&["show", "qdisc"]).starts_with(&format!("qdisc netem 8001: dev {dev} root limit"))
    );
    good(&["set", &format!("qdisc.{dev}.ingress=tbf rate 20mbit burst 32k latency 50ms")]);
    assert!(good(&["show", "qdisc"]).contains(" ingress rate 20Mbit burst 32Kb lat 50ms\n"));
    assert!(good(&["show", "bql"]).lines().nth(1).is_some_and(|l| l.starts_with(&dev)));
    good(&["set", &format!("qdisc.{dev}.ingress=none")]);
    good(&["set", "net.core.default_qdisc=sfq"]);
    assert!(
        good(&["set", &format!("{root}=none")]).starts_with(&format!("{root} = sfq limit 127p"))
    );
    good(&["set", "net.core.default_qdisc=pfifo_fast"]);
    assert_eq!(good(&["set", &format!("{root}=del")]), format!("{root} = pfifo_fast\n"));
    assert!(good(&["show", "qdisc", "--json"]).contains("pfifo_fast"));
    let wrong = ask(&["set", "net.core.default_qdisc=netem"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("the others need parameters"), "{wrong:?}");
    let wrong = ask(&["set", &format!("{root}=netem loss 300%")]);
    let why = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{why}");
    assert!(why.contains("loss of netem can not be 300%: it is from 0% to 100%"), "{why}");
    let wrong = ask(&["set", "qdisc.none0.root=pfifo"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("no device is called \"none0\""), "{wrong:?}");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let wrong = output(&["run", "--qdisc", "tbf rate 1mbit", "--", "true"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("tbf needs burst"), "{wrong:?}");
}

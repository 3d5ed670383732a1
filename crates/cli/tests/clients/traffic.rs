//! What people use a network for, and what linerate says and records of it.

use crate::Outcome;
use crate::server::ECHO;
use crate::world::{
    Ended, GATEWAYS, HOST, HOST_V6, SERVERS, World, at, good, in_url, need, own, until,
};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn ping(world: &World<'_>) -> Outcome {
    let [ping] = need(["ping"])?;
    for to in GATEWAYS.iter().chain(&SERVERS) {
        let words = [&ping, "-c", "3", "-i", "0.05", "-s", "1000", "-W", "60", to];
        let said = world.run(&[], &words).good();
        assert!(said.contains("3 received"), "{to}: {said}");
    }
    // The first hop is the gateway.
    for (gateway, server) in GATEWAYS.iter().zip(SERVERS) {
        let ran = world.run(&[], &[&ping, "-n", "-c", "1", "-t", "1", "-W", "60", server]);
        let said = ran.stdout();
        assert!(said.contains(&format!("From {gateway}")), "{server}: {said}");
    }
    Ok(())
}

/// Bytes that do not compress or repeat.
fn write_random(path: &Path, len: usize, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = len.div_ceil(8);
    let mut data = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend(state.to_ne_bytes());
    }
    fs::write(path, &data[..len]).expect("a file");
}

fn sha256(path: &Path) -> String {
    let said = good(&["sha256sum", path.to_str().expect("a UTF-8 path")]);
    said.split_whitespace().next().expect("a sum").to_owned()
}

/// The settings of an nginx that serves and takes files in `dir`, in one process.
fn nginx_conf(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    let conf = format!("{dir}/nginx-{port}.conf");
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {dir}/temp;\n"))
        .collect();
    let text = format!(
        "daemon off; master_process off; pid {dir}/nginx-{port}.pid; error_log {dir}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; {temp}\n\
         server {{ listen {port}; listen [::]:{port}; root {dir};\n\
         client_max_body_size 0; location /up/ {{ dav_methods PUT; }} }} }}\n"
    );
    fs::write(&conf, text).expect("a file");
    conf
}

/// A directory to serve, with a place for uploads.
fn served(world: &World<'_>) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let dir = world.dir();
    let up = dir.join("up");
    fs::create_dir(&up).expect("a directory");
    fs::set_permissions(&up, fs::Permissions::from_mode(0o777)).expect("its mode");
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// An nginx in the Internet.
fn nginx(world: &World<'_>, dir: &Path, port: u16) -> Result<Ended, crate::Skip> {
    let [nginx] = need(["nginx"])?;
    let conf = nginx_conf(dir, port);
    let errors = dir.join("start.log");
    let server = world.host.in_internet(&[&nginx, "-e", text(&errors), "-c", &conf]);
    world.host.until_listens(port);
    Ok(server)
}

pub fn curl(world: &World<'_>) -> Outcome {
    let [curl, python] = need(["curl", "python3"])?;
    let (dir, mine) = (served(world), world.dir());
    write_random(&dir.join("file"), 8_000_003, 1);
    let sum = sha256(&dir.join("file"));
    let _nginx = nginx(world, &dir, 80)?;
    let words = [&python, "-m", "http.server", "81", "--bind", "::", "--directory", text(&dir)];
    let _python = world.host.in_internet(&words);
    world.host.until_listens(81);
    let fetch = |words: &[&str]| {
        let mut all = vec![curl.as_str(), "-sSf", "--max-time", "150"];
        all.extend(words);
        world.run(&[], &all).good();
    };
    for server in SERVERS.map(in_url) {
        for port in [80, 81] {
            let (url, to) = (format!("http://{server}:{port}/file"), mine.join("got"));
            fetch(&["-o", text(&to), &url]);
            assert_eq!(sha256(&to), sum, "from {url}");
        }
        fetch(&["-T", text(&dir.join("file")), &format!("http://{server}/up/file")]);
        assert_eq!(sha256(&dir.join("up/file")), sum, "to {server}");
    }
    Ok(())
}

pub fn publish(world: &World<'_>) -> Outcome {
    let [curl, python, nginx] = need(["curl", "python3", "nginx"])?;
    let dir = served(world);
    write_random(&dir.join("file"), 5_000_001, 2);
    let sum = sha256(&dir.join("file"));
    let conf = nginx_conf(&dir, 8080);
    let errors = dir.join("start.log");
    let nginx: Vec<&str> = vec![&nginx, "-e", text(&errors), "-c", &conf];
    let python: Vec<&str> =
        vec![&python, "-m", "http.server", "8080", "--bind", "::", "--directory", text(&dir)];
    let (v4, v6) = (format!("{HOST}:9080:8080"), format!("[{HOST_V6}]:9080:8080"));
    let options = ["-p", "9080:8080", "-p", "[::1]:9080:8080", "-p", &v4, "-p", &v6];
    for program in [nginx, python] {
        let mut running = world.start(&options, &program);
        running.stdin = None;
        let mut got = dir.join("got");
        for from in ["127.0.0.1", "[::1]"] {
            // linerate listens before the program does.
            let url = format!("http://{from}:9080/file");
            until("the program answers", || {
                let words = ["-sSf", "--max-time", "150", "-o", text(&got), &url];
                Command::new(&curl).args(words).output().expect("curl").status.success()
            });
            assert_eq!(sha256(&got), sum, "{url}");
        }
        got.set_file_name("got-outside");
        for host in [HOST.to_owned(), in_url(HOST_V6)] {
            let url = format!("http://{host}:9080/file");
            let words = [&curl, "-sSf", "--max-time", "150", "-o", text(&got), &url];
            world.host.asked_of_internet(&words);
            assert_eq!(sha256(&got), sum, "{url}");
        }
    }
    let (v4, v6) = (format!("{HOST}:9053:53/udp"), format!("[{HOST_V6}]:9053:53/udp"));
    let options = ["-p", "9053:53/udp", "-p", "[::1]:9053:53/udp", "-p", &v4, "-p", &v6];
    let mut running = world.start_client(&options, &["serve-udp", "53"]);
    assert_eq!(running.line(), "ready");
    for to in ["127.0.0.1:9053", "[::1]:9053"] {
        assert_eq!(good(&[&own(), "client", "udp", to]).trim(), "ok", "{to}");
    }
    for host in [HOST, HOST_V6] {
        let said = world.host.asked_of_internet(&[&own(), "client", "udp", &at(host, 9053)]);
        assert_eq!(said.trim(), "ok", "{host}");
    }
    running.finish().good();
    Ok(())
}

pub fn iperf(world: &World<'_>) -> Outcome {
    let [iperf3] = need(["iperf3"])?;
    let _server = world.host.in_internet(&[&iperf3, "-s"]);
    world.host.until_listens(5201);
    let ask = |server: &str, words: &[&str]| -> Value {
        let mut all = vec![iperf3.as_str(), "-J", "-c", server];
        all.extend(words);
        serde_json::from_str(&world.run(&[], &all).good()).expect("JSON")
    };
    let mut speeds = String::new();
    for server in SERVERS {
        for streams in ["1", "4"] {
            for way in [&[][..], &["-R"]] {
                let mut words = vec!["-n", "32M", "-P", streams];
                words.extend(way);
                let said = ask(server, &words);
                let sum = &said["end"]["sum_received"];
                // The receiver stops to count when the sender has no more to send, whatever is still
                // on the way.
                let sent = said["end"]["sum_sent"]["bytes"].as_u64().expect("bytes");
                assert!(sent >= 32 << 20 && sum["bytes"].as_u64() > Some(0), "{server}: {sum}");
                let gbps = sum["bits_per_second"].as_f64().expect("a speed") / 1e9;
                speeds.push_str(&format!(" {gbps:.2}"));
            }
        }
        for way in [&[][..], &["-R"]] {
            let mut words = vec!["-u", "-b", "4M", "-n", "400K", "-l", "1200"];
            words.extend(way);
            // A machine that stands still for long loses datagrams in the kernel's own queues: it
            // may do so now and then, we may not do so always.
            let lost = |_| {
                let sum = &ask(server, &words)["end"]["sum"];
                assert!(sum["packets"].as_u64().expect("packets") >= 300, "{sum}");
                sum["lost_packets"].as_i64().expect("a loss")
            };
            assert!((0..5).map(lost).any(|lost| lost == 0), "{server} {words:?}: losses each time");
        }
    }
    println!("  Gb/s, v4 then v6, 1 stream up, down, 4 up, down:{speeds}");
    Ok(())
}

/// Packets of a capture that a filter of tshark's lets through.
fn captured(tshark: &str, file: &str, filter: &str) -> usize {
    let words = ["-n", "-r", file, "-Y", filter, "-T", "fields", "-e", "frame.number"];
    let out = Command::new(tshark).args(words).output().expect("tshark");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{filter}: {said}");
    let complaints = said.lines().filter(|line| !line.contains("Running as user"));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "{filter}");
    out.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count()
}

pub fn recording(world: &World<'_>) -> Outcome {
    let [tshark, sh, ping, iperf3] = need(["tshark", "sh", "ping", "iperf3"])?;
    // One for each test: a server that ends a test resets who has come for the next one already.
    let ports = ["5201", "5202", "5203", "5204"];
    let servers = ports.map(|port| world.host.in_internet(&[&iperf3, "-s", "-1", "-p", port]));
    for port in 5201..5205 {
        world.host.until_listens(port);
    }
    let file = world.dir().join("all.pcapng");
    let file = text(&file);
    let own = world.client(&["udp"]).join(" ");
    let mut script = "set -e".to_owned();
    for (server, ports) in SERVERS.into_iter().zip(ports.chunks(2)) {
        let echo = at(server, ECHO);
        script.push_str(&format!("; {ping} -q -c 2 -i 0.05 -W 60 {server}; {own} {echo}"));
        for (port, way) in ports.iter().zip(["", " -R"]) {
            script.push_str(&format!("; {iperf3} -c {server} -p {port} -n 3M{way}"));
        }
    }
    world.run(&["--pcap", file], &[&sh, "-c", &script]).good();
    drop(servers);
    assert_eq!(captured(&tshark, file, "_ws.malformed"), 0);
    for version in ["ip", "ipv6"] {
        let icmp = if version == "ip" { "icmp" } else { "icmpv6" };
        for what in ["tcp", "udp", icmp] {
            let filter = format!("{version} && {what}");
            let all = captured(&tshark, file, &filter);
            // 1 = inbound, 2 = outbound.
            let ways = [1, 2].map(|way| {
                let filter = format!("{filter} && frame.packet_flags_direction == {way}");
                captured(&tshark, file, &filter)
            });
            assert!(ways.iter().all(|&n| n >= 2), "{filter}: {ways:?}");
            assert_eq!(ways[0] + ways[1], all, "{filter}: packets without a direction");
        }
    }
    Ok(())
}

/// The values of a file of `/proc/net` with lines of names and values in pairs.
fn pairs(file: &str) -> Vec<(String, i64)> {
    let lines: Vec<&str> = file.lines().collect();
    let mut all = Vec::new();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { panic!("a line without its pair in:\n{file}") };
        let (names, values) = (names.split(' '), values.split(' '));
        assert_eq!(names.clone().count(), values.clone().count(), "{pair:?}");
        let group = names.clone().next().expect("a group").trim_end_matches(':').to_owned();
        for (name, value) in names.zip(values).skip(1) {
            all.push((format!("{group}{name}"), value.parse().expect("a number")));
        }
    }
    all
}

pub fn shown_while_running(world: &World<'_>) -> Outcome {
    let [iperf3, sh] = need(["iperf3", "sh"])?;
    let _server = world.host.in_internet(&[&iperf3, "-s"]);
    world.host.until_listens(5201);
    let transfer = format!("{iperf3} -c {} -n 16M >/dev/null", SERVERS[0]);
    // Something is always on the way, until we say so.
    let script = format!("echo up; (while :; do {transfer}; done) & read x; kill $!");
    let mut running = world.start(&[], &[&sh, "-c", &script]);
    assert_eq!(running.line(), "up");
    let value = |all: &[(String, i64)], name: &str| {
        all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    };
    let in_segs = |world: &World<'_>| value(&pairs(&world.show("snmp")), "TcpInSegs");
    until("traffic is counted", || in_segs(world) > 0);
    let before = in_segs(world);
    until("more traffic is counted", || in_segs(world) > before);
    let snmp = pairs(&world.show("snmp"));
    for name in ["IpInReceives", "IpInDelivers", "IpOutRequests", "TcpOutSegs", "TcpPassiveOpens"] {
        assert!(value(&snmp, name) > 0, "{name}");
    }
    let netstat = pairs(&world.show("netstat"));
    assert!(value(&netstat, "IpExtInOctets") > 0);
    let dev = world.show("dev");
    let columns: Vec<usize> =
        dev.lines().skip(2).map(|line| line.split_whitespace().count()).collect();
    assert!(!columns.is_empty() && columns.iter().all(|&n| n == 17), "{dev}");
    let softnet = world.show("softnet");
    let hex = |word: &str| u32::from_str_radix(word, 16).is_ok();
    assert!(softnet.lines().all(|line| line.split(' ').all(hex)), "{softnet}");
    let tcp = world.show("tcp");
    assert!(tcp.lines().skip(1).all(|line| line.split_whitespace().count() >= 12), "{tcp}");
    let sockstat = world.show("sockstat");
    assert!(sockstat.starts_with("sockets: used ") && sockstat.contains("\nTCP: inuse "));
    assert!(world.show("path").contains("accounted for"));
    running.tell("end");
    running.finish().good();
    Ok(())
}

/// Streams at once, and the bytes of each.
const STREAMS: usize = 8;
const EACH: usize = (1 << 30) / STREAMS;

pub fn gigabyte(world: &World<'_>) -> Outcome {
    let [curl, sh] = need(["curl", "sh"])?;
    let (dir, mine) = (served(world), world.dir());
    let mut sums = Vec::new();
    for i in 0..STREAMS {
        let path = dir.join(i.to_string());
        write_random(&path, EACH, i as u64 + 3);
        sums.push(sha256(&path));
    }
    let _nginx = nginx(world, &dir, 80)?;
    let in_parallel = |each: &dyn Fn(usize) -> String| {
        let mut script = (0..STREAMS).map(|i| format!("({}) &\n", each(i))).collect::<String>();
        script.push_str("wait");
        let begun = Instant::now();
        let report = world.run(&["--report", "json"], &[&sh, "-c", &script]);
        report.good();
        report.report();
        (STREAMS * EACH * 8) as f64 / begun.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
    };
    // Both families: every other stream.
    let server = |i: usize| in_url(SERVERS[i % 2]);
    let down = in_parallel(&|i| {
        let to = mine.join(i.to_string()).display().to_string();
        format!("{curl} -sSf --max-time 150 http://{}/{i} | sha256sum > {to}", server(i))
    });
    for (i, sum) in sums.iter().enumerate() {
        let said = fs::read_to_string(mine.join(i.to_string())).expect("a sum");
        assert_eq!(said.split_whitespace().next(), Some(sum.as_str()), "stream {i} down");
    }
    let up = in_parallel(&|i| {
        let file = dir.join(i.to_string()).display().to_string();
        format!("{curl} -sSf --max-time 150 -T {file} http://{}/up/{i}", server(i))
    });
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(&sha256(&dir.join("up").join(i.to_string())), sum, "stream {i} up");
    }
    println!("  8 streams, with hashing and disk: {:.2} down, {:.2} up Gb/s", down / 1e9, up / 1e9);
    let _ = fs::remove_dir_all(dir);
    Ok(())
}

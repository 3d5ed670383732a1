//! Goal: whatever bytes are in a tree, a parser does not panic, takes bounded time and memory, and never
//! says a number that the whole file does not.
//! Method: every file of `data/` cut behind every byte must give a part of what the whole gives; with
//! bytes changed at random, lines reordered, and garbage in place of it, nothing but values or notes.
//! Random numbers come from a fixed seed, which a failure names.

use std::path::{Path, PathBuf};

use linerate_host::Snapshot;
use linerate_host::collect::{Collector, Tier};
use linerate_host::proc::{
    cachestat, class_net, ethtool, interrupts, iproute, mib, netdev, packet, printed, sockstat,
    softirqs, softnet, ss, stat, sysctl, system, task,
};
use linerate_host::snapshot::Dev;
use linerate_host::source::{Dir, Source};
use serde_json::Value;

type Parser = fn(&[u8], &mut Snapshot);

const PARSERS: [(&str, Parser); 32] = [
    ("softnet_stat", softnet::softnet_stat),
    ("softirqs", softirqs::softirqs),
    ("stat", stat::stat),
    ("interrupts", interrupts::interrupts),
    ("snmp", mib::snmp),
    ("netstat", mib::netstat),
    ("snmp6", mib::snmp6),
    ("sockstat", sockstat::sockstat),
    ("sockstat6", sockstat::sockstat6),
    ("arp_cache", |bytes, into| cachestat::neigh("arp_cache", bytes, into)),
    ("nf_conntrack", cachestat::nf_conntrack),
    ("dev", netdev::dev),
    ("packet", packet::packet),
    ("ptype", packet::ptype),
    ("sctp_snmp", mib::sctp),
    ("pressure", system::pressure),
    ("uptime", system::uptime),
    ("cmdline", system::cmdline),
    ("buddyinfo", system::buddyinfo),
    ("ip_-s_-d_link", iproute::link),
    ("tc_-s_qdisc_show", iproute::qdisc),
    ("ethtool_-S", |bytes, into| ethtool::printed('S', "eth0", bytes, into)),
    ("ethtool_-g", |bytes, into| ethtool::printed('g', "eth0", bytes, into)),
    ("ethtool_-x", |bytes, into| ethtool::printed('x', "eth0", bytes, into)),
    ("ss_-peaonmi", ss::sockets),
    ("nstat_-zas", printed::nstat),
    ("netstat_-s", printed::netstat_s),
    ("ip_-s_-s_neigh_show", |bytes, into| printed::neigh(printed::NEIGH[0], bytes, into)),
    ("ps_auxwwwm", |bytes, into| printed::ps(printed::PS[0], bytes, into)),
    ("uname_-a", printed::uname),
    ("uptime_of_program", printed::uptime),
    ("task", |bytes, into| _ = task::stat(1, bytes, into)),
];

/// What is not in `data/`, as a kernel writes it.
const MORE: [(&str, &str); 6] = [
    (
        "packet",
        "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
         0000000000000000 3      3    0003   2     1 0      1000   77\n\
         0000000000000000 3      3    88cc   0     1 0      0      78\n",
    ),
    (
        "ptype",
        "Type Device      Function\n\
         ALL           tpacket_rcv\n\
         ALL  va       packet_rcv\n\
         0800          ip_rcv\n\
         0806          arp_rcv [arp]\n\
         88cc eth0     packet_rcv [af_packet]\n",
    ),
    ("sctp_snmp", "SctpCurrEstab                   \t0\nSctpChecksumErrors              \t7\n"),
    ("pressure", "some avg10=0.00 avg60=0.12 avg300=0.00 total=128735\nfull avg10=0.00 total=0\n"),
    ("uptime", "25029.77 41533.86\n"),
    (
        "task",
        "15 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 12 345 0 0 20 0 1 0 25 0 0 18446744\n",
    ),
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

/// All files that there is a parser for, with it.
fn cases() -> Vec<(String, Vec<u8>, Parser)> {
    let mut all = Vec::new();
    files(&data(), &mut all);
    let mut cases = Vec::new();
    for path in all.iter().filter(|path| !path.to_string_lossy().contains("/sys/")) {
        let last = path.file_name().expect("a file").to_string_lossy().into_owned();
        // `softirqs3` is another reading of `softirqs`; `snmp6` is a name of its own.
        let known = PARSERS.iter().find(|(name, _)| last == *name);
        let known = known.or_else(|| PARSERS.iter().find(|(name, _)| last.starts_with(name)));
        if let Some((_, parser)) = known {
            cases.push((
                path.display().to_string(),
                std::fs::read(path).expect("readable"),
                *parser,
            ));
        }
    }
    for (name, text) in MORE {
        let (_, parser) = PARSERS.iter().find(|(n, _)| *n == name).expect("it has a parser");
        cases.push((name.to_owned(), text.as_bytes().to_vec(), *parser));
    }
    assert!(cases.len() > 40, "{}", cases.len());
    cases
}

fn parse(bytes: &[u8], parser: Parser) -> Snapshot {
    let mut into = Snapshot::default();
    into.devs.insert("eth0".into(), Dev { ifindex: 2, ..Dev::named("eth0") });
    // Of no file in `data/` is another number of processors asked for: those are known from elsewhere.
    into.host.cpus = Vec::new();
    parser(bytes, &mut into);
    into
}

/// Whether all that is in `part` is in `whole` as well, and the same.
fn within(part: &Value, whole: &Value, at: &str) -> Result<(), String> {
    match (part, whole) {
        (Value::Null, _) => Ok(()),
        (Value::Object(part), Value::Object(whole)) => {
            for (name, value) in part.iter().filter(|(name, _)| *name != "notes") {
                let at = format!("{at}.{name}");
                within(value, whole.get(name).unwrap_or(&Value::Null), &at)?;
            }
            Ok(())
        }
        (Value::Array(part), Value::Array(whole)) if part.len() <= whole.len() => {
            part.iter().zip(whole).try_for_each(|(part, whole)| within(part, whole, at))
        }
        (Value::Array(part), _) if part.is_empty() => Ok(()),
        (Value::String(part), _) if part.is_empty() => Ok(()),
        (Value::Number(part), _) if at == ".host.uptime_s" && part.as_f64() == Some(0.0) => Ok(()),
        _ if part == whole => Ok(()),
        _ => Err(format!("{at} is {part}, but {whole} in the whole")),
    }
}

#[test]
fn a_file_that_was_cut_says_nothing_else_than_the_whole() {
    for (name, bytes, parser) in cases() {
        let rows = bytes.iter().filter(|b| **b == b'\n').count();
        // Of these, each line is of a processor, and their sum is of all.
        let summed = name.contains("/stat/");
        // A number or a word that is all of a file may be shorter and none the worse for it.
        let loose = ["uptime", "cmdline", "hostname", "uname_-a", "ps_auxwwwm"]
            .iter()
            .any(|n| name.ends_with(n));
        // These count, and of a file that ends with a line nobody can say that more should follow.
        let counts = ["ss_-peaonmi", "neigh_show"].iter().any(|n| name.ends_with(n));
        let read = |bytes: &[u8]| {
            let mut into = parse(b"", parser);
            into.notes.clear();
            if summed {
                into.host.cpus = (0..rows as u32 - 1).collect();
            }
            parser(bytes, &mut into);
            serde_json::to_value(&into).expect("it is plain data")
        };
        let whole = read(&bytes);
        // Each cut of a small file, and of a large one some of them.
        let step = (bytes.len() / 600).max(1);
        for cut in (0..bytes.len()).step_by(step) {
            let part = read(&bytes[..cut]);
            if counts && bytes[..cut].ends_with(b"\n") {
                continue;
            }
            if !loose && let Err(why) = within(&part, &whole, "") {
                panic!("{name} cut at {cut}: {why}");
            }
        }
    }
}

/// The same numbers each time (xorshift).
struct Random(u64);

fn seeded(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        // What parsers look for is more likely than the rest.
        const LIKELY: &[u8] = b" \t\n:-,0123456789afFxX()|/.\0\xff";
        match self.below(3) {
            0 => self.below(256) as u8,
            _ => LIKELY[self.below(LIKELY.len())],
        }
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = self.byte(),
                1 => bytes.insert(at, self.byte()),
                2 if !bytes.is_empty() => _ = bytes.remove(at),
                3 => {
                    let to = (at + self.below(64)).min(bytes.len());
                    _ = bytes.drain(at..to);
                }
                _ => {
                    let to = (at + self.below(64)).min(bytes.len());
                    let copy = bytes[at..to].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
        }
    }
}

/// Nothing in it is more than what bytes of this length can say.
fn is_bounded(s: &Snapshot, length: usize) {
    assert!(s.notes.len() <= 64, "{} notes", s.notes.len());
    assert!(s.notes.iter().all(|n| n.what.len() < 200 && n.why.len() < 400), "{:?}", s.notes);
    for count in [s.devs.len(), s.mib.len(), s.irqs.len(), s.sockstat.len(), s.sockets.taps.len()] {
        assert!(count <= length / 2 + 1);
    }
}

#[test]
fn spoilt_bytes_are_values_or_notes() {
    for seed in 1..=6 {
        for (name, bytes, parser) in cases() {
            let mut random = seeded(seed);
            for turn in 0..25 {
                let mut spoilt = bytes.clone();
                random.spoil(&mut spoilt);
                let result = std::panic::catch_unwind(|| parse(&spoilt, parser));
                let s = result.unwrap_or_else(|_| panic!("{name}: seed {seed}, turn {turn}"));
                is_bounded(&s, spoilt.len());
            }
        }
    }
}

#[test]
fn any_bytes_go_to_any_parser() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut heaps: Vec<Vec<u8>> = vec![vec![0; 4096], vec![0xff; 4096], vec![b'\n'; 4096], vec![]];
    heaps.push(b"CPU0 ".repeat(100_000));
    heaps.push(b"a: b\na: 1\n".repeat(50_000));
    heaps.push(
        [b"Ip:".to_vec(), b" a".repeat(200_000), b"\nIp:".to_vec(), b" 1".repeat(200_000)].concat(),
    );
    heaps.push([b"9".repeat(1 << 20), b"\n".to_vec()].concat());
    heaps.push((0..2000).map(|i| format!("Ip6N{i} {i}\n")).collect::<String>().into_bytes());
    for _ in 0..60 {
        let length = random.below(2000);
        heaps.push((0..length).map(|_| random.byte()).collect());
    }
    for (name, parser) in PARSERS {
        for heap in &heaps {
            let s = parse(heap, parser);
            is_bounded(&s, heap.len());
            assert!(s.mib.values().all(|c| c.len() <= 1024), "{name}");
        }
    }
    for heap in &heaps {
        let mut s = parse(b"", system::uptime);
        for file in class_net::ATTRS.iter().chain(class_net::SETTINGS).chain(&["master/ifindex"]) {
            class_net::attr("eth0", file, heap, &mut s);
        }
        for file in class_net::STATISTICS {
            class_net::statistic("eth0", file, heap, &mut s);
        }
        for file in
            ["rx-0/rps_cpus", "tx-7/xps_cpus", "tx-1/byte_queue_limits/limit", "rx-1", "/", ""]
        {
            class_net::queue("eth0", file, heap, &mut s);
        }
        for file in interrupts::FILES {
            interrupts::irq(1, file, heap, &mut s);
        }
        for file in ["online", "isolated", "nohz_full"] {
            system::cpu_list(file, heap, &mut s);
        }
        system::node(0, heap, &mut s);
        system::config(heap, &mut s);
        mib::dev_snmp6("eth0", heap, &mut s);
        sysctl::sysctl("net/ipv4/tcp_rmem", heap, &mut s);
        assert!(s.host.cpus.len() <= 8192 && s.devs["eth0"].rx.len() <= 2);
    }
}

#[test]
fn lines_in_another_order_say_the_same_or_nothing() {
    let mut random = Random(0xfeed_beef_cafe_0001);
    for (name, bytes, parser) in cases() {
        let ordered = [
            "softnet_stat",
            "uptime",
            "cmdline",
            "packet",
            "ptype",
            "ip_-s",
            "tc_-s",
            "ss_-",
            "netstat_-s",
            "ps_",
            "ethtool_-x",
        ];
        if ordered.iter().any(|n| name.contains(n)) {
            // Without names, the order is all there is; sockets are a list; a line of what `ip`, `tc` and
            // `ss` printed is about the one before.
            continue;
        }
        let whole = serde_json::to_value(parse(&bytes, parser)).expect("plain data");
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        for _ in 0..5 {
            for at in (1..lines.len()).rev() {
                lines.swap(at, random.below(at + 1));
            }
            let part = serde_json::to_value(parse(&lines.concat(), parser)).expect("plain data");
            if let Err(why) = within(&part, &whole, "") {
                panic!("{name}: {why}");
            }
        }
    }
}

/// A tree in which every file is another one's, or garbage.
struct Shuffled {
    dir: Dir,
    random: Random,
}

impl Source for Shuffled {
    fn read(&mut self, name: &str) -> std::io::Result<Vec<u8>> {
        const OTHERS: [&str; 5] =
            ["proc/stat", "proc/net/snmp", "proc/interrupts", "proc/net/dev", "proc/softirqs"];
        let mut bytes = match self.random.below(4) {
            0 => self.dir.read(OTHERS[self.random.below(OTHERS.len())])?,
            1 => (0..self.random.below(300)).map(|_| self.random.byte()).collect(),
            _ => self.dir.read(name)?,
        };
        self.random.spoil(&mut bytes);
        Ok(bytes)
    }

    fn list(&mut self, dir: &str) -> std::io::Result<Vec<String>> {
        let odd = ["", "..", "a/b", "rx-", "node99999999999", "4294967296", "\u{202e}x"];
        match self.random.below(3) {
            0 => Ok(odd.iter().map(|name| (*name).to_owned()).collect()),
            _ => self.dir.list(dir),
        }
    }
}

#[test]
fn a_tree_of_the_wrong_files_is_collected() {
    for seed in 1..=30 {
        for tree in ["node_exporter", "hotsos/kubernetes", "procfs", "sos/commands"] {
            let dir = Dir::open(data().join(tree)).expect("a tree");
            let mut source = Shuffled { dir, random: seeded(seed) };
            let mut collector = Collector::new(Tier::Full);
            for _ in 0..2 {
                let s = collector.collect(&mut source);
                assert!(s.notes.len() < 2000);
                assert!(s.host.uptime_s.is_finite() && s.host.uptime_s >= 0.0, "seed {seed}");
                assert!(serde_json::to_string(&s).is_ok());
            }
        }
    }
}

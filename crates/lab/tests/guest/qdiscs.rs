//! The kernel's own queueing disciplines and ours side by side: the same pings, the same parameters, what
//! each lets through, how late, and what it counts.
//!
//! Method: two veth pairs in the guest. Behind one the kernel of another namespace answers pings, through
//! its discipline; behind the other `linerate up` does, through ours. Both are asked at the same time.
//! An emulated machine on a busy host is late at times, so that cases that do not agree are asked again,
//! a few times; what is not agreed upon then is a difference.

use super::qemu::{Guest, part, parts};

/// How often a case may be asked.
const ROUNDS: usize = 5;

/// The pings of a case, as shell commands: `$net.2` answers, `$net.1` and `$net.3` ask.
enum Load {
    /// So many at once, with so many bytes of payload (42 less than on the wire); seconds to wait for
    /// the last.
    Burst(usize, usize, usize),
    /// So many, one every three milliseconds, with so many bytes of payload.
    Spread(usize, usize),
    /// A ping of another address and another type of service, beside a burst of forty.
    Beside,
}

impl Load {
    fn command(&self) -> String {
        match self {
            Load::Burst(n, len, secs) => {
                format!("ping -q -l {n} -c {n} -s {len} -W {secs} $net.2")
            }
            Load::Spread(n, len) => format!("ping -q -c {n} -i 0.003 -s {len} -W 1 $net.2"),
            Load::Beside => "ping -q -l 40 -c 40 -s 958 -Q 8 -I $net.1 -W 8 $net.2 > /dev/null & \
                             beside=$!; sleep 0.5; ping -q -c 1 -Q 16 -I $net.3 -W 8 $net.2; \
                             kill $beside"
                .to_owned(),
        }
    }
}

/// What came out.
#[derive(Debug, Default)]
struct Got {
    sent: usize,
    received: usize,
    twice: usize,
    /// Round trips in milliseconds: the shortest, the longest.
    rtt: (f64, f64),
    /// Of the discipline at the root, and of those below it: packets, dropped, overlimits, requeues.
    counts: Vec<[u64; 4]>,
}

impl Got {
    fn read(text: &str) -> Got {
        let mut got = Got::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', ',', '(', ')']).collect();
            let before = |what: &str| {
                let at = words.iter().position(|w| *w == what)?;
                words[..at].iter().rev().find_map(|w| w.trim_start_matches('+').parse().ok())
            };
            if line.contains(" packets transmitted") {
                got.sent = before("packets").unwrap_or(0);
                got.received = before("received").unwrap_or(0);
                got.twice = before("duplicates").unwrap_or(0);
            } else if let Some((_, times)) = line.split_once("rtt min/avg/max/mdev = ") {
                let of = |n| times.split(['/', ' ']).nth(n).and_then(|t| t.parse().ok());
                got.rtt = (of(0).unwrap_or(0.0), of(2).unwrap_or(0.0));
            } else if line.starts_with(" Sent ") {
                let after = |what: &str| {
                    let at = words.iter().position(|w| *w == what).unwrap_or(0);
                    words[at + 1..].iter().find_map(|w| w.parse().ok()).unwrap_or(0)
                };
                let packets = before("pkt").unwrap_or(0) as u64;
                got.counts.push([
                    packets,
                    after("dropped"),
                    after("overlimits"),
                    after("requeues"),
                ]);
            }
        }
        got
    }
    fn root(&self) -> [u64; 4] {
        self.counts.first().copied().unwrap_or_default()
    }
}

/// What is to agree, with its tolerance; the figure that is told.
enum Agree {
    /// Packets that get through, from so many to so many. Ours takes what one poll of the ring brought
    /// in before it sends the first, so that the bucket is not there for a burst that comes in one poll.
    Through(usize, usize),
    /// The longest round trip in milliseconds, by a share; and each is near this.
    Longest(f64, f64),
    /// The shortest one less what it is without a discipline, which may be late: the kernel's by a
    /// millisecond, ours, which an emulated processor has to wake, by five.
    Delay(f64),
    /// The share that is lost, comes twice or is put in front is this, within five binomial deviations
    /// times a factor for what depends on what was before.
    Share(fn(&Got) -> usize, f64, f64),
    /// What the innermost discipline drops, by a share.
    Drops(f64),
    /// The round trip of the ping beside the burst: short, or as long as the burst takes.
    Short(bool),
}

struct Case {
    spec: &'static str,
    load: Load,
    agree: Agree,
    /// The kernel's discipline stands at the side that asks: of its answers it does not read the type of
    /// service.
    asking: bool,
}

const fn case(spec: &'static str, load: Load, agree: Agree) -> Case {
    Case { spec, load, agree, asking: false }
}

fn lost(got: &Got) -> usize {
    got.sent - got.received
}
fn twice(got: &Got) -> usize {
    got.twice
}
fn in_front(got: &Got) -> usize {
    got.root()[3] as usize
}

/// Packets of the cases of chance.
const MANY: usize = 400;

fn cases() -> Vec<Case> {
    use Agree::{Delay, Drops, Longest, Share, Short, Through};
    use Load::{Beside, Burst, Spread};
    let slow = |below| {
        let spec: &str = match below {
            "pfifo" => {
                "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 pfifo limit 100"
            }
            "sfq" => "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 sfq",
            "fq_codel" => "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 fq_codel",
            "fq" => "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 fq",
            "prio" => "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 prio",
            _ => "handle 1: tbf rate 80kbit burst 2kb limit 100kb; parent 1:1 pfifo_fast",
        };
        case(spec, Beside, Short(below != "pfifo"))
    };
    let asking = |case| Case { asking: true, ..case };
    vec![
        // A bucket of five packets and a queue of twenty.
        case("tbf rate 400kbit burst 5kb limit 20kb", Burst(60, 958, 3), Through(19, 28)),
        case("tbf rate 400kbit burst 5kb limit 20kb", Burst(60, 958, 3), Longest(370.0, 0.35)),
        case(
            "handle 1: tbf rate 400kbit burst 5kb limit 100kb; parent 1:1 pfifo limit 10",
            Burst(60, 958, 3),
            Through(9, 18),
        ),
        case(
            "handle 1: tbf rate 400kbit burst 5kb limit 100kb; parent 1:1 bfifo limit 15kb",
            Burst(60, 958, 3),
            Through(14, 23),
        ),
        case("fq maxrate 400kbit", Burst(40, 958, 3), Longest(780.0, 0.15)),
        case("netem limit 20 delay 700ms", Burst(60, 958, 3), Through(20, 20)),
        case("netem rate 400kbit", Burst(30, 958, 3), Longest(600.0, 0.1)),
        case("netem delay 20ms", Spread(100, 56), Delay(20.0)),
        case("netem delay 20ms rate 1mbit", Spread(30, 56), Delay(20.8)),
        case("netem loss 20%", Spread(MANY, 56), Share(lost, 0.2, 1.0)),
        case("netem loss gemodel 10% 40%", Spread(MANY, 56), Share(lost, 0.2, 1.8)),
        case("netem loss state 10% 40%", Spread(MANY, 56), Share(lost, 0.2, 1.8)),
        case("netem duplicate 15%", Spread(MANY, 56), Share(twice, 0.15, 1.0)),
        // Of the damage that ping can not see some is in the link's header.
        case("netem corrupt 20%", Spread(MANY, 8), Share(lost, 0.14, 1.3)),
        case("netem delay 10ms reorder 25%", Spread(MANY, 56), Share(in_front, 0.25, 1.0)),
        case(
            "handle 1: tbf rate 80kbit burst 2kb limit 1mb; parent 1:1 codel",
            Burst(150, 58, 5),
            Drops(0.25),
        ),
        case(
            "handle 1: tbf rate 80kbit burst 2kb limit 1mb; parent 1:1 fq_codel",
            Burst(150, 58, 5),
            Drops(0.25),
        ),
        slow("pfifo"),
        slow("sfq"),
        slow("fq_codel"),
        slow("fq"),
        asking(slow("prio")),
        asking(slow("pfifo_fast")),
    ]
}

impl Case {
    /// The commands that ask both, and print what came out.
    fn script(&self, n: usize) -> String {
        let (ns, dev) = if self.asking { ("", "va") } else { ("-n far", "vb") };
        let mut out = String::new();
        for (i, piece) in self.spec.split(';').enumerate() {
            let root = if i == 0 { "root " } else { "" };
            out += &format!("tc {ns} qdisc add dev {dev} {root}{}\n", piece.trim());
        }
        let load = self.load.command();
        out += &format!(
            "linerate set --name t 'qdisc.vd.root={}' > /dev/null\n\
             (net=10.0.0; {load}) > /tmp/kernel 2>&1 &\nkernel=$!\n\
             (net=10.1.0; {load}) > /tmp/ours 2>&1 &\nours=$!\nwait $kernel $ours\n\
             echo '## kernel-{n}'; cat /tmp/kernel; tc {ns} -s qdisc show dev {dev}\n\
             echo '## ours-{n}'; cat /tmp/ours; linerate show --name t qdisc\n\
             tc {ns} qdisc del dev {dev} root\n",
            self.spec
        );
        out
    }

    /// What both said, in words for the table; and whether they agree.
    fn judge(&self, kernel: &Got, ours: &Got, bare: [f64; 2]) -> (bool, [String; 2]) {
        let both = [kernel, ours];
        let near = |a: f64, b: f64, by: f64| (a - b).abs() <= by;
        match self.agree {
            Agree::Through(least, most) => {
                let good = both.iter().all(|g| (least..=most).contains(&g.received))
                    && both.iter().all(|g| g.root()[0] as usize >= g.received);
                (good, both.map(|g| format!("{} of {}", g.received, g.sent)))
            }
            Agree::Longest(want, by) => {
                let good = both.iter().all(|g| near(g.rtt.1, want, want * by));
                (good, both.map(|g| format!("{:.0} ms", g.rtt.1)))
            }
            Agree::Delay(want) => {
                let least = [kernel.rtt.0 - bare[0], ours.rtt.0 - bare[1]];
                let good = both.iter().all(|g| g.rtt.0 >= want)
                    && least[0] < want + 1.0
                    && least[1] < want + 5.0;
                (good, least.map(|l| format!("{l:.2} ms")))
            }
            Agree::Share(of, p, factor) => {
                let deviation = factor * (MANY as f64 * p * (1.0 - p)).sqrt();
                let fair = |g: &&Got| near(of(g) as f64, MANY as f64 * p, 5.0 * deviation);
                (both.iter().all(fair), both.map(|g| format!("{} of {}", of(g), g.sent)))
            }
            Agree::Drops(by) => {
                let drops = both.map(|g| g.counts.last().map_or(0, |c| c[1]) as f64);
                let good = drops[0] > 0.0 && near(drops[0], drops[1], drops[0] * by);
                (good, [0, 1].map(|i| format!("{:.0} of {}", drops[i], both[i].sent)))
            }
            Agree::Short(short) => {
                let good = both.iter().all(|g| g.received == 1 && (g.rtt.0 < 1800.0) == short);
                (good, both.map(|g| format!("{:.0} ms", g.rtt.0)))
            }
        }
    }

    fn what(&self) -> String {
        match self.agree {
            Agree::Through(least, most) if least == most => format!("packets through ({most})"),
            Agree::Through(least, most) => format!("packets through ({least} to {most})"),
            Agree::Longest(want, by) => {
                format!("the last one's round trip ({want:.0} ms ± {:.0} %)", by * 100.0)
            }
            Agree::Delay(want) => format!("delay, the best (from {want} ms)"),
            Agree::Share(_, p, factor) => {
                let by = 500.0 * factor * (p * (1.0 - p) / MANY as f64).sqrt();
                format!("share ({:.0} % ± {by:.0})", p * 100.0)
            }
            Agree::Drops(by) => format!("drops (each other's ± {:.0} %)", by * 100.0),
            Agree::Short(true) => "a ping beside a burst of 4 s (short)".to_owned(),
            Agree::Short(false) => "a ping beside a burst of 4 s (long)".to_owned(),
        }
    }
}

/// Two pairs, and linerate behind the second.
const SIDES: &str = "\
ip() { /bin/ip \"$@\"; }
tc() { /bin/tc \"$@\"; }
ping() { /bin/ping \"$@\"; }
mkdir -p /run/netns
ip netns add far
ip netns add our
ip link add va type veth peer name vb netns far
ip link add vc type veth peer name vd netns our
for n in 1 3; do ip addr add 10.0.0.$n/24 dev va; ip addr add 10.1.0.$n/24 dev vc; done
ip link set va up
ip link set vc up
ip -n far addr add 10.0.0.2/24 dev vb
ip -n far link set vb up
ip -n our link set lo up
ip -n our link set vd up
ip netns exec our linerate up --name t --dev vd --backend af_packet --addr 10.1.0.2/24 --serve echo > /dev/null 2>&1 &
for i in $(seq 60); do ping -c 1 -W 1 10.1.0.2 > /dev/null 2>&1 && break; done
for net in 10.0.0 10.1.0; do for n in 1 3; do ping -c 1 -W 60 -I $net.$n $net.2 > /dev/null; done; done
echo '## uname'; uname -r
echo '## bare-kernel'; ping -q -c 50 -i 0.02 10.0.0.2
echo '## bare-ours'; ping -q -c 50 -i 0.02 10.1.0.2
";

const MODULES: [&str; 8] =
    ["veth", "sch_tbf", "sch_netem", "sch_codel", "sch_fq_codel", "sch_fq", "sch_sfq", "sch_prio"];

#[test]
fn disciplines_do_what_the_kernels_own_do() {
    let Some(parts) = parts("disciplines_do_what_the_kernels_own_do") else { return };
    let guest =
        Guest { name: "sched", devices: &[], drivers: &MODULES, tools: &["ip", "tc", "ping"] };
    let cases = cases();
    let mut left: Vec<usize> = (0..cases.len()).collect();
    let mut table = vec![String::new(); cases.len()];
    let mut kernel = String::new();
    for _ in 0..ROUNDS {
        let asked: String = left.iter().map(|n| cases[*n].script(*n)).collect();
        let printed = parts.run(&guest, &format!("{SIDES}{asked}echo '## end'\n"));
        kernel = part(&printed, "uname").trim().to_owned();
        let bare = ["bare-kernel", "bare-ours"].map(|name| Got::read(part(&printed, name)).rtt.0);
        left.retain(|n| {
            let got =
                ["kernel", "ours"].map(|who| Got::read(part(&printed, &format!("{who}-{n}"))));
            let (good, [kernels, ours]) = cases[*n].judge(&got[0], &got[1], bare);
            let (spec, what) = (cases[*n].spec, cases[*n].what());
            table[*n] = format!("| `{spec}` | {what} | {kernels} | {ours} |");
            if !good {
                eprintln!("asked again: {}\n{:?}\n{:?}", table[*n], got[0], got[1]);
            }
            !good
        });
        if left.is_empty() {
            break;
        }
    }
    // What docs/QDISC.md shows of one run.
    println!("Linux {kernel}\n{}", table.join("\n"));
    let wrong: Vec<&str> = left.iter().map(|n| table[*n].as_str()).collect();
    assert!(wrong.is_empty(), "the kernel and we differ:\n{}", wrong.join("\n"));
}

/// What tc is told and what it then prints is what `linerate set` is told and `linerate show qdisc` prints:
/// kind, place, parameters with their defaults, names of counts. Not so fq, which has more parameters in the
/// kernel, and what codel and fq count beside.
#[test]
fn disciplines_are_shown_as_tc_shows_the_kernels() {
    const SPECS: [&str; 21] = [
        "pfifo limit 77",
        "pfifo",
        "bfifo limit 77k",
        "tbf rate 1mbit burst 10kb latency 70ms",
        "tbf rate 1500kbit burst 5kb limit 20kb peakrate 3mbit mtu 2kb",
        "tbf rate 10mbit burst 32kb limit 100kb mpu 64b overhead 4",
        "prio",
        "prio bands 4 priomap 1 2 2 2 1 2 0 0 3 3 3 3 3 3 3 3",
        "sfq",
        "sfq limit 60 quantum 3000 perturb 10",
        "codel",
        "codel limit 500 target 10ms interval 200ms ecn",
        "fq_codel",
        "fq_codel limit 2000 flows 256 target 3ms interval 50ms quantum 300 noecn memory_limit 4mb",
        "fq_codel ce_threshold 2ms drop_batch 32",
        "netem delay 40ms 5ms 25%",
        "netem limit 50 delay 40ms 5ms loss 1.5% 25% duplicate 2% corrupt 0.1%",
        "netem loss gemodel 4% 16% 50% 1%",
        "netem loss state 4% 16% 1% 60% 0.5%",
        "netem delay 10ms reorder 25% 50% gap 5",
        "netem rate 1500kbit 20 48 5 delay 1500us",
    ];
    let Some(parts) = parts("disciplines_are_shown_as_tc_shows_the_kernels") else { return };
    let mut script = SIDES.to_owned();
    for (n, spec) in SPECS.iter().enumerate() {
        script += &format!(
            "tc -n our qdisc replace dev vd root handle 1: {spec}\n\
             echo '## kernel-{n}'; tc -n our -s qdisc show dev vd\n\
             tc -n our qdisc del dev vd root\n\
             linerate set --name t 'qdisc.vd.root=handle 1: {spec}' > /dev/null\n\
             echo '## ours-{n}'; linerate show --name t qdisc\n"
        );
    }
    let guest =
        Guest { name: "words", devices: &[], drivers: &MODULES, tools: &["ip", "tc", "ping"] };
    let printed = parts.run(&guest, &format!("{script}echo '## end'\n"));
    let mut wrong = Vec::new();
    for (n, spec) in SPECS.iter().enumerate() {
        // The kernel's tc leaves the device out where one was named, and tells users of the discipline.
        let shape = |text: &str| -> Vec<String> {
            let lines = text.lines().map(|line| {
                let mut words: Vec<&str> = line.split_whitespace().collect();
                if let Some(at) = words.iter().position(|w| *w == "refcnt") {
                    words.drain(at..at + 2);
                }
                if let Some(at) = words.iter().position(|w| *w == "dev") {
                    words.drain(at..at + 2);
                }
                if words.first() == Some(&"qdisc") {
                    return words.join(" ");
                }
                // What was counted differs; what it is called does not.
                let names =
                    words.iter().filter(|w| w.starts_with(|c: char| c.is_alphabetic() || c == '('));
                names.copied().collect::<Vec<_>>().join(" ")
            });
            let told =
                |l: &String| ["qdisc ", "Sent ", "backlog "].iter().any(|w| l.starts_with(w));
            lines.filter(told).collect()
        };
        let kernel = shape(part(&printed, &format!("kernel-{n}")));
        let ours = shape(part(&printed, &format!("ours-{n}")));
        if kernel != ours {
            wrong.push(format!("{spec}\n  {}\n  {}", kernel.join("\n  "), ours.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "tc's lines, then ours, differ:\n{}", wrong.join("\n"));
}

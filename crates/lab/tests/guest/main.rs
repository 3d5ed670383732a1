//! Another kernel with real drivers, in an emulated machine: what veth refuses (rings, coalescing,
//! channels, RSS, interrupts, driver statistics), and an older kernel than the one that runs here.
#![forbid(unsafe_code)]

#[path = "../../../dev/tests/again/mod.rs"]
mod again;
mod cards;
mod initramfs;
mod layers;
mod qdiscs;
mod qemu;

use qemu::{Guest, part, parts};

const E1000E: [&str; 4] =
    ["-netdev", "user,id=n0", "-device", "e1000e,netdev=n0,mac=52:54:00:00:00:01"];
const VMXNET3: [&str; 4] =
    ["-netdev", "user,id=n0", "-device", "vmxnet3,netdev=n0,mac=52:54:00:00:00:01"];

/// Settings of a card that veth has not: found, changed as advised, measured, and put back, as ethtool
/// sees it.
#[test]
fn coalescing_of_a_card_is_found_tuned_and_put_back() {
    let Some(parts) = parts("coalescing_of_a_card_is_found_tuned_and_put_back") else { return };
    let script = "\
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
sleep 2
ethtool -C eth0 rx-usecs 100
echo '## uname'; uname -r
echo '## before'; ethtool -c eth0 | grep '^rx-usecs:'
ping -c 60 -i 0.1 10.0.2.2 > /dev/null &
echo '## doctor'; linerate doctor --goal latency --for 3s --json 2> /dev/null; echo \"exit $?\"
echo '## plan'; linerate tune plan R13 --goal latency --for 2s 2> /dev/null
echo '## apply'; linerate tune apply R13 --goal latency --for 2s --keep-within 60s --yes-flap 2> /dev/null
echo '## applied'; ethtool -c eth0 | grep '^rx-usecs:'
echo '## list'; linerate tune list
echo '## verify'; linerate tune verify --goal latency --for 2s 2> /dev/null
echo '## rollback'; linerate tune rollback; echo \"exit $?\"
echo '## after'; ethtool -c eth0 | grep '^rx-usecs:'
";
    let guest = Guest { name: "coalesce", devices: &E1000E, drivers: &["e1000e"], tools: &[] };
    let printed = parts.run(&guest, script);
    assert!(part(&printed, "uname").starts_with("6.1."), "{printed}");
    let usecs = |name| part(&printed, name).split_whitespace().last().unwrap_or_default();
    assert_eq!(usecs("before"), "100", "{printed}");
    let doctor = part(&printed, "doctor");
    assert!(doctor.contains("\"id\": \"R13\"") && doctor.contains("eth0"), "{printed}");
    assert!(part(&printed, "plan").contains("ethtool -C eth0"), "{printed}");
    assert_eq!(usecs("applied"), "0", "{printed}");
    assert!(part(&printed, "list").contains("R13"), "{printed}");
    assert!(part(&printed, "verify").contains("R13"), "{printed}");
    assert!(part(&printed, "rollback").contains("exit 0"), "{printed}");
    assert_eq!(usecs("after"), "100", "{printed}");
}

/// A card with a table that spreads flows takes weights, and its ring takes the link down while it grows:
/// nobody keeps that, so it is undone by itself.
#[test]
fn tables_and_rings_of_a_card_are_set_by_name_and_put_back() {
    const TEST: &str = "tables_and_rings_of_a_card_are_set_by_name_and_put_back";
    let Some(parts) = parts(TEST) else { return };
    let script = "\
ip link set eth0 up
sleep 2
echo '## table-before'; ethtool -x eth0 | grep '^ *[0-9]*:'
echo '## weight'; linerate tune set ethtool -X eth0 weight 3 1; echo \"exit $?\"
echo '## table-weight'; ethtool -x eth0 | grep '^ *[0-9]*:'
echo '## weight-again'; linerate tune set ethtool -X eth0 weight 3 1; echo \"exit $?\"
echo '## rule'; linerate tune set --yes-flap ethtool -N eth0 flow-type udp4 dst-port 53 action 1 loc 5; echo \"exit $?\"
echo '## rollback'; linerate tune rollback; echo \"exit $?\"
echo '## table-after'; ethtool -x eth0 | grep '^ *[0-9]*:'
ring() { ethtool -g eth0 | grep '^RX:' | tail -n 1; }
echo '## ring-before'; ring
echo '## ring'; linerate tune set --yes-flap --keep-within 3s ethtool -G eth0 rx 512 2>&1; echo \"exit $?\"
echo '## ring-set'; ring
for i in $(seq 60); do [ -e /var/lib/linerate/tune.journal ] || break; sleep 1; done
echo '## ring-after'; ring
echo '## kept'; linerate tune set --yes-flap --keep-within 1h --persist ethtool -G eth0 rx 512 2> /dev/null
linerate tune keep
cat /etc/udev/rules.d/90-linerate.rules
linerate tune rollback
ls /etc/udev/rules.d
echo '## ring-end'; ring
";
    let guest = Guest { name: "table", devices: &VMXNET3, drivers: &["vmxnet3"], tools: &[] };
    let printed = parts.run(&guest, script);
    let part = |name: &str| part(&printed, name).trim().to_owned();
    // Queue by place, as ethtool shows it.
    let table = |name: &str| -> Vec<String> {
        let rows = part(name);
        let queues = rows.lines().flat_map(|l| l.split_whitespace().skip(1));
        queues.map(str::to_owned).collect()
    };
    let before = table("table-before");
    let share = |table: &[String]| table.iter().filter(|queue| *queue == "0").count();
    assert_eq!(
        (share(&before) * 2, table("table-after")),
        (before.len(), before.clone()),
        "{printed}"
    );
    assert!(part("weight").ends_with("exit 0"), "{printed}");
    let weighted = table("table-weight");
    assert_eq!(share(&weighted) * 4, weighted.len() * 3, "{printed}");
    assert!(part("weight-again").contains("it is so already"), "{printed}");
    assert!(part("rule").contains("not by tune") && part("rule").ends_with("exit 1"), "{printed}");
    assert!(part("rollback").ends_with("exit 0"), "{printed}");
    assert!(
        part("ring").contains("undone in 3 s") && part("ring").ends_with("exit 0"),
        "{printed}"
    );
    assert_ne!(part("ring-before"), "RX:\t\t512");
    assert_eq!(part("ring-after"), part("ring-before"), "{printed}");
    let kept = part("kept");
    assert!(kept.contains("once it is kept") && kept.contains("kept: 1"), "{printed}");
    let rule = "KERNEL==\"eth0\", RUN+=\"/usr/sbin/ethtool -G eth0 rx 512\"";
    assert!(kept.contains(rule), "{printed}");
    assert_eq!(part("ring-end"), part("ring-before"), "{printed}");
}

/// What only a card with several queues has: read as ethtool reads it, recorded, and judged from the
/// record.
#[test]
fn rings_queues_and_interrupts_of_a_card_are_read_and_recorded() {
    const TEST: &str = "rings_queues_and_interrupts_of_a_card_are_read_and_recorded";
    let Some(parts) = parts(TEST) else { return };
    let script = "\
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
sleep 2
ping -c 5 -i 0.2 10.0.2.2 > /dev/null
echo '## rings'; linerate show --host rings
echo '## ethtool-g'; ethtool -g eth0
echo '## channels'; linerate show --host channels
echo '## rss'; linerate show --host rss
echo '## irqs'; linerate show --host irqs
echo '## statistics'; linerate show --host statistics
echo '## ethtool-S'; ethtool -S eth0
echo '## record'; linerate record -o /tmp/a.lrec --for 2s --every 500ms 2>&1; echo \"exit $?\"
echo '## from'; linerate doctor --from /tmp/a.lrec 2>&1; echo \"exit $?\"
";
    let guest = Guest { name: "rings", devices: &VMXNET3, drivers: &["vmxnet3"], tools: &[] };
    let printed = parts.run(&guest, script);
    // The line of a parameter ends with its value.
    let value = |name: &str, parameter: &str| {
        let words = |l: &str| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines = part(&printed, name).lines().map(words);
        let mut of_eth0 = lines.filter(|w| w.first().is_some_and(|d| d == "eth0"));
        let found = of_eth0.find(|w| w[1..w.len() - 1].join(" ") == parameter);
        found.map(|w| w[w.len() - 1].clone()).unwrap_or_default()
    };
    let ethtool: Vec<&str> = part(&printed, "ethtool-g").split_whitespace().collect();
    let rx: Vec<&str> = ethtool.windows(2).filter(|w| w[0] == "RX:").map(|w| w[1]).collect();
    assert_eq!([value("rings", "rx-max"), value("rings", "rx")], [rx[0], rx[1]], "{printed}");
    assert_eq!(value("channels", "combined"), "2", "{printed}");
    assert!(part(&printed, "rss").contains("0:64 1:64"), "{printed}");
    let irqs = part(&printed, "irqs").lines().filter(|l| l.contains("eth0-rxtx")).count();
    assert_eq!(irqs, 2, "{printed}");
    let sent = value("statistics", "ucast pkts tx");
    let theirs = part(&printed, "ethtool-S").lines().find(|l| l.contains("ucast pkts tx:"));
    let theirs = theirs.and_then(|l| l.split_whitespace().last());
    assert!(theirs.is_some_and(|n| n.parse::<u64>().is_ok()) && !sent.is_empty(), "{printed}");
    assert!(part(&printed, "record").contains("exit 0"), "{printed}");
    assert!(part(&printed, "from").contains("exit 0"), "{printed}");
}

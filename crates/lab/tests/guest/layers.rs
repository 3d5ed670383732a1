//! What many kernels are built without, and a distribution's kernel has: VLANs, GRE, SCTP, all the
//! queueing disciplines, classifiers and actions of tc.

use super::qemu::{Guest, part, parts};

/// Two namespaces with a veth between them: 10.0.0.1 here, 10.0.0.2 in `far`. The shell would take
/// busybox's own `ip` and `tc`, which know less.
const LINK: &str = "\
ip() { /bin/ip \"$@\"; }
tc() { /bin/tc \"$@\"; }
mkdir -p /run/netns
ip netns add far
ip link add va type veth peer name vb netns far
ip addr add 10.0.0.1/24 dev va
ip link set va up
ip -n far link set lo up
ip -n far addr add 10.0.0.2/24 dev vb
ip -n far link set vb up
ping -c 1 -W 60 10.0.0.2 > /dev/null
mac=$(ip -n far -br link show vb | awk '{ print $3 }')
look() { linerate doctor --netns far --for 3s --json 2> /dev/null; }
here() { linerate doctor --for 3s --json 2> /dev/null; }
";

fn found(printed: &str, name: &str, rule: &str) -> bool {
    part(printed, name).contains(&format!("\"id\": \"{rule}\""))
}

/// A VLAN with another id at each end; filters that drop; a tunnel that leads nowhere.
#[test]
fn faults_of_vlans_tunnels_and_filters_are_named() {
    let Some(parts) = parts("faults_of_vlans_tunnels_and_filters_are_named") else { return };
    let script = format!(
        "{LINK}
ip link add link va name va.5 type vlan id 5
ip addr add 10.5.0.1/24 dev va.5
ip link set va.5 up
ip -n far link add link vb name vb.6 type vlan id 6
ip -n far addr add 10.5.0.2/24 dev vb.6
ip -n far link set vb.6 up
ip neigh add 10.5.0.2 lladdr $mac dev va.5
ping -i 0.02 10.5.0.2 > /dev/null &
echo '## vlan'; look
ip -n far link del vb.6
ip -n far link add link vb name vb.5 type vlan id 5
ip -n far addr add 10.5.0.2/24 dev vb.5
ip -n far link set vb.5 up
echo '## vlan-cured'; look
kill %1
ping -i 0.02 10.0.0.2 > /dev/null &
tc -n far qdisc add dev vb clsact
tc -n far filter add dev vb ingress pref 5 matchall action drop
echo '## drop'; look
tc -n far filter del dev vb ingress
tc -n far filter add dev vb ingress pref 6 matchall action police rate 8kbit burst 1k conform-exceed drop
echo '## police'; look
tc -n far filter del dev vb ingress
echo '## drop-cured'; look
kill %2
ip link add gre7 type gre local 10.0.0.1 remote 192.0.2.9
ip addr add 10.7.0.1/24 dev gre7
ip link set gre7 up
ping -i 0.02 10.7.0.2 > /dev/null &
echo '## gre'; here
ip route add 192.0.2.9 via 10.0.0.2
echo '## gre-cured'; here
kill %3
"
    );
    let guest = Guest {
        name: "layers",
        devices: &[],
        drivers: &[
            "veth",
            "8021q",
            "ip_gre",
            "sch_ingress",
            "sch_netem",
            "cls_matchall",
            "act_gact",
            "act_police",
        ],
        tools: &["ip", "tc"],
    };
    let printed = parts.run(&guest, &script);
    assert!(found(&printed, "vlan", "R74"), "{printed}");
    assert!(part(&printed, "vlan").contains("6 (vb.6)"), "{printed}");
    assert!(!found(&printed, "vlan-cured", "R74"), "{printed}");
    assert!(found(&printed, "drop", "R27"), "{printed}");
    assert!(part(&printed, "drop").contains("matchall of preference 5"), "{printed}");
    assert!(found(&printed, "police", "R27"), "{printed}");
    assert!(part(&printed, "police").contains("police drop"), "{printed}");
    assert!(!found(&printed, "drop-cured", "R27"), "{printed}");
    assert!(found(&printed, "gre", "R92"), "{printed}");
    assert!(!found(&printed, "gre-cured", "R92"), "{printed}");
}

/// Qdiscs that the kernel here is built without, as tc shows them; and one that loses on purpose.
#[test]
fn qdiscs_of_every_kind_are_what_tc_shows() {
    const KINDS: [&str; 12] = [
        "fq",
        "fq_codel",
        "cake",
        "codel",
        "sfq",
        "pie",
        "prio",
        "drr",
        "hfsc",
        "pfifo_fast",
        "netem limit 1000",
        "fq_pie",
    ];
    let Some(parts) = parts("qdiscs_of_every_kind_are_what_tc_shows") else { return };
    let mut script = LINK.to_owned();
    for (n, spec) in KINDS.iter().enumerate() {
        script += &format!(
            "tc qdisc replace dev va root handle {0}: {spec}\n\
             ping -c 20 -i 0.01 10.0.0.2 > /dev/null\n\
             echo '## tc-{n}'; tc -s qdisc show dev va | head -2\n\
             echo '## ours-{n}'; linerate show --host qdisc | grep '^va '\n\
             tc qdisc del dev va root\n",
            n + 1
        );
    }
    script += "\
tc qdisc add dev va root netem loss 30%
ping -i 0.01 10.0.0.2 > /dev/null &
echo '## loss'; here
tc qdisc del dev va root
echo '## loss-cured'; here
";
    let guest = Guest {
        name: "qdiscs",
        devices: &[],
        drivers: &[
            "veth",
            "sch_fq",
            "sch_fq_codel",
            "sch_cake",
            "sch_codel",
            "sch_sfq",
            "sch_pie",
            "sch_prio",
            "sch_drr",
            "sch_hfsc",
            "sch_netem",
            "sch_fq_pie",
        ],
        tools: &["ip", "tc"],
    };
    let printed = parts.run(&guest, &script);
    for (n, spec) in KINDS.iter().enumerate() {
        let kind = spec.split(' ').next().unwrap_or_default();
        let theirs = part(&printed, &format!("tc-{n}"));
        let words: Vec<&str> = theirs.split_whitespace().collect();
        assert_eq!(words.get(1), Some(&kind), "{printed}");
        // `Sent 1960 bytes 20 pkt (dropped 0, overlimits 0 requeues 0)`
        let at = words.iter().position(|w| *w == "Sent").unwrap_or_else(|| panic!("{printed}"));
        let ours = part(&printed, &format!("ours-{n}"));
        let cells: Vec<&str> = ours.lines().next().unwrap_or("").split_whitespace().collect();
        assert_eq!(cells.get(1), Some(&kind), "{printed}");
        let plain: Vec<String> = cells.iter().map(|c| c.replace([',', '\u{202f}'], "")).collect();
        for number in [words[at + 1], words[at + 3]] {
            // The guest may send a packet of its own between the two looks.
            let number: u64 = number.parse().unwrap_or_else(|_| panic!("{printed}"));
            let near = number..=number + number / 2;
            let shown = plain.iter().filter_map(|c| c.parse().ok()).any(|c: u64| near.contains(&c));
            assert!(shown, "{number} of {spec}:\n{printed}");
        }
    }
    assert!(found(&printed, "loss", "R60"), "{printed}");
    assert!(part(&printed, "loss").contains("netem drops what it was told"), "{printed}");
    assert!(!found(&printed, "loss-cured", "R60"), "{printed}");
}

/// A stream of SCTP whose packets are damaged on the way.
#[test]
fn sctp_with_damaged_packets_is_named() {
    let Some(parts) = parts("sctp_with_damaged_packets_is_named") else { return };
    // As much as it can send would leave the emulated processors no time for anything else.
    let script = format!(
        "{LINK}
ethtool -K va tx-checksum-sctp off > /dev/null 2>&1
ip netns exec far socat -u SCTP-LISTEN:7,fork OPEN:/dev/null &
sleep 2
(while :; do head -c 2000 /dev/zero; usleep 10000; done) | socat -u - SCTP-CONNECT:10.0.0.2:7 &
sleep 2
echo '## well'; look
tc qdisc add dev va root netem corrupt 10%
echo '## damaged'; look
tc qdisc del dev va root
echo '## cured'; look
echo '## snmp'; ip netns exec far cat /proc/net/sctp/snmp
"
    );
    let guest = Guest {
        name: "sctp",
        devices: &[],
        drivers: &["veth", "crc32c_generic", "sctp", "sch_netem"],
        tools: &["ip", "tc", "socat"],
    };
    let printed = parts.run(&guest, &script);
    // A receiver that can not keep up is another finding of the same rule.
    let damage = |name: &str| part(&printed, name).contains("SCTP packets have wrong checksums");
    assert!(found(&printed, "damaged", "R78"), "{printed}");
    assert_eq!(["well", "damaged", "cured"].map(damage), [false, true, false], "{printed}");
}

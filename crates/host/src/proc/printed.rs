//! What small programs printed, as a `sosreport` keeps it: `nstat`, `netstat -s`, `ip neigh`, `ps`,
//! `uname`, `uptime`, `hostname`. Only for archives that lack the files these were made of.

use std::collections::BTreeMap;

use super::{lines, shown, task, value};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// The output of `nstat -zas`.
pub const NSTAT: &str = "sos_commands/networking/nstat_-zas";
/// The output of `netstat -s`.
pub const NETSTAT: &str = "sos_commands/networking/netstat_-s";
/// The output of `ip -s -s neigh show`, or of another form of it.
pub const NEIGH: [&str; 2] = [
    "sos_commands/networking/ip_-s_-s_neigh_show",
    "sos_commands/networking/ip_neigh_show_nud_noarp",
];
/// The output of forms of `ps`.
pub const PS: [&str; 4] = [
    "sos_commands/process/ps_auxwwwm",
    "sos_commands/process/ps_auxwww",
    "sos_commands/process/ps_alxwww",
    "ps",
];
/// The output of `uname -a`.
pub const UNAME: [&str; 2] = ["sos_commands/kernel/uname_-a", "uname"];
/// The output of `uptime`.
pub const UPTIME: [&str; 3] = ["sos_commands/host/uptime", "sos_commands/general/uptime", "uptime"];
/// The output of `hostname`.
pub const HOSTNAME: [&str; 3] =
    ["sos_commands/host/hostname", "sos_commands/general/hostname", "hostname"];

/// Lines of one output that are read.
const LINES_MAX: usize = 1 << 16;
/// Counters of one section.
const NAMES_MAX: usize = 1024;

/// Sections of the MIB, the longer before those that they begin with.
const SECTIONS: [&str; 14] = [
    "MPTcpExt", "TcpExt", "UdpLite6", "UdpLite", "Udp6", "IcmpMsg", "Icmp6", "IpExt", "Icmp",
    "Ip6", "Tcp", "Udp", "Sctp", "Ip",
];

/// Fills [`Snapshot::mib`] from [`NSTAT`]: `TcpExtListenDrops  24  0.0`.
pub fn nstat(bytes: &[u8], into: &mut Snapshot) {
    let rows: Vec<_> = lines(bytes, NSTAT, into).take(LINES_MAX).collect();
    let mut sections: BTreeMap<&str, Counters> = BTreeMap::new();
    for (n, line) in rows {
        // The first says since when (`#kernel`), or who else asks.
        if line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(number)) = (words.next(), words.next()) else { continue };
        let section = SECTIONS.iter().find(|s| name.starts_with(**s));
        let (Some(section), Ok(number)) = (section, number.parse::<u64>()) else {
            into.note(NSTAT, format!("line {n} is not a counter: {}", shown(line)));
            continue;
        };
        // Its counters of this section begin here.
        let of = sections.entry(section).or_insert_with(|| Counters::new(format!("{NSTAT}:{n}")));
        if of.len() < NAMES_MAX {
            of.set(&name[section.len()..], number);
        }
    }
    into.mib.extend(sections.into_iter().map(|(name, c)| (name.to_owned(), c)));
}

/// Sentences of `netstat -s`, the number taken out, and the kernel's names. What it has no sentence for
/// it prints as `Name: number`.
const SENTENCES: &[(&str, &str, &str)] = &[
    ("Ip", "total packets received", "InReceives"),
    ("Ip", "with invalid headers", "InHdrErrors"),
    ("Ip", "with invalid addresses", "InAddrErrors"),
    ("Ip", "forwarded", "ForwDatagrams"),
    ("Ip", "with unknown protocol", "InUnknownProtos"),
    ("Ip", "incoming packets discarded", "InDiscards"),
    ("Ip", "incoming packets delivered", "InDelivers"),
    ("Ip", "requests sent out", "OutRequests"),
    ("Ip", "outgoing packets dropped", "OutDiscards"),
    ("Ip", "dropped because of missing route", "OutNoRoutes"),
    ("Ip", "fragments dropped after timeout", "ReasmTimeout"),
    ("Ip", "reassemblies required", "ReasmReqds"),
    ("Ip", "packets reassembled ok", "ReasmOKs"),
    ("Ip", "packet reassemblies failed", "ReasmFails"),
    ("Ip", "packet reassembles failed", "ReasmFails"),
    ("Ip", "fragments received ok", "FragOKs"),
    ("Ip", "fragments failed", "FragFails"),
    ("Ip", "fragments created", "FragCreates"),
    ("Icmp", "ICMP messages received", "InMsgs"),
    ("Icmp", "input ICMP message failed", "InErrors"),
    ("Icmp", "input ICMP message failed.", "InErrors"),
    ("Icmp", "ICMP messages sent", "OutMsgs"),
    ("Icmp", "ICMP messages failed", "OutErrors"),
    ("Tcp", "active connection openings", "ActiveOpens"),
    ("Tcp", "active connections openings", "ActiveOpens"),
    ("Tcp", "passive connection openings", "PassiveOpens"),
    ("Tcp", "failed connection attempts", "AttemptFails"),
    ("Tcp", "connection resets received", "EstabResets"),
    ("Tcp", "connections established", "CurrEstab"),
    ("Tcp", "segments received", "InSegs"),
    ("Tcp", "segments sent out", "OutSegs"),
    ("Tcp", "segments send out", "OutSegs"),
    ("Tcp", "segments retransmitted", "RetransSegs"),
    ("Tcp", "segments retransmited", "RetransSegs"),
    ("Tcp", "bad segments received", "InErrs"),
    ("Tcp", "bad segments received.", "InErrs"),
    ("Tcp", "resets sent", "OutRsts"),
    ("Udp", "packets received", "InDatagrams"),
    ("Udp", "packets to unknown port received", "NoPorts"),
    ("Udp", "packets to unknown port received.", "NoPorts"),
    ("Udp", "packet receive errors", "InErrors"),
    ("Udp", "packets sent", "OutDatagrams"),
    ("Udp", "receive buffer errors", "RcvbufErrors"),
    ("Udp", "send buffer errors", "SndbufErrors"),
    ("TcpExt", "SYN cookies sent", "SyncookiesSent"),
    ("TcpExt", "SYN cookies received", "SyncookiesRecv"),
    ("TcpExt", "invalid SYN cookies received", "SyncookiesFailed"),
    ("TcpExt", "resets received for embryonic SYN_RECV sockets", "EmbryonicRsts"),
    ("TcpExt", "packets pruned from receive queue because of socket buffer overrun", "PruneCalled"),
    ("TcpExt", "packets pruned from receive queue", "RcvPruned"),
    (
        "TcpExt",
        "packets dropped from out-of-order queue because of socket buffer overrun",
        "OfoPruned",
    ),
    ("TcpExt", "TCP sockets finished time wait in fast timer", "TW"),
    ("TcpExt", "time wait sockets recycled by time stamp", "TWRecycled"),
    ("TcpExt", "packets rejected in established connections because of timestamp", "PAWSEstab"),
    ("TcpExt", "delayed acks sent", "DelayedACKs"),
    ("TcpExt", "delayed acks further delayed because of locked socket", "DelayedACKLocked"),
    ("TcpExt", "Quick ack mode was activated times", "DelayedACKLost"),
    ("TcpExt", "times the listen queue of a socket overflowed", "ListenOverflows"),
    ("TcpExt", "SYNs to LISTEN sockets dropped", "ListenDrops"),
    ("TcpExt", "SYNs to LISTEN sockets ignored", "ListenDrops"),
    ("TcpExt", "packet headers predicted", "TCPHPHits"),
    ("TcpExt", "acknowledgments not containing data payload received", "TCPPureAcks"),
    ("TcpExt", "predicted acknowledgments", "TCPHPAcks"),
    ("TcpExt", "times recovered from packet loss due to fast retransmit", "TCPRenoRecovery"),
    ("TcpExt", "times recovered from packet loss by selective acknowledgements", "TCPSackRecovery"),
    ("TcpExt", "congestion windows fully recovered without slow start", "TCPFullUndo"),
    ("TcpExt", "congestion windows partially recovered using Hoe heuristic", "TCPPartialUndo"),
    ("TcpExt", "congestion windows recovered without slow start by DSACK", "TCPDSACKUndo"),
    ("TcpExt", "congestion windows recovered without slow start after partial ack", "TCPLossUndo"),
    ("TcpExt", "timeouts after SACK recovery", "TCPSackFailures"),
    ("TcpExt", "timeouts in loss state", "TCPLossFailures"),
    ("TcpExt", "fast retransmits", "TCPFastRetrans"),
    ("TcpExt", "retransmits in slow start", "TCPSlowStartRetrans"),
    ("TcpExt", "other TCP timeouts", "TCPTimeouts"),
    ("TcpExt", "SACK retransmits failed", "TCPSackRecoveryFail"),
    ("TcpExt", "packets collapsed in receive queue due to low socket buffer", "TCPRcvCollapsed"),
    ("TcpExt", "DSACKs sent for old packets", "TCPDSACKOldSent"),
    ("TcpExt", "DSACKs sent for out of order packets", "TCPDSACKOfoSent"),
    ("TcpExt", "DSACKs received", "TCPDSACKRecv"),
    ("TcpExt", "DSACKs for out of order packets received", "TCPDSACKOfoRecv"),
    ("TcpExt", "connections reset due to unexpected data", "TCPAbortOnData"),
    ("TcpExt", "connections reset due to early user close", "TCPAbortOnClose"),
    ("TcpExt", "connections aborted due to memory pressure", "TCPAbortOnMemory"),
    ("TcpExt", "connections aborted due to timeout", "TCPAbortOnTimeout"),
    ("TcpExt", "connections aborted after user close in linger timeout", "TCPAbortOnLinger"),
    ("TcpExt", "times unable to send RST due to no memory", "TCPAbortFailed"),
    ("TcpExt", "TCP ran low on memory times", "TCPMemoryPressures"),
];

/// Fills [`Snapshot::mib`] from [`NETSTAT`]. Its sentences are for people and differ by version; those
/// that are not known here are left out, which is not the same as zero.
pub fn netstat_s(bytes: &[u8], into: &mut Snapshot) {
    let rows: Vec<_> = lines(bytes, NETSTAT, into).take(LINES_MAX).collect();
    let mut section = "";
    for (n, line) in rows {
        let text = line.trim();
        if !line.starts_with([' ', '\t']) {
            let name = text.trim_end_matches(':');
            section = SECTIONS.iter().find(|s| **s == name).copied().unwrap_or("");
            continue;
        }
        // A histogram of ICMP stands deeper, under the names of people.
        let depth = line.len() - line.trim_start().len();
        if section.is_empty() || (depth > 4 && section == "Icmp") {
            continue;
        }
        let Some((name, number)) = counted(section, text) else { continue };
        let of = into.mib.entry(section.to_owned());
        let of = of.or_insert_with(|| Counters::new(format!("{NETSTAT}:{n}")));
        if of.len() < NAMES_MAX {
            of.set(name, number);
        }
    }
}

/// The counter of a line: `ListenDrops: 24`, or a sentence.
fn counted<'a>(section: &str, text: &'a str) -> Option<(&'a str, u64)> {
    if let Some((name, number)) = text.split_once(": ") {
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        return number.trim().parse().ok().filter(|_| plain).map(|number| (name, number));
    }
    let is_number = |word: &&str| word.bytes().all(|b| b.is_ascii_digit());
    let number = text.split_whitespace().find(is_number)?;
    let words: Vec<&str> = text.split_whitespace().filter(|word| !is_number(word)).collect();
    let sentence = words.join(" ");
    let row = SENTENCES.iter().find(|(s, text, _)| *s == section && *text == sentence)?;
    Some((row.2, number.parse().ok()?))
}

/// Fills [`Snapshot::neigh_states`] from `file`, one of [`NEIGH`]: neighbours by their state, which is the
/// last word of a line, or the one before `proxy` and other remarks.
pub fn neigh(file: &str, bytes: &[u8], into: &mut Snapshot) {
    const STATES: [&str; 8] =
        ["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"];
    let rows: Vec<_> = lines(bytes, file, into).collect();
    // Of a part of them, no count says anything.
    if !bytes.ends_with(b"\n") {
        return;
    }
    for family in ["inet", "inet6"] {
        let mut states = Counters::new(file);
        STATES.iter().for_each(|state| states.set(state, 0));
        into.neigh_states.insert(family.into(), states);
    }
    for (_, line) in rows {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(Ok(at)) = words.first().map(|word| word.parse::<std::net::IpAddr>()) else {
            continue;
        };
        let family = if at.is_ipv4() { "inet" } else { "inet6" };
        let state = words.iter().rev().find(|word| STATES.contains(word));
        if let (Some(state), Some(states)) = (state, into.neigh_states.get_mut(family)) {
            states.add(state, 1);
        }
    }
}

/// Fills [`crate::snapshot::Host::owners`] from `file`, one of [`PS`]: programs by the first word of their
/// command, or by the second where the first is an interpreter.
pub fn ps(file: &str, bytes: &[u8], into: &mut Snapshot) {
    let rows: Vec<_> = lines(bytes, file, into).take(LINES_MAX).collect();
    let mut command_at = None;
    let mut owners = std::mem::take(&mut into.host.owners);
    for (_, line) in rows {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = command_at else {
            command_at = words.iter().position(|w| matches!(*w, "COMMAND" | "CMD"));
            continue;
        };
        let program = |word: &&str| {
            let name = word.rsplit('/').next().unwrap_or(word);
            // The kernel keeps 15 characters of a name, and so do the names that are known.
            let short: String = name.chars().take(15).collect();
            task::owner(name).or_else(|| task::owner(&short)).map(str::to_owned)
        };
        let command = words.iter().skip(at).filter(|word| !word.starts_with('-'));
        owners.extend(command.take(2).find_map(program));
    }
    if command_at.is_none() {
        into.note(file, "it has no line that names its columns; it is left out");
    }
    owners.sort_unstable();
    owners.dedup();
    into.host.owners = owners;
}

/// Fills [`crate::snapshot::Host::name`] and [`crate::snapshot::Host::release`] from `uname -a`.
pub fn uname(bytes: &[u8], into: &mut Snapshot) {
    let mut words = value(bytes).unwrap_or_default().split_whitespace();
    if let (Some("Linux"), Some(name), Some(release)) = (words.next(), words.next(), words.next()) {
        if into.host.name.is_empty() {
            name.clone_into(&mut into.host.name);
        }
        if into.host.release.is_empty() {
            release.clone_into(&mut into.host.release);
        }
    }
}

/// Fills [`crate::snapshot::Host::name`] from `hostname`.
pub fn hostname(bytes: &[u8], into: &mut Snapshot) {
    let name = value(bytes).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if into.host.name.is_empty() && !name.is_empty() && name.len() < 256 && name.chars().all(plain)
    {
        name.clone_into(&mut into.host.name);
    }
}

/// Fills [`crate::snapshot::Host::uptime_s`] from `uptime`: ` 10:26:01 up 5 days, 3:02, 2 users, ...`.
pub fn uptime(bytes: &[u8], into: &mut Snapshot) {
    let text = value(bytes).unwrap_or_default();
    let Some((_, up)) = text.split_once(" up ") else { return };
    let (mut seconds, mut any) = (0.0, false);
    for part in up.split(',') {
        let words: Vec<&str> = part.split_whitespace().collect();
        let number = |word: &str| word.parse::<u32>().ok().map(f64::from);
        let time = match words.as_slice() {
            [n, "day" | "days"] => number(n).map(|n| n * 86_400.0),
            [n, "min" | "mins"] => number(n).map(|n| n * 60.0),
            [n, "sec" | "secs"] => number(n),
            [clock] => clock
                .split_once(':')
                .and_then(|(h, m)| Some(number(h)? * 3600.0 + number(m)? * 60.0)),
            // Users, and the load.
            _ => break,
        };
        let Some(time) = time else { break };
        (seconds, any) = (seconds + time, true);
    }
    if any {
        into.host.uptime_s = seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nstat_is_the_mib() {
        let mut s = Snapshot::default();
        let text = "#kernel\nIpInReceives 3044 0.0\nIp6InReceives 7 0.0\nTcpExtListenDrops 24 0.0\n\
                    IcmpMsgInType3 1 0.0\nUdpLite6InErrors 2 0.0\nXyz 1 0.0\nTcpOutSegs -1 0.0\n";
        nstat(text.as_bytes(), &mut s);
        assert_eq!(s.mib("Ip", "InReceives"), Some(3044));
        assert_eq!(s.mib("Ip6", "InReceives"), Some(7));
        assert_eq!(s.mib("TcpExt", "ListenDrops"), Some(24));
        assert_eq!(s.mib("IcmpMsg", "InType3"), Some(1));
        assert_eq!(s.mib("UdpLite6", "InErrors"), Some(2));
        assert_eq!(s.mib["TcpExt"].source(), "sos_commands/networking/nstat_-zas:4");
        assert!(!s.mib.contains_key("Tcp"));
        assert_eq!(s.notes.len(), 2, "{:?}", s.notes);
    }

    #[test]
    fn sentences_of_netstat_are_the_kernels_counters() {
        let mut s = Snapshot::default();
        let text = "Ip:\n    Forwarding: 2\n    3044 total packets received\n    0 forwarded\nIcmp:\n    \
                    1 ICMP messages received\n    ICMP input histogram:\n        timeout in transit: 5\n\
                    TcpExt:\n    24 times the listen queue of a socket overflowed\n    \
                    Quick ack mode was activated 1 times\n    7 sentences that nobody knows\n    \
                    TCPRcvCoalesce: 6\n    odd name: 3\nNo:\n    InNone: 1\n";
        netstat_s(text.as_bytes(), &mut s);
        let all: Vec<_> = s.mib["TcpExt"].iter().collect();
        assert_eq!(all, [("DelayedACKLost", 1), ("ListenOverflows", 24), ("TCPRcvCoalesce", 6)]);
        assert_eq!(s.mib("Ip", "InReceives"), Some(3044));
        assert_eq!(s.mib("Ip", "ForwDatagrams"), Some(0));
        let all: Vec<_> = s.mib["Icmp"].iter().collect();
        assert_eq!(all, [("InMsgs", 1)]);
        assert_eq!(s.mib["TcpExt"].source(), "sos_commands/networking/netstat_-s:10");
        assert_eq!(s.mib.len(), 3);
    }

    #[test]
    fn neighbours_are_counted_by_state() {
        let mut s = Snapshot::default();
        let text = "10.9.0.77 dev va  used 5/65/2probes 6 FAILED \n10.9.0.2 dev va lladdr 1a:e5:bd:0d:13:ae \
                    ref 1 used 0/3/3probes 0 DELAY \nfe80::1 dev va lladdr 1a:e5:bd:0d:13:ae router STALE proxy\n\
                    Failed to send request\n";
        neigh(NEIGH[0], text.as_bytes(), &mut s);
        let count = |family: &str, state: &str| s.neigh_states[family].get(state);
        assert_eq!((count("inet", "FAILED"), count("inet", "DELAY")), (Some(1), Some(1)));
        assert_eq!((count("inet6", "STALE"), count("inet6", "FAILED")), (Some(1), Some(0)));
    }

    #[test]
    fn who_runs_is_read_from_ps() {
        let mut s = Snapshot::default();
        let text = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND\n\
                    root 1 0.0 0.0 1 1 ? - 09:57 0:00 /usr/sbin/NetworkManager --no-daemon\n\
                    root - 0.4 - - - - SLl 09:57 2:48 -\n\
                    root 2 0.0 0.0 1 1 ? - 09:57 0:00 /usr/libexec/platform-python -Es /usr/sbin/tuned -l\n\
                    sys 3 0.0 0.0 1 1 ? - 09:57 0:00 /lib/systemd/systemd-networkd\n\
                    root 4 0.0 0.0 1 1 ? - 09:57 0:00 vi /etc/irqbalance.conf irqbalance\n";
        ps(PS[0], text.as_bytes(), &mut s);
        assert_eq!(s.host.owners, ["NetworkManager", "systemd-networkd", "tuned"]);
        ps(PS[0], b"no header\n", &mut s);
        assert!(s.notes.iter().any(|n| n.why.contains("columns")));
    }

    #[test]
    fn names_and_times_of_a_host_are_read() {
        let mut s = Snapshot::default();
        uname(b"Linux web1 5.4.0-99-generic #112-Ubuntu SMP x86_64 GNU/Linux\n", &mut s);
        hostname(b"other\n", &mut s);
        assert_eq!((s.host.name.as_str(), s.host.release.as_str()), ("web1", "5.4.0-99-generic"));
        for (text, want) in [
            (" 10:26:01 up 5 days, 3:02,  2 users,  load average: 1.0, 2.0, 3.0", 442_920.0),
            (" 20:25:43 up 10:27,  0 user,  load average: 17.92", 37_620.0),
            (" 20:25:43 up 7 min,  1 user,  load average: 0.1", 420.0),
            (" 20:25:43 up 1 day,  1 user,  load average: 0.1", 86_400.0),
        ] {
            uptime(text.as_bytes(), &mut s);
            assert_eq!(s.host.uptime_s, want, "{text}");
        }
        s.host.uptime_s = 1.0;
        for odd in ["", "up", " up soon", " up 99999999999 days", " up -1 days", "\u{0} up \u{0}"] {
            uptime(odd.as_bytes(), &mut s);
            assert_eq!(s.host.uptime_s, 1.0, "{odd:?}");
        }
    }
}

//! A [`Change`] from the command that one would type: the way back of [`Change::command`].

use std::fmt;
use std::str::FromStr;

use super::Change;

/// Why a command is no change that is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

/// The commands that are understood, for people.
const KNOWN: &str = "these are known: `sysctl -w NAME=VALUE`, `echo VALUE > /sys/...`, `ethtool -G|-L|-C|-K|\
                     -A|-X|-N DEV NAME VALUE ...`, `ip link set DEV NAME VALUE`, `tc qdisc replace dev DEV \
                     ...`";

impl FromStr for Change {
    type Err = ParseError;

    /// # Errors
    /// [`ParseError`] with a sentence. That the kernel will take it is not said by success.
    fn from_str(text: &str) -> Result<Change, ParseError> {
        let words = split(text)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let unknown = || ParseError(format!("{text:?} is no change of a setting; {KNOWN}"));
        let change = match words.as_slice() {
            ["sysctl", "-w", rest @ ..] | ["sysctl", rest @ ..] => sysctl(rest),
            ["echo", value @ .., ">", path] if !value.is_empty() => {
                Some(Change::File { path: (*path).into(), value: value.join(" ") })
            }
            ["ethtool", option, dev, rest @ ..] => return ethtool(option, dev, rest),
            ["ip", "link", "set", "dev", dev, name, value]
            | ["ip", "link", "set", dev, name, value] => Some(Change::Link {
                dev: (*dev).into(),
                name: if *name == "txqlen" { "txqueuelen" } else { name }.into(),
                value: (*value).into(),
            }),
            ["tc", "qdisc", "replace", "dev", dev, spec @ ..] if !spec.is_empty() => {
                Some(Change::Qdisc { dev: (*dev).into(), spec: spec.join(" ") })
            }
            _ => None,
        };
        change.ok_or_else(unknown)
    }
}

/// `NAME=VALUE`, or `NAME = VALUE`, of one sysctl.
fn sysctl(words: &[&str]) -> Option<Change> {
    let text = words.join(" ");
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let one = !name.is_empty() && !name.contains(' ') && !value.contains('=');
    one.then(|| Change::Sysctl { name: name.into(), value: value.into() })
}

fn ethtool(option: &str, dev: &str, words: &[&str]) -> Result<Change, ParseError> {
    let option = match option {
        "-G" | "--set-ring" => 'G',
        "-L" | "--set-channels" => 'L',
        "-C" | "--coalesce" => 'C',
        "-K" | "--features" | "--offload" => 'K',
        "-A" | "--pause" => 'A',
        "-X" | "--set-rxfh-indir" | "--rxfh" => 'X',
        "-N" | "-U" | "--config-nfc" | "--config-ntuple" => 'N',
        other => {
            return Err(ParseError(format!("ethtool {other} sets nothing known here; {KNOWN}")));
        }
    };
    let owned = |name: &str, value: String| vec![(name.to_owned(), value)];
    let set = match (option, words) {
        (_, []) => return Err(ParseError(format!("what shall ethtool -{option} set of {dev}?"))),
        ('X' | 'N', [name, rest @ ..]) => owned(name, rest.join(" ")),
        (_, words) if words.len().is_multiple_of(2) => {
            words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
        }
        _ => return Err(ParseError(format!("the last value of ethtool -{option} is missing"))),
    };
    Ok(Change::Ethtool { option, dev: dev.into(), set })
}

/// Words as a shell has them, as far as commands of settings need it: blanks, and quotes around them.
fn split(text: &str) -> Result<Vec<String>, ParseError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.trim().chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            // `1>file` is another thing; `1 >file` is the same as `1 > file`.
            (None, '>') if word.is_none() => words.push(">".into()),
            (None, '$' | '`' | ';' | '|' | '&' | '\\') => {
                return Err(ParseError(format!("{c:?} is for a shell, and none runs here")));
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(ParseError("a quote has no end".into()));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        for text in [
            "sysctl -w net.core.rmem_max=212992",
            "sysctl -w net.ipv4.tcp_rmem='4096 131072 6291456'",
            "echo 3 > /sys/class/net/eth0/queues/rx-0/rps_cpus",
            "ethtool -G eth0 rx 512 tx 256",
            "ethtool -X eth0 weight 3 1",
            "ethtool -X eth0 default",
            "ethtool -N eth0 rx-flow-hash udp4 sdfn",
            "ethtool -N eth0 flow-type udp4 dst-port 53 action 1 loc 5",
            "ethtool -N eth0 delete 5",
            "ip link set eth0 mtu 1400",
            "tc qdisc replace dev eth0 root fq_codel limit 1024",
        ] {
            let change: Change = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(change.command(), text);
        }
        let same = |a: &str, b: &str| assert_eq!(a.parse::<Change>(), b.parse::<Change>(), "{a}");
        same("sysctl net.core.somaxconn = 4096", "sysctl -w net.core.somaxconn=4096");
        same("echo 3 >/sys/class/net/a/x", "echo '3' > \"/sys/class/net/a/x\"");
        same("ip link set dev a txqlen 5", "ip link set a txqueuelen 5");
    }

    #[test]
    fn what_is_no_change_is_refused_with_a_sentence() {
        for text in [
            "",
            "rm -rf /",
            "sysctl -a",
            "sysctl -w a=1 b=2",
            "ethtool eth0",
            "ethtool -G eth0",
            "ethtool -G eth0 rx",
            "ethtool -d eth0 raw on",
            "ip link set eth0 up",
            "tc qdisc add dev eth0 root fq",
            "echo 1 > a; reboot",
            "echo $(id) > /sys/x",
            "echo 'a > /sys/x",
            "echo > /sys/x",
        ] {
            let why = text.parse::<Change>().expect_err(text).to_string();
            assert!(why.len() > 15, "{text}: {why}");
        }
    }

    #[test]
    fn what_may_cut_the_way_is_known_by_its_name() {
        use crate::finding::Risk;
        let risk = |text: &str| text.parse::<Change>().expect(text).risk();
        for text in [
            "ethtool -G e rx 1",
            "ethtool -N e flow-type udp4 dst-port 22 action -1 loc 1",
            "ip link set e mtu 68",
            "echo 0x1002 > /sys/class/net/e/flags",
            "sysctl -w net.ipv6.conf.e.disable_ipv6=1",
        ] {
            assert_eq!(risk(text), Risk::Flap, "{text}");
        }
        assert_eq!(risk("ethtool -X e weight 1 2"), Risk::Safe);
        assert_eq!(risk("sysctl -w net.core.somaxconn=9"), Risk::Safe);
        assert_eq!(risk("tc qdisc replace dev e root fq"), Risk::Loss);
    }

    #[test]
    fn a_table_is_one_setting_and_hashes_and_rules_are_many() {
        let change = |text: &str| text.parse::<Change>().expect(text);
        let one = |a: &str, b: &str| change(a).is_of_same_setting(&change(b));
        assert!(one("ethtool -X e weight 1 2", "ethtool -X e equal 2"));
        assert!(!one("ethtool -N e rx-flow-hash udp4 sd", "ethtool -N e rx-flow-hash tcp4 sd"));
        assert!(one("ethtool -N e rx-flow-hash udp4 sd", "ethtool -N e rx-flow-hash udp4 sdfn"));
        assert!(one("ethtool -N e flow-type udp4 action 1 loc 5", "ethtool -N e delete 5"));
        assert!(!one("ethtool -N e flow-type udp4 action 1 loc 4", "ethtool -N e delete 5"));
    }
}

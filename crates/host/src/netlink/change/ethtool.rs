//! `ethtool -G`, `-L`, `-C`, `-A` (by netlink, on old kernels by ioctl), `-K`, `-N rx-flow-hash`.

use std::io;

use super::{device, invalid, ntuple, rss, unsupported};
use crate::netlink::attr::Request;
use crate::netlink::ethtool::{self, legacy, names};
use crate::netlink::live::Generic;
use crate::netlink::socket::{ASK, Refused};
use crate::snapshot::{Dev, Snapshot};
use crate::sys::{Ethtool, Words};

/// Sets of names and values.
pub(super) type Pairs = [(String, String)];

/// The attribute with the device.
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;
const FEATURES_SET: u8 = 12;
const FEATURES_WANTED: u16 = 3;

/// Parameters of 8 bits, and whether they are switches.
const FLAGS: [&str; 9] = [
    "adaptive-rx",
    "adaptive-tx",
    "cqe-mode-rx",
    "cqe-mode-tx",
    "autoneg",
    "tx-push",
    "rx-push",
    "rx",
    "tx",
];

/// One message with numbers.
struct Numbers {
    get: &'static str,
    set: u8,
    names: &'static [&'static str],
    ioctl: (&'static str, Words),
}

fn numbers(option: char) -> Option<Numbers> {
    Some(match option {
        'G' => Numbers {
            get: "RINGS_GET",
            set: 16,
            names: &names::RINGS,
            ioctl: ("rings", Words::Rings),
        },
        'L' => Numbers {
            get: "CHANNELS_GET",
            set: 18,
            names: &names::CHANNELS,
            ioctl: ("channels", Words::Channels),
        },
        'C' => Numbers {
            get: "COALESCE_GET",
            set: 20,
            names: &names::COALESCE,
            ioctl: ("coalesce", Words::Coalesce),
        },
        'A' => Numbers {
            get: "PAUSE_GET",
            set: 22,
            names: &names::PAUSE,
            ioctl: ("pause", Words::Pause),
        },
        _ => return None,
    })
}

pub(super) fn set(option: char, dev: &str, set: &Pairs) -> Result<(), Refused> {
    let dev = device(dev)?;
    if set.is_empty() {
        return Err(invalid("there is nothing to set"));
    }
    match option {
        'K' => set_features(dev, set),
        'X' => rss::set(dev, set),
        'N' if ntuple::is(set) => ntuple::set(dev, set),
        'N' => set_hash(dev, set),
        _ => {
            let what = numbers(option).ok_or_else(|| unknown(option))?;
            set_numbers(&what, option, dev, set)
        }
    }
}

pub(super) fn get(option: char, dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let dev = device(dev)?;
    match option {
        'K' => get_features(dev, set),
        'X' => rss::get(dev, set),
        'N' if ntuple::is(set) => ntuple::get(dev, set),
        'N' => get_hash(dev, set),
        _ => {
            let what = numbers(option).ok_or_else(|| unknown(option))?;
            get_numbers(&what, option, dev, set)
        }
    }
}

fn unknown(option: char) -> Refused {
    invalid(format!("ethtool -{option} is not known here"))
}

fn is_flag(option: char, name: &str) -> bool {
    let is_count = matches!(name, "rx" | "tx") && option != 'A';
    FLAGS.contains(&name) && !is_count
}

/// `on` and `off`, or a number; header splitting has a third state, which is the kernel's choice.
fn parse(name: &str, value: &str) -> Result<u32, Refused> {
    let split = name == "tcp-data-split";
    match value.trim() {
        "auto" if split => Ok(0),
        "off" if split => Ok(1),
        "on" if split => Ok(2),
        "off" => Ok(0),
        "on" => Ok(1),
        number => number
            .parse()
            .map_err(|_| invalid(format!("{value:?} is neither a number nor on or off"))),
    }
}

/// Written as `like` is: a switch as a number if that is one.
fn show(option: char, name: &str, value: u64, like: &str) -> String {
    let is_number = like.trim().parse::<u64>().is_ok();
    match value {
        _ if is_number => value.to_string(),
        0 if name == "tcp-data-split" => "auto".into(),
        1 if name == "tcp-data-split" => "off".into(),
        2 if name == "tcp-data-split" => "on".into(),
        0 if is_flag(option, name) => "off".into(),
        _ if is_flag(option, name) => "on".into(),
        _ => value.to_string(),
    }
}

/// By netlink, or `None` if this kernel has no such family (before 5.6).
fn family() -> Result<Option<(Generic, u16)>, Refused> {
    let mut generic = Generic::open()?;
    match generic.family("ethtool") {
        Ok(family) => Ok(Some((generic, family))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn set_numbers(what: &Numbers, option: char, dev: &str, set: &Pairs) -> Result<(), Refused> {
    let Some((mut generic, family)) = family()? else {
        return set_numbers_by_ioctl(what, dev, set);
    };
    generic.ask(numbers_request(what, option, family, dev, set)?)?;
    Ok(())
}

fn numbers_request(
    what: &Numbers,
    option: char,
    family: u16,
    dev: &str,
    set: &Pairs,
) -> Result<Request, Refused> {
    let mut request = Request::new(family, ASK, &[what.set, 1, 0, 0])
        .nest(HEADER, |header| header.text(HEADER_NAME, dev));
    for (name, value) in set {
        let attr = what.names.iter().position(|n| n == name && !n.ends_with("-max"));
        let attr = attr.and_then(|a| u16::try_from(a).ok()).filter(|a| *a > HEADER);
        let attr = attr.ok_or_else(|| {
            invalid(format!("{name:?} is not a parameter of ethtool -{option} known here"))
        })?;
        let value = parse(name, value)?;
        // The kernel takes a number only in the width that it has there.
        request = if is_flag(option, name) || name == "tcp-data-split" {
            let value = u8::try_from(value).map_err(|_| invalid("a switch is on or off"))?;
            request.attr(attr, &[value])
        } else {
            request.u32(attr, value)
        };
    }
    Ok(request)
}

fn set_numbers_by_ioctl(what: &Numbers, dev: &str, set: &Pairs) -> Result<(), Refused> {
    let (name_of, words) = what.ioctl;
    let ioctl = Ethtool::open()?;
    let mut bytes = ioctl.get(dev, words)?;
    for (name, value) in set {
        let at = legacy::place(name_of, name).filter(|_| !name.ends_with("-max"));
        let at = at.ok_or_else(|| unsupported(format!("{name} needs a kernel of 5.6 or later")))?;
        let value = parse(name, value)?;
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    Ok(ioctl.set(dev, words, &bytes)?)
}

fn get_numbers(what: &Numbers, option: char, dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let mut s = only(dev);
    if let Some((mut generic, family)) = family()? {
        let request =
            ethtool::request(family, what.get, Some(dev)).ok_or_else(|| unknown(option))?;
        let answer = generic.ask(request)?;
        match option {
            'G' => ethtool::rings(&answer, &mut s),
            'L' => ethtool::channels(&answer, &mut s),
            'C' => ethtool::coalesce(&answer, &mut s),
            _ => ethtool::pause(&answer, &mut s),
        }
    } else {
        let (name_of, words) = what.ioctl;
        let bytes = Ethtool::open()?.get(dev, words)?;
        if let Some(dev) = s.devs.get_mut(dev) {
            let _ = legacy::numbers(name_of, &bytes, dev);
        }
    }
    let Some(dev) = s.devs.get(dev) else { return Err(unknown(option)) };
    let now = match option {
        'G' => &dev.rings,
        'L' => &dev.channels,
        'C' => &dev.coalesce,
        _ => &dev.pause,
    };
    for (name, value) in set {
        let number =
            now.get(name).ok_or_else(|| unsupported(format!("the driver has no {name}")))?;
        *value = show(option, name, number, value);
    }
    Ok(())
}

fn only(name: &str) -> Snapshot {
    let mut s = Snapshot::default();
    s.devs.insert(name.into(), Dev { name: name.into(), ..Dev::default() });
    s
}

/// The kernel's features behind a name of `ethtool -K`.
fn members(name: &str) -> Vec<&str> {
    let group =
        names::FEATURE_GROUPS.iter().find(|(long, short, _)| *long == name || *short == name);
    group.map_or_else(|| vec![name], |(_, _, members)| members.to_vec())
}

fn features(dev: &str) -> Result<Dev, Refused> {
    let mut s = only(dev);
    let bytes = Ethtool::open()?.features(dev)?;
    let dev = s.devs.remove(dev).map(|mut dev| {
        let _ = legacy::features(&bytes, &mut dev);
        dev
    });
    dev.ok_or_else(|| unknown('K'))
}

fn set_features(dev: &str, set: &Pairs) -> Result<(), Refused> {
    let now = features(dev)?;
    let mut wanted: Vec<(&str, bool)> = Vec::new();
    for (name, value) in set {
        let on = parse(name, value)? != 0;
        let can: Vec<&str> = members(name)
            .into_iter()
            .filter(|m| now.features.get(*m).is_some_and(|f| !f.fixed))
            .collect();
        if can.is_empty() {
            return Err(unsupported(format!("{dev} has no {name} that can be changed")));
        }
        wanted.extend(can.into_iter().map(|m| (m, on)));
    }
    let Some((mut generic, family)) = family()? else {
        return set_features_by_ioctl(dev, &wanted);
    };
    // A set of bits by name: those that are named change, a value of them is on.
    let request = Request::new(family, ASK, &[FEATURES_SET, 1, 0, 0])
        .nest(HEADER, |header| header.text(HEADER_NAME, dev))
        .nest(FEATURES_WANTED, |set| {
            set.nest(3, |bits| {
                wanted.iter().fold(bits, |bits, (name, on)| {
                    bits.nest(1, |bit| {
                        let bit = bit.text(2, name);
                        if *on { bit.attr(3, &[]) } else { bit }
                    })
                })
            })
        });
    generic.ask(request)?;
    Ok(())
}

fn set_features_by_ioctl(dev: &str, wanted: &[(&str, bool)]) -> Result<(), Refused> {
    let ioctl = Ethtool::open()?;
    let names = legacy::feature_names(&ioctl.features(dev)?);
    let mut blocks = vec![(0u32, 0u32); names.len().div_ceil(32)];
    for (name, on) in wanted {
        let bit = names.iter().position(|n| n == name).ok_or_else(|| unknown('K'))?;
        let (valid, value) = &mut blocks[bit / 32];
        *valid |= 1 << (bit % 32);
        *value |= u32::from(*on) << (bit % 32);
    }
    Ok(ioctl.set_features(dev, &blocks)?)
}

fn get_features(dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let now = features(dev)?;
    for (name, value) in set {
        let of: Vec<_> = members(name).iter().filter_map(|m| now.features.get(*m)).collect();
        if of.is_empty() {
            return Err(unsupported(format!("this kernel has no {name}")));
        }
        let on = of.iter().any(|f| f.on);
        let is_number = value.trim().parse::<u64>().is_ok();
        *value = match (is_number, on) {
            (true, _) => u8::from(on).to_string(),
            (false, true) => "on".into(),
            (false, false) => "off".into(),
        };
    }
    Ok(())
}

/// `rx-flow-hash` and `udp4 sdfn`.
fn flow(set: &Pairs) -> Result<(u32, &str, &str), Refused> {
    let wrong = || {
        invalid(
            "ethtool -N is set here by `rx-flow-hash FLOW FIELDS`, as `udp4 sdfn`, by `flow-type ... loc N` and by `delete N`",
        )
    };
    let [(name, value)] = set else { return Err(wrong()) };
    let mut words = value.split_whitespace();
    let (Some(flow), Some(fields), None) = (words.next(), words.next(), words.next()) else {
        return Err(wrong());
    };
    let number = names::FLOWS.iter().find(|(_, n)| *n == flow).map(|(number, _)| *number);
    match number {
        Some(number) if name == "rx-flow-hash" => Ok((number, flow, fields)),
        _ => Err(wrong()),
    }
}

fn set_hash(dev: &str, set: &Pairs) -> Result<(), Refused> {
    let (number, _, fields) = flow(set)?;
    let bits = legacy::hash_bits(fields)
        .ok_or_else(|| invalid("fields are letters of m, v, t, s, d, f, n, r"))?;
    Ok(Ethtool::open()?.set_hashed(dev, number, bits)?)
}

fn get_hash(dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let (number, flow, _) = flow(set)?;
    let mut of = Dev::default();
    let _ = legacy::rxclass(&Ethtool::open()?.hashed(dev, number)?, &mut of);
    let fields = of.rss.and_then(|rss| rss.fields.get(flow).cloned());
    let fields =
        fields.ok_or_else(|| unsupported(format!("the driver does not tell of {flow}")))?;
    let now = format!("{flow} {fields}");
    set.iter_mut().for_each(|(_, value)| value.clone_from(&now));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written_as_ethtool_does() {
        assert_eq!(parse("adaptive-rx", "on").ok(), Some(1));
        assert_eq!(parse("tcp-data-split", "off").ok(), Some(1));
        assert_eq!(parse("rx-usecs", " 16 ").ok(), Some(16));
        assert!(parse("rx-usecs", "many").is_err());
        assert_eq!(show('C', "adaptive-rx", 1, "off"), "on");
        assert_eq!(show('C', "adaptive-rx", 1, "0"), "1");
        assert_eq!(show('G', "rx", 512, "on"), "512", "rings are no switches");
        assert_eq!(show('A', "rx", 0, "on"), "off");
        assert_eq!(members("gro"), ["rx-gro"]);
        assert_eq!(members("tx-nocache-copy"), ["tx-nocache-copy"]);
    }

    #[test]
    fn requests_have_the_kernels_numbers_and_widths() {
        use crate::netlink::attr::{find, messages};
        let pairs = [("rx-usecs", "16"), ("adaptive-rx", "off"), ("tx-frames", "8")]
            .map(|(k, v)| (k.to_string(), v.to_string()));
        let what = numbers('C').unwrap();
        let bytes = numbers_request(&what, 'C', 21, "eth0", &pairs).unwrap().finish(1);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.body[0]), (21, 20), "ETHTOOL_MSG_COALESCE_SET");
        let inside = &message.body[4..];
        assert_eq!(find(inside, 2), Some(&16u32.to_ne_bytes()[..]));
        assert_eq!(find(inside, 11), Some(&[0][..]), "ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX");
        assert_eq!(find(inside, 7), Some(&8u32.to_ne_bytes()[..]));
        assert_eq!(find(find(inside, 1).unwrap(), 2), Some(&b"eth0\0"[..]));
        let pairs = [("rx".to_string(), "512".to_string())];
        let bytes =
            numbers_request(&numbers('G').unwrap(), 'G', 21, "a", &pairs).unwrap().finish(1);
        let message = messages(&bytes).next().unwrap();
        assert_eq!(find(&message.body[4..], 6), Some(&512u32.to_ne_bytes()[..]));
    }

    #[test]
    fn what_is_not_known_does_not_reach_the_kernel() {
        let pair = |k: &str, v: &str| vec![(k.to_string(), v.to_string())];
        for (option, dev, pairs) in [
            ('Z', "lo", pair("rx", "1")),
            ('G', "lo", pair("rx-max", "1")),
            ('G', "lo", pair("", "1")),
            ('G', "lo", pair("rx", "-1")),
            ('G', "l/o", pair("rx", "1")),
            ('G', "", pair("rx", "1")),
            ('G', "lo", Vec::new()),
            ('C', "lo", pair("adaptive-rx", "300")),
            ('X', "lo", pair("weight", "")),
            ('X', "lo", pair("weight", "0 0")),
            ('X', "lo", pair("hkey", "1:2")),
            ('X', "lo", pair("equal", "none")),
            ('N', "lo", pair("flow-type", "udp4 dst-port 53 action 1")),
            ('N', "lo", pair("flow-type", "ether action 1 loc 1")),
            ('N', "lo", pair("delete", "first")),
            ('N', "lo", pair("rx-flow-hash", "udp4 xyz")),
            ('N', "lo", pair("rx-flow-hash", "udp9 sd")),
            ('N', "lo", pair("flow-type", "udp4 sd")),
            ('N', "lo", pair("context", "1")),
        ] {
            let refused = set(option, dev, &pairs).unwrap_err();
            let kind = refused.source.kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "-{option} {dev} {pairs:?} {refused:?}");
        }
    }
}

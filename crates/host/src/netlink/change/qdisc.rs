//! `tc qdisc replace dev DEV SPEC`, and the words that give back what was there.
//!
//! A qdisc is replaced only if it can be put back: one that nobody asked for (`root default`), or one
//! of a kind whose parameters are all in the tables here.

use super::{device, invalid, unsupported};
use crate::counters::Counters;
use crate::netlink::attr::{Request, array, named, u32_at};
use crate::netlink::qdisc::{
    FQ_CODEL_OPTIONS, FQ_OPTIONS, ROOT, RTM_GETQDISC, TCA_KIND, TCA_OPTIONS, TCMSG, has_children,
    qdisc_at, tbf,
};
use crate::netlink::socket::{ASK, Refused, Socket};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
/// `NLM_F_CREATE | NLM_F_REPLACE`.
const REPLACE: u16 = 0x400 | 0x100;

/// What a number of a parameter counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Packets,
    Bytes,
    /// µs.
    Time,
    /// B/s.
    Rate,
    /// A word without a value: `ecn` or `noecn`.
    Switch,
}

/// A parameter: its word, its attribute, what it counts.
type Parameter = (&'static str, u16, Unit);

const FQ: [Parameter; 6] = [
    ("limit", 1, Unit::Packets),
    ("flow_limit", 2, Unit::Packets),
    ("quantum", 3, Unit::Bytes),
    ("initial_quantum", 4, Unit::Bytes),
    ("pacing", 5, Unit::Switch),
    ("maxrate", 7, Unit::Rate),
];

const FQ_CODEL: [Parameter; 7] = [
    ("limit", 2, Unit::Packets),
    ("flows", 5, Unit::Packets),
    ("quantum", 6, Unit::Bytes),
    ("target", 1, Unit::Time),
    ("interval", 3, Unit::Time),
    ("memory_limit", 9, Unit::Bytes),
    ("ecn", 4, Unit::Switch),
];

const CODEL: [Parameter; 4] = [
    ("limit", 2, Unit::Packets),
    ("target", 1, Unit::Time),
    ("interval", 3, Unit::Time),
    ("ecn", 4, Unit::Switch),
];

const PFIFO: [Parameter; 1] = [("limit", 0, Unit::Packets)];
const BFIFO: [Parameter; 1] = [("limit", 0, Unit::Bytes)];
const TBF: [Parameter; 3] =
    [("rate", 0, Unit::Rate), ("burst", 0, Unit::Bytes), ("limit", 0, Unit::Bytes)];

/// The parameters of a kind; `None` if it is not known here.
fn parameters(kind: &str) -> Option<&'static [Parameter]> {
    Some(match kind {
        "fq" => &FQ,
        "fq_codel" => &FQ_CODEL,
        "codel" => &CODEL,
        "pfifo" => &PFIFO,
        "bfifo" => &BFIFO,
        "tbf" => &TBF,
        "pfifo_fast" | "mq" | "noqueue" => &[],
        _ => return None,
    })
}

/// A specification, taken apart.
struct Spec {
    parent: u32,
    place: String,
    handle: u32,
    /// `None`: the kernel's own.
    kind: Option<String>,
    values: Vec<(Parameter, String, u64)>,
}

fn handle(word: &str) -> Result<u32, Refused> {
    let wrong = || invalid(format!("{word:?} is not a handle, as 8001:1"));
    let (major, minor) = word.split_once(':').ok_or_else(wrong)?;
    let part = |hex: &str| match hex {
        "" => Ok(0),
        hex => u16::from_str_radix(hex, 16).map_err(|_| wrong()),
    };
    Ok(u32::from(part(major)?) << 16 | u32::from(part(minor)?))
}

fn spec(text: &str) -> Result<Spec, Refused> {
    let mut words = text.split_whitespace();
    let mut next = |what: &str| words.next().ok_or_else(|| invalid(format!("{what} is missing")));
    let (parent, place) = match next("a place (root, parent X:Y)")? {
        "root" => (ROOT, "root".to_string()),
        "parent" => {
            let word = next("the parent's handle")?;
            (handle(word)?, format!("parent {word}"))
        }
        other => {
            return Err(invalid(format!("{other:?} is no place of a qdisc: root, parent X:Y")));
        }
    };
    let mut own = 0;
    let mut word = next("a kind of qdisc")?;
    if word == "handle" {
        own = handle(next("the handle")?)?;
        word = next("a kind of qdisc")?;
    }
    if word == "default" {
        return Ok(Spec { parent, place, handle: 0, kind: None, values: Vec::new() });
    }
    let kind = word.to_string();
    let known = parameters(&kind)
        .ok_or_else(|| invalid(format!("qdiscs of kind {kind:?} are not set here")))?;
    let mut values = Vec::new();
    while let Some(word) = words.next() {
        let (name, off) = match word.strip_prefix("no") {
            Some(name) if known.iter().any(|p| p.0 == name && p.2 == Unit::Switch) => (name, true),
            _ => (word, false),
        };
        let parameter = known.iter().find(|p| p.0 == name);
        let parameter = *parameter
            .ok_or_else(|| invalid(format!("{word:?} is no parameter of {kind} known here")))?;
        let (text, value) = match parameter.2 {
            Unit::Switch => (word, u64::from(!off)),
            unit => {
                let value = words.next();
                let value =
                    value.ok_or_else(|| invalid(format!("the value of {name} is missing")))?;
                (value, number(value, unit)?)
            }
        };
        values.push((parameter, text.to_string(), value));
    }
    Ok(Spec { parent, place, handle: own, kind: Some(kind), values })
}

/// A number with tc's suffixes: packets, bytes (`k` is 1024), µs, or B/s (`mbit` is a million bits).
fn number(text: &str, unit: Unit) -> Result<u64, Refused> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(at);
    let wrong = || invalid(format!("{text:?} is not a number that tc would take here"));
    // Numerator and denominator of a factor.
    let (by, of): (u64, u64) = match (unit, suffix.to_ascii_lowercase().as_str()) {
        (Unit::Packets, "" | "p") | (Unit::Bytes, "" | "b") | (Unit::Time, "" | "us" | "usec") => {
            (1, 1)
        }
        (Unit::Bytes, "k" | "kb") => (1 << 10, 1),
        (Unit::Bytes, "m" | "mb") => (1 << 20, 1),
        (Unit::Time, "ms" | "msec") => (1000, 1),
        (Unit::Time, "s" | "sec") => (1_000_000, 1),
        (Unit::Rate, "" | "bit") => (1, 8),
        (Unit::Rate, "kbit") => (1000, 8),
        (Unit::Rate, "mbit") => (1_000_000, 8),
        (Unit::Rate, "gbit") => (1_000_000_000, 8),
        (Unit::Rate, "bps") => (1, 1),
        (Unit::Rate, "kbps") => (1000, 1),
        (Unit::Rate, "mbps") => (1_000_000, 1),
        _ => return Err(wrong()),
    };
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let value = value * by as f64 / of as f64;
    if !(0.0..=9e15).contains(&value) {
        return Err(wrong());
    }
    Ok(value.round() as u64)
}

/// The way that [`number`] reads back without loss.
fn show(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Packets | Unit::Switch => format!("{value}"),
        Unit::Bytes => format!("{value}b"),
        Unit::Time => format!("{value}us"),
        Unit::Rate => format!("{value}bps"),
    }
}

fn fixed(index: u32, own: u32, parent: u32) -> [u8; TCMSG] {
    let mut fixed = [0; TCMSG];
    for (at, word) in [(4, index), (8, own), (12, parent)] {
        fixed[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    fixed
}

pub(super) fn set(dev: &str, text: &str) -> Result<(), Refused> {
    let wanted = spec(text)?;
    let index = index_of(dev)?;
    let mut socket = Socket::open(None)?;
    let now = at(&mut socket, index, wanted.parent)?;
    may_replace(&now, wanted.kind.as_ref())?;
    let Some(kind) = &wanted.kind else {
        // Nothing is there to be deleted if it is the kernel's own already.
        if now.is_some_and(|now| now.own != 0) {
            let request = Request::new(RTM_DELQDISC, ASK, &fixed(index, 0, wanted.parent));
            socket.ask(request)?;
        }
        return Ok(());
    };
    let fixed = fixed(index, wanted.handle, wanted.parent);
    let request = Request::new(RTM_NEWQDISC, ASK | REPLACE, &fixed).text(TCA_KIND, kind);
    socket.ask(options(request, kind, &wanted.values)?)?;
    Ok(())
}

fn options(
    request: Request,
    kind: &str,
    values: &[(Parameter, String, u64)],
) -> Result<Request, Refused> {
    let value = |name: &str| values.iter().find(|(p, ..)| p.0 == name).map(|(.., v)| *v);
    let narrow = |v: u64| {
        u32::try_from(v).map_err(|_| invalid("a parameter of a qdisc is a number below 2^32"))
    };
    if values.is_empty() {
        return Ok(request);
    }
    Ok(match kind {
        "pfifo" | "bfifo" => {
            let limit = narrow(value("limit").unwrap_or(0))?;
            request.attr(TCA_OPTIONS, &limit.to_ne_bytes())
        }
        "tbf" => {
            let all = [value("rate"), value("burst"), value("limit")];
            let [Some(rate), Some(burst), Some(limit)] = all else {
                return Err(invalid("tbf needs rate, burst and limit"));
            };
            tbf_options(request, rate, narrow(burst)?, narrow(limit)?)
        }
        _ => {
            let values: Vec<(u16, u32)> = values
                .iter()
                .map(|(p, _, v)| Ok((p.1, narrow(*v)?)))
                .collect::<Result<_, Refused>>()?;
            request.nest(TCA_OPTIONS, |inside| {
                values.iter().fold(inside, |inside, (attr, value)| inside.u32(*attr, *value))
            })
        }
    })
}

/// `struct tc_tbf_qopt`, and the numbers that do not fit into it.
fn tbf_options(request: Request, rate: u64, burst: u32, limit: u32) -> Request {
    /// `TC_LINKLAYER_ETHERNET`: the kernel computes times itself and needs no table of them.
    const ETHERNET: u8 = 1;
    const PARMS: u16 = 1;
    const RATE64: u16 = 4;
    const BURST: u16 = 6;
    let mut parms = [0; 36];
    parms[1] = ETHERNET;
    let rate32 = u32::try_from(rate).unwrap_or(u32::MAX);
    parms[8..12].copy_from_slice(&rate32.to_ne_bytes());
    parms[24..28].copy_from_slice(&limit.to_ne_bytes());
    request.nest(TCA_OPTIONS, |inside| {
        let inside = inside.attr(PARMS, &parms);
        let inside = match rate32 {
            u32::MAX => inside.attr(RATE64, &rate.to_ne_bytes()),
            _ => inside,
        };
        inside.u32(BURST, burst)
    })
}

fn index_of(dev: &str) -> Result<u32, Refused> {
    let answer = super::link::ask(device(dev)?)?;
    let index = crate::netlink::link::names(&answer).into_keys().next();
    index.ok_or_else(|| invalid(format!("there is no {dev}")))
}

struct There {
    kind: String,
    own: u32,
    options: Vec<u8>,
    has_children: bool,
}

/// What is at this place.
fn at(socket: &mut Socket, index: u32, parent: u32) -> Result<Option<There>, Refused> {
    let request = Request::new(RTM_GETQDISC, crate::netlink::attr::DUMP, &[0; TCMSG]);
    let answer = socket.dump(&request)?;
    Ok(qdisc_at(&answer, index, parent).map(|(kind, own, options)| There {
        kind,
        own,
        options: options.to_vec(),
        has_children: has_children(&answer, index, own),
    }))
}

fn may_replace(now: &Option<There>, by: Option<&String>) -> Result<(), Refused> {
    match now {
        Some(now) if now.has_children && by != Some(&now.kind) => {
            Err(unsupported("it has others below it, which could not be put back"))
        }
        _ => Ok(()),
    }
}

pub(super) fn get(dev: &str, like: &str) -> Result<String, Refused> {
    let like = spec(like)?;
    let index = index_of(dev)?;
    let there = at(&mut Socket::open(None)?, index, like.parent)?;
    may_replace(&there, like.kind.as_ref())?;
    // A handle of 0 is what the kernel attaches by itself; so is none at all.
    let Some(There { kind, own, options: given, .. }) = there.filter(|now| now.own != 0) else {
        return Ok(format!("{} default", like.place));
    };
    let known = parameters(&kind).ok_or_else(|| {
        unsupported(format!("a qdisc of kind {kind} could not be put back as it is"))
    })?;
    let now = current(&kind, &given);
    let mut words = vec![like.place.clone()];
    if like.handle != 0 || like.kind.as_ref() != Some(&kind) {
        words.push(format!("handle {}", crate::netlink::qdisc::handle_name(own)));
    }
    words.push(kind.clone());
    if like.kind.as_ref() == Some(&kind) {
        for ((name, _, unit), text, value) in &like.values {
            let is = now.get(name).ok_or_else(|| unsupported(format!("{kind} tells no {name}")))?;
            words.push(word(name, *unit, is, Some((text, *value))));
        }
    } else {
        for (name, _, unit) in known {
            // What an old kernel does not tell it does not know. A rate of all ones is no limit.
            if let Some(is) =
                now.get(name).filter(|is| (*name, *is) != ("maxrate", u32::MAX.into()))
            {
                words.push(word(name, *unit, is, None));
            }
        }
    }
    Ok(words.join(" "))
}

/// A parameter in words; as it was written if that comes to the same, as times and sizes are rounded by
/// the kernel.
fn word(name: &str, unit: Unit, is: u64, like: Option<(&String, u64)>) -> String {
    if unit == Unit::Switch {
        return if is == 0 { format!("no{name}") } else { name.to_string() };
    }
    match like {
        Some((text, value)) if is == value || is.abs_diff(value) <= value / 500 + 1 => {
            // A count of packets is exact.
            if unit == Unit::Packets && is != value {
                format!("{name} {}", show(is, unit))
            } else {
                format!("{name} {text}")
            }
        }
        _ => format!("{name} {}", show(is, unit)),
    }
}

fn current(kind: &str, given: &[u8]) -> Counters {
    let mut now = Counters::new("");
    match kind {
        "fq" => named(&mut now, given, &FQ_OPTIONS),
        "fq_codel" => named(&mut now, given, &FQ_CODEL_OPTIONS),
        "codel" => named(&mut now, given, &["", "target", "limit", "interval", "ecn"]),
        "pfifo" | "bfifo" if u32_at(given, 0).is_some() => array(&mut now, given, 4, &["limit"]),
        "tbf" => {
            tbf(given, &mut now);
            if let Some(rate) = now.get("rate_bps") {
                now.set("rate", rate);
            }
        }
        _ => {}
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_those_of_tc() {
        let s = spec("root handle 8001: fq_codel limit 1024 target 5ms noecn").unwrap();
        assert_eq!((s.parent, s.handle, s.kind.as_deref()), (ROOT, 0x8001_0000, Some("fq_codel")));
        let values: Vec<_> = s.values.iter().map(|(p, _, v)| (p.0, *v)).collect();
        assert_eq!(values, [("limit", 1024), ("target", 5000), ("ecn", 0)]);
        let s = spec("parent 8:a tbf rate 8mbit burst 16k limit 30Kb").unwrap();
        assert_eq!(s.parent, 0x8_000a);
        let values: Vec<_> = s.values.iter().map(|(_, _, v)| *v).collect();
        assert_eq!(values, [1_000_000, 16_384, 30_720]);
        for bad in [
            "",
            "root",
            "fq",
            "parent fq",
            "parent 8 fq",
            "parent 12345:1 fq",
            "root htb default 1",
            "root fq limit",
            "root fq limit many",
            "root fq limit 1k",
            "root fq limit -1",
            "root fq noexit",
            "root fq limit 1e400",
            "root handle",
        ] {
            assert!(spec(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_kernel_rounds_is_still_what_was_asked_for() {
        assert_eq!(word("target", Unit::Time, 4999, Some((&"5ms".into(), 5000))), "target 5ms");
        assert_eq!(word("target", Unit::Time, 6000, Some((&"5ms".into(), 5000))), "target 6000us");
        assert_eq!(word("limit", Unit::Packets, 9, Some((&"10".into(), 10))), "limit 9");
        assert_eq!(word("ecn", Unit::Switch, 0, None), "noecn");
        for (value, unit) in
            [(7, Unit::Packets), (1500, Unit::Bytes), (5, Unit::Time), (9, Unit::Rate)]
        {
            assert_eq!(number(&show(value, unit), unit).ok(), Some(value));
        }
    }
}

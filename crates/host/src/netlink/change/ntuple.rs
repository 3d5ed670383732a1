//! `ethtool -N DEV flow-type ... action QUEUE loc N` and `ethtool -N DEV delete N`: rules by which the
//! device steers flows.
//!
//! A rule is named by its place in the device's table, so `loc` has to be there: without it the driver
//! chooses one, and nobody could say later which rule was ours.
//!
//! Linux: net/ethtool/ioctl.c `ethtool_set_rxnfc`, include/uapi/linux/ethtool.h `ethtool_rx_flow_spec`

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::ethtool::Pairs;
use super::{invalid, unsupported};
use crate::netlink::ethtool::names;
use crate::netlink::socket::Refused;
use crate::sys::{Ethtool, LOCATION_AT, SPEC_BYTES};

/// Where what is matched, its mask and the queue are in the specification.
const MATCH_AT: usize = 4;
const MASK_AT: usize = 76;
const COOKIE_AT: usize = 152;
/// Up to where a match says something that is known here; what follows is of VLANs and drivers.
const MATCH_BYTES: usize = 52;
/// `RX_CLS_FLOW_DISC`: the device drops what matches.
const DROP: u64 = u64::MAX;

/// A field of a flow: its word, where it is in the match, its bytes.
type Field = (&'static str, usize, usize);

const V4: [Field; 5] =
    [("src-ip", 0, 4), ("dst-ip", 4, 4), ("src-port", 8, 2), ("dst-port", 10, 2), ("tos", 12, 1)];
const V6: [Field; 5] = [
    ("src-ip", 0, 16),
    ("dst-ip", 16, 16),
    ("src-port", 32, 2),
    ("dst-port", 34, 2),
    ("tclass", 36, 1),
];

fn fields(flow: &str) -> Option<&'static [Field]> {
    match flow {
        "tcp4" | "udp4" | "sctp4" => Some(&V4),
        "tcp6" | "udp6" | "sctp6" => Some(&V6),
        _ => None,
    }
}

/// Whether it is about rules, and not about what is hashed.
pub(super) fn is(set: &Pairs) -> bool {
    matches!(set, [(name, _)] if name == "flow-type" || name == "delete")
}

/// A rule, or that there is none at a place.
enum Wanted {
    Rule(Box<[u8; SPEC_BYTES]>),
    None(u32),
}

impl Wanted {
    fn of(set: &Pairs) -> Result<Wanted, Refused> {
        match set {
            [(name, value)] if name == "flow-type" => Ok(Wanted::Rule(Box::new(spec(value)?))),
            [(_, value)] => match value.trim().parse() {
                Ok(place) => Ok(Wanted::None(place)),
                Err(_) => Err(invalid(format!("{value:?} is not the place of a rule"))),
            },
            _ => Err(invalid("one rule at a time")),
        }
    }

    fn place(&self) -> u32 {
        match self {
            Wanted::Rule(spec) => u32::from_ne_bytes(at(spec.as_slice(), LOCATION_AT)),
            Wanted::None(place) => *place,
        }
    }
}

pub(super) fn set(dev: &str, set: &Pairs) -> Result<(), Refused> {
    let wanted = Wanted::of(set)?;
    let ioctl = Ethtool::open()?;
    match &wanted {
        Wanted::Rule(spec) => ioctl.set_rule(dev, spec)?,
        Wanted::None(place) => match ioctl.delete_rule(dev, *place) {
            Err(e) if is_absent(&e) => {}
            done => done?,
        },
    }
    Ok(())
}

pub(super) fn get(dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let wanted = Wanted::of(set)?;
    let place = wanted.place();
    let now = match Ethtool::open()?.rule(dev, place) {
        Ok(now) => Some(now),
        Err(e) if is_absent(&e) => None,
        Err(e) => return Err(e.into()),
    };
    let [(name, value)] = set else { return Ok(()) };
    match (now, wanted) {
        (None, Wanted::None(_)) => {}
        (None, Wanted::Rule(_)) => (*name, *value) = ("delete".into(), place.to_string()),
        // As it was written, if it comes to the same.
        (Some(now), Wanted::Rule(spec)) if is_same(&now, spec.as_slice()) => {}
        (Some(now), _) => {
            let words = words(&now).ok_or_else(|| {
                unsupported(format!("the rule at {place} has parts that could not be put back"))
            })?;
            (*name, *value) = ("flow-type".into(), words);
        }
    }
    Ok(())
}

/// There is no rule at that place: which of these is said differs by driver.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))
}

fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    for (to, byte) in out.iter_mut().zip(bytes.iter().skip(from)) {
        *to = *byte;
    }
    out
}

/// Whether both match and do the same; what of the match is masked out may be anything.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let matched = |spec: &[u8]| -> Vec<u8> {
        let (value, mask) = (spec.iter().skip(MATCH_AT), spec.iter().skip(MASK_AT));
        value.zip(mask).take(MASK_AT - MATCH_AT).map(|(v, m)| v & m).collect()
    };
    let rest =
        |spec: &[u8]| (at::<4>(spec, 0), at::<8>(spec, COOKIE_AT), at::<4>(spec, LOCATION_AT));
    let masks = |spec: &[u8]| spec.iter().skip(MASK_AT).take(72).copied().collect::<Vec<u8>>();
    rest(a) == rest(b) && masks(a) == masks(b) && matched(a) == matched(b)
}

/// `udp4 dst-port 53 action 1 loc 5` as the kernel has it.
fn spec(text: &str) -> Result<[u8; SPEC_BYTES], Refused> {
    let mut spec = [0; SPEC_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, byte) in spec.iter_mut().skip(at).zip(bytes) {
            *to = *byte;
        }
    };
    let mut given = text.split_whitespace();
    let flow = given.next().unwrap_or("");
    let number = names::FLOWS.iter().find(|(_, name)| *name == flow).map(|(number, _)| *number);
    let (Some(number), Some(fields)) = (number, fields(flow)) else {
        return Err(invalid(format!(
            "{flow:?} is not a type of flow known here: tcp4, udp4, sctp4, tcp6, udp6, sctp6"
        )));
    };
    put(0, &number.to_ne_bytes());
    let (mut action, mut place) = (None, None);
    while let Some(word) = given.next() {
        let value =
            given.next().ok_or_else(|| invalid(format!("the value of {word} is missing")))?;
        let wrong = || invalid(format!("{value:?} is no value of {word}"));
        match word {
            "action" if value == "-1" => action = Some(DROP),
            "action" => action = Some(u64::from(value.parse::<u32>().map_err(|_| wrong())?)),
            // The bit on top asks the driver to choose.
            "loc" => {
                place = Some(value.parse::<u32>().ok().filter(|p| *p < 1 << 31).ok_or_else(wrong)?)
            }
            _ => {
                let field = fields.iter().find(|(name, ..)| *name == word);
                let (_, offset, len) = *field.ok_or_else(|| {
                    invalid(format!("{word:?} is not matched here; a mask neither"))
                })?;
                put(MATCH_AT + offset, &value_of(value, len).ok_or_else(wrong)?);
                put(MASK_AT + offset, &vec![0xff; len]);
            }
        }
    }
    let action = action.ok_or_else(|| invalid("action N: which queue, or -1 to drop"))?;
    let place = place
        .ok_or_else(|| invalid("loc N: at which place, so that the rule can be taken away"))?;
    put(COOKIE_AT, &action.to_ne_bytes());
    put(LOCATION_AT, &place.to_ne_bytes());
    Ok(spec)
}

/// An address, a port or a byte, in network order.
fn value_of(text: &str, len: usize) -> Option<Vec<u8>> {
    match len {
        1 => {
            let hex = text.strip_prefix("0x");
            let byte = hex.map_or_else(|| text.parse(), |hex| u8::from_str_radix(hex, 16));
            byte.ok().map(|b| vec![b])
        }
        2 => text.parse::<u16>().ok().map(|n| n.to_be_bytes().to_vec()),
        4 => text.parse::<Ipv4Addr>().ok().map(|a| a.octets().to_vec()),
        _ => text.parse::<Ipv6Addr>().ok().map(|a| a.octets().to_vec()),
    }
}

/// A rule in words; `None` if it has something that these words do not say.
fn words(bytes: &[u8]) -> Option<String> {
    let number = u32::from_ne_bytes(at(bytes, 0));
    let (_, flow) = names::FLOWS.iter().find(|(n, _)| *n == number)?;
    let mut out = (*flow).to_string();
    let mut said = 0;
    for (name, offset, len) in fields(flow)? {
        let mask = bytes.get(MASK_AT + offset..)?.get(..*len)?;
        let value = bytes.get(MATCH_AT + offset..)?.get(..*len)?;
        if mask.iter().all(|b| *b == 0) {
            continue;
        }
        if mask.iter().any(|b| *b != 0xff) {
            return None;
        }
        said += len;
        let _ = match len {
            1 => write!(out, " {name} {}", value[0]),
            2 => write!(out, " {name} {}", u16::from_be_bytes(at(value, 0))),
            4 => write!(out, " {name} {}", Ipv4Addr::from(at::<4>(value, 0))),
            _ => write!(out, " {name} {}", Ipv6Addr::from(at::<16>(value, 0))),
        };
    }
    // Anything else that is masked in: VLANs, user data.
    let masked =
        bytes.get(MASK_AT..MASK_AT + MATCH_BYTES + 20)?.iter().filter(|b| **b != 0).count();
    if masked != said {
        return None;
    }
    match u64::from_ne_bytes(at(bytes, COOKIE_AT)) {
        DROP => out.push_str(" action -1"),
        queue if u32::try_from(queue).is_ok() => drop(write!(out, " action {queue}")),
        // A virtual function's queue, or to wake the host.
        _ => return None,
    }
    let _ = write!(out, " loc {}", u32::from_ne_bytes(at(bytes, LOCATION_AT)));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_the_kernels_layout() {
        let spec = spec("tcp4 src-ip 10.0.0.1 dst-port 443 action 3 loc 7").unwrap();
        assert_eq!(u32::from_ne_bytes(at(&spec, 0)), 1, "TCP_V4_FLOW");
        assert_eq!(at::<4>(&spec, 4), [10, 0, 0, 1]);
        assert_eq!(at::<2>(&spec, 14), [1, 187], "port 443, in network order");
        assert_eq!((at::<4>(&spec, 76), at::<4>(&spec, 80)), ([255; 4], [0; 4]));
        assert_eq!(at::<2>(&spec, 86), [255; 2]);
        assert_eq!(u64::from_ne_bytes(at(&spec, 152)), 3);
        assert_eq!(u32::from_ne_bytes(at(&spec, 160)), 7);
    }

    #[test]
    fn words_come_back() {
        for text in [
            "udp4 dst-port 53 action 1 loc 5",
            "tcp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1 dst-port 2 tos 16 action 0 loc 0",
            "tcp6 dst-ip 2001:db8::1 dst-port 22 action -1 loc 1023",
            "sctp6 tclass 8 action 2 loc 3",
            "udp4 action 1 loc 2",
        ] {
            let spec = spec(text).unwrap();
            assert_eq!(words(&spec).as_deref(), Some(text));
            assert!(is_same(&spec, &spec));
        }
    }

    #[test]
    fn what_could_not_be_put_back_is_not_put_into_words() {
        let mut partly = spec("udp4 src-ip 10.0.0.0 action 1 loc 5").unwrap();
        partly[MASK_AT + 3] = 0;
        assert_eq!(words(&partly), None, "10.0.0.0/24");
        let mut vlan = spec("udp4 action 1 loc 5").unwrap();
        vlan[MASK_AT + MATCH_BYTES + 10] = 0xff;
        assert_eq!(words(&vlan), None);
        let mut ether = vlan;
        ether[..4].copy_from_slice(&0x12u32.to_ne_bytes());
        assert_eq!(words(&ether), None);
        assert_eq!(words(&[0; 9]), None);
        let (a, mut b) =
            (spec("udp4 action 1 loc 5").unwrap(), spec("udp4 action 1 loc 5").unwrap());
        b[MATCH_AT] = 9;
        assert!(is_same(&a, &b), "what no mask asks for is nothing");
        b[MASK_AT] = 0xff;
        assert!(!is_same(&a, &b));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for text in [
            "",
            "udp4",
            "udp4 action 1",
            "udp4 loc 1",
            "udp4 action 1 loc 4294967295",
            "udp4 action -2 loc 1",
            "udp4 dst-port 70000 action 1 loc 1",
            "udp4 dst-port",
            "udp4 src-ip ::1 action 1 loc 1",
            "udp6 src-ip 10.0.0.1 action 1 loc 1",
            "udp4 src-ip 10.0.0.0 m 0.0.0.255 action 1 loc 1",
            "esp4 action 1 loc 1",
        ] {
            assert!(spec(text).is_err(), "{text}");
        }
    }
}

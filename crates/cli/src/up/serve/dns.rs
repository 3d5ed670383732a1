//! A small authoritative name server: addresses for names that the configuration lists.
//!
//! RFCs: 1035 §4, 2308 §2.2, 3596, 6891 §6.1.1, 7766
//!
//! It knows A and AAAA, answers ANY with what there is of both, and refuses names that are not its
//! own. There are no zones, delegations, wildcards or transfers.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::{Instant, SEC};

use super::stream::wait_for_room;
use super::{Scratch, Served, Step, settle};
use crate::up::config::Kind;

/// Bytes of a query at the most: a name has at most 255, and options are few.
pub(super) const QUERY_MAX: usize = 4096;
/// Bytes of an answer over UDP without EDNS, and with it (the size that avoids fragments everywhere).
const UDP_PLAIN: usize = 512;
const UDP_EDNS: usize = 1232;
/// How long an answer may be kept, in seconds.
const TTL: u32 = 60;
/// Names, addresses of one name, and bytes of a file at the most.
const NAMES_MAX: usize = 65_536;
const ADDRS_MAX: usize = 64;
const FILE_MAX: u64 = 4 << 20;
/// Queries of one TCP client that are answered in a turn.
const QUERIES_PER_TURN: usize = 256;
/// How long a TCP client may be silent, in nanoseconds.
const SILENCE: u64 = 10 * SEC;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const BADVERS: u8 = 16;

/// By which transport an answer goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Udp,
    Tcp,
}

/// The names, as they stand in messages, in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Zone(BTreeMap<Vec<u8>, Vec<IpAddr>>);

impl Zone {
    /// Reads a file of lines `NAME ADDRESS...`; `#` and `;` begin comments.
    ///
    /// # Errors
    /// A sentence with file and line.
    pub fn read(path: &Path) -> Result<Zone, String> {
        let shown = path.display();
        let size = fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?.len();
        if size > FILE_MAX {
            return Err(format!("{shown}: a list of names has at most {FILE_MAX} bytes"));
        }
        let text = fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))?;
        Zone::parse(&text).map_err(|(line, e)| format!("{shown}:{line}: {e}"))
    }

    fn parse(text: &str) -> Result<Zone, (usize, String)> {
        let mut zone = Zone::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let mut any = false;
            for word in words {
                let addr = word.parse().map_err(|_| (i + 1, format!("{word:?} is no address")))?;
                zone.add(name, addr).map_err(|e| (i + 1, e))?;
                any = true;
            }
            if !any {
                return Err((i + 1, format!("{name} has no address: NAME ADDRESS...")));
            }
        }
        Ok(zone)
    }

    /// Adds an address of `name`.
    ///
    /// # Errors
    /// The name is none, or there are too many.
    pub fn add(&mut self, name: &str, addr: IpAddr) -> Result<(), String> {
        let full = self.0.len() >= NAMES_MAX;
        let wire = to_wire(name).ok_or_else(|| format!("{name:?} is no name"))?;
        if full && !self.0.contains_key(&wire) {
            return Err(format!("more than {NAMES_MAX} names"));
        }
        let addrs = self.0.entry(wire).or_default();
        if addrs.len() >= ADDRS_MAX {
            return Err(format!("{name} has more than {ADDRS_MAX} addresses"));
        }
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
        Ok(())
    }

    /// Appends the answer to `query` to `out`; false if there is none to give, because it is no
    /// query.
    pub(super) fn answer(&self, query: &[u8], via: Via, out: &mut Vec<u8>) -> bool {
        let Some(header) = query.first_chunk::<HEADER>() else { return false };
        // A response is never answered: two servers would not stop.
        if header[2] & 0x80 != 0 {
            return false;
        }
        let begin = out.len();
        let (id, asked) = ([header[0], header[1]], [header[2] & 0x79, 0]);
        // QR and the opcode and RD as asked.
        out.extend_from_slice(&[id[0], id[1], 0x80 | asked[0], 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let opcode = header[2] >> 3 & 0xf;
        let question = match read(query) {
            _ if opcode != 0 => Err(NOTIMP),
            read => read.ok_or(FORMERR),
        };
        let question = match question {
            Ok(question) => question,
            Err(code) => {
                out[begin + 3] = code;
                return true;
            }
        };
        out[begin + 5] = 1;
        out.extend_from_slice(question.bytes);
        let limit = match (via, question.edns) {
            (Via::Tcp, _) => usize::from(u16::MAX),
            (Via::Udp, None) => UDP_PLAIN,
            (Via::Udp, Some(edns)) => usize::from(edns.size).clamp(UDP_PLAIN, UDP_EDNS),
        };
        let opt = if question.edns.is_some() { OPT_LEN } else { 0 };
        if question.edns.is_some_and(|e| e.version != 0) {
            put_opt(out, BADVERS >> 4);
            out[begin + 11] = 1;
            out[begin + 3] = BADVERS & 0xf;
            return true;
        }
        let known = if [CLASS_IN, CLASS_ANY].contains(&question.class) {
            self.0.get(&question.name)
        } else {
            None
        };
        match known {
            None => out[begin + 3] = REFUSED,
            Some(addrs) => {
                // AA: this is the authority.
                out[begin + 2] |= 4;
                let room = limit - opt;
                if !put_answers(out, begin, addrs, question.kind, room) {
                    // TC: the rest can be had over TCP.
                    out[begin + 2] |= 2;
                }
            }
        }
        if question.edns.is_some() {
            put_opt(out, 0);
            out[begin + 11] = 1;
        }
        true
    }
}

/// Appends the addresses of the kind asked for; false if not all fit.
fn put_answers(out: &mut Vec<u8>, begin: usize, addrs: &[IpAddr], kind: u16, room: usize) -> bool {
    let mut count = 0u16;
    let mut whole = true;
    for addr in addrs {
        let (of, bytes): (u16, &[u8]) = match addr {
            IpAddr::V4(a) => (TYPE_A, &a.octets()),
            IpAddr::V6(a) => (TYPE_AAAA, &a.octets()),
        };
        if kind != of && kind != TYPE_ANY {
            continue;
        }
        if out.len() - begin + 12 + bytes.len() > room {
            whole = false;
            break;
        }
        // The name of the question, which stands behind the header.
        out.extend_from_slice(&[0xc0, HEADER as u8]);
        out.extend_from_slice(&of.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
        out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(bytes);
        count += 1;
    }
    out[begin + 6..begin + 8].copy_from_slice(&count.to_be_bytes());
    whole
}

/// Bytes of our OPT record.
const OPT_LEN: usize = 11;

fn put_opt(out: &mut Vec<u8>, extended: u8) {
    let [high, low] = (UDP_EDNS as u16).to_be_bytes();
    out.extend_from_slice(&[0, 0, TYPE_OPT as u8, high, low, extended, 0, 0, 0, 0, 0]);
}

/// The only question of a query.
struct Question<'a> {
    /// Name, type and class as they came.
    bytes: &'a [u8],
    /// The name in lower case.
    name: Vec<u8>,
    kind: u16,
    class: u16,
    edns: Option<Edns>,
}

#[derive(Clone, Copy)]
struct Edns {
    size: u16,
    version: u8,
}

/// Reads a query of exactly one question; `None` if it is malformed.
fn read(query: &[u8]) -> Option<Question<'_>> {
    let counts = query.get(4..HEADER)?;
    let [0, 1, 0, 0, 0, 0, 0, more @ 0..=1] = *counts else { return None };
    let rest = query.get(HEADER..)?;
    let mut at = 0;
    // A question's name is never compressed: nothing stands before it.
    loop {
        let len = usize::from(*rest.get(at)?);
        at += 1 + len;
        if len > 63 || at > 255 {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let name = rest.get(..at)?.to_ascii_lowercase();
    let (kind, class) = (word(rest, at)?, word(rest, at + 2)?);
    let bytes = rest.get(..at + 4)?;
    let mut edns = None;
    if more == 1 {
        // Whatever record it is, it has at least so many bytes.
        let opt = rest.get(at + 4..).filter(|o| o.len() >= OPT_LEN)?;
        // The root's name, OPT, size, extended code, version, flags, length.
        if *opt.first()? == 0 && word(opt, 1)? == TYPE_OPT {
            edns = Some(Edns { size: word(opt, 3)?, version: *opt.get(6)? });
        }
    }
    Some(Question { bytes, name, kind, class, edns })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// A name as it stands in messages; `None` if it is none.
fn to_wire(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if label.is_empty() || label.len() > 63 || !label.bytes().all(good) {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= 255).then_some(wire)
}

/// A client over TCP: messages with their length in front (RFC 1035 §4.2.2).
pub(super) struct Stream {
    served: Arc<Served>,
    asked: Vec<u8>,
    deadline: Instant,
}

impl Stream {
    pub(super) fn new(served: Arc<Served>, now: Instant) -> Stream {
        Stream { served, asked: Vec::new(), deadline: now.plus(SILENCE) }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What its buffer holds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.asked.capacity()
    }

    pub(super) fn step(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Step {
        let Kind::Dns(zone) = &self.served.service.kind else { return Step::Abort };
        let mut left = QUERIES_PER_TURN;
        loop {
            while let Some(len) = word(&self.asked, 0).map(usize::from) {
                if len > QUERY_MAX {
                    return Step::Abort;
                }
                if self.asked.len() < 2 + len {
                    break;
                }
                if left == 0 {
                    return Step::More;
                }
                left -= 1;
                let text = &mut scratch.text;
                text.clear();
                text.extend_from_slice(&[0, 0]);
                if !zone.answer(&self.asked[2..2 + len], Via::Tcp, text) {
                    return Step::Abort;
                }
                let size = (text.len() - 2) as u16;
                text[..2].copy_from_slice(&size.to_be_bytes());
                // An answer goes whole or not at all: the client first reads what it was given.
                if shard.tcp_send_space(id) < text.len() {
                    wait_for_room(shard, id);
                    return Step::Idle;
                }
                if shard.tcp_send(id, text).is_err() {
                    return Step::Close;
                }
                self.asked.drain(..2 + len);
                self.deadline = shard.net.now.plus(SILENCE);
            }
            let room = 2 + QUERY_MAX - self.asked.len();
            match shard.tcp_recv(id, &mut scratch.bytes[..room]) {
                Ok(0) => return Step::Close,
                Ok(n) => self.asked.extend_from_slice(&scratch.bytes[..n]),
                Err(linerate_core::sock::error::TcpError::WouldBlock) => {
                    settle(&mut self.asked);
                    return Step::Idle;
                }
                Err(_) => return Step::Close,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let text =
            "# names\nwww.example.test 10.9.0.2 fd09::2 10.9.0.3 ; ours\n\nOther.Test. fd09::3\n";
        Zone::parse(text).expect("a good list")
    }

    fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let more = u8::from(edns.is_some());
        let mut q = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, more];
        q.extend(to_wire(name).expect("a name"));
        q.extend(kind.to_be_bytes());
        q.extend([0, 1]);
        if let Some(size) = edns {
            let [h, l] = size.to_be_bytes();
            q.extend([0, 0, 41, h, l, 0, 0, 0, 0, 0, 0]);
        }
        q
    }

    fn ask(zone: &Zone, query: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(zone.answer(query, Via::Udp, &mut out));
        out
    }

    #[test]
    fn names_have_their_addresses_in_any_case_of_letters() {
        let zone = zone();
        let got = ask(&zone, &query("WWW.Example.TEST", TYPE_A, None));
        assert_eq!(got[..4], [0xab, 0xcd, 0x85, 0], "response, authority, recursion as asked");
        assert_eq!(got[4..12], [0, 1, 0, 2, 0, 0, 0, 0]);
        assert!(got.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 0, 3]));
        let six = ask(&zone, &query("www.example.test", TYPE_AAAA, None));
        assert_eq!(six[6..8], [0, 1]);
        let none = ask(&zone, &query("other.test", TYPE_A, None));
        assert_eq!(
            (none[3], &none[6..8]),
            (0, &[0u8, 0][..]),
            "the name is there, no such address"
        );
        let unknown = ask(&zone, &query("nowhere.test", TYPE_A, None));
        assert_eq!(unknown[3], REFUSED);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_so() {
        let mut zone = Zone::default();
        for i in 0..60u8 {
            zone.add("many.test", IpAddr::from([10, 0, 0, i])).expect("room");
        }
        let plain = ask(&zone, &query("many.test", TYPE_A, None));
        assert!(plain.len() <= UDP_PLAIN && plain[2] & 2 != 0);
        let edns = ask(&zone, &query("many.test", TYPE_A, Some(4096)));
        assert!(edns.len() <= UDP_EDNS && edns[2] & 2 == 0 && edns[11] == 1, "{}", edns.len());
    }

    #[test]
    fn what_is_no_query_is_refused_and_what_is_short_never_panics() {
        let zone = zone();
        let good = query("www.example.test", TYPE_A, Some(1232));
        for cut in 0..good.len() {
            let mut out = Vec::new();
            let answered = zone.answer(&good[..cut], Via::Udp, &mut out);
            assert_eq!(answered, cut >= HEADER);
            assert!(!answered || out[3] == FORMERR, "{cut}");
        }
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(!zone.answer(&response, Via::Udp, &mut Vec::new()), "servers that talk to servers");
        let mut notify = good.clone();
        notify[2] |= 4 << 3;
        assert_eq!(ask(&zone, &notify)[3], NOTIMP);
        let mut two = good;
        two[5] = 2;
        assert_eq!(ask(&zone, &two)[3], FORMERR);
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_line() {
        for (text, line) in [("\nwww 1.2.3\n", 2), ("a..b 1.2.3.4", 1), ("www.test\n", 1)] {
            assert_eq!(Zone::parse(text).expect_err(text).0, line);
        }
    }
}

//! A listener at the wire that holds both ends to RFC 9293: nobody sends beyond the window, or takes a
//! window back, or acknowledges what was never sent. It has its own eyes: nothing of the stack's parsers.

use std::collections::BTreeMap;

use linerate_sim::Passing;

/// What is looked at of a segment.
struct Segment<'a> {
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    window: u32,
    options: &'a [u8],
    payload: u32,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Segment<'_> {
    /// A TCP segment in a frame whose IP header begins at `at`.
    fn parse(frame: &[u8], at: usize) -> Option<Segment<'_>> {
        let ip = frame.get(at..)?;
        let (protocol, header) = match ip.first()? >> 4 {
            4 => (*ip.get(9)?, usize::from(ip[0] & 15) * 4),
            6 => (*ip.get(6)?, 40),
            _ => return None,
        };
        let tcp = ip.get(header..).filter(|_| protocol == 6)?;
        let offset = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Segment {
            ports: (word(tcp, 0)?, word(tcp, 2)?),
            seq: long(tcp, 4)?,
            ack: long(tcp, 8)?,
            flags: tcp[13],
            window: word(tcp, 14)?.into(),
            options: tcp.get(20..offset)?,
            payload: tcp.len().checked_sub(offset)? as u32,
        })
    }
    /// The shift that its SYN offers.
    fn scale(&self) -> Option<u8> {
        let mut rest = self.options;
        loop {
            match rest {
                [3, 3, shift, ..] => return Some((*shift).min(14)),
                [1, tail @ ..] => rest = tail,
                [2..=255, len @ 2..=255, ..] => rest = rest.get(usize::from(*len)..)?,
                _ => return None,
            }
        }
    }
}

/// Whether sequence number `a` is behind `b`.
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// What one end of a connection has said.
#[derive(Clone, Copy, Default)]
struct Said {
    /// Its SYN's number, the shift that it offers, and its window.
    syn: Option<(u32, Option<u8>, u32)>,
    /// The end of what it sent.
    end: u32,
    /// The right edge of the window that it announced.
    edge: Option<u32>,
    /// It has reset the connection: what follows is of nobody.
    reset: bool,
}

/// All connections by the ports of the end that speaks.
#[derive(Default)]
pub struct Watch {
    said: BTreeMap<(u16, u16), Said>,
    /// A listener may answer by cookies: it has forgotten what window its SYN-ACK said.
    pub forgets: bool,
    /// What was wrong first.
    pub fault: Option<String>,
    /// Segments looked at.
    pub segments: u64,
}

impl Watch {
    /// Looks at a frame that a host sends; `ip` is where its IP header begins.
    pub fn look(&mut self, frame: &Passing<'_>, ip: usize) {
        let Some(segment) = Segment::parse(frame.bytes, ip) else { return };
        self.segments += 1;
        if let Err(why) = self.judge(&segment)
            && self.fault.is_none()
        {
            let Segment { ports, seq, ack, flags, window, payload, .. } = segment;
            self.fault = Some(format!(
                "on the wire at {} ns, ports {ports:?}, seq {seq} ack {ack} flags {flags:#04x} window {window} payload {payload}: {why}",
                frame.at.ns()
            ));
        }
    }

    fn judge(&mut self, s: &Segment<'_>) -> Result<(), String> {
        let (near, far) = (s.ports, (s.ports.1, s.ports.0));
        let other = self.said.get(&far).copied().unwrap_or_default();
        let own = self.said.entry(near).or_default();
        own.reset |= s.flags & RST != 0;
        if own.reset || other.reset {
            return Ok(());
        }
        if s.flags & SYN != 0 && own.syn.is_some_and(|(seq, ..)| seq != s.seq) {
            // Who answers by cookies answers the same SYN with two numbers, and forgets both. Which of
            // them the peer takes is not seen here.
            own.reset = true;
        } else if s.flags & SYN != 0 && own.syn.is_none() {
            let syn = Some((s.seq, s.scale(), s.window));
            // With Fast Open there are data in it.
            *own = Said { syn, end: s.seq.wrapping_add(1 + s.payload), ..Said::default() };
        }
        let (Some((_, mine, first)), Some((begin, theirs, _))) = (own.syn, other.syn) else {
            return Ok(());
        };
        let end = s.seq.wrapping_add(s.payload);
        if let Some(edge) = other.edge
            && s.payload > 0
            && after(end, edge)
        {
            return Err(format!("{} bytes beyond the window", end.wrapping_sub(edge)));
        }
        let end = end.wrapping_add(u32::from(s.flags & FIN != 0));
        if s.flags & SYN == 0 && after(end, own.end) {
            own.end = end;
        }
        if s.flags & ACK == 0 {
            return Ok(());
        }
        if after(s.ack, other.end) {
            return Err(format!("acknowledges {} bytes too many", s.ack.wrapping_sub(other.end)));
        }
        if s.flags & SYN != 0 {
            return Ok(());
        }
        let shift = mine.filter(|_| theirs.is_some()).unwrap_or(0);
        let edge = s.ack.wrapping_add(s.window << shift);
        // A SYN's window is not scaled, and a half-open connection rounds down what it says of it again.
        let said = begin.wrapping_add(1).wrapping_add(first >> shift << shift);
        let was = own.edge.unwrap_or(if self.forgets { edge } else { said });
        if after(was, edge) {
            return Err(format!("takes back {} bytes of its window", was.wrapping_sub(edge)));
        }
        own.edge = Some(edge);
        Ok(())
    }
}

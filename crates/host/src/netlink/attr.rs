//! Messages of netlink and their attributes, as bytes.
//!
//! A message is a header of 16 bytes, a fixed part that its type decides, and attributes: length,
//! type, value, padded to four. All in host byte order. What is read here may come from a record
//! of another host, so a length that lies ends the walk; nothing is believed, nothing panics.
//! Linux: include/uapi/linux/netlink.h
//!
//! Why not a generated crate: `netlink-bindings` 0.3.5 is healthy and reads from `&[u8]`, but it is
//! 110 000 lines (9 s of compilation) that give one method for each attribute, where all that follows
//! wants names: a table of names in the order of the kernel's numbers is shorter here, and skips
//! what a newer kernel adds and what an older one leaves out by the same rule.

use crate::counters::Counters;

/// `sizeof(struct nlmsghdr)`.
pub(crate) const HEADER: usize = 16;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, which are no part of the type.
const FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 4;
/// `NLM_F_DUMP`: all there are.
pub(crate) const DUMP: u16 = 0x300;

/// One message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`.
    pub(crate) seq: u32,
    /// Behind the header.
    pub(crate) body: &'a [u8],
    /// With the header.
    pub(crate) whole: &'a [u8],
}

/// The messages in `bytes`, up to the first that is cut.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let whole = bytes.get(..len)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            seq: u32_at(bytes, 8)?,
            body: whole.get(HEADER..)?,
            whole,
        };
        bytes = bytes.get(len.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, type and value, up to the first that is cut.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !FLAGS;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of type `kind`.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// The number in the first attribute of type `kind`.
pub(crate) fn number(bytes: &[u8], kind: u16) -> Option<u64> {
    find(bytes, kind).and_then(uint)
}

/// The same, of 32 bits.
pub(crate) fn number32(bytes: &[u8], kind: u16) -> Option<u32> {
    number(bytes, kind).and_then(|n| u32::try_from(n).ok())
}

/// The text in the first attribute of type `kind`.
pub(crate) fn text_of(bytes: &[u8], kind: u16) -> Option<String> {
    find(bytes, kind).map(text)
}

/// A value of 1, 2, 4 or 8 bytes.
pub(crate) fn uint(value: &[u8]) -> Option<u64> {
    match value.len() {
        1 => value.first().copied().map(u64::from),
        2 => u16_at(value, 0).map(u64::from),
        4 => u32_at(value, 0).map(u64::from),
        8 => u64_at(value, 0),
        _ => None,
    }
}

/// Text up to the first NUL; what no name has in it (control characters, broken UTF-8) is replaced.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    let text = String::from_utf8_lossy(value.get(..end).unwrap_or_default());
    text.trim_ascii().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The 16 bits at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

/// The 32 bits at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// The 64 bits at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_ne_bytes(*b))
}

/// The 16 bits at `at`, which are in network byte order.
pub(crate) fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    u16_at(bytes, at).map(u16::from_be)
}

/// Sets the numbers of a structure by name, as far as the kernel gave it: fields of `width` bytes
/// each, one behind the other. A field without a name is skipped.
pub(crate) fn array(into: &mut Counters, bytes: &[u8], width: usize, names: &[&str]) {
    for (name, value) in names.iter().zip(bytes.chunks_exact(width)) {
        if let (false, Some(value)) = (name.is_empty(), uint(value)) {
            into.set(name, value);
        }
    }
}

/// The same for fields of several widths, each named with its width in bytes; places that C's
/// alignment leaves are named as well.
pub(crate) fn fields(into: &mut Counters, mut bytes: &[u8], layout: &[(&str, usize)]) {
    for (name, width) in layout {
        let Some((value, rest)) = bytes.split_at_checked(*width) else { return };
        bytes = rest;
        if let (false, Some(value)) = (name.is_empty(), uint(value)) {
            into.set(name, value);
        }
    }
}

/// Sets the numbers among attributes by name, a name for each type from 0 on; types without a name
/// are skipped.
pub(crate) fn named(into: &mut Counters, bytes: &[u8], names: &[&str]) {
    for (kind, value) in attrs(bytes) {
        let name = names.get(usize::from(kind)).copied().unwrap_or_default();
        if let (false, Some(value)) = (name.is_empty(), uint(value)) {
            into.set(name, value);
        }
    }
}

/// A message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    buf: Vec<u8>,
}

impl Request {
    /// A message of `kind` with `flags` beside `NLM_F_REQUEST`, and its fixed part.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut buf = Vec::with_capacity(128);
        buf.extend_from_slice(&0u32.to_ne_bytes()); // The length, by finish().
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]); // The number, by finish(); the port.
        let mut request = Request { buf };
        request.put(fixed);
        request
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// With an attribute.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Request {
        self.begin(kind, value.len());
        self.put(value);
        self
    }

    /// With a number of 32 bits.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Request {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// With text and its NUL.
    pub(crate) fn text(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// With an attribute that holds those that `inner` adds.
    pub(crate) fn nest(mut self, kind: u16, inner: impl FnOnce(Request) -> Request) -> Request {
        let at = self.buf.len();
        self.begin(kind | NESTED, 0);
        let mut done = inner(self);
        let len = u16::try_from(done.buf.len() - at).expect("our requests are some hundred bytes");
        done.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        done
    }

    fn begin(&mut self, kind: u16, value_len: usize) {
        let len = u16::try_from(4 + value_len).expect("our attributes are below 64 KiB");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
    }

    /// The bytes, numbered `seq`.
    pub(crate) fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = u32::try_from(self.buf.len()).expect("our requests are below 64 KiB");
        self.buf[..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let one = Request::new(16, DUMP, &[0; 16])
            .text(3, "eth0")
            .u32(4, 1500)
            .nest(18, |r| r.attr(1, &[7]).attr(2, &9u64.to_ne_bytes()));
        let mut bytes = one.clone().finish(5);
        bytes.extend(one.finish(6));
        bytes
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = sample();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.iter().map(|m| m.seq).collect::<Vec<_>>(), [5, 6]);
        assert_eq!((all[0].kind, all[0].flags), (16, DUMP | REQUEST));
        let inside = &all[1].body[16..];
        assert_eq!(text_of(inside, 3).as_deref(), Some("eth0"));
        assert_eq!(number32(inside, 4), Some(1500));
        let mut c = Counters::new("test");
        named(&mut c, find(inside, 18).unwrap(), &["", "a", "b"]);
        assert_eq!(c.iter().collect::<Vec<_>>(), [("a", 7), ("b", 9)]);
        assert_eq!(find(inside, 99), None);
    }

    #[test]
    fn a_cut_anywhere_ends_the_walk() {
        let bytes = sample();
        for end in 0..bytes.len() {
            let seen = messages(&bytes[..end]).count();
            assert_eq!(seen, usize::from(end >= bytes.len() / 2), "cut at {end}");
            for at in 0..end {
                // Where a message or an attribute does not begin is garbage.
                let walked = attrs(&bytes[at..end]).map(|(_, v)| v.len() + 4).sum::<usize>();
                assert!(walked <= end - at + 3);
            }
        }
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        assert_eq!(attrs(&[3, 0, 1, 0]).count(), 0, "shorter than its own header");
        assert_eq!(attrs(&[0; 64]).count(), 0, "a length of 0 would never end");
        assert_eq!(attrs(&[255, 255, 1, 0, 1]).count(), 0);
        let mut short = [0u8; HEADER];
        short[..4].copy_from_slice(&15u32.to_ne_bytes());
        assert_eq!(messages(&short).count(), 0);
        short[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(messages(&short).count(), 0);
    }

    #[test]
    fn structures_are_read_as_far_as_they_go() {
        let mut c = Counters::new("test");
        array(&mut c, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0], 4, &["a", "", "c"]);
        fields(&mut c, &[1, 2, 0, 3], &[("d", 1), ("e", 2), ("f", 2)]);
        assert_eq!(c.iter().collect::<Vec<_>>(), [("a", 1), ("d", 1), ("e", 2)]);
        assert_eq!(text(b"a\nb\xff\0rest"), "a\u{fffd}b\u{fffd}");
    }
}

//! A synchronous rtnetlink socket and the encoder for its messages.
//!
//! Why our own: the crates for it are asynchronous, or change with every minor version and bring
//! a dozen packages, for the eight requests this crate makes. Messages are header, fixed part,
//! attributes (type, length, value, padded to four), all in host byte order.
//! Linux: include/uapi/linux/netlink.h, rtnetlink(7).

use super::NetdevError;
use crate::sys;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLM_F_NESTED` in an attribute's type.
const NESTED: u16 = 0x8000;
/// The kernel's own buffer for answers is 32 KiB at most; a link with many attributes needs ~4.
const ANSWER_BYTES: usize = 32 * 1024;

/// `NLM_F_DUMP`: all there are, in several messages.
pub(super) const NLM_F_DUMP: u16 = 0x300;

/// Where an answer's attributes begin is the length of the fixed part of its message type.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
}

/// A request under construction.
pub(super) struct Request {
    buf: Vec<u8>,
}

impl Request {
    /// Begins a message of `kind` (`RTM_*`) with `flags` beyond REQUEST and ACK, and its fixed part.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&0u32.to_ne_bytes()); // length, set by finish()
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]); // sequence number, set by finish(); port 0
        let mut request = Request { buf };
        request.put(fixed);
        request
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Request {
        self.begin(kind, value.len());
        self.put(value);
        self
    }

    /// Appends a 32-bit attribute.
    pub(super) fn attr_u32(self, kind: u16, value: u32) -> Request {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 16-bit attribute.
    pub(super) fn attr_u16(self, kind: u16, value: u16) -> Request {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a NUL-terminated string.
    pub(super) fn attr_str(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that begins with `fixed` and holds the attributes `inner` adds.
    pub(super) fn nest(
        mut self,
        kind: u16,
        fixed: &[u8],
        inner: impl FnOnce(Request) -> Request,
    ) -> Request {
        let at = self.buf.len();
        self.begin(kind | NESTED, 0);
        self.put(fixed);
        let mut done = inner(self);
        let len = u16::try_from(done.buf.len() - at).expect("our requests are a few hundred bytes");
        done.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        done
    }

    fn begin(&mut self, kind: u16, value_len: usize) {
        let len = u16::try_from(4 + value_len).expect("our attributes are a few dozen bytes");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
    }

    fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = u32::try_from(self.buf.len()).expect("our requests are a few hundred bytes");
        self.buf[..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.buf
    }
}

/// An rtnetlink socket. It belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // protocol 0 is NETLINK_ROUTE
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Old kernels lack it; then errors carry only their number.
        let _ = sys::netlink::explain_errors(&fd);
        Ok(Netlink { fd, seq: 0 })
    }

    /// Takes over a socket that [`Netlink::open`] made and on which nothing is pending.
    pub(super) fn from_fd(fd: OwnedFd) -> Netlink {
        Netlink { fd, seq: 0 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends `request` and waits for its acknowledgement; `doing` completes "cannot …" in errors.
    pub(super) fn run(
        &mut self,
        request: Request,
        doing: impl FnOnce() -> String,
    ) -> Result<Option<Answer>, NetdevError> {
        Ok(self.dump(request, doing)?.pop())
    }

    /// The same for a request that many messages answer.
    pub(super) fn dump(
        &mut self,
        request: Request,
        doing: impl FnOnce() -> String,
    ) -> Result<Vec<Answer>, NetdevError> {
        self.exchange(request).map_err(|(source, kernel)| NetdevError {
            doing: doing(),
            kernel,
            source,
        })
    }

    fn exchange(&mut self, request: Request) -> Result<Vec<Answer>, (io::Error, Option<String>)> {
        let plain = |err: rustix::io::Errno| (io::Error::from(err), None);
        self.seq = self.seq.wrapping_add(1);
        let bytes = request.finish(self.seq);
        rustix::net::send(&self.fd, &bytes, SendFlags::empty()).map_err(plain)?;
        let mut buf = vec![0u8; ANSWER_BYTES];
        let mut answers = Vec::new();
        loop {
            let got = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, &mut buf[..], RecvFlags::TRUNC)
            })
            .map_err(plain)?;
            let len = got.1;
            if len > buf.len() {
                return Err((io::Error::from_raw_os_error(libc::EMSGSIZE), None));
            }
            for (kind, flags, seq, body) in Messages(&buf[..len]) {
                if seq != self.seq {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        let code =
                            body.first_chunk().map_or(-libc::EBADMSG, |b| i32::from_ne_bytes(*b));
                        if code == 0 {
                            return Ok(answers);
                        }
                        let sentence = (flags & NLM_F_ACK_TLVS != 0)
                            .then(|| {
                                body.get(4 + HEADER..).and_then(|a| attr(a, NLMSGERR_ATTR_MSG))
                            })
                            .flatten()
                            .map(text);
                        return Err((io::Error::from_raw_os_error(code.wrapping_neg()), sentence));
                    }
                    NLMSG_DONE => return Ok(answers),
                    _ => answers.push(Answer { body: body.to_vec() }),
                }
            }
        }
    }
}

/// The messages of one datagram: type, flags, sequence number, body.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
            self.0.first_chunk::<HEADER>()?;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((
            u16::from_ne_bytes([k0, k1]),
            u16::from_ne_bytes([f0, f1]),
            u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        ))
    }
}

/// The value of the first attribute of `kind` in `attrs`.
pub(super) fn attr(mut attrs: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let &[l0, l1, k0, k1] = attrs.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attrs.get(4..len)?;
        if u16::from_ne_bytes([k0, k1]) & !NESTED == kind {
            return Some(value);
        }
        attrs = attrs.get(len.next_multiple_of(4)..)?;
    }
}

/// A NUL-terminated string attribute.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A 16-bit attribute.
pub(super) fn attr_u16(attrs: &[u8], kind: u16) -> Option<u16> {
    attr(attrs, kind)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

/// A 32-bit attribute.
pub(super) fn attr_u32(attrs: &[u8], kind: u16) -> Option<u32> {
    attr(attrs, kind)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let request = Request::new(16, 0, &[0; 16]).attr_str(3, "tun0").attr_u32(4, 1500).nest(
            18,
            &[],
            |r| r.attr(1, b"veth").attr(2, &[7]),
        );
        let bytes = request.finish(9);
        let messages: Vec<_> = Messages(&bytes).collect();
        assert_eq!(messages.len(), 1);
        let (kind, flags, seq, body) = messages[0];
        assert_eq!((kind, flags, seq), (16, NLM_F_REQUEST | NLM_F_ACK, 9));
        let attrs = &body[16..];
        assert_eq!(attr(attrs, 3).map(text).as_deref(), Some("tun0"));
        assert_eq!(attr_u32(attrs, 4), Some(1500));
        let inner = attr(attrs, 18).unwrap();
        assert_eq!(attr(inner, 1), Some(&b"veth"[..]));
        assert_eq!(attr(inner, 2), Some(&[7][..]));
        assert_eq!(attr(attrs, 99), None);
    }

    #[test]
    fn lying_lengths_end_the_walk() {
        assert_eq!(attr(&[3, 0, 1, 0], 1), None);
        assert_eq!(attr(&[0, 0, 2, 0, 9, 9, 9, 9], 1), None);
        assert_eq!(attr(&[0xff, 0xff, 1, 0, 1], 1), None);
        let mut short = [0u8; HEADER];
        short[..4].copy_from_slice(&4u32.to_ne_bytes());
        assert!(Messages(&short).next().is_none());
    }
}

//! A netlink socket that asks and waits for the answer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::attr::{ACK, HEADER, Request, find, messages, text, u32_at};
use crate::sys;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: what is dumped changed meanwhile.
const DUMP_INTR: u16 = 0x10;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's sentence about it.
const ATTR_MSG: u16 = 1;
/// The kernel fills at most 32 KiB a datagram in a dump.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// What an answer may be as a whole: a table of a million routes or so.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How often a dump that changed meanwhile is asked for again.
const TRIES: usize = 3;

/// The kernel said no.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its error.
    pub(crate) source: io::Error,
    /// Its sentence, if it has one to say.
    pub(crate) sentence: Option<String>,
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Refused {
        Refused { source, sentence: None }
    }
}

impl From<rustix::io::Errno> for Refused {
    fn from(source: rustix::io::Errno) -> Refused {
        io::Error::from(source).into()
    }
}

/// A socket. It belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    datagram: Vec<u8>,
}

impl Socket {
    /// A socket of `protocol`: `None` is `NETLINK_ROUTE`.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Kernels before 4.12 have neither; then errors are numbers, and dumps are not filtered.
        let _ = sys::explain_errors(&fd);
        let _ = sys::check_strictly(&fd);
        // The kernel answers before it returns from send(); should it not, nobody waits for ever.
        let wait = Some(Duration::from_secs(10));
        rustix::net::sockopt::set_socket_timeout(&fd, Timeout::Recv, wait)?;
        Ok(Socket { fd, seq: 0, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// Sends a request that is a dump, and returns all messages of the answer with their headers, one
    /// behind the other, each padded to four. If it changes too often meanwhile, what came last.
    ///
    /// # Errors
    /// What the kernel says; `FileTooLarge` if there is no end of it.
    pub(crate) fn dump(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        for _ in 1..TRIES {
            let (answer, whole) = self.exchange(request.clone()).map_err(|r| r.source)?;
            if whole {
                return Ok(answer);
            }
        }
        Ok(self.exchange(request.clone()).map_err(|r| r.source)?.0)
    }

    /// Sends a request that asks for an acknowledgement, and waits for it; what came before it is
    /// returned.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Vec<u8>, Refused> {
        Ok(self.exchange(request)?.0)
    }

    // Until NLMSG_DONE, or the acknowledgement.
    fn exchange(&mut self, request: Request) -> Result<(Vec<u8>, bool), Refused> {
        self.seq = self.seq.wrapping_add(1);
        let bytes = request.finish(self.seq);
        rustix::net::send(&self.fd, &bytes, SendFlags::empty())?;
        let (mut answer, mut whole) = (Vec::new(), true);
        loop {
            let (_, len) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, &mut self.datagram[..], RecvFlags::TRUNC)
            })?;
            let Some(datagram) = self.datagram.get(..len) else {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE).into());
            };
            for message in messages(datagram).filter(|m| m.seq == self.seq) {
                whole &= message.flags & DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        verdict(message.body, message.kind, message.flags)?;
                        return Ok((answer, whole));
                    }
                    _ => {
                        answer.extend_from_slice(message.whole);
                        answer.resize(answer.len().next_multiple_of(4), 0);
                    }
                }
            }
            if answer.len() > ANSWER_BYTES_MAX {
                // The rest of it would be taken for the next answer's.
                return Err(io::Error::from_raw_os_error(libc::EFBIG).into());
            }
        }
    }
}

/// What ends an answer: 0, or an error.
fn verdict(body: &[u8], kind: u16, flags: u16) -> Result<(), Refused> {
    let code = match u32_at(body, 0) {
        Some(code) => code.cast_signed(),
        None if kind == NLMSG_DONE => 0,
        None => -libc::EBADMSG,
    };
    if code >= 0 {
        return Ok(());
    }
    // Behind the code: in an error the header of the request; in the end of a dump nothing.
    let at = if kind == NLMSG_ERROR { 4 + HEADER } else { 4 };
    let sentence = (flags & ACK_TLVS != 0)
        .then(|| find(body.get(at..).unwrap_or_default(), ATTR_MSG).map(text))
        .flatten();
    Err(Refused { source: io::Error::from_raw_os_error(code.wrapping_neg()), sentence })
}

/// The flags of a request that is answered by an acknowledgement.
pub(crate) const ASK: u16 = ACK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_kernels_with_its_sentence() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([8, 0, 1, 0]);
        body.extend(*b"no.\0");
        let refused = verdict(&body, NLMSG_ERROR, ACK_TLVS).unwrap_err();
        assert_eq!(refused.source.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(refused.sentence.as_deref(), Some("no."));
        assert!(verdict(&[], NLMSG_DONE, 0).is_ok(), "old kernels end a dump with nothing");
        assert!(verdict(&[0; 4], NLMSG_ERROR, 0).is_ok(), "0 is the acknowledgement");
        let garbage = verdict(&[1], NLMSG_ERROR, 0).unwrap_err();
        assert_eq!(garbage.source.raw_os_error(), Some(libc::EBADMSG));
        let refused = verdict(&i32::MIN.to_ne_bytes(), NLMSG_ERROR, 0).unwrap_err();
        assert!(refused.sentence.is_none(), "the least number has no opposite");
    }
}

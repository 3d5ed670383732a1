//! What the four processes say to each other, one `SOCK_SEQPACKET` packet a message.
//!
//! A message is its name and its fields, separated by NUL: easy to read in `strace`, and no field
//! can hold a NUL. Descriptors travel beside it (`SCM_RIGHTS`).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Bytes of the longest message; a longer one is refused by the sender.
const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// One message: its name, its fields, and a descriptor if one came along.
#[derive(Debug)]
pub(super) struct Message {
    pub name: String,
    pub fields: Vec<String>,
    pub fd: Option<OwnedFd>,
}

impl Message {
    /// The field at `index`, empty if the message is shorter.
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", String::as_str)
    }

    /// The field at `index` as a number, if it is one.
    pub fn number(&self, index: usize) -> Option<i32> {
        self.field(index).parse().ok()
    }
}

/// Sends one message. `InvalidInput` for a field with a NUL in it or a message that is too long.
pub(super) fn send(
    to: BorrowedFd<'_>,
    name: &str,
    fields: &[&str],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    if fields.iter().any(|field| field.contains('\0')) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a text has a NUL character in it",
        ));
    }
    let mut text = String::from(name);
    for field in fields {
        text.push('\0');
        text.push_str(field);
    }
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the plan is longer than 128 KiB"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        let pushed = control.push(SendAncillaryMessage::ScmRights(&fds));
        assert!(pushed, "the space was made for exactly one descriptor");
    }
    let iov = [IoSlice::new(text.as_bytes())];
    loop {
        match sendmsg(to, &iov, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message; `None` when the other side has closed. With `wait` unset, `WouldBlock` if
/// there is none.
pub(super) fn recv(from: BorrowedFd<'_>, wait: bool) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let len = loop {
        match recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(err) => return Err(err.into()),
            Ok(got) => break got.bytes,
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if len == 0 {
        return Ok(None);
    }
    bytes.truncate(len);
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("a message is not UTF-8"))?;
    let mut parts = text.split('\0').map(str::to_owned);
    let name = parts.next().unwrap_or_default();
    Ok(Some(Message { name, fields: parts.collect(), fd }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn fields_and_a_descriptor_arrive_and_the_end_is_seen() {
        let (a, b) = pair();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        send(a.as_fd(), "device", &["x", "", "line\nline"], Some(file.as_fd())).unwrap();
        let got = recv(b.as_fd(), true).unwrap().unwrap();
        assert_eq!(got.name, "device");
        assert_eq!(got.fields, ["x", "", "line\nline"]);
        assert!(got.fd.is_some());
        let empty = recv(b.as_fd(), false).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(recv(b.as_fd(), true).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_sent_whole_is_refused() {
        let (a, _b) = pair();
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        for field in ["a\0b", long.as_str()] {
            let err = send(a.as_fd(), "config", &[field], None).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

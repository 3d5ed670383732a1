//! The receiver that is a UDP socket of the kernel.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::SockRef;

use super::Receiver;
use super::wire::{KERNEL, PORT, Wire};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Room for each.
const ROOM: usize = 2048;

/// A socket, and an application that reads or echoes.
pub struct Socket {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrIn>,
    out: MultiHeaders<SockaddrIn>,
    buf: Vec<u8>,
    echo: bool,
    count: u64,
}

impl Socket {
    /// Binds it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(_wire: &Wire, echo: bool) -> io::Result<Socket> {
        let socket = UdpSocket::bind((KERNEL, PORT))?;
        // As much as the limit allows: more is asked for than that is.
        SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(1)))?;
        let (headers, out) =
            (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
        Ok(Socket { socket, headers, out, buf: vec![0; BATCH * ROOM], echo, count: 0 })
    }
}

impl Receiver for Socket {
    fn work(&mut self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        let mut from = Vec::with_capacity(BATCH);
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                self.buf.chunks_mut(ROOM).map(|b| [IoSliceMut::new(b)]).collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            match recvmmsg(fd, &mut self.headers, slices.iter_mut(), flags, None) {
                Ok(got) => from.extend(got.map(|m| (m.address, m.bytes))),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        if !self.echo {
            self.count += from.len() as u64;
            return Ok(());
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.buf.chunks(ROOM).zip(&from).map(|(b, (_, n))| [IoSlice::new(&b[..*n])]).collect();
        let to: Vec<Option<SockaddrIn>> = from.iter().map(|(a, _)| *a).collect();
        match sendmmsg(fd, &mut self.out, &slices, &to, [], MsgFlags::empty()) {
            Ok(sent) => self.count += sent.count() as u64,
            Err(Errno::ENOBUFS | Errno::EAGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
    fn count(&self) -> u64 {
        self.count
    }
}

//! The interface with arguments that make no sense: each call says what is wrong by `errno`, and none
//! ends the process.

use std::ffi::{CString, c_int};
use std::ptr::{null, null_mut};

use linerate_packetdrill::sys::{Interface, packetdrill_interface_init};

macro_rules! call {
    ($ifc:expr, $name:ident $(, $arg:expr)*) => {{
        let f = $ifc.$name.expect("every function is there");
        // SAFETY: pointers are no addresses at all, or point to a page of the test's own, which is longer
        // than any length that goes with them.
        (unsafe { f($ifc.userdata $(, $arg)*) }) as i64
    }};
}

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.next() % of.len() as u64) as usize]
    }
    /// A small number, a large one, a negative one.
    fn number(&mut self) -> c_int {
        match self.next() % 4 {
            0 => (self.next() % 64) as c_int,
            1 => self.one_of(&[c_int::MIN, c_int::MAX, -1, 0, 1, 4096, 65536]),
            2 => self.next() as c_int,
            _ => (self.next() % 4) as c_int,
        }
    }
}

const PAGE: usize = 16384;

/// Everything that the calls may point to.
struct Play {
    ifc: Interface,
    rng: Rng,
    page: Vec<u64>,
    fds: Vec<c_int>,
}

impl Play {
    fn new(seed: u64) -> Play {
        let flags = CString::new(format!("seed={seed}")).expect("no zero in it");
        let mut ifc = Interface::empty();
        // SAFETY: a C string, and a place for the interface.
        unsafe { packetdrill_interface_init(flags.as_ptr(), &raw mut ifc) };
        Play { ifc, rng: Rng(seed | 1), page: vec![0; PAGE / 8], fds: Vec::new() }
    }
    fn fd(&mut self) -> c_int {
        match self.rng.next() % 8 {
            0 => self.rng.number(),
            _ if self.fds.is_empty() => 3,
            _ => {
                let fds = std::mem::take(&mut self.fds);
                let fd = self.rng.one_of(&fds);
                self.fds = fds;
                fd
            }
        }
    }
    /// Random bytes of the page, or no address; and a length that fits.
    fn memory(&mut self) -> (*mut u8, usize) {
        let len = self.rng.one_of(&[0, 1, 2, 4, 8, 16, 28, 100, 1460, 4096]);
        if self.rng.next().is_multiple_of(8) {
            return (self.rng.one_of(&[null_mut(), std::ptr::dangling_mut()]), len);
        }
        for at in 0..4 {
            self.page[at] = self.rng.next();
        }
        // Often an address that makes sense.
        if self.rng.next().is_multiple_of(2) {
            let family = self.rng.one_of(&[2_u64, 10, 0]);
            self.page[0] = family | 0x901f_0000 | 0x0100_a8c0 << 32;
        }
        (self.page.as_mut_ptr().cast(), len)
    }
    fn opens(&mut self, fd: i64) {
        if let Ok(fd) = c_int::try_from(fd)
            && fd >= 0
        {
            self.fds.push(fd);
        }
    }

    /// One call of any function; those that wait have nothing to wait for, or not long.
    fn call(&mut self) -> i64 {
        let (fd, n) = (self.fd(), self.rng.number());
        let (at, len) = self.memory();
        let (short, flags) = (len as libc::socklen_t, self.rng.number() | libc::MSG_DONTWAIT);
        let mut room = short;
        match self.rng.next() % 24 {
            0 => {
                let domain = self.rng.one_of(&[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, n]);
                let kind = self.rng.one_of(&[libc::SOCK_STREAM, libc::SOCK_DGRAM, n]);
                let kind = kind | libc::SOCK_NONBLOCK;
                let opened = call!(self.ifc, socket, domain, kind, self.rng.one_of(&[0, 6, n]));
                self.opens(opened);
                opened
            }
            1 => call!(self.ifc, bind, fd, at.cast(), short),
            2 => call!(self.ifc, listen, fd, n),
            3 => call!(self.ifc, connect, fd, at.cast(), short),
            4 => call!(self.ifc, recv, fd, at.cast(), len, flags),
            5 => call!(self.ifc, send, fd, at.cast(), len, flags),
            6 => call!(self.ifc, sendto, fd, at.cast(), len, flags, at.cast(), short),
            7 => call!(self.ifc, recvfrom, fd, at.cast(), len, flags, at.cast(), &raw mut room),
            8 => call!(self.ifc, shutdown, fd, n),
            9 => {
                self.fds.retain(|open| *open != fd);
                call!(self.ifc, close, fd)
            }
            10..=12 => {
                let level = self.rng.one_of(&[1, 6, 0, 41, n]);
                call!(self.ifc, setsockopt, fd, level, n, at.cast(), short)
            }
            13 | 14 => {
                let level = self.rng.one_of(&[1, 6, 0, 41, n]);
                call!(self.ifc, getsockopt, fd, level, n, at.cast(), &raw mut room)
            }
            15 => {
                call!(self.ifc, ioctl, fd, self.rng.one_of(&[0x541b, 0x5411, n as u64]), at.cast())
            }
            16 => call!(self.ifc, fcntl, fd, self.rng.one_of(&[1, 2, 3, n]), n),
            17 => {
                let count = (len / size_of::<libc::pollfd>()) as libc::nfds_t;
                call!(self.ifc, poll, at.cast(), count, n.rem_euclid(50))
            }
            18 => {
                let opened = call!(self.ifc, epoll_create, n);
                self.opens(opened);
                opened
            }
            19 => {
                call!(self.ifc, epoll_ctl, fd, self.rng.one_of(&[1, 2, 3, n]), self.fd(), at.cast())
            }
            20 => call!(self.ifc, epoll_wait, fd, at.cast(), n % 100, n.rem_euclid(50)),
            21 => call!(self.ifc, netdev_send, at.cast(), len),
            22 => {
                let flags = libc::SPLICE_F_NONBLOCK | n as u32;
                call!(self.ifc, splice, fd, null_mut(), self.fd(), null_mut(), len, flags)
            }
            _ => self.vectors(fd, flags, at, len),
        }
    }

    /// Calls with structures that point on.
    fn vectors(&mut self, fd: c_int, flags: c_int, at: *mut u8, len: usize) -> i64 {
        let iov = [libc::iovec { iov_base: at.cast(), iov_len: len }; 2];
        // SAFETY: a header of zeros is one that says nothing.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        (msg.msg_iov, msg.msg_iovlen) = (iov.as_ptr().cast_mut(), 2);
        let count = self.rng.one_of(&[0, 1, 2]);
        match self.rng.next() % 6 {
            0 => call!(self.ifc, readv, fd, iov.as_ptr(), count),
            1 => call!(self.ifc, writev, fd, iov.as_ptr(), count),
            2 => call!(self.ifc, sendmsg, fd, &raw const msg, flags),
            3 => call!(self.ifc, recvmsg, fd, &raw mut msg, flags),
            4 => call!(self.ifc, sendmsg, fd, null(), flags),
            _ => call!(self.ifc, pipe, null_mut()),
        }
    }
}

#[test]
fn arguments_out_of_range_are_errors() {
    let (mut failed, mut did) = (0, 0);
    for seed in 1..40 {
        let mut play = Play::new(seed);
        for _ in 0..1500 {
            match play.call() {
                -1 => {
                    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                    assert!((1..134).contains(&errno), "seed {seed}: errno {errno}");
                    failed += 1;
                }
                said => {
                    assert!(said >= 0, "seed {seed}: {said}");
                    did += 1;
                }
            }
        }
        for fd in std::mem::take(&mut play.fds) {
            call!(play.ifc, close, fd);
        }
        let free = play.ifc.free.expect("it is there");
        // SAFETY: the last call.
        unsafe { free(play.ifc.userdata) };
    }
    assert!(failed > 1000 && did > 1000, "both happen: {failed}, {did}");
}

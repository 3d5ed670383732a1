//! A UDP flow as QUIC has them: datagrams of one size, many handed to the kernel at once
//! (`UDP_SEGMENT`) and taken at once (`UDP_GRO`), acknowledged by their receiver, and no more of them
//! under way than it takes without loss. What counts is what the receiver says that it has.
//!
//! The receiver checks that each datagram is whole, of this flow, and numbered no higher than it can
//! be: what a tool tore apart or made twice is a failure and no throughput.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::traffic::{Window, nanos};

/// Bytes of a datagram's payload: what QUIC sends where nothing is known of the path, and fits every
/// MTU measured.
pub const DATAGRAM: usize = 1400;
/// Datagrams handed to the kernel at once: as many as fit into the largest.
const BURST: usize = 65_507 / DATAGRAM;
/// Least and most datagrams under way.
const WINDOW: (u64, u64) = (BURST as u64, 32 * BURST as u64);
/// Datagrams that a receiver takes before it acknowledges, if more wait.
const ACK_EVERY: u64 = 64;
/// Without an acknowledgement for so long all that is under way counts as lost.
const PATIENCE: Duration = Duration::from_millis(20);
/// Without one for so long the flow is over.
const GIVEN_UP: Duration = Duration::from_secs(15);
/// Receive buffer of both ends, bytes; the kernel may give less.
const RCVBUF: usize = 4 << 20;
/// The smallest datagram: flow, number.
const HEAD: usize = 12;
/// An acknowledgement: flow, datagrams had, the number after the highest.
const ACK: usize = 20;

/// A socket of either end.
///
/// # Errors
/// Those of `socket(2)` and `bind(2)`.
pub fn socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    let _ = SockRef::from(&socket).set_recv_buffer_size(RCVBUF);
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

/// The same for a client, at any port.
///
/// # Errors
/// Those of [`socket`].
pub fn client_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u16; 8].into() };
    socket(SocketAddr::new(any, 0))
}

/// What a sender of a flow knows of it.
#[derive(Debug)]
struct Sending {
    flow: u32,
    /// The number of the datagram that is sent next.
    next: u64,
    /// The number after the highest that the receiver has.
    seen: u64,
    /// Datagrams that it has.
    had: u64,
    /// As many of `seen` as were given up.
    lost: u64,
    window: u64,
    /// Where the window was lowered last: what was under way then says no more.
    lowered_at: u64,
    /// Where the window grows next, if nothing is lost.
    grow_at: u64,
}

impl Sending {
    fn new(flow: u32) -> Self {
        let window = 4 * WINDOW.0;
        Self { flow, next: 0, seen: 0, had: 0, lost: 0, window, lowered_at: 0, grow_at: window }
    }

    fn may_send(&self) -> bool {
        self.next - self.seen + BURST as u64 <= self.window
    }

    /// # Errors
    /// The receiver says what can not be.
    fn acked(&mut self, ack: &[u8]) -> io::Result<()> {
        let Some((flow, had, seen)) = read_ack(ack) else { return Ok(()) };
        if flow != self.flow || seen < self.seen || had < self.had {
            // Of a flow before this one, or overtaken.
            return Ok(());
        }
        if had > seen || seen > self.next {
            let next = self.next;
            let why = format!("the receiver has {had} datagrams up to {seen}; {next} were sent");
            return Err(io::Error::other(why));
        }
        (self.had, self.seen) = (had, seen);
        if seen - had > self.lost {
            self.lost = seen - had;
            self.lower();
        } else if seen >= self.grow_at {
            self.window = (self.window + BURST as u64).min(WINDOW.1);
            self.grow_at = seen + self.window;
        }
        Ok(())
    }

    fn lower(&mut self) {
        if self.seen >= self.lowered_at {
            self.window = (self.window * 3 / 4).max(WINDOW.0);
            self.lowered_at = self.next;
            self.grow_at = self.next + self.window;
        }
    }

    /// Nothing was heard for too long.
    fn give_up(&mut self) {
        self.lower();
        self.seen = self.next;
        self.lost = self.next - self.had;
    }
}

/// Somebody asks for a flow, or for its end.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    flow: u32,
    /// How long it is to be; 0 ends it.
    ms: u64,
    from: SocketAddr,
}

impl Order {
    fn read(datagram: &[u8], from: SocketAddr) -> Option<Self> {
        let (flow, ms) = read_head(datagram).filter(|_| datagram.len() == HEAD)?;
        Some(Self { flow, ms, from })
    }
}

/// Sends a flow to `to` until `end`, at most [`GIVEN_UP`] beyond the last acknowledgement, or until
/// another is asked for, which is returned. `look` is told the datagrams that the receiver has, now
/// and then.
///
/// # Errors
/// Those of the socket, and that the receiver says nothing any more.
pub fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    flow: u32,
    end: Instant,
    mut look: impl FnMut(u64),
) -> io::Result<Option<Order>> {
    setsockopt(socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32))?;
    let mut burst = vec![0xa5; BURST * DATAGRAM];
    let mut answer = vec![0; 65_536];
    let mut sending = Sending::new(flow);
    let (mut now, mut heard) = (Instant::now(), Instant::now());
    while now < end {
        while let Some((len, from)) = unless_empty(socket.recv_from(&mut answer))? {
            let answer = answer.get(..len).unwrap_or_default();
            // One for the same flow was sent again before the first datagram was there.
            let order = Order::read(answer, from).filter(|o| o.flow != flow || o.ms == 0);
            if order.is_some() {
                return Ok(order);
            }
            // Several acknowledgements may come as one.
            for ack in answer.chunks_exact(ACK) {
                sending.acked(ack)?;
            }
            heard = now;
        }
        look(sending.had);
        if sending.may_send() {
            for (number, datagram) in (sending.next..).zip(burst.chunks_exact_mut(DATAGRAM)) {
                write_head(datagram, flow, number);
            }
            match unless_empty(socket.send_to(&burst, to))? {
                Some(_) => sending.next += BURST as u64,
                None => drop(wait(socket, PollFlags::POLLIN | PollFlags::POLLOUT)?),
            }
        } else if !wait(socket, PollFlags::POLLIN)? {
            sending.give_up();
        }
        now = Instant::now();
        if now.duration_since(heard) > GIVEN_UP {
            return Err(io::Error::new(ErrorKind::TimedOut, "no acknowledgement came"));
        }
    }
    Ok(None)
}

/// Sends for the whole of `window`: the bytes that the receiver had in the part that counts, and
/// its length in ns.
///
/// # Errors
/// Those of [`send`], and that nothing was acknowledged.
pub fn send_counted(
    socket: &UdpSocket,
    to: SocketAddr,
    flow: u32,
    window: Window,
) -> io::Result<(u64, u64)> {
    let begin = Instant::now() + window.warmup();
    let end = begin + window.counted();
    let (mut first, mut last) = (None, (0, begin));
    send(socket, to, flow, end, |had| {
        let now = Instant::now();
        if now >= begin {
            first.get_or_insert((had, now));
            last = (had, now);
        }
    })?;
    counted(first, last)
}

fn counted(first: Option<(u64, Instant)>, last: (u64, Instant)) -> io::Result<(u64, u64)> {
    let (had, at) = first.unwrap_or(last);
    let (datagrams, elapsed) = (last.0 - had, last.1.duration_since(at));
    if datagrams == 0 || elapsed.is_zero() {
        return Err(io::Error::other("no datagram arrived"));
    }
    Ok((datagrams * DATAGRAM as u64, nanos(elapsed)))
}

/// What a receiver knows of the flow that it receives.
#[derive(Debug, Default)]
pub struct Receiving {
    flow: u32,
    from: Option<SocketAddr>,
    had: u64,
    seen: u64,
    unacked: u64,
}

impl Receiving {
    /// Takes what one read gave.
    ///
    /// # Errors
    /// A datagram is not one that was sent.
    fn take(&mut self, read: &[u8], from: SocketAddr) -> io::Result<()> {
        for datagram in read.chunks(DATAGRAM) {
            let head = read_head(datagram).filter(|_| datagram.len() == DATAGRAM);
            let Some((flow, number)) = head else {
                let why = format!("a datagram of {} bytes came", datagram.len());
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            };
            if flow != self.flow {
                // What is left of a flow has a lower number.
                if flow < self.flow {
                    continue;
                }
                *self = Self { flow, ..Self::default() };
            }
            self.had += 1;
            self.unacked += 1;
            self.seen = self.seen.max(number + 1);
            self.from = Some(from);
        }
        Ok(())
    }

    fn ack(&mut self, socket: &UdpSocket) {
        if let Some(from) = self.from.filter(|_| self.unacked > 0) {
            let mut ack = [0; ACK];
            ack[..4].copy_from_slice(&self.flow.to_be_bytes());
            ack[4..12].copy_from_slice(&self.had.to_be_bytes());
            ack[12..].copy_from_slice(&self.seen.to_be_bytes());
            // One that is lost is made good by the next.
            let _ = socket.send_to(&ack, from);
            self.unacked = 0;
        }
    }
}

/// Receives and acknowledges until `look`, which is told the flow and the datagrams had of it after
/// each read and at least every 20 ms, says that it is enough.
///
/// # Errors
/// Those of the socket; a datagram that is not whole.
pub fn receive(socket: &UdpSocket, mut look: impl FnMut(u32, u64) -> bool) -> io::Result<()> {
    let mut receiving = Receiving::default();
    let mut read = vec![0; 65_536];
    while look(receiving.flow, receiving.had) {
        match unless_empty(socket.recv_from(&mut read))? {
            Some((len, from)) => {
                receiving.take(read.get(..len).unwrap_or_default(), from)?;
                if receiving.unacked >= ACK_EVERY {
                    receiving.ack(socket);
                }
            }
            None => {
                receiving.ack(socket);
                wait(socket, PollFlags::POLLIN)?;
            }
        }
    }
    Ok(())
}

/// Asks whoever serves at `to` for a flow, receives it for the whole of `window` and counts as
/// [`send_counted`].
///
/// # Errors
/// Those of [`receive`], and that nothing came.
pub fn receive_counted(
    socket: &UdpSocket,
    to: SocketAddr,
    flow: u32,
    window: Window,
) -> io::Result<(u64, u64)> {
    // Longer than the window, which begins with the first datagram.
    let ms = u64::try_from(window.whole().as_millis()).unwrap_or(u64::MAX) + 1000;
    let order = |ms| {
        let mut order = [0; HEAD];
        write_head(&mut order, flow, ms);
        socket.send_to(&order, to).map(drop)
    };
    order(ms)?;
    let asked = Instant::now();
    let (mut asked_again, mut begin) = (asked, None);
    let (mut first, mut last) = (None, (0, asked));
    receive(socket, |of, had| {
        let now = Instant::now();
        if of != flow || had == 0 {
            if now.duration_since(asked_again) > 5 * PATIENCE {
                asked_again = now;
                let _ = order(ms);
            }
            return now < asked + GIVEN_UP;
        }
        let begin = *begin.get_or_insert(now) + window.warmup();
        if now >= begin {
            first.get_or_insert((had, now));
            last = (had, now);
        }
        now < begin + window.counted()
    })?;
    // Where it is lost the flow ends by itself, later.
    let _ = order(0);
    counted(first, last)
}

/// Serves orders: sends to whoever asks, as long as it asks for.
///
/// # Errors
/// Those of the socket; that one receiver went away is none.
pub fn serve(socket: &UdpSocket) -> io::Result<()> {
    let mut read = vec![0; 65_536];
    let mut next = None;
    loop {
        if let Some(Order { flow, ms, from }) = next.take().filter(|order: &Order| order.ms > 0) {
            let end = Instant::now() + Duration::from_millis(ms);
            next = send(socket, from, flow, end, |_| ()).unwrap_or(None);
            continue;
        }
        match unless_empty(socket.recv_from(&mut read))? {
            // What still comes of a flow that has ended is no order.
            Some((len, from)) => next = Order::read(read.get(..len).unwrap_or_default(), from),
            None => drop(wait(socket, PollFlags::POLLIN)?),
        }
    }
}

/// Passes on what comes to `inner`, to `to` and back: the kernel's part of what a gateway does.
///
/// # Errors
/// Those of the sockets.
pub fn relay(inner: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let outer = client_socket(to.ip())?;
    for socket in [inner, &outer] {
        setsockopt(socket, sockopt::UdpGsoSegment, &(DATAGRAM as i32))?;
    }
    let mut read = vec![0; 65_536];
    let mut client = None;
    loop {
        let up = unless_empty(inner.recv_from(&mut read))?;
        if let Some((len, from)) = up {
            client = Some(from);
            // What there is no room for is lost, as on every way.
            unless_empty(outer.send_to(read.get(..len).unwrap_or_default(), to))?;
        }
        let down = unless_empty(outer.recv_from(&mut read))?;
        if let (Some((len, _)), Some(client)) = (down, client) {
            unless_empty(inner.send_to(read.get(..len).unwrap_or_default(), client))?;
        }
        if up.is_none() && down.is_none() {
            let both = [inner, &outer].map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN));
            match poll(&mut { both }, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The name of a flow: that of a later one is higher, whoever chose it.
pub fn flow_name() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Unique for 6 years at 50 ms each.
    (since.as_millis() / 50) as u32
}

/// Nothing where the socket has nothing, or no room, or tells of an error that an earlier datagram
/// met.
fn unless_empty<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) => match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused => {
                Ok(None)
            }
            _ if e.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
            _ => Err(e),
        },
    }
}

/// Waits for at most [`PATIENCE`]; whether anything came.
fn wait(socket: &UdpSocket, what: PollFlags) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(socket.as_fd(), what)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn write_head(datagram: &mut [u8], flow: u32, number: u64) {
    if let Some(head) = datagram.first_chunk_mut::<HEAD>() {
        head[..4].copy_from_slice(&flow.to_be_bytes());
        head[4..].copy_from_slice(&number.to_be_bytes());
    }
}

/// Flow and number of a datagram; none if it is not whole. An order is as long as a head.
fn read_head(datagram: &[u8]) -> Option<(u32, u64)> {
    if datagram.len() < HEAD {
        return None;
    }
    let (flow, rest) = datagram.split_first_chunk()?;
    Some((u32::from_be_bytes(*flow), u64::from_be_bytes(*rest.first_chunk()?)))
}

fn read_ack(ack: &[u8]) -> Option<(u32, u64, u64)> {
    let (flow, rest) = ack.split_first_chunk()?;
    let (had, rest) = rest.split_first_chunk()?;
    let seen = rest.first_chunk()?;
    Some((u32::from_be_bytes(*flow), u64::from_be_bytes(*had), u64::from_be_bytes(*seen)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;

    fn local() -> io::Result<(UdpSocket, SocketAddr)> {
        let socket = socket((Ipv4Addr::LOCALHOST, 0).into())?;
        let at = socket.local_addr()?;
        Ok((socket, at))
    }

    /// What the sender counts is what the receiver has.
    #[test]
    fn a_flow_arrives_and_is_counted_by_its_receiver() -> io::Result<()> {
        let (sink, at) = local()?;
        let receiving = thread::spawn(move || {
            let mut all = 0;
            // The next flow ends it.
            let ended = receive(&sink, |flow, had| {
                all = if flow == 7 { had } else { all };
                flow < 8
            });
            ended.map(|()| all)
        });
        let client = client_socket(at.ip())?;
        let mut had = 0;
        while had < 1000 {
            let end = Instant::now() + Duration::from_millis(50);
            send(&client, at, 7, end, |acked| had = had.max(acked))?;
        }
        while !receiving.is_finished() {
            let _ = send(&client, at, 8, Instant::now() + PATIENCE, |_| ());
        }
        let received = receiving.join().expect("it does not panic")?;
        assert!(received >= had, "{had} acknowledged, {received} there");
        Ok(())
    }

    #[test]
    fn the_window_follows_what_the_receiver_says() {
        let ack = |had: u64, seen: u64| {
            let mut ack = [0; ACK];
            ack[..4].copy_from_slice(&7u32.to_be_bytes());
            ack[4..12].copy_from_slice(&had.to_be_bytes());
            ack[12..].copy_from_slice(&seen.to_be_bytes());
            ack
        };
        let mut sending = Sending::new(7);
        sending.next = 400;
        let begun = sending.window;
        sending.acked(&ack(190, 190)).expect("it can be");
        assert_eq!(sending.window, begun + BURST as u64);
        sending.acked(&ack(290, 300)).expect("it can be");
        let lower = sending.window;
        assert!(lower < begun + BURST as u64);
        // What was under way then is no further loss.
        sending.acked(&ack(340, 390)).expect("it can be");
        assert_eq!(sending.window, lower);
        for impossible in [ack(391, 390), ack(390, 401)] {
            assert!(sending.acked(&impossible).is_err());
        }
        sending.give_up();
        assert!(sending.may_send() && sending.lost == 60);
    }

    #[test]
    fn a_datagram_of_another_size_is_refused() {
        let mut receiving = Receiving::default();
        let from = (Ipv4Addr::LOCALHOST, 1).into();
        let mut datagrams = vec![0; 2 * DATAGRAM];
        for (number, datagram) in (0..).zip(datagrams.chunks_mut(DATAGRAM)) {
            write_head(datagram, 7, number);
        }
        receiving.take(&datagrams, from).expect("they are whole");
        assert_eq!((receiving.had, receiving.seen), (2, 2));
        assert!(receiving.take(&datagrams[..2 * DATAGRAM - 1], from).is_err());
    }
}

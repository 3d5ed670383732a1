//! What a script needs of a stack: packets in and out, sockets, a clock.

use super::script::Knob;

/// A socket of a target: its place in the target's table.
pub type Fd = usize;

/// Buffers that scripts are written for, on any target: windows are scaled by 7 bits then. (Linux had these as
/// defaults until 6.15.)
pub const BUFFERS: [(&str, &str); 2] =
    [("net.ipv4.tcp_rmem", "4096 131072 6291456"), ("net.ipv4.tcp_wmem", "4096 16384 4194304")];

/// A packet that the stack sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When, in microseconds since the script began.
    pub at_us: i64,
    /// From the IP header on.
    pub bytes: Vec<u8>,
}

/// A system call, with the script's words resolved. No call waits: one that would says `EAGAIN`
/// (or `EINPROGRESS`), and is tried again if the script lets it block.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// A stream socket.
    Socket,
    /// To the local address; a port of 0 is chosen.
    Bind(Fd, u16),
    /// With this backlog.
    Listen(Fd, i32),
    /// The next connection.
    Accept(Fd),
    /// To a port of the peer.
    Connect(Fd, u16),
    /// Whether a connect that is under way has come to an end.
    Connected(Fd),
    /// At most so many bytes, with these `MSG_` flags.
    Recv(Fd, usize, i32),
    /// So many bytes, with these `MSG_` flags.
    Send(Fd, usize, i32),
    /// `SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`.
    Shutdown(Fd, i32),
    /// `close`
    Close(Fd),
    /// Level, name, value.
    SetOpt(Fd, i32, i32, Value),
    /// Level and name.
    GetOpt(Fd, i32, i32),
    /// The events asked for; gives those that are.
    Poll(Fd, i16),
    /// `FIONREAD`, `TIOCOUTQ`.
    Ioctl(Fd, u64),
}

/// The value of a socket option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An `int`.
    Int(i32),
    /// On or off, and seconds.
    Linger(bool, u16),
    /// The name of a congestion control.
    Name(String),
}

/// What a call gave: a result of 0 or more and, where there is one, what it wrote; or an errno.
pub type Outcome = Result<(i64, Option<Value>), i32>;

/// A stack that scripts are run against.
pub trait Target {
    /// Microseconds since the script began.
    fn now_us(&mut self) -> i64;
    /// Whether its clock stands still unless it is moved: times are exact then.
    fn is_virtual(&self) -> bool;
    /// Moves on until `until_us`, or until something was sent or may have changed for a socket.
    fn step(&mut self, until_us: i64);
    /// The next packet that was sent.
    fn sent(&mut self) -> Option<Sent>;
    /// A packet arrives, from the IP header on.
    fn inject(&mut self, bytes: &[u8]);
    /// Does a call.
    fn call(&mut self, call: &Call) -> Outcome;
    /// Sets a knob.
    ///
    /// # Errors
    /// A sentence that says why not.
    fn set_knob(&mut self, knob: &Knob) -> Result<(), String>;
    /// A field of TCP_INFO of a connection, such as `tcpi_snd_cwnd`.
    fn tcp_info(&mut self, fd: Fd, field: &str) -> Option<i64>;
    /// A counter of `/proc/net/snmp` or `/proc/net/netstat`, its group in front: `TcpExtTCPTimeouts`.
    fn counter(&mut self, name: &str) -> Option<i64>;
}

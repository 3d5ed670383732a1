//! `getsockopt` and `setsockopt`: (level, name) to the stack's options.
//!
//! Linux: net/core/sock.c `sk_setsockopt`; net/ipv4/tcp.c `do_tcp_setsockopt`

use linerate_core::sock::error::TcpError;
use linerate_core::table::knob::KnobValue;
use linerate_core::tcp::{KeepAlive, TcpOpt};

use crate::Errno;
use crate::calls::Calls;
use crate::files::Stand;

const TCP: i32 = libc::SOL_TCP;
const SOCKET: i32 = libc::SOL_SOCKET;

/// A C `int`.
///
/// # Errors
/// EINVAL if there are fewer bytes.
fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(libc::EINVAL)
}

/// Two C integers of the size of `long` (`struct timeval`) as milliseconds.
fn timeval_ms(value: &[u8]) -> Result<u64, Errno> {
    let long = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|b| b.first_chunk()).ok_or(libc::EINVAL)?;
        u64::try_from(i64::from_ne_bytes(*bytes)).map_err(|_| libc::EDOM)
    };
    Ok(long(0)?.saturating_mul(1000).saturating_add(long(8)?.div_ceil(1000)))
}

impl Calls {
    /// `setsockopt`.
    ///
    /// # Errors
    /// EINVAL, ENOPROTOOPT, ENOENT (no such congestion control), EBADF, ENOTSOCK.
    pub fn setsockopt(
        &mut self,
        fd: i32,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let keep = self.stack.shard.tcp_keepalive();
        let sock = self.files.sock(fd)?;
        if (level, name) == (TCP, libc::TCP_CONGESTION) {
            let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
            let text = String::from_utf8_lossy(&value[..end]);
            let cc = KnobValue::parse(&text).ok_or(libc::ENOENT)?;
            return self.set(fd, TcpOpt::Congestion(cc));
        }
        let told = sock.told.clone();
        let on = int(value).unwrap_or(0) != 0;
        let before = |name, none| told.get(&(TCP, name)).copied().unwrap_or(none as i32) as u32;
        let keepalive = |on: bool| {
            TcpOpt::KeepAlive(on.then(|| KeepAlive {
                time_s: before(libc::TCP_KEEPIDLE, keep.time_s),
                intvl_s: before(libc::TCP_KEEPINTVL, keep.intvl_s),
                probes: before(libc::TCP_KEEPCNT, keep.probes),
            }))
        };
        let opt = match (level, name) {
            (SOCKET, libc::SO_LINGER) => {
                let seconds = int(value.get(4..).unwrap_or_default())?;
                sock.linger = on.then_some(seconds as u32);
                return Ok(());
            }
            (SOCKET, libc::SO_RCVTIMEO) => {
                sock.timeo_ms.0 = timeval_ms(value)?;
                return Ok(());
            }
            (SOCKET, libc::SO_SNDTIMEO) => {
                sock.timeo_ms.1 = timeval_ms(value)?;
                return Ok(());
            }
            (SOCKET, libc::SO_ZEROCOPY) => {
                let value = int(value)?;
                if !(0..=1).contains(&value) {
                    return Err(libc::EINVAL);
                }
                sock.zerocopy.on = value == 1;
                None
            }
            (SOCKET, libc::SO_RCVLOWAT) => {
                sock.rcvlowat = int(value)?.max(1) as usize;
                None
            }
            (SOCKET, libc::SO_RCVBUF) => Some(TcpOpt::RcvBuf(int(value)? as u32 as usize)),
            (SOCKET, libc::SO_SNDBUF) => Some(TcpOpt::SndBuf(int(value)? as u32 as usize)),
            (SOCKET, libc::SO_RCVBUFFORCE) => {
                Some(TcpOpt::RcvBufForce(int(value)? as u32 as usize))
            }
            (SOCKET, libc::SO_SNDBUFFORCE) => {
                Some(TcpOpt::SndBufForce(int(value)? as u32 as usize))
            }
            (SOCKET, libc::SO_KEEPALIVE) => Some(keepalive(on)),
            (SOCKET, libc::SO_REUSEADDR | libc::SO_REUSEPORT | libc::SO_MARK) => None,
            (TCP, libc::TCP_NODELAY) => Some(TcpOpt::NoDelay(on)),
            (TCP, libc::TCP_CORK) => {
                sock.cork = on;
                sock.more = false;
                Some(TcpOpt::Cork(on))
            }
            (TCP, libc::TCP_QUICKACK) => Some(TcpOpt::QuickAck(on)),
            (TCP, libc::TCP_USER_TIMEOUT) => {
                let ms = u32::try_from(int(value)?).map_err(|_| libc::EINVAL)?;
                Some(TcpOpt::UserTimeout(ms))
            }
            (TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                let most = if name == libc::TCP_KEEPCNT { 127 } else { 32767 };
                if !(1..=most).contains(&int(value)?) {
                    return Err(libc::EINVAL);
                }
                None
            }
            (TCP, crate::data::TCP_INQ) => None,
            (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                // ECN's two bits are the stack's (`inet_sk`'s tos).
                Some(TcpOpt::Tos(int(value)? as u8 & !3))
            }
            (libc::SOL_IP | libc::SOL_IPV6, _) => None,
            (SOCKET, libc::SO_BUSY_POLL) => Some(TcpOpt::BusyPoll(Some(int(value)? as u32))),
            _ => return Err(libc::ENOPROTOOPT),
        };
        // Options of IP may be a byte.
        let byte =
            || value.first().map(|b| i32::from(*b)).filter(|_| level != TCP && level != SOCKET);
        let number = int(value).or(byte().ok_or(libc::EINVAL))?;
        sock.told.insert((level, name), number);
        let again = sock.told.get(&(SOCKET, libc::SO_KEEPALIVE)).is_some_and(|on| *on != 0);
        match opt {
            Some(opt) => self.set(fd, opt),
            None if again && level == TCP && name != crate::data::TCP_INQ => {
                let value = 1_i32.to_ne_bytes();
                self.setsockopt(fd, SOCKET, libc::SO_KEEPALIVE, &value)
            }
            None => Ok(()),
        }
    }

    /// Sets it on the connection, or notes it until there is one.
    fn set(&mut self, fd: i32, opt: TcpOpt) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        match sock.conn() {
            Some(id) => match self.stack.shard.tcp_set(id, opt) {
                Ok(()) | Err(TcpError::NotConnected) => Ok(()),
                Err(err) => Err(err.errno()),
            },
            None => {
                sock.opts.push(opt);
                Ok(())
            }
        }
    }

    /// `getsockopt`.
    ///
    /// # Errors
    /// ENOPROTOOPT, EBADF, ENOTSOCK.
    pub fn getsockopt(&mut self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let sock = self.files.sock(fd)?;
        let info = sock.conn().and_then(|id| self.stack.shard.tcp_info(id));
        let told = sock.told.get(&(level, name)).copied();
        let knobs = &self.stack.shard.net.knobs;
        let int = match (level, name) {
            (SOCKET, libc::SO_ERROR) => self.take_error(fd)?,
            (SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            (SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
            (SOCKET, libc::SO_DOMAIN) => sock.domain,
            (SOCKET, libc::SO_ACCEPTCONN) => i32::from(matches!(sock.stand, Stand::Listens(_))),
            (SOCKET, libc::SO_SNDBUF) => match info {
                Some(info) => info.sndbuf as i32,
                None => told.map_or(knobs.tcp_wmem[1] as i32, |bytes| 2 * bytes),
            },
            (SOCKET, libc::SO_RCVBUF) => match info {
                Some(info) => info.rcvbuf as i32,
                None => told.map_or(knobs.tcp_rmem[1] as i32, |bytes| 2 * bytes),
            },
            (SOCKET, libc::SO_RCVLOWAT) => sock.rcvlowat as i32,
            (SOCKET, libc::SO_LINGER) => {
                let on = i32::from(sock.linger.is_some()).to_ne_bytes();
                let seconds = sock.linger.unwrap_or(0).to_ne_bytes();
                return Ok([on, seconds].concat());
            }
            (TCP, libc::TCP_CONGESTION) => {
                let name = info.map_or("cubic", |info| info.ca_name);
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(16, 0);
                return Ok(bytes);
            }
            (TCP, libc::TCP_MAXSEG) => info.map_or(536, |info| info.snd_mss as i32),
            (TCP, libc::TCP_KEEPIDLE) => told.unwrap_or(knobs.tcp_keepalive_time as i32),
            (TCP, libc::TCP_KEEPINTVL) => told.unwrap_or(knobs.tcp_keepalive_intvl as i32),
            (TCP, libc::TCP_KEEPCNT) => told.unwrap_or(knobs.tcp_keepalive_probes as i32),
            (SOCKET | TCP | libc::SOL_IP | libc::SOL_IPV6, _) => match told {
                Some(value) => value,
                None if KNOWN.contains(&(level, name)) => 0,
                None => return Err(libc::ENOPROTOOPT),
            },
            _ => return Err(libc::ENOPROTOOPT),
        };
        Ok(int.to_ne_bytes().to_vec())
    }
}

/// Options that are off until they are set.
const KNOWN: &[(i32, i32)] = &[
    (SOCKET, libc::SO_REUSEADDR),
    (SOCKET, libc::SO_REUSEPORT),
    (SOCKET, libc::SO_KEEPALIVE),
    (SOCKET, libc::SO_MARK),
    (SOCKET, libc::SO_ZEROCOPY),
    (TCP, libc::TCP_NODELAY),
    (TCP, libc::TCP_CORK),
    (TCP, libc::TCP_QUICKACK),
    (TCP, libc::TCP_USER_TIMEOUT),
    (TCP, crate::data::TCP_INQ),
    (libc::SOL_IP, libc::IP_TOS),
    (libc::SOL_IPV6, libc::IPV6_TCLASS),
];

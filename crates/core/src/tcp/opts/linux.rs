//! The numbers by which Linux knows the options (`setsockopt`, `getsockopt`).

use super::{OptName, TcpOpt};
use crate::sock::error::TcpError;

const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

impl OptName {
    /// The option that Linux knows by these numbers (`getsockopt`). `None` where no option of TCP here has them
    /// (ENOPROTOOPT). SO_RCVBUFFORCE and SO_SNDBUFFORCE are set by their own numbers and read by these.
    pub fn from_linux(level: i32, optname: i32) -> Option<OptName> {
        Some(match (level, optname) {
            (IPPROTO_TCP, 1) => OptName::NoDelay,
            (IPPROTO_TCP, 2) => OptName::MaxSeg,
            (IPPROTO_TCP, 3) => OptName::Cork,
            (IPPROTO_TCP, 4) => OptName::KeepIdle,
            (IPPROTO_TCP, 5) => OptName::KeepIntvl,
            (IPPROTO_TCP, 6) => OptName::KeepCnt,
            (IPPROTO_TCP, 7) => OptName::SynCnt,
            (IPPROTO_TCP, 8) => OptName::Linger2,
            (IPPROTO_TCP, 9) => OptName::DeferAccept,
            (IPPROTO_TCP, 10) => OptName::WindowClamp,
            (IPPROTO_TCP, 12) => OptName::QuickAck,
            (IPPROTO_TCP, 13) => OptName::Congestion,
            (IPPROTO_TCP, 18) => OptName::UserTimeout,
            (IPPROTO_TCP, 25) => OptName::NotsentLowat,
            (IPPROTO_TCP, 36) => OptName::Inq,
            (IPPROTO_TCP, 44) => OptName::RtoMaxMs,
            (SOL_SOCKET, 7) => OptName::SndBuf,
            (SOL_SOCKET, 8) => OptName::RcvBuf,
            (SOL_SOCKET, 9) => OptName::SoKeepAlive,
            (SOL_SOCKET, 10) => OptName::OobInline,
            (SOL_SOCKET, 13) => OptName::Linger,
            (SOL_SOCKET, 18) => OptName::RcvLowat,
            (SOL_SOCKET, 47) => OptName::MaxPacingRate,
            (IPPROTO_IP, 1) | (IPPROTO_IPV6, 67) => OptName::Tos,
            _ => return None,
        })
    }
}

impl TcpOpt {
    /// The option that `setsockopt` with a whole number means. Options whose value is no number,
    /// TCP_CONGESTION and SO_LINGER, are not among them.
    ///
    /// # Errors
    /// `NoOption` (ENOPROTOOPT), `Invalid` (EINVAL) for numbers that the type of the value can not
    /// hold; [`Shard::tcp_set`](crate::shard::Shard::tcp_set) refuses what is out of range.
    pub fn from_linux(level: i32, optname: i32, value: i32) -> Result<TcpOpt, TcpError> {
        match (level, optname) {
            // As the kernel reads them: what is negative is more than anything.
            (SOL_SOCKET, 32) => return Ok(TcpOpt::SndBufForce(value.max(0) as usize)),
            (SOL_SOCKET, 33) => return Ok(TcpOpt::RcvBufForce(value.max(0) as usize)),
            _ => {}
        }
        let name = OptName::from_linux(level, optname).ok_or(TcpError::NoOption)?;
        let on = value != 0;
        let count = u32::try_from(value).map_err(|_| TcpError::Invalid);
        Ok(match name {
            OptName::NoDelay => TcpOpt::NoDelay(on),
            OptName::Cork => TcpOpt::Cork(on),
            OptName::QuickAck => TcpOpt::QuickAck(on),
            OptName::SoKeepAlive => TcpOpt::SoKeepAlive(on),
            OptName::OobInline => TcpOpt::OobInline(on),
            OptName::KeepIdle => TcpOpt::KeepIdle(count?),
            OptName::KeepIntvl => TcpOpt::KeepIntvl(count?),
            OptName::KeepCnt => TcpOpt::KeepCnt(count?),
            OptName::SynCnt => TcpOpt::SynCnt(count?),
            OptName::Linger2 => TcpOpt::Linger2(value),
            OptName::DeferAccept => TcpOpt::DeferAccept(value),
            OptName::MaxSeg => TcpOpt::MaxSeg(count?),
            // A negative one is the least (`max_t(int, SOCK_MIN_RCVBUF / 2, val)`).
            OptName::WindowClamp => TcpOpt::WindowClamp(count.unwrap_or(1)),
            OptName::NotsentLowat => TcpOpt::NotsentLowat(value as u32),
            OptName::RcvLowat => TcpOpt::RcvLowat(count.unwrap_or(i32::MAX as u32)),
            OptName::Inq if !(0..=1).contains(&value) => return Err(TcpError::Invalid),
            OptName::Inq => TcpOpt::Inq(on),
            OptName::RcvBuf => TcpOpt::RcvBuf(value as u32 as usize),
            OptName::SndBuf => TcpOpt::SndBuf(value as u32 as usize),
            OptName::UserTimeout => TcpOpt::UserTimeout(count?),
            OptName::RtoMaxMs => TcpOpt::RtoMaxMs(count?),
            // As the kernel reads a rate of 32 bits: all of them set is none.
            OptName::MaxPacingRate if value == -1 => TcpOpt::MaxPacingRate(u64::MAX),
            OptName::MaxPacingRate => TcpOpt::MaxPacingRate(u64::from(value as u32)),
            OptName::Tos => TcpOpt::Tos(value as u8),
            OptName::Congestion | OptName::Linger => return Err(TcpError::NoOption),
        })
    }
    /// The number that `getsockopt` gives for it; 0 for options whose value is no number.
    pub fn to_linux(self) -> i32 {
        match self {
            TcpOpt::NoDelay(on)
            | TcpOpt::Cork(on)
            | TcpOpt::QuickAck(on)
            | TcpOpt::SoKeepAlive(on)
            | TcpOpt::Inq(on)
            | TcpOpt::OobInline(on) => i32::from(on),
            TcpOpt::KeepIdle(n)
            | TcpOpt::KeepIntvl(n)
            | TcpOpt::KeepCnt(n)
            | TcpOpt::SynCnt(n)
            | TcpOpt::MaxSeg(n)
            | TcpOpt::WindowClamp(n)
            | TcpOpt::NotsentLowat(n)
            | TcpOpt::RcvLowat(n)
            | TcpOpt::RtoMaxMs(n)
            | TcpOpt::UserTimeout(n) => n as i32,
            TcpOpt::MaxPacingRate(rate) => rate.min(u32::MAX.into()) as u32 as i32,
            TcpOpt::Linger2(n) | TcpOpt::DeferAccept(n) => n,
            TcpOpt::RcvBuf(n)
            | TcpOpt::RcvBufForce(n)
            | TcpOpt::SndBuf(n)
            | TcpOpt::SndBufForce(n) => n.min(i32::MAX as usize) as i32,
            TcpOpt::Tos(tos) => i32::from(tos),
            TcpOpt::KeepAlive(_)
            | TcpOpt::Linger(_)
            | TcpOpt::Congestion(_)
            | TcpOpt::Md5Sig(_)
            | TcpOpt::BusyPoll(_)
            | TcpOpt::User(_) => 0,
        }
    }
}

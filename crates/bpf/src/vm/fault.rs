//! Why a run ended before its time.

use std::fmt;

use super::op::*;

/// What a program did that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bad {
    /// It read memory that is not its own.
    Read,
    /// It wrote memory that is not its own.
    Write,
    /// An atomic operation on memory that has none, or that is not aligned.
    Atomic,
    /// It wrote constants, or a map that programs only read.
    ReadOnly,
    /// It read a map that programs only write.
    WriteOnly,
    /// It read what `struct xdp_md` does not have, or not as 32 bits.
    Context,
    /// It wrote to its context.
    ContextWrite,
    /// It ran for too long.
    Fuel,
    /// Too many functions called each other.
    Depth,
    /// A helper was given something else than a map of a kind that it works on.
    Map,
    /// A helper was given something else than a function.
    Function,
    /// A helper was given something else than the context.
    NoContext,
    /// A helper was given something else than a record of a ring buffer.
    NoRecord,
    /// A size that a helper was given is beyond what it takes.
    Size,
    /// It ended, or called another program, while a record was neither submitted nor discarded.
    RecordLeft,
    /// It made more records of ring buffers at a time than may be.
    Records,
    /// A helper does not know this flag.
    Flag,
    /// It returned something that is no XDP action.
    Action,
}

/// A run that was aborted: at which instruction, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunFault {
    /// The instruction, counted from 0.
    pub insn: u32,
    /// What was wrong.
    pub bad: Bad,
    /// The address or value that it was about.
    pub value: u64,
    /// Bytes that were read or written.
    pub size: u8,
    /// Bytes of the packet at that time, and where in its memory it began.
    pub packet: (u32, u32),
}

impl RunFault {
    /// What the address points to, in words.
    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let low = self.value & ((1 << TAG) - 1);
        match self.value >> TAG {
            TAG_PACKET if self.value < 4096 => write!(f, "null ({:#x})", self.value),
            TAG_PACKET => {
                let (len, start) = self.packet;
                let off = self.value as i64 - (PACKET_BASE + u64::from(start)) as i64;
                write!(f, "offset {off} of a packet of {len} bytes")
            }
            TAG_CTX => write!(f, "offset {low} of the context"),
            TAG_STACK => {
                write!(
                    f,
                    "the stack, {:+} from its beginning",
                    self.value.wrapping_sub(STACK_BASE) as i64
                )
            }
            TAG_MAP => write!(f, "map {low} itself"),
            TAG_VALUE => {
                let offset = low & ((1 << VALUE_MAP) - 1);
                write!(f, "a value of map {} (address {offset:#x})", low >> VALUE_MAP)
            }
            TAG_RECORD => write!(f, "offset {} of a ring buffer's record", low as u32),
            TAG_FUNC => f.write_str("a function"),
            _ => write!(f, "{:#x}, which is no address", self.value),
        }
    }
}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, size) = (self.value, self.size);
        write!(f, "instruction {}: ", self.insn)?;
        match self.bad {
            Bad::Read => {
                write!(f, "reads {size} bytes at ")?;
                self.place(f)
            }
            Bad::Write => {
                write!(f, "writes {size} bytes at ")?;
                self.place(f)
            }
            Bad::Atomic => {
                write!(f, "an atomic operation on {size} bytes at ")?;
                self.place(f)
            }
            Bad::ReadOnly => f.write_str("writes memory that programs only read"),
            Bad::WriteOnly => f.write_str("reads memory that programs only write"),
            Bad::Context => {
                write!(f, "reads {size} bytes at ")?;
                self.place(f)?;
                f.write_str(": struct xdp_md has fields of 4 bytes, up to rx_queue_index")
            }
            Bad::ContextWrite => f.write_str("writes to the context, which is only read"),
            Bad::Fuel => f.write_str("ran for more instructions than a packet may take"),
            Bad::Depth => f.write_str("too many functions called each other"),
            Bad::Map => {
                f.write_str("a helper was not given a map of a kind that it works on, but ")?;
                self.place(f)
            }
            Bad::Function => f.write_str("a helper was given something else than a function"),
            Bad::NoContext => f.write_str("a helper was given something else than the context"),
            Bad::NoRecord => {
                f.write_str("a helper was given something else than a ring buffer's record")
            }
            Bad::Size => write!(f, "a helper does not take a size of {value}"),
            Bad::RecordLeft => {
                f.write_str("ends with a ring buffer's record neither submitted nor discarded")
            }
            Bad::Records => f.write_str("makes too many records of ring buffers at a time"),
            Bad::Flag => write!(f, "a helper does not know the flags {value:#x}"),
            Bad::Action => write!(f, "returned {value}, which is no XDP action"),
        }
    }
}

impl std::error::Error for RunFault {}

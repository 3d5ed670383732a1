//! The instruction as the machine runs it: an operation as RFC 9669 numbers them, where those that
//! a second field selects have numbers of their own, and operands made ready.

/// 16 bytes: four to a cache line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    /// Offset of memory; of a jump, call or function, the instruction to go on with.
    pub off: i32,
    /// The constant, extended as the operation needs it.
    pub imm: i64,
}

// Numbers that the standard does not use.
pub(crate) const SDIV32_K: u8 = 0xe4;
pub(crate) const SDIV32_X: u8 = 0xec;
pub(crate) const SMOD32_K: u8 = 0xf4;
pub(crate) const SMOD32_X: u8 = 0xfc;
pub(crate) const SDIV64_K: u8 = 0xe7;
pub(crate) const SDIV64_X: u8 = 0xef;
pub(crate) const SMOD64_K: u8 = 0xf7;
pub(crate) const SMOD64_X: u8 = 0xff;
pub(crate) const SX8_64: u8 = 0x00;
pub(crate) const SX16_64: u8 = 0x08;
pub(crate) const SX32_64: u8 = 0x10;
pub(crate) const SX8_32: u8 = 0x20;
pub(crate) const SX16_32: u8 = 0x28;
pub(crate) const ZX16: u8 = 0x30;
pub(crate) const ZX32: u8 = 0x38;
pub(crate) const NOP: u8 = 0x40;
pub(crate) const SWAP16: u8 = 0x48;
pub(crate) const SWAP32: u8 = 0x50;
pub(crate) const SWAP64: u8 = 0x58;
pub(crate) const CALL_FN: u8 = 0x60;
/// The second slot of an instruction of two: never run.
pub(crate) const SECOND: u8 = 0x68;

/// What an address points into is in its highest byte.
pub(crate) const TAG: u32 = 56;
/// The packet: the rest of the address is its place in the frame's memory, behind [`PACKET_BASE`].
pub(crate) const TAG_PACKET: u64 = 0;
/// `struct xdp_md`.
pub(crate) const TAG_CTX: u64 = 1;
/// The stack, of all functions that are running.
pub(crate) const TAG_STACK: u64 = 2;
/// A map itself.
pub(crate) const TAG_MAP: u64 = 3;
/// A value: the map in the next byte, then the slot and the offset in it.
pub(crate) const TAG_VALUE: u64 = 4;
/// A record of a ring buffer in the making.
pub(crate) const TAG_RECORD: u64 = 5;
/// A function.
pub(crate) const TAG_FUNC: u64 = 6;

/// Below lies nothing, so that null and what is near it is no address.
pub(crate) const PACKET_BASE: u64 = 1 << 16;
/// Where the stack begins: what is before it is not something else.
pub(crate) const STACK_BASE: u64 = (TAG_STACK << TAG) + (1 << 32);
/// Where the map's number lies in the address of a value.
pub(crate) const VALUE_MAP: u32 = 48;

/// The address of a map.
pub(crate) fn map_address(map: usize) -> u64 {
    TAG_MAP << TAG | map as u64
}
/// The address of an offset in a map's memory of values.
pub(crate) fn value_address(map: usize, offset: u64) -> u64 {
    TAG_VALUE << TAG | (map as u64) << VALUE_MAP | offset
}

//! The instruction. Linux: Documentation/bpf/standardization/instruction-set.rst (RFC 9669).

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insn {
    /// Operation, class and size.
    pub code: u8,
    /// Destination in the low four bits, source in the high ones (little-endian machines; the other
    /// way round on big-endian ones).
    pub regs: u8,
    /// Offset of a jump or of memory.
    pub off: i16,
    /// Constant.
    pub imm: i32,
}

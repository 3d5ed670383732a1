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

/// What the bits of [`Insn::code`] mean.
pub mod code {
    /// The class is in the low three bits.
    pub const CLASS: u8 = 0x07;
    /// Loads that are none of the classes below: of 64-bit constants, and of packets in classic BPF.
    pub const LD: u8 = 0x00;
    /// Loads from memory.
    pub const LDX: u8 = 0x01;
    /// Stores of a constant.
    pub const ST: u8 = 0x02;
    /// Stores of a register, and atomic operations.
    pub const STX: u8 = 0x03;
    /// Arithmetic of 32 bits.
    pub const ALU: u8 = 0x04;
    /// Jumps that compare 64 bits, calls, the end.
    pub const JMP: u8 = 0x05;
    /// Jumps that compare 32 bits.
    pub const JMP32: u8 = 0x06;
    /// Arithmetic of 64 bits.
    pub const ALU64: u8 = 0x07;

    /// The second operand is a register, not the constant.
    pub const X: u8 = 0x08;

    /// Loads and stores of plain memory.
    pub const MEM: u8 = 0x60;
    /// Loads that extend the sign.
    pub const MEMSX: u8 = 0x80;
    /// Atomic operations.
    pub const ATOMIC: u8 = 0xc0;

    /// The instruction of two slots that loads a 64-bit constant, a map or a function.
    pub const LD_IMM64: u8 = 0x18;
    /// A call: of a helper, a function, or one of the kernel's own functions.
    pub const CALL: u8 = 0x85;
    /// The end of a function.
    pub const EXIT: u8 = 0x95;

    /// In [`LD_IMM64`]: the constant is a map, by its descriptor, or by its index where we load it.
    pub const PSEUDO_MAP: u8 = 1;
    /// In [`LD_IMM64`]: the constant is an address in the value of a map of one entry.
    pub const PSEUDO_MAP_VALUE: u8 = 2;
    /// In [`LD_IMM64`]: the constant is a function, counted from the next instruction.
    pub const PSEUDO_FUNC: u8 = 4;
    /// In [`CALL`]: a function of the program, counted from the next instruction.
    pub const PSEUDO_CALL: u8 = 1;
    /// In [`CALL`]: a function of the kernel's (kfunc).
    pub const PSEUDO_KFUNC_CALL: u8 = 2;
}

impl Insn {
    /// An instruction of its parts; `dst` and `src` are numbers of registers.
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        // Two bit fields of one byte lie the other way round on big-endian machines.
        let regs = if cfg!(target_endian = "big") { dst << 4 | src } else { src << 4 | dst };
        Insn { code, regs, off, imm }
    }
    /// The instruction that eight bytes of a little-endian object encode.
    pub fn from_le(bytes: [u8; 8]) -> Insn {
        let [code, regs, o0, o1, i0, i1, i2, i3] = bytes;
        let (off, imm) = (i16::from_le_bytes([o0, o1]), i32::from_le_bytes([i0, i1, i2, i3]));
        Insn::new(code, regs & 15, regs >> 4, off, imm)
    }
    /// Its eight bytes in a little-endian object.
    pub fn to_le(self) -> [u8; 8] {
        let ([o0, o1], [i0, i1, i2, i3]) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [self.code, self.src() << 4 | self.dst(), o0, o1, i0, i1, i2, i3]
    }
    /// The number of the destination register.
    pub const fn dst(self) -> u8 {
        if cfg!(target_endian = "big") { self.regs >> 4 } else { self.regs & 15 }
    }
    /// The number of the source register.
    pub const fn src(self) -> u8 {
        if cfg!(target_endian = "big") { self.regs & 15 } else { self.regs >> 4 }
    }
    /// The class: its low three bits.
    pub const fn class(self) -> u8 {
        self.code & code::CLASS
    }
    /// The same instruction with another constant.
    pub const fn with_imm(self, imm: i32) -> Insn {
        Insn { imm, ..self }
    }
    /// The same instruction with another source register, or kind of constant.
    pub const fn with_src(self, src: u8) -> Insn {
        Insn::new(self.code, self.dst(), src, self.off, self.imm)
    }
}

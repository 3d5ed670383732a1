//! The machine that runs programs: an interpreter of instructions that were made ready before.
//!
//! A program sees 64-bit addresses that mean something to this machine only; each access is checked
//! against what the address says it points into. What a program may not do aborts that run: the
//! packet is `XDP_ABORTED`, the reason is kept, and the path goes on.
//!
//! A machine belongs to one shard; maps are shared.
//!
//! Linux: kernel/bpf/core.c `___bpf_prog_run`
//! RFCs:  9669

mod call;
mod fault;
mod mem;
pub(crate) mod op;
mod packet;
mod print;
mod run;

#[cfg(test)]
pub(crate) mod tests;

pub use fault::{Bad, RunFault};
pub use packet::{Packet, Rest};

use std::sync::Arc;

use crate::check::{FRAMES_MAX, STACK_MAX};
use crate::prog::{Program, Stats};
use mem::{Making, Mem, Stack};

/// Where a program sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// To the interface of this number.
    Dev(u32),
    /// To this processor (shard).
    Cpu(u32),
}

/// What a program says of a packet (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It failed, or said so.
    Aborted,
    /// Away with it.
    Drop,
    /// On to the stack.
    Pass,
    /// Out by where it came in.
    Tx,
    /// Elsewhere.
    Redirect(Redirect),
}

/// Bytes of `struct bpf_fib_lookup`.
pub const FIB_PARAMS: usize = 64;
/// `BPF_FIB_LKUP_RET_NOT_FWDED`: the packet is not for forwarding.
pub const FIB_NOT_FWDED: u64 = 4;

/// The stack's routes, for programs that ask (`bpf_fib_lookup`, `bpf_check_mtu`).
pub trait Fib {
    /// Answers in `params` (`struct bpf_fib_lookup`, fields as the program sees them); what it
    /// returns is a `BPF_FIB_LKUP_RET_*`, or a negative errno.
    fn lookup(&mut self, params: &mut [u8; FIB_PARAMS], flags: u32) -> i64;
    /// The MTU of an interface, if it exists, in bytes.
    fn mtu(&self, ifindex: u32) -> Option<u32>;
}

/// What the machine needs to know for one packet.
#[derive(Default)]
pub struct Env<'a> {
    /// The time, in nanoseconds of a clock that only goes forwards.
    pub now: u64,
    /// The interface that the packet came in by.
    pub ifindex: u32,
    /// The queue of it.
    pub queue: u32,
    /// The stack's routes.
    pub fib: Option<&'a mut dyn Fib>,
}

/// A machine: what one shard needs to run a program.
#[derive(Debug)]
pub struct Vm {
    program: Arc<Program>,
    stats: Arc<Stats>,
    cpu: u32,
    random: u64,
    stack: Box<Stack>,
    making: Vec<Making>,
    frames: run::Frames,
    fuel: u64,
}

/// Instructions that a packet may take, if nothing else is said.
pub const FUEL: u64 = 1_000_000;
/// `MAX_TAIL_CALL_CNT`.
const TAIL_CALLS: u32 = 33;

impl Vm {
    /// A machine for the shard `cpu`. `seed` decides what `bpf_get_prandom_u32` returns.
    pub fn new(program: Arc<Program>, cpu: u32, seed: u64) -> Vm {
        let stats = program.join(cpu);
        let stack = Box::new([0; FRAMES_MAX * STACK_MAX]);
        // A generator of this kind never leaves zero.
        let random = seed ^ 0x9e37_79b9_7f4a_7c15 ^ u64::from(cpu) << 32;
        Vm {
            program,
            stats,
            cpu,
            random,
            stack,
            making: Vec::new(),
            frames: Default::default(),
            fuel: FUEL,
        }
    }
    /// Sets how many instructions a packet may take. Only jumps back and calls are looked at, so a
    /// run may take as many more as its longest way without them.
    pub fn limit(mut self, instructions: u64) -> Vm {
        self.fuel = instructions;
        self
    }
    /// What it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Runs the program over a packet: what it returned.
    ///
    /// # Errors
    /// [`RunFault`], if it did what it may not. It is counted and kept by the program.
    #[inline]
    pub fn run(
        &mut self,
        packet: &mut Packet<'_>,
        env: Env<'_>,
    ) -> Result<(u32, Option<Redirect>), RunFault> {
        let mut redirect = None;
        let mut run = run::Run {
            ops: &self.program.code().ops,
            functions: &self.program.code().functions,
            mem: Mem {
                packet,
                stack: &mut self.stack,
                top: STACK_MAX,
                maps: self.program.maps(),
                making: &mut self.making,
                ifindex: env.ifindex,
                queue: env.queue,
            },
            host: call::Host {
                program: &self.program,
                cpu: self.cpu,
                now: env.now,
                random: &mut self.random,
                redirect: &mut redirect,
                fib: env.fib,
                tails: TAIL_CALLS,
            },
            frames: &mut self.frames,
            fuel: self.fuel,
        };
        let done = run.run(0);
        if !self.making.is_empty() {
            self.clear();
        }
        match done {
            Ok(value) => Ok((value as u32, redirect)),
            Err(fault) => {
                self.program.failed(fault);
                Err(fault)
            }
        }
    }

    /// Runs the program over a packet, and counts what it says.
    #[inline]
    pub fn xdp(&mut self, packet: &mut Packet<'_>, env: Env<'_>) -> Action {
        let action = match self.run(packet, env) {
            Ok((1, _)) => Action::Drop,
            Ok((2, _)) => Action::Pass,
            Ok((3, _)) => Action::Tx,
            Ok((4, Some(to))) => Action::Redirect(to),
            Ok((0, _)) | Err(_) => Action::Aborted,
            Ok((value, _)) => self.no_action(value),
        };
        self.stats.count(action);
        action
    }

    #[cold]
    fn no_action(&mut self, value: u32) -> Action {
        let insn = self.program.code().len() as u32 - 1;
        let value = u64::from(value);
        let fault = RunFault { insn, bad: Bad::Action, value, size: 0, packet: (0, 0) };
        self.program.failed(fault);
        Action::Aborted
    }

    /// Records that an aborted run left are given back.
    #[cold]
    fn clear(&mut self) {
        for making in self.making.drain(..).filter(|m| m.live) {
            if let Some(ring) = self.program.maps()[making.map].ring() {
                ring.release(making.data.len() as u64);
            }
        }
    }
}

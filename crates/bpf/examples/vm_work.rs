//! A fixed number of runs of a program in the machine: the same instructions in every run, so that a
//! tool which counts them shows what a change costs where a clock only shows the weather.
//!
//! ```text
//! cargo build --release -p linerate-bpf --example vm_work
//! valgrind --tool=callgrind target/release/examples/vm_work filter 100000
//! ```
//!
//! The first argument says which: `trivial` returns at once, `filter` is the one of `linerate bench path`.

#![forbid(unsafe_code)]

#[path = "../../cli/src/bench/path/filter.rs"]
mod filter;

use linerate_bpf::asm::{Asm, Op, Reg};
use linerate_bpf::insn::code::{LD_IMM64, PSEUDO_MAP};
use linerate_bpf::maps::{Kind, MapDef};
use linerate_bpf::prog::{MapSource, Program, Source};
use linerate_bpf::vm::{Action, Env, Packet, Vm};

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_else(|| "filter".to_owned());
    work(&what, args.next().map_or(100_000, |a| a.parse().expect("a number")));
}

/// Runs a program so many times.
pub fn work(what: &str, runs: u64) {
    let insns = match what {
        "filter" => filter::filter(),
        "trivial" => {
            let mut asm = Asm::new();
            asm.op(Op::Mov, Reg::R0, 2);
            asm.exit();
            asm.finish()
        }
        other => panic!("{other}: one of trivial, filter"),
    };
    let mut source = Source { name: what.to_owned(), insns, ..Source::default() };
    if let Some(at) = source.insns.iter().position(|i| i.code == LD_IMM64) {
        source.insns[at] = source.insns[at].with_src(PSEUDO_MAP);
        let (name, kind) = ("flows".to_owned(), Kind::Hash);
        let def = MapDef { name, kind, key_size: 8, value_size: 8, max_entries: 1024, flags: 0 };
        let key = |n: u16| [&[10, 9, 0, 1][..], &(4000 + n).to_be_bytes(), &[0, 53]].concat();
        let entries = (0..512).map(|n| (key(n), vec![0; 8])).collect();
        source.maps.push(MapSource { def, entries });
    }
    let mut vm = Vm::new(Program::load(source, 1).expect("a sound program"), 0, 1);
    let mut memory = [0; 1024];
    memory[256..316].copy_from_slice(&frame());
    for now in 0..runs {
        let mut packet = Packet::new(&mut memory, 256, 316);
        let said = vm.xdp(&mut packet, Env { now, ifindex: 1, ..Env::default() });
        assert_eq!(said, Action::Pass, "the program passes this packet");
    }
}

/// UDP over IPv4 from 10.9.0.1:4000 to 10.9.0.2:53, whose header's sum is right.
fn frame() -> [u8; 60] {
    let mut frame = [0x5a; 60];
    let ip = [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&ip);
    let sum: u32 = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..38].copy_from_slice(&[4000_u16.to_be_bytes(), [0, 53]].concat());
    frame
}

//! Programs of XDP: refused, or within their bounds.

use linerate_bpf::insn::Insn;
use linerate_bpf::object::Object;
use linerate_bpf::prog::{MapSource, Program, Source};
use linerate_bpf::vm::{Env, Packet, Vm};

/// Instructions that one run may take.
const FUEL: u64 = 10_000;

fn run(source: Source) {
    // Maps may be large within what programs may have: those are not made here.
    let memory = |m: &MapSource| m.def.memory(1);
    if source.maps.iter().map(memory).fold(0, u64::saturating_add) > 4 << 20 {
        return;
    }
    let Ok(program) = Program::load(source, 1) else { return };
    let mut vm = Vm::new(program, 0, 1).limit(FUEL);
    let mut memory = [3; 400];
    for len in [0, 14, 80] {
        let env = Env { now: 1_000, ifindex: 3, queue: 0, fib: None };
        vm.xdp(&mut Packet::new(&mut memory, 256, 256 + len), env);
    }
}

/// Instructions as they are.
pub fn instructions(data: &[u8]) {
    let insns = data.chunks_exact(8).map(|word| {
        let word: [u8; 8] = word.try_into().expect("eight bytes");
        Insn::from_le(word)
    });
    run(Source {
        name: "fuzz".into(),
        section: "xdp".into(),
        license: "GPL".into(),
        insns: insns.collect(),
        entries: Vec::new(),
        maps: Vec::new(),
    });
}

/// An ELF object.
pub fn object(data: &[u8]) {
    let Ok(object) = Object::parse(data) else { return };
    for (_, name) in object.names() {
        if let Ok(source) = object.source(Some(&name)) {
            run(source);
        }
    }
}

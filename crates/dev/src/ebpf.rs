//! eBPF programs of users at the stage Xdp.
//!
//! A program sees Ethernet frames. On a device that carries bare IP packets (TUN) it sees a header
//! that is made for it, and taken off again afterwards. Interfaces have the numbers of the devices,
//! from 1 on. Of a packet in several pieces a program reaches the first piece by pointers, and all of
//! them by `bpf_xdp_load_bytes`.

mod fib;

use linerate_bpf::vm::{self, Env, Fib, Packet, Redirect, Rest, Vm};
use linerate_core::link::L2;
use linerate_core::pkt::{Frags, Skb};
use linerate_core::rx::xdp::{Action, Program};
use linerate_core::shard::Shard;

/// What lies before the IP packets of a device that has no such header: from one made-up address to
/// another, both locally administered.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];

struct Fragments<'a>(Frags<'a>);

impl Rest for Fragments<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn copy(&self, off: usize, out: &mut [u8]) {
        self.0.copy(off, out);
    }
}

/// Gives a device of a shard the machine as its program, in place of the one that it has. A program that
/// asks for routes is answered from the shard's.
pub fn attach(mut vm: Vm, shard: &mut Shard, dev: u8) {
    let iface = shard.net.ifaces.get(usize::from(dev));
    let ethernet = iface.is_some_and(|iface| iface.l2 == L2::Ethernet);
    if !vm.program().asks_routes() {
        return shard.attach_xdp(dev, Some(program(vm, ethernet)));
    }
    shard.attach_xdp_asking(
        dev,
        Box::new(move |pkt, net| {
            let mut routes = fib::Routes(net);
            if ethernet {
                run(&mut vm, pkt, Some(&mut routes))
            } else {
                bare(&mut vm, pkt, Some(&mut routes))
            }
        }),
    );
}

/// The machine as a device's program, without routes; `ethernet` says what the device carries.
pub fn program(mut vm: Vm, ethernet: bool) -> Program {
    if ethernet {
        Box::new(move |pkt| run(&mut vm, pkt, None))
    } else {
        Box::new(move |pkt| bare(&mut vm, pkt, None))
    }
}

/// Runs it over a packet of a device that carries bare packets.
#[inline]
fn bare(vm: &mut Vm, pkt: &mut Skb, fib: Option<&mut dyn Fib>) -> Action {
    if pkt.headroom() < HEADER.len() {
        return Action::Aborted;
    }
    let version = pkt.head().first().map_or(4, |b| b >> 4);
    let header = pkt.push(HEADER.len());
    header.copy_from_slice(&HEADER);
    if version == 6 {
        header[12..].copy_from_slice(&IPV6);
    }
    let action = run(vm, pkt, fib);
    // A program leaves no less than a header.
    if pkt.pull(HEADER.len()) { action } else { Action::Aborted }
}

#[inline]
fn run(vm: &mut Vm, pkt: &mut Skb, fib: Option<&mut dyn Fib>) -> Action {
    // A packet that came by no queue of its own came by the first.
    let queue = if pkt.queue == linerate_core::pkt::NO_QUEUE { 0 } else { pkt.queue };
    let env = Env {
        now: pkt.rx_time.ns(),
        ifindex: u32::from(pkt.dev) + 1,
        queue: u32::from(queue),
        fib,
    };
    let (memory, ends, frags) = pkt.parts();
    let rest = Fragments(frags);
    let mut packet = Packet::new(memory, ends.start, ends.end);
    if !rest.is_empty() {
        packet = packet.followed_by(&rest);
    }
    let action = vm.xdp(&mut packet, env);
    let moved = packet.data()..packet.end();
    if moved != ends {
        pkt.set_ends(moved);
    }
    match action {
        vm::Action::Aborted => Action::Aborted,
        vm::Action::Drop => Action::Drop,
        vm::Action::Pass => Action::Pass,
        vm::Action::Tx => Action::Tx,
        vm::Action::Redirect(Redirect::Dev(ifindex)) => number(ifindex, Action::RedirectDev),
        vm::Action::Redirect(Redirect::Cpu(cpu)) => {
            number(cpu.wrapping_add(1), Action::RedirectCpu)
        }
    }
}

/// Where a number from 1 on leads; nowhere if there can be no such thing.
fn number(n: u32, to: fn(u8) -> Action) -> Action {
    let index = n.checked_sub(1).and_then(|n| u8::try_from(n).ok());
    index.map_or(Action::Aborted, to)
}

#[cfg(test)]
mod tests;

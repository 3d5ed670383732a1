use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::ip::testkit::*;
use crate::link::{Iface, L2};
use crate::path;
use crate::pkt::Batch;
use crate::rx::steer::Mesh;
use crate::table::{Counter, Stage};
use crate::udp::api::UdpBind;
use crate::wire::Mac;

/// A stack whose program says `action` of everything, with a socket that would take it.
fn kit(action: Action) -> Kit {
    let mut kit = Kit::tun();
    kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
    kit.cx.attach_xdp(0, Some(Box::new(move |_| action)));
    kit
}

fn datagram() -> Vec<u8> {
    udp4(PEER, US, 1, 53, b"data")
}

#[test]
fn drop_xdp() {
    let mut kit = kit(Action::Drop);
    let before = kit.read();
    kit.rx(&datagram());
    kit.moved(&before, &[("XdpDrop", 1), ("drop Xdp", 1)]);
}

#[test]
fn drop_xdp_aborted() {
    for action in [Action::Aborted, Action::RedirectDev(9), Action::RedirectCpu(9)] {
        let mut kit = kit(action);
        let before = kit.read();
        kit.rx(&datagram());
        kit.moved(&before, &[("XdpAborted", 1), ("drop XdpAborted", 1)]);
    }
}

/// No queue lies before the ring of what a program sends: a full one drops it.
#[test]
fn drop_xdp_tx_full() {
    for redirects in [false, true] {
        let mut kit = kit(Action::Tx);
        let to = if redirects { kit.add_tun() } else { 0 };
        if redirects {
            kit.cx.attach_xdp(0, Some(Box::new(move |_| Action::RedirectDev(to))));
        }
        kit.cx.set_knob("ring.tx", "2").expect("in range");
        let before = kit.read();
        (0..5).for_each(|_| kit.rx(&datagram()));
        let did = if redirects { "XdpRedirect" } else { "XdpTx" };
        kit.moved(&before, &[(did, 2), ("DevTxDropped", 3), ("drop XdpTxFull", 3)]);
        assert_eq!(kit.tx_on(to), [datagram(), datagram()]);
        kit.conserved();
    }
}

#[test]
fn what_passes_goes_on_as_the_program_left_it() {
    let mut kit = kit(Action::Pass);
    // Another port, and an outer header off.
    kit.cx.attach_xdp(
        0,
        Some(Box::new(|pkt| {
            assert!(pkt.pull(4), "the outer header is there");
            let ip = pkt.head_mut();
            ip[23] = 53;
            (ip[26], ip[27]) = (0, 0);
            Action::Pass
        })),
    );
    let mut wrapped = vec![9; 4];
    wrapped.extend(udp4(PEER, US, 1, 54, b"data"));
    let before = kit.read();
    kit.rx(&wrapped);
    let want = [("XdpPass", 1), ("IpInReceives", 1), ("IpInDelivers", 1), ("UdpInDatagrams", 0)];
    kit.moved(&before, &want[..3]);
    kit.conserved();
}

#[test]
fn may_send_back_and_on() {
    let mut kit = kit(Action::Tx);
    let before = kit.read();
    kit.rx(&datagram());
    kit.moved(&before, &[("XdpTx", 1)]);
    assert_eq!(kit.tx(), [datagram()]);
    let other = kit.add_tun();
    kit.cx.attach_xdp(0, Some(Box::new(move |_| Action::RedirectDev(other))));
    let before = kit.read();
    kit.rx(&datagram());
    kit.moved(&before, &[("XdpRedirect", 1)]);
    assert_eq!(kit.tx(), Vec::<Vec<u8>>::new());
    assert_eq!(kit.tx_on(other), [datagram()]);
    kit.conserved();
}

/// The program sends packets to the backlog of another shard, in order, and to our own.
#[test]
fn may_send_to_other_shards() {
    let mesh = Mesh::new(2);
    let [mut a, mut b] = [0, 1].map(|cpu| {
        let mut cx = Shard::new(cpu as u64);
        cx.join(Arc::clone(&mesh), cpu);
        cx.add_iface(Iface::new("tun0", L2::Ip, Mac::ZERO, 1500));
        cx
    });
    let turn = AtomicU64::new(0);
    let prog = move |_: &mut Skb| {
        let n = turn.fetch_add(1, Ordering::Relaxed);
        Action::RedirectCpu((n % 2) as u8)
    };
    a.attach_xdp(0, Some(Box::new(prog)));
    let mut batch = Batch::new();
    for _ in 0..10 {
        let mut pkt = a.net.pool.alloc().expect("memory");
        let bytes = datagram();
        pkt.put(bytes.len()).copy_from_slice(&bytes);
        batch.push(pkt);
    }
    path::receive(&mut a, &mut batch);
    assert_eq!(a.net.counts.get(Counter::XdpRedirect), 10);
    assert_eq!((a.net.backlog.len(), mesh.backlog_len(1)), (5, 5));
    for cx in [&mut a, &mut b] {
        assert_eq!(path::process_backlog(cx, &mut batch, 64), 5);
        assert_eq!(cx.net.counts.flow(Stage::Backlog).read().entered, 5);
        assert_eq!(cx.net.counts.unaccounted(), []);
        assert_eq!(cx.net.pool.small_out(), 0);
    }
    assert_eq!(b.net.counts.get(Counter::SoftnetReceivedRps), 1);
}

#[test]
fn is_no_stage_where_no_program_is() {
    let mut kit = kit(Action::Pass);
    kit.rx(&datagram());
    assert_eq!(kit.cx.net.counts.flow(Stage::Xdp).read().entered, 1);
    kit.cx.attach_xdp(0, None);
    kit.rx(&datagram());
    assert_eq!(kit.cx.net.counts.flow(Stage::Xdp).read().entered, 1);
}

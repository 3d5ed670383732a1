//! Sends without a copy: what arrives, when their bytes are free, and what is told of it.

use std::sync::Arc;

use super::*;
use crate::pkt::Lent;
use crate::sock::error::TcpError;
use crate::tcp::{SendMsg, ZerocopyDone};

fn bytes(from: u64, len: usize) -> Arc<Vec<u8>> {
    Arc::new((0..len as u64).map(|i| pattern(from + i)).collect())
}
fn done(first: u32, last: u32, copied: bool) -> Option<ZerocopyDone> {
    Some(ZerocopyDone { first, last, copied })
}
fn lend(p: &mut Pair, id: SocketId, vec: &Arc<Vec<u8>>) -> Result<usize, TcpError> {
    p.shards[A].tcp_send_zerocopy(id, &Lent::from(Arc::clone(vec)), SendMsg::default())
}
/// B reads what is there, and checks each byte.
fn read(p: &mut Pair, b: SocketId, reader: &mut End) {
    reader.shut = true;
    reader.turn(&mut p.shards[B], b);
}

/// The peer has every byte, also over a link that loses, and only then the owner has its memory back; until then
/// it is the very same memory that is sent, and sent again.
#[test]
fn what_is_lent_arrives_and_comes_back() {
    for offload in [false, true] {
        let fate = Fate { loss: 50, reorder: 100, offload, ..GOOD };
        let mut p = Pair::new(700, fate);
        p.watch = false;
        let (a, b) = p.connected();
        p.shards[A].tcp_set(a, crate::tcp::TcpOpt::SndBufForce(1 << 20)).expect("set");
        let all: Vec<_> = (0..6).map(|n| bytes(n * 100_000, 100_000)).collect();
        for (n, vec) in all.iter().enumerate() {
            assert_eq!(lend(&mut p, a, vec), Ok(100_000), "send {n}");
            assert!(Arc::strong_count(vec) > 1, "it is lent");
        }
        assert_eq!(p.shards[A].tcp_zerocopy_done(a), None);
        let (mut reader, mut told) = (End::new(0), 0);
        let over = p.until(300 * SEC, |p| {
            read(p, b, &mut reader);
            while let Some(done) = p.shards[A].tcp_zerocopy_done(a) {
                assert_eq!((done.first, done.copied), (told, false));
                told = done.last + 1;
                let una = p.tcb(A, a).queued() as usize;
                assert!(una <= 600_000 - told as usize * 100_000, "acknowledged before it is told");
                let free = all.iter().take(told as usize);
                assert!(free.into_iter().all(|vec| Arc::strong_count(vec) == 1));
            }
            told == 6
        });
        assert!(over, "{told} of 6 are complete");
        assert_eq!(reader.read, 600_000);
        assert!(offload || p.count(A, Counter::TcpRetransSegs) > 0, "something was sent again");
    }
}

/// Completions that follow each other are one, and the application is told that there is one.
#[test]
fn completions_are_merged() {
    let mut p = Pair::new(701, GOOD);
    let (a, b) = p.connected();
    let vec = bytes(0, 4000);
    p.ready(A, a);
    for _ in 0..3 {
        lend(&mut p, a, &vec).expect("room");
        p.run(10 * MS);
    }
    assert!(p.ready(A, a).has(Ready::ERR) && p.shards[A].tcp_zerocopy_ready(a));
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(0, 2, false));
    assert!(!p.shards[A].tcp_zerocopy_ready(a));
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), None);
    lend(&mut p, a, &vec).expect("room");
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(3, 3, false));
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(16_000));
    assert_eq!((Arc::strong_count(&vec), p.tcb(A, a).sndq.wmem()), (1, 0));
}

/// What is short, or came as a plain slice, is copied, and that is said; plain sends have no number.
#[test]
fn copies_are_told_as_such() {
    let mut p = Pair::new(702, GOOD);
    let (a, b) = p.connected();
    let (short, long) = (bytes(0, 300), bytes(800, 5000));
    lend(&mut p, a, &short).expect("room");
    assert_eq!(Arc::strong_count(&short), 1, "copied at once");
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(0, 0, true));
    let plain: Vec<u8> = (300..800).map(pattern).collect();
    p.shards[A].tcp_send(a, &plain).expect("room");
    p.shards[A].tcp_zerocopy_copied(a, plain.len()).expect("room");
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(1, 1, true));
    lend(&mut p, a, &long).expect("room");
    p.shards[A].tcp_send(a, &[pattern(5800)]).expect("room");
    p.run(SEC);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(2, 2, false));
    let mut reader = End::new(0);
    read(&mut p, b, &mut reader);
    assert_eq!(reader.read, 5801);
}

/// A part of a page, as much as there is room for, and nothing at all.
#[test]
fn parts_are_sent_and_counted() {
    let mut p = Pair::new(703, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, crate::tcp::TcpOpt::SndBufForce(50_000)).expect("set");
    let vec = bytes(0, 200_000);
    let page = Lent::from(Arc::clone(&vec));
    let msg = SendMsg::default();
    assert_eq!(p.shards[A].tcp_send_zerocopy(a, &page.part(7..7), msg), Ok(0));
    let (mut at, mut reader) = (0, End::new(0));
    let over = p.until(60 * SEC, |p| {
        match p.shards[A].tcp_send_zerocopy(a, &page.part(at..200_000), msg) {
            Ok(n) => at += n,
            Err(err) => assert_eq!(err, TcpError::WouldBlock),
        }
        read(p, b, &mut reader);
        reader.read == 200_000
    });
    assert!(over, "{at} sent, {} read", reader.read);
    p.run(SEC);
    let last = p.shards[A].tcp_zerocopy_done(a).expect("all are complete");
    assert!(last.first == 0 && last.last >= 3, "{last:?}");
    drop(page);
    assert_eq!(Arc::strong_count(&vec), 1);
    for lent in [Lent::from(&b"static"[..]), Lent::from(Arc::<[u8]>::from(&b"static"[..]))] {
        assert_eq!((lent.part(3..6).bytes(), lent.is_empty()), (&b"tic"[..], false));
    }
}

/// A connection that is reset, or aborted, lets go at once, and says so; one that is closed sends the rest.
#[test]
fn the_end_of_a_connection_frees_what_was_lent() {
    let mut p = Pair::new(704, GOOD);
    let l = p.listen(80);
    let (a, b) = p.connect_to(l);
    let vec = bytes(0, 60_000);
    p.lose = Some(|s| s.from == A && s.len > 0);
    lend(&mut p, a, &vec).expect("room");
    lend(&mut p, a, &vec).expect("room");
    p.run(10 * MS);
    p.shards[B].tcp_abort(b);
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::Reset));
    assert_eq!(p.shards[A].tcp_zerocopy_done(a).map(|done| (done.first, done.last)), Some((0, 1)));
    assert_eq!(Arc::strong_count(&vec), 1);

    p.lose = None;
    let (a, b) = p.connect_to(l);
    lend(&mut p, a, &vec).expect("room");
    p.shards[A].tcp_close(a);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), None);
    let mut reader = End::new(0);
    assert!(p.until(10 * SEC, |p| {
        read(p, b, &mut reader);
        reader.eof
    }));
    p.run(SEC);
    assert_eq!((reader.read, Arc::strong_count(&vec)), (60_000, 1));

    let (a, _) = p.connect_to(l);
    p.lose = Some(|s| s.from == A && s.len > 0);
    lend(&mut p, a, &vec).expect("room");
    p.run(10 * MS);
    p.shards[A].tcp_abort(a);
    assert_eq!(Arc::strong_count(&vec), 1);
}

/// The peer has all of it, but a packet with a part of it still stands in a queue below: it is not told before
/// that one is gone.
#[test]
fn a_packet_in_a_queue_holds_the_completion_back() {
    let mut p = Pair::new(705, GOOD);
    let (a, _) = p.connected();
    let vec = bytes(0, 20_000);
    lend(&mut p, a, &vec).expect("room");
    let mut held = p.shards[A].net.pool.alloc().expect("a packet");
    let seq = p.tcb(A, a).snd_una;
    assert!(p.tcb(A, a).sndq.load(&mut held, seq, 1448) == 1448);
    p.run(SEC);
    assert_eq!(p.tcb(A, a).queued(), 0);
    p.ready(A, a);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), None);
    p.shards[A].net.pool.free(held);
    p.run(5 * MS);
    assert!(p.ready(A, a).has(Ready::ERR), "told without being asked");
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(0, 0, false));
    assert_eq!(Arc::strong_count(&vec), 1);
}

/// What waits to be sent is told of together, as one notice; what is under way already is not joined.
#[test]
fn sends_that_wait_together_are_told_together() {
    let mut p = Pair::new(706, GOOD);
    let (a, _) = p.connected();
    p.shards[A].set_knob("net.core.optmem_max", "1152").expect("in range");
    let vec = bytes(0, 600);
    p.lose = Some(|s| s.from == A && s.len > 0);
    lend(&mut p, a, &vec).expect("room for a first notice");
    p.run(100 * US);
    // Nagle's algorithm keeps these back.
    for _ in 0..2 {
        lend(&mut p, a, &vec).expect("room for a second one, which they share");
    }
    p.run(2 * SEC);
    p.lose = None;
    p.run(5 * SEC);
    assert_eq!(p.shards[A].tcp_zerocopy_done(a), done(0, 2, false));
}

/// So many sends may wait for their completions; when they are complete there is room again.
#[test]
fn knob_net_core_optmem_max() {
    for (value, sends) in [("0", 0u32), ("2000", 3), ("40000", 69)] {
        let mut p = Pair::new(707, GOOD);
        let (a, _) = p.connected();
        p.shards[A].set_knob("net.core.optmem_max", value).expect("in range");
        p.shards[A].tcp_set(a, crate::tcp::TcpOpt::SndBufForce(1 << 20)).expect("set");
        p.shards[A].tcp_set(a, crate::tcp::TcpOpt::NoDelay(true)).expect("set");
        p.tcb(A, a).snd_cwnd = 1000;
        p.lose = Some(|s| s.from == A && s.len > 0);
        let vec = bytes(0, 600);
        for _ in 0..sends {
            lend(&mut p, a, &vec).expect("room");
            p.run(US);
        }
        assert_eq!(lend(&mut p, a, &vec), Err(TcpError::NoBuffers), "{value}");
        assert!(!p.shards[A].tcp_zerocopy_room(a), "{value}");
        p.lose = None;
        p.run(60 * SEC);
        let last = sends.checked_sub(1);
        let told = p.shards[A].tcp_zerocopy_done(a);
        assert_eq!(told.map(|done| (done.first, done.last)), last.map(|last| (0, last)), "{value}");
        assert_eq!(lend(&mut p, a, &vec).is_ok(), sends > 0, "{value}");
    }
}

//! Files that are sent from where they lie: what arrives, and how long their bytes are held.

use std::sync::Arc;

use super::*;
use crate::pkt::Lent;
use crate::sock::error::TcpError;
use crate::tcp::{SendMsg, TcpOpt};

/// A file of this length whose bytes are those that the reader expects from `from` on.
fn file(from: u64, len: usize) -> Arc<Vec<u8>> {
    Arc::new((0..len as u64).map(|i| pattern(from + i)).collect())
}
fn send(
    p: &mut Pair,
    id: SocketId,
    file: &Lent,
    at: usize,
    count: usize,
) -> Result<usize, TcpError> {
    p.shards[A].tcp_sendfile(id, file, at, count, SendMsg::default())
}
fn reader() -> End {
    End { shut: true, ..End::new(0) }
}

/// One memory serves two connections over a link that loses; each byte arrives as it is, and the file is let go
/// when both have it.
#[test]
fn one_file_in_memory_serves_many_connections() {
    for (seed, offload) in [(800, false), (801, true)] {
        let fate = Fate { loss: 30, reorder: 100, offload, ..GOOD };
        let mut p = Pair::new(seed, fate);
        p.watch = false;
        let l = p.listen(80);
        let pairs = [p.connect_to(l), p.connect_to(l)];
        let owner = file(0, 400_000);
        let image = Lent::from(Arc::clone(&owner));
        let mut at = [0; 2];
        let mut readers = [reader(), reader()];
        let over = p.until(300 * SEC, |p| {
            for (i, (a, b)) in pairs.iter().enumerate() {
                while let Ok(n @ 1..) = send(p, *a, &image, at[i], 70_000) {
                    at[i] += n;
                }
                readers[i].turn(&mut p.shards[B], *b);
            }
            readers.iter().all(|r| r.read == 400_000)
        });
        assert!(over, "{at:?} sent");
        drop(image);
        p.run(10 * SEC);
        assert_eq!(Arc::strong_count(&owner), 1, "both have all of it");
        assert!(offload || p.count(A, Counter::TcpRetransSegs) > 0, "something was sent again");
        // Nobody is told of it.
        assert!(!p.shards[A].tcp_zerocopy_ready(pairs[0].0));
        assert!(!p.ready(A, pairs[0].0).has(Ready::ERR));
    }
}

/// The owner lets go of what is under way, and uses the memory that it gets next for something else: what is sent
/// again is what was sent.
#[test]
fn what_is_sent_again_is_what_was_sent_whatever_became_of_the_file() {
    let mut p = Pair::new(802, GOOD);
    let (a, b) = p.connected();
    let owner = file(0, 60_000);
    let gone = Arc::downgrade(&owner);
    p.lose = Some(|s| s.from == A && s.len > 0);
    let n = send(&mut p, a, &Lent::from(owner), 0, 60_000).expect("room");
    assert_eq!(n, 60_000);
    p.run(10 * MS);
    assert!(gone.upgrade().is_some(), "the connection holds it");
    let others: Vec<Vec<u8>> = (0..100).map(|_| vec![0xee; 60_000]).collect();
    p.lose = None;
    let mut end = reader();
    assert!(p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[B], b);
        end.read == 60_000
    }));
    p.run(SEC);
    assert!(gone.upgrade().is_none(), "it is acknowledged");
    assert!(others.iter().all(|o| o[0] == 0xee));
}

/// What lies before and behind the part that is sent stays where it is, at whatever byte the part begins or ends;
/// that no packet has bytes behind its end is looked at on the link.
#[test]
fn nothing_but_the_part_is_sent() {
    let mut p = Pair::new(803, GOOD);
    let (a, b) = p.connected();
    let (mut end, mut total) = (reader(), 0u64);
    for (before, len, behind) in
        [(0, 1, 9), (7, 511, 1), (1, 512, 1), (3, 513, 5000), (4095, 1448, 1), (13, 9001, 70_000)]
    {
        let mut bytes = vec![0xee; before];
        bytes.extend((0..len as u64).map(|i| pattern(total + i)));
        bytes.extend(vec![0xee; behind]);
        let image = Lent::from(bytes);
        assert_eq!(send(&mut p, a, &image, before, len), Ok(len));
        total += len as u64;
        // A part of a part lies where it says.
        let inner = image.part(before..before + len);
        assert_eq!((inner.len(), inner.bytes()[0]), (len, pattern(total - len as u64)));
    }
    assert!(p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[B], b);
        end.read == total
    }));
}

/// As with `sendfile`: what lies behind the end is not there, and that is no error.
#[test]
fn the_files_end_ends_the_send() {
    let mut p = Pair::new(804, GOOD);
    let (a, b) = p.connected();
    let image = Lent::from(file(0, 5000).to_vec());
    assert_eq!(send(&mut p, a, &image, 0, usize::MAX), Ok(5000));
    for at in [5000, 5001, usize::MAX] {
        assert_eq!(send(&mut p, a, &image, at, 10), Ok(0), "{at}");
    }
    p.run(SEC);
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(5000));
    p.shards[A].tcp_shutdown(a);
    assert_eq!(send(&mut p, a, &image, 0, 10), Err(TcpError::Closed));
}

/// A head that says that more follows shares its segment with the file's first bytes; the buffer bounds what is
/// queued, and a connection that is reset lets go.
#[test]
fn a_file_behind_a_head_and_a_buffer_that_is_full() {
    let mut p = Pair::new(805, GOOD);
    let (a, _) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::SndBufForce(50_000)).expect("set");
    p.seen.clear();
    let more = SendMsg { more: true, ..SendMsg::default() };
    p.shards[A].tcp_sendmsg(a, &[1; 100], more).expect("room");
    let owner = file(0, 1_000_000);
    let image = Lent::from(Arc::clone(&owner));
    let n = send(&mut p, a, &image, 0, 1_000_000).expect("room");
    assert!((50_000..1_000_000).contains(&n), "{n}");
    assert_eq!(send(&mut p, a, &image, n, 1), Err(TcpError::WouldBlock));
    p.run(50 * US);
    let first = p.seen.iter().find(|s| s.from == A && s.len > 0).expect("it is sent");
    assert_eq!(first.len, 1448);
    assert!(Arc::strong_count(&owner) > 2);
    p.shards[A].tcp_abort(a);
    p.run(SEC);
    assert_eq!(Arc::strong_count(&owner), 2);
}

use super::*;

fn chunk(home: u16) -> Buf {
    Buf::mapped(Box::leak(vec![0u8; 4096].into_boxed_slice()), Home(home))
}

#[test]
fn a_chunk_of_a_device_carries_a_packet_and_comes_home() {
    let mut pool = Pool::new(4, 4);
    let mut buf = chunk(2);
    buf[256..259].copy_from_slice(b"abc");
    let pkt = pool.alloc_around(buf, 256, 3).ok().expect("there is room");
    assert_eq!((pkt.head(), pkt.headroom(), pool.small_out()), (&b"abc"[..], 256, 1));
    pool.free(pkt);
    let mut out = Vec::new();
    pool.take_home(Home(1), 8, &mut out);
    assert!(out.is_empty(), "of another memory");
    pool.take_home(Home(2), 8, &mut out);
    assert_eq!((out.len(), out[0].home(), pool.small_out()), (1, Some(Home(2)), 0));
    assert_eq!(&out[0][256..259], b"abc");
    // Ordinary packets still have memory of the pool's own.
    let pkt = pool.alloc().expect("there is room");
    assert_eq!((pkt.tailroom() + pkt.headroom(), pkt.head_len()), (SMALL, 0));
}

#[test]
fn without_room_the_chunk_stays_with_the_device() {
    let mut pool = Pool::new(0, 0);
    let back = pool.alloc_around(chunk(0), 0, 10).expect_err("no packet may be out");
    assert_eq!(back.home(), Some(Home(0)));
}

#[test]
fn a_frame_in_several_chunks_counts_each_and_brings_them_home() {
    let mut pool = Pool::new(2, 0);
    let mut pkt = pool.alloc_around(chunk(5), 256, 3000).ok().expect("there is room");
    assert!(pool.add_around(&mut pkt, chunk(5), 0, 2000).is_ok());
    assert_eq!((pkt.len(), pkt.nr_frags(), pool.small_out()), (5000, 1, 2));
    let third = pool.add_around(&mut pkt, chunk(5), 0, 1).expect_err("two may be out");
    assert_eq!(third.home(), Some(Home(5)));
    pool.free(pkt);
    let mut lens = Vec::new();
    assert_eq!(pool.each_home(Home(4), 8, |_| unreachable!("of another memory")), 0);
    assert_eq!(pool.each_home(Home(5), 1, |chunk| lens.push(chunk.len())), 1);
    assert_eq!(pool.each_home(Home(5), 8, |chunk| lens.push(chunk.len())), 1);
    assert_eq!((lens, pool.small_out()), (vec![4096; 2], 0));
}

#[test]
fn a_packet_that_is_nothing_but_a_chunk_can_be_sent_from_it() {
    let mut pool = Pool::new(4, 4);
    let mut pkt = pool.alloc_around(chunk(3), 100, 60).ok().expect("there is room");
    assert!(pkt.take_chunk(Home(4)).is_none());
    assert!(pkt.pull(10));
    let (buf, at, len) = pkt.take_chunk(Home(3)).expect("it is");
    assert_eq!((buf.len(), at, len, pkt.len()), (4096, 110, 50, 0));
    pool.free(pkt);
    assert_eq!(pool.small_out(), 0);
}

#[test]
fn merging_chunks_needs_no_new_memory_in_the_long_run() {
    let mut pool = Pool::new(64, 4);
    let mut home: Vec<Buf> = (0..8).map(|_| chunk(0)).collect();
    let round = |pool: &mut Pool, home: &mut Vec<Buf>| {
        let mut next = || {
            let chunk = home.pop().expect("every chunk comes back");
            pool.alloc_around(chunk, 0, 1500).ok().expect("there is room")
        };
        let (mut first, mut second) = (next(), next());
        assert!(first.append(&mut second, pool));
        pool.free(second);
        pool.free(first);
        pool.take_home(Home(0), 8, home);
        assert_eq!((home.len(), pool.small_out()), (8, 0));
        (pool.free.len(), pool.bare.len(), pool.heads.len())
    };
    (0..8).for_each(|_| {
        round(&mut pool, &mut home);
    });
    let before = round(&mut pool, &mut home);
    (0..100).for_each(|_| {
        round(&mut pool, &mut home);
    });
    assert_eq!(round(&mut pool, &mut home), before);
}

#[test]
fn what_one_shard_only_frees_another_may_take_from_the_depot() {
    let depot = Arc::<Depot>::default();
    let (mut from, mut to) = (Pool::new(100_000, 1000), Pool::new(100_000, 1000));
    from.share(Arc::clone(&depot));
    to.share(Arc::clone(&depot));
    let mut boxes = std::collections::BTreeSet::new();
    for _ in 0..100 {
        for _ in 0..100 {
            let mut pkt = from.alloc().expect("there is room");
            let large = from.alloc_large().expect("there is room");
            pkt.add_buf(large, 0, 10);
            boxes.insert(std::ptr::from_ref(&*pkt.0) as usize);
            from.give(&pkt);
            to.adopt(&pkt);
            to.free(pkt);
        }
        assert_eq!((from.small_out(), from.large_out()), (0, 0));
        assert_eq!((to.small_out(), to.large_out()), (0, 0));
    }
    // Without the way back every one of the ten thousand would be new memory.
    assert!(boxes.len() <= KEEP + 2 * DEPOT_BATCH, "{} packets were made", boxes.len());
}

#[test]
fn chunks_that_gather_elsewhere_come_home_by_the_depot() {
    let depot = Arc::<Depot>::default();
    let (mut from, mut to) = (Pool::new(100_000, 1000), Pool::new(100_000, 1000));
    from.share(Arc::clone(&depot));
    to.share(depot);
    let mut home: Vec<Buf> = (0..2 * KEEP).map(|_| chunk(1)).collect();
    for _ in 0..10 * KEEP {
        if home.is_empty() {
            from.take_home(Home(1), 64, &mut home);
        }
        let chunk = home.pop().expect("what was freed elsewhere comes back");
        let pkt = from.alloc_around(chunk, 0, 64).ok().expect("there is room");
        from.give(&pkt);
        to.adopt(&pkt);
        to.free(pkt);
    }
}

#[test]
fn a_burst_of_writers_does_not_hold_its_memory_for_ever() {
    let mut pool = Pool::new(4, 4);
    for len in [SMALL, LARGE] {
        let all: Vec<SendChunk> = (0..2 * KEEP_CHUNKS).map(|_| pool.alloc_chunk(len)).collect();
        all.into_iter().for_each(|chunk| pool.free_chunk(chunk));
    }
    assert_eq!((pool.chunks_small.len(), pool.chunks_large.len()), (1024, 512));
    // What is kept is handed out again, empty.
    assert!(pool.alloc_chunk(LARGE).is_empty());
    assert_eq!(pool.chunks_large.len(), 511);
}

#[test]
fn lists_of_fragments_are_kept_up_to_a_number() {
    let mut pool = Pool::new(4 * KEEP, 0);
    let mut all: Vec<Pkt> = (0..2 * KEEP).filter_map(|_| pool.alloc()).collect();
    all.iter_mut().for_each(|pkt| pool.widen(&mut pkt.frags, 1));
    assert_eq!((all.len(), pool.frags_short.len()), (2 * KEEP, KEEP));
    for mut pkt in all {
        pkt.add_buf(Buf::new(1), 0, 1);
        pool.free(pkt);
    }
    assert_eq!(pool.frags_long.len(), KEEP);
}

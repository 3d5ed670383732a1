//! Knobs of buffers.

use super::*;

/// The second number is what a connection begins with, the third what it grows to.
#[test]
fn knob_net_ipv4_tcp_rmem() {
    let small = "4096 20000 20000";
    let first = |value| syn("net.ipv4.tcp_rmem", value).hdr.window;
    assert!(first(small) < first("4096 131072 6291456"));
    for (value, most) in [(small, 20_000), ("4096 20000 300000", 300_000)] {
        let mut p = pair(202, Fate { delay: 10 * MS, ..GOOD }, &[("net.ipv4.tcp_rmem", value)]);
        p.watch = false;
        let (a, b) = p.connected();
        assert_eq!(p.tcb(B, b).rcvbuf, 20_000);
        exchange(&mut p, (a, b), [5_000_000, 0], 600 * SEC);
        let grown = p.shards[B].tcp_info(b).expect("it lives").rcvbuf;
        assert!(grown <= most && grown > most / 2, "{grown} for {value}");
    }
}

/// How much can be queued at once: packets begin as long as those before them hold less than the buffer, with a
/// head each (`sk_stream_memory_free`).
#[test]
fn knob_net_ipv4_tcp_wmem() {
    const PACKET: usize = 32 * 1448;
    let values = [("4096 4096 8192", 8192), ("4096 16384 65536", 65_536)];
    for (value, sndbuf) in [values[0], values[1], ("4096 1000000 4194304", 1_000_000)] {
        let mut p = with("net.ipv4.tcp_wmem", value);
        let (a, _) = p.connected();
        assert_eq!(p.shards[A].tcp_info(a).map(|i| i.sndbuf), Some(sndbuf as u32));
        let queued = p.shards[A].tcp_send(a, &[0; 2_000_000]).expect("room");
        // What the congestion window allowed of the first packet went while this was written.
        let packets = queued.div_ceil(PACKET) + 1;
        let held = queued + 832 * packets;
        assert!((sndbuf..sndbuf + PACKET + 832).contains(&held), "{value}: {queued}");
        assert_eq!(p.shards[A].tcp_send(a, &[0; 1]), Err(TcpError::WouldBlock));
    }
}

/// Queues pieces at A as long as it takes them, while nothing arrives; how many bytes it then has.
fn queues_in_vain(p: &mut Pair) -> u64 {
    let (a, b) = p.connected();
    // What A does not read is memory, too.
    for _ in 0..4 {
        p.shards[B].tcp_send(b, &[0; 1400]).expect("room");
        p.run(SEC);
    }
    p.lose = Some(|_| true);
    assert!(p.shards[A].tcp_send_space(a) > 0, "what has nothing under way may always begin");
    (0..100).map(|_| p.shards[A].tcp_send(a, &[0; 500]).unwrap_or(0) as u64).sum()
}

/// Over the limit of all connections together nobody may queue more than the least
/// (`tcp_wmem[0]`).
#[test]
fn knob_net_ipv4_tcp_mem() {
    let (short, ample) = ("0 0 1", "32768 49152 65536");
    let got = [short, ample].map(|v| queues_in_vain(&mut with("net.ipv4.tcp_mem", v)));
    assert!(got[0] <= 4096 && got[1] >= 16_000, "{got:?}");
}

/// The least that a connection has when all together have too much is the first value of its buffer,
/// in both directions.
#[test]
fn what_a_connection_has_in_any_case_is_the_least_of_its_buffers() {
    let short = ("net.ipv4.tcp_mem", "0 0 1");
    let sent = ["4096 16384 4194304", "12288 16384 4194304"].map(|value| {
        let mut p = pair(204, GOOD, &[short, ("net.ipv4.tcp_wmem", value)]);
        queues_in_vain(&mut p)
    });
    assert!((2000..=4096).contains(&sent[0]), "{sent:?}");
    assert!((10_000..=12_288).contains(&sent[1]), "{sent:?}");
    let kept = ["4096 131072 6291456", "65536 131072 6291456"].map(|value| {
        let mut p = pair(205, GOOD, &[short, ("net.ipv4.tcp_rmem", value)]);
        let (a, b) = p.connected();
        p.until(20 * SEC, |p| {
            let _ = p.shards[A].tcp_send(a, &[0; 1400]);
            false
        });
        p.shards[B].tcp_readable(b).expect("it is open").bytes
    });
    assert!((1400..=5600).contains(&kept[0]) && kept[1] > 20_000, "{kept:?}");
}

/// However large buffers are, what nobody reads does not take all packets of the pool: what the
/// other end is told and asked still goes out, and comes in.
#[test]
fn receive_queues_leave_packets_to_send_with() {
    let windows = ("net.ipv4.tcp_rmem", "4096 6291456 6291456");
    let mut p = pair(206, GOOD, &[windows]);
    p.shards[B].set_knob("pool.small", "512").expect("in range");
    let (a, b) = p.connected();
    p.until(20 * SEC, |p| {
        let _ = p.shards[A].tcp_send(a, &[0; 1400]);
        assert!(p.shards[B].net.pool.small_left() > 512 / 8, "receive queues take all there is");
        false
    });
    assert!(p.shards[B].tcp_readable(b).expect("it is open").bytes > 200_000);
    assert_eq!(p.shards[B].tcp_send(b, &[1; 16_000]), Ok(16_000));
    p.run(10 * SEC);
    assert_eq!(p.shards[A].tcp_readable(a).expect("it is open").bytes, 16_000);
    assert_eq!(p.drops(B, Reason::GsoNoMem), 0);
}

/// A reader that finds nothing looks at the devices for so long, whichever way it reads.
#[test]
fn a_reader_of_pieces_busy_reads_as_one_that_copies() {
    let mut p = with("net.core.busy_read", "50");
    let (_, b) = p.connected();
    let (shard, until) = (&mut p.shards[B], p.now.plus(50 * US));
    shard.net.now = p.now;
    assert_eq!(shard.tcp_rx_slices(b, 100, &mut Vec::new()), Err(TcpError::WouldBlock));
    assert_eq!(shard.net.busy_read_until, until);
    shard.net.busy_read_until = Instant::ZERO;
    assert_eq!(shard.tcp_recv(b, &mut [0; 10]), Err(TcpError::WouldBlock));
    assert_eq!(shard.net.busy_read_until, until);
}

/// The buffer follows the reader, or stays as it began.
#[test]
fn knob_net_ipv4_tcp_moderate_rcvbuf() {
    for (value, grows) in [("1", true), ("0", false)] {
        let fate = Fate { delay: 25 * MS, ..GOOD };
        let mut p = pair(203, fate, &[("net.ipv4.tcp_moderate_rcvbuf", value)]);
        p.watch = false;
        let (a, b) = p.connected();
        exchange(&mut p, (a, b), [5_000_000, 0], 600 * SEC);
        let buf = p.shards[B].tcp_info(b).expect("it lives").rcvbuf;
        assert_eq!(buf > 131_072, grows, "{buf}");
    }
}

/// What an application asks for is granted up to this, and doubled; by force it gets all.
#[test]
fn knob_net_core_wmem_max() {
    for (most, asked, got) in [("20000", 1_000_000, 40_000), ("20000", 10_000, 20_000)] {
        let mut p = with("net.core.wmem_max", most);
        let (a, _) = p.connected();
        p.shards[A].tcp_set(a, TcpOpt::SndBuf(asked)).expect("set");
        assert_eq!(p.shards[A].tcp_info(a).map(|i| i.sndbuf), Some(got));
        p.shards[A].tcp_set(a, TcpOpt::SndBufForce(100_000)).expect("set");
        assert_eq!(p.shards[A].tcp_info(a).map(|i| i.sndbuf), Some(100_000));
    }
}

/// The same for the receive buffer of TCP.
#[test]
fn a_receive_buffer_is_granted_up_to_rmem_max() {
    let mut p = with("net.core.rmem_max", "20000");
    let (_, b) = p.connected();
    for (opt, got) in [
        (TcpOpt::RcvBuf(1_000_000), 40_000),
        (TcpOpt::RcvBuf(5000), 10_000),
        (TcpOpt::RcvBufForce(1_000_000), 1_000_000),
    ] {
        p.shards[B].tcp_set(b, opt).expect("set");
        assert_eq!(p.shards[B].tcp_info(b).map(|i| i.rcvbuf), Some(got));
    }
    assert_eq!(p.tcb(B, b).state, State::Established);
}

//! Pacing, delivery rates, and BBR as a part of a connection; over paths: crates/sim/tests/congestion.

use super::*;
use crate::tcp::TcpOpt;
use crate::tcp::timer::Rtx;

fn with(fate: Fate, knobs: &[(&str, &str)]) -> Pair {
    let mut p = Pair::new(400, fate);
    for (path, value) in knobs {
        p.shards[A].set_knob(path, value).expect("the knob takes the value");
    }
    p
}

const BBR: (&str, &str) = ("net.ipv4.tcp_congestion_control", "bbr");
const LIMIT: u64 = 1_000_000;

/// An application's limit holds, with whatever congestion control; packets leave one by one, not in bursts.
#[test]
fn the_application_limits_the_rate() {
    for cc in ["cubic", "bbr"] {
        let mut p = with(Fate { delay: 5 * MS, ..GOOD }, &[(BBR.0, cc)]);
        let (a, b) = p.connected();
        assert_eq!(p.tcb(A, a).pace.is_some(), cc == "bbr", "others are not paced");
        p.shards[A].tcp_set(a, TcpOpt::MaxPacingRate(LIMIT)).expect("an option");
        let ns = exchange(&mut p, (a, b), [2_000_000, 0], 30 * SEC);
        // The first ten segments are not paced.
        assert!((1_900 * MS..2_400 * MS).contains(&ns), "{cc}: {ns} ns for two seconds' worth");
        let data: Vec<&Seen> = p.seen.iter().filter(|s| s.from == A && s.len > 0).collect();
        for ten in data.windows(10).skip(40) {
            let (bytes, took) =
                (ten[..9].iter().map(|s| s.len as u64).sum::<u64>(), ten[9].at.since(ten[0].at));
            assert!(took * LIMIT / SEC + 3 * 1448 >= bytes, "{bytes} bytes in {took} ns");
        }
        let info = p.shards[A].tcp_info(a);
        assert!(info.is_none_or(|i| i.max_pacing_rate == LIMIT && i.pacing_rate <= LIMIT));
    }
}

/// Where pacing holds all data back and nothing is under way, the probe timer runs as it does behind a closed
/// window, from when the next packet may leave: the data goes before it.
#[test]
fn what_pacing_holds_back_has_a_timer() {
    let mut p = with(Fate { delay: 5 * MS, ..GOOD }, &[]);
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::MaxPacingRate(1000)).expect("an option");
    let (mut end, mut reader) = (End::new(40_000), End::new(0));
    let mut held = 0;
    let done = p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        let tp = p.tcb(A, a);
        if !tp.push && !tp.dirty && tp.packets_out == 0 && tp.unsent() {
            held += 1;
            assert!(
                tp.rtx_kind == Rtx::Probe0 && tp.rtx_at > tp.pace.as_ref().expect("it is paced").at
            );
        }
        reader.eof
    });
    assert!(done && held > 5, "{held}");
    assert_eq!(p.count(A, Counter::TcpExtTCPWinProbe), 0);
}

/// What the limit lets through is the rate that BBR measures.
#[test]
fn delivery_rates_are_measured() {
    let mut p = with(Fate { delay: 5 * MS, ..GOOD }, &[BBR]);
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::MaxPacingRate(LIMIT)).expect("an option");
    let (mut end, mut reader) = (End::new(3_000_000), End::new(0));
    (end.shut, reader.shut) = (true, true);
    let most = p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.read >= 2_000_000
    });
    assert!(most);
    let info = p.shards[A].tcp_info(a).expect("it lives");
    let rate = info.delivery_rate;
    assert!((LIMIT * 9 / 10..LIMIT * 11 / 10).contains(&rate), "{rate} bytes a second");
    assert!(!info.delivery_rate_app_limited);
    let bbr = info.bbr.expect("it is BBR");
    assert!((LIMIT * 9 / 10..LIMIT * 13 / 10).contains(&bbr.bw), "{bbr:?}");
    assert!((9_900..11_500).contains(&bbr.min_rtt_us), "{bbr:?}");
    assert!(bbr.state.starts_with("Probe"), "{bbr:?}");
}

/// A link that loses, repeats and reorders: every byte arrives, and the record of rates stays beside that of
/// packets (checked after each step), with SACK and without, also where the algorithm changes meanwhile.
#[test]
fn bbr_survives_a_bad_link() {
    use crate::table::knob::CcName;
    for (seed, sack) in [(1, "1"), (2, "1"), (3, "0")] {
        let fate = Fate { delay: 3 * MS, loss: 20, dup: 10, reorder: 50, ..GOOD };
        let mut p = with(fate, &[BBR, ("net.ipv4.tcp_sack", sack)]);
        p.rng = Rng::new(seed);
        let (a, b) = p.connected();
        let mut ends = [End::new(600_000), End::new(20_000)];
        let mut turns = 0;
        let done = p.until(300 * SEC, |p| {
            ends[A].turn(&mut p.shards[A], a);
            ends[B].turn(&mut p.shards[B], b);
            turns += 1;
            let next = match turns {
                300 => Some(CcName::Cubic),
                400 => Some(CcName::Bbr),
                _ => None,
            };
            if let Some(cc) = next {
                let set = p.shards[A].tcp_set(a, TcpOpt::Congestion(cc));
                assert!(set.is_ok() || ends[A].eof, "{set:?}");
            }
            ends.iter().all(|e| e.eof)
        });
        assert!(done, "seed {seed}: {:?}", p.shards[A].tcp_info(a));
    }
}

/// Where packets leave by `fq`, every connection is paced; elsewhere CUBIC is not.
#[test]
fn fq_paces() {
    for (qdisc, paced) in [("pfifo_fast", false), ("fq", true), ("fq nopacing", false)] {
        let mut p = with(GOOD, &[("qdisc.t0.root", qdisc)]);
        let (a, b) = p.connected();
        assert_eq!(p.tcb(A, a).pace.is_some(), paced, "{qdisc}");
        exchange(&mut p, (a, b), [300_000, 0], 30 * SEC);
    }
}

/// The rate of a paced connection whose window is all that is known, in slow start and after it.
fn rate_of(knob: &str, percent: &str, ssthresh: u32) -> u64 {
    let mut p = with(Fate { delay: 5 * MS, ..GOOD }, &[(knob, percent)]);
    let (a, _) = p.connected();
    p.tcb(A, a).snd_ssthresh = ssthresh;
    p.shards[A].tcp_info(a).map_or(0, |i| i.pacing_rate)
}

#[test]
fn knob_net_ipv4_tcp_pacing_ss_ratio() {
    let rates =
        ["100", "200"].map(|percent| rate_of("net.ipv4.tcp_pacing_ss_ratio", percent, 1 << 30));
    // Ten segments in a round trip of ten milliseconds.
    assert!((1_300_000..1_500_000).contains(&rates[0]), "{rates:?}");
    assert_eq!(rates[1], 2 * rates[0]);
}

#[test]
fn knob_net_ipv4_tcp_pacing_ca_ratio() {
    let rates = ["120", "240"].map(|percent| rate_of("net.ipv4.tcp_pacing_ca_ratio", percent, 5));
    assert_eq!(rates[1], 2 * rates[0]);
    assert_eq!(
        rate_of("net.ipv4.tcp_pacing_ca_ratio", "240", 1 << 30),
        rate_of("net.ipv4.tcp_pacing_ca_ratio", "120", 1 << 30)
    );
}

//! Goal: interrupts come, wait, stay away and come back as the knobs say, and each knob moves the
//! counter that shows it.
//! Method: a card whose packets and interrupt line the test controls, and a loop on virtual time:
//! it sleeps exactly as long as nothing wakes it.

use crate::nic::Lab;
use linerate_core::table::Counter;
use linerate_core::time::{MS, SEC, US};

/// What one burst of packets does to the counters: interrupts, waits for more.
fn interrupts(lab: &Lab) -> (u64, u64) {
    (lab.get(Counter::IrqRx), lab.get(Counter::IrqCoalesced))
}

/// Without a wait each packet has its interrupt; with one, what comes meanwhile shares it. The loop
/// sleeps through the wait although the line is up: the interrupt is masked.
#[test]
fn knob_coalesce_rx_usecs() {
    let burst = |usecs: &str| {
        let mut lab = Lab::new(1);
        lab.set("coalesce.rx-usecs", usecs);
        let begun = lab.clock.now();
        for _ in 0..3 {
            lab.cards[0].arrive(1);
            lab.turn_until(lab.clock.now() + 20 * US);
        }
        while lab.waiting(0) > 0 {
            lab.turn();
        }
        (interrupts(&lab), lab.clock.now() - begun)
    };
    assert_eq!(burst("0"), ((3, 0), 0));
    // The first turn notes the interrupt and does not sleep; the others sleep 20 µs each.
    assert_eq!(burst("100"), ((1, 1), 100 * US));
}

/// So many packets end the wait, long before its time is over.
#[test]
fn knob_coalesce_rx_frames() {
    let wait = |frames: &str| {
        let mut lab = Lab::new(1);
        lab.set("coalesce.rx-usecs", "100000");
        lab.set("coalesce.rx-frames", frames);
        let begun = lab.clock.now();
        for _ in 0..4 {
            lab.cards[0].arrive(1);
            lab.turn_until(lab.clock.now() + US);
        }
        while lab.waiting(0) > 0 {
            lab.turn();
        }
        (interrupts(&lab), lab.clock.now() - begun)
    };
    assert_eq!(wait("0"), ((1, 1), 100 * MS));
    let (counted, took) = wait("4");
    assert_eq!(counted, (1, 1));
    // The loop looks eight times in the whole wait.
    assert!(took <= 100 * MS / 8, "{took}");
    // As many as end the wait are there at once: there is none.
    let mut lab = Lab::new(1);
    lab.set("coalesce.rx-usecs", "100000");
    lab.set("coalesce.rx-frames", "4");
    lab.cards[0].arrive(4);
    lab.turn();
    assert_eq!((interrupts(&lab), lab.waiting(0)), ((1, 0), 0));
}

/// What was sent stays with the loop until the time is over, and comes back in one go.
#[test]
fn knob_coalesce_tx_usecs() {
    for holds in [false, true] {
        let burst = |usecs: &str| {
            let mut lab = Lab::new(1);
            lab.cards[0].state().holds = holds;
            lab.set("coalesce.tx-usecs", usecs);
            for _ in 0..3 {
                lab.send(1);
                lab.turn_until(lab.clock.now() + 10 * US);
            }
            let early = lab.drive.shard.net.pool.small_out();
            let begun = lab.clock.now();
            while lab.drive.shard.net.pool.small_out() > 0 {
                lab.turn();
            }
            (early, lab.get(Counter::IrqTx), lab.clock.now() - begun)
        };
        assert_eq!(burst("0"), (0, 3, 0), "holds {holds}");
        // The first was sent after 10 µs, and the third after 30.
        assert_eq!(burst("100"), (3, 1, 80 * US), "holds {holds}");
    }
}

#[test]
fn knob_coalesce_tx_frames() {
    let cleaned = |frames: &str| {
        let mut lab = Lab::new(1);
        lab.set("coalesce.tx-usecs", "100000");
        lab.set("coalesce.tx-frames", frames);
        let each = [2, 1, 3].map(|pkts| {
            lab.send(pkts);
            lab.turn_until(lab.clock.now());
            lab.get(Counter::IrqTx)
        });
        (each, lab.drive.shard.net.pool.small_out())
    };
    assert_eq!(cleaned("0"), ([0, 0, 0], 6));
    assert_eq!(cleaned("3"), ([0, 1, 2], 0));
}

/// A stream of packets, one each microsecond, for so long.
fn stream(lab: &mut Lab, us: u64) {
    let end = lab.clock.now() + us * US;
    let mut due = lab.clock.now();
    while lab.clock.now() < end {
        let n = (lab.clock.now() - due) / US;
        due += n * US;
        lab.cards[0].arrive(n as usize);
        lab.turn_until(lab.clock.now() + US);
    }
}

/// A stream whose rate does not depend on moderation is moderated more and more; a switch turns it
/// off again.
#[test]
fn knob_coalesce_adaptive_rx() {
    let mut lab = Lab::new(1);
    stream(&mut lab, 10_000);
    assert_eq!(lab.get(Counter::IrqCoalesced), 0);
    let before = lab.get(Counter::IrqRx);
    lab.set("coalesce.adaptive-rx", "1");
    stream(&mut lab, 10_000);
    let during = lab.get(Counter::IrqRx) - before;
    let moderated = lab.drive.coalesce(0, 0).expect("the queue is there");
    assert!(moderated.adaptive_rx && moderated.rx_usecs >= 64, "{moderated:?}");
    assert!(lab.get(Counter::IrqCoalesced) > 0 && during * 2 < before, "{during} after {before}");
    lab.set("coalesce.adaptive-rx", "0");
    stream(&mut lab, 100);
    assert_eq!(lab.drive.coalesce(0, 0).expect("the queue is there").rx_usecs, 0);
}

#[test]
fn knob_coalesce_adaptive_tx() {
    let sent = |adaptive: &str| {
        let mut lab = Lab::new(1);
        lab.set("coalesce.adaptive-tx", adaptive);
        for _ in 0..20_000 {
            lab.send(1);
            lab.turn_until(lab.clock.now() + US);
        }
        (lab.get(Counter::IrqTx), lab.drive.coalesce(0, 0).expect("the queue is there").tx_usecs)
    };
    assert_eq!(sent("0"), (20_000, 0));
    let (interrupts, usecs) = sent("1");
    assert!(interrupts < 5_000 && usecs >= 32, "{interrupts} with {usecs}");
}

/// After a packet a timer polls so often in vain until the interrupt is on again; what comes before
/// that is found without one.
#[test]
fn knob_dev_napi_defer_hard_irqs() {
    for (polls, deferred, found) in [("0", 0, 1), ("3", 3, 0)] {
        let mut lab = Lab::new(1);
        lab.set("dev.gro_flush_timeout", "20000");
        lab.set("dev.napi_defer_hard_irqs", polls);
        lab.cards[0].arrive(1);
        lab.turn();
        let begun = lab.clock.now();
        lab.turn_until(begun + SEC);
        lab.turn_until(begun + SEC);
        lab.turn_until(begun + SEC);
        lab.turn_until(begun + SEC);
        assert_eq!((lab.get(Counter::IrqRx), lab.get(Counter::IrqDeferred)), (1, deferred));
        // Another packet: by interrupt again, now that the polls are used up.
        lab.cards[0].arrive(1);
        lab.turn();
        assert_eq!((lab.get(Counter::IrqRx), lab.waiting(0)), (2, 0));
        // And one while the timer runs.
        lab.cards[0].arrive(1);
        let before = lab.clock.now();
        lab.turn();
        assert_eq!((lab.get(Counter::IrqRx), lab.waiting(0)), (2 + found, 0));
        assert_eq!(lab.clock.now() - before, if found == 0 { 20 * US } else { 0 });
    }
}

/// While busy polling finds packets the interrupt stays off; the first empty poll lets it on again.
#[test]
fn knob_dev_irq_suspend_timeout() {
    for (timeout, suspended, interrupts, polled) in [("0", 0, 5, 0), ("1000000", 5, 1, 4)] {
        let mut lab = Lab::new(1);
        lab.set("net.core.busy_poll", "50");
        lab.set("dev.irq_suspend_timeout", timeout);
        // Beyond the busy poll that the start may have begun.
        lab.turn_until(SEC);
        lab.turn_until(SEC);
        for _ in 0..5 {
            lab.cards[0].arrive(1);
            lab.turn();
            assert_eq!(lab.waiting(0), 0);
        }
        let seen = [Counter::IrqSuspended, Counter::IrqRx, Counter::TcpExtBusyPollRxPackets];
        assert_eq!(seen.map(|c| lab.get(c)), [suspended, interrupts, polled], "{timeout}");
        lab.turn();
        lab.clock.advance(SEC);
        lab.turn();
        lab.cards[0].arrive(1);
        lab.turn();
        assert_eq!((lab.get(Counter::IrqRx), lab.waiting(0)), (interrupts + 1, 0), "{timeout}");
    }
}

/// Busy polling that nobody keeps up: the timer ends the suspension.
#[test]
fn a_suspension_ends_by_itself() {
    let mut lab = Lab::new(1);
    lab.set("net.core.busy_poll", "50");
    lab.set("dev.irq_suspend_timeout", "1000000");
    lab.cards[0].arrive(1);
    lab.turn();
    assert_eq!(lab.get(Counter::IrqSuspended), 1);
    lab.set("net.core.busy_poll", "0");
    lab.cards[0].arrive(1);
    let begun = lab.clock.now();
    lab.turn();
    assert_eq!((lab.waiting(0), lab.clock.now() - begun), (0, MS));
    assert_eq!((lab.get(Counter::IrqRx), lab.get(Counter::IrqDeferred)), (1, 1));
}

/// For a while after work the loop finds packets that no interrupt told of.
#[test]
fn busy_polling_needs_no_interrupt() {
    for (usecs, found) in [("0", 0), ("50", 1)] {
        let mut lab = Lab::new(1);
        lab.set("net.core.busy_poll", usecs);
        lab.cards[0].arrive(1);
        lab.turn();
        lab.cards[0].arrive_silently(1);
        lab.turn_until(lab.clock.now());
        assert_eq!(lab.get(Counter::TcpExtBusyPollRxPackets), found);
        assert_eq!(lab.waiting(0) as u64, 1 - found);
    }
}

/// A reader that found nothing makes the loop look for a while, instead of sleeping until the
/// interrupt.
#[test]
fn knob_net_core_busy_read() {
    for (usecs, found, slept) in [("0", 0, 0), ("50", 1, 0)] {
        let mut lab = Lab::new(1);
        lab.set("net.core.busy_read", usecs);
        // The reader looks once in a turn, and finds nothing.
        lab.turn_until(lab.clock.now());
        let begun = lab.clock.now();
        lab.cards[0].arrive_silently(1);
        lab.turn_until(lab.clock.now());
        assert_eq!(lab.get(Counter::TcpExtBusyPollRxPackets), found);
        assert_eq!((lab.waiting(0) as u64, lab.clock.now() - begun), (1 - found, slept));
    }
    // A look that was long enough ends: the loop sleeps.
    let mut lab = Lab::new(1);
    lab.set("net.core.busy_read", "50");
    lab.read();
    lab.clock.advance(51 * US);
    lab.cards[0].arrive_silently(1);
    lab.turn_until(lab.clock.now());
    assert_eq!((lab.get(Counter::TcpExtBusyPollRxPackets), lab.waiting(0)), (0, 1));
}

/// A card that takes nothing for five seconds is tried again, and it is counted.
#[test]
fn a_card_that_is_stuck_is_noticed() {
    let mut lab = Lab::new(1);
    lab.cards[0].state().jammed = true;
    lab.send(2);
    // Its descriptor says that there is room, so the loop does not sleep; the card still takes
    // nothing.
    let seconds = |lab: &mut Lab, n: u64| {
        for _ in 0..n {
            lab.turn_until(0);
            lab.clock.advance(SEC);
        }
        lab.turn_until(0);
        lab.drive.shard.net.ifaces[0].txqs[0].tx_timeout
    };
    assert_eq!(seconds(&mut lab, 4), 0);
    assert_eq!(seconds(&mut lab, 2), 1);
    lab.cards[0].state().jammed = false;
    assert_eq!(seconds(&mut lab, 9), 1);
    assert_eq!(lab.get(Counter::DevTxPackets), 2);
}

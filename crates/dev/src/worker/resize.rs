//! One shard more, or one less, while the others go on.
//!
//! Linux: none; there CPUs come and go (`cpu_up`, `cpu_down`, net/core/dev.c `dev_cpu_dead`) and
//! sockets belong to none of them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::rx::backlog::netif_rx;
use linerate_core::rx::steer::{Flow, FlowKey, Letter, Mesh};

use super::thread::Order;
use super::{Gone, Workers, lock};
use crate::drive::{App, Drive};

/// Turns that a shard takes at the most to work off what it has, when it goes. Each takes what a pass
/// may take: it is not the load that decides when it ends.
const LAST_TURNS: usize = 64;
/// How long the last packets may take to leave.
const SEND_MAX: Duration = Duration::from_millis(250);

impl<A: App + 'static> Workers<A> {
    /// Starts one worker more, as [`Workers::start`] started the others: `build` makes its devices
    /// and its application, and every knob that was set is set in it. Returns its number. Where its
    /// devices' packets come from (channels, indirection table, `rps_cpus`) is to be set after this;
    /// connections stay where they are, and packets find them.
    ///
    /// # Errors
    /// What `build` gave, or the system; nothing has changed then. `E2BIG` with 64 shards.
    pub fn add(&mut self) -> io::Result<usize> {
        let shard = self.shards();
        if shard >= super::SHARDS_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        self.spawn()?;
        // From now on others steer to it.
        self.mesh().bring_up(shard as u8);
        if let Some(hand) = self.hands.last() {
            hand.order(Order::Run(true));
        }
        Ok(shard)
    }

    /// Takes the last worker away. Its TCP connections, in whatever state they are, move to the
    /// others: to where the device sends them if it distributes as [`linerate_core::shard::Net::rss`]
    /// says for the channels that are left. Packets follow them, in order. Its listeners and UDP
    /// sockets end with it; its application still gets turns to read what they hold.
    ///
    /// Packets should not come to its devices any more: set the channels first. Those that are still
    /// in the rings are sent after their connections.
    ///
    /// # Errors
    /// `EBUSY` if it is the only one; what its last turns or its thread gave: it is gone all the
    /// same.
    pub fn remove(&mut self) -> io::Result<()> {
        self.remove_with(|_, _| ()).0
    }

    /// The same; `last_word` runs on the worker after everything has left it. Its answer is missing
    /// if there is no worker to ask.
    ///
    /// # Errors
    /// As [`Workers::remove`].
    pub fn remove_with<R: Send + 'static>(
        &mut self,
        last_word: impl FnOnce(&mut Drive, &mut A) -> R + Send + 'static,
    ) -> (io::Result<()>, Option<R>) {
        let Some(last) = self.shards().checked_sub(1).filter(|last| *last > 0) else {
            return (Err(io::Error::from_raw_os_error(libc::EBUSY)), None);
        };
        let mesh = Arc::clone(self.mesh());
        let halted = self.shared.ending.load(Ordering::Acquire);
        let asked = self.ask(last, move |drive, app| {
            let left = depart(drive, app, &mesh, halted);
            (left, Some(last_word(drive, app)))
        });
        let left = asked.unwrap_or_else(|Gone { .. }| {
            // Nobody is there to move anything; the others must not wait for it.
            self.mesh().take_down(last as u8);
            (Err(Gone { shard: last }.into()), None)
        });
        if let Some(hand) = self.hands.pop() {
            hand.order(Order::End);
            lock(&self.shared.wakers).retain(|(shard, _)| *shard != last);
            // A panic was caught on the thread and is among the failures.
            let _ = hand.thread.join();
        }
        left
    }
}

/// The shard's last turns: its connections go, what it holds is worked off, and nobody sends it
/// anything any more.
fn depart<A: App>(drive: &mut Drive, app: &mut A, mesh: &Mesh, halted: bool) -> io::Result<()> {
    let cpu = drive.shard.net.cpu;
    let mut said = Ok(());
    if !halted {
        said = send_all(drive);
    }
    move_all(drive, app, cpu);
    if !halted && said.is_ok() {
        said = turns(drive, app, cpu);
    }
    let mut letters: VecDeque<Letter> = mesh.take_down(cpu).into();
    while let Some(letter) = letters.pop_front() {
        match letter {
            Letter::Pkt(pkt) => {
                drive.shard.net.pool.adopt(&pkt);
                netif_rx(&mut drive.shard.net, pkt);
            }
            Letter::Flow(flow) => drive.shard.send_flow(target(drive, &flow.key, cpu), *flow),
            // What all shards are told, the others were told, too.
            #[allow(unreachable_patterns)]
            _ => {}
        }
    }
    let mut batch = Batch::new();
    while path::process_backlog(&mut drive.shard, &mut batch, 64) > 0 {}
    move_all(drive, app, cpu);
    if !halted && said.is_ok() {
        said = turns(drive, app, cpu);
    }
    move_all(drive, app, cpu);
    said
}

/// What connections have sent so far leaves before they do, so that nothing they send elsewhere
/// overtakes it (as `skb->ooo_okay` keeps a flow to its transmit queue). Bounded: a peer that takes
/// nothing does not keep them here.
fn send_all(drive: &mut Drive) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SEND_MAX {
        let queued = drive.flush_tx()?;
        if !queued && drive.devices().all(|d| d.tx_pending() == 0) {
            break;
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Takes turns until nothing waits in devices, backlog and transmit queues.
fn turns<A: App>(drive: &mut Drive, app: &mut A, cpu: u8) -> io::Result<()> {
    let waker = drive.poller.waker();
    for _ in 0..LAST_TURNS {
        // A turn that finds nothing would sleep.
        waker.wake();
        drive.turn(app)?;
        send_all(drive)?;
        move_all(drive, app, cpu);
        let waits = |d: &dyn crate::device::Device| d.rx_pending().is_some_and(|n| n > 0);
        let busy = drive.shard.has_backlog() || drive.devices().any(waits);
        if !busy {
            break;
        }
    }
    Ok(())
}

/// Sends every connection to another shard.
fn move_all<A: App>(drive: &mut Drive, app: &mut A, cpu: u8) {
    // What came last the application has not seen yet: it could hand over nothing of it.
    drive.hand_over_arrived(app);
    for conn in drive.shard.tcp_detach_all() {
        let (local, remote) = conn.ends();
        let key = FlowKey::new(local, remote);
        let state = conn.was().and_then(|socket| app.leave(socket));
        let to = target(drive, &key, cpu);
        drive.shard.send_flow(to, Flow { key, conn, app: state });
    }
}

/// The shard that the connection's packets come to when this one, the last, is gone.
fn target(drive: &Drive, key: &FlowKey, cpu: u8) -> u8 {
    let net = &drive.shard.net;
    net.rss(cpu as usize).queue_of(net.flow_hash(key))
}

//! What the application does in its turn.

use std::net::SocketAddr;

use linerate_core::ip::icmp::ping::PingReply;
use linerate_core::shard::Shard;
use linerate_core::sock::{SockKind, SocketId};
use linerate_core::tcp::{Connect, Listen, Refuse};
use linerate_core::udp::output::SendTo;

use super::super::frames::pick;
use super::{PEER, PEER6, World};

impl World<'_> {
    pub(super) fn application(&mut self) {
        let rng = &mut self.rng;
        let shard = &mut self.shard;
        while let Some(event) = shard.poll_event() {
            match event.id.kind {
                SockKind::Udp => while shard.udp_take_error(event.id).is_some() {},
                _ => drop(shard.take_ready(event.id)),
            }
        }
        for listener in self.listeners {
            if self.conns.len() < 64 && rng.below(3) > 0 {
                self.conns.extend(shard.tcp_accept(listener));
            }
        }
        while let Some(syn) = shard.syn_next(self.listeners[1]) {
            match rng.below(6) {
                0 => shard.syn_refuse(syn.id, Refuse::Reset),
                1 => shard.syn_refuse(syn.id, Refuse::Silent),
                2 => shard
                    .syn_refuse(syn.id, Refuse::Unreachable { code: pick(rng, &[0, 1, 3, 13]) }),
                3 => {}
                _ => drop(shard.syn_accept(syn.id)),
            }
        }
        if !self.closed && self.conns.len() < 8 && rng.below(30) == 0 {
            let peer = if rng.below(2) == 0 { PEER } else { PEER6 };
            let remote = SocketAddr::new(peer, 8000 + rng.below(3) as u16);
            self.conns.extend(shard.tcp_connect(Connect { local: None, remote, user: 0 }));
        }
        let mut buf = [0; 5000];
        let closing = rng.below(40) == 0;
        for &id in &self.conns {
            match rng.below(8) {
                0 => drop(shard.tcp_recv(id, &mut buf)),
                1 | 2 => {
                    let n = 1 + rng.below(5000) as usize;
                    let _ = shard.tcp_send(id, &buf[..n]);
                }
                3 if closing => shard.tcp_shutdown(id),
                _ => {}
            }
        }
        if closing && !self.conns.is_empty() {
            let at = rng.below(self.conns.len() as u64) as usize;
            let id = self.conns.swap_remove(at);
            if rng.below(2) == 0 { shard.tcp_close(id) } else { shard.tcp_abort(id) }
        }
        self.datagrams();
    }

    fn datagrams(&mut self) {
        let (rng, shard) = (&mut self.rng, &mut self.shard);
        for &id in &self.udp {
            for _ in 0..rng.below(20) {
                let Some(got) = shard.udp_recv(id) else { break };
                if rng.below(2) == 0 {
                    let mut how = SendTo { src: Some(got.dst()), ..SendTo::to(got.src()) };
                    how.gso_size = if rng.below(4) == 0 { 1 + rng.below(1500) as u16 } else { 0 };
                    how.df = rng.below(4) == 0;
                    let data: Vec<u8> = got.slices().flatten().copied().collect();
                    let _ = shard.udp_send(id, how, &[&data]);
                }
                shard.udp_done(got);
            }
        }
        for _ in 0..rng.below(4) {
            let Some(got) = shard.ping_recv() else { break };
            let how = PingReply {
                src: got.dst(),
                dst: got.src(),
                id: got.id(),
                seq: got.seq(),
                ttl: 0,
                tos: got.tos(),
            };
            let _ = shard.ping_reply(how, &[&got.payload()]);
            shard.ping_done(got);
        }
    }
}

pub(super) fn listen(shard: &mut Shard, any: bool) -> SocketId {
    let port = if any { 0 } else { 80 };
    let listen = Listen { port, any_port: any, hold_syn: any, backlog: 8, ..Listen::default() };
    shard.tcp_listen(listen).expect("the port is free")
}

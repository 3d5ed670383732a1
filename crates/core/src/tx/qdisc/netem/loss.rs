//! Which packets a link loses.
//!
//! Linux: net/sched/sch_netem.c `loss_event`, `loss_4state`, `loss_gilb_ell`; tc-netem(8)

use super::{Correlated, Share};
use crate::rand::Rng;

/// How a link loses packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// It does not.
    #[default]
    None,
    /// So many at random, and how much that depends on the packet before.
    Random(Share, Share),
    /// A chain of four states, by the chances to go from one to another (`loss state`): good periods
    /// with single losses in them, and bad ones with single packets that get through.
    State {
        /// From good to bad.
        p13: Share,
        /// From bad to good.
        p31: Share,
        /// From lost to sent, in a bad period.
        p32: Share,
        /// From sent to lost, in a bad period.
        p23: Share,
        /// A single loss in a good period.
        p14: Share,
    },
    /// The model of Gilbert and Elliott (`loss gemodel`): two states, each with a loss of its own.
    GeModel {
        /// From good to bad.
        p: Share,
        /// From bad to good.
        r: Share,
        /// What is sent in the bad state.
        h: Share,
        /// What is lost in the good state.
        k1: Share,
    },
}

/// A state of the chain of four.
#[derive(Clone, Copy)]
enum Is {
    TxInGap,
    TxInBurst,
    LostInGap,
    LostInBurst,
}

/// The loss of a link, and where it stands.
pub struct Model {
    loss: Loss,
    cor: Correlated,
    is: Is,
    bad: bool,
}

impl Model {
    /// A link that loses as `loss` says and stands at its beginning: in a good period.
    pub fn new(loss: &Loss) -> Model {
        let rho = if let Loss::Random(_, rho) = loss { *rho } else { 0 };
        Model { loss: *loss, cor: Correlated::new(rho), is: Is::TxInGap, bad: false }
    }

    /// Whether the next packet is lost (`loss_event`).
    pub fn loses(&mut self, rng: &mut Rng) -> bool {
        match self.loss {
            Loss::None => false,
            Loss::Random(share, _) => self.cor.hits(share, rng),
            Loss::State { p13, p31, p32, p23, p14 } => {
                self.is = self.step(rng.next_u32(), [p13, p31, p32, p23, p14].map(u64::from));
                matches!(self.is, Is::LostInGap | Is::LostInBurst)
            }
            Loss::GeModel { p, r, h, k1 } => {
                let change = rng.next_u32();
                if self.bad {
                    self.bad = change >= r;
                    rng.next_u32() > h
                } else {
                    self.bad = change < p;
                    rng.next_u32() < k1
                }
            }
        }
    }

    /// The state for the next packet (`loss_4state`).
    fn step(&self, rnd: u32, [p13, p31, p32, p23, p14]: [u64; 5]) -> Is {
        let rnd = rnd as u64;
        match self.is {
            Is::TxInGap if rnd < p14 => Is::LostInGap,
            Is::TxInGap if rnd < p13 + p14 => Is::LostInBurst,
            Is::TxInGap => Is::TxInGap,
            Is::TxInBurst if rnd < p23 => Is::LostInBurst,
            Is::TxInBurst => Is::TxInBurst,
            Is::LostInBurst if rnd < p32 => Is::TxInBurst,
            Is::LostInBurst if rnd < p31 + p32 => Is::TxInGap,
            Is::LostInBurst => Is::LostInBurst,
            Is::LostInGap => Is::TxInGap,
        }
    }
}

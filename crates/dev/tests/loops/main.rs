//! The loop on virtual time: interrupts and moderation, and what it does with more than it can take.

mod irq;
mod load;
mod nic;

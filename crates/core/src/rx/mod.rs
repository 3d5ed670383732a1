//! Stages that exist on the receive path only.

pub mod backlog;
pub mod gro;
pub mod queue;

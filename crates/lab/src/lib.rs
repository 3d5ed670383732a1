//! What linerate is tested with. Never published.
//!
//! [`docs`] writes the generated pages of `docs/` from the tables; [`conformance`] says for every
//! mechanism of the Linux network path whether it works here and which test shows it; [`fuzz`] is what
//! is fuzzed; [`packetdrill`] runs scripts against our stack and the kernel's; [`differential`] runs our
//! TCP beside the kernel's; [`tree`]
//! reads the source tree for the checks of `tests/tidy.rs`.
//!
//! [`seeds`] runs whole connections in virtual time, each run drawn from a seed; [`surface`] is what TCP gets
//! of a link, and how several share it.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod differential;
pub mod docs;
pub mod fuzz;
pub mod packetdrill;
pub mod seeds;
pub mod surface;
pub mod tree;

//! Declared once: the stages, counters, drop reasons and knobs. Everything else derives from these
//! rows: the code that counts, `linerate explain`, `show`, the reports and the generated docs.

pub mod count;
pub mod knob;
pub mod reason;
pub mod stage;
pub mod value;

pub use count::{Counter, Counts};
pub use knob::Knobs;
pub use reason::Reason;
pub use stage::{Dir, Flow, Stage};

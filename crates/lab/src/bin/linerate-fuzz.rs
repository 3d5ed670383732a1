//! What is fuzzed, given to libFuzzer: `LINERATE_FUZZ=TARGET linerate-fuzz [libFuzzer's options] CORPUS`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use linerate_lab::fuzz::{TARGETS, Target, target};

fuzz_target!(|data: &[u8]| {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("LINERATE_FUZZ").unwrap_or_default();
        target(&name).unwrap_or_else(|| {
            let all: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            eprintln!("LINERATE_FUZZ names what is fuzzed, one of: {}", all.join(", "));
            std::process::exit(2);
        })
    });
    (chosen.run)(data);
});

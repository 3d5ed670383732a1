//! What fuzzing found, again: each parser, and a whole stack, with all bytes of `data/corpus`, and with
//! damaged variants of them from seeds. `LINERATE_VARIANTS=N` makes more of these; `LINERATE_FUZZ=TARGET`
//! with `LINERATE_INPUT=FILE` repeats one file.

use std::path::{Path, PathBuf};

use linerate_lab::fuzz::{Draw, TARGETS, Target, frames, target};

fn corpus(target: &Target) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/corpus").join(target.name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Runs the target; where it panics, keeps the bytes and says how to repeat it.
fn run(target: &Target, bytes: &[u8], of: &Path) {
    if std::panic::catch_unwind(|| (target.run)(bytes)).is_err() {
        let kept = std::env::temp_dir().join(format!("linerate-{}-found", target.name));
        std::fs::write(&kept, bytes).expect("a temporary file can be written");
        let (name, kept) = (target.name, kept.display());
        panic!(
            "{name}, from {}: LINERATE_FUZZ={name} LINERATE_INPUT={kept} cargo test -p linerate-lab \
             --test corpus one_file repeats this",
            of.display()
        );
    }
}

/// Goal: no bytes make a parser, or the stack, panic, hang, lose a packet or keep memory.
#[test]
fn what_was_found_and_variants_of_it_do_no_harm() {
    let var = std::env::var("LINERATE_VARIANTS").ok();
    let variants = var.map_or(20, |v| v.parse().expect("LINERATE_VARIANTS is a number"));
    for target in TARGETS {
        let paths = corpus(target);
        assert!(paths.len() >= 10, "{}: the corpus was found", target.name);
        for (at, path) in paths.iter().enumerate() {
            let bytes = std::fs::read(path).expect("it is there");
            run(target, &bytes, path);
            let mut draw = Draw::seed(at as u64 + 1);
            for _ in 0..variants {
                let mut other = bytes.clone();
                frames::damage(&mut draw, &mut other);
                other.truncate(target.max_len);
                run(target, &other, path);
            }
        }
    }
}

/// One file, if one is named.
#[test]
fn one_file() {
    let (Ok(name), Ok(path)) = (std::env::var("LINERATE_FUZZ"), std::env::var("LINERATE_INPUT"))
    else {
        return;
    };
    let target = target(&name).expect("LINERATE_FUZZ names what is fuzzed");
    (target.run)(&std::fs::read(path).expect("the file is there"));
}

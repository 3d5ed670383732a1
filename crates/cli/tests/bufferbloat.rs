//! Goal: docs/BUFFERBLOAT.md and its picture are what the command says today. Method: the command is
//! run as the page tells; virtual time, so that it says the same on every machine.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const AGAIN: &str = "run: LINERATE_BLESS=1 cargo test -p linerate-cli --test bufferbloat, and read what \
                     docs/BUFFERBLOAT.md says of it";

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(["bench", "bufferbloat"]).args(args).output().expect("linerate starts")
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// Compares a file with what it has to be, or writes it.
fn golden(path: &Path, want: &str) {
    if std::env::var_os("LINERATE_BLESS").is_some() {
        std::fs::write(path, want).expect("docs/ is writable");
    }
    let have = std::fs::read_to_string(path).unwrap_or_default();
    assert!(have == want, "{} is not what the command says: {AGAIN}", path.display());
}

#[test]
fn the_page_and_its_picture_are_what_bench_bufferbloat_says() {
    let dir = std::env::temp_dir().join(format!("linerate-bufferbloat-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let svg = dir.join("bufferbloat.svg");
    let out = bench(&["--svg", svg.to_str().expect("a name in UTF-8")]);
    assert!(out.status.success(), "{out:?}");
    let picture = std::fs::read_to_string(&svg).expect("it was written");
    std::fs::remove_dir_all(&dir).expect("it was made here");
    golden(&docs("pictures/bufferbloat.svg"), &picture);
    let said = String::from_utf8(out.stdout).expect("text");
    let page = std::fs::read_to_string(docs("BUFFERBLOAT.md")).expect("the page is there");
    let fence = "```text\n";
    let begin = page.find(fence).expect("the page shows what it says") + fence.len();
    let end = begin + page[begin..].find("```").expect("it ends");
    golden(&docs("BUFFERBLOAT.md"), &format!("{}{said}{}", &page[..begin], &page[end..]));
}

#[test]
fn a_plain_queue_is_bloated_and_fq_codel_is_not() {
    let args = ["--json", "--downloads", "4", "--secs", "8", "--seed", "7"];
    let out = bench(&args);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(out.stdout, bench(&args).stdout, "the same seed is the same world");
    let said: Value = serde_json::from_slice(&out.stdout).expect("it prints JSON");
    let of = |at: usize, what: &str| {
        let v = &said["disciplines"][at];
        (v["ping_alone_ms"]["worst"].as_f64(), v[what]["worst"].as_f64())
    };
    let (Some(alone), Some(plain)) = of(0, "ping_ms") else { panic!("{said}") };
    let (_, Some(fair)) = of(2, "ping_ms") else { panic!("{said}") };
    assert!((20.0..21.0).contains(&alone), "{alone} ms alone");
    assert!(plain >= 100.0, "{plain} ms behind pfifo_fast");
    assert!(fair <= alone + 10.0, "{fair} ms behind fq_codel");
    assert!(said["disciplines"][2]["mbit"].as_f64().is_some_and(|mbit| mbit > 5.0), "{said}");
}

#[test]
fn what_can_not_be_is_one_sentence() {
    for (args, says) in [
        (&["--qdisc", "fq_coddle"][..], "--qdisc 'fq_coddle'"),
        (&["--secs", "4", "--svg", "/nowhere/picture.svg"], "/nowhere/picture.svg"),
        (&["--mbit", "0"], "--mbit"),
    ] {
        let out = bench(args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{err}");
        assert!(err.contains(says) && !err.contains("panicked"), "{err}");
    }
}

//! Goal: what was measured is kept, and the pages are made from it alone. Method: two short benchmarks
//! are run into a folder; the pages are made of the result again, and are the same.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn bench_all(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.args(["bench", "all"]).args(args).output().expect("linerate starts")
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("linerate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Folder(dir)
    }
    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a name in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_result_holds_every_benchmark_and_makes_the_same_pages_again() {
    let dir = Folder::new("bench-all");
    let (into, first, again) =
        (dir.file("results"), dir.file("first.html"), dir.file("again.html"));
    let out = bench_all(&[
        "--quick",
        "--only",
        "steering,bufferbloat",
        "--dir",
        &into,
        "--html",
        &first,
        "--markdown",
        "-",
    ]);
    assert!(out.status.success(), "{out:?}");
    let result =
        std::fs::read_dir(&into).expect("it was made").next().expect("one").expect("a file");
    let result = result.path();
    let text = std::fs::read_to_string(&result).expect("it is text");
    let said: Value = serde_json::from_str(&text).expect("it is JSON");
    let parts = said["parts"].as_array().expect("they are listed");
    let names: Vec<&str> = parts.iter().filter_map(|p| p["part"].as_str()).collect();
    assert_eq!(names, ["steering", "bufferbloat"]);
    assert!(parts.iter().all(|p| p["ghz"][0].as_f64() > Some(0.0) && p["code"] == 0), "{parts:?}");
    assert!(said["machine"]["kernel"].as_str().is_some_and(|k| k.starts_with("Linux ")));
    let page = std::fs::read_to_string(&first).expect("the page is there");
    for part in ["steering", "bufferbloat", "fq_codel", "</svg>", "</html>"] {
        assert!(page.contains(part), "{part}");
    }
    let markdown = String::from_utf8(out.stdout).expect("text");
    let from = result.to_str().expect("a name in UTF-8");
    let out = bench_all(&["--from", from, "--html", &again, "--markdown", "-"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(String::from_utf8(out.stdout).expect("text"), markdown);
    assert_eq!(std::fs::read_to_string(&again).expect("the page is there"), page);
}

#[test]
fn what_is_no_result_is_refused_with_its_name() {
    let dir = Folder::new("bench-none");
    let path = dir.file("no.json");
    std::fs::write(&path, "{}").expect("it is ours");
    for file in [path, dir.file("absent.json")] {
        let out = bench_all(&["--from", &file]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(said.contains(&file), "{said}");
    }
}

/// The page in the repository is made of the last result there.
#[test]
fn benchmarks_md_is_made_of_the_last_result() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Ok(results) = std::fs::read_dir(root.join("bench/results")) else { return };
    let last = results.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some());
    let last = last.max().expect("a folder of results has one");
    let out = bench_all(&["--from", last.to_str().expect("a name in UTF-8"), "--markdown", "-"]);
    assert!(out.status.success(), "{out:?}");
    let want = String::from_utf8(out.stdout).expect("text");
    let page = root.join("BENCHMARKS.md");
    if std::env::var_os("LINERATE_BLESS").is_some() {
        std::fs::write(&page, &want).expect("it is writable");
    }
    let have = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(have == want, "BENCHMARKS.md is not what {} says: bless it", last.display());
}

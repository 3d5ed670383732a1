//! Every script of `crates/lab/scripts`, against our stack in virtual time and against the running
//! kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use linerate_lab::packetdrill::{
    Kind, Rules, load, on_kernel, on_linerate, parse, permitted, scripts,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

fn all() -> Vec<PathBuf> {
    scripts(&folder()).expect("the scripts are there")
}

#[test]
fn every_script_passes_on_linerate() {
    let mut faults = Vec::new();
    let all = all();
    for path in &all {
        match load(path) {
            Err(err) => faults.push(err),
            Ok(script) => {
                if let Err(failure) = on_linerate(&script, Rules::EXACT) {
                    faults.push(failure.to_string());
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {} fail:\n{}", faults.len(), all.len(), faults.join("\n"));
}

/// Sixteen namespaces at once: scripts mostly wait. What fails is run again with nothing beside it, up to
/// five times: the kernel's own timers are late on a busy machine, too. A fault is what fails each time; if
/// the machine does not let the runner be on time, nothing was learnt of the kernel, and the script is
/// named. Scripts say what Linux 6.18 does: of another kernel the differences are printed and no fault.
#[test]
fn every_script_passes_on_the_kernel() {
    let all = all();
    if let Err(why) = permitted() {
        eprintln!("skipped {} scripts against the kernel: {why}", all.len());
        return;
    }
    let (next, again) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(path) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Ok(script) = load(path) else { continue };
                    if on_kernel(&script, Rules::KERNEL).is_err() {
                        again.lock().expect("no thread panics").push(script);
                    }
                }
            });
        }
    });
    let (mut faults, mut unjudged) = (Vec::new(), Vec::new());
    for script in again.into_inner().expect("no thread panics") {
        let mut outcome = on_kernel(&script, Rules::KERNEL);
        for _ in 0..4 {
            if outcome.is_err() {
                outcome = on_kernel(&script, Rules::KERNEL);
            }
        }
        match outcome {
            Err(failure) if failure.kind == Kind::Content => faults.push(failure.to_string()),
            Err(failure) => unjudged.push(failure.to_string()),
            Ok(_) => {}
        }
    }
    eprintln!("{} scripts against the kernel", all.len());
    if !unjudged.is_empty() {
        let n = unjudged.len();
        eprintln!("{n} not judged, the machine was too busy:\n{}", unjudged.join("\n"));
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !release.starts_with("6.18.") {
        eprintln!(
            "on Linux {release} {} differ from Linux 6.18:\n{}",
            faults.len(),
            faults.join("\n")
        );
        return;
    }
    assert!(faults.is_empty(), "{} of {} fail:\n{}", faults.len(), all.len(), faults.join("\n"));
}

/// Each script says what it shows; `scripts/README.md` says how many there are of each family.
#[test]
fn the_families_are_counted() {
    let mut families: BTreeMap<String, usize> = BTreeMap::new();
    for path in all() {
        let script = load(&path).expect("every script is read");
        assert!(!script.goal.is_empty(), "{} does not say what it shows", path.display());
        let family = path.parent().and_then(Path::file_name).expect("a family's folder");
        *families.entry(family.to_string_lossy().into_owned()).or_default() += 1;
    }
    let total: usize = families.values().sum();
    let mut table = format!("{total} scripts:\n\n| family | scripts |\n|---|---:|\n");
    for (family, n) in &families {
        table += &format!("| {family} | {n} |\n");
    }
    let page = folder().join("README.md");
    let text = std::fs::read_to_string(&page).unwrap_or_default();
    let head =
        "# Scripts\n\nHow they are read and run: [packetdrill](../src/packetdrill/README.md). ";
    let want = format!("{head}{table}");
    if std::env::var_os("LINERATE_BLESS").is_some() {
        std::fs::write(&page, &want).expect("the page can be written");
    } else {
        assert_eq!(text, want, "write it anew: LINERATE_BLESS=1 cargo test -p linerate-lab");
    }
}

#[test]
fn faults_in_a_script_are_told_by_line() {
    let says = |text: &str| parse("x.pkt", text).expect_err("it is wrong").to_string();
    let cases = [
        ("+0 > Q 0:0(0)", "x.pkt:1: expected control bits"),
        ("0 socket(..., SOCK_STREAM, 6) = 3\n+0 < S 0:5(0) win 1", "x.pkt:2: expected END = BEGIN"),
        ("--ip_version=ipv5\n", "x.pkt:1: expected --ip_version=ipv4 or ipv6"),
        ("`rm -rf x`", "x.pkt:1: expected only `sysctl"),
        ("0 %{ print(1) }%", "x.pkt:1: expected `assert tcpi_FIELD"),
        ("0 close(3) = EBADF", "x.pkt:1: expected a number or a constant"),
        ("+0 < S 0:0(0) win 1 <mss 70000>", "x.pkt:1: expected a number that fits"),
        ("+0 close(3) = 0 // linux only", "x.pkt:1: expected a comment `// differs"),
    ];
    for (text, want) in cases {
        let said = says(text);
        assert!(said.starts_with(want), "{text}: {said}");
    }
}

/// The runner finds what is wrong: another packet, one too many, none, another result, another time.
#[test]
fn what_a_script_does_not_say_fails() {
    let head = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n\
                +0 listen(3, 1) = 0\n+0 < S 0:0(0) win 32792 <mss 1000>\n";
    let synack = "+0 > S. 0:0(0) ack 1 win 64240 <mss 1460>\n";
    let cases = [
        ("", "expected nothing more, got > S. 0:0(0) ack 1 win 64240 <mss 1460>"),
        ("+0 > S. 0:0(0) ack 2 <mss 1460>", "the acknowledgements differ"),
        ("+0 > S. 0:0(0) ack 1 win 1 <mss 1460>", "the windows differ"),
        ("+0 > S. 0:0(0) ack 1 <mss 1461>", "the options differ"),
        ("+0 > R. 0:0(0) ack 1", "the control bits differ"),
        ("+.1 > S. 0:0(0) ack 1 <mss 1460>", "at 0.100000, came at 0.000000"),
        (&format!("{synack}+.1 > . 1:1(0) ack 1"), "expected > . 1:1(0) ack 1, got nothing"),
        (&format!("{synack}+.1 accept(3, ..., ...) = 4"), "accept blocks"),
        (&format!("{synack}+0 close(3) = -1 EBADF"), "expected close = -1 EBADF, got close(3) = 0"),
        (&format!("{synack}+0 %{{ assert tcpi_state == 1 }}%"), "no connection to ask"),
    ];
    for (tail, want) in cases {
        let script = parse("x.pkt", &format!("{head}{tail}")).expect("it can be read");
        let failure = on_linerate(&script, Rules::EXACT).expect_err(want).to_string();
        assert!(failure.contains(want), "{tail}:\n{failure}");
    }
}

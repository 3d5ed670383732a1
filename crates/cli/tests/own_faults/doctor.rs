//! `linerate doctor --name` looks while a fault goes on; its advice is followed; it looks again.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::own::{NAME, Own};

/// How long a fault goes on until the doctor has seen it, and until it is cured: on a machine that has
/// much else to do, long.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the doctor said.
pub struct Look {
    report: Value,
    /// Packets that came to the instance meanwhile.
    received: u64,
}

impl Look {
    pub fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, rule: &str) -> bool {
        self.findings().iter().any(|f| f["id"] == rule)
    }

    /// All of it, to read.
    pub fn text(&self) -> String {
        let findings: Vec<String> = self.findings().iter().map(|f| format!("{f:#}")).collect();
        format!("{} packets came, and:\n{}", self.received, findings.join("\n"))
    }

    /// Why this is not what is to be said of `case`; `None` if it is.
    fn wrong(&self, case: &Case<'_>) -> Option<String> {
        let Some(first) = self.findings().first() else { return Some("nothing is found".into()) };
        if first["id"] != case.rule {
            return Some(format!("{} comes first", first["id"]));
        }
        let fits = |f: &&Value| f["id"] == case.rule || case.also.iter().any(|id| f["id"] == *id);
        let other = self.findings().iter().find(|f| !fits(f));
        other.map(|other| format!("{} has nothing to do with it", other["id"]))
    }
}

/// A fault: what the doctor has to say of it.
pub struct Case<'a> {
    pub own: &'a Own,
    /// The rule that has to come first.
    pub rule: &'a str,
    /// Rules that may be named after it, because the fault really has these sides as well.
    pub also: &'a [&'a str],
    /// More options of the doctor.
    pub options: &'a [&'a str],
}

/// What follows from a finding.
pub enum Cure<'a> {
    /// What it advises is set, as often as it is advised: some settings are to be doubled until nothing is
    /// lost. This is done after each, for what counts later only.
    Set(&'a mut dyn FnMut()),
    /// The cause is a program or the network: this does what the advice says.
    By(&'a mut dyn FnMut()),
}

/// What the doctor says while `dose` is done again and again.
pub fn look(own: &Own, options: &[&str], mut dose: impl FnMut()) -> Look {
    let before = own.received();
    let file = own.dir.join("report.json");
    let times = match options.contains(&"--for") {
        true => &[][..],
        false => &["--for", "600ms", "--every", "200ms"],
    };
    let args = ["doctor", "--name", NAME, "--json"];
    let mut doctor = own.linerate(None, &[&args[..], times, options].concat());
    doctor.stdout(File::create(&file).expect("a file")).stderr(Stdio::inherit());
    let mut doctor = doctor.spawn().expect("linerate starts");
    let status = loop {
        if let Some(status) = doctor.try_wait().expect("it is ours") {
            break status;
        }
        dose();
        // The instance has to have time for it, also where this is one of few processors.
        std::thread::sleep(Duration::from_millis(2));
    };
    let report = fs::read_to_string(&file).expect("a report");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {report}");
    let report = serde_json::from_str(&report).expect("JSON");
    Look { report, received: own.received() - before }
}

/// Looks until it is as `is` wants it.
fn until(
    case: &Case<'_>,
    dose: &mut dyn FnMut(),
    mut is: impl FnMut(&Look) -> Result<(), String>,
) -> Look {
    let begin = Instant::now();
    loop {
        let seen = look(case.own, case.options, &mut *dose);
        match is(&seen) {
            Ok(()) => return seen,
            Err(why) if begin.elapsed() > PATIENCE => {
                panic!("{}: {why}: {}", case.rule, seen.text())
            }
            Err(_) => {}
        }
    }
}

/// Shows that a fault is found, first and with nothing that has nothing to do with it, in the words of the
/// instance; and that the cure cures it while the traffic goes on. Returns the finding.
pub fn prove(case: &Case<'_>, mut dose: impl FnMut(), cure: Cure<'_>) -> Value {
    let found = until(case, &mut dose, |seen| seen.wrong(case).map_or(Ok(()), Err));
    let first = found.findings()[0].clone();
    in_its_own_words(&first);
    let seen = |look: &Look| match (look.has(case.rule), look.received) {
        (true, _) => Err("it is still there".to_owned()),
        (false, 0) => Err("nothing came that could have shown it".to_owned()),
        (false, _) => Ok(()),
    };
    match cure {
        Cure::By(cure) => {
            cure();
            until(case, &mut dose, seen);
        }
        Cure::Set(then) => {
            let line = |f: &Value| {
                let all = f["advice"].as_array().cloned().unwrap_or_default();
                let lines = all.iter().filter_map(|a| a["command"].as_str().map(str::to_owned));
                lines.into_iter().find(|line| !line.is_empty())
            };
            let set = line(&first).unwrap_or_else(|| panic!("nothing to set: {first:#}"));
            case.own.shell(&set);
            then();
            until(case, &mut dose, |now| {
                if let Some(again) = now.findings().iter().find(|f| f["id"] == case.rule)
                    && let Some(set) = line(again)
                {
                    case.own.shell(&set);
                    then();
                }
                seen(now)
            });
        }
    }
    first
}

/// Nothing that is said is about the kernel of this host.
fn in_its_own_words(finding: &Value) {
    let said = finding.to_string();
    for theirs in ["sysctl -w", "sysctl.d", "/proc/", "/sys/", "netlink/", "udev", "`ss ", "cpu0"] {
        assert!(!said.contains(theirs), "{theirs} is the host's: {finding:#}");
    }
    let evidence = finding["evidence"].as_array().expect("a list");
    assert!(!evidence.is_empty() && finding["cause"] != "", "{finding:#}");
    for advice in finding["advice"].as_array().expect("a list") {
        let (command, back) = (advice["command"].as_str(), advice["rollback"].as_str());
        for line in [command, back].into_iter().flatten().filter(|line| !line.is_empty()) {
            assert!(line.starts_with("linerate set --name t "), "{line}");
        }
    }
}

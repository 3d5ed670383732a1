//! Scripts from files, against either stack.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::engine::{Failure, Happened, Kind, Rules, delta, run};
use super::kernel::{Kernel, in_namespace};
use super::linerate::Linerate;
use super::parse::parse;
use super::script::{Action, Script, When, Who};

/// How often a script that fails only in time is run against the kernel.
const TRIES: usize = 5;

/// Every script below a folder, sorted.
///
/// # Errors
/// The folder can not be read.
pub fn scripts(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(scripts(&path)?);
        } else if path.extension().is_some_and(|e| e == "pkt") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a script.
///
/// # Errors
/// A sentence with file and line.
pub fn load(path: &Path) -> Result<Script, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&path.display().to_string(), &text).map_err(|e| e.to_string())
}

/// Runs a script against our stack, in virtual time.
///
/// # Errors
/// What was not as the script says.
pub fn on_linerate(script: &Script, rules: Rules) -> Result<Vec<Happened>, Box<Failure>> {
    run(script, &mut Linerate::new(script.v6), rules)
}

/// Runs a script against the running kernel; again if only its time was wrong, up to five times.
///
/// # Errors
/// What was not as the script says in the last try.
pub fn on_kernel(script: &Script, rules: Rules) -> Result<Vec<Happened>, Box<Failure>> {
    let mut tries = 0;
    loop {
        tries += 1;
        let once = in_namespace(|| {
            let mut kernel = Kernel::new(script.v6)?;
            kernel.start();
            Ok(run(script, &mut kernel, rules))
        });
        match once.and_then(|made| made) {
            Ok(Err(failure)) if failure.kind == Kind::Time && tries < TRIES => {}
            Ok(outcome) => return outcome,
            Err(what) => {
                let file = script.file.clone();
                let (line, kind, transcript) = (1, Kind::Content, Vec::new());
                return Err(Box::new(Failure { file, line, kind, what, transcript }));
            }
        }
    }
}

/// Writes the script anew, with what a stack did at `?` and wherever it sent something: what a
/// draft that only says what is done to the stack becomes a script with.
///
/// # Errors
/// The script can not be run at all.
pub fn learn(script: &Script, text: &str, rules: Rules) -> Result<String, Box<Failure>> {
    let rules = Rules { learn: true, ..rules };
    let happened = match rules.who {
        Who::Linerate => on_linerate(script, rules)?,
        Who::Linux => on_kernel(script, rules)?,
    };
    let first = script.events.first().map_or(usize::MAX, |e| e.line);
    let lead = script.events.first().map_or(0, |e| e.lead.len());
    let mut out: String = text.lines().take(first - 1 - lead).fold(String::new(), |mut out, l| {
        out.push_str(l.trim_end());
        out.push('\n');
        out
    });
    let mut last = 0;
    for line in &happened {
        let event = line.event.and_then(|i| script.events.get(i));
        for comment in event.into_iter().flat_map(|e| &e.lead) {
            let _ = writeln!(out, "// {comment}");
        }
        let absolute = event.is_some_and(|e| e.when == When::At(0)) && last == 0;
        let time = if absolute { "0".to_owned() } else { delta(line.at_us - last, rules) };
        let glue = if line.text.starts_with("...") { "" } else { " " };
        let (mut time, mut text) = (time, line.text.clone());
        if glue.is_empty() {
            // A call that blocks has its end behind its time.
            if let Some((end, rest)) = text.clone().split_once(' ') {
                time += end;
                text = rest.to_owned();
            }
        }
        let _ = writeln!(out, "{time:<5} {text}");
        // A real clock's small delays do not add up.
        let moved = delta(line.at_us - last, rules);
        if event.is_some() || moved != "+0" {
            last = line.at_us;
        }
    }
    let expects = |e: &&super::script::Event| matches!(e.action, Action::Expect(_));
    debug_assert!(script.events.iter().filter(expects).count() <= script.events.len(), "counted");
    Ok(out)
}

//! `demo --tour`: five places where packets are lost, each caused, seen at its stage, and cured by
//! its knob.
//!
//! All figures are read from the counters of real stacks over the real path; a scene whose loss does
//! not come, or does not go away, fails the tour.

mod lab;
mod scenes;

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use linerate_core::table::{Counter, Reason, Stage};
use serde::Serialize;

use lab::{Lab, Read};
use scenes::{Load, SCENES, Scene};

/// Columns of the printed lesson.
const WIDTH: usize = 80;

/// The whole lesson, as `--json` prints it.
#[derive(Serialize)]
struct Tour {
    scenes: Vec<Seen>,
    ok: bool,
}

/// One scene, as it went.
#[derive(Serialize)]
struct Seen {
    name: &'static str,
    title: &'static str,
    stage: &'static str,
    knob: &'static str,
    /// Linux's name of the drop reason.
    reason: Option<&'static str>,
    before: Phase,
    after: Phase,
    /// The law of conservation: stages that lost count of packets.
    unaccounted: Vec<String>,
    /// What was wrong; empty = the loss came, and went.
    faults: Vec<String>,
    linux: &'static str,
}

/// The load under one value of the knob.
#[derive(Serialize)]
struct Phase {
    value: &'static str,
    /// Datagrams sent, or connections tried.
    sent: u64,
    /// Datagrams read, or connections accepted.
    received: u64,
    /// Of those, how many had wrong contents.
    damaged: u64,
    /// Drops for the scene's reason.
    dropped: u64,
    /// Drops for whatever reason, at every stage.
    dropped_in_all: u64,
    /// How the counters moved, by Linux's names where they exist.
    #[serde(serialize_with = "as_map")]
    counters: Vec<(&'static str, u64)>,
}

/// Runs the lesson.
pub fn main(json: bool) -> ExitCode {
    let mut tour = Tour { scenes: Vec::new(), ok: true };
    if !json {
        crate::print(&intro());
    }
    for (number, scene) in SCENES.iter().enumerate() {
        let seen = match play(scene) {
            Ok(seen) => seen,
            Err(e) => {
                eprintln!("linerate demo: scene {:?} could not be played: {e}", scene.name);
                return ExitCode::FAILURE;
            }
        };
        tour.ok &= seen.faults.is_empty();
        if !json {
            crate::print(&tell(number + 1, scene, &seen));
        }
        tour.scenes.push(seen);
    }
    if json {
        crate::print_json(&tour);
    } else {
        crate::print(&outro(&tour));
    }
    if tour.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays a scene: the load under the small value, then under the large one.
fn play(scene: &Scene) -> io::Result<Seen> {
    let (wires, netif_rx) = match scene.load {
        Load::Burst { wires, netif_rx, .. } => (wires, netif_rx),
        Load::Connect(_) => (1, false),
    };
    let mut lab = Lab::new(wires, netif_rx)?;
    let before = phase(&mut lab, scene, scene.values[0])?;
    let after = phase(&mut lab, scene, scene.values[1])?;
    let lost = |(stage, n): &(Stage, i64)| format!("{}: {n}", stage.name());
    let mut seen = Seen {
        name: scene.name,
        title: scene.title,
        stage: scene.stage.name(),
        knob: scene.knob,
        reason: scene.reason.map(Reason::label),
        before,
        after,
        unaccounted: lab.unaccounted().iter().map(lost).collect(),
        faults: Vec::new(),
        linux: scene.linux,
    };
    seen.faults = faults(scene, &seen);
    Ok(seen)
}

fn phase(lab: &mut Lab, scene: &Scene, value: &'static str) -> io::Result<Phase> {
    lab.set(scene.knob, value)?;
    let counters: Vec<u64> = scene.counters.iter().map(|c| lab.counter(*c)).collect();
    let (dropped, all) = (scene.reason.map_or(0, |r| lab.drops(r)), lab.all_drops());
    let (sent, read) = match scene.load {
        Load::Burst { wires, each, slow, .. } => {
            (wires * each, lab.burst(each, slow, scene.stage == Stage::SockQueue)?)
        }
        Load::Connect(n) => (n as usize, lab.connect(n)?),
    };
    let Read { items, damaged } = read;
    let moved = scene.counters.iter().zip(counters);
    let seen = Phase {
        value,
        sent: sent as u64,
        received: items,
        damaged,
        dropped: scene.reason.map_or(0, |r| lab.drops(r)) - dropped,
        dropped_in_all: lab.all_drops() - all,
        counters: moved.map(|(c, was)| (name(*c), lab.counter(*c) - was)).collect(),
    };
    lab.hang_up()?;
    Ok(seen)
}

/// Names with values, in the order of the scene.
fn as_map<S: serde::Serializer>(counters: &[(&str, u64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counters.iter().copied())
}

/// A counter's name: Linux's without its group, ours if Linux has none.
fn name(counter: Counter) -> &'static str {
    let row = counter.row();
    row.linux.split_once(':').map_or(row.name, |(_, bare)| bare)
}

/// What went otherwise than the lesson says.
fn faults(scene: &Scene, seen: &Seen) -> Vec<String> {
    let (before, after) = (&seen.before, &seen.after);
    // The first counter is the one that users watch.
    let trouble = |p: &Phase| p.counters.first().map_or(0, |(_, n)| *n);
    let datagrams = matches!(scene.load, Load::Burst { .. });
    let checks = [
        (trouble(before) > 0, "the counter did not move under the small value"),
        (trouble(after) == 0, "the counter still moves under the large value"),
        (scene.reason.is_none() || before.dropped > 0, "nothing was dropped under the small value"),
        (after.dropped_in_all == 0, "packets are still dropped under the large value"),
        (after.received == after.sent, "not everything arrived under the large value"),
        (
            !datagrams || before.received + before.dropped == before.sent,
            "datagrams read and dropped are not those sent",
        ),
        (before.damaged + after.damaged == 0, "datagrams arrived damaged"),
        (seen.unaccounted.is_empty(), "a stage lost count of packets"),
    ];
    checks.iter().filter(|(good, _)| !good).map(|(_, what)| (*what).to_owned()).collect()
}

fn intro() -> String {
    let mut text = String::from("linerate demo --tour: where packets are lost, and what helps\n\n");
    wrap(
        &mut text,
        "",
        "Two whole stacks in this process, joined by wires in memory: nothing on this machine is \
         touched. Each scene makes one queue of the receive path too short for a load, shows the \
         loss at its stage, sets the knob, and repeats the load. Every figure is a counter that was \
         read; stages, reasons, counters and knobs have the kernel's names.",
    );
    text
}

fn tell(number: usize, scene: &Scene, seen: &Seen) -> String {
    let mut text = String::new();
    let head = format!("{number}. {}", scene.title);
    let stage = format!("stage {}", seen.stage);
    let pad = WIDTH.saturating_sub(head.len() + stage.len()).max(2);
    let _ = writeln!(text, "\n{head}{:pad$}{stage}", "");
    wrap(&mut text, "   ", scene.lesson);
    text.push('\n');
    tell_phase(&mut text, scene, &seen.before, scene.load_text);
    text.push('\n');
    tell_phase(&mut text, scene, &seen.after, "The same load again.");
    wrap(&mut text, "   ", scene.cure);
    text.push('\n');
    wrap(&mut text, "   ", &format!("On a Linux host: {}", scene.linux));
    for fault in &seen.faults {
        let _ = writeln!(text, "   FAILED: {fault}");
    }
    text
}

fn tell_phase(text: &mut String, scene: &Scene, phase: &Phase, load: &str) {
    let _ = writeln!(text, "   $ linerate set {}={}", scene.knob, phase.value);
    wrap(text, "   ", load);
    let (sent, received) = match scene.load {
        Load::Burst { .. } => ("sent", "read"),
        Load::Connect(_) => ("tried", "accepted"),
    };
    let _ = write!(text, "      {sent} {}, {received} {}", phase.sent, phase.received);
    if let Some(reason) = scene.reason {
        let at = format!("dropped at {}", scene.stage.name());
        let _ = write!(text, "; {at} {} ({})", phase.dropped, reason.label());
    }
    text.push_str("\n      ");
    let counters: Vec<String> = phase.counters.iter().map(|(n, v)| format!("{n} {v}")).collect();
    let _ = writeln!(text, "{}", counters.join(", "));
}

fn outro(tour: &Tour) -> String {
    let good = tour.scenes.iter().filter(|s| s.faults.is_empty()).count();
    let mut text = format!("\n{good} of {} scenes went as the lesson says", tour.scenes.len());
    text.push_str(match tour.ok {
        true => ", and no stage lost count of a packet.\n",
        false => ": this is a fault of linerate, please report it.\n",
    });
    text.push_str("Next: linerate run -- PROGRAM, linerate show path, linerate explain NAME\n");
    text
}

/// Appends `words`, broken into lines that begin with `indent`.
fn wrap(text: &mut String, indent: &str, words: &str) {
    let mut line = String::from(indent);
    for word in words.split_whitespace() {
        if line.len() > indent.len() && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line.truncate(indent.len());
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests;

//! What an instance of several shards answers on its control socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use linerate_core::rx::ingress;
use linerate_core::rx::steer::ntuple::{self, RuleAction, Rules};
use linerate_core::table::Knobs;
use linerate_core::table::knob::Takes;
use linerate_core::tx::qdisc;
use linerate_dev::device::Rings;
use linerate_dev::drive::{Coalesce, Drive};
use linerate_gateway::control::snapshot::{DevQueueRow, RingsRow, RssRow, RuleRow};
use linerate_gateway::control::{
    CaptureRequest, Capturing, Meta, Request, Response, SOCKETS_MAX, Snapshot, capture,
    without_effect,
};

use super::args::DevBackend;
use super::backend::Opened;
use super::config::{At, QUEUES_MAX};
use super::instance::{Up, lock};
use crate::args::Setting;
use crate::xdp;

/// Rules at the most: each is looked at for each packet, unless it names a single flow.
const RULES_MAX: usize = 1024;

/// Changes of rules at ingress that are kept for shards to come.
const CHANGES_MAX: usize = 8192;

/// How an instance distributes what it receives.
pub(super) struct Distribution {
    /// The rules that go first, as all devices have them.
    rules: Rules,
    /// Whether the devices obey the table; where the kernel distributes, they do not.
    obeyed: bool,
}

impl Distribution {
    pub(super) fn new(seed: u64) -> Distribution {
        Distribution { rules: Rules::new(RULES_MAX, seed), obeyed: false }
    }
}

/// Answers a request.
pub(super) fn answer(up: &mut Up, request: Request) -> Response {
    let said = |knob: &str, done: Result<String, String>| match done {
        Ok(value) => Response::Value { knob: knob.to_owned(), value, note: None },
        Err(why) => Response::Error(why),
    };
    let map = match &request {
        Request::Get(name) => xdp::answer(&lock(&up.plan).xdp, name, None),
        Request::Set(name, entry) => xdp::answer(&lock(&up.plan).xdp, name, Some(entry)),
        _ => None,
    };
    if let Some(answer) = map {
        return answer;
    }
    let wanted = match &request {
        Request::Get(name) => Some((name, None)),
        Request::Set(name, spec) => Some((name, Some(spec.as_str()))),
        _ => None,
    };
    if let Some((name, spec)) = wanted
        && let Some(device) = xdp::device_name(name)
    {
        return said(name, program(up, device, spec));
    }
    match request {
        Request::Snapshot { sockets } => {
            Response::Snapshot(Box::new(snapshot(up, sockets.min(SOCKETS_MAX))))
        }
        Request::Get(knob) => {
            let value = get(up, &knob);
            said(full_name(&knob), value)
        }
        Request::Set(knob, value) => {
            let done = set(up, &knob, &value).and_then(|()| get(up, &knob));
            match said(full_name(&knob), done) {
                Response::Value { knob, value, .. } => {
                    let note = without_effect(&knob, &value, up.workers.shards());
                    Response::Value { knob, value, note }
                }
                refused => refused,
            }
        }
        Request::AddRule(spec) => said("ntuple", add_rule(up, &spec)),
        Request::DeleteRule(location) => said("ntuple", delete_rule(up, location)),
        Request::Capture(wanted) => match capture(up, &wanted) {
            Ok(begun) => Response::Capturing(begun),
            Err(why) => Response::Error(why),
        },
    }
}

/// Gives a device another program, on every shard between two packets; what it has then.
fn program(up: &Up, device: &str, spec: Option<&str>) -> Result<String, String> {
    let mut plan = lock(&up.plan);
    let names: Vec<&str> = plan.config.devices.iter().map(|d| d.name.as_str()).collect();
    if !names.contains(&device) {
        return Err(xdp::no_device(device, &names));
    }
    let Some(spec) = spec else { return Ok(xdp::now(&plan.xdp, device)) };
    let shards = plan.config.queues.max(up.workers.shards());
    let loaded = xdp::load_wanted(spec, shards)?;
    let new = loaded.as_ref().map(|(_, program)| Arc::clone(program));
    // Shards that are built from now on have it from the plan.
    let now = xdp::note(&mut plan.xdp, device, loaded);
    drop(plan);
    let device = device.to_owned();
    up.workers.ask_all(move |drive, _| xdp::change(new.as_ref(), &mut drive.shard, &device));
    Ok(now)
}

/// Begins a capture on all shards; on none if one refuses.
fn capture(up: &mut Up, wanted: &CaptureRequest) -> Result<Capturing, String> {
    let spec = wanted.compile()?;
    let mut begun = Capturing::default();
    up.captures.retain(|(_, ports)| !ports.is_closed());
    let (each, ports) = (spec.clone(), begun.ports.clone());
    let tapped = up.workers.ask_all(move |drive, _| {
        let devices = capture::devices(&drive.shard);
        capture::begin(&mut drive.shard, each.clone(), &ports).map(|()| devices)
    });
    for shard in tapped {
        match shard {
            Ok(devices) => begun.devices = devices,
            Err(e) => {
                begun.ports.close();
                return Err(e.to_string());
            }
        }
    }
    up.captures.push((spec, begun.ports.clone()));
    Ok(begun)
}

/// Shards that came later take part in the captures that run.
pub(super) fn follow_captures(up: &mut Up, shard: usize) {
    up.captures.retain(|(_, ports)| !ports.is_closed());
    for (spec, ports) in up.captures.clone() {
        // A shard that is gone again has nothing to capture; a new one has no other captures.
        let _ = up
            .workers
            .ask(shard, move |drive, _| capture::begin(&mut drive.shard, spec, &ports).is_ok());
    }
}

/// The knob's path, where a part of it was given.
fn full_name(knob: &str) -> &str {
    Knobs::row(knob).map_or(knob, |row| row.path)
}

pub(super) fn get(up: &Up, knob: &str) -> Result<String, String> {
    if qdisc::At::parse(knob).is_some() || ingress::place(knob).is_some() {
        let path = knob.to_owned();
        let got = up.workers.ask(0, move |drive, _| drive.shard.get_knob(&path));
        return got.map_err(|e| e.to_string())?.map_err(|e| e.to_string());
    }
    let row = Knobs::row(knob).map_err(|e| e.to_string())?;
    if row.path == "channels.combined" {
        return Ok(up.workers.shards().to_string());
    }
    let path = row.path;
    let got = up.workers.ask(0, move |drive, _| drive.shard.net.knobs.get(path));
    got.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Whether the knobs can be set here and now, so that of several none is set if one can not.
pub(super) fn check_knobs(up: &Up, knobs: &[(Setting, At)]) -> Result<(), String> {
    for (setting, at) in knobs {
        let row = Knobs::row(setting.path).map_err(|e| at.wrong(e))?;
        if row.takes == Takes::Restart {
            return Err(at.wrong("it can only be set when the instance starts: start it anew"));
        }
        if is_distribution(row.path) && !up.distribution.obeyed && up.workers.shards() > 1 {
            return Err(at.wrong(not_obeyed(up)));
        }
    }
    check_given(knobs, &up.devices)
}

/// Whether the devices can do what the knobs ask of them.
pub(super) fn check_given(knobs: &[(Setting, At)], devices: &[Opened]) -> Result<(), String> {
    for (setting, at) in knobs {
        let mut one = Knobs::default();
        let taken = one.set(setting.path, &setting.value).map_err(|e| e.to_string());
        taken.and_then(|()| check_rules(&one, devices)).map_err(|e| at.wrong(e))?;
    }
    Ok(())
}

/// Knobs that the table of the devices is made of.
fn is_distribution(path: &str) -> bool {
    path.starts_with("rss.") || path.starts_with("rx-flow-hash.")
}

fn not_obeyed(up: &Up) -> String {
    let names: Vec<&str> = up.devices.iter().map(|d| d.backend.name()).collect();
    format!(
        "the kernel distributes the packets of {} over the queues, by a table of its own: \
         nothing was changed",
        names.join(", ")
    )
}

/// Whether accelerated RFS can write rules, where it is asked to: some device has to take them.
fn check_rules(knobs: &Knobs, devices: &[Opened]) -> Result<(), String> {
    if !knobs.ntuple || devices.iter().any(|d| d.backend == DevBackend::AfPacket) {
        return Ok(());
    }
    Err(format!(
        "features.ntuple: accelerated RFS has nowhere to write rules: {}",
        no_rules(devices)
    ))
}

/// Why devices take no rules.
fn no_rules(devices: &[Opened]) -> String {
    let mut each: Vec<&str> = devices.iter().map(|d| why_no_rules(d.backend)).collect();
    each.dedup();
    each.join("; ")
}

fn why_no_rules(backend: DevBackend) -> &'static str {
    match backend {
        DevBackend::Tap | DevBackend::Tun => {
            "a TAP or TUN takes no rules, because the kernel sends a flow where it was answered from \
             (tun_flow_update)"
        }
        DevBackend::AfXdp => {
            "af_xdp takes no rules, because its socket receives from its own queue alone and the \
             kernel drops what a program redirects to another one (xsk_rcv_check); rules of the card \
             are set by `ethtool -N`"
        }
        DevBackend::AfPacket | DevBackend::Auto => "it takes no such rule",
    }
}

/// Sets a knob in all shards and devices, or nowhere.
pub(super) fn set(up: &mut Up, knob: &str, value: &str) -> Result<(), String> {
    if ingress::place(knob).is_some() {
        return set_rule(up, knob, value);
    }
    if qdisc::At::parse(knob).is_some() {
        return set_qdisc(up, knob, value);
    }
    let row = Knobs::row(knob).map_err(|e| e.to_string())?;
    let path = row.path;
    if row.takes == Takes::Restart {
        return Err(format!("{path} can only be set when the instance starts"));
    }
    // What the value itself is, is judged first.
    let mut knobs = Knobs::default();
    knobs.set(path, value).map_err(|e| e.to_string())?;
    check_rules(&knobs, &up.devices)?;
    match path {
        "channels.combined" => return set_channels(up, knobs.channels as usize),
        "ring.rx" => size_rings(up, knobs.ring_rx as usize)?,
        _ => {}
    }
    let before = get(up, path)?;
    if path == "net.core.default_qdisc" {
        keep_qdiscs(up)?;
    }
    up.workers.set_knob(path, value).map_err(|e| e.to_string())?;
    if is_distribution(path)
        && up.workers.shards() > 1
        && let Err(why) = distribute(up, up.workers.shards())
    {
        // It was a legal value a moment ago.
        let _ = up.workers.set_knob(path, &before);
        return Err(why);
    }
    Ok(())
}

/// Sets a queueing discipline in all shards, those with it that are added later; in none if it is wrong.
fn set_qdisc(up: &mut Up, place: &str, spec: &str) -> Result<(), String> {
    let order = (place.to_owned(), spec.to_owned());
    let set = up.workers.ask_all(move |drive, _| drive.shard.set_knob(&order.0, &order.1));
    // All shards have the same devices: what one takes, all take.
    set.into_iter().collect::<Result<(), _>>().map_err(|e| e.to_string())?;
    let place = place.replace('/', ".");
    let mut plan = lock(&up.plan);
    match spec.trim() {
        "none" | "noqueue" | "del" => _ = plan.qdiscs.remove(&place),
        spec => _ = plan.qdiscs.insert(place, spec.to_owned()),
    }
    Ok(())
}

/// The devices keep the disciplines that they have, also on shards that are added later: another
/// default is for devices to come.
fn keep_qdiscs(up: &Up) -> Result<(), String> {
    for opened in &up.devices {
        let place = format!("qdisc.{}.root", opened.name);
        let has = get(up, &place)?;
        lock(&up.plan).qdiscs.entry(place).or_insert(has);
    }
    Ok(())
}

/// Changes the rules at ingress in all shards, those with it that are added later; in none if the
/// change is wrong.
fn set_rule(up: &mut Up, place: &str, command: &str) -> Result<(), String> {
    if lock(&up.plan).rules.len() == CHANGES_MAX {
        return Err(format!("{place}: {CHANGES_MAX} changes are remembered: start anew"));
    }
    let order = (place.to_owned(), command.to_owned());
    let set = up.workers.ask_all(move |drive, _| drive.shard.set_knob(&order.0, &order.1));
    // All shards have the same devices and rules: what one takes, all take.
    set.into_iter().collect::<Result<(), _>>().map_err(|e| e.to_string())?;
    let mut plan = lock(&up.plan);
    if command.trim() == "del" {
        // Nothing is left of what was before.
        plan.rules.retain(|(other, _)| other != place);
    } else {
        plan.rules.push((place.to_owned(), command.to_owned()));
    }
    Ok(())
}

/// Gives the devices receive rings of this size. One that can not be resized says so, and nothing is
/// changed then.
fn size_rings(up: &mut Up, pkts: usize) -> Result<(), String> {
    let fixed = |d: &&Opened| !matches!(d.backend, DevBackend::Tap | DevBackend::Tun);
    let names: Vec<&str> = up.devices.iter().filter(fixed).map(|d| d.backend.name()).collect();
    if !names.is_empty() {
        return Err(format!(
            "ring.rx: the receive ring of {} is as large as it was made, and stays so: nothing was \
             changed; `--set ring.rx=N` makes it of another size at the start",
            names.join(", ")
        ));
    }
    let pkts = u32::try_from(pkts).map_err(|e| e.to_string())?;
    if let Some(changes) = &mut up.changes {
        for device in &up.devices {
            device.set_rx_ring(pkts, changes)?;
        }
    }
    Ok(())
}

/// Tells the devices how to distribute over so many shards.
pub(super) fn distribute(up: &mut Up, queues: usize) -> Result<(), String> {
    let rss = up.workers.ask(0, move |drive, _| drive.shard.net.rss(queues));
    let rss = rss.map_err(|e| e.to_string())?;
    let obeyed = up.workers.ask_all(move |drive, _| {
        drive.queues().map(|(_, dev)| dev.set_rss(&rss)).collect::<Vec<_>>()
    });
    // One queue of a group may speak for all.
    up.distribution.obeyed =
        obeyed.iter().any(|shard| !shard.is_empty() && shard.iter().all(|obeyed| *obeyed));
    if up.distribution.obeyed { Ok(()) } else { Err(not_obeyed(up)) }
}

/// Grows or shrinks to so many queues, each with its shard; or stays as it is, where that fails on
/// the way.
pub(super) fn set_channels(up: &mut Up, wanted: usize) -> Result<(), String> {
    if wanted == 0 || wanted > QUEUES_MAX {
        return Err(format!("channels.combined: 1 to {QUEUES_MAX} queues"));
    }
    let before = up.workers.shards();
    let Err(why) = go_to(up, wanted) else { return Ok(()) };
    match go_to(up, before) {
        Ok(()) => Err(why),
        Err(more) => Err(format!("{why}; there are {} queues now: {more}", up.workers.shards())),
    }
}

fn go_to(up: &mut Up, wanted: usize) -> Result<(), String> {
    while up.workers.shards() != wanted {
        if up.workers.shards() < wanted { up.add_shard()? } else { up.remove_shard()? }
    }
    Ok(())
}

fn add_rule(up: &mut Up, spec: &str) -> Result<String, String> {
    let (location, rule) = ntuple::parse(spec).map_err(|e| e.to_string())?;
    let queues = up.workers.shards();
    if let RuleAction::Queue(queue) = rule.action
        && usize::from(queue) >= queues
    {
        return Err(format!("action {queue}: there are {queues} queues, numbered from 0"));
    }
    let old = location.and_then(|l| up.distribution.rules.iter().find(|r| r.0 == l));
    let old = old.map(|(_, rule)| rule.clone());
    let location = up.distribution.rules.set(location, rule.clone()).map_err(|e| e.to_string())?;
    if let Err(why) = tell_rule(up, location, Some(rule)) {
        let _ = match old {
            Some(old) => up.distribution.rules.set(Some(location), old).map(drop),
            None => up.distribution.rules.delete(location).map(drop),
        };
        return Err(why);
    }
    Ok(format!("Added rule with ID {location}"))
}

fn delete_rule(up: &mut Up, location: u32) -> Result<String, String> {
    up.distribution.rules.delete(location).map_err(|e| e.to_string())?;
    tell_rule(up, location, None)?;
    Ok(format!("Deleted rule with ID {location}"))
}

/// Tells every device of a rule.
fn tell_rule(up: &Up, location: u32, rule: Option<ntuple::Rule>) -> Result<(), String> {
    let told = up.workers.ask_all(move |drive, _| {
        let each = drive.queues().map(|(_, dev)| dev.set_rule(location, rule.as_ref()));
        each.map(|told| told.map_err(|e| (e.kind(), e.to_string()))).collect::<Vec<_>>()
    });
    match told.into_iter().flatten().find_map(Result::err) {
        None => Ok(()),
        Some((std::io::ErrorKind::Unsupported, _)) => Err(no_rules(&up.devices)),
        Some((_, why)) => Err(why),
    }
}

/// One reading of all shards.
pub(super) fn snapshot(up: &mut Up, sockets: usize) -> Snapshot {
    up.learn_notes();
    let (name, notes) = (up.name.clone(), up.notes.clone());
    let uptime_ns = up.begun.elapsed().as_nanos() as u64;
    let meta = Meta {
        name,
        pid: std::process::id(),
        uptime_ns,
        notes,
        sockets_max: sockets,
        ..Meta::default()
    };
    let parts = up.workers.ask_all(move |drive, _| {
        drive.count_losses();
        let mut part = Snapshot::take(&drive.shard, meta.clone());
        part.dev_queues = dev_queues(drive);
        part
    });
    let mut all = Snapshot::merge(parts.into_iter().chain(up.past.clone()).collect());
    all.xdp = xdp::rows(&lock(&up.plan).xdp);
    all.tcp.truncate(sockets);
    all.udp.truncate(sockets);
    let channels = all.knobs.iter_mut().find(|k| k.path == "channels.combined");
    if let Some(row) = channels {
        row.value = up.workers.shards().to_string();
        row.source = if row.value == row.default { "default" } else { "set" }.to_owned();
    }
    all.rss = rss_rows(up);
    let rules = up.distribution.rules.iter();
    all.rules =
        rules.map(|(location, rule)| RuleRow { location, spec: rule.to_string() }).collect();
    all
}

fn rss_rows(up: &Up) -> Vec<RssRow> {
    let queues = up.workers.shards();
    let rss = up.workers.ask(0, move |drive, _| drive.shard.net.rss(queues)).ok();
    let ours = up.distribution.obeyed || queues == 1;
    let row = |device: &super::backend::Opened| RssRow {
        device: device.name.clone(),
        queues: queues as u32,
        instead: (!ours).then(|| "the kernel distributes, by a table of its own".to_owned()),
        indir: rss.as_ref().filter(|_| ours).map_or(Vec::new(), |r| r.indir.to_vec()),
        symmetric: rss.as_ref().is_some_and(|r| r.symmetric),
    };
    up.devices.iter().map(row).collect()
}

/// The queues that a shard drives.
fn dev_queues(drive: &mut Drive) -> Vec<DevQueueRow> {
    let shard = drive.shard.net.cpu;
    let names: Vec<String> = drive.shard.net.ifaces.iter().map(|i| i.name.clone()).collect();
    let mut rows: Vec<(u8, DevQueueRow)> = drive
        .queues()
        .map(|(number, dev)| {
            let Rings { rx, rx_max, tx, tx_max } = dev.rings();
            let statistics = dev.statistics().into_iter().map(|(n, v)| (n.to_owned(), v));
            let row = DevQueueRow {
                device: names.get(number as usize).cloned().unwrap_or_default(),
                queue: dev.queue(),
                shard,
                rings: RingsRow {
                    rx: rx.into(),
                    rx_max: rx_max.into(),
                    tx: tx.into(),
                    tx_max: tx_max.into(),
                },
                coalesce: BTreeMap::new(),
                statistics: statistics.collect(),
            };
            (number, row)
        })
        .collect();
    for (number, row) in &mut rows {
        if let Some(now) = drive.coalesce(*number, row.queue) {
            row.coalesce = coalesce(now);
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

fn coalesce(c: Coalesce) -> BTreeMap<String, u64> {
    let all = [
        ("adaptive-rx", u64::from(c.adaptive_rx)),
        ("adaptive-tx", u64::from(c.adaptive_tx)),
        ("rx-usecs", c.rx_usecs),
        ("rx-frames", c.rx_frames),
        ("tx-usecs", c.tx_usecs),
        ("tx-frames", c.tx_frames),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

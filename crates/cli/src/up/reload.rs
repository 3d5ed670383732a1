//! SIGHUP: the file is read again, and what differs is changed while everything runs.
//!
//! Addresses, routes, knobs, disciplines, services and the number of queues can change. Devices, their backends,
//! MTUs, processors and the name can not; then a sentence says so and nothing changes at all. All of
//! it changes or nothing does: what was changed before something is refused is changed back.

use std::sync::Arc;

use linerate_core::ip::route::{Route as CoreRoute, RouteError};
use linerate_core::shard::Shard;
use linerate_core::table::Knobs;
use linerate_core::tx::qdisc::Tree;

use super::args::HostAddr;
use super::config::{At, Config, Device, Route, Service};
use super::control;
use super::instance::{Up, core_route, lock, open_services};
use super::serve::Served;
use crate::args::Setting;

/// What differs between two configurations, but for knobs and queues.
struct Changes {
    addrs_gone: Addrs,
    addrs_come: Addrs,
    routes_gone: Vec<CoreRoute>,
    routes_come: Vec<CoreRoute>,
    /// Services that go or come.
    services: usize,
    /// Part of it may be so already, which is no error then.
    again: bool,
}

impl Changes {
    fn between(old: &Config, new: &Config) -> Changes {
        let routes = |here: &Config, there: &Config| -> Vec<CoreRoute> {
            let same = |r: &Route| there.routes.iter().any(|o| (o.to, &o.way) == (r.to, &r.way));
            here.routes.iter().filter(|r| !same(r)).map(core_route).collect()
        };
        let services =
            |here: &Config, there: &Config| here.services.iter().filter(|s| !has(there, s)).count();
        let (addrs_gone, addrs_come) = differing_addrs(old, new);
        Changes {
            addrs_gone,
            addrs_come,
            routes_gone: routes(old, new),
            routes_come: routes(new, old),
            services: services(old, new) + services(new, old),
            again: false,
        }
    }

    /// What it is, for people.
    fn in_words(&self, old: &Config, new: &Config, knobs: usize) -> Vec<String> {
        let mut words = Vec::new();
        if new.queues != old.queues {
            count(&mut words, new.queues, "queue");
        }
        count(&mut words, knobs, "knob");
        count(&mut words, changed_qdiscs(old, new).len(), "discipline");
        count(&mut words, self.addrs_gone.len() + self.addrs_come.len(), "address");
        count(&mut words, self.routes_gone.len() + self.routes_come.len(), "route");
        count(&mut words, self.services, "service");
        words
    }

    /// Changes one shard; what it refuses.
    fn apply(&self, shard: &mut Shard) -> Vec<String> {
        let mut wrong = Vec::new();
        let is_so = |e: RouteError| matches!(e, RouteError::Exists | RouteError::NotFound);
        let mut note = |what: String, e: RouteError| {
            if !(self.again && is_so(e)) {
                wrong.push(format!("{what}: {e}"));
            }
        };
        for route in &self.routes_gone {
            // One that is gone already is as it should be.
            let _ = shard.del_route(route);
        }
        for (dev, addr) in &self.addrs_gone {
            if let Err(e) = shard.del_addr(*dev, addr.addr) {
                note(addr.to_string(), e);
            }
        }
        for (dev, addr) in &self.addrs_come {
            if let Err(e) = shard.add_addr(*dev, addr.addr, addr.len) {
                note(addr.to_string(), e);
            }
        }
        for route in &self.routes_come {
            if let Err(e) = shard.add_route(*route) {
                note(format!("the route to {}/{}", route.dst, route.prefix_len), e);
            }
        }
        wrong
    }
}

/// Becomes what `new` says; what changed, in words.
///
/// # Errors
/// A sentence: what was refused. All is as it was before then, or the sentence says what is not.
pub(super) fn apply(up: &mut Up, mut new: Config) -> Result<String, String> {
    let (old, was_served) = {
        let plan = lock(&up.plan);
        (plan.config.clone(), plan.served.clone())
    };
    may_change(&old, &new)?;
    let served = open_services(&new)?;
    if new.name.is_none() {
        new.name.clone_from(&old.name);
    }
    let knobs = changed_knobs(&old, &new);
    control::check_knobs(up, &knobs)?;
    let there = Changes::between(&old, &new);
    let done = there.in_words(&old, &new, knobs.len());
    let mut before = Vec::new();
    let qdiscs = changed_qdiscs(&old, &new);
    match carry_out(up, &new, (&knobs, &qdiscs), &mut before, there, &served) {
        Ok(()) => {
            let mut plan = lock(&up.plan);
            // The file's number of queues is what there is now.
            (plan.config, plan.served) = (new, served);
            Ok(if done.is_empty() { "nothing changed".to_owned() } else { done.join(", ") })
        }
        Err(why) => {
            let back = Changes::between(&new, &old);
            let left = undo(up, &old, before, back, &was_served);
            let left: Vec<String> =
                left.into_iter().map(|e| format!("and could not be put back: {e}")).collect();
            let end =
                if left.is_empty() { "nothing was changed".to_owned() } else { left.join("; ") };
            Err(format!("{why}; {end}"))
        }
    }
}

/// Knobs and places for disciplines, with their values from before.
type Before = Vec<(String, String)>;

/// Changes everything, what is most easily refused and undone first. The knobs and disciplines that it
/// has set stand in `before` with their old values.
fn carry_out(
    up: &mut Up,
    new: &Config,
    (knobs, qdiscs): (&[(Setting, At)], &[Discipline]),
    before: &mut Before,
    changes: Changes,
    served: &[Arc<Served>],
) -> Result<(), String> {
    set_filters(up, new)?;
    control::set_channels(up, new.queues)?;
    for (setting, at) in knobs {
        let was = control::get(up, setting.path)?;
        control::set(up, setting.path, &setting.value).map_err(|e| at.wrong(e))?;
        before.push((setting.path.to_owned(), was));
    }
    for (place, spec, at) in qdiscs {
        let was = control::get(up, place)?;
        control::set(up, place, spec).map_err(|e| at.wrong(e))?;
        before.push((place.clone(), was));
    }
    let wrong = in_shards(up, changes, served);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Changes everything back, the last first; what could not be.
fn undo(
    up: &mut Up,
    old: &Config,
    before: Before,
    back: Changes,
    served: &[Arc<Served>],
) -> Vec<String> {
    let mut left = in_shards(up, Changes { again: true, ..back }, served);
    for (path, value) in before.into_iter().rev() {
        left.extend(control::set(up, &path, &value).err().map(|e| format!("{path}: {e}")));
    }
    left.extend(control::set_channels(up, old.queues).err());
    left.extend(set_filters(up, old).err());
    left
}

/// Has the devices send us what is ours by this configuration.
fn set_filters(up: &mut Up, config: &Config) -> Result<(), String> {
    let Some(changes) = &mut up.changes else { return Ok(()) };
    let mut each = up.devices.iter().zip(&config.devices);
    each.try_for_each(|(opened, device)| opened.set_filter(config, device, changes))
}

/// Changes every shard; what they refuse, each thing once.
fn in_shards(up: &Up, changes: Changes, served: &[Arc<Served>]) -> Vec<String> {
    let served = served.to_vec();
    let refused = up.workers.ask_all(move |drive, app| {
        let mut wrong = changes.apply(&mut drive.shard);
        wrong.extend(app.replace(&mut drive.shard, &served).err());
        wrong
    });
    let mut wrong: Vec<String> = refused.into_iter().flatten().collect();
    wrong.sort();
    wrong.dedup();
    wrong
}

fn count(done: &mut Vec<String>, n: usize, what: &str) {
    let plural = match what {
        "address" => "addresses".to_owned(),
        what => format!("{what}s"),
    };
    match n {
        0 => {}
        1 => done.push(format!("1 {what}")),
        n => done.push(format!("{n} {plural}")),
    }
}

/// Whether a configuration has this very service.
fn has(config: &Config, service: &Service) -> bool {
    let same =
        |s: &Service| (s.addr, s.port, &s.kind) == (service.addr, service.port, &service.kind);
    config.services.iter().any(same)
}

/// What can not change while it runs.
pub(super) fn may_change(old: &Config, new: &Config) -> Result<(), String> {
    let start = "stop this instance and start it anew for that";
    let names = |c: &Config| c.devices.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
    if names(old) != names(new) {
        let (was, is) = (names(old).join(" "), names(new).join(" "));
        let at = new.devices.first().map_or_else(At::default, |d| d.at.clone());
        return Err(at.wrong(format!("the devices were {was} and are {is} now: {start}")));
    }
    for (was, is) in old.devices.iter().zip(&new.devices) {
        let Device { backend, mtu, .. } = *is;
        if was.xdp != is.xdp {
            let text = |xdp: &Option<String>| xdp.clone().unwrap_or("none".to_owned());
            let (was, xdp) = (text(&was.xdp), text(&is.xdp));
            return Err(is
                .at
                .wrong(format!("the XDP program was {was} and is {xdp} now: {start}")));
        }
        if was.backend != backend {
            let (was, is_now) = (was.backend.name(), backend.name());
            return Err(is.at.wrong(format!("the backend was {was} and is {is_now} now: {start}")));
        }
        if was.mtu != mtu {
            let text =
                |mtu: Option<u32>| mtu.map_or("the interface's own".to_owned(), |m| m.to_string());
            let (was, mtu) = (text(was.mtu), text(mtu));
            return Err(is.at.wrong(format!(
                "the MTU was {was} and is {mtu} now, and is set when the device is opened: {start}"
            )));
        }
    }
    if old.cpus != new.cpus {
        return Err(format!("cpus: workers stay on their processors: {start}"));
    }
    if new.name.is_some() && old.name != new.name {
        return Err(format!("name: an instance keeps its name: {start}"));
    }
    Ok(())
}

/// Knobs that have another value now: those that were set and are not any more get their default.
fn changed_knobs(old: &Config, new: &Config) -> Vec<(Setting, At)> {
    let of = |c: &Config, path: &str| {
        c.knobs.iter().find(|(s, _)| s.path == path).map(|(s, _)| s.value.clone())
    };
    let come = new.knobs.iter().filter(|(s, _)| of(old, s.path).as_ref() != Some(&s.value));
    let gone = old.knobs.iter().filter(|(s, _)| of(new, s.path).is_none()).map(|(s, at)| {
        let value = Knobs::default().get(s.path).unwrap_or_default();
        (Setting { path: s.path, value }, at.clone())
    });
    come.cloned().chain(gone).collect()
}

/// A place for a discipline, what is asked for there, and where that was written.
type Discipline = (String, String, At);

/// Places whose disciplines are others now, and what is asked for there: what was asked for and is not
/// any more is taken away.
fn changed_qdiscs(old: &Config, new: &Config) -> Vec<Discipline> {
    let mut changed = Vec::new();
    for (was, is) in old.devices.iter().zip(&new.devices) {
        for ((place, is_now), (_, before)) in is.qdiscs().into_iter().zip(was.qdiscs()) {
            if is_now != before {
                let spec = is_now.map_or_else(|| "none".to_owned(), Tree::text);
                changed.push((place, spec, is.at.clone()));
            }
        }
    }
    changed
}

type Addrs = Vec<(u8, HostAddr)>;

/// Addresses that go, and that come, with the numbers of their devices.
fn differing_addrs(old: &Config, new: &Config) -> (Addrs, Addrs) {
    let all = |c: &Config| -> Addrs {
        let each = c.devices.iter().enumerate();
        each.flat_map(|(i, d)| d.addrs.iter().map(move |(a, _)| (i as u8, *a))).collect()
    };
    let (was, is) = (all(old), all(new));
    let gone = was.iter().filter(|a| !is.contains(a)).copied().collect();
    let come = is.iter().filter(|a| !was.contains(a)).copied().collect();
    (gone, come)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::args::DevBackend;
    use crate::up::file;
    use std::path::Path;

    fn config(text: &str) -> Config {
        let device = "[[device]]\nname = \"v0\"\naddresses = [\"10.9.0.2/24\"]\n";
        file::parse(Path::new("up.toml"), &format!("{text}\n{device}")).expect("a good file")
    }

    #[test]
    fn a_knob_that_is_not_in_the_file_any_more_gets_its_default() {
        let old = config("[knobs]\n\"net.core.netdev_budget\" = 600\nring.rx = 512");
        let new = config("[knobs]\nring.rx = 2048");
        let mut changed: Vec<(&str, String)> =
            changed_knobs(&old, &new).into_iter().map(|(s, _)| (s.path, s.value)).collect();
        changed.sort();
        let want = [("net.core.netdev_budget", "300"), ("ring.rx", "2048")];
        assert_eq!(changed, want.map(|(p, v)| (p, v.to_owned())));
    }

    #[test]
    fn a_discipline_that_is_not_in_the_file_any_more_is_taken_away() {
        let old = config("");
        let mut new = config("");
        new.devices[0].qdiscs.0 = Some(Tree::parse("pfifo limit 7").expect("a discipline"));
        let places = |old: &Config, new: &Config| -> Vec<(String, String)> {
            changed_qdiscs(old, new).into_iter().map(|(place, spec, _)| (place, spec)).collect()
        };
        let of = |spec: &str| vec![("qdisc.v0.root".to_owned(), spec.to_owned())];
        assert_eq!(places(&old, &new), of("pfifo limit 7p"));
        assert_eq!(places(&new, &old), of("none"));
        assert_eq!(places(&new, &new.clone()), []);
    }

    #[test]
    fn what_can_not_change_is_refused_with_what_to_do() {
        let old = config("");
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut new = config("");
            change(&mut new);
            may_change(&old, &new).expect_err("refused")
        };
        for why in [
            refused(&|c| c.devices[0].name = "v1".to_owned()),
            refused(&|c| c.devices[0].backend = DevBackend::Tap),
            refused(&|c| c.cpus = vec![1]),
            refused(&|c| c.name = Some("other".to_owned())),
        ] {
            assert!(why.contains("start it anew"), "{why}");
        }
        assert!(may_change(&old, &config("queues = 2")).is_ok());
    }
}

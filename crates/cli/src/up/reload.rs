//! SIGHUP: the file is read again, and what differs is changed while everything runs.
//!
//! Addresses, routes, knobs, services and the number of queues can change. Devices, their backends,
//! processors and the name can not; then a sentence says so and nothing changes at all.

use linerate_core::table::Knobs;

use super::config::{At, Config, Device};
use super::control;
use super::instance::{Up, core_route, lock, open_services};
use crate::args::{DevBackend, HostAddr, Setting};

/// Becomes what `new` says.
///
/// # Errors
/// A sentence; nothing was changed then.
pub(super) fn apply(up: &mut Up, mut new: Config) -> Result<String, String> {
    let old = lock(&up.plan).config.clone();
    may_change(&old, &new)?;
    let served = open_services(&new)?;
    if new.name.is_none() {
        new.name.clone_from(&old.name);
    }
    let knobs = changed_knobs(&old, &new);
    control::check_knobs(up, &knobs)?;
    // From here on nothing is refused that was judged before; what the stack refuses nevertheless is
    // told, and the rest is done.
    let mut wrong = Vec::new();
    let mut done = Vec::new();
    if new.queues != old.queues {
        match control::set_channels(up, new.queues) {
            Ok(()) => done.push(format!("{} queues", new.queues)),
            Err(e) => return Err(e),
        }
    }
    for (setting, at) in &knobs {
        if let Err(e) = control::set(up, setting.path, &setting.value) {
            wrong.push(at.wrong(e));
        }
    }
    count(&mut done, knobs.len(), "knob");
    let (gone, come) = differing_addrs(&old, &new);
    count(&mut done, gone.len() + come.len(), "address");
    let routes_gone: Vec<_> = old
        .routes
        .iter()
        .filter(|r| !new.routes.iter().any(|n| (n.to, &n.way) == (r.to, &r.way)))
        .map(core_route)
        .collect();
    let routes_come: Vec<_> = new
        .routes
        .iter()
        .filter(|r| !old.routes.iter().any(|o| (o.to, &o.way) == (r.to, &r.way)))
        .map(core_route)
        .collect();
    count(&mut done, routes_gone.len() + routes_come.len(), "route");
    let services = old.services.iter().filter(|s| !same_in(&new, s)).count()
        + new.services.iter().filter(|s| !same_in(&old, s)).count();
    count(&mut done, services, "service");
    {
        let mut plan = lock(&up.plan);
        plan.config = new;
        plan.served.clone_from(&served);
    }
    let failed = up.workers.ask_all(move |drive, app| {
        let shard = &mut drive.shard;
        let mut wrong = Vec::new();
        let mut note = |what: String, e: &dyn std::fmt::Display| wrong.push(format!("{what}: {e}"));
        for route in &routes_gone {
            // It went with its device's address, if it is not there.
            let _ = shard.del_route(route);
        }
        for (dev, addr) in &gone {
            if let Err(e) = shard.del_addr(*dev, addr.addr) {
                note(addr.to_string(), &e);
            }
        }
        for (dev, addr) in &come {
            if let Err(e) = shard.add_addr(*dev, addr.addr, addr.len) {
                note(addr.to_string(), &e);
            }
        }
        for route in &routes_come {
            if let Err(e) = shard.add_route(*route) {
                note(format!("the route to {}/{}", route.dst, route.prefix_len), &e);
            }
        }
        if let Err(e) = app.replace(shard, &served) {
            wrong.push(e);
        }
        wrong
    });
    wrong.extend(failed.into_iter().flatten());
    let config = lock(&up.plan).config.clone();
    if let Some(changes) = &mut up.changes {
        for (opened, device) in up.devices.iter().zip(&config.devices) {
            wrong.extend(opened.set_filter(&config, device, changes).err());
        }
    }
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    Ok(if done.is_empty() { "nothing changed".to_owned() } else { done.join(", ") })
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

fn same_in(config: &Config, service: &super::config::Service) -> bool {
    let same = |s: &super::config::Service| {
        (s.addr, s.port, &s.kind) == (service.addr, service.port, &service.kind)
    };
    config.services.iter().any(same)
}

/// What can not change while it runs.
fn may_change(old: &Config, new: &Config) -> Result<(), String> {
    let start = "stop this instance and start it anew for that";
    let names = |c: &Config| c.devices.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
    if names(old) != names(new) {
        let (was, is) = (names(old).join(" "), names(new).join(" "));
        let at = new.devices.first().map_or_else(At::default, |d| d.at.clone());
        return Err(at.wrong(format!("the devices were {was} and are {is} now: {start}")));
    }
    for (was, is) in old.devices.iter().zip(&new.devices) {
        let Device { backend, mtu, .. } = *is;
        if was.backend != backend {
            let (was, is_now) = (was.backend.name(), backend.name());
            return Err(is.at.wrong(format!("the backend was {was} and is {is_now} now: {start}")));
        }
        if was.mtu != mtu && backend != DevBackend::Auto {
            return Err(is.at.wrong(format!("the MTU is decided when it is opened: {start}")));
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

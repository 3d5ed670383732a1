//! Disciplines by the names of their places: `qdisc.DEV.root` and `qdisc.DEV.ingress`; and the one that
//! devices begin with.
//!
//! Linux: net/sched/sch_generic.c `attach_default_qdiscs`, net/sched/sch_api.c `qdisc_set_default`

use super::run::place;
use super::{SpecError, Tree};
use crate::link::L2;
use crate::shard::Shard;
use crate::table::knob::SetError;

/// A place for a discipline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    /// The device.
    pub dev: &'a str,
    /// On receive, between the device and the path, instead of on transmit.
    pub ingress: bool,
}

impl<'a> At<'a> {
    /// The place that a path names; `None` if it is not of this form (`/` is taken for `.`, too, as
    /// sysctl takes it).
    pub fn parse(path: &'a str) -> Option<At<'a>> {
        let rest = path.strip_prefix("qdisc.").or_else(|| path.strip_prefix("qdisc/"))?;
        let (dev, hook) = rest.rsplit_once(['.', '/'])?;
        let ingress = match hook {
            "root" => false,
            "ingress" => true,
            _ => return None,
        };
        (!dev.is_empty()).then_some(At { dev, ingress })
    }
}

/// Reads what is wanted at a place; `None`: what is there is to go (`tc qdisc del`). On receive nothing
/// takes its place, on transmit what `net.core.default_qdisc` says.
///
/// # Errors
/// [`SpecError`].
pub fn wanted(ingress: bool, spec: &str) -> Result<Option<Tree>, SpecError> {
    match spec.trim() {
        "none" | "del" => Ok(None),
        "noqueue" if ingress => Ok(None),
        spec => Tree::parse(spec).map(Some),
    }
}

impl Shard {
    /// The number of the device called `name`.
    ///
    /// # Errors
    /// [`SetError::Qdisc`] (ENODEV).
    fn dev_named(&self, path: &str, name: &str) -> Result<u8, SetError> {
        let at = self.net.ifaces.iter().position(|i| i.name == name);
        at.map(|at| at as u8).ok_or_else(|| {
            let names: Vec<&str> = self.net.ifaces.iter().map(|i| &*i.name).collect();
            let have = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let why = format!("no device is called {name:?}; there is {have}");
            SetError::Qdisc { path: path.to_owned(), why }
        })
    }

    /// Gives the place that `path` names the discipline `spec`: [`Shard::set_qdisc`] and
    /// [`Shard::set_rx_qdisc`] by name.
    ///
    /// # Errors
    /// [`SetError::Qdisc`] (EINVAL, ENODEV); nothing changes then.
    pub fn set_qdisc_at(&mut self, path: &str, at: At<'_>, spec: &str) -> Result<(), SetError> {
        let wrong =
            |why: SpecError| SetError::Qdisc { path: path.to_owned(), why: why.to_string() };
        let tree = wanted(at.ingress, spec).map_err(wrong)?;
        let dev = self.dev_named(path, at.dev)?;
        if let Some(tree) = &tree {
            let place = place(&self.net.ifaces[dev as usize], &self.net.knobs);
            tree.check(place).map_err(wrong)?;
        }
        match &tree {
            tree if at.ingress => self.set_rx_qdisc(dev, tree.as_ref()),
            Some(tree) => self.set_qdisc(dev, tree),
            None => self.set_qdisc(dev, &self.default_qdisc()),
        }
        Ok(())
    }

    /// What `net.core.default_qdisc` says. As in the kernel it has no handle, so that nothing can be
    /// hung below it.
    fn default_qdisc(&self) -> Tree {
        let tree = Tree::parse(self.net.knobs.default_qdisc.name());
        Tree { handle: 0, ..tree.expect("what can be a default needs no parameters") }
    }

    /// Gives a device that was just opened its discipline (`attach_default_qdiscs`). What never leaves
    /// does not wait.
    pub(crate) fn attach_default_qdisc(&mut self, dev: u8) {
        let tree = self.default_qdisc();
        let l2 = self.net.ifaces.get(dev as usize).map(|iface| iface.l2);
        if !tree.is_default() && l2.is_some_and(|l2| l2 != L2::Loopback) {
            self.set_qdisc(dev, &tree);
        }
    }

    /// The discipline at the place that `path` names, as it would be asked for.
    ///
    /// # Errors
    /// [`SetError::Qdisc`] (ENODEV).
    pub fn qdisc_at(&self, path: &str, at: At<'_>) -> Result<String, SetError> {
        let iface = &self.net.ifaces[self.dev_named(path, at.dev)? as usize];
        Ok(match at.ingress {
            false => iface.qdisc.as_ref().map_or_else(|| "pfifo_fast".to_owned(), Tree::text),
            true => iface.rx_qdisc.as_ref().map_or_else(|| "none".to_owned(), |s| s.tree.text()),
        })
    }
}

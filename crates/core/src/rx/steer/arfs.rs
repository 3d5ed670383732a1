//! Accelerated RFS: what RFS decided is written into the device, so that the flow's packets arrive
//! where its reader is and need no hop between shards.
//!
//! Linux: net/core/dev.c `set_rps_cpu`, `rps_may_expire_flow`; `ndo_rx_flow_steer`

use std::collections::VecDeque;

use super::hash::FlowKeys;
use super::ntuple::Rule;
use super::rfs::{DevFlows, NO_FILTER};
use super::rps::Progress;
use crate::shard::{Net, Shard};
use crate::table::count::id;

/// Rules of accelerated RFS have locations from here on, behind all that users set.
const LOCATIONS: u32 = 1 << 31;
/// Rules of one shard that may be in its devices.
const RULES_MAX: usize = 8192;

/// A rule for a device to take, or to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleWanted {
    /// The device, by its number here.
    pub dev: u8,
    /// The rule's location.
    pub location: u32,
    /// The rule; `None`: the one there is to go.
    pub rule: Option<Rule>,
}

/// The rules of a shard.
#[derive(Default)]
pub(super) struct Filters {
    wanted: VecDeque<RuleWanted>,
    /// Those that a device has, or is to have: the device and the place in its table of flows.
    live: VecDeque<(u8, u32)>,
}

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
    /// Asks for a rule that sends the flow at `slot` to the queue of shard `cpu`.
    #[cold]
    pub fn want(&mut self, dev: u8, slot: u32, keys: &FlowKeys, cpu: u8, flows: &mut DevFlows) {
        let Some(rule) = Rule::exact(keys, cpu) else { return };
        let Some(flow) = flows.flows.get_mut(slot as usize) else { return };
        let location = LOCATIONS | slot;
        if !flow.live {
            if self.live.len() >= RULES_MAX {
                return;
            }
            self.live.push_back((dev, slot));
        }
        (flow.live, flow.filter) = (true, location);
        self.wanted.push_back(RuleWanted { dev, location, rule: Some(rule) });
    }
}

/// Looks at the rule that was not looked at for the longest time: does it still serve?
#[cold]
pub(super) fn expire(net: &mut Net) {
    let Some((dev, slot)) = net.steer.rules.live.pop_front() else { return };
    let own = (net.backlog.own_tail(), net.backlog.own_head());
    let steer = &mut net.steer;
    let Some(mesh) = steer.mesh.as_deref() else { return };
    let at = Progress { mesh, cpu: net.cpu, sent: &steer.sent, own, pending: steer.out_to };
    let flows = steer.dev_flows.get_mut(dev as usize);
    let kept = net.knobs.ntuple
        && flows.as_ref().is_some_and(|f| !f.may_expire(slot, LOCATIONS | slot, &at));
    if kept {
        return steer.rules.live.push_back((dev, slot));
    }
    if let Some(flow) = flows.and_then(|f| f.flows.get_mut(slot as usize)) {
        (flow.live, flow.filter) = (false, NO_FILTER);
    }
    steer.rules.wanted.push_back(RuleWanted { dev, location: LOCATIONS | slot, rule: None });
}

impl Shard {
    /// The next rule for a device to take or to forget; [`Shard::rule_done`] is told how it went.
    pub fn take_rule(&mut self) -> Option<RuleWanted> {
        self.net.steer.rules.wanted.pop_front()
    }
    /// The device took the rule, or refused it. What is refused is asked for again when the flow next
    /// changes shards.
    pub fn rule_done(&mut self, rule: &RuleWanted, taken: bool) {
        let net = &mut self.net;
        match (&rule.rule, taken) {
            (Some(_), true) => net.counts.inc(id::ArfsFiltersAdded),
            (None, _) => net.counts.inc(id::ArfsFiltersExpired),
            (Some(_), false) => {
                let slot = rule.location & !LOCATIONS;
                net.steer.rules.live.retain(|live| *live != (rule.dev, slot));
                let flows = net.steer.dev_flows.get_mut(rule.dev as usize);
                if let Some(flow) = flows.and_then(|f| f.flows.get_mut(slot as usize)) {
                    (flow.live, flow.filter) = (false, NO_FILTER);
                }
            }
        }
    }
}

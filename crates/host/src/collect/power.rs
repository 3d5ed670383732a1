//! What processors do to save energy.

use super::{At, Want};
use crate::proc::{CPUS_MAX, power};

/// An idle state of a processor: its place in the directory, its name, what it takes to leave it.
#[derive(Debug)]
pub(super) struct Idle {
    cpu: u32,
    place: String,
    name: String,
    latency_us: u64,
}

impl At<'_> {
    pub(super) fn power(&mut self) {
        for name in self.source.list(power::POLICIES).unwrap_or_default() {
            let policy = name.strip_prefix("policy").and_then(|n| n.parse::<u32>().ok());
            let Some(policy) = policy.filter(|n| *n < CPUS_MAX) else { continue };
            for file in power::POLICY {
                let name = format!("{}/{name}/{file}", power::POLICIES);
                self.file(&name, Want::MayBe, |b, into| power::policy(policy, file, b, into));
            }
        }
        let states = match self.known.idle.take() {
            Some(states) => states,
            None => self.idle_states(),
        };
        for state in &states {
            let dir = format!("{}/{}", power::idle_dir(state.cpu), state.place);
            let disable = self.source.read(&format!("{dir}/disable")).unwrap_or_default();
            let known = (state.name.as_str(), state.latency_us);
            self.file(&format!("{dir}/time"), Want::MayBe, |time, into| {
                power::idle(state.cpu, &state.place, known, (&disable, time), into);
            });
        }
        self.known.idle = Some(states);
    }

    /// Those that take some time to leave: names and times do not change.
    fn idle_states(&mut self) -> Vec<Idle> {
        let mut all = Vec::new();
        for cpu in self.into.host.cpus.clone() {
            let dir = power::idle_dir(cpu);
            for place in self.source.list(&dir).unwrap_or_default() {
                let mut read = |file: &str| self.source.read(&format!("{dir}/{place}/{file}")).ok();
                let (Some(name), Some(latency)) = (read("name"), read("latency")) else { continue };
                if let Some((name, latency_us)) = power::state(&name, &latency)
                    && latency_us >= power::SHALLOW_US
                {
                    all.push(Idle { cpu, place, name, latency_us });
                }
            }
        }
        all
    }
}

//! Devices, their queues and their interrupts.

use std::collections::BTreeSet;

use super::{At, Tier, Want};
use crate::proc::class_net::{self, Side};
use crate::proc::{ethtool, interrupts, iproute, mib, netdev, sysctl};
use crate::snapshot::Dev;

impl At<'_> {
    /// What an archive has in place of netlink's answers.
    fn archived(&mut self) {
        let names: Vec<String> = self.into.devs.keys().cloned().collect();
        for (dev, option) in names.iter().flat_map(|d| ethtool::OPTIONS.map(|option| (d, option))) {
            let name = ethtool::file(option, dev);
            self.file(&name, Want::MayBe, |b, into| ethtool::printed(option, dev, b, into));
        }
    }

    /// What netlink does not tell of devices, and all of them where there is no netlink.
    pub(super) fn devices(&mut self, tier: Tier) {
        if self.into.devs.is_empty() {
            self.untold_devices();
            if !self.source.is_live() {
                self.archived();
            }
        }
        if tier == Tier::Basic {
            return;
        }
        let names: Vec<String> = self.into.devs.keys().cloned().collect();
        for dev in &names {
            self.attrs(dev, class_net::SETTINGS);
            let name = format!("proc/net/dev_snmp6/{dev}");
            self.file(&name, Want::MayBe, |bytes, into| mib::dev_snmp6(dev, bytes, into));
            for path in sysctl::DEV_NAMES {
                let path = path.replace("{}", dev);
                let name = format!("proc/sys/{path}");
                self.file(&name, Want::MayBe, |bytes, into| sysctl::sysctl(&path, bytes, into));
            }
        }
    }

    /// Devices by files alone.
    fn untold_devices(&mut self) {
        if !self.source.is_live() {
            self.file(iproute::LINK, Want::MayBe, iproute::link);
            self.file(iproute::QDISC, Want::MayBe, iproute::qdisc);
        }
        self.file("proc/net/dev", Want::Always, netdev::dev);
        match self.source.list("sys/class/net") {
            Ok(names) => {
                for name in names.iter().filter(|name| netdev::is_name(name)) {
                    self.into.devs.entry(name.clone()).or_insert_with(|| Dev::named(name));
                }
            }
            Err(err) => self.failed("sys/class/net", Want::Always, &err),
        }
        let names: Vec<String> = self.into.devs.keys().cloned().collect();
        for dev in &names {
            self.attrs(dev, class_net::ATTRS);
        }
        // When all indices are known, for that of the master is looked up.
        for dev in &names {
            self.attrs(dev, &["master/ifindex"]);
            self.statistics(dev);
        }
    }

    fn attrs(&mut self, dev: &str, files: &[&str]) {
        for file in files {
            let name = format!("sys/class/net/{dev}/{file}");
            self.file(&name, Want::MayBe, |bytes, into| class_net::attr(dev, file, bytes, into));
        }
    }

    /// Each of these files costs the kernel all of them, but only they are not folded together.
    fn statistics(&mut self, dev: &str) {
        let folded = self.into.devs.get_mut(dev).map(|d| std::mem::take(&mut d.stats));
        for file in class_net::STATISTICS {
            let name = format!("sys/class/net/{dev}/statistics/{file}");
            self.file(&name, Want::MayBe, |bytes, into| {
                class_net::statistic(dev, file, bytes, into)
            });
        }
        if let (Some(of), Some(folded)) = (self.into.devs.get_mut(dev), folded)
            && of.stats.is_empty()
        {
            of.stats = folded;
        }
    }

    pub(super) fn queues(&mut self) {
        let names: Vec<String> = self.into.devs.keys().cloned().collect();
        for dev in &names {
            let dir = format!("sys/class/net/{dev}/queues");
            let queues = self.source.list(&dir).unwrap_or_else(|err| {
                self.failed("sys/class/net", Want::MayBe, &err);
                Vec::new()
            });
            for queue in queues {
                let Some((side, _)) = class_net::queue_number(&queue) else { continue };
                let files =
                    if side == Side::Rx { class_net::RX_QUEUE } else { class_net::TX_QUEUE };
                for file in files {
                    self.queue_file(dev, &format!("{queue}/{file}"));
                }
                if side == Side::Tx {
                    for file in class_net::BQL {
                        self.queue_file(dev, &format!("{queue}/byte_queue_limits/{file}"));
                    }
                }
            }
        }
    }

    fn queue_file(&mut self, dev: &str, file: &str) {
        let name = format!("sys/class/net/{dev}/queues/{file}");
        self.file(&name, Want::MayBe, |bytes, into| class_net::queue(dev, file, bytes, into));
    }

    /// Gives interrupts to devices.
    pub(super) fn interrupts(&mut self) {
        self.file("proc/interrupts", Want::Always, interrupts::interrupts);
        let devs = self.into.devs.values().map(|d| (d.name.clone(), d.ifindex)).collect();
        let now = (devs, self.into.irqs.keys().copied().collect());
        if self.known.irqs_of != now {
            self.known.irqs = self.irqs_of_devs();
            self.known.irqs_of = now;
        }
        for (dev, irqs) in &self.known.irqs {
            for irq in irqs {
                if let Some(of) = self.into.irqs.get_mut(irq) {
                    of.dev = Some(dev.clone());
                }
            }
            if let Some(of) = self.into.devs.get_mut(dev) {
                of.irqs.clone_from(irqs);
            }
        }
    }

    /// The interrupts of each device: what sysfs says; where there is no sysfs, what their names say.
    fn irqs_of_devs(&mut self) -> Vec<(String, Vec<u32>)> {
        let names: Vec<String> = self.into.devs.keys().cloned().collect();
        let mut all: Vec<(String, BTreeSet<u32>)> = Vec::new();
        let mut any = false;
        for dev in names {
            let mut dirs = vec![format!("sys/class/net/{dev}/device/msi_irqs")];
            // A virtio device lies below the PCI device that has the interrupts; the parent of others
            // is a bridge, which has some of its own.
            if self.into.devs.get(&dev).is_some_and(|d| d.driver.starts_with("virtio")) {
                dirs.push(format!("sys/class/net/{dev}/device/../msi_irqs"));
            }
            let found = dirs.iter().find_map(|dir| self.source.list(dir).ok()).unwrap_or_default();
            // Netlink may have told which interrupts its queues have.
            let told = self.into.devs.get(&dev).map(|d| d.irqs.clone()).unwrap_or_default();
            let irqs = found.iter().filter_map(|n| n.parse().ok()).chain(told);
            let irqs: BTreeSet<u32> = irqs.filter(|irq| self.into.irqs.contains_key(irq)).collect();
            any |= !irqs.is_empty();
            all.push((dev, irqs));
        }
        for (dev, irqs) in all.iter_mut().filter(|_| !any) {
            let named = self.into.irqs.values().filter(|i| interrupts::names(&i.actions, dev));
            irqs.extend(named.map(|i| i.irq));
        }
        all.retain(|(_, irqs)| !irqs.is_empty());
        all.into_iter().map(|(dev, irqs)| (dev, irqs.into_iter().collect())).collect()
    }

    pub(super) fn affinity(&mut self) {
        let irqs: Vec<u32> =
            self.into.irqs.values().filter(|i| i.dev.is_some()).map(|i| i.irq).collect();
        for irq in irqs {
            for file in interrupts::FILES {
                let name = format!("proc/irq/{irq}/{file}");
                self.file(&name, Want::MayBe, |bytes, into| {
                    interrupts::irq(irq, file, bytes, into)
                });
            }
        }
    }
}

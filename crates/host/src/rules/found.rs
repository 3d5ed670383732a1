//! A finding, put together word by word.

use super::Rule;
use super::advice;
use crate::change::Change;
use crate::finding::{Evidence, Finding, Risk, Severity, Value};
use crate::window::{Cx, Sum};

/// A finding in the making.
pub(super) struct Found<'c, 'a> {
    cx: &'c Cx<'a>,
    finding: Finding,
}

impl Rule {
    /// Begins a finding about `subject` (a device, a processor, a socket; empty: the host).
    pub(super) fn found<'c, 'a>(
        &self,
        cx: &'c Cx<'a>,
        subject: impl Into<String>,
    ) -> Found<'c, 'a> {
        let subject = subject.into();
        let title = match subject.as_str() {
            "" => sentence(self.title),
            subject => format!("{subject}: {}", self.title),
        };
        let finding = Finding {
            id: self.id,
            name: self.name,
            title,
            stage: self.stage,
            severity: Severity::Info,
            lifetime: cx.whole().is_lifetime(),
            loss_per_s: 0.0,
            subject,
            evidence: Vec::new(),
            cause: String::new(),
            advice: Vec::new(),
        };
        Found { cx, finding }
    }
}

/// With a capital at its begin.
pub(super) fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or(String::new(), |first| first.to_uppercase().chain(rest).collect())
}

impl Found<'_, '_> {
    /// Says more exactly what is wrong than the rule's title does.
    pub(super) fn titled(mut self, title: &str) -> Self {
        self.finding.title = match self.finding.subject.as_str() {
            "" => sentence(title),
            subject => format!("{subject}: {title}"),
        };
        self
    }

    /// Packets are lost now: the worst there is. Since boot: a warning.
    pub(super) fn loss(self, lost: &Sum) -> Self {
        self.loses(lost, Severity::Critical)
    }

    /// Packets are lost, but no more than is harmful at times, or by somebody else's doing.
    pub(super) fn stray(self, lost: &Sum) -> Self {
        self.loses(lost, Severity::Warning)
    }

    fn loses(mut self, lost: &Sum, severity: Severity) -> Self {
        self.finding.loss_per_s = lost.per_s;
        self.shows(lost).at(severity)
    }

    /// A limit is near, or time is lost.
    pub(super) fn warning(self) -> Self {
        self.at(Severity::Warning)
    }

    /// Sets the severity; what rests on counters since boot alone is one degree milder.
    pub(super) fn at(mut self, severity: Severity) -> Self {
        self.finding.severity = match (severity, self.finding.lifetime) {
            (Severity::Critical, true) => Severity::Warning,
            (_, true) => Severity::Info,
            (severity, false) => severity,
        };
        self
    }

    /// It is so at this moment, whatever the counters say: a single snapshot is as good as two.
    pub(super) fn state(mut self, severity: Severity) -> Self {
        self.finding.lifetime = false;
        self.finding.severity = severity;
        self
    }

    /// Counters that prove it.
    pub(super) fn shows(mut self, moved: &Sum) -> Self {
        self.finding.evidence.extend(moved.evidence.iter().cloned());
        self
    }

    /// The same, if it is known and moved.
    pub(super) fn shows_if(self, moved: Option<Sum>) -> Self {
        match moved {
            Some(moved) if moved.by > 0 => self.shows(&moved),
            _ => self,
        }
    }

    /// Something that is so.
    pub(super) fn is(mut self, source: &str, name: &str, value: impl Into<Value>) -> Self {
        self.finding.evidence.push(Evidence::state(source, name, value));
        self
    }

    /// A sysctl, if it is known.
    pub(super) fn sysctl(self, name: &str) -> Self {
        match self.cx.now().sysctls.get(name) {
            Some(value) => {
                let path = format!("/proc/sys/{}", crate::proc::sysctl::path(name));
                self.is(&path, name, value.as_str())
            }
            None => self,
        }
    }

    /// Which of the causes, and how that is known; sentences.
    pub(super) fn because(mut self, cause: impl AsRef<str>) -> Self {
        if !self.finding.cause.is_empty() {
            self.finding.cause.push(' ');
        }
        self.finding.cause += cause.as_ref();
        self
    }

    /// A setting to change, unless it is so already.
    pub(super) fn advise(mut self, what: &str, change: Change, risk: Risk) -> Self {
        self.finding.advice.extend(advice::of(self.cx.now(), what, change, risk));
        self
    }

    /// The same, if there is one.
    pub(super) fn advise_if(self, what: &str, change: Option<Change>, risk: Risk) -> Self {
        match change {
            Some(change) => self.advise(what, change, risk),
            None => self,
        }
    }

    /// Something to do that is no setting of this host.
    pub(super) fn suggest(mut self, what: impl Into<String>) -> Self {
        self.finding.advice.push(advice::words(what.into()));
        self
    }

    /// It is finished.
    pub(super) fn done(mut self) -> Finding {
        let now = self.cx.now();
        for evidence in &mut self.finding.evidence {
            evidence.source = now.really(&evidence.source);
        }
        let verify = advice::verify(&self.finding);
        for advice in &mut self.finding.advice {
            advice.verify.insert_str(0, &verify);
        }
        self.finding
    }
}

//! A host that is a table, for tests.

use std::collections::BTreeMap;
use std::io;

use linerate_core::table::Stage;

use super::{SetError, Settings};
use crate::change::Change;
use crate::finding::{Advice, Finding, Risk, Severity};

/// Sysctls by name; a value in `fixed` does not change, one in `rounded` becomes a power of two.
#[derive(Default)]
pub(crate) struct Model {
    pub values: BTreeMap<String, String>,
    pub fixed: Vec<String>,
    pub rounded: Vec<String>,
    pub refuses: Vec<String>,
    /// All that was written, in order.
    pub written: Vec<(String, String)>,
}

impl Model {
    pub fn new(values: &[(&str, &str)]) -> Model {
        let values = values.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Model { values, ..Model::default() }
    }
}

impl Settings for Model {
    fn get(&mut self, like: &Change) -> Result<Change, SetError> {
        let Change::Sysctl { name, .. } = like else { panic!("the model knows sysctls only") };
        match self.values.get(name) {
            Some(value) => Ok(sysctl(name, value)),
            None => Err(SetError { what: name.clone(), source: io::ErrorKind::NotFound.into() }),
        }
    }

    fn set(&mut self, change: &Change) -> Result<(), SetError> {
        let Change::Sysctl { name, value } = change else { panic!("sysctls only") };
        if self.refuses.contains(name) {
            let source = io::Error::from_raw_os_error(libc::EPERM);
            return Err(SetError { what: name.clone(), source });
        }
        let value = match value.parse::<u64>() {
            Ok(n) if self.rounded.contains(name) => n.next_power_of_two().to_string(),
            _ => value.clone(),
        };
        self.written.push((name.clone(), value.clone()));
        if !self.fixed.contains(name) {
            self.values.insert(name.clone(), value);
        }
        Ok(())
    }
}

pub(crate) fn sysctl(name: &str, value: &str) -> Change {
    Change::Sysctl { name: name.into(), value: value.into() }
}

/// A finding that advises these sysctls, the first the best.
pub(crate) fn finding(id: &'static str, advice: &[(&str, &str)]) -> Finding {
    let advice = advice.iter().map(|(name, value)| Advice {
        what: format!("Set {name}."),
        change: Some(sysctl(name, value)),
        command: sysctl(name, value).command(),
        persist: String::new(),
        verify: String::new(),
        rollback: String::new(),
        risk: Risk::Safe,
    });
    Finding {
        id,
        name: "of-a-test",
        title: String::new(),
        stage: Stage::SockQueue,
        severity: Severity::Critical,
        lifetime: false,
        loss_per_s: 1.0,
        subject: String::new(),
        evidence: Vec::new(),
        cause: String::new(),
        advice: advice.collect(),
    }
}
